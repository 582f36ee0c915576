"""Videos in zarr: a single array, or a group, OME-NGFF or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_surgsam2.errors import VideoError

from .arrays import ArrayLike, StackVideo
from .axes import guess_axes, plan_axes
from .base import VideoInfo, describe
from .contrast import Contrast, require_pixel_type

METADATA_FILES = ("zarr.json", ".zarray", ".zgroup")
# OME-NGFF 0.1 and 0.2 name no axes: theirs are always these.
_FIRST_NGFF_AXES = "TCZYX"


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in METADATA_FILES)


def open_zarr(
    path: Path,
    *,
    contrast_limits: Iterable[float] | None = None,
    axes: str | None = None,
    channel: int = 0,
    z: int | None = None,
) -> StackVideo:
    """Open a zarr array, the full resolution of an OME-NGFF image, or a group's only array as a video.

    The axes are those of the OME-NGFF metadata or the array's dimension names, unless `axes` says otherwise.

    Raises
    ------
    VideoError
        If it cannot be read, or a group holds several arrays.
    UsageError
        If `axes`, `channel` or `z` do not fit the array.
    """
    array, letters = find_array(path)
    require_pixel_type(array.dtype)
    inside = str(array.path)
    shape = tuple(int(size) for size in array.shape)
    plan = plan_axes(
        axes or letters or guess_axes(shape), shape, channel=channel, z=z, middle_z=letters is not None
    )
    info = VideoInfo(
        name=path.stem.removesuffix(".ome"),
        path=path,
        n_frames=plan.n_frames,
        height=shape[plan.y],
        width=shape[plan.x],
        dtype=np.dtype(array.dtype).newbyteorder("="),
        notes=plan.notes,
    )

    def open_array() -> tuple[ArrayLike, Callable[[], None] | None]:
        node = _opened(path)
        array: Any = node[inside] if isinstance(node, zarr.Group) else node
        return array, None

    return StackVideo(open_array, plan, info, Contrast(info.dtype, contrast_limits))


def _opened(path: Path) -> Any:
    try:
        return zarr.open(path, mode="r")
    except Exception as error:
        raise VideoError(
            f"'{path}' cannot be opened as zarr: {describe(error)}. It must hold zarr.json, .zarray or "
            ".zgroup, "
            "undamaged."
        ) from error


def find_array(path: Path) -> tuple[Any, str | None]:
    """Return the array to use, and its axes if the metadata say them."""
    node = _opened(path)
    if not isinstance(node, zarr.Group):
        return node, _dimension_names(node)
    try:
        multiscale = _multiscale(node.attrs.asdict())
        if multiscale is not None:
            array = node[multiscale["datasets"][0]["path"]]
            return array, _ngff_axes(multiscale)
        arrays = {
            name: member for name, member in node.members(max_depth=2) if isinstance(member, zarr.Array)
        }
    except Exception as error:
        raise VideoError(
            f"The zarr group '{path}' cannot be read: {describe(error)}. Its metadata may be damaged; "
            "open one of "
            "its arrays by its own path."
        ) from error
    if len(arrays) == 1:
        (array,) = arrays.values()
        return array, _dimension_names(array)
    if not arrays:
        raise VideoError(f"The zarr group '{path}' has no array in it; give the path of one that has.")
    listed = ", ".join(f"'{path / name}' {arrays[name].shape}" for name in sorted(arrays))
    raise VideoError(
        f"The zarr group '{path}' holds {len(arrays)} arrays; open one of them by its path: {listed}."
    )


def _multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    # From version 0.5 on, OME-NGFF keeps its metadata under "ome".
    found = attributes.get("ome", attributes).get("multiscales")
    return found[0] if found else None


def _ngff_axes(multiscale: Mapping[str, Any]) -> str:
    axes = multiscale.get("axes")
    if not axes:
        return _FIRST_NGFF_AXES
    names = [axis["name"] if isinstance(axis, Mapping) else axis for axis in axes]
    return "".join(str(name)[0] for name in names).upper()


def _dimension_names(array: Any) -> str | None:
    """Return the axes that an array's dimension names say, if they are all known.

    zarr 3 has them in its metadata; with zarr 2 xarray writes them as an attribute.
    """
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    letters = "".join(str(name)[:1] for name in names).upper()
    known = (
        len(letters) == len(array.shape)
        and set(letters) <= set("TCZYX")
        and len(set(letters)) == len(letters)
    )
    return letters if known and {"Y", "X"} <= set(letters) else None
