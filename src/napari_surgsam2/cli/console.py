"""Messages and progress, all on the standard error stream, and tables on the standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from napari_surgsam2.errors import SurgSam2Error

error_console = Console(stderr=True, highlight=False, emoji=False)


class InterruptedRunError(SurgSam2Error):
    """The user stopped a command."""

    exit_code = 130


@contextmanager
def interruption_says(message: str | Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl+C into an error with a message, or with what a function says then."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(message if isinstance(message, str) else message()) from None


def print_table(table: Table) -> None:
    """Print a table on the standard output; a pipe, which has no width, gets every row on one line."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 400
    console.print(table)


class _Progress(Progress):
    """Bars that begin to show with the first task, so that nothing is printed where there is none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live.is_started:
            self.stop()

    def add_task(self, *args: Any, **kwargs: Any) -> TaskID:
        task = super().add_task(*args, **kwargs)
        self.start()
        return task


class FramesPerSecond(ProgressColumn):
    """Frames done in a second, over the last ones."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} frames/s", style="progress.data.speed")


def frame_progress() -> Progress:
    """Return a bar that counts frames, with frames/s and time left."""
    return _Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        FramesPerSecond(),
        TimeRemainingColumn(),
        console=error_console,
    )


def step_progress() -> Progress:
    """Return a bar that counts steps, with the time left."""
    return _Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=error_console,
    )


def download_progress() -> Progress:
    """Return a bar that counts bytes."""
    return _Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=error_console,
    )
