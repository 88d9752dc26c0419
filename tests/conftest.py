"""Common setup of the tests: few threads, a cache of their own, diffusers as an oracle, and the marker for a GPU."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import torch

from restorer.machine.torchvision import import_torchvision

TESTS = Path(__file__).resolve().parent
NUMBERS = ("networks", "priors", "models/test_hub_layouts.py", "models/test_guided_diffusion.py")  # see pyproject.toml
CACHE = tempfile.TemporaryDirectory(prefix="restorer-tests-")


def pytest_configure() -> None:
    """Set the cache folder and the number of threads."""
    # Processes that the tests start use this cache too.
    os.environ["XDG_CACHE_HOME"] = CACHE.name
    # The tensors of the tests are small, so that more threads would only wait for each other. Processes that run tests
    # side by side share the cores. Started processes take as many threads, because some bytes depend on their number.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(4, torch.get_num_threads() // workers)))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def pytest_unconfigure() -> None:
    """Remove the cache folder."""
    CACHE.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that compare numbers of kernels, and skip those that need a GPU if there is none."""
    for item in items:
        if any(item.path.is_relative_to(TESTS / place) for place in NUMBERS):
            item.add_marker("numbers")
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
