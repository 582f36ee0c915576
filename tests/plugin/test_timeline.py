"""The confidence timeline, by its pixels and its signal."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject, QPoint, Qt
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QLabel

from napari_surgsam2._napari.timeline import ConfidenceTimeline, column_minima, readable_color
from napari_surgsam2.errors import UsageError

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
DARK, LIGHT = ("#262930", "#f0f1f2"), ("#efebe9", "#3b3a39")
NO_FRAMES = np.zeros(0, np.float32)


@pytest.fixture
def timeline(qtbot):
    """A timeline on the screen, 900 pixels wide."""
    widget = ConfidenceTimeline()
    qtbot.addWidget(widget)
    widget.resize(900, 130)
    widget.show()
    qtbot.waitExposed(widget)
    return widget


def even(n: int, value: float) -> np.ndarray:
    return np.full(n, value, np.float32)


def picture(widget) -> np.ndarray:
    """Return what a widget shows, (Y, X, 3) int."""
    image = QImage(widget.size(), QImage.Format.Format_RGBA8888)  # whatever the screen's depth
    widget.render(image)
    data = image.constBits()
    if hasattr(data, "setsize"):
        data.setsize(image.sizeInBytes())
    rows = np.frombuffer(data, np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 4 * image.width()].reshape(image.height(), image.width(), 4)[..., :3].astype(int)


def places(timeline, color) -> np.ndarray:
    """Return the (y, x) of the canvas's pixels that look like a pure colour, (N, 2)."""
    seen = picture(timeline.canvas)
    strong = np.array(color) > 0.5
    return np.argwhere(seen[..., strong].min(axis=-1) - seen[..., ~strong].max(axis=-1) > 60)


def curve(timeline, color) -> np.ndarray:
    """Return such places in the range of confidence 0 to 1, above the triangles at the bottom."""
    found = places(timeline, color)
    return found[found[:, 0] <= y_of(timeline, 0)]


def x_of(timeline, frame: float) -> int:
    """Return the canvas's pixel column of a frame."""
    axes = timeline.figure.axes[0]
    return round(axes.transData.transform((frame, 0))[0] / timeline.canvas.device_pixel_ratio)


def y_of(timeline, confidence: float, axes: int = 0) -> int:
    """Return the canvas's pixel row of a confidence, or of a place in the strip (axes 1)."""
    y = timeline.figure.axes[axes].transData.transform((0, confidence))[1]
    return round(timeline.canvas.height() - y / timeline.canvas.device_pixel_ratio)


def chosen_by(timeline) -> list[int]:
    frames: list[int] = []
    timeline.frame_chosen.connect(frames.append)
    return frames


def click(qtbot, timeline, frame: float, button=Qt.MouseButton.LeftButton) -> None:
    qtbot.mouseClick(timeline.canvas, button, pos=QPoint(x_of(timeline, frame), 30))


class Paints(QObject):
    """Counts how often a widget is painted."""

    def __init__(self, widget) -> None:
        super().__init__()
        self.count = 0
        widget.installEventFilter(self)

    def eventFilter(self, _widget, event) -> bool:
        self.count += event.type() == QEvent.Type.Paint
        return False


# ---- the mouse


@pytest.mark.parametrize("frame", [0, 1, 50, 98, 99])
def test_a_click_chooses_the_frame_under_it(qtbot, timeline, frame) -> None:
    timeline.set_frames(100)
    chosen = chosen_by(timeline)
    click(qtbot, timeline, frame)
    assert chosen == [frame]


def test_a_drag_chooses_each_frame_once_and_stops_at_the_ends(qtbot, timeline) -> None:
    timeline.set_frames(100)
    chosen = chosen_by(timeline)
    left = Qt.MouseButton.LeftButton
    qtbot.mousePress(timeline.canvas, left, pos=QPoint(x_of(timeline, 96), 30))
    for x in (x_of(timeline, 96) + 1, x_of(timeline, 97), timeline.canvas.width() - 1):
        qtbot.mouseMove(timeline.canvas, QPoint(x, 30))
    qtbot.mouseRelease(timeline.canvas, left, pos=QPoint(timeline.canvas.width() - 1, 30))
    qtbot.mouseMove(timeline.canvas, QPoint(x_of(timeline, 10), 30))
    assert chosen == [96, 97, 99]


