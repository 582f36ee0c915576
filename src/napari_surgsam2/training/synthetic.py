"""Made-up clips to train on: made when asked for, or kept in a pool on disk."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import write_atomically
from napari_surgsam2.synthetic import GENERATOR_VERSION, SCENES, TRAINING_MIX, make_clip, make_scene
from napari_surgsam2.video import Video, open_video

from .clips import MOST_DRAWS, SampledClip, ValidationVideo, draw_frames, require_clip
from .folder import saving

# Endoscopes give 5:4, recorders 4:3 and 16:9; the network sees all of them squeezed into a square.
_ASPECTS = (1.0, 1.25, 4 / 3, 16 / 9)
_PACES = (0.02, 0.25)  # clips of a few frames stand for frames taken further apart
_LABELS_IN_POOL = "labels.npy"
_FRAMES_IN_POOL = "frames.npy"
_DONE_IN_POOL = "done.npy"
_ABOUT_POOL = "pool.json"
_CHOICES, _CHOICES_OF_VIDEOS = 77, 78  # keep what is drawn here apart from what the scenes draw

# Place in the pool, seed, kinds of scenes, length and size of a clip.
_Job = tuple[int, int, Sequence[str], int, tuple[int, int]]


def scene_mix(scenes: Sequence[str]) -> Mapping[str, float]:
    """Return the share of each kind of scene; of none given, those that `nano` begins with."""
    if unknown := sorted(set(scenes) - set(SCENES)):
        raise UsageError(f"There is no kind of scene '{unknown[0]}'; there are: {', '.join(SCENES)}.")
    return {s: 1 / len(scenes) for s in scenes} if scenes else TRAINING_MIX


def _told(scenes: Sequence[str]) -> str:
    """Name the kinds of scenes, with their shares where there are several."""
    mix = scene_mix(scenes)
    return ", ".join(f"{scene} ({share:.0%})" if len(mix) > 1 else scene for scene, share in mix.items())


def render(
    seed: int,
    scenes: Sequence[str],
    length: int,
    size: tuple[int, int],
    at: Sequence[int] | npt.NDArray[np.intp] | None = None,
) -> SampledClip:
    """Make the clip of a seed: kind of scene, proportions and pace are drawn by the seed too.

    It is made with the height asked for and squeezed to the width. `at` says which frames to make, of
    `length`; all if left out.
    """
    mix = scene_mix(scenes)
    rng = np.random.default_rng([seed, _CHOICES])
    scene = str(rng.choice(list(mix), p=list(mix.values())))
    height, width = size
    pace = float(np.exp(rng.uniform(*np.log(_PACES))))
    made = make_scene(seed, length, (height, round(height * rng.choice(_ASPECTS))), scene, pace)
    numbers = range(length) if at is None else [int(t) for t in at]
    frames = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
    labels = np.empty((len(numbers), height, width), dtype=np.uint8)
    for i, t in enumerate(numbers):
        image, label = (Image.fromarray(part) for part in made.draw(t))
        frames[i] = np.asarray(image.resize((width, height), Image.Resampling.BOX))
        labels[i] = np.asarray(label.resize((width, height), Image.Resampling.NEAREST))
    return SampledClip(frames, labels, np.ones(len(numbers), dtype=bool))


class SyntheticClips:
    """Clips made when they are asked for.

    Parameters
    ----------
    scenes : sequence of str
        Kinds of scenes; those that `nano` begins with if empty.
    seed, clips : int
        The seeds are seed, seed + 1, ..., seed + clips - 1.
    length : int
        Frames in a clip.
    size : tuple of 2 ints
        Height and width.
    """

    def __init__(
        self, scenes: Sequence[str], seed: int, clips: int, length: int, size: tuple[int, int]
    ) -> None:
        scene_mix(scenes)
        self.scenes, self.seed, self.clips, self.length, self.size = tuple(scenes), seed, clips, length, size

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Make a clip that shows something in its first frame."""
        for _ in range(MOST_DRAWS):
            seed = self.seed + int(rng.integers(self.clips))
            at = draw_frames(rng, np.ones(self.length, dtype=bool), frames, frame_step)
            if at is None:
                break
            clip = render(seed, self.scenes, self.length, self.size, at)
            if clip.labels[0].any():
                return clip
        return require_clip(None, f"synthetic clips from seed {self.seed} on", frames)

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return every seed's clip in full, as a video."""
        return [
            ValidationVideo(f"{'-'.join(self.scenes) or 'synthetic'}-{seed}", _Opener(self, seed))
            for seed in range(self.seed, self.seed + self.clips)
        ]

    def summary(self, frames: int, frame_step: tuple[int, int] = (1, 1)) -> list[str]:
        """Say how many there are, and of what."""
        return [f"{self.clips} made-up clips of {_told(self.scenes)}"]


class _Opener:
    """Makes a validation video when it is wanted."""

    def __init__(self, clips: SyntheticClips, seed: int) -> None:
        self._clips, self._seed = clips, seed

    def __call__(self) -> tuple[Video, npt.NDArray[Any], npt.NDArray[np.bool_]]:
        c, rng = self._clips, np.random.default_rng([self._seed, _CHOICES_OF_VIDEOS])
        mix = scene_mix(c.scenes)
        scene = str(rng.choice(list(mix), p=list(mix.values())))
        made = make_clip(self._seed, c.length, c.size, scene)
        return open_video(made.video), made.labels, np.ones(c.length, dtype=bool)


