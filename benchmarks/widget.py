"""Measure how the widget feels: click to mask, the longest blocks of the window while tracking, opening.

Run it with a screen, or under Xvfb:

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/widget.py [--frames 60] [--size 1080x1920]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer

from napari_surgsam2.prompts import Point, central_position
from napari_surgsam2.synthetic import make_scene


class Pulse:
    """Notes how long the window was blocked at a time."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._last = 0.0
        self._timer = QTimer()
        self._timer.setInterval(2)
        self._timer.timeout.connect(self._beat)

    def __enter__(self) -> Pulse:
        self.gaps.clear()
        self._last = time.perf_counter()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now

    def said(self) -> str:
        """Return what was noted."""
        gaps = np.array(self.gaps)
        long = int((gaps > 0.1).sum())
        return (
            f"longest {1000 * gaps.max():.0f} ms, 99 % under {1000 * np.percentile(gaps, 99):.0f} ms, "
            f"{long} over 100 ms"
        )


def run_loop(condition: Callable[[], bool]) -> None:
    """Let the window live as in use, until a condition is so."""
    loop, watch = QEventLoop(), QTimer()
    watch.setInterval(5)
    watch.timeout.connect(lambda: loop.quit() if condition() else None)
    watch.start()
    loop.exec()
    watch.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", default="1080x1920")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clicks", type=int, default=10)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    scene = make_scene(3, 60, (270, 480))
    small = [scene.draw(t % 60) for t in range(min(arguments.frames, 60))]
    video = np.empty((arguments.frames, height, width, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 270 // height, np.arange(width) * 480 // width
    for t in range(arguments.frames):
        video[t] = small[t % len(small)][0][rows[:, None], columns]
    labels = small[0][1][rows[:, None], columns]

    viewer = napari.Viewer()
    viewer.add_image(video, name="clip")
    had_torch = "torch" in sys.modules
    began = time.perf_counter()
    _, widget = viewer.window.add_plugin_dock_widget("napari-surgsam2", "Segment a video")
    opened = time.perf_counter() - began
    widget.controls.models.setValue(type(widget.controls.models.value())(arguments.model))
    widget._on_model()
    session = widget.session
    run_loop(lambda: session.model is not None and not session.is_busy)
    ready = time.perf_counter() - began
    print(f"open the widget: {opened:.2f} s, ready to click after {ready:.2f} s (torch before: {had_torch})")

    session.go_to(0)
    run_loop(lambda: not session._rest_timer.isActive() and not session.is_busy)
    ids = [int(i) for i in np.unique(labels) if i]
    times = []
    for n in range(arguments.clicks):
        y, x = central_position(labels == ids[n % len(ids)])
        began = time.perf_counter()
        session.add_prompts([Point(0, y + n % 3, x, 1 + n % len(ids))])
        run_loop(lambda: not session.is_busy)
        times.append(time.perf_counter() - began)
    print(f"click to mask: median {1000 * np.median(times):.0f} ms, longest {1000 * max(times):.0f} ms")

    pulse = Pulse()
    for follow in (False, True):
        session.follow = follow
        ended: list[object] = []
        session.ended.connect(ended.append)
        with pulse:
            widget.controls.track_all.native.click()
            run_loop(lambda ended=ended: bool(ended))
        end = ended[0]
        rate = end.done / end.seconds  # type: ignore[attr-defined]
        print(
            f"track {arguments.frames} frames, follow {follow}: {rate:.1f} frames/s; blocks: {pulse.said()}"
        )
    viewer.close()


if __name__ == "__main__":
    main()
