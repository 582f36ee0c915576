"""Arguments that are more than a number or a path, as text and as what they mean."""

from __future__ import annotations

from napari_surgsam2.errors import UsageError
from napari_surgsam2.prompts import Box, Point, Prompt, masks_from_labels


def _numbers(option: str, text: str, form: str, parts: list[str]) -> list[float]:
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise UsageError(f"{option} is '{text}'; it must be {form}, all numbers.") from None


def parse_point(text: str) -> Prompt:
    """Read `--point`."""
    form = "FRAME,Y,X[,ID[,+|-]]"
    parts = [part.strip() for part in text.split(",")]
    if not 3 <= len(parts) <= 5 or (len(parts) == 5 and parts[4] not in ("+", "-")):
        raise UsageError(f"--point is '{text}'; it must be {form}, such as 0,120,200 or 0,120,200,1,-.")
    frame, y, x, object_id = _numbers("--point", text, form, [*parts[:4], "1"][:4])
    return Point(frame, y, x, object_id, parts[-1] != "-")  # type: ignore[arg-type]  # checked there


def parse_box(text: str) -> Prompt:
    """Read `--box`."""
    form = "FRAME,Y0,X0,Y1,X1[,ID]"
    parts = [part.strip() for part in text.split(",")]
    if not 5 <= len(parts) <= 6:
        raise UsageError(f"--box is '{text}'; it must be {form}, such as 0,100,150,220,300.")
    return Box(*_numbers("--box", text, form, parts))  # type: ignore[arg-type]  # checked there


def parse_masks(text: str) -> list[Prompt]:
    """Read `--mask`, a labels image and its frame."""
    file, at, frame = text.rpartition("@")
    if not (file and at and frame.isdecimal()):
        raise UsageError(f"--mask is '{text}'; it must be FILE@FRAME, such as first.png@0.")
    from napari_surgsam2.masks import read_labels

    labels = read_labels(file)
    if labels.ndim == 3 and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim == 3:
        raise UsageError(f"--mask is '{text}'; '{file}' holds {labels.shape[0]} images, it must hold one.")
    return list(masks_from_labels(int(frame), labels))


def parse_frames(text: str) -> tuple[int, int | None]:
    """Read `--frames`: A:B, where B may be left out."""
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(first or 0), int(last) if last else None
    except ValueError:
        raise UsageError(f"--frames is '{text}'; it must be A:B with whole numbers, such as 0:100.") from None
