"""Scores as files: a CSV row for every video, object and frame, and a JSON summary."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from napari_surgsam2.errors import OutputError
from napari_surgsam2.files import made_aside, writing

from .challenge import ClassScores, join_class_scores
from .scoring import Summary, VideoScores, summarize

COLUMNS = ("video", "object", "frame", "J", "F", "J&F", "Dice")


def write_csv(
    path: str | os.PathLike[str], videos: Sequence[VideoScores], *, overwrite: bool = False
) -> Path:
    """Write a row for every video, object and frame that counts, columns `COLUMNS`.

    Raises
    ------
    OutputError
        If the file exists and is not to be replaced, or cannot be written.
    """
    target = Path(path).absolute()
    with _new_file(target, overwrite) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for video in videos:
            for one in video.objects:
                scores = zip(one.frames, one.j, one.f, one.j_and_f, one.dice, strict=True)
                for t, *values in scores:
                    numbers = (f"{value:.6g}" for value in values)
                    rows.writerow((video.name, one.object_id, video.frames[t], *numbers))
    return target


def write_json(
    path: str | os.PathLike[str], videos: Sequence[VideoScores], *, overwrite: bool = False
) -> Path:
    """Write `summary_dict` as JSON; errors are those of `write_csv`."""
    target = Path(path).absolute()
    with _new_file(target, overwrite) as file:
        json.dump(summary_dict(videos), file, indent=2)
        file.write("\n")
    return target


def check_new_file(path: Path | None, overwrite: bool) -> None:
    """Raise OutputError if a file could not be written, before the work is done that it is for."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise OutputError(f"The folder {path.absolute().parent} does not exist; create it first.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; choose the name of a file.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name, or replace it with --force.")


def summary_dict(videos: Sequence[VideoScores]) -> dict[str, Any]:
    """Return the means over all objects, those of every video and of every object, as JSON-ready values."""
    return {
        "mean": _summary(summarize(videos)),
        "videos": {video.name: _video(video) for video in videos},
        "endovis": _classes([video.classes for video in videos if video.classes is not None]),
    }


def _video(video: VideoScores) -> dict[str, Any]:
    objects = {
        str(one.object_id): _summary(summarize([VideoScores(video.name, video.frames, [one])]))
        for one in video.objects
    }
    return {
        **_summary(video.summary),
        "labels_not_in_ground_truth": list(video.unknown),
        "by_object": objects,
        "endovis": _classes([] if video.classes is None else [video.classes]),
    }


def _summary(summary: Summary) -> dict[str, Any]:
    values = {"j_and_f": summary.j_and_f, **vars(summary)}
    return {name: _number(value) for name, value in values.items()}


def _classes(parts: list[ClassScores]) -> dict[str, Any] | None:
    if not parts:
        return None
    scores = join_class_scores(parts)
    return {
        "challenge_iou": _number(scores.challenge_iou),
        "isi_iou": _number(scores.isi_iou),
        "mean_class_iou": _number(scores.mean_class_iou),
        "class_iou": scores.class_iou,
    }


def _number(value: float) -> float | None:
    """Return a number as JSON knows it; it has no nan."""
    return None if math.isnan(value) else value


@contextmanager
def _new_file(target: Path, overwrite: bool) -> Iterator[IO[str]]:
    """Open a file that appears under its name when it is complete."""
    check_new_file(target, overwrite)
    with made_aside(target) as temporary, writing(target):
        # Names of files need not be text.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        temporary.replace(target)
