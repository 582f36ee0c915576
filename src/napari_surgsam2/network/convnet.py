"""The image trunk of small networks: residual blocks of plain convolutions, fast on a CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .config import ConvNetConfig
from .winograd import can_tile, tiled_conv, trained_conv, transform_kernel

_TILED_FROM = 96  # channels: with fewer, the transforms take longer than the multiplications they save


class _Folded(NamedTuple):
    """A convolution with its batch norm in it; the kernel of `tiled_conv` too, where that is faster."""

    weight: Tensor
    bias: Tensor
    kernel: Tensor | None


class _Normed(nn.Sequential):
    """A convolution and the batch norm after it, which are one convolution where nothing is trained."""

    def __init__(self, dim_in: int, dim_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(dim_in, dim_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(dim_out)
        )
        self._tiled = stride == 1 and dim_in >= _TILED_FROM
        self._folded: tuple[object, _Folded] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim_in, H, W) to (B, dim_out, H, W), or half the side."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        if self.training or torch.is_grad_enabled():
            tiled = self._tiled and can_tile(x)
            out: Tensor = norm(trained_conv(x, conv.weight) if tiled else conv(x))
            return out
        folded = self._fold()
        if folded.kernel is not None and can_tile(x):
            return tiled_conv(x, folded.kernel, folded.bias)
        return F.conv2d(x, folded.weight, folded.bias, conv.stride, conv.padding)

    def _fold(self) -> _Folded:
        """Return the one convolution; made anew whenever a weight has changed."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        parts = (conv.weight, norm.weight, norm.bias, mean, variance)
        key = tuple((p.data_ptr(), p._version) for p in parts)
        if self._folded is None or self._folded[0] != key:
            weight, bias = fuse_conv_bn_weights(
                conv.weight, None, mean, variance, norm.eps, norm.weight, norm.bias
            )
            channels_last = weight.detach().contiguous(memory_format=torch.channels_last)
            on_cpu = weight.device.type == "cpu"  # others do without, and MPS has no float64 to make it in
            kernel = transform_kernel(weight) if self._tiled and on_cpu else None
            self._folded = key, _Folded(channels_last, bias.detach(), kernel)
        return self._folded[1]


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (ResNet, arXiv 1512.03385)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = _Normed(dim, dim)
        self.conv2 = _Normed(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dim, H, W) to the same shape."""
        return F.relu_(self.conv2(F.relu_(self.conv1(x))).add_(x))


class ConvNet(nn.Module):
    """The trunk."""

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        first = config.channels[0]
        self.stem = nn.Sequential(
            _Normed(3, first // 2, stride=2),
            nn.ReLU(inplace=True),
            _Normed(first // 2, first, stride=2),
            nn.ReLU(inplace=True),
        )
        self.halve = nn.ModuleList(
            nn.Sequential(_Normed(a, b, stride=2), nn.ReLU(inplace=True))
            for a, b in pairwise(config.channels)
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
