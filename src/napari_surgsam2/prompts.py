"""Points, boxes and masks that say what to track; to and from a napari points table, CSV and JSON.

Coordinates are napari's: the frame first, then (y, x) in pixels of the video, pixel centres at integers.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import OutputError, PromptError

BoolArray: TypeAlias = npt.NDArray[np.bool_]

JSON_VERSION = 1
# By kind, the keys that an entry of a prompts document must and may have; masks come first, since clicks and
# boxes on their frame refine them.
_ENTRY_KEYS = {
    "masks": (("frame", "shape", "runs"), ("object_id",)),
    "boxes": (("frame", "y0", "x0", "y1", "x1"), ("object_id",)),
    "points": (("frame", "y", "x"), ("object_id", "label")),
}
_POSITIVE = {"1", "+", "true", "positive", "pos", "foreground"}
_NEGATIVE = {"0", "-", "-1", "false", "negative", "neg", "background"}


def _number(what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise PromptError(f"{what} is {value!r}; it must be a number.") from None
    if not math.isfinite(number):
        raise PromptError(f"{what} is {number}; coordinates must be finite numbers.")
    return number


def _whole(what: str, value: Any, at_least: int) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number.is_integer() and number >= at_least):
        said = f"{value:g}" if isinstance(value, float) else repr(value)
        raise PromptError(f"{what} is {said}; it must be a whole number, at least {at_least}.")
    return int(number)


@dataclass(frozen=True)
class Point:
    """A click.

    Attributes
    ----------
    frame : int
        Frame index, from 0.
    y, x : float
        Position in pixels of the video, pixel centres at integers.
    object_id : int
        The user's number for the object, at least 1.
    positive : bool
        True for "this belongs to the object", False for "this does not".
    """

    frame: int
    y: float
    x: float
    object_id: int = 1
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _whole("The frame of a point", self.frame, 0))
        object.__setattr__(self, "object_id", _whole("The object id of a point", self.object_id, 1))
        for name in ("y", "x"):
            value = _number(f"The {name} of a point on frame {self.frame}", getattr(self, name))
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Box:
    """A rectangle around an object, its corners belonging to it.

    Attributes
    ----------
    frame : int
        Frame index, from 0.
    y0, x0, y1, x1 : float
        Top, left, bottom and right in pixels of the video; y0 < y1 and x0 < x1.
    object_id : int
        The user's number for the object, at least 1.
    """

    frame: int
    y0: float
    x0: float
    y1: float
    x1: float
    object_id: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _whole("The frame of a box", self.frame, 0))
        object.__setattr__(self, "object_id", _whole("The object id of a box", self.object_id, 1))
        for name in ("y0", "x0", "y1", "x1"):
            value = _number(f"The {name} of a box on frame {self.frame}", getattr(self, name))
            object.__setattr__(self, name, value)
        if not (self.y0 < self.y1 and self.x0 < self.x1):
            raise PromptError(
                f"The box (y0={self.y0:g}, x0={self.x0:g}, y1={self.y1:g}, x1={self.x1:g}) on frame "
                f"{self.frame} is empty; give top, left, bottom, right with y0 < y1 and x0 < x1."
            )


@dataclass(frozen=True, eq=False)
class Mask:
    """The exact mask of an object on a frame.

    Attributes
    ----------
    frame : int
        Frame index, from 0.
    mask : ndarray, shape (Y, X), bool
        True where the object is, in pixels of the video.
    object_id : int
        The user's number for the object, at least 1.
    """

    frame: int
    mask: BoolArray
    object_id: int = 1

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 2:
            raise PromptError(
                f"The mask on frame {self.frame} has shape {mask.shape}; it must have two axes (Y, X)."
            )
        object.__setattr__(self, "mask", mask.astype(bool))
        object.__setattr__(self, "frame", _whole("The frame of a mask", self.frame, 0))
        object.__setattr__(self, "object_id", _whole("The object id of a mask", self.object_id, 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same_place = (self.frame, self.object_id) == (other.frame, other.object_id)
        return same_place and np.array_equal(self.mask, other.mask)


Prompt: TypeAlias = Point | Box | Mask


def check_prompts(prompts: Iterable[Prompt], shape: tuple[int, int, int]) -> None:
    """Raise PromptError if a prompt is outside a video of the given shape (T, Y, X)."""
    frames, height, width = shape
    bottom, right = height - 0.5, width - 0.5
    for prompt in prompts:
        if prompt.frame >= frames:
            raise PromptError(
                f"A prompt is on frame {prompt.frame}, but the video has {frames} frames: 0 to {frames - 1}."
            )
        size = f"{height} pixels high (y) and {width} wide (x)"
        outside = f"on frame {prompt.frame} is outside the video, which is {size}."
        match prompt:
            case Point(y=y, x=x):
                if not (-0.5 <= y <= bottom and -0.5 <= x <= right):
                    raise PromptError(f"The point (y={y:g}, x={x:g}) {outside}")
            case Box(y0=y0, x0=x0, y1=y1, x1=x1):
                if y1 < -0.5 or x1 < -0.5 or y0 > bottom or x0 > right:
                    raise PromptError(f"The box (y0={y0:g}, x0={x0:g}, y1={y1:g}, x1={x1:g}) {outside}")
            case Mask(mask=mask):
                if mask.shape != (height, width):
                    raise PromptError(
                        f"The mask on frame {prompt.frame} has shape {mask.shape}; it must be the video's, "
                        f"({height}, {width})."
                    )


def require_positive(prompts: Iterable[Prompt]) -> None:
    """Raise PromptError if there are no prompts, or nothing says where one of the objects is."""
    said: dict[int, bool] = {}
    for prompt in prompts:
        positive = not isinstance(prompt, Point) or prompt.positive
        said[prompt.object_id] = said.get(prompt.object_id, False) or positive
    if not said:
        raise PromptError("There are no prompts; place at least one point, box or mask on an object.")
    for object_id, positive in said.items():
        if not positive:
            raise PromptError(
                f"Object {object_id} has only negative points; add a positive point, a box or a mask on it."
            )


def masks_from_labels(frame: int, labels: npt.ArrayLike) -> list[Mask]:
    """Make a mask prompt of every object in a labels image.

    Parameters
    ----------
    frame : int
        The frame the image belongs to.
    labels : array, shape (Y, X), integer
        0 is background, every other value the id of an object.

    Raises
    ------
    PromptError
        If the image is not a two-dimensional integer image or holds no object.
    """
    image = np.asarray(labels)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    if image.ndim != 2 or not np.issubdtype(image.dtype, np.integer):
        raise PromptError(
            f"A labels image must have two axes (Y, X) and whole numbers; this one has shape {image.shape} "
            f"and type {image.dtype}."
        )
    ids = [int(i) for i in np.unique(image) if i != 0]
    if not ids:
        raise PromptError(
            f"The labels image for frame {frame} is all background (0); paint an object into it first."
        )
    return [Mask(frame, image == i, i) for i in ids]


def _polarity(value: Any) -> bool:
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
    columns = (
        {} if features is None else {str(name): np.asarray(features[name]).tolist() for name in features}
    )
    ids = columns.get("object_id") or [1] * len(table)
    labels = columns.get("label") or [1] * len(table)
    for name, column in (("object_id", ids), ("label", labels)):
        if len(column) != len(table):
            raise PromptError(
                f"The column '{name}' has {len(column)} entries for {len(table)} points; it must have one "
                "for each."
            )
    return [
        Point(round(frame), y, x, _whole("The object id of a point", object_id, 1), _polarity(label))
        for (frame, y, x), object_id, label in zip(table.tolist(), ids, labels, strict=True)
    ]


def points_to_table(points: Iterable[Point]) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[Any]]]:
    """Return what a napari Points layer takes: rows (frame, y, x), shape (N, 3), and the feature columns."""
    rows = list(points)
    data = np.array([(p.frame, p.y, p.x) for p in rows], dtype=np.float64).reshape(-1, 3)
    features = {
        "object_id": np.array([p.object_id for p in rows], dtype=np.int64),
        "label": np.array([int(p.positive) for p in rows], dtype=np.int64),
    }
    return data, features


def load_prompts(path: str | Path) -> list[Prompt]:
    """Read prompts from a file.

    Parameters
    ----------
    path : path
        A `.csv` that napari saved for a Points layer (columns `axis-0`, `axis-1`, `axis-2` and, if there,
        `object_id` and `label`), or a `.json` that `save_prompts` wrote.

    Raises
    ------
    PromptError
        If the file is missing, is neither, or holds a prompt that cannot be used.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PromptError(f"There is no prompts file '{path}'; check the path.") from None
    except OSError as error:
        raise PromptError(
            f"The prompts file '{path}' cannot be read: {error.strerror}. Give a .csv or .json file that you "
            "may read."
        ) from error
    except UnicodeDecodeError as error:
        raise PromptError(
            f"The prompts file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from error
    if path.suffix.lower() == ".json":
        prompts = _prompts_from_json(text, path)
    elif path.suffix.lower() == ".csv":
        prompts = list(_points_from_csv(text, path))
    else:
        raise PromptError(
            f"The prompts file '{path}' ends in '{path.suffix}'; give a .csv saved by napari from a Points "
            "layer, or a .json."
        )
    if not prompts:
        raise PromptError(f"The prompts file '{path}' holds no prompts; place at least one point.")
    return prompts


def _points_from_csv(text: str, path: Path) -> Iterator[Point]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
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
    for line, row in rows:
        try:
            if missing := [axis for axis in axes if not row[axis]]:
                raise PromptError(f"{', '.join(map(repr, missing))} is missing.")
            frame, y, x = (_number(f"'{axis}'", row[axis]) for axis in axes)
            object_id = _whole("'object_id'", row.get("object_id") or 1, 1)
            label = row.get("label")
            yield Point(round(frame), y, x, object_id, True if label in (None, "") else _polarity(label))
        except PromptError as error:
            raise PromptError(f"'{path}', line {line}: {error}") from error


def _prompts_from_json(text: str, path: Path) -> list[Prompt]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"'{path}' is not valid JSON: {error}. Save it again.") from error
    try:
        return prompts_from_dict(document)
    except PromptError as error:
        raise PromptError(f"'{path}': {error}") from error


