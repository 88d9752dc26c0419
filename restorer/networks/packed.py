"""Convolutions whose weights lie in memory as the processor's kernel reads them.

oneDNN computes a convolution on weights in blocks of its own. PyTorch hands it the plain layout, and every call
rearranges it: for 256 channels on a 4x4 map that takes longer than the convolution. Here it is done once. The values
are those of the plain layer to rounding (another kernel sums in another order). Figures: tests/bench/NOTES.md.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PackedConv2d", "can_pack", "pack", "unpack"]


class PackedConv2d(nn.Module):
    """A convolution for evaluation alone, with the parameters of the layer it was made of.

    The blocks depend on the size of the input: weights packed for another one are computed with by a kernel up to ten
    times as slow. So they are packed again where the size changes, which costs what a plain layer pays at every call.

    Args:
        conv: on the CPU, without groups, padded with zeros, in a precision that `can_pack` has said yes to.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv_of = conv.in_channels, conv.out_channels, conv.kernel_size
        self.weight, self.bias = conv.weight, conv.bias
        # As lists: the operation's own kind, so that no call converts them.
        self._shape = [int(p) for p in conv.padding], list(conv.stride), list(conv.dilation)
        self._packed: Tensor | None = None
        self._packed_for: tuple[Any, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        padding, stride, dilation = self._shape
        # Weights that were loaded or cast since are others.
        version = 0 if self.weight.is_inference() else self.weight._version
        wanted = x.shape, self.weight.data_ptr(), version
        if self._packed is None or wanted != self._packed_for:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, 1, list(x.shape)
            )
            self._packed_for = wanted
        operation = torch.ops.mkldnn._convolution_pointwise
        return operation(x, self._packed, self.bias, padding, stride, dilation, 1, "none", [], "")

    def unpacked(self) -> nn.Conv2d:
        """The layer it was made of."""
        padding, stride, dilation = map(tuple, self._shape)
        shape = {"stride": stride, "padding": padding, "dilation": dilation, "bias": self.bias is not None}
        conv = nn.utils.skip_init(nn.Conv2d, *self.conv_of, **shape)
        conv.weight, conv.bias = self.weight, self.bias
        return conv.train(self.training)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine has it: oneDNN on an x86 processor, in a precision for which it has kernels there."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(network: nn.Module) -> None:
    """Replace the network's convolutions, in place."""

    def suits(module: nn.Module) -> bool:
        return type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"

    _replace(network, suits, PackedConv2d)


def unpack(network: nn.Module) -> None:
    """Undo `pack`, in place; nothing where there is nothing to undo."""
    _replace(network, lambda module: isinstance(module, PackedConv2d), lambda module: module.unpacked())


def _replace(network: nn.Module, which: Callable[[nn.Module], bool], by: Callable[[Any], nn.Module]) -> None:
    """Put another module in the place of some, wherever they are."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if which(module):
                setattr(parent, name, by(module))
