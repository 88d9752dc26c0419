r"""The reverse process: one loop for every task and method.

    x0  = prior.denoise(x, sigma)                                        one network evaluation
    x0c = argmin_z |y - A z|^2 / s_y^2 + |z - x0|^2 / r^2                towards the data (`degradations/`)
    d   = x0c, or extrapolated from the previous x0c                     (DPM-Solver++ 2M, arXiv:2211.01095)
    x'  = d + kappa sigma' ( a eps + sqrt(zeta) w z )                    eps the noise implied by x, z ~ N(0, I)

with r^2 = sigma^2 v / (sigma^2 + v), a = sqrt(1 - zeta) and w = 1. With kappa = 1, zeta = 1 - (sigma'/sigma)^2 and no
measurement this is Ho et al. 2020, algorithm 2, written for x_t / sqrt(abar_t): x' is a draw from
q(x_{t-1} | x_t, x_0 = d). There are four more cases:

    another reverse variance    w^2 = (beta / beta~)^f, with f = 0 for beta~ (w = 1), f = 1 for beta, or f learned by
                                the network (Nichol & Dhariwal 2021, eq. 15); beta and beta~ are those of the step taken
    a level that stays          a = 1 - zeta / 2: the Langevin step x' = x + e score + sqrt(2 e) z with
                                e = zeta sigma^2 / 2 and score = (x0c - x) / sigma^2, which is the corrector of Song et
                                al. 2021, arXiv:2011.13456
    a level that rises          the step adds noise, q(x_t | x_{t-1}), which is how RePaint travels back
    noise of the data           x' = x0 + the residual y - x0, made white and scaled to sigma' (`data_noise.py`)

The loop is a generator of questions to the prior (`reversing`), so that several runs can share an evaluation. `reverse`
answers each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from restorer.diffusion.data_noise import noised
from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.objective import fixed_log_variance
from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Asking, Prior, answered
from restorer.diffusion.schedule import Schedule

__all__ = [
    "MIRRORS",
    "Canvas",
    "NoiseField",
    "NotFiniteError",
    "Step",
    "learned_fraction",
    "reverse",
    "reversing",
]

PART = 1 << 18  # numbers of a noise field that one generator draws, in about a millisecond
MIRRORS = ((), (-1,), (-2,), (-2, -1))  # axes of (B, C, H, W) that are mirrored, by evaluation, in turn


class NotFiniteError(ArithmeticError):
    """A network returned inf or nan, as may happen in low precision."""


@dataclass(frozen=True)
class Step:
    """The state of a run after one network evaluation.

    Args:
        index: Number of evaluations so far, from 1.
        total: Number of evaluations in all.
        sigma: Noise level of this evaluation.
        x0: The prior's prediction, (B, C, H, W).
        corrected: The prediction corrected towards the data, (B, C, H, W).
        state: The noisy picture that was evaluated, (B, C, H, W).
    """

    index: int
    total: int
    sigma: float
    x0: Tensor
    corrected: Tensor
    state: Tensor


@dataclass(frozen=True)
class Canvas:
    """The place of a state in a larger picture, of whose noise it takes its part.

    Args:
        height: Height of the larger picture in pixels.
        width: Its width.
        top: The row of the larger picture at which the state begins.
        left: The column at which it begins.
    """

    height: int
    width: int
    top: int
    left: int


class NoiseField:
    """White noise that depends on the seed and the shape alone.

    It is drawn on the CPU, whatever the device or the tiles.

    Args:
        seed: Seed of the whole batch, or one seed for each picture, whose noise is then the same in any batch.
        canvas: The larger picture whose noise is drawn, and of which a part is returned; None for all of it.
    """

    def __init__(self, seed: int | Sequence[int], canvas: Canvas | None = None) -> None:
        seeds = [seed] if isinstance(seed, int) else seed
        self._canvas = canvas
        self._generators = [torch.Generator().manual_seed(s) for s in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Return the next field, in the shape, on the device and in the precision of x."""
        count, whole = len(x) // len(self._generators), self._canvas
        size = x.shape[-2:] if whole is None else (whole.height, whole.width)
        fields = [_normal((count, *x.shape[1:-2], *size), g) for g in self._generators]
        field = fields[0] if len(fields) == 1 else torch.cat(fields)
        if whole is not None:
            field = field[..., whole.top : whole.top + x.shape[-2], whole.left : whole.left + x.shape[-1]]
        return field.to(x.device, x.dtype)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw white noise, float32.

    Large fields are drawn in parts, each from a generator of its own, by as many threads as PyTorch has: one thread
    would take as long as a fast device takes for the network. The number of threads does not change the field.
    """
    count = math.prod(shape)
    if count <= PART:
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    with torch.inference_mode(False):  # the threads are not in inference mode
        field = torch.empty(count, dtype=torch.float32)
        parts = field.split(PART)
    seeds = torch.randint(2**32, (len(parts),), generator=generator).tolist()

    def draw(part: Tensor, seed: int) -> None:
        part.normal_(generator=torch.Generator().manual_seed(seed))

    try:
        with ThreadPoolExecutor(min(torch.get_num_threads(), len(parts))) as threads:
            list(threads.map(draw, parts, seeds))
    except RuntimeError:  # the main thread has ended, and Python starts no new ones
        list(map(draw, parts, seeds))
    return field.view(*shape)


def _second_order(corrected: Tensor, previous: Tensor | None, plan: Plan, i: int) -> Tensor:
    """Return the corrected estimate, extrapolated half a step along its last change in log sigma."""
    if previous is None or plan.extrapolation == 0 or plan.sigmas[i + 1] == 0:
        return corrected
    before, now, after = plan.sigmas[i - 1 : i + 2]
    ratio = math.log(now / after) / math.log(before / now)
    return torch.lerp(previous, corrected, 1 + plan.extrapolation * min(1.0, ratio / 2))


def reverse(
    prior: Prior,
    degradation: Degradation | None,
    y: Tensor | None,
    plan: Plan,
    start: Tensor,
    *,
    noise_variance: float = 0.0,
    canvas: Canvas | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """Run the reverse process.

    Args:
        prior: The diffusion model.
        degradation: The operator A of the measurement; None if nothing was measured.
        y: The measurement; None if nothing was measured.
        plan: Noise levels and the other settings of the run.
        start: Mean of the first state, float (B, C, H, W) on [-1, 1]; the first state itself if `plan.fresh_start` is
            False.
        noise_variance: Variance s_y^2 of the noise in y, on the [-1, 1] scale.
        canvas: The larger picture of whose noise the run takes a part; None if `start` is the whole picture.
        on_step: Function called after every evaluation. An exception that it raises ends the run. It must not write to
            the prior's weights.

    Returns:
        The restored picture, shaped like start.

    Raises:
        NotFiniteError: A prediction is inf or nan.
    """
    run = reversing(prior, degradation, y, plan, start, noise_variance=noise_variance, canvas=canvas, on_step=on_step)
    del y, start
    return answered(run)


def reversing(
    prior: Prior,
    degradation: Degradation | None,
    y: Tensor | None,
    plan: Plan,
    start: Tensor,
    *,
    noise_variance: float = 0.0,
    canvas: Canvas | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Asking[Tensor]:
    """Return the reverse process as a computation that asks the prior; see `reverse`."""
    noise = NoiseField(plan.seed, canvas)
    carried = plan.sigmas[0] * (plan.kappa if plan.fresh_start else 1.0)
    x = torch.add(start, noise.like(start), alpha=carried) if plan.fresh_start else start
    previous: Tensor | None = None
    done = 0
    with prior.resources.run(plan.sigmas[:-1]):
        for i, (sigma, after) in enumerate(pairwise(plan.sigmas)):
            if after > sigma:
                x = torch.add(x, noise.like(x), alpha=plan.kappa * math.sqrt(after**2 - sigma**2))
                carried, previous = plan.kappa * after, None
                continue
            oriented = prior.mirrored(MIRRORS[done % len(MIRRORS)]) if plan.mirrored else prior
            prediction = yield from oriented.asking(x, sigma)
            x0 = prediction.x0
            if not math.isfinite(float(x0.sum())):  # the sum is finite only if all numbers are, and takes no memory
                raise NotFiniteError("the network returned values that are not finite")
            corrected, data_noise = x0, plan.data_noise_at(after)
            if degradation is not None and y is not None and not data_noise and (after > 0 or plan.correct_last):
                v = plan.prior_variance
                r2 = sigma**2 if math.isinf(v) else sigma**2 * v / (sigma**2 + v)
                corrected = degradation.correct(x0, y, noise_variance, r2)
            d = _second_order(corrected, previous, plan, i)
            previous = corrected if after < sigma and plan.extrapolation else None
            done += 1
            if on_step is not None:
                on_step(Step(done, plan.evaluations, sigma, x0, corrected, x))
            if degradation is not None and y is not None and data_noise:
                d = noised(d, y, degradation, after, data_noise)
            clean, log_variance = d if plan.eps_from == "corrected" else x0, prediction.log_variance
            del prediction, x0, corrected  # large for a large picture, and the next line needs memory
            x = _renoise(x, d, clean, log_variance, carried, plan, i, noise)
            carried = plan.kappa * after
            del d, clean, log_variance
    return x


def _renoise(
    x: Tensor,
    d: Tensor,
    clean: Tensor,
    log_variance: Tensor | None,
    carried: float,
    plan: Plan,
    i: int,
    noise: NoiseField,
) -> Tensor:
    """Return d plus the noise of the next level, partly implied by x and partly fresh.

    Args:
        x: The state, which is `clean` plus noise of standard deviation `carried`.
        d: The estimate that the noise is added to.
        clean: The estimate that the implied noise is relative to.
        log_variance: The learned variance, if any; see `Prediction`.
        carried: Standard deviation of the noise in x.
        plan: The plan.
        i: Index of the step in the plan.
        noise: Source of fresh noise.
    """
    sigma, after, zeta = plan.sigmas[i], plan.sigmas[i + 1], plan.zeta[i]
    amount = plan.kappa * after
    if amount == 0:
        return d
    kept = math.sqrt(1 - zeta) if after < sigma else 1 - zeta / 2
    x_next = (x - clean).mul_(amount * kept / carried).add_(d)
    if zeta > 0:
        widening, fresh = _widening(sigma, after, plan, log_variance), noise.like(x)
        x_next.add_(fresh if widening is None else fresh.mul_(widening), alpha=amount * math.sqrt(zeta))
    return x_next


def _widening(sigma: float, after: float, plan: Plan, log_variance: Tensor | None) -> float | Tensor | None:
    """Return w for the step sigma -> after: the deviation of the fresh noise relative to the small variance.

    None stands for 1. With abar_t = 1 / (1 + sigma^2), the variances beta_t and beta~_t of such a step, divided by
    abar_{t-1}, are (sigma^2 - sigma'^2) (1 + sigma'^2) / (1 + sigma^2) and sigma'^2 (sigma^2 - sigma'^2) / sigma^2.
    """
    if plan.variance == "small":
        return None
    ratio = sigma**2 * (1 + after**2) / (after**2 * (1 + sigma**2))
    if plan.variance == "large":
        return math.sqrt(ratio)
    if log_variance is None or plan.schedule is None:
        raise ValueError("the network has not learned a variance")
    return (learned_fraction(log_variance, sigma, plan.schedule) / 2 * math.log(ratio)).exp()


def learned_fraction(log_variance: Tensor, sigma: float, schedule: Schedule) -> Tensor:
    """Return where a learned variance lies between log beta~ (0) and log beta (1) of the network's own step from sigma.

    The same fraction serves a longer step, as when a schedule is respaced (Nichol & Dhariwal 2021, section 4).

    Args:
        log_variance: See `Prediction`.
        sigma: Noise level of the prediction; between two nodes of the schedule the nearer one counts.
        schedule: The network's own schedule.
    """
    t = schedule.t_at(torch.tensor([sigma], dtype=torch.float64)).round().long()
    low, high = (float(fixed_log_variance(schedule, t, kind)) for kind in ("small", "large"))
    return (log_variance - low) / (high - low)
