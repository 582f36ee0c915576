"""Tracking with gradients is the tracking of the tracker."""

import numpy as np
import pytest
import torch

from napari_surgsam2.settings import PruningSettings, TrackingSettings
from napari_surgsam2.tracking import Tracker
from napari_surgsam2.training.batch import Batch
from napari_surgsam2.training.clips import TrainingClip
from napari_surgsam2.training.interaction import box_around, click_in
from napari_surgsam2.training.settings import PromptSettings
from napari_surgsam2.training.unroll import Unroller
from tests.helpers.clips import moving_blobs
from tests.helpers.weights import rule_network

SAM2 = TrackingSettings(
    pruning=PruningSettings(prune_frames=0), obey_clicks=False, doubt_masks=False, exclusive=False
)
CLICKS = PromptSettings(click=1, box=0, mask=0, corrections=0, corrected_frames=0, central_click=1)


def blob_clip(frames=18, size=128):
    """Return a clip of two discs with their masks."""
    video = moving_blobs(frames, size, size)
    red = (video[..., 0] > 170) & (video[..., 1] < 110)
    blue = (video[..., 2] > 170) & (video[..., 1] < 130)
    masks = torch.from_numpy(np.stack([red, blue]))
    return TrainingClip(torch.from_numpy(video), masks, torch.ones(frames, dtype=torch.bool))


@pytest.fixture(scope="module")
def clip():
    return blob_clip()


