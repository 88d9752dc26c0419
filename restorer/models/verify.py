"""The known answer of a network: its published output for one fixed noise.

The input is x = randn(1, C, S, S) after `torch.manual_seed(0)`, with t = 10, in float32 on the CPU; the card of the
model holds the first values of network(x, t)[0, 0, 0]. Agreement shows that the weights are the published ones and
that this program reads them correctly: a model with a wrong padding, head size or time embedding loads without
complaint and gives another answer.
"""

from __future__ import annotations

from pathlib import Path

import torch

from restorer.errors import ModelError
from restorer.models.catalogue import Card
from restorer.models.checkpoints import load_model
from restorer.models.latent_pipelines import is_latent, load_latent

__all__ = ["TOLERANCE", "check_known_answer"]

TOLERANCE = 1e-3


@torch.no_grad()
def check_known_answer(model: Path, card: Card | None = None) -> float | None:
    """Load a model and compare its output with the known answer on its card.

    Args:
        model: The folder or file of the model.
        card: The card of the model; None to check only that the model loads.

    Returns:
        The largest absolute difference, or None if no answer is known.

    Raises:
        ModelError: The model does not load, or its answer differs by more than `TOLERANCE`.
    """
    latent = is_latent(model)
    network, spec = load_latent(model)[:2] if latent else load_model(model)
    if card is None or not card.known_answer:
        return None
    network = network.eval().float()
    side = spec.native_size or card.size if latent else card.size  # the size on a card counts pixels, not latents
    x = torch.randn(1, network.config.in_channels, side, side, generator=torch.manual_seed(0))
    expected = torch.tensor(card.known_answer)
    found = network(x, torch.tensor([10.0]))[0, 0, 0, : len(expected)]
    error = float((found - expected).abs().max())
    if not error <= TOLERANCE:
        text = f"{card.name} does not give its known answer: the error is {error:.2g}, the tolerance {TOLERANCE:g}"
        raise ModelError(text, "either these are other weights, or this program reads them wrongly: please report it")
    return error
