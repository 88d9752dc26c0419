"""Shards: a run over a folder that is divided among machines, without any of them knowing of the others.

A picture belongs to the shard that the hash of its path tells, relative to the input folder in which it was found. So
it is the same on every machine, wherever the folder is mounted, and it does not depend on the other pictures.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from restorer.errors import UsageError

__all__ = ["MAX_SHARDS", "SHARD_LOGS", "Shard"]

MAX_SHARDS = 100_000

SHARD_LOGS = ".restorer-*-of-*.jsonl"
"""The pattern of the names that the logs of shards have by default."""

_FORM = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One part of the pictures of a run.

    Args:
        index: The number of the part, from 1.
        count: Number of parts.

    Raises:
        UsageError: There is no such part, or there are more than MAX_SHARDS.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS:
            raise UsageError(f"the number of shards must lie between 1 and {MAX_SHARDS}, not {self.count}")
        if not 1 <= self.index <= self.count:
            raise UsageError(f"there is no shard {self.index} of {self.count}", f"they are 1 to {self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that a text such as "2/8" stands for.

        Raises:
            UsageError: The text has another form, or there is no such shard.
        """
        if (match := _FORM.fullmatch(text.strip())) is None:
            raise UsageError(f"a shard is I/N, not {text[:40]!r}", "the second of eight is --shard 2/8")
        return cls(int(match[1]), int(match[2]))

    @property
    def log_name(self) -> str:
        """The name of the log by default: each shard has its own, because a log has one writer."""
        return f".restorer-{self.index}-of-{self.count}.jsonl"

    def holds(self, source: Path, root: Path | None) -> bool:
        """Return whether a picture belongs to the shard.

        Args:
            source: The picture.
            root: The input folder in which it was found; None if it was named itself, in which case its name counts.
        """
        path = Path(source.name) if root is None else source.relative_to(root)
        # Some file systems compose accents, and others decompose them.
        name = unicodedata.normalize("NFC", path.as_posix()).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % self.count == self.index - 1
