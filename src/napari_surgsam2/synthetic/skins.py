"""Skins: pictures that are wrapped around the parts of instruments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .noise import FloatArray
from .shapes import Limb


@dataclass(frozen=True)
class Skin:
    """How a part looks: a picture wrapped around it.

    Attributes
    ----------
    picture : array, shape (L, W, 3)
        What is on it, along and across; RGB, 1 is white.
    length : float
        How many pixels along it the picture covers.
    round : float
        How much darker its sides are, 0 to 1.
    again : bool
        Whether what lies beyond shows the picture again, or looks like its end.
    """

    picture: FloatArray
    length: float
    round: float
    again: bool = False

    def shade(self, part: Limb, light: float) -> FloatArray:
        """Return colours (h, w, 3); reflections move across with `light`."""
        long, wide = self.picture.shape[:2]
        along = part.along / self.length * long
        row = np.abs(along) % long if self.again else np.clip(along, 0, long - 1)
        column = np.clip((part.across + 0.4 * light + 1) * 0.5 * wide, 0, wide - 1).astype(np.intp)
        body = 1 - self.round * (1 - np.sqrt(np.clip(1 - part.across**2, 0, 1)))
        shown = self.picture[row.astype(np.intp), column]
        return np.asarray(shown * body[..., None], dtype=np.float32)
