"""Image files of every common kind, made by Pillow, tifffile, OpenCV or by hand, with the numbers they contain."""

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
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]  # only the colour space in the header is ever read
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" b="kept"/></x:xmpmeta>'
DPI = (300.0, 150.0)
H, W = 11, 14
PNG_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # channels -> colour type


@dataclass(frozen=True)
class Case:
    """A file and its content.

    Attributes:
        data: the bytes of the file.
        format: Pillow's name of the format.
        colour: (H, W) or (H, W, 3).
        alpha: (H, W) in the type of `colour`, or None.
        icc: the colour profile, or None.
        has_exif: whether the file has the EXIF block of `sample_exif`.
        has_dpi: whether the file has the resolution `DPI`.
        lossy: whether the file or its conversion changes the numbers, so that `colour` is only approximate.
    """

    data: bytes
    format: str
    colour: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    has_exif: bool = False
    has_dpi: bool = False
    lossy: bool = False


def random_bands(channels: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Return random numbers over the whole range, (H, W) for one channel or (H, W, C).

    The last of two or four bands is alpha and is fully transparent and fully opaque in places.
    """
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


def split_bands(bands: np.ndarray) -> dict[str, np.ndarray | None]:
    """Return `colour` and `alpha` of bands, as arguments of `Case`."""
    if bands.ndim == 3 and bands.shape[-1] in (2, 4):
        colour = bands[..., 0] if bands.shape[-1] == 2 else bands[..., :3]
        return {"colour": colour, "alpha": bands[..., -1]}
    return {"colour": bands, "alpha": None}


def sample_exif() -> Image.Exif:
    """Return EXIF with a camera, a date, an exposure time and a GPS reference."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Model] = "Model 1"
    exif[ExifTags.Base.DateTime] = "2020:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    return exif


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return an image as a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pillow_case(image: Image.Image, format: str, colour: np.ndarray, alpha: Any = None, **options: Any) -> Case:
    """Return a case that Pillow writes, with a colour profile, EXIF and resolution if the format holds them."""
    icc = SRGB if colour.ndim == 3 else GRAY
    icc = None if format in ("BMP", "GIF") else icc
    metadata: dict[str, Any] = (
        {"icc_profile": icc, "exif": sample_exif().tobytes(), "dpi": DPI} if icc else {"dpi": DPI}
    )
    data = encode(image, format, **metadata, **options)
    has_dpi = format in ("PNG", "JPEG", "TIFF", "BMP")
    lossy = format in ("JPEG", "AVIF")
    return Case(data, format, colour, alpha, icc, has_exif=icc is not None, has_dpi=has_dpi, lossy=lossy)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(
    rows: bytes, width: int, height: int, depth: int, colour_type: int, *extra: bytes, interlaced: int = 0
) -> bytes:
    """Return a PNG file, given its rows with their filter types, and chunks to insert before the pixels."""
    head = struct.pack(">2I5B", width, height, depth, colour_type, 0, 0, interlaced)
    body = png_chunk(b"IHDR", head) + b"".join(extra) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def png_profile_chunk(icc: bytes) -> bytes:
    """Return the chunk of a colour profile."""
    return png_chunk(b"iCCP", b"name\0\0" + zlib.compress(icc))


def deep_png_case(channels: int, interlaced: bool = False, key: bool = False) -> Case:
    """Return a PNG with 16 bits per channel and filter type 0 throughout.

    Interlacing follows the definition of Adam7 (PNG, third edition, 8.1).
    """
    bands = random_bands(channels, np.uint16)
    content = split_bands(bands)
    flat = bands.reshape(H, W, channels)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    grids = [flat[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [flat]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for grid in grids for row in grid if grid.size)
    extra = [png_profile_chunk(SRGB if channels > 2 else GRAY)]
    if key:
        transparent = flat[3, 3]
        extra.append(png_chunk(b"tRNS", transparent.astype(">u2").tobytes()))
        content["alpha"] = np.where((flat == transparent).all(axis=-1), 0, 65535).astype(np.uint16)
    data = make_png(rows, W, H, 16, PNG_TYPES[channels], *extra, interlaced=int(interlaced))
    return Case(data, "PNG", **content, icc=SRGB if channels > 2 else GRAY)


def small_gray_png_case(depth: int) -> Case:
    """Return a PNG with 2 or 4 bits per pixel and a transparent value, which the file stores unscaled."""
    levels = np.random.default_rng(1).integers(0, 2**depth, (H, W), dtype=np.uint8)
    levels[0, :2] = [0, 2**depth - 1]
    bits = np.unpackbits(levels[..., None], axis=-1)[..., -depth:].reshape(H, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    data = make_png(rows, W, H, depth, 0, png_chunk(b"tRNS", struct.pack(">H", 1)))
    stretched = levels * np.uint8(255 // (2**depth - 1))
    return Case(data, "PNG", stretched, np.where(levels == 1, 0, 255).astype(np.uint8))


def tiff_case(bands: np.ndarray, expected: np.ndarray | None = None, **options: Any) -> Case:
    """Return a case that tifffile writes.

    Args:
        bands: the numbers in the file.
        expected: the numbers of the picture if their type differs from that of the file.
        options: options of `tifffile.imwrite`.
    """
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
    return Case(
        buffer.getvalue(), "TIFF", **split_bands(bands if expected is None else expected), icc=icc, has_dpi=True
    )


def palette_image() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return an image with a palette of eight colours, its indices, and the colours."""
    colours = np.random.default_rng(2).integers(0, 256, (8, 3), dtype=np.uint8)
    indices = np.random.default_rng(3).integers(0, 8, (H, W), dtype=np.uint8)
    indices[0, :8] = np.arange(8)
    image = Image.frombytes("P", (W, H), indices.tobytes())
    image.putpalette(colours.tobytes())
    return image, indices, colours


def palette_case(format: str, transparency: bytes | int | None = None) -> Case:
    """Return a case with a palette; `transparency` is one transparent index, or the alpha of the first colours."""
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
    return pillow_case(image, format, colours[indices], alpha, **options)


def plain_case(mode: str, format: str, **options: Any) -> Case:
    """Return a case with 8 bits per channel."""
    bands = random_bands(len(mode)) if mode in ("L", "LA") else random_bands(4 if mode == "RGBA" else 3)
    if format in ("JPEG", "AVIF"):  # lossy formats change a smooth gradient least
        ramp = np.linspace(40, 200, H * W).reshape(H, W)
        bands[..., : 3 if bands.ndim == 3 and bands.shape[-1] > 2 else None] = (
            ramp[..., None] if bands.ndim == 3 else ramp
        )
    return pillow_case(Image.fromarray(bands), format, **split_bands(bands), **options)


def deep_gray_case(mode: str, format: str) -> Case:
    """Return a case with 16-bit gray that Pillow writes."""
    values = random_bands(1, np.uint16)
    image = Image.fromarray(values)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (W, H), values.astype(">u2").tobytes())
    return pillow_case(image, format, values)


def black_and_white_case(format: str) -> Case:
    """Return a case with 1 bit per pixel."""
    bits = random_bands(1) > 127
    return pillow_case(Image.fromarray(bits), format, bits * np.uint8(255))


def transparent_colour_case(mode: str) -> Case:
    """Return a PNG that declares one gray value or colour transparent."""
    bands = random_bands(1 if mode == "L" else 3)
    key = bands[4, 5]
    alpha = np.where(bands == key if mode == "L" else (bands == key).all(-1), 0, 255).astype(np.uint8)
    transparency = int(key) if mode == "L" else tuple(int(k) for k in key)
    return pillow_case(Image.fromarray(bands), "PNG", bands, alpha, transparency=transparency)


def converted_case(mode: str, format: str) -> Case:
    """Return a case in a mode that is read as RGB, with Pillow's own conversion as the reference."""
    data = encode(Image.fromarray(random_bands(3)).convert(mode), format, dpi=DPI)
    with Image.open(io.BytesIO(data)) as image:
        return Case(data, format, np.asarray(image.convert("RGB")), has_dpi=True)


def float_case(values: np.ndarray) -> Case:
    """Return a TIFF with floating-point gray that Pillow writes."""
    return pillow_case(Image.fromarray(values), "TIFF", values)


def opencv_case(bands: np.ndarray, suffix: str, format: str) -> Case:
    """Return a case that OpenCV writes."""
    order = [2, 1, 0, 3][: bands.shape[-1]]
    return Case(cv2.imencode(suffix, bands[..., order])[1].tobytes(), format, **split_bands(bands))


u2, f4 = np.uint16, np.float32
# Name -> function that makes the case. The names also select and name the files in `mutations.py`, by their order.
CASES: dict[str, Callable[[], Case]] = {
    **{f"png {mode}": (lambda mode=mode: plain_case(mode, "PNG")) for mode in ("L", "LA", "RGB", "RGBA")},
    **{f"tiff {mode}": (lambda mode=mode: plain_case(mode, "TIFF")) for mode in ("L", "LA", "RGB", "RGBA")},
    **{
        f"webp {mode}": (lambda mode=mode: plain_case(mode, "WEBP", lossless=True, exact=True))
        for mode in ("RGB", "RGBA")
    },
    **{f"bmp {mode}": (lambda mode=mode: plain_case(mode, "BMP")) for mode in ("L", "RGB")},
    **{
        f"jpeg {mode}": (lambda mode=mode: plain_case(mode, "JPEG", quality=95, subsampling=0)) for mode in ("L", "RGB")
    },
    **{f"avif {mode}": (lambda mode=mode: plain_case(mode, "AVIF", quality=95)) for mode in ("RGB", "RGBA")},
    **{f"{f.lower()} P": (lambda f=f: palette_case(f)) for f in ("PNG", "TIFF", "BMP", "GIF")},
    "png P and key": lambda: palette_case("PNG", 3),
    "png P and alpha": lambda: palette_case("PNG", bytes([0, 90, 255, 180])),
    "gif P and key": lambda: palette_case("GIF", 3),
    **{f"{f.lower()} 1": (lambda f=f: black_and_white_case(f)) for f in ("PNG", "TIFF", "BMP")},
    "png L and key": lambda: transparent_colour_case("L"),
    "png RGB and key": lambda: transparent_colour_case("RGB"),
    "png 2 bits and key": lambda: small_gray_png_case(2),
    "png 4 bits and key": lambda: small_gray_png_case(4),
    "png I;16": lambda: deep_gray_case("I;16", "PNG"),
    "tiff I;16": lambda: deep_gray_case("I;16", "TIFF"),
    "tiff I;16B": lambda: deep_gray_case("I;16B", "TIFF"),
    **{f"png 16 bits x {c}": (lambda c=c: deep_png_case(c)) for c in (1, 2, 3, 4)},
    **{f"png 16 bits x {c}, interlaced": (lambda c=c: deep_png_case(c, interlaced=True)) for c in (1, 2, 3, 4)},
    **{f"png 16 bits x {c} and key": (lambda c=c: deep_png_case(c, key=True)) for c in (1, 3)},
    "png 16 bits by opencv": lambda: opencv_case(random_bands(4, u2), ".png", "PNG"),
    "tiff 16 bits x 3, LZW by opencv": lambda: opencv_case(random_bands(3, u2), ".tiff", "TIFF"),
    **{f"tiff 16 bits x {c}": (lambda c=c: tiff_case(random_bands(c, u2))) for c in (1, 2, 3, 4)},
    "tiff 16 bits, big-endian": lambda: tiff_case(random_bands(3, u2), byteorder=">"),
    "tiff 16 bits, big-endian, Deflate": lambda: tiff_case(random_bands(4, u2), byteorder=">", compression="deflate"),
    "tiff 16 bits, Deflate, predictor": lambda: tiff_case(random_bands(3, u2), compression="deflate", predictor=2),
    "tiff 16 bits, planes": lambda: tiff_case(random_bands(3, u2), planarconfig="separate"),
    "tiff 16 bits, planes, Deflate": lambda: tiff_case(
        random_bands(3, u2), planarconfig="separate", compression="deflate"
    ),
    "tiff 16 bits, tiles": lambda: tiff_case(random_bands(3, u2), tile=(16, 16)),
    "tiff 16 bits, big file format": lambda: tiff_case(random_bands(3, u2), bigtiff=True),
    "tiff F": lambda: float_case(random_bands(1, f4)),
    "tiff F to 255": lambda: float_case(random_bands(1, f4) * 255),
    "tiff F to 12 and below 0": lambda: float_case(random_bands(1, f4) * 14 - 2),
    "tiff I": lambda: pillow_case(
        Image.fromarray(random_bands(1, u2).astype(np.int32)), "TIFF", random_bands(1, u2).astype(np.int32)
    ),
    **{f"tiff float x {c}": (lambda c=c: tiff_case(random_bands(c, f4))) for c in (2, 3, 4)},
    "tiff float, big-endian, planes": lambda: tiff_case(random_bands(3, f4), byteorder=">", planarconfig="separate"),
    "tiff half": lambda: tiff_case(random_bands(3, np.float16), random_bands(3, np.float16).astype(f4)),
    "tiff double": lambda: tiff_case(random_bands(3, np.float64), random_bands(3, np.float64).astype(f4)),
    "tiff uint32": lambda: tiff_case(random_bands(1, np.uint32)),
    "tiff uint32 x 3": lambda: tiff_case(random_bands(3, np.uint32)),
    "tiff int16": lambda: tiff_case(random_bands(1, np.int16), random_bands(1, np.int16).astype(np.int32)),
    **{f"{f.lower()} CMYK": (lambda f=f: converted_case("CMYK", f)) for f in ("JPEG", "TIFF")},
    "tiff YCbCr": lambda: converted_case("YCbCr", "TIFF"),
    "tiff LAB": lambda: converted_case("LAB", "TIFF"),
}
