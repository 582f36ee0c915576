"""Open a viewer, add a video, click and track through the widget, without touching the mouse.

    python examples/drive_the_widget.py [VIDEO FRAME,Y,X]

Without a video a made-up clip is used. The window stays open at the end.
"""

from __future__ import annotations

import sys

import napari

import napari_surgsam2 as ns


def main(video: str | None = None, click: str = "0,280,30") -> napari.Viewer:
    """Segment one object of a video; returns the viewer."""
    viewer = napari.Viewer()
    if video is None:
        viewer.open_sample("napari-surgsam2", "laparoscopy")
    else:
        viewer.open(video, plugin="napari-surgsam2")
    _, widget = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")
    widget.wait()  # until the model is loaded

    frame, y, x = map(float, click.split(","))
    widget.add_prompts(ns.Point(frame=int(frame), y=y, x=x, object_id=1))
    widget.wait()  # until the mask is there

    widget.controls.track_all.native.click()  # as the button does
    widget.wait()

    session = widget.session
    print(f"object 1 is in {session.records[1].present.sum()} of {session.stack.n_frames} frames")
    widget.keeper.write_masks("masks.tif")
    widget.keeper.write_project("clip.surgsam2.json")
    widget.wait()
    return viewer


if __name__ == "__main__":
    main(*sys.argv[1:])
    napari.run()
