"""Wrong, useless and malicious answers of a Hub: by name, how to give them, and a part of the expected message.

The repository is the one of `hub_fixtures`; every answer is given to a request for its pinned commit.
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
INVALID = "answer is invalid"


def answers(pattern: str, **answer: Any) -> Setup:
    """Return a setup that gives the fields of `hub_server.Fault` as the answer to matching requests."""
    return lambda server, patch: server.fault(pattern, **answer)


def redirect(pattern: str, location: str) -> Setup:
    return answers(pattern, status=302, headers={"Location": location})


def content_length(text: str) -> Setup:
    """Return a setup that announces a wrong length for the weights."""
    return answers(BYTES, headers={"Content-Length": text})


def hub_error(status: int, code: str = "", message: str = "") -> dict[str, Any]:
    """Return the fields of an error answer with the headers that the Hub sends."""
    return {"status": status, "headers": {"X-Error-Code": code, "X-Error-Message": message}, "body": b""}


def listing(**fields: Any) -> Setup:
    """Return a setup that answers with a list of the repository's files with changed fields."""
    return lambda server, patch: server.fault(API, body=json.dumps({**server.listing(COMMIT), **fields}).encode())


def listed_weights(size: int) -> Setup:
    """Return a setup that lists the weights with a given size and a wrong hash."""

    def setup(server: Hub, patch: pytest.MonkeyPatch) -> None:
        content = server.listing(COMMIT)
        lfs = {"size": size, "sha256": "0" * 64, "pointerSize": 134}
        files = [{**file, "lfs": lfs} if file["rfilename"] == WEIGHTS else file for file in content["siblings"]]
        server.fault(API, body=json.dumps({**content, "siblings": files}).encode())

    return setup


def other_bytes(server: Hub, patch: pytest.MonkeyPatch) -> None:
    """Flip one bit of the weights."""
    server.fault(BYTES, body=server.files[WEIGHTS][:-1] + bytes([server.files[WEIGHTS][-1] ^ 1]))


def other_bytes_after_a_redirect(server: Hub, patch: pytest.MonkeyPatch) -> None:
    server.redirects = True
    other_bytes(server, patch)


def redirect_to_missing_file(server: Hub, patch: pytest.MonkeyPatch) -> None:
    """Redirect to the other origin, which does not have the file."""
    server.fault(f"(HEAD|GET) .*{WEIGHTS}", status=302, headers={"Location": f"{server.cdn}/cdn/nothing"})


def other_bytes_after_a_break(server: Hub, patch: pytest.MonkeyPatch) -> None:
    server.fault(BYTES, drop=20_000, times=1)
    other_bytes(server, patch)


def client_constant(name: str, value: Any) -> Setup:
    """Return a setup that changes a constant of the client."""
    return lambda server, patch: patch.setattr(constants, name, value)


def changed_files(change: Callable[[dict[str, bytes]], object]) -> Setup:
    """Return a setup that changes the files of the repository, with sizes and hashes that match."""
    return lambda server, patch: change(server.files)


def malicious_pickle(files: dict[str, bytes]) -> None:
    del files[WEIGHTS]
    content = io.BytesIO()
    torch.save(system_call(Path("trap")), content)
    files[PICKLED] = content.getvalue()


def sharded_weights(files: dict[str, bytes]) -> None:
    del files[WEIGHTS], files[PICKLED]
    files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": {"conv_in.weight": f"../../{WEIGHTS}"}}).encode()


def config_with(**fields: Any) -> Setup:
    """Return a setup that changes fields of config.json."""

    def change(files: dict[str, bytes]) -> None:
        files[CONFIG] = json.dumps({**json.loads(files[CONFIG]), **fields}).encode()

    return changed_files(change)


