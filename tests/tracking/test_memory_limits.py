"""Memory in use is bounded; what was let go is made again where it is needed."""

import gc

import numpy as np
import pytest
import torch

from napari_surgsam2 import Tracker, TrackingSettings
from napari_surgsam2.errors import OutputError
from napari_surgsam2.tracking.features import FeatureCache
from napari_surgsam2.tracking.memory import FrameMemory, MemoryStore

WINDOW = 4


def memory(value: float = 0.0) -> FrameMemory:
    """Return a memory of 1,056 bytes."""
    return FrameMemory(
        logits=torch.full((8, 8), value),
        pointer=torch.full((8,), value),
        score=value,
        reverse=False,
        features=torch.full((12, 4, 4), value),
    )


def test_the_store_keeps_its_limit_and_knows_everything_still() -> None:
    store = MemoryStore(limit=8 * memory().nbytes, window=WINDOW)

    for frame in range(100):
        store.put(1, frame, memory(frame / 4))

    assert store.nbytes <= store.limit
    assert sorted(store.frames(1)) == list(range(100))
    for frame in range(100):
        kept = store.get(1, frame)
        assert kept is not None
        assert kept.score == frame / 4
        np.testing.assert_allclose(kept.logits.numpy(), np.float16(min(frame / 4, 32)))
        np.testing.assert_array_equal(kept.pointer.numpy(), np.float32(frame / 4))
        assert (kept.features is not None) == (frame >= 92)


@pytest.mark.parametrize("frames", [range(60), range(59, -1, -1), [*range(30, 60), *range(29, -1, -1)]])
def test_frames_near_the_newest_are_never_reduced(frames) -> None:
    store = MemoryStore(limit=0, window=WINDOW)

    for frame in frames:
        store.put(1, frame, memory())
        near = [f for f in range(frame - WINDOW, frame + WINDOW + 1) if store.has(1, f)]
        if frames[0] in (0, 59):  # in one direction, that is the newest ones
            assert all(store.get(1, f).features is not None for f in near)
    assert store.nbytes <= (2 * WINDOW + 1) * memory().nbytes


def test_a_memory_replaces_the_one_before_reduced_or_not() -> None:
    store = MemoryStore(limit=0, window=WINDOW)
    for frame in range(20):
        store.put(1, frame, memory(1.0))
        store.put(2, frame, memory(2.0))

    store.put(1, 3, memory(9.0))
    store.remove_object(2)

    assert store.get(1, 3).score == 9.0
    assert sorted(store.frames(1)) == list(range(20))
    assert list(store.frames(2)) == []
    assert store.get(2, 19) is None
    assert store.get(2, 0) is None


def test_the_feature_cache_lets_go_of_the_least_recently_used() -> None:
    class Features:
        nbytes = 10

    cache = FeatureCache(limit=30)
    for frame in (1, 2, 3):
        cache.put(frame, Features())
    cache.get(1)

    cache.put(4, Features())

    assert [f for f in range(6) if f in cache] == [1, 3, 4]
    assert cache.nbytes == 30
    small = FeatureCache(limit=0)
    small.put(7, Features())
    assert 7 in small


def track_all(model, clip, settings) -> dict[int, np.ndarray]:
    tracker = Tracker(model, clip, settings)
    tracker.add_points(12, 1, [(25, 20)])
    tracker.add_points(18, 2, [(45, 60)])
    logits = {r.frame: r.logits for r in tracker.propagate("both")}
    tracker.add_points(3, 1, [(30, 30)])  # far from where tracking ended, so that memories are made again
    logits |= {100 + r.frame: r.logits for r in tracker.propagate("forward", start=4, stop=9)}
    return logits


def test_masks_do_not_depend_on_the_memory_limits(model, clip) -> None:
    plenty = track_all(model, clip, TrackingSettings())
    scarce = track_all(model, clip, TrackingSettings(memory_bytes=0, feature_cache_bytes=0, read_ahead=0))

    assert plenty.keys() == scarce.keys()
    for frame, logits in plenty.items():
        # reduced memories were rounded to half precision
        np.testing.assert_allclose(scarce[frame], logits, rtol=0, atol=2e-2 if frame < 100 else 0.2)


