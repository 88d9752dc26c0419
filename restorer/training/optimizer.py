"""What moves the weights: AdamW, or Muon for the hidden layers and AdamW for the rest.

    M_k = mu M_{k-1} + G_k,   W <- W - lr * .2 sqrt(max(m, n)) * U V^T,   U S V^T = G_k + mu M_k

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by the nearest orthogonal one to
its momentum, so that no direction of it is left behind; the factor gives its update the size AdamW's has, and both the
same learning rate (Liu et al. 2025, https://arxiv.org/abs/2502.16982). A convolution is the matrix of its output
channels by everything they see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from restorer.errors import UsageError

__all__ = ["OPTIMIZERS", "MuonAndAdamW", "make_optimizer"]

OPTIMIZERS = ("adamw", "muon")
WEIGHT_DECAY = 0.01
ENDS = ("conv_in", "conv_out")  # what reads pixels and writes them is no hidden layer


class MuonAndAdamW:
    """Two optimizers as one.

    Args:
        network: on its device already, and laid out in memory as it is to stay.
        learning_rate: of both.
    """

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        self._weights = [
            module.weight
            for name, module in network.named_modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and name not in ENDS
        ]
        hidden = {id(weight) for weight in self._weights}
        others = [parameter for parameter in network.parameters() if id(parameter) not in hidden]
        # torch's Muon takes matrices only: these are the same memory in another shape.
        self._matrices = [_matrix(weight.detach()) for weight in self._weights]
        if any(m.data_ptr() != w.data_ptr() for m, w in zip(self._matrices, self._weights, strict=True)):
            raise ValueError("the weights must lie in memory as channels_last has them")
        self._muon = torch.optim.Muon(
            self._matrices, lr=learning_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(others, lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        """Move all weights by their gradients."""
        for matrix, weight in zip(self._matrices, self._weights, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        self._muon.step()
        self._adamw.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for weight in (*self._matrices, *self._weights):
            weight.grad = None
        self._adamw.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._muon.load_state_dict(content["muon"])
        self._adamw.load_state_dict(content["adamw"])


def _matrix(weight: Tensor) -> Tensor:
    """(A, B, h, w) -> (A, h w B), without a copy where the layout is channels_last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def make_optimizer(name: str, network: nn.Module, learning_rate: float) -> torch.optim.AdamW | MuonAndAdamW:
    """An optimizer by its name, one of OPTIMIZERS.

    Raises:
        UsageError: this PyTorch has no Muon.
    """
    if name == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(f"PyTorch {torch.__version__} has no Muon", "PyTorch 2.9 has it; or optimizer = 'adamw'")
    return MuonAndAdamW(network, learning_rate)
