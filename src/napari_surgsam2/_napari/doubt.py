"""What users are told of prompted frames that no other frame looks at."""

from __future__ import annotations

from collections.abc import Sequence

MARK = "△"
_LISTED = 8  # frames that are written out


def said_of_doubt(name: str, frames: Sequence[int]) -> str:
    """Say which prompted frames of an object do not guide others, why, and what can be done.

    Parameters
    ----------
    name : str
        What the object is called.
    frames : sequence of int
        The frames, at least one.
    """
    many = len(frames) > 1
    which = f"Frames {_listed(frames)} do not guide" if many else f"Frame {frames[0]} does not guide"
    masks = "its masks there are" if many else "its mask there is"
    return (
        f"{which} the tracking of {name}: {masks} expected to fit much worse than its best one. Click more "
        "there, or paint it and press 'Use painted', which always counts."
    )


def _listed(frames: Sequence[int]) -> str:
    """Write frame numbers, the first few if there are many."""
    shown = [str(frame) for frame in frames[:_LISTED]]
    more = len(frames) - len(shown)
    last = f"{more} more" if more else shown.pop()
    return f"{', '.join(shown)} and {last}"
