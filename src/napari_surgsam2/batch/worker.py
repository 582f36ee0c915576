"""What runs in a worker process: one job at a time, with the model kept for the next."""

from __future__ import annotations

import io
import logging
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from napari_surgsam2.errors import CheckpointError, OutputError, SurgSam2Error, UsageError, VideoError
from napari_surgsam2.masks import AlreadyCompleteError, SheetFrame, contact_sheet
from napari_surgsam2.masks._lock import FolderLock
from napari_surgsam2.masks._partial import partial_folder
from napari_surgsam2.project import Project
from napari_surgsam2.prompts import (
    Point,
    Prompt,
    as_prompts,
    check_prompts,
    require_positive,
)

from .jobs import Job

if TYPE_CHECKING:
    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.pipeline import TrackJob
    from napari_surgsam2.video import Video

_SECONDS_BETWEEN_EVENTS = 0.5
_SECONDS_FOR_LOCK = 30.0
_SECONDS_FOR_LOCK_OF_LOST = 300.0
_ON_SHEET = 6  # frames
_SHEET_FRAME_WIDTH = 180
_SHEET_COLORS = 192
# What would go wrong in the same way again.
_FINAL = (UsageError, VideoError, CheckpointError)

# A job that was sent: the token of its batch, its index, and how often it was sent before.
Attempt: TypeAlias = tuple[str, int, int]

# A worker with several threads would need the memory of several videos.
_one_job = threading.Lock()
_stopped: set[str] = set()  # batches that were asked to stop, by their token
_cut_off: set[Attempt] = set()  # attempts that nobody waits for any more
_under_way: set[Attempt] = set()
_models: dict[tuple[Any, ...], Model] = {}  # at most one, by what it was loaded from


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job as it is sent to a worker: names and numbers, nothing of a video.

    Attributes
    ----------
    token : str
        The batch, and the topic of its events.
    index : int
        Which of its jobs.
    job : Job
        What is to be done.
    device : str
        Where to compute.
    attempt : int
        How often the job was sent before; its events say it, since they may be later than its end.
    sheet : bool
        Whether a contact sheet is wanted.
    is_patient : bool
        Whether an earlier attempt may still be at it in a worker that was lost sight of; its output is waited
        for longer then.
    """

    token: str
    index: int
    job: Job
    device: str = "auto"
    attempt: int = 0
    sheet: bool = False
    is_patient: bool = False

    @property
    def key(self) -> Attempt:
        """What tells it from all others."""
        return self.token, self.index, self.attempt


@dataclass
class Facts:
    """What a worker says of a job when it is over; small, whatever the video.

    Attributes
    ----------
    status : {"done", "failed", "skipped", "stopped"}
        How it ended.
    reason : str
        Why it failed.
    retry : bool
        Whether the same might do better next time.
    frames, frames_tracked : int
        How many the video has, and those tracked by this attempt.
    seconds : float
        Tracking took.
    frames_present : dict of int to int
        By object id, in how many frames the object is.
    names : dict of int to str
        The project's names of objects.
    model, device, worker : str
        What did it, where.
    image_size : int or None
        Side of the network's input.
    log : list of str
        What was noted.
    sheet : bytes or None
        A PNG.
    """

    status: str = "failed"
    reason: str = ""
    retry: bool = False
    frames: int = 0
    frames_tracked: int = 0
    seconds: float = 0.0
    frames_present: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    model: str = ""
    device: str = ""
    worker: str = field(default_factory=lambda: f"{platform.node()}, process {os.getpid()}")
    image_size: int | None = None
    log: list[str] = field(default_factory=list)
    sheet: bytes | None = None


def dask_setup(_: object) -> None:
    """Prepare a local worker, which calls this when it starts."""
    # Ctrl+C reaches all processes of a terminal; the one that started the batch deals with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What it logs of damaged files is said in errors of our own.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())


def stop(token: str) -> None:
    """Let this process's job of a batch end after the frame under way, and no other begin."""
    _stopped.add(token)


