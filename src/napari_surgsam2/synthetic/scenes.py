"""Scenes: what is in them, in what order, and how a frame is put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .instruments import Instrument
from .layers import organs_in_layers
from .noise import FloatArray, noise, resize, wander
from .optics import Beam, Camera, Light, Smoke, UInt8Array, speckle
from .shapes import Patch, paint
from .surfaces import Surface, picture, plain, recede, soften, tissue
from .things import Actor, Blob, cell, flap, gauze, needle_and_thread, organ, outline, thing
from .view import View, surface_size


@dataclass
class Scene:
    """Everything that a clip shows, back to front.

    Attributes
    ----------
    size : tuple of 2 ints
        Height and width of the picture.
    surface : Surface
        What lies behind everything.
    view, light, camera : View, Light or None, Camera
        How it is seen, lit and recorded.
    actors : list of Actor
        What moves, back to front.
    labelled : list of int
        The label of each actor; 0 for what only hides others.
    shadow : float
        How dark the shadows of actors are.
    beam : Beam or None
        What lights actors and surface alike, besides `light`.
    smoke : Smoke or None
        What lies over everything.
    grain : list of arrays
        Speckle that everything is multiplied with, in turn; nothing is seen or labelled where it is 0.
    """

    size: tuple[int, int]
    surface: Surface
    view: View
    light: Light | None
    camera: Camera
    actors: list[Actor] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)
    shadow: float = 0.0
    beam: Beam | None = None
    smoke: Smoke | None = None
    grain: list[FloatArray] = field(default_factory=list)

    def add(self, actor: Actor, label: bool = True) -> None:
        """Put an actor in front of the others."""
        self.actors.append(actor)
        self.labelled.append(max(self.labelled, default=0) + 1 if label else 0)

    @property
    def names(self) -> dict[int, str]:
        """What each label is."""
        return {n: a.name for a, n in zip(self.actors, self.labelled, strict=True) if n}

    def draw(self, t: int) -> tuple[UInt8Array, npt.NDArray[np.uint8]]:
        """Return frame `t`, (Y, X, 3), and its labels, (Y, X)."""
        albedo, slope = self.view.see(self.surface, t)
        image = albedo if self.light is None else self.light.shine(albedo, slope, self.surface.gloss, t)
        labels = np.zeros(self.size, dtype=np.uint8)
        for actor, label in zip(self.actors, self.labelled, strict=True):
            patch = actor.draw(t)
            if patch is None:
                continue
            if self.shadow:
                self._cast(image, patch)
            paint(image, patch)
            labels[patch.slices][patch.inside] = label
        if self.beam is not None:
            self.beam.fall_on(image, t)
        if self.grain:
            grain = self.grain[t % len(self.grain)]
            image = image * grain[..., None]
            labels[grain == 0] = 0
        if self.smoke is not None:
            self.smoke.veil(image, t)
        if self.camera.hidden is not None:
            labels[self.camera.hidden] = 0
        return self.camera.record(image, t), labels

    def _cast(self, image: FloatArray, patch: Patch) -> None:
        """Darken what is beside and under a patch."""
        h, w = patch.alpha.shape
        if h < 8 or w < 8:
            return
        reach = max(1, round(min(self.size) * 0.02))
        step = max(1, reach // 2)
        wide = np.pad(patch.alpha, 2 * reach)
        soft = resize(soften(wide[::step, ::step], reach / step), *wide.shape).clip(0, 1)
        top, left = patch.top - 2 * reach + int(1.5 * reach), patch.left - 2 * reach  # it falls downwards
        y, x = max(0, -top), max(0, -left)
        part = image[top + y : top + len(soft), left + x : left + soft.shape[1]]
        part *= 1 - self.shadow * soft[y : y + part.shape[0], x : x + part.shape[1], None]


def laparoscopy(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene of keyhole surgery."""
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.7 else 0.1)
    unit = float(min(size))
    odd = rng.random() < 0.12  # so that instruments are known on any ground
    surface = (picture if odd else tissue)(rng, *surface_size(size), unit)
    light, camera = Light(rng, size, frames, pace), Camera(rng, size, frames, pace, medical=True)
    scene = Scene(size, surface, view, light, camera, shadow=rng.uniform(0, 0.5))
    for _ in range(rng.choice(3, p=(0.6, 0.3, 0.1))):
        scene.add(organ(rng, size, view, pace))
    if rng.random() < 0.12:
        scene.add(gauze(rng, size, view, pace))
    if rng.random() < 0.12:
        for part in needle_and_thread(rng, size, frames, pace):
            scene.add(part)
    for _ in range(rng.choice((1, 2, 3, 4), p=(0.2, 0.42, 0.28, 0.1))):
        scene.add(Instrument(rng, size, frames, pace))
    if rng.random() < 0.2:
        scene.add(flap(rng, size, frames, pace), label=False)
    if rng.random() < 0.3:
        scene.smoke = Smoke(rng, size, frames, pace)
    return scene


