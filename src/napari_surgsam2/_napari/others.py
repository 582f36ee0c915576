"""What clicks on one object mean for the masks of others in the frame: these leave out what is clicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_surgsam2.prompts import Mask, Point, Prompt

from .drawing import Drawing
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
    painted stays.

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
            if other[0] != frame or other in differ or all(isinstance(p, Mask) for p in prompts):
                continue
            if everybody or any(_is_mask_at(drawing, other, at) for at in now - before):
                found.add(other)
    return sorted(key for key in found if not drawing.is_painted(key))


def _positive(prompts: Sequence[Prompt]) -> set[tuple[float, float]]:
    return {(p.y, p.x) for p in prompts if isinstance(p, Point) and p.positive}


def _is_mask_at(drawing: Drawing, key: Key, at: tuple[float, float]) -> bool:
    if drawing.canvas is None:
        return False
    labels = drawing.canvas.frame(key[0])
    y, x = (min(max(round(v), 0), n - 1) for v, n in zip(at, labels.shape, strict=True))
    return bool(labels[y, x] == key[1])
