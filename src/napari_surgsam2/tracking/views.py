"""Looking at a frame in several ways: what they agree on is more often right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2.network import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    CONTRADICTION,
    MASK_STRIDE,
    NO_OBJECT_LOGIT,
    Decoded,
    FrameFeatures,
    Sam2Network,
    contradicted_clicks,
)

from .memory import LOGIT_RANGE

_SHARPNESS = 10.0  # how much more a view counts whose mask is predicted to fit better
_OUTSIDE = -10.0  # mask logit of what is around a smaller picture
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue, as in ITU-R BT.601


class Look(NamedTuple):
    """One way of looking at a frame.

    Attributes
    ----------
    axes : tuple of int
        The axes that are turned round, of images (..., Y, X).
    gray : bool
        Whether it is seen without colours.
    margin : float
        How wide the black around a smaller picture is, as a share of the whole side.
    """

    axes: tuple[int, ...] = ()
    gray: bool = False
    margin: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image, (S, S, 3) uint8, as it is seen so."""
        if self.axes:
            image = image.movedim(-1, 0).flip(self.axes).movedim(0, -1)
        if self.gray:
            image = (image.float() @ _LUMA).round().to(torch.uint8)[..., None].expand_as(image)
        if around := self._around(len(image)):
            small = _resize(image.movedim(-1, 0)[None].float(), len(image) - 2 * around)
            image = F.pad(small, [around] * 4)[0].round().to(torch.uint8).movedim(0, -1)
        return image

    def positions(self, xy: Tensor, labels: Tensor, side: int) -> Tensor:
        """Return where points and box corners (B, N, 2), (x, y), are as it is seen so.

        `labels` (B, N) stay, so corners change places where what was the right side is the left one. `side`
        is that of the network's input in pixels, here and below.
        """
        moved = xy.clone()
        first, last = labels == BOX_TOP_LEFT, labels == BOX_BOTTOM_RIGHT
        for axis in self.axes:
            k = -1 - axis  # x is the last axis of images and the first of positions
            moved[..., k] = side - 1 - xy[..., k]
            corners = moved[..., k].clone()
            moved[..., k][first], moved[..., k][last] = corners[last], corners[first]
        around = self._around(side)
        return (moved + 0.5) * (1 - 2 * around / side) - 0.5 + around if around else moved

    def masks(self, logits: Tensor, side: int) -> Tensor:
        """Return mask logits (B, 1, h, w) of the frame as they are where it is seen so."""
        logits = logits.flip(self.axes) if self.axes else logits
        if around := self._around(side) // MASK_STRIDE:
            small = _resize(logits, logits.shape[-1] - 2 * around)
            logits = F.pad(small, [around] * 4, value=_OUTSIDE)
        return logits

    def masks_back(self, logits: Tensor, side: int) -> Tensor:
        """Return mask logits (B, 1, h, w) that were found so as they are in the frame."""
        if around := self._around(side) // MASK_STRIDE:
            size = logits.shape[-1]
            logits = _resize(logits[..., around : size - around, around : size - around], size)
        return logits.flip(self.axes) if self.axes else logits

    def _around(self, side: int) -> int:
        """Return the width of the black in pixels, a whole number of the masks' pixels."""
        return round(self.margin * side / MASK_STRIDE) * MASK_STRIDE


# Things so near that they fill the picture are found where it is smaller, and those in the colour of what is
# around them in gray.
LOOKS = (Look(), Look((-1,), gray=True), Look((-2,), margin=0.1), Look((-2, -1), margin=0.1))


class View(NamedTuple):
    """What is seen of a frame in one way of looking at it.

    Attributes
    ----------
    look : Look
        The way.
    features : FrameFeatures
        Of the frame as it is seen so.
    """

    look: Look
    features: FrameFeatures


def decode_views(
    network: Sam2Network,
    views: Sequence[View],
    xy: Tensor,
    labels: Tensor,
    earlier: Tensor | None,
    side: int,
    obey_clicks: bool,
) -> Decoded:
    """Predict the masks of B objects from their prompts in several views of a frame, without memories.

    Parameters
    ----------
    network : Sam2Network
        The network.
    views : sequence of View
        The frame as it is comes first; object pointers are those of it.
    xy, labels, earlier
        As of `Sam2Network.decode`, for the frame as it is.
    side : int
        Of the network's input, in pixels.
    obey_clicks : bool
        As of `Sam2Network.decode`.

    Returns
    -------
    Decoded
        Mask logits are averages of the views that see the object, with the more weight the higher the IoU
        that a view predicts; scores and predicted IoUs are averaged likewise, over all views.
    """
    seen = []
    for look, features in views:
        there = look.positions(xy, labels, side)
        start = None if earlier is None else look.masks(earlier, side)
        image = network.without_memory(features)
        decoded = network.decode(image, features, there, labels, start, obey_clicks)
        seen.append(decoded._replace(logits=look.masks_back(decoded.logits, side)))
    logits, _, score, iou = (torch.stack(x) for x in zip(*seen, strict=True))
    counts = torch.stack([contradicted_clicks(d.logits, xy, labels) for d in seen])
    worth = iou - CONTRADICTION * counts if obey_clicks else iou
    weights = (_SHARPNESS * worth).softmax(dim=0)
    # A view that sees no object has no mask of it.
    masked = weights * (score > 0)
    masked = masked / masked.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
    mean = (masked[..., None, None] * logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)).sum(0)
    if obey_clicks:  # where the mean contradicts more clicks than the best view, that one is taken
        best = (worth + torch.where(score > 0, 0.0, -100.0)).argmax(dim=0)
        alone = logits.take_along_dim(best[None, ..., None, None], dim=0)[0]
        worse = contradicted_clicks(mean, xy, labels) > counts.take_along_dim(best[None], dim=0)[0]
        mean = torch.where(worse[..., None, None], alone, mean)
    score, iou = (weights * score).sum(0), (weights * iou).sum(0)
    present = score > 0
    # Where the frame as it is shows no object, another view tells what it looks like.
    pointer = seen[0].pointer
    for other in seen[1:]:
        pointer = torch.where((seen[0].score > 0) | (other.score <= 0), pointer, other.pointer)
    return Decoded(
        torch.where(present[..., None, None], mean, NO_OBJECT_LOGIT),
        torch.where(present, pointer, network.no_obj_ptr),
        score,
        iou,
    )


def _resize(images: Tensor, side: int) -> Tensor:
    smoothly = images.device.type != "mps"  # older versions of torch cannot there
    return F.interpolate(images, (side, side), mode="bilinear", antialias=smoothly)
