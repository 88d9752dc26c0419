"""The Python API returns a result of the same type, size and mode as its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image, ImageCms
from stubs import Smooth, Spy

import restorer
from restorer import denoise, inpaint, upscale
from restorer.errors import UsageError

SIZES = [(1, 1), (1, 7), (3, 2), (17, 33)]  # (height, width)
MODES = ["L", "LA", "RGB", "RGBA"]
TASKS = ["denoise", "inpaint", "upscale"]


def pil(mode: str = "RGB", height: int = 12, width: int = 10, seed: int = 0) -> Image.Image:
    """Return a Pillow image of uniform noise."""
    values = np.random.default_rng(seed).integers(60, 196, (height, width, 4), dtype=np.uint8)
    bands = [Image.fromarray(values[..., i]) for i in range(Image.getmodebands(mode))]
    return bands[0] if len(bands) == 1 else Image.merge(mode, bands)


def tensor(channels: int = 3, height: int = 12, width: int = 10, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor of uniform noise in [0.25, 0.75]."""
    values = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (0.25 + values / 2).to(dtype)


def corner(height: int = 12, width: int = 10) -> np.ndarray:
    """Return a mask, bool (H, W), that fills the top left quarter."""
    fill = np.zeros((height, width), bool)
    fill[: (height + 1) // 2, : (width + 1) // 2] = True
    return fill


def restore(task: str, picture: Any, **options: Any) -> Any:
    """Run a task with options that make it cheap, unless `options` overrides them."""
    options = {"prior": Smooth(), "steps": 3, **options}
    if task == "denoise":
        return denoise(picture, options.pop("sigma", 15.0), **options)
    if task == "inpaint":
        size = picture.shape[-2:] if isinstance(picture, torch.Tensor) else picture.size[::-1]
        return inpaint(picture, options.pop("mask", corner(*size)), **options)
    return upscale(picture, options.pop("scale", 2), **options)


def test_the_names_of_the_package() -> None:
    assert restorer.denoise is denoise and callable(restorer.load_prior)
    assert set(restorer.__all__) == {"dejpeg", "denoise", "inpaint", "upscale", "load_prior", "generate"}
    with pytest.raises(AttributeError, match="colorize"):
        restorer.colorize  # noqa: B018


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_a_pillow_image_comes_back_in_its_mode(task: str, mode: str, size: tuple[int, int]) -> None:
    image = pil(mode, *size)
    before = image.tobytes()
    result = restore(task, image)
    factor = 2 if task == "upscale" else 1
    assert isinstance(result, Image.Image) and result.mode == mode
    assert result.size == (factor * size[1], factor * size[0])
    assert image.tobytes() == before


@pytest.mark.parametrize(("mode", "expected"), [("P", "RGB"), ("1", "L"), ("CMYK", "RGB"), ("I;16", "I;16")])
def test_other_modes_come_back_as_the_nearest_of_these(mode: str, expected: str) -> None:
    source = Image.new("I;16", (10, 12), 30_000) if mode == "I;16" else pil("RGB").convert(mode)
    assert restore("denoise", source).mode == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_comes_back_in_its_type(task: str, dtype: torch.dtype, channels: int) -> None:
    image = tensor(channels, 5, 7, dtype)
    before = image.clone()
    result = restore(task, image)
    factor = 2 if task == "upscale" else 1
    assert result.dtype == dtype and result.shape == (channels, 5 * factor, 7 * factor)
    assert result.isfinite().all() and not result.requires_grad
    assert torch.equal(image, before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_tensors_of_any_size(size: tuple[int, int], channels: int) -> None:
    image = tensor(channels, *size)
    assert restore("denoise", image).shape == image.shape
    assert restore("inpaint", image).shape == image.shape
    assert restore("upscale", image, scale=3).shape == (channels, 3 * size[0], 3 * size[1])


def test_a_tensor_that_requires_a_gradient() -> None:
    image = tensor().requires_grad_()
    assert not restore("denoise", image).requires_grad and image.grad is None


def test_a_tensor_and_the_image_of_its_values_give_the_same() -> None:
    image = pil()
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    for task in TASKS:
        expected = (restore(task, values) * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(restore(task, image)), expected)


def test_values_beyond_0_and_1_are_not_clamped_on_the_way_in() -> None:
    """The posterior mean of a Gaussian prior is linear in the data, also outside the range."""
    image = tensor() * 4 - 1.5
    result = denoise(image, 255.0, steps=1, prior=GaussianPrior(0.0, 1.0))  # v / (v + s^2) = 1 / (1 + 4)
    assert torch.allclose(result, ((image * 2 - 1) / 5 + 1) / 2, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- denoise


@pytest.mark.parametrize("mode", MODES)
def test_sigma_0_gives_the_picture_back(mode: str) -> None:
    image, spy = pil(mode), Spy()
    assert denoise(image, 0.0, prior=spy).tobytes() == image.tobytes()
    assert not spy.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sigma_0_gives_the_tensor_back(dtype: torch.dtype) -> None:
    image = tensor(3, 6, 5, dtype)
    assert torch.equal(denoise(image, 0.0, prior=Spy()), image)


def test_sigma_0_gives_a_double_tensor_back() -> None:
    image = tensor(dtype=torch.float64)
    assert torch.equal(denoise(image, 0.0, prior=Spy()), image)


def test_the_noise_is_estimated_by_default() -> None:
    noisy = 0.5 + 20 / 255 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    spy = Spy()
    denoise(noisy, steps=1, prior=spy)
    assert spy.calls[0].sigma == pytest.approx(2 * 20 / 255, rel=0.1)


@pytest.mark.parametrize(("options", "evaluations"), [({"steps": 1}, 1), ({"detail": 0}, 1), ({"steps": 4}, 4)])
def test_evaluations_and_what_on_step_hears(options: dict[str, Any], evaluations: int) -> None:
    spy, reported = Spy(), []
    denoise(pil(), 20.0, prior=spy, on_step=reported.append, **options)
    assert len(spy.calls) == len(reported) == evaluations
    assert [step.index for step in reported] == list(range(1, evaluations + 1))
    assert all(step.total == evaluations and step.x0.shape == (1, 3, 12, 10) for step in reported)
    assert [step.sigma for step in reported] == pytest.approx([call.sigma for call in spy.calls])


def test_alpha_and_hidden_colour_stay() -> None:
    image = pil("RGBA")
    values = np.array(image)
    values[:4, :, 3] = 0
    values[:4, :, :3] = np.random.default_rng(3).integers(0, 256, (4, 10, 3))
    result = np.asarray(denoise(Image.fromarray(values), 30.0, steps=2, prior=Smooth()))
    assert np.array_equal(result[..., 3], values[..., 3])
    assert np.array_equal(result[:4], values[:4])
    assert not np.array_equal(result[4:, :, :3], values[4:, :, :3])


def test_hidden_colour_has_no_influence() -> None:
    values = np.array(pil("RGBA"))
    values[:4, :, 3] = 0
    other = values.copy()
    other[:4, :, :3] = 255 - other[:4, :, :3]
    results = [np.asarray(denoise(Image.fromarray(v), 30.0, steps=2, prior=Smooth()))[4:] for v in (values, other)]
    assert np.array_equal(*results)


def test_colour_under_transparency_is_no_evidence_of_noise() -> None:
    """The noise is estimated from the visible part, as if the rest were not there."""
    rng = np.random.default_rng(0)
    pixels = np.clip(np.rint(128 + rng.normal(0, 25, (96, 200, 4))), 0, 255).astype(np.uint8)
    pixels[..., 3] = 255
    pixels[:, 100:, 3] = 0
    whole, cut = (restored_noise(Image.fromarray(part)) for part in (pixels[:, :100], pixels))
    assert 20 < cut < 30 and cut == pytest.approx(whole, rel=0.1)


def restored_noise(image: Image.Image) -> float:
    """Return the noise level at which `denoise` starts for an image, on the 0..255 scale."""
    spy = Spy()
    denoise(image, detail=0, prior=spy)
    return 127.5 * spy.calls[0].sigma


def test_alpha_is_enlarged_with_the_picture() -> None:
    image = Image.new("RGBA", (6, 4), (90, 120, 150, 77))
    result = upscale(image, 3, steps=2, prior=Smooth())
    assert result.size == (18, 12) and (np.asarray(result)[..., 3] == 77).all()


def test_metadata_stay_with_the_image() -> None:
    image = pil()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info.update(icc_profile=profile, exif=exif.tobytes(), dpi=(300, 300))
    for task in TASKS:
        result = restore(task, image)
        assert result.info["icc_profile"] == profile and result.info["dpi"] == (300, 300)


# ---------------------------------------------------------------------------------------------------------- inpaint


@pytest.mark.parametrize("mode", MODES)
def test_known_pixels_are_the_input_s(mode: str) -> None:
    image, fill = pil(mode), corner()
    result = inpaint(image, fill, steps=3, prior=GaussianPrior(1.0, 1e-6))
    before, after = np.asarray(image), np.asarray(result)
    assert np.array_equal(after[~fill], before[~fill])
    colour = after[fill] if mode in ("L", "RGB") else after[fill][..., :-1]
    assert (colour >= 253).all()  # the prior is certain of white
    if mode in ("LA", "RGBA"):
        assert np.array_equal(after[..., -1], before[..., -1])


def test_known_values_of_a_tensor_stay_even_outside_0_and_1() -> None:
    image, fill = tensor() * 3 - 1, torch.from_numpy(corner())
    result = inpaint(image, fill, steps=2, prior=Smooth())
    assert torch.equal(result[:, ~fill], image[:, ~fill])


def test_known_values_of_a_double_tensor_stay() -> None:
    image, fill = tensor(dtype=torch.float64), torch.from_numpy(corner())
    assert torch.equal(inpaint(image, fill, steps=2, prior=Smooth())[:, ~fill], image[:, ~fill])


@pytest.mark.parametrize(
    "kind",
    [
        lambda fill: fill,
        lambda fill: fill.astype(np.uint8),  # 1 means fill, as any value but 0 does
        lambda fill: fill[None].astype(np.float32),
        lambda fill: torch.from_numpy(fill),
        lambda fill: torch.from_numpy(fill)[None].long(),
        lambda fill: Image.fromarray(fill),
        lambda fill: Image.fromarray(fill.astype(np.uint8)),
        lambda fill: Image.fromarray(fill.astype(np.uint8) * 255).convert("RGB"),
    ],
    ids=["bool", "uint8", "(1, H, W)", "tensor", "long tensor", "1", "L", "RGB"],
)
def test_masks_of_many_kinds(kind: Callable[[np.ndarray], Any]) -> None:
    image, fill = tensor(), corner()
    expected = inpaint(image, fill, steps=2, prior=Smooth())
    assert torch.equal(inpaint(image, kind(fill), steps=2, prior=Smooth()), expected)


@pytest.mark.parametrize("size", [(10, 12), (12, 11), (1, 1), (2, 12, 10)])
@pytest.mark.parametrize("picture", [tensor(), pil()], ids=["tensor", "pil"])
def test_a_mask_of_another_size_is_refused(picture: Any, size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="mask"):
        inpaint(picture, np.ones(size, bool), prior=Smooth())


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_mask_gives_the_picture_back(mode: str) -> None:
    image = pil(mode)
    assert inpaint(image, np.zeros((12, 10)), prior=Smooth()).tobytes() == image.tobytes()


def test_noisy_known_pixels_change() -> None:
    image, fill = pil(), corner()
    result = np.asarray(inpaint(image, fill, sigma=25, steps=3, prior=Smooth()))
    assert not np.array_equal(result[~fill], np.asarray(image)[~fill])


# ---------------------------------------------------------------------------------------------------------- upscale


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_shrinking_gives_the_picture_back(scale: int, mode: str) -> None:
    image = pil(mode)
    large = upscale(image, scale, steps=2, prior=Smooth())
    small = np.asarray(large.resize(image.size, Image.Resampling.BICUBIC), float)
    assert np.sqrt(((small - np.asarray(image, float)) ** 2).mean()) < 1


def test_the_default_scale_is_4() -> None:
    assert upscale(pil(), steps=2, prior=Smooth()).size == (40, 48)


# ------------------------------------------------------------------------------------------------------------ every


@pytest.mark.parametrize("task", TASKS)
def test_the_embedded_prior_is_the_default(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(Smooth())
    monkeypatch.setattr("restorer.tasks.common.load_prior", lambda: spy)
    restore(task, pil(), prior=None)
    assert len(spy.calls) == 3


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_bytes(task: str) -> None:
    image = pil("L")
    first, second, other = (restore(task, image, seed=s, method="ddpm", detail=1.0).tobytes() for s in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"detail": 2.0}, {"method": "magic"}, {"seed": -1}, {"sigma": float("nan")}], ids=str
)
@pytest.mark.parametrize("picture", [tensor(), pil()], ids=["tensor", "pil"])
def test_an_option_out_of_range_is_refused(task: str, bad: dict[str, Any], picture: Any) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        restore(task, picture, **bad)
    with pytest.raises(ValueError):  # the built-in class that Python programs expect
        restore(task, picture, **bad)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(UsageError):
        denoise(torch.zeros(4, 4), 5.0, prior=Smooth())


def test_an_integer_tensor_is_refused() -> None:
    with pytest.raises(UsageError):
        denoise((tensor() * 255).byte(), 5.0, prior=Smooth())


def test_an_array_is_refused_for_what_it_is() -> None:
    with pytest.raises((UsageError, TypeError)):
        denoise(np.asarray(pil()), 5.0, prior=Smooth())  # type: ignore[type-var]
