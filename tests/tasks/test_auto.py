"""Several repairs in one pass: what is sure is repaired as the single tasks do it, in order, and the rest is left."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from stubs import Smooth, Spy
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import Step as Evaluation
from restorer.errors import UsageError
from restorer.evaluation.metrics import psnr
from restorer.images.files import from_pil, visible_pixels
from restorer.images.sizes import Region
from restorer.measurement.blur import Blur as FoundBlur
from restorer.measurement.camera_noise import CameraNoise, measure_camera_noise
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import Jpeg
from restorer.measurement.jpeg_noise import NoiseBefore, find_noise_before
from restorer.measurement.scratches import Scratches
from restorer.tasks import auto, denoise, finding_blur, finding_scratches, finding_size
from restorer.tasks.auto import prepare_auto
from restorer.tasks.batching import batch_share
from restorer.tasks.blind_deblur import prepare_blind_deblur
from restorer.tasks.consistency import consistency_of
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.defaults import CAMERA, DECOMPRESS
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.enlarge import FIRST_DETAIL
from restorer.tasks.finding import Finding, Left, Seen, Step
from restorer.tasks.finding_blur import OTHER_BLUR, POSSIBLE_BLUR, is_wide
from restorer.tasks.finding_noise import POSSIBLE_NOISE
from restorer.tasks.finding_scratches import POSSIBLE_SCRATCHES, reaching
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.left_over import left_for_deblurring
from restorer.tasks.passes import Pass, everything
from restorer.tasks.upscale import prepare_upscale
from restorer.training.simulated_camera import Camera, photograph

IMAGES = Path(__file__).resolve().parents[1] / "images"


@cache
def scene(name: str = "gates.jpg", side: int = 128) -> Tensor:
    """Return the middle of a photograph at half its size, (3, H, W) in [0, 1]."""
    with Image.open(IMAGES / name) as image:
        small = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    left, top = (small.width - side) // 2, (small.height - side) // 2
    pixels = np.asarray(small.crop((left, top, left + side, top + side))).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def rounded(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255) / 255


def noisy(true: Tensor, sigma: float = 15.0) -> Tensor:
    return rounded(true + sigma / 255 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0)))


def compressed(x: Tensor, quality: int) -> tuple[Tensor, Jpeg]:
    """Return a picture as a JPEG file holds it, and what is known of the file."""
    file = io.BytesIO()
    Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255
    jpeg = find_jpeg(decoded, file.getvalue())
    assert jpeg is not None
    return decoded, jpeg


def shrunk(x: Tensor) -> Tensor:
    image = Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255


def steps_of(job: Job) -> list[str]:
    assert job.repairs is not None
    return [f"{repair.step}: {repair.action}" for repair in job.repairs]


def test_noise_alone_is_removed_as_by_denoise() -> None:
    y = noisy(scene())
    job = prepare_auto(y).measured()
    assert steps_of(job) == ["noise: denoise"] and "white noise of 1" in job.repairs[0].found  # type: ignore[index]
    assert torch.equal(job.run().image, prepare_denoise(y).run().image)


def test_camera_noise_alone_is_removed_as_by_denoise() -> None:
    y = photograph(255 * scene("grapes.jpg"), Camera(gain=0.006, read=1.5, chroma=1.5, chroma_share=0.8), 1) / 255
    job = prepare_auto(y, detail=0.1).measured()
    assert steps_of(job) == ["noise: denoise"] and "camera noise" in job.repairs[0].found  # type: ignore[index]
    assert torch.equal(job.run().image, prepare_denoise(y, detail=0.1).run().image)


def test_compression_alone_is_undone_as_by_dejpeg() -> None:
    y, jpeg = compressed(scene(), 30)
    job = prepare_auto(y, jpeg=jpeg).measured()
    assert steps_of(job)[0].startswith("noise: dejpeg") and job.jpeg is jpeg
    torch.testing.assert_close(job.run().image, prepare_dejpeg(y, jpeg).run().image)


def test_weak_noise_changes_little() -> None:
    x = scene("eagles.jpg")
    job = prepare_auto(x, jpeg=find_jpeg(x, None)).measured()
    assert steps_of(job) in ([], ["noise: denoise"])
    assert psnr(job.run().image, x) > 44


def test_compression_that_looks_like_noise_is_undone_before_what_is_left_is_removed() -> None:
    true = scene()
    y, jpeg = compressed(noisy(true, 15), 80)
    assert prepare_denoise(y).measured().noise.kind == "camera"  # type: ignore[union-attr]
    job = prepare_auto(y, jpeg=jpeg, detail=0).measured()
    assert steps_of(job) == ["noise: dejpeg, then denoise"] and "JPEG of quality 80" in job.repairs[0].found  # type: ignore[index]
    seen: list[Evaluation] = []
    result = job.run(seen.append).image
    assert seen[-1].total == job.evaluations == DECOMPRESS.steps + CAMERA.steps
    undone = prepare_dejpeg(y, jpeg, detail=0).run().image
    assert torch.equal(result, prepare_denoise(undone, detail=0).run().image)
    assert psnr(result, true) > psnr(prepare_denoise(y, jpeg=jpeg, detail=0).run().image, true) - 0.1
    region = Region(30, 40, 50, 60)
    part = prepare_auto(y, jpeg=jpeg, detail=0, region=region).run().image
    assert psnr(part, result[:, region.rows, region.columns]) > 45


@pytest.mark.parametrize(("sigma", "quality"), [(0, 40), (10, 60), (15, 85)])
def test_noise_in_a_file_is_measured_once_and_by_the_rule_of_denoise(
    sigma: float, quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[Tensor]()

    def measured(image: Tensor, *others: object) -> CameraNoise | None:
        calls.append(image)
        return measure_camera_noise(image, *others)  # type: ignore[arg-type]

    y, jpeg = compressed(noisy(scene("grapes.jpg", 192), sigma), quality)
    alone = prepare_denoise(y, jpeg=jpeg, detail=0).measured()
    monkeypatch.setattr(denoise, "measure_camera_noise", measured)
    job = prepare_auto(y, jpeg=jpeg, detail=0, without=("scratches", "blur")).measured()
    assert len(calls) == 1
    assert calls[0] is y
    assert job.noise == alone.noise


@pytest.mark.parametrize("chroma", [0.01, 0.2])
def test_noise_without_colour_is_not_sure_in_a_colour_picture(chroma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fine texture of stone was taken for such noise, with a high probability."""

    def measured(*arguments: object) -> CameraNoise:
        found = measure_camera_noise(*arguments)  # type: ignore[arg-type]
        assert found is not None
        return replace(found, chroma=chroma, probability=0.99)

    monkeypatch.setattr(denoise, "measure_camera_noise", measured)
    y = photograph(255 * scene("grapes.jpg"), Camera(gain=0.006, read=1.5, chroma=1.5, chroma_share=0.8), 1) / 255
    job = prepare_auto(y).measured()
    assert steps_of(job) == (["noise: denoise"] if chroma > 0.1 else [])
    assert (POSSIBLE_NOISE in job.notes) == job.is_copy == (chroma < 0.1)
    assert job.noise is not None and job.noise.probability == 0.99
    z, jpeg = compressed(y, 40)
    assert steps_of(prepare_auto(z, jpeg=jpeg).measured()) == ["noise: denoise"], "the file shows white noise"

    def coarse(jpeg: Jpeg) -> NoiseBefore:
        found = find_noise_before(jpeg)
        assert found is not None
        return replace(found, is_white=False)

    with monkeypatch.context() as context:
        context.setattr(denoise, "find_noise_before", coarse)
        context.setattr(denoise, "is_believed", lambda *arguments: False)
        both = steps_of(prepare_auto(z, jpeg=jpeg).measured()) == ["noise: denoise"]
        assert both == (chroma > 0.1), "without colour, it is not removed before the compression is undone"
    monkeypatch.setattr(denoise, "find_noise_before", lambda jpeg: None)
    assert steps_of(prepare_auto(z, jpeg=jpeg).measured())[0].startswith("noise: dejpeg")
    gray = prepare_auto(y.mean(0, keepdim=True).expand(3, -1, -1)).measured()
    assert steps_of(gray) == ["noise: denoise"], "in a gray picture, noise has no colour"


