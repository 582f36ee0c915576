"""Settings of where clips come from: the tables [[training]] and [[validation]]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from napari_surgsam2.errors import UsageError

from .tables import Table, tables


@dataclass(frozen=True)
class LabelPair(Table):
    """A video and its labels.

    Attributes
    ----------
    video : str
        Anything that `open_video` takes.
    labels : str
        Anything that `read_labels` takes, with one frame for each of the video's.
    sparse : bool, optional
        Whether frames without labels are ones that nobody has labelled, rather than ones without an object.
        If left out they count as ones without an object, unless it looks as if nobody had labelled them: then
        it must be set.
    void : int, optional
        The number of the pixels of which nobody can tell what they show, such as 255: they count for nothing.
        0 says that there are none, as is assumed if it is left out, unless labels of 8 bits look as if 255
        were void: then it must be set.
    axes, channel, z
        How the video is opened, as `open_video` takes them: which of several channels, and of a stack with
        time and depth which plane; the first channel and the middle plane if left out.
    """

    video: str
    labels: str
    sparse: bool | None = None
    void: int | None = None
    axes: str | None = None
    channel: int = 0
    z: int | None = None

    def __post_init__(self) -> None:
        self._require_text("video")
        self._require_text("labels")
        if self.sparse is not None:
            self._require_flag("sparse")
        if self.void is not None:
            self._require_integer("void", at_least=0)
        if self.axes is not None:
            self._require_text("axes")
        self._require_integer("channel", at_least=0)
        if self.z is not None:
            self._require_integer("z", at_least=0)


# What each kind of source needs, and what it may have besides.
_OPTIONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "synthetic": (("clips", "length", "size"), ("scenes", "seed")),
    "pool": (("folder", "clips", "length", "size"), ("scenes", "seed")),
    "vos": (("images", "annotations"), ("videos",)),
    "labels": (("pairs",), ()),
}


@dataclass(frozen=True)
class SourceSettings(Table):
    """Where clips come from; which of the other options are there depends on the kind.

    Attributes
    ----------
    kind : {"synthetic", "pool", "vos", "labels"}
        "synthetic": made when needed; "pool": made once and kept in a folder; "vos": folders of pictures and
        of annotations as PNGs, in which 255 of 8 bits is void; "labels": videos and label volumes.
    weight : float
        Share of the clips that come from here, relative to the other sources; for training only.
    scenes : tuple of str
        "synthetic", "pool": the kinds of scenes, as many clips of each; if empty the mix that `nano` begins
        with: laparoscopy, things and microscopy (`TRAINING_MIX`).
    seed : int
        "synthetic", "pool": the first clip's seed; the next clips have the next ones.
    clips : int
        "synthetic", "pool": how many clips there are.
    length : int
        "synthetic", "pool": frames in a clip; enough for [run] frames at the largest step of frame_step.
    size : tuple of 2 ints
        "synthetic", "pool": height and width.
    folder : str
        "pool": where the clips are kept.
    images, annotations : str
        "vos": the folders with a folder for each video, usually JPEGImages and Annotations.
    videos : tuple of str or str, optional
        "vos": names of the videos to use, or a text file with one name a line; all if left out.
    pairs : tuple of LabelPair
        "labels": the videos and their labels.
    """

    kind: Literal["synthetic", "pool", "vos", "labels"]
    weight: float = 1.0
    scenes: tuple[str, ...] | None = None
    seed: int | None = None
    clips: int | None = None
    length: int | None = None
    size: tuple[int, int] | None = None
    folder: str | None = None
    images: str | None = None
    annotations: str | None = None
    videos: tuple[str, ...] | str | None = None
    pairs: tuple[LabelPair, ...] | None = None

    def __post_init__(self) -> None:
        self._require_choice("kind", tuple(_OPTIONS))
        self._require_number("weight", above=True)
        needed, possible = _OPTIONS[self.kind]
        given = {
            f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None
        } - {"kind", "weight"}  # fmt: skip
        if strange := sorted(given - {*needed, *possible}):
            raise UsageError(
                f"{strange[0]} is set, but a source of kind {self.kind!r} has no such option; it has: "
                f"{', '.join((*needed, *possible))}."
            )
        if missing := [name for name in needed if name not in given]:
            raise UsageError(f"{missing[0]} is missing; a source of kind {self.kind!r} needs it.")
        if self.kind in ("synthetic", "pool"):
            self._check_clips()
        for name in ("folder", "images", "annotations"):
            if getattr(self, name) is not None:
                self._require_text(name)
        if isinstance(self.videos, str):
            self._require_text("videos")
        elif self.videos is not None:
            self._require_texts("videos")
            if not self.videos:
                raise self._refuse("videos", "a list of names that is not empty, or a text file")
        if self.pairs is not None:
            self._set("pairs", tables(LabelPair, "pairs", self.pairs))
            if not self.pairs:
                raise UsageError("pairs is empty; give at least one video and its labels.")

    def _check_clips(self) -> None:
        self._set("scenes", () if self.scenes is None else self.scenes)
        self._set("seed", 0 if self.seed is None else self.seed)
        self._require_texts("scenes")
        self._require_integer("seed", at_least=0)
        self._require_integer("clips", at_least=1)
        self._require_integer("length", at_least=1)
        self._require_integers("size", 32, ordered=False)


def source_at(source: SourceSettings, at: Callable[[str], str]) -> SourceSettings:
    """Return a source whose paths are what `at` makes of them."""
    changes: dict[str, Any] = {
        name: at(getattr(source, name))
        for name in ("folder", "images", "annotations")
        if getattr(source, name) is not None
    }
    if isinstance(source.videos, str):
        changes["videos"] = at(source.videos)
    if source.pairs is not None:
        changes["pairs"] = tuple(
            pair.replace(video=at(pair.video), labels=at(pair.labels)) for pair in source.pairs
        )
    return source.replace(**changes)
