"""How good masks are: measures that compare predicted masks with reference masks, and runs over VOS folders.

Running over folders is in `evaluation.vos`, which needs torch; all else here does not.
"""

from .challenge import (
    ENDOVIS17_CLASSES,
    ENDOVIS18_CLASSES,
    Classes,
    ClassScores,
    class_scores,
    load_classes,
)
from .frame_statistics import Statistics, statistics
from .measures import contour_accuracy, dice, iou, j_and_f, label_scores, region_similarity
from .pairs import pair_labels
from .report import write_csv, write_json
from .scoring import (
    LabelPair,
    ObjectScores,
    Summary,
    VideoScores,
    score_pair,
    score_volumes,
    summarize,
)

__all__ = [
    "ENDOVIS17_CLASSES",
    "ENDOVIS18_CLASSES",
    "ClassScores",
    "Classes",
    "LabelPair",
    "ObjectScores",
    "Statistics",
    "Summary",
    "VideoScores",
    "class_scores",
    "contour_accuracy",
    "dice",
    "iou",
    "j_and_f",
    "label_scores",
    "load_classes",
    "pair_labels",
    "region_similarity",
    "score_pair",
    "score_volumes",
    "statistics",
    "summarize",
    "write_csv",
    "write_json",
]
