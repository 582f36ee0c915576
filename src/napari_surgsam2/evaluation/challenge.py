"""The EndoVis challenges' scores for instrument types: Challenge IoU, ISI IoU and mean class IoU.

They are defined by the 2017 challenge (Allan et al., arXiv 1902.06426) and by ISINet (González et al., MICCAI
2020, arXiv 2007.05533), and compare images whose pixels are classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

ENDOVIS17_CLASSES = {
    1: "Bipolar Forceps",
    2: "Prograsp Forceps",
    3: "Large Needle Driver",
    4: "Vessel Sealer",
    5: "Grasping Retractor",
    6: "Monopolar Curved Scissors",
    7: "Other",
}
ENDOVIS18_CLASSES = {
    1: "Bipolar Forceps",
    2: "Prograsp Forceps",
    3: "Large Needle Driver",
    4: "Monopolar Curved Scissors",
    5: "Ultrasound Probe",
    6: "Suction Instrument",
    7: "Clip Applier",
}


@dataclass(frozen=True)
class Classes:
    """What the labels of videos are.

    Attributes
    ----------
    names : mapping of int to str
        The classes.
    objects : mapping of str to mapping of int to int, optional
        By video, the class of each object; without it labels are classes.
    each_object : bool
        Every object of every video is a class of its own; `names` and `objects` do not matter.
    """

    names: Mapping[int, str]
    objects: Mapping[str, Mapping[int, int]] | None = None
    each_object: bool = False

    def of_video(self, video: str, object_ids: Iterable[int]) -> dict[int, str]:
        """Return the names of the classes of a video's labels.

        Raises
        ------
        UsageError
            If an object of the reference, or the whole video, has no class.
        """
        ids = sorted(object_ids)
        if self.each_object:
            return {i: f"{video} object {i}" for i in ids}
        if self.objects is None:
            table = {i: i for i in self.names}
        elif video in self.objects:
            table = dict(self.objects[video])
        else:
            raise UsageError(f"The table of classes has no video '{video}'; add it, with a class per object.")
        for i in ids:
            if i not in table:
                raise UsageError(
                    f"The ground truth of '{video}' has the label {i}, which has no class; there are: "
                    f"{', '.join(map(str, sorted(table)))}. Give the table of classes that belongs to it."
                )
        return {i: self.names[c] for i, c in table.items()}


def load_classes(choice: str | os.PathLike[str]) -> Classes:
    """Return the classes that a choice stands for.

    Parameters
    ----------
    choice : {"2017", "2018", "objects"} or path
        The classes of an EndoVis challenge, the labels being their numbers; every object a class of its own;
        or a JSON file as `prepare-endovis` writes it,
        `{"classes": {"1": "Bipolar Forceps", ...}, "objects": {"seq_2": {"1": 3, ...}, ...}}`,
        in which `objects` says by video which class each object has, and may be missing.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    text = os.fspath(choice)
    if text in ("2017", "2018"):
        return Classes(ENDOVIS17_CLASSES if text == "2017" else ENDOVIS18_CLASSES)
    if text == "objects":
        return Classes({}, each_object=True)
    try:
        return _parse(json.loads(Path(text).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"The classes are '{text}'; they must be 2017, 2018, objects, or a JSON file with `classes` "
            f"(names by number) and perhaps `objects` (numbers of classes by object, by video): {error!r}."
        ) from error


def _parse(table: Any) -> Classes:
    names = {int(i): str(name) for i, name in table["classes"].items()}
    if min(names, default=1) < 1:
        raise ValueError(f"the class {min(names)} is there, and 0 is background; leave it out")
    objects = table.get("objects")
    if objects is None:
        return Classes(names)
    by_video = {video: {int(i): int(c) for i, c in one.items()} for video, one in objects.items()}
    for video, one in by_video.items():
        if unknown := set(one.values()) - set(names):
            raise ValueError(f"an object of '{video}' has the class {min(unknown)}, which has no name")
    return Classes(names, by_video)


@dataclass(frozen=True, eq=False)
class ClassScores:
    """The IoU of every class in every frame, and what the challenges make of them.

    Attributes
    ----------
    classes : tuple of str
        Names of the C classes.
    iou : ndarray, shape (T, C)
        nan where a class is in neither image.
    in_reference : ndarray, shape (T, C), bool
        Where a class is in the ground truth.
    """

    classes: tuple[str, ...]
    iou: NDArray[np.float64]
    in_reference: NDArray[np.bool_]

    @property
    def challenge_iou(self) -> float:
        """Mean over the frames that show an instrument of the mean IoU over the classes that they show."""
        return _mean_of_means(np.where(self.in_reference, self.iou, np.nan))

    @property
    def isi_iou(self) -> float:
        """The same over the classes that are in the ground truth or the prediction, and such frames."""
        return _mean_of_means(self.iou)

    @property
    def class_iou(self) -> dict[str, float]:
        """By class, the mean over the frames in which it is in either image; without classes in none."""
        return {
            name: float(np.nanmean(column))
            for name, column in zip(self.classes, self.iou.T, strict=True)
            if not np.isnan(column).all()
        }

    @property
    def mean_class_iou(self) -> float:
        """The mean of `class_iou`."""
        values = list(self.class_iou.values())
        return float(np.mean(values)) if values else float("nan")


def class_scores(
    predicted: Any, reference: Any, names: Mapping[int, str], void_label: int | None = None
) -> ClassScores:
    """Compare two volumes of classes.

    Parameters
    ----------
    predicted, reference : array-like, shape (T, Y, X), integer
        Numbers of classes; any that has no name is background.
    names : mapping of int to str
        The classes. Several numbers may have one name; they are one class.
    void_label : int, optional
        Pixels of this value in the reference are not counted.
    """
    rows = []
    for t in range(len(reference)):
        truth = np.asarray(reference[t])
        void = None if void_label is None else truth == void_label
        rows.append(frame_class_scores(np.asarray(predicted[t]), truth, names, void))
    return join_class_scores(rows, names)


def frame_class_scores(
    predicted: NDArray[Any], reference: NDArray[Any], names: Mapping[int, str], void: NDArray[np.bool_] | None
) -> ClassScores:
    """Compare two images (Y, X); the scores have one frame."""
    order = tuple(dict.fromkeys(names.values()))
    numbers = {i: order.index(name) + 1 for i, name in names.items()}
    size = len(order) + 1
    pairs = _renumber(reference, numbers) * size + _renumber(predicted, numbers)
    counted = pairs.ravel() if void is None else pairs[~void]
    table = np.bincount(counted, minlength=size * size).reshape(size, size)
    both = np.diag(table)[1:]
    ours, theirs = table.sum(axis=0)[1:], table.sum(axis=1)[1:]
    union = ours + theirs - both
    iou = np.full(len(order), np.nan)
    np.divide(both, union, out=iou, where=union > 0)
    return ClassScores(order, iou[np.newaxis], (theirs > 0)[np.newaxis])


def join_class_scores(parts: Sequence[ClassScores], names: Mapping[int, str] | None = None) -> ClassScores:
    """Return the scores of several videos, or frames, as those of one; classes are told by their names."""
    order = tuple(dict.fromkeys([*(names or {}).values(), *(n for part in parts for n in part.classes)]))
    frames = sum(len(part.iou) for part in parts)
    iou = np.full((frames, len(order)), np.nan)
    present = np.zeros((frames, len(order)), dtype=bool)
    row = 0
    for part in parts:
        columns = [order.index(name) for name in part.classes]
        iou[row : row + len(part.iou), columns] = part.iou
        present[row : row + len(part.iou), columns] = part.in_reference
        row += len(part.iou)
    return ClassScores(order, iou, present)


def _renumber(labels: NDArray[Any], numbers: Mapping[int, int]) -> NDArray[np.intp]:
    """Return labels with other numbers, 0 for those that have none."""
    if labels.dtype == np.uint8:
        table = np.zeros(256, dtype=np.intp)
        for old, new in numbers.items():
            if 0 <= old < 256:
                table[old] = new
        by_value: NDArray[np.intp] = table[labels]
        return by_value
    values, places = np.unique(labels, return_inverse=True)
    table = np.array([numbers.get(int(v), 0) for v in values], dtype=np.intp)
    by_place: NDArray[np.intp] = table[places].reshape(labels.shape)
    return by_place


def _mean_of_means(iou: NDArray[np.float64]) -> float:
    """Return the mean over rows of the mean of each, of what is no nan; nan if there is nothing."""
    rows = iou[~np.isnan(iou).all(axis=1)] if iou.size else iou[:0]
    return float(np.nanmean(rows, axis=1).mean()) if len(rows) else float("nan")
