"""Settings of a training run, as they stand in a TOML file."""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from napari_surgsam2.checkpoints.registry import CHECKPOINT_SUFFIXES
from napari_surgsam2.errors import UsageError
from napari_surgsam2.paths import expanded

from .sources import SourceSettings, source_at
from .tables import BACKSLASHES, Table, table, tables

NEW = "new"

_BYTE_ORDER_MARKS = {  # Notepad and PowerShell write such files
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class ModelSettings(Table):
    """What is trained.

    Attributes
    ----------
    start : str
        The weights to start from: a model's name such as "nano", a checkpoint file, or "new" for a network
        with random weights.
    network : dict, optional
        With "new" only: what the network is made of, as `NetworkConfig.from_dict` takes it.
    image_size : int, optional
        Side of the network's square input in pixels, a multiple of 32; the model's own if left out. A new
        network needs it.
    freeze : tuple of str
        Parameters whose names begin so are not trained, such as "image_encoder.trunk".
    half : bool
        Save the trained model with numbers of 16 bits, in half the space.
    """

    start: str = "nano"
    network: dict[str, Any] | None = None
    image_size: int | None = None
    freeze: tuple[str, ...] = ()
    half: bool = False

    def __post_init__(self) -> None:
        self._require_text("start")
        self._require_flag("half")
        self._require_texts("freeze")
        if self.network is not None:
            if not isinstance(self.network, Mapping):
                raise self._refuse("network", "a table")
            if self.start != NEW:
                raise UsageError(
                    f"network is set, but start is {self.start!r}, which has its network already; leave "
                    f"network out, or set start to '{NEW}'."
                )
            self._set("network", dict(self.network))
        if self.image_size is not None:
            from napari_surgsam2.checkpoints.loading import check_image_size  # it starts torch

            self._require_integer("image_size", at_least=1)
            check_image_size(self.image_size)
        elif self.start == NEW:
            raise UsageError(
                "image_size is missing; a new network needs it: set a multiple of 32 such as 256."
            )


@dataclass(frozen=True)
class RunSettings(Table):
    """How long, how much at a time, and where.

    Attributes
    ----------
    steps : int
        Steps in all.
    batch_size : int
        Clips in a step.
    frames : int
        Frames in a clip; 1 trains on stills.
    frame_step : tuple of 2 ints
        A clip takes every n-th frame; n is drawn from this range, and smaller where a video is too short.
    objects : int
        Most objects that are followed in a clip.
    seed : int
        All that is random follows from it.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    precision : {"auto", "float32", "bfloat16", "float16"}
        "auto" is bfloat16 on CUDA devices that have it and float32 elsewhere.
    workers : int
        Processes that prepare clips; 0 prepares them in turn with the training.
    checkpoint_every : int
        Steps between two checkpoints.
    validate_every : int
        Steps between two validations, where there are videos to validate on; the end is validated in any
        case, and with 0 only the end.
    log_every : int
        Steps between two lines of the log.
    absence : float
        Share of the clips that are drawn a few times over until an object is out of view in one of their
        frames, so that the network learns to say so; objects that are come first among those followed.
    memory_dropout : float
        Share of the tracked memories that are left out at random.
    activation_checkpointing : bool
        Take less of the device's memory, and more time; for networks with a Hiera trunk.
    """

    steps: int
    batch_size: int = 4
    frames: int = 6
    frame_step: tuple[int, int] = (1, 3)
    objects: int = 3
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 500
    validate_every: int = 0
    log_every: int = 20
    absence: float = 0.0
    memory_dropout: float = 0.0
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "frames", "objects", "checkpoint_every", "log_every"):
            self._require_integer(name, at_least=1)
        self._require_integer("seed", at_least=0, at_most=2**63 - 1)
        self._require_integer("workers", at_least=0, at_most=256)
        self._require_integer("validate_every", at_least=0)
        self._require_integers("frame_step", 1, ordered=True)
        self._require_text("device")
        self._require_choice("precision", ("auto", "float32", "bfloat16", "float16"))
        self._require_number("absence", high=1)
        self._require_number("memory_dropout", high=1)
        self._require_flag("activation_checkpointing")


