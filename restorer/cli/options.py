"""The options of the commands: parameters for Typer, made from the fields that declare them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from types import NoneType
from typing import Annotated, Any, TypeVar

import typer

from restorer.folders.extras import check_extras
from restorer.folders.options import Options, check_options, own_names
from restorer.tasks.option import DEVICE, INPUT, INTERFACE, OUTPUT, SAMPLING, Declared, declared

__all__ = ["DEVICE", "INPUT", "INTERFACE", "OUTPUT", "SAMPLING", "command_of", "parse", "read", "shared"]

PANELS = (None, OUTPUT, INPUT, SAMPLING, DEVICE, INTERFACE)
"""The panels of the help in their order, after those of the verb itself."""

SHARED = declared(Options)
"""The options of a run over files, which all restoring verbs have."""

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=Options)


def shared(name: str) -> Any:
    """Declare an option of the restoring verbs as a field of the dataclass of another command."""
    return SHARED[name].option.field(SHARED[name].default)


def _shown(name: str) -> Any:
    """Return what Typer is told about an option that all verbs share."""
    return _told(SHARED[name])


def _told(each: Declared) -> Any:
    """Return what Typer is told about an option beside its type and its default."""
    option, name = each.option, f"--{each.name.replace('_', '-')}"
    return typer.Option(
        *([] if option.short is None else [option.short]),
        name,
        metavar=option.metavar,
        help=option.help,
        show_default=option.shown_default,
        rich_help_panel=option.panel,
        hidden=option.is_hidden,
    )


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Pictures to restore: files, folders (with -r), glob patterns, or - for standard input",
    ),
]
# What other commands have too.
Detail = Annotated[float | None, _shown("detail")]
Device = Annotated[str, _shown("device")]
Json = Annotated[bool, _shown("json")]
JsonReport = Annotated[
    bool, typer.Option("--json", help="Print JSON to standard output, for scripts", rich_help_panel=INTERFACE)
]
MaxPixels = Annotated[int, _shown("max_pixels")]
Method = Annotated[str, _shown("method")]
Model = Annotated[str, _shown("model")]
Output = Annotated[str | None, _shown("output")]
Overwrite = Annotated[bool, _shown("overwrite")]
Precision = Annotated[str, _shown("precision")]
Quiet = Annotated[bool, _shown("quiet")]
Seed = Annotated[int, _shown("seed")]
SkipExisting = Annotated[bool, _shown("skip_existing")]
Steps = Annotated[int | None, _shown("steps")]
Tile = Annotated[str, _shown("tile")]
Verbose = Annotated[bool, _shown("verbose")]


def _parameter(each: Declared) -> inspect.Parameter:
    """Return an option as a parameter of a function that Typer makes a command of."""
    default = list(each.default) if isinstance(each.default, tuple) else each.default
    if default is None:
        default = each.option.unset
    elif each.option.read is not None and not isinstance(default, str) and default is not MISSING:
        default = f"{default:g}"
    kind: Any = str
    if each.option.read is None and str not in each.kinds:
        (kind,) = each.kinds - {NoneType}
        kind = list[str] if kind is tuple else kind
    told: Any = Annotated[kind if default is not None else kind | None, _told(each)]  # type: ignore[valid-type]
    given = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=given, annotation=told)


def command_of(kind: type[T], run: Callable[[T], None], make: Callable[..., T]) -> Callable[..., None]:
    """Return a command as a function that Typer makes a command of.

    Its parameters are the inputs, if there are any, and the options that a dataclass declares: first those that it
    declares itself, then those of the run over files that it inherits, by panel.

    Args:
        kind: The dataclass.
        run: Does what the options say. Its docstring is the text of the help.
        make: Returns the options from the dataclass and from what Typer passes by name, as `read` and `parse` do.
    """
    own, options = own_names(kind), declared(kind)
    others = sorted((n for n in options if n not in own), key=lambda name: PANELS.index(options[name].option.panel))
    parameters = [_parameter(options[name]) for name in (*(name for name in own if name in options), *others)]
    if issubclass(kind, Options):
        inputs = inspect.Parameter("inputs", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Inputs)
        parameters.insert(0, inputs)

    def command(**values: Any) -> None:
        run(make(kind, **values))

    command.__doc__ = run.__doc__
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def read(kind: type[T], **values: Any) -> T:
    """Return the options of a command line as one value.

    Args:
        kind: The dataclass that declares them.
        values: The options by name, as Typer passes them. What is missing has its default.

    Raises:
        UsageError: A text stands for no value.
    """
    known = declared(kind)
    return kind(**{name: known[name].read(value) if name in known else value for name, value in values.items()})


def parse(kind: type[OptionsT], **values: Any) -> OptionsT:
    """Return the options of a run over files as `read` does, checked.

    Raises:
        UsageError: A value is out of range, or two options cannot be combined.
    """
    options = read(kind, **values)
    check_options(options)
    check_extras(options)
    return options
