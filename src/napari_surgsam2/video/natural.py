"""Natural order of file names: frame2 before frame10."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key under which runs of digits compare as numbers, and letters without case.

    Examples
    --------
    >>> sorted(["frame10.png", "Frame2.png", "frame1.png"], key=natural_key)
    ['frame1.png', 'Frame2.png', 'frame10.png']
    """
    # Text and digits alternate, text first, so that like is compared with like.
    parts = _DIGITS.split(name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
