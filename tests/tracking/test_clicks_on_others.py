"""What is clicked as one object belongs to no other."""

import numpy as np
import pytest
import torch

from napari_surgsam2 import Tracker, TrackingSettings, load_model
from napari_surgsam2.evaluation import region_similarity
from napari_surgsam2.network import NEGATIVE, NO_OBJECT_LOGIT, POSITIVE, Decoded
from napari_surgsam2.prompts import Point, central_position
from napari_surgsam2.synthetic import make_scene
from napari_surgsam2.tracking.corrections import without_others

SIZE = (320, 400)


@pytest.fixture(scope="module")
def nano():
    return load_model("nano", device="cpu")


def touching_instruments(seed):
    """Return a frame (1, Y, X, 3), and by object its mask and the click in its middle."""
    picture, labels = make_scene(seed, 1, SIZE, "teamwork").draw(0)
    masks = {int(i): labels == i for i in np.unique(labels)[1:] if (labels == i).mean() > 0.005}
    return picture[None], {i: (mask, central_position(mask)) for i, mask in masks.items()}


def masks_of(model, video, objects, settings=None):
    tracker = Tracker(model, video, settings)
    for i, (_, at) in objects.items():
        tracker.add_points(0, i, [at])
    result = tracker.predict(0)
    tracker.close()
    return dict(zip(result.object_ids.tolist(), result.masks(), strict=True))


def test_masks_leave_out_what_is_clicked_as_another_object(nano):
    covered = {True: 0, False: 0}
    fit = {True: [], False: []}
    for seed in (63003, 63005, 63006, 63012):
        video, objects = touching_instruments(seed)
        for together in covered:
            groups = [objects] if together else [{i: o} for i, o in objects.items()]
            for group in groups:
                for i, mask in masks_of(nano, video, group).items():
                    covered[together] += sum(int(mask[at]) for j, (_, at) in objects.items() if j != i)
                    fit[together].append(region_similarity(mask, objects[i][0]))
    assert covered[False] >= 3
    assert covered[True] <= covered[False] // 3
    assert np.mean(fit[True]) > np.mean(fit[False]) + 0.02


@pytest.mark.parametrize("setting", ["obey_clicks", "exclusive"])
def test_sam_2_makes_each_mask_alone(nano, setting):
    """And so things within things can be clicked."""
    video, objects = touching_instruments(63003)
    plain = TrackingSettings(**{setting: False})
    together = masks_of(nano, video, objects, plain)
    for i, o in objects.items():
        np.testing.assert_array_equal(masks_of(nano, video, {i: o}, plain)[i], together[i])


def test_clicks_may_be_told_before_the_other_object_has_them(nano):
    """Then the order in which masks are asked for does not matter."""
    video, objects = touching_instruments(63012)
    (first, at), (second, beside) = objects[4], objects[5]
    clicks = {i: Point(0, *map(float, where), i) for i, where in ((4, at), (5, beside))}
    masks = []
    for order in ((4, 5), (5, 4)):
        tracker = Tracker(nano, video)
        for i in order:
            result = tracker.set_prompts(0, i, [clicks[i]], others=[clicks[9 - i]])
        masks.append(dict(zip(result.object_ids.tolist(), result.masks(), strict=True)))
        alone = tracker.set_prompts(0, 4, [clicks[4]], others=[])
        assert alone.masks()[list(alone.object_ids).index(4)][beside]
        tracker.close()
    for i, mask in ((4, first), (5, second)):
        np.testing.assert_array_equal(masks[0][i], masks[1][i])
        assert region_similarity(masks[0][i], mask) > 0.6


def left_and_right(left, right):
    """Return a mask, 64 x 64 logits, of its values in the left and right half."""
    logits = torch.full((1, 1, 64, 64), float(left))
    logits[..., 32:] = right
    return Decoded(logits, torch.zeros(1, 8), torch.ones(1, 1), torch.full((1, 1), 0.8))


ON_LEFT, ON_RIGHT = [64.0, 128.0], [192.0, 128.0]


def corrected(first, then, others):
    asked = []

    def decode(*prompts):
        asked.append(prompts)
        return then

    xy, labels = torch.tensor([[ON_LEFT]]), torch.tensor([[POSITIVE]])
    return without_others(decode, first, xy, labels, torch.tensor(others).reshape(-1, 2)), asked


def test_the_others_clicks_are_negative_ones_on_the_mask_so_far():
    first, then = left_and_right(3, 40), left_and_right(3, -3)
    found, [(xy, labels, earlier)] = corrected(first, then, [ON_RIGHT])
    assert found is then
    assert xy.tolist() == [[ON_LEFT, ON_RIGHT]]
    assert labels.tolist() == [[POSITIVE, NEGATIVE]]
    assert earlier.max() == 32


def test_only_those_that_the_mask_covers_are():
    first, then = left_and_right(3, -3), left_and_right(3, NO_OBJECT_LOGIT)
    assert corrected(first, then, [ON_RIGHT]) == (first, [])
    assert corrected(first, then, []) == (first, [])


def test_no_object_goes_because_another_one_was_clicked():
    first, gone = left_and_right(3, 3), left_and_right(NO_OBJECT_LOGIT, NO_OBJECT_LOGIT)
    gone = gone._replace(score=-torch.ones(1, 1))
    assert corrected(first, gone, [ON_RIGHT])[0] is first


def test_no_click_of_its_own_is_given_up_for_those_of_others():
    first, without = left_and_right(3, 3), left_and_right(-3, -3)
    assert corrected(first, without, [ON_RIGHT, [200.0, 128.0]])[0] is first


def test_a_mask_that_heeds_them_no_better_is_not_taken():
    """Such as where both objects are clicked in the same place."""
    first = left_and_right(3, -3)
    for then in (first, left_and_right(-3, -3)):
        found, asked = corrected(first, then, [ON_LEFT])
        assert found is first
        assert len(asked) == 1
