"""The command line: arguments, progress and messages; everything else is done by the library."""

from __future__ import annotations

import io
import logging
import sys
from typing import NoReturn

import typer
from rich.markup import escape

from napari_surgsam2.errors import SurgSam2Error

from . import batch, bench, demo, evaluate, models, prepare_endovis, score, track, train, vos
from .console import error_console

app = typer.Typer(
    name="napari-surgsam2",
    help="Click an object once and get its mask in every frame of a video: SAM 2 with frame pruning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="demo")(demo.demo)
app.command(name="track")(track.track)
app.command(name="batch")(batch.batch)
app.command(name="train")(train.train)
app.command(name="score")(score.score)
app.command(name="vos")(vos.vos)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="prepare-endovis")(prepare_endovis.prepare_endovis)
app.command(name="bench")(bench.bench)
app.add_typer(models.app, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        from napari_surgsam2 import __version__

        print(__version__)  # noqa: T201
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; leave with 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # what tifffile logs of damaged files is said in notes and errors of our own
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be in its code page
    try:
        app()
    except SurgSam2Error as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # of files that are only looked for, or a disk that is away
        _fail(_of_system(error), 1)
    except MemoryError as error:
        _fail(f"There is not enough memory ({error}); use a smaller video, model or image size.", 1)


def _of_system(error: OSError) -> str:
    """Say what the operating system complains of; it does not always name the file."""
    name = "" if error.filename is None else f"'{error.filename}': "
    return (
        f"{name}{error.strerror or error}. Check the path, that its disk is there, and that you may read and "
        "write there; then give the same command again."
    )


def _fail(message: str, exit_code: int) -> NoReturn:
    error_console.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(exit_code)
