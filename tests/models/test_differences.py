"""Networks that are stored as their difference from another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from restorer.errors import ModelError
from restorer.models.differences import add_difference, write_difference


def weights(seed: int, size: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (6, 5, 3, 3), "conv.bias": (6,), "linear.weight": (4, 7)}
    return {name: size * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_weights_return_to_within_half_a_step_of_their_output(tmp_path: Path) -> None:
    original = weights(0)
    changes = weights(1, 0.01)
    changed = {name: weight + changes[name] for name, weight in original.items()}
    write_difference(tmp_path / "d.safetensors", changed, original)
    read = add_difference(tmp_path / "d.safetensors", original)
    assert set(read) == set(changed)
    for name in ("conv.weight", "linear.weight"):
        difference = (changed[name] - original[name]).flatten(1)
        half_a_step = difference.abs().amax(1, keepdim=True) / 127 / 2
        assert ((read[name] - changed[name]).flatten(1).abs() <= 1.001 * half_a_step + 1e-7).all()
    torch.testing.assert_close(read["conv.bias"], changed["conv.bias"].half().float(), rtol=0, atol=0)


def test_an_output_that_has_not_changed_stays_as_it_is(tmp_path: Path) -> None:
    original = weights(0)
    write_difference(tmp_path / "d.safetensors", original, original)
    read = add_difference(tmp_path / "d.safetensors", original)
    assert torch.equal(read["conv.weight"], original["conv.weight"])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    original = weights(0)
    other = {**original, "conv.weight": torch.zeros(6, 5, 1, 1)}
    with pytest.raises(ModelError, match="same names and shapes"):
        write_difference(tmp_path / "d.safetensors", other, original)
    write_difference(tmp_path / "d.safetensors", original, original)
    with pytest.raises(ModelError, match="same names and shapes"):
        add_difference(tmp_path / "d.safetensors", other)


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!"])
def test_files_that_are_missing_or_damaged_are_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"d\.safetensors"):
        add_difference(path, weights(0))
