"""Conversion of Pillow's modes to numbers: what each way of storing a picture means in colour and alpha."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageCms

from restorer.images.high_depth import raw_mode, read_sixteen_bit_bands, use_native_byte_order
from restorer.images.picture import FULL_RANGE

__all__ = ["Bands", "assign_levels", "estimate_levels", "read_bands", "split_alpha", "turn_upright"]

_COMMON_WHITES = (1.0, 255.0, 65535.0)
_TWELVE_BITS = "I;12"


@dataclass(frozen=True)
class Bands:
    """The numbers of a picture.

    Attributes:
        colour: as `pixels` of a `Picture`.
        alpha: as `alpha` of a `Picture`.
        levels: as `levels` of a `Picture`.
        depth: bits per channel in the file; 0 stands for those of `colour`.
        is_managed: whether the colour profile has been applied, so that it is no longer valid.
        notes: one line for each thing that was converted.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    levels: tuple[float, float] = FULL_RANGE
    depth: int = 0
    is_managed: bool = False
    notes: tuple[str, ...] = ()


def read_bands(image: Image.Image, data: bytes, white_is_zero: bool = False) -> Bands:
    """Return the numbers of an image that Pillow has opened.

    Args:
        image: the opened image; it is loaded here, and Pillow turns a TIFF file upright when it loads it.
        data: the bytes of the file; empty if they are not known, in which case 16-bit colour is read as 8-bit colour.
        white_is_zero: whether a gray TIFF file stores white as 0, which Pillow takes into account only for 8 bits.
    """
    raw, mode = raw_mode(image), image.mode
    is_packed = ";16" in raw and not raw.startswith("BGR")  # BGR;16 has 5, 6 and 5 bits: fewer than 8 per channel
    if is_packed and mode in ("RGB", "RGBA"):
        if data:
            return _apply_transparent_colour(split_alpha(read_sixteen_bit_bands(image, data)), image, 1)
        return replace(_read_plain(image), depth=16, notes=("16 bits per channel are read as 8 bits",))
    use_native_byte_order(image)
    image.load()
    if mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        if raw == _TWELVE_BITS:
            return Bands(values << 4 | values >> 8, notes=("12 bits per channel are expanded to 16 bits",))
        return _apply_transparent_colour(Bands(65535 - values if white_is_zero else values), image, 1)
    if mode == "I":
        integers = np.asarray(image)
        return assign_levels(integers.view(np.uint32) if raw == "I;32N" else integers, "32-bit integers")
    if mode == "F":
        return assign_levels(np.array(image), "floating-point values")
    if mode == "CMYK" and is_packed:
        return replace(_convert_to_rgb(image), depth=16, notes=("16-bit CMYK is read as 8-bit RGB",))
    if mode in ("L", "RGB", "1"):
        return _apply_transparent_colour(_read_plain(image), image, {"L;2": 85, "L;4": 17}.get(raw, 1))
    return _read_plain(image) if mode in ("LA", "RGBA") else _convert_to_rgb(image)


def _read_plain(image: Image.Image) -> Bands:
    """Return the numbers of an image in a mode with 1 or 8 bits per channel."""
    bands = np.array(image)
    if bands.dtype == bool:
        return Bands(bands * np.uint8(255), notes=("black and white is read as 8-bit gray",))
    return split_alpha(bands if bands.ndim == 3 else bands[..., None])


def split_alpha(bands: np.ndarray) -> Bands:
    """Split bands into colour and alpha.

    Args:
        bands: (H, W, C), with C = 1 or 3, or one more if there is alpha.
    """
    has_alpha = bands.shape[-1] in (2, 4)
    colour = bands[..., :-1] if has_alpha else bands
    return Bands(
        np.ascontiguousarray(colour[..., 0] if colour.shape[-1] == 1 else colour),
        np.ascontiguousarray(bands[..., -1]) if has_alpha else None,
    )


def _apply_transparent_colour(bands: Bands, image: Image.Image, factor: int) -> Bands:
    """Return the bands with alpha 0 where the colour is the one that the file declares transparent.

    Args:
        bands: colour, usually without alpha.
        image: the image, whose `info` has the transparent colour.
        factor: what the numbers of the file were multiplied by; the file states the transparent colour unmultiplied.
    """
    key = image.info.get("transparency")
    if key is None or bands.alpha is not None or not isinstance(key, int | tuple):
        return bands
    is_key = bands.colour == np.asarray(key) * factor
    is_key = is_key.all(axis=-1) if is_key.ndim == 3 else is_key
    opaque = np.iinfo(bands.colour.dtype).max
    return replace(bands, alpha=np.where(is_key, 0, opaque).astype(bands.colour.dtype))


def assign_levels(values: np.ndarray, subject: str) -> Bands:
    """Return the bands of numbers whose type does not define black and white, with estimated levels.

    Args:
        values: (H, W) or (H, W, 3).
        subject: what the note calls the numbers.
    """
    black, white = estimate_levels(values)
    notes = [f"{subject}: {black:g} is taken as black and {white:g} as white"]
    if count := int((~np.isfinite(values)).sum()):
        notes.append(f"{count} values are not finite and are taken as black")
    return Bands(values, levels=(black, white), notes=tuple(notes))


def estimate_levels(values: np.ndarray) -> tuple[float, float]:
    """Estimate the values of black and white if the type does not define them, as for floats.

    White is 1 if no value is above 1; 255 or 65535 if the largest value is at most that and more than half of it; else
    the largest value itself. Black is 0, or the smallest value if that is negative. Values that are not finite are
    ignored.
    """
    finite = values[np.isfinite(values)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    whites = [white for white in _COMMON_WHITES if highest <= white and (white == 1 or highest > white / 2)]
    return min(0.0, lowest), whites[0] if whites else highest


def _convert_to_rgb(image: Image.Image) -> Bands:
    """Convert an image in a mode that is neither gray nor RGB."""
    mode = image.mode
    if mode in ("P", "PA"):
        has_alpha = mode == "PA" or image.has_transparency_data
        rgb = split_alpha(np.array(image.convert("RGBA" if has_alpha else "RGB")))
        return replace(rgb, notes=("palette colours are read as RGB",))
    if mode == "CMYK" and (srgb := _convert_by_profile(image)) is not None:
        return Bands(srgb, is_managed=True, notes=("CMYK is converted to sRGB by its colour profile",))
    target = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    # Pillow converts LAB by colour management, so a LAB profile is no longer needed.
    return replace(_read_plain(image.convert(target)), is_managed=mode == "LAB", notes=(f"{mode} is read as {target}",))


def _convert_by_profile(image: Image.Image) -> np.ndarray | None:
    """Convert CMYK to sRGB, as uint8 (H, W, 3); return None without a usable profile."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        rgb = ImageCms.profileToProfile(image, profile, srgb, renderingIntent=intent, outputMode="RGB", flags=flags)
    except (KeyError, OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    return None if rgb is None else np.array(rgb)


def turn_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror an array by the orientation tag of EXIF (TIFF 6.0, Orientation).

    Args:
        values: (H, W, ...) as stored.
        orientation: value of the tag; values other than 2 to 8 change nothing.

    Returns:
        A contiguous array, (W, H, ...) for orientations 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
