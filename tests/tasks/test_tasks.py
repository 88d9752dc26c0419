"""The three restoring tasks, checked against closed forms and by recording the calls of the network.

The closed forms are those of a Gaussian prior, whose posterior mean is known.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image
from stubs import Greedy, Imprecise, Smooth, Spy
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.errors import DeviceError, ModelError, UsageError
from restorer.limits import METHODS
from restorer.measurement.credible import bicubic_enlargement
from restorer.priors.tiled import Tiled
from restorer.tasks.defaults import DENOISE, INPAINT, UPSCALE
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import CONTEXT, prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.tiles import MAX_UNTILED_PIXELS, MIN_TILE, TILE_SIDES, with_default_tiles
from restorer.tasks.upscale import prepare_upscale

SIZES = [(1, 1), (1, 7), (3, 2), (17, 33)]
TASKS = ["denoise", "inpaint", "upscale"]
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU_OUT_OF_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8")


def picture(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return random values that are far enough from 0 and 1 not to be clipped, (channels, height, width)."""
    return 0.3 + 0.4 * torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def unclipped(channels: int, height: int, width: int) -> Tensor:
    """Return a picture with one value below 0, as noise can produce in a tensor but not in a file."""
    image = picture(channels, height, width)
    image[:, 0, 0] = -0.01
    return image


def hole(height: int, width: int, top: int = 0, left: int = 0, side: int | None = None) -> Tensor:
    """Return a mask with a square hole, by default at the top left and half as large as the picture."""
    fill = torch.zeros(height, width, dtype=torch.bool)
    fill[top : top + (side or (height + 1) // 2), left : left + (side or (width + 1) // 2)] = True
    return fill


def prepare(task: str, image: Tensor, **options: object) -> Job:
    """Prepare the job of a task, with a Gaussian prior by default."""
    options = {"prior": GaussianPrior(), **options}
    if task == "denoise":
        return prepare_denoise(image, **{"sigma": 20.0, **options})
    if task == "inpaint":
        return prepare_inpaint(image, hole(*image.shape[-2:]), **options)
    return prepare_upscale(image, **{"scale": 2, **options})


def signed(image: Tensor) -> Tensor:
    """Map values from [0, 1] to [-1, 1]."""
    return image * 2 - 1


# ------------------------------------------------------------------------------------------------------- every task


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back_as_large_and_finite(task: str, channels: int, size: tuple[int, int]) -> None:
    result = prepare(task, picture(channels, *size)).run().image
    factor = 2 if task == "upscale" else 1
    assert result.shape == (channels, factor * size[0], factor * size[1])
    assert result.dtype == torch.float32
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sigma", [0.0, 20.0])
def test_a_gray_picture_saved_in_colour_is_restored_as_gray(task: str, sigma: float) -> None:
    """The result is that of the gray file in each channel. The values under a mask may differ between channels."""
    gray = picture(1, 24, 30)
    colour = gray.repeat(3, 1, 1)
    if task == "inpaint":
        colour[0, hole(24, 30)] = 0.9
    expected = prepare(task, gray, sigma=sigma).run().image
    result = prepare(task, colour, sigma=sigma).run().image
    if task == "inpaint" or sigma or task == "upscale":
        assert result.shape == (3, *expected.shape[1:]) and torch.equal(result, expected.expand(3, -1, -1))
    else:
        assert torch.equal(result, colour)


def test_a_frame_keeps_its_colour() -> None:
    """Noise that was estimated is not in areas without variation; of a strength that is given it is everywhere."""
    noise = torch.randn(3, 60, 60, generator=torch.Generator().manual_seed(0))
    image = torch.full((3, 80, 80), 0.93)
    image[:, 10:-10, 10:-10] = (0.5 + 0.1 * noise).clamp(0, 1)
    frame = torch.ones(80, 80, dtype=torch.bool)
    frame[10:-10, 10:-10] = False
    job = prepare_denoise(image, prior=GaussianPrior())
    assert 20 < job.sigma < 30
    result = job.run().image
    assert torch.equal(result[:, frame], image[:, frame]) and not torch.equal(result[:, ~frame], image[:, ~frame])
    given = prepare_denoise(image, job.sigma, prior=GaussianPrior()).run().image
    assert not torch.equal(given[:, frame], image[:, frame]) and torch.equal(given[:, ~frame], result[:, ~frame])


@pytest.mark.parametrize("task", TASKS)
def test_one_pixel_in_colour_makes_a_picture_colour(task: str) -> None:
    image = picture(1, 24, 30).repeat(3, 1, 1)
    image[0, -1, -1] += 0.1
    assert not torch.equal(*prepare(task, image, sigma=20.0).run().image[:2])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 7, 26])
