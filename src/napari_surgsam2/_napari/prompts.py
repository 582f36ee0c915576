"""All that the user has said of the objects: clicks, boxes and given masks, as one value."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QTimer

from napari_surgsam2.errors import UsageError
from napari_surgsam2.prompts import Box, Mask, Point, Prompt

from .prompt_layers import (
    BoxesState,
    ClickMode,
    PointsState,
    append_points,
    boxes_state,
    let_next_box_be_of,
    make_boxes,
    make_points,
    places_of,
    planes_of,
    points_state,
    read_boxes,
    read_points,
    restore_boxes,
    restore_points,
    rows_for,
)
from .stacks import LayerStack, Plane

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Points, Shapes

Key = tuple[int, int]  # frame and object id
NO_POINTS = PointsState(np.empty((0, 0)), (), ())
_S = TypeVar("_S", PointsState, BoxesState)
_LOOK_EVERY = 300  # milliseconds; edits in napari's table of features are told by no event


@dataclass(frozen=True)
class GivenMask:
    """A mask that is a prompt: one that was painted, or that is seen but not known to the tracker.

    Attributes
    ----------
    mask : Mask
        The mask.
    settled : tuple of Prompt
        The clicks and boxes that were there before, which the mask stands in place of.
    painted : bool
        Whether it had been painted by hand when it was given.
    """

    mask: Mask
    settled: tuple[Prompt, ...] = ()
    painted: bool = False


@dataclass(frozen=True)
class PromptState:
    """Everything that was said.

    Attributes
    ----------
    points, boxes : PointsState, BoxesState
        What the layers hold.
    masks : dict
        Given masks, by frame and object id.
    """

    points: PointsState = field(default_factory=lambda: NO_POINTS)
    boxes: BoxesState = field(default_factory=BoxesState)
    masks: Mapping[Key, GivenMask] = field(default_factory=dict)


class PromptLayers:
    """The layers of a session that prompts are in, the masks that were given, and what the next click means.

    Parameters
    ----------
    viewer : ViewerModel
        Where the layers are, or will be added.
    stack : LayerStack
        The video.
    on_change : callable
        Called whenever a layer says that something in it changed.
    """

    def __init__(self, viewer: ViewerModel, stack: LayerStack, on_change: Callable[[], None]) -> None:
        self.stack = stack
        self.points: Points | None = None
        self.boxes: Shapes | None = None
        self.masks: dict[Key, GivenMask] = {}
        self.problems: list[str] = []  # what is to be said of the last that was read
        self._next = 1, True  # the object, and whether the click belongs to it
        self._clicks: ClickMode | None = None  # while there are points
        self._viewer = viewer
        self._on_change = on_change
        self._elsewhere: dict[Plane, dict[Key, GivenMask]] = {}  # masks given in other planes
        self._before_drag: npt.NDArray[np.float64] | None = None
        self._boxes_before_drag: BoxesState | None = None
        self._drawing = False
        self._seen: Any = None
        self._look = QTimer()
        self._look.setInterval(_LOOK_EVERY)
        self._look.timeout.connect(self._look_at_features)

    def change_stack(self, stack: LayerStack) -> None:
        """Go to another plane, or another frame axis; masks that were given there come back."""
        self._elsewhere[self.stack.plane] = self.masks
        self.stack = stack
        self.masks = self._elsewhere.pop(stack.plane, {})

    @property
    def masks_by_plane(self) -> dict[Plane, dict[Key, GivenMask]]:
        """The masks that were given, in every plane."""
        return {**self._elsewhere, self.stack.plane: dict(self.masks)}

    @masks_by_plane.setter
    def masks_by_plane(self, masks: Mapping[Plane, dict[Key, GivenMask]]) -> None:
        self._elsewhere = dict(masks)
        self.masks = self._elsewhere.pop(self.stack.plane, {})

    def use_points(self, layer: Points | None = None) -> Points:
        """Read clicks from a layer, or from a new one.

        Raises
        ------
        UsageError
            If the layer has other axes than the image.
        """
        axes = len(self.stack.layer_shape)
        if layer is not None and layer.ndim != axes:
            raise UsageError(
                f"The points '{layer.name}' have {layer.ndim} axes; they must have {axes}, as "
                f"'{self.stack.layer.name}'."
            )
        self.drop_points()
        self.points = make_points(self._viewer, self.stack.layer) if layer is None else layer
        self._look_if_needed()
        self.points.events.data.connect(self._on_points)
        self.points.events.features.connect(self._changed)
        self._clicks = ClickMode(self.points, lambda: self._next)
        return self.points

    def use_boxes(self, layer: Shapes | None = None) -> Shapes:
        """Read boxes from a layer, or from a new one."""
        self.drop_boxes()
        self.boxes = make_boxes(self._viewer, self.stack.layer) if layer is None else layer
        self._look_if_needed()
        self.boxes.events.data.connect(self._on_boxes)
        self.boxes.events.features.connect(self._changed)
        self.remind()
        return self.boxes

    def drop_points(self) -> None:
        """Read clicks from no layer any more."""
        if self.points is not None:
            self.points.events.data.disconnect(self._on_points)
            self.points.events.features.disconnect(self._changed)
            if self._clicks is not None:
                self._clicks.close()
            self.points = self._clicks = None
            self._before_drag = None
            self._look_if_needed()

    def drop_boxes(self) -> None:
        """Read boxes from no layer any more."""
        if self.boxes is not None:
            self.boxes.events.data.disconnect(self._on_boxes)
            self.boxes.events.features.disconnect(self._changed)
            self.boxes = self._boxes_before_drag = None
            self._drawing = False
            self._look_if_needed()

    def set_next(self, object_id: int, positive: bool) -> None:
        """Say what the next click or box in the layers is: of which object, and whether it belongs to it."""
        self._next = object_id, positive
        self.remind()

    def remind(self) -> None:
        """Say it again to the layers: napari takes what is selected for what comes next."""
        if self._clicks is not None:
            self._clicks.apply()
        if self.boxes is not None:
            let_next_box_be_of(self.boxes, self._next[0])

    def flip_selected(self) -> None:
        """Turn the selected points from positive to negative, and the other way."""
        layer = self.points
        if layer is None or not layer.selected_data:
            return
        state = self.state().points
        rows = list(layer.selected_data)
        features = layer.features.copy()
        labels = list(features["label"]) if "label" in features else [1] * len(state.labels)
        features["label"] = [1 - state.labels[n] if n in rows else label for n, label in enumerate(labels)]
        layer.features = features
        self._on_change()

    def _on_points(self, event: Any) -> None:
        # While points are dragged, what they were before counts, although napari tells of every move.
        moving = getattr(event, "action", None) == "changing"
        self._before_drag = np.array(event.value, dtype=np.float64) if moving else None
        self._changed()

    def _on_boxes(self, event: Any) -> None:
        action = getattr(event, "action", None)
        self._drawing = action == "adding"
        # Before boxes are dragged napari tells once, and then of nothing until they are where they go.
        self._boxes_before_drag = self._boxes_state() if action == "changing" else None
        if action != "changing":
            self._changed()

    def _changed(self, _: Any = None) -> None:
        if not self._is_under_way:
            self._on_change()

    @property
    def _is_under_way(self) -> bool:
        return self._before_drag is not None or self._is_dragging_boxes or self._is_drawing

    @property
    def _is_dragging_boxes(self) -> bool:
        return self._boxes_before_drag is not None and getattr(self.boxes, "_is_moving", False)

    @property
    def _is_drawing(self) -> bool:
        """Whether the last shape is being drawn, which is no box yet."""
        return self._drawing and getattr(self.boxes, "_is_creating", False)

    def _look_if_needed(self) -> None:
        if self.points is None and self.boxes is None:
            self._look.stop()
        else:
            self._look.start()

    def _look_at_features(self) -> None:
        if self._seen is not None and not _same_tables(self._seen, self._tables()):
            self._changed()

    def _tables(self) -> list[Any]:
        layers = (self.points, self.boxes)
        return [None if layer is None else layer.features.copy() for layer in layers]

    def state(self) -> PromptState:
        """Return everything that was said."""
        self._seen = self._tables()
        points = NO_POINTS if self.points is None else points_state(self.points, self._before_drag)
        return PromptState(points, self._boxes_state(), dict(self.masks))

    def _boxes_state(self) -> BoxesState:
        if self.boxes is None:
            return BoxesState()
        if self._boxes_before_drag is not None and self._is_dragging_boxes:
            return self._boxes_before_drag
        return boxes_state(self.boxes, len(self.boxes.data) - self._is_drawing)

    def within(self, state: PromptState, stack: LayerStack) -> PromptState:
        """Return those of the clicks and boxes that are in a stack."""
        return PromptState(self._chosen(state.points, stack, True), self._chosen(state.boxes, stack, True))

    def with_these_elsewhere(self, before: PromptState, now: PromptState) -> PromptState:
        """Return what was said in the stack `before`, and in other planes is `now`."""
        points = self._with_other_planes(before.points, now.points)
        return PromptState(points, self._with_other_planes(before.boxes, now.boxes), dict(self.masks))

    def elsewhere(self, before: PromptState, after: PromptState) -> set[Plane]:
        """Return the other planes of the image where what is said has changed."""
        found: set[Plane | None] = set()
        if self.stack.has_other_planes:
            found |= self._planes_where_different(before.points, after.points)
            found |= self._planes_where_different(before.boxes, after.boxes)
        return {plane for plane in found if plane not in (None, self.stack.plane)}

    def restore(self, state: PromptState) -> None:
        """Take the layers back to what they held in the stack; what is in other planes stays."""
        self.masks = dict(state.masks)
        if self.points is not None and (state.points is not NO_POINTS or len(self.points.data)):
            self._restore_points(self.points, state.points)
        if self.boxes is not None:
            now = self._boxes_state()
            if not self._says_the_same_here(now, state.boxes):
                restore_boxes(self.boxes, self._with_other_planes(state.boxes, now))

    def _restore_points(self, layer: Points, state: PointsState) -> None:
        now = points_state(layer)
        if self.stack.has_other_planes and self._says_the_same_here(now, state):
            return
        held = self._with_other_planes(state, now)
        restore_points(layer, PointsState(np.empty((0, layer.ndim)), (), ()) if held is NO_POINTS else held)

    def _says_the_same_here(self, one: _S, other: _S) -> bool:
        """Whether two states are the same in the stack."""
        return bool(self._chosen(one, self.stack, True) == self._chosen(other, self.stack, True))

    def _with_other_planes(self, state: _S, now: _S) -> _S:
        """Return what was in the stack, after what is in other planes now."""
        if not self.stack.has_other_planes:
            return state
        return self._chosen(now, self.stack, False).and_then(self._chosen(state, self.stack, True))

    def _chosen(self, state: _S, stack: LayerStack, inside: bool) -> _S:
        """Return what is inside of a stack, with any of its corners, or what is not."""
        planes = self._planes(state, stack)
        return state.chosen([n for n, there in enumerate(planes) if (stack.plane in there) == inside])

    def _planes_where_different(self, one: _S, other: _S) -> set[Plane | None]:
        """Return the planes of what is in one state and not in another."""
        found: set[Plane | None] = set()
        for these, those in ((one, other), (other, one)):
            left = Counter(those.entries())
            left.subtract(Counter(these.entries()))
            only = {entry for entry, count in left.items() if count < 0}
            rows = [n for n, entry in enumerate(these.entries()) if entry in only]
            found = found.union(*self._planes(these.chosen(rows), self.stack))
        return found

    def _planes(self, state: PointsState | BoxesState, stack: LayerStack) -> list[set[Plane | None]]:
        """Return the planes that each of the points, or the corners of each of the boxes, are in."""
        layer = self.points if isinstance(state, PointsState) else self.boxes
        places = state.places
        if layer is None or not places:
            return [set() for _ in places]
        planes = iter(planes_of(layer, np.concatenate(places), stack))
        return [set(itertools.islice(planes, len(rows))) for rows in places]

    def read(self, state: PromptState) -> dict[Key, tuple[Prompt, ...]]:
        """Return the prompts in the stack by frame and object, in the order in which they count."""
        self.problems = []
        found: dict[Key, list[Prompt]] = {}
        if self.boxes is not None:
            boxes, problems = read_boxes(state.boxes, self.boxes, self.stack)
            self.problems += problems
            _sort_in(found, boxes)
        if self.points is not None:
            points, problems = read_points(state.points, self.points, self.stack)
            self.problems += problems
            _sort_in(found, points)
        for key, given in state.masks.items():
            later = [p for p in found.get(key, ()) if p not in given.settled]
            found[key] = [given.mask, *later]
        return {key: tuple(prompts) for key, prompts in found.items()}

    def drop(self, chosen: Callable[[int, int], bool]) -> None:
        """Take points, boxes and masks of chosen (frame, object) out; those of other planes stay."""
        state = self.state()
        if self.points is not None and len(state.points.data):
            places, inside = places_of(self.points, state.points.data, self.stack)
            rows = zip(places[:, 0].tolist(), inside, state.points.object_ids, strict=True)
            self.points.selected_data = {
                n for n, (f, here, i) in enumerate(rows) if here and chosen(int(f), i)
            }
            self.points.remove_selected()
        if self.boxes is not None and state.boxes.data:
            found = [places_of(self.boxes, corners, self.stack) for corners in state.boxes.data]
            at = [(int(places[0, 0]), inside.all()) for places, inside in found]
            both = zip(at, state.boxes.object_ids, strict=True)
            self.boxes.selected_data = {n for n, ((f, here), i) in enumerate(both) if here and chosen(f, i)}
            self.boxes.remove_selected()
        self.masks = {k: m for k, m in self.masks.items() if not chosen(*k)}

    def add(self, prompts: Sequence[Prompt]) -> None:
        """Put prompts into the layers, which are made where they are missing."""
        points = [p for p in prompts if isinstance(p, Point)]
        boxes = [p for p in prompts if isinstance(p, Box)]
        if points:
            self._add_points(points)
        if boxes:
            self._add_boxes(boxes)
        for p in prompts:
            if isinstance(p, Mask):
                self.masks[p.frame, p.object_id] = GivenMask(p)
        if len(points) + len(boxes) < len(prompts):
            self._on_change()

    def _add_points(self, points: Sequence[Point]) -> None:
        layer = self.use_points() if self.points is None else self.points
        append_points(layer, rows_for(layer, [(p.frame, p.y, p.x) for p in points], self.stack), points)

    def _add_boxes(self, boxes: Sequence[Box]) -> None:
        layer = self.use_boxes() if self.boxes is None else self.boxes
        features = layer.features
        ids = features["object_id"].tolist() if "object_id" in features else [1] * len(layer.data)
        rectangles = [
            [(b.frame, y, x) for y, x in ((b.y0, b.x0), (b.y0, b.x1), (b.y1, b.x1), (b.y1, b.x0))]
            for b in boxes
        ]
        rows = [rows_for(layer, corners, self.stack) for corners in rectangles]
        layer.add(rows, shape_type="rectangle")  # one by one takes far longer
        layer.features = layer.features.assign(object_id=[*ids, *(b.object_id for b in boxes)])


def said_of_change(
    differ: Sequence[Key], wanted: Mapping[Key, tuple[Prompt, ...]], known: Mapping[Key, tuple[Prompt, ...]]
) -> str:
    """Say what a change of prompts was that made some places differ."""
    more = sum(len(wanted.get(k, ())) - len(known.get(k, ())) for k in differ)
    what = "adding" if more > 0 else "removing" if more < 0 else "changing"
    frame, object_id = differ[0]
    where = f"object {object_id} on frame {frame}" if len(differ) == 1 else f"{len(differ)} places"
    return f"{what} prompts of {where}"


def _same_tables(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(
        b is None if a is None else b is not None and a.equals(b) for a, b in zip(one, other, strict=True)
    )


def _sort_in(found: dict[Key, list[Prompt]], prompts: Sequence[Prompt]) -> None:
    for p in prompts:
        found.setdefault((p.frame, p.object_id), []).append(p)
