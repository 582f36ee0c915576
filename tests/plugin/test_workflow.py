"""The whole way in a real viewer: open, click, track, stop, correct, track on, save, open again."""

import numpy as np
from qtpy.QtCore import Qt

from napari_surgsam2.evaluation import region_similarity
from napari_surgsam2.masks import read_labels
from napari_surgsam2.prompts import central_position

from .conftest import FRAMES, Mouse, press, true_objects, until


def j(widget, clip, object_id, label, frame):
    """Return the region similarity of an object's mask in a frame."""
    return float(
        region_similarity(widget.session.canvas.frame(frame) == object_id, clip.labels[frame] == label)
    )


def test_from_an_open_video_to_saved_masks(make_napari_viewer, open_widget, surgery, qtbot, tmp_path):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(surgery.video, name="clip", scale=(1, 0.5, 0.5), translate=(0, 10, -20))
    widget = open_widget(viewer)
    session, controls = widget.session, widget.controls
    image, mouse = session.image, Mouse(viewer, qtbot)
    session.go_to(0)

    # A click gives a mask at once.
    first, second = true_objects(surgery)[:2]
    for object_id, label in enumerate((first, second), 1):
        if object_id > 1:
            press(controls.new_object)
        y, x = central_position(surgery.labels[0] == label)
        mouse.click(*image.data_to_world((0, y, x))[1:])
        widget.wait()
        assert j(widget, surgery, object_id, label, 0) >= 0.75
    assert [(p.frame, p.object_id, p.positive) for p in session.all_prompts] == [(0, 1, True), (0, 2, True)]

    # Stopping keeps what is done.
    press(controls.track_all)
    until(lambda: session.canvas.frame(FRAMES // 2 - 2).any())
    press(controls.stop)
    widget.wait()
    reached = int(np.flatnonzero(session.records[1].present).max())
    assert FRAMES // 2 - 2 <= reached < FRAMES - 1
    assert j(widget, surgery, 1, first, reached) >= 0.75

    # A correction, and tracking on from there.
    session.go_to(reached)
    correction = surgery.labels[reached] == first
    y, x = central_position(correction & ~(session.canvas.frame(reached) == 1) | correction)
    session.set_current_object(1)
    mouse.click(*image.data_to_world((reached, y, x))[1:])
    widget.wait()
    corrected = session.canvas.frame(reached) == 1
    before = session.canvas.frame(reached - 1).copy()
    press(controls.track_forward)
    widget.wait()
    np.testing.assert_array_equal(session.canvas.frame(reached) == 1, corrected)
    np.testing.assert_array_equal(session.canvas.frame(reached - 1), before)
    for object_id, label in ((1, first), (2, second)):
        scores = [j(widget, surgery, object_id, label, t) for t in range(FRAMES)]
        assert np.mean(scores) >= 0.75

    # What is saved is what is seen.
    widget.keeper.write_masks(tmp_path / "masks.tif")
    widget.keeper.write_measurements(tmp_path / "measurements.csv")
    widget.keeper.write_project(tmp_path / "clip.surgsam2.json")
    widget.wait()
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / "masks.tif")), session.labels.data)
    assert (tmp_path / "measurements.csv").read_text().count("\n") > FRAMES

    # The project brings the prompts back into a new viewer.
    other = make_napari_viewer()
    other.add_image(surgery.video, name="again")
    second_widget = open_widget(other)
    second_widget.load_project(tmp_path / "clip.surgsam2.json")
    second_widget.wait()
    assert second_widget.session.all_prompts == session.all_prompts
    np.testing.assert_array_equal(second_widget.session.canvas.frame(0), session.canvas.frame(0))


def test_the_right_button_and_control_say_what_does_not_belong(
    make_napari_viewer, open_widget, surgery, qtbot
):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(surgery.video)
    widget = open_widget(viewer)
    mouse = Mouse(viewer, qtbot)
    widget.session.go_to(0)
    mouse.click(100, 100)
    mouse.click(50, 200, Qt.MouseButton.RightButton)
    mouse.click(60, 210, Qt.MouseButton.MiddleButton)
    mouse.click(70, 220, modifier=Qt.KeyboardModifier.ControlModifier)
    mouse.click(110, 100)
    widget.wait()
    assert [p.positive for p in widget.session.all_prompts] == [True, False, False, False, True]
    symbols = [str(s.value) for s in widget.session.points.symbol]
    assert symbols == ["disc", "x", "x", "x", "disc"]

    place = mouse.at(80, 230)
    qtbot.mousePress(mouse.canvas.native, Qt.MouseButton.RightButton, pos=place)
    widget.session.prompts.remind()  # as where the viewer came to rest at another plane meanwhile
    qtbot.mouseRelease(mouse.canvas.native, Qt.MouseButton.RightButton, pos=place)
    widget.wait()
    assert not widget.session.all_prompts[-1].positive
    assert len(widget.session.all_prompts) == 6
