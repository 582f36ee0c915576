"""What a run tells of its steps, and the logs that keep it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from napari_surgsam2.errors import OutputError
from napari_surgsam2.files import write_atomically

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
        Mean IoU of the masks in the first frame of the training clips, and in the others, of several
        processes those of the first; nan without.
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
    """Averages over the steps since the last report, which go on with a run that was stopped."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._ious: tuple[list[float], list[float]] = ([], [])
        self._rate = float("nan")

    @property
    def has_steps(self) -> bool:
        """Whether there were steps since the last report."""
        return bool(self._rows)

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
        """Return the averages; nan of no steps."""
        loss, norm, seconds, *parts = (
            _mean([row[i] for row in self._rows]) for i in range(3 + len(Losses._fields))
        )
        losses = Losses(*map(torch.tensor, parts))
        first, later = map(_mean, self._ious)
        return StepReport(step, steps, loss, losses, first, later, self._rate, norm, seconds, scores)

    def clear(self) -> None:
        """Begin anew, once a report is written."""
        for kept in (self._rows, *self._ious):
            kept.clear()

    def state(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        first, later = self._ious
        return {"rows": list(self._rows), "first": list(first), "later": list(later), "rate": self._rate}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        self._rows = list(state["rows"])
        self._ious = (list(state["first"]), list(state["later"]))
        self._rate = state["rate"]


class RunLog:
    """The logs of a run, with one row for each step that was reported, whatever interrupted the run.

    Rows past the step that the run goes on from are dropped, for those steps are done again, and so is one
    that was written in part.

    Parameters
    ----------
    folder : Path
        Of the run.
    step : int
        Steps done.

    Attributes
    ----------
    newest : int
        The newest step that has a row; 0 without.

    Raises
    ------
    OutputError
        If they cannot be read or written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / STEP_LOG
        _drop_scores(folder, step)
        rows = _rows(self._path, step)
        self.newest = int(rows[-1][0]) if rows else 0
        with saving(self._path):
            _replace(self._path, [_COLUMNS, *rows])
            self._board = _tensorboard(folder, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board is not None:
            with saving(self._path):
                self._board.close()

    def write(self, report: StepReport) -> None:
        """Write a row, and to TensorBoard where there is one; of a step that has a row, its score."""
        score = f"{report.j_and_f:.4f}" if report.scores else ""
        numbers = (report.loss, *map(float, report.losses), report.first_iou, report.later_iou)
        more = (report.learning_rate, report.gradient, report.seconds)
        row = [str(report.step), *(f"{x:.6g}" for x in (*numbers, *more)), score]
        rows = _rows(self._path, report.step) if report.step == self.newest else []
        with saving(self._path):
            if rows:
                rows[-1] = [*rows[-1][: len(row) - 1], score]
                _replace(self._path, [_COLUMNS, *rows])
            else:
                head = [] if self._path.exists() else [_COLUMNS]
                with self._path.open("a", newline="", encoding="utf-8") as file:
                    file.write(_text([*head, row]))
            self.newest = report.step
            if self._board is not None:
                _to_tensorboard(self._board, report)


def last_validation(folder: Path, step: int) -> int:
    """Return the newest step, up to one, whose scores are in both logs; 0 without."""
    reported = {int(row[0]) for row in _rows(folder / STEP_LOG, step)}
    validated = {int(row[0]) for row in _rows(folder / VALIDATION_LOG, step)}
    return max(reported & validated, default=0)


def append_scores(folder: Path, step: int, scores: list[VideoScore]) -> None:
    """Add the scores of a validation to the log, all at once; those of the same step give way to them."""
    path = folder / VALIDATION_LOG
    new = [
        [str(step), s.name, str(s.objects), *(f"{x:.4f}" for x in (s.j, s.f, s.first_j, s.false_positives))]
        for s in scores
    ]
    with saving(path):
        _replace(path, [_SCORE_COLUMNS, *_rows(path, step - 1), *new])


def _drop_scores(folder: Path, step: int) -> None:
    """Drop the rows of the scores past a step."""
    path = folder / VALIDATION_LOG
    if path.exists():
        rows = _rows(path, step)
        with saving(path):
            _replace(path, [_SCORE_COLUMNS, *rows])


def _replace(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Replace a log at once or not at all, so that a full disk does not cost what is there."""
    data = _text(rows).encode()
    if not path.exists() or path.read_bytes() != data:
        write_atomically(path, data)


def _text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _rows(path: Path, step: int) -> list[list[str]]:
    """Return the rows of a log up to a step, without its head and without a last line that has no end."""
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode()
        whole = io.StringIO(text[: text.rfind("\n") + 1], newline="")
        return [row for row in list(csv.reader(whole))[1:] if row and int(row[0]) <= step]
    except OSError as error:
        raise OutputError(
            f"The log '{path}' cannot be read: {error.strerror or error}. Close it where another program has "
            "it open, or change its permissions, and give the same command to go on."
        ) from error
    except (ValueError, csv.Error) as error:
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
