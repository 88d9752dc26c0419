"""What can go wrong, by whose hands it is mended. The terminal maps each class to an exit code."""

from __future__ import annotations

__all__ = [
    "DeviceError",
    "ModelError",
    "OutputError",
    "PictureError",
    "RestorerError",
    "UsageError",
]


class RestorerError(Exception):
    """An expected failure: one line that says what happened, and a hint that says what to do next.

    Args:
        message: what happened, naming the file or option concerned; one line.
        hint: what the user can do about it; one line, may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(RestorerError, ValueError):
    """An option is missing, out of range, or does not fit the others."""


class PictureError(RestorerError):
    """A named picture or mask is absent, unreadable, unsupported or too large."""


class ModelError(RestorerError):
    """A model is missing, wrong, or refused."""


class DeviceError(RestorerError):
    """The device asked for is absent, or has too little memory."""


class OutputError(RestorerError):
    """The result cannot be written: it exists already, equals the input, or the place is not writable."""
