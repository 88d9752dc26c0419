r"""Noise that a picture had before it was stored as a JPEG file, by the coefficients of the file.

Compression removes noise that is weaker than half a step, mostly that of the high frequencies, and lets stronger noise
pass. What is left looks neither white nor like the noise of a camera. The coefficients tell more than the pixels:

1. Noise is in every block, and texture is in some of them. The blocks with the least energy in the lowest frequencies
   are the flattest ones. Their other coefficients hold the noise alone where the picture has anything flat.
2. The energy of these coefficients has a distribution that depends on the strength s of the noise and on the steps q,
   and is simulated: the sum over the frequencies of (q round(s z / q))^2, z ~ N(0, 1). The strength is the one whose
   quantiles are those of the blocks. If texture is taken for noise, the low quantiles tell less than the middle one.
3. The same is done for bands of frequency alone. White noise is as strong in all of them. If the higher ones have less,
   the logarithm of the variance is taken to fall with the square of the frequency, as that of noise that was blurred.

Noise that no coefficient shows is unknown, and nothing is lost with it: the process that undoes the compression
removes it, too.

Sources:
    Chen, Zhu and Heng 2015, "An Efficient Statistical Method for Image Noise Level Estimation", ICCV: the strength of
        noise from the flattest patches.
    Fan and de Queiroz 2003, "Identification of Bitmap Compression History: JPEG Detection and Quantizer Estimation",
        IEEE Transactions on Image Processing 12(2): what quantization does to a distribution of coefficients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from restorer.diffusion.degradations.quantization import BLOCK, RGB_TO_YCBCR
from restorer.measurement.jpeg import CHANNEL_SHARES, Component, Jpeg
from restorer.measurement.jpeg_error import expected_errors

__all__ = ["NoiseBefore", "find_noise_before", "white_noise_before"]

QUANTILES = (0.1, 0.25, 0.5)
FLAT_SHARE, FLAT_COUNT = 0.1, 24  # share and least number of the flattest blocks
LEAST_BLOCKS = 128  # blocks from which anything is said: with fewer, all of a small picture is often texture
FEW_BLOCKS = 400  # blocks below which the flattest ones often have a texture: a picture of 160x160 pixels
MOST_BLOCKS = 1 << 14  # blocks that are looked at, spread over the picture
DARK, BRIGHT = 20.0, 235.0  # mean levels between which noise is not much clipped
LOWEST, HIGHEST, STRENGTHS, DRAWS = 0.3, 60.0, 72, 1200  # levels that are simulated, their number, draws of each
MARGIN = 2.0  # standard deviations of the noise between the means of blocks and black or white
EVEN = 0.93  # ratio of the strengths by the lowest and the middle quantile from which the flattest blocks agree
WIDE_SHARE, WIDE = 0.5, 1.08  # a larger share of the blocks, and ratio of its strength up to which it agrees, too
WHITE = 0.8  # ratio of the strengths in a higher and in the lowest band from which noise is white
LEAST_STRENGTH = 0.01  # so that nothing is divided by noise of 0
MOST_RAISED = 4.0  # factor by which the variance of the lowest frequencies exceeds that of the lowest band at most

_SUM = torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)  # u + v of each coefficient
_SQUARE = torch.arange(BLOCK).square()[:, None] + torch.arange(BLOCK).square()  # u^2 + v^2
_ALL = _SUM >= 3
_LOWEST = (_SUM >= 1) & (_SUM <= 2)
_BANDS = ((_SUM >= 3) & (_SUM <= 4), (_SUM >= 5) & (_SUM <= 6), _SUM >= 7)
_SHARES = tuple(sum(weight**2 for weight in row) for row in RGB_TO_YCBCR)
"""Variances of Y, Cb and Cr by white noise of variance 1 in red, green and blue."""


@dataclass(frozen=True)
class NoiseBefore:
    """Noise that was in a picture before its compression.

    Args:
        sigma: Standard deviation over all pixels and channels, on the 0..255 scale.
        variances: Variance of every coefficient of the components, (8, 8) in squared levels each; only that of the
            luminance for a picture without colour.
        is_white: Whether it was white, as far as the file tells.
        is_even: Whether the flattest blocks agree about it, which those with a texture hardly do.
        is_wide: Whether half of all blocks agree about it.
        is_of_few: Whether it was measured in few blocks, so that all of them may be texture.
        error: Expected standard deviation, in levels, of the difference of the decoded picture from one without noise
            and compression.
        busyness: Energy of the luminance at the lowest frequencies of a block, the median over the blocks, as a
            multiple of that of the noise: 1 for a picture that is smooth, and tens for one that is full of texture.
    """

    sigma: float
    variances: tuple[Tensor, ...]
    is_white: bool
    is_even: bool
    is_wide: bool
    is_of_few: bool
    error: float
    busyness: float

    def scaled(self, strength: float, jpeg: Jpeg) -> NoiseBefore:
        """Return noise that is stronger by a factor.

        Args:
            strength: The factor.
            jpeg: The file.
        """
        if strength == 1:
            return self
        variances = tuple(strength**2 * variance for variance in self.variances)
        error, busyness = _error(_planes(jpeg), variances), self.busyness / max(strength, LEAST_STRENGTH) ** 2
        return replace(self, sigma=strength * self.sigma, variances=variances, error=error, busyness=busyness)


def find_noise_before(jpeg: Jpeg) -> NoiseBefore | None:
    """Find the noise that a picture had before it was compressed.

    Args:
        jpeg: What is known of the file.

    Returns:
        None if its flat parts show no noise, or if it has too few of them. Texture that is everywhere may be taken for
        noise, so that this alone is no proof of noise.
    """
    if jpeg.colour not in ("gray", "ycbcr"):
        return None
    planes = _planes(jpeg)
    luminance, *chroma = planes
    blocks = _blocks_between(luminance, DARK, BRIGHT)
    if (found := _strengths(blocks, luminance.steps)) is None:
        return None
    margin = MARGIN * found[1]
    unclipped = _blocks_between(luminance, max(DARK, margin), min(BRIGHT, 255 - margin))
    if (better := _strengths(unclipped, luminance.steps)) is not None:
        blocks, found = unclipped, better
    low, quarter, middle = found
    flat = _flattest(blocks, FLAT_SHARE, most_low=2)
    variance, is_white = _spectrum(quarter, [_strength_in(flat, luminance.steps, band) for band in _BANDS])
    variances = (variance, *(_chroma_variance(c, float(variance[_ALL].mean()), n) for n, c in enumerate(chroma, 1)))
    share = _SHARES[0] if chroma else 1.0
    total = float(variance.mean()) / share if is_white else _total(variances)
    is_even = low >= EVEN * middle
    wider = _strength_in(_flattest(blocks, WIDE_SHARE, most_low=2), luminance.steps, _ALL)[0]
    is_wide = is_even and wider <= WIDE * quarter
    return NoiseBefore(
        math.sqrt(total),
        variances,
        is_white,
        is_even,
        is_wide,
        len(blocks) < FEW_BLOCKS,
        _error(planes, variances),
        _busyness(blocks, variance),
    )


def white_noise_before(jpeg: Jpeg, sigma: float) -> NoiseBefore | None:
    """Return white noise of a known strength.

    Args:
        jpeg: The file.
        sigma: Standard deviation of the noise, on the 0..255 scale.

    Returns:
        None if the components of the file are neither gray nor YCbCr.
    """
    if jpeg.colour not in ("gray", "ycbcr"):
        return None
    planes = _planes(jpeg)
    shares = _SHARES if len(planes) == 3 else (1.0,)
    variances = tuple(
        torch.full((BLOCK, BLOCK), sigma**2 * share / math.prod(plane.shrink))
        for share, plane in zip(shares, planes, strict=True)
    )
    busyness = _busyness(_blocks_between(planes[0], -math.inf, math.inf), variances[0])
    return NoiseBefore(sigma, variances, True, True, True, False, _error(planes, variances), busyness)


def _planes(jpeg: Jpeg) -> tuple[Component, ...]:
    """Return the luminance and the chroma of a file; the luminance alone if the chroma is known to be 0."""
    return tuple(component for component in jpeg.components if bool(component.steps.any()))


def _blocks_between(component: Component, dark: float, bright: float) -> Tensor:
    """Return the coefficients of blocks, (N, 8, 8) in levels, spread over the picture, with means between two levels.

    Args:
        component: The plane.
        dark: The least mean on the 0..255 scale, -inf for any.
        bright: The largest mean, inf for any.
    """
    down, across = component.indices.shape[:2]
    keep = max(1, math.ceil(math.sqrt(down * across / MOST_BLOCKS)))
    blocks = (component.indices[::keep, ::keep].float() * component.steps).flatten(0, 1)
    mean = blocks[:, 0, 0] / BLOCK + 128
    return blocks[(mean > dark) & (mean < bright)]


def _flattest(blocks: Tensor, share: float, *, most_low: int) -> Tensor:
    """Return a share of the blocks (N, 8, 8), those with the least energy at the frequencies with u + v <= most_low."""
    activity = blocks[:, (_SUM > 0) & (_SUM <= most_low)].square().sum(1)
    return blocks[activity.argsort(stable=True)[: max(FLAT_COUNT, int(share * len(blocks)))]]


def _busyness(blocks: Tensor, variance: Tensor) -> float:
    """Return how much more than noise the lowest frequencies of most blocks hold.

    Args:
        blocks: Coefficients of the luminance, (N, 8, 8).
        variance: Variance of every coefficient by the noise, (8, 8).
    """
    noise = max(float(variance[_LOWEST].sum()), LEAST_STRENGTH**2)
    return float(blocks[:, _LOWEST].square().sum(1).median()) / noise


def _simulated(steps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the strengths that are simulated, (STRENGTHS,), and the quantiles of the energy, (STRENGTHS, 3).

    Args:
        steps: The steps of the frequencies whose energy is summed, (F,).
    """
    strengths = torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), STRENGTHS)
    drawn = torch.randn(DRAWS, len(steps), generator=torch.Generator().manual_seed(0)) / steps
    levels = torch.tensor(QUANTILES)
    rows = [((drawn * s).round() * steps).square().sum(1).quantile(levels) for s in strengths]
    return strengths.numpy(), torch.stack(rows).cummax(0).values.numpy()


