"""Weights files, read as what they are: numbers from a stranger.

Two formats hold the weights of the Hub: safetensors, and the pickles of `torch.save`, which are programs. A pickle is
scanned before it runs: whatever it asks for beyond tensors is named and refused. What it may ask for is then read with
`weights_only=True`, a second barrier. Files are mapped into memory, so that a tensor takes none until it is used, and
no file yields more than it holds: tensors that repeat their elements are refused before anything copies them.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from restorer.errors import ModelError

__all__ = ["check_finite", "plain", "read_weights"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEADER = 8 << 20  # bytes of a safetensors header, or of a pickle without its numbers; the largest known have 100 kB
MAX_TENSORS = 20_000  # the largest known network has 1,000
DAMAGED = "the file is damaged; copy or download it again"
SAFER = "a weights file needs no code; take another file, best a .safetensors"

ZIP = b"PK\x03\x04"
# What torch.save wrote before version 1.6 begins with: a pickled magic number.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES = 5  # magic number, protocol, byte order, content, names of the storages; then the numbers follow
# All that the files of the known models ask for.
HARMLESS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.([A-Z][A-Za-z0-9]+)Storage"
)
# Where trainers put the weights, the averaged ones first; and what wrappers put before every name.
TABLES = ("ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.", "unet.")


def plain(text: object, length: int = 80) -> str:
    """Text from a stranger for a message: one line, nothing that steers a terminal, of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:length])


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a .safetensors, .bin or .pt file by name: floating-point tensors, on the CPU, mapped.

    Raises:
        ModelError: the file is absent, damaged or of another format, asks to run something, or claims more numbers than
            it holds.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "a model folder holds config, scheduler config and weights") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {plain(error.strerror or error)}") from error
    if head.startswith(ZIP):
        wanted, numbers = _zipped(path)
        size = min(size, numbers)  # several names may stand for the same bytes
        state = _from_pickle(path, wanted, mapped=True)
    elif head.startswith(LEGACY):
        state = _from_pickle(path, _legacy_globals(path), mapped=False)
    elif head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a pointer of Git LFS, not the weights themselves", "fetch them: git lfs pull")
    elif size >= 8 and head[8:9] == b"{":
        state = _from_safetensors(path, int.from_bytes(head[:8], "little"))
    else:
        raise ModelError(f"{path} holds no weights: it is neither safetensors nor written by torch.save", DAMAGED)
    _check(path, state, size)
    return _unwrapped(state)


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are infinite or not a number.

    Raises:
        ModelError: naming the file and a tensor.
    """
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"{path} holds weights that are not finite, in {plain(name)}", DAMAGED)


def _from_safetensors(path: Path, header: int) -> dict[str, Tensor]:
    if header > MAX_HEADER:
        raise ModelError(f"{path} has a header of {header:,} bytes, more than any model needs", DAMAGED)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names[: MAX_TENSORS + 1]}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {plain(error, 200)}", DAMAGED) from error


def _from_pickle(path: Path, wanted: set[str], *, mapped: bool) -> dict[str, Tensor]:
    """The table of tensors in a pickle that asks for `wanted`."""
    if culprits := sorted(name for name in wanted if not HARMLESS.fullmatch(name)):
        names = ", ".join(plain(name) for name in culprits[:3])
        raise ModelError(f"{path} is refused: beyond tensors, it asks for {names}", SAFER)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:  # PyTorch's own words advise to do without the barrier
        raise ModelError(f"{path} is refused: it is no plain table of tensors", SAFER) from error
    except Exception as error:  # whatever a crafted pickle makes of the reader
        raise ModelError(f"{path} cannot be read: {_first_sentence(error)}", DAMAGED) from error
    table = content
    if isinstance(content, dict):
        table = next((content[name] for name in TABLES if isinstance(content.get(name), dict)), content)
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{path} holds no table of weights")
    if wrong := [k for k, v in table.items() if not isinstance(k, str) or not isinstance(v, Tensor)]:
        raise ModelError(f"{path} holds more than weights: {', '.join(plain(k) for k in wrong[:5])}")
    return {name: value.detach() for name, value in table.items()}


def _first_sentence(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return plain(text.split(". ")[0] or type(error).__name__, 200)


def _zipped(path: Path) -> tuple[set[str], int]:
    """What the pickle in a zip file of `torch.save` asks for, and the bytes of numbers beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch.save does not compress: what is compressed here may unfold to any size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ModelError(f"{path} is compressed, which no file of torch.save is")
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > MAX_HEADER:
                raise ModelError(f"{path} was not written by torch.save: it has no data.pkl of a plausible size")
            folder = pickles[0].filename.removesuffix("data.pkl")
            numbers = sum(entry.file_size for entry in entries if entry.filename.startswith(f"{folder}data/"))
            return _globals(archive.read(pickles[0])), numbers
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read: {_first_sentence(error)}", DAMAGED) from error


def _legacy_globals(path: Path) -> set[str]:
    """What the pickles of a file written before torch 1.6 ask for."""
    try:
        with path.open("rb") as file:
            head = BytesIO(file.read(MAX_HEADER))  # not the file: a text may claim any length, which would be reserved
        return set().union(*(_globals(head) for _ in range(LEGACY_PICKLES)))
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read: {_first_sentence(error)}", DAMAGED) from error


def _globals(pickle: bytes | IO[bytes]) -> set[str]:
    """Every name that a pickle looks up, `module.name`; nothing is run."""
    found: set[str] = set()
    texts: list[str] = []  # those right before, with nothing but their way into the memo in between
    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "GLOBAL" | "INST":
                found.add(str(argument).replace(" ", ".", 1))
            case "STACK_GLOBAL":  # takes its name from the stack, where it can be put from anywhere
                found.add(".".join(texts) if len(texts) == 2 else "a name it hides")
            case "EXT1" | "EXT2" | "EXT4":
                found.add(f"extension {argument}")
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                continue
        texts = [*texts[-1:], argument] if isinstance(argument, str) else []
    return found


def _check(path: Path, state: Mapping[str, Tensor], size: int) -> None:
    """Refuse what is not a table of numbers, each of which the file holds."""
    if len(state) > MAX_TENSORS:
        raise ModelError(f"{path} holds more than {MAX_TENSORS:,} tensors, more than any model needs")
    if wrong := [name for name, v in state.items() if v.dtype not in FLOATS or v.layout != torch.strided]:
        raise ModelError(f"{path} holds weights that are no floating-point numbers: {_some(wrong)}")
    # A few bytes can claim a tensor of any size, whose elements are all the same ones.
    if (claimed := sum(v.numel() * v.element_size() for v in state.values())) > size:
        raise ModelError(f"{path} claims {claimed:,} bytes of weights, but has {size:,}", DAMAGED)


def _some(names: Iterable[str]) -> str:
    return ", ".join(plain(name) for name in sorted(names)[:5])


def _unwrapped(state: dict[str, Any]) -> dict[str, Tensor]:
    """Without what wrappers put before every name."""
    while state and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), "")):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
