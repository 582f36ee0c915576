"""Organs that lie behind one another: far ones dark and out of focus, near ones lit and rounded."""

from __future__ import annotations

import numpy as np

from .noise import FloatArray, noise, smoothstep
from .surfaces import Surface, lobules, slope_of, soften, vessels

# Liver, peritoneum, fat, serosa, gall bladder, raw flesh: RGB.
_ORGANS = np.asarray(
    (
        (0.36, 0.15, 0.13),
        (0.60, 0.32, 0.19),
        (0.90, 0.63, 0.26),
        (0.80, 0.50, 0.45),
        (0.60, 0.46, 0.46),
        (0.55, 0.14, 0.12),
    ),
    dtype=np.float32,
)
_HOW_COMMON = np.asarray((3, 4, 3, 4, 2, 2)) / 18
_FAT = 2


def organs_in_layers(rng: np.random.Generator, height: int, width: int, unit: float) -> Surface:
    """Make what is seen of an abdomen, back to front; `unit` is the scene's size in pixels."""
    count = int(rng.integers(1, 6))
    depth = rng.uniform(0.2, 3)  # how much darker the farthest is, as a logarithm
    haze = unit * rng.uniform(0, 0.02)  # how far out of focus the farthest is, in pixels
    albedo, slope = _organ(rng, height, width, unit)
    albedo = soften(albedo, haze) * np.float32(np.exp(-depth))
    for i in range(1, count + 1):
        far = 1 - i / count * rng.uniform(0.7, 1)
        edge = _edge(rng, height, width, unit)
        cover = np.clip(0.5 + edge / (1 + 2 * haze * far), 0, 1)
        if rng.random() < 0.7:  # what it keeps the light from
            shadow = soften(np.roll(cover, int(unit * rng.uniform(-0.03, 0.06)), axis=0), unit * 0.03)
            albedo = albedo * (1 - rng.uniform(0.2, 0.8) * shadow)[..., None]
        color, own = _organ(rng, height, width, unit)
        color = soften(color, haze * far) * np.float32(np.exp(-depth * far))
        reach = unit * rng.uniform(0.05, 0.5)
        share = np.clip(edge / reach, 0, 1)
        dome = soften(reach * np.sqrt(np.clip(1 - (1 - share) ** 2, 0, 1)), unit * 0.006)
        own = own + slope_of(dome) * np.float32(rng.uniform(0.2, 0.9))
        albedo = albedo + cover[..., None] * (color - albedo)
        slope = slope + cover[..., None] * (own - slope)
    return Surface(
        np.clip(albedo, 0.003, 1).astype(np.float32), slope.astype(np.float32), 0.9 * rng.random() ** 2
    )


def _organ(rng: np.random.Generator, height: int, width: int, unit: float) -> tuple[FloatArray, FloatArray]:
    """Make one organ's albedo (Y, X, 3) and slope (Y, X, 2): smooth, with few vessels and fine bumps."""
    kind = int(rng.choice(len(_ORGANS), p=_HOW_COMMON))
    tint = rng.uniform(0.75, 1.3) * rng.uniform(0.88, 1.12, 3).astype(np.float32)
    color = np.clip(_ORGANS[kind] * tint, 0.02, 1)
    broad = noise(rng, height, width, unit * rng.uniform(0.3, 1.0), 2)
    albedo = color * np.exp(rng.uniform(0.05, 0.35) * broad)[..., None]
    if rng.random() < 0.5:  # another colour shines through
        other = _ORGANS[rng.choice(len(_ORGANS), p=_HOW_COMMON)]
        field = noise(rng, height, width, unit * rng.uniform(0.1, 0.6), 3)
        share = rng.uniform(0.3, 0.9) * smoothstep(field, rng.uniform(-0.3, 0.5), rng.uniform(0.7, 1.4))
        albedo = albedo + share[..., None] * (other - albedo)
    relief = unit * 0.015 * rng.random() ** 2 * noise(rng, height, width, unit * rng.uniform(0.15, 0.5), 2)
    if kind == _FAT and rng.random() < 0.6:
        mound, seam = lobules(rng, height, width, unit * rng.uniform(0.06, 0.2))
        albedo = albedo * (1 - rng.uniform(0.1, 0.4) * seam)[..., None]
        relief = relief + mound * unit * rng.uniform(0.01, 0.05)
    if rng.random() < 0.6:
        red = np.asarray((0.55, 0.06, 0.06), dtype=np.float32) * rng.uniform(0.5, 1.2)
        albedo = albedo + (rng.uniform(0.2, 0.7) * vessels(rng, height, width, unit))[..., None] * (
            red - albedo
        )
    fine = noise(rng, height, width, unit * rng.uniform(0.01, 0.06), 2)
    albedo = albedo * (1 + rng.uniform(0, 0.06) * fine)[..., None]
    relief = relief + unit * 0.002 * rng.random() ** 3 * fine
    return np.clip(albedo, 0.01, 1).astype(np.float32), slope_of(relief)


def _edge(rng: np.random.Generator, height: int, width: int, unit: float) -> FloatArray:
    """Return how many pixels inside of an organ's outline each pixel is, about."""
    y = np.arange(height, dtype=np.float32)[:, None] - height * rng.uniform(0.1, 0.9)
    x = np.arange(width, dtype=np.float32)[None] - width * rng.uniform(0.1, 0.9)
    angle = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.5:  # it goes on beyond the picture
        inside = y * np.float32(np.sin(angle)) + x * np.float32(np.cos(angle))
    else:
        radius = unit * np.exp(rng.uniform(np.log(0.12), np.log(0.6)))
        v = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        u = y * np.float32(np.sin(angle)) + x * np.float32(np.cos(angle))
        inside = radius - np.hypot(v, u * np.float32(rng.uniform(0.4, 1)))
    wavy = noise(rng, height, width, unit * rng.uniform(0.15, 0.7), 2)
    return np.asarray(inside + unit * rng.uniform(0.02, 0.2) * wavy, dtype=np.float32)
