"""Files of downloads, be they folders, zips or tars, or folders with such in them."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from napari_surgsam2.errors import UsageError

_TAR_END = ".tar"  # not compressed ones, which would be read from the beginning for every file


@dataclass(frozen=True)
class SourceFile:
    """A file in a folder or archive.

    Attributes
    ----------
    path : str
        Where it is, parts separated by `/`, beginning with one. The first part is the name of the folder that
        was given, or `-`; an archive is a folder of its name.
    read : callable
        Returns its bytes.
    """

    path: str
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name


def list_files(source: str | os.PathLike[str]) -> list[SourceFile]:
    """Return all files of a folder, zip or tar, and of archives in the folder; not hidden ones.

    Raises
    ------
    UsageError
        If there is nothing, or an archive cannot be opened.
    """
    place = Path(source)
    if not place.exists():
        raise UsageError(f"There is no '{place}'; give the challenge's downloads, folders or archives.")
    if place.is_file():
        if not _is_archive(place):
            raise UsageError(f"'{place}' is no folder, .zip or .tar; give the challenge's downloads.")
        return [f for f in _in_archive(place, "/-/") if not _is_hidden(f)]
    # what is in the folder may depend on its own name, such as seq_2
    return [f for f in _in_folder(place.absolute(), f"/{place.absolute().name}/") if not _is_hidden(f)]


def _in_folder(folder: Path, prefix: str) -> Iterator[SourceFile]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent) / name
            inside = prefix + file.relative_to(folder).as_posix()
            if _is_archive(file):
                yield from _in_archive(file, inside.rpartition("/")[0] + "/")
            else:
                yield SourceFile(inside, file.read_bytes)


def _is_archive(file: Path) -> bool:
    return file.name.lower().endswith((".zip", _TAR_END)) and not file.name.startswith(".")


def _in_archive(file: Path, prefix: str) -> Iterator[SourceFile]:
    prefix += f"{file.stem}/"
    try:
        if file.name.lower().endswith(_TAR_END):
            yield from _in_tar(file, prefix)
        else:
            yield from _in_zip(file, prefix)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"The archive '{file}' cannot be opened: {error}. It may be damaged; download it again."
        ) from error


def _in_zip(file: Path, prefix: str) -> Iterator[SourceFile]:
    with zipfile.ZipFile(file) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]

    def reader(name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            with zipfile.ZipFile(file) as archive:
                return archive.read(name)

        return read

    for name in names:
        yield SourceFile(prefix + name, reader(name))


def _in_tar(file: Path, prefix: str) -> Iterator[SourceFile]:
    with tarfile.open(file) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]

    def reader(member: tarfile.TarInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            with tarfile.open(file) as archive:
                stream = archive.extractfile(member)
                assert stream is not None  # it is a regular file
                return stream.read()

        return read

    for member in members:
        yield SourceFile(prefix + member.name.removeprefix("./"), reader(member))


def _is_hidden(file: SourceFile) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in file.path.split("/"))
