"""Made-up videos with exact ground truth: for training, for tests, and to try the program on."""

from .clips import (
    DEFAULT_SIZE,
    GENERATOR_VERSION,
    TRAINING_MIX,
    SyntheticClip,
    draw_frames,
    make_clip,
    make_scene,
)
from .scenes import SCENES

__all__ = [
    "DEFAULT_SIZE",
    "GENERATOR_VERSION",
    "SCENES",
    "TRAINING_MIX",
    "SyntheticClip",
    "draw_frames",
    "make_clip",
    "make_scene",
]
