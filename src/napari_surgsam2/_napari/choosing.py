"""Which layers of a viewer could be a video, its prompts or its masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_surgsam2.video.layers import METADATA_KEY, spatial_shape

from .session import has_picture

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Points


def images(viewer: ViewerModel) -> list[Image]:
    """Return the layers that could be a video."""
    return [layer for layer in viewer.layers if has_picture(layer)]


def points_for(viewer: ViewerModel, image: Image) -> list[Points]:
    """Return the Points layers that could hold clicks on an image."""
    ndim = len(spatial_shape(image))
    return [p for p in viewer.layers if type(p).__name__ == "Points" and p.ndim == ndim]


def labels_for(viewer: ViewerModel, image: Image) -> list[Labels]:
    """Return the Labels layers that could hold masks of an image."""
    shape = spatial_shape(image)
    return [p for p in viewer.layers if type(p).__name__ == "Labels" and labels_shape(p) == shape]


def labels_shape(layer: Labels) -> tuple[int, ...]:
    """Return the shape of labels; of multiscale ones, which cannot be drawn into, none."""
    return () if layer.multiscale else tuple(int(n) for n in layer.data.shape)


def earlier_points(viewer: ViewerModel, image: Image) -> Points | None:
    """Return the clicks that an earlier session on an image left, or that came with it; None if unclear."""
    fitting = points_for(viewer, image)
    return _own(fitting, image, "prompts") or _only([p for p in fitting if "object_id" in p.features])


def earlier_labels(viewer: ViewerModel, image: Image) -> Labels | None:
    """Return the masks that an earlier session on an image left."""
    return _own(labels_for(viewer, image), image, "masks")


def _own(layers: list[Any], image: Image, kind: str) -> Any:
    """Return the one of our layers of a kind that was made for an image."""
    for layer in layers:
        about = layer.metadata.get(METADATA_KEY)
        if isinstance(about, Mapping) and about.get(kind) and about.get("image") == image.name:
            return layer
    return None


def _only(layers: list[Any]) -> Any:
    return layers[0] if len(layers) == 1 else None
