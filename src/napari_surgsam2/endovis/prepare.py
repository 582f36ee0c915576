"""From the challenges' downloads to `VOS-Endovis17|18/{train,valid}/...`, as Surgical SAM 2 has it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.evaluation import ENDOVIS17_CLASSES, ENDOVIS18_CLASSES
from napari_surgsam2.files import made_aside, put_folder, writing
from napari_surgsam2.masks import refuse_to_replace, voc_palette

from .instances import InstanceNumbers, Piece
from .layout import FoundSequence, sort_files
from .sources import SourceFile, list_files
from .splits import validation_sequences

_CLASSES = {2017: ENDOVIS17_CLASSES, 2018: ENDOVIS18_CLASSES}
_FULL_SIZE, _CROPPED_SIZE = (1080, 1920), (1024, 1280)
_CROP = (slice(28, 28 + 1024), slice(320, 320 + 1280))  # the picture proper of 2017, within its black border
_FIRST_MASKS = "VOS/Annotations_vos_instrument"
_PUBLISHED = re.compile(
    r"/(?P<split>train|valid)/(?P<what>Annotations|VOS/[^/]+)/(?P<video>[^/]+)/(?P<file>[^/]+\.png)$",
    re.IGNORECASE,
)
_PREPARED = re.compile(r"/VOS-Endovis\d\d/", re.IGNORECASE)
_OWN_NAMES = {"train", "valid", "classes.json", "report.json"}


@dataclass
class VideoReport:
    """What was made of a sequence.

    Attributes
    ----------
    split : {"train", "valid"}
        Which it is in.
    name : str
        The video.
    frames, objects : int
        How many were written.
    without_picture, without_annotation : int
        Frames that were left out, for lack of one of them.
    """

    split: str
    name: str
    frames: int = 0
    objects: int = 0
    without_picture: int = 0
    without_annotation: int = 0


@dataclass
class Report:
    """What was found and skipped.

    Attributes
    ----------
    output : str
        The folder that was made.
    videos : list of VideoReport
        What is in it.
    skipped : list of str
        What was left out, and why.
    """

    output: str
    videos: list[VideoReport] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def prepare_endovis(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    year: int,
    *,
    annotations: str | os.PathLike[str] | None = None,
    split: str = "surgsam2",
    overwrite: bool = False,
    progress: Callable[[str, int, int], object] = lambda _video, _done, _total: None,
) -> Report:
    """Make a data folder for video object segmentation from the downloads of a challenge.

    Parameters
    ----------
    sources : sequence of path
        Folders, zips or tars as the challenge gives them out, and of 2018 ISINet's annotations of instrument
        types as well; in any order.
    output : path
        Where the folder `VOS-Endovis17` or `VOS-Endovis18` is to be; it appears when it is complete.
    year : {2017, 2018}
        Which challenge.
    annotations : path, optional
        The archive, or its folder, that Surgical SAM 2's authors publish: its annotations are taken as they
        are, with its split, and only the pictures come from `sources`.
    split : str
        One of `SPLITS`, if there are no `annotations`.
    overwrite : bool
        Replace an existing folder.
    progress : callable
        Called with a video's name, or of published annotations "annotations", and what is done and in all.

    Returns
    -------
    Report
        Also written into the folder, as `report.json`; beside it `classes.json` says which class each object
        has, unless the annotations were taken as they are.

    Raises
    ------
    UsageError
        If nothing can be made of the sources, or an argument is none of those possible.
    OutputError
        If the folder exists and is not to be replaced, or cannot be written.
    """
    validation = validation_sequences(year, split)
    target = Path(output).absolute() / f"VOS-Endovis{year % 100}"
    for source in [*sources, *([] if annotations is None else [annotations])]:
        refuse_to_replace([source], target)
    _check_target(target, overwrite)
    # what an earlier run made may lie among the downloads
    files = [f for source in sources for f in list_files(source) if not _PREPARED.search(f.path)]
    published = [] if annotations is None else list_files(annotations)
    sequences, kinds = sort_files([*files, *published], year)
    report = Report(str(target))
    if kinds["test"]:
        report.skipped.append(f"{kinds['test']} files of the test set of 2018, which has no instrument types")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with made_aside(target) as temporary:
            temporary.mkdir()
            writer = _Writer(temporary, year, report, progress)
            if annotations is None:
                for sequence in sequences.values():
                    writer.add(sequence, "valid" if sequence.number in validation else "train")
            else:
                writer.add_published(published, sequences)
            if not report.videos:
                raise UsageError(_nothing(year, annotations, report))
            writer.finish()
            _check_target(target, overwrite)  # again: somebody else may have made it meanwhile
            put_folder(temporary, target)
    return report


class _Writer:
    """Writes videos into a folder, and what it does into a report."""

    def __init__(
        self, folder: Path, year: int, report: Report, progress: Callable[[str, int, int], object]
    ) -> None:
        self._folder, self._year, self._report, self._progress = folder, year, report, progress
        self._objects: dict[str, dict[int, int]] = {}

    def add(self, sequence: FoundSequence, split: str) -> None:
        """Write a sequence with the annotations that came with it; say so if there are none."""
        name = f"seq_{sequence.number}"
        frames = [t for t in sequence.annotated if t in sequence.pictures]
        if not frames:
            self._report.skipped.append(f"{name}: {_lack(sequence, self._year)}")
            return
        video = VideoReport(
            split,
            name,
            without_picture=len(sequence.annotated) - len(frames),
            without_annotation=len(set(sequence.pictures) - set(sequence.annotated)),
        )
        numbers, seen = InstanceNumbers(), set[int]()
        known_sizes: set[tuple[int, int]] = set()
        place = self._folder / split
        try:
            for done, t in enumerate(frames, 1):
                size = self._write_picture(place / "JPEGImages" / name / f"{t:05}.jpg", sequence.pictures[t])
                pieces, shape = self._pieces(sequence, t)
                sizes = {size, shape, *(_shape(piece.mask) for piece in pieces), *known_sizes}
                if len(sizes) > 1:
                    raise _UnusableError(
                        f"pictures and annotations of frame {t}, or of that and the frames before, differ in "
                        f"size (height x width): {', '.join(f'{h} x {w}' for h, w in sorted(sizes))}"
                    )
                known_sizes = sizes
                labels = numbers.label(pieces, shape)
                _write_png(place / "Annotations" / name / f"{t:05}.png", labels)
                new = set(np.unique(labels).tolist()) - {0} - seen
                if new and split == "valid":
                    first = np.where(np.isin(labels, list(new)), labels, 0).astype(np.uint8)
                    _write_png(place / _FIRST_MASKS / name / f"{t:05}.png", first)
                seen |= new
                self._progress(name, done, len(frames))
        except _UnusableError as error:
            for kind in ("JPEGImages", "Annotations", _FIRST_MASKS):
                shutil.rmtree(place / kind / name, ignore_errors=True)
            self._report.skipped.append(f"{name}: {error}")
            return
        self._objects[name] = dict(numbers.types)
        video.frames, video.objects = len(frames), len(seen)
        self._report.videos.append(video)

    def add_published(self, published: list[SourceFile], sequences: dict[int, FoundSequence]) -> None:
        """Write annotations as they are, and a picture for each of them that has one in the sources."""
        videos: dict[tuple[str, str], VideoReport] = {}
        matches = [(file, match) for file in published if (match := _PUBLISHED.search(file.path))]
        for done, (file, match) in enumerate(matches, 1):
            split, name = match["split"].lower(), match["video"]
            place = self._folder / split
            copy = place / PurePosixPath(match["what"]) / name / match["file"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                copy.write_bytes(_read(file))
            except _UnusableError as error:
                self._report.skipped.append(f"{name}: {error}")
                continue
            if match["what"].lower() == "annotations":
                video = videos.setdefault((split, name), VideoReport(split, name))
                picture = _picture_of(name, Path(match["file"]).stem, sequences)
                if picture is None:
                    video.without_picture += 1
                    continue
                try:
                    self._write_picture(place / "JPEGImages" / name / f"{copy.stem}.jpg", picture)
                except _UnusableError as error:
                    self._report.skipped.append(f"{name}: {error}")
                    video.without_picture += 1
                    continue
                video.frames += 1
            self._progress("annotations", done, len(matches))
        for video in videos.values():
            if video.frames:
                self._report.videos.append(video)
            else:
                self._report.skipped.append(f"{video.name}: none of its pictures is in the sources")

    def finish(self) -> None:
        """Write the report, and the classes of the objects where they are known."""
        if self._objects:
            classes = {"classes": _CLASSES[self._year], "objects": self._objects}
            _write_json(self._folder / "classes.json", classes)
        _write_json(self._folder / "report.json", asdict(self._report))

    def _pieces(self, sequence: FoundSequence, t: int) -> tuple[list[Piece], tuple[int, int]]:
        """Return what is annotated in a frame, and the size (Y, X)."""
        classes = _CLASSES[self._year]
        pieces: list[Piece] = []
        for folder, file in sorted(sequence.instruments.get(t, {}).items()):
            if (type_id := _type_of_folder(folder)) is None:
                raise _UnusableError(f"the folder '{folder}' is named like none of the instruments")
            pieces.append(Piece(type_id, self._values(file) > 0, key=folder))
        for type_id, file in sequence.instances.get(t, []):
            if type_id in classes:  # others are anatomy and threads, or a stapler that ISINet leaves out
                pieces.append(Piece(type_id, self._values(file) > 0, is_whole=True))
        if t in sequence.types and not sequence.instruments.get(t):
            values = self._values(sequence.types[t])
            if values.max(initial=0) > max(classes):
                raise _UnusableError(
                    f"'{sequence.types[t].path}' has the value {values.max()}; classes are 1 to "
                    f"{max(classes)}"
                )
            # ISINet has masks of single instruments for some types only.
            single = {piece.type_id for piece in pieces}
            pieces += [Piece(i, values == i) for i in classes if i not in single and (values == i).any()]
            return pieces, _shape(values)
        if not pieces:  # only binary annotations, all of other things
            return [], _shape(self._values(sequence.instances[t][0][1]))
        return pieces, _shape(pieces[0].mask)

    def _values(self, file: SourceFile) -> NDArray[np.uint8]:
        """Return an annotation, cropped, (Y, X); of colours the highest."""
        values = _decode(file)
        values = values if values.ndim == 2 else values[..., :3].max(axis=-1)
        return self._crop(values.astype(np.uint8), file)

    def _crop(self, values: NDArray[np.uint8], file: SourceFile) -> NDArray[np.uint8]:
        size = values.shape[:2]
        if self._year != 2017 or size == _CROPPED_SIZE:
            return values
        if size != _FULL_SIZE:
            raise _UnusableError(
                f"'{file.path}' is {size[0]} x {size[1]} pixels (height x width); pictures of 2017 are "
                f"{_FULL_SIZE[0]} x {_FULL_SIZE[1]}, or {_CROPPED_SIZE[0]} x {_CROPPED_SIZE[1]} when cropped"
            )
        return values[_CROP]

    def _write_picture(self, target: Path, file: SourceFile) -> tuple[int, int]:
        """Write a picture, cropped; return its size (Y, X)."""
        target.parent.mkdir(parents=True, exist_ok=True)
        data = _read(file)
        values = _decode(file, data)
        cropped = self._crop(values, file)
        if cropped is values and file.name.lower().endswith((".jpg", ".jpeg")):
            target.write_bytes(data)
        else:
            colours = cropped if cropped.ndim == 2 else np.ascontiguousarray(cropped[..., :3])
            Image.fromarray(colours).save(target, quality=95, subsampling=0)
        height, width = cropped.shape[:2]
        return height, width


class _UnusableError(Exception):
    """A file of a sequence cannot be used, and so the sequence is left out."""


def _read(file: SourceFile) -> bytes:
    try:
        return file.read()
    except Exception as error:  # of a damaged archive, or of the disk that it is on
        raise _UnusableError(f"'{file.path}' cannot be read: {error}") from error


def _decode(file: SourceFile, data: bytes | None = None) -> NDArray[np.uint8]:
    """Return a picture's pixels, of palette pictures the indices."""
    try:
        with Image.open(io.BytesIO(file.read() if data is None else data)) as image:
            return np.array(image).astype(np.uint8)
    except Exception as error:  # damaged pictures make the decoders raise nearly anything
        raise _UnusableError(f"'{file.path}' cannot be read: {error}") from error


