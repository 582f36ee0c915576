"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ~ as the home folder; where there is no such user, it is part of the name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
