"""Restorations that start from the result of another network: what they keep of the data, and that result alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from single_pass import compact, described, dncnn, photograph, rrdb, save
from stubs import Smooth, Spy
from torch import Tensor

from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.degradations.kernels import gaussian_kernel
from restorer.errors import ModelError, UsageError
from restorer.images.sizes import Enlargement, Region
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.feed_forward import FeedForward
from restorer.models.starts import load_start
from restorer.tasks.batching import batch_share
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.started import DEBLUR_STARTED, INPAINT_STARTED, REPAIR_STARTED, UPSCALE_STARTED
from restorer.tasks.upscale import prepare_upscale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def enlarging(folder: Path) -> FeedForward:
    return load_start(save(folder / "x4.pth", rrdb()), "cpu", "fp32")


@pytest.fixture(scope="module")
def doubling(folder: Path) -> FeedForward:
    return load_start(save(folder / "x2.pth", compact(scale=2)), "cpu", "fp32")


@pytest.fixture(scope="module")
def repairing(folder: Path) -> FeedForward:
    return load_start(save(folder / "x1.pth", dncnn(3)), "cpu", "fp32")


def levels(x: Tensor) -> np.ndarray:
    return (x * 255).round().to(torch.int16).numpy()


def shrunk(x: Tensor, scale: int) -> np.ndarray:
    """Return a picture of whole levels shrunk by Pillow's bicubic filter."""
    image = Image.fromarray(levels(x).astype(np.uint8).transpose(1, 2, 0))
    small = image.resize((image.width // scale, image.height // scale), Image.Resampling.BICUBIC)
    return np.asarray(small).astype(np.int16).transpose(2, 0, 1)


# ----------------------------------------------------------------------------------------------------------- upscale


def test_without_steps_the_result_is_that_of_the_network(enlarging: FeedForward) -> None:
    picture, prior = photograph(21, 27), Spy(Smooth())
    job = prepare_upscale(picture, 4, steps=0, start=enlarging, prior=prior).measured()
    assert job.plan is None and not job.is_copy and job.starter is enlarging and job.evaluations == 0
    assert torch.equal(job.run().image, enlarging(picture).picture) and prior.calls == []


@pytest.mark.parametrize("steps", [0, None])
def test_a_gray_picture_stays_gray(enlarging: FeedForward, steps: int | None) -> None:
    gray = photograph(16, 20, channels=1)
    for picture in (gray, gray.expand(3, -1, -1)):
        result = prepare_upscale(picture, 4, steps=steps, start=enlarging, prior=Smooth()).run().image
        assert result.shape == (len(picture), 64, 80) and bool((result == result[:1]).all())


def test_a_region_of_the_network_alone(doubling: FeedForward) -> None:
    picture, region = photograph(150, 130), Region(70, 60, 31, 40)
    whole = prepare_upscale(picture, 2, steps=0, start=doubling, prior=Smooth()).run().image
    part = prepare_upscale(picture, 2, steps=0, region=region, start=doubling, prior=Smooth()).run().image
    assert torch.allclose(part, whole[:, 120:200, 140:202], atol=1e-5)


def test_a_size_in_between_is_shrunk_from_the_network(doubling: FeedForward) -> None:
    picture = photograph(20, 30)
    result = prepare_upscale(picture, 1.5, steps=0, start=doubling, prior=Smooth()).run().image
    large = Image.fromarray(levels(doubling(picture).picture).astype(np.uint8).transpose(1, 2, 0))
    expected = np.asarray(large.resize((45, 30), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert result.shape == (3, 30, 45) and np.abs(levels(result) - expected).max() <= 2
    with pytest.raises(UsageError, match="enlarges by 2, not by 3"):
        prepare_upscale(picture, Enlargement(width=80), start=doubling, prior=Smooth())


@pytest.mark.parametrize("steps", [0, 1])
def test_sides_are_shrunk_from_the_network(enlarging: FeedForward, steps: int) -> None:
    picture = photograph(20, 30)
    result = prepare_upscale(picture, Enlargement(width=60), steps=steps, start=enlarging, prior=Smooth()).run().image
    assert result.shape == (3, 40, 60)
    with pytest.raises(UsageError, match="enlarges by 4, not by 2"):
        prepare_upscale(picture, 2, steps=steps, start=enlarging, prior=Smooth())


def test_shrinking_gives_the_picture_back(enlarging: FeedForward) -> None:
    """Whatever the network invents, the result is consistent with the picture."""
    picture, prior = photograph(24, 28), Spy(Smooth())
    network = enlarging(picture).picture
    assert np.abs(shrunk(network, 4) - levels(picture)).max() > 20
    job = prepare_upscale(picture, 4, start=enlarging, prior=prior).measured()
    restored = job.run()
    assert np.abs(shrunk(restored.image, 4) - levels(picture)).max() <= 1
    assert job.evaluations == len(prior.calls) == UPSCALE_STARTED.steps and job.detail == UPSCALE_STARTED.detail
    # The first state is the result of the network with noise of `detail` times the level.
    state, carried = prior.calls[0], UPSCALE_STARTED.detail * UPSCALE_STARTED.first
    deviation = (state.x[0] - (2 * network - 1)).std()
    assert state.sigma == pytest.approx(UPSCALE_STARTED.first) and float(deviation) == pytest.approx(carried, rel=0.05)


def test_the_result_stays_near_the_network_where_the_data_allow_it(doubling: FeedForward) -> None:
    """A network that is consistent with the picture is not changed: its detail lies beyond what shrinking shows."""
    picture = photograph(32, 32)
    y, degradation = 2 * picture[None] - 1, Bicubic(2)
    consistent = degradation.correct(2 * doubling(picture).picture[None] - 1, y, 0.0, 1.0)
    job = prepare_upscale(picture, 2, detail=0, start=doubling, prior=Spy(Smooth())).measured()
    result = 2 * job.run().image[None] - 1
    detail = consistent - degradation.pseudo_inverse(y)
    kept = result - degradation.pseudo_inverse(y)
    assert float((kept * detail).sum() / detail.square().sum()) > 0.7


def test_a_small_jpeg_is_restored_first(enlarging: FeedForward) -> None:
    picture, file = photograph(32, 40), io.BytesIO()
    Image.fromarray(levels(picture).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=30)
    decoded = torch.tensor(np.asarray(Image.open(file)).astype(np.float32) / 255).permute(2, 0, 1)
    jpeg = find_jpeg(decoded, file.getvalue())
    job = prepare_upscale(decoded, 4, jpeg=jpeg, steps=2, start=enlarging, prior=Smooth())
    counted: list[tuple[int, int]] = []
    job = job.measured()
    restored = job.run(lambda step: counted.append((step.index, step.total)))
    assert job.starter is enlarging and job.jpeg is not None and job.evaluations == 6 + 2
    assert counted[-1] == (8, 8) and restored.image.shape == (3, 128, 160)


def test_transparency_is_resampled_if_the_network_is_alone(enlarging: FeedForward) -> None:
    picture, alpha = photograph(16, 16), torch.linspace(0, 1, 16).expand(16, 16)
    alone = prepare_upscale(picture, 4, alpha=alpha, steps=0, start=enlarging, prior=Smooth())
    assert alone.alpha is None
    begun = prepare_upscale(picture, 4, alpha=alpha, start=enlarging, prior=Smooth()).measured()
    restored = begun.run()
    assert begun.alpha is not None and begun.alpha.starter is None and "transparency" in " ".join(begun.notes)
    assert restored.alpha is not None and restored.alpha.shape == (64, 64)


def test_a_drawing_is_left_to_the_network(enlarging: FeedForward) -> None:
    """What shrinking cannot have made is not forced onto the network, and is not limited to what bicubic gives."""
    drawing = torch.ones(3, 32, 32)
    drawing[:, 8:10, 4:28] = 0
    drawing[:, 4:28, 20] = 0
    job = prepare_upscale(drawing, 4, start=enlarging, prior=Smooth()).measured()
    assert job.y is not None and job.degradation is not None
    measured = job.degradation.measure(2 * enlarging(drawing[:1]).picture[None] - 1)
    assert torch.allclose(job.y, measured, atol=1e-4)


def test_started_jobs_run_alone(enlarging: FeedForward) -> None:
    assert batch_share(prepare_upscale(photograph(8, 8), 4, start=enlarging, prior=Smooth())) == 1


# ------------------------------------------------------------------------------------------ denoise, dejpeg, deblur


def test_the_network_alone_keeps_the_size(repairing: FeedForward) -> None:
    picture, expected = photograph(20, 24), repairing(photograph(20, 24)).picture
    kernel = gaussian_kernel(1.0)
    jobs = [
        prepare_denoise(picture, steps=0, start=repairing, prior=Smooth()),
        prepare_dejpeg(picture, None, steps=0, start=repairing, prior=Smooth()),
        prepare_deblur(picture, kernel, steps=0, start=repairing, prior=Smooth()),
    ]
    for job in jobs:
        assert torch.equal(job.run().image, expected)


def test_white_noise_is_removed_from_the_start(repairing: FeedForward) -> None:
    picture, prior = photograph(24, 24), Spy(Smooth())
    job = prepare_denoise(picture, 20.0, start=repairing, prior=prior).measured()
    assert job.plan is not None and len(job.plan.sigmas) == REPAIR_STARTED.steps + 1 and not job.plan.correct_last
    assert job.plan.sigmas[0] == pytest.approx(REPAIR_STARTED.first * 40 / 255)
    assert job.noise_variance == pytest.approx((40 / 255) ** 2)
    assert torch.equal(job.start, 2 * repairing(picture).picture[None] - 1)
    assert job.run().image.shape == picture.shape and len(prior.calls) == REPAIR_STARTED.steps


def test_a_clean_picture_is_copied(repairing: FeedForward) -> None:
    picture = photograph(24, 24)
    job = prepare_denoise(picture, noise="off", start=repairing, prior=Smooth()).measured()
    assert job.is_copy and any("--steps 0" in note for note in job.notes)
    assert torch.equal(job.run().image, picture)


def test_a_result_stays_within_the_intervals_of_its_jpeg(repairing: FeedForward) -> None:
    picture, file = photograph(32, 40), io.BytesIO()
    Image.fromarray(levels(picture).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=20, subsampling=0)
    decoded = torch.tensor(np.asarray(Image.open(file)).astype(np.float32) / 255).permute(2, 0, 1)
    job = prepare_dejpeg(decoded, find_jpeg(decoded, file.getvalue()), start=repairing, prior=Smooth()).measured()
    result = 2 * job.run().image[None] - 1
    assert job.degradation is not None and job.y is not None and job.starter is repairing
    assert float((job.degradation.finish(result, job.y) - result).abs().max()) < 2 / 255


def test_a_blur_is_undone_from_the_start(repairing: FeedForward) -> None:
    picture, kernel = photograph(40, 36), gaussian_kernel(1.2)
    job = prepare_deblur(picture, kernel, sigma=2.0, start=repairing, prior=Smooth()).measured()
    plain = prepare_deblur(picture, kernel, sigma=2.0, prior=Smooth())
    assert job.plan is not None and plain.plan is not None and job.degradation is not None
    assert len(job.plan.sigmas) == DEBLUR_STARTED.steps + 1 and job.plan.sigmas[-2] == plain.plan.sigmas[-2]
    down, across = job.degradation.reach  # type: ignore[attr-defined]
    inside = job.start[..., down:-down, across:-across]
    assert torch.equal(inside, 2 * repairing(picture).picture[None] - 1)
    assert torch.equal(job.start[..., :down, :], plain.start[..., :down, :])
    assert job.run().image.shape == picture.shape


def test_noise_is_removed_before_a_blur_is_undone(repairing: FeedForward) -> None:
    torch.manual_seed(0)
    picture = (photograph(48, 48) + 0.06 * torch.randn(3, 48, 48)).clamp(0, 1)
    counted: list[tuple[int, int]] = []
    job = prepare_deblur(picture, gaussian_kernel(1.0), start=repairing, prior=Smooth()).measured()
    job.run(lambda step: counted.append((step.index, step.total)))
    assert counted[-1][0] == counted[-1][1] == job.evaluations


# ----------------------------------------------------------------------------------------------------------- inpaint


class Filling(torch.nn.Module):
    """A network that fills holes with one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask > 0.5, self.weight, 0.9 * x)


@pytest.fixture
def filling() -> FeedForward:
    return described(Filling(), purpose="Inpainting", masked=True)


@pytest.mark.parametrize("steps", [0, None, 2])
def test_holes_start_from_the_network(filling: FeedForward, steps: int | None) -> None:
    picture, hole, prior = photograph(60, 70), torch.zeros(60, 70, dtype=torch.bool), Spy(Smooth())
    hole[20:52, 10:14] = hole[5:40, 30:66] = True  # narrow and wide
    job = prepare_inpaint(picture, hole, steps=steps, start=filling, prior=prior).measured()
    result = job.run().image
    assert torch.equal(result[:, ~hole], picture[:, ~hole])
    assert len(prior.calls) == (INPAINT_STARTED.steps if steps is None else steps) == job.evaluations
    if steps == 0:
        assert torch.allclose(result[:, hole], torch.tensor(0.25), atol=1e-6)


def test_an_empty_mask_copies_the_picture(filling: FeedForward) -> None:
    picture, hole = photograph(20, 20), torch.zeros(20, 20, dtype=torch.bool)
    assert prepare_inpaint(picture, hole, start=filling, prior=Smooth()).measured().is_copy


# ------------------------------------------------------------------------------------------------------------ options


def test_no_steps_need_a_start(enlarging: FeedForward) -> None:
    with pytest.raises(UsageError, match="between 1 and") as caught:
        prepare_upscale(photograph(8, 8), 4, steps=0, prior=Smooth())
    assert "--start" in caught.value.hint
    with pytest.raises(UsageError, match="between 0 and"):
        prepare_upscale(photograph(8, 8), 4, steps=-1, start=enlarging, prior=Smooth())


def test_networks_that_do_not_fit(enlarging: FeedForward, repairing: FeedForward, filling: FeedForward) -> None:
    picture, hole = photograph(12, 12), torch.ones(12, 12, dtype=torch.bool)
    for prepare in (
        lambda: prepare_denoise(picture, start=enlarging, prior=Smooth()),
        lambda: prepare_upscale(picture, 4, start=repairing, prior=Smooth()),
        lambda: prepare_inpaint(picture, hole, start=repairing, prior=Smooth()),
        lambda: prepare_dejpeg(picture, None, start=filling, prior=Smooth()),
        lambda: prepare_deblur(picture, gaussian_kernel(1.0), start=enlarging, prior=Smooth()),
    ):
        with pytest.raises(ModelError, match="cannot start from it"):
            prepare()


@pytest.mark.parametrize("method", ["ddpm", "ddim", "diffpir"])
def test_published_methods_start_from_the_network(enlarging: FeedForward, method: str) -> None:
    picture = photograph(16, 16)
    job = prepare_upscale(picture, 4, steps=3, method=method, start=enlarging, prior=Smooth()).measured()
    assert job.plan is not None and job.plan.kappa == 1 and job.plan.sigmas[0] == pytest.approx(UPSCALE_STARTED.first)
    assert np.abs(shrunk(job.run().image, 4) - levels(picture)).max() <= 1


def test_the_page_gives_the_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/commands.md").read_text(encoding="utf-8")
    table = page.partition("### A network to start from")[2].partition("###")[0]
    settings = {
        "`upscale`": UPSCALE_STARTED,
        "`denoise`, `dejpeg`": REPAIR_STARTED,
        "`deblur`": DEBLUR_STARTED,
        "`inpaint`": INPAINT_STARTED,
    }
    for name, found in settings.items():
        (row,) = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith(f"| {name} |")]
        assert row[2:4] == [str(found.steps), f"{found.detail:g}"], name
