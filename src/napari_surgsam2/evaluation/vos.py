"""Semi-supervised segmentation of a folder of videos: every object is given once and tracked to the end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_surgsam2.checkpoints import DEFAULT_MODEL, Model, Progress, load_model
from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import (
    AlreadyCompleteError,
    read_labels,
    refuse_to_replace,
    voc_palette,
    writing,
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
from napari_surgsam2.prompts import BoolArray, Box, Mask, Point, Prompt, central_position
from napari_surgsam2.settings import TrackingSettings
from napari_surgsam2.tracking import FrameResult
from napari_surgsam2.video import Video
from napari_surgsam2.video.folder import open_pictures

from .vos_folder import (
    VosSequence,
    files_in,
    find_sequences,
    read_annotation,
    refuse_binary,
    require_same_size,
)

RECORD_NAME = "vos.json"
_RECORD_VERSION = 2
# It is held while a small file is read and written.
_SECONDS_FOR_RECORD = 30.0


@dataclass(frozen=True)
class PromptKind:
    """How objects are prompted: by their mask, a box around it, or points in it.

    Attributes
    ----------
    kind : {"mask", "box", "points"}
        What is drawn from the first mask.
    points : int
        How many points.
    """

    kind: str = "mask"
    points: int = 1

    @classmethod
    def parse(cls, text: str) -> PromptKind:
        """Read `mask`, `box`, or `points:N`."""
        kind, colon, count = text.partition(":")
        if kind in ("mask", "box") and not colon:
            return cls(kind)
        if kind == "points" and count.isdecimal() and int(count) > 0:
            return cls(kind, int(count))
        raise UsageError(f"The prompt is '{text}'; it must be mask, box, or points:N, such as points:1.")

    def __str__(self) -> str:
        return f"points:{self.points}" if self.kind == "points" else self.kind

    def of_mask(self, video: str, frame: int, object_id: int, mask: BoolArray) -> list[Prompt]:
        """Return the prompts of an object, drawn from its mask (Y, X); the same every time.

        A box has its corners on the mask's outermost pixels. The first point is in the middle of the mask;
        the others are drawn from the rest of it, each at most once, by the video's name, the frame and the
        object's number.
        """
        if self.kind == "mask":
            return [Mask(frame, mask, object_id)]
        if self.kind == "box":
            return [_box(frame, object_id, mask)]
        middle = central_position(mask)
        rest = np.argwhere(mask)
        rest = rest[(rest != middle).any(axis=1)]
        rng = np.random.default_rng([zlib.crc32(video.encode()), frame, object_id])
        drawn = rng.choice(rest, size=min(self.points - 1, len(rest)), replace=False)
        return [Point(frame, float(y), float(x), object_id) for y, x in [middle, *drawn.tolist()]]


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
    record = _Record.open(output, _identity(job, images, masks, prompt), job.overwrite, names)
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


def outdated_results(folder: Path) -> set[str]:
    """Return the videos of a folder whose results wait for being made anew, as its `vos.json` says."""
    record = _Record._read(folder / RECORD_NAME)
    return set() if record is None else record._outdated


def first_prompts(sequence: VosSequence, prompt: PromptKind) -> tuple[list[Prompt], bytes | None]:
    """Return the prompts of all objects of a video, drawn from the first mask of each, and the palette.

    There are none if no annotation shows an object. The palette, None of gray pictures, is that of the first
    annotation.

    Raises
    ------
    UsageError
        If an annotation cannot be read.
    """
    prompts: list[Prompt] = []
    seen: set[int] = set()
    palette: bytes | None = None
    for t in np.flatnonzero(sequence.annotated).tolist():
        file = sequence.annotations[t]
        assert file is not None
        labels = read_annotation(file)
        palette = palette or _palette_of(file)
        for i in sorted(set(np.unique(labels).tolist()) - {0} - seen):
            seen.add(i)
            prompts += prompt.of_mask(sequence.name, t, i, labels == i)
    if not prompts:
        refuse_binary(sequence.annotations)
    return prompts, palette


def _box(frame: int, object_id: int, mask: BoolArray) -> Box:
    sides = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis=axis))
        low, high = float(inside[0]), float(inside[-1])
        # A box has an area, which one of a single row or column would not.
        sides.append((low, high) if low < high else (low - 0.5, high + 0.5))
    (y0, y1), (x0, x1) = sides
    return Box(frame, y0, x0, y1, x1, object_id)


def _palette_of(file: Path) -> bytes | None:
    with Image.open(file) as image:
        palette = image.getpalette() if image.mode == "P" else None
    return None if palette is None else bytes(palette)


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
    record: _Record,
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


def _there_already(sequence: VosSequence, output: Path, record: _Record) -> VosOutcome:
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


def _is_done(sequence: VosSequence, output: Path, record: _Record) -> bool:
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
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside = temporary.with_suffix(".old")
    try:
        with writing(target):
            temporary.mkdir()
            for t, picture in enumerate(sequence.pictures):
                # Pillow packs pixels by the palette's length, which ids may exceed.
                _png(np.asarray(labels[t]), palette).save(temporary / f"{picture.stem}.png", bits=8)
            _refuse_result(target, overwrite)
            if target.exists():
                target.rename(aside)
            temporary.rename(target)
    finally:
        if aside.exists() and not target.exists():
            aside.rename(target)
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)


def _refuse_result(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise OutputError(f"{target} has appeared meanwhile; move it away.")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _results_in(folder: Path) -> set[str]:
    """Return the names of the folders that may be results."""
    return {entry.name for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith(".")}


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


class _Record:
    """`vos.json`: how the results of a folder were made, and how fast; written anew whenever it changes.

    Results that were there when others were asked for are outdated until they are replaced. Other processes
    may make other videos of the folder: under a lock each takes over what the file says, and changes it.

    Attributes
    ----------
    digest : str
        Of how they are made.
    """

    def __init__(self, path: Path, run: dict[str, Any], speeds: dict[str, float], outdated: set[str]) -> None:
        self._path = path
        self._run = run
        self._speeds = speeds
        self._outdated = outdated
        self._asked: set[str] = set()  # results that this process was asked to make again
        self._run_before: dict[str, Any] | None = None  # what `open` found
        self.digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]

    @classmethod
    def open(cls, folder: Path, identity: dict[str, Any], overwrite: bool, names: Sequence[str]) -> _Record:
        """Look whether the results in a folder were made the same way; nothing is written yet.

        `names` are those of the videos whose results are to be replaced, with `overwrite`.

        Raises
        ------
        OutputError
            If they were not, or nobody knows how they were made, and they are not to be replaced.
        """
        path = folder / RECORD_NAME
        run = json.loads(json.dumps(identity))
        there = _results_in(folder)
        old = cls._read(path)
        if old is not None and old._run == run:
            old._run_before = run
            old._asked = there & set(names) if overwrite else set()
            old._outdated |= old._asked
            return old
        if not overwrite and old is not None:
            key = next(k for k in sorted(run | old._run) if k not in run or old._run.get(k, ...) != run[k])
            raise OutputError(
                f"The results in {folder} were made differently: {key} was {old._run.get(key)!r}, and is "
                f"now {run.get(key)!r}. Choose another output, or make them anew with --force."
            )
        if not overwrite and there:
            raise OutputError(
                f"{folder} holds folders, such as {min(there)}, and no {RECORD_NAME} that says how they "
                "were made. Choose another output, or replace them with --force."
            )
        record = cls(path, run, {}, there)
        record._run_before = None if old is None else old._run
        return record

    @classmethod
    def _read(cls, path: Path) -> _Record | None:
        """Return the record, None if there is none or it is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            speeds = {str(video): float(speed) for video, speed in values["videos"].items()}
            return cls(path, dict(values["run"]), speeds, set(values.get("outdated", ())))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def begin(self) -> None:
        """Write it, before anything is made, together with what other processes have noted since `open`.

        Raises
        ------
        OutputError
            If the folder cannot be made or written, or one of them makes the results in another way.
        """
        folder = self._path.parent
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            now = self._read(self._path)
            if now is not None and now._run == self._run:
                self._speeds |= now._speeds
                self._outdated = now._outdated | self._asked
            elif now is not None:
                self._require_run(now, self._run_before)
                self._outdated |= _results_in(folder)
            self._write()

    def is_outdated(self, video: str) -> bool:
        """Whether the result of a video that is there is to be replaced."""
        return video in self._outdated

    def speed(self, video: str) -> float | None:
        """Return the frames per second of a video, if they are known."""
        return self._speeds.get(video)

    def note_speed(self, video: str, frames_per_second: float) -> None:
        """Note how fast a video was tracked."""
        with self._locked():
            self.refresh()
            self._speeds[video] = round(frames_per_second, 3)
            self._write()

    def note_done(self, video: str) -> None:
        """Note that the result of a video is there."""
        with self._locked():
            self.refresh()
            self._outdated.discard(video)
            self._write()

    def refresh(self) -> None:
        """Take over what other processes, which make other videos of the same folder, have noted.

        Raises
        ------
        OutputError
            If one of them makes the results in another way.
        """
        now = self._read(self._path)
        if now is None:
            return
        self._require_run(now, self._run)
        self._speeds, self._outdated = now._speeds, now._outdated

    def _require_run(self, now: _Record, run: dict[str, Any] | None) -> None:
        if now._run != run:
            raise OutputError(
                f"Another process has begun to make the results in {self._path.parent} in another way; "
                "choose another output for one of them."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process change the file meanwhile."""
        with writing(self._path):
            lock = FolderLock(
                self._path.with_name(f".{RECORD_NAME}.lock"), self._path, wait=_SECONDS_FOR_RECORD
            )
        with lock:
            yield

    def _write(self) -> None:
        values = {
            "version": _RECORD_VERSION,
            "run": self._run,
            "videos": self._speeds,
            "outdated": sorted(self._outdated),
        }
        temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with writing(self._path):
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self._path)
