r"""A simulated camera: what its sensor and its program make of a scene.

The light of a scene is estimated from a finished photograph by undoing the tone curve, the colour matrix and the white
balance. Photons and electronics add noise of variance a x + b^2 to each pixel of the sensor, which sees one colour.
What follows turns this noise into what is found in files:

    demosaicing       correlates neighbours, and differs between green and the other colours
    white balance     strengthens red and blue
    colour matrix     mixes the channels, with negative weights
    tone curve        strengthens the shadows and weakens the highlights
    noise reduction   smooths the colour, and the luminance where it is flat
    sharpening        strengthens the middle frequencies
    resizing          shifts all frequencies
    JPEG              removes the highest frequencies, and shrinks the colour by two

Sources:
    Brooks, Mildenhall, Xue, Chen, Sharlet and Barron 2019, "Unprocessing Images for Learned Raw Denoising", CVPR,
        https://arxiv.org/abs/1811.11127: the inverse of a camera's processing.
    Foi, Trimeche, Katkovnik and Egiazarian 2008, "Practical Poissonian-Gaussian Noise Modeling and Fitting for
        Single-Image Raw-Data", IEEE Transactions on Image Processing 17(10): the variance a x + b^2.
    Hamilton and Adams 1997, US patent 5629734, expired: demosaicing along the weaker gradient.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restorer.training.edits import as_stored, blur, jpeg, resize

__all__ = ["Camera", "photograph"]

COLOUR_MATRIX = torch.tensor([[1.7, -0.5, -0.2], [-0.25, 1.5, -0.25], [0.0, -0.5, 1.5]])  # a typical one
YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
BILINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])


@dataclass(frozen=True)
class Camera:
    """The settings of a camera.

    Args:
        gamma: Exponent of the tone curve.
        contrast: Share of a smooth step in the tone curve, 0..1.
        red: Gain of red in the white balance.
        blue: Gain of blue.
        exposure: Share of the full well that white fills.
        mixing: Share of the colour matrix, 0 for none .. 1.
        edges: Whether demosaicing follows edges; otherwise it is bilinear.
        phase: Position of red in the mosaic.
        gain: a, the variance of photon noise over the signal, which grows with the ISO number.
        read: b / a, the noise of the electronics.
        rows: Strength of the noise that a row shares, as a multiple of b.
        chroma: Standard deviation in pixels of the blur of the colour; 0 for none.
        chroma_share: Share of the blurred colour, 0..1.
        luma: How the luminance is denoised: "none", "blur", "edges", "coring" or "wavelets".
        luma_strength: How much, about 1.
        sharpening: Amount of unsharp masking; 0 for none.
        radius: Its radius in pixels.
        resize: Factor by which the picture is resized.
        quality: Quality of the JPEG file; 0 for none.
        subsampled: Whether the file halves the resolution of the colour.
    """

    gamma: float = 2.2
    contrast: float = 0.5
    red: float = 1.9
    blue: float = 1.6
    exposure: float = 0.8
    mixing: float = 1.0
    edges: bool = True
    phase: tuple[int, int] = (0, 0)
    gain: float = 0.003
    read: float = 1.0
    rows: float = 0.0
    chroma: float = 0.0
    chroma_share: float = 1.0
    luma: str = "none"
    luma_strength: float = 1.0
    sharpening: float = 0.0
    radius: float = 1.0
    resize: float = 1.0
    quality: int = 0
    subsampled: bool = True

    @staticmethod
    def draw(rng: random.Random, kind: str = "camera") -> Camera:
        """Draw a camera.

        Args:
            rng: The source of chance.
            kind: "camera" for any; "phone" for strong noise that is hardly reduced; "reduced" for noise that the camera
                has reduced and compressed.
        """
        gains = {"camera": (3e-4, 2.5e-2), "phone": (2e-3, 4e-2), "reduced": (5e-4, 8e-3)}[kind]
        reduced = kind == "reduced" or (kind == "camera" and rng.random() < 0.4)
        return Camera(
            gamma=rng.uniform(1.8, 2.6),
            contrast=rng.choice([0.0, rng.uniform(0.2, 1.0)]),
            red=rng.uniform(1.4, 2.4),
            blue=rng.uniform(1.3, 2.2),
            exposure=rng.uniform(0.5, 1.0),
            mixing=rng.uniform(0.0, 1.0),
            edges=rng.random() < 0.7,
            phase=rng.choice([(0, 0), (0, 1), (1, 0), (1, 1)]),
            gain=math.exp(rng.uniform(*map(math.log, gains))),
            read=rng.uniform(0.2, 2.5),
            rows=rng.choice([0.0, 0.0, 0.0, rng.uniform(0.0, 0.5)]),
            chroma=rng.choice([rng.uniform(0.7, 2.0), rng.uniform(1.0, 4.0)]) if reduced else 0.0,
            chroma_share=rng.uniform(0.6, 1.0),
            luma=rng.choice(["blur", "edges", "coring", "wavelets"]) if reduced and rng.random() < 0.8 else "none",
            luma_strength=rng.uniform(0.5, 2.0),
            sharpening=rng.choice([0.0, 0.0, rng.uniform(0.2, 1.2)]),
            radius=rng.uniform(0.6, 1.6),
            resize=rng.choice([1.0, 1.0, 1.0, rng.uniform(0.4, 0.95), rng.uniform(1.05, 1.6)]),
            quality=rng.choice([98, 95, 92, 90, 85]) if reduced else rng.choice([0, 98, 95, 90, 80]),
            subsampled=rng.random() < 0.6,
        )


def photograph(x: Tensor, camera: Camera, seed: int | None) -> Tensor:
    """Return what a camera makes of the scene of a photograph.

    Args:
        x: The photograph, (3, H, W) on the 0..255 scale.
        camera: The camera.
        seed: Seed of the noise; None for a picture without noise.
    """
    matrix = torch.lerp(torch.eye(3), COLOUR_MATRIX, camera.mixing)
    balance = torch.tensor([camera.red, 1.0, camera.blue]).view(3, 1, 1)
    light = _remove_tone_curve(x / 255, camera)
    scene = torch.einsum("ij,jhw->ihw", torch.linalg.inv(matrix), light) * camera.exposure
    sensor = (scene / balance).clamp(0, 1)
    mosaic = _mosaic(sensor, camera.phase)
    raw = (sensor * mosaic).sum(0)
    if seed is not None:
        raw = _expose(raw, camera, torch.Generator().manual_seed(seed))
    colours = (_demosaic_along_edges if camera.edges else _demosaic_bilinearly)(raw, mosaic) * balance
    developed = torch.einsum("ij,jhw->ihw", matrix, colours) / camera.exposure
    finished = _reduce_and_sharpen(_apply_tone_curve(developed, camera), camera)
    stored = as_stored(255 * finished)
    stored = stored if camera.resize == 1 else resize(stored, camera.resize)
    return jpeg(stored, camera.quality, subsampled=camera.subsampled) if camera.quality else stored


def _expose(raw: Tensor, camera: Camera, generator: torch.Generator) -> Tensor:
    """Return the signal of the sensor with noise."""
    floor = camera.gain * camera.read
    noise = torch.randn(raw.shape, generator=generator) * (camera.gain * raw + floor**2).sqrt()
    rows = torch.randn(len(raw), 1, generator=generator) * camera.rows * floor
    return (raw + noise + rows).clamp(-0.02, 1)


def _remove_tone_curve(x: Tensor, camera: Camera) -> Tensor:
    """Return the light of a picture in [0, 1]: the inverse of a smooth step, and a power."""
    straight = 0.5 - torch.sin(torch.asin((1 - 2 * x.clamp(0, 1)).clamp(-1, 1)) / 3)
    return torch.lerp(x.clamp(0, 1), straight, camera.contrast).clamp(1e-6, 1) ** camera.gamma


def _apply_tone_curve(light: Tensor, camera: Camera) -> Tensor:
    """Invert `_remove_tone_curve` by a table."""
    table = torch.linspace(0, 1, 4097)
    inverse = np.interp(light.clamp(0, 1).numpy(), _remove_tone_curve(table, camera).numpy(), table.numpy())
    return torch.from_numpy(inverse).float()


def _mosaic(x: Tensor, phase: tuple[int, int]) -> Tensor:
    """Return which colour each pixel of the sensor sees, (3, H, W) of 0 and 1 in Bayer's pattern."""
    mosaic = torch.zeros_like(x)
    down, across = phase
    mosaic[0, down::2, across::2] = 1
    mosaic[2, 1 - down :: 2, 1 - across :: 2] = 1
    mosaic[1] = 1 - mosaic[0] - mosaic[2]
    return mosaic


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Return planes (C, H, W) convolved with a kernel, mirrored at the borders."""
    reach = kernel.shape[-1] // 2
    padded = F.pad(x[None], (reach,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(len(x), 1, *kernel.shape), groups=len(x))[0]


def _demosaic_bilinearly(raw: Tensor, mosaic: Tensor) -> Tensor:
    """Return the mean of the nearest pixels of each colour, (3, H, W)."""
    return _convolve(raw * mosaic, BILINEAR) / _convolve(mosaic, BILINEAR)


def _demosaic_along_edges(raw: Tensor, mosaic: Tensor) -> Tensor:
    """Return the colours, (3, H, W): green along the weaker gradient, then the differences from green bilinearly."""
    height, width = raw.shape
    padded = F.pad(raw[None, None], (2, 2, 2, 2), mode="reflect")[0, 0]

    def at(down: int, across: int) -> Tensor:
        return padded[2 + down : 2 + down + height, 2 + across : 2 + across + width]

    def along(down: int, across: int) -> tuple[Tensor, Tensor]:
        """Return green interpolated along an axis, and the gradient along it."""
        before, after = at(-down, -across), at(down, across)
        curvature = 2 * raw - at(-2 * down, -2 * across) - at(2 * down, 2 * across)
        return (before + after) / 2 + curvature / 4, (before - after).abs() + curvature.abs()

    (beside, change_beside), (above, change_above) = along(0, 1), along(1, 0)
    between = torch.where(change_above < change_beside, above, (beside + above) / 2)
    green = torch.where(change_beside < change_above, beside, between)
    green = torch.where(mosaic[1] > 0, raw, green)
    difference = _convolve((raw - green) * mosaic, BILINEAR) / _convolve(mosaic, BILINEAR)
    colours = torch.where(mosaic > 0, raw, green + difference)
    colours[1] = green
    return colours


def _reduce_and_sharpen(x: Tensor, camera: Camera) -> Tensor:
    """Return the picture in [0, 1] after noise reduction and sharpening, as the camera's program does them."""
    luma, chroma = torch.einsum("ij,jhw->ihw", YCBCR, x).split([1, 2])
    if camera.chroma:
        chroma = torch.lerp(chroma, blur(chroma, camera.chroma), camera.chroma_share)
    threshold = camera.luma_strength * 0.3 * math.sqrt(camera.gain)
    if camera.luma == "blur":
        luma = blur(luma, 0.5 * camera.luma_strength)
    elif camera.luma == "edges":
        luma = _bilateral(luma, threshold + 1e-4)
    elif camera.luma == "coring":
        smooth = blur(luma, 1.0)
        luma = smooth + F.softshrink(luma - smooth, 0.6 * threshold)
    elif camera.luma == "wavelets":
        luma = _shrink_details(luma, threshold)
    if camera.sharpening:
        luma = luma + camera.sharpening * (luma - blur(luma, camera.radius))
    return torch.einsum("ij,jhw->ihw", torch.linalg.inv(YCBCR), torch.cat([luma, chroma])).clamp(0, 1)


def _shrink_details(plane: Tensor, threshold: float) -> Tensor:
    """Return a plane (1, H, W) whose details at three scales were reduced, the finest most (Donoho 1995)."""
    smooth, details = plane, []
    for width, share in ((0.7, 0.7), (1.4, 0.35), (2.8, 0.18)):
        smoother = blur(smooth, width)
        details.append(F.softshrink(smooth - smoother, share * threshold))
        smooth = smoother
    return smooth + torch.stack(details).sum(0)


def _bilateral(plane: Tensor, threshold: float) -> Tensor:
    """Return a plane (1, H, W) averaged over 5x5 pixels of similar values (Tomasi and Manduchi 1998)."""
    height, width = plane.shape[-2:]
    padded = F.pad(plane[None], (2, 2, 2, 2), mode="reflect")[0]
    total, weights = torch.zeros_like(plane), torch.zeros_like(plane)
    for down in range(5):
        for across in range(5):
            other = padded[:, down : down + height, across : across + width]
            distance = (down - 2) ** 2 + (across - 2) ** 2
            weight = torch.exp(-((other - plane) ** 2) / (2 * threshold**2) - distance / 3)
            total, weights = total + weight * other, weights + weight
    return total / weights