def prompts_from_dict(document: Any) -> list[Prompt]:
    """Read prompts from what `prompts_to_dict` returned.

    Parameters
    ----------
    document : dict
        With lists "points" ({frame, y, x, object_id, label}), "boxes" ({frame, y0, x0, y1, x1, object_id})
        and "masks" ({frame, object_id, shape, runs}), the runs being the lengths of the stretches outside,
        inside, outside, ... of the mask in row-major order.
    """
    if not isinstance(document, dict):
        raise PromptError("A prompts document must be an object with 'points', 'boxes' or 'masks'.")
    version = document.get("version", JSON_VERSION)
    if version != JSON_VERSION:
        raise PromptError(f"The prompts have version {version!r}; this program reads version {JSON_VERSION}.")
    if unknown := sorted(set(document) - {"version", "points", "boxes", "masks"}):
        raise PromptError(
            f"Unknown key {', '.join(map(repr, unknown))}; known: 'version', 'points', 'boxes', 'masks'."
        )
    prompts: list[Prompt] = []
    for kind in _ENTRY_KEYS:
        entries = document.get(kind, [])
        if not isinstance(entries, list):
            raise PromptError(f"'{kind}' is {entries!r:.40}; it must be a list.")
        for number, entry in enumerate(entries):
            try:
                prompts.append(_prompt_from_entry(kind, entry))
            except PromptError as error:
                raise PromptError(f"Entry {number} of '{kind}': {error}") from error
    return prompts


