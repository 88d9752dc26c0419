"""The fingerprint of everything that a result depends on, by which a run recognizes what an earlier one has done."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import PictureError
from restorer.folders.manifest import compute_fingerprint
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.picture import DECOMPRESSES, ENLARGES, Verb
from restorer.folders.starting import start_hashes
from restorer.images.find import is_stream
from restorer.images.streams import stream_bytes

if TYPE_CHECKING:
    from restorer.models.load import Model

__all__ = ["recipe_of", "sha256_of_file"]


def recipe_of(item: Item, options: Options, verb: Verb, model: Model, *hashes: str) -> str:
    """Return the fingerprint of the command, its options, its models, its start and the mask of a picture.

    Args:
        item: The picture.
        options: The options of the run.
        verb: The verb.
        model: The model.
        hashes: The SHA-256 of whatever else counts, of the picture first.

    Raises:
        PictureError: There is no mask, or it cannot be read.
        ModelError: The network of the start cannot be found.
    """
    from restorer.models.calibration import calibration_file
    from restorer.models.load import DECOMPRESSING, ENLARGING, expert_sha256, weights_folder

    chosen = {**options.sampling, **verb.extra_options, **options.asked}
    chosen |= start_hashes(options)
    if options.uncertainty is not None and (constants := calibration_file(model.path)).is_file():
        hashes = (*hashes, sha256_of_file(constants))
    if model.path == weights_folder():  # they stand beside this model alone
        experts = (ENLARGES, ENLARGING), (DECOMPRESSES, DECOMPRESSING)
        hashes = (*hashes, *(expert_sha256(name) for verbs, name in experts if options.command in verbs))
    if verb.find_mask is not None:
        hashes = (*hashes, sha256_of_file(verb.find_mask(item)))
    return compute_fingerprint(options.command, chosen, model.sha256, *hashes)


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