def test_other_buttons_and_an_empty_timeline_choose_nothing(qtbot, timeline) -> None:
    chosen = chosen_by(timeline)
    click(qtbot, timeline, 0)
    timeline.set_frames(100)
    click(qtbot, timeline, 50, Qt.MouseButton.RightButton)
    assert chosen == []


def test_where_a_pixel_is_many_frames_a_click_finds_the_doubtful_one(qtbot, timeline) -> None:
    confidence = even(100_000, 0.9)
    confidence[40_123] = 0.2
    timeline.set_frames(100_000)
    timeline.set_object(1, RED, confidence, [])
    chosen = chosen_by(timeline)
    click(qtbot, timeline, 40_123)
    timeline.set_threshold(0.6)
    click(qtbot, timeline, 40_123)
    click(qtbot, timeline, 60_000)
    assert chosen[0] != 40_123
    assert chosen[1] == 40_123
    assert abs(chosen[2] - 60_000) < 200


def test_what_the_program_sets_is_not_told_back(timeline) -> None:
    chosen = chosen_by(timeline)
    timeline.set_frames(10)
    timeline.set_object(1, RED, even(10, 0.5), [0])
    timeline.set_current(5)
    timeline.set_memory([0], [3], [4])
    timeline.set_threshold(0.5)
    timeline.clear()
    assert chosen == []


# ---- curves


@pytest.mark.parametrize("confidence", [0.1, 0.5, 1.0])
def test_a_curve_has_its_colour_and_height(qtbot, timeline, confidence) -> None:
    timeline.set_frames(50)
    timeline.set_object(1, RED, even(50, confidence), [])
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    rows = curve(timeline, RED)[:, 0]
    assert abs(rows - y_of(timeline, confidence)).max() <= 1
    columns = curve(timeline, RED)[:, 1]
    assert columns.min() <= x_of(timeline, 0) + 1
    assert columns.max() >= x_of(timeline, 49) - 1


def test_frames_that_were_not_tracked_are_a_gap(qtbot, timeline) -> None:
    confidence = even(100, 0.8)
    confidence[40:60] = np.nan
    timeline.set_frames(100)
    timeline.set_object(1, RED, confidence, [])
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    columns = curve(timeline, RED)[:, 1]
    assert not np.any((columns > x_of(timeline, 39) + 2) & (columns < x_of(timeline, 60) - 2))


def test_a_frame_tracked_alone_is_a_dot(qtbot, timeline) -> None:
    confidence = even(100, np.nan)
    confidence[30] = 0.7
    timeline.set_frames(100)
    timeline.set_object(1, RED, confidence, [])
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    y, x = curve(timeline, RED).mean(axis=0)
    assert abs(x - x_of(timeline, 30)) <= 1
    assert abs(y - y_of(timeline, 0.7)) <= 1


def test_a_single_doubtful_frame_of_100000_is_seen(qtbot, timeline) -> None:
    confidence = even(100_000, 0.95)
    confidence[77_777] = 0.05
    timeline.set_frames(100_000)
    timeline.set_object(1, RED, confidence, [])
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    found = curve(timeline, RED)
    low = found[found[:, 0] > y_of(timeline, 0.3)]
    assert len(low) > 0
    assert abs(low[:, 1] - x_of(timeline, 77_777)).max() <= 2


def test_absent_frames_are_dotted(qtbot, timeline) -> None:
    timeline.set_frames(100)
    absent = np.zeros(100, bool)
    absent[50:] = True
    timeline.set_object(1, RED, even(100, 0.8), [], absent)
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    columns = np.unique(curve(timeline, RED)[:, 1])
    middle = x_of(timeline, 50)
    solid, dotted = (columns < middle).sum(), (columns > middle).sum()
    assert 0.1 * solid < dotted < 0.8 * solid


