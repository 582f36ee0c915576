"""A part of the dock that can be folded away."""

from __future__ import annotations

from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible

_FLAT = "text-align: left; border: none; outline: none; background: transparent;"


def make_section(title: str, *parts: QWidget) -> QCollapsible:
    """Make a section that is folded at first; its arrow is text, and so has the theme's colour."""

    def show_arrow(expanded: bool) -> None:
        section.setText(f"{'▾' if expanded else '▸'} {title}")

    section = QCollapsible(title, expandedIcon=QIcon(), collapsedIcon=QIcon())
    section.toggleButton().setStyleSheet(_FLAT)
    layout = section.layout()
    assert layout is not None
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        section.addWidget(part)
    section.toggled.connect(show_arrow)
    show_arrow(False)
    return section
