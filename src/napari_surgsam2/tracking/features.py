"""Image features of recently seen frames, kept on the device up to a byte limit."""

from __future__ import annotations

from collections import OrderedDict

from napari_surgsam2.network import FrameFeatures


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