def test_outliers_are_filled_before_the_noise_is_removed() -> None:
    true, generator = scene(), torch.Generator().manual_seed(1)
    y, drawn = noisy(true, 8), torch.rand(true.shape[1:], generator=generator)
    y[:, drawn < 0.02], y[:, drawn > 0.98] = 0.0, 1.0
    job = prepare_auto(y, scale=2, detail=0).measured()
    assert steps_of(job) == ["noise: denoise", "enlarging: upscale by 2"] and job.outliers is not None
    assert "outliers: " in job.repairs[0].found and "noise of" in job.repairs[0].found  # type: ignore[index]
    seen: list[Evaluation] = []
    result = job.run(seen.append).image
    assert [step.index for step in seen] == list(range(1, job.evaluations + 1))
    small = torch.nn.functional.avg_pool2d(result[None], 2)[0]
    assert psnr(small, true) > 27 > psnr(y, true) + 8
    left = prepare_auto(y, without=("outliers",), prior=Smooth()).measured()
    assert left.outliers is None


@pytest.mark.parametrize("name", ["gates.jpg", "grapes.jpg"])
def test_a_good_picture_is_copied_and_it_is_said(name: str) -> None:
    x = scene(name)
    job = prepare_auto(x, jpeg=find_jpeg(x, None)).measured()
    assert job.is_copy and job.repairs == () and job.evaluations == 0
    assert auto.NOTHING_FOUND in job.notes
    assert torch.equal(job.run().image, x)


