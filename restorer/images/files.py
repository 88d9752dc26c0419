"""Picture files -> pictures <-> tensors, losing nothing on the way.

A `Picture` keeps the integers of the file beside everything needed to write it back: transparency, colour profile,
EXIF, XMP and resolution. Pillow drops most of these unless each is passed to `save` again. Two rules hold throughout:

- the network sees colour only. Alpha is carried around it, and the colour hidden under full transparency, which may
  be anything, is replaced on the way in by colour bled from the visible pixels (push-pull: Gortler et al., The
  Lumigraph, SIGGRAPH 1996, section 3.6) and is put back untouched on the way out;
- what a format cannot hold is said and never lost in silence; `writing.py` puts a picture back into a file.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from restorer.errors import PictureError, UsageError

__all__ = [
    "Mask",
    "Picture",
    "fitting_profile",
    "from_pil",
    "load",
    "load_mask",
    "push_pull",
    "to_pil",
    "to_tensor",
    "with_result",
]

_XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')

# Tags that say how the pixels lay in the old file (TIFF 6.0 baseline, tiles, embedded JPEG), not what they show.
# In a new file they are wrong at best. XMP and the colour profile are tags too, and are carried apart.
_LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 317, 320, 322, 323, 324, 325}
    | {330, 338, 339, 347, 513, 514, 529, 530, 531, 532, 700, 34377, 34675}
)


@dataclass(frozen=True)
class Picture:
    """What a picture file held.

    Attributes:
        pixels: colour as stored, uint8, (H, W) for gray or (H, W, 3), turned upright by the file's orientation tag.
        alpha: uint8 (H, W), 255 = opaque; None if the file has no transparency.
        mode: Pillow's mode of the file, for instance "P" or "I;16".
        depth: bits a channel in the file, 8 or 16; `pixels` have 8.
        format: Pillow's name of the format, for instance "PNG"; empty for a picture that never was a file.
        icc: colour profile.
        exif: EXIF block without orientation, without the embedded thumbnail.
        xmp: XMP packet without orientation.
        dpi: pixels an inch, horizontal and vertical.
        lossy: whether the file was compressed with loss.
        notes: one line for each thing that was converted or could not be kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    mode: str = "RGB"
    depth: int = 8
    format: str = ""
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    lossy: bool = False
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """1 for gray, 3 for colour; alpha is not counted."""
        return 1 if self.pixels.ndim == 2 else 3


class Mask(NamedTuple):
    """`fill`: bool (H, W), True where the picture is to be filled; `note`: what was done to make it fit, or ''."""

    fill: np.ndarray
    note: str


# ---------------------------------------------------------------------------------------------------------- reading


def load(source: Path | BinaryIO) -> Picture:
    """Read a picture, turned upright; of an animation the first frame.

    Raises:
        PictureError: absent, a folder, empty, no picture, damaged, cut short, or too large to be decoded safely.
    """
    data, name = _read(source)
    with _decoding(name), Image.open(io.BytesIO(data)) as image:
        return _from_image(image, lossy=image.format == "WEBP" and _webp_is_lossy(data))


def load_mask(source: Path | BinaryIO, size: tuple[int, int], invert: bool = False) -> Mask:
    """Read a mask for a picture of `size` (height, width): white (luma >= 128, over black where transparent) = fill.

    A mask of another size but the same shape, to rounding, is resized (nearest neighbour), and the note says so.

    Raises:
        PictureError: as `load`.
        UsageError: the mask has another shape than the picture.
    """
    picture = load(source)
    luma = np.asarray(Image.fromarray(picture.pixels).convert("L"), dtype=np.uint16)
    opacity = 255 if picture.alpha is None else picture.alpha
    fill = (luma * opacity >= 128 * 255) != invert
    if fill.shape == size:
        return Mask(fill, "")
    old, new = f"{picture.width}x{picture.height}", f"{size[1]}x{size[0]}"
    if not (_same_shape(fill.shape, size) or _same_shape(size, fill.shape)):
        name = _name(source)
        raise UsageError(f"{name}: the mask is {old}, the picture {new}", "give a mask of the picture's size")
    resized = Image.fromarray(fill).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return Mask(np.array(resized, dtype=bool), f"mask resized from {old} to {new}")


def from_pil(image: Image.Image) -> Picture:
    """Take over a Pillow image, whatever its mode. Raises PictureError if it was opened lazily and is damaged."""
    with _decoding(str(getattr(image, "filename", "") or "the picture")):
        return _from_image(image, lossy=False)


def _read(source: Path | BinaryIO) -> tuple[bytes, str]:
    """The whole file: pictures are small beside what restoring them needs, and a pipe cannot be rewound."""
    name = _name(source)
    try:
        data = source.read_bytes() if isinstance(source, Path) else source.read()
    except FileNotFoundError as error:
        raise PictureError(f"{name}: no such file", "check the path") from error
    except OSError as error:  # a folder, no permission, a broken disk: the system's own words say it best
        raise PictureError(f"{name}: cannot be read: {error.strerror or error}", "name a readable file") from error
    if not data:
        raise PictureError(f"{name}: is empty (0 bytes)", "copy or download the file again")
    return data, name


