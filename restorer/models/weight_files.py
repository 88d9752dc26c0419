"""Weights files, read as untrusted input.

Two formats hold the weights of the Hub: safetensors, and the pickles of `torch.save`, which are programs. A pickle is
scanned before it runs: every global that it asks for beyond tensors is named and refused. The file is then read with
`weights_only=True`, a second barrier. Files are mapped into memory, so that a tensor takes no memory until it is used.
No file yields more than it holds: tensors that repeat their elements are refused before anything copies them.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from restorer.errors import ModelError

__all__ = ["FLOATS", "WHOLE_NUMBERS", "check_finite", "printable", "read_weights"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
# Bytes of a safetensors header, or of a pickle without its numbers; the largest known ones have 100 kB.
MAX_HEADER = 8 << 20
MAX_TENSORS = 20_000  # the largest known network has 1,000
DAMAGED_HINT = "the file is damaged; copy or download it again"
UNSAFE_HINT = "a weights file needs no code; use another file, preferably a .safetensors"

ZIP_MAGIC = b"PK\x03\x04"
# Files that torch.save wrote before version 1.6 begin with a pickled magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Such a file holds five pickles (magic number, protocol, byte order, content, names of the storages), then the numbers.
LEGACY_PICKLES = 5
# The globals that the files of the known models ask for.
ALLOWED_GLOBALS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.([A-Z][A-Za-z0-9]+)Storage"
)
# Keys under which trainers store the weights, the averaged weights first.
TABLE_KEYS = ("ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
# Prefixes that wrappers put before every name.
PREFIXES = ("module.", "model.", "unet.")


def printable(text: object, length: int = 80) -> str:
    """Return untrusted text in a form that is safe in a message: one line without control characters.

    Args:
        text: The text, or an object to convert to text.
        length: The number of characters that are kept.
    """
    return "".join(c if c.isprintable() else "?" for c in str(text)[:length])


def read_weights(
    path: Path,
    *,
    keys: Sequence[str] = TABLE_KEYS,
    prefixes: Sequence[str] = PREFIXES,
    kinds: Sequence[torch.dtype] = FLOATS,
) -> dict[str, Tensor]:
    """Read the weights of a .safetensors, .bin, .pt or .pth file.

    Args:
        path: The file.
        keys: The keys under which the table of the weights may stand, the preferred one first.
        prefixes: What is removed from the names if all of them begin with it.
        kinds: The types of numbers that the weights may have.

    Returns:
        The weights by name: tensors on the CPU, mapped from the file where its format allows that.

    Raises:
        ModelError: The file is absent, damaged or of another format, asks to run code, or claims more numbers than it
            holds.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError as error:
        hint = "a model folder holds config.json, scheduler_config.json and the weights"
        raise ModelError(f"{path} is missing", hint) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {printable(error.strerror or error)}") from error
    if head.startswith(ZIP_MAGIC):
        globals_, numbers = _scan_zip(path)
        size = min(size, numbers)  # Several names may stand for the same bytes.
        state = _from_pickle(path, globals_, keys, mmap=True)
    elif head.startswith(LEGACY_MAGIC):
        state = _from_pickle(path, _scan_legacy(path), keys, mmap=False)
    elif head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the weights themselves", "fetch the weights: git lfs pull")
    elif size >= 8 and head[8:9] == b"{":
        state = _from_safetensors(path, int.from_bytes(head[:8], "little"))
    else:
        raise ModelError(f"{path} holds no weights: it is neither safetensors nor written by torch.save", DAMAGED_HINT)
    _check_tensors(path, state, size, kinds)
    return _strip_prefixes(state, prefixes)


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Check that all weights are finite.

    Args:
        path: The weights file, for the message.
        state: The weights by name.

    Raises:
        ModelError: A weight is infinite or not a number; the message names the file and the tensor.
    """
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"{path} holds weights that are not finite, in {printable(name)}", DAMAGED_HINT)


def _from_safetensors(path: Path, header: int) -> dict[str, Tensor]:
    if header > MAX_HEADER:
        raise ModelError(f"{path} has a header of {header:,} bytes, more than any model needs", DAMAGED_HINT)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names[: MAX_TENSORS + 1]}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {printable(error, 200)}", DAMAGED_HINT) from error


def _from_pickle(path: Path, globals_: set[str], keys: Sequence[str], *, mmap: bool) -> dict[str, Tensor]:
    """Read the table of tensors in a pickle, given the globals that the pickle asks for."""
    if refused := sorted(name for name in globals_ if not ALLOWED_GLOBALS.fullmatch(name)):
        names = ", ".join(printable(name) for name in refused[:3])
        raise ModelError(f"{path} is refused: besides tensors, it asks for {names}", UNSAFE_HINT)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:  # PyTorch's own message advises the user to switch the barrier off.
        raise ModelError(f"{path} is refused: it is not a plain table of tensors", UNSAFE_HINT) from error
    except Exception as error:  # A crafted pickle can make the reader raise anything.
        raise ModelError(f"{path} cannot be read: {_first_sentence(error)}", DAMAGED_HINT) from error
    table = content
    if isinstance(content, dict):
        table = next((content[key] for key in keys if isinstance(content.get(key), dict)), content)
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{path} holds no table of weights")
    if wrong := [k for k, v in table.items() if not isinstance(k, str) or not isinstance(v, Tensor)]:
        raise ModelError(f"{path} holds more than weights: {', '.join(printable(k) for k in wrong[:5])}")
    return {name: value.detach() for name, value in table.items()}


def _first_sentence(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return printable(text.split(". ")[0] or type(error).__name__, 200)


def _scan_zip(path: Path) -> tuple[set[str], int]:
    """Return the globals that the pickle in a zip file of `torch.save` asks for, and the bytes of numbers beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch.save does not compress its entries, and a compressed entry could expand to any size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ModelError(f"{path} is compressed, and torch.save never compresses its files")
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > MAX_HEADER:
                raise ModelError(f"{path} was not written by torch.save: it has no data.pkl of a plausible size")
            folder = pickles[0].filename.removesuffix("data.pkl")
            numbers = sum(entry.file_size for entry in entries if entry.filename.startswith(f"{folder}data/"))
            return _pickle_globals(archive.read(pickles[0])), numbers
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read: {_first_sentence(error)}", DAMAGED_HINT) from error


