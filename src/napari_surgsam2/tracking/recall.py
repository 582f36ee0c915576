"""What of an object's past, and of its prompts, a frame looks at; and looking at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_surgsam2.network import FrameFeatures, Sam2Network

from .memory import ActiveMemory, FrameMemory, MemoryStore
from .objects import TrackedObject
from .pruning import PruningStrategy
from .result import MemoryUse

_DOUBTFUL = 0.7  # of the highest predicted IoU of an object's prompted frames


@dataclass(frozen=True)
class Recalled:
    """What one object recalls in a frame.

    Attributes
    ----------
    memories : tuple of (ActiveMemory, int)
        Each with the index of its time in `Sam2Network.memory_times`.
    pointers : tuple of (tensor of shape (dim,), int)
        Each with how many frames it lies back, negative ahead.
    use : MemoryUse
        The frames that they come from.
    """

    memories: tuple[tuple[ActiveMemory, int], ...]
    pointers: tuple[tuple[Tensor, int], ...]
    use: MemoryUse


def nearest_conditioning(frames: Sequence[int], frame: int, limit: int) -> list[int]:
    """Choose at most `limit` of the prompted `frames`, as SAM 2 does; ascending.

    The nearest before `frame`, the nearest from it on, then whatever else is nearest.
    """
    if len(frames) <= limit:
        return sorted(frames)
    before = max((f for f in frames if f < frame), default=None)
    after = min((f for f in frames if f >= frame), default=None)
    chosen = [f for f in (before, after) if f is not None]
    rest = sorted((f for f in frames if f not in chosen), key=lambda f: (abs(f - frame), f))
    return sorted(chosen + rest[: limit - len(chosen)])


def doubtful_frames(prompted: Mapping[int, FrameMemory]) -> set[int]:
    """Return the prompted frames whose masks are expected to fit much worse than the best of them.

    Never all of them; those in which the object is out of view are not doubted, nor given masks (of an IoU of
    1), with which the others are not compared either.
    """
    ious = {f: memory.iou for f, memory in prompted.items() if memory.score > 0 and memory.iou < 1}
    least = _DOUBTFUL * max(ious.values(), default=0.0)
    return {frame for frame, iou in ious.items() if iou < least}


class MemoryRecall:
    """Gathers memories, prunes them and runs the memory attention for several objects at once.

    Parameters
    ----------
    network : Sam2Network
        The network.
    store : MemoryStore
        Memories of tracked frames.
    pruning : PruningStrategy
        What is left out.
    max_conditioning : int
        How many prompted frames an object looks at.
    doubt : bool
        Whether it looks at none whose mask is expected to fit much worse than the best.
    num_frames : int
        Frames in the video.
    went_over : callable
        Called with (object, frame, memory) for a memory of a tracked frame; says whether its mask is another
        object's. What came before it is then not recalled either.
    activate : callable
        Called with (object, frame, memory) for a memory that is not on the device; returns it active.
    """

    def __init__(
        self,
        network: Sam2Network,
        store: MemoryStore,
        pruning: PruningStrategy,
        max_conditioning: int,
        doubt: bool,
        num_frames: int,
        went_over: Callable[[TrackedObject, int, FrameMemory], bool],
        activate: Callable[[TrackedObject, int, FrameMemory], ActiveMemory],
    ) -> None:
        self._network = network
        self._store = store
        self._pruning = pruning
        self._max_conditioning = max_conditioning
        self._doubt = doubt
        # SAM 2 scales the pointers' distances by the video's length where that is shorter than its limit.
        self._max_pointers = min(num_frames, network.config.max_object_pointers)
        self._went_over = went_over
        self._activate = activate
        self._times: Tensor | None = None
        self._buffers: tuple[Tensor, Tensor] | None = None

    def recall(self, obj: TrackedObject, frame: int, reverse: bool) -> Recalled:
        """Gather what an object recalls in a frame, going forward or backward.

        Of the frame itself it recalls, as SAM 2 does, the memory that a propagation passed there, if any.
        Memories that the object held on the device and does not recall any more are let go from there.
        """
        slots = self._network.config.num_maskmem
        prompted = {f: memory for f, memory in obj.conditioning.items() if f != frame}
        if frame in obj.visited:
            prompted[frame] = obj.visited[frame].memory
        doubtful = doubtful_frames(prompted) if self._doubt else set()
        prompted = {f: memory for f, memory in prompted.items() if f not in doubtful}
        conditioning = nearest_conditioning(list(prompted), frame, self._max_conditioning)
        step = 1 if reverse else -1
        recent: dict[int, FrameMemory] = {}  # by distance
        for distance in range(1, max(slots, self._max_pointers)):
            at = frame + step * distance
            if at in conditioning or at in doubtful:
                continue
            memory = obj.conditioning.get(at) or self._store.get(obj.object_id, at)
            if memory is not None:
                if self._went_over(obj, at, memory):
                    break
                recent[distance] = memory

        entries = [(f, prompted[f], slots - 1) for f in conditioning]
        entries += [(frame + step * d, recent[d], d - 1) for d in range(slots - 1, 0, -1) if d in recent]
        self._release(obj, keep={f for f, _, _ in entries})
        active = [self._activated(obj, f, memory) for f, memory, _ in entries]
        pruned = set(self._pruning([a.features for a in active], [m.prompted for _, m, _ in entries]))

        pointers = [
            (prompted[f].pointer, (f - frame) * step)
            for f in conditioning
            if (f - frame) * step >= 0  # only pointers that lie back
        ]
        pointers += [(recent[d].pointer, d) for d in range(1, self._max_pointers) if d in recent]
        tracked = range(len(conditioning), len(entries))
        return Recalled(
            memories=tuple((a, entries[i][2]) for i, a in enumerate(active) if i not in pruned),
            pointers=tuple(pointers),
            use=MemoryUse(
                conditioning=tuple(conditioning),
                kept=tuple(entries[i][0] for i in tracked if i not in pruned),
                pruned=tuple(entries[i][0] for i in tracked if i in pruned),
            ),
        )

    def attend(self, features: FrameFeatures, recalled: Sequence[Recalled]) -> Tensor:
        """Give a frame's features the memories of B objects, (B, dim, h, w)."""
        image = features.image
        h, w = image.shape[-2:]
        if self._times is None:
            self._times = self._network.memory_times(h, w)
        pointer_keys, pointer_values = self._project_pointers(recalled, image.device)
        places = h * w
        spatial = max(len(r.memories) for r in recalled) * places
        total = spatial + pointer_keys.shape[2]
        keys, values = self._buffers_for(len(recalled), total, pointer_keys)
        keys[:, :, spatial:], values[:, :, spatial:] = pointer_keys, pointer_values
        for b, r in enumerate(recalled):
            for i, (memory, time) in enumerate(r.memories):
                at = slice(i * places, (i + 1) * places)
                torch.add(memory.keys, self._times[time], out=keys[b, :, at])
                values[b, :, at] = memory.values
        mask = self._mask(recalled, places, spatial, total, image.device)
        out: Tensor = self._network.memory_attention(image, keys, values, mask)
        return out

    def _activated(self, obj: TrackedObject, frame: int, memory: FrameMemory) -> ActiveMemory:
        if memory.active is None:
            memory.active = self._activate(obj, frame, memory)
        obj.active.add(frame)
        return memory.active

    def _release(self, obj: TrackedObject, keep: set[int]) -> None:
        for frame in obj.active - keep:
            for memory in (obj.conditioning.get(frame), self._store.get(obj.object_id, frame)):
                if memory is not None:
                    memory.active = None
        obj.active &= keep

    def _project_pointers(self, recalled: Sequence[Recalled], device: torch.device) -> tuple[Tensor, Tensor]:
        dim = self._network.config.dim
        longest = max(len(r.pointers) for r in recalled)
        pointers = torch.zeros(len(recalled), longest, dim)
        distances = torch.zeros(len(recalled), longest)
        for b, r in enumerate(recalled):
            for i, (pointer, distance) in enumerate(r.pointers):
                pointers[b, i] = pointer
                distances[b, i] = distance
        scale = max(1, self._max_pointers - 1)
        return self._network.project_pointers(pointers.to(device), distances.to(device), scale)

    def _buffers_for(self, batch: int, total: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return room for keys and values, (batch, L, total, dim); the same room while the shape stays."""
        shape = (batch, like.shape[1], total, like.shape[3])
        if self._buffers is None or self._buffers[0].shape != shape:
            self._buffers = None  # let go before taking more
            self._buffers = (like.new_zeros(shape), like.new_zeros(shape))
        return self._buffers

    def _mask(
        self, recalled: Sequence[Recalled], places: int, spatial: int, total: int, device: torch.device
    ) -> Tensor | None:
        """Return which keys are there, (B, total) bool; None where all are."""
        if len({(len(r.memories), len(r.pointers)) for r in recalled}) == 1:
            return None
        parts = self._network.config.dim // self._network.config.memory_dim
        mask = torch.zeros(len(recalled), total, dtype=torch.bool)
        for b, r in enumerate(recalled):
            mask[b, : len(r.memories) * places] = True
            mask[b, spatial : spatial + len(r.pointers) * parts] = True
        return mask.to(device)
