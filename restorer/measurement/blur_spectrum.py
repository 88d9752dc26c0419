r"""The spectrum of a picture at polar positions, as the network for blur looks at it.

The picture is cut into windows of 128x128 pixels with a Hann taper, of which those with the strongest edges count. Two
means over their energies P say different things:

    log(mean P)    is ruled by the windows with the strongest edges, which noise hides least
    mean(log P)    is the homomorphic mean: log |K|^2 of the kernel plus the mean log spectrum of sharp windows

Both are sampled at ANGLES directions over half a turn, anticlockwise from the horizontal, and RADII frequencies. The
radial profile of each window is kept as quantiles over the windows: a picture of which a part is out of focus has
windows that differ, while a blur of the whole picture is in all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.networks.blur_estimator import ANGLES, LEVELS, PROFILE, RADII

__all__ = ["LEAST_SIDE", "SIDE", "Described", "describe_spectrum", "luminance"]

SIDE = 128
"""Side of a window in pixels, which tells the zeros of a motion of 30 pixels apart."""

LEAST_SIDE = SIDE
"""Shortest side in pixels of a picture whose spectrum can be described."""

STRIDE, MOST_PLACES = 32, 1024  # pixels between windows, and number of windows to choose from
SHARE, FEWEST, MOST = 0.6, 6, 128  # of the windows, those with the strongest edges that count
LOWEST, HIGHEST = 0.018, 0.5  # frequencies in cycles per pixel
REFERENCE = (0.03, 0.09)  # frequencies whose energy is the unit of a spectrum
FLOOR = 0.02  # squared levels added to every energy before its logarithm: less than rounding to 8 bits adds
CLIPPED, MOST_CLIPPED = 254.5, 0.02  # level from which a pixel is clipped, and share of them in a window that counts
STEEPEST = 60.0  # levels between neighbours; a steeper edge counts as much
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Described:
    """The spectrum of a picture.

    Args:
        maps: The two means of the module docstring at polar positions, (2, ANGLES, RADII), relative to the reference.
        profiles: Quantiles over the windows of their radial profiles, and the level of the reference,
            (len(LEVELS) * PROFILE + 1,).
        energy: Mean energy of the windows at the frequencies of `rfft2`, (128, 65) in squared levels.
        window: The luminance of the window with the strongest edges, (128, 128) in levels.
    """

    maps: Tensor
    profiles: Tensor
    energy: Tensor
    window: Tensor


def describe_spectrum(image: Tensor, evidence: Tensor | None = None) -> Described | None:
    """Return the spectrum of a picture as `SpectrumNetwork` and `SpectrumFit` take it.

    Args:
        image: float (C, H, W) in [0, 1], with C = 1 or 3.
        evidence: bool (H, W), the pixels that count; None for all of them.

    Returns:
        None if the picture is smaller than a window, has hardly any edges, or no window that counts.
    """
    if min(image.shape[-2:]) < LEAST_SIDE:
        return None
    chosen = _edge_windows(luminance(image), None if evidence is None else ~evidence.cpu())
    if len(chosen) == 0:
        return None
    windows = (chosen - chosen.mean((1, 2), keepdim=True)) * _taper()
    energy = torch.fft.rfft2(windows).abs().square() / SIDE**2
    mean = energy.mean(0)
    profiles = (energy.flatten(1) @ _rings() + FLOOR).log()
    if float(profiles[:, : PROFILE // 2].mean()) < 0:
        return None
    maps = torch.stack([(mean + FLOOR).log(), (energy + FLOOR).log().mean(0)])
    index, weight = _polar()
    fine = (maps.flatten(1)[:, index] * weight).sum(-1).view(2, 2 * ANGLES, 2 * RADII)
    turned = (fine[:, ::2] + (fine.roll(1, 1)[:, ::2] + fine.roll(-1, 1)[:, ::2]) / 2) / 2
    polar = turned.unflatten(2, (RADII, 2)).mean(-1)
    frequencies = torch.linspace(LOWEST, HIGHEST, 2 * RADII).view(RADII, 2).mean(1)
    is_reference = (frequencies >= REFERENCE[0]) & (frequencies <= REFERENCE[1])
    level = polar[:, :, is_reference].mean((1, 2))
    relative = profiles - profiles[:, _reference_rings()].mean(1, keepdim=True)
    spread = relative.quantile(torch.tensor(LEVELS), 0)
    return Described(polar - level.view(2, 1, 1), torch.cat([spread.flatten(), level[:1]]), mean, chosen[0])


def luminance(image: Tensor) -> Tensor:
    """Return the luminance (H, W) in levels, on the CPU, of a picture (C, H, W) in [0, 1]."""
    weights = torch.tensor(LUMA if len(image) == 3 else (1.0,), dtype=torch.float32, device=image.device)
    return (255 * weights.view(-1, 1, 1) * image.float()).sum(0).cpu()


def _edge_windows(luma: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the windows (N, 128, 128) of a picture (H, W) with the strongest edges, and without hidden pixels.

    The window with the strongest edges is the first.
    """
    height, width = luma.shape
    stride = STRIDE
    while ((height - SIDE) // stride + 1) * ((width - SIDE) // stride + 1) > MOST_PLACES:
        stride += STRIDE // 2
    places = luma.unfold(0, SIDE, stride).unfold(1, SIDE, stride)
    across, down = luma[:-1, 1:] - luma[:-1, :-1], luma[1:, :-1] - luma[:-1, :-1]
    steep = F.pad((across.square() + down.square()).clamp(max=STEEPEST**2), (0, 1, 0, 1))
    unseen = torch.zeros_like(luma) if hidden is None else hidden.float()
    measures = torch.stack([steep, (luma >= CLIPPED).float(), unseen])
    edges, clipped, lost = F.avg_pool2d(measures[None], SIDE, stride)[0].flatten(1)
    edges = torch.where(lost > 0, -1.0, edges)
    is_usable = (clipped <= MOST_CLIPPED) & (edges >= 0)
    if int(is_usable.sum()) >= FEWEST:
        edges = torch.where(is_usable, edges, -1.0)
    available = int((edges >= 0).sum())
    count = min(max(FEWEST, round(SHARE * available)), available, MOST)
    chosen = edges.argsort(descending=True, stable=True)[:count]
    return places[chosen // places.shape[1], chosen % places.shape[1]]


@cache
def _taper() -> Tensor:
    """Return a Hann window (128, 128) whose mean square is 1."""
    taper = torch.hann_window(SIDE, periodic=False, dtype=torch.float64)
    taper = taper[:, None] * taper
    return (taper / taper.square().mean().sqrt()).float()


@cache
def _ring_edges() -> Tensor:
    return torch.linspace(LOWEST, HIGHEST, PROFILE + 1)


@cache
def _reference_rings() -> Tensor:
    """Return which rings of a profile hold the reference, bool (PROFILE,)."""
    edges = _ring_edges()
    return (edges[1:] > REFERENCE[0]) & (edges[:-1] < REFERENCE[1])


@cache
def _rings() -> Tensor:
    """Return the weights that sum a half spectrum to the mean energy of each ring, (128 * 65, PROFILE)."""
    down, across = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)
    radius = torch.hypot(down, across.expand(SIDE, -1)).flatten()
    edges = _ring_edges()
    ring = torch.bucketize(radius, edges) - 1
    inside = (ring >= 0) & (ring < PROFILE)
    weights = torch.zeros(len(radius), PROFILE)
    weights[inside.nonzero()[:, 0], ring[inside]] = 1
    return weights / weights.sum(0)


@cache
def _polar() -> tuple[Tensor, Tensor]:
    """Return the positions in a half spectrum and the weights, both (4 A R, K), whose sums are its polar samples.

    There are twice as many angles and radii as the network sees, which sees means of neighbours. Each sample is the
    mean over its cell of 3 angles by 2 radii, each interpolated between four frequencies.
    """
    step = (HIGHEST - LOWEST) / (2 * RADII - 1)
    radii = LOWEST + step * (torch.arange(2 * RADII)[:, None] + torch.tensor([-0.25, 0.25])).clamp(max=2 * RADII - 1)
    angles = math.pi / (2 * ANGLES) * (torch.arange(2 * ANGLES)[:, None] + torch.tensor([-1 / 3, 0, 1 / 3]))
    angle, radius = angles[:, None, :, None], radii[None, :, None, :]
    across, down = SIDE * radius * angle.cos(), -SIDE * radius * angle.sin()  # rows grow downwards
    index, weight = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = down.floor() + dy, across.floor() + dx
            share = (1 - (down - y).abs()) * (1 - (across - x).abs())
            flipped = torch.where(x % SIDE > SIDE // 2, -1, 1)  # the spectrum of real numbers is symmetric
            row, column = (y * flipped) % SIDE, (x * flipped) % SIDE
            index.append((row * (SIDE // 2 + 1) + column).long())
            weight.append(share / 6)
    return torch.stack(index, -1).flatten(0, 1).flatten(1), torch.stack(weight, -1).flatten(0, 1).flatten(1)
