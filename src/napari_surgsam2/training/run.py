"""A training run: its folder, its steps, and how it goes on where it stopped."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from napari_surgsam2.network.hiera import Hiera

from .loading import ClipSampler, make_source
from .losses import Losses
from .optimizer import WeightAverage, freeze, make_optimizer, set_learning_rate
from .settings import NEW, TrainingSettings
from .start import give_a_start
from .team import Team
from .unroll import Batch, Unroller
from .validation import VideoScore, mean_j_and_f, score_videos

_MOST_SKIPPED = 20  # steps in a row whose gradients are not finite
_PROMPTS = 3  # keeps what the other processes draw apart from the clips' randomness
# Settings that may change when a run goes on: what comes out does not depend on them.
_FREE = (
    "output",
    "validation",
    "model.half",
    "run.device",
    "run.workers",
    "run.checkpoint_every",
    "run.validate_every",
    "run.log_every",
    "run.activation_checkpointing",
)


class TrainingError(SurgSam2Error):
    """Training cannot go on."""


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


class TrainingRun:
    """A run in a folder; one that was interrupted goes on from its last checkpoint, to the same weights.

    What does not change the result may be set anew when a run goes on: the device, how many workers, how
    often and on what it validates, and the like.

    Parameters
    ----------
    settings : TrainingSettings
        From `load_settings`.
    progress : callable, optional
        Told how many clips of a pool are made, of how many.

    Raises
    ------
    OutputError
        If the folder holds a run with other settings, or cannot be written to.
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
        self._check_folder()
        run = settings.run
        self._team = Team.from_environment()
        places = self._team.places(run.batch_size)
        self.device = self._team.place(resolve_device(run.device))
        self._team.gather(self.device)
        self._seed_everything(run.seed)
        self.network, self.image_size = self._start()
        self.network.to(self.device).train()
        freeze(self.network, settings.model.freeze)
        if run.activation_checkpointing:
            self._trunk_with_checkpointing().activation_checkpointing = True
        if not self._team.is_first:
            self._team.wait()  # the first may have to make a pool
        self._sampler = ClipSampler(settings, self.image_size, progress)
        self._places = places
        if self._team.is_first:
            self._team.wait()
        self._videos = [v for s in settings.validation for v in make_source(s).validation_videos()]
        self._average = WeightAverage(self.network, settings.optimizer.ema_decay)
        self._dtype = _precision(run.precision, self.device)
        self._optimizer = make_optimizer(self.network, settings.optimizer, self._dtype)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)
        self._unroll = Unroller(self.network, settings.prompts, run.memory_dropout)
        self.step = 0
        self._skipped = 0
        self._resume()
        validated = [int(row[0]) for row in _rows(self.folder / self.VALIDATION_LOG, self.step)]
        self._validated = max(validated, default=0)
        if self._team.is_first:
            self._claim_folder()

    @property
    def is_first_process(self) -> bool:
        """Whether this process, of those that train together, is the one that writes and reports."""
        return self._team.is_first

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, and the validation after the last."""
        return self.step >= self.settings.run.steps and not self._owes_validation()

    def steps(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[StepReport]:
        """Train to the end; yields a report every `log_every` steps and wherever it validates.

        A checkpoint is written every `checkpoint_every` steps and at the end. `should_stop` is asked after
        every step and every frame of a validation; where it says so, a checkpoint is written too, and nothing
        more is done. A validation that was stopped is made up for when the run goes on.
        """
        run, writes = self.settings.run, self._team.is_first
        meter = _Meter()
        with ExitStack() as stack:
            if writes:
                _keep_rows(self.folder / self.VALIDATION_LOG, self.step)
            log = stack.enter_context(_Log(self.folder / self.STEP_LOG, self.step)) if writes else None
            board = _tensorboard(self.folder, self.step) if writes else None
            if board is not None:
                stack.callback(board.close)

            def report(scores: list[VideoScore] | None) -> StepReport:
                made = meter.report(self.step, run.steps, scores)
                if log is not None:
                    log.write(made)
                if board is not None:
                    _to_tensorboard(board, made)
                return made

            if self._owes_validation():
                scores = self.validate(should_stop)
                if scores is None:
                    return
                yield report(scores)
            ended = time.perf_counter()
            if self.step >= run.steps:
                return
            for clips in self._sampler.batches(self.step, self._places):
                batch = Batch.of(clips, self.device)
                rate = set_learning_rate(self._optimizer, self.settings.optimizer, self.step, run.steps)
                trained = self._train(batch)
                self.step += 1
                began, ended = ended, time.perf_counter()
                meter.add(*trained, rate, ended - began)
                last = self.step == run.steps
                stopping = self._team.any(should_stop(), self.device)
                if saved := self.step % run.checkpoint_every == 0 or last or stopping:
                    self.save()
                if stopping:
                    return
                validates = self._owes_validation()
                if self.step % run.log_every == 0 or validates or last:
                    scores = None
                    if validates:
                        before = time.perf_counter()
                        scores = self.validate(should_stop)
                        ended += time.perf_counter() - before
                    if validates and scores is None:
                        if not saved:
                            self.save()
                        return
                    yield report(scores)

    def _train(self, batch: Batch) -> tuple[float, Losses, list[tuple[int, float]], float]:
        """Do one step; return the loss, its parts, IoUs by frame and the gradients' norm."""
        rank = self._team.rank
        own = [_PROMPTS, rank] if rank else []
        rng = np.random.default_rng([self.settings.run.seed, self.step, 1, *own])
        try:
            with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
                unrolled = self._unroll(batch, rng)
            sums = unrolled.sums()
            counts = [sums.in_view.clone(), sums.known.clone()]
            self._team.sum_(counts)
            losses = sums.per_object(*counts)
            loss = losses.total(self.settings.loss)
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"The device '{self.device}' ran out of memory with {self.settings.run.batch_size} clips of "
                f"{self.settings.run.frames} frames of {self.image_size} pixels. {self._memory_remedy()}"
            ) from error
        trained = [p for p in self.network.parameters() if p.requires_grad]
        told = [x.detach().clone() for x in (loss, *losses)]
        self._team.sum_([*self._gradients(trained), *told])
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self.settings.optimizer.clip_norm))
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MOST_SKIPPED:
            raise TrainingError(
                f"The gradients of {self._skipped} steps in a row, up to step {self.step}, are not finite. "
                f"Set a smaller learning_rate, or precision = 'float32'{self._elsewhere()}."
            )
        if math.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._team.mean_([b for b in self.network.buffers() if b.is_floating_point()])
        if math.isfinite(norm):
            self._average.update(self.network)
        else:
            self._average.mend_buffers(self.network)
        return float(told[0]), Losses(*told[1:]), unrolled.ious(batch), norm

    def _gradients(self, trained: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
        """Return the gradients that are to be summed over the processes: the same ones in each."""
        if self._team.count == 1:
            return []
        for p in trained:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return [p.grad for p in trained if p.grad is not None]

    def validate(self, should_stop: Callable[[], bool] = lambda: False) -> list[VideoScore] | None:
        """Track the validation videos with the averaged weights; the scores go to a CSV file too.

        `should_stop` is asked after every frame; None where it said so.
        """
        scores: list[VideoScore] = []
        if self._team.is_first:
            scores = list(score_videos(self.model(), self._videos, should_stop=should_stop, any_size=True))
        if self._team.any(should_stop(), self.device):
            return None
        if self._team.is_first:
            _append_scores(self.folder / self.VALIDATION_LOG, self.step, scores)
        self._validated = self.step
        return scores

    def _owes_validation(self) -> bool:
        """Say whether this step is one to validate after, and that is not done."""
        run = self.settings.run
        due = self.step == run.steps or (run.validate_every and self.step % run.validate_every == 0)
        return bool(self._videos and due and self._validated < self.step)

    def model(self) -> Model:
        """Return the averaged weights as a model to track with."""
        network = Sam2Network(self.network.config)
        network.load_state_dict(self._average.state)
        path = self.folder / self.MODEL
        return Model(path.stem, path, network.to(self.device).eval(), self.image_size, self.device)

    def save(self) -> None:
        """Write the averaged weights as a model to track with, and the checkpoint to go on from.

        Of processes that train together the first one does.
        """
        if not self._team.is_first:
            return
        save_model(
            self.folder / self.MODEL,
            self._average.state,
            self.network.config,
            self.image_size,
            half=self.settings.model.half,
            notes={"napari_surgsam2.trained_steps": str(self.step)},
        )
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

    def _check_folder(self) -> None:
        """Refuse a folder that holds something else; only a checkpoint ties it to its settings."""
        path = self.folder / self.SETTINGS
        if (self.folder / self.CHECKPOINT).exists() and path.exists():
            try:
                found = TrainingSettings.from_dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:  # of JSON and of the settings
                raise OutputError(
                    f"'{self.folder}' holds a run whose settings cannot be used: {error} Train on its "
                    f"weights in {self._new_run()}."
                ) from error
            if different := _differences(_plain(found), _plain(self.settings)):
                raise OutputError(
                    f"'{self.folder}' holds a run with other settings ({', '.join(different)}). Take these "
                    f"back to go on with that run, or train on its weights in {self._new_run()}."
                )
        elif (
            not path.exists() and self.folder.exists() and any(map(self._is_strange, _contents(self.folder)))
        ):
            raise OutputError(f"'{self.folder}' is not empty and holds no training run; set another output.")

    def _is_strange(self, path: Path) -> bool:
        # Making a pool may have been interrupted before there was anything else.
        pools = [Path(source.folder) for source in self.settings.training if source.folder]
        return not any(pool.is_relative_to(path) for pool in pools)

    def _claim_folder(self) -> None:
        """Write the settings; last of all, so that what cannot be opened ties the folder to nothing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(_plain(self.settings), indent=2)
            (self.folder / self.SETTINGS).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"'{self.folder}' cannot be written to: {error.strerror}; set another output."
            ) from error

    def _new_run(self) -> str:
        return f'a new run: set another output, and start = "{self.folder / self.MODEL}" in [model]'

    def _elsewhere(self) -> str:
        """Say where settings can be changed that a run with a checkpoint keeps."""
        if not (self.folder / self.CHECKPOINT).exists():
            return ", and start again"
        return f", for which it takes {self._new_run()}"

    def _memory_remedy(self) -> str:
        fewer = f"fewer clips, frames or objects, or smaller images{self._elsewhere()}."
        trunk = self.network.image_encoder.trunk
        if isinstance(trunk, Hiera) and not trunk.activation_checkpointing:
            return f"Set activation_checkpointing = true and give the same command, or take {fewer}"
        return f"Take {fewer}"

    def _trunk_with_checkpointing(self) -> Hiera:
        trunk = self.network.image_encoder.trunk
        if not isinstance(trunk, Hiera):
            raise UsageError(
                "[run] activation_checkpointing is true; it must be false with a convolutional trunk, which "
                "takes little memory. Leave it out."
            )
        return trunk

    def _start(self) -> tuple[Sam2Network, int]:
        model = self.settings.model
        if model.start == NEW and model.image_size is not None:
            try:
                network = Sam2Network(NetworkConfig.from_dict(model.network or {}))
            except (TypeError, ValueError, RuntimeError) as error:
                raise UsageError(
                    f"The table model.network describes no network that can be made: {error}."
                ) from error
            give_a_start(network)
            return network, model.image_size
        loaded = load_model(model.start, image_size=model.image_size, device="cpu")
        return loaded.network, loaded.image_size

    def _resume(self) -> None:
        path = self.folder / self.CHECKPOINT
        if not path.exists():
            return
        # On the CPU: the optimizer's step counts stay there, and all else is copied to where it belongs.
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise OutputError(
                f"'{path}' was written by another version of this program, which groups the parameters in "
                f"another way. Train on its weights in {self._new_run()}."
            ) from error
        self.step = state["step"]
        self._skipped = state["skipped"]
        self.network.load_state_dict(state["network"])
        self._average.restore(state["average"], state["updates"])
        self._scaler.load_state_dict(state["scaler"])

    @staticmethod
    def _seed_everything(seed: int) -> None:
        # New weights are drawn from the global generator; everything later has generators of its own.
        torch.manual_seed(seed)


class _Meter:
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


_COLUMNS = (
    "step", "loss", "focal", "dice", "iou", "score", "first_iou", "later_iou", "learning_rate", "gradient",
    "seconds", "validation_j_and_f",
)  # fmt: skip
_SCORE_COLUMNS = ("step", "video", "objects", "j", "f", "first_j", "false_positives")


class _Log:
    """The CSV file of a run; rows past the step that the run goes on from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        rows = _rows(path, step)
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


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _rows(path: Path, step: int) -> list[list[str]]:
    """Return the rows of a log up to a step, without its head."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in list(csv.reader(file))[1:] if row and int(row[0]) <= step]


def _keep_rows(path: Path, step: int) -> None:
    """Drop the rows of the scores past a step."""
    rows = _rows(path, step)
    if path.exists():
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_SCORE_COLUMNS, *rows])


def _append_scores(path: Path, step: int, scores: list[VideoScore]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_SCORE_COLUMNS)
        for s in scores:
            numbers = (s.j, s.f, s.first_j, s.false_positives)
            writer.writerow((step, s.name, s.objects, *(f"{x:.4f}" for x in numbers)))


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    """Return settings as JSON gives them back: lists in the place of tuples."""
    values: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    return values


def _contents(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise OutputError(
            f"'{folder}' is no folder to write to: {error.strerror}; set another output."
        ) from error


def _differences(found: Mapping[str, Any], mine: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of the settings that differ, but for those that may."""
    names = []
    for key in sorted({*found, *mine}):
        if prefix + key in _FREE:
            continue
        a, b = found.get(key), mine.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        wanted = (
            "bfloat16"
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]


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