def teamwork(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene of keyhole surgery whose instruments work together: often alike, touching and crossing."""
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.7 else 0.1)
    surface = tissue(rng, *surface_size(size), unit)
    light, camera = Light(rng, size, frames, pace), Camera(rng, size, frames, pace, medical=True)
    scene = Scene(size, surface, view, light, camera, shadow=rng.uniform(0, 0.5))
    if rng.random() < 0.5:
        scene.add(organ(rng, size, view, pace))
    shine, shade = rng.uniform(1, 4), rng.uniform(0.3, 1)
    glaring, dim = rng.random() < 0.4, rng.random() < 0.25
    first: Instrument | None = None
    for _ in range(rng.integers(2, 5)):
        one = Instrument(rng, size, frames, pace)
        one.vary(rng)
        if first is None:
            first = one
        else:
            if rng.random() < 0.6:
                one.look_like(first)
            if rng.random() < 0.6:
                away = [wander(rng, frames, -0.2 * unit, 0.2 * unit, pace) for _ in range(2)]
                one.work_with(first, np.stack(away, axis=1))
        scene.add(one)
    for actor in scene.actors:
        if isinstance(actor, Instrument):
            actor.relight(shine if glaring else 1.0, shade if dim else 1.0)
    if rng.random() < 0.3:
        scene.smoke = Smoke(rng, size, frames, pace)
    return scene


def _crew(
    rng: np.random.Generator,
    size: tuple[int, int],
    frames: int,
    pace: float,
    change: Callable[[Instrument, np.random.Generator], None],
) -> Iterator[Instrument]:
    """Draw one to four instruments, each changed as said; some then look like the first one."""
    first: Instrument | None = None
    for _ in range(rng.choice((1, 2, 3, 4), p=(0.15, 0.4, 0.35, 0.1))):
        one = Instrument(rng, size, frames, pace)
        change(one, rng)
        if first is None:
            first = one
        elif rng.random() < 0.35:
            one.look_like(first)
        yield one


def cavity(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene of keyhole surgery as deep and dark as real ones: one light for tissue and instruments.

    Instruments become bright or dark towards the camera, grasp with long jaws that have windows, and pass
    behind tissue, so that they are seen in pieces.
    """
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.7 else 0.1)
    surface = tissue(rng, *surface_size(size), unit)
    if rng.random() < 0.7:
        surface = recede(rng, surface, unit)
    light, camera = Light(rng, size, frames, pace), Camera(rng, size, frames, pace, medical=True)
    scene = Scene(size, surface, view, light, camera, shadow=rng.uniform(0, 0.7))
    scene.beam = Beam(rng, size, frames, pace)
    for _ in range(rng.choice(3, p=(0.4, 0.4, 0.2))):
        scene.add(organ(rng, size, view, pace))
    for one in _crew(rng, size, frames, pace, Instrument.vary):
        if rng.random() < 0.75:
            one.stand_in_light(rng)
        scene.add(one)
        if rng.random() < 0.15:
            scene.add(organ(rng, size, view, pace))
    if rng.random() < 0.3:
        scene.add(flap(rng, size, frames, pace), label=False)
    if rng.random() < 0.35:
        scene.smoke = Smoke(rng, size, frames, pace)
    return scene


