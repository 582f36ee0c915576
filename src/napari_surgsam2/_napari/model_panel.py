"""The part of the dock that says which model tracks, on what, and how."""

from __future__ import annotations

import atexit
import html
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from magicgui.widgets import ComboBox, SpinBox
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QPaintEvent, QResizeEvent, QShowEvent, QTextOption, QWheelEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_surgsam2.checkpoints import (
    DEFAULT_MODEL,
    RegistryEntry,
    ensure_downloaded,
    registry,
    registry_entry,
)
from napari_surgsam2.checkpoints.registry import CHECKPOINT_SUFFIXES
from napari_surgsam2.errors import UsageError
from napari_surgsam2.paths import expanded
from napari_surgsam2.settings import MEBIBYTE, TrackingSettings

from .section import make_section
from .worker import StoppedError, TrackerChoice, sentence

ModelChoice: TypeAlias = TrackerChoice
_Row: TypeAlias = tuple[str, QWidget, str]  # label, control and tooltip

_FROM_A_FILE = "From a file ..."
_OWN_SIZE = "the model's own"
_SIZES = (256, 512, 768, 1024)
_SIZE_STEP, _SMALLEST, _LARGEST = 32, 32, 4096  # as checkpoints.loading has them, which would start torch
_ALWAYS_THERE = ("auto", "cpu")  # devices
_LOOK_EVERY = 50  # milliseconds between two looks at a download
_PATIENCE = 1.0  # seconds that leaving Python waits for a download to clean up
_NARROW = "min-width: 50px;"  # napari's own minimum leaves no room for labels in a dock of 300 pixels
_MUCH = 1_000_000  # what spin boxes without a limit of their own go up to


