"""The share of a GPU's arithmetic that a training run uses.

A forward pass takes F operations for a crop, and a backward pass about twice as many, because each product of the
forward pass has two in the backward pass: one for the gradient of its input, and one for that of its weights. So the
share is 3 F · crops a second / peak (the "model FLOPs utilization" of Chowdhery et al. 2022, PaLM,
https://arxiv.org/abs/2204.02311, appendix B). Noise, losses and the optimizer do not count.
"""

from __future__ import annotations

import re

import torch
from torch.utils.flop_counter import FlopCounterMode

from restorer.priors.unet_prior import ModelSpec

__all__ = ["count_forward", "peak_of", "peak_rate"]

PASSES = 3  # a forward pass, and a backward pass that takes twice as long

PEAKS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
)
"""Operations a second of the tensor cores in bf16, without sparsity, by words in the GPU's name; the first one counts.

The values are those of the data sheets of the manufacturer, which name twice as many for sparse matrices.
"""


def peak_of(name: str, dtype: torch.dtype) -> float | None:
    """Return the operations a second that a GPU can do at most.

    Args:
        name: Its name, as PyTorch states it.
        dtype: The data type. In float32 the peak depends on whether products are rounded to TF32, so it is not known.

    Returns:
        None if the GPU or the data type is not in the list.
    """
    if dtype != torch.bfloat16:
        return None
    return next((peak for part, peak in PEAKS if re.search(rf"\b{part}\b", name)), None)


def count_forward(spec: ModelSpec, crop: int) -> int:
    """Return the operations of a forward pass for one crop; an addition and a multiplication are two operations.

    Args:
        spec: The network and its patch size.
        crop: Side of the crop in pixels.
    """
    side = crop // spec.patch_size
    with torch.device("meta"):
        network = spec.network.build()
        x, t = torch.zeros(1, spec.network.in_channels, side, side), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:  # gradients are recorded, so that no accelerated layer is used
        network(x, t)
    return counter.get_total_flops()


def peak_rate(spec: ModelSpec, crop: int, device: torch.device, dtype: torch.dtype, count: int) -> float | None:
    """Return the crops a second on which several GPUs could be trained at most; None if their peak is not known.

    Args:
        spec: The network and its patch size.
        crop: Side of the crops in pixels.
        device: One of the GPUs, which are all alike.
        dtype: The data type in which the network computes.
        count: Number of GPUs.
    """
    peak = peak_of(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
    return None if peak is None else count * peak / (PASSES * count_forward(spec, crop))
