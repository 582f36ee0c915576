"""Semi-supervised segmentation of a folder of videos: every object is given once and tracked to the end."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_surgsam2.checkpoints import DEFAULT_MODEL, Model, Progress, load_model
from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import made_aside, put_folder, writing
from napari_surgsam2.masks import (
    AlreadyCompleteError,
    read_labels,
    refuse_to_replace,
    voc_palette,
)
from napari_surgsam2.masks._files import is_litter
from napari_surgsam2.masks._lock import FolderLock
from napari_surgsam2.pipeline import (
    Reporting,
    TrackingInterruptedError,
    TrackJob,
    model_identity,
    run_job,
    settings_identity,
)
from napari_surgsam2.prompts import Prompt
from napari_surgsam2.settings import TrackingSettings
from napari_surgsam2.tracking import FrameResult
from napari_surgsam2.video import Video
from napari_surgsam2.video.folder import open_pictures

from .vos_folder import VosSequence, files_in, find_sequences, require_same_size
from .vos_prompts import PromptKind, first_prompts
from .vos_record import VosRecord


@dataclass(frozen=True, kw_only=True)
class VosJob:
    """What to segment and where to.

    Attributes
    ----------
    video_dir, mask_dir : path
        A folder of pictures, and under the same name a folder of PNGs with the objects' numbers, for each
        video. The first frame that shows an object prompts it, frames before stay without it, and
        annotations after are not looked at.
    output_dir : path
        Gets a folder of PNGs for each video, one for each picture and named like it, with the numbers and
        the palette of the annotations; and `vos.json`, how they were made. A video's folder appears when it
        is complete. What was made the same way is left as it is, and an interrupted video gone on with.
    prompt : PromptKind or str
        See `PromptKind.parse`.
    videos : sequence of str or path, optional
        Names of the videos, or a text file with one name a line; all if left out.
    model, device, image_size
        As of `track`; the model is loaded once.
    settings : TrackingSettings
        Of tracking.
    overwrite : bool
        Make all results again. If that is interrupted, the same job without it makes those that are left.
    """

    video_dir: str | os.PathLike[str]
    mask_dir: str | os.PathLike[str]
    output_dir: str | os.PathLike[str]
    prompt: PromptKind | str = "mask"
    videos: Sequence[str] | str | os.PathLike[str] | None = None
    model: Model | str | Path = DEFAULT_MODEL
    device: str = "auto"
    image_size: int | None = None
    settings: TrackingSettings = field(default_factory=TrackingSettings)
    overwrite: bool = False


@dataclass
class VosReporting:
    """What a run tells while it goes on; every function may be left as it is.

    Attributes
    ----------
    found : callable
        Called with the names of the videos.
    downloading, loaded
        As of `Reporting`.
    tracked : callable
        Called with a video's name, each `FrameResult`, and the video's frames done and in all.
    should_stop : callable
        Asked before each frame; True ends the run there.
    """

    found: Callable[[Sequence[str]], object] = lambda _: None
    downloading: Progress = lambda _done, _total: None
    loaded: Callable[[Model], object] = lambda _: None
    tracked: Callable[[str, FrameResult, int, int], object] = lambda _name, _result, _done, _total: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class VosOutcome:
    """What was made of a video.

    Attributes
    ----------
    name : str
        The video.
    output : Path
        Its folder of PNGs.
    frames : int
        How many pictures it has.
    object_ids : tuple of int
        The objects; not known if the result was there already. Without any all is background.
    frames_per_second : float or None
        The speed of tracking; of a result that was there already as it was then, if that is known.
    skipped : bool
        Whether the result was there already.
    """

    name: str
    output: Path
    frames: int
    object_ids: tuple[int, ...]
    frames_per_second: float | None
    skipped: bool


def run_vos(job: VosJob, reporting: VosReporting | None = None) -> Iterator[VosOutcome]:
    """Segment videos one after the other, yielding each when it is done.

    All folders are looked through before a model is loaded, which is when the first result is missing.

    Raises
    ------
    TrackingInterruptedError
        If `reporting.should_stop` said so; the same job goes on there.
    SurgSam2Error
        Of the kind that says what is wrong: `UsageError`, `OutputError`, `CheckpointError`, ...
    """
    say = reporting or VosReporting()
    images, masks, output = (Path(p).absolute() for p in (job.video_dir, job.mask_dir, job.output_dir))
    prompt = job.prompt if isinstance(job.prompt, PromptKind) else PromptKind.parse(job.prompt)
    sequences = find_sequences(images, masks, job.videos)
    refuse_to_replace([images, masks], output)
    for folder in (images, masks):
        if output.is_relative_to(folder):
            raise UsageError(f"The output '{output}' is inside the input '{folder}'; choose another folder.")
    names = [s.name for s in sequences]
    record = VosRecord.open(output, _identity(job, images, masks, prompt), job.overwrite, names)
    done = {s.name for s in sequences if _is_done(s, output, record)}
    say.found(names)
    model: Model | None = None
    for sequence in sequences:
        if sequence.name in done:
            yield _there_already(sequence, output, record)
            continue
        if model is None:
            model = _load(job, say)
            for name in names if job.overwrite else done:
                if _work_of(output, name):
                    with _lock_of(output, name):
                        _remove_work(output, name)
            record.begin()
            done = {s.name for s in sequences if _is_done(s, output, record)}
            say.loaded(model)
        with _lock_of(output, sequence.name):
            record.refresh()
            if _is_done(sequence, output, record):  # another process was faster
                outcome = _there_already(sequence, output, record)
            else:
                outcome = _segment(sequence, output, prompt, model, job, say, record)
        yield outcome


def _load(job: VosJob, say: VosReporting) -> Model:
    if isinstance(job.model, Model):
        return job.model
    return load_model(job.model, image_size=job.image_size, device=job.device, progress=say.downloading)


def _segment(
    sequence: VosSequence,
    output: Path,
    prompt: PromptKind,
    model: Model,
    job: VosJob,
    say: VosReporting,
    record: VosRecord,
) -> VosOutcome:
    """Segment a video, which must be locked."""
    prompts, palette = first_prompts(sequence, prompt)
    target, work = output / sequence.name, output / f".{sequence.name}.{record.digest}.zarr"
    video = open_pictures(sequence.pictures, sequence.pictures[0].parent, sequence.name, None)
    labels: Any
    try:
        _check_sizes(sequence, video)
        if prompts:
            speed = _track(video, prompts, work, model, job, say)
            if speed is not None:
                record.note_speed(sequence.name, speed)
            labels = read_labels(work)
        else:
            labels = np.broadcast_to(np.uint8(0), video.shape)
    finally:
        video.close()
    _write_pngs(target, labels, sequence, palette, overwrite=record.is_outdated(sequence.name))
    record.note_done(sequence.name)
    _remove_work(output, sequence.name)
    ids = tuple(sorted({p.object_id for p in prompts}))
    return VosOutcome(
        sequence.name, target, len(sequence.pictures), ids, record.speed(sequence.name), skipped=False
    )


def _there_already(sequence: VosSequence, output: Path, record: VosRecord) -> VosOutcome:
    name, speed = sequence.name, record.speed(sequence.name)
    return VosOutcome(name, output / name, len(sequence.pictures), (), speed, skipped=True)


def _lock_of(output: Path, name: str) -> FolderLock:
    """Return the lock of a video: who holds it tracks it, writes its PNGs, or removes what was tracked.

    Raises
    ------
    OutputError
        If another process holds it.
    """
    with writing(output / name):
        return FolderLock(output / f".{name}.lock", output / name)


def _work_of(output: Path, name: str) -> list[Path]:
    """Return where a video was tracked to, in this or another way, completely or in part."""
    work = re.compile(re.escape(f".{name}.") + r"[0-9a-f]{8}\.zarr(\.partial\.zarr)?")
    return [entry for entry in _entries(output) if work.fullmatch(entry.name)]


def _remove_work(output: Path, name: str) -> None:
    """Remove what was tracked of a video and is in PNGs now, or was made in another way; it must be locked.

    Raises
    ------
    OutputError
        If another process is at it.
    """
    for entry in _work_of(output, name):
        lock = FolderLock(entry, output / name) if entry.name.endswith(".partial.zarr") else None
        shutil.rmtree(entry, ignore_errors=True)
        if lock is not None:
            lock.release()


def _check_sizes(sequence: VosSequence, video: Video) -> None:
    for picture, annotation in zip(sequence.pictures, sequence.annotations, strict=True):
        if annotation is not None:
            with Image.open(annotation) as image:
                size = (image.height, image.width)
            require_same_size(annotation, size, picture, video.shape[1:])


def _track(
    video: Video, prompts: list[Prompt], work: Path, model: Model, job: VosJob, say: VosReporting
) -> float | None:
    """Track into the zarr `work`, or go on with that; return frames per second, None if all was done."""
    track = TrackJob(
        video=video,
        prompts=prompts,
        model=model,
        output=work,
        settings=job.settings,
        direction="forward",
        overwrite=job.overwrite,
        resume=not job.overwrite,
    )
    reporting = Reporting(
        tracked=lambda result, done, total: say.tracked(video.name, result, done, total),
        should_stop=say.should_stop,
    )
    try:
        outcome = run_job(track, reporting)
    except AlreadyCompleteError:
        return None
    except TrackingInterruptedError as error:
        again = ", without --force" if job.overwrite else ""
        raise TrackingInterruptedError(
            f"Stopped in the video '{video.name}'; what is done is kept. Go on with the same command{again}."
        ) from error
    return outcome.frames_tracked / outcome.seconds if outcome.frames_tracked and outcome.seconds else None


def _is_done(sequence: VosSequence, output: Path, record: VosRecord) -> bool:
    """Whether the result of a video is there and not to be replaced."""
    return not record.is_outdated(sequence.name) and _is_complete(output / sequence.name, sequence)


def _is_complete(folder: Path, sequence: VosSequence) -> bool:
    """Whether a result is there; what is there and is none is an error."""
    if not folder.exists():
        return False
    there = {file.stem for file in files_in(folder, (".png",))} if folder.is_dir() else set()
    wanted = {picture.stem for picture in sequence.pictures}
    if there == wanted:
        return True
    raise OutputError(
        f"{folder} holds {len(there)} PNGs, while the video '{sequence.name}' has {len(wanted)} frames: it "
        "is no result of this video. Choose another output, or move it away."
    )


def _write_pngs(
    target: Path, labels: Any, sequence: VosSequence, palette: bytes | None, *, overwrite: bool
) -> None:
    """Write a PNG for every picture into a folder that appears when it is complete."""
    _refuse_result(target, overwrite)
    strangers = (e for e in _entries(target) if not e.name.lower().endswith(".png"))
    if stranger := next((e.name for e in strangers if not is_litter(e)), None):
        raise OutputError(f"{target} is not replaced: it contains {stranger}. Move it away.")
    with made_aside(target) as temporary, writing(target):
        temporary.mkdir()
        for t, picture in enumerate(sequence.pictures):
            # Pillow packs pixels by the palette's length, which ids may exceed.
            _png(np.asarray(labels[t]), palette).save(temporary / f"{picture.stem}.png", bits=8)
        _refuse_result(target, overwrite)
        put_folder(temporary, target)


def _refuse_result(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise OutputError(f"{target} has appeared meanwhile; move it away.")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _png(labels: NDArray[Any], palette: bytes | None) -> Image.Image:
    """Return labels as a palette picture, or a gray one of 16 bits if they do not fit in 8."""
    if labels.dtype != np.uint8:
        if labels.max(initial=0) >= 2**16:
            raise UsageError(
                f"The object id {labels.max()} does not fit in a PNG; use ids up to {2**16 - 1}."
            )
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels)
    own, all_colours = palette or b"", voc_palette().tobytes()
    image.putpalette(own + all_colours[len(own) :])
    return image


def _identity(job: VosJob, images: Path, masks: Path, prompt: PromptKind) -> dict[str, Any]:
    """Return what results of one folder have in common, as JSON-ready values."""
    return {
        "video_dir": str(images),
        "mask_dir": str(masks),
        "prompt": str(prompt),
        **model_identity(job.model, job.image_size),
        "settings": settings_identity(job.settings),
    }
