"""`restore train`: a prior of one's own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from restorer.cli.options import DEVICE, OUTPUT, Device, Precision, Quiet
from restorer.cli.terminal.downloads import check_card
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import UsageError

if TYPE_CHECKING:
    from restorer.priors.unet_prior import ModelSpec
    from restorer.training.loop import Start
    from restorer.training.meter import Progress
    from restorer.training.recipe import Recipe

__all__ = ["register"]

TRAINING = "Training"
PLAIN_SECONDS = 30.0

Whole = Annotated[int | None, typer.Option(metavar="N", show_default="by recipe", rich_help_panel=TRAINING)]


class _Stop:
    """Ctrl-C and SIGTERM, remembered until the step is done; a second Ctrl-C does not wait."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.number, self._say = 0, say

    def __call__(self) -> bool:
        return self.number != 0

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number
        self._say("finishing the step and saving; Ctrl-C again leaves at once")

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Screen:
    """The run as a table that renews itself; plain lines where no terminal listens."""

    def __init__(self, reporter: Reporter, live: Live | None) -> None:
        self._reporter, self._live, self._saved = reporter, live, 0
        self._said, self._lost = float("-inf"), False

    def progress(self, progress: Progress) -> None:
        if self._lost:
            return
        try:
            self._show(progress)
        except OSError:  # whoever listened has gone; the run goes on
            self._lost = True

    def _show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(_table(progress, self._saved))
        elif progress.step == progress.steps or time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self._reporter.say(
                f"step {progress.step}/{progress.steps} · loss {progress.loss:.4f} · {progress.rate:.1f} crops/s · "
                f"{100 * progress.waiting:.0f} % waiting for data · {_duration(progress.left)} left"
            )

    def saved(self, step: int) -> None:
        self._saved = step


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _table(progress: Progress, saved: int) -> Group:
    """How the run goes: a line of figures, and the loss over the noise levels."""
    table = Table(title=f"step {progress.step:,} of {progress.steps:,}", title_justify="left", expand=False)
    table.add_column("t", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("", min_width=30)
    known = [value for value in progress.levels if value == value]
    largest = max(known, default=1.0) or 1.0
    count = len(progress.levels)
    for i, value in enumerate(progress.levels):
        bar = "" if value != value else "█" * max(1, round(30 * value / largest))
        low, high = (round(1000 * k / count) for k in (i, i + 1))
        table.add_row(f"{low / 1000:.1f}-{high / 1000:.1f} T", "-" if value != value else f"{value:.4f}", bar)
    figures = (
        f"loss {progress.loss:.4f} · {progress.rate:.1f} crops/s · {100 * progress.waiting:.0f} % waiting for data · "
        f"learning rate {progress.learning_rate:.1e} · saved at {saved:,} · {_duration(progress.left)} left"
    )
    return Group(table, figures)


def _recipe(
    recipe: Path | None, init: str | None, going_on: Path | None, given: dict[str, Any]
) -> tuple[ModelSpec, Recipe]:
    """What to train: the recipe named; that of the run that goes on; the model to begin with; the embedded prior's."""
    from restorer.models.checkpoints import load_model
    from restorer.models.load import find_model, weights_folder
    from restorer.training.recipe import Recipe, read_recipe

    base = load_model(find_model(init))[1] if init is not None and going_on is None else None
    if recipe is not None or going_on is not None:
        spec, plan = read_recipe(recipe or going_on or Path(), base)
    else:
        # A model that knows pictures upright only, of faces say, is to stay one.
        plan = Recipe(turn=base is None or base.mirrors)
        spec = base or read_recipe(weights_folder() / "recipe.toml")[0]
        if base is not None and base.native_size and given["crop"] is None:
            plan = replace(plan, crop=base.native_size)
    if spec.network.out_channels > spec.network.in_channels:
        plan = replace(plan, discrete=True)
    return spec, replace(plan, **{name: value for name, value in given.items() if value is not None})


def _train(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Folders, .tar shards or pictures")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL_DIR", help="The model folder", show_default=False)],
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Network and run as a TOML file", rich_help_panel=TRAINING)
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to begin with (fine-tuning)", rich_help_panel=TRAINING)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in MODEL_DIR", rich_help_panel=OUTPUT)
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew over it", rich_help_panel=OUTPUT)] = False,
    save_every: Annotated[
        float, typer.Option(metavar="MINUTES", help="Between checkpoints", rich_help_panel=OUTPUT)
    ] = 5.0,
    steps: Whole = None,
    batch: Whole = None,
    accumulate: Whole = None,
    crop: Whole = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", show_default="by recipe", rich_help_panel=TRAINING)
    ] = None,
    seed: Whole = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile", rich_help_panel=DEVICE)] = False,
    memory: Annotated[float, typer.Option(metavar="GB", help="For decoded pictures", rich_help_panel=DEVICE)] = 4.0,
    threads: Annotated[int, typer.Option(metavar="N", help="That cut crops", rich_help_panel=DEVICE)] = 1,
    quiet: Quiet = False,
) -> None:
    """Train a prior on photographs, or fine-tune one. MODEL_DIR is a model for --model from the first minute on.

    restore train photos/ --out mine  ·  restore train photos/ --out mine --init photo  ·  ... --resume
    """
    from restorer.training.loop import Machine, train
    from restorer.training.run_folder import CHECKPOINT, RECIPE

    if not 0.1 <= memory <= 10_000 or not 0 < save_every <= 10_000 or not 1 <= threads <= 256:
        raise UsageError(
            "--memory lies between .1 and 10000 GB, --save-every between 0 and 10000 minutes, --threads from 1 up"
        )
    numbers = {
        "steps": steps, "batch": batch, "accumulate": accumulate, "crop": crop, "learning_rate": learning_rate,
        "seed": seed,
    }  # fmt: skip
    if init is not None:
        check_card(init, "train")
    going_on = resume and (out / CHECKPOINT).exists() and (out / RECIPE).exists()
    spec, plan = _recipe(recipe, init, out / RECIPE if going_on else None, numbers)
    machine = Machine(device, precision, compile, round(memory * 1e9), threads, 60 * save_every)
    reporter = Reporter(quiet=quiet)
    stop = _Stop(reporter.say)
    with _screen(reporter) as screen, stop.listening():
        outcome = train(
            spec,
            plan,
            data,
            out,
            machine,
            init=None if going_on else _folder_of(init),
            resume=resume,
            overwrite=overwrite,
            on_start=lambda start: reporter.say(_begun(start, spec, plan)),
            on_progress=screen.progress,
            on_save=screen.saved,
            stop=stop,
        )
    if outcome.unreadable:
        reporter.warn(f"{outcome.unreadable} files could not be read and were passed over")
    if not outcome.finished:
        reporter.say(f"stopped at step {outcome.step} and saved in {out}; --resume goes on", style="magenta")
        raise typer.Exit(128 + stop.number)
    reporter.say(f"wrote {out} · {outcome.step} steps", style="green")
    if quiet:
        print(out)


def _folder_of(init: str | None) -> Path | None:
    from restorer.models.load import find_model

    return None if init is None else find_model(init)


def _begun(start: Start, spec: ModelSpec, recipe: Recipe) -> str:
    whence = f"goes on at step {start.step}" if start.step else "from the beginning"
    dtype = str(start.dtype).removeprefix("torch.")
    too_large = f"; {start.too_large} too large for --memory" if start.too_large else ""
    return (
        f"train · {start.found.described}{too_large} · {type(spec.network).__name__.removesuffix('Config')} · "
        f"{recipe.steps} steps of {recipe.batch * recipe.accumulate} crops of {recipe.crop} pixels · {whence} · "
        f"{start.device} · {dtype} · seed {recipe.seed}"
    )


@contextmanager
def _screen(reporter: Reporter) -> Iterator[_Screen]:
    if reporter.quiet or not reporter.lively:
        yield _Screen(reporter, None)
        return
    with Live(console=reporter.console, refresh_per_second=2, transient=False) as live:
        yield _Screen(reporter, live)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("train", no_args_is_help=True)(_train)
