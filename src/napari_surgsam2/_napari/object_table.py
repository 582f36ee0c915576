"""The table of objects in the dock: colour, name and how each is doing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qtpy.QtCore import QEvent, QItemSelectionModel, QModelIndex, QRect, QSignalBlocker, QSize, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QContextMenuEvent, QKeyEvent, QPainter
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QMenu,
    QSizePolicy,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from .doubt import MARK, said_of_doubt

_COLOR, _ID, _NAME, _PROMPTS, _FRAMES, _CONFIDENCE = range(6)
_HEADERS = (
    ("", "Colour of the object's mask and prompts"),
    ("id", "The object's number: its value in the labels layer"),
    ("name", "Double-click, or press F2, to give it a name"),
    ("prompts", f"How many clicks, boxes and masks it was shown with; {MARK}: some guide no other frame"),
    ("frames", "In how many frames it has a mask"),
    ("conf.", "Mean confidence over the frames that were tracked, 0 to 1"),
)
_MOST_ROWS = 6  # before it scrolls
_SWATCH = 12  # pixels
_VALUE = int(Qt.ItemDataRole.UserRole)

Color = tuple[float, float, float, float]


@dataclass(frozen=True)
class ObjectRow:
    """What a row shows.

    Attributes
    ----------
    object_id : int
        The object.
    color : tuple of float
        Red, green, blue and opacity, 0 to 1.
    name : str
        As the user calls it.
    prompts : int
        How many prompts it has.
    frames : int
        In how many frames it is present.
    confidence : float
        The mean one, 0 to 1; nan where it was not tracked.
    doubted : tuple of int
        The frames whose prompts guide no other frame.
    """

    object_id: int
    color: Color
    name: str
    prompts: int
    frames: int
    confidence: float
    doubted: tuple[int, ...] = ()


class ObjectTable(QTableWidget):
    """One row for each object, in the order of their ids.

    Signals tell what the user did; what the program sets is not told back.

    Parameters
    ----------
    parent : QWidget, optional
        The Qt parent.
    """

    current_changed = Signal(int)  # the object picked
    renamed = Signal(int, str)  # the object, and its new name without white space around it
    remove_asked = Signal(int)  # once for each object; the row stays until `set_rows` comes without it

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_HEADERS), parent)
        self._names: dict[int, str] = {}
        self._told: int | None = None
        for column, (title, tip) in enumerate(_HEADERS):
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)
        self.setItemDelegateForColumn(_COLOR, _Swatch(self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self._fit_columns()
        self.itemChanged.connect(self._on_item_changed)
        self.itemSelectionChanged.connect(self._on_selection)
        self.currentCellChanged.connect(self._on_selection)

    def _fit_columns(self) -> None:
        """Give the name what the others leave, and never scroll sideways."""
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        header, rows = self.horizontalHeader(), self.verticalHeader()
        assert header is not None
        assert rows is not None
        rows.hide()
        rows.setDefaultSectionSize(22)
        rows.setMinimumSectionSize(22)
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setHighlightSections(False)
        header.setSectionsClickable(False)
        header.setMinimumSectionSize(22)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
        header.geometriesChanged.connect(self.updateGeometry)

    # ---- what the program sets

    def set_rows(self, rows: Iterable[ObjectRow]) -> None:
        """Show these objects; selection, and a name being typed, stay. Emits nothing.

        If the current object is not among them, none is current.

        Parameters
        ----------
        rows : iterable of ObjectRow
            All objects, in any order.
        """
        wanted = {row.object_id: row for row in sorted(rows, key=lambda row: row.object_id)}
        kept = wanted.keys() & set(self.selected_objects())
        is_lost = self.currentRow() >= 0 and self._id_at(self.currentRow()) not in wanted
        with QSignalBlocker(self):
            for at in reversed(range(self.rowCount())):
                if self._id_at(at) not in wanted:
                    self.removeRow(at)
            for at, row in enumerate(wanted.values()):
                if at == self.rowCount() or self._id_at(at) != row.object_id:
                    self._insert(at, row.object_id)
                self._write(at, row)
            if is_lost:
                self._select(kept)  # Qt has picked a neighbour, of which nobody would be told
        self._names = {i: row.name for i, row in wanted.items()}
        self._told = self.current_object()
        self.updateGeometry()

    def set_current_object(self, object_id: int | None) -> None:
        """Pick an object, or none; one that is not there changes nothing. Emits nothing.

        Other selected rows stay selected if it is the current one already.
        """
        if object_id == self.current_object():
            return
        with QSignalBlocker(self):
            if object_id is None:
                self.clearSelection()
            elif object_id in self._names:
                # said in full, since Qt would otherwise look at the modifier keys that happen to be down
                command = QItemSelectionModel.SelectionFlag.ClearAndSelect
                command |= QItemSelectionModel.SelectionFlag.Rows
                self.setCurrentCell(self._row_of(object_id), _NAME, command)
        self._told = self.current_object()

    # ---- what the user picked

    def current_object(self) -> int | None:
        """Return the object picked last, None if it is not selected any more."""
        model = self.selectionModel()
        at = self.currentRow()
        if at < 0 or model is None or not model.isRowSelected(at, QModelIndex()):
            return None
        return self._id_at(at)

    def selected_objects(self) -> list[int]:
        """Return all selected objects, ascending."""
        model = self.selectionModel()
        return sorted(self._id_at(index.row()) for index in model.selectedRows()) if model else []

    def _select(self, object_ids: Iterable[int]) -> None:
        """Select these objects and no others, with none of them current."""
        model = self.selectionModel()
        assert model is not None
        model.clear()
        flags = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
        for object_id in object_ids:
            model.select(self.indexFromItem(self._item(self._row_of(object_id), _ID)), flags)

    # ---- rows

    def _insert(self, at: int, object_id: int) -> None:
        """Put an empty row for an object."""
        self.insertRow(at)
        for column in range(len(_HEADERS)):
            item = QTableWidgetItem()
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
            item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(at, column, item)
        name = self._item(at, _NAME)
        name.setFlags(name.flags() | Qt.ItemFlag.ItemIsEditable)
        name.setTextAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self._item(at, _ID).setData(_VALUE, object_id)
        self._item(at, _ID).setText(str(object_id))

    def _write(self, at: int, row: ObjectRow) -> None:
        """Write what is new in a row; Qt repaints only what differs."""
        self._item(at, _COLOR).setData(_VALUE, QColor.fromRgbF(*row.color))
        name = self._item(at, _NAME)
        if self.indexWidget(self.indexFromItem(name)) is None:  # Qt counts an open editor among these
            name.setText(row.name)
            name.setToolTip(row.name)
        confidence = "–" if math.isnan(row.confidence) else f"{row.confidence:.2f}"
        prompts = f"{MARK} {row.prompts}" if row.doubted else str(row.prompts)
        self._item(at, _PROMPTS).setToolTip(said_of_doubt(row.name, row.doubted) if row.doubted else "")
        texts = {_PROMPTS: prompts, _FRAMES: str(row.frames), _CONFIDENCE: confidence}
        for column, text in texts.items():
            self._item(at, column).setText(text)

    def _item(self, at: int, column: int) -> QTableWidgetItem:
        item = self.item(at, column)
        assert item is not None
        return item

    def _id_at(self, at: int) -> int:
        return int(self._item(at, _ID).data(_VALUE))

    def _row_of(self, object_id: int) -> int:
        return next(at for at in range(self.rowCount()) if self._id_at(at) == object_id)

    # ---- what the user does

    def _on_selection(self) -> None:
        """Tell the object picked; Qt says the same click several ways."""
        picked = self.current_object()
        if picked != self._told:
            self._told = picked
            if picked is not None:
                self.current_changed.emit(picked)

    def _on_item_changed(self, item: QTableWidgetItem) -> None:
        """Tell a new name; an empty one is taken back."""
        if item.column() != _NAME:
            return
        object_id, name = self._id_at(item.row()), item.text().strip()
        before = self._names[object_id]
        with QSignalBlocker(self):
            item.setText(name or before)
            item.setToolTip(item.text())
        if name and name != before:
            self._names[object_id] = name
            self.renamed.emit(object_id, name)

    def _edit_name(self, at: int) -> None:
        self.editItem(self._item(at, _NAME))

    def _ask_removal(self, object_ids: Iterable[int]) -> None:
        for object_id in object_ids:
            self.remove_asked.emit(object_id)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802
        """Remove by Delete (the backspace key on a Mac), rename by F2."""
        if event is None:
            return
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self.selected_objects():
            self._ask_removal(self.selected_objects())
        elif event.key() == Qt.Key.Key_F2 and self.current_object() is not None:
            self._edit_name(self.currentRow())
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent | None) -> None:  # noqa: N802
        """Offer to rename the object under the pointer and to remove it, or all selected ones with it."""
        if event is None:
            return
        clicked = self.itemAt(event.pos())
        if clicked is None:
            return
        object_id, selected = self._id_at(clicked.row()), self.selected_objects()
        removed = selected if object_id in selected else [object_id]
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        rename = menu.addAction("Rename")
        remove = menu.addAction(
            f"Remove object {object_id}" if len(removed) == 1 else f"Remove {len(removed)} objects"
        )
        assert rename is not None
        assert remove is not None
        rename.triggered.connect(lambda: self._edit_name(self._row_of(object_id)))
        remove.triggered.connect(lambda: self._ask_removal(removed))
        menu.popup(event.globalPos())

    # ---- size

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802
        """Fit the height again where the host changes fonts or style."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self.updateGeometry()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the height of the header and of one to six rows."""
        header, rows = self.horizontalHeader(), self.verticalHeader()
        assert header is not None
        assert rows is not None
        shown = min(max(self.rowCount(), 1), _MOST_ROWS)
        height = header.sizeHint().height() + shown * rows.defaultSectionSize() + 2 * self.frameWidth()
        return QSize(280, height)

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Return the same height, and a width that still shows something of each name."""
        return QSize(200, self.sizeHint().height())


class _Swatch(QStyledItemDelegate):
    """Paints a square of the object's colour, which selection does not tint."""

    def paint(self, painter: QPainter | None, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Paint the cell, then the square."""
        super().paint(painter, option, index)
        color = index.data(_VALUE)
        if painter is None or color is None:
            return
        square = QRect(0, 0, _SWATCH, _SWATCH)
        square.moveCenter(option.rect.center())
        outline = QColor(option.palette.text().color())
        outline.setAlphaF(0.5)
        painter.save()
        painter.setPen(outline)
        painter.setBrush(color)
        painter.drawRect(square)
        painter.restore()

    def sizeHint(self, _option: QStyleOptionViewItem, _index: QModelIndex) -> QSize:  # noqa: N802
        """Return the room that the square needs."""
        return QSize(_SWATCH + 10, _SWATCH + 4)
