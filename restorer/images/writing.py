"""Pictures -> files: with all their metadata, and under their name complete or not at all.

Pillow writes colour profile, EXIF, XMP and resolution only if each is passed to `save`; here they always are.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from restorer.errors import OutputError, UsageError
from restorer.images.encoders import png_bytes, tiff_bytes
from restorer.images.metadata import exif_with_dpi, exif_with_record, fitting_profile, record_in
from restorer.images.picture import COMMENT, RECORD, Picture, reduced, to_pil

__all__ = ["save", "target_format", "written_depth"]

_ALIASES = {"JPG": "JPEG", "MPO": "JPEG", "TIF": "TIFF"}
_HOLDS_ALPHA = frozenset({"PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "GIF"})
_HOLDS_METADATA = frozenset({"PNG", "JPEG", "WEBP", "TIFF", "AVIF"})
_HOLDS_DPI = _HOLDS_METADATA | {"BMP"}
_HOLDS_COMMENT = frozenset({"JPEG", "GIF"})
_MOST_BITS = {"TIFF": 32, "PNG": 16}  # the others: 8
_FOUR = "PNG, JPEG, WebP or TIFF"
_JPEG_SEGMENT = 65_000  # bytes a segment can hold, less its header


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


def written_depth(picture: Picture, name: str) -> int:
    """Bits a channel that `save` writes in the format of this name."""
    if _is_copied(picture, name):
        return picture.depth
    return min(picture.bits, _MOST_BITS.get(name, 8))


def save(
    picture: Picture, target: Path | BinaryIO, format: str | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Write the picture with all its metadata; return one line for each thing the format could not hold.

    A picture that is still what its file held is written as that file, byte for byte, if the format is the same.
    PNG (to 16 bits), TIFF (to 32 bits, floats): lossless. WebP: lossless unless the picture was lossy. JPEG, lossy
    WebP, AVIF: quality 95, 4:4:4.
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
        try:
            target.write(data)
            target.flush()
        except BrokenPipeError:  # whoever reads has enough, which is no error
            raise
        except OSError as error:
            raise _output_error("the output", error) from error
    return notes


def _is_copied(picture: Picture, name: str) -> bool:
    return picture.original is not None and name == picture.format


def _is_transparent(picture: Picture) -> bool:
    return picture.alpha is not None and not (picture.alpha == picture.opaque).all()


def _encode(picture: Picture, name: str) -> tuple[bytes, tuple[str, ...]]:
    if picture.original is not None and _is_copied(picture, name):
        return picture.original, ("nothing is changed: the file is copied as it is",)
    if name not in _HOLDS_ALPHA:
        picture = replace(picture, alpha=None)
    held, note = _fitting(picture, name)
    options, notes = _save_options(picture, name)
    notes = (note, *notes) if note else notes
    try:
        if name == "TIFF":
            return tiff_bytes(_bands(held), held.alpha is not None, **options), notes
        if name == "PNG" and held.bits == 16:
            return png_bytes(_bands(held), **options), notes
        return _by_pillow(held, name, options), notes
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"this picture cannot be written as {name}: {reason}", f"choose {_FOUR}") from error


def _fitting(picture: Picture, name: str) -> tuple[Picture, str]:
    """The picture with numbers that the format can hold, and a note if it had others."""
    depth = written_depth(picture, name)
    if depth == 32 or (depth == picture.bits and picture.pixels.dtype.kind == "u"):
        return picture, ""
    was = "floating-point values" if picture.pixels.dtype.kind == "f" else f"values of {picture.bits} bits"
    return reduced(picture, depth), f"{name} holds at most {depth} bits a channel: {was} are rounded to {depth} bits"


def _bands(picture: Picture) -> np.ndarray:
    """(H, W, C) with alpha last."""
    colour = picture.pixels[..., None] if picture.channels == 1 else picture.pixels
    return colour if picture.alpha is None else np.concatenate([colour, picture.alpha[..., None]], axis=-1)


def _by_pillow(picture: Picture, name: str, options: dict[str, Any]) -> bytes:
    image = to_pil(picture)
    if name == "GIF" and image.mode == "LA":
        image = image.convert("RGBA")  # Pillow's writer drops the alpha of LA
    image.info.clear()  # writers differ in what they take from here: all they may write stands in the options
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _save_options(picture: Picture, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the writer is to be told, and a note for each thing it cannot hold."""
    options: dict[str, Any] = {}
    notes = []
    if name == "GIF" and (picture.channels == 3 or picture.alpha is not None):
        notes.append("GIF holds 256 colours and no half transparency: the others are approximated")
    icc, exif, xmp, dpi = picture.icc, picture.exif, picture.xmp, picture.dpi
    if RECORD in picture.text and (name in _HOLDS_METADATA - {"PNG"} or record_in(exif)):
        exif = exif_with_record(exif, picture.text[RECORD])
    if name in ("WEBP", "AVIF"):
        icc, note = fitting_profile(icc, 3)  # these hold gray as colour
        notes += [note] if note else []
        exif, dpi = exif_with_dpi(exif, dpi), None
    if name == "JPEG":
        options = {"quality": 95, "subsampling": 0}
        notes += [f"metadata too large for {name} are dropped"] if _too_long(exif) or _too_long(xmp) else []
        exif, xmp = (None if _too_long(block) else block for block in (exif, xmp))
    elif name == "AVIF":
        options = {"quality": 95, "subsampling": "4:4:4"}
    elif name == "WEBP":
        # `exact` keeps the colour hidden under full transparency
        options = {"quality": 95, "exact": True} if picture.lossy else {"lossless": True, "exact": True}
    elif name == "PNG":
        options = {"pnginfo": _png_texts(picture)}
    texts = {key: text for key, text in picture.text.items() if key != RECORD} if name != "PNG" else {}
    comment = texts.pop(COMMENT, "") if name in _HOLDS_COMMENT else ""
    metadata = {"colour profile": icc, "EXIF": exif, "XMP": xmp}
    lost = [what for what, block in metadata.items() if block and name not in _HOLDS_METADATA]
    lost += ["resolution"] if dpi and name not in _HOLDS_DPI else []
    lost += ["texts (" + ", ".join(sorted(texts))[:60] + ")"] if texts else []
    if lost:
        notes.append(f"{name} cannot hold, and loses: {', '.join(lost)}")
    given = {"icc_profile": icc, "exif": exif, "xmp": None if name == "PNG" else xmp, "dpi": dpi}
    given |= {"comment": comment.encode()[:_JPEG_SEGMENT]}
    return options | {key: value for key, value in given.items() if value}, tuple(notes)


