"""The folder in which an unfinished label volume lives, beside its output.

`<output name>.partial.zarr` is a zarr group with

- `labels`, the array: one compressed frame per chunk;
- `run.json`, written last when the folder is made: shape, dtype and what identifies the run;
- `done`, one byte per frame, changed in place after the frame is written: this needs no space on a full disk;
- `state`, which belongs to the caller, and what it names `state...` beside it;
- `lock`, see `FolderLock`;
- `publishing`, a mark set just before the result is moved out: with the mark there and the result gone, the
  output is complete;
- `replaced`, an old output on its way out;
- `outdated`, a mark that the output beside it is to be replaced: alone in the folder before that is begun;
- `preview`, a mark that the output beside it is complete and that its preview is still to be drawn: alone in
  the folder after the result was moved out. It holds the digest of what identified the run.

A zarr output keeps a digest of what identified its run among its attributes.

All else is replaced in one step, so that the folder can be gone on with whenever the process ends.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import remove, write_atomically, writing

from ._files import Format, check_target, publish
from ._identity import differences, digest_of, is_of_another_version, run_identity
from ._lock import LOCK_NAME, FolderLock

_OWN_NAMES = ("labels", "result", "run.json", "done", "publishing", "replaced", "zarr.json")
_OUTDATED = "outdated"
_PREVIEW = "preview"
_PARTIAL_SUFFIX = ".partial.zarr"
_IDENTITY_KEYS = ("version", "shape", "dtype", "run")
_RUN_ATTRIBUTE = "napari_surgsam2_run"


def create_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return a new zarr array, its last axes y and x, one compressed frame per chunk, filled with 0."""
    import zarr
    from zarr.codecs import ZstdCodec

    # Looking whether a frame is empty takes five times as long as compressing it.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.create_array(
            path,  # not its text, of which zarr takes "::" for the end of a file's name
            shape=shape,
            chunks=(1,) * (len(shape) - 2) + shape[-2:],
            dtype=dtype,
            compressors=[ZstdCodec(level=1)],
            fill_value=0,
            dimension_names=["t", "y", "x"] if len(shape) == 3 else None,
        )


def partial_folder(target: Path) -> Path:
    """Return where the unfinished result lives whose output is `target`."""
    return target.with_name(f"{target.name}{_PARTIAL_SUFFIX}")


def mark_outdated(target: Path, *, keep_run: bool = False) -> bool:
    """Note that an output is to be replaced, so that an interruption before its turn does not save it.

    Parameters
    ----------
    target : Path
        The output.
    keep_run : bool
        Leave an interrupted run of it, to be gone on with; else it is thrown away.

    Returns
    -------
    bool
        Whether that was not noted before.

    Raises
    ------
    OutputError
        If another process is writing it, somebody else's folder is in the way, or the note cannot be written.
    """
    folder = partial_folder(target)
    with writing(target), FolderLock(folder, target):
        if not (folder / "run.json").exists():
            _refuse_foreign(folder)
        if not keep_run or (folder / "publishing").exists():
            remove(folder / "run.json")
            remove(folder / "publishing")  # of a run that ended just after: not of the one to come
        remove(folder / _PREVIEW)
        is_new = not (folder / _OUTDATED).exists()
        (folder / _OUTDATED).touch()
    return is_new


def unmark_outdated(target: Path) -> None:
    """Take the note back."""
    folder = partial_folder(target)
    with writing(target), FolderLock(folder, target):
        remove(folder / _OUTDATED)


def forget_preview(target: Path) -> None:
    """Take back the note that the preview of a complete output is still to be drawn."""
    folder = partial_folder(target)
    if (folder / _PREVIEW).exists():
        with writing(target), FolderLock(folder, target):
            remove(folder / _PREVIEW)


def refuse_partial_name(target: Path) -> None:
    """Raise UsageError if an output is called what the unfinished result of another one would be called."""
    if target.name.lower().endswith(_PARTIAL_SUFFIX):
        raise UsageError(
            f"The output '{target.name}' ends in {_PARTIAL_SUFFIX!r}, as unfinished results do; choose "
            "another name."
        )


def _made_by(target: Path) -> str | None:
    import zarr

    with contextlib.suppress(Exception):  # whatever is there, it does not say
        digest = zarr.open_array(target, mode="r").attrs[_RUN_ATTRIBUTE]
        return digest if isinstance(digest, str) else None
    return None


