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

from restorer.networks.fast import winograd
from restorer.networks.fast.weight_versions import parameter_state
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
    "plainly",
    "unpack",
]

LAYOUT = torch.channels_last
MANY = 50_000_000  # multiplications a thread from which on halving them is worth the transforms
NARROW = 16  # channels: what half the harmonic mean of those in and out must be at least
HEAVY = 300_000_000  # weights of a network from which on their transforms, twice as many, would take too much memory


class Packed(nn.Module):
    """What packed layers have in common: for evaluation alone, with the parameters of the layer they were made of.

    A convolution's blocks depend on the size of the input, batch included: weights packed for another one are computed
    with by a kernel up to ten times as slow. So they are packed again where the size changes, which costs what a plain
    layer pays at every call, three times that where weights are summed first, and five to twenty-five times where they
    are transformed: of 256 channels at 32x32 pixels half the time of the convolution, of 512 at 16x16 twice that time.
    """

    plain: ClassVar[bool] = False  # see `plainly`

    def __init__(self) -> None:
        super().__init__()
        self.held = 0  # how many numbers it holds beside its parameters
        self._packed: Tensor | None = None
        self._packed_for: tuple[Any, ...] = ()

    def packs(self, dtype: torch.dtype) -> int:
        """How many numbers it will hold beside its parameters, at most.

        Args:
            dtype: its precision, or the one it would be cast to.
        """
        raise NotImplementedError

    def unpacked(self) -> nn.Module:
        """The layer it was made of."""
        raise NotImplementedError

    def _packed_as(self, wanted: tuple[Any, ...], packing: Callable[[], Tensor], held: int | None = None) -> Tensor:
        """Its weights for the state of its parameters (`parameter_state`) and, if it matters, an input's shape.

        Args:
            held: how many numbers they are; all that `packs` says if left out.
        """
        if self._packed is None or wanted != self._packed_for:
            packed = packing()
            self.held = self.packs(packed.dtype) if held is None else held
            self._packed, self._packed_for = packed, wanted
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

    def packs(self, dtype: torch.dtype) -> int:
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
    """See `Packed`. Wide convolutions of 3x3 are computed by Winograd's algorithm (`winograd.py`) in float32.

    `divides` says whether they may be.
    """

    divides = True

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        out, into, *kernel = conv.weight.shape
        same_size = kernel == [3, 3] and self._shape == ([1, 1], [1, 1], [1, 1])
        self._wide = same_size and out * into >= NARROW * (out + into)

    def forward(
        self, x: Tensor, shift: Tensor | None = None, plus: Tensor | None = None, overwrite: bool = False
    ) -> Tensor:
        """See `convolved`: what is the same for every picture of the batch is added by the kernel itself."""
        bias: Tensor | None = self._parameters.get("bias")  # as an attribute it takes as long as a small operation
        if shift is not None and len(shift) == 1:
            bias, shift = shift[0] if bias is None else bias + shift[0], None
        if overwrite and plus is not None:
            overwrite = plus.dtype == x.dtype == self.weight.dtype and plus.is_contiguous(memory_format=LAYOUT)
        out = self._convolve(x, bias, plus, overwrite)
        return out if shift is None else out + shift[:, :, None, None]

    def packs(self, dtype: torch.dtype) -> int:
        """See `Packed.packs`: twice as many where it may be by Winograd's algorithm."""
        return self.weight.numel() * (2 if dtype == torch.float32 and self.divides and self._wide else 1)

    def _rows(self, x: Tensor, weight: Tensor) -> int:
        """So many rows of this input at a time by Winograd's algorithm; 0 where a direct sum is better.

        As it is in lower precisions, which would lose exactness, and gain less.
        """
        exact = x.dtype == torch.float32 and weight.dtype == torch.float32
        if not exact or not self._wide or not self.divides or x.shape[-1] % winograd.OUTPUTS:
            return 0
        many = weight.numel() * x.numel() >= MANY * torch.get_num_threads() * x.shape[1]
        return winograd.rows_of(x, len(weight)) if many and not torch.is_grad_enabled() else 0

    def _convolve(self, x: Tensor, bias: Tensor | None, plus: Tensor | None, overwrite: bool) -> Tensor:
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        padding, stride, dilation = self._shape
        if Packed.plain:
            return _sum(F.conv2d(x, weight, bias, stride, padding, dilation), plus, overwrite)
        if rows := self._rows(x, weight):
            return self._convolve_in_strips(x.contiguous(memory_format=LAYOUT), rows, bias, plus, overwrite)
        state, packed = (x.shape, parameter_state(weight)), self._packed
        if packed is None or state != self._packed_for:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            count, shape = weight.numel(), (*self._shape, 1, list(x.shape))
            packed = self._packed_as(state, lambda: reorder(weight, *shape), count)
        operations = torch.ops.mkldnn
        if plus is None or plus.shape[2] == plus.shape[3] == 1:  # of single pixels older PyTorches add none
            convolve = operations._convolution_pointwise.default
            return _sum(convolve(x, packed, bias, padding, stride, dilation, 1, "none", [], ""), plus, overwrite)
        rest: Any = packed, bias, padding, stride, dilation, 1, "add", 1.0, None, [], None
        if overwrite:
            return operations._convolution_pointwise_.binary(plus, x, *rest)
        return operations._convolution_pointwise.binary(x, plus, *rest)

    def _convolve_in_strips(
        self, x: Tensor, rows: int, bias: Tensor | None, plus: Tensor | None, overwrite: bool
    ) -> Tensor:
        """By Winograd's algorithm, so many rows at a time."""
        seen, padding = winograd.seen_of(x, rows)
        shape = padding, [1, 1], [1, 1], winograd.POINTS

        def packing() -> Tensor:
            return torch.ops.mkldnn._reorder_convolution_weight(winograd.kernels(self.weight), *shape, seen)

        state, count = (*seen, parameter_state(self.weight)), 2 * self.weight.numel()
        packed, bias = self._packed_as(state, packing, count), winograd.shifted(bias)

        def multiply(maps: Tensor) -> Tensor:
            return torch.ops.mkldnn._convolution_pointwise(maps, packed, bias, *shape, "none", [], "")

        result = plus if plus is not None and overwrite else None
        return winograd.in_strips(x, rows, multiply, plus, result)


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

    def packs(self, dtype: torch.dtype) -> int:
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

    def packs(self, dtype: torch.dtype) -> int:
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