def _name(source: Path | BinaryIO) -> str:
    return str(source) if isinstance(source, Path) else "standard input"


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises on malformed bytes into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes below its hard limit
            yield
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        raise PictureError(f"{name}: is not a picture", "PNG, JPEG, WebP, TIFF and others are read") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PictureError(f"{name}: is too large to be decoded safely", "cut it into parts first") from error
    except Exception as error:  # decoders raise nearly anything: OSError, SyntaxError, struct.error, ValueError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{name}: is damaged or cut short: {reason}", "copy or download the file again") from error


def _from_image(image: Image.Image, lossy: bool) -> Picture:
    frames, file_format, mode = getattr(image, "n_frames", 1), image.format or "", image.mode
    several = f"several pictures in one file: only the first of {frames} is used" if frames > 1 else ""
    deep = ";16" in _raw_mode(image) and not _raw_mode(image).startswith("BGR")  # BGR;16 is 5-6-5: 8 bits or fewer
    image.load()
    xmp = _xmp(image)
    upright, exif, exif_note = _upright(image)
    plain, note = _to_eight_bit(upright, deep)
    bands = np.asarray(plain)
    has_alpha = plain.mode in ("LA", "RGBA")
    colour = bands if not has_alpha else bands[..., 0] if plain.mode == "LA" else bands[..., :3]
    icc, icc_note = fitting_profile(image.info.get("icc_profile"), 1 if colour.ndim == 2 else 3)
    return Picture(
        pixels=np.array(colour),
        alpha=np.array(bands[..., -1]) if has_alpha else None,
        mode=mode,
        depth=16 if deep or mode.startswith(("I", "F")) else 8,
        format="JPEG" if file_format == "MPO" else file_format,
        icc=icc,
        exif=exif,
        xmp=xmp,
        dpi=_dpi(image.info.get("dpi")),
        lossy=lossy or file_format in ("JPEG", "MPO", "AVIF"),
        notes=tuple(n for n in (several, note, exif_note, icc_note) if n),
    )


def _raw_mode(image: Image.Image) -> str:
    """How the pixels are packed in the file. Pillow reads 16-bit colour as 8 bits and tells nowhere else."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _to_eight_bit(image: Image.Image, deep: bool) -> tuple[Image.Image, str]:
    """An image of mode L, LA, RGB or RGBA, and a note of what that took."""
    mode, keyed = image.mode, "transparency" in image.info
    if deep or mode in ("I", "F") or mode.startswith("I;16"):
        # A transparent colour is given in 16 bits; reduced to 8 it would match its neighbours as well.
        lost = ", and its transparent colour is dropped" if keyed else ""
        reduced, what = (image, "16 bits a channel are") if deep and not mode.startswith("I") else _reduced(image)
        return reduced, f"{what} reduced to 8 bits{lost}"
    if mode in ("L", "RGB", "LA", "RGBA"):
        return (image.convert("LA" if mode == "L" else "RGBA") if keyed and mode in ("L", "RGB") else image), ""
    if mode == "1":
        return image.convert("LA" if keyed else "L"), "black and white is written as 8-bit gray"
    if mode in ("P", "PA"):
        return image.convert("RGBA" if keyed or mode == "PA" else "RGB"), "palette colours are written as RGB"
    target = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    return image.convert(target), f"{mode} is converted to {target}"


def _reduced(image: Image.Image) -> tuple[Image.Image, str]:
    """8-bit gray from integers of 16 bits (the upper byte) or from floats in [0, 1], [0, 255] or [0, 65535]."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    if image.mode == "F":
        top = values.max(initial=0.0)
        full = 1 if top <= 1 else 255 if top <= 255 else 65535
        eight, what = np.round(values * (255 / full)), f"floating-point values, taken as 0 to {full}, are"
    else:
        eight, what = np.floor(values / 256), "values of 16 bits are"
    return Image.fromarray(eight.clip(0, 255).astype(np.uint8)), what


def _upright(image: Image.Image) -> tuple[Image.Image, bytes | None, str]:
    """The image turned by its orientation tag, its EXIF (from a copy: the image is the caller's), and a note."""
    try:
        upright = ImageOps.exif_transpose(image)  # by now Pillow has turned TIFF files itself and cleared their tag
        return upright, _adapted_exif(image.getexif().tobytes(), upright.size), ""
    except Exception:  # metadata of any camera and any age; none of it is worth losing the picture for
        return image.copy(), None, "the EXIF data are damaged and are dropped"


def _adapted_exif(block: bytes, size: tuple[int, int]) -> bytes | None:
    """EXIF without layout and thumbnail (Pillow writes no second directory), repeating the right (width, height)."""
    exif = Image.Exif()
    exif.load(block)
    for tag in _LAYOUT_TAGS.intersection(exif):
        del exif[tag]
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in details:
            details[tag] = value
    return exif.tobytes() if len(exif) else None


def _xmp(image: Image.Image) -> bytes | None:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not packet:
        return None
    return _XMP_ORIENTATION.sub(b"", packet.encode() if isinstance(packet, str) else bytes(packet))


