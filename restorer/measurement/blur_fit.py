r"""How well a kernel explains the spectrum of a picture, and the kernel of a family that explains it best.

The mean energy of the windows with the strongest edges is modelled at every frequency f, of radius r and angle phi, as

    E(f) = |K(f)|^2 S(f) + N,   log S = a + b log r + c (log r)^2 + harmonics of phi, two of which grow with log r

with the kernel's transform K, a sharp photograph's spectrum S, which is a power law with exponents that photographs
have, and white noise N. The fit minimizes the Huber loss of log E. On logarithms the zeros of a disk and of a line
count as much as the strong frequencies, and only the right size puts them into the right places. |K|^2 is smoothed by
the taper of the windows, as is the measured spectrum.

Sources:
    Field 1987, "Relations between the statistics of natural images and the response properties of cortical cells",
        Journal of the Optical Society of America A 4(12): the power law.
    Whittle 1953, "Estimation and information in stationary time series": the likelihood by the spectrum alone.
    Huber 1964, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35(1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from restorer.measurement.blur_spectrum import SIDE

__all__ = ["Fit", "SpectrumFit"]

LOWEST, HIGHEST = 0.025, 0.5  # frequencies that count, in cycles per pixel
AXES = 1.5 / SIDE  # distance from the axes, on which borders and straight buildings lie, of those that count
NOISE_BAND = 0.42  # frequencies from which the first guess of the noise is taken
LEAST_NOISE = 0.05  # squared levels: less than the rounding to 8 bits adds
EXPONENT = -2.4  # of the energy of photographs, the middle of the prior
ITERATIONS, HUBER = 14, 1.0
LEAST_GAIN = 1e-9  # least value of |K|^2

# Precision of the prior of each coefficient but the level: exponent, curvature, harmonics of 2 and 4 phi, and those of
# 2 phi times log r.
PRECISIONS = (0.0, 0.3, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
PRIOR_WEIGHT = 0.01


class Fit(NamedTuple):
    """The best fit of a kernel.

    Args:
        loss: The mean Huber loss of the log energies, with the cost of the prior.
        coefficients: Those of log S, and the logarithm of N.
    """

    loss: float
    coefficients: Tensor


@dataclass(frozen=True)
class _Grid:
    """The frequencies that count, and the functions of them whose sum is log S."""

    used: Tensor
    basis: Tensor
    is_low: Tensor
    is_high: Tensor


@cache
def _grid() -> _Grid:
    down = torch.fft.fftfreq(SIDE, dtype=torch.float64)[:, None].expand(-1, SIDE // 2 + 1)
    across = torch.fft.rfftfreq(SIDE, dtype=torch.float64).expand(SIDE, -1)
    radius, angle = torch.hypot(down, across), torch.atan2(-down, across)
    used = (radius > LOWEST) & (radius < HIGHEST) & (across > AXES) & (down.abs() > AXES)
    log_radius, phi = radius[used].log(), angle[used]
    log_radius = log_radius - log_radius.mean()
    harmonics = [(k * phi).cos() for k in (2, 4)] + [(k * phi).sin() for k in (2, 4)]
    growing = [log_radius * (2 * phi).cos(), log_radius * (2 * phi).sin()]
    basis = torch.stack([torch.ones_like(phi), log_radius, log_radius.square(), *harmonics, *growing], 1)
    return _Grid(used, basis, radius[used] < 0.1, radius[used] > NOISE_BAND)


class SpectrumFit:
    """The spectrum of one picture, to which kernels are fitted.

    Args:
        energy: Mean energy of its windows at the frequencies of `rfft2`, (128, 65) in squared levels.
    """

    def __init__(self, energy: Tensor) -> None:
        self._grid = _grid()
        self._log_energy = energy[self._grid.used].double().clamp(min=1e-4).log()
        precisions = torch.tensor((*PRECISIONS, 0.0), dtype=torch.float64)
        self._precision = precisions * PRIOR_WEIGHT
        self._middle = torch.zeros_like(precisions)
        self._middle[1] = EXPONENT

    def fit(self, kernel: Tensor, start: Tensor | None = None) -> Fit:
        """Return the best fit of a kernel.

        Args:
            kernel: The kernel, (2 a + 1, 2 b + 1), sum 1.
            start: Coefficients of a similar kernel's fit; None for the usual start.
        """
        log_gain = _log_gain(kernel)
        x = self._start(log_gain) if start is None else start.clone()
        loss, error, share = self._evaluate(x, log_gain)
        for _ in range(ITERATIONS):
            weight = HUBER / error.abs().clamp(min=HUBER)
            jacobian = torch.cat([self._grid.basis * share[:, None], 1 - share[:, None]], 1)
            weighted = (jacobian * weight[:, None]).T / len(error)
            curvature = weighted @ jacobian + torch.diag(self._precision + 1e-6)
            step = torch.linalg.solve(curvature, weighted @ error + self._precision * (self._middle - x))
            before = loss
            for _ in range(5):
                tried = x + step
                tried[-1] = tried[-1].clamp(min=math.log(LEAST_NOISE))
                found = self._evaluate(tried, log_gain)
                if found[0] <= loss:
                    x, (loss, error, share) = tried, found
                    break
                step = step / 3
            if before - loss < 1e-5:
                break
        return Fit(loss, x)

    def best(
        self, make: Callable[[float], Tensor], values: Sequence[float], start: Tensor | None = None
    ) -> tuple[float, Fit]:
        """Return the value whose kernel fits best, and the best fit.

        The value is the vertex of the parabola through the losses of the best of the given values and its neighbours.

        Args:
            make: Returns the kernel of a value.
            values: The values, in order and about equally far from each other.
            start: As in `fit`.
        """
        fits: list[Fit] = []
        for value in values:
            fits.append(self.fit(make(value), fits[-1].coefficients if fits else start))
        index = min(range(len(fits)), key=lambda i: fits[i].loss)
        if not 0 < index < len(values) - 1:
            return values[index], fits[index]
        before, least, after = (fits[i].loss for i in (index - 1, index, index + 1))
        bend = before - 2 * least + after
        shift = 0.5 * (before - after) / bend if bend > 0 else 0.0
        neighbour = values[index + (1 if shift > 0 else -1)]
        return values[index] + abs(shift) * (neighbour - values[index]), fits[index]

    def _start(self, log_gain: Tensor) -> Tensor:
        """Return coefficients to start from: the usual exponent, with the level and the noise of the spectrum."""
        x, grid = self._middle.clone(), self._grid
        slope = grid.basis[:, 1] * EXPONENT
        x[0] = (self._log_energy - log_gain - slope)[grid.is_low].mean()
        x[-1] = max(float(self._log_energy[grid.is_high].median()) - 0.3, math.log(LEAST_NOISE))
        return x

    def _evaluate(self, x: Tensor, log_gain: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return the loss, the errors of the log energies, and the share of the picture in each energy."""
        signal = (self._grid.basis @ x[:-1] + log_gain).clamp(-30, 30).exp()
        energy = signal + x[-1].exp()
        error = self._log_energy - energy.log()
        size = error.abs()
        huber = torch.where(size < HUBER, 0.5 * size.square(), HUBER * (size - 0.5 * HUBER)).mean()
        prior = 0.5 * (self._precision * (x - self._middle).square()).sum()
        return float(huber + prior), error, signal / energy


def _log_gain(kernel: Tensor) -> Tensor:
    """Return log |K|^2 at the frequencies that count, smoothed as the taper of the windows smooths a spectrum."""
    gain = torch.fft.fft2(kernel.double(), s=(SIDE, SIDE)).abs().square()
    for axis in (0, 1):  # the power of a Hann taper has the weights 1 : 4 : 1
        gain = (gain.roll(1, axis) + 4 * gain + gain.roll(-1, axis)) / 6
    return gain[:, : SIDE // 2 + 1][_grid().used].clamp(min=LEAST_GAIN).log()
