"""`napari-surgsam2 bench`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.progress import TaskID
from rich.table import Table

from napari_surgsam2.checkpoints.registry import DEFAULT_MODEL

from .console import error_console, frame_progress, interruption_says, print_table


def bench(
    model: Annotated[
        str,
        typer.Option(help="A name or file; what is not downloaded gets random weights, which are as fast."),
    ] = DEFAULT_MODEL,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input in pixels.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    objects: Annotated[list[int], typer.Option(help="How many objects. Repeatable, to compare.")] = [1],
    prune_frames: Annotated[
        list[int], typer.Option(help="Memory slots freed by frame pruning. Repeatable, to compare.")
    ] = [0, 2],
    frames: Annotated[
        int, typer.Option(help="Frames timed in each round, after 16 that fill the memory.")
    ] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds; the cases take turns, the median round is shown.")] = 3,
    video_size: Annotated[
        str, typer.Option(help="Height and width of the made-up video.", metavar="YxX")
    ] = "1080x1920",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Time tracking, whole and stage by stage, on a made-up video.

    All cases run in turn in one process, so that they can be compared. The stages are timed one after the
    other; the whole may take less than their sum, where frames are encoded while others are tracked.
    """
    from napari_surgsam2.benchmark import STAGES, BenchmarkCase, bench_model, run_benchmark

    loaded, random = bench_model(model, image_size, device)
    cases = [BenchmarkCase(n, m) for n in objects for m in prune_frames]
    with frame_progress() as bar, interruption_says("Stopped before the numbers were there."):
        task: TaskID | None = None

        def show(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("Benchmark", total=total)
            bar.update(task, completed=done)

        timings = run_benchmark(
            loaded,
            cases,
            frames,
            rounds,
            video_size,
            precision,
            progress=show,
        )
    weights = "random weights" if random else "its weights"
    error_console.print(
        f"{loaded.name} with {weights}, {loaded.parameters / 1e6:.1f} M parameters, "
        f"{loaded.image_size} pixels, {loaded.device}, {timings[0].precision}, {timings[0].threads} threads",
        markup=False,
        soft_wrap=True,
    )
    if as_json:
        print(json.dumps([dataclasses.asdict(t) for t in timings], indent=2))  # noqa: T201
        return
    table = Table("objects", "pruned", "frames/s", *(f"{s} (ms)" for s in STAGES), "frame (ms)", box=None)
    for t in timings:
        stages = [f"{1e3 * t.stages[s]:.1f}" for s in STAGES]
        row = [f"{1 / t.frame_seconds:.2f}", *stages, f"{1e3 * t.frame_seconds:.1f}"]
        table.add_row(str(t.case.objects), str(t.case.prune_frames), *row)
    print_table(table)
