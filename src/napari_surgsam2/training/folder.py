"""A run's folder: whose it is, that one process at a time writes to it, and what it goes on from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import torch

from napari_surgsam2.errors import OutputError
from napari_surgsam2.files import write_atomically
from napari_surgsam2.masks._files import is_litter
from napari_surgsam2.masks._lock import LOCK_NAME, FolderLock

from .settings import TrainingSettings

CHECKPOINT = "checkpoint.pt"
MODEL = "model.safetensors"
SETTINGS = "settings.json"
STEP_LOG = "steps.csv"
VALIDATION_LOG = "validation.csv"

_KEPT = {
    "step", "config", "image_size", "generator", "network", "average", "updates", "optimizer", "scaler",
    "skipped", "meter",
}  # fmt: skip
# Settings that may change when a run goes on: what comes out does not depend on them.
_FREE = (
    "output",
    "validation",
    "model.half",
    "run.device",
    "run.workers",
    "run.checkpoint_every",
    "run.validate_every",
    "run.log_every",
    "run.activation_checkpointing",
)


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into an OutputError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}. Close it where another program has it "
            "open, make room on its disk or change its permissions, and give the same command to go on."
        ) from error


class _Writer:
    """Takes what is written to a file, and keeps the error where that fails.

    Parameters
    ----------
    file : file
        Opened to be written in binary.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write some bytes."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Write what is not written yet."""
        self._file.flush()


