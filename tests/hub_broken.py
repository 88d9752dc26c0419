"""Broken and malicious weights: by name, a function that breaks a good file, and a part of the expected message.

The functions in `WEIGHT_FILES` are applied to a folder that holds a good model. If a function returns a path, that path
is the model to load in place of the folder. A malicious file that succeeded would leave a file named `trap` in the
folder.
"""

from __future__ import annotations

import argparse
import builtins
import copyreg
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    *("CONFIG", "INDEX", "PICKLED", "SCHEDULER", "WEIGHTS", "WEIGHT_FILES", "Break", "fields", "guided", "rename_file"),
    *("replace_by_folder", "shards", "system_call", "write_file"),
]

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
WEIGHTS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
Break = Callable[[Path], object]


class Evil:
    """An object that makes a call when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call[0], self.call[1:]


# -- ways to break a file ----------------------------------------------------------------------------------------------
# Each of these functions breaks a file of the folder, or returns a function that does so.


def write_file(name: str, content: bytes) -> Break:
    """Write these bytes to a file of the folder."""
    return lambda folder: (folder / name).write_bytes(content)


def fields(name: str, **new: Any) -> Break:
    """Change fields of a JSON file, which is created if it is absent."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **new}))

    return edit


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Break:
    """Change the table of weights."""

    def edit(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS)

    return edit


