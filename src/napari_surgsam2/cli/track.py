"""`napari-surgsam2 track`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_surgsam2.errors import PromptError, UsageError
from napari_surgsam2.project import Project, load_project
from napari_surgsam2.prompts import Mask, Prompt, load_prompts
from napari_surgsam2.settings import TrackingSettings

from . import track_options as options
from .arguments import parse_box, parse_frames, parse_masks, parse_point
from .console import error_console, frame_progress, interruption_says
from .progress import RunProgress, interruptible

if TYPE_CHECKING:
    from napari_surgsam2.pipeline import TrackOutcome


def track(
    output: options.Output,
    video: options.Video = None,
    project: options.ProjectFile = None,
    point: options.Points = [],
    box: options.Boxes = [],
    mask: options.Masks = [],
    prompts: options.PromptFiles = [],
    model: options.ModelName = None,
    device: options.Device = "auto",
    image_size: options.ImageSize = None,
    prune_frames: options.PruneFrames = None,
    fill_holes: options.FillHoles = None,
    remove_speckles: options.RemoveSpeckles = None,
    precision: options.Precision = None,
    direction: options.TrackingDirection = None,
    frames: options.Frames = None,
    preview: options.Preview = None,
    force: options.Force = False,
    resume: options.Resume = False,
    as_json: options.AsJson = False,
) -> None:
    """Track objects through a video and write their masks.

    An example: napari-surgsam2 track clip.mp4 --point 0,120,200 -o masks.tif --preview overlay.mp4
    """
    base = _project(project, video)
    chosen = _chosen_prompts(base, point, box, mask, prompts)
    settings = _changed_settings(base.settings, prune_frames, fill_holes, remove_speckles, precision)
    inputs = [video or base.video, project, *(text.rpartition("@")[0] for text in mask), *prompts]
    # torch takes seconds to import: mistakes on the command line are told before
    _refuse_inputs(inputs, (output, preview))
    given = _given(
        model=model,
        image_size=image_size,
        direction=None if direction is None else direction.value,
        frames=None if frames is None else parse_frames(frames),
    )
    _run(
        base,
        lambda: _source(base, video, project),
        output,
        as_json,
        prompts=chosen,
        settings=settings,
        device=device,
        preview=preview,
        overwrite=force,
        resume=resume,
        **given,
    )


def _project(file: Path | None, video: str | None) -> Project:
    """Return the project, an empty one if there is none; a video must be given then."""
    if video == "" or (video is None and file is None):
        said = "There is no video" if video is None else "The video is ''"
        raise UsageError(f"{said}; give a video file, TIFF stack, zarr, or folder of frames, or --project.")
    return Project() if file is None else load_project(file)


def _refuse_inputs(inputs: Iterable[str | Path | None], targets: Iterable[str | Path | None]) -> None:
    """Raise UsageError if an output would take the place of an input."""
    from napari_surgsam2.masks import refuse_to_replace

    given = [path for path in inputs if path is not None]
    for target in targets:
        refuse_to_replace(given, target)


def _run(
    project: Project,
    opening: Callable[[], AbstractContextManager[Any]],
    output: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Track the video that `opening` returns, showing how it goes, and tell what came out.

    `values` are attributes of `TrackJob` that are not the project's.
    """
    from napari_surgsam2.masks import AlreadyCompleteError
    from napari_surgsam2.pipeline import run_job

    progress = RunProgress()
    try:
        with (
            interruption_says(
                "Stopped at once; the frames that were finished are kept. Go on with the same command and "
                "--resume."
            ),
            frame_progress() as progress.bar,
            interruptible(lambda: progress.is_tracking) as should_stop,
            opening() as source,
        ):
            job = project.job(output, video=source, **values)
            outcome = run_job(job, progress.reporting(should_stop))
    except AlreadyCompleteError as done:
        error_console.print(str(done), markup=False, soft_wrap=True)
        if as_json:
            print(json.dumps({"output": str(Path(output).absolute()), "already_complete": True}))  # noqa: T201
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
    precision: options.PrecisionChoice | None,
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
