"""Runs that end early, and going on with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.masks import AlreadyCompleteError, LabelVolume, export, read_labels
from napari_surgsam2.masks._partial import create_array, mark_outdated

SHAPE = (6, 8, 10)
RUN: dict[str, Any] = {"video": "clip.mp4", "settings": {"prune_frames": 2, "model": "nano"}}


def create(output: Path, **options: Any) -> LabelVolume:
    return LabelVolume.create(output, SHAPE, 9, **{"run": RUN, **options})


def interrupt(output: Path, frames: range = range(3), **options: Any) -> None:
    with create(output, **options) as volume:
        for t in frames:
            volume[t] = np.full(SHAPE[1:], t + 1)


@pytest.mark.parametrize("name", ["masks.tif", "masks.zarr", "masks"])
def test_an_interrupted_run_is_gone_on_with(tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    interrupt(output)
    assert not output.exists()
    volume = create(output, resume=True)
    assert volume.done.tolist() == [True] * 3 + [False] * 3
    for t in np.flatnonzero(~volume.done):
        volume[t] = np.full(SHAPE[1:], t + 1)
    result = np.asarray(read_labels(volume.finish()))
    np.testing.assert_array_equal(result.max(axis=(1, 2)), [1, 2, 3, 4, 5, 6])
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_the_callers_state_is_kept_until_the_end(tmp_path: Path) -> None:
    output = tmp_path / "masks.zarr"
    with create(output) as volume:
        assert volume.state_path is not None
        volume.state_path.write_bytes(b"where I was")
        volume.state_path.with_suffix(".new").write_bytes(b"half")
    volume = create(output, resume=True)
    assert volume.state_path is not None
    assert volume.state_path.read_bytes() == b"where I was"
    volume.finish()
    assert [f.name for f in tmp_path.iterdir()] == ["masks.zarr"]


def test_starting_anew_needs_a_word(tmp_path: Path) -> None:
    output = tmp_path / "masks.tif"
    interrupt(output)
    with pytest.raises(OutputError, match=r"interrupted run.*--resume.*--force"):
        create(output)
    volume = create(output, overwrite=True)
    assert not volume.done.any()
    assert not volume[0].any()
    volume.close()


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    output = tmp_path / "masks.tif"
    interrupt(output)
    other = {"video": "clip.mp4", "settings": {"prune_frames": 0, "model": "nano"}, "fill": 3}
    with pytest.raises(OutputError, match="same settings, or start anew with --force") as caught:
        create(output, resume=True, run=other)
    assert "settings.prune_frames (was 2, is now 0)" in str(caught.value)
    assert "fill (was not given, is now 3)" in str(caught.value)
    assert "video" not in str(caught.value)
    with pytest.raises(OutputError, match=r"shape \(was \[6, 8, 10\], is now \[6, 8, 11\]\)"):
        LabelVolume.create(output, (6, 8, 11), 9, run=RUN, resume=True)
    create(output, resume=True).close()


@pytest.mark.parametrize(
    "change", [{"model": "nano (SHA-256 0123456789abcdef)"}, {"settings": {"prune_frames": 2, "newer": True}}]
)
def test_a_run_of_another_version_says_so(tmp_path: Path, change: dict[str, Any]) -> None:
    """There is no option to give again."""
    output = tmp_path / "masks.tif"
    run = {"model": "nano", "settings": {"prune_frames": 2}}
    interrupt(output, run=run)
    with pytest.raises(OutputError, match="begun with another version of napari-surgsam2") as caught:
        create(output, resume=True, run={**run, **change})
    assert "with --force (overwrite=True), without --resume" in str(caught.value)
    create(output, overwrite=True, run={**run, **change}).close()


def test_long_values_are_shown_where_they_differ(tmp_path: Path) -> None:
    output, folder = tmp_path / "masks.tif", "/archive/" + "very/" * 20
    interrupt(output, run={"video": f"{folder}one.mp4"})
    with pytest.raises(OutputError, match=r"was \.\.\.[a-z/]+/one\.mp4', is now \.\.\.[a-z/]+/two\.mp4'"):
        create(output, resume=True, run={"video": f"{folder}two.mp4"})


def test_an_unfinished_volume_can_be_looked_at(tmp_path: Path) -> None:
    interrupt(tmp_path / "masks.tif")
    assert read_labels(tmp_path / "masks.tif.partial.zarr")[1].max() == 2


def test_what_identifies_a_run_must_be_comparable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run must hold plain JSON values"):
        create(tmp_path / "masks.tif", run={"model": object()})
    assert not list(tmp_path.iterdir())


def test_resuming_with_nothing_there_starts(tmp_path: Path) -> None:
    assert not create(tmp_path / "masks.tif", resume=True).done.any()


@pytest.mark.parametrize("name", ["masks.tif", "masks.zarr", "masks"])
def test_resuming_what_is_complete(tmp_path: Path, name: str) -> None:
    create(tmp_path / name).finish()
    with pytest.raises(AlreadyCompleteError, match="nothing to resume; use --force"):
        create(tmp_path / name, resume=True)
    assert [f.name for f in tmp_path.iterdir()] == [name]
    assert not create(tmp_path / name, resume=True, overwrite=True).done.any()


def test_the_permission_to_replace_is_remembered(tmp_path: Path) -> None:
    output = export(tmp_path / "masks.tif", np.full(SHAPE, 3, dtype=np.uint8))
    interrupt(output, overwrite=True)
    create(output, resume=True).finish()
    assert np.asarray(read_labels(output)[0]).max() == 1


def test_an_output_that_is_to_be_replaced_is_remembered_until_it_is(tmp_path: Path) -> None:
    output = export(tmp_path / "masks.tif", np.full(SHAPE, 3, dtype=np.uint8))
    mark_outdated(output)
    with pytest.raises(OutputError, match="exists already"):
        create(output)
    create(output, resume=True).close()  # as if it had been stopped before its first frame
    interrupt(output, resume=True)
    create(output, resume=True).finish()
    assert np.asarray(read_labels(output)[0]).max() == 1
    with pytest.raises(AlreadyCompleteError):
        create(output, resume=True)
    assert [f.name for f in tmp_path.iterdir()] == ["masks.tif"]


def test_an_output_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "masks.tif"
    interrupt(output)
    output.write_text("something else")
    with pytest.raises(OutputError, match="exists already"):
        create(output, resume=True)
    assert output.read_text() == "something else"


def test_a_folder_of_somebody_else_under_the_partial_name_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "masks.tif.partial.zarr" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    with pytest.raises(OutputError, match=r"contains notes\.txt"):
        create(tmp_path / "masks.tif", overwrite=True)
    assert theirs.read_text() == "mine"


def test_a_result_that_is_called_like_an_unfinished_one_stays_whole(tmp_path: Path) -> None:
    theirs = create_array(tmp_path / "masks.partial.zarr", SHAPE, np.dtype(np.uint8))
    theirs[:] = 3
    for begin in (
        lambda: create(tmp_path / "masks", overwrite=True),
        lambda: mark_outdated(tmp_path / "masks"),
    ):
        with pytest.raises(OutputError, match=r"masks\.partial\.zarr.* contains c; move that away"):
            begin()
    assert (np.asarray(read_labels(tmp_path / "masks.partial.zarr")) == 3).all()
    assert sorted(f.name for f in (tmp_path / "masks.partial.zarr").iterdir()) == ["c", "zarr.json"]


def test_no_result_may_be_called_like_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose another name"):
        create(tmp_path / "masks.partial.zarr")


@pytest.mark.parametrize("record", [b"", b"{", b"[1]"])
def test_an_interrupted_run_whose_record_is_damaged_is_kept_until_told(tmp_path: Path, record: bytes) -> None:
    output = tmp_path / "masks.tif"
    interrupt(output)
    (tmp_path / "masks.tif.partial.zarr" / "run.json").write_bytes(record)
    with pytest.raises(OutputError, match=r"run\.json' is damaged; start anew with --force"):
        create(output, resume=True)
    with pytest.raises(OutputError, match="interrupted run"):
        create(output)
    assert read_labels(tmp_path / "masks.tif.partial.zarr")[1].max() == 2
    assert not create(output, overwrite=True).done.any()


class TestCrash:
    """Each test puts on disk what a process leaves that ends at that point."""

    def test_half_a_chunk_of_a_frame_not_done_is_removed(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "masks.zarr")
        chunk = tmp_path / "masks.zarr.partial.zarr" / "labels" / "c" / "4" / "0" / "0"
        chunk.parent.mkdir(parents=True)
        chunk.write_bytes(b"\x28\xb5")
        chunk.with_suffix(".0123.partial").write_bytes(b"\x28")
        volume = create(tmp_path / "masks.zarr", resume=True)
        assert not volume[4].any()
        assert not list(volume.finish().glob("**/*.partial"))

    def test_a_frame_lost_in_a_power_cut_is_not_done(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "masks.zarr")
        chunks = tmp_path / "masks.zarr.partial.zarr" / "labels" / "c"
        (chunks / "0" / "0" / "0").write_bytes(b"")
        shutil.rmtree(chunks / "1")
        volume = create(tmp_path / "masks.zarr", resume=True)
        assert volume.done.tolist() == [False, False, True, False, False, False]
        assert not volume[0].any()

    def test_a_record_cut_short_means_that_the_rest_is_not_done(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "masks.zarr")
        (tmp_path / "masks.zarr.partial.zarr" / "done").write_bytes(b"\1")
        assert create(tmp_path / "masks.zarr", resume=True).done.sum() == 1

    def test_while_the_partial_was_made(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "masks.zarr")
        (tmp_path / "masks.zarr.partial.zarr" / "run.json").unlink()
        assert not create(tmp_path / "masks.zarr").done.any()

    @pytest.mark.parametrize(("name", "payload"), [("masks.tif", "result"), ("masks.zarr", "labels")])
    def test_just_after_the_result_was_put_in_place(self, tmp_path: Path, name: str, payload: str) -> None:
        interrupt(tmp_path / name)
        partial = tmp_path / f"{name}.partial.zarr"
        shutil.copytree(partial, tmp_path / "copy")
        create(tmp_path / name, resume=True).finish()
        shutil.move(tmp_path / "copy", partial)
        (partial / "publishing").touch()
        if payload == "labels":
            shutil.rmtree(partial / payload)
        with pytest.raises(AlreadyCompleteError):
            create(tmp_path / name, resume=True)
        assert [f.name for f in tmp_path.iterdir()] == [name]

    def test_between_moving_the_old_output_out_and_the_new_one_in(self, tmp_path: Path) -> None:
        output = export(tmp_path / "masks.zarr", np.full(SHAPE, 3, dtype=np.uint8))
        interrupt(output, overwrite=True)
        partial = tmp_path / "masks.zarr.partial.zarr"
        (partial / "publishing").touch()
        output.rename(partial / "replaced")
        with create(output, resume=True) as volume:
            assert read_labels(output)[0].max() == 3
            volume.finish()
        assert read_labels(output)[0].max() == 1
        assert [f.name for f in tmp_path.iterdir()] == ["masks.zarr"]


WRITER = """
import sys
import numpy as np
from napari_surgsam2.masks import LabelVolume