def pickled(content: Callable[[Path], Any], *, zipped: bool = True) -> Break:
    """Replace the weights by a pickle.

    Args:
        content: Returns the content of the pickle for a given path of the trap.
        zipped: Whether the file has the format of today; else it has the format from before torch 1.6.
    """

    def write(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(content(folder / "trap"), folder / PICKLED, _use_new_zipfile_serialization=zipped)

    return write


def cut(keep: int, *, zipped: bool) -> Break:
    """Replace the weights by the first `keep` bytes of a good pickle."""

    def write(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        pickled(lambda trap: state, zipped=zipped)(folder)
        (folder / PICKLED).write_bytes((folder / PICKLED).read_bytes()[:keep])

    return write


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Break:
    """Replace the weights by a zip file of these entries."""

    def write(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        with zipfile.ZipFile(folder / PICKLED, "w", method) as file:
            for name, content in entries.items():
                file.writestr(name, content)

    return write


def rezipped(change: Callable[[str, bytes], tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Break:
    """Replace the weights by a file of torch.save whose entries are changed."""

    def write(folder: Path) -> None:
        good = io.BytesIO()
        torch.save(load_file(folder / WEIGHTS), good)
        with zipfile.ZipFile(good) as file:
            archive(dict(change(name, file.read(name)) for name in file.namelist()), method)(folder)

    return write


def overlapping(folder: Path) -> None:
    """Replace the weights by a zip file in which a thousand names stand for the same bytes."""
    content = tensor_pickle(250, (1000, 250), (0, 1))
    archive({"archive/data.pkl": content, "archive/version": b"3\n", "archive/data/0": bytes(1000)})(folder)
    with zipfile.ZipFile(folder / PICKLED, "a") as file:
        entry = file.getinfo("archive/data/0")
        for k in range(1, 1000):
            again = zipfile.ZipInfo(f"archive/data/{k}")
            again.header_offset, again.file_size, again.compress_size = entry.header_offset, 1000, 1000
            again.CRC = entry.CRC
            file.filelist.append(again)
        file._didModify = True  # type: ignore[attr-defined]


def safetensors(header: Any, numbers: bytes = b"") -> Break:
    """Replace the weights by a safetensors file with this header and these numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return write_file(WEIGHTS, len(text).to_bytes(8, "little") + text + numbers)


def entry(shape: list[int], end: int, dtype: str = "F32") -> dict[str, Any]:
    """Return the entry of one tensor in a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


class _Storage:
    """A stand-in for a storage, which torch.save keeps outside the pickle."""


def tensor_pickle(count: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, *rest: None) -> bytes:
    """Return the pickle of one tensor with the given shape in a storage that claims `count` numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", count, *rest) if isinstance(value, _Storage) else None

    tensor = Evil(torch._utils._rebuild_tensor_v2, _Storage(), offset, shape, stride, False, OrderedDict())
    stream = io.BytesIO()
    Pickler(stream, 2).dump({"conv_in.weight": tensor})
    return stream.getvalue()


def oversized_claim(*tensor: Any, **options: Any) -> Break:
    """Replace the weights by a zip file with 250 numbers and a pickle of `tensor_pickle` that may claim more."""
    entries = {"archive/data.pkl": tensor_pickle(*tensor, **options), "archive/version": b"3\n"}
    return archive({**entries, "archive/data/0": bytes(1000)})


def oversized_legacy_claim(count: int) -> Break:
    """Replace the weights by a file in the format before torch 1.6 that claims `count` numbers and holds 250."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, system)
    parts = [*(pickle.dumps(head, 2) for head in heads), tensor_pickle(count, (count,), (1,), 0, None)]
    return write_file(WEIGHTS, b"".join([*parts, pickle.dumps(["0"], 2), count.to_bytes(8, "little"), bytes(1000)]))


def system_call_pickle(protocol: int) -> Break:
    """Replace the weights by a zip file in the format of torch.save whose pickle calls os.system."""

    def write(folder: Path) -> None:
        evil = pickle.dumps(Evil(os.system, f"touch {folder / 'trap'}"), protocol)
        archive({"archive/data.pkl": evil, "archive/version": b"3\n"})(folder)

    return write


LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)  # the first bytes of a file from before torch 1.6
# os.system, assembled from the memo and preceded by a harmless name.
HIDDEN = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94h\x00h\x01\x93."


def torchscript(folder: Path) -> None:
    """Replace the weights by a TorchScript file."""
    (folder / WEIGHTS).unlink()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), folder / PICKLED)


def guided(change: dict[str, Tensor | None], options: bytes | None = None) -> Break:
    """Write a raw file with the names of guided-diffusion, and optionally the JSON file beside it."""

    def write(folder: Path) -> Path:
        state: dict[str, Any] = {
            "time_embed.0.weight": torch.zeros(128, 32),
            "input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3),
            **change,
        }
        torch.save({k: v for k, v in state.items() if v is not None}, folder / "model.pt")
        if options is not None:
            (folder / "model.pt.json").write_bytes(options)
        return folder / "model.pt"

    return write


def rename_file(name: str, to: str) -> Break:
    """Rename a file of the folder."""
    return lambda folder: (folder / name).rename(folder / to) and None


def replace_by_folder(name: str) -> Break:
    """Replace a file by a folder of the same name."""

    def write(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return write


def shards(folder: Path) -> None:
    """Split the weights into shards whose names lead out of the folder."""
    (folder.parent / "outside.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    names = dict.fromkeys(["conv_in.weight"], "../outside.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


# -- the files ---------------------------------------------------------------------------------------------------------


def system_call(trap: Path) -> Any:
    """Return an object that leaves a trap behind when it is unpickled."""
    return {"a": Evil(os.system, f"touch {trap}")}


MALICIOUS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "system": (system_call, r"(posix|nt)\.system"),
    "eval": (lambda trap: {"a": Evil(eval, f"open({str(trap)!r}, 'w')")}, r"builtin(s|__)\.eval"),
    "exec": (lambda trap: {"a": Evil(exec, f"open({str(trap)!r}, 'w')")}, r"builtin(s|__)\.exec"),
    "getattr": (lambda trap: {"a": Evil(getattr, "", "join")}, r"builtin(s|__)\.getattr"),
    "open": (lambda trap: {"a": Evil(builtins.open, str(trap), "w")}, r"io\.open|builtin"),
    "path": (lambda trap: {"a": Evil(Path, str(trap))}, "pathlib"),
    "bytearray": (lambda trap: {"a": Evil(bytearray, 2**40)}, "bytearray"),
    "reconstructor": (lambda trap: {"a": Evil(copyreg._reconstructor, object, object, None)}, "copy_?reg"),  # type: ignore[attr-defined]
    "namespace": (lambda trap: {"state_dict": {}, "args": argparse.Namespace(a=1)}, r"argparse\.Namespace"),
    "module": (lambda trap: nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
    "nested": (lambda trap: {"a": torch.nested.nested_tensor([torch.ones(2)])}, "nested"),
    "sparse": (lambda trap: {"a": torch.ones(2, 2).to_sparse()}, "sparse"),
}
REPEATED = {"a": torch.ones(1).expand(2**30)}


def _shared() -> dict[str, Tensor]:
    block = torch.ones(1000)
    return {str(k): block for k in range(2000)}


WEIGHT_FILES: dict[str, tuple[Break, str]] = {
    # Numbers that are not finite, and weights of another network.
    "nan": (tensors(lambda s: s["conv_in.weight"].view(-1)[3:4].fill_(torch.nan)), "not finite, in conv_in.weight"),
    "inf": (tensors(lambda s: s["conv_out.bias"][0:1].fill_(torch.inf)), "not finite, in conv_out.bias"),
    "one too few": (tensors(lambda s: s.pop("conv_in.bias")), "conv_in.bias"),
    "one too many": (tensors(lambda s: s.update(extra=torch.zeros(2))), "extra"),
    "a name that steers": (
        tensors(lambda s: s.update({"a\x1b[2J\n[bold red]b[/]": torch.zeros(2)})), r"a\?\[2J\?\[bold red\]b\[/\]"
    ),
    "another shape": (tensors(lambda s: s.update({"conv_in.bias": torch.zeros(9)})), "conv_in.bias"),
    "none": (tensors(dict.clear), "does not fit"),
    "integers": (tensors(lambda s: s.update({k: v.long() for k, v in s.items()})), "not floating-point"),
    "complex": (tensors(lambda s: s.update({k: v.to(torch.complex64) for k, v in s.items()})), "not floating-point"),
    "eight bits": (
        tensors(lambda s: s.update({k: v.to(torch.float8_e4m3fn) for k, v in s.items()})), "not floating-point"
    ),
    # Files of another kind.
    "empty": (write_file(WEIGHTS, b""), "holds no weights"),
    "zeros": (write_file(WEIGHTS, b"\0" * 4096), "holds no weights"),
    "a page of a server": (write_file(WEIGHTS, b"<!DOCTYPE html><html><body>404</body></html>"), "holds no weights"),
    "a pointer of Git LFS": (write_file(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid 0\n"), "Git LFS"),
    "a bare pickle": (write_file(WEIGHTS, b"\x80\x04" + b"pickle" * 100), "holds no weights"),
    # Headers of safetensors.
    "cut at the end": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), "cannot be read"),
    "cut in the header": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:200]), "cannot be read"),
    "a header of exabytes": (write_file(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), "a header of 4,6"),
    "a header of 20 MB": (safetensors(b"{" + b" " * (20 << 20) + b"}"), "a header of 20,9"),
    "a header that is no JSON": (safetensors(b"{a}"), "cannot be read"),
    "a deep header": (safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "cannot be read"),
    "a header without its numbers": (safetensors({"a": entry([2**30], 2**32)}), "cannot be read"),
    "a shape that overflows": (safetensors({"a": entry([2**62, 2**62], 8)}, bytes(8)), "cannot be read"),
    "a negative shape": (safetensors({"a": entry([-2], 8)}, bytes(8)), "cannot be read"),
    "a shape of another size": (safetensors({"a": entry([3], 8)}, bytes(8)), "cannot be read"),
    "numbers twice": (safetensors({k: entry([2], 8) for k in "ab"}, bytes(8)), "cannot be read"),
    "an unknown type": (safetensors({"a": entry([2], 8, "Q32")}, bytes(8)), "cannot be read"),
    "too many": (safetensors({str(k): entry([0], 0) for k in range(20_001)}), "more than 20,000 tensors"),
    # Zip files that are not what torch.save writes.
    "compressed": (rezipped(lambda n, c: (n, c), zipfile.ZIP_DEFLATED), "is compressed"),
    "a zip bomb": (archive({"archive/data.pkl": b"0" * 2**24}, zipfile.ZIP_DEFLATED), "is compressed"),
    "a large pickle": (archive({"archive/data.pkl": b"N" * 2**24}), "no data.pkl of a plausible size"),
    "no pickle": (rezipped(lambda n, c: (n.replace("data.pkl", "other.pkl"), c)), "no data.pkl"),
    "half a pickle": (rezipped(lambda n, c: (n, c[: len(c) // 2] if n.endswith("pkl") else c)), "cannot be read"),
    "an empty pickle": (rezipped(lambda n, c: (n, b"" if n.endswith("pkl") else c)), "cannot be read"),
    "numbers missing": (rezipped(lambda n, c: (n.replace("data/0", "data/700"), c)), "cannot be read"),
    "numbers cut": (rezipped(lambda n, c: (n, c[:4] if n.endswith("data/0") else c)), "cannot be read|claims"),
    "names that lead out": (rezipped(lambda n, c: (f"../../{n}", c)), "cannot be read"),
    "overlapping entries": (overlapping, "claims 1,000,000 bytes of weights"),
    "zip cut": (cut(100_000, zipped=True), "cannot be read"),
    "an empty zip": (archive({}), "holds no weights"),
    "a zip of something else": (archive({"readme.txt": b"hello"}), "no data.pkl"),
    "a storage of terabytes": (oversized_claim(2**40, (2**40,), (1,)), "cannot be read|claims"),
    "a tensor beyond its storage": (oversized_claim(250, (2**40,), (1,)), "cannot be read"),
    "a tensor before its storage": (oversized_claim(250, (10,), (1,), offset=-50), "cannot be read"),
    "a stride that goes back": (oversized_claim(250, (10,), (-1,)), "cannot be read"),
    "a storage of a gigabyte, before 1.6": (oversized_legacy_claim(2**28), "cannot be read"),
    "a storage of terabytes, before 1.6": (oversized_legacy_claim(2**40), "cannot be read"),
    "a text of exabytes, before 1.6": (
        write_file(WEIGHTS, LEGACY + b"\x80\x05\x96" + (2**62).to_bytes(8, "little")), "cannot be read"
    ),
    "old format cut": (cut(100_000, zipped=False), "cannot be read"),
    "old format, head alone": (cut(40, zipped=False), "cannot be read"),
    # Pickles that ask for more than tensors, or claim more than the file holds.
    **{
        f"asks for {name}, {age}": (pickled(content, zipped=age == "zip"), f"asks for .*({pattern})")
        for name, (content, pattern) in MALICIOUS.items()
        for age in ("zip", "before 1.6")
    },
    **{f"asks for system, protocol {k}": (system_call_pickle(k), r"asks for (posix|nt)\.system") for k in (0, 2, 4)},
    "a name in the memo": (archive({"archive/data.pkl": HIDDEN}), "asks for a hidden name"),
    "a script": (torchscript, "is compressed|asks for"),
    **{
        f"{what}, {age}": (pickled(content, zipped=age == "zip"), "claims")
        for what, content in (("stride 0", lambda trap: REPEATED), ("one storage for all", lambda trap: _shared()))
        for age in ("zip", "before 1.6")
    },
    "a list": (pickled(lambda trap: [torch.ones(2)]), "no table of weights"),
    "one tensor": (pickled(lambda trap: torch.ones(2)), "no table of weights"),
    "nothing": (pickled(lambda trap: {}), "no table of weights"),
    "numbers for names": (pickled(lambda trap: {1: torch.ones(2)}), "more than weights"),
    "words for weights": (pickled(lambda trap: {"a\x1b[2J\n[red]": "b"}), r"more than weights: a\?\[2J\?\[red\]"),
    # Raw files of guided-diffusion.
    "class-conditional": (guided({"label_emb.weight": torch.zeros(1000, 128)}), "class-conditional"),
    "text-conditional": (guided({"transformer.ln.weight": torch.zeros(2)}), "text-conditional"),
    "conditioned on a picture": (guided({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}), "takes 6 channels"),
    "half a network": (guided({}), "not a U-Net of guided-diffusion"),
    "a block of a large number": (
        guided({f"input_blocks.1{'0' * 4300}.0.a": torch.zeros(1)}), "numbered consecutively"
    ),
}  # fmt: skip
