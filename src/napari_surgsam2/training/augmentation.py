"""From a clip of any size to what the network gets: resized to a square, and varied at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from napari_surgsam2.errors import UsageError

from .clips import VOID, SampledClip, TrainingClip, may_hide, shows_object
from .settings import AugmentationSettings

_VIEWS = 8  # drawn until one keeps an object of the first frame
_LUMA = np.array([0.299, 0.587, 0.114])
_GAIN = 0.7  # of brightness, contrast and saturation at full strength, as a logarithm
_HUE = math.pi / 2  # at full strength
_FLICKER = 0.1  # of the brightness and contrast of single frames, relative to those of the clip
_GAMMA = 0.8  # at full strength, as a logarithm
_UNEVEN = 1.0  # at full strength, as the standard deviation of the light's logarithm
_LIGHTS = 3  # along a side: how coarse the light is
_BARS = (1.05, 1.6)  # width with black bars, relative to the picture's: 1.5 is 1280 x 1024 in 1920 x 1080
_BARS_ABOVE = 0.1  # how often they are above and below it instead
_BLUR = (0.4 / 256, 1.5 / 256)  # of the picture's side

Floats = npt.NDArray[np.float64]


class NoObjectError(UsageError):
    """Nothing large enough is seen in the first frame of a clip."""


@dataclass(frozen=True, eq=False)
class _View:
    """What part of the picture is seen.

    Attributes
    ----------
    matrix : array, shape (2, 3)
        Takes (x, y, 1) in what is seen to (x, y) in the picture, both from 0 to 1.
    share : tuple of 2 floats
        Width and height of what is seen, relative to the picture's.
    straight : bool
        Whether its sides are parallel to the picture's, and it lies within.
    """

    matrix: Floats
    share: tuple[float, float]
    straight: bool


_WHOLE = _View(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), (1.0, 1.0), True)


@dataclass(frozen=True, eq=False)
class Look:
    """A clip as it will be seen, before its pictures are taken, which is what takes long.

    Attributes
    ----------
    frames : array, shape (T, Y, X, 3), uint8
        The clip's pictures, in order.
    view : _View
        What part of them is seen.
    masks, annotated, void
        As of `TrainingClip`.
    """

    frames: npt.NDArray[np.uint8]
    view: _View
    masks: torch.Tensor
    annotated: torch.Tensor
    void: torch.Tensor | None

    @property
    def has_absence(self) -> bool:
        """Whether an object is out of view in a frame whose truth is known."""
        known = self.annotated if self.void is None else self.annotated & ~may_hide(self.void)
        return not bool(self.masks[:, known].flatten(2).any(2).all())

    def take(self, rng: np.random.Generator, settings: AugmentationSettings) -> TrainingClip:
        """Take the pictures, with colours, light and sharpness drawn at random."""
        frames = _vary_pictures(self.frames, self.view, rng, settings, self.masks.shape[-1])
        return TrainingClip(torch.from_numpy(frames), self.masks, self.annotated, self.void)


def look(
    clip: SampledClip,
    rng: np.random.Generator,
    settings: AugmentationSettings,
    image_size: int,
    objects: int,
    leaving: bool = False,
) -> Look:
    """Draw what part of a clip is seen, and choose the objects to follow.

    Parameters
    ----------
    clip : SampledClip
        The clip.
    rng : numpy.random.Generator
        Where the randomness comes from.
    settings : AugmentationSettings
        What is varied, and how much.
    image_size : int
        Side of the square, S.
    objects : int
        How many of the objects in the first frame are kept at most.
    leaving : bool
        Keep those first that are out of view in a later frame.

    Raises
    ------
    NoObjectError
        If no object in the first frame is large enough.
    """
    backwards = bool(
        settings.reverse and rng.random() < 0.5 and clip.annotated[-1] and shows_object(clip.labels[-1])
    )
    views = [(backwards, _draw_view(rng, settings)) for _ in range(_VIEWS)]
    for turned, view in [*views, (backwards, _WHOLE), (False, _WHOLE)]:
        order = slice(None, None, -1 if turned else 1)
        found = _large_enough(_labels_in(clip.labels[order][:1], view, image_size), settings.smallest)
        if len(found):
            break
    else:
        raise NoObjectError(
            f"No object in a clip's first frame covers {settings.smallest:.2%} of the picture; take clips "
            "with larger objects."
        )
    ids = rng.permutation(found)
    labels = _labels_in(clip.labels[order], view, image_size)
    annotated = clip.annotated[order].copy()
    if leaving:
        seen = [all((frame == i).any() for frame in labels[annotated]) for i in ids]
        ids = ids[np.argsort(seen, kind="stable")]
    ids = ids[:objects]
    masks = (labels == ids[:, None, None, None]) & annotated[:, None, None]
    void = (labels == VOID) & annotated[:, None, None]
    return Look(
        clip.frames[order],
        view,
        torch.from_numpy(masks),
        torch.from_numpy(annotated),
        torch.from_numpy(void) if void.any() else None,
    )


def _draw_view(rng: np.random.Generator, settings: AugmentationSettings) -> _View:
    share = np.full(2, rng.uniform(*settings.crop))
    center = rng.uniform(share / 2, 1 - share / 2, 2)
    turn = np.eye(2)
    boxed = bool(settings.letterbox and rng.random() < settings.letterbox)
    if boxed:
        share, center = np.ones(2), np.full(2, 0.5)
        share[int(rng.random() < _BARS_ABOVE)] = rng.uniform(*_BARS)
    if settings.affine:
        growth = rng.uniform(-1, 1)
        angle, shear = rng.uniform(-1, 1, 2) * settings.affine
        c, s = math.cos(angle * math.pi / 2), math.sin(angle * math.pi / 2)
        turn = np.array([[c, -s], [s, c]]) @ np.array([[1, shear], [0, 1]]) * (1 + settings.affine) ** growth
    if settings.flip and rng.random() < 0.5:
        turn[:, 0] *= -1
    turn *= share[:, None]
    matrix = np.column_stack([turn, center - turn @ (0.5, 0.5)])
    return _View(matrix, (float(share[0]), float(share[1])), not (settings.affine or boxed))


def _labels_in(labels: npt.NDArray[np.integer], view: _View, size: int) -> npt.NDArray[np.integer]:
    """Return the labels (T, Y, X) as seen: (T, size, size), each pixel's as in its middle, 0 outside."""
    height, width = labels.shape[1:]
    middles = (np.arange(size) + 0.5) / size
    (a, b, c), (d, e, f) = view.matrix
    if view.straight:
        x = ((a * middles + c) * width).astype(np.intp).clip(0, width - 1)
        y = ((e * middles + f) * height).astype(np.intp).clip(0, height - 1)
        return labels[:, y[:, None], x]
    x = np.floor((a * middles + b * middles[:, None] + c) * width).astype(np.intp)
    y = np.floor((d * middles + e * middles[:, None] + f) * height).astype(np.intp)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = (y.clip(0, height - 1) * width + x.clip(0, width - 1)).ravel()
    flat = labels.reshape(len(labels), -1)
    seen: npt.NDArray[np.integer] = flat.take(places, axis=1).reshape(-1, size, size)
    seen[:, ~inside] = 0
    return seen


