"""Score a model on real pictures: one click in the middle of each instrument, and one clip.

The pictures are those that lie in these public repositories on GitHub; clone them into one folder, each under
its own name, and say which folder:

    cai4cai/cholec_instance_seg                               CholecInstanceSeg, its sample
    lofrienger/Single_SurgicalScene_For_Segmentation          EndoVis 2018, 24 pictures
    WeianWang-OvO/EB-GS-DualNet_2D-tracking-of-robotic-surgery-instruments   a robot in gray, every 40th
    Herbert-Research/surgical-instrument-segmentation         CholecSeg8k, 20 pictures
    Banyutong/SurgicalSAM2                                    CholecSeg8k, 72 frames in a row
    MahBadran93/Laparoscopic-Tools-Processing                 Art-Net, 5 pictures
    surgical-vision/segcol_challenge                          SegCol, colonoscopy, every fifth

    python benchmarks/real_pictures.py FOLDER [--model nano] [--worst 5]

What is not there is left out. Each has a license of its own.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from imageio.v3 import imread
from scipy import ndimage
from skimage.draw import polygon2mask

from napari_surgsam2 import Tracker, load_model
from napari_surgsam2.checkpoints import Model
from napari_surgsam2.prompts import central_position

BoolArray = npt.NDArray[np.bool_]
Masks = dict[str, BoolArray]
FRAMES_PER_SECOND = 25
LATER = 0.6  # seconds
STARTS = (0, 12, 24, 36, 48)


@dataclass(frozen=True)
class Source:
    """Where pictures are, and how to read what is on them."""

    repository: str
    pictures: str
    masks: Callable[[Path], Masks]
    every: int = 1
    first: int = 0


def gray(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture of numbers (Y, X)."""
    image = imread(path)
    return np.asarray(image if image.ndim == 2 else image[..., 0])


def pieces(mask: BoolArray, least: float) -> list[BoolArray]:
    """Return the connected parts of a mask that are at least this share of the picture."""
    labels, count = ndimage.label(ndimage.binary_opening(mask))
    parts = (labels == n for n in range(1, count + 1))
    return [part for part in parts if part.mean() >= least]


def numbered(masks: list[BoolArray]) -> Masks:
    """Give names to masks."""
    return {str(n): mask for n, mask in enumerate(masks)}


def of_polygons(path: Path) -> Masks:
    """Read labelme's polygons, several of one label and group for what is seen in pieces."""
    shape = imread(path).shape[:2]
    masks: Masks = {}
    text = (path.parent.parent / "ann_dir" / path.with_suffix(".json").name).read_text()
    for one in json.loads(text)["shapes"]:
        name = f"{one['label']}{one.get('group_id') or ''}"
        mask = polygon2mask(shape, np.asarray(one["points"])[:, ::-1])
        masks[name] = masks.get(name, np.zeros(shape, bool)) | mask
    return masks


def of_types(path: Path) -> Masks:
    """Read a mask whose values are kinds of instruments."""
    values = gray(path.parent.parent / "mask" / path.name)
    return {str(n): values == n for n in np.unique(values)[1:] if pieces(values == n, 0.002)}


def of_robot(path: Path) -> Masks:
    """Read a mask of all instruments."""
    number = re.findall(r"\d+", path.stem)[-1]
    folder = Path(*("Masks" if part == "Grayscale" else part for part in path.parent.parts))
    return numbered(pieces(gray(folder / f"Mask {number}.png") > 127, 0.006))


def of_herbert(path: Path) -> Masks:
    """Read a mask of all instruments."""
    mask = next((path.parent.parent / "masks").glob(path.stem.replace("_frame", "*") + ".png"))
    return numbered(pieces(gray(mask) > 127, 0.004))


def of_artnet(path: Path) -> Masks:
    """Read the mask of one instrument."""
    image = imread(path.parent.parent / "toolmask" / path.name)
    return {"0": (image if image.ndim == 2 else image[..., :3].max(-1)) > 127}


def of_segcol(path: Path) -> Masks:
    """Read the mask of one instrument, which has the values around 128."""
    number = int(re.findall(r"\d+", path.stem)[-1])
    values = gray(next((path.parent.parent / "segm_maps").glob(f"*_{number}.png")))
    parts = pieces(ndimage.binary_opening((values >= 120) & (values <= 135), iterations=2), 0.004)
    return {"0": max(parts, key=np.sum)} if parts else {}