def test_noise_is_removed_before_a_picture_is_enlarged() -> None:
    true = scene()
    y = noisy(shrunk(true))
    job = prepare_auto(y, scale=2, detail=0).measured()
    assert steps_of(job) == ["noise: denoise", "enlarging: upscale by 2"]
    result = job.run().image
    assert result.shape == true.shape
    assert psnr(result, true) > psnr(prepare_upscale(y, 2, sigma=None, detail=0).run().image, true) + 0.5
    by_hand = prepare_upscale(rounded(prepare_denoise(y, detail=0).run().image), 2, sigma=0, detail=0).run().image
    assert psnr(result, true) > psnr(by_hand, true) - 0.05


def test_compression_is_undone_before_a_picture_is_enlarged() -> None:
    y, jpeg = compressed(shrunk(scene()), 40)
    job = prepare_auto(y, scale=2, jpeg=jpeg, detail=0).measured()
    assert [repair.step for repair in job.repairs or ()] == ["noise", "enlarging"]
    by_hand = prepare_upscale(y, 2, sigma=None, jpeg=jpeg, detail=0).run().image
    assert psnr(job.run().image, scene()) > psnr(by_hand, scene()) - 0.1


def test_a_clean_picture_is_enlarged_as_by_upscale() -> None:
    y = shrunk(scene("grapes.jpg"))
    job = prepare_auto(y, scale=2).measured()
    assert steps_of(job) == ["enlarging: upscale by 2"] and job.repairs[0].found == ""  # type: ignore[index]
    torch.testing.assert_close(job.run().image, prepare_upscale(y, 2, sigma=0).run().image)


def test_a_soft_picture_is_sharpened_unless_blur_is_left() -> None:
    image = Image.fromarray((shrunk(scene(side=256)) * 255).byte().permute(1, 2, 0).numpy())
    soft = image.resize((64, 64), Image.Resampling.BICUBIC).resize((128, 128), Image.Resampling.BICUBIC)
    y = torch.from_numpy(np.asarray(soft).copy()).permute(2, 0, 1) / 255
    job = prepare_auto(y, scale=2).measured()
    assert "blur of about" in job.repairs[-1].found  # type: ignore[index]
    left = prepare_auto(y, scale=2, without=("blur",)).measured()
    assert left.repairs[-1].found == ""  # type: ignore[index]
    assert not torch.equal(job.run().image, left.run().image)


@pytest.mark.parametrize("kernel", [gaussian_kernel(2.2), gaussian_kernel(3.0)])
def test_a_blur_is_undone_after_a_faithful_enlargement(kernel: Tensor) -> None:
    """The network that sharpens is not asked at a detail of 0. In the enlarged picture the blur is wide."""
    soft, true = blurred(kernel)
    y = shrunk(soft)
    job = prepare_auto(y, scale=2, detail=0).measured()
    assert steps_of(job) == ["enlarging: upscale by 2, then deblur"] and "blur of about" in job.repairs[0].found  # type: ignore[index]
    result = job.run()
    assert finding_size.SHARPENED in result.notes
    enlarged = prepare_upscale(y, 2, sigma=0, detail=0).run().image
    assert psnr(result.image, true) > psnr(enlarged, true) + 0.5
    left = prepare_auto(y, scale=2, detail=0, without=("blur",)).measured()
    assert steps_of(left) == ["enlarging: upscale by 2"]


def test_a_region_of_a_picture_that_is_deblurred_after_its_enlargement(monkeypatch: pytest.MonkeyPatch) -> None:
    y, region = shrunk(blurred(gaussian_kernel(2.5))[0]), Region(20, 16, 40, 24)
    whole, part = (prepare_auto(y, scale=2, detail=0, region=r).measured().run().image for r in (None, region))
    large = region.scaled(2)
    assert part.shape == (3, large.height, large.width)
    assert float((part - whole[:, large.rows, large.columns]).abs().max()) <= 2 / 255


def test_what_is_not_surely_blurred_is_enlarged_faithfully(monkeypatch: pytest.MonkeyPatch) -> None:
    y = shrunk(blurred(gaussian_kernel(2.5))[0])
    likely = FoundBlur("gaussian", 2.5, 2.5, probability=0.9)
    monkeypatch.setattr(finding_size, "find_blur", lambda *given: likely)
    result = prepare_auto(y, scale=2, detail=0).measured().run()
    assert finding_size.LEFT_SOFT in result.notes
    torch.testing.assert_close(result.image, prepare_upscale(y, 2, sigma=0, detail=0).run().image)


@pytest.mark.parametrize("scale", [None, 2])
def test_progress_is_that_of_one_job(scale: int | None) -> None:
    seen: list[Evaluation] = []
    prior = Spy(Smooth())
    y, jpeg = compressed(scene(side=96), 30)
    job = prepare_auto(y, scale=scale, jpeg=jpeg, without=("noise",), prior=prior).measured()
    before = len(prior.calls)
    job.run(seen.append)
    assert [step.index for step in seen] == list(range(1, job.evaluations + 1))
    assert {step.total for step in seen} == {job.evaluations} and len(prior.calls) - before == job.evaluations


