"""Which layers of a viewer could be a video, its prompts or its masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_surgsam2.video.layers import METADATA_KEY, spatial_shape

from .canvas import is_writable
from .leftovers import left_layers

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points, Shapes


def has_picture(layer: Layer) -> bool:
    """Whether a layer is an image that could be a video."""
    return type(layer).__name__ == "Image" and len(spatial_shape(layer)) >= 2


def images(viewer: ViewerModel) -> list[Image]:
    """Return the layers that could be a video."""
    return [layer for layer in viewer.layers if has_picture(layer)]


def points_for(viewer: ViewerModel, image: Image) -> list[Points]:
    """Return the Points layers that could hold clicks on an image."""
    ndim = len(spatial_shape(image))
    return [p for p in viewer.layers if type(p).__name__ == "Points" and p.ndim == ndim]


def shapes_for(viewer: ViewerModel, image: Image) -> list[Shapes]:
    """Return the Shapes layers that could hold boxes on an image."""
    ndim = len(spatial_shape(image))
    return [p for p in viewer.layers if type(p).__name__ == "Shapes" and p.ndim == ndim]


def labels_for(viewer: ViewerModel, image: Image) -> list[Labels]:
    """Return the Labels layers that could hold masks of an image."""
    shape = spatial_shape(image)
    return [p for p in viewer.layers if type(p).__name__ == "Labels" and labels_shape(p) == shape]


def labels_shape(layer: Labels) -> tuple[int, ...]:
    """Return the shape of labels; of multiscale ones, which cannot be drawn into, none."""
    return () if layer.multiscale else tuple(int(n) for n in layer.data.shape)


def earlier_points(viewer: ViewerModel, image: Image) -> Points | None:
    """Return the clicks that an earlier session on an image used, or that came with it; None if unclear."""
    fitting = points_for(viewer, image)
    if (last := left_layers(image)[0]) in fitting:
        return last
    others = [p for p in fitting if "object_id" in p.features and not _about(p).get("image")]
    own = _own(fitting, image, "prompts")
    return (others[0] if len(others) == 1 else None) if own is None else own


def earlier_boxes(viewer: ViewerModel, image: Image) -> Shapes | None:
    """Return the boxes that an earlier session on an image used."""
    fitting, last = shapes_for(viewer, image), left_layers(image)[1]
    return last if last in fitting else _own(fitting, image, "boxes")


def earlier_labels(viewer: ViewerModel, image: Image) -> Labels | None:
    """Return the masks that an earlier session on an image drew, if they can still be drawn into."""
    writable = [layer for layer in labels_for(viewer, image) if is_writable(layer.data)]
    last = left_layers(image)[2]
    return last if last in writable else _own(writable, image, "masks")


def _own(layers: list[Any], image: Image, kind: str) -> Any:
    """Return the one of our layers of a kind that was made for an image."""
    for layer in layers:
        about = _about(layer)
        if about.get(kind) and about.get("image") == str(image.unique_id):
            return layer
    return None


def _about(layer: Any) -> Mapping[str, Any]:
    about = layer.metadata.get(METADATA_KEY)
    return about if isinstance(about, Mapping) else {}
