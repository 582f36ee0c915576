"""Units of layers: napari shows all in one, the smallest, and its `world_to_data` takes a layer's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer


def unit_factors(given: Sequence[Any] | None, wanted: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return what positions in some units are multiplied by to be in others, an entry for each of `wanted`.

    Parameters
    ----------
    given : sequence of pint.Unit or None
        One for each axis, the last ones being those of `wanted`; None where positions have no units.
    wanted : sequence of pint.Unit
        One for each axis. Where one is missing or cannot be converted, none is: so does napari.
    """
    if given is None or len(given) < len(wanted):
        return np.ones(len(wanted))
    pairs = list(zip(given[-len(wanted) :], wanted, strict=True))
    if not all(one.is_compatible_with(other) for one, other in pairs):
        return np.ones(len(wanted))
    return np.array([float((1.0 * one).to(other).magnitude) for one, other in pairs])


def viewer_factors(viewer: ViewerModel, layer: Layer) -> npt.NDArray[np.float64]:
    """Return what positions of the viewer are multiplied by to be in a layer's units, (D,)."""
    shown = getattr(viewer.dims, "units", None)  # None where layers have units of different kinds
    return unit_factors(shown, layer.units)


def place_in_view(viewer: ViewerModel, layer: Layer) -> npt.NDArray[np.float64]:
    """Return where in a layer's data the viewer's sliders are, (D,)."""
    place = np.zeros(layer.ndim)
    shown = viewer.dims.point[-layer.ndim :]
    place[-len(shown) :] = shown  # fewer while the viewer is being closed
    found: npt.NDArray[np.float64] = np.asarray(layer.world_to_data(place * viewer_factors(viewer, layer)))
    return found


def layer_to_layer(row: npt.ArrayLike, layer: Layer, other: Layer) -> npt.NDArray[np.float64]:
    """Take a position in a layer's data, (D,), to another layer with as many axes."""
    world = np.asarray(layer.data_to_world(row)) * unit_factors(layer.units, other.units)
    moved: npt.NDArray[np.float64] = np.asarray(other.world_to_data(world))
    return moved
