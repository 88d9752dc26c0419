"""Pictures <-> tensors, losing nothing on the way.

A `Picture` keeps the numbers of the file beside everything needed to write it back: transparency, colour profile,
EXIF, XMP and resolution. Two rules hold throughout:

- the network sees colour only. Alpha is carried around it, and the colour hidden under full transparency, which may
  be anything, is replaced on the way in by colour bled from the visible pixels (`push_pull.py`) and is put back
  untouched on the way out;
- what a format cannot hold is said and never lost in silence; `writing.py` puts a picture back into a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.images.metadata import adapted_exif, fitting_profile
from restorer.images.push_pull import push_pull

__all__ = ["COMMENT", "WHOLE_RANGE", "Picture", "reduced", "to_pil", "to_tensor", "with_result"]

WHOLE_RANGE = (0.0, 0.0)

COMMENT = "Comment"
"""The key of a JPEG's or GIF's comment among the texts of a picture."""

RECORD = "restorer"
"""The key of the text that says how a result was made; outside PNG it stands in EXIF."""


@dataclass(frozen=True)
class Picture:
    """What a picture file held.

    Attributes:
        pixels: colour as stored, uint8, uint16, int32, uint32 or float32, (H, W) for gray or (H, W, 3), turned
            upright by the file's orientation tag.
        alpha: of the same type (H, W), 0 = transparent, `opaque` = opaque; None if the file has no transparency.
        mode: Pillow's mode of the file, for instance "P" or "I;16".
        depth: bits a channel in the file; 0 stands for those of `pixels`.
        format: Pillow's name of the format, for instance "PNG"; empty for a picture that never was a file.
        icc: colour profile.
        exif: EXIF block, orientation 1 if there was one, without the embedded thumbnail.
        xmp: XMP packet without orientation.
        dpi: pixels an inch, horizontal and vertical.
        text: texts of a PNG by their keys, the comment of a JPEG or GIF under `COMMENT`, and of any the `RECORD`.
        levels: the values of `pixels` that are black and white; `WHOLE_RANGE` stands for that of their type, for floats
            0 to 1.
        lossy: whether the file was compressed with loss.
        original: the file itself, as long as the picture is what it held.
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
    levels: tuple[float, float] = WHOLE_RANGE
    lossy: bool = False
    original: bytes | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.depth:
            object.__setattr__(self, "depth", self.bits)
        if self.levels == WHOLE_RANGE:
            object.__setattr__(self, "levels", (0.0, _top(self.pixels.dtype)))

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

    @property
    def bits(self) -> int:
        """Bits of a number in `pixels`: 8, 16 or 32."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def opaque(self) -> float:
        """The value of `alpha` that hides what is behind."""
        return _top(self.pixels.dtype)


def _top(dtype: np.dtype) -> float:
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def to_tensor(picture: Picture) -> Tensor:
    """Colour as float32 (C, H, W) in [0, 1], C = 1 for gray and 3 for colour, hidden colour replaced (see module)."""
    colour = torch.from_numpy(_shares(picture.pixels, *picture.levels))
    colour = colour[None] if picture.channels == 1 else colour.permute(2, 0, 1).contiguous()
    if picture.alpha is None or picture.alpha.all():
        return colour
    weight = torch.from_numpy(_shares(picture.alpha, 0, picture.opaque))[None]
    if not weight.any():
        return torch.full_like(colour, 0.5)  # nothing is visible, so nothing is known
    return torch.where(weight > 0, colour, push_pull(colour * weight, weight).clamp(0, 1))


def _shares(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """float32 in [0, 1]: how far each value lies on the way from black to white. What is not finite is black."""
    with np.errstate(invalid="ignore"):  # there is a kind of nan that is told of when it is copied
        shares = values.astype(_exact(values.dtype, black, white))
    if values.dtype.kind == "f":
        np.nan_to_num(shares, copy=False, nan=black, posinf=black, neginf=black)
    if black:
        np.subtract(shares, black, out=shares)
    np.divide(shares, white - black, out=shares)
    return np.clip(shares, 0, 1, out=shares).astype(np.float32, copy=False)


def _exact(dtype: np.dtype, black: float, white: float) -> type[np.floating]:
    """The type that differences of such numbers fit into."""
    is_wide = dtype.itemsize > 2 if dtype.kind in "iu" else white - black > float(np.finfo(np.float32).max)
    return np.float64 if is_wide else np.float32


def _values(shares: np.ndarray, black: float, white: float, dtype: np.dtype) -> np.ndarray:
    """The other way round; integers are rounded to the nearest, half to even."""
    values = shares.astype(_exact(dtype, black, white))
    np.multiply(values, white - black, out=values)
    if black:
        np.add(values, black, out=values)
    return (values if dtype.kind == "f" else np.rint(values, out=values)).astype(dtype)


def with_record(picture: Picture, record: str) -> Picture:
    """The picture with a text, in ASCII, that says how it was made; it takes the place of an older one."""
    return replace(picture, text={**picture.text, RECORD: record}, original=None)


def with_result(picture: Picture, result: Tensor, keep: np.ndarray | None = None) -> Picture:
    """The picture with its colour replaced by `result`, a float tensor (C, H', W'), clamped to [0, 1].

    Integers are rounded to the nearest, half to even; the result has the type, the depth and the black and white of
    the file. At unchanged size the original numbers stay where `keep` (bool, (H, W)) is True and where alpha is 0. At
    another size alpha is resampled (Lanczos).

    Raises:
        ValueError: a value is not finite, `keep` comes with a change of size, or colour would have to be kept in gray.
    """
    if not torch.isfinite(result).all():
        raise ValueError("the result holds values that are not finite")
    channels = int(result.shape[0])
    shares = result.detach().float().cpu()
    flat = (shares[0] if channels == 1 else shares.permute(1, 2, 0)).clamp(0, 1).contiguous().numpy()
    pixels = _values(flat, *picture.levels, picture.pixels.dtype)
    icc, note = fitting_profile(picture.icc, channels)
    notes = (*picture.notes, note) if note else picture.notes
    changed = replace(picture, pixels=pixels, icc=icc, original=None, notes=notes)
    if pixels.shape[:2] == picture.pixels.shape[:2]:
        kept = _kept(picture, keep)
        if kept.any():
            pixels[kept] = _as_channels(picture.pixels, channels)[kept]
        same = pixels.shape == picture.pixels.shape and np.array_equal(pixels, picture.pixels)
        return replace(changed, original=picture.original) if same else changed
    if keep is not None:
        raise ValueError("pixels can be kept only where the size does not change")
    size = (pixels.shape[1], pixels.shape[0])
    exif = adapted_exif(picture.exif, size) if picture.exif else None
    return replace(changed, alpha=None if picture.alpha is None else _resized(picture.alpha, size), exif=exif)


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


def _resized(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if alpha.dtype == np.uint8:
        return np.array(Image.fromarray(alpha).resize(size, Image.Resampling.LANCZOS))
    shares = Image.fromarray(_shares(alpha, 0, _top(alpha.dtype))).resize(size, Image.Resampling.LANCZOS)
    return _values(np.asarray(shares).clip(0, 1), 0, _top(alpha.dtype), alpha.dtype)


def reduced(picture: Picture, bits: int) -> Picture:
    """The picture with unsigned integers of `bits` (8 or 16), its black at 0 and its white at the largest of them."""
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    if picture.pixels.dtype == dtype and picture.levels == (0.0, _top(dtype)):
        return picture
    pixels = _values(_shares(picture.pixels, *picture.levels), 0, _top(dtype), dtype)
    alpha = picture.alpha
    if alpha is not None:
        alpha = _values(_shares(alpha, 0, picture.opaque), 0, _top(dtype), dtype)
    return replace(picture, pixels=pixels, alpha=alpha, levels=WHOLE_RANGE, original=None)


def to_pil(picture: Picture) -> Image.Image:
    """A Pillow image with the metadata in its `info`.

    Its mode is L, LA, RGB or RGBA; gray of more than 8 bits without alpha is I;16, I or F. Pillow has no such modes
    for colour, which is reduced to 8 bits.
    """
    gray = picture.channels == 1 and picture.alpha is None and picture.pixels.dtype != np.uint32
    held = picture if gray else reduced(picture, 8)
    image = Image.fromarray(held.pixels)
    if held.alpha is not None:
        image.putalpha(Image.fromarray(held.alpha))
    metadata = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    image.info.update({key: value for key, value in metadata.items() if value})
    return image
