"""The table of objects, with mouse and keyboard."""

from __future__ import annotations

import dataclasses

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QContextMenuEvent
from qtpy.QtWidgets import QAbstractItemView, QApplication, QLineEdit, QMenu, QVBoxLayout, QWidget

from napari_surgsam2._napari.object_table import ObjectRow, ObjectTable

ROWS = (
    ObjectRow(7, (0.0, 0.0, 1.0, 1.0), "needle", 1, 20, float("nan")),
    ObjectRow(2, (1.0, 0.0, 0.0, 1.0), "left grasper", 3, 120, 0.974),
    ObjectRow(12, (0.0, 1.0, 0.0, 1.0), "", 0, 0, 0.5),
)
COLOR, ID, NAME, PROMPTS, FRAMES, CONFIDENCE = range(6)
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def table(qtbot):
    """A table of three objects on the screen, in a dock's width."""
    dock = QWidget()
    qtbot.addWidget(dock)
    layout = QVBoxLayout(dock)
    layout.setContentsMargins(0, 0, 0, 0)
    table = ObjectTable()
    layout.addWidget(table)
    layout.addStretch(1)
    dock.resize(300, 300)
    table.set_rows(ROWS)
    dock.show()
    qtbot.waitExposed(dock)
    table.dock = dock  # which owns it, and has to live as long
    return table


@pytest.fixture
def heard(table):
    """What the table says, in order."""
    said = []
    table.current_changed.connect(lambda i: said.append(("current", i)))
    table.renamed.connect(lambda i, name: said.append(("renamed", i, name)))
    table.remove_asked.connect(lambda i: said.append(("remove", i)))
    return said


def row_of(table, object_id: int) -> int:
    return next(r for r in range(table.rowCount()) if table.item(r, ID).text() == str(object_id))


def center(table, object_id: int, column: int = ID) -> QPoint:
    return table.visualItemRect(table.item(row_of(table, object_id), column)).center()


def click(qtbot, table, object_id: int, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    pos = center(table, object_id)
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, modifier, pos)


def edit(qtbot, table, object_id: int) -> QLineEdit:
    """Double-click a name and return the field to type in."""
    pos = center(table, object_id, NAME)
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=pos)
    qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=pos)
    return table.findChild(QLineEdit)


def texts(table) -> list[list[str]]:
    return [[table.item(r, c).text() for c in range(ID, CONFIDENCE + 1)] for r in range(table.rowCount())]


def finish(qtbot, table, field: QLineEdit, key=Qt.Key.Key_Return) -> None:
    """End an edit; Qt does so a moment after the key."""
    qtbot.keyClick(field, key)
    qtbot.waitUntil(lambda: table.state() == QAbstractItemView.State.NoState)


def menu_at(table, object_id: int) -> QMenu:
    """Return the menu that opens over a row."""
    pos = center(table, object_id)
    event = QContextMenuEvent(
        QContextMenuEvent.Reason.Mouse, pos, table.viewport().mapToGlobal(pos), Qt.KeyboardModifier.NoModifier
    )
    QApplication.sendEvent(table.viewport(), event)
    return table.findChild(QMenu)


def choose(qtbot, menu: QMenu, title: str) -> None:
    (action,) = [a for a in menu.actions() if a.text() == title]
    menu.setActiveAction(action)
    qtbot.keyClick(menu, Qt.Key.Key_Return)


# ---- what is shown


def test_rows_are_shown_by_id(table) -> None:
    assert texts(table) == [
        ["2", "left grasper", "3", "120", "0.97"],
        ["7", "needle", "1", "20", "–"],
        ["12", "", "0", "0", "0.50"],
    ]


def test_an_object_whose_prompts_guide_no_other_frame_is_marked(table) -> None:
    table.set_rows([dataclasses.replace(ROWS[1], doubted=(4, 30)), ROWS[0]])
    assert [row[PROMPTS - ID] for row in texts(table)] == ["△ 3", "1"]
    tip = table.item(row_of(table, 2), PROMPTS).toolTip()
    assert "Frames 4 and 30 do not guide the tracking of left grasper" in tip
    table.set_rows(ROWS[:2])
    assert [row[PROMPTS - ID] for row in texts(table)] == ["3", "1"]
    assert table.item(row_of(table, 2), PROMPTS).toolTip() == ""


@pytest.mark.parametrize("selected", [False, True])
def test_the_swatch_has_the_objects_colour_selected_or_not(qtbot, table, selected) -> None:
    if selected:
        table.set_current_object(2)
    where = center(table, 2, COLOR)
    qtbot.waitUntil(lambda: table.viewport().grab().toImage().pixelColor(where).getRgb()[:3] == (255, 0, 0))


