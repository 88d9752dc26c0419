"""The record that a result carries: what made it, and the command that makes it again.

It says nothing of when, where or how fast, so the same restoration gives the same bytes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["Record", "parse"]

FLAGS = frozenset({"invert_mask"})


@dataclass(frozen=True)
class Record:
    """How one result was made.

    Args:
        version: of this program.
        command: the verb.
        source: name of the input file, without its folder; source_sha256: of its bytes.
        model, model_sha256: as it was named, and its weights.
        options: what the result depends on, as the command line takes it; None where an option was not used.
        device, precision, threads, batch: what it was computed with; the last digits depend on them. A batch counts the
            small pictures that shared the network's evaluations.
    """

    version: str
    command: str
    source: str
    source_sha256: str
    model: str
    model_sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    batch: int = 1

    def text(self) -> str:
        """As it stands in a file: JSON in ASCII, the same for the same record."""
        return json.dumps({"restorer": 1, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    def arguments(self) -> list[str]:
        """The command line, after the program's name."""
        result = [self.command, self.source]
        for name, value in (*self.options.items(), ("model", self.model), ("device", self.device)):
            flag = f"--{name.replace('_', '-')}"
            if name in FLAGS:
                result += [flag] if value else []
            elif value is not None:
                result += [flag, repr(value) if isinstance(value, float) else str(value)]
        return [*result, "--precision", self.precision]

    def command_line(self) -> str:
        """For a shell; the number of threads stands in front, where PyTorch looks for it."""
        threads = f"OMP_NUM_THREADS={self.threads} " if self.device == "cpu" else ""
        return f"{threads}restore {shlex.join(self.arguments())}"


def parse(text: str) -> Record | None:
    """The record that `Record.text` wrote; None for any other text, however odd. Unknown fields are left out."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("restorer") != 1:
            return None
        known = {f.name: f.type for f in fields(Record)}
        record = Record(**{name: value for name, value in content.items() if name in known})
    except (ValueError, TypeError, RecursionError):
        return None
    words = (record.version, record.command, record.source, record.source_sha256, record.model, record.model_sha256)
    sound = all(isinstance(word, str) for word in (*words, record.device, record.precision))
    plain = isinstance(record.options, dict) and all(
        value is None or isinstance(value, (str, int, float)) for value in record.options.values()
    )
    counted = isinstance(record.threads, int) and isinstance(record.batch, int)
    return record if sound and plain and counted else None