def test_what_a_pass_keeps_does_not_grow_with_the_video(model, clip) -> None:
    """Going forward before going backward, too."""
    tracker = Tracker(model, np.tile(clip, (4, 1, 1, 1)))
    tracker.add_points(3, 1, [(25, 20)])
    kept = []

    propagation = tracker.propagate("both")
    for _ in propagation:
        tracker.keep_only(propagation.needed_frames())
        kept.append(len(set(tracker._store.frames(1))))

    assert len(kept) > 80
    assert max(kept) <= 2 * (2 * tracker._store.window + 1)


def test_of_each_object_only_what_follows_its_own_prompts_is_kept_for_the_way_back(model, clip) -> None:
    tracker = Tracker(model, np.tile(clip, (4, 1, 1, 1)))
    tracker.add_points(3, 1, [(25, 20)])
    tracker.add_points(30, 2, [(45, 60)])
    window = tracker._store.window

    propagation = tracker.propagate("both")
    for result in propagation:
        needed = propagation.needed_frames()
        tracker.keep_only(needed)
        if result.frame == 79:
            break

    assert needed.attended(1) == {*needed.near, *range(3, 3 + window + 1)}
    assert needed.attended(2) == {*needed.near, *range(30, 30 + window + 1)}
    for object_id, entry in ((1, 3), (2, 30)):
        attended = [f for f in range(80) if tracker._store.has(object_id, f) and needed.attends(object_id, f)]
        whole = [f for f in range(80) if (m := tracker._store.get(object_id, f)) and m.features is not None]
        assert attended == whole
        assert entry + 1 in whole


def test_memories_of_objects_prompted_in_one_frame_are_made_once(model, clip, monkeypatch) -> None:
    made = []
    encode = model.network.encode_memory
    monkeypatch.setattr(
        model.network, "encode_memory", lambda *args, **how: made.append(len(args[1])) or encode(*args, **how)
    )
    tracker = Tracker(model, clip[:1])
    for object_id in (1, 2, 3):
        tracker.add_points(0, object_id, [(20 * object_id, 20)])

    list(tracker.propagate("forward"))

    assert sum(made) == 3


def test_a_disk_that_memories_cannot_go_to_is_named(tmp_path) -> None:
    store = MemoryStore(limit=0, window=WINDOW, path=tmp_path / "away" / "state.masks")
    for frame in range(WINDOW + 1):
        store.put(1, frame, memory())
    with pytest.raises(OutputError, match=r"cannot be kept in '.*state.masks'.*see that '.*away' has space"):
        store.put(1, WINDOW + 1, memory())


def test_a_damaged_file_of_memories_is_told(tmp_path) -> None:
    (tmp_path / "state.masks").write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match=r"damaged: '.*state.masks' cannot be read.*--force"):
        MemoryStore(limit=0, window=WINDOW, path=tmp_path / "state.masks")


def test_restoring_a_reduced_memory_reduces_no_other() -> None:
    store = MemoryStore(limit=10**6, window=WINDOW)
    reduced = memory(2.0)
    reduced.features = None
    store.restore(1, 5, memory(1.0))
    store.restore(2, 5, reduced)

    assert store.get(1, 5).features is not None
    assert store.get(2, 5).score == 2.0
    assert store.nbytes == memory().nbytes


def test_only_memories_in_use_are_held_on_the_device(model, clip) -> None:
    tracker = Tracker(model, np.tile(clip, (2, 1, 1, 1)))
    tracker.add_points(0, 1, [(25, 20)])
    tracker.add_points(0, 2, [(45, 60)])

    for _ in tracker.propagate("forward"):
        pass

    slots = model.network.config.num_maskmem
    for object_id in (1, 2):
        obj = tracker._objects[object_id]
        held = [f for f in tracker._store.frames(object_id) if tracker._store.get(object_id, f).active]
        assert len(held) <= slots
        assert set(held) <= obj.active
    tracker.close()
    gc.collect()


def test_what_a_corrected_frame_was_passed_with_leaves_the_device(model, clip) -> None:
    tracker = Tracker(model, clip)
    tracker.add_points(0, 1, [(25, 20)])
    for _ in tracker.propagate("forward", stop=8):
        pass
    tracker.add_points(0, 1, [(30, 30)])
    tracker.predict(0)
    for _ in tracker.propagate("forward", start=1, stop=20):
        pass
    obj = tracker._objects[1]
    assert obj.visited[0].memory.active is None
