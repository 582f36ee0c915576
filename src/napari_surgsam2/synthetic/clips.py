"""Clips from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import UsageError

from .scenes import SCENES, Scene

DEFAULT_SIZE = (512, 640)
# Raised whenever the same seed makes another clip, so that clips kept on disk are not taken for new ones.
GENERATOR_VERSION = 3
# What `nano` is trained on, and the share of each.
TRAINING_MIX = {"laparoscopy": 0.6, "things": 0.25, "microscopy": 0.15}


@dataclass(frozen=True, eq=False)
class SyntheticClip:
    """A made-up video and its exact ground truth.

    Attributes
    ----------
    video : array, shape (T, Y, X, 3), uint8
        RGB.
    labels : array, shape (T, Y, X), uint8
        0 is background; only what is in view is labelled.
    names : dict of int to str
        What each label is, also of those that are never in view.
    """

    video: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    names: dict[int, str]


def make_scene(
    seed: int,
    frames: int = 60,
    size: tuple[int, int] = DEFAULT_SIZE,
    scene: str = "laparoscopy",
    pace: float | None = None,
) -> Scene:
    """Make a scene whose frames can be drawn one by one; see `make_clip`."""
    if scene not in SCENES:
        raise UsageError(f"There is no kind of scene '{scene}'; there are: {', '.join(SCENES)}.")
    if seed < 0:
        raise UsageError(f"The seed is {seed}; it must be 0 or more.")
    if pace is not None and not 0 < pace <= 1:
        raise UsageError(f"The pace is {pace:g}; it must be above 0 and at most 1.")
    if frames < 1 or min(size) < 32:
        raise UsageError(
            f"A clip of {frames} frames of {size[0]} x {size[1]} pixels cannot be made; it needs at least 1 "
            "frame of 32 x 32."
        )
    rng = np.random.default_rng([seed, list(SCENES).index(scene)])
    own = float(np.exp(rng.uniform(np.log(0.02), np.log(0.08))))
    return SCENES[scene](rng, (int(size[0]), int(size[1])), frames, own if pace is None else pace)


def make_clip(
    seed: int,
    frames: int = 60,
    size: tuple[int, int] = DEFAULT_SIZE,
    scene: str = "laparoscopy",
    pace: float | None = None,
) -> SyntheticClip:
    """Make a clip with exact labels; the same arguments make the same clip.

    Parameters
    ----------
    seed : int
        A number from 0 on; each gives another clip.
    frames : int
        Length T.
    size : tuple of 2 ints
        Height and width in pixels. What is seen is scaled with the shorter side.
    scene : str
        What kind of scene: "laparoscopy", "teamwork", "cavity", "abdomen", "depths", "robotic", "closeup",
        "reflections", "things", "microscopy" or "ultrasound".
    pace : float, optional
        How fast things happen, in changes of course per frame; by the seed, 0.02 to 0.08, if left out.

    Returns
    -------
    SyntheticClip

    Raises
    ------
    UsageError
        If there is no such kind of scene, the seed is negative, the clip too small or the pace out of range.
    """
    made = make_scene(seed, frames, size, scene, pace)
    video = np.empty((frames, *size, 3), dtype=np.uint8)
    labels = np.empty((frames, *size), dtype=np.uint8)
    for t, (image, label) in enumerate(draw_frames(made, frames)):
        video[t], labels[t] = image, label
    return SyntheticClip(video, labels, made.names)


def draw_frames(scene: Scene, frames: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Draw a scene's frames and labels one after the other."""
    for t in range(frames):
        yield scene.draw(t)
