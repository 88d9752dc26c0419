"""A thousand damaged pictures and masks on the command line: each is restored completely or rejected in one line.

A failure names the file, which `mutations.mutant(seed)` makes again.
"""

from __future__ import annotations

import faulthandler
import io
import json
import math
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from mutations import BOXED_SUFFIXES, mutant
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.errors import PictureError
from restorer.folders.manifest import MANIFEST
from restorer.images.files import Picture, load, load_mask, to_tensor, with_record, with_result
from restorer.images.metadata import read_resolution
from restorer.images.writing import save
from restorer.models import load as models_load

resource = pytest.importorskip("resource", reason="only POSIX reports the peak memory")

BATCH = 50
MAX_PIXELS = 20_000
# Bytes; a picture of MAX_PIXELS needs a hundredth of that, and one with a false size in its header more than all of it.
MAX_MEMORY = 300e6
LINE = re.compile(
    r"error: |hint: |note: |denoise |inpaint |upscale |wrote out/|.+: step |\d+ done, \d+ failed, 0 skipped in "
)
# Messages about files that are intact but unsuitable, which are usage errors.
USAGE = re.compile(
    r"cannot hold the picture's transparency|: the mask is \d+x\d+, but the picture is \d+x\d+$|where the holes are$"
)
Call = Callable[[list[str]], tuple[int, str, str]]
VERBS = {
    "denoise": ["denoise", "in", "--steps", "2"],
    "upscale": ["upscale", "in", "--scale", "2", "--steps", "2"],
    "inpaint a picture": ["inpaint", "in", "--mask", "mask.png", "--steps", "2"],
    "inpaint by a mask": ["inpaint", "in", "--mask", "masks", "--steps", "2"],
}


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, with a stub in place of the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the process with a traceback if a decoder hangs, because no exception can interrupt a decoder."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        terminal = os.dup(2)
    faulthandler.dump_traceback_later(60 + BATCH, exit=True, file=terminal)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(terminal)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command and returns its exit code, standard output and standard error."""

    def restore(arguments: list[str]) -> tuple[int, str, str]:
        capfd.readouterr()
        return run(arguments), *capfd.readouterr()  # includes the output of decoders written in C

    return restore


def peak_memory() -> int:
    """Return the peak memory of the process in bytes."""
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def read_tree(*excluded: str) -> dict[str, bytes]:
    """Return the content of all files in the working directory, except in the excluded folders."""
    files = (path for path in Path().rglob("*") if path.is_file() and path.parts[0] not in excluded)
    return {str(path): path.read_bytes() for path in files}


def write_batch(verb: str, seeds: range) -> None:
    """Write the pictures and the masks of a batch, of which either the pictures or the masks are damaged."""
    for name in ("in", "masks"):
        Path(name).mkdir()
    fill = np.zeros((11, 14), np.uint8)
    fill[2:5, 6:9] = 255
    Image.fromarray(fill).save("mask.png")
    good = np.random.default_rng(0).integers(40, 200, (11, 14, 3), dtype=np.uint8)
    for seed in seeds:
        made = mutant(seed, masks=verb == "inpaint by a mask")
        if verb == "inpaint by a mask":
            Path("masks", made.name).write_bytes(made.data)
            Image.fromarray(good).save(Path("in", made.name).with_suffix(".png"))
        else:
            Path("in", made.name).write_bytes(made.data)


def find_faults(verb: str, seeds: range, call: Call) -> list[str]:
    """Return what goes wrong with the damaged files of the seeds, starting from an empty working directory."""
    write_batch(verb, seeds)
    before, memory = read_tree(), peak_memory()
    code, out, err = call([*VERBS[verb], "-r", "-o", "out", "--max-pixels", str(MAX_PIXELS), "--json"])
    found = [f"{verb} {seeds}: unexpected line on standard error: {line}" for line in unexpected_lines(err)]
    records = [json.loads(line) for line in out.splitlines()]
    results = {record["input"]: record for record in records if record["event"] == "result"}
    if peak_memory() - memory > MAX_MEMORY:
        found.append(f"{verb} {seeds}: {(peak_memory() - memory) / 1e6:.0f} MB of additional memory")
    if read_tree("out") != before:
        found.append(f"{verb} {seeds}: a file outside the output folder has changed")
    codes = {record.get("code", 0) for record in results.values()}
    if code != (codes.pop() if len(codes) == 1 else 3):
        found.append(f"{verb} {seeds}: exit code {code}: {err[-300:]}")
    written = {str(path) for path in Path("out").rglob("*") if not path.name.startswith(MANIFEST)}
    if written != {record["output"] for record in results.values() if record["status"] == "ok"}:
        found.append(f"{verb} {seeds}: the output folder does not contain exactly the reported results")
    # A file with the suffix of an optional format that does not begin as such files do is passed over.
    passed_over = {record["input"] for record in records if record["event"] == "passed_over"}
    for path in sorted(Path("in").iterdir()):
        if str(path) in passed_over and path.suffix in BOXED_SUFFIXES.values():
            continue
        if fault := describe_fault(verb, path, results.get(str(path))):
            found.append(f"{verb} {path}: {fault}")
    return found


def unexpected_lines(err: str) -> list[str]:
    """Return the lines that are no known message or that contain control characters."""
    return [line for line in err.splitlines() if not LINE.match(line) or not line.isprintable()]


def describe_fault(verb: str, path: Path, record: dict[str, Any] | None) -> str:
    """Return what is wrong with one result; '' if nothing is."""
    if record is None:
        return "no record"
    if record["status"] != "ok":
        usage = record["code"] == 2 and USAGE.search(record["error"])
        if record["code"] == 4 and not is_broken(mask_path(path) if verb == "inpaint by a mask" else path):
            return f"rejected, although it can be read: {record['error']}"
        return "" if record["code"] == 4 or usage else f"{record['code']}: {record['error']}"
    try:
        result = load(Path(record["output"]))
    except PictureError as error:
        return f"the result cannot be read: {error}"
    picture = load(path, MAX_PIXELS)
    factor = 2 if verb == "upscale" else 1
    if (result.height, result.width) != (factor * picture.height, factor * picture.width):
        return f"{picture.width}x{picture.height} became {result.width}x{result.height}"
    if verb.startswith("inpaint") and not keeps_known_pixels(verb, path, picture, result):
        return "pixels outside the mask have changed"
    return ""


def is_broken(path: Path) -> bool:
    """Return whether a file cannot be read."""
    try:
        load(path, MAX_PIXELS)
    except PictureError:
        return True
    return False


def mask_path(path: Path) -> Path:
    """Return the mask of a picture."""
    return next(Path("masks").glob(f"{path.stem}.*"))


def keeps_known_pixels(verb: str, path: Path, picture: Picture, result: Picture) -> bool:
    """Return whether the pixels that are not filled are unchanged, or the format cannot hold them exactly."""
    if result.lossy or result.pixels.dtype != picture.pixels.dtype or result.pixels.shape != picture.pixels.shape:
        return True
    mask = mask_path(path) if verb == "inpaint by a mask" else Path("mask.png")
    fill = load_mask(mask, (picture.height, picture.width), picture=picture).fill
    return np.array_equal(result.pixels[~fill], picture.pixels[~fill], equal_nan=picture.pixels.dtype.kind == "f")


@pytest.mark.parametrize("batch", range(5))
@pytest.mark.parametrize("verb", VERBS)
def test_broken_files_are_restored_whole_or_refused_in_one_line(verb: str, batch: int, call: Call) -> None:
    first = (5 * list(VERBS).index(verb) + batch) * BATCH
    assert find_faults(verb, range(first, first + BATCH), call) == []


def test_some_of_both() -> None:
    """The mutations are strong enough to damage some files, and weak enough to leave others readable."""
    for seed in range(200):
        Path(mutant(seed).name).write_bytes(mutant(seed).data)
    assert 40 < sum(is_broken(path) for path in Path().iterdir()) < 160


# -------------------------------------------------------------------------------------- errors that the mutations found


def encode_with_tifffile(values: np.ndarray, **options: Any) -> bytes:
    """Return a TIFF file that tifffile writes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **({"photometric": "minisblack"} | options))
    return buffer.getvalue()


