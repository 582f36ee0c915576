"""Sheaths: what the thick shafts near a camera are covered with."""

from __future__ import annotations

import numpy as np

from .noise import FloatArray, noise
from .skins import Skin

_LONG, _WIDE = 256, 64  # of the picture around a shaft, in pixels along and across


def sheath(rng: np.random.Generator, length: float, around: FloatArray) -> Skin:
    """Make one, dark, gray or white, matt or brushed, that shows some of the colour (RGB) around it.

    Its picture covers `length` pixels of the shaft.
    """
    levels = rng.uniform(0.03, 0.2), rng.uniform(0.2, 0.6), rng.uniform(0.6, 1)
    level = rng.choice(levels, p=(0.4, 0.4, 0.2))
    color = level * rng.uniform(0.94, 1.06, 3)
    if rng.random() < 0.7:
        color = color * around ** rng.uniform(0, 1)
    skin = np.empty((_LONG, _WIDE, 3), dtype=np.float32)
    skin[:] = color
    across = np.linspace(-1, 1, _WIDE, dtype=np.float32)[None]
    for _ in range(rng.integers(1, 6)):  # what is mirrored in it, in pieces
        broken = 1 + rng.uniform(0, 1) * noise(rng, _LONG, 1, rng.uniform(10, 120), 2)
        stripe = np.exp(-(((across - rng.uniform(-1, 1)) / rng.uniform(0.04, 0.6)) ** 2)) * broken
        glare = around if rng.random() < 0.4 else np.ones(3)
        skin += (rng.uniform(-0.4, 0.7) * stripe)[..., None] * glare * rng.uniform(0.2, 1)
    lumpy = noise(rng, _LONG, _WIDE, rng.uniform(8, 40), 2)
    skin *= np.exp(rng.uniform(0, 0.5) * lumpy)[..., None]
    fine = noise(rng, _LONG, _WIDE, 1)
    if rng.random() < 0.5:  # brushed along or around it
        axis = int(rng.integers(2))
        fine = np.repeat(np.take(fine, np.arange(0, fine.shape[axis], 8), axis), 8, axis)
    skin *= (1 + rng.uniform(0, 0.25) * fine)[..., None]
    for _ in range(rng.integers(0, 4)):  # rings and seams
        at, wide = int(rng.integers(0, _LONG)), int(rng.integers(1, 7))
        skin[at : at + wide] *= rng.uniform(0.2, 1.8)
    if rng.random() < 0.15:  # something printed on it
        start, ink = rng.integers(0, _LONG // 2, 2)[0], rng.uniform(0, 1, 3)
        left, high = int(rng.integers(5, 45)), int(rng.integers(4, 14))
        for _ in range(rng.integers(3, 15)):
            skin[start : start + rng.integers(2, 6), left : left + high] = ink
            start += int(rng.integers(4, 10))
    return Skin(np.clip(skin, 0.005, 1.5), max(length, 1.0), rng.uniform(0, 0.8), again=True)
