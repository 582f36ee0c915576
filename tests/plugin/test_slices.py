"""Long work is done a slice at a time."""

import pytest
from qtpy.QtWidgets import QApplication

from napari_surgsam2._napari import slices
from napari_surgsam2._napari.slices import SlicedWork


def note(said, name, count):
    for n in range(count):
        said.append((name, n))
        yield


@pytest.fixture
def short(qapp, monkeypatch):
    monkeypatch.setattr(slices, "_SLICE", 0.0)


def test_short_work_is_done_at_once(qapp):
    said = []
    work = SlicedWork(lambda: said.append("done"))
    work.do(note(said, "a", 2))
    assert said == [("a", 0), ("a", 1), "done"]
    assert not work.is_busy


def test_long_work_goes_on_when_the_window_had_its_turn_and_the_next_waits(short):
    said = []
    work = SlicedWork(lambda: said.append("done"))
    work.do(note(said, "a", 2))
    work.do(note(said, "b", 1))
    assert said == [("a", 0)]
    while work.is_busy:
        QApplication.processEvents()
    assert said == [("a", 0), ("a", 1), ("b", 0), "done"]


def test_it_can_be_finished_now_or_left(short):
    said = []
    work = SlicedWork(lambda: said.append("done"))
    work.do(note(said, "a", 3))
    work.finish()
    assert said == [("a", 0), ("a", 1), ("a", 2), "done"]
    work.finish()
    assert said.count("done") == 1
    work.do(note(said, "b", 3))
    work.stop()
    QApplication.processEvents()
    assert not work.is_busy
    assert said[-1] == ("b", 0)


def test_work_that_asks_for_its_own_end_goes_on(short):
    said = []

    def eager():
        work.finish()  # as what hears of a change may do
        yield from note(said, "a", 2)

    work = SlicedWork(lambda: said.append("done"))
    work.do(eager())
    work.do(note(said, "b", 1))
    work.finish()
    assert said == [("a", 0), ("a", 1), ("b", 0), "done"]


def test_after_an_error_the_next_goes_on(short):
    def broken():
        yield
        raise ValueError("no")

    said = []
    work = SlicedWork(lambda: said.append("done"))
    work.do(broken())
    work.do(note(said, "b", 1))
    with pytest.raises(ValueError, match="no"):
        work.finish()
    while work.is_busy:
        QApplication.processEvents()
    assert said == [("b", 0), "done"]
