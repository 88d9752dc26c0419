"""The methods without a network to which restorations are compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from restorer.evaluation.contact_sheet import to_image
from restorer.evaluation.deblurring import filters
from restorer.evaluation.degraded import Sample, resize

__all__ = ["baseline_methods", "has_opencv", "unrestored"]

NLM_STRENGTH = 0.6  # h of OpenCV's non-local means over sigma: the best of five (.4 to 1.2) on six pictures of CBSD68

INPAINT_RADIUS = 3  # radius in pixels of the neighbourhood that OpenCV's inpainting uses


def has_opencv() -> bool:
    """Return whether OpenCV is installed, which provides three of the baselines."""
    return importlib.util.find_spec("cv2") is not None


def unrestored(sample: Sample) -> dict[str, Callable[[], Tensor]]:
    """Return the degraded picture itself as a method, by its name; for upscale its bicubic enlargement."""
    if sample.condition.task == "upscale":
        height, width = sample.truth.shape[-2:]
        return {"bicubic": lambda: resize(sample.degraded, width, height)}
    names = {"denoise": "noisy", "deblur": "blurred"}
    return {names.get(sample.condition.task, "damaged"): lambda: sample.degraded}


def baseline_methods(sample: Sample) -> dict[str, Callable[[], Tensor]]:
    """Return the methods that restore a sample without a network, by name.

    The baselines of OpenCV work in 8 bits and are left out if OpenCV is not installed. Those of deblur are told the
    kernel, and need scikit-image (`restorer.evaluation.deblurring.check_filters`).

    Returns:
        Functions without arguments that return a picture, float (C, H, W) in [0, 1]. The first is that of
        `unrestored`, unless the holes were drawn here: those are white, which says nothing.
    """
    degraded, condition = sample.degraded, sample.condition
    has_drawn_holes = condition.task == "inpaint" and condition.sigma is not None
    methods = {} if has_drawn_holes else unrestored(sample)
    if condition.task == "deblur":
        if condition.kernel is None:  # the filters must be told the blur
            return methods
        return methods | filters(degraded, sample.truth, condition.kernel)
    has_no_strength = condition.task == "denoise" and condition.sigma is None  # which non-local means must be told
    if condition.task == "upscale" or has_no_strength or not has_opencv():
        return methods
    import cv2

    # OpenCV orders the channels blue, green, red.
    pixels = np.ascontiguousarray(np.asarray(to_image(degraded.expand(3, -1, -1)))[..., ::-1])

    def to_tensor_again(result: np.ndarray) -> Tensor:
        colour = torch.from_numpy(result[..., ::-1].transpose(2, 0, 1).copy()).float() / 255
        return colour if len(degraded) == 3 else colour.mean(0, keepdim=True)

    if condition.task == "denoise":
        assert condition.sigma is not None
        strength = NLM_STRENGTH * condition.sigma
        methods["NLM"] = lambda: to_tensor_again(
            cv2.fastNlMeansDenoisingColored(pixels, None, strength, strength, 7, 21)
        )
        return methods
    assert sample.fill is not None
    holes = sample.fill.numpy().astype(np.uint8) * 255
    methods["Telea"] = lambda: to_tensor_again(cv2.inpaint(pixels, holes, INPAINT_RADIUS, cv2.INPAINT_TELEA))
    methods["Navier-Stokes"] = lambda: to_tensor_again(cv2.inpaint(pixels, holes, INPAINT_RADIUS, cv2.INPAINT_NS))
    return methods
