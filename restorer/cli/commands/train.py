"""The verb `train`: train a prior on photographs, or fine-tune one."""

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

from restorer.cli.commands.joining import joined_with_one_voice, with_one_voice
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
REPEAT_SECONDS = 2.0  # within which a signal that reaches one of several processes twice is one signal
PLAIN_SECONDS = 30.0  # seconds between two lines of progress in a pipe or a file


def _recipe_option(name: str, metavar: str, text: str) -> Any:
    """Return an option of the command line whose default comes from the recipe."""
    return typer.Option(name, metavar=metavar, help=text, show_default="from the recipe", rich_help_panel=TRAINING)


class _StopRequest:
    """A request to stop by Ctrl-C or SIGTERM, which training obeys after the current step.

    A second Ctrl-C interrupts the step.

    Args:
        say: Prints a message.
        repeat_seconds: Seconds within which a second signal counts as the first one. A terminal and torchrun may both
            pass a Ctrl-C on.

    Attributes:
        signal_number: Number of the signal that was received, or 0 if there was none.
    """

    def __init__(self, say: Callable[[str], None], repeat_seconds: float = 0.0) -> None:
        self.signal_number, self._say = 0, say
        self._time, self._repeat_seconds = float("-inf"), repeat_seconds

    def __call__(self) -> bool:
        return self.signal_number != 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._time < self._repeat_seconds:
            return
        self._time = time.monotonic()
        if self.signal_number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal_number = number
        self._say("finishing the step and saving; press Ctrl-C again to stop at once")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals while the context lasts."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Screen:
    """Progress of the run: a table that is updated in place on a terminal, plain lines elsewhere."""

    def __init__(self, reporter: Reporter, live: Live | None) -> None:
        self._reporter, self._live, self._saved_step = reporter, live, 0
        self._last_printed, self._is_closed = float("-inf"), False

    def progress(self, progress: Progress) -> None:
        """Show the progress; a terminal or pipe that has closed does not end the run."""
        if self._is_closed:
            return
        try:
            self._show(progress)
        except OSError:
            self._is_closed = True

    def _show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(_table(progress, self._saved_step))
        elif progress.step == progress.steps or time.monotonic() - self._last_printed > PLAIN_SECONDS:
            self._last_printed = time.monotonic()
            self._reporter.say(
                f"step {progress.step}/{progress.steps} · loss {progress.loss:.4f} · {progress.rate:.1f} crops/s · "
                f"{100 * progress.waiting:.0f} % waiting for data · {_format_peak_share(progress)}"
                f"{_format_time(progress.left)} left"
            )

    def saved(self, step: int) -> None:
        """Note the step of the latest checkpoint."""
        self._saved_step = step


def _format_time(seconds: float) -> str:
    """Return a time as minutes:seconds, or as hours:minutes:seconds from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _format_peak_share(progress: Progress) -> str:
    """Return the share of the GPU's peak, followed by a separator; nothing if it is not known."""
    return "" if progress.peak_share is None else f"{100 * progress.peak_share:.0f} % of the GPU's peak · "