@dataclass(frozen=True)
class PromptSettings(Table):
    """What the simulated user does.

    Attributes
    ----------
    click, box, mask : float
        How often the first frame's prompt is one of these, relative to the others. A mask teaches what to do
        with it in later frames: with clips of one frame none is given, whatever `mask` says.
    corrections : int
        Most clicks that correct a frame, the first frame's own click not counted; 0 corrects none.
    corrected_frames : int
        Most frames that are corrected in a clip, the first among them or not.
    central_click : float
        Probability that a click is in the middle of its region rather than anywhere in it.
    mistakes : float
        Probability that a mask is made wrong before it is corrected, as if another object had been taken for
        this one, or a part of it for the whole: what the network gets right by itself teaches little about
        corrections.
    wrong_memories : float
        Probability that a mask between the prompted frames is made wrong in the memory, so that the network
        finds back to the object.
    wrong_starts : float
        Where a later frame is corrected, and not ahead: probability that an object's first prompt is on
        another object of its clip, or that the mask made there is wrong, and stays so until then: what is
        said last is what is meant.
    corrected_ahead : float
        How often, where a later frame is corrected, it is so before the frames that lie between are tracked,
        as when a user goes back.
    prompted_anew : int
        In how many of the later frames the objects are prompted and corrected as well, as if nothing had
        come before: more masks to learn from, for little time.
    """

    click: float = 0.5
    box: float = 0.25
    mask: float = 0.25
    corrections: int = 4
    corrected_frames: int = 2
    central_click: float = 0.3
    mistakes: float = 0.0
    wrong_memories: float = 0.0
    wrong_starts: float = 0.0
    corrected_ahead: float = 0.0
    prompted_anew: int = 0

    def __post_init__(self) -> None:
        for name in ("click", "box", "mask"):
            self._require_number(name)
        if not self.click + self.box + self.mask:
            raise UsageError("click, box and mask are all 0; set at least one above 0.")
        self._require_integer("corrections", at_least=0)
        self._require_integer("corrected_frames", at_least=0)
        self._require_integer("prompted_anew", at_least=0)
        for name in ("central_click", "mistakes", "wrong_memories", "wrong_starts", "corrected_ahead"):
            self._require_number(name, high=1)

    @property
    def shares(self) -> tuple[float, float, float]:
        """The probabilities of click, box and mask."""
        total = self.click + self.box + self.mask
        return self.click / total, self.box / total, self.mask / total


@dataclass(frozen=True)
class OptimizerSettings(Table):
    """The optimizer and its learning rate.

    Attributes
    ----------
    kind : {"adamw", "muon"}
        "muon" makes the changes of the weights of linear layers and convolutions orthogonal, and leaves the
        rest to AdamW; see `Muon`. `nano` learned in fewer steps with it.
    learning_rate : float
        The highest, after the warm-up.
    trunk_rate : float
        Factor on it for the image encoder.
    layer_decay : float
        Factor on it for every layer of the trunk, from the last to the first; 1 leaves them alike. Position
        embeddings are left out.
    weight_decay : float
        Of the weights of linear layers and convolutions; not of biases, norms and embeddings.
    betas : tuple of 2 floats
        Decay of the running means of the gradient and of its square.
    warmup_steps : int
        Steps over which the rate rises from 0.
    schedule : {"cosine", "constant"}
        How it goes on from there.
    final_rate : float
        With "cosine": what is left of the rate at the end, as a share.
    clip_norm : float
        Gradients of a larger norm are scaled down to it.
    ema_decay : float
        How much of the averaged weights stays at each step, such as 0.999; 0 averages none.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    trunk_rate: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    final_rate: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        self._require_choice("kind", ("adamw", "muon"))
        self._require_number("learning_rate", above=True)
        self._require_number("trunk_rate")
        self._require_number("layer_decay", high=1, above=True)
        self._require_number("weight_decay")
        self._require_numbers("betas", 0, 0.999999, ordered=False)
        self._require_integer("warmup_steps", at_least=0)
        self._require_choice("schedule", ("cosine", "constant"))
        self._require_number("final_rate", high=1)
        self._require_number("clip_norm", above=True)
        self._require_number("ema_decay", high=0.999999)


@dataclass(frozen=True)
class LossSettings(Table):
    """Weights of the losses.

    Attributes
    ----------
    focal, dice : float
        Of the masks.
    iou : float
        Of the IoU that the network predicts for its masks.
    score : float
        Of the score that says whether the object is in view.
    others : float
        How much more than others those pixels count, in the losses of the masks, that another object of the
        clip covers: with 4 five times as much. So an object that goes over to another one costs more than
        one whose outline is not quite right.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    score: float = 1.0
    others: float = 0.0

    def __post_init__(self) -> None:
        names = ("focal", "dice", "iou", "score")
        for name in (*names, "others"):
            self._require_number(name)
        if not any(getattr(self, name) for name in names):
            raise UsageError("focal, dice, iou and score are all 0; set at least one above 0.")


