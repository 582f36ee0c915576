"""The code in README and docs runs as it stands there, with a tiny model in place of a published one."""

import re
import shlex
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import napari_surgsam2 as ns
from napari_surgsam2 import checkpoints, cli, pipeline
from napari_surgsam2.checkpoints import Model
from tests.helpers.clips import moving_blobs
from tests.helpers.weights import rule_network

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        for i, match in enumerate(re.finditer(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)):
            found.append(pytest.param(match[1], id=f"{page.name}-{i}"))
    return found


@pytest.fixture
def folder_with_clip(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the docs speak of, and a tiny model under every name."""
    monkeypatch.chdir(tmp_path)
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 288, "yuv420p"
        for image in moving_blobs(9, 288, 320):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    labels = np.zeros((288, 320), np.uint8)
    labels[30:60, 40:90] = 1
    Image.fromarray(labels).save("first_frame.png")
    tifffile.imwrite("tracked.tif", np.stack([labels] * 9))
    Path("points.csv").write_text("index,axis-0,axis-1,axis-2,object_id,label\n0,0,120,200,1,1\n")
    model = Model("tiny", tmp_path, rule_network(), 128, torch.device("cpu"))
    for module in (checkpoints, pipeline, ns):
        monkeypatch.setattr(module, "load_model", lambda *_args, **_kwargs: model, raising=False)
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, folder_with_clip: Path) -> None:
    exec(compile(code, "<docs>", "exec"), {})


def commands() -> list:
    lines = []
    for block in blocks("console"):
        for line in block.values[0].splitlines():
            command = line.rpartition("&& ")[2].removeprefix(".venv/bin/")
            if command.startswith("napari-surgsam2 track clip.mp4"):
                lines.append(command)
    return lines


@pytest.mark.parametrize("command", commands())
def test_commands_run(command: str, folder_with_clip: Path, monkeypatch) -> None:
    words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", words)

    with pytest.raises(SystemExit) as end:
        cli.main()

    assert end.value.code in (0, None)
    assert (folder_with_clip / words[words.index("-o") + 1]).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
