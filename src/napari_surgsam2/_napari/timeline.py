"""The plot under the viewer: each object's confidence over the frames, and the memories looked at."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QSize, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget
from superqt import QElidingLabel

from napari_surgsam2.errors import UsageError

from .doubt import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import Event, MouseEvent
    from matplotlib.lines import Line2D
    from qtpy.QtGui import QShowEvent

Color = tuple[float, float, float]

_CURVES_EVERY = 0.125  # seconds between two redraws of the curves
_CURSOR_EVERY = 0.03  # seconds between two redraws of the current frame's line and memories only
_REACH = 2  # pixels around a click in which a doubtful frame is taken for the one that was meant
_LISTED = 8  # memories of a kind that are written out

# In pixels of the canvas.
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 6, 17
_STRIP, _GAP = 20, 3
_PADDING = 6  # of the text above it
_TRIANGLE = 5

_ROWS = (0.25, 0.75)  # of the memories left out and looked at, in the strip below

_DPI = 96
_SMALL = 7  # points
_CONTRAST = 2.2  # of a curve and what is behind it


class ConfidenceTimeline(QWidget):
    """One thin curve of confidence for each object, the current frame, and which memories it looked at.

    Prompted frames carry a triangle at the bottom, an empty one where they guide no other frame; frames
    without a mask have a dotted line. It shows what it is told and asks by a signal; it knows neither tracker
    nor layers.

    Parameters
    ----------
    parent : QWidget, optional
        The Qt parent.
    """

    frame_chosen = Signal(int)  # clicked or dragged to; the current frame changes by `set_current` only

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        # here, since it takes a second and the rest of the plugin runs without it
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
        from matplotlib.figure import Figure

        self._n_frames = 0
        self._current = 0
        self._threshold: float | None = None
        self._visible: frozenset[int] | None = None
        self._curves: dict[int, _Curve] = {}
        self._memory: tuple[tuple[int, ...], ...] = ((), (), ())
        self._background, self._foreground = "#262930", "#f0f1f2"
        self._dragged_to: int | None = None
        self._any_doubted = False
        # what is under the curves, and what is under the current frame's line, as pixels
        self._under_curves: Any = None
        self._under_cursor: Any = None

        self.figure = Figure(dpi=_DPI)
        self.canvas = FigureCanvasQTAgg(self.figure)  # type: ignore[no-untyped-call]
        self._plot = self.figure.add_axes((0.1, 0.4, 0.8, 0.5))
        self._strip = self.figure.add_axes((0.1, 0.2, 0.8, 0.2), sharex=self._plot)
        self._make_artists()
        self._style_axes()

        self._header = QElidingLabel(self)
        self._header.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._header.setEllipsesWidth(2 * _PADDING)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._header)
        layout.addWidget(self.canvas, 1)
        self.setMinimumHeight(110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

        self._curves_soon = _Throttle(self, _CURVES_EVERY, self._draw_curves)
        self._cursor_soon = _Throttle(self, _CURSOR_EVERY, self._draw_cursor)
        self.canvas.mpl_connect("draw_event", self._on_draw)
        self.canvas.mpl_connect("resize_event", self._on_resize)
        self.canvas.mpl_connect("button_press_event", self._on_press)
        self.canvas.mpl_connect("motion_notify_event", self._on_move)
        self.canvas.mpl_connect("button_release_event", self._on_release)
        self.set_colors(self._background, self._foreground)
        self._write_header()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the size that suits a dock under the viewer."""
        return QSize(600, 130)

    def set_frames(self, n_frames: int) -> None:
        """Take a video of another length; objects and memories are forgotten where the length changes.

        Parameters
        ----------
        n_frames : int
            Length of the video; 0 for none.
        """
        if n_frames < 0:
            raise UsageError(f"`n_frames` ({n_frames}) must not be negative; give the video's length")
        if n_frames != self._n_frames:
            self._n_frames = n_frames
            self._plot.set_xlim(-0.5, max(n_frames, 1) - 0.5)
            self.clear()

    def set_object(
        self,
        object_id: int,
        color: Color,
        confidence: npt.NDArray[np.float32],
        prompted: Sequence[int],
        absent: npt.NDArray[np.bool_] | None = None,
        doubted: Iterable[int] = (),
    ) -> None:
        """Show an object, or what is new of it; cheap enough for every tracked frame.

        Parameters
        ----------
        object_id : int
            Whose curve it is.
        color : tuple of float
            Red, green and blue, 0 to 1; made lighter or darker where the background would swallow it.
        confidence : array, shape (T,), float32
            By frame, 0 to 1; nan where it was not tracked. Copied.
        prompted : sequence of int
            Frames with prompts.
        absent : array, shape (T,), bool, optional
            Frames in which it has no mask.
        doubted : iterable of int, optional
            Those of the prompted frames that guide no other frame.
        """
        for name, array in (("confidence", confidence), ("absent", absent)):
            if array is not None and array.shape != (self._n_frames,):
                raise UsageError(
                    f"`{name}` has shape {array.shape} and must have one value for each of the"
                    f" {self._n_frames} frames; call `set_frames` first"
                )
        if object_id not in self._curves:
            self._curves[object_id] = _Curve(self._plot)
        curve = self._curves[object_id]
        curve.color = color
        curve.confidence = np.array(confidence, dtype=np.float32)
        curve.absent = None if absent is None else np.array(absent, dtype=bool)
        curve.prompted = tuple(prompted)
        curve.doubted = frozenset(doubted)
        curve.columns = 0
        self._paint_curve(curve)
        self._note_doubted()
        self._redraw_curves()

    def remove_object(self, object_id: int) -> None:
        """Take an object away; one that is not there is no error."""
        curve = self._curves.pop(object_id, None)
        if curve is not None:
            curve.remove()
            self._note_doubted()
            self._redraw_curves()

    def clear(self) -> None:
        """Take all objects and memories away."""
        for curve in self._curves.values():
            curve.remove()
        self._curves.clear()
        self._note_doubted()
        self.set_memory((), (), ())
        self._redraw_all()

    def _note_doubted(self) -> None:
        """Explain empty triangles as long as there are any."""
        doubted = any(curve.doubted for curve in self._curves.values())
        if doubted != self._any_doubted:
            self._any_doubted = doubted
            self._write_header()

    def set_current(self, frame: int) -> None:
        """Move the line of the current frame; emits nothing."""
        if frame != self._current:
            self._current = frame
            self._redraw_cursor()

    def set_memory(self, conditioning: Sequence[int], kept: Sequence[int], pruned: Sequence[int]) -> None:
        """Show which frames the memory attention looked at, for the frame and object in view.

        Parameters
        ----------
        conditioning : sequence of int
            Prompted frames.
        kept : sequence of int
            Tracked frames that were looked at.
        pruned : sequence of int
            Tracked frames that were left out.
        """
        memory = tuple(tuple(sorted(frames)) for frames in (conditioning, kept, pruned))
        if memory != self._memory:
            self._memory = memory
            self._write_header()
            self._redraw_cursor()

    def set_visible_objects(self, ids: Iterable[int] | None) -> None:
        """Show the curves of some objects only; of all if None."""
        self._visible = None if ids is None else frozenset(ids)
        self._redraw_curves()

    def set_threshold(self, value: float) -> None:
        """Draw a dashed line at the confidence below which a frame is doubtful, 0 to 1."""
        if not 0 <= value <= 1:
            raise UsageError(f"`value` ({value}) must be a confidence; give one from 0 to 1")
        self._threshold = value
        self._doubt.set_ydata([value, value])
        self._doubt.set_visible(True)
        self._write_header()
        self._redraw_all()

    def set_colors(self, background: str, foreground: str) -> None:
        """Follow the host's theme.

        Parameters
        ----------
        background : str
            "#rrggbb".
        foreground : str
            "#rrggbb", of text, axes and marks.
        """
        from matplotlib.colors import to_hex

        self._background, self._foreground = to_hex(background), to_hex(foreground)
        self._header.setStyleSheet(
            f"color: {self._foreground}; background: {self._background};"
            f" font-size: 11px; padding: 2px {_PADDING}px 0 {_PADDING}px;"
        )
        self.figure.set_facecolor(self._background)
        for axes in (self._plot, self._strip):
            axes.set_facecolor(self._background)
            axes.tick_params(colors=self._foreground)
            axes.yaxis.label.set_color(self._foreground)
            for spine in axes.spines.values():
                spine.set_color(self._foreground)
        self._strip.grid(axis="y", color=self._foreground, alpha=0.25, linewidth=0.6)
        for line in (self._doubt, *self._cursors, *self._memories):
            line.set_color(self._foreground)
        for curve in self._curves.values():
            self._paint_curve(curve)
        self._redraw_all()

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802
        """Draw what came while nobody looked."""
        super().showEvent(event)
        self._redraw_all()

    # ---- what is drawn, from the back to the front

    def _make_artists(self) -> None:
        """Make everything but the curves; what moves is animated, hence left out of the full drawing."""
        self._doubt = self._plot.axhline(0.5, linestyle=(0, (5, 4)), linewidth=0.9, alpha=0.6, visible=False)
        self._triangles = self._plot.scatter(
            [],
            [],
            s=(_TRIANGLE * 72 / _DPI * 1.2) ** 2,
            marker="^",
            linewidths=0.8,
            clip_on=False,
            transform=self._plot.get_xaxis_transform(),
            animated=True,
        )
        self._cursors = [
            axes.axvline(0, linewidth=1.2, alpha=0.85, animated=True) for axes in (self._plot, self._strip)
        ]
        self._memories = [
            self._strip.plot([], [], marker, markersize=4, clip_on=False, animated=True, linestyle="none")[0]
            for marker in ("D", "o", "x")
        ]

    def _style_axes(self) -> None:
        """Set what no theme changes; nothing is left to the user's own matplotlib settings."""
        from matplotlib.ticker import MaxNLocator

        for axes in (self._plot, self._strip):
            axes.grid(False)
            axes.tick_params(labelsize=_SMALL, length=2, width=0.6, pad=2)
            for side, spine in axes.spines.items():
                spine.set_visible(side in ("left", "bottom"))
                spine.set_linewidth(0.6)
        self._plot.set_xlim(-0.5, 0.5)
        self._plot.set_ylim(-0.12, 1.06)
        self._plot.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        self._plot.set_ylabel("confidence", fontsize=_SMALL, labelpad=2)
        self._plot.tick_params(axis="x", length=0, labelbottom=False)
        self._strip.set_ylim(0, 1)
        self._strip.set_yticks(_ROWS, ["pruned", "memory"])
        self._strip.tick_params(axis="y", length=0, pad=5)
        self._strip.spines["left"].set_visible(False)
        self._strip.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
        self._strip.xaxis.set_major_formatter("{x:.0f}")

    def _place_axes(self) -> None:
        """Keep the margins the same in pixels, whatever the size."""
        width, height = max(self.canvas.width(), 1), max(self.canvas.height(), 1)
        inner = max(width - _LEFT - _RIGHT, 1) / width
        low = _BOTTOM + _STRIP + _GAP
        self._strip.set_position((_LEFT / width, _BOTTOM / height, inner, _STRIP / height))
        self._plot.set_position((_LEFT / width, low / height, inner, max(height - low - _TOP, 1) / height))

    def _redraw_all(self) -> None:
        if self.isVisible():
            self.canvas.draw_idle()  # type: ignore[no-untyped-call]

    def _redraw_curves(self) -> None:
        if self.isVisible():
            self._curves_soon.request()

    def _redraw_cursor(self) -> None:
        if self.isVisible():
            self._cursor_soon.request()

    def _on_resize(self, _event: Event) -> None:
        self._under_curves = self._under_cursor = None
        self._place_axes()
        self._write_header()

    def _on_draw(self, _event: Event) -> None:
        """Keep what has just been drawn, which is all that stands still, and draw the rest over it."""
        self._under_curves = self.canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[no-untyped-call]
        self._draw_curves()

    def _draw_curves(self) -> None:
        if self._under_curves is None:
            return  # a full drawing is on its way
        self.canvas.restore_region(self._under_curves)  # type: ignore[no-untyped-call]
        for curve in self._shown():
            curve.fit(max(int(self._plot.bbox.width), 1))
            for line in curve.lines:
                self._plot.draw_artist(line)
        self._place_triangles()
        self._plot.draw_artist(self._triangles)
        self._under_cursor = self.canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[no-untyped-call]
        self._draw_cursor()

    def _draw_cursor(self) -> None:
        if self._under_cursor is None:
            return
        self.canvas.restore_region(self._under_cursor)  # type: ignore[no-untyped-call]
        if 0 <= self._current < self._n_frames:
            for axes, line in zip((self._plot, self._strip), self._cursors, strict=True):
                line.set_xdata([self._current, self._current])
                axes.draw_artist(line)
        for line, frames, y in zip(self._memories, self._memory, (_ROWS[1], _ROWS[1], _ROWS[0]), strict=True):
            inside = self._inside(frames)
            line.set_data(inside, [y] * len(inside))
            self._strip.draw_artist(line)
        self.canvas.update()

    def _place_triangles(self) -> None:
        """Put one for each object and prompted frame, those of a frame upon one another."""
        height = _TRIANGLE * self.canvas.device_pixel_ratio / self._plot.bbox.height
        places, fills, edges, used = [], [], [], Counter[int]()
        for curve in self._shown():
            for frame in self._inside(curve.prompted):
                places.append((frame, (used[frame] + 0.5) * height))
                edges.append(curve.lines[0].get_color())
                fills.append("none" if frame in curve.doubted else edges[-1])
                used[frame] += 1
        self._triangles.set_offsets(np.array(places, dtype=float).reshape(-1, 2))
        self._triangles.set_facecolors(fills)  # type: ignore[attr-defined]
        self._triangles.set_edgecolors(edges)  # type: ignore[attr-defined]

    def _paint_curve(self, curve: _Curve) -> None:
        color = readable_color(curve.color, self._background, self._foreground)
        for line in curve.lines:
            line.set_color(color)

    def _write_header(self) -> None:
        """Say what the marks mean, and which memories they are; the former only where there is room."""
        kinds = zip(("◆ conditioning", "● kept", "✕ pruned"), self._memory, strict=True)
        memory = "memory:   " + "   ".join(f"{kind} {_listed(frames)}".rstrip() for kind, frames in kinds)
        doubted = f"   {MARK} guides no other frame" if self._any_doubted else ""
        marks = f"▲ prompted{doubted}   ··· absent"
        if self._threshold is not None:
            marks += f"   – – doubtful below {self._threshold:g}"
        both = f"{marks}   │   {memory}"
        room = self._header.width() - 4 * _PADDING
        self._header.setText(both if self._header.fontMetrics().horizontalAdvance(both) <= room else memory)
        self._header.setToolTip(
            "Curves: how sure the model is of each object. Click or drag to go to a frame.\n"
            f"{marks}\n"
            "Marks below: the frames that the memory attention looked at for the frame in view.\n"
            f"{memory}"
        )

    def _shown(self) -> list[_Curve]:
        ids = sorted(self._curves) if self._visible is None else sorted(self._visible & self._curves.keys())
        return [self._curves[i] for i in ids]

    def _inside(self, frames: Iterable[int]) -> list[int]:
        return [f for f in frames if 0 <= f < self._n_frames]

    # ---- the mouse

    def _on_press(self, event: Event) -> None:
        if event.button == 1 and self._n_frames:  # type: ignore[attr-defined]
            self._dragged_to = None
            self._choose(self._doubtful_near(event))  # type: ignore[arg-type]

    def _on_move(self, event: Event) -> None:
        if self._dragged_to is not None:
            self._choose(self._frame_at(event.x))  # type: ignore[attr-defined]

    def _on_release(self, event: Event) -> None:
        if event.button == 1:  # type: ignore[attr-defined]
            self._dragged_to = None

    def _choose(self, frame: int) -> None:
        if frame != self._dragged_to:
            self._dragged_to = frame
            self.frame_chosen.emit(frame)

    def _frame_at(self, x: float) -> int:
        """Return the frame at a position of the figure, in its pixels; the nearest one in the margins."""
        box = self._plot.bbox
        frame = int(np.floor((x - box.x0) / box.width * self._n_frames))
        return min(max(frame, 0), self._n_frames - 1)

    def _doubtful_near(self, event: MouseEvent) -> int:
        """Return the frame clicked at; where a pixel is many frames, the most doubtful one about there."""
        frame = self._frame_at(event.x)
        if self._threshold is None or self._n_frames <= self._plot.bbox.width:
            return frame
        start, stop = self._frame_at(event.x - _REACH), self._frame_at(event.x + _REACH) + 1
        values = [curve.confidence[start:stop] for curve in self._shown()]
        lowest = np.fmin.reduce([np.full(stop - start, np.inf, dtype=np.float32), *values])
        return start + int(lowest.argmin()) if lowest.min() < self._threshold else frame


