"""The command `restore`: its entry point and its exit codes.

The exit codes are 0 for success, 1 for a bug, 2 for a usage error, 3 if some pictures failed, 4 for an input that is
missing or unreadable, 5 for a problem with the model, 6 for the device or the memory, 7 for the output, 130 if the user
interrupts the run, and 143 if the run is terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from restorer.cli.commands import (
    bench,
    compare,
    doctor,
    evaluate,
    generate,
    manifest,
    mask,
    models,
    restore,
    train,
)
from restorer.cli.terminal.help import Command, Group
from restorer.cli.terminal.signals import Terminated, ignore_signals, raise_on_signals
from restorer.cli.terminal.streams import DISK_FULL_ERRORS, flush_streams, open_streams, print_over_mark
from restorer.errors import OutputError, RestorerError
from restorer.machine.home import ensure_home
from restorer.machine.malloc import keep_pages
from restorer.machine.threads import keep_to_quota, shorten_spin_wait

__all__ = ["app", "main", "run"]

INTERRUPTED = "interrupted"

app = typer.Typer(
    name="restore",
    cls=Group,
    help="Repair photographs with a diffusion model.\n\nRun restore COMMAND --help for the options of a command.",
    epilog="restore denoise img.png\n\nrestore inpaint img.png --mask m.png\n\nrestore upscale img.png --steps 100",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
restore.register(app)
mask.register(app)
train.register(app)
evaluate.register(app)
generate.register(app)
models.register(app)
manifest.register(app)
compare.register(app)
doctor.register(app)
bench.register(app)
for info in (*app.registered_commands, *models.models.registered_commands, *manifest.manifest.registered_commands):
    if info.cls is None or not issubclass(info.cls, Command):
        info.cls = Command
for group in app.registered_groups:
    group.cls = Group


def _print_version(requested: bool) -> None:
    if requested:
        from restorer import __version__

        print(f"restorer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Repair photographs with a diffusion model."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Errors are reported on standard error. A bug is raised instead if the environment variable RESTORER_DEBUG is set.

    Args:
        arguments: Words of the command line after the program's name; None for those of this process.
    """
    from restorer.cli.terminal.reporter import exit_code_for, report_error

    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        if code == 130:  # Typer catches Ctrl-C itself and returns this code
            print_over_mark(INTERRUPTED)
        return code if isinstance(code, int) else 0
    except RestorerError as error:
        report_error(error)
        return exit_code_for(error)
    except (KeyboardInterrupt, typer.Abort):
        print_over_mark(INTERRUPTED)
        return 130
    except Terminated:
        return 143
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader has closed the pipe, so nothing may be written to it any more, not even when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "restore"
            if message := " ".join(error.format_message().split()):
                report_error(RestorerError(message, f"run {path} --help for the options"))
            # There is no message where a command without arguments has printed its help.
            return int(getattr(error, "exit_code", 2))
        if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
            output_error = OutputError(
                f"the output cannot be written: {error.strerror}", "free some space, or send the output elsewhere"
            )
            report_error(output_error)
            return exit_code_for(output_error)
        if os.environ.get("RESTORER_DEBUG"):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        report_error(RestorerError(text, "this is a bug; set RESTORER_DEBUG=1 to see where it happened"))
        return 1


def main() -> None:
    """Run the command line of this process and exit with its code. This is the console script."""
    open_streams()
    ensure_home()
    raise_on_signals()
    keep_to_quota()
    shorten_spin_wait()
    keep_pages()
    code = run()
    ignore_signals()
    sys.exit(flush_streams(code))
