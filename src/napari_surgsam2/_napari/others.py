"""What clicks on one object mean for the masks of others in the frame: these leave out what is clicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_surgsam2.prompts import Mask, Point, Prompt

from .drawing import Drawing
from .given import says_where
from .prompts import Key


def others_to_ask(
    differ: Sequence[Key],
    wanted: Mapping[Key, tuple[Prompt, ...]],
    known: Mapping[Key, tuple[Prompt, ...]],
    drawing: Drawing,
    is_users: bool,
) -> list[Key]:
    """Return whose masks are to be made anew, besides those whose prompts differ.

    These are of objects that are clicked or boxed in a frame where another one's clicks differ. What is
    painted stays, and so does what was tracked before the model or the settings changed.

    Parameters
    ----------
    differ : sequence of Key
        Where prompts are others than before.
    wanted, known : mapping of Key to prompts
        As they are now, and as they were before.
    drawing : Drawing
        What is seen.
    is_users : bool
        Whether the user has just changed them, so that the masks that are seen are those of before. A click
        that came then matters only to the mask that it is on.
    """
    found: set[Key] = set()
    for frame, object_id in differ:
        now, before = (_positive(said.get((frame, object_id), ())) for said in (wanted, known))
        if now == before:
            continue
        everybody = not is_users or bool(before - now)
        for other, prompts in wanted.items():
            if other[0] != frame or other in differ or not _depends_on_clicks(other, prompts, drawing):
                continue
            waiting = drawing.waiting_step(other) is not None
            if everybody or waiting or any(_is_mask_at(drawing, other, at) for at in now - before):
                found.add(other)
    return sorted(found)


def clicks_on_others(key: Key, wanted: Mapping[Key, tuple[Prompt, ...]]) -> tuple[Point, ...]:
    """Return the positive clicks on other objects than that of `key` in its frame."""
    frame, object_id = key
    there = (prompts for (t, i), prompts in sorted(wanted.items()) if t == frame and i != object_id)
    return tuple(p for prompts in there for p in prompts if isinstance(p, Point) and p.positive)


def _depends_on_clicks(key: Key, prompts: Sequence[Prompt], drawing: Drawing) -> bool:
    frame, object_id = key
    if drawing.is_painted(key) or all(isinstance(p, Mask) for p in prompts):
        return False
    if key in drawing.on_tracker:
        return True
    # Else a new tracker would make the mask without what was tracked to there, or make none.
    return any(map(says_where, prompts)) and not drawing.records.was_tracked(object_id, frame)


def _positive(prompts: Sequence[Prompt]) -> set[tuple[float, float]]:
    return {(p.y, p.x) for p in prompts if isinstance(p, Point) and p.positive}


def _is_mask_at(drawing: Drawing, key: Key, at: tuple[float, float]) -> bool:
    if drawing.canvas is None:
        return False
    labels = drawing.canvas.frame(key[0])
    y, x = (min(max(round(v), 0), n - 1) for v, n in zip(at, labels.shape, strict=True))
    return bool(labels[y, x] == key[1])