def test_steps_are_network_evaluations(task: str, method: str, steps: int) -> None:
    spy, seen = Spy(), []
    job = prepare(task, picture(3, 6, 6), steps=steps, method=method, prior=spy)
    assert job.plan is not None and job.plan.evaluations == steps
    job.run(on_step=lambda step: seen.append((step.index, step.total)))
    assert len(spy.calls) == steps
    assert seen == [(i, steps) for i in range(1, steps + 1)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_one_evaluation(task: str, method: str) -> None:
    spy = Spy()
    prepare(task, picture(3, 6, 6), steps=1, method=method, prior=spy).run()
    assert len(spy.calls) == 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_only_our_own_method_mirrors_and_only_what_knows_it(task: str, method: str) -> None:
    """A prior of faces does not know them upside down, and the published methods are used as published."""
    prior = GaussianPrior()
    for prior.mirrors in (False, True):
        job = prepare(task, picture(3, 6, 6), method=method, prior=prior)
        assert job.plan is not None and job.plan.mirrored == (prior.mirrors and method == "auto")


@pytest.mark.parametrize(("task", "steps"), [("denoise", DENOISE.steps), ("inpaint", INPAINT.steps), ("upscale", 15)])
def test_default_steps(task: str, steps: int) -> None:
    spy = Spy()
    prepare(task, picture(3, 6, 6), prior=spy).run()
    assert len(spy.calls) == steps


BAD = {
    "sigma": (-1.0, math.nan, 255.5, math.inf),
    "steps": (0, -3, 10_001),
    "detail": (-0.1, 1.1, math.nan),
    "method": ("magic", ""),
    "seed": (-1, 2**63),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("bad", [{name: value} for name, values in BAD.items() for value in values], ids=str)
def test_an_option_out_of_range_is_refused_by_name(task: str, bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        prepare(task, picture(3, 4, 4), **bad)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (4, 4, 4), (1, 3, 4, 4), (3, 0, 4), (3, 4, 0)])
def test_what_is_no_picture_is_refused(task: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="channels"):
        prepare(task, torch.zeros(shape))


@pytest.mark.parametrize("scale", [0, 1, 0.5, 8.5, 16, -2])
def test_other_scales_are_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="scale"):
        prepare("upscale", picture(3, 4, 4), scale=scale)


