"""Layers whose weights lie in memory as the processor's kernels read them.

oneDNN computes on weights in blocks of its own. PyTorch hands it the plain layout, and every call rearranges it: for
256 channels on a 4x4 map that takes longer than the convolution. Here it is done once, and what can be is computed as
one operation: a convolution with what is added to it, linear layers of one input, a convolution of doubled pixels. The
values are those of the plain layers to rounding (another kernel sums in another order). Figures: tests/bench/NOTES.md.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.layers import DoublingConv2d, Together, double_size

__all__ = [
    "Packed",
    "PackedConv2d",
    "PackedConvTranspose2d",
    "PackedDoublingConv2d",
    "PackedTogether",
    "can_pack",
    "convolved",
    "left_to_pack",
    "pack",
    "parameter_state",
    "plainly",
    "unpack",
]


class Packed(nn.Module):
    """What packed layers have in common: for evaluation alone, with the parameters of the layer they were made of.

    A convolution's blocks depend on the size of the input, batch included: weights packed for another one are computed
    with by a kernel up to ten times as slow. So they are packed again where the size changes, which costs what a plain
    layer pays at every call, and three times that where weights are summed first.
    """

    plain: ClassVar[bool] = False  # see `plainly`

    def __init__(self) -> None:
        super().__init__()
        self._packed: Tensor | None = None
        self._packed_for: tuple[Any, ...] = ()

    def packs(self) -> int:
        """How many numbers it holds beside its parameters once it has computed."""
        raise NotImplementedError

    def unpacked(self) -> nn.Module:
        """The layer it was made of."""
        raise NotImplementedError

    @property
    def has_packed(self) -> bool:
        """Whether it has computed."""
        return self._packed is not None

    def _packed_as(self, wanted: tuple[Any, ...], packing: Callable[[], Tensor]) -> Tensor:
        """Its weights for the state of its parameters (`parameter_state`) and, if it matters, an input's shape."""
        if self._packed is None or wanted != self._packed_for:
            self._packed, self._packed_for = packing(), wanted
        return self._packed


class _PackedConvolution(Packed):
    """A convolution of any kind: its parameters, and its shape as lists, the operations' own kind.

    Args:
        conv: on the CPU, without groups, padded with zeros, in a precision that `can_pack` has said yes to.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        empty = copy(conv)
        empty._parameters = {"weight": None, "bias": None}
        self._conv = (empty,)  # a tuple, so that it is not registered
        self.weight = conv.weight
        self.bias = conv.bias
        self._shape = [int(p) for p in conv.padding], list(conv.stride), list(conv.dilation)

    def packs(self) -> int:
        """See `Packed.packs`."""
        return self.weight.numel()

    def unpacked(self) -> nn.Module:
        """See `Packed.unpacked`."""
        conv = copy(self._conv[0])
        conv._parameters = dict(conv._parameters)
        conv.weight = self.weight
        conv.bias = self.bias
        return conv.train(self.training)

    def _convolve_transposed(self, x: Tensor, weight: Callable[[], Tensor]) -> Tensor:
        """A transposed convolution with a weight of (C, K, H, W)."""
        padding, stride, dilation = self._shape

        def packing() -> Tensor:
            reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
            return reorder(weight(), padding, [0, 0], stride, dilation, 1, list(x.shape))

        packed = self._packed_as((x.shape, *parameter_state(self.weight)), packing)
        shape = padding, [0, 0], stride, dilation, 1
        return torch.ops.mkldnn._convolution_transpose_pointwise(x, packed, self.bias, *shape, "none", [], "")


class PackedConv2d(_PackedConvolution):
    """See `Packed`."""

    def forward(self, x: Tensor, shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        """See `convolved`: what is the same for every picture of the batch is added by the kernel itself."""
        bias = self.bias
        if shift is not None and len(shift) == 1:
            bias, shift = shift[0] if bias is None else bias + shift[0], None
        out = self._convolve(x, bias, plus)
        return out if shift is None else out + shift[:, :, None, None]

    def _convolve(self, x: Tensor, bias: Tensor | None, plus: Tensor | None) -> Tensor:
        if Packed.plain:
            padding, stride, dilation = self._shape
            out = F.conv2d(x, self.weight, bias, stride, padding, dilation)
            return out if plus is None else out + plus
        weight, shape = self.weight, self._shape
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        packed = self._packed_as((x.shape, *parameter_state(weight)), lambda: reorder(weight, *shape, 1, list(x.shape)))
        rest = packed, bias, *shape, 1
        if plus is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *rest, "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(x, plus, *rest, "add", 1.0, None, [], None)


class PackedConvTranspose2d(_PackedConvolution):
    """See `Packed`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H', W')."""
        if Packed.plain:
            padding, stride, dilation = self._shape
            return F.conv_transpose2d(x, self.weight, self.bias, stride, padding, dilation=dilation)
        return self._convolve_transposed(x, lambda: self.weight)


class PackedDoublingConv2d(_PackedConvolution):
    """See `Packed`. Three neighbours among doubled pixels are two pixels, so a transposed convolution of 4x4 gives the
    same with 4 multiplications for 9: its weights are sums of those that meet the same pixel.
    """

    def __init__(self, conv: DoublingConv2d) -> None:
        super().__init__(conv)
        self._shape = [1, 1], [2, 2], [1, 1]  # of the transposed one

    def forward(self, x: Tensor) -> Tensor:
        """See `DoublingConv2d`."""
        if Packed.plain:
            return F.conv2d(double_size(x), self.weight, self.bias, padding=1)
        return self._convolve_transposed(x, self._summed)

    def packs(self) -> int:
        """See `Packed.packs`."""
        return self.weight.numel() * 16 // 9

    def _summed(self) -> Tensor:
        """(C, K, 4, 4)."""
        kernel = F.pad(self.weight.float(), (1, 1, 1, 1))
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[..., 1:] + kernel[..., :-1]
        return kernel.flip(2, 3).transpose(0, 1).to(self.weight.dtype)


class PackedTogether(Packed):
    """See `Packed`: one product for all of the layers."""

    def __init__(self, together: Together) -> None:
        super().__init__()
        self.layers = together.layers
        self._bias: Tensor | None = None

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Together`."""
        weights: list[Tensor] = [layer.weight for layer in self.layers]
        biases: list[Tensor] = [layer.bias for layer in self.layers]
        if Packed.plain or x.dtype != weights[0].dtype:  # autocast
            return [layer(x) for layer in self.layers]

        def packing() -> Tensor:
            self._bias = torch.cat(biases)
            return torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights))

        packed = self._packed_as((*map(parameter_state, weights), *map(parameter_state, biases)), packing)
        out = torch.ops.mkldnn._linear_pointwise(x, packed, self._bias, "none", [], "")
        return list(out.split([len(weight) for weight in weights], dim=-1))

    def packs(self) -> int:
        """See `Packed.packs`."""
        return sum(layer.weight.numel() + len(layer.bias) for layer in self.layers)

    def unpacked(self) -> nn.Module:
        """See `Packed.unpacked`."""
        return Together(*self.layers).train(self.training)


