"""The model part of the dock, with downloads from a server on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_surgsam2._napari.model_panel import ModelChoice, ModelPanel
from napari_surgsam2.checkpoints import RegistryEntry, registry
from napari_surgsam2.checkpoints.loading import check_image_size
from napari_surgsam2.errors import UsageError
from napari_surgsam2.settings import MEBIBYTE, PruningSettings, TrackingSettings

CONTENT = b"PK\x03\x04" + bytes(3_000_000)
OTHER = TrackingSettings(
    pruning=PruningSettings(3),
    max_conditioning_frames=4,
    fill_holes=20,
    remove_speckles=30,
    precision="float32",
    feature_cache_bytes=100 * MEBIBYTE,
    memory_bytes=200 * MEBIBYTE,
)
CHOICES = {
    "the default": ModelChoice("nano"),
    "all else": ModelChoice("sam2.1_hiera_tiny", "cpu", 512, OTHER),
    "a file": ModelChoice("/somewhere/tuned.pth", "auto", 1024),
    "a device that is not listed": ModelChoice("nano", "cuda:3"),
    "a size that is not listed": ModelChoice("nano", "auto", 352),
    "more pruning than the box offers": ModelChoice(
        "nano", settings=TrackingSettings(pruning=PruningSettings(9))
    ),
    "bytes that are no whole MB": ModelChoice("nano", settings=TrackingSettings(memory_bytes=12_345_678)),
    "a setting that is not shown": ModelChoice("nano", settings=TrackingSettings(read_ahead=9)),
}


class Server(ThreadingHTTPServer):
    """Sends the first half of CONTENT at once and the rest when `go_on` is set."""

    daemon_threads = True
    status = 200
    says_length = True

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.go_on = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.status)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1_500_000])
        self.server.go_on.wait()
        with contextlib.suppress(OSError):  # the client has cancelled
            self.wfile.write(CONTENT[1_500_000:])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("NAPARI_SURGSAM2_CACHE", str(folder))
    return folder


@pytest.fixture
def entry(server: Server, cache: Path, monkeypatch) -> RegistryEntry:
    """A model of the server, in the registry as "test"."""
    entry = RegistryEntry(
        name="test",
        about="a model",
        architecture="sam2.1_hiera_tiny",
        file="test.pt",
        url=f"http://127.0.0.1:{server.server_address[1]}/test.pt",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        image_size=512,
    )
    monkeypatch.setitem(registry(), "test", entry)
    return entry


@pytest.fixture
def make_panel(qtbot):
    def make() -> ModelPanel:
        panel = ModelPanel()
        qtbot.addWidget(panel)
        panel.show()
        return panel

    return make


@pytest.fixture
def panel(make_panel) -> ModelPanel:
    return make_panel()


@pytest.fixture
def emitted(panel: ModelPanel) -> list[None]:
    """One entry for each time `changed` was emitted."""
    times: list[None] = []
    panel.changed.connect(lambda: times.append(None))
    return times


def pick(combo, index: int) -> None:
    """Choose an entry as a user does."""
    combo.setCurrentIndex(index)
    combo.activated.emit(index)


def pick_model(panel: ModelPanel, name: str) -> None:
    pick(panel.models, panel.models.findData(name))


def pick_from_a_file(panel: ModelPanel, monkeypatch, path: str) -> None:
    """Choose the last entry and answer its dialog; no path cancels it."""
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (path, ""))
    pick(panel.models, panel.models.count() - 1)


def type_into(qtbot, edit, text: str, confirm: bool = True) -> None:
    edit.selectAll()
    qtbot.keyClicks(edit, text)
    if confirm:
        qtbot.keyClick(edit, Qt.Key.Key_Return)


def entries(panel: ModelPanel) -> list[str]:
    return [panel.models.itemText(i) for i in range(panel.models.count())]


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def wait_for_threads(qtbot) -> None:
    def over() -> bool:
        return not any(t.name == "napari-surgsam2 download" for t in threading.enumerate())

    qtbot.waitUntil(over)


# Value


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_what_is_set_is_what_is_chosen(choice: ModelChoice, panel, emitted) -> None:
    panel.setValue(choice)
    assert panel.value() == choice
    assert panel.models.currentData() == choice.model
    assert emitted == []


def test_setting_again_forgets_what_was_set_before(panel: ModelPanel) -> None:
    panel.setValue(CHOICES["all else"])
    panel.setValue(CHOICES["the default"])
    assert panel.value() == CHOICES["the default"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (ModelChoice("sam3", "cpu", 512), "There is no model 'sam3'"),
        (ModelChoice("sam2.1_hiera_tiny", "cpu", 300), "The image size is 300"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_whole(choice: ModelChoice, message: str, panel) -> None:
    before = panel.value()
    with pytest.raises(UsageError, match=message):
        panel.setValue(choice)
    assert panel.value() == before


CHANGES = {
    "the model": (lambda p, bot: pick_model(p, "sam2.1_hiera_tiny"), {"model": "sam2.1_hiera_tiny"}),
    "the device": (lambda p, bot: bot.keyClick(p.device.native, Qt.Key.Key_Down), {"device": "cpu"}),
    "a listed size": (lambda p, bot: pick(p.input_size, 2), {"image_size": 512}),
    "a typed size": (lambda p, bot: type_into(bot, p.input_size.lineEdit(), "640"), {"image_size": 640}),
    "the precision": (
        lambda p, bot: bot.keyClick(p.precision.native, Qt.Key.Key_Down),
        {"settings": TrackingSettings(precision="float32")},
    ),
    "the pruning": (
        lambda p, bot: bot.keyClick(p.frame_pruning.native, Qt.Key.Key_Up),
        {"settings": TrackingSettings(pruning=PruningSettings(3))},
    ),
    "holes": (
        lambda p, bot: type_into(bot, p.fill_holes.native, "64"),
        {"settings": TrackingSettings(fill_holes=64)},
    ),
    "speckles": (
        lambda p, bot: type_into(bot, p.remove_speckles.native, "64"),
        {"settings": TrackingSettings(remove_speckles=64)},
    ),
    "prompted frames": (
        lambda p, bot: type_into(bot, p.prompted_frames.native, "12"),
        {"settings": TrackingSettings(max_conditioning_frames=12)},
    ),
    "the feature cache": (
        lambda p, bot: type_into(bot, p.feature_cache.native, "128"),
        {"settings": TrackingSettings(feature_cache_bytes=128 * MEBIBYTE)},
    ),
    "the memory": (
        lambda p, bot: type_into(bot, p.memory.native, "4096"),
        {"settings": TrackingSettings(memory_bytes=4096 * MEBIBYTE)},
    ),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_told_once(change, expected, panel: ModelPanel, emitted, qtbot) -> None:
    panel.advanced.expand(animate=False)
    change(panel, qtbot)
    assert panel.value() == dataclasses.replace(ModelChoice("nano"), **expected)
    assert len(emitted) == 1


def test_choosing_what_is_chosen_already_is_no_change(panel: ModelPanel, emitted, qtbot) -> None:
    pick_model(panel, "nano")
    pick(panel.input_size, 0)
    type_into(qtbot, panel.input_size.lineEdit(), "")
    assert panel.value() == ModelChoice("nano")
    assert panel.input_size.currentText() == "the model's own"
    assert emitted == []


def test_what_is_typed_counts_before_it_is_confirmed(panel: ModelPanel, emitted, qtbot) -> None:
    panel.advanced.expand(animate=False)
    type_into(qtbot, panel.frame_pruning.native, "4", confirm=False)
    type_into(qtbot, panel.input_size.lineEdit(), "512", confirm=False)
    choice = panel.value()
    assert (choice.image_size, choice.settings.pruning.prune_frames) == (512, 4)
    assert len(emitted) == 2


@pytest.mark.parametrize("size", [300, 0, 8192, -32])
def test_an_input_size_that_cannot_be_is_told_as_by_the_loader(size: int, panel, emitted, qtbot) -> None:
    type_into(qtbot, panel.input_size.lineEdit(), str(size))
    with pytest.raises(UsageError) as expected:
        check_image_size(size)
    with pytest.raises(UsageError) as caught:
        panel.value()
    assert str(caught.value) == str(expected.value) == panel.message.toPlainText()
    assert panel.message.isVisible()
    assert len(emitted) == 1

    type_into(qtbot, panel.input_size.lineEdit(), "1024")
    assert panel.value().image_size == 1024
    assert not panel.message.isVisible()


def test_an_input_size_that_is_no_number_is_told(panel: ModelPanel, qtbot) -> None:
    type_into(qtbot, panel.input_size.lineEdit(), "big")
    with pytest.raises(UsageError, match=r"^The image size is 'big'; it must be a multiple of 32 from"):
        panel.value()


def test_devices_are_offered_once_they_are_known(panel: ModelPanel, emitted) -> None:
    assert panel.device.choices == ("auto", "cpu")
    panel.setValue(ModelChoice("nano", "cuda:1"))
    panel.set_devices(["cpu", "cuda:0"])
    assert panel.device.choices == ("auto", "cpu", "cuda:0", "cuda:1")
    assert panel.value().device == "cuda:1"
    assert emitted == []


# Models


def test_each_model_says_what_it_is(entry: RegistryEntry, cache: Path, make_panel, monkeypatch) -> None:
    monkeypatch.setitem(registry(), "unknown size", dataclasses.replace(entry, bytes=None, file="u.pt"))
    cache.mkdir()
    (cache / "sam2.1_hiera_tiny.pt").touch()
    panel = make_panel()
    shown = entries(panel)
    assert shown[:3] == [
        "nano (built in)",
        "sam2.1_hiera_tiny (downloaded)",
        "sam2.1_hiera_small (184 MB to download)",
    ]
    assert shown[-3:] == ["test (3 MB to download)", "unknown size (to download)", "From a file ..."]


def test_only_missing_models_have_a_download_button(entry: RegistryEntry, cache: Path, make_panel) -> None:
    panel = make_panel()
    assert panel.is_available()
    assert not panel.download_button.isVisible()

    pick_model(panel, "test")
    assert not panel.is_available()
    assert panel.download_button.isVisible()
    assert panel.download_button.text() == "Download (3 MB)"

    cache.mkdir()
    entry.path.write_bytes(CONTENT)  # as if downloaded elsewhere
    panel.refresh()
    assert panel.is_available()
    assert not panel.download_button.isVisible()
    assert panel.models.currentText() == "test (downloaded)"


def test_a_chosen_file_gets_an_entry(panel: ModelPanel, emitted, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "tuned.safetensors"
    before = len(entries(panel))
    pick_from_a_file(panel, monkeypatch, str(path))
    assert panel.value().model == str(path)
    assert panel.models.currentText() == "tuned.safetensors (file)"
    assert panel.models.toolTip() == str(path)
    assert panel.models.currentData(Qt.ItemDataRole.ToolTipRole) == str(path)
    assert not panel.is_available()
    path.touch()
    assert panel.is_available()
    assert not panel.download_button.isVisible()

    pick_from_a_file(panel, monkeypatch, str(path))
    assert len(entries(panel)) == before + 1
    assert entries(panel)[-1] == "From a file ..."
    assert len(emitted) == 1


def test_a_cancelled_dialog_goes_back(panel: ModelPanel, emitted, monkeypatch) -> None:
    pick_model(panel, "sam2.1_hiera_small")
    emitted.clear()
    pick_from_a_file(panel, monkeypatch, "")
    assert panel.value().model == panel.models.currentData() == "sam2.1_hiera_small"
    assert emitted == []


def test_a_file_of_another_kind_is_refused(panel: ModelPanel, emitted, monkeypatch, qtbot) -> None:
    with qtbot.waitSignal(panel.failed) as failed:
        pick_from_a_file(panel, monkeypatch, "/somewhere/weights.bin")
    assert ".safetensors" in failed.args[0]
    assert panel.message.toPlainText() == failed.args[0]
    assert panel.value().model == panel.models.currentData() == "nano"
    assert emitted == []


# Downloads


def test_a_download_shows_how_far_it_is(entry, server: Server, make_panel, qtbot) -> None:
    panel = make_panel()
    pick_model(panel, "test")
    qtbot.mouseClick(panel.download_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: panel.progress_text.text() == "test: 1 of 3 MB")
    assert (panel.progress.value(), panel.progress.maximum()) == (1, 3)
    assert panel.cancel_button.isVisible()
    assert not panel.download_button.isVisible()

    with qtbot.waitSignal(panel.downloaded) as downloaded:
        server.go_on.set()
    assert downloaded.args == ["test"]
    assert entry.path.read_bytes() == CONTENT
    assert panel.models.currentText() == "test (downloaded)"
    assert panel.is_available()
    assert not panel.cancel_button.isVisible()
    assert not panel.download_button.isVisible()


def test_a_download_of_unknown_size_shows_what_has_come(
    entry, server: Server, make_panel, qtbot, monkeypatch
) -> None:
    monkeypatch.setitem(registry(), "test", dataclasses.replace(entry, bytes=None, sha256=None))
    server.says_length = False
    panel = make_panel()
    pick_model(panel, "test")
    panel.download()
    qtbot.waitUntil(lambda: panel.progress_text.text() == "test: 1 MB")
    assert panel.progress.maximum() == 0  # drawn as a bar without an end

    with qtbot.waitSignal(panel.downloaded):
        server.go_on.set()


def test_another_model_can_be_chosen_during_a_download(entry, server: Server, make_panel, qtbot) -> None:
    panel = make_panel()
    pick_model(panel, "test")
    panel.download()
    pick_model(panel, "sam2.1_hiera_small")
    assert not panel.download_button.isVisible()  # one at a time
    with qtbot.waitSignal(panel.downloaded) as downloaded:
        server.go_on.set()
    assert downloaded.args == ["test"]
    assert panel.value().model == "sam2.1_hiera_small"
    assert panel.download_button.isVisible()
    assert "test (downloaded)" in entries(panel)


def test_a_cancelled_download_leaves_nothing(entry, server: Server, cache: Path, make_panel, qtbot) -> None:
    panel = make_panel()
    pick_model(panel, "test")
    panel.download()
    qtbot.waitUntil(lambda: panel.progress.value() == 1)
    with qtbot.assertNotEmitted(panel.failed), qtbot.assertNotEmitted(panel.downloaded):
        qtbot.mouseClick(panel.cancel_button, Qt.MouseButton.LeftButton)
        assert not panel.cancel_button.isVisible()
        assert panel.download_button.isVisible()
        server.go_on.set()
        wait_for_threads(qtbot)
    assert left_in(cache) == []
    assert panel.models.currentText() == "test (3 MB to download)"
    assert panel.message.toPlainText() == ""

    with qtbot.waitSignal(panel.downloaded):
        panel.download()


def test_a_failed_download_is_told_and_can_be_tried_again(entry, server: Server, make_panel, qtbot) -> None:
    server.go_on.set()
    server.status = 503
    panel = make_panel()
    pick_model(panel, "test")
    with qtbot.waitSignal(panel.failed) as failed:
        panel.download()
    assert "the server answered 503" in failed.args[0]
    assert panel.message.isVisible()
    assert panel.message.toPlainText() == failed.args[0]
    assert panel.download_button.isVisible()

    server.status = 200
    with qtbot.waitSignal(panel.downloaded):
        panel.download()
    assert not panel.message.isVisible()


def test_a_download_ends_with_its_panel(entry, server: Server, cache: Path, qtbot) -> None:
    panel = ModelPanel()
    pick_model(panel, "test")
    panel.download()
    qtbot.waitUntil(lambda: panel.progress.value() == 1)
    panel.deleteLater()
    qtbot.waitSignal(panel.destroyed).wait()
    server.go_on.set()
    wait_for_threads(qtbot)
    assert left_in(cache) == []


# How it looks


def test_the_wheel_turns_only_what_has_the_focus(panel: ModelPanel, emitted, monkeypatch) -> None:
    def turn(widget) -> None:
        centre = QPointF(widget.rect().center())
        event = QWheelEvent(
            centre,
            QPointF(widget.mapToGlobal(centre.toPoint())),
            QPoint(0, 0),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(widget, event)

    panel.advanced.expand(animate=False)
    for widget in (panel.models, panel.device.native, panel.input_size, panel.memory.native):
        turn(widget)
    assert panel.value() == ModelChoice("nano")
    assert emitted == []

    turn(panel.frame_pruning.native)
    assert panel.value() == ModelChoice("nano")
    monkeypatch.setattr(panel.frame_pruning.native, "hasFocus", lambda: True)
    turn(panel.frame_pruning.native)
    assert panel.value().settings.pruning.prune_frames == 1


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_fits_a_narrow_dock_in_naparis_look(theme: str, panel: ModelPanel, qtbot) -> None:
    from napari.qt import get_stylesheet

    panel.setStyleSheet(get_stylesheet(theme))
    panel.setValue(ModelChoice(f"/{'long' * 30}/{'name' * 30}.pth"))
    panel.message.say(f"There is nothing at /{'long' * 60}.")
    panel.advanced.expand(animate=False)
    panel.resize(280, 700)
    qtbot.wait(1)
    assert panel.width() == 280
    document = panel.message.document().size()
    assert document.width() <= panel.message.viewport().width()
    assert document.height() <= panel.message.viewport().height()


def test_making_it_starts_no_torch() -> None:
    code = (
        "import sys; from qtpy.QtWidgets import QApplication; app = QApplication([])\n"
        "from napari_surgsam2._napari.model_panel import ModelPanel\n"
        "panel = ModelPanel(); panel.value(); panel.is_available()\n"
        "print(*{'torch', 'napari', 'superqt'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["superqt"]
