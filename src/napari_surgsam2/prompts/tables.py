"""Points and rectangles as napari keeps them, with feature columns, and the CSV that it saves of points."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import PromptError

from .kinds import Box, Point, finite_number, whole_number

_POSITIVE = {"1", "+", "true", "positive", "pos", "foreground"}
_NEGATIVE = {"0", "-", "-1", "false", "negative", "neg", "background"}

_COLUMNS = ("frame", "y", "x", "object_id", "label")
_MEANINGS = {"object_id": "the object", "label": "whether it is positive"}
# What people call these in tables of their own.
_OTHER_NAMES = {
    "object_id": {"object", "objects", "objectid", "object_number", "obj", "obj_id", "id", "track_id"},
    "label": {"labels", "positive", "is_positive", "negative", "sign", "polarity", "point_label"},
}


def polarity(value: Any) -> bool:
    """Return whether a `label` entry means positive: 1, "positive", "+", True, ... or 0, "negative", ..."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, float, np.integer, np.floating)) and value in (0, 1, -1):
        return value == 1
    text = str(value).strip().lower().removesuffix(".0")
    if text in _POSITIVE:
        return True
    if text in _NEGATIVE:
        return False
    raise PromptError(
        f"The label of a point is {value!r}; it must be 1 (or 'positive', '+') or 0 (or 'negative', '-')."
    )


def points_from_table(
    data: npt.ArrayLike, features: Mapping[str, Sequence[Any]] | None = None
) -> list[Point]:
    """Read the points of a napari Points layer.

    Parameters
    ----------
    data : array, shape (N, 3)
        A row (frame, y, x) for each point, in pixels of the video; the frame is rounded to a whole number.
    features : mapping of str to sequence, optional
        Columns `object_id` (default: 1) and `label` (1 positive, 0 negative; default: positive) with an
        entry for each point. A pandas DataFrame will do. Other columns are ignored.

    Raises
    ------
    PromptError
        If the table is of another shape, or a point cannot be used.
    """
    try:
        table = np.asarray(data, dtype=float)
    except (TypeError, ValueError):
        raise PromptError(f"The points are {data!r:.60}; they must be rows of (frame, y, x).") from None
    if table.size == 0:
        return []
    if table.ndim != 2 or table.shape[1] != 3:
        raise PromptError(
            f"The points have shape {table.shape}; they must be rows of (frame, y, x), as a napari Points "
            "layer over a (T, Y, X) video has them."
        )
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        place = tuple(table[row].tolist())
        raise PromptError(f"Point {row} is {place}; coordinates must be finite numbers (no NaN).")
    ids, labels = (_column(features, name, len(table), "points") for name in ("object_id", "label"))
    return [
        Point(round(frame), y, x, whole_number("The object id of a point", object_id, 1), polarity(label))
        for (frame, y, x), object_id, label in zip(table.tolist(), ids, labels, strict=True)
    ]


def boxes_from_table(
    shapes: Sequence[npt.ArrayLike], features: Mapping[str, Sequence[Any]] | None = None
) -> list[Box]:
    """Read the rectangles of a napari Shapes layer.

    Parameters
    ----------
    shapes : sequence of array, each of shape (4, 3)
        The corners of a rectangle in any order, a row (frame, y, x) for each, in pixels of the video; the
        frame is rounded to a whole number. Of a rectangle that is turned, the upright box around it is taken.
    features : mapping of str to sequence, optional
        A column `object_id` (default: 1) with an entry for each rectangle; other columns are ignored.

    Raises
    ------
    PromptError
        If a rectangle has other than four corners, lies on several frames, or cannot be used as a box.
    """
    ids = _column(features, "object_id", len(shapes), "rectangles")
    boxes: list[Box] = []
    for number, (shape, object_id) in enumerate(zip(shapes, ids, strict=True)):
        try:
            boxes.append(_box_from_corners(shape, object_id))
        except PromptError as error:
            raise PromptError(f"Rectangle {number}: {error}") from error
    return boxes


