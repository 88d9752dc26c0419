"""Pillow's modes -> numbers: what each way of storing a picture means in colour and alpha."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageCms

from restorer.images.high_depth import raw_mode, sixteen_bit_bands, use_own_byte_order
from restorer.images.picture import WHOLE_RANGE

__all__ = ["Bands", "bands_of", "levels_of", "ranged", "split", "turned"]

_BLACK_AND_WHITE = (1.0, 255.0, 65535.0)
_TWELVE_BITS = "I;12"


@dataclass(frozen=True)
class Bands:
    """The numbers of a picture.

    Attributes:
        colour, alpha, levels: as `pixels`, `alpha` and `levels` of a `Picture`.
        depth: bits a channel in the file; 0 stands for those of `colour`.
        managed: whether the colour profile was applied, so that it does not hold any more.
        notes: what had to be converted.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    levels: tuple[float, float] = WHOLE_RANGE
    depth: int = 0
    managed: bool = False
    notes: tuple[str, ...] = ()


def bands_of(image: Image.Image, data: bytes, white_is_zero: bool = False) -> Bands:
    """The numbers of an image as Pillow opened it.

    Args:
        image: loaded here; a TIFF file's is turned upright by Pillow then.
        data: the file it was opened from; empty if that is not known, and then 16-bit colour is read as 8 bits.
        white_is_zero: whether a gray TIFF says so, which Pillow heeds in 8 bits only.
    """
    raw, mode = raw_mode(image), image.mode
    packed = ";16" in raw and not raw.startswith("BGR")  # BGR;16 is 5-6-5: under 8 bits
    if packed and mode in ("RGB", "RGBA"):
        if data:
            return _keyed(split(sixteen_bit_bands(image, data)), image, 1)
        note = "16 bits a channel are read as 8 bits"
        return replace(_plain(image), depth=16, notes=(note,))
    use_own_byte_order(image)
    image.load()
    if mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)
        if raw == _TWELVE_BITS:
            return Bands(deep << 4 | deep >> 8, notes=("12 bits a channel are taken as 16",))
        return _keyed(Bands(65535 - deep if white_is_zero else deep), image, 1)
    if mode == "I":
        whole = np.asarray(image)
        return ranged(whole.view(np.uint32) if raw == "I;32N" else whole, "whole numbers of 32 bits")
    if mode == "F":
        return ranged(np.array(image), "floating-point values")
    if mode == "CMYK" and packed:
        return replace(_converted(image), depth=16, notes=("16 bits of CMYK are read as 8 bits of RGB",))
    if mode in ("L", "RGB", "1"):
        return _keyed(_plain(image), image, {"L;2": 85, "L;4": 17}.get(raw, 1))
    return _plain(image) if mode in ("LA", "RGBA") else _converted(image)


def _plain(image: Image.Image) -> Bands:
    bands = np.array(image)
    if bands.dtype == bool:
        return Bands(bands * np.uint8(255), notes=("black and white is read as 8-bit gray",))
    return split(bands if bands.ndim == 3 else bands[..., None])


def split(bands: np.ndarray) -> Bands:
    """(H, W, C) with C = 1 or 3, one more if there is alpha."""
    has_alpha = bands.shape[-1] in (2, 4)
    colour = bands[..., :-1] if has_alpha else bands
    return Bands(
        np.ascontiguousarray(colour[..., 0] if colour.shape[-1] == 1 else colour),
        np.ascontiguousarray(bands[..., -1]) if has_alpha else None,
    )


def _keyed(bands: Bands, image: Image.Image, factor: int) -> Bands:
    """With alpha where the colour is the one the file names as transparent, in the file's own, unstretched numbers."""
    key = image.info.get("transparency")
    if key is None or bands.alpha is not None or not isinstance(key, int | tuple):
        return bands
    hit = bands.colour == np.asarray(key) * factor
    hit = hit.all(axis=-1) if hit.ndim == 3 else hit
    opaque = np.iinfo(bands.colour.dtype).max
    return replace(bands, alpha=np.where(hit, 0, opaque).astype(bands.colour.dtype))


def ranged(values: np.ndarray, what: str) -> Bands:
    """Numbers whose type does not say what is black and white."""
    black, white = levels_of(values)
    notes = [f"{what}: {black:g} is taken as black, {white:g} as white"]
    if unknown := int((~np.isfinite(values)).sum()):
        notes.append(f"{unknown} values are not finite and are taken as black")
    return Bands(values, levels=(black, white), notes=tuple(notes))


def levels_of(values: np.ndarray) -> tuple[float, float]:
    """What is black and white where the type does not say it, as in floats.

    White is 1, 255 or 65535 if the largest value lies in the upper half below (for 1: anywhere below), else the
    largest value itself. Black is 0, or the smallest value if that is negative.
    """
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    known = [full for full in _BLACK_AND_WHITE if most <= full and (full == 1 or most > full / 2)]
    return min(0.0, least), known[0] if known else most


def _converted(image: Image.Image) -> Bands:
    """Modes that are neither gray nor RGB."""
    mode = image.mode
    if mode in ("P", "PA"):
        transparent = mode == "PA" or image.has_transparency_data
        rgb = split(np.array(image.convert("RGBA" if transparent else "RGB")))
        return replace(rgb, notes=("palette colours are read as RGB",))
    if mode == "CMYK" and (managed := _by_profile(image)) is not None:
        return Bands(managed, managed=True, notes=("CMYK is read as sRGB by its colour profile",))
    target = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    # Pillow converts LAB by colour management, so that a profile of LAB has served its end.
    return replace(_plain(image.convert(target)), managed=mode == "LAB", notes=(f"{mode} is read as {target}",))


def _by_profile(image: Image.Image) -> np.ndarray | None:
    """CMYK as sRGB; None without a profile that serves."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        made = ImageCms.profileToProfile(image, profile, srgb, renderingIntent=intent, outputMode="RGB", flags=flags)
    except (KeyError, OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    return None if made is None else np.array(made)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) turned upright by the tag of EXIF (TIFF 6.0, Orientation); other numbers than 2 to 8 turn nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