def _lit(
    rng: np.random.Generator,
    view: View,
    surface: Surface,
    size: tuple[int, int],
    frames: int,
    pace: float,
    *,
    beam: float,
    bloom: tuple[float, float, float],
    gray: bool = False,
) -> Scene:
    """Light what is seen of a body, nothing in it yet, and put an endoscope's camera before it.

    `beam` is how often one light falls on everything; `bloom` how often what is too bright shines on what is
    beside it, how strongly at most, and how far at most, as a share of the picture's shorter side.
    """
    light = Light(rng, size, frames, pace)
    camera = Camera(rng, size, frames, pace, medical=True, gray=gray)
    often, strongest, farthest = bloom
    if rng.random() < often:
        camera.bloom(rng.uniform(0.1, strongest), min(size) * rng.uniform(0.01, farthest))
    scene = Scene(size, surface, view, light, camera, shadow=rng.uniform(0, 0.6))
    if rng.random() < beam:
        scene.beam = Beam(rng, size, frames, pace)
    return scene


def _finish(
    rng: np.random.Generator, scene: Scene, frames: int, pace: float, *, thread: float, smoke: float
) -> None:
    """Add, as often as said, a needle and its thread before all else, and smoke over everything."""
    if rng.random() < thread:
        for part in needle_and_thread(rng, scene.size, frames, pace):
            scene.add(part)
    if rng.random() < smoke:
        scene.smoke = Smoke(rng, scene.size, frames, pace)


def _tint(surface: Surface) -> FloatArray:
    """Return the mean colour of a surface, RGB, the highest of the three 1."""
    color = surface.albedo.mean(axis=(0, 1))
    return np.asarray(color / color.max(), dtype=np.float32)


def abdomen(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene of keyhole surgery with organs in layers and instruments as real pictures show them.

    Near organs are lit and far ones dark and out of focus; instruments are half lit, half out of focus, thin
    or far behind, and pass behind tissue.
    """
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.7 else 0.1)
    surface = organs_in_layers(rng, *surface_size(size), unit)
    scene = _lit(rng, view, surface, size, frames, pace, beam=0.8, bloom=(0.7, 0.8, 0.08))
    for one in _crew(rng, size, frames, pace, Instrument.look_real):
        scene.add(one)
        if rng.random() < 0.2:
            scene.add(organ(rng, size, view, pace))
    if rng.random() < 0.3:
        scene.add(flap(rng, size, frames, pace), label=False)
    if rng.random() < 0.3:
        scene.smoke = Smoke(rng, size, frames, pace)
    return scene


def depths(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene as `abdomen`, of whose instruments little is seen.

    They gleam in the dark, lie behind an organ that leaves two pieces of them, come in along an edge, glare,
    or are so near that their open jaws are all that is in the picture.
    """
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.7 else 0.1)
    surface = organs_in_layers(rng, *surface_size(size), unit)
    if rng.random() < 0.5:
        surface = recede(rng, surface, unit)
    scene = _lit(rng, view, surface, size, frames, pace, beam=0.6, bloom=(0.7, 0.8, 0.08))
    for one in _crew(rng, size, frames, pace, Instrument.look_real):
        if rng.random() < 0.75:
            one.be_hard_to_see(rng)
        scene.add(one)
        if rng.random() < 0.35:
            hidden = one.place_behind(rng.uniform(0.02, 0.5)).astype(np.float32)
            scene.add(organ(rng, size, view, pace, over=hidden))
    return scene


