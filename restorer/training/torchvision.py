"""torchvision, even where its compiled operators do not fit the installed PyTorch.

A torchvision built for CUDA cannot be imported beside a CPU build of PyTorch: it registers a fake for an operator that
its own library, which failed to load, was to define. Declaring the two operators lets everything that is plain Python
(transforms, datasets, make_grid) work; the compiled ones still raise when called. Nothing on the way of restoring a
picture uses this: it serves training and the tests.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

__all__ = ["import_torchvision"]

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """The torchvision module, repaired if need be. Call it before importing any package that imports torchvision.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError:
        # Only after the failure: where the library does load, it defines the operators itself.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", NMS)
        import torchvision
    return torchvision
