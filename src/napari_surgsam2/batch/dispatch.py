"""A batch under way: what is sent to workers, what comes back, and what is tried again."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_surgsam2.checkpoints import ensure_downloaded
from napari_surgsam2.checkpoints.registry import CHECKPOINT_SUFFIXES, registry_entry
from napari_surgsam2.errors import CheckpointError, OutputError
from napari_surgsam2.masks._files import is_taken
from napari_surgsam2.project import Project

from .cluster import Plan, connected, local_client
from .connection import Connection, ConnectionLostError
from .identity import are_known_to_differ, job_identities
from .jobs import Job
from .report import BatchReport, JobResult, ReportFolder, Status
from .waiting import WorkerWatch

if TYPE_CHECKING:
    from .worker import Attempt, Facts

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_STOP = 120.0
_SECONDS_BETWEEN_REPORTS = 2.0
_SECONDS_WITHOUT_SCHEDULER = 600.0
_SECONDS_BETWEEN_TRIES = 1.0
# The connection, without a word of any job in between; so often that it is no accident any more.
_LOST_IN_A_ROW = 5
# Lost together with a worker before they had begun; so often that it is no accident any more.
_LOST_BEFORE_BEGIN = 3


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job.

    Attributes
    ----------
    index : int
        Which job, from 0.
    name : str
        What it is called.
    status : {"waiting", "running", "done", "failed", "skipped", "stopped"}
        Where it is now.
    done, total : int
        Frames tracked, and those to be; 0 of 0 while that is not known.
    message : str
        Something to log: a note, what went wrong; often empty.
    """

    index: int
    name: str
    status: Status
    done: int = 0
    total: int = 0
    message: str = ""


@dataclass
class _State:
    """Where a job is."""

    status: Status = "waiting"
    done: int = 0
    total: int = 0
    sent: int = 0  # how often
    begun: int = 0  # how often; a scheduler may begin again what was sent once
    begun_now: bool = False  # since it was last sent
    lost: int = 0  # how often before it had begun
    spared: int = 0  # how often it had begun and was let go for no fault of its own
    future: Any = None
    log: list[str] = field(default_factory=list)
    result: JobResult | None = None


