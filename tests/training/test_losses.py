"""The losses, from their definitions."""

import math

import numpy as np
import pytest
import torch

from napari_surgsam2.network import DecodedMasks
from napari_surgsam2.training.losses import (
    Losses,
    LossSums,
    dice_loss,
    focal_loss,
    intersection_over_union,
    mask_losses,
    soft_targets,
    without_void,
)
from napari_surgsam2.training.settings import LossSettings


def average(sums):
    """Return the losses per object, over sets of masks."""
    total = LossSums.over(sums)
    return total.per_object(total.in_view, total.known)


def decoded(logits, iou=None, score=None):
    """Return candidates (B, M, H, W) with predicted IoUs (B, M) and scores (B,)."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    B, M = logits.shape[:2]
    iou = torch.zeros(B, M) if iou is None else torch.as_tensor(iou)
    score = torch.zeros(B) if score is None else torch.as_tensor(score)
    return DecodedMasks(logits, iou, torch.zeros(B, M, 8), score[:, None])


def disc(size=32):
    y, x = np.mgrid[:size, :size]
    return torch.from_numpy((y - 14) ** 2 + (x - 18) ** 2 < 64)


def test_focal_loss_is_that_of_its_paper():
    p, target = 0.8, 1.0
    logits = torch.full((1, 1, 2, 2), math.log(p / (1 - p)))
    expected = -0.25 * (1 - p) ** 2 * math.log(p)
    assert float(focal_loss(logits, torch.full_like(logits, target))) == pytest.approx(expected, rel=1e-5)
    expected = -0.75 * p**2 * math.log(1 - p)
    assert float(focal_loss(logits, torch.zeros_like(logits))) == pytest.approx(expected, rel=1e-5)


def test_dice_loss_is_0_for_a_right_mask_and_near_1_for_a_wrong_one():
    target = disc()[None, None].float()
    assert float(dice_loss((target - 0.5) * 100, target)) == pytest.approx(0, abs=1e-4)
    assert float(dice_loss((0.5 - target) * 100, target)) > 0.99


def test_soft_targets_keep_the_area():
    masks = disc()[None]
    targets = soft_targets(masks)
    assert targets.shape == (1, 16, 16)
    assert float(targets.mean()) == pytest.approx(float(masks.float().mean()))
    assert 0 < float(((targets > 0) & (targets < 1)).float().mean()) < 0.5


def test_iou_goes_by_area():
    """A cell that is covered in part counts in part."""
    target = torch.full((1, 1, 2, 2), 0.5)
    logits = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]]]])
    np.testing.assert_allclose(intersection_over_union(logits, target), [[1 / 3]])


def test_iou_counts_pixels():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 0, :, 1:3] = 1
    np.testing.assert_allclose(intersection_over_union(logits, target), [[1 / 3, 0]])


def test_only_the_candidate_that_fits_best_is_drawn_to_the_truth():
    targets = soft_targets(disc()[None])
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 1] = 5 * (torch.nn.functional.avg_pool2d(targets[None], 2)[0, 0] - 0.5)
    logits.requires_grad_()
    losses = average([mask_losses(decoded(logits), targets, torch.tensor([True]))])
    (losses.focal + losses.dice).backward()
    moved = logits.grad.abs().sum((0, 2, 3))
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


def test_an_object_out_of_view_counts_for_its_score_only():
    targets = soft_targets(torch.stack([disc(), torch.zeros(32, 32, dtype=torch.bool)]))
    candidates = decoded(torch.ones(2, 3, 8, 8), torch.full((2, 3), 0.5), torch.tensor([3.0, 3.0]))
    both = average([mask_losses(candidates, targets, torch.tensor([True, True]))])
    first = average([mask_losses(candidates, targets, torch.tensor([True, False]))])
    for name in ("focal", "dice", "iou"):
        assert float(getattr(both, name)) == pytest.approx(float(getattr(first, name)))
    right, wrong = math.log1p(math.exp(-3)), 3 + math.log1p(math.exp(-3))
    assert float(both.score) == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_what_is_not_annotated_counts_nowhere():
    losses = mask_losses(decoded(torch.ones(1, 1, 8, 8)), soft_targets(disc()[None]), torch.tensor([False]))
    assert [float(x) for x in losses] == [0] * 6
    assert [float(x) for x in average([losses])] == [0] * 4


def disc_beside_void(void):
    """Return soft targets of a disc outside void, (1, 16, 16), and of the void."""
    return soft_targets(disc()[None] & ~void), soft_targets(void)


def right_of(column, size=32):
    void = torch.zeros(1, size, size, dtype=torch.bool)
    void[..., column:] = True
    return void


KNOWN = torch.tensor([True])


def test_what_is_made_of_void_counts_for_nothing():
    targets, void = disc_beside_void(right_of(20))
    generator = torch.Generator().manual_seed(0)
    logits, iou = torch.randn(1, 3, 8, 8, generator=generator), torch.rand(1, 3, generator=generator)
    other = logits.clone()
    other[..., 6:] = 9 * torch.randn(1, 3, 8, 2, generator=generator)  # what is left of these is not void
    logits.requires_grad_()
    first = mask_losses(decoded(logits, iou), targets, KNOWN, void)
    again = mask_losses(decoded(other, iou), targets, KNOWN, void)
    assert [x.item() for x in first] == [x.item() for x in again]
    assert all(x.item() > 0 for x in first)
    (first.focal + first.dice).backward()
    assert logits.grad[..., :6].any()
    assert not logits.grad[..., 6:].any()


def test_losses_beside_void_are_those_of_the_rest_of_the_picture():
    size = 16
    rest = torch.zeros(1, size, size, dtype=torch.bool)
    rest[0, 4:10, 5:12] = True
    whole = torch.nn.functional.pad(rest, (0, size))
    void = right_of(size, 2 * size)[:, :size]
    shares, counted = without_void(soft_targets(whole), soft_targets(void))
    logits = 4 * torch.randn(1, 3, size // 2, size // 2, generator=torch.Generator().manual_seed(1))
    for strange in (-30.0, 30.0):
        wide = torch.nn.functional.pad(logits, (0, size // 2), value=strange)
        for measure in (focal_loss, dice_loss, intersection_over_union):
            expected = measure(logits, soft_targets(rest)[:, None].expand_as(logits))
            torch.testing.assert_close(measure(wide, shares.expand_as(wide), counted), expected)


def test_a_cell_that_is_void_in_part_goes_by_the_rest_of_it():
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    void = torch.zeros(1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0], void[0, 0, 1], void[0, 1, 0] = True, True, True
    shares, counted = without_void(soft_targets(mask), soft_targets(void))
    assert (float(shares), float(counted)) == (0.5, 0.5)
    nothing, none = without_void(soft_targets(mask), soft_targets(torch.ones_like(mask)))
    assert (float(nothing), float(none)) == (1.0, 0.0)


def test_void_of_no_pixels_changes_nothing():
    targets = soft_targets(torch.stack([disc(), torch.zeros(32, 32, dtype=torch.bool)]))
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    known = torch.ones(2, dtype=torch.bool)
    plain = mask_losses(decoded(logits), targets, known)
    empty = mask_losses(decoded(logits), targets, known, torch.zeros_like(targets))
    torch.testing.assert_close(list(empty), list(plain), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("side", "known"), [(1, 1), (20, 0)])
def test_whether_an_object_is_in_view_is_unknown_where_void_may_hide_it(side, known):
    void = torch.zeros(1, 64, 64, dtype=torch.bool)
    void[0, 10 : 10 + side, 5:60] = True  # as wide as a line around something, or as a thing
    nothing = torch.zeros_like(void)
    losses = mask_losses(decoded(torch.ones(1, 1, 16, 16)), soft_targets(nothing), KNOWN, soft_targets(void))
    assert float(losses.known) == known
    assert bool(losses.score > 0) == bool(known)
    beside = nothing.clone()
    beside[0, 40:50, 10:30] = True
    seen = mask_losses(decoded(torch.ones(1, 1, 16, 16)), soft_targets(beside), KNOWN, soft_targets(void))
    assert float(seen.known) == float(seen.in_view) == 1


def test_whether_a_sliver_is_in_view_is_not_learned():
    sliver = torch.zeros(1, 32, 32, dtype=torch.bool)
    sliver[0, 4, 4:8] = True
    losses = mask_losses(decoded(torch.ones(1, 1, 8, 8)), soft_targets(sliver), torch.tensor([True]))
    assert float(losses.known) == float(losses.in_view) == 0


def test_every_object_counts_the_same_however_many_are_in_view():
    targets = soft_targets(torch.stack([disc(), disc(), torch.zeros(32, 32, dtype=torch.bool)]))
    logits = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    known = torch.ones(3, dtype=torch.bool)
    one, other = (mask_losses(decoded(logits[i]), targets[i], known[i]) for i in ([0, 2], [0, 1]))
    together = average([one, other])
    expected = (float(one.dice) + float(other.dice)) / 3
    assert float(together.dice) == pytest.approx(expected, rel=1e-6)


def test_the_total_is_the_weighted_sum():
    losses = Losses(*map(torch.tensor, (0.1, 0.2, 0.3, 0.4)))
    weights = LossSettings(focal=20, dice=1, iou=2, score=0)
    assert float(losses.total(weights)) == pytest.approx(2 + 0.2 + 0.6)


def test_cells_with_weights_count_as_often():
    """What a mask takes of another object costs more; what it misses of its own does not."""
    own, other = torch.zeros(2, 32, 32, dtype=torch.bool)
    own[8:24, 2:12] = other[8:24, 20:28] = True
    targets, weights = soft_targets(own[None]), 1 + 4 * soft_targets(other[None])
    known = torch.tensor([True])

    def losses(mask, weights=None):
        logits = (torch.nn.functional.avg_pool2d(mask[None, None].float(), 4) - 0.5) * 10
        sums = mask_losses(decoded(logits), targets, known, weights=weights)
        return float(sums.focal), float(sums.dice), float(sums.iou)

    for mask, worse in ((own | other, True), (own & other, False)):
        plain, heavy, alike = losses(mask), losses(mask, weights), losses(mask, torch.ones_like(weights))
        assert alike == pytest.approx(plain, rel=1e-5)
        assert heavy[2] == plain[2], "the IoU to predict is what it is"
        assert (heavy[0] > 1.5 * plain[0]) == (heavy[1] > 1.2 * plain[1]) == worse
