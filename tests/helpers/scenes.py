"""Scenes in which it is known what happens: hiding, crossing."""

import numpy as np

from napari_surgsam2.synthetic.noise import wander
from napari_surgsam2.synthetic.optics import Camera, Light
from napari_surgsam2.synthetic.scenes import Scene
from napari_surgsam2.synthetic.surfaces import plain, tissue
from napari_surgsam2.synthetic.things import Blob, Outline, Rope
from napari_surgsam2.synthetic.view import View, surface_size

SIZE = (256, 320)


def _scene(seed: int, frames: int) -> Scene:
    """Return still tissue under a still light, with nothing on it."""
    rng = np.random.default_rng(seed)
    surface = tissue(rng, *surface_size(SIZE), 256.0)
    view, light = View(rng, SIZE, frames, 0.02, 0.1), Light(rng, SIZE, frames, 0.02)
    return Scene(SIZE, surface, view, light, Camera(rng, SIZE, frames, 0.02, medical=False), shadow=0.2)


def _draw(scene: Scene, frames: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [scene.draw(t) for t in range(frames)]
    return np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])


def _blob(name: str, course: np.ndarray, radius: float, color: tuple[float, float, float]) -> Blob:
    rng = np.random.default_rng(5)
    frames = len(course)
    circle = Outline(np.array([[2, 0.15, 1.0]], np.float32), 0, np.zeros((frames, 1), np.float32))
    radii = np.full(frames, radius, np.float32)
    return Blob(rng, name, SIZE, course.astype(np.float32), radii, plain(color, 8, 8), circle, bulge=0.8)


def hidden_for_a_while(seed: int = 3, frames: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return video and labels: thing 1 lies still, and something unlabelled passes in front of it."""
    scene = _scene(seed, frames)
    t = np.arange(frames)[:, None]
    scene.add(_blob("thing", np.tile([[130.0, 150.0]], (frames, 1)), 30, (0.15, 0.35, 0.75)))
    passing = np.concatenate([np.full((frames, 1), 130.0), 460.0 - 26.0 * t], axis=1)
    scene.add(_blob("curtain", passing, 85, (0.75, 0.7, 0.3)), label=False)
    return _draw(scene, frames)


def crossing_instruments(seed: int = 4, frames: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return video and labels: two rods of the same looks, from left and right, whose tips cross."""
    scene = _scene(seed, frames)
    share = np.linspace(0, 1, frames)
    for side in (-1, 1):
        base = np.tile([[128.0 + 40 * side, 160.0 + 260 * side]], (frames, 1))
        tip_y = 128 + 55 * side * (1 - 2 * share)
        tip = np.stack([tip_y, np.full(frames, 160.0 - 25 * side)], axis=1)
        along = np.linspace(0, 1, 5)[None, :, None]
        points = (base[:, None] * (1 - along) + tip[:, None] * along).astype(np.float32)
        sway = wander(np.random.default_rng(seed + side), frames, -3, 3, 0.2)
        points[:, -1, 0] += sway
        scene.add(Rope("rod", SIZE, points, (16.0, 12.0), np.full(3, 0.25, np.float32), 0.5))
    return _draw(scene, frames)