@pytest.mark.parametrize("task", TASKS)
def test_what_on_step_raises_ends_the_run(task: str) -> None:
    spy = Spy()

    def stop(step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(task, picture(3, 4, 4), prior=spy).run(on_step=stop)
    assert len(spy.calls) == 1


# ------------------------------------------------------------------------------------------------------------ seeds


@pytest.mark.parametrize(
    ("task", "channels", "method"),
    [("denoise", 1, "auto"), ("denoise", 3, "ddpm"), ("inpaint", 3, "auto"), ("upscale", 3, "auto")],
)
def test_the_seed_decides_the_noise(task: str, channels: int, method: str) -> None:
    image = picture(channels, 9, 8)
    fields = []
    for seed in (3, 3, 4):
        spy = Spy()
        result = prepare(task, image, seed=seed, method=method, prior=spy, steps=3, detail=1.0).run().image
        fields.append((torch.stack([call.x for call in spy.calls]), result))
    (first, one), (second, two), (third, _) = fields
    assert torch.equal(first, second) and torch.equal(one, two)
    noise = first[-1] - third[-1]
    assert noise.std() > 0.005  # the last level of noise is 0.02


@pytest.mark.parametrize("task", TASKS)
def test_the_noise_does_not_depend_on_the_tiles(task: str) -> None:
    """A prior that looks at single pixels gives the same picture in any tiles if the noise is the same."""
    image = picture(1, 90, 70)
    options = {"method": "ddpm", "steps": 4, "detail": 1.0, "seed": 5}
    whole = prepare(task, image, **options).run().image
    spy = Spy()
    cut = prepare(task, image, prior=Tiled(spy, 48, overlap=12, batch=2), **options).run().image
    assert {call.x.shape[-2:] for call in spy.calls} == {(48, 48)} or task == "inpaint"
    assert len(spy.calls) > 4
    # Enlarging ends on the 256 levels of a file, where rounding may go either way.
    assert (whole - cut).abs().max() < (1.5 / 255 if task == "upscale" else 1e-5)


# ------------------------------------------------------------------------------------------------------------ tiles


def test_small_pictures_are_not_tiled_and_large_ones_are() -> None:
    small, large = with_default_tiles(GaussianPrior(), 1000, 1300), with_default_tiles(GaussianPrior(), 1001, 1300)
    assert MAX_UNTILED_PIXELS == 1000 * 1300 and small.count(1000, 1300) == 1
    assert large.tile in TILE_SIDES and large.count(1001, 1300) > 1 and large.overlap > 0


@pytest.mark.parametrize(
    ("height", "width", "side", "tiles"), [(2048, 2048, 736, 9), (4096, 4096, 736, 36), (300, 20000, 752, 29)]
)
def test_tiles_fit_the_picture(height: int, width: int, side: int, tiles: int) -> None:
    """The network processes no more pixels than with any other side, by counting them for each."""
    chosen = with_default_tiles(Smooth(), height, width)
    assert (chosen.tile, chosen.count(height, width)) == (side, tiles)
    assert all(
        tiles * side * min(side, height) <= Tiled(Smooth(), s, overlap=64).count(height, width) * s * min(s, height)
        for s in TILE_SIDES
    )


def test_a_network_of_one_size_sees_no_other() -> None:
    prior = GaussianPrior()
    prior.native_size = 32
    spy = Spy(prior)
    prepare("denoise", picture(3, 40, 70), prior=spy, steps=1).run()
    assert {tuple(call.x.shape[-2:]) for call in spy.calls} == {(32, 32)}


def test_tiles_given_by_the_user_are_respected() -> None:
    spy = Spy()
    given = Tiled(spy, 20, overlap=4)
    job = prepare("denoise", picture(3, 33, 50), prior=given, steps=2)
    assert job.prior is given and job.tiles == 2 * 3  # ceil((33-4)/16) x ceil((50-4)/16)
    counted = []
    job.run(on_tile=lambda done, total: counted.append((done, total)))
    assert {tuple(call.x.shape[-2:]) for call in spy.calls} == {(20, 20)}
    assert counted == [(i, 6) for i in range(1, 7)] * 2
    assert given.on_tile is None


# ------------------------------------------------------------------------------------------- memory and precision


@pytest.mark.parametrize("task", TASKS)
def test_nan_in_low_precision_is_repeated_in_full(task: str) -> None:
    image, precise = picture(3, 8, 8), Spy()
    restored = prepare(task, image, prior=Imprecise(precise), steps=2).run()
    assert torch.equal(restored.image, prepare(task, image, steps=2).run().image)
    assert len(precise.calls) == 2
    [note] = restored.notes
    assert "not finite" in note and "fp32" in note


@pytest.mark.parametrize("precise", [None, Imprecise(None)])
def test_nan_in_full_precision_is_the_model_s_fault(precise: Imprecise | None) -> None:
    with pytest.raises(ModelError, match="not finite"):
        prepare("denoise", picture(3, 8, 8), prior=Imprecise(precise)).run()


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, CPU_OUT_OF_MEMORY, MemoryError()])
def test_out_of_memory_halves_the_tiles(error: Exception) -> None:
    image, spy = picture(3, 300, 150), Spy()
    restored = prepare("denoise", image, prior=Greedy(128, error, spy), steps=2).run()
    assert torch.allclose(restored.image, prepare("denoise", image, steps=2).run().image, atol=1e-5)
    assert max(max(call.x.shape[-2:]) for call in spy.calls) == 75
    assert restored.notes == (
        "out of memory: repeated with 150-pixel tiles",
        "out of memory: repeated with 75-pixel tiles",
    )


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, CPU_OUT_OF_MEMORY])
def test_what_never_fits_is_the_device_s_fault(error: Exception) -> None:
    with pytest.raises(DeviceError, match="not enough memory") as caught:
        prepare("upscale", picture(3, 80, 80), prior=Greedy(MIN_TILE - 1, error)).run()
    assert "80-pixel" in str(caught.value) and caught.value.hint


