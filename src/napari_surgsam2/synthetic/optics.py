"""What lies between a scene and its recording: light, smoke, lens, sensor, compression."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from .noise import FloatArray, noise, resize, wander
from .surfaces import soften

UInt8Array = npt.NDArray[np.uint8]

_BLACK = 0.1  # of the light: where less comes through the lens nothing is seen


class Light:
    """A light at the camera: falls off from a centre, and glints on what is wet."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> None:
        height, width = size
        self._size = size
        self._center = np.stack([wander(rng, frames, 0.3 * n, 0.7 * n, pace * 0.5) for n in size], axis=1)
        self._fall = rng.uniform(0.1, 1.6) / (max(height, width) / 2) ** 2
        self._power = rng.uniform(0.8, 1.35)
        self._depth = 1 + 0.3 * rng.random() * noise(rng, height, width, max(size) * 0.6)
        self._sharp = np.exp(rng.uniform(np.log(8), np.log(60)))
        self._glint = rng.uniform(0.2, 1.2)
        self._steep = rng.uniform(0.3, 1.2) / max(height, width)
        self._side = rng.normal(0, 0.4, 2)

    def shine(self, albedo: FloatArray, slope: FloatArray, gloss: float, t: int) -> FloatArray:
        """Return the lit surface (Y, X, 3)."""
        height, width = self._size
        dy = np.arange(height, dtype=np.float32)[:, None] - self._center[t, 0]
        dx = np.arange(width, dtype=np.float32)[None] - self._center[t, 1]
        gy, gx = slope[..., 0] * 1.5, slope[..., 1] * 1.5
        level = self._power * self._depth / (1 + self._fall * (dy * dy + dx * dx))
        facing = (1 + self._side[0] * gy + self._side[1] * gx) / np.sqrt(1 + gy * gy + gx * gx)
        level = level * np.clip(facing, 0.25, 1.5)
        lit = albedo * level[..., None]
        if gloss:
            near = (gy + dy * self._steep) ** 2 + (gx + dx * self._steep) ** 2
            rough = np.hypot(gy, gx) > 0.02
            lit += (self._glint * gloss * np.exp(-self._sharp * near) * rough)[..., None]
        return np.asarray(lit)


class Beam:
    """The light of an endoscope on all that is before it: bright where it points, dark far from there."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> None:
        height, width = size
        self._center = np.stack([wander(rng, frames, 0.25 * n, 0.75 * n, pace * 0.5) for n in size], axis=1)
        self._fall = np.exp(rng.uniform(np.log(0.3), np.log(8))) / (np.hypot(height, width) / 2) ** 2
        self._power = np.exp(rng.uniform(np.log(0.8), np.log(1.8)))
        patchy = noise(rng, height, width, max(size) * rng.uniform(0.3, 0.8))
        self._patches = np.exp(rng.uniform(0, 0.6) * patchy) * np.float32(self._power)

    def fall_on(self, picture: FloatArray, t: int) -> None:
        """Light a picture (Y, X, 3), at once, from frame `t`'s centre."""
        height, width = picture.shape[:2]
        dy = np.arange(height, dtype=np.float32)[:, None] - self._center[t, 0]
        dx = np.arange(width, dtype=np.float32)[None] - self._center[t, 1]
        picture *= (self._patches / (1 + np.float32(self._fall) * (dy * dy + dx * dx)))[..., None]


