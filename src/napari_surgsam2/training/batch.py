"""The clips of a step, their objects side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .clips import TrainingClip


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips of the same length, their objects side by side.

    Attributes
    ----------
    frames : tensor, shape (T, C, S, S, 3), uint8
        Of C clips.
    masks : tensor, shape (T, N, S, S), bool
        Of N objects.
    annotated : tensor, shape (T, N), bool
        Where the truth is known.
    clip : tensor, shape (N,), integer
        The clip of each object.
    void : tensor, shape (T, C, S, S), bool, or None
        Pixels that count for nothing; None without any.
    """

    frames: Tensor
    masks: Tensor
    annotated: Tensor
    clip: Tensor
    void: Tensor | None = None

    @classmethod
    def of(cls, clips: Sequence[TrainingClip], device: torch.device) -> Batch:
        """Put clips together."""
        counts = torch.tensor([len(c.masks) for c in clips])
        annotated = torch.stack([c.annotated for c in clips], dim=1)
        return cls(
            torch.stack([c.frames for c in clips], dim=1).to(device),
            torch.cat([c.masks for c in clips]).transpose(0, 1).to(device),
            annotated.repeat_interleave(counts, dim=1).to(device),
            torch.repeat_interleave(counts).to(device),
            cls._void_of(clips, device),
        )

    @staticmethod
    def _void_of(clips: Sequence[TrainingClip], device: torch.device) -> Tensor | None:
        if all(c.void is None for c in clips):
            return None
        none = torch.zeros_like(clips[0].masks[0])
        return torch.stack([none if c.void is None else c.void for c in clips], dim=1).to(device)

    def others_in(self, t: int, masks: Tensor) -> Tensor:
        """Return what the objects of each one's clip cover, (N, S, S), beside `masks` of the same shape."""
        clips = torch.zeros((self.frames.shape[1], *masks.shape[1:]), device=masks.device)
        covered = clips.index_add(0, self.clip, self.masks[t].float()) > 0
        return covered[self.clip] & ~masks

    def void_in(self, t: int) -> Tensor | None:
        """Return the void pixels of a frame for each object, (N, S, S)."""
        return None if self.void is None else self.void[t][self.clip]
