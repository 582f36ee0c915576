"""Timing the tracker, whole and stage by stage, on a made-up video."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .checkpoints import Model, load_model, registry_entry, resolve_device
from .checkpoints.download import is_there
from .checkpoints.loading import check_image_size
from .checkpoints.registry import CHECKPOINT_SUFFIXES
from .errors import UsageError
from .network import Sam2Network, config_for
from .settings import PruningSettings, TrackingSettings
from .tracking import Tracker
from .video import open_video

STAGES = ("image encoder", "memory attention", "mask decoder", "memory encoder")
_WARM_UP = 16  # frames until memory bank and pointers are full


@dataclass(frozen=True)
class BenchmarkCase:
    """What is timed.

    Attributes
    ----------
    objects : int
        Number of objects.
    prune_frames : int
        Memory slots freed by frame pruning.
    """

    objects: int
    prune_frames: int


@dataclass(frozen=True)
class BenchmarkTiming:
    """The median round of a case.

    Attributes
    ----------
    case : BenchmarkCase
        What was timed.
    frame_seconds : float
        From one result with its labels to the next.
    stages : dict of str to float
        Seconds a frame in each of `STAGES`, measured in rounds of their own, in which nothing is read or
        encoded ahead and the device is waited for after each stage.
    precision : str
        Arithmetic of the network.
    threads : int
        Threads of torch on the CPU.
    """

    case: BenchmarkCase
    frame_seconds: float
    stages: dict[str, float]
    precision: str
    threads: int


class _MovingSquares:
    """A made-up video as an array (T, Y, X, 3) uint8: squares on noise; frames are made when asked for."""

    def __init__(self, frames: int, height: int, width: int) -> None:
        self.shape = (frames, height, width, 3)
        self.dtype = np.dtype(np.uint8)
        self.ndim = 4
        self._noise = np.random.default_rng(0).integers(0, 90, (height, width, 3), dtype=np.uint8)

    def __getitem__(self, t: int) -> npt.NDArray[np.uint8]:
        frame = self._noise.copy()
        _, height, width, _ = self.shape
        side = height // 8
        for i in range(16):
            y = (height // 16 * i + 3 * t) % (height - side)
            x = (width // 5 * i + 5 * t) % (width - side)
            frame[y : y + side, x : x + side] = (60 + 10 * i, 200 - 8 * i, 120)
        return frame


def bench_model(name_or_path: str, image_size: int | None, device: str) -> tuple[Model, bool]:
    """Load a model, or make it with random weights if it is known but neither built in nor downloaded.

    Returns
    -------
    model : Model
        The model.
    random : bool
        Whether its weights are random.
    """
    if Path(name_or_path).suffix.lower() in CHECKPOINT_SUFFIXES:
        return load_model(name_or_path, image_size=image_size, device=device), False
    entry = registry_entry(name_or_path)
    if entry.built_in or is_there(entry):
        return load_model(name_or_path, image_size=image_size, device=device), False
    chosen = resolve_device(device)
    size = entry.image_size if image_size is None else image_size
    check_image_size(size)
    torch.manual_seed(0)
    network = Sam2Network(config_for(entry.architecture)).to(chosen).eval()
    return Model(entry.name, entry.path, network, size, chosen), True


def run_benchmark(
    model: Model,
    cases: Sequence[BenchmarkCase],
    frames: int,
    rounds: int,
    video_size: str,
    precision: Any = "auto",
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[BenchmarkTiming]:
    """Time cases in turn, round after round.

    Parameters
    ----------
    model : Model
        What to time.
    cases : sequence of BenchmarkCase
        Compared with one another.
    frames, rounds : int
        Frames timed in a round, after those that fill the memory bank, and rounds.
    video_size : str
        Height and width of the made-up video, as "1080x1920".
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic of the network.
    progress : callable, optional
        Called with frames done and in all.
    """
    height, width = _parse_size(video_size)
    for name, value in (("frames", frames), ("rounds", rounds), *(("objects", c.objects) for c in cases)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
    settings = [TrackingSettings(pruning=PruningSettings(c.prune_frames), precision=precision) for c in cases]
    length = _WARM_UP + frames
    total = length * len(cases) * (rounds + 1)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    times: list[list[float]] = [[] for _ in cases]
    stages = []
    for _ in range(rounds):
        for case, chosen, seconds in zip(cases, settings, times, strict=True):
            seconds.append(_time_round(model, case, chosen, length, height, width, count))
    for case, chosen in zip(cases, settings, strict=True):
        in_turn = chosen.replace(read_ahead=0)  # or frames are encoded beside the other stages
        with _timed_stages(model) as spent:
            _time_round(model, case, in_turn, length, height, width, count, begin=spent.clear)
        stages.append({stage: spent.get(stage, 0.0) / frames for stage in STAGES})
    used = _used_precision(model, settings[0])
    return [
        BenchmarkTiming(case, statistics.median(seconds) / frames, spent, used, torch.get_num_threads())
        for case, seconds, spent in zip(cases, times, stages, strict=True)
    ]


def _time_round(
    model: Model,
    case: BenchmarkCase,
    settings: TrackingSettings,
    length: int,
    height: int,
    width: int,
    count: Callable[[], object],
    begin: Callable[[], object] = lambda: None,
) -> float:
    """Track through the made-up video once; return the seconds of the frames after the warm-up."""
    tracker = Tracker(model, open_video(_MovingSquares(length, height, width)), settings)
    for i in range(case.objects):
        y, x = height * (i % 7 + 1) / 8, width * (i % 11 + 1) / 12
        tracker.add_box(0, i + 1, (y - height / 16, x - height / 16, y + height / 16, x + height / 16))
    began = 0.0
    for result in tracker.propagate("forward"):
        result.labels()
        count()
        if result.frame == _WARM_UP - 1:
            _wait(model.device)
            begin()
            began = time.perf_counter()
    _wait(model.device)
    seconds = time.perf_counter() - began
    tracker.close()
    return seconds


@contextmanager
def _timed_stages(model: Model) -> Iterator[dict[str, float]]:
    """Add up the seconds spent in each stage, waiting for the device after each."""
    network = model.network
    attention = network.memory_attention
    spent: dict[str, float] = {}
    watched: list[tuple[Any, str, str]] = [
        (network, "encode_image", "image encoder"),
        (attention, "forward", "memory attention"),
        (attention, "project_memory", "memory attention"),
        (network, "decode", "mask decoder"),
        (network, "encode_memory", "memory encoder"),
    ]

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _wait(model.device)
            began = time.perf_counter()
            out = function(*args, **kwargs)
            _wait(model.device)
            spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - began
            return out

        return call

    for owner, name, stage in watched:
        setattr(owner, name, timed(getattr(owner, name), stage))
    try:
        yield spent
    finally:
        for owner, name, _ in watched:
            delattr(owner, name)  # the class's own shows again


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _used_precision(model: Model, settings: TrackingSettings) -> str:
    tracker = Tracker(model, np.zeros((1, 16, 16), np.uint8), settings)
    return str(tracker.precision).removeprefix("torch.")


def _parse_size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 64):
        raise UsageError(f"The video size is '{text}'; it must be YxX, each at least 64, such as 1080x1920.")
    return int(height), int(width)
