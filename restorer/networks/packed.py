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

ANY_SIZE = 64  # of the map that the layout is asked for: it is the same for all


class PackedConv2d(nn.Module):
    """A convolution for evaluation alone; its state dict is that of the `nn.Conv2d` it was made of.

    Args:
        conv: on the CPU, without groups, padded with zeros, in a precision that `can_pack` has said yes to.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = conv.in_channels, conv.out_channels, conv.kernel_size
        self.bias = conv.bias
        # As lists: the operation's own kind, so that no call converts them.
        self._shape = (_numbers(conv.padding), list(conv.stride), list(conv.dilation))
        self._pack(conv.weight.detach())

    @property
    def weight(self) -> Tensor:
        """In the plain layout, (C_out, C_in, h, w): a copy."""
        return self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        padding, stride, dilation = self._shape
        operation = torch.ops.mkldnn._convolution_pointwise
        return operation(x, self._packed, self.bias, padding, stride, dilation, 1, "none", [], "")

    def unpacked(self) -> nn.Conv2d:
        """The layer it was made of."""
        padding, stride, dilation = map(tuple, self._shape)
        conv = nn.utils.skip_init(
            nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=self.bias is not None,
            dtype=self._packed.dtype,
        )
        conv.weight = nn.Parameter(self.weight, requires_grad=False)
        conv.bias = self.bias
        return conv.train(self.training)

    def _pack(self, weight: Tensor) -> None:
        padding, stride, dilation = self._shape
        seen = [1, weight.shape[1], ANY_SIZE, ANY_SIZE]
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, 1, seen)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "weight"
        weight, shape = state_dict.get(key), self._packed.shape
        if weight is None:
            missing_keys.append(key)
        elif weight.shape != shape:
            error_msgs.append(f"size mismatch for {key}: {tuple(weight.shape)} in place of {tuple(shape)}")
        else:
            self._pack(weight.to(self._packed.dtype))
        others = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(  # type: ignore[no-untyped-call]
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _numbers(padding: str | tuple[int, ...]) -> list[int]:
    if isinstance(padding, str):
        raise ValueError("the padding is given in pixels")
    return list(padding)


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
