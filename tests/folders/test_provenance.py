"""The provenance record of a result: writing and parsing it, and the command line that it gives."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restorer.folders.provenance import Record, parse_record

RECORD = Record(
    "0.1.0",
    "denoise",
    "a photo's.png",
    "a" * 64,
    "photo",
    "b" * 64,
    {"sigma": 24.7, "steps": 6, "detail": 0.7, "method": "auto", "seed": 3, "scale": None},
    "cpu",
    "bf16",
    2,
)


def test_text_and_back() -> None:
    assert parse_record(RECORD.to_json()) == RECORD and RECORD.to_json().isascii()
    assert RECORD.to_json() == replace(RECORD, options=dict(reversed(RECORD.options.items()))).to_json()


@given(st.floats(0, 255), st.text(min_size=1))
def test_numbers_and_names_survive(sigma: float, name: str) -> None:
    """A shell reads the printed command line as the same file name and the same number."""
    record = replace(RECORD, source=name, options={"sigma": sigma})
    assert parse_record(record.to_json()) == record
    words = record.arguments()
    assert words[1] == (f"./{name}" if name.startswith("-") else name)
    assert float(words[words.index("--sigma") + 1]) == sigma
    if "\x00" not in name:
        assert shlex.split(record.command_line()) == ["OMP_NUM_THREADS=2", "restore", *words]


def test_the_command_line() -> None:
    assert RECORD.command_line() == (
        "OMP_NUM_THREADS=2 restore denoise 'a photo'\"'\"'s.png' --sigma 24.7 --steps 6 --detail 0.7 --method auto "
        "--seed 3 --model photo --device cpu --precision bf16"
    )
    holes = replace(RECORD, command="inpaint", options={"mask": "m.png", "invert_mask": True}, device="cuda")
    assert holes.command_line() == (
        "restore inpaint 'a photo'\"'\"'s.png' --mask m.png --invert-mask --model photo --device cuda --precision bf16"
    )
    assert "--invert-mask" not in replace(holes, options={"invert_mask": False}).command_line()


def changed(**fields: object) -> str:
    """Return the text of the record with some fields replaced."""
    return json.dumps({**json.loads(RECORD.to_json()), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[1]",
        "{",
        "[" * 100_000,
        "{}",
        changed(restorer=2),
        changed(source=3),
        changed(options=[1]),
        changed(options={"sigma": {"a": 1}}),
        changed(threads="two"),
        json.dumps({"restorer": 1, "version": "0.1.0"}),
    ],
)
def test_other_texts_are_none(text: str) -> None:
    assert parse_record(text) is None


def test_a_later_versions_fields_are_left_out() -> None:
    assert parse_record(changed(new_field=[1, 2])) == RECORD