def robotic(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene of surgery with a robot: thick instruments with machined wrists, near and well lit."""
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.6 else 0.1)
    area = surface_size(size)
    surface = organs_in_layers(rng, *area, unit) if rng.random() < 0.5 else tissue(rng, *area, unit)
    scene = _lit(rng, view, surface, size, frames, pace, beam=0.35, bloom=(0.4, 0.6, 0.05))
    for one in _crew(rng, size, frames, pace, Instrument.be_robotic):
        scene.add(one)
        if rng.random() < 0.1:
            scene.add(organ(rng, size, view, pace))
    if rng.random() < 0.2:
        scene.add(gauze(rng, size, view, pace))
    _finish(rng, scene, frames, pace, thread=0.2, smoke=0.2)
    return scene


def closeup(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene as `robotic` whose instruments are so near that wrists fill much of the picture.

    They show the colour of what is around them, which may be hardly brighter or darker than they are.
    """
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.6 else 0.1)
    area = surface_size(size)
    surface = organs_in_layers(rng, *area, unit) if rng.random() < 0.3 else tissue(rng, *area, unit)
    around = _tint(surface)
    gray = bool(rng.random() < 0.2)
    scene = _lit(rng, view, surface, size, frames, pace, beam=0.25, bloom=(0.4, 0.6, 0.05), gray=gray)
    for one in _crew(rng, size, frames, pace, lambda each, at: each.come_near(at, around)):
        scene.add(one)
        if rng.random() < 0.1:
            scene.add(organ(rng, size, view, pace))
    _finish(rng, scene, frames, pace, thread=0.2, smoke=0.15)
    return scene


