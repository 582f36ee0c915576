"""The layers that prompts are read from: clicks in a Points layer, boxes in a Shapes layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pandas import concat

from napari_surgsam2.errors import PromptError
from napari_surgsam2.prompts import Box, Point, check_prompts
from napari_surgsam2.prompts.kinds import whole_number
from napari_surgsam2.prompts.tables import polarity
from napari_surgsam2.video.layers import METADATA_KEY, spatial_shape

from .stacks import LayerStack, Plane
from .units import layer_to_layer, unit_factors

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Points, Shapes

POSITIVE_SYMBOL, NEGATIVE_SYMBOL = "disc", "x"
_RIGHT, _MIDDLE = 2, 3  # mouse buttons
_POINT_SIZE = 0.02  # of the picture's smaller side
_COLUMNS = ("object_id", "label")
Color = Sequence[float] | npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PointsState:
    """What a Points layer holds; `points_state` takes it and `restore_points` puts it back.

    Attributes
    ----------
    data : array, shape (N, D)
        Positions.
    object_ids : tuple of int
        Object of each point; 0 where its features cannot be understood.
    labels : tuple of int
        1 for positive, 0 for negative.
    features : DataFrame or None
        The whole table of features.
    problems : tuple of str
        What is to be said of points that cannot be used.
    """

    data: npt.NDArray[np.float64]
    object_ids: tuple[int, ...]
    labels: tuple[int, ...]
    features: Any = None
    problems: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PointsState):
            return NotImplemented
        same = (self.object_ids, self.labels) == (other.object_ids, other.labels)
        return same and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]

    @property
    def places(self) -> list[npt.NDArray[np.float64]]:
        """The position of each point, (1, D)."""
        return list(self.data[:, None])

    def chosen(self, rows: Sequence[int]) -> PointsState:
        """Return some of the points."""
        return PointsState(
            self.data[list(rows)],
            tuple(self.object_ids[n] for n in rows),
            tuple(self.labels[n] for n in rows),
            None if self.features is None else self.features.iloc[list(rows)].reset_index(drop=True),
        )

    def and_then(self, other: PointsState) -> PointsState:
        """Return these points, and then others."""
        if not (len(self.data) and len(other.data)):
            return other if len(other.data) else self
        return PointsState(
            np.concatenate([self.data, other.data]),
            self.object_ids + other.object_ids,
            self.labels + other.labels,
            _tables_joined(self.features, other.features),
        )

    def entries(self) -> list[tuple[object, ...]]:
        """Return an entry for each point, to compare by: its position, its object and its label."""
        rows = map(tuple, self.data.tolist())
        return list(zip(rows, self.object_ids, self.labels, strict=True))


@dataclass(frozen=True, eq=False)
class BoxesState:
    """What a Shapes layer holds; `boxes_state` takes it and `restore_boxes` puts it back.

    Attributes
    ----------
    data : tuple of array, each of shape (corners, D)
        Positions.
    kinds : tuple of str
        As napari calls them.
    object_ids : tuple of int
        Object of each shape; 0 where it is no number of one.
    features : DataFrame or None
        The whole table of features.
    problems : tuple of str
        What is to be said of shapes that cannot be used.
    """

    data: tuple[npt.NDArray[np.float64], ...] = ()
    kinds: tuple[str, ...] = ()
    object_ids: tuple[int, ...] = ()
    features: Any = None
    problems: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoxesState):
            return NotImplemented
        same = (self.kinds, self.object_ids) == (other.kinds, other.object_ids)
        return same and len(self.data) == len(other.data) and all(map(np.array_equal, self.data, other.data))

    __hash__ = None  # type: ignore[assignment]

    @property
    def places(self) -> list[npt.NDArray[np.float64]]:
        """The positions of the corners of each shape, (corners, D)."""
        return list(self.data)

    def chosen(self, rows: Sequence[int]) -> BoxesState:
        """Return some of the shapes."""
        return BoxesState(
            tuple(self.data[n] for n in rows),
            tuple(self.kinds[n] for n in rows),
            tuple(self.object_ids[n] for n in rows),
            None if self.features is None else self.features.iloc[list(rows)].reset_index(drop=True),
        )

    def and_then(self, other: BoxesState) -> BoxesState:
        """Return these shapes, and then others."""
        if not (self.data and other.data):
            return other if other.data else self
        return BoxesState(
            self.data + other.data,
            self.kinds + other.kinds,
            self.object_ids + other.object_ids,
            _tables_joined(self.features, other.features),
        )

    def entries(self) -> list[tuple[object, ...]]:
        """Return an entry for each shape, to compare by: its corners, its object and its kind."""
        corners = (tuple(map(tuple, data.tolist())) for data in self.data)
        return list(zip(corners, self.object_ids, self.kinds, strict=True))


def _tables_joined(one: Any, other: Any) -> Any:
    """Return two tables of features as one; None where there is not one for each."""
    if one is None or other is None:
        return None
    return concat([one, other], ignore_index=True)


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


def place_on(layer: Layer, image: Image) -> None:
    """Let a layer lie where an image lies."""
    for name, value in transforms(image).items():
        setattr(layer, name, value)


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
        metadata={METADATA_KEY: {"prompts": True, "image": str(image.unique_id)}},
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
        feature_defaults={"object_id": 1},
        face_color="transparent",
        edge_color="white",
        edge_width=max(1.0, 0.004 * min(shape[-2:])),
        metadata={METADATA_KEY: {"boxes": True, "image": str(image.unique_id)}},
        **transforms(image),
    )
    return layer


def points_state(layer: Points, instead: npt.NDArray[np.float64] | None = None) -> PointsState:
    """Return what a Points layer holds; points without features are positive and of object 1.

    Parameters
    ----------
    layer : napari.layers.Points
        The layer.
    instead : array, shape (N, D), optional
        What to take for its positions.
    """
    data = np.array(layer.data if instead is None else instead, dtype=np.float64)
    object_ids: list[int] = []
    labels: list[int] = []
    problems: list[str] = []
    for row, object_id, label in zip(data.tolist(), *_columns(layer, _COLUMNS), strict=True):
        try:
            if not np.isfinite(row).all():
                raise PromptError(f"A point is at {tuple(row)}; coordinates must be finite numbers.")
            known = whole_number("The object id of a point", object_id, 1), int(polarity(label))
        except PromptError as error:
            problems.append(str(error))
            known = 0, 1
        object_ids.append(known[0])
        labels.append(known[1])
    return PointsState(data, tuple(object_ids), tuple(labels), layer.features.copy(), tuple(problems))


def boxes_state(layer: Shapes, count: int | None = None) -> BoxesState:
    """Return what a Shapes layer holds; shapes without features are of object 1.

    Parameters
    ----------
    layer : napari.layers.Shapes
        The layer.
    count : int, optional
        How many shapes to look at; all if left out.
    """
    ids: list[int] = []
    problems: list[str] = []
    for object_id in _columns(layer, _COLUMNS[:1])[0][:count]:
        try:
            ids.append(whole_number("The object id of a box", object_id, 1))
        except PromptError as error:
            problems.append(str(error))
            ids.append(0)
    return BoxesState(
        tuple(np.array(corners, dtype=np.float64) for corners in layer.data[:count]),
        tuple(map(str, layer.shape_type[:count])),
        tuple(ids),
        layer.features.iloc[:count].copy(),
        tuple(problems),
    )


def _columns(layer: Points | Shapes, names: Sequence[str]) -> list[list[Any]]:
    """Return features, an entry for each point or shape; those that are missing are 1."""
    columns: list[list[Any]] = []
    for name in names:
        if name in layer.features and len(layer.features) == len(layer.data):
            column = layer.features[name]
            columns.append([1 if missing else v for v, missing in zip(column, column.isna(), strict=True)])
        else:
            columns.append([1] * len(layer.data))
    return columns


def restore_points(layer: Points, state: PointsState) -> None:
    """Make a Points layer hold what it held."""
    layer.selected_data = set()
    layer.data = state.data
    if state.features is not None:
        layer.features = state.features.copy()
        return
    layer.features = {
        "object_id": np.array(state.object_ids, dtype=np.int64),
        "label": np.array(state.labels, dtype=np.int64),
    }


def restore_boxes(layer: Shapes, state: BoxesState) -> None:
    """Make a Shapes layer hold what it held."""
    layer.selected_data = set(range(len(layer.data)))
    layer.remove_selected()
    if state.data:
        layer.add(list(state.data), shape_type=list(state.kinds))
    if state.features is None:
        layer.features = {"object_id": np.array(state.object_ids, dtype=np.int64)}
    else:
        layer.features = state.features.copy()


def append_points(layer: Points, rows: npt.NDArray[np.float64], points: Sequence[Point]) -> None:
    """Add clicks at positions in a layer, (N, D), to those it has; other features get their defaults."""
    layer.selected_data = set()
    ids, labels = _columns(layer, _COLUMNS)
    layer.data = np.concatenate([np.asarray(layer.data).reshape(-1, rows.shape[1]), rows])
    features = layer.features.copy()
    features["object_id"] = [*ids, *(p.object_id for p in points)]
    features["label"] = [*labels, *(int(p.positive) for p in points)]
    layer.features = features


def places_of(
    layer: Points | Shapes, rows: npt.NDArray[np.float64], stack: LayerStack
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Take positions in a layer, (N, D), to (frame, y, x), (N, 3), and whether they are in a stack."""
    table, finite = _in_image(layer, rows, stack.layer)
    places, inside = stack.to_frame(table)
    return places, inside & finite


