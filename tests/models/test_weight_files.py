"""Weights files: good files of every format are read unchanged. test_hostile.py tests the bad ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hub_broken import system_call
from safetensors.torch import save_file

from restorer.errors import ModelError
from restorer.models import weight_files
from restorer.models.weight_files import check_finite, printable, read_weights

GOOD = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


@pytest.mark.parametrize("form", ["safetensors", "zip", "before 1.6"])
def test_good_files(tmp_path: Path, form: str) -> None:
    path = tmp_path / "x.bin"
    if form == "safetensors":
        save_file(GOOD, path)
    else:
        torch.save(GOOD, path, _use_new_zipfile_serialization=form == "zip")
    found = read_weights(path)
    assert found.keys() == GOOD.keys()
    for name, value in GOOD.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    check_finite(path, found)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    state = {**GOOD, "c.bias": torch.tensor([1.0, value])}
    with pytest.raises(ModelError, match=r"c\.bias"):
        check_finite(tmp_path / "x", state)


def test_strangers_text_is_made_plain() -> None:
    assert printable("a\x1b[31m\nb\u202e") == "a?[31m?b?" and len(printable("x" * 1000)) == 80


@pytest.mark.parametrize("zipped", [True, False])
def test_what_passes_the_scan_meets_a_second_barrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    """PyTorch refuses the file itself, and its advice to switch the check off is not passed on."""
    monkeypatch.setattr(weight_files, "ALLOWED_GLOBALS", re.compile(".*"))
    torch.save(system_call(tmp_path / "trap"), tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="is refused: it is not a plain table of tensors") as caught:
        read_weights(tmp_path / "x.bin")
    assert "weights_only" not in f"{caught.value} {caught.value.hint}" and not (tmp_path / "trap").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match=path.name):
            read_weights(path)
