"""`napari-surgsam2 vos`, as a user meets it; and a made-up data set from tracking to scores."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

import napari_surgsam2 as ns
from napari_surgsam2.checkpoints.registry import RegistryEntry
from napari_surgsam2.errors import OutputError
from napari_surgsam2.evaluation import vos as vos_module
from napari_surgsam2.evaluation import vos_prompts, vos_record
from napari_surgsam2.masks import voc_palette, write_davis
from napari_surgsam2.pipeline import TrackingInterruptedError
from napari_surgsam2.synthetic import make_clip

from .conftest import Outcome, Run

FRAMES = 6


def write_video(root: Path, name: str, video: np.ndarray, labels: np.ndarray) -> None:
    (root / "JPEGImages" / name).mkdir(parents=True)
    (root / "Annotations").mkdir(exist_ok=True)
    for t, frame in enumerate(video):
        Image.fromarray(frame).save(root / "JPEGImages" / name / f"{t:05}.jpg", quality=95)
    write_davis(root / "Annotations" / name, labels)


@pytest.fixture
def data(tmp_path: Path, clip: np.ndarray) -> Path:
    """Two videos of the two discs: in `a` object 4 is there from the first frame, in `b` 7 comes later."""
    labels = np.zeros((FRAMES, 96, 128), np.uint8)
    labels[:, 20:50, 20:60] = 4
    write_video(tmp_path, "a", clip[:FRAMES], labels)
    labels[2:, 60:80, 80:110] = 7
    write_video(tmp_path, "b", clip[:FRAMES], labels)
    return tmp_path


@pytest.fixture
def vos(run: Run, data: Path, tiny_checkpoint: Path):
    """Run over the two videos, with the tiny model."""

    def call(*arguments: object) -> Outcome:
        folders = ("--video-dir", "JPEGImages", "--mask-dir", "Annotations", "--output-dir", "results")
        return run("vos", *folders, "--model", tiny_checkpoint, "--device", "cpu", *arguments, cwd=data)

    return call


def read(folder: Path) -> np.ndarray:
    return np.stack([np.array(Image.open(file)) for file in sorted(folder.glob("*.png"))])


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.png")}


def test_results_are_those_of_tracking_from_the_first_masks(vos, data: Path, tiny_model) -> None:
    outcome = vos()

    assert outcome.code == 0
    truth = read(data / "Annotations" / "b")
    prompts = [ns.Mask(0, truth[0] == 4, 4), ns.Mask(2, truth[2] == 7, 7)]
    expected = ns.track(data / "JPEGImages" / "b", prompts, model=tiny_model, direction="forward")
    np.testing.assert_array_equal(read(data / "results" / "b"), expected)
    assert sorted(p.name for p in (data / "results").iterdir()) == ["a", "b", "vos.json"]
    assert [p.name for p in sorted((data / "results" / "a").iterdir())] == [
        f"{t:05}.png" for t in range(FRAMES)
    ]
    assert [line.split()[:3] for line in outcome.out.splitlines()[1:]] == [["a", "6", "1"], ["b", "6", "2"]]


def test_objects_that_come_later_start_there(vos, data: Path) -> None:
    vos()
    result = read(data / "results" / "b")
    assert not (result[:2] == 7).any()
    assert (result[2] == 7).any()


def test_ids_and_palettes_are_kept(vos, data: Path) -> None:
    colours = voc_palette()[::-1].tobytes()
    for file in (data / "Annotations" / "a").glob("*.png"):
        image = Image.open(file)
        image.putpalette(colours)
        image.save(file)

    vos()

    for video, palette in (("a", colours), ("b", voc_palette().tobytes())):
        with Image.open(data / "results" / video / "00003.png") as image:
            assert image.mode == "P"
            assert bytes(image.palette.palette) == palette
            assert set(np.unique(np.array(image)).tolist()) <= {0, 4, 7}


def test_ids_beyond_the_palette_of_the_first_annotation_are_kept(
    vos, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would pack them into as many bits as the palette needs."""
    monkeypatch.setattr(vos_prompts, "_palette_of", lambda _: voc_palette()[:2].tobytes())

    vos()

    assert (read(data / "results" / "b")[2] == 7).any()


