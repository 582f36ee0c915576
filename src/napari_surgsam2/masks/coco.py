"""COCO JSON: masks as run lengths, one image a frame, one track an object."""

from __future__ import annotations

import json
import operator
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_surgsam2.errors import UsageError

from ._arrays import LabelArray, compact_dtype, iter_frames, label_dtype, volume_shape
from ._files import PROJECT_SUFFIX, Format, new_output
from .measurements import default_name, regions

_INFO = {"description": "Masks of a video: an image per frame, a track_id per object", "version": "1"}

# Compressed run lengths: characters from "0" on hold 5 bits and a sixth that says that more follow.
_OFFSET = 48
_MORE = 32
_MOST_CHARACTERS = 12


def write_coco(
    path: str | os.PathLike[str],
    labels: LabelArray,
    names: Mapping[int, str] | None = None,
    file_names: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write masks as COCO JSON.

    The file has one entry in `images` for each frame, with `frame_index` counting from 0, and one in
    `annotations` for each object and frame where it is present: `segmentation` as compressed run lengths,
    `area` in pixels, `bbox` as [x, y, width, height] in pixels, `track_id`, which is the object id, and
    `category_id`. Each different name is a category, whose id is the first object id of that name.

    Parameters
    ----------
    path : path
        Where to, any suffix; `read_labels` knows the format by `.json`.
    labels : array-like, shape (T, Y, X)
        Integers, 0 is background; read and written frame by frame.
    names : mapping of int to str, optional
        Names by object id; others are called "object N".
    file_names : sequence of str, optional
        The picture of each frame; by default `00000.png`, `00001.png`, ...
    overwrite : bool
        Replace an existing COCO JSON file.

    Returns
    -------
    Path
        The absolute path.

    Raises
    ------
    UsageError
        If the labels are no integers of that shape, or negative, the file names are not one per frame, or an
        id with a name is below 1.
    OutputError
        If the file exists or cannot be written.
    """
    target = Path(path).absolute()
    with new_output(target, Format.COCO, overwrite=overwrite) as temporary:
        write_coco_file(temporary, labels, names, file_names)
    return target


def write_coco_file(
    path: Path,
    labels: LabelArray,
    names: Mapping[int, str] | None = None,
    file_names: Sequence[str] | None = None,
) -> None:
    """Write, bit by bit, to a path where nothing is yet; parameters are those of `write_coco`."""
    shape = volume_shape(labels)
    if file_names is not None and len(file_names) != shape[0]:
        raise UsageError(f"{len(file_names)} file names were given; there must be {shape[0]}, one per frame.")
    categories = _Categories(names or {})
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(_INFO)},\n"images": [')
        _write_entries(file, _images(shape, file_names))
        file.write('],\n"annotations": [')
        _write_entries(file, _annotations(labels, categories))
        # Only now all objects are known.
        file.write('],\n"categories": [')
        _write_entries(file, categories.entries())
        file.write("]}\n")


def _write_entries(file: Any, entries: Iterable[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        file.write(",\n" if number else "\n")
        file.write(json.dumps(entry))


def _images(shape: tuple[int, int, int], file_names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    count, height, width = shape
    for t in range(count):
        yield {
            "id": t + 1,
            "file_name": f"{t:05}.png" if file_names is None else str(file_names[t]),
            "width": width,
            "height": height,
            "frame_index": t,
        }


def _annotations(labels: LabelArray, categories: _Categories) -> Iterator[dict[str, Any]]:
    number = 0
    for t, frame in enumerate(iter_frames(labels, compact_dtype(labels))):
        for object_id, region in regions(frame):
            number += 1
            y0, x0, y1, x1 = (int(n) for n in region.bbox)
            counts = _counts_of_part(region.image, (y0, x0), frame.shape)
            yield {
                "id": number,
                "image_id": t + 1,
                "category_id": categories.id_of(object_id),
                "track_id": object_id,
                "segmentation": {"size": list(frame.shape), "counts": compress_counts(counts)},
                "area": int(region.area),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
            }


class _Categories:
    """The categories, by name; each has the first object id of its name."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = {operator.index(object_id): str(name) for object_id, name in names.items()}
        if self._names and min(self._names) < 1:
            raise UsageError(f"A name is given for the object id {min(self._names)}; ids are 1 or more.")
        self._ids: dict[str, int] = {}
        for object_id in sorted(self._names):
            self.id_of(object_id)

    def id_of(self, object_id: int) -> int:
        """Return the category of an object, a new one if its name has not come yet."""
        return self._ids.setdefault(self._names.get(object_id, default_name(object_id)), object_id)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries for the file, by id."""
        for name, category_id in sorted(self._ids.items(), key=operator.itemgetter(1)):
            yield {"id": category_id, "name": name, "supercategory": "object"}


class CocoLabels:
    """The masks of a COCO JSON file, which is held in memory as it is; masks are made when asked for.

    Frames are the entries of `images`, ordered by `frame_index` if all have one, else as they stand in the
    file. The label of an annotation is its `track_id` or, where not all annotations have one, `instance_id`,
    both also from CVAT's `attributes`; else its `id`, or else its number in the file from 1, so that without
    tracks each annotation is an object of its own. Where one of these is 0, all are raised by 1. Of
    overlapping annotations the later one wins.

    Attributes
    ----------
    shape : tuple of int
        (T, Y, X).
    dtype : dtype
        The smallest unsigned one that holds all labels.

    Raises
    ------
    UsageError
        If the file is no COCO JSON, or holds no masks of one size.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        document = _load(path)
        images, annotations = document["images"], document["annotations"]
        if all("frame_index" in image for image in images):
            images = sorted(images, key=operator.itemgetter("frame_index"))
        self.shape = (len(images), *_common_size(images, path))
        labels = _labels_of(annotations, path)
        self.dtype = label_dtype(max(labels, default=0))
        frame_of = {image.get("id"): t for t, image in enumerate(images)}
        if None in frame_of or len(frame_of) != len(images):
            raise UsageError(f"The images in {path} must have an 'id' each, all different; correct them.")
        # By frame: (label, segmentation, what to call the annotation in a message).
        self._masks: defaultdict[int, list[tuple[int, Any, str]]] = defaultdict(list)
        for number, (label, annotation) in enumerate(zip(labels, annotations, strict=True)):
            what = f"Annotation {annotation.get('id', f'number {number}')} of {path}"
            image_id, segmentation = annotation.get("image_id"), annotation.get("segmentation")
            if image_id not in frame_of:
                raise UsageError(f"{what} has the image_id {image_id!r}, which no image has; correct it.")
            if not segmentation:
                raise UsageError(f"{what} has no segmentation; give a file with a mask for each annotation.")
            self._masks[frame_of[image_id]].append((label, segmentation, what))

    def frame(self, t: int) -> NDArray[Any]:
        """Return the labels of frame `t`, shape (Y, X)."""
        _, height, width = self.shape
        frame = np.zeros((height, width), dtype=self.dtype)
        for label, segmentation, what in self._masks.get(t, ()):
            try:
                frame[_mask_of(segmentation, (height, width))] = label
            except UsageError as error:
                raise UsageError(f"{what}: {error}") from error
        return frame


def _load(path: Path) -> dict[str, Any]:
    """Return a COCO document with lists of objects as `images` and `annotations`."""
    if path.name.lower().endswith(PROJECT_SUFFIX):
        raise UsageError(f"{path} is a project file, not labels; open it as a project.")
    document = json.loads(path.read_text(encoding="utf-8-sig"))
    keys = ("images", "annotations")
    if isinstance(document, dict) and all(_is_list_of_objects(document.get(key)) for key in keys):
        return document
    if isinstance(document, dict) and {"points", "boxes", "masks"} & document.keys():
        raise UsageError(f"{path} holds prompts, not labels; give it as prompts.")
    raise UsageError(
        f"{path} is no COCO JSON of labels: it has no lists of objects 'images' and 'annotations'. Give a "
        f"COCO JSON, .tif or .zarr file."
    )


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _common_size(images: Sequence[Mapping[str, Any]], path: Path) -> tuple[int, int]:
    """Return height and width of all images."""
    sizes = {(image.get("height"), image.get("width")) for image in images}
    if len(sizes) != 1:
        found = "no images" if not images else f"images of {len(sizes)} sizes"
        raise UsageError(f"{path} has {found}; labels are frames of one video, all of the same size.")
    height, width = sizes.pop()
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        raise UsageError(
            f"The images in {path} have height {height!r} and width {width!r}; both must be 1 or more."
        )
    return height, width


def _labels_of(annotations: Sequence[Mapping[str, Any]], path: Path) -> list[int]:
    """Return the label of each annotation, 1 or more; see `CocoLabels`."""
    labels: list[Any] = list(range(1, len(annotations) + 1))
    for key in ("track_id", "instance_id", "id"):
        values = [_attribute(annotation, key) for annotation in annotations]
        if all(value is not None for value in values):
            labels = values
            break
    if wrong := [value for value in labels if type(value) is not int or value < 0]:
        raise UsageError(f"{path} has an annotation with the {key} {wrong[0]!r}; it must be a whole number.")
    return [label + 1 for label in labels] if 0 in labels else labels


def _attribute(annotation: Mapping[str, Any], key: str) -> Any:
    attributes = annotation.get("attributes")
    inner = attributes.get(key) if isinstance(attributes, dict) and key != "id" else None
    return annotation.get(key, inner)


def _mask_of(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask, shape (Y, X), of run lengths or polygons."""
    if isinstance(segmentation, list):
        return _draw_polygons(segmentation, shape)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise UsageError("the segmentation is neither polygons nor run lengths with 'counts'.")
    size, counts = segmentation.get("size", list(shape)), segmentation["counts"]
    if size != list(shape):
        raise UsageError(f"the segmentation has the size {size}; it must be {list(shape)}, as its image.")
    return mask_from_counts(decompress_counts(counts) if isinstance(counts, str) else counts, shape)


def _draw_polygons(polygons: Sequence[Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union of polygons, each [x0, y0, x1, y1, ...]; pixels are inside if their centres are."""
    import skimage.draw

    polygon: Any = skimage.draw.polygon

    mask = np.zeros(shape, dtype=bool)
    for number, corners in enumerate(polygons):
        if not isinstance(corners, list) or len(corners) < 6 or len(corners) % 2:
            raise UsageError(
                f"polygon {number} is {corners!r:.40}; it must be [x, y, ...] of 3 corners or more."
            )
        # COCO's (0, 0) is the corner of the first pixel, here it is its centre.
        x, y = np.asarray(corners, dtype=float).reshape(-1, 2).T - 0.5
        mask[polygon(y, x, shape)] = True
    return mask


def counts_from_mask(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the run lengths of a mask, shape (Y, X), in column-major order; the first is of background.

    Examples
    --------
    >>> counts_from_mask(np.array([[False, True], [True, True]])).tolist()
    [1, 3]
    """
    return _counts_of_part(mask, (0, 0), mask.shape)


def _counts_of_part(
    part: NDArray[np.bool_], start: tuple[int, int], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return the run lengths of a mask of `shape` (Y, X), False but for `part` from the pixel `start` on."""
    height, width = shape
    columns = np.zeros((part.shape[1], part.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = part.T
    # In each column, the rows where the value changes; there is an even number of them.
    x, y = np.nonzero(np.diff(columns, axis=1))
    edges = (x + start[1]) * height + y + start[0]
    if not edges.size:
        return np.array([height * width])
    # A run that goes on at the top of the next column ends and begins at the same place.
    first, last = edges[::2], edges[1::2]
    joined = first[1:] == last[:-1]
    edges = np.stack([first[np.r_[True, ~joined]], last[np.r_[~joined, True]]], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    return counts if counts[-1] else counts[:-1]


def mask_from_counts(counts: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask, shape (Y, X), of run lengths in column-major order, the first of background.

    Raises
    ------
    UsageError
        If they are no whole numbers, or do not add up to the pixels of the mask.
    """
    height, width = shape
    lengths = counts.tolist() if isinstance(counts, np.ndarray) else counts
    if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
        raise UsageError(f"the run lengths are {counts!r:.40}; they must be a list of whole numbers.")
    if sum(lengths) != height * width:
        raise UsageError(
            f"the run lengths add up to {sum(lengths)}; they must add up to its {height} x {width} pixels."
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def compress_counts(counts: NDArray[np.int64]) -> str:
    """Return run lengths as COCO's string.

    From the fourth on, each is replaced by the difference to the one two before it. A number is written as
    groups of 5 bits, the lowest first, up to the first group after which only copies of its highest bit, the
    sign, would follow.

    Parameters
    ----------
    counts : ndarray, shape (N,), int64
        As from `counts_from_mask`.

    Examples
    --------
    >>> compress_counts(np.array([1, 3]))
    '13'
    """
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    # Axes: number, group.
    shifts = 5 * np.arange(_MOST_CHARACTERS)
    groups = (numbers[:, np.newaxis] >> shifts) & 31
    rest = numbers[:, np.newaxis] >> (shifts + 5)
    last = (rest == -(groups >> 4)).argmax(axis=1)[:, np.newaxis]
    place = np.arange(_MOST_CHARACTERS)
    characters = groups + np.where(place < last, _MORE, 0) + _OFFSET
    return str(characters[place <= last].astype(np.uint8).tobytes(), "ascii")


def decompress_counts(text: str) -> NDArray[np.int64]:
    """Return the run lengths, shape (N,), of a string as `compress_counts` writes it.

    Raises
    ------
    UsageError
        If it is no such string.
    """
    codes = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - _OFFSET
    ends = np.flatnonzero((codes & _MORE) == 0)
    if (
        not codes.size
        or codes.min() < 0
        or codes.max() >= 2 * _MORE
        or ends[-1:].tolist() != [len(codes) - 1]
    ):
        raise UsageError(f"the compressed run lengths {text!r:.40} are damaged.")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MOST_CHARACTERS:
        raise UsageError(f"the compressed run lengths {text!r:.40} are damaged.")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= ((codes[ends] & 16) << 1) << shifts[ends]
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
