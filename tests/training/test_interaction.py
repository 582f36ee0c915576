"""The simulated user: where it clicks, draws boxes and corrects."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_surgsam2.network import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE
from napari_surgsam2.prompts import central_position, correcting_position
from napari_surgsam2.training.interaction import (
    box_around,
    box_labels,
    click_in,
    corrective_click,
    mistaken_masks,
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def mask(*boxes, size=48):
    """Return a mask (1, S, S) of boxes (y0, x0, y1, x1), ends excluded."""
    out = torch.zeros(1, size, size, dtype=torch.bool)
    for y0, x0, y1, x1 in boxes:
        out[0, y0:y1, x0:x1] = True
    return out


def at(xy, masks):
    """Return whether each click (B, 1, 2) is in its mask (B, S, S)."""
    return [bool(m[int(y), int(x)]) for m, (x, y) in zip(masks, xy[:, 0].tolist(), strict=True)]


@pytest.mark.parametrize("central", [0.0, 0.5, 1.0])
def test_clicks_are_in_their_regions(rng, central):
    regions = torch.cat([mask((3, 4, 9, 40)), mask((40, 40, 41, 41)), mask((0, 0, 48, 48))])
    for _ in range(20):
        assert all(at(click_in(regions, rng, central), regions))


def test_clicks_are_spread_over_a_region(rng):
    region = mask((10, 10, 30, 40))
    xy = torch.cat([click_in(region, rng, 0.0) for _ in range(300)])[:, 0]
    assert xy.amin(0).tolist() <= [11, 11]
    assert xy.amax(0).tolist() >= [38, 28]


def test_a_central_click_is_in_the_middle():
    assert central_position(mask((10, 20, 21, 31))[0].numpy()) == (15, 25)


def test_a_central_click_is_away_from_the_edge_of_the_picture():
    assert central_position(mask((0, 0, 11, 48))[0].numpy())[0] == 5


def test_a_mask_is_corrected_in_the_middle_of_its_largest_mistake():
    """By how far inside it one can be: a long sliver along an edge is not what one would click first."""
    wanted = mask((10, 10, 30, 20))[0].numpy()
    too_small, too_wide = mask((10, 10, 19, 20))[0].numpy(), mask((10, 10, 30, 22))[0].numpy()
    (y, x), positive = correcting_position(too_small, wanted)
    assert positive
    assert 22 <= y <= 26
    assert x in (14, 15)
    (y, x), positive = correcting_position(too_wide, wanted)
    assert not positive
    assert x in (20, 21)
    both = too_small | mask((0, 40, 47, 43))[0].numpy()  # larger by its area, but thin
    assert correcting_position(both, wanted) == correcting_position(too_small, wanted)
    alike = mask((10, 10, 20, 20))[0].numpy(), mask((10, 12, 20, 22))[0].numpy()  # as deep on both sides
    assert not correcting_position(*alike)[1]
    with pytest.raises(ValueError, match="nothing is wrong"):
        correcting_position(wanted, wanted)


def test_a_click_on_nothing_is_somewhere(rng):
    x, y = click_in(mask(), rng, 1.0)[0, 0].tolist()
    assert 0 <= x < 48
    assert 0 <= y < 48


def test_boxes_are_about_right(rng):
    boxes = torch.cat([box_around(mask((100, 50, 300, 450), size=512), rng) for _ in range(50)])
    exact = torch.tensor([[50.0, 100.0], [449.0, 299.0]])
    assert (boxes - exact).abs().amax() <= 10  # 20 pixels of 1024
    assert (boxes - exact).abs().amax() > 4
    assert box_labels(2, boxes.device).tolist() == [[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]] * 2


def test_corrections_are_positive_where_something_is_missed(rng):
    truth, seen = mask((10, 10, 20, 20)), mask((10, 10, 20, 14))
    xy, labels = corrective_click(truth, seen, rng, 0.0)
    assert labels.tolist() == [[POSITIVE]]
    assert at(xy, truth & ~seen) == [True]


def test_corrections_are_negative_where_something_is_too_much(rng):
    truth, seen = mask((10, 10, 20, 20)), mask((10, 10, 20, 30))
    xy, labels = corrective_click(truth, seen, rng, 0.0)
    assert labels.tolist() == [[NEGATIVE]]
    assert at(xy, seen & ~truth) == [True]


def test_which_error_is_corrected_goes_by_area(rng):
    truth, seen = mask((10, 10, 20, 20)), mask((12, 10, 20, 20), (30, 30, 38, 40))
    positive = [int(corrective_click(truth, seen, rng, 0.0)[1]) == POSITIVE for _ in range(400)]
    assert np.mean(positive) == pytest.approx(20 / 100, abs=0.06)


def test_nothing_wrong_is_confirmed(rng):
    truth = torch.cat([mask((10, 10, 20, 20)), mask()])
    xy, labels = corrective_click(truth, truth, rng, 0.0)
    assert labels.tolist() == [[POSITIVE], [NEGATIVE]]
    assert at(xy, truth) == [True, False]


def test_void_is_never_clicked_and_nothing_is_wrong_there(rng):
    truth, void = mask((10, 10, 20, 20)), mask((5, 20, 25, 40), (20, 5, 25, 20))
    seen = truth | void | mask((8, 10, 10, 20))
    for central in (0.0, 1.0):
        for _ in range(20):
            xy, labels = corrective_click(truth, seen, rng, central, void)
            assert labels.tolist() == [[NEGATIVE]]
            assert at(xy, seen & ~truth & ~void) == [True]
            xy, labels = corrective_click(truth, truth | void, rng, central, void)
            assert labels.tolist() == [[POSITIVE]]
            assert at(xy, truth) == [True]
            xy, labels = corrective_click(mask(), void, rng, central, void)
            assert labels.tolist() == [[NEGATIVE]]
            assert at(xy, ~void) == [True]


def two_objects():
    """Return masks (3, 64, 64) of two objects of a clip and one of another clip, and their clips."""
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, 8:24, 8:40] = True
    masks[1, 32:56, 16:32] = True
    masks[2, 20:40, 40:60] = True
    return masks, torch.tensor([0, 0, 1])


def kind_of_mistake(wrong, mask, other):
    """Say what was done to a mask."""
    if torch.equal(wrong, mask | other):
        return "both"
    if torch.equal(wrong, other):
        return "other"
    return "more" if (wrong | mask).equal(wrong) else "part" if (wrong & mask).equal(wrong) else "strange"


def test_mistakes_are_another_object_a_part_or_too_much():
    masks, clip = two_objects()
    kinds = {0: set(), 2: set()}
    for seed in range(60):
        logits = mistaken_masks(masks, clip, np.random.default_rng(seed))
        assert logits.shape == (3, 1, 16, 16)
        assert float(logits.abs().amax(dim=(1, 2, 3)).min()) >= 3
        assert float(logits.abs().max()) <= 10
        wrong = F.interpolate(logits, scale_factor=4.0, mode="nearest")[:, 0] > 0
        for b, other in ((0, 1), (2, 0)):
            kinds[b].add(kind_of_mistake(wrong[b], masks[b], masks[other]))
    assert kinds[0] == {"both", "other", "part", "more"}
    assert kinds[2] == {"part", "more"}  # there is no other object in its clip


def test_of_an_object_out_of_view_another_is_taken_or_nothing():
    masks, clip = two_objects()
    masks[0] = False
    taken = []
    for seed in range(20):
        logits = mistaken_masks(masks, clip, np.random.default_rng(seed))
        wrong = F.interpolate(logits, scale_factor=4.0, mode="nearest")[0, 0] > 0
        assert not wrong.any() or torch.equal(wrong, masks[1])
        taken.append(bool(wrong.any()))
    assert any(taken)
    assert not all(taken)