def fitting_profile(icc: bytes | None, channels: int) -> tuple[bytes | None, str]:
    """Bytes 16-19 of a profile name its colour space (ICC.1:2022, 7.2.6); one of another space would mislead."""
    if not icc:
        return None, ""
    space = icc[16:20]
    if space == (b"GRAY" if channels == 1 else b"RGB "):
        return icc, ""
    kind = space.decode("ascii", "replace").strip() or "unknown"
    return None, f"the {kind} colour profile does not fit {'gray' if channels == 1 else 'RGB'} and is dropped"


def _dpi(value: Any) -> tuple[float, float] | None:
    """None if absent or a placeholder: TIFF files without a resolution say (1, 1)."""
    try:
        x, y = (float(v) for v in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if min(x, y) > 1 and max(x, y) < 1e6 else None


def _webp_is_lossy(data: bytes) -> bool:
    """Whether the first frame is a 'VP8 ' chunk and not 'VP8L' (RFC 9649, section 2)."""
    at = 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        at += 8 + (16 if kind == b"ANMF" else length + length % 2)  # a frame's own chunks follow 16 bytes of header
    return False


def _same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether a = round(factor * b) in both directions for some factor."""
    low = max((a[0] - 0.5) / b[0], (a[1] - 0.5) / b[1])
    return low <= min((a[0] + 0.5) / b[0], (a[1] + 0.5) / b[1])


# ---------------------------------------------------------------------------------------------------------- tensors


def to_tensor(picture: Picture) -> Tensor:
    """Colour as float32 (C, H, W) in [0, 1], C = 1 for gray and 3 for colour, hidden colour replaced (see module)."""
    colour = torch.from_numpy(picture.pixels.astype(np.float32) / 255)
    colour = colour[None] if picture.channels == 1 else colour.permute(2, 0, 1).contiguous()
    if picture.alpha is None or picture.alpha.all():
        return colour
    weight = torch.from_numpy(picture.alpha.astype(np.float32) / 255)[None]
    if not weight.any():
        return torch.full_like(colour, 0.5)  # nothing is visible, so nothing is known
    return torch.where(weight > 0, colour, push_pull(colour * weight, weight).clamp(0, 1))


def push_pull(colour: Tensor, weight: Tensor) -> Tensor:
    """Fill where `weight` is 0 from ever coarser means. Shapes (C, h, w), (1, h, w); `colour` is premultiplied."""
    known = weight > 0
    own = colour / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if known.all():
        return own
    h, w = weight.shape[-2:]
    both = F.pad(torch.cat([colour, weight]), (0, w % 2, 0, h % 2))
    halved = F.avg_pool2d(both[None], 2)[0] * 4
    coarse = push_pull(halved[:-1], halved[-1:])
    up = F.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :h, :w]
    return torch.where(known, own, up)


def with_result(picture: Picture, result: Tensor, keep: np.ndarray | None = None) -> Picture:
    """The picture with its colour replaced by `result`, a float tensor (C, H', W'), clamped to [0, 1].

    Rounding is to the nearest of 256 levels, half to even. At unchanged size the original integers stay where `keep`
    (bool, (H, W)) is True and where alpha is 0. At another size alpha is resampled (Lanczos).

    Raises:
        ValueError: a value is not finite, `keep` comes with a change of size, or colour would have to be kept in gray.
    """
    if not torch.isfinite(result).all():
        raise ValueError("the result holds values that are not finite")
    eight = (result.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = eight[0].numpy().copy() if eight.shape[0] == 1 else eight.permute(1, 2, 0).numpy().copy()
    channels = int(eight.shape[0])
    icc, note = fitting_profile(picture.icc, channels)
    changed = replace(picture, pixels=pixels, icc=icc, notes=(*picture.notes, note) if note else picture.notes)
    if pixels.shape[:2] == picture.pixels.shape[:2]:
        kept = _kept(picture, keep)
        if kept.any():
            pixels[kept] = _as_channels(picture.pixels, channels)[kept]
        return changed
    if keep is not None:
        raise ValueError("pixels can be kept only where the size does not change")
    size = (pixels.shape[1], pixels.shape[0])
    alpha = picture.alpha
    if alpha is not None:
        alpha = np.array(Image.fromarray(alpha).resize(size, Image.Resampling.LANCZOS))
    return replace(changed, alpha=alpha, exif=_adapted_exif(picture.exif, size) if picture.exif else None)


def _kept(picture: Picture, keep: np.ndarray | None) -> np.ndarray:
    kept = np.zeros((picture.height, picture.width), dtype=bool) if keep is None else keep.astype(bool)
    return kept if picture.alpha is None else kept | (picture.alpha == 0)


def _as_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    have = 1 if pixels.ndim == 2 else 3
    if have == channels:
        return pixels
    if have == 3:
        raise ValueError("pixels of a colour picture cannot be kept in a gray result")
    return np.repeat(pixels[..., None], 3, axis=2)


def to_pil(picture: Picture) -> Image.Image:
    """A Pillow image of mode L, LA, RGB or RGBA, with the metadata in its `info`."""
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    metadata = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    image.info.update({key: value for key, value in metadata.items() if value})
    return image
