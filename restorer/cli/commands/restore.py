"""The restoring verbs: `auto`, `denoise`, `dejpeg`, `inpaint`, `upscale` and `deblur`.

Their options are declared in `restorer.tasks.options` and `restorer.folders.options`.
"""

from __future__ import annotations

import typer

from restorer.cli.options import command_of, parse
from restorer.cli.restoring.run import restore_all
from restorer.cli.restoring.starting import prepare_start
from restorer.folders.verb_options import Auto, Deblur, Dejpeg, Denoise, Inpaint, Upscale
from restorer.folders.verbs import deblurring, dejpegging, denoising, inpainting, repairing, upscaling

__all__ = ["register"]


def _auto(options: Auto) -> None:
    """Find and repair what is wrong in one pass: scratches, outliers, noise, JPEG, blur and, with --scale, the size.

    Each result is written beside its input as INPUT_restored. What is not sure is left; --dry-run prints the plan.

    restore auto img.jpg  ·  restore auto img.jpg --scale 2  ·  restore auto photos/ -r --dry-run
    """
    restore_all(options, repairing(options))


def _denoise(options: Denoise) -> None:
    """Remove noise; where there is none, remove the traces of JPEG compression.

    Each result is written beside its input as INPUT_denoised.

    restore denoise img.png  ·  restore denoise scan.jpg --sigma 30  ·  restore denoise photos/ -r -o clean/
    """
    restore_all(options, denoising(options))


def _dejpeg(options: Dejpeg) -> None:
    """Remove the blocks and the ringing of JPEG compression, within what the file allows.

    Each result is written beside its input as INPUT_dejpegged.

    restore dejpeg img.jpg  ·  restore dejpeg img.jpg -o img.png  ·  restore dejpeg photos/ -r -o clean/
    """
    restore_all(options, dejpegging(options))


def _inpaint(options: Inpaint) -> None:
    """Fill holes. What the mask marks is filled, and every other pixel stays as it is.

    Each result is written beside its input as INPUT_inpainted.

    restore inpaint img.png --mask m.png  ·  restore inpaint scan.png --mask scratches
    """
    restore_all(options, inpainting(options))


def _upscale(options: Upscale) -> None:
    """Enlarge pictures. Noise and JPEG compression are removed first; a clean picture is what its result shrinks to.

    Each result is written beside its input as INPUT_x4, where 4 is the scale.

    restore upscale img.png  ·  restore upscale img.png --scale 2  ·  restore upscale img.png --steps 100
    """
    if not options.has_size:
        prepare_start(options)
    restore_all(options, upscaling(options))


def _deblur(options: Deblur) -> None:
    """Undo a blur: one that you describe, or else the one that is found in the picture. A sharp picture is copied.

    Borders, noise, JPEG compression and clipped highlights are allowed for.

    Each result is written beside its input as INPUT_deblurred.

    restore deblur img.jpg  ·  restore deblur img.jpg --gaussian 1.6  ·  restore deblur img.png --motion 13@30
    """
    restore_all(options, deblurring(options))


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    for name, command in (
        ("auto", command_of(Auto, _auto, parse)),
        ("denoise", command_of(Denoise, _denoise, parse)),
        ("dejpeg", command_of(Dejpeg, _dejpeg, parse)),
        ("inpaint", command_of(Inpaint, _inpaint, parse)),
        ("upscale", command_of(Upscale, _upscale, parse)),
        ("deblur", command_of(Deblur, _deblur, parse)),
    ):
        app.command(name, no_args_is_help=True)(command)
