"""Tracking a whole video into a label volume: from a video and prompts to files, in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checkpoints import DEFAULT_MODEL, Model, Progress, check_model, load_model
from .checkpoints.registry import registry
from .errors import OutputError
from .masks import (
    AlreadyCompleteError,
    LabelVolume,
    check_preview,
    forget_preview,
    read_labels,
    refuse_to_replace,
    write_preview,
)
from .paths import expanded
from .prompts import BoolArray, Point, Prompt, as_prompts, check_prompts, prompts_to_dict, require_positive
from .settings import MEBIBYTE, TrackingSettings
from .tracking import (
    Direction,
    FrameResult,
    NeededFrames,
    Propagation,
    Tracker,
    check_direction,
    first_frame,
    load_state,
    save_state,
    visited_range,
)
from .video import Video, is_image_layer, open_video, rows_in_video

IN_MEMORY_BYTES = 512 * MEBIBYTE
_SECONDS_BETWEEN_SAVES = 30.0
_FEATURE_CACHE_BYTES = 32 * MEBIBYTE
_FRAMES_TOLD = 5  # that tell a video from others, where it is no file


class TrackingInterruptedError(OutputError):
    """The run was asked to stop; what is done is kept, if it has an output."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True)
class TrackJob:
    """What to track and where to; see `track` for the meaning of each.

    Attributes
    ----------
    video, prompts, model, output, device, image_size, settings, direction, frames, overwrite, resume,
    in_memory_bytes
        The arguments of `track`.
    preview : path or None
        A video to write with the masks drawn over the frames.
    names : mapping of int to str
        Names of objects by their ids, for outputs that have any (COCO JSON).
    """

    video: Any
    prompts: Any
    model: Model | str | Path = DEFAULT_MODEL
    output: str | Path | None = None
    device: str = "auto"
    image_size: int | None = None
    settings: TrackingSettings = field(default_factory=TrackingSettings)
    direction: Direction = "both"
    frames: tuple[int, int | None] | None = None
    preview: str | Path | None = None
    overwrite: bool = False
    resume: bool = False
    in_memory_bytes: int = IN_MEMORY_BYTES
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Reporting:
    """What a run tells while it goes on; every function may be left as it is.

    Attributes
    ----------
    opened : callable
        Called with the `Video` when it is open.
    downloading : callable
        Called with bytes done and in all while a checkpoint is downloaded.
    loaded : callable
        Called with the `Model` when it is ready.
    tracked : callable
        Called with each `FrameResult`, the frames done and those in all.
    drawn : callable
        Called with frames done and in all while the preview is written.
    should_stop : callable
        Asked after each frame but the last; True ends the run there.
    """

    opened: Callable[[Video], object] = lambda _: None
    downloading: Progress = lambda _done, _total: None
    loaded: Callable[[Model], object] = lambda _: None
    tracked: Callable[[FrameResult, int, int], object] = lambda _result, _done, _total: None
    drawn: Callable[[int, int], object] = lambda _done, _total: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class TrackOutcome:
    """What a run made.

    Attributes
    ----------
    labels : array-like, shape (T, Y, X), unsigned integer
        The label volume: numpy or zarr, or, of a TIFF or PNG folder, an array that reads frames when asked.
    output : Path or None
        The file or folder it was saved to.
    preview : Path or None
        The overlay video.
    frames_tracked : int
        Frames visited by this run, those of an interrupted run before it not counted.
    seconds : float
        Time the tracking took, without loading and preview.
    frames_present : dict of int to int
        By object id, in how many frames the object has a mask; empty where only a preview was missing.
    """

    labels: Any
    output: Path | None
    preview: Path | None
    frames_tracked: int
    seconds: float
    frames_present: dict[int, int]


