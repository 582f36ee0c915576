"""Processes that train one network together, each on its share of the clips of every step."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from napari_surgsam2.errors import UsageError

# The others wait while the first one makes a pool of clips or validates.
_PATIENCE = timedelta(days=2)


class Team:
    """The processes of a run; a run that was started without `torchrun` is a team of one.

    The losses are means over the objects of all, so that several processes train what one would but for
    what each does by itself: it draws its own prompts, and batch norms in training see its own clips.

    Parameters
    ----------
    rank : int
        Which of the processes this is, from 0.
    count : int
        How many there are.
    local_rank : int
        Which of those on this computer this is; its GPU.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank

    @classmethod
    def from_environment(cls) -> Team:
        """Return what `torchrun` says in the environment."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if any(name not in os.environ for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, validates and reports."""
        return self.rank == 0

    def place(self, device: torch.device, wanted: str) -> torch.device:
        """Return the device of this process, where the run is to be on `device`.

        `wanted` is what the settings say; with "auto" several processes take the CPU of a computer with a GPU
        of Apple's, by which they cannot exchange what they learn.

        Raises
        ------
        UsageError
            If there are fewer GPUs than processes, or they are to be on one of Apple's.
        """
        if self.count == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            if wanted == "auto":
                return torch.device("cpu")
            raise UsageError(
                f"[run] device is '{wanted}', which only one process can train on; with several it must be "
                "'cpu' or 'cuda'. Set device = 'cpu', or start it without torchrun."
            )
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"This is process {self.local_rank + 1} on a computer with {torch.cuda.device_count()} GPUs; "
                "each needs its own. Start fewer with torchrun --nproc-per-node."
            )
        return torch.device("cuda", self.local_rank)

    def gather(self, device: torch.device) -> None:
        """Connect the processes; before anything below is called."""
        if self.count == 1 or dist.is_initialized():
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        atexit.register(_part)  # its threads must not outlive the interpreter

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def places(self, batch_size: int) -> range:
        """Return which clips of a step are this process's.

        Raises
        ------
        UsageError
            If there are fewer clips than processes.
        """
        if batch_size < self.count:
            raise UsageError(
                f"[run] batch_size is {batch_size}; it must be at least {self.count}, the number of "
                "processes that train together. Set a larger one, or a smaller --nproc-per-node."
            )
        return range(self.rank, batch_size, self.count)

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of the same shapes in every process, by their sums over the processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([t.flatten().float() for t in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes."""
        if self.count > 1:
            self.sum_(tensors)
            for tensor in tensors:
                tensor.div_(self.count)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Say whether any process says so."""
        if self.count == 1:
            return flag
        said = torch.tensor([float(flag)], device=device)
        self.sum_([said])
        return bool(said.item())


def _part() -> None:
    """Disconnect the processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
