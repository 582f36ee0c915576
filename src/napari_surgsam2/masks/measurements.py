"""Size, place, shape and brightness of each object in each frame."""

from __future__ import annotations

import csv
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

from ._arrays import LabelArray, as_labels, volume_shape
from ._files import Format, new_output

if TYPE_CHECKING:
    from napari_surgsam2.video import Video

_COLUMNS: dict[str, Any] = {
    "frame": np.int64,
    "time": np.float64,
    "object_id": np.int64,
    "name": np.str_,
    "area": np.float64,
    "centroid_y": np.float64,
    "centroid_x": np.float64,
    "bbox_y0": np.float64,
    "bbox_x0": np.float64,
    "bbox_y1": np.float64,
    "bbox_x1": np.float64,
    "perimeter": np.float64,
    "eccentricity": np.float64,
    "mean_intensity": np.float64,
    "confidence": np.float64,
}

# Standard deviation in pixels for finding the direction of an outline.
_BLUR = 1.2

# Above this, region lists indexed by label would be mostly empty, and large.
_LARGE_ID = 65_535


@dataclass(frozen=True, eq=False)
class Measurements:
    """A table with one row for each object and frame where it is present, ordered by frame, then object id.

    Attributes
    ----------
    columns : dict of str to ndarray, shape (N,)
        With `u` for the unit that the spacing is given in, and `s` for that of the frame interval:

        - `frame` (int), from 0; `time` (s), frame times frame interval;
        - `object_id` (int), `name` (str);
        - `area` (u²);
        - `centroid_y`, `centroid_x` (u), where the centre of pixel (0, 0) is at (0, 0);
        - `bbox_y0`, `bbox_x0`, `bbox_y1`, `bbox_x1` (u): the first row and column that belong to the object,
          and the first ones after it, times the spacing, so that `y1 - y0` is the height;
        - `perimeter` (u): of square pixels as `skimage.measure.perimeter` has it, which goes along the
          centres of the border pixels; of others along their outer edges, smoothed. On large objects the two
          agree to some 5 %;
        - `eccentricity`, of the ellipse with the same second moments, from 0 (circle) to 1;
        - `mean_intensity`, of the video's native pixels, over the colour channels too, without alpha and
          without what is not finite; NaN without a video, or without a finite pixel;
        - `confidence`, NaN where it is not known.
    """

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["frame"])

    def to_csv(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the table as CSV, UTF-8: a header row with the names of the columns, then one line per row.

        Values that are not known (NaN) are empty cells.

        Parameters
        ----------
        path : path
            Where to, any suffix.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        Path
            The absolute path.

        Raises
        ------
        OutputError
            If the file exists or cannot be written.
        """
        target = Path(path).absolute()
        with (
            new_output(target, Format.CSV, overwrite=overwrite) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(self.columns)
            for row in zip(*(column.tolist() for column in self.columns.values()), strict=True):
                writer.writerow("" if value != value else value for value in row)
        return target

    def summary(self) -> dict[int, dict[str, Any]]:
        """Return what there is to say of each object over all its frames.

        Returns
        -------
        dict of int to dict
            By object id, in ascending order: `name`; `frames`, the number of frames where it is present;
            `first_frame` and `last_frame` of these; `mean_area`, `min_area` and `max_area`;
            `mean_perimeter`; `mean_intensity` and `mean_confidence`, over the frames where they are known, or
            NaN. Units are those of the columns.
        """
        summary = {}
        for object_id in np.unique(self.columns["object_id"]).tolist():
            own = self.columns["object_id"] == object_id
            of = {name: column[own] for name, column in self.columns.items()}
            summary[object_id] = {
                "name": str(of["name"][0]),
                "frames": int(own.sum()),
                "first_frame": int(of["frame"].min()),
                "last_frame": int(of["frame"].max()),
                "mean_area": _mean_of_known(of["area"]),
                "min_area": float(of["area"].min()),
                "max_area": float(of["area"].max()),
                "mean_perimeter": _mean_of_known(of["perimeter"]),
                "mean_intensity": _mean_of_known(of["mean_intensity"]),
                "mean_confidence": _mean_of_known(of["confidence"]),
            }
        return summary


def measure(
    labels: LabelArray,
    video: Video | None = None,
    *,
    object_ids: Iterable[int] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    frame_interval: float = 1.0,
    names: Mapping[int, str] | None = None,
    confidence: Mapping[int, Mapping[int, float]] | None = None,
    frames: Iterable[int] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Measurements:
    """Measure each object in each frame where it is present.

    Parameters
    ----------
    labels : array-like, shape (T, Y, X)
        Integers, 0 is background; read frame by frame.
    video : Video, optional
        The video of these labels, for the intensity.
    object_ids : iterable of int, optional
        Measure only these objects; by default all.
    spacing : (float, float)
        Height and width of a pixel (y, x), in any unit of length, for areas, places and perimeters. Where the
        two differ, the eccentricity is that of the object's true shape.
    frame_interval : float
        Time from one frame to the next, in any unit of time.
    names : mapping of int to str, optional
        Names by object id; others are called "object N".
    confidence : mapping of int to mapping of int to float, optional
        By object id and frame.
    frames : iterable of int, optional
        Measure only these frames; by default all.
    progress : callable, optional
        Called after each frame with the number of frames done and of all; what it raises ends the measuring.

    Returns
    -------
    Measurements
        The rows ordered by frame, then object id.

    Raises
    ------
    UsageError
        If the labels are no integers of that shape or negative, the video has another shape, there is no such
        frame, or the spacing or frame interval is no positive number.
    VideoError
        If a frame of the video cannot be read.
    """
    shape = volume_shape(labels)
    if video is not None and video.shape != shape:
        raise UsageError(
            f"The labels have shape {shape}, the video {video.shape} (T, Y, X); they must be the same. Give "
            f"the labels of this video."
        )
    scale = _positive("spacing", spacing, 2)
    interval = _positive("frame_interval", [frame_interval], 1)[0]
    names, confidence = names or {}, confidence or {}
    rows: list[tuple[Any, ...]] = []
    for t, found in iter_regions(labels, object_ids, frames, spacing=scale, progress=progress):
        pixels = video.raw(t) if video is not None and found else None
        for object_id, region in found:
            rows.append(
                (
                    t,
                    t * interval,
                    object_id,
                    names.get(object_id, default_name(object_id)),
                    *_geometry(region, scale),
                    math.nan if pixels is None else _mean_intensity(pixels, region),
                    confidence.get(object_id, {}).get(t, math.nan),
                )
            )
    columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
    return Measurements(
        {
            name: np.array(values, dtype)
            for (name, dtype), values in zip(_COLUMNS.items(), columns, strict=True)
        }
    )


def default_name(object_id: int) -> str:
    """Return what an object without a name is called."""
    return f"object {object_id}"


def iter_regions(
    labels: LabelArray,
    object_ids: Iterable[int] | None = None,
    frames: Iterable[int] | None = None,
    *,
    spacing: tuple[float, ...] = (1.0, 1.0),
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[int, list[tuple[int, Any]]]]:
    """Yield each frame's index and its objects, as `regions` returns them; the frames in ascending order.

    Parameters are those of `measure`; `progress` is called when the next frame is asked for.
    """
    count, height, width = volume_shape(labels)
    chosen = _chosen_frames(frames, count)
    wanted = None if object_ids is None else {operator.index(object_id) for object_id in object_ids}
    for done, t in enumerate(chosen, start=1):
        frame = as_labels(labels[t], np.dtype(np.uint32), (height, width), f"Frame {t}")
        found = regions(frame, spacing)
        yield t, [entry for entry in found if wanted is None or entry[0] in wanted]
        if progress is not None:
            progress(done, len(chosen))


def regions(frame: NDArray[Any], spacing: tuple[float, ...] = (1.0, 1.0)) -> list[tuple[int, Any]]:
    """Return the objects of a frame, shape (Y, X), by ascending id: id and scikit-image's RegionProperties.

    An object of several pieces is one region. A region's own `label` may be another number than the id.
    """
    import skimage.measure

    regionprops: Any = skimage.measure.regionprops

    if not frame.any():
        return []
    if frame.max() <= _LARGE_ID:
        return [(int(region.label), region) for region in regionprops(frame, spacing=spacing)]
    ids = np.unique(frame[frame > 0])
    numbers = np.where(frame > 0, np.searchsorted(ids, frame) + 1, 0)
    return [(int(ids[region.label - 1]), region) for region in regionprops(numbers, spacing=spacing)]


def _geometry(region: Any, scale: tuple[float, ...]) -> tuple[float, ...]:
    """Return area, centroid (y, x), bounding box (y0, x0, y1, x1), perimeter and eccentricity."""
    height, width = scale
    y0, x0, y1, x1 = region.bbox
    perimeter = region.perimeter if height == width else _perimeter(region.image, height, width)
    box = (y0 * height, x0 * width, y1 * height, x1 * width)
    return (region.area, *region.centroid, *box, perimeter, region.eccentricity)


def _perimeter(mask: NDArray[np.bool_], height: float, width: float) -> float:
    """Return the length of a mask's outline where pixels are no squares, which scikit-image does not measure.

    Where the outline runs at a slant, the edges between pixels inside and outside make stairs. Each edge
    counts with the part of its length that lies along the outline: its length times the cosine of the angle
    between the two. The outline's direction is taken from the gradient of the blurred mask. On ellipses this
    is right to about 3 %; corners are cut a little, so that small angular objects come out too short, like by
    scikit-image: 10 pixels by 5 by 6 %, 30 by 15 by 2 %.

    Parameters
    ----------
    mask : ndarray, shape (h, w), bool
        The object.
    height, width : float
        Of a pixel.
    """
    import scipy.ndimage

    ndimage: Any = scipy.ndimage
    # Blurred further along the axis with more pixels to a length, since stairs have longer steps there.
    longest = max(height, width)
    sigma = (_BLUR * math.sqrt(longest / height), _BLUR * math.sqrt(longest / width))
    padded = np.pad(mask, math.ceil(4 * max(sigma)) + 1)
    blurred = padded.astype(np.float64)
    gradient = (
        ndimage.gaussian_filter(blurred, sigma, order=(1, 0)) / height,
        ndimage.gaussian_filter(blurred, sigma, order=(0, 1)) / width,
    )
    total = 0.0
    for axis, edge_length in ((0, width), (1, height)):
        before, after = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        edges = padded[before] != padded[after]
        y, x = (part[before][edges] + part[after][edges] for part in gradient)
        norm = np.hypot(y, x)
        across = np.abs(y if axis == 0 else x)
        # Without a gradient, as amid a checkerboard, the edge itself is the outline.
        total += edge_length * np.divide(across, norm, out=np.ones_like(norm), where=norm > 0).sum()
    return float(total)


def _mean_intensity(pixels: NDArray[Any], region: Any) -> float:
    """Return the mean of native pixels, shape (Y, X) or (Y, X, C), over an object and the colour channels.

    Only finite ones count; NaN without any.
    """
    inside = pixels[region.slice][region.image]
    if inside.ndim == 2:
        inside = inside[..., :3]  # a fourth channel is alpha
    if inside.dtype.kind == "f":
        inside = inside[np.isfinite(inside)]
    return float(inside.mean(dtype=np.float64)) if inside.size else math.nan


def _mean_of_known(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _chosen_frames(frames: Iterable[int] | None, count: int) -> list[int]:
    """Return the frames to look at, ascending and each once."""
    if frames is None:
        return list(range(count))
    chosen = sorted({operator.index(t) for t in frames})
    if wrong := [t for t in chosen if not 0 <= t < count]:
        raise UsageError(f"Frame {wrong[0]} is outside the labels; their frames are 0 to {count - 1}.")
    return chosen


def _positive(name: str, values: Iterable[float], count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(0 < value < math.inf for value in numbers):
        rule = "a positive number" if count == 1 else f"{count} positive numbers (y, x)"
        raise UsageError(
            f"{name} is {numbers[0] if len(numbers) == count == 1 else numbers}; it must be {rule}."
        )
    return numbers
