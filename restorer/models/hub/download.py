"""Models of the Hugging Face Hub: how their files get here, and what is believed of them.

Only files of names known to `hub.choose` are fetched, what describes the network before its weights. What arrives is
compared with what the catalogue, the Hub's listing and the file's own name in the cache say of it, and removed if it is
something else.
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
from restorer.models.hub.errors import Unreachable, clean, explained
from restorer.models.hub.references import (
    AUTOENCODERS,
    MAX_JSON,
    SHA256,
    Plan,
    Reference,
    Remote,
    cached,
    choose,
    client,
    elsewhere,
    in_cache,
    plan,
    revision_of,
    weights_of,
)
from restorer.models.layout import CONFIG

__all__ = ["OnBytes", "check_cached", "download", "fetch", "free_bytes", "remove", "sha256_of"]

ETAG = re.compile(r"\w[\w.+-]{0,127}", re.ASCII)  # becomes the name of a file
MAX_REDIRECTS = 20
CHUNK = 1 << 20  # bytes between two looks at the progress; the client's own is ten times that

OnBytes = Callable[[str, int, int | None], None]  # name of a file, bytes that are here, bytes in all


def fetch(reference: Reference, accept: Callable[[Plan], None] | None = None, on_bytes: OnBytes | None = None) -> Path:
    """The folder or file of a model in the cache, downloaded if it is not there.

    Args:
        reference: which model. Pinned and cached, it makes no request; a branch that is cached is used as it is where
            the Hub cannot be reached.
        accept: called before a download; may raise to refuse it.
        on_bytes: called with the name of a file, its bytes so far and in all.

    Raises:
        Unreachable: it is not in the cache and the Hub cannot be reached.
        ModelError: there is no such model, or what arrived is not what was promised.
    """
    if (known := _fetched.get(reference)) is not None and weights_of(known).is_file():
        return known
    path = cached(reference) if reference.pinned else None
    if path is None:
        try:
            wanted = plan(reference)
        except Unreachable:
            if (path := cached(reference)) is None:
                raise
        else:
            if wanted.missing and accept is not None:
                accept(wanted)
            path = download(wanted, on_bytes)
    _fetched[reference] = path
    return path


_fetched: dict[Reference, Path] = {}  # what one process has asked for once means the same to its end


def download(wanted: Plan, on_bytes: OnBytes | None = None) -> Path:
    """Fetch what is missing, and check all of it; what is wrong does not stay in the cache.

    Raises:
        ModelError: see `fetch`.
    """
    constants = client()
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    if wanted.bytes > (free := free_bytes()):
        raise ModelError(
            f"{wanted.reference} needs {wanted.bytes / 1e9:.2f} GB; the disk of the cache has {free / 1e9:.2f} GB left",
            "make room, or set HF_HOME to a folder on another disk",
        )
    before, chunk = logging.get_verbosity(), constants.DOWNLOAD_CHUNK_SIZE
    logging.set_verbosity_error()  # its lines would tear the progress display; what matters comes as an error
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    try:
        network = str(PurePosixPath(wanted.files[-1].name).with_name(CONFIG))
        autoencoders = [f"{part}{CONFIG}" for part in AUTOENCODERS]
        for file in wanted.files:
            path = _download_one(wanted, file, on_bytes)
            if wanted.missing and wanted.reference.file is None and file.name in (network, *autoencoders):
                _look(wanted.reference, path, decodes=file.name in autoencoders)
        asked = wanted.reference.revision or "main"
        last = wanted.files[-1].name
        if try_to_load_from_cache(wanted.reference.repo, last, revision=asked) != str(path):
            # One more look lets the cache know what the branch points to, for when there is no network.
            subject, first = str(wanted.reference), wanted.files[0]
            with suppress(ModelError), explained(subject), _announced(wanted, first, asked):
                hf_hub_download(wanted.reference.repo, first.name, revision=asked)
    finally:
        logging.set_verbosity(before)
        constants.DOWNLOAD_CHUNK_SIZE = chunk
    return path if wanted.reference.file else path.parents[len(PurePosixPath(last).parts) - 1]


def _download_one(wanted: Plan, file: Remote, on_bytes: OnBytes | None) -> Path:
    from huggingface_hub import hf_hub_download

    reference, pinned = wanted.reference, Reference(wanted.reference.repo, wanted.commit)
    path = in_cache(pinned, file.name)
    fresh = path is None
    try:
        if path is None:
            with (
                explained(str(reference), elsewhere(reference)),
                _announced(wanted, file, wanted.commit) as size,
            ):
                meter = _meter(file.name, size, on_bytes)
                path = Path(hf_hub_download(pinned.repo, file.name, revision=pinned.revision, tqdm_class=meter))
        _check(wanted, file, path)
    except BaseException as error:  # Ctrl-C while it is being checked, too: what is unchecked is not there
        if (fresh or isinstance(error, ModelError)) and (path := in_cache(pinned, file.name)):
            remove(path)
        raise
    return path


def _look(reference: Reference, config: Path, *, decodes: bool) -> None:
    """Refuse a network (that `decodes`: an autoencoder) which this program cannot use before its weights are fetched.

    Raises:
        ModelError: saying what it is.
    """
    from restorer.models.configs import autoencoder_config, network_config

    try:
        content = json.loads(config.read_bytes())
        autoencoder_config(content) if decodes else network_config(content)
    except (ValueError, TypeError, AttributeError) as error:
        text = f"{reference} is no model that can be used here: {clean(error, limit=300)}"
        raise ModelError(text, "restore models list tells some that can") from error


_looking = threading.Lock()


@contextmanager
def _announced(wanted: Plan, file: Remote, revision: str) -> Iterator[int | None]:
    """Look at what the Hub says of a file, and let the client act upon this very answer.

    Commit and ETag become names of files: asked again, a server could give some that lead out of the cache.

    Yields:
        The size of the file.
    """
    from huggingface_hub import file_download, hf_hub_url

    asked = hf_hub_url(wanted.reference.repo, file.name, revision=revision)
    with _looking:
        ask = file_download.get_hf_file_metadata
        with _few_redirects(wanted.reference):
            met = ask(asked)
        if met.commit_hash not in (None, wanted.commit) or not ETAG.fullmatch(met.etag or "0"):
            raise ModelError(f"{wanted.reference}: the Hub's answer makes no sense", "check HF_ENDPOINT")
        if file.name.endswith(".json") and (met.size or 0) > MAX_JSON:
            raise ModelError(
                f"{wanted.reference}: {clean(file.name)} is larger than {MAX_JSON} bytes", "it is no configuration"
            )
        file_download.get_hf_file_metadata = lambda url, **more: met if url == asked else ask(url, **more)
        try:
            yield met.size if met.size is not None else file.size
        finally:
            file_download.get_hf_file_metadata = ask


@contextmanager
def _few_redirects(reference: Reference) -> Iterator[None]:
    """Stop a server that sends from one place to the next without end; clients before 1.30 would go along."""
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


def _meter(name: str, size: int | None, on_bytes: OnBytes | None) -> type[Any]:
    """The progress bar that the client asks for, as a class: it tells the bytes, and stops a body without end."""
    from tqdm.std import tqdm

    limit = MAX_JSON if size is None and name.endswith(".json") else size

    class Meter(tqdm):  # type: ignore[misc,unused-ignore]
        monitor_interval = 0  # no thread

        def __init__(self, *arguments: Any, **options: Any) -> None:
            # Xet opens two bars a file, one for what arrives and one for what is put together; one is shown.
            self._second = "reconstruct" in str(options.get("desc")).lower()
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": False, "file": io.StringIO(), "mininterval": 0.1})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if limit is not None and self.n > 1.25 * limit + CHUNK:
                text = f"{clean(name)}: the server sends more than the {limit} bytes it announced"
                raise ModelError(text, "check HF_ENDPOINT")
            return shown

        def display(self, *arguments: Any, **options: Any) -> bool:
            if on_bytes is not None and not getattr(self, "_second", True):
                on_bytes(name, int(self.n), self.total or size)
            return True

    return Meter


def _check(wanted: Plan, file: Remote, path: Path) -> None:
    """Refuse a file that is not what the card, the Hub's listing or its own name in the cache say."""
    card, blob = wanted.reference.card, path.resolve().name
    known = card.sha256 if card and file is wanted.files[-1] else None
    promised = {sha for sha in (known, file.sha256, blob if SHA256.fullmatch(blob) else None) if sha}
    found = sha256_of(path) if promised else ""
    for expected in promised:
        if found != expected:
            raise ModelError(
                f"{wanted.reference}: {clean(file.name)} is not what it should be, its SHA-256 is {found[:12]}… "
                f"instead of {expected[:12]}…",
                "it was removed; download it again, and if that does not help, do not use it",
            )
    if file.name.endswith(".json"):
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"{wanted.reference}: {clean(file.name)} is no JSON", "the repository is damaged"
            ) from error
        if not isinstance(content, dict):
            raise ModelError(f"{wanted.reference}: {clean(file.name)} is no JSON object", "the repository is damaged")


def check_cached(reference: Reference, model: Path) -> bool:
    """Hash every file of a model in the cache again, and remove what is not what it should be.

    Returns:
        Whether there was a hash to compare the weights with.

    Raises:
        ModelError: a file is not what it should be.
    """
    folder = model.parents[len(PurePosixPath(reference.file).parts) - 1] if reference.file else model
    names = choose(lambda name: (folder / name).is_file(), reference.file) or []
    files = tuple(Remote(name) for name in names)
    wanted = Plan(reference, revision_of(model) or "", files, (), None)
    for file in files:
        try:
            _check(wanted, file, folder / file.name)
        except ModelError:
            remove(folder / file.name)
            raise
    card, blob = reference.card, (folder / names[-1]).resolve().name
    return bool(SHA256.fullmatch(blob) or (card and card.sha256))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Take a file out of the cache: its name, and the bytes that the name points to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)


def free_bytes() -> int:
    """What the disk of the cache has left."""
    folder = Path(client().HF_HUB_CACHE)
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free
