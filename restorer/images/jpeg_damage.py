"""Whether the compressed data of a JPEG file are whole.

A decoder reads on until it has all blocks, whatever the data say: it fills what is missing with gray, and it stays
silent about the rest. Two questions that any decoder answers tell the difference:

    Do bytes that are added at the end of the data change the picture?  Then it wanted more: some are missing.
    Does the picture stay the same if its last bytes are changed?       Then they were not read: it lost its place.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from restorer.images.jpeg_file import EOI, SOS, JpegFile, parse_jpeg

__all__ = ["NO_END", "completed", "describe_damage"]

NO_END = "the file lacks its end, but all of its pixels are there"
PROBE = bytes(range(0x15, 0xF0, 3)) * 2  # no 0xFF, and no pattern that decodes to nothing
RESTART_INTERVAL = 0xDD
LAST = 12  # bytes; some programs leave fewer unused
FEW = 4  # bytes, of which all pixels tell whether they were read
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
EIGHTH = 8  # a baseline picture is decoded at an eighth of its size, which reads all data and takes a third of the time


def completed(data: bytes) -> bytes | None:
    """Return a JPEG file with the marker that ends it, if this is all that it lacks; None otherwise."""
    parts = parse_jpeg(data)
    if parts is None or parts.has_end or parts.has_wrong_marker or not parts.intervals or not _has_all_scans(parts):
        return None
    whole = data + EOI
    is_whole = _are_same(whole, _with_probes(whole, parts), parts) and _has_all_restarts(whole, parts)
    return whole if is_whole else None


def _has_all_scans(parts: JpegFile) -> bool:
    """Return whether each coefficient of each component has been sent to its last bit (T.81, B.2.3 and G.1)."""
    frame = next((content for marker, content in parts.segments if marker == parts.frame), b"")
    components, precision = frame[6::3], dict[tuple[int, int], int]()
    for marker, content in parts.segments:
        if marker != SOS or len(content) < 2 * content[0] + 4:
            continue
        first, last, shifts = content[2 * content[0] + 1 : 2 * content[0] + 4]
        for component in content[1 : 2 * content[0] + 1 : 2]:
            precision |= {(component, k): shifts & 15 for k in range(first, last + 1)}
    return all(precision.get((component, k)) == 0 for component in components for k in range(64))


def describe_damage(data: bytes) -> str:
    """Return what is wrong with the compressed data of a JPEG file that can be decoded; '' if nothing is.

    Raises:
        ValueError: the file is cut short, although the decoder says nothing.
    """
    parts = parse_jpeg(data)
    if parts is None or not parts.intervals:
        return ""
    if parts.has_wrong_marker:
        return _note("hold a marker that does not belong there")
    if not parts.has_end:
        if completed(data) is None:
            raise ValueError("its compressed data end too early")
        return NO_END
    if not (_are_same(data, _with_probes(data, parts), parts) and _has_all_restarts(data, parts)):
        return _note("end too early")
    begin, end = parts.intervals[-1]
    if len(parts.intervals) == 1 and end - begin > LAST:
        changed, few = (data[: end - n] + PROBE[:n] + data[end:] for n in (LAST, FEW))
        # The last bytes of a block of much detail tell nothing that an eighth of the size shows.
        if _are_same(data, changed, parts) and _are_same(data, few, parts, whole=True):
            return _note("go on after its last pixel")
    return ""


def _note(reason: str) -> str:
    return f"the file is damaged: its compressed data {reason}, so part of the picture may be wrong"


def _with_probes(data: bytes, parts: JpegFile) -> bytes:
    """Return a file with additional bytes at the end of each run of compressed data."""
    pieces, last = list[bytes](), 0
    for _, end in parts.intervals:
        pieces += [data[last:end], PROBE]
        last = end
    return b"".join([*pieces, data[last:]])


def _has_all_restarts(data: bytes, parts: JpegFile) -> bool:
    """Return whether no run of data is missing at the end of a scan that is divided by restart markers."""
    begin, end = parts.intervals[-1]
    if not any(marker == RESTART_INTERVAL and any(content) for marker, content in parts.segments):
        return True
    is_first = data[begin - 2] != 0xFF or not 0xD0 <= data[begin - 1] <= 0xD7
    following = bytes([0xFF, 0xD0 if is_first else 0xD0 + (data[begin - 1] + 1) % 8])
    return _are_same(data, data[:end] + following + PROBE + data[end:], parts)


def _are_same(a: bytes, b: bytes, parts: JpegFile, *, whole: bool = False) -> bool:
    """Return whether two files can be decoded to the same pixels; `whole` compares all, at three times the cost."""
    try:
        return np.array_equal(_pixels(a, parts, whole=whole), _pixels(b, parts, whole=whole))
    except Exception:  # the decoder gives up on one of them
        return False


def _pixels(data: bytes, parts: JpegFile, *, whole: bool = False) -> np.ndarray:
    """Return pixels that depend on the data of every block of a file, or on all of its data."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        if parts.frame not in PROGRESSIVE and not whole:
            image.draft(None, (image.width // EIGHTH, image.height // EIGHTH))
        return np.asarray(image)
