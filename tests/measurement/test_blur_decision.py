"""What is claimed of a blur follows from the network and the fit: neither is overruled in favour of a claim."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur as Operator
from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.measurement.blur import LEAST_PROBABILITY, SURE, estimate_blur
from restorer.models.load import load_prior
from restorer.networks.blur_estimator import ANGLES, KINDS, BlurEstimate, BlurEstimator

IMAGES = Path(__file__).parents[1] / "images"


class Opinion(BlurEstimator):
    """An estimator that has the same opinion of every picture, and guesses sizes that are a little wrong."""

    def __init__(self, size: float = 2.0, angle: int = 30, **kinds: float) -> None:
        super().__init__(0)
        rest = (1 - sum(kinds.values())) / (len(KINDS) - len(kinds))
        directions = torch.zeros(1, ANGLES)
        directions[0, round(angle * ANGLES / 180) % ANGLES] = 1
        log_size = torch.full((1,), math.log(1.1 * size))
        self.answer = BlurEstimate(
            kinds=torch.tensor([[kinds.get(name, rest) for name in KINDS]]),
            widths=log_size[:, None].expand(1, ANGLES),
            radius=log_size,
            length=log_size,
            directions=directions,
            spreads=torch.full((1, 3), 0.1),
        )

    def forward(self, maps: Tensor, profiles: Tensor) -> BlurEstimate:
        return self.answer


def blurred(kernel: Tensor) -> Tensor:
    with Image.open(IMAGES / "gates.jpg") as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    y = Operator(kernel).measure(torch.from_numpy(np.asarray(half).copy()).permute(2, 0, 1)[None] / 255)[0]
    y = y + 2 / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    return (y * 255).round().clamp(0, 255) / 255


def compressed(x: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((x * 255).byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


MOVED = motion_kernel(13, 30)


def test_a_kind_that_is_likely_is_fitted() -> None:
    found = estimate_blur(blurred(MOVED), Opinion(13, motion=0.97))
    assert found is not None and found.kind == "motion" and found.is_sure
    assert found.size == pytest.approx(13, rel=0.05) and abs(found.angle - 30) <= 3


def test_the_fit_adds_to_a_doubtful_blur_but_does_not_make_another_one_a_line() -> None:
    doubtful = estimate_blur(blurred(MOVED), Opinion(13, motion=0.6, none=0.39, other=0.005))
    assert doubtful is not None and doubtful.kind == "motion" and doubtful.probability > 0.8
    other = estimate_blur(blurred(MOVED), Opinion(13, motion=0.3, other=0.68, none=0.01))
    assert other is not None and other.kind == "other" and other.is_sure


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ({"other": 0.9, "none": 0.05}, True),
        ({"other": 0.5, "none": 0.5}, False),
        ({"none": 0.95}, False),
        ({"motion": 0.2, "other": 0.3, "none": 0.48}, False),  # too little for either
    ],
)
def test_another_blur_is_told_where_it_is_the_likeliest(kinds: dict[str, float], found: bool) -> None:
    blur = estimate_blur(blurred(MOVED), Opinion(13, **kinds))
    assert (blur is not None) == found
    if blur is not None:
        assert blur.kind == "other" and blur.probability >= LEAST_PROBABILITY


def test_zeros_that_a_compression_has_filled_are_no_reason_to_doubt_a_likely_disk() -> None:
    """The spectrum is explained badly then, so that nothing is claimed without a trial."""
    y, opinion = compressed(blurred(defocus_kernel(5)), 75), Opinion(5.0, defocus=0.88, none=0.06)
    assert estimate_blur(y, opinion) is None
    found = estimate_blur(y, opinion, prior=load_prior())
    assert found is not None and found.kind == "defocus" and found.size == pytest.approx(5, rel=0.05)
    assert not found.is_sure and found.probability == pytest.approx(0.9, abs=0.03)  # the fit adds nothing to it
    unlikely = Opinion(5.0, defocus=0.7, none=0.25)
    assert estimate_blur(y, unlikely, prior=load_prior()) is None


def test_a_kernel_that_makes_edges_ring_is_refuted() -> None:
    """The network errs: two exposures are no line."""
    two = torch.zeros(15, 15)
    two[7, 7], two[2, 14] = 1.0, 0.8
    y, opinion = blurred(as_kernel(two)), Opinion(8.6, 36, motion=0.97, none=0.01)
    tried = estimate_blur(y, opinion, prior=load_prior())
    assert tried is not None and tried.kind == "other"
    sharp, surely = blurred(torch.ones(1, 1)), Opinion(2.0, gaussian=0.9, none=0.09)
    assert estimate_blur(sharp, surely, prior=load_prior()) is None


def test_a_true_kernel_is_what_it_is_without_a_trial() -> None:
    for kernel, opinion in ((MOVED, Opinion(13, motion=0.97)), (gaussian_kernel(2.0), Opinion(2.0, gaussian=0.97))):
        y = blurred(kernel)
        assert estimate_blur(y, opinion, prior=load_prior()) == estimate_blur(y, opinion) is not None


def test_a_gaussian_as_narrow_as_the_softness_of_a_camera_is_left() -> None:
    assert estimate_blur(blurred(gaussian_kernel(1.05)), Opinion(1.05, gaussian=0.995)) is None
    wide = estimate_blur(blurred(gaussian_kernel(2.0)), Opinion(2.0, gaussian=0.995))
    assert wide is not None and wide.kind == "gaussian" and wide.is_sure


@pytest.mark.parametrize(
    ("kernel", "kinds"),
    [(MOVED, {"motion": 0.4, "none": 0.595}), (gaussian_kernel(2.0), {"gaussian": 0.4, "none": 0.595})],
)
def test_a_likely_kernel_that_rings_nowhere_is_sure(kernel: Tensor, kinds: dict[str, float]) -> None:
    y, opinion = blurred(kernel), Opinion(13 if "motion" in kinds else 2.0, **kinds)
    likely, tried = estimate_blur(y, opinion), estimate_blur(y, opinion, prior=load_prior())
    assert likely is not None and not likely.is_sure
    assert tried == replace(likely, probability=SURE)
