"""Lossless conversion between pictures and tensors.

A `Picture` keeps the numbers of a file together with everything needed to write the file again: transparency, colour
profile, EXIF, XMP and resolution; `writing.py` writes it. Two rules hold throughout:

- The network sees colour only. Alpha bypasses the network. The colour hidden under full transparency may be anything,
  so `to_tensor` replaces it with colour that spreads from the visible pixels (`push_pull.py`), and `with_result` puts
  the hidden colour back unchanged.
- Nothing is lost silently: a note reports everything that a format cannot hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.images.attachments import Attachments
from restorer.images.metadata import RECORD, adapt_exif, match_profile
from restorer.images.push_pull import push_pull
from restorer.images.sizes import Region
from restorer.images.subject import cut_subject
from restorer.images.xmp import adapt_sizes, remove_claims

__all__ = [
    "COMMENT",
    "FULL_RANGE",
    "RECORD",
    "Picture",
    "alpha_tensor",
    "cut",
    "reduce_depth",
    "to_pil",
    "to_tensor",
    "to_unit_range",
    "visible_pixels",
    "with_record",
    "with_result",
]

FULL_RANGE = (0.0, 0.0)
"""Placeholder for the black and white levels of a number type, which `Picture` fills in."""

COMMENT = "Comment"
"""The key of a JPEG or GIF comment among the texts of a picture."""


@dataclass(frozen=True)
class Picture:
    """The content of a picture file.

    Attributes:
        pixels: colour as stored, uint8, uint16, int32, uint32 or float32, (H, W) for gray or (H, W, 3), turned
            upright by the file's orientation tag.
        alpha: (H, W) of the same type, from 0 (transparent) to `opaque`; None if the file has no transparency.
        mode: Pillow's mode of the file, for instance "P" or "I;16".
        depth: bits per channel in the file; 0 stands for those of `pixels`.
        format: Pillow's name of the format, for instance "PNG"; empty for a picture that does not come from a file.
        icc: colour profile.
        exif: EXIF block without the embedded thumbnail; its orientation is 1 if the file had one.
        xmp: XMP packet without orientation.
        dpi: pixels per inch, horizontal and vertical.
        text: the texts of a PNG by their keys, the comment of a JPEG or GIF under `COMMENT`, and the provenance record
            of any file under `RECORD`.
        levels: the values of `pixels` that are black and white; `FULL_RANGE` stands for those of the type, which for
            floats are 0 and 1.
        attachments: captions, PNG chunks and a gain map.
        lossy: whether the file was compressed with loss.
        original: the bytes of the file, as long as the picture is identical to it.
        notes: one line for each thing that was converted or could not be kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    mode: str = "RGB"
    depth: int = 0
    format: str = ""
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[float, float] = FULL_RANGE
    attachments: Attachments = field(default_factory=Attachments, repr=False)
    lossy: bool = False
    original: bytes | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.depth:
            object.__setattr__(self, "depth", self.bits)
        if self.levels == FULL_RANGE:
            object.__setattr__(self, "levels", (0.0, _full_scale(self.pixels.dtype)))

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """Number of colour channels: 1 for gray, 3 for colour; alpha is not counted."""
        return 1 if self.pixels.ndim == 2 else 3

    @property
    def bits(self) -> int:
        """Bits per number in `pixels`: 8, 16 or 32."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def opaque(self) -> float:
        """The value of `alpha` at full opacity."""
        return _full_scale(self.pixels.dtype)


def _full_scale(dtype: np.dtype) -> float:
    """Return the value of white and of full opacity: 1 for floats, the largest value for integers."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def to_tensor(picture: Picture) -> Tensor:
    """Convert the colour of a picture to a float32 tensor.

    Returns:
        (C, H, W) in [0, 1], with C = 1 for gray and 3 for colour. Colour hidden under full transparency is replaced
        with colour that spreads from the visible pixels; it is 0.5 if nothing is visible.
    """
    colour = torch.from_numpy(to_unit_range(picture.pixels, *picture.levels))
    colour = colour[None] if picture.channels == 1 else colour.permute(2, 0, 1).contiguous()
    if picture.alpha is None or picture.alpha.all():
        return colour
    weight = torch.from_numpy(to_unit_range(picture.alpha, 0, picture.opaque))[None]
    if not weight.any():
        return torch.full_like(colour, 0.5)
    return torch.where(weight > 0, colour, push_pull(colour * weight, weight).clamp(0, 1))


def visible_pixels(picture: Picture) -> Tensor | None:
    """Return the pixels that are not fully transparent, bool (H, W); None if all are visible."""
    return None if picture.alpha is None or picture.alpha.all() else torch.from_numpy(picture.alpha > 0)


