"""Masks of tracked objects that cannot be right, and what is left of them. SAM 2 does none of this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_surgsam2.network import NEGATIVE, NO_OBJECT_LOGIT, Decoded, contradicted_clicks

from .memory import FrameMemory

MEMORY_OF_PLACE = 8
"""For how many frames where an object was last seen tells where it can be."""

LONG_GONE = 3
"""For how many frames an object is out of view until it can come back only as what no other object is."""

_HOPELESS = 0.02  # predicted IoU
_BACK = 0.25  # likewise, from which on an object that was out of view is there again
_SEEN_WELL = 0.4  # likewise: in two frames running it tells as much as the network's being fairly sure
_NOT_IN_VIEW = -0.2  # logit of an object that is taken for out of view: not at all surely so
_GROWTH = 5  # how many times its last mask an object may cover that is elsewhere
_SWOLLEN = 2  # likewise, wherever it is, while the network is not fairly sure of it
_STAYED = 0.5  # of the smaller of two masks: what they share if the object is where it was
_APART = 0.3  # likewise: less than what slow things share from one frame to the next
_SURE = 2.2  # logit of being in view, 0.9, from which on an object may be anywhere
_FAIRLY_SURE = (
    1.4  # likewise, 0.8: from which on it may be elsewhere, if it has not grown, or grow where it is
)
_TAKEN = 0.5  # of a mask: what another object's has of it, if it is that one
_SAME = 0.9  # of the larger of two masks: what they share if they are of one thing
_TRUST = 3.0  # logits for a predicted IoU of 1
_YIELDS = 20.0  # of trust: more than logits can make up for
_OVERRULED = -10.0  # the highest logit of a pixel that is another object's, as where SAM 2 separates objects


def without_hopeless(decoded: Decoded, gone_before: Sequence[float | None], no_pointer: Tensor) -> Decoded:
    """Return the masks, none of those that are predicted to fit next to nothing: they are out of view.

    More is asked of an object that was out of view in the frame before: the network must be fairly sure that
    it is there, or predict twice running that its mask fits fairly well. What comes back is soon seen well,
    and what is taken for it seldom.

    Parameters
    ----------
    decoded : Decoded
        Of B objects.
    gone_before : sequence of B floats or None
        The IoUs that were predicted in the frame before, of objects that were out of view there; None of the
        others.
    no_pointer : tensor, shape (1, dim)
        The pointer of objects out of view.
    """
    gone = torch.tensor([iou is not None for iou in gone_before], device=decoded.iou.device)[:, None]
    before = torch.tensor([iou or 0.0 for iou in gone_before], device=decoded.iou.device)[:, None]
    well = torch.minimum(before, decoded.iou) >= _SEEN_WELL
    hopeless = decoded.iou < torch.where(gone, _BACK, _HOPELESS)
    return _without(decoded, hopeless | (gone & (decoded.score < _FAIRLY_SURE) & ~well), no_pointer)


def without_jumps(decoded: Decoded, last_seen: Sequence[Sequence[Tensor]], no_pointer: Tensor) -> Decoded:
    """Return the masks, none of those that must be of something else than what was there before.

    An object that dwindles, at the edge of the picture or behind another one, and is then many times as
    large without being where it was, has left, and the mask is of something like it, unless the network is
    sure that it is in view. So it is with one that is elsewhere but not larger, unless the network is fairly
    sure, or the object moved as far before. And what grows while the network is not fairly sure of it is on
    its way over to something else, too.

    Parameters
    ----------
    decoded : Decoded
        Of B objects.
    last_seen : sequence of B sequences of at most two tensors, shape (4 h, 4 w)
        The logits that each object was last seen with, within `MEMORY_OF_PLACE` frames, the newest first.
    no_pointer : tensor, shape (1, dim)
        The pointer of objects out of view.
    """
    if not any(last_seen):
        return decoded
    nothing = torch.full(decoded.logits.shape[-2:], NO_OBJECT_LOGIT)
    newest = torch.stack([seen[0] if len(seen) > 0 else nothing for seen in last_seen])
    older = torch.stack([seen[1] if len(seen) > 1 else nothing for seen in last_seen])
    was, was_before, now = (
        (logits > 0).to(decoded.logits.device).flatten(1) for logits in (newest, older, decoded.logits)
    )
    known, score = was.any(1), decoded.score[:, 0]
    grown = (now.sum(1) > _GROWTH * was.sum(1)) & ~_share(was, now, _STAYED) & (score < _SURE)
    moved = ~_share(was, now, _APART) & _share(was_before, was, _APART) & (score < _FAIRLY_SURE)
    swollen = (now.sum(1) > _SWOLLEN * was.sum(1)) & (score < _FAIRLY_SURE)
    return _without(decoded, (known & (grown | moved | swollen))[:, None], no_pointer)


def _share(some: Tensor, others: Tensor, least: float) -> Tensor:
    """Say of pairs of masks (B, N) whether they share a part of the smaller one; False of empty ones."""
    smaller = torch.minimum(some.sum(1), others.sum(1))
    return ((some & others).sum(1) >= least * smaller) & (smaller > 0)


def went_over(tracked: Tensor, prompted: Tensor, places: Tensor | None, came_back: bool) -> bool:
    """Whether the mask that an object was tracked to is another one's, which the user prompted in that frame.

    It is if both are nearly the same, or mostly if the object just came back, and a click on the other one,
    if it was only clicked, is in it.

    Parameters
    ----------
    tracked, prompted : tensor, shape (4 h, 4 w)
        The logits of the object and of the other one.
    places : tensor, shape (N, 2), or None
        Where the other one was clicked, (x, y) in pixels of the network's input; None if more was said of it.
    came_back : bool
        Whether the object was out of view shortly before.
    """
    mask, other = tracked > 0, prompted > 0
    least = _TAKEN if came_back else _SAME
    if (mask & other).sum() < least * torch.maximum(mask.sum(), other.sum()).clamp(min=1):
        return False
    if places is None:
        return True
    inside = torch.full((1, len(places)), NEGATIVE)
    return bool(contradicted_clicks(tracked[None, None], places[None], inside) > 0)


@dataclass(frozen=True)
class Claim:
    """What another object has in a frame.

    Attributes
    ----------
    logits : tensor, shape (4 h, 4 w)
        Its mask logits.
    trust : float
        The highest predicted IoU of its prompted frames, or that of this one where it is prompted too.
    given : bool
        Whether the user gave the mask; what is in it is certain.
    """

    logits: Tensor
    trust: float
    given: bool


def separate(logits: Tensor, trust: Sequence[float], others: Sequence[Claim]) -> Tensor:
    """Give each pixel to one object: to that of the highest logit, more or less.

    Objects are the more trusted the better their clicked masks are expected to fit, but not much: the
    difference of two predicted IoUs counts as 3 times as much of a logit.

    Parameters
    ----------
    logits : tensor, shape (B, 4 h, 4 w)
        Of B objects.
    trust : sequence of B floats
        As of `Claim`.
    others : sequence of Claim
        Of objects whose masks stay as they are.

    Returns
    -------
    tensor, shape (B, 4 h, 4 w)
        The logits, lowered where the pixel is another object's.
    """
    if len(logits) + len(others) < 2:
        return logits
    claims = logits + _TRUST * torch.tensor(trust, device=logits.device)[:, None, None]
    inside = logits > 0
    highest = torch.where(inside, claims, -torch.inf).amax(0)
    for other in others:
        theirs = other.logits.to(logits)
        strength = torch.inf if other.given else theirs + _TRUST * other.trust
        highest = torch.maximum(highest, torch.where(theirs > 0, strength, -torch.inf))
    return torch.where(inside & (claims < highest), _OVERRULED, logits)


def without_overlaps(
    decoded: Decoded,
    trust: Sequence[float],
    long_gone: Sequence[bool],
    others: Sequence[Claim],
    no_pointer: Tensor,
) -> Decoded:
    """Separate the masks of tracked objects; those of which nothing is left are out of view.

    Of objects that share pixels for some frames each comes to be followed as both. One that was out of view
    for some frames (`long_gone`, of B objects) leaves all that they share to those that were not, and is
    still out of view if it loses most of its mask to others: what another object is has not come back.
    `no_pointer`, (1, dim), is the pointer of objects out of view; the rest is as of `separate`.
    """
    before = decoded.logits[:, 0]
    after = separate(before, [t - _YIELDS * gone for t, gone in zip(trust, long_gone, strict=True)], others)
    areas = [(logits > 0).flatten(1).sum(1) for logits in (before, after)]
    least = areas[0] * _TAKEN * torch.tensor(long_gone, device=before.device)
    nothing = (areas[0] > 0) & ((areas[1] == 0) | (areas[1] < least))
    return _without(decoded._replace(logits=after[:, None]), nothing[:, None], no_pointer)


def out_of_view(memory: FrameMemory) -> FrameMemory:
    """Return what is left of a frame's memory if the object is not there: nothing, and that is sure."""
    nothing = torch.full_like(memory.logits, NO_OBJECT_LOGIT)
    return FrameMemory(nothing, memory.pointer, -_SURE, memory.reverse, iou=0.0)


def _without(decoded: Decoded, which: Tensor, no_pointer: Tensor) -> Decoded:
    """Return the masks, none of those that `which`, (B, 1), says and that are in view so far."""
    gone = which & (decoded.score > 0)
    return Decoded(
        torch.where(gone[..., None, None], NO_OBJECT_LOGIT, decoded.logits),
        torch.where(gone, no_pointer, decoded.pointer),
        torch.where(gone, _NOT_IN_VIEW, decoded.score),
        decoded.iou,
    )