def _table(progress: Progress, saved_step: int) -> Group:
    """Return the loss by noise level as a table with bars, and a line of figures below it."""
    table = Table(title=f"step {progress.step:,} of {progress.steps:,}", title_justify="left", expand=False)
    table.add_column("t", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("", min_width=30)
    known = [value for value in progress.levels if value == value]  # the others are nan: no crop had such a level
    largest = max(known, default=1.0) or 1.0
    count = len(progress.levels)
    for i, value in enumerate(progress.levels):
        bar = "" if value != value else "█" * max(1, round(30 * value / largest))
        low, high = (round(1000 * k / count) for k in (i, i + 1))
        table.add_row(f"{low / 1000:.1f}-{high / 1000:.1f} T", "-" if value != value else f"{value:.4f}", bar)
    figures = (
        f"loss {progress.loss:.4f} · {progress.rate:.1f} crops/s · {100 * progress.waiting:.0f} % waiting for data · "
        f"{_format_peak_share(progress)}learning rate {progress.learning_rate:.1e} · saved at step {saved_step:,} · "
        f"{_format_time(progress.left)} left"
    )
    return Group(table, figures)


def _choose_recipe(
    recipe_file: Path | None, init: str | None, resumed_file: Path | None, overrides: dict[str, Any]
) -> tuple[ModelSpec, Recipe]:
    """Choose the network and the training recipe.

    Args:
        recipe_file: Recipe file on the command line, if any; it takes precedence over `resumed_file`.
        init: Model to fine-tune, whose network is trained unless a recipe file describes another.
        resumed_file: Recipe file of the run to continue, if any.
        overrides: Fields of the recipe on the command line; None for those that are not there.

    Returns:
        The network and the recipe. Without a file and a model, the network is that of the embedded prior and the recipe
        has its default values.

    Raises:
        UsageError: A recipe file cannot be read or is invalid, or a field is out of range.
        ModelError: The model to fine-tune cannot be loaded.
    """
    from restorer.models.checkpoints import load_model
    from restorer.models.load import find_model, weights_folder
    from restorer.training.recipe import Recipe, read_recipe

    base = load_model(find_model(init))[1] if init is not None and resumed_file is None else None
    if recipe_file is not None or resumed_file is not None:
        spec, recipe = read_recipe(recipe_file or resumed_file or Path(), base)
    else:
        # A model that knows only upright pictures, of faces for instance, must stay such a model.
        recipe = Recipe(turn=base is None or base.mirrors)
        spec = base or read_recipe(weights_folder() / "recipe.toml")[0]
        if base is not None and base.native_size and overrides["crop"] is None:
            recipe = replace(recipe, crop=base.native_size)
    if spec.network.out_channels > spec.network.in_channels:
        recipe = replace(recipe, discrete=True)
    return spec, replace(recipe, **{name: value for name, value in overrides.items() if value is not None})


def _train(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA", help="Folders, .tar shards or picture files to train on")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="MODEL_DIR", help="Folder to write the model to", show_default=False),
    ],
    recipe_file: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="TOML file that describes the network and the training",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to fine-tune: a name, path or repository as for --model of the other commands",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in MODEL_DIR from its last checkpoint, or start one",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Start from the beginning and replace the model in MODEL_DIR", rich_help_panel=OUTPUT
        ),
    ] = False,
    save_every: Annotated[
        float, typer.Option(metavar="MINUTES", help="Time between two checkpoints", rich_help_panel=OUTPUT)
    ] = 5.0,
    steps: Annotated[int | None, _recipe_option("--steps", "N", "Number of training steps")] = None,
    batch: Annotated[int | None, _recipe_option("--batch", "N", "Number of crops per forward pass")] = None,
    accumulate: Annotated[
        int | None, _recipe_option("--accumulate", "N", "Number of forward passes per training step")
    ] = None,
    crop: Annotated[int | None, _recipe_option("--crop", "N", "Side of the training crops in pixels")] = None,
    learning_rate: Annotated[
        float | None, _recipe_option("--learning-rate", "RATE", "Highest learning rate of the run")
    ] = None,
    seed: Annotated[
        int | None, _recipe_option("--seed", "N", "Seed of the first weights, the crops, the timesteps and the noise")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network with torch.compile", rich_help_panel=DEVICE)
    ] = False,
    memory: Annotated[
        float, typer.Option(metavar="GB", help="Memory for decoded pictures", rich_help_panel=DEVICE)
    ] = 4.0,
    threads: Annotated[
        int, typer.Option(metavar="N", help="Number of threads that cut crops", rich_help_panel=DEVICE)
    ] = 1,
    quiet: Quiet = False,
) -> None:
    """Train a model on photographs, or fine-tune one.

    MODEL_DIR can be used with --model as soon as the training starts.

    torchrun --nproc_per_node=N -m restorer train ... trains on N GPUs together.

    restore train data/ -o mine  ·  restore train data/ -o mine --resume  ·  restore train data/ -o tuned --init photo
    """
    from restorer.training.loop import Machine, train
    from restorer.training.ranks import Place, device_of
    from restorer.training.run_folder import CHECKPOINT, RECIPE

    place = Place.of_environment()
    with with_one_voice(place):
        if not 0.1 <= memory <= 10_000 or not 0 < save_every <= 10_000 or not 1 <= threads <= 256:
            raise UsageError(
                "--memory must lie between 0.1 and 10000 GB, --save-every between 0 and 10000 minutes, "
                "and --threads between 1 and 256"
            )
        overrides = {
            "steps": steps, "batch": batch, "accumulate": accumulate, "crop": crop, "learning_rate": learning_rate,
            "seed": seed,
        }  # fmt: skip
        if init is not None and place.rank == 0:
            check_card(init, "train")
        is_continued = resume and (out / CHECKPOINT).exists() and (out / RECIPE).exists()
        spec, recipe = _choose_recipe(recipe_file, init, out / RECIPE if is_continued else None, overrides)
        machine = Machine(device, precision, compile, round(memory * 1e9), threads, 60 * save_every)
        own_device = device_of(device, place)
    reporter = Reporter(quiet=quiet or place.rank > 0)
    stop = _StopRequest(reporter.say, REPEAT_SECONDS if place.count > 1 else 0.0)
    with joined_with_one_voice(place, own_device) as ranks, _screen(reporter) as screen, stop.listening():
        outcome = train(
            spec,
            recipe,
            data,
            out,
            machine,
            init=None if is_continued else _find_init(init),
            resume=resume,
            overwrite=overwrite,
            on_start=lambda start: _show_start(reporter, start, spec, recipe),
            on_progress=screen.progress,
            on_save=screen.saved,
            stop=stop,
            ranks=ranks,
        )
    if outcome.unreadable:
        reporter.warn(f"{outcome.unreadable} files could not be read and were skipped")
    if not outcome.finished:
        reporter.say(f"stopped at step {outcome.step} and saved to {out}; continue with --resume", style="magenta")
        raise typer.Exit(128 + (stop.signal_number or signal.SIGTERM))
    reporter.say(f"wrote {out} · {outcome.step} steps", style="green")
    if quiet and place.rank == 0:
        print(out)


