"""The options of `napari-surgsam2 track`, and their choices."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL
from napari_surgsam2.settings import PruningSettings


class PrecisionChoice(StrEnum):
    """`--precision`."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class DirectionChoice(StrEnum):
    """`--direction`."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "both"


# What is read.

Video = Annotated[
    str | None,
    typer.Argument(
        help="Video file, TIFF stack, zarr, or folder of frames. A project's own if left out.",
        show_default=False,
    ),
]
ProjectFile = Annotated[
    Path | None,
    typer.Option(
        help="A .surgsam2.json with video, prompts and settings; options given here win over it.",
        metavar="FILE",
        show_default=False,
    ),
]
Points = Annotated[
    list[str],
    typer.Option(
        help="A click: FRAME,Y,X[,ID[,+|-]]. Repeatable.", metavar="F,Y,X[,ID[,+|-]]", show_default=False
    ),
]
Boxes = Annotated[
    list[str],
    typer.Option(
        help="A box: FRAME,Y0,X0,Y1,X1[,ID]. Repeatable.",
        metavar="F,Y0,X0,Y1,X1[,ID]",
        show_default=False,
    ),
]
Masks = Annotated[
    list[str],
    typer.Option(
        help="A labels image, every value an object: FILE@FRAME. Repeatable.",
        metavar="FILE@FRAME",
        show_default=False,
    ),
]
PromptFiles = Annotated[
    list[Path],
    typer.Option(
        help="CSV that napari saves for Points (features object_id and label), JSON or a project. "
        "Repeatable.",
        show_default=False,
    ),
]

# How it is tracked.

ModelName = Annotated[
    str | None,
    typer.Option(
        help="A name from 'models list', or a .pt, .pth or .safetensors file.", show_default=DEFAULT_MODEL
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the network's input, a multiple of 32; smaller is faster. Default: the model's.",
        show_default=False,
    ),
]
PruneFrames = Annotated[
    int | None,
    typer.Option(
        help="Memory slots freed by Efficient Frame Pruning; 0 for none, as SAM 2.",
        show_default=str(PruningSettings().prune_frames),
    ),
]
FillHoles = Annotated[
    int | None,
    typer.Option(help="Fill holes of masks up to this area, in pixels.", show_default="0"),
]
RemoveSpeckles = Annotated[
    int | None,
    typer.Option(help="Remove separate pieces of masks up to this area, in pixels.", show_default="0"),
]
Precision = Annotated[
    PrecisionChoice | None,
    typer.Option(
        help="Arithmetic; auto is bfloat16 where that is fast, float32 elsewhere.",
        show_default="auto",
    ),
]
TrackingDirection = Annotated[
    DirectionChoice | None,
    typer.Option(
        help="forward: from the earliest prompted frame on; backward: from it to the first frame; both.",
        show_default="both",
    ),
]
Frames = Annotated[
    str | None,
    typer.Option(
        help="Only frames A up to, not including, B; A: goes to the end.",
        metavar="A:B",
        show_default=False,
    ),
]

# What is written.

Output = Annotated[
    str,  # a path would lose a separator at its end, which asks for a folder
    typer.Option(
        "-o",
        "--output",
        help="masks.tif, masks.zarr, masks.json (COCO), or a folder for palette PNGs.",
        metavar="<path>",
        show_default=False,
    ),
]
Preview = Annotated[
    Path | None,
    typer.Option(help="Also write a video with the masks drawn over the frames, such as overlay.mp4."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a summary as JSON on the standard output.")]