def _too_long(block: bytes | None) -> bool:
    return block is not None and len(block) > _JPEG_SEGMENT


def _png_texts(picture: Picture) -> PngInfo:
    info = PngInfo()
    if picture.xmp:
        info.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    for key, text in picture.text.items():
        if text.isascii():
            info.add_text(key, text)
        else:
            info.add_itxt(key, text)
    return info


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
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise
            _write_synced(data, temporary)  # a run over this folder, which began just now, has swept it
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


def _output_error(target: Path | str, error: OSError) -> OutputError:
    folder = target.parent if isinstance(target, Path) else target
    said = {
        errno.EEXIST: ("exists already", "allow overwriting, or choose another name"),
        errno.ENOENT: (f"the folder {folder} does not exist", "create it first"),
        errno.ENOTDIR: (f"{folder} is not a folder", "choose another place"),
        errno.EACCES: (f"the folder {folder} is not writable", "choose another place"),
        errno.EPERM: (f"the folder {folder} is not writable", "choose another place"),
        errno.EROFS: (f"the folder {folder} is not writable", "choose another place"),
        errno.ENOSPC: ("the disk is full", "free some space, or choose another place"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, or choose another place"),
    }
    otherwise = (f"cannot be written: {error.strerror or error}", "choose another place or name")
    what, hint = said.get(error.errno or 0, otherwise)
    return OutputError(f"{target}: {what}", hint)