def test_other_errors_are_not_hidden() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught:
        prepare("denoise", picture(3, 80, 80), prior=Greedy(8, error)).run()
    assert caught.value is error


def test_halving_begins_at_the_picture_s_size() -> None:
    untiled = Tiled(Greedy(128, OUT_OF_MEMORY), 1 << 30, overlap=0)
    notes = prepare("denoise", picture(3, 200, 150), prior=untiled, steps=1).run().notes
    assert len(notes) == 1


def test_tiles_made_for_want_of_memory_overlap() -> None:
    half = Tiled(GaussianPrior(), 256, overlap=0).halved(MIN_TILE)
    assert half is not None and half.overlap > 0


# ---------------------------------------------------------------------------------------------------------- denoise


def posterior_mean(image: Tensor, sigma: float, mu: float, v: float, gain: float = 1.0) -> Tensor:
    """Return E[x_0 | x] of a Gaussian prior N(mu, v) on [-1, 1], for noise of gain * sigma / 255 on [0, 1]."""
    s2 = (gain * 2 * sigma / 255) ** 2
    return ((v * signed(image) + s2 * mu) / (v + s2) + 1) / 2


@pytest.mark.parametrize("options", [{"steps": 1}, {"detail": 0.0}, {"steps": 9, "detail": 0.0}], ids=str)
@pytest.mark.parametrize(("channels", "gain"), [(3, 1.0), (1, math.sqrt(3))])
def test_one_evaluation_is_the_posterior_mean(options: dict[str, float], channels: int, gain: float) -> None:
    """The noise level of a gray picture is sqrt(3) times as high, so that it is white over three channels."""
    image, spy = unclipped(channels, 7, 5), Spy(GaussianPrior(0.1, 0.04))
    result = prepare_denoise(image, 30.0, prior=spy, **options).run().image
    assert len(spy.calls) == 1 and spy.calls[0].sigma == pytest.approx(gain * 60 / 255)
    assert torch.allclose(result, posterior_mean(image, 30, 0.1, 0.04, gain), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 10.0, 50.0])
def test_what_a_file_clips_off_is_given_back(sigma: float) -> None:
    """The result, noised and clipped to [0, 1], has as its mean the posterior mean of the clipped picture."""
    image = torch.linspace(0, 1, 180).view(3, 6, 10)
    result = prepare_denoise(image, sigma, steps=1, prior=GaussianPrior(0.0, 4.0)).run().image
    mean = posterior_mean(image, sigma, 0.0, 4.0)
    z = torch.linspace(-8, 8, 4001).double()
    noised = (result.double()[..., None] + sigma / 255 * z).clamp(0, 1)
    density = torch.exp(-z * z / 2)
    again = (noised * density).sum(-1) / density.sum()
    inside = (result > 0) & (result < 1)
    assert torch.allclose(again[inside], mean.double()[inside], atol=1e-5)
    assert result.min() == 0 and result.max() == 1 and inside.float().mean() > 0.5