class _Curve:
    """One object's values and the two lines that show them: solid, and dotted where it is absent.

    Parameters
    ----------
    axes : Axes
        Where it is drawn.
    """

    def __init__(self, axes: Axes) -> None:
        self.color: Color = (0.0, 0.0, 0.0)
        self.confidence: npt.NDArray[np.float32] = np.empty(0, np.float32)
        self.absent: npt.NDArray[np.bool_] | None = None
        self.prompted: tuple[int, ...] = ()
        self.doubted: frozenset[int] = frozenset()
        self.columns = 0  # pixel columns that the lines are made for; 0 if they are not made
        self.lines: list[Line2D] = [
            axes.plot([], [], linewidth=1.1, marker="o", markersize=2.5, animated=True)[0],
            axes.plot([], [], linewidth=1.1, marker=".", markersize=2, linestyle=":", animated=True)[0],
        ]

    def remove(self) -> None:
        """Take the lines out of the plot."""
        for line in self.lines:
            line.remove()

    def fit(self, columns: int) -> None:
        """Make the lines for a width in pixels, unless they are."""
        if columns == self.columns:
            return
        self.columns = columns
        absent = np.zeros(self.confidence.shape, bool) if self.absent is None else self.absent
        reduced = column_minima(self.confidence, absent, columns)
        beside = _shifted(reduced.absent, 1) | _shifted(reduced.absent, -1)
        solid = np.where(reduced.absent, np.nan, reduced.lowest)
        dotted = np.where(reduced.absent | beside, reduced.lowest, np.nan)
        for line, values in zip(self.lines, (solid, dotted), strict=True):
            line.set_data(reduced.frames, values)
            known = ~np.isnan(values)
            # a line needs two points: one without neighbours becomes a dot
            line.set_markevery(np.flatnonzero(known & ~_shifted(known, 1) & ~_shifted(known, -1)))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class ColumnMinima:
    """A curve with no more points than there are pixel columns.

    Attributes
    ----------
    frames : array, shape (C,), float64
        The middle of each column.
    lowest : array, shape (C,), float32
        The smallest confidence of the column's frames; nan where none was tracked.
    absent : array, shape (C,), bool
        Where the object is absent from all tracked frames of the column.
    """

    frames: npt.NDArray[np.float64]
    lowest: npt.NDArray[np.float32]
    absent: npt.NDArray[np.bool_]


