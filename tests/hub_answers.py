"""Answers of a Hub that are wrong, useless or mean harm: by name, how to give them, and a word of what is said of them.

The repository is that of `hub_fixtures`; every answer is one to a request for it at its commit.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_broken import CONFIG, PICKLED, WEIGHTS, system_call
from hub_server import COMMIT, Hub
from huggingface_hub import constants

from restorer.models.hub import download

__all__ = ["SERVER", "Setup"]

Setup = Callable[[Hub, pytest.MonkeyPatch], object]
API, HEAD, BYTES = "GET /api", f"HEAD .*/{CONFIG}", f"GET .*{WEIGHTS}"
SENSELESS = "answer makes no sense"


def answers(pattern: str, **answer: Any) -> Setup:
    return lambda server, patch: server.fault(pattern, **answer)


def redirect(pattern: str, place: str) -> Setup:
    return answers(pattern, status=302, headers={"Location": place})


def length(text: str) -> Setup:
    return answers(BYTES, headers={"Content-Length": text})


def coded(status: int, code: str = "", message: str = "") -> dict[str, Any]:
    return {"status": status, "headers": {"X-Error-Code": code, "X-Error-Message": message}, "body": b""}


def listing(**new: Any) -> Setup:
    """A list of the files of the repository with other fields."""
    return lambda server, patch: server.fault(API, body=json.dumps({**server.listing(COMMIT), **new}).encode())


def weights_of(size: int) -> Setup:
    """The same with weights of another size and hash."""

    def setup(server: Hub, patch: pytest.MonkeyPatch) -> None:
        content = server.listing(COMMIT)
        lfs = {"size": size, "sha256": "0" * 64, "pointerSize": 134}
        files = [{**file, "lfs": lfs} if file["rfilename"] == WEIGHTS else file for file in content["siblings"]]
        server.fault(API, body=json.dumps({**content, "siblings": files}).encode())

    return setup


def other_bytes(server: Hub, patch: pytest.MonkeyPatch) -> None:
    server.fault(BYTES, body=server.files[WEIGHTS][:-1] + bytes([server.files[WEIGHTS][-1] ^ 1]))


def other_bytes_elsewhere(server: Hub, patch: pytest.MonkeyPatch) -> None:
    server.redirects = True
    other_bytes(server, patch)


def elsewhere(server: Hub, patch: pytest.MonkeyPatch) -> None:
    """At another origin, where the bytes should be, there is no such file."""
    server.fault(f"(HEAD|GET) .*{WEIGHTS}", status=302, headers={"Location": f"{server.cdn}/cdn/nothing"})


def other_bytes_after_a_break(server: Hub, patch: pytest.MonkeyPatch) -> None:
    server.fault(BYTES, drop=20_000, times=1)
    other_bytes(server, patch)


def client(name: str, value: Any) -> Setup:
    return lambda server, patch: patch.setattr(constants, name, value)


def holding(change: Callable[[dict[str, bytes]], object]) -> Setup:
    """A repository of other files, all of them as promised."""
    return lambda server, patch: change(server.files)


def pickle_that_asks(files: dict[str, bytes]) -> None:
    del files[WEIGHTS]
    content = io.BytesIO()
    torch.save(system_call(Path("trap")), content)
    files[PICKLED] = content.getvalue()


def in_parts(files: dict[str, bytes]) -> None:
    del files[WEIGHTS], files[PICKLED]
    files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": {"conv_in.weight": f"../../{WEIGHTS}"}}).encode()


def config_with(**new: Any) -> Setup:
    return holding(lambda files: files.update({CONFIG: json.dumps({**json.loads(files[CONFIG]), **new}).encode()}))


SERVER: dict[str, tuple[Setup, str]] = {
    # Refusals.
    "gated": (answers(API, **coded(403, "GatedRepo")), "terms to be accepted"),
    "gated file": (answers(f"HEAD .*{WEIGHTS}", **coded(403, "GatedRepo")), "terms to be accepted"),
    "disabled": (answers(API, **coded(403, "", "Access to this resource is disabled.")), "has disabled this"),
    "forbidden": (answers(API, **coded(403)), "forbids it"),
    "unknown or private": (answers(API, **coded(401, "RepoNotFound")), "no such repository"),
    "unknown, without a code": (answers(API, **coded(401)), "no such repository|with this token"),
    "token": (answers(API, **coded(401, "", "Invalid credentials in Authorization header")), "with this token"),
    "gone": (answers(API, **coded(404, "RepoNotFound")), "no such repository"),
    "revision": (answers(API, **coded(404, "RevisionNotFound")), "no such revision"),
    "file gone": (answers(f"HEAD .*{WEIGHTS}", **coded(404, "EntryNotFound")), "a file is gone"),
    "not found": (answers(API, **coded(404)), "error 404"),
    "bad request": (answers(API, **coded(400, "", "[bold red]do this[/]")), "error 400"),
    "too many": (answers(API, **coded(429)), "too many requests"),
    "too many for a file": (answers(f"HEAD .*{WEIGHTS}", **coded(429)), "too many requests"),
    "500": (answers(API, **coded(500)), "error 500"),
    "503 for a file": (answers(HEAD, **coded(503)), "error 503"),
    "500 for the bytes": (answers(BYTES, status=500, body=b""), "error 500"),
    "500 with bytes": (answers(BYTES, status=500, body=b"\xff\xfe"), f"error 500|{SENSELESS}"),
    "416": (answers(BYTES, status=416, body=b""), "error 416"),
    # Lists of files.
    "no JSON": (answers(API, body=b"<html>log in</html>"), SENSELESS),
    "JSON of another kind": (answers(API, body=b"[1, 2]"), SENSELESS),
    "empty JSON": (answers(API, body=b"{}"), SENSELESS),
    "no content": (answers(API, status=204, body=b""), SENSELESS),
    "JSON 100,000 deep": (answers(API, body=b"[" * 100_000), SENSELESS),
    "siblings of another kind": (listing(siblings=[3]), SENSELESS),
    "a date of another kind": (listing(lastModified="yesterday"), SENSELESS),
    "no commit": (answers(API, body=b'{"id": "a/b", "siblings": []}'), "another commit"),
    "a commit that is a path": (listing(sha="../../x"), "another commit, ../../x"),
    "another commit": (listing(sha="2" * 40), "another commit"),
    "no files": (listing(siblings=[]), "no U-Net in the layout"),
    "names that lead out": (listing(siblings=[{"rfilename": f"../../{CONFIG}"}]), "no U-Net in the layout"),
    "a name that steers": (listing(siblings=[{"rfilename": "a\x1b[2J[bold]b[/].pt"}]), "no U-Net in the layout"),
    "a file of exabytes": (weights_of(10**18), "the disk of the cache has"),
    "a hash of another file": (weights_of(9), "not what it should be"),
    # Answers about a file.
    "no Hub": (answers(HEAD, headers={"X-Repo-Commit": ""}), f"{SENSELESS}|no Hub"),
    "a file of another commit": (answers(HEAD, headers={"X-Repo-Commit": "3" * 40}), SENSELESS),
    "a commit that leads out": (answers(HEAD, headers={"X-Repo-Commit": "../../../x"}), SENSELESS),
    "a tag that leads out": (answers(HEAD, headers={"ETag": '"../../../evil"'}), SENSELESS),
    "config is huge": (answers(HEAD, headers={"Content-Length": "100000"}), "larger than 65536 bytes"),
    "redirect to nowhere": (redirect(CONFIG, "ftp://x/"), "cannot be reached"),
    "redirect to a file": (redirect(CONFIG, "file:///etc/passwd"), "cannot be reached|error 404"),
    "redirect without end": (redirect(CONFIG, f"/org/model/resolve/{COMMIT}/{CONFIG}"), "cannot be reached"),
    "list without end": (redirect(API, "/api/models/org/model"), "cannot be reached"),
    "redirect to where there is no file": (elsewhere, "."),
    # Bodies.
    "stalled answer": (answers(API, stall=3), "cannot be reached"),
    "stalled body": (answers(BYTES, stall=5000), "cannot be reached"),
    "dropped for good": (answers(BYTES, drop=0), "cannot be reached"),
    "hung up": (answers(API, drop=0), "cannot be reached"),
    "too short": (answers(BYTES, body=b"short"), "could not be stored"),
    "a length too large": (length("999999"), "cannot be reached|could not be stored"),
    "a length too small": (length("999"), "could not be stored"),
    "a length of words": (length("many"), f"cannot be reached|{SENSELESS}"),
    "without end": (answers(BYTES, body=bytes(4_000_000)), "sends more than"),
    "a body that unfolds": (
        answers(BYTES, body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}), "sends more than"
    ),
    "wrong bytes": (other_bytes, "not what it should be"),
    "wrong bytes elsewhere": (other_bytes_elsewhere, "not what it should be"),
    "wrong bytes after a break": (other_bytes_after_a_break, "not what it should be|could not be stored"),
    "config is no JSON": (answers(f"(GET|HEAD) .*/{CONFIG}", body=b"\x80garbage"), "is no JSON"),
    "config is a list": (answers(f"(GET|HEAD) .*/{CONFIG}", body=b"[]"), "is no JSON object"),
    "config is deep": (answers(f"(GET|HEAD) .*/{CONFIG}", body=b"[" * 60_000), "is no JSON"),
    # Models that are what they were promised to be, and of no use or worse.
    "score model": (config_with(down_block_types=["SkipDownBlock2D"] * 2), r"VE\), not a DDPM"),
    "text-conditional": (config_with(_class_name="UNet2DConditionModel"), "text-conditional"),
    "a network of another kind": (config_with(act_fn=[]), "is no model that can be used here"),
    "pickle that asks": (holding(pickle_that_asks), r"asks for (posix|nt)\.system"),
    "weights in parts": (holding(in_parts), "no U-Net in the layout"),
    # No network.
    "nobody answers": (client("ENDPOINT", "http://127.0.0.1:1"), "cannot be reached"),
    "open wire": (client("ENDPOINT", "http://server.example.org"), "is not encrypted"),
    "offline": (client("HF_HUB_OFFLINE", True), "HF_HUB_OFFLINE is set"),
    "no room": (lambda server, patch: patch.setattr(download, "free_bytes", lambda: 1000), "0.00 GB left"),
}  # fmt: skip
