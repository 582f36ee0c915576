"""The dialogs and the background work of saving and opening, and the project that is kept unasked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from napari.qt.threading import create_worker
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_surgsam2.errors import SurgSam2Error
from napari_surgsam2.masks import refuse_to_replace
from napari_surgsam2.project import PROJECT_SUFFIX

from . import autosaves, saving
from .session import Session
from .timers import single_shot
from .worker import sentence

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_surgsam2.project import Project

    from .stacks import LayerStack

_AUTOSAVE = 2000  # milliseconds without a change before the project is kept
_MASK_FILTERS = "TIFF stack (*.tif);;zarr (*.zarr);;Folder of DAVIS PNGs (*);;COCO JSON (*.json)"
_SUFFIXES = {"TIFF": (".tif", ".tiff"), "zarr": (".zarr",), "COCO": (".json",)}
_SUGGESTED = ".tif"
_KNOWN_SUFFIXES = (".tif", ".tiff", ".zarr", ".json")
_PROJECT_FILTER = f"Project (*{PROJECT_SUFFIX})"


class _Kept(NamedTuple):
    """Where the project of a plane of an image is kept."""

    path: Path | None = None  # where the user saved it; None where only the cache folder has it
    written: Project | None = None  # what the file says, if it was written or read for this session
    stamp: object = None  # of the file then


# What is done in the background, and then in the window with what it gave.
_Work: TypeAlias = tuple[Callable[[], Any], Callable[[Any], object]]
_left: WeakKeyDictionary[Image, dict[object, _Kept]] = WeakKeyDictionary()  # by image and plane


class Keeper:
    """Keeps what a session makes.

    Parameters
    ----------
    parent : QWidget
        What dialogs are shown over.
    session : callable
        Returns the session, or None.
    tell : callable
        Called with what goes wrong.
    """

    def __init__(
        self, parent: QWidget, session: Callable[[], Session | None], tell: Callable[[str], object]
    ) -> None:
        self._here = _Kept()
        self._plane: object = None  # of the image, that it is of
        self._elsewhere: dict[object, _Kept] = {}  # of other planes
        self._parent = parent
        self._session = session
        self._tell = tell
        self._working = 0
        self._told: tuple[Path, str] | None = None  # where it could not be kept, and why
        self._timer = single_shot(_AUTOSAVE, self.autosave)

    @property
    def project_path(self) -> Path | None:
        """Where the user saved the project of the plane in view; None if nowhere."""
        return self._here.path

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return self._working > 0

    # Masks and measurements

    def ask_masks(self) -> None:
        """Ask where the masks go, and save them."""
        path, kind = QFileDialog.getSaveFileName(
            self._parent, "Save masks", self._suggested(f"_masks{_SUGGESTED}"), _MASK_FILTERS
        )
        if path:
            target = _masks_name(Path(path), kind)
            if self._may_write(target, Path(path)):
                self.write_masks(target)

    def write_masks(self, path: str | Path) -> None:
        """Save the masks in the background; the suffix says as what, and what is there is replaced."""

        def prepare(session: Session) -> _Work:
            refuse_to_replace(autosaves.input_paths(session.image), path)
            labels, names = saving.StackLabels(session), dict(session.names)
            return (
                lambda: saving.save_masks(labels, path, names, autosaves.source_path(session.image)),
                lambda made: show_info(f"Masks: {made}"),
            )

        self._in_background(prepare)

    def ask_measurements(self) -> None:
        """Ask where the measurements go, and write them."""
        path, _ = QFileDialog.getSaveFileName(
            self._parent, "Save measurements", self._suggested("_measurements.csv"), "CSV (*.csv)"
        )
        if path:
            target = Path(path if Path(path).suffix else path + ".csv")
            if self._may_write(target, Path(path)):
                self.write_measurements(target)

    def write_measurements(self, path: str | Path) -> None:
        """Measure the masks in the background and write a CSV; the means become features of the labels."""

        def prepare(session: Session) -> _Work:
            refuse_to_replace(autosaves.input_paths(session.image), path)
            measure, labels, names = saving.measure_session(session), session.labels, dict(session.names)

            def run() -> Any:
                measurements = measure()
                measurements.to_csv(path, overwrite=True)
                return measurements

            def show(made: Any) -> None:
                if labels is not None:
                    saving.show_measurements(labels, names, made)
                show_info(f"{len(made)} measurements: {path}")

            return run, show

        self._in_background(prepare)

    def add_tracks(self) -> None:
        """Find the objects' centroids in the background, and add a Tracks layer of them."""

        def prepare(session: Session) -> _Work:
            stack = session.stack  # by the time that they are found another plane may be in view
            return (
                saving.find_tracks(session),
                lambda found: saving.show_tracks(session.viewer, stack, found),
            )

        self._in_background(prepare)

    def _in_background(self, prepare: Callable[[Session], _Work]) -> None:
        session = self._session()
        if session is None:
            self._tell("There is no video; open one, or choose an image layer.")
            return
        session.when_settled(lambda: self._begin_work(session, prepare))

    def _begin_work(self, session: Session, prepare: Callable[[Session], _Work]) -> None:
        try:
            work, then = prepare(session)
        except SurgSam2Error as error:
            self._tell(str(error))
            return

        def guarded() -> tuple[Any, Exception | None]:
            try:
                return work(), None
            except Exception as error:  # whatever it is, the user is told, and nothing waits for it
                return None, error

        def finished(outcome: tuple[Any, Exception | None]) -> None:
            self._working -= 1
            made, error = outcome
            if error is not None:
                self._tell(str(error) if isinstance(error, OSError) else sentence(error))
            else:
                then(made)

        self._working += 1
        create_worker(guarded, _connect={"returned": finished}, _progress={"desc": "Saving"})

    # The project

    def ask_save_project(self) -> None:
        """Ask where the project goes, and write it."""
        path, _ = QFileDialog.getSaveFileName(
            self._parent, "Save project", self._suggested(PROJECT_SUFFIX), _PROJECT_FILTER
        )
        if path and self._may_write(_project_name(Path(path)), Path(path)):
            self.write_project(path)

    def _may_write(self, target: Path, typed: Path) -> bool:
        """Ask about a file that is there and is not the one that the dialog asked about."""
        if target == typed or not os.path.lexists(target):
            return True
        question = f"{target} exists already. Replace it?"
        answer = QMessageBox.question(self._parent, "Replace?", question)
        return bool(answer == QMessageBox.StandardButton.Yes)

    def write_project(self, path: str | Path) -> None:
        """Write the project; from now on it is kept there."""
        target = _project_name(Path(path))
        session = self._session()
        if session is None:
            self._tell("There is no video; open one, or choose an image layer.")
            return
        session.when_settled(lambda: self._write_project(session, target))

    def _write_project(self, session: Session, target: Path) -> None:
        self._turn_to(session.stack)
        try:
            written = self._write(saving.project_of(session), target)
        except (SurgSam2Error, OSError) as error:
            self._tell(str(error))
        else:
            self._here = _Kept(target, written, _stamp(target))
            session.replaces_lost = False
            self._timer.stop()

    def _write(self, project: Project, path: Path) -> Project:
        """Write a project with what nothing here changes, and return it."""
        from napari_surgsam2.project import save_project

        if (known := self._here.written) is not None:
            project = dataclasses.replace(project, direction=known.direction, frames=known.frames)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_project(path, project)
        return project

    def begin(self, session: Session) -> None:
        """Begin with another video, and with the projects that it had when it was left.

        That of the plane in view is not gone on with if its prompts are gone, as their layers may be.
        """
        self._plane = session.stack.plane
        self._elsewhere = dict(_left.pop(session.image, {}))
        here = self._elsewhere.pop(self._plane, _Kept())
        is_there = here.written is None or not here.written.prompts or session.has_prompts
        self._here = here if is_there else _Kept()

    def leave(self, session: Session) -> None:
        """Leave the project files of a video for when it is begun with again."""
        kept = {**self._elsewhere, self._plane: self._here}
        # Without the stamp, a file is looked into before it is written the next time.
        _left[session.image] = {
            plane: project._replace(stamp=None) for plane, project in kept.items() if project.path is not None
        }

    def _turn_to(self, stack: LayerStack) -> None:
        """Go on with the project of the part of the image in view; that of another one is kept for later."""
        if stack.plane == self._plane:
            return
        self._elsewhere[self._plane] = self._here
        self._plane = stack.plane
        self._here = self._elsewhere.pop(stack.plane, _Kept())

    def opened(self, path: Path, project: Project) -> None:
        """Keep a project that was opened where it is, once it is changed."""
        session = self._session()
        if session is not None:
            self._turn_to(session.stack)
        self._here = _Kept(path, project, _stamp(path))

    def ask_project(self) -> str:
        """Ask which project to open; empty if none."""
        path, _ = QFileDialog.getOpenFileName(self._parent, "Open project", "", _PROJECT_FILTER)
        return path

    def autosave_soon(self) -> None:
        """Keep the project once nothing has changed for a while."""
        self._timer.start()

    def autosave(self, now: bool = False) -> None:
        """Keep the prompts where the project was saved, or else in the cache folder.

        Unless it has to be `now`, what is under way in the frames is waited for.
        """
        session = self._session()
        if session is None or session.lost_prompts:
            return
        if session.is_changing_frames and not now:
            self.autosave_soon()  # rather than have the window wait for that
            return
        self._turn_to(session.stack)
        path = self.project_path or autosaves.autosave_path(session)
        if path is None:
            return
        try:
            project = saving.project_of(session)
            if self._is_news(project):
                if session.replaces_lost or self._here.stamp != _stamp(path):
                    self._put_aside(path, project)
                self._here = _Kept(self.project_path, self._write(project, path), _stamp(path))
                session.replaces_lost = False
                self._told = None
        except (SurgSam2Error, OSError) as error:
            if (path, str(error)) != self._told:  # once, rather than at every click
                self._told = path, str(error)
                self._tell(f"The prompts could not be kept: {error}")

    def _put_aside(self, path: Path, project: Project) -> None:
        """Keep what an earlier or another session left in a file, or what was lost with its layer."""
        if not path.exists() or not saving.has_more(path, project):
            return
        aside = path.with_name(f"{datetime.now():%Y-%m-%d-%H%M%S-%f}-{path.name}")
        path.replace(aside)
        show_info(f"What was kept of this video before is in {aside}; Open project... opens it.")

    def _is_news(self, project: Project) -> bool:
        """Whether the file does not say it yet; what an earlier session left is not replaced by nothing."""
        known = self._here.written
        if known is None:
            return bool(project.prompts or project.names)
        as_there = dataclasses.replace(
            project, video=known.video, direction=known.direction, frames=known.frames
        )
        return not saving.same(as_there, known)

    def flush(self) -> None:
        """Keep now what was to be kept soon."""
        if self._timer.isActive():
            self._timer.stop()
            self.autosave(now=True)

    def earlier(self) -> Project | None:
        """Return what was kept of an earlier session on the same video, where this one has no prompts yet."""
        session = self._session()
        if session is None or session.has_prompts:
            return None
        return autosaves.found_autosave(session)

    def _suggested(self, ending: str) -> str:
        session = self._session()
        if session is None:
            return ending
        source = autosaves.source_path(session.image)
        folder, stem = (Path.cwd(), session.image.name) if source is None else (source.parent, source.stem)
        return os.fspath(folder / f"{stem}{ending}")


def _masks_name(typed: Path, kind: str) -> Path:
    """Return the name of masks that were typed as `typed`, with a filter of the dialog chosen as the kind.

    An ending that the user gave decides; else, and in place of the suggested one, the kind does.
    """
    endings = next((s for name, s in _SUFFIXES.items() if kind.startswith(name)), ())
    ending = typed.suffix.lower()
    known = ending in _KNOWN_SUFFIXES
    if ending in endings or (known and (not kind or ending != _SUGGESTED)):
        return typed
    stem = typed.stem if known else typed.name
    return typed.with_name(stem + (endings[0] if endings else ""))


def _stamp(path: Path) -> object:
    """Return what tells whether a file was written since; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _project_name(typed: Path) -> Path:
    if typed.name.endswith(PROJECT_SUFFIX):
        return typed
    return typed.with_name(typed.name.removesuffix(".json") + PROJECT_SUFFIX)
