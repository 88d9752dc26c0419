"""Models of the Hugging Face Hub: which files a model is, and whether they are here.

The cache is the Hub's own, and so are the variables that steer it: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE. What
is asked for by its commit and lies in the cache costs no request. Otherwise one request tells the commit, the files and
their sizes; `download` fetches those that make a model.

`huggingface_hub` is imported on first use, PyTorch never.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from restorer.errors import ModelError
from restorer.models.catalogue import Card, card_of
from restorer.models.hub.errors import clean, explained
from restorer.models.layout import (
    CONFIG,
    DECODERS,
    INDEX,
    PICKLED,
    SAFETENSORS,
    SCHEDULER,
    SCHEDULER_PLACES,
    USABLE_DECODERS,
)

__all__ = [
    "Plan",
    "Reference",
    "Remote",
    "cached",
    "choose",
    "client",
    "elsewhere",
    "files_of",
    "in_cache",
    "parse",
    "plan",
    "revision_of",
    "weights_of",
]

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
REFERENCE = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@:]+))?(:(?P<file>.+))?", re.ASCII)
MAX_JSON = 64 * 1024

WEIGHTS = (SAFETENSORS, PICKLED)  # the safe format first
AUTOENCODERS = tuple(f"{part}/" for part in USABLE_DECODERS)
LOCAL_AUTOENCODERS = tuple(f"{part}/" for part in DECODERS)


@dataclass(frozen=True)
class Reference:
    """REPO[@REV][:FILE], or a name of the catalogue.

    Args:
        repo: "organization/name".
        revision: a commit, branch or tag; None for the tip of main.
        file: one file of the repository; None for a model in diffusers' layout.
        card: what the catalogue knows of it.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    card: Card | None = field(default=None, compare=False)

    @property
    def pinned(self) -> bool:
        """Whether it can only ever mean the same bytes."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        revision = f"@{self.revision[:12] if self.pinned else self.revision}" if self.revision else ""
        return clean(f"{self.repo}{revision}{f':{self.file}' if self.file else ''}")


@dataclass(frozen=True)
class Remote:
    """A file on the Hub: its name, its bytes and its SHA-256, as far as the Hub tells them."""

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a model is on the Hub: the files in the order they are fetched, and those that are not here yet."""

    reference: Reference
    commit: str
    files: tuple[Remote, ...]
    missing: tuple[Remote, ...]
    licence: str | None

    @property
    def bytes(self) -> int:
        """What is to be downloaded, as far as the Hub tells."""
        return sum(file.size or 0 for file in self.missing)


def parse(text: str) -> Reference | None:
    """A name of the catalogue or REPO[@REV][:FILE] as a reference; None for anything else, such as a path.

    Raises:
        ModelError: it has the form of a reference, but its revision or file cannot be one.
    """
    if card := card_of(text):
        return Reference(card.repo, card.revision, card.file, card)
    match = REFERENCE.fullmatch(text)
    if match is None:
        return None
    repo, revision, file = match["repo"], match["revision"], match["file"]
    if text == repo and Path(PurePosixPath(repo).parts[0]).is_dir():  # a path into a folder that is here
        return None
    for part in (revision, file):
        if part is not None and not _is_plain(part):
            raise ModelError(
                f"{clean(text)} names no file of a repository", "the form is ORGANIZATION/NAME[@REV][:FILE]"
            )
    card = card_of(repo, file)
    if card is not None and revision in (None, card.revision):
        return Reference(repo, card.revision, file, card)
    return Reference(repo, revision, file)


def _is_plain(name: str) -> bool:
    """Whether a relative path stays below where it begins, on any system."""
    parts = name.split("/")
    return name.isprintable() and not set(name) & set('\\:*?"<>|') and not {"", ".", ".."} & set(parts)


def choose(has: Callable[[str], bool], file: str | None = None) -> list[str] | None:
    """The files that make a model, what describes it first and the network's weights last; None if there is no model.

    Args:
        has: whether a name is there.
        file: one file that is the model; what a raw file cannot tell may stand in FILE.json beside it.
    """
    if file is not None:
        beside = f"{PurePosixPath(file).parent}/".removeprefix("./")
        told = (f"{file}.json", f"{beside}{CONFIG}", f"{beside}{SCHEDULER}")
        return [*filter(has, told), file] if has(file) else None
    for folder, schedulers in SCHEDULER_PLACES.items():
        weights = _weights(has, folder)
        if weights is None or not has(f"{folder}{CONFIG}"):
            continue
        decoders = [part for part in AUTOENCODERS if folder and has(f"{part}{CONFIG}")]
        heavy = [_weights(has, part) for part in decoders]
        if None in heavy:
            return None
        told = (INDEX, f"{folder}{CONFIG}", next(filter(has, schedulers), SCHEDULER))
        return [*filter(has, told), *(f"{part}{CONFIG}" for part in decoders), *filter(None, heavy), weights]
    return None


def _weights(has: Callable[[str], bool], folder: str) -> str | None:
    return next((folder + name for name in WEIGHTS if has(folder + name)), None)


def files_of(model: Path) -> list[Path]:
    """The files of a model which lies on this machine, the weights of its network last.

    Whatever may say what they mean is among them, read or not: `restorer.models.checkpoints` knows which is.
    """
    file = None if model.is_dir() or model.suffix == ".json" else model
    folder = model if model.is_dir() else model.parent
    names = choose(lambda name: (folder / name).is_file())
    weights = file or folder / (names[-1] if names else WEIGHTS[0])
    root = folder.parent if folder.name == "unet" else folder
    parts = ("", "unet/", "scheduler/", *LOCAL_AUTOENCODERS)
    told = [root / f"{part}{name}" for part in parts for name in (INDEX, CONFIG, SCHEDULER)]
    told += [] if file is None else [file.with_name(f"{file.name}.json"), file.with_suffix(".json")]
    heavy = [root / f"{part}{name}" for part in LOCAL_AUTOENCODERS for name in WEIGHTS]
    return [*(path for path in dict.fromkeys((*told, *heavy)) if path.is_file()), weights]


