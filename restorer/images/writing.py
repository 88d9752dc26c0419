"""Pictures -> files: with all their metadata, and under their name complete or not at all.

Pillow writes colour profile, EXIF, XMP and resolution only if each is passed to `save`; here they always are.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from restorer.errors import OutputError, UsageError
from restorer.images.files import Picture, fitting_profile, to_pil

__all__ = ["save", "target_format"]

_ALIASES = {"JPG": "JPEG", "MPO": "JPEG", "TIF": "TIFF"}
_HOLDS_ALPHA = frozenset({"PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "GIF"})
_FOUR = "PNG, JPEG, WebP or TIFF"
_JPEG_SEGMENT = 65_000  # bytes an APP1 segment can hold, less its header


def target_format(picture: Picture, target: Path | BinaryIO, format: str | None = None) -> str:
    """Pillow's name of the format `save` would write: `format` if given, else by suffix, else the picture's own.

    Worth calling before the work starts.

    Raises:
        UsageError: the format is unknown or cannot be written, or it cannot hold the picture's transparency.
    """
    Image.init()
    suffix = target.suffix.lower() if isinstance(target, Path) else ""
    name = (format or Image.registered_extensions().get(suffix, suffix) or picture.format).upper().lstrip(".")
    name = _ALIASES.get(name, name)
    if name not in Image.SAVE:
        raise UsageError(f"cannot write {name or 'a picture without a format'}", f"choose {_FOUR}")
    if _is_transparent(picture) and name not in _HOLDS_ALPHA:
        hint = "write PNG or WebP instead, or put the picture on a background first"
        raise UsageError(f"{name} cannot hold the picture's transparency", hint)
    return name


def save(
    picture: Picture, target: Path | BinaryIO, format: str | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Write the picture with all its metadata; return one line for each thing the format could not hold.

    PNG, TIFF: lossless. WebP: lossless unless the picture was lossy. JPEG, lossy WebP, AVIF: quality 95, 4:4:4.
    A file is written under a hidden name beside the target and moved into place; what fails leaves nothing behind.

    Raises:
        UsageError: as `target_format`, or the format refuses this picture (size limits).
        OutputError: the target exists and `overwrite` is not set, or the place is missing, not writable or full.
    """
    name = target_format(picture, target, format)
    data, notes = _encode(picture, name)
    if isinstance(target, Path):
        _write(data, target, overwrite)
    else:
        target.write(data)
        target.flush()
    return notes


def _is_transparent(picture: Picture) -> bool:
    return picture.alpha is not None and not (picture.alpha == 255).all()


def _encode(picture: Picture, name: str) -> tuple[bytes, tuple[str, ...]]:
    if name not in _HOLDS_ALPHA:
        picture = replace(picture, alpha=None)
    options, notes = _save_options(picture, name)
    image = to_pil(picture)
    if name == "GIF" and image.mode == "LA":
        image = image.convert("RGBA")  # Pillow's writer drops the alpha of LA
    image.info.clear()  # writers differ in what they take from here: all they may write stands in the options
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"this picture cannot be written as {name}: {reason}", f"choose {_FOUR}") from error
    return buffer.getvalue(), notes


def _save_options(picture: Picture, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What Pillow's writer is to be told, and a note for each thing it cannot hold."""
    options: dict[str, Any] = {}
    notes = []
    if name == "GIF" and (picture.channels == 3 or picture.alpha is not None):
        notes.append("GIF holds 256 colours and no half transparency: the others are approximated")
    icc, exif, xmp = picture.icc, picture.exif, picture.xmp
    if name in ("WEBP", "AVIF"):
        icc, note = fitting_profile(icc, 3)  # these hold gray as colour
        notes += [note] if note else []
    if name == "JPEG":
        options = {"quality": 95, "subsampling": 0}
        notes += [f"metadata too large for {name} are dropped"] if _too_long(exif) or _too_long(xmp) else []
        exif, xmp = (None if _too_long(block) else block for block in (exif, xmp))
    elif name == "AVIF":
        options = {"quality": 95, "subsampling": "4:4:4"}
    elif name == "WEBP":
        # `exact` keeps the colour hidden under full transparency
        options = {"quality": 95, "exact": True} if picture.lossy else {"lossless": True, "exact": True}
    elif name == "TIFF":
        exif, options["compression"] = _tiff_tags(exif, xmp)
    elif name == "PNG" and xmp:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    metadata = {"icc_profile": icc, "exif": exif, "xmp": xmp, "dpi": picture.dpi}
    return options | {key: value for key, value in metadata.items() if value}, tuple(notes)


def _too_long(block: bytes | None) -> bool:
    return block is not None and len(block) > _JPEG_SEGMENT


def _tiff_tags(exif: bytes | None, xmp: bytes | None) -> tuple[bytes | None, str | None]:
    """EXIF and XMP as tags of the file, and the compression that can go with them.

    Pillow compresses through libtiff, which cannot write the sub-directories of EXIF (exposure, GPS): with these the
    file stays uncompressed rather than lose them.
    """
    tags = Image.Exif()
    if exif:
        tags.load(exif)
    nested = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop}.intersection(tags)
    if xmp:
        tags[TiffImagePlugin.XMP] = xmp
    return (tags.tobytes() if len(tags) else None), (None if nested else "tiff_adobe_deflate")


def _write(data: bytes, target: Path, overwrite: bool) -> None:
    if overwrite and target.is_symlink():
        target = target.resolve()  # replace what the link points to, not the link
    temporary = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        if target.is_dir():
            raise OutputError(f"{target}: is a folder", "name a file in it")
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe must be written into, not replaced
            return
        try:
            _write_synced(data, temporary)
            _move(temporary, target, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _output_error(target, error) from error


def _write_synced(data: bytes, path: Path) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move(temporary: Path, target: Path, overwrite: bool) -> None:
    """Atomic. Without `overwrite` it fails with FileExistsError even if the target appeared only just now."""
    if overwrite:
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then replace the empty file
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        try:
            temporary.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _output_error(target: Path, error: OSError) -> OutputError:
    said = {
        errno.EEXIST: ("exists already", "allow overwriting, or choose another name"),
        errno.ENOENT: (f"the folder {target.parent} does not exist", "create it first"),
        errno.ENOTDIR: (f"{target.parent} is not a folder", "choose another place"),
        errno.EACCES: (f"the folder {target.parent} is not writable", "choose another place"),
        errno.EPERM: (f"the folder {target.parent} is not writable", "choose another place"),
        errno.EROFS: (f"the folder {target.parent} is not writable", "choose another place"),
        errno.ENOSPC: ("the disk is full", "free some space, or choose another place"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, or choose another place"),
    }
    otherwise = (f"cannot be written: {error.strerror or error}", "choose another place or name")
    what, hint = said.get(error.errno or 0, otherwise)
    return OutputError(f"{target}: {what}", hint)
