"""napari layers given to the engine as they are: real ones where napari is there, and stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr

import napari_surgsam2 as ns
from napari_surgsam2.errors import PromptError, UsageError, VideoError
from napari_surgsam2.pipeline import Reporting, TrackingInterruptedError, TrackJob, prompts_for_layer, run_job
from napari_surgsam2.prompts import as_prompts, boxes_from_table
from tests.helpers.clips import moving_blobs

CLIP = moving_blobs(4, 48, 64)
SQUARE = np.array([[1, 10, 20], [1, 10, 40], [1, 30, 40], [1, 30, 20]], float)


def image(data, rgb=False, **more) -> SimpleNamespace:
    """What the engine asks of an Image layer."""
    return SimpleNamespace(**({"data": data, "rgb": rgb, "multiscale": False, "name": "clip"} | more))


def points(data, **features) -> SimpleNamespace:
    return SimpleNamespace(data=np.asarray(data, float), features=features)


def shapes(data, kinds=None, **features) -> SimpleNamespace:
    return SimpleNamespace(
        data=data, features=features, shape_type=kinds or ["rectangle"] * len(data), name="Shapes"
    )


# Image layers as videos


@pytest.mark.parametrize(
    ("data", "rgb", "shape"),
    [
        (CLIP, True, (4, 48, 64)),
        (CLIP[..., 0], False, (4, 48, 64)),
        (CLIP[0], True, (1, 48, 64)),
        (CLIP[0, ..., 0], False, (1, 48, 64)),
        (CLIP[:, None, ..., 0], False, (4, 48, 64)),
        (CLIP[None, ..., 0], False, (4, 48, 64)),
    ],
    ids=["rgb", "grey", "one rgb", "one grey", "one plane", "one time"],
)
def test_the_axes_are_known_by_shape_and_colour(data, rgb: bool, shape: tuple) -> None:
    video = ns.open_video(image(data, rgb))

    assert (video.shape, video.name) == (shape, "clip")
    expected = data.reshape(shape + data.shape[-1:]) if rgb else data.reshape(shape)
    np.testing.assert_array_equal(video.raw(0), expected[0])


def test_of_several_scales_the_largest_is_taken() -> None:
    video = ns.open_video(image([CLIP, CLIP[:, ::2, ::2]], rgb=True, multiscale=True))

    assert video.shape == (4, 48, 64)


@pytest.mark.parametrize(
    ("dtype", "rgb", "limits", "expected"),
    [
        (np.uint16, False, (100, 900), (100, 900)),
        (np.float32, False, (0.25, 0.75), (0.25, 0.75)),
        (np.float32, True, (0.25, 0.75), (0, 1)),
        (np.uint8, False, (10, 20), (10, 20)),
        (np.uint8, False, (0, 255), None),
        (np.uint8, True, (10, 20), None),
        (np.uint16, True, (10, 20), (0, 65535)),
        (np.bool_, False, (0, 1), None),
    ],
)
def test_pixels_are_mapped_as_the_layer_shows_them(dtype, rgb: bool, limits: tuple, expected) -> None:
    data = (CLIP if rgb else CLIP[..., 0]).astype(dtype)

    assert ns.open_video(image(data, rgb, contrast_limits=limits)).contrast_limits == expected
    own = ns.open_video(image(data, rgb, contrast_limits=limits), contrast_limits=(1, 2))
    assert own.contrast_limits == (1, 2)


@pytest.mark.parametrize("limits", [None, (5, 5)])
def test_limits_of_no_use_are_taken_from_the_pixels(limits) -> None:
    data = CLIP[..., 0].astype(np.uint16)

    shown = ns.open_video(image(data, contrast_limits=limits)).contrast_limits

    assert shown == ns.open_video(data).contrast_limits


def test_planes_of_a_layer_are_chosen_when_it_is_opened() -> None:
    layer = image(np.stack([CLIP[..., 0], CLIP[..., 1]], axis=1))

    np.testing.assert_array_equal(ns.open_video(layer, z=1).raw(2), CLIP[2, ..., 1])
    swapped = ns.open_video(image(CLIP[..., 0]), axes="TXY")
    np.testing.assert_array_equal(swapped.raw(1), CLIP[1, ..., 0].T)
    with pytest.raises(VideoError, match="pick a plane with `z`"):
        ns.open_video(layer)
    with pytest.raises(VideoError, match=r"The layer 'clip' has shape \(1, 1, 4, 48, 64\); it must be"):
        ns.open_video(image(CLIP[None, None, ..., 0]))


def test_other_layers_are_no_videos() -> None:
    with pytest.raises(UsageError, match="cannot be opened as a video"):
        ns.open_video(points([[0, 1, 2]]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clip.tif"
    tifffile.imwrite(path, CLIP[..., 0].astype(np.uint16), photometric="minisblack")
    return path


def of_file(path: Path, data, **more) -> SimpleNamespace:
    return image(data, metadata={"napari_surgsam2": {"video": str(path)}}, **more)


def test_the_file_that_a_layer_shows_is_opened(file: Path) -> None:
    video = ns.open_video(of_file(file, CLIP[..., 0].astype(np.uint16), contrast_limits=(5, 200)))

    assert video.path == file
    assert video.contrast_limits == (5, 200)


@pytest.mark.parametrize(
    "case", ["gone", "damaged", "other shape", "other pixels", "moved from frame 1 on", "a choice", "no path"]
)
def test_a_layer_that_is_not_as_its_file_is_taken_itself(case: str, file: Path) -> None:
    data = CLIP[..., 0].astype(np.uint16)
    more = {}
    match case:
        case "gone":
            file.unlink()
        case "damaged":
            file.write_bytes(b"II*\0")
        case "other shape":
            data = data[:3]
        case "other pixels":
            data = data + 1
        case "moved from frame 1 on":
            data = np.concatenate([data[:1], np.roll(data[1:], 2, axis=2)])
        case "a choice":
            more = {"axes": "TYX"}
    layer = of_file(file, data)
    if case == "no path":
        layer.metadata = {"napari_surgsam2": "something else"}

    video = ns.open_video(layer, **more)

    assert video.path is None
    np.testing.assert_array_equal(video.raw(2), data[2])


# Layers as prompts


def test_rectangles_are_boxes_with_the_ids_of_their_column() -> None:
    found = as_prompts(shapes([SQUARE, np.add(SQUARE, [1, 2, 3])], object_id=[4, 5]))

    assert found == [ns.Box(1, 10, 20, 30, 40, 4), ns.Box(2, 12, 23, 32, 43, 5)]
    assert (
        as_prompts(shapes([SQUARE]))
        == boxes_from_table([SQUARE[[2, 0, 3, 1]]])
        == [ns.Box(1, 10, 20, 30, 40)]
    )
    assert as_prompts(shapes([])) == boxes_from_table([]) == []


def test_a_list_may_hold_layers_and_prompts() -> None:
    found = as_prompts([points([[0, 1, 2]], object_id=[3]), ns.Point(2, 5, 5), shapes([SQUARE])])

    assert found == [ns.Point(0, 1, 2, 3), ns.Point(2, 5, 5), ns.Box(1, 10, 20, 30, 40)]


def test_layers_over_a_single_picture_are_on_frame_0() -> None:
    assert as_prompts([points([[1, 2]]), shapes([SQUARE[:, 1:]])]) == [
        ns.Point(0, 1, 2),
        ns.Box(0, 10, 20, 30, 40),
    ]


BAD_SHAPES = {
    "ellipse": (
        shapes([SQUARE] * 2, ["rectangle", "ellipse"]),
        "Shape 1 of the layer 'Shapes' is of the type",
    ),
    "frames": (
        shapes([SQUARE * [[1], [1], [2], [1]]]),
        "Rectangle 0: it reaches from frame 1 to 2; all four",
    ),
    "corners": (
        shapes([SQUARE[:3]]),
        "Rectangle 0: it has shape (3, 3); it must be four corners (frame, y, x)",
    ),
    "words": (shapes([[["a"] * 3] * 4]), "it must be four corners (frame, y, x)"),
    "NaN": (shapes([SQUARE, SQUARE * np.nan]), "Rectangle 1: it has a corner that is not finite"),
    "line": (
        shapes([SQUARE * [1, 0, 1]]),
        "Rectangle 0: The box (y0=0, x0=20, y1=0, x1=40) on frame 1 is empty",
    ),
    "before": (shapes([SQUARE * [-1, 1, 1]]), "Rectangle 0: The frame of a box is -1"),
    "column": (shapes([SQUARE] * 2, object_id=[1]), "'object_id' has 1 entries for 2 rectangles"),
    "id": (shapes([SQUARE], object_id=[np.nan]), "Rectangle 0: The object id of a box is nan"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_shapes_that_are_no_boxes(case: str) -> None:
    layer, message = BAD_SHAPES[case]
    with pytest.raises(PromptError) as caught:
        as_prompts(layer)
    assert message in str(caught.value)


class Placed(SimpleNamespace):
    """A layer of its own scale and place in the world."""

    def data_to_world(self, row) -> tuple:
        n = len(row)
        return tuple(np.asarray(row) * np.array(self.scale[-n:]) + np.array(self.translate[-n:]))

    def world_to_data(self, position) -> np.ndarray:
        n = len(self.scale)
        position = np.concatenate([np.zeros(max(0, n - len(position))), position])[-n:]
        return (position - np.array(self.translate)) / np.array(self.scale)


def test_stand_ins_of_another_scale_are_taken_to_the_video() -> None:
    video = Placed(**vars(image(CLIP, rgb=True)), scale=(0.04, 0.5, 0.5), translate=(1, 10, 20))
    clicks = Placed(**vars(points([[1.12, 20, 30]])), scale=(1, 1, 1), translate=(0, 0, 0))
    flat = Placed(**vars(points([[20, 30]])), scale=(1, 1), translate=(0, 0))

    assert prompts_for_layer(video, clicks) == [ns.Point(3, 20, 20)]
    assert prompts_for_layer(video, [flat, ns.Point(2, 3, 4)]) == [ns.Point(0, 20, 20), ns.Point(2, 3, 4)]
    assert prompts_for_layer(image(CLIP[0], rgb=True), points([[3, 20, 30]])) == [ns.Point(0, 20, 30)]
    assert prompts_for_layer(image(CLIP[:, None, ..., 0]), points([[2, 0, 20, 30]])) == [ns.Point(2, 20, 30)]
    assert prompts_for_layer(image(CLIP[None, ..., 0]), points([[0, 2, 20, 30]])) == [ns.Point(2, 20, 30)]


# All of it


@pytest.mark.parametrize("zarr_data", [False, True])
def test_layers_track_as_the_array_and_prompts_do(zarr_data: bool, tiny_model) -> None:
    data = zarr.array(CLIP, chunks=(1, *CLIP.shape[1:])) if zarr_data else CLIP

    labels = ns.track(image(data, rgb=True), [points([[0, 20, 15]]), shapes([SQUARE])], model=tiny_model)

    prompts = [ns.Point(0, 20, 15), ns.Box(1, 10, 20, 30, 40)]
    np.testing.assert_array_equal(labels, ns.track(CLIP, prompts, model=tiny_model))


def test_a_layer_of_other_pixels_is_another_run(tiny_model, tmp_path: Path) -> None:
    job = {"prompts": points([[1, 20, 15]]), "model": tiny_model, "output": tmp_path / "masks.zarr"}
    with pytest.raises(TrackingInterruptedError):
        run_job(TrackJob(video=image(CLIP, rgb=True), **job), Reporting(should_stop=lambda: True))

    with pytest.raises(ns.SurgSam2Error, match="differs in video_pixels"):
        run_job(TrackJob(video=image(CLIP[::-1], rgb=True), **job, resume=True))
    assert run_job(TrackJob(video=image(CLIP, rgb=True), **job, resume=True)).frames_tracked == 3


# Real layers


@pytest.fixture
def layers():
    return pytest.importorskip("napari.layers")


def test_real_layers_of_one_scale(layers, tiny_model) -> None:
    video = layers.Image(CLIP, name="clip", rgb=True)
    clicks = layers.Points(
        [[0, 20, 15], [0, 2, 2]], features={"object_id": [1, 1], "label": ["positive", "negative"]}
    )
    boxes = layers.Shapes([SQUARE], shape_type="rectangle", features={"object_id": [2]})

    prompts = prompts_for_layer(video, [clicks, boxes])

    assert prompts == [
        ns.Point(0, 20, 15),
        ns.Point(0, 2, 2, positive=False),
        ns.Box(1, 10, 20, 30, 40, 2),
    ]
    labels = ns.track(video, [clicks, boxes], model=tiny_model)
    np.testing.assert_array_equal(labels, ns.track(CLIP, prompts, model=tiny_model))


def test_real_layers_of_another_scale_and_place(layers) -> None:
    video = layers.Image(CLIP, rgb=True, scale=(0.04, 0.5, 0.25), translate=(1, -3, 2))
    world = np.array([video.data_to_world((3, 20, 15)), video.data_to_world((1, 7.5, 40))])
    clicks = layers.Points(world, features={"object_id": [1, 2], "label": [1, 0]})
    corners = np.array([video.data_to_world(corner) for corner in SQUARE])
    boxes = layers.Shapes([corners * [1, 2, 2]], shape_type="rectangle", scale=(1, 0.5, 0.5))

    first, second, box = prompts_for_layer(video, [clicks, boxes])

    assert (first.frame, second.frame, box.frame) == (3, 1, 1)
    assert (second.object_id, second.positive) == (2, False)
    np.testing.assert_allclose([first.y, first.x, second.y, second.x], [20, 15, 7.5, 40], atol=1e-4)
    np.testing.assert_allclose([box.y0, box.x0, box.y1, box.x1], [10, 20, 30, 40], atol=1e-4)


def test_real_layers_that_are_turned_alike_need_no_moving(layers) -> None:
    how = {"scale": (1, 0.3, 0.7), "rotate": 30, "translate": (0, 1 / 3, 5)}
    clicks = layers.Points([[0, 20.1, 15.7]], **how)

    assert prompts_for_layer(layers.Image(CLIP, rgb=True, **how), clicks) == [ns.Point(0, 20.1, 15.7)]


def test_a_real_picture_with_flat_points(layers) -> None:
    picture = layers.Image(CLIP[0], rgb=True, scale=(2, 2))

    assert ns.open_video(picture).shape == (1, 48, 64)
    assert prompts_for_layer(picture, layers.Points([[20, 30]], scale=(4, 4))) == [ns.Point(0, 40, 60)]
    assert prompts_for_layer(picture, layers.Points(ndim=2)) == []


@pytest.mark.parametrize("kind", ["ellipse", "polygon", "line", "path"])
def test_other_real_shapes_are_told(kind: str, layers) -> None:
    corners = SQUARE[:2] if kind == "line" else SQUARE
    drawn = layers.Shapes([SQUARE, corners], shape_type=["rectangle", kind], name="outlines")

    with pytest.raises(PromptError, match=f"Shape 1 of the layer 'outlines' is of the type '{kind}'"):
        as_prompts(drawn)


def test_a_real_layer_of_16_bits_is_shown_by_its_limits(layers) -> None:
    layer = layers.Image(CLIP[..., 0].astype(np.uint16) * 9, contrast_limits=(200, 1500))

    assert ns.open_video(layer).contrast_limits == (200, 1500)


def test_real_layers_of_several_scales(layers) -> None:
    layer = layers.Image([CLIP[..., 0], CLIP[:, ::2, ::2, 0]], multiscale=True, scale=(1, 2, 2))

    assert ns.open_video(layer).shape == (4, 48, 64)
    assert prompts_for_layer(layer, layers.Points([[1, 20, 30]])) == [ns.Point(1, 10, 15)]


def test_a_real_labels_layer_is_no_video(layers) -> None:
    with pytest.raises(UsageError, match="A Labels cannot be opened as a video"):
        ns.open_video(layers.Labels(CLIP[..., 0]))
