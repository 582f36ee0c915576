"""What is kept of a session: masks, measurements, tracks and the project file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import SurgSam2Error, UsageError
from napari_surgsam2.prompts import Mask, Prompt
from napari_surgsam2.video.layers import METADATA_KEY, spatial_shape
from napari_surgsam2.video.opening import TIFF_SUFFIXES
from napari_surgsam2.video.zarrs import is_zarr

from .autosaves import source_path
from .prompt_layers import transforms
from .session import Session
from .stacks import LayerStack, stack_of
from .worker import TrackerChoice

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Tracks

    from napari_surgsam2.masks import CentroidTracks, Measurements
    from napari_surgsam2.project import Project


class StackLabels:
    """The labels of a stack as (T, Y, X), read frame by frame from the layer's array."""

    def __init__(self, session: Session) -> None:
        if session.labels is None:
            raise UsageError("There are no masks; track something first.")
        session.finish()
        self._data, self._stack = session.labels.data, session.stack

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return self._stack.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the labels."""
        dtype: np.dtype[Any] = np.dtype(self._data.dtype)
        return dtype

    def __getitem__(self, frame: int, /) -> npt.NDArray[Any]:
        """Return a frame, (Y, X)."""
        return np.asarray(self._data[self._stack.index(frame)])


def save_masks(
    labels: StackLabels, path: str | Path, names: dict[int, str], source: Path | None = None
) -> Path:
    """Write masks as TIFF, zarr, a folder of DAVIS PNGs or COCO JSON, by the path's suffix.

    What is there already under that name is replaced: the dialog that asked for it has said so. Where the
    `source` of the frames is a folder of pictures, PNGs are called as these, and JSON names them.
    """
    from napari_surgsam2.masks import export

    pictures = _pictures(source, labels.shape[0])
    return export(path, labels, overwrite=True, pictures=pictures, names=names)


def _pictures(source: Path | None, n_frames: int) -> tuple[str, ...] | None:
    """Return the file names of the frames where they are so many pictures in a folder, else None."""
    from napari_surgsam2.video import open_video

    if source is None or not source.is_dir() or is_zarr(source):
        return None
    try:
        with open_video(source) as video:
            return video.pictures if video.n_frames == n_frames else None
    except SurgSam2Error:  # it is none any more
        return None


def frame_interval(image: Image, frame_axis: int | None) -> float:
    """Return the time between two frames, in the layer's unit."""
    return 1.0 if frame_axis is None else float(image.scale[-image.ndim :][frame_axis])


def measure_session(
    session: Session, progress: Callable[[int, int], object] | None = None
) -> Callable[[], Measurements]:
    """Return what measures a session's masks, to be called in any thread."""
    from napari_surgsam2.masks import measure

    image, stack = session.image, session.stack
    labels, names = StackLabels(session), dict(session.names)
    records = session.records
    confidence = {
        i: {int(f): float(c) for f, c in enumerate(records[i].confidence) if not np.isnan(c)}
        for i in records.object_ids
    }
    spacing = (float(image.scale[-2]), float(image.scale[-1]))
    interval = frame_interval(image, stack.frame_axis)

    def run() -> Measurements:
        video = stack.open()
        try:
            return measure(
                labels,
                video,
                spacing=spacing,
                frame_interval=interval,
                names=names,
                confidence=confidence,
                progress=progress,
            )
        finally:
            video.close()

    return run


def show_measurements(layer: Labels, names: Mapping[int, str], measurements: Measurements) -> None:
    """Put means over the frames into a Labels layer's features, a row for each object."""
    summary = measurements.summary()
    keys = sorted({key for values in summary.values() for key in values})
    ids = sorted(summary)
    highest = max(ids, default=0)
    columns: dict[str, list[Any]] = {"index": list(range(highest + 1))}
    for key in keys:
        columns[key] = [summary.get(i, {}).get(key, np.nan) for i in range(highest + 1)]
    columns["name"] = [names.get(i, f"object {i}" if i in ids else "") for i in range(highest + 1)]
    layer.features = _with_columns(layer.features, columns)


def _with_columns(features: Any, columns: dict[str, list[Any]]) -> Any:
    """Return a table of features, an entry for each label, with columns put in place of those it has."""
    at = features.set_index("index") if "index" in features else features
    length = max(len(columns["index"]), int(at.index.max()) + 1 if len(at) else 0)
    out = at.drop(columns=[name for name in columns if name in at]).reindex(range(length))
    for name, values in columns.items():
        missing = "" if name == "name" else np.nan
        more = range(len(values), length)
        out[name] = [*values, *(more if name == "index" else [missing] * len(more))]
    return out.reset_index(drop=True)


