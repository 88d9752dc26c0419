"""The three tasks: what the user wants -> a degradation and a plan -> the restored picture.

    denoise    a picture with noise s_y is x_t at the t where sigma_t = s_y: the reverse process starts there, and the
               data need no correction. Its first evaluation is the posterior mean (the best PSNR), its end a picture
               with natural texture; `detail` blends the two, which is the optimal trade of distortion against
               perception along a straight line (Freirich et al. 2021, https://arxiv.org/abs/2107.02555).
    inpaint    known pixels are put back at every step and noised again with all others (RePaint, Lugmayr et al. 2022).
    upscale    the picture is corrected at every step so that shrinking it gives the input (DDNM, Wang et al. 2023).

For the latter two `detail` is the noise carried from step to step. Noise levels that users see are on the 0..255 scale:
sigma there is s_y = 2 sigma / 255 on the [-1, 1] scale of the networks.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.defaults import DENOISE, INPAINT, INPAINT_WIDE, LATENT_STEPS, UPSCALE, WIDE, Defaults
from restorer.degradations import Bicubic, Mask
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NoiseField
from restorer.errors import ModelError, UsageError
from restorer.images.files import push_pull
from restorer.images.noise import estimate_sigma, undo_clipping
from restorer.job import Job, tiled
from restorer.limits import check, check_task
from restorer.priors.catalog import load_prior
from restorer.priors.latent import LatentPrior, ddim_plan, first_mean, latent_of
from restorer.priors.tiled import Tiled

__all__ = ["check_latent", "prepare_denoise", "prepare_inpaint", "prepare_upscale", "wide_part"]

LOWEST_LEVEL = 0.02  # the last noise level before 0; below it pictures in 8 bits do not change
QUANTIZATION = (2 / 255) ** 2 / 12  # variance of rounding to 8 bits, on the [-1, 1] scale
LEAST_THIN = 0.01  # narrow holes count beside wide ones from this share on: a rough rim makes none
CONTEXT = 96  # pixels around the holes that a network sees when the rest of the picture is left out
LATENT_TILE = 128  # side of a small picture that latent super-resolution does not cut: that of its published example
LATENT_METHODS = {"auto": 0.0, "ddim": 0.0, "ddpm": 1.0}  # eta of DDIM


def _check_picture(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UsageError(f"a picture has 1 or 3 channels: (C, H, W), not {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise UsageError("the picture holds values that are not finite")


def _prior_for(task: str, prior: Prior | None) -> Prior:
    """The prior given, or the embedded one.

    Raises:
        ModelError: it works on latents and does not serve the task.
    """
    model = prior or load_prior()
    latent = latent_of(model)
    check_task(task, None if latent is None else latent.serves)
    return model


def _to_unit(x: Tensor, channels: int) -> Tensor:
    """(1, 3, H, W) on [-1, 1] -> (C, H, W) in [0, 1]; a gray picture is the mean of its three channels."""
    picture = (x[0].float() + 1).div_(2)
    picture = picture.mean(0, keepdim=True) if channels == 1 else picture
    return picture.clamp_(0, 1)


def _as_colour(image: Tensor) -> Tensor:
    """(C, H, W) in [0, 1] -> (1, 3, H, W) on [-1, 1]."""
    return (image.expand(3, -1, -1) * 2 - 1)[None]


def prepare_denoise(
    image: Tensor,
    sigma: float | None = None,
    *,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Decide how to remove noise. Arguments as `restorer.denoise`, `image` a float tensor (C, H, W) in [0, 1]."""
    _check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed)
    if steps == 1 and detail:
        raise UsageError("one step gives no detail: it is the posterior mean", "use --steps 2 or more, or --detail 0")
    if detail is None:
        detail = 0.0 if steps == 1 else DENOISE.detail
    steps = 1 if detail == 0 else steps or DENOISE.steps
    estimated = sigma is None
    level = estimate_sigma(image) if sigma is None else sigma
    model = tiled(_prior_for("denoise", prior), *image.shape[-2:])
    channels = image.shape[0]
    start, s_y = _as_colour(image), 2 * level / 255
    job = Job(model, None, image, level, estimated, detail, start, lambda x, first: _to_unit(x, channels))
    if level == 0:
        return job.noting("no noise was found: the picture is copied" if estimated else "")
    if channels == 1:
        start, s_y = _lifted(start, s_y, seed), math.sqrt(3) * s_y
    end = min(LOWEST_LEVEL, s_y / 4)
    # A level of its own below the first for every step; the last evaluation is at `end`, then 0.
    sigmas = (*log_levels(s_y, end, steps), 0.0)
    auto = Plan(
        sigmas,
        zeta=(DENOISE.zeta,) * steps,
        extrapolation=DENOISE.extrapolation,
        fresh_start=False,
        mirrored=model.mirrors,
        seed=seed,
    )
    plan = make_plan(method, auto, start=s_y, end=end, steps=steps)
    share = detail

    # A file cannot hold what noise adds beyond black and white. A tensor may; then nothing was cut off.
    clipped = 0 <= float(image.min()) and float(image.max()) <= 1

    def finish(x: Tensor, first: Tensor) -> Tensor:
        restored = _to_unit(torch.lerp(first, x, share), channels)
        return undo_clipping(restored, level / 255) if clipped else restored

    return replace(job, plan=plan, start=start, finish=finish)


