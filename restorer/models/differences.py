r"""Networks that are stored as their difference from another one, in 8 bits.

A network that was trained on from the weights W of another one differs little from it. For each matrix or filter bank,
the difference is stored as whole numbers k of -127..127 and one step s for each output,

    W' = W + s k,   s = max |W' - W| / 127 over the output

which takes half the space of float16, and errs less: the steps are fractions of the differences, not of the weights.
Other weights are stored as they are. The steps of a weight have its name with `STEPS` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from restorer.errors import ModelError

__all__ = ["DIFFERENCE", "add_difference", "write_difference"]

DIFFERENCE = "difference.safetensors"
"""The name of the file in the folder of such a network."""

STEPS = ".steps"
LARGEST = 127


def write_difference(path: Path, changed: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
    """Write the difference of a network from another one.

    Args:
        path: The file.
        changed: Weights of the network, by name.
        original: Weights of the other network, which have the same names and shapes.

    Raises:
        ModelError: The weights do not have the same names and shapes.
    """
    _check(changed, original)
    stored: dict[str, Tensor] = {}
    for name, weight in changed.items():
        if weight.ndim < 2:
            stored[name] = weight.half().contiguous()
            continue
        difference = weight.float() - original[name].float()
        steps = difference.flatten(1).abs().amax(1) / LARGEST
        whole = difference / _along_outputs(steps.clamp(min=torch.finfo(torch.float32).tiny), difference)
        stored[name] = whole.round().clamp(-LARGEST, LARGEST).to(torch.int8).contiguous()
        stored[name + STEPS] = steps
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes the file readable only by its owner


def add_difference(path: Path, original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a network that is stored as its difference from another one, float32, by name.

    Args:
        path: The file that `write_difference` wrote.
        original: Weights of the other network, by name.

    Raises:
        ModelError: The file is missing or does not belong to the other network.
    """
    try:
        stored = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read", "reinstall restorer") from error
    weights = {name: weight for name, weight in stored.items() if not name.endswith(STEPS)}
    _check(weights, original)
    for name, whole in weights.items():
        weights[name] = whole.float()
        if whole.dtype == torch.int8:
            weights[name] = torch.addcmul(
                original[name].float(), whole.float(), _along_outputs(stored[name + STEPS], whole)
            )
    return weights


def _along_outputs(steps: Tensor, like: Tensor) -> Tensor:
    """Return one number for each output of a weight, in a shape that is multiplied with the weight."""
    return steps.reshape(-1, *[1] * (like.ndim - 1))


def _check(changed: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> None:
    """Check that two networks have weights of the same names and shapes."""
    if {n: w.shape for n, w in changed.items()} != {n: w.shape for n, w in original.items()}:
        raise ModelError("the two networks do not have weights of the same names and shapes")
