"""Prompted frames are looked at mirrored, smaller and in gray as well."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_surgsam2 import Tracker, TrackingSettings, load_model
from napari_surgsam2.network import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    NO_OBJECT_LOGIT,
    POSITIVE,
    Decoded,
)
from napari_surgsam2.prompts import central_position
from napari_surgsam2.synthetic import make_clip
from napari_surgsam2.tracking import features
from napari_surgsam2.tracking.views import LOOKS, Look, View, decode_views

SIZE = 320  # as large as the network sees it


@pytest.fixture(scope="module")
def nano():
    return load_model("nano", device="cpu")


@pytest.fixture(scope="module")
def picture():
    """A frame (1, Y, X, 3) and an instrument's mask."""
    clip = make_clip(3, 1, (SIZE, SIZE))
    ids, counts = np.unique(clip.labels[0], return_counts=True)
    return clip.video, clip.labels[0] == ids[1:][counts[1:].argmax()]


@pytest.fixture
def mirrors_alone(monkeypatch):
    """All looks, and nothing but turned round."""
    monkeypatch.setattr(features, "LOOKS", [Look(look.axes) for look in LOOKS])


@pytest.mark.usefixtures("mirrors_alone")
@pytest.mark.parametrize("axes", [look.axes for look in LOOKS[1:]], ids=["left-right", "upside down", "both"])
@pytest.mark.parametrize("kind", ["click", "box", "clicks on a mask"])
def test_a_mirrored_frame_gives_the_mirrored_mask(nano, picture, kind, axes):
    """Whatever of the four ways it is shown, so that the average of all is the same."""
    video, mask = picture
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = np.array([central_position(mask), central_position(mask & (np.arange(SIZE) > columns.mean()))])
    found = []
    for turned in ((), axes):
        ends = np.array([(rows[0], columns[0]), (rows[-1], columns[-1])])
        points = inside.copy()
        for axis in turned:
            ends[:, axis], points[:, axis] = SIZE - 1 - ends[::-1, axis], SIZE - 1 - points[:, axis]
        shown = np.ascontiguousarray(np.flip(video, [a - 1 for a in turned]))
        tracker = Tracker(nano, shown, TrackingSettings(mirrored=True))
        if kind == "box":
            tracker.add_box(0, 1, (*ends[0], *ends[1]))
        else:
            tracker.add_points(0, 1, points[:1])
        if kind == "clicks on a mask":
            tracker.predict(0)
            tracker.add_points(0, 1, points[1:])
        found.append(np.flip(tracker.predict(0).logits[0], turned))
        tracker.close()
    assert (found[0] > 0).any()
    np.testing.assert_allclose(found[1], found[0], atol=0.02)


def test_the_frame_as_it_is_comes_first():
    picture = torch.randint(256, (4, 6, 3), dtype=torch.uint8)
    assert LOOKS[0](picture) is picture


def test_a_look_turns_a_picture_and_takes_its_colours():
    picture = torch.randint(256, (4, 6, 3), dtype=torch.uint8)
    np.testing.assert_array_equal(Look((-1,))(picture), picture.numpy()[:, ::-1])
    np.testing.assert_array_equal(Look((-2, -1))(picture), picture.numpy()[::-1, ::-1])
    gray = Look(gray=True)(picture).numpy()
    assert (gray == gray[..., :1]).all()
    np.testing.assert_allclose(gray[..., 0], picture.numpy() @ (0.299, 0.587, 0.114), atol=0.51)


def test_without_mirrors_it_does_not(nano, picture):
    video, mask = picture
    y, x = central_position(mask)
    masks = []
    for shown, at in ((video, (y, x)), (video[:, :, ::-1].copy(), (y, SIZE - 1 - x))):
        tracker = Tracker(nano, shown, TrackingSettings(mirrored=False))
        tracker.add_points(0, 1, [at])
        masks.append(tracker.predict(0).logits[0])
        tracker.close()
    assert np.abs(masks[0] - masks[1][:, ::-1]).max() > 0.5


def test_views_that_are_all_alike_change_nothing(nano, picture):
    frame = torch.from_numpy(picture[0])
    y, x = np.argwhere(picture[1])[0].tolist()
    xy, labels = torch.tensor([[[float(x), float(y)]]]), torch.tensor([[POSITIVE]])
    with torch.inference_mode():
        features = nano.network.encode_image(frame)
        plain = nano.network.decode(nano.network.without_memory(features), features, xy, labels)
        views = [View(Look(), features)] * 3
        several = decode_views(nano.network, views, xy, labels, None, SIZE, obey_clicks=False)
    for a, b in zip(plain, several, strict=True):
        torch.testing.assert_close(b, a.clamp(-32, 32) if a is plain.logits else a, rtol=1e-4, atol=1e-4)


class Seeing:
    """A network whose views see what they are told to, in turn."""

    no_obj_ptr = torch.zeros(1, 8)

    def __init__(self, *seen):
        self._seen = list(seen)

    def without_memory(self, features):
        return features

    def decode(self, *_):
        logit, score = self._seen.pop(0)
        logits = torch.full((1, 1, 64, 64), float(logit) if score > 0 else NO_OBJECT_LOGIT)
        return Decoded(logits, torch.ones(1, 8), torch.tensor([[float(score)]]), torch.tensor([[0.8]]))


def average(*seen, labels=POSITIVE, obey=True):
    network, views = Seeing(*seen), [View(Look(look.axes), None) for look in LOOKS]
    return decode_views(
        network, views, torch.full((1, 1, 2), 128.0), torch.tensor([[labels]]), None, SIZE, obey
    )


