"""Where results go: the format a path asks for, what may be replaced, and putting the result in place."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import made_aside, put_folder, writing
from napari_surgsam2.paths import expanded

from .palette import voc_palette

# The whole end of a project's file name, which must not be taken for masks.
PROJECT_SUFFIX = ".surgsam2.json"

# Put into folders by file managers, unasked.
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
# File systems allow 255 bytes; names of unfinished results are longer than those of the results.
_LONGEST_NAME = 220

_COCO_KEYS = (b"annotations", b"categories", b"images", b"info", b"licenses", b"type", b"videos")


class Format(Enum):
    """What a result is written as."""

    TIFF = "TIFF file"
    ZARR = "zarr array"
    DAVIS = "folder of palette PNGs"
    COCO = "COCO JSON file"
    VIDEO = "video file"
    CSV = "CSV file"

    @property
    def is_folder(self) -> bool:
        """Whether the result is a folder and not one file."""
        return self in (Format.ZARR, Format.DAVIS)


def label_target(path: str | os.PathLike[str]) -> tuple[Path, Format]:
    """Return the absolute path of a label output, and the format that its name asks for.

    Raises
    ------
    UsageError
        If the name asks for none, or is too long.
    """
    text = os.fspath(path)
    target = expanded(text).absolute()
    suffix = target.suffix.lower()
    if target.name in ("", ".."):
        raise UsageError(f"The output {text!r} has no name; give a file or a new folder.")
    if (size := len(os.fsencode(target.name))) > _LONGEST_NAME:
        raise UsageError(
            f"The name of the output '{target.name[:30]}...' takes {size} bytes; it may take {_LONGEST_NAME}."
        )
    # A .zarr is a folder, to which shells like to append a separator.
    if suffix == ".zarr":
        return target, Format.ZARR
    if not suffix or text.endswith(("/", os.sep)):
        return target, Format.DAVIS
    if suffix in (".tif", ".tiff"):
        return target, Format.TIFF
    if target.name.lower().endswith(PROJECT_SUFFIX):
        raise UsageError(
            f"The output {text!r} ends in {PROJECT_SUFFIX!r}, as projects do; masks need another name, such "
            f"as masks.json."
        )
    if suffix == ".json":
        return target, Format.COCO
    raise UsageError(
        f"The output {text!r} ends in {target.suffix!r}; labels are written as .tif or .tiff, as .zarr, "
        f"as .json (COCO), or as a folder of PNGs (a name without a suffix, or ending in {os.sep!r})."
    )


def refuse_to_replace(
    inputs: Iterable[str | os.PathLike[str]], target: str | os.PathLike[str] | None
) -> None:
    """Raise UsageError if an output would take the place of an input, which no option allows.

    Parameters
    ----------
    inputs : iterable of path
        The video and other files that are read; those that do not exist are passed over.
    target : path or None
        The output.
    """
    if target is None:
        return
    output = expanded(target)
    place = output.resolve()
    for path in inputs:
        source = expanded(path)
        same = output.exists() and source.exists() and output.samefile(source)
        if same or (source.exists() and place in (source.resolve(), *source.resolve().parents)):
            raise UsageError(
                f"The output '{target}' is in the place of the input '{path}', which is never replaced; "
                "choose another output."
            )
        if (
            source.is_dir()
            and output.suffix.lower() in (".tif", ".tiff")
            and place.parent == source.resolve()
        ):
            raise UsageError(
                f"The output '{target}' is among the frames in the folder '{path}', and would be taken for "
                "one of them; choose another output."
            )


def is_litter(path: Path) -> bool:
    """Whether a file is of those that file managers put into folders, unasked."""
    named = path.name in _LITTER or path.name.startswith("._")  # as macOS does on foreign disks
    return named and path.is_file() and not path.is_symlink()


def is_taken(path: Path) -> bool:
    """Whether something stands under `path`; an empty folder does not count."""
    return os.path.lexists(path) and not _is_empty_folder(path)


def check_target(path: Path, kind: Format, *, overwrite: bool) -> None:
    """Make sure that `path` may be written.

    Raises
    ------
    OutputError
        If its folder is missing, or it exists and `overwrite` is false or it is something else than `kind`.
    """
    if not path.parent.is_dir():
        raise OutputError(
            f"The folder {path.parent} of the output {path.name} does not exist; create it first."
        )
    if not is_taken(path):
        if path.is_dir() and not kind.is_folder:
            raise OutputError(f"{path} is a folder, but the output is a {kind.value}; choose another name.")
        return
    if not overwrite:
        raise OutputError(
            f"{path} exists already; choose another output, or replace it with --force (overwrite=True)."
        )
    if stranger := _not_of_kind(path, kind):
        raise OutputError(
            f"{path} is not replaced, not even with --force: {stranger}, so it is no {kind.value}. "
            f"Choose another output, or move it away."
        )


def publish(payload: Path, target: Path, kind: Format, *, overwrite: bool, aside: Path | None = None) -> None:
    """Give the complete `payload` its final name, replacing an old result at once.

    An old folder is moved to `aside` first, and back if the new one cannot be moved in. All three must be on
    one file system.

    Raises
    ------
    OutputError
        As `check_target`.
    """
    check_target(target, kind, overwrite=overwrite)
    if not kind.is_folder:
        payload.replace(target)
        return
    if _is_empty_folder(target):
        target.rmdir()
    put_folder(payload, target, aside)


@contextlib.contextmanager
def new_output(path: Path, kind: Format, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; at the end it becomes `path`, or goes on failure."""
    check_target(path, kind, overwrite=overwrite)
    with made_aside(path) as temporary, writing(path):
        yield temporary
        publish(temporary, path, kind, overwrite=overwrite)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and next(path.iterdir(), None) is None


def _not_of_kind(path: Path, kind: Format) -> str | None:
    """Say what shows that `path` is something else than `kind`, or None."""
    if path.is_symlink():
        return "it is a link"
    if not kind.is_folder:
        if path.is_dir():
            return "it is a folder"
        return _not_coco(path) if kind is Format.COCO else None
    if not path.is_dir():
        return "it is a file"
    if kind is Format.ZARR:
        return None if _is_zarr_array(path) else "it is a zarr group, or another folder"
    for entry in sorted(path.iterdir()):
        if not is_litter(entry) and not _is_palette_png(entry):
            return f"it contains {entry.name}"
    return None


def _is_zarr_array(path: Path) -> bool:
    """Whether a folder is a zarr array, rather than a group, which may hold anything."""
    if (path / ".zarray").is_file():
        return True
    try:
        about = json.loads((path / "zarr.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("node_type") == "array"


def _not_coco(path: Path) -> str | None:
    """Say what shows that a file is no COCO JSON, or None; prompts and projects are JSON files too."""
    if not path.is_file():
        return "it is no regular file"
    try:
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    # COCO's keys come in any order; a look at the first one spares reading a large file.
    key = re.match(rb'\s*\{\s*"(\w+)"', start)
    if not start or (key and key[1] in _COCO_KEYS):
        return None
    return f"its first key is {key[1].decode()!r}" if key else "it is no JSON object"


def _is_palette_png(path: Path) -> bool:
    from PIL import Image

    if path.suffix.lower() != ".png" or not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            palette = image.palette
            return (
                image.mode == "P"
                and palette is not None
                and bytes(palette.palette) == voc_palette().tobytes()
            )
    except OSError:
        return False
