"""`napari-surgsam2 track`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL
from napari_surgsam2.errors import PromptError, UsageError
from napari_surgsam2.prompts import Mask, load_prompts
from napari_surgsam2.settings import PruningSettings, TrackingSettings

from .arguments import parse_box, parse_frames, parse_masks, parse_point
from .console import error_console, frame_progress, interruption_says
from .progress import RunProgress, interruptible

if TYPE_CHECKING:
    from napari_surgsam2.pipeline import TrackOutcome


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
    progress = RunProgress()
    try:
        with (
            interruption_says(
                "Stopped at once; the frames that were finished are kept. Go on with the same command and "
                "--resume."
            ),
            frame_progress() as progress.bar,
            interruptible(lambda: progress.is_tracking) as should_stop,
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


def _tell(summary: dict[str, Any], outcome: TrackOutcome) -> None:
    speed = summary["frames_per_second"]
    rate = "" if speed is None else f" in {outcome.seconds:.1f} s ({speed:.2f} frames/s)"
    lines = [f"Tracked {outcome.frames_tracked} frames{rate}"]
    lines += [f"  object {o['id']}: present in {o['frames_present']} frames" for o in summary["objects"]]
    lines.append(f"Masks: {outcome.output}")
    if outcome.preview is not None:
        lines.append(f"Preview: {outcome.preview}")
    error_console.print("\n".join(lines), markup=False, soft_wrap=True)
