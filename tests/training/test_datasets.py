"""Training pictures: how they are found, decoded within the memory limit, and cut into crops by the seed alone."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restorer.errors import PictureError
from restorer.training.crops import Augmentation, CropStream
from restorer.training.datasets import Dataset, Source, find_sources

PLAIN = Augmentation(16)


def coordinates(height: int, width: int) -> np.ndarray:
    """Return a picture in which each pixel contains its own position: (row, column, 77)."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.full_like(rows, 77)], axis=-1)


def png_bytes(picture: np.ndarray) -> bytes:
    """Encode a picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    """Write a .tar file with these files in a folder, and return its path."""
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("pictures")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"pictures/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Create a shard of two pictures and a file that is not a picture."""
    pictures = {f"{k}.png": png_bytes(coordinates(*size) * (k + 1)) for k, size in enumerate(((40, 24), (18, 50)))}
    return write_shard(tmp_path / "shard.tar", {**pictures, "list.csv": b"no picture"})


# -- finding -----------------------------------------------------------------------------------------------------------


def test_pictures_are_found_in_shards_and_folders(tmp_path: Path, shard: Path) -> None:
    """Pictures are found at all depths, whatever the case of their suffix, and are decoded as uint8 colour."""
    inner = tmp_path / "folder" / "deeper"
    inner.mkdir(parents=True)
    (inner / "a.PNG").write_bytes(png_bytes(coordinates(20, 17)))
    Image.fromarray(coordinates(16, 16)).save(inner / "b.jpeg")
    Image.fromarray(np.full((19, 18), 50, np.uint8)).save(inner / "c.png")  # gray becomes three channels
    write_shard(inner / "d.tar", {"e.png": png_bytes(coordinates(33, 21))})
    (inner / "notes.txt").write_text("no picture")
    found = find_sources([shard, tmp_path / "folder"], 16)
    assert [(s.height, s.width) for s in found.sources] == [(40, 24), (18, 50), (20, 17), (16, 16), (19, 18), (33, 21)]
    assert (found.unreadable, found.too_small) == (0, 0)
    pictures = [source.read() for source in found.sources]
    assert all(p.dtype == np.uint8 for p in pictures)
    np.testing.assert_array_equal(pictures[0], coordinates(40, 24))
    np.testing.assert_array_equal(pictures[1], coordinates(18, 50) * 2)
    np.testing.assert_array_equal(pictures[4], np.full((19, 18, 3), 50))
    np.testing.assert_array_equal(pictures[5], coordinates(33, 21))


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    """Unreadable files and pictures smaller than a crop are left out, counted, and listed in the summary."""
    (tmp_path / "good.png").write_bytes(png_bytes(coordinates(20, 20)))
    (tmp_path / "small.png").write_bytes(png_bytes(coordinates(15, 40)))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    write_shard(tmp_path / "x.tar", {"broken.jpg": b"\xff\xd8\xff", "fine.png": png_bytes(coordinates(16, 16))})
    found = find_sources([tmp_path], 16)
    assert len(found.sources) == 2 and found.unreadable == 3 and found.too_small == 1
    assert found.summary == "2 pictures, 0 megapixels; 3 unreadable; 1 smaller than a crop"


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    """A picture is turned upright when it is read."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(coordinates(20, 30)).save(tmp_path / "a.png", exif=exif)
    picture = find_sources([tmp_path], 8).sources[0].read()
    np.testing.assert_array_equal(picture, np.rot90(coordinates(20, 30), -1))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    """16-bit values are scaled to 8 bits, not cut off at 255."""
    values = np.arange(400, dtype=np.uint16).reshape(20, 20) * 160
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = find_sources([tmp_path], 8).sources[0].read()
    np.testing.assert_allclose(picture[..., 1].astype(int), values / 257, atol=1)


def test_damaged_metadata_do_not_cost_the_picture(tmp_path: Path) -> None:
    """A JPEG whose EXIF data is random can still be read, in one orientation or the other."""
    rng = np.random.default_rng(0)
    for k in range(40):
        exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + rng.integers(0, 256, 200, dtype=np.uint8).tobytes()
        Image.fromarray(coordinates(20, 30)).save(tmp_path / f"{k}.jpg", exif=exif)
    found = find_sources([tmp_path], 8)
    shapes = {source.read().shape for source in found.sources}
    assert found.unreadable == 0 and len(found.sources) == 40 and shapes <= {(20, 30, 3), (30, 20, 3)}


def test_a_folder_may_be_left_out(tmp_path: Path, shard: Path) -> None:
    """Pictures in the excluded folder are not found."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "samples.png").write_bytes(png_bytes(coordinates(20, 20)))
    assert len(find_sources([tmp_path], 8).sources) == 3
    assert len(find_sources([tmp_path], 8, exclude=tmp_path / "out").sources) == 2


