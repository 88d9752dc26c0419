"""Models of the Hub, with the real client and a Hub on the loopback device: requests, cached files and messages.

huggingface_hub 1.20 and 2.4 both send exactly the requests in these logs. `make test-hub-min` runs this file with
version 1.20.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_fixtures import PICKLED, hub, model_files  # noqa: F401
from hub_server import COMMIT, Hub
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from restorer.errors import ModelError
from restorer.models import catalogue
from restorer.models.catalogue import Card
from restorer.models.hub import download
from restorer.models.hub.errors import Unreachable, clean
from restorer.models.hub.references import (
    Reference,
    Snapshot,
    choose_files,
    find_cached,
    find_revision,
    parse_reference,
    query_hub,
    weights_file,
)
from restorer.models.load import find_model, load_prior, weights_sha256

TESTS = Path(__file__).resolve().parents[2]
PINNED = f"org/model@{COMMIT}"
WEIGHTS = "diffusion_pytorch_model.safetensors"
NEEDED = ["config.json", "scheduler_config.json", WEIGHTS]
RESOLVE = f"/org/model/resolve/{COMMIT}"
API = f"GET /api/models/org/model/revision/{COMMIT}"


def cache_files() -> list[str]:
    """Return the names of all cached files that hold the content of a model or could be mistaken for it."""
    folder = Path(constants.HF_HUB_CACHE)
    kept = [p for p in folder.rglob("*") if p.is_file() and not {".locks", "refs", ".no_exist"} & set(p.parts)]
    return sorted(p.name for p in kept if p.name not in ("CACHEDIR.TAG", ".gitignore"))


def refusal(text: str) -> ModelError:
    """Return the error of a failed fetch, and check that its message and its hint are single printable lines."""
    with pytest.raises(ModelError) as caught:
        find_model(text)
    for line in (str(caught.value), caught.value.hint):
        assert line.isprintable() and "Traceback" not in line and len(line) < 400
    return caught.value


# --- references


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/model", Reference("org/model")),
        ("org/model@main", Reference("org/model", "main")),
        ("org/model@refs/pr/3", Reference("org/model", "refs/pr/3")),
        (f"org/model@{COMMIT}:a/b.pt", Reference("org/model", COMMIT, "a/b.pt")),
        ("org/model:b.pt", Reference("org/model", None, "b.pt")),
        ("name", None),
        ("./a/b", None),
        ("/a/b", None),
        ("a/b/c", None),
        ("~/a", None),
        ("", None),
    ],
)
def test_references(text: str, expected: Reference | None) -> None:
    assert parse_reference(text) == expected


def test_a_path_into_a_folder_that_is_here_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert parse_reference("runs/last") is None
    with pytest.raises(ModelError, match="neither a path nor a known name"):
        find_model("runs/last")


@pytest.mark.parametrize(
    "text",
    [
        "a/b:../c.pt",
        "a/b:/etc/passwd",
        "a/b:x/../../c.pt",
        "a/b@../../x",
        "a/b:c\\..\\d.pt",
        "a/b:c//d",
        "a/b:x\x1b[2J",
    ],
)
def test_names_that_lead_out_of_the_cache_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="does not name a file of a repository") as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()


def test_a_name_of_the_catalogue_is_its_commit() -> None:
    card = catalogue.cards()[0]
    assert parse_reference(card.name) == parse_reference(card.repo) == Reference(card.repo, card.revision)
    assert parse_reference(f"{card.repo}@main") == Reference(card.repo, "main")
    adm = parse_reference("adm-256")
    assert adm == parse_reference("deepinv/diffunet:diffusion_openai.pt") and adm is not None and adm.pinned
    assert parse_reference("deepinv/diffunet") == Reference("deepinv/diffunet")


def test_cards_are_whole() -> None:
    names = [card.name for card in catalogue.cards()]
    assert len(names) == len(set(names)) >= 8
    for card in catalogue.cards():
        assert Reference(card.repo, card.revision).pinned
        assert len(card.known_answer) in (0, 8) and card.licence and "/" not in card.name


def test_what_makes_a_model() -> None:
    def chosen(*names: str, file: str | None = None) -> list[str] | None:
        return choose_files(set(names).__contains__, file)

    both = (WEIGHTS, PICKLED)
    assert chosen("config.json", "scheduler_config.json", "model_index.json", *both, "run.py") == [
        "model_index.json",
        "config.json",
        "scheduler_config.json",
        WEIGHTS,
    ]
    parts = [
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "vqvae/config.json",
        f"vqvae/{PICKLED}",
        f"unet/{PICKLED}",
    ]
    assert chosen(*parts) == parts
    assert chosen(*(name for name in parts if name != f"vqvae/{PICKLED}")) is None
    assert chosen("config.json", "pytorch_model.bin") is None
    assert chosen("x/a.pt", "x/a.pt.json", "config.json", file="x/a.pt") == ["x/a.pt.json", "x/a.pt"]
    assert chosen("a.pt", file="b.pt") is None


# --- requests, and the files in the cache


def test_first_use_of_a_commit_then_none_at_all(hub: Hub) -> None:  # noqa: F811
    path = find_model(PINNED)
    assert hub.forget() == [API, *(f"{verb} {RESOLVE}/{name}" for name in NEEDED for verb in ("HEAD", "GET"))]
    assert sorted(p.name for p in path.iterdir()) == sorted(NEEDED)
    assert find_revision(path) == COMMIT and weights_file(path) == path / WEIGHTS
    assert weights_sha256(path) == hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
    download._fetched.clear()
    assert find_model(PINNED) == path == find_cached(Reference("org/model", COMMIT))
    assert hub.log == []


def test_it_works_as_a_prior(hub: Hub) -> None:  # noqa: F811
    prior = load_prior(PINNED, "cpu", "fp32")
    x = torch.randn(1, 3, 8, 8, generator=torch.manual_seed(0))
    assert prior.denoise(x, 0.5).shape == x.shape
    count = len(hub.log)
    assert load_prior(PINNED, "cpu", "fp32") is prior and len(hub.log) == count


def test_large_files_from_another_origin_without_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.redirects = True
    find_model(PINNED)
    assert hub.log[-2:] == [f"HEAD {RESOLVE}/{WEIGHTS}", f"GET cdn /cdn/{WEIGHTS}"]
    assert {token for request, token in hub.tokens if "cdn" not in request} == {"Bearer hf_secret"}
    assert [token for request, token in hub.tokens if "cdn" in request] == [None]


def test_a_branch_is_looked_up_each_time_and_serves_without_a_network(hub: Hub) -> None:  # noqa: F811
    path = find_model("org/model")
    assert find_revision(path) == COMMIT
    assert hub.forget()[0] == "GET /api/models/org/model"
    assert find_model("org/model") == path and hub.log == []  # one look-up per process
    download._fetched.clear()
    assert find_model("org/model") == path
    assert hub.forget() == ["GET /api/models/org/model"]
    download._fetched.clear()
    hub.fault("", status=500)
    assert find_model("org/model") == find_model("org/model@main") == path


def test_a_branch_that_moves(hub: Hub) -> None:  # noqa: F811
    before = find_model("org/model")
    hub.branches["main"] = "1" * 40
    hub.files["config.json"] += b"\n"
    hub.forget()
    download._fetched.clear()
    after = find_model("org/model")
    assert find_revision(after) == "1" * 40 and after != before
    # The weights are the same at both commits, so they are stored once and not downloaded again.
    assert not [line for line in hub.log if line.startswith("GET") and WEIGHTS in line]
    download._fetched.clear()
    hub.fault("", status=503)
    assert find_model("org/model") == after


def test_a_single_file_and_what_stands_beside_it(hub: Hub) -> None:  # noqa: F811
    hub.files = {"x/a.pt": hub.files[PICKLED], "x/a.pt.json": b"{}", "README.md": b""}
    path = find_model(f"{PINNED}:x/a.pt")
    assert path.name == "a.pt" and path.read_bytes() == hub.files["x/a.pt"]
    assert [line.split("/")[-1] for line in hub.log if line.startswith("GET /org")] == ["a.pt.json", "a.pt"]
    assert weights_file(path) == path and find_revision(path) == COMMIT
    hub.forget()
    assert find_cached(Reference("org/model", COMMIT, "x/a.pt")) == path and hub.log == []


def test_folders_of_the_newer_layout(hub: Hub) -> None:  # noqa: F811
    config, scheduler, weights = (hub.files[name] for name in NEEDED)
    hub.files = {
        "model_index.json": b'{"_class_name": "DDPMPipeline"}',
        "unet/config.json": config,
        "unet/diffusion_pytorch_model.safetensors": weights,
        "scheduler/scheduler_config.json": scheduler,
    }
    path = find_model(PINNED)
    assert weights_file(path) == path / "unet" / WEIGHTS
    assert {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} == set(hub.files)


def test_no_safetensors_no_harm(hub: Hub) -> None:  # noqa: F811
    del hub.files[WEIGHTS]
    assert weights_file(find_model(PINNED)).name == PICKLED


def test_progress_counts_every_byte_once_through_broken_connections(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(download, "CHUNK", 4096)
    size = len(hub.files[WEIGHTS])
    assert size > 30_000
    hub.redirects = True
    hub.fault(f"GET cdn .*{WEIGHTS}$", drop=20_000, times=1)
    seen: list[tuple[int, int | None]] = []
    find_model(PINNED, on_bytes=lambda name, done, total: seen.append((done, total)) if name == WEIGHTS else None)
    # The client keeps only whole chunks, so it continues after four of them.
    assert hub.log[-2:] == [f"GET cdn /cdn/{WEIGHTS}", f"GET cdn /cdn/{WEIGHTS} bytes=16384-"]
    assert seen[0][0] == 0 and seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_snapshot_has_sizes_and_licence_and_may_be_refused(hub: Hub) -> None:  # noqa: F811
    snapshot = query_hub(Reference("org/model"))
    assert (snapshot.commit, snapshot.licence) == (COMMIT, "apache-2.0")
    assert [file.name for file in snapshot.files] == NEEDED and snapshot.missing == snapshot.files
    assert snapshot.download_bytes == sum(len(hub.files[name]) for name in NEEDED)

    def refuse(snapshot: Snapshot) -> None:
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        find_model(PINNED, refuse)
    assert cache_files() == []
    find_model(PINNED)
    assert query_hub(Reference("org/model")).missing == ()


def test_an_interrupted_download_leaves_nothing_half_done(hub: Hub) -> None:  # noqa: F811
    def interrupt(name: str, done: int, total: int | None) -> None:
        if name == WEIGHTS and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_model(PINNED, on_bytes=interrupt)
    assert not [name for name in cache_files() if "incomplete" in name]
    assert find_cached(Reference("org/model", COMMIT)) is None
    assert find_cached(Reference("org/model", COMMIT)) is None and find_model(PINNED)


# --- failures and their messages (test_hostile.py has every bad answer)


def test_a_network_of_another_kind_is_refused_before_its_weights_come(hub: Hub) -> None:  # noqa: F811
    hub.files["config.json"] = json.dumps({"_class_name": "UNet2DConditionModel"}).encode()
    assert "is not a model that can be used here" in str(refusal("org/model"))
    assert not [line for line in hub.log if WEIGHTS in line]


def test_it_is_told_what_there_is_instead(hub: Hub) -> None:  # noqa: F811
    assert PICKLED in refusal(f"{PINNED}:nothing.pt").hint
    hub.files = {"weird\x1b[31m.pt": b"", "README.md": b""}
    assert "weird?[31m.pt" in refusal(PINNED).hint


def test_what_another_program_did_not_find_is_not_there(hub: Hub) -> None:  # noqa: F811
    """The client records a 404 in the cache as a value that is neither a path nor None."""
    del hub.files[WEIGHTS]
    find_model(PINNED)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/model", WEIGHTS, revision=COMMIT)
    assert not isinstance(try_to_load_from_cache("org/model", WEIGHTS, revision=COMMIT), (str, type(None)))
    path = find_cached(Reference("org/model", COMMIT))
    assert path is not None and weights_file(path).name == PICKLED


def test_of_the_two_bars_of_xet_one_is_shown() -> None:
    seen: list[tuple[str, int, int | None]] = []
    bar = download._progress_bar_class("a.bin", 30, lambda *progress: seen.append(progress))
    with bar(total=30, desc="a.bin: downloading"), bar(total=30, desc="a.bin: Reconstructing") as second:
        second.update(30)
    assert set(seen) == {("a.bin", 0, 30)}


def test_a_hash_of_the_card_is_held_against_the_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    card = Card("tiny", "org/model", COMMIT, "", 8, "", 1, 1, "MIT", sha256="0" * 64)
    monkeypatch.setattr(catalogue, "cards", lambda: (card,))
    error = refusal("tiny")
    assert "is not the expected file" in str(error) and "removed" in error.hint
    assert WEIGHTS not in cache_files() and find_cached(Reference("org/model", COMMIT)) is None
    good = replace(card, sha256=hashlib.sha256(hub.files[WEIGHTS]).hexdigest())
    monkeypatch.setattr(catalogue, "cards", lambda: (good,))
    assert find_revision(find_model("tiny")) == COMMIT


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    error = refusal(PINNED)
    assert isinstance(error, Unreachable) and "cannot be reached" in str(error)
    assert f"hf download org/model --revision {COMMIT} --local-dir model" in error.hint


def test_offline_by_choice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    path = find_model("org/model")
    download._fetched.clear()
    hub.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("org/model") == find_model(PINNED) == path
    error = refusal("adm-256")
    assert "not in the cache, and HF_HUB_OFFLINE is set" in str(error)
    assert "hf download deepinv/diffunet diffusion_openai.pt --revision 6b0a2cf45d" in error.hint
    assert "--model diffunet/diffusion_openai.pt" in error.hint
    assert hub.log == []


def test_strings_from_outside_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b[31m\u202eb\r\n") == "a?[31m?b??"
    assert len(clean("x" * 1000)) == 120


# --- the environment variables of the Hub, read by a real process


Child = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def child(hub: Hub, tmp_path: Path) -> Child:  # noqa: F811
    """Return a function that runs Python in a separate process, which sees only the Hub that its variables name."""

    def call(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]),
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": hub.endpoint,
            **variables,
        }
        code = f"import hub_server; hub_server.loopback_only()\n{code}"
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    return call


FETCH = f"""
import sys
from restorer.models.hub.download import fetch
from restorer.models.hub.references import parse_reference
print(fetch(parse_reference("{PINNED}")))
"""


def test_home_endpoint_and_token_are_the_hubs_own(hub: Hub, child: Child, tmp_path: Path) -> None:  # noqa: F811
    first = child(FETCH, HF_TOKEN="hf_mine", HF_HUB_DISABLE_TELEMETRY="1")
    assert first.returncode == 0, first.stderr
    assert Path(first.stdout.strip()).is_relative_to(tmp_path / "home" / "hub")
    assert {token for _, token in hub.tokens} == {"Bearer hf_mine"}
    hub.forget()
    again = child(FETCH + "assert 'torch' not in sys.modules")  # with telemetry and all other defaults on
    assert again.stdout == first.stdout and hub.log == []


def test_offline_is_told_at_once_and_without_torch(hub: Hub, child: Child) -> None:  # noqa: F811
    code = "import sys; from restorer.cli.app import run\n"
    code += "code = run(['denoise', 'img.png', '--model', 'adm-256'])\nassert 'torch' not in sys.modules\n"
    code = "from PIL import Image; Image.new('RGB', (8, 8)).save('img.png')\n" + code
    done = child(code + "sys.exit(code)", HF_HUB_OFFLINE="1")
    assert done.returncode == 5, done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr and "hf download deepinv/diffunet" in done.stderr
    assert hub.log == []
