"""Writing of picture files with all their metadata.

A file appears under its name complete or not at all. Pillow writes colour profile, EXIF, XMP and resolution only if
each is passed to `save`; this module always passes them.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from restorer.errors import OutputError, UsageError
from restorer.images import heif_file, jxl_file
from restorer.images.attributes import copy_attributes
from restorer.images.encoders import encode_png, encode_tiff
from restorer.images.foreign import PLUGINS, load_plugins
from restorer.images.jpeg_file import MOST_SIDE
from restorer.images.metadata import add_dpi_to_exif, add_record_to_exif, match_profile, read_record
from restorer.images.partials import partial_name
from restorer.images.picture import COMMENT, RECORD, Picture, reduce_depth, to_pil
from restorer.images.xmp import remove_claims

__all__ = ["check_size", "check_target_size", "save", "target_format", "written_depth"]

_ALIASES = {"JPG": "JPEG", "MPO": "JPEG", "TIF": "TIFF", "HEIC": "HEIF", "HIF": "HEIF"}
_ALPHA_FORMATS = frozenset({"PNG", "WEBP", "TIFF", "AVIF", "HEIF", "JXL", "JPEG2000", "GIF"})
_METADATA_FORMATS = frozenset({"PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF", "JXL"})
_DPI_FORMATS = _METADATA_FORMATS | {"BMP"}
_COMMENT_FORMATS = frozenset({"JPEG", "GIF"})
_MAX_BITS = {"TIFF": 32, "PNG": 16, "HEIF": heif_file.MAX_BITS}  # results in other formats have 8 bits per channel
_COMMON_FORMATS = "PNG, JPEG, WebP or TIFF"
_QUALITY = 95  # of JPEG, lossy WebP and AVIF
_JPEG_SEGMENT = 65_000  # bytes that a segment can hold besides its header
_MAX_SIDES = {
    "WEBP": 16_383,
    "JPEG": MOST_SIDE,
    "AVIF": 65_536,
    "GIF": 65_535,
    "TGA": 65_535,
    "PCX": 65_535,
    "ICO": 256,
    "HEIF": 16_384,  # of the encoder; H.265 allows 16,888 at its highest level
}


def target_format(picture: Picture, target: Path | BinaryIO, format: str | None = None) -> str:
    """Return Pillow's name of the format that `save` would write.

    The format is `format` if given, else that of the suffix, else the picture's own. Calling this function before the
    work starts reports an unusable format early.

    Args:
        picture: the picture to write.
        target: a path, or an open binary file.
        format: name of a format, for instance "png" or "jpg".

    Raises:
        UsageError: the format is unknown or cannot be written, it needs a plug-in that is not installed, or it cannot
            hold the picture's transparency.
    """
    name = _named_format(target, format) or picture.format.upper()
    name = _ALIASES.get(name, name)
    _check_encoder(name)
    if name not in Image.SAVE:
        raise UsageError(f"cannot write {name or 'a picture without a format'}", f"choose {_COMMON_FORMATS}")
    if _is_transparent(picture) and name not in _ALPHA_FORMATS:
        hint = "write PNG or WebP instead, or flatten the picture onto a background first"
        raise UsageError(f"{name} cannot hold the picture's transparency", hint)
    return name


def _check_encoder(name: str) -> None:
    """Check that the plug-in is installed that writes a format; other formats need none.

    Raises:
        UsageError: It is not installed. The hint names the extra that brings it.
    """
    if name in PLUGINS and PLUGINS[name].format not in load_plugins():
        plugin = PLUGINS[name]
        message = f"writing {plugin.title} needs {plugin.package}"
        raise UsageError(message, f"run: pip install 'restorer[{plugin.extra}]', or choose another format")


def _named_format(target: Path | BinaryIO, format: str | None) -> str:
    """Return Pillow's name of the format that an option or a suffix names; '' if there is neither."""
    Image.init()
    suffix = target.suffix.lower() if isinstance(target, Path) else ""
    name = (format or Image.registered_extensions().get(suffix, suffix)).upper().lstrip(".")
    return _ALIASES.get(name, name)


