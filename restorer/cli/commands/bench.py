"""`restore bench`: how fast this machine is, which tile suits it, and what the verbs will take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from restorer.cli.commands.measuring import show
from restorer.cli.options import Device, Json, Model
from restorer.cli.terminal.downloads import obtain
from restorer.cli.terminal.forecast import USUAL_STEPS
from restorer.cli.terminal.reporter import Reporter, duration
from restorer.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from restorer.evaluation.speed import Measured

__all__ = ["register"]

COMMON = ((640, 480), (1920, 1080), (4000, 3000), (6000, 4000))  # pixels of a result
VERBS = ("denoise", "inpaint", "upscale")


def _bench(
    model: Model = "photo",
    device: Device = "auto",
    precision: Annotated[
        list[str],
        typer.Option("--precision", metavar="P", help="fp32 | bf16 | fp16; again for more", show_default="all"),
    ] = [],  # noqa: B006  (Typer makes a new one)
    size: Annotated[
        list[int],
        typer.Option("--size", metavar="PX", help="Side of the squares; again for more", show_default="64 128 256 512"),
    ] = [],  # noqa: B006
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="For each size and precision, about")] = 1.0,
    json: Json = False,
) -> None:
    """Time the network on this machine, and foretell the verbs.

    restore bench  ·  restore bench --model ddpm-celebahq-256 --size 256
    """
    from restorer.models.load import PRECISIONS

    if unknown := [name for name in precision if name not in PRECISIONS]:
        raise UsageError(f"unknown precision {unknown[0]!r}", ", ".join(PRECISIONS))
    if any(not 64 <= side <= 4096 for side in size):
        raise UsageError("--size lies between 64 and 4096")
    if not 0 < seconds <= 600:
        raise UsageError("--seconds lies between 0 and 600")
    reporter = Reporter(as_json=json)
    obtain(model, reporter, "bench")
    timings, native = _timings(model, device, precision, size, seconds, reporter)
    _tell(timings, native, model, device, reporter)


def _timings(
    model: str, device: str, precisions: list[str], sizes: list[int], seconds: float, reporter: Reporter
) -> tuple[list[Measured], int | None]:
    """What was measured, and the size that the network was made for, if any."""
    with reporter.working("loading PyTorch and the model"):
        import torch

        from restorer.evaluation.speed import SIZES, measure, usual_precisions
        from restorer.machine.memory import FIXED, check_room
        from restorer.models.load import load_prior, resolve_device
        from restorer.priors.latent import latent_of
        from restorer.tasks.job import is_out_of_memory

    place, found = resolve_device(device), []
    for precision in precisions or usual_precisions(place):
        prior = load_prior(model, str(place), precision)
        if latent_of(prior) is not None:
            raise UsageError(f"{model} works on latents, which this verb does not time", "another --model")
        sides = sizes or ((prior.native_size,) if prior.native_size else SIZES)
        with reporter.working(f"timing {precision}"):
            for side in sides:
                needed = FIXED + prior.evaluation_bytes(side * side) + prior.kept_bytes()
                check_room(needed, f"an evaluation of {side}x{side} pixels", place)
                try:
                    timing = measure(prior, precision, side, seconds)
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise DeviceError(
                        f"not enough memory on {place} for {side}x{side} pixels", "a smaller --size"
                    ) from None
                found.append(timing)
                reporter.record({"event": "timing", **_plain(timing)})
    return found, prior.native_size


def _plain(timing: Measured) -> dict[str, Any]:
    return {
        "precision": timing.precision,
        "size": timing.size,
        "seconds": timing.seconds,
        "gflop": round(timing.flop / 1e9, 3),
        "gflop_a_second": round(timing.rate / 1e9, 1),
        "matrix_gflop_a_second": round(timing.matrix_rate / 1e9, 1),
        "share": round(timing.share, 3),
    }


def _tell(timings: list[Measured], native: int | None, model: str, device: str, reporter: Reporter) -> None:
    import torch

    from restorer.evaluation.speed import best_tile, seconds_of
    from restorer.models.load import resolve_device
    from restorer.tasks.job import OVERLAP, usual_tiles

    place, best = resolve_device(device), best_tile(timings)
    # Where a smaller tile was the faster, that one; else those that every picture is cut into by itself.
    fixed = None if native or best.size == max(t.size for t in timings) else (best.size, min(OVERLAP, best.size // 4))
    tile = fixed[0] if fixed else "auto"
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name(place) if place.type == "cuda" else f"cpu, {threads} threads"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("precision", "pixels", "an evaluation", "GFLOP/s", "of a matrix product"):
        table.add_column(heading, justify="left" if heading == "precision" else "right", no_wrap=True)
    for t in timings:
        cells = (
            t.precision,
            f"{t.size}x{t.size}",
            f"{1000 * t.seconds:.1f} ms",
            f"{t.rate / 1e9:.0f}",
            f"{t.share:.0%}",
        )
        table.add_row(*cells)
    if not reporter.as_json:
        show(f"{model} on {where}, PyTorch {torch.__version__}", table, "", reporter)
    foretold = {
        (w, h): [seconds_of(best, w, h, USUAL_STEPS[verb], *(fixed or usual_tiles(h, w, native))) for verb in VERBS]
        for w, h in COMMON
    }
    for (width, height), times in foretold.items():
        for verb, seconds in zip(VERBS, times, strict=True):
            result = {"verb": verb, "width": width, "height": height, "seconds": round(seconds, 2)}
            reporter.record({"event": "estimate", "precision": best.precision, "tile": tile, **result})
    reporter.record(
        {
            "event": "summary",
            "command": "bench",
            "model": model,
            "device": str(place),
            "threads": threads,
            "torch": torch.__version__,
            "precision": best.precision,
            "tile": tile,
        }
    )
    if reporter.as_json:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("a result of", *VERBS):
        table.add_column(heading, justify="left" if heading == "a result of" else "right", no_wrap=True)
    for (width, height), times in foretold.items():
        table.add_row(f"{width}x{height}", *map(duration, times))
    caption = f"fastest: --precision {best.precision} --tile {tile}; inpaint looks at the surroundings of holes only"
    show("With the fastest of these, at the default steps, about", table, caption, reporter)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("bench")(_bench)
