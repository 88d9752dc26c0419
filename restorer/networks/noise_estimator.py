"""The network that tells noise from texture: a set of windows of a picture in, the noise's energy by band out.

A window is described by how much energy its residual, its denoised content and its pixels have in each band of spatial
frequency and each axis of colour, and by its mean colour (`restorer.measurement.windows`). Noise is in every window of
equal brightness, while texture lives in some of them. The network therefore looks at all windows at once:

    z_i     = encoder(f_i)                     one window, described by f_i
    a_i     = softmax over i of attention(z_i) how much a window counts, for each head
    pooled  = sum_i a_i z_i
    result  = base + head(pooled, quantiles, white)

The base is the lower quartile of the energies over the windows, which the network corrects. The sum does not depend on
the order or the number of the windows, as in Deep Sets. A picture is looked at in three scales, each with an encoder of
its own, because coarse grain does not fit into a window of the finest. The estimates of white noise, `white`, agree
with each other only where the noise is white. The estimator is the mean of several networks, which differ in the seeds
of their training, because where one network errs the others often do not.

Sources:
    Zaheer et al. 2017, "Deep Sets", https://arxiv.org/abs/1703.06114: functions of sets.
    Ilse, Tomczak and Welling 2018, "Attention-based Deep Multiple Instance Learning",
        https://arxiv.org/abs/1802.04712: pooling by attention.
    Lakshminarayanan, Pritzel and Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles", https://arxiv.org/abs/1612.01474: the mean of several networks.
    Koenker and Bassett 1978, "Regression Quantiles", Econometrica 46(1): what the outputs are trained to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "AXES",
    "BANDS",
    "FEATURES",
    "MEMBERS",
    "QUANTILES",
    "SCALES",
    "WHITE",
    "NoiseEstimate",
    "NoiseEstimator",
    "SetNetwork",
    "log_total",
]

AXES = 3
"""Number of axes of colour: luminance, red against blue, and green against magenta."""

BANDS = (0.0, 0.047, 0.094, 0.17, 0.25, 0.35, 0.8)
"""Limits of the bands of spatial frequency, in cycles per pixel."""

SCALES = (1, 2, 4)
"""Factors by which the picture is shrunk before its windows are described."""

WINDOW_QUANTILES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75)
BASE = 3  # position of the quantile that the network corrects

QUANTILES = (0.35, 0.5)
"""The two estimates of every energy: a cautious one, which is too high in a third of all cases, and the median."""

ENERGIES = AXES * (len(BANDS) - 1)
FEATURES = 3 * ENERGIES + AXES
"""Length of the description of a window: log energies of the residual, the denoised content and the pixels; colour."""

WHITE = 6
"""Number of estimates of white noise; see `restorer.measurement.white_noise.white_estimates`."""

MEMBERS = 3
"""Number of networks whose mean is the estimate."""

WIDTH, HEADS, HIDDEN = 64, 4, 128
LEAST_WHITE = 0.3  # levels that are added to estimates of white noise before their logarithm


class NoiseEstimate(NamedTuple):
    """The result for a batch of pictures.

    Args:
        log_energies: Log of the noise's energy per Fourier coefficient by axis and band, in squared levels,
            (B, 2, 3, 6): the cautious estimate and the median, if there is noise.
        log_sigma: Log of its standard deviation in levels, over all pixels and channels, (B, 2).
        logit: Log odds that there is noise of more than about a level, (B,).
    """

    log_energies: Tensor
    log_sigma: Tensor
    logit: Tensor


def log_total(log_energies: Tensor, shares: Tensor) -> Tensor:
    """Return the log standard deviation of a signal from its log energies (..., 3 * 6).

    Args:
        log_energies: Log energies per coefficient, by axis and band.
        shares: (6,), the share of each band in all coefficients.
    """
    energies = log_energies.exp().unflatten(-1, (AXES, -1))
    return 0.5 * ((energies * shares).sum((-2, -1)) / AXES).clamp(min=1e-4).log()


class NoiseEstimator(nn.Module):
    """The estimator of the module docstring. It is small, and runs in float32 on the CPU."""

    def __init__(self, members: int = MEMBERS) -> None:
        super().__init__()
        self.members = nn.ModuleList(SetNetwork() for _ in range(members))

    def forward(self, windows: Sequence[Tensor], present: Sequence[Tensor], white: Tensor) -> NoiseEstimate:
        """Estimate the noise of a batch of pictures.

        Args:
            windows: As in `SetNetwork.forward`.
            present: As in `SetNetwork.forward`.
            white: As in `SetNetwork.forward`.
        """
        estimates = [member(windows, present, white) for member in self.members]
        return NoiseEstimate(*(torch.stack(parts).mean(0) for parts in zip(*estimates, strict=True)))


class SetNetwork(nn.Module):
    """One of the networks of the module docstring."""

    mean: Tensor
    std: Tensor
    quantile_mean: Tensor
    quantile_std: Tensor
    offset: Tensor
    spread: Tensor
    white_mean: Tensor
    white_std: Tensor
    shares: Tensor

    def __init__(self) -> None:
        super().__init__()
        outputs, quantiles = ENERGIES + 1, len(WINDOW_QUANTILES) * (FEATURES + 1)
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in SCALES
        )
        self.attention = nn.ModuleList(nn.Linear(WIDTH, HEADS) for _ in SCALES)
        self.dropout = nn.Dropout(0.15)
        self.head = nn.Sequential(
            nn.Linear(len(SCALES) * HEADS * WIDTH + quantiles + WHITE, HIDDEN),
            nn.GELU(),
            nn.Dropout(0.15),
            nn.Linear(HIDDEN, len(QUANTILES) * outputs + 1),
        )
        for name, shape in {
            "mean": (len(SCALES), FEATURES),
            "quantile_mean": (quantiles,),
            "white_mean": (WHITE,),
            "offset": (outputs,),
        }.items():
            self.register_buffer(name, torch.zeros(shape))
        for name, shape in {
            "std": (len(SCALES), FEATURES),
            "quantile_std": (quantiles,),
            "white_std": (WHITE,),
            "spread": (outputs,),
            "shares": (len(BANDS) - 1,),
        }.items():
            self.register_buffer(name, torch.ones(shape))

    def forward(self, windows: Sequence[Tensor], present: Sequence[Tensor], white: Tensor) -> NoiseEstimate:
        """Estimate the noise of a batch of pictures.

        Args:
            windows: The descriptions of the windows of each scale, float32 (B, N, FEATURES). N may differ between the
                scales, and may be 0 in all but the first.
            present: Which of them exist, bool (B, N); the others fill up the batch.
            white: Estimates of white noise in levels, (B, WHITE).
        """
        quantiles = self.quantiles_of(windows[0], present[0])
        pooled = [self._pool(k, x, there) for k, (x, there) in enumerate(zip(windows, present, strict=True))]
        described = ((quantiles.flatten(1) - self.quantile_mean) / self.quantile_std).clamp(-4, 4)
        levels = ((self.log_white(white) - self.white_mean) / self.white_std).clamp(-4, 4)
        output = self.head(torch.cat([self.dropout(torch.cat(pooled, 1)), described, levels], 1))
        base = self.base_of(quantiles) + self.offset
        estimates = output[:, :-1].unflatten(1, (len(QUANTILES), -1)) * self.spread + base[:, None]
        energies = estimates[..., :-1].unflatten(-1, (AXES, -1))
        return NoiseEstimate(energies, estimates[..., -1], output[:, -1])

    def _pool(self, scale: int, windows: Tensor, present: Tensor) -> Tensor:
        """Return the weighted mean of the encoded windows of one scale, (B, HEADS * WIDTH); 0 if there are none."""
        if windows.shape[1] == 0:
            return windows.new_zeros(len(windows), HEADS * WIDTH)
        normalized = ((windows - self.mean[scale]) / self.std[scale]).clamp(-4, 4)
        encoded = self.encoders[scale](normalized)
        weights = self.attention[scale](encoded).masked_fill(~present[..., None], -1e4).softmax(1)
        pooled = torch.einsum("bnh,bnd->bhd", weights, encoded).flatten(1)
        return pooled * present.any(1, keepdim=True)

    def quantiles_of(self, windows: Tensor, present: Tensor) -> Tensor:
        """Return quantiles over the windows of every feature and of the residual's log standard deviation.

        Args:
            windows: As in `forward`, of the finest scale, where every picture must have a window.
            present: As in `forward`.

        Returns:
            (B, 6, FEATURES + 1).
        """
        levels = torch.tensor(WINDOW_QUANTILES, dtype=windows.dtype)
        total = log_total(windows[..., :ENERGIES], self.shares)
        described = torch.cat([windows, total[..., None]], -1)
        return torch.stack([d[there].quantile(levels, 0) for d, there in zip(described, present, strict=True)])

    @staticmethod
    def log_white(white: Tensor) -> Tensor:
        """Return the logarithms of estimates of white noise, as the network looks at them."""
        return (white + LEAST_WHITE).log()

    def base_of(self, quantiles: Tensor) -> Tensor:
        """Return what the outputs correct: the lower quartiles of the residual's energies and total, (B, 19)."""
        lower = quantiles[:, BASE]
        return torch.cat([lower[:, :ENERGIES], lower[:, -1:]], 1)
