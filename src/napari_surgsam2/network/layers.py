"""Small layers that several parts of the network share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_CHANNELS = 4  # for which torch's layer norm is many times slower than its parts one by one


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Parameters
    ----------
    widths : sequence of int
        Input width, hidden widths and output width.
    activation : callable
        Applied after every layer but the last.
    """

    def __init__(self, *widths: int, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., first width) to (..., last width)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class LayerNorm2d(nn.Module):
    """Normalise the channels of every pixel of a (B, C, H, W) map."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if x.shape[1] <= _FEW_CHANNELS and x.dtype == torch.float32:
            centred = x - x.mean(1, keepdim=True)
            scaled = centred * ((centred * centred).mean(1, keepdim=True) + self.eps).rsqrt()
            return torch.addcmul(self.bias[:, None, None], scaled, self.weight[:, None, None])
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its input's.

    Parameters
    ----------
    dim : int
        Width of queries and output.
    num_heads : int
        Number of heads; divides the inner width.
    downsample : int
        The inner width is `dim // downsample`.
    key_dim : int, optional
        Width of keys and values before projection; `dim` if left out.
    """

    def __init__(self, dim: int, num_heads: int, downsample: int = 1, key_dim: int | None = None) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(key_dim or dim, inner)
        self.v_proj = nn.Linear(key_dim or dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with projected queries (B, N, C) to projected keys and values (B, M, C).

        `mask` is None or (B, M) bool, True for keys that take part.
        """
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        if mask is not None:
            mask = mask[:, None, None, :]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))
        return out

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with queries (B, N, dim) to keys and values (B, M, key_dim); return (B, N, dim)."""
        return self.attend(self.q_proj(q), self.k_proj(k), self.v_proj(v))
