"""Where in an image the viewer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .stacks import LayerStack
from .units import place_in_view, viewer_factors

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


class Position:
    """The position of a viewer's sliders in an image.

    Attributes
    ----------
    moving : bool
        Whether it is being changed from here, and not by the user.
    """

    def __init__(self, viewer: ViewerModel, image: Image) -> None:
        self.moving = False
        self._viewer, self._image = viewer, image

    def place(self) -> list[float]:
        """Return the position in the image's data, an entry for each axis."""
        return [float(v) for v in place_in_view(self._viewer, self._image)]

    @property
    def is_in_other_units(self) -> bool:
        """Whether the viewer's units are not the image's."""
        return not np.allclose(viewer_factors(self._viewer, self._image), 1.0)

    def frame(self, stack: LayerStack) -> int:
        """Return the frame of a stack that is in view."""
        if stack.frame_axis is None:
            return 0
        return int(np.clip(round(self.place()[stack.frame_axis]), 0, stack.n_frames - 1))

    def go_to(self, stack: LayerStack, frame: int) -> None:
        """Show a frame of a stack."""
        if stack.frame_axis is not None and frame != self.frame(stack):
            self._move({stack.frame_axis: frame})

    def go_to_plane(self, stack: LayerStack) -> None:
        """Show the plane that a stack was picked at."""
        self._move(stack.picked)

    def _move(self, indices: Mapping[int, int]) -> None:
        """Move the sliders of some axes of the image."""
        row = self.place()
        for axis, index in indices.items():
            row[axis] = index
        world = np.asarray(self._image.data_to_world(row)) / viewer_factors(self._viewer, self._image)
        self.moving = True
        try:
            for axis in indices:
                self._viewer.dims.set_point(self._viewer.dims.ndim - len(row) + axis, float(world[axis]))
        finally:
            self.moving = False
