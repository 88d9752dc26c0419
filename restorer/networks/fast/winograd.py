r"""Convolutions of 3x3 with half the multiplications: Winograd's F(4, 3) along the rows of a picture.

Of a kernel g of three, four neighbouring outputs are a product of polynomials (Lavin & Gray 2015,
https://arxiv.org/abs/1509.09308): with six inputs d, and by their values at the points 0, 1, -1, 2, -2 and infinity,

    y = A^T ( (G g) * (B^T d) ),

six products in the place of twelve. Here each is a convolution of 3x1 over the other axis and the channels, and all of
them are six groups of one convolution. Along both axes it would take a quarter of the multiplications, but so much more
is transformed, and so many more weights are read, that nothing is won (tests/bench/NOTES.md, 4, 15 and 28).

The points are in the order infinity, 0, 1, -1, 2, -2; what belongs to infinity is divided by -4. In float32 the result
is off by twice what a direct sum is off by rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OUTPUTS", "POINTS", "entered", "in_strips", "kernels", "left", "rows_of", "seen_of", "shifted"]

OUTPUTS = 4  # of a tile
POINTS = 6
CACHED = 1 << 19  # numbers a thread of a strip of transformed rows
LOW = 4  # rows of a strip: with fewer, those above and below it are too many


def kernels(weight: Tensor) -> Tensor:
    """G g: (K, C, 3, 3) -> (6 K, C, 3, 1), of each point a convolution of 3x1.

    Contiguous, as written: from any other layout PyTorch packs the weights of several groups wrongly.
    """
    g0, g1, g2 = weight.permute(3, 0, 1, 2).contiguous()
    points = weight.new_empty(POINTS, *g0.shape)
    torch.mul(g2, -4, out=points[0])
    torch.mul(g0, 1 / 4, out=points[1])
    _of_both_signs((g0 + g2).div_(-6), g1 / -6, points[2:4])
    _of_both_signs(torch.add(g0, g2, alpha=4).div_(24), g1 / 12, points[4:6])
    return points.flatten(0, 1)[..., None]


def _of_both_signs(even: Tensor, odd: Tensor, out: Tensor) -> None:
    """A polynomial at a point and at its negative."""
    torch.add(even, odd, out=out[0])
    torch.sub(even, odd, out=out[1])


def shifted(bias: Tensor | None) -> Tensor | None:
    """(K,) -> (6 K,): a bias of the products that is the same bias of every output."""
    width = 0 if bias is None else len(bias)
    return None if bias is None else F.pad(bias, (2 * width, 3 * width))


def entered(x: Tensor, products: Tensor) -> None:
    """B^T d.

    Args:
        x: tiles of four columns, (B, H, W / 4, 4, C). Beyond the first and the last there are zeros.
        products: what becomes of them, (B, H, W / 4, 6, C).
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


def left(products: Tensor, y: Tensor) -> None:
    """A^T m.

    Args:
        products: (B, H, W / 4, 6, K).
        y: what becomes of them, (B, H, W / 4, 4, K).
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


def rows_of(x: Tensor, out: int) -> int:
    """Rows of a strip of x (B, C, H, W) that stays in a cache once it is transformed; 0 where they are too few.

    Args:
        out: channels of the result.
    """
    batch, into, height, width = x.shape
    a_row = batch * width // OUTPUTS * POINTS * max(into, out)
    count = -(-height * a_row // (CACHED * torch.get_num_threads()))
    rows = -(-height // min(count, height))
    return rows if rows >= min(LOW, height) else 0


def seen_of(x: Tensor, rows: int) -> tuple[list[int], list[int]]:
    """What the convolution of 3x1 sees of a strip, (B, 6 C, ...), and its padding.

    A strip has a row more above and below; the whole picture is padded instead.
    """
    batch, channels, height, width = x.shape
    edge = int(rows < height)
    return [batch, POINTS * channels, rows + 2 * edge, width // OUTPUTS], [1 - edge, 0]


def in_strips(
    x: Tensor, rows: int, multiply: Callable[[Tensor], Tensor], plus: Tensor | None, result: Tensor | None
) -> Tensor:
    """A convolution of 3x3, so many rows at a time.

    Args:
        x: (B, C, H, W), channels_last, W a multiple of 4.
        rows: of a strip.
        multiply: the convolution of 3x1 with `kernels`, of what `seen_of` says: (B, 6 C, ...) -> (B, 6 K, rows, W / 4).
        plus: added to the result, and like it.
        result: where it is written, channels_last, perhaps `plus` itself; None for a new one.
    """
    batch, _, height, width = x.shape
    (_, _, inside, columns), (padding, _) = seen_of(x, rows)
    edge = 1 - padding
    tiles = x.permute(0, 2, 3, 1).unflatten(2, (columns, OUTPUTS))
    inputs = x.new_empty(batch, inside, columns, POINTS, x.shape[1])
    strip: Tensor | None = None
    for first in range(0, height, rows):
        top = min(first, height - rows)  # the last may see rows again
        above, below = min(top, edge), min(height - top - rows, edge)
        if above < edge:
            inputs[:, 0] = 0
        if below < edge:
            inputs[:, -1] = 0
        entered(tiles[:, top - above : top + rows + below], inputs[:, edge - above : rows + edge + below])
        products = multiply(inputs.flatten(3).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(3, (POINTS, -1))
        out = products.shape[-1]
        if result is None:
            result = x.new_empty(batch, height, width, out).permute(0, 3, 1, 2)
        if plus is None:
            left(products, result.permute(0, 2, 3, 1)[:, top : top + rows].unflatten(2, (columns, OUTPUTS)))
            continue
        if strip is None:
            strip = x.new_empty(batch, rows, columns, OUTPUTS, out)
        left(products, strip)
        new = slice(first, top + rows)
        sums = strip[:, first - top :].view(batch, -1, width, out).permute(0, 3, 1, 2)
        torch.add(plus[:, :, new], sums, out=result[:, :, new])
    assert result is not None  # a picture has rows
    return result
