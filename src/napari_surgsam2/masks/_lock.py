"""A lock on a folder, which the operating system lets go when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Self

from napari_surgsam2.errors import OutputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_NAME = "lock"

# Windows keeps others from reading locked bytes, so the locked byte is far behind the process id.
_LOCKED_BYTE = 1 << 30
_SECONDS_BETWEEN_TRIES = 0.02


class FolderLock:
    """Holds `<folder>/lock`, made if needed together with the folder, until released.

    The file names the process that holds it. What counts is the operating system's lock on the file, not the
    file being there: that of a process which was killed is simply taken over.

    Parameters
    ----------
    folder : Path
        Its parent must exist.
    output : Path
        What the message names.
    wait : float
        Seconds to wait for whoever holds it.

    Raises
    ------
    OutputError
        If another process, or another volume of this one, holds it.
    """

    def __init__(self, folder: Path, output: Path, wait: float = 0.0) -> None:
        self._folder = folder
        self._path = folder / LOCK_NAME
        descriptor = self._wait(output, wait)
        self._close = weakref.finalize(self, os.close, descriptor)

    def _wait(self, output: Path, seconds: float) -> int:
        until = time.monotonic() + seconds
        while True:
            try:
                return self._acquire(output)
            except OutputError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_SECONDS_BETWEEN_TRIES)

    def _acquire(self, output: Path) -> int:
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # the holder removed the folder in between
            try:
                if not _try_lock(descriptor):
                    holder = os.read(descriptor, 64).decode(errors="replace").strip()
                    raise OutputError(
                        f"{output} is being written by another process ({holder or 'unknown'}); wait until "
                        f"it is done, stop it, or choose another output."
                    )
                if self._is_current(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()}\n".encode())
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file still stands under its name: its last holder may have removed it."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go; the lock file is removed, and the folder too where nothing else is in it."""
        if not self._close.alive:
            return
        if sys.platform == "win32":
            self._close()
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._folder.rmdir()
        self._close()


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return True  # some network file systems have no locks; working without one beats refusing to
        raise
    return True