@dataclass(frozen=True)
class AugmentationSettings(Table):
    """How clips are varied; the same for all frames of a clip, but for slight differences in colour.

    Attributes
    ----------
    flip : bool
        Mirror every second clip, left to right.
    reverse : bool
        Play every second clip backwards.
    crop : tuple of 2 floats
        The share of the height and width that is kept is drawn from this range; (1, 1) keeps all.
    affine : float
        0 to 1: turns by up to 90 degrees times this, scales by up to a factor of 1 plus this, and shears by
        up to this; 0 is off.
    letterbox : float
        Probability that a clip is made narrower, dark bars beside it, as endoscopes are often recorded.
    colour : float
        0 to 1: strength of changes of brightness, contrast, saturation and hue; 0 is off.
    gray : float
        Probability that a clip loses its colours.
    light : float
        0 to 1: strength of changes of the light: dark and overexposed parts, and another gamma; 0 is off.
    blur : float
        Probability that a clip is blurred.
    smallest : float
        Objects that cover less than this share of a clip's first picture are not followed.
    """

    flip: bool = True
    reverse: bool = True
    crop: tuple[float, float] = (0.7, 1.0)
    affine: float = 0.1
    letterbox: float = 0.0
    colour: float = 0.2
    gray: float = 0.05
    light: float = 0.0
    blur: float = 0.1
    smallest: float = 0.0005

    def __post_init__(self) -> None:
        self._require_flag("flip")
        self._require_flag("reverse")
        self._require_numbers("crop", 0.05, 1)
        for name in ("affine", "letterbox", "colour", "gray", "light", "blur", "smallest"):
            self._require_number(name, high=1)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Table):
    """A training run.

    Attributes
    ----------
    output : str
        The run's folder.
    model : ModelSettings
        What is trained.
    training : tuple of SourceSettings
        Where the clips come from; at least one.
    validation : tuple of SourceSettings
        The videos to validate on; may be empty. How often is said by `validate_every`.
    run : RunSettings
        How long, how much at a time, and where.
    prompts : PromptSettings
        What the simulated user does.
    optimizer : OptimizerSettings
        The optimizer and its learning rate.
    loss : LossSettings
        Weights of the losses.
    augmentation : AugmentationSettings
        How clips are varied.
    """

    output: str
    training: tuple[SourceSettings, ...]
    run: RunSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    validation: tuple[SourceSettings, ...] = ()
    prompts: PromptSettings = field(default_factory=PromptSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        self._require_text("output")
        for name in ("training", "validation"):
            self._set(name, tables(SourceSettings, f"[[{name}]]", getattr(self, name)))
        for name, kind in _TABLES.items():
            self._set(name, table(kind, f"[{name}]", getattr(self, name)))
        if not self.training:
            raise UsageError(
                "There is no table [[training]]; give at least one, which says what to train on."
            )
        for number, source in enumerate(self.training, 1):
            self._require_room(number, source)
        if self.run.frames == 1 and self.prompts.mask:
            if not self.prompts.click + self.prompts.box:
                raise UsageError(
                    "[prompts] click and box are 0, but with frames = 1 in [run] masks teach nothing: there "
                    "is no later frame to find the object in. Set click or box above 0, or more frames."
                )
            self._set("prompts", self.prompts.replace(mask=0))
        for number, source in enumerate(self.validation, 1):
            if source.kind == "pool":
                raise UsageError(
                    f"[[validation]] number {number}: kind is 'pool', which is for training only; take "
                    "'synthetic'."
                )
            if source.weight != 1:
                raise UsageError(
                    f"[[validation]] number {number}: weight is {source.weight:g}; it is for training only. "
                    "Leave it out."
                )
        if self.run.validate_every and not self.validation:
            raise UsageError(
                f"[run] validate_every is {self.run.validate_every}, but there is no table [[validation]]; "
                "give one, or set it to 0."
            )
        if self.optimizer.warmup_steps >= self.run.steps:
            raise UsageError(
                f"[optimizer] warmup_steps is {self.optimizer.warmup_steps}; it must be less than steps in "
                f"[run], {self.run.steps}, or the learning rate is never reached. Set a smaller one."
            )
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse settings that would do nothing."""
        later = ("wrong_starts", "corrected_ahead")
        if not self.prompts.corrections or not self.prompts.corrected_frames:
            needed = "corrections and corrected_frames above 0"
            self._refuse_where_set("prompts", ("mistakes", *later), needed)
        # The last frame is not remembered, and the newest memory not left out.
        for frames, prompts, run in (
            (2, ("prompted_anew", "wrong_starts"), ("absence",)),
            (3, ("wrong_memories", "corrected_ahead"), ()),
            (4, (), ("memory_dropout",)),
        ):
            if self.run.frames < frames:
                enough = f"frames = {frames} or more in [run]"
                self._refuse_where_set("prompts", prompts, enough)
                self._refuse_where_set("run", run, enough)
        if self.prompts.corrected_ahead == 1:
            self._refuse_where_set("prompts", ("wrong_starts",), "corrected_ahead below 1")

    def _refuse_where_set(self, table: str, names: Sequence[str], needed: str) -> None:
        for name in names:
            if value := getattr(getattr(self, table), name):
                raise UsageError(
                    f"[{table}] {name} is {value:g}, but it does nothing without {needed}. Set these, or "
                    "leave it out."
                )

    def _require_room(self, number: int, source: SourceSettings) -> None:
        """Refuse made-up clips that are too short for what is to be taken from them."""
        frames, (_, step) = self.run.frames, self.run.frame_step
        needed = (frames - 1) * step + 1
        if source.length is None or source.length >= needed:
            return
        fits = (source.length - 1) // (frames - 1)
        remedy = f"a smaller frame_step, up to {fits}" if fits else "fewer frames"
        raise UsageError(
            f"[[training]] number {number}: length is {source.length}; it must be at least {needed}, for "
            f"{frames} frames at a frame_step of {step} in [run]. Set a larger length, or {remedy}."
        )

    def relative_to(self, folder: Path) -> Self:
        """Return a copy whose relative paths are taken from `folder`."""

        def at(path: str) -> str:
            return str(folder / expanded(path))

        is_file = Path(self.model.start).suffix.lower() in CHECKPOINT_SUFFIXES
        return self.replace(
            output=at(self.output),
            model=self.model.replace(start=at(self.model.start)) if is_file else self.model,
            training=tuple(source_at(source, at) for source in self.training),
            validation=tuple(source_at(source, at) for source in self.validation),
        )


_TABLES: Mapping[str, type[Table]] = {
    "model": ModelSettings,
    "run": RunSettings,
    "prompts": PromptSettings,
    "optimizer": OptimizerSettings,
    "loss": LossSettings,
    "augmentation": AugmentationSettings,
}


def load_settings(path: str | Path) -> TrainingSettings:
    """Read a TOML file; relative paths in it are relative to its folder.

    Raises
    ------
    UsageError
        If the file cannot be read, or something in it cannot be used; says in which table.
    """
    file = expanded(path)
    try:
        text = _decoded(file.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"There is no settings file at '{path}'; check the path.") from error
    except OSError as error:
        raise UsageError(
            f"The settings '{path}' cannot be read: {error.strerror}; give a TOML file that you may read."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The settings '{path}' are no text in UTF-8: {error}. Save them as UTF-8."
        ) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        remedy = f" {BACKSLASHES}" if "\\" in text else ""
        raise UsageError(
            f"The settings '{path}' are not valid TOML: {error}. Correct the file.{remedy}"
        ) from error
    try:
        return TrainingSettings.from_dict(values).relative_to(file.absolute().parent)
    except UsageError as error:
        raise UsageError(f"In '{path}': {error}") from error


def _decoded(data: bytes) -> str:
    """Return the text of a file in UTF-8, or in what its byte order mark says."""
    marked = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
    return data.decode(next(marked, "utf-8"))
