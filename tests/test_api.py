"""The Python API returns a result of the same type, size and mode as its input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image, ImageCms
from stubs import Smooth, Spy

import restorer
from restorer import denoise, inpaint, upscale
from restorer.errors import ModelError, PictureError, UsageError

SIZES = [(1, 1), (1, 7), (3, 2), (17, 33)]  # (height, width)
MODES = ["L", "LA", "RGB", "RGBA"]
TASKS = ["denoise", "inpaint", "upscale"]


def pil(mode: str = "RGB", height: int = 12, width: int = 10, seed: int = 0) -> Image.Image:
    """Return a Pillow image of uniform noise."""
    values = np.random.default_rng(seed).integers(60, 196, (height, width, 4), dtype=np.uint8)
    bands = [Image.fromarray(values[..., i]) for i in range(Image.getmodebands(mode))]
    return bands[0] if len(bands) == 1 else Image.merge(mode, bands)


def tensor(
    channels: int = 3, height: int = 12, width: int = 10, dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    """Return a tensor of uniform noise in [0.25, 0.75]."""
    values = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.25 + values / 2).to(dtype)


def corner(height: int = 12, width: int = 10) -> np.ndarray:
    """Return a mask, bool (H, W), that fills the top left quarter."""
    fill = np.zeros((height, width), bool)
    fill[: (height + 1) // 2, : (width + 1) // 2] = True
    return fill


def size_of(picture: Any) -> tuple[int, int]:
    """Return the height and width of a picture; 1 and 1 of what is none."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    shape = tuple(getattr(picture, "shape", ()))
    pair = shape[:2] if isinstance(picture, np.ndarray) else shape[-2:]
    return (int(pair[0]), int(pair[1])) if len(pair) == 2 else (1, 1)


def restore(task: str, picture: Any, **options: Any) -> Any:
    """Run a task with options that make it cheap, unless `options` overrides them."""
    options = {"prior": Smooth(), "steps": 3, **options}
    if task == "denoise":
        return denoise(picture, options.pop("sigma", 15.0), **options)
    if task == "inpaint":
        mask = options.pop("mask") if "mask" in options else corner(*size_of(picture))
        return inpaint(picture, mask, **options)
    return upscale(picture, options.pop("scale", 2), **options)


def test_the_names_of_the_package() -> None:
    assert restorer.denoise is denoise and callable(restorer.load_prior)
    assert set(restorer.__all__) == {
        "auto",
        "deblur",
        "dejpeg",
        "denoise",
        "inpaint",
        "upscale",
        "load_prior",
        "load_start",
        "generate",
        "restore_folder",
    }
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


