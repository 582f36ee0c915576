"""Objects, memories, pruning, and the tracker itself."""

from .propagation import (
    Direction,
    NeededFrames,
    Propagation,
    check_direction,
    first_frame,
    visited_range,
)
from .pruning import EfficientFramePruning, PruningStrategy
from .result import FrameResult, MemoryUse
from .state import load_state, save_state
from .tracker import Tracker

__all__ = [
    "Direction",
    "EfficientFramePruning",
    "FrameResult",
    "MemoryUse",
    "NeededFrames",
    "Propagation",
    "PruningStrategy",
    "Tracker",
    "check_direction",
    "first_frame",
    "load_state",
    "save_state",
    "visited_range",
]
