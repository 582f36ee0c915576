"""`napari-surgsam2 batch`, with worker processes that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_surgsam2 as ns
from napari_surgsam2 import batch
from napari_surgsam2.batch import BatchReport, JobResult, ReportNotWrittenError
from napari_surgsam2.checkpoints import Model
from tests.helpers.clips import moving_blobs

from .conftest import Run

pytest.importorskip("distributed")

needs_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
OPTIONS = ("--model", "tiny.safetensors", "--device", "cpu", "--output-dir", "out")
CORRUPT, OUTSIDE, LONG = 4, 7, 2


@pytest.fixture
def archive(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder with 12 clips and a table: one corrupt, one clicked outside, one longer than the others."""
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    lines = ["video,prompts,output"]
    for i in range(12):
        clip = np.roll(moving_blobs(40 if i == LONG else 8, 64, 64), 3 * i, axis=2)
        tifffile.imwrite(tmp_path / f"clip{i}.tif", clip, photometric="rgb")
        y = 500 if i == OUTSIDE else 22
        (tmp_path / f"points{i}.csv").write_text(f"axis-0,axis-1,axis-2\n0,{y},{20 + i}\n")
        lines.append(f"clip{i}.tif,points{i}.csv,masks{i}.tif")
    (tmp_path / f"clip{CORRUPT}.tif").write_bytes((tmp_path / f"clip{CORRUPT}.tif").read_bytes()[:500])
    (tmp_path / "jobs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def begin(archive: Path, table: str, *options: object) -> subprocess.Popen[str]:
    """Start a batch, in a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "napari_surgsam2", "batch", table, *OPTIONS, *map(str, options)],
        cwd=archive,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for_frames(archive: Path, job: int, process: subprocess.Popen[str]) -> int:
    """Wait until some frames of a job are done and others not; return the process that does it."""
    partial = archive / "out" / f"masks{job}.tif.partial.zarr"
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            if any(done := (partial / "done").read_bytes()) and not all(done):
                return int((partial / "lock").read_text().split()[1])
        except (OSError, IndexError):
            pass
        time.sleep(0.005)
    raise AssertionError(f"job {job} was not seen under way: {process.communicate()}")


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.iterdir() if f.is_file()}


@needs_sigkill
def test_twelve_clips_two_failures_and_a_killed_worker(archive: Path, tiny_model: Model) -> None:
    process = begin(archive, "jobs.csv", "--workers", 2)
    os.kill(wait_for_frames(archive, LONG, process), signal.SIGKILL)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 1, err
    assert "clip2: Its process was lost; going on in another." in err
    assert re.search(r"clip4: failed: .*clip4\.tif", err)
    assert re.search(r"clip7: failed: The point \(y=500, x=27\) on frame 0 is outside the video", err)
    assert "Traceback" not in err
    good = [i for i in range(12) if i not in (CORRUPT, OUTSIDE)]
    made = state_of(archive / "out")
    assert sorted(made) == sorted(f"masks{i}.tif" for i in good)
    for i in good:
        alone = archive / "alone.tif"
        job = archive / f"clip{i}.tif", archive / f"points{i}.csv"
        ns.track(*job, model=tiny_model, output=alone, overwrite=True)
        assert alone.read_bytes() == made[f"masks{i}.tif"][1], i
    assert len(re.findall(r"\bdone\b", out)) == 10
    report = json.loads((archive / "out" / "jobs-report" / "report.json").read_text())
    assert report["counts"] == {"done": 10, "failed": 2}
    assert [job["attempts"] for job in report["jobs"]][LONG] == 2
    assert (archive / "out" / "jobs-report" / "report.html").read_text().count("data:image/png") == 10

    again = begin(archive, "jobs.csv", "--workers", 1, "--resume")
    out, err = again.communicate(timeout=120)

    assert again.returncode == 1, err
    assert state_of(archive / "out") == made
    assert len(re.findall(r"\bskipped\b", out)) == 10


@needs_sigkill
def test_interrupted_then_killed_altogether_then_finished(archive: Path, tiny_model: Model) -> None:
    tifffile.imwrite(archive / "clip2.tif", moving_blobs(60, 64, 64), photometric="rgb")
    table = (archive / "jobs.csv").read_text().splitlines()
    (archive / "short.csv").write_text("\n".join([table[0], table[1 + LONG], table[1]]) + "\n")

    # As a terminal does, which sends it to all processes.
    process = begin(archive, "short.csv", "--workers", 1)
    wait_for_frames(archive, LONG, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    stopped = json.loads((archive / "out" / "short-report" / "report.json").read_text())
    assert stopped["counts"] == {"stopped": 2}

    process = begin(archive, "short.csv", "--workers", 1, "--resume")
    wait_for_frames(archive, LONG, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    process = begin(archive, "short.csv", "--workers", 1, "--resume")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    alone = ns.track(archive / "clip2.tif", archive / "points2.csv", model=tiny_model)
    np.testing.assert_array_equal(tifffile.imread(archive / "out" / "masks2.tif"), alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", 0], "at least 1"),
        (["--workers", 1, "--scheduler", "tcp://x:1"], "give one"),
        (["--format", "zarr"], "leave the format out"),
        (["--model", "teeny"], "no model 'teeny'"),
        (["--image-size", 100], "multiple of 32"),
    ],
)
def test_options_that_cannot_be_used(run: Run, archive: Path, options: list, message: str) -> None:
    outcome = run("batch", "jobs.csv", "--device", "cpu", *options, cwd=archive)
    assert outcome.code == 2
    assert message in outcome.err
    assert not list(archive.glob("*-report"))


def test_results_are_told_though_the_report_cannot_be_written(run: Run, archive: Path, monkeypatch) -> None:
    result = JobResult(name="clip0", output="masks0.tif", status="done")

    def unwritten(*_: object, **__: object) -> None:
        raise ReportNotWrittenError("No space left", BatchReport((result,), "now", 1.0))

    monkeypatch.setattr(batch, "run_batch", unwritten)
    outcome = run("batch", "jobs.csv", "--output-dir", "out", "--model", "tiny.safetensors", cwd=archive)
    assert (outcome.code, "No space left" in outcome.err) == (1, True)
    assert "masks0.tif" in outcome.out


def test_a_table_with_errors_starts_nothing(run: Run, archive: Path) -> None:
    (archive / "bad.csv").write_text("video,prompts,output\nno.mp4,points0.csv,a.tif\n")
    outcome = run("batch", "bad.csv", cwd=archive)
    assert outcome.code == 2
    assert "'bad.csv', row 2, column 'video': No file or folder" in outcome.err
    assert not list(archive.glob("*-report"))


def test_without_dask_distributed_it_is_said_how_to_get_it(run: Run, archive: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    outcome = run("batch", "jobs.csv", cwd=archive)
    assert outcome.code == 2
    assert "pip install 'napari-surgsam2[distributed]'" in outcome.err
