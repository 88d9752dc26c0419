"""The fingerprint of everything that a result depends on, by which a run recognizes what an earlier one has done."""

from __future__ import annotations

import hashlib
from pathlib import Path

from restorer.errors import PictureError
from restorer.folders.manifest import compute_fingerprint
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.picture import Verb
from restorer.folders.starting import start_hashes
from restorer.images.find import is_stream
from restorer.images.streams import stream_bytes

__all__ = ["recipe_of", "sha256_of_file"]


def recipe_of(item: Item, options: Options, verb: Verb, model: str, *hashes: str) -> str:
    """Return the fingerprint of the command, its options, its model, its start and the mask of a picture.

    Args:
        item: The picture.
        options: The options of the run.
        verb: The verb.
        model: The SHA-256 of all files of the model.
        hashes: The SHA-256 of whatever else counts, of the picture first.

    Raises:
        PictureError: There is no mask, or it cannot be read.
        ModelError: The network of the start cannot be found.
    """
    chosen = {**options.sampling, **dict(verb.extra_options), **options.encoding, **start_hashes(options)}
    if verb.find_mask is not None:
        hashes = (*hashes, sha256_of_file(verb.find_mask(item)))
    return compute_fingerprint(options.command, chosen, model, *hashes)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file or of what a pipe holds, in hexadecimal.

    Raises:
        PictureError: The file cannot be read.
    """
    from restorer.models.hub.download import sha256_of

    if is_stream(path):
        return hashlib.sha256(stream_bytes(path)).hexdigest()
    try:
        return sha256_of(path)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}", "check the path") from error