class RunFolder:
    """The folder of a run.

    Parameters
    ----------
    settings : TrainingSettings
        Of the run.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.path = Path(settings.output)
        self._settings = settings
        self._lock: FolderLock | None = None

    def lock(self) -> None:
        """Keep other processes out, until `release`; the folder is made if needed.

        Raises
        ------
        OutputError
            If another run is at work there, or it cannot be written to.
        """
        if self._lock is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path, self.path)
        except OSError as error:
            raise self._not_writable(error) from error

    def release(self) -> None:
        """Let others in; the folder goes where there is nothing in it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self) -> None:
        """Make sure that nothing is lost by a run with these settings.

        Raises
        ------
        OutputError
            If the folder holds a run with other settings, one that cannot go on, or something else.
        """
        if not self.path.exists():
            return
        names = {entry.name for entry in self._contents()}
        if CHECKPOINT in names and SETTINGS not in names:
            raise OutputError(
                f"'{self.path}' holds a run without its {SETTINGS}, which says how to go on. Put that back, "
                f"or train on its weights in {self.new_run()}."
            )
        if CHECKPOINT in names:
            try:
                found = self._kept_settings()
            except (OSError, ValueError) as error:  # of JSON and of the settings
                raise OutputError(
                    f"'{self.path}' holds a run whose settings cannot be used: {error} Train on its "
                    f"weights in {self.new_run()}."
                ) from error
            if different := self._differences_to(found):
                raise OutputError(
                    f"'{self.path}' holds a run with other settings ({', '.join(different)}). Take these "
                    f"back to go on with that run, or train on its weights in {self.new_run()}."
                )
        elif MODEL in names:
            raise OutputError(
                f"'{self.path}' holds {MODEL}, but no {CHECKPOINT} to go on from; it is not written over. "
                f"Train on its weights in {self.new_run()}, or move it away."
            )
        elif SETTINGS in names:
            self._check_without_checkpoint()
        elif any(map(self._is_strange, self._contents())):
            raise OutputError(f"'{self.path}' is not empty and holds no training run; set another output.")

    def _check_without_checkpoint(self) -> None:
        """Refuse settings that are not a training run's, and the log of another run."""
        try:
            found = self._kept_settings()
        except (OSError, ValueError) as error:
            raise OutputError(
                f"'{self.path / SETTINGS}' holds no settings of a training run, and is not written over. Set "
                "another output, or move the file away."
            ) from error
        if self._has_log() and (different := self._differences_to(found)):
            raise OutputError(
                f"'{self.path}' holds the log of a run with other settings ({', '.join(different)}), which "
                f"ended before its first checkpoint. Remove its {STEP_LOG}, or set another output."
            )

    def claim(self) -> None:
        """Write the settings; last of all, so that what cannot be opened ties the folder to nothing."""
        try:
            text = json.dumps(_plain(self._settings), indent=2)
            write_atomically(self.path / SETTINGS, text.encode())
        except OSError as error:
            raise self._not_writable(error) from error

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Return what a run goes on from, on the CPU; None where there is nothing.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            # On the CPU: the optimizer's step counts stay there, and all else is copied to where it belongs.
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not set(state) >= _KEPT:
                raise ValueError(f"it has no {', '.join(sorted(_KEPT - set(state)))}")
        except Exception as error:  # a damaged file fails in many ways
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise OutputError(
                f"'{path}' cannot be read ({reason}); it may be damaged. Train on its weights in "
                f"{self.new_run()}."
            ) from error
        return dict(state)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace what the run goes on from, at once or not at all."""
        path = self.path / CHECKPOINT
        partial = self.path / f".{CHECKPOINT}.partial"
        with saving(path):
            try:
                with partial.open("wb") as file:
                    writer = _Writer(file)
                    try:
                        torch.save(dict(state), cast(IO[bytes], writer))
                    except RuntimeError:  # of torch, which does not say what is wrong with a disk
                        if writer.error is not None:
                            raise writer.error from None
                        raise
                    file.flush()
                    os.fsync(file.fileno())  # or after a power cut there may be a name and nothing in it
                partial.replace(path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise

    def require_room(self, size: int) -> None:
        """Make sure that a run can be saved, before hours are spent on it.

        Parameters
        ----------
        size : int
            What a checkpoint and a model will take, in bytes; while they are replaced they are there twice.

        Raises
        ------
        OutputError
            If less is free on the disk.
        """
        there = sum(p.stat().st_size for n in (CHECKPOINT, MODEL) if (p := self.path / n).is_file())
        needed, free = 2 * size - there, shutil.disk_usage(self.path).free
        if needed > free:
            raise OutputError(
                f"A run in '{self.path}' takes {needed / 1e9:.2f} GB more, and {free / 1e9:.2f} GB are free "
                "there. Make room on its disk, or set another output."
            )

    def new_run(self) -> str:
        """Say how another run goes on with the weights of this one."""
        return f'a new run: set another output, and start = "{self.path / MODEL}" in [model]'

    def elsewhere(self) -> str:
        """Say where settings can be changed that a run with a checkpoint keeps."""
        if (self.path / CHECKPOINT).exists():
            return f", for which it takes {self.new_run()}"
        return ", and start again with another output" if self._has_log() else ", and start again"

    def _kept_settings(self) -> TrainingSettings:
        text = (self.path / SETTINGS).read_text(encoding="utf-8")
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no table")  # as of what is no JSON
        return TrainingSettings.from_dict(values)

    def _differences_to(self, found: TrainingSettings) -> list[str]:
        return _differences(_comparable(found), _comparable(self._settings))

    def _has_log(self) -> bool:
        """Whether there is a log of steps that has more than its head."""
        path = self.path / STEP_LOG
        try:
            return len(path.read_bytes().splitlines()) > 1
        except OSError:
            return path.exists()

    def _contents(self) -> list[Path]:
        try:
            return list(self.path.iterdir())
        except OSError as error:
            raise OutputError(
                f"'{self.path}' is no folder to write to: {error.strerror}; set another output."
            ) from error

    def _is_strange(self, path: Path) -> bool:
        # Making a pool may have been interrupted before there was anything else.
        pools = [Path(source.folder) for source in self._settings.training if source.folder]
        is_own = path.name == LOCK_NAME or is_litter(path)
        return not is_own and not any(pool.is_relative_to(path) for pool in pools)

    def _not_writable(self, error: OSError) -> OutputError:
        return OutputError(f"'{self.path}' cannot be written to: {error.strerror}; set another output.")


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    """Return settings as JSON gives them back: lists in the place of tuples."""
    values: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    return values


def _comparable(settings: TrainingSettings) -> dict[str, Any]:
    """Return plain settings, in which what is not said of labels is said as it is taken."""
    values = _plain(settings)
    for source in values["training"]:
        for pair in source["pairs"] or ():
            pair["sparse"] = bool(pair["sparse"])
            pair["void"] = pair["void"] or 0
    return values


def _differences(found: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of the settings that differ, but for those that may."""
    names = []
    for key in sorted({*found, *mine}):
        if prefix + key in _FREE:
            continue
        a, b = found.get(key), mine.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names
