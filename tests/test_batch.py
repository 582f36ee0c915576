"""Batches from Python: tables of jobs, what is refused before anything starts, what becomes of each job."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import tifffile
import zarr

import napari_surgsam2 as ns
from napari_surgsam2 import checkpoints, pipeline
from napari_surgsam2.batch import (
    Job,
    JobError,
    JobEvent,
    ReportNotWrittenError,
    load_jobs,
    run_batch,
    waiting,
    worker,
)
from napari_surgsam2.batch.cluster import ClusterError, plan_workers
from napari_surgsam2.batch.dispatch import Run
from napari_surgsam2.batch.jobs import named_apart
from napari_surgsam2.batch.report import BatchReport, JobResult, ReportFolder
from napari_surgsam2.errors import OutputError, UsageError
from tests.helpers.clips import moving_blobs

POINTS = "axis-0,axis-1,axis-2,object_id,label\n0,22,20,1,1\n0,45,40,2,1\n"


@pytest.fixture
def archive(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder with three clips of 5 frames and 64 pixels, clicks, a project and a model."""
    for i in range(3):
        clip = np.roll(moving_blobs(5, 64, 64), 5 * i, axis=2)
        tifffile.imwrite(tmp_path / f"clip{i}.tif", clip, photometric="rgb")
    (tmp_path / "points.csv").write_text(POINTS)
    (tmp_path / "negative.csv").write_text("axis-0,axis-1,axis-2,object_id,label\n0,22,20,1,0\n")
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    project = ns.Project(
        video=tmp_path / "clip1.tif",
        prompts=[ns.Point(0, 22, 20)],
        model=str(tmp_path / "tiny.safetensors"),
        image_size=96,
        direction="forward",
        names={1: "<grasper>"},
    )
    ns.save_project(tmp_path / "study.surgsam2.json", project)
    return tmp_path


def table(archive: Path, *rows: str) -> Path:
    path = archive / "jobs.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


