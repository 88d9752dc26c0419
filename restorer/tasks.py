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
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.defaults import DENOISE, INPAINT, INPAINT_WIDE, UPSCALE, WIDE, Defaults
from restorer.degradations import Bicubic, Degradation, Mask
from restorer.diffusion.plan import Plan, log_levels, make_plan
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NoiseField, NotFiniteError, Step, reverse
from restorer.errors import DeviceError, ModelError, UsageError
from restorer.images.files import push_pull
from restorer.images.noise import estimate_sigma, undo_clipping
from restorer.limits import check
from restorer.priors.catalog import load_prior
from restorer.priors.tiled import Tiled

__all__ = ["Job", "Restored", "prepare_denoise", "prepare_inpaint", "prepare_upscale", "tiled"]

LOWEST_LEVEL = 0.02  # the last noise level before 0; below it pictures in 8 bits do not change
QUANTIZATION = (2 / 255) ** 2 / 12  # variance of rounding to 8 bits, on the [-1, 1] scale
CONTEXT = 96  # pixels around the holes that a network sees when the rest of the picture is left out
WHOLE = 1_300_000  # pixels up to which a picture is not tiled
TILE, OVERLAP, LEAST_TILE = 512, 64, 64


@dataclass(frozen=True)
class Restored:
    """A result.

    Args:
        image: float32 (C, H, W) in [0, 1], on the CPU.
        prior: as it was used in the end.
        notes: one line for each thing that did not go as planned.
    """

    image: Tensor
    prior: Tiled
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One restoration, decided but not begun.

    Args:
        prior: the diffusion model, tile by tile.
        plan: of the reverse process; None where there is nothing to do and the picture is returned as it is.
        image: the input, float32 (C, H, W) in [0, 1].
        sigma: noise of the input, 0..255 scale; `estimated` says by whom.
        detail: as used.
        start, degradation, y: as `reverse` takes them.
        finish: (last state, first prediction) -> picture (C, H, W) in [0, 1].
        notes: what the user should know before it begins.
    """

    prior: Tiled
    plan: Plan | None
    image: Tensor
    sigma: float
    estimated: bool
    detail: float
    start: Tensor
    finish: Callable[[Tensor, Tensor], Tensor]
    degradation: Degradation | None = None
    y: Tensor | None = None
    noise_variance: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def tiles(self) -> int:
        """Tiles an evaluation of the whole picture takes."""
        return self.prior.count(*self.start.shape[-2:])

    def noting(self, note: str) -> Job:
        """The same job with one more note, if there is one."""
        return replace(self, notes=(*self.notes, note)) if note else self

    def run(
        self, on_step: Callable[[Step], None] | None = None, on_tile: Callable[[int, int], None] | None = None
    ) -> Restored:
        """Do it. Falls back to float32 where low precision gave nan, and to smaller tiles where memory ran out.

        Raises:
            ModelError: the network's output is not finite in float32 either.
            DeviceError: there is not enough memory even for the smallest tile.
        """
        if self.plan is None:
            return Restored(self.image, self.prior)
        tiled, notes = self.prior, list[str]()
        while True:
            try:
                image = self._once(self.plan, tiled.watched(on_tile), on_step)
                return Restored(image, tiled, tuple(notes))
            except NotFiniteError as error:
                precise = tiled.full_precision()
                if precise is None:
                    raise ModelError("the network gave values that are not finite, even in fp32") from error
                tiled = precise
                notes.append("low precision gave values that are not finite: repeated in fp32")
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                smaller = tiled.cut_to(max(self.start.shape[-2:])).halved(LEAST_TILE)
                if smaller is None:
                    raise DeviceError(
                        f"not enough memory on {tiled.device} even with {tiled.tile}-pixel tiles",
                        "close other programs, or use --device cpu",
                    ) from error
                tiled = smaller
                notes.append(f"out of memory: repeated with {tiled.tile}-pixel tiles")

    def _once(self, plan: Plan, prior: Tiled, on_step: Callable[[Step], None] | None) -> Tensor:
        first: list[Tensor] = []

        def watch(step: Step) -> None:
            if not first:
                first.append(step.x0)
            if on_step is not None:
                on_step(step)

        device = prior.device
        y = None if self.y is None else self.y.to(device)
        degradation = self.degradation
        if isinstance(degradation, Mask):
            degradation = Mask(degradation.known.to(device))
        x = reverse(
            prior,
            degradation,
            y,
            plan,
            self.start.to(device),
            noise_variance=self.noise_variance,
            on_step=watch,
        )
        return self.finish(x.cpu(), first[0].cpu())


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator has no exception class of its own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def _check_picture(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UsageError(f"a picture has 1 or 3 channels: (C, H, W), not {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise UsageError("the picture holds values that are not finite")


def tiled(prior: Prior, height: int, width: int) -> Tiled:
    """The prior with the tiles that suit a picture of this size; one that is tiled already stays as it is."""
    if isinstance(prior, Tiled):
        return prior
    if prior.native_size is not None:
        return Tiled(prior, prior.native_size, overlap=prior.native_size // 4)
    side = max(height, width) if height * width <= WHOLE else TILE
    return Tiled(prior, side, overlap=min(OVERLAP, side // 4))


def _to_unit(x: Tensor, channels: int) -> Tensor:
    """(1, 3, H, W) on [-1, 1] -> (C, H, W) in [0, 1]; a gray picture is the mean of its three channels."""
    picture = (x[0].float() + 1) / 2
    picture = picture.mean(0, keepdim=True) if channels == 1 else picture
    return picture.clamp(0, 1)


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
    model = tiled(prior or load_prior(), *image.shape[-2:])
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
    defaults: Defaults, steps: int | None, detail: float | None, method: str, seed: int, *, holes: bool
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
    model = tiled(prior or load_prior(), *hole.shape)
    known = ~hole
    colour = torch.where(known, part, 0.5)
    mean = push_pull(colour * known, known.float()[None]).clamp(0, 1) if known.any() else colour
    notes = [f"the mask covers {100 * share:.1f} % of the picture"]
    if share > 0.6:
        notes.append("more than 60 % is to be filled: white means fill; --invert-mask turns that round")
    defaults = INPAINT_WIDE if _is_wide(hole) else INPAINT
    plan, used = _conditioned_plan(defaults, steps, detail, method, seed, holes=True) if share else (None, 0.0)
    if plan is None:
        notes = ["the mask is empty: the picture is copied"]

    def finish(x: Tensor, first: Tensor) -> Tensor:
        result = image.clone()
        restored = _to_unit(x, channels)
        result[:, rows, columns] = torch.where(hole, restored, part) if sigma == 0 else restored
        return result

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
    )


def _is_wide(hole: Tensor) -> bool:
    """Whether a square of WIDE pixels fits into a hole (H, W)."""
    outside = F.pad((~hole).float()[None, None], (WIDE // 2,) * 4, value=1.0)
    return bool((F.max_pool2d(outside, WIDE, stride=1) == 0).any())


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
    channels = image.shape[0]
    estimated, sigma = sigma is None, estimate_sigma(image) if sigma is None else sigma
    degradation, y = Bicubic(scale), _as_colour(image)
    start = degradation.pseudo_inverse(y)
    model = tiled(prior or load_prior(), *start.shape[-2:])

    def finish(x: Tensor, first: Tensor) -> Tensor:
        if sigma > 0:
            return _to_unit(x, channels)
        # On one channel for gray, so that rounding the mean of three cannot undo it.
        gray = x.mean(1, keepdim=True) if channels == 1 else x
        return _to_unit(degradation.finish(gray, y[:, :channels]), channels)

    plan, used = _conditioned_plan(UPSCALE[scale], steps, detail, method, seed, holes=False)
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
