"""Files and folders that appear under their names when they are complete, and what hinders that."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
# What is made takes less; what is older was left by a process that was killed.
_ABANDONED_AFTER = 2 * 24 * 3600.0  # seconds


@contextlib.contextmanager
def writing(path: Path, no_space: str = "free space and try again") -> Iterator[None]:
    """Turn the operating system's errors into OutputError; `no_space` is the remedy for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise OutputError(f"No space left on the disk of {path}; {no_space}.") from error
        if error.errno in _NO_PERMISSION:
            raise OutputError(
                f"{path} cannot be written: {error.strerror}. Change the permissions of {path.parent}, or "
                f"choose another output."
            ) from error
        raise OutputError(f"{path} cannot be written: {error}.") from error


@contextlib.contextmanager
def made_aside(target: Path, folder: Path | None = None, suffix: str = "") -> Iterator[Path]:
    """Yield a hidden name under which to make what will be `target`; what is left there at the end goes.

    What processes that were killed left under such names goes too, once it is two days old.

    Parameters
    ----------
    target : Path
        The final name.
    folder : Path, optional
        Where the hidden name is, if not beside `target`; on the same file system.
    suffix : str
        What the hidden name ends in, where the end tells what is written.
    """
    folder = target.parent if folder is None else folder
    _remove_abandoned(folder, target)
    aside = folder / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp{suffix}"
    try:
        yield aside
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is told
            remove(aside)


def _remove_abandoned(folder: Path, target: Path) -> None:
    hidden = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.(tmp(\.\w+)?|old)")
    with contextlib.suppress(OSError):  # of a folder that is not there yet, for one
        for path in [p for p in folder.iterdir() if hidden.fullmatch(p.name)]:
            if path.suffix == ".old" and not target.exists():
                continue  # killed before the new one took its place: it is all there is
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                remove(path)


def put_folder(made: Path, target: Path, replaced: Path | None = None) -> None:
    """Give a complete folder its name, in place of one that may be there.

    A folder cannot replace another in one step: the old one is moved away first, and back if the new one
    cannot be moved in.

    Parameters
    ----------
    made, target : Path
        Where it is and where it is to be, on one file system.
    replaced : Path, optional
        Where the old one is for a moment, and stays if the process is killed then; beside `made`, unless
        given.
    """
    if not target.exists():
        made.rename(target)
        return
    replaced = made.with_suffix(".old") if replaced is None else replaced
    try:
        target.rename(replaced)
        made.rename(target)
    except BaseException:  # also an interruption between the two
        if not target.exists():
            replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that at any time either the old or the new one stands there whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
