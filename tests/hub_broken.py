"""Weights that are broken or mean harm: by name, what breaks a good file, and a word of what is said about it.

`WEIGHT_FILES` are applied to a folder that holds a good model; what they return, if it is a path, is the model that is
asked for instead of the folder. Whatever harm a file asks for would leave a file named `trap` there.
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
    *("CONFIG", "INDEX", "PICKLED", "SCHEDULER", "WEIGHTS", "WEIGHT_FILES", "Break", "fields", "folder_for"),
    *("guided", "moved", "put", "shards", "system_call"),
]

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
WEIGHTS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
Break = Callable[[Path], object]


class Evil:
    """What makes a call when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call[0], self.call[1:]


# -- how to break a file -----------------------------------------------------------------------------------------------


def put(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def fields(name: str, **new: Any) -> Break:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **new}))

    return edit


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Break:
    def edit(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS)

    return edit


def pickled(content: Callable[[Path], Any], *, zipped: bool = True) -> Break:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(content(folder / "trap"), folder / PICKLED, _use_new_zipfile_serialization=zipped)

    return write


def cut(keep: int, *, zipped: bool) -> Break:
    def write(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        pickled(lambda trap: state, zipped=zipped)(folder)
        (folder / PICKLED).write_bytes((folder / PICKLED).read_bytes()[:keep])

    return write


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Break:
    """A zip file of these entries in the place of the weights."""

    def write(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        with zipfile.ZipFile(folder / PICKLED, "w", method) as file:
            for name, content in entries.items():
                file.writestr(name, content)

    return write


def rewritten(change: Callable[[str, bytes], tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Break:
    """A good file of torch.save with other entries."""

    def write(folder: Path) -> None:
        good = io.BytesIO()
        torch.save(load_file(folder / WEIGHTS), good)
        with zipfile.ZipFile(good) as file:
            archive(dict(change(name, file.read(name)) for name in file.namelist()), method)(folder)

    return write


def overlapping(folder: Path) -> None:
    """A thousand names in a zip file that stand for the same bytes."""
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
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return put(WEIGHTS, len(text).to_bytes(8, "little") + text + numbers)


def entry(shape: list[int], end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


class _Storage:
    """Numbers elsewhere in the file, as torch.save refers to them."""


def tensor_pickle(count: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, *more: None) -> bytes:
    """The pickle of one tensor that claims `count` numbers in a storage, and a shape over them."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", count, *more) if isinstance(value, _Storage) else None

    tensor = Evil(torch._utils._rebuild_tensor_v2, _Storage(), offset, shape, stride, False, OrderedDict())
    stream = io.BytesIO()
    Pickler(stream, 2).dump({"conv_in.weight": tensor})
    return stream.getvalue()


def claiming(*tensor: Any, **more: Any) -> Break:
    entries = {"archive/data.pkl": tensor_pickle(*tensor, **more), "archive/version": b"3\n"}
    return archive({**entries, "archive/data/0": bytes(1000)})


def claiming_of_old(count: int) -> Break:
    """The same as torch.save wrote before 1.6: five pickles, then the numbers, of which there are 250."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, system)
    parts = [*(pickle.dumps(head, 2) for head in heads), tensor_pickle(count, (count,), (1,), 0, None)]
    return put(WEIGHTS, b"".join([*parts, pickle.dumps(["0"], 2), count.to_bytes(8, "little"), bytes(1000)]))


def asking(protocol: int) -> Break:
    """os.system in the zip file of torch.save, pickled by other hands."""

    def write(folder: Path) -> None:
        evil = pickle.dumps(Evil(os.system, f"touch {folder / 'trap'}"), protocol)
        archive({"archive/data.pkl": evil, "archive/version": b"3\n"})(folder)

    return write


LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)  # what a file of before torch 1.6 begins with
# os.system, put together from the memo, behind a harmless name.
HIDDEN = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94h\x00h\x01\x93."


def scripted(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), folder / PICKLED)


def guided(change: dict[str, Tensor | None], options: bytes | None = None) -> Break:
    """A raw file with the names of guided-diffusion, and what stands beside it."""

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


def moved(name: str, to: str) -> Break:
    return lambda folder: (folder / name).rename(folder / to) and None


def folder_for(name: str) -> Break:
    def write(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return write


def shards(folder: Path) -> None:
    """Weights in several files, with names that lead out of the folder."""
    (folder.parent / "outside.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    names = dict.fromkeys(["conv_in.weight"], "../outside.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


# -- the files ---------------------------------------------------------------------------------------------------------


def system_call(trap: Path) -> Any:
    """What leaves a trap behind if it is unpickled."""
    return {"a": Evil(os.system, f"touch {trap}")}


ASKED: dict[str, tuple[Callable[[Path], Any], str]] = {
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
    # Numbers that are none, and weights of another network.
    "nan": (tensors(lambda s: s["conv_in.weight"].view(-1)[3:4].fill_(torch.nan)), "not finite, in conv_in.weight"),
    "inf": (tensors(lambda s: s["conv_out.bias"][0:1].fill_(torch.inf)), "not finite, in conv_out.bias"),
    "one too few": (tensors(lambda s: s.pop("conv_in.bias")), "conv_in.bias"),
    "one too many": (tensors(lambda s: s.update(extra=torch.zeros(2))), "extra"),
    "a name that steers": (
        tensors(lambda s: s.update({"a\x1b[2J\n[bold red]b[/]": torch.zeros(2)})), r"a\?\[2J\?\[bold red\]b\[/\]"
    ),
    "another shape": (tensors(lambda s: s.update({"conv_in.bias": torch.zeros(9)})), "conv_in.bias"),
    "none": (tensors(dict.clear), "does not fit"),
    "integers": (tensors(lambda s: s.update({k: v.long() for k, v in s.items()})), "no floating-point"),
    "complex": (tensors(lambda s: s.update({k: v.to(torch.complex64) for k, v in s.items()})), "no floating-point"),
    "eight bits": (
        tensors(lambda s: s.update({k: v.to(torch.float8_e4m3fn) for k, v in s.items()})), "no floating-point"
    ),
    # Files of another kind.
    "empty": (put(WEIGHTS, b""), "holds no weights"),
    "zeros": (put(WEIGHTS, b"\0" * 4096), "holds no weights"),
    "a page of a server": (put(WEIGHTS, b"<!DOCTYPE html><html><body>404</body></html>"), "holds no weights"),
    "a pointer of Git LFS": (put(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid 0\n"), "Git LFS"),
    "a bare pickle": (put(WEIGHTS, b"\x80\x04" + b"pickle" * 100), "holds no weights"),
    # Headers of safetensors.
    "cut at the end": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), "cannot be read"),
    "cut in the header": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:200]), "cannot be read"),
    "a header of exabytes": (put(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), "a header of 4,6"),
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
    "compressed": (rewritten(lambda n, c: (n, c), zipfile.ZIP_DEFLATED), "is compressed"),
    "a zip bomb": (archive({"archive/data.pkl": b"0" * 2**24}, zipfile.ZIP_DEFLATED), "is compressed"),
    "a large pickle": (archive({"archive/data.pkl": b"N" * 2**24}), "no data.pkl of a plausible size"),
    "no pickle": (rewritten(lambda n, c: (n.replace("data.pkl", "other.pkl"), c)), "no data.pkl"),
    "half a pickle": (rewritten(lambda n, c: (n, c[: len(c) // 2] if n.endswith("pkl") else c)), "cannot be read"),
    "an empty pickle": (rewritten(lambda n, c: (n, b"" if n.endswith("pkl") else c)), "cannot be read"),
    "numbers missing": (rewritten(lambda n, c: (n.replace("data/0", "data/700"), c)), "cannot be read"),
    "numbers cut": (rewritten(lambda n, c: (n, c[:4] if n.endswith("data/0") else c)), "cannot be read|claims"),
    "names that lead out": (rewritten(lambda n, c: (f"../../{n}", c)), "cannot be read"),
    "overlapping entries": (overlapping, "claims 1,000,000 bytes of weights"),
    "zip cut": (cut(100_000, zipped=True), "cannot be read"),
    "an empty zip": (archive({}), "holds no weights"),
    "a zip of something else": (archive({"readme.txt": b"hello"}), "no data.pkl"),
    "a storage of terabytes": (claiming(2**40, (2**40,), (1,)), "cannot be read|claims"),
    "a tensor beyond its storage": (claiming(250, (2**40,), (1,)), "cannot be read"),
    "a tensor before its storage": (claiming(250, (10,), (1,), offset=-50), "cannot be read"),
    "a stride that goes back": (claiming(250, (10,), (-1,)), "cannot be read"),
    "a storage of a gigabyte, before 1.6": (claiming_of_old(2**28), "cannot be read"),
    "a storage of terabytes, before 1.6": (claiming_of_old(2**40), "cannot be read"),
    "a text of exabytes, before 1.6": (
        put(WEIGHTS, LEGACY + b"\x80\x05\x96" + (2**62).to_bytes(8, "little")), "cannot be read"
    ),
    "old format cut": (cut(100_000, zipped=False), "cannot be read"),
    "old format, head alone": (cut(40, zipped=False), "cannot be read"),
    # Pickles that ask for more than tensors, or claim more than the file holds.
    **{
        f"asks for {name}, {age}": (pickled(content, zipped=age == "zip"), f"asks for .*({said})")
        for name, (content, said) in ASKED.items()
        for age in ("zip", "before 1.6")
    },
    **{f"asks for system, protocol {k}": (asking(k), r"asks for (posix|nt)\.system") for k in (0, 2, 4)},
    "a name in the memo": (archive({"archive/data.pkl": HIDDEN}), "asks for a name it hides"),
    "a script": (scripted, "is compressed|asks for"),
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
    "half a network": (guided({}), "no U-Net of guided-diffusion"),
    "a block of a large number": (guided({f"input_blocks.1{'0' * 4300}.0.a": torch.zeros(1)}), "numbered in a row"),
}  # fmt: skip