class TestTables:
    def test_csv(self, archive: Path) -> None:
        path = table(
            archive,
            "video, prompts, output, model, settings, image_size, frames, direction, name, project",
            'clip0.tif,points.csv,a.tif,tiny.safetensors,"{""fill_holes"": 3}",96,1:4,both,first,',
            "",
            ",,b.zarr,,,,2:,,,study.surgsam2.json",
        )

        first, second = load_jobs(path)

        assert first == Job(
            video=archive / "clip0.tif",
            prompts=archive / "points.csv",
            output=archive / "a.tif",
            model=str(archive / "tiny.safetensors"),
            settings=ns.TrackingSettings(fill_holes=3),
            image_size=96,
            frames=(1, 4),
            direction="both",
            name="first",
        )
        assert (second.project, second.video) == (archive / "study.surgsam2.json", None)
        assert (second.name, second.frames, second.output) == ("study", (2, None), str(archive / "b.zarr"))

    def test_json(self, archive: Path) -> None:
        (archive / "settings.json").write_text('{"remove_speckles": 4}')
        entry = {"video": "clip0.tif", "prompts": "points.csv", "output": "masks/", "frames": [0, None]}
        (archive / "jobs.json").write_text(
            json.dumps([{**entry, "settings": "settings.json", "image_size": 64}])
        )

        (job,) = load_jobs(archive / "jobs.json")

        assert job.settings == ns.TrackingSettings(remove_speckles=4)
        assert (job.frames, job.image_size, job.output) == ((0, None), 64, str(archive / "masks") + os.sep)

    def test_semicolons_of_a_spreadsheet(self, archive: Path) -> None:
        path = table(archive, "\ufeffvideo;prompts;output", "clip0.tif;points.csv;a.tif")
        assert load_jobs(path)[0].name == "clip0"

    def test_a_folder_has_a_job_for_each_project(self, archive: Path) -> None:
        ns.save_project(archive / "another.surgsam2.json", ns.load_project(archive / "study.surgsam2.json"))
        assert [job.output for job in load_jobs(archive)] == [
            str(archive / "another_masks.tif"),
            str(archive / "study_masks.tif"),
        ]
        elsewhere = load_jobs(archive, output_dir=archive / "out", output_format="coco")
        assert elsewhere[1].output == str(archive / "out" / "study_masks.json")

    def test_a_project_for_several_videos_is_called_after_each(self, archive: Path) -> None:
        rows = [f"clip{n}.tif,study.surgsam2.json" for n in range(2)]
        jobs = load_jobs(table(archive, "video,project", *rows))
        assert [job.name for job in jobs] == ["clip0", "clip1"]
        assert [job.output for job in jobs] == [str(archive / f"clip{n}_masks.tif") for n in range(2)]

    def test_options_win_over_table_and_project(self, archive: Path) -> None:
        (job,) = load_jobs(archive, model="nano", image_size=128)
        assert (job.model, job.image_size) == ("nano", 128)

    @pytest.mark.parametrize(
        ("row", "column", "message"),
        [
            (",points.csv,a.tif", "video", "no video"),
            ("nowhere.tif,points.csv,a.tif", "video", "No file or folder at"),
            ("clip0.tif,,a.tif", "prompts", "neither prompts nor a project"),
            ("clip0.tif,nowhere.csv,a.tif", "prompts", "There is no prompts file"),
            ("clip0.tif,negative.csv,a.tif", "prompts", "only negative points"),
            ("clip0.tif,points.csv,a.tif,,,,,study.surgsam2.json", "prompts", "both prompts and a project"),
            ("clip0.tif,,a.tif,,,,,points.csv", "project", "is not valid JSON"),
            ("clip0.tif,points.csv,", "output", "It is missing"),
            ("clip0.tif,points.csv,a.docx", "output", "ends in '.docx'"),
            ("clip0.tif,points.csv,clip0.tif", "output", "in the place of the input"),
            ("clip0.tif,points.csv,a.tif,teeny", "model", "no model 'teeny'"),
            ("clip0.tif,points.csv,a.tif,no.pt", "model", "no checkpoint"),
            ("clip0.tif,points.csv,a.tif,,100", "image_size", "multiple of 32"),
            ("clip0.tif,points.csv,a.tif,,big", "image_size", "whole number"),
            ("clip0.tif,points.csv,a.tif,,,5", "frames", "A:B"),
            ("clip0.tif,points.csv,a.tif,,,3:3", "frames", "below the second"),
            ("clip0.tif,points.csv,a.tif,,,,sideways", "direction", "'forward', 'backward' or 'both'"),
            ('clip0.tif,points.csv,a.tif,,,,,,"{""x"": 1}"', "settings", "no setting 'x'"),
            ("clip0.tif,points.csv,a.tif,,,,,,{x", "settings", "not valid JSON"),
            ("clip0.tif,points.csv,a.tif,,,,,,no.json", "settings", "cannot be read"),
            ("clip0.tif,points.csv,good.tif", "output", "row 2 too"),
            ("clip0.tif,points.csv,clip2.tif", "output", "is an input of"),
            ("clip0.tif,points.csv,good.tif/masks", "output", "is in the place of the output of"),
            ("clip0.tif,points.csv,good.tif.partial.zarr", "output", "as unfinished results do"),
        ],
    )
    def test_errors_name_file_row_and_column(
        self, archive: Path, row: str, column: str, message: str
    ) -> None:
        path = table(
            archive,
            "video,prompts,output,model,image_size,frames,direction,project,settings",
            "clip2.tif,points.csv,good.tif",
            row,
        )
        with pytest.raises(UsageError, match=re.escape(message)) as caught:
            load_jobs(path)
        assert f"'{path}', row 3, column '{column}'" in str(caught.value)

    @pytest.mark.parametrize("is_project_first", [False, True])
    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("seen/clip.tif", "in the place of the input"),
            ("seen/again.tif", "in the place of the input"),  # a second name of the file
            ("seen", "in the place of the input"),
            ("models", "in the place of the input"),
            ("frames/masks.tif", "among the frames"),
        ],
    )
    def test_an_output_in_the_place_of_what_a_project_names(
        self, archive: Path, client, output: str, message: str, is_project_first: bool
    ) -> None:
        for folder in ("seen", "models", "frames"):
            (archive / folder).mkdir()
        (archive / "clip1.tif").rename(archive / "seen" / "clip.tif")
        (archive / "seen" / "again.tif").hardlink_to(archive / "seen" / "clip.tif")
        (archive / "models" / "tiny.safetensors").touch()
        tifffile.imwrite(archive / "frames" / "0.tif", np.zeros((64, 64), np.uint8))
        video = archive / ("frames" if output.startswith("frames") else "seen/clip.tif")
        model = str(archive / "models" / "tiny.safetensors")
        project = ns.Project(video=video, prompts=[ns.Point(0, 22, 20)], model=model)
        ns.save_project(archive / "study.surgsam2.json", project)
        before = {f: f.read_bytes() for f in archive.rglob("*") if f.is_file()}
        jobs = [
            Job(video=archive / "clip0.tif", prompts=archive / "points.csv", output=archive / output),
            Job(project=archive / "study.surgsam2.json", output=archive / "study.tif"),
        ]

        with pytest.raises(UsageError, match=f"{message}.*is an input of Job . .'study'") as caught:
            run_batch(jobs[::-1] if is_project_first else jobs, client, device="cpu", overwrite=True)

        assert "Nothing was started" in str(caught.value)
        assert {f: f.read_bytes() for f in archive.rglob("*") if f.is_file()} == before

    def test_outputs_beside_what_others_read_are_fine(self, archive: Path) -> None:
        rows = ["clip0.tif,points.csv,clip0_masks.tif,", ",,clip1_masks.tif,study.surgsam2.json"]
        assert len(load_jobs(table(archive, "video,prompts,output,project", *rows))) == 2

    def test_all_rows_are_told_at_once(self, archive: Path) -> None:
        path = table(archive, "video,prompts,output", *["no.tif,points.csv,a.tif"] * 2, "no.tif,,b.tif")
        with pytest.raises(UsageError) as caught:
            load_jobs(path)
        assert re.findall("row 4", str(caught.value)) == ["row 4"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("video,colour\n", "unknown column 'colour'"),
            ("video,video\n", "twice"),
            ("video,output\n", "no jobs"),
            ("video,output\na.tif,b.tif,c.tif\n", "row 2 has more cells"),
        ],
    )
    def test_a_table_that_is_none(self, archive: Path, text: str, message: str) -> None:
        (archive / "jobs.csv").write_text(text)
        with pytest.raises(UsageError, match=message):
            load_jobs(archive / "jobs.csv")

    @pytest.mark.parametrize("text", ["{}", "[1]", "[", '[{"colour": 1}]', '[{"output": 3}]'])
    def test_json_that_is_no_table(self, archive: Path, text: str) -> None:
        (archive / "jobs.json").write_text(text)
        with pytest.raises(UsageError, match=re.escape(str(archive / "jobs.json"))):
            load_jobs(archive / "jobs.json")

    def test_files_that_are_none(self, archive: Path) -> None:
        (archive / "empty").mkdir()
        for name, message in (
            ("no.csv", "no table"),
            ("clip0.tif", "cannot be read"),
            ("empty", "there must"),
        ):
            with pytest.raises(UsageError, match=message):
                load_jobs(archive / name)

    def test_rows_are_counted_as_spreadsheets_do(self, archive: Path) -> None:
        path = table(
            archive, "video,prompts,output", "clip0.tif,points.csv,a.tif", "", "no.tif,points.csv,b.tif"
        )
        with pytest.raises(UsageError, match="row 4, column 'video'"):
            load_jobs(path)

    def test_a_name_with_a_dot_gets_a_folder_too(self, archive: Path) -> None:
        (archive / "clip0.tif").rename(archive / "clip.v2.tif")
        path = table(archive, "video,prompts", "clip.v2.tif,points.csv")
        (job,) = load_jobs(path, output_dir=archive / "out", output_format="davis")
        assert job.target == archive / "out" / "clip.v2_masks"

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("../other", "has '/' in it"),
            ("/tmp/other", "has '/' in it"),
            ("a\\b", "has '\\\\' in it"),
            ("left: 1", "has ':' in it"),
            ("..", "begins with a dot"),
            ("con.1", "Windows keeps for a device"),
        ],
    )
    def test_a_name_that_the_output_cannot_be_called_by(self, archive: Path, name: str, says: str) -> None:
        path = table(archive, "name,video,prompts,output", f"{name},clip0.tif,points.csv,")
        with pytest.raises(UsageError, match=re.escape(says)) as caught:
            load_jobs(path, output_dir=archive / "out")
        assert f"'{path}', row 2, column 'name'" in str(caught.value)
        assert "name the output" in str(caught.value)

        table(archive, "name,video,prompts,output", f"{name},clip0.tif,points.csv,a.tif")
        assert load_jobs(path)[0].name == name  # then it is only what messages call it

    def test_a_name_that_only_looks_like_a_device(self, archive: Path) -> None:
        path = table(archive, "name,video,prompts", "con,clip0.tif,points.csv")
        assert load_jobs(path, output_dir=archive / "out")[0].target.name == "con_masks.tif"

    @pytest.mark.parametrize(
        ("first", "second", "says"),
        [
            ("scan", "scan", "row 2 too"),
            ("scan", "SCAN", "only in upper and lower case"),
            ("caf\u00e9", "cafe\u0301", "only in upper and lower case"),
        ],
    )
    def test_names_that_lead_to_one_file(self, archive: Path, first: str, second: str, says: str) -> None:
        rows = f"{first},clip0.tif,points.csv", f"{second},clip1.tif,points.csv"
        path = table(archive, "name,video,prompts", *rows)
        with pytest.raises(UsageError, match=says):
            load_jobs(path, output_dir=archive / "out")

    def test_a_format_that_would_do_nothing(self, archive: Path) -> None:
        path = table(archive, "video,prompts,output", "clip0.tif,points.csv,a.tif")
        with pytest.raises(UsageError, match="leave the format out"):
            load_jobs(path, output_format="zarr")