def track(
    video: Any,
    prompts: Any,
    *,
    model: Model | str | Path = DEFAULT_MODEL,
    output: str | Path | None = None,
    device: str = "auto",
    image_size: int | None = None,
    settings: TrackingSettings | None = None,
    direction: Direction = "both",
    frames: tuple[int, int | None] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    in_memory_bytes: int = IN_MEMORY_BYTES,
    progress: Callable[[FrameResult, int, int], object] | None = None,
) -> Any:
    """Track prompted objects through a video, in one call.

    Parameters
    ----------
    video : path, array, layer or Video
        What `open_video` takes, a napari Image layer among them.
    prompts : prompts of any kind
        `Point`, `Box` and `Mask` objects, napari Points and Shapes layers, a CSV or JSON file, or an (N, 3)
        array of (frame, y, x); see `as_prompts`. Where the video is a layer too, positions in layers of
        another scale or place are taken to its pixels.
    model : Model, str or path
        From `load_model`, or what it takes.
    output : path, optional
        `.tif` for a TIFF stack, `.zarr` for a zarr array, `.json` for COCO, a name without suffix for a
        folder of palette PNGs.
        It appears when complete; until then `<output>.partial.zarr` holds what is done. Without it the
        labels are only returned.
    device : {"auto", "cpu", "cuda", "cuda:N", "mps"}
        Where to compute, unless `model` is a `Model`.
    image_size : int, optional
        Side of the network's input, unless `model` is a `Model`.
    settings : TrackingSettings, optional
        The defaults if left out.
    direction : {"forward", "backward", "both"}
        From the earliest prompted frame on, or before it, or both.
    frames : (int, int or None), optional
        Only frames from the first number up to, but not including, the second, or to the end; others stay
        background.
    overwrite : bool
        Replace an existing output; it stays until the new one is complete.
    resume : bool
        Go on with an interrupted run of the same arguments; an output that is complete is an error.
    in_memory_bytes : int
        Without an output, labels that take more than this are a zarr array in a temporary folder, not numpy.
    progress : callable, optional
        Called with each `FrameResult`, the number of frames done and of all.

    Returns
    -------
    array-like, shape (T, Y, X), unsigned integer
        0 is background, other values are object ids. numpy where the result is small and has no output, else
        an array that is read from disk.

    Raises
    ------
    AlreadyCompleteError
        If `resume` finds the output complete: there is nothing to do.
    SurgSam2Error
        Of the kind that says what is wrong: `VideoError`, `PromptError`, `CheckpointError`, ...

    Examples
    --------
    >>> track("clip.mp4", [Point(frame=0, y=120, x=200)], output="masks.tif")    # doctest: +SKIP
    """
    reporting = Reporting() if progress is None else Reporting(tracked=progress)
    job = TrackJob(
        video=video,
        prompts=prompts,
        model=model,
        output=output,
        device=device,
        image_size=image_size,
        settings=settings or TrackingSettings(),
        direction=direction,
        frames=frames,
        overwrite=overwrite,
        resume=resume,
        in_memory_bytes=in_memory_bytes,
    )
    return run_job(job, reporting).labels


def prompts_for_layer(video: Any, prompts: Any) -> list[Prompt]:
    """Return prompts for the video that a napari Image layer shows.

    Parameters
    ----------
    video : image layer
        What the prompts are for.
    prompts : prompts of any kind
        What `as_prompts` takes. Positions in layers are taken through the world that both layers lie in to
        pixels of the video; others are in pixels of the video already.
    """
    return as_prompts(prompts, partial(rows_in_video, video))


def run_job(job: TrackJob, reporting: Reporting | None = None) -> TrackOutcome:
    """Do a job.

    All that can be checked is checked before a model is downloaded or loaded.

    Raises
    ------
    TrackingInterruptedError
        If `reporting.should_stop` said so.
    SurgSam2Error
        As in `track`.
    """
    say = reporting or Reporting()
    of_layer = is_image_layer(job.video)
    prompts = prompts_for_layer(job.video, job.prompts) if of_layer else as_prompts(job.prompts)
    require_positive(prompts)
    video = open_video(job.video)
    try:
        say.opened(video)
        check_prompts(prompts, video.shape)
        frames = visited_range(job.frames, video.n_frames)
        check_direction(job.direction)
        says_where = {p.frame for p in prompts if not isinstance(p, Point) or p.positive}
        first_frame(says_where, frames, job.direction)
        if not isinstance(job.model, Model):
            check_model(job.model, image_size=job.image_size, device=job.device)
        for target in (job.output, job.preview):
            refuse_to_replace([] if video.path is None else [video.path], target)
        try:
            made, present, tracked, seconds = _make_labels(
                dataclasses.replace(job, frames=frames), video, prompts, say
            )
        except AlreadyCompleteError as complete:
            assert job.output is not None, "there is nothing to resume without one"
            if job.preview is None:
                forget_preview(job.output)  # that it lacks one does not matter any more
                raise
            if not complete.lacks_preview and expanded(job.preview).exists():
                raise
            # All that is missing is the preview.
            made, present, tracked, seconds = expanded(job.output).absolute(), {}, 0, 0.0
        saved = isinstance(made, Path)
        labels = read_labels(made) if saved else made
        preview = None
        if job.preview is not None:
            preview = write_preview(
                job.preview,
                video,
                labels,
                frames=range(*frames),
                overwrite=job.overwrite,
                progress=say.drawn,
            )
            if job.output is not None:
                with contextlib.suppress(OutputError):  # another process makes the masks anew already
                    forget_preview(job.output)
        return TrackOutcome(labels, made if saved else None, preview, tracked, seconds, present)
    finally:
        if video is not job.video:
            video.close()