def test_what_is_complete_is_skipped_and_still_scored(vos, data: Path) -> None:
    first = vos("--gt-root", "Annotations")
    before = snapshot(data / "results")
    again = vos("--gt-root", "Annotations")

    assert snapshot(data / "results") == before
    assert "a: there already" in again.err
    assert "Model" not in again.err  # none was loaded
    assert again.out == first.out
    columns = first.out.splitlines()[0].split()
    assert {"J&F", "Dice", "frames/s"} <= set(columns)
    assert [line.split()[0] for line in first.out.splitlines()[1:]] == ["a", "b", "mean"]


def test_force_makes_all_again(vos, data: Path) -> None:
    vos()
    before = snapshot(data / "results")
    assert vos("--force", "--prompt", "box").code == 0
    after = snapshot(data / "results")
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--prompt", "box"), "prompt (was 'mask', is now 'box')"),
        (("--prune-frames", 0), "settings.pruning.prune_frames (was 2, is now 0)"),
    ],
)
def test_results_made_differently_are_not_mixed(options, says: str, vos) -> None:
    vos()
    outcome = vos(*options)
    assert (outcome.code, says in outcome.err, "--force" in outcome.err) == (1, True, True)


@contextmanager
def stopped_at_b(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Ctrl+C come when the second video is tracked and its pictures are about to be written."""
    write = vos_module._write_pngs

    def stopping(target: Path, *arguments, **options) -> None:
        if target.name == "b":
            raise KeyboardInterrupt
        write(target, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(vos_module, "_write_pngs", stopping)
        yield


def test_an_interrupted_run_goes_on(vos, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = vos("--output-dir", "whole")
    assert expected.code == 0
    with stopped_at_b(monkeypatch):
        outcome = vos()
    assert outcome.code == 130
    assert "Go on with the same command" in outcome.err
    work, *rest = sorted(p.name for p in (data / "results").iterdir())
    assert re.fullmatch(r"\.b\.[0-9a-f]{8}\.zarr", work)
    assert rest == ["a", "vos.json"]

    assert vos().code == 0
    assert sorted(p.name for p in (data / "results").iterdir()) == ["a", "b", "vos.json"]
    for video in "ab":
        np.testing.assert_array_equal(read(data / "results" / video), read(data / "whole" / video))


def test_making_all_again_goes_on_after_an_interruption(
    vos, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of the results before is replaced too, and what was tracked of them not taken for new."""
    expected = vos("--output-dir", "whole", "--prompt", "box")
    assert expected.code == 0
    vos()
    (data / "results" / "b").rename(data / "kept")
    with stopped_at_b(monkeypatch):
        assert vos().code == 130  # tracked by masks, and not written
        (data / "kept").rename(data / "results" / "b")
        assert vos("--prompt", "box", "--force").code == 130

    made = snapshot(data / "results" / "a")
    outcome = vos("--prompt", "box")
    assert outcome.code == 0
    assert "a: there already" in outcome.err
    assert snapshot(data / "results" / "a") == made
    assert sorted(p.name for p in (data / "results").iterdir()) == ["a", "b", "vos.json"]
    for video in "ab":
        np.testing.assert_array_equal(read(data / "results" / video), read(data / "whole" / video))


def test_results_of_another_video_are_not_kept_as_new_ones(vos, run: Run, data: Path) -> None:
    """Making one video again in another way leaves those of the others outdated."""
    vos()
    before = snapshot(data / "results" / "b")
    (data / "list.txt").write_text("a\n")
    assert vos("--force", "--prompt", "box", "--video-list", "list.txt").code == 0
    assert snapshot(data / "results" / "b") == before
    assert "The result of 'b' is outdated" in run("evaluate", "results", "Annotations", cwd=data).err

    assert vos("--prompt", "box").code == 0
    assert snapshot(data / "results" / "b") != before


def test_another_checkpoint_of_the_same_name_is_another_model(
    vos, data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "mine.safetensors"
    model.write_bytes(tiny_checkpoint.read_bytes())
    assert vos("--model", model).code == 0
    os.utime(model, (0, 0))
    outcome = vos("--model", model)
    assert (outcome.code, "made differently: model (was" in outcome.err) == (1, True)


def test_a_built_in_model_of_another_version_is_another_model(
    job, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "nano.safetensors"
    weights.write_bytes(tiny_checkpoint.read_bytes())
    monkeypatch.setattr(RegistryEntry, "path", property(lambda _: weights))
    run_all(job(model="nano", image_size=64, videos=["a"]))
    weights.write_bytes(b"an upgrade")
    with pytest.raises(
        OutputError, match=r"model \(was 'nano \(SHA-256 .*another version of napari-surgsam2"
    ):
        run_all(job(model="nano", image_size=64))


def test_results_of_an_earlier_version_say_that_they_are(vos, data: Path) -> None:
    """Its records named models without their weights, and knew fewer settings."""
    vos()
    path = data / "results" / "vos.json"
    record = json.loads(path.read_text())
    record["run"] |= {"model": "nano", "image_size": None}
    del record["run"]["settings"]["doubt_masks"]
    path.write_text(json.dumps(record))
    outcome = vos("--model", "nano")
    assert outcome.code == 1
    for said in ("model (was 'nano', is now 'nano (SHA-256", "another version of napari-surgsam2", "--force"):
        assert said in outcome.err


@pytest.mark.parametrize("record", [None, "", "[]", "{", '{"run": {}}'])
def test_results_that_nobody_knows_the_making_of_are_not_taken(record: str | None, vos, data: Path) -> None:
    vos()
    path = data / "results" / "vos.json"
    path.unlink() if record is None else path.write_text(record)
    before = snapshot(data / "results")
    (data / "list.txt").write_text("a\n")
    (data / "results" / "a").rename(data / "results" / "c")
    for outcome in (vos(), vos("--video-list", "list.txt")):
        assert (outcome.code, "no vos.json that says how they were made" in outcome.err) == (1, True)
    (data / "results" / "c").rename(data / "results" / "a")
    assert snapshot(data / "results") == before
    assert vos("--force").code == 0


@pytest.mark.parametrize("options", [("--model", "nanoo"), ("--gt-root", "nothing"), ("--device", "cuda:9")])
def test_what_cannot_be_begun_leaves_the_results_as_they_were(options, vos, data: Path) -> None:
    vos()
    before = snapshot(data / "results")
    assert vos("--force", *options).code
    outcome = vos()
    assert (outcome.code, snapshot(data / "results")) == (0, before)
    assert "a: there already" in outcome.err


def test_complete_results_are_scored_where_nothing_can_be_written(vos, data: Path, monkeypatch) -> None:
    vos()
    monkeypatch.setattr(vos_record.VosRecord, "_write", lambda _: 1 / 0)
    assert vos("--gt-root", "Annotations").code == 0


def test_two_processes_may_make_one_set_of_results(vos, data: Path, tiny_model) -> None:
    """Each its own videos; but not in different ways."""
    folders = {"video_dir": data / "JPEGImages", "mask_dir": data / "Annotations", "output_dir": data / "r"}
    runs = [vos_module.VosJob(**folders, model=tiny_model, videos=[name]) for name in "ab"]
    together = [vos_module.run_vos(job) for job in runs]
    assert [next(run).name for run in together] == ["a", "b"]
    assert set(json.loads((data / "r" / "vos.json").read_text())["videos"]) == {"a", "b"}

    plain = vos_module.run_vos(vos_module.VosJob(**{**folders, "output_dir": data / "s"}, model=tiny_model))
    next(plain)
    boxes = vos_module.VosJob(
        **{**folders, "output_dir": data / "s"}, model=tiny_model, prompt="box", overwrite=True
    )
    next(vos_module.run_vos(boxes))
    with pytest.raises(OutputError, match="Another process has begun to make the results"):
        next(plain)
    assert not (data / "s" / "b").exists()


@pytest.fixture
def job(data: Path, tiny_model):
    """Make a job of the two videos, with the tiny model."""

    def make(**options) -> vos_module.VosJob:
        folders = {
            "video_dir": data / "JPEGImages",
            "mask_dir": data / "Annotations",
            "output_dir": data / "r",
        }
        return vos_module.VosJob(**{**folders, "model": tiny_model, **options})

    return make


def run_all(job: vos_module.VosJob, meanwhile: vos_module.VosJob | None = None) -> dict[str, bool]:
    """Do a job; `meanwhile` is done by another process after this one has looked at the results.

    Returns which videos were there already.
    """
    reporting = vos_module.VosReporting(found=lambda _: meanwhile and run_all(meanwhile))
    return {outcome.name: outcome.skipped for outcome in vos_module.run_vos(job, reporting)}


class TestAnotherProcess:
    """Between looking at the results and making the first, another process may have made some."""

    def test_its_speeds_are_kept(self, job, data: Path) -> None:
        run_all(job(videos=["a"]), meanwhile=job(videos=["b"]))
        assert set(json.loads((data / "r" / "vos.json").read_text())["videos"]) == {"a", "b"}

    def test_what_it_made_anew_is_not_outdated_any_more(self, job, data: Path) -> None:
        run_all(job())
        run_all(job(prompt="box", videos=["a"], overwrite=True))  # leaves b outdated
        skipped = run_all(job(prompt="box"), meanwhile=job(prompt="box", videos=["b"]))
        assert skipped == {"a": True, "b": True}
        assert json.loads((data / "r" / "vos.json").read_text())["outdated"] == []

    def test_what_it_makes_in_another_way_is_not_mixed_with(self, job, data: Path) -> None:
        with pytest.raises(OutputError, match="Another process has begun to make the results"):
            run_all(job(), meanwhile=job(prompt="box", videos=["b"]))
        assert json.loads((data / "r" / "vos.json").read_text())["run"]["prompt"] == "box"
        assert not (data / "r" / "a").exists()

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_it_leaves_a_video_alone_that_is_being_written(
        self, overwrite: bool, job, data: Path, monkeypatch
    ) -> None:
        run_all(job(output_dir=data / "whole"))
        png, others = vos_module._png, iter([job(videos=["a"], overwrite=overwrite)])

        def meanwhile(labels: np.ndarray, palette: bytes | None) -> Image.Image:
            if (other := next(others, None)) is not None:
                with pytest.raises(OutputError, match="a is being written by another process"):
                    run_all(other)
            return png(labels, palette)

        monkeypatch.setattr(vos_module, "_png", meanwhile)
        run_all(job(videos=["a"]))
        np.testing.assert_array_equal(read(data / "r" / "a"), read(data / "whole" / "a"))

    def test_a_result_that_appears_while_it_is_written_is_not_replaced(
        self, job, data: Path, monkeypatch
    ) -> None:
        png = vos_module._png

        def meanwhile(labels: np.ndarray, palette: bytes | None) -> Image.Image:
            (data / "r" / "a").mkdir(exist_ok=True)
            (data / "r" / "a" / "00000.png").write_bytes(b"theirs")
            return png(labels, palette)

        monkeypatch.setattr(vos_module, "_png", meanwhile)
        with pytest.raises(OutputError, match="has appeared meanwhile; move it away"):
            run_all(job(videos=["a"]))
        assert (data / "r" / "a" / "00000.png").read_bytes() == b"theirs"


def test_tracking_that_was_stopped_goes_on(data: Path, tiny_model) -> None:
    job = vos_module.VosJob(
        video_dir=data / "JPEGImages", mask_dir=data / "Annotations", output_dir=data / "r", model=tiny_model
    )
    seen = []
    stopping = vos_module.VosReporting(
        tracked=lambda name, _result, done, _total: seen.append((name, done)),
        should_stop=lambda: len(seen) == 3,
    )
    with pytest.raises(TrackingInterruptedError, match="Stopped in the video 'a'"):
        list(vos_module.run_vos(job, stopping))
    seen.clear()
    going_on = vos_module.VosReporting(tracked=lambda name, _result, done, _total: seen.append((name, done)))
    list(vos_module.run_vos(job, going_on))
    assert seen[:3] == [("a", 4), ("a", 5), ("a", 6)]
    whole = vos_module.VosJob(**{**vars(job), "output_dir": data / "w"})
    list(vos_module.run_vos(whole))
    for video in "ab":
        np.testing.assert_array_equal(read(data / "r" / video), read(data / "w" / video))


def test_a_video_without_objects_is_background(vos, data: Path, clip: np.ndarray) -> None:
    write_video(data, "c", clip[:3], np.zeros((3, 96, 128), np.uint8))
    outcome = vos("--gt-root", "Annotations")
    assert outcome.code == 0
    assert "c: no objects" in outcome.err
    assert not read(data / "results" / "c").any()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_of_videos(encoding: str, vos, data: Path) -> None:
    (data / "list.txt").write_text("b\n", encoding=encoding)
    vos("--video-list", "list.txt")
    assert sorted(p.name for p in (data / "results").iterdir()) == ["b", "vos.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--prompt", "points:0"), "The prompt is 'points:0'; it must be mask, box, or points:N"),
        (("--prompt", "mask:2"), "The prompt is 'mask:2'"),
        (("--gt-root", "nothing"), "There is no folder 'nothing'"),
        (("--video-dir", "nothing"), "nothing'; it must hold a folder of pictures"),
        (("--output-dir", "Annotations"), "in the place of the input"),
        (("--output-dir", "Annotations/new"), "is inside the input"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(arguments, says: str, vos, data: Path) -> None:
    outcome = vos(*arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert "Model" not in outcome.err


def test_strange_results_are_left_alone(vos, data: Path) -> None:
    (data / "list.txt").write_text("a\n")
    vos("--video-list", "list.txt")
    (data / "results" / "b").mkdir()
    (data / "results" / "b" / "00000.png").write_bytes(b"mine")
    outcome = vos()
    assert outcome.code == 1
    assert "holds 1 PNGs, while the video 'b' has 6 frames" in outcome.err
    assert (data / "results" / "b" / "00000.png").read_bytes() == b"mine"


def test_two_pictures_of_one_name(vos, data: Path) -> None:
    Image.fromarray(np.ones((96, 128), np.uint8)).save(data / "JPEGImages" / "a" / "00003.png")
    outcome = vos()
    assert (outcome.code, "both '00003.jpg' and '00003.png'" in outcome.err) == (2, True)


def test_annotations_of_another_size(vos, data: Path) -> None:
    Image.fromarray(np.ones((50, 60), np.uint8)).save(data / "Annotations" / "a" / "00003.png")
    outcome = vos()
    assert (outcome.code, "50 x 60 pixels" in outcome.err) == (2, True)


# Prompts


def mask() -> np.ndarray:
    shape = np.zeros((40, 50), bool)
    shape[5:20, 10:30] = True
    shape[15:35, 10:16] = True
    return shape


def test_points_are_in_the_mask_and_the_same_every_time() -> None:
    kind = vos_prompts.PromptKind.parse("points:5")
    points = kind.of_mask("seq_2", 3, 7, mask())
    assert points == kind.of_mask("seq_2", 3, 7, mask())
    assert points[0] == ns.Point(3, *map(float, ns.prompts.central_position(mask())), 7)
    assert len({(p.y, p.x) for p in points}) == 5
    assert all(mask()[int(p.y), int(p.x)] and p.positive for p in points)
    assert points[1:] != kind.of_mask("seq_5", 3, 7, mask())[1:]
    assert vos_prompts.PromptKind.parse("points:1").of_mask("seq_2", 3, 7, mask()) == points[:1]


def test_a_mask_with_fewer_pixels_than_points() -> None:
    small = np.zeros((4, 5), bool)
    small[1, 1:3] = True
    points = vos_prompts.PromptKind.parse("points:5").of_mask("v", 0, 1, small)
    assert {(p.y, p.x) for p in points} == {(1, 1), (1, 2)}


def test_boxes() -> None:
    kind = vos_prompts.PromptKind.parse("box")
    assert kind.of_mask("v", 2, 3, mask()) == [ns.Box(2, 5, 10, 34, 29, 3)]
    pixel = np.zeros((4, 5), bool)
    pixel[2, 3] = True
    assert kind.of_mask("v", 0, 1, pixel) == [ns.Box(0, 1.5, 2.5, 2.5, 3.5, 1)]


@pytest.mark.parametrize("prompt", ["box", "points:1", "points:5"])
def test_every_kind_of_prompt_runs(prompt: str, vos, data: Path) -> None:
    assert vos("--prompt", prompt).code == 0
    assert json.loads((data / "results" / "vos.json").read_text())["run"]["prompt"] == prompt
    assert (read(data / "results" / "a") == 4).any()


# From clips to scores


def own_j(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def own_f(a: np.ndarray, b: np.ndarray) -> float:
    def contour(m: np.ndarray) -> np.ndarray:
        edge = np.zeros(m.shape, bool)
        edge[:, :-1] |= m[:, :-1] ^ m[:, 1:]
        edge[:-1] |= m[:-1] ^ m[1:]
        edge[:-1, :-1] |= m[:-1, :-1] ^ m[1:, 1:]
        return np.argwhere(edge)

    ours, theirs = contour(a), contour(b)
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    reach = math.ceil(0.008 * math.hypot(*a.shape)) + 1e-9
    p = (cKDTree(theirs).query(ours)[0] <= reach).mean()
    r = (cKDTree(ours).query(theirs)[0] <= reach).mean()
    return 2 * p * r / (p + r) if p + r else 0.0


def test_six_clips_from_masks_to_scores(run: Run, tmp_path: Path) -> None:
    for k in range(6):
        size = (64 + 16 * (k % 3), 96)
        made = make_clip(100 + k, frames=FRAMES, size=size, scene=("laparoscopy", "things")[k % 2])
        write_video(tmp_path, f"clip_{k}", made.video, made.labels)

    folders = ("--video-dir", "JPEGImages", "--mask-dir", "Annotations", "--output-dir", "results")
    tracked = run("vos", *folders, "--gt-root", "Annotations", "--device", "cpu", cwd=tmp_path)
    scored = run("evaluate", "results", "Annotations", "--json", "s.json", cwd=tmp_path)

    assert (tracked.code, scored.code) == (0, 0)
    j, f = [], []
    for k in range(6):
        truth, result = (read(tmp_path / root / f"clip_{k}") for root in ("Annotations", "results"))
        for i in sorted(set(np.unique(truth).tolist()) - {0}):
            first = int((truth == i).any((1, 2)).argmax())
            counted = range(first + 1, FRAMES - 1)
            j.append(np.mean([own_j(result[t] == i, truth[t] == i) for t in counted]))
            f.append(np.mean([own_f(result[t] == i, truth[t] == i) for t in counted]))
    summary = json.loads((tmp_path / "s.json").read_text())["mean"]
    assert summary["objects"] == len(j) > 6
    assert (summary["j"], summary["f"]) == pytest.approx((np.mean(j), np.mean(f)))
    assert summary["j_and_f"] == pytest.approx((np.mean(j) + np.mean(f)) / 2)
    assert summary["j_and_f"] > 0.7
    for outcome in (tracked, scored):
        assert outcome.out.splitlines()[-1].split()[2] == f"{summary['j_and_f']:.3f}"
