"""`napari-surgsam2 batch`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_surgsam2.errors import UsageError

from .console import InterruptedRunError, error_console, interruption_says, print_table, step_progress
from .progress import interruptible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from napari_surgsam2.batch import BatchReport, Job, JobEvent


class FormatChoice(StrEnum):
    """`--format`."""

    TIF = "tif"
    ZARR = "zarr"
    DAVIS = "davis"
    COCO = "coco"


_NOT_BEGUN = "Stopped before anything was begun; start again with the same command."


def batch(
    jobs: Annotated[
        Path,
        typer.Argument(
            help="A .csv or .json table of jobs, or a folder with .surgsam2.json projects.",
            show_default=False,
        ),
    ],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where outputs go, and what those that the table names are relative to. If left out, they "
            "are relative to the table, and a project's is beside the project; others must be named.",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        FormatChoice | None,
        typer.Option("--format", help="Of outputs that the table does not name.", show_default="tif"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes on this machine. Default: one per GPU, else by cores and memory.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="A dask scheduler that is running, instead of processes on this machine.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            help="How often a job is begun again whose process was lost, or that failed in a way that may "
            "pass.",
            min=0,
        ),
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Do only what is not complete, and go on with what was begun.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="A name or file for all jobs, instead of that in the table or project.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the network's input for all jobs, instead of that in the table or project.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.json and report.html. Default: JOBS-report in --output-dir, else beside "
            "the table.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Track objects through many videos, several at once.

    An example: napari-surgsam2 batch jobs.csv --workers 2
    """
    from napari_surgsam2.batch import ReportNotWrittenError, load_jobs, run_batch
    from napari_surgsam2.batch.cluster import require_distributed

    require_distributed()
    if scheduler is not None and workers is not None:
        raise UsageError("--workers is for this machine, but --scheduler has workers of its own; give one.")
    with interruption_says(_NOT_BEGUN):
        chosen = load_jobs(
            jobs,
            output_dir=output_dir,
            output_format=None if output_format is None else output_format.value,
            model=model,
            image_size=image_size,
        )
    folder = report or _report_folder(jobs, output_dir)
    progress = BatchProgress(chosen)
    again = "--resume in place of --force" if force else "--resume"

    def stopped() -> str:
        if not progress.has_begun:
            return _NOT_BEGUN
        return f"Stopped; what is done is kept. Go on with the same command and {again}."

    with (
        interruption_says(stopped),
        step_progress() as progress.bar,
        interruptible(lambda: progress.is_running) as should_stop,
    ):
        unwritten: ReportNotWrittenError | None = None
        try:
            outcome = run_batch(
                chosen,
                scheduler,
                workers=workers,
                device=device,
                retries=retries,
                resume=resume,
                overwrite=force,
                report=folder,
                on_event=progress.on_event,
                should_stop=should_stop,
            )
        except ReportNotWrittenError as error:
            outcome, unwritten = error.report, error
    _tell(outcome)
    if unwritten is not None:
        raise unwritten
    error_console.print(f"Report: {folder.absolute() / 'report.html'}", markup=False, soft_wrap=True)
    if outcome.stopped:
        raise InterruptedRunError(
            "Stopped before all videos were done; what is done is kept. Go on with the same command and "
            f"{again}."
        )
    if outcome.failed:
        raise typer.Exit(1)


def _report_folder(jobs: Path, output_dir: Path | None) -> Path:
    beside = jobs if jobs.is_dir() else jobs.parent
    return (output_dir or beside) / f"{jobs.resolve().stem}-report"


class BatchProgress:
    """Shows a line for each job under way, and one for all."""

    bar: Progress

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.is_running = False  # a job has begun, and not all are over
        self._total = len(jobs)
        self._over: set[int] = set()
        self._tasks: dict[int, TaskID] = {}
        self._all: TaskID | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything has happened to a job."""
        return self._all is not None

    def on_event(self, event: JobEvent) -> None:
        """Show what happened to a job."""
        if event.message:
            failed = event.status == "failed"
            text = f"{event.name}: {'failed: ' if failed else ''}{event.message}"
            error_console.print(text, markup=False, soft_wrap=True, style="red" if failed else None)
        if event.status in ("done", "failed", "skipped", "stopped"):
            self._over.add(event.index)
        if event.status == "running":
            self.is_running = True
            task = self._tasks.get(event.index)
            if task is None:
                task = self._tasks[event.index] = self.bar.add_task(event.name, total=None)
            self.bar.update(task, completed=event.done, total=event.total or None)
        elif (task := self._tasks.pop(event.index, None)) is not None:
            self.bar.remove_task(task)
        if len(self._over) == self._total:
            self.is_running = False
        if self._all is None:
            self._all = self.bar.add_task("Videos", total=self._total)
        self.bar.update(self._all, completed=len(self._over))


def _tell(report: BatchReport) -> None:
    table = Table("video", "status", "frames", "frames/s", "frames with object", "masks or reason", box=None)
    for result in report.results:
        speed = result.frames_per_second
        table.add_row(
            result.name,
            result.status,
            str(result.frames or ""),
            "" if speed is None else f"{speed:.2f}",
            result.objects(),
            result.output if result.status in ("done", "skipped") else result.reason,
        )
    print_table(table)
