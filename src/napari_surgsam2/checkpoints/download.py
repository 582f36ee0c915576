"""Downloading checkpoints, and checking that they arrived whole."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from napari_surgsam2.errors import CheckpointError

from .registry import RegistryEntry

Progress: TypeAlias = Callable[[int, int | None], None]

_ZIP_MAGIC = b"PK\x03\x04"  # what torch.save writes begins with it
_CHUNK = 2**17  # bytes from one report of progress to the next
_TIMEOUT = 30.0  # seconds without an answer or without a byte


class _ProgressBar:
    """What pooch calls while it downloads, passed on to a `Progress`."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress, self._known_total = progress, total
        self.total = 0
        self._done = 0

    def update(self, n: int) -> None:
        total = self.total or self._known_total
        self._done += n  # pooch counts the last chunk as if it were full
        self._progress(self._done if total is None else min(self._done, total), total)

    def reset(self) -> None:
        """At the end pooch resets the bar and fills it; what was counted is right already."""
        self._done = 0

    def close(self) -> None:
        pass


def digest_path(entry: RegistryEntry) -> Path:
    """Return where the digest of the first download is kept, for files whose digest was not published."""
    return entry.path.with_name(entry.file + ".sha256")


def expected_digest(entry: RegistryEntry) -> str | None:
    """Return the SHA-256 a file must have; None where it is not known yet."""
    if entry.sha256 is not None:
        return entry.sha256
    try:
        return digest_path(entry).read_text(encoding="ascii").split()[0]
    except (OSError, IndexError):
        return None


def ensure_downloaded(entry: RegistryEntry, progress: Progress | None = None) -> Path:
    """Return the file of a known model, downloading it if it is neither there nor built in.

    The file appears under its name only when it is whole and its digest is right. Raising an exception in
    `progress` cancels the download and leaves nothing behind.

    Parameters
    ----------
    entry : RegistryEntry
        The model.
    progress : callable, optional
        Called with the bytes that have come and those that will, None where that is not known.

    Raises
    ------
    CheckpointError
        If the file cannot be downloaded, or is not what it should be; says where to put it by hand.
    """
    path = entry.path
    if is_there(entry):
        _check_size(entry)
        return path
    if entry.url is None:
        raise CheckpointError(_not_there(entry))
    import pooch
    import requests

    expected = expected_digest(entry)
    # What is not known to be right does not get its name before it was looked at.
    arrived = path if expected is not None else path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    bar = None if progress is None else _ProgressBar(progress, entry.bytes)
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        pooch.retrieve(
            entry.url,
            known_hash=None if expected is None else f"sha256:{expected}",
            fname=arrived.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT),
        )
        if expected is None:
            _accept_first_download(entry, arrived)
        # pooch leaves it to be read by its owner alone.
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)
    except requests.exceptions.RequestException as error:
        raise CheckpointError(_by_hand(entry, f"could not be downloaded ({_reason(error)})")) from error
    except ValueError as error:  # pooch's word for a digest that differs
        other = "that of the first download" if entry.sha256 is None else "the published one"
        raise CheckpointError(
            _by_hand(entry, f"did not arrive as it should: the SHA-256 is not {other}")
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"The model '{entry.name}' could not be written to '{path}' ({error}); free space there, or set "
            "NAPARI_SURGSAM2_CACHE to another folder."
        ) from error
    finally:
        if arrived != path:
            with contextlib.suppress(OSError):  # what went wrong before is told
                arrived.unlink(missing_ok=True)
    return path


def is_there(entry: RegistryEntry) -> bool:
    """Whether the file of a known model is there, and may be looked at."""
    return os.path.isfile(entry.path)  # noqa: PTH113  # that of pathlib raises where a folder may not be entered


def verify(entry: RegistryEntry) -> str | None:
    """Check a downloaded or built-in file against its digest.

    Returns
    -------
    str or None
        The SHA-256 that was checked; None where none is known.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    if not is_there(entry):
        raise CheckpointError(_not_there(entry))
    _check_size(entry)
    expected = expected_digest(entry)
    if expected is not None and (found := _sha256(entry.path)) != expected:
        raise CheckpointError(_damaged(entry, f"its SHA-256 is {found}, not {expected}"))
    return expected


def _accept_first_download(entry: RegistryEntry, arrived: Path) -> None:
    """Look at a file whose digest nobody knows, note its digest, and give it its name."""
    with arrived.open("rb") as file:
        magic = file.read(len(_ZIP_MAGIC))
    if magic != _ZIP_MAGIC:
        raise CheckpointError(
            _by_hand(entry, "could not be downloaded (the server sent a page instead of the file)")
        )
    digest_path(entry).write_text(f"{_sha256(arrived)}  {entry.file}\n", encoding="ascii")
    arrived.replace(entry.path)


def _sha256(path: Path) -> str:
    import pooch

    digest: str = pooch.file_hash(str(path), alg="sha256")
    return digest


def _check_size(entry: RegistryEntry) -> None:
    size = entry.path.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        raise CheckpointError(_damaged(entry, f"it has {size} bytes, not {entry.bytes}"))


def _not_there(entry: RegistryEntry) -> str:
    if entry.built_in:
        return (
            f"The model '{entry.name}' is built in, but there is no '{entry.path}'. Install napari-surgsam2 "
            "again."
        )
    return (
        f"The model '{entry.name}' has not been downloaded: there is no '{entry.path}'. Download it with "
        f"'napari-surgsam2 models download {entry.name}'."
    )


def _damaged(entry: RegistryEntry, reason: str) -> str:
    remedy = "Delete it; it is downloaded again when next used."
    if entry.built_in:
        remedy = "Install napari-surgsam2 again."
    return f"The file of the model '{entry.name}', '{entry.path}', is damaged: {reason}. {remedy}"


def _by_hand(entry: RegistryEntry, problem: str) -> str:
    size = "" if entry.bytes is None else f" ({entry.bytes} bytes)"
    return (
        f"The model '{entry.name}' {problem}. Try again, or download {entry.url} on any machine and put the "
        f"file at '{entry.path}'{size}."
    )


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {_TIMEOUT:.0f} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the server's certificate was refused, perhaps because of a proxy: {error}"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy that is set does not answer: {error}"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "there is no connection to the server"
    return str(error)
