"""The image trunk: Hiera (arXiv 2306.00989) with windowed position embeddings (arXiv 2311.05613)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import HieraConfig
from .layers import MLP


def _split_windows(x: Tensor, size: int) -> Tensor:
    """Cut (B, H, W, C) into (B * windows, size, size, C), padding at the far edges."""
    H, W, C = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    x = x.unflatten(1, (-1, size)).unflatten(3, (-1, size))
    return x.transpose(2, 3).reshape(-1, size, size, C)


def _join_windows(windows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Put windows back together as (batch, height, width, C), dropping the padding."""
    size = windows.shape[1]
    rows, columns = -(-height // size), -(-width // size)
    x = windows.view(batch, rows, columns, size, size, -1).transpose(2, 3)
    return x.reshape(batch, rows * size, columns * size, -1)[:, :height, :width]


def _max_pool(x: Tensor) -> Tensor:
    """Halve the height and width of (B, H, W, C)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, the queries pooled where a stage begins."""

    def __init__(self, dim_in: int, dim_out: int, num_heads: int, pool: bool) -> None:
        super().__init__()
        self.num_heads, self.pool = num_heads, pool
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map windows (B, H, W, dim_in) to (B, H or H / 2, W or W / 2, dim_out)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = _max_pool(q)
        height, width = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        projected: Tensor = self.proj(out.unflatten(1, (height, width)))
        return projected


class HieraBlock(nn.Module):
    """A transformer block over windows, or over the whole image where `window` is 0."""

    def __init__(self, dim_in: int, dim_out: int, num_heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.window, self.pool = window, pool
        self.norm1 = nn.LayerNorm(dim_in, eps=1e-6)
        self.attn = WindowAttention(dim_in, dim_out, num_heads, pool)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP(dim_out, 4 * dim_out, dim_out, activation=F.gelu)
        self.proj = nn.Linear(dim_in, dim_out) if dim_in != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim_in) to (B, H or H / 2, W or W / 2, dim_out)."""
        shortcut, x = x, self.norm1(x)
        if self.proj is not None:
            shortcut = self.proj(x)
            shortcut = _max_pool(shortcut) if self.pool else shortcut
        B, H, W, _ = shortcut.shape
        x = self.attn(_split_windows(x, self.window)) if self.window else self.attn(x)
        x = shortcut + (_join_windows(x, B, H, W) if self.window else x)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Hiera(nn.Module):
    """The trunk; parameter names are those of the published checkpoints.

    Attributes
    ----------
    activation_checkpointing : bool
        Where gradients are on, keep only what enters each block and make the rest again on the way back, to
        take less memory.
    """

    activation_checkpointing: bool = False

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dim, first_window = config.embed_dim, config.window_sizes[0]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, 7, stride=4, padding=3)})
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *config.position_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, first_window, first_window))
        self.blocks = nn.ModuleList()
        self._stage_ends = set()
        heads, dim_in = config.num_heads, dim
        for stage, depth in enumerate(config.stages):
            for i in range(depth):
                begins_stage = stage > 0 and i == 0
                if begins_stage:
                    heads *= 2
                # The block that begins a stage still sees the windows of the stage before.
                window = config.window_sizes[stage - 1 if begins_stage else stage]
                if len(self.blocks) in config.global_attention_blocks:
                    window = 0
                dim_out = config.channels[stage]
                self.blocks.append(HieraBlock(dim_in, dim_out, heads, window, pool=begins_stage))
                dim_in = dim_out
            self._stage_ends.add(len(self.blocks) - 1)

    def _positions(self, height: int, width: int) -> Tensor:
        coarse = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        tiles = self.pos_embed_window.tile(1, 1, -(-height // side), -(-width // side))
        return (coarse + tiles[..., :height, :width]).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 3, S, S) to the maps after each stage, finest first: (B, C_i, S / 2^(2+i), S / 2^(2+i))."""
        x = self.patch_embed["proj"](image).permute(0, 2, 3, 1)
        x = x + self._positions(*x.shape[1:3])
        again = self.activation_checkpointing and torch.is_grad_enabled()
        maps = []
        for i, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            if i in self._stage_ends:
                maps.append(x.permute(0, 3, 1, 2))
        return maps
