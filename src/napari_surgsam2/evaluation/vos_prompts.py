"""What a tracker is given of each object of a video: its first mask, a box around it, or points in it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from napari_surgsam2.errors import UsageError
from napari_surgsam2.prompts import BoolArray, Box, Mask, Point, Prompt, central_position

from .vos_folder import VosSequence, read_annotation, refuse_binary


@dataclass(frozen=True)
class PromptKind:
    """How objects are prompted: by their mask, a box around it, or points in it.

    Attributes
    ----------
    kind : {"mask", "box", "points"}
        What is drawn from the first mask.
    points : int
        How many points.
    """

    kind: str = "mask"
    points: int = 1

    @classmethod
    def parse(cls, text: str) -> PromptKind:
        """Read `mask`, `box`, or `points:N`."""
        kind, colon, count = text.partition(":")
        if kind in ("mask", "box") and not colon:
            return cls(kind)
        if kind == "points" and count.isdecimal() and int(count) > 0:
            return cls(kind, int(count))
        raise UsageError(f"The prompt is '{text}'; it must be mask, box, or points:N, such as points:1.")

    def __str__(self) -> str:
        return f"points:{self.points}" if self.kind == "points" else self.kind

    def of_mask(self, video: str, frame: int, object_id: int, mask: BoolArray) -> list[Prompt]:
        """Return the prompts of an object, drawn from its mask (Y, X); the same every time.

        A box has its corners on the mask's outermost pixels. The first point is in the middle of the mask;
        the others are drawn from the rest of it, each at most once, by the video's name, the frame and the
        object's number.
        """
        if self.kind == "mask":
            return [Mask(frame, mask, object_id)]
        if self.kind == "box":
            return [_box(frame, object_id, mask)]
        middle = central_position(mask)
        rest = np.argwhere(mask)
        rest = rest[(rest != middle).any(axis=1)]
        rng = np.random.default_rng([zlib.crc32(video.encode()), frame, object_id])
        drawn = rng.choice(rest, size=min(self.points - 1, len(rest)), replace=False)
        return [Point(frame, float(y), float(x), object_id) for y, x in [middle, *drawn.tolist()]]


def first_prompts(sequence: VosSequence, prompt: PromptKind) -> tuple[list[Prompt], bytes | None]:
    """Return the prompts of all objects of a video, drawn from the first mask of each, and the palette.

    There are none if no annotation shows an object. The palette, None of gray pictures, is that of the first
    annotation.

    Raises
    ------
    UsageError
        If an annotation cannot be read.
    """
    prompts: list[Prompt] = []
    seen: set[int] = set()
    palette: bytes | None = None
    for t in np.flatnonzero(sequence.annotated).tolist():
        file = sequence.annotations[t]
        assert file is not None
        labels = read_annotation(file)
        palette = palette or _palette_of(file)
        for i in sorted(set(np.unique(labels).tolist()) - {0} - seen):
            seen.add(i)
            prompts += prompt.of_mask(sequence.name, t, i, labels == i)
    if not prompts:
        refuse_binary(sequence.annotations)
    return prompts, palette


def _box(frame: int, object_id: int, mask: BoolArray) -> Box:
    sides = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis=axis))
        low, high = float(inside[0]), float(inside[-1])
        # A box has an area, which one of a single row or column would not.
        sides.append((low, high) if low < high else (low - 0.5, high + 0.5))
    (y0, y1), (x0, x1) = sides
    return Box(frame, y0, x0, y1, x1, object_id)


def _palette_of(file: Path) -> bytes | None:
    with Image.open(file) as image:
        palette = image.getpalette() if image.mode == "P" else None
    return None if palette is None else bytes(palette)
