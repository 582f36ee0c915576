"""A study in one file: which video, how it is opened, what is prompted, and how it is tracked."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints.registry import CHECKPOINT_SUFFIXES, DEFAULT_MODEL
from .errors import UsageError, VideoError
from .masks._files import PROJECT_SUFFIX as PROJECT_SUFFIX
from .paths import expanded
from .prompts import Box, Mask, Point, Prompt, prompts_from_dict, prompts_to_dict
from .prompts.files import PROJECT_KEY, write_json
from .settings import TrackingSettings

if TYPE_CHECKING:
    from .pipeline import TrackJob
    from .tracking import Direction
    from .video import Video

PROJECT_VERSION = 1
_KIND_ORDER = (Mask, Box, Point)
# Stored as they are, or as lists where they are tuples.
_PLAIN_KEYS = ("shape", "axes", "channel", "z", "contrast_limits", "image_size", "direction", "frames")
_KEYS = (PROJECT_KEY, "video", "model", *_PLAIN_KEYS, "settings", "names", "prompts")


class ProjectError(UsageError):
    """A project file cannot be used, or a project has a value that cannot be."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """What is tracked in a video and how; `save_project` keeps it and `load_project` reads it.

    Attributes
    ----------
    video : Path or None
        The file or folder, made absolute; None where the stack came from no file.
    shape : (int, int, int) or None
        Of the video: (T, Y, X). Opening one of another shape is refused.
    prompts : tuple of Prompt
        Masks, then boxes, then points, each in the order given.
    model : str
        A registry name, or the path of a checkpoint, made absolute.
    image_size : int or None
        Side of the network's input in pixels; None for the model's own.
    settings : TrackingSettings
        How it is tracked.
    names : mapping of int to str
        Names by object id.
    axes, channel, z, contrast_limits
        How the video is opened; see `open_video`.
    direction : {"forward", "backward", "both"}
        Which way from the earliest prompted frame.
    frames : (int, int or None) or None
        Only frames from the first number up to, but not including, the second, or to the end.

    Raises
    ------
    UsageError
        If a value is out of its range; the message says which.
    """

    video: Path | None = None
    shape: tuple[int, int, int] | None = None
    prompts: tuple[Prompt, ...] = ()
    model: str = DEFAULT_MODEL
    image_size: int | None = None
    settings: TrackingSettings = field(default_factory=TrackingSettings)
    names: Mapping[int, str] = field(default_factory=dict)
    axes: str | None = None
    channel: int = 0
    z: int | None = None
    contrast_limits: tuple[float, float] | None = None
    direction: Direction = "both"
    frames: tuple[int, int | None] | None = None

    def __post_init__(self) -> None:
        if self.video is not None:
            self._set("video", _absolute("video", self.video))
        if not isinstance(self.model, (str, os.PathLike)) or not os.fspath(self.model):
            raise ProjectError(f"model is {self.model!r}; it must be a name or the path of a checkpoint.")
        is_file = Path(self.model).suffix.lower() in CHECKPOINT_SUFFIXES
        self._set("model", str(_absolute("model", self.model) if is_file else self.model))
        if not isinstance(self.settings, TrackingSettings):
            raise ProjectError(f"settings is {self.settings!r:.60}; it must be a TrackingSettings.")
        self._set("prompts", _in_order(self.prompts))
        self._set("names", _checked_names(self.names))
        self._check_opening()
        if self.image_size is not None:
            self._set("image_size", _whole("image_size", self.image_size, 1))
        if self.direction not in ("forward", "backward", "both"):
            raise ProjectError(
                f"direction is {self.direction!r}; it must be 'forward', 'backward' or 'both'."
            )
        if self.frames is not None:
            self._set("frames", _checked_frames(self.frames))

    def _check_opening(self) -> None:
        if self.shape is not None:
            sizes = _entries("shape", self.shape, 3, "frames, height and width")
            self._set("shape", tuple(_whole("shape", size, 1) for size in sizes))
        if self.axes is not None and not isinstance(self.axes, str):
            raise ProjectError(f"axes is {self.axes!r}; it must be one letter for each axis, such as 'TYX'.")
        self._set("channel", _whole("channel", self.channel, 0))
        if self.z is not None:
            self._set("z", _whole("z", self.z, 0))
        if self.contrast_limits is not None:
            from .video.contrast import validate_limits

            self._set("contrast_limits", validate_limits(self.contrast_limits))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def _says_how_to_open(self) -> bool:
        said = (self.axes, self.channel, self.z, self.contrast_limits, self.shape)
        return said != (None, 0, None, None, None)

    def open_video(self) -> Video:
        """Open the video as the project says; the caller closes it.

        Raises
        ------
        VideoError
            If there is none, it is not there any more, its shape is not the project's, or it is damaged.
        UsageError
            If `axes`, `channel` or `z` do not fit it.
        """
        from .video import open_video

        remedy = "give its place: dataclasses.replace(project, video=...), or VIDEO on the command line"
        if self.video is None:
            raise VideoError(f"The project names no video, since its stack came from no file; {remedy}.")
        if not _is_there(self.video):
            raise VideoError(
                f"The project's video '{self.video}' is not there any more; put it back, or {remedy}."
            )
        video = open_video(
            self.video,
            axes=self.axes,
            channel=self.channel,
            z=self.z,
            contrast_limits=self.contrast_limits,
        )
        try:
            self._check_shape(video)
        except VideoError:
            video.close()
            raise
        return video

    def _check_shape(self, video: Video) -> None:
        if self.shape is None or video.shape == self.shape:
            return
        sides = zip(("frames", "height", "width"), video.shape, self.shape, strict=True)
        differences = ", ".join(f"{side} {now} (was {was})" for side, now, was in sides if now != was)
        raise VideoError(
            f"'{self.video}' is not as it was when the project was made: {differences}. Open the video that "
            "the project was made with; if this one is meant, say so with dataclasses.replace(project, "
            "shape=None), or with VIDEO on the command line."
        )

    def job(self, output: str | Path | None = None, *, video: Any = None, **others: Any) -> TrackJob:
        """Return the job of tracking it, for `pipeline.run_job`.

        Parameters
        ----------
        output : path, optional
            Where the masks go; see `track`.
        video : path, array or Video, optional
            What `open_video` returns if left out. A path takes the place of the project's video: it is opened
            in the same way, and must be of the same shape. Where the job has an open `Video`, that is the
            caller's to close.
        **others
            Other attributes of `TrackJob`, and those that are not to be the project's.

        Raises
        ------
        VideoError
            As `open_video`.
        """
        from .pipeline import TrackJob

        if video is None:
            video = self.open_video()
        elif isinstance(video, str | Path) and self._says_how_to_open:
            video = replace(self, video=Path(video)).open_video()
        values: dict[str, Any] = {
            "prompts": list(self.prompts),
            "model": self.model,
            "image_size": self.image_size,
            "settings": self.settings,
            "direction": self.direction,
            "frames": self.frames,
            "names": dict(self.names),
        }
        return TrackJob(video=video, output=output, **{**values, **others})


def save_project(path: str | Path, project: Project) -> None:
    """Write a project as JSON; the file is replaced in one step.

    The video, and a model that is a file, are stored by their absolute paths, and also by those relative to
    the project's folder where they lie in it or below: so the folder may be moved as a whole.

    Parameters
    ----------
    path : path
        Its name must end in `.surgsam2.json`.
    project : Project
        What to keep.

    Raises
    ------
    UsageError
        If the name ends otherwise.
    OutputError
        If it cannot be written.
    """
    path = expanded(path)
    if not path.name.lower().endswith(PROJECT_SUFFIX):
        raise ProjectError(
            f"The project file is '{path}'; its name must end in '{PROJECT_SUFFIX}', by which it is known."
        )
    write_json(path, _to_document(project, path.absolute().parent), "project")


def load_project(path: str | Path) -> Project:
    """Read a project that `save_project` wrote.

    Where the video (or the model's file) is found by its path relative to the project's folder, that one is
    taken, else the absolute one. Whether it is there shows when it is opened.

    Raises
    ------
    ProjectError
        If the file is missing, is no project, is of a newer version, or has a key or value that cannot be
        used; the message says which.
    """
    path = expanded(path)
    document = _read(path)
    try:
        return _from_document(document, path.absolute().parent)
    except UsageError as error:
        raise ProjectError(f"The project file '{path}' cannot be used: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ProjectError(f"There is no project file '{path}'; check the path.") from None
    except OSError as error:
        raise ProjectError(
            f"The project file '{path}' cannot be read: {error.strerror}. Give a file that you may read."
        ) from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError among them
        raise ProjectError(
            f"The project file '{path}' is not valid JSON: {error}. Save the project again."
        ) from error
    keys = set(document) if isinstance(document, dict) else set()
    if PROJECT_KEY in keys:
        return dict(document)
    kind = "another kind of JSON"
    if keys & {"images", "annotations", "categories"}:
        kind = "COCO, which holds masks"
    elif keys & {"points", "boxes", "masks"}:
        kind = "prompts alone, which `load_prompts` and --prompts take"
    raise ProjectError(f"'{path}' is not a project: it is {kind}. Give a file that save_project wrote.")


def _to_document(project: Project, folder: Path) -> dict[str, Any]:
    model: str | dict[str, str] = project.model
    if Path(project.model).suffix.lower() in CHECKPOINT_SUFFIXES:
        model = _stored_path(Path(project.model), folder)
    return {
        PROJECT_KEY: PROJECT_VERSION,
        "video": None if project.video is None else _stored_path(project.video, folder),
        "model": model,
        **{key: getattr(project, key) for key in _PLAIN_KEYS},
        "settings": project.settings.to_dict(),
        "names": {str(object_id): name for object_id, name in sorted(project.names.items())},
        "prompts": prompts_to_dict(project.prompts),
    }


def _from_document(document: dict[str, Any], folder: Path) -> Project:
    version = document[PROJECT_KEY]
    if type(version) is not int or version < 1:
        raise ProjectError(f"'{PROJECT_KEY}', its version, is {version!r:.40}; it must be a whole number.")
    if version > PROJECT_VERSION:
        raise ProjectError(
            f"it has version {version}, made by a newer napari-surgsam2; this one reads version "
            f"{PROJECT_VERSION}. Update it with 'pip install --upgrade napari-surgsam2'."
        )
    if unknown := sorted(set(document) - set(_KEYS)):
        raise ProjectError(
            f"unknown key {', '.join(map(repr, unknown))}; known: {', '.join(map(repr, _KEYS))}."
        )
    values: dict[str, Any] = {key: document[key] for key in _PLAIN_KEYS if key in document}
    if document.get("video") is not None:
        values["video"] = _found_path("video", document["video"], folder)
    if "model" in document:
        model = document["model"]
        values["model"] = _found_path("model", model, folder) if isinstance(model, dict) else model
    if "settings" in document:
        settings = _object("settings", document["settings"])
        values["settings"] = TrackingSettings.from_dict(settings)
    if "names" in document:
        names = _object("names", document["names"])
        values["names"] = {int(key) if key.isdecimal() else key: name for key, name in names.items()}
    if "prompts" in document:
        values["prompts"] = tuple(prompts_from_dict(document["prompts"]))
    return Project(**values)


def _stored_path(path: Path, folder: Path) -> dict[str, str]:
    """Return an absolute path as it is stored in a project file in `folder`."""
    # As the user names them first: a link in the folder may lead anywhere.
    for inside, of in ((path, folder), (path.resolve(), folder.resolve())):
        if ".." not in inside.parts and inside.is_relative_to(of):
            return {"relative": inside.relative_to(of).as_posix(), "absolute": str(path)}
    return {"absolute": str(path)}


def _found_path(key: str, stored: object, folder: Path) -> Path:
    """Return the path that `_stored_path` stored."""
    places = _object(key, stored)
    if not places or set(places) - {"relative", "absolute"}:
        raise ProjectError(f"{key} has the keys {sorted(places)}; it must have 'relative' or 'absolute'.")
    for name, text in places.items():
        if not isinstance(text, str) or not text:
            raise ProjectError(f"{key} has {text!r:.40} for '{name}'; it must be a path.")
    near: Path | None = folder / places["relative"] if "relative" in places else None
    if near is not None and ("absolute" not in places or _is_there(near)):
        return near
    return Path(places["absolute"])


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a folder that may not be looked into, a NUL in the name
        return False


def _absolute(key: str, path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ProjectError(f"{key} is {path!r:.60}; it must be the path of a file or folder.")
    return expanded(path).absolute()


def _in_order(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    entries = tuple(prompts)
    for entry in entries:
        if not isinstance(entry, _KIND_ORDER):
            raise ProjectError(f"A prompt is {entry!r:.60}; give Point, Box and Mask objects.")
    return tuple(sorted(entries, key=lambda prompt: _KIND_ORDER.index(type(prompt))))


def _checked_names(names: Mapping[int, str]) -> dict[int, str]:
    checked = {}
    for object_id, name in _object("names", names).items():
        number = _whole("An object id in names", object_id, 1)
        if not isinstance(name, str):
            raise ProjectError(f"names has {name!r:.40} for object {number}; it must be a text.")
        checked[number] = name
    return checked


def _checked_frames(frames: Any) -> tuple[int, int | None]:
    first, last = _entries("frames", frames, 2, "the first frame and the one after the last, or null")
    low = _whole("frames", first, 0)
    high = None if last is None else _whole("frames", last, 1)
    if high is not None and high <= low:
        raise ProjectError(f"frames is {low}:{high}; the first must be below the second.")
    return low, high


def _object(key: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ProjectError(f"{key} is {value!r:.60}; it must be an object of keys and values.")
    return value


def _entries(key: str, value: Any, count: int, what: str) -> list[Any]:
    entries = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) else []
    if len(entries) != count:
        raise ProjectError(f"{key} is {value!r:.60}; it must be {count} entries: {what}.")
    return entries


def _whole(key: str, value: Any, at_least: int) -> int:
    try:
        number = at_least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ProjectError(f"{key} is {value!r:.60}; it must be a whole number, at least {at_least}.")
    return number
