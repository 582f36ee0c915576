"""What the manifest contributes besides the widget, called the way napari calls it."""

import gc
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManifest
from PIL import Image

from napari_surgsam2 import synthetic
from napari_surgsam2._napari import reader
from napari_surgsam2._napari.reader import get_reader
from napari_surgsam2._napari.stacks import stack_of
from napari_surgsam2._napari.writer import write_coco, write_labels
from napari_surgsam2.errors import OutputError, VideoError
from napari_surgsam2.masks import read_labels, voc_palette
from napari_surgsam2.prompts import points_from_table
from napari_surgsam2.synthetic import make_clip
from napari_surgsam2.video import Video, open_video
from napari_surgsam2.video.layers import layer_path
from napari_surgsam2.video.opening import MOVIE_SUFFIXES

PLUGIN = "napari-surgsam2"
FRAMES, HEIGHT, WIDTH = 12, 48, 64


@pytest.fixture
def plugin(npe2pm):
    """The installed plugin as the only one there is; discovery is blocked in tests."""
    with npe2pm.tmp_plugin(package=PLUGIN):
        yield npe2pm


@pytest.fixture
def viewer(plugin):
    """A viewer without a window."""
    return ViewerModel()


@pytest.fixture
def pixels():
    """(T, Y, X, 3) uint8, every frame of another colour."""
    ramp = np.linspace(0, 120, WIDTH, dtype=np.uint8)[None, None, :, None]
    return np.tile(ramp, (FRAMES, HEIGHT, 1, 3)) + np.arange(0, 120, 10, np.uint8)[:, None, None, None]


def write_movie(path, pixels):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_pictures(folder, pixels):
    folder.mkdir()
    for t, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / f"frame{t}.png")
    return folder


@pytest.fixture
def movie(tmp_path, pixels):
    return write_movie(tmp_path / "clip.mp4", pixels)


@pytest.fixture
def read_frames(monkeypatch):
    """The indices of all frames that any video is asked for, in order."""
    indices = []
    raw = Video.raw

    def counted(self, index):
        indices.append(index)
        return raw(self, index)

    monkeypatch.setattr(Video, "raw", counted)
    return indices


def test_the_manifest_claims_all_movies_that_can_be_opened(plugin):
    (contribution,) = plugin.get_manifest(PLUGIN).contributions.readers
    assert {pattern.removeprefix("*") for pattern in contribution.filename_patterns} == MOVIE_SUFFIXES


def test_the_commands_of_the_manifest_are_there():
    manifest = PluginManifest.from_distribution(PLUGIN)
    used = {
        entry.command
        for kind in ("readers", "writers", "sample_data", "widgets")
        for entry in getattr(manifest.contributions, kind)
    }
    assert used == {command.id for command in manifest.contributions.commands}


def test_a_movie_opens_in_napari_with_every_frame_in_its_place(plugin, make_napari_viewer, movie):
    viewer = make_napari_viewer()
    (layer,) = viewer.open(str(movie), plugin=PLUGIN)
    assert (layer.name, layer.rgb, layer.source.reader_plugin) == ("clip", True, PLUGIN)
    assert layer.data.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert layer.data.chunks[0] == (1,) * FRAMES
    with open_video(movie) as video:
        for t in range(FRAMES):
            np.testing.assert_array_equal(layer.data[t], video.frame(t))


def test_opening_decodes_only_what_is_shown(viewer, movie, read_frames):
    (layer,) = viewer.open(movie, plugin=PLUGIN)
    assert len(layer.data) == FRAMES
    assert set(read_frames) == {0, viewer.dims.current_step[0]}
    read_frames.clear()
    viewer.dims.set_point(0, 9)
    assert read_frames == [9]


def test_suffixes_in_capitals_are_movies_too(viewer, tmp_path, pixels):
    (layer,) = viewer.open(write_movie(tmp_path / "CLIP.MOV", pixels), plugin=PLUGIN)
    assert layer.data.shape == (FRAMES, HEIGHT, WIDTH, 3)


def test_several_movies_are_a_layer_each(viewer, tmp_path, pixels):
    paths = [write_movie(tmp_path / f"{name}.mp4", pixels[:n]) for name, n in (("a", 5), ("b", 3))]
    layers = viewer.open(paths, plugin=PLUGIN, stack=True)
    assert [(layer.name, len(layer.data)) for layer in layers] == [("a", 5), ("b", 3)]


def test_a_layer_is_tracked_from_the_file_it_was_read_from(viewer, movie, monkeypatch):
    monkeypatch.chdir(movie.parent)
    (layer,) = viewer.open("clip.mp4", plugin=PLUGIN)
    assert layer_path(layer) == str(movie)
    with stack_of(layer, None, (0, 0, 0)).open() as video:
        assert video.path == movie