class ModelPanel(QWidget):
    """Chooses the model and how it tracks, and downloads models.

    Signals
    -------
    changed ()
        The user changed something, once per change; `value` may raise then.
    chosen_again
        The model that was chosen already, which may not have been loaded.
    downloaded (str)
        The model of that name has arrived.
    failed (str)
        A download failed or a file cannot be used; the message is shown in the panel as well.
    """

    changed = Signal()
    downloaded = Signal(str)
    chosen_again = Signal()  # the model that was chosen already
    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model = DEFAULT_MODEL
        self._settings = TrackingSettings()
        self._devices = list(_ALWAYS_THERE)
        self._complaint = ""
        self._download: _Download | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK_EVERY)
        self._timer.timeout.connect(self._look_at_download)

        self.models = self._make_models()
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.download_button = QPushButton()
        self.download_button.clicked.connect(self.download)
        self._download_row = self._make_download_row()
        self.message = _Message()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.models, self.about, self.download_button, self._download_row, self.message):
            layout.addWidget(part)
        self.advanced = self._make_advanced()
        layout.addWidget(self.advanced)
        self.setValue(ModelChoice(DEFAULT_MODEL))

    # What is chosen

    def value(self) -> ModelChoice:
        """Return what is chosen; what is being typed counts.

        Raises
        ------
        UsageError
            If the input size that was typed cannot be used.
        """
        self._commit()
        return ModelChoice(self._model, self.device.value, self._image_size(), self._chosen_settings())

    def setValue(self, value: ModelChoice) -> None:  # noqa: N802  Qt's manner
        """Show a choice; `changed` is not emitted.

        Raises
        ------
        UsageError
            If there is no such model, or the input size cannot be used; then nothing is changed.
        """
        _require_model(value.model)
        if value.image_size is not None:
            _require_image_size(value.image_size)
        settings = self._settings = value.settings
        self._model, self._complaint = value.model, ""
        self._offer_devices([*self._devices, value.device], value.device)
        self._size_text = _OWN_SIZE if value.image_size is None else str(value.image_size)
        with QSignalBlocker(self.input_size):
            self.input_size.setCurrentText(self._size_text)
        _set(self.frame_pruning, settings.pruning.prune_frames)
        _set(self.precision, settings.precision)
        _set(self.fill_holes, settings.fill_holes)
        _set(self.remove_speckles, settings.remove_speckles)
        _set(self.prompted_frames, settings.max_conditioning_frames)
        _set(self.feature_cache, _megabytes(settings.feature_cache_bytes))
        _set(self.memory, _megabytes(settings.memory_bytes))
        self._show_model()

    def set_devices(self, devices: list[str]) -> None:
        """Say which devices are there, besides "auto" and "cpu"; the chosen one stays in the list."""
        self._offer_devices([*devices, self.device.value], self.device.value)

    def is_available(self) -> bool:
        """Return whether the chosen model's file is on this machine."""
        return _is_here(self._model)

    def refresh(self) -> None:
        """Look again at which models have been downloaded."""
        for index in range(self.models.count() - 1):
            self.models.setItemText(index, _entry_text(self.models.itemData(index)))
        entry = registry().get(self._model)
        self.about.setText("A checkpoint from a file" if entry is None else entry.about)
        missing = entry is not None and not entry.built_in and not self.is_available()
        self.download_button.setVisible(missing and self._download is None)
        size = "" if entry is None or entry.bytes is None else f" ({_file_megabytes(entry.bytes)} MB)"
        self.download_button.setText(f"Download{size}")
        self.message.say("\n".join(filter(None, (self._complaint, self._size_problem()))))

    # Downloading

    def download(self) -> None:
        """Download the chosen model, unless it is there or a download is under way."""
        entry = registry().get(self._model)
        if self._download is not None or entry is None or self.is_available():
            return
        self._complaint = ""
        self._download = _Download(entry)
        self.destroyed.connect(self._download.stop)
        self._timer.start()
        self._look_at_download()
        self._download_row.show()
        self.refresh()

    def cancel_download(self) -> None:
        """Stop a download; nothing of it is kept."""
        if self._download is not None:
            self._download.stop()
            self._end_download()

    def _look_at_download(self) -> None:
        download = self._download
        if download is None:
            return
        finished = download.finished  # before what it led to is read
        done, total = download.bytes_done, download.bytes_in_all
        self.progress.setRange(0, 0 if total is None else _file_megabytes(total))
        self.progress.setValue(_file_megabytes(done))
        in_all = "" if total is None else f" of {_file_megabytes(total)}"
        self.progress_text.setText(f"{download.entry.name}: {_file_megabytes(done)}{in_all} MB")
        if not finished:
            return
        self._end_download()
        if download.problem:
            self._complain(download.problem)
        else:
            self.downloaded.emit(download.entry.name)

    def _end_download(self) -> None:
        self._download = None
        self._timer.stop()
        self._download_row.hide()
        self.refresh()

    # What the user does

    def _on_model_activated(self, index: int) -> None:
        model = self.models.itemData(index)
        if model is None:
            self._choose_file()
        else:
            self._change_model(model)

    def _choose_file(self) -> None:
        self._show_model()
        wanted = " ".join(f"*{suffix}" for suffix in CHECKPOINT_SUFFIXES)
        path, _ = QFileDialog.getOpenFileName(self, "Choose a checkpoint", "", f"Checkpoints ({wanted})")
        if not path:
            return
        try:
            _require_model(path)
        except UsageError as error:
            self._complain(str(error))
        else:
            self._change_model(path)

    def _change_model(self, model: str) -> None:
        if model == self._model:
            self.chosen_again.emit()
            return
        self._model, self._complaint = model, ""
        self._show_model()
        self.changed.emit()

    def _on_size_edited(self) -> None:
        text = self.input_size.currentText().strip()
        if not text:
            text = _OWN_SIZE
            self.input_size.setCurrentText(text)
        if text != self._size_text:
            self._size_text = text
            self.refresh()
            self.changed.emit()

    def _on_setting_edited(self) -> None:
        self.changed.emit()

    def _commit(self) -> None:
        """Take what was typed and not confirmed; on macOS a click on a button leaves it so."""
        self._on_size_edited()
        for spin in self._spins:
            text = spin.native.text()
            if text.isdecimal():
                spin.native.setValue(int(text))

    # What is shown and read

    def _complain(self, message: str) -> None:
        self._complaint = message
        self.refresh()
        self.failed.emit(message)

    def _show_model(self) -> None:
        if self.models.findData(self._model) < 0:
            index = self.models.count() - 1
            self.models.insertItem(index, _entry_text(self._model), self._model)
            self.models.setItemData(index, self._model, Qt.ItemDataRole.ToolTipRole)
        self.models.setCurrentIndex(self.models.findData(self._model))
        self.models.setToolTip(self.models.currentData(Qt.ItemDataRole.ToolTipRole))
        self.refresh()

    def _offer_devices(self, devices: list[str], chosen: str) -> None:
        self._devices = list(dict.fromkeys((*_ALWAYS_THERE, *devices)))
        with self.device.changed.blocked():
            self.device.choices = ()  # else those that were there before stay in front
            self.device.choices = self._devices
            self.device.value = chosen

    def _image_size(self) -> int | None:
        if self._size_text == _OWN_SIZE:
            return None
        try:
            size = int(self._size_text)
        except ValueError:
            raise UsageError(_size_message(repr(self._size_text))) from None
        _require_image_size(size)
        return size

    def _size_problem(self) -> str:
        try:
            self._image_size()
        except UsageError as error:
            return str(error)
        return ""

    def _chosen_settings(self) -> TrackingSettings:
        shown = self._settings
        return shown.replace(
            pruning=shown.pruning.replace(prune_frames=self.frame_pruning.value),
            max_conditioning_frames=self.prompted_frames.value,
            fill_holes=self.fill_holes.value,
            remove_speckles=self.remove_speckles.value,
            precision=self.precision.value,
            feature_cache_bytes=_bytes(self.feature_cache.value, shown.feature_cache_bytes),
            memory_bytes=_bytes(self.memory.value, shown.memory_bytes),
        )

    # The widgets

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Look at the models, which may have been downloaded elsewhere."""
        self.refresh()
        super().showEvent(event)

    def _make_models(self) -> _ModelCombo:
        models = _ModelCombo()
        for name, entry in registry().items():
            models.addItem(_entry_text(name), name)
            models.setItemData(models.count() - 1, _wrapped(entry.about), Qt.ItemDataRole.ToolTipRole)
        models.addItem(_FROM_A_FILE)
        models.activated.connect(self._on_model_activated)
        models.opening.connect(self.refresh)
        return models

    def _make_download_row(self) -> QWidget:
        row = QWidget()
        self.progress_text = QLabel()
        self.progress_text.setWordWrap(True)
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.clicked.connect(self.cancel_download)
        bar = QHBoxLayout()
        bar.addWidget(self.progress, stretch=1)
        bar.addWidget(self.cancel_button)
        layout = QVBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.progress_text)
        layout.addLayout(bar)
        row.hide()
        return row

    def _make_advanced(self) -> QCollapsible:
        self.device = ComboBox(choices=self._devices)
        self.input_size = self._make_size()
        self.frame_pruning = SpinBox(min=0, max=6)
        self.precision = ComboBox(choices=("auto", "float32", "bfloat16"))
        self.fill_holes = SpinBox(min=0, max=_MUCH)
        self.remove_speckles = SpinBox(min=0, max=_MUCH)
        self.prompted_frames = SpinBox(min=2, max=_MUCH)
        self.feature_cache = SpinBox(min=0, max=_MUCH, step=64)
        self.memory = SpinBox(min=0, max=_MUCH, step=256)
        self._spins = (
            self.frame_pruning,
            self.fill_holes,
            self.remove_speckles,
            self.prompted_frames,
            self.feature_cache,
            self.memory,
        )
        for spin in self._spins:
            spin.native.setKeyboardTracking(False)  # a number is one change, not one for each digit
            spin.native.setStyleSheet(_NARROW)
        for widget in (self.device, self.precision, *self._spins):
            widget.changed.connect(self._on_setting_edited)

        guard = _WheelGuard(self)
        choices = _make_form(self._choice_rows(), guard)
        numbers = _make_form(self._number_rows(), guard)
        return make_section("Advanced", choices, numbers)

    def _make_size(self) -> QComboBox:
        size, edit = QComboBox(), QLineEdit()
        size.addItems([_OWN_SIZE, *map(str, _SIZES)])
        size.setEditable(True)
        size.setLineEdit(edit)
        size.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        size.setCompleter(None)
        size.activated.connect(self._on_size_edited)
        edit.editingFinished.connect(self._on_size_edited)
        return size

    def _choice_rows(self) -> list[_Row]:
        return [
            (
                "Device",
                self.device.native,
                "What the network runs on. A graphics card (cuda, mps) is many times faster than the "
                "processor (cpu); auto takes a graphics card where there is one.",
            ),
            (
                "Input size (px)",
                self.input_size,
                "Side of the square that every frame is resized to for the network, a multiple of 32. "
                "Smaller is faster, larger shows small and thin things better.",
            ),
            (
                "Precision",
                self.precision.native,
                "Number format of the computation. bfloat16 is faster on newer graphics cards and processors "
                "and a little less exact; auto takes it where it is fast, and float32 elsewhere.",
            ),
        ]

    def _number_rows(self) -> list[_Row]:
        return [
            (
                "Frame pruning",
                self.frame_pruning.native,
                "How many remembered frames, those most like the newest one, are left out before each frame. "
                "More is faster and may be less exact; 0 leaves out none, as SAM 2.",
            ),
            (
                "Fill holes up to (px)",
                self.fill_holes.native,
                "Holes in a mask with up to this many pixels of the video are filled. 0 leaves masks as the "
                "network made them.",
            ),
            (
                "Remove speckles\nup to (px)",
                self.remove_speckles.native,
                "Separate pieces of a mask with up to this many pixels of the video are removed; the largest "
                "always stays. 0 removes nothing.",
            ),
            (
                "Prompted frames\nlooked at",
                self.prompted_frames.native,
                "How many of the frames with clicks, boxes or given masks each object is compared with, the "
                "nearest in time. More uses more of your corrections, fewer is faster.",
            ),
            (
                "Feature cache (MB)",
                self.feature_cache.native,
                "Memory of the device for what the network saw in recent frames, so that another click on "
                "one of them is answered sooner.",
            ),
            (
                "Memory (MB)",
                self.memory.native,
                "Main memory for what is remembered of tracked frames, so that tracking can go on from any "
                "of them. Past it, the frames farthest away are worked out again when they are needed.",
            ),
        ]


class _Download:
    """A download in a thread, to be looked at from the main one."""

    def __init__(self, entry: RegistryEntry) -> None:
        self.entry = entry
        self.bytes_done = 0
        self.bytes_in_all = entry.bytes
        self.problem = ""  # not the exception, which would keep the connection open
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="napari-surgsam2 download", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to wait for."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let it end at the next bytes, and remove what it has written."""
        self._stop.set()

    def _run(self) -> None:
        atexit.register(self._stop_and_wait)
        try:
            ensure_downloaded(self.entry, self._on_progress)
        except StoppedError:
            pass
        except Exception as error:  # whatever it is, the user is told
            self.problem = sentence(error)
        finally:
            atexit.unregister(self._stop_and_wait)

    def _on_progress(self, done: int, total: int | None) -> None:
        if self._stop.is_set():
            raise StoppedError
        self.bytes_done, self.bytes_in_all = done, total

    def _stop_and_wait(self) -> None:
        self.stop()
        self._thread.join(_PATIENCE)


