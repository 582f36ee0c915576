"""Files and folders that appear under their names when they are complete."""

import os
import time
from pathlib import Path

import pytest

from napari_surgsam2.errors import OutputError
from napari_surgsam2.files import made_aside, put_folder, write_atomically, writing


def fill(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "masks.txt").write_text(text)
    return folder


def test_what_is_made_is_beside_its_place_and_hidden(tmp_path: Path) -> None:
    with made_aside(tmp_path / "scores.csv") as aside:
        assert aside.parent == tmp_path
        assert aside.name.startswith(".scores.csv.")
        aside.write_text("1")
        aside.replace(tmp_path / "scores.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


def interrupted_while_making(target: Path, a_folder: bool) -> None:
    with made_aside(target) as aside:
        if a_folder:
            fill(aside, "half")
        else:
            aside.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("a_folder", [False, True])
def test_what_is_not_finished_goes(tmp_path: Path, a_folder: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_while_making(tmp_path / "masks", a_folder)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_after_days_and_nothing_else(tmp_path: Path) -> None:
    old = time.time() - 3 * 24 * 3600
    left = [fill(tmp_path / ".masks.0123abcd.tmp", "half"), tmp_path / ".masks.89abcdef.tmp.mp4"]
    left[1].write_text("half")
    others = [
        fill((tmp_path / ".masks.0123abcd.tmp").with_suffix(".old"), "a result that was being replaced"),
        fill(tmp_path / ".masks-2.0123abcd.tmp", "of another output"),
        fill(tmp_path / ".masks.mine.tmp", "the user's"),
    ]
    for path in [*left, *others]:
        os.utime(path, (old, old))
    others.append(fill(tmp_path / ".masks.11111111.tmp", "of a process that is running"))
    with made_aside(tmp_path / "masks"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(others)
    others[0] = fill(tmp_path / "masks", "what replaced it")
    with made_aside(tmp_path / "masks"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_folder_replaces_another_as_a_whole(tmp_path: Path) -> None:
    target = fill(tmp_path / "masks", "before")
    (target / "old.txt").write_text("old")
    put_folder(fill(tmp_path / "made", "now"), target)
    assert [p.name for p in tmp_path.iterdir()] == ["masks"]
    assert {p.name: p.read_text() for p in target.iterdir()} == {"masks.txt": "now"}


def test_the_old_folder_is_back_if_the_new_one_cannot_be_put(tmp_path: Path) -> None:
    target = fill(tmp_path / "masks", "before")
    with pytest.raises(FileNotFoundError):
        put_folder(tmp_path / "nowhere", target)
    assert {p.name: p.read_text() for p in target.iterdir()} == {"masks.txt": "before"}
    assert [p.name for p in tmp_path.iterdir()] == ["masks"]


def test_an_interruption_between_the_steps_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, made = fill(tmp_path / "masks", "before"), fill(tmp_path / "made", "now")
    rename = Path.rename

    def rename_and_be_interrupted(path: Path, to: Path) -> Path:
        moved = rename(path, to)
        if path == target:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", rename_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        put_folder(made, target)
    assert (target / "masks.txt").read_text() == "before"


@pytest.mark.parametrize("there", [False, True])
def test_a_small_file_is_there_whole_or_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    path = tmp_path / "prompts.json"
    if there:
        write_atomically(path, b"before")

    def fill_up(half: Path, _: bytes) -> None:
        half.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"now")
    assert [p.read_text() for p in tmp_path.iterdir()] == (["before"] if there else [])


def test_errors_of_the_disk_say_what_to_do(tmp_path: Path) -> None:
    for number, remedy in ((28, "free space"), (13, "permissions")):
        with pytest.raises(OutputError, match=remedy), writing(tmp_path / "masks.tif"):
            raise OSError(number, os.strerror(number))
