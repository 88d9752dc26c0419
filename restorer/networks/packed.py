"""Convolutions whose weights lie in memory as the processor's kernel reads them.

oneDNN computes a convolution on weights in blocks of its own. PyTorch hands it the plain layout, and every call
rearranges it: for 256 channels on a 4x4 map that takes longer than the convolution. Here it is done once. The values
are those of the plain layer to rounding (another kernel sums in another order). Figures: tests/bench/NOTES.md.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PackedConv2d", "can_pack", "convolved", "left_to_pack", "pack", "plainly", "unpack"]


class PackedConv2d(nn.Module):
    """A convolution for evaluation alone, with the parameters of the layer it was made of.

    The blocks depend on the size of the input: weights packed for another one are computed with by a kernel up to ten
    times as slow. So they are packed again where the size changes, which costs what a plain layer pays at every call.

    Args:
        conv: on the CPU, without groups, padded with zeros, in a precision that `can_pack` has said yes to.
    """

    plain: ClassVar[bool] = False  # see `plainly`

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv_of = conv.in_channels, conv.out_channels, conv.kernel_size
        self.weight, self.bias = conv.weight, conv.bias
        # As lists: the operation's own kind, so that no call converts them.
        self._shape = [int(p) for p in conv.padding], list(conv.stride), list(conv.dilation)
        self._packed: Tensor | None = None
        self._packed_for: tuple[Any, ...] = ()

    def forward(self, x: Tensor, shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        """See `convolved`: what is the same for every picture of the batch is added by the kernel itself."""
        bias = self.bias
        if shift is not None and len(shift) == 1:
            bias, shift = shift[0] if bias is None else bias + shift[0], None
        out = self._convolve(x, bias, plus)
        return out if shift is None else out + shift[:, :, None, None]

    def _convolve(self, x: Tensor, bias: Tensor | None, plus: Tensor | None) -> Tensor:
        if PackedConv2d.plain:
            padding, stride, dilation = self._shape
            out = F.conv2d(x, self.weight, bias, stride, padding, dilation)
            return out if plus is None else out + plus
        # Weights that were loaded or cast since are others.
        version = 0 if self.weight.is_inference() else self.weight._version
        wanted = x.shape, self.weight.data_ptr(), version
        if self._packed is None or wanted != self._packed_for:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._shape, 1, list(x.shape))
            self._packed_for = wanted
        rest = self._packed, bias, *self._shape, 1
        if plus is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *rest, "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(x, plus, *rest, "add", 1.0, None, [], None)

    def unpacked(self) -> nn.Conv2d:
        """The layer it was made of."""
        padding, stride, dilation = map(tuple, self._shape)
        shape = {"stride": stride, "padding": padding, "dilation": dilation, "bias": self.bias is not None}
        conv = nn.utils.skip_init(nn.Conv2d, *self.conv_of, **shape)
        conv.weight, conv.bias = self.weight, self.bias
        return conv.train(self.training)


def convolved(conv: nn.Module, x: Tensor, shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """A convolution and what is added to it, which a packed one does on the way.

    Args:
        conv: plain or packed.
        x: (B, C, H, W).
        shift: of every output channel, (B or 1, K).
        plus: another map, like the output.
    """
    if isinstance(conv, PackedConv2d):
        return conv(x, shift, plus)
    out = conv(x)
    if shift is not None:
        out = out + shift[:, :, None, None]
    return out if plus is None else plus + out


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


def left_to_pack(network: nn.Module, *, afresh: bool = False) -> int:
    """How many weights the next evaluation will hold a second time: of convolutions that have not computed yet.

    Args:
        afresh: of a copy of the network, none of which have.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, PackedConv2d))
    return sum(layer.weight.numel() for layer in layers if afresh or layer._packed is None)


@contextmanager
def plainly() -> Iterator[None]:
    """Within, networks compute as they are written: packed layers as plain ones, and nothing recorded is replayed."""
    PackedConv2d.plain = True
    try:
        yield
    finally:
        PackedConv2d.plain = False


def _replace(network: nn.Module, which: Callable[[nn.Module], bool], by: Callable[[Any], nn.Module]) -> None:
    """Put another module in the place of some, wherever they are."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if which(module):
                setattr(parent, name, by(module))