def test_what_is_left_out_is_left() -> None:
    y = noisy(scene())
    assert prepare_auto(y, without=("noise",)).measured().is_copy
    z, jpeg = compressed(scene(), 30)
    assert prepare_auto(z, jpeg=jpeg, without=("noise", "jpeg")).measured().is_copy
    assert steps_of(prepare_auto(z, jpeg=jpeg, without=("noise",)).measured()) == ["noise: dejpeg"]
    enlarged = prepare_auto(shrunk(y), scale=2, without=("noise",)).measured()
    assert steps_of(enlarged) == ["enlarging: upscale by 2"] and enlarged.sigma == 0
    with pytest.raises(UsageError, match="there is no step 'dust'"):
        prepare_auto(y, without=("dust",))


def test_gray_pictures_stay_gray() -> None:
    gray = noisy(scene().mean(0, keepdim=True))
    for scale, factor in ((None, 1), (2, 2)):
        one = prepare_auto(gray, scale=scale).run().image
        three = prepare_auto(gray.expand(3, -1, -1), scale=scale).run().image
        assert one.shape == (1, factor * 128, factor * 128)
        assert (three == three[:1]).all()
        torch.testing.assert_close(three[:1], one)


@pytest.mark.parametrize("scale", [None, 2])
def test_a_region_is_that_part_of_the_whole(scale: int | None) -> None:
    factor, region = scale or 1, Region(100, 110, 40, 30)
    y = noisy(scene(side=240))
    whole = prepare_auto(y, scale=scale, detail=0.3).run().image
    job = prepare_auto(y, scale=scale, detail=0.3, region=region).measured()
    part = job.run().image
    assert part.shape == (3, factor * 30, factor * 40)
    inside = region.scaled(factor)
    assert psnr(part, whole[:, inside.rows, inside.columns]) > 45
    assert (consistency_of(job, part).rms is None) == (scale is not None)


def test_consistency_goes_back_through_all_repairs() -> None:
    y = noisy(shrunk(scene()))
    job = prepare_auto(y, scale=2, detail=0).measured()
    rms = consistency_of(job, job.run().image).rms
    assert rms is not None and 8 < rms < 16, "the difference is the noise that was removed"


def test_transparency_is_enlarged_too() -> None:
    alpha = torch.zeros(64, 64)
    alpha[20:40, 20:40] = 1
    job = prepare_auto(shrunk(scene()), scale=2, alpha=alpha, prior=Smooth()).measured()
    restored = job.run()
    assert restored.alpha is not None and restored.alpha.shape == (128, 128)
    assert float(restored.alpha[60, 60]) == 1 and float(restored.alpha[4, 4]) == 0


def test_hidden_pixels_are_no_evidence() -> None:
    """What lies under full transparency does not count: here the noise covers what is seen, and nothing else."""
    pixels = (noisy(scene("grapes.jpg"), 40) * 255).byte().permute(1, 2, 0).numpy()
    clean = (scene("grapes.jpg") * 255).byte().permute(1, 2, 0).numpy()
    pixels[:, :96] = clean[:, :96]
    alpha = np.full((128, 128, 1), 255, np.uint8)
    alpha[:, :96] = 0
    picture = from_pil(Image.fromarray(np.concatenate((pixels, alpha), 2)))
    x = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    assert prepare_auto(x).measured().is_copy
    assert steps_of(prepare_auto(x, evidence=visible_pixels(picture)).measured()) == ["noise: denoise"]


def test_an_enlargement_does_not_share_evaluations() -> None:
    y = noisy(scene(side=64))
    assert batch_share(prepare_auto(y, scale=2)) == batch_share(prepare_auto(y, scale=2).measured()) == 1
    assert batch_share(prepare_auto(y)) < 1


def finder_of(hole: Tensor) -> Callable[[Seen], Finding]:
    """Return a step's function that finds a hole, bool (H, W)."""

    def find(seen: Seen) -> Finding:
        def prepare(detail: float | None, left: Left) -> Pass:
            def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
                return prepare_inpaint(image, hole, detail=detail, seed=seen.seed, region=region, prior=prior)

            planned = begin(seen.image, seen.prior, None)
            return Pass(begin, planned.evaluations, planned.detail, everything)

        return Finding("a line", "inpaint", prepare, hides=hole)

    return find