def test_a_view_that_sees_no_object_takes_nothing_from_the_masks_of_the_others():
    found = average((8, 3), (8, 3), (8, 3), (0, -3), obey=False)
    assert float(found.score) == pytest.approx(1.5)
    assert found.logits.unique().tolist() == [8.0]
    gone = average((8, 1), (8, -3), (8, -3), (8, -3), obey=False)
    assert float(gone.score) < 0
    assert gone.logits.unique().tolist() == [NO_OBJECT_LOGIT]
    assert not gone.pointer.any()


def test_the_mean_does_not_contradict_a_click_that_a_view_agrees_with():
    seen = (0.5, 3), (0.5, 3), (-31, 3), (-31, 3)
    assert average(*seen, obey=False).logits.max() < 0
    assert average(*seen).logits.unique().tolist() == [0.5]
    assert average((3, 3), (3, 3), (1, 3), (1, 3)).logits.unique().tolist() == pytest.approx([2.0])


positions = st.tuples(st.floats(0, SIZE - 1, width=32), st.floats(0, SIZE - 1, width=32))


looks = st.builds(
    Look,
    axes=st.sampled_from([look.axes for look in LOOKS]),
    margin=st.sampled_from([0.0, 0.1, 0.2]),
)


@given(looks, positions)
@settings(max_examples=50, deadline=None)
def test_what_is_at_a_position_is_where_the_position_is_seen(look, point):
    x, y = (min(max(round(n), 2), SIZE - 3) for n in point)
    picture = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    xy, labels = torch.tensor([[[float(x), float(y)]]]), torch.tensor([[POSITIVE]])
    (moved,) = look.positions(xy, labels, SIZE)[0].tolist()
    seen = np.argwhere(look(picture)[..., 0].numpy() > 128).mean(0)[::-1]
    np.testing.assert_allclose(seen, moved, atol=1)


@given(looks, st.tuples(positions, positions))
@settings(max_examples=50, deadline=None)
def test_corners_of_a_box_stay_corners(look, corners):
    (x0, y0), (x1, y1) = corners
    xy = torch.tensor([[(min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))]])
    moved = look.positions(xy, torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]), SIZE)[0]
    assert (moved[0] <= moved[1]).all()
    smaller = 1 - 2 * look.margin
    torch.testing.assert_close(moved[1] - moved[0], (xy[0, 1] - xy[0, 0]) * smaller, atol=1e-3, rtol=0)


@given(looks)
@settings(max_examples=12, deadline=None)
def test_a_mask_goes_into_a_view_and_comes_back(look):
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    logits = (12 - ((y - 30) ** 2 + (x - 50) ** 2) / 25)[None, None].clamp(min=-10)
    seen = look.masks(logits, SIZE)
    assert seen.shape == logits.shape
    around = round(look.margin * 80)
    assert not around or float(seen[..., :around, :].max()) < 0
    back = look.masks_back(seen, SIZE)
    assert float(((back > 0) != (logits > 0)).float().mean()) < 0.01
    torch.testing.assert_close(back[..., 20:40, 40:60], logits[..., 20:40, 40:60], atol=0.5, rtol=0)


def test_small_networks_do_so_and_the_published_do_not(nano, model, picture, clip):
    assert Tracker(nano, picture[0]).mirrors
    assert not Tracker(nano, picture[0], TrackingSettings(mirrored=False)).mirrors
    assert not Tracker(model, clip).mirrors
    assert Tracker(model, clip, TrackingSettings(mirrored=True)).mirrors


def test_a_frame_is_encoded_once_for_all_its_clicks_and_objects(nano, picture, monkeypatch):
    encoded = []
    encode = nano.network.encode_image
    monkeypatch.setattr(nano.network, "encode_image", lambda x: (encoded.append(len(x)), encode(x))[1])
    tracker = Tracker(nano, picture[0])
    for object_id, (y, x) in enumerate(np.argwhere(picture[1])[:3].tolist(), 1):
        tracker.add_points(0, object_id, [(y, x)])
        tracker.predict(0)
    assert sum(encoded) == 4
    tracker.close()


def test_only_first_prompts_are(nano, picture, monkeypatch):
    """Where memories tell of the object the frame is seen as it is."""
    video = np.repeat(picture[0], 3, axis=0)
    tracker = Tracker(nano, video)
    y, x = np.argwhere(picture[1])[picture[1].sum() // 2].tolist()
    tracker.add_points(0, 1, [(y, x)])
    for _ in tracker.propagate():
        pass
    monkeypatch.setattr(tracker._frames, "views", None)
    tracker.add_points(2, 1, [(y, x)])
    assert tracker.predict(2).masks()[0].any()
    tracker.close()


def test_a_first_frame_is_corrected_alike_before_and_after_tracking(nano, picture):
    """It is still seen in several views, and not by its own memory."""
    video = np.repeat(picture[0], 3, axis=0)
    inside = np.argwhere(picture[1])
    first, second = (inside[len(inside) * part // 4].tolist() for part in (1, 3))
    found = []
    for passed in (False, True):
        tracker = Tracker(nano, video)
        tracker.add_points(0, 1, [first])
        tracker.predict(0)
        if passed:
            for _ in tracker.propagate():
                pass
        tracker.add_points(0, 1, [second], [0])
        found.append(tracker.predict(0).logits[0])
        tracker.close()
    np.testing.assert_array_equal(found[1], found[0])
