"""Prompts, and their ways in and out: a napari layer, its CSV, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_surgsam2.errors import OutputError, PromptError
from napari_surgsam2.prompts import (
    Box,
    Mask,
    Point,
    as_prompts,
    check_prompts,
    load_prompts,
    masks_from_labels,
    points_from_table,
    points_to_csv,
    points_to_table,
    prompts_from_dict,
    prompts_to_dict,
    require_positive,
    save_prompts,
)

POINTS = [Point(0, 40.5, 30), Point(3, 60, 90.25, 2), Point(3, 61, 92, 2, positive=False)]
BOXES = [Box(2, 10, 20, 30.5, 40, 7)]
MASKS = [Mask(1, np.eye(4, 6, dtype=bool), 3)]


# Round trips


def test_json_keeps_every_prompt(tmp_path: Path) -> None:
    save_prompts(tmp_path / "prompts.json", [*POINTS, *BOXES, *MASKS])

    assert load_prompts(tmp_path / "prompts.json") == [*MASKS, *BOXES, *POINTS]
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.json"]


def test_a_table_keeps_points() -> None:
    data, features = points_to_table(POINTS)

    assert points_from_table(data, features) == POINTS
    assert points_from_table(*points_to_table([])) == []


def test_a_csv_of_points_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(points_to_csv(POINTS), encoding="utf-8")

    assert load_prompts(path) == POINTS


@pytest.mark.parametrize("features", ["numbers", "words", "none"])
def test_the_csv_that_napari_saves_is_read(features: str, tmp_path: Path) -> None:
    layers = pytest.importorskip("napari.layers")
    pytest.importorskip("npe2").PluginManager.instance().discover()
    data, columns = points_to_table(POINTS)
    if features == "words":
        columns["label"] = np.array(["positive", "positive", "negative"])
    layer = layers.Points(data, features=None if features == "none" else columns)

    layer.save(str(tmp_path / "points.csv"))

    if features == "numbers":
        (header, *rows), (own_header, *own_rows) = (
            text.splitlines() for text in ((tmp_path / "points.csv").read_text(), points_to_csv(POINTS))
        )
        assert own_header == header
        np.testing.assert_array_equal(
            np.genfromtxt(own_rows, delimiter=","), np.genfromtxt(rows, delimiter=",")
        )
    expected = [Point(p.frame, p.y, p.x) for p in POINTS] if features == "none" else POINTS
    assert load_prompts(tmp_path / "points.csv") == expected
    assert as_prompts(layer) == expected


def test_the_csv_of_a_shapes_layer_is_not_taken_for_points(tmp_path: Path) -> None:
    layers = pytest.importorskip("napari.layers")
    pytest.importorskip("npe2").PluginManager.instance().discover()
    corners = np.array([[0, 1, 1], [0, 1, 5], [0, 5, 5], [0, 5, 1.0]])
    layers.Shapes(corners, shape_type="rectangle").save(str(tmp_path / "shapes.csv"))

    with pytest.raises(PromptError, match="saved from a Shapes layer"):
        load_prompts(tmp_path / "shapes.csv")


def test_csv_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        '\ufeffframe, y ,x,"note, or\nnot",label\r\n0,1.5,2,a,+\r\n\r\n4,3,4,b,-\r\n', encoding="utf-8"
    )

    assert load_prompts(path) == [Point(0, 1.5, 2), Point(4, 3, 4, positive=False)]


def test_the_columns_of_a_csv_by_hand_are_found_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("Frame,Y,X,Object_ID,Label\n0,1.5,2,3,0\n")

    assert load_prompts(path) == [Point(0, 1.5, 2, 3, positive=False)]


@pytest.mark.parametrize(
    ("column", "wanted"), [("object", "object_id"), ("Obj ID", "object_id"), ("positive", "label")]
)
def test_columns_of_a_csv_by_hand_under_other_names_are_refused(
    column: str, wanted: str, tmp_path: Path
) -> None:
    """All points would be of object 1, and positive."""
    path = tmp_path / "points.csv"
    path.write_text(f"frame,y,x,{column}\n0,1,2,0\n")

    with pytest.raises(PromptError, match=f"a column '{column}' and none called '{wanted}'"):
        load_prompts(path)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_mask_survives_its_run_lengths(mask: np.ndarray) -> None:
    document = json.loads(json.dumps(prompts_to_dict([Mask(2, mask, 5)])))

    assert prompts_from_dict(document) == [Mask(2, mask, 5)]
    runs = document["masks"][0]["runs"]
    assert sum(runs) == mask.size
    assert all(n > 0 for n in runs[1:])


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=3)),
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=3)),
)
def test_masks_of_the_same_pixels_have_the_same_digest_and_no_others(
    one: np.ndarray, other: np.ndarray
) -> None:
    assert (Mask(0, one).digest == Mask(3, other, 2).digest) == np.array_equal(one, other)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.builds(Point, st.integers(0, 10**6), finite, finite, st.integers(1, 2**32 - 1), st.booleans())
    )
)
def test_any_points_survive_json_and_tables(points: list[Point]) -> None:
    assert prompts_from_dict(json.loads(json.dumps(prompts_to_dict(points)))) == points
    assert points_from_table(*points_to_table(points)) == points


def test_numbers_of_numpy_become_plain_ones() -> None:
    point = Point(np.int64(3), np.float32(1.5), np.float64(2), np.uint8(4))
    box = Box(np.int64(0), *np.arange(4, dtype=np.float32).reshape(2, 2).ravel())

    assert (point, box) == (Point(3, 1.5, 2, 4), Box(0, 0, 1, 2, 3))
    json.dumps(prompts_to_dict([point, box]))


def test_prompts_of_any_kind_are_taken(tmp_path: Path) -> None:
    data, features = points_to_table(POINTS)
    save_prompts(tmp_path / "p.json", POINTS)
    for given_as in (
        POINTS,
        tuple(POINTS),
        iter(POINTS),
        str(tmp_path / "p.json"),
        prompts_to_dict(POINTS),
        SimpleNamespace(data=data, features=features),
    ):
        assert as_prompts(given_as) == POINTS
    assert as_prompts(POINTS[0]) == POINTS[:1]
    positive = [Point(p.frame, p.y, p.x) for p in POINTS]
    assert as_prompts(data) == as_prompts(data.tolist()) == positive


def test_every_value_of_a_labels_image_is_an_object() -> None:
    labels = np.array([[0, 5, 5], [9, 0, 0]])

    assert masks_from_labels(4, labels) == [Mask(4, labels == 5, 5), Mask(4, labels == 9, 9)]
    assert masks_from_labels(0, labels > 0) == [Mask(0, labels > 0, 1)]


# What cannot be used

BAD_PROMPTS = {
    "NaN": (
        lambda: Point(2, float("nan"), 3),
        "The y of a point on frame 2 is nan; coordinates must be finite numbers",
    ),
    "infinite": (lambda: Box(0, 1, 2, float("inf"), 4), "The y1 of a box on frame 0 is inf"),
    "no number": (lambda: Point(0, "a", 3), "The y of a point on frame 0 is 'a'; it must be a number"),  # type: ignore[arg-type]
    "None": (lambda: Point(0, 1, None), "is None; it must be a number"),  # type: ignore[arg-type]
    "frame below 0": (
        lambda: Point(-1, 1, 2),
        "The frame of a point is -1; it must be a whole number, at least 0",
    ),
    "half a frame": (lambda: Point(0.5, 1, 2), "is 0.5; it must be a whole number"),  # type: ignore[arg-type]
    "NaN frame": (lambda: Point(float("nan"), 1, 2), "The frame of a point is nan"),  # type: ignore[arg-type]
    "endless frame": (lambda: Point(10**400, 1, 2), "it must be a whole number"),
    "object 0": (
        lambda: Box(0, 1, 2, 3, 4, 0),
        "The object id of a box is 0; it must be a whole number, at least 1",
    ),
    "empty box": (lambda: Box(3, 5, 1, 5, 2), "(y0=5, x0=1, y1=5, x1=2) on frame 3 is empty; give top, left"),
    "mask of 3 axes": (lambda: Mask(0, np.zeros((1, 2, 3))), "has shape (1, 2, 3); it must have two axes"),
    "labels of 3 axes": (lambda: masks_from_labels(0, np.zeros((1, 2, 3), int)), "must have two axes (Y, X)"),
    "labels of fractions": (lambda: masks_from_labels(0, np.zeros((2, 3))), "and type float64"),
    "empty labels": (lambda: masks_from_labels(6, np.zeros((2, 3), int)), "for frame 6 is all background"),
    "negative labels": (
        lambda: masks_from_labels(0, np.array([[-1, 0]])),
        "is -1; it must be a whole number",
    ),
    "table of 2 axes": (
        lambda: as_prompts([[1, 2]]),
        "have shape (1, 2); they must be rows of (frame, y, x)",
    ),
    "table with NaN": (lambda: as_prompts([[0, 1, 2], [0, np.nan, 2]]), "Point 1 is (0.0, nan, 2.0)"),
    "table of words": (lambda: as_prompts([["a", "b", "c"]]), "they must be rows of (frame, y, x)"),
    "mixed": (lambda: as_prompts([Point(0, 1, 2), (0, 1, 2)]), "they must be rows of (frame, y, x)"),
    "a number": (lambda: as_prompts(5), "The prompts are 5; give Point, Box and Mask objects"),
    "short column": (
        lambda: points_from_table([[0, 1, 2]] * 2, {"label": [1]}),
        "'label' has 1 entries for 2 points",
    ),
    "odd label": (
        lambda: points_from_table([[0, 1, 2]], {"label": [7]}),
        "label of a point is 7; it must be 1",
    ),
    "missing id": (lambda: points_from_table([[0, 1, 2]], {"object_id": [np.nan]}), "id of a point is nan"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_prompts_that_cannot_be_used(case: str) -> None:
    make, message = BAD_PROMPTS[case]
    with pytest.raises(PromptError) as caught:
        make()
    assert message in str(caught.value)


BAD_DOCUMENTS: dict[str, tuple[Any, str]] = {
    "a list": ([1], "must be an object with 'points', 'boxes' or 'masks'"),
    "newer": ({"version": 2}, "have version 2; this program reads version 1"),
    "unknown key": ({"clicks": []}, "Unknown key 'clicks'; known: 'version', 'points', 'boxes', 'masks'"),
    "no list": ({"points": 5}, "'points' is 5; it must be a list"),
    "no object": (
        {"points": [5]},
        "Entry 0 of 'points': it is 5; it must be an object with 'frame', 'y', 'x'",
    ),
    "missing": (
        {"points": [{"frame": 0, "y": 1, "x": 2}, {"y": 1}]},
        "Entry 1 of 'points': 'frame', 'x' is missing",
    ),
    "unknown": (
        {"points": [{"frame": 0, "y": 1, "x": 2, "labels": 0}]},
        "unknown key 'labels'; known: 'frame', 'y', 'x', 'object_id', 'label'",
    ),
    "word": (
        {"boxes": [{"frame": 0, "y0": "a", "x0": 1, "y1": 2, "x1": 3}]},
        "The y0 of a box on frame 0 is 'a'",
    ),
    "flat shape": ({"masks": [{"frame": 0, "shape": [4], "runs": [4]}]}, "must be [height, width]"),
    "wrong sum": (
        {"masks": [{"frame": 0, "shape": [2, 3], "runs": [5]}]},
        "add up to 5; they must add up to its 2 x 3",
    ),
    "negative run": (
        {"masks": [{"frame": 0, "shape": [2, 3], "runs": [7, -1]}]},
        "must be a list of whole numbers",
    ),
    "huge": ({"masks": [{"frame": 0, "shape": [2, 3], "runs": [2**70]}]}, "must be a list of whole numbers"),
    "text runs": ({"masks": [{"frame": 0, "shape": [2, 3], "runs": "6"}]}, "must be a list of whole numbers"),
}


@pytest.mark.parametrize("case", BAD_DOCUMENTS)
def test_documents_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    document, message = BAD_DOCUMENTS[case]
    with pytest.raises(PromptError) as caught:
        prompts_from_dict(document)
    assert message in str(caught.value)

    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PromptError, match=r"'.*prompts\.json': "):
        load_prompts(path)


CSV_HEAD = b"index,axis-0,axis-1,axis-2,object_id,label\n"
BAD_FILES = {
    "gone.csv": (None, "There is no prompts file 'gone.csv'; check the path"),
    "points.txt": (b"", "ends in '.txt'; give a .csv"),
    "empty.csv": (b"", "has the columns none; it must have axis-0, axis-1 and axis-2"),
    "other.csv": (b"a,b\n1,2\n", "has the columns a, b; it must have axis-0"),
    "flat.csv": (b"index,axis-0,axis-1\n0,1,2\n", "it must have axis-0, axis-1 and axis-2"),
    "head.csv": (CSV_HEAD, "holds no prompts; place at least one point"),
    "nan.csv": (CSV_HEAD + b"0,0,1,2,1,1\n1,0,nan,2,1,1\n", "'nan.csv', line 3: 'axis-1' is nan"),
    "word.csv": (CSV_HEAD + b"0,0,a,2,1,1\n", "line 2: 'axis-1' is 'a'; it must be a number"),
    "short.csv": (CSV_HEAD + b"0,0\n", "line 2: 'axis-1', 'axis-2' is missing"),
    "id.csv": (CSV_HEAD + b"0,0,1,2,1.5,1\n", "line 2: 'object_id' is '1.5'; it must be a whole number"),
    "label.csv": (CSV_HEAD + b"0,0,1,2,1,maybe\n", "line 2: The label of a point is 'maybe'"),
    "latin.csv": ("axis-0,ä\n".encode("latin-1"), "is not UTF-8 text (byte 7); save it as UTF-8"),
    "nul.csv": (CSV_HEAD + b"0,0,\x00,2,1,1\n", "line 2"),
    "latin.json": (b'{"\xe9"}', "is not UTF-8 text"),
    "empty.json": (b"", "is not valid JSON"),
    "broken.json": (b"{nope", "is not valid JSON"),
    "deep.json": (b"[" * 100_000, "is not valid JSON"),
    "nan.json": (b'{"points": [{"frame": 0, "y": NaN, "x": 1}]}', "The y of a point on frame 0 is nan"),
    "none.json": (b"{}", "holds no prompts"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_used(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = BAD_FILES[name]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(PromptError) as caught:
        load_prompts(name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_no_prompts_file(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"cannot be read: .*\. Give a \.csv or \.json"):
        load_prompts(tmp_path)


def test_prompts_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_prompts(tmp_path / "missing" / "p.json", POINTS)
    (tmp_path / "p.json").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        save_prompts(tmp_path / "p.json", POINTS)
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


# Against a video


@pytest.mark.parametrize(
    "prompt",
    [
        Point(9, -0.5, -0.5),
        Point(0, 47.5, 63.5),
        Box(0, -10, -10, 0, 0),
        Box(0, 47, 63, 100, 100),
        Mask(9, np.ones((48, 64))),
    ],
    ids=str,
)
def test_prompts_inside_a_video(prompt: Point | Box | Mask) -> None:
    check_prompts([prompt], (10, 48, 64))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Point(10, 1, 1), "on frame 10, but the video has 10 frames: 0 to 9"),
        (
            Point(0, 47.6, 1),
            r"The point \(y=47.6, x=1\) on frame 0 is outside the video, which is 48 pixels high",
        ),
        (Point(0, 1, -0.6), "outside the video, which is 48 pixels high .* and 64 wide"),
        (Box(0, 50, 1, 60, 9), "The box .* is outside the video"),
        (Box(0, 1, -9, 9, -2), "The box .* is outside the video"),
        (Mask(0, np.ones((64, 48))), r"has shape \(64, 48\); it must be the video's, \(48, 64\)"),
    ],
)
def test_prompts_outside_a_video(prompt: Point | Box | Mask, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        check_prompts([prompt], (10, 48, 64))


def test_every_object_needs_something_positive() -> None:
    require_positive([Point(0, 1, 1, 2, positive=False), Point(5, 1, 1, 2), *BOXES, *MASKS])
    with pytest.raises(PromptError, match="Object 2 has only negative points"):
        require_positive([Point(0, 1, 1), Point(0, 1, 1, 2, positive=False)])
    with pytest.raises(PromptError, match="no prompts"):
        require_positive([])