def _lifted(start: Tensor, s_y: float, seed: int) -> Tensor:
    """A gray picture as a colour picture with white noise of sqrt(3) s_y.

    Noise copied to three channels has the covariance s_y^2 11^T = 3 s_y^2 P, with P the projection on gray. What is
    missing to 3 s_y^2 I is noise of the same size on the chroma, 3 s_y^2 (I - P), which is drawn here.
    """
    drawn = NoiseField(seed ^ 0x5EED).like(start) * math.sqrt(3) * s_y
    return start + drawn - drawn.mean(1, keepdim=True)


def _conditioned_plan(
    prior: Prior,
    defaults: Defaults,
    steps: int | None,
    detail: float | None,
    method: str,
    seed: int,
    *,
    holes: bool,
) -> tuple[Plan, float]:
    """The plan of inpaint and upscale, and the detail it has."""
    count = steps or defaults.steps
    sigmas = (*log_levels(defaults.start, LOWEST_LEVEL, count), 0.0)
    if detail is None:  # the published methods carry all noise
        detail = defaults.detail if method == "auto" else 1.0
    auto = Plan(
        sigmas,
        zeta=(defaults.zeta,) * count,
        kappa=detail * (1 + defaults.inflation) if method == "auto" else detail,
        prior_variance=defaults.prior_variance,
        extrapolation=defaults.extrapolation,
        mirrored=prior.mirrors,
        seed=seed,
    )
    return make_plan(method, auto, start=defaults.start, end=LOWEST_LEVEL, steps=count, holes=holes), detail