def set_tag(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF file with another value of a tag that is stored in the directory itself."""
    changed, (start,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<H" if data[at + 2] == 3 else "<I", changed, at + 8, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


GRAY = np.random.default_rng(0).random((5, 7))
WORDS = np.random.default_rng(0).integers(-30000, 30000, (5, 7))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("values", [GRAY.astype(np.float32), WORDS.astype(np.int32), WORDS.astype(np.int16)])
def test_packed_numbers_of_either_byte_order(values: np.ndarray, compression: str | None, order: str) -> None:
    """Numbers are read correctly although Pillow reverses big-endian numbers that libtiff has already reversed."""
    data = encode_with_tifffile(values, compression=compression, byteorder=order)
    np.testing.assert_array_equal(load(io.BytesIO(data)).pixels, values)


@pytest.mark.parametrize("exif", [None, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"])
@pytest.mark.parametrize("values", [GRAY.astype(np.float32), WORDS.astype(np.int32)])
def test_what_is_written_is_not_turned_round_by_pillow(values: np.ndarray, exif: bytes | None) -> None:
    buffer = io.BytesIO()
    save(with_record(replace(load(io.BytesIO(encode_with_tifffile(values))), exif=exif), "{}"), buffer, "tiff")
    with Image.open(buffer) as image:
        np.testing.assert_array_equal(np.asarray(image), values)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(buffer.getvalue())), values)


def test_bytes_with_a_sign() -> None:
    values = np.array([[-128, -1, 0], [1, 5, 127]], np.int8)
    np.testing.assert_array_equal(load(io.BytesIO(encode_with_tifffile(values))).pixels, values)


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_a_tiff_with_fewer_samples_than_its_colours_need(samples: int) -> None:
    data = encode_with_tifffile(np.zeros((4, 4, 3), np.float32), photometric="rgb")
    with pytest.raises(PictureError):
        load(io.BytesIO(set_tag(data, 277, samples)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_as_far_apart_as_floats_can_be(kind: type[np.floating]) -> None:
    """The difference between two values may exceed the range of 32-bit floats."""
    values = np.array([[-3e38, 3e38, 0, np.nan, np.inf, -np.inf]], kind)
    picture = load(io.BytesIO(encode_with_tifffile(values)))
    tensor = to_tensor(picture)
    np.testing.assert_allclose(tensor.numpy()[0, 0], [0, 1, 0.5, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(with_result(picture, tensor).pixels[0, :2], values[0, :2], rtol=1e-6)


@pytest.mark.parametrize("dpi", [(300.0, math.nan), (math.nan, 300.0), (math.nan, math.nan), (300.0, math.inf)])
def test_a_resolution_that_is_no_number(dpi: tuple[float, float]) -> None:
    assert read_resolution(dpi, None) is None
    assert read_resolution((300.0, 150.0), None) == (300.0, 150.0)


def test_libraries_keep_their_remarks_to_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither Pillow's log messages nor those of libtiff, which is written in C, reach standard error."""
    packed = encode_with_tifffile(np.zeros((40, 40), np.uint8), compression="deflate")
    at = packed.index(b"\x78", 8)
    damaged = packed[:at] + bytes(9) + packed[at + 9 :]
    for data in (damaged, set_tag(encode_with_tifffile(np.zeros((4, 4, 3), np.uint8), photometric="rgb"), 277, 2048)):
        with pytest.raises(PictureError):
            load(io.BytesIO(data))
    os.write(2, b"still here")
    assert capfd.readouterr() == ("", "still here")
