"""Some frames of a tracked video in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

from ._overlay import bright_color, default_font, overlay

_BACKGROUND = (24, 24, 27)
_TEXT = (235, 235, 235)
_GAP = 12  # pixels around each frame
_MARK = 9  # radius of a click's ring


@dataclass(frozen=True)
class SheetFrame:
    """A frame of a contact sheet.

    Attributes
    ----------
    image : array, shape (Y, X, 3), uint8
        RGB.
    labels : array, shape (Y, X), unsigned integer
        0 is background.
    caption : str
        What stands below it.
    values : dict of int to str
        What stands beside the caption for each object, in its colour.
    clicks : sequence of (float, float, int)
        Positions (y, x) that are marked, and the objects they are of.
    """

    image: NDArray[np.uint8]
    labels: NDArray[Any]
    caption: str
    values: dict[int, str] = field(default_factory=dict)
    clicks: Sequence[tuple[float, float, int]] = ()


def contact_sheet(
    frames: Sequence[SheetFrame],
    title: str,
    legend: dict[int, str],
    *,
    columns: int = 4,
    frame_width: int = 400,
) -> NDArray[np.uint8]:
    """Draw frames row by row, with their masks as `overlay` draws them.

    Parameters
    ----------
    frames : sequence of SheetFrame
        All of the same size.
    title : str
        Stands at the top.
    legend : dict of int to str
        What each object is; stands under the title.
    columns : int
        Frames in a row.
    frame_width : int
        Width of a frame on the sheet, in pixels.

    Returns
    -------
    array, shape (Y, X, 3), uint8
        The sheet, RGB.

    Raises
    ------
    UsageError
        If there is no frame.
    """
    from PIL import Image, ImageDraw

    if not frames:
        raise UsageError("There are no frames for the contact sheet; give at least one.")
    height, width = frames[0].image.shape[:2]
    frame_height = max(1, round(frame_width * height / width))
    size = max(12, frame_width // 20)  # of the text
    head, foot = round(3.4 * size) + 2 * _GAP, size + _GAP
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    sheet = Image.new(
        "RGB",
        (_GAP + columns * (frame_width + _GAP), head + rows * (frame_height + foot + _GAP)),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill=_TEXT, font=default_font(round(1.3 * size)))
    _write_values(draw, _GAP, _GAP + round(2.2 * size), legend, size)
    for n, frame in enumerate(frames):
        row, column = divmod(n, columns)
        left = _GAP + column * (frame_width + _GAP)
        top = head + row * (frame_height + foot + _GAP)
        sheet.paste(_picture(frame, frame_width, frame_height), (left, top))
        for y, x, object_id in frame.clicks:
            at = left + (x + 0.5) * frame_width / width, top + (y + 0.5) * frame_height / height
            _mark(draw, *at, bright_color(object_id))
        font, below = default_font(size), top + frame_height + _GAP // 2
        draw.text((left, below), frame.caption, fill=_TEXT, font=font)
        _write_values(
            draw, left + round(draw.textlength(frame.caption, font) + size), below, frame.values, size
        )
    return np.array(sheet)


def _picture(frame: SheetFrame, width: int, height: int) -> Any:
    from PIL import Image

    smaller = width <= frame.image.shape[1]
    resampling = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    image = Image.fromarray(np.ascontiguousarray(frame.image)).resize((width, height), resampling)
    rows = (np.arange(height) + 0.5) * frame.labels.shape[0] / height
    columns = (np.arange(width) + 0.5) * frame.labels.shape[1] / width
    labels = frame.labels[np.ix_(rows.astype(int), columns.astype(int))]
    return Image.fromarray(overlay(np.asarray(image), labels))


def _write_values(draw: Any, left: int, top: int, values: dict[int, str], size: int) -> None:
    """Write texts side by side, each after a dot in the colour of its object."""
    font, dot = default_font(size), 0.28 * size
    for object_id, text in values.items():
        color, middle = bright_color(object_id), top + 0.6 * size
        draw.ellipse((left, middle - dot, left + 2 * dot, middle + dot), fill=color)
        draw.text((left + 3 * dot, top), text, fill=_TEXT, font=font)
        left += round(3 * dot + draw.textlength(text, font) + size)


def _mark(draw: Any, x: float, y: float, color: tuple[int, int, int]) -> None:
    """Draw a click: a ring around a dot of the object's colour."""
    for radius, line in ((_MARK + 1, (0, 0, 0)), (_MARK, (255, 255, 255))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=line, width=3)
    draw.ellipse((x - 3.5, y - 3.5, x + 3.5, y + 3.5), fill=color, outline=(255, 255, 255))
