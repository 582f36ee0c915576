"""Position codes: sines over a grid or a line, random Fourier features, and axial rotary codes."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

_TEMPERATURE = 10000.0


# Tables are made outside inference mode, so that training may use the same ones.
def _wavelengths(n: int, device: torch.device) -> Tensor:
    k = torch.arange(n, dtype=torch.float32, device=device)
    return _TEMPERATURE ** (2 * torch.div(k, 2, rounding_mode="floor") / n)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
@torch.no_grad()
def sine_grid(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Return sine codes of a grid's (y, x) positions, shape (height * width, dim), float32.

    Positions run from 1 to the side's length and are scaled to 2 pi; the first half of the channels codes
    y, the second x, sines and cosines alternating (DETR, arXiv 2005.12872).
    """
    wavelengths = _wavelengths(dim // 2, device)

    def line(n: int) -> Tensor:
        position = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * (2 * math.pi)
        phase = position[:, None] / wavelengths
        return torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1)

    y = line(height)[:, None].expand(-1, width, -1)
    x = line(width)[None].expand(height, -1, -1)
    return torch.cat((y, x), dim=-1).flatten(0, 1)


def sine_line(positions: Tensor, dim: int) -> Tensor:
    """Return sine codes of the numbers `positions`, shape (N,): (N, dim), all sines before all cosines."""
    phase = positions[:, None] / _wavelengths(dim // 2, positions.device)
    return torch.cat((phase.sin(), phase.cos()), dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
@torch.no_grad()
def rotary_grid(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Return the axial rotary code of a grid, cosine + i sine, (height * width, dim / 2) complex64.

    The first half of the channel pairs turns with x, the second with y (RoPE-ViT, arXiv 2403.13298).
    """
    frequencies = _TEMPERATURE ** -(torch.arange(0, dim, 4, dtype=torch.float32, device=device) / dim)
    index = torch.arange(height * width, device=device)
    x, y = (index % width).float(), torch.div(index, width, rounding_mode="floor").float()
    angle = torch.cat((torch.outer(x, frequencies), torch.outer(y, frequencies)), dim=-1)
    return torch.complex(angle.cos(), angle.sin())


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn neighbouring channel pairs of x, shape (..., N, C), by a `rotary_grid` of N places."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)


class RandomFourierPositions(nn.Module):
    """Random Fourier features of (x, y) positions between 0 and 1 (SAM, arXiv 2304.02643)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, xy: Tensor) -> Tensor:
        """Map positions (..., 2) in (x, y) order to codes (..., 2 * features), float32."""
        with torch.autocast(xy.device.type, enabled=False):
            phase = 2 * math.pi * ((2 * xy.float() - 1) @ self.positional_encoding_gaussian_matrix.float())
            return torch.cat((phase.sin(), phase.cos()), dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Return the codes of a grid's pixel centres, shape (1, 2 * features, height, width)."""
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        xy = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1)
        code: Tensor = self(xy)
        return code.permute(2, 0, 1)[None]
