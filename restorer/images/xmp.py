"""XMP packets: what in them stops being true when a picture is turned, enlarged or separated from its companions.

A packet is changed as text, so that everything else in it stays as it is, byte for byte.

Sources:
    ISO 16684-1:2019, "Extensible metadata platform (XMP)".
    Google, "Photo Sphere XMP Metadata" and "Motion Photo format specification"; Android, "Ultra HDR Image Format".
    Metadata Working Group 2010, "Guidelines for Handling Image Metadata": regions and their dimensions.
"""

from __future__ import annotations

import itertools
import re

__all__ = ["adapt_sizes", "remove_claims", "remove_orientation"]

_ORIENTATION = re.compile(rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')

_WIDTHS = (
    *("GPano:FullPanoWidthPixels", "GPano:CroppedAreaImageWidthPixels", "GPano:CroppedAreaLeftPixels"),
    *("GPano:SourcePhotoWidthPixels", "exif:PixelXDimension", "exifEX:PixelXDimension", "tiff:ImageWidth", "stDim:w"),
)
_HEIGHTS = (
    *("GPano:FullPanoHeightPixels", "GPano:CroppedAreaImageHeightPixels", "GPano:CroppedAreaTopPixels"),
    *("GPano:SourcePhotoHeightPixels", "exif:PixelYDimension", "exifEX:PixelYDimension", "tiff:ImageLength", "stDim:h"),
)

_PAGES = re.compile(rb"(<xmpTPg:MaxPageSize\b[^>]*/>|<xmpTPg:MaxPageSize\b.*?</xmpTPg:MaxPageSize\s*>)", re.DOTALL)
_SUBJECTS = re.compile(rb"<exif:Subject(?:Area|Location)\b.*?</exif:Subject(?:Area|Location)\s*>", re.DOTALL)
_NUMBERS = re.compile(rb"(?<=li>)\s*\d+")

_CLAIMS = {
    "gain map": ("hdrgm", "HDRGainMap", "HDRGainMapVersion"),
    "motion": ("GCamera:MotionPhoto", "GCamera:MicroVideo", "Camera:MotionPhoto", "Camera:MicroVideo", "MotionPhoto"),
    "depth map": ("GDepth", "GImage", "GFocus", "Device", "Camera:DepthMap", "apdi"),
}
"""Names, or beginnings of names, of properties that speak of what lies in the file beside the picture."""

_CONTAINERS = re.compile(rb"<(\w*Container):Directory\b.*?</\1:Directory\s*>\s*", re.DOTALL)
_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails\b.*?</\1:Thumbnails\s*>\s*", re.DOTALL)
_EXTENSION = re.compile(rb'\s*xmpNote:HasExtendedXMP="[^"]*"|<xmpNote:HasExtendedXMP>[^<]*</xmpNote:HasExtendedXMP>\s*')


def remove_orientation(packet: bytes | str | None) -> bytes | None:
    """Return a packet without its orientation and its thumbnail; None if there is no packet."""
    if not packet:
        return None
    data = packet.encode() if isinstance(packet, str) else bytes(packet)
    return _THUMBNAILS.sub(b"", _ORIENTATION.sub(b"", data))


def adapt_sizes(packet: bytes | None, old: tuple[int, int], new: tuple[int, int]) -> bytes | None:
    """Return a packet whose sizes in pixels are those of an enlarged picture.

    Args:
        packet: The packet; None if there is none.
        old: Width and height of the picture that the packet describes.
        new: Width and height of the new picture.
    """
    if packet is None or old == new:
        return packet
    parts = _PAGES.split(packet)  # every second part is the size of a page, in inches or millimetres
    parts[::2] = [_scale(part, old, new) for part in parts[::2]]
    return b"".join(parts)


def _scale(packet: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Return a part of a packet whose sizes and places in pixels are scaled; see `adapt_sizes`."""
    across, down = new[0] / old[0], new[1] / old[1]

    def moved(match: re.Match[bytes]) -> bytes:
        factors = itertools.cycle((across, down))  # a point, and a width and a height or a diameter
        return _NUMBERS.sub(lambda number: str(round(int(number[0]) * next(factors))).encode(), match[0])

    packet = _SUBJECTS.sub(moved, packet)
    for names, before, after in ((_WIDTHS, old[0], new[0]), (_HEIGHTS, old[1], new[1])):
        joined = b"|".join(re.escape(name.encode()) for name in names)
        pattern = re.compile(rb'((?:%s)(?:\s*=\s*["\']|\s*>\s*))(\d+(?:\.\d+)?)' % joined)

        def scaled(match: re.Match[bytes], factor: float = after / before) -> bytes:
            return match[1] + str(round(float(match[2]) * factor)).encode()

        packet = pattern.sub(scaled, packet)
    return packet


def remove_claims(packet: bytes | None, *, keep_gain_map: bool = False) -> bytes | None:
    """Return a packet that no longer speaks of pictures, videos and maps that lie beside the picture.

    Args:
        packet: The packet; None if there is none.
        keep_gain_map: Whether the claims of a gain map stay.
    """
    if packet is None:
        return None
    for label, names in _CLAIMS.items():
        if label == "gain map" and keep_gain_map:
            continue
        for name in names:
            packet = _without(packet, name)
    packet = _EXTENSION.sub(b"", packet)
    return packet if keep_gain_map else _CONTAINERS.sub(b"", packet)


def _without(packet: bytes, name: str) -> bytes:
    """Return a packet without the properties of a namespace, or of names that begin with `name`."""
    start = re.escape(name.encode())
    full = start + rb"[\w]*" if ":" in name else start + rb":\w+"
    packet = re.sub(rb'\s(?:%s)\s*=\s*(?:"[^"]*"|\'[^\']*\')' % full, b"", packet)
    packet = re.sub(rb"<(%s)\b[^>]*/>\s*" % full, b"", packet)
    return re.sub(rb"<(%s)\b[^>]*>.*?</\1\s*>\s*" % full, b"", packet, flags=re.DOTALL)
