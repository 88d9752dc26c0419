"""Layers whose weights lie in memory in the order in which the processor's kernels read them.

oneDNN computes on weights in blocks of its own. PyTorch hands it the plain layout, and every call reorders it: for 256
channels on a 4x4 map the reordering takes about as long as the convolution. The layers here reorder ("prepack") once.
They also compute in one operation what oneDNN can fuse: a convolution with what is added to it, linear layers that
share their input, a convolution of upsampled pixels. The values are those of the plain layers to rounding, because
another kernel sums in another order. docs/explanation/speed.md has the figures.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorer.networks.fast import winograd
from restorer.networks.fast.weight_versions import parameter_version
from restorer.networks.layers import UpsampleConv2d, double_size

__all__ = [
    "JointLinear",
    "PackedConv2d",
    "PackedConvTranspose2d",
    "PackedUpsampleConv2d",
    "Prepacked",
    "can_prepack",
    "unaccelerated",
]

LAYOUT = torch.channels_last
MIN_MULTIPLICATIONS = 50_000_000  # per thread: from here on, halving them outweighs Winograd's transforms
MIN_CHANNELS = 16  # half the harmonic mean of the channels in and out must be at least this for Winograd's algorithm
OPERATIONS = (
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_convolution_transpose_pointwise",
    "_linear_pointwise",
)


class Packed(NamedTuple):
    """Packed weights, and what they were packed for.

    Args:
        key: Versions of the parameters and, where it matters, the shape of the input.
        weight: The packed weight.
        bias: The bias that belongs to it, where the layer computes one of its own.
    """

    key: tuple[Any, ...]
    weight: Tensor
    bias: Tensor | None = None


class Prepacked(nn.Module):
    """Base class of the layers that prepack; they serve evaluation alone and hold the parameters of the plain layer.

    The blocks of a convolution depend on the size of its input, batch included: a kernel that is given weights packed
    for another size takes up to ten times as long. So a layer packs again when the size changes. That costs what a
    plain layer pays at every call, three times that where weights are summed first, and five to twenty-five times that
    where they are transformed. Transforming them takes half the time of the convolution with 256 channels at 32x32
    pixels, and twice its time with 512 channels at 16x16.

    Several threads may use one layer at once. Each computes with the weights it has just looked up or packed itself,
    whatever the others put into the cache meanwhile.
    """

    disabled: ClassVar[bool] = False  # see `unaccelerated`

    def __init__(self) -> None:
        super().__init__()
        self.held = 0  # numbers that the layer holds beside its parameters
        self._cache: Packed | None = None

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return how many numbers the layer will hold at most beside its parameters.

        Args:
            dtype: Precision of the parameters, or the one they would be cast to.
        """
        raise NotImplementedError

    def plain(self) -> nn.Module:
        """Return the layer that this one was made from."""
        raise NotImplementedError

    def _lookup(self, key: tuple[Any, ...], pack: Callable[[], Packed], held: int | None = None) -> Packed:
        """Return the packed weights for a key, packing them if the cache holds others.

        Args:
            key: See `Packed`.
            pack: Function that packs the weights.
            held: Number of the packed numbers; None for the number that `count_packed` returns.
        """
        packed = self._cache
        if packed is None or packed.key != key:
            packed = pack()
            self.held = self.count_packed(packed.weight.dtype) if held is None else held
            self._cache = packed
        return packed


class _PrepackedConvolution(Prepacked):
    """A convolution of any kind.

    Args:
        conv: Convolution on the CPU, without groups, padded with zeros, in a precision that `can_prepack` accepts.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        empty = copy(conv)
        empty._parameters = {"weight": None, "bias": None}
        self._conv = (empty,)  # a tuple, so that it is not registered
        self.weight = conv.weight
        self.bias = conv.bias
        self._shape = [int(p) for p in conv.padding], list(conv.stride), list(conv.dilation)  # for the operations

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return how many numbers the layer will hold; see `Prepacked.count_packed`."""
        return self.weight.numel()

    def plain(self) -> nn.Module:
        """Return the plain convolution with the same parameters."""
        conv = copy(self._conv[0])
        conv._parameters = dict(conv._parameters)
        conv.weight = self.weight
        conv.bias = self.bias
        return conv.train(self.training)

    def _convolve_transposed(self, x: Tensor, weight: Callable[[], Tensor]) -> Tensor:
        """Compute a transposed convolution with the weight (C, K, h, w) that a function returns."""
        padding, stride, dilation = self._shape
        key = (x.shape, *parameter_version(self.weight))

        def pack() -> Packed:
            reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
            return Packed(key, reorder(weight(), padding, [0, 0], stride, dilation, 1, list(x.shape)))

        packed = self._lookup(key, pack).weight
        shape = padding, [0, 0], stride, dilation, 1
        return torch.ops.mkldnn._convolution_transpose_pointwise(x, packed, self.bias, *shape, "none", [], "")


