r"""What a JPEG file says about its picture: the quantization tables, the sampling, and the quantized coefficients.

Pillow does not hand out coefficients, but they follow from the decoded planes: the DCT of the decoded 8-bit values,
divided by the steps and rounded, is the index that the file holds, because rounding the pixels moves a coefficient by a
third of a level, and steps are longer than that. The chroma is decoded at its own resolution where libjpeg can do so
(by halving the luminance); otherwise its smooth enlargement is inverted. Where the decoder has clipped values at black
or white, or has cut off a block at the border, the missing values are searched for: they are those of the block that
the indices stand for, and the indices are those of the completed block.

Sources:
    ITU-T T.81 (1992), "Digital compression and coding of continuous-tone still images": the format.
    libjpeg, `jdsample.c`: the triangle filter by which the chroma is enlarged.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from restorer.diffusion.degradations.quantization import BLOCK, Plane, Quantization, dct_matrix, turn_of
from restorer.measurement.jpeg_error import expected_errors

__all__ = [
    "STANDARD_TABLES",
    "Component",
    "Jpeg",
    "indices_of",
    "quality_of",
    "read_jpeg",
    "shrink_smooth",
    "table_of_quality",
]

# T.81, annex K, tables K.1 and K.2, which libjpeg scales by the quality.
_LUMINANCE = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""
STANDARD_TABLES = tuple(
    torch.tensor([[float(n) for n in line.split()] for line in text.split("\n") if line])
    for text in (_LUMINANCE, _CHROMINANCE)
)
"""The tables of the standard for luminance and chrominance, which libjpeg uses at quality 50, two of (8, 8)."""

TRIANGLE_STEPS = 15  # of the inversion of the smooth enlargement; each leaves .6 of the error
SEARCH_ROUNDS = 12  # of the search for values that were clipped or cut off


CHANNEL_SHARES = (1.0, (0.344136**2 + 1.772**2) / 3, (1.402**2 + 0.714136**2) / 3)
"""Mean variance of red, green and blue that an error of variance 1 in Y, Cb and Cr makes."""


@dataclass(frozen=True)
class Component:
    """One plane of a JPEG file.

    Args:
        indices: The quantized coefficients, int16 (blocks down, blocks across, 8, 8), by vertical and horizontal
            frequency.
        steps: Its quantization table, float32 (8, 8).
        shrink: The factors by which it is smaller than the picture, down and across.
    """

    indices: Tensor
    steps: Tensor
    shrink: tuple[int, int]


@dataclass(frozen=True)
class Jpeg:
    """What is known of a picture that was stored as a JPEG file.

    Args:
        width: Width of the stored picture in pixels, before it is turned upright.
        height: Its height.
        colour: "gray", "ycbcr", "rgb" or "cmyk": what the components are.
        components: One, three or four planes.
        orientation: Orientation tag of EXIF, 1..8.
        offset: How many rows and columns of the first blocks are missing because the picture was cropped.
        is_cropped: Whether the blocks at the borders may be incomplete.
        own_edges: Which edges (top, left, bottom, right, as stored) are those of the file although it was cropped.
        is_earlier: Whether the file is an earlier state of the picture, found in its pixels.
    """

    width: int
    height: int
    colour: str
    components: tuple[Component, ...]
    orientation: int = 1
    offset: tuple[int, int] = (0, 0)
    is_cropped: bool = False
    own_edges: tuple[bool, bool, bool, bool] = (False, False, False, False)
    is_earlier: bool = False

    @property
    def quality(self) -> int:
        """The quality of libjpeg, 1..100, whose table is nearest to that of the luminance."""
        return quality_of(self.components[0].steps)

    @property
    def sampling(self) -> str:
        """The sampling of the chroma in its usual notation, such as "4:2:0"."""
        if len(self.components) < 3:
            return "gray"
        names = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0", (2, 1): "4:4:0", (1, 4): "4:1:1"}
        down, across = self.components[1].shrink
        return names.get((down, across), f"{down}x{across}")

    @property
    def missing(self) -> tuple[int, int]:
        """How many rows and columns of the first blocks are missing in the upright picture."""
        is_transposed, is_flipped_down, is_flipped_across = turn_of(self.orientation)
        stored = []
        for axis, (side, is_flipped) in enumerate(((self.height, is_flipped_down), (self.width, is_flipped_across))):
            unit = BLOCK * max(component.shrink[axis] for component in self.components)
            stored.append(-(side + self.offset[axis]) % unit if is_flipped else self.offset[axis])
        return (stored[1], stored[0]) if is_transposed else (stored[0], stored[1])

    @property
    def sigma(self) -> float:
        """Expected standard deviation of the error of the compression, in levels, over all pixels and channels."""
        errors = [float(expected_errors(c.indices, c.steps)[0].mean()) + 1 / 12 for c in self.components]
        if self.colour == "ycbcr":
            return math.sqrt(sum(share * error for share, error in zip(CHANNEL_SHARES, errors, strict=True)))
        return math.sqrt(sum(errors) / len(errors))

    def describe(self) -> str:
        """Return what is known in a few words, such as "JPEG of quality 30, 4:2:0"."""
        kind = "earlier JPEG" if self.is_earlier else "JPEG"
        return f"{kind} of quality {self.quality}, {self.sampling}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output holds."""
        return {
            "quality": self.quality,
            "sampling": self.sampling,
            "sigma": round(self.sigma, 2),
            "earlier": self.is_earlier,
        }

    def luminance(self) -> Jpeg:
        """Return the same picture without colour: a luminance, and a chroma that is known to be 0."""
        first = self.components[0]
        nothing = Component(torch.zeros_like(first.indices), torch.zeros(BLOCK, BLOCK), (1, 1))
        return replace(self, colour="ycbcr", components=(first, nothing, nothing))

    def degradation(
        self,
        shares: tuple[float, float] = (1.0, 1.0),
        most_doubt: float = 1.0,
        noise: Sequence[Tensor] | None = None,
    ) -> Quantization:
        """Return the operator of the loop.

        Args:
            shares: `prior_share` of the luminance and of the chroma.
            most_doubt: As in `Quantization`.
            noise: Variance in squared levels of the noise that every component had before it was quantized, (8, 8)
                each; None for none.
        """
        planes = [
            Plane(component.steps, component.shrink, shares[min(i, 1)], None if noise is None else noise[i])
            for i, component in enumerate(self.components)
        ]
        size = (self.height, self.width) if self.orientation < 5 else (self.width, self.height)
        return Quantization(
            size,
            planes,
            is_ycbcr=self.colour == "ycbcr",
            offset=self.offset,
            is_cropped=self.is_cropped,
            own_edges=self.own_edges,
            most_doubt=most_doubt,
            orientation=self.orientation,
        )

    def data(self) -> Tensor:
        """Return the coefficients of the file as data of `degradation`, float32 (1, N)."""
        rows = []
        for i, component in enumerate(self.components):
            coefficients = component.indices.float() * component.steps
            if i == 0 or self.colour == "rgb":  # the file subtracts 128, and the middle of [0, 255] is 127.5
                coefficients[..., 0, 0] += 0.5 * BLOCK
            rows.append(coefficients.flatten())
        return torch.cat(rows)[None] / 127.5


