"""Picture files -> pictures.

Every number is taken over as it stands in the file; what must be converted is noted. Whatever a decoder raises on
malformed bytes becomes one line, and metadata that are damaged never cost the picture.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from restorer.errors import PictureError
from restorer.images.high_depth import TIFF_MAGIC, check_strips, tiff_bands
from restorer.images.metadata import adapted_exif, fitting_profile, record_in, resolution, without_orientation
from restorer.images.picture import COMMENT, RECORD, Picture
from restorer.images.pillow_modes import Bands, bands_of, ranged, split, turned
from restorer.limits import MAX_PIXELS

__all__ = ["MAX_PIXELS", "from_pil", "load", "name_of", "size_of"]

# Neither EPS nor WMF, which are programs that others would have to run, nor formats without a decoder.
_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO"),
    *("PCX", "SGI", "QOI", "PSD", "DDS"),
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_STANDARD_ERROR = threading.Lock()  # held by who turns it away
_IPTC = 0x0404  # of Photoshop's image resources
# Tags of TIFF 6.0 and its supplements, and their values
_BITS = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PLANAR, _SEPARATE = 284, 2
_SAMPLE_FORMAT, _SIGNED = 339, 2
_XMP, _ICC = 700, 34675


def load(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture, turned upright; of an animation the first frame.

    A `max_pixels` above Pillow's limit lifts that for the whole process.

    Raises:
        PictureError: absent, a folder, empty, no picture, damaged, cut short, or of more than `max_pixels`.
    """
    data, name = _read(source)
    with _decoding(name, max_pixels):
        return replace(_decoded(data, name, max_pixels), original=data)


def from_pil(image: Image.Image) -> Picture:
    """Take over a Pillow image, whatever its mode. Raises PictureError if it was opened lazily and is damaged."""
    with _decoding(str(getattr(image, "filename", "") or "the picture"), MAX_PIXELS):
        return _from_image(image, b"", "", MAX_PIXELS)


