"""Reading of picture files.

Every number is read as the file stores it, and a note reports each conversion. Whatever a decoder raises on malformed
bytes becomes an error message of one line, and damaged metadata never prevent a picture from being read.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from restorer.errors import PictureError
from restorer.images.attachments import read_attachments
from restorer.images.boxed import read_boxed
from restorer.images.foreign import check_kind, develop, is_raw, load_plugins, raw_size
from restorer.images.high_depth import TIFF_MAGIC, check_strips, read_tiff
from restorer.images.jpeg_damage import NO_END, completed, describe_damage
from restorer.images.jpeg_file import parse_jpeg
from restorer.images.metadata import (
    adapt_exif,
    describe_cut_profile,
    keep_standard_tags,
    match_profile,
    read_record,
    read_resolution,
)
from restorer.images.older_formats import read_older
from restorer.images.picture import COMMENT, RECORD, Picture
from restorer.images.pillow_modes import Bands, assign_levels, read_bands, split_alpha, turn_upright
from restorer.images.png_chunks import describe_png_damage
from restorer.images.sources import convert_errors, display_name, read_file, silence_stderr
from restorer.images.subject import turn_subject
from restorer.images.supplement import Supplement
from restorer.images.xmp import remove_claims, remove_orientation
from restorer.limits import MAX_PIXELS

__all__ = ["MAX_PIXELS", "display_name", "from_pil", "load", "read_file", "read_size"]

# EPS and WMF, which are programs that an external interpreter would have to run, are left out, and so are the formats
# without a decoder.
_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO"),
    *("PCX", "SGI", "QOI", "PSD", "DDS"),
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Tags of TIFF 6.0 and its supplements, and their values
_BITS = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAMPLES = 277
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # bands of colour by the tag _PHOTOMETRIC
_PLANAR, _SEPARATE = 284, 2
_SAMPLE_FORMAT, _SIGNED = 339, 2
_XMP, _ICC = 700, 34675
_COM = 0xFE  # the marker of a comment in a JPEG file


def load(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> Picture:
    """Read a picture and turn it upright; of an animation, read the first frame.

    Args:
        source: a path, or an open binary file such as standard input.
        max_pixels: the largest number of pixels that is decoded; a value above Pillow's limit raises that limit for
            the whole process.
        data: the whole file, as `read_file` returns it; None to read it.

    Raises:
        PictureError: the file is absent, a folder, empty, not a picture, damaged, cut short, or has more than
            `max_pixels`.
    """
    data, name = read_file(source) if data is None else data, display_name(source)
    with convert_errors(name, max_pixels):
        return replace(_decode(data, name, max_pixels), original=data)


def from_pil(image: Image.Image) -> Picture:
    """Convert a Pillow image of any mode to a picture.

    Raises:
        PictureError: the image was opened lazily and its file is damaged.
    """
    with convert_errors(str(getattr(image, "filename", "") or "the picture"), MAX_PIXELS):
        return _read_image(image, b"", "", MAX_PIXELS)


def read_size(source: Path, max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> tuple[int, int]:
    """Return the width and height of the upright picture.

    The header of the file is enough for most files; otherwise the pixels are decoded.

    Args:
        source: the path of the file.
        max_pixels: the largest number of pixels that is allowed.
        data: as in `load`.

    Raises:
        PictureError: as for `load`, as far as the header shows the error.
    """
    data, name = read_file(source) if data is None else data, display_name(source)
    with convert_errors(name, max_pixels):
        if is_raw(data, name):
            return raw_size(data, name, max_pixels)
        try:
            with _open_lazily(data) as image:
                width, height = image.size
                # In a PNG without EXIF, Pillow would look for it after the pixels and therefore decode them.
                may_be_turned = not data.startswith(_PNG) or b"eXIf" in data or b"Raw profile type" in data
                is_on_its_side = may_be_turned and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Image.DecompressionBombError:
            raise
        except Exception:  # Pillow alone cannot open the file, or only its metadata are damaged
            picture = _decode(data, name, max_pixels)
            return picture.width, picture.height
        if width * height > max_pixels:
            raise Image.DecompressionBombError
        return (height, width) if is_on_its_side else (width, height)


def _decode(data: bytes, name: str, max_pixels: int) -> Picture:
    """Decode a file; if that fails, decode it without its metadata."""
    try:
        return _open_and_read(data, name, max_pixels)
    except (PictureError, Image.DecompressionBombError, MemoryError):
        raise
    except Exception:  # a damaged profile or text in a PNG stops Pillow, although the pixels may be intact
        mended, note = _strip_metadata(data), "the metadata are damaged and are dropped"
        if mended == data:
            mended = completed(data) or data
            note = NO_END
        if mended == data:
            raise
        picture = _open_and_read(mended, name, max_pixels)
        return replace(picture, notes=(*picture.notes, note))


def _open_and_read(data: bytes, name: str, max_pixels: int) -> Picture:
    if is_raw(data, name):
        return _read_raw(data, name, max_pixels)
    is_tiff = data.startswith(TIFF_MAGIC)
    with silence_stderr() if is_tiff else contextlib.nullcontext():
        try:
            image = _open_lazily(data)
        except Image.UnidentifiedImageError:
            if not is_tiff:
                check_kind(data, name)
                raise
            return _read_with_tifffile(data, name, max_pixels)
        with image:
            picture = _read_image(image, data, name, max_pixels)
    damage = describe_damage(data) if picture.format == "JPEG" else describe_png_damage(data)
    return replace(picture, notes=(damage, *picture.notes)) if damage else picture


def _open_lazily(data: bytes) -> Image.Image:
    """Open an image without decoding it."""
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError:
        if not (plugins := load_plugins()):
            raise
        return Image.open(io.BytesIO(data), formats=plugins)


def _strip_metadata(data: bytes) -> bytes:
    """Return a PNG file without the chunks that its pixels do not need, and any other file as it is."""
    if not data.startswith(_PNG):
        return data
    parts, start = [_PNG], len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] in _PIXEL_CHUNKS:
            parts.append(data[start:end])
        start = end
    return b"".join(parts)


# ------------------------------------------------------------------------------------------------------ assembling


def _read_image(image: Image.Image, data: bytes, name: str, max_pixels: int) -> Picture:
    """Convert an opened image to a picture.

    Args:
        image: the image.
        data: the file that `image` was opened from, or empty if it is not known.
        name: what error messages call the file.
        max_pixels: the largest number of pixels that is decoded.
    """
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError
    mode, kind = image.mode, image.format or ""
    tags = getattr(image, "tag_v2", {})  # only TIFF files have them
    bits, planar, sample_format = (tags.get(tag) for tag in (_BITS, _PLANAR, _SAMPLE_FORMAT))
    has_deep_planes = planar == _SEPARATE and 16 in (bits or ())
    has_signed_bytes = sample_format == (_SIGNED,) and bits == (8,)
    if data and (has_deep_planes or has_signed_bytes):  # Pillow would take the wrong bytes, or ignore the sign
        return _read_with_tifffile(data, name, max_pixels)
    if kind == "TIFF":
        check_strips(tags)
    frames = _count_frames(image)
    # Pillow turns a TIFF file upright when it loads it, and then drops the tag.
    is_oriented = ExifTags.Base.Orientation in tags
    more = _supplement(image, data, name)
    bands = more.bands or read_bands(image, data, white_is_zero=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    info, notes = image.info, [*more.notes]
    dropped = _dropped_bands(tags, has_alpha=bands.alpha is not None)
    notes += [f"{dropped} bands besides the colour are left out"] if dropped else []
    attachments, lost = read_attachments(data, {**info, **getattr(image, "text", {})}, tags)
    attachments = replace(
        attachments, chunks=(*attachments.chunks, *more.chunks), captions=attachments.captions or more.captions
    )
    packet = remove_orientation(more.xmp or info.get("xmp") or info.get("XML:com.adobe.xmp"))
    base = Picture(
        bands.colour,
        mode=mode,
        depth=more.depth or bands.depth,
        format="JPEG" if kind == "MPO" else kind,
        icc=None if bands.is_managed else (more.icc or info.get("icc_profile")),
        xmp=remove_claims(packet, keep_gain_map=bool(attachments.gain_map)),
        text=_read_texts(image, data),
        attachments=attachments,
        lossy=kind in ("JPEG", "MPO", "AVIF", "HEIF") or (kind == "WEBP" and _is_lossy_webp(data)),
        notes=(*notes, *lost),
    )
    return _assemble(
        base, bands, lambda: more.exif or image.getexif(), frames, more.dpi or info.get("dpi"), is_oriented
    )


def _supplement(image: Image.Image, data: bytes, name: str) -> Supplement:
    """Return what the file holds besides what Pillow returns.

    Raises:
        PictureError: it is a PNG file for telephones of Apple, of which Pillow knows nothing.
    """
    if data.startswith(_PNG) and data[12:16] == b"CgBI":
        hint = "convert it to a plain PNG: xcrun -sdk iphoneos pngcrush -revert-iphone-optimizations IN OUT"
        raise PictureError(f"{name} is a PNG file that is packed for the telephones of Apple (CgBI)", hint)
    found = read_boxed(image, data)
    return read_older(image, data) if found == Supplement() else found


def _read_raw(data: bytes, name: str, max_pixels: int) -> Picture:
    """Develop a raw photograph."""
    pixels = develop(data, name, max_pixels)
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # not every raw file is a TIFF file
        exif.load_from_fp(io.BytesIO(data))
    exif = keep_standard_tags(exif)
    base = Picture(pixels, notes=("the raw photograph was developed with the white balance of the camera",))
    return _assemble(base, Bands(pixels), lambda: exif, 1, is_oriented=True)


def _read_with_tifffile(data: bytes, name: str, max_pixels: int) -> Picture:
    """Read a TIFF file that only `tifffile` can read."""
    tiff = read_tiff(data, name, max_pixels)
    bands = split_alpha(tiff.bands)
    if bands.colour.dtype.kind != "u" or bands.colour.itemsize > 2:
        bands = replace(assign_levels(bands.colour, "values"), alpha=bands.alpha)
    bands = replace(bands, notes=(*tiff.notes, *bands.notes))
    directory = Image.Exif()  # the directory of a TIFF file has the same format as EXIF
    with contextlib.suppress(Exception):  # tifffile may understand a directory that Pillow does not
        directory.load_from_fp(io.BytesIO(data))
    icc, xmp = (directory.get(tag) for tag in (_ICC, _XMP))
    base = Picture(bands.colour, mode="", format="TIFF", icc=icc, xmp=remove_orientation(xmp))
    return _assemble(base, bands, lambda: directory, tiff.frames)


def _assemble(
    base: Picture,
    bands: Bands,
    read_exif: Callable[[], Image.Exif],
    frames: int,
    dpi: Any = None,
    is_oriented: bool = False,
) -> Picture:
    """Return `base` with the bands, turned upright, and with the metadata that are still valid for them.

    Args:
        base: the picture with its format, profile, XMP and texts.
        bands: the numbers as stored.
        read_exif: returns the EXIF of the file; it may raise anything.
        frames: number of pictures in the file.
        dpi: resolution as the decoder reports it, or None.
        is_oriented: whether the decoder has already applied the orientation tag and removed it.
    """
    orientation, exif, exif_note = 1, None, ""
    try:
        tags = read_exif()
        orientation, block = int(tags.get(ExifTags.Base.Orientation, 1)), tags.tobytes()
        colour = turn_upright(bands.colour, orientation)
        height, width = bands.colour.shape[:2]
        exif = adapt_exif(
            block,
            (colour.shape[1], colour.shape[0]),
            is_oriented,
            move=lambda place: turn_subject(place, orientation, width, height),
        )
    except Exception:  # metadata come from any camera of any age, and no error in them is a reason to lose the picture
        colour, exif_note = turn_upright(bands.colour, orientation), "the EXIF data are damaged and are dropped"
    icc, icc_note = match_profile(base.icc, 1 if colour.ndim == 2 else 3)
    icc_note = icc_note or describe_cut_profile(icc)
    frames_note = f"only the first of {frames} pictures in the file is used" if frames > 1 else ""
    return replace(
        base,
        pixels=colour,
        alpha=None if bands.alpha is None else turn_upright(bands.alpha, orientation),
        attachments=base.attachments.turned(orientation),
        levels=bands.levels,
        icc=icc,
        exif=exif,
        dpi=read_resolution(dpi, exif),
        text={**base.text, **({RECORD: record} if (record := read_record(exif)) else {})},
        notes=tuple(n for n in (frames_note, *bands.notes, *base.notes, exif_note, icc_note) if n),
    )


def _dropped_bands(tags: Mapping[int, Any], *, has_alpha: bool) -> int:
    """Return the number of bands of a TIFF file, by its tags, that are neither colour nor transparency."""
    samples, photometric = tags.get(_SAMPLES), tags.get(_PHOTOMETRIC)
    if not isinstance(samples, int) or photometric not in _COLOURS:
        return 0
    return max(0, samples - _COLOURS[photometric] - has_alpha)


def _count_frames(image: Image.Image) -> int:
    """Return the number of pictures in the file; 1 if the frames after the first are damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        return 1


def _read_texts(image: Image.Image, data: bytes) -> dict[str, str]:
    """Return the texts of a PNG, except XMP and raw profiles, and the comments of a JPEG or GIF, one a line."""
    texts = getattr(image, "text", {}) if image.format == "PNG" else {}
    found = {key: str(text) for key, text in texts.items() if not key.startswith(("XML:com.adobe", "Raw profile"))}
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and (parts := parse_jpeg(data)) is not None:  # Pillow keeps the last one alone
        comment = b"\n".join(parts.payloads(_COM, b"")) or comment
    if isinstance(comment, bytes):
        found[COMMENT] = comment.decode("utf-8", "replace")
    return found


def _is_lossy_webp(data: bytes) -> bool:
    """Return whether the first frame is a 'VP8 ' chunk and not 'VP8L' (RFC 9649, section 2)."""
    start = 12
    while start + 8 <= len(data):
        kind, length = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        # The chunks of an animation frame follow 16 bytes of its header.
        start += 8 + (16 if kind == b"ANMF" else length + length % 2)
    return False