def planes_of(layer: Points | Shapes, rows: npt.NDArray[np.float64], stack: LayerStack) -> list[Plane | None]:
    """Return the plane of the image that each position in a layer, (N, D), is in; None where in none."""
    table, finite = _in_image(layer, rows, stack.layer)
    return [stack.plane_of(row) if ok else None for row, ok in zip(table, finite, strict=True)]


def _in_image(
    layer: Points | Shapes, rows: npt.NDArray[np.float64], image: Image
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Take positions in a layer, (N, D), to those in an image, zeros where they are not finite, (N,)."""
    finite = np.array([np.isfinite(row).all() for row in rows], dtype=bool)
    table = np.where(finite[:, None], rows, 0.0)
    if len(table) and not _same_place(layer, image):
        table = np.array([layer_to_layer(row, layer, image) for row in table])
    return table, finite


def rows_for(layer: Points | Shapes, places: npt.ArrayLike, stack: LayerStack) -> npt.NDArray[np.float64]:
    """Take (frame, y, x), (N, 3), to positions in a layer, (N, D)."""
    rows, image = stack.to_layer(places), stack.layer
    if len(rows) and not _same_place(layer, image):
        rows = np.array([layer_to_layer(row, image, layer) for row in rows])
    return rows


def read_points(state: PointsState, layer: Points, stack: LayerStack) -> tuple[list[Point], list[str]]:
    """Return the clicks that are in a stack, and what is to be said of those that cannot be used."""
    places, inside = places_of(layer, state.data, stack)
    points: list[Point] = []
    problems = list(state.problems)
    for place, here, object_id, label in zip(places, inside, state.object_ids, state.labels, strict=True):
        if not here or not object_id:
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


def read_boxes(state: BoxesState, layer: Shapes, stack: LayerStack) -> tuple[list[Box], list[str]]:
    """Return the rectangles that are in a stack as boxes, and what is to be said of other shapes."""
    boxes: list[Box] = []
    problems = list(state.problems)
    for corners, kind, object_id in zip(state.data, state.kinds, state.object_ids, strict=True):
        places, inside = places_of(layer, corners, stack)
        if not inside.any() or not object_id:
            continue
        try:
            box = _box(places, kind, object_id, bool(inside.all()))
            if box is not None:
                check_prompts([box], stack.shape)
                boxes.append(box)
        except PromptError as error:
            problems.append(str(error))
    return boxes, problems


def _box(places: npt.NDArray[np.float64], kind: str, object_id: int, whole: bool) -> Box | None:
    """Return the upright box around a shape; None of one that is just being drawn."""
    if kind != "rectangle":
        raise PromptError(f"There is a shape of kind '{kind}'; only rectangles are boxes. Draw a rectangle.")
    frame, last = int(places[:, 0].min()), int(places[:, 0].max())
    if frame != last or not whole:
        reach = f"from frame {frame} to {last}" if frame != last else "through several planes"
        raise PromptError(f"A rectangle reaches {reach}; draw it anew on one picture.")
    (y0, x0), (y1, x1) = places[:, 1:].min(0).tolist(), places[:, 1:].max(0).tolist()
    if y1 - y0 < 1 or x1 - x0 < 1:
        return None
    if frame < 0:
        raise PromptError(f"A box is on frame {frame}, before the first.")
    return Box(frame, y0, x0, y1, x1, object_id)


def _same_place(layer: Points | Shapes, image: Image) -> bool:
    """Whether positions in two layers' data mean the same place."""
    own, other = layer.affine.affine_matrix, image.affine.affine_matrix
    n = layer.ndim
    return bool(
        np.allclose(unit_factors(layer.units, image.units), 1.0)
        and np.allclose(layer.scale, image.scale[-n:])
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
        wanted = {"object_id": object_id, "label": int(positive != flipped)}
        _set_defaults(self.layer, wanted)

    def _on_press(self, layer: Points, event: Any) -> Iterator[None]:
        """Choose the polarity by the button: right, middle or with Control is the other one.

        napari adds the point on release; what ends meanwhile may have chosen for the next one.
        """
        if layer.mode == "add":
            other = event.button in (_RIGHT, _MIDDLE) or "Control" in event.modifiers
            self.apply(flipped=other)
            yield
            while event.type == "mouse_move":
                yield
            self.apply(flipped=other)


def let_next_box_be_of(layer: Shapes, object_id: int) -> None:
    """Let the next rectangle in a Shapes layer be of an object."""
    _set_defaults(layer, {"object_id": object_id})


def _set_defaults(layer: Points | Shapes, wanted: dict[str, int]) -> None:
    """Set features of what comes next, making room: missing columns, or a type that holds the numbers."""
    features = layer.features
    made: dict[str, Any] = {}
    for name, value in wanted.items():
        if name not in features:
            made[name] = np.ones(len(features), dtype=np.int64)
        elif (dtype := features[name].dtype).name == "category":
            made[name] = features[name].astype(object)
        elif isinstance(dtype, np.dtype) and dtype.kind in "iu" and value > np.iinfo(dtype).max:
            made[name] = features[name].astype(np.int64)
    if made:
        layer.features = features.assign(**made)
    defaults = layer.feature_defaults
    layer.feature_defaults = {name: defaults[name].iloc[0] for name in defaults.columns} | wanted


def paint_points(layer: Points, state: PointsState, color_of: Callable[[int], Color]) -> None:
    """Give every point its object's colour and its polarity's symbol, if they are as in a state."""
    if not len(state.data) or len(state.data) != len(layer.data):
        return
    layer.face_color = np.array([color_of(i) for i in state.object_ids])
    layer.symbol = [POSITIVE_SYMBOL if label else NEGATIVE_SYMBOL for label in state.labels]