class ClipPool:
    """Clips made beforehand, kept in a folder; those that are missing there are made first.

    Parameters
    ----------
    folder : Path
        Holds the frames and labels as arrays, clip by clip.
    scenes, seed, clips, length, size
        As of `SyntheticClips`.
    processes : int, optional
        How many processes make the missing clips; one for each core if left out.
    progress : callable, optional
        Told how many clips are there, of how many.

    Raises
    ------
    UsageError
        If the folder holds a pool made with other values.
    OutputError
        If it cannot be written, there is not enough room for it, or a process that makes clips is killed.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[str],
        seed: int,
        clips: int,
        length: int,
        size: tuple[int, int],
        processes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        scene_mix(scenes)
        self.folder = folder
        about = {
            "scenes": list(scenes),
            "seed": seed,
            "clips": clips,
            "length": length,
            "size": list(size),
            "generator": GENERATOR_VERSION,
        }
        with saving(folder):
            self._open(about)
            self._fill(processes, progress)
        self._frames, self._labels, self._done = (
            np.load(folder / name, mmap_mode="r")
            for name in (_FRAMES_IN_POOL, _LABELS_IN_POOL, _DONE_IN_POOL)
        )

    def _open(self, about: dict[str, Any]) -> None:
        path = self.folder / _ABOUT_POOL
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"'{path}', which says what clips are there, cannot be read: {error}. Remove the folder "
                    "to have them made again, or choose another one."
                ) from error
            if found != about:
                raise UsageError(
                    f"'{self.folder}' holds clips made with {found}, not {about}; choose another folder, or "
                    "remove this one to have them made again."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._about = about
        shape = (about["clips"], about["length"], *about["size"])
        needed, free = 4 * math.prod(shape), shutil.disk_usage(self.folder).free
        if not path.exists() and needed > free:
            raise OutputError(
                f"The clips for '{self.folder}' take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free "
                "there; choose another folder, or fewer, shorter or smaller clips."
            )
        self._frames = self._array(_FRAMES_IN_POOL, (*shape, 3))
        self._labels = self._array(_LABELS_IN_POOL, shape)
        self._done = self._array(_DONE_IN_POOL, (about["clips"],))
        if not path.exists():  # last, so that a folder with it has all the rest
            write_atomically(path, json.dumps(about).encode())

    def _array(self, name: str, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
        path = self.folder / name
        if path.exists() and (self.folder / _ABOUT_POOL).exists():
            return np.lib.format.open_memmap(path, mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)

    def _fill(self, processes: int | None, progress: Callable[[int, int], None] | None) -> None:
        missing = np.flatnonzero(self._done == 0).tolist()
        if not missing:
            return
        a = self._about
        jobs = [(i, a["seed"] + i, a["scenes"], a["length"], tuple(a["size"])) for i in missing]
        try:
            with closing(_rendered(jobs, processes or _most_processes())) as made:
                for n, (i, clip) in enumerate(made, 1):
                    _put(self._frames, i, clip.frames)
                    _put(self._labels, i, clip.labels)
                    _put(self._done, i, np.ones(1, dtype=np.uint8))
                    if progress is not None:
                        progress(a["clips"] - len(missing) + n, a["clips"])
        except BrokenProcessPool as error:
            raise OutputError(
                f"A process that makes the clips for '{self.folder}' ended unexpectedly, perhaps for lack of "
                "memory. The clips that are made are kept: give the same command to go on."
            ) from error

    def __len__(self) -> int:
        return len(self._done)

    def sample(self, rng: np.random.Generator, frames: int, frame_step: tuple[int, int]) -> SampledClip:
        """Take a clip that shows something in its first frame."""
        for _ in range(MOST_DRAWS):
            i = int(rng.integers(len(self)))
            at = draw_frames(rng, _shows_something(self._labels[i]), frames, frame_step)
            if at is not None:
                known = np.ones(frames, dtype=bool)
                return SampledClip(np.array(self._frames[i][at]), np.array(self._labels[i][at]), known)
        return require_clip(None, f"the pool '{self.folder}'", frames)

    def validation_videos(self) -> Sequence[ValidationVideo]:
        """Return none: a pool is for training."""
        return []

    def summary(self, frames: int, frame_step: tuple[int, int] = (1, 1)) -> list[str]:
        """Say how many there are, and of what."""
        return [f"{len(self)} made-up clips of {_told(self._about['scenes'])} in '{self.folder}'"]


def _put(array: np.memmap[Any, np.dtype[np.uint8]], index: int, values: npt.NDArray[np.integer]) -> None:
    """Write a part of an array's file; where its disk is full, writing to the array kills the process."""
    with Path(str(array.filename)).open("r+b") as file:
        file.seek(array.offset + index * array.strides[0])
        file.write(values.astype(array.dtype).tobytes())


def _shows_something(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return the frames, (T,), in which something is labelled."""
    return np.asarray(labels.any(axis=(1, 2)))


def _most_processes() -> int:
    """Return how many processes there may be: one for each core, and no more than Windows can wait for."""
    return min(os.cpu_count() or 1, 61)


def _rendered(jobs: Sequence[_Job], processes: int) -> Generator[tuple[int, SampledClip]]:
    """Make clips in processes, in any order; these are killed where the iteration ends before."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, context, initializer=_one_thread)
    waiting = iter(jobs)
    try:
        # A few at a time, for those that are made stay in memory until they are taken.
        futures = {executor.submit(_render_job, job) for job in islice(waiting, 4 * processes)}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            futures |= {executor.submit(_render_job, job) for job in islice(waiting, len(done))}
            for future in done:
                yield future.result()
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the process that asked for the clips

    torch.set_num_threads(1)


def _render_job(job: _Job) -> tuple[int, SampledClip]:
    index, seed, scenes, length, size = job
    return index, render(seed, scenes, length, size)
