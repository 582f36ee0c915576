"""Running the jobs of a batch, from Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from napari_surgsam2.errors import OutputError, UsageError
from napari_surgsam2.files import writing
from napari_surgsam2.masks._files import is_taken
from napari_surgsam2.masks._partial import mark_outdated, partial_folder, unmark_outdated

from .cluster import plan_workers, require_distributed
from .dispatch import JobEvent, Run
from .jobs import Job, check_jobs, named_apart
from .report import BatchReport, ReportFolder, ReportNotWrittenError
from .tables import load_jobs

_NAMES_SHOWN = 5


def run_batch(
    jobs: Iterable[Job] | str | Path,
    client: Any = None,
    *,
    workers: int | None = None,
    device: str = "auto",
    retries: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    report: str | Path | None = None,
    on_event: Callable[[JobEvent], object] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BatchReport:
    """Track many videos on dask.distributed; each gets what `track` alone would give it.

    All jobs are checked before anything starts. One that fails does not stop the others; one whose process
    is killed goes on from its unfinished output. Ctrl+C lets the frames under way end and keeps what is done.

    Parameters
    ----------
    jobs : iterable of Job, or path
        Or what `load_jobs` reads.
    client : distributed.Client or str, optional
        Or a scheduler's address. Videos, prompts and outputs must be reachable by its workers under the same
        paths, and `napari_surgsam2` be installed there. By default processes of this machine: one per GPU,
        or else as many as cores and memory allow; a script that starts them must do so under
        `if __name__ == "__main__":`.
    workers : int, optional
        How many processes of this machine.
    device : {"auto", "cpu", "cuda", "cuda:N", "mps"}
        Where to compute.
    retries : int
        How often a job is begun again, after its process was lost or after an error that may pass.
    resume : bool
        Leave alone what is complete, go on with what was interrupted, and do the rest. What is complete and,
        by the earlier report in the folder, was made of another video, prompts, model or settings, fails.
    overwrite : bool
        Replace existing outputs. If the batch is interrupted, `resume` alone replaces those that are left.
        Both together go on with what was interrupted before, and make the rest again.
    report : path, optional
        A folder for `report.json`, and `report.html` with a contact sheet of each video.
    on_event : callable
        Called with each `JobEvent`, by the thread that called this.
    should_stop : callable
        Asked a few times a second; True ends the batch as Ctrl+C does, but returns the report.

    Returns
    -------
    BatchReport
        With a result for each job, in their order.

    Raises
    ------
    UsageError
        If a job cannot be done, or an argument has a value that cannot be used.
    OutputError
        If there are outputs already, and neither `resume` nor `overwrite` is given; or the report cannot be
        written. If that is found at the end, it is a `ReportNotWrittenError`, which has the results.
    ClusterError
        If the scheduler cannot be reached, or local workers do not start. Where a scheduler has no workers,
        they are waited for.

    Examples
    --------
    >>> report = run_batch("jobs.csv", workers=2, report="report")    # doctest: +SKIP
    >>> report.counts    # doctest: +SKIP
    {'done': 11, 'failed': 1}
    """
    require_distributed()
    if retries < 0:
        raise UsageError(f"The number of retries is {retries}; it must be at least 0.")
    if client is not None and workers is not None:
        raise UsageError(
            "Workers are given and a scheduler too, which has workers of its own; leave one out."
        )
    if isinstance(jobs, (str, Path)):
        checked = load_jobs(jobs)
    else:
        checked = list(jobs)
        if not checked:
            raise UsageError("There are no jobs; give at least one.")
        check_jobs(checked, lambda index: f"Job {index} ('{checked[index].name}')")
    jobs = named_apart(checked)
    if client is not None and not isinstance(client, str) and getattr(client, "asynchronous", True):
        raise UsageError("The client is asynchronous, or none at all; give a distributed.Client.")
    complete = [resume and not overwrite and _is_complete(job) for job in jobs]
    if not (resume or overwrite):
        _refuse_existing(jobs)
    plan = None
    if client is None and not all(complete):
        plan = plan_workers(complete.count(False), workers, device)
    folder = None if report is None else ReportFolder(report)
    for job in jobs:
        with writing(job.target):
            job.target.parent.mkdir(parents=True, exist_ok=True)
    run = Run(jobs, retries, device, folder, on_event, should_stop)
    for index in range(len(jobs)):
        if complete[index]:
            run.skip(index)
    try:
        if not all(complete):
            run.do_all(
                client if plan is None else plan,
                lambda: _mark_outdated(jobs, keep_runs=resume) if overwrite else None,
            )
    except BaseException:
        with contextlib.suppress(OutputError):  # what ended the batch is told, not what follows from it
            run.write_report()
        raise
    try:
        run.write_report()
    except OutputError as error:
        raise ReportNotWrittenError(
            f"The batch is over, but its report is not written: {error} With the same command and --resume "
            "(resume=True) it is written then; no video that is done is done again.",
            run.report(),
        ) from error
    return run.report()


def _is_complete(job: Job) -> bool:
    return is_taken(job.target) and not partial_folder(job.target).exists()


def _mark_outdated(jobs: Sequence[Job], keep_runs: bool) -> None:
    """Note which outputs are to be replaced: all of them, or none if one cannot be.

    With `keep_runs` interrupted runs stay, to be gone on with.
    """
    marked: list[Job] = []
    try:
        for job in jobs:
            there = is_taken(job.target) or partial_folder(job.target).exists()
            if there and mark_outdated(job.target, keep_run=keep_runs):
                marked.append(job)
    except BaseException:
        for job in marked:
            unmark_outdated(job.target)
        raise


def _refuse_existing(jobs: Sequence[Job]) -> None:
    there = [
        job.output
        for job in jobs
        if is_taken(job.target) or (partial_folder(job.target) / "run.json").exists()
    ]
    if there:
        more = "" if len(there) <= _NAMES_SHOWN else f" and {len(there) - _NAMES_SHOWN} more"
        raise OutputError(
            f"Nothing was started, since there are outputs of {len(there)} jobs already, finished or not: "
            f"{', '.join(there[:_NAMES_SHOWN])}{more}. Do what is missing with --resume (resume=True), or "
            "replace them with --force (overwrite=True)."
        )
