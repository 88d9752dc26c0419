"""Common setup of the tests: few threads, a cache of their own, diffusers as an oracle, and the marker for a GPU."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from types import ModuleType

import pytest
import torch

from restorer.training.torchvision import import_torchvision

CACHE = tempfile.TemporaryDirectory(prefix="restorer-tests-")


def pytest_configure() -> None:
    """Set the cache folder and the number of threads."""
    # Processes that the tests start use this cache too.
    os.environ["XDG_CACHE_HOME"] = CACHE.name
    # The tensors of the tests are small, so that more threads would only wait for each other.
    torch.set_num_threads(min(4, torch.get_num_threads()))


def pytest_unconfigure() -> None:
    """Remove the cache folder."""
    CACHE.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU if there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def diffusers() -> ModuleType:
    """Import the reference implementation; torchvision, which it imports, may need repair first."""
    with suppress(ImportError):
        import_torchvision()
    return pytest.importorskip("diffusers")
