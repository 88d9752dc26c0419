"""Two networks as one prior: which of them answers, with which level, and what is counted for them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stubs import Spy, Wrapper

from restorer.diffusion.plan import Plan
from restorer.diffusion.prior import Prediction
from restorer.diffusion.reverse import reverse
from restorer.measurement.jpeg import STANDARD_TABLES
from restorer.models.load import (
    DECOMPRESSING,
    ENLARGING,
    calibration_of,
    first_expert_identity,
    load_prior,
    precision_name,
    with_first_expert,
)
from restorer.priors.experts import BOUNDARY, Experts, Shifted, compression_level, decompressing_level, first_level
from restorer.priors.tiled import Tiled
from restorer.tasks.defaults import UPSCALE


class Constant(Wrapper):
    """A prior whose every answer is one value, and which counts bytes of its own."""

    def __init__(self, value: float, size: int) -> None:
        super().__init__(Spy())
        self.value, self.size = value, size

    def predict(self, x, sigma, condition=None):
        answer = super().predict(x, sigma, condition)
        return type(answer)(torch.full_like(x, self.value))

    def evaluation_bytes(self, pixels, *, low=False):
        return self.size * pixels

    def kept_bytes(self, *, low=False):
        return self.size


def make() -> Experts:
    return Experts(Constant(0.25, 3), Constant(-0.5, 5))


def test_each_level_is_answered_by_its_network() -> None:
    experts = make()
    x = torch.zeros(3, 3, 8, 8)
    assert (experts.denoise(x, 0.2) == 0.25).all()
    assert (experts.denoise(x, BOUNDARY) == -0.5).all()
    mixed = experts.denoise(x, torch.tensor([0.1, 1.6, 0.49], dtype=torch.float64))
    assert mixed.mean((1, 2, 3)).tolist() == [0.25, -0.5, 0.25]


def test_the_first_network_is_told_its_own_level() -> None:
    experts = make()
    experts.denoise(torch.zeros(1, 3, 8, 8), first_level(4, "damaged"))
    (told,) = [call.sigma for call in experts.first.prior.calls]
    assert told == pytest.approx(0.05 * 4 + 0.2)


@pytest.mark.parametrize("factor", [0.05, 1.0, 5.0])
def test_the_network_for_files_is_told_how_coarse_they_are(factor: float) -> None:
    experts = Experts(Constant(0.25, 3), Constant(-0.5, 5), DECOMPRESSING, BOUNDARY)
    steps = STANDARD_TABLES[0] * factor
    experts.denoise(torch.zeros(1, 3, 8, 8), decompressing_level(steps))
    (told,) = [call.sigma for call in experts.first.prior.calls]
    assert told == pytest.approx(compression_level(steps), abs=1e-7)


class Blocks(Wrapper):
    """A prior whose answer is the mean of every block of 8x8 pixels, counted from the first one."""

    def predict(self, x, sigma, condition=None):
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        means = F.avg_pool2d(padded, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
        return Prediction(means[..., :height, :width])


@pytest.mark.parametrize("missing", [(0, 5), (3, 0), (7, 1)])
def test_a_picture_that_begins_within_a_block_is_shifted_onto_the_grid(missing: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    cropped = x[..., missing[0] :, missing[1] :]
    whole = Blocks().denoise(x, 1.0)[..., missing[0] :, missing[1] :]
    answer = Shifted(Blocks(), missing).denoise(cropped, 1.0)
    assert answer.shape == cropped.shape
    inner = slice(8 - missing[0], None), slice(8 - missing[1], None)
    torch.testing.assert_close(answer[..., inner[0], inner[1]], whole[..., inner[0], inner[1]])


def test_tiles_of_a_shifted_picture_lie_on_its_grid() -> None:
    x = torch.randn(1, 3, 150, 170, generator=torch.Generator().manual_seed(0))
    shifted = Shifted(Blocks(), (3, 6))
    shifted.multiple = 8
    tiled = Tiled(shifted, 64, overlap=32)
    torch.testing.assert_close(tiled.denoise(x, 1.0)[..., 16:-16, 16:-16], shifted.denoise(x, 1.0)[..., 16:-16, 16:-16])


def test_a_picture_may_be_asked_about_by_both_networks_in_turn() -> None:
    photo = load_prior("photo", device="cpu", precision="fp32")
    undoing = with_first_expert(Tiled(photo, 64, overlap=16), DECOMPRESSING, (2, 0))
    enlarging = with_first_expert(undoing, ENLARGING)
    assert isinstance(enlarging, Tiled) and enlarging.tile == 64 and precision_name(enlarging) == "fp32"
    names = [first_expert_identity(prior, DECOMPRESSING) is not None for prior in (photo, undoing, enlarging)]
    assert names == [False, True, True]
    assert first_expert_identity(undoing, ENLARGING) is None and first_expert_identity(enlarging, ENLARGING)
    plain = with_first_expert(photo, ENLARGING)
    x, level = torch.zeros(1, 3, 32, 32), first_level(4, "clean")
    assert torch.equal(enlarging.denoise(x, level), plain.denoise(x, level))
    assert calibration_of(enlarging) is photo.calibration


@pytest.mark.parametrize("state", ["clean", "damaged", "soft"])
def test_levels_of_the_networks_lie_apart(state) -> None:
    lowest = min(first_level(scale, state) for scale in (1.5, 2, 3, 4))
    assert lowest >= BOUNDARY > max(defaults.start for scale, defaults in UPSCALE.items() if scale <= 4)


def test_states_and_scales_have_levels_of_their_own() -> None:
    levels = [first_level(scale, state) for state in ("clean", "damaged", "soft") for scale in (1.5, 2, 3, 4)]
    assert len({round(level, 6) for level in levels}) == len(levels)


def test_memory_is_that_of_both() -> None:
    resources = make().resources
    assert (resources.evaluation_bytes(10), resources.kept_bytes()) == (50, 8)


def test_a_run_asks_the_first_network_once() -> None:
    experts = make()
    plan = Plan((1.6, 0.2, 0.1, 0.0), (1.0, 0.0, 0.0), fresh_start=False)
    result = reverse(experts, None, None, plan, torch.zeros(1, 3, 8, 8))
    assert len(experts.first.prior.calls) == 1 and len(experts.prior.prior.calls) == 2
    assert (result == 0.25).all()


def test_only_the_embedded_prior_has_a_first_expert() -> None:
    photo = load_prior("photo", device="cpu", precision="fp32")
    experts = with_first_expert(photo)
    assert isinstance(experts, Experts) and experts.prior is photo
    assert with_first_expert(photo) is experts and with_first_expert(experts) is experts
    tiled = with_first_expert(Tiled(photo, 64, overlap=16))
    assert isinstance(tiled, Tiled) and tiled.prior is experts and tiled.tile == 64
    assert with_first_expert(Spy()) is None


def test_other_precisions_are_those_of_both_networks() -> None:
    experts = with_first_expert(load_prior("photo", device="cpu", precision="bf16"))
    assert precision_name(experts) == "bf16"
    full = experts.resources.full_precision()
    assert isinstance(full, Experts) and precision_name(full) == "fp32" and full.resources.full_precision() is None
    assert full.first.dtype == full.prior.dtype == torch.float32
