"""JPEG files that lack their end are read if their pixels are all there, and damage that decoders hide is said."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restorer.errors import PictureError
from restorer.images.files import load
from restorer.images.jpeg_damage import completed, describe_damage
from restorer.images.jpeg_file import EOI, make_segment, parse_jpeg

IMAGES = Path(__file__).resolve().parents[1] / "images"
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "coarse": {"quality": 20, "subsampling": 2},
    "fine": {"quality": 97, "optimize": True, "subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "gray": {"gray": True},
}


@cache
def jpeg(kind: str, name: str = "gates.jpg") -> bytes:
    """Return a photograph as a JPEG file."""
    options = dict(KINDS[kind])
    with Image.open(IMAGES / name) as image:
        image = image.convert("L" if options.pop("gray", False) else "RGB").resize((241, 163))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["gates.jpg", "eagles.jpg", "grapes.jpg"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_not_called_damaged(kind: str, name: str) -> None:
    data = jpeg(kind, name)
    assert describe_damage(data) == ""
    assert describe_damage(data + b"\0" * 50) == ""  # what follows the picture is not part of it
    assert completed(data) is None
    assert load(io.BytesIO(data)).notes == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_its_end_is_read_with_a_note(kind: str) -> None:
    data = jpeg(kind)
    assert data.endswith(EOI)
    for cut in (data[:-2], data[:-1]):
        picture = load(io.BytesIO(cut))
        np.testing.assert_array_equal(picture.pixels, load(io.BytesIO(data)).pixels)
        assert picture.notes == ("the file lacks its end, but all of its pixels are there",)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lacks_pixels_is_refused(kind: str) -> None:
    data, rng = jpeg(kind), random.Random(kind)
    parts = parse_jpeg(data)
    assert parts is not None
    first, last = parts.intervals[0][0], parts.intervals[-1][1] - 12
    for cut in [rng.randrange(first, last) for _ in range(12)] + [end for _, end in parts.intervals[:-1]][:12]:
        with pytest.raises(PictureError, match="damaged or cut short"):
            load(io.BytesIO(data[:cut]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_was_added_to_a_part_of_a_file_is_noticed(kind: str) -> None:
    data, rng = jpeg(kind), random.Random(kind)
    parts = parse_jpeg(data)
    assert parts is not None
    begin, end = parts.intervals[-1]
    for _ in range(6):
        cut = data[: rng.randrange(begin + 1, max(begin + 2, end - 12))] + EOI
        assert "its compressed data end too early" in load(io.BytesIO(cut)).notes[0]


def test_a_decoder_that_lost_its_place_is_noticed() -> None:
    data, rng, wrong, noticed = jpeg("fine"), random.Random(1), 0, 0
    true = load(io.BytesIO(data)).pixels.astype(int)
    begin, end = parse_jpeg(data).intervals[0]  # type: ignore[union-attr]
    for _ in range(40):
        changed = bytearray(data)
        at = rng.randrange(begin, (begin + end) // 2)
        changed[at] ^= 1 << rng.randrange(8)
        if 0xFF in (changed[at], data[at], data[at - 1]):
            continue
        picture = load(io.BytesIO(bytes(changed)))
        shifted = (np.abs(picture.pixels.astype(int) - true).max(-1) > 60).mean() > 0.2
        wrong += shifted
        noticed += shifted and any("damaged" in note for note in picture.notes)
    assert wrong > 3 and noticed >= 0.6 * wrong


def test_a_marker_within_the_data_is_noticed() -> None:
    data = jpeg("plain")
    begin, end = parse_jpeg(data).intervals[0]  # type: ignore[union-attr]
    middle = (begin + end) // 2
    changed = data[:middle] + b"\xff\x3c" + data[middle + 2 :]
    assert "hold a marker that does not belong there" in describe_damage(changed)


def test_the_parts_of_a_file() -> None:
    data = jpeg("progressive")
    parts = parse_jpeg(data)
    assert parts is not None and parts.frame == 0xC2 and parts.has_end and parts.end == len(data)
    assert len(parts.intervals) == sum(marker == 0xDA for marker, _ in parts.segments) > 5
    commented = data[:2] + make_segment(0xFE, b"hello") + data[2:]
    assert list(parse_jpeg(commented).payloads(0xFE, b"he")) == [b"llo"]  # type: ignore[union-attr]
    assert parse_jpeg(commented + b"tail").end == len(commented)  # type: ignore[union-attr]
    assert parse_jpeg(b"\x89PNG") is None
    with pytest.raises(ValueError, match="65,533"):
        make_segment(0xFE, bytes(65_534))


def test_rows_between_restart_markers_are_runs_of_their_own() -> None:
    parts = parse_jpeg(jpeg("restarts"))
    assert parts is not None and len(parts.intervals) == -(-163 // 16)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("quality", [50, 75, 90, 100])
def test_the_detail_of_the_last_block_is_not_taken_for_damage(mode: str, quality: int) -> None:
    """A block of noise takes more bytes than are changed, of which an eighth of the size shows nothing."""
    for seed, (height, width) in enumerate([(24, 32), (64, 80), (37, 53)]):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 30, (height, width, 3)) + np.mgrid[:height, :width].sum(0)[..., None] + 60
        for options in ({}, {"subsampling": 0}) if mode == "RGB" else ({},):
            buffer = io.BytesIO()
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert(mode).save(
                buffer, "JPEG", quality=quality, **options
            )
            assert describe_damage(buffer.getvalue()) == ""
