"""Networks of other programs that restore in a single pass, built by the library spandrel from their weights alone.

Spandrel (https://github.com/chaiNNer-org/spandrel, MIT) recognizes the architecture of a network by the names of its
weights, and derives its shape from theirs. The weights are read here, as untrusted input (weight_files.py), and never
by spandrel. A file of a few bytes could describe a network of any size, so the numbers that a network allocates while
it is built are counted, and a network that needs many more than its file holds is refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from restorer.errors import ModelError
from restorer.machine.torchvision import import_torchvision
from restorer.models.foreign import recognize
from restorer.models.weight_files import FLOATS, WHOLE_NUMBERS, check_finite, printable, read_weights

__all__ = ["INSTALL_HINT", "import_spandrel", "read_network"]

INSTALL_HINT = "install it with: pip install 'restorer[spandrel]'"
UNKNOWN_HINT = (
    "--start takes networks that enlarge or repair in a single pass and that spandrel reads, as .pth or .safetensors"
)

# The keys under which such files hold their weights, in the order in which spandrel looks for them.
STATE_KEYS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
MAX_NUMBERS = 1_500_000_000  # numbers of a network, as in `restorer.models.checkpoints`
# What a network may allocate while it is built: a multiple of what its file holds, and tables that no file holds.
MOST_TIMES, TABLES = 4, 16_000_000
MANY_LAYERS = re.compile(r"(^|\.)\d{5,}(\.|$)")  # spandrel takes the largest number in the names for that of the layers


def import_spandrel() -> Any:
    """Import spandrel, after a repair of torchvision where that is needed, and return the module.

    Raises:
        ModelError: Spandrel, or what it needs, is not installed.
    """
    try:
        import_torchvision()
        return importlib.import_module("spandrel")
    except ImportError as error:
        raise ModelError("other people's networks need the package spandrel, which is missing", INSTALL_HINT) from error


def read_network(path: Path) -> Any:
    """Read a network of another program.

    Args:
        path: The weights file.

    Returns:
        The network as spandrel describes it (`spandrel.ModelDescriptor`), on the CPU in float32.

    Raises:
        ModelError: The file is absent, damaged or hostile, spandrel does not know the network, or it is not installed.
    """
    spandrel = import_spandrel()
    try:
        state = read_weights(path, keys=STATE_KEYS, prefixes=(), kinds=(*FLOATS, *WHOLE_NUMBERS))
        _check_size(path, state)
        check_finite(path, state)
        return _build(spandrel, path, state)
    except ModelError as error:
        if (kind := recognize(path)) is not None and not kind.endswith("in a single pass"):
            raise ModelError(f"{path} cannot be a start: it is {kind}", UNKNOWN_HINT) from error
        raise


def _check_size(path: Path, state: Mapping[str, Tensor]) -> None:
    """Check that the weights describe a network of a plausible size."""
    if (numbers := sum(weight.numel() for weight in state.values())) > MAX_NUMBERS:
        raise ModelError(f"{path} holds {numbers:,} numbers; a start has {MAX_NUMBERS:,} at most")
    if wrong := next((name for name in state if MANY_LAYERS.search(name)), None):
        raise ModelError(f"{path} names a layer that no network has: {printable(wrong)}")


def _build(spandrel: Any, path: Path, state: dict[str, Tensor]) -> Any:
    """Return the network of weights that have been checked."""
    most = MOST_TIMES * sum(weight.numel() for weight in state.values()) + TABLES
    try:
        with _Bounded(most):
            network = spandrel.MAIN_REGISTRY.load(state)
    except _TooLargeError as error:
        raise ModelError(f"{path} describes a network that is much larger than the weights in the file") from error
    except spandrel.UnsupportedModelError as error:
        raise ModelError(f"{path} is not a network that spandrel knows", UNKNOWN_HINT) from error
    except Exception as error:  # The shape of a network is derived from its weights, so that anything may go wrong.
        reason = printable(" ".join(str(error).split()) or type(error).__name__, 200)
        raise ModelError(f"{path} describes a network that cannot be built: {reason}", UNKNOWN_HINT) from error
    network.model.requires_grad_(False)
    return network.eval().float()


class _TooLargeError(Exception):
    """A network allocates more than it may."""


class _Bounded(TorchDispatchMode):
    """A context in which new tensors may hold only so many numbers together.

    Args:
        most: The largest number of numbers.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what an operator is about to create, and run it."""
        options = kwargs or {}
        creates = not any(isinstance(value, Tensor) for value in (*args, *options.values()))
        if creates and any(argument.name == "device" for argument in func._schema.arguments):
            # On the device "meta" the result has a shape and takes no memory.
            self._count(func(*args, **{**options, "device": torch.device("meta")}))
            return func(*args, **options)
        result = func(*args, **options)
        self._check(result)
        return result

    def _count(self, created: Any) -> None:
        for tensor in _tensors(created):
            self._left -= tensor.numel()
        if self._left < 0:
            raise _TooLargeError

    def _check(self, result: Any) -> None:
        if any(tensor.numel() > max(self._left, TABLES) for tensor in _tensors(result)):
            raise _TooLargeError


def _tensors(value: Any) -> list[Tensor]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [one for one in values if isinstance(one, Tensor)]