class PackedConv2d(_PrepackedConvolution):
    """A prepacked convolution with the additions of `AddConv2d`.

    In float32, wide 3x3 convolutions are computed by Winograd's algorithm (`winograd.py`).

    Attributes:
        winograd_allowed: Whether Winograd's algorithm may be used.
    """

    winograd_allowed = True

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        out, into, *kernel = conv.weight.shape
        same_size = kernel == [3, 3] and self._shape == ([1, 1], [1, 1], [1, 1])
        self._suits_winograd = same_size and out * into >= MIN_CHANNELS * (out + into)

    def forward(
        self, x: Tensor, shift: Tensor | None = None, other: Tensor | None = None, *, overwrite: bool = False
    ) -> Tensor:
        """Return conv(x) + shift + other; see `AddConv2d`. A shift that the whole batch shares joins the bias."""
        bias: Tensor | None = self._parameters.get("bias")  # attribute access would take as long as a small operation
        if shift is not None and len(shift) == 1:
            bias, shift = shift[0] if bias is None else bias + shift[0], None
        overwrite = overwrite and not torch.is_grad_enabled()
        if overwrite and other is not None:
            overwrite = other.dtype == x.dtype == self.weight.dtype and other.is_contiguous(memory_format=LAYOUT)
        out = self._convolve(x, bias, other, overwrite)
        return out if shift is None else out + shift[:, :, None, None]

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return how many numbers the layer will hold: twice the weight where Winograd's algorithm may be used."""
        transformed = dtype == torch.float32 and self.winograd_allowed and self._suits_winograd
        return self.weight.numel() * (2 if transformed else 1)

    def _winograd_rows(self, x: Tensor, weight: Tensor) -> int:
        """Return how many rows of this input Winograd's algorithm takes at a time; 0 where a direct sum is better.

        A direct sum is better in lower precisions, in which the transforms would lose exactness and gain less.
        """
        exact = x.dtype == torch.float32 and weight.dtype == torch.float32
        if not exact or not self._suits_winograd or not self.winograd_allowed or x.shape[-1] % winograd.OUTPUTS:
            return 0
        enough = weight.numel() * x.numel() >= MIN_MULTIPLICATIONS * torch.get_num_threads() * x.shape[1]
        return winograd.strip_rows(x, len(weight)) if enough and not torch.is_grad_enabled() else 0

    def _convolve(self, x: Tensor, bias: Tensor | None, other: Tensor | None, overwrite: bool) -> Tensor:
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        padding, stride, dilation = self._shape
        if Prepacked.disabled:
            return _add(F.conv2d(x, weight, bias, stride, padding, dilation), other, overwrite)
        if rows := self._winograd_rows(x, weight):
            return self._convolve_in_strips(x.contiguous(memory_format=LAYOUT), rows, bias, other, overwrite)
        key, packed = (x.shape, parameter_version(weight)), self._cache
        if packed is None or packed.key != key:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            shape = (*self._shape, 1, list(x.shape))
            packed = self._lookup(key, lambda: Packed(key, reorder(weight, *shape)), weight.numel())
        operations = torch.ops.mkldnn
        if other is None or other.shape[2] == other.shape[3] == 1:  # older versions of PyTorch add no maps of one pixel
            convolve = operations._convolution_pointwise.default
            out = convolve(x, packed.weight, bias, padding, stride, dilation, 1, "none", [], "")
            return _add(out, other, overwrite)
        rest: Any = packed.weight, bias, padding, stride, dilation, 1, "add", 1.0, None, [], None
        if overwrite:
            return operations._convolution_pointwise_.binary(other, x, *rest)
        return operations._convolution_pointwise.binary(x, other, *rest)

    def _convolve_in_strips(
        self, x: Tensor, rows: int, bias: Tensor | None, other: Tensor | None, overwrite: bool
    ) -> Tensor:
        """Convolve by Winograd's algorithm, `rows` rows at a time."""
        seen, padding = winograd.strip_shape(x, rows)
        shape = padding, [1, 1], [1, 1], winograd.POINTS
        key = (*seen, parameter_version(self.weight))

        def pack() -> Packed:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            return Packed(key, reorder(winograd.transform_weight(self.weight), *shape, seen))

        packed = self._lookup(key, pack, 2 * self.weight.numel()).weight
        bias = winograd.transform_bias(bias)

        def multiply(maps: Tensor) -> Tensor:
            return torch.ops.mkldnn._convolution_pointwise(maps, packed, bias, *shape, "none", [], "")

        result = other if other is not None and overwrite else None
        return winograd.convolve_in_strips(x, rows, multiply, other, result)


