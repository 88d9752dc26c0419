"""Models of the Hugging Face Hub: how their files are downloaded and checked.

Only files whose names `choose_files` knows are fetched, and the configuration of a network comes before its weights.
Every file is compared with the hashes in the catalogue, in the Hub's listing and in the file's own name in the cache. A
file that differs is removed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from restorer.errors import ModelError
from restorer.models.hub.errors import Unreachable, clean, translated_errors
from restorer.models.hub.references import (
    AUTOENCODER_FOLDERS,
    MAX_JSON,
    SHA256,
    Reference,
    RemoteFile,
    Snapshot,
    choose_files,
    client_constants,
    find_cached,
    find_cached_file,
    find_revision,
    offline_hint,
    query_hub,
    weights_file,
)
from restorer.models.layout import CONFIG

__all__ = ["OnBytes", "check_cached", "download", "fetch", "free_bytes", "remove", "sha256_of"]

ETAG = re.compile(r"\w[\w.+-]{0,127}", re.ASCII)  # An ETag becomes a file name in the cache.
MAX_REDIRECTS = 20
CHUNK = 1 << 20  # bytes between two progress updates; the client's own chunk is ten times as large

OnBytes = Callable[[str, int, int | None], None]  # called with a file's name, its bytes so far and its bytes in all


def fetch(
    reference: Reference, accept: Callable[[Snapshot], None] | None = None, on_bytes: OnBytes | None = None
) -> Path:
    """Return the folder or file of a model in the cache, after downloading any missing files.

    A pinned reference that is in the cache makes no request. If the Hub cannot be reached, a cached branch is used as
    it is.

    Args:
        reference: The model.
        accept: Called with the snapshot before missing files are downloaded; raises an exception to refuse them.
        on_bytes: Called with the name of a file, its bytes so far and its bytes in all (None if unknown).

    Raises:
        Unreachable: The model is not in the cache, and the Hub cannot be reached.
        ModelError: The model does not exist, or a file differs from its announced hash or size.
    """
    if (known := _fetched.get(reference)) is not None and weights_file(known).is_file():
        return known
    path = find_cached(reference) if reference.pinned else None
    if path is None:
        try:
            snapshot = query_hub(reference)
        except Unreachable:
            if (path := find_cached(reference)) is None:
                raise
        else:
            if snapshot.missing and accept is not None:
                accept(snapshot)
            path = download(snapshot, on_bytes)
    _fetched[reference] = path
    return path


_fetched: dict[Reference, Path] = {}  # keeps the meaning of a reference fixed for the lifetime of the process


def download(snapshot: Snapshot, on_bytes: OnBytes | None = None) -> Path:
    """Download the missing files of a model, and check all of its files.

    A file that fails a check is removed from the cache.

    Args:
        snapshot: The files of the model, as `query_hub` returns them.
        on_bytes: As in `fetch`.

    Returns:
        The folder or file of the model in the cache.

    Raises:
        ModelError: As in `fetch`.
    """
    constants = client_constants()
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    reference = snapshot.reference
    if snapshot.download_bytes > (free := free_bytes()):
        needed = f"{snapshot.download_bytes / 1e9:.2f} GB"
        raise ModelError(
            f"{reference} needs {needed}; the disk of the cache has {free / 1e9:.2f} GB left",
            "free some space, or set HF_HOME to a folder on another disk",
        )
    verbosity, chunk = logging.get_verbosity(), constants.DOWNLOAD_CHUNK_SIZE
    logging.set_verbosity_error()  # Log lines would break the progress display, and failures arrive as exceptions.
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    try:
        network = str(PurePosixPath(snapshot.files[-1].name).with_name(CONFIG))
        autoencoders = [f"{part}{CONFIG}" for part in AUTOENCODER_FOLDERS]
        for file in snapshot.files:
            path = _download_one(snapshot, file, on_bytes)
            if snapshot.missing and reference.file is None and file.name in (network, *autoencoders):
                _check_supported(reference, path, is_autoencoder=file.name in autoencoders)
        revision = reference.revision or "main"
        last = snapshot.files[-1].name
        if try_to_load_from_cache(reference.repo, last, revision=revision) != str(path):
            # One more request makes the cache note the commit of the branch, for later use without a network.
            subject, first = str(reference), snapshot.files[0]
            with suppress(ModelError), translated_errors(subject), _checked_metadata(snapshot, first, revision):
                hf_hub_download(reference.repo, first.name, revision=revision)
    finally:
        logging.set_verbosity(verbosity)
        constants.DOWNLOAD_CHUNK_SIZE = chunk
    return path if reference.file else path.parents[len(PurePosixPath(last).parts) - 1]


def _download_one(snapshot: Snapshot, file: RemoteFile, on_bytes: OnBytes | None) -> Path:
    from huggingface_hub import hf_hub_download

    reference, pinned = snapshot.reference, Reference(snapshot.reference.repo, snapshot.commit)
    path = find_cached_file(pinned, file.name)
    is_new = path is None
    try:
        if path is None:
            with (
                translated_errors(str(reference), offline_hint(reference)),
                _checked_metadata(snapshot, file, snapshot.commit) as size,
            ):
                bar = _progress_bar_class(file.name, size, on_bytes)
                path = Path(hf_hub_download(pinned.repo, file.name, revision=pinned.revision, tqdm_class=bar))
        _check_file(snapshot, file, path)
    except BaseException as error:  # includes Ctrl-C during the check: an unchecked file must not stay in the cache
        if (is_new or isinstance(error, ModelError)) and (path := find_cached_file(pinned, file.name)):
            remove(path)
        raise
    return path


def _check_supported(reference: Reference, config: Path, *, is_autoencoder: bool) -> None:
    """Check that the program can use a network or an autoencoder, before its weights are fetched.

    Args:
        reference: The model, for the message.
        config: The config.json of the network.
        is_autoencoder: Whether the network is an autoencoder.

    Raises:
        ModelError: The program cannot use the network; the message says what it is.
    """
    from restorer.models.configs import autoencoder_config, network_config

    try:
        content = json.loads(config.read_bytes())
        autoencoder_config(content) if is_autoencoder else network_config(content)
    except (ValueError, TypeError, AttributeError) as error:
        text = f"{reference} is not a model that can be used here: {clean(error, limit=300)}"
        raise ModelError(text, "restore models list prints models that can be used") from error


_metadata_lock = threading.Lock()


@contextmanager
def _checked_metadata(snapshot: Snapshot, file: RemoteFile, revision: str) -> Iterator[int | None]:
    """Check the metadata that the Hub sends for a file, and make the client use exactly that answer.

    The commit and the ETag become names of files: if the client asked again, a server could send names that lead out of
    the cache.

    Yields:
        The size of the file in bytes; None if the Hub does not state it.
    """
    from huggingface_hub import file_download, hf_hub_url

    checked_url = hf_hub_url(snapshot.reference.repo, file.name, revision=revision)
    with _metadata_lock:
        get_metadata = file_download.get_hf_file_metadata
        with _limited_redirects(snapshot.reference):
            metadata = get_metadata(checked_url)
        if metadata.commit_hash not in (None, snapshot.commit) or not ETAG.fullmatch(metadata.etag or "0"):
            raise ModelError(f"{snapshot.reference}: the Hub's answer is invalid", "check HF_ENDPOINT")
        if file.name.endswith(".json") and (metadata.size or 0) > MAX_JSON:
            text = f"{snapshot.reference}: {clean(file.name)} is larger than {MAX_JSON} bytes"
            raise ModelError(text, "it is not a configuration file")
        file_download.get_hf_file_metadata = lambda url, **options: (
            metadata if url == checked_url else get_metadata(url, **options)
        )
        try:
            yield metadata.size if metadata.size is not None else file.size
        finally:
            file_download.get_hf_file_metadata = get_metadata


@contextmanager
def _limited_redirects(reference: Reference) -> Iterator[None]:
    """Stop a server that redirects without end, which clients before 1.30 would follow."""
    from huggingface_hub.utils import get_session

    session, answers = get_session(), 0
    hooks = session.event_hooks

    def count(response: object) -> None:
        nonlocal answers
        answers += 1
        if answers > MAX_REDIRECTS:
            raise ModelError(f"{reference}: the Hub cannot be reached (it redirects without end)", "check HF_ENDPOINT")

    session.event_hooks = {**hooks, "response": [*hooks["response"], count]}
    try:
        yield
    finally:
        session.event_hooks = hooks


def _progress_bar_class(name: str, size: int | None, on_bytes: OnBytes | None) -> type[Any]:
    """Return a progress bar class for the client that reports the bytes, and stops an endless response body."""
    from tqdm.std import tqdm

    limit = MAX_JSON if size is None and name.endswith(".json") else size

    class ProgressBar(tqdm):  # type: ignore[misc,unused-ignore]
        monitor_interval = 0  # no monitor thread

        def __init__(self, *arguments: Any, **options: Any) -> None:
            # Xet opens two bars per file, one for the received bytes and one for the reconstructed ones. Only the
            # first is shown.
            self._is_second = "reconstruct" in str(options.get("desc")).lower()
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": False, "file": io.StringIO(), "mininterval": 0.1})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if limit is not None and self.n > 1.25 * limit + CHUNK:
                text = f"{clean(name)}: the server sends more than the {limit} bytes that it announced"
                raise ModelError(text, "check HF_ENDPOINT")
            return shown

        def display(self, *arguments: Any, **options: Any) -> bool:
            if on_bytes is not None and not getattr(self, "_is_second", True):
                on_bytes(name, int(self.n), self.total or size)
            return True

    return ProgressBar


def _check_file(snapshot: Snapshot, file: RemoteFile, path: Path) -> None:
    """Check a file against the hashes in its card, in the Hub's listing and in its own name in the cache.

    Raises:
        ModelError: A hash differs, or a JSON file does not hold a JSON object.
    """
    reference, name = snapshot.reference, clean(file.name)
    card, blob = reference.card, path.resolve().name
    card_sha256 = card.sha256 if card and file is snapshot.files[-1] else None
    hashes = {sha for sha in (card_sha256, file.sha256, blob if SHA256.fullmatch(blob) else None) if sha}
    found = sha256_of(path) if hashes else ""
    for expected in hashes:
        if found != expected:
            raise ModelError(
                f"{reference}: {name} is not the expected file, its SHA-256 is {found[:12]}… "
                f"instead of {expected[:12]}…",
                "the file was removed; download it again, and if that does not help, do not use the model",
            )
    if file.name.endswith(".json"):
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{reference}: {name} is not valid JSON", "the repository is damaged") from error
        if not isinstance(content, dict):
            raise ModelError(f"{reference}: {name} is not a JSON object", "the repository is damaged")


def check_cached(reference: Reference, model: Path) -> bool:
    """Hash every file of a cached model again, and remove a file that fails the check.

    Args:
        reference: The model.
        model: Its folder or file in the cache.

    Returns:
        Whether there was a hash to compare the weights with.

    Raises:
        ModelError: A file differs from its hash, or a JSON file is damaged.
    """
    folder = model.parents[len(PurePosixPath(reference.file).parts) - 1] if reference.file else model
    names = choose_files(lambda name: (folder / name).is_file(), reference.file) or []
    files = tuple(RemoteFile(name) for name in names)
    snapshot = Snapshot(reference, find_revision(model) or "", files, (), None)
    for file in files:
        try:
            _check_file(snapshot, file, folder / file.name)
        except ModelError:
            remove(folder / file.name)
            raise
    card, blob = reference.card, (folder / names[-1]).resolve().name
    return bool(SHA256.fullmatch(blob) or (card and card.sha256))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file from the cache: its name, and the blob that the name links to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)


def free_bytes() -> int:
    """Return the free space on the disk of the cache, in bytes."""
    folder = Path(client_constants().HF_HUB_CACHE)
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free
