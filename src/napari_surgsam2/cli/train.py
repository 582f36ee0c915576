"""`napari-surgsam2 train`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from napari_surgsam2.errors import OutputError, UsageError

from .console import InterruptedRunError, error_console, interruption_says, step_progress
from .progress import DownloadBar, interruptible

if TYPE_CHECKING:
    from napari_surgsam2.training import StepReport

_EXAMPLES = files("napari_surgsam2").joinpath("training/examples")  # naming training would start torch


def train(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file that says what to train, and on what.")
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            help="Print a commented example to start from; 'list' says which there are.", metavar="NAME"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write the example to this file; one that exists is kept.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Train a network, or fine-tune one on data of your own.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    if example is not None and output is not None:
        _write(output, _example(example))
        return
    if output is not None:
        raise UsageError("-o is for an example; give --example NAME too, or set output in the settings file.")
    if example is not None:
        print(_example(example), end="")  # noqa: T201
        return
    if config is None:
        raise UsageError("No settings file is given; see 'napari-surgsam2 train --example list'.")
    from napari_surgsam2.training import TrainingRun, load_settings

    settings = load_settings(config)
    training = False
    with (
        interruption_says("Stopped; give the same command to go on from the last checkpoint."),
        step_progress() as bar,
        interruptible(lambda: training, "step") as should_stop,
    ):
        pools = bar.add_task("Making clips", total=None, visible=False)
        download = DownloadBar(bar)
        run = TrainingRun(
            settings,
            lambda n, total: bar.update(pools, completed=n, total=total, visible=n < total),
            downloading=download,
        )
        download.end()
        for line in run.data:
            error_console.print(line, markup=False, soft_wrap=True)
        if run.step and run.is_first_process:
            error_console.print(f"Going on from step {run.step}.", markup=False)
        task = bar.add_task(
            "Training", total=settings.run.steps, completed=run.step, visible=run.is_first_process
        )
        training = True
        for report in run.steps(should_stop):
            if not run.is_first_process:
                continue
            bar.update(task, completed=report.step)
            error_console.print(_line(report), markup=False, highlight=False, soft_wrap=True)
    if not run.is_finished:
        raise InterruptedRunError(f"Stopped after step {run.step}; give the same command to go on.")
    if run.is_first_process:
        error_console.print(f"The model is at {escape(str(run.folder / run.MODEL))}", soft_wrap=True)


def _example(name: str) -> str:
    names = sorted(f.name.removesuffix(".toml") for f in _EXAMPLES.iterdir() if f.name.endswith(".toml"))
    if name == "list":
        return "\n".join(names) + "\n"
    if name not in names:
        raise UsageError(f"There is no example '{name}'; there are: {', '.join(names)}.")
    return _EXAMPLES.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    """Write a new file."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputError(f"'{path}' exists already, and is kept; choose another name.") from error
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error.strerror}; choose another place.") from error


def _line(report: StepReport) -> str:
    """Say how it goes, in a line."""
    validation = f"validation J&F {report.j_and_f:.3f} on {len(report.scores or ())} videos"
    if not report.has_steps:
        return f"step {report.step}: {validation}"
    ious = f"IoU {report.first_iou:.3f} first"
    if report.later_iou == report.later_iou:
        ious += f", {report.later_iou:.3f} later"
    line = f"step {report.step}: loss {report.loss:.3f}, {ious}, {report.seconds:.2f} s a step"
    if report.scores:
        line += f"; {validation}"
    return line
