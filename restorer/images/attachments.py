"""What a file holds for the picture that no field of its own describes: captions, PNG chunks, a gain map.

Each of these is kept as bytes, and a format that has no place for it loses it, which is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from restorer.images import photoshop
from restorer.images.embedded import find_companions, scaled_gain_map, turned_gain_map, with_gain_map
from restorer.images.jpeg_file import make_segment, parse_jpeg
from restorer.images.png_chunks import (
    describe_colour_chunks,
    describe_other_chunks,
    kept_chunks,
    lost_chunks,
    with_chunks,
)

__all__ = ["Attachments", "read_attachments"]

APP13, PHOTOSHOP = 0xED, b"Photoshop 3.0\0"
LONGEST = 65_000  # bytes that a segment of a JPEG file can hold besides its header


@dataclass(frozen=True)
class Attachments:
    """What belongs to a picture besides its pixels, profile, EXIF, XMP, texts and resolution.

    Attributes:
        captions: Photoshop's image resources, among them IPTC captions.
        chunks: The type and the content of PNG chunks.
        gain_map: The JPEG file of a gain map.
        gain_map_version: The content of the segment that announces it.
    """

    captions: bytes = b""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    gain_map: bytes = b""
    gain_map_version: bytes = b""

    def turned(self, orientation: int) -> Attachments:
        """Return the attachments of the picture after its orientation tag, 1..8, has been applied."""
        if not self.gain_map or orientation == 1:
            return self
        return replace(self, gain_map=turned_gain_map(self.gain_map, orientation))

    def enlarged(self, across: float, down: float) -> Attachments:
        """Return the attachments of the picture after it has become wider and higher by these factors."""
        if not self.gain_map or across == down == 1:
            return self
        return replace(self, gain_map=scaled_gain_map(self.gain_map, across, down))

    def options(self, name: str) -> dict[str, Any]:
        """Return the options of a writer.

        Args:
            name: Pillow's name of the format.
        """
        if not self.captions:
            return {}
        if name == "JPEG" and len(self.captions) <= LONGEST:
            return {"extra": make_segment(APP13, PHOTOSHOP + self.captions)}
        if name == "TIFF":
            iptc = photoshop.captions(self.captions)
            tags = {photoshop.RESOURCES_TAG: self.captions, **({photoshop.IPTC_TAG: iptc} if iptc else {})}
            return {"tags": tags}
        return {}

    def texts(self, name: str) -> dict[str, str]:
        """Return the texts of a PNG file that hold captions; none for other formats."""
        return {photoshop.PNG_KEY: photoshop.png_text(self.captions)} if self.captions and name == "PNG" else {}

    def added_to(self, data: bytes, name: str) -> bytes:
        """Return a file with everything that its writer does not write.

        Args:
            data: The file.
            name: Pillow's name of its format.
        """
        if name == "PNG" and self.chunks:
            return with_chunks(data, self.chunks)
        if name == "JPEG" and self.gain_map:
            return with_gain_map(data, self.gain_map, self.gain_map_version)
        return data

    def lost(self, name: str) -> list[str]:
        """Return what a format cannot hold, in words."""
        found = [] if name in ("JPEG", "TIFF", "PNG") or not self.captions else ["IPTC captions"]
        if name == "JPEG" and len(self.captions) > LONGEST:
            found.append("IPTC captions of this size")
        if name != "PNG":
            chunks = [chunk for chunk in self.chunks if name != "HEIF" or chunk[0] != b"cICP"]
            found += [*describe_colour_chunks(chunks), *describe_other_chunks(chunks)]
        return found + (["gain map"] if self.gain_map and name != "JPEG" else [])


def read_attachments(data: bytes, info: Mapping[Any, Any], tags: Mapping[int, Any]) -> tuple[Attachments, list[str]]:
    """Return the attachments of a picture, and a note for everything that is not kept.

    Args:
        data: The file.
        info: What Pillow has read beside the pixels.
        tags: The tags of a TIFF file.
    """
    companions, captions = find_companions(data), b""
    parts = parse_jpeg(data)
    if parts is not None:
        captions = b"".join(parts.payloads(APP13, PHOTOSHOP))
    elif isinstance(resources := tags.get(photoshop.RESOURCES_TAG), bytes):
        captions = resources
    captions = photoshop.kept_resources(captions)
    if not captions and isinstance(iptc := tags.get(photoshop.IPTC_TAG), bytes):
        captions = photoshop.from_captions(iptc)
    if isinstance(text := info.get(photoshop.PNG_KEY), str):
        captions = photoshop.from_png_text(text)
    notes = []
    if companions.names:
        notes.append(f"not kept of what lies beside the picture in the file: {', '.join(companions.names)}")
    if lost := lost_chunks(data):
        notes.append(f"PNG chunks that depend on the old pixels are dropped: {', '.join(lost)}")
    found = Attachments(captions, kept_chunks(data), companions.gain_map or b"", companions.gain_map_version)
    return found, notes
