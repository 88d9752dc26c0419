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

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OUTPUTS", "POINTS", "entered", "kernels", "left", "shifted"]

OUTPUTS = 4  # of a tile
POINTS = 6


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
