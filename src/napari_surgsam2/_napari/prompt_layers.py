"""The layers that prompts are read from: clicks in a Points layer, boxes in a Shapes layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import PromptError
from napari_surgsam2.prompts import Box, Point, check_prompts, points_from_table
from napari_surgsam2.video.layers import METADATA_KEY, spatial_shape

from .stacks import LayerStack

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Points, Shapes

POSITIVE_SYMBOL, NEGATIVE_SYMBOL = "disc", "x"
_RIGHT, _MIDDLE = 2, 3  # mouse buttons
_POINT_SIZE = 0.02  # of the picture's smaller side
_COLUMNS = ("object_id", "label")
Color = Sequence[float] | npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PointsState:
    """What a Points layer holds; `points_state` takes it and `restore_points` puts it back."""

    data: npt.NDArray[np.float64]
    object_ids: tuple[int, ...]
    labels: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PointsState):
            return NotImplemented
        same = (self.object_ids, self.labels) == (other.object_ids, other.labels)
        return same and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]


def transforms(image: Image) -> dict[str, Any]:
    """Return what another layer must be made with to lie on an image."""
    leading = len(spatial_shape(image))
    return {
        "scale": image.scale[-leading:],
        "translate": image.translate[-leading:],
        "rotate": image.rotate,
        "shear": image.shear,
        "affine": image.affine,
        "units": image.units,
        "axis_labels": image.axis_labels,
    }


def make_points(viewer: ViewerModel, image: Image) -> Points:
    """Add a Points layer for the prompts of an image."""
    shape = spatial_shape(image)
    layer: Points = viewer.add_points(
        np.empty((0, len(shape))),
        ndim=len(shape),
        name=f"{image.name} prompts",
        features={name: np.empty(0, dtype=np.int64) for name in _COLUMNS},
        size=max(3.0, _POINT_SIZE * min(shape[-2:])),
        border_color="white",
        border_width=0.12,
        symbol=POSITIVE_SYMBOL,
        metadata={METADATA_KEY: {"prompts": True, "image": image.name}},
        **transforms(image),
    )
    return layer


def make_boxes(viewer: ViewerModel, image: Image) -> Shapes:
    """Add a Shapes layer for boxes around the objects of an image."""
    shape = spatial_shape(image)
    layer: Shapes = viewer.add_shapes(
        None,
        ndim=len(shape),
        name=f"{image.name} boxes",
        features={"object_id": np.empty(0, dtype=np.int64)},
        face_color="transparent",
        edge_color="white",
        edge_width=max(1.0, 0.004 * min(shape[-2:])),
        metadata={METADATA_KEY: {"boxes": True, "image": image.name}},
        **transforms(image),
    )
    return layer


def points_state(layer: Points) -> PointsState:
    """Return what a Points layer holds; points without features are positive and of object 1.

    Raises
    ------
    PromptError
        If a feature is neither an object's number nor a polarity.
    """
    data = np.array(layer.data, dtype=np.float64)
    fake = np.zeros((len(data), 3))
    points = points_from_table(fake, _known_columns(layer))
    return PointsState(data, tuple(p.object_id for p in points), tuple(int(p.positive) for p in points))


def _known_columns(layer: Points) -> dict[str, list[Any]]:
    """Return the features that matter, entries that are missing filled with what they default to."""
    columns: dict[str, list[Any]] = {}
    for name in _COLUMNS:
        if name in layer.features:
            column = layer.features[name]
            columns[name] = [1 if missing else v for v, missing in zip(column, column.isna(), strict=True)]
    return columns


def restore_points(layer: Points, state: PointsState) -> None:
    """Make a Points layer hold what it held."""
    layer.selected_data = set()
    layer.data = state.data
    layer.features = {
        "object_id": np.array(state.object_ids, dtype=np.int64),
        "label": np.array(state.labels, dtype=np.int64),
    }


def read_points(state: PointsState, layer: Points, stack: LayerStack) -> tuple[list[Point], list[str]]:
    """Return the clicks that are in a stack, and what is to be said of those that cannot be used."""
    image = stack.layer
    rows = state.data
    if len(rows) and not _same_place(layer, image):
        rows = np.array([image.world_to_data(layer.data_to_world(row))[-rows.shape[1] :] for row in rows])
    places, inside = stack.to_frame(rows)
    points: list[Point] = []
    problems: list[str] = []
    for place, here, object_id, label in zip(places, inside, state.object_ids, state.labels, strict=True):
        if not here:
            continue
        frame, y, x = place.tolist()
        try:
            if frame < 0:
                raise PromptError(f"A point is on frame {frame:.0f}, before the first.")
            point = Point(int(frame), y, x, object_id, bool(label))
            check_prompts([point], stack.shape)
        except PromptError as error:
            problems.append(str(error))
        else:
            points.append(point)
    return points, problems


def read_boxes(layer: Shapes, stack: LayerStack) -> tuple[list[Box], list[str]]:
    """Return the rectangles that are in a stack as boxes, and what is to be said of other shapes."""
    image = stack.layer
    boxes: list[Box] = []
    problems: list[str] = []
    ids = layer.features["object_id"].tolist() if "object_id" in layer.features else [1] * len(layer.data)
    for corners, kind, object_id in zip(layer.data, layer.shape_type, ids, strict=True):
        rows = np.asarray(corners, dtype=np.float64)
        if not _same_place(layer, image):
            rows = np.array([image.world_to_data(layer.data_to_world(row))[-rows.shape[1] :] for row in rows])
        places, inside = stack.to_frame(rows)
        if not inside.all():
            continue
        if kind != "rectangle":
            problems.append(f"A shape is a {kind}; only rectangles are boxes. Draw it as a rectangle.")
            continue
        (y0, x0), (y1, x1) = places[:, 1:].min(0).tolist(), places[:, 1:].max(0).tolist()
        if y1 - y0 < 1 or x1 - x0 < 1:  # one that is just being drawn
            continue
        try:
            known = 1 if object_id is None or object_id != object_id else int(object_id)
            box = Box(int(places[0, 0]), y0, x0, y1, x1, known)
            check_prompts([box], stack.shape)
        except (PromptError, ValueError) as error:
            problems.append(str(error))
        else:
            boxes.append(box)
    return boxes, problems


def _same_place(layer: Points | Shapes, image: Image) -> bool:
    """Whether positions in two layers' data mean the same place."""
    own, other = layer.affine.affine_matrix, image.affine.affine_matrix
    n = layer.ndim
    return bool(
        np.allclose(layer.scale, image.scale[-n:])
        and np.allclose(layer.translate, image.translate[-n:])
        and np.allclose(layer.rotate, image.rotate)
        and np.allclose(layer.shear, image.shear)
        and own.shape == other.shape
        and np.allclose(own, other)
    )


