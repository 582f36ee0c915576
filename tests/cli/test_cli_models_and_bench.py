"""`napari-surgsam2 models`, `bench`, and the command line as a whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.table import Table

from napari_surgsam2 import benchmark
from napari_surgsam2.checkpoints import download as downloads
from napari_surgsam2.checkpoints import registry, registry_entry
from napari_surgsam2.cli.console import print_table

from .conftest import Run

CONTENT = b"PK\x03\x04 a model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("NAPARI_SURGSAM2_CACHE", str(folder))
    return folder


@pytest.fixture
def downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that is there."""
    entry = registry_entry("sam2.1_hiera_tiny")
    entry = dataclasses.replace(entry, bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(registry(), entry.name, entry)
    cache.mkdir()
    entry.path.write_bytes(CONTENT)
    return entry.name


def test_all_models_are_listed(run: Run, downloaded: str, cache: Path) -> None:
    outcome = run("models", "list")

    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    assert [row[0] for row in rows[1:]] == list(registry())
    assert rows[1][:4] == ["nano", "(default)", "built", "in"]
    assert [row[0] for row in rows if "downloaded" in row] == [downloaded]
    assert f"Downloaded models are kept in {cache}" in outcome.err


@pytest.mark.parametrize("name", [e.name for e in registry().values() if not e.built_in])
def test_what_is_known_of_a_model_is_told(name: str, run: Run, cache: Path) -> None:
    outcome = run("models", "info", name)

    entry = registry_entry(name)
    assert outcome.code == 0
    for fact in (name, entry.url, entry.sha256 or "not published", str(cache / entry.file), "downloaded  no"):
        assert fact in outcome.out


@pytest.mark.parametrize("command", ["info", "download", "verify"])
def test_the_built_in_model_is_told_to_be(command: str, run: Run, cache: Path) -> None:
    outcome = run("models", command, "nano")

    assert outcome.code == 0
    assert "built in" in outcome.out + outcome.err
    assert str(registry_entry("nano").path) in outcome.out + outcome.err
    assert not cache.exists()


@pytest.mark.parametrize("command", ["info", "download", "verify"])
def test_an_unknown_model_is_told(command: str, run: Run) -> None:
    outcome = run("models", command, "sam9")

    assert (outcome.code, outcome.out) == (2, "")
    assert "There is no model 'sam9'; the models are: nano, sam2.1_hiera_tiny" in outcome.err


def test_a_model_is_downloaded_once_and_verified(run: Run, downloaded: str, cache: Path) -> None:
    outcome = run("models", "download", downloaded)
    assert (outcome.code, outcome.out) == (0, "")
    assert f"{downloaded} is at {cache / 'sam2.1_hiera_tiny.pt'}" in outcome.err
    assert "is right" in run("models", "verify", downloaded).err

    (cache / "sam2.1_hiera_tiny.pt").write_bytes(CONTENT[:-1] + b"!")
    outcome = run("models", "verify", downloaded)
    assert outcome.code == 1
    assert "is damaged: its SHA-256 is" in outcome.err
    (cache / "sam2.1_hiera_tiny.pt").write_bytes(CONTENT[:5])
    outcome = run("models", "download", downloaded)
    assert outcome.code == 1
    assert "is damaged: it has 5 bytes" in outcome.err


def test_a_model_that_is_not_there_cannot_be_verified(run: Run, cache: Path) -> None:
    outcome = run("models", "verify", "sam2.1_hiera_tiny")

    assert outcome.code == 1
    assert "Download it with 'napari-surgsam2 models download sam2.1_hiera_tiny'" in outcome.err


def test_ctrl_c_ends_a_download(run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "retrieve", interrupted)
    assert downloads.expected_digest(registry_entry("sam2.1_hiera_tiny"))

    outcome = run("models", "download", "sam2.1_hiera_tiny")

    assert outcome.code == 130
    assert "Stopped; nothing of sam2.1_hiera_tiny was kept." in outcome.err


# bench

QUICK = ("--video-size", "64x64", "--frames", 1, "--rounds", 1, "--prune-frames", 2)


def test_numbers_are_on_the_standard_output(run: Run, files: Path) -> None:
    outcome = run("bench", "--model", "tiny.safetensors", *QUICK, "--json", cwd=files)

    (case,) = json.loads(outcome.out)
    assert outcome.code == 0
    assert case["case"] == {"objects": 1, "prune_frames": 2}
    assert case["frame_seconds"] > 0
    assert set(case["stages"]) == set(benchmark.STAGES)
    assert "tiny.safetensors with its weights" in outcome.err


def test_the_built_in_model_is_timed_unless_another_is_named(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "_WARM_UP", 1)
    outcome = run("bench", *QUICK)

    assert outcome.code == 0
    assert "nano with its weights" in outcome.err


def test_cases_are_compared_in_a_table(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_WARM_UP", 1)
    outcome = run("bench", "--model", "tiny.safetensors", *QUICK, "--objects", 1, "--objects", 2, cwd=files)

    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["1", "2"], ["2", "2"]]
    assert "frames/s" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video-size", "96"], "The video size is '96'; it must be YxX"),
        (["--video-size", "10x10"], "each at least 64"),
        (["--frames", 0], "frames is 0; it must be at least 1"),
        (["--rounds", 0], "rounds is 0; it must be at least 1"),
        (["--objects", 0], "objects is 0; it must be at least 1"),
        (["--prune-frames", -1], "prune_frames is -1; it must be a whole number, at least 0"),
        (["--precision", "half"], "precision is 'half'; it must be 'auto', 'float32' or 'bfloat16'"),
        (["--image-size", 33], "The image size is 33; it must be a multiple of 32"),
        (["--device", "foo"], "The device is 'foo'"),
        (["--model", "sam9"], "There is no model 'sam9'"),
    ],
)
def test_what_cannot_be_timed_is_told(arguments: list[object], message: str, run: Run, files: Path) -> None:
    outcome = run("bench", "--model", "tiny.safetensors", "--json", *arguments, cwd=files)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Error: ")
    assert message in outcome.err


def test_a_lack_of_memory_is_told(run: Run, files: Path) -> None:
    size = "99999999x99999999"
    outcome = run("bench", "--model", "tiny.safetensors", "--video-size", size, cwd=files)

    assert outcome.code == 1
    assert "There is not enough memory" in outcome.err


# All commands


def test_the_version_is_printed(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.out.strip()) == (0, version("napari-surgsam2"))


@pytest.mark.parametrize("command", [[], ["demo"], ["track"], ["bench"], ["models"], ["models", "list"]])
def test_every_command_has_help(command: list[str], run: Run) -> None:
    for option in ("-h", "--help"):
        outcome = run(*command, option)
        assert outcome.code == 0
        assert "Usage: napari-surgsam2" in outcome.out


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["models", "bogus"], ["track", "--bogus"], ["track", "clip.mp4"]]
)
def test_wrong_usage_has_its_own_exit_code(arguments: list[str], run: Run) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err


def test_the_module_is_the_command_and_its_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "napari_surgsam2",
        "track",
        "gone.mp4",
        "--point",
        "0,1,2",
        "-o",
        "m.tif",
    ]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert outcome.stderr == f"Error: No file or folder at '{tmp_path / 'gone.mp4'}'; check the path.\n"
    assert list(tmp_path.iterdir()) == []


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("video", box=None)
    for name in ("scan[left].mp4", "a[/b].mp4", ":smile:.mp4"):
        table.add_row(name)
    print_table(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1:]] == [
        "scan[left].mp4",
        "a[/b].mp4",
        ":smile:.mp4",
    ]
