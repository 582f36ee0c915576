"""Instruments of keyhole surgery: a shaft, a polished wrist, jaws, hooks and tubes, and how they move."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .coats import Coat, blood, mirror
from .noise import FloatArray, noise, wander
from .shapes import Limb, Patch, cover, limb, merge, region
from .sheaths import sheath
from .skins import Skin
from .surfaces import soften
from .wrists import Link, machined, wrist_link

KINDS = (
    "grasper",
    "needle driver",
    "scissors",
    "bipolar forceps",
    "hook",
    "spatula",
    "suction tube",
    "clip applier",
    "stapler",
    "ultrasound probe",
)
_STRAIGHT = ("suction tube", "ultrasound probe", "stapler")  # without a wrist


@dataclass(frozen=True)
class Finish:
    """How a part looks: base colour, contrast of its reflections, where they sit, and detail along it."""

    color: FloatArray
    shine: float
    streaks: FloatArray  # (S, 3): position across, width, strength
    bands: FloatArray  # brightness along the part, sampled in steps
    step: float

    def shade(self, part: Limb, light: float) -> FloatArray:
        """Return colours (h, w, 3)."""
        body = np.sqrt(np.clip(1 - part.across**2, 0, 1)) * 0.75 + 0.25
        index = np.clip(part.along / self.step, 0, len(self.bands) - 1).astype(np.intp)
        glow = np.zeros_like(body)
        for at, width, strength in self.streaks:
            glow += strength * np.exp(-(((part.across - at - light) / width) ** 2))
        body = body * self.bands[index]
        return np.asarray(body[..., None] * self.color + (self.shine * glow)[..., None], dtype=np.float32)


def _metal(rng: np.random.Generator, unit: float) -> Finish:
    gray = rng.uniform(0.25, 0.75)
    tint = rng.uniform(0.88, 1.08, 3) * np.asarray((1.02, 1.0, 0.98))
    if rng.random() < 0.12:  # golden or coated
        tint = np.asarray(((1.25, 1.0, 0.55), (0.5, 0.6, 0.9), (0.35, 0.35, 0.35))[rng.integers(3)])
    return _finish(rng, gray * tint, rng.uniform(0.3, 0.9), unit, rng.uniform(0.1, 0.5))


def _mirror(rng: np.random.Generator, unit: float) -> Finish:
    """Make a polished surface that shows dark and glaring parts of what is around it."""
    finish = _finish(
        rng, np.full(3, rng.uniform(0.05, 0.6)), rng.uniform(0.6, 3), unit, rng.uniform(0.4, 1.5)
    )
    count = int(rng.integers(2, 6))
    streaks = np.stack(
        [rng.uniform(-0.9, 0.9, count), rng.uniform(0.03, 0.25, count), rng.uniform(0.2, 1.2, count)], axis=1
    )
    return replace(finish, streaks=streaks)


def _finish(
    rng: np.random.Generator, color: FloatArray, shine: float, unit: float, contrast: float
) -> Finish:
    count = int(rng.integers(1, 4))
    streaks = np.stack(
        [rng.uniform(-0.8, 0.8, count), rng.uniform(0.05, 0.35, count), rng.uniform(0.2, 1, count)], axis=1
    )
    bands = np.ones(256, dtype=np.float32)
    bands += contrast * noise(rng, 1, 256, rng.uniform(3, 30), 2)[0]
    for _ in range(rng.integers(0, 5)):  # joints, slots, rings
        at, wide = rng.integers(0, 250), rng.integers(1, 6)
        bands[at : at + wide] *= rng.choice([0.3, 0.5, 1.5])
    return Finish(
        np.clip(color, 0.01, 1).astype(np.float32),
        float(shine),
        streaks,
        np.clip(bands, 0.1, 2),
        unit * 0.006,
    )


def _shaft_finish(rng: np.random.Generator, kind: str, unit: float) -> Finish:
    choice = rng.random()
    if kind == "suction tube" or choice < 0.15:
        return _metal(rng, unit)
    if choice < 0.75:  # dark, as most are
        color = rng.uniform(0.02, 0.2) * rng.uniform(0.85, 1.15, 3)
        return _finish(rng, color, rng.uniform(0.05, 0.5), unit, rng.uniform(0, 0.15))
    if choice < 0.9:
        color = rng.uniform(0.5, 0.9) * rng.uniform(0.9, 1.05, 3)
        return _finish(rng, color, rng.uniform(0.05, 0.3), unit, rng.uniform(0, 0.2))
    return _finish(rng, rng.uniform(0.05, 0.8, 3), rng.uniform(0.05, 0.4), unit, rng.uniform(0, 0.2))


class Instrument:
    """One instrument over a clip.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where its randomness comes from.
    size : tuple of 2 ints
        Height and width of the picture.
    frames : int
        Length of the clip.
    pace : float
        How fast things happen.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> None:
        height, width = size
        unit = float(min(size))
        self._size, self._unit = size, unit
        self.kind = str(rng.choice(KINDS, p=np.asarray((4, 3, 3, 3, 2, 1, 2, 1, 1, 1)) / 21))
        self.name = self.kind
        near = np.exp(rng.uniform(np.log(0.6), np.log(1.5)))  # how close to the camera
        thick = {"suction tube": 0.6, "stapler": 1.4, "ultrasound probe": 1.5}.get(self.kind, 1.0)
        self._radius = unit * 0.045 * near * thick
        # From beyond an edge, more often from the sides and below.
        side = rng.choice(4, p=(0.35, 0.35, 0.22, 0.08))
        along = rng.uniform(0.1, 0.9)
        out = 0.5 * max(size)
        base = (
            (height * along, -out),
            (height * along, width + out),
            (height + out, width * along),
            (-out, width * along),
        )
        self._base = np.asarray(base[side], dtype=np.float32)
        sway = unit * 0.25
        self._sway = np.stack([wander(rng, frames, -sway, sway, pace * 0.4) for _ in range(2)], axis=1)
        spread = rng.uniform(0.2, 0.9)
        self._tip = np.stack(
            [
                wander(rng, frames, n * (0.5 - 0.45 * spread), n * (0.5 + 0.45 * spread), pace)
                for n in (height, width)
            ],
            axis=1,
        )
        self._tip += unit * 0.004 * rng.standard_normal((frames, 2)).astype(np.float32) * rng.random()
        self._inside = _presence(rng, frames, pace)
        self._bend = wander(rng, frames, -0.9, 0.9, pace) * rng.uniform(0.2, 1)
        self._open = wander(rng, frames, 0.0, rng.uniform(0.1, 0.7), pace * 2)
        self._light = wander(rng, frames, -0.15, 0.15, pace)
        self._shaft = _shaft_finish(rng, self.kind, unit)
        self._wrist = _metal(rng, unit)
        self._jaw = _metal(rng, unit) if rng.random() < 0.6 else self._wrist
        r = self._radius
        self._wrist_length = r * rng.uniform(0.8, 3.5)
        self._wrist_width = rng.uniform(0.7, 1.0)
        self._jaw_length = r * rng.uniform(1.5, 5)
        self._jaw_width = (r * rng.uniform(0.25, 0.5), r * rng.uniform(0.08, 0.3))
        self._curve = rng.uniform(-0.6, 0.6) * (rng.random() < 0.6)
        self._slot = rng.random() < 0.4
        self._ticks = rng.random() < 0.5
        self._links: tuple[Link, ...] = ()
        self._turns = np.zeros((frames, 0), dtype=np.float32)
        self._jaw_skins: tuple[Skin, ...] = ()
        self._sheath: Skin | None = None
        self._other_jaw: Finish | None = None  # of the second jaw, where it is lit in another way
        self._window: Finish | None = None
        self._opening = 0.0
        self._brightness = (0.0, 0.0)
        self._coats: list[Coat] = []
        self._focus = (0.0, 0.0)  # how blurred it is at its tip and a picture's side behind, in pixels

    def look_like(self, other: Instrument) -> None:
        """Take the kind and the looks of another one, but for the links of its wrist, at its own distance."""
        scale = self._radius / other._radius
        self.kind, self.name = other.kind, other.name
        self._shaft, self._wrist, self._jaw = other._shaft, other._wrist, other._jaw
        self._sheath = other._sheath
        self._wrist_length, self._wrist_width = other._wrist_length * scale, other._wrist_width
        self._jaw_length = other._jaw_length * scale
        self._jaw_width = (other._jaw_width[0] * scale, other._jaw_width[1] * scale)
        self._curve, self._slot, self._ticks = other._curve, other._slot, other._ticks
        self._window, self._opening = other._window, other._opening
        self._jaw_skins = other._jaw_skins

    def work_with(self, other: Instrument, away: FloatArray) -> None:
        """Keep the tip near that of another instrument; `away` (T, 2) is how far (y, x), frame by frame."""
        self._tip = other._tip + away

    def vary(self, rng: np.random.Generator) -> None:
        """Make it more like some real ones: nearer, polished, warmly lit, with a window in each jaw."""
        if rng.random() < 0.3:
            nearer = rng.uniform(1.2, 2.6)
            self._radius *= nearer
            self._wrist_length *= nearer
            self._jaw_length *= nearer
            self._jaw_width = (self._jaw_width[0] * nearer, self._jaw_width[1] * nearer)
        if rng.random() < 0.4:
            self._wrist = _mirror(rng, self._unit)
            self._jaw = _mirror(rng, self._unit) if rng.random() < 0.5 else self._wrist
        if rng.random() < 0.3:
            warm = np.asarray((1, rng.uniform(0.75, 1), rng.uniform(0.4, 1)), dtype=np.float32)
            for part in ("_shaft", "_wrist", "_jaw"):
                finish = getattr(self, part)
                setattr(self, part, replace(finish, color=finish.color * warm))
        if rng.random() < 0.4 and self.kind in ("grasper", "bipolar forceps", "clip applier", "scissors"):
            self._jaw_length = self._radius * rng.uniform(3, 9)
            self._jaw_width = (self._radius * rng.uniform(0.4, 0.75), self._radius * rng.uniform(0.3, 0.6))
            self._open *= rng.uniform(0, 0.6)
            through = rng.uniform(0.02, 0.6) * np.asarray((1, rng.uniform(0.2, 1), rng.uniform(0.1, 1)))
            self._window = _finish(rng, through, rng.uniform(0, 0.3), self._unit, rng.uniform(0, 0.5))

    def stand_in_light(self, rng: np.random.Generator) -> None:
        """Make it brighter or darker from its tip on, as what comes from beside the camera is."""
        self._brightness = (rng.normal(0, 0.35), rng.choice((-1, 1), p=(0.6, 0.4)) * rng.uniform(0, 2.5))

    def look_real(self, rng: np.random.Generator) -> None:
        """Make it as real ones are: cones of ceramic, openings in its jaws, half lit, half out of focus."""
        self.vary(rng)
        r = self._radius
        if self.kind in ("hook", "spatula") and rng.random() < 0.7:
            white = np.full(3, rng.uniform(0.4, 1.2)) * rng.uniform(0.93, 1.05, 3)
            self._wrist = _finish(rng, white, rng.uniform(0, 0.4), self._unit, rng.uniform(0, 0.1))
            self._wrist_length, self._wrist_width = r * rng.uniform(1.5, 5), rng.uniform(0.15, 0.5)
            self._jaw_length = r * rng.uniform(0.6, 2)
        if self.kind in ("grasper", "bipolar forceps", "scissors") and rng.random() < 0.6:
            self._window = None
            self._opening = rng.uniform(0.5, 1)
            self._jaw_length = r * rng.uniform(3, 9)
            self._jaw_width = (r * rng.uniform(0.4, 0.75), r * rng.uniform(0.35, 0.65))
            self._open = self._open * np.float32(rng.uniform(0, 0.6))
        if rng.random() < 0.2:
            thinner = rng.uniform(0.45, 0.8)
            self._radius *= thinner
            self._wrist_length *= thinner
            self._jaw_width = (self._jaw_width[0] * thinner, self._jaw_width[1] * thinner)
        self._brightness = (rng.normal(-0.1, 0.5), rng.choice((-1, 1), p=(0.6, 0.4)) * rng.uniform(0, 3))
        if rng.random() < 0.25:  # far behind, in the dark
            self._brightness = (self._brightness[0] - rng.uniform(0.7, 2), self._brightness[1] * 0.5)
        tip = self._unit * 0.012 * rng.random() ** 2
        self._focus = (tip, tip + self._unit * 0.04 * rng.random() ** 2 * (rng.random() < 0.6))

    def be_hard_to_see(self, rng: np.random.Generator) -> None:
        """Make it one of which little is seen: in the dark, at an edge, in glaring light, only its jaws."""
        kind = rng.choice(4, p=(0.4, 0.2, 0.25, 0.15))
        if kind == 0:
            self._hide_in_the_dark(rng)
        elif kind == 1:
            self._come_in_aslant(rng)
        elif kind == 2:
            self._reach_in_with_its_jaws(rng)
        else:  # in full light
            self._brightness = (rng.uniform(0.5, 1.4), self._brightness[1] * 0.5)

    def _hide_in_the_dark(self, rng: np.random.Generator) -> None:
        """Let only thin gleams be seen of it."""
        thinner = rng.uniform(0.4, 0.9)
        self._radius *= thinner
        self._wrist_length *= thinner
        self._jaw_length *= thinner
        self._jaw_width = (self._jaw_width[0] * thinner, self._jaw_width[1] * thinner)
        for part in ("_shaft", "_wrist", "_jaw"):
            count = int(rng.integers(1, 4))
            low, high = (-0.95, 0.03, 0.1), (0.95, 0.15, 1)
            gleams = [rng.uniform(a, b, count) for a, b in zip(low, high, strict=True)]
            dark = rng.uniform(0.02, 0.25) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
            finish = _finish(rng, dark, rng.uniform(0.1, 0.9), self._unit, rng.uniform(0.1, 0.6))
            setattr(self, part, replace(finish, streaks=np.stack(gleams, axis=1)))
        self._brightness = (-rng.uniform(0.6, 2.8), rng.uniform(-1, 0.6))

    def _come_in_aslant(self, rng: np.random.Generator) -> None:
        """Show little more than its tip, along an edge of the picture."""
        self._enter(rng, rng.uniform(0.5, 1.4), self._unit * rng.uniform(0.05, 0.45), 0.03)

    def _reach_in_with_its_jaws(self, rng: np.random.Generator) -> None:
        """Be so near that the jaws are seen, open, and what holds them is not."""
        self.kind = str(rng.choice(("grasper", "bipolar forceps", "scissors")))
        self._jaw_length = self._unit * rng.uniform(0.3, 0.9)
        wide = self._unit * rng.uniform(0.03, 0.11)
        self._jaw_width = (wide, wide * rng.uniform(0.6, 1))
        self._curve *= 0.3
        self._bend = self._bend * np.float32(0.1)
        self._open = rng.uniform(0.12, 0.55) + 0.1 * self._open
        if rng.random() < 0.6:
            self._window, self._opening = None, rng.uniform(0.5, 1)
        if rng.random() < 0.6:
            self._jaw = _mirror(rng, self._unit)
        other = self._jaw if rng.random() < 0.5 else _metal(rng, self._unit)
        light = rng.uniform(0.1, 1)
        self._other_jaw = replace(other, color=other.color * np.float32(light), shine=other.shine * light)
        self._enter(rng, rng.uniform(0, 0.7), self._jaw_length * rng.uniform(0.5, 1.05), 0.05)

    def _enter(self, rng: np.random.Generator, aslant: float, depth: float, sway: float) -> None:
        """Come in over an edge, at an angle to straight in, until the tip is `depth` pixels on its way."""
        height, width = self._size
        side = int(rng.integers(4))
        along = rng.uniform(0.1, 0.9)
        edge = ((0.0, width * along), (height, width * along), (height * along, 0.0), (height * along, width))
        inward = np.asarray(((1, 0), (-1, 0), (0, 1), (0, -1))[side], dtype=np.float32)
        way = _turn(inward, aslant * rng.choice((-1, 1)))
        here = np.asarray(edge[side], dtype=np.float32)
        frames = len(self._tip)
        moved = self._tip - self._tip.mean(0)
        limit = sway * self._unit / max(float(np.abs(moved).max()), 1e-3)
        self._base = here - way * self._unit
        self._sway = self._sway * np.float32(0.1)
        self._tip = (here + way * depth + moved * min(1.0, limit)).astype(np.float32)
        self._inside = np.ones(frames, dtype=np.float32)

    def place_behind(self, share: float) -> FloatArray:
        """Return what is behind the tip in the first frame, (y, x), by a share of the picture's side."""
        tip, direction = self._reach(0)
        return np.asarray(tip - direction * share * self._unit)

    def be_robotic(self, rng: np.random.Generator) -> None:
        """Make it as those of robots are: thick, with a wrist of machined links and jaws that grip."""
        self._radius = self._unit * np.exp(rng.uniform(np.log(0.04), np.log(0.14)))
        choice = rng.random()
        if choice < 0.4:  # gray, brushed
            gray = rng.uniform(0.25, 0.75) * rng.uniform(0.93, 1.07, 3)
            self._shaft = _finish(rng, gray, rng.uniform(0.05, 0.5), self._unit, rng.uniform(0, 0.15))
            fine = np.stack(
                [rng.uniform(-1, 1, 12), rng.uniform(0.02, 0.08, 12), rng.uniform(-0.15, 0.25, 12)], axis=1
            )
            self._shaft = replace(self._shaft, streaks=np.concatenate((self._shaft.streaks, fine)))
        elif choice < 0.85:
            dark = rng.uniform(0.015, 0.15) * rng.uniform(0.9, 1.1, 3)
            self._shaft = _finish(rng, dark, rng.uniform(0.05, 0.6), self._unit, rng.uniform(0, 0.2))
        if self.kind not in _STRAIGHT:
            self._build_wrist(rng)
        self._brightness = (rng.normal(0, 0.3), rng.normal(-0.2, 0.8))
        near = self._unit * 0.006 * rng.random() ** 2
        self._focus = (near, near + self._unit * 0.03 * rng.random() ** 2 * (rng.random() < 0.5))
        if rng.random() < 0.3:
            self._enter(rng, rng.uniform(0, 0.8), self._unit * rng.uniform(0.1, 0.7), 0.1)

    def come_near(self, rng: np.random.Generator, around: FloatArray) -> None:
        """Make it a robot's, so near that its wrist fills much of the picture; `around` (RGB) tints it."""
        if self.kind in _STRAIGHT and rng.random() < 0.8:
            self.kind = str(rng.choice(("grasper", "needle driver", "scissors", "bipolar forceps")))
            self.name = self.kind
        self.be_robotic(rng)
        self._radius = self._unit * np.exp(rng.uniform(np.log(0.06), np.log(0.19)))
        tint = around ** rng.uniform(0, 0.7) if rng.random() < 0.5 else np.ones(3)
        if rng.random() < 0.85:
            self._sheath = sheath(rng, self._unit * rng.uniform(0.7, 1.6), around)
        if self._links:
            self._build_wrist(rng, tint)
        self._brightness = (rng.normal(0.1, 0.35), rng.normal(-0.6, 0.9))
        if rng.random() < 0.6:
            self._enter(rng, rng.uniform(0, 0.9), self._unit * rng.uniform(0.35, 1.1), 0.12)

    def blend_in(self, rng: np.random.Generator, around: FloatArray) -> None:
        """Let a surface around it, (Y, X, 3) of the picture's size, be seen in it, and now and then blood."""
        if rng.random() < 0.8:
            self._coats.append(mirror(rng, around, self._unit))
        if rng.random() < 0.4:
            self._coats.append(blood(rng, self._size))

    def _build_wrist(self, rng: np.random.Generator, tint: FloatArray | float = 1.0) -> None:
        """Put links between shaft and jaws, and a skin on each jaw; `tint` (RGB) colours the metal."""
        r = self._radius
        metal = np.asarray(rng.uniform(0.15, 0.75) * rng.uniform(0.93, 1.07, 3) * tint, dtype=np.float32)
        count = int(rng.integers(1, 4))
        self._links = tuple(wrist_link(rng, r * 0.9**i, metal) for i in range(count))
        frames = len(self._tip)
        most = rng.uniform(0.1, 0.9)
        self._turns = np.stack([wander(rng, frames, -most, most, 0.05) for _ in range(count)], axis=1)
        self._wrist_length = sum(one.length for one in self._links)
        long, wide = r * rng.uniform(1.2, 4.5), r * rng.uniform(0.2, 0.55)
        self._jaw_length, self._jaw_width = long, (wide, wide * rng.uniform(0.3, 0.95))
        self._window = None
        self._opening = rng.uniform(0.4, 1) if rng.random() < 0.35 else 0.0
        shades = metal * rng.uniform(0.2, 1.5), metal * rng.uniform(0.2, 1.5)
        if rng.random() < 0.5:
            shades = shades[0], shades[0]
        toothed = bool(rng.random() < 0.6)
        self._jaw_skins = tuple(machined(rng, long / 2, shade, toothed) for shade in shades)

    def relight(self, shine: float, shade: float) -> None:
        """Make the reflections of its metal brighter and its colours darker, by factors."""
        for part in ("_wrist", "_jaw"):
            metal = getattr(self, part)
            setattr(self, part, replace(metal, shine=metal.shine * shine, color=metal.color * shade))
        self._shaft = replace(self._shaft, color=self._shaft.color * shade)

    def draw(self, t: int) -> Patch | None:
        """Paint it as it is in frame `t`; None where it is out of the picture."""
        tip, direction = self._reach(t)
        base = self._base + self._sway[t]
        bend = self._bend[t]
        parts: list[Patch] = []
        if self.kind in _STRAIGHT:
            self._straight(parts, t, base, tip, direction)
        else:
            total = self._wrist_length + self._jaw_length
            wrist = tip - direction * total
            if self._links:
                self._linked(parts, t, wrist, direction)
            else:
                turned = _turn(direction, bend)
                joint = wrist + turned * self._wrist_length
                self._jaws(parts, t, joint, turned)
                radii = [self._radius * 0.95, self._radius * self._wrist_width]
                self._add(parts, self._wrist, t, [wrist, joint], radii)
            shaft = self._sheath or self._shaft
            self._add(parts, shaft, t, [base, wrist], [self._radius * 1.25, self._radius], blunt=True)
        patch = merge(parts)
        if patch is None:
            return None
        for coat in self._coats:
            coat.lie_over(patch, tip, direction, self._unit)
        if self._brightness != (0.0, 0.0):
            self._fade(patch, tip, direction)
        if max(self._focus) > 0.3:
            patch = self._defocus(patch, tip, direction)
        return patch

    def _reach(self, t: int) -> tuple[FloatArray, FloatArray]:
        """Return where its tip is in frame `t`, and in which direction it points, each (y, x)."""
        base = self._base + self._sway[t]
        toward = self._tip[t] - base
        reach = np.hypot(*toward)
        direction = toward / reach
        return base + direction * reach * self._inside[t], direction

    def _behind(self, patch: Patch, tip: FloatArray, direction: FloatArray) -> FloatArray:
        """Return how far behind the tip the pixels of a patch are, in sides of the picture, 0 to 1.2."""
        where = patch.region
        y, x = where.y - tip[0], where.x - tip[1]
        return np.asarray(np.clip(-(y * direction[0] + x * direction[1]) / self._unit, 0, 1.2))

    def _fade(self, patch: Patch, tip: FloatArray, direction: FloatArray) -> None:
        """Brighten or darken a patch with how far its pixels are behind the tip."""
        behind = self._behind(patch, tip, direction)
        near, change = self._brightness
        patch.color *= np.clip(np.exp(near + change * behind), 0.06, 3)[..., None].astype(np.float32)

    def _defocus(self, patch: Patch, tip: FloatArray, direction: FloatArray) -> Patch:
        """Blur a patch, more or less with how far its pixels are behind the tip."""
        near, far = self._focus
        extent = patch.alpha if patch.extent is None else patch.extent
        whole = np.concatenate(
            (patch.color * patch.alpha[..., None], patch.alpha[..., None], extent[..., None]), axis=-1
        )
        # What lies beyond the picture goes on as at its edge; elsewhere there is room for what spreads.
        reach = int(np.ceil(3 * max(near, far)))
        rows, columns = extent.shape
        bottom, right = self._size[0] - patch.top - rows, self._size[1] - patch.left - columns
        room = tuple(min(reach, n) for n in (patch.top, bottom, patch.left, right))
        whole = np.pad(whole, (room[:2], room[2:], (0, 0)))
        patch = Patch(patch.top - room[0], patch.left - room[2], whole[..., :3], whole[..., 3])
        share = np.clip(self._behind(patch, tip, direction), 0, 1)[..., None]
        a, b = (soften(whole, sigma) if sigma > 0.3 else whole for sigma in (near, far))
        soft = a + share * (b - a)
        alpha = soft[..., 3]
        color = soft[..., :3] / np.maximum(alpha, 1e-3)[..., None]
        return Patch(patch.top, patch.left, color, alpha, extent=soft[..., 4])

    def _linked(self, parts: list[Patch], t: int, start: FloatArray, direction: FloatArray) -> None:
        """Add the jaws and the links of the wrist, from its end to where it `start`s."""
        links: list[list[Patch]] = []
        for link, turn in zip(self._links, self._turns[t], strict=True):
            direction = _turn(direction, float(turn))
            end = start + direction * link.length
            aside = _turn(direction, np.pi / 2)
            own: list[Patch] = []
            if link.fork:
                for sign in (-1, 1):
                    prong = [start + aside * sign * link.fork, end + aside * sign * link.fork]
                    self._add(own, link.looks, t, prong, [n * 0.45 for n in link.radii])
                half = start + direction * link.length * 0.4
                self._add(own, link.looks, t, [start, half], list(link.radii))
            else:
                self._add(own, link.looks, t, [start, end], list(link.radii))
            for knob in link.knobs:
                at = start + (end - start) * knob.along + aside * knob.across * link.radii[0]
                self._add(own, knob.looks, t, [at, at + direction], [knob.radius] * 2)
            links.append(own)
            start = end
        self._jaws(parts, t, start, direction)
        for own in reversed(links):
            parts.extend(own)

    def _straight(
        self, parts: list[Patch], t: int, base: FloatArray, tip: FloatArray, direction: FloatArray
    ) -> None:
        r = self._radius
        if self.kind == "suction tube":
            end = tip + _turn(direction, self._curve) * r * 2
            self._add(parts, self._shaft, t, [tip, end], [r, r * 0.8])
            self._add(parts, self._shaft, t, [base, tip], [r * 1.1, r])
            for i in range(4 if self._slot else 0):
                hole = tip - direction * r * (1 + 1.8 * i)
                self._add(parts, _HOLE, t, [hole, hole + direction * r * 0.4], [r * 0.3, r * 0.3])
            return
        head = tip - direction * r * (7 if self.kind == "stapler" else 5)
        gap = _turn(direction, np.pi / 2) * r * (0.25 + 0.8 * self._open[t])
        if self.kind == "stapler":
            for sign in (-1, 1):
                self._add(parts, self._jaw, t, [head, tip + sign * gap], [r * 0.5, r * 0.42])
        else:
            self._add(parts, self._jaw, t, [head, tip], [r * 1.15, r * 1.05])
            for i in range(1, 5 if self._ticks else 1):
                at = head + (tip - head) * i / 5
                across = _turn(direction, np.pi / 2) * r * 0.7
                self._add(parts, _HOLE, t, [at - across, at + across], [r * 0.08, r * 0.08])
        self._add(parts, self._sheath or self._shaft, t, [base, head], [r * 1.1, r * 0.9], blunt=True)

    def _jaws(self, parts: list[Patch], t: int, joint: FloatArray, direction: FloatArray) -> None:
        length, (wide, narrow) = self._jaw_length, self._jaw_width
        if self.kind in ("hook", "spatula"):
            mid = joint + direction * length * 0.7
            angle = 1.5 if self.kind == "hook" else self._curve
            end = mid + _turn(direction, angle * (1 if self._curve >= 0 else -1)) * length * 0.35
            hook = self._jaw_skins[0] if self._jaw_skins else self._jaw
            self._add(parts, hook, t, [joint, mid, end], [wide * 0.6, wide * 0.45, narrow])
            return
        opening = self._open[t]
        for sign in (-1, 1):
            first = _turn(direction, sign * opening)
            second = _turn(direction, sign * opening * 0.6 + self._curve)
            mid = joint + first * length * 0.5
            end = mid + second * length * 0.5
            fat = 1.8 if self.kind == "needle driver" else 1.0
            before = len(parts)
            finish: Finish | Skin = self._jaw
            if self._jaw_skins:
                finish = self._jaw_skins[sign > 0]
            elif sign > 0 and self._other_jaw is not None:
                finish = self._other_jaw
            self._add(parts, finish, t, [joint, mid, end], [wide * fat, wide * 0.9 * fat, narrow * fat])
            if self._opening:
                through = [joint + first * length * 0.15, mid, mid + second * length * 0.4]
                self._open_up(parts[before:], through, [wide * 0.62, wide * 0.6, narrow * 0.62])
            elif self._slot and self.kind in ("grasper", "bipolar forceps"):
                hole = [joint + first * length * 0.3, mid + second * length * 0.1]
                self._add(parts, _HOLE, t, hole, [wide * 0.3, wide * 0.25])
            if self._window is not None:
                window = [joint + first * length * 0.15, mid, mid + second * length * 0.3]
                self._add(parts, self._window, t, window, [wide * 0.5, wide * 0.5, narrow * 0.5])

    def _open_up(self, parts: list[Patch], points: list[FloatArray], radii: list[float]) -> None:
        """Let what is behind be seen through parts, along points (y, x)."""
        for part in parts:
            where = part.region
            closed = np.ones_like(part.alpha)
            for i in range(len(points) - 1):
                hole = limb(where, points[i], points[i + 1], (radii[i], radii[i + 1]))
                closed = np.minimum(closed, 1 - self._opening * cover(hole.distance))
            part.extent = part.alpha
            part.alpha = part.alpha * closed

    def _add(
        self,
        parts: list[Patch],
        finish: Finish | Skin,
        t: int,
        points: list[FloatArray],
        radii: list[float],
        blunt: bool = False,
    ) -> None:
        light = float(self._light[t])
        for i in range(len(points) - 1):
            where = region(self._size, np.stack(points[i : i + 2]), max(radii[i : i + 2]))
            if where is None:
                continue
            part = limb(where, points[i], points[i + 1], (radii[i], radii[i + 1]), blunt)
            alpha = cover(part.distance)
            if alpha.any():
                if blunt:  # bands stay with the far end, which is in the picture
                    part = Limb(part.distance, np.hypot(*(points[1] - points[0])) - part.along, part.across)
                parts.append(Patch(where.top, where.left, finish.shade(part, light), alpha))


