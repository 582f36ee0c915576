"""What a batch tells when it is over: results, `report.json`, and a page to look at."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

from napari_surgsam2.errors import OutputError
from napari_surgsam2.files import made_aside, writing
from napari_surgsam2.paths import expanded

from .jobs import Job

Status: TypeAlias = Literal["waiting", "running", "done", "failed", "skipped", "stopped"]

JSON_NAME, HTML_NAME, SHEETS_NAME = "report.json", "report.html", "sheets"
_KEY = "napari_surgsam2_batch"
_VERSION = 1
_WORDS: dict[Status, str] = {
    "done": "done",
    "failed": "failed",
    "skipped": "complete before",
    "stopped": "stopped",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; }
th, td { border-bottom: 1px solid #8884; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0; }
section { margin: 2rem 0; }
h2 { font-size: 1.1rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
.done { color: #188038; } .failed { color: #d93025; font-weight: 600; } .stopped { color: #b06000; }
.path { opacity: .75; overflow-wrap: anywhere; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What became of a job.

    Attributes
    ----------
    name, output : str
        The job's.
    status : {"done", "failed", "skipped", "stopped"}
        "skipped" was complete before, "stopped" was not done, for the batch was stopped.
    reason : str
        Why it failed.
    attempts : int
        How often it was begun.
    frames, frames_tracked : int
        How many the video has, and those tracked by the attempt that ended it.
    seconds : float
        That attempt's tracking took.
    frames_present : dict of int to int
        By object id, in how many frames the object has a mask.
    names : dict of int to str
        Names of objects, where a project gives them.
    model, device, worker : str
        What did it, where.
    image_size : int or None
        Side of the network's input in pixels.
    log : tuple of str
        What was noted.
    sheet : str or None
        The contact sheet, a PNG, by its path in the folder of the report.
    made_by : str
        Of the output that is there: a digest of what it was made of and how, as far as a report knows.
    """

    name: str
    output: str
    status: Status
    reason: str = ""
    attempts: int = 0
    frames: int = 0
    frames_tracked: int = 0
    seconds: float = 0.0
    frames_present: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    model: str = ""
    device: str = ""
    worker: str = ""
    image_size: int | None = None
    log: tuple[str, ...] = ()
    sheet: str | None = None
    made_by: str = ""

    @property
    def frames_per_second(self) -> float | None:
        """Speed of tracking; None where nothing was tracked."""
        return self.frames_tracked / self.seconds if self.frames_tracked and self.seconds else None

    def objects(self) -> str:
        """Return in words which object is in how many frames."""
        return ", ".join(
            f"{self.names.get(object_id, f'object {object_id}')}: {n}"
            for object_id, n in sorted(self.frames_present.items())
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        speed = self.frames_per_second
        return {
            **dataclasses.asdict(self),
            "seconds": round(self.seconds, 3),
            "frames_per_second": None if speed is None else round(speed, 3),
            "frames_present": {str(k): v for k, v in self.frames_present.items()},
            "names": {str(k): v for k, v in self.names.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> JobResult:
        """Return what `to_dict` made plain."""
        known = {f.name for f in dataclasses.fields(cls)}
        plain = {k: v for k, v in values.items() if k in known}
        for key in ("frames_present", "names"):
            plain[key] = {int(k): v for k, v in values[key].items()}
        return cls(**{**plain, "log": tuple(values["log"])})


@dataclass(frozen=True)
class BatchReport:
    """What became of all jobs.

    Attributes
    ----------
    results : tuple of JobResult
        In the order of the jobs.
    started : str
        When, in ISO 8601.
    seconds : float
        How long it took.
    stopped : bool
        Whether it was stopped before all jobs were over.
    """

    results: tuple[JobResult, ...]
    started: str
    seconds: float
    stopped: bool = False

    @property
    def failed(self) -> tuple[JobResult, ...]:
        """Those that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    @property
    def counts(self) -> dict[str, int]:
        """How many have each status."""
        return dict(Counter(result.status for result in self.results))

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values: what is in `report.json`."""
        return {
            _KEY: _VERSION,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            "counts": self.counts,
            "jobs": [result.to_dict() for result in self.results],
        }


class ReportNotWrittenError(OutputError):
    """A batch is over, and its report could not be written.

    Attributes
    ----------
    report : BatchReport
        What would be in it.
    """

    def __init__(self, message: str, report: BatchReport) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.report)


class ReportFolder:
    """A folder with `report.json`, `report.html`, and the contact sheets of these.

    Parameters
    ----------
    folder : path
        Made if needed. The report of an earlier batch in it is replaced.

    Raises
    ------
    OutputError
        If it cannot be made, or something else has the report's name in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder).absolute()
        with writing(self.folder):
            (self.folder / SHEETS_NAME).mkdir(parents=True, exist_ok=True)
        self._earlier = self._read_earlier()

    def _read_earlier(self) -> dict[str, JobResult]:
        """Return the results of an earlier batch, by output."""
        path = self.folder / JSON_NAME
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            entries = document["jobs"] if document[_KEY] else []
            return {entry["output"]: JobResult.from_dict(entry) for entry in entries}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"'{path}' is there and not of an earlier batch; move it away, or choose another folder for "
                "the report."
            ) from error

    def entry(self, job: Job) -> JobResult | None:
        """Return what an earlier batch said of a job."""
        return self._earlier.get(job.output)

    def earlier(self, job: Job) -> JobResult | None:
        """Return what an earlier batch said of a job that it did."""
        result = self.entry(job)
        return result if result is not None and result.status in ("done", "skipped") else None

    def keep_sheet(self, output: str, png: bytes) -> str:
        """Write a contact sheet; return its path in the folder."""
        name = f"{SHEETS_NAME}/{hashlib.sha256(os.fsencode(output)).hexdigest()[:16]}.png"
        with writing(self.folder):
            _replace(self.folder / name, [png])
        return name

    def write_json(self, report: BatchReport) -> None:
        """Write `report.json`."""
        with writing(self.folder / JSON_NAME):
            _replace(self.folder / JSON_NAME, [(json.dumps(report.to_dict(), indent=1) + "\n").encode()])

    def write(self, report: BatchReport) -> None:
        """Write all of the report, each file in one step."""
        self.write_json(report)
        with writing(self.folder / HTML_NAME):
            # Names of files need not be text.
            page = (part.encode(errors="backslashreplace") for part in self._page(report))
            _replace(self.folder / HTML_NAME, page)

    def _page(self, report: BatchReport) -> Iterator[str]:
        """Yield the page bit by bit, so that it need not be in memory with all its pictures."""
        counts = ", ".join(f"{n} {_WORDS[status]}" for status, n in _in_order(report.counts))
        yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Batch: {counts}</title>'
        yield f"<style>{_STYLE}</style></head>\n<body><h1>{len(report.results)} videos: {counts}</h1>\n"
        stopped = " It was stopped." if report.stopped else ""
        yield f"<p>Started {escape(report.started)}, took {report.seconds:.0f} s.{stopped}</p>\n"
        yield '<table><tr><th>Video</th><th>Status</th><th class="number">Frames</th>'
        yield '<th class="number">Frames/s</th><th>Frames with object</th></tr>\n'
        for number, result in enumerate(report.results):
            speed = result.frames_per_second
            yield f'<tr><td><a href="#job-{number}">{escape(result.name)}</a></td>'
            yield f'<td class="{result.status}">{_WORDS[result.status]}</td>'
            yield f'<td class="number">{result.frames or ""}</td>'
            yield f'<td class="number">{"" if speed is None else f"{speed:.2f}"}</td>'
            yield f"<td>{escape(result.objects() or result.reason)}</td></tr>\n"
        yield "</table>\n"
        for number, result in enumerate(report.results):
            yield from self._section(number, result)
        yield "</body></html>\n"

    def _section(self, number: int, result: JobResult) -> Iterator[str]:
        yield f'<section id="job-{number}"><h2>{escape(result.name)}: '
        yield f'<span class="{result.status}">{_WORDS[result.status]}</span></h2>\n'
        yield f'<div class="path">{escape(result.output)}</div>\n'
        if result.reason:
            yield f'<pre class="{result.status}">{escape(result.reason)}</pre>\n'
        if result.sheet is not None and (png := self.folder / result.sheet).is_file():
            code = base64.b64encode(png.read_bytes()).decode()
            yield f'<img alt="Frames with masks" src="data:image/png;base64,{code}">\n'
        facts = [f"{result.attempts} attempts"] if result.attempts > 1 else []
        if result.model:
            facts.append(f"{result.model} at {result.image_size} pixels on {result.device}")
        facts += [result.worker] if result.worker else []
        yield f"<div>{escape('; '.join(facts))}</div>\n"
        if result.log:
            yield f"<details><summary>Log</summary><pre>{escape(chr(10).join(result.log))}</pre></details>\n"
        yield "</section>\n"


def _in_order(counts: dict[str, int]) -> list[tuple[Status, int]]:
    return [(status, counts[status]) for status in _WORDS if status in counts]


def _replace(path: Path, parts: Any) -> None:
    """Write a file so that at any time either the old or the new one stands there whole."""
    with made_aside(path) as temporary:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
        temporary.replace(path)