def _large_enough(labels: npt.NDArray[np.integer], smallest: float) -> npt.NDArray[np.integer]:
    ids, counts = np.unique(labels, return_counts=True)
    large: npt.NDArray[np.integer] = ids[(ids > 0) & (counts >= smallest * labels.size)]
    return large


def _vary_pictures(
    frames: npt.NDArray[np.uint8],
    view: _View,
    rng: np.random.Generator,
    settings: AugmentationSettings,
    size: int,
) -> npt.NDArray[np.uint8]:
    """Return the frames (T, Y, X, 3) as seen, with other colours: (T, size, size, 3)."""
    colours = _draw_colours(rng, settings, frames[0], len(frames))
    curve, light = _draw_light(rng, settings.light, size) if settings.light else (None, None)
    radius = float(rng.uniform(*_BLUR)) * size if rng.random() < settings.blur else 0.0
    out = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        picture = _see(Image.fromarray(frame), view, size)
        if colours is not None:
            picture = picture.convert("RGB", tuple(colours[t].ravel().tolist()))
        if curve is not None:
            picture = picture.point(curve)
        if radius:
            picture = picture.filter(ImageFilter.GaussianBlur(radius))
        seen = np.asarray(picture)
        out[t] = seen if light is None else np.minimum(seen * light, 255)
    return out


