"""Improvements to the help pages that Typer prints."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group", "expand_home"]

EXAMPLE_SEPARATOR = "  ·  "  # between the examples at the end of a docstring


def make_readable(command: Any, context: Any) -> None:
    """Improve the help page of a command; called whenever the page is printed.

    The examples at the end of the docstring move below the options, one per line, so that they are still on the screen
    after a long page. Switches lose the `<bool>` after their name. Yellow, which is illegible on white, becomes
    magenta.
    """
    from typer import rich_utils

    text, _, examples = (command.help or "").rpartition("\n\n")
    if text and examples.startswith("restore "):
        command.help, command.epilog = text, "\n\n".join(examples.split(EXAMPLE_SEPARATOR))
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for name, style in vars(rich_utils).items():
        if name.startswith("STYLE_") and isinstance(style, str):
            setattr(rich_utils, name, style.replace("yellow", "magenta"))


_HOME = re.compile(r"(--[a-z-]+=|-[A-Za-z]+|)(~[^/\\]*[/\\].*|~)", re.DOTALL)  # an option with its value, or a path
_NO_PATHS = ("--backup=", "--include=", "--exclude=")


def expand_home(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line with the user's folder in place of a leading ~ in paths.

    A shell replaces the ~ of a word that begins with it, but not that of --output=~/out/ or -o~/out/, nor a quoted one.
    Without this function, such an argument would name a folder called "~". A word that is an existing path stays as it
    is, and so does a lone ~, which may be the end of a name.
    """
    return [_expand(argument) for argument in arguments]


def _expand(argument: str) -> str:
    match = _HOME.fullmatch(argument)
    if match is None or match[1] in _NO_PATHS or argument == "~" or os.path.lexists(argument):
        return argument
    return match[1] + os.path.expanduser(match[2])  # noqa: PTH111  (the slash at the end of a folder must stay)


class Command(TyperCommand):
    """A command with an improved help page, whose arguments may begin with ~."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after `expand_home`."""
        return super().parse_args(ctx, expand_home(args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page after `make_readable`."""
        make_readable(self, ctx)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group of commands with an improved help page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page after `make_readable`."""
        make_readable(self, ctx)
        super().format_help(ctx, formatter)