def test_the_end_is_that_of_the_deterministic_process() -> None:
    """DDIM on a Gaussian prior is linear: x' - mu = (x - mu) (v + s s') / (v + s^2) for every step from s to s'."""
    image, mu, v = unclipped(3, 6, 4), 0.1, 0.04
    job = prepare_denoise(image, 30.0, steps=5, detail=1.0, method="ddim", prior=GaussianPrior(mu, v))
    assert job.plan is not None and job.plan.sigmas[0] == pytest.approx(60 / 255) and len(job.plan.sigmas) == 6
    shrink = math.prod((v + s * after) / (v + s * s) for s, after in pairwise(job.plan.sigmas))
    expected = (mu + shrink * (signed(image) - mu) + 1) / 2
    assert torch.allclose(job.run().image, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", ["auto", "ddpm"])
def test_detail_blends_linearly(channels: int, method: str) -> None:
    image = unclipped(channels, 6, 8)

    def run(detail: float) -> Tensor:
        return prepare("denoise", image, sigma=40.0, steps=4, detail=detail, method=method, seed=2).run().image

    end = run(1.0)
    mean = posterior_mean(image, 40, 0, 0.25, math.sqrt(3) if channels == 1 else 1)
    assert (end - mean).abs().max() > 0.01  # otherwise there is nothing to blend
    assert end.min() > 0 and end.max() < 1  # otherwise values are clipped, which is not linear
    for detail in (0.25, 0.5, 0.9):
        assert torch.allclose(run(detail), mean + detail * (end - mean), atol=1e-6)


def test_a_step_with_detail_is_refused() -> None:
    with pytest.raises(UsageError, match="one step"):
        prepare("denoise", picture(3, 4, 4), steps=1, detail=0.5)
    assert prepare("denoise", picture(3, 4, 4), steps=1, detail=0.0).detail == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_without_noise_nothing_happens(channels: int, size: tuple[int, int]) -> None:
    image, spy = picture(channels, *size), Spy()
    job = prepare_denoise(image, 0.0, prior=spy)
    assert job.plan is None and not job.notes
    assert torch.equal(job.run().image, image) and not spy.calls


def test_the_noise_is_estimated_where_it_is_not_given() -> None:
    noisy = 0.5 + 20 / 255 * torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0))
    job = prepare_denoise(noisy, prior=GaussianPrior())
    assert job.estimated and job.sigma == pytest.approx(20, rel=0.06)
    flat = prepare_denoise(torch.full((3, 32, 32), 0.5), prior=GaussianPrior()).measured()
    assert flat.estimated and flat.plan is None and "no noise" in flat.notes[0]


def test_a_gray_picture_is_lifted_to_white_noise() -> None:
    """The covariance over the channels is 3 s^2 I, and their mean is the picture itself."""
    s = 2 * 25 / 255
    noisy = 0.5 + 25 / 255 * torch.randn(1, 400, 400, generator=torch.Generator().manual_seed(1))
    job = prepare_denoise(noisy, 25.0, prior=GaussianPrior(), seed=7)
    colour = job.start[0]
    assert job.plan is not None and job.plan.sigmas[0] == pytest.approx(math.sqrt(3) * s)
    assert torch.allclose(colour.mean(0, keepdim=True), signed(noisy), atol=1e-5)
    covariance = torch.cov(colour.flatten(1).double()) / (3 * s * s)
    assert torch.allclose(covariance, torch.eye(3).double(), atol=0.015)  # 6 standard errors of 400 x 400 values
    for axis in (1, 2):
        a, b = colour.narrow(axis, 0, 399), colour.narrow(axis, 1, 399)
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.01


def test_weak_noise_is_taken_as_weak_as_it_is() -> None:
    for sigma in (0.05, 0.5, 2.0):
        spy = Spy()
        prepare("denoise", picture(3, 4, 4), sigma=sigma, prior=spy, steps=4).run()
        levels = [call.sigma for call in spy.calls]
        assert levels[0] == pytest.approx(2 * sigma / 255)
        assert all(after < before for before, after in pairwise(levels))


@pytest.mark.parametrize("method", ["repaint", "ddnm", "diffpir"])
def test_weak_noise_with_spacings_in_t(method: str) -> None:
    job = prepare("denoise", picture(3, 4, 4), sigma=1.0, method=method, steps=4)
    assert job.plan is not None
    assert job.plan.evaluations == 4 and job.plan.sigmas[0] == pytest.approx(2 / 255)


# ---------------------------------------------------------------------------------------------------------- inpaint


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_known_pixels_stay_and_the_hole_is_filled(channels: int, method: str) -> None:
    image, fill = picture(channels, 13, 9), hole(13, 9, 3, 2, 5)
    result = prepare_inpaint(image, fill, steps=4, method=method, prior=GaussianPrior(0.9, 1e-6)).run().image
    assert torch.equal(result[:, ~fill], image[:, ~fill])
    # The prior is certain that all pixels are 0.9 on [-1, 1].
    assert torch.allclose(result[:, fill], torch.tensor(0.95), atol=0.01)


