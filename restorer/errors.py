"""Exception classes for expected failures, one for each kind of remedy. The command line maps each to an exit code."""

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
    """An expected failure, described by a message and a hint.

    Args:
        message: One line that says what happened and names the file or option concerned.
        hint: One line that says what the user can do about it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(RestorerError, ValueError):
    """An option is missing, is out of range, or cannot be combined with the others."""


class PictureError(RestorerError):
    """A named image or mask is absent, unreadable, unsupported or too large."""


class ModelError(RestorerError):
    """A model is missing, invalid or refused."""


class DeviceError(RestorerError):
    """The requested device is absent or has too little memory."""


class OutputError(RestorerError):
    """The result cannot be written: it exists, is the input itself, its folder is not writable, or the disk is full."""