def test_a_new_value_replaces_the_curve(qtbot, timeline) -> None:
    timeline.set_frames(50)
    timeline.set_object(1, RED, even(50, 0.9), [])
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    timeline.set_object(1, RED, even(50, 0.2), [])
    qtbot.waitUntil(lambda: curve(timeline, RED)[:, 0].min() > y_of(timeline, 0.3))


def test_the_values_are_copied(qtbot, timeline) -> None:
    confidence = even(50, 0.9)
    timeline.set_frames(50)
    timeline.set_object(1, RED, confidence, [])
    confidence[:] = 0.1
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    assert curve(timeline, RED)[:, 0].max() < y_of(timeline, 0.5)


def test_objects_are_hidden_shown_and_removed(qtbot, timeline) -> None:
    def colors() -> list[bool]:
        return [len(curve(timeline, color)) > 0 for color in (RED, GREEN)]

    timeline.set_frames(50)
    timeline.set_object(1, RED, even(50, 0.9), [])
    timeline.set_object(2, GREEN, even(50, 0.5), [])
    qtbot.waitUntil(lambda: colors() == [True, True])
    timeline.set_visible_objects([2, 7])
    qtbot.waitUntil(lambda: colors() == [False, True])
    timeline.set_visible_objects(None)
    qtbot.waitUntil(lambda: colors() == [True, True])
    timeline.remove_object(2)
    timeline.remove_object(7)
    qtbot.waitUntil(lambda: colors() == [True, False])
    timeline.clear()
    qtbot.waitUntil(lambda: colors() == [False, False])


def test_prompted_frames_of_two_objects_are_marked_one_above_the_other(qtbot, timeline) -> None:
    timeline.set_frames(100)
    nothing = even(100, np.nan)
    timeline.set_object(1, RED, nothing, [20])
    timeline.set_object(2, GREEN, nothing, [20, 500])
    qtbot.waitUntil(lambda: min(len(places(timeline, c)) for c in (RED, GREEN)) > 5)
    (red_y, red_x), (green_y, green_x) = (places(timeline, c).mean(axis=0) for c in (RED, GREEN))
    assert red_x == pytest.approx(x_of(timeline, 20), abs=1)
    assert green_x == pytest.approx(x_of(timeline, 20), abs=1)
    assert green_y < red_y - 3
    assert red_y > y_of(timeline, 0)


def test_a_prompted_frame_that_guides_no_other_is_an_empty_triangle(qtbot, timeline) -> None:
    text = timeline.findChild(QLabel).toolTip
    timeline.set_frames(100)
    nothing = even(100, np.nan)
    timeline.set_object(1, RED, nothing, [20, 60])
    timeline.set_object(2, GREEN, nothing, [40, 80], doubted=[80])

    def size(frame, color) -> int:
        found = places(timeline, color)
        return np.count_nonzero(abs(found[:, 1] - x_of(timeline, frame)) < 8)

    qtbot.waitUntil(lambda: 0 < size(80, GREEN) < size(40, GREEN))
    assert min(size(20, RED), size(60, RED)) > size(80, GREEN)
    assert "△ guides no other frame" in text()

    timeline.set_object(2, GREEN, nothing, [40, 80])
    qtbot.waitUntil(lambda: abs(size(80, GREEN) - size(40, GREEN)) < 4)
    assert "△" not in text()


def test_another_length_forgets_the_objects_and_the_same_one_does_not(qtbot, timeline) -> None:
    timeline.set_frames(50)
    timeline.set_object(1, RED, even(50, 0.9), [])
    timeline.set_frames(50)
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    timeline.set_frames(60)
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) == 0)


def test_what_came_while_hidden_is_there_when_shown(qtbot, timeline) -> None:
    timeline.hide()
    timeline.set_frames(50)
    timeline.set_object(1, RED, even(50, 0.9), [])
    timeline.show()
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)


@pytest.mark.parametrize("width", [300, 1300])
def test_curves_fill_another_width(qtbot, timeline, width) -> None:
    timeline.set_frames(5000)
    timeline.set_object(1, RED, even(5000, 0.9), [])
    qtbot.waitUntil(lambda: len(curve(timeline, RED)) > 0)
    timeline.resize(width, 130)
    qtbot.waitUntil(lambda: timeline.canvas.width() == width)
    qtbot.waitUntil(lambda: len(np.unique(curve(timeline, RED)[:, 1])) > width - 80)


