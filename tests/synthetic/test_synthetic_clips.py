"""Made-up clips: exact, repeatable, varied."""

import numpy as np
import pytest
from scipy import ndimage

from napari_surgsam2.errors import UsageError
from napari_surgsam2.synthetic import SCENES, TRAINING_MIX, draw_frames, make_clip, make_scene
from napari_surgsam2.synthetic.instruments import KINDS, Instrument
from napari_surgsam2.synthetic.shapes import limb, region
from napari_surgsam2.synthetic.sheaths import sheath
from napari_surgsam2.synthetic.wrists import machined

SIZE = (96, 128)


@pytest.mark.parametrize("scene", SCENES)
def test_a_clip_is_a_video_with_a_label_for_every_pixel(scene):
    clip = make_clip(3, 4, SIZE, scene)
    assert (clip.video.shape, clip.video.dtype) == ((4, *SIZE, 3), np.uint8)
    assert (clip.labels.shape, clip.labels.dtype) == ((4, *SIZE), np.uint8)
    assert set(np.unique(clip.labels)) - {0} <= set(clip.names)
    assert clip.video.std() > 3


@pytest.mark.parametrize("scene", SCENES)
def test_the_same_seed_makes_the_same_clip_and_another_one_another(scene):
    first, again, other = (make_clip(seed, 2, SIZE, scene) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.video, again.video)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.video != other.video).mean() > 0.2


def test_frames_drawn_one_by_one_are_those_of_the_clip():
    clip = make_clip(8, 3, SIZE)
    for t, (image, labels) in enumerate(draw_frames(make_scene(8, 3, SIZE), 3)):
        np.testing.assert_array_equal(image, clip.video[t])
        np.testing.assert_array_equal(labels, clip.labels[t])


def test_labels_lie_on_what_is_seen():
    """Where an object's label moves away, the picture changes."""
    clip = make_clip(2, 12, SIZE, "things", pace=0.3)
    changed = np.abs(np.diff(clip.video.astype(int), axis=0)).mean(axis=-1)
    left = clip.labels[1:] != clip.labels[:-1]
    assert left.any()
    assert changed[left].mean() > 2 * changed[~left].mean()


@pytest.mark.parametrize("scene", ["microscopy", "things"])
def test_the_label_of_what_light_shines_through_is_as_large_as_if_it_did_not(scene):
    made = [make_scene(4, 1, SIZE, scene) for _ in range(2)]
    for actor in made[1].actors:
        actor._opacity = 1.0
    labels = [one.draw(0)[1] for one in made]
    assert labels[0].any()
    np.testing.assert_array_equal(labels[0], labels[1])


def test_objects_enter_leave_and_hide_one_another():
    """Over some clips, objects are out of view for a while, and come back."""
    came_back = gone = 0
    for seed in range(6):
        clip = make_clip(seed, 16, (48, 64), "laparoscopy", pace=0.4)
        for object_id in clip.names:
            seen = (clip.labels == object_id).any(axis=(1, 2))
            changes = np.diff(seen.astype(int))
            gone += (changes == -1).any()
            came_back += (changes == -1).any() and (changes[np.argmin(changes) :] == 1).any()
    assert gone >= 3
    assert came_back >= 1


def test_instruments_are_in_most_laparoscopic_clips():
    kinds = {"organ", "gauze", "needle", "thread"}
    shown = [set(make_clip(s, 1, (48, 64)).names.values()) - kinds for s in range(12)]
    assert all(shown)
    assert len(set.union(*shown)) >= 5


def test_instruments_that_work_together_touch_and_are_often_alike():
    touching = alike = 0
    for seed in range(12):
        clip = make_clip(seed, 3, (96, 128), "teamwork")
        instruments = {n: name for n, name in clip.names.items() if name != "organ"}
        alike += len(set(instruments.values())) < len(instruments)
        side = (clip.labels[:, :, 1:], clip.labels[:, :, :-1])
        both = np.isin(side, list(instruments)).all(axis=0)
        touching += bool((both & (side[0] != side[1])).any())
    assert alike >= 6
    assert touching >= 4


def test_the_light_of_a_cavity_falls_on_instruments_as_on_tissue():
    """In the other scenes of keyhole surgery an instrument is as bright at the edge as in the middle."""
    for seed in range(8):
        lit, dark = (make_scene(seed, 1, (96, 128), "cavity") for _ in range(2))
        assert lit.beam is not None
        full, _ = lit.draw(0)
        dark.beam = None
        unlit, labels = dark.draw(0)
        level = np.ones((96, 128, 3), np.float32)
        lit.beam.fall_on(level, 0)
        dim, bright = (labels > 0) & (level[..., 0] < 0.5), (labels > 0) & (level[..., 0] > 1.2)
        if dim.sum() > 50:
            assert full[dim].mean() < unlit[dim].mean()
        if bright.sum() > 50:
            assert full[bright].mean() > unlit[bright].mean()


