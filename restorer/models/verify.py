"""The known answer of a network: what it says to one noise, as its publishers wrote it down.

`torch.manual_seed(0)`, x = randn(1, C, S, S), t = 10, in float32 on the CPU; the card holds the first values of
network(x, t)[0, 0, 0]. It shows that the weights are the published ones and that this program reads them as meant:
a wrong padding, head size or time embedding loads without complaint and answers something else.
"""

from __future__ import annotations

from pathlib import Path

import torch

from restorer.errors import ModelError
from restorer.models.catalogue import Card
from restorer.models.checkpoints import load_model
from restorer.models.latent_pipelines import is_latent, load_latent

__all__ = ["TOLERANCE", "answer_error"]

TOLERANCE = 1e-3


@torch.no_grad()
def answer_error(model: Path, card: Card | None = None) -> float | None:
    """Load a model and ask it what its card knows: the largest difference, None where nothing is known.

    Raises:
        ModelError: it does not load, or answers something else.
    """
    latent = is_latent(model)
    network, spec = load_latent(model)[:2] if latent else load_model(model)
    if card is None or not card.known_answer:
        return None
    network = network.eval().float()
    side = spec.native_size or card.size if latent else card.size  # a card's size is that of pictures
    x = torch.randn(1, network.config.in_channels, side, side, generator=torch.manual_seed(0))
    expected = torch.tensor(card.known_answer)
    found = network(x, torch.tensor([10.0]))[0, 0, 0, : len(expected)]
    error = float((found - expected).abs().max())
    if not error <= TOLERANCE:
        text = f"{card.name} does not answer what it is known to answer: {error:.2g} off, not {TOLERANCE:g} at most"
        raise ModelError(text, "these are other weights, or this program reads them wrongly: please report it")
    return error
