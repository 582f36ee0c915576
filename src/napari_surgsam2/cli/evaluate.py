"""`napari-surgsam2 evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_surgsam2.errors import UsageError

from .console import error_console, interruption_says, print_table, step_progress

if TYPE_CHECKING:
    from napari_surgsam2.evaluation import Classes, LabelPair, VideoScores


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="A folder with a folder of PNGs per video, or one volume.")
    ],
    ground_truth: Annotated[
        Path, typer.Argument(help="The same of the truth; not all frames need be there.")
    ],
    csv: Annotated[
        Path | None, typer.Option(help="Write a row per video, object and frame.", metavar="FILE")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all means.", metavar="FILE")] = None,
    endovis: Annotated[
        str | None,
        typer.Option(
            help="Also the EndoVis scores; what the labels are: 2017 or 2018 (their classes), objects (each "
            "its own class), or the classes.json of prepare-endovis.",
            metavar="CLASSES",
            show_default=False,
        ),
    ] = None,
    video_list: Annotated[
        Path | None, typer.Option(help="A text file with the names of the videos to take.", metavar="FILE")
    ] = None,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Score the first and last frames too.")
    ] = False,
    no_void: Annotated[
        bool, typer.Option("--no-void", help="255 in the ground truth is an object, not void.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Score masks against ground truth: J, F, J&F and Dice as DAVIS 2017 has them, and EndoVis scores."""
    from napari_surgsam2.evaluation import load_classes, pair_labels, write_csv, write_json
    from napari_surgsam2.evaluation.report import check_new_file
    from napari_surgsam2.evaluation.vos_record import outdated_results
    from napari_surgsam2.masks import refuse_to_replace

    inputs = [predictions, ground_truth, video_list, endovis]
    for file in (csv, json):
        refuse_to_replace([path for path in inputs if path is not None], file)
        check_new_file(file, force)
    if csv is not None and json is not None and csv.resolve() == json.resolve():
        raise UsageError(f"--csv and --json are both '{csv}'; give each a file of its own.")
    classes = None if endovis is None else load_classes(endovis)
    with interruption_says("Stopped before all was scored."):
        pairs = pair_labels(predictions, ground_truth, video_list)
    if old := sorted(outdated_results(predictions) & {pair.name for pair in pairs}):
        more = f" and {len(old) - 1} more" if len(old) > 1 else ""
        _note(
            f"The result of '{old[0]}'{more} is outdated: it was made otherwise than the others, and `vos` "
            "has not come to it yet."
        )
    videos = score_all(pairs, all_frames, no_void, classes)
    print_scores(videos)  # first: the files may be on a disk that is full by now
    if csv is not None:
        write_csv(csv, videos, overwrite=force)
    if json is not None:
        write_json(json, videos, overwrite=force)


def score_all(
    pairs: Sequence[LabelPair], all_frames: bool, no_void: bool, classes: Classes | None
) -> list[VideoScores]:
    """Score videos, showing how it goes, and say what was left out."""
    from napari_surgsam2.evaluation import score_pair
    from napari_surgsam2.evaluation.scoring import VOID

    counted = sum(max(len(pair.frames) - (0 if all_frames else 2), 0) for pair in pairs)
    videos = []
    with step_progress() as bar, interruption_says("Stopped before all was scored."):
        task = bar.add_task("Scoring", total=counted)
        for pair in pairs:
            videos.append(
                score_pair(
                    pair,
                    all_frames=all_frames,
                    void_label=None if no_void else VOID,
                    classes=classes,
                    on_frame=lambda: bar.update(task, advance=1),
                )
            )
    for video in videos:
        if video.unknown:
            labels = ", ".join(map(str, video.unknown))
            _note(f"The predictions of '{video.name}' have labels that its ground truth lacks: {labels}.")
        if not video.objects:
            _note(f"The ground truth of '{video.name}' shows no object.")
        elif not any(len(one.frames) for one in video.objects):
            _note(f"No frame of '{video.name}' counts; score first and last ones with --all-frames.")
    return videos


def print_scores(videos: Sequence[VideoScores], speeds: dict[str, float | None] | None = None) -> None:
    """Print a row per video, and the mean over all objects; with frames/s where they are given."""
    from napari_surgsam2.evaluation import summarize
    from napari_surgsam2.evaluation.challenge import join_class_scores

    columns = ["video", "objects", "J&F", "J", "recall", "decay", "F", "recall", "decay", "Dice"]
    scored = [video.classes for video in videos if video.classes is not None]
    if scored:
        columns += ["Challenge IoU", "ISI IoU", "mcIoU"]
    if speeds is not None:
        columns.append("frames/s")
    table = Table(*columns, box=None)
    rows = [(video.name, video.summary, video.classes, (speeds or {}).get(video.name)) for video in videos]
    every = join_class_scores(scored) if scored else None
    known = [speed for speed in (speeds or {}).values() if speed is not None]
    rows.append(("mean", summarize(videos), every, sum(known) / len(known) if known else None))
    for name, s, classes, speed in rows:
        numbers = [s.j_and_f, s.j, s.j_recall, s.j_decay, s.f, s.f_recall, s.f_decay, s.dice]
        if classes is not None:
            numbers += [classes.challenge_iou, classes.isi_iou, classes.mean_class_iou]
        cells = [_cell(number) for number in numbers]
        if speeds is not None:
            cells.append("-" if speed is None else f"{speed:.2f}")
        table.add_row(name, str(s.objects), *cells)
    print_table(table)
    if every is not None and every.class_iou:
        by_class = Table("class", "IoU", box=None)
        for name, value in every.class_iou.items():
            by_class.add_row(name, _cell(value))
        print_table(by_class)


def _cell(number: float) -> str:
    return "-" if number != number else f"{number:.3f}"


def _note(text: str) -> None:
    error_console.print(f"Note: {text}", markup=False, soft_wrap=True)
