"""Which of the downloaded files is what: pictures and annotations, by sequence and frame."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .sources import SourceFile

# The frame's number is the last in the file's name.
_FRAME = r"(?:[^/]*?\D)?(?P<frame>\d+)"
_PICTURE = _FRAME + r"\.(?:png|jpe?g|bmp)$"
_MASK = _FRAME + r"\.png$"
_SEQUENCE_17 = r"/(?:instrument_dataset_|seq_?)(?P<sequence>\d+)/"
_SEQUENCE_18 = r"/seq_?(?P<sequence>\d+)"
_LOOSE_PICTURES = r"/(?:images|JPEGImages)/seq_?(?P<sequence>\d+)[/_]" + _PICTURE

# In this order; the first that fits says what a file is.
_PATTERNS: dict[int, list[tuple[str, str]]] = {
    2017: [
        ("picture", _SEQUENCE_17 + r"left_frames?/" + _PICTURE),
        ("picture", _LOOSE_PICTURES),
        ("types", _SEQUENCE_17 + r"(?:ground_truth|gt)/TypeSegmentation/" + _MASK),
        ("other", _SEQUENCE_17 + r"(?:ground_truth|gt)/[^/]*Segmentation[^/]*/" + _MASK),
        ("instrument", _SEQUENCE_17 + r"(?:ground_truth|gt)/(?P<folder>[^/]+)/" + _MASK),
    ],
    2018: [
        # the name of the folder that was given, the first, is the user's and says nothing
        ("test", r"^/[^/]+/(?:.*/)?(?:[^/]*[\W_])?test(?:ing)?(?:[\W_][^/]*)?/(?:.*/)?seq_?\d+/"),
        ("picture", _SEQUENCE_18 + r"/left_frames?/" + _PICTURE),
        ("picture", _LOOSE_PICTURES),
        (
            "instance",
            r"/binary_annotations" + _SEQUENCE_18 + r"[/_](?:[^/]*?\D)?(?P<frame>\d+)_class(?P<type>\d+)"
            r"_inst(?P<instance>\d+)\.png$",
        ),
        ("types", r"/annotations" + _SEQUENCE_18 + r"[/_]" + _MASK),
    ],
}
_COMPILED = {
    year: [(what, re.compile(pattern, re.IGNORECASE)) for what, pattern in patterns]
    for year, patterns in _PATTERNS.items()
}


@dataclass(eq=False)
class FoundSequence:
    """The files of a sequence.

    Attributes
    ----------
    number : int
        As the challenge counts.
    pictures : dict of int to SourceFile
        By frame.
    types : dict of int to SourceFile
        By frame, an image whose pixels are classes.
    instruments : dict of int to dict of str to SourceFile
        By frame and instrument, a mask; instruments are told by their folder, the same in all frames.
    instances : dict of int to list of (int, SourceFile)
        By frame, classes with a mask; which of the frame before each is is not known.
    """

    number: int
    pictures: dict[int, SourceFile] = field(default_factory=dict)
    types: dict[int, SourceFile] = field(default_factory=dict)
    instruments: dict[int, dict[str, SourceFile]] = field(default_factory=dict)
    instances: dict[int, list[tuple[int, SourceFile]]] = field(default_factory=dict)

    @property
    def annotated(self) -> list[int]:
        """The frames that have an annotation of any kind."""
        return sorted(self.types.keys() | self.instruments.keys() | self.instances.keys())


def sort_files(files: Iterable[SourceFile], year: int) -> tuple[dict[int, FoundSequence], Counter[str]]:
    """Return the sequences by number, and how many files were of what kind; of several, the first counts."""
    sequences: dict[int, FoundSequence] = {}
    kinds: Counter[str] = Counter()
    for file in files:
        what, match = _kind(file, year)
        kinds[what] += 1
        if match is None or what in ("test", "other"):
            continue
        number, frame = int(match["sequence"]), int(match["frame"])
        found = sequences.setdefault(number, FoundSequence(number))
        if what == "picture":
            found.pictures.setdefault(frame, file)
        elif what == "types":
            found.types.setdefault(frame, file)
        elif what == "instance":
            there = found.instances.setdefault(frame, [])
            name = PurePosixPath(file.path).name
            # The same archive may be given twice, packed and unpacked.
            if all(PurePosixPath(other.path).name != name for _, other in there):
                there.append((int(match["type"]), file))
        else:
            found.instruments.setdefault(frame, {}).setdefault(match["folder"], file)
    return dict(sorted(sequences.items())), kinds


def _kind(file: SourceFile, year: int) -> tuple[str, re.Match[str] | None]:
    for what, pattern in _COMPILED[year]:
        if match := pattern.search(file.path):
            return what, match
    return "other", None
