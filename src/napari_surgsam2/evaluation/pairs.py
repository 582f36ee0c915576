"""Which predicted labels belong to which ground truth: folders of videos, or single volumes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError
from napari_surgsam2.masks import read_labels
from napari_surgsam2.video.natural import natural_key

from .scoring import LabelPair
from .vos_folder import files_in, folders_in, read_label_png, some, video_names

_ZARR_MARKERS = ("zarr.json", ".zarray", ".zgroup")
_ALL_OBJECTS = "all"  # Surgical SAM 2 writes its results here, beside a folder for each object


def pair_labels(
    predictions: str | os.PathLike[str],
    ground_truth: str | os.PathLike[str],
    videos: Sequence[str] | str | os.PathLike[str] | None = None,
) -> list[LabelPair]:
    """Pair predicted labels with ground truth; nothing is read but names and shapes.

    Parameters
    ----------
    predictions, ground_truth : path
        Two folders with a folder of PNGs per video, paired by name, as are the frames, of which not all need
        have ground truth. Or two volumes: each a TIFF, zarr, COCO JSON or folder of PNGs; frames are paired
        by name where both are folders, else in order, and must be as many.
    videos : sequence of str or path, optional
        Names of the videos to take, or a text file with one name a line; all if left out.

    Returns
    -------
    list of LabelPair

    Raises
    ------
    UsageError
        If there is nothing, or videos, frames or sizes do not match; the message says which.
    """
    paths = [Path(predictions), Path(ground_truth)]
    for path, what in zip(paths, ("predictions", "ground truth"), strict=True):
        if not path.exists():
            raise UsageError(f"There is no {what} '{path}'; check the path.")
    many = [_holds_videos(path) for path in paths]
    if many[0] != many[1]:
        with_videos, single = (paths[0], paths[1]) if many[0] else (paths[1], paths[0])
        raise UsageError(
            f"'{with_videos}' holds a folder for each video, and '{single}' is a single volume; give two "
            "folders of videos or two volumes."
        )
    if not many[0]:
        if videos is not None:
            raise UsageError(f"'{paths[0]}' is a single volume, of which no videos can be chosen.")
        return [_pair(paths[0].stem or str(paths[0]), *paths)]
    names = _common_names(paths[0], paths[1], videos)
    return [_pair(name, _folder_of(paths[0] / name), _folder_of(paths[1] / name)) for name in names]


def _holds_videos(path: Path) -> bool:
    return path.is_dir() and not _is_zarr(path) and not files_in(path, (".png",)) and bool(folders_in(path))


def _is_zarr(path: Path) -> bool:
    return path.suffix.lower() == ".zarr" or any((path / marker).exists() for marker in _ZARR_MARKERS)


def _folder_of(video: Path) -> Path:
    everything = video / _ALL_OBJECTS
    return everything if everything.is_dir() and not files_in(video, (".png",)) else video


def _common_names(
    predictions: Path, ground_truth: Path, videos: Sequence[str] | str | os.PathLike[str] | None
) -> list[str]:
    predicted, known = folders_in(predictions), folders_in(ground_truth)
    if videos is None:
        both = ((known, ground_truth, predictions), (predicted, predictions, ground_truth))
        for names, here, there in both:
            if lacking := names - (predicted & known):
                raise UsageError(
                    f"{some(lacking)} in '{here}' {'have' if len(lacking) > 1 else 'has'} no folder in "
                    f"'{there}', which has: {some(folders_in(there))}. Videos are matched by name; rename "
                    "them, or name those to compare with --video-list (videos)."
                )
        return sorted(known, key=natural_key)
    chosen = video_names(videos)
    for folder in (predictions, ground_truth):
        require_videos(folder, chosen)
    return chosen


def require_videos(folder: Path, names: Sequence[str]) -> None:
    """Raise UsageError if a video has no folder in `folder`."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}'; it must hold a folder for each video.")
    there = folders_in(folder)
    for name in names:
        if name not in there:
            raise UsageError(
                f"The video '{name}' has no folder in '{folder}', which has: {some(there)}. Correct the "
                "name, or leave it out of the videos."
            )


def _pair(name: str, predictions: Path, ground_truth: Path) -> LabelPair:
    if all(path.is_dir() and not _is_zarr(path) for path in (predictions, ground_truth)):
        return _pair_folders(name, predictions, ground_truth)
    volumes = [_volume(path) for path in (predictions, ground_truth)]
    ours, theirs = (tuple(volume.shape) for volume in volumes)
    if ours != theirs:
        what = "frames" if ours[0] != theirs[0] else "size"
        raise UsageError(
            f"The predictions '{predictions}' have the shape {ours} and the ground truth '{ground_truth}' "
            f"{theirs} (frames, height, width): the {what} must be the same. Give volumes of the same frames."
        )
    readers = [_reader(volume) for volume in volumes]
    frames = [str(t) for t in range(ours[0])]
    return LabelPair(name, frames, readers[0], readers[1], str(predictions), str(ground_truth))


def _pair_folders(name: str, predictions: Path, ground_truth: Path) -> LabelPair:
    ours, theirs = (
        {file.stem: file for file in files_in(folder, (".png",))} for folder in (predictions, ground_truth)
    )
    for folder, files in ((predictions, ours), (ground_truth, theirs)):
        if not files:
            raise UsageError(f"The folder '{folder}' holds no PNGs; each frame must be one.")
    if lacking := [frame for frame in theirs if frame not in ours]:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UsageError(
            f"The frame '{lacking[0]}'{more} of the ground truth '{ground_truth}' has no PNG of this name in "
            f"the predictions '{predictions}', whose first is '{next(iter(ours))}'. Frames are matched by "
            "name; rename the files, or predict all frames."
        )
    frames = list(theirs)
    return LabelPair(
        name,
        frames,
        lambda t: read_label_png(ours[frames[t]]),
        lambda t: read_label_png(theirs[frames[t]]),
        str(predictions),
        str(ground_truth),
    )


def _volume(path: Path) -> Any:
    labels = read_labels(path)
    return labels if labels.ndim == 3 else labels[np.newaxis]


def _reader(volume: Any) -> Any:
    def read(t: int) -> NDArray[Any]:
        labels = np.asarray(volume[t])
        return labels.astype(np.uint8) if labels.dtype == bool else labels

    return read
