"""Pictures that are degraded in a known way, so that their restoration can be compared with the truth.

    denoise    Gaussian noise of a stated standard deviation, which is passed to the restorer; neither clipped nor
               rounded, as in the literature, unless 8 bits are requested
    upscale    shrinking by Pillow's bicubic filter (which antialiases, as MATLAB's does), in 8 bits; sides are first
               cropped to a multiple of the scale
    inpaint    holes of a stated kind, drawn at random or given
    deblur     a stated blur with noise, in 8 bits, whose kernel the restorer is told or has to find

Random choices depend on the seed and on the picture's name, not on the order of the pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from restorer.errors import PictureError
from restorer.evaluation.contact_sheet import to_image
from restorer.evaluation.deblurring import blurred
from restorer.evaluation.metrics import SSIM_WINDOW
from restorer.evaluation.trial_masks import draw_mask
from restorer.images.files import from_pil, to_tensor
from restorer.measurement.jpeg import Jpeg

__all__ = ["Condition", "Sample", "check_size", "degrade", "derive_seed", "resize", "round_to_8_bits"]


@dataclass(frozen=True)
class Condition:
    """One way of degrading a picture.

    Args:
        task: "denoise", "upscale", "inpaint" or "deblur".
        sigma: Standard deviation of the noise on the 0..255 scale, which the restorer is told; None if the restorer
            decides as it does by default.
        scale: For upscale, the factor by which the picture is shrunk.
        kind: For inpaint, the kind of the mask; for deblur, the blur in words.
        kernel: For deblur, the kernel, (h, w); None if the pictures are blurred already.
        is_blind: For deblur, whether the restorer has to find the blur.
    """

    task: str
    sigma: float | None = 0.0
    scale: int = 1
    kind: str = ""
    kernel: Tensor | None = field(default=None, compare=False)
    is_blind: bool = False

    def __str__(self) -> str:
        if self.sigma is None:
            return {"upscale": f"x{self.scale}"}.get(self.task, "as it is")
        return {"denoise": f"sigma {self.sigma:g}", "upscale": f"x{self.scale}"}.get(self.task, self.kind)


@dataclass(frozen=True)
class Sample:
    """A clean picture and its degraded version.

    Args:
        condition: How the picture is degraded.
        truth: The clean picture, float32 (C, H, W) in [0, 1].
        degraded: The input of the restorer, float32 (C, h, w); with noise, values may lie outside [0, 1].
        fill: bool (H, W), True in the holes; None for tasks other than inpaint.
        visible: bool (h, w), the pixels of the degraded picture that are not transparent; None if all are visible.
        jpeg: What is known of the JPEG compression of the degraded picture; None if it is to be left as it is.
    """

    condition: Condition
    truth: Tensor
    degraded: Tensor
    fill: Tensor | None = None
    visible: Tensor | None = None
    jpeg: Jpeg | None = None


def derive_seed(seed: int, name: str) -> int:
    """Derive the seed of one picture, 0 to 2^63 - 1, from the common seed and the picture's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def round_to_8_bits(x: Tensor) -> Tensor:
    """Clip values to [0, 1] and round them to multiples of 1/255."""
    return (x.clamp(0, 1) * 255).round() / 255


def resize(x: Tensor, width: int, height: int) -> Tensor:
    """Resize a picture (C, H, W) with Pillow's bicubic filter, in 8 bits."""
    return to_tensor(from_pil(to_image(x).resize((width, height), Image.Resampling.BICUBIC)))


def degrade(
    truth: Tensor, condition: Condition, seed: int, *, fill: Tensor | None = None, eight_bit: bool = False
) -> Sample:
    """Degrade a clean picture.

    Args:
        truth: The clean picture, float (C, H, W) in [0, 1].
        condition: How to degrade it.
        seed: Seed of the noise or the holes.
        fill: The holes, bool (H, W), True for missing pixels; None to draw them at random.
        eight_bit: Whether a noisy picture is clipped and rounded to 8 bits, as in a file.

    Raises:
        PictureError: The picture is too small for SSIM.
    """
    check_size(truth, condition)
    height, width = truth.shape[-2:]
    if condition.task == "denoise":
        assert condition.sigma is not None
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
        noisy = truth + condition.sigma / 255 * noise
        return Sample(condition, truth, round_to_8_bits(noisy) if eight_bit else noisy)
    if condition.task == "upscale":
        height, width = height // condition.scale, width // condition.scale
        truth = truth[:, : height * condition.scale, : width * condition.scale]
        return Sample(condition, truth, resize(truth, width, height))
    if condition.task == "deblur":
        assert condition.kernel is not None
        degraded, part = blurred(truth, condition.kernel, condition.sigma or 0.0, seed)
        check_size(part, condition)
        return Sample(condition, part, degraded)
    holes = torch.from_numpy(draw_mask(condition.kind, height, width, seed)) if fill is None else fill
    return Sample(condition, truth, torch.where(holes, 1.0, truth), holes)


def check_size(truth: Tensor, condition: Condition) -> None:
    """Check that a picture is large enough to be compared with SSIM.

    Raises:
        PictureError: The picture is too small.
    """
    border = condition.scale if condition.task == "upscale" else 0
    height, width = truth.shape[-2:]
    if min(height, width) // condition.scale * condition.scale - 2 * border < SSIM_WINDOW:
        raise PictureError(
            f"a picture of {width}x{height} pixels is too small to be compared",
            f"SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, for upscale without the border",
        )