def _make_labels(
    job: TrackJob, video: Video, prompts: list[Prompt], say: Reporting
) -> tuple[Any, dict[int, int], int, float]:
    """Return the finished labels or their path, frames present by object, frames tracked, and seconds."""
    with LabelVolume.create(
        job.output,
        video.shape,
        max(p.object_id for p in prompts),
        overwrite=job.overwrite,
        resume=job.resume,
        run={} if job.output is None else _identity(job, video, prompts),
        in_memory_bytes=job.in_memory_bytes,
    ) as volume:
        if job.preview is not None:
            check_preview(job.preview, overwrite=job.overwrite)
        model = _model(job, say)
        say.loaded(model)
        # A run never comes back to a frame: only prompted frames are worth keeping features of.
        cache = min(job.settings.feature_cache_bytes, _FEATURE_CACHE_BYTES)
        overflow = None
        if volume.state_path is not None:
            overflow = volume.state_path.with_name("state.masks")
            if not volume.state_path.exists():
                # A run that was killed before it wrote its state begins again, without what it kept.
                for left in overflow.parent.glob(f"{overflow.name}*"):
                    left.unlink()
        settings = job.settings.replace(feature_cache_bytes=cache)
        tracker = Tracker(model, video, settings, overflow=overflow)
        try:
            present, tracked, seconds = _fill(volume, tracker, prompts, job, say)
        finally:
            tracker.close()
        labels = volume.finish(
            preview_follows=job.preview is not None, pictures=video.pictures, names=job.names
        )
        return labels, present, tracked, seconds


def _fill(
    volume: LabelVolume, tracker: Tracker, prompts: list[Prompt], job: TrackJob, say: Reporting
) -> tuple[dict[int, int], int, float]:
    """Track into a volume, writing down now and then where it stands."""
    state_path = volume.state_path
    resume = None
    if state_path is not None and state_path.exists():
        resume = load_state(tracker, state_path)
    else:
        tracker.add_prompts(prompts)
    propagation = tracker.propagate(job.direction, frames=job.frames, resume=resume)
    present = {object_id: np.zeros(len(volume), dtype=bool) for object_id in tracker.object_ids}
    lost = set(propagation.settled_frames()) if resume is not None else set()
    for frame in np.flatnonzero(volume.done).tolist():
        with contextlib.suppress(RuntimeError):  # a chunk that was written in part
            _note_presence(present, frame, volume[frame])
            lost.discard(frame)
    if lost:
        raise OutputError(
            f"Of the interrupted run of {job.output} {len(lost)} frames are lost or damaged, such as frame "
            f"{min(lost)}, perhaps by a power cut; start anew with --force (overwrite=True)."
        )
    tracked = 0
    written: dict[str, Any] | None = None
    needed: NeededFrames | None = None
    began = saved = time.monotonic()
    try:
        for result in propagation:
            labels = result.labels()
            volume[result.frame] = labels
            _note_presence(present, result.frame, labels)
            tracked += 1
            written = propagation.state()
            needed = propagation.needed_frames()
            tracker.keep_only(needed)
            say.tracked(result, propagation.done, propagation.total)
            if say.should_stop() and not propagation.finished:
                raise TrackingInterruptedError(_interrupted(volume, propagation))
            if state_path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                save_state(tracker, written, needed, state_path)
                saved = time.monotonic()
    except BaseException:
        if state_path is not None and written is not None and needed is not None:
            # The frame under way was perhaps not written: going on begins with it. What ended the run is
            # told, not what follows from it.
            with contextlib.suppress(OutputError):
                save_state(tracker, written, needed, state_path)
        raise
    finally:
        propagation.close()
    seconds = time.monotonic() - began
    if state_path is not None and written is not None and needed is not None:
        # The frames are tracked, whatever comes while the result is written; without room for this too, an
        # older state is there.
        with contextlib.suppress(OutputError):
            save_state(tracker, written, needed, state_path)
    return {object_id: int(frames.sum()) for object_id, frames in present.items()}, tracked, seconds


