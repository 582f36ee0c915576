"""What is to be done in a batch, checked before it starts."""

from __future__ import annotations

import dataclasses
import operator
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_surgsam2.checkpoints.registry import CHECKPOINT_SUFFIXES, registry_entry
from napari_surgsam2.errors import SurgSam2Error, UsageError
from napari_surgsam2.masks import refuse_to_replace
from napari_surgsam2.masks._files import label_target
from napari_surgsam2.masks._partial import partial_folder, refuse_partial_name
from napari_surgsam2.paths import expanded
from napari_surgsam2.project import PROJECT_SUFFIX, Project, load_project
from napari_surgsam2.prompts import (
    Prompt,
    as_prompts,
    load_prompts,
    prompts_from_dict,
    prompts_to_dict,
    require_positive,
)
from napari_surgsam2.settings import TrackingSettings

if TYPE_CHECKING:
    from napari_surgsam2.tracking import Direction

_ERRORS_SHOWN = 20


class JobError(UsageError):
    """A job cannot be done as it is.

    Attributes
    ----------
    column : str
        The field of `Job` that is wrong.
    """

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.column, str(self))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video of a batch.

    What is None is taken from the project, or else is the default of `track`.

    Attributes
    ----------
    output : path
        Where the masks go, by its name a TIFF, zarr, COCO JSON or a folder of PNGs; see `track`. Made
        absolute.
    video : path or None
        A file or folder. With a project it takes the place of the project's.
    prompts : path, sequence of Prompt or None
        What `load_prompts` reads, or prompts themselves.
    project : path or None
        A `.surgsam2.json`, instead of prompts.
    model : str or None
        A registry name, or the path of a checkpoint.
    settings : TrackingSettings or None
        How it is tracked.
    image_size : int or None
        Side of the network's input in pixels.
    frames : (int, int or None) or None
        Only frames from the first number up to, but not including, the second, or to the end.
    direction : {"forward", "backward", "both"} or None
        Which way from the earliest prompted frame.
    name : str
        What messages and the report call it; the video's name if left out.

    Raises
    ------
    JobError
        If a value is out of its range or one is missing.
    """

    output: str
    video: Path | None = None
    prompts: Path | tuple[Prompt, ...] | None = None
    project: Path | None = None
    model: str | None = None
    settings: TrackingSettings | None = None
    image_size: int | None = None
    frames: tuple[int, int | None] | None = None
    direction: Direction | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for column in ("video", "project", "output"):
            value = getattr(self, column)
            if value is not None and not (isinstance(value, (str, os.PathLike)) and os.fspath(value)):
                raise JobError(column, f"It is {value!r:.60}; it must be the path of a file or folder.")
        if (self.prompts is None) == (self.project is None):
            said = "neither prompts nor a project" if self.prompts is None else "both prompts and a project"
            raise JobError("prompts", f"The job has {said}; give one of them.")
        if self.video is None and self.project is None:
            raise JobError("video", "The job has no video; give one, or a project that names it.")
        self._make_absolute()
        if self.model is not None:
            self._set("model", checked_model(self.model))
        if not isinstance(self.settings, TrackingSettings | None):
            raise JobError("settings", f"They are {self.settings!r:.60}; they must be TrackingSettings.")
        if self.image_size is not None:
            self._set("image_size", checked_image_size(self.image_size))
        if self.frames is not None:
            self._set("frames", _checked_frames(self.frames))
        if self.direction not in (None, "forward", "backward", "both"):
            raise JobError(
                "direction", f"It is {self.direction!r}; it must be 'forward', 'backward' or 'both'."
            )
        if not isinstance(self.name, str):
            raise JobError("name", f"It is {self.name!r:.60}; it must be a text.")
        if not self.name:
            self._set("name", stem(self.video or self.project))

    def _make_absolute(self) -> None:
        for column in ("video", "project"):
            if (value := getattr(self, column)) is not None:
                self._set(column, expanded(value).absolute())
        if isinstance(self.prompts, (str, os.PathLike)):
            self._set("prompts", expanded(self.prompts).absolute())
        elif self.prompts is not None:
            with column_of("prompts"):
                self._set("prompts", tuple(as_prompts(self.prompts)))
        text = os.path.expanduser(os.fspath(self.output))  # noqa: PTH111  # a separator at its end must stay
        with column_of("output"):
            target, _ = label_target(text)
            refuse_partial_name(target)
        self._set("output", str(target) + (os.sep if text.endswith(("/", os.sep)) else ""))

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to a worker: masks as run lengths, not as arrays."""
        state = dict(self.__dict__)
        if isinstance(self.prompts, tuple):
            state["prompts"] = [prompts_to_dict([prompt]) for prompt in self.prompts]
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for column, value in state.items():
            self._set(column, value)
        if isinstance(state["prompts"], list):
            self._set("prompts", tuple(p for one in state["prompts"] for p in prompts_from_dict(one)))

    def _set(self, column: str, value: Any) -> None:
        object.__setattr__(self, column, value)

    @property
    def target(self) -> Path:
        """The absolute path of the output."""
        return label_target(self.output)[0]

    def loaded_project(self) -> Project | None:
        """Return the project, with the job's video in it if there is one.

        Raises
        ------
        ProjectError
            If the file cannot be used.
        """
        if self.project is None:
            return None
        project = load_project(self.project)
        if self.video is not None:  # another than the project was made with, on purpose
            project = dataclasses.replace(project, video=self.video, shape=None)
        return project

    def check(self) -> tuple[Path, ...]:
        """Look at what can be looked at before anything starts, the pixels of the video aside.

        Returns
        -------
        tuple of Path
            Its inputs: the video, and of project, prompts and models those that are files.

        Raises
        ------
        JobError
            If a file is missing, the project or the prompts cannot be used, or the output would take the
            place of an input.
        """
        with column_of("project"):
            project = self.loaded_project()
        video = self.video if project is None else project.video
        column = "project" if self.video is None else "video"
        if video is None:
            raise JobError(column, f"The project '{self.project}' names no video; give one.")
        if not video.exists():
            raise JobError(column, f"No file or folder at '{video}'; check the path.")
        with column_of("prompts" if project is None else "project"):
            require_positive(self._prompts() if project is None else project.prompts)
        if project is not None and self.model is None:
            with column_of("project"):
                checked_model(project.model)
        models = (self.model, None if project is None else project.model)
        files = [Path(m) for m in models if m and Path(m).suffix.lower() in CHECKPOINT_SUFFIXES]
        inputs = (*(i for i in (video, self.project, self.prompts) if isinstance(i, Path)), *files)
        with column_of("output"):
            refuse_to_replace(inputs, self.output)
        return inputs

    def _prompts(self) -> Iterable[Prompt]:
        return load_prompts(self.prompts) if isinstance(self.prompts, Path) else self.prompts or ()


