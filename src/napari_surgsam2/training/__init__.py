"""Training from scratch and fine-tuning, by the steps that tracking takes."""

from .run import StepReport, TrainingError, TrainingRun
from .settings import TrainingSettings, load_settings

__all__ = ["StepReport", "TrainingError", "TrainingRun", "TrainingSettings", "load_settings"]
