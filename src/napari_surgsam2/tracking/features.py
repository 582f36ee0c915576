"""Image features: made of a video's frames, and those of recent ones kept."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_surgsam2.checkpoints import Model
from napari_surgsam2.network import ConvNetConfig, FrameFeatures
from napari_surgsam2.prompts import BoolArray
from napari_surgsam2.video import Video, resize_frame

from .views import LOOKS, View
from .window import Window, find_window, whole


class FeatureCache:
    """Least recently used features are let go first; indexed by frame.

    Parameters
    ----------
    limit : int
        Bytes that may be taken; the newest frame is kept even if it alone takes more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._features: OrderedDict[int, FrameFeatures] = OrderedDict()

    def get(self, frame: int) -> FrameFeatures | None:
        """Return the features of a frame, or None."""
        features = self._features.get(frame)
        if features is not None:
            self._features.move_to_end(frame)
        return features

    def put(self, frame: int, features: FrameFeatures) -> None:
        """Keep the features of a frame, letting go of others where needed."""
        self.discard(frame)
        self._features[frame] = features
        self.nbytes += features.nbytes
        while self.nbytes > self.limit and len(self._features) > 1:
            self.discard(next(iter(self._features)))

    def discard(self, frame: int) -> None:
        """Let go of a frame's features, if they are there."""
        features = self._features.pop(frame, None)
        if features is not None:
            self.nbytes -= features.nbytes

    def __contains__(self, frame: int) -> bool:
        return frame in self._features

    def clear(self) -> None:
        """Let go of everything."""
        self._features.clear()
        self.nbytes = 0


class FrameEncoder:
    """Turns frames and masks of a video into what the network works on.

    Parameters
    ----------
    model : Model
        The network, its input size and device.
    video : Video
        The frames.
    cache_bytes : int
        How much memory of the device the features of recent frames may take.
    cropped : bool
        Whether the black around the picture is left out.
    """

    def __init__(self, model: Model, video: Video, cache_bytes: int, cropped: bool) -> None:
        self._model = model
        self._video = video
        self._cropped = cropped
        self.cache = FeatureCache(cache_bytes)
        self._views: tuple[int, list[View]] | None = None  # of the frame that was last asked for

    @cached_property
    def window(self) -> Window:
        """What is looked at of every frame."""
        return find_window(self._video) if self._cropped else whole(self._video)

    @property
    def is_fast_on_cpu(self) -> bool:
        """Whether this runs on a CPU with a trunk that was made for one."""
        on_cpu = self._model.device.type == "cpu"
        return on_cpu and isinstance(self._model.network.config.trunk, ConvNetConfig)

    def features(self, frame: int, seen: Tensor | FrameFeatures | None = None) -> FrameFeatures:
        """Return the features of a frame.

        `seen` is what `image`, or `encode` after it, made of the frame, where that is done.
        """
        if self._views is not None and self._views[0] != frame:
            self._views = None
        features = self.cache.get(frame)
        if features is None:
            if seen is None:
                seen = self.image(self._video.frame(frame))
            features = self.encode(seen) if isinstance(seen, Tensor) else seen
            self.cache.put(frame, features)
        return features

    def encode(self, image: Tensor) -> FrameFeatures:
        """Encode a resized frame, (S, S, 3) uint8."""
        return self._model.network.encode_image(image[None].to(self._model.device))

    def views(self, frame: int) -> list[View]:
        """Return the features of a frame as it is, and in the other ways of looking at it."""
        if self._views is None or self._views[0] != frame:
            self._views = None  # let go before taking more
            image = self.image(self._video.frame(frame))
            plain = View(LOOKS[0], self.features(frame, image))
            self._views = (frame, [plain, *(View(look, self.encode(look(image))) for look in LOOKS[1:])])
        return self._views[1]

    def clear(self) -> None:
        """Let go of all features."""
        self.cache.clear()
        self._views = None

    def image(self, frame: npt.NDArray[np.uint8]) -> Tensor:
        """Resize a frame, (Y, X, 3) uint8, for the network: (S, S, 3) uint8."""
        return torch.from_numpy(resize_frame(frame[self.window.slices], self._model.image_size))

    def mask(self, mask: BoolArray) -> Tensor:
        """Resize a mask, (Y, X) bool, for the network: (1, 1, S, S) bool, on the device."""
        side = (self._model.image_size, self._model.image_size)
        tensor = torch.from_numpy(mask[self.window.slices])[None, None].float()
        if tensor.shape[-2:] != side:
            tensor = F.interpolate(tensor, side, mode="bilinear", antialias=True)
        top = float(tensor.max())
        # What is too thin to fill half a pixel anywhere is not lost.
        return (tensor >= (top / 2 if 0 < top < 0.5 else 0.5)).to(self._model.device)