def test_an_instrument_that_stands_in_light_keeps_its_shape_and_changes_towards_the_camera():
    changes = []
    for seed in range(12):
        plain, lit = (Instrument(np.random.default_rng(seed), SIZE, 1, 0.05) for _ in range(2))
        lit.stand_in_light(np.random.default_rng(seed))
        before, after = plain.draw(0), lit.draw(0)
        if before is None or after is None:
            assert before is after
            continue
        assert (before.alpha == after.alpha).all()
        factors = after.color[before.inside].mean(-1) / np.maximum(before.color[before.inside].mean(-1), 1e-3)
        changes.append(float(factors.max() / factors.min()))
    assert np.mean(np.asarray(changes) > 1.3) > 0.5


def test_what_is_seen_through_openings_in_jaws_belongs_to_the_instrument():
    """As people outline them: along the outside, whatever lies behind an opening."""
    opened = 0
    for seed in range(40):
        solid, pierced = (_instrument(seed, kind="grasper") for _ in range(2))
        pierced._opening = 1.0
        before, after = solid.draw(0), pierced.draw(0)
        if before is None or after is None:
            continue
        assert (before.inside == after.inside).all()
        open_ = after.inside & (after.alpha < 0.1)
        opened += bool(open_.sum() > 10)
        assert (after.alpha <= before.alpha + 1e-6).all()
    assert opened >= 10


def test_an_instrument_out_of_focus_is_where_it_was_with_soft_edges():
    softened = 0
    for seed in range(20):
        sharp, soft = (_instrument(seed) for _ in range(2))
        soft._focus = (2.0, 4.0)
        before, after = sharp.draw(0), soft.draw(0)
        if before is None or after is None or before.inside.sum() < 300:
            continue
        whole, blurred = (np.zeros(SIZE, bool) for _ in range(2))
        whole[before.slices], blurred[after.slices] = before.inside, after.inside
        assert (whole & blurred).sum() > 0.75 * (whole | blurred).sum()
        between = ((after.alpha > 0.1) & (after.alpha < 0.9)).sum()
        softened += bool(between > 1.5 * ((before.alpha > 0.1) & (before.alpha < 0.9)).sum())
        assert np.isfinite(after.color).all()
        assert after.color.max() <= before.color.max() + 1e-3
    assert softened >= 8


def test_what_is_too_bright_shines_on_what_is_beside_it():
    def record(bloom):
        camera = make_scene(1, 1, SIZE, "things").camera
        if bloom:
            camera.bloom(0.5, 6)
        picture = np.full((*SIZE, 3), 0.2, np.float32)
        picture[40:60, 40:60] = 2.0
        return camera.record(picture, 0).astype(int)

    change = (record(True) - record(False)).mean(-1)
    assert change[36:39, 45:55].mean() > 10
    assert abs(change[:, 100:].mean()) < 2


def test_in_an_abdomen_far_organs_are_darker_than_near_ones():
    """So that it has more contrast over large distances than the even tissue of the other scenes."""

    def unevenness(scene):
        levels = [make_scene(seed, 1, SIZE, scene).surface.albedo.mean(-1) for seed in range(16)]
        return np.mean([np.std(np.log(level[::16, ::16])) for level in levels])

    assert unevenness("abdomen") > 1.5 * unevenness("laparoscopy")


def _pieces(mask):
    return ndimage.label(mask)[1]


def _drawn(one):
    """Return where on the picture an instrument is, (Y, X)."""
    whole = np.zeros(SIZE, bool)
    patch = one.draw(0)
    if patch is not None:
        whole[patch.slices] = patch.inside
    return whole


def _edges(mask):
    return np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def test_a_robots_instrument_is_one_thing_from_its_shaft_to_its_jaws():
    """Its links hang together however they are turned, and it comes in over an edge."""
    seen = 0
    for seed in range(30):
        one = _instrument(seed)
        one.kind = "grasper"
        one.be_robotic(np.random.default_rng(seed))
        assert one._links
        mask = _drawn(one)
        if mask.sum() < 100:
            continue
        seen += 1
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        assert sizes.max() > 0.6 * sizes.sum()
        assert _edges(mask).any()
    assert seen >= 20


def test_what_is_machined_has_more_detail_along_it_than_a_plain_part():
    where = region(SIZE, np.asarray([(20.0, 40.0), (70.0, 40.0)]), 15.0)
    part = limb(where, np.asarray((20.0, 40.0)), np.asarray((70.0, 40.0)), (15.0, 15.0), blunt=True)
    changes = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        looks = machined(rng, 50.0, np.full(3, 0.4, np.float32))
        shaded = looks.shade(part, 0.0)
        assert shaded.shape == (*where.shape, 3)
        assert shaded.min() >= 0
        assert np.abs(looks.shade(part, 0.3) - shaded).max() > 0  # reflections move
        changes.append(np.abs(np.diff(shaded, axis=0)).mean())
    assert np.mean(changes) > 0.005