class _ModelCombo(QComboBox):
    """A combo box that shows the bare name of its entry where there is no room for all of its text."""

    opening = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)

    def showPopup(self) -> None:  # noqa: N802  Qt's name
        """Open the list, wide enough for its entries."""
        self.opening.emit()
        view, style = self.view(), self.style()
        assert view is not None
        assert style is not None
        scroll_bar = style.pixelMetric(QStyle.PixelMetric.PM_ScrollBarExtent)
        view.setMinimumWidth(view.sizeHintForColumn(0) + scroll_bar)
        super().showPopup()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802  Qt's name
        """Draw the box with a text that fits."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        option.currentText = self._fitting_text(self._text_width(option))
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802  Qt's name
        """Leave the wheel to what scrolls the panel: turning it must not change the model."""
        if event is not None:
            event.ignore()

    def _text_width(self, option: QStyleOptionComboBox) -> int:
        """Return how many pixels there are for the text."""
        control, field = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        style = self.style()
        assert style is not None
        return style.subControlRect(control, option, field, self).width()

    def _fitting_text(self, width: int) -> str:
        text, metrics = self.currentText(), self.fontMetrics()
        if metrics.horizontalAdvance(text) <= width:
            return text
        name = text.rpartition(" (")[0] or text
        return metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, width)


class _Message(QTextEdit):
    """A text that can be copied, as high as it needs to be; it breaks long paths and addresses too."""

    def __init__(self) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.hide()

    def say(self, text: str) -> None:
        """Show a text, or nothing if it is empty."""
        if text != self.toPlainText():
            self.setPlainText(text)
        self.setVisible(bool(text))
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802  Qt's name
        """Take the height that the text needs at this width."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        viewport, document = self.viewport(), self.document()
        assert viewport is not None
        assert document is not None
        around = max(0, self.height() - viewport.height())  # less than 0 before it was first laid out
        self.setFixedHeight(math.ceil(document.size().height()) + around)


