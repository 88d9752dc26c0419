"""Improvements to the help pages that Typer prints."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group"]

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


class Command(TyperCommand):
    """A command with an improved help page."""

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
