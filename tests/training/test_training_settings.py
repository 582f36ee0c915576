"""Settings of a training run: read from TOML, validated, and the same as plain values."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from napari_surgsam2.errors import UsageError
from napari_surgsam2.training.settings import (
    AugmentationSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    PromptSettings,
    RunSettings,
    TrainingSettings,
    load_settings,
)
from napari_surgsam2.training.sources import LabelPair, SourceSettings
from napari_surgsam2.training.synthetic import scene_mix

SMALLEST = """
output = "run"
[run]
steps = 10
[[training]]
kind = "synthetic"
clips = 100
length = 16
size = [64, 80]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "train.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(write(folder, text))
    return str(caught.value)


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, SMALLEST))

    assert settings.output == str(tmp_path / "run")
    assert settings.model == ModelSettings(start="nano")
    assert settings.run == RunSettings(steps=10)
    assert settings.validation == ()
    (source,) = settings.training
    assert (source.scenes, source.seed, source.clips, source.size) == ((), 0, 100, (64, 80))
    assert settings.loss == LossSettings(20, 1, 1, 1)
    assert settings.prompts.shares == (0.5, 0.25, 0.25)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load_settings(
        write(
            tmp_path,
            """
            output = "/elsewhere/run"
            model.start = "weights/mine.safetensors"
            run.steps = 1
            [[training]]
            kind = "vos"
            images = "a"
            annotations = "/b"
            videos = "names.txt"
            [[training]]
            kind = "vos"
            images = "a"
            annotations = "b"
            videos = ["one", "two"]
            [[training]]
            kind = "labels"
            pairs = [{ video = "v.mp4", labels = "l.tif" }]
            [[training]]
            kind = "pool"
            folder = "pool"
            clips = 1
            length = 16
            size = [64, 64]
            """,
        )
    )

    assert settings.output == str(Path("/elsewhere/run"))
    assert settings.model.start == str(tmp_path / "weights" / "mine.safetensors")
    listed, named, labelled, pool = settings.training
    assert (listed.images, listed.annotations) == (str(tmp_path / "a"), str(Path("/b")))
    assert listed.videos == str(tmp_path / "names.txt")
    assert named.videos == ("one", "two")
    assert labelled.pairs is not None
    assert labelled.pairs[0].labels == str(tmp_path / "l.tif")
    assert pool.folder == str(tmp_path / "pool")


