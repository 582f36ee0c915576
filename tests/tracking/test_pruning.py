"""Efficient Frame Pruning, by its definition."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_surgsam2.tracking import EfficientFramePruning
from napari_surgsam2.tracking.recall import nearest_conditioning


def feature_maps(seed: int, n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, 2, generator=generator) for _ in range(n)]


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """The cosine over the channels at each position, summed over the positions."""
    a, b = a.double().numpy(), b.double().numpy()
    cosine = (a * b).sum(0) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0))
    return float(cosine.sum())


cases = st.tuples(
    st.integers(0, 1000),  # seed
    st.integers(0, 9),  # conditioning memories
    st.integers(0, 6),  # tracked memories
    st.integers(0, 9),  # prune_frames
).filter(lambda case: case[1] + case[2] > 0)


@given(cases)
def test_the_most_like_the_newest_go_and_no_others(case) -> None:
    seed, conditioning, tracked, prune_frames = case
    memories = feature_maps(seed, conditioning + tracked)
    protected = [True] * conditioning + [False] * tracked

    removed = EfficientFramePruning(prune_frames, slots=7)(memories, protected)

    candidates = [i for i in range(len(memories) - 1) if not protected[i]]
    wanted = max(0, len(memories) + prune_frames - 7) if prune_frames else 0
    assert len(removed) == min(wanted, len(candidates))
    assert set(removed) <= set(candidates)  # neither the newest nor a prompted one
    stay = [similarity(memories[i], memories[-1]) for i in candidates if i not in removed]
    go = [similarity(memories[i], memories[-1]) for i in removed]
    assert not (stay and go) or min(go) >= max(stay) - 1e-5


def test_of_equals_the_older_go_first() -> None:
    same = feature_maps(0, 1) * 7
    assert EfficientFramePruning(2, slots=7)(same, [True] + [False] * 6) == [1, 2]


@given(st.sets(st.integers(0, 60), max_size=20), st.integers(0, 60), st.integers(2, 8))
def test_the_nearest_prompted_frames_are_looked_at(frames, frame, limit) -> None:
    chosen = nearest_conditioning(sorted(frames), frame, limit)

    assert len(chosen) == min(limit, len(frames))
    assert chosen == sorted(chosen)
    assert set(chosen) <= frames
    if before := [f for f in frames if f < frame]:
        assert max(before) in chosen
    if after := [f for f in frames if f >= frame]:
        assert min(after) in chosen
