"""What a session leaves behind for the next one on the same video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

from napari_surgsam2.video.layers import spatial_shape

from .drawing import Drawing
from .objects import Objects
from .prompts import GivenMask, Key, PromptLayers
from .records import Records
from .stacks import LayerStack, Plane

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer, Points, Shapes

# By image, the axis that was chosen to be followed, and the shape that the image had then.
_layers: WeakKeyDictionary[Image, tuple[ReferenceType[Layer] | None, ...]] = WeakKeyDictionary()
_frame_axes: WeakKeyDictionary[Image, tuple[int, tuple[int, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Left:
    """What a session leaves behind besides layers, with its labels.

    Attributes
    ----------
    names : dict of int to str
        By object id; they belong to all of the image.
    records : dict of Plane to Records
        What is known of each plane of the image.
    edited : dict of Plane to set of Key
        Where each was painted.
    masks : dict of Plane to dict
        The masks given in each.
    """

    names: dict[int, str]
    records: dict[Plane, Records]
    edited: dict[Plane, set[Key]]
    masks: dict[Plane, dict[Key, GivenMask]]


# By labels, and by the image that was segmented into them.
_left: WeakKeyDictionary[Labels, WeakKeyDictionary[Image, Left]] = WeakKeyDictionary()


def leave(labels: Labels, objects: Objects, drawing: Drawing, prompts: PromptLayers) -> None:
    """Leave what is known of labels with them."""
    _left.setdefault(labels, WeakKeyDictionary())[prompts.stack.layer] = Left(
        dict(objects.names),
        drawing.records_by_plane,
        drawing.edited_by_plane,
        prompts.masks_by_plane,
    )


def take_up(
    labels: Labels,
    stack: LayerStack,
    objects: Objects,
    drawing: Drawing,
    prompts: PromptLayers | None = None,
) -> None:
    """Go on with what was left with labels, once; of a video of another length only the names count.

    Names, and given masks into the prompts, come back where a session begins; without `prompts`, those that
    there are stay.
    """
    left = _left[labels].pop(stack.layer, None) if labels in _left else None
    if left is None:
        return
    if prompts is not None:
        objects.names.update(left.names)
    shape = stack.layer_shape
    lengths = {plane: 1 if plane[0] is None else shape[plane[0]] for plane in left.records}
    if all(records.n_frames == lengths[plane] for plane, records in left.records.items()):
        if prompts is not None:
            prompts.masks_by_plane = left.masks
        drawing.take_up(left.records, left.edited)
        for records in left.records.values():
            objects.add(i for i in records.object_ids if records[i].present.any())


def leave_layers(image: Image, points: Points | None, boxes: Shapes | None, labels: Labels | None) -> None:
    """Leave the layers that were in use, of those that there may be for an image."""
    _layers[image] = tuple(None if layer is None else ref(layer) for layer in (points, boxes, labels))


def left_layers(image: Image) -> tuple[Layer | None, ...]:
    """Return the points, boxes and labels that were in use last for an image; None of what is gone."""
    return tuple(None if layer is None else layer() for layer in _layers.get(image, (None, None, None)))


def leave_frame_axis(image: Image, frame_axis: int) -> None:
    """Leave the axis of an image that somebody chose to follow, rather than the likeliest."""
    _frame_axes[image] = frame_axis, spatial_shape(image)


def left_frame_axis(image: Image) -> int | None:
    """Return the axis of an image that was chosen before; None if none was, or its shape is another now."""
    frame_axis, shape = _frame_axes.get(image, (None, ()))
    return frame_axis if shape == spatial_shape(image) else None
