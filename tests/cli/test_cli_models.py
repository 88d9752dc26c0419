"""Tests of `restore models` and of `--model` with a name on the Hub: exit codes, both streams, and the cache after."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_fixtures import TINY, Restore, hub, model_files, restore  # noqa: F401
from hub_server import COMMIT, Hub
from PIL import Image
from rich.console import Console

from restorer.cli.commands import models as command
from restorer.cli.terminal import downloads
from restorer.cli.terminal.reporter import Reporter
from restorer.errors import ModelError
from restorer.models import catalogue
from restorer.models.catalogue import Card
from restorer.models.checkpoints import load_model, save_model
from restorer.models.hub import download
from restorer.models.hub.references import Reference, find_cached
from restorer.models.load import weights_folder

pytestmark = pytest.mark.usefixtures("hub")
PINNED = f"org/model@{COMMIT}"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def known_answer(network: torch.nn.Module, size: int) -> tuple[float, ...]:
    """Return the first eight output values for the fixed input that `restorer.models.verify` defines."""
    torch.manual_seed(0)
    with torch.no_grad():
        out = network(torch.randn(1, 3, size, size), torch.tensor([10.0]))
    return tuple(out[0, 0, 0, :8].tolist())


@pytest.fixture
def card(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:  # noqa: F811
    """Make the tiny model the only one of the catalogue, with its known answer."""
    for name in ("config.json", "scheduler_config.json", WEIGHTS):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(hub.files[name])
    network, _ = load_model(tmp_path / "source")
    parameters = sum(p.numel() for p in network.parameters())
    answer = known_answer(network.eval(), 16)
    card = Card(
        "tiny", "org/model", COMMIT, "a tiny model", 16, "noise", parameters, 170_000, "MIT", known_answer=answer
    )
    monkeypatch.setattr(catalogue, "cards", lambda: (card,))
    return card


def test_list_tells_what_is_here(restore: Restore, hub: Hub) -> None:  # noqa: F811
    done = restore("models", "list", "--json")
    rows = {row["name"]: row for row in done.records}
    assert done.code == 0 and rows["photo"]["here"] and not rows["adm-256"]["here"]
    assert set(rows) == {"photo", *(card.name for card in catalogue.cards())}
    assert hub.log == []
    restore("models", "pull", "org/model", "-q")
    hub.forget()
    rows = {row["name"]: row for row in restore("models", "list", "--installed", "--json").records}
    assert set(rows) == {"photo", f"org/model@{COMMIT[:12]}"} and hub.log == []
    table = restore("models", "list").out
    assert f"org/model@{COMMIT[:12]}" in table and "552.8 M" in table and "BSD-3" in table


@pytest.mark.parametrize("width", [80, 200])
def test_the_list_fits_the_terminal(restore: Restore, monkeypatch: pytest.MonkeyPatch, width: int) -> None:  # noqa: F811
    """No cell is cut short, and the row of the embedded prior has its facts like any other row."""
    for name, value in {"COLUMNS": str(width), "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", restore("models", "list").out)
    assert max(map(len, shown.splitlines())) <= width and "\u2026" not in shown
    assert all(card.name in shown for card in catalogue.cards()) and "ImageNet" in shown
    (photo,) = (line.split() for line in shown.splitlines() if line.startswith("photo"))
    facts = catalogue.read_facts(weights_folder())
    assert photo[:6] == ["photo", "yes", f"{facts['bytes'] / 1e6:.1f}", "MB", "any", f"{facts['gflop']:g}"]
    if width == 200:
        assert [f"{facts['parameters'] / 1e6:.1f}", "M"] == photo[6:8] and photo[-2:] == ["mit", "photographs"]


def test_list_tells_what_is_too_large_for_this_machine(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(command, "total", lambda: 2_000_000_000)
    fits = {row["name"]: row["fits"] for row in restore("models", "list", "--json").records}
    assert fits["photo"] and fits["ddpm-cat-256"] and not fits["adm-256"]
    assert "needs 3.4 GB of memory, more than this machine has" in restore("models", "list").out


def test_pull_path_rm(restore: Restore, card: Card, hub: Hub) -> None:  # noqa: F811
    missing = restore("models", "path", "tiny")
    assert missing.code == 5 and "restore models pull tiny" in missing.err and hub.log == []
    pulled = restore("models", "pull", "tiny")
    assert pulled.code == 0 and Path(pulled.out.strip(), WEIGHTS).is_file()
    assert "download org/model@c0ffee000000 · 3 files · " in pulled.err and "licence apache-2.0" in pulled.err
    hub.forget()
    download._fetched.clear()
    again = restore("models", "pull", "tiny", "--json")
    assert again.records == [
        {"schema": 1, "event": "model", "name": "tiny", "path": pulled.out.strip(), "revision": COMMIT}
    ]
    assert restore("models", "path", "tiny").out == pulled.out and hub.log == []
    refused = restore("models", "rm", "tiny")
    assert refused.code == 2 and "add --yes" in refused.err
    removed = restore("models", "rm", "tiny", "--yes")
    assert removed.code == 0 and "removed org/model@c0ffee000000" in removed.err
    assert not Path(pulled.out.strip()).exists() and restore("models", "path", "tiny").code == 5
    assert restore("models", "rm", "tiny", "--yes").code == 5


def test_path_of_the_embedded_prior(restore: Restore) -> None:  # noqa: F811
    assert restore("models", "path", "photo").out.strip() == str(weights_folder())


def test_dry_run_downloads_nothing(restore: Restore, hub: Hub) -> None:  # noqa: F811
    done = restore("models", "pull", "org/model", "--dry-run")
    assert done.code == 0 and "173.2 kB" in done.out and "174.2 kB to download, " in done.out
    assert hub.log == ["GET /api/models/org/model"] and find_cached(Reference("org/model", COMMIT)) is None
    (record,) = restore("models", "pull", "org/model", "--dry-run", "--json").records
    assert record["bytes"] == sum(file["bytes"] for file in record["files"]) and record["revision"] == COMMIT
    assert not any(file["cached"] for file in record["files"])


def test_info(restore: Restore, card: Card, hub: Hub) -> None:  # noqa: F811
    (record,) = restore("models", "info", "tiny", "--json").records
    assert (record["licence"], record["here"], record["revision"]) == ("MIT", False, COMMIT) and hub.log == []
    assert "licence" in restore("models", "info", "tiny").out
    (record,) = restore("models", "info", "org/model@main", "--json").records
    assert record["revision"] == COMMIT and len(record["files"]) == 3 and record["licence"] == "apache-2.0"
    restore("models", "pull", "tiny")
    (record,) = restore("models", "info", "tiny", "--json").records
    assert record["here"] and record["bytes"] == len(hub.files[WEIGHTS])
    (record,) = restore("models", "info", "photo", "--json").records
    assert record["here"] and record["path"] == str(weights_folder())


def test_verify_asks_what_is_known(restore: Restore, card: Card, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    assert restore("models", "verify", "tiny").code == 5
    restore("models", "pull", "tiny")
    hub.forget()
    done = restore("models", "verify", "tiny")
    assert done.code == 0 and "hash correct" in done.err and "known answer within" in done.err
    (record,) = restore("models", "verify", "tiny", "--json", "-q").records
    assert record["answer_error"] < 1e-6 and hub.log == []
    assert "no known answer" in restore("models", "verify", tmp_path / "source").err


def test_verify_finds_another_network(restore: Restore, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    wrong = replace(card, known_answer=(*card.known_answer[:-1], card.known_answer[-1] + 0.01))
    monkeypatch.setattr(catalogue, "cards", lambda: (wrong,))
    restore("models", "pull", "tiny")
    done = restore("models", "verify", "tiny")
    assert done.code == 5 and "does not give its known answer: the error is 0.01" in done.err


def test_verify_removes_what_has_rotted(restore: Restore, card: Card) -> None:  # noqa: F811
    folder = Path(restore("models", "pull", "tiny").out.strip())
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    done = restore("models", "verify", "tiny")
    assert done.code == 5 and "is not the expected file" in done.err
    assert restore("models", "path", "tiny").code == 5
    assert restore("models", "pull", "tiny").code == 0 and restore("models", "verify", "tiny").code == 0


@pytest.mark.parametrize("name", ["nonsense", "../x", "a/b/c"])
@pytest.mark.parametrize("verb", ["info", "pull", "path", "verify"])
def test_names_that_mean_nothing(restore: Restore, verb: str, name: str) -> None:  # noqa: F811
    done = restore("models", verb, name)
    assert done.code == 5 and "is neither a name in the catalogue nor" in done.err and "hint: " in done.err


def test_the_embedded_one_stays(restore: Restore) -> None:  # noqa: F811
    done = restore("models", "rm", "photo", "--yes")
    assert done.code == 5 and "photo is part of the program" in done.err
    assert restore("models", "verify", "photo").code == 0


def test_what_the_hub_says_cannot_steer_the_terminal(restore: Restore, hub: Hub) -> None:  # noqa: F811
    hub.tags = ["license:\x1b[2J[bold red]free[/]"]
    done = restore("models", "pull", "org/model")
    assert done.code == 0 and "\x1b" not in done.err and "?[2J[bold red]free[/]" in done.err


def test_model_of_the_hub_restores_a_picture(restore: Restore, card: Card, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save("a.png")
    line = ["denoise", "a.png", "--sigma", 20, "--steps", 1, "--model", "tiny", "-d", "cpu", "--json", "--overwrite"]
    first = restore(*line)
    assert first.code == 0, first.err
    assert "download org/model@c0ffee000000" in first.err and "trained on noise only" in first.err
    model = first.records[0]["model"]
    assert model["id"] == "tiny" and model["revision"] == COMMIT and len(model["sha256"]) == 64
    hub.forget()
    download._fetched.clear()
    hub.fault("", status=500)
    assert restore(*line).code == 0 and hub.log == []


def test_model_that_is_not_there(restore: Restore, hub: Hub) -> None:  # noqa: F811
    Image.new("RGB", (8, 8)).save("a.png")
    done = restore("denoise", "a.png", "--model", "org/other")
    assert done.code == 5 and "no such repository" in done.err and "Traceback" not in done.err
    hub.fault("", status=500)
    done = restore("upscale", "a.png", "--model", PINNED, "--json")
    assert done.code == 5 and done.records[0]["code"] == 5 and "hf download" in done.records[0]["hint"]


class Terminal:
    """A terminal with a user who gives the same answer to every question."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
        self.questions: list[str] = []
        self.answer = answer
        monkeypatch.setattr(downloads, "is_interactive", lambda: True)
        monkeypatch.setattr(command, "is_interactive", lambda: True)
        monkeypatch.setattr("typer.confirm", self.confirm)

    def confirm(self, question: str, **options: Any) -> bool:
        self.questions.append(question)
        return self.answer


