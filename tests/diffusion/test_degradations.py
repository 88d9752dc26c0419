"""The operators agree with their definitions: adjoint, pseudo-inverse, proximal point, and Pillow's own resize."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.degradations.degradation import Degradation
from restorer.diffusion.degradations.pointwise import Identity, Mask

HEIGHT, WIDTH = 24, 36


class Iterated(Bicubic):
    """Bicubic shrinking that always uses conjugate gradients, as for images that are too large for eigenvectors."""

    MAX_DENSE_LENGTH = 0


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return images of uniform white noise on [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def operators() -> dict[str, Degradation]:
    """Return every operator, by the name that the test reports show."""
    return {
        "identity": Identity(),
        "mask": Mask(random(1, 1, HEIGHT, WIDTH, seed=9) > 0),
        "mask per picture": Mask(random(2, 3, HEIGHT, WIDTH, seed=9) > 0.5),
        **{f"bicubic {scale}": Bicubic(scale) for scale in (1, 2, 3, 4, 12)},
        **{f"bicubic {scale}, iterated": Iterated(scale) for scale in (1, 2, 3, 4, 12)},
    }


every_operator = pytest.mark.parametrize("operator", operators().values(), ids=operators().keys())


def pillow_float(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return a plane, float32 (H, W), as Pillow shrinks it in mode F."""
    size = (picture.shape[1] // scale, picture.shape[0] // scale)
    return np.asarray(Image.fromarray(picture.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))


def pillow_bytes(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return an 8-bit RGB image (H, W, 3) as Pillow shrinks it."""
    size = (picture.shape[1] // scale, picture.shape[0] // scale)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def to_tensor(picture: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an 8-bit image (H, W, 3) as a tensor (1, 3, H, W) on [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].to(dtype) / 127.5 - 1


def to_bytes(x: Tensor) -> np.ndarray:
    """Return a tensor (1, 3, H, W) on [-1, 1] as an 8-bit image (H, W, 3)."""
    return ((x[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


# The algebra


@every_operator
def test_the_transpose_is_the_adjoint(operator: Degradation):
    x = random(2, 3, HEIGHT, WIDTH)
    u = random(*operator.measure(x).shape, seed=1)
    torch.testing.assert_close((operator.measure(x) * u).sum(), (x * operator.transpose(u)).sum(), rtol=0, atol=1e-10)


@every_operator
def test_the_pseudo_inverse_meets_the_penrose_conditions(operator: Degradation):
    x, z = random(2, 3, HEIGHT, WIDTH), random(2, 3, HEIGHT, WIDTH, seed=1)
    y = operator.measure(x)
    back = operator.pseudo_inverse(y)
    torch.testing.assert_close(operator.measure(back), y, rtol=0, atol=1e-10)  # A A^+ A = A
    torch.testing.assert_close(operator.pseudo_inverse(operator.measure(back)), back, rtol=0, atol=1e-10)
    # A^+ A is symmetric
    other = operator.pseudo_inverse(operator.measure(z))
    torch.testing.assert_close((back * z).sum(), (x * other).sum(), rtol=0, atol=1e-9)


def per_picture(first: float, second: float) -> Tensor:
    """Return one number for each of two images, (2, 1, 1, 1)."""
    return torch.tensor([first, second], dtype=torch.float64).reshape(2, 1, 1, 1)


def gradient(
    operator: Degradation, x: Tensor, x0: Tensor, y: Tensor, noise: float | Tensor, prior: float | Tensor
) -> Tensor:
    """Return s_y^2 / 2 times the gradient of |y - A x|^2 / s_y^2 + |x - x0|^2 / r^2."""
    return operator.transpose(operator.measure(x) - y) + (x - x0) * noise / prior


@every_operator
@pytest.mark.parametrize(
    ("noise", "prior"),
    [
        (1e-4, 1.0),
        (0.04, 0.25),
        (4.0, 0.01),
        (per_picture(1e-3, 0.5), 0.3),
        (per_picture(0.1, 2), per_picture(9, 1e-2)),
    ],
)
def test_correct_is_the_proximal_point(operator: Degradation, noise: float | Tensor, prior: float | Tensor):
    x0 = random(2, 3, HEIGHT, WIDTH)
    y = random(*operator.measure(x0).shape, seed=1)
    if isinstance(operator, Mask):
        y = operator.measure(y)
    x = operator.correct(x0, y, noise, prior)
    assert gradient(operator, x, x0, y, noise, prior).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["identity", "mask", "mask per picture"])
def test_correct_takes_maps_of_variance_where_it_is_pixelwise(name: str):
    operator = operators()[name]
    x0 = random(2, 3, HEIGHT, WIDTH)
    y = operator.measure(random(2, 3, HEIGHT, WIDTH, seed=1))
    noise, prior = random(2, 1, HEIGHT, WIDTH, seed=2) + 1.01, random(1, 3, HEIGHT, WIDTH, seed=3) + 1.01
    x = operator.correct(x0, y, noise, prior)
    assert gradient(operator, x, x0, y, noise, prior).abs().max() < 1e-10


def test_bicubic_refuses_a_map_of_variance():
    x0, y = random(2, 3, 8, 8), random(2, 3, 4, 4)
    with pytest.raises(ValueError, match="one variance per image"):
        Bicubic(2).correct(x0, y, torch.ones(2, 1, 4, 4), 1.0)


@every_operator
@pytest.mark.parametrize(
    ("noise", "prior"), [(0.0, 1.0), (0.0, 1e-30), (0.0, 0.0), (0.0, math.inf), (0.3, math.inf), (math.inf, math.inf)]
)
def test_without_noise_or_prior_correct_is_the_projection(operator: Degradation, noise: float, prior: float):
    x0 = random(2, 3, HEIGHT, WIDTH)
    y = operator.measure(random(2, 3, HEIGHT, WIDTH, seed=1))
    x = operator.correct(x0, y, noise, prior)
    torch.testing.assert_close(operator.measure(x), y, rtol=0, atol=1e-10)
    change = x - x0  # lies in the range of A^T, because the part that A does not see is kept
    torch.testing.assert_close(operator.pseudo_inverse(operator.measure(change)), change, rtol=0, atol=1e-10)


@every_operator
@pytest.mark.parametrize(("noise", "prior"), [(1.0, 0.0), (math.inf, 1.0), (1e-300, 0.0), (math.inf, 0.0)])
def test_without_trust_in_the_data_correct_is_the_estimate(operator: Degradation, noise: float, prior: float):
    x0 = random(2, 3, HEIGHT, WIDTH)
    y = random(*operator.measure(x0).shape, seed=1)
    torch.testing.assert_close(operator.correct(x0, y, noise, prior), x0, rtol=0, atol=0)


@every_operator
def test_correct_agrees_for_a_picture_alone_and_in_a_batch(operator: Degradation):
    """Each image of a batch has its own variances and is solved to the same precision as alone."""
    if isinstance(operator, Mask):
        operator = Mask(operator.known[:1])
    x0 = random(2, 3, HEIGHT, WIDTH)
    y = 1e3 * random(*operator.measure(x0).shape, seed=1)
    together = operator.correct(x0, y * per_picture(1, 1e-6), per_picture(0, 0.3), 0.5)
    alone = operator.correct(x0[1:], y[1:] * 1e-6, 0.3, 0.5)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-12)


@every_operator
def test_single_precision_is_exact_to_rounding(operator: Degradation):
    x0 = random(2, 3, HEIGHT, WIDTH, dtype=torch.float32)
    y = operator.measure(random(2, 3, HEIGHT, WIDTH, seed=1, dtype=torch.float32))
    for noise in (0.0, 1e-3, 1.0):
        x = operator.correct(x0, y, noise, 0.5)
        assert x.dtype == torch.float32
        torch.testing.assert_close(
            x.double(), operator.correct(x0.double(), y.double(), noise, 0.5), rtol=0, atol=2e-6 if noise else 5e-6
        )


def test_identity_and_mask_without_noise_are_exact_to_the_bit():
    x0, y = random(1, 3, 8, 8, dtype=torch.float32), random(1, 3, 8, 8, seed=1, dtype=torch.float32)
    known = random(1, 1, 8, 8, seed=2) > 0
    assert torch.equal(Identity().correct(x0, y, 0.0, 0.7), y)
    assert torch.equal(Mask(known).correct(x0, y, 0.0, 0.7), torch.where(known, y, x0))


# `finish` of identity and mask


def test_identity_finishes_with_the_estimate():
    x = random(1, 3, 8, 8)
    assert Identity().finish(x, -x) is x


def test_mask_finishes_with_the_known_pixels_bit_for_bit_and_never_reads_the_others():
    known = random(1, 1, 8, 8, seed=2) > 0
    x, y = random(2, 3, 8, 8, dtype=torch.float32), random(2, 3, 8, 8, seed=1, dtype=torch.float32)
    y = torch.where(known, y, math.nan)
    for operator in (Mask(known), Mask(known.float())):
        assert torch.equal(operator.finish(x, y), torch.where(known, y, x))
        assert not operator.correct(x, y, 0.1, 0.1).isnan().any()
        assert not operator.measure(y).isnan().any()


# Pillow


@settings(max_examples=60, deadline=None)
@given(
    scale=st.one_of(st.sampled_from([2, 3, 4, 8]), st.integers(1, 17)),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    seed=st.integers(0, 2**31),
)
def test_measure_is_pillows_bicubic(scale: int, height: int, width: int, seed: int):
    """The results agree to the rounding of mode F, whose float32 has a unit in the last place of 1.5e-5 at 255."""
    picture = np.random.default_rng(seed).uniform(0, 255, (height * scale, width * scale)).astype(np.float32)
    plane = torch.from_numpy(picture)[None, None]
    expected = pillow_float(picture, scale)
    assert np.abs(Bicubic(scale).measure(plane.double())[0, 0].numpy() - expected).max() < 3.1e-5
    assert np.abs(Bicubic(scale).measure(plane)[0, 0].numpy() - expected).max() < 2e-4


@settings(max_examples=25, deadline=None)
@given(
    scale=st.sampled_from([2, 3, 4, 8]), height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**31)
)
def test_measure_is_pillows_bicubic_of_eight_bits_to_one_level(scale: int, height: int, width: int, seed: int):
    """Away from black and white, where Pillow clips, its rounding after each axis allows for one level."""
    picture = np.random.default_rng(seed).integers(64, 192, (height * scale, width * scale, 3)).astype(np.uint8)
    y = to_bytes(Bicubic(scale).measure(to_tensor(picture, torch.float64)))
    assert np.abs(y.astype(int) - pillow_bytes(picture, scale)).max() <= 1


@settings(max_examples=25, deadline=None)
@given(scale=st.sampled_from([2, 3, 4, 8]), height=st.integers(1, 9), width=st.integers(1, 9))
def test_every_size_has_a_pseudo_inverse(scale: int, height: int, width: int):
    y = random(1, 1, height, width)
    operator = Bicubic(scale)
    torch.testing.assert_close(operator.measure(operator.pseudo_inverse(y)), y, rtol=0, atol=1e-10)


def test_half_precision_is_computed_in_single():
    x = random(1, 3, 16, 16, dtype=torch.float32).half()
    y = Bicubic(4).measure(x)
    assert y.dtype == torch.float16
    assert torch.equal(y, Bicubic(4).measure(x.float()).half())
    assert torch.equal(Bicubic(4).transpose(y), Bicubic(4).transpose(y.float()).half())
    assert torch.equal(
        Bicubic(4).correct(x, y * 0, 0.1, 1), Bicubic(4).correct(x.float(), y.float() * 0, 0.1, 1).half()
    )


@pytest.mark.parametrize("operator", [Bicubic(4), Iterated(4)], ids=["dense", "iterated"])
def test_autocast_does_not_reach_the_solver(operator: Bicubic):
    x, y = random(1, 3, 16, 16, dtype=torch.float32), random(1, 3, 4, 4, seed=1, dtype=torch.float32)
    expected = operator.correct(x, y, 0.1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator.correct(x, y, 0.1, 1), expected)


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_both_solvers_agree_at_the_size_of_pictures(scale: int):
    """Both solvers agree with one variance for the batch and with one for each image, on axes of different lengths."""
    x, y = random(2, 3, 40 * scale, 57 * scale), random(2, 3, 40, 57, seed=1)
    for noise in (0.0, 1e-4, per_picture(1e-6, 1.0)):
        dense, iterated = (kind(scale).correct(x, y, noise, 0.01) for kind in (Bicubic, Iterated))
        torch.testing.assert_close(dense, iterated, rtol=0, atol=1e-9)


def test_products_of_lower_precision_are_not_used(monkeypatch: pytest.MonkeyPatch):
    """If PyTorch may multiply float32 in TF32 or bf16, the solver without matrix products is used."""

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the eigenvectors must not be used")

    x, y = random(1, 3, 64, 64, dtype=torch.float32), random(1, 3, 16, 16, seed=1, dtype=torch.float32)
    expected = Bicubic(4).correct(x, y, 1e-4, 0.5)
    monkeypatch.setattr(Bicubic, "_solve_by_eigenvectors", refuse)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = Bicubic(4).correct(x, y, 1e-4, 0.5)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


def test_products_of_lower_precision_by_the_newer_switches():
    """The newer settings are respected too. They hold for a whole process, so the test runs in a process of its own."""
    if not hasattr(torch.backends.mkldnn, "matmul"):
        pytest.skip("this PyTorch has only the older setting")
    code = (
        "import torch; from restorer.diffusion.degradations.bicubic import Bicubic\n"
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'\n"
        "x, y = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 16, 16)\n"
        "found, expected = (Bicubic(4).correct(a, b, 1e-4, 0.5) for a, b in ((x, y), (x.double(), y.double())))\n"
        "torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("operator", [Bicubic(4), Iterated(4)], ids=["dense", "iterated"])
def test_the_data_may_be_of_another_precision(operator: Bicubic):
    x, y = random(1, 3, 64, 64), random(1, 3, 16, 16, seed=1)
    expected = operator.correct(x, y, 0.1, 0.5)
    for a, b in ((x.float(), y), (x, y.float()), (x.half(), y)):
        found = operator.correct(a, b, torch.full((1, 1, 1, 1), 0.1), 0.5)
        assert found.dtype == a.dtype
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3 if a.dtype == torch.float16 else 5e-6)


def test_what_inference_has_kept_serves_gradients():
    """Eigenvectors that are cached in inference mode can be used later to compute gradients."""
    x, y = random(1, 3, 44, 52), random(1, 3, 11, 13, seed=1)
    with torch.inference_mode():
        expected = Bicubic(4).correct(x, y, 0.1, 0.5)
    leaf = x.clone().requires_grad_()
    found = Bicubic(4).correct(leaf, y, 0.1, 0.5)
    assert torch.equal(found.detach(), expected)
    found.sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_other_devices_agree(device: str):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, y = random(2, 3, 48, 64, dtype=torch.float32), random(2, 3, 12, 16, seed=1, dtype=torch.float32)
    for noise in (0.0, 0.1, torch.full((2, 1, 1, 1), 0.2)):
        found = Bicubic(4).correct(x.to(device), y.to(device), noise, 0.5)
        torch.testing.assert_close(found.cpu(), Bicubic(4).correct(x, y, noise, 0.5), rtol=0, atol=5e-6)
    assert Bicubic(4).finish(x.to(device), y.to(device)).device.type == device


def test_bicubic_refuses_what_it_cannot_shrink():
    with pytest.raises(ValueError, match="not a multiple"):
        Bicubic(4).measure(random(1, 3, 8, 10))
    with pytest.raises(ValueError, match="positive"):
        Bicubic(0)


# `finish` of bicubic


def text(size: tuple[int, int], scale: int) -> np.ndarray:
    """Return black, antialiased text on white, which is sharp and saturated nearly everywhere."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for line in range(size[1] // (12 * scale)):
        draw.text((scale, 12 * scale * line), "Saturated text, 0123", fill="black", font_size=10 * scale)
    return np.asarray(picture)


def waves(size: tuple[int, int]) -> np.ndarray:
    """Return a zone plate in three colours with clipped highlights and shadows."""
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    phases = np.stack([across**2 / 300 + down / 5, down**2 / 250, (across * down) / 200], -1)
    return (127.5 + 180 * np.sin(phases)).clip(0, 255).round().astype(np.uint8)


def residual(x: Tensor, small: np.ndarray, scale: int) -> np.ndarray:
    """Return the difference between x, shrunk by Pillow, and the small image, in levels."""
    return pillow_bytes(to_bytes(x), scale).astype(float) - small


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("content", ["text", "waves"])
@pytest.mark.parametrize("estimate", ["noisy", "bicubic", "gray"])
def test_shrinking_the_finished_picture_gives_the_input_back(scale: int, content: str, estimate: str):
    large = text((96 * scale, 36 * scale), scale) if content == "text" else waves((48 * scale, 36 * scale))
    small = pillow_bytes(large, scale)
    enlarged = Image.fromarray(small).resize((large.shape[1], large.shape[0]), Image.Resampling.BICUBIC)
    clean = to_tensor(large)
    x = {
        "noisy": clean + 0.2 * random(*clean.shape, dtype=torch.float32),
        "bicubic": to_tensor(np.asarray(enlarged)),
        "gray": torch.zeros_like(clean),
    }[estimate]
    finished = Bicubic(scale).finish(x, to_tensor(small))
    assert finished.abs().max() <= 1
    levels = (finished + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4
    difference = residual(finished, small, scale)
    assert np.sqrt((difference**2).mean()) <= 1
    if estimate == "noisy":
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded", "one for two"])
@pytest.mark.parametrize("kind", [Bicubic, Iterated])
def test_what_is_given_stays_and_may_lie_as_it_likes(kind: type[Bicubic], layout: str):
    """Arguments are not changed, and any memory layout gives the same result."""
    operator = kind(2)
    x, y = random(2, 3, 16, 24, dtype=torch.float32), random(2, 3, 8, 12, seed=1, dtype=torch.float32)
    match layout:
        case "channels_last":
            x, y = (z.to(memory_format=torch.channels_last) for z in (x, y))
        case "transposed":
            x, y = (z.mT.contiguous().mT for z in (x, y))
        case "expanded":
            x, y = (z[:1].expand(2, -1, -1, -1) for z in (x, y))
        case "one for two":
            x = x[:1]
    contiguous = x.expand(len(y), -1, -1, -1).clone(memory_format=torch.contiguous_format)
    copies = x.clone(), y.clone()
    for result, expected in (
        (operator.correct(x, y, 0.1, 1.0), operator.correct(contiguous, y.contiguous(), 0.1, 1.0)),
        (operator.finish(x, y), operator.finish(contiguous, y.contiguous())),
    ):
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected, rtol=0, atol=2.5 / 255)  # `finish` rounds to levels
        assert float((result - expected).abs().mean()) < 1e-4
    assert torch.equal(x, copies[0]) and torch.equal(y, copies[1])


def test_a_finished_picture_stays_as_it_is():
    """`finish` hardly changes an image that already shrinks to the data."""
    large = waves((64, 48))
    x = Bicubic(2).finish(to_tensor(large), to_tensor(pillow_bytes(large, 2)))
    assert np.sqrt(((to_bytes(x).astype(float) - large) ** 2).mean()) < 0.5


def test_finish_is_as_near_as_any_picture_can_be_where_none_gives_the_input_back():
    """For 8-bit white noise, which no image shrinks to, the result is as close as that of long gradient descent."""
    scale = 2
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    y, operator = to_tensor(small), Bicubic(scale)
    x = torch.zeros(1, 3, 24, 32)
    for _ in range(1500):
        x = (x + operator.transpose(y - operator.measure(x)) * scale**2 / 1.1).clamp(-1, 1)
    reference = np.sqrt((residual(x, small, scale) ** 2).mean())
    finished = operator.finish(torch.zeros_like(x), y)
    assert np.sqrt((residual(finished, small, scale) ** 2).mean()) < 1.05 * reference