def cut_off(attempts: Iterable[Attempt]) -> None:
    """Let attempts end after the frame under way, or not begin: their batch has lost sight of them."""
    _cut_off.update(attempts)


def under_way(token: str) -> list[Attempt]:
    """Return which attempts of a batch this process is at."""
    return [attempt for attempt in list(_under_way) if attempt[0] == token]


def forget_model() -> None:
    """Let go of the model in memory."""
    _models.clear()


def do(order: Order) -> Facts:
    """Do a job, and say how it went; only the end of the process is an error."""
    import dask

    facts = Facts()
    tell = _Teller(order, facts)
    with _one_job, _noted(order):
        if tell.should_stop():
            facts.status = "stopped"
            return facts
        tell.send("started")
        try:
            # Else arrays that are read lazily would be sent to the scheduler, to be computed by all workers.
            with dask.config.set(scheduler="synchronous"):
                _track(order, facts, tell)
        except AlreadyCompleteError:
            facts.status = "skipped"
        except SurgSam2Error as error:
            stopped = tell.should_stop() and error.exit_code == 130
            facts.status = "stopped" if stopped else "failed"
            facts.reason, facts.retry = str(error), not isinstance(error, _FINAL)
        except MemoryError as error:
            facts.reason = f"There is not enough memory ({error}); use fewer workers or a smaller image size."
            facts.retry = True
        except Exception as error:  # whatever it is, it must not end the others
            facts.reason, facts.retry = f"{type(error).__name__}: {error}", True
            facts.log.append(traceback.format_exc())
        return facts


@contextmanager
def _noted(order: Order) -> Iterator[None]:
    """Note that this process is at a job."""
    _under_way.add(order.key)
    try:
        yield
    finally:
        _under_way.discard(order.key)