def convolved(
    conv: nn.Module, x: Tensor, shift: Tensor | None = None, plus: Tensor | None = None, *, overwrite: bool = False
) -> Tensor:
    """A convolution and what is added to it, which a packed one does on the way.

    Args:
        conv: plain or packed.
        x: (B, C, H, W).
        shift: of every output channel, (B or 1, K).
        plus: another map, like the output.
        overwrite: it is not needed any more, nor is it x, and the result may take its place, unless gradients are
            wanted.
    """
    overwrite = overwrite and not torch.is_grad_enabled()
    if isinstance(conv, PackedConv2d):
        return conv(x, shift, plus, overwrite)
    out = conv(x)
    if shift is not None:
        out = out + shift[:, :, None, None]
    return _sum(out, plus, overwrite)


def _sum(out: Tensor, plus: Tensor | None, overwrite: bool) -> Tensor:
    """Both, in the place of the second if it may be overwritten."""
    if plus is None:
        return out
    return plus.add_(out) if overwrite and plus.dtype == out.dtype else plus + out


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine has it: oneDNN on an x86 processor, in a precision for which it has kernels there."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in OPERATIONS):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


OPERATIONS = (
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_convolution_transpose_pointwise",
    "_linear_pointwise",
)


def pack(network: nn.Module) -> None:
    """Replace the network's layers, in place. Modules of another kind may have a `packed_form` of their own.

    Normalizations get their few parameters in float32, in which their kernels compute.
    """
    _replace(network, _packed_form)
    light = sum(parameter.numel() for parameter in network.parameters()) < HEAVY
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.float()
        elif isinstance(module, PackedConv2d):
            module.divides = light


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


def left_to_pack(network: nn.Module, dtype: torch.dtype, *, afresh: bool = False) -> int:
    """How many numbers more than now the next evaluation will hold beside the weights, at most.

    Args:
        dtype: the network's precision.
        afresh: of a copy of the network in that precision, which holds none yet.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, Packed))
    return sum(max(layer.packs(dtype) - (0 if afresh else layer.held), 0) for layer in layers)


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
