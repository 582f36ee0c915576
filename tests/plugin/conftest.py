"""A viewer with a clip of known truth, the widget in its dock, and a mouse for the canvas."""

from __future__ import annotations

import time

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication

from napari_surgsam2._napari.session import Session
from napari_surgsam2._napari.widget import SurgSam2Widget
from napari_surgsam2._napari.worker import TrackerThread
from napari_surgsam2.checkpoints import CACHE_VARIABLE, load_model
from napari_surgsam2.prompts import Point, central_position
from napari_surgsam2.synthetic import SyntheticClip, make_scene

FRAMES = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing that is kept unasked comes from another test, or from the user."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def threads_end(monkeypatch):
    """Every tracker's thread has ended when a test is over."""
    threads = []
    start = TrackerThread.__init__

    def noted(self):
        start(self)
        threads.append(self)

    monkeypatch.setattr(TrackerThread, "__init__", noted)
    yield
    for thread in threads:
        thread.close()
        thread.join(30)
        assert not thread._thread.is_alive()


@pytest.fixture(scope="session")
def nano():
    """Keeps the built-in model, for smaller pictures than its own: in half the time."""
    return load_model("nano", image_size=192, device="cpu")


@pytest.fixture(autouse=True)
def shared_nano(nano, monkeypatch):
    """Sessions take that model."""
    from napari_surgsam2._napari import models

    monkeypatch.setattr(models, "_models", {("nano", None, "auto"): nano})


@pytest.fixture(scope="session")
def surgery():
    """The first 16 frames, 256 x 320 RGB, of a made-up clip with two objects that `nano` does well."""
    scene = make_scene(3, 60, (256, 320))
    frames = [scene.draw(t) for t in range(FRAMES)]
    return SyntheticClip(np.stack([f[0] for f in frames]), np.stack([f[1] for f in frames]), scene.names)


@pytest.fixture
def viewer(make_napari_viewer):
    """A viewer that is not shown."""
    return make_napari_viewer()


@pytest.fixture
def open_widget(qtbot):
    """Open the widget in a viewer, as the Plugins menu does, with the model ready.

    A `ViewerModel` has no window to dock it in, and is far quicker.
    """
    opened = []

    def opening(viewer, wait=True):
        widget = SurgSam2Widget(viewer)
        if hasattr(viewer, "window"):
            viewer.window.add_dock_widget(widget, name="Segment a video")
        opened.append(widget)
        if wait:
            widget.wait(60)
        return widget

    yield opening
    for widget in opened:
        widget.shut_down()


def true_objects(clip):
    """Return the labels of a clip that show well in its first frame, largest first."""
    ids, counts = np.unique(clip.labels[0], return_counts=True)
    shown = [(n, i) for i, n in zip(ids.tolist(), counts.tolist(), strict=True) if i and n > 200]
    return [i for _, i in sorted(shown, reverse=True)]


def click_on(clip, label, object_id=1, frame=0, positive=True):
    """Return a click in the middle of what a frame shows of an object."""
    y, x = central_position(clip.labels[frame] == label)
    return Point(frame, y, x, object_id, positive)


def press(button):
    """Press a button of the widget."""
    button.native.click()


def until(condition, seconds=20.0):
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        QApplication.processEvents()
        time.sleep(0.001)


class Mouse:
    """Clicks on a viewer's canvas, at positions in the world."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.canvas = viewer.window._qt_viewer.canvas
        until(lambda: self.canvas.native.isVisible())
        QApplication.processEvents()

    def at(self, y, x):
        """Return where on the canvas a world position (y, x) is."""
        corner = np.array(self.canvas._map_canvas2world((0, 0), self.canvas.view)[-2:])
        step = np.array(self.canvas._map_canvas2world((100, 100), self.canvas.view)[-2:]) - corner
        place = (np.array([y, x]) - corner) / step * 100
        return QPoint(round(place[1]), round(place[0]))

    def click(self, y, x, button=Qt.MouseButton.LeftButton, modifier=Qt.KeyboardModifier.NoModifier):
        """Click."""
        self.qtbot.mouseClick(self.canvas.native, button, modifier, self.at(y, x))
        QApplication.processEvents()


__all__ = ["FRAMES", "Mouse", "Session", "click_on", "press", "true_objects", "until"]
