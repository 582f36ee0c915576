"""Painting shapes: signed distances on the part of the picture that they touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .noise import FloatArray


@dataclass
class Patch:
    """Something painted on part of a picture.

    Attributes
    ----------
    top, left : int
        Where its first row and column are in the picture.
    color : array, shape (h, w, 3)
        0 to 1.
    alpha : array, shape (h, w)
        How much of each pixel it covers.
    opacity : float
        The `alpha` of a pixel that is all inside.
    extent : array, shape (h, w), or None
        How much of each pixel belongs to it, where that is more than it covers because it is a window or an
        opening; None where it is the same.
    """

    top: int
    left: int
    color: FloatArray
    alpha: FloatArray
    opacity: float = 1.0
    extent: FloatArray | None = None

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """The pixels (h, w) that are its own: half of each or more, whatever shines through."""
        if self.extent is not None:
            return np.asarray(self.extent > 0.5)
        return np.asarray(self.alpha > 0.5 * self.opacity)

    @property
    def region(self) -> Region:
        """The rectangle of the picture that it is painted on."""
        rows, columns = self.alpha.shape
        y = np.arange(self.top, self.top + rows, dtype=np.float32)[:, None]
        x = np.arange(self.left, self.left + columns, dtype=np.float32)[None]
        return Region(self.top, self.left, y, x)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Where it is in the picture."""
        h, w = self.alpha.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


@dataclass(frozen=True)
class Region:
    """A rectangle of the picture, and the positions of its pixels."""

    top: int
    left: int
    y: FloatArray
    x: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return len(self.y), self.x.shape[1]


def region(size: tuple[int, int], points: FloatArray, margin: float) -> Region | None:
    """Return the part of a picture within `margin` of points (N, 2), each (y, x); None if there is none."""
    low = np.floor(points.min(0) - margin - 1).astype(int)
    high = np.ceil(points.max(0) + margin + 2).astype(int)
    top, left = np.maximum(low, 0)
    bottom, right = np.minimum(high, size)
    if bottom - top < 1 or right - left < 1:
        return None
    y = np.arange(top, bottom, dtype=np.float32)[:, None]
    return Region(int(top), int(left), y, np.arange(left, right, dtype=np.float32)[None])


@dataclass(frozen=True)
class Limb:
    """A straight limb that tapers, seen on a region.

    Attributes
    ----------
    distance : array, shape (h, w)
        Pixels from its outline, negative inside.
    along : array, shape (h, w)
        Pixels from its beginning along its axis.
    across : array, shape (h, w)
        Across the axis, -1 to 1 from side to side.
    """

    distance: FloatArray
    along: FloatArray
    across: FloatArray


def limb(
    where: Region, start: FloatArray, end: FloatArray, radius: tuple[float, float], blunt: bool = False
) -> Limb:
    """Make a limb from `start` to `end`, each (y, x), rounded at the ends or `blunt` there."""
    axis = end - start
    length = float(np.hypot(*axis)) or 1e-3
    uy, ux = axis / length
    dy, dx = where.y - start[0], where.x - start[1]
    along = dy * uy + dx * ux
    across = dx * uy - dy * ux
    share = np.clip(along / length, 0, 1)
    r = radius[0] + (radius[1] - radius[0]) * share
    if blunt:
        distance = np.maximum(np.abs(across) - r, np.maximum(-along, along - length))
    else:
        distance = np.hypot(across, along - share * length) - r
    return Limb(
        distance.astype(np.float32),
        along.astype(np.float32),
        np.clip(across / np.maximum(r, 1e-3), -1, 1).astype(np.float32),
    )


def cover(distance: FloatArray) -> FloatArray:
    """Return how much of each pixel is inside an outline."""
    return np.asarray(np.clip(0.5 - distance, 0, 1))


def paint(picture: FloatArray, patch: Patch) -> None:
    """Paint a patch over a picture (Y, X, 3)."""
    part = picture[patch.slices]
    part += patch.alpha[..., None] * (patch.color - part)


def merge(patches: list[Patch]) -> Patch | None:
    """Make one patch of several, later ones in front."""
    if not patches:
        return None
    top, left = min(p.top for p in patches), min(p.left for p in patches)
    bottom = max(p.top + p.alpha.shape[0] for p in patches)
    right = max(p.left + p.alpha.shape[1] for p in patches)
    color = np.zeros((bottom - top, right - left, 3), dtype=np.float32)
    clear = np.ones((bottom - top, right - left), dtype=np.float32)
    outside = np.ones_like(clear)
    for p in patches:
        ys, xs = (slice(s.start - o, s.stop - o) for s, o in zip(p.slices, (top, left), strict=True))
        a = p.alpha[..., None]
        color[ys, xs] = color[ys, xs] * (1 - a) + p.color * a  # premultiplied
        clear[ys, xs] *= 1 - p.alpha
        outside[ys, xs] *= 1 - (p.alpha if p.extent is None else p.extent)
    alpha = 1 - clear
    extent = None if all(p.extent is None for p in patches) else 1 - outside
    return Patch(top, left, color / np.maximum(alpha, 1e-3)[..., None], alpha, extent=extent)
