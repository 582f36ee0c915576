"""What tells the masks of a job from those that it would give if it were another one."""

from __future__ import annotations

import hashlib
import json

from napari_surgsam2.paths import expanded
from napari_surgsam2.project import Project
from napari_surgsam2.prompts import as_prompts, prompts_to_dict

from .jobs import Job


def job_identity(job: Job) -> str:
    """Return a digest of a job's video, prompts, model and settings.

    Raises
    ------
    SurgSam2Error
        If the project or the prompts cannot be read.
    """
    from napari_surgsam2.pipeline import model_identity, settings_identity

    project = job.loaded_project()
    base = project or Project()
    contrast = base.contrast_limits
    values = {
        "video": _content(job.video or base.video),
        "opened": [base.axes, base.channel, base.z, None if contrast is None else list(contrast)],
        "prompts": prompts_to_dict(as_prompts(job.prompts if project is None else project.prompts)),
        **model_identity(job.model or base.model, job.image_size or base.image_size),
        "settings": settings_identity(job.settings or base.settings),
        "direction": job.direction or base.direction,
        "frames": list(job.frames or base.frames or (0, None)),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _content(video: object) -> list[object]:
    """Return what tells a video from others wherever it is moved to: its name, and the size of a file."""
    path = expanded(str(video))
    return [path.name, path.stat().st_size if path.is_file() else None]
