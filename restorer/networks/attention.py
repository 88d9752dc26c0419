"""Self-attention over all positions of a feature map (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.layers import GroupNorm

__all__ = ["Attention"]


class Attention(nn.Module):
    """Self-attention with a residual connection.

    Args:
        width: Number of channels.
        head_dim: Channels of one head, a divisor of `width`.
        groups: Groups of the normalization before the attention; 0 leaves the normalization out.
        eps: Epsilon of that normalization.
        divide_by: Number that the sum of input and output is divided by.

    Attributes:
        channels_last: Whether feature maps lie in memory with the channels last. They are then laid out as positions by
            features already, and nothing is copied.
    """

    channels_last = False

    def __init__(self, width: int, head_dim: int, groups: int, eps: float, *, divide_by: float = 1.0) -> None:
        super().__init__()
        self.head_dim, self.divide_by = head_dim, divide_by
        self.group_norm = GroupNorm(groups, width, eps) if groups else None
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, width, H, W) -> (B, width, H, W)."""
        batch, width = x.shape[:2]
        h = self.positions(x)
        heads = (batch, -1, width // self.head_dim, self.head_dim)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.queries_keys_values(h))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, width)
        return self.residual(self.to_out[0](h), x)

    def positions(self, x: Tensor) -> Tensor:
        """Normalize a feature map and list its positions: (B, width, H, W) -> (B, H W, width)."""
        h = x if self.channels_last else x.flatten(2)
        h = h if self.group_norm is None else self.group_norm(h)
        return h.flatten(2).transpose(1, 2)

    def queries_keys_values(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project features (B, N, width) to queries, keys and values of the same shape."""
        return self.to_q(h), self.to_k(h), self.to_v(h)

    def residual(self, h: Tensor, x: Tensor) -> Tensor:
        """Add the attended features (B, H W, width) to the feature map x (B, width, H, W)."""
        out = h.transpose(-1, -2).reshape(x.shape) + x
        return out / self.divide_by if self.divide_by != 1 else out