def check_target_size(target: Path, format: str | None, width: int, height: int) -> None:
    """Check that the file of a result can hold its size, as far as its name tells the format.

    Args:
        target: the path of the result.
        format: as for `target_format`.
        width: width of the result in pixels.
        height: height of the result in pixels.

    Raises:
        UsageError: a side is longer than the format allows, or the plug-in that writes the format is missing.
    """
    name = _named_format(target, format)
    _check_encoder(name)
    check_size(name, width, height)


def check_size(name: str, width: int, height: int) -> None:
    """Check that a format can hold a picture of a size, before the picture is computed.

    Args:
        name: Pillow's name of the format.
        width: width of the picture in pixels.
        height: height of the picture in pixels.

    Raises:
        UsageError: a side is longer than the format allows.
    """
    longest = _MAX_SIDES.get(name)
    if longest is not None and max(width, height) > longest:
        message = f"{name} cannot hold {width}x{height} pixels: a side has at most {longest:,}"
        raise UsageError(message, "write PNG or TIFF instead")


def written_depth(picture: Picture, name: str) -> int:
    """Return the bits per channel that `save` writes.

    Args:
        picture: the picture to write.
        name: Pillow's name of the format.
    """
    if _is_copied(picture, name):
        return picture.depth
    if name == "JXL" and picture.channels == 1 and picture.alpha is None:
        return min(picture.bits, 16)  # the encoder takes deep gray, but no deep colour
    return min(picture.bits, _MAX_BITS.get(name, 8))


