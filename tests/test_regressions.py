"""Inputs that `tests/fuzz.py` found are handled, or refused in one line; and the fuzzer notices those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fuzz
import guided_fuzz
import pytest

FILES = sorted(path for path in fuzz.REGRESSIONS.glob("*-*-*") if path.is_file())


def split(path: Path) -> tuple[str, str]:
    """Return the kind and the name of an input."""
    kind, _, name = path.name.split("-", 2)
    return kind, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_input_that_was_not_handled_once(path: Path) -> None:
    kind, name = split(path)
    assert fuzz.fault(kind, name, path.read_bytes()) == ""


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_some_inputs_of_each_kind(kind: str) -> None:
    """The inputs are damaged enough for some to be refused, and little enough for others to be read."""
    make, attempt = fuzz.KINDS[kind]
    assert make(5) == make(5) and make(5) != make(6)
    refused = 0
    for seed in range(60):
        name, data = make(seed)
        assert fuzz.fault(kind, name, data) == ""
        refused += _is_refused(attempt, name, data)
    assert refused < 60 and (refused > 0 or kind == "metadata")


def _is_refused(attempt: fuzz.Try, name: str, data: bytes) -> bool:
    try:
        attempt(name, data)
    except fuzz.RestorerError:
        return True
    return False


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, fuzz.Try]]:
    """Yield attempts that take the place of the one for pictures."""
    attempts: dict[str, fuzz.Try] = {}
    monkeypatch.setitem(fuzz.KINDS, "pictures", (fuzz.picture, lambda name, data: attempts["now"](name, data)))
    yield attempts


def test_what_is_not_handled_is_noticed(replaced: dict[str, fuzz.Try], monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(name: str, data: bytes) -> None:
        raise ZeroDivisionError("from inside")

    def two_lines(name: str, data: bytes) -> None:
        raise fuzz.RestorerError("one\ntwo")

    replaced["now"] = bug
    assert "ZeroDivisionError: from inside" in fuzz.fault("pictures", "a.png", b"")
    replaced["now"] = two_lines
    assert "not one printable line" in fuzz.fault("pictures", "a.png", b"")
    replaced["now"] = lambda name, data: None
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 1e-9)
    monkeypatch.setattr(fuzz.faulthandler, "dump_traceback_later", lambda *a, **k: None)
    assert fuzz.fault("pictures", "a.png", b"").startswith("it takes")


@pytest.mark.parametrize("kind", guided_fuzz.KINDS)
def test_the_guided_fuzzer_starts_from_inputs_that_are_read(kind: str) -> None:
    """One undamaged input of each name is handled without a refusal, so that coverage begins deep inside."""
    for name, inputs in guided_fuzz.seeds(kind, fuzz).items():
        assert inputs and fuzz.fault(kind, name, inputs[0]) == ""
        assert not _is_refused(fuzz.KINDS[kind][1], name, inputs[0])


def test_the_guided_fuzzer_mends_the_checksums_of_png_files() -> None:
    whole = next(data for data in guided_fuzz.seeds("pictures", fuzz)["any"] if data.startswith(guided_fuzz.PNG_MAGIC))
    assert guided_fuzz.with_checksums(whole) == whole
    changed = whole[:18] + b"\x07" + whole[19:]  # the width
    mended = guided_fuzz.with_checksums(changed)
    assert mended[:29] == changed[:29] and mended[29:33] != changed[29:33] and mended[33:] == changed[33:]
    assert guided_fuzz.with_checksums(b"GIF89a") == b"GIF89a"
