"""Weights files from strangers: whatever is not a plain table of numbers is refused in one line, and nothing runs."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from restorer.errors import ModelError
from restorer.priors.weights import check_finite, plain, read_weights

GOOD = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call[0], self.call[1:]


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert str(path) in message and message.isprintable() and caught.value.hint.isprintable() and len(message) < 700
    return message


# -- good files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["safetensors", "zip", "before 1.6"])
def test_good_files(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.bin"
    if how == "safetensors":
        save_file(GOOD, path)
    else:
        torch.save(GOOD, path, _use_new_zipfile_serialization=how == "zip")
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
    assert plain("a\x1b[31m\nb\u202e") == "a?[31m?b?" and len(plain("x" * 1000)) == 80


# -- pickles that ask for more -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (lambda trap: {"a": Evil(os.system, f"touch {trap}")}, r"(posix|nt)\.system"),
        (lambda trap: {"a": Evil(eval, "1")}, r"\.eval"),
        (lambda trap: {"a": Evil(Path, str(trap))}, "pathlib"),
        (lambda trap: {"a": Evil(bytearray, 2**40)}, "bytearray"),
        (lambda trap: {"state_dict": GOOD, "args": argparse.Namespace(a=1)}, r"argparse\.Namespace"),
        (lambda trap: nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (lambda trap: {"a": torch.ones(2, 2).to_sparse()}, "sparse"),
        (lambda trap: {"a": torch.nested.nested_tensor([torch.ones(2)])}, "nested"),
    ],
    ids=["system", "eval", "path", "bytearray", "namespace", "module", "sparse", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_pickle_asks_for_is_named(
    tmp_path: Path, content: Callable[[Path], Any], culprit: str, zipped: bool
) -> None:
    path, trap = tmp_path / "x.bin", tmp_path / "trap"
    torch.save(content(trap), path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert re.search(culprit, message), message
    assert not trap.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_by_other_hands(tmp_path: Path, protocol: int) -> None:
    """In the zip file of torch.save, but of any protocol; and bare, without its magic number."""
    path, trap = tmp_path / "x.bin", tmp_path / "trap"
    evil = pickle.dumps(Evil(os.system, f"touch {trap}"), protocol)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", evil)
        archive.writestr("archive/version", "3\n")
    assert "posix" in refused(path) or "nt" in refused(path)
    path.write_bytes(evil)
    refused(path)
    assert not trap.exists()


def test_a_name_that_steers_a_terminal(tmp_path: Path) -> None:
    torch.save({"a\x1b[2J\n[red]": 3}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")


# -- files that claim more than they hold ------------------------------------------------------------------------------


def repeated() -> dict[str, Any]:
    return {"a": torch.ones(1).expand(2**30)}


def shared() -> dict[str, Any]:
    block = torch.ones(1000)
    return {str(k): block for k in range(2000)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [repeated, shared])
def test_a_few_bytes_that_claim_gigabytes(tmp_path: Path, content: Callable[[], Any], zipped: bool) -> None:
    path = tmp_path / "x.bin"
    torch.save(content(), path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 200_000
    assert "claims" in refused(path)


def rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> None:
    torch.save(GOOD, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(*change(name, content))


def safetensors(header: Any, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def entry(shape: list[int], end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


BROKEN: dict[str, Callable[[Path], object]] = {
    "compressed": lambda p: rewritten(p, lambda n, c: (n, c), zipfile.ZIP_DEFLATED),
    "a pickle that unfolds": lambda p: rewritten(
        p, lambda n, c: (n, b"0" * 2**24 if n.endswith("pkl") else c), zipfile.ZIP_DEFLATED
    ),
    "a large pickle": lambda p: rewritten(p, lambda n, c: (n, b"N" * 2**24 if n.endswith("pkl") else c)),
    "no pickle": lambda p: rewritten(p, lambda n, c: (n.replace("data.pkl", "other.pkl"), c)),
    "half a pickle": lambda p: rewritten(p, lambda n, c: (n, c[: len(c) // 2] if n.endswith("pkl") else c)),
    "an empty pickle": lambda p: rewritten(p, lambda n, c: (n, b"" if n.endswith("pkl") else c)),
    "numbers missing": lambda p: rewritten(p, lambda n, c: (n.replace("data/0", "data/7"), c)),
    "numbers cut": lambda p: rewritten(p, lambda n, c: (n, c[:4] if n.endswith("data/0") else c)),
    "zip cut": lambda p: (torch.save(GOOD, p), p.write_bytes(p.read_bytes()[:-60])),
    "old format cut": lambda p: (
        torch.save(GOOD, p, _use_new_zipfile_serialization=False),
        p.write_bytes(p.read_bytes()[:-10]),
    ),
    "old format, head alone": lambda p: (
        torch.save(GOOD, p, _use_new_zipfile_serialization=False),
        p.write_bytes(p.read_bytes()[:40]),
    ),
    "an empty zip": lambda p: zipfile.ZipFile(p, "w").close(),
    "a zip of something else": lambda p: rewritten(p, lambda n, c: ("readme.txt", b"hello")),
    "a list": lambda p: torch.save([torch.ones(2)], p),
    "one tensor": lambda p: torch.save(torch.ones(2), p),
    "nothing": lambda p: torch.save({}, p),
    "numbers for names": lambda p: torch.save({1: torch.ones(2)}, p),
    "words for weights": lambda p: torch.save({"a": "b"}, p),
    "integers": lambda p: torch.save({"a": torch.ones(2, dtype=torch.int64)}, p),
    "complex": lambda p: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, p),
    "eight bits": lambda p: save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, p),
    "too many": lambda p: torch.save({str(k): torch.zeros(0) for k in range(20_001)}, p),
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(b"\0" * 4096),
    "a page of a server": lambda p: p.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>"),
    "a pointer of Git LFS": lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "a header of exabytes": lambda p: p.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "a header of 20 MB": lambda p: p.write_bytes(safetensors(b"{" + b" " * (20 << 20) + b"}")),
    "a header that is no JSON": lambda p: p.write_bytes(safetensors(b"{a}")),
    "a deep header": lambda p: p.write_bytes(safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000)),
    "a header without its numbers": lambda p: p.write_bytes(safetensors({"a": entry([2**30], 2**32)})),
    "a shape that overflows": lambda p: p.write_bytes(safetensors({"a": entry([2**62, 2**62], 8)}, bytes(8))),
    "a negative shape": lambda p: p.write_bytes(safetensors({"a": entry([-2], 8)}, bytes(8))),
    "a shape of another size": lambda p: p.write_bytes(safetensors({"a": entry([3], 8)}, bytes(8))),
    "numbers twice": lambda p: p.write_bytes(safetensors({k: entry([2], 8) for k in "ab"}, bytes(8))),
    "an unknown type": lambda p: p.write_bytes(safetensors({"a": entry([2], 8, "Q32")}, bytes(8))),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
@pytest.mark.filterwarnings("ignore")
def test_broken_files(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "x.bin"
    make(path)
    refused(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "missing" in refused(tmp_path / "nowhere")
    refused(tmp_path)


HOSTILE = ("a pickle that unfolds", "a header of 20 MB", "a shape that overflows", "numbers cut", "too many")


def test_refusing_takes_little_memory(tmp_path: Path) -> None:
    """All of them in a process of its own, whose largest size is under 1 GB: PyTorch alone takes 0.3."""
    for k, name in enumerate(HOSTILE):
        BROKEN[name](tmp_path / f"{k}.bin")
    torch.save(repeated(), tmp_path / "repeated.bin")
    torch.save(repeated(), tmp_path / "repeated-old.bin", _use_new_zipfile_serialization=False)
    program = f"""
import pathlib, resource
from restorer.errors import ModelError
from restorer.priors.weights import read_weights
refusals = 0
for path in sorted(pathlib.Path({str(tmp_path)!r}).glob("*.bin")):
    try:
        read_weights(path)
    except ModelError:
        refusals += 1
status = pathlib.Path("/proc/self/status")
# Linux counts what the parent held before exec into ru_maxrss; VmHWM is this program's own.
lines = status.read_text().splitlines() if status.exists() else []
own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print(refusals, *(own or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    refusals, size = map(int, run.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    assert refusals == len(HOSTILE) + 2 and size * unit < 1e9
