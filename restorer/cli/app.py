"""The command `restore`: where it begins, and what its exit codes mean.

0 done, 1 a bug, 2 usage, 3 some pictures failed, 4 input, 5 model, 6 device or memory, 7 output, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from restorer.cli.commands import bench, compare, doctor, evaluate, generate, models, restore, train
from restorer.cli.terminal.help import Command, Group
from restorer.cli.terminal.signals import Terminated, leave_in_peace, raise_on_signals
from restorer.cli.terminal.streams import NO_ROOM, flush_streams, open_streams
from restorer.errors import OutputError, RestorerError
from restorer.machine.malloc import keep_pages
from restorer.machine.threads import keep_to_quota, wait_briefly

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="restore",
    cls=Group,
    help="Repair photographs with a diffusion model.",
    epilog="restore denoise img.png\n\nrestore inpaint img.png --mask m.png\n\nrestore upscale img.png --steps 100",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
restore.register(app)
train.register(app)
evaluate.register(app)
generate.register(app)
models.register(app)
compare.register(app)
doctor.register(app)
bench.register(app)
for info in (*app.registered_commands, *models.models.registered_commands):
    if info.cls is None or not issubclass(info.cls, Command):
        info.cls = Command
for group in app.registered_groups:
    group.cls = Group


def _version(wanted: bool) -> None:
    if wanted:
        from restorer import __version__

        print(f"restorer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Repair photographs with a diffusion model: denoise, inpaint, upscale."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    from restorer.cli.terminal.reporter import code_of, report_error

    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        if code == 130:  # Typer has taken Ctrl-C for itself
            _say_interrupted()
        return code if isinstance(code, int) else 0
    except RestorerError as error:
        report_error(error)
        return code_of(error)
    except (KeyboardInterrupt, typer.Abort):
        _say_interrupted()
        return 130
    except Terminated:
        return 143
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # Whoever read the output has enough; nothing more can be said there, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own complaints about the command line
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "restore"
            if message := error.format_message():
                report_error(RestorerError(message, f"{path} --help tells the options"))
            elif context is not None:
                print(context.get_help())
            return int(getattr(error, "exit_code", 2))
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            full = OutputError(
                f"the output cannot be written: {error.strerror}", "free some space, or send it elsewhere"
            )
            report_error(full)
            return code_of(full)
        if os.environ.get("RESTORER_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error}"
        report_error(RestorerError(text, "this is a bug; RESTORER_DEBUG=1 shows where it happened"))
        return 1


def _say_interrupted() -> None:
    """On a terminal over the ^C that it shows."""
    print(("\r" if sys.stderr.isatty() else "") + "interrupted", file=sys.stderr)


def main() -> None:
    """The console script."""
    open_streams()
    raise_on_signals()
    keep_to_quota()
    wait_briefly()
    keep_pages()
    code = run()
    leave_in_peace()
    sys.exit(flush_streams(code))