def _strengths(blocks: Tensor, steps: Tensor) -> tuple[float, float, float] | None:
    """Return the strength of the noise by each of the quantiles over the flattest blocks.

    Returns:
        None if there are too few blocks, or if the lower quartile shows no noise.
    """
    if len(blocks) < LEAST_BLOCKS:
        return None
    flat = _flattest(blocks, FLAT_SHARE, most_low=2)
    energies = flat[:, _ALL].square().sum(1).quantile(torch.tensor(QUANTILES)).numpy()
    if energies[1] == 0:
        return None
    strengths, table = _simulated(steps[_ALL])
    low, quarter, middle = (float(np.interp(e, table[:, i], strengths)) for i, e in enumerate(energies))
    return low if energies[0] > 0 else 0.0, quarter, middle


def _strength_in(flat: Tensor, steps: Tensor, band: Tensor) -> tuple[float, bool]:
    """Return the strength of the noise in a band, and whether the coefficients show it.

    If they do not, the strength is the largest one that they would not show.
    """
    energy = float(flat[:, band].square().sum(1).quantile(QUANTILES[1]))
    strengths, table = _simulated(steps[band])
    if energy > 0:
        return float(np.interp(energy, table[:, 1], strengths)), True
    hidden = np.flatnonzero(table[:, 1] == 0)
    return (float(strengths[hidden[-1]]) if len(hidden) else 0.0), False


