"""`napari-surgsam2 models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_surgsam2.checkpoints.download import is_there
from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL, cache_folder, registry, registry_entry

from .console import download_progress, error_console, interruption_says, print_table

if TYPE_CHECKING:
    from napari_surgsam2.checkpoints import RegistryEntry

app = typer.Typer(help="List, download and check models.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A name from 'models list'.", show_default=False)]


@app.command("list")
def list_models() -> None:
    """List the models known by name."""
    table = Table("name", "", "size", "input", "what it is", box=None, pad_edge=False)
    for entry in registry().values():
        here = "built in" if entry.built_in else "downloaded" if is_there(entry) else ""
        default = " (default)" if entry.name == DEFAULT_MODEL else ""
        table.add_row(entry.name + default, here, _size(entry), f"{entry.image_size} px", entry.about)
    print_table(table)
    error_console.print(f"Downloaded models are kept in {cache_folder()}", markup=False, soft_wrap=True)


@app.command()
def info(name: Name) -> None:
    """Tell what is known of a model."""
    entry = registry_entry(name)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("name", entry.name)
    table.add_row("what it is", entry.about)
    table.add_row("input", f"{entry.image_size} pixels (any multiple of 32 can be chosen)")
    table.add_row("size", _size(entry))
    if entry.url is not None:
        table.add_row("SHA-256", entry.sha256 or "not published; that of the first download is kept")
        table.add_row("address", entry.url)
    table.add_row("file", str(entry.path))
    here = "built in" if entry.built_in else "yes" if is_there(entry) else "no"
    table.add_row("downloaded", here)
    print_table(table)


@app.command()
def download(name: Name) -> None:
    """Download a model, if it is not there yet."""
    from napari_surgsam2.checkpoints import ensure_downloaded

    entry = registry_entry(name)
    if entry.built_in:
        error_console.print(
            f"{name} is built in, at {ensure_downloaded(entry)}; there is nothing to download",
            markup=False,
            soft_wrap=True,
        )
        return
    with download_progress() as bar, interruption_says(f"Stopped; nothing of {name} was kept."):
        task = bar.add_task(name, total=entry.bytes)
        path = ensure_downloaded(entry, lambda done, total: bar.update(task, completed=done, total=total))
        bar.update(task, completed=path.stat().st_size, total=path.stat().st_size)
    error_console.print(f"{name} is at {path}", markup=False, soft_wrap=True)


@app.command()
def verify(name: Name) -> None:
    """Check a model against its SHA-256."""
    from napari_surgsam2.checkpoints import verify as verify_file

    entry = registry_entry(name)
    digest = verify_file(entry)
    known = "its SHA-256 is not known" if digest is None else f"SHA-256 {digest} is right"
    known = f"built in; {known}" if entry.built_in else known
    error_console.print(f"{entry.path}: {known}", markup=False, soft_wrap=True)


def _size(entry: RegistryEntry) -> str:
    size = entry.path.stat().st_size if entry.built_in and is_there(entry) else entry.bytes
    return "not known" if size is None else f"{size / 1e6:.0f} MB"
