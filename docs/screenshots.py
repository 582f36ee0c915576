"""Make the pictures of the widget that README and docs show, from the sample clip.

xvfb-run -a -s "-screen 0 1400x900x24" python docs/screenshots.py
"""

from __future__ import annotations

import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication
from superqt import QCollapsible

PICTURES = Path(__file__).parent / "images"
SIZE = (1100, 760)
SMALL = (900, 700)


def settle(seconds: float = 0.6) -> None:
    """Let the window finish what it is doing."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def grab(viewer: napari.Viewer, name: str) -> None:
    """Save the window as a picture."""
    settle()
    picture = viewer.window._qt_window.grab().toImage()
    picture.convertToFormat(picture.Format.Format_RGB888).save(str(PICTURES / f"{name}.png"))


def main() -> None:
    """Click, track, and take pictures on the way."""
    PICTURES.mkdir(exist_ok=True)
    viewer = napari.Viewer()
    window = viewer.window._qt_window
    window.resize(*SIZE)
    viewer.open_sample("napari-surgsam2", "laparoscopy_with_prompts")
    _, widget = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")
    widget.wait()
    session, controls = widget.session, widget.controls
    session.name_object(1, "suction tube")
    session.name_object(2, "grasper")
    session.go_to(0)
    viewer.reset_view()
    grab(viewer, "clicked")
    controls.track_all.native.click()
    widget.wait()
    session.go_to(30)
    viewer.reset_view()
    grab(viewer, "tracked")
    viewer.theme = "light"
    window.resize(*SMALL)
    for part in widget.findChildren(QCollapsible):
        part.expand(animate=False)
    settle()
    grab(viewer, "small-light")
    viewer.close()


if __name__ == "__main__":
    main()
