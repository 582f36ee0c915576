"""A folder with files to give on the command line, and ways to run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from napari_surgsam2 import cli
from napari_surgsam2.masks import write_davis
from tests.helpers.clips import moving_blobs


@dataclass
class Outcome:
    """What a command left: its exit code and what it wrote to its two streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def write_movie(path: Path, clip: np.ndarray, options: dict[str, str] | None = None) -> None:
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": "4"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, clip: np.ndarray, tiny_checkpoint: Path) -> Path:
    """A folder of inputs, good and bad; tests that replace some work in a folder of their own."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tiny.safetensors").symlink_to(tiny_checkpoint)
    write_movie(folder / "clip.mp4", clip)
    write_movie(folder / "long.mp4", moving_blobs(80, 96, 128))
    tifffile.imwrite(folder / "clip.tif", clip, photometric="rgb", metadata={"axes": "TYXS"})
    labels = np.zeros((96, 128), np.uint8)
    labels[20:50, 20:60], labels[60:80, 80:110] = 1, 3
    Image.fromarray(labels).save(folder / "labels.png")
    tifffile.imwrite(folder / "labels.tif", labels, photometric="minisblack")
    (folder / "points.csv").write_text(
        "index,axis-0,axis-1,axis-2,object_id,label\n0,0,35,30,1,1\n1,0,60,90,2,1\n"
    )
    write_bad(folder, clip, labels)
    return folder


def write_bad(folder: Path, clip: np.ndarray, labels: np.ndarray) -> None:
    """Write what cannot be used."""
    (folder / "empty").mkdir()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    movie = (folder / "clip.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(movie[: len(movie) // 2])
    damaged = bytearray(movie)
    middle = (movie.index(b"mdat") + len(movie)) // 2
    damaged[middle : middle + 2000] = bytes(2000)
    (folder / "damaged.mp4").write_bytes(damaged)
    write_movie(folder / "whole.mkv", moving_blobs(80, 96, 128))
    whole = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    stack = (folder / "clip.tif").read_bytes()
    (folder / "cut.tif").write_bytes(stack[: len(stack) // 2])
    (folder / "sizes").mkdir()
    for t, frame in enumerate(clip[:4]):
        Image.fromarray(frame[: 96 - 2 * t]).save(folder / "sizes" / f"{t}.png")
    (folder / "text.pt").write_text("not a checkpoint")
    (folder / "folder.pt").mkdir()
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, folder / "resnet.pt")
    Image.fromarray(labels[:50]).save(folder / "small.png")
    Image.fromarray(clip[0]).save(folder / "colour.png")
    tifffile.imwrite(folder / "stack.tif", np.stack([labels] * 3), photometric="minisblack")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "unknown.json").write_text('{"points": [{"frame": 0, "y": 1, "x": 2, "colour": 3}]}')
    (folder / "latin.csv").write_bytes("axis-0,ä\n".encode("latin-1"))


@pytest.fixture
def inputs(clip: np.ndarray, tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder, the working directory of `run` in the test, with inputs that the test may risk."""
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    write_movie(tmp_path / "clip.mp4", clip)
    tifffile.imwrite(tmp_path / "clip.tif", clip, photometric="rgb")
    zarr.create_array(tmp_path / "clip.zarr", data=clip[..., 0])
    write_davis(tmp_path / "palette", np.ones((3, 96, 128), np.uint8))
    labels = np.zeros((96, 128), np.uint8)
    labels[20:50, 20:60] = 1
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(clip[:3]):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t}.png")
    return tmp_path


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: faster for a network this small, and equal to what other processes get."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process."""

    def call(*arguments: object, cwd: Path | None = None) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["napari-surgsam2", *map(str, arguments)])
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "napari_surgsam2", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
    )