# ---- marks


def test_the_line_of_the_current_frame_moves(qtbot, timeline) -> None:
    def line() -> list[int]:
        """Return the columns right of the axis that are bright from top to bottom of the plot."""
        rows = picture(timeline.canvas)[y_of(timeline, 1) : y_of(timeline, 0), 70:]
        return (70 + np.flatnonzero(rows.min(axis=(0, 2)) > 90)).tolist()

    def is_at(frame: int) -> bool:
        return bool(line()) and abs(np.mean(line()) - x_of(timeline, frame)) <= 1

    timeline.set_frames(100)
    timeline.set_current(30)
    qtbot.waitUntil(lambda: is_at(30))
    timeline.set_current(70)
    qtbot.waitUntil(lambda: is_at(70))
    timeline.set_current(100)
    qtbot.waitUntil(lambda: not line())


def test_memories_are_marked_and_written_out(qtbot, timeline) -> None:
    def marked(frame: int, row: float) -> bool:
        x, y = x_of(timeline, frame), y_of(timeline, row, axes=1)
        patch = picture(timeline.canvas)[y - 1 : y + 2, x - 1 : x + 2]
        return bool((patch.min(axis=-1) > 150).sum() >= 4)

    timeline.set_frames(100)
    timeline.set_current(60)
    timeline.set_memory([0, 40], [52, 48], [56, 300])
    qtbot.waitUntil(lambda: marked(48, 0.75))
    assert [marked(f, 0.75) for f in (0, 40, 52, 56)] == [True, True, True, False]
    assert [marked(f, 0.25) for f in (0, 40, 52, 56)] == [False, False, False, True]
    text = timeline.findChild(QLabel).toolTip()
    assert "conditioning 0, 40 " in text
    assert "kept 48, 52 " in text
    assert "pruned 56, 300" in text


def test_many_memories_are_cut_short_in_the_text(timeline) -> None:
    timeline.set_frames(100)
    timeline.set_memory(range(20), [], [])
    assert "conditioning …, 12, 13, 14, 15, 16, 17, 18, 19 " in timeline.findChild(QLabel).toolTip()


def test_the_text_leaves_the_legend_out_where_it_is_narrow(qtbot, timeline) -> None:
    text = timeline.findChild(QLabel).text
    qtbot.waitUntil(lambda: "prompted" in text())
    timeline.resize(300, 130)
    qtbot.waitUntil(lambda: "prompted" not in text())
    assert "kept" in text()


def test_the_threshold_is_a_dashed_line(qtbot, timeline) -> None:
    def share() -> float:
        """Return how much of the row at 0.25 stands out."""
        y = y_of(timeline, 0.25)
        rows = picture(timeline.canvas)[y - 1 : y + 2, 100:800]
        return float((rows.min(axis=-1) > 70).any(axis=0).mean())

    timeline.set_frames(100)
    qtbot.wait(50)
    assert share() < 0.02
    timeline.set_threshold(0.25)
    qtbot.waitUntil(lambda: 0.3 < share() < 0.9)


@pytest.mark.parametrize(("background", "foreground"), [DARK, LIGHT], ids=["dark", "light"])
def test_it_follows_the_theme(qtbot, timeline, background, foreground) -> None:
    def rgb(color: str) -> list[int]:
        return [int(color[i : i + 2], 16) for i in (1, 3, 5)]

    timeline.set_colors(background, foreground)
    qtbot.waitUntil(lambda: picture(timeline)[-1, 0].tolist() == rgb(background))
    seen = picture(timeline)
    assert seen[0, -1].tolist() == rgb(background)
    for part in (seen[:16, :60], seen[-17:]):  # text above, numbers below
        assert abs(part - rgb(foreground)).max(axis=-1).min() < 60


