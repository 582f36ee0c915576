"""`napari-surgsam2 demo`."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL

from .console import error_console, frame_progress, interruption_says, print_table
from .progress import RunProgress, interruptible

if TYPE_CHECKING:
    from rich.progress import TaskID

    from napari_surgsam2.demo import DemoOutcome


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("surgsam2-demo"),
    seed: Annotated[int, typer.Option(help="Which clip; every number from 0 on makes another.")] = 3,
    frames: Annotated[int, typer.Option(help="Length of the clip.")] = 60,
    scene: Annotated[
        str,
        typer.Option(
            help="laparoscopy, teamwork, cavity, abdomen, depths, robotic, closeup, reflections, "
            "things, microscopy or ultrasound."
        ),
    ] = "laparoscopy",
    model: Annotated[str, typer.Option(help="A name from 'models list', or a file.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    force: Annotated[
        bool, typer.Option("--force", "--overwrite", help="Replace the files of an earlier demo.")
    ] = False,
) -> None:
    """Try everything on a made-up clip whose true masks are known.

    Two objects are clicked once each and tracked; what is printed is how well.
    """
    from napari_surgsam2.demo import run_demo

    progress = RunProgress()
    with (
        interruption_says("Stopped; nothing of the demo was kept."),
        frame_progress() as progress.bar,
        interruptible(lambda: False),
    ):
        task: TaskID | None = None

        def show(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = progress.bar.add_task("Making the clip", total=total)
            progress.bar.update(task, completed=done)

        outcome = run_demo(
            folder,
            seed=seed,
            frames=frames,
            scene=scene,
            model=model,
            device=device,
            overwrite=force,
            reporting=progress.reporting(lambda: False),
            making=show,
        )
    _tell(folder, outcome)


def _tell(folder: Path, outcome: DemoOutcome) -> None:
    from napari_surgsam2.demo import CLIP, MASKS, POINTS, PREVIEW, SHEET

    table = Table("object", "", "J", "F", "J&F", box=None, pad_edge=False)
    for o in outcome.objects:
        scores = (o.j.mean(), o.f.mean(), o.j_and_f)
        table.add_row(str(o.click.object_id), o.name, *(f"{100 * s:.1f}" for s in scores))
    table.add_row("mean", "", "", "", f"{100 * outcome.j_and_f:.1f}")
    print_table(table)
    speeds = [outcome.frames / s for s in (outcome.tracking_seconds, outcome.seconds)]
    lines = [
        f"Tracked {outcome.frames} frames in {outcome.tracking_seconds:.1f} s ({speeds[0]:.2f} frames/s); "
        f"with the clip, the files and the scores it took {outcome.seconds:.1f} s ({speeds[1]:.2f} frames/s)",
        f"Look at:  {folder / SHEET}",
        f"          {folder / PREVIEW}",
        f"Masks:    {folder / MASKS}",
        f"Clicks:   {folder / POINTS}",
        f"Clip:     {folder / CLIP}",
        "Next:     "
        + _command_line(
            [
                "napari-surgsam2",
                "track",
                str(folder / CLIP),
                "--prompts",
                str(folder / POINTS),
                "-o",
                "masks.tif",
            ]
        ),
    ]
    error_console.print(Text("\n".join(lines)), soft_wrap=True)


def _command_line(words: list[str]) -> str:
    """Return a command as it is typed: Windows has quotes of its own."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
