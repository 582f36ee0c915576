"""All that the user has said of the objects: clicks, boxes and given masks, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.prompts import Box, Mask, Point, Prompt

from .prompt_layers import (
    PointsState,
    make_boxes,
    make_points,
    points_state,
    read_boxes,
    read_points,
    restore_points,
)
from .stacks import LayerStack

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Points, Shapes

Key = tuple[int, int]  # frame and object id
NO_POINTS = PointsState(np.empty((0, 0)), (), ())


@dataclass(frozen=True, eq=False)
class BoxesState:
    """What a Shapes layer holds."""

    data: tuple[npt.NDArray[np.float64], ...] = ()
    kinds: tuple[str, ...] = ()
    object_ids: tuple[int, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoxesState):
            return NotImplemented
        same = (self.kinds, self.object_ids) == (other.kinds, other.object_ids)
        return same and all(map(np.array_equal, self.data, other.data))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class GivenMask:
    """A mask that the user painted and gave as a prompt.

    Attributes
    ----------
    mask : Mask
        The mask.
    settled : tuple of Prompt
        The clicks and boxes that were there before, which the mask stands in place of.
    """

    mask: Mask
    settled: tuple[Prompt, ...] = ()


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
    """The layers of a session that prompts are in, and the masks that were given.

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
        self._viewer = viewer
        self._on_change = on_change

    def use_points(self, layer: Points | None = None) -> Points:
        """Read clicks from a layer, or from a new one."""
        self.drop_points()
        self.points = make_points(self._viewer, self.stack.layer) if layer is None else layer
        self.points.events.data.connect(self._changed)
        self.points.events.features.connect(self._changed)
        return self.points

    def use_boxes(self, layer: Shapes | None = None) -> Shapes:
        """Read boxes from a layer, or from a new one."""
        self.drop_boxes()
        self.boxes = make_boxes(self._viewer, self.stack.layer) if layer is None else layer
        self.boxes.events.data.connect(self._changed)
        self.boxes.events.features.connect(self._changed)
        return self.boxes

    def drop_points(self) -> None:
        """Read clicks from no layer any more."""
        if self.points is not None:
            self.points.events.data.disconnect(self._changed)
            self.points.events.features.disconnect(self._changed)
            self.points = None

    def drop_boxes(self) -> None:
        """Read boxes from no layer any more."""
        if self.boxes is not None:
            self.boxes.events.data.disconnect(self._changed)
            self.boxes.events.features.disconnect(self._changed)
            self.boxes = None

    def _changed(self, _: Any = None) -> None:
        self._on_change()

    def state(self) -> PromptState:
        """Return everything that was said.

        Raises
        ------
        PromptError
            If a feature cannot be understood.
        """
        points = NO_POINTS if self.points is None else points_state(self.points)
        return PromptState(points, self._boxes_state(), dict(self.masks))

    def _boxes_state(self) -> BoxesState:
        if self.boxes is None:
            return BoxesState()
        ids = self.boxes.features["object_id"].tolist() if "object_id" in self.boxes.features else []
        ids = ids or [1] * len(self.boxes.data)
        return BoxesState(
            tuple(np.array(corners, dtype=np.float64) for corners in self.boxes.data),
            tuple(map(str, self.boxes.shape_type)),
            tuple(1 if i is None or i != i else int(i) for i in ids),
        )

    def restore(self, state: PromptState) -> None:
        """Take the layers back to what they held."""
        self.masks = dict(state.masks)
        if self.points is not None and (state.points is not NO_POINTS or len(self.points.data)):
            held = state.points
            if held is NO_POINTS:
                held = PointsState(np.empty((0, self.points.ndim)), (), ())
            restore_points(self.points, held)
        if self.boxes is not None and state.boxes != self._boxes_state():
            self.boxes.selected_data = set(range(len(self.boxes.data)))
            self.boxes.remove_selected()
            if state.boxes.data:
                self.boxes.add(list(state.boxes.data), shape_type=list(state.boxes.kinds))
            self.boxes.features = {"object_id": np.array(state.boxes.object_ids, dtype=np.int64)}

    def read(self, state: PromptState) -> dict[Key, tuple[Prompt, ...]]:
        """Return the prompts in the stack by frame and object, in the order in which they count."""
        self.problems = []
        found: dict[Key, list[Prompt]] = {}
        if self.boxes is not None:
            boxes, problems = read_boxes(self.boxes, self.stack)
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
        layer = self.points or self.use_points()
        old = points_state(layer)
        rows = self.stack.to_layer([(p.frame, p.y, p.x) for p in points])
        restore_points(
            layer,
            PointsState(
                np.concatenate([old.data.reshape(-1, rows.shape[1]), rows]),
                old.object_ids + tuple(p.object_id for p in points),
                old.labels + tuple(int(p.positive) for p in points),
            ),
        )

    def _add_boxes(self, boxes: Sequence[Box]) -> None:
        layer = self.boxes or self.use_boxes()
        ids = list(self._boxes_state().object_ids)
        for b in boxes:
            corners = [(b.frame, y, x) for y, x in ((b.y0, b.x0), (b.y0, b.x1), (b.y1, b.x1), (b.y1, b.x0))]
            layer.add(self.stack.to_layer(corners), shape_type="rectangle")
        layer.features = {"object_id": np.array(ids + [b.object_id for b in boxes], dtype=np.int64)}


def _sort_in(found: dict[Key, list[Prompt]], prompts: Sequence[Prompt]) -> None:
    for p in prompts:
        found.setdefault((p.frame, p.object_id), []).append(p)