def erased(mode: str = "RGBA") -> Image.Image:
    """A picture of which a corner is transparent, and a line beside it half transparent."""
    alpha = np.full((12, 10), 255, np.uint8)
    alpha[:4, :5], alpha[4, :5] = 0, 100
    image = pil("L" if mode == "LA" else "RGB")
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_the_mask_alpha_is_that_of_the_command(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is transparent is filled and becomes opaque, and all else stays as it is."""
    from restorer.cli.app import run
    from restorer.models import load as models_load

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    image = erased(mode)
    image.save("a.png")
    assert run(["inpaint", "a.png", "--mask", "alpha", "--steps", "2", "-o", "made.png", "-q"]) == 0
    expected = np.asarray(Image.open("made.png"))
    result = inpaint(image, "alpha", steps=2, prior=Smooth())
    assert np.array_equal(np.asarray(result), expected)
    assert result.mode == mode[:-1]  # nothing is transparent any more
    known = np.asarray(image)[..., -1] == 255
    assert np.array_equal(np.asarray(result)[known], np.asarray(image.convert(mode[:-1]))[known])
    assert np.array_equal(np.asarray(inpaint("a.png", "alpha", steps=2, prior=Smooth())), expected)
    part = inpaint(image, "alpha", steps=2, region=(2, 1, 7, 8), prior=Smooth())
    assert part.size == (7, 8) and part.mode == mode[:-1]


def test_the_mask_alpha_of_an_opaque_picture_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inpaint(pil(), "alpha", prior=Smooth()).tobytes() == pil().tobytes()
    assert torch.equal(inpaint(tensor(), "alpha", prior=Smooth()), tensor())
    Image.fromarray(corner()).save("alpha", "PNG")  # a file of that name is a mask like others
    assert np.array_equal(
        np.asarray(inpaint(pil(), "alpha", steps=2, prior=Smooth())),
        np.asarray(inpaint(pil(), corner(), steps=2, prior=Smooth())),
    )


def test_a_batch_of_erased_pictures() -> None:
    first, second = inpaint([erased(), erased("LA")], "alpha", steps=2, prior=Smooth())
    assert (first.mode, second.mode) == ("RGB", "L")


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


# --------------------------------------------------------------------------------------------- what people pass


def array(mode: str = "RGB", dtype: str = "uint8") -> np.ndarray:
    """Return the pixels of `pil` as an array of a type whose white is 255, 65535 or 1."""
    values = np.asarray(pil(mode)).astype(float) / 255
    scale = {"uint8": 255, "uint16": 65535}.get(dtype.lstrip(">"), 1)
    return np.rint(values * scale).astype(dtype) if scale > 1 else values.astype(dtype)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32", "float64", "float16"])
def test_an_array_comes_back_in_its_type_and_layout(task: str, mode: str, dtype: str) -> None:
    values = array(mode, dtype)
    before = values.copy()
    options = {"mask": corner()} if task == "inpaint" else {}
    result = restore(task, values, **options)
    factor = 2 if task == "upscale" else 1
    assert isinstance(result, np.ndarray) and result.dtype == values.dtype
    assert result.shape == (12 * factor, 10 * factor, *values.shape[2:])
    assert np.array_equal(values, before) and not np.shares_memory(result, values)
    if mode in ("LA", "RGBA") and task != "upscale":
        assert np.allclose(result[..., -1], values[..., -1], rtol=0, atol=1e-7)


def test_an_array_with_one_channel_keeps_that_axis() -> None:
    assert restore("denoise", array("L")[..., None]).shape == (12, 10, 1)
    assert restore("denoise", array("L", "float32")[..., None]).shape == (12, 10, 1)


def test_every_kind_of_picture_gives_the_same_result(tmp_path: Path) -> None:
    image = pil()
    image.save(tmp_path / "img.png")
    values = np.asarray(image)
    planes = torch.from_numpy(values.copy()).permute(2, 0, 1)
    for task in ("denoise", "upscale"):
        expected = np.asarray(restore(task, image))
        assert np.array_equal(restore(task, values), expected)
        assert np.array_equal(restore(task, planes).permute(1, 2, 0), expected)
        assert np.array_equal(np.asarray(restore(task, tmp_path / "img.png")), expected)
        assert np.array_equal(np.asarray(restore(task, str(tmp_path / "img.png"))), expected)
        floats = restore(task, values.astype("float32") / 255)
        assert np.array_equal(np.rint(floats * 255), expected)


def test_a_path_gives_a_pillow_image_with_metadata(tmp_path: Path) -> None:
    pil().save(tmp_path / "img.png", dpi=(300, 300))
    result = restore("denoise", tmp_path / "img.png")
    assert isinstance(result, Image.Image) and result.info["dpi"] == pytest.approx((300, 300), rel=1e-3)


def test_paths_of_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"absent\.png"):
        denoise(str(tmp_path / "absent.png"), 5.0, prior=Smooth())
    (tmp_path / "text.png").write_bytes(b"text")
    with pytest.raises(PictureError):
        denoise(tmp_path / "text.png", 5.0, prior=Smooth())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_an_integer_tensor_comes_back_in_its_type(dtype: torch.dtype) -> None:
    white = 255 if dtype == torch.uint8 else 65535
    result = restore("denoise", (tensor() * white).round().to(dtype))
    expected = restore("denoise", (tensor() * white).round() / white)
    assert result.dtype == dtype
    assert torch.equal(result.float(), (expected * white).round())


def batches() -> list[Any]:
    images = [tensor(seed=k) for k in range(3)]
    arrays = [array() for _ in range(3)]
    return [torch.stack(images), images, tuple(images), np.stack(arrays), [pil(), tensor(1), array("L")]]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("index", range(5), ids=["tensor", "list", "tuple", "array", "mixed"])
def test_each_picture_of_a_batch_is_what_it_is_alone(task: str, index: int) -> None:
    batch = batches()[index]
    options: dict[str, Any] = {"mask": corner()} if task == "inpaint" else {}
    result = restore(task, batch, method="ddpm", detail=1.0, **options)
    assert type(result) is type(batch) and len(result) == len(batch)
    for together, one in zip(result, batch, strict=True):
        alone = restore(task, one, method="ddpm", detail=1.0, **options)
        assert np.array_equal(np.asarray(together), np.asarray(alone))


def test_a_batch_with_a_mask_for_each_picture() -> None:
    images, masks = torch.stack([tensor(), tensor()]), [corner(), ~corner()]
    expected = torch.stack([restore("inpaint", images[0], mask=m) for m in masks])
    for given in (masks, np.stack(masks), torch.from_numpy(np.stack(masks))[:, None]):
        assert torch.equal(restore("inpaint", images, mask=given), expected)
    with pytest.raises(UsageError, match="3 masks, but 2 pictures"):
        restore("inpaint", images, mask=[corner()] * 3)


def test_an_empty_batch() -> None:
    assert denoise([], 5.0, prior=Smooth()) == []
    with pytest.raises(UsageError, match="no picture"):
        denoise(torch.zeros(0, 3, 8, 8), 5.0, prior=Smooth())


def test_an_error_names_the_picture_of_the_batch() -> None:
    with pytest.raises(UsageError, match=r"picture 1 of the batch: a tensor must have the shape \(C, H, W\)"):
        denoise([tensor(), torch.zeros(4, 4)], 5.0, prior=Smooth())


WRONG_PICTURES: dict[str, tuple[Any, str]] = {
    "0..255": (tensor() * 255, "divide by 255"),
    "0..255, dark": (tensor() * 20, "divide by 255"),
    "0..65535": (tensor() * 65535, "divide by 65535"),
    "-1..1": (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1, "add 1 and divide by 2"),
    "-1..1, a gradient": (torch.linspace(-1, 1, 64).expand(3, 64, 64), "add 1 and divide by 2"),
    "0..255 in an array": (array().astype("float32"), "divide by 255"),
    "0..255 with transparency": (array("RGBA").astype("float32"), "divide by 255"),
    "nan": (torch.full((3, 8, 8), torch.nan), "nan"),
    "infinite": (np.full((8, 8), np.inf), "nan"),
    "(H, W, C)": (torch.rand(8, 9, 3), "permute(2, 0, 1)"),
    "(H, W)": (torch.rand(8, 9), "tensor[None]"),
    "RGBA": (torch.rand(4, 8, 9), "tensor[:-1]"),
    "five axes": (torch.rand(1, 1, 3, 8, 9), ""),
    "no pixels": (torch.rand(3, 0, 9), ""),
    "(C, H, W) array": (np.zeros((3, 8, 9), np.uint8), "transpose(1, 2, 0)"),
    "an empty array": (np.zeros((0, 8, 3)), ""),
    "int64": (torch.zeros(3, 8, 8, dtype=torch.int64), "convert it to float"),
    "int32 array": (np.zeros((8, 8), np.int32), "convert it to float"),
    "bool array": (np.zeros((8, 8), bool), "convert it to float"),
    "bool tensor": (torch.zeros(3, 8, 8, dtype=torch.bool), "convert it to float"),
    "complex": (torch.zeros(3, 8, 8, dtype=torch.complex64), "convert it to float"),
    "objects": (np.array([[None]]), "convert it to float"),
    "sparse": (torch.zeros(3, 8, 8).to_sparse(), "to_dense"),
    "meta": (torch.zeros(3, 8, 8, device="meta"), "to_dense"),
    "None": (None, ""),
    "a number": (3, ""),
    "bytes": (b"abc", ""),
    "an empty image": (Image.new("RGB", (0, 4)), ""),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", WRONG_PICTURES)
def test_a_wrong_picture_is_refused_in_one_line(task: str, name: str) -> None:
    value, advice = WRONG_PICTURES[name]
    options = {"mask": np.zeros(size_of(value))} if task == "inpaint" else {}
    with pytest.raises(UsageError) as caught:
        restore(task, value, **options)
    assert "\n" not in str(caught.value) and advice in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("sigma", [25, 50, 100])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0], ids=["black", "gray", "white"])
def test_noise_beyond_0_and_1_is_no_wrong_scale(sigma: int, level: float) -> None:
    """Half of the noise on black lies below 0, a fortieth of it below -2 sigma."""
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1)) * sigma / 255
    assert denoise(level + noise, float(sigma), steps=1, prior=Smooth()).shape == (3, 64, 64)
    assert denoise((level + noise)[:, :5, :5], float(sigma), steps=1, prior=Smooth()).shape == (3, 5, 5)


def test_a_few_extreme_values_are_no_wrong_scale() -> None:
    image = tensor(3, 64, 64)
    image[:, 5, 7], image[:, 9, 3] = 40.0, -40.0
    assert denoise(image, 10.0, steps=1, prior=Smooth()).shape == (3, 64, 64)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2.0},
        {"seed": np.int64(0)},
        {"steps": np.float32(2)},
        {"seed": torch.tensor(0)},
        {"detail": np.float64(1)},
    ],
    ids=str,
)
def test_whole_numbers_of_other_types_are_taken(task: str, options: dict[str, Any]) -> None:
    plain = {name: float(value) if name == "detail" else int(value) for name, value in options.items()}
    assert restore(task, pil(), **options).tobytes() == restore(task, pil(), **plain).tobytes()


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"steps": 2.5}, {"steps": True}, {"steps": "4"}, {"steps": np.nan}, {"steps": [4]}, {"steps": np.bool_(True)},
    {"seed": 1.5}, {"seed": True}, {"seed": float("inf")}, {"seed": 10**400},
    {"detail": True}, {"detail": "1"}, {"detail": np.nan}, {"detail": 1j},
    {"sigma": True}, {"sigma": "25"}, {"sigma": np.array([1.0, 2.0])}, {"sigma": torch.tensor(float("nan"))},
    {"method": 3}, {"method": None}, {"prior": 3}, {"prior": torch.nn.Identity()}, {"on_step": 3},
    {"region": 3}, {"region": (0, 0, 4)}, {"region": (0, 0, 0, 4)}, {"region": (8, 0, 4, 4)},
    {"region": (0, 0, 1.5, 4)}, {"region": (-1, 0, 4, 4)}, {"region": "a,b,c,d"}, {"region": True},
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
def test_a_wrong_option_is_refused_in_one_line(task: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        restore(task, pil(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 3},
        {"noise": np.zeros(2)},
        {"jpeg": np.zeros(2)},
        {"strength": np.nan},
        {"strength": True},
        {"jpeg": True},
    ],
    ids=str,
)
def test_wrong_options_of_denoise_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        denoise(pil(), prior=Smooth(), **options)


@pytest.mark.parametrize("mask", [None, 3, "absent.png", object(), {"a": 1}, np.full((12, 10), np.nan), [[1, 2], [3]]])
def test_a_wrong_mask_is_refused(mask: Any) -> None:
    with pytest.raises((UsageError, PictureError)):
        inpaint(pil(), mask, prior=Smooth())


def test_a_prior_by_name_and_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("restorer.tasks.common.load_prior", lambda name: asked.append(name) or Smooth())
    for name in ("photo", Path("models") / "mine"):
        restore("denoise", pil(), prior=name)
    assert asked == ["photo", str(Path("models") / "mine")]


@pytest.mark.parametrize(
    "options",
    [{"count": 1.5}, {"count": True}, {"size": 8.5}, {"size": (8, 8, 8)}, {"size": "8"}, {"steps": "2"}, {"prior": 3}],
    ids=str,
)
def test_wrong_options_of_generate_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        restorer.generate(**{"count": 1, "size": 8, "steps": 1, "prior": Smooth(), **options})


def test_an_unknown_prior_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="there is no model 'nothing'"):
        denoise(pil(), 5.0, prior="nothing")


# ------------------------------------------------------------------------------------------- sizes and regions


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale": 1.5}, (15, 18)), ({"scale": 2.5}, (25, 30)), ({"scale": 3.3}, (33, 40)), ({"scale": 2.0}, (20, 24)),
        ({"width": 25}, (25, 30)), ({"height": 18}, (15, 18)), ({"width": 30, "height": 30}, (25, 30)),
    ],
    ids=str,
)  # fmt: skip
def test_any_size(options: dict[str, Any], size: tuple[int, int]) -> None:
    for mode in ("L", "RGBA"):
        assert upscale(pil(mode), steps=2, prior=Smooth(), **options).size == size


def test_a_size_between_is_the_next_larger_one_shrunk() -> None:
    """Pillow shrinks floats of one channel with the same filter."""
    image = tensor(1)
    large = upscale(image, 2, steps=2, prior=Smooth())
    expected = Image.fromarray(large[0].numpy()).resize((15, 18), Image.Resampling.BICUBIC)
    result = upscale(image, 1.5, steps=2, prior=Smooth())
    assert np.abs(result[0].numpy() - np.asarray(expected).clip(0, 1)).max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [{"scale": 1}, {"scale": 8.1}, {"scale": True}, {"scale": "2"}, {"width": 10}, {"width": 81}, {"height": 3},
     {"scale": 2, "width": 20}, {"width": 20.5}, {"width": 0}, {"scale": np.nan}],
    ids=str,
)  # fmt: skip
def test_sizes_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        upscale(pil(), steps=2, prior=Smooth(), **options)


@pytest.mark.parametrize("kind", [pil, tensor, array], ids=["pil", "tensor", "array"])
def test_a_region_is_a_part_of_the_kind_that_was_passed(kind: Callable[[], Any]) -> None:
    whole = kind()
    for task, factor in (("denoise", 1), ("inpaint", 1), ("upscale", 2)):
        options = {"mask": corner()} if task == "inpaint" else {}
        result = restore(task, whole, region=(2, 3, 5, 4), **options)
        assert type(result) is type(whole)
        assert np.asarray(result).size == 3 * 5 * 4 * factor**2
    left = restore("inpaint", whole, mask=np.zeros((12, 10)), region="2,3,5,4")
    assert np.array_equal(np.asarray(left), np.asarray(restore("denoise", whole, sigma=0, region=(2, 3, 5, 4))))


@pytest.mark.parametrize("kind", ["image", "array", "tensor", "batch"])
def test_auto_returns_the_same_kind_and_tells_what_it_found(kind: str) -> None:
    picture: Any = {
        "image": pil(),
        "array": np.asarray(pil()),
        "tensor": tensor(),
        "batch": [pil("L"), pil("RGBA", seed=1)],
    }[kind]
    told: list[tuple[Any, ...]] = []
    result = restorer.auto(picture, 2, no_noise=True, prior=Smooth(), on_found=told.append)
    results, pictures = (result, picture) if kind == "batch" else ([result], [picture])
    assert [type(one) for one in results] == [type(one) for one in pictures]
    assert [size_of(one) for one in results] == [(24, 20)] * len(pictures)
    assert [[repair.action for repair in found] for found in told] == [["upscale by 2"]] * len(pictures)


def test_auto_returns_a_picture_in_which_nothing_is_repaired_as_it_is() -> None:
    picture = np.asarray(pil())
    assert (restorer.auto(picture, no_noise=True, no_jpeg=True, prior=Smooth()) == picture).all()
    for wrong in ({"scale": 1}, {"detail": 2}, {"on_found": 3}, {"region": (0, 0, 50, 2)}):
        with pytest.raises(UsageError):
            restorer.auto(picture, prior=Smooth(), **wrong)  # type: ignore[arg-type]
