"""Where in an image the viewer is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .stacks import LayerStack

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


class Position:
    """The position of a viewer's sliders in an image.

    Attributes
    ----------
    moving : bool
        Whether it is being changed by `go_to`, and not by the user.
    """

    def __init__(self, viewer: ViewerModel, image: Image) -> None:
        self.moving = False
        self._viewer, self._image = viewer, image

    def place(self) -> list[float]:
        """Return the position in the image's data, an entry for each axis."""
        return [float(v) for v in self._image.world_to_data(self._viewer.dims.point)]

    def frame(self, stack: LayerStack) -> int:
        """Return the frame of a stack that is in view."""
        if stack.frame_axis is None:
            return 0
        return int(np.clip(round(self.place()[stack.frame_axis]), 0, stack.n_frames - 1))

    def go_to(self, stack: LayerStack, frame: int) -> None:
        """Show a frame of a stack."""
        axis = stack.frame_axis
        if axis is None or frame == self.frame(stack):
            return
        row = self.place()
        row[axis] = frame
        world = self._image.data_to_world(row)
        self.moving = True
        try:
            self._viewer.dims.set_point(self._viewer.dims.ndim - len(row) + axis, float(world[axis]))
        finally:
            self.moving = False
