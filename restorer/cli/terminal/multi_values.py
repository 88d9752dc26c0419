"""Options that take several values: `--sigma 15 25 50`, `--sigma 15,25,50` or `--sigma 15 --sigma 25 --sigma 50`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from restorer.cli.terminal.help import Command

__all__ = ["MultiValueCommand", "is_gaussian", "is_motion", "is_number", "repeat_option_names", "split_values"]


def is_number(text: str) -> bool:
    """Return whether an argument is a finite number, or several with commas between them."""
    try:
        return all(math.isfinite(float(part)) for part in text.split(","))
    except ValueError:
        return False


def is_gaussian(text: str) -> bool:
    """Return whether an argument is a Gaussian blur as `--gaussian` takes it, or several with commas between them."""
    return all(is_number(part.replace("x", ",").replace("@", ",")) for part in text.split(","))


def is_motion(text: str) -> bool:
    """Return whether an argument is a motion as `--motion` takes it, or several with commas between them."""
    return all("@" in part and is_number(part.replace("@", ",")) for part in text.split(","))


def repeat_option_names(arguments: Sequence[str], options: Mapping[str, Callable[[str], bool]]) -> list[str]:
    """Rewrite `--sigma 15 25 50` as `--sigma 15 --sigma 25 --sigma 50`, which the command-line parser accepts.

    Args:
        arguments: The arguments of the command line.
        options: For each option that takes several values, a function that returns whether an argument can be one of
            its values. Any other argument ends the values, so a folder may follow them; a folder whose name is a number
            is written `./25`.
    """
    rewritten, option = list[str](), ""
    for i, argument in enumerate(arguments):
        if argument == "--":
            return [*rewritten, *arguments[i:]]
        if option and options[option](argument):
            rewritten += [argument] if rewritten[-1] == option else [option, argument]
            continue
        option = next((name for name in options if argument == name or argument.startswith(f"{name}=")), "")
        rewritten.append(argument)
    return rewritten


def split_values(arguments: Sequence[str] | None) -> list[str]:
    """Return the values of an option that takes several, without repetitions."""
    return list(dict.fromkeys(part for text in arguments or () for part in text.split(",") if part))


class MultiValueCommand(Command):
    """A command with options that take several values, which a subclass names in `multi_value_options`."""

    multi_value_options: ClassVar[Mapping[str, Callable[[str], bool]]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after `repeat_option_names`."""
        return super().parse_args(ctx, repeat_option_names(args, self.multi_value_options))