class Run:
    """A batch under way; its lists are indexed by job.

    The parameters are those of `run_batch`, with the folder of the report in place of its path.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        retries: int,
        device: str,
        folder: ReportFolder | None,
        on_event: Callable[[JobEvent], object],
        should_stop: Callable[[], bool],
    ) -> None:
        self._jobs = jobs
        self._retries, self._device = retries, device
        self._folder = folder
        self._on_event, self._should_stop = on_event, should_stop
        # What each output is made of, for the report.
        self._made_by = [""] * len(jobs) if folder is None else job_identities(jobs)
        self._states = [_State() for _ in jobs]
        self._token = f"surgsam2-batch-{uuid.uuid4().hex[:12]}"
        # What happens in threads of dask: ("event", message) or ("over", index, future).
        self._news: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._began = self._reported = time.monotonic()
        self._started = datetime.now().astimezone().isoformat(timespec="seconds")
        self._stopped = False
        self._connection: Connection
        self._watch = WorkerWatch()
        self._queued: list[int] = []  # not sent yet; the last one is next
        # Sent, and let go by a scheduler that was restarted, or to which the connection was lost.
        self._let_go: set[int] = set()
        self._lost_at: float | None = None  # when that was found; None while the scheduler can be reached
        self._is_loss_told = False
        self._times_lost = 0  # since the last word of a job
        self._next_try = 0.0

    def skip(self, index: int) -> None:
        """Note that a job was complete before; it fails if another run is known to have made it."""
        if are_known_to_differ(self._made_before(index), self._made_by[index]):
            reason = (
                f"{self._jobs[index].output} is complete, but by the report it was made by another run: "
                "video, prompts, model, settings or the version of napari-surgsam2 differ. Make it again "
                "with --force (overwrite=True), or move it away."
            )
            self._end(index, "failed", reason=reason)
            return
        earlier = None if self._folder is None else self._folder.earlier(self._jobs[index])
        self._end(index, "skipped", earlier)

    def _made_before(self, index: int) -> str:
        """Return what the earlier report says that the output which is there was made of."""
        job = self._jobs[index]
        entry = None if self._folder is None else self._folder.entry(job)
        return entry.made_by if entry is not None and is_taken(job.target) else ""

    def report(self) -> BatchReport:
        """Return what became of the jobs; those that are not over are said to be stopped."""
        results = tuple(
            state.result or self._result(index, "stopped") for index, state in enumerate(self._states)
        )
        return BatchReport(results, self._started, time.monotonic() - self._began, self._stopped)

    def write_report(self) -> None:
        """Write the report, if one is wanted and there is anything to tell."""
        if self._folder is not None and any(state.begun or state.result for state in self._states):
            self._folder.write(self._report_for(self._folder))

    def _report_for(self, folder: ReportFolder) -> BatchReport:
        """Return the report as it is written: of jobs that were not begun it repeats the one before."""
        report = self.report()
        results = [
            result if state.begun or state.result else folder.entry(job) or result
            for job, state, result in zip(self._jobs, self._states, report.results, strict=True)
        ]
        return dataclasses.replace(report, results=tuple(results))

    def do_all(self, where: Any, prepare: Callable[[], object]) -> None:
        """Do all jobs that are not over, by a `Plan`, at a scheduler's address, or with a client.

        `prepare` is called once there are workers to be had.
        """
        waiting = [index for index, state in enumerate(self._states) if state.result is None]
        context: AbstractContextManager[Any] = contextlib.nullcontext(where)
        at_once = len(waiting)  # a scheduler that is there may get workers as jobs wait
        if isinstance(where, Plan):
            self._download(waiting)
            at_once = len(where)
            if "CUDA_VISIBLE_DEVICES" in where.environments[0]:
                self._device = "cuda"
            context = local_client(where)
        elif isinstance(where, str):
            context = connected(where)
        try:
            with context as client:
                self._connection = Connection(client)
                prepare()
                self._subscribe()
                try:
                    self._go(waiting, at_once)
                finally:
                    self._leave()
                    self._connection.close()
        except KeyboardInterrupt:
            self._stopped = True
            raise

    def _subscribe(self) -> None:
        self._connection.subscribe(self._token, lambda event: self._news.put(("event", event[1])))

    def _go(self, waiting: list[int], at_once: int) -> None:
        """Send jobs, at most so many at once, and take what comes until all are over."""
        self._queued = list(reversed(waiting))
        self._watch.heard()  # until now there was nothing to be heard
        try:
            while self._queued or self._open() or self._let_go:
                if self._should_stop():
                    break
                if self._let_go:
                    self._regain()
                while self._queued and len(self._open()) + len(self._let_go) < at_once:
                    self._send(self._queued.pop())
                self._take_news()
                self._look_for_workers()
            else:
                return
        except KeyboardInterrupt:
            self._stop()
            raise
        self._stop()

    def _open(self) -> list[int]:
        """Return the jobs that were sent and are not over."""
        return [index for index, state in enumerate(self._states) if state.future is not None]

    def _send(self, index: int) -> None:
        from . import worker

        state = self._states[index]
        order = worker.Order(
            token=self._token,
            index=index,
            job=self._jobs[index],
            device=self._device,
            attempt=state.sent,
            sheet=self._folder is not None,
            is_patient=state.spared > 0,
        )
        state.sent += 1
        state.begun_now = False
        key = f"{self._token}-{index}-{uuid.uuid4().hex[:8]}"
        try:
            state.future = self._connection.submit(worker.do, order, key=key, pure=False, priority=-index)
        except ConnectionLostError:
            self._let_go_of(index)
            return
        state.future.add_done_callback(lambda future: self._news.put(("over", index, future)))

    def _let_go_of(self, index: int) -> None:
        """Note that the scheduler does not know a job any more, or cannot be told of it."""
        state = self._states[index]
        state.spared += state.begun_now
        self._let_go.add(index)
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._times_lost += 1
            self._is_loss_told = False

    def _regain(self) -> None:
        """Send again what the scheduler has let go of, once it can be reached and no worker is at it."""
        if not self._is_loss_told:
            self._is_loss_told = True
            self._tell_of_those_begun(
                "The connection to the scheduler was lost, or the scheduler started anew. What is done is "
                f"kept; trying for {_SECONDS_WITHOUT_SCHEDULER / 60:.0f} minutes to go on."
            )
        if self._times_lost > _LOST_IN_A_ROW:
            self._give_up(f"{self._times_lost} times in a row")
            return
        now = time.monotonic()
        if now < self._next_try:
            return
        self._next_try = now + _SECONDS_BETWEEN_TRIES
        try:
            free = self._free_jobs() if self._connection.is_up() else None
        except ConnectionLostError:
            free = None
        if free is None:
            lost_for = 0.0 if self._lost_at is None else now - self._lost_at
            if lost_for > _SECONDS_WITHOUT_SCHEDULER:
                self._give_up(f"and could not be made again in {lost_for / 60:.0f} minutes")
            return
        self._lost_at = None
        for index in free:
            self._let_go.discard(index)
            self._again(index, "Going on with what is done." if self._states[index].spared else "")

    def _free_jobs(self) -> list[int]:
        """Return the jobs that were let go and that no worker is at; those that are at one are to end it."""
        from . import worker

        attempts: dict[Attempt, int] = {
            (self._token, index, self._states[index].sent - 1): index for index in sorted(self._let_go)
        }
        self._subscribe()
        self._connection.run(worker.cut_off, list(attempts))
        for answer in self._connection.run(worker.under_way, self._token):
            for attempt in answer:
                attempts.pop(attempt, None)
        return list(attempts.values())

    def _tell_of_those_begun(self, message: str) -> None:
        """Tell something of the jobs under way that were let go, or else of the first one."""
        begun = [index for index in sorted(self._let_go) if self._states[index].begun_now]
        for index in begun or [min(self._let_go)]:
            self._states[index].log.append(message)
            self._tell(index, "waiting", message)

    def _look_for_workers(self) -> None:
        """Tell of it while there are no workers."""
        if not self._let_go and self._open() and (note := self._watch.look(self._connection)):
            self._tell_of_waiting(note)

    def _tell_of_waiting(self, note: str) -> None:
        """Tell that jobs under way wait, or else the first one; only the first of them says why."""
        waiting = [index for index in self._open() if self._states[index].begun_now] or self._open()[:1]
        self._states[waiting[0]].log.append(note)
        for index in waiting:
            self._tell(index, "waiting", note if index == waiting[0] else "")

    def _cancel(self, indices: Iterable[int]) -> None:
        """Take away jobs that were sent."""
        for index in indices:
            future, self._states[index].future = self._states[index].future, None
            with contextlib.suppress(Exception):  # it is gone with the connection
                future.cancel()

    def _give_up(self, how: str) -> None:
        """End all jobs that are not over, for the scheduler was lost."""
        reason = (
            f"The connection to the scheduler at {self._connection.address} was lost, {how}. What is done is "
            "kept; see that the scheduler runs and can be reached, and go on with --resume (resume=True)."
        )
        for index in sorted({*self._let_go, *self._open(), *self._queued}):
            self._states[index].future = None
            self._end(index, "failed", reason=reason)
        self._let_go.clear()
        self._queued.clear()

    def _take_news(self) -> None:
        """Wait a moment for something to happen, and take all that has."""
        with contextlib.suppress(queue.Empty):
            kind, *rest = self._news.get(timeout=_SECONDS_BETWEEN_LOOKS)
            while True:
                if kind == "event":
                    self._on_message(*rest)
                else:
                    self._on_over(*rest)
                kind, *rest = self._news.get_nowait()

    def _on_message(self, message: dict[str, Any]) -> None:
        """Take what a worker tells of a job."""
        index = message["index"]
        state = self._states[index]
        self._times_lost = 0
        self._watch.heard()
        if state.result is not None:
            return
        is_late = message["attempt"] != state.sent - 1
        match message["kind"]:
            case "started" if not is_late:
                self._note_begin(state)
                state.done = state.total = 0
                self._tell(index, "running")
            case "frames" if not is_late:
                state.done, state.total = message["done"], message["total"]
                self._tell(index, "running")
            case "log":
                state.log.append(message["text"])
                self._tell(index, "running", message["text"])

    @staticmethod
    def _note_begin(state: _State) -> None:
        state.begun += 1
        state.begun_now = True

    def _on_over(self, index: int, future: Any) -> None:
        """Take the end of an attempt."""
        state = self._states[index]
        if state.future is not future:
            return
        state.future = None
        if future.status == "finished":
            facts = self._facts(future)
            if facts is not None:
                self._on_facts(index, facts)
                return
        if future.status == "cancelled":  # perhaps only now, while the facts were fetched
            self._let_go_of(index)
            return
        self._on_lost(index, future)

    @staticmethod
    def _facts(future: Any) -> Facts | None:
        try:
            facts: Facts = future.result(timeout=60)
        except Exception:  # lost between its end and the fetching
            return None
        return facts

    def _on_facts(self, index: int, facts: Facts) -> None:
        """Take what a worker said at the end of an attempt."""
        state = self._states[index]
        if not state.begun_now and facts.status != "stopped":
            self._note_begin(state)  # the message is late
        if facts.status == "skipped" and max(state.begun, state.sent) > 1:
            # It was complete, and the process lost before it could say so.
            facts.status = "done"
        if facts.status == "stopped" and not self._stopped:
            state.spared += state.begun_now
            self._again(index, "Its worker was taken away; going on in another.")
            return
        if facts.status == "failed" and facts.retry and state.begun - state.spared <= self._retries:
            self._again(index, f"{facts.reason} Trying again.")
            return
        self._end(index, facts.status, facts=facts)  # type: ignore[arg-type]  # one of them

    def _on_lost(self, index: int, future: Any) -> None:
        """Send a job again whose process is gone, unless that happened too often."""
        from distributed import KilledWorker

        state = self._states[index]
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, KilledWorker):
            reason = f"The worker could not do it: {type(error).__name__}: {error}"
            self._end(index, "failed", reason=reason)
            return
        if not state.begun_now:
            state.lost += 1
        if state.begun - state.spared <= self._retries and state.lost <= _LOST_BEFORE_BEGIN:
            self._again(index, "Its process was lost; going on in another.")
            return
        times = "" if state.begun <= 1 else f" in each of {state.begun} attempts"
        self._end(
            index,
            "failed",
            reason=f"The process that did it was lost{times}: killed, out of memory, or crashed on the "
            "video. What is done is kept; go on with --resume (resume=True), perhaps with fewer workers.",
        )

    def _again(self, index: int, message: str) -> None:
        if message:
            self._states[index].log.append(message)
        self._tell(index, "waiting", message)
        self._send(index)

    def _end(
        self,
        index: int,
        status: Status,
        earlier: JobResult | None = None,
        *,
        facts: Facts | None = None,
        reason: str = "",
    ) -> None:
        self._states[index].result = result = self._result(index, status, earlier, facts=facts, reason=reason)
        if self._folder is not None and time.monotonic() - self._reported > _SECONDS_BETWEEN_REPORTS:
            # A disk that is full or away now must not end the batch; at the end the report is written again.
            with contextlib.suppress(OutputError):
                self._folder.write_json(self._report_for(self._folder))
            self._reported = time.monotonic()
        self._tell(index, status, result.reason)

    def _result(
        self,
        index: int,
        status: Status,
        earlier: JobResult | None = None,
        *,
        facts: Facts | None = None,
        reason: str = "",
    ) -> JobResult:
        job, state = self._jobs[index], self._states[index]
        values: dict[str, Any] = {}
        if earlier is not None:
            values = {f.name: getattr(earlier, f.name) for f in dataclasses.fields(earlier)}
        if facts is not None:
            values = {f.name: getattr(facts, f.name) for f in dataclasses.fields(facts) if f.name != "retry"}
            # Messages may be later than the end of the job.
            state.log += [line for line in facts.log if line not in state.log]
            sheet = facts.sheet
            values["sheet"] = None
            if sheet is not None and self._folder is not None:
                try:
                    values["sheet"] = self._folder.keep_sheet(job.output, sheet)
                except OutputError as error:
                    state.log.append(f"There is no contact sheet: {error}")
        if earlier is None:
            values |= {"attempts": state.begun, "log": tuple(state.log)}
        values["reason"] = reason or values.get("reason", "")
        values["made_by"] = self._made_by[index] if status == "done" else self._made_before(index)
        return JobResult(**{**values, "name": job.name, "output": job.output, "status": status})

    def _tell(self, index: int, status: Status, message: str = "") -> None:
        state = self._states[index]
        state.status = status
        self._on_event(JobEvent(index, self._jobs[index].name, status, state.done, state.total, message))

    def _stop(self) -> None:
        """Let the jobs under way end after their frame, and take away the others."""
        from . import worker

        self._stopped = True
        are_there_workers = True
        with contextlib.suppress(ConnectionLostError):  # then there is nobody to be stopped from here
            are_there_workers = bool(self._connection.run(worker.stop, self._token))
        # Without workers nobody will say that what had begun is over.
        self._cancel(i for i in self._open() if not (are_there_workers and self._states[i].begun_now))
        until = time.monotonic() + _SECONDS_TO_STOP
        self._retries = -1  # what is lost now is not begun again
        while self._open() and time.monotonic() < until:
            self._take_news()

    def _leave(self) -> None:
        """Leave the workers as they were found."""
        from . import worker

        with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to be tidied up
            if self._open():  # an error, or Ctrl+C again
                self._connection.run(worker.stop, self._token)
                for index in self._open():
                    self._states[index].future.cancel()
            else:
                self._connection.run(worker.forget_model)
            self._connection.unsubscribe(self._token)

    def _download(self, waiting: list[int]) -> None:
        """Download models before several workers would do so at once."""
        seen = set()
        for index in waiting:
            job = self._jobs[index]
            name = job.model or (job.loaded_project() or Project()).model
            if name in seen or Path(name).suffix.lower() in CHECKPOINT_SUFFIXES:
                continue
            seen.add(name)
            entry = registry_entry(name)
            if not entry.path.is_file():
                self._tell(index, "waiting", f"Downloading the model {name}")
                with contextlib.suppress(CheckpointError):  # the jobs that want it will say so
                    ensure_downloaded(entry)
