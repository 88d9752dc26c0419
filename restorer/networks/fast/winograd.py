r"""3x3 convolutions with half the multiplications: Winograd's F(4, 3) along the rows of a picture.

Four neighbouring outputs y of a kernel g of three are a product of polynomials (Lavin & Gray 2015,
https://arxiv.org/abs/1509.09308). With six inputs d, and with the values of the polynomials at the points 0, 1, -1, 2,
-2 and infinity,

    y = A^T ( (G g) * (B^T d) ),

which takes six products instead of twelve. Here each product is a 3x1 convolution over the other axis and the channels,
and the six products are the groups of one convolution. Along both axes the algorithm would take a quarter of the
multiplications, but it would transform so much more, and read so many more weights, that it gains nothing
(docs/explanation/speed.md, rows 4, 15 and 28a).

The points are stored in the order infinity, 0, 1, -1, 2, -2. At infinity the values of the inputs are divided by -4,
and those of the kernel are multiplied by -4. In float32 the rounding error is twice that of a direct sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "OUTPUTS",
    "POINTS",
    "convolve_in_strips",
    "strip_rows",
    "strip_shape",
    "transform_bias",
    "transform_input",
    "transform_output",
    "transform_weight",
]

OUTPUTS = 4  # outputs of a tile
POINTS = 6
CACHED = 1 << 19  # numbers of a strip of transformed rows for each thread
MIN_ROWS = 4  # rows of a strip; with fewer, the rows above and below it are too large a share


def transform_weight(weight: Tensor) -> Tensor:
    """Return G g: (K, C, 3, 3) -> (6 K, C, 3, 1), a 3x1 convolution for each point.

    The result is contiguous: PyTorch packs the weights of several groups wrongly from any other layout.
    """
    g0, g1, g2 = weight.permute(3, 0, 1, 2).contiguous()
    points = weight.new_empty(POINTS, *g0.shape)
    torch.mul(g2, -4, out=points[0])
    torch.mul(g0, 1 / 4, out=points[1])
    _at_both_signs((g0 + g2).div_(-6), g1 / -6, points[2:4])
    _at_both_signs(torch.add(g0, g2, alpha=4).div_(24), g1 / 12, points[4:6])
    return points.flatten(0, 1)[..., None]


def _at_both_signs(even: Tensor, odd: Tensor, out: Tensor) -> None:
    """Write a polynomial's value at a point and at the negative point, from its even and odd part."""
    torch.add(even, odd, out=out[0])
    torch.sub(even, odd, out=out[1])


def transform_bias(bias: Tensor | None) -> Tensor | None:
    """Return the bias of the products, (6 K,), that adds the bias (K,) to every output."""
    width = 0 if bias is None else len(bias)
    return None if bias is None else F.pad(bias, (2 * width, 3 * width))


def transform_input(x: Tensor, products: Tensor) -> None:
    """Write B^T d.

    Args:
        x: Tiles of four columns, (B, H, W / 4, 4, C). Zeros are assumed before the first and after the last.
        products: Destination, (B, H, W / 4, 6, C).
    """
    x0, x1, x2, x3 = x.unbind(3)
    infinity, zero, one, minus_one, two, minus_two = products.unbind(3)
    early, late = x[:, :, :, :2], x[:, :, :, 2:]
    b, a = torch.sub(late, early, alpha=4).unbind(3)
    torch.add(a, b, out=one)
    torch.sub(a, b, out=minus_one)
    torch.sub(late, early, out=products[:, :, :, :2])
    torch.add(zero, infinity, alpha=2, out=two)
    torch.sub(zero, infinity, alpha=2, out=minus_two)
    infinity.add_(x2, alpha=1 / 4)
    infinity[:, :, :-1].sub_(x0[:, :, 1:], alpha=1 / 4)
    zero.sub_(x1, alpha=4)
    zero[:, :, 1:].add_(x3[:, :, :-1], alpha=4)


