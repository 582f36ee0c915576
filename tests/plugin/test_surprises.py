"""What users do that is easily forgotten, and what must not come of it."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_surgsam2._napari import saving
from napari_surgsam2.prompts import Box, Mask, Point

from .conftest import click_on, true_objects, until
from .sessions import blob_clip, click, middle, session_on, track


@pytest.fixture
def blobs(qapp):
    """A session with one click, and the truth."""
    video, masks = blob_clip(6)
    with session_on(video) as session:
        click(session, middle(masks))
        yield session, masks


def test_a_stroke_that_was_taken_back_says_nothing(blobs):
    """napari's own undo tells nobody; an empty frame is not one that the user emptied."""
    session, _ = blobs
    session.labels.paint((4, 20, 20), 1)
    assert (4, 1) in session.drawing.edited
    session.labels.undo()

    track(session)

    assert not any(isinstance(p, Mask) for p in session.all_prompts)
    assert (session.labels.data[4] == 1).any()


def test_a_stroke_that_stays_is_a_prompt(blobs):
    session, _ = blobs
    session.labels.paint((4, 20, 20), 1)
    track(session)
    assert [p.frame for p in session.all_prompts if isinstance(p, Mask)] == [4]


@pytest.mark.parametrize("features", [None, {"note": ["mine"]}])
def test_rectangles_of_ones_own_are_taken_with_any_columns(features, blobs):
    session, masks = blobs
    y, x = np.nonzero(masks[2])
    corners = np.array(
        [[2, y.min(), x.min()], [2, y.min(), x.max()], [2, y.max(), x.max()], [2, y.max(), x.min()]]
    )
    layer = session.viewer.add_shapes([np.array(corners)], shape_type="rectangle", features=features, ndim=3)

    session.use_boxes(layer)
    session.wait(30)

    assert [p for p in session.all_prompts if isinstance(p, Box)] != []
    track(session)
    assert (session.labels.data[5] == 1).any()


def test_a_click_after_a_removal_was_undone_refines_what_is_seen(blobs):
    session, _ = blobs
    track(session)
    session.remove_object(1)
    session.wait(30)
    session.undo()
    session.wait(30)
    before = (session.labels.data[4] == 1).sum()
    assert before

    click(session, Point(4, 2.0, 2.0, 1, False))

    assert (session.labels.data[4] == 1).sum() > before / 2


def test_labels_that_cannot_be_written_end_the_pass_with_one_message(blobs, monkeypatch):
    session, _ = blobs
    told = len(session.told)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.canvas, "write", full)
    session.track()
    session.wait(60)
    assert not session.tracking
    assert any("cannot be written" in text for text in session.told[told:])
    assert len(session.told) - told < 3


def test_an_image_that_is_filtered_in_place_is_seen_anew(blobs):
    session, masks = blobs
    before = session.labels.data[0].copy()
    session.image.data = np.where(masks, 30, session.image.data).astype(np.uint8)
    session.wait(30)
    session.clear_frame(0)
    session.wait(30)
    click(session, middle(masks))
    assert not np.array_equal(session.labels.data[0], before)


def test_an_image_that_is_filtered_while_tracking_ends_the_pass(blobs):
    session, _ = blobs
    session.track()
    session.image.data = session.image.data.copy()
    assert not session.tracking
    session.wait(30)
    track(session)
    assert (session.labels.data[5] == 1).any()


def test_a_new_object_is_none_of_the_users_labels(qapp):
    video, _ = blob_clip(400, (64, 64))
    mine = np.zeros(video.shape, np.uint16)
    mine[399, :4, :4], mine[0, 60:, 60:] = 1, 2
    with session_on(video, labels=lambda viewer: viewer.add_labels(mine, name="mine")) as session:
        session._looking._waiting.clear()
        session._ids = {1}
        session._looking.do(iter([None] * 10**6))  # still looking
        assert session.new_object() == 3
        session._looking.stop()


def test_an_image_that_becomes_another_video_ends_what_was_of_the_old(open_widget, clip_viewer):
    viewer, widget = clip_viewer
    old = widget.session
    viewer.layers[0].data = viewer.layers[0].data[:3]
    until(lambda: widget.session is not None and widget.session is not old)
    assert widget.session.stack.n_frames == 3


@pytest.fixture
def clip_viewer(qapp, open_widget):
    from napari.components import ViewerModel

    viewer = ViewerModel()
    viewer.add_image(blob_clip(6)[0], name="clip")
    return viewer, open_widget(viewer)


@pytest.mark.parametrize(
    ("typed", "kind", "made"),
    [
        ("clip_masks.tif", "Folder of DAVIS PNGs (*)", "clip_masks"),
        ("clip_masks.tif", "COCO JSON (*.json)", "clip_masks.json"),
        ("run1", "TIFF stack (*.tif)", "run1.tif"),
        ("v1.2", "zarr (*.zarr)", "v1.2.zarr"),
    ],
)
def test_the_kind_that_was_chosen_is_written(typed, kind, made, clip_viewer, tmp_path, monkeypatch):
    _, widget = clip_viewer
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / typed), kind))
    widget.keeper.ask_masks()
    until(lambda: not widget.keeper.is_busy)
    assert [f.name for f in tmp_path.iterdir() if f.name != "cache"] == [made]


@pytest.mark.parametrize("answer", [QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No])
def test_a_file_that_the_dialog_did_not_ask_about_is_asked_about(answer, clip_viewer, tmp_path, monkeypatch):
    _, widget = clip_viewer
    (tmp_path / "run1.csv").write_text("mine")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "run1"), "CSV (*.csv)"))
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answer)
    widget.keeper.ask_measurements()
    until(lambda: not widget.keeper.is_busy)
    kept = (tmp_path / "run1.csv").read_text() == "mine"
    assert kept == (answer == QMessageBox.StandardButton.No)


def test_one_stray_click_does_not_replace_what_an_earlier_session_kept(
    open_widget, surgery, tmp_path, monkeypatch, qapp
):
    import tifffile
    from napari.components import ViewerModel

    path = tmp_path / "clip.tif"
    tifffile.imwrite(path, surgery.video[:4], photometric="rgb")
    first, *_ = true_objects(surgery)

    def opened(prompts):
        viewer = ViewerModel()
        image = viewer.add_image(surgery.video[:4], name="clip")
        image.metadata = {"napari_surgsam2": {"video": str(path)}}
        widget = open_widget(viewer)
        widget.session.add_prompts(prompts)
        widget.wait(60)
        widget.keeper.autosave(now=True)
        kept = saving.autosave_path(widget.session.image, widget.session.stack)
        widget.shut_down()
        return kept

    yesterday = opened([click_on(surgery, first, frame=t) for t in range(4)])
    text = yesterday.read_text()
    today = opened([click_on(surgery, first)])
    assert today == yesterday
    assert today.read_text() != text
    aside = [f for f in today.parent.iterdir() if f != today]
    assert [f.read_text() for f in aside] == [text]
    again = opened([click_on(surgery, first)])  # nothing is lost by that
    assert len(list(again.parent.iterdir())) == 2


def test_two_new_objects_without_prompts_are_one(blobs):
    session, _ = blobs
    assert session.new_object() == session.new_object() == 2
