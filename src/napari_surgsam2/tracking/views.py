"""Looking at a frame mirrored and brightened as well: what several views agree on is more often right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from napari_surgsam2.network import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    CONTRADICTION,
    NO_OBJECT_LOGIT,
    Decoded,
    FrameFeatures,
    Sam2Network,
    contradicted_clicks,
)

from .memory import LOGIT_RANGE

_SHARPNESS = 10.0  # how much more a view counts whose mask is predicted to fit better


class Look(NamedTuple):
    """One way of looking at a frame.

    Attributes
    ----------
    axes : tuple of int
        The axes that are turned round, of images (..., Y, X).
    gamma : float
        The power that values from 0 to 1 are taken to; less than 1 brightens what is dark.
    """

    axes: tuple[int, ...]
    gamma: float = 1.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image, (Y, X, 3) uint8, as it is seen so."""
        if self.axes:
            image = image.movedim(-1, 0).flip(self.axes).movedim(0, -1)
        if self.gamma != 1:
            curve = (torch.arange(256) / 255) ** self.gamma * 255
            image = curve.round().to(torch.uint8)[image.long()]
        return image


# In endoscopes' pictures things far from the light are all but black, and brightened they are found.
LOOKS = (Look(()), Look((-1,)), Look((-2,), 0.35), Look((-2, -1), 0.35))


class View(NamedTuple):
    """What is seen of a frame in one way of looking at it.

    Attributes
    ----------
    axes : tuple of int
        The axes that are turned round.
    features : FrameFeatures
        Of the frame as it is seen so.
    """

    axes: tuple[int, ...]
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
    for axes, features in views:
        turned = xy if not axes else _mirrored_points(xy, labels, axes, side)
        start = earlier if earlier is None or not axes else earlier.flip(axes)
        image = network.without_memory(features)
        decoded = network.decode(image, features, turned, labels, start, obey_clicks)
        seen.append(decoded._replace(logits=decoded.logits.flip(axes)) if axes else decoded)
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


def _mirrored_points(xy: Tensor, labels: Tensor, axes: tuple[int, ...], side: int) -> Tensor:
    """Return where points and box corners (B, N, 2) are in a mirrored view; labels (B, N) stay."""
    turned = xy.clone()
    first, last = labels == BOX_TOP_LEFT, labels == BOX_BOTTOM_RIGHT
    for axis in axes:
        k = -1 - axis  # x is the last axis of images and the first of positions
        turned[..., k] = side - 1 - xy[..., k]
        corners = turned[..., k].clone()  # what was the right side is the left one now
        turned[..., k][first], turned[..., k][last] = corners[last], corners[first]
    return turned
