"""Saving a Labels layer from napari's own dialogs and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import export


def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a Labels layer in the format that the path asks for; without a suffix a folder of palette PNGs.

    What is there already is replaced if it is of the same kind: napari's dialog has asked.

    Parameters
    ----------
    path : str
        See `masks.export`.
    data : array-like, shape (T, Y, X) or (Y, X)
        Integers; of a multiscale layer the list of its levels.
    meta : mapping
        The layer's attributes, of which only `multiscale` is looked at.

    Returns
    -------
    list of str
        The path that was written.

    Raises
    ------
    OutputError
        If nothing could be written, for whatever reason: napari takes a ValueError, such as UsageError, to
        mean that there is no writer, and hides it.
    """
    try:
        return [str(export(path, _volume(data[0] if meta.get("multiscale") else data), overwrite=True))]
    except UsageError as error:
        raise OutputError(str(error)) from error


def write_coco(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a Labels layer as COCO JSON; `write_labels` says the rest.

    The dialog leaves out the suffix where the user does.
    """
    return write_labels(path if Path(path).suffix else f"{path}.json", data, meta)


def _volume(labels: Any) -> Any:
    shape = tuple(int(n) for n in labels.shape)
    if len(shape) == 2:
        return labels[None]
    if len(shape) != 3:
        raise UsageError(
            f"The labels have shape {shape}; masks are saved as (T, Y, X), so the axis that is time must be "
            'known. Choose it, and save with "Masks..." in the "Segment a video" widget.'
        )
    return labels
