"""Captions, PNG chunks, sizes in XMP and EXIF, and gain maps are kept, adapted, or named when they are lost."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, JpegImagePlugin

from restorer.errors import UsageError
from restorer.images import photoshop
from restorer.images.files import Picture, cut, load, with_result
from restorer.images.jpeg_file import make_segment, parse_jpeg
from restorer.images.png_chunks import SIGNATURE
from restorer.images.sizes import Region
from restorer.images.writing import check_size, save
from restorer.images.xmp import adapt_sizes, remove_claims

SIZE = (48, 64)
CAPTIONS = b"\x1c\x02\x78\x00\x0eCaption by Doe\x1c\x02\x19\x00\x06harbor"


def pixels(seed: int = 0) -> np.ndarray:
    """Return colours that vary smoothly, uint8 (H, W, 3)."""
    small = np.random.default_rng(seed).integers(40, 216, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def resource(number: int, content: bytes, name: bytes = b"") -> bytes:
    """Return one of Photoshop's image resources."""
    pascal = bytes([len(name)]) + name
    pascal += b"\0" * (len(pascal) % 2)
    return (
        b"8BIM"
        + number.to_bytes(2, "big")
        + pascal
        + len(content).to_bytes(4, "big")
        + content
        + b"\0" * (len(content) % 2)
    )


def write(picture: Picture, format: str) -> tuple[bytes, tuple[str, ...]]:
    buffer = io.BytesIO()
    notes = save(picture, buffer, format)
    return buffer.getvalue(), notes


def restored(data: bytes, factor: int = 1) -> Picture:
    """Return what a file holds after its pixels were replaced by darker ones, enlarged by a factor."""
    picture = load(io.BytesIO(data))
    colour = torch.from_numpy(picture.pixels.astype(np.float32) / 255).permute(2, 0, 1) * 0.9
    return with_result(picture, colour.repeat_interleave(factor, 1).repeat_interleave(factor, 2))


# ------------------------------------------------------------------------------------------------------------- captions

RESOURCES = resource(0x0404, CAPTIONS) + resource(0x040A, b"\x01", b"copyright") + resource(0x07D0, b"path data")
STALE = resource(0x040C, bytes(40)) + resource(0x03ED, bytes(16))


def captioned() -> bytes:
    data = jpeg()
    return data[:2] + make_segment(0xED, b"Photoshop 3.0\0" + STALE + RESOURCES) + data[2:]


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG"])
def test_captions_are_kept(format: str) -> None:
    data, notes = write(restored(captioned()), format)
    assert not any("IPTC" in note for note in notes)
    again = load(io.BytesIO(data))
    assert again.attachments.captions == RESOURCES
    second, _ = write(restored(data), format)
    assert load(io.BytesIO(second)).attachments.captions == RESOURCES
    with Image.open(io.BytesIO(data)) as image:
        if format == "JPEG":
            assert image.info["photoshop"][0x0404] == CAPTIONS and 0x040C not in image.info["photoshop"]
        elif format == "TIFF":
            assert image.tag_v2[33723] == CAPTIONS
        else:
            assert image.text["Raw profile type iptc"].split()[:2] == ["iptc", str(len(RESOURCES))]


@pytest.mark.parametrize("format", ["WEBP", "AVIF", "BMP"])
def test_lost_captions_are_named(format: str) -> None:
    _, notes = write(restored(captioned()), format)
    assert any("loses" in note and "IPTC captions" in note for note in notes)


def test_captions_of_a_tiff_file() -> None:
    for tags in ([(33723, "B", len(CAPTIONS), CAPTIONS, True)], [(34377, "B", len(RESOURCES), RESOURCES, True)]):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels(), photometric="rgb", extratags=tags, metadata=None)
        data, _ = write(restored(buffer.getvalue()), "JPEG")
        with Image.open(io.BytesIO(data)) as image:
            assert image.info["photoshop"][0x0404] == CAPTIONS


@pytest.mark.parametrize("text", ["", "\niptc\n 3\nzz\n", "\niptc\n 99999999\n", "\niptc\n 4\n1c0"])
def test_malformed_captions_are_dropped(text: str) -> None:
    assert photoshop.from_png_text(text) in (b"", photoshop.from_captions(b""))
    assert photoshop.kept_resources(b"8BIM\x04\x04\0\0\xff\xff\xff\xff" + b"x" * 20) == b""
    assert photoshop.kept_resources(b"garbage") == b""


