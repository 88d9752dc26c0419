"""The blurs that the network for blur must know as others, and that none of them is one that it undoes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from restorer.diffusion.degradations.kernels import as_kernel, defocus_kernel, gaussian_kernel, motion_kernel
from restorer.training import other_blurs
from restorer.training.other_blurs import PROGRAMS, SHAPES, both, median, spun

IMAGES = Path(__file__).resolve().parents[1] / "images"
DRAWS = 6


def photograph() -> Tensor:
    with Image.open(IMAGES / "gates.jpg") as image:
        half = image.convert("L").resize((image.width // 2, image.height // 2))
    return torch.from_numpy(np.array(half)).float()


def name_of(function: Callable[..., Tensor]) -> str:
    return function.__name__


@pytest.mark.parametrize("shape", dict.fromkeys(SHAPES), ids=name_of)
def test_a_shape_is_a_kernel_and_is_drawn_again_from_its_seed(shape: Callable[[random.Random], Tensor]) -> None:
    drawn = [shape(random.Random(seed)) for seed in range(DRAWS)]
    for seed, kernel in enumerate(drawn):
        torch.testing.assert_close(as_kernel(kernel), kernel)
        assert torch.equal(kernel, shape(random.Random(seed)))
    assert len({(tuple(kernel.shape), float(kernel.max())) for kernel in drawn}) > 1


def moments(kernel: Tensor) -> Tensor:
    """Return the variances along the axes of a kernel, the smaller one first."""
    down, across = (torch.arange(side) - side // 2 for side in kernel.shape)
    place = torch.stack(torch.meshgrid(down, across, indexing="ij")).flatten(1).float()
    weight = kernel.flatten()
    place = place - (place * weight).sum(1, keepdim=True)
    return torch.linalg.eigvalsh((weight * place) @ place.T)


def difference(a: Tensor, b: Tensor) -> float:
    """Return half the sum of the absolute differences of two kernels: 0 if they are equal, 1 if they do not overlap."""
    height, width = (max(sides) for sides in zip(a.shape, b.shape, strict=True))
    padded = []
    for kernel in (a, b):
        down, across = (height - kernel.shape[0]) // 2, (width - kernel.shape[1]) // 2
        padded.append(F.pad(kernel, (across, across, down, down)))
    return 0.5 * float((padded[0] - padded[1]).abs().sum())


@pytest.mark.parametrize("shape", dict.fromkeys(SHAPES), ids=name_of)
def test_a_shape_is_none_of_those_that_are_undone(shape: Callable[[random.Random], Tensor]) -> None:
    """The round kernels of the same variance differ by a tenth at least, but for one small draw of the six."""
    far = 0
    for seed in range(DRAWS):
        kernel = shape(random.Random(seed))
        spread = float(moments(kernel).mean()) ** 0.5
        twins = [gaussian_kernel(spread), defocus_kernel(2 * spread)]
        twins += [motion_kernel(12**0.5 * float(moments(kernel)[1]) ** 0.5, angle) for angle in range(0, 180, 15)]
        far += min(difference(kernel, twin) for twin in twins) > 0.1
    assert far >= DRAWS - 1


def test_a_path_and_a_corner_are_far_from_a_line() -> None:
    for seed in range(DRAWS):
        least, most = moments(other_blurs.path_kernel(random.Random(seed)))
        assert least > 0.04 * most
        assert moments(other_blurs.corner_kernel(random.Random(seed)))[0] > 0.5


def test_two_blurs_after_each_other_add_their_variances() -> None:
    torch.testing.assert_close(
        moments(both(gaussian_kernel(1.5), gaussian_kernel(2.0))).mean(), torch.tensor(6.25), rtol=0.01, atol=0
    )


@pytest.mark.parametrize("program", dict.fromkeys(PROGRAMS), ids=name_of)
def test_programs_make_a_picture_softer(program: Callable[[Tensor, random.Random], Tensor]) -> None:
    sharp = photograph()
    for seed in range(3):
        soft = program(sharp, random.Random(seed))
        assert soft.shape == sharp.shape and abs(float(soft.mean() - sharp.mean())) < 3
        steepness = [float((x[:, 1:] - x[:, :-1]).square().mean()) for x in (soft, sharp)]
        assert steepness[0] < 0.85 * steepness[1]


def test_a_median_keeps_flat_and_a_spin_keeps_its_middle() -> None:
    flat = torch.full((64, 64), 77.0)
    assert torch.equal(median(flat, random.Random(0)), flat)
    torch.testing.assert_close(spun(flat, random.Random(0)), flat, rtol=0, atol=0.01)
