"""Wrists of robotic instruments: machined links with screws, cables, forks and knobs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .noise import FloatArray, noise
from .skins import Skin

_LONG, _WIDE = 96, 64  # of the picture on a part, in pixels along and across


def machined(rng: np.random.Generator, length: float, metal: FloatArray, teeth: bool = False) -> Skin:
    """Make a part of a metal (RGB), `length` pixels long, with what is screwed, cut and inlaid into it."""
    image = Image.new("RGB", (_WIDE, _LONG), _paint(metal))
    draw = ImageDraw.Draw(image)

    def tone() -> tuple[int, int, int]:
        levels = rng.uniform(0.02, 0.3), rng.uniform(0.5, 1.3), rng.uniform(1.3, 3)
        bright = rng.choice(levels, p=(0.5, 0.3, 0.2))
        return _paint(metal * bright)

    for _ in range(rng.integers(0, 5)):  # plates and slots
        x, y = rng.uniform(-0.1, 0.9) * _WIDE, rng.uniform(-0.1, 0.9) * _LONG
        w, h = rng.uniform(0.1, 0.6) * _WIDE, rng.uniform(0.08, 0.6) * _LONG
        draw.rounded_rectangle((x, y, x + w, y + h), radius=int(rng.integers(0, 8)), fill=tone())
    for _ in range(rng.integers(0, 4)):  # cables and edges along it
        x = rng.uniform(0, _WIDE)
        draw.line((x, 0, x + rng.normal(0, 8), _LONG), fill=tone(), width=int(rng.integers(1, 6)))
    for _ in range(rng.integers(0, 4)):  # rings around it
        y = rng.uniform(0, _LONG)
        draw.line((0, y, _WIDE, y + rng.normal(0, 3)), fill=tone(), width=int(rng.integers(1, 8)))
    for _ in range(rng.integers(0, 4)):  # screws, pins and pulleys
        x, y, r = rng.uniform(0, _WIDE), rng.uniform(0, _LONG), rng.uniform(3, 18)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tone(), outline=tone(), width=int(rng.integers(1, 4)))
        if rng.random() < 0.6:
            r *= rng.uniform(0.2, 0.7)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tone())
    if teeth:
        first, step = rng.uniform(0, 0.7) * _LONG, rng.uniform(3, 7)
        left, right = sorted(rng.uniform(0, _WIDE, 2))
        dark = _paint(metal * 0.15)
        for y in np.arange(first, _LONG, step):
            draw.line((left, y, right, y), fill=dark, width=2)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    skin = np.asarray(image, dtype=np.float32) / np.float32(255)
    mirrored = noise(rng, _LONG, _WIDE, rng.uniform(8, 40), 2)  # what is around it
    skin = skin * np.exp(rng.uniform(0, 1.0) * mirrored)[..., None]
    for _ in range(rng.integers(0, 5)):  # glints
        at = rng.uniform(0, 1, 2) * (_LONG, _WIDE)
        y, x = np.mgrid[:_LONG, :_WIDE].astype(np.float32)
        spot = ((y - at[0]) / rng.uniform(2, 40)) ** 2 + ((x - at[1]) / rng.uniform(2, 8)) ** 2
        skin = skin + (rng.uniform(0.2, 1.2) * np.exp(-spot))[..., None]
    return Skin(np.clip(skin, 0.005, 1.5).astype(np.float32), max(length, 1.0), rng.uniform(0.1, 0.9))


def _paint(color: FloatArray) -> tuple[int, int, int]:
    r, g, b = np.clip(np.asarray(color) * 255, 0, 255).astype(int).tolist()
    return r, g, b


@dataclass(frozen=True)
class Knob:
    """Something round that sticks to a link.

    Attributes
    ----------
    along, across : float
        Where on the link, 0 to 1 and -1 to 1.
    radius : float
        In pixels.
    looks : Skin
        How it looks.
    """

    along: float
    across: float
    radius: float
    looks: Skin


@dataclass(frozen=True)
class Link:
    """A part of a wrist between two joints; lengths in pixels.

    Attributes
    ----------
    length : float
        From joint to joint.
    radii : tuple of 2 floats
        Half its thickness at its beginning and its end.
    fork : float
        How far from its axis each of two prongs is; 0 for one solid part.
    looks : Skin
        How it looks.
    knobs : tuple of Knob
        What sticks to it.
    """

    length: float
    radii: tuple[float, float]
    fork: float
    looks: Skin
    knobs: tuple[Knob, ...]


def wrist_link(rng: np.random.Generator, radius: float, metal: FloatArray) -> Link:
    """Make a link for a shaft of a radius in pixels, of a metal (RGB) or of something else."""
    kind = rng.random()
    if kind < 0.15:  # yellowish, for insulation
        color = np.asarray((0.75, 0.55, 0.25), dtype=np.float32) * rng.uniform(0.5, 1.3)
    elif kind < 0.25:
        color = np.full(3, rng.uniform(0.02, 0.12), dtype=np.float32)
    else:
        color = metal * np.float32(rng.uniform(0.6, 1.4))
    length = radius * rng.uniform(0.7, 2.6)
    first = radius * rng.uniform(0.75, 1.05)
    radii = (first, first * rng.uniform(0.55, 1.0))
    fork = radii[1] * rng.uniform(0.5, 0.75) if rng.random() < 0.35 else 0.0
    knobs = tuple(
        Knob(
            rng.uniform(0, 1),
            rng.uniform(-1, 1),
            radius * rng.uniform(0.15, 0.6),
            machined(rng, radius, color * np.float32(rng.uniform(0.4, 1.5))),
        )
        for _ in range(rng.integers(0, 4))
    )
    return Link(length, radii, fork, machined(rng, length, color), knobs)
