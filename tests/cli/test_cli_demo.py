"""`napari-surgsam2 demo`: what it writes and tells."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_surgsam2 as ns
from napari_surgsam2 import demo
from napari_surgsam2.cli.progress import RunProgress
from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.evaluation import label_scores
from napari_surgsam2.synthetic import SyntheticClip, make_clip
from napari_surgsam2.synthetic.instruments import KINDS

from .conftest import Outcome, Run

SIZE = (96, 120)
posix = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")


@pytest.fixture
def small(run: Run, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the demo with small pictures, few frames and the tiny model, into `tmp_path / "out"`."""

    monkeypatch.setitem(demo.run_demo.__kwdefaults__, "size", SIZE)

    def call(*arguments: object) -> Outcome:
        return run("demo", "out", "--frames", 5, "--model", tiny_checkpoint, *arguments, cwd=tmp_path)

    return call


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_all_files_are_written_and_the_scores_are_theirs(small, tmp_path: Path) -> None:
    outcome = small("--seed", 42)

    assert outcome.code == 0
    out = tmp_path / "out"
    assert names(tmp_path) == ["out"]
    assert names(out) == sorted(demo.FILES)
    for name in (demo.CLIP, demo.PREVIEW):
        with ns.open_video(out / name) as video:
            assert video.shape == (5, *SIZE)
    with Image.open(out / demo.SHEET) as sheet:
        assert min(sheet.size) > 300
    clip, masks, clicks = (
        make_clip(42, 5, SIZE),
        tifffile.imread(out / demo.MASKS),
        ns.load_prompts(out / demo.POINTS),
    )
    with ns.open_video(out / demo.CLIP) as video:
        assert np.abs(video.frame(3).astype(int) - clip.video[3]).mean() < 8
    t, labels = demo.choose_objects(clip)
    assert [(p.frame, p.object_id, clip.labels[t, int(p.y), int(p.x)]) for p in clicks] == [
        (t, i, n) for i, n in enumerate(labels, 1)
    ]
    truth = sum((clip.labels == n) * np.uint8(i) for i, n in enumerate(labels, 1))
    scores = label_scores(masks, truth, [1, 2])
    rows = [line.split() for line in outcome.out.splitlines()]
    assert rows[0] == ["object", "J", "F", "J&F"]
    for row, (i, (j, f)) in zip(rows[1:], scores.items(), strict=False):
        expected = [f"{100 * x:.1f}" for x in (j.mean(), f.mean(), (j.mean() + f.mean()) / 2)]
        assert (row[0], row[-3:]) == (str(i), expected)
        assert clip.names[labels[i - 1]] in " ".join(row)
    assert rows[3] == ["mean", f"{100 * np.mean([(j + f).mean() / 2 for j, f in scores.values()]):.1f}"]
    assert "frames/s" in outcome.err


def test_the_command_that_is_told_tracks_the_same(small, run: Run, tmp_path: Path, tiny_checkpoint) -> None:
    command = small().err.rpartition("Next:")[2].splitlines()[0]

    program, *arguments = shlex.split(command)
    assert program == "napari-surgsam2"
    assert run(*arguments, "--model", tiny_checkpoint, cwd=tmp_path).code == 0
    again = tifffile.imread(tmp_path / "masks.tif")
    np.testing.assert_array_equal(again, tifffile.imread(tmp_path / "out" / demo.MASKS))


def test_nothing_is_replaced_unasked(small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / demo.POINTS).write_text("mine, too")

    outcome = small()
    assert (outcome.code, outcome.out) == (1, "")
    assert f"{out} has points.csv already; choose another folder" in outcome.err
    assert names(out) == ["notes.txt", "points.csv"]

    assert small("--overwrite").code == 0
    assert names(out) == sorted((*demo.FILES, "notes.txt"))
    assert len(ns.load_prompts(out / demo.POINTS)) == 2
    assert (out / "notes.txt").read_text() == "mine"
    assert small("--force", "--seed", 3).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scene", "opera"], 2, "There is no kind of scene 'opera'"),
        (["--frames", 0], 2, "A clip of 0 frames"),
        (["--seed", -1], 2, "The seed is -1; it must be 0 or more"),
        (["--model", "sam9"], 2, "There is no model 'sam9'"),
        (["--device", "foo"], 2, "The device is 'foo'"),
        (["--frames", "many"], 2, "Invalid value for"),
    ],
)
def test_what_cannot_be_shown_is_told(arguments, code: int, message: str, small, tmp_path: Path) -> None:
    outcome = small(*arguments)

    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert names(tmp_path) == []


@posix
@pytest.mark.parametrize("stage", ["opened", "loaded", "tracked", "drawn"])
def test_ctrl_c_leaves_nothing(stage: str, small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunProgress, f"_on_{stage}", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)

    outcome = small()

    assert outcome.code == 130
    assert "Stopped; nothing of the demo was kept." in outcome.err
    assert names(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is before


# The library


def test_folders_that_cannot_be_used_are_told(tmp_path: Path, tiny_model) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out" / demo.CLIP).mkdir(parents=True)
    for folder, message in (
        ("file", "is a file; the demo needs a folder"),
        ("a/b", "does not exist; create it first"),
        ("out", r"clip\.mp4 is a folder, which is not replaced"),
    ):
        with pytest.raises(OutputError, match=message):
            demo.run_demo(tmp_path / folder, seed=1, frames=2, model=tiny_model, overwrite=True)
    assert names(tmp_path) == ["file", "out"]


@pytest.mark.parametrize("scene", ["things", "microscopy", "ultrasound"])
def test_other_scenes_are_shown(scene: str, tmp_path: Path, tiny_model) -> None:
    made: list[tuple[int, int]] = []

    outcome = demo.run_demo(
        tmp_path / "out",
        seed=1,
        frames=2,
        scene=scene,
        size=SIZE,
        model=tiny_model,
        making=lambda *n: made.append(n),
    )

    assert made == [(1, 2), (2, 2)]
    assert 1 <= len(outcome.objects) <= 2
    assert 0 <= outcome.j_and_f <= 1
    assert names(outcome.folder) == sorted(demo.FILES)


def some_clip(*shown: dict[int, int]) -> SyntheticClip:
    """Labels in bands of as many rows as said, for each frame; 1 and 2 are instruments."""
    labels = np.zeros((len(shown), 100, 100), np.uint8)
    for t, rows in enumerate(shown):
        top = 0
        for n, height in rows.items():
            labels[t, top : top + height] = n
            top += height
    return SyntheticClip(
        np.zeros((*labels.shape, 3), np.uint8), labels, {1: KINDS[0], 2: KINDS[1], 3: "organ"}
    )


@pytest.mark.parametrize(
    ("shown", "chosen"),
    [
        ([{1: 5, 2: 5, 3: 40}], (0, [1, 2])),
        ([{1: 5, 3: 40}, {3: 90}, {1: 5, 2: 9}], (2, [1, 2])),
        ([{3: 40}, {2: 9, 3: 40}], (1, [2])),
        ([{}, {3: 40}], (1, [3])),
    ],
)
def test_instruments_are_clicked_where_both_are_first_seen(shown: list, chosen: tuple) -> None:
    assert demo.choose_objects(some_clip(*shown)) == chosen


def test_a_clip_that_shows_nothing_is_told() -> None:
    with pytest.raises(UsageError, match="choose another --seed"):
        demo.choose_objects(some_clip({}, {}))