class ClickMode:
    """What the next click in a Points layer means: which object, and whether it belongs to it.

    Parameters
    ----------
    layer : napari.layers.Points
        The layer.
    meaning : callable
        Returns the object's number and whether clicks are positive at the moment.
    """

    def __init__(self, layer: Points, meaning: Callable[[], tuple[int, bool]]) -> None:
        self.layer = layer
        self._meaning = meaning
        layer.mouse_drag_callbacks.insert(0, self._on_press)
        self.apply()

    def close(self) -> None:
        """Leave the layer's mouse alone."""
        if self._on_press in self.layer.mouse_drag_callbacks:
            self.layer.mouse_drag_callbacks.remove(self._on_press)

    def apply(self, flipped: bool = False) -> None:
        """Let the next point be what the mode says, or of the other polarity."""
        object_id, positive = self._meaning()
        defaults = self.layer.feature_defaults
        defaults = {name: defaults[name].iloc[0] for name in defaults.columns}
        defaults |= {"object_id": object_id, "label": int(positive != flipped)}
        missing = [name for name in _COLUMNS if name not in self.layer.features]
        if missing:
            features = self.layer.features.copy()
            for name in missing:
                features[name] = np.ones(len(features), dtype=np.int64)
            self.layer.features = features
        self.layer.feature_defaults = defaults

    def _on_press(self, layer: Points, event: Any) -> None:
        """Choose the polarity by the button: right, middle or with Control is the other one."""
        if layer.mode == "add":
            other = event.button in (_RIGHT, _MIDDLE) or "Control" in event.modifiers
            self.apply(flipped=other)


def paint_points(layer: Points, state: PointsState, color_of: Callable[[int], Color]) -> None:
    """Give every point its object's colour and its polarity's symbol."""
    if not len(state.data):
        return
    layer.face_color = np.array([color_of(i) for i in state.object_ids])
    layer.symbol = [POSITIVE_SYMBOL if label else NEGATIVE_SYMBOL for label in state.labels]