def test_a_folder_of_frames_opens_in_natural_order(viewer, tmp_path, pixels):
    (layer,) = viewer.open(write_pictures(tmp_path / "frames", pixels), plugin=PLUGIN)
    assert (layer.name, layer.rgb) == ("frames", True)
    np.testing.assert_array_equal(layer.data, pixels)


def test_grey_frames_of_16_bit_keep_their_values_and_are_shown_as_the_network_sees_them(
    viewer, tmp_path, pixels
):
    grey = pixels[..., 0].astype(np.uint16) * 100
    folder = write_pictures(tmp_path / "frames", grey)
    (layer,) = viewer.open(folder, plugin=PLUGIN)
    assert not layer.rgb
    np.testing.assert_array_equal(layer.data, grey)
    with open_video(folder) as video:
        assert tuple(layer.contrast_limits) == video.contrast_limits


def test_a_grey_picture_among_coloured_ones_is_shown_grey(viewer, tmp_path, pixels):
    folder = write_pictures(tmp_path / "frames", pixels)
    Image.fromarray(pixels[3, ..., 0]).save(folder / "frame3.png")
    (layer,) = viewer.open(folder, plugin=PLUGIN)
    np.testing.assert_array_equal(layer.data[3], np.repeat(pixels[3, ..., :1], 3, axis=2))


def test_a_coloured_picture_among_grey_ones_is_an_error_that_names_it(viewer, tmp_path, pixels):
    folder = write_pictures(tmp_path / "frames", pixels[..., 0])
    Image.fromarray(pixels[3]).save(folder / "frame3.png")
    (layer,) = viewer.open(folder, plugin=PLUGIN)
    with pytest.raises(VideoError, match=r"Frame 3 of .*frame 0 has"):
        layer.data[3].compute()


def test_a_damaged_file_says_what_is_wrong(plugin, make_napari_viewer, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no movie at all" * 100)
    viewer = make_napari_viewer()
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        viewer.open(path, plugin=PLUGIN)
    assert not viewer.layers


def test_what_was_found_wrong_in_a_movie_is_told(viewer, tmp_path, pixels):
    from napari.utils.notifications import notification_manager

    folder = write_pictures(tmp_path / "frames", pixels)
    Image.fromarray(pixels[0]).save(folder / "cover.jpg")
    viewer.open(folder, plugin=PLUGIN)
    assert "several kinds" in notification_manager.records[-1].message


def test_the_file_is_closed_once_nothing_can_read_from_it(movie, monkeypatch):
    opened = []
    monkeypatch.setattr(reader, "open_video", lambda path: opened.append(open_video(path)) or opened[-1])
    ((data, _, _),) = get_reader(str(movie))(str(movie))
    (video,) = opened
    part = data[2:4]
    del data
    gc.collect()
    assert part.compute().shape[0] == 2
    del part
    gc.collect()
    with pytest.raises(VideoError, match="closed"):
        video.raw(0)
    opened.clear()
    gone = weakref.ref(video)
    del video
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", ["labels.zarr", "empty", "notes", "picture.png", "missing.tif"])
def test_what_is_no_movie_and_no_folder_of_frames_is_left_to_others(tmp_path, name):
    (tmp_path / "labels.zarr").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "labels.zarr" / "thumbnail.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no picture")
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    assert get_reader(str(tmp_path / name)) is None


def test_a_zarr_of_any_name_is_left_to_others(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "zarr.json").write_text("{}")
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "thumbnail.png")
    assert get_reader(str(tmp_path / "masks")) is None


def test_a_list_is_read_only_if_all_of_it_can_be(movie, tmp_path):
    assert get_reader([str(movie), str(movie)])
    assert get_reader([str(movie), str(tmp_path / "picture.png")]) is None
    assert get_reader([]) is None


@pytest.fixture
def labels():
    volume = np.zeros((3, 20, 30), dtype=np.uint8)
    volume[0, 2:9, 3:12] = 1
    volume[1:, 10:15, 20:28] = 7
    return volume


