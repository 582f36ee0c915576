"""`napari-surgsam2 track`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL
from napari_surgsam2.errors import PromptError, UsageError
from napari_surgsam2.project import Project, load_project
from napari_surgsam2.prompts import Mask, Prompt, load_prompts
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
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="masks.tif, masks.zarr, masks.json (COCO), or a folder for palette PNGs.",
            show_default=False,
        ),
    ],
    video: Annotated[
        str | None,
        typer.Argument(
            help="Video file, TIFF stack, zarr, or folder of frames. A project's own if left out.",
            show_default=False,
        ),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            help="A .surgsam2.json with video, prompts and settings; options given here win over it.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
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
            help="CSV that napari saves for Points (features object_id and label), JSON or a project. "
            "Repeatable.",
            show_default=False,
        ),
    ] = [],
    model: Annotated[
        str | None,
        typer.Option(
            help="A name from 'models list', or a .pt, .pth or .safetensors file.", show_default=DEFAULT_MODEL
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the network's input, a multiple of 32; smaller is faster. Default: the model's.",
            show_default=False,
        ),
    ] = None,
    prune_frames: Annotated[
        int | None,
        typer.Option(
            help="Memory slots freed by Efficient Frame Pruning; 0 for none, as SAM 2.",
            show_default=str(PruningSettings().prune_frames),
        ),
    ] = None,
    fill_holes: Annotated[
        int | None,
        typer.Option(help="Fill holes of masks up to this area, in pixels.", show_default="0"),
    ] = None,
    remove_speckles: Annotated[
        int | None,
        typer.Option(help="Remove separate pieces of masks up to this area, in pixels.", show_default="0"),
    ] = None,
    precision: Annotated[
        PrecisionChoice | None,
        typer.Option(
            help="Arithmetic; auto is bfloat16 where that is fast, float32 elsewhere.",
            show_default="auto",
        ),
    ] = None,
    direction: Annotated[
        DirectionChoice | None,
        typer.Option(
            help="forward: from the earliest prompted frame on; backward: from it to the first frame; both.",
            show_default="both",
        ),
    ] = None,
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
    if video == "" or (video is None and project is None):
        said = "There is no video" if video is None else "The video is ''"
        raise UsageError(f"{said}; give a video file, TIFF stack, zarr, or folder of frames, or --project.")
    base = Project() if project is None else load_project(project)
    chosen = _chosen_prompts(base, point, box, mask, prompts)
    settings = _changed_settings(base.settings, prune_frames, fill_holes, remove_speckles, precision)
    # torch takes seconds to import: mistakes on the command line are told before
    from napari_surgsam2.masks import AlreadyCompleteError, refuse_to_replace

    inputs = [video or base.video, project, *(text.rpartition("@")[0] for text in mask), *prompts]
    for target in (output, preview):
        refuse_to_replace([path for path in inputs if path is not None], target)
    from napari_surgsam2.pipeline import run_job

    given = _given(
        model=model,
        image_size=image_size,
        direction=None if direction is None else direction.value,
        frames=None if frames is None else parse_frames(frames),
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
            _source(base, video, project) as source,
        ):
            job = base.job(
                output,
                video=source,
                prompts=chosen,
                settings=settings,
                device=device,
                preview=preview,
                overwrite=force,
                resume=resume,
                **given,
            )
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


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _chosen_prompts(
    project: Project, points: list[str], boxes: list[str], masks: list[str], files: list[Path]
) -> list[Prompt]:
    """Return a project's prompts and those of the command line, masks first: the others refine them."""
    chosen = [*project.prompts, *map(parse_point, points), *map(parse_box, boxes)]
    chosen += [prompt for text in masks for prompt in parse_masks(text)]
    chosen += [prompt for path in files for prompt in load_prompts(path)]
    if not chosen:
        raise PromptError("There are no prompts; give --point, --box, --mask or --prompts.")
    return sorted(chosen, key=lambda prompt: not isinstance(prompt, Mask))


def _changed_settings(
    settings: TrackingSettings,
    prune_frames: int | None,
    fill_holes: int | None,
    remove_speckles: int | None,
    precision: PrecisionChoice | None,
) -> TrackingSettings:
    """Return settings with the options of the command line."""
    return settings.replace(
        pruning=settings.pruning.replace(**_given(prune_frames=prune_frames)),
        **_given(
            fill_holes=fill_holes,
            remove_speckles=remove_speckles,
            precision=None if precision is None else precision.value,
        ),
    )


def _source(project: Project, video: str | None, file: Path | None) -> AbstractContextManager[Any]:
    """Return what the job's video is: the path, or of a project the video opened as it says."""
    if file is None:
        return contextlib.nullcontext(video)
    if video is not None:  # another than the project was made with, on purpose
        project = dataclasses.replace(project, video=Path(video), shape=None)
    return project.open_video()


def _tell(summary: dict[str, Any], outcome: TrackOutcome) -> None:
    speed = summary["frames_per_second"]
    rate = "" if speed is None else f" in {outcome.seconds:.1f} s ({speed:.2f} frames/s)"
    lines = [f"Tracked {outcome.frames_tracked} frames{rate}"]
    lines += [f"  object {o['id']}: present in {o['frames_present']} frames" for o in summary["objects"]]
    lines.append(f"Masks: {outcome.output}")
    if outcome.preview is not None:
        lines.append(f"Preview: {outcome.preview}")
    error_console.print("\n".join(lines), markup=False, soft_wrap=True)