def _spectrum(strength: float, bands: list[tuple[float, bool]]) -> tuple[Tensor, bool]:
    """Return the variance of every coefficient of the luminance, (8, 8), and whether it is that of white noise.

    Args:
        strength: Standard deviation of a coefficient over all bands.
        bands: That of each band alone, and whether the coefficients show it.
    """
    base, is_shown = bands[0]
    # The highest band that tells something: it shows the noise, or it would show noise as strong as that of the lowest.
    telling = [n for n, (s, shows) in enumerate(bands) if n > 0 and (shows or s < WHITE * base)]
    if not is_shown or not telling or bands[telling[-1]][0] >= WHITE * base:
        return torch.full((BLOCK, BLOCK), strength**2), True
    first, last = (float(_SQUARE[_BANDS[n]].float().mean()) for n in (0, telling[-1]))
    slope = 2 * math.log(base / max(bands[telling[-1]][0], LOWEST)) / (last - first)
    spectrum = base**2 * (-slope * (_SQUARE - first)).exp()
    return spectrum.clamp(max=MOST_RAISED * base**2), False


def _chroma_variance(component: Component, luminance: float, number: int) -> Tensor:
    """Return the variance of every coefficient of a plane of the chroma, (8, 8).

    Where the coefficients show no noise, it is that of white noise, as far as they would not show it.

    Args:
        component: The plane.
        luminance: Variance of a coefficient of the luminance.
        number: 1 or 2, for Cb or Cr.
    """
    expected = luminance * _SHARES[number] / _SHARES[0] / math.prod(component.shrink)
    blocks = _blocks_between(component, -math.inf, math.inf)
    if len(blocks) < FLAT_COUNT:
        return torch.full((BLOCK, BLOCK), expected)
    strength, is_shown = _strength_in(_flattest(blocks, FLAT_SHARE, most_low=1), component.steps, _SUM >= 2)
    return torch.full((BLOCK, BLOCK), strength**2 if is_shown else min(expected, strength**2))


