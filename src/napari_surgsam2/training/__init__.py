"""Training from scratch and fine-tuning, by the steps that tracking takes."""

from .logs import StepReport
from .run import TrainingError, TrainingRun
from .settings import TrainingSettings, load_settings

__all__ = ["StepReport", "TrainingError", "TrainingRun", "TrainingSettings", "load_settings"]