def _refuse_foreign(folder: Path) -> None:
    """Raise OutputError if a folder holds what no unfinished result does: then it is somebody else's."""
    for name in sorted(entry.name for entry in folder.iterdir()):
        if name not in (LOCK_NAME, _OUTDATED, _PREVIEW) and not _is_of_run(name):
            raise OutputError(
                f"{folder}, where the unfinished result belongs, contains {name}; move that away."
            )


def _is_of_run(name: str) -> bool:
    """Whether an entry of the folder is called what a run writes."""
    own = (*_OWN_NAMES, f"{_PREVIEW}.tmp")
    return name.split(".")[0] == "state" or name in own or name.removesuffix(".tmp") in _OWN_NAMES


class Partial:
    """An unfinished volume on disk, locked by this process.

    Attributes
    ----------
    array : zarr.Array
        The labels, shape (T, Y, X); there after `start` or `resume`.
    done : ndarray, shape (T,), bool
        Which frames are finished, indexed by frame.
    """

    array: Any
    done: NDArray[np.bool_]

    def __init__(self, target: Path, kind: Format) -> None:
        self.target = target
        self.kind = kind
        self.folder = partial_folder(target)
        self._labels = self.folder / "labels"
        self._payload = self._labels if kind is Format.ZARR else self.folder / "result"
        self._overwrite = False
        with self.writing():
            self._lock = FolderLock(self.folder, target)
        try:
            with self.writing():
                self._record = self._recover()
        except BaseException:
            self.close()
            raise

    def writing(self) -> Any:
        """Return the context that turns errors of the operating system into OutputError."""
        return writing(self.target, "what is done is kept: free space and go on with --resume (resume=True)")

    @property
    def exists(self) -> bool:
        """Whether an interrupted run is there."""
        return self._record is not None

    @property
    def is_outdated(self) -> bool:
        """Whether the output that is there was marked to be replaced."""
        return (self.folder / _OUTDATED).exists()

    def lacks_preview(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], run: Mapping[str, Any]
    ) -> bool:
        """Whether the output that is there was made by this run, and its preview is still to be drawn."""
        return self._preview_of() == digest_of(run_identity(shape, dtype, run))

    def _preview_of(self) -> str | None:
        """Return the digest of the run whose preview is still to be drawn."""
        try:
            return (self.folder / _PREVIEW).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def refuse_other_run(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], run: Mapping[str, Any]
    ) -> None:
        """Raise OutputError if the complete output is known to be of another run.

        Only zarr ones say that, and those whose preview is still to be drawn.
        """
        if not run:
            return
        made_by = self._preview_of() or (_made_by(self.target) if self.kind is Format.ZARR else None)
        if made_by not in (None, digest_of(run_identity(shape, dtype, run))):
            raise OutputError(
                f"{self.target} exists already and was made by another run: video, prompts, model, "
                "settings or the version of napari-surgsam2 differ. Make it again with --force "
                "(overwrite=True), or move it away."
            )

    @property
    def state_path(self) -> Path:
        """The caller's own file."""
        return self.folder / "state"

    def _recover(self) -> dict[str, Any] | None:
        """Undo what an end in the middle of `finish` or `start` left; return the run's record, if any."""
        record = self._read_record()
        if record is None:  # it may be anything of that name
            _refuse_foreign(self.folder)
        replaced = self.folder / "replaced"
        if replaced.exists() and not self.target.exists():
            replaced.rename(self.target)
        published = (self.folder / "publishing").exists() and not self._payload.exists()
        if published:
            remove(self.folder / _OUTDATED)
        if published or record is None:
            self._clear(keep_preview=True)
            return None
        return record

    def _read_record(self) -> dict[str, Any] | None:
        """Return what identifies the run that is there, nothing if that is damaged, None without a run."""
        try:
            return dict(json.loads((self.folder / "run.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return {}

    def _clear(self, *, keep_preview: bool = False) -> None:
        """Remove all that belongs to a run, and nothing else; the mark for its preview only if told."""
        if not keep_preview:
            remove(self.folder / _PREVIEW)
        # Without its record what is left counts as nothing, so the record goes first.
        remove(self.folder / "run.json")
        for entry in list(self.folder.iterdir()):
            if _is_of_run(entry.name):
                remove(entry)
        self._record = None

    def start(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], run: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        """Begin anew.

        Raises
        ------
        OutputError
            If the folder holds anything of somebody else's, or cannot be written.
        """
        import zarr

        identity = run_identity(shape, dtype, run)
        record = {**identity, "overwrite": overwrite}
        with self.writing():
            _refuse_foreign(self.folder)
            self._clear()
            zarr.create_group(self.folder)
            self.array = create_array(self._labels, shape, dtype)
            if run:
                self.array.attrs[_RUN_ATTRIBUTE] = digest_of(identity)
            (self.folder / "done").write_bytes(bytes(shape[0]))
            write_atomically(self.folder / "run.json", json.dumps(record, indent=1).encode())
        self._record = record
        self._overwrite = overwrite
        self.done = np.zeros(shape[0], dtype=bool)

    def resume(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], run: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        """Go on with the interrupted run that is there.

        Raises
        ------
        OutputError
            If it is another run; the message names the keys that differ. Or if its record is damaged, or
            something has come to stand under the output's name that may not be replaced.
        """
        import zarr

        assert self._record is not None
        if not self._record:
            raise OutputError(
                f"The interrupted run of {self.target} cannot be resumed, for '{self.folder / 'run.json'}' "
                "is damaged; start anew with --force (overwrite=True), without --resume."
            )
        identity = run_identity(shape, dtype, run)
        before = {key: self._record.get(key) for key in identity}
        if changes := differences(before, identity):
            remedy = "Use the same settings"
            if is_of_another_version(before, identity):
                remedy = (
                    "It was begun with another version of napari-surgsam2, whose masks may differ: finish it "
                    "with that one"
                )
            raise OutputError(
                f"The interrupted run of {self.target} cannot be resumed, for it differs in "
                f"{'; '.join(changes)}. {remedy}, or start anew with --force (overwrite=True), without "
                "--resume."
            )
        self._overwrite = overwrite or bool(self._record.get("overwrite"))
        check_target(self.target, self.kind, overwrite=self._overwrite)
        with self.writing():
            with zarr.config.set({"array.write_empty_chunks": True}):
                self.array = zarr.open_array(self._labels, mode="r+")
            self.done = self._read_done(shape[0])
            self._remove_unfinished_frames()

    def _read_done(self, count: int) -> NDArray[np.bool_]:
        recorded = (self.folder / "done").read_bytes().ljust(count, b"\0")
        done: NDArray[np.bool_] = np.frombuffer(recorded, dtype=np.uint8, count=count) == 1
        for t in np.flatnonzero(done):
            # A power cut may leave the record and not the frame.
            chunk = self._labels / "c" / str(t) / "0" / "0"
            done[t] = chunk.is_file() and chunk.stat().st_size > 0
        return done

    def _mark(self, t: int, done: bool) -> None:
        with (self.folder / "done").open("r+b", buffering=0) as file:
            file.seek(t)
            file.write(bytes([done]))
        self.done[t] = done

    def _remove_unfinished_frames(self) -> None:
        """Remove what is there of frames that are not done: it may be half a chunk, or a temporary file."""
        chunks = self._labels / "c"
        if not chunks.is_dir():
            return
        for frame in chunks.iterdir():
            if not (frame.name.isdecimal() and self.done[int(frame.name)]):
                remove(frame)

    def write(self, t: int, labels: NDArray[Any]) -> None:
        """Write frame `t`, shape (Y, X), and mark it as done."""
        with self.writing():
            if self.done[t]:
                # Not every zarr version replaces a chunk in one step.
                self._mark(t, False)
            self.array[t] = labels
            self._mark(t, True)

    def finish(self, write_result: Callable[[Path, Any], None], *, preview_follows: bool = False) -> None:
        """Put the result under its final name and remove the folder.

        Parameters
        ----------
        write_result : callable
            Writes the labels to a path; not called for a zarr output, which is moved as it is.
        preview_follows : bool
            Leave a mark in the folder that a preview is still to be drawn, see `forget_preview`.
        """
        assert self._record is not None, "begun or resumed"
        with self.writing():
            self._remove_unfinished_frames()
            if self.kind is not Format.ZARR:
                # The mark goes first: without the result it would say that the output is complete.
                remove(self.folder / "publishing")
                remove(self._payload)
                write_result(self._payload, self.array)
            if preview_follows:
                digest = digest_of({key: self._record[key] for key in _IDENTITY_KEYS})
                write_atomically(self.folder / _PREVIEW, digest.encode())
            else:
                remove(self.folder / _PREVIEW)
            write_atomically(self.folder / "publishing", b"")
            aside = self.folder / "replaced"
            publish(self._payload, self.target, self.kind, overwrite=self._overwrite, aside=aside)
            remove(self.folder / _OUTDATED)
            self._clear(keep_preview=preview_follows)
        self._lock.release()

    def close(self) -> None:
        """Let go of the folder; an unfinished run stays in it, unless nothing of it is done."""
        if hasattr(self, "done") and not self.done.any() and not self.state_path.exists():
            with self.writing():
                self._clear()
        self._lock.release()
