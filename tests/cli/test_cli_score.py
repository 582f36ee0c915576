"""`napari-surgsam2 score`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_surgsam2.settings import TrackingSettings
from napari_surgsam2.training import validation
from napari_surgsam2.training.synthetic import SyntheticClips

from .conftest import Run

SMALL = ("--clips", 2, "--frames", 3, "--seed", 7, "--size", "64x80", "--scene", "things")


def test_every_clip_has_a_row_and_the_last_is_their_mean(run: Run, files: Path) -> None:
    outcome = run("score", "tiny.safetensors", *SMALL, cwd=files)

    assert outcome.code == 0
    first, second, mean = (line.split() for line in outcome.out.splitlines()[-3:])
    clips = SyntheticClips(["things"], 7, 2, 3, (64, 80)).validation_videos()
    assert [first[0], second[0], mean[0]] == [*(clip.name for clip in clips), "mean"]
    assert int(mean[1]) == int(first[1]) + int(second[1]) >= 2
    for column in (2, 3, 4, 5):
        both = float(first[column]), float(second[column])
        assert all(0 <= value <= 1 for value in both)
        assert float(mean[column]) == pytest.approx(np.mean(both), abs=1.1e-3)
    assert float(mean[4]) == pytest.approx((float(mean[2]) + float(mean[3])) / 2, abs=1.1e-3)


def test_options_say_how_it_is_tracked(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[TrackingSettings, int]] = []
    score_video = validation.score_video

    def noted(model, name, video, labels, annotated, settings, corrections, *others):
        asked.append((settings, corrections))
        return score_video(model, name, video, labels, annotated, settings, 0, *others)

    monkeypatch.setattr(validation, "score_video", noted)
    options = ("--prune-frames", 0, "--precision", "bfloat16", "--corrections", 3)
    outcome = run("score", "tiny.safetensors", *SMALL, "--clips", 1, *options, cwd=files)

    assert outcome.code == 0
    ((settings, corrections),) = asked
    assert (settings.pruning.prune_frames, settings.precision, corrections) == (0, "bfloat16", 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "64"], "The size is '64'; it must be height and width, such as 512x640."),
        (["--scene", "kitchen"], "kitchen"),
        (["--clips", 0], "greater than or equal to 1"),
        (["--precision", "half"], "'half' is not one of"),
    ],
)
def test_what_cannot_be_scored_is_told(options: list[object], message: str, run: Run, files: Path) -> None:
    outcome = run("score", "tiny.safetensors", *options, cwd=files)

    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