def test_a_broken_shard_in_a_folder_is_counted(tmp_path: Path, shard: Path) -> None:
    """A damaged shard in a folder counts as one unreadable file."""
    (tmp_path / "z.tar").write_bytes(b"no archive")
    found = find_sources([tmp_path], 8)
    assert len(found.sources) == 2 and found.unreadable == 1


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b packed"])
def test_a_shard_that_is_none(tmp_path: Path, content: bytes) -> None:
    """A named file with the suffix .tar that is not an uncompressed archive is an error."""
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(PictureError):
        find_sources([tmp_path / "x.tar"], 8)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    """A missing path and a folder without pictures are errors, each with a message of its own."""
    with pytest.raises(PictureError, match="does not exist"):
        find_sources([tmp_path / "nowhere"], 8)
    with pytest.raises(PictureError, match="no picture to train on"):
        find_sources([tmp_path], 8)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_pictures_that_fit_are_all_decoded(shard: Path) -> None:
    """Pictures that fit into the memory together are not used in rounds."""
    dataset = Dataset(find_sources([shard], 8).sources, 10**6, seed=0)
    assert not dataset.in_rounds and len(dataset.decode_share(0)) == 2


def test_memory_is_bounded_and_everyone_has_a_turn(tmp_path: Path) -> None:
    """Of twelve pictures of 1200 bytes, two are held at a time if there is room for five.

    The other half of the memory is for the next two pictures, which are decoded in the meantime.
    """
    for k in range(12):
        (tmp_path / f"{k:02}.png").write_bytes(png_bytes(np.full((20, 20, 3), k, np.uint8)))
    dataset = Dataset(find_sources([tmp_path], 8).sources, 5 * 1200, seed=3)
    shares = [dataset.decode_share(number) for number in range(60)]
    assert dataset.in_rounds and all(sum(p.nbytes for p in share) <= 5 * 1200 / 2 for share in shares)
    seen = [int(p[0, 0, 0]) for share in shares for p in share]
    assert set(seen) == set(range(12)) and len(seen) == 120
    repeated = Dataset(dataset.sources, 5 * 1200, seed=3).decode_share(7)
    assert [p.tobytes() for p in repeated] == [p.tobytes() for p in shares[7]]
    assert dataset.batches_per_round(4) == 8  # sixteen crops from each of the two pictures


