"""Click an object once and get its mask in every frame of a video.

SAM 2 with Efficient Frame Pruning, as a napari plugin, a command line and a Python library. Names are
imported when first used: importing the package starts neither torch nor napari.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Box": "prompts",
    "Mask": "prompts",
    "Point": "prompts",
    "Project": "project",
    "PruningSettings": "settings",
    "SurgSam2Error": "errors",
    "Tracker": "tracking",
    "TrackingSettings": "settings",
    "load_model": "checkpoints",
    "load_project": "project",
    "load_prompts": "prompts",
    "open_video": "video",
    "run_batch": "batch",
    "save_project": "project",
    "save_prompts": "prompts",
    "track": "pipeline",
}

if TYPE_CHECKING:
    from .batch import run_batch as run_batch
    from .checkpoints import load_model as load_model
    from .errors import SurgSam2Error as SurgSam2Error
    from .pipeline import track as track
    from .project import Project as Project
    from .project import load_project as load_project
    from .project import save_project as save_project
    from .prompts import Box as Box
    from .prompts import Mask as Mask
    from .prompts import Point as Point
    from .prompts import load_prompts as load_prompts
    from .prompts import save_prompts as save_prompts
    from .settings import PruningSettings as PruningSettings
    from .settings import TrackingSettings as TrackingSettings
    from .tracking import Tracker as Tracker
    from .video import open_video as open_video

__all__ = [*sorted(_WHERE), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-surgsam2")
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