SERVER: dict[str, tuple[Setup, str]] = {
    # Refusals.
    "gated": (answers(API, **hub_error(403, "GatedRepo")), "terms to be accepted"),
    "gated file": (answers(f"HEAD .*{WEIGHTS}", **hub_error(403, "GatedRepo")), "terms to be accepted"),
    "disabled": (answers(API, **hub_error(403, "", "Access to this resource is disabled.")), "has disabled this"),
    "forbidden": (answers(API, **hub_error(403)), "forbids access"),
    "unknown or private": (answers(API, **hub_error(401, "RepoNotFound")), "no such repository"),
    "unknown, without a code": (answers(API, **hub_error(401)), "no such repository|with this token"),
    "token": (answers(API, **hub_error(401, "", "Invalid credentials in Authorization header")), "with this token"),
    "gone": (answers(API, **hub_error(404, "RepoNotFound")), "no such repository"),
    "revision": (answers(API, **hub_error(404, "RevisionNotFound")), "no such revision"),
    "file gone": (answers(f"HEAD .*{WEIGHTS}", **hub_error(404, "EntryNotFound")), "a file is gone"),
    "not found": (answers(API, **hub_error(404)), "error 404"),
    "bad request": (answers(API, **hub_error(400, "", "[bold red]do this[/]")), "error 400"),
    "too many": (answers(API, **hub_error(429)), "too many requests"),
    "too many for a file": (answers(f"HEAD .*{WEIGHTS}", **hub_error(429)), "too many requests"),
    "500": (answers(API, **hub_error(500)), "error 500"),
    "503 for a file": (answers(HEAD, **hub_error(503)), "error 503"),
    "500 for the bytes": (answers(BYTES, status=500, body=b""), "error 500"),
    "500 with bytes": (answers(BYTES, status=500, body=b"\xff\xfe"), f"error 500|{INVALID}"),
    "416": (answers(BYTES, status=416, body=b""), "error 416"),
    # Lists of files.
    "no JSON": (answers(API, body=b"<html>log in</html>"), INVALID),
    "JSON of another kind": (answers(API, body=b"[1, 2]"), INVALID),
    "empty JSON": (answers(API, body=b"{}"), INVALID),
    "no content": (answers(API, status=204, body=b""), INVALID),
    "JSON 100,000 deep": (answers(API, body=b"[" * 100_000), INVALID),
    "siblings of another kind": (listing(siblings=[3]), INVALID),
    "a date of another kind": (listing(lastModified="yesterday"), INVALID),
    "no commit": (answers(API, body=b'{"id": "a/b", "siblings": []}'), "another commit"),
    "a commit that is a path": (listing(sha="../../x"), "another commit, ../../x"),
    "another commit": (listing(sha="2" * 40), "another commit"),
    "no files": (listing(siblings=[]), "no U-Net in the layout"),
    "names that lead out": (listing(siblings=[{"rfilename": f"../../{CONFIG}"}]), "no U-Net in the layout"),
    "a name that steers": (listing(siblings=[{"rfilename": "a\x1b[2J[bold]b[/].pt"}]), "no U-Net in the layout"),
    "a file of exabytes": (listed_weights(10**18), "the disk of the cache has"),
    "a hash of another file": (listed_weights(9), "is not the expected file"),
    # Answers about a file.
    "not a Hub": (answers(HEAD, headers={"X-Repo-Commit": ""}), f"{INVALID}|is not a Hub"),
    "a file of another commit": (answers(HEAD, headers={"X-Repo-Commit": "3" * 40}), INVALID),
    "a commit that leads out": (answers(HEAD, headers={"X-Repo-Commit": "../../../x"}), INVALID),
    "a tag that leads out": (answers(HEAD, headers={"ETag": '"../../../evil"'}), INVALID),
    "config is huge": (answers(HEAD, headers={"Content-Length": "100000"}), "larger than 65536 bytes"),
    "redirect to nowhere": (redirect(CONFIG, "ftp://x/"), "cannot be reached"),
    "redirect to a file": (redirect(CONFIG, "file:///etc/passwd"), "cannot be reached|error 404"),
    "redirect without end": (redirect(CONFIG, f"/org/model/resolve/{COMMIT}/{CONFIG}"), "cannot be reached"),
    "list without end": (redirect(API, "/api/models/org/model"), "cannot be reached"),
    "redirect to where there is no file": (redirect_to_missing_file, "."),
    # Bodies.
    "stalled answer": (answers(API, stall=3), "cannot be reached"),
    "stalled body": (answers(BYTES, stall=5000), "cannot be reached"),
    "dropped for good": (answers(BYTES, drop=0), "cannot be reached"),
    "hung up": (answers(API, drop=0), "cannot be reached"),
    "too short": (answers(BYTES, body=b"short"), "could not be stored"),
    "a length too large": (content_length("999999"), "cannot be reached|could not be stored"),
    "a length too small": (content_length("999"), "could not be stored"),
    "a length of words": (content_length("many"), f"cannot be reached|{INVALID}"),
    "without end": (answers(BYTES, body=bytes(4_000_000)), "sends more than"),
    "a body that unfolds": (
        answers(BYTES, body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}), "sends more than"
    ),
    "wrong bytes": (other_bytes, "is not the expected file"),
    "wrong bytes elsewhere": (other_bytes_after_a_redirect, "is not the expected file"),
    "wrong bytes after a break": (other_bytes_after_a_break, "is not the expected file|could not be stored"),
    "config is no JSON": (answers(f"(GET|HEAD) .*/{CONFIG}", body=b"\x80garbage"), "is not valid JSON"),
    "config is a list": (answers(f"(GET|HEAD) .*/{CONFIG}", body=b"[]"), "is not a JSON object"),
    "config is deep": (answers(f"(GET|HEAD) .*/{CONFIG}", body=b"[" * 60_000), "is not valid JSON"),
    # Models whose files match their hashes, but which are unusable or malicious.
    "score model": (config_with(down_block_types=["SkipDownBlock2D"] * 2), r"VE\), not a DDPM"),
    "text-conditional": (config_with(_class_name="UNet2DConditionModel"), "text-conditional"),
    "a network of another kind": (config_with(act_fn=[]), "is not a model that can be used here"),
    "pickle that asks": (changed_files(malicious_pickle), r"asks for (posix|nt)\.system"),
    "weights in parts": (changed_files(sharded_weights), "no U-Net in the layout"),
    # No network.
    "nobody answers": (client_constant("ENDPOINT", "http://127.0.0.1:1"), "cannot be reached"),
    "open wire": (client_constant("ENDPOINT", "http://server.example.org"), "is not encrypted"),
    "offline": (client_constant("HF_HUB_OFFLINE", True), "HF_HUB_OFFLINE is set"),
    "no room": (lambda server, patch: patch.setattr(download, "free_bytes", lambda: 1000), "0.00 GB left"),
}  # fmt: skip