def test_resources_round_trip_through_text() -> None:
    assert photoshop.from_png_text(photoshop.png_text(RESOURCES)) == RESOURCES
    assert photoshop.captions(photoshop.from_captions(CAPTIONS)) == CAPTIONS


def test_captions_too_long_for_a_segment_are_named() -> None:
    buffer = io.BytesIO()
    long = resource(0x0404, b"\x1c\x02\x78\x7f\xff" + b"x" * 0x7FFF) * 3
    tifffile.imwrite(
        buffer, pixels(), photometric="rgb", extratags=[(34377, "B", len(long), long, True)], metadata=None
    )
    data, notes = write(restored(buffer.getvalue()), "JPEG")
    assert any("IPTC captions of this size" in note for note in notes)
    assert load(io.BytesIO(data)).attachments.captions == b""


# --------------------------------------------------------------------------------------------------------------- chunks


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + b"".join(chunk(*c) for c in chunks) + data[33:]


def chunks_of(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, len(SIGNATURE)
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.setdefault(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return found


KEPT = {
    b"gAMA": (100_000).to_bytes(4, "big"),
    b"cHRM": b"".join(n.to_bytes(4, "big") for n in (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
    b"sRGB": b"\1",
    b"cICP": bytes([9, 16, 0, 1]),
    b"mDCV": bytes(range(24)),
    b"cLLI": bytes(range(8)),
    b"prVt": b"private, but safe to copy",
    b"sTER": b"\0",
}
MEANT = {b"gAMA": "gamma", b"cHRM": "primaries", b"cICP": "colour space", b"mDCV": "mastering", b"cLLI": "light levels"}


@pytest.mark.parametrize("kind", KEPT)
def test_chunks_are_kept_bit_for_bit(kind: bytes) -> None:
    data, notes = write(restored(png((kind, KEPT[kind]))), "PNG")
    found = chunks_of(data)
    assert found[kind] == KEPT[kind] and not notes
    order = list(found)
    assert order[0] == b"IHDR" and order.index(kind) < order.index(b"IDAT")
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # checks the sums
    deep, _ = write(Picture(pixels().astype(np.uint16) * 257, attachments=load(io.BytesIO(data)).attachments), "PNG")
    assert chunks_of(deep)[kind] == KEPT[kind]


@pytest.mark.parametrize("kind", MEANT)
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF"])
def test_a_colour_space_that_is_lost_is_named(kind: bytes, format: str) -> None:
    _, notes = write(restored(png((kind, KEPT[kind]))), format)
    assert any("loses" in note and MEANT[kind] in note for note in notes)


def test_the_usual_colour_space_is_not_worth_a_word() -> None:
    primaries = b"".join(n.to_bytes(4, "big") for n in (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    usual = [(b"gAMA", (45455).to_bytes(4, "big")), (b"cHRM", primaries)]
    for chunks in ([*usual], [*usual, (b"sRGB", b"\0")], [(b"sRGB", b"\0")]):
        _, notes = write(restored(png(*chunks)), "JPEG")
        assert not notes


def test_chunks_about_the_old_pixels_are_named() -> None:
    picture = restored(png((b"prVT", b"private, and unsafe to copy"), (b"sBIT", b"\5\6\5")))
    assert picture.notes == ("PNG chunks that depend on the old pixels are dropped: prVT",)
    assert b"prVT" not in chunks_of(write(picture, "PNG")[0])


def test_a_chunk_with_a_wrong_sum_is_not_kept() -> None:
    data = bytearray(png((b"prVt", b"private")))
    at = data.index(b"prVt") + 4
    data[at] ^= 1
    assert load(io.BytesIO(bytes(data))).attachments.chunks == ()


# ------------------------------------------------------------------------------------------------------------------ XMP

PANORAMA = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description GPano:FullPanoWidthPixels="640" '
    b'GPano:FullPanoHeightPixels="480" GPano:CroppedAreaLeftPixels="20" GPano:CroppedAreaTopPixels=\'10\' '
    b'GPano:PoseHeadingDegrees="120" exif:PixelXDimension="64"><tiff:ImageLength>48</tiff:ImageLength>'
    b'<mwg-rs:AppliedToDimensions stDim:w="64" stDim:h="48" stDim:unit="pixel"/>'
    b"<GPano:CroppedAreaImageWidthPixels> 64 </GPano:CroppedAreaImageWidthPixels></rdf:Description></x:xmpmeta>"
)


def test_sizes_in_xmp_follow_the_picture() -> None:
    changed = adapt_sizes(PANORAMA, (64, 48), (192, 96))
    assert changed == (
        PANORAMA.replace(b'"640"', b'"1920"')
        .replace(b'"480"', b'"960"')
        .replace(b'LeftPixels="20"', b'LeftPixels="60"')
        .replace(b"TopPixels='10'", b"TopPixels='20'")
        .replace(b'Dimension="64"', b'Dimension="192"')
        .replace(b"Length>48", b"Length>96")
        .replace(b'stDim:w="64" stDim:h="48"', b'stDim:w="192" stDim:h="96"')
        .replace(b"Pixels> 64 ", b"Pixels> 192 ")
    )
    assert adapt_sizes(PANORAMA, (64, 48), (64, 48)) == PANORAMA and adapt_sizes(None, (1, 1), (2, 2)) is None


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_enlarged_panorama(format: str) -> None:
    data, _ = write(restored(jpeg(xmp=PANORAMA), 3), format)
    packet = load(io.BytesIO(data)).xmp or b""
    assert b'FullPanoWidthPixels="1920"' in packet and b'PoseHeadingDegrees="120"' in packet


def test_thumbnails_in_xmp_are_dropped() -> None:
    packet = b"<a><xmp:Thumbnails><rdf:Alt>old</rdf:Alt></xmp:Thumbnails><b/></a>"
    assert load(io.BytesIO(jpeg(xmp=packet))).xmp == b"<a><b/></a>"


def test_what_exif_gives_in_pixels_follows_the_picture() -> None:
    exif = Image.Exif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[0x9214], details[0xA214], details[0xA20E], details[0xA002] = (30, 20, 10, 8), (30, 20), 3000.0, 64
    picture = restored(jpeg(exif=exif.tobytes()), 2)
    block = Image.Exif()
    block.load(picture.exif or b"")
    found = block.get_ifd(ExifTags.IFD.Exif)
    assert found[0x9214] == (60, 40, 20, 16) and found[0xA214] == (60, 40)
    assert float(found[0xA20E]) == 6000 and found[0xA002] == 128


def placed(orientation: int = 1, area: tuple[int, ...] = (10, 20, 8, 4)) -> bytes:
    """A file whose subject lies where EXIF says, with a dark spot in its middle; before it is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[0x9214], details[0xA214] = area, area[:2]
    stored = np.full((*SIZE, 3), 200, np.uint8)
    stored[area[1], area[0]] = 0
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG", exif=exif.tobytes())
    return buffer.getvalue()


def place_of(picture: Picture) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return the tags SubjectArea and SubjectLocation of a picture."""
    block = Image.Exif()
    block.load(picture.exif or b"")
    details = block.get_ifd(ExifTags.IFD.Exif)
    return details.get(0x9214), details.get(0xA214)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_subject_is_turned_with_its_picture(orientation: int) -> None:
    picture = load(io.BytesIO(placed(orientation)))
    area, location = place_of(picture)
    assert area is not None and location == area[:2]
    assert picture.pixels[area[1], area[0]].tolist() == [0, 0, 0]  # the spot has turned, too
    assert area[2:] == ((4, 8) if orientation >= 5 else (8, 4))


@pytest.mark.parametrize(
    ("region", "area", "location"),
    [
        (Region(4, 10, 30, 30), (6, 10, 8, 4), (6, 10)),
        (Region(10, 18, 20, 20), (2, 2, 4, 4), (0, 2)),  # half of the rectangle lies in it
        (Region(12, 10, 20, 20), (1, 10, 2, 4), None),
        (Region(30, 30, 8, 8), None, None),
    ],
)
def test_the_subject_is_moved_in_a_part_of_its_picture(
    region: Region, area: tuple[int, ...] | None, location: tuple[int, ...] | None
) -> None:
    assert place_of(cut(load(io.BytesIO(placed())), region)) == (area, location)


# ------------------------------------------------------------------------------------- what lies beside the picture

GAIN_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
    b'hdrgm:Version="1.0" dc:title="Sea"><Container:Directory><rdf:Seq><rdf:li><Container:Item Item:Semantic="Primary"'
    b' Item:Mime="image/jpeg"/></rdf:li><rdf:li><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" '
    b'Item:Length="%d"/></rdf:li></rdf:Seq></Container:Directory></rdf:Description></x:xmpmeta>'
)
MAP_XMP = b'<x:xmpmeta><rdf:Description hdrgm:Version="1.0" hdrgm:GainMapMax="2.3"/></x:xmpmeta>'


def gain_map() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(1)[::2, ::2, 0]).save(buffer, "JPEG", xmp=MAP_XMP, quality=95)
    return buffer.getvalue()


def ultra_hdr(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return jpeg(xmp=GAIN_XMP % len(gain_map()), exif=exif.tobytes()) + gain_map()


@pytest.mark.parametrize("factor", [1, 2])
def test_a_gain_map_is_kept_in_a_jpeg(factor: int) -> None:
    data, notes = write(restored(ultra_hdr(), factor), "JPEG")
    assert not notes
    again = load(io.BytesIO(data))
    assert (again.height, again.width) == (48 * factor, 64 * factor)
    kept = again.attachments.gain_map
    with Image.open(io.BytesIO(kept)) as larger, Image.open(io.BytesIO(gain_map())) as smaller:
        assert larger.size == (factor * smaller.width, factor * smaller.height) and b"GainMapMax" in kept
        assert factor > 1 or kept == gain_map()
    assert b'hdrgm:Version="1.0"' in (again.xmp or b"") and b'dc:title="Sea"' in (again.xmp or b"")
    with Image.open(io.BytesIO(data)) as image:
        index = JpegImagePlugin._getmp(image)  # type: ignore[attr-defined]
        entries, base = index[0xB002], image.info["mpoffset"]
    assert entries[0]["Size"] == len(data) - len(kept) == parse_jpeg(data).end  # type: ignore[union-attr]
    start = base + entries[1]["DataOffset"]
    assert data[start:] == kept and entries[1]["Size"] == len(kept)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_gain_map_is_turned_with_its_picture(orientation: int) -> None:
    data, _ = write(restored(ultra_hdr(orientation)), "JPEG")
    again = load(io.BytesIO(data))
    turned = load(io.BytesIO(again.attachments.gain_map))
    with Image.open(io.BytesIO(gain_map())) as image:
        image.getexif()[ExifTags.Base.Orientation] = orientation
        expected = load(io.BytesIO(_with_orientation(image, orientation)))
    assert turned.pixels.shape == expected.pixels.shape
    assert np.abs(turned.pixels.astype(int) - expected.pixels).max() < 12
    assert b"GainMapMax" in again.attachments.gain_map
    assert f'Item:Length="{len(again.attachments.gain_map)}"'.encode() in data


def _with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(buffer, "JPEG", exif=exif.tobytes(), quality=97)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_a_lost_gain_map_is_named_and_no_longer_claimed(format: str) -> None:
    data, notes = write(restored(ultra_hdr()), format)
    assert any("gain map" in note for note in notes)
    packet = load(io.BytesIO(data)).xmp or b""
    assert b"hdrgm:" not in packet.replace(b"xmlns:hdrgm", b"") and b"GainMap" not in packet
    assert b'dc:title="Sea"' in packet


MOTION = (
    b'<x:xmpmeta><rdf:Description GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" dc:title="Sea">'
    b'<Container:Directory><rdf:li><Container:Item Item:Semantic="MotionPhoto"/></rdf:li></Container:Directory>'
    b"</rdf:Description></x:xmpmeta>"
)
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (jpeg(xmp=MOTION) + VIDEO, "a video"),
        (jpeg() + VIDEO, "a video"),
        (jpeg() + gain_map().replace(b"hdrgm", b"other"), "another picture"),
        (jpeg() + 2 * gain_map().replace(b"hdrgm", b"other"), "2 further pictures"),
        (jpeg(xmp=b'<a GDepth:Format="RangeLinear" GDepth:Data="AAAA"/>'), "a depth map"),
        (jpeg() + b"trailing bytes" * 10, "140 bytes after the picture"),
    ],
)
def test_everything_else_beside_the_picture_is_named(data: bytes, name: str) -> None:
    picture = restored(data)
    assert picture.notes == (f"not kept of what lies beside the picture in the file: {name}",)
    packet = picture.xmp or b""
    assert not any(word in packet for word in (b"GCamera", b"Container:", b"GDepth"))
    assert (b"MotionPhoto" not in data) or b'dc:title="Sea"' in packet
    assert parse_jpeg(write(picture, "JPEG")[0]).end == len(write(picture, "JPEG")[0])  # type: ignore[union-attr]


def test_claims_as_elements_are_removed() -> None:
    packet = b"<a><GDepth:Data>AAA</GDepth:Data><b>x</b><GCamera:MicroVideo>1</GCamera:MicroVideo></a>"
    assert remove_claims(packet) == b"<a><b>x</b></a>"
    assert remove_claims(None) is None
    assert remove_claims(GAIN_XMP, keep_gain_map=True) == GAIN_XMP


def test_padding_after_the_picture_is_no_companion() -> None:
    assert restored(jpeg() + bytes(512)).notes == ()


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("format", "longest"), [("WEBP", 16_383), ("JPEG", 65_500), ("GIF", 65_535)])
def test_sizes_that_a_format_cannot_hold_are_known(format: str, longest: int) -> None:
    check_size(format, longest, 1)
    with pytest.raises(UsageError, match=f"{format} cannot hold 1x{longest + 1} pixels"):
        check_size(format, 1, longest + 1)
    buffer = io.BytesIO()
    Image.new("L", (longest, 1)).save(buffer, format)  # the limit is that of the encoder
    with pytest.raises((ValueError, OSError, OverflowError)):
        Image.new("L", (longest + 1, 1)).save(io.BytesIO(), format)


def test_formats_without_a_limit() -> None:
    check_size("PNG", 200_000, 200_000)
    check_size("TIFF", 200_000, 200_000)


def test_a_long_comment_is_cut_and_said() -> None:
    picture = Picture(pixels(), text={"Comment": "x" * 70_000})
    _, notes = write(picture, "JPEG")
    assert notes == ("JPEG cannot hold a comment of 70,000 bytes, so its end is cut off",)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b"<GPano:FullPanoWidthPixels>4000</GPano:FullPanoWidthPixels>",
            b"<GPano:FullPanoWidthPixels>8000</GPano:FullPanoWidthPixels>",
        ),
        (b"a GPano:FullPanoHeightPixels = '2000' b", b"a GPano:FullPanoHeightPixels = '6000' b"),
        (
            b'<mwg-rs:AppliedToDimensions stDim:w="4000" stDim:h="2000"/>',
            b'<mwg-rs:AppliedToDimensions stDim:w="8000" stDim:h="6000"/>',
        ),
        (b'<xmpTPg:MaxPageSize stDim:w="11.0" stDim:h="8.5" stDim:unit="Inches"/>',) * 2,
        (b"<xmpTPg:MaxPageSize><stDim:w>11.0</stDim:w></xmpTPg:MaxPageSize>",) * 2,
        (
            b"<exif:SubjectArea><rdf:Seq><rdf:li>100</rdf:li> <rdf:li>50</rdf:li></rdf:Seq></exif:SubjectArea>",
            b"<exif:SubjectArea><rdf:Seq><rdf:li>200</rdf:li> <rdf:li>150</rdf:li></rdf:Seq></exif:SubjectArea>",
        ),
        (b'GPano:PoseHeadingDegrees="350.0" xmpGImg:width="256"',) * 2,
    ],
)
def test_what_is_in_pixels_grows_and_nothing_else(before: bytes, after: bytes) -> None:
    assert adapt_sizes(before, (4000, 2000), (8000, 6000)) == after
    assert adapt_sizes(before, (4000, 2000), (4000, 2000)) == before
