"""Results of tracking: label volumes, their files, and previews.

Importing this needs numpy only; the libraries that read and write files are imported when used.
"""

from ._arrays import LabelArray
from ._files import refuse_to_replace, writing
from ._overlay import overlay
from .contact_sheet import SheetFrame, contact_sheet
from .export import export, write_davis, write_tiff, write_zarr
from .palette import object_color, voc_palette
from .preview import PreviewVideo, check_preview, write_preview
from .reading import read_labels
from .volume import AlreadyCompleteError, LabelVolume

__all__ = [
    "AlreadyCompleteError",
    "LabelArray",
    "LabelVolume",
    "PreviewVideo",
    "SheetFrame",
    "check_preview",
    "contact_sheet",
    "export",
    "object_color",
    "overlay",
    "read_labels",
    "refuse_to_replace",
    "voc_palette",
    "write_davis",
    "write_preview",
    "write_tiff",
    "write_zarr",
    "writing",
]