def _scan_legacy(path: Path) -> set[str]:
    """Return the globals that the pickles of a file written before torch 1.6 ask for."""
    try:
        with path.open("rb") as file:
            # The scan reads a bounded copy: in the file, a string could claim any length, which would be reserved.
            head = BytesIO(file.read(MAX_HEADER))
        return set().union(*(_pickle_globals(head) for _ in range(LEGACY_PICKLES)))
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read: {_first_sentence(error)}", DAMAGED_HINT) from error


def _pickle_globals(pickle: bytes | IO[bytes]) -> set[str]:
    """Return every global that a pickle looks up, as `module.name`, without running the pickle."""
    found: set[str] = set()
    texts: list[str] = []  # the strings pushed immediately before, ignoring opcodes that only store them in the memo
    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "GLOBAL" | "INST":
                found.add(str(argument).replace(" ", ".", 1))
            case "STACK_GLOBAL":  # takes the name from the stack, where it may have come from anywhere
                found.add(".".join(texts) if len(texts) == 2 else "a hidden name")
            case "EXT1" | "EXT2" | "EXT4":
                found.add(f"extension {argument}")
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                continue
        texts = [*texts[-1:], argument] if isinstance(argument, str) else []
    return found


def _check_tensors(path: Path, state: Mapping[str, Tensor], size: int, kinds: Sequence[torch.dtype]) -> None:
    """Check that every value is a dense tensor of a known kind, and that the file holds all of their numbers."""
    if len(state) > MAX_TENSORS:
        raise ModelError(f"{path} holds more than {MAX_TENSORS:,} tensors, more than any model needs")
    if wrong := [name for name, v in state.items() if v.dtype not in kinds or v.layout != torch.strided]:
        raise ModelError(f"{path} holds weights that are not floating-point numbers: {_first_names(wrong)}")
    # A few bytes can claim a tensor of any size whose elements all share the same memory.
    if (claimed := sum(v.numel() * v.element_size() for v in state.values())) > size:
        raise ModelError(f"{path} claims {claimed:,} bytes of weights, but holds only {size:,}", DAMAGED_HINT)


def _first_names(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in sorted(names)[:5])


def _strip_prefixes(state: dict[str, Any], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights without the prefixes that wrappers put before every name."""
    while state and (prefix := next((p for p in prefixes if all(k.startswith(p) for k in state)), "")):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
