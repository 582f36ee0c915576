"""What users do that is easily forgotten, and what must not come of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_surgsam2._napari import autosaves
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
        session.objects._ids = {1}
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
        kept = autosaves.autosave_path(widget.session)
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


def test_scrolling_through_the_labels_numbers_makes_no_objects(blobs):
    session, _ = blobs
    session.name_object(4, "hook")
    for number in range(1, 7):
        session.labels.selected_label = number
    assert session.current_object == 6
    assert session.object_ids == (1, 4, 6)
    session.labels.paint((3, 80, 90), 6)
    session.labels.selected_label = 2
    session.set_current_object(1)
    assert session.object_ids == (1, 4, 6)


def test_an_object_of_another_plane_stays_in_the_table(qapp):
    video, masks = blob_clip(3)
    with session_on(np.stack([video, video], axis=1)) as session:
        look_at(session, 0)
        click(session, middle(masks, object_id=2))
        session.set_current_object(2)
        look_at(session, 1)
        session.set_current_object(1)
        assert session.object_ids == (1, 2)


def look_at(session, plane):
    """Go to a plane of a stack, (T, Z, Y, X)."""
    session.viewer.dims.set_point(1, plane)
    until(lambda: session.stack.picked == {1: plane})
    session.wait(30)


def delete_the_layer(session):
    session.viewer.layers.remove(session.labels)


def remove_the_object(session):
    session.remove_object(1)


def put_empty_labels_in(session):
    session.labels.data = np.zeros_like(session.labels.data)


@pytest.mark.parametrize("delete", [delete_the_layer, remove_the_object, put_empty_labels_in])
def test_the_first_click_after_masks_were_deleted_can_be_undone(delete, blobs):
    session, masks = blobs
    delete(session)
    session.wait(30)
    before = session.all_prompts

    click(session, middle(masks, 2))
    assert (session.labels.data[2] == 1).any()
    assert session.history.can_undo

    session.undo()
    session.wait(30)
    assert not session.labels.data[2].any()
    assert session.all_prompts == before


def choose_settings(session, holes):
    """Track with other settings from now on."""
    session.set_choice(replace(session.choice, settings=session.choice.settings.replace(fill_holes=holes)))
    session.wait(30)


def test_a_corrected_mask_outlives_every_change_of_settings(blobs):
    """A negative click corrected what was tracked: from the click alone no mask can be made."""
    session, masks = blobs
    track(session)
    click(session, middle(masks, 4, positive=False))
    track(session)
    tracked = session.labels.data.copy()
    for holes in (20, 30, 40):
        choose_settings(session, holes)
        np.testing.assert_array_equal(session.labels.data, tracked)


def test_a_mask_of_clicks_outlives_settings_under_which_none_comes(blobs):
    """Here what was tracked is not known to be, as in labels of an earlier session."""
    session, masks = blobs
    track(session)
    click(session, middle(masks, 4, positive=False))
    session.records[1].tracked[:] = False
    kept = session.labels.data[4].copy()
    choose_settings(session, 20)
    np.testing.assert_array_equal(session.labels.data[4], kept)


def test_a_clicked_mask_is_made_anew_with_other_settings(blobs):
    session, _ = blobs
    drawn = session.labels.data[0].copy()
    session.labels.data[0] = 0
    choose_settings(session, 20)
    np.testing.assert_array_equal(session.labels.data[0], drawn)


def other_settings(session):
    choose_settings(session, 20)


def other_limits(session):
    session.image.contrast_limits = (0, 240)
    until(lambda: session.loading)
    session.wait(30)


@pytest.mark.parametrize("change", [other_settings, other_limits])
def test_a_click_on_a_tracked_mask_refines_it_also_after_a_change(change, blobs):
    session, masks = blobs
    track(session)
    tracked = session.labels.data[4] == 1
    change(session)

    click(session, middle(masks, 4))

    first, *others = (p for p in session.all_prompts if p.frame == 4)
    assert isinstance(first, Mask)
    assert (first.mask == tracked).all()
    assert others == [middle(masks, 4)]


def test_a_click_on_a_tracked_mask_refines_it_when_the_widget_was_opened_again(clip_viewer, open_widget):
    viewer, widget = clip_viewer
    _, masks = blob_clip(6)
    widget.add_prompts(middle(masks))
    widget.session.track()
    widget.wait(60)
    widget.shut_down()
    session = open_widget(viewer).session
    click(session, middle(masks, 4))
    assert [type(p) for p in session.all_prompts if p.frame == 4] == [Mask, Point]


def test_a_click_right_after_clear_frame_begins_anew(blobs):
    session, masks = blobs
    choose_settings(session, 20)
    session.clear_frame(0)
    session.read_prompts()  # the empty mask is on its way
    again = Point(0, *np.argwhere(masks[0]).mean(axis=0) + 3)
    click(session, again)
    assert session.all_prompts == [again]


def test_a_glance_at_another_plane_leaves_the_steps(qapp):
    video, masks = blob_clip(4)
    with session_on(np.stack([video, video], axis=1)) as session:
        look_at(session, 0)
        click(session, middle(masks))
        track(session)
        look_at(session, 1)
        assert session.history.can_undo == ""
        look_at(session, 0)
        session.undo()
        session.wait(30)
        assert not session.labels.data[1:].any()
        session.redo()
        session.wait(30)
        assert session.labels.data[1:, 0].any(axis=(1, 2)).all()
        look_at(session, 1)
        click(session, middle(masks, 1))
        drawn = session.labels.data[:, 1].copy()
        look_at(session, 0)
        while session.history.can_undo:
            session.undo()
            session.wait(30)
        assert not session.labels.data[:, 0].any()
        np.testing.assert_array_equal(session.labels.data[:, 1], drawn)
        look_at(session, 1)
        assert session.all_prompts == [middle(masks, 1)]
        assert session.history.can_undo == "adding prompts of object 1 on frame 1"


def labels_with(value, frame=-1):
    """Labels of the user's own, with a number in one corner of a frame."""
    video, masks = blob_clip(6)
    mine = np.zeros(video.shape, np.uint16)
    mine[frame, -8:, -8:] = value
    return video, masks, mine


def test_the_first_object_has_no_number_of_the_users_labels(qapp):
    video, _, mine = labels_with(1)
    with session_on(video, labels=lambda viewer: viewer.add_labels(mine, name="mine")) as session:
        assert session.current_object == 2
        session.set_current_object(1)  # to go on with it
        assert session.current_object == 1


def test_prompted_objects_that_the_users_labels_have_too_are_named(blobs):
    session, _ = blobs
    _, _, mine = labels_with(1)
    session.use_labels(session.viewer.add_labels(mine, name="mine"))
    session.wait(30)
    (told,) = session.told
    assert "'mine'" in told
    assert "object 1" in told
    assert session.new_object() == 2
