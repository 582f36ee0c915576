"""Prompted frames that no other frame looks at, and what the user is told of them."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_surgsam2 import TrackingSettings
from napari_surgsam2._napari.doubt import said_of_doubt
from napari_surgsam2.prompts import Point
from napari_surgsam2.tracking import Tracker

from .conftest import press
from .sessions import blob_clip, click, middle, session_on, track

FOG = 2  # the frame in which nothing is to be seen


@pytest.fixture(scope="module")
def foggy():
    """A clip with a blob that is out of sight in one frame, and its masks."""
    video, masks = blob_clip(5)
    video[FOG] = 50
    return video, masks


@pytest.fixture
def session(qapp, foggy):
    """A session in which the blob was clicked where it is seen, and then in the fog."""
    video, masks = foggy
    with session_on(video) as made:
        click(made, middle(masks), middle(masks, FOG))
        yield made


def doubted(session):
    """Return the frames of object 1, having made sure that both ways to ask agree."""
    frames = session.asking.doubted_frames(1)
    there = [f for f in range(session.stack.n_frames) if 1 in session.asking.doubted_objects(f)]
    assert frames == there
    return frames


def test_a_click_that_came_out_badly_is_known(session, foggy):
    _, masks = foggy
    assert doubted(session) == [FOG]
    assert session.asking.prompted_frames(1) == [0, FOG]
    click(session, middle(masks, 1, 2))
    assert doubted(session) == [FOG]
    assert session.asking.doubted_frames(2) == []


def test_a_painted_mask_counts(session, foggy):
    _, masks = foggy
    session.labels.data[FOG] = masks[FOG]
    session.use_painted(FOG)
    session.wait(30)
    assert doubted(session) == []


def test_it_is_gone_with_its_prompts_and_comes_back_with_them(session):
    session.clear_frame(FOG)
    session.wait(30)
    assert doubted(session) == []
    session.undo()
    session.wait(30)
    assert doubted(session) == [FOG]
    session.remove_object(1)
    session.wait(30)
    assert doubted(session) == []
    session.undo()
    session.wait(30)
    assert doubted(session) == [FOG]


def test_other_settings_doubt_others(session):
    chosen = session.choice
    session.set_choice(replace(chosen, settings=TrackingSettings(doubt_masks=False)))
    session.wait(30)
    assert doubted(session) == []
    session.set_choice(chosen)
    session.wait(30)
    assert doubted(session) == [FOG]


def test_it_is_asked_for_in_the_trackers_thread_and_not_in_every_frame(session, monkeypatch):
    asked = []
    ask = Tracker.doubted_frames

    def noted(self, object_id):
        asked.append((object_id, threading.current_thread().name))
        return ask(self, object_id)

    monkeypatch.setattr(Tracker, "doubted_frames", noted)
    track(session)
    assert asked == [(1, "napari-surgsam2 tracker")]
    assert doubted(session) == [FOG]


def test_what_a_pass_makes_of_prompts_is_known_at_its_end(qapp, foggy, monkeypatch):
    """Negative clicks wait until tracking comes to their frame."""
    video, masks = foggy
    with session_on(video) as session:
        click(session, middle(masks), Point(3, 2.0, 2.0, 1, False))
        others = "napari_surgsam2.tracking.tracker.doubtful_frames", lambda known: set(known) - {0}
        monkeypatch.setattr(*others)
        assert doubted(session) == []
        track(session)
        assert doubted(session) == [3]


def test_the_user_is_told_where_it_is(foggy, open_widget):
    video, masks = foggy
    viewer = ViewerModel()
    viewer.add_image(video)
    widget = open_widget(viewer)
    controls, session = widget.controls, widget.session
    session.go_to(FOG)
    widget.add_prompts([middle(masks), middle(masks, FOG)])
    widget.wait()
    assert controls.status.text().startswith(f"Frame {FOG} does not guide the tracking of object 1:")
    assert controls.objects.item(0, 3).text() == "△ 2"
    assert f"Frame {FOG} " in controls.objects.item(0, 3).toolTip()
    assert "△" in widget.review.timeline._header.toolTip()

    session.name_object(1, "blob")
    session.go_to(0)
    widget.wait()
    assert "guide" not in controls.status.text()
    session.go_to(FOG)
    widget.wait()
    assert "tracking of blob:" in controls.status.text()

    session.labels.data[FOG] = masks[FOG]
    press(controls.use_painted)
    widget.wait()
    assert "guide" not in controls.status.text()
    assert controls.objects.item(0, 3).text() == "2"
    assert "△" not in widget.review.timeline._header.toolTip()


def test_many_frames_are_cut_short():
    assert said_of_doubt("it", [4]).startswith("Frame 4 does not guide the tracking of it: its mask there is")
    assert said_of_doubt("it", [4, 5, 6]).startswith("Frames 4, 5 and 6 do not guide")
    assert said_of_doubt("it", list(np.arange(20))).startswith(
        "Frames 0, 1, 2, 3, 4, 5, 6, 7 and 12 more do not guide the tracking of it: its masks there are"
    )
