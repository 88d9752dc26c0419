"""Files of every kind people have, made by Pillow, tifffile, OpenCV or by hand, beside the numbers they hold."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]  # only the header's colour space is ever looked at
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" b="kept"/></x:xmpmeta>'
DPI = (300.0, 150.0)
H, W = 11, 14
PNG_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # channels -> colour type


@dataclass(frozen=True)
class Case:
    """A file, and what it holds: `colour` (H, W) or (H, W, 3), `alpha` in the type of `colour` or None.

    `lossy`: whether the file or its conversion changes numbers, so that `colour` is only near.
    """

    data: bytes
    format: str
    colour: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    has_exif: bool = False
    has_dpi: bool = False
    lossy: bool = False


def numbers(channels: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """(H, W) or (H, W, C): random, all of the range; the last band of two or four is partly 0 and partly full."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        values = rng.random((H, W, channels)).astype(kind)
        top: float = 1.0
    else:
        top = np.iinfo(kind).max
        values = rng.integers(0, top, (H, W, channels), endpoint=True).astype(kind)
    values[0, 0], values[0, 1] = 0, top
    if channels in (2, 4):
        values[: H // 3, :, -1] = 0
        values[-H // 3 :, :, -1] = top
    return values[..., 0] if channels == 1 else values


def parts(bands: np.ndarray) -> dict[str, np.ndarray | None]:
    if bands.ndim == 3 and bands.shape[-1] in (2, 4):
        colour = bands[..., 0] if bands.shape[-1] == 2 else bands[..., :3]
        return {"colour": colour, "alpha": bands[..., -1]}
    return {"colour": bands, "alpha": None}


def some_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Model] = "Model 1"
    exif[ExifTags.Base.DateTime] = "2020:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    return exif


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def by_pillow(image: Image.Image, format: str, colour: np.ndarray, alpha: Any = None, **options: Any) -> Case:
    icc = SRGB if colour.ndim == 3 else GRAY
    icc = None if format in ("BMP", "GIF") else icc
    metadata: dict[str, Any] = {"icc_profile": icc, "exif": some_exif().tobytes(), "dpi": DPI} if icc else {"dpi": DPI}
    data = encoded(image, format, **metadata, **options)
    has_dpi = format in ("PNG", "JPEG", "TIFF", "BMP")
    lossy = format in ("JPEG", "AVIF")
    return Case(data, format, colour, alpha, icc, has_exif=icc is not None, has_dpi=has_dpi, lossy=lossy)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    rows: bytes, width: int, height: int, depth: int, colour_type: int, *extra: bytes, interlaced: int = 0
) -> bytes:
    head = struct.pack(">2I5B", width, height, depth, colour_type, 0, 0, interlaced)
    body = png_chunk(b"IHDR", head) + b"".join(extra) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def png_profile(icc: bytes) -> bytes:
    return png_chunk(b"iCCP", b"name\0\0" + zlib.compress(icc))