def size_of(source: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of the upright picture, from the file's header alone where that tells.

    Raises:
        PictureError: as `load`, as far as the header shows it.
    """
    data, name = _read(source)
    with _decoding(name, max_pixels):
        try:
            with _lazily(data) as image:
                width, height = image.size
                # Of a PNG without it, Pillow would read everything that follows the pixels, and so decode them.
                may_be_turned = not data.startswith(_PNG) or b"eXIf" in data or b"Raw profile type" in data
                turned = may_be_turned and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Image.DecompressionBombError:
            raise
        except Exception:  # not known to Pillow alone, or only its metadata are damaged: the pixels tell
            picture = _decoded(data, name, max_pixels)
            return picture.width, picture.height
        if width * height > max_pixels:
            raise Image.DecompressionBombError
        return (height, width) if turned else (width, height)


def name_of(source: Path | BinaryIO) -> str:
    """What to call a source in a message of one line."""
    name = str(source) if isinstance(source, Path) else "standard input"
    return name if name.isprintable() else ascii(name)


def _read(source: Path | BinaryIO) -> tuple[bytes, str]:
    """The whole file: pictures are small beside what restoring them needs, and a pipe cannot be rewound."""
    name = name_of(source)
    try:
        data = source.read_bytes() if isinstance(source, Path) else source.read()
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file", "check the path") from error
    except OSError as error:  # a folder, no permission, a broken disk: the system's own words say it best
        raise PictureError(f"{name}: cannot be read: {error.strerror or error}", "name a readable file") from error
    except ValueError as error:
        raise PictureError(f"{name}: is no name of a file", "check the path") from error
    if not data:
        raise PictureError(f"{name}: is empty (0 bytes)", "copy or download the file again")
    return data, name


@contextlib.contextmanager
def _decoding(name: str, max_pixels: int) -> Iterator[None]:
    """Turn whatever a decoder raises on malformed bytes into one line."""
    limit = Image.MAX_IMAGE_PIXELS
    if max_pixels > MAX_PIXELS and limit is not None:
        Image.MAX_IMAGE_PIXELS = max(limit, max_pixels // 2 + 1)  # Pillow refuses above twice its limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes below its hard limit
            yield
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        raise PictureError(f"{name}: is not a picture", "PNG, JPEG, WebP, TIFF and others are read") from error
    except Image.DecompressionBombError as error:
        what = f"is too large to be decoded safely: more than {max_pixels / 1e6:.0f} megapixels"
        raise PictureError(f"{name}: {what}", "allow more with --max-pixels, or cut it into parts first") from error
    except MemoryError as error:
        raise PictureError(f"{name}: is too large for the memory", "cut it into parts first") from error
    except Exception as error:  # decoders raise nearly anything: OSError, SyntaxError, struct.error, ValueError, ...
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PictureError(f"{name}: is damaged or cut short: {reason}", "copy or download the file again") from error


def _decoded(data: bytes, name: str, max_pixels: int) -> Picture:
    try:
        return _opened(data, name, max_pixels)
    except (PictureError, Image.DecompressionBombError, MemoryError):
        raise
    except Exception:  # in a PNG a damaged profile or text stops Pillow, though the pixels may be whole
        plain = _only_pixels(data)
        if plain == data:
            raise
        picture = _opened(plain, name, max_pixels)
        return replace(picture, notes=(*picture.notes, "the metadata are damaged and are dropped"))


def _opened(data: bytes, name: str, max_pixels: int) -> Picture:
    is_tiff = data.startswith(TIFF_MAGIC)
    with _speechless() if is_tiff else contextlib.nullcontext():
        try:
            image = _lazily(data)
        except Image.UnidentifiedImageError:
            if not is_tiff:
                raise
            return _from_tiff(data, name, max_pixels)
        with image:
            return _from_image(image, data, name, max_pixels)


@contextlib.contextmanager
def _speechless() -> Iterator[None]:
    """While libtiff works, which tells the process's standard error whatever it finds wrong; Pillow says it as well."""
    with _STANDARD_ERROR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # where there is none there is nothing to keep free
            usual = os.dup(2)
            stack.callback(os.close, usual)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            stack.callback(os.dup2, usual, 2)
            os.dup2(nowhere, 2)
        yield


def _lazily(data: bytes) -> Image.Image:
    """Opened, not decoded."""
    Image.init()
    return Image.open(io.BytesIO(data), formats=[known for known in _FORMATS if known in Image.OPEN])


def _only_pixels(data: bytes) -> bytes:
    """A PNG without the chunks that its pixels do not need; other files as they are."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in _PIXEL_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


# ------------------------------------------------------------------------------------------------------ assembling


def _from_image(image: Image.Image, data: bytes, name: str, max_pixels: int) -> Picture:
    """`data` is the file that `image` was opened from, or empty if that is not known."""
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError
    mode, kind = image.mode, image.format or ""
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    bits, of_planes, is_signed = (tags.get(tag) for tag in (_BITS, _PLANAR, _SAMPLE_FORMAT))
    if data and ((of_planes == _SEPARATE and 16 in (bits or ())) or (is_signed == (_SIGNED,) and bits == (8,))):
        return _from_tiff(data, name, max_pixels)  # here Pillow would take the wrong bytes, or no sign
    if kind == "TIFF":
        check_strips(tags)
    frames = _frames(image)
    was_turned = ExifTags.Base.Orientation in tags  # will be, by Pillow, which then forgets the tag
    bands = bands_of(image, data, white_is_zero=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    info, bits = image.info, _avif_bits(data) if kind == "AVIF" else 0
    notes = [f"{bits} bits a channel are read as 8 bits"] if bits > 8 else []
    if _IPTC in (info.get("photoshop") or {}):
        notes.append("IPTC captions cannot be kept")
    plain = Picture(
        bands.colour,
        mode=mode,
        depth=bits or bands.depth,
        format="JPEG" if kind == "MPO" else kind,
        icc=None if bands.managed else info.get("icc_profile"),
        xmp=without_orientation(info.get("xmp") or info.get("XML:com.adobe.xmp")),
        text=_texts(image),
        lossy=kind in ("JPEG", "MPO", "AVIF") or (kind == "WEBP" and _webp_is_lossy(data)),
        notes=tuple(notes),
    )
    return _assembled(plain, bands, image.getexif, frames, info.get("dpi"), was_turned)


def _from_tiff(data: bytes, name: str, max_pixels: int) -> Picture:
    """A TIFF file that only `tifffile` reads. Its directory and that of EXIF are the same thing."""
    tiff = tiff_bands(data, name, max_pixels)
    bands = split(tiff.bands)
    if bands.colour.dtype.kind != "u" or bands.colour.itemsize > 2:
        bands = replace(ranged(bands.colour, "values"), alpha=bands.alpha)
    bands = replace(bands, notes=(*tiff.notes, *bands.notes))
    directory = Image.Exif()
    with contextlib.suppress(Exception):  # a directory that tifffile understands and Pillow does not
        directory.load_from_fp(io.BytesIO(data))
    icc, xmp = (directory.get(tag) for tag in (_ICC, _XMP))
    plain = Picture(bands.colour, mode="", format="TIFF", icc=icc, xmp=without_orientation(xmp))
    return _assembled(plain, bands, lambda: directory, tiff.frames)


def _assembled(
    plain: Picture,
    bands: Bands,
    read_exif: Callable[[], Image.Exif],
    frames: int,
    dpi: Any = None,
    was_turned: bool = False,
) -> Picture:
    """`plain` with the bands, turned upright, and the metadata, as far as they hold of that."""
    orientation, exif, exif_note = 1, None, ""
    try:
        tags = read_exif()
        orientation, block = int(tags.get(ExifTags.Base.Orientation, 1)), tags.tobytes()
        colour = turned(bands.colour, orientation)
        exif = adapted_exif(block, (colour.shape[1], colour.shape[0]), was_turned)
    except Exception:  # metadata of any camera and any age; none of it is worth losing the picture for
        colour, exif_note = turned(bands.colour, orientation), "the EXIF data are damaged and are dropped"
    icc, icc_note = fitting_profile(plain.icc, 1 if colour.ndim == 2 else 3)
    several = f"several pictures in one file: only the first of {frames} is used" if frames > 1 else ""
    return replace(
        plain,
        pixels=colour,
        alpha=None if bands.alpha is None else turned(bands.alpha, orientation),
        levels=bands.levels,
        icc=icc,
        exif=exif,
        dpi=resolution(dpi, exif),
        text={**plain.text, **({RECORD: record} if (record := record_in(exif)) else {})},
        notes=tuple(n for n in (several, *bands.notes, *plain.notes, exif_note, icc_note) if n),
    )


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the frames that follow are damaged; the first may be whole
        return 1


def _texts(image: Image.Image) -> dict[str, str]:
    """What a PNG says in words, but what is kept apart, or the comment of a JPEG or GIF."""
    texts = getattr(image, "text", {}) if image.format == "PNG" else {}
    found = {key: str(text) for key, text in texts.items() if not key.startswith(("XML:com.adobe", "Raw profile"))}
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        found[COMMENT] = comment.decode("utf-8", "replace")
    return found


def _webp_is_lossy(data: bytes) -> bool:
    """Whether the first frame is a 'VP8 ' chunk and not 'VP8L' (RFC 9649, section 2)."""
    at = 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        at += 8 + (16 if kind == b"ANMF" else length + length % 2)  # a frame's own chunks follow 16 bytes of header
    return False


def _avif_bits(data: bytes) -> int:
    """Bits a channel by the flags high_bitdepth and twelve_bit of the codec's configuration (AV1-ISOBMFF, 2.3.3)."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x40 and flags & 0x20)
