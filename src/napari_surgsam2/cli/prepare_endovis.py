"""`napari-surgsam2 prepare-endovis`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_surgsam2.errors import UsageError

from .console import error_console, interruption_says, print_table, step_progress

if TYPE_CHECKING:
    from rich.progress import TaskID


def prepare_endovis(
    sources: Annotated[
        list[Path], typer.Argument(help="The challenge's downloads: folders, zips or tars, all of them.")
    ],
    year: Annotated[int, typer.Option(help="2017 or 2018.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where VOS-Endovis17 or VOS-Endovis18 is to be.")
    ] = Path("datasets"),
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="The archive that Surgical SAM 2's authors publish; only pictures are added to it.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="surgsam2, or of 2017 fold0 to fold3.", show_default="surgsam2"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing data set.")] = False,
) -> None:
    """Make a VOS data set from the EndoVis 2017 or 2018 instrument data, which the challenges give out."""
    if split is not None and annotations is not None:
        raise UsageError("The annotations have a split of their own; leave --split or --annotations out.")
    from napari_surgsam2.endovis import prepare_endovis as prepare

    tasks: dict[str, TaskID] = {}
    with step_progress() as bar, interruption_says("Stopped; nothing was written."):

        def on_progress(video: str, done: int, total: int) -> None:
            if video not in tasks:
                tasks[video] = bar.add_task(video, total=total)
            bar.update(tasks[video], completed=done)

        report = prepare(
            sources,
            output,
            year,
            annotations=annotations,
            split=split or "surgsam2",
            overwrite=force,
            progress=on_progress,
        )
    table = Table("split", "video", "frames", "objects", "no picture", "no annotation", box=None)
    for video in report.videos:
        objects = "-" if annotations is not None else str(video.objects)
        counts = (str(video.frames), objects, str(video.without_picture), str(video.without_annotation))
        table.add_row(video.split, video.name, *counts)
    print_table(table)
    lines = [f"Skipped: {text}." for text in report.skipped]
    error_console.print("\n".join([*lines, f"Data set: {report.output}"]), markup=False, soft_wrap=True)