def test_what_is_sent_to_a_worker_is_small(archive: Path) -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[500:1500, 500:1500] = True
    prompts = (ns.Point(0, 700, 700), ns.Mask(0, mask))
    job = Job(video=archive / "clip0.tif", prompts=prompts, output=archive / "a.tif")

    sent = pickle.dumps(worker.Order(token="t", index=0, job=job))

    assert len(sent) < 20_000 < mask.nbytes
    received = pickle.loads(sent).job
    assert (received.output, received.prompts[0]) == (job.output, prompts[0])
    np.testing.assert_array_equal(received.prompts[1].mask, mask)


class TestPlan:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dask.system.CPU_COUNT", 16)
        monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 13 * 2**30)
        for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(checkpoints, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"], False)
        monkeypatch.setattr(checkpoints, "resolve_device", lambda name: torch.device("cuda"), False)

    @pytest.mark.parametrize(
        ("jobs", "workers", "threads"),
        [(20, None, ["5"] * 3), (2, None, ["8"] * 2), (20, 8, ["2"] * 8), (1, 8, ["16"])],
    )
    def test_workers_share_cores_and_memory(self, jobs: int, workers: int | None, threads: list[str]) -> None:
        plan = plan_workers(jobs, workers, "cpu")
        assert [e["OMP_NUM_THREADS"] for e in plan.environments] == threads

    def test_threads_that_the_user_set_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert plan_workers(4, 2, "cpu").environments[0]["MKL_NUM_THREADS"] == "1"

    @pytest.mark.parametrize(
        ("visible", "workers", "expected"),
        [("", None, ["0", "1"]), ("4,7", None, ["4", "7"]), ("", 3, ["0", "1", "0"])],
    )
    def test_one_worker_for_each_gpu(self, gpus, monkeypatch, visible, workers, expected) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        plan = plan_workers(9, workers, "auto")
        assert [e["CUDA_VISIBLE_DEVICES"] for e in plan.environments] == expected

    def test_no_workers_are_refused(self) -> None:
        with pytest.raises(UsageError, match="at least 1"):
            plan_workers(3, 0, "cpu")


@pytest.fixture(scope="module")
def client():
    """A scheduler with a worker of two threads, all in this process."""
    from distributed import Client

    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0", set_as_default=False
    ) as client:
        yield client


def jobs_of(archive: Path, count: int = 3, **values) -> list[Job]:
    return [
        Job(
            video=archive / f"clip{i}.tif",
            prompts=archive / "points.csv",
            output=archive / "out" / f"masks{i}.tif",
            model=archive / "tiny.safetensors",
            **values,
        )
        for i in range(count)
    ]


VIDEO_NAMES = {"stack": "clip.tif", "frames": "left_frames", "zarr": "clip.zarr", "group": "clip.zarr"}


def write_video(path: Path, clip: np.ndarray, kind: str) -> None:
    """Write a clip, shape (T, Y, X, 3), without compression."""
    path.parent.mkdir(exist_ok=True)
    match kind:
        case "stack":
            tifffile.imwrite(path, clip, photometric="rgb")
        case "frames":
            path.mkdir()
            for i, frame in enumerate(clip):
                tifffile.imwrite(path / f"{i}.tif", frame, photometric="rgb")
        case _:
            if kind == "group":
                axes = [{"name": name} for name in "tyxc"]
                scales = [{"axes": axes, "datasets": [{"path": "pixels"}]}]
                zarr.create_group(path, attributes={"ome": {"multiscales": scales}})
            array = zarr.create_array(
                path / "pixels" if kind == "group" else path,
                shape=clip.shape,
                chunks=(1, *clip.shape[1:]),
                dtype=clip.dtype,
                compressors=None,
                dimension_names=tuple("tyxc"),
            )
            array[:] = clip


def entries_of(report: Path) -> list[dict]:
    return json.loads((report / "report.json").read_text())["jobs"]