def deep_png(channels: int, interlaced: bool = False, key: bool = False) -> Case:
    """16 bits a channel, filter type 0 throughout; Adam7 by its definition (PNG, third edition, 8.1)."""
    bands = numbers(channels, np.uint16)
    held = parts(bands)
    flat = bands.reshape(H, W, channels)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    grids = [flat[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [flat]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for grid in grids for row in grid if grid.size)
    extra = [png_profile(SRGB if channels > 2 else GRAY)]
    if key:
        transparent = flat[3, 3]
        extra.append(png_chunk(b"tRNS", transparent.astype(">u2").tobytes()))
        held["alpha"] = np.where((flat == transparent).all(axis=-1), 0, 65535).astype(np.uint16)
    data = png(rows, W, H, 16, PNG_TYPES[channels], *extra, interlaced=int(interlaced))
    return Case(data, "PNG", **held, icc=SRGB if channels > 2 else GRAY)


def small_gray_png(depth: int) -> Case:
    """2 or 4 bits a pixel, with a transparent value, which the file names unstretched."""
    levels = np.random.default_rng(1).integers(0, 2**depth, (H, W), dtype=np.uint8)
    levels[0, :2] = [0, 2**depth - 1]
    bits = np.unpackbits(levels[..., None], axis=-1)[..., -depth:].reshape(H, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    data = png(rows, W, H, depth, 0, png_chunk(b"tRNS", struct.pack(">H", 1)))
    stretched = levels * np.uint8(255 // (2**depth - 1))
    return Case(data, "PNG", stretched, np.where(levels == 1, 0, 255).astype(np.uint8))


def tiff(bands: np.ndarray, held: np.ndarray | None = None, **options: Any) -> Case:
    """By tifffile; `held` if the numbers a picture holds have another type than the file's."""
    channels = 1 if bands.ndim == 2 else bands.shape[-1]
    colours = 3 if channels > 2 else 1
    icc = SRGB if colours == 3 else GRAY
    stored = np.moveaxis(bands, -1, 0) if options.get("planarconfig") == "separate" else bands
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        stored,
        photometric="rgb" if colours == 3 else "minisblack",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        iccprofile=icc,
        resolution=DPI,
        resolutionunit="INCH",
        extratags=[(271, 2, 0, "Maker", True), (306, 2, 0, "2020:01:02 03:04:05", True)],
        metadata=None,
        **options,
    )
    return Case(buffer.getvalue(), "TIFF", **parts(bands if held is None else held), icc=icc, has_dpi=True)


def palette_image() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Of eight colours; also their indices and the colours themselves."""
    colours = np.random.default_rng(2).integers(0, 256, (8, 3), dtype=np.uint8)
    indices = np.random.default_rng(3).integers(0, 8, (H, W), dtype=np.uint8)
    indices[0, :8] = np.arange(8)
    image = Image.frombytes("P", (W, H), indices.tobytes())
    image.putpalette(colours.tobytes())
    return image, indices, colours


def palette(format: str, transparency: bytes | int | None = None) -> Case:
    image, indices, colours = palette_image()
    alpha = None
    if transparency is not None:
        table = np.full(256, 255, np.uint8)
        if isinstance(transparency, int):
            table[transparency] = 0
        else:
            table[: len(transparency)] = np.frombuffer(transparency, np.uint8)
        alpha = table[indices]
    options = {} if transparency is None else {"transparency": transparency}
    return by_pillow(image, format, colours[indices], alpha, **options)


def plain(mode: str, format: str, **options: Any) -> Case:
    bands = numbers(len(mode)) if mode in ("L", "LA") else numbers(4 if mode == "RGBA" else 3)
    if format in ("JPEG", "AVIF"):  # what these change least
        ramp = np.linspace(40, 200, H * W).reshape(H, W)
        bands[..., : 3 if bands.ndim == 3 and bands.shape[-1] > 2 else None] = (
            ramp[..., None] if bands.ndim == 3 else ramp
        )
    return by_pillow(Image.fromarray(bands), format, **parts(bands), **options)


def deep_gray(mode: str, format: str) -> Case:
    values = numbers(1, np.uint16)
    image = Image.fromarray(values)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (W, H), values.astype(">u2").tobytes())
    return by_pillow(image, format, values)


def black_and_white(format: str) -> Case:
    bits = numbers(1) > 127
    return by_pillow(Image.fromarray(bits), format, bits * np.uint8(255))


def keyed(mode: str) -> Case:
    bands = numbers(1 if mode == "L" else 3)
    key = bands[4, 5]
    alpha = np.where(bands == key if mode == "L" else (bands == key).all(-1), 0, 255).astype(np.uint8)
    transparency = int(key) if mode == "L" else tuple(int(k) for k in key)
    return by_pillow(Image.fromarray(bands), "PNG", bands, alpha, transparency=transparency)


def converted(mode: str, format: str) -> Case:
    """Modes that are read as RGB, with Pillow's own conversion as the oracle."""
    data = encoded(Image.fromarray(numbers(3)).convert(mode), format, dpi=DPI)
    with Image.open(io.BytesIO(data)) as image:
        return Case(data, format, np.asarray(image.convert("RGB")), has_dpi=True)


def floats(values: np.ndarray) -> Case:
    return by_pillow(Image.fromarray(values), "TIFF", values)


def by_opencv(bands: np.ndarray, suffix: str, format: str) -> Case:
    order = [2, 1, 0, 3][: bands.shape[-1]]
    return Case(cv2.imencode(suffix, bands[..., order])[1].tobytes(), format, **parts(bands))


u1, u2, f4 = np.uint8, np.uint16, np.float32
CASES: dict[str, Callable[[], Case]] = {
    **{f"png {mode}": (lambda mode=mode: plain(mode, "PNG")) for mode in ("L", "LA", "RGB", "RGBA")},
    **{f"tiff {mode}": (lambda mode=mode: plain(mode, "TIFF")) for mode in ("L", "LA", "RGB", "RGBA")},
    **{f"webp {mode}": (lambda mode=mode: plain(mode, "WEBP", lossless=True, exact=True)) for mode in ("RGB", "RGBA")},
    **{f"bmp {mode}": (lambda mode=mode: plain(mode, "BMP")) for mode in ("L", "RGB")},
    **{f"jpeg {mode}": (lambda mode=mode: plain(mode, "JPEG", quality=95, subsampling=0)) for mode in ("L", "RGB")},
    **{f"avif {mode}": (lambda mode=mode: plain(mode, "AVIF", quality=95)) for mode in ("RGB", "RGBA")},
    **{f"{f.lower()} P": (lambda f=f: palette(f)) for f in ("PNG", "TIFF", "BMP", "GIF")},
    "png P and key": lambda: palette("PNG", 3),
    "png P and alpha": lambda: palette("PNG", bytes([0, 90, 255, 180])),
    "gif P and key": lambda: palette("GIF", 3),
    **{f"{f.lower()} 1": (lambda f=f: black_and_white(f)) for f in ("PNG", "TIFF", "BMP")},
    "png L and key": lambda: keyed("L"),
    "png RGB and key": lambda: keyed("RGB"),
    "png 2 bits and key": lambda: small_gray_png(2),
    "png 4 bits and key": lambda: small_gray_png(4),
    "png I;16": lambda: deep_gray("I;16", "PNG"),
    "tiff I;16": lambda: deep_gray("I;16", "TIFF"),
    "tiff I;16B": lambda: deep_gray("I;16B", "TIFF"),
    **{f"png 16 bits x {c}": (lambda c=c: deep_png(c)) for c in (1, 2, 3, 4)},
    **{f"png 16 bits x {c}, interlaced": (lambda c=c: deep_png(c, interlaced=True)) for c in (1, 2, 3, 4)},
    **{f"png 16 bits x {c} and key": (lambda c=c: deep_png(c, key=True)) for c in (1, 3)},
    "png 16 bits by opencv": lambda: by_opencv(numbers(4, u2), ".png", "PNG"),
    "tiff 16 bits x 3, LZW by opencv": lambda: by_opencv(numbers(3, u2), ".tiff", "TIFF"),
    **{f"tiff 16 bits x {c}": (lambda c=c: tiff(numbers(c, u2))) for c in (1, 2, 3, 4)},
    "tiff 16 bits, big-endian": lambda: tiff(numbers(3, u2), byteorder=">"),
    "tiff 16 bits, big-endian, Deflate": lambda: tiff(numbers(4, u2), byteorder=">", compression="deflate"),
    "tiff 16 bits, Deflate, predictor": lambda: tiff(numbers(3, u2), compression="deflate", predictor=2),
    "tiff 16 bits, planes": lambda: tiff(numbers(3, u2), planarconfig="separate"),
    "tiff 16 bits, planes, Deflate": lambda: tiff(numbers(3, u2), planarconfig="separate", compression="deflate"),
    "tiff 16 bits, tiles": lambda: tiff(numbers(3, u2), tile=(16, 16)),
    "tiff 16 bits, big file format": lambda: tiff(numbers(3, u2), bigtiff=True),
    "tiff F": lambda: floats(numbers(1, f4)),
    "tiff F to 255": lambda: floats(numbers(1, f4) * 255),
    "tiff F to 12 and below 0": lambda: floats(numbers(1, f4) * 14 - 2),
    "tiff I": lambda: by_pillow(
        Image.fromarray(numbers(1, u2).astype(np.int32)), "TIFF", numbers(1, u2).astype(np.int32)
    ),
    **{f"tiff float x {c}": (lambda c=c: tiff(numbers(c, f4))) for c in (2, 3, 4)},
    "tiff float, big-endian, planes": lambda: tiff(numbers(3, f4), byteorder=">", planarconfig="separate"),
    "tiff half": lambda: tiff(numbers(3, np.float16), numbers(3, np.float16).astype(f4)),
    "tiff double": lambda: tiff(numbers(3, np.float64), numbers(3, np.float64).astype(f4)),
    "tiff uint32": lambda: tiff(numbers(1, np.uint32)),
    "tiff uint32 x 3": lambda: tiff(numbers(3, np.uint32)),
    "tiff int16": lambda: tiff(numbers(1, np.int16), numbers(1, np.int16).astype(np.int32)),
    **{f"{f.lower()} CMYK": (lambda f=f: converted("CMYK", f)) for f in ("JPEG", "TIFF")},
    "tiff YCbCr": lambda: converted("YCbCr", "TIFF"),
    "tiff LAB": lambda: converted("LAB", "TIFF"),
}