def test_rows_are_added_changed_and_removed(table, heard) -> None:
    changed = dataclasses.replace(
        ROWS[0], color=(1.0, 1.0, 0.0, 1.0), name="thread", frames=21, confidence=0.9
    )
    added = ObjectRow(1, (1.0, 0.0, 1.0, 1.0), "first", 1, 1, 1.0)
    table.set_rows([changed, ROWS[2], added])
    assert texts(table) == [
        ["1", "first", "1", "1", "1.00"],
        ["7", "thread", "1", "21", "0.90"],
        ["12", "", "0", "0", "0.50"],
    ]
    table.set_rows([])
    assert texts(table) == []
    assert heard == []


def test_headers_explain_themselves(table) -> None:
    tips = [table.horizontalHeaderItem(c).toolTip() for c in range(table.columnCount())]
    assert all(len(tip) > 10 for tip in tips)
    assert len(set(tips)) == 6


def test_it_fits_a_narrow_dock(qtbot, table) -> None:
    table.set_rows([dataclasses.replace(ROWS[1], object_id=i, name="long " * 40) for i in range(100, 120)])
    qtbot.waitUntil(lambda: table.verticalScrollBar().isVisible())
    assert table.width() == 300
    assert table.horizontalHeader().length() <= table.viewport().width()
    assert not table.horizontalScrollBar().isVisible()
    assert table.columnWidth(NAME) > 60
    assert table.item(0, NAME).toolTip() == "long " * 40


def test_it_grows_to_six_rows_then_scrolls(qtbot, table) -> None:
    heights = {}
    for n in (0, 1, 3, 6, 7, 30):
        table.set_rows([dataclasses.replace(ROWS[1], object_id=i + 1) for i in range(n)])
        qtbot.waitUntil(lambda: table.height() == table.sizeHint().height())
        heights[n] = table.height()
        qtbot.waitUntil(lambda n=n: table.verticalScrollBar().isVisible() == (n > 6))
    assert heights[0] == heights[1] < heights[3] < heights[6] == heights[7] == heights[30]


# ---- picking


def test_a_click_picks_an_object_and_tells_once(qtbot, table, heard) -> None:
    assert table.current_object() is None
    click(qtbot, table, 7)
    click(qtbot, table, 7)
    click(qtbot, table, 2)
    assert heard == [("current", 7), ("current", 2)]
    assert table.current_object() == 2
    assert table.selected_objects() == [2]


def test_keys_pick_objects(qtbot, table, heard) -> None:
    click(qtbot, table, 2)
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert heard[1:] == [("current", 7)]


def test_several_are_selected_with_modifiers(qtbot, table, heard) -> None:
    click(qtbot, table, 2)
    click(qtbot, table, 12, CONTROL)
    assert table.selected_objects() == [2, 12]
    assert table.current_object() == 12
    click(qtbot, table, 2)
    click(qtbot, table, 12, SHIFT)
    assert table.selected_objects() == [2, 7, 12]


def test_an_object_deselected_is_not_the_current_one_and_can_be_picked_again(qtbot, table, heard) -> None:
    click(qtbot, table, 7)
    click(qtbot, table, 7, CONTROL)
    assert table.current_object() is None
    assert table.selected_objects() == []
    click(qtbot, table, 7)
    assert heard == [("current", 7), ("current", 7)]


def test_the_program_picks_silently(qtbot, table, heard) -> None:
    table.set_current_object(12)
    assert (table.current_object(), table.selected_objects()) == (12, [12])
    table.set_current_object(99)
    assert table.current_object() == 12
    table.set_current_object(None)
    assert (table.current_object(), table.selected_objects()) == (None, [])
    assert heard == []
    click(qtbot, table, 12)
    assert heard == [("current", 12)]


def test_picking_the_current_object_again_keeps_the_others_selected(qtbot, table) -> None:
    click(qtbot, table, 2)
    click(qtbot, table, 7, CONTROL)
    table.set_current_object(7)
    assert table.selected_objects() == [2, 7]


def test_new_rows_keep_the_selection(qtbot, table, heard) -> None:
    click(qtbot, table, 2)
    click(qtbot, table, 7, CONTROL)
    heard.clear()
    table.set_rows([ObjectRow(1, (0.0, 0.0, 0.0, 1.0), "", 0, 0, 0.0), ROWS[0], ROWS[1]])
    assert table.selected_objects() == [2, 7]
    assert table.current_object() == 7
    assert heard == []


