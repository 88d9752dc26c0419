"""Deblurring without a kernel: what is found is undone, and what is sharp or not understood is copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stubs import Smooth
from torch import Tensor

from restorer.diffusion.degradations.blur import Blur as Operator
from restorer.diffusion.degradations.kernels import motion_kernel
from restorer.evaluation.metrics import psnr
from restorer.images.sizes import Region
from restorer.measurement.blur import Blur
from restorer.tasks import blind_deblur
from restorer.tasks.blind_deblur import prepare_blind_deblur
from restorer.tasks.deblur import prepare_deblur

IMAGES = Path(__file__).resolve().parents[1] / "images"


def photograph(side: int = 180) -> Tensor:
    with Image.open(IMAGES / "gates.jpg") as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return (torch.from_numpy(np.asarray(half).copy()).permute(2, 0, 1) / 255)[:, :side, :side]


def moved(true: Tensor) -> tuple[Tensor, Tensor]:
    """Return a photograph of a camera that moved, and the part of it that is seen."""
    operator = Operator(motion_kernel(9, 30))
    y = operator.measure(true[None])[0]
    y = y + 2.55 / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    down, across = operator.reach
    return (y * 255).round().clamp(0, 255) / 255, true[:, down : down + y.shape[-2], across : across + y.shape[-1]]


def test_a_blur_is_found_and_undone() -> None:
    y, true = moved(photograph())
    job = prepare_blind_deblur(y, detail=0).measured()
    assert job.blur is not None and job.blur.kind == "motion" and job.noise is not None
    assert psnr(job.run().image, true) > psnr(y, true) + 2.5


def test_it_is_the_deblurring_of_the_kernel_that_is_told() -> None:
    y, _ = moved(photograph())
    job = prepare_blind_deblur(y, sigma=3.0, prior=Smooth()).measured()
    assert job.blur is not None
    told = prepare_deblur(y, job.blur.kernel(), sigma=3.0, prior=Smooth())
    assert torch.equal(job.run().image, told.run().image)
    region = Region(20, 30, 40, 50)
    part = prepare_blind_deblur(y, sigma=3.0, region=region, prior=Smooth()).measured()
    assert part.blur == job.blur and part.run().image.shape == (3, 50, 40)


def test_a_sharp_picture_is_copied_and_told() -> None:
    sharp = photograph()
    job = prepare_blind_deblur(sharp, prior=Smooth()).measured()
    assert job.is_copy and job.blur is None and "no blur was found" in job.notes[0]
    assert torch.equal(job.run().image, sharp)
    small = prepare_blind_deblur(sharp[:, :100], prior=Smooth()).measured()
    assert small.is_copy and "at least 128x128 pixels" in small.notes[0]


@pytest.mark.parametrize(("kind", "probability", "note"), [("other", 0.9, "neither"), ("defocus", 0.85, "not sure")])
def test_doubt_is_told(kind: str, probability: float, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind_deblur, "find_blur", lambda *_: Blur(kind, 2.0, probability=probability))
    job = prepare_blind_deblur(photograph(), sigma=2.0, prior=Smooth()).measured()
    assert note in job.notes[-1] and job.is_copy == (kind == "other")
    assert job.blur is not None and job.blur.kind == kind
