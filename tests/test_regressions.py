"""Inputs that `tests/fuzz.py` found are handled, or refused in one line; and the fuzzer notices those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fuzz
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
