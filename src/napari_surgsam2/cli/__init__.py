"""The command line: arguments, progress and messages; everything else is done by the library."""

from __future__ import annotations

import sys

import typer

from napari_surgsam2.errors import SurgSam2Error

from . import bench, models, track
from .console import error_console

app = typer.Typer(
    name="napari-surgsam2",
    help="Click an object once and get its mask in every frame of a video: SAM 2 with frame pruning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="track")(track.track)
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
    try:
        app()
    except SurgSam2Error as error:
        error_console.print(f"[bold red]Error:[/] {_escaped(error)}", soft_wrap=True)
        sys.exit(error.exit_code)


def _escaped(error: SurgSam2Error) -> str:
    from rich.markup import escape

    return escape(str(error))
