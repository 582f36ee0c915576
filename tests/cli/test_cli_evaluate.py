"""`napari-surgsam2 evaluate`, as a user meets it."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_surgsam2 import evaluation
from napari_surgsam2.errors import OutputError
from napari_surgsam2.evaluation import score_volumes, summarize
from napari_surgsam2.masks import write_coco, write_davis

from .conftest import Run


def labels(seed: int, frames: int = 5) -> np.ndarray:
    """Boxes 1 and 2 that move."""
    volume = np.zeros((frames, 40, 50), np.uint8)
    for t in range(frames):
        volume[t, 4 + t : 18 + t, 5 : 20 + seed] = 1
        volume[t, 20:35, 25 + t - seed : 40] = 2
    return volume


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for root, shift in (("results", 1), ("truth", 0)):
        (tmp_path / root).mkdir()
        for k in (0, 1):
            write_davis(tmp_path / root / f"seq_{k}", labels(shift + k))
    return tmp_path


def expected() -> list:
    return [score_volumes(labels(1 + k), labels(k), name=f"seq_{k}") for k in (0, 1)]


def test_prints_a_row_per_video_and_the_mean(run: Run, folders: Path) -> None:
    outcome = run("evaluate", "results", "truth", cwd=folders)

    assert outcome.code == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert [line[0] for line in lines] == ["video", "seq_0", "seq_1", "mean"]
    for line, videos in zip(lines[1:], ([expected()[0]], [expected()[1]], expected()), strict=True):
        mean = summarize(videos)
        assert line[1] == str(mean.objects)
        assert line[2:4] == [f"{mean.j_and_f:.3f}", f"{mean.j:.3f}"]
        assert line[-1] == f"{mean.dice:.3f}"


def test_writes_csv_and_json(run: Run, folders: Path) -> None:
    command = ("evaluate", "results", "truth", "--csv", "s.csv", "--json", "s.json", "--endovis", "2018")
    assert run(*command, cwd=folders).code == 0

    rows = list(csv.DictReader((folders / "s.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 3
    summary = json.loads((folders / "s.json").read_text())
    assert summary["mean"]["j"] == summarize(expected()).j
    assert summary["videos"]["seq_1"]["f"] == expected()[1].summary.f
    assert set(summary["endovis"]["class_iou"]) == {"Bipolar Forceps", "Prograsp Forceps"}
    assert 0 < summary["endovis"]["challenge_iou"] == summary["endovis"]["isi_iou"] < 1

    again = run(*command, cwd=folders)
    assert (again.code, "s.csv exists already" in again.err) == (1, True)
    assert run(*command, "--force", cwd=folders).code == 0


def test_sparse_ground_truth_is_matched_by_name(run: Run, folders: Path) -> None:
    (folders / "truth" / "seq_0" / "00001.png").unlink()
    (folders / "truth" / "seq_0" / "00003.png").unlink()

    assert run("evaluate", "results", "truth", "--csv", "s.csv", cwd=folders).code == 0

    frames = [
        r["frame"]
        for r in csv.DictReader((folders / "s.csv").read_text().splitlines())
        if r["video"] == "seq_0"
    ]
    assert frames == ["00002"] * 2


def test_all_frames(run: Run, folders: Path) -> None:
    run("evaluate", "results", "truth", "--csv", "s.csv", "--all-frames", cwd=folders)
    assert len(list(csv.DictReader((folders / "s.csv").read_text().splitlines()))) == 2 * 2 * 5


@pytest.mark.parametrize("kind", ["tif", "zarr", "json", "folder"])
def test_single_volumes_of_any_kind(kind: str, run: Run, tmp_path: Path) -> None:
    for name, seed in (("p", 1), ("t", 0)):
        path = tmp_path / (name if kind == "folder" else f"{name}.{kind}")
        match kind:
            case "tif":
                tifffile.imwrite(path, labels(seed), photometric="minisblack")
            case "zarr":
                zarr.create_array(str(path), data=labels(seed))
            case "json":
                write_coco(path, labels(seed))
            case "folder":
                write_davis(path, labels(seed))
    paths = [name if kind == "folder" else f"{name}.{kind}" for name in "pt"]

    outcome = run("evaluate", *paths, "--json", "s.json" if kind != "json" else "scores.json", cwd=tmp_path)

    assert outcome.code == 0
    written = json.loads(
        next(p for p in tmp_path.iterdir() if p.name in ("s.json", "scores.json")).read_text()
    )
    assert written["mean"]["j"] == pytest.approx(score_volumes(labels(1), labels(0)).summary.j)


def test_a_tiff_against_a_folder(run: Run, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", labels(0), photometric="minisblack")
    write_davis(tmp_path / "truth", labels(0))
    outcome = run("evaluate", "p.tif", "truth", cwd=tmp_path)
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split()[2] == "1.000"


def test_results_as_surgical_sam_2_writes_them(run: Run, folders: Path) -> None:
    for k in (0, 1):
        video = folders / "results" / f"seq_{k}"
        video.rename(folders / "moved")
        video.mkdir()
        (video / "001").mkdir()
        (folders / "moved").rename(video / "all")
    outcome = run("evaluate", "results", "truth", cwd=folders)
    assert outcome.out.splitlines()[-1].split()[3] == f"{summarize(expected()).j:.3f}"


def test_labels_that_the_truth_lacks_are_noted(run: Run, folders: Path) -> None:
    odd = labels(1)
    odd[2, 0, 0] = 9
    write_davis(folders / "results" / "seq_0", odd, overwrite=True)
    assert (
        "'seq_0' have labels that its ground truth lacks: 9"
        in run("evaluate", "results", "truth", cwd=folders).err
    )


def test_255_as_an_object(run: Run, folders: Path) -> None:
    for root in ("results", "truth"):
        for k in (0, 1):
            write_davis(folders / root / f"seq_{k}", (labels(k) > 0) * np.uint8(255), overwrite=True)
    refused = run("evaluate", "results", "truth", cwd=folders)
    assert (refused.code, "--no-void" in refused.err) == (2, True)
    outcome = run("evaluate", "results", "truth", "--no-void", cwd=folders)
    assert outcome.out.splitlines()[-1].split()[1:3] == ["2", "1.000"]


# What does not match


def small(folders: Path) -> None:
    Image.fromarray(labels(0)[2, :30]).save(folders / "results" / "seq_1" / "00002.png")


def renamed(folders: Path) -> None:
    (folders / "results" / "seq_1" / "00002.png").rename(folders / "results" / "seq_1" / "frame2.png")


def colourful(folders: Path) -> None:
    Image.new("RGB", (50, 40)).save(folders / "truth" / "seq_0" / "00002.png")


def damaged(folders: Path) -> None:
    (folders / "truth" / "seq_0" / "00002.png").write_bytes(b"no picture")


def one_more(root: str):
    return lambda folders: write_davis(folders / root / "seq_7", labels(0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (one_more("truth"), "'seq_7' in 'truth' has no folder in 'results', which has: 'seq_0', 'seq_1'"),
        (one_more("results"), "'seq_7' in 'results' has no folder in 'truth'"),
        (
            renamed,
            "The frame '00002' of the ground truth 'truth/seq_1' has no PNG of this name in the predictions",
        ),
        (
            small,
            "Frame '00002' of 'seq_1' is 30 x 50 (height x width) pixels in the predictions (results/seq_1)",
        ),
        (colourful, "00002.png' is a RGB picture; it must be a palette or gray PNG"),
        (damaged, "00002.png' cannot be read"),
    ],
)
def test_what_does_not_match_is_said(change, says: str, run: Run, folders: Path) -> None:
    change(folders)
    outcome = run("evaluate", "results", "truth", cwd=folders)
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err


def test_volumes_that_do_not_match(run: Run, folders: Path) -> None:
    tifffile.imwrite(folders / "p.tif", labels(0), photometric="minisblack")
    tifffile.imwrite(folders / "short.tif", labels(0, 4), photometric="minisblack")
    tifffile.imwrite(folders / "low.tif", labels(0)[:, :30], photometric="minisblack")
    for other, says in (("short.tif", "the frames must be"), ("low.tif", "the size must be")):
        outcome = run("evaluate", "p.tif", other, cwd=folders)
        assert (outcome.code, says in outcome.err) == (2, True)
    for first, second, says in (
        ("p.tif", "truth", "'truth' holds a folder for each video, and 'p.tif' is a single volume"),
        ("nothing", "truth", "There is no predictions 'nothing'"),
    ):
        outcome = run("evaluate", first, second, cwd=folders)
        assert (outcome.code, says in outcome.err) == (2, True)


def test_a_list_of_videos(run: Run, folders: Path) -> None:
    write_davis(folders / "truth" / "seq_7", labels(0))
    (folders / "list.txt").write_text("seq_1\n")
    outcome = run("evaluate", "results", "truth", "--video-list", "list.txt", cwd=folders)
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["video", "seq_1", "mean"]
    (folders / "list.txt").write_text("seq_7\n")
    outcome = run("evaluate", "results", "truth", "--video-list", "list.txt", cwd=folders)
    assert "The video 'seq_7' has no folder in 'results'" in outcome.err


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_what_is_scored_is_not_replaced_even_by_force(option: str, run: Run, tmp_path: Path) -> None:
    for name in ("predicted", "truth"):
        tifffile.imwrite(tmp_path / f"{name}.tif", labels(0), photometric="minisblack")
    before = (tmp_path / "truth.tif").read_bytes()
    outcome = run("evaluate", "predicted.tif", "truth.tif", option, "truth.tif", "--force", cwd=tmp_path)
    assert (outcome.code, "in the place of the input" in outcome.err) == (2, True)
    assert (tmp_path / "truth.tif").read_bytes() == before


def test_two_files_of_scores_are_not_one(run: Run, folders: Path) -> None:
    outcome = run("evaluate", "results", "truth", "--csv", "s", "--json", "s", "--force", cwd=folders)
    assert (outcome.code, "give each a file of its own" in outcome.err) == (2, True)
    assert not (folders / "s").exists()


def test_scores_that_cannot_be_written_are_printed(
    run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("No space left")

    monkeypatch.setattr(evaluation, "write_csv", full)
    outcome = run("evaluate", "results", "truth", "--csv", "s.csv", cwd=folders)
    assert (outcome.code, "No space left" in outcome.err) == (1, True)
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["video", "seq_0", "seq_1", "mean"]


def test_what_the_system_complains_of_is_no_traceback(
    run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run("evaluate", "x" * 300, "truth", cwd=folders)
    assert outcome.code == 1
    assert "File name too long. Check the path" in outcome.err

    def away(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", away)
    outcome = run("evaluate", "results", "truth", cwd=folders)
    assert (outcome.code, "Error: Input/output error. Check the path, that its disk" in outcome.err) == (
        1,
        True,
    )