class TestRunning:
    def test_masks_are_those_of_track_and_the_report_tells_all(self, archive: Path, client) -> None:
        project = Job(project=archive / "study.surgsam2.json", output=archive / "out" / "study")
        events: list[JobEvent] = []

        report = run_batch(
            [*jobs_of(archive, 2), project],
            client,
            device="cpu",
            report=archive / "report",
            on_event=events.append,
        )

        assert report.counts == {"done": 3}
        for job in jobs_of(archive, 2):
            alone = ns.track(job.video, job.prompts, model=job.model, device="cpu")
            np.testing.assert_array_equal(tifffile.imread(job.output), alone)
        assert len(list((archive / "out" / "study").glob("*.png"))) == 5
        third = report.results[2]
        assert (third.image_size, third.frames, third.attempts) == (96, 5, 1)
        assert third.frames_per_second > 0
        # The model is kept from job to job; one wants it for another size, and may come between the others.
        assert sum("Model" in e.message for e in events) in (2, 3)
        assert [(e.done, e.total) for e in events if e.index == 2 and e.done][-1] == (5, 5)
        assert [e.status for e in events if e.index == 0][-1] == "done"

        document = json.loads((archive / "report" / "report.json").read_text())
        assert document["jobs"][2]["frames_present"] == {"1": third.frames_present[1]}
        page = (archive / "report" / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 3
        assert "&lt;grasper&gt;" in page
        assert not re.search(r"(src|href)=.(?!#job|data:)|url\(|<grasper>", page)

    def test_a_scheduler_is_found_by_its_address(self, archive: Path, client) -> None:
        report = run_batch(jobs_of(archive, 1), client.scheduler.address, device="cpu")
        assert report.counts == {"done": 1}

    def test_a_failure_has_its_reason_and_stops_nothing(self, archive: Path, client) -> None:
        jobs = jobs_of(archive)
        (archive / "clip1.tif").write_bytes(b"II*\0" + b"x" * 100)

        report = run_batch(jobs, client, device="cpu", report=archive / "report")

        assert [r.status for r in report.results] == ["done", "failed", "done"]
        assert "clip1.tif" in report.failed[0].reason
        assert report.failed[0].attempts == 1  # it would be as damaged the next time
        assert report.failed[0].reason.replace("'", "&#x27;") in (archive / "report/report.html").read_text()

    def test_what_may_pass_is_tried_again(self, archive: Path, client, monkeypatch) -> None:
        (job,) = jobs_of(archive, 1)
        real, calls = pipeline.run_job, []

        def fails_once(track_job, reporting):
            calls.append(track_job.resume)
            if len(calls) == 1:
                raise RuntimeError("the disk was away")
            return real(track_job, reporting)

        monkeypatch.setattr(pipeline, "run_job", fails_once)

        (result,) = run_batch([job], client, device="cpu").results

        assert (result.status, result.attempts, calls) == ("done", 2, [True, True])
        assert any("the disk was away" in line for line in result.log)

    def test_it_is_not_tried_more_often_than_asked(self, archive: Path, client, monkeypatch) -> None:
        monkeypatch.setattr(pipeline, "run_job", lambda *_: 1 / 0)
        (result,) = run_batch(jobs_of(archive, 1), client, device="cpu", retries=2).results
        assert (result.status, result.attempts) == ("failed", 3)
        assert result.reason.startswith("ZeroDivisionError")

    def test_a_message_that_is_late_is_not_counted_for_the_next_attempt(
        self, archive: Path, client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send, late, calls = worker._Teller.send, [], []

        def delayed(teller, kind, **values) -> None:
            if kind == "started" and not late:
                late.append(teller)
                return
            if kind == "started":
                send(late[0], kind)
            send(teller, kind, **values)

        monkeypatch.setattr(worker._Teller, "send", delayed)
        monkeypatch.setattr(pipeline, "run_job", lambda *_: calls.append(1) or 1 / 0)

        (result,) = run_batch(jobs_of(archive, 1), client, device="cpu", retries=2).results

        assert (result.attempts, len(calls)) == (3, 3)

    def test_existing_outputs_are_refused_resumed_or_replaced(self, archive: Path, client) -> None:
        jobs = jobs_of(archive, 2)
        (archive / "out").mkdir()
        tifffile.imwrite(archive / "out" / "masks0.tif", np.zeros((5, 64, 64), np.uint8))
        old = (archive / "out" / "masks0.tif").read_bytes()
        with pytest.raises(OutputError, match=r"outputs of 1 jobs already.*masks0.tif.*--resume"):
            run_batch(jobs, client)

        resumed = run_batch(jobs, client, device="cpu", resume=True)
        assert [r.status for r in resumed.results] == ["skipped", "done"]
        assert (archive / "out" / "masks0.tif").read_bytes() == old

        replaced = run_batch(jobs, client, device="cpu", overwrite=True)
        assert replaced.counts == {"done": 2}
        assert (archive / "out" / "masks0.tif").read_bytes() != old

    @pytest.mark.parametrize("resume", [False, True])
    def test_replacing_outputs_goes_on_after_an_interruption(
        self, archive: Path, client, resume: bool
    ) -> None:
        """What was not replaced yet is not taken for what was asked for, and what was is left alone."""
        jobs = jobs_of(archive)
        (archive / "out").mkdir()
        for job in jobs:
            tifffile.imwrite(job.output, np.zeros((5, 64, 64), np.uint8))
        seen: list[JobEvent] = []
        stopped = run_batch(
            jobs,
            client,
            device="cpu",
            overwrite=True,
            resume=resume,
            on_event=seen.append,
            should_stop=lambda: any(e.status == "done" for e in seen),
        )
        done = {r.output for r in stopped.results if r.status == "done"}
        assert len(done) < 3

        again = run_batch(jobs, client, device="cpu", resume=True)

        assert {r.output for r in again.results if r.status == "skipped"} == done
        assert again.counts == {"skipped": len(done), "done": 3 - len(done)}
        assert all(tifffile.imread(job.output).any() for job in jobs)
        assert sorted(f.name for f in (archive / "out").iterdir()) == [f"masks{i}.tif" for i in range(3)]

    def test_what_is_replaced_is_not_taken_as_complete_when_tried_again(
        self, archive: Path, client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (job,) = jobs_of(archive, 1)
        (archive / "out").mkdir()
        tifffile.imwrite(job.output, np.zeros((5, 64, 64), np.uint8))
        real, calls = pipeline.run_job, []

        def fails_once(track_job, reporting):
            calls.append(track_job)
            if len(calls) == 1:
                raise RuntimeError("the disk was away")
            return real(track_job, reporting)

        monkeypatch.setattr(pipeline, "run_job", fails_once)

        (result,) = run_batch([job], client, device="cpu", overwrite=True, resume=True).results

        assert (result.status, result.attempts) == ("done", 2)
        assert tifffile.imread(job.output).any()

    def test_replacing_and_resuming_together_go_on_with_what_was_interrupted(
        self, archive: Path, client
    ) -> None:
        (job,) = jobs_of(archive, 1)
        tifffile.imwrite(archive / "clip0.tif", moving_blobs(60, 64, 64), photometric="rgb")
        seen: list[JobEvent] = []
        run_batch(
            [job], client, device="cpu", on_event=seen.append, should_stop=lambda: any(e.done for e in seen)
        )
        tifffile.imwrite(job.output, np.zeros((60, 64, 64), np.uint8))

        (result,) = run_batch([job], client, device="cpu", overwrite=True, resume=True).results

        assert result.status == "done", result.reason
        assert 0 < result.frames_tracked < 60
        assert tifffile.imread(job.output).any()

    def test_a_report_that_cannot_be_written_meanwhile_ends_nothing(
        self, archive: Path, client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> str:
            raise OutputError("No space left")

        monkeypatch.setattr("napari_surgsam2.batch.dispatch._SECONDS_BETWEEN_REPORTS", -1)
        monkeypatch.setattr(ReportFolder, "write_json", full)
        monkeypatch.setattr(ReportFolder, "keep_sheet", full)
        monkeypatch.setattr(ReportFolder, "write", lambda *_: None)

        report = run_batch(jobs_of(archive, 2), client, device="cpu", report=archive / "report")

        assert report.counts == {"done": 2}
        assert "There is no contact sheet: No space left" in report.results[0].log

    def test_a_stopped_batch_keeps_what_is_done_and_goes_on(self, archive: Path, client) -> None:
        jobs = jobs_of(archive)
        tifffile.imwrite(archive / "clip0.tif", moving_blobs(60, 64, 64), photometric="rgb")
        seen: list[JobEvent] = []

        report = run_batch(
            jobs,
            client,
            device="cpu",
            report=archive / "report",
            on_event=seen.append,
            should_stop=lambda: any(e.done for e in seen),
        )

        assert report.stopped
        assert report.results[0].status == "stopped"
        assert "of 60 frames; they are kept" in report.results[0].reason
        assert (archive / "out" / "masks0.tif.partial.zarr" / "state").exists()
        assert json.loads((archive / "report" / "report.json").read_text())["stopped"]

        again = run_batch(jobs, client, device="cpu", resume=True)
        assert not again.failed
        assert again.results[0].frames_tracked < 60
        alone = ns.track(archive / "clip0.tif", jobs[0].prompts, model=jobs[0].model, device="cpu")
        np.testing.assert_array_equal(tifffile.imread(jobs[0].output), alone)

    def test_ctrl_c_stops_it_too_and_leaves_a_report(self, archive: Path, client) -> None:
        def interrupt(event: JobEvent) -> None:
            if event.status == "running":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_batch(jobs_of(archive), client, device="cpu", report=archive / "r", on_event=interrupt)
        assert json.loads((archive / "r" / "report.json").read_text())["stopped"]

    def test_an_earlier_report_is_gone_on_with(self, archive: Path, client) -> None:
        jobs = jobs_of(archive, 1)
        first = run_batch(jobs, client, device="cpu", report=archive / "report")
        second = run_batch(jobs, client, resume=True, report=archive / "report")
        assert second.results[0].frames_present == first.results[0].frames_present
        assert "data:image/png" in (archive / "report" / "report.html").read_text()

    def test_a_complete_output_of_another_run_is_not_taken_as_done(self, archive: Path, client) -> None:
        jobs = jobs_of(archive, 2)
        run_batch(jobs, client, device="cpu", report=archive / "report")
        before = Path(jobs[0].output).read_bytes()
        changed = [jobs_of(archive, 1, direction="forward", frames=(0, 3))[0], jobs[1]]
        for _ in range(2):  # it is not forgotten either
            report = run_batch(changed, client, device="cpu", resume=True, report=archive / "report")
            assert [r.status for r in report.results] == ["failed", "skipped"]
            assert re.search("made by another run.*--force.* or move it away", report.failed[0].reason)
        assert Path(jobs[0].output).read_bytes() == before

        Path(jobs[0].output).unlink()
        report = run_batch(changed, client, device="cpu", resume=True, report=archive / "report")
        assert [r.status for r in report.results] == ["done", "skipped"]

    @pytest.mark.parametrize("kind", ["stack", "frames", "zarr", "group"])
    def test_a_complete_output_of_a_video_of_the_same_name_and_size_is_not_taken_as_done(
        self, archive: Path, client, kind: str
    ) -> None:
        def job_of(place: str) -> list[Job]:
            (job,) = jobs_of(archive, 1)
            return [dataclasses.replace(job, video=archive / place / VIDEO_NAMES[kind], name="")]

        def resume(place: str) -> JobResult:
            again = {"device": "cpu", "resume": True, "report": archive / "report"}
            return run_batch(job_of(place), client, **again).results[0]

        for i, place in enumerate(("right", "wrong")):
            write_video(archive / place / VIDEO_NAMES[kind], tifffile.imread(archive / f"clip{i}.tif"), kind)
        sizes = [
            {f.relative_to(archive / place): f.stat().st_size for f in (archive / place).rglob("*.*")}
            for place in ("right", "wrong")
        ]
        assert sizes[0] == sizes[1]  # only the pixels tell them apart
        run_batch(job_of("wrong"), client, device="cpu", report=archive / "report")

        result = resume("right")
        assert result.status == "failed"
        assert re.search("made by another run: video", result.reason)

        (archive / "wrong").rename(archive / "moved")
        assert resume("moved").status == "skipped"

    def test_frames_that_were_added_make_another_video(self, archive: Path, client) -> None:
        (job,) = jobs_of(archive, 1)
        job = dataclasses.replace(job, video=archive / "frames", output=str(archive / "frames" / "masks"))
        clip = tifffile.imread(archive / "clip0.tif")
        write_video(archive / "frames", clip, "frames")
        run_batch([job], client, device="cpu", report=archive / "report")

        # What lies among the frames and is none does not count: the output, for one.
        (archive / "frames" / "notes.txt").touch()
        run = {"device": "cpu", "resume": True, "report": archive / "report"}
        assert run_batch([job], client, **run).counts == {"skipped": 1}

        tifffile.imwrite(archive / "frames" / "3b.tif", clip[3], photometric="rgb")
        assert run_batch([job], client, **run).counts == {"failed": 1}

    def test_an_output_in_a_zarr_group_does_not_make_it_another_video(self, archive: Path, client) -> None:
        (job,) = jobs_of(archive, 1)
        output = str(archive / "video.zarr" / "labels" / "masks.tif")
        job = dataclasses.replace(job, video=archive / "video.zarr", output=output)
        write_video(archive / "video.zarr", tifffile.imread(archive / "clip0.tif"), "group")
        first = run_batch([job], client, device="cpu", report=archive / "report")
        assert first.counts == {"done": 1}, first.results[0].reason
        report = run_batch([job], client, resume=True, report=archive / "report")
        assert report.counts == {"skipped": 1}

    @pytest.mark.parametrize("digest", ["0123456789abcdef", ""])
    def test_a_report_that_does_not_say_by_what_an_output_was_made_hinders_nothing(
        self, archive: Path, client, digest: str
    ) -> None:
        """Neither an identity of an earlier form, nor none."""
        jobs = jobs_of(archive, 1)
        run_batch(jobs, client, device="cpu", report=archive / "report")
        document = json.loads((archive / "report" / "report.json").read_text())
        document["jobs"][0]["made_by"] = digest
        (archive / "report" / "report.json").write_text(json.dumps(document))

        report = run_batch(jobs, client, resume=True, report=archive / "report")

        assert report.counts == {"skipped": 1}
        assert entries_of(archive / "report")[0]["made_by"] == digest

    def test_a_complete_output_whose_video_cannot_be_read_any_more_is_left_alone(
        self, archive: Path, client
    ) -> None:
        (job,) = jobs_of(archive, 1)
        job = dataclasses.replace(job, video=archive / "frames")
        write_video(archive / "frames", tifffile.imread(archive / "clip0.tif"), "frames")
        run_batch([job], client, device="cpu", report=archive / "report")
        for frame in (archive / "frames").iterdir():
            frame.unlink()
        report = run_batch([job], client, resume=True, report=archive / "report")
        assert report.counts == {"skipped": 1}

    def test_a_batch_that_did_not_start_leaves_the_earlier_report(
        self, archive: Path, client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("napari_surgsam2.batch.cluster._SECONDS_TO_CONNECT", 0.2)
        jobs = jobs_of(archive, 1)
        run_batch(jobs, client, device="cpu", report=archive / "report")
        before = {f.name: f.read_bytes() for f in (archive / "report").glob("report.*")}
        with pytest.raises(ClusterError):
            run_batch(jobs, "tcp://127.0.0.1:9", overwrite=True, report=archive / "report")
        assert {f.name: f.read_bytes() for f in (archive / "report").glob("report.*")} == before

    def test_jobs_that_were_not_begun_stay_in_the_report_as_they_were(self, archive: Path, client) -> None:
        jobs = jobs_of(archive)
        run_batch(jobs, client, device="cpu", report=archive / "report")
        before = [JobResult.from_dict(entry) for entry in entries_of(archive / "report")]
        seen: list[JobEvent] = []
        stopped = run_batch(
            jobs,
            client,
            device="cpu",
            overwrite=True,
            report=archive / "report",
            on_event=seen.append,
            should_stop=lambda: any(e.status == "running" for e in seen),
        )
        after = [JobResult.from_dict(entry) for entry in entries_of(archive / "report")]
        not_begun = [i for i, r in enumerate(stopped.results) if r.status == "stopped" and not r.attempts]
        assert not_begun
        assert [after[i] for i in not_begun] == [before[i] for i in not_begun]

    def test_a_report_that_cannot_be_written_hides_nothing(
        self, archive: Path, client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OutputError("No space left")

        def interrupt(event: JobEvent) -> None:
            if event.status == "running":
                raise KeyboardInterrupt

        monkeypatch.setattr(ReportFolder, "write", full)
        with pytest.raises(KeyboardInterrupt):
            run_batch(jobs_of(archive, 1), client, device="cpu", report=archive / "r", on_event=interrupt)

    def test_a_report_that_cannot_be_written_at_the_end_is_told_with_the_results(
        self, archive: Path, client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OutputError("No space left")

        with monkeypatch.context() as patch:
            patch.setattr(ReportFolder, "write", full)
            with pytest.raises(ReportNotWrittenError, match=r"No space left.*--resume") as caught:
                run_batch(jobs_of(archive, 1), client, device="cpu", report=archive / "r")
        assert caught.value.report.counts == {"done": 1}
        assert pickle.loads(pickle.dumps(caught.value)).report == caught.value.report

        run_batch(jobs_of(archive, 1), client, device="cpu", resume=True, report=archive / "r")
        assert entries_of(archive / "r")[0]["status"] == "skipped"

    def test_a_report_is_not_written_over_something_else(self, archive: Path, client) -> None:
        (archive / "report").mkdir()
        (archive / "report" / "report.json").write_text('{"mine": 1}')
        with pytest.raises(OutputError, match="not of an earlier batch"):
            run_batch(jobs_of(archive, 1), client, report=archive / "report")
        assert (archive / "report" / "report.json").read_text() == '{"mine": 1}'

    def test_a_job_that_ends_every_process_is_given_up(self, archive: Path) -> None:
        from distributed import KilledWorker

        class Lost:
            status = "error"

            def exception(self) -> Exception:
                return KilledWorker("key", None, 0)

        run = Run(jobs_of(archive, 1), 1, "cpu", None, lambda _: None, lambda: False)
        state = run._states[0]

        def send(index: int) -> None:
            state.sent, state.begun_now, state.future = state.sent + 1, False, Lost()

        run._send = send
        send(0)
        for attempt in range(2):
            run._on_message({"index": 0, "attempt": attempt, "kind": "started"})
            run._on_over(0, state.future)

        assert state.sent == 2
        (result,) = run.report().results
        assert result.status == "failed"
        assert "lost in each of 2 attempts" in result.reason


def scheduler_at(port: int, workers: int = 1):
    """Start a scheduler with workers, all in this process, that is reached over the network."""
    from distributed import LocalCluster

    return LocalCluster(
        processes=False,
        n_workers=workers,
        threads_per_worker=1,
        protocol="tcp://",
        scheduler_port=port,
        dashboard_address=":0",  # any port: others may be tested at once
        silence_logs=logging.CRITICAL,
    )


def client_of(cluster: Any):
    """Return a client that nothing else in this process takes for its own."""
    from distributed import Client

    return Client(cluster.scheduler_address, set_as_default=False)


def test_what_else_is_computed_with_dask_meanwhile_stays_here(archive: Path) -> None:
    schedulers = []
    with scheduler_at(0) as cluster:
        report = run_batch(
            jobs_of(archive, 1),
            cluster.scheduler_address,
            device="cpu",
            on_event=lambda _: schedulers.append(dask.config.get("scheduler", None)),
        )
    assert report.counts == {"done": 1}
    assert None in schedulers
    assert "dask.distributed" not in schedulers


class TestLostConnection:
    """Of a scheduler or its network, in the middle of a batch."""

    @pytest.fixture(autouse=True)
    def quick_and_quiet(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Try often, and leave out what dask logs."""
        monkeypatch.setattr("napari_surgsam2.batch.dispatch._SECONDS_BETWEEN_TRIES", 0.05)
        monkeypatch.setattr("napari_surgsam2.batch.connection._SECONDS_TO_TRY", 0.5)
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)

    @pytest.fixture
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
        """Return for each output how many attempts were under way whenever one began."""
        real, now, seen = pipeline.run_job, collections.Counter(), collections.defaultdict(list)

        def counted(track_job, reporting):
            output = str(track_job.output)
            now[output] += 1
            seen[output].append(now[output])
            try:
                return real(track_job, reporting)
            finally:
                now[output] -= 1

        monkeypatch.setattr(pipeline, "run_job", counted)
        return seen

    def long_jobs(self, archive: Path) -> list[Job]:
        tifffile.imwrite(archive / "clip0.tif", moving_blobs(60, 64, 64), photometric="rgb")
        return jobs_of(archive, 3)

    def check(self, report: BatchReport, jobs: list[Job], at_once: dict[str, list[int]]) -> None:
        """Make sure that all is done, by no two at once, and exactly as without a loss."""
        assert report.counts == {"done": 3}, report.results
        assert {most for counts in at_once.values() for most in counts} == {1}
        for job in jobs:
            alone = ns.track(job.video, job.prompts, model=job.model, device="cpu")
            np.testing.assert_array_equal(tifffile.imread(job.output), alone)

    def test_jobs_go_on_when_it_is_back_and_none_runs_twice(self, archive: Path, at_once) -> None:
        jobs, seen = self.long_jobs(archive), []
        with scheduler_at(0, workers=2) as cluster, client_of(cluster) as client:

            def lose(event: JobEvent) -> None:
                if event.index == 0 and event.done and not any("was lost" in e.message for e in seen):
                    client.loop.add_callback(client.scheduler_comm.comm.abort)
                    time.sleep(0.3)
                seen.append(event)

            report = run_batch(jobs, client, device="cpu", retries=0, on_event=lose)

        self.check(report, jobs, at_once)
        log = " ".join(report.results[0].log)
        assert "The connection to the scheduler was lost" in log
        assert "Going on with what is done" in log
        assert 0 < report.results[0].frames_tracked < 60

    def test_a_scheduler_that_starts_anew_is_gone_on_with(self, archive: Path, at_once, monkeypatch) -> None:
        monkeypatch.setattr("napari_surgsam2.batch.cluster._SECONDS_TO_CONNECT", 1)
        jobs, seen = self.long_jobs(archive), []
        clusters = [scheduler_at(0)]
        address = clusters[0].scheduler_address
        again = threading.Timer(3, lambda: clusters.append(scheduler_at(int(address.rpartition(":")[2]))))

        def end(event: JobEvent) -> None:
            if event.done and not again.is_alive() and len(clusters) == 1:
                clusters[0].close()
                again.start()  # the client has given up by then
            seen.append(event)

        try:
            report = run_batch(jobs, address, device="cpu", retries=0, on_event=end)
        finally:
            again.join()
            clusters[-1].close()

        self.check(report, jobs, at_once)

    def test_one_that_does_not_come_back_is_given_up_with_a_reason(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("napari_surgsam2.batch.cluster._SECONDS_TO_CONNECT", 1)
        monkeypatch.setattr("napari_surgsam2.batch.dispatch._SECONDS_WITHOUT_SCHEDULER", 2)
        jobs, cluster = self.long_jobs(archive), scheduler_at(0)
        address = cluster.scheduler_address

        def end(event: JobEvent) -> None:
            if event.done:
                cluster.close()

        report = run_batch(jobs, address, device="cpu", report=archive / "report", on_event=end)

        assert report.counts == {"failed": 3}
        for result in report.failed:
            assert re.search(rf"scheduler at {address} was lost.*is kept.*--resume", result.reason)
        assert entries_of(archive / "report")[0]["status"] == "failed"
        with scheduler_at(0) as cluster:
            report = run_batch(jobs, cluster.scheduler_address, device="cpu", resume=True)
        assert report.counts == {"done": 3}
        assert 0 < report.results[0].frames_tracked < 60

    def test_a_batch_without_a_scheduler_can_be_stopped(self, archive: Path, monkeypatch) -> None:
        monkeypatch.setattr("napari_surgsam2.batch.cluster._SECONDS_TO_CONNECT", 1)
        jobs, cluster, seen = self.long_jobs(archive), scheduler_at(0), []

        def end(event: JobEvent) -> None:
            seen.append(event)
            if event.done:
                cluster.close()

        address, began = cluster.scheduler_address, time.monotonic()
        report = run_batch(
            jobs,
            address,
            device="cpu",
            on_event=end,
            should_stop=lambda: any("was lost" in e.message for e in seen),
        )
        assert report.stopped
        assert report.counts == {"stopped": 3}
        assert time.monotonic() - began < 60


class TestWithoutWorkers:
    """At a scheduler that has none: not yet, not any more, or never."""

    @pytest.fixture(autouse=True)
    def quick_and_quiet(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Look and tell often, and leave out what dask logs."""
        monkeypatch.setattr("napari_surgsam2.batch.waiting._SECONDS_OF_SILENCE", 0.2)
        monkeypatch.setattr("napari_surgsam2.batch.waiting._SECONDS_BETWEEN_NOTES", 0.4)
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)

    @staticmethod
    def notes_of(events: list[JobEvent]) -> list[str]:
        return [event.message for event in events if "Waiting for workers" in event.message]

    def test_when_all_are_gone_in_the_middle_others_go_on(self, archive: Path) -> None:
        tifffile.imwrite(archive / "clip1.tif", moving_blobs(60, 64, 64), photometric="rgb")
        seen: list[JobEvent] = []
        with scheduler_at(0) as cluster:

            def scale(workers: int) -> None:
                cluster.scale(workers)
                cluster.sync(cluster._correct_state)

            def vanish(event: JobEvent) -> None:
                if event.index == 1 and event.done and cluster.workers and not self.notes_of(seen):
                    scale(0)
                seen.append(event)
                if len(self.notes_of(seen)) == 2 and not cluster.workers:
                    scale(1)

            address = cluster.scheduler_address
            report = run_batch(jobs_of(archive), address, device="cpu", on_event=vanish)
        assert report.counts == {"done": 3}
        assert len(self.notes_of(seen)) >= 2
        assert self.notes_of(seen)[0].startswith(f"Waiting for workers: the scheduler at {address} has none")
        assert any("Waiting for workers" in line for line in report.results[1].log)

    def test_workers_that_are_started_on_demand_may_be_late(self, archive: Path) -> None:
        seen: list[JobEvent] = []
        with scheduler_at(0, workers=0) as cluster, client_of(cluster) as client:

            def adapt(event: JobEvent) -> None:
                if len(self.notes_of([*seen, event])) == 2 and not self.notes_of(seen)[1:]:
                    cluster.adapt(minimum=0, maximum=1, interval="50ms")
                seen.append(event)

            report = run_batch(jobs_of(archive, 2), client, device="cpu", on_event=adapt)

        assert report.counts == {"done": 2}
        assert len(self.notes_of(seen)) >= 2

    def test_it_is_told_every_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Scheduler:
            address = "tcp://x:1"
            workers = 0

            def count_workers(self) -> int:
                return self.workers

        now, scheduler = [1000.0], Scheduler()
        monkeypatch.setattr(waiting, "_SECONDS_OF_SILENCE", 10.0)
        monkeypatch.setattr(waiting, "_SECONDS_BETWEEN_NOTES", 60.0)
        monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
        watch = waiting.WorkerWatch()

        def is_told_after(seconds: float, workers: int = 0) -> bool:
            now[0] += seconds
            scheduler.workers = workers
            return "tcp://x:1 has none" in watch.look(scheduler)

        assert [is_told_after(n) for n in (9, 2, 30, 31, 3600)] == [False, True, False, True, True]
        assert not is_told_after(70, workers=1)
        assert [is_told_after(n) for n in (9, 2)] == [False, True]
        watch.heard()
        assert [is_told_after(n) for n in (9, 2)] == [False, True]

    def test_a_batch_can_be_stopped_at_once(self, archive: Path) -> None:
        tifffile.imwrite(archive / "clip0.tif", moving_blobs(60, 64, 64), photometric="rgb")
        seen: list[JobEvent] = []
        with scheduler_at(0) as cluster:

            def vanish(event: JobEvent) -> None:
                if event.done and cluster.workers:
                    cluster.scale(0)
                    cluster.sync(cluster._correct_state)
                seen.append(event)

            began = time.monotonic()
            report = run_batch(
                jobs_of(archive),
                cluster.scheduler_address,
                device="cpu",
                on_event=vanish,
                should_stop=lambda: bool(self.notes_of(seen)),
            )
        assert report.stopped
        assert report.counts == {"stopped": 3}
        assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"retries": -1}, "at least 0"),
        ({"client": "tcp://x:1", "workers": 2}, "leave one out"),
        ({"client": object()}, "distributed.Client"),
    ],
)
def test_arguments_that_cannot_be_used(archive: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_batch(jobs_of(archive, 1), **arguments)
    with pytest.raises(UsageError, match="no jobs"):
        run_batch([])


def test_a_scheduler_that_is_not_there(archive: Path, monkeypatch) -> None:
    monkeypatch.setattr("napari_surgsam2.batch.cluster._SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(ClusterError, match="no dask scheduler at"):
        run_batch(jobs_of(archive, 1), "tcp://127.0.0.1:9")


def test_without_dask_distributed_it_is_said_how_to_get_it(archive: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'napari-surgsam2\[distributed\]'"):
        run_batch(jobs_of(archive, 1))


def test_names_that_are_no_text_are_reported(tmp_path: Path) -> None:
    name = os.fsdecode(b"clip\xff.tif")
    folder = ReportFolder(tmp_path / "report")
    result = JobResult(name=name, output=name, status="done", sheet=folder.keep_sheet(name, b"png"))
    folder.write(BatchReport((result,), "now", 1.0))
    assert "clip\\udcff.tif" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_an_error_of_a_job_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(JobError("video", "gone")))
    assert (error.column, str(error)) == ("video", "gone")


def test_a_name_that_is_no_text(archive: Path) -> None:
    with pytest.raises(JobError, match="It is 3; it must be a text"):
        jobs_of(archive, 1, name=3)


def test_videos_of_the_same_name_are_told_apart():
    jobs = [
        Job(video=f"{folder}/clip.mp4", prompts=[ns.Point(0, 1, 1)], output=f"{folder}.tif")
        for folder in "abc"
    ]
    assert [job.name for job in named_apart(jobs)] == ["clip", "clip (2)", "clip (3)"]
