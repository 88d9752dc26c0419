"""Blurs of photographs are found with their sizes, and nothing is found in pictures that are sharp."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur as Operator
from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.folders.blur_options import BlurOptions
from restorer.measurement.blur import Blur, estimate_blur
from restorer.models.load import load_blur_estimator

IMAGES = Path(__file__).parents[1] / "images"
PHOTOGRAPHS = ("eagles", "gates", "grapes")


def photograph(name: str) -> Tensor:
    """Return a photograph at half its size, (3, H, W) in [0, 1]."""
    with Image.open(IMAGES / f"{name}.jpg") as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(half).copy()).permute(2, 0, 1) / 255


def blurred(true: Tensor, kernel: Tensor, sigma: float = 2.55) -> Tensor:
    y = Operator(kernel).measure(true[None])[0]
    y = y + sigma / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    return (y * 255).round().clamp(0, 255) / 255


def compressed(x: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    pixels = (x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


def found_in(image: Tensor, evidence: Tensor | None = None) -> Blur | None:
    return estimate_blur(image, load_blur_estimator(), evidence)


TRUE = {
    "gaussian": (gaussian_kernel(1.8), Blur("gaussian", 1.8, 1.8)),
    "defocus": (defocus_kernel(3), Blur("defocus", 3.0)),
    "wide defocus": (defocus_kernel(5.5), Blur("defocus", 5.5)),
    "motion": (motion_kernel(13, 30), Blur("motion", 13.0, 0.0, 30.0)),
    "long motion": (motion_kernel(22, 100), Blur("motion", 22.0, 0.0, 100.0)),
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_blurs_are_found_with_their_sizes(name: str) -> None:
    """What is found is right. One of the five may be missed, because too little evidence claims nothing."""
    missed = 0
    for kernel, true in TRUE.values():
        found = found_in(blurred(photograph(name), kernel))
        if found is None:
            missed += 1
            continue
        assert found.kind == true.kind, found
        assert found.size == pytest.approx(true.size, rel=0.2 if true.kind == "gaussian" else 0.05)
        assert abs((found.angle - true.angle + 90) % 180 - 90) <= 3 or found.kind != "motion"
    assert missed <= 1


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_nothing_is_found_in_a_sharp_photograph(name: str) -> None:
    sharp = photograph(name)
    noisy = sharp + 8 / 255 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))
    for image in (sharp, noisy.clamp(0, 1), compressed(sharp, 60), sharp.mean(0, keepdim=True)):
        found = found_in(image)
        assert found is None, found


def test_a_part_out_of_focus_is_no_blur() -> None:
    sharp = photograph("gates")
    continued = F.pad(sharp[None], (4, 4, 4, 4), mode="reflect")
    half, middle = Operator(defocus_kernel(4)).measure(continued)[0], sharp.shape[-1] // 2
    half[:, :, middle:] = sharp[:, :, middle:]
    assert found_in(half) is None


def test_a_blur_of_another_kind_is_not_taken_for_one_of_these() -> None:
    kernel = torch.zeros(15, 15)  # two exposures
    kernel[7, 7], kernel[2, 14] = 1.0, 0.8
    for name in PHOTOGRAPHS:
        found = found_in(blurred(photograph(name), as_kernel(kernel)))
        assert found is None or found.kind == "other", found


def test_pictures_that_cannot_be_judged() -> None:
    small = blurred(photograph("gates"), defocus_kernel(3))[:, :120, :]
    assert found_in(small) is None
    y = blurred(photograph("gates"), defocus_kernel(3))
    assert found_in(y, torch.zeros(y.shape[-2:], dtype=torch.bool)) is None
    assert found_in(torch.full((3, 200, 200), 0.5)) is None


@pytest.mark.parametrize(
    "blur",
    [
        Blur("gaussian", 1.62, 1.62),
        Blur("gaussian", 2.5, 1.21, 137.0),
        Blur("defocus", 3.07),
        Blur("motion", 12.91, 0.0, 30.0),
    ],
    ids=lambda blur: blur.kind,
)
def test_the_option_of_a_blur_gives_its_kernel(blur: Blur) -> None:
    assert blur.option is not None
    name, value = blur.option
    given = {"gaussian": None, "defocus": None, "motion": None, name: float(value) if name == "defocus" else value}
    options = BlurOptions.of(given["gaussian"], given["defocus"], given["motion"], None)  # type: ignore[arg-type]
    assert options is not None and torch.equal(options.make(), blur.kernel())


def test_a_blur_in_words() -> None:
    assert str(Blur("defocus", 3.1, probability=0.99)) == "blur: defocus of radius 3.1 pixels, sure"
    assert str(Blur("motion", 13, 0, 30, 0.85)) == "blur: motion of 13 pixels at 30 degrees, likely"
    assert str(Blur("gaussian", 1.6, 1.6, 0, 0.99)) == "blur: Gaussian of 1.6 pixels, sure"
    assert str(Blur("gaussian", 2, 1, 45, 0.9)) == "blur: Gaussian of 2 by 1 pixels at 45 degrees, likely"
    other = Blur("other", 0, probability=0.9)
    assert str(other) == "blur: of a kind that cannot be undone, likely" and other.option is None
    assert other.to_dict() == {"kind": "other", "value": None, "probability": 0.9, "sure": False}
    with pytest.raises(ValueError, match="no kernel"):
        other.kernel()
    assert math.isclose(float(Blur("gaussian", 2, 1, 45).kernel().sum()), 1, rel_tol=1e-5)
