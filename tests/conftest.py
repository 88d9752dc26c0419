"""What the tests share: few threads, a cache of their own, diffusers as an oracle, and the mark of tests for a GPU."""

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
    # What is measured or fetched is kept there, by other processes too.
    os.environ["XDG_CACHE_HOME"] = CACHE.name
    # The tensors here are small: more threads would only wait for one another.
    torch.set_num_threads(min(4, torch.get_num_threads()))


def pytest_unconfigure() -> None:
    CACHE.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def diffusers() -> ModuleType:
    """The reference implementation. It imports torchvision, which may need repair before that."""
    with suppress(ImportError):
        import_torchvision()
    return pytest.importorskip("diffusers")
