"""Drawing labels over a frame."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

from .palette import object_color

_OPACITY = 0.45
_OUTLINE = 2


def overlay(frame: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw each object over a frame: tinted, outlined, and with its id near its middle.

    Parameters
    ----------
    frame : ndarray, shape (Y, X, 3), uint8
        The image, RGB; it is not changed.
    labels : ndarray, shape (Y, X)
        Unsigned integers, 0 is background.

    Returns
    -------
    ndarray, shape (Y, X, 3), uint8
        A new image. The colours are those of `object_color`, somewhat brighter.

    Raises
    ------
    UsageError
        If the shapes do not belong together.
    """
    frame, labels = np.asarray(frame), np.asarray(labels)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or labels.shape != frame.shape[:2]:
        raise UsageError(
            f"The frame is {frame.dtype} of shape {frame.shape}, the labels have shape {labels.shape}; they "
            f"must be uint8 (Y, X, 3) and (Y, X)."
        )
    picture = np.array(frame)
    rows, columns = np.nonzero(labels)
    if rows.size == 0:
        return picture
    # All objects at once, within the box around them; `index` numbers them from 1, in the order of `ids`.
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    ids, numbers = np.unique(labels[rows, columns], return_inverse=True)
    index = np.zeros(labels.shape, dtype=np.intp)
    index[rows, columns] = numbers + 1
    colors = np.array([(0, 0, 0), *(bright_color(int(i)) for i in ids)], dtype=np.uint8)
    part, index = picture[box], index[box]
    inside = index > 0
    mixed = (1 - _OPACITY) * part[inside] + _OPACITY * colors[index[inside]]
    part[inside] = mixed.round().astype(np.uint8)
    edge = inside & _near_other(index)
    part[edge] = colors[index[edge]]
    return _draw_ids(picture, ids, rows, columns, numbers)


def bright_color(object_id: int) -> tuple[int, int, int]:
    """Return an object's colour halfway to full brightness; the VOC map's first ones are too dark."""
    red, green, blue = color = object_color(object_id)
    highest = max(color)
    scale = highest + 255
    return red * scale // (2 * highest), green * scale // (2 * highest), blue * scale // (2 * highest)


def _near_other(index: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Where another value, or the edge of the array, is within `_OUTLINE` pixels along a row or column."""
    height, width = index.shape
    padded = np.pad(index, _OUTLINE)
    near = np.zeros(index.shape, dtype=bool)
    for step in range(1, _OUTLINE + 1):
        for dy, dx in ((step, 0), (-step, 0), (0, step), (0, -step)):
            y, x = _OUTLINE + dy, _OUTLINE + dx
            near |= padded[y : y + height, x : x + width] != index
    return near


def _draw_ids(
    picture: NDArray[np.uint8],
    ids: NDArray[Any],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    numbers: NDArray[np.intp],
) -> NDArray[np.uint8]:
    """Write each id near the middle of its object.

    `rows`, `columns` and `numbers` are indexed by labelled pixel; `numbers` holds positions in `ids`.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    height, width = picture.shape[:2]
    size = max(14, round(max(height, width) / 36))
    for number, object_id in enumerate(ids):
        own = numbers == number
        y, x = _anchor(rows[own], columns[own], room=size / 2)
        draw.text(
            # Text at the very border would be cut off.
            (
                float(np.clip(x, min(size, width // 2), max(width - size, width // 2))),
                float(np.clip(y, min(size, height // 2), max(height - size, height // 2))),
            ),
            str(object_id),
            fill=(255, 255, 255),
            font=default_font(size),
            anchor="mm",
            stroke_width=max(1, size // 10),
            stroke_fill=(0, 0, 0),
        )
    return np.array(image)


def _anchor(rows: NDArray[np.intp], columns: NDArray[np.intp], room: float) -> tuple[int, int]:
    """Return the (y, x) for a text of half the size `room`: the object's centroid, or else the nearest place.

    The centroid of a bent object may lie outside it; then the text goes where the object is thick enough,
    or as thick as it gets.
    """
    y, x = round(rows.mean()), round(columns.mean())
    if ((rows == y) & (columns == x)).any():
        return y, x
    import scipy.ndimage

    ndimage: Any = scipy.ndimage
    top, left = rows.min() - 1, columns.min() - 1
    mask = np.zeros((rows.max() - top + 2, columns.max() - left + 2), dtype=bool)
    mask[rows - top, columns - left] = True
    depth = ndimage.distance_transform_edt(mask)
    inner_rows, inner_columns = np.nonzero(depth >= min(room, depth.max()))
    distance = (inner_rows + top - y) ** 2 + (inner_columns + left - x) ** 2
    nearest = distance.argmin()
    return int(inner_rows[nearest] + top), int(inner_columns[nearest] + left)


@cache
def default_font(size: int) -> Any:
    """Return Pillow's own font."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