def test_a_step_with_passes_of_its_own_is_one_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide and narrow holes are filled in two passes, after which the other repairs follow."""
    hole = torch.zeros(128, 128, dtype=torch.bool)
    hole[10:14], hole[50:90, 50:90] = True, True
    monkeypatch.setattr(auto, "STEPS", (Step("lines", finder_of(hole)), *auto.STEPS))
    prior = Spy(Smooth())
    job = prepare_auto(noisy(scene()), scale=2, prior=prior).measured()
    assert steps_of(job) == ["lines: inpaint", "noise: denoise", "enlarging: upscale by 2"]
    before, seen = len(prior.calls), list[Evaluation]()
    assert job.run(seen.append).image.shape == (3, 256, 256)
    assert [step.index for step in seen] == list(range(1, job.evaluations + 1))
    assert len(prior.calls) - before >= job.evaluations > 40


def test_a_step_before_the_others_changes_what_they_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finder of holes slots in by one entry: the noise, which was measured beside them, is removed from the rest."""
    hole = torch.zeros(128, 128, dtype=torch.bool)
    hole[40:44] = True
    monkeypatch.setattr(auto, "STEPS", (Step("lines", finder_of(hole)), *auto.STEPS))
    true = scene()
    y = noisy(true)
    y[:, hole] = 1.0
    job = prepare_auto(y, scale=2, detail=0).measured()
    assert steps_of(job) == ["lines: inpaint", "noise: denoise", "enlarging: upscale by 2"]
    seen: list[Evaluation] = []
    result = job.run(seen.append).image
    assert [step.index for step in seen] == list(range(1, job.evaluations + 1))
    monkeypatch.undo()
    untouched = prepare_auto(noisy(true), scale=2, detail=0).run().image
    assert psnr(result, untouched) > 27
    assert psnr(result[:, 100:], untouched[:, 100:]) > 45


