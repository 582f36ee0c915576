"""Which memories a frame's memory attention leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class PruningStrategy(Protocol):
    """Chooses the memories of one object to leave out, before the memory attention of a frame."""

    def __call__(self, memories: Sequence[Tensor], protected: Sequence[bool]) -> list[int]:
        """Return the positions in `memories` to leave out.

        Parameters
        ----------
        memories : sequence of tensor, each of shape (memory_dim, h, w)
            Memory feature maps: the conditioning ones first, then the tracked ones, oldest first.
        protected : sequence of bool
            True for each conditioning memory; these stay.
        """
        ...


class EfficientFramePruning:
    """Leave out the memories most like the newest one (Surgical SAM 2, arXiv 2408.07931).

    Of n memories, `n + prune_frames - slots` are left out (never fewer than 0): those whose similarity to
    the newest, the cosine of the two feature vectors at each position summed over the positions, is largest.
    The newest and the conditioning memories always stay.

    Parameters
    ----------
    prune_frames : int
        Slots to free; 0 leaves nothing out.
    slots : int
        Slots of the memory bank, `num_maskmem` of the network.
    """

    def __init__(self, prune_frames: int, slots: int) -> None:
        self.prune_frames = prune_frames
        self.slots = slots

    def __call__(self, memories: Sequence[Tensor], protected: Sequence[bool]) -> list[int]:
        """See `PruningStrategy`."""
        candidates = [i for i in range(len(memories) - 1) if not protected[i]]
        excess = len(memories) + self.prune_frames - self.slots
        if self.prune_frames == 0 or excess <= 0 or not candidates:
            return []
        others = torch.stack([memories[i] for i in candidates]).float()
        similarity = F.cosine_similarity(others, memories[-1].float()[None], dim=1).flatten(1).sum(dim=1)
        # Stable, so that of equals the older go first, on every device.
        order = torch.argsort(similarity, descending=True, stable=True).tolist()
        return sorted(candidates[i] for i in order[:excess])
