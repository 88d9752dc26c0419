"""The optimizers: AdamW, or Muon for the hidden layers together with AdamW for the other weights.

    M_k = mu M_{k-1} + G_k,   W <- W - lr * .2 sqrt(max(m, n)) * U V^T,   U S V^T = G_k + mu M_k

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by the orthogonal matrix that is
nearest to its momentum, so that no direction of the matrix is neglected. The factor gives the update the size of an
update of AdamW, so that both can use the same learning rate (Liu et al. 2025, https://arxiv.org/abs/2502.16982). A
convolution is treated as a matrix with one row per output channel and one column per input value of its window. The
matrix of a transposed convolution has one row per input channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from restorer.errors import UsageError

__all__ = ["OPTIMIZERS", "MuonAndAdamW", "make_optimizer"]

OPTIMIZERS = ("adamw", "muon")
WEIGHT_DECAY = 0.01
END_LAYERS = ("conv_in", "conv_out")  # convolutions that read or write pixels and therefore are not hidden layers


class MuonAndAdamW:
    """Two optimizers behind the interface of one.

    Args:
        network: A network that is already on its device and has its final memory layout, channels_last.
        learning_rate: Learning rate of both optimizers.

    Raises:
        ValueError: A weight of a hidden layer is not laid out as channels_last.
    """

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        self._weights = [
            module.weight
            for name, module in network.named_modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and name not in END_LAYERS
        ]
        hidden = {id(weight) for weight in self._weights}
        others = [parameter for parameter in network.parameters() if id(parameter) not in hidden]
        # torch's Muon accepts matrices only. These matrices share the memory of the weights.
        self._matrices = [_matrix(weight.detach()) for weight in self._weights]
        if any(m.data_ptr() != w.data_ptr() for m, w in zip(self._matrices, self._weights, strict=True)):
            raise ValueError("the weights must have the memory layout channels_last")
        self._muon = torch.optim.Muon(
            self._matrices, lr=learning_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(others, lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of both optimizers."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        """Update all weights from their gradients."""
        for matrix, weight in zip(self._matrices, self._weights, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        self._muon.step()
        self._adamw.step()

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for weight in (*self._matrices, *self._weights):
            weight.grad = None
        self._adamw.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers for a checkpoint."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        self._muon.load_state_dict(content["muon"])
        self._adamw.load_state_dict(content["adamw"])


def _matrix(weight: Tensor) -> Tensor:
    """Reshape a weight (A, B, h, w) to (A, h w B), without a copy if its layout is channels_last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def make_optimizer(name: str, network: nn.Module, learning_rate: float) -> torch.optim.AdamW | MuonAndAdamW:
    """Create an optimizer for the weights of a network.

    Args:
        name: One of OPTIMIZERS.
        network: The network; for "muon" as `MuonAndAdamW` takes it.
        learning_rate: The initial learning rate.

    Raises:
        UsageError: The installed PyTorch has no Muon.
    """
    if name == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(
            f"PyTorch {torch.__version__} has no Muon",
            "install PyTorch 2.9 or newer, or set optimizer = 'adamw' in the recipe",
        )
    return MuonAndAdamW(network, learning_rate)