def check_jobs(jobs: Sequence[Job], where: Callable[[int], str]) -> None:
    """Check all jobs, and that they do not stand in one another's way.

    Parameters
    ----------
    jobs : sequence of Job
        In order.
    where : callable
        Returns what a job is called in messages, by its index.

    Raises
    ------
    UsageError
        With a line for each job that cannot be done.
    """
    errors = []
    inputs = _Inputs()
    for index, job in enumerate(jobs):
        try:
            inputs.add(index, job.check())
        except JobError as error:
            errors.append(f"{where(index)}, column '{error.column}': {error}")
    first: dict[str, int] = {}
    alike: dict[str, int] = {}
    unfinished = {_place(partial_folder(job.target)): index for index, job in enumerate(jobs)}
    folders = unfinished | {_place(job.target): index for index, job in enumerate(jobs)}
    for index, job in enumerate(jobs):
        place = _place(job.target)
        parents = map(os.path.normcase, job.target.resolve().parents)
        around = next((folders[p] for p in parents if p in folders), unfinished.get(place))
        if around is not None:
            errors.append(
                f"{where(index)}, column 'output': '{job.output}' is in the place of the output of "
                f"{where(around)}; choose another."
            )
        other, twin = first.setdefault(place, index), alike.setdefault(_in_any_case(place), index)
        if other != index:
            errors.append(
                f"{where(index)}, column 'output': '{job.output}' is the output of {where(other)} too; each "
                "job needs its own."
            )
        elif twin != index:
            errors.append(
                f"{where(index)}, column 'output': '{job.output}' differs from the output of {where(twin)} "
                "only in upper and lower case, or how accents are written, which is one file on many disks; "
                "choose another."
            )
        if (found := inputs.in_the_way_of(index, job)) is not None:
            owner, fault = found
            errors.append(f"{where(index)}, column 'output': {fault} That is an input of {where(owner)}.")
    refuse(errors)