def save(
    picture: Picture,
    target: Path | BinaryIO,
    format: str | None = None,
    overwrite: bool = False,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write a picture with all its metadata.

    A picture that is still identical to its file is written as that file, byte for byte, if the format is the same.
    PNG (up to 16 bits) and TIFF (up to 32 bits, floats included) are lossless. WebP and JPEG XL are lossless unless the
    picture was lossy. JPEG, lossy WebP and JPEG XL, AVIF and HEIC have quality 95; JPEG and AVIF are 4:4:4, and HEIC is
    4:2:0 with up to 10 bits.

    A file is first written under a hidden name beside the target and then moved into place, so that a failure leaves
    nothing behind.

    Args:
        picture: the picture to write.
        target: a path, or an open binary file.
        format: as for `target_format`.
        overwrite: whether an existing file is replaced.
        quality: quality of JPEG, WebP, AVIF, HEIC and JPEG XL, 1 to 100; None for the default. With a quality, WebP is
            lossy, and so is JPEG XL below 100.

    Returns:
        One line for each thing that the format cannot hold.

    Raises:
        UsageError: as for `target_format`, or the format rejects this picture (size limits).
        OutputError: the target exists and `overwrite` is not set, or its folder is missing, not writable or full.
    """
    name = target_format(picture, target, format)
    data, notes = _encode(picture, name, quality)
    if isinstance(target, Path):
        _write(data, target, overwrite)
    else:
        try:
            target.write(data)
            target.flush()
        except BrokenPipeError:  # the reader has closed the pipe, which is not an error
            raise
        except OSError as error:
            raise _output_error("the output", error) from error
    return notes


def _is_copied(picture: Picture, name: str) -> bool:
    return picture.original is not None and name == picture.format


def _is_transparent(picture: Picture) -> bool:
    return picture.alpha is not None and not (picture.alpha == picture.opaque).all()


def _encode(picture: Picture, name: str, quality: int | None) -> tuple[bytes, tuple[str, ...]]:
    """Return the bytes of the file in the format `name`, and one note for each thing that it cannot hold."""
    if picture.original is not None and _is_copied(picture, name):
        return picture.original, ("nothing has changed: the file is copied as it is",)
    if name not in _ALPHA_FORMATS:
        picture = replace(picture, alpha=None)
    reduced, note = _reduce_to_format(picture, name)
    options, notes = _save_options(picture, name, quality)
    notes = (note, *notes) if note else notes
    try:
        if name == "TIFF":
            return encode_tiff(_stack_bands(reduced), reduced.alpha is not None, **options), notes
        if name == "HEIF":
            chunks = dict(picture.attachments.chunks)
            return heif_file.encode_heif(_stack_bands(reduced), chunks=chunks, **options), notes
        if name == "JXL":
            bands, note = _in_srgb(_stack_bands(reduced), picture.icc)
            return jxl_file.encode_jxl(bands, **options), (*notes, note) if note else notes
        if name == "PNG" and reduced.bits == 16:
            data = encode_png(_stack_bands(reduced), **options)
        else:
            data = _encode_with_pillow(reduced, name, options)
        return picture.attachments.added_to(data, name), notes
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        reason = " ".join(str(error).split())
        message = f"this picture cannot be written as {name}: {reason}"
        raise UsageError(message, f"choose {_COMMON_FORMATS}") from error


def _reduce_to_format(picture: Picture, name: str) -> tuple[Picture, str]:
    """Return the picture with numbers that the format can hold, and a note if they are rounded."""
    depth = written_depth(picture, name)
    if depth == 32 or (depth == picture.bits and picture.pixels.dtype.kind == "u"):
        return picture, ""
    numbers = 8 if depth == 8 else 16
    values = "floating-point values" if picture.pixels.dtype.kind == "f" else f"{picture.bits}-bit values"
    note = f"{name} is written with at most {depth} bits per channel: {values} are rounded to {depth} bits"
    return reduce_depth(picture, numbers), note


def _stack_bands(picture: Picture) -> np.ndarray:
    """Return (H, W, C) with alpha as the last band."""
    colour = picture.pixels[..., None] if picture.channels == 1 else picture.pixels
    return colour if picture.alpha is None else np.concatenate([colour, picture.alpha[..., None]], axis=-1)


def _encode_with_pillow(picture: Picture, name: str, options: dict[str, Any]) -> bytes:
    image = to_pil(picture)
    if name == "GIF" and image.mode == "LA":
        image = image.convert("RGBA")  # Pillow's writer drops the alpha of LA
    image.info.clear()  # writers differ in what they take from `info`; everything that they may write is in `options`
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _save_options(picture: Picture, name: str, quality: int | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of the writer, and a note for each thing that the format cannot hold."""
    options: dict[str, Any] = {}
    notes = []
    if name == "GIF" and (picture.channels == 3 or picture.alpha is not None):
        notes.append("GIF holds only 256 colours and no partial transparency, so the picture is approximated")
    icc, exif, dpi = picture.icc, picture.exif, picture.dpi
    has_gain_map = bool(picture.attachments.gain_map) and name == "JPEG"
    xmp = picture.xmp if has_gain_map else remove_claims(picture.xmp)
    if RECORD in picture.text and (name in _METADATA_FORMATS - {"PNG"} or read_record(exif)):
        exif = add_record_to_exif(exif, picture.text[RECORD])
    if name in ("WEBP", "AVIF") or (name == "HEIF" and picture.alpha is not None):
        icc, note = match_profile(icc, 3)  # these formats store gray as colour
        notes += [note] if note else []
    if name in ("WEBP", "AVIF", "HEIF", "JXL"):
        exif, dpi = add_dpi_to_exif(exif, dpi), None
    if name == "JPEG":
        options = {"quality": quality or _QUALITY, "subsampling": 0}
        notes += [f"metadata too large for {name} are dropped"] if _is_too_long(exif) or _is_too_long(xmp) else []
        exif, xmp = (None if _is_too_long(block) else block for block in (exif, xmp))
    elif name == "AVIF":
        options = {"quality": quality or _QUALITY, "subsampling": "4:4:4"}
    elif name == "HEIF":
        options = {"quality": quality or _QUALITY}
    elif name == "JXL":
        icc, options = None, {"quality": quality or (_QUALITY if picture.lossy else None)}
    elif name == "WEBP":
        # `exact` keeps the colour hidden under full transparency
        is_lossy = picture.lossy or quality is not None
        options = {"quality": quality or _QUALITY, "exact": True} if is_lossy else {"lossless": True, "exact": True}
    elif name == "PNG":
        options = {"pnginfo": _png_texts(picture)}
    texts = {key: text for key, text in picture.text.items() if key != RECORD} if name != "PNG" else {}
    comment = texts.pop(COMMENT, "") if name in _COMMENT_FORMATS else ""
    blocks = {"colour profile": icc, "EXIF": exif, "XMP": xmp}
    lost = [label for label, block in blocks.items() if block and name not in _METADATA_FORMATS]
    lost += ["resolution"] if dpi and name not in _DPI_FORMATS else []
    lost += picture.attachments.lost(name)
    lost += ["texts (" + ", ".join(sorted(texts))[:60] + ")"] if texts else []
    if lost:
        notes.append(f"{name} cannot hold all metadata and loses: {', '.join(lost)}")
    metadata = {"icc_profile": icc, "exif": exif, "xmp": None if name == "PNG" else xmp, "dpi": dpi}
    metadata |= {"comment": comment.encode()[:_JPEG_SEGMENT], **picture.attachments.options(name)}
    if len(comment.encode()) > _JPEG_SEGMENT:
        notes.append(f"{name} cannot hold a comment of {len(comment.encode()):,} bytes, so its end is cut off")
    return options | {key: value for key, value in metadata.items() if value}, tuple(notes)


def _in_srgb(bands: np.ndarray, icc: bytes | None) -> tuple[np.ndarray, str]:
    """Return the bands of a picture converted from its profile to sRGB, and a note if this has changed them."""
    return jxl_file.to_srgb(bands, icc) if icc else (bands, "")


def _is_too_long(block: bytes | None) -> bool:
    return block is not None and len(block) > _JPEG_SEGMENT


def _png_texts(picture: Picture) -> PngInfo:
    info = PngInfo()
    if picture.xmp:
        packet = remove_claims(picture.xmp) or b""
        info.add_itxt("XML:com.adobe.xmp", packet.decode("utf-8", "replace"))
    for key, text in {**picture.text, **picture.attachments.texts("PNG")}.items():
        if text.isascii():
            info.add_text(key, text)
        else:
            info.add_itxt(key, text)
    return info


def _write(data: bytes, target: Path, overwrite: bool) -> None:
    if overwrite and target.is_symlink():
        target = target.resolve()  # replaces the file that the link points to, not the link
    temporary = target.with_name(partial_name())
    try:
        if target.is_dir():
            raise OutputError(f"{target} is a folder", "name a file in it")
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe must be written into, not replaced
            return
        try:
            _write_synced(data, temporary)
            _move(temporary, target, overwrite)
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise
            _write_synced(data, temporary)  # another run that has just started in this folder has removed the file
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
    """Move a file into place atomically.

    Raises:
        FileExistsError: `overwrite` is not set and the target exists, even if it has only just appeared.
    """
    if overwrite:
        if target.exists():
            copy_attributes(target, temporary)
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links: reserve the name, then replace the empty file
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        try:
            temporary.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _output_error(target: Path | str, error: OSError) -> OutputError:
    """Convert an error of the system to an `OutputError` with a hint."""
    folder = target.parent if isinstance(target, Path) else target
    messages = {
        errno.EEXIST: (f"{target} already exists", "allow overwriting, or choose another name"),
        errno.ENOENT: (f"{target}: the folder {folder} does not exist", "create it first"),
        errno.ENOTDIR: (f"{target}: {folder} is not a folder", "choose another location"),
        errno.EACCES: (f"{target}: the folder {folder} is not writable", "choose another location"),
        errno.EPERM: (f"{target}: the folder {folder} is not writable", "choose another location"),
        errno.EROFS: (f"{target}: the folder {folder} is not writable", "choose another location"),
        errno.ENOSPC: (f"{target}: the disk is full", "free some space, or choose another location"),
        errno.EDQUOT: (f"{target}: the disk quota is used up", "free some space, or choose another location"),
    }
    fallback = (f"{target} cannot be written: {error.strerror or error}", "choose another location or name")
    return OutputError(*messages.get(error.errno or 0, fallback))
