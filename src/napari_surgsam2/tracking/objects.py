"""An object: what the user said of it, frame by frame, and the memories of the frames it was said of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from napari_surgsam2.network import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE
from napari_surgsam2.prompts import Box, Mask, Point, Prompt

from .memory import FrameMemory
from .window import Window


@dataclass(eq=False)
class FramePrompts:
    """The prompts of one object on one frame.

    A mask replaces what was said before it; clicks and a box after it refine it. A newer box replaces an
    older one.

    Attributes
    ----------
    points : list of Point
        Clicks, in the order they came.
    box : Box or None
        Rectangle around the object.
    mask : Mask or None
        The object's exact mask.
    pending : bool
        Whether the newest prompts have not been turned into a mask yet.
    mask_pending : bool
        Whether `mask` is among those.
    """

    points: list[Point] = field(default_factory=list)
    box: Box | None = None
    mask: Mask | None = None
    pending: bool = False
    mask_pending: bool = False

    def add(self, prompt: Prompt) -> None:
        """Add a prompt."""
        self.pending = True
        match prompt:
            case Point():
                self.points.append(prompt)
            case Box():
                self.box = prompt
            case Mask():
                self.points, self.box, self.mask = [], None, prompt
                self.mask_pending = True

    @property
    def is_given_mask(self) -> bool:
        """Whether the mask is to be taken as it is."""
        return self.mask is not None and not self.points and self.box is None

    @property
    def only_negative(self) -> bool:
        """Whether nothing says where the object is."""
        return self.mask is None and self.box is None and not any(p.positive for p in self.points)

    def network_points(self, window: Window, image_size: int) -> tuple[Tensor, Tensor]:
        """Return points and box corners for the network: (1, N, 2) in (x, y) order and (1, N) labels."""
        xy: list[tuple[float, float]] = []
        labels: list[int] = []
        if self.box is not None:  # corners first, as SAM 2 was trained
            xy += [(self.box.x0, self.box.y0), (self.box.x1, self.box.y1)]
            labels += [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]
        xy += [(p.x, p.y) for p in self.points]
        labels += [POSITIVE if p.positive else NEGATIVE for p in self.points]
        places = window.scaled(torch.tensor(xy, dtype=torch.float32), image_size)
        return places[None], torch.tensor(labels)[None]

    def all(self) -> Sequence[Prompt]:
        """Return the prompts, a mask first, so that adding them again in turn gives the same."""
        return [p for p in (self.mask, self.box) if p is not None] + list(self.points)


@dataclass(frozen=True, eq=False)
class Visit:
    """A propagation passing a prompted frame.

    Attributes
    ----------
    reverse : bool
        Whether it went backward.
    memory : FrameMemory
        The frame's memory at that time.
    """

    reverse: bool
    memory: FrameMemory


@dataclass(eq=False)
class TrackedObject:
    """One object of a tracker.

    Attributes
    ----------
    object_id : int
        The user's number for it.
    prompts : dict
        Prompts by frame.
    conditioning : dict
        Memories of prompted frames, by frame; they stay until the prompts are cleared.
    visited : dict
        By prompted frame, the last propagation that passed it; only frames passed.
    active : set of int
        Frames whose memory is held on the device.
    """

    object_id: int
    prompts: dict[int, FramePrompts] = field(default_factory=dict)
    conditioning: dict[int, FrameMemory] = field(default_factory=dict)
    visited: dict[int, Visit] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)

    @property
    def trust(self) -> float:
        """The highest trust of the frames where it is prompted; 0 of none."""
        return max((memory.trust for memory in self.conditioning.values()), default=0.0)

    def pending_frames(self) -> list[int]:
        """Return the frames whose newest prompts have no mask yet, ascending."""
        return sorted(frame for frame, prompts in self.prompts.items() if prompts.pending)
