"""What is in a scene besides instruments: organs, gauze, needles, threads, cells, arbitrary things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .noise import FloatArray, noise, wander
from .shapes import Patch, cover, limb, merge, region
from .surfaces import Surface, picture, plain, tissue
from .view import View


class Actor(Protocol):
    """Something that moves in a scene and has a name."""

    name: str

    def draw(self, t: int) -> Patch | None:
        """Paint it as it is in frame `t`; None where it is out of the picture."""
        ...


@dataclass(frozen=True)
class Outline:
    """A closed curve around a centre, r(angle), that breathes.

    Attributes
    ----------
    waves : array, shape (K, 3)
        Order, amplitude and phase of each wave.
    corners : int
        Of a regular polygon under the waves; 0 for a circle.
    breath : array, shape (T, K)
        What is added to the phases, frame by frame.
    """

    waves: FloatArray
    corners: int
    breath: FloatArray

    def radius(self, angle: FloatArray, t: int) -> FloatArray:
        """Return r(angle), about 1."""
        r = np.ones_like(angle)
        if self.corners:
            part = 2 * np.pi / self.corners
            r = np.cos(part / 2) / np.cos(np.mod(angle, part) - part / 2)
        for (order, size, phase), more in zip(self.waves, self.breath[t], strict=True):
            r = r + size * np.cos(order * angle + phase + more)
        return np.asarray(np.maximum(r, 0.15), dtype=np.float32)


def outline(rng: np.random.Generator, frames: int, pace: float, rough: float) -> Outline:
    """Make a random outline; `rough` is 0 for a circle and 1 for a very uneven one."""
    count = int(rng.integers(1, 6))
    orders = rng.integers(1, 8, count)
    sizes = rough * rng.uniform(0.05, 0.45, count) / orders**0.7
    waves = np.stack([orders, sizes, rng.uniform(0, 2 * np.pi, count)], axis=1).astype(np.float32)
    lively = rng.uniform(0, 1.2) * (rng.random() < 0.6)
    breath = np.stack([wander(rng, frames, -lively, lively, pace) for _ in range(count)], axis=1)
    return Outline(waves, int(rng.choice((0, 0, 0, 3, 4, 5, 6))) if rough < 0.3 else 0, breath)


class Blob:
    """A soft thing with a closed outline, textured, and shaded like a dome where it bulges.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where its randomness comes from.
    name : str
        What it is.
    size : tuple of 2 ints
        Height and width of the picture.
    course : array, shape (T, 2)
        Its centre (y, x), frame by frame.
    radius : array, shape (T,)
        Its size in pixels.
    surface : Surface
        What it is covered with.
    shape : Outline
        Its outline.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        name: str,
        size: tuple[int, int],
        course: FloatArray,
        radius: FloatArray,
        surface: Surface,
        shape: Outline,
        *,
        spin: float = 0.0,
        bulge: float = 0.0,
        rim: float = 0.0,
        opacity: float = 1.0,
        hole: float = 0.0,
        softness: float = 1.0,
    ) -> None:
        frames = len(course)
        self.name = name
        self._size, self._course, self._radius, self._surface, self._shape = (
            size,
            course,
            radius,
            surface,
            shape,
        )
        self._stretch = rng.uniform(0.45, 1.0)
        self._turn = rng.uniform(0, 2 * np.pi) + wander(rng, frames, -spin, spin, 0.05)
        self._bulge, self._rim, self._opacity, self._hole = bulge, rim, opacity, hole
        self._softness = softness
        self._light = rng.uniform(0, 2 * np.pi)

    def draw(self, t: int) -> Patch | None:
        """Paint it as it is in frame `t`; None where it is out of the picture."""
        r = float(self._radius[t])
        center = self._course[t]
        where = region(self._size, center[None], 1.9 * r)
        if where is None or r < 0.5:
            return None
        dy, dx = where.y - center[0], where.x - center[1]
        c, s = np.cos(self._turn[t]), np.sin(self._turn[t])
        v, u = (dy * c - dx * s) / (r * self._stretch), (dy * s + dx * c) / r
        rho = np.hypot(v, u)
        edge = self._shape.radius(np.arctan2(v, u), t)
        inside = rho / edge
        distance = (rho - edge) * r * (0.5 + 0.5 * self._stretch)
        alpha = cover(distance / self._softness)
        if self._hole:
            alpha = alpha * (1 - cover((rho - self._hole * edge) * r))
        if not (alpha > 0).any():
            return None
        rows, columns = self._surface.albedo.shape[:2]
        iy = np.clip((v * 0.27 + 0.5) * rows, 0, rows - 1).astype(np.intp)
        ix = np.clip((u * 0.27 + 0.5) * columns, 0, columns - 1).astype(np.intp)
        color = self._surface.albedo[iy, ix]
        dome = np.sqrt(np.clip(1 - inside**2, 0, 1))
        tilt = (dy * np.sin(self._light) + dx * np.cos(self._light)) / r
        shade = 1 + self._bulge * (0.5 * dome - 0.35 + 0.3 * tilt) - self._rim * np.clip(inside, 0, 1) ** 6
        color = color * np.clip(shade, 0.1, 2)[..., None]
        if self._surface.gloss:
            glint = np.exp(-(((inside - 0.4) / 0.2) ** 2) - ((tilt - 0.4) / 0.2) ** 2)
            color = color + (self._surface.gloss * self._bulge * 0.7 * glint)[..., None]
        opacity = self._opacity
        return Patch(
            where.top, where.left, color.astype(np.float32), (alpha * opacity).astype(np.float32), opacity
        )


