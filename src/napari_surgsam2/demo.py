"""The whole way on a made-up clip: written, clicked, tracked, and held against the exact truth."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .checkpoints import DEFAULT_MODEL, Model, load_model
from .errors import OutputError, UsageError
from .evaluation import label_scores
from .files import made_aside, writing
from .masks import SheetFrame, contact_sheet, write_preview
from .paths import expanded
from .pipeline import Reporting, TrackJob, run_job
from .prompts import Point, central_position, points_to_csv
from .synthetic import DEFAULT_SIZE, SyntheticClip, draw_frames, make_scene
from .synthetic.instruments import KINDS
from .video import open_video

CLIP, POINTS, MASKS, PREVIEW, SHEET = (
    "clip.mp4",
    "points.csv",
    "masks.tif",
    "overlay.mp4",
    "contact-sheet.png",
)
FILES = (CLIP, POINTS, MASKS, PREVIEW, SHEET)
_OBJECTS = 2
_SEEN_WELL = 0.005  # of the picture
_FPS = 15.0
_ON_SHEET = 12  # frames


@dataclass(frozen=True, eq=False)
class DemoObject:
    """An object of the demo, and how well it was tracked.

    Attributes
    ----------
    name : str
        What it is.
    click : Point
        The one click, with its object id.
    j, f : array, shape (T,)
        Region similarity and contour accuracy in every frame.
    in_view : array, shape (T,), bool
        Where there is something of it to be seen.
    """

    name: str
    click: Point
    j: npt.NDArray[np.float64]
    f: npt.NDArray[np.float64]
    in_view: npt.NDArray[np.bool_]

    @property
    def j_and_f(self) -> float:
        """The mean of J and F over all frames."""
        return float(self.j.mean() + self.f.mean()) / 2


@dataclass(frozen=True, eq=False)
class DemoOutcome:
    """What a demo made.

    Attributes
    ----------
    folder : Path
        Holds `FILES`.
    objects : list of DemoObject
        What was tracked.
    frames : int
        Length of the clip.
    tracking_seconds, seconds : float
        Time the tracking took, and everything.
    """

    folder: Path
    objects: list[DemoObject]
    frames: int
    tracking_seconds: float
    seconds: float

    @property
    def j_and_f(self) -> float:
        """The mean of the objects' J&F."""
        return float(np.mean([o.j_and_f for o in self.objects]))


def run_demo(
    folder: str | Path,
    *,
    seed: int,
    frames: int,
    scene: str = "laparoscopy",
    size: tuple[int, int] = DEFAULT_SIZE,
    model: Model | str | Path = DEFAULT_MODEL,
    device: str = "cpu",
    overwrite: bool = False,
    reporting: Reporting | None = None,
    making: Callable[[int, int], object] = lambda _done, _total: None,
) -> DemoOutcome:
    """Make a clip, click two objects, track them, and compare the masks with the truth.

    Parameters
    ----------
    folder : path
        Where `FILES` are put, all at the end; it is made if it is not there.
    seed, frames, size, scene
        As of `make_clip`.
    model, device
        As of `track`.
    overwrite : bool
        Replace files of an earlier demo.
    reporting : Reporting, optional
        Told how the tracking goes.
    making : callable, optional
        Called with frames done and in all while the clip is made.

    Raises
    ------
    UsageError
        If the clip cannot be made or shows nothing to click.
    OutputError
        If the files exist or cannot be written.
    SurgSam2Error
        As in `track`.
    """
    began = time.perf_counter()
    target = expanded(folder).absolute()
    say = reporting or Reporting()
    with _staging(target, overwrite) as staging:
        if not isinstance(model, Model):
            model = load_model(model, device=device, progress=say.downloading)
        clip = _make_clip(seed, frames, size, scene, making)
        t, labels = choose_objects(clip)
        clicks = click_objects(clip, t, labels)
        with writing(target):
            (staging / POINTS).write_text(points_to_csv(clicks), encoding="utf-8")
        empty = np.broadcast_to(np.uint8(0), clip.labels.shape)
        write_preview(staging / CLIP, _ClipVideo(clip.video), empty)
        made, seconds = _track(staging, model, say)
        number = np.zeros(256, dtype=np.uint8)
        number[labels] = range(1, len(labels) + 1)
        truth = number[clip.labels]
        objects = [
            DemoObject(clip.names[n], c, *scores, (clip.labels == n).any(axis=(1, 2)))
            for n, c, scores in zip(
                labels, clicks, label_scores(made, truth, number[labels]).values(), strict=True
            )
        ]
        _write_sheet(staging / SHEET, made, objects, f"{Path(model.name).name} ({scene}, seed {seed})")
    return DemoOutcome(target, objects, frames, seconds, time.perf_counter() - began)


