"""The provenance record that a result contains: how it was made, and the command that reproduces it.

The record does not contain the time, the place or the speed of the run, so repeating a restoration gives the same
bytes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

__all__ = ["Record", "parse_record"]


@dataclass(frozen=True)
class Record:
    """The provenance record of one result.

    Args:
        version: The version of this program.
        command: The verb.
        source: The name of the input file, without its folder.
        source_sha256: SHA-256 of the input file.
        model: The model as the user named it.
        model_sha256: SHA-256 of the weights of the model.
        options: The options that the result depends on, as the command line takes them; None for an option that was
            not used.
        device: The device. The last digits of a result depend on the device, precision, threads and batch.
        precision: "fp32", "bf16" or "fp16".
        threads: Number of threads that PyTorch used.
        batch: Number of small pictures that shared the network's evaluations, this one included.
        found: What was found in the picture, in words; empty if nothing was looked for.
        in_place: The fingerprints of the commands that replaced the picture by its result, in order; empty for a result
            that was written beside its picture.
        start_sha256: SHA-256 of the network from whose result the restoration started; empty if there was none.
        enlarger_sha256: SHA-256 of the network that gave the first answer of an enlargement; empty if there was none.
        decompressor_sha256: SHA-256 of the network that gave the first answer of the undoing of a compression; empty if
            there was none.
        uncertainty: How uncertain the result is, in words; empty if that was not estimated.
        consistency: How far the result, degraded again, is from the input, in words; empty if that is not known.
        sample: Which of several samples the result is, in words; empty for a result of which no others were drawn.
        repairs: What `auto` has done and why, in words and in order; empty for other commands.
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
    found: str = ""
    in_place: Sequence[str] = ()
    start_sha256: str = ""
    enlarger_sha256: str = ""
    decompressor_sha256: str = ""
    uncertainty: str = ""
    consistency: str = ""
    sample: str = ""
    repairs: Sequence[str] = ()

    def to_json(self) -> str:
        """Return the record as it is stored in a file: JSON in ASCII, identical for equal records."""
        return json.dumps({"restorer": 1, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    def arguments(self) -> list[str]:
        """Return the arguments of the command that reproduces the result, without the name of the program."""
        # A name that begins with a hyphen would be read as an option.
        result = [self.command, f"./{self.source}" if self.source.startswith("-") else self.source]
        for name, value in (*self.options.items(), ("model", self.model), ("device", self.device)):
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                result += [flag] if value else []
            elif value is not None:
                result += [flag, repr(value) if isinstance(value, float) else str(value)]
        return [*result, "--precision", self.precision]

    def command_line(self) -> str:
        """Return the command that reproduces the result, quoted for a shell.

        On a CPU the command sets OMP_NUM_THREADS, from which PyTorch takes the number of threads.
        """
        threads = f"OMP_NUM_THREADS={self.threads} " if self.device == "cpu" else ""
        return f"{threads}restore {shlex.join(self.arguments())}"


def parse_record(text: str) -> Record | None:
    """Parse the text of a provenance record.

    Returns:
        The record that `Record.to_json` has written, without fields that this version does not know; None for any other
        text, however malformed.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("restorer") != 1:
            return None
        known = {f.name: f.type for f in fields(Record)}
        record = Record(**{name: value for name, value in content.items() if name in known})
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (record.version, record.command, record.source, record.source_sha256, record.model, record.model_sha256)
    others = (record.device, record.precision, record.found, record.start_sha256)
    firsts = (record.enlarger_sha256, record.decompressor_sha256)
    told = (record.uncertainty, record.consistency, record.sample)
    has_texts = all(isinstance(text, str) for text in (*texts, *others, *firsts, *told))
    has_options = isinstance(record.options, dict) and all(
        value is None or isinstance(value, (str, int, float)) for value in record.options.values()
    )
    has_counts = isinstance(record.threads, int) and isinstance(record.batch, int)
    lists = (record.in_place, record.repairs)
    has_lists = all(isinstance(each, (list, tuple)) and all(isinstance(text, str) for text in each) for each in lists)
    is_whole = has_texts and has_options and has_counts and has_lists
    return replace(record, in_place=tuple(record.in_place), repairs=tuple(record.repairs)) if is_whole else None