def test_labels_are_saved_as_a_folder_of_palette_pngs_and_read_back(viewer, labels, tmp_path):
    layer = viewer.add_labels(labels)
    folder = tmp_path / "masks"
    assert layer.save(str(folder), plugin=f"{PLUGIN}.write_labels") == [str(folder)]
    assert sorted(file.name for file in folder.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    np.testing.assert_array_equal(read_labels(folder), labels)
    with Image.open(folder / "00000.png") as image:
        assert bytes(image.palette.palette) == voc_palette().tobytes()


@pytest.mark.parametrize("name", ["masks.json", "masks"])
def test_labels_are_saved_as_coco_json_and_read_back(viewer, labels, tmp_path, name):
    layer = viewer.add_labels(labels)
    written = layer.save(str(tmp_path / name), plugin=PLUGIN)
    assert written == [str(tmp_path / "masks.json")]
    np.testing.assert_array_equal(read_labels(written[0]), labels)


def test_the_dialog_may_leave_out_the_suffix_of_coco_json(labels, tmp_path):
    assert write_coco(str(tmp_path / "masks"), labels, {}) == [str(tmp_path / "masks.json")]


@pytest.mark.parametrize("name", ["masks", "masks.json"])
def test_masks_saved_before_are_replaced_without_another_question(labels, tmp_path, name):
    path = str(tmp_path / name)
    write_labels(path, labels, {})
    write_labels(path, labels[::-1], {})
    np.testing.assert_array_equal(read_labels(path), labels[::-1])


def test_a_folder_with_anything_else_in_it_is_never_replaced(viewer, labels, tmp_path):
    precious = tmp_path / "masks" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("precious")
    layer = viewer.add_labels(labels)
    with pytest.raises(OutputError, match=r"contains thesis\.txt"):
        layer.save(str(precious.parent), plugin=f"{PLUGIN}.write_labels")
    assert precious.read_text() == "precious"


def test_a_single_picture_becomes_one_frame(viewer, labels, tmp_path):
    layer = viewer.add_labels(labels[0])
    (written,) = layer.save(str(tmp_path / "masks"), plugin=f"{PLUGIN}.write_labels")
    np.testing.assert_array_equal(read_labels(written), labels[:1])


def test_of_a_multiscale_layer_the_full_resolution_is_saved(viewer, labels, tmp_path):
    layer = viewer.add_labels([labels, labels[:, ::2, ::2]], multiscale=True)
    (written,) = layer.save(str(tmp_path / "masks"), plugin=f"{PLUGIN}.write_labels")
    np.testing.assert_array_equal(read_labels(written), labels)


@pytest.mark.parametrize("target", ["masks", "masks.json"])
def test_labels_with_more_axes_say_how_to_save_them(viewer, labels, tmp_path, target):
    layer = viewer.add_labels(labels[None])
    command = "write_coco" if target.endswith(".json") else "write_labels"
    with pytest.raises(OutputError, match=r'\(1, 3, 20, 30\).*"Masks\.\.\."'):
        layer.save(str(tmp_path / target), plugin=f"{PLUGIN}.{command}")
    assert not list(tmp_path.iterdir())


def test_the_save_dialog_offers_both_ways_for_labels_only(viewer, labels):
    from napari.plugins._npe2 import file_extensions_string_for_layers

    assert file_extensions_string_for_layers([viewer.add_labels(labels)])[0] == (
        "Surgical SAM 2 masks as COCO JSON (*.json);;Surgical SAM 2 masks as a DAVIS folder of PNGs (*.*)"
    )
    assert not file_extensions_string_for_layers([viewer.add_image(labels)])[1]


@pytest.fixture
def made_clips(monkeypatch):
    """The clips that samples are made of, in order; ten frames long, which is enough to see two objects."""
    clips = []

    def make(seed, frames):
        assert frames == 60
        clips.append(make_clip(seed, 10))
        return clips[-1]

    monkeypatch.setattr(synthetic, "make_clip", make)
    return clips


def test_the_sample_clip_opens(viewer, made_clips):
    (layer,) = viewer.open_sample(PLUGIN, "laparoscopy")
    assert (layer.name, layer.rgb) == ("laparoscopy", True)
    np.testing.assert_array_equal(layer.data, made_clips[0].video)


def test_the_prompts_of_the_sample_lie_on_its_objects(plugin, make_napari_viewer, made_clips):
    viewer = make_napari_viewer()
    image, points = viewer.open_sample(PLUGIN, "laparoscopy_with_prompts")
    assert (image.name, points.name) == ("laparoscopy", "prompts")
    assert points.metadata == {"napari_surgsam2": {"prompts": True}}
    clicks = points_from_table(points.data, points.features)
    assert [(c.object_id, c.positive) for c in clicks] == [(1, True), (2, True)]
    hit = [made_clips[0].labels[c.frame, int(c.y), int(c.x)] for c in clicks]
    assert len(set(hit)) == 2
    assert 0 not in hit
    assert len(np.unique(points.face_color, axis=0)) == 2
    assert points.size.min() >= 5


def test_no_scratch_is_left_beside_saved_masks(labels, tmp_path):
    write_labels(str(tmp_path / "masks"), labels, {})
    assert [Path(entry).name for entry in tmp_path.iterdir()] == ["masks"]