def test_the_picture_under_the_mask_has_no_influence() -> None:
    image, fill = picture(3, 12, 12), hole(12, 12, 4, 4, 5)
    other = torch.where(fill, torch.rand(3, 12, 12), image)
    broken = torch.where(fill, torch.nan, image)
    results = [prepare_inpaint(x, fill, steps=5, prior=Smooth()).run().image for x in (image, other, broken)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("method", ["auto", "ddpm", "ddim", "repaint", "diffpir"])
def test_known_pixels_are_noised_again_at_every_step(method: str) -> None:
    """At every evaluation they are the data plus white noise of exactly the level of that evaluation."""
    image, fill, spy = picture(3, 72, 72), hole(72, 72, 20, 20, 12), Spy()
    job = prepare_inpaint(image, fill, steps=8, detail=1.0, method=method, prior=spy)
    job.run()
    known = ~fill
    noises = [(call.x[0] - signed(image))[:, known] / call.sigma for call in spy.calls]
    for noise in noises:
        assert noise.std() == pytest.approx(1, abs=0.03) and abs(noise.mean()) < 0.05
    correlation = float(torch.corrcoef(torch.stack([noises[0].flatten(), noises[1].flatten()]))[0, 1])
    if method in ("auto", "diffpir"):  # all noise is drawn anew
        assert abs(correlation) < 0.05
    if method == "ddim":  # no noise is drawn anew
        assert correlation > 0.999


def test_detail_is_the_noise_carried() -> None:
    image, fill = picture(3, 48, 48), hole(48, 48, 10, 10, 8)
    for detail in (0.0, 0.3, 1.0):
        spy = Spy()
        job = prepare_inpaint(image, fill, steps=5, detail=detail, prior=spy)
        job.run()
        assert job.detail == detail
        for call in spy.calls:
            noise = (call.x[0] - signed(image))[:, ~fill]
            assert float(noise.std()) == pytest.approx(detail * call.sigma, rel=0.05, abs=1e-6)


def test_the_network_sees_the_hole_and_its_surroundings_only() -> None:
    image = picture(3, 400, 300)
    fill = hole(400, 300, 250, 120, 10)
    spy = Spy()
    job = prepare_inpaint(image, fill, steps=2, detail=0.0, prior=spy)
    result = job.run().image
    assert {tuple(call.x.shape[-2:]) for call in spy.calls} == {(10 + 2 * CONTEXT, 10 + 2 * CONTEXT)}
    seen = image[:, 250 - CONTEXT : 260 + CONTEXT, 120 - CONTEXT : 130 + CONTEXT]
    outside = torch.ones(seen.shape[-2:], dtype=torch.bool)
    outside[CONTEXT : CONTEXT + 10, CONTEXT : CONTEXT + 10] = False
    assert torch.allclose(spy.calls[1].x[0][:, outside], signed(seen)[:, outside], atol=1e-6)
    assert torch.equal(result[:, ~fill], image[:, ~fill])
    assert not torch.equal(result[:, fill], image[:, fill])


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 290), (390, 0), (390, 290)])
def test_holes_at_the_corners(top: int, left: int) -> None:
    image, fill, spy = picture(1, 400, 300), hole(400, 300, top, left, 10), Spy(GaussianPrior(-0.8, 1e-6))
    result = prepare_inpaint(image, fill, steps=2, prior=spy).run().image
    assert {tuple(call.x.shape[-2:]) for call in spy.calls} == {(10 + CONTEXT, 10 + CONTEXT)}
    assert torch.equal(result[:, ~fill], image[:, ~fill])
    assert torch.allclose(result[:, fill], torch.tensor(0.1), atol=0.01)