@pytest.mark.parametrize(("background", "foreground"), [DARK, LIGHT], ids=["dark", "light"])
@pytest.mark.parametrize("color", [(0.15, 0.16, 0.19), (0.94, 0.92, 0.91), (0.0, 0.0, 0.5), (1.0, 1.0, 0.0)])
def test_every_colour_can_be_told_from_the_background(background, foreground, color) -> None:
    import matplotlib.colors as colors

    readable = np.array(readable_color(color, background, foreground))
    assert abs(readable - colors.to_rgb(background)).max() > 0.2


def test_a_colour_that_is_clear_stays() -> None:
    assert readable_color(RED, *DARK) == RED
    assert readable_color((0.0, 0.0, 0.5), *LIGHT) == (0.0, 0.0, 0.5)


# ---- cost and manners


def test_a_stream_of_values_is_drawn_eight_times_a_second_at_most(qtbot, timeline) -> None:
    timeline.set_frames(1000)
    qtbot.wait(150)
    paints, start = Paints(timeline.canvas), time.monotonic()
    for i in range(30):
        timeline.set_object(1, RED, even(1000, i / 30), [])
        qtbot.wait(20)
    assert 1 <= paints.count <= 8 * (time.monotonic() - start) + 1
    qtbot.waitUntil(lambda: abs(curve(timeline, RED)[:, 0].mean() - y_of(timeline, 29 / 30)) <= 1)


def test_it_is_small(timeline) -> None:
    assert timeline.minimumHeight() == 110
    assert timeline.sizeHint().height() == 130
    assert timeline.minimumSizeHint().width() < 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.set_object(1, RED, even(4, 1.0), []), r"`confidence` has shape \(4,\).* 5 frames"),
        (lambda t: t.set_object(1, RED, even(5, 1.0), [], np.zeros(6, bool)), r"`absent` has shape \(6,\)"),
        (lambda t: t.set_frames(-1), r"`n_frames` \(-1\)"),
        (lambda t: t.set_threshold(1.5), r"`value` \(1.5\)"),
        (lambda t: t.set_threshold(float("nan")), r"`value` \(nan\)"),
    ],
)
def test_what_cannot_be_shown_is_said(timeline, call, message) -> None:
    timeline.set_frames(5)
    with pytest.raises(UsageError, match=message):
        call(timeline)


def test_matplotlib_is_imported_late_and_left_as_it_is() -> None:
    code = """
import sys
from qtpy.QtWidgets import QApplication
from napari_surgsam2._napari.timeline import ConfidenceTimeline
assert "matplotlib" not in sys.modules
app = QApplication([])
import matplotlib
settings = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
before = settings()
timeline = ConfidenceTimeline()
timeline.show()
app.processEvents()
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr


# ---- fewer points than pixels


@pytest.mark.parametrize("frame", [0, 1, 49_999, 99_998, 99_999])
def test_no_minimum_is_lost(frame) -> None:
    confidence = even(100_000, 0.9)
    confidence[frame] = 0.1
    reduced = column_minima(confidence, np.zeros(100_000, bool), 777)
    assert len(reduced.lowest) == 777
    (column,) = np.flatnonzero(reduced.lowest < 0.5)
    assert abs(reduced.frames[column] - frame) <= 100_000 / 777


def test_a_short_curve_is_kept_as_it_is() -> None:
    confidence = np.array([0.1, np.nan, 0.3], np.float32)
    absent = np.array([True, True, False])
    reduced = column_minima(confidence, absent, 500)
    np.testing.assert_array_equal(reduced.lowest, confidence)
    assert reduced.frames.tolist() == [0, 1, 2]
    assert reduced.absent.tolist() == [True, False, False]


def test_columns_are_unknown_or_absent_only_if_all_their_frames_are() -> None:
    nan = np.nan
    confidence = np.array([nan, nan, nan, 0.4, 0.5, nan, 0.6, 0.7], np.float32)
    absent = np.array([True, True, False, False, True, True, True, False])
    reduced = column_minima(confidence, absent, 4)
    np.testing.assert_allclose(reduced.lowest, [nan, 0.4, 0.5, 0.6])
    assert reduced.absent.tolist() == [False, False, True, False]
    assert len(column_minima(NO_FRAMES, NO_FRAMES.astype(bool), 4).lowest) == 0