def _total(variances: tuple[Tensor, ...]) -> float:
    """Return the mean variance of the channels of a picture by those of its planes."""
    shares = CHANNEL_SHARES if len(variances) == 3 else (1.0,)
    return sum(share * float(variance.mean()) for share, variance in zip(shares, variances, strict=True))


def _error(planes: tuple[Component, ...], variances: tuple[Tensor, ...]) -> float:
    """Return the expected standard deviation of the error by noise and compression, in levels.

    A coefficient has the noise and the error of its cell if it was not rounded to 0. Where the picture is flat, it has
    the noise that passes the compression.
    """
    errors = []
    for component, variance in zip(planes, variances, strict=True):
        compression, is_seen = expected_errors(component.indices, component.steps)
        passed = _energy_that_passes(variance.flatten().sqrt(), component.steps.flatten())
        errors.append(torch.maximum(compression + is_seen * variance.flatten(), passed))
    return math.sqrt(_total(tuple(errors)) + 1 / 12)


def _energy_that_passes(s: Tensor, steps: Tensor) -> Tensor:
    """Return E[(q round(s z / q))^2] for z ~ N(0, 1), of the shape of s.

    By Abel's summation, it is 2 q^2 sum_k (2 k - 1) P(s z > (k - 1/2) q).
    """
    k = torch.arange(1, 65, dtype=torch.float32)[:, None]
    beyond = torch.special.ndtr(-(k - 0.5) * steps / s.clamp(min=1e-3))
    series = 2 * steps.square() * ((2 * k - 1) * beyond).sum(0)
    return torch.where(steps * 16 > s, series, s.square() + steps.square() / 12)
