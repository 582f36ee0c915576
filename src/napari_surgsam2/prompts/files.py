"""Prompts from files and to files, and from whatever else a user may have them in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_surgsam2.errors import OutputError, PromptError
from napari_surgsam2.files import write_atomically
from napari_surgsam2.paths import expanded

from .documents import prompts_from_dict, prompts_from_json, prompts_to_dict
from .kinds import Box, Mask, Point, Prompt
from .tables import boxes_from_table, points_from_csv, points_from_table

PROJECT_KEY = "napari_surgsam2_project"  # by which a project file is known

# Takes a layer, and positions in its data, (N, D), to (frame, y, x), (N, 3).
Place: TypeAlias = Callable[[Any, npt.ArrayLike], npt.ArrayLike]


def load_prompts(path: str | Path) -> list[Prompt]:
    """Read prompts from a file.

    Parameters
    ----------
    path : path
        A `.csv` that napari saved for a Points layer (columns `axis-0`, `axis-1`, `axis-2` and, if there,
        `object_id` and `label`; or `frame`, `y` and `x` instead), or a `.json` that `save_prompts` or
        `save_project` wrote.

    Raises
    ------
    PromptError
        If the file is missing, is neither, or holds a prompt that cannot be used.
    """
    path = expanded(path)
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
        prompts = prompts_from_json(_prompts_part(text), path)
    elif path.suffix.lower() == ".csv":
        prompts = list(points_from_csv(text, path))
    else:
        raise PromptError(
            f"The prompts file '{path}' ends in '{path.suffix}'; give a .csv saved by napari from a Points "
            "layer, or a .json."
        )
    if not prompts:
        raise PromptError(f"The prompts file '{path}' holds no prompts; place at least one point.")
    return prompts


def _prompts_part(text: str) -> str:
    """Return the prompts in the text of a project file, and another text as it is."""
    if f'"{PROJECT_KEY}"' not in text:
        return text
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(document, dict) or PROJECT_KEY not in document:
        return text
    return json.dumps(document.get("prompts", {}))


def save_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as JSON; the file is replaced in one step.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_json(expanded(path), prompts_to_dict(prompts), "prompts")


def write_json(path: Path, document: dict[str, Any], what: str) -> None:
    """Write JSON, the file being replaced in one step; `what` it holds is for messages.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = json.dumps(document, indent=1) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise OutputError(
            f"The {what} cannot be written to '{path}': {error.strerror}. Choose another file."
        ) from error


def _as_they_are(_layer: Any, rows: npt.ArrayLike) -> npt.ArrayLike:
    """Return positions in a layer; those of a layer over a single picture, (y, x), are on frame 0."""
    flat = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] == 2
    return np.insert(rows, 0, 0, axis=1) if flat else rows


def as_prompts(prompts: Any, place: Place = _as_they_are) -> list[Prompt]:
    """Return prompts of any accepted kind as a list of `Point`, `Box` and `Mask`.

    Parameters
    ----------
    prompts : Prompt, layer, iterable of these, path, dict, or points table
        Prompts themselves; a path for `load_prompts`; a document for `prompts_from_dict`; an (N, 3) array
        of (frame, y, x), all positive and of object 1; or anything with `data` and `features`, such as a
        napari Points layer, and where it has a `shape_type` too, a Shapes layer, whose rectangles are boxes.
    place : callable, optional
        Takes a layer, and positions in its data, (N, D), to (frame, y, x) in pixels of the video, (N, 3). By
        default a layer's positions are these, on frame 0 if they are but (y, x).

    Raises
    ------
    PromptError
        If they are of no such kind, or one cannot be used.
    """
    if isinstance(prompts, (Point, Box, Mask)):
        return [prompts]
    if isinstance(prompts, (str, Path)):
        return load_prompts(prompts)
    if isinstance(prompts, dict):
        return prompts_from_dict(prompts)
    if _is_layer(prompts):
        return _from_layer(prompts, place)
    if isinstance(prompts, np.ndarray):
        return list(points_from_table(prompts))
    if not isinstance(prompts, Iterable):
        raise PromptError(
            f"The prompts are {prompts!r:.60}; give Point, Box and Mask objects, a .csv or .json file, or "
            "rows of (frame, y, x)."
        )
    entries = list(prompts)
    if all(isinstance(p, (Point, Box, Mask)) or _is_layer(p) for p in entries):
        return [q for p in entries for q in (_from_layer(p, place) if _is_layer(p) else [p])]
    return list(points_from_table(entries))


def _is_layer(prompts: Any) -> bool:
    return hasattr(prompts, "data") and hasattr(prompts, "features")


def _from_layer(layer: Any, place: Place) -> list[Prompt]:
    """Return the points of a Points layer, or the rectangles of a Shapes layer."""
    kinds = getattr(layer, "shape_type", None)
    if kinds is None:
        return list(points_from_table(place(layer, layer.data), layer.features))
    for number, kind in enumerate(kinds):
        if kind != "rectangle":
            raise PromptError(
                f"Shape {number} of the layer '{getattr(layer, 'name', 'Shapes')}' is of the type '{kind}'; "
                "only rectangles are boxes. Draw it as a rectangle, or delete it."
            )
    return list(boxes_from_table([place(layer, corners) for corners in layer.data], layer.features))