def to_unit_range(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Map the range from black to white linearly to [0, 1], as float32; values that are not finite become 0."""
    with np.errstate(invalid="ignore"):  # NumPy warns when it copies a signalling NaN
        units = values.astype(_working_type(values.dtype, black, white))
    if values.dtype.kind == "f":
        np.nan_to_num(units, copy=False, nan=black, posinf=black, neginf=black)
    if black:
        np.subtract(units, black, out=units)
    np.divide(units, white - black, out=units)
    return np.clip(units, 0, 1, out=units).astype(np.float32, copy=False)


def _working_type(dtype: np.dtype, black: float, white: float) -> type[np.floating]:
    """Return the floating-point type that can hold the differences between numbers of a type."""
    is_wide = dtype.itemsize > 2 if dtype.kind in "iu" else white - black > float(np.finfo(np.float32).max)
    return np.float64 if is_wide else np.float32


def _from_unit_range(units: np.ndarray, black: float, white: float, dtype: np.dtype) -> np.ndarray:
    """Invert `to_unit_range`; integers are rounded to the nearest, half to even."""
    values = units.astype(_working_type(dtype, black, white))
    np.multiply(values, white - black, out=values)
    if black:
        np.add(values, black, out=values)
    return (values if dtype.kind == "f" else np.rint(values, out=values)).astype(dtype)


def with_record(picture: Picture, record: str) -> Picture:
    """Return the picture with a provenance record, which replaces an older one.

    Args:
        picture: the picture that the record describes.
        record: ASCII text that says how the picture was made.
    """
    return replace(picture, text={**picture.text, RECORD: record}, original=None)


def with_result(
    picture: Picture,
    result: Tensor,
    keep: np.ndarray | None = None,
    *,
    reveal: bool = False,
    alpha: Tensor | None = None,
) -> Picture:
    """Return the picture with its colour replaced.

    The new picture has the number type, the depth and the black and white levels of the old one. Integers are rounded
    to the nearest, half to even. If the size does not change, the original numbers stay where `keep` is True and where
    alpha is 0. If the size changes, alpha is replaced by the given one, or resampled (Lanczos).

    Args:
        picture: the picture that was restored.
        result: the new colour, a float tensor (C, H', W') with C = 1 or 3; it is clamped to [0, 1].
        keep: bool (H, W), True where the original numbers are kept.
        reveal: whether all pixels that are not kept become opaque.
        alpha: the transparency of a result of another size, float (H', W') in [0, 1].

    Raises:
        ValueError: a value of `result` is not finite, `keep` is given but the size changes, or colour pixels would have
            to be kept in a gray result.
    """
    if not torch.isfinite(result).all():
        raise ValueError("the result contains values that are not finite")
    channels = int(result.shape[0])
    units = result.detach().float().cpu()
    flat = (units[0] if channels == 1 else units.permute(1, 2, 0)).clamp(0, 1).contiguous().numpy()
    pixels = _from_unit_range(flat, *picture.levels, picture.pixels.dtype)
    icc, note = match_profile(picture.icc, channels)
    notes = (*picture.notes, note) if note else picture.notes
    if reveal and keep is not None and picture.alpha is not None:
        picture = replace(picture, alpha=_revealed(picture.alpha, picture.opaque, keep), original=None)
    changed = replace(picture, pixels=pixels, icc=icc, original=None, notes=notes)
    if pixels.shape[:2] == picture.pixels.shape[:2]:
        is_kept = _kept_pixels(picture, keep)
        if is_kept.any():
            pixels[is_kept] = _convert_channels(picture.pixels, channels)[is_kept]
        is_same = pixels.shape == picture.pixels.shape and np.array_equal(pixels, picture.pixels)
        return replace(changed, original=picture.original) if is_same else changed
    if keep is not None:
        raise ValueError("pixels can be kept only if the size does not change")
    size = (pixels.shape[1], pixels.shape[0])
    old = (picture.width, picture.height)
    exif = adapt_exif(picture.exif, size, old=old) if picture.exif else None
    xmp = adapt_sizes(picture.xmp, old, size)
    attachments = picture.attachments.enlarged(size[0] / old[0], size[1] / old[1])
    larger = _enlarged_alpha(picture, size, alpha)
    return replace(changed, alpha=larger, exif=exif, xmp=xmp, attachments=attachments)


def _revealed(alpha: np.ndarray, opaque: float, keep: np.ndarray) -> np.ndarray | None:
    """Return alpha, opaque where `keep` is False; None if all of it is opaque then."""
    revealed = np.where(keep, alpha, np.asarray(opaque, alpha.dtype))
    return None if (revealed == opaque).all() else revealed


def _kept_pixels(picture: Picture, keep: np.ndarray | None) -> np.ndarray:
    """Return bool (H, W), True where `keep` is True and where the picture is fully transparent."""
    is_kept = np.zeros((picture.height, picture.width), dtype=bool) if keep is None else keep.astype(bool)
    return is_kept if picture.alpha is None else is_kept | (picture.alpha == 0)


def _convert_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return the pixels with 1 or 3 channels; gray is repeated to make colour."""
    present = 1 if pixels.ndim == 2 else 3
    if present == channels:
        return pixels
    if present == 3:
        raise ValueError("pixels of a colour picture cannot be kept in a gray result")
    return np.repeat(pixels[..., None], 3, axis=2)


def _enlarged_alpha(picture: Picture, size: tuple[int, int], alpha: Tensor | None) -> np.ndarray | None:
    """Return the given transparency in the numbers of a picture, or that of the picture in another size."""
    if picture.alpha is None:
        return None
    if alpha is None:
        return _resize_alpha(picture.alpha, size)
    return _from_unit_range(alpha.clamp(0, 1).cpu().numpy(), 0, picture.opaque, picture.alpha.dtype)


def _resize_alpha(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample alpha (Lanczos) to a size given as width and height."""
    if alpha.dtype == np.uint8:
        return np.array(Image.fromarray(alpha).resize(size, Image.Resampling.LANCZOS))
    opaque = _full_scale(alpha.dtype)
    units = Image.fromarray(to_unit_range(alpha, 0, opaque)).resize(size, Image.Resampling.LANCZOS)
    return _from_unit_range(np.asarray(units).clip(0, 1), 0, opaque, alpha.dtype)


def alpha_tensor(picture: Picture) -> Tensor | None:
    """Return the transparency of a picture as float32 (H, W) in [0, 1]; None if it has none."""
    return None if picture.alpha is None else torch.from_numpy(to_unit_range(picture.alpha, 0, picture.opaque))


def cut(picture: Picture, region: Region) -> Picture:
    """Return a part of a picture, with the metadata that hold for the part.

    Args:
        picture: the picture.
        region: a part that lies inside.
    """
    if (region.width, region.height) == (picture.width, picture.height):
        return picture
    old, size = (picture.width, picture.height), (region.width, region.height)
    has_gain_map = bool(picture.attachments.gain_map)
    note = ("the gain map is left out, because it belongs to the whole picture",) if has_gain_map else ()
    return replace(
        picture,
        pixels=picture.pixels[region.rows, region.columns].copy(),
        alpha=None if picture.alpha is None else picture.alpha[region.rows, region.columns].copy(),
        exif=adapt_exif(picture.exif, size, move=lambda place: cut_subject(place, region)) if picture.exif else None,
        xmp=adapt_sizes(remove_claims(picture.xmp), old, size),
        attachments=replace(picture.attachments, gain_map=b"", gain_map_version=b""),
        original=None,
        notes=(*picture.notes, *note),
    )


def reduce_depth(picture: Picture, bits: int) -> Picture:
    """Return the picture in unsigned integers, with black at 0 and white at the largest of them.

    Args:
        picture: a picture of any number type.
        bits: 8 or 16.
    """
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    white = _full_scale(dtype)
    if picture.pixels.dtype == dtype and picture.levels == (0.0, white):
        return picture
    pixels = _from_unit_range(to_unit_range(picture.pixels, *picture.levels), 0, white, dtype)
    alpha = picture.alpha
    if alpha is not None:
        alpha = _from_unit_range(to_unit_range(alpha, 0, picture.opaque), 0, white, dtype)
    return replace(picture, pixels=pixels, alpha=alpha, levels=FULL_RANGE, original=None)


def to_pil(picture: Picture) -> Image.Image:
    """Convert a picture to a Pillow image with the metadata in its `info`.

    Returns:
        An image of mode L, LA, RGB or RGBA, or of mode I;16, I or F for gray of more than 8 bits without alpha. Pillow
        has no such modes for colour or for uint32, which are reduced to 8 bits.
    """
    is_plain_gray = picture.channels == 1 and picture.alpha is None and picture.pixels.dtype != np.uint32
    converted = picture if is_plain_gray else reduce_depth(picture, 8)
    image = Image.fromarray(converted.pixels)
    if converted.alpha is not None:
        image.putalpha(Image.fromarray(converted.alpha))
    metadata = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    image.info.update({key: value for key, value in metadata.items() if value})
    return image