def _note_presence(present: dict[int, BoolArray], frame: int, labels: npt.NDArray[Any]) -> None:
    for object_id, frames in present.items():
        frames[frame] = (labels == object_id).any()


def _interrupted(volume: LabelVolume, propagation: Propagation) -> str:
    done = f"Stopped after {propagation.done} of {propagation.total} frames"
    if volume.state_path is None:
        return f"{done}."
    return f"{done}; they are kept. Go on with the same command and --resume."


def _model(job: TrackJob, say: Reporting) -> Model:
    if isinstance(job.model, Model):
        return job.model
    return load_model(job.model, image_size=job.image_size, device=job.device, progress=say.downloading)


def _identity(job: TrackJob, video: Video, prompts: list[Prompt]) -> Mapping[str, Any]:
    """Return what must be the same for an interrupted run to be resumed, as JSON-ready values."""
    return {
        "video": file_identity(video.path),
        "video_shape": list(video.shape),
        "video_part": video.part,
        "video_pixels": _pixels_identity(video, min(prompt.frame for prompt in prompts), job.frames),
        "contrast_limits": None if video.contrast_limits is None else list(video.contrast_limits),
        "prompts": prompts_to_dict(prompts),
        **model_identity(job.model, job.image_size),
        "settings": settings_identity(job.settings),
        "direction": job.direction,
        "frames": job.frames,
    }


def _pixels_identity(video: Video, frame: int, visited: tuple[int, int | None] | None) -> str:
    """Return a digest of a frame, and of some visited ones where no file's time of change tells of these.

    Arrays have no path, and a folder's time of change says little. Where videos were registered to one frame,
    they differ in others.
    """
    first, end = visited_range(visited, video.n_frames)  # others may be damaged
    frames = {frame}
    if video.path is None or not video.path.is_file():
        frames |= set(np.linspace(first, end - 1, _FRAMES_TOLD).round().astype(int).tolist())
    digest = hashlib.sha256()
    for index in sorted(frames):
        digest.update(video.raw(index).tobytes())
    return digest.hexdigest()[:16]


def settings_identity(settings: TrackingSettings) -> dict[str, Any]:
    """Return the settings that have an influence on the masks, as JSON-ready values."""
    values = settings.to_dict()
    for how in ("feature_cache_bytes", "read_ahead"):
        del values[how]
    return values


def model_identity(model: Model | str | Path, image_size: int | None) -> dict[str, Any]:
    """Return what tells a model from others: `model`, and `image_size`, the side of its input.

    A model that is known by name is told by it and the SHA-256 of its weights, which another version of this
    package may bring; others by their file. Of a download without a published digest the name has to do.
    """
    if isinstance(model, Model):
        image_size = model.image_size
        entry = registry().get(model.name)
        if entry is None or entry.path != model.path:
            return {"model": file_identity(model.path), "image_size": image_size}
    elif (entry := registry().get(str(model))) is None:
        return {"model": file_identity(model), "image_size": image_size}
    digest = entry.sha256
    if entry.built_in and entry.path.is_file():
        digest = hashlib.sha256(entry.path.read_bytes()).hexdigest()
    told = entry.name if digest is None else f"{entry.name} (SHA-256 {digest[:16]})"
    return {"model": told, "image_size": image_size or entry.image_size}


def file_identity(path: str | Path | None) -> str | None:
    """Return what tells a file from others: its absolute path with size and time of change.

    What is no file, such as a folder or the name of a model, is returned as it is.
    """
    if path is None or not (file := expanded(path)).is_file():
        return None if path is None else str(path)
    status = file.stat()
    return f"{file.resolve()} ({status.st_size} bytes, changed {status.st_mtime_ns})"