class Smoke:
    """Smoke or mist that drifts."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> None:
        height, width = size
        self._size = size
        field = np.clip(0.5 + 0.5 * noise(rng, height, width, max(size) * 0.4, 3), 0, 1)
        self._field = np.concatenate((field, field[:, ::-1], field), axis=1)  # drifts on without a seam
        self._density = np.clip(wander(rng, frames, -0.3, rng.uniform(0.2, 0.75), pace), 0, 1)
        self._drift = np.cumsum(np.abs(wander(rng, frames, 0, 0.03, pace)))
        self._color = np.asarray(rng.uniform(0.55, 0.9) * rng.uniform(0.95, 1.05, 3), dtype=np.float32)

    def veil(self, picture: FloatArray, t: int) -> None:
        """Put the smoke over a picture."""
        if self._density[t] <= 0.01:
            return
        width = self._size[1]
        start = int(self._drift[t] * width) % (2 * width)
        share = (self._density[t] * self._field[:, start : start + width])[..., None]
        picture += share * (self._color - picture)


class Camera:
    """Lens, sensor, processor and recorder: exposure, blur, border, noise, compression.

    Attributes
    ----------
    hidden : array, shape (Y, X), bool, or None
        Where nothing is seen, because the lens's picture does not fill the frame.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: tuple[int, int],
        frames: int,
        pace: float,
        medical: bool,
        gray: bool = False,
    ) -> None:
        height, width = size
        self._size = size
        self._gain = rng.uniform(0.75, 1.25) * (1 + wander(rng, frames, -0.15, 0.15, pace))
        self._balance = rng.uniform(0.88, 1.12, 3).astype(np.float32)
        self._gamma = np.exp(rng.uniform(-0.35, 0.3))
        self._gray = rng.random() < (1.0 if gray else 0.03 if medical else 0.15)
        unit = min(size)
        blur = unit * 0.008 * rng.random() ** 2
        self._blur = np.clip(
            wander(rng, frames, -0.5 * blur, blur * (1 + 2 * (rng.random() < 0.2)), pace), 0, None
        )
        self._smear = np.zeros(frames, dtype=int)
        if rng.random() < 0.3:
            self._smear = np.clip(wander(rng, frames, -4, unit * 0.03, pace * 2), 0, 9).astype(int)
        self._angle = rng.uniform(0, 2 * np.pi)
        self._sharpen = rng.random() < 0.3
        noisy = rng.uniform(0, 0.035) * (rng.random() < 0.8)
        grain = rng.standard_normal((height, width, 1 if rng.random() < 0.5 else 3)).astype(np.float32)
        coarse = rng.random() < 0.4
        if coarse:
            grain[1:] = 0.7 * grain[1:] + 0.7 * grain[:-1]
        self._grain = grain * np.float32(noisy)
        self._rolls = rng.integers(0, [height, width], (frames, 2))
        self._quality = int(rng.uniform(25, 96)) if rng.random() < 0.8 else 0
        self._frame = _border(rng, size) if medical and rng.random() < 0.6 else None
        self.hidden = None if self._frame is None else self._frame < _BLACK
        self._text = _lettering(rng, size) if rng.random() < 0.12 else None
        self._bloom = (0.0, 0.0)

    def bloom(self, strength: float, reach: float) -> None:
        """Let what is too bright shine on what is beside it, `reach` pixels far."""
        self._bloom = (strength, reach)

    def record(self, picture: FloatArray, t: int) -> UInt8Array:
        """Turn a picture (Y, X, 3) into what is recorded of it, uint8."""
        if self._gray:
            picture = np.repeat(picture.mean(axis=-1, keepdims=True) * self._gain[t], 3, axis=-1)
        else:
            picture = picture * (self._balance * self._gain[t])
        if self._smear[t] > 1:
            picture = self._smeared(picture, int(self._smear[t]))
        if self._bloom[0]:
            picture = self._bloomed(picture)
        picture = np.clip(picture, 0, 1) ** self._gamma
        if self._grain.any():
            picture = picture + np.roll(self._grain, self._rolls[t], axis=(0, 1))
        if self._frame is not None:
            picture = picture * self._frame[..., None]
        image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
        if self._blur[t] > 0.3:
            image = image.filter(ImageFilter.GaussianBlur(float(self._blur[t])))
        elif self._sharpen:
            image = image.filter(ImageFilter.UnsharpMask(2, 80, 0))
        if self._text is not None:
            image.paste(Image.new("RGB", image.size, (230, 230, 210)), mask=self._text)
        if self._quality:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=self._quality)
            image = Image.open(buffer)
        return np.array(image)

    def _bloomed(self, picture: FloatArray) -> FloatArray:
        """Add a glow around what is too bright."""
        strength, reach = self._bloom
        height, width = self._size
        step = max(1, int(reach / 2))
        soft = soften(np.clip(picture[::step, ::step] - 0.8, 0, 2), reach / step)
        glow = [resize(soft[..., c], height, width) for c in range(3)]
        return np.asarray(picture + strength * np.clip(np.stack(glow, axis=-1), 0, None))

    def _smeared(self, picture: FloatArray, length: int) -> FloatArray:
        """Blur along a direction."""
        height, width = self._size
        wide = np.pad(picture, ((length, length), (length, length), (0, 0)), mode="edge")
        total = np.zeros_like(picture)
        for i in range(length):
            step = (i - (length - 1) / 2) * np.asarray((np.sin(self._angle), np.cos(self._angle)))
            y, x = length + step.round().astype(int)
            total += wide[y : y + height, x : x + width]
        return np.asarray(total / np.float32(length))


def _border(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    """Return what an endoscope's picture leaves of the frame: a disk, an octagon, or bars beside it."""
    height, width = size
    y = np.arange(height, dtype=np.float32)[:, None] - height * rng.uniform(0.47, 0.53)
    x = np.arange(width, dtype=np.float32)[None] - width * rng.uniform(0.47, 0.53)
    kind = rng.random()
    if kind < 0.5:
        radius = 0.5 * np.hypot(height, width) * rng.uniform(0.75, 1.0)
        distance = np.hypot(y, x) - radius
    elif kind < 0.75:
        distance = np.abs(x) - width * rng.uniform(0.38, 0.49) + 0 * y
    else:
        side = 0.5 * max(height, width) * rng.uniform(0.85, 1.05)
        distance = np.maximum(np.maximum(np.abs(x), np.abs(y)), (np.abs(x) + np.abs(y)) * 0.72) - side
    soft = rng.uniform(1, max(1.5, 0.02 * max(size)))
    return np.asarray(np.clip(0.5 - distance / soft, rng.uniform(0, 0.02), 1), dtype=np.float32)


def _lettering(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return a mask of the letters that a recorder writes into a corner."""
    height, width = size
    image = Image.new("L", (width, height))
    y, x = rng.choice((0.03, 0.88)) * height, rng.choice((0.02, 0.6)) * width
    words = " ".join(
        "".join(map(str, rng.integers(0, 10, rng.integers(2, 6)))) for _ in range(rng.integers(1, 3))
    )
    ImageDraw.Draw(image).text((x, y), words, fill=255)
    return image


def speckle(rng: np.random.Generator, height: int, width: int, cell: float) -> FloatArray:
    """Return speckle as in an ultrasound picture, about 1 on average."""
    rows, columns = max(2, int(height / cell)), max(2, int(width / cell))
    field = rng.rayleigh(0.8, (rows, columns)).astype(np.float32)
    return np.asarray(np.clip(resize(field, height, width), 0.02, 3))