_HOLE = Finish(
    np.asarray((0.05, 0.03, 0.03), dtype=np.float32),
    0.1,
    np.asarray([[0.0, 0.3, 0.3]]),
    np.ones(8, dtype=np.float32),
    1.0,
)


def _turn(direction: FloatArray, angle: float) -> FloatArray:
    """Turn a direction (y, x)."""
    c, s = np.cos(angle), np.sin(angle)
    y, x = direction
    return np.asarray((y * c + x * s, x * c - y * s), dtype=np.float32)


def _presence(rng: np.random.Generator, frames: int, pace: float) -> FloatArray:
    """Return how far along its way in an instrument is, 1 at its place and 0 far outside, frame by frame."""
    if rng.random() < 0.55:
        return np.ones(frames, dtype=np.float32)
    level = np.ones(frames, dtype=np.float32)
    inside = rng.random() < 0.7
    t = 0
    while t < frames:
        stay = int(rng.uniform(0.5, 2.5) / pace) + 1
        level[t : t + stay] = 1.0 if inside else 0.25
        t += stay
        inside = not inside
    ramp = max(1, int(0.5 / pace))
    padded = np.pad(level, ramp, mode="edge")
    kernel = np.hanning(2 * ramp + 3)[1:-1]
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="same")
    return smooth[ramp : ramp + frames].astype(np.float32)