def test_above_a_gigabyte_it_asks(restore: Restore, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(downloads, "CONFIRM_ABOVE_BYTES", 100_000)
    terminal = Terminal(monkeypatch, answer=False)
    done = restore("models", "pull", PINNED)
    assert done.code == 5 and "was not downloaded" in done.err and len(terminal.questions) == 1
    assert not [line for line in hub.log if line.startswith("HEAD")]
    assert restore("models", "pull", PINNED, "--yes").code == 0 and len(terminal.questions) == 1
    assert restore("models", "rm", PINNED).code == 0 and restore("models", "path", PINNED).code == 0
    terminal.answer = True
    assert restore("models", "rm", PINNED).code == 0 and restore("models", "path", PINNED).code == 5
    assert len(terminal.questions) == 3


def test_bars_count_bytes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(Reporter, "is_live", True)
    reporter = Reporter()
    reporter.console = Console(force_terminal=True, width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    downloads.pull(Reference("org/model", COMMIT), reporter)
    shown = reporter.console.export_text()
    assert WEIGHTS in shown and "173.2/173.2 kB" in shown


def test_a_folder_of_ones_own_is_no_business_of_the_hub(restore: Restore, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    save_model(tmp_path / "org" / "model", TINY.network.build(), TINY)
    assert restore("models", "path", "org/model").out.strip() == str(tmp_path / "org" / "model")
    downloads.ensure_downloaded("org/model", Reporter())
    assert hub.log == []
    with pytest.raises(ModelError, match="no such repository"):  # with a commit, the name can only be a repository
        downloads.ensure_downloaded(PINNED.replace("model", "other"), Reporter())
