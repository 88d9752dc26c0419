"""Models of the Hugging Face Hub: which files make up a model, and which of them are on this machine.

The cache is the Hub's own, and so are the variables that control it: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE. A
model that is named by its commit and is in the cache needs no request. For any other model, one request returns the
commit, the files and their sizes; `download` fetches the files that make up the model.

`huggingface_hub` is imported on first use, and PyTorch is never imported.
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
from restorer.models.catalogue import Card, find_card
from restorer.models.hub.errors import clean, translated_errors
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
    "Reference",
    "RemoteFile",
    "Snapshot",
    "choose_files",
    "client_constants",
    "find_cached",
    "find_cached_file",
    "find_revision",
    "model_files",
    "offline_hint",
    "parse_reference",
    "query_hub",
    "weights_file",
]

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
REFERENCE = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@:]+))?(:(?P<file>.+))?", re.ASCII)
MAX_JSON = 64 * 1024  # bytes

WEIGHTS = (SAFETENSORS, PICKLED)  # the safe format comes first
AUTOENCODER_FOLDERS = tuple(f"{part}/" for part in USABLE_DECODERS)
LOCAL_AUTOENCODER_FOLDERS = tuple(f"{part}/" for part in DECODERS)


@dataclass(frozen=True)
class Reference:
    """A reference to a model of the Hub: REPO[@REV][:FILE], or a name of the catalogue.

    Args:
        repo: The repository, "organization/name".
        revision: A commit, branch or tag; None for the tip of main.
        file: One file of the repository; None for a model in diffusers' layout.
        card: The card of the model in the catalogue, if there is one.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    card: Card | None = field(default=None, compare=False)

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that the reference always stands for the same bytes."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        """Return the reference in a form that is safe to print, with a commit shortened to 12 digits."""
        revision = f"@{self.revision[:12] if self.pinned else self.revision}" if self.revision else ""
        return clean(f"{self.repo}{revision}{f':{self.file}' if self.file else ''}")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository of the Hub.

    Args:
        name: The path of the file inside the repository.
        size: The size in bytes, if the Hub states it.
        sha256: The SHA-256 in hexadecimal, if the Hub states it.
    """

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A model at one commit of its repository.

    Args:
        reference: The reference that was looked up.
        commit: The commit, 40 hexadecimal digits.
        files: The files that make up the model, in the order in which they are downloaded.
        missing: Those of the files that are not in the cache.
        licence: The licence that the repository states; None if it states none.
    """

    reference: Reference
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    licence: str | None

    @property
    def download_bytes(self) -> int:
        """Bytes of the missing files, as far as the Hub states their sizes."""
        return sum(file.size or 0 for file in self.missing)


def parse_reference(text: str) -> Reference | None:
    """Parse a name of the catalogue or REPO[@REV][:FILE].

    Returns:
        The reference, or None if the text is anything else, such as a path.

    Raises:
        ModelError: The text has the form of a reference, but its revision or file is not a valid name.
    """
    if card := find_card(text):
        return Reference(card.repo, card.revision, card.file, card)
    match = REFERENCE.fullmatch(text)
    if match is None:
        return None
    repo, revision, file = match["repo"], match["revision"], match["file"]
    if text == repo and Path(PurePosixPath(repo).parts[0]).is_dir():  # a path into a local folder
        return None
    for part in (revision, file):
        if part is not None and not _is_safe_path(part):
            raise ModelError(
                f"{clean(text)} does not name a file of a repository", "the form is ORGANIZATION/NAME[@REV][:FILE]"
            )
    card = find_card(repo, file)
    if card is not None and revision in (None, card.revision):
        return Reference(repo, card.revision, file, card)
    return Reference(repo, revision, file)


def _is_safe_path(name: str) -> bool:
    """Return whether a relative path stays below its starting folder on every operating system."""
    parts = name.split("/")
    return name.isprintable() and not set(name) & set('\\:*?"<>|') and not {"", ".", ".."} & set(parts)


def choose_files(has: Callable[[str], bool], file: str | None = None) -> list[str] | None:
    """Choose the files that make up a model.

    Args:
        has: Returns whether a repository or folder has a file of a given name.
        file: The one file that is the model; None for a model in diffusers' layout. Facts that a raw file lacks may
            stand in FILE.json beside it.

    Returns:
        The names of the files, the configurations first and the weights of the network last; None if the files
        do not make up a model.
    """
    if file is not None:
        folder = f"{PurePosixPath(file).parent}/".removeprefix("./")
        configs = (f"{file}.json", f"{folder}{CONFIG}", f"{folder}{SCHEDULER}")
        return [*filter(has, configs), file] if has(file) else None
    for folder, schedulers in SCHEDULER_PLACES.items():
        weights = _find_weights(has, folder)
        if weights is None or not has(f"{folder}{CONFIG}"):
            continue
        decoders = [part for part in AUTOENCODER_FOLDERS if folder and has(f"{part}{CONFIG}")]
        decoder_weights = [_find_weights(has, part) for part in decoders]
        if None in decoder_weights:
            return None
        configs = (INDEX, f"{folder}{CONFIG}", next(filter(has, schedulers), SCHEDULER))
        decoder_configs = (f"{part}{CONFIG}" for part in decoders)
        return [*filter(has, configs), *decoder_configs, *filter(None, decoder_weights), weights]
    return None


def _find_weights(has: Callable[[str], bool], folder: str) -> str | None:
    return next((folder + name for name in WEIGHTS if has(folder + name)), None)


def model_files(model: Path) -> list[Path]:
    """Return the files of a model on this machine, the weights of its network last.

    The list holds every file that may determine how the weights are read, whether or not it is read in the end:
    `restorer.models.checkpoints` decides that.

    Args:
        model: The folder or file of the model.
    """
    file = None if model.is_dir() or model.suffix == ".json" else model
    folder = model if model.is_dir() else model.parent
    names = choose_files(lambda name: (folder / name).is_file())
    weights = file or folder / (names[-1] if names else WEIGHTS[0])
    root = folder.parent if folder.name == "unet" else folder
    parts = ("", "unet/", "scheduler/", *LOCAL_AUTOENCODER_FOLDERS)
    configs = [root / f"{part}{name}" for part in parts for name in (INDEX, CONFIG, SCHEDULER)]
    configs += [] if file is None else [file.with_name(f"{file.name}.json"), file.with_suffix(".json")]
    decoder_weights = [root / f"{part}{name}" for part in LOCAL_AUTOENCODER_FOLDERS for name in WEIGHTS]
    return [*(path for path in dict.fromkeys((*configs, *decoder_weights)) if path.is_file()), weights]


def weights_file(model: Path) -> Path:
    """Return the weights file of a model: the path itself, or the file in a folder of diffusers' layout."""
    return model_files(model)[-1]


