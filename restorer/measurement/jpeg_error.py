"""The error that the quantization of a JPEG file is expected to have, by its coefficients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restorer.diffusion.degradations.quantization import BLOCK

__all__ = ["expected_errors"]

LEAST_COUNT = 10  # coefficients other than 0 from which the scale of a frequency is estimated by itself
MOST_NONZERO = 0.95  # share of them up to which it is
FLATTEST_SLOPE = -1.5  # exponent of the power law that the scales of photographs follow at least


def expected_errors(indices: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the compression of a plane does to each coefficient of a block.

    A coefficient that is not 0 is anywhere in its cell. The coefficients of a frequency have a Laplace distribution of
    scale b, of which the share exp(-q / 2b) is not rounded to 0. Where nearly all of them are 0, b follows from lower
    frequencies by a power law, as the spectra of photographs do.

    Args:
        indices: The coefficients in units of the steps, (down, across, 8, 8).
        steps: The steps of the quantization in levels, (8, 8).

    Returns:
        The expected square error in squared levels, (64,), and the share of the blocks in which the coefficient was not
        rounded to 0, (64,).
    """
    steps, blocks = steps.flatten(), indices.flatten(0, 1).flatten(1)
    is_zero = blocks == 0
    is_zero[:, 0] = False  # a mean of 128 is as likely as any other
    zeros = is_zero.float().mean(0)
    cell, edge = steps.square() / 12, steps / 2
    b = _laplace_scales(edge, 1 - zeros, len(blocks))
    left = (-edge / b).exp()
    inside = 2 * b.square() - (edge.square() + 2 * edge * b) * left / (1 - left)
    return zeros * inside.clamp(min=0).minimum(cell) + (1 - zeros) * cell, 1 - zeros


def _laplace_scales(edge: Tensor, share: Tensor, count: int) -> Tensor:
    """Return the scale b of every frequency in levels, (64,).

    Args:
        edge: Half the steps, (64,).
        share: Share of the coefficients that are not 0.
        count: Number of blocks.
    """
    rows = torch.arange(BLOCK, dtype=torch.float32)
    distance = torch.hypot(rows[:, None], rows).flatten().clamp(min=1).log()
    is_counted = (share * count >= LEAST_COUNT) & (share < MOST_NONZERO)
    b = -edge / share.clamp(1e-6, MOST_NONZERO).log()
    if not bool(is_counted.any()):  # nothing but means: less than one coefficient in all would not be 0
        b, is_counted = edge / math.log(2 * count + 2), distance == 0
    x, y = distance[is_counted], b[is_counted].log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum().clamp(min=1e-6))
    line = y.mean() + min(slope, FLATTEST_SLOPE) * (distance - x.mean())
    return torch.where(is_counted, b, line.exp())