def test_plain_values_round_trip_through_json(tmp_path: Path) -> None:
    text = (
        SMALLEST
        + """
        [[validation]]
        kind = "labels"
        pairs = [{ video = "v.mp4", labels = "l.tif" }]
        [model]
        start = "new"
        image_size = 128
        network = { dim = 64, trunk = { channels = [8, 16, 24, 32], blocks = [1, 1, 1, 1] } }
        freeze = ["image_encoder"]
        """
    )
    settings = load_settings(write(tmp_path, text))

    plain = json.loads(json.dumps(settings.to_dict()))
    assert TrainingSettings.from_dict(plain) == settings
    assert plain["model"]["network"]["trunk"]["channels"] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("settings", "name", "value", "rule"),
    [
        (RunSettings(1), "steps", 0, "at least 1"),
        (RunSettings(1), "frame_step", [3, 1], "the smaller one first"),
        (RunSettings(1), "frame_step", [1.0, 2], "two whole numbers, at least 1"),
        (RunSettings(1), "precision", "half", "'auto', 'float32', 'bfloat16', 'float16'"),
        (RunSettings(1), "absence", 1.5, "0 or more, at most 1"),
        (RunSettings(1), "memory_dropout", 1.5, "0 or more, at most 1"),
        (RunSettings(1), "activation_checkpointing", 1, "true or false"),
        (RunSettings(1), "device", "", "a text"),
        (PromptSettings(), "click", -1, "0 or more"),
        (PromptSettings(), "central_click", "often", "a number"),
        (PromptSettings(), "corrections", 1.5, "a whole number"),
        (OptimizerSettings(), "learning_rate", 0, "above 0"),
        (OptimizerSettings(), "learning_rate", float("nan"), "above 0"),
        (OptimizerSettings(), "layer_decay", 1.1, "above 0, at most 1"),
        (OptimizerSettings(), "betas", [0.9, 1.0], "two numbers from 0 to"),
        (OptimizerSettings(), "betas", [0.9, 2.0, 0.9], "two numbers from 0 to"),
        (OptimizerSettings(), "schedule", "linear", "'cosine', 'constant'"),
        (LossSettings(), "dice", True, "a number"),
        (AugmentationSettings(), "crop", [0.9, 0.5], "two numbers from 0.05 to 1, the smaller one first"),
        (AugmentationSettings(), "flip", "yes", "true or false"),
        (ModelSettings(), "freeze", "image_encoder", "a list of texts"),
        (ModelSettings(), "start", 3, "a text"),
        (SourceSettings("labels", pairs=({"video": "v", "labels": "l"},)), "weight", 0, "above 0"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_told_with_the_rule(settings: Any, name: str, value: Any, rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.replace(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; it must be")
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[optimizer]\nlearning_rate = -1", r"[optimizer] learning_rate is -1; it must be a number, above 0"),
        (
            "[loss]\nfocus = 1",
            "[loss] LossSettings has no setting 'focus'; it has: dice, focal, iou, others, score",
        ),
        ("[loss]\nfocal = 0\ndice = 0\niou = 0\nscore = 0", "[loss] focal, dice, iou and score are all 0"),
        ("[prompts]\nclick = 0\nbox = 0\nmask = 0", "[prompts] click, box and mask are all 0"),
        ("[model]\nimage_size = 100", "[model] The image size is 100; it must be a multiple of 32"),
        ("[model]\nstart = 'new'", "[model] image_size is missing; a new network needs it"),
        ("[model]\nnetwork = {}", "[model] network is set, but start is 'nano'"),
        ("[[training]]\nkind = 'film'", "[[training]] number 2: kind is 'film'; it must be one of"),
        ("[[training]]\nweight = 1", "[[training]] number 2: kind is missing"),
        ("[[training]]\nkind = 'vos'\nimages = 'a'", "[[training]] number 2: annotations is missing"),
        (
            "[[validation]]\nkind = 'labels'\nimages = 'a'",
            "[[validation]] number 1: images is set, but a source of kind 'labels' has no such option; "
            "it has: pairs.",
        ),
        ("[[validation]]\nkind = 'labels'\npairs = []", "[[validation]] number 1: pairs is empty"),
        (
            "[[validation]]\nkind = 'labels'\npairs = [{ video = 'v' }]",
            "[[validation]] number 1: pairs number 1: labels is missing",
        ),
        (
            "[[validation]]\nkind = 'pool'\nfolder = 'p'\nclips = 1\nlength = 8\nsize = [64, 64]",
            "[[validation]] number 1: kind is 'pool', which is for training only",
        ),
        (
            "[[training]]\nkind = 'synthetic'\nclips = 1\nlength = 3\nsize = [64, 64]",
            "[[training]] number 2: length is 3; it must be at least 16, for 6 frames at a frame_step of 3 "
            "in [run]. Set a larger length, or fewer frames.",
        ),
        (
            "[[training]]\nkind = 'synthetic'\nclips = 1\nlength = 12\nsize = [64, 64]",
            "length is 12; it must be at least 16, for 6 frames at a frame_step of 3 in [run]. Set a larger "
            "length, or a smaller frame_step, up to 2.",
        ),
        (
            "[[training]]\nkind = 'synthetic'\nclips = 1\nlength = 8\nsize = [64, 8]",
            "[[training]] number 2: size is [64, 8]; it must be two whole numbers, at least 32",
        ),
        ("[[training]]\nkind = 'vos'\nimages = 'a'\nannotations = 'b'\nvideos = []", "videos is ()"),
        ("[augment]", "TrainingSettings has no setting 'augment'"),
    ],
)  # fmt: skip
def test_errors_name_the_file_the_table_and_the_key(tmp_path: Path, table: str, said: str) -> None:
    message = refused(tmp_path, f"{SMALLEST}\n{table}")

    assert message.startswith(f"In '{tmp_path / 'train.toml'}': ")
    assert said in message


def test_no_masks_are_given_on_stills(tmp_path: Path) -> None:
    stills = SMALLEST.replace("steps = 10", "steps = 10\nframes = 1")

    assert load_settings(write(tmp_path, stills)).prompts.shares == (2 / 3, 1 / 3, 0)
    assert "[prompts] click and box are 0, but with frames = 1" in refused(
        tmp_path, stills + "[prompts]\nclick = 0\nbox = 0"
    )


@pytest.mark.parametrize("none", ["corrections", "corrected_frames"])
@pytest.mark.parametrize("name", ["mistakes", "wrong_starts", "corrected_ahead"])
def test_what_is_made_wrong_to_be_corrected_needs_corrections(tmp_path: Path, name: str, none: str) -> None:
    message = refused(tmp_path, f"{SMALLEST}\n[prompts]\n{none} = 0\n{name} = 0.5")

    assert f"[prompts] {name} is 0.5, but it does nothing without corrections and corrected_frames" in message


@pytest.mark.parametrize(
    ("table", "name", "needed"),
    [
        ("prompts", "wrong_memories", 3),
        ("prompts", "wrong_starts", 2),
        ("prompts", "corrected_ahead", 3),
        ("prompts", "prompted_anew", 2),
        ("run", "memory_dropout", 4),
        ("run", "absence", 2),
    ],
)
def test_what_happens_in_later_frames_needs_some(tmp_path: Path, table: str, name: str, needed: int) -> None:
    def text(frames: int) -> str:
        text = SMALLEST.replace("steps = 10", f"steps = 10\nframes = {frames}")
        return text.replace("[run]", "[prompts]\n[run]").replace(f"[{table}]", f"[{table}]\n{name} = 1")

    message = refused(tmp_path, text(needed - 1))

    assert f"[{table}] {name} is 1, but it does nothing without frames = {needed} or more in [run]" in message
    assert getattr(getattr(load_settings(write(tmp_path, text(needed))), table), name) == 1


def test_other_settings_that_do_nothing_are_refused(tmp_path: Path) -> None:
    assert "[prompts] wrong_starts is 0.5, but it does nothing without corrected_ahead below 1" in refused(
        tmp_path, f"{SMALLEST}\n[prompts]\nwrong_starts = 0.5\ncorrected_ahead = 1"
    )
    assert "[optimizer] warmup_steps is 10; it must be less than steps in [run], 10" in refused(
        tmp_path, f"{SMALLEST}\n[optimizer]\nwarmup_steps = 10"
    )
    video = "[[validation]]\nkind = 'vos'\nimages = 'a'\nannotations = 'b'"
    assert "[[validation]] number 1: weight is 2; it is for training only" in refused(
        tmp_path, f"{SMALLEST}\n{video}\nweight = 2"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
def test_files_of_notepad_and_powershell_are_read(tmp_path: Path, encoding: str) -> None:
    text = SMALLEST.replace("run", "Läufe", 1).replace("\n", "\r\n")
    if encoding.endswith("-bom"):
        text, encoding = f"\ufeff{text}", encoding.removesuffix("-bom")
    (tmp_path / "train.toml").write_bytes(text.encode(encoding))

    assert load_settings(tmp_path / "train.toml").output == str(tmp_path / "Läufe")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (r'"C:\Users\me"', "are not valid TOML"),
        (r'"C:\data"', "are not valid TOML"),
        (r'"videos\first"', r"output is 'videos\x0cirst', which has a control character in it"),
        (r'"runs\nano"', r"output is 'runs\nano', which has a control character in it"),
    ],
)
def test_backslashes_in_paths_are_explained(tmp_path: Path, output: str, said: str) -> None:
    message = refused(tmp_path, SMALLEST.replace('"run"', output))

    assert said in message
    assert "Write paths with / or in single quotes" in message


def test_what_is_needed_is_asked_for(tmp_path: Path) -> None:
    assert "training is missing" in refused(tmp_path, "output = 'a'\nrun.steps = 1")
    assert "output is missing" in refused(tmp_path, SMALLEST.replace('output = "run"', ""))
    assert "no table [[training]]" in refused(tmp_path, "output = 'a'\nrun.steps = 1\ntraining = []")
    assert "[run] steps is missing" in refused(tmp_path, SMALLEST.replace("steps = 10", ""))
    assert "[run] validate_every is 5, but there is no table [[validation]]" in refused(
        tmp_path, SMALLEST.replace("steps = 10", "steps = 10\nvalidate_every = 5")
    )
    assert "[run] is 3; it must be a table" in refused(
        tmp_path, SMALLEST.replace("[run]\nsteps = 10", "run = 3")
    )
    assert "[[training]] is 'a'; it must be a list of tables" in refused(
        tmp_path, "output = 'a'\nrun.steps = 1\ntraining = 'a'"
    )


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no settings file at"):
        load_settings(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(tmp_path)
    without_backslash = refused(tmp_path, "output = ")
    assert "are not valid TOML" in without_backslash
    assert "single quotes" not in without_backslash
    (tmp_path / "train.toml").write_bytes(SMALLEST.replace("run", "Läufe").encode("latin-1"))
    with pytest.raises(UsageError, match=r"are no text in UTF-8: .* Save them as UTF-8"):
        load_settings(tmp_path / "train.toml")


EXAMPLES = sorted(Path(str(files("napari_surgsam2.training").joinpath("examples"))).glob("*.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_can_be_loaded(example: Path) -> None:
    load_settings(example)


@pytest.mark.parametrize("name", ["endovis18", "own_labels"])
def test_the_examples_for_data_of_your_own_validate(name: str) -> None:
    (example,) = (path for path in EXAMPLES if path.stem == name)
    settings = load_settings(example)

    assert settings.validation
    assert settings.run.validate_every


def test_paths_beside_the_file_leave_the_rest_of_a_pair_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'output = "run"\n[run]\nsteps = 1\n[model]\nstart = "nano"\n[[training]]\nkind = "labels"\n'
        'pairs = [{ video = "a.tif", labels = "b.tif", sparse = true, void = 255 }]\n'
    )
    (pair,) = load_settings(tmp_path / "run.toml").training[0].pairs
    assert pair == LabelPair(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), sparse=True, void=255)


@pytest.mark.parametrize("void", [-1, 2.5, "black", True])
def test_void_is_a_number_of_pixels(void: Any) -> None:
    with pytest.raises(UsageError, match=r"void is .*; it must be a whole number, at least 0"):
        LabelPair("a.tif", "b.tif", void=void)


def test_the_parts_of_nano_go_on_meaning_the_mix_that_they_were_trained_on() -> None:
    assert dict(scene_mix(())) == {"laparoscopy": 0.6, "things": 0.25, "microscopy": 0.15}
    assert scene_mix(("teamwork", "cavity")) == {"teamwork": 0.5, "cavity": 0.5}
