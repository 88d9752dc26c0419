"""The undoing of compression: which network answers first, on which grid, and what is told of the result."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Spy
from torch import Tensor

from restorer.diffusion.reverse import Step
from restorer.evaluation.metrics import psnr
from restorer.images.files import from_pil, to_tensor
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import Jpeg
from restorer.models.load import DECOMPRESSING, first_expert_identity
from restorer.priors.experts import BOUNDARY, Experts, Shifted, decompressing_level
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.uncertain import Asked

IMAGES = Path(__file__).parents[1] / "images"


def stored(quality: int, *, crop: tuple[int, int] = (0, 0), size: int = 128) -> tuple[Tensor, Tensor, Jpeg]:
    """Return a photograph, the same as a JPEG file decodes to and cropped after that, and what is known of the file."""
    with Image.open(IMAGES / "gates.jpg") as image:
        clean, file = image.convert("RGB").crop((30, 40, 30 + size, 40 + size)), io.BytesIO()
    clean.save(file, "JPEG", quality=quality, subsampling=2)
    decoded = to_tensor(from_pil(Image.open(file).convert("RGB")))[:, crop[0] :, crop[1] :]
    jpeg = find_jpeg(decoded, None if any(crop) else file.getvalue())
    assert jpeg is not None
    return to_tensor(from_pil(clean))[:, crop[0] :, crop[1] :], decoded, jpeg


def test_the_network_gives_the_first_answer_and_the_prior_the_others() -> None:
    clean, decoded, jpeg = stored(20)
    steps: list[Step] = []
    job = prepare_dejpeg(decoded, jpeg)
    restored = job.run(steps.append)
    assert [step.sigma >= BOUNDARY for step in steps] == [True] + [False] * (job.evaluations - 1)
    assert steps[0].sigma == pytest.approx(decompressing_level(jpeg.components[0].steps))
    assert first_expert_identity(restored.prior, DECOMPRESSING) is not None
    assert psnr(restored.image, clean) > psnr(decoded, clean) + 1


def test_one_evaluation_is_that_of_the_network() -> None:
    clean, decoded, jpeg = stored(20)
    alone = prepare_dejpeg(decoded, jpeg, steps=1)
    assert alone.evaluations == 1
    assert psnr(alone.run().image, clean) > psnr(decoded, clean) + 0.8


@pytest.mark.parametrize("changed", [{"method": "ddim"}, {"method": "diffpir", "steps": 5}, {"prior": Spy()}])
def test_published_methods_and_other_models_ask_the_prior_alone(changed: dict) -> None:
    _, decoded, jpeg = stored(20, size=64)
    job = prepare_dejpeg(decoded, jpeg, **changed)
    assert job.plan is not None and max(job.plan.sigmas) < BOUNDARY
    assert first_expert_identity(job.prior, DECOMPRESSING) is None


def test_the_network_sees_a_cropped_picture_on_its_blocks() -> None:
    clean, decoded, jpeg = stored(20, crop=(5, 11), size=192)
    job = prepare_dejpeg(decoded, jpeg, steps=1)
    inner = job.prior.prior
    assert isinstance(inner, Experts) and isinstance(inner.first, Shifted)
    assert [missing % 8 for missing in inner.first.missing] == [5, 3] and inner.first.missing == jpeg.missing
    gain = psnr(job.run().image, clean) - psnr(decoded, clean)
    misplaced = Experts(inner.prior, inner.first.prior, inner.name, inner.base)
    state = decoded[None] * 2 - 1
    level = decompressing_level(jpeg.components[0].steps)
    wrong = (misplaced.denoise(state, level)[0] + 1) / 2
    assert gain > 0.8 and gain > psnr(wrong, clean) - psnr(decoded, clean)


def test_detail_adds_texture_after_the_first_answer() -> None:
    _, decoded, jpeg = stored(20, size=96)
    mean, sample, other = (
        prepare_dejpeg(decoded, jpeg, detail=detail, seed=seed).run().image
        for detail, seed in ((0.0, 0), (1.0, 0), (1.0, 1))
    )
    assert torch.equal(mean, prepare_dejpeg(decoded, jpeg, seed=7).run().image)
    assert not torch.equal(sample, other)
    assert sample.diff(dim=-1).square().mean() > mean.diff(dim=-1).square().mean()


@pytest.mark.parametrize("steps", [1, None])
def test_the_uncertainty_is_of_the_size_of_the_error(steps: int | None) -> None:
    clean, decoded, jpeg = stored(30)
    job = prepare_dejpeg(decoded, jpeg, steps=steps)
    restored = type(job)(**{**vars(job), "asked": Asked(spread=True)}).run()
    assert restored.spread is not None
    error = 255 * float((restored.image - clean).square().mean().sqrt())
    assert error / 6 < float(restored.spread.deviation.mean()) < 6 * error  # before it is calibrated
    by_size = np.corrcoef(restored.spread.deviation.flatten(), (restored.image - clean).abs().mean(0).flatten())[0, 1]
    assert by_size > 0.3
