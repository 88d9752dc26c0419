"""A provenance record in words, as `restore doctor` and the page of `restore compare` show it."""

from __future__ import annotations

from dataclasses import asdict

from restorer.folders.provenance import Record

__all__ = ["record_facts"]

TOLD = ("uncertainty", "consistency", "sample")
FIELDS = ("version", "command", "source", "source_sha256", "model", "model_sha256")


def record_facts(record: Record) -> list[tuple[str, str]]:
    """Return what a record says as pairs of a label and a text, without the fields that are empty."""
    values = {**asdict(record), **record.options}
    values |= {name: getattr(record, name) for name in TOLD}  # an option may have the same name
    values["repairs"] = ", then ".join(record.repairs)
    own = (name for name in record.options if name not in TOLD)
    names = (*FIELDS, "start_sha256", "decompressor_sha256", "enlarger_sha256", *own, "found", "repairs", *TOLD)
    facts = [(name.replace("_", " "), str(values[name])) for name in names if values[name] not in (None, "")]
    circumstances = f" with {record.threads} threads" if record.device == "cpu" else ""
    if record.batch > 1:
        circumstances += (
            f", in a batch of {record.batch} pictures; made alone, the result may differ in the last digits"
        )
    return [*facts, ("computed", f"on {record.device} in {record.precision}{circumstances}")]
