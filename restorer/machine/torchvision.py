"""Import of torchvision, even where its compiled operators do not fit the installed PyTorch.

A torchvision built for CUDA cannot be imported beside a CPU build of PyTorch: it registers a fake implementation of an
operator that its own library would define, but that library failed to load. Once the two operators are declared,
everything that is plain Python works (transforms, datasets, make_grid); the compiled operators still raise an error
when they are called. Restoring a picture uses this module only for the networks of `--start`. Otherwise it serves
training, measuring and the tests.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

__all__ = ["import_torchvision"]

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Import torchvision, repaired if necessary, and return the module.

    Call this function before importing any package that imports torchvision.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError:
        # The operators are declared only after the failure, because a library that does load defines them itself.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", NMS)
        import torchvision
    return torchvision