volume = LabelVolume.create(sys.argv[1], (400, 64, 64), 400, run={"id": 1}, resume=True)
for t in range(400):
    if not volume.done[t]:
        labels = np.random.default_rng(t).integers(0, 400, (64, 64))
        volume[t] = labels
    print(t, flush=True)
"""


def start_writer(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(output)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_any_time_and_resumed_gives_the_complete_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "masks.tif"
    for last_line in (30, 120):
        with start_writer(output) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == last_line:
                    os.kill(process.pid, signal.SIGKILL)
                    break
    assert not output.exists()
    volume = LabelVolume.create(output, (400, 64, 64), 400, run={"id": 1}, resume=True)
    # The last line printed may be behind what was written, never ahead of it.
    assert 121 <= volume.done.sum() < 400
    expected = [np.random.default_rng(t).integers(0, 400, (64, 64)) for t in range(400)]
    for t in range(400):
        if volume.done[t]:
            np.testing.assert_array_equal(volume[t], expected[t])
        else:
            volume[t] = expected[t]
    np.testing.assert_array_equal(np.asarray(read_labels(volume.finish())), expected)
    assert [f.name for f in tmp_path.iterdir()] == ["masks.tif"]


class TestLock:
    def test_two_at_once_in_one_process(self, tmp_path: Path) -> None:
        volume = create(tmp_path / "masks.tif")
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=f"another process .process {os.getpid()}"):
                create(tmp_path / "masks.tif", **options)
        volume[0] = np.ones(SHAPE[1:], dtype=int)
        volume.finish()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
    def test_of_a_living_process_holds_and_of_a_dead_one_does_not(self, tmp_path: Path) -> None:
        output = tmp_path / "masks.zarr"
        with start_writer(output) as process:
            assert process.stdout is not None
            process.stdout.readline()
            os.kill(process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(OutputError, match=f"another process .process {process.pid}"):
                    create(output, overwrite=True)
            finally:
                os.kill(process.pid, signal.SIGKILL)
        assert (tmp_path / "masks.zarr.partial.zarr" / "lock").exists()
        create(output, overwrite=True).close()

    def test_goes_with_a_volume_that_was_dropped(self, tmp_path: Path) -> None:
        volume = create(tmp_path / "masks.tif")
        del volume
        create(tmp_path / "masks.tif", resume=True).close()

    def test_a_refused_start_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (tmp_path / "masks.tif").write_text("here")
        with pytest.raises(OutputError):
            create(tmp_path / "masks.tif")
        assert [f.name for f in tmp_path.iterdir()] == ["masks.tif"]