def _shape(values: NDArray[np.generic]) -> tuple[int, int]:
    height, width = values.shape
    return height, width


def _write_png(target: Path, labels: NDArray[np.uint8]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    image.save(target)


def _write_json(target: Path, values: object) -> None:
    target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _type_of_folder(folder: str) -> int | None:
    """Return the class of 2017 that a folder such as `Left_Prograsp_Forceps_labels` is named after."""
    words = folder.lower().replace("_", " ").replace("-", " ")
    if "curved scissors" in words:  # with or without "monopolar"
        return 6
    return next((i for i, name in ENDOVIS17_CLASSES.items() if name.lower() in words), None)


def _picture_of(video: str, frame: str, sequences: dict[int, FoundSequence]) -> SourceFile | None:
    """Return the picture that an annotation is of; video and frame are told by the numbers in their names."""
    numbers = [re.findall(r"\d+", text) for text in (video, frame)]
    if not all(numbers):
        return None
    sequence = sequences.get(int(numbers[0][-1]))
    return None if sequence is None else sequence.pictures.get(int(numbers[1][-1]))


def _lack(sequence: FoundSequence, year: int) -> str:
    if not sequence.pictures:
        return "there are annotations, and no pictures (left_frames)"
    if sequence.annotated:
        return "none of its pictures is annotated"
    if year == 2018:
        return "there are pictures, and no annotations of instrument types (get those of ISINet)"
    return "there are pictures, and no ground truth"


def _nothing(year: int, annotations: str | os.PathLike[str] | None, report: Report) -> str:
    wanted = {
        2017: "instrument_dataset_1/left_frames/frame000.png with ground_truth/<instrument>/frame000.png",
        2018: "seq_1/left_frames/frame000.png, and train/annotations/seq_1_frame000.png from ISINet",
    }[year]
    if annotations is not None:
        wanted = f"train/Annotations/seq_1/00000.png in '{annotations}', and its pictures in the sources"
    skipped = "".join(f" Skipped: {text}." for text in report.skipped)
    return (
        f"Nothing of EndoVis {year} was found; there must be {wanted}.{skipped} Check the paths and the year."
    )


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise OutputError(f"{target} exists already; choose another output, or replace it with --force.")
    strangers = sorted({e.name for e in target.iterdir()} - _OWN_NAMES) if target.is_dir() else [target.name]
    if strangers:
        raise OutputError(f"{target} is not replaced, not even with --force: it contains {strangers[0]}.")