def _box_from_corners(shape: npt.ArrayLike, object_id: Any) -> Box:
    try:
        corners = np.asarray(shape, dtype=float)
    except (TypeError, ValueError):
        raise PromptError(f"it is {shape!r:.60}; it must be four corners (frame, y, x).") from None
    if corners.shape != (4, 3):
        raise PromptError(f"it has shape {corners.shape}; it must be four corners (frame, y, x).")
    if not np.isfinite(corners).all():
        raise PromptError("it has a corner that is not finite; coordinates must be finite numbers (no NaN).")
    frames = np.unique(corners[:, 0].round()).astype(int).tolist()
    if len(frames) > 1:
        raise PromptError(
            f"it reaches from frame {frames[0]} to {frames[-1]}; all four corners must be on one. Draw it "
            "anew on one frame."
        )
    (y0, x0), (y1, x1) = corners[:, 1:].min(0).tolist(), corners[:, 1:].max(0).tolist()
    return Box(frames[0], y0, x0, y1, x1, whole_number("The object id of a box", object_id, 1))


def _column(features: Mapping[str, Sequence[Any]] | None, name: str, count: int, what: str) -> list[Any]:
    """Return a feature's entries, 1 for each of `count` where there is no such feature."""
    entries = [] if features is None or name not in features else np.asarray(features[name]).tolist()
    if entries and len(entries) != count:
        raise PromptError(
            f"The column '{name}' has {len(entries)} entries for {count} {what}; it must have one for each."
        )
    return entries or [1] * count


def points_to_table(points: Iterable[Point]) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[Any]]]:
    """Return what a napari Points layer takes: rows (frame, y, x), shape (N, 3), and the feature columns."""
    rows = list(points)
    data = np.array([(p.frame, p.y, p.x) for p in rows], dtype=np.float64).reshape(-1, 3)
    features = {
        "object_id": np.array([p.object_id for p in rows], dtype=np.int64),
        "label": np.array([int(p.positive) for p in rows], dtype=np.int64),
    }
    return data, features


def points_to_csv(points: Iterable[Point]) -> str:
    """Return the CSV that napari would save of a Points layer, with the feature columns."""
    data, features = points_to_table(points)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "axis-0", "axis-1", "axis-2", *features])
    columns = zip(*(column.tolist() for column in features.values()), strict=True)
    for index, (row, values) in enumerate(zip(data.tolist(), columns, strict=True)):
        writer.writerow([index, *row, *values])
    return text.getvalue()


def _known_column(name: str) -> str:
    """Return the name of a column as it is looked for, however it is written."""
    return known if (known := name.casefold()) in _COLUMNS else name


def _refuse_other_names(columns: Sequence[str], path: Path) -> None:
    """Refuse a table by hand in which the object or the label of points is called otherwise."""
    for wanted, others in _OTHER_NAMES.items():
        found = [name for name in columns if name.casefold().replace(" ", "_") in others]
        if found and wanted not in columns:
            raise PromptError(
                f"'{path}' has a column '{found[0]}' and none called '{wanted}', which says "
                f"{_MEANINGS[wanted]} of each point. Call it '{wanted}', or leave it out."
            )


def points_from_csv(text: str, path: Path) -> Iterator[Point]:
    """Read the points of a CSV that napari saved; `path` is for messages."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = [_known_column(name.strip()) for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise PromptError(f"'{path}', line {reader.line_num}, is not CSV: {error}. Save it again.") from error
    if "shape-type" in columns:
        raise PromptError(
            f"'{path}' was saved from a Shapes layer; give a CSV saved from a Points layer, or boxes as JSON."
        )
    axes = sorted((c for c in columns if c.startswith("axis-") and c[5:].isdigit()), key=lambda c: int(c[5:]))
    if not axes:
        axes = [c for c in ("frame", "y", "x") if c in columns]
    if len(axes) != 3:
        raise PromptError(
            f"'{path}' has the columns {', '.join(columns) or 'none'}; it must have axis-0, axis-1 and "
            "axis-2 (frame, y, x), as napari saves the points of a (T, Y, X) video."
        )
    if "frame" in axes:
        _refuse_other_names(columns, path)
    for line, row in rows:
        try:
            if missing := [axis for axis in axes if not row[axis]]:
                raise PromptError(f"{', '.join(map(repr, missing))} is missing.")
            frame, y, x = (finite_number(f"'{axis}'", row[axis]) for axis in axes)
            object_id = whole_number("'object_id'", row.get("object_id") or 1, 1)
            label = row.get("label")
            yield Point(round(frame), y, x, object_id, True if label in (None, "") else polarity(label))
        except PromptError as error:
            raise PromptError(f"'{path}', line {line}: {error}") from error