class _WheelGuard(QObject):
    """Keeps the wheel, while it scrolls the panel, from turning a control that passes under the pointer."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Let the wheel through to controls that have the focus only."""
        wheel = event is not None and event.type() == QEvent.Type.Wheel
        if event is not None and wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return super().eventFilter(watched, event)


def _make_form(rows: Sequence[_Row], guard: QObject) -> QWidget:
    """Lay out labels and controls in two columns."""
    content = QWidget()
    form = QFormLayout(content)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for label, control, tooltip in rows:
        text = QLabel(label)
        for part in (text, control):
            part.setToolTip(_wrapped(tooltip))
        control.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        control.installEventFilter(guard)
        form.addRow(text, control)
    return content


def _set(widget: Any, value: Any) -> None:
    """Set a control without a signal; a spin box takes numbers beyond its limit that are set so."""
    with widget.changed.blocked():
        if isinstance(widget, SpinBox):
            widget.max = max(widget.max, value)
        widget.value = value


def _entry_text(model: str) -> str:
    entry = registry().get(model)
    if entry is None:
        return f"{Path(model).name} (file)"
    if entry.built_in:
        return f"{model} (built in)"
    if _is_here(model):
        return f"{model} (downloaded)"
    size = "" if entry.bytes is None else f"{_file_megabytes(entry.bytes)} MB "
    return f"{model} ({size}to download)"


