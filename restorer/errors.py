"""Exception classes for expected failures, one for each kind of remedy and with an exit code for each."""

from __future__ import annotations

__all__ = [
    "EXIT_CODES",
    "DeviceError",
    "ModelError",
    "OutputError",
    "PictureError",
    "RestorerError",
    "UsageError",
    "exit_code_for",
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
    """The requested device is absent or has too little memory, or the machines of a cluster cannot be used."""


class OutputError(RestorerError):
    """The result cannot be written: it exists, is the input itself, its folder is not writable, or the disk is full."""


EXIT_CODES: dict[type[RestorerError], int] = {
    UsageError: 2,
    PictureError: 4,
    ModelError: 5,
    DeviceError: 6,
    OutputError: 7,
}
"""The exit code of each class of errors."""


def exit_code_for(error: BaseException) -> int:
    """Return the exit code of an error; 1 for an unexpected error."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
