"""Videos whose frames are read when asked for, from files, folders and arrays alike."""

from __future__ import annotations

from .base import Video
from .layers import is_image_layer, rows_in_video
from .opening import open_video
from .reading import read_ahead
from .resize import resize_frame

__all__ = [
    "Video",
    "is_image_layer",
    "open_video",
    "read_ahead",
    "resize_frame",
    "rows_in_video",
]