def test_logits_are_those_of_the_tracker(tiny_model, clip):
    """Without pruning, on a video longer than the pointers reach back."""
    with torch.no_grad():
        unrolled = Unroller(tiny_model.network, CLICKS)(
            Batch.of([clip], torch.device("cpu")), np.random.default_rng(0)
        )
    tracker = Tracker(tiny_model, clip.frames.numpy(), SAM2)
    clicks = click_in(clip.masks[:, 0], np.random.default_rng(0), 1.0)[:, 0].tolist()
    for object_id, (x, y) in enumerate(clicks, 1):
        tracker.add_points(0, object_id, [(y, x)])
    for result, logits in zip(tracker.propagate(), unrolled.logits.values(), strict=True):
        np.testing.assert_allclose(result.logits, logits[:, 0], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_boxes_and_masks_give_the_logits_of_the_tracker(tiny_model, clip, kind):
    prompts = PromptSettings(**{"click": 0, "box": 0, "mask": 0, kind: 1}, corrections=0, corrected_frames=0)
    with torch.no_grad():
        unrolled = Unroller(tiny_model.network, prompts)(
            Batch.of([clip], torch.device("cpu")), np.random.default_rng(0)
        )
    tracker = Tracker(tiny_model, clip.frames.numpy(), SAM2)
    rng = np.random.default_rng(0)
    rng.choice(3, p=prompts.shares)  # the kind
    boxes = box_around(clip.masks[:, 0], rng).flatten(1).tolist()
    for object_id, (x0, y0, x1, y1) in enumerate(boxes, 1):
        if kind == "box":
            tracker.add_box(0, object_id, (y0, x0, y1, x1))
        else:
            tracker.add_mask(0, object_id, clip.masks[object_id - 1, 0].numpy())
    for result, logits in zip(tracker.propagate(stop=6), list(unrolled.logits.values())[:6], strict=True):
        np.testing.assert_allclose(result.logits, logits[:, 0], rtol=1e-3, atol=2e-3)


def test_unannotated_frames_are_not_corrected(clip):
    """Nothing is known there to correct them by."""
    sparse = TrainingClip(clip.frames[:4], clip.masks[:, :4], torch.tensor([True, False, False, False]))
    batch = Batch.of([sparse], torch.device("cpu"))
    prompts = PromptSettings(click=1, box=0, mask=0, corrections=2, corrected_frames=4)
    unroller = Unroller(rule_network().train(), prompts)
    for seed in range(6):
        assert unroller._corrected_frames(batch, "click", np.random.default_rng(seed)) <= {0}


def two_sparse_clips(clip, *annotated):
    """Return a batch of clips of four frames, each annotated in its first and in the frames given."""
    clips = []
    for frames in annotated:
        known = torch.zeros(4, dtype=torch.bool)
        known[[0, *frames]] = True
        masks = clip.masks[:, :4] & known[:, None, None]
        clips.append(TrainingClip(clip.frames[:4], masks, known))
    return Batch.of(clips, torch.device("cpu"))


def test_frames_that_are_annotated_in_some_of_the_clips_are_corrected_there(clip):
    batch = two_sparse_clips(clip, (2,), (3,))
    prompts = PromptSettings(click=1, box=0, mask=0, corrections=1, corrected_frames=3)
    unroller = Unroller(rule_network().train(), prompts)
    found = [unroller._corrected_frames(batch, "mask", np.random.default_rng(seed)) for seed in range(30)]
    assert set().union(*found) == {2, 3}
    assert {2, 3} in found


def test_only_objects_whose_truth_is_known_are_corrected(tiny_model, clip, monkeypatch):
    batch = two_sparse_clips(clip, (2,), (3,))
    unroller = Unroller(tiny_model.network, CLICKS.replace(corrections=1))
    prompted = []
    memorize = unroller._memorize

    def spy(number, these, *more):
        prompted.append(these)
        return memorize(number, these, *more)

    monkeypatch.setattr(unroller, "_memorize", spy)
    logits = {}
    for corrected in (set(), {1, 2}):
        monkeypatch.setattr(unroller, "_corrected_frames", lambda *_, c=corrected: c)
        with torch.no_grad():
            out = unroller(batch, np.random.default_rng(0))
        logits[len(corrected)] = out.logits
    assert prompted[3:] == [[True] * 4, [False] * 4, [True, True, False, False]]
    for t in range(4):
        same = [torch.equal(a, b) for a, b in zip(logits[0][t], logits[2][t], strict=True)]
        assert same[2:] == [True, True]  # they were asked to be corrected where nobody knows how
        assert same[:2] == [t < 2] * 2


def test_objects_with_memories_of_different_kinds_attend_each_to_their_own(tiny_model, clip):
    network = tiny_model.network
    batch = two_sparse_clips(clip, (1,), (2,))
    unroller = Unroller(network, CLICKS)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        features = unroller._encode(batch)
        frames = [type(features)(*(x[t][batch.clip] for x in features)) for t in range(4)]
        memories = []
        for t, prompted in enumerate(([True] * 4, [False, True, False, True], [True, False, False, True])):
            shown = network.decode_given_mask(frames[t], clip.masks[:, t].repeat(2, 1, 1)[:, None])
            memories.append(unroller._memorize(t, prompted, frames[t], shown))
        together = unroller._attend(3, frames[3], memories, rng)
        for i in range(4):
            alone = unroller._attend(
                3, type(features)(*(x[[i]] for x in frames[3])), [m.of([i]) for m in memories], rng
            )
            torch.testing.assert_close(together[[i]], alone, rtol=1e-4, atol=1e-4)


def test_no_start_is_wrong_that_is_not_set_right(tiny_model, clip):
    batch = two_sparse_clips(clip, (2,), (3,))
    unroller = Unroller(tiny_model.network, CLICKS.replace(wrong_starts=1.0))
    for seed in range(20):
        course = unroller._course(batch, {2, 3}, np.random.default_rng(seed))
        before, after = course.masks(0)
        assert torch.equal(before[2:], batch.masks[0, 2:])  # not known in frame 2, which sets right
        assert torch.equal(after, before)


def with_void(clip, frames, *places):
    """Return the first frames of a clip, with void in some places (y0, x0, y1, x1)."""
    void = torch.zeros(clip.masks.shape[2:], dtype=torch.bool)
    for y0, x0, y1, x1 in places:
        void[y0:y1, x0:x1] = True
    masks = clip.masks[:, :frames] & ~void
    return TrainingClip(clip.frames[:frames], masks, clip.annotated[:frames], void.repeat(frames, 1, 1))


@pytest.mark.parametrize("kind", ["click", "box"])
def test_void_is_not_clicked_while_a_clip_is_tracked(tiny_model, clip, monkeypatch, kind):
    network, clicked = tiny_model.network, []
    candidates = network.candidates

    def spy(image, frame, xy=None, labels=None, *more):
        if xy is not None:
            clicked.append(xy[labels < 2].long())  # not the corners of boxes
        return candidates(image, frame, xy, labels, *more)

    monkeypatch.setattr(network, "candidates", spy)
    marked = with_void(clip, 3, (0, 0, 128, 30), (50, 60, 90, 128))
    plain = TrainingClip(clip.frames[:3], clip.masks[:, :3], clip.annotated[:3])
    prompts = PromptSettings(
        **{"click": 0, "box": 0, "mask": 0, kind: 1}, corrections=3, corrected_frames=3, mistakes=0.5,
        prompted_anew=2,
    )  # fmt: skip
    for clips in ([marked], [plain, marked]):
        batch = Batch.of(clips, torch.device("cpu"))
        for seed in range(4):
            with torch.no_grad():
                out = Unroller(network, prompts)(batch, np.random.default_rng(seed))
            assert all(torch.isfinite(x) for x in out.sums())
            if clips == [marked]:
                assert not any(marked.void[0, y, x] for xy in clicked for x, y in xy.tolist())
            clicked.clear()
    assert batch.void_in(0).flatten(1).any(1).tolist() == [False, False, True, True]
    assert len(out.ious(batch)) == 3


def test_frames_where_an_object_is_going_are_corrected_more_often(clip):
    masks = clip.masks[:, :5].clone()
    masks[0, 3, :, : masks[0, 3].any(0).nonzero()[-2]] = False  # a sliver is left
    masks[0, 4] = False
    batch = Batch.of([TrainingClip(clip.frames[:5], masks, clip.annotated[:5])], torch.device("cpu"))
    prompts = PromptSettings(click=1, box=0, mask=0, corrections=1, corrected_frames=1)
    unroller = Unroller(rule_network().train(), prompts)
    counts = np.zeros(5)
    for seed in range(400):
        for t in unroller._corrected_frames(batch, "mask", np.random.default_rng(seed)):
            counts[t] += 1
    assert counts[0] == 0
    assert counts[3:].min() > 1.3 * counts[1:3].max()
    assert counts[1:3].min() > 10


def test_objects_and_clips_of_a_batch_do_not_influence_one_another(tiny_model, clip):
    other = TrainingClip(clip.frames.flip(2)[:4], clip.masks.flip(3)[:1, :4], clip.annotated[:4])
    short = TrainingClip(clip.frames[:4], clip.masks[:, :4], clip.annotated[:4])
    unroller = Unroller(tiny_model.network, CLICKS)
    with torch.no_grad():
        together = unroller(Batch.of([short, other], torch.device("cpu")), np.random.default_rng(0))
        alone = unroller(Batch.of([short], torch.device("cpu")), np.random.default_rng(0))
    for a, b in zip(together.logits.values(), alone.logits.values(), strict=True):
        torch.testing.assert_close(a[:2], b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["click", "box", "mask"])
def test_every_kind_of_prompt_gives_losses_and_gradients(clip, kind):
    network = rule_network().train()
    prompts = PromptSettings(**{"click": 0, "box": 0, "mask": 0, kind: 1}, corrections=2, corrected_frames=2)
    short = TrainingClip(clip.frames[:3], clip.masks[:, :3], clip.annotated[:3])
    unrolled = Unroller(network, prompts, memory_dropout=0.5)(
        Batch.of([short], torch.device("cpu")), np.random.default_rng(1)
    )
    total = sum(unrolled.sums())
    assert torch.isfinite(total)
    total.backward()
    for part in ("memory_attention", "memory_encoder", "image_encoder", "sam_mask_decoder"):
        gradients = [p.grad for p in getattr(network, part).parameters() if p.grad is not None]
        assert any(g.any() for g in gradients), part
    assert network.memory_attention.layers[0].cross_attn_image.k_proj.weight.grad.abs().sum() > 0
    assert len(unrolled.ious(Batch.of([short], torch.device("cpu")))) == 3


def test_corrective_clicks_add_rounds(clip):
    network = rule_network().train()
    short = TrainingClip(clip.frames[:2], clip.masks[:, :2], clip.annotated[:2])
    batch = Batch.of([short], torch.device("cpu"))
    prompts = PromptSettings(click=1, box=0, mask=0, corrections=3, corrected_frames=2)
    counts = [len(Unroller(network, prompts)(batch, np.random.default_rng(seed)).losses) for seed in range(8)]
    assert min(counts) >= 2
    assert max(counts) > 4
    assert np.mean([c > 2 for c in counts]) > 0.5


def test_the_same_randomness_gives_the_same_losses(tiny_model, clip):
    short = TrainingClip(clip.frames[:3], clip.masks[:, :3], clip.annotated[:3])
    batch = Batch.of([short], torch.device("cpu"))
    unroller = Unroller(tiny_model.network, PromptSettings(), memory_dropout=0.3)
    with torch.no_grad():
        first, again = (unroller(batch, np.random.default_rng(5)).sums() for _ in range(2))
    assert [float(x) for x in first] == [float(x) for x in again]


def test_wrong_memories_are_remembered_but_not_seen(tiny_model, clip, monkeypatch):
    network, remembered = tiny_model.network, []
    encode = network.encode_memory

    def spy(frame, logits, *more, **options):
        remembered.append(logits)
        return encode(frame, logits, *more, **options)

    monkeypatch.setattr(network, "encode_memory", spy)
    short = TrainingClip(clip.frames[:3], clip.masks[:, :3], clip.annotated[:3])
    with torch.no_grad():
        unrolled = Unroller(network, CLICKS.replace(wrong_memories=1.0))(
            Batch.of([short], torch.device("cpu")), np.random.default_rng(0)
        )
    assert torch.equal(remembered[0], unrolled.logits[0])  # prompted
    assert not torch.equal(remembered[1], unrolled.logits[1])
    assert float(remembered[1].abs().max()) <= 10


def test_what_is_corrected_is_a_mistake(tiny_model, clip, monkeypatch):
    network, corrected = tiny_model.network, []
    candidates = network.candidates

    def spy(image, frame, xy, labels, earlier=None):
        if earlier is not None:
            corrected.append((earlier, labels))
        return candidates(image, frame, xy, labels, earlier)

    monkeypatch.setattr(network, "candidates", spy)
    short = TrainingClip(clip.frames[:1], clip.masks[:, :1], clip.annotated[:1])
    batch = Batch.of([short], torch.device("cpu"))
    unroller = Unroller(network, CLICKS.replace(corrections=1, corrected_frames=1, mistakes=1.0))
    negative = []
    with torch.no_grad():
        for seed in range(8):
            unroller(batch, np.random.default_rng(seed))
    assert corrected
    for earlier, labels in corrected:
        assert (earlier.abs().amax(dim=(1, 2, 3)) >= 3).all()
        negative += (labels[:, -1] == 0).tolist()
    assert any(negative)  # what is too much is clicked away
    assert not all(negative)


def test_a_wrong_memory_points_to_what_it_shows(tiny_model, clip, monkeypatch):
    """With the pointer of the true mask beside it the network could tell that it is wrong."""
    network, remembered = tiny_model.network, []
    encode = network.encode_memory

    def spy(frame, logits, score, **options):
        remembered.append((frame, logits, score))
        return encode(frame, logits, score, **options)

    monkeypatch.setattr(network, "encode_memory", spy)
    pointers = []
    project = network.project_pointers
    monkeypatch.setattr(
        network, "project_pointers", lambda p, *more: (pointers.append(p), project(p, *more))[1]
    )
    short = TrainingClip(clip.frames[:3], clip.masks[:, :3], clip.annotated[:3])
    with torch.no_grad():
        Unroller(network, CLICKS.replace(wrong_memories=1.0))(
            Batch.of([short], torch.device("cpu")), np.random.default_rng(0)
        )
        frame, logits, score = remembered[1]
        shown = torch.nn.functional.interpolate(logits, (128, 128), mode="bilinear") > 0
        expected = network.decode_given_mask(frame, shown)
    torch.testing.assert_close(pointers[-1][:, 1], expected.pointer)
    torch.testing.assert_close(score, expected.score)


def test_what_is_not_known_is_not_misremembered(tiny_model, clip, monkeypatch):
    """Its mask is empty, and would say that the object has gone."""
    network, remembered = tiny_model.network, []
    encode = network.encode_memory

    def spy(frame, logits, score, **options):
        remembered.append((logits, score))
        return encode(frame, logits, score, **options)

    monkeypatch.setattr(network, "encode_memory", spy)
    sparse = TrainingClip(clip.frames[:3], clip.masks[:, :3].clone(), torch.tensor([True, False, True]))
    sparse.masks[:, 1] = False
    for share in (0.0, 1.0):
        with torch.no_grad():
            Unroller(network, CLICKS.replace(wrong_memories=share))(
                Batch.of([sparse], torch.device("cpu")), np.random.default_rng(0)
            )
    (_, plain, _, wrong) = remembered
    for a, b in zip(plain, wrong, strict=True):
        assert torch.equal(a, b)


def test_prompting_anew_adds_masks_that_no_memory_tells_of(tiny_model, clip, monkeypatch):
    network, clicked = tiny_model.network, []
    candidates = network.candidates

    def spy(image, frame, xy=None, labels=None, *more):
        if xy is not None:
            assert torch.equal(image, network.without_memory(frame))
            clicked.append(xy[:, 0].int().tolist())
        return candidates(image, frame, xy, labels, *more)

    monkeypatch.setattr(network, "candidates", spy)
    gone = clip.masks[:, :4].clone()
    gone[1, 2:] = False
    batch = Batch.of([TrainingClip(clip.frames[:4], gone, clip.annotated[:4])], torch.device("cpu"))
    losses = {}
    for count in (0, 2, 5):
        clicked.clear()
        with torch.no_grad():
            unrolled = Unroller(network, CLICKS.replace(prompted_anew=count))(batch, np.random.default_rng(0))
        losses[count] = unrolled.losses
        assert len(clicked) == 1 + min(count, 3)  # the first frame, and no more of the others than there are
        for xy in clicked[1:]:
            x, y = xy[0]
            assert gone[0, :, y, x].any()
    assert [len(x) for x in losses.values()] == [4, 6, 7]
    known = [int(x.known) for x in losses[5]]
    assert known[:4] == [2] * 4
    assert sorted(known[4:]) == [1, 1, 2]  # who has left counts nowhere


@pytest.fixture
def decoded(tiny_model, monkeypatch):
    """Gather what the network is asked in each frame: the clicks and the mask that they correct."""
    asked = []
    candidates = tiny_model.network.candidates

    def spy(image, frame, *prompt, **given):
        if not given:  # else a pointer is made of a mask
            asked.append((*prompt, None)[:3])
        return candidates(image, frame, *prompt, **given)

    monkeypatch.setattr(tiny_model.network, "candidates", spy)
    return asked


def _corrected_later(network, clip, seeds, **prompts):
    """Unroll four frames until a later one is corrected and the first is not."""
    short = TrainingClip(clip.frames[:4], clip.masks[:, :4], clip.annotated[:4])
    batch = Batch.of([short], torch.device("cpu"))
    unroller = Unroller(network, CLICKS.replace(corrections=1, corrected_frames=1, **prompts))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        kind = str(rng.choice(("click", "box", "mask"), p=unroller._prompts.shares))
        if unroller._corrected_frames(batch, kind, rng) - {0}:
            with torch.no_grad():
                yield batch, unroller(batch, np.random.default_rng(seed))


def test_a_wrong_start_is_a_click_on_another_object_until_a_later_frame_is_corrected(
    tiny_model, clip, decoded
):
    strayed = 0
    for batch, _ in _corrected_later(tiny_model.network, clip, range(40), wrong_starts=1.0):
        first, correction = decoded[0], next(a for a in decoded if a[2] is not None)
        decoded.clear()
        x, y = first[0][0, 0].int().tolist()
        if not batch.masks[0, 0, y, x]:
            strayed += 1
            assert batch.masks[0, 1, y, x]
            assert first[1].eq(1).all()  # a click that would be right for the other one
        x, y = correction[0][0, -1].int().tolist()
        if correction[1][0, -1] == 1:  # what is clicked in the end is the object itself
            assert batch.masks[:, 0, y, x].any()
    assert strayed


def test_losses_of_a_wrong_start_are_those_of_what_was_clicked_until_it_is_corrected(tiny_model, clip):
    """What the network is to make of a prompt that is not meant is what it asks for."""
    short = TrainingClip(clip.frames[:4], clip.masks[:, :4], clip.annotated[:4])
    batch = Batch.of([short], torch.device("cpu"))
    unroller = Unroller(tiny_model.network, CLICKS.replace(wrong_starts=1.0))
    rng = np.random.default_rng(3)
    course = next(c for c in (unroller._course(batch, {2}, rng) for _ in range(50)) if _both_strayed(c))
    for t in range(4):
        before, after = course.masks(t)
        assert torch.equal(before, batch.masks[t].flip(0) if t <= 2 else batch.masks[t])
        assert torch.equal(after, batch.masks[t].flip(0) if t < 2 else batch.masks[t])


def test_ious_are_told_of_what_was_asked_for(tiny_model, clip):
    """A network that follows a wrong start, as it should, is not told off for it."""
    for batch, unrolled in _corrected_later(tiny_model.network, clip, range(40), wrong_starts=1.0):
        asked = unrolled.meant[0]
        assert torch.equal(unrolled.meant[3], batch.masks[3])
        if not torch.equal(asked, batch.masks[0]):
            unrolled.logits[0] = 20 * torch.nn.functional.avg_pool2d(asked[:, None].float(), 4) - 10
            assert unrolled.ious(batch)[0][1] > 0.9
            return
    raise AssertionError("no object strayed")


def _both_strayed(course):
    return course.at_first is not None and torch.equal(course.at_first, course.meant.flip(1))


def test_a_frame_corrected_ahead_is_a_memory_of_those_before_it(tiny_model, clip, monkeypatch):
    """As when a user corrects a frame and tracks again: its pointer does not reach back, as in SAM 2."""
    attended = []
    project = tiny_model.network.project_pointers

    def spy(pointers, distances, longest):
        attended.append(distances[0].tolist())
        return project(pointers, distances, longest)

    monkeypatch.setattr(tiny_model.network, "project_pointers", spy)
    orders = []
    for _, unrolled in _corrected_later(tiny_model.network, clip, range(120), corrected_ahead=1.0):
        orders.append(list(unrolled.logits))
        assert all(d >= 0 for distances in attended for d in distances)
        attended.clear()
    assert [0, 3, 1, 2] in orders
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_others_are_what_the_other_objects_of_a_clip_cover(clip):
    batch = Batch.of([clip, clip], torch.device("cpu"))
    masks = batch.masks[0]
    others = batch.others_in(0, masks)
    assert torch.equal(others[0], masks[1] & ~masks[0])
    assert torch.equal(others[2:], others[:2])
    swapped = batch.others_in(0, masks[[1, 0, 2, 3]])  # as where the prompts are on another object
    assert torch.equal(swapped[0], masks[0] & ~masks[1])


def test_pixels_of_other_objects_count_more_in_the_losses(tiny_model, clip):
    batch = Batch.of([clip], torch.device("cpu"))
    prompts = CLICKS.replace(corrections=1, corrected_frames=1, prompted_anew=1)
    with torch.no_grad():
        plain, same, more = (
            Unroller(tiny_model.network, prompts, others=others)(batch, np.random.default_rng(0)).sums()
            for others in (0.0, 0.0, 4.0)
        )
    assert plain == same
    assert (more.iou, more.score) == (plain.iou, plain.score)
    assert more.dice != plain.dice
