"""Results of tracking: label volumes, their files, measurements, tracks and previews.

Importing this needs numpy only; the libraries that read and write files are imported when used.
"""

from ._arrays import LabelArray
from ._files import refuse_to_replace
from ._overlay import overlay
from .coco import write_coco
from .contact_sheet import SheetFrame, contact_sheet
from .export import export, write_davis, write_tiff, write_zarr
from .measurements import Measurements, measure
from .palette import object_color, voc_palette
from .preview import PreviewVideo, check_preview, write_preview
from .reading import read_labels
from .tracks import CentroidTracks, centroid_tracks
from .volume import AlreadyCompleteError, LabelVolume, forget_preview, unsaved_labels

__all__ = [
    "AlreadyCompleteError",
    "CentroidTracks",
    "LabelArray",
    "LabelVolume",
    "Measurements",
    "PreviewVideo",
    "SheetFrame",
    "centroid_tracks",
    "check_preview",
    "contact_sheet",
    "export",
    "forget_preview",
    "measure",
    "object_color",
    "overlay",
    "read_labels",
    "refuse_to_replace",
    "unsaved_labels",
    "voc_palette",
    "write_coco",
    "write_davis",
    "write_preview",
    "write_tiff",
    "write_zarr",
]
