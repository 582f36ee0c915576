"""`vos.json`: how the results in a folder were made, and which of them are to be made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_surgsam2.errors import OutputError
from napari_surgsam2.files import made_aside, writing
from napari_surgsam2.masks._identity import differences, is_of_another_version
from napari_surgsam2.masks._lock import FolderLock

from .vos_folder import folders_in

RECORD_NAME = "vos.json"
_RECORD_VERSION = 2
# It is held while a small file is read and written.
_SECONDS_FOR_RECORD = 30.0


class VosRecord:
    """`vos.json`: how the results of a folder were made, and how fast; written anew whenever it changes.

    Results that were there when others were asked for are outdated until they are replaced. Other processes
    may make other videos of the folder: under a lock each takes over what the file says, and changes it.

    Attributes
    ----------
    digest : str
        Of how they are made.
    """

    def __init__(self, path: Path, run: dict[str, Any], speeds: dict[str, float], outdated: set[str]) -> None:
        self._path = path
        self._run = run
        self._speeds = speeds
        self._outdated = outdated
        self._asked: set[str] = set()  # results that this process was asked to make again
        self._run_before: dict[str, Any] | None = None  # what `open` found
        self.digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]

    @classmethod
    def open(cls, folder: Path, identity: dict[str, Any], overwrite: bool, names: Sequence[str]) -> VosRecord:
        """Look whether the results in a folder were made the same way; nothing is written yet.

        Parameters
        ----------
        folder : Path
            Of the results.
        identity : dict
            How they are to be made, as JSON-ready values.
        overwrite : bool
            Whether results that are there are to be made again.
        names : sequence of str
            Which videos that is about.

        Raises
        ------
        OutputError
            If they were not, or nobody knows how they were made, and they are not to be replaced.
        """
        path = folder / RECORD_NAME
        run = json.loads(json.dumps(identity))
        there = results_in(folder)
        old = cls._read(path)
        if old is not None and old._run == run:
            old._run_before = run
            old._asked = there & set(names) if overwrite else set()
            old._outdated |= old._asked
            return old
        if not overwrite and old is not None:
            raise OutputError(
                f"The results in {folder} were made differently: {'; '.join(differences(old._run, run))}. "
                f"{_remedy(old._run, run)}"
            )
        if not overwrite and there:
            raise OutputError(
                f"{folder} holds folders, such as {min(there)}, and no {RECORD_NAME} that says how they "
                "were made. Choose another output, or replace them with --force."
            )
        record = cls(path, run, {}, there)
        record._run_before = None if old is None else old._run
        return record

    @classmethod
    def _read(cls, path: Path) -> VosRecord | None:
        """Return the record, None if there is none or it is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            speeds = {str(video): float(speed) for video, speed in values["videos"].items()}
            return cls(path, dict(values["run"]), speeds, set(values.get("outdated", ())))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def begin(self) -> None:
        """Write it, before anything is made, together with what other processes have noted since `open`.

        Raises
        ------
        OutputError
            If the folder cannot be made or written, or one of them makes the results in another way.
        """
        folder = self._path.parent
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            now = self._read(self._path)
            if now is not None and now._run == self._run:
                self._speeds |= now._speeds
                self._outdated = now._outdated | self._asked
            elif now is not None:
                self._require_run(now, self._run_before)
                self._outdated |= results_in(folder)
            self._write()

    def is_outdated(self, video: str) -> bool:
        """Whether the result of a video that is there is to be replaced."""
        return video in self._outdated

    def speed(self, video: str) -> float | None:
        """Return the frames per second of a video, if they are known."""
        return self._speeds.get(video)

    def note_speed(self, video: str, frames_per_second: float) -> None:
        """Note how fast a video was tracked."""
        with self._locked():
            self.refresh()
            self._speeds[video] = round(frames_per_second, 3)
            self._write()

    def note_done(self, video: str) -> None:
        """Note that the result of a video is there."""
        with self._locked():
            self.refresh()
            self._outdated.discard(video)
            self._write()

    def refresh(self) -> None:
        """Take over what other processes, which make other videos of the same folder, have noted.

        Raises
        ------
        OutputError
            If one of them makes the results in another way.
        """
        now = self._read(self._path)
        if now is None:
            return
        self._require_run(now, self._run)
        self._speeds, self._outdated = now._speeds, now._outdated

    def _require_run(self, now: VosRecord, run: dict[str, Any] | None) -> None:
        if now._run != run:
            raise OutputError(
                f"Another process has begun to make the results in {self._path.parent} in another way; "
                "choose another output for one of them."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process change the file meanwhile."""
        with writing(self._path):
            lock = FolderLock(
                self._path.with_name(f".{RECORD_NAME}.lock"), self._path, wait=_SECONDS_FOR_RECORD
            )
        with lock:
            yield

    def _write(self) -> None:
        values = {
            "version": _RECORD_VERSION,
            "run": self._run,
            "videos": self._speeds,
            "outdated": sorted(self._outdated),
        }
        with made_aside(self._path) as temporary, writing(self._path):
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self._path)


def _remedy(old: dict[str, Any], new: dict[str, Any]) -> str:
    if is_of_another_version(old, new):
        return (
            "It was another version of napari-surgsam2, whose masks may differ: finish them with that one, "
            "choose another output, or make them anew with --force."
        )
    return "Choose another output, or make them anew with --force."


def outdated_results(folder: Path) -> set[str]:
    """Return the videos of a folder whose results wait for being made anew, as its `vos.json` says."""
    record = VosRecord._read(folder / RECORD_NAME)
    return set() if record is None else record._outdated


def results_in(folder: Path) -> set[str]:
    """Return the names of the folders in a folder, if it is there, that may be results."""
    return folders_in(folder) if folder.is_dir() else set()
