"""The restoring verb `deblur`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restorer.cli.options import (
    SAMPLING,
    Backup,
    Detail,
    Device,
    DryRun,
    Exclude,
    FailFast,
    Format,
    Include,
    InPlace,
    Inputs,
    Json,
    KeepTimes,
    Limit,
    Log,
    MaxPixels,
    Method,
    Model,
    Output,
    Overwrite,
    Precision,
    Quality,
    Quiet,
    Recursive,
    RegionOption,
    Resume,
    Samples,
    Seed,
    Show,
    Sigma,
    SkipExisting,
    Steps,
    Tile,
    Uncertainty,
    Verbose,
    parse,
)
from restorer.cli.restoring.run import restore_all
from restorer.errors import PictureError, UsageError
from restorer.folders.paths import Item
from restorer.folders.picture import Kept, Verb
from restorer.images.sizes import Geometry
from restorer.limits import JPEGS, MAX_PIXELS, NOISES, check_denoising

if TYPE_CHECKING:
    from torch import Tensor

    from restorer.images.files import Picture
    from restorer.priors.tiled import Tiled
    from restorer.priors.unet_prior import UNetPrior
    from restorer.tasks.job import Job

    Prepared = tuple[Job, Kept | None]

__all__ = ["register"]

KERNEL = "Blur"
"""The panel of the help that lists what says how the picture is blurred."""

MAX_GAUSSIAN, MAX_DEFOCUS, MAX_MOTION = 20.0, 60.0, 200.0  # pixels


def _deblur(
    inputs: Inputs,
    gaussian: Annotated[
        float | None,
        typer.Option(
            "--gaussian",
            metavar="S",
            help="Gaussian blur of this standard deviation in pixels",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    defocus: Annotated[
        float | None,
        typer.Option(
            "--defocus",
            metavar="R",
            help="Lens out of focus: a disk of this radius in pixels",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    motion: Annotated[
        str | None,
        typer.Option(
            "--motion",
            metavar="L@A",
            help="Camera that moved: a line of L pixels at A degrees, anticlockwise from the horizontal",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    kernel: Annotated[
        Path | None,
        typer.Option(
            "--kernel",
            metavar="FILE",
            help="Kernel of the blur: a small picture, bright where light went, or a .npy file",
            show_default=False,
            rich_help_panel=KERNEL,
        ),
    ] = None,
    sigma: Sigma = "auto",
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            metavar="KIND",
            help=f"Noise to look for: {', '.join(NOISES)}",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="F",
            help="Factor on the measured noise: 1.3 removes more, 0.7 less",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0,
    jpeg: Annotated[
        str,
        typer.Option(
            "--jpeg",
            metavar="KIND",
            help=f"Whether to undo JPEG compression first: {', '.join(JPEGS)}",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
    output: Output = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    resume: Resume = False,
    manifest: Log = None,
    dry_run: DryRun = False,
    in_place: InPlace = False,
    backup: Backup = None,
    keep_times: KeepTimes = False,
    format: Format = None,
    quality: Quality = None,
    recursive: Recursive = False,
    include: Include = [],  # noqa: B006  (Typer passes a new list for each command)
    exclude: Exclude = [],  # noqa: B006
    limit: Limit = None,
    fail_fast: FailFast = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    region: RegionOption = None,
    uncertainty: Uncertainty = None,
    samples: Samples = 1,
    steps: Steps = None,
    detail: Detail = None,
    method: Method = "auto",
    seed: Seed = 0,
    model: Model = "photo",
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    show: Show = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Undo a blur that is known. Borders, noise, JPEG compression and clipped highlights are taken as they are.

    Each result is written beside its input as INPUT_deblurred.

    restore deblur img.jpg --gaussian 1.6  ·  restore deblur img.png --motion 13@30
    """
    named = {"gaussian": gaussian, "defocus": defocus, "motion": motion, "kernel": kernel}
    own = (*named, "noise", "strength", "jpeg", "named", "own")
    options = parse("deblur", **{name: value for name, value in locals().items() if name not in own})
    check_denoising(sigma=options.sigma, noise=noise, strength=strength, jpeg=jpeg)
    line = _check_kernel(gaussian, defocus, motion, kernel)

    def prepare(image: Tensor, item: Item, picture: Picture, prior: UNetPrior | Tiled) -> Prepared:
        from restorer.images.files import visible_pixels
        from restorer.measurement.earlier_jpeg import find_jpeg
        from restorer.tasks.deblur import prepare_deblur

        job = prepare_deblur(
            image,
            _make_kernel(gaussian, defocus, line, kernel),
            noise=noise,
            strength=strength,
            evidence=visible_pixels(picture),
            jpeg=find_jpeg(image, picture.original) if jpeg == "auto" and options.sigma is None else None,
            prior=prior,
            **options.sampling,
        )
        return job, None

    given = tuple((name, value if value is None or name != "kernel" else str(value)) for name, value in named.items())
    measured = (("noise", noise), ("strength", strength), ("jpeg", jpeg))
    part = Geometry(region=options.region)
    restore_all(options, Verb(f"deblurred{part.tag}", prepare, extra_options=(*given, *measured), geometry=part))


def _check_kernel(
    gaussian: float | None, defocus: float | None, motion: str | None, kernel: Path | None
) -> tuple[float, float] | None:
    """Check the options that describe a blur, and return the length and the angle of a motion.

    Raises:
        UsageError: None of them is given, or several, or a value is out of range.
        PictureError: The file of the kernel does not exist.
    """
    given = [value for value in (gaussian, defocus, motion, kernel) if value is not None]
    if len(given) != 1:
        message = "say how the picture is blurred" if not given else "only one blur can be undone at a time"
        raise UsageError(message, "use one of --gaussian, --defocus, --motion and --kernel")
    for name, value, most in (("gaussian", gaussian, MAX_GAUSSIAN), ("defocus", defocus, MAX_DEFOCUS)):
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{name} must be above 0 and at most {most:g} pixels, not {value:g}")
    if kernel is not None and not kernel.is_file():
        raise PictureError(f"the kernel {kernel} does not exist", "check the path")
    return None if motion is None else _parse_motion(motion)


def _parse_motion(text: str) -> tuple[float, float]:
    """Return the length and the angle that a text such as "13@30" gives."""
    try:
        length, angle = (float(part) for part in text.split("@"))
    except ValueError as error:
        hint = "13@30 is a line of 13 pixels at 30 degrees"
        raise UsageError(f"a motion is a length and an angle with @ between them, not {text!r}", hint) from error
    if not (0 < length <= MAX_MOTION and math.isfinite(angle)):
        raise UsageError(f"the length of a motion must be above 0 and at most {MAX_MOTION:g} pixels, not {length:g}")
    return length, angle


def _make_kernel(gaussian: float | None, defocus: float | None, line: Any, kernel: Path | None) -> Tensor:
    """Return the kernel that the options describe."""
    from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
    from restorer.images.kernel_files import load_kernel

    if kernel is not None:
        return load_kernel(kernel)
    if gaussian is not None:
        return gaussian_kernel(gaussian)
    return motion_kernel(*line) if line is not None else defocus_kernel(defocus or 0.0)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("deblur", no_args_is_help=True)(_deblur)