class Rope:
    """Something long and thin along a curve that moves: a needle, a thread, a worm.

    Parameters
    ----------
    name : str
        What it is.
    size : tuple of 2 ints
        Height and width of the picture.
    points : array, shape (T, N, 2)
        The curve (y, x), frame by frame.
    radius : tuple of 2 floats
        Half its thickness where it begins and ends, in pixels.
    color : array, shape (3,)
        Its colour.
    shine : float
        How bright its ridge is.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        points: FloatArray,
        radius: tuple[float, float],
        color: FloatArray,
        shine: float,
    ) -> None:
        self.name = name
        self._size, self._points, self._color, self._shine = size, points, color, shine
        self._radii = np.linspace(radius[0], radius[1], points.shape[1])

    def draw(self, t: int) -> Patch | None:
        """Paint it as it is in frame `t`; None where it is out of the picture."""
        parts = []
        points = self._points[t]
        for i in range(len(points) - 1):
            radii = (float(self._radii[i]), float(self._radii[i + 1]))
            where = region(self._size, points[i : i + 2], max(radii))
            if where is None:
                continue
            part = limb(where, points[i], points[i + 1], radii)
            body = 0.4 + 0.6 * np.sqrt(np.clip(1 - part.across**2, 0, 1))
            glow = self._shine * np.exp(-(((part.across - 0.2) / 0.25) ** 2))
            color = body[..., None] * self._color + glow[..., None]
            parts.append(Patch(where.top, where.left, color.astype(np.float32), cover(part.distance)))
        return merge(parts)


def organ(
    rng: np.random.Generator,
    size: tuple[int, int],
    view: View,
    pace: float,
    over: FloatArray | None = None,
) -> Blob:
    """Make an organ, tumour or polyp that lies on the tissue, `over` a place (y, x), and moves with it."""
    frames, unit = len(view.zoom), float(min(size))
    place = rng.uniform((0.15, 0.15), (0.85, 0.85)) * size if over is None else over
    radius = unit * np.exp(rng.uniform(np.log(0.06), np.log(0.3)))
    surface = tissue(rng, 96, 96, 96.0)
    tint = np.asarray(rng.uniform(0.6, 1.3, 3), dtype=np.float32)
    surface = Surface(np.clip(surface.albedo * tint, 0, 1), surface.slope, surface.gloss)
    pulse = 1 + wander(rng, frames, -0.06, 0.06, pace * 2)
    shape = outline(rng, frames, pace, rng.uniform(0.2, 0.8))
    course = view.follow(np.asarray(place, dtype=np.float32))
    rim, soft = rng.uniform(0.1, 0.5), rng.uniform(1, 4)
    bulge = rng.uniform(0.4, 1.1)
    return Blob(
        rng,
        "organ",
        size,
        course,
        radius * view.zoom * pulse,
        surface,
        shape,
        bulge=bulge,
        rim=rim,
        softness=soft,
    )


def gauze(rng: np.random.Generator, size: tuple[int, int], view: View, pace: float) -> Blob:
    """Make a white cloth, partly soaked, or a piece of plastic."""
    frames, unit = len(view.zoom), float(min(size))
    y, x = np.mgrid[:96, :96].astype(np.float32)
    weave = 0.5 + 0.25 * (np.sin(y * rng.uniform(0.6, 2)) + np.sin(x * rng.uniform(0.6, 2)))
    albedo = (0.6 + 0.35 * weave)[..., None] * rng.uniform(0.85, 1, 3).astype(np.float32)
    soaked = np.clip(noise(rng, 96, 96, 40, 3) + rng.uniform(-1, 0.6), 0, 1)[..., None]
    albedo = albedo * (1 - soaked) + soaked * np.asarray((0.55, 0.08, 0.08), dtype=np.float32)
    course = view.follow(np.asarray(rng.uniform(0.1, 0.9, 2) * size, dtype=np.float32))
    radius = unit * rng.uniform(0.08, 0.25) * view.zoom
    surface = Surface(albedo.astype(np.float32), np.zeros((96, 96, 2), dtype=np.float32), 0.0)
    shape = outline(rng, frames, pace, 0.25)
    return Blob(rng, "gauze", size, course, radius, surface, shape, spin=0.3, bulge=rng.uniform(0.2, 0.6))


def flap(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Blob:
    """Make a piece of tissue near the camera that comes in front of things."""
    unit = float(min(size))
    angle = rng.uniform(0, 2 * np.pi)
    outward = np.asarray((np.sin(angle), np.cos(angle)), dtype=np.float32)
    away = wander(rng, frames, 0.45, 1.0, pace)[:, None] * outward * np.asarray(size, dtype=np.float32)
    course = np.asarray(size, dtype=np.float32) / 2 + away
    radius = np.full(frames, unit * rng.uniform(0.2, 0.5), dtype=np.float32)
    surface = tissue(rng, 96, 96, 96.0)
    shape = outline(rng, frames, pace, 0.5)
    return Blob(
        rng, "flap", size, course, radius, surface, shape, bulge=0.9, rim=0.4, softness=rng.uniform(1, 6)
    )


def needle_and_thread(
    rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float
) -> list[Rope]:
    """Make a curved needle and the thread that hangs on it."""
    unit = float(min(size))
    center = np.stack([wander(rng, frames, 0.2 * n, 0.8 * n, pace * 0.7) for n in size], axis=1)
    turn = rng.uniform(0, 2 * np.pi) + wander(rng, frames, -1, 1, pace)
    radius, span = unit * rng.uniform(0.06, 0.14), rng.uniform(1.6, 3.1)
    angles = turn[:, None] + np.linspace(0, span, 9)
    flat = rng.uniform(0.4, 1)
    arc = np.stack([flat * np.sin(angles), np.cos(angles)], axis=-1) * radius + center[:, None]
    thick = unit * rng.uniform(0.006, 0.012)
    steel = np.full(3, rng.uniform(0.5, 0.8), dtype=np.float32)
    needle = Rope("needle", size, arc.astype(np.float32), (thick, thick * 0.5), steel, 0.5)
    swing = [wander(rng, frames, -0.35, 0.35, pace) for _ in range(12)]
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(np.stack(swing, axis=1), axis=1) * 1.6
    steps = np.stack([np.sin(heading), np.cos(heading)], axis=-1) * unit * rng.uniform(0.03, 0.08)
    path = arc[:, :1] + np.concatenate([np.zeros_like(steps[:, :1]), np.cumsum(steps, axis=1)], axis=1)
    dark = np.asarray(
        ((0.1, 0.1, 0.12), (0.3, 0.1, 0.45), (0.15, 0.3, 0.6), (0.8, 0.8, 0.75))[rng.integers(4)]
    )
    thread = Rope("thread", size, path.astype(np.float32), (thick * 0.5,) * 2, dark.astype(np.float32), 0.1)
    return [thread, needle]


def thing(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Blob | Rope:
    """Make an arbitrary thing: any outline, any surface, any motion, in and out of the picture."""
    unit = float(min(size))
    reach = rng.uniform(0.3, 0.75)
    course = np.stack([wander(rng, frames, n * (0.5 - reach), n * (0.5 + reach), pace) for n in size], axis=1)
    size_now = unit * np.exp(rng.uniform(np.log(0.03), np.log(0.28)))
    if rng.random() < 0.15:
        count = 10
        swing = np.stack([wander(rng, frames, -0.4, 0.4, pace * 1.5) for _ in range(count)], axis=1)
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(swing, axis=1)
        steps = np.stack([np.sin(heading), np.cos(heading)], axis=-1) * size_now * 0.5
        points = (course[:, None] + np.cumsum(steps, axis=1)).astype(np.float32)
        thick = size_now * rng.uniform(0.1, 0.4)
        color = rng.uniform(0, 1, 3).astype(np.float32)
        return Rope("worm", size, points, (thick, thick * rng.uniform(0.3, 1)), color, rng.uniform(0, 0.4))
    surface = (
        picture(rng, 80, 80, 80.0)
        if rng.random() < 0.75
        else plain(tuple(rng.uniform(0.02, 0.98, 3).tolist()), 8, 8)
    )
    radius = size_now * (1 + wander(rng, frames, -0.25, 0.25, pace))
    shape = outline(rng, frames, pace, rng.uniform(0, 1))
    flat = rng.random() < 0.4
    return Blob(
        rng,
        "thing",
        size,
        course.astype(np.float32),
        radius,
        surface,
        shape,
        spin=rng.uniform(0, 2) * (rng.random() < 0.7),
        bulge=0.0 if flat else rng.uniform(0.2, 1.2),
        rim=rng.uniform(0, 0.6) * (rng.random() < 0.4),
        opacity=rng.uniform(0.75, 1) if rng.random() < 0.15 else 1.0,
        hole=rng.uniform(0.2, 0.6) if rng.random() < 0.08 else 0.0,
        softness=rng.uniform(1, 3),
    )


def cell(
    rng: np.random.Generator,
    size: tuple[int, int],
    frames: int,
    pace: float,
    style: Surface,
    like: Outline | None,
) -> Blob:
    """Make a cell: round or spread out, brighter or darker than what it lies on, with a nucleus or grains."""
    unit = float(min(size))
    drift = unit * rng.uniform(0.02, 0.3)
    start = rng.uniform(-0.05, 1.05, 2) * size
    course = np.stack([start[i] + wander(rng, frames, -drift, drift, pace) for i in range(2)], axis=1)
    texture = style.albedo * (1 + 0.25 * noise(rng, 64, 64, rng.uniform(4, 24), 2)[..., None])
    if rng.random() < 0.6:
        y, x = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
        at = rng.uniform(-0.2, 0.2, 2)
        nucleus = np.exp(-((((y - at[0]) ** 2 + (x - at[1]) ** 2) / rng.uniform(0.02, 0.08)) ** 2))
        texture = texture * (1 + rng.choice((-0.5, 0.6, 1.0)) * nucleus)[..., None]
    surface = Surface(np.clip(texture, 0, 1).astype(np.float32), style.slope, 0.0)
    radius = unit * rng.uniform(0.03, 0.1) * (1 + wander(rng, frames, -0.15, 0.15, pace))
    shape = like or outline(rng, frames, pace, rng.uniform(0.3, 0.9))
    rim = rng.choice((-0.6, 0.0, 0.5))
    soft, opacity = rng.uniform(1, 3), rng.uniform(0.6, 1)
    bulge = rng.uniform(0, 0.8)
    return Blob(
        rng,
        "cell",
        size,
        course.astype(np.float32),
        radius,
        surface,
        shape,
        spin=0.5,
        bulge=bulge,
        rim=float(rim),
        opacity=opacity,
        softness=soft,
    )