def column_minima(
    confidence: npt.NDArray[np.float32], absent: npt.NDArray[np.bool_], columns: int
) -> ColumnMinima:
    """Reduce a curve to the smallest value of each pixel column, so that no doubtful frame is lost.

    Parameters
    ----------
    confidence : array, shape (T,), float32
        By frame; nan where not tracked.
    absent : array, shape (T,), bool
        By frame.
    columns : int
        Pixels in width.

    Returns
    -------
    ColumnMinima
        With min(T, `columns`) columns.
    """
    n = len(confidence)
    columns = min(n, columns)
    if not columns:
        return ColumnMinima(np.empty(0), np.empty(0, np.float32), np.empty(0, bool))
    edges = np.arange(columns + 1) * n // columns
    starts, stops = edges[:-1], edges[1:]
    known = ~np.isnan(confidence)
    any_known = np.logical_or.reduceat(known, starts)
    any_present = np.logical_or.reduceat(known & ~absent, starts)
    return ColumnMinima(
        frames=(starts + stops - 1) / 2,
        lowest=np.fmin.reduceat(confidence, starts),
        absent=any_known & ~any_present,
    )


def readable_color(color: Color, background: str, foreground: str) -> Color:
    """Mix a colour with the foreground's as little as makes it stand out from the background.

    Parameters
    ----------
    color : tuple of float
        Red, green and blue, 0 to 1.
    background : str
        "#rrggbb".
    foreground : str
        "#rrggbb".
    """
    from matplotlib.colors import to_rgb

    behind, text = _luminance(to_rgb(background)), np.array(to_rgb(foreground))
    mixed = np.array(color, dtype=float)
    for share in np.linspace(0, 1, 11):
        mixed = (1 - share) * np.array(color) + share * text
        low, high = sorted((behind, _luminance(mixed)))
        if (high + 0.05) / (low + 0.05) >= _CONTRAST:
            break
    red, green, blue = mixed.tolist()
    return red, green, blue


