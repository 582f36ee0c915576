"""`napari-surgsam2 vos`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL
from napari_surgsam2.settings import PruningSettings, TrackingSettings

from .console import error_console, frame_progress, interruption_says, print_table
from .evaluate import print_scores, score_all
from .progress import DownloadBar, interruptible
from .track_options import PrecisionChoice

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.evaluation.vos import VosOutcome
    from napari_surgsam2.tracking import FrameResult


def vos(
    video_dir: Annotated[Path, typer.Option(help="JPEGImages: a folder of pictures per video.")],
    mask_dir: Annotated[Path, typer.Option(help="Annotations: a folder of PNGs per video.")],
    output_dir: Annotated[Path, typer.Option(help="Gets a folder of palette PNGs per video.")],
    gt_root: Annotated[
        Path | None, typer.Option(help="Ground truth to score against, a folder of PNGs per video.")
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="What is given of each object, drawn from its first mask.", metavar="mask|box|points:N"
        ),
    ] = "mask",
    video_list: Annotated[
        Path | None, typer.Option(help="A text file with the names of the videos to take.", metavar="FILE")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A name from 'models list', or a .pt, .pth or .safetensors file.")
    ] = DEFAULT_MODEL,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the network's input. Default: the model's.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    prune_frames: Annotated[
        int,
        typer.Option(help="Memory slots freed by Efficient Frame Pruning; 0 for none, as SAM 2."),
    ] = PruningSettings().prune_frames,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(help="Arithmetic; auto is bfloat16 where that is fast, float32 elsewhere."),
    ] = PrecisionChoice.AUTO,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Score the first and last frames too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Make existing results anew.")] = False,
) -> None:
    """Segment every video of a VOS data set from the first masks of its objects, and score the result.

    Results that are there already are left as they are; after an interruption the same command, without
    --force, goes on.
    """
    settings = TrackingSettings(pruning=PruningSettings(prune_frames=prune_frames), precision=precision.value)
    from napari_surgsam2.evaluation import pair_labels
    from napari_surgsam2.evaluation.pairs import require_videos
    from napari_surgsam2.evaluation.vos import VosJob, VosReporting, run_vos
    from napari_surgsam2.evaluation.vos_prompts import PromptKind
    from napari_surgsam2.masks import refuse_to_replace

    if gt_root is not None:
        refuse_to_replace([gt_root], output_dir)
    job = VosJob(
        video_dir=video_dir,
        mask_dir=mask_dir,
        output_dir=output_dir,
        prompt=PromptKind.parse(prompt),
        videos=video_list,
        model=model,
        device=device,
        image_size=image_size,
        settings=settings,
        overwrite=force,
    )
    progress = _VosProgress()

    def on_found(names: Sequence[str]) -> None:
        if gt_root is not None:
            require_videos(gt_root, names)
        progress.on_found(names)

    def stopped() -> str:
        again = ", without --force" if force and progress.has_begun else ""
        return f"Stopped at once; what is done is kept. Go on with the same command{again}."

    with (
        interruption_says(stopped),
        frame_progress() as progress.bar,
        interruptible(lambda: progress.is_tracking) as should_stop,
    ):
        reporting = VosReporting(
            found=on_found,
            downloading=progress.on_downloading,
            loaded=progress.on_loaded,
            tracked=progress.on_tracked,
            should_stop=should_stop,
        )
        outcomes: list[VosOutcome] = []
        for outcome in run_vos(job, reporting):
            outcomes.append(outcome)
            progress.on_done(outcome)
    if gt_root is None:
        _print_speeds(outcomes)
        return
    pairs = pair_labels(output_dir, gt_root, [outcome.name for outcome in outcomes])
    videos = score_all(pairs, all_frames, no_void=False, classes=None)
    print_scores(videos, {outcome.name: outcome.frames_per_second for outcome in outcomes})


class _VosProgress:
    """Shows how a run goes: a bar for the videos, and one for the frames of the one under way."""

    bar: Progress

    def __init__(self) -> None:
        self.is_tracking = False
        self.has_begun = False
        self._videos: list[str] = []
        self._frames: TaskID | None = None
        self._download: DownloadBar | None = None

    def on_found(self, names: Sequence[str]) -> None:
        self._videos = list(names)

    def on_downloading(self, done: int, total: int | None) -> None:
        if self._download is None:
            self._download = DownloadBar(self.bar)
        self._download(done, total)

    def on_loaded(self, model: Model) -> None:
        self.has_begun = True
        if self._download is not None:
            self._download.end()
        text = f"Model {model.name} at {model.image_size} pixels on {model.device}"
        error_console.print(text, markup=False, soft_wrap=True)

    def on_tracked(self, name: str, _: FrameResult, done: int, total: int) -> None:
        self.is_tracking = done < total
        if self._frames is None:
            place = f"{name} ({self._videos.index(name) + 1} of {len(self._videos)})"
            self._frames = self.bar.add_task(place, total=total, completed=done - 1)
        self.bar.update(self._frames, completed=done, total=total)

    def on_done(self, outcome: VosOutcome) -> None:
        if self._frames is not None:
            self.bar.remove_task(self._frames)
            self._frames = None
        how = f"{outcome.frames} frames" if outcome.object_ids else "no objects, so all is background"
        how = "there already" if outcome.skipped else how
        error_console.print(f"{outcome.name}: {how}", markup=False, soft_wrap=True)


def _print_speeds(outcomes: Sequence[VosOutcome]) -> None:
    table = Table("video", "frames", "objects", "frames/s", box=None)
    for one in outcomes:
        speed = "-" if one.frames_per_second is None else f"{one.frames_per_second:.2f}"
        table.add_row(one.name, str(one.frames), "-" if one.skipped else str(len(one.object_ids)), speed)
    print_table(table)