def find_revision(model: Path) -> str | None:
    """Return the commit that a path in the Hub's cache belongs to, or None for any other path."""
    parts = model.parts
    return next((b for a, b in pairwise(parts) if a == "snapshots" and COMMIT.fullmatch(b)), None)


def find_cached(reference: Reference) -> Path | None:
    """Find a model in the cache without making a request.

    Returns:
        The folder or file of the model, or None unless the cache holds all of the model.

    Raises:
        ModelError: The name of the repository is malformed.
    """
    from huggingface_hub import try_to_load_from_cache

    def find(name: str) -> str | None:
        found = try_to_load_from_cache(reference.repo, name, revision=reference.revision or "main")
        return found if isinstance(found, str) else None

    with translated_errors(str(reference)):
        names = choose_files(lambda name: find(name) is not None, reference.file)
        path = find(names[-1]) if names else None
    if names is None or path is None:
        return None
    if reference.file:
        return Path(path)
    # Another program may have fetched only the network; only the Hub knows whether the model has more files.
    complete = any(PurePosixPath(name).name == SCHEDULER for name in names)
    folder = Path(path).parents[len(PurePosixPath(names[-1]).parts) - 1]
    return folder if complete and not (INDEX in names and _lacks_autoencoder(folder, names)) else None


def _lacks_autoencoder(folder: Path, names: list[str]) -> bool:
    """Return whether the index of a model names an autoencoder that is not among its files."""
    try:
        index = json.loads((folder / INDEX).read_bytes()[:MAX_JSON])
    except (OSError, ValueError, RecursionError):
        return False  # Loading the model reports the damaged file.
    parts = [part for part in AUTOENCODER_FOLDERS if isinstance(index, dict) and part.strip("/") in index]
    return bool(parts) and not any(f"{part}{CONFIG}" in names for part in parts)