def _is_here(model: str) -> bool:
    entry = registry().get(model)
    path = expanded(model) if entry is None else entry.path
    return path.is_file()


def _require_model(model: str) -> None:
    """Raise UsageError unless `load_model` takes this for a file or knows it by name."""
    if Path(model).suffix.lower() not in CHECKPOINT_SUFFIXES:
        registry_entry(model)


def _require_image_size(size: int) -> None:
    """Raise UsageError unless `load_model` takes this input size."""
    if size % _SIZE_STEP or not _SMALLEST <= size <= _LARGEST:
        raise UsageError(_size_message(str(size)))


def _size_message(given: str) -> str:
    return (
        f"The image size is {given}; it must be a multiple of {_SIZE_STEP} from {_SMALLEST} to {_LARGEST}, "
        "such as 512 or 1024."
    )


def _file_megabytes(size: int) -> int:
    """Return a file's size as `napari-surgsam2 models list` tells it."""
    return round(size / 1_000_000)


def _megabytes(size: int) -> int:
    """Return an amount of memory as the settings count it."""
    return round(size / MEBIBYTE)


def _bytes(megabytes: int, shown: int) -> int:
    """Return what a number of megabytes means: exactly the bytes it was shown for, if it still is theirs."""
    return shown if megabytes == _megabytes(shown) else megabytes * MEBIBYTE


def _wrapped(text: str) -> str:
    """Return a tooltip that Qt breaks into lines, which it does for rich text only."""
    return f"<p>{html.escape(text)}</p>"
