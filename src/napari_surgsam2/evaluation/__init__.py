"""How good masks are: measures that compare predicted masks with reference masks."""

from .measures import contour_accuracy, dice, j_and_f, label_scores, region_similarity

__all__ = ["contour_accuracy", "dice", "j_and_f", "label_scores", "region_similarity"]
