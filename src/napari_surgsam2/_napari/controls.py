"""What can be pressed and chosen in the dock, and how it is laid out."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, Label, PushButton, SpinBox
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFrame,
    QLabel,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from .model_panel import ModelPanel
from .object_table import ObjectTable
from .section import make_section

_WIDTH = 292  # pixels; with napari's own docks beside it, it fits a window of 900


class Controls(QScrollArea):
    """All controls of the dock; each is an attribute. They do nothing by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._make_video()
        self._make_prompts()
        self._make_tracking()
        self._make_options()
        self._make_keeping()
        inside = QWidget()
        inside.setLayout(self._column())
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(_WIDTH)

    def _make_video(self) -> None:
        self.video = ComboBox(
            choices=(),
            nullable=True,
            tooltip="The image layer to segment: a video, a time series or a volume.",
        )
        self.frame_axis = ComboBox(
            choices=(),
            tooltip="The axis that is followed from picture to picture. Along the others the sliders' "
            "positions count.",
        )
        self.axis_row = _row(Label(value="Frames along"), self.frame_axis)
        self.models = ModelPanel()
        self.status = _text()
        self.restore = _button("Restore prompts", "Bring back what was clicked here in an earlier session.")

    def _make_prompts(self) -> None:
        self.click = _button("Click", "Place clicks: left on the object, right (or Ctrl) beside it.")
        self.box = _button("Box", "Draw boxes around objects.")
        self.paint = _button("Paint", "Paint or erase the current object's mask by hand.")
        self.polarity = _button("+ on it", "What left clicks mean: on the object, or not the object. Key T.")
        self.new_object = _button("New object", "Begin another object; its clicks get another colour. Key N.")
        self.use_painted = _button(
            "Use painted",
            "Take the current object's mask in this frame, as it is painted, as a prompt. Empty, it says "
            "that the object is not there. Key C.",
        )
        self.clear_frame = _button("Clear frame", "Take back the current object's prompts in this frame.")
        self.objects = ObjectTable()
        self.undo = _button("Undo", "Take the last step back, with the masks that it changed. Ctrl+Z.")
        self.redo = _button("Redo", "Do it once more. Ctrl+Shift+Z.")

    def _make_tracking(self) -> None:
        self.track_backward = _button("◀ from here", "Track backward from the frame in view.")
        self.track_all = _button(
            "Track", "Track all objects through the whole video, both ways from the prompts."
        )
        self.track_forward = _button(
            "from here ▶", "Track forward from the frame in view: after a correction, only what follows."
        )
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(8)
        self.bar.hide()
        self.pace = _text()
        self.stop = _button("Stop", "Stop after the frame under way; everything done is kept.")
        self.doubtful = _button(
            "Next doubtful frame", "Go to the next frame that the model is unsure of. Key J."
        )

    def _make_options(self) -> None:
        self.use_range = CheckBox(
            text="Only frames", tooltip="Track within these frames only; masks elsewhere stay as they are."
        )
        self.first = SpinBox(value=0, min=0, max=0, tooltip="The first frame.")
        self.last = SpinBox(value=0, min=0, max=0, tooltip="The last frame, included.")
        self.only_selected = CheckBox(
            text="Only selected objects",
            tooltip="Track the objects selected in the table; the others stay as they are.",
        )
        self.follow = CheckBox(
            text="Follow",
            value=True,
            tooltip="Move the slider along while tracking; moving it yourself ends that.",
        )
        self.preserve = CheckBox(
            text="Preserve other labels",
            value=True,
            tooltip="Never put a mask over labels that are not among the tracked objects.",
        )
        self.painted_counts = CheckBox(
            text="Keep what is painted by hand",
            value=True,
            tooltip="Frames whose masks you painted or erased by hand stay as they are when tracking passes "
            "them, and guide it.",
        )
        self.clicks_in = ComboBox(
            choices=(),
            tooltip="The Points layer that clicks are read from (features object_id and label; without them "
            "all are positive and of object 1).",
        )
        self.boxes_in = ComboBox(
            choices=(),
            tooltip="The Shapes layer whose rectangles are boxes around objects (feature object_id; without "
            "it all are of object 1).",
        )
        self.masks_in = ComboBox(
            choices=(), tooltip="The Labels layer that masks are drawn into; other labels in it are kept."
        )

    def _make_keeping(self) -> None:
        self.save_masks = _button("Masks...", "Save as TIFF, zarr, a folder of DAVIS PNGs or COCO JSON.")
        self.save_measurements = _button(
            "Measurements...", "Area, position, shape, intensity and confidence by object and frame, as CSV."
        )
        self.add_tracks = _button("Tracks", "Add a Tracks layer of the objects' centroids.")
        self.save_project = _button(
            "Save project...", "Video, prompts, settings and model; `track --project` replays it."
        )
        self.open_project = _button("Open project...", "Go on with a project that was saved.")

    def _column(self) -> QVBoxLayout:
        options = make_section(
            "Tracking options",
            _row(self.only_selected, self.follow).native,
            _row(self.use_range).native,
            _row(Label(value="from"), self.first, Label(value="to"), self.last).native,
            _row(self.preserve).native,
            _row(self.painted_counts).native,
            _row(Label(value="Clicks in"), self.clicks_in).native,
            _row(Label(value="Boxes in"), self.boxes_in).native,
            _row(Label(value="Masks in"), self.masks_in).native,
        )
        column = QVBoxLayout()
        column.setContentsMargins(2, 6, 1, 6)
        column.setSpacing(4)
        for part in (
            _row(Label(value="Video"), self.video).native,
            self.axis_row.native,
            self.models,
            self.status,
            self.restore.native,
            _rule(),
            _row(self.click, self.box, self.paint, self.polarity).native,
            _row(self.new_object, self.use_painted, self.clear_frame).native,
            self.objects,
            _row(self.undo, self.redo).native,
            _rule(),
            _row(self.track_backward, self.track_all, self.track_forward).native,
            self.bar,
            self.pace,
            _row(self.stop, self.doubtful).native,
            options,
            _rule(),
            _row(self.save_masks, self.save_measurements, self.add_tracks).native,
            _row(self.save_project, self.open_project).native,
        ):
            column.addWidget(part)
        column.addStretch()
        return column


def _button(text: str, tooltip: str) -> PushButton:
    return PushButton(text=text, tooltip=tooltip)


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    return label


def _row(*widgets: Any) -> Container[Any]:
    row: Container[Any] = Container(widgets=widgets, layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    layout = row.native.layout()
    layout.setSpacing(4)
    for n, widget in enumerate(widgets):
        if isinstance(widget, (PushButton, ComboBox, SpinBox)):  # they share what room there is
            native = widget.native
            native.setSizePolicy(QSizePolicy.Policy.Ignored, native.sizePolicy().verticalPolicy())
            native.setMinimumWidth(0)
            layout.setStretch(n, len(widget.text) + 4 if isinstance(widget, PushButton) else 20)
    return row


def _rule() -> QFrame:
    rule = QFrame()
    rule.setFrameShape(QFrame.Shape.HLine)
    rule.setFrameShadow(QFrame.Shadow.Sunken)
    return rule