def table_of_quality(quality: int, table: Tensor = STANDARD_TABLES[0]) -> Tensor:
    """Return a standard table as libjpeg scales it.

    Args:
        quality: 1..100.
        table: One of STANDARD_TABLES.
    """
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((table * percent + 50) / 100).floor().clamp(1, 255)


def quality_of(steps: Tensor) -> int:
    """Return the quality, 1..100, whose table of luminance is nearest to a table in the mean of its logarithms."""
    tables = torch.stack([table_of_quality(quality) for quality in range(1, 101)])
    return 1 + int((tables.log() - steps.log()).abs().mean((1, 2)).argmin())


def read_jpeg(data: bytes) -> Jpeg | None:
    """Read the coefficients of a JPEG file.

    Args:
        data: The bytes of the file.

    Returns:
        None if the file is not a JPEG that can be read.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    with contextlib.suppress(Exception):  # a decoder may raise anything, and the pixels have been read already
        return _read(data)
    return None


def _read(data: bytes) -> Jpeg | None:
    image = _open(data)
    layers = image.layer
    largest = max(layer[1] for layer in layers), max(layer[2] for layer in layers)
    if any(largest[0] % layer[1] or largest[1] % layer[2] for layer in layers):
        return None
    shrinks = [(largest[1] // vertical, largest[0] // horizontal) for _, horizontal, vertical, _ in layers]
    colour = {"L": "gray", "CMYK": "cmyk"}.get(image.mode, "rgb" if _is_rgb(image) else "ycbcr")
    tables = [torch.tensor(image.quantization[layer[3]], dtype=torch.float32).view(BLOCK, BLOCK) for layer in layers]
    planes = _decode(data, colour, shrinks)
    components = [
        Component(indices_of(plane, table), table, shrink)
        for plane, table, shrink in zip(planes, tables, shrinks, strict=True)
    ]
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    return Jpeg(image.width, image.height, colour, tuple(components), orientation)


def _open(data: bytes) -> JpegImageFile:
    """Open a JPEG file without decoding it."""
    return JpegImageFile(io.BytesIO(data))


def _is_rgb(image: JpegImageFile) -> bool:
    """Return whether the components are red, green and blue: by Adobe's marker, or by their names."""
    if "adobe_transform" in image.info:
        return image.info["adobe_transform"] == 0
    return "jfif" not in image.info and bytes(layer[0] for layer in image.layer) == b"RGB"