@pytest.mark.parametrize("deselected", [False, True])
def test_without_the_current_object_none_is_current_and_others_stay_selected(
    qtbot, table, heard, deselected
) -> None:
    click(qtbot, table, 2)
    click(qtbot, table, 7, CONTROL)
    if deselected:
        click(qtbot, table, 7, CONTROL)
    heard.clear()
    table.set_rows(ROWS[1:])
    assert table.selected_objects() == [2]
    assert table.current_object() is None
    assert heard == []
    click(qtbot, table, 12)
    assert heard == [("current", 12)]


# ---- names


def test_a_name_is_typed_after_a_double_click(qtbot, table, heard) -> None:
    field = edit(qtbot, table, 7)
    qtbot.keyClicks(field, "  hook ")
    finish(qtbot, table, field)
    assert heard == [("current", 7), ("renamed", 7, "hook")]
    assert texts(table)[1][1] == "hook"
    assert table.item(1, NAME).toolTip() == "hook"


def test_f2_edits_the_current_name_from_any_column(qtbot, table, heard) -> None:
    click(qtbot, table, 2)
    qtbot.keyClick(table, Qt.Key.Key_F2)
    field = table.findChild(QLineEdit)
    assert field.selectedText() == "left grasper"
    qtbot.keyClicks(field, "scissors")
    finish(qtbot, table, field)
    assert heard[1:] == [("renamed", 2, "scissors")]


@pytest.mark.parametrize("typed", ["needle", "   "])
def test_the_same_name_and_an_empty_one_rename_nothing(qtbot, table, heard, typed) -> None:
    field = edit(qtbot, table, 7)
    qtbot.keyClicks(field, typed)
    finish(qtbot, table, field)
    assert heard == [("current", 7)]
    assert texts(table)[1][1] == "needle"


def test_escape_gives_a_name_up(qtbot, table, heard) -> None:
    field = edit(qtbot, table, 7)
    qtbot.keyClicks(field, "hook")
    finish(qtbot, table, field, Qt.Key.Key_Escape)
    assert heard == [("current", 7)]
    assert texts(table)[1][1] == "needle"


def test_only_names_can_be_edited(qtbot, table) -> None:
    for column in (COLOR, ID, PROMPTS, FRAMES, CONFIDENCE):
        qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=center(table, 7, column))
        assert table.findChild(QLineEdit) is None


def test_new_rows_leave_a_name_being_typed_alone(qtbot, table, heard) -> None:
    field = edit(qtbot, table, 7)
    qtbot.keyClicks(field, "ho")
    first = ObjectRow(1, (0.0, 0.0, 0.0, 1.0), "", 0, 0, 0.0)
    table.set_rows([first, dataclasses.replace(ROWS[0], name="other", frames=99), *ROWS[1:]])
    assert texts(table)[2][3] == "99"
    qtbot.keyClicks(field, "ok")
    finish(qtbot, table, field)
    assert heard == [("current", 7), ("renamed", 7, "hook")]


# ---- removing


@pytest.mark.parametrize("key", [Qt.Key.Key_Delete, Qt.Key.Key_Backspace])
def test_delete_asks_for_each_selected_object_and_removes_nothing(qtbot, table, heard, key) -> None:
    click(qtbot, table, 12)
    click(qtbot, table, 2, CONTROL)
    heard.clear()
    qtbot.keyClick(table, key)
    assert heard == [("remove", 2), ("remove", 12)]
    assert table.rowCount() == 3


def test_delete_in_a_name_deletes_a_letter(qtbot, table, heard) -> None:
    field = edit(qtbot, table, 7)
    field.setCursorPosition(0)
    qtbot.keyClick(field, Qt.Key.Key_Delete)
    assert field.text() == "eedle"
    assert heard == [("current", 7)]


def test_rows_may_go_while_removal_is_asked_for(qtbot, table) -> None:
    left = {row.object_id: row for row in ROWS}

    def remove(object_id: int) -> None:
        del left[object_id]
        table.set_rows(left.values())

    table.remove_asked.connect(remove)
    click(qtbot, table, 2)
    click(qtbot, table, 7, SHIFT)
    qtbot.keyClick(table, Qt.Key.Key_Delete)
    assert list(left) == [12]
    assert table.rowCount() == 1


def test_the_menu_removes_the_object_under_the_pointer(qtbot, table, heard) -> None:
    choose(qtbot, menu_at(table, 12), "Remove object 12")
    assert heard == [("remove", 12)]


def test_the_menu_removes_all_selected_objects(qtbot, table, heard) -> None:
    click(qtbot, table, 2)
    click(qtbot, table, 7, CONTROL)
    heard.clear()
    choose(qtbot, menu_at(table, 2), "Remove 2 objects")
    assert heard == [("remove", 2), ("remove", 7)]


def test_the_menu_starts_a_new_name(qtbot, table) -> None:
    choose(qtbot, menu_at(table, 7), "Rename")
    assert table.findChild(QLineEdit).text() == "needle"