class _Inputs:
    """The inputs of all jobs, however many; where several have the same, the first of them counts."""

    def __init__(self) -> None:
        self._seen: set[Path] = set()
        self._at: dict[str, tuple[int, Path]] = {}  # by the place of the input
        self._under: dict[str, tuple[int, Path]] = {}  # by each folder around it
        self._files: dict[tuple[int, int], tuple[int, Path]] = {}  # by device and inode

    def add(self, index: int, paths: Iterable[Path]) -> None:
        """Add the inputs of a job."""
        for path in paths:
            if path in self._seen:
                continue
            self._seen.add(path)
            place = path.resolve()
            self._at.setdefault(os.path.normcase(place), (index, path))
            for parent in place.parents:
                self._under.setdefault(os.path.normcase(parent), (index, path))
            if (key := _file_key(path)) is not None:
                self._files.setdefault(key, (index, path))

    def in_the_way_of(self, index: int, job: Job) -> tuple[int, str] | None:
        """Return another job with an input in whose place the output of this one is, and what is wrong."""
        for owner, path in self._near(job):
            if owner == index:  # its own check has said it
                continue
            try:
                refuse_to_replace([path], job.output)
            except UsageError as error:
                return owner, str(error)
        return None

    def _near(self, job: Job) -> list[tuple[int, Path]]:
        """Return what `refuse_to_replace` may object to: comparing all with all would take too long."""
        place, key = job.target.resolve(), _file_key(job.target)
        found = (
            self._at.get(os.path.normcase(place)),
            self._under.get(os.path.normcase(place)),
            self._at.get(os.path.normcase(place.parent)),
            None if key is None else self._files.get(key),
        )
        return [entry for entry in found if entry is not None]


def _file_key(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file, None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def named_apart(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with a number behind each name that one before it has too, as in "clip (2)"."""
    seen: set[str] = set()
    named = []
    for job in jobs:
        name, count = job.name, 1
        while name in seen:
            count += 1
            name = f"{job.name} ({count})"
        seen.add(name)
        named.append(job if name == job.name else dataclasses.replace(job, name=name))
    return named


@contextmanager
def column_of(column: str) -> Iterator[None]:
    """Say of errors which column they are in."""
    try:
        yield
    except JobError:
        raise
    except SurgSam2Error as error:
        raise JobError(column, str(error)) from error


def refuse(errors: Sequence[str]) -> None:
    """Raise UsageError with these errors, if there are any."""
    if not errors:
        return
    shown = [f"- {error}" for error in errors[:_ERRORS_SHOWN]]
    if len(errors) > _ERRORS_SHOWN:
        shown.append(f"- and {len(errors) - _ERRORS_SHOWN} more")
    raise UsageError("\n".join(["Nothing was started, since not all jobs can be done:", *shown]))


def checked_image_size(size: Any) -> int:
    """Return the side of a network's input; raise JobError if it cannot be one."""
    size = _whole("image_size", size, 1)
    if size % 32:
        raise JobError("image_size", f"It is {size}; it must be a multiple of 32.")
    return int(size)


def checked_model(model: Any) -> str:
    """Return a registry name or an absolute path; raise JobError if there is no such model."""
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise JobError("model", f"It is {model!r:.60}; it must be a name or the path of a checkpoint.")
    text = os.fspath(model)
    if Path(text).suffix.lower() not in CHECKPOINT_SUFFIXES:
        with column_of("model"):
            return registry_entry(text).name
    path = expanded(text).absolute()
    if not path.is_file():
        raise JobError("model", f"There is no checkpoint '{path}'; check the path.")
    return str(path)


def _checked_frames(frames: Any) -> tuple[int, int | None]:
    entries = list(frames) if isinstance(frames, (list, tuple)) else []
    if len(entries) != 2:
        raise JobError(
            "frames", f"They are {frames!r:.40}; they must be two numbers, the second may be None."
        )
    low = _whole("frames", entries[0], 0)
    high = None if entries[1] is None else _whole("frames", entries[1], 1)
    if high is not None and high <= low:
        raise JobError("frames", f"They are {low}:{high}; the first must be below the second.")
    return low, high


def _whole(column: str, value: Any, at_least: int) -> int:
    try:
        number = at_least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise JobError(column, f"It has {value!r:.40}; it must be a whole number, at least {at_least}.")
    return number


def stem(path: Any) -> str:
    """Return the name of a video or project file without its suffix."""
    name = "" if path is None else Path(path).name
    if name.lower().endswith(PROJECT_SUFFIX):
        return name[: -len(PROJECT_SUFFIX)]
    return Path(name).stem


def _place(path: Path) -> str:
    return os.path.normcase(path.resolve())


def _in_any_case(place: str) -> str:
    """Return what is the same for all names that a disk may take for one: macOS also composes accents."""
    return unicodedata.normalize("NFC", place).lower()
