"""The verb `bench`: the speed of the network on this machine, the best tile, and the estimated times of the verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from restorer.cli.commands.measuring import print_table
from restorer.cli.options import Device, JsonReport, Model
from restorer.cli.terminal.downloads import ensure_downloaded
from restorer.cli.terminal.forecast import DEFAULT_STEPS
from restorer.cli.terminal.reporter import Reporter, format_duration
from restorer.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from restorer.evaluation.speed import Speed

__all__ = ["register"]

RESULT_SIZES = ((640, 480), (1920, 1080), (4000, 3000), (6000, 4000))  # width and height in pixels
VERBS = ("denoise", "inpaint", "upscale")


def _bench(
    model: Model = "photo",
    device: Device = "auto",
    precision: Annotated[
        list[str],
        typer.Option(
            "--precision",
            metavar="P",
            help="Precision to time: fp32, bf16 or fp16 (repeatable)",
            show_default="those that suit the device",
        ),
    ] = [],  # noqa: B006  (Typer passes a new list for each command)
    size: Annotated[
        list[int],
        typer.Option(
            "--size",
            metavar="PX",
            help="Side of the square picture to time, in pixels (repeatable)",
            show_default="the model's own size, else 64 128 256 512",
        ),
    ] = [],  # noqa: B006
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="Approximate seconds for each size and precision")
    ] = 1.0,
    json: JsonReport = False,
) -> None:
    """Time the network on this machine, and estimate how long the restoring verbs take.

    restore bench  ·  restore bench --model ddpm-celebahq-256 --size 256
    """
    from restorer.models.devices import PRECISIONS

    if unknown := [name for name in precision if name not in PRECISIONS]:
        raise UsageError(f"unknown precision {unknown[0]!r}", f"choose one of {', '.join(PRECISIONS)}")
    if any(not 64 <= side <= 4096 for side in size):
        raise UsageError("--size must lie between 64 and 4096 pixels")
    if not 0 < seconds <= 600:
        raise UsageError("--seconds must be greater than 0 and at most 600")
    reporter = Reporter(as_json=json)
    ensure_downloaded(model, reporter, "bench")
    timings, native_size = _measure_all(model, device, precision, size, seconds, reporter)
    _report(timings, native_size, model, device, [] if precision else _emulated_precisions(device), reporter)


def _emulated_precisions(device: str) -> list[str]:
    """Return the precisions that are not timed unasked, because the device emulates them and takes minutes."""
    from restorer.evaluation.speed import candidates, usual_precisions
    from restorer.models.devices import resolve_device

    resolved = resolve_device(device)
    return [name for name in candidates(resolved) if name not in usual_precisions(resolved)]


def _measure_all(
    model: str, device: str, precisions: list[str], sizes: list[int], seconds: float, reporter: Reporter
) -> tuple[list[Speed], int | None]:
    """Time the network at every precision and size.

    Returns:
        The timings, and the side in pixels that the network is made for, or None if it takes any size.
    """
    with reporter.working("loading PyTorch and the model"):
        import torch

        from restorer.evaluation.speed import SIZES, measure, usual_precisions
        from restorer.machine.memory import FIXED_BYTES, check_memory, is_out_of_memory
        from restorer.models.devices import resolve_device
        from restorer.models.load import load_prior
        from restorer.priors.latent import latent_of

    resolved, timings = resolve_device(device), []
    for precision in precisions or usual_precisions(resolved):
        prior = load_prior(model, str(resolved), precision)
        if latent_of(prior) is not None:
            raise UsageError(
                f"{model} works on latents, and bench does not time such models", "choose another with --model"
            )
        sides = sizes or ((prior.native_size,) if prior.native_size else SIZES)
        with reporter.working(f"timing {precision}"):
            for side in sides:
                needed = FIXED_BYTES + prior.resources.evaluation_bytes(side * side) + prior.resources.kept_bytes()
                check_memory(needed, f"an evaluation of {side}x{side} pixels", resolved)
                try:
                    timing = measure(prior, precision, side, seconds)
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise DeviceError(
                        f"not enough memory on {resolved} for {side}x{side} pixels", "choose a smaller --size"
                    ) from None
                timings.append(timing)
                reporter.emit({"event": "timing", **_as_record(timing)})
    return timings, prior.native_size


def _as_record(timing: Speed) -> dict[str, Any]:
    """Return a timing as the fields of its JSON event."""
    return {
        "precision": timing.precision,
        "size": timing.size,
        "seconds": timing.seconds,
        "gflop": round(timing.flop / 1e9, 3),
        "gflop_a_second": round(timing.rate / 1e9, 1),
        "matrix_gflop_a_second": round(timing.matrix_rate / 1e9, 1),
        "share": round(timing.share, 3),
    }


def _report(
    timings: list[Speed], native_size: int | None, model: str, device: str, emulated: list[str], reporter: Reporter
) -> None:
    """Report the timings, and the times of the verbs that are estimated from them.

    Args:
        timings: The timings.
        native_size: Side in pixels that the network is made for; None if it takes any size.
        model: The model as the user named it.
        device: The device as the user named it.
        emulated: The precisions that were left out because the device emulates them.
        reporter: Receives the report.
    """
    import torch

    from restorer.evaluation.speed import best_tile, estimate_seconds
    from restorer.models.devices import resolve_device
    from restorer.tasks.tiles import OVERLAP, default_tiles

    resolved, best = resolve_device(device), best_tile(timings)
    # The automatic tiles are best if the largest size is the fastest per pixel, or if the network has a native size.
    fixed_tile = (
        None if native_size or best.size == max(t.size for t in timings) else (best.size, min(OVERLAP, best.size // 4))
    )
    tile = fixed_tile[0] if fixed_tile else "auto"
    threads = torch.get_num_threads()
    device_name = f"cpu, {threads} threads" if resolved.type == "cpu" else str(resolved)
    if resolved.type in ("cuda", "xpu"):  # PyTorch does not name Apple's devices
        device_name = getattr(torch, resolved.type).get_device_name(resolved)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("precision", "pixels", "per evaluation", "GFLOP/s", "of matrix product"):
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
        left_out = ""
        if emulated:
            names = " and ".join(emulated)
            options = " ".join(f"--precision {name}" for name in emulated)
            left_out = f"{names} is left out: this processor emulates it, which is slow; {options} times it anyway"
        print_table(f"{model} on {device_name}, PyTorch {torch.__version__}", table, left_out, reporter)
    estimates = {
        (w, h): [
            estimate_seconds(best, w, h, DEFAULT_STEPS[verb], *(fixed_tile or default_tiles(h, w, native_size)))
            for verb in VERBS
        ]
        for w, h in RESULT_SIZES
    }
    for (width, height), times in estimates.items():
        for verb, seconds in zip(VERBS, times, strict=True):
            result = {"verb": verb, "width": width, "height": height, "seconds": round(seconds, 2)}
            reporter.emit({"event": "estimate", "precision": best.precision, "tile": tile, **result})
    reporter.emit(
        {
            "event": "summary",
            "command": "bench",
            "model": model,
            "device": str(resolved),
            "threads": threads,
            "torch": torch.__version__,
            "precision": best.precision,
            "tile": tile,
            "emulated": emulated,
        }
    )
    if reporter.as_json:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("result size", *VERBS):
        table.add_column(heading, justify="left" if heading == "result size" else "right", no_wrap=True)
    for (width, height), times in estimates.items():
        table.add_row(f"{width}x{height}", *map(format_duration, times))
    caption = (
        f"fastest: --precision {best.precision} --tile {tile}; "
        "inpaint takes less time where holes are small, because it computes only their surroundings"
    )
    print_table("Estimated times with the fastest settings and the default steps", table, caption, reporter)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("bench")(_bench)