def test_a_step_that_takes_white_noise_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finder of blur slots in by one entry: white noise is left to the deblurring, other noise is removed first."""
    kernel = gaussian_kernel(1.2)

    def find(seen: Seen) -> Finding:
        def prepare(detail: float | None, left: Left) -> Pass:
            def begin(image: Tensor, prior: Prior, region: Region | None) -> Job:
                return prepare_deblur(image, kernel, sigma=left.sigma, detail=detail, region=region, prior=prior)

            planned = begin(seen.image, seen.prior, None)
            return Pass(begin, planned.evaluations, planned.detail, everything, again=planned.again)

        return Finding("a blur", "deblur", prepare, takes_noise=True, noise_detail=None)

    monkeypatch.setattr(auto, "STEPS", (auto.STEPS[1], Step("blur", find), auto.STEPS[-1]))
    blurred = Blur(kernel).measure(scene()[None])[0]
    y = noisy(blurred, 5.0)
    job = prepare_auto(y, detail=0).measured()
    assert steps_of(job) == ["noise: deblur", "blur: deblur"] and 4 < job.sigma < 6
    assert torch.equal(job.run().image, prepare_deblur(y, kernel, sigma=job.sigma, detail=0).run().image)
    z, jpeg = compressed(rounded(blurred), 40)
    both = prepare_auto(z, jpeg=jpeg, scale=2, prior=Smooth()).measured()
    assert [repair.step for repair in both.repairs or ()] == ["noise", "blur", "enlarging"]
    restored = both.run().image
    assert restored.shape == (3, 2 * z.shape[-2], 2 * z.shape[-1])
    assert consistency_of(both, restored).rms is not None
    region = Region(20, 30, 16, 12)
    part = prepare_auto(z, jpeg=jpeg, scale=2, prior=Smooth(), region=region).run().image
    assert part.shape == (3, 24, 32)


def test_nothing_is_rounded_between_the_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Tensor] = []
    original = finding_size.enlarge

    def spied(part: Tensor, *arguments: object, **named: object) -> Job:
        got.append(part)
        return original(part, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(finding_size, "enlarge", spied)
    y = noisy(shrunk(scene()))
    prepare_auto(y, scale=2).run()
    assert torch.equal(got[-1], prepare_denoise(y, detail=FIRST_DETAIL).run().image)
    assert float((got[-1] - rounded(got[-1])).abs().max()) > 0.3 / 255


def blurred(kernel: Tensor, name: str = "gates.jpg") -> tuple[Tensor, Tensor]:
    """Return a blurred picture, and what it would be without the blur."""
    x = scene(name, 160)
    down, across = (side // 2 for side in kernel.shape)
    return Blur(kernel).measure(x[None])[0], x[:, down : 160 - down, across : 160 - across]


def test_a_wide_blur_is_undone_and_white_noise_is_left_to_it() -> None:
    soft, true = blurred(defocus_kernel(3.0))
    y = noisy(soft, 2.5)
    job = prepare_auto(y).measured()
    assert steps_of(job) == ["noise: deblur", "blur: deblur"] and 2 < job.sigma < 3
    assert job.blur is not None and job.blur.kind == "defocus" and 2.7 < job.blur.size < 3.3
    result = job.run().image
    assert torch.equal(result, prepare_deblur(y, job.blur.kernel(), sigma=job.sigma).run().image)
    assert psnr(result, true) > psnr(y, true) + 1.5
    left = prepare_auto(y, without=("blur",)).measured()
    assert "blur" not in str(steps_of(left)) and left.blur is None
    region = Region(30, 40, 50, 60)
    part = prepare_auto(y, region=region).run().image
    assert psnr(part, result[:, region.rows, region.columns]) > 40


@pytest.mark.parametrize("kind", ["camera", "compressed", "left compressed"])
def test_noise_that_is_not_white_is_not_amplified(kind: str) -> None:
    """Coarse noise is weak at the finest detail, and was taken for weak white noise: the result was 7 dB worse."""
    soft, true = blurred(defocus_kernel(3.0))
    jpeg = None
    if kind == "camera":
        y = photograph(255 * soft, Camera(gain=0.0001, read=0.5, chroma=1.0, chroma_share=0.8), 1) / 255
    else:
        y, jpeg = compressed(noisy(soft, 2), 90)
    job = prepare_auto(y, jpeg=jpeg, without=("noise", "jpeg") if kind == "left compressed" else ()).measured()
    assert "deblur" in steps_of(job)[-1]
    assert psnr(job.run().image, true) > psnr(y, true) + 1


@pytest.mark.parametrize("sigma", [0.0, 0.8])
@pytest.mark.parametrize("name", ["gates.jpg", "grapes.jpg"])
def test_the_softness_of_photographs_is_left(name: str, sigma: float) -> None:
    y = rounded(blurred(gaussian_kernel(sigma), name)[0]) if sigma else scene(name, 160)
    job = prepare_auto(y).measured()
    assert job.is_copy and job.blur is None and job.notes == (auto.NOTHING_FOUND,)


@pytest.mark.parametrize(
    ("blur", "wide"),
    [
        (FoundBlur("gaussian", 1.3, 1.3), True),
        (FoundBlur("gaussian", 1.6, 1.0), False),
        (FoundBlur("defocus", 1.5), True),
        (FoundBlur("defocus", 1.4), False),
        (FoundBlur("motion", 4.0, angle=30), True),
        (FoundBlur("motion", 3.9), False),
        (FoundBlur("other", 0.0), False),
    ],
)
def test_which_blurs_are_wide(blur: FoundBlur, wide: bool) -> None:
    assert is_wide(blur) == wide


def test_what_blur_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def notes(blur: FoundBlur, scale: int | None = None) -> tuple[str, ...]:
        monkeypatch.setattr(finding_blur, "find_blur", lambda image, evidence, prior: blur)
        job = prepare_auto(scene(side=64), scale=scale, without=("noise", "outliers", "scratches")).measured()
        assert "deblur" not in str(steps_of(job))
        return job.notes

    assert POSSIBLE_BLUR in notes(FoundBlur("defocus", 3.0, probability=0.9))
    assert OTHER_BLUR in notes(FoundBlur("other", 0.0, probability=0.9))
    assert notes(FoundBlur("gaussian", 0.9, 0.9, probability=0.9)) == (auto.NOTHING_FOUND,)
    assert POSSIBLE_BLUR not in notes(FoundBlur("gaussian", 2.0, 2.0), scale=2), "enlarging sees to it"


@pytest.mark.parametrize(
    ("again", "is_undone"),
    [
        (FoundBlur("defocus", 3.1, probability=0.97), True),
        (FoundBlur("defocus", 3.1, probability=0.9), False),
        (FoundBlur("defocus", 4.5, probability=0.97), False),
        (FoundBlur("motion", 3.1, angle=20.0, probability=0.97), False),
        (None, False),
    ],
)
def test_a_likely_blur_is_looked_for_again_without_the_compression(
    again: FoundBlur | None, is_undone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, jpeg = compressed(rounded(blurred(defocus_kernel(3.0))[0]), 60)
    likely = FoundBlur("defocus", 3.0, probability=0.85)
    monkeypatch.setattr(finding_blur, "find_blur", lambda image, *rest: likely if image is y else again)
    job = prepare_auto(y, jpeg=jpeg, detail=0).measured()
    assert steps_of(job) == ["noise: dejpeg"] + ["blur: deblur"] * is_undone
    assert job.blur == (again if is_undone else likely)
    assert (POSSIBLE_BLUR in job.notes) != is_undone


@pytest.mark.parametrize("kernel", [gaussian_kernel(2.5), motion_kernel(17, 90)])
def test_what_a_wide_blur_leaves_is_not_taken_for_noise(kernel: Tensor) -> None:
    """What was left beneath a wide kernel looked like coarse noise, and the result was up to 4 dB worse."""
    y, true = blurred(kernel)
    y = rounded(y)
    job = prepare_auto(y, detail=0).measured()
    assert steps_of(job) == ["blur: deblur"]
    alone = prepare_blind_deblur(y, detail=0).run().image
    assert psnr(job.run().image, true) > psnr(alone, true) - 0.1


def test_a_blurred_picture_is_deblurred_before_it_is_enlarged() -> None:
    soft, _ = blurred(motion_kernel(10, 30))
    job = prepare_auto(rounded(soft), scale=2, detail=0).measured()
    assert steps_of(job) == ["blur: deblur", "enlarging: upscale by 2"]
    assert job.run().image.shape == (3, 2 * soft.shape[-2], 2 * soft.shape[-1])


def stroked(side: int = 160) -> tuple[Tensor, Tensor, Tensor]:
    """Return smooth ground, the same with bright strokes, and where they are."""
    down, across = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    ground = rounded(((50 + 0.2 * across + 0.1 * down) / 255).expand(3, -1, -1))
    image, mask = Image.new("L", (side, side)), Image.new("1", (side, side))
    for line in ((10, 20, 150, 60), (30, 150, 90, 80), (120, 90, 125, 150)):
        ImageDraw.Draw(image).line(line, 250, 3)
        ImageDraw.Draw(mask).line(line, 1, 3)
    hole = torch.from_numpy(np.array(mask))
    return ground, torch.where(hole, 250 / 255, ground), hole


@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_scratches_are_filled_and_are_no_evidence(sigma: float) -> None:
    ground, y, hole = stroked()
    if sigma:
        y = torch.where(hole, y, noisy(ground, sigma))
    job = prepare_auto(y).measured()
    assert steps_of(job) == [*(["noise: denoise"] if sigma else []), "scratches: inpaint"]
    assert "scratches or specks" in job.repairs[-1].found  # type: ignore[index]
    seen: list[Evaluation] = []
    result = job.run(seen.append).image
    assert [step.index for step in seen] == list(range(1, job.evaluations + 1))
    assert psnr(result[:, hole], ground[:, hole]) > 35 and psnr(result, ground) > 36
    if sigma:
        assert job.noise is not None and job.noise.sigma == pytest.approx(sigma, rel=0.15)
    assert "scratches" not in str(steps_of(prepare_auto(y, without=("scratches",)).measured()))
    assert prepare_auto(ground).measured().is_copy


def test_scratches_do_not_come_back_from_the_file() -> None:
    """Undoing a compression stays within the file, which has the scratches, so they are filled afterwards."""
    ground, y, hole = stroked()
    texture = 20 / 255 * torch.nn.functional.avg_pool2d(torch.randn(1, 3, 164, 164), 5, 1)[0]
    z, jpeg = compressed(torch.where(hole, y, (ground + texture).clamp(0, 1)), 40)
    job = prepare_auto(z, jpeg=jpeg).measured()
    assert steps_of(job) == ["noise: dejpeg", "scratches: inpaint"]
    assert float(job.run().image[:, hole].max()) < 0.6 < float(z[:, hole].min())


def test_a_region_without_scratches_is_enlarged_all_the_same() -> None:
    _, y, _ = stroked()
    job = prepare_auto(y, scale=2, region=Region(0, 130, 16, 16), prior=Smooth()).measured()
    assert not job.is_copy and job.run().image.shape == (3, 32, 32)


def test_scratches_under_noise_are_filled_after_it() -> None:
    ground, _, hole = stroked()
    z = noisy(torch.where(hole, ground + 100 / 255, ground), 25.0)
    job = prepare_auto(z, detail=0).measured()
    assert steps_of(job) == ["noise: denoise", "scratches: inpaint"]
    result = job.run().image
    left = prepare_auto(z, detail=0, without=("scratches",)).run().image
    assert psnr(result[:, hole], ground[:, hole]) > psnr(left[:, hole], ground[:, hole]) + 3
    assert steps_of(prepare_auto(noisy(ground, 25.0), detail=0).measured()) == ["noise: denoise"]


def test_scratches_under_noise_that_was_compressed_are_filled_after_both() -> None:
    ground, _, hole = stroked()
    z, jpeg = compressed(noisy(torch.where(hole, ground + 100 / 255, ground), 20.0), 85)
    job = prepare_auto(z, jpeg=jpeg, detail=0).measured()
    assert steps_of(job) == ["noise: denoise", "scratches: inpaint"] and not job.notes
    result = job.run().image
    left = prepare_auto(z, jpeg=jpeg, detail=0, without=("scratches",)).run().image
    assert psnr(result[:, hole], ground[:, hole]) > psnr(left[:, hole], ground[:, hole]) + 3
    z, jpeg = compressed(noisy(ground, 20.0), 85)
    assert steps_of(prepare_auto(z, jpeg=jpeg, detail=0).measured()) == ["noise: denoise"]


def looks(monkeypatch: pytest.MonkeyPatch, *found: Scratches) -> list[Tensor]:
    """Let the finder see these in turn, and return the pictures that it is shown."""
    shown, left = list[Tensor](), list(found)

    def look(image: Tensor, *arguments: object, **named: object) -> Scratches:
        shown.append(image)
        return left.pop(0)

    monkeypatch.setattr(finding_scratches, "scratches_of", look)
    return shown


def places(*rows: int, sure: float = 0.9) -> Scratches:
    fill = np.zeros((128, 128), bool)
    fill[list(rows), 20:100] = True
    return Scratches(fill, len(rows), sure, 7.0)


def test_scratches_that_are_doubted_in_strong_noise_are_looked_for_with_half_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y = noisy(scene(), 20.0)
    shown = looks(monkeypatch, places(30, 60, sure=0.5), places(30, 60))
    job = prepare_auto(y, detail=0).measured()
    assert steps_of(job) == ["noise: denoise", "scratches: inpaint"]
    assert POSSIBLE_SCRATCHES not in job.notes, "the second look is sure"
    restored = prepare_denoise(y, detail=0).run().image
    torch.testing.assert_close(shown[1], (y + restored) / 2)
    job.run()
    assert len(shown) == 2, "what was found beneath the noise is not looked for again"


@pytest.mark.parametrize("was_compressed", [False, True])
def test_only_where_noise_was_removed_a_second_look_says_how_far_scratches_reach(
    was_compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, jpeg = compressed(scene(), 40) if was_compressed else (noisy(scene(), 20.0), None)
    first, filled = places(30, 60), list[Tensor]()
    first.fill[30, 100:110] = True
    looks(monkeypatch, first, places(30, 60))

    def fill(image: Tensor, hole: Tensor, **options: object) -> Job:
        filled.append(hole)
        return prepare_inpaint(image, hole, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(finding_scratches, "prepare_inpaint", fill)
    job = prepare_auto(y, jpeg=jpeg, detail=0).measured()
    assert steps_of(job)[-1] == "scratches: inpaint" and len(steps_of(job)) == 2
    job.run()
    assert [bool(hole[30, 109]) for hole in (filled[0], filled[-1])] == [True, was_compressed]


def test_scratches_that_are_doubted_twice_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = looks(monkeypatch, places(30, 60, sure=0.5), places(30, 60, sure=0.5))
    job = prepare_auto(noisy(scene(), 20.0), detail=0).measured()
    assert steps_of(job) == ["noise: denoise"] and POSSIBLE_SCRATCHES in job.notes and len(shown) == 2


@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_weak_noise_hides_no_scratches(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = looks(monkeypatch, places(30, 60, sure=0.5))
    job = prepare_auto(noisy(scene(), sigma) if sigma else scene(), detail=0).measured()
    assert "scratches: inpaint" not in steps_of(job) and len(shown) == 1


def test_the_look_at_the_picture_without_noise_says_how_far_scratches_reach() -> None:
    """The first of these places is larger than it should be, the second is found in part, the third not at all."""
    first, second = np.zeros((2, 20, 20), bool)
    first[2, 2:12], first[8, 2:12], first[14, 2:12] = True, True, True
    second[2, 2:10], second[8, 2:6], second[18, 2:6] = True, True, True
    expected = first.copy()
    expected[2, 10:12], expected[18, 2:6] = False, True
    assert (reaching(first, second) == expected).all()
    assert (reaching(first, np.zeros_like(first)) == first).all()
    assert (reaching(np.zeros_like(first), second) == second).all()


@pytest.mark.parametrize(
    ("places", "sure", "highest", "length", "filled"),
    [
        (1, 0.8, 8, 40, False),
        (1, 0.86, 8, 40, True),
        (1, 0.7, 12, 40, True),  # a single pixel is certain
        (2, 0.8, 8, 300, True),
        (2, 0.75, 8, 40, True),
        (2, 0.75, 8, 300, False),  # so much may be a facade
        (2, 0.65, 8, 40, False),
    ],
)
def test_what_may_be_of_the_scene_is_left(
    places: int, sure: float, highest: float, length: int, filled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = np.zeros((64, 64), bool)
    fill[26:33].flat[:length] = True
    found = Scratches(fill, places, sure, highest)
    monkeypatch.setattr(finding_scratches, "scratches_of", lambda *arguments, **named: found)
    job = prepare_auto(scene(side=64), without=("noise", "outliers"), prior=Smooth()).measured()
    assert steps_of(job) == (["scratches: inpaint"] if filled else [])
    assert (POSSIBLE_SCRATCHES in job.notes) == (not filled)


def test_noise_before_a_deblurring_is_removed_at_the_default_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost of a blurred picture together with its noise is amplified by the deblurring."""
    soft, true = blurred(defocus_kernel(3.0))
    y = photograph(255 * soft, Camera(gain=0.0005, read=0.5, chroma=1.0, chroma_share=0.8), 1) / 255
    monkeypatch.setattr(finding_blur, "find_blur", lambda *given: FoundBlur("defocus", 3.0, probability=0.99))
    job = prepare_auto(y, detail=0).measured()
    assert steps_of(job) == ["noise: denoise", "blur: deblur"]
    assert job.noise is not None and job.noise.kind == "camera" and job.blur is not None
    removed = {detail: prepare_denoise(y, detail=detail).measured().run().image for detail in (None, 0.0)}
    after = {
        detail: prepare_deblur(x, job.blur.kernel(), sigma=left_for_deblurring(job.noise, None), detail=0).run().image
        for detail, x in removed.items()
    }
    torch.testing.assert_close(job.run().image, after[None])
    assert psnr(after[None], true) > psnr(after[0.0], true)
