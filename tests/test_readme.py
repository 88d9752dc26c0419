"""What the README promises to scripts, held against what the command prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.cli.terminal import reporter
from restorer.models import load as models_load

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ALWAYS = {"schema", "event"}


def documented(row: str) -> set[str]:
    """Names of fields in a row of the table of events: those in backticks, but for the values of `status`."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row} |")]
    names = set(re.findall(r"`([a-z_0-9]+)`", line.split("|")[2]))
    return names - {"ok", "failed", "skipped"} if row == "`result`" else names


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """All that is printed of a folder with one good, one bad and one skipped picture, and of its plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    Path("in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((9, 9, 3), 90, np.uint8)).save(f"in/{name}.png")
    Path("in/c.png").write_bytes(b"no picture")
    assert run(["denoise", "in/a.png", "-o", "out/", "--sigma", "9", "-q"]) == 0
    capsys.readouterr()
    common = ["denoise", "in", "-r", "-o", "out", "--sigma", "9", "--skip-existing", "--json"]
    assert run([*common, "--dry-run"]) == 3 and run(common) == 3
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def of(lines: list[dict[str, Any]], event: str, status: str | None = None) -> dict[str, Any]:
    return [line for line in lines if line["event"] == event and line.get("status") == status][-1]


def test_every_line_has_the_schema(lines: list[dict[str, Any]]) -> None:
    assert all(line["schema"] == 1 for line in lines) and "of schema 1" in README
    assert {line["event"] for line in lines} == {"result", "plan", "summary"}


def test_results_have_the_fields_that_are_written_down(lines: list[dict[str, Any]]) -> None:
    common = ALWAYS | documented("`result`")
    model = {"id", "sha256", "revision"}
    ok, failed = of(lines, "result", "ok"), of(lines, "result", "failed")
    assert set(ok) == common | documented("... `ok`") - model
    assert set(ok["model"]) == model <= documented("... `ok`")
    assert set(failed) == common | documented("... `failed`")
    assert set(of(lines, "result", "skipped")) == common


@pytest.mark.parametrize("event", ["plan", "summary"])
def test_other_events_have_the_fields_that_are_written_down(event: str, lines: list[dict[str, Any]]) -> None:
    assert set(of(lines, event)) == ALWAYS | documented(f"`{event}`")


def test_every_exit_code_is_written_down() -> None:
    (line,) = re.findall(r"Exit codes: (.*?)\n\n", README, flags=re.DOTALL)
    said = {int(number) for number in re.findall(r"\b(\d+) ", line)}
    assert said == {0, 1, 3, 130, 143} | set(reporter.EXIT_CODES.values())


def test_every_verb_is_shown() -> None:
    from restorer.cli.app import app

    for command in app.registered_commands:
        assert f"restore {command.name}" in README