def _see(picture: Image.Image, view: _View, size: int) -> Image.Image:
    width, height = picture.size
    scale = np.array([[width], [height]])
    corners = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    low, high = ((view.matrix @ corners) * scale).min(1), ((view.matrix @ corners) * scale).max(1)
    if view.straight:
        # Rounding may leave the picture by a hair, which Pillow refuses.
        box = (*low.clip(0).tolist(), min(float(high[0]), width), min(float(high[1]), height))
        seen = picture.resize((size, size), box=box)
        return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.matrix[0, 0] < 0 else seen
    # Shrunk first, which smooths: the sampling that turns does not.
    x0, y0 = (max(0, math.floor(v) - 1) for v in low)
    x1, y1 = (min(n, math.ceil(v) + 1) for v, n in zip(high, (width, height), strict=True))
    shrunk = tuple(
        max(1, round(side / max(1.0, share * n / size)))
        for side, share, n in ((x1 - x0, view.share[0], width), (y1 - y0, view.share[1], height))
    )
    part = picture.resize((shrunk[0], shrunk[1]), box=(x0, y0, x1, y1))
    matrix = view.matrix * scale
    matrix[:, :2] /= size
    matrix[:, 2] -= (x0, y0)
    matrix *= np.array([[shrunk[0] / (x1 - x0)], [shrunk[1] / (y1 - y0)]])
    coefficients = tuple(matrix.ravel().tolist())
    return part.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _draw_colours(
    rng: np.random.Generator, settings: AugmentationSettings, first: npt.NDArray[np.uint8], count: int
) -> Floats | None:
    """Return what takes (r, g, b, 1) to new colours in each frame, (count, 3, 4); None to leave them."""
    gray = rng.random() < settings.gray
    if not settings.colour and not gray:
        return None
    strength = settings.colour
    brightness, contrast, saturation = np.exp(_GAIN * strength * rng.uniform(-1, 1, 3))
    angle = _HUE * strength * rng.uniform(-1, 1)
    flicker = np.exp(_GAIN * strength * _FLICKER * rng.uniform(-1, 1, (2, count)))
    saturation = 0.0 if gray else saturation
    mix = (saturation * np.eye(3) + (1 - saturation) * _LUMA) @ _rotation(angle)
    mean = float((first[::8, ::8].reshape(-1, 3) @ _LUMA).mean())
    out = np.empty((count, 3, 4))
    for t in range(count):
        gain, slope = brightness * flicker[0, t], contrast * flicker[1, t]
        out[t, :, :3] = gain * slope * mix
        out[t, :, 3] = gain * (1 - slope) * mean
    return out


def _draw_light(
    rng: np.random.Generator, strength: float, size: int
) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Return a curve for values from 0 to 255, three times, and uneven light to multiply by, (S, S, 1)."""
    gamma = math.exp(_GAMMA * strength * rng.uniform(-1, 1))
    curve = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(int).tolist()
    coarse = rng.normal(0, _UNEVEN * strength * rng.random(), (_LIGHTS, _LIGHTS)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return curve * 3, np.exp(np.asarray(smooth))[..., None]


def _rotation(angle: float) -> Floats:
    """Return the rotation of colours around the axis of grays."""
    c, s = math.cos(angle), math.sin(angle) / math.sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return c * np.eye(3) + (1 - c) / 3 + s * cross
