"""What lies over an instrument here and there: its surroundings mirrored in it, and blood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .noise import FloatArray, noise, smoothstep
from .shapes import Patch
from .surfaces import soften

_LONG, _WIDE = 240, 160  # cells along an instrument from its tip, and across it
_CELLS = 200  # to a picture's shorter side


@dataclass(frozen=True)
class Coat:
    """A cover of an instrument.

    Attributes
    ----------
    share : array, shape (L, W)
        How much of it is seen, 0 to 1, along from the tip and across.
    picture : array, shape (Y, X, 3)
        What is seen of it where in the frame; RGB, 1 is white.
    shaded : float
        How much of the light and shade under it stays, 0 to 1.
    """

    share: FloatArray
    picture: FloatArray
    shaded: float

    def lie_over(self, patch: Patch, tip: FloatArray, direction: FloatArray, unit: float) -> None:
        """Cover an instrument with its `tip` at (y, x) in pixels, which points in a `direction`, (y, x).

        The direction has the length 1; `unit` is the picture's shorter side in pixels, here and below.
        """
        where = patch.region
        y, x = where.y - tip[0], where.x - tip[1]
        along = -(y * direction[0] + x * direction[1]) / unit * _CELLS
        across = (x * direction[0] - y * direction[1]) / unit * _CELLS + _WIDE / 2
        row = np.clip(along, 0, _LONG - 1).astype(np.intp)
        share = self.share[row, np.clip(across, 0, _WIDE - 1).astype(np.intp)][..., None]
        light = patch.color.mean(axis=-1, keepdims=True)
        shown = self.picture[patch.slices] * (1 - self.shaded + self.shaded * np.clip(2 * light, 0.2, 2))
        patch.color += (share * (shown - patch.color)).astype(np.float32)


def mirror(rng: np.random.Generator, around: FloatArray, unit: float) -> Coat:
    """Let a picture of what is around an instrument, (Y, X, 3), be seen in it, here more and there less."""
    knots = np.sort(np.concatenate(([0, _LONG], rng.uniform(0, 0.8 * _LONG, 4))))
    levels = rng.random(len(knots)) ** 0.7 * rng.uniform(0.4, 0.97)
    along = np.interp(np.arange(_LONG), knots, levels)[:, None]
    uneven = 1 + rng.uniform(0, 0.6) * noise(rng, _LONG, _WIDE, rng.uniform(10, 60), 2)
    shift = tuple(int(n) for n in rng.integers(0, around.shape[:2]))
    blurred = soften(np.ascontiguousarray(around), unit * rng.uniform(0.002, 0.05))
    shown = np.roll(blurred, shift if rng.random() < 0.5 else (0, 0), axis=(0, 1)) * rng.uniform(0.3, 1.25)
    share = np.clip(along * uneven, 0, 0.97)
    return Coat(share.astype(np.float32), shown.astype(np.float32), rng.uniform(0, 0.9))


def blood(rng: np.random.Generator, size: tuple[int, int]) -> Coat:
    """Stain an instrument in frames of a `size`, (Y, X)."""
    field = noise(rng, _LONG, _WIDE, rng.uniform(6, 40), 3)
    dry = rng.uniform(-0.2, 0.8)
    share = smoothstep(field, dry, dry + rng.uniform(0.05, 0.5)) * rng.uniform(0.4, 0.98)
    red = np.asarray((rng.uniform(0.12, 0.6), rng.uniform(0, 0.1), rng.uniform(0, 0.08)), dtype=np.float32)
    return Coat(share, np.broadcast_to(red, (*size, 3)), rng.uniform(0.3, 1))