def test_a_file_broken_inside_is_passed_over(tmp_path: Path) -> None:
    """A picture with a valid header and damaged pixels is left out; if no other picture is left, that is an error."""
    whole = png_bytes(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good.png").write_bytes(png_bytes(coordinates(20, 20)))
    found = find_sources([tmp_path], 8)
    assert len(found.sources) == 2  # the header of the damaged picture is valid
    dataset = Dataset(found.sources, 10**6, seed=0)
    assert len(dataset.decode_share(0)) == 1 and len(dataset.broken) == 1
    np.testing.assert_array_equal(dataset.read_example(), coordinates(20, 20))
    (tmp_path / "good.png").unlink()
    with pytest.raises(PictureError, match="can be decoded"):
        dataset.decode_share(0)


def test_no_picture_fits(tmp_path: Path) -> None:
    """A memory limit below the size of the only picture is an error."""
    source = Source(tmp_path / "x.png", 0, 0, 1000, 1000)
    with pytest.raises(PictureError, match="memory"):
        Dataset([source], 10**6, seed=0)


# -- crops -------------------------------------------------------------------------------------------------------------


def make_stream(pictures: list[np.ndarray], augmentation: Augmentation, batch: int, folder: Path) -> CropStream:
    """Write pictures to a folder, and create a stream of crops from them."""
    for k, picture in enumerate(pictures):
        (folder / f"{k}.png").write_bytes(png_bytes(picture))
    return CropStream(Dataset(find_sources([folder], augmentation.crop).sources, 10**8, 0), augmentation, batch, seed=3)


def test_crops_are_windows_turned_and_mirrored(tmp_path: Path) -> None:
    """Each crop is a window of one picture in one of eight orientations; all eight and both pictures occur."""
    pictures = [
        coordinates(40, 24),
        coordinates(30, 50),
        coordinates(10, 100),
    ]  # the last is not high enough for a crop
    batch = next(make_stream(pictures, PLAIN, 64, tmp_path).batches())
    assert batch.shape == (64, 16, 16, 3) and batch.dtype == np.uint8
    orientations, in_second = set(), 0
    for crop in batch.astype(int):
        window = np.mgrid[:16, :16].transpose(1, 2, 0) + crop[..., :2].min((0, 1))
        keys = [(k, flip) for k in range(4) for flip in (False, True)]
        turned = {(k, flip): np.rot90(window, k)[:, ::-1] if flip else np.rot90(window, k) for k, flip in keys}
        matches = [key for key, array in turned.items() if np.array_equal(array, crop[..., :2])]
        assert len(matches) == 1
        orientations.add(matches[0])
        in_second += crop[..., 1].max() >= 24  # only the second picture is that wide
    assert len(orientations) == 8 and 0 < in_second < 64


def test_pictures_are_drawn_by_their_area(tmp_path: Path) -> None:
    """A picture is drawn with a probability proportional to its number of pixels."""
    small, large = np.full((16, 20, 3), 10, np.uint8), np.full((48, 40, 3), 200, np.uint8)  # 320 and 1920 pixels
    batch = next(make_stream([small, large], PLAIN, 3000, tmp_path).batches())
    assert float((batch[:, 0, 0, 0] == 200).mean()) == pytest.approx(6 / 7, abs=0.026)  # four standard errors


def test_crops_are_shrunk_and_lose_their_colour_when_asked(tmp_path: Path) -> None:
    """With probability 1, each crop is converted to the rounded luma, or is shrunk from a larger window."""
    pictures = [coordinates(40, 40)]
    gray = next(make_stream(pictures, replace(PLAIN, gray=1.0), 16, tmp_path).batches())
    assert (gray == gray[..., :1]).all() and gray.std() > 0
    crop = coordinates(40, 40)[:16, :16]
    luma = np.rint(0.299 * crop[..., 0] + 0.587 * crop[..., 1] + 0.114 * crop[..., 2])
    rng = np.random.default_rng(0)
    found = replace(PLAIN, gray=1.0, turn=False).random_crop(crop, rng)
    np.testing.assert_array_equal(found[..., 0], luma)
    small = next(make_stream(pictures, replace(PLAIN, downscale=1.0), 16, tmp_path).batches()).astype(int)
    spans = [np.ptp(crop[..., k]) for crop in small for k in (0, 1)]
    assert max(spans) > 22 and max(spans) <= 32  # shrunk from windows of up to 32 pixels


@pytest.mark.parametrize("memory", [10**8, 5 * 1200])
def test_a_batch_depends_on_its_number_alone(tmp_path: Path, memory: int) -> None:
    """A batch does not depend on the threads or on the first batch of the stream, even if pictures are used in rounds.

    It does depend on the seed.
    """
    for k in range(12):
        picture = np.random.default_rng(k).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        (tmp_path / f"{k:02}.png").write_bytes(png_bytes(picture))
    sources = find_sources([tmp_path], 16).sources

    def make_batches(seed: int, threads: int, first: int, count: int) -> list[np.ndarray]:
        stream = CropStream(Dataset(sources, memory, seed), Augmentation(16, 0.3, 0.1), 4, seed, threads)
        return list(islice(stream.batches(first), count))

    whole = make_batches(1, 1, 0, 30)
    for other, first in ((make_batches(1, 3, 0, 30), 0), (make_batches(1, 2, 13, 17), 13)):
        for expected, found in zip(whole[first:], other, strict=True):
            np.testing.assert_array_equal(expected, found)
    assert not np.array_equal(np.stack(whole), np.stack(make_batches(2, 1, 0, 30)))
    assert len({batch.tobytes() for batch in whole}) == 30


def test_what_goes_wrong_while_batches_are_made_is_heard(tmp_path: Path) -> None:
    """An error in a thread that makes batches is raised where the batches are used."""
    stream = make_stream([coordinates(20, 20)], PLAIN, 2, tmp_path)
    (tmp_path / "0.png").write_bytes(b"gone")
    with pytest.raises(PictureError):
        next(stream.batches())