class PackedConvTranspose2d(_PrepackedConvolution):
    """A prepacked transposed convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (B, C, H, W) -> (B, K, H', W')."""
        if Prepacked.disabled:
            padding, stride, dilation = self._shape
            return F.conv_transpose2d(x, self.weight, self.bias, stride, padding, dilation=dilation)
        return self._convolve_transposed(x, lambda: self.weight)


class PackedUpsampleConv2d(_PrepackedConvolution):
    """A prepacked `UpsampleConv2d`, as one transposed 4x4 convolution.

    Three neighbours among upsampled pixels are two pixels, so a transposed convolution gives the same result with 4
    multiplications instead of 9. Its weights are sums of those that meet the same pixel.
    """

    def __init__(self, conv: UpsampleConv2d) -> None:
        super().__init__(conv)
        self._shape = [1, 1], [2, 2], [1, 1]  # of the transposed convolution

    def forward(self, x: Tensor) -> Tensor:
        """Upsample and convolve: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        if Prepacked.disabled:
            return F.conv2d(double_size(x), self.weight, self.bias, padding=1)
        return self._convolve_transposed(x, self._summed_weight)

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return how many numbers the layer will hold: a 4x4 kernel for each 3x3 kernel."""
        return self.weight.numel() * 16 // 9

    def _summed_weight(self) -> Tensor:
        """Return the weight of the transposed convolution, (C, K, 4, 4)."""
        kernel = F.pad(self.weight.float(), (1, 1, 1, 1))
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[..., 1:] + kernel[..., :-1]
        return kernel.flip(2, 3).transpose(0, 1).to(self.weight.dtype)


class JointLinear(Prepacked):
    """Several linear layers of one input, computed as one product. The layers stay registered with their owners.

    Args:
        layers: At least one linear layer with a bias, all with the same number of input features.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.layers = layers  # a tuple, so that they are not registered twice

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the output of every layer for features (..., F)."""
        weights: list[Tensor] = [layer.weight for layer in self.layers]
        biases: list[Tensor] = [layer.bias for layer in self.layers]
        if Prepacked.disabled or x.dtype != weights[0].dtype:  # the precisions differ under autocast
            return [layer(x) for layer in self.layers]
        key = (*map(parameter_version, weights), *map(parameter_version, biases))

        def pack() -> Packed:
            return Packed(key, torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights)), torch.cat(biases))

        packed = self._lookup(key, pack)
        out = torch.ops.mkldnn._linear_pointwise(x, packed.weight, packed.bias, "none", [], "")
        return list(out.split([len(weight) for weight in weights], dim=-1))

    def count_packed(self, dtype: torch.dtype) -> int:
        """Return how many numbers the layers will hold; see `Prepacked.count_packed`."""
        return sum(layer.weight.numel() + len(layer.bias) for layer in self.layers)


def _add(out: Tensor, other: Tensor | None, overwrite: bool) -> Tensor:
    """Add a map to a result, in place of the map where that may be overwritten."""
    if other is None:
        return out
    return other.add_(out) if overwrite and other.dtype == out.dtype else other + out


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether this machine prepacks: oneDNN on an x86 processor that has kernels for the precision."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in OPERATIONS):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


@contextmanager
def unaccelerated() -> Iterator[None]:
    """Let networks compute as they are written within the block: nothing is prepacked, and no recording is replayed."""
    Prepacked.disabled = True
    try:
        yield
    finally:
        Prepacked.disabled = False
