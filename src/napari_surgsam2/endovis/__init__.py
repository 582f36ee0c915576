"""The EndoVis challenges' instrument data as folders for video object segmentation.

The pictures belong to the challenges and must be requested from them; nothing is downloaded here.
"""

from .prepare import Report, VideoReport, prepare_endovis
from .splits import SPLITS, validation_sequences

__all__ = ["SPLITS", "Report", "VideoReport", "prepare_endovis", "validation_sequences"]
