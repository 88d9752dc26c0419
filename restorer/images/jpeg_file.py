"""The parts of a JPEG file: its segments, the ends of its scans, and what follows the picture.

    SOI | APP0 APP1 ... DQT SOF DHT | SOS, compressed data | SOS, compressed data | EOI | another picture, a video, ...

Sources:
    ITU-T T.81 (1992), "Digital compression and coding of continuous-tone still images", annex B: the markers.
    CIPA DC-007 (2009), "Multi-Picture Format": pictures after the first one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["EOI", "MOST_SIDE", "SOI", "SOS", "JpegFile", "make_segment", "parse_jpeg"]

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOS = 0xDA
MOST_SIDE = 65_500  # pixels that libjpeg writes
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_AFTER_A_SCAN = frozenset({0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})


@dataclass(frozen=True)
class JpegFile:
    """The parts of a JPEG file.

    Args:
        segments: The marker and the content of each segment, the headers of the scans included.
        intervals: Where each run of compressed data begins and ends: a scan, or the part of a scan between two restart
            markers.
        frame: The marker of the frame: 0xC0 for baseline, 0xC2 for progressive; 0 if there is none.
        has_wrong_marker: Whether compressed data are followed by a marker that cannot follow them.
        end: Where the picture ends, its last marker included; the length of the file if that marker is missing.
        has_end: Whether the last marker is there.
    """

    segments: tuple[tuple[int, bytes], ...]
    intervals: tuple[tuple[int, int], ...]
    frame: int
    has_wrong_marker: bool
    end: int
    has_end: bool

    def payloads(self, marker: int, start: bytes) -> Iterator[bytes]:
        """Yield what follows `start` in each segment of a marker that begins with it."""
        for found, content in self.segments:
            if found == marker and content.startswith(start):
                yield content[len(start) :]


def make_segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a file.

    Args:
        marker: The second byte of the marker.
        content: At most 65,533 bytes.

    Raises:
        ValueError: The content is too long.
    """
    if len(content) > 0xFFFF - 2:
        raise ValueError(f"a segment holds at most 65,533 bytes, not {len(content):,}")
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def parse_jpeg(data: bytes) -> JpegFile | None:
    """Return the parts of a JPEG file, as far as they can be told; None if the data do not begin with one."""
    if not data.startswith(SOI):
        return None
    segments, intervals = list[tuple[int, bytes]](), list[tuple[int, int]]()
    frame, is_wrong, at = 0, False, 2
    while at + 1 < len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker in (0xFF, 0x00) or marker in _ALONE:  # fill bytes, or bytes that belong to nothing
            at += 1 if marker == 0xFF else 2
            continue
        if data[at : at + 2] == EOI:
            return JpegFile(tuple(segments), tuple(intervals), frame, is_wrong, at + 2, True)
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data):
            break
        segments.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker
        if marker == SOS:
            runs, at = _skip_scan(data, at)
            intervals += runs
            is_wrong |= at + 1 < len(data) and data[at + 1] not in _AFTER_A_SCAN
    return JpegFile(tuple(segments), tuple(intervals), frame, is_wrong, len(data), False)


def _skip_scan(data: bytes, start: int) -> tuple[list[tuple[int, int]], int]:
    """Return the runs of compressed data from a position on, and where the marker that ends them begins."""
    runs, begin, at = list[tuple[int, int]](), start, start
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return [*runs, (begin, len(data))], len(data)
        end = at
        while at + 1 < len(data) and data[at + 1] == 0xFF:
            at += 1
        if at + 1 >= len(data):
            return [*runs, (begin, end)], len(data)
        follower = data[at + 1]
        if follower == 0:
            at += 2
        elif 0xD0 <= follower <= 0xD7:
            runs.append((begin, end))
            at += 2
            begin = at
        else:
            return [*runs, (begin, end)], at
