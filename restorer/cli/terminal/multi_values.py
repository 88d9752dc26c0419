"""Options that take several values: `--sigma 15 25 50`, `--sigma 15,25,50` or `--sigma 15 --sigma 25 --sigma 50`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from restorer.cli.terminal.help import Command

__all__ = ["SeveralValues", "is_number", "spread", "words"]


def is_number(text: str) -> bool:
    """Whether a word of the command line is a number, or several with commas between them."""
    try:
        return all(math.isfinite(float(part)) for part in text.split(","))
    except ValueError:
        return False


def spread(arguments: Sequence[str], options: Mapping[str, Callable[[str], bool]]) -> list[str]:
    """`--sigma 15 25 50` as `--sigma 15 --sigma 25 --sigma 50`, which is what the parser of the command line takes.

    Args:
        arguments: the command line.
        options: names of options, and whether a word can be a value of theirs. What cannot be one ends the values, so a
            folder may follow; one whose name is a number is written `./25`.
    """
    found, option = list[str](), ""
    for i, word in enumerate(arguments):
        if word == "--":
            return [*found, *arguments[i:]]
        if option and options[option](word):
            found += [word] if found[-1] == option else [option, word]
            continue
        option = next((name for name in options if word == name or word.startswith(f"{name}=")), "")
        found.append(word)
    return found


def words(given: Sequence[str] | None) -> list[str]:
    """The values of such an option, each once."""
    return list(dict.fromkeys(part for text in given or () for part in text.split(",") if part))


class SeveralValues(Command):
    """A command with such options; a subclass names them."""

    several: ClassVar[Mapping[str, Callable[[str], bool]]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `spread`."""
        return super().parse_args(ctx, spread(args, self.several))
