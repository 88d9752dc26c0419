"""Deblurring without a known kernel: the blur is found first, and undone if there is enough evidence of one.

A picture in which none is found is copied, and so is one whose blur is of another kind than the program can undo. The
blur is measured on the whole picture, as the file has it, because the network for blur has learned with noise and
compression.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.images.sizes import Region
from restorer.limits import check
from restorer.measurement.blur import Blur, estimate_blur
from restorer.measurement.blur_spectrum import LEAST_SIDE
from restorer.models.load import load_blur_estimator, load_prior, measuring_prior
from restorer.tasks.common import as_colour, check_picture, select_prior, without_equal_channels
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.defaults import DEBLUR
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.tiles import with_default_tiles

__all__ = ["find_blur", "prepare_blind_deblur"]

SHARP = "no blur was found: the picture is copied; --gaussian, --defocus, --motion and --kernel undo one that you know"
OTHER = "neither a Gaussian nor a defocus nor a motion along a line explains the blur: the picture is copied"
TOO_SMALL = f"a blur can be found in pictures of at least {LEAST_SIDE}x{LEAST_SIDE} pixels: the picture is copied"
UNSURE = "the blur is likely, but not sure: if edges ring, name a smaller one, or raise --strength"


def find_blur(image: Tensor, evidence: Tensor | None = None, prior: Prior | None = None) -> Blur | None:
    """Find the blur of a picture with the networks that belong to the program; see `estimate_blur`.

    Args:
        image: As in `estimate_blur`.
        evidence: As in `estimate_blur`.
        prior: The prior on whose device kernels are tried, which is done by the embedded one; None for the default.

    Raises:
        ModelError: The installation lacks the weights of the network.
    """
    return estimate_blur(image, load_blur_estimator(), evidence, measuring_prior(prior or load_prior()))


def prepare_blind_deblur(
    image: Tensor,
    *,
    sigma: float | None = None,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    region: Region | None = None,
    evidence: Tensor | None = None,
    prior: Prior | None = None,
    **given: Any,
) -> Job:
    """Prepare a job that finds a blur and undoes it. All arguments are those of `prepare_deblur`.

    Raises:
        UsageError: As in `prepare_deblur`.
        ModelError: As in `prepare_deblur`, or the installation lacks the weights of the network for blur.
    """
    check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, started=given.get("start") is not None)
    place, model = Place.of(image, region), select_prior("deblur", prior)
    tiled = with_default_tiles(model, place.window.height, place.window.width)
    part, seen = place.exact(image), as_colour(place.seen(without_equal_channels(image)))
    used = DEBLUR.detail if detail is None else detail
    copy = Job(tiled, None, part, sigma or 0.0, False, used, seen, lambda x, first: part)

    def measure() -> Job:
        blur = find_blur(image, evidence, model)
        if blur is None:
            return copy.with_note(TOO_SMALL if min(image.shape[-2:]) < LEAST_SIDE else SHARP)
        if blur.kind == "other":
            return replace(copy, blur=blur).with_note(OTHER)
        job = prepare_deblur(
            image,
            blur.kernel(),
            sigma=sigma,
            steps=steps,
            detail=detail,
            method=method,
            seed=seed,
            region=region,
            evidence=evidence,
            prior=prior,
            **given,
        ).measured()
        return replace(job, blur=blur).with_note("" if blur.is_sure else UNSURE)

    return replace(copy, measure=measure)