def reflections(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene as `closeup` or `robotic`, in whose instruments the tissue around them is mirrored.

    More so in some parts than in others, so that one part is hardly seen and the next stands out; blood is
    on some.
    """
    unit = float(min(size))
    view = View(rng, size, frames, pace, rng.random() if rng.random() < 0.6 else 0.1)
    area = surface_size(size)
    surface = organs_in_layers(rng, *area, unit) if rng.random() < 0.4 else tissue(rng, *area, unit)
    around = _tint(surface)
    seen, _ = view.see(surface, 0)
    gray = bool(rng.random() < 0.15)
    scene = _lit(rng, view, surface, size, frames, pace, beam=0.3, bloom=(0.5, 0.6, 0.05), gray=gray)

    def change(one: Instrument, at: np.random.Generator) -> None:
        if at.random() < 0.6:
            one.come_near(at, around)
        elif at.random() < 0.5:
            one.be_robotic(at)
        else:
            one.look_real(at)

    for one in _crew(rng, size, frames, pace, change):
        one.blend_in(rng, seen)
        scene.add(one)
        if rng.random() < 0.1:
            scene.add(organ(rng, size, view, pace))
    _finish(rng, scene, frames, pace, thread=0.15, smoke=0.2)
    return scene


def things(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make a scene of arbitrary things on an arbitrary ground."""
    view = View(rng, size, frames, pace, rng.random())
    surface = picture(rng, *surface_size(size), float(min(size)))
    light = Light(rng, size, frames, pace) if rng.random() < 0.5 else None
    scene = Scene(size, surface, view, light, Camera(rng, size, frames, pace, medical=False))
    scene.shadow = rng.uniform(0, 0.5) * (rng.random() < 0.4)
    for _ in range(rng.integers(1, 7)):
        scene.add(thing(rng, size, frames, pace))
    if rng.random() < 0.2:
        scene.add(Instrument(rng, size, frames, pace))
    return scene


def microscopy(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make cells under a microscope: fluorescent on dark, or dark and bright on gray."""
    dark = rng.random() < 0.55
    ground = rng.uniform(0.01, 0.12) if dark else rng.uniform(0.35, 0.8)
    tint = np.ones(3) if rng.random() < 0.6 else rng.uniform(0.3, 1, 3)
    height, width = surface_size(size)
    uneven = 1 + rng.uniform(0.05, 0.4) * noise(rng, height, width, min(size) * rng.uniform(0.05, 0.8), 3)
    albedo = (ground * uneven)[..., None] * tint
    slope = np.zeros((height, width, 2), dtype=np.float32)
    surface = Surface(np.clip(albedo, 0, 1).astype(np.float32), slope, 0.0)
    view = View(rng, size, frames, pace, rng.uniform(0, 0.3))
    scene = Scene(size, surface, view, None, Camera(rng, size, frames, pace, medical=False))
    share = (
        rng.uniform(0.35, 0.95)
        if dark
        else np.clip(ground + rng.choice((-1, 1)) * rng.uniform(0.08, 0.3), 0, 1)
    )
    style = plain(tuple((share * tint).tolist()), 64, 64)
    like = outline(rng, frames, pace, rng.uniform(0.2, 0.5)) if rng.random() < 0.5 else None
    for _ in range(rng.integers(3, 15)):
        scene.add(cell(rng, size, frames, pace, style, like))
    return scene


def ultrasound(rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float) -> Scene:
    """Make lesions and vessels in an ultrasound picture; `nano` is never trained on these."""
    height, width = surface_size(size)
    unit = float(min(size))
    layers = noise(rng, height, 1, unit * 0.08, 2) + 0.4 * noise(rng, height, width, unit * 0.3, 3)
    albedo = np.repeat(np.clip(0.3 + 0.12 * layers, 0.03, 1)[..., None], 3, axis=-1)
    surface = Surface(albedo.astype(np.float32), np.zeros((height, width, 2), dtype=np.float32), 0.0)
    view = View(rng, size, frames, pace, rng.uniform(0.1, 0.6))
    scene = Scene(size, surface, view, None, Camera(rng, size, frames, pace, medical=False, gray=True))
    for _ in range(rng.integers(1, 4)):
        level = rng.choice((rng.uniform(0.02, 0.12), rng.uniform(0.5, 0.8)))
        course = view.follow(np.asarray(rng.uniform(0.25, 0.75, 2) * size, dtype=np.float32))
        drift = [wander(rng, frames, -0.05 * unit, 0.05 * unit, pace) for _ in range(2)]
        radius = unit * rng.uniform(0.06, 0.18) * (1 + wander(rng, frames, -0.2, 0.2, pace))
        shape = outline(rng, frames, pace, rng.uniform(0.2, 0.8))
        tissue_like = plain((level,) * 3, 8, 8)
        scene.add(
            Blob(
                rng,
                "lesion",
                size,
                (course + np.stack(drift, axis=1)).astype(np.float32),
                radius,
                tissue_like,
                shape,
                softness=unit * 0.02,
                opacity=rng.uniform(0.7, 1),
            )
        )
    fan = _fan(rng, size)
    scene.grain = [speckle(rng, *size, unit * 0.012) * fan for _ in range(6)]
    return scene


def _fan(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    """Return 1 within the sector that a curved probe sees."""
    height, width = size
    y = np.arange(height, dtype=np.float32)[:, None] + height * rng.uniform(0.15, 0.35)
    x = np.arange(width, dtype=np.float32)[None] - width / 2
    angle, reach = np.abs(np.arctan2(x, y)), np.hypot(y, x)
    inside = (
        (angle < rng.uniform(0.5, 0.75)) & (reach < height * rng.uniform(1.1, 1.3)) & (reach > height * 0.3)
    )
    return np.asarray(inside, dtype=np.float32)


Maker = Callable[[np.random.Generator, tuple[int, int], int, float], Scene]
SCENES: dict[str, Maker] = {
    "laparoscopy": laparoscopy,
    "things": things,
    "microscopy": microscopy,
    "ultrasound": ultrasound,
    "teamwork": teamwork,
    "cavity": cavity,
    "abdomen": abdomen,
    "depths": depths,
    "robotic": robotic,
    "closeup": closeup,
    "reflections": reflections,
}
