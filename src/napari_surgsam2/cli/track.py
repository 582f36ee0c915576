"""`napari-surgsam2 track`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL
from napari_surgsam2.errors import PromptError, SurgSam2Error, UsageError
from napari_surgsam2.prompts import Mask, load_prompts
from napari_surgsam2.settings import PruningSettings, TrackingSettings

from .arguments import parse_box, parse_frames, parse_masks, parse_point
from .console import InterruptedRunError, error_console, frame_progress, interruption_says

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.pipeline import Reporting, TrackOutcome
    from napari_surgsam2.tracking import FrameResult
    from napari_surgsam2.video import Video


class PrecisionChoice(StrEnum):
    """`--precision`."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class DirectionChoice(StrEnum):
    """`--direction`."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "both"


def track(
    video: Annotated[
        str, typer.Argument(help="Video file, TIFF stack, zarr, or folder of frames.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="masks.tif, masks.zarr, or a folder for palette PNGs.", show_default=False
        ),
    ],
    point: Annotated[
        list[str],
        typer.Option(
            help="A click: FRAME,Y,X[,ID[,+|-]]. Repeatable.", metavar="F,Y,X[,ID[,+|-]]", show_default=False
        ),
    ] = [],
    box: Annotated[
        list[str],
        typer.Option(
            help="A box: FRAME,Y0,X0,Y1,X1[,ID]. Repeatable.",
            metavar="F,Y0,X0,Y1,X1[,ID]",
            show_default=False,
        ),
    ] = [],
    mask: Annotated[
        list[str],
        typer.Option(
            help="A labels image, every value an object: FILE@FRAME. Repeatable.",
            metavar="FILE@FRAME",
            show_default=False,
        ),
    ] = [],
    prompts: Annotated[
        list[Path],
        typer.Option(
            help="CSV that napari saves for Points (features object_id and label), or JSON. Repeatable.",
            show_default=False,
        ),
    ] = [],
    model: Annotated[
        str, typer.Option(help="A name from 'models list', or a .pt, .pth or .safetensors file.")
    ] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the network's input, a multiple of 32; smaller is faster. Default: the model's.",
            show_default=False,
        ),
    ] = None,
    prune_frames: Annotated[
        int, typer.Option(help="Memory slots freed by Efficient Frame Pruning; 0 is plain SAM 2.")
    ] = PruningSettings().prune_frames,
    fill_holes: Annotated[int, typer.Option(help="Fill holes of masks up to this area, in pixels.")] = 0,
    remove_speckles: Annotated[
        int, typer.Option(help="Remove separate pieces of masks up to this area, in pixels.")
    ] = 0,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(help="Arithmetic; auto is bfloat16 on CUDA, float32 elsewhere. bfloat16 may be faster."),
    ] = PrecisionChoice.AUTO,
    direction: Annotated[
        DirectionChoice, typer.Option(help="Which way from the prompts.")
    ] = DirectionChoice.BOTH,
    frames: Annotated[
        str | None,
        typer.Option(
            help="Only frames A up to, not including, B; A: goes to the end.",
            metavar="A:B",
            show_default=False,
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(help="Also write a video with the masks drawn over the frames, such as overlay.mp4."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a summary as JSON on the standard output.")
    ] = False,
) -> None:
    """Track objects through a video and write their masks.

    An example: napari-surgsam2 track clip.mp4 --point 0,120,200 -o masks.tif --preview overlay.mp4
    """
    if not video:
        raise UsageError("The video is ''; give a video file, TIFF stack, zarr, or folder of frames.")
    chosen = [parse_point(text) for text in point] + [parse_box(text) for text in box]
    chosen += [p for text in mask for p in parse_masks(text)]
    chosen += [p for path in prompts for p in load_prompts(path)]
    if not chosen:
        raise PromptError("There are no prompts; give --point, --box, --mask or --prompts.")
    chosen.sort(key=lambda prompt: not isinstance(prompt, Mask))  # clicks and boxes refine a mask
    # torch takes seconds to import: mistakes on the command line are told before
    from napari_surgsam2.masks import AlreadyCompleteError, refuse_to_replace

    for target in (output, preview):
        refuse_to_replace([video, *(text.rpartition("@")[0] for text in mask), *prompts], target)
    settings = TrackingSettings(
        pruning=PruningSettings(prune_frames),
        fill_holes=fill_holes,
        remove_speckles=remove_speckles,
        precision=precision.value,
    )
    from napari_surgsam2.pipeline import TrackJob, run_job

    job = TrackJob(
        video=video,
        prompts=chosen,
        model=model,
        output=output,
        device=device,
        image_size=image_size,
        settings=settings,
        direction=direction.value,
        frames=None if frames is None else parse_frames(frames),
        preview=preview,
        overwrite=force,
        resume=resume,
    )
    progress = _RunProgress()
    try:
        with (
            interruption_says(
                "Stopped at once; the frames that were finished are kept. Go on with the same command and "
                "--resume."
            ),
            frame_progress() as progress.bar,
            _interruptible(progress) as should_stop,
        ):
            outcome = run_job(job, progress.reporting(should_stop))
    except AlreadyCompleteError as done:
        error_console.print(str(done), markup=False, soft_wrap=True)
        if as_json:
            print(json.dumps({"output": str(output.absolute()), "already_complete": True}))  # noqa: T201
        return
    summary = progress.summary(outcome)
    if as_json:
        print(json.dumps(summary, indent=2))  # noqa: T201
    _tell(summary, outcome)


class _RunProgress:
    """Shows how a run goes, and remembers what its summary needs."""

    bar: Progress

    def __init__(self) -> None:
        self.is_tracking = False  # between the first and the last frame
        self._task: TaskID | None = None
        self._download: TaskID | None = None
        self._drawing: TaskID | None = None
        self._facts: dict[str, Any] = {}

    def reporting(self, should_stop: Callable[[], bool]) -> Reporting:
        from napari_surgsam2.pipeline import Reporting

        return Reporting(
            opened=self._on_opened,
            downloading=self._on_downloading,
            loaded=self._on_loaded,
            tracked=self._on_tracked,
            drawn=self._on_drawn,
            should_stop=should_stop,
        )

    def _on_opened(self, video: Video) -> None:
        self._facts["video"] = {"name": video.name, "shape": list(video.shape), "notes": list(video.notes)}
        for note in video.notes:
            error_console.print(f"Note: {note}", markup=False, soft_wrap=True)

    def _on_downloading(self, done: int, total: int | None) -> None:
        if self._download is None:
            self._download = self.bar.add_task("Downloading (MB)", total=None)
        mega = 1_000_000
        self.bar.update(
            self._download, completed=done // mega, total=None if total is None else total // mega
        )

    def _on_loaded(self, model: Model) -> None:
        size = f"{model.image_size} pixels"
        self._facts |= {"model": model.name, "image_size": model.image_size, "device": str(model.device)}
        if self._download is not None:
            self.bar.remove_task(self._download)
        error_console.print(f"Model {model.name} at {size} on {model.device}", markup=False, soft_wrap=True)

    def _on_tracked(self, _: FrameResult, done: int, total: int) -> None:
        self.is_tracking = done < total
        if self._task is None:
            self._task = self.bar.add_task("Tracking", total=total, completed=done - 1)
        self.bar.update(self._task, completed=done, total=total)

    def _on_drawn(self, done: int, total: int) -> None:
        if self._drawing is None:
            self._drawing = self.bar.add_task("Drawing the preview", total=total)
        self.bar.update(self._drawing, completed=done)

    def summary(self, outcome: TrackOutcome) -> dict[str, Any]:
        """Return what `--json` prints."""
        speed = outcome.frames_tracked / outcome.seconds if outcome.seconds else None
        return {
            "output": str(outcome.output),
            "preview": None if outcome.preview is None else str(outcome.preview),
            **self._facts,
            "frames_tracked": outcome.frames_tracked,
            "seconds": round(outcome.seconds, 3),
            "frames_per_second": None if speed is None else round(speed, 3),
            "objects": [{"id": i, "frames_present": n} for i, n in outcome.frames_present.items()],
        }


def _tell(summary: dict[str, Any], outcome: TrackOutcome) -> None:
    speed = summary["frames_per_second"]
    rate = "" if speed is None else f" in {outcome.seconds:.1f} s ({speed:.2f} frames/s)"
    lines = [f"Tracked {outcome.frames_tracked} frames{rate}"]
    lines += [f"  object {o['id']}: present in {o['frames_present']} frames" for o in summary["objects"]]
    lines.append(f"Masks: {outcome.output}")
    if outcome.preview is not None:
        lines.append(f"Preview: {outcome.preview}")
    error_console.print("\n".join(lines), markup=False, soft_wrap=True)


@contextmanager
def _interruptible(progress: _RunProgress) -> Iterator[Callable[[], bool]]:
    """Let Ctrl+C (and SIGTERM) end the tracking after the frame under way, and all else at once.

    A second one ends the tracking at once, too.
    """
    asked = False

    def stop(signum: int, _: object) -> None:
        nonlocal asked
        again, asked = asked, True
        if again or not progress.is_tracking:
            raise KeyboardInterrupt
        error_console.print("Stopping after this frame; press Ctrl+C again to stop at once.")

    # What runs in the background of a script ignores Ctrl+C, and goes on doing so.
    signals = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = [signal.signal(s, stop) for s in signals]
    try:
        yield lambda: asked
    except SurgSam2Error as error:
        if asked and error.exit_code != InterruptedRunError.exit_code:
            raise KeyboardInterrupt from error  # some libraries turn it into an error of their own
        raise
    finally:
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)