def test_two_holes_far_apart() -> None:
    image = picture(3, 330, 40)
    fill = hole(330, 40, 0, 0, 4) | hole(330, 40, 326, 36, 4)
    result = prepare_inpaint(image, fill, steps=2, prior=GaussianPrior(0.6, 1e-6)).run().image
    assert torch.equal(result[:, ~fill], image[:, ~fill])
    assert torch.allclose(result[:, fill], torch.tensor(0.8), atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_an_empty_mask_copies(channels: int, size: tuple[int, int]) -> None:
    image, spy = picture(channels, *size), Spy()
    job = prepare_inpaint(image, torch.zeros(size, dtype=torch.bool), prior=spy)
    assert job.plan is None and job.notes == ("the mask is empty: the picture is copied",)
    assert torch.equal(job.run().image, image) and not spy.calls


def test_a_full_mask_fills_everything() -> None:
    image, fill = picture(3, 8, 6), torch.ones(8, 6, dtype=torch.bool)
    job = prepare_inpaint(image, fill, steps=3, prior=GaussianPrior(0.5, 1e-6))
    assert torch.allclose(job.run().image, torch.tensor(0.75), atol=0.01)
    assert "100.0 %" in job.notes[0] and "--invert-mask" in job.notes[1]


@pytest.mark.parametrize(
    ("rows", "share", "has_warning"),
    [
        (1, "10.0", False),
        (5, "50.0", False),
        (6, "60.0", False),
        (7, "70.0", True),
    ],
)
def test_the_coverage_is_told_and_much_of_it_is_warned_of(rows: int, share: str, has_warning: bool) -> None:
    fill = torch.zeros(10, 4, dtype=torch.bool)
    fill[:rows] = True
    notes = prepare_inpaint(picture(3, 10, 4), fill, prior=GaussianPrior()).notes
    assert notes[0] == f"the mask covers {share} % of the picture"
    assert len(notes) == 1 + has_warning
    assert not has_warning or "60 %" in notes[1]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mask is \(4, 5\)"):
        prepare_inpaint(picture(3, 5, 4), torch.zeros(4, 5, dtype=torch.bool), prior=GaussianPrior())


@pytest.mark.parametrize("channels", [1, 3])
def test_noisy_known_pixels_are_restored_too(channels: int) -> None:
    """One step of a prior that is certain of mu gives x0 + w (y - x0) with w = r^2 / (r^2 + s^2)."""
    image, fill, sigma, mu = picture(channels, 9, 7), hole(9, 7, 2, 2, 3), 50.0, 0.2
    job = prepare_inpaint(image, fill, sigma=sigma, steps=1, prior=GaussianPrior(mu, 1e-9))
    r2 = INPAINT.start**2 * INPAINT.prior_variance / (INPAINT.start**2 + INPAINT.prior_variance)
    w = r2 / (r2 + (2 * sigma / 255) ** 2)
    expected = torch.where(fill, torch.tensor(mu), mu + w * (signed(image) - mu))
    assert torch.allclose(job.run().image, (expected + 1) / 2, atol=1e-5)


def test_noise_of_known_pixels_can_be_estimated() -> None:
    noisy = 0.5 + 20 / 255 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    job = prepare_inpaint(noisy, hole(64, 64, 5, 5, 4), sigma=None, prior=GaussianPrior())
    assert job.estimated and job.sigma == pytest.approx(20, rel=0.1)


# ---------------------------------------------------------------------------------------------------------- upscale


def eight_bit(image: Tensor) -> Image.Image:
    """Return a picture (C, H, W) in [0, 1] as a Pillow image in 8 bits."""
    values = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def shrunk(image: Tensor, scale: int) -> np.ndarray:
    """Return a picture shrunk by Pillow in 8 bits, on the 0..255 scale."""
    small = eight_bit(image)
    return np.asarray(small.resize((small.width // scale, small.height // scale), Image.Resampling.BICUBIC), float)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Return the root mean square of the difference."""
    return float(np.sqrt(((a - b) ** 2).mean()))


def photographic(channels: int, height: int, width: int, scale: int) -> Tensor:
    """Return a wave, an edge and a gradient, with black and white, shrunk by Pillow as a photograph would be.

    Not every small picture has a large one in 256 levels that shrinks to it, but a picture that was shrunk has one.
    """
    size = (height * scale, width * scale)
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    planes = [(0.5 + 0.6 * torch.sin(9 * x + 4 * y)).clamp(0, 1), (x > y).float() * 0.9, y * x]
    small = shrunk(torch.stack(planes[:channels]), scale)
    return torch.from_numpy(small / 255).float().reshape(height, width, channels).permute(2, 0, 1)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["random", "photographic"])
def test_shrinking_the_result_gives_the_input_back(scale: int, channels: int, kind: str) -> None:
    image = picture(channels, 9, 12) if kind == "random" else photographic(channels, 9, 12, scale)
    result = prepare_upscale(image, scale, steps=3, prior=Smooth()).run().image
    assert result.shape == (channels, 9 * scale, 12 * scale)
    assert rms(shrunk(result, scale), np.asarray(eight_bit(image), float)) < 1


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_drawing_gives_its_input_nearly_back_because_it_has_no_more_halos_than_bicubic(scale: int) -> None:
    image = photographic(3, 9, 12, scale)[1:2]
    result = prepare_upscale(image, scale, steps=3, prior=Smooth()).run().image
    assert rms(shrunk(result, scale), np.asarray(eight_bit(image), float)) < 2
    smooth = (bicubic_enlargement(2 * image[None] - 1, scale)[0] + 1) / 2
    assert float(result.max()) <= float(smooth.max()) + 2.5 / 255


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_input_back(method: str) -> None:
    image = picture(3, 8, 7)
    result = prepare_upscale(image, 4, steps=4, method=method, prior=Smooth()).run().image
    assert rms(shrunk(result, 4), np.asarray(eight_bit(image), float)) < 1


@pytest.mark.parametrize("size", SIZES)
def test_tiny_pictures_are_enlarged_consistently(size: tuple[int, int]) -> None:
    image = picture(3, *size)
    result = prepare_upscale(image, 8, steps=2, prior=Smooth()).run().image
    assert rms(shrunk(result, 8), np.asarray(eight_bit(image), float)) < 1


def test_the_real_prior_gives_the_input_back() -> None:
    image = photographic(3, 10, 12, 2)
    result = prepare_upscale(image, 2, steps=2).run().image
    assert rms(shrunk(result, 2), np.asarray(eight_bit(image), float)) < 1


def test_a_gray_picture_stays_gray_and_its_estimates_are_corrected_too() -> None:
    spy = Spy(Smooth())
    job = prepare_upscale(picture(1, 6, 6), 2, steps=3, detail=0.0, prior=spy)
    assert job.run().image.shape == (1, 12, 12)
    assert job.degradation is not None and job.y is not None
    for call in spy.calls[1:]:  # without carried noise, the network sees the corrected estimate
        missing = job.degradation.measure(call.x) - job.y
        assert missing.abs().max() < 2 / 255


def test_noise_in_the_small_picture_loosens_the_data() -> None:
    image = picture(3, 12, 12)
    errors = []
    for sigma in (0.0, 10.0, 60.0):
        result = prepare_upscale(image, 2, sigma=sigma, steps=3, detail=0.0, prior=Smooth()).run().image
        errors.append(rms(shrunk(result, 2), np.asarray(eight_bit(image), float)))
    assert errors[0] < 1 < errors[1] < errors[2]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_data_weigh_by_their_noise(channels: int) -> None:
    """One step of a prior that is certain of mu gives the proximal point for s_y = 2 sigma / 255."""
    image, sigma, mu, defaults = picture(channels, 6, 5), 40.0, 0.2, UPSCALE[3]
    result = prepare_upscale(image, 3, sigma=sigma, steps=1, prior=GaussianPrior(mu, 1e-9)).run().image
    r2 = defaults.start**2 * defaults.prior_variance / (defaults.start**2 + defaults.prior_variance)
    flat = torch.full((1, channels, 18, 15), mu)
    expected = Bicubic(3).correct(flat, signed(image)[None], (2 * sigma / 255) ** 2, r2)[0]
    assert torch.allclose(result, ((expected + 1) / 2).clamp(0, 1), atol=1e-5)


def test_the_start_is_late() -> None:
    """The process starts at a noise level as low as the lost detail allows: lower for smaller factors."""
    levels = []
    for scale in (2, 3, 4, 8):
        spy = Spy()
        prepare_upscale(picture(3, 4, 4), scale, steps=2, prior=spy).run()
        levels.append(spy.calls[0].sigma)
    assert levels == pytest.approx([UPSCALE[scale].start for scale in (2, 3, 4, 8)])
    assert levels == sorted(levels)
