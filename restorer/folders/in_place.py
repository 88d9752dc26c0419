"""Results that replace their pictures: which pictures may be replaced, the copy that is kept, and the way back.

A picture is replaced in one step, so that after an interruption it is either the old or the new one. The record of a
result lists the commands that were applied in place, each by a fingerprint of its options and its model. A repeated run
skips such pictures, so that an interrupted run over a folder can simply be started again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import OutputError, RestorerError, UsageError
from restorer.folders.paths import Found, Item
from restorer.folders.provenance import parse_record
from restorer.images.find import is_stream, picture_suffixes

if TYPE_CHECKING:
    from restorer.images.files import Picture

__all__ = [
    "FORMATS",
    "applied_recipes",
    "backup_path",
    "check_backup",
    "check_backup_suffix",
    "check_loaded",
    "check_unchanged",
    "keep_backup",
    "recipes_of",
    "resolve_in_place",
]

FORMATS = frozenset(["PNG", "JPEG", "MPO", "WEBP", "TIFF", "AVIF"])
"""Pillow's names of the formats that can be written without another loss and that hold the record of a result."""

_BESIDE = "write the result beside it, without --in-place"


def check_backup_suffix(suffix: str) -> None:
    """Check the suffix of backups.

    Args:
        suffix: The text that follows the name of a picture in the name of its backup, for instance ".orig".

    Raises:
        UsageError: The suffix is empty or holds a slash, or the backups would be taken for pictures.
    """
    if not suffix or any(sign in suffix for sign in ("/", "\\", "\0")):
        raise UsageError(f"a backup cannot be called {suffix!r}", "give the end of its name, for instance .orig")
    if Path(f"a.png{suffix}").suffix.lower() in picture_suffixes():
        raise UsageError(
            f"backups that end in {suffix} would be taken for pictures", "choose another suffix, for instance .orig"
        )


def backup_path(path: Path, suffix: str) -> Path:
    """Return the path of the backup of a picture."""
    return path.with_name(path.name + suffix)


def resolve_in_place(
    pictures: Sequence[Found], backup: str | None
) -> tuple[list[Item], list[tuple[Path, str]], list[tuple[Item, RestorerError]]]:
    """Check which pictures may be replaced by their results, using their headers alone.

    Args:
        pictures: The pictures, and the input folders in which they were found.
        backup: The suffix of the backups; None to keep none.

    Returns:
        The pictures to restore; the links that are passed over, because what they point to may lie anywhere, or is one
        of the other pictures, each with the name of its kind; and the pictures that cannot be replaced, each with the
        reason.
    """
    to_do: list[Item] = []
    links: list[tuple[Path, str]] = []
    failed: list[tuple[Item, RestorerError]] = []
    seen: set[Path] = set()
    for source, root in pictures:
        item = Item(source, source, root)
        try:
            if is_stream(source):
                raise UsageError(f"{source} cannot be replaced in place", "name a file")
            real = source.resolve()
            if (root is not None and source.is_symlink()) or real in seen:
                links.append((source, "link"))
                continue
            seen.add(real)
            _check_file(source, real, backup)
        except RestorerError as error:
            failed.append((item, error))
        else:
            to_do.append(item)
    return to_do, links, failed


def _check_file(path: Path, real: Path, backup: str | None) -> None:
    """Raise an error if a picture cannot be replaced."""
    from restorer.images.headers import read_header

    header = read_header(path)
    if header is not None:
        _check_format(path, header.format)
        if header.frames > 1 and header.format != "MPO" and backup is None:
            raise OutputError(
                f"{path} holds {header.frames} pictures, of which only the first would be left",
                f"keep the file with --backup .orig, or {_BESIDE}",
            )
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"{path} is write-protected", f"allow writing to it, or {_BESIDE}")
    if not os.access(real.parent, os.W_OK):
        raise OutputError(f"the folder {real.parent} is not writable", _BESIDE)


def _check_format(path: Path, format: str) -> None:
    if format not in FORMATS:
        hint = f"{_BESIDE}; PNG, JPEG, WebP, TIFF and AVIF files can be replaced"
        raise OutputError(f"{path} cannot be replaced in place, because its format is {format}", hint)


def check_backup(path: Path, suffix: str) -> None:
    """Check that a picture that is to be replaced can have a backup.

    An interrupted run may have left a backup of the very same file.

    Args:
        path: The file of the picture.
        suffix: The suffix of the backup.

    Raises:
        OutputError: Another file has the name of the backup.
    """
    real = path.resolve()
    kept = backup_path(real, suffix)
    hint = "choose another suffix with --backup"
    try:
        kept.lstat()
        is_same = kept.is_file() and kept.read_bytes() == real.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long, for instance
        raise OutputError(f"{kept} cannot be written: {error.strerror or error}", hint) from error
    if not is_same:
        raise OutputError(f"{kept} exists, and a backup is never replaced", hint)


def check_loaded(path: Path, picture: Picture, backup: str | None) -> None:
    """Check a picture whose header did not tell everything.

    Args:
        path: The file of the picture.
        picture: The content of the file.
        backup: The suffix of the backup; None to keep none.

    Raises:
        OutputError: The picture cannot be written in its own format, or the file holds more that would be lost.
    """
    from restorer.images.embedded import find_companions

    _check_format(path, picture.format)
    if backup is None and picture.original and (names := find_companions(picture.original).names):
        raise OutputError(
            f"{path} also holds what would be lost: {', '.join(names)}",
            f"keep the file with --backup .orig, or {_BESIDE}",
        )


def applied_recipes(path: Path) -> tuple[str, ...]:
    """Return the fingerprints of the commands that were applied to a picture in place, in order."""
    from restorer.images.headers import read_header

    header = read_header(path)
    if header is None:  # a TIFF file that only another decoder opens
        from restorer.images.files import load
        from restorer.images.picture import RECORD

        with contextlib.suppress(RestorerError):
            return recipes_of(load(path).text.get(RECORD, ""))
        return ()
    return recipes_of(header.record)


def recipes_of(record: str) -> tuple[str, ...]:
    """Return the fingerprints in the text of a record; none if there is no record."""
    parsed = parse_record(record)
    return () if parsed is None else tuple(parsed.in_place)


def check_unchanged(path: Path, picture: Picture) -> None:
    """Check that the file is still the one that was read, so that no work of another program is lost.

    Raises:
        OutputError: The file has changed, or cannot be read.
    """
    try:
        is_same = path.read_bytes() == picture.original
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    if not is_same:
        raise OutputError(f"{path} has changed while it was being restored", "run the command again")


def keep_backup(path: Path, suffix: str) -> Path:
    """Keep a picture under another name before it is replaced, and return that name.

    The backup is another name of the same file where the file system allows that, so it keeps everything. It never
    replaces a file.

    Raises:
        OutputError: A file of that name exists, or cannot be written.
    """
    check_backup(path, suffix)
    real = path.resolve()
    kept = backup_path(real, suffix)
    if kept.exists():
        return kept
    try:
        try:
            os.link(real, kept)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links
            _copy(real, kept)
    except OSError as error:
        hint = "choose another suffix with --backup, or free some space"
        raise OutputError(f"{kept} cannot be written: {error.strerror or error}", hint) from error
    return kept


def _copy(path: Path, kept: Path) -> None:
    """Copy a file with its times, mode and attributes, complete or not at all."""
    partial = kept.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        shutil.copy2(path, partial)
        if os.path.lexists(kept):
            raise FileExistsError(17, os.strerror(17))
        partial.rename(kept)
    finally:
        partial.unlink(missing_ok=True)
