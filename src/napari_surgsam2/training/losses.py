"""What training minimises: the losses of SAM 2 (arXiv 2408.00714) and Segment Anything (arXiv 2304.02643)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2.network import DecodedMasks

from .clips import may_hide
from .settings import LossSettings

# Masks are compared at this stride of the network's input: the logits are at 4, and finer costs much time.
_STRIDE = 2
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0
_FOCAL_SHARE = 20.0  # of the focal loss beside Dice, where candidates are compared
_SLIVER = 3.0  # cells: whether an object is in view of which less is seen is not worth learning


class Losses(NamedTuple):
    """Mean losses, before they are weighted; scalar tensors.

    Attributes
    ----------
    focal, dice : tensor
        Of the candidate mask that fits best, of the objects that are in view.
    iou : tensor
        Distance of the predicted IoU from the true one, over the candidates of the objects in view.
    score : tensor
        Cross-entropy of the object being in view.
    """

    focal: Tensor
    dice: Tensor
    iou: Tensor
    score: Tensor

    def total(self, weights: LossSettings) -> Tensor:
        """Return the weighted sum."""
        total: Tensor = (
            weights.focal * self.focal
            + weights.dice * self.dice
            + weights.iou * self.iou
            + weights.score * self.score
        )
        return total


class LossSums(NamedTuple):
    """Losses summed over objects, as of `Losses`, and how many objects were in view and of known truth."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    score: Tensor
    in_view: Tensor
    known: Tensor

    @classmethod
    def over(cls, sums: Sequence[LossSums]) -> LossSums:
        """Return the sums over several sets of masks."""
        return cls(*(torch.stack(x).sum() for x in zip(*sums, strict=True)))

    def per_object(self, in_view: Tensor, known: Tensor) -> Losses:
        """Return the losses per object, of as many as were in view and of known truth everywhere."""
        in_view, known = in_view.clamp(min=1), known.clamp(min=1)
        return Losses(self.focal / in_view, self.dice / in_view, self.iou / in_view, self.score / known)


def soft_targets(masks: Tensor) -> Tensor:
    """Return masks (..., S, S) bool as the share of each cell that they cover, at the losses' stride."""
    shares: Tensor = F.avg_pool2d(masks.flatten(0, -3)[:, None].float(), _STRIDE)
    return shares.view(*masks.shape[:-2], *shares.shape[-2:])


def focal_loss(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the focal loss (arXiv 1708.02002) of (B, M, H, W) logits, averaged over the pixels: (B, M).

    `counted` (B, 1, H, W), here and below, is how much of each cell counts, or how often; once if left out.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    missed = p + targets - 2 * p * targets  # 1 - p where the target is 1, p where it is 0
    alpha = _FOCAL_ALPHA * targets + (1 - _FOCAL_ALPHA) * (1 - targets)
    losses = alpha * missed**_FOCAL_GAMMA * cross_entropy
    if counted is None:
        return losses.mean((-2, -1))
    return _area(losses, counted) / counted.sum((-2, -1)).clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return 1 minus the soft Dice coefficient of (B, M, H, W) logits: (B, M)."""
    p = logits.sigmoid()
    both = _area(p * targets, counted)
    return 1 - (2 * both + 1) / (_area(p, counted) + _area(targets, counted) + 1)


def intersection_over_union(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the IoU of masks given as (B, M, H, W) logits with (B, 1, H, W) soft targets: (B, M).

    By areas: a cell that an object covers in part counts in part.
    """
    inside = (logits > 0).float()
    both = _area(inside * targets, counted)
    return both / (_area(inside, counted) + _area(targets, counted) - both).clamp(min=1)


def _area(shares: Tensor, counted: Tensor | None) -> Tensor:
    """Return the sum over the pixels, of what counts of each."""
    return (shares if counted is None else shares * counted).sum((-2, -1))


def without_void(targets: Tensor, void: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return targets as shares of what is not void of each cell, and that as `counted` of the losses.

    Parameters
    ----------
    targets, void : tensor, shape (B, H, W), float32
        Shares of each cell that an object covers and that are void, as of `soft_targets`; None without void.

    Returns
    -------
    tensor, shape (B, 1, H, W), twice
        The second one None without void.
    """
    if void is None:
        return targets[:, None], None
    counted = 1 - void
    return (targets / counted.clamp(min=1 / _STRIDE**2))[:, None], counted[:, None]


def mask_losses(
    masks: DecodedMasks,
    targets: Tensor,
    annotated: Tensor,
    void: Tensor | None = None,
    weights: Tensor | None = None,
) -> LossSums:
    """Compare what was decoded with what is true.

    Parameters
    ----------
    masks : DecodedMasks
        Candidates of B objects.
    targets : tensor, shape (B, S / 2, S / 2), float32
        `soft_targets` of the true masks.
    annotated : tensor, shape (B,), bool
        Whose truth is known; the others count nowhere.
    void : tensor, shape (B, S / 2, S / 2), float32, optional
        `soft_targets` of the pixels that count for nothing. Where an object that is not seen may be among
        them, whether it is in view is not known.
    weights : tensor, shape (B, S / 2, S / 2), float32, optional
        How much each cell counts in the losses of the masks; all alike if left out.
    """
    area = targets.flatten(1).sum(dim=1)
    gone = area == 0 if void is None else (area == 0) & ~may_hide(void)
    in_view = (annotated & (area >= _SLIVER)).float()
    known = (annotated & (gone | (area >= _SLIVER))).float()
    targets, counted = without_void(targets, void)
    weighted = counted if weights is None else weights[:, None] * (1 if counted is None else counted)
    with torch.no_grad():  # of the candidates only the best is drawn to the truth
        all_logits = F.interpolate(masks.logits.float(), targets.shape[-2:], mode="bilinear")
        shared = targets.expand_as(all_logits)
        focal, dice = (loss(all_logits, shared, weighted) for loss in (focal_loss, dice_loss))
        misfit = _FOCAL_SHARE * focal + dice
        best = misfit.argmin(dim=1, keepdim=True)
        true_iou = intersection_over_union(all_logits, targets, counted)
    logits = masks.logits.take_along_dim(best[..., None, None], dim=1).float()
    logits = F.interpolate(logits, targets.shape[-2:], mode="bilinear")
    score = F.binary_cross_entropy_with_logits(
        masks.object_score[:, 0].float(), (area > 0).float(), reduction="none"
    )
    return LossSums(
        (focal_loss(logits, targets, weighted)[:, 0] * in_view).sum(),
        (dice_loss(logits, targets, weighted)[:, 0] * in_view).sum(),
        ((masks.iou.float() - true_iou).abs().mean(dim=1) * in_view).sum(),
        (score * known).sum(),
        in_view.sum(),
        known.sum(),
    )
