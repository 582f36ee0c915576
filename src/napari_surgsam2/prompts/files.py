"""Prompts from files and to files, and from whatever else a user may have them in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from napari_surgsam2.errors import OutputError, PromptError

from .documents import prompts_from_dict, prompts_from_json, prompts_to_dict
from .kinds import Box, Mask, Point, Prompt
from .tables import points_from_csv, points_from_table


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
        prompts = prompts_from_json(text, path)
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
