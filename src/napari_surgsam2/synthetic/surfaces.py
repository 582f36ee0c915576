"""Surfaces that scenes are set against, and that soft things are covered with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage, spatial

from .noise import FloatArray, noise, resize, smoothstep

# Mucosa, serosa, liver, fat, fascia, muscle, clotted blood, bowel, gall bladder, kidney: RGB.
_TISSUES = (
    (0.78, 0.40, 0.38),
    (0.86, 0.62, 0.56),
    (0.45, 0.18, 0.15),
    (0.88, 0.70, 0.40),
    (0.88, 0.80, 0.72),
    (0.62, 0.24, 0.22),
    (0.28, 0.05, 0.05),
    (0.80, 0.52, 0.42),
    (0.46, 0.44, 0.34),
    (0.52, 0.28, 0.24),
)
_HOW_COMMON = np.asarray((6, 6, 4, 4, 3, 4, 2, 4, 1, 2)) / 36
# Those of scikit-image's pictures that are in its wheel.
_PHOTOGRAPHS: tuple[str, ...] = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
)
_PHOTOGRAPHS += ("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text")


@dataclass(frozen=True)
class Surface:
    """Something that can be lit.

    Attributes
    ----------
    albedo : array, shape (Y, X, 3)
        Colour, 0 to 1.
    slope : array, shape (Y, X, 2)
        How fast its height changes along y and x.
    gloss : float
        How wet it looks, 0 to 1.
    """

    albedo: FloatArray
    slope: FloatArray
    gloss: float


def tissue(rng: np.random.Generator, height: int, width: int, unit: float) -> Surface:
    """Make wet tissue: patches of a few kinds, folds, fat lobules, vessels; `unit` is the scene's size."""
    kinds = rng.choice(len(_TISSUES), size=rng.integers(2, 5), replace=False, p=_HOW_COMMON)
    tint = 1 + rng.normal(0, 0.06, 3)
    albedo = np.empty((height, width, 3), dtype=np.float32)
    albedo[:] = _jitter(rng, _TISSUES[kinds[0]])
    relief = noise(rng, height, width, unit * rng.uniform(0.2, 0.8), 3) * unit * rng.uniform(0.01, 0.06)
    for kind in kinds[1:]:
        field = noise(rng, height, width, unit * rng.uniform(0.15, 0.6), 4, 0.55)
        edge = rng.uniform(-0.3, 0.5)
        cover = smoothstep(field, edge, edge + rng.uniform(0.05, 0.6))[..., None]
        albedo += cover * (np.asarray(_jitter(rng, _TISSUES[kind]), dtype=np.float32) - albedo)
        relief += soften(cover[..., 0], unit * 0.015) * unit * rng.uniform(0, 0.025)
    if rng.random() < 0.6:  # folds
        ridges = 1 - np.abs(noise(rng, height, width, unit * rng.uniform(0.1, 0.35), 3))
        relief += np.clip(ridges, 0, 1) ** 2 * unit * rng.uniform(0.005, 0.04)
        albedo *= (0.85 + 0.2 * np.clip(ridges, 0, 1))[..., None]
    if rng.random() < 0.5:
        mound, seam = lobules(rng, height, width, unit * rng.uniform(0.03, 0.12))
        cover = smoothstep(noise(rng, height, width, unit * 0.4, 2), rng.uniform(-0.6, 0.4), 0.6)
        relief += cover * mound * unit * rng.uniform(0.01, 0.04)
        albedo *= (1 - 0.35 * cover * seam)[..., None]
    fine = noise(rng, height, width, unit * rng.uniform(0.01, 0.05), 3, 0.7)
    albedo *= (1 + rng.uniform(0.02, 0.12) * fine)[..., None]
    relief += fine * unit * rng.uniform(0, 0.002)
    if rng.random() < 0.75:
        veins = vessels(rng, height, width, unit)[..., None]
        color = np.asarray(
            ((0.5, 0.05, 0.08), (0.35, 0.1, 0.25), (0.6, 0.1, 0.1))[rng.integers(3)], np.float32
        )
        albedo += veins * rng.uniform(0.3, 0.8) * (color - albedo)
    if rng.random() < 0.35:  # blood
        field = noise(rng, height, width, unit * rng.uniform(0.1, 0.4), 4, 0.6)
        pool = smoothstep(field, rng.uniform(0.2, 0.8), rng.uniform(0.85, 1.1))[..., None]
        albedo += pool * 0.9 * (np.asarray((0.38, 0.02, 0.03), np.float32) - albedo)
    relief *= rng.uniform(0.2, 1)  # much tissue is smooth
    return _surface(np.clip(albedo * tint.astype(np.float32), 0.01, 1), relief, rng.uniform(0.3, 1.0))


def recede(rng: np.random.Generator, surface: Surface, unit: float) -> Surface:
    """Let parts of a surface lie so far away that little light reaches them."""
    height, width = surface.albedo.shape[:2]
    far = noise(rng, height, width, unit * rng.uniform(0.4, 1.2), 2)
    dark = np.exp(-rng.uniform(0.5, 4) * smoothstep(far, rng.uniform(-0.8, 0.3), 1.0))
    gloss = surface.gloss * rng.uniform(0.3, 1)
    return replace(surface, albedo=surface.albedo * dark[..., None], gloss=gloss)