def weights_of(model: Path) -> Path:
    """The file that holds a network's weights: the path itself, or the one in a folder of diffusers' layout."""
    return files_of(model)[-1]


def revision_of(model: Path) -> str | None:
    """The commit that a path in the Hub's cache belongs to; None for any other path."""
    parts = model.parts
    return next((b for a, b in pairwise(parts) if a == "snapshots" and COMMIT.fullmatch(b)), None)


def cached(reference: Reference) -> Path | None:
    """The folder or file of a model that lies whole in the cache; None if it does not. Never makes a request.

    Raises:
        ModelError: the repository's name is malformed.
    """
    from huggingface_hub import try_to_load_from_cache

    def find(name: str) -> str | None:
        found = try_to_load_from_cache(reference.repo, name, revision=reference.revision or "main")
        return found if isinstance(found, str) else None

    with explained(str(reference)):
        names = choose(lambda name: find(name) is not None, reference.file)
        path = find(names[-1]) if names else None
    if names is None or path is None:
        return None
    if reference.file:
        return Path(path)
    # Another program may have fetched the network alone; whether there is more to it, only the Hub knows.
    complete = any(PurePosixPath(name).name == SCHEDULER for name in names)
    folder = Path(path).parents[len(PurePosixPath(names[-1]).parts) - 1]
    return folder if complete and not (INDEX in names and _lacks_autoencoder(folder, names)) else None


def _lacks_autoencoder(folder: Path, names: list[str]) -> bool:
    """Whether a model's index tells of an autoencoder that is not among its files."""
    try:
        index = json.loads((folder / INDEX).read_bytes()[:MAX_JSON])
    except (OSError, ValueError, RecursionError):
        return False  # damaged: whoever loads the model says so
    parts = [part for part in AUTOENCODERS if isinstance(index, dict) and part.strip("/") in index]
    return bool(parts) and not any(f"{part}{CONFIG}" in names for part in parts)


def plan(reference: Reference) -> Plan:
    """Ask the Hub, with one request, what a model consists of.

    Raises:
        Unreachable: no network, the Hub is down, or HF_HUB_OFFLINE is set.
        ModelError: it refuses, there is no such thing, or what is there is no model of a known layout.
    """
    constants = client()
    from huggingface_hub import HfApi

    with explained(str(reference), elsewhere(reference)):
        info = HfApi().model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        commit = str(info.sha)
        remote = {str(s.rfilename): Remote(s.rfilename, *_facts(s)) for s in info.siblings or ()}
        tags = [str(tag) for tag in info.tags or ()]
    if not COMMIT.fullmatch(commit) or (reference.pinned and commit != reference.revision):
        raise ModelError(f"{reference}: the Hub answers with another commit, {clean(commit)}", "check HF_ENDPOINT")
    names = choose(remote.__contains__, reference.file)
    if names is None:
        raise _no_model(reference, sorted(remote))
    for name in names:
        if name.endswith(".json") and (remote[name].size or 0) > MAX_JSON:
            text = f"{reference}: {clean(name)} is larger than {MAX_JSON} bytes"
            raise ModelError(text, "it is no configuration")
    files = tuple(remote[name] for name in names)
    pinned = Reference(reference.repo, commit)
    missing = tuple(file for file in files if in_cache(pinned, file.name) is None)
    licence = next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None)
    return Plan(reference, commit, files, missing, clean(licence) if licence else None)


def _facts(sibling: Any) -> tuple[int | None, str | None]:
    """Size and SHA-256 of a file as the Hub tells them; what makes no sense is left out."""
    lfs = sibling.lfs
    size = lfs.size if lfs else sibling.size
    sha256 = lfs.sha256 if lfs else None
    known = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return size if known else None, sha256 if isinstance(sha256, str) and SHA256.fullmatch(sha256) else None


def _no_model(reference: Reference, names: list[str]) -> ModelError:
    raw = [clean(name) for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))]
    if reference.file:
        hint = f"it has {', '.join(raw[:5])}" if raw else "it has no weights at all"
        return ModelError(f"{reference}: there is no such file in the repository", hint)
    hint = f"name one of its files: {clean(reference.repo)}:{raw[0]}" if raw else "it holds no weights of a known name"
    return ModelError(
        f"{reference} holds no U-Net in the layout of diffusers ({CONFIG} and {WEIGHTS[0]} or .bin)", hint
    )


def in_cache(pinned: Reference, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pinned.repo, name, revision=pinned.revision)
    return Path(found) if isinstance(found, str) else None


def client() -> Any:
    """The client's constants, with its endpoint looked at: a token must not go over the open wire.

    Raises:
        ModelError: HF_ENDPOINT is neither https nor this machine.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ModelError(f"HF_ENDPOINT {clean(constants.ENDPOINT)} is not encrypted", "use an https:// address")
    return constants


def elsewhere(reference: Reference) -> str:
    """How to get a model here without a network."""
    revision = f" --revision {reference.revision}" if reference.revision else ""
    file = f" {reference.file}" if reference.file else ""
    folder = reference.repo.partition("/")[2]
    path = f"{folder}/{reference.file}" if reference.file else folder
    command = f"hf download {reference.repo}{file}{revision} --local-dir {folder}"
    return clean(f"where there is a network: {command}; bring the folder here and use --model {path}", limit=400)
