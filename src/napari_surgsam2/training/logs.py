"""What a run tells of its steps, and the logs that keep it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from napari_surgsam2.errors import OutputError

from .folder import STEP_LOG, VALIDATION_LOG, saving
from .losses import Losses
from .validation import VideoScore, mean_j_and_f

_COLUMNS = (
    "step", "loss", "focal", "dice", "iou", "score", "first_iou", "later_iou", "learning_rate", "gradient",
    "seconds", "validation_j_and_f",
)  # fmt: skip
_SCORE_COLUMNS = ("step", "video", "objects", "j", "f", "first_j", "false_positives")


@dataclass(frozen=True)
class StepReport:
    """What a run tells of its last steps; the numbers are nan where it only made up for a validation.

    Attributes
    ----------
    step : int
        Steps done.
    steps : int
        Steps in all.
    loss : float
        Weighted sum of the losses, averaged over the steps since the last report.
    losses : Losses
        Each of them.
    first_iou, later_iou : float
        Mean IoU of the masks in the first frame of the training clips, and in the others; nan without.
    learning_rate : float
        Of the parts without a factor.
    gradient : float
        Norm of the gradients before they were clipped.
    seconds : float
        Time per step, with the time that it waited for clips.
    scores : list of VideoScore or None
        Where this step was validated.
    """

    step: int
    steps: int
    loss: float
    losses: Losses
    first_iou: float
    later_iou: float
    learning_rate: float
    gradient: float
    seconds: float
    scores: list[VideoScore] | None = None

    @property
    def has_steps(self) -> bool:
        """Whether there were steps since the last report."""
        return not math.isnan(self.seconds)

    @property
    def j_and_f(self) -> float:
        """Mean J&F of the validation videos; nan without."""
        return mean_j_and_f(self.scores or [])


class Meter:
    """Averages over the steps since the last report."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._ious: tuple[list[float], list[float]] = ([], [])
        self._rate = float("nan")

    def add(
        self,
        loss: float,
        losses: Losses,
        ious: list[tuple[int, float]],
        norm: float,
        rate: float,
        seconds: float,
    ) -> None:
        """Take a step into the averages; `ious` are by frame."""
        self._rows.append((loss, norm, seconds, *map(float, losses)))
        for t, iou in ious:
            self._ious[t > 0].append(iou)
        self._rate = rate

    def report(self, step: int, steps: int, scores: list[VideoScore] | None) -> StepReport:
        """Return the averages, and begin anew; nan of no steps."""
        loss, norm, seconds, *parts = (
            _mean([row[i] for row in self._rows]) for i in range(3 + len(Losses._fields))
        )
        losses = Losses(*map(torch.tensor, parts))
        first, later = map(_mean, self._ious)
        report = StepReport(step, steps, loss, losses, first, later, self._rate, norm, seconds, scores)
        for kept in (self._rows, *self._ious):
            kept.clear()
        return report


class RunLog:
    """The logs of a run, open to be written; rows past the step that the run goes on from are dropped.

    Parameters
    ----------
    folder : Path
        Of the run.
    step : int
        Steps done.

    Raises
    ------
    OutputError
        If they cannot be read or written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / STEP_LOG
        _drop_scores(folder, step)
        rows = _rows(self._path, step)
        with ExitStack() as opened, saving(self._path):
            self._file = opened.enter_context(self._path.open("w", newline="", encoding="utf-8"))
            self._writer = csv.writer(self._file)
            self._writer.writerows([_COLUMNS, *rows])
            self._file.flush()
            self._board = _tensorboard(folder, step)
            if self._board is not None:
                opened.callback(self._board.close)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with saving(self._path):
            self._opened.close()

    def write(self, report: StepReport) -> None:
        """Write a row, and to TensorBoard where there is one."""
        score = f"{report.j_and_f:.4f}" if report.scores else ""
        numbers = (report.loss, *map(float, report.losses), report.first_iou, report.later_iou)
        more = (report.learning_rate, report.gradient, report.seconds)
        with saving(self._path):
            self._writer.writerow([report.step, *(f"{x:.6g}" for x in (*numbers, *more)), score])
            self._file.flush()
            if self._board is not None:
                _to_tensorboard(self._board, report)


def last_validation(folder: Path, step: int) -> int:
    """Return the newest step, up to one, whose scores are in the log; 0 without."""
    return max((int(row[0]) for row in _rows(folder / VALIDATION_LOG, step)), default=0)


def append_scores(folder: Path, step: int, scores: list[VideoScore]) -> None:
    """Add the scores of a validation to the log."""
    path = folder / VALIDATION_LOG
    with saving(path):
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_SCORE_COLUMNS)
            for s in scores:
                numbers = (s.j, s.f, s.first_j, s.false_positives)
                writer.writerow((step, s.name, s.objects, *(f"{x:.4f}" for x in numbers)))


def _drop_scores(folder: Path, step: int) -> None:
    """Drop the rows of the scores past a step."""
    path = folder / VALIDATION_LOG
    rows = _rows(path, step)
    if path.exists():
        with saving(path), path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_SCORE_COLUMNS, *rows])


def _rows(path: Path, step: int) -> list[list[str]]:
    """Return the rows of a log up to a step, without its head."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in list(csv.reader(file))[1:] if row and int(row[0]) <= step]
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(
            f"The log '{path}' cannot be read: {error}. Its rows must begin with the number of a step and a "
            "comma; move it away if another program has changed it."
        ) from error


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _to_tensorboard(board: Any, report: StepReport) -> None:
    if report.has_steps:
        board.add_scalar("loss", report.loss, report.step)
        for name, value in report.losses._asdict().items():
            board.add_scalar(f"loss/{name}", float(value), report.step)
        board.add_scalar("iou/first", report.first_iou, report.step)
        board.add_scalar("iou/later", report.later_iou, report.step)
        board.add_scalar("learning rate", report.learning_rate, report.step)
    if report.scores:
        board.add_scalar("validation/J&F", report.j_and_f, report.step)