def query_hub(reference: Reference) -> Snapshot:
    """Ask the Hub, with one request, which files make up a model.

    Raises:
        Unreachable: There is no network, the Hub is down, or HF_HUB_OFFLINE is set.
        ModelError: The Hub refuses, the repository or file does not exist, or the repository has no known layout.
    """
    constants = client_constants()
    from huggingface_hub import HfApi

    with translated_errors(str(reference), offline_hint(reference)):
        info = HfApi().model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        commit = str(info.sha)
        remote = {str(s.rfilename): RemoteFile(s.rfilename, *_size_and_hash(s)) for s in info.siblings or ()}
        tags = [str(tag) for tag in info.tags or ()]
    if not COMMIT.fullmatch(commit) or (reference.pinned and commit != reference.revision):
        raise ModelError(f"{reference}: the Hub answers with another commit, {clean(commit)}", "check HF_ENDPOINT")
    names = choose_files(remote.__contains__, reference.file)
    if names is None:
        raise _no_model_error(reference, sorted(remote))
    for name in names:
        if name.endswith(".json") and (remote[name].size or 0) > MAX_JSON:
            text = f"{reference}: {clean(name)} is larger than {MAX_JSON} bytes"
            raise ModelError(text, "it is not a configuration file")
    files = tuple(remote[name] for name in names)
    pinned = Reference(reference.repo, commit)
    missing = tuple(file for file in files if find_cached_file(pinned, file.name) is None)
    licence = next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None)
    return Snapshot(reference, commit, files, missing, clean(licence) if licence else None)


def _size_and_hash(sibling: Any) -> tuple[int | None, str | None]:
    """Return the size and SHA-256 of a file as the Hub states them; an invalid value becomes None."""
    lfs = sibling.lfs
    size = lfs.size if lfs else sibling.size
    sha256 = lfs.sha256 if lfs else None
    valid = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return size if valid else None, sha256 if isinstance(sha256, str) and SHA256.fullmatch(sha256) else None


def _no_model_error(reference: Reference, names: list[str]) -> ModelError:
    raw = [clean(name) for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))]
    if reference.file:
        hint = f"it has {', '.join(raw[:5])}" if raw else "it has no weights files at all"
        return ModelError(f"{reference}: there is no such file in the repository", hint)
    hint = f"name one of its files: {clean(reference.repo)}:{raw[0]}" if raw else "it holds no weights of a known name"
    return ModelError(
        f"{reference} holds no U-Net in the layout of diffusers ({CONFIG} and {WEIGHTS[0]} or .bin)", hint
    )


def find_cached_file(pinned: Reference, name: str) -> Path | None:
    """Return the path of one file in the cache, or None if the cache does not hold the file.

    Args:
        pinned: The repository and the commit.
        name: The path of the file inside the repository.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pinned.repo, name, revision=pinned.revision)
    return Path(found) if isinstance(found, str) else None


def client_constants() -> Any:
    """Return the constants of the Hub's client after checking its endpoint: no token may travel unencrypted.

    Raises:
        ModelError: HF_ENDPOINT is neither an https address nor this machine.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ModelError(f"HF_ENDPOINT {clean(constants.ENDPOINT)} is not encrypted", "use an https:// address")
    return constants


def offline_hint(reference: Reference) -> str:
    """Return a hint that explains how to bring a model to a machine without a network."""
    revision = f" --revision {reference.revision}" if reference.revision else ""
    file = f" {reference.file}" if reference.file else ""
    folder = reference.repo.partition("/")[2]
    path = f"{folder}/{reference.file}" if reference.file else folder
    command = f"hf download {reference.repo}{file}{revision} --local-dir {folder}"
    return clean(f"on a machine with a network: {command}; copy the folder here and use --model {path}", limit=400)
