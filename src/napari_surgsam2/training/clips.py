"""Clips to train on, as they come from a source and as a training step gets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2.errors import UsageError
from napari_surgsam2.evaluation.vos_folder import some
from napari_surgsam2.video import Video

MOST_DRAWS = 100  # of clips until one shows an object in its first frame
VOID = -1  # in labels: pixels of which nobody says what they show
_HIDES = 32  # void as wide and high as this part of the picture may hide an object


@dataclass(frozen=True, eq=False)
class SampledClip:
    """A clip as it comes from a source; its first frame is annotated and shows an object.

    Attributes
    ----------
    frames : array, shape (T, Y, X, 3), uint8
        RGB.
    labels : array, shape (T, Y, X), integer
        0 is background, `VOID` counts for nothing; of no meaning in frames that are not annotated.
    annotated : array, shape (T,), bool
        The frames whose truth is known.
    """

    frames: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.integer]
    annotated: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """A clip as a training step gets it.

    Attributes
    ----------
    frames : tensor, shape (T, S, S, 3), uint8
        RGB.
    masks : tensor, shape (O, T, S, S), bool
        Of at least one object; all are seen in the first frame. False in frames that are not annotated, and
        where there is void.
    annotated : tensor, shape (T,), bool
        The frames whose truth is known.
    void : tensor, shape (T, S, S), bool, or None
        Pixels that count for nothing, the same for all objects; None without any.
    """

    frames: Tensor
    masks: Tensor
    annotated: Tensor
    void: Tensor | None = None


class Truth(Protocol):
    """Labels of a video, indexed by frame: an array (T, Y, X), or what reads frames when asked."""

    def __getitem__(self, t: int, /) -> npt.NDArray[Any]:
        """Return the labels (Y, X) of a frame: 0 is background, and `VOID` counts for nothing."""
        ...


class Newest:
    """Labels of a video, read when asked for; the newest frame is kept, as each object asks for it.

    Parameters
    ----------
    read : callable
        Returns the labels (Y, X) of a frame.
    """

    def __init__(self, read: Callable[[int], npt.NDArray[np.integer]]) -> None:
        self._read = read
        self._newest: tuple[int, npt.NDArray[np.integer]] | None = None

    def __getitem__(self, t: int) -> npt.NDArray[np.integer]:
        if self._newest is None or self._newest[0] != t:
            self._newest = t, self._read(t)
        return self._newest[1]


@dataclass(frozen=True, eq=False)
class ValidationVideo:
    """A whole video with its truth.

    Attributes
    ----------
    name : str
        What it is called in the scores.
    open : callable
        Returns the video, its labels and which frames are annotated (T,).
    """

    name: str
    open: Callable[[], tuple[Video, Truth, npt.NDArray[np.bool_]]]


class ClipSource(Protocol):
    """Where clips come from."""

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Draw a clip.

        Parameters
        ----------
        rng : numpy.random.Generator
            All that is random comes from it.
        frames : int
            Length T.
        frame_step : tuple of 2 ints
            The distance between two frames is drawn from this range; less where a video is too short.

        Raises
        ------
        UsageError
            If no clip shows an object in its first frame, or none is long enough.
        """
        ...

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return the videos in full; they are read when opened."""
        ...

    def summary(self, frames: int, frame_step: tuple[int, int] = (1, 1)) -> list[str]:
        """Say what there is, and what is not used and why, in a line or more.

        Parameters
        ----------
        frames, frame_step
            As of `sample`; 1 frame for whole videos.

        Raises
        ------
        UsageError
            If it cannot be meant as it is.
        """
        ...


def mark_void(labels: npt.NDArray[np.integer], value: int) -> npt.NDArray[np.integer]:
    """Return labels with `VOID` in the place of a value; where it is not among them just as they are."""
    void = labels == value
    if not void.any():
        return labels
    # Of the types that hold both the one that takes least; for 64 bits without a sign numpy knows none.
    signed = np.int64 if labels.dtype == np.uint64 else np.promote_types(labels.dtype, np.int8)
    out: npt.NDArray[np.integer] = labels.astype(signed)
    out[void] = VOID
    return out


def shows_object(labels: npt.NDArray[np.integer]) -> bool:
    """Whether there is an object in labels."""
    return bool((labels > 0).any())


def may_hide(void: Tensor) -> Tensor:
    """Say of pictures whether an object that is not seen may be in their void: where it is wide enough.

    Parameters
    ----------
    void : tensor, shape (B, H, W)
        Void pixels, or the share of each cell that is void.

    Returns
    -------
    tensor, shape (B,), bool
    """
    side = max(1, void.shape[-1] // _HIDES)
    least = -F.max_pool2d(-void[:, None].float(), (1, side), stride=1)
    wide: Tensor = -F.max_pool2d(-least, (side, 1), stride=1) >= 1
    return wide.flatten(1).any(1)


def draw_clip(
    rng: np.random.Generator,
    annotated: npt.NDArray[np.bool_],
    frames: int,
    frame_step: tuple[int, int],
    label: Callable[[int], npt.NDArray[np.integer]],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.integer]] | None:
    """Draw the frames of a clip whose first one shows an object, as long as there is one.

    Parameters
    ----------
    rng, annotated, frames, frame_step
        As of `draw_frames`.
    label : callable
        Returns the labels (Y, X) of a frame; none is asked for twice.

    Returns
    -------
    array of shape (frames,) and array of shape (Y, X), or None
        Numbers of frames, and the labels of the first.
    """
    starts = annotated.copy()
    while (chosen := draw_frames(rng, annotated, frames, frame_step, starts)) is not None:
        first = label(int(chosen[0]))
        if shows_object(first):
            return chosen, first
        starts[chosen[0]] = False
    return None


def draw_frames(
    rng: np.random.Generator,
    annotated: npt.NDArray[np.bool_],
    frames: int,
    frame_step: tuple[int, int],
    starts: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.intp] | None:
    """Draw the frames of a clip that starts with an annotated one.

    A step gives way to another one by which a clip comes upon a second annotated frame, if there is one.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the randomness comes from.
    annotated : array, shape (N,), bool
        The frames of the video whose truth is known.
    frames, frame_step
        As of `ClipSource.sample`.
    starts : array, shape (N,), bool, optional
        Those of the annotated frames that it may start with; all if left out.

    Returns
    -------
    array, shape (frames,), or None
        Numbers of frames; they fall where annotated frames have not enough others after them. None if there
        is no such clip.
    """
    starts = annotated if starts is None else starts
    longest = max(1, (len(annotated) - 1) // max(frames - 1, 1))
    if frames > len(annotated):
        return None
    drawn = min(int(rng.integers(frame_step[0], frame_step[1] + 1)), longest)
    smaller, larger = range(drawn, 0, -1), range(drawn + 1, min(frame_step[1], longest) + 1)
    for steps, again in (([*smaller, *larger], frames > 1), (smaller, False)):
        for step in steps:
            for offsets in (step * np.arange(frames), -step * np.arange(frames)):
                places = np.flatnonzero(starts)
                last = places + offsets[-1]
                places = places[(last >= 0) & (last < len(annotated))]
                if again and len(places):
                    places = places[annotated[places[:, None] + offsets[1:]].any(1)]
                if len(places):
                    return int(rng.choice(places)) + offsets
    return None


def has_clip(annotated: npt.NDArray[np.bool_], frames: int) -> bool:
    """Whether a video, whose truth is known in the frames (N,) `annotated`, has room for a clip."""
    return draw_frames(np.random.default_rng(0), annotated, frames, (1, 1)) is not None


def far_apart(
    videos: Sequence[tuple[str, npt.NDArray[np.bool_]]], frames: int, frame_step: tuple[int, int]
) -> list[str]:
    """Name the videos of which no clip comes upon a second annotated frame, and say what helps.

    Parameters
    ----------
    videos : sequence of pairs of str and array, shape (N,), bool
        The videos' names, and the frames whose truth is known.
    frames, frame_step
        As of `ClipSource.sample`.
    """
    if frames == 1:
        return []
    names, steps = [], []
    for name, annotated in videos:
        longest = (len(annotated) - 1) // (frames - 1)
        fits = (s for s in range(1, longest + 1) if _comes_upon_another(annotated, frames, s))
        smallest = next(fits, 0) if annotated.sum() > 1 else 0
        if not 0 < smallest <= frame_step[1]:
            names.append(name)
            steps.append(smallest)
    if not names:
        return []
    reach = f"a frame_step that goes up to {max(steps)}" if any(steps) else "another number of frames"
    count = f" ({len(names)} in all)" if len(names) > 3 else ""
    return [
        f"in {some(names)}{count} no clip of {frames} frames comes upon a second annotated frame, so that "
        f"nothing is learned there of how objects are tracked; set {reach} in [run], or annotate frames that "
        "lie closer together"
    ]


def _comes_upon_another(annotated: npt.NDArray[np.bool_], frames: int, step: int) -> bool:
    """Whether a clip that begins with an annotated frame and takes every `step`-th has another one."""
    starts = len(annotated) - step * (frames - 1)
    return any(
        bool((course[:starts] & course[step * k : step * k + starts]).any())
        for course in (annotated, annotated[::-1])
        for k in range(1, frames)
    )


def told(videos: int, annotated: int, unused: Mapping[str, Sequence[str]]) -> str:
    """Say how many videos and annotated frames there are, and the names of what is not used, by why not."""
    line = f"{videos} video{'s' * (videos != 1)}, {annotated} annotated frame{'s' * (annotated != 1)}"
    rest = [
        f"{some(names)} ({f'{len(names)} in all, ' if len(names) > 3 else ''}{why})"
        for why, names in unused.items()
        if names
    ]
    return f"{line}; not used: {'; '.join(rest)}" if rest else line


def require_clip(found: SampledClip | None, what: str, frames: int) -> SampledClip:
    """Return `found`, or raise UsageError where all draws were in vain."""
    if found is None:
        raise UsageError(
            f"No clip of {frames} frames from {what} begins with an annotated frame that shows an object; "
            "annotate more frames, or take fewer frames per clip."
        )
    return found
