"""A training run: its folder, its steps, and how it goes on where it stopped."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_surgsam2.checkpoints import Model, load_model
from napari_surgsam2.checkpoints.loading import resolve_device
from napari_surgsam2.checkpoints.saving import save_model
from napari_surgsam2.errors import DeviceMemoryError, OutputError, SurgSam2Error, UsageError
from napari_surgsam2.network import NetworkConfig, Sam2Network

from .loading import ClipSampler, make_source
from .losses import Losses
from .optimizer import WeightAverage, freeze, make_optimizer, set_learning_rate
from .settings import NEW, TrainingSettings
from .start import look_where_prompted
from .unroll import Batch, Unroller
from .validation import VideoScore, mean_j_and_f, score_videos

_MOST_SKIPPED = 20  # steps in a row whose gradients are not finite


class TrainingError(SurgSam2Error):
    """Training cannot go on."""


@dataclass(frozen=True)
class StepReport:
    """What a run tells of its last steps.

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
        Time per step.
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
    def j_and_f(self) -> float:
        """Mean J&F of the validation videos; nan without."""
        return mean_j_and_f(self.scores or [])


class TrainingRun:
    """A run in a folder; one that was interrupted goes on from its last checkpoint, to the same weights.

    Parameters
    ----------
    settings : TrainingSettings
        From `load_settings`.
    progress : callable, optional
        Told how many clips of a pool are made, of how many.

    Raises
    ------
    OutputError
        If the folder holds a run with other settings.
    UsageError
        If the settings do not fit the model or the data.
    """

    CHECKPOINT = "checkpoint.pt"
    MODEL = "model.safetensors"
    SETTINGS = "settings.json"
    STEP_LOG = "steps.csv"
    VALIDATION_LOG = "validation.csv"

    def __init__(
        self, settings: TrainingSettings, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.settings = settings
        self.folder = Path(settings.output)
        self._claim_folder()
        run = settings.run
        self.device = resolve_device(run.device)
        self._seed_everything(run.seed)
        self.network, self.image_size = self._start()
        self.network.to(self.device).train()
        freeze(self.network, settings.model.freeze)
        self._sampler = ClipSampler(settings, self.image_size, progress)
        self._optimizer = make_optimizer(self.network, settings.optimizer)
        self._average = WeightAverage(self.network, settings.optimizer.ema_decay)
        self._dtype = _precision(run.precision, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)
        self._unroll = Unroller(
            self.network, settings.prompts, run.memory_dropout, run.activation_checkpointing
        )
        self.step = 0
        self._skipped = 0
        self._resume()

    def steps(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[StepReport]:
        """Train to the end; yields a report every `log_every` steps and wherever it validates.

        A checkpoint is written every `checkpoint_every` steps and at the end. `should_stop` is asked after
        every step; where it says so, a checkpoint is written too, and nothing more is done.
        """
        run = self.settings.run
        meter = _Meter()
        with ExitStack() as stack:
            log = stack.enter_context(_Log(self.folder / self.STEP_LOG, self.step))
            board = _tensorboard(self.folder)
            if board is not None:
                stack.callback(board.close)
            for clips in self._sampler.batches(self.step):
                if self.step >= run.steps:
                    break
                began = time.perf_counter()
                batch = Batch.of(clips, self.device)
                rate = set_learning_rate(self._optimizer, self.settings.optimizer, self.step, run.steps)
                meter.add(*self._train(batch), rate, time.perf_counter() - began)
                self.step += 1
                last = self.step == run.steps
                stopping = should_stop()
                if self.step % run.checkpoint_every == 0 or last or stopping:
                    self.save()
                if stopping:
                    return
                validates = run.validate_every and (self.step % run.validate_every == 0 or last)
                if self.step % run.log_every == 0 or validates or last:
                    report = meter.report(self.step, run.steps, self.validate() if validates else None)
                    log.write(report)
                    if board is not None:
                        _to_tensorboard(board, report)
                    yield report

    def _train(self, batch: Batch) -> tuple[float, Losses, list[tuple[int, float]], float]:
        """Do one step; return the loss, its parts, IoUs by frame and the gradients' norm."""
        rng = np.random.default_rng([self.settings.run.seed, self.step, 1])
        try:
            with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
                unrolled = self._unroll(batch, rng)
            losses = unrolled.mean()
            loss = losses.total(self.settings.loss)
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"The device '{self.device}' ran out of memory with {self.settings.run.batch_size} clips of "
                f"{self.settings.run.frames} frames of {self.image_size} pixels; the last checkpoint is "
                "kept. Take fewer clips, frames or objects, smaller images, or set activation_checkpointing."
            ) from error
        self._scaler.unscale_(self._optimizer)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self.settings.optimizer.clip_norm))
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MOST_SKIPPED:
            raise TrainingError(
                f"The gradients of {self._skipped} steps in a row, up to step {self.step}, are not finite; "
                "the last checkpoint is kept. Use a smaller learning rate, or precision 'float32'."
            )
        if math.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._average.update(self.network)
        return float(loss.detach()), Losses(*(x.detach() for x in losses)), unrolled.ious(batch), norm

    def validate(self) -> list[VideoScore]:
        """Track the validation videos with the averaged weights; the scores go to a CSV file too."""
        videos = [v for s in self.settings.validation for v in make_source(s).validation_videos()]
        scores = list(score_videos(self.model(), videos))
        _append_scores(self.folder / self.VALIDATION_LOG, self.step, scores)
        return scores

    def model(self) -> Model:
        """Return the averaged weights as a model to track with."""
        network = Sam2Network(self.network.config)
        network.load_state_dict(self._average.state)
        path = self.folder / self.MODEL
        return Model(path.stem, path, network.to(self.device).eval(), self.image_size, self.device)

    def save(self) -> None:
        """Write the checkpoint to go on from, and the averaged weights as a model to track with."""
        partial = self.folder / f".{self.CHECKPOINT}.partial"
        torch.save(
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self._average.state,
                "updates": self._average.updates,
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "skipped": self._skipped,
            },
            partial,
        )
        partial.replace(self.folder / self.CHECKPOINT)
        notes = {"napari_surgsam2.trained_steps": str(self.step)}
        save_model(
            self.folder / self.MODEL, self._average.state, self.network.config, self.image_size, notes=notes
        )

    def _claim_folder(self) -> None:
        path = self.folder / self.SETTINGS
        mine = json.loads(json.dumps(self.settings.to_dict()))
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if different := _differences(found, mine):
                raise OutputError(
                    f"'{self.folder}' holds a run with other settings ({', '.join(different)}); set another "
                    "output folder, or take these back to go on with that run."
                )
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise OutputError(f"'{self.folder}' is not empty and holds no training run; set another output.")
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=2), encoding="utf-8")

    def _start(self) -> tuple[Sam2Network, int]:
        model = self.settings.model
        if model.start == NEW and model.image_size is not None:
            try:
                network = Sam2Network(NetworkConfig.from_dict(model.network or {}))
            except (TypeError, ValueError, RuntimeError) as error:
                raise UsageError(
                    f"The table model.network describes no network that can be made: {error}."
                ) from error
            look_where_prompted(network)
            return network, model.image_size
        loaded = load_model(model.start, image_size=model.image_size, device="cpu")
        return loaded.network, loaded.image_size

    def _resume(self) -> None:
        path = self.folder / self.CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step = state["step"]
        self._skipped = state["skipped"]
        self.network.load_state_dict(state["network"])
        self._average.state = state["average"]
        self._average.updates = state["updates"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    @staticmethod
    def _seed_everything(seed: int) -> None:
        # New weights are drawn from the global generator; everything later has generators of its own.
        torch.manual_seed(seed)


class _Meter:
    """Averages over the steps since the last report."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, Losses, float, float]] = []
        self._ious: tuple[list[float], list[float]] = ([], [])
        self._rate = 0.0

    def add(
        self,
        loss: float,
        losses: Losses,
        ious: list[tuple[int, float]],
        norm: float,
        rate: float,
        seconds: float,
    ) -> None:
        self._rows.append((loss, losses, norm, seconds))
        for t, iou in ious:
            self._ious[t > 0].append(iou)
        self._rate = rate

    def report(self, step: int, steps: int, scores: list[VideoScore] | None) -> StepReport:
        loss, losses, norms, seconds = zip(*self._rows, strict=True)
        first, later = (float(np.mean(x)) if x else float("nan") for x in self._ious)
        parts = Losses(*(torch.stack(x).mean() for x in zip(*losses, strict=True)))
        report = StepReport(
            step, steps, float(np.mean(loss)), parts, first, later, self._rate, float(np.mean(norms)),
            float(np.mean(seconds)), scores,
        )  # fmt: skip
        self.__init__()  # type: ignore[misc]
        return report


_COLUMNS = (
    "step", "loss", "focal", "dice", "iou", "score", "first_iou", "later_iou", "learning_rate", "gradient",
    "seconds", "validation_j_and_f",
)  # fmt: skip


class _Log:
    """The CSV file of a run; rows past the step that the run goes on from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        rows: list[list[str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in list(csv.reader(file))[1:] if row and int(row[0]) <= step]
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerows([_COLUMNS, *rows])
        self._file.flush()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, report: StepReport) -> None:
        score = f"{report.j_and_f:.4f}" if report.scores else ""
        numbers = (report.loss, *map(float, report.losses), report.first_iou, report.later_iou)
        more = (report.learning_rate, report.gradient, report.seconds)
        self._writer.writerow([report.step, *(f"{x:.6g}" for x in (*numbers, *more)), score])
        self._file.flush()


def _append_scores(path: Path, step: int, scores: list[VideoScore]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(("step", "video", "objects", "j", "f", "first_j", "false_positives"))
        for s in scores:
            numbers = (s.j, s.f, s.first_j, s.false_positives)
            writer.writerow((step, s.name, s.objects, *(f"{x:.4f}" for x in numbers)))


def _differences(found: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key in sorted({*found, *mine}):
        a, b = found.get(key), mine.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _to_tensorboard(board: Any, report: StepReport) -> None:
    board.add_scalar("loss", report.loss, report.step)
    for name, value in report.losses._asdict().items():
        board.add_scalar(f"loss/{name}", float(value), report.step)
    board.add_scalar("iou/first", report.first_iou, report.step)
    board.add_scalar("iou/later", report.later_iou, report.step)
    board.add_scalar("learning rate", report.learning_rate, report.step)
    if report.scores:
        board.add_scalar("validation/J&F", report.j_and_f, report.step)
