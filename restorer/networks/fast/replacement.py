"""Replacing the modules of a network, by type, with faster ones for evaluation, and putting them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from restorer.networks.attention import Attention
from restorer.networks.fast.attention import PackedAttention, SingleHeadAttention
from restorer.networks.fast.normalization import MixedGroupNorm
from restorer.networks.fast.prepacked import (
    PackedConv2d,
    PackedConvTranspose2d,
    PackedUpsampleConv2d,
    Prepacked,
)
from restorer.networks.fast.time_cache import TimeCache
from restorer.networks.layers import AddConv2d, GroupNorm, UpsampleConv2d
from restorer.networks.time_embedding import TimeEmbedding

__all__ = ["accelerate", "count_unpacked", "decelerate", "to_channels_last"]

HEAVY = 300_000_000  # number of weights from which on the transformed weights, twice as many, take too much memory
N = TypeVar("N", bound=nn.Module)


def _convolution(packed: Callable[[Any], Prepacked]) -> Callable[[Any], Prepacked | None]:
    """Return a replacement for convolutions that leaves those alone for which there is no packed form."""

    def replacement(conv: Any) -> Prepacked | None:
        plain = conv.groups == 1 and conv.padding_mode == "zeros" and not any(conv.output_padding)
        return packed(conv) if plain else None

    return replacement


def _attention(attention: Attention) -> Prepacked | None:
    layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    if any(layer.bias is None for layer in layers):
        return None
    return (
        SingleHeadAttention(attention)
        if attention.head_dim == attention.to_q.in_features
        else PackedAttention(attention)
    )


REPLACEMENTS: dict[type[nn.Module], Callable[[Any], Prepacked | None]] = {
    nn.Conv2d: _convolution(PackedConv2d),
    AddConv2d: _convolution(PackedConv2d),
    UpsampleConv2d: _convolution(PackedUpsampleConv2d),
    nn.ConvTranspose2d: _convolution(PackedConvTranspose2d),
    GroupNorm: MixedGroupNorm,
    Attention: _attention,
    TimeEmbedding: lambda embed_time: TimeCache(embed_time) if TimeCache.serves(embed_time) else None,
}


def accelerate(network: nn.Module) -> None:
    """Replace the modules of a network on the CPU by faster ones, in place; see `can_prepack`."""
    _replace(network, lambda module: REPLACEMENTS.get(type(module), lambda _: None)(module))
    light = sum(parameter.numel() for parameter in network.parameters()) < HEAVY
    for module in network.modules():
        if isinstance(module, PackedConv2d):
            module.winograd_allowed = light


def decelerate(network: nn.Module) -> None:
    """Undo `accelerate`, in place; a network that is not accelerated stays as it is."""
    _replace(network, lambda module: module.plain() if isinstance(module, Prepacked) else None)


def count_unpacked(network: nn.Module, dtype: torch.dtype, *, fresh: bool = False) -> int:
    """Return how many numbers the next evaluation will pack at most, beyond those that the network holds now.

    Args:
        network: Accelerated network.
        dtype: Precision of the network.
        fresh: Whether to count for a copy of the network in that precision, which holds none yet.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, Prepacked))
    return sum(max(layer.count_packed(dtype) - (0 if fresh else layer.held), 0) for layer in layers)


def to_channels_last(network: N) -> N:
    """Convert a network, in place, for inputs in the memory format `torch.channels_last`, and return it."""
    for module in network.modules():
        if isinstance(module, (Attention, PackedAttention, SingleHeadAttention)):
            module.channels_last = True
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _replace(network: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    """Replace each module at any depth for which a function returns another module."""
    for name, module in list(network.named_children()):
        other = replacement(module)
        if other is not None:
            setattr(network, name, other)
        _replace(module if other is None else other, replacement)
