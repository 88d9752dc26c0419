"""The declaration of an option: one field of a dataclass, with what the command line shows of it.

A verb has one dataclass of options: `restorer.tasks.options` holds what concerns a picture, `restorer.folders.options`
what concerns a run over files. A field gives the name, the type and the default of an option, and an `Option` in its
metadata the rest. The command line, the functions of Python, the record of a result and the fingerprint of a run are
made from these fields.

Example:
    @dataclass(frozen=True, kw_only=True)
    class SharpenOptions(SamplingOptions):
        radius: float = option(1.5, "Radius in pixels", "PX", SAMPLING)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from restorer.errors import UsageError
from restorer.limits import real_number, whole_number

__all__ = [
    "BLUR",
    "DEVICE",
    "INPUT",
    "INTERFACE",
    "OUTPUT",
    "REPAIRS",
    "SAMPLING",
    "Declared",
    "Option",
    "declared",
    "option",
    "taken",
    "withheld",
]

# The panels of the help.
BLUR, REPAIRS = "Blur", "Repairs"
INPUT, OUTPUT, SAMPLING, DEVICE, INTERFACE = "Input", "Output", "Sampling", "Model and device", "Interface"

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What is declared of an option beside its name, its type and its default.

    Args:
        help: What the help says about it.
        metavar: What the help calls its value; None for a switch.
        panel: The panel of the help that lists it; None for the first one.
        short: A second, short name, such as "-o".
        shown_default: Whether the help shows the default, or a text that it shows instead.
        unset: The text that stands for None, such as "auto".
        read: Returns the value that a text on the command line stands for; None to leave that to the type.
        take: Returns the value that a Python program passes, checked; None to leave that to the type.
        result: Returns what the fingerprint of a run holds of a value that is not the default, if results depend on
            it. Only the options of a run need it: those of a task are always part of the fingerprint.
        is_hidden: Whether the help leaves it out.
    """

    help: str
    metavar: str | None = None
    panel: str | None = None
    short: str | None = None
    shown_default: bool | str = True
    unset: str | None = None
    read: Callable[[str], Any] | None = None
    take: Callable[[Any], Any] | None = None
    result: Callable[[Any], Any] | None = None
    is_hidden: bool = False

    def field(self, default: Any) -> Any:
        """Return the field of a dataclass that declares this option; see `option`."""
        return field(default=default, metadata={"option": self})


def option(default: Any, help: str, metavar: str | None = None, panel: str | None = None, **more: Any) -> Any:
    """Declare an option as a field of a dataclass.

    Args:
        default: The default; `dataclasses.MISSING` for an option that has to be given.
        help: As in `Option`, like all other arguments.
        metavar: As in `Option`.
        panel: As in `Option`.
        more: The other arguments of `Option`.
    """
    return Option(help, metavar, panel, **more).field(default)


def withheld(value: Any) -> Any:
    """Declare that a verb does not have an option of a dataclass that it inherits, and which value stands for it."""
    return field(default=value, init=False)


@dataclass(frozen=True)
class Declared:
    """An option as a dataclass declares it.

    Args:
        name: The name of its field.
        kinds: The types of its values; that of None if it may be left out.
        default: Its default; `dataclasses.MISSING` if it has to be given.
        option: The rest of the declaration.
    """

    name: str
    kinds: frozenset[type]
    default: Any
    option: Option

    def read(self, text: Any) -> Any:
        """Return the value that the command line stands for, after Typer has converted it.

        Raises:
            UsageError: The text stands for no value.
        """
        if isinstance(text, list):
            return tuple(text)
        if text is None or text == self.option.unset:
            return None
        return text if self.option.read is None else self.option.read(text)

    def take(self, value: Any) -> Any:
        """Return the value that a Python program passes.

        Raises:
            UsageError: The value is of the wrong type, or stands for nothing.
        """
        if bool in self.kinds:
            if not isinstance(value, bool):
                raise UsageError(f"{self.name} must be True or False, not {value!r}")
            return value
        if tuple in self.kinds:  # of texts
            return (value,) if isinstance(value, str) else tuple(value)
        if (value is None and NoneType in self.kinds) or (isinstance(value, str) and value == self.option.unset):
            return None
        if self.option.take is not None:
            return self.option.take(value)
        numbers = self.kinds & {int, float}
        if isinstance(value, tuple(self.kinds - numbers - {NoneType})):
            return value
        if numbers:
            return whole_number(self.name, value) if int in numbers else real_number(self.name, value)
        if not isinstance(value, (str, os.PathLike)):
            raise UsageError(f"{self.name} must be a text, not {type(value).__name__}")
        if self.option.read is not None:
            return self.option.read(os.fspath(value))
        return Path(value) if Path in self.kinds else os.fspath(value)


def _kinds(hint: Any) -> frozenset[type]:
    """Return the types of which a type hint is the union."""
    parts = (hint,) if get_origin(hint) is tuple or not get_args(hint) else get_args(hint)
    return frozenset(get_origin(part) or part for part in parts)


def declared(kind: type) -> Mapping[str, Declared]:
    """Return the options that a dataclass declares, by name, in the order of its fields."""
    hints = get_type_hints(kind)
    return {
        each.name: Declared(each.name, _kinds(hints[each.name]), each.default, each.metadata["option"])
        for each in fields(kind)
        if each.init and "option" in each.metadata
    }


def taken(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the options that a Python program passes.

    Args:
        kind: The dataclass that declares them.
        values: The values by name, among others. What is missing has its default.

    Raises:
        UsageError: A value is of the wrong type.
    """
    return kind(**{name: each.take(values[name]) for name, each in declared(kind).items() if name in values})
