"""What tells the masks of a job from those that it would give if it were another one."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from napari_surgsam2.errors import VideoError
from napari_surgsam2.paths import expanded
from napari_surgsam2.project import Project
from napari_surgsam2.prompts import as_prompts, prompts_to_dict

from .jobs import Job

# Raised whenever identities come to be made otherwise; the first ones had no such number before them.
_FORM = "2:"
_END_BYTES = 2**20


def job_identities(jobs: Sequence[Job]) -> list[str]:
    """Return for each job a digest of its video, prompts, model and settings.

    It is empty where the video cannot be read here.

    Raises
    ------
    SurgSam2Error
        If a project or prompts cannot be read.
    """
    content = functools.cache(_content)  # many jobs may have one video
    return [_job_identity(job, content) for job in jobs]


def are_known_to_differ(one: str, other: str) -> bool:
    """Whether two digests are of different jobs; one that is empty or of another form does not say that."""
    return one != other and one.startswith(_FORM) and other.startswith(_FORM)


def _job_identity(job: Job, content: Callable[[Path], str]) -> str:
    from napari_surgsam2.pipeline import model_identity, settings_identity

    project = job.loaded_project()
    base = project or Project()
    contrast = base.contrast_limits
    video = job.video or base.video
    assert video is not None, "a job that was checked has a video"
    try:
        pixels = content(expanded(video))
    except (OSError, VideoError):  # which its worker will say, if it cannot read it either
        return ""
    values = {
        "video": pixels,
        "opened": [base.axes, base.channel, base.z, None if contrast is None else list(contrast)],
        "prompts": prompts_to_dict(as_prompts(job.prompts if project is None else project.prompts)),
        **model_identity(job.model or base.model, job.image_size or base.image_size),
        "settings": settings_identity(job.settings or base.settings),
        "direction": job.direction or base.direction,
        "frames": list(job.frames or base.frames or (0, None)),
    }
    return f"{_FORM}{_digest(values)}"


def _content(video: Path) -> str:
    """Return a digest of what tells a video from others wherever it is moved to, without reading all of it.

    That is its name, with the names and sizes of all its files and the ends of some: files that are not
    compressed are often of one size.
    """
    files, opened = _files(video)
    sizes = [(name, file.stat().st_size) for name, file in files]
    chosen = sorted({0, len(files) // 2, len(files) - 1})
    return _digest([video.name, opened, sizes, [_ends(files[i][1]) for i in chosen]])


def _files(video: Path) -> tuple[list[tuple[str, Path]], list[str | None]]:
    """Return the files of a video, sorted by their names in it, and what of a zarr group is opened.

    What lies among them and is not read, such as an output, does not count.
    """
    if video.is_file():
        return [(video.name, video)], []
    from napari_surgsam2.video.folder import pictures_in
    from napari_surgsam2.video.zarrs import find_array, is_zarr

    if not is_zarr(video):
        return sorted((file.name, file) for file in pictures_in(video)[0]), []
    array, axes = find_array(video)
    folder = video / array.path
    files = sorted((file.relative_to(folder).as_posix(), file) for file in _files_under(folder))
    return files, [array.path, axes]


def _files_under(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _ends(file: Path) -> str:
    """Return a digest of the first and the last megabyte."""
    with file.open("rb") as stream:
        start = stream.read(_END_BYTES)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _END_BYTES))
        return hashlib.sha256(start + stream.read(_END_BYTES)).hexdigest()


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
