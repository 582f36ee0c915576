"""`napari-surgsam2 score`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL
from napari_surgsam2.errors import UsageError
from napari_surgsam2.settings import PruningSettings, TrackingSettings

from .console import frame_progress, interruption_says, print_table
from .progress import DownloadBar
from .track_options import PrecisionChoice

if TYPE_CHECKING:
    from napari_surgsam2.training.validation import VideoScore


def score(
    model: Annotated[str, typer.Argument(help="A name or file.")] = DEFAULT_MODEL,
    scene: Annotated[
        str,
        typer.Option(
            help="laparoscopy, teamwork, cavity, abdomen, depths, robotic, closeup, reflections, "
            "things, microscopy or ultrasound."
        ),
    ] = "laparoscopy",
    clips: Annotated[int, typer.Option(help="How many made-up clips.", min=1)] = 20,
    frames: Annotated[int, typer.Option(help="Length of each.", min=1)] = 60,
    seed: Annotated[
        int, typer.Option(help="The first clip's seed; the others have the next ones.", min=0)
    ] = 0,
    size: Annotated[str, typer.Option(help="Height and width.", metavar="YxX")] = "512x640",
    corrections: Annotated[
        int, typer.Option(help="Clicks on each object's worst frames, after the first.", min=0)
    ] = 0,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input in pixels.")] = None,
    prune_frames: Annotated[int, typer.Option(help="Memory slots freed by frame pruning.", min=0)] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        PrecisionChoice,
        typer.Option(help="Arithmetic; auto is bfloat16 where that is fast, float32 elsewhere."),
    ] = PrecisionChoice.AUTO,
) -> None:
    """Track made-up clips from one click on each object, and score the masks against the exact truth."""
    height, x, width = size.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise UsageError(f"The size is '{size}'; it must be height and width, such as 512x640.")
    from napari_surgsam2.checkpoints import load_model
    from napari_surgsam2.training.synthetic import SyntheticClips
    from napari_surgsam2.training.validation import score_videos

    source = SyntheticClips([scene], seed, clips, frames, (int(height), int(width)))
    settings = TrackingSettings(pruning=PruningSettings(prune_frames=prune_frames), precision=precision.value)
    scores: list[VideoScore] = []
    with frame_progress() as bar, interruption_says("Stopped before all clips were scored."):
        download = DownloadBar(bar)
        loaded = load_model(model, image_size=image_size, device=device, progress=download)
        download.end()
        task = bar.add_task("Clips", total=clips)
        for one in score_videos(loaded, source.validation_videos(), settings, corrections):
            scores.append(one)
            bar.update(task, advance=1)
    table = Table("clip", "objects", "J", "F", "J&F", "J where clicked", "false positives", box=None)
    for s in [*scores, _mean(scores)]:
        numbers = (s.j, s.f, s.j_and_f, s.first_j, s.false_positives)
        table.add_row(s.name, str(s.objects), *("-" if n != n else f"{n:.3f}" for n in numbers))
    print_table(table)


def _mean(scores: list[VideoScore]) -> VideoScore:
    """Average over clips; of no clip where nothing is defined."""
    import numpy as np

    from napari_surgsam2.training.validation import VideoScore

    def mean(name: str) -> float:
        values = [v for s in scores if (v := getattr(s, name)) == v]
        return float(np.mean(values)) if values else float("nan")

    parts = (mean(name) for name in ("j", "f", "first_j", "false_positives"))
    return VideoScore("mean", sum(s.objects for s in scores), *parts)
