"""The image trunk of small networks: residual blocks of plain convolutions, fast on a CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ConvNetConfig


def _normed(dim_in: int, dim_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(dim_out)
    )


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (ResNet, arXiv 1512.03385)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = _normed(dim, dim)
        self.conv2 = _normed(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W) to the same shape."""
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class ConvNet(nn.Module):
    """The trunk."""

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        first = config.channels[0]
        self.stem = nn.Sequential(
            _normed(3, first // 2, stride=2), nn.ReLU(), _normed(first // 2, first, stride=2), nn.ReLU()
        )
        self.halve = nn.ModuleList(
            nn.Sequential(_normed(a, b, stride=2), nn.ReLU()) for a, b in pairwise(config.channels)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(dim) for _ in range(depth)))
            for dim, depth in zip(config.channels, config.blocks, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 3, S, S) to the maps after each stage, finest first: (B, C_i, S / 2^(2+i), S / 2^(2+i))."""
        x = self.stem(image.contiguous(memory_format=torch.channels_last))  # faster on a CPU
        maps = [self.stages[0](x)]
        for halve, stage in zip(self.halve, list(self.stages)[1:], strict=True):
            maps.append(stage(halve(maps[-1])))
        return maps
