"""Where the prompts of a layer are kept without being asked, and what an earlier session kept there."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari_surgsam2.checkpoints import cache_folder
from napari_surgsam2.errors import SurgSam2Error
from napari_surgsam2.project import PROJECT_SUFFIX
from napari_surgsam2.video.layers import layer_path

from . import choosing

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_surgsam2.project import Project

    from .session import Session

_numbers: WeakKeyDictionary[Image, int] = WeakKeyDictionary()  # among the layers of one file


def source_path(image: Image) -> Path | None:
    """Return the file or folder that an image came from; None if it came from none, or it is gone."""
    path = layer_path(image) or image.source.path
    return Path(path) if path is not None and Path(path).exists() else None


def input_paths(image: Image) -> list[Path]:
    """Return the files or folders that an image is read from, which nothing may replace."""
    return [Path(path) for path in (layer_path(image), image.source.path) if path is not None]


def autosave_path(session: Session) -> Path | None:
    """Return where the prompts of a session's image and plane are kept; None if it is from no file."""
    return _path(session, layer_number(session.image, session.viewer))


def _path(session: Session, number: int) -> Path | None:
    """Return where the prompts of the layer of a number are kept, among those of the session's file."""
    source, stack = source_path(session.image), session.stack
    if source is None:
        return None
    planes = "-".join(f"{axis}.{index}" for axis, index in sorted(stack.picked.items()))
    digest = hashlib.sha256(f"{source.resolve()}|{stack.frame_axis}|{planes}".encode()).hexdigest()[:12]
    which = "" if number == 1 else f"-{number}"
    return cache_folder() / "autosave" / f"{source.stem}-{digest}{which}{PROJECT_SUFFIX}"


def layer_number(image: Image, viewer: ViewerModel) -> int:
    """Return which of the layers of its file an image is, from 1 on; it stays so as long as it is there.

    Layers of one file, such as its channels, are in the same order whenever it is opened. So each finds
    again what was kept of it, and nothing of another.
    """
    source = source_path(image)
    if source is None:
        return 1
    alike = [layer for layer in choosing.images(viewer) if source_path(layer) == source]
    for layer in alike:
        if layer not in _numbers:
            taken = {_numbers.get(other) for other in alike}
            _numbers[layer] = next(n for n in itertools.count(1) if n not in taken)
    return _numbers.get(image, 1)


def found_autosave(session: Session) -> Project | None:
    """Return what was kept of an earlier session on the same layer, if it can be used.

    Where nothing was kept of the layer itself, it is what was kept of the file's first: layers of one file
    once shared that.
    """
    own = _load(session, layer_number(session.image, session.viewer))
    return _load(session, 1) if own is None else own


def _load(session: Session, number: int) -> Project | None:
    from napari_surgsam2.project import load_project

    path = _path(session, number)
    if path is None or not path.is_file():
        return None
    try:
        project = load_project(path)
    except SurgSam2Error:
        return None
    fits = project.shape is None or tuple(project.shape) == session.stack.shape
    return project if fits and project.prompts else None