def _prompt_from_entry(kind: str, entry: Any) -> Prompt:
    needed, optional = _ENTRY_KEYS[kind]
    if not isinstance(entry, dict):
        raise PromptError(f"it is {entry!r:.40}; it must be an object with {', '.join(map(repr, needed))}.")
    if missing := [key for key in needed if key not in entry]:
        raise PromptError(f"{', '.join(map(repr, missing))} is missing.")
    if unknown := sorted(set(entry) - {*needed, *optional}):
        known = ", ".join(map(repr, (*needed, *optional)))
        raise PromptError(f"unknown key {', '.join(map(repr, unknown))}; known: {known}.")
    object_id = entry.get("object_id", 1)
    values = {key: entry[key] for key in needed}
    if kind == "points":
        return Point(**values, object_id=object_id, positive=_polarity(entry.get("label", 1)))
    if kind == "boxes":
        return Box(**values, object_id=object_id)
    return Mask(entry["frame"], _mask_from_runs(entry["shape"], entry["runs"]), object_id)


def _runs_from_mask(mask: BoolArray) -> list[int]:
    """Return the lengths of the runs of False, True, False, ... in row-major order, beginning with False."""
    flat = np.concatenate([[False], mask.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs: list[int] = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return runs if runs[-1] else runs[:-1]


def _mask_from_runs(shape: Sequence[int], runs: Sequence[int]) -> BoolArray:
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise PromptError(f"the shape of a mask is {shape!r:.40}; it must be [height, width].")
    height, width = (_whole("The shape of a mask", n, 1) for n in shape)
    if not isinstance(runs, Sequence) or not all(type(n) is int and 0 <= n <= height * width for n in runs):
        raise PromptError(f"the runs of a mask are {runs!r:.40}; they must be a list of whole numbers.")
    lengths = np.asarray(runs, dtype=np.int64)
    if sum(runs) != height * width:
        raise PromptError(
            f"the runs of a mask add up to {sum(runs)}; they must add up to its {height} x {width} pixels."
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(height, width)


def prompts_to_dict(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """Return prompts as plain, JSON-ready values; `prompts_from_dict` reads them back."""
    document: dict[str, Any] = {"version": JSON_VERSION, "points": [], "boxes": [], "masks": []}
    for p in prompts:
        if isinstance(p, Point):
            entry = {"frame": p.frame, "y": p.y, "x": p.x, "object_id": p.object_id, "label": int(p.positive)}
            document["points"].append(entry)
        elif isinstance(p, Box):
            corners = {"y0": p.y0, "x0": p.x0, "y1": p.y1, "x1": p.x1}
            document["boxes"].append({"frame": p.frame, **corners, "object_id": p.object_id})
        else:
            runs = _runs_from_mask(p.mask)
            shape = list(p.mask.shape)
            document["masks"].append(
                {"frame": p.frame, "object_id": p.object_id, "shape": shape, "runs": runs}
            )
    return document


def save_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as JSON; the file is replaced in one step.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = Path(path).expanduser()
    text = json.dumps(prompts_to_dict(prompts), indent=1) + "\n"
    partial = path.with_name(f"{path.name}.partial")
    try:
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"The prompts cannot be written to '{path}': {error.strerror}. Choose another file."
        ) from error


def as_prompts(prompts: Any) -> list[Prompt]:
    """Return prompts of any accepted kind as a list of `Point`, `Box` and `Mask`.

    Parameters
    ----------
    prompts : Prompt, iterable of Prompt, path, dict, or points table
        Prompts themselves; a path for `load_prompts`; a document for `prompts_from_dict`; an (N, 3) array
        of (frame, y, x), all positive and of object 1; or anything with `data` and `features`, such as a
        napari Points layer.
    """
    if isinstance(prompts, (Point, Box, Mask)):
        return [prompts]
    if isinstance(prompts, (str, Path)):
        return load_prompts(prompts)
    if isinstance(prompts, dict):
        return prompts_from_dict(prompts)
    if hasattr(prompts, "data") and hasattr(prompts, "features"):
        return list(points_from_table(prompts.data, prompts.features))
    if isinstance(prompts, np.ndarray):
        return list(points_from_table(prompts))
    if not isinstance(prompts, Iterable):
        raise PromptError(
            f"The prompts are {prompts!r:.60}; give Point, Box and Mask objects, a .csv or .json file, or "
            "rows of (frame, y, x)."
        )
    entries = list(prompts)
    if all(isinstance(p, (Point, Box, Mask)) for p in entries):
        return entries
    return list(points_from_table(entries))
