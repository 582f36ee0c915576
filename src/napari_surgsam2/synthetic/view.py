"""How the camera sees a surface: moved, turned, zoomed, and the surface itself slowly deforming."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .noise import FloatArray, wander
from .surfaces import Surface

MARGIN = 0.2  # of the surface beyond each edge of the picture, as a share of the picture's side


def surface_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the surface that a picture of `size` is cut from."""
    height, width = (round(n * (1 + 2 * MARGIN)) for n in size)
    return height, width


class View:
    """The picture's way over a surface.

    Attributes
    ----------
    zoom : array, shape (T,)
        How much larger than at first things are.
    """

    def __init__(
        self, rng: np.random.Generator, size: tuple[int, int], frames: int, pace: float, restless: float
    ) -> None:
        self._size = size
        unit = min(size)
        swing = MARGIN * 0.6 * restless * unit
        self._pan = np.stack([wander(rng, frames, -swing, swing, pace * 0.7) for _ in range(2)], axis=1)
        shake = rng.standard_normal((frames, 2)).astype(np.float32)
        self._pan += shake * unit * 0.004 * rng.random() * restless
        self._turn = wander(rng, frames, -0.2, 0.2, pace * 0.5) * restless
        self.zoom = np.exp(wander(rng, frames, -0.12, 0.22, pace * 0.5) * restless)
        self._waves = rng.uniform(-1, 1, (2, 2, 7, 7)).astype(np.float32)
        self._weights = np.stack([wander(rng, frames, -1, 1, pace * 1.5) for _ in range(2)], axis=1)
        self._depth = unit * 0.035 * rng.uniform(0, 1)

    def follow(self, point: FloatArray) -> FloatArray:
        """Return where a point of the first picture, (y, x), is in every frame, (T, 2)."""
        out = np.empty((len(self.zoom), 2), dtype=np.float32)
        center = np.asarray(self._size, dtype=np.float32) / 2
        for t in range(len(out)):
            c, s = np.cos(self._turn[t]), np.sin(self._turn[t])
            dy, dx = point - center - self._pan[t]
            out[t] = center + self.zoom[t] * np.asarray((dy * c - dx * s, dy * s + dx * c))
            node = np.clip(point / self._size * 6, 0, 6).round().astype(int)
            out[t] -= (
                self.zoom[t]
                * self._depth
                * np.tensordot(self._weights[t], self._waves[:, :, node[0], node[1]], axes=(0, 0))
            )
        return out

    def see(self, surface: Surface, t: int) -> tuple[FloatArray, FloatArray]:
        """Return the albedo (Y, X, 3) and slope (Y, X, 2) that the picture shows in frame `t`."""
        height, width = self._size
        rows, columns = surface.albedo.shape[:2]
        y = torch.arange(height, dtype=torch.float32)[:, None] - height / 2
        x = torch.arange(width, dtype=torch.float32)[None] - width / 2
        c, s = float(np.cos(self._turn[t])), float(np.sin(self._turn[t]))
        z = float(1 / self.zoom[t])
        waves = torch.from_numpy(np.tensordot(self._weights[t], self._waves, axes=(0, 0)) * self._depth)
        flow = F.interpolate(waves[None].float(), (height, width), mode="bicubic", align_corners=True)[0]
        cy = (y * c + x * s) * z + float(self._pan[t][0]) + rows / 2 + flow[0]
        cx = (x * c - y * s) * z + float(self._pan[t][1]) + columns / 2 + flow[1]
        grid = torch.stack((cx * (2 / columns) - 1, cy * (2 / rows) - 1), dim=-1)[None]
        source = torch.from_numpy(np.concatenate((surface.albedo, surface.slope), axis=-1)).permute(2, 0, 1)
        seen = F.grid_sample(source[None], grid, padding_mode="reflection", align_corners=False)[0]
        layers = seen.permute(1, 2, 0).contiguous().numpy()
        return layers[..., :3], layers[..., 3:]
