"""How a run goes, shown, and how it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from napari_surgsam2.errors import SurgSam2Error

from .console import InterruptedRunError, error_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from napari_surgsam2.checkpoints import Model
    from napari_surgsam2.pipeline import Reporting, TrackOutcome
    from napari_surgsam2.tracking import FrameResult
    from napari_surgsam2.video import Video


class DownloadBar:
    """Shows a download among the bars of a run, from its first bytes until it is said to be over."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show so many bytes, of so many."""
        if self._task is None:
            self._task = self._bar.add_task("Downloading (MB)", total=None)
        mega = 1_000_000
        self._bar.update(self._task, completed=done // mega, total=None if total is None else total // mega)

    def end(self) -> None:
        """Take it away."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


class RunProgress:
    """Shows how a run goes, and remembers what its summary needs."""

    bar: Progress

    def __init__(self) -> None:
        self.is_tracking = False  # between the first and the last frame
        self._task: TaskID | None = None
        self._download: DownloadBar | None = None
        self._drawing: TaskID | None = None
        self._facts: dict[str, Any] = {}

    def reporting(self, should_stop: Callable[[], bool]) -> Reporting:
        """Return what shows it all."""
        from napari_surgsam2.pipeline import Reporting

        download = self._download = DownloadBar(self.bar)
        return Reporting(
            opened=self._on_opened,
            downloading=download,
            loaded=self._on_loaded,
            tracked=self._on_tracked,
            drawn=self._on_drawn,
            should_stop=should_stop,
        )

    def _on_opened(self, video: Video) -> None:
        self._facts["video"] = {"name": video.name, "shape": list(video.shape), "notes": list(video.notes)}
        for note in video.notes:
            error_console.print(f"Note: {note}", markup=False, soft_wrap=True)

    def _on_loaded(self, model: Model) -> None:
        size = f"{model.image_size} pixels"
        self._facts |= {"model": model.name, "image_size": model.image_size, "device": str(model.device)}
        if self._download is not None:
            self._download.end()
        error_console.print(f"Model {model.name} at {size} on {model.device}", markup=False, soft_wrap=True)

    def _on_tracked(self, _: FrameResult, done: int, total: int) -> None:
        self.is_tracking = done < total
        if self._task is None:
            self._task = self.bar.add_task("Tracking", total=total, completed=done - 1)
        self.bar.update(self._task, completed=done, total=total)

    def _on_drawn(self, done: int, total: int) -> None:
        if self._drawing is None:
            self._drawing = self.bar.add_task("Drawing the preview", total=total)
        self.bar.update(self._drawing, completed=done)

    def summary(self, outcome: TrackOutcome) -> dict[str, Any]:
        """Return what `--json` prints."""
        speed = outcome.frames_tracked / outcome.seconds if outcome.seconds else None
        return {
            "output": str(outcome.output),
            "preview": None if outcome.preview is None else str(outcome.preview),
            **self._facts,
            "frames_tracked": outcome.frames_tracked,
            "seconds": round(outcome.seconds, 3),
            "frames_per_second": None if speed is None else round(speed, 3),
            "objects": [{"id": i, "frames_present": n} for i, n in outcome.frames_present.items()],
        }


@contextmanager
def interruptible(finish: Callable[[], bool], what: str = "frame") -> Iterator[Callable[[], bool]]:
    """Let Ctrl+C (and SIGTERM) end a run after what is under way if `finish` says so, else at once.

    A second one ends it at once in any case.
    """
    asked = at_once = False

    def stop(signum: int, _: object) -> None:
        nonlocal asked, at_once
        again, asked = asked, True
        if again or not finish():
            at_once = True
            raise KeyboardInterrupt
        error_console.print(f"Stopping after this {what}; press Ctrl+C again to stop at once.")

    # What runs in the background of a script ignores Ctrl+C, and goes on doing so.
    signals = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = [signal.signal(s, stop) for s in signals]
    try:
        yield lambda: asked
    except SurgSam2Error as error:
        if at_once and error.exit_code != InterruptedRunError.exit_code:
            raise KeyboardInterrupt from error  # some libraries turn it into an error of their own
        raise
    finally:
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)
