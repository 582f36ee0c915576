"""3 x 3 convolutions with a quarter of the multiplications, for processors.

Winograd's minimal filtering F(4 x 4, 3 x 3) with the interpolation points 0, 1, -1, 2, -2 and infinity, as
in *Fast Algorithms for Convolutional Neural Networks* (arXiv 1509.09308): tiles of 6 x 6 pixels and the
kernel are transformed, multiplied point by point (a matrix product over the channels for each of 36 points),
and transformed back to tiles of 4 x 4 pixels. In float32 that differs from the direct way by 1e-5 of the
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 4  # side of what a tile gives
_READ = _TILE + 2  # and of what it is made from
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_KERNEL: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]
_AT_ONE = _READ + 1  # the point (1, 1), whose value goes into all pixels of a tile alike


def _both_axes(matrix: Sequence[Sequence[float]]) -> Tensor:
    """Return what transforms the rows and the columns of a flattened tile at once."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one)


_INPUT_2D, _OUTPUT_2D = _both_axes(_INPUT).float(), _both_axes(_OUTPUT).float()
_KERNEL_2D = _both_axes(_KERNEL)


def can_tile(x: Tensor) -> bool:
    """Whether `tiled_conv` is for a map (B, C, H, W): float32 on a processor, sides of whole tiles."""
    exact = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and x.device.type == "cpu" and x.shape[-2] % _TILE == 0 and x.shape[-1] % _TILE == 0


def transform_kernel(weight: Tensor) -> Tensor:
    """Transform the weight (K, C, 3, 3) of a convolution to what `tiled_conv` takes, (36, C, K)."""
    flat = weight.detach().double().permute(2, 3, 1, 0).flatten(0, 1).flatten(1)
    points = _KERNEL_2D.to(weight.device) @ flat
    return points.to(weight.dtype).view(_READ**2, *weight.shape[1::-1])


def tiled_conv(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Convolve, with a border of zeros one pixel wide.

    Parameters
    ----------
    x : tensor, shape (B, C, H, W), float32
        In channels-last order in memory; H and W are multiples of 4.
    kernel : tensor, shape (36, C, K)
        From `transform_kernel`.
    bias : tensor, shape (K,)
        Added to every pixel.

    Returns
    -------
    tensor, shape (B, K, H, W), float32
        In channels-last order in memory.
    """
    products = torch.bmm(_points(x), kernel)
    products[_AT_ONE] += bias
    return _map(products, x.shape)


def trained_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve as `tiled_conv` does, with gradients for both, which are made in tiles as well.

    Parameters
    ----------
    x : tensor, shape (B, C, H, W), float32
        As of `tiled_conv`.
    weight : tensor, shape (K, C, 3, 3), float32
        Of the convolution.

    Returns
    -------
    tensor, shape (B, K, H, W), float32
        In channels-last order in memory.
    """
    out: Tensor = _TrainedConv.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


class _TrainedConv(torch.autograd.Function):
    """The convolution and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve."""
        points = _points(x)
        ctx.save_for_backward(points, weight)
        return _map(torch.bmm(points, transform_kernel(weight)), x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the map and of the weight."""
        points, weight = ctx.saved_tensors
        of_map = of_weight = None
        if ctx.needs_input_grad[0]:  # a convolution with the kernel turned round
            turned = transform_kernel(weight.flip(2, 3).transpose(0, 1))
            of_map = tiled_conv(gradient, turned, gradient.new_zeros(weight.shape[1]))
        if ctx.needs_input_grad[1]:
            tiles = gradient.permute(0, 2, 3, 1).unfold(1, _TILE, _TILE).unfold(2, _TILE, _TILE)
            flat = tiles.permute(4, 5, 0, 1, 2, 3).reshape(_TILE**2, -1)
            products = (_OUTPUT_2D.T @ flat).view(_READ**2, -1, weight.shape[0])
            kernel = torch.bmm(points.transpose(1, 2), products).flatten(1)
            flat_weight = (_KERNEL_2D.T.float() @ kernel).view(3, 3, *weight.shape[1::-1])
            of_weight = flat_weight.permute(3, 2, 0, 1)
        return of_map, of_weight


def _points(x: Tensor) -> Tensor:
    """Return what is multiplied with the kernel's 36 points: (36, tiles, C)."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    tiles = padded.unfold(1, _READ, _TILE).unfold(2, _READ, _TILE)  # (B, rows, columns, C, 6, 6)
    points = _INPUT_2D @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(_READ**2, -1)
    return points.view(_READ**2, -1, x.shape[1])


def _map(products: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a map (B, K, H, W) of the products of points (36, tiles, K); `shape` is (B, C, H, W)."""
    B, _, H, W = shape
    out = (_OUTPUT_2D @ products.flatten(1)).view(_TILE, _TILE, B, H // _TILE, W // _TILE, -1)
    return out.permute(2, 3, 0, 4, 1, 5).reshape(B, H, W, -1).permute(0, 3, 1, 2)
