"""Boxes: the parts of HEIC, AVIF, JPEG XL and JPEG 2000 files (ISO/IEC 14496-12:2022, 4.2)."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["read_boxes"]


def read_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the content of each box, as long as they are whole.

    Args:
        data: A file, or the content of a box that consists of others.
    """
    at = 0
    while at + 8 <= len(data):
        length, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(data)
        if end < start or end > len(data):
            return
        yield data[at + 4 : at + 8], data[start:end]
        at = end
