"""Sessions in a viewer without a window, and a small clip that the built-in model does well."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from napari.components import ViewerModel
from skimage.draw import ellipse

from napari_surgsam2._napari.session import Session
from napari_surgsam2._napari.worker import TrackerChoice
from napari_surgsam2.prompts import Point


def blob_clip(frames=3, size=(96, 112)):
    """Return gray frames, (T, Y, X) uint8, in which a bright ellipse moves, and its masks, bool."""
    height, width = size
    rng = np.random.default_rng(7)
    video = rng.integers(40, 60, (frames, height, width)).astype(np.uint8)
    masks = np.zeros(video.shape, bool)
    for t in range(frames):
        masks[t][ellipse(height * 0.45, width * 0.4 + 4 * t, height * 0.2, width * 0.16, size)] = True
    video[masks] += 140
    return video, masks


def middle(masks, frame=0, object_id=1, positive=True):
    """Return a click in the middle of a mask, (T, Y, X)."""
    y, x = np.argwhere(masks[frame]).mean(axis=0)
    return Point(frame, float(y), float(x), object_id, positive)


def overlap(found, truth):
    """Return the intersection over the union of two masks."""
    return np.count_nonzero(found & truth) / max(1, np.count_nonzero(found | truth))


@contextmanager
def session_on(data, viewer=None, points=None, labels=None, frame_axis=None, **kwargs):
    """Add an image, begin to segment it, and end that; `told` has what the user was told.

    Points and labels are called with the viewer, to make the layers once there is one.
    """
    viewer = ViewerModel() if viewer is None else viewer
    image = viewer.add_image(data, name="clip", **kwargs)
    session = Session(
        viewer,
        image,
        TrackerChoice("nano"),
        frame_axis,
        None if points is None else points(viewer),
        None if labels is None else labels(viewer),
    )
    session.told = []
    session.failed.connect(session.told.append)
    session.warned.connect(session.told.append)
    session.noticed.connect(session.told.append)
    try:
        session.wait(30)
        yield session
    finally:
        session.close()
        session.join(30)


def click(session, *prompts):
    """Place prompts, and wait for the masks."""
    session.add_prompts(prompts)
    session.wait(30)


def track(session, direction="both", **kwargs):
    """Track, and wait until it is done."""
    session.track(direction, **kwargs)
    session.wait(60)
