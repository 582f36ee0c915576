"""Prompts of all kinds as plain, JSON-ready values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_surgsam2.errors import PromptError

from .kinds import BoolArray, Box, Mask, Point, Prompt, whole_number
from .tables import polarity

JSON_VERSION = 1
# By kind, the keys that an entry of a prompts document must and may have; masks come first, since clicks and
# boxes on their frame refine them.
_ENTRY_KEYS = {
    "masks": (("frame", "shape", "runs"), ("object_id",)),
    "boxes": (("frame", "y0", "x0", "y1", "x1"), ("object_id",)),
    "points": (("frame", "y", "x"), ("object_id", "label")),
}


def prompts_from_json(text: str, path: Path) -> list[Prompt]:
    """Read the prompts of a JSON text; `path` is for messages."""
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

    Raises
    ------
    PromptError
        If it is no such document, or a prompt in it cannot be used.
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
        return Point(**values, object_id=object_id, positive=polarity(entry.get("label", 1)))
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
    height, width = (whole_number("The shape of a mask", n, 1) for n in shape)
    if not isinstance(runs, list) or not all(type(n) is int and 0 <= n <= height * width for n in runs):
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
