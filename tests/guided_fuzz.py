"""Damaged inputs that a coverage-guided fuzzer makes: atheris steers towards code that no input has reached yet.

python tests/guided_fuzz.py --minutes 5                      # all kinds in turn
python tests/guided_fuzz.py --kinds pictures --count 5000

The kinds, what is done with an input, and what counts as handled are those of `tests/fuzz.py`, which also starts this
program where atheris is installed. Each kind runs in a process of its own, because the fuzzer ends its process. An
input that is not handled is written to `tests/regressions/`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

KINDS = ("answers", "masks", "metadata", "models", "pictures")
INSTRUMENTED = ["restorer", "PIL", "tifffile", "safetensors", "huggingface_hub"]
MAX_LENGTH = 40_000  # bytes of an input
MAX_SECONDS, MAX_MEGABYTES = 60, 3000  # for one input, and for the process
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


def is_available() -> bool:
    """Return whether the fuzzer is installed."""
    return importlib.util.find_spec("atheris") is not None


def run(kinds: list[str], minutes: float, count: int | None = None) -> tuple[dict[str, int], bool]:
    """Fuzz each kind in a process of its own.

    Args:
        kinds: What to fuzz.
        minutes: The time in all, if there is no count.
        count: Number of inputs of each kind.

    Returns:
        The number of inputs of each kind that were tried, and whether anything was not handled.
    """
    tried, failed = {}, False
    limit = [f"-max_total_time={max(1, round(60 * minutes / len(kinds)))}"] if count is None else [f"-runs={count}"]
    for kind in kinds:
        command = [sys.executable, __file__, "--inside", kind, *limit]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        found = _DONE.search(done.stderr)
        tried[kind] = int(found[1]) if found else 0
        if done.returncode or found is None or "not handled" in done.stderr:
            failed = True
            print(done.stderr[-4000:], file=sys.stderr, flush=True)
    return tried, failed


# ---------------------------------------------------------------------------------------------- in a process of its own


def seeds(kind: str, fuzz: ModuleType) -> dict[str, list[bytes]]:
    """Return undamaged inputs by their names, which say how their bytes are used."""
    if kind in ("pictures", "masks"):
        mutations = importlib.import_module("mutations")  # after the program is instrumented
        files = mutations.base_files() if kind == "pictures" else mutations.mask_files()
        return {"any": [data for _, data in files.values()]}
    if kind == "metadata":
        return {f"0.{name}": [data] for name, data in fuzz.blocks().items()}
    models = {name: [data] for name, data in fuzz._model().items() if name.endswith((".json", ".safetensors"))}
    if kind == "models":
        return models
    return {"0.listing": [fuzz.listing()], **{f"0.{name}": data for name, data in models.items()}}


def mutated(data: bytes, seed: int, own: Callable[[bytes], bytes], operations: Callable[[bytes], list[Any]]) -> bytes:
    """Return changed bytes: by the fuzzer's own changes, or by those that know the parts of a format.

    Args:
        data: An input without the byte that selects its name.
        seed: A random number.
        own: The fuzzer's own changes.
        operations: Returns the changes that know the format of a file.
    """
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return rng.choice(operations(data))(data, rng)
    data = own(data)
    return with_checksums(data) if rng.random() < 0.8 else data


def with_checksums(data: bytes) -> bytes:
    """Return a PNG file with right checksums, without which its decoder looks no further; other files as they are."""
    if not data.startswith(PNG_MAGIC):
        return data
    parts, at = [PNG_MAGIC], len(PNG_MAGIC)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : end]
        parts += [data[at : at + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        at = end + 4
    return b"".join(parts)


def _inside(kind: str, limits: list[str]) -> None:
    """Fuzz one kind; the process ends with it."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        import fuzz
        from mutations import operations_for

    known = seeds(kind, fuzz)
    names, seen = sorted(known), set[str]()
    has_prefix = len(names) > 1

    def split(data: bytes) -> tuple[str, bytes]:
        return (names[data[0] % len(names)], data[1:]) if has_prefix and data else (names[0], data)

    def attempt(data: bytes) -> None:
        name, content = split(data)
        found = fuzz.fault(kind, name, content)
        if found and (cause := found.strip().rpartition("\n")[2]) not in seen:
            seen.add(cause)
            digest = hashlib.sha256(data).hexdigest()[:12]
            target = fuzz.REGRESSIONS / f"{kind}-{digest}-{name}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            print(f"not handled: {found}\n-> {target}", file=sys.stderr, flush=True)

    def change(data: bytes, longest: int, seed: int) -> bytes:
        start = data[:1] if has_prefix else b""
        rest = data[len(start) :]
        changed = mutated(rest, seed, lambda old: atheris.Mutate(old, max(len(old), 64)), operations_for)
        return (start + changed)[:longest]

    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(names):
            for number, data in enumerate(known[name]):
                Path(folder, f"{index}-{number}").write_bytes((bytes([index]) if has_prefix else b"") + data)
        options = [f"-max_len={MAX_LENGTH}", f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={MAX_MEGABYTES}"]
        atheris.Setup([sys.argv[0], folder, *options, *limits], attempt, custom_mutator=change)
        atheris.Fuzz()


def main() -> int:
    """Fuzz, and return 1 if anything was not handled."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, help="number of inputs of each kind, instead of a time")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    if not is_available():
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    tried, failed = run(options.kinds, options.minutes, options.count)
    print(", ".join(f"{n:,} {kind}" for kind, n in sorted(tried.items())) + " guided by coverage")
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2], sys.argv[3:])
    sys.exit(main())