PACKED: dict[type[nn.Module], Callable[[Any], Packed]] = {
    nn.Conv2d: PackedConv2d,
    nn.ConvTranspose2d: PackedConvTranspose2d,
    DoublingConv2d: PackedDoublingConv2d,
}


def parameter_state(parameter: Tensor) -> tuple[int, int]:
    """Another one once it has been loaded or cast."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


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
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in OPERATIONS):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


OPERATIONS = ("_convolution_pointwise", "_convolution_transpose_pointwise", "_linear_pointwise")


def pack(network: nn.Module) -> None:
    """Replace the network's layers, in place. Modules of another kind may have a `packed_form` of their own.

    Normalizations get their few parameters in float32, in which their kernels compute.
    """
    _replace(network, _packed_form)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.float()


def unpack(network: nn.Module) -> None:
    """Undo `pack`, in place; nothing where there is nothing to undo."""
    _replace(network, lambda module: module.unpacked() if isinstance(module, Packed) else None)


def _packed_form(module: nn.Module) -> nn.Module | None:
    """None where it stays as it is."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        plain = module.groups == 1 and module.padding_mode == "zeros" and not any(module.output_padding)
        packed = PACKED.get(type(module)) if plain else None
        return None if packed is None else packed(module)
    if isinstance(module, Together):
        return PackedTogether(module) if all(layer.bias is not None for layer in module.layers) else None
    own = getattr(module, "packed_form", None)
    return None if own is None else own()


def left_to_pack(network: nn.Module, *, afresh: bool = False) -> int:
    """How many numbers the next evaluation will hold beside the weights: of layers that have not computed yet.

    Args:
        afresh: of a copy of the network, none of which have.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, Packed))
    return sum(layer.packs() for layer in layers if afresh or not layer.has_packed)


@contextmanager
def plainly() -> Iterator[None]:
    """Within, networks compute as they are written: packed layers as plain ones, and nothing recorded is replayed."""
    Packed.plain = True
    try:
        yield
    finally:
        Packed.plain = False


def _replace(network: nn.Module, by: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put another module in the place of some, wherever they are."""
    for name, module in list(network.named_children()):
        other = by(module)
        if other is None:
            _replace(module, by)
        else:
            setattr(network, name, other)