class _Teller:
    """Sends events of a job to the process that started the batch, and knows what that wants."""

    def __init__(self, order: Order, facts: Facts) -> None:
        from distributed import get_worker

        self._worker = get_worker()
        self._order = order
        self._facts = facts
        self._sent = 0.0

    def should_stop(self) -> bool:
        """Whether nobody waits for the job any more: it can be gone on with, here or elsewhere.

        A worker that has lost its scheduler is closing; what it does then nobody will hear of, and it must
        not hold the output that another one is to go on with.
        """
        if self._order.token in _stopped or self._order.key in _cut_off:
            return True
        return self._worker.status.name in ("closing", "closed", "failed")

    def send(self, kind: str, **values: Any) -> None:
        sender = {"index": self._order.index, "attempt": self._order.attempt}
        self._worker.log_event(self._order.token, {**sender, "kind": kind, **values})

    def frames(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._sent >= _SECONDS_BETWEEN_EVENTS:
            self._sent = now
            self.send("frames", done=done, total=total)

    def log(self, text: str) -> None:
        self._facts.log.append(text)
        self.send("log", text=text)


def _track(order: Order, facts: Facts, tell: _Teller) -> None:
    """Track, and fill in the facts."""
    from napari_surgsam2.pipeline import Reporting, run_job

    project = order.job.loaded_project()
    prompts = as_prompts(order.job.prompts if project is None else project.prompts)
    with _opened(order.job, project) as video:
        facts.frames = video.n_frames
        facts.names = {} if project is None else dict(project.names)
        for note in video.notes:
            tell.log(f"Note: {note}")
        # before a model is loaded for nothing
        require_positive(prompts)
        check_prompts(prompts, video.shape)
        seconds = _SECONDS_FOR_LOCK_OF_LOST if order.is_patient else _SECONDS_FOR_LOCK
        _wait_for_lock(order.job.target, seconds, tell.should_stop)
        model = _model(order, project, tell)
        facts.model, facts.image_size, facts.device = model.name, model.image_size, str(model.device)
        reporting = Reporting(
            tracked=lambda _, done, total: tell.frames(done, total),
            should_stop=tell.should_stop,
        )
        track_job = _track_job(order, project, video, prompts, model)
        outcome = run_job(track_job, reporting)
        facts.status = "done"
        facts.frames_tracked, facts.seconds = outcome.frames_tracked, outcome.seconds
        facts.frames_present = outcome.frames_present
        if order.sheet:
            try:
                facts.sheet = _sheet(track_job, order.job.name, facts, outcome.labels)
            except Exception as error:  # the masks are there all the same
                tell.log(f"There is no contact sheet: {type(error).__name__}: {error}")


@contextmanager
def _opened(job: Job, project: Project | None) -> Iterator[Video]:
    from napari_surgsam2.video import open_video

    if project is not None:
        video = project.open_video()
    else:
        assert job.video is not None, "a job without a project has a video"
        video = open_video(job.video)
    try:
        yield video
    finally:
        video.close()


def _track_job(
    order: Order, project: Project | None, video: Video, prompts: list[Prompt], model: Model
) -> TrackJob:
    from napari_surgsam2.pipeline import TrackJob

    job = order.job
    base = project or Project()
    return TrackJob(
        video=video,
        prompts=prompts,
        model=model,
        output=job.output,
        settings=job.settings or base.settings,
        direction=job.direction or base.direction,
        frames=job.frames or base.frames,
        names=base.names,
        # That nothing is in the way was seen to before, what is to be replaced is marked, and a scheduler
        # may begin a job again by itself.
        resume=True,
    )


def _model(order: Order, project: Project | None, tell: _Teller) -> Model:
    """Return the job's model, the one in memory if it is that."""
    from napari_surgsam2.checkpoints import load_model

    base = project or Project()
    name = order.job.model or base.model
    image_size = order.job.image_size or base.image_size
    file = Path(name)
    key = (name, file.stat().st_mtime_ns if file.is_file() else 0, image_size, order.device)
    if key not in _models:
        _models.clear()  # first: there may be no room for two
        model = _models[key] = load_model(name, image_size=image_size, device=order.device)
        tell.log(f"Model {model.name} at {model.image_size} pixels on {model.device}")
    return _models[key]


def _wait_for_lock(target: Path, seconds: float, is_stopped: Callable[[], bool]) -> None:
    """Wait until a process that was killed, or cut off, has let go of its unfinished output.

    The news that it is gone may be here before the operating system has put all of it away. Who holds the
    lock for longer is alive, which `run_job` says.
    """
    folder = partial_folder(target)
    until = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < until and not is_stopped():
        try:
            FolderLock(folder, target).release()
        except OutputError:
            time.sleep(0.1)
        else:
            return


def _sheet(track_job: TrackJob, name: str, facts: Facts, labels: Any) -> bytes:
    """Return frames of the video with their masks, as a PNG of few colours."""
    from PIL import Image

    from napari_surgsam2.tracking import visited_range

    video, prompts = track_job.video, track_job.prompts
    first, end = visited_range(track_job.frames, video.n_frames)
    chosen = np.unique(np.linspace(first, end - 1, min(_ON_SHEET, end - first)).round().astype(int)).tolist()
    frames = []
    for t in chosen:
        clicks = [(p.y, p.x, p.object_id) for p in prompts if isinstance(p, Point) and p.frame == t]
        frames.append(SheetFrame(video.frame(t), np.asarray(labels[t]), f"frame {t}", clicks=clicks))
    legend = {
        object_id: f"{facts.names.get(object_id, f'object {object_id}')}: in {n} frames"
        for object_id, n in facts.frames_present.items()
    }
    sheet = contact_sheet(frames, name, legend, columns=_ON_SHEET, frame_width=_SHEET_FRAME_WIDTH)
    picture = io.BytesIO()
    Image.fromarray(sheet).quantize(_SHEET_COLORS).save(picture, "PNG", optimize=True)
    return picture.getvalue()
