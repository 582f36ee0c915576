"""The clips of every step: each depends only on the seed, its step and its place in it."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from napari_surgsam2.errors import SurgSam2Error, UsageError

from .augmentation import Look, NoObjectError, look
from .clips import ClipSource, TrainingClip
from .settings import TrainingSettings
from .sources import SourceSettings

_MOST_DRAWS = 300  # of clips until one shows an object that is large enough
_ABSENCE_DRAWS = 10  # of clips until an object leaves one, where that is wanted
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_STREAM = 2  # keeps the clips' randomness apart from what else is drawn in a step


def make_source(settings: SourceSettings, progress: Callable[[int, int], None] | None = None) -> ClipSource:
    """Open a source of clips.

    Parameters
    ----------
    settings : SourceSettings
        Its kind and options.
    progress : callable, optional
        While a pool is filled: told how many clips are there, of how many.

    Raises
    ------
    UsageError
        If its data is missing or does not fit.
    """
    s = settings
    if s.kind in ("synthetic", "pool"):
        from .synthetic import ClipPool, SyntheticClips

        assert s.scenes is not None
        assert s.seed is not None
        assert s.clips is not None
        assert s.length is not None
        assert s.size is not None
        if s.folder is None:
            return SyntheticClips(s.scenes, s.seed, s.clips, s.length, s.size)
        return ClipPool(Path(s.folder), s.scenes, s.seed, s.clips, s.length, s.size, progress=progress)
    if s.kind == "vos":
        from .vos import VosFolder

        assert s.images is not None
        assert s.annotations is not None
        return VosFolder(s.images, s.annotations, s.videos)
    from .labelled import LabelledVideos

    return LabelledVideos(s.pairs or ())


def summarized(
    table: str, sources: Sequence[ClipSource], frames: int = 1, frame_step: tuple[int, int] = (1, 1)
) -> list[str]:
    """Return what the sources of a table say of themselves, with their numbers."""
    told = [(i, line) for i, s in enumerate(sources, 1) for line in s.summary(frames, frame_step)]
    return [f"[[{table}]] number {i}: {line}" for i, line in told]


def tell_of_workers(error: BaseException) -> str | None:
    """Say what to do where a process that prepares clips ended; None where that is not what an error means.

    torch raises such errors at any time, in the middle of a step as well.
    """
    if not isinstance(error, RuntimeError) or "DataLoader worker" not in str(error):
        return None
    reason = str(error).strip().rstrip(".")
    return (
        f"A process that prepares clips ended unexpectedly, perhaps for lack of memory: {reason}. "
        "Set fewer workers in [run], or 0, and give the same command to go on."
    )


class ClipSampler:
    """Makes the clips of the steps of a run.

    Parameters
    ----------
    settings : TrainingSettings
        Of the run.
    image_size : int
        Side of the network's square input in pixels.
    progress : callable, optional
        As of `make_source`.

    Raises
    ------
    UsageError
        If a source's data is missing or does not fit.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        image_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._settings = settings
        self._image_size = image_size
        self._sources = [make_source(source, progress) for source in settings.training]
        weights = np.array([source.weight for source in settings.training])
        self._shares = weights / weights.sum()

    def summary(self) -> list[str]:
        """Say what there is to train on, and what is not used and why, in a line or more a source.

        Raises
        ------
        UsageError
            If the data of a source cannot be meant as it is.
        """
        run = self._settings.run
        return summarized("training", self._sources, run.frames, run.frame_step)

    def sample(self, step: int, index: int) -> TrainingClip:
        """Make the clip at place `index` of a step; the same arguments make the same clip.

        Raises
        ------
        UsageError
            If the source that it is drawn from has no clip that can be used.
        """
        run = self._settings.run
        rng = np.random.default_rng([run.seed, step, index, _STREAM])
        number = int(rng.choice(len(self._sources), p=self._shares))
        leaving = rng.random() < run.absence
        for _ in range(_ABSENCE_DRAWS if leaving else 1):
            seen = self._look(rng, number, leaving)
            if seen.has_absence:
                break
        return seen.take(rng, self._settings.augmentation)

    def _look(self, rng: np.random.Generator, number: int, leaving: bool) -> Look:
        """Draw a clip of a source, and what is seen of it."""
        run, source = self._settings.run, self._sources[number]
        for _ in range(_MOST_DRAWS):
            clip = source.sample(rng, run.frames, run.frame_step)
            try:
                return look(clip, rng, self._settings.augmentation, self._image_size, run.objects, leaving)
            except NoObjectError as error:
                failure = error
        raise UsageError(
            f"[[training]] number {number + 1}: {_MOST_DRAWS} clips were drawn. {failure} Or set a smaller "
            "[augmentation] smallest."
        )

    def batches(
        self, start_step: int = 0, places: Sequence[int] | None = None
    ) -> Iterator[list[TrainingClip]]:
        """Make the clips of the steps from `start_step` on, `workers` processes ahead of the training.

        Of every step those at `places`; all if left out.

        Raises
        ------
        UsageError
            As `sample`.
        """
        run = self._settings.run
        indices = range(run.batch_size) if places is None else places
        if not run.workers:
            for step in range(start_step, run.steps):
                yield [self.sample(step, index) for index in indices]
            return
        loader = DataLoader(
            _Clips(self._settings, self._image_size),
            batch_sampler=[[(step, index) for index in indices] for step in range(start_step, run.steps)],
            num_workers=run.workers,
            collate_fn=list,
            # Forked children of a process with threads may hang.
            multiprocessing_context="spawn",
            # Workers are seeded from it; by default from torch's own, which the training draws from.
            generator=torch.Generator(),
            worker_init_fn=_ignore_interrupts,
        )
        others = set(multiprocessing.active_children())
        with _interrupts_ignored():
            batches = iter(loader)
        workers = [p for p in multiprocessing.active_children() if p not in others]
        atexit.register(_end, workers)
        for clips in batches:
            for clip in clips:
                if isinstance(clip, Exception):
                    raise clip
            yield clips


class _Clips(Dataset[TrainingClip | SurgSam2Error]):
    """The clips by step and place, made in a worker; an error comes in the place of a clip."""

    def __init__(self, settings: TrainingSettings, image_size: int) -> None:
        self._settings = settings
        self._image_size = image_size
        self._sampler: ClipSampler | None = None

    def __getitem__(self, place: tuple[int, int]) -> TrainingClip | SurgSam2Error:
        # Raised, it would reach the user wrapped in a traceback.
        try:
            if self._sampler is None:
                self._sampler = ClipSampler(self._settings, self._image_size)
            return self._sampler.sample(*place)
        except SurgSam2Error as error:
            return error


def _end(workers: Sequence[BaseProcess]) -> None:
    """End workers that are left: Python waits for them when it ends, and they ignore its SIGTERM."""
    if hasattr(signal, "SIGCHLD"):  # torch would say that they were killed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


def _ignore_interrupts(_: int) -> None:
    """Leave signals that go to a whole group of processes, as a terminal's Ctrl+C does, to the training."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that start meanwhile ignore such signals from the beginning; they import for seconds."""
    if threading.current_thread() is not threading.main_thread():  # only there can it be set
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
