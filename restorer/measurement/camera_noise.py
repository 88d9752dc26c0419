r"""Measurement of the noise that photographs have: coarse, coloured, and different in strength between the tones.

Cameras demosaic, sharpen, denoise, shrink and compress their pictures, so that their noise is correlated between pixels
and between channels, and its highest frequencies, at which estimators of white noise look, are empty. The method is:

1. The prior removes noise of a level that is above most noise. The residual e = y - D(y, LEVEL) then holds the noise
   and, where there is texture, some of that too. The same is done with the picture shrunk by 2 and by 4.
2. Windows of 32x32 pixels are described by their energy in bands of frequency and axes of colour (`windows.py`).
3. A small network (`networks/noise_estimator.py`) decides from the set of all windows whether there is noise, and how
   much energy it has in each band and axis. It was trained on photographs to which simulated cameras, film grain,
   resizing and compression had added noise that is known (`training/simulated_noise.py`).
4. The cross-spectrum of the channels, a Hermitian 3x3 matrix for each of 32x32 frequencies, is the mean over the
   flattest windows of F(e) F(e)^H. Each band and axis of it is scaled to the energy that the network found, because
   the residual of even the flattest windows holds too little noise, or too much else.

In doubt there is less noise, or none: too little costs tenths of a decibel, too much destroys texture.

Sources:
    Colom, Lebrun, Buades and Morel 2014, "A non-parametric approach for the estimation of intensity-frequency dependent
        noise", ICIP: noise by frequency, from the patches of the picture.
    Liu, Szeliski, Kang, Zitnick and Freeman 2008, "Automatic Estimation and Removal of Noise from a Single Image", IEEE
        Transactions on Pattern Analysis and Machine Intelligence 30(2): noise by brightness, from the quiet patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.diffusion.reverse import NotFiniteError
from restorer.images.push_pull import push_pull
from restorer.measurement.white_noise import white_estimates
from restorer.measurement.windows import WINDOW, band_masks, describe, hann, opponent_axes, radial_frequency, windows_of
from restorer.networks.noise_estimator import BANDS, SCALES, NoiseEstimator

__all__ = [
    "CameraNoise",
    "Residual",
    "autocovariance_of",
    "mean_variance",
    "measure_camera_noise",
    "quiet_spectrum",
    "residuals_of",
]

LEVEL = 30.0
"""Level of the noise that the prior removes for the residual, in levels of 255."""

STEPS = (16, 16, 8)
"""Distance in pixels between windows, in each scale."""

MAX_PIXELS = 1 << 20
"""Pictures up to this size are looked at in full, larger ones in crops that together are as large."""

CROP, LARGEST_CROP, CROPS_PER_SIDE = 256, 384, 4
BATCH_PIXELS = 1 << 18  # pixels that the prior sees at once

LEAST_EVIDENCE = 0.75  # share of the pixels of a window that are evidence from which it counts
FLAT_SHARE, FLAT_COUNT = 0.15, 8  # share and least number of the windows whose residual gives the spectrum
DARK, BRIGHT = 12.0, 243.0  # mean levels between which noise is not much clipped

CENTRES = tuple((low + min(high, 0.6)) / 2 for low, high in pairwise(BANDS))
"""Frequency in cycles per pixel at which a band has its own gain; between them the gain is interpolated."""

LEAST_VARIANCE = 0.3  # squared levels at every frequency: the rounding to 8 bits, and what an estimate cannot exclude
ROUGH_TONES = 6  # least number of windows of a tone for a statement about it


@dataclass(frozen=True)
class CameraNoise:
    """The noise that was measured in a picture.

    Args:
        probability: Probability that there is noise of more than about a level, by the network, 0..1.
        sigma: Standard deviation of the noise over all pixels and channels, on the 0..255 scale, if there is noise.
        cautious: A lower estimate of it, which is too high in a third of all cases.
        autocovariance: Autocovariance of the noise, (3, 3, 32, 32) in squared levels, as in
            `restorer.diffusion.degradations.coloured_noise`. Its mean variance is the square of `sigma`, and
            LEAST_VARIANCE.
        correlation: Correlation of the luminance of neighbouring pixels, -1..1.
        chroma: Share of the variance that is colour, 0..1; two thirds for white noise.
        shadows: Ratio of the standard deviations in the dark and in the bright parts; nan if one of them is missing.
    """

    probability: float
    sigma: float
    cautious: float
    autocovariance: Tensor
    correlation: float
    chroma: float
    shadows: float


@dataclass(frozen=True)
class Residual:
    """Windows of a picture in one scale.

    Args:
        pixels: The windows as they are, (N, 3, 32, 32) on the 0..255 scale.
        denoised: The windows without noise of LEVEL, (N, 3, 32, 32).
    """

    pixels: Tensor
    denoised: Tensor


def measure_camera_noise(
    image: Tensor, prior: Prior, estimator: NoiseEstimator, evidence: Tensor | None = None
) -> CameraNoise | None:
    """Measure the noise of a photograph.

    The result is deterministic. The prior makes 1.3 evaluations of the picture, or of a megapixel of a
    larger one.

    Args:
        image: float (C, H, W) in [0, 1] with C = 1 or 3.
        prior: The embedded prior, for whose residuals the estimator was trained.
        estimator: The network that tells noise from texture.
        evidence: bool (H, W), the pixels that count; None for all of them. Of a window that counts, at least three
            quarters do, and the others are filled from around them.

    Returns:
        The noise; None if too few windows of the picture count.
    """
    residuals = residuals_of(image, prior, evidence)
    if len(residuals[0].pixels) < FLAT_COUNT:
        return None
    described = [describe(r.pixels, r.denoised)[None] for r in residuals]
    present = [torch.ones(d.shape[:2], dtype=torch.bool) for d in described]
    with torch.inference_mode():
        estimate = estimator(described, present, white_estimates(image, evidence)[None])
    cautious, median = (float(s) for s in estimate.log_sigma[0].exp())
    spectrum = _scale_to_bands(quiet_spectrum(residuals[0]), estimate.log_energies[0, 1].exp())
    autocovariance = autocovariance_of(spectrum)
    # The estimate of the whole is better than the sum of the bands.
    autocovariance *= median**2 / mean_variance(autocovariance)
    autocovariance[range(3), range(3), 0, 0] += LEAST_VARIANCE
    axes = opponent_axes()
    opponent = torch.einsum("ai,ijyx,aj->ayx", axes, autocovariance, axes)
    luminance = opponent[0]
    return CameraNoise(
        probability=float(estimate.logit[0].sigmoid()),
        sigma=median,
        cautious=cautious,
        autocovariance=autocovariance,
        correlation=float((luminance[0, 1] + luminance[1, 0]) / 2 / luminance[0, 0]),
        chroma=float(opponent[1:, 0, 0].sum() / opponent[:, 0, 0].sum()),
        shadows=_ratio_of_tones(residuals[0]),
    )


def residuals_of(image: Tensor, prior: Prior, evidence: Tensor | None = None) -> list[Residual]:
    """Return the windows of a picture in all scales, with what the prior makes of them.

    Args:
        image: As in `measure_camera_noise`.
        prior: As in `measure_camera_noise`.
        evidence: As in `measure_camera_noise`.
    """
    height, width = image.shape[-2:]
    valid = torch.ones(height, width) if evidence is None else evidence.float().cpu()
    picture = torch.cat([image.expand(3, -1, -1).float().cpu() * 255, valid[None]])
    rows, columns = _crops_of(height, width)
    crops = torch.stack([_filled(picture[:, row, column]) for row in rows for column in columns])
    return [_residual_in_scale(crops, scale, step, prior) for scale, step in zip(SCALES, STEPS, strict=True)]


def _filled(crop: Tensor) -> Tensor:
    """Return a crop, (4, H, W) with evidence as the last channel, whose other pixels continue it smoothly.

    Scratches and dust lie in most windows of a small picture, and without these windows little would be left of it.
    """
    colour, evidence = crop[:3], crop[3:]
    if not bool(evidence.any()) or bool(evidence.all()):
        return crop
    return torch.cat([push_pull(colour * evidence, evidence), evidence])


def _crops_of(height: int, width: int) -> tuple[list[slice], list[slice]]:
    """Return the rows and the columns of the crops of a picture that are looked at."""
    if height * width <= MAX_PIXELS:
        return _spread(height, math.ceil(height / LARGEST_CROP)), _spread(width, math.ceil(width / LARGEST_CROP))
    budget = MAX_PIXELS // CROP**2
    down = max(1, min(budget, round(math.sqrt(budget * height / width)), height // CROP))
    return _spread(height, down, CROP), _spread(width, min(budget // down, max(width // CROP, 1)), CROP)


def _spread(length: int, count: int, side: int | None = None) -> list[slice]:
    """Return slices of an axis that are spread evenly over it; they cover it if no side is given."""
    side = math.ceil(length / count) if side is None else min(side, length)
    gaps = max(count - 1, 1)
    starts = [round((length - side) * i / gaps) for i in range(count)]
    return [slice(start, start + side) for start in starts]


def _residual_in_scale(crops: Tensor, scale: int, step: int, prior: Prior) -> Residual:
    """Return the windows of crops, (N, 4, H, W) with evidence as the last channel, shrunk by a factor."""
    if min(crops.shape[-2:]) < scale * WINDOW:
        empty = torch.zeros(0, 3, WINDOW, WINDOW)
        return Residual(empty, empty)
    shrunk = crops if scale == 1 else F.avg_pool2d(crops, scale)
    batch = max(1, BATCH_PIXELS // (shrunk.shape[-2] * shrunk.shape[-1]))
    denoised = torch.cat([_denoise(part[:, :3], prior) for part in shrunk.split(batch)])
    both = torch.cat([shrunk, denoised], 1)
    windows = torch.cat([_windows_that_count(crop, step) for crop in both])
    return Residual(windows[:, :3], windows[:, 4:])


def _windows_that_count(crop: Tensor, step: int) -> Tensor:
    """Return the windows of a crop, (7, H, W), most of whose pixels are evidence, which is the channel 3."""
    windows = windows_of(crop, step)
    return windows[windows[:, 3].mean((1, 2)) >= LEAST_EVIDENCE]


def _denoise(x: Tensor, prior: Prior) -> Tensor:
    """Return pictures (B, 3, H, W) on the 0..255 scale without noise of LEVEL."""
    sigma = 2 * LEVEL / 255
    with prior.resources.run([sigma]):
        clean = prior.denoise((x / 127.5 - 1).to(prior.device), sigma).float().cpu()
    if not bool(clean.isfinite().all()):
        precise = prior.resources.full_precision()
        if precise is None:
            raise NotFiniteError("the network returned values that are not finite")
        return _denoise(x, precise)
    return (clean + 1) * 127.5


def quiet_spectrum(residual: Residual, share: float = FLAT_SHARE) -> Tensor:
    """Return the mean cross-spectrum of the residual in the flattest windows, complex (32, 32, 3, 3).

    Args:
        residual: The windows.
        share: Share of the windows, 0..1.
    """
    means = residual.denoised.mean((1, 2, 3))
    is_unclipped = (means > DARK) & (means < BRIGHT)
    activity = residual.denoised.var((2, 3)).mean(1)
    if is_unclipped.sum() >= FLAT_COUNT:
        activity = torch.where(is_unclipped, activity, torch.inf)
    count = max(FLAT_COUNT, int(share * int(activity.isfinite().sum())))
    flattest = activity.argsort(stable=True)[:count]
    error = (residual.pixels - residual.denoised)[flattest]
    transformed = torch.fft.fft2(error * hann()) / WINDOW
    return torch.einsum("nihw,njhw->hwij", transformed, transformed.conj()) / len(error)


def _scale_to_bands(spectrum: Tensor, energies: Tensor) -> Tensor:
    """Return a cross-spectrum whose energy in each axis of colour and band is the given one.

    Args:
        spectrum: Complex (32, 32, 3, 3), in the channels red, green and blue.
        energies: (3, 6), energies per coefficient in squared levels.
    """
    axes = opponent_axes().to(spectrum.dtype)
    opponent = torch.einsum("ai,hwij,bj->hwab", axes, spectrum, axes)
    masks = band_masks()
    measured = torch.einsum("hwa,bhw->ab", opponent.diagonal(dim1=-2, dim2=-1).real, masks)
    measured = measured / masks.sum((1, 2))
    log_gains = 0.5 * (energies.clamp(min=1e-3).log() - measured.clamp(min=1e-3).log())
    gains = _interpolate(log_gains).exp().permute(1, 2, 0).to(spectrum.dtype)
    scaled = opponent * gains[..., :, None] * gains[..., None, :]
    return torch.einsum("ai,hwab,bj->hwij", axes, scaled, axes)


def _interpolate(values: Tensor) -> Tensor:
    """Return values by band, (A, 6), at every frequency of a window, (A, 32, 32): linear between the centres."""
    radius = radial_frequency()
    centres = torch.tensor(CENTRES)
    upper = torch.bucketize(radius, centres).clamp(1, len(CENTRES) - 1)
    share = ((radius - centres[upper - 1]) / (centres[upper] - centres[upper - 1])).clamp(0, 1)
    return torch.lerp(values[:, upper - 1], values[:, upper], share)


def mean_variance(autocovariance: Tensor) -> float:
    """Return the variance of noise over all channels, by its autocovariance (3, 3, 32, 32)."""
    return float(autocovariance[..., 0, 0].diagonal().mean())


def autocovariance_of(spectrum: Tensor) -> Tensor:
    """Return the autocovariance (3, 3, 32, 32) of a cross-spectrum (32, 32, 3, 3).

    It is tapered towards the largest distances, at which an estimate is unreliable. A triangle is a taper that keeps
    every matrix free of negative eigenvalues (Bartlett 1950).
    """
    distance = torch.fft.fftfreq(WINDOW).abs() * 2  # 0..1
    taper = 1 - distance
    covariance = torch.fft.ifft2(spectrum, dim=(0, 1)).real.permute(2, 3, 0, 1)
    return covariance * taper[:, None] * taper


def _ratio_of_tones(residual: Residual) -> float:
    """Return the ratio of the residual's standard deviation in the dark and in the bright flat parts, or nan."""
    means, activity = residual.denoised.mean((1, 2, 3)), residual.denoised.var((2, 3)).mean(1)
    sigma = (residual.pixels - residual.denoised).square().mean((1, 2, 3)).sqrt()
    parts = []
    for low, high in ((DARK, 85.0), (150.0, BRIGHT)):
        tone = (means > low) & (means < high)
        if tone.sum() < 2 * ROUGH_TONES:
            return math.nan
        flat = activity[tone].argsort()[: int(tone.sum()) // 2]
        parts.append(float(sigma[tone][flat].median()))
    return parts[0] / max(parts[1], 1e-3)
