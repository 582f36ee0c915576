"""The memory attention: a frame's features look at the memories of an object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention
from .positions import rotary_grid, rotate, sine_grid


class MemoryAttentionLayer(nn.Module):
    """Self-attention over the frame, attention to the memories, and a feed-forward layer."""

    def __init__(self, dim: int, memory_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads=1)
        self.cross_attn_image = Attention(dim, num_heads=1, key_dim=memory_dim)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rotary: Tensor) -> Tensor:
        """Map features (1 or B, HW, dim) to (B, HW, dim), given projected memories (B, N, dim)."""
        own, cross = self.self_attn, self.cross_attn_image
        y = self.norm1(x)
        x = x + own.attend(rotate(own.q_proj(y), rotary), rotate(own.k_proj(y), rotary), own.v_proj(y))
        q = rotate(cross.q_proj(self.norm2(x)), rotary)
        x = x + cross.attend(q.expand(len(keys), -1, -1), keys, values, mask)
        out: Tensor = x + self.linear2(F.relu(self.linear1(self.norm3(x))))
        return out


class MemoryAttention(nn.Module):
    """SAM 2's memory attention over memories that were projected once, when they entered the bank.

    A key is k_proj(memory + its place + its time), turned by the rotary code of its place. All of these are
    linear, so the part of the time is a small table that is added when the memory is used, and everything
    else is done in `project_memory`. Values have neither place nor time.
    """

    def __init__(self, dim: int, memory_dim: int, mlp_dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(dim, memory_dim, mlp_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def _cross(self) -> Sequence[Attention]:
        return [layer.cross_attn_image for layer in self.layers]  # type: ignore[misc]

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project memory maps (B, memory_dim, h, w) to keys and values, each (B, L, h * w, dim)."""
        h, w = memory.shape[-2:]
        tokens = memory.flatten(2).transpose(1, 2)
        placed = tokens + sine_grid(h, w, tokens.shape[-1], memory.device)
        keys = torch.stack([cross.k_proj(placed) for cross in self._cross()], dim=1)
        values = torch.stack([cross.v_proj(tokens) for cross in self._cross()], dim=1)
        return rotate(keys, rotary_grid(h, w, keys.shape[-1], memory.device)), values

    def project_times(self, codes: Tensor, height: int, width: int) -> Tensor:
        """Project temporal codes (T, memory_dim) to what they add to keys, (T, L, height * width, dim)."""
        added = torch.stack([F.linear(codes, cross.k_proj.weight) for cross in self._cross()], dim=1)
        places = added[:, :, None].expand(-1, -1, height * width, -1)
        return rotate(places, rotary_grid(height, width, added.shape[-1], codes.device))

    def project_pointers(self, tokens: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Project pointer tokens and their times, both (B, P, memory_dim), to (B, L, P, dim) each."""
        keys = torch.stack([cross.k_proj(tokens + times) for cross in self._cross()], dim=1)
        return keys, torch.stack([cross.v_proj(tokens) for cross in self._cross()], dim=1)

    def forward(self, image: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Give a frame's features their memories.

        Parameters
        ----------
        image : tensor, shape (1, dim, h, w)
            The frame's features, shared by the objects.
        keys, values : tensor, shape (B, L, N, dim)
            Projected memories and pointers of B objects, for each of the L layers.
        mask : tensor, shape (B, N), bool, optional
            True where a key is one; objects with fewer memories than others are filled up. None: all are.

        Returns
        -------
        tensor, shape (B, dim, h, w)
        """
        h, w = image.shape[-2:]
        x = image.flatten(2).transpose(1, 2)
        rotary = rotary_grid(h, w, x.shape[-1], x.device)
        x = x + 0.1 * sine_grid(h, w, x.shape[-1], x.device)
        for i, layer in enumerate(self.layers):
            x = layer(x, keys[:, i], values[:, i], mask, rotary)
        out: Tensor = self.norm(x)
        return out.transpose(1, 2).reshape(len(out), -1, h, w)
