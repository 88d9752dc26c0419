"""The operator of a JPEG file: adjointness, the proximal point, and results that fall into the cells of the file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations import quantization
from restorer.diffusion.degradations.quantization import BLOCK, Plane, Quantization, dct_matrix

SAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:1:1": (1, 4)}
TABLE = 1 + 3 * torch.arange(64.0).view(8, 8) / 8


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return uniform white noise on [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def operator(size: tuple[int, int], sampling: str = "4:2:0", **settings) -> Quantization:
    """Return the operator of a colour picture."""
    chroma = Plane(2 * TABLE, SAMPLINGS[sampling])
    return Quantization(size, [Plane(TABLE), chroma, chroma], **settings)


def quantized(x: Tensor, op: Quantization) -> Tensor:
    """Return the coefficients of images, rounded to whole steps."""
    steps = op._steps(x) / 127.5
    return (op.measure(x) / steps).round() * steps


def test_the_transform_is_orthonormal():
    matrix = dct_matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8, dtype=torch.float64))
    assert matrix[0].tolist() == pytest.approx([math.sqrt(1 / 8)] * 8)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(16, 16), (21, 37), (5, 3)])
@pytest.mark.parametrize("offset", [(0, 0), (3, 10)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_transpose_is_adjoint(sampling: str, size: tuple[int, int], offset: tuple[int, int], orientation: int):
    op = operator(size, sampling, offset=offset, is_cropped=offset != (0, 0), orientation=orientation)
    x = random(2, 3, *size)
    y = random(*op.measure(x).shape, seed=1)
    torch.testing.assert_close((op.measure(x) * y).sum(), (x * op.transpose(y)).sum())


def test_the_coefficients_are_those_of_the_conversion_and_the_transform():
    """One block of one colour: its DC coefficient in Y is 8 times its luminance, and all others are 0."""
    op = operator((8, 8), "4:4:4")
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    y, cb, cr = op.measure(red).view(3, 8, 8)
    assert float(y[0, 0]) == pytest.approx(8 * (0.299 - 0.587 - 0.114), rel=1e-5)
    assert float(cb[0, 0]) == pytest.approx(8 * (-0.168736 + 0.331264 - 0.5), rel=1e-5)
    assert float(cr[0, 0]) == pytest.approx(8 * (0.5 + 0.418688 + 0.081312), rel=1e-5)
    assert float(torch.stack([y, cb, cr]).flatten(1)[:, 1:].abs().max()) < 1e-6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_turns_the_upright_picture_back(orientation: int):
    """Pillow turns the stored picture upright, and the operator measures it as it was stored."""
    from PIL import ImageOps

    stored = (random(3, 16, 24, seed=2) * 127.5 + 127.5).round()
    image = Image.fromarray(stored.byte().permute(1, 2, 0).numpy())
    image.getexif()[0x0112] = orientation
    upright = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1).double() / 127.5 - 1
    turned = operator(tuple(upright.shape[1:]), orientation=orientation).measure(upright[None])
    torch.testing.assert_close(turned, operator((16, 24)).measure(stored[None] / 127.5 - 1))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_proximal_point_weighs_the_middle_of_the_cell_by_its_variance(sampling: str):
    """In whole blocks, every coefficient moves by the share w, whatever the sampling."""
    op, x0 = operator((32, 64), sampling), random(1, 3, 32, 64)
    y = quantized(random(1, 3, 32, 64, seed=1), op)
    r2 = 0.003
    variance, _ = op._variances(y)
    w = r2 / (r2 + variance)
    before, after = op.measure(x0), op.measure(op.correct(x0, y, 1.0, r2))
    torch.testing.assert_close(after, before + w * (y - before), rtol=0, atol=1e-6)


def test_the_proximal_point_minimizes_its_objective():
    """In a gray picture, whose plane is the picture itself, any other picture near it is worse."""
    op, r2 = Quantization((16, 24), [Plane(8 * TABLE)]), 0.01
    x0, y = random(1, 1, 16, 24), quantized(random(1, 1, 16, 24, seed=1), op)
    variance, _ = op._variances(y)

    def objective(x: Tensor) -> Tensor:
        return ((op.measure(x) - y).square() / variance).sum() + (x - x0).square().sum() / r2

    best = op.correct(x0, y, 1.0, r2)
    assert all(objective(best) < objective(best + 1e-3 * random(1, 1, 16, 24, seed=k)) for k in range(2, 12))


def test_blocks_that_contradict_the_estimate_are_believed_more():
    """The first block agrees with the estimate, and the second is far from it."""
    plane, r2 = Plane(torch.full((8, 8), 12.0)), (6 / 127.5) ** 2
    plain, doubting = Quantization((8, 16), [plane]), Quantization((8, 16), [plane], most_doubt=8)
    x0 = torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    y = plain.measure(x0)
    y[0, :8], y[0, 64:72] = 6.1 / 127.5, 120 / 127.5
    before, after = (op.measure(op.correct(x0, y, 1.0, r2)) for op in (plain, doubting))
    torch.testing.assert_close(after[0, :64], before[0, :64])
    w = 8 * r2 / (8 * r2 + (12 + quantization.ROUNDING) / 127.5**2)
    torch.testing.assert_close(after[0, 64:72], w * y[0, 64:72])
    assert bool((after[0, 64:72] > 1.1 * before[0, 64:72]).all())


def test_cells_that_hold_zero_count_less():
    op = Quantization((8, 8), [Plane(torch.full((8, 8), 12.0))])
    y = torch.zeros(1, 64)
    y[0, 5] = 24 / 127.5
    variance = op._variances(y)[0][0] * 127.5**2 - quantization.ROUNDING
    assert float(variance[5]) == pytest.approx(12.0, rel=1e-4)
    assert float(variance[0]) == pytest.approx(12.0, rel=1e-4), "a mean of 0 is as likely as any other"
    assert float(variance[6]) == pytest.approx(12 * quantization.ZERO_SHARE, rel=1e-4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_finished_picture_falls_into_its_cells(sampling: str):
    op = Quantization((37, 51), [Plane(8 + TABLE), *[Plane(12 + TABLE, SAMPLINGS[sampling])] * 2])
    true = 0.5 * torch.nn.functional.avg_pool2d(random(1, 3, 41, 55, seed=1), 5, 1)
    y = quantized(true, op)
    far = true + 0.1 * random(1, 3, 37, 51, seed=2)
    assert op.consistency(far, y) < 0.93
    done = op.finish(far, y)
    assert op.consistency(done, y) > 0.985  # blocks that the picture holds in part are not met exactly
    assert (done - far).abs().mean() < 0.1
    levels = (done + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_blocks_that_a_crop_has_cut_are_not_known():
    """The middle blocks are corrected, and those that begin before the picture or end after it keep the estimate."""
    op = Quantization((24, 24), [Plane(TABLE)], offset=(3, 3), is_cropped=True)
    x0 = random(1, 1, 24, 24)
    moved = (op.correct(x0, torch.ones_like(op.measure(x0)), 1.0, 1.0) != x0)[0, 0]
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[5:21, 5:21] = True
    assert bool((moved == expected).all())


def test_unknown_blocks_stay_as_they_are_without_noise():
    op = Quantization((24, 24), [Plane(TABLE)], offset=(3, 3), is_cropped=True)
    x0, y = random(1, 1, 24, 24), op.measure(random(1, 1, 24, 24, seed=1))
    for noise, prior in ((0.0, 1.0), (1.0, math.inf)):
        moved = op.correct(x0, y, noise, prior)
        assert bool(moved.isfinite().all())
        torch.testing.assert_close(moved[..., :5, :], x0[..., :5, :])


def test_other_numbers_of_planes_are_refused():
    with pytest.raises(ValueError, match="one or three planes"):
        Quantization((BLOCK, BLOCK), [Plane(TABLE)] * 4)


def test_noise_before_the_compression_adds_to_every_cell():
    """With steps of 0 the data are the coefficients with their noise, and the proximal point is a weighted mean."""
    variance = 4.0 + torch.arange(64.0).view(8, 8)
    op = Quantization((16, 24), [Plane(torch.zeros(8, 8), noise=variance)])
    assert op.is_noisy
    x, y = random(1, 1, 16, 24), op.measure(random(1, 1, 16, 24, seed=1))
    moved = op.measure(op.correct(x, y, 1.0, 0.01))
    weight = 0.01 / (0.01 + variance.double() / 127.5**2)
    expected = op.measure(x) + weight.flatten().repeat(6) * (y - op.measure(x))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