def _decode(data: bytes, colour: str, shrinks: list[tuple[int, int]]) -> list[Tensor]:
    """Return the planes as the file holds them, float32 (H, W) on the 0..255 scale, before their continuation."""
    image = _open(data)
    if colour == "ycbcr":
        image.draft("YCbCr", None)
    pixels = np.array(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = 255 - pixels if colour == "cmyk" and "adobe" in image.info else pixels
    planes = list(torch.from_numpy(pixels).float().unbind(-1))
    if colour == "ycbcr" and shrinks[1:] == [(2, 2), (2, 2)] and min(image.size) >= 2:
        halved = _open(data)
        halved.draft("YCbCr", (image.width // 2, image.height // 2))
        small = np.array(halved)
        if small.shape[:2] == (math.ceil(image.height / 2), math.ceil(image.width / 2)):
            return [planes[0], *torch.from_numpy(small).float().unbind(-1)[1:]]
    return [shrink_smooth(plane, shrink) for plane, shrink in zip(planes, shrinks, strict=True)]


def shrink_smooth(plane: Tensor, shrink: tuple[int, int]) -> Tensor:
    """Invert the enlargement of a plane (H, W): by a triangle filter for factors of 2, by repetition for others."""
    for axis, factor in enumerate(shrink):
        if factor == 1:
            continue
        rows = plane if axis == 0 else plane.T
        missing = -len(rows) % factor
        rows = torch.cat([rows, rows[-1:].expand(missing, -1)])
        small = rows.unflatten(0, (-1, factor)).mean(1)
        if factor == 2:
            small = _invert_triangle(rows, small)
        plane = small if axis == 0 else small.T
    return plane


def _invert_triangle(rows: Tensor, start: Tensor) -> Tensor:
    """Return the rows (n, W) that a triangle filter enlarges to the given rows (2 n, W), by least squares.

    Args:
        rows: The enlarged rows: 3/4 of the nearest row and 1/4 of the second nearest one.
        start: A first guess.
    """
    small = start
    for _ in range(TRIANGLE_STEPS):
        before, after = torch.cat([small[:1], small[:-1]]), torch.cat([small[1:], small[-1:]])
        even, odd = rows[0::2] - (3 * small + before) / 4, rows[1::2] - (3 * small + after) / 4
        step = 3 * (even + odd) / 4
        step[:-1] += even[1:] / 4
        step[1:] += odd[:-1] / 4
        step[0] += even[0] / 4
        step[-1] += odd[-1] / 4
        small = small + 0.8 * step
    return small


def indices_of(plane: Tensor, steps: Tensor) -> Tensor:
    """Return the indices of a decoded plane (H, W), int16 (blocks down, blocks across, 8, 8)."""
    height, width = plane.shape
    hidden = (0, -width % BLOCK, 0, -height % BLOCK)
    blocks = _blocks_of(F.pad(plane[None, None], hidden, mode="replicate")[0, 0]) - 128
    is_seen = _blocks_of(F.pad(torch.ones_like(plane), hidden)) > 0
    low = torch.where(is_seen & (blocks > -128), blocks, -torch.inf)
    high = torch.where(is_seen & (blocks < 127), blocks, torch.inf)
    indices = _round_to_steps(blocks, steps)
    is_doubtful = (low != high).flatten(2).any(2)
    if bool(is_doubtful.any()):
        chosen = blocks[is_doubtful], low[is_doubtful], high[is_doubtful]
        indices[is_doubtful] = _search_indices(*chosen, steps)
    return indices.to(torch.int16)


def _blocks_of(plane: Tensor) -> Tensor:
    """Return the blocks of a plane, (H / 8, W / 8, 8, 8)."""
    return plane.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).transpose(1, 2)


def _round_to_steps(blocks: Tensor, steps: Tensor) -> Tensor:
    """Return the indices of blocks (..., 8, 8), as floats."""
    matrix = dct_matrix().float()
    return (matrix @ blocks @ matrix.T / steps).round()


def _search_indices(blocks: Tensor, low: Tensor, high: Tensor, steps: Tensor) -> Tensor:
    """Return indices of blocks (N, 8, 8) of which some values were clipped at -128 and 127, or cut off.

    The values that are missing are taken from the block that the indices stand for, in turn with the indices.

    Args:
        blocks: A first guess.
        low: The least that the values can be: equal to `high` where they are known.
        high: The most that they can be.
        steps: The quantization table.
    """
    matrix = dct_matrix().float()
    indices = _round_to_steps(blocks, steps)
    best, least = indices, torch.full((len(blocks),), math.inf)
    for _ in range(SEARCH_ROUNDS):
        decoded = matrix.T @ (indices * steps) @ matrix
        error = (decoded - decoded.clamp(low - 0.5, high + 0.5)).square().sum((1, 2))
        is_better = error < least
        best, least = torch.where(is_better[:, None, None], indices, best), torch.minimum(error, least)
        indices = _round_to_steps(decoded.clamp(low, high), steps)
    return best
