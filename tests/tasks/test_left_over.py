"""What a first repair leaves is allowed for by the repair after it, and by no more than helps it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.diffusion.degradations.blur import Blur
from restorer.diffusion.degradations.kernels import defocus_kernel
from restorer.evaluation.metrics import psnr
from restorer.measurement.jpeg import read_jpeg
from restorer.measurement.noise import Noise
from restorer.tasks.deblur import prepare_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.left_over import left_for_deblurring, left_of_compression, left_of_noise

IMAGES = Path(__file__).resolve().parents[1] / "images"


def test_compression_counts_more_than_noise():
    file = io.BytesIO()
    Image.open(IMAGES / "gates.jpg").crop((0, 0, 96, 96)).save(file, "JPEG", quality=40)
    jpeg = read_jpeg(file.getvalue())
    assert jpeg is not None
    weak, strong = (Noise("camera", share * jpeg.sigma, True) for share in (1.0, 4.0))
    assert left_for_deblurring(None, None) == 0
    assert left_for_deblurring(weak, None) < weak.sigma
    assert left_for_deblurring(weak, jpeg) == left_for_deblurring(None, jpeg) == pytest.approx(jpeg.sigma)
    assert left_for_deblurring(strong, jpeg) == left_for_deblurring(strong, None) > jpeg.sigma
    assert 0 < left_of_compression(jpeg) < jpeg.sigma and 0 < left_of_noise(10.0) < 10


@pytest.mark.parametrize("name", ["gates", "eagles"])
def test_a_deblurring_after_a_compression_is_better_than_one_that_allows_for_half(name: str):
    with Image.open(IMAGES / f"{name}.jpg") as image:
        sharp = torch.from_numpy(np.array(image.crop((96, 48, 256, 208)))).permute(2, 0, 1)[None] / 255
    kernel, file = defocus_kernel(2.5), io.BytesIO()
    operator = Blur(kernel)
    down, across = operator.reach
    blurred = (operator.measure(sharp)[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(blurred).save(file, "JPEG", quality=70)
    jpeg = read_jpeg(file.getvalue())
    assert jpeg is not None
    y = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255
    truth = sharp[0, :, down:-down, across:-across]
    job = prepare_deblur(y, kernel, noise="off", jpeg=jpeg, detail=0)
    undone = prepare_dejpeg(y, jpeg, detail=None, prior=job.prior).run().image
    half = prepare_deblur(undone, kernel, sigma=jpeg.sigma / 2, detail=0, prior=job.prior).run().image
    assert psnr(job.run().image, truth) > psnr(half, truth)
