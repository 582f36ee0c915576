"""What is saved is what is seen, and comes back; projects, and what is kept unasked."""

import csv
import dataclasses
import json
import shutil
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.utils.notifications import NotificationSeverity, notification_manager
from PIL import Image

from napari_surgsam2 import cli
from napari_surgsam2._napari import saving, slices
from napari_surgsam2._napari.worker import TrackerChoice
from napari_surgsam2.masks import read_labels
from napari_surgsam2.project import load_project, save_project
from napari_surgsam2.prompts import Mask, Point

from .conftest import click_on, press, true_objects, until

FRAMES = 4


@pytest.fixture
def widget(open_widget, surgery):
    """The widget in a viewer without a window, with two objects clicked in an array."""
    viewer = ViewerModel()
    viewer.add_image(surgery.video[:FRAMES], name="clip", scale=(2, 0.5, 0.5), translate=(0, 10, -20))
    return clicked(open_widget(viewer), surgery)


@pytest.fixture(autouse=True)
def plugins(npe2pm):
    """Readers are ours and napari's; discovery is blocked in tests."""
    with npe2pm.tmp_plugin(package="napari-surgsam2"), npe2pm.tmp_plugin(package="napari"):
        yield


@pytest.fixture
def frames(surgery, tmp_path):
    """A folder of frames, as a recorder leaves it."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(FRAMES):
        Image.fromarray(surgery.video[t]).save(folder / f"{t:03}.png")
    return folder


def clicked(widget, surgery):
    clicks = [click_on(surgery, label, n) for n, label in enumerate(true_objects(surgery)[:2], 1)]
    widget.add_prompts(clicks)
    widget.wait()
    widget.session.name_object(2, "hook")
    return widget


def from_folder(open_widget, folder):
    """Open the widget on a folder of frames, in a viewer of its own."""
    viewer = ViewerModel()
    viewer.open(str(folder), plugin="napari-surgsam2")
    widget = open_widget(viewer)
    assert widget.session.image.source.path is not None
    return widget


@pytest.fixture(autouse=True)
def nothing_told():
    notification_manager.records.clear()


def told():
    """Return what went wrong."""
    kinds = (NotificationSeverity.ERROR, NotificationSeverity.WARNING)
    return [str(note.message) for note in notification_manager.records if note.severity in kinds]


def track(widget):
    press(widget.controls.track_all)
    widget.wait()


# Masks and measurements


@pytest.mark.parametrize("name", ["masks.tif", "masks.zarr", "masks", "masks.json"])
def test_saved_masks_are_those_of_the_layer(name, widget, tmp_path):
    track(widget)
    widget.keeper.write_masks(tmp_path / name)
    assert widget.keeper.is_busy
    widget.wait()
    assert told() == []
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / name)), widget.session.labels.data)
    if name.endswith("json"):
        entries = json.loads((tmp_path / name).read_text())["categories"]
        assert "hook" in [entry["name"] for entry in entries]
    # Saving once more replaces them.
    widget.session.remove_object(1)
    widget.keeper.write_masks(tmp_path / name)
    widget.wait()
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / name)), widget.session.labels.data)


def test_of_a_volume_over_time_the_plane_in_view_is_saved(open_widget, surgery, tmp_path):
    viewer = ViewerModel()
    planes = np.stack([surgery.video[:FRAMES, ..., 0], surgery.video[:FRAMES, ..., 1]], axis=1)
    viewer.add_image(planes, name="volume")
    viewer.dims.set_point(1, 1)
    widget = clicked(open_widget(viewer), surgery)
    labels = widget.session.labels.data
    assert labels[0, 1].any()
    labels[2, 1, :20, :20], labels[1, 0, :20, :20] = 1, 1
    widget.keeper.write_masks(tmp_path / "masks.tif")
    widget.keeper.write_measurements(tmp_path / "all.csv")
    widget.keeper.write_project(tmp_path / "all.surgsam2.json")
    widget.wait()
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / "masks.tif")), labels[:, 1])
    # The project knows the plane.
    prompts = widget.session.all_prompts
    other = ViewerModel()
    other.add_image(planes)
    again = open_widget(other)
    assert again.session.stack.picked == {1: 0}
    again.load_project(tmp_path / "all.surgsam2.json")
    again.wait()
    assert told() == []
    assert again.session.stack.picked == {1: 1}
    assert again.session.all_prompts == prompts
    np.testing.assert_array_equal(again.session.canvas.frame(0), labels[0, 1])


@pytest.mark.parametrize("name", ["masks.tif", "masks.xyz", "masks.zarr"])
def test_where_nothing_can_be_written_one_message_says_so(name, widget, tmp_path):
    (tmp_path / "file").write_text("")
    widget.keeper.write_masks(tmp_path / "file" / name)
    widget.wait()
    assert len(told()) == 1
    assert name in told()[0]
    widget.keeper.write_measurements(tmp_path / "file" / "m.csv")
    widget.keeper.write_project(tmp_path / "file" / "p.surgsam2.json")
    widget.wait()
    assert len(told()) == 3
    assert not widget.keeper.is_busy


def test_what_fails_for_an_unforeseen_reason_is_told_and_nothing_waits_for_it(widget, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(saving, "save_masks", failing)
    widget.keeper.write_masks(tmp_path / "masks.tif")
    widget.wait(10)
    assert told() == ["Something went wrong that should not have (ZeroDivisionError: odd)."]


def test_saving_goes_on_when_the_widget_is_closed(widget, tmp_path, monkeypatch):
    go_on, save = threading.Event(), saving.save_masks
    monkeypatch.setattr(saving, "save_masks", lambda *args: go_on.wait(10) and save(*args))
    masks = widget.session.labels.data.copy()
    widget.keeper.write_masks(tmp_path / "masks.tif")
    (tmp_path / "file").write_text("")
    widget.keeper.write_masks(tmp_path / "file" / "masks.tif")
    widget.shut_down()
    widget.deleteLater()
    go_on.set()
    until(lambda: not widget.keeper.is_busy)
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / "masks.tif")), masks)
    assert len(told()) == 1


def test_measurements_are_of_every_object_and_frame(widget, tmp_path):
    track(widget)
    session = widget.session
    session.labels.features = {"index": [0, 1, 2, 9], "note": ["", "a", "b", "c"]}
    widget.keeper.write_measurements(tmp_path / "m.csv")
    widget.wait()
    with (tmp_path / "m.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    there = {(int(row["frame"]), int(row["object_id"])): row for row in rows}
    for t in range(FRAMES):
        for i in (1, 2):
            count = int((session.canvas.frame(t) == i).sum())
            assert float(there[t, i]["area"]) == pytest.approx(count * 0.25)
            assert float(there[t, i]["confidence"]) == pytest.approx(session.records[i].confidence[t])
    assert {row["name"] for row in rows if row["object_id"] == "2"} == {"hook"}
    features = session.labels.features
    assert features["index"].tolist() == list(range(10))
    assert features["name"].tolist()[:3] == ["", "object 1", "hook"]
    areas = [float(there[t, 2]["area"]) for t in range(FRAMES)]
    assert features["mean_area"][2] == pytest.approx(np.mean(areas))
    # What the user had in there is there still, and measuring twice adds nothing.
    assert features["note"].tolist()[:3] == ["", "a", "b"]
    assert features["note"][9] == "c"
    columns = list(features)
    widget.keeper.write_measurements(tmp_path / "m.csv")
    widget.wait()
    assert sorted(session.labels.features) == sorted(columns)
    assert features["note"][9] == "c"


def test_tracks_lie_on_the_masks(widget):
    track(widget)
    session, before = widget.session, len(widget.viewer.layers)
    press(widget.controls.add_tracks)
    widget.wait()
    assert len(widget.viewer.layers) == before + 1
    layer = widget.viewer.layers[-1]
    assert len(layer.data) == sum(len(set(np.unique(labels)) - {0}) for labels in session.labels.data)
    for row in layer.data:
        world = layer.data_to_world(row[1:])
        t, y, x = session.labels.world_to_data(world)
        mask = session.canvas.frame(round(float(t))) == row[0]
        np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), (y, x), atol=1e-4)


def test_without_masks_there_are_no_tracks(open_widget, surgery):
    viewer = ViewerModel()
    viewer.add_image(surgery.video[:2])
    widget = open_widget(viewer)
    press(widget.controls.add_tracks)
    widget.wait()
    assert told() == ["There are no masks; track something first."]


# Projects


def test_a_project_opens_its_video_and_is_replayed_by_the_command_line(
    open_widget, surgery, frames, tmp_path, monkeypatch, nano
):
    widget = clicked(from_folder(open_widget, frames), surgery)
    widget.add_prompts(Mask(3, surgery.labels[3] == true_objects(surgery)[1], 2))
    path = tmp_path / "study.surgsam2.json"
    widget.keeper.write_project(path)  # what was just said is in it
    widget.wait()
    session = widget.session
    assert {type(p) for p in load_project(path).prompts} == {Point, Mask}

    again = open_widget(ViewerModel())
    again.load_project(path)
    again.wait()
    assert told() == []
    assert again.session.image.metadata == session.image.metadata  # it was read by our reader
    assert again.session.all_prompts == session.all_prompts
    assert again.session.names == {2: "hook"}
    for t in (0, 3):
        np.testing.assert_array_equal(again.session.canvas.frame(t), session.canvas.frame(t))

    words = ["napari-surgsam2", "track", "--project", str(path), "--output", str(tmp_path / "masks.tif")]
    words += ["--image-size", str(nano.image_size)]  # the tests' own, not the project's
    monkeypatch.setattr(sys, "argv", words)
    with suppress(SystemExit):
        cli.main()
    replayed = np.asarray(read_labels(tmp_path / "masks.tif"))
    np.testing.assert_array_equal(replayed[0], session.canvas.frame(0))
    track(widget)
    np.testing.assert_array_equal(replayed, session.labels.data)


def test_a_project_of_another_video_is_refused_and_changes_nothing(widget, surgery, open_widget, tmp_path):
    other = ViewerModel()
    other.add_image(surgery.video[:2, :100])
    stranger = open_widget(other)
    stranger.add_prompts(Point(0, 20, 20))
    path = tmp_path / "other.surgsam2.json"
    stranger.keeper.write_project(path)
    prompts, choice = widget.session.all_prompts, widget.session.choice
    session = widget.session
    widget.load_project(path)
    assert len(told()) == 1
    assert "(2, 100, 320)" in told()[0]
    assert widget.session is session
    assert session.all_prompts == prompts
    assert session.choice == choice
    assert widget.keeper.project_path is None
    for wrong in (tmp_path / "none.surgsam2.json", tmp_path / "file.surgsam2.json"):
        if "file" in wrong.name:
            wrong.write_text("{}")
        widget.load_project(wrong)
        assert wrong.name in told()[-1]
    assert len(told()) == 3


def test_no_project_is_opened_while_tracking(widget, tmp_path):
    path = tmp_path / "p.surgsam2.json"
    widget.keeper.write_project(path)
    press(widget.controls.track_all)
    widget.load_project(path)
    assert told() == ["A project cannot be opened while tracking; press Stop first."]
    widget.wait()


def test_a_project_is_rewritten_only_when_something_changes(open_widget, surgery, frames, tmp_path):
    first = clicked(from_folder(open_widget, frames), surgery)
    path = tmp_path / "study.surgsam2.json"
    first.keeper.write_project(path)
    by_hand = load_project(path)
    by_hand = type(by_hand)(**{**vars(by_hand), "direction": "forward", "frames": (0, 3)})
    save_project(path, by_hand)
    text = path.read_text()
    widget = open_widget(ViewerModel())
    widget.load_project(path)
    widget.wait()
    widget.keeper.flush()
    assert path.read_text() == text
    widget.session.name_object(1, "grasper")
    widget.keeper.flush()
    kept = load_project(path)
    assert kept.names == {1: "grasper", 2: "hook"}
    assert (kept.direction, kept.frames) == ("forward", (0, 3))
    # All prompts taken back are taken back there too.
    widget.session.name_object(1, "")
    widget.session.name_object(2, "")
    widget.session.remove_object(1)
    widget.session.remove_object(2)
    widget.keeper.flush()
    assert load_project(path).prompts == ()


def test_a_project_whose_video_was_moved_goes_on_with_the_one_that_is_open(
    open_widget, surgery, frames, tmp_path
):
    first = clicked(from_folder(open_widget, frames), surgery)
    path = tmp_path / "study.surgsam2.json"
    first.keeper.write_project(path)
    prompts = first.session.all_prompts
    first.shut_down()
    moved = frames.rename(tmp_path / "moved")
    nowhere = open_widget(ViewerModel())
    nowhere.load_project(path)
    assert len(told()) == 1
    assert "is not there any more" in told()[0]
    widget = from_folder(open_widget, moved)
    widget.load_project(path)
    widget.wait()
    assert len(told()) == 1
    assert widget.session.all_prompts == prompts


# What is kept unasked


def test_prompts_are_kept_and_offered_again(open_widget, surgery, frames, tmp_path):
    widget = clicked(from_folder(open_widget, frames), surgery)
    folder = tmp_path / "cache" / "autosave"
    assert widget.keeper._timer.isActive()
    assert not folder.exists()
    widget.keeper._timer.setInterval(1)
    widget.session.name_object(1, "grasper")
    until(folder.exists)
    prompts = widget.session.all_prompts
    widget.add_prompts(click_on(surgery, true_objects(surgery)[0], 1, frame=2))
    widget.wait()
    everything = widget.session.all_prompts
    assert len(everything) == len(prompts) + 1
    widget.shut_down()  # what was not kept yet is
    assert len(list(folder.iterdir())) == 1

    again = from_folder(open_widget, frames)
    restore = again.controls.restore
    assert not restore.native.isHidden()
    assert restore.text == "Restore 3 prompts of an earlier session"
    again.session.name_object(5, "")
    again.keeper.flush()
    # Clicking first does not lose them.
    again.add_prompts(Point(1, 30, 30, 4))
    again.wait()
    again.keeper.flush()
    restore.native.click()
    again.wait()
    assert told() == []
    assert [p for p in again.session.all_prompts if p.object_id != 4] == everything
    assert again.session.names == {1: "grasper", 2: "hook"}
    press(restore)  # once more adds nothing
    again.wait()
    assert len(again.session.all_prompts) == len(everything) + 1


@pytest.mark.parametrize("how", ["points", "all"])
def test_prompts_outlive_their_layer_in_the_project(how, open_widget, surgery, frames, tmp_path):
    """Layers are removed to tidy up, and all of them when a viewer closes."""
    widget = clicked(from_folder(open_widget, frames), surgery)
    path = tmp_path / "study.surgsam2.json"
    widget.keeper.write_project(path)
    text = path.read_text()
    if how == "all":
        widget.viewer.layers.clear()
    else:
        widget.viewer.layers.remove(widget.session.points)
        widget.wait()
        widget.keeper.flush()
    assert path.read_text() == text
    if how == "points":  # what is clicked from then on is what counts
        widget.add_prompts(Point(1, 30, 30, 1))
        widget.wait()
        widget.keeper.flush()
        assert load_project(path).prompts == (Point(1, 30, 30, 1),)
        aside = [f for f in tmp_path.glob("*.surgsam2.json") if f != path]
        assert [f.read_text() for f in aside] == [text]  # perhaps the layer went by accident
        widget.add_prompts(Point(2, 30, 30, 1))
        widget.wait()
        widget.keeper.flush()
        assert len(list(tmp_path.glob("*.surgsam2.json"))) == 2  # once is enough


def test_a_cache_folder_that_cannot_be_written_is_told_once(open_widget, surgery, frames, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    widget = clicked(from_folder(open_widget, frames), surgery)
    for n in range(3):
        widget.session.name_object(1, f"grasper {n}")
        widget.keeper.flush()
    assert len(told()) == 1
    assert "could not be kept" in told()[0]
    (tmp_path / "cache").unlink()
    widget.session.name_object(1, "grasper")
    widget.keeper.flush()
    assert len(told()) == 1
    # Once it could be written, the same message is news.
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    widget.session.name_object(1, "hook")
    widget.keeper.flush()
    assert len(told()) == 2


def test_what_is_to_be_kept_soon_does_not_wait_for_the_end_of_a_pass(
    open_widget, surgery, frames, monkeypatch
):
    widget = clicked(from_folder(open_widget, frames), surgery)
    put_off = []
    monkeypatch.setattr(widget.keeper, "autosave_soon", lambda: put_off.append(widget.session.tracking))
    track(widget)
    assert widget.session.records[1].present.all()
    assert sum(put_off) <= 1  # not by every frame


def test_every_plane_has_what_was_kept_of_it(open_widget, surgery, tmp_path):
    """A project stays that of its plane, and what is offered is of the plane in view."""
    path = tmp_path / "volume.tif"
    planes = np.stack([surgery.video[:FRAMES, ..., 0], surgery.video[:FRAMES, ..., 1]], axis=1)
    tifffile.imwrite(path, planes)

    def opened():
        viewer = ViewerModel()
        viewer.open(str(path), plugin="napari")
        return open_widget(viewer)

    def go_to(widget, plane):
        widget.viewer.dims.set_point(1, plane)
        until(lambda: widget.session.stack.picked == {1: plane})
        widget.wait()

    first = opened()
    first.add_prompts(Point(0, 30, 30, 1))
    first.wait()
    first.keeper.write_project(tmp_path / "study.surgsam2.json")
    go_to(first, 1)
    first.add_prompts([Point(0, 50, 50, 1), Point(0, 60, 60, 2)])
    first.wait()
    go_to(first, 0)
    first.add_prompts(Point(1, 40, 40, 1))
    first.wait()
    first.shut_down()
    kept = load_project(tmp_path / "study.surgsam2.json")
    assert kept.prompts == (Point(0, 30, 30, 1), Point(1, 40, 40, 1))

    again = opened()
    assert again.controls.restore.native.isHidden()  # the plane's project is in a file of the user's
    go_to(again, 1)
    assert again.controls.restore.text == "Restore 2 prompts of an earlier session"
    press(again.controls.restore)
    again.wait()
    assert again.session.all_prompts == [Point(0, 50, 50, 1), Point(0, 60, 60, 2)]


def kept_in(tmp_path):
    """Return the prompts of every file in the cache folder, those that were put aside among them."""
    files = (tmp_path / "cache" / "autosave").iterdir()
    return [load_project(f).prompts for f in sorted(files, key=lambda f: f.name.partition(".")[0])]


def channels_of(frames):
    """Return a viewer with two layers of one folder, as two channels of a file are."""
    viewer = ViewerModel()
    for _ in range(2):
        viewer.open(str(frames), plugin="napari-surgsam2")
    return viewer


def choose(widget, layer):
    """Choose a layer as the video, by its place in the viewer."""
    widget.controls.video.value = widget.viewer.layers[layer]
    widget.wait()


def say(widget, *prompts):
    widget.add_prompts(prompts)
    widget.wait()
    widget.keeper.flush()


def test_layers_of_one_file_are_kept_apart(open_widget, frames, tmp_path):
    said = [(Point(0, 30, 30, 1),), (Point(1, 50, 50, 1), Point(1, 60, 60, 2))]
    widget = open_widget(channels_of(frames))
    for layer in (1, 0):
        choose(widget, layer)
        say(widget, *said[layer])
    widget.shut_down()
    assert kept_in(tmp_path) == said

    again = open_widget(channels_of(frames))
    for layer in (0, 1):
        choose(again, layer)
        press(again.controls.restore)
        again.wait()
        assert tuple(again.session.all_prompts) == said[layer]
    again.shut_down()
    assert kept_in(tmp_path) == said


def test_what_layers_of_one_file_shared_once_is_offered_to_each(open_widget, frames, tmp_path):
    old, new = Point(0, 30, 30, 1), Point(1, 50, 50, 1)
    widget = from_folder(open_widget, frames)
    say(widget, old)
    widget.shut_down()

    again = open_widget(channels_of(frames))
    choose(again, 1)
    press(again.controls.restore)
    say(again, new)
    again.shut_down()
    assert kept_in(tmp_path) == [(old,), (old, new)]


def test_a_project_of_one_of_several_layers_is_opened_on_it_where_it_is_in_view(
    open_widget, frames, tmp_path
):
    widget = open_widget(channels_of(frames))
    choose(widget, 1)
    say(widget, Point(0, 30, 30, 1))
    widget.keeper.write_project(tmp_path / "of_second.surgsam2.json")
    choose(widget, 0)
    choose(widget, 1)
    image = widget.session.image
    widget.load_project(tmp_path / "of_second.surgsam2.json")
    assert widget.session.image is image


def test_objects_that_a_project_and_the_session_both_have_are_named(open_widget, surgery, frames, tmp_path):
    widget = from_folder(open_widget, frames)
    say(widget, Point(0, 30, 30, 1))
    widget.shut_down()

    again = from_folder(open_widget, frames)
    again.add_prompts([Point(0, 60, 60, 1), Point(0, 90, 90, 2)])
    again.wait()
    press(again.controls.restore)
    assert ["of object 1," in w for w in told()] == [True]
    again.wait()
    assert len(again.session.all_prompts) == 3


def test_two_viewers_on_one_file_lose_nothing_of_each_other(open_widget, frames, tmp_path):
    one, other = (from_folder(open_widget, frames) for _ in range(2))
    said = []
    for t, widget in enumerate((one, other, one)):
        said.append(Point(t, 30, 30, 1))
        say(widget, said[-1])
    assert set().union(*kept_in(tmp_path)) == set(said)


def test_a_project_is_gone_on_with_when_the_widget_is_opened_again(open_widget, surgery, frames, tmp_path):
    widget = clicked(from_folder(open_widget, frames), surgery)
    path = tmp_path / "study.surgsam2.json"
    widget.keeper.write_project(path)
    widget.shut_down()
    again = open_widget(widget.viewer)
    assert again.keeper.project_path == path
    again.session.name_object(1, "grasper")
    again.keeper.flush()
    assert load_project(path).names == {1: "grasper", 2: "hook"}
    assert not (tmp_path / "cache" / "autosave").exists()
    # Not so once what it says was thrown away.
    points = again.session.points
    again.shut_down()
    again.viewer.layers.remove(points)
    third = open_widget(again.viewer)
    assert third.keeper.project_path is None
    say(third, Point(0, 30, 30, 1))
    assert len(load_project(path).prompts) == 2


def test_a_project_of_which_prompts_went_while_the_widget_was_closed_is_put_aside(
    open_widget, surgery, frames, tmp_path
):
    widget = clicked(from_folder(open_widget, frames), surgery)
    path, points = tmp_path / "study.surgsam2.json", widget.session.points
    widget.keeper.write_project(path)
    text = path.read_text()
    widget.shut_down()
    points.selected_data = {0}
    points.remove_selected()
    again = open_widget(widget.viewer)
    again.keeper.flush()
    assert len(load_project(path).prompts) == 1
    assert [f.read_text() for f in tmp_path.glob("*.surgsam2.json") if f != path] == [text]


def test_planes_out_of_view_are_there_when_the_widget_is_opened_again(open_widget, surgery):
    viewer = ViewerModel()
    viewer.add_image(np.stack([surgery.video[:FRAMES, ..., 0]] * 2, axis=1), name="volume")
    widget = open_widget(viewer)

    def go_to(widget, plane):
        widget.viewer.dims.set_point(1, plane)
        until(lambda: widget.session.stack.picked == {1: plane})
        widget.wait()

    go_to(widget, 1)
    label = true_objects(surgery)[0]
    widget.add_prompts([click_on(surgery, label, 2), Mask(3, surgery.labels[3] == label, 2)])
    widget.wait()
    widget.session.labels.paint((2, 1, 20, 20), 2)
    session = widget.session
    prompts, present, edited = session.all_prompts, session.records[2].present, session.drawing.edited
    assert present[[0, 3]].all()
    assert edited == {(2, 2)}
    go_to(widget, 0)
    widget.shut_down()

    again = open_widget(viewer)
    assert again.session.object_ids == (1, 2)
    go_to(again, 1)
    assert again.session.all_prompts == prompts
    np.testing.assert_array_equal(again.session.records[2].present, present)
    assert again.session.drawing.edited == {(2, 2)}


def test_nothing_is_kept_of_an_array(widget, tmp_path):
    widget.keeper.flush()
    assert not (tmp_path / "cache" / "autosave").exists()


def test_prompts_survive_a_model_that_cannot_be_loaded(open_widget, surgery, frames, tmp_path):
    widget = clicked(from_folder(open_widget, frames), surgery)
    widget.keeper.flush()
    (kept,) = (tmp_path / "cache" / "autosave").iterdir()
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"")
    widget.session.set_choice(TrackerChoice(str(garbage)))
    widget.wait()
    widget.session.name_object(1, "grasper")
    widget.shut_down()
    assert len(load_project(kept).prompts) == 2
    assert load_project(kept).names == {1: "grasper", 2: "hook"}


def test_a_stack_that_napari_read_is_opened_from_its_file(open_widget, surgery, tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, surgery.video[:FRAMES, ..., 0], metadata={"axes": "TYX"}, imagej=True)
    viewer = ViewerModel()
    viewer.open(str(path), plugin="napari")
    widget = clicked(open_widget(viewer), surgery)
    project = tmp_path / "p.surgsam2.json"
    widget.keeper.write_project(project)
    assert load_project(project).video == path
    again = open_widget(ViewerModel())
    again.load_project(project)
    again.wait()
    assert told() == []
    np.testing.assert_array_equal(again.session.canvas.frame(0), widget.session.canvas.frame(0))


@pytest.mark.parametrize("what", ["everything", "points", "image"])
def test_the_last_click_is_kept_where_its_layer_goes_at_once(what, open_widget, surgery, frames, tmp_path):
    widget = clicked(from_folder(open_widget, frames), surgery)
    widget.keeper.flush()
    last = Point(1, 20.0, 30.0, 1)
    widget.add_prompts(last)
    layers, session = widget.viewer.layers, widget.session
    if what == "everything":
        layers.clear()  # as closing the viewer does
    else:
        layers.remove(session.points if what == "points" else session.image)
    widget.shut_down()
    (kept,) = kept_in(tmp_path)
    assert last in kept
    assert len(kept) == 3


def test_a_project_keeps_prompts_that_labels_have_no_room_for(open_widget, surgery, frames, tmp_path):
    widget = clicked(from_folder(open_widget, frames), surgery)
    path = tmp_path / "study.surgsam2.json"
    widget.keeper.write_project(path)
    project = load_project(path)
    large = Point(1, 60.0, 60.0, 300)
    save_project(path, dataclasses.replace(project, prompts=(*project.prompts, large)))

    again = from_folder(open_widget, frames)
    again.session.use_labels(again.viewer.add_labels(np.zeros((FRAMES, 256, 320), np.uint8), name="small"))
    again.load_project(path)
    again.wait()
    assert any("hold numbers up to 255" in said for said in told())
    assert large not in again.session.all_prompts
    again.add_prompts(Point(2, 40.0, 40.0, 1))
    again.wait()
    again.keeper.flush()
    assert len(load_project(path).prompts) == 4
    assert large in load_project(path).prompts


@pytest.mark.parametrize("name", ["video.tif", "video.zarr"])
def test_masks_never_take_the_place_of_the_video(name, open_widget, surgery, tmp_path):
    path, gray = tmp_path / name, surgery.video[:FRAMES, ..., 0]
    if name.endswith("zarr"):
        zarr.create_array(path, data=gray)
    else:
        tifffile.imwrite(path, gray, photometric="minisblack")
    viewer = ViewerModel()
    viewer.open(str(path), plugin="napari")
    widget = clicked(open_widget(viewer), surgery)

    widget.keeper.write_masks(path)
    widget.keeper.write_measurements(path)
    widget.wait()
    assert len(told()) == 2
    assert all("is in the place of the input" in said for said in told())
    there = zarr.open_array(path, mode="r")[:] if name.endswith("zarr") else tifffile.imread(path)
    np.testing.assert_array_equal(there, gray)


def test_what_is_saved_while_an_undo_is_under_way_is_what_comes_of_it(widget, tmp_path, monkeypatch):
    clicked_only = widget.session.labels.data.copy()
    track(widget)
    monkeypatch.setattr(slices, "_SLICE", 0.0)
    widget.session.undo()
    assert widget.session.is_changing_frames
    widget.keeper.write_masks(tmp_path / "masks.tif")
    assert not widget.keeper.is_busy  # the window does not stand still meanwhile
    widget.wait()
    assert told() == []
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "masks.tif"), clicked_only)