def _find_init(init: str | None) -> Path | None:
    """Return the path of the model to start from, or None if there is none."""
    from restorer.models.load import find_model

    return None if init is None else find_model(init)


def _show_start(reporter: Reporter, start: Start, spec: ModelSpec, recipe: Recipe) -> None:
    """Report that training starts, and whether a resumed run goes on with the same bytes."""
    reporter.say(_describe_start(start, spec, recipe))
    if start.step and start.processes != start.earlier_processes:
        reporter.warn(
            f"the earlier steps were taken by {start.earlier_processes} processes and the next ones by "
            f"{start.processes}; the result is the same up to rounding, but not the same bytes"
        )


def _describe_start(start: Start, spec: ModelSpec, recipe: Recipe) -> str:
    """Return the line that is reported when training starts: the data, the network, the recipe and the device."""
    origin = f"continues from step {start.step}" if start.step else "new run"
    dtype = str(start.dtype).removeprefix("torch.")
    too_large = f"; {start.too_large} too large for --memory" if start.too_large else ""
    processes = f"{start.processes} processes · " if start.processes > 1 else ""
    return (
        f"train · {start.inventory.summary}{too_large} · {type(spec.network).__name__.removesuffix('Config')} · "
        f"{recipe.steps} steps of {recipe.batch * recipe.accumulate} crops of {recipe.crop} pixels · {origin} · "
        f"{processes}{start.device} · {dtype} · seed {recipe.seed}"
    )


@contextmanager
def _screen(reporter: Reporter) -> Iterator[_Screen]:
    """Yield the screen for the progress, with a table that is updated in place if there is a terminal."""
    if reporter.quiet or not reporter.is_live:
        yield _Screen(reporter, None)
        return
    with Live(console=reporter.console, refresh_per_second=2, transient=False) as live:
        yield _Screen(reporter, live)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("train", no_args_is_help=True)(_train)