def prepare_inpaint(
    image: Tensor,
    fill: Tensor,
    *,
    sigma: float | None = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Decide how to fill holes. Arguments as `restorer.inpaint`; `fill` is bool (H, W), True where to fill."""
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed)
    if fill.shape != image.shape[-2:]:
        raise UsageError(f"the mask is {tuple(fill.shape)}, the picture {tuple(image.shape[-2:])}")
    _check_picture(torch.where(fill, 0.5, image))  # under the mask it may hold anything
    channels, share = image.shape[0], float(fill.double().mean())
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    # Known pixels that are noisy are restored too, and they are everywhere.
    rows, columns = _window(fill) if sigma == 0 else (slice(None), slice(None))
    part, hole = image[:, rows, columns], fill[rows, columns]
    model = tiled(_prior_for("inpaint", prior), *hole.shape)
    known = ~hole
    colour = torch.where(known, part, 0.5)
    mean = push_pull(colour * known, known.float()[None]).clamp(0, 1) if known.any() else colour
    notes = [f"the mask covers {100 * share:.1f} % of the picture"]
    if share > 0.6:
        notes.append("more than 60 % is to be filled: white means fill; --invert-mask turns that round")
    wide = wide_part(hole)
    thin = int(hole.sum() - wide.sum())
    in_turn = method == "auto" and sigma == 0 and bool(wide.any()) and thin > LEAST_THIN * int(wide.sum())
    defaults = INPAINT_WIDE if wide.any() and not in_turn else INPAINT
    plan, used = _conditioned_plan(model, defaults, steps, detail, method, seed, holes=True) if share else (None, 0.0)
    if plan is None:
        notes = ["the mask is empty: the picture is copied"]

    def finish(x: Tensor, first: Tensor) -> Tensor:
        result = image.clone()
        restored = _to_unit(x, channels)
        result[:, rows, columns] = torch.where(hole, restored, part) if sigma == 0 else restored
        return result

    def fill_wide(filled: Tensor, tiles: Tiled) -> Job:
        """The wide holes again, with the narrow ones filled, which their own settings do far better."""
        left = torch.zeros_like(fill)
        left[rows, columns] = wide
        return prepare_inpaint(filled, left, steps=steps, detail=detail, seed=seed, prior=tiles)

    return Job(
        model,
        plan,
        image,
        sigma,
        estimated,
        used,
        _as_colour(mean),
        finish,
        degradation=Mask(known[None, None]),
        y=_as_colour(colour),
        noise_variance=(2 * sigma / 255) ** 2,
        notes=tuple(notes),
        then=fill_wide if in_turn else None,
        more=(steps or INPAINT_WIDE.steps) if in_turn else 0,
    )


def wide_part(hole: Tensor) -> Tensor:
    """Of a hole, bool (H, W), what lies in a square of WIDE pixels that fits into it, or within half of that beyond.

    The squares are the morphological opening; what is added makes up for their corners, so that a round hole is whole.
    """

    def spread(x: Tensor, pad: float) -> Tensor:
        """The largest value within WIDE / 2 pixels, first down, then across."""
        for reach, size in (((0, 0, WIDE // 2, WIDE // 2), (WIDE, 1)), ((WIDE // 2, WIDE // 2, 0, 0), (1, WIDE))):
            x = F.max_pool2d(F.pad(x, reach, value=pad), size, stride=1)
        return x

    centres = 1 - spread((~hole).float()[None, None], 1.0)
    return (spread(spread(centres, 0.0), 0.0)[0, 0] > 0) & hole


def _window(fill: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold all holes and CONTEXT pixels around them; everything else cannot change."""
    places = []
    for axis in (1, 0):
        hit = torch.nonzero(fill.any(axis)).flatten()
        low, high = (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, 1)
        places.append(slice(max(0, low - CONTEXT), min(fill.shape[1 - axis], high + CONTEXT)))
    return places[0], places[1]


def prepare_upscale(
    image: Tensor,
    scale: int = 4,
    *,
    sigma: float | None = 0.0,
    steps: int | None = None,
    detail: float | None = None,
    method: str = "auto",
    seed: int = 0,
    prior: Prior | None = None,
) -> Job:
    """Decide how to enlarge. Arguments as `restorer.upscale`, `image` a float tensor (C, H, W) in [0, 1]."""
    _check_picture(image)
    check(sigma=sigma, steps=steps, detail=detail, method=method, seed=seed, scale=scale)
    model = _prior_for("upscale", prior)
    if (latent := latent_of(model)) is not None:
        check_latent(latent, scale, sigma=sigma, steps=steps, detail=detail, method=method)
        return _latent_upscale(image, model, latent, steps or LATENT_STEPS, method, seed)
    channels = image.shape[0]
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    degradation, y = Bicubic(scale), _as_colour(image)
    start = degradation.pseudo_inverse(y)
    model = tiled(model, *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        if sigma > 0:
            return _to_unit(x, channels)
        # On one channel for gray, so that rounding the mean of three cannot undo it.
        gray = x.mean(1, keepdim=True) if channels == 1 else x
        return _to_unit(degradation.finish(gray, y[:, :channels]), channels)

    plan, used = _conditioned_plan(model, UPSCALE[scale], steps, detail, method, seed, holes=False)
    return Job(
        model,
        plan,
        image,
        sigma,
        estimated,
        used,
        start,
        finish,
        degradation=degradation,
        y=y,
        noise_variance=max((2 * sigma / 255) ** 2, QUANTIZATION),
    )


def check_latent(
    prior: LatentPrior, scale: int, *, sigma: float | None, steps: int | None, detail: float | None, method: str
) -> None:
    """Refuse what means nothing to latent super-resolution, which is sampled as it was trained.

    Raises:
        UsageError: naming the option. ModelError: the network does not see colour pictures.
    """
    if prior.condition_channels != 3:
        raise ModelError(f"the model takes a condition of {prior.condition_channels} channels: that is no picture")
    if scale != prior.factor:
        raise UsageError(
            f"this model enlarges by {prior.factor}, not by {scale}", f"--scale {prior.factor}, or another --model"
        )
    if sigma != 0:
        raise UsageError("--sigma means nothing to this model: it takes the picture as it is", "leave it out")
    if detail is not None:
        raise UsageError("--detail means nothing to this model: its results are samples", "leave it out")
    if method not in LATENT_METHODS:
        text = f"this model is sampled by {', '.join(LATENT_METHODS)}, not by {method}"
        raise UsageError(text, "leave --method out")
    if steps is not None and steps > prior.most_steps:
        raise UsageError(
            f"steps must lie between 1 and {prior.most_steps} with this model, not {steps}", f"{LATENT_STEPS} are usual"
        )


def _latent_upscale(image: Tensor, model: Prior, latent: LatentPrior, steps: int, method: str, seed: int) -> Job:
    """Latent super-resolution: the small picture is as large as the latents of the large one, and seen beside them."""
    channels, small = image.shape[0], _as_colour(image)
    plan = ddim_plan(latent.spec.schedule, steps, eta=LATENT_METHODS[method], seed=seed)
    side = LATENT_TILE
    return Job(
        model if isinstance(model, Tiled) else Tiled(model, side, overlap=side // 4),
        plan,
        image,
        sigma=0.0,
        estimated=False,
        detail=1.0,
        start=first_mean(plan, (1, latent.channels, *image.shape[-2:])),
        finish=lambda picture, first: _to_unit(picture, channels),
        condition=small,
        notes=("shrinking the result does not give the input back with this model",),
    )