def picture(rng: np.random.Generator, height: int, width: int, unit: float) -> Surface:
    """Make an arbitrary surface: a photograph, stripes, checks, grains or clouds, in any colours."""
    kind = rng.integers(0, 6)
    if kind <= 1:
        albedo = photograph(rng, height, width)
    else:
        low, high = rng.uniform(0.02, 0.98, (2, 3)).astype(np.float32)
        cell = unit * np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
        if kind == 2:
            y, x = np.mgrid[:height, :width].astype(np.float32)
            angle = rng.uniform(0, np.pi)
            field = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / cell)).astype(np.float32)
            field = field + 0.5 * noise(rng, height, width, cell, 2)
        elif kind == 3:
            y, x = np.mgrid[:height, :width]
            field = ((y // max(cell, 2) + x // max(cell, 2)) % 2 * 2.0 - 1).astype(np.float32)
        else:
            field = noise(rng, height, width, cell, int(rng.integers(1, 5)), rng.uniform(0.4, 0.9))
        share = (0.5 + 0.5 * np.clip(field, -1, 1))[..., None]
        albedo = low + share * (high - low)
    relief = noise(rng, height, width, unit * 0.3, 2) * unit * rng.uniform(0, 0.03)
    return _surface(np.asarray(albedo, dtype=np.float32), relief, rng.uniform(0, 0.4) ** 2)


def plain(color: tuple[float, float, float], height: int, width: int) -> Surface:
    """Make a flat surface of one colour."""
    albedo = np.empty((height, width, 3), dtype=np.float32)
    albedo[:] = color
    return Surface(albedo, np.zeros((height, width, 2), dtype=np.float32), 0.0)


@cache
def _photographs() -> tuple[npt.NDArray[np.uint8], ...]:
    """Return the pictures that come with scikit-image itself, without a download."""
    from skimage import data

    found = []
    for name in _PHOTOGRAPHS:
        image = np.asarray(getattr(data, name)())
        image = image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        found.append(image.astype(np.uint8))
    return tuple(found)


def photograph(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Cut a piece (Y, X, 3) out of a photograph, its colours mixed."""
    pictures = _photographs()
    image = pictures[rng.integers(len(pictures))]
    side = min(image.shape[:2])
    h = int(rng.uniform(0.3, 1) * side)
    w = max(16, min(int(h * width / height), image.shape[1]))
    y, x = rng.integers(0, [image.shape[0] - h + 1, image.shape[1] - w + 1])
    piece = image[y : y + h, x : x + w] / np.float32(255)
    piece = np.stack([resize(np.ascontiguousarray(piece[..., c]), height, width) for c in range(3)], axis=-1)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    mixed = piece @ rng.dirichlet(np.ones(3) * 0.5, 3).T.astype(np.float32) if rng.random() < 0.5 else piece
    if rng.random() < 0.15:
        mixed = 1 - mixed
    return np.clip(mixed, 0, 1).astype(np.float32)


def _jitter(rng: np.random.Generator, color: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.clip(np.asarray(color) * rng.uniform(0.8, 1.2) + rng.normal(0, 0.03, 3), 0.02, 1))


def _surface(albedo: FloatArray, relief: FloatArray, gloss: float) -> Surface:
    return Surface(albedo.astype(np.float32), slope_of(relief), float(gloss))


def slope_of(relief: FloatArray) -> FloatArray:
    """Return how fast a height (Y, X) changes along y and x, (Y, X, 2)."""
    return np.stack((np.gradient(relief, axis=0), np.gradient(relief, axis=1)), axis=-1).astype(np.float32)


def lobules(rng: np.random.Generator, height: int, width: int, cell: float) -> tuple[FloatArray, FloatArray]:
    """Return rounded mounds of `cell` pixels and the dark seams between them, each (Y, X), 0 to 1."""
    count = max(4, int(height * width / cell**2))
    points = rng.uniform(0, [height, width], (count, 2))
    step = max(1, int(cell / 8))
    y, x = np.mgrid[0:height:step, 0:width:step]
    tree = spatial.KDTree(points)  # type: ignore[no-untyped-call]
    near, _ = tree.query(np.stack([y.ravel(), x.ravel()], axis=1), k=2)  # type: ignore[no-untyped-call]
    first, second = (resize(d.reshape(y.shape), height, width) / np.float32(cell) for d in near.T)
    return np.clip(1 - first, 0, 1), 1 - smoothstep(second - first, 0.0, 0.25)


def vessels(rng: np.random.Generator, height: int, width: int, unit: float) -> FloatArray:
    """Draw branching vessels, (Y, X), 0 to 1; `unit` is the scene's size in pixels."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)

    def branch(y: float, x: float, angle: float, thickness: float, length: int) -> None:
        points = [(x, y)]
        for _ in range(length):
            angle += rng.normal(0, 0.25)
            y, x = y + unit * 0.03 * np.sin(angle), x + unit * 0.03 * np.cos(angle)
            points.append((x, y))
            if thickness > unit * 0.003 and rng.random() < 0.12:
                branch(y, x, angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1), thickness * 0.6, length // 2)
        draw.line(points, fill=int(rng.uniform(120, 255)), width=max(1, round(thickness)), joint="curve")

    for _ in range(rng.integers(1, 8)):
        start = rng.uniform(0, [height, width])
        branch(
            start[0],
            start[1],
            rng.uniform(0, 2 * np.pi),
            unit * rng.uniform(0.003, 0.02),
            int(rng.integers(15, 60)),
        )
    soft = image.filter(ImageFilter.GaussianBlur(unit * rng.uniform(0.001, 0.006)))
    return np.asarray(soft, dtype=np.float32) / np.float32(255)


def soften(field: FloatArray, sigma: float) -> FloatArray:
    """Blur (Y, X), or each channel of (Y, X, C), with a Gaussian of `sigma` pixels."""
    sigmas = (sigma, sigma, 0)[: field.ndim]
    soft = ndimage.gaussian_filter(field, sigmas, mode="nearest", truncate=3.0)  # type: ignore[attr-defined]
    return np.asarray(soft, dtype=np.float32)
