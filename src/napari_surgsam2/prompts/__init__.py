"""Points, boxes and masks that say what to track; to and from a napari points table, CSV and JSON."""

from .documents import prompts_from_dict, prompts_to_dict
from .files import as_prompts, load_prompts, save_prompts
from .kinds import BoolArray, Box, Mask, Point, Prompt, check_prompts, masks_from_labels, require_positive
from .positions import central_position, correcting_position
from .tables import boxes_from_table, points_from_table, points_to_csv, points_to_table

__all__ = [
    "BoolArray",
    "Box",
    "Mask",
    "Point",
    "Prompt",
    "as_prompts",
    "boxes_from_table",
    "central_position",
    "check_prompts",
    "correcting_position",
    "load_prompts",
    "masks_from_labels",
    "points_from_table",
    "points_to_csv",
    "points_to_table",
    "prompts_from_dict",
    "prompts_to_dict",
    "require_positive",
    "save_prompts",
]
