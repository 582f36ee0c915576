"""A training run: its folder, its steps, and how it goes on where it stopped."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from napari_surgsam2.checkpoints import Model, load_model
from napari_surgsam2.checkpoints.loading import CONFIG_KEY, build_network, is_out_of_memory, resolve_device
from napari_surgsam2.checkpoints.saving import save_model
from napari_surgsam2.errors import (
    CheckpointError,
    DeviceMemoryError,
    OutputError,
    SurgSam2Error,
    UsageError,
)
from napari_surgsam2.network import NetworkConfig, Sam2Network
from napari_surgsam2.network.hiera import Hiera
from napari_surgsam2.synthetic import GENERATOR_VERSION

from . import folder
from .batch import Batch
from .clips import TrainingClip
from .folder import RunFolder, saving
from .loading import ClipSampler, make_source, summarized, tell_of_workers
from .logs import Meter, RunLog, StepReport, append_scores, last_validation
from .losses import Losses
from .optimizer import WeightAverage, freeze, make_optimizer, set_learning_rate
from .settings import NEW, TrainingSettings
from .start import give_a_start
from .team import Team
from .unroll import Unroller
from .validation import VideoScore, score_videos

_MOST_SKIPPED = 20  # steps in a row whose gradients are not finite
_PROMPTS = 3  # keeps what the other processes draw apart from the clips' randomness


class TrainingError(SurgSam2Error):
    """Training cannot go on."""


class TrainingRun:
    """A run in a folder; one that was interrupted goes on from its last checkpoint, to the same weights.

    What does not change the result may be set anew when a run goes on: the device, how many workers, how
    often and on what it validates, and the like. From when it is made until its steps end or are no longer
    iterated, no other run can write to its folder.

    Parameters
    ----------
    settings : TrainingSettings
        From `load_settings`.
    progress : callable, optional
        Told how many clips of a pool are made, of how many.
    downloading : callable, optional
        Told of a download of the weights to start from: bytes done and in all.

    Attributes
    ----------
    data : list of str
        What there is to train and to validate on, and what is not used and why; in the first process.

    Raises
    ------
    OutputError
        If the folder holds a run with other settings or something else, another process is at work there, it
        cannot be written to, or its disk has no room for a checkpoint.
    UsageError
        If the settings do not fit the model or the data.
    """

    CHECKPOINT = folder.CHECKPOINT
    MODEL = folder.MODEL
    SETTINGS = folder.SETTINGS
    STEP_LOG = folder.STEP_LOG
    VALIDATION_LOG = folder.VALIDATION_LOG

    def __init__(
        self,
        settings: TrainingSettings,
        progress: Callable[[int, int], None] | None = None,
        downloading: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.settings = settings
        self._folder = RunFolder(settings)
        self.folder = self._folder.path
        self.data: list[str] = []
        self._team = Team.from_environment()
        self._folder.check()
        if self._team.is_first:
            self._folder.lock()
        try:
            self._folder.check()  # again, for who held it until now may have left something
            self._open(progress, downloading)
        except BaseException:
            self._folder.release()
            raise

    def _open(
        self,
        progress: Callable[[int, int], None] | None,
        downloading: Callable[[int, int | None], None] | None,
    ) -> None:
        """Make or load all that is trained, and open the data."""
        settings, run = self.settings, self.settings.run
        self._places = self._team.places(run.batch_size)
        self.device = self._team.place(resolve_device(run.device), run.device)
        self._team.gather(self.device)
        self._seed_everything(run.seed)
        state = self._folder.read_checkpoint()
        with self._first_before_others():  # it may have to download the weights
            self.network, self.image_size = self._start(downloading) if state is None else self._kept(state)
        self.network.to(self.device).train()
        freeze(self.network, settings.model.freeze)
        if run.activation_checkpointing:
            self._trunk_with_checkpointing().activation_checkpointing = True
        with self._first_before_others():  # it may have to make a pool
            self._sampler = ClipSampler(settings, self.image_size, progress)
        sources = [make_source(source) for source in settings.validation]
        self._videos = [video for source in sources for video in source.validation_videos()]
        if self._team.is_first:
            self.data = [*self._sampler.summary(), *summarized("validation", sources)]
        self._average = WeightAverage(self.network, settings.optimizer.ema_decay)
        self._dtype = _precision(run.precision, self.device)
        self._optimizer = make_optimizer(self.network, settings.optimizer, self._dtype)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)
        self._unroll = Unroller(self.network, settings.prompts, run.memory_dropout, settings.loss.others)
        self.step = 0
        self._skipped = 0
        self._meter = Meter()
        self._is_changing = False  # the weights, which are those of no step meanwhile
        if state is not None:
            self._resume(state)
        self._saved = self.step
        self._validated = last_validation(self.folder, self.step)
        if self._team.is_first:
            if self.step < run.steps:
                self._folder.require_room(self._size())
            self._folder.claim()

    @contextmanager
    def _first_before_others(self) -> Iterator[None]:
        """Let the first process do something before the others do it too."""
        if not self._team.is_first:
            self._team.wait()
        yield
        if self._team.is_first:
            self._team.wait()

    def _size(self) -> int:
        """Return about how many bytes a checkpoint and a model take: weights, averages, moments, weights."""
        weights: int = sum(x.numel() for x in self.network.state_dict().values())
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        return 4 * (3 * weights + 2 * trained)

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

        A checkpoint is written every `checkpoint_every` steps, before every validation and at the end.
        `should_stop` is asked after every step and every frame of a validation; where it says so, a
        checkpoint is written too, and nothing more is done. A validation that was stopped is made up for when
        the run goes on, and so is a report. What was trained is saved too where clips cannot be made, logs
        cannot be written or a step cannot be done, as where the device has too little memory.
        """
        run, writes, meter = self.settings.run, self._team.is_first, self._meter
        with ExitStack() as stack:
            if writes:
                self._folder.lock()
                stack.callback(self._folder.release)
                if self.step:  # it may have been ended after the checkpoint was written
                    self._save_model()
            log = stack.enter_context(RunLog(self.folder, self.step)) if writes else None
            if log is not None and log.newest == self.step:
                meter.clear()  # the checkpoint came before the row

            def report(scores: list[VideoScore] | None) -> StepReport:
                made = meter.report(self.step, run.steps, scores)
                with self._saved_on_failure():
                    if log is not None:
                        log.write(made)
                    if scores is not None:
                        self._note(scores)
                meter.clear()
                return made

            if self._owes_validation():
                scores = self.validate(should_stop)
                if scores is None:
                    return
                yield report(scores)
            elif meter.has_steps and self._is_reported():
                yield report(None)
            ended = time.perf_counter()
            if self.step >= run.steps:
                return
            for clips in self._batches():
                rate = set_learning_rate(self._optimizer, self.settings.optimizer, self.step, run.steps)
                trained = self._train(clips)
                self.step += 1
                began, ended = ended, time.perf_counter()
                meter.add(*trained, rate, ended - began)
                last = self.step == run.steps
                stopping = self._team.any(should_stop(), self.device)
                validates = self._owes_validation()
                if self.step % run.checkpoint_every == 0 or validates or last or stopping:
                    self.save()
                if validates:
                    before = time.perf_counter()
                    scores = None if stopping else self.validate(should_stop)
                    ended += time.perf_counter() - before
                    if scores is None:
                        return
                    yield report(scores)
                elif self._is_reported():
                    yield report(None)
                if stopping:
                    return

    def _is_reported(self) -> bool:
        """Whether there is a report of this step, validated or not."""
        return self.step % self.settings.run.log_every == 0 or self.step == self.settings.run.steps

    def _batches(self) -> Iterator[list[TrainingClip]]:
        """Make the clips of this process for the steps to come."""
        with self._saved_on_failure():
            yield from self._sampler.batches(self.step, self._places)

    @contextmanager
    def _saved_on_failure(self) -> Iterator[None]:
        """Save what was trained if something beside the training fails, which can be mended meanwhile."""
        try:
            yield
        except Exception as error:
            self._save_what_is_new()
            if (told := tell_of_workers(error)) is not None:
                raise TrainingError(told) from error
            raise

    def _save_what_is_new(self) -> None:
        if self.step > self._saved:
            self.save()

    def _train(self, clips: Sequence[TrainingClip]) -> tuple[float, Losses, list[tuple[int, float]], float]:
        """Do one step; return the loss, its parts, IoUs by frame and the gradients' norm.

        Where it fails what the steps before it gave is saved, unless the weights were being changed.
        """
        statistics = [(b, b.clone()) for b in self.network.buffers()]  # the forward pass changes some
        self._is_changing = False
        try:
            return self._do_step(Batch.of(clips, self.device))
        except TrainingError:
            raise
        except Exception as error:
            too_little = isinstance(error, RuntimeError) and is_out_of_memory(error)
            if too_little:
                traceback.clear_frames(error.__traceback__)  # they hold what fills the device
                self._optimizer.zero_grad(set_to_none=True)
            if not self._is_changing:
                for buffer, value in statistics:
                    buffer.copy_(value)
                self._save_what_is_new()
            if too_little:
                raise DeviceMemoryError(self._told_of_memory()) from error
            if (told := tell_of_workers(error)) is not None:
                raise TrainingError(told) from error
            raise

    def _do_step(self, batch: Batch) -> tuple[float, Losses, list[tuple[int, float]], float]:
        rank = self._team.rank
        own = [_PROMPTS, rank] if rank else []
        rng = np.random.default_rng([self.settings.run.seed, self.step, 1, *own])
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            unrolled = self._unroll(batch, rng)
        sums = unrolled.sums()
        counts = [sums.in_view.clone(), sums.known.clone()]
        self._team.sum_(counts)
        losses = sums.per_object(*counts)
        loss = losses.total(self.settings.loss)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        trained = [p for p in self.network.parameters() if p.requires_grad]
        told = [x.detach().clone() for x in (loss, *losses)]
        self._team.sum_([*self._gradients(trained), *told])
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self.settings.optimizer.clip_norm))
        skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if skipped > _MOST_SKIPPED:
            raise TrainingError(
                f"The gradients of {skipped} steps in a row, up to step {self.step}, are not finite. "
                f"Set a smaller learning_rate, or precision = 'float32'{self._folder.elsewhere()}."
            )
        ious = unrolled.ious(batch)
        self._is_changing, self._skipped = True, skipped
        if math.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._team.mean_([b for b in self.network.buffers() if b.is_floating_point()])
        if math.isfinite(norm):
            self._average.update(self.network)
        else:
            self._average.mend_buffers(self.network)
        return float(told[0]), Losses(*told[1:]), ious, norm

    def _gradients(self, trained: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
        """Return the gradients that are to be summed over the processes: the same ones in each.

        Parameters that have none in any process are left alone, as a single process does.
        """
        if self._team.count == 1:
            return []
        having = torch.tensor([float(p.grad is not None) for p in trained], device=self.device)
        self._team.sum_([having])
        used = [p for p, count in zip(trained, having.tolist(), strict=True) if count]
        for p in used:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return [p.grad for p in used if p.grad is not None]

    def validate(self, should_stop: Callable[[], bool] = lambda: False) -> list[VideoScore] | None:
        """Track the validation videos with the averaged weights, and return their scores.

        `should_stop` is asked after every frame; None where it said so.
        """
        scores: list[VideoScore] = []
        if self._team.is_first:
            scores = list(score_videos(self.model(), self._videos, should_stop=should_stop, any_size=True))
        return None if self._team.any(should_stop(), self.device) else scores

    def _note(self, scores: list[VideoScore]) -> None:
        """Keep the scores of a validation; after its row is written, or that would not be made up for."""
        if self._team.is_first:
            append_scores(self.folder, self.step, scores)
        self._validated = self.step

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
        """Write the checkpoint to go on from, and the averaged weights as a model to track with.

        Of processes that train together the first one does. The checkpoint comes first: without it a model
        alone would be taken for a finished one, and not be written over.
        """
        if not self._team.is_first:
            return
        self._folder.write_checkpoint(
            {
                "step": self.step,
                "config": self.network.config.to_json(),
                "image_size": self.image_size,
                "generator": self._generator,
                "network": self.network.state_dict(),
                "average": self._average.state,
                "updates": self._average.updates,
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "skipped": self._skipped,
                "meter": self._meter.state(),
            }
        )
        self._save_model()
        self._saved = self.step

    def _save_model(self) -> None:
        path = self.folder / self.MODEL
        with saving(path):
            save_model(
                path,
                self._average.state,
                self.network.config,
                self.image_size,
                half=self.settings.model.half,
                notes={"napari_surgsam2.trained_steps": str(self.step)},
            )

    def _told_of_memory(self) -> str:
        run, trunk = self.settings.run, self.network.image_encoder.trunk
        can_spare = isinstance(trunk, Hiera) and not trunk.activation_checkpointing
        rather = "Set activation_checkpointing = true in [run] and give the same command, or lower"
        saved = f" What was learned up to step {self._saved} is saved." if self._saved else ""
        return (
            f"The device '{self.device}' ran out of memory with {run.batch_size} clips of {run.frames} "
            f"frames of {self.image_size} pixels, in step {self.step + 1}.{saved} "
            f"{rather if can_spare else 'Lower'} batch_size, frames or objects in [run], corrections in "
            f"[prompts] or image_size in [model]{self._folder.elsewhere()}."
        )

    def _trunk_with_checkpointing(self) -> Hiera:
        trunk = self.network.image_encoder.trunk
        if not isinstance(trunk, Hiera):
            raise UsageError(
                "[run] activation_checkpointing is true; it must be false with a convolutional trunk, which "
                "takes little memory. Leave it out."
            )
        return trunk

    def _start(self, downloading: Callable[[int, int | None], None] | None) -> tuple[Sam2Network, int]:
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
        loaded = load_model(model.start, image_size=model.image_size, device="cpu", progress=downloading)
        return loaded.network, loaded.image_size

    def _kept(self, state: Mapping[str, Any]) -> tuple[Sam2Network, int]:
        """Return the network that a checkpoint holds; what the run started from may be gone or another."""
        anew = f"Train on its weights in {self._folder.new_run()}"
        if state["generator"] != self._generator:
            raise OutputError(
                f"The run in '{self.folder}' saw made-up clips of generator version {state['generator']}; "
                f"here it is {self._generator}, which makes others. {anew}."
            )
        path, config = self.folder / self.CHECKPOINT, state["config"]
        try:
            network = build_network(state["network"], {CONFIG_KEY: config}, path)
        except CheckpointError as error:
            raise OutputError(f"{error} {anew}.") from error
        return network, state["image_size"]

    @property
    def _generator(self) -> int | None:
        """The version of the generator of the made-up clips that are trained on; None without any."""
        made_up = any(source.kind in ("synthetic", "pool") for source in self.settings.training)
        return GENERATOR_VERSION if made_up else None

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Take from a checkpoint all but the network."""
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise OutputError(
                f"'{self.folder / self.CHECKPOINT}' was written by another version of this program, which "
                f"groups the parameters in another way. Train on its weights in {self._folder.new_run()}."
            ) from error
        self.step = state["step"]
        self._skipped = state["skipped"]
        self._meter.restore(state["meter"])
        self._average.restore(state["average"], state["updates"])
        self._scaler.load_state_dict(state["scaler"])

    @staticmethod
    def _seed_everything(seed: int) -> None:
        # New weights are drawn from the global generator; everything later has generators of its own.
        torch.manual_seed(seed)


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        wanted = (
            "bfloat16"
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
