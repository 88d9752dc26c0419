"""The help, as people read it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group"]

BETWEEN = "  ·  "  # examples


def make_readable(command: Any, context: Any) -> None:
    """What Typer's help lacks, done when help is asked for.

    The examples that end a docstring go below the options, where a long help leaves the reader, a line each; a switch
    has no `<bool>` behind it; and what is yellow, which cannot be read on white, becomes magenta.
    """
    from typer import rich_utils

    text, _, examples = (command.help or "").rpartition("\n\n")
    if text and examples.startswith("restore "):
        command.help, command.epilog = text, "\n\n".join(examples.split(BETWEEN))
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for name, style in vars(rich_utils).items():
        if name.startswith("STYLE_") and isinstance(style, str):
            setattr(rich_utils, name, style.replace("yellow", "magenta"))


class Command(TyperCommand):
    """A verb whose help is readable."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        make_readable(self, ctx)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """Verbs whose help is readable."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        make_readable(self, ctx)
        super().format_help(ctx, formatter)
