"""The exceptions that users see.

Every message states the value, the rule and the remedy; the command line prints it as it is, without a
traceback, and leaves with the exception's `exit_code`.
"""

from __future__ import annotations

from typing import ClassVar


class SurgSam2Error(Exception):
    """Something the user can act on went wrong; base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(SurgSam2Error, ValueError):
    """An argument, option or setting has a value that cannot be used."""

    exit_code: ClassVar[int] = 2


class PromptError(UsageError):
    """A point, box or mask cannot be used: outside the video, not a number, only negative, ..."""


class VideoError(SurgSam2Error):
    """A video cannot be opened or a frame of it cannot be read."""


class CheckpointError(SurgSam2Error):
    """A checkpoint is missing, damaged, unsafe to load or of another network."""


class DeviceError(UsageError):
    """The device asked for is not there."""


class DeviceMemoryError(SurgSam2Error):
    """The device ran out of memory."""


class OutputError(SurgSam2Error):
    """An output cannot be written, exists already, or cannot be resumed."""
