"""The network for noise is a function of the set of windows."""

from __future__ import annotations

import torch
from torch import Tensor

from restorer.networks.noise_estimator import ENERGIES, FEATURES, WHITE, NoiseEstimate, NoiseEstimator, log_total

LEVELS = torch.full((1, WHITE), 3.0)  # estimates of white noise


def estimator() -> NoiseEstimator:
    """Return a network with random weights that corrects nothing by much."""
    torch.manual_seed(0)
    return NoiseEstimator().eval()


def sets(*counts: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Return random windows of one picture with so many windows in each scale."""
    generator = torch.Generator().manual_seed(seed)
    windows = [torch.randn(1, count, FEATURES, generator=generator) for count in counts]
    return windows, [torch.ones(1, count, dtype=torch.bool) for count in counts]


def same(a: NoiseEstimate, b: NoiseEstimate) -> None:
    """Check that two results are equal up to rounding."""
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_windows_does_not_matter():
    windows, present = sets(40, 12, 5)
    shuffled = [w[:, torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(1))] for w in windows]
    same(estimator()(windows, present, LEVELS), estimator()(shuffled, present, LEVELS))


def test_windows_that_fill_up_a_batch_do_not_count():
    windows, present = sets(40, 12, 5)
    padded = [torch.cat([w, torch.full((1, 7, FEATURES), 3.0)], 1) for w in windows]
    there = [torch.cat([p, torch.zeros(1, 7, dtype=torch.bool)], 1) for p in present]
    same(estimator()(windows, present, LEVELS), estimator()(padded, there, LEVELS))


def test_coarse_scales_may_be_missing():
    windows, present = sets(40, 0, 0)
    assert all(bool(x.isfinite().all()) for x in estimator()(windows, present, LEVELS))


def test_the_output_corrects_the_lower_quartile():
    """With a head of zeros, the result is the lower quartile of each energy and of the total."""
    network = estimator()
    for member in network.members:
        for parameter in member.head.parameters():
            torch.nn.init.zeros_(parameter)
        member.shares.fill_(1 / 6)
    windows, present = sets(40, 12, 5)
    estimate = network(windows, present, LEVELS)
    expected = windows[0][0, :, :ENERGIES].quantile(0.25, 0).view(3, 6)
    torch.testing.assert_close(estimate.log_energies[0, 0], expected)
    torch.testing.assert_close(estimate.log_energies[0, 1], expected)
    total = windows[0][0, :, :ENERGIES].exp().mean(1).sqrt().log()
    torch.testing.assert_close(estimate.log_sigma[0, 1], total.quantile(0.25))
    assert float(estimate.logit) == 0


def test_the_estimate_is_the_mean_of_the_members():
    network = estimator()
    windows, present = sets(40, 12, 5)
    each = [member(windows, present, LEVELS) for member in network.members]
    mean = NoiseEstimate(*(torch.stack(parts).mean(0) for parts in zip(*each, strict=True)))
    same(network(windows, present, LEVELS), mean)
    assert not torch.allclose(each[0].logit, each[1].logit), "the members are the same"


def test_the_estimates_of_white_noise_count():
    network = estimator()
    windows, present = sets(40, 12, 5)
    other = network(windows, present, 2 * LEVELS)
    assert not torch.allclose(other.log_sigma, network(windows, present, LEVELS).log_sigma, atol=1e-3)


def test_the_total_of_white_energies_is_their_standard_deviation():
    shares = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    torch.testing.assert_close(log_total(torch.full((2, 18), 49.0).log(), shares), torch.tensor([7.0, 7.0]).log())