def test_a_sheath_goes_on_along_its_shaft_and_takes_on_the_colour_around_it():
    where = region(SIZE, np.asarray([(20.0, 40.0), (80.0, 40.0)]), 15.0)
    part = limb(where, np.asarray((20.0, 40.0)), np.asarray((80.0, 40.0)), (15.0, 15.0), blunt=True)
    red = np.asarray((1.0, 0.3, 0.3), np.float32)
    redder = 0
    for seed in range(20):
        looks = sheath(np.random.default_rng(seed), 20.0, red)
        shaded = looks.shade(part, 0.0)
        assert shaded.shape == (*where.shape, 3)
        assert shaded.min() >= 0
        y, x = 30 - where.top, 40 - where.left
        np.testing.assert_allclose(shaded[y + 20, x], shaded[y, x], rtol=0.2)  # its picture covers 20 pixels
        plain = sheath(np.random.default_rng(seed), 20.0, np.ones(3, np.float32)).shade(part, 0.0)
        redder += (shaded[..., 0] / shaded[..., 1].clip(0.01)).mean() > 1.1 * (
            plain[..., 0] / plain[..., 1].clip(0.01)
        ).mean()
    assert redder >= 12


def test_near_instruments_are_thicker():
    sizes = {"near": 0.0, "far": 0.0}
    for seed in range(20):
        for how in sizes:
            one = _instrument(seed)
            if how == "near":
                one.come_near(np.random.default_rng(seed), np.ones(3, np.float32))
            else:
                one.be_robotic(np.random.default_rng(seed))
            sizes[how] += ndimage.distance_transform_edt(_drawn(one)).max()
    assert sizes["near"] > 1.1 * sizes["far"]


def test_instruments_in_the_dark_are_dark():
    darker = seen = 0
    for seed in range(20):
        plain, dark = (_instrument(seed) for _ in range(2))
        dark._hide_in_the_dark(np.random.default_rng(seed))
        a, b = plain.draw(0), dark.draw(0)
        if a is None or b is None or b.inside.sum() < 100:
            continue
        seen += 1
        darker += b.color[b.inside].mean() < 0.5 * a.color[a.inside].mean()
    assert darker >= 0.7 * seen >= 7


def test_what_reaches_in_with_its_jaws_may_be_in_two_pieces():
    """So that open jaws are often two pieces that come in over an edge."""
    pieces = []
    for seed in range(30):
        one = _instrument(seed)
        one._reach_in_with_its_jaws(np.random.default_rng(seed))
        mask = _drawn(one)
        if mask.any():
            pieces.append(_pieces(mask))
            assert _edges(mask).any()
    assert sum(n > 1 for n in pieces) >= 5


def test_what_lies_behind_the_tip_is_on_the_instrument():
    found = 0
    for seed in range(20):
        one = _instrument(seed, "ultrasound probe")
        place = one.place_behind(0.15)
        mask = _drawn(one)
        y, x = np.round(place).astype(int)
        if 0 <= y < SIZE[0] and 0 <= x < SIZE[1]:
            assert mask[y, x]
            found += 1
    assert found >= 10


@pytest.mark.parametrize("scene", ["depths", "robotic", "closeup", "reflections"])
def test_there_are_instruments_to_be_seen(scene):
    """In most clips, at a size that can be clicked."""
    shown = 0
    for seed in range(12):
        made = make_scene(seed, 1, SIZE, scene)
        _, labels = made.draw(0)
        tools = [n for n, name in made.names.items() if name in KINDS]
        shown += any((labels == n).mean() > 0.005 for n in tools)
    assert shown >= 9


def _instrument(seed, kind=None):
    rng = np.random.default_rng(seed)
    one = Instrument(rng, SIZE, 1, 0.05)
    if kind is not None:
        one.kind = kind
        one._jaw_length, one._jaw_width, one._slot = 40.0, (8.0, 6.0), False
    return one


def test_nothing_is_labelled_where_the_frame_is_black():
    """An endoscope's picture leaves corners of the frame black."""
    bordered = 0
    for seed in range(12):
        scene = make_scene(seed, 1, (64, 80))
        _, labels = scene.draw(0)
        if scene.camera.hidden is not None:
            bordered += 1
            assert not labels[scene.camera.hidden].any()
    assert bordered >= 3


@pytest.mark.parametrize("scene", SCENES)
def test_the_smallest_clips_can_be_made(scene):
    for seed in range(6):
        assert make_clip(seed, 2, (32, 32), scene).video.shape == (2, 32, 32, 3)


def test_the_training_mix_leaves_out_a_kind_for_fine_tuning():
    assert "ultrasound" not in TRAINING_MIX
    assert sum(TRAINING_MIX.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scene": "opera"}, "no kind of scene 'opera'.*laparoscopy"),
        ({"frames": 0}, "0 frames"),
        ({"seed": -1}, "seed is -1"),
        ({"pace": 0.0}, "pace is 0"),
        ({"size": (16, 64)}, "16 x 64 pixels"),
    ],
)
def test_clips_that_cannot_be_made_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_clip(**{"seed": 0, **arguments})