def _luminance(color: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Return the relative luminance, 0 to 1, of an sRGB colour."""
    rgb = np.asarray(color, dtype=float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _shifted(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """Return a mask moved by one to the right (1) or to the left (-1), False coming in."""
    out = np.zeros_like(mask)
    if by > 0:
        out[1:] = mask[:-1]
    else:
        out[:-1] = mask[1:]
    return out


def _listed(frames: Sequence[int]) -> str:
    """Write frame numbers, the last few if there are many."""
    text = ", ".join(str(f) for f in frames[-_LISTED:])
    return f"…, {text}" if len(frames) > _LISTED else text


class _Throttle(QTimer):
    """Does something soon after it is asked to, but only so often.

    Parameters
    ----------
    parent : QWidget
        The Qt parent.
    every : float
        Seconds from the end of one time to the start of the next, at least.
    act : callable
        What to do.
    """

    def __init__(self, parent: QWidget, every: float, act: Callable[[], None]) -> None:
        super().__init__(parent)
        self._every, self._act, self._ended = every, act, 0.0
        self.setSingleShot(True)
        self.timeout.connect(self._on_timeout)

    def request(self) -> None:
        """Ask for it; asking again before it is done changes nothing."""
        if not self.isActive():
            self.start(max(0, round(1000 * (self._ended + self._every - time.monotonic()))))

    def _on_timeout(self) -> None:
        self._act()
        self._ended = time.monotonic()