def transform_output(products: Tensor, y: Tensor) -> None:
    """Write A^T m.

    Args:
        products: Products at the six points, (B, H, W / 4, 6, K).
        y: Destination, (B, H, W / 4, 4, K).
    """
    y0, y1, y2, y3 = y.unbind(3)
    infinity, zero = products[:, :, :, 0], products[:, :, :, 1]
    positive, negative = products[:, :, :, 2::2], products[:, :, :, 3::2]
    even, even_of_two = (positive + negative).unbind(3)
    odd, odd_of_two = (positive - negative).unbind(3)
    torch.add(even, even_of_two, out=y0).add_(zero)
    torch.add(odd, odd_of_two, alpha=2, out=y1)
    torch.add(even, even_of_two, alpha=4, out=y2)
    torch.add(odd, odd_of_two, alpha=8, out=y3).add_(infinity)


def strip_rows(x: Tensor, out: int) -> int:
    """Return the number of rows of a strip that fits into a cache once it is transformed; 0 where it is too small.

    Args:
        x: Input, (B, C, H, W).
        out: Number of output channels.
    """
    batch, into, height, width = x.shape
    row = batch * width // OUTPUTS * POINTS * max(into, out)
    count = -(-height * row // (CACHED * torch.get_num_threads()))
    rows = -(-height // min(count, height))
    return rows if rows >= min(MIN_ROWS, height) else 0


def strip_shape(x: Tensor, rows: int) -> tuple[list[int], list[int]]:
    """Return the shape of the transformed strip that the 3x1 convolution sees, (B, 6 C, ...), and its padding.

    A strip has one more row above and below. Where one strip is the whole picture, it is padded instead.
    """
    batch, channels, height, width = x.shape
    edge = int(rows < height)
    return [batch, POINTS * channels, rows + 2 * edge, width // OUTPUTS], [1 - edge, 0]


def convolve_in_strips(
    x: Tensor, rows: int, multiply: Callable[[Tensor], Tensor], other: Tensor | None, result: Tensor | None
) -> Tensor:
    """Compute a 3x3 convolution, `rows` rows at a time.

    Args:
        x: Input, (B, C, H, W), channels_last, W a multiple of 4.
        rows: Rows of a strip.
        multiply: The 3x1 convolution with the weights of `transform_weight`, for inputs of the shape that `strip_shape`
            gives: (B, 6 C, ...) -> (B, 6 K, rows, W / 4).
        other: Feature map that is added to the result, and shaped like it.
        result: Tensor that the result is written to, channels_last, perhaps `other` itself; None for a new tensor.
    """
    batch, _, height, width = x.shape
    (_, _, inside, columns), (padding, _) = strip_shape(x, rows)
    edge = 1 - padding
    tiles = x.permute(0, 2, 3, 1).unflatten(2, (columns, OUTPUTS))
    inputs = x.new_empty(batch, inside, columns, POINTS, x.shape[1])
    strip: Tensor | None = None
    for first in range(0, height, rows):
        top = min(first, height - rows)  # the last strip may repeat rows
        above, below = min(top, edge), min(height - top - rows, edge)
        if above < edge:
            inputs[:, 0] = 0
        if below < edge:
            inputs[:, -1] = 0
        transform_input(tiles[:, top - above : top + rows + below], inputs[:, edge - above : rows + edge + below])
        products = multiply(inputs.flatten(3).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(3, (POINTS, -1))
        out = products.shape[-1]
        if result is None:
            result = x.new_empty(batch, height, width, out).permute(0, 3, 1, 2)
        if other is None:
            transform_output(products, result.permute(0, 2, 3, 1)[:, top : top + rows].unflatten(2, (columns, OUTPUTS)))
            continue
        if strip is None:
            strip = x.new_empty(batch, rows, columns, OUTPUTS, out)
        transform_output(products, strip)
        new = slice(first, top + rows)
        sums = strip[:, first - top :].view(batch, -1, width, out).permute(0, 3, 1, 2)
        torch.add(other[:, :, new], sums, out=result[:, :, new])
    assert result is not None  # a picture has rows
    return result
