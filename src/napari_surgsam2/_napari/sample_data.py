"""A made-up laparoscopic clip to try the plugin on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_surgsam2.video.layers import METADATA_KEY

from .reader import LayerData

if TYPE_CHECKING:
    from napari_surgsam2.synthetic import SyntheticClip

_SEED, _FRAMES = 3, 60  # as the command line's demo
_CLICK_SIZE = 0.025  # of the picture's smaller side


def laparoscopic_clip() -> list[LayerData]:
    """Return the clip, shape (T, Y, X, 3), as an Image layer."""
    return [_image_layer(_make_clip())]


def laparoscopic_clip_with_prompts() -> list[LayerData]:
    """Return the clip, and a Points layer with one click on each of two instruments."""
    from napari_surgsam2.demo import choose_objects, click_objects
    from napari_surgsam2.masks import object_color
    from napari_surgsam2.prompts import points_to_table

    clip = _make_clip()
    clicks = click_objects(clip, *choose_objects(clip))
    rows, features = points_to_table(clicks)
    about: dict[str, Any] = {
        "name": "prompts",
        "features": features,
        "size": _CLICK_SIZE * min(clip.labels.shape[1:]),
        "face_color": ["#{:02x}{:02x}{:02x}".format(*object_color(click.object_id)) for click in clicks],
        "border_color": "white",
        "metadata": {METADATA_KEY: {"prompts": True}},
    }
    return [_image_layer(clip), (rows, about, "points")]


def _make_clip() -> SyntheticClip:
    from napari_surgsam2.synthetic import make_clip

    return make_clip(_SEED, _FRAMES)


def _image_layer(clip: SyntheticClip) -> LayerData:
    return clip.video, {"name": "laparoscopy", "rgb": True}, "image"
