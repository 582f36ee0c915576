"""What tracking returns of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from napari_surgsam2.network import GIVEN_MASK_LOGIT, NO_OBJECT_LOGIT
from napari_surgsam2.prompts import BoolArray

from .cleanup import clean_mask
from .threads import threads_left, torch_threads
from .window import Window


@dataclass(frozen=True)
class MemoryUse:
    """Which frames an object's memory attention looked at in a frame.

    Attributes
    ----------
    conditioning : tuple of int
        Prompted frames.
    kept : tuple of int
        Tracked frames.
    pruned : tuple of int
        Tracked frames that were left out as too much like the newest.
    """

    conditioning: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    pruned: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The masks of a frame.

    Attributes
    ----------
    frame : int
        Frame index.
    object_ids : ndarray, shape (O,), int64
        The user's object ids, ascending.
    logits : ndarray, shape (O, h, w), float32
        The decoder's low-resolution mask logits, before any clean-up; positive inside.
    scores : ndarray, shape (O,), float32
        Probability of the object being in the frame, between 0 and 1.
    ious : ndarray, shape (O,), float32
        IoU that the network predicts of each mask with the true one, between 0 and 1; 1 of a given mask.
    video_shape : tuple of 2 ints
        Height and width of the video, (Y, X).
    window : Window, optional
        Where in the video the logits are; all of it if left out.
    memory : mapping of int to MemoryUse
        By object id, for the objects that were tracked into this frame just now.
    went_over : tuple of int
        Objects that have no mask, as the one that they were tracked to is of an object prompted in the frame.
    given : mapping of int to ndarray, shape (Y, X), bool
        By object id, the masks that the user gave for this frame; `masks` returns them as they are.
    exclusive : bool
        In `labels`, given masks keep all their pixels; see `TrackingSettings`.
    fill_holes, remove_speckles : int
        Clean-up of `masks` and `labels`; see `TrackingSettings`.
    """

    frame: int
    object_ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    ious: npt.NDArray[np.float32]
    video_shape: tuple[int, int]
    window: Window | None = None
    memory: Mapping[int, MemoryUse] = field(default_factory=dict)
    went_over: tuple[int, ...] = ()
    given: Mapping[int, BoolArray] = field(default_factory=dict)
    exclusive: bool = True
    fill_holes: int = 0
    remove_speckles: int = 0

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """How sure the network is of what it says of each object, (O,) float32, between 0 and 1.

        Of a mask: the probability of the object being there times the IoU predicted of it. Of an empty mask:
        the probability of the object not being there.
        """
        sure: npt.NDArray[np.float32] = np.where(self.scores > 0.5, self.scores * self.ious, 1 - self.scores)
        return sure

    def video_logits(self) -> npt.NDArray[np.float32]:
        """Return the logits at the video's resolution, bilinearly, (O, Y, X) float32."""
        if not len(self.object_ids):
            return np.zeros((0, *self.video_shape), dtype=np.float32)
        small = torch.from_numpy(self.logits)[:, None]
        with torch_threads(threads_left()):  # while frames are encoded ahead, more would wait for one another
            shape = self.video_shape if self.window is None else self.window.shape
            large = F.interpolate(small, shape, mode="bilinear")
        logits: npt.NDArray[np.float32] = large[:, 0].numpy()
        if self.window is not None and shape != self.video_shape:
            inside = logits
            logits = np.full((len(inside), *self.video_shape), NO_OBJECT_LOGIT, dtype=np.float32)
            logits[:, *self.window.slices] = inside
        for object_id, mask in self.given.items():
            logits[self.object_ids == object_id] = np.where(mask, GIVEN_MASK_LOGIT, -GIVEN_MASK_LOGIT)
        return logits

    def masks(self) -> npt.NDArray[np.bool_]:
        """Return the masks at the video's resolution, (O, Y, X) bool; they may overlap."""
        return self._cleaned(self.video_logits() > 0)

    def labels(self) -> npt.NDArray[np.unsignedinteger]:
        """Return a labels image at the video's resolution, (Y, X) uint8, or wider for ids above 255.

        0 is background; where masks overlap the object with the largest logit wins, or one whose mask was
        given, if they are `exclusive`.
        """
        ids = self.object_ids.astype(np.min_scalar_type(int(self.object_ids.max(initial=1))))
        logits = self.video_logits()
        masks = self._cleaned(logits > 0)
        if len(ids) == 1:
            only: npt.NDArray[np.unsignedinteger] = masks[0] * ids[0]
            return only
        labels = np.zeros(self.video_shape, dtype=ids.dtype)
        highest = np.full(self.video_shape, -np.inf, dtype=np.float32)
        for object_id, mask, logit in zip(ids, masks, logits, strict=True):
            if self.exclusive and int(object_id) in self.given:
                logit = np.full_like(logit, np.inf)
            wins = mask & (logit > highest)
            labels[wins] = object_id
            highest[wins] = logit[wins]
        return labels

    def _cleaned(self, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        if not (self.fill_holes or self.remove_speckles):
            return masks
        for i, object_id in enumerate(self.object_ids.tolist()):
            if object_id not in self.given:
                masks[i] = clean_mask(masks[i], self.fill_holes, self.remove_speckles)
        return masks