def find_tracks(session: Session) -> Callable[[], CentroidTracks]:
    """Return what finds the objects' centroids, to be called in any thread."""
    from napari_surgsam2.masks import centroid_tracks

    axis, name = session.stack.frame_axis, session.image.name
    if axis is None:
        raise UsageError(f"'{name}' is a single picture; tracks need frames.")
    if axis != 0:
        raise UsageError(
            f"The frames of '{name}' are along its axis {axis}, and a Tracks layer has time first; show the "
            "image with that axis first."
        )
    labels = StackLabels(session)

    def run() -> CentroidTracks:
        found = centroid_tracks(labels)
        if not len(found.data):  # which no Tracks layer can be made of
            raise UsageError("There are no masks; track something first.")
        return found

    return run


def show_tracks(viewer: ViewerModel, stack: LayerStack, found: CentroidTracks) -> Tracks:
    """Add a Tracks layer of centroids, lying on the masks of a stack."""
    rows = stack.to_layer(found.data[:, 1:])
    layer: Tracks = viewer.add_tracks(
        np.column_stack([found.data[:, :1], rows]),
        graph=found.graph,
        properties=found.properties,
        name=f"{stack.layer.name} tracks",
        metadata={METADATA_KEY: {"tracks": True}},
        **transforms(stack.layer),
    )
    return layer


def project_of(session: Session) -> Project:
    """Return a session as a project."""
    from napari_surgsam2.project import Project

    session.finish()
    path = source_path(session.image)
    opening = session.stack.opening()
    if path is not None and not has_axes(path):
        for name in ("axes", "channel", "z"):
            opening.pop(name, None)
    return Project(
        video=path,
        shape=session.stack.shape,
        prompts=tuple(session.prompts_to_keep),
        model=session.choice.model,
        image_size=session.choice.image_size,
        settings=session.choice.settings,
        names=dict(session.names),
        axes=opening.get("axes"),
        channel=opening.get("channel", 0),
        z=opening.get("z"),
        contrast_limits=opening.get("contrast_limits"),
    )


def has_axes(path: Path) -> bool:
    """Whether a file is a stack whose axes `open_video` can be told, rather than a movie or pictures."""
    return path.suffix.lower() in {*TIFF_SUFFIXES, ".zarr"} or is_zarr(path)


def choice_of(project: Project, device: str) -> TrackerChoice:
    """Return the model and settings of a project, on a device of this machine."""
    return TrackerChoice(str(project.model), device, project.image_size, project.settings)


def stack_for(project: Project, image: Image, position: Sequence[float]) -> LayerStack:
    """Return the part of an image that a project is of.

    Parameters
    ----------
    project : Project
        The project.
    image : napari.layers.Image
        The video.
    position : sequence of float, length D
        A position in the image's data; it counts along axes that the project says nothing of.

    Raises
    ------
    UsageError
        If the project is of another video.
    """
    axes, place = (project.axes or "").removesuffix("S"), [float(value) for value in position]
    frame_axis = None
    if len(axes) == len(spatial_shape(image)):
        frame_axis = axes.find("T") if "T" in axes else None
        for letter, index in (("Z", project.z), ("C", project.channel)):
            if letter in axes and index is not None:
                place[axes.index(letter)] = index
    stack = stack_of(image, frame_axis, place)
    if project.shape is not None and tuple(project.shape) != stack.shape:
        raise UsageError(
            f"The project is of a video of shape {tuple(project.shape)}, and '{image.name}' has "
            f"{stack.shape}; choose the video that it belongs to."
        )
    return stack


def same(one: Project, other: Project) -> bool:
    """Whether two projects say the same, in whatever order."""
    if dataclasses.replace(one, prompts=()) != dataclasses.replace(other, prompts=()):
        return False
    return Counter(map(_identity, one.prompts)) == Counter(map(_identity, other.prompts))


def has_more(path: Path, project: Project) -> bool:
    """Whether a project file holds prompts that a project lacks; one that cannot be read may."""
    from napari_surgsam2.project import load_project

    try:
        there = load_project(path)
    except SurgSam2Error:
        return True
    return bool(Counter(map(_identity, there.prompts)) - Counter(map(_identity, project.prompts)))


def take_up(session: Session, project: Project) -> None:
    """Put the prompts and names of a project of the same video into a session."""
    session.finish()
    there = session.prompts_to_keep
    known = set(map(_identity, there))
    new = [p for p in project.prompts if _identity(p) not in known]
    if both := sorted({p.object_id for p in there} & {p.object_id for p in new}):
        numbers = ", ".join(map(str, both))
        session.warned.emit(
            f"The project has prompts of object {numbers}, which is prompted here too: they are one object "
            "now. If that is not one thing, take one of them back."
        )
    session.names.update(project.names)
    session.add_prompts(new)


def _identity(prompt: Prompt) -> object:
    if isinstance(prompt, Mask):
        return prompt.frame, prompt.object_id, prompt.digest
    return prompt
