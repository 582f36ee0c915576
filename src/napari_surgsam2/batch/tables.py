"""The tables and folders that jobs are read from."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from napari_surgsam2.checkpoints.registry import CHECKPOINT_SUFFIXES
from napari_surgsam2.errors import UsageError
from napari_surgsam2.paths import expanded
from napari_surgsam2.project import PROJECT_SUFFIX
from napari_surgsam2.settings import TrackingSettings

from .jobs import Job, JobError, check_jobs, checked_image_size, checked_model, column_of, refuse, stem

# By the name that the command line gives it, what is put behind the name of a video.
OUTPUT_ENDINGS = {"tif": "_masks.tif", "zarr": "_masks.zarr", "davis": "_masks", "coco": "_masks.json"}
_PATHS = ("video", "prompts", "project", "output")
# What no file may be called on some system: tables and their outputs are moved from one to another.
_NOT_IN_FILE_NAMES = '<>:"/\\|?*'
_PORTS = [f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)]
_RESERVED_NAMES = {"con", "prn", "aux", "nul", *_PORTS}


def load_jobs(
    path: str | Path,
    *,
    output_dir: str | Path | None = None,
    output_format: str | None = None,
    model: str | Path | None = None,
    image_size: int | None = None,
) -> list[Job]:
    """Read jobs from a table or a folder with projects; each is checked.

    Parameters
    ----------
    path : path
        A `.csv` with a column for each field of `Job` that is used; a `.json` with a list of objects of such
        keys; or a folder, of which every `.surgsam2.json` is a job. Paths in a table are relative to it.
        `settings` are a JSON object, or the path of a file with one; `frames` are written A:B.
    output_dir : path, optional
        Where relative outputs go, instead of beside the table; and those of jobs that name none, as
        `<name>_masks.tif`. Projects of a folder have theirs beside them if this is left out.
    output_format : {"tif", "zarr", "davis", "coco"}, optional
        Of outputs that are not named; "tif" if left out.
    model : str or path, optional
        For all, instead of those in the table or the projects.
    image_size : int, optional
        For all, likewise.

    Returns
    -------
    list of Job
        In the order of the table, or of the names in the folder.

    Raises
    ------
    UsageError
        If the table cannot be read, or any job of it cannot be done; each error with its row and column.
    """
    path = expanded(path)
    if output_format not in (None, *OUTPUT_ENDINGS):
        raise UsageError(f"The format is {output_format!r}; it must be one of {', '.join(OUTPUT_ENDINGS)}.")
    for_all = {
        "model": None if model is None else checked_model(model),
        "image_size": None if image_size is None else checked_image_size(image_size),
    }
    for_all = {column: value for column, value in for_all.items() if value is not None}
    rows = _folder_rows(path) if path.is_dir() else _table_rows(path)
    if not rows:
        what = f"no '*{PROJECT_SUFFIX}' files" if path.is_dir() else "no jobs"
        raise UsageError(f"There are {what} in '{path}'; there must be at least one.")
    if output_format is not None and all(row.get("output") for _, row in rows):
        raise UsageError(
            f"The format is '{output_format}', but every job in '{path}' names its output, whose name says "
            "the format; leave the format out."
        )
    places = _Places(path if path.is_dir() else path.parent, output_dir, output_format or "tif")
    jobs, errors = [], []
    for place, row in rows:
        try:
            jobs.append(_job({**row, **for_all}, places))
        except JobError as error:
            errors.append(f"{place}, column '{error.column}': {error}")
    refuse(errors)
    check_jobs(jobs, lambda index: rows[index][0])
    return jobs


class _Places:
    """Where the paths of a table lead."""

    def __init__(self, folder: Path, output_dir: str | Path | None, output_format: str) -> None:
        self.folder = folder.absolute()
        self.is_given = output_dir is not None
        self.outputs = self.folder if output_dir is None else expanded(output_dir).absolute()
        self._ending = OUTPUT_ENDINGS[output_format]

    def join(self, column: str, text: str) -> str:
        """Return a path of the table as an absolute one; a separator at its end stays."""
        base = self.outputs if column == "output" else self.folder
        return os.path.join(base, os.path.expanduser(text))  # noqa: PTH111, PTH118

    def output(self, name: str, project: str | None) -> str:
        """Return the output of a job that names none."""
        if not self.is_given and project is None:
            raise JobError("output", "It is missing; name it, or give a folder for all (--output-dir).")
        folder = self.outputs if self.is_given or project is None else Path(project).parent
        if f"{name}{self._ending}".partition(".")[0].rstrip().lower() in _RESERVED_NAMES:
            raise JobError(
                "name",
                f"It is '{name}', and the output would be '{name}{self._ending}', which Windows keeps for a "
                "device; choose another name, or name the output.",
            )
        # A folder whose name has a dot is told from a file by the separator behind it.
        is_folder = not Path(self._ending).suffix
        return str(folder / f"{name}{self._ending}") + (os.sep if is_folder and "." in name else "")


def _folder_rows(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    files = sorted(f for f in folder.iterdir() if f.name.lower().endswith(PROJECT_SUFFIX) and f.is_file())
    return [(f"'{file}'", {"project": file.name}) for file in files]


def _table_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return rows, and what each is called in messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"There is no table of jobs '{path}'; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The table of jobs '{path}' cannot be read ({error}); save it as UTF-8.") from error
    match path.suffix.lower():
        case ".json":
            return _json_rows(text, path)
        case ".csv":
            return _csv_rows(text, path)
    raise UsageError(f"The jobs are '{path}'; give a .csv or .json table, or a folder with projects.")


def _json_rows(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{path}' is not valid JSON: {error}. Save it again.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(
            f"'{path}' must hold a list of objects, one for each job: [{{\"video\": ...}}, ...]."
        )
    rows = []
    for number, entry in enumerate(entries, 1):
        _refuse_unknown(entry, f"'{path}', row {number}")
        rows.append((f"'{path}', row {number}", {k: v for k, v in entry.items() if v is not None}))
    return rows


def _csv_rows(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    header = text.partition("\n")[0]
    # Some spreadsheets save semicolons or tabs.
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(reader, ())]
        _refuse_unknown(names, f"'{path}', row 1")
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UsageError(f"'{path}', row 1: the column '{repeated[0]}' is there twice; keep one.")
        rows = []
        # As spreadsheets number them, with the names in row 1.
        for number, entry in enumerate(reader, 2):
            if len(entry) > len(names):
                raise UsageError(
                    f"'{path}', row {number} has more cells than there are columns ({len(names)}); put "
                    "quotes around cells with a separator in them."
                )
            cells = {key: text.strip() for key, text in zip(names, entry, strict=False) if text.strip()}
            if cells:
                rows.append((f"'{path}', row {number}", dict[str, Any](cells)))
    except csv.Error as error:
        raise UsageError(
            f"'{path}', line {reader.line_num} is not valid CSV: {error}. Save it again."
        ) from error
    return rows


def _refuse_unknown(keys: Iterable[str], where: str) -> None:
    known = [field.name for field in dataclasses.fields(Job)]
    if unknown := [key for key in keys if key not in known]:
        raise UsageError(
            f"{where}: unknown column {', '.join(map(repr, unknown))}; known: {', '.join(known)}."
        )


def _job(row: Mapping[str, Any], places: _Places) -> Job:
    """Return the job of a row, with its texts read."""
    values = dict(row)
    for column in _PATHS:
        if column in values:
            text = values[column]
            if not isinstance(text, str) or not text:
                raise JobError(column, f"It is {text!r:.60}; it must be the path of a file or folder.")
            values[column] = places.join(column, text)
    for column in ("name", "model"):
        if not isinstance(values.get(column, ""), str):
            raise JobError(column, f"It is {values[column]!r:.60}; it must be a text.")
    if "model" in values and Path(values["model"]).suffix.lower() in CHECKPOINT_SUFFIXES:
        values["model"] = places.join("model", values["model"])
    if "settings" in values:
        values["settings"] = _read_settings(values["settings"], places)
    if isinstance(values.get("image_size"), str):
        values["image_size"] = _number("image_size", values["image_size"])
    if isinstance(values.get("frames"), str):
        first, colon, last = values["frames"].partition(":")
        if not colon:
            raise JobError("frames", f"They are '{values['frames']}'; they must be A:B, such as 0:100.")
        values["frames"] = (_number("frames", first or "0"), _number("frames", last) if last else None)
    if "output" not in values:
        if name := values.get("name", ""):
            _check_file_name(name)
        else:
            name = stem(values.get("video") or values.get("project"))
        values["output"] = places.output(name, values.get("project"))
    return Job(**values)


def _check_file_name(name: str) -> None:
    """Raise JobError if a job's name cannot be part of the name of its output."""
    wrong = [c for c in name if c in _NOT_IN_FILE_NAMES or not c.isprintable()]
    if wrong or name.startswith("."):
        fault = f"has {wrong[0]!r} in it" if wrong else "begins with a dot"
        raise JobError(
            "name",
            f"It is {name!r:.60}, which {fault}, and the output is to be called by it; leave out "
            f"{' '.join(_NOT_IN_FILE_NAMES)} and a dot at the start, or name the output.",
        )


def _read_settings(value: Any, places: _Places) -> TrackingSettings:
    if isinstance(value, str):
        if not value.lstrip().startswith("{"):
            try:
                value = Path(places.join("settings", value)).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise JobError("settings", f"The file '{value}' cannot be read: {error}.") from error
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise JobError("settings", f"They are not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise JobError("settings", f"They are {value!r:.60}; they must be a JSON object, or a file with one.")
    with column_of("settings"):
        return TrackingSettings.from_dict(value)


def _number(column: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise JobError(column, f"It has '{text}'; it must be a whole number.") from None