def choose_objects(clip: SyntheticClip) -> tuple[int, list[int]]:
    """Return the first frame that shows two objects well, and their labels; instruments if there are any.

    Where no frame shows two, it is the first that shows one.

    Raises
    ------
    UsageError
        If no frame shows any.
    """
    tools = [n for n, name in clip.names.items() if name in KINDS]
    for choice in (tools, list(clip.names)):
        for count in range(_OBJECTS, 0, -1):
            for t, frame in enumerate(clip.labels):
                share = np.bincount(frame.ravel(), minlength=256) / frame.size
                seen = [n for n in choice if share[n] >= _SEEN_WELL]
                if len(seen) >= count:
                    return t, sorted(sorted(seen, key=lambda n: -share[n])[:_OBJECTS])
    raise UsageError(
        "No object is seen well in any frame of the clip; choose another --seed, or more --frames."
    )


def click_objects(clip: SyntheticClip, frame: int, labels: Sequence[int]) -> list[Point]:
    """Return one click in the middle of each object on a frame; the object ids are 1, 2, ... in this order.

    Parameters
    ----------
    clip : SyntheticClip
        The clip.
    frame : int
        A frame that shows all of them.
    labels : sequence of int
        Their labels in the clip; `choose_objects` gives both.
    """
    return [
        Point(frame, *central_position(clip.labels[frame] == n), object_id)
        for object_id, n in enumerate(labels, 1)
    ]


class _ClipVideo:
    """Frames (T, Y, X, 3) as `write_preview` asks for them."""

    def __init__(self, frames: npt.NDArray[np.uint8]) -> None:
        self._frames = frames
        self.n_frames, self.height, self.width = frames.shape[:3]
        self.fps: float | None = _FPS

    def frame(self, index: int) -> npt.NDArray[np.uint8]:
        frame: npt.NDArray[np.uint8] = self._frames[index]
        return frame


def _make_clip(
    seed: int, frames: int, size: tuple[int, int], scene: str, making: Callable[[int, int], object]
) -> SyntheticClip:
    made = make_scene(seed, frames, size, scene)
    drawn = []
    for picture in draw_frames(made, frames):
        drawn.append(picture)
        making(len(drawn), frames)
    images, labels = (np.stack(part) for part in zip(*drawn, strict=True))
    return SyntheticClip(images, labels, made.names)


def _track(staging: Path, model: Model, reporting: Reporting) -> tuple[npt.NDArray[np.integer], float]:
    """Track what the files say; return the masks as they were written, and seconds."""
    job = TrackJob(
        video=staging / CLIP,
        prompts=staging / POINTS,
        model=model,
        output=staging / MASKS,
        preview=staging / PREVIEW,
    )
    outcome = run_job(job, reporting)
    return np.stack([np.asarray(frame) for frame in outcome.labels]), outcome.seconds


def _write_sheet(path: Path, masks: npt.NDArray[np.integer], objects: list[DemoObject], what: str) -> None:
    from PIL import Image

    first = objects[0].click.frame
    chosen = np.unique(np.linspace(0, len(masks) - 1, _ON_SHEET).round().astype(int))
    chosen[np.abs(chosen - first).argmin()] = first
    clicks = [(o.click.y, o.click.x, o.click.object_id) for o in objects]
    with open_video(path.with_name(CLIP)) as video:
        height, width = masks.shape[1:]
        frames = [
            SheetFrame(
                video.frame(t)[:height, :width],
                masks[t],
                f"frame {t}",
                {
                    o.click.object_id: _value(o, t, bool((masks[t] == o.click.object_id).any()))
                    for o in objects
                },
                clicks if t == first else (),
            )
            for t in chosen.tolist()
        ]
    legend = {
        o.click.object_id: f"{o.name}: J {o.j.mean():.1%}, F {o.f.mean():.1%}".replace("%", "")
        for o in objects
    }
    mean = float(np.mean([o.j_and_f for o in objects]))
    sheet = contact_sheet(
        frames, f"One click on each object, tracked by {what}: mean J&F {100 * mean:.1f}", legend
    )
    with writing(path):
        Image.fromarray(sheet).save(path)


def _value(item: DemoObject, t: int, masked: bool) -> str:
    return f"J {100 * item.j[t]:.1f}" if masked or item.in_view[t] else "not in view"


@contextmanager
def _staging(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder beside or in `target`; at the end its files are put there, or they go on failure."""
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; the demo needs a folder. Choose another name.")
    if not target.parent.is_dir():
        raise OutputError(f"The folder {target.parent} of {target.name} does not exist; create it first.")
    taken = [name for name in FILES if os.path.lexists(target / name)]
    if taken and not overwrite:
        raise OutputError(
            f"{target} has {', '.join(taken)} already; choose another folder, or replace them with --force "
            "(overwrite=True)."
        )
    if folders := [name for name in taken if (target / name).is_dir()]:
        raise OutputError(f"{target / folders[0]} is a folder, which is not replaced; move it away.")
    # A folder that is there may be on another disk than its parent.
    around = target if target.is_dir() else target.parent
    with made_aside(target, around) as staging:
        with writing(target):
            staging.mkdir()
        yield staging
        with writing(target):
            target.mkdir(exist_ok=True)
            for name in FILES:
                (staging / name).replace(target / name)