SOURCES = {
    "CholecInstanceSeg": Source(
        "cholec_instance_seg", "utilities/_sample_files/*/img_dir/*.png", of_polygons
    ),
    "EndoVis 2018": Source(
        "Single_SurgicalScene_For_Segmentation", "**/data_gen/foreground/*/image_3/*.png", of_types
    ),
    "robot in gray": Source(
        "EB-GS-DualNet_2D-tracking-of-robotic-surgery-instruments",
        "**/GaE_Dataset/**/Grayscale/**/*.png",  # which are in GaE_Dataset_final once more
        of_robot,
        every=40,
        first=10,  # of those numbered on through all folders
    ),
    "CholecSeg8k": Source("surgical-instrument-segmentation", "outputs/*/frames/*.png", of_herbert),
    "Art-Net": Source("Laparoscopic-Tools-Processing", "**/TestAnnotation/PositiveImage/*.png", of_artnet),
    "SegCol": Source("segcol_challenge", "**/input/Seq_*/imgs/*.png", of_segcol, every=5),
}


def by_number(path: Path) -> tuple[list[int], str]:
    """Sort pictures as people count."""
    return [int(n) for n in re.findall(r"\d+", path.stem)], str(path.parent)


def colored(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture (Y, X, 3)."""
    image = imread(path)
    return np.repeat(image[..., None], 3, -1) if image.ndim == 2 else np.ascontiguousarray(image[..., :3])


def overlap(a: BoolArray, b: BoolArray) -> float:
    """Return the intersection over the union."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def scores(model: Model, folder: Path, source: Source) -> Iterator[tuple[float, str]]:
    """Click on every instrument of each picture, and say how well it is found."""
    paths = sorted((folder / source.repository).glob(source.pictures), key=by_number)
    for path in paths[source.first :: source.every]:
        masks = source.masks(path)
        if not masks:
            continue
        with_clicks = Tracker(model, colored(path)[None])
        for n, mask in enumerate(masks.values(), 1):
            with_clicks.add_points(0, n, [central_position(mask)])
        labels = with_clicks.predict(0).labels()
        with_clicks.close()
        for n, (name, mask) in enumerate(masks.items(), 1):
            yield overlap(labels == n, mask), f"{path.stem}: {name}"


def in_a_clip(model: Model, folder: Path) -> list[tuple[float, float]]:
    """Click on the grasper of the clip at several times; return the IoU there and `LATER`."""
    place = folder / "SurgicalSAM2" / "examples" / "video_pixel"
    paths = sorted(place.glob("frame_*_endo.png"), key=by_number)
    truths = [p.with_name(p.name.replace("_endo", "_endo_watershed_mask")) for p in paths]
    shown = [(p, t) for p, t in zip(paths, truths, strict=True) if t.exists()]
    found = []
    for start in STARTS if shown else ():
        part = shown[start : start + round(LATER * FRAMES_PER_SECOND) + 1]
        wanted = [np.isin(gray(truth), (31, 32)) for _, truth in part]
        tracker = Tracker(model, np.stack([colored(path) for path, _ in part]))
        tracker.add_points(0, 1, [central_position(wanted[0])])
        results = [overlap(r.labels() == 1, wanted[r.frame]) for r in tracker.propagate()]
        tracker.close()
        found.append((results[0], results[-1]))
    return found


def main() -> None:
    """Print a line for each source."""
    parser = argparse.ArgumentParser(description="One click on each instrument of real pictures.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--worst", type=int, default=0, help="how many of the worst to name")
    given = parser.parse_args()
    model = load_model(given.model)
    everything: list[float] = []
    for name, source in SOURCES.items():
        rows = sorted(scores(model, given.folder, source))
        if not rows:
            print(f"{name}: not there")
            continue
        values = [value for value, _ in rows]
        everything += values
        print(f"{name}: {len(values)} instruments, IoU {np.mean(values):.3f}, median {np.median(values):.3f}")
        for value, what in rows[: given.worst]:
            print(f"  {value:.2f} {what}")
    if everything:
        mean, median = np.mean(everything), np.median(everything)
        print(f"all: {len(everything)} instruments, IoU {mean:.3f}, median {median:.3f}")
    clip = in_a_clip(model, given.folder)
    if clip:
        clicked, later = np.mean(clip, axis=0)
        print(f"a grasper, {len(clip)} starts: clicked {clicked:.3f}, {LATER:g} s later {later:.3f}")


if __name__ == "__main__":
    main()
