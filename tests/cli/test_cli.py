"""Tests of the command line: exit codes, both output streams, and the files that a run leaves on the disk.

Most tests run the command in this process with a cheap prior. Those that need a real process start one.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hub_fixtures import TINY
from PIL import ExifTags, Image, ImageCms
from stubs import Broken, Greedy, Imprecise, Smooth, Spy

from restorer.cli.app import run
from restorer.diffusion.prior import Prior
from restorer.images import writing
from restorer.images.files import load, load_mask
from restorer.images.masks import grow
from restorer.models import load as models_load
from restorer.models.checkpoints import save_model
from restorer.tasks import batching

TESTS = Path(__file__).resolve().parents[1]
VERBS = ["denoise", "inpaint", "upscale"]
SUFFIX = {"denoise": "denoised", "inpaint": "inpainted", "upscale": "x4"}
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def hints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("hint: ")]

    @property
    def notes(self) -> list[str]:
        return [line.removeprefix("note: ") for line in self.err.splitlines() if line.startswith("note: ")]


Restore = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder and clear the environment variables that change the output."""
    monkeypatch.chdir(tmp_path)
    for name in ("RESTORER_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str]) -> Restore:
    """Return a function that runs a command line in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


class Loader:
    """A stand-in for `load_prior` that returns `prior` and counts its calls."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.count = prior, 0

    def __call__(self, *arguments: object) -> Prior:
        self.count += 1
        return self.prior


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Replace the embedded prior by a cheap one."""
    loader = Loader(Smooth())
    monkeypatch.setattr(models_load, "load_prior", loader)
    return loader


def pixels(height: int = 12, width: int = 10, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(60, 196, shape, dtype=np.uint8)


def picture(name: str = "img.png", height: int = 12, width: int = 10, mode: str = "RGB", **options: Any) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels(height, width, 4 if mode == "RGBA" else 3))
    (image if mode == image.mode else image.convert(mode)).save(path, **options)
    return path


def mask(name: str = "m.png", height: int = 12, width: int = 10) -> Path:
    fill = np.zeros((height, width), np.uint8)
    fill[2:5, 3:6] = 255
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(fill).save(path)
    return path


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def tree() -> dict[str, bytes]:
    """Return everything in the folder: the content of every file by its path, and an empty content for a folder."""
    return {p.as_posix(): p.read_bytes() if p.is_file() else b"" for p in sorted(Path().rglob("*"))}


def assert_single_error(outcome: Outcome, code: int) -> None:
    """Check that a run ends with `code`, one error, at most one hint after it, and no result."""
    assert outcome.code == code, outcome.err
    assert len(outcome.errors) == 1 and len(outcome.hints) <= 1, outcome.err
    lines = outcome.err.splitlines()
    assert lines[-1 - len(outcome.hints)] == outcome.errors[0]
    assert "Traceback" not in outcome.err and not outcome.out


def arguments(verb: str, *options: object) -> list[str]:
    """Return a valid command line for `img.png`, with the mask `m.png` if the verb needs one."""
    return [verb, "img.png", *(["--mask", "m.png"] if verb == "inpaint" else []), *map(str, options)]


# ------------------------------------------------------------------------------------------------------ the three verbs


@pytest.mark.parametrize("verb", VERBS)
def test_the_result_lies_beside_the_input(verb: str, restore: Restore, loader: Loader) -> None:
    picture(), mask()
    outcome = restore(*arguments(verb))
    assert outcome.code == 0
    name = f"img_{SUFFIX[verb]}.png"
    assert outcome.out == f"{name}\n"
    assert set(tree()) == {"img.png", "m.png", name}
    assert read(name).shape == ((48, 40, 3) if verb == "upscale" else (12, 10, 3))
    if verb == "inpaint":
        known = read("m.png") == 0
        assert np.array_equal(read(name)[known], read("img.png")[known])
        assert "the mask covers 7.5 % of the picture" in outcome.notes


@pytest.mark.parametrize("verb", VERBS)
def test_steps_and_detail_reach_the_network(verb: str, restore: Restore, loader: Loader) -> None:
    picture(), mask()
    loader.prior = spy = Spy(Smooth())
    assert restore(*arguments(verb, "--steps", 5, "--detail", 1, "--sigma", 10)).code == 0
    assert len(spy.calls) == 5


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_scales(scale: int, restore: Restore, loader: Loader) -> None:
    picture()
    assert restore("upscale", "img.png", "--scale", scale, "-s", 2).out == f"img_x{scale}.png\n"
    with Image.open(f"img_x{scale}.png") as large:
        small = np.asarray(large.resize((10, 12), Image.Resampling.BICUBIC), float)
    assert np.sqrt(((small - read("img.png")) ** 2).mean()) < 1


def test_denoising_with_sigma_0_copies(restore: Restore, loader: Loader) -> None:
    picture(mode="RGBA")
    assert restore("denoise", "img.png", "--sigma", 0).code == 0
    assert np.array_equal(read("img_denoised.png"), read("img.png"))


def test_an_empty_mask_copies_and_says_so(restore: Restore, loader: Loader) -> None:
    picture()
    Image.new("L", (10, 12)).save("m.png")
    outcome = restore(*arguments("inpaint"))
    assert outcome.code == 0 and any("empty" in note for note in outcome.notes)
    assert np.array_equal(read("img_inpainted.png"), read("img.png"))


def test_a_full_mask_works_and_is_warned_of(restore: Restore, loader: Loader) -> None:
    picture()
    Image.new("L", (10, 12), 255).save("m.png")
    outcome = restore(*arguments("inpaint"))
    assert outcome.code == 0 and any("--invert-mask" in note for note in outcome.notes)


def test_the_mask_can_be_inverted(restore: Restore, loader: Loader) -> None:
    picture(), mask()
    assert restore(*arguments("inpaint", "--invert-mask")).code == 0
    kept = read("m.png") == 255
    assert np.array_equal(read("img_inpainted.png")[kept], read("img.png")[kept])
    assert not np.array_equal(read("img_inpainted.png")[~kept], read("img.png")[~kept])


def erased() -> np.ndarray:
    """Write a picture of which a part is transparent, and return that part, bool (H, W)."""
    values = np.random.default_rng(2).integers(0, 256, (12, 10, 4), dtype=np.uint8)
    values[..., 3] = 255
    values[3:6, 2:8, 3] = 0
    Image.fromarray(values).save("img.png")
    return values[..., 3] == 0


@pytest.mark.parametrize("mask", ["alpha", "img.png"])
def test_the_transparency_of_a_picture_as_its_mask(mask: str, restore: Restore, loader: Loader) -> None:
    hole = erased()
    outcome = restore("inpaint", "img.png", "--mask", mask, "--json")
    assert outcome.code == 0
    result = read("img_inpainted.png")
    assert result.shape == (12, 10, 3)  # nothing is transparent any more
    assert np.array_equal(result[~hole], read("img.png")[~hole][:, :3])
    assert not np.array_equal(result[hole], read("img.png")[hole][:, :3])


def test_a_file_named_alpha_is_the_mask(restore: Restore, loader: Loader) -> None:
    hole = erased()
    Image.fromarray(~hole).save("mask.png")
    Path("mask.png").rename("alpha")
    assert restore("inpaint", "img.png", "--mask", "alpha").code == 0
    assert np.array_equal(read("img_inpainted.png")[..., 3] == 0, hole)


def test_a_picture_without_transparency_has_no_holes(restore: Restore, loader: Loader) -> None:
    picture()
    outcome = restore("inpaint", "img.png", "--mask", "alpha")
    assert outcome.code == 0 and any("no transparency" in note for note in outcome.notes)


@pytest.mark.parametrize("pixels", [0, 2])
def test_holes_are_grown_and_recorded(pixels: int, restore: Restore, loader: Loader) -> None:
    picture(), mask()
    assert restore(*arguments("inpaint", "--grow", str(pixels))).code == 0
    kept = ~grow(read("m.png") > 0, pixels)
    changed = (read("img_inpainted.png") != read("img.png")).any(-1)
    assert not changed[kept].any() and changed[~kept].mean() > 0.9
    assert load(Path("img_inpainted.png")).text["restorer"].count(f'"grow":{pixels}') == 1


def test_a_mask_that_says_nothing_is_refused(restore: Restore, loader: Loader) -> None:
    picture("img.png", 64, 64), picture("m.png", 64, 64)
    values = np.random.default_rng(9).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save("m.png")
    outcome = restore(*arguments("inpaint"))
    assert outcome.code == 2 and "nothing in it tells where the holes are" in outcome.errors[0]
    assert not Path("img_inpainted.png").exists()


def test_a_mask_of_the_same_shape_is_resized_and_said(restore: Restore, loader: Loader) -> None:
    picture(), mask(height=24, width=20)
    outcome = restore(*arguments("inpaint"))
    assert outcome.code == 0 and "mask resized from 20x24 to 10x12" in outcome.notes


def test_a_resized_mask_is_writable() -> None:
    assert load_mask(mask(height=24, width=20), (12, 10)).fill.flags.writeable


def test_a_folder_of_masks(restore: Restore, loader: Loader) -> None:
    picture("photos/a.png"), picture("photos/deep/b.jpg"), picture("photos/c.png")
    mask("masks/a.png"), mask("masks/deep/b_mask.png")
    outcome = restore("inpaint", "photos", "-r", "--mask", "masks", "-o", "out/")
    assert outcome.code == 3  # c has no mask
    assert sorted(outcome.out.split()) == ["out/a_inpainted.png", "out/deep/b_inpainted.jpg"]
    assert len(outcome.errors) == 1 and "photos/c.png" in outcome.errors[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (17, 33)])
@pytest.mark.parametrize("verb", VERBS)
def test_any_size(verb: str, size: tuple[int, int], restore: Restore, loader: Loader) -> None:
    picture("img.png", *size)
    Image.new("L", size[::-1], 255).save("m.png")
    assert restore(*arguments(verb)).code == 0
    factor = 4 if verb == "upscale" else 1
    assert read(f"img_{SUFFIX[verb]}.png").shape == (size[0] * factor, size[1] * factor, 3)


@pytest.mark.parametrize(
    "name", ["two words.png", "żółw 🐢.png", "-dash.png", "[1]*?.png", "[red]x[/].png", "a.b.c.png"]
)
def test_odd_names(name: str, restore: Restore, loader: Loader) -> None:
    picture(name)
    outcome = restore("denoise", "--", name)
    stem = name.removesuffix(".png")
    assert outcome.code == 0 and outcome.out == f"{stem}_denoised.png\n"
    assert f"wrote {stem}_denoised.png" in outcome.err
    assert Path(f"{stem}_denoised.png").exists()


def test_colons_in_a_name_are_not_emoji(restore: Restore, loader: Loader) -> None:
    picture("x:warning:.png")
    assert "wrote x:warning:_denoised.png" in restore("denoise", "x:warning:.png").err


# ---------------------------------------------------------------------------------------------------- what is preserved


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("P", "RGB"), ("1", "L")],
)
@pytest.mark.parametrize("verb", VERBS)
def test_modes(verb: str, mode: str, expected: str, restore: Restore, loader: Loader) -> None:
    picture(mode=mode), mask()
    assert restore(*arguments(verb, "--sigma", 5 if verb == "denoise" else 0)).code == 0
    with Image.open(f"img_{SUFFIX[verb]}.png") as image:
        assert image.mode == expected


def test_depth_that_is_lost_is_said(restore: Restore, loader: Loader) -> None:
    Image.fromarray(pixels(channels=1).astype(np.uint16) * 257).save("img.png")
    outcome = restore("denoise", "img.png", "--json", "--sigma", 3, "-o", "out.jpg")
    record = json.loads(outcome.out.splitlines()[0])
    assert record["depth_in"] == 16 and record["depth_out"] == 8
    assert any("rounded to 8 bits" in note for note in outcome.notes) and record["warnings"]
    assert json.loads(restore("denoise", "img.png", "--json", "--sigma", 3).out.splitlines()[0])["depth_out"] == 16


def test_16_bit_colour_stays(restore: Restore, loader: Loader) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels(12, 10).astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", 10, 12, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    Path("img.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    outcome = restore("denoise", "img.png", "--json", "--sigma", 3)
    record = json.loads(outcome.out.splitlines()[0])
    assert (record["depth_in"], record["depth_out"]) == (16, 16) and not outcome.notes
    content = Path("img_denoised.png").read_bytes()
    assert content[24:26] == bytes([16, 2])  # bit depth, and colour type 2 (RGB)


def test_alpha_and_what_it_hides(restore: Restore, loader: Loader) -> None:
    values = pixels(channels=4)
    values[:5, :, 3], values[5:, :, 3] = 0, 200
    Image.fromarray(values).save("img.png")
    assert restore("denoise", "img.png", "--sigma", 30).code == 0
    result = read("img_denoised.png")
    assert np.array_equal(result[..., 3], values[..., 3]) and np.array_equal(result[:5], values[:5])
    assert not np.array_equal(result[5:], values[5:])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_metadata(suffix: str, restore: Restore, loader: Loader) -> None:
    """The colour profile, the camera and the resolution are kept, and the picture is turned upright once."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Maker", 6
    options: dict[str, Any] = {"icc_profile": profile, "exif": exif, "dpi": (300, 300)}
    picture(f"img.{suffix}", height=12, width=20, **options)
    assert restore("denoise", f"img.{suffix}", "--sigma", 10).code == 0
    with Image.open(f"img_denoised.{suffix}") as image:
        image.load()
        assert image.size == (12, 20)
        assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF"}[suffix]
        assert image.info["icc_profile"] == profile
        kept = image.getexif()
        assert kept[ExifTags.Base.Make] == "Maker" and kept.get(ExifTags.Base.Orientation, 1) == 1
        if suffix != "webp":  # WebP has no field for the resolution
            assert tuple(map(float, image.info["dpi"])) == pytest.approx((300, 300), abs=0.02)


def test_another_format_by_the_output_s_suffix(restore: Restore, loader: Loader) -> None:
    picture()
    assert restore("denoise", "img.png", "-o", "out.webp").code == 0
    with Image.open("out.webp") as image:
        assert image.format == "WEBP"


# ---------------------------------------------------------------------------------------------------------- wrong input


def text_as_picture() -> None:
    Path("img.png").write_text("this is no picture\n")


def truncated_jpeg() -> None:
    picture("whole.jpg", 60, 60)
    Path("img.png").write_bytes(Path("whole.jpg").read_bytes()[:900])


def empty_file() -> None:
    Path("img.png").touch()


def nothing() -> None:
    """Make no file."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "does not exist"),
        (text_as_picture, "is not a picture"),
        (truncated_jpeg, "damaged or cut short"),
        (empty_file, "empty (0 bytes)"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_bad_pictures(verb: str, make: Callable[[], None], message: str, restore: Restore, loader: Loader) -> None:
    make(), mask()
    before = tree()
    outcome = restore(*arguments(verb))
    assert_single_error(outcome, 4)
    assert message in outcome.errors[0] and "img.png" in outcome.errors[0]
    assert tree() == before


@pytest.mark.parametrize("make", [text_as_picture, truncated_jpeg, empty_file])
def test_bad_masks(make: Callable[[], None], restore: Restore, loader: Loader) -> None:
    make()
    Path("img.png").rename("m.png")
    picture()
    before = tree()
    outcome = restore(*arguments("inpaint"))
    assert outcome.code == 4 and len(outcome.errors) == 1 and "m.png" in outcome.errors[0]
    assert tree() == before


USAGE = [
    ["denoise", "img.png", "--sigma", "-1"],
    ["denoise", "img.png", "--sigma", "nan"],
    ["denoise", "img.png", "--sigma", "256"],
    ["denoise", "img.png", "--sigma", "inf"],
    ["denoise", "img.png", "--sigma", "x"],
    ["denoise", "img.png", "--steps", "0"],
    ["denoise", "img.png", "--steps", "-1"],
    ["denoise", "img.png", "--steps", "1.5"],
    ["denoise", "img.png", "--steps", "1", "--detail", "0.5"],
    ["denoise", "img.png", "--detail", "2"],
    ["denoise", "img.png", "--detail", "nan"],
    ["denoise", "img.png", "--method", "magic"],
    ["denoise", "img.png", "--seed", "-1"],
    ["denoise", "img.png", "--seed", "x"],
    ["denoise", "img.png", "--tile", "x"],
    ["denoise", "img.png", "--tile", "63"],
    ["denoise", "img.png", "--tile", "-64"],
    ["denoise", "img.png", "--magic"],
    ["denoise", "img.png", "--overwrite", "--skip-existing"],
    ["denoise", "img.png", "--json", "-o", "-"],
    ["denoise", "-", "--json"],
    ["denoise", "img.png", "other.png", "-o", "one.png"],
    ["denoise", "img.png", "other.png", "-o", "-"],
    ["denoise", "photos"],
    ["inpaint", "img.png"],
    ["inpaint", "img.png", "--mask"],
    ["inpaint", "img.png", "--mask", "m.png", "--steps", "0"],
    ["upscale", "img.png", "--scale", "0"],
    ["upscale", "img.png", "--scale", "1"],
    ["upscale", "img.png", "--scale", "9"],
    ["upscale", "img.png", "--scale", "x"],
    ["upscale", "img.png", "--sigma", "-0.5"],
    ["magic", "img.png"],
    ["--magic"],
]


@pytest.mark.parametrize("command", USAGE, ids=" ".join)
def test_usage(command: list[str], restore: Restore, loader: Loader) -> None:
    picture(), picture("other.png"), picture("photos/a.png"), mask()
    before = tree()
    assert_single_error(restore(*command), 2)
    assert tree() == before
    assert loader.count == 0  # the error is found before the model is loaded


@pytest.mark.parametrize(
    "command",
    [
        ["inpaint", "img.png", "--mask", "absent.png"],
        ["inpaint", "absent.png", "--mask", "m.png"],
        ["denoise", "absent.png"],
        ["denoise", "absent/"],
        ["denoise", "none*.png"],
        ["denoise", "-r", "empty"],
    ],
    ids=" ".join,
)
def test_what_is_named_and_absent(command: list[str], restore: Restore, loader: Loader) -> None:
    picture(), mask()
    Path("empty").mkdir()
    before = tree()
    assert_single_error(restore(*command), 4)
    assert tree() == before and loader.count == 0


def test_a_mask_of_another_size(restore: Restore, loader: Loader) -> None:
    picture(), mask(height=10, width=12)
    before = tree()
    outcome = restore(*arguments("inpaint"))
    assert outcome.code == 2 and len(outcome.errors) == 1
    assert "12x10" in outcome.errors[0] and "10x12" in outcome.errors[0]
    assert tree() == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--device", "foo"], 2),
        (["--device", "cpu:1"], 2),
        (["--precision", "fp64"], 2),
        (["--model", "absent"], 5),
        (["--model", "./empty"], 5),
        pytest.param(
            ["--device", "cuda"], 6, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
        ),
        (["--device", "cuda:99"], 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", VERBS)
def test_no_such_device_precision_or_model(verb: str, options: list[str], code: int, restore: Restore) -> None:
    picture(), mask()
    Path("empty").mkdir()
    before = tree()
    assert_single_error(restore(*arguments(verb, *options)), code)
    assert tree() == before


def test_without_a_model_the_other_pictures_are_not_tried(restore: Restore) -> None:
    picture("a.png"), picture("b.png")
    outcome = restore("denoise", "a.png", "b.png", "--model", "absent")
    assert outcome.code == 5 and len(outcome.errors) == 1


@pytest.mark.parametrize(
    "output",
    ["img.png", "./img.png", "there.png", "nowhere/x.png", "/dev/null/x.png", "/dev/null/x/", "folder/../img.png"],
)
def test_places_that_cannot_be_written(output: str, restore: Restore, loader: Loader) -> None:
    picture(), picture("there.png"), picture("folder/a.png")
    before = tree()
    assert_single_error(restore("denoise", "img.png", "-o", output), 7)
    assert tree() == before and loader.count == 0


def test_a_folder_that_is_not_writable(restore: Restore, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    picture()
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    outcome = restore("denoise", "img.png", "-o", "locked")
    assert_single_error(outcome, 7)
    assert "not writable" in outcome.errors[0] and loader.count == 0


def test_a_full_disk(restore: Restore, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_to_write(data: bytes, path: Path) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    picture()
    before = tree()
    monkeypatch.setattr(writing, "_write_synced", fail_to_write)
    outcome = restore("denoise", "img.png")
    assert outcome.code == 7 and len(outcome.errors) == 1 and "disk is full" in outcome.errors[0]
    assert tree() == before


def test_transparency_does_not_go_into_jpeg(restore: Restore, loader: Loader) -> None:
    picture(mode="RGBA")
    before = tree()
    outcome = restore("denoise", "img.png", "-o", "out.jpg")
    assert_single_error(outcome, 2)
    assert "transparency" in outcome.errors[0] and tree() == before


def test_a_format_that_is_not_known(restore: Restore, loader: Loader) -> None:
    picture()
    assert_single_error(restore("denoise", "img.png", "-o", "out.xyz"), 2)


@pytest.mark.parametrize(("name", "output", "code"), [("x" * 300, None, 4), ("img.png", "x" * 300, 7)])
def test_names_too_long(name: str, output: str | None, code: int, restore: Restore, loader: Loader) -> None:
    picture()
    assert_single_error(restore("denoise", name, *(["-o", output] if output else [])), code)


def test_a_glob_of_folders(restore: Restore, loader: Loader) -> None:
    picture("photos/a.png")
    assert restore("denoise", "phot*").code in (2, 4)


def test_a_bug_is_said_to_be_one(restore: Restore, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    picture()
    loader.prior = Broken(ZeroDivisionError("float division by zero"))
    outcome = restore("denoise", "img.png")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert outcome.errors == ["error: ZeroDivisionError: float division by zero"]
    assert "RESTORER_DEBUG" in outcome.hints[0]
    monkeypatch.setenv("RESTORER_DEBUG", "1")
    loader.prior = Broken(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run(["denoise", "img.png"])


def test_help_without_arguments(restore: Restore) -> None:
    for command in ([], ["denoise"]):
        outcome = restore(*command)
        assert outcome.code == 2 and "Usage:" in outcome.out and not outcome.errors


# ------------------------------------------------------------------------------------------------ failures during a run


def test_nan_in_low_precision_is_said(restore: Restore, loader: Loader) -> None:
    picture()
    loader.prior = Imprecise(Smooth())
    outcome = restore("denoise", "img.png", "--json")
    assert outcome.code == 0 and any("fp32" in note for note in outcome.notes)
    assert any("fp32" in warning for warning in json.loads(outcome.out.splitlines()[0])["warnings"])


def test_nan_in_full_precision(restore: Restore, loader: Loader) -> None:
    picture()
    loader.prior = Imprecise(None)
    outcome = restore("denoise", "img.png")
    assert outcome.code == 5 and len(outcome.errors) == 1 and set(tree()) == {"img.png"}


def test_less_memory_than_hoped_for(restore: Restore, loader: Loader) -> None:
    picture(height=200, width=100)
    loader.prior = Greedy(128, OUT_OF_MEMORY, Smooth())
    outcome = restore("denoise", "img.png", "-s", 2, "--json")
    assert outcome.code == 0 and "out of memory: repeated with 100-pixel tiles" in outcome.notes
    assert read("img_denoised.png").shape == (200, 100, 3)


def test_the_record_tells_the_tile_that_was_used(restore: Restore, loader: Loader) -> None:
    picture(height=200, width=100)
    loader.prior = Greedy(128, OUT_OF_MEMORY, Smooth())
    outcome = restore("denoise", "img.png", "-s", 2, "--json")
    assert json.loads(outcome.out.splitlines()[0])["tile"] == 100


def test_too_little_memory(restore: Restore, loader: Loader) -> None:
    picture(height=200, width=100)
    loader.prior = Greedy(10, OUT_OF_MEMORY)
    outcome = restore("denoise", "img.png")
    assert outcome.code == 6 and len(outcome.errors) == 1 and set(tree()) == {"img.png"}


def test_tiles_of_the_user(restore: Restore, loader: Loader) -> None:
    picture(height=100, width=90)
    for tile, sizes in (("64", {(64, 64)}), ("off", {(100, 90)}), ("auto", {(100, 90)})):
        loader.prior = spy = Spy(Smooth())
        assert restore("denoise", "img.png", "--tile", tile, "-s", 2, "--overwrite").code == 0
        assert {tuple(call.x.shape[-2:]) for call in spy.calls} == sizes


@pytest.mark.parametrize("at", [1, 3])
def test_interrupted(at: int, restore: Restore, loader: Loader) -> None:
    picture()
    before = tree()
    loader.prior = Broken(KeyboardInterrupt(), at)
    outcome = restore("denoise", "img.png", "--steps", 4)
    assert outcome.code == 130 and "Traceback" not in outcome.err
    assert not outcome.out and tree() == before


def test_an_interruption_is_said(restore: Restore, loader: Loader) -> None:
    picture()
    loader.prior = Broken(KeyboardInterrupt())
    assert restore("denoise", "img.png").err.endswith("interrupted\n")


def test_interrupted_in_a_batch_what_is_done_stays(
    restore: Restore, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MAX_PIXELS", {})  # restore each picture on its own
    picture("a.png"), picture("b.png"), picture("c.png")
    loader.prior = Broken(KeyboardInterrupt(), at=4)
    outcome = restore("denoise", "a.png", "b.png", "c.png", "--steps", 2)
    assert outcome.code == 130 and outcome.out == "a_denoised.png\n"
    assert set(tree()) == {"a.png", "b.png", "c.png", "a_denoised.png"}


# -------------------------------------------------------------------------------------------------------------- batches


def test_one_bad_file_of_several(restore: Restore, loader: Loader) -> None:
    picture("photos/a.png"), picture("photos/c.png")
    Path("photos/b.png").write_text("no picture")
    outcome = restore("denoise", "photos", "-r", "-o", "out/")
    assert outcome.code == 3
    assert outcome.out.split() == ["out/a_denoised.png", "out/c_denoised.png"]
    assert len(outcome.errors) == 1 and "photos/b.png" in outcome.errors[0]
    assert "2 done, 1 failed, 0 skipped" in outcome.err
    assert loader.count == 1


def test_all_bad_for_one_reason(restore: Restore, loader: Loader) -> None:
    for name in "ab":
        Path(f"{name}.png").write_text("no picture")
    assert restore("denoise", "a.png", "b.png").code == 4
    picture("a.png"), picture("b.png"), picture("a_denoised.png"), picture("b_denoised.png")
    assert restore("denoise", "a.png", "b.png").code == 7


def test_all_bad_for_different_reasons(restore: Restore, loader: Loader) -> None:
    picture("a.png"), picture("a_denoised.png")
    Path("b.png").write_text("no picture")
    assert restore("denoise", "a.png", "b.png").code == 3


def test_a_folder_goes_into_a_folder_however_many_pictures_it_holds(restore: Restore, loader: Loader) -> None:
    picture("photos/a.png")
    restore("denoise", "photos", "-r", "-o", "out")
    assert not Path("out").is_file()


def test_json_of_a_picture_that_is_absent(restore: Restore, loader: Loader) -> None:
    records = [json.loads(line) for line in restore("denoise", "absent.png", "--json").out.splitlines()]
    assert [record["event"] for record in records] == ["result", "summary"] and records[0]["code"] == 4


def test_skip_existing(restore: Restore, loader: Loader) -> None:
    picture("a.png"), picture("b.png")
    Path("a_denoised.png").write_text("left alone")
    outcome = restore("denoise", "a.png", "b.png", "--skip-existing")
    assert outcome.code == 0 and outcome.out == "b_denoised.png\n"
    assert Path("a_denoised.png").read_text() == "left alone"
    assert restore("denoise", "a.png", "b.png", "--skip-existing").code == 0
    assert loader.count == 1  # the second run has nothing to do, so it loads no model


def test_overwrite(restore: Restore, loader: Loader) -> None:
    picture()
    Path("img_denoised.png").write_text("replaced")
    assert restore("denoise", "img.png").code == 7
    assert Path("img_denoised.png").read_text() == "replaced"
    assert restore("denoise", "img.png", "--overwrite").code == 0
    assert read("img_denoised.png").shape == (12, 10, 3)


def test_the_tree_is_mirrored(restore: Restore, loader: Loader) -> None:
    picture("photos/a.png"), picture("photos/deep/er/b.png")
    Path("out").mkdir()
    assert restore("upscale", "photos", "-r", "-o", "out", "--scale", 2, "-s", 1).code == 0
    assert Path("out/a_x2.png").exists() and Path("out/deep/er/b_x2.png").exists()


# ------------------------------------------------------------------------------------------------------- output streams


def test_quiet_prints_paths_only(restore: Restore, loader: Loader) -> None:
    picture("a.png"), picture("b.png")
    outcome = restore("denoise", "a.png", "b.png", "-q")
    assert outcome == (0, "a_denoised.png\nb_denoised.png\n", "")
    outcome = restore("denoise", "a.png", "-q")
    assert outcome.code == 7 and len(outcome.errors) == 1  # errors are printed even with -q


def test_progress_is_plain_lines_where_no_terminal_listens(restore: Restore, loader: Loader) -> None:
    picture()
    outcome = restore("denoise", "img.png", "--steps", 10, "--sigma", 20, "--seed", 3)
    lines = outcome.err.splitlines()
    assert "\x1b" not in outcome.err and "\r" not in outcome.err
    assert lines[0].startswith("denoise img.png · photo · cpu")
    assert "10 steps" in lines[0] and "sigma 20.0" in lines[0] and "seed 3" in lines[0]
    progress = [line for line in lines if line.startswith("img.png: step ")]
    assert len(progress) >= 5 and "step 5/10, 50 %" in "\n".join(progress)
    assert lines[-1].startswith("wrote img_denoised.png · 10x12 · ")


def test_verbose_says_more(restore: Restore, loader: Loader) -> None:
    picture()
    outcome = restore("denoise", "img.png", "--sigma", 20, "-v")
    assert "noise levels (0..255): 20.0 " in outcome.err


FIELDS = {
    "schema": int,
    "event": str,
    "status": str,
    "command": str,
    "input": str,
    "output": str,
    "width": int,
    "height": int,
    "mode": str,
    "depth_in": int,
    "depth_out": int,
    "model": dict,
    "device": str,
    "precision": str,
    "steps": int,
    "method": str,
    "detail": float,
    "seed": int,
    "sigma": float,
    "tile": int,
    "overlap": int,
    "seconds": float,
    "warnings": list,
}


@pytest.mark.parametrize("verb", VERBS)
def test_json(verb: str, restore: Restore, loader: Loader) -> None:
    picture("café.png"), mask()
    mask_options = ["--mask", "m.png"] if verb == "inpaint" else []
    options = ["--json", "--steps", 3, "--detail", 0.25, "--seed", 9, "--sigma", 12.5, "--method", "ddim"]
    outcome = restore(verb, "café.png", *mask_options, *options)
    assert outcome.code == 0
    result, summary = (json.loads(line) for line in outcome.out.splitlines())
    for name, kind in FIELDS.items():
        assert isinstance(result[name], kind), name
    factor = 4 if verb == "upscale" else 1
    expected = {
        "schema": 1,
        "event": "result",
        "status": "ok",
        "command": verb,
        "input": "café.png",
        "output": f"café_{SUFFIX[verb]}.png",
        "width": 10 * factor,
        "height": 12 * factor,
        "mode": "RGB",
        "depth_in": 8,
        "depth_out": 8,
        "device": "cpu",
        "precision": "fp32",
        "steps": 3,
        "method": "ddim",
        "detail": 0.25,
        "seed": 9,
        "sigma": 12.5,
    }
    assert expected.items() <= result.items()
    assert result["model"]["id"] == "photo"
    assert summary.pop("seconds") >= 0
    counts = {"ok": 1, "failed": 0, "skipped": 0, "passed_over": {}}
    assert summary == {"schema": 1, "event": "summary", **counts, "exit_code": 0}
    assert "step" in outcome.err  # the progress goes to standard error


def test_json_of_a_batch(restore: Restore, loader: Loader) -> None:
    picture("a.png"), picture("c.png"), picture("c_denoised.png")
    Path("b.png").write_text("no picture")
    outcome = restore("denoise", "a.png", "b.png", "c.png", "--json", "--skip-existing", "-q")
    *records, summary = (json.loads(line) for line in outcome.out.splitlines())
    assert outcome.code == 3
    statuses = {record["input"]: record["status"] for record in records}
    assert statuses == {"a.png": "ok", "b.png": "failed", "c.png": "skipped"}
    [failed] = [record for record in records if record["status"] == "failed"]
    assert failed["code"] == 4 and "is not a picture" in failed["error"] and failed["hint"]
    assert summary["event"] == "summary" and summary["exit_code"] == 3
    assert (summary["ok"], summary["failed"], summary["skipped"]) == (1, 1, 1)


# -------------------------------------------------------------------------------------------- standard input and output


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Any]:
    """Return a function that runs a command line with bytes on standard input.

    The function returns the exit code, the bytes on standard output and the text on standard error.
    """

    def call(data: bytes, *command: object) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsysbinary.readouterr()
        code = run([str(a) for a in command])
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return call


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_pipe_gives_the_bytes_of_a_file(suffix: str, pipe: Callable[..., Any], loader: Loader) -> None:
    path = picture(f"img.{suffix}")
    assert pipe(b"", "denoise", path)[0] == 0
    code, out, err = pipe(path.read_bytes(), "denoise", "-")
    assert code == 0 and "step" in err
    held, expected = (load(source) for source in (io.BytesIO(out), Path(f"img_denoised.{suffix}")))
    assert np.array_equal(held.pixels, expected.pixels) and (held.format, held.dpi) == (expected.format, expected.dpi)
    assert set(tree()) == {f"img.{suffix}", f"img_denoised.{suffix}"}


def test_a_file_to_standard_output_and_back_into_a_file(pipe: Callable[..., Any], loader: Loader) -> None:
    path = picture()
    code, out, _ = pipe(b"", "upscale", path, "--scale", 2, "-o", "-")
    assert code == 0 and Image.open(io.BytesIO(out)).size == (20, 24)
    code, nothing, _ = pipe(out, "denoise", "-", "-o", "out.png", "-q")
    assert code == 0 and nothing == b"out.png\n" and read("out.png").shape == (24, 20, 3)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_rubbish_on_standard_input(data: bytes, pipe: Callable[..., Any], loader: Loader) -> None:
    code, out, err = pipe(data, "denoise", "-")
    assert code == 4 and out == b"" and err.count("error: ") == 1 and "standard input" in err


def test_a_mask_for_standard_input(pipe: Callable[..., Any], loader: Loader) -> None:
    data = picture().read_bytes()
    mask()
    code, out, _ = pipe(data, "inpaint", "-", "--mask", "m.png")
    known = read("m.png") == 0
    assert code == 0 and np.array_equal(np.asarray(Image.open(io.BytesIO(out)))[known], read("img.png")[known])


def test_a_picture_on_standard_output_is_alone_there(pipe: Callable[..., Any], loader: Loader) -> None:
    data = picture().read_bytes()
    picture("other.png")
    code, out, _ = pipe(data, "denoise", "-", "other.png")
    assert code == 2 or b"other_denoised.png" not in out


# ------------------------------------------------------------------------------------------------------- the real prior


def test_the_same_command_gives_the_same_bytes(restore: Restore) -> None:
    picture(height=24, width=20), mask(height=24, width=20)
    for verb in VERBS:
        command = arguments(verb, "--steps", 2, "--overwrite", "--device", "cpu")
        results = set()
        for _ in range(2):
            assert restore(*command).code == 0
            results.add(Path(f"img_{SUFFIX[verb]}.png").read_bytes())
        assert len(results) == 1


def test_precisions_and_a_model_by_its_path(restore: Restore) -> None:
    picture(height=16, width=16)
    for precision in ("fp32", "bf16"):
        options = ["--model", models_load.weights_folder(), "--precision", precision, "--device", "cpu", "--overwrite"]
        outcome = restore("denoise", "img.png", "--json", "--steps", 2, *options)
        assert outcome.code == 0 and json.loads(outcome.out.splitlines()[0])["precision"] == precision


# ------------------------------------------------------------------------------------------------------- real processes

STUBBED = """
import sys
from restorer.models import load as models_load
from stubs import Smooth
models_load.load_prior = lambda *arguments: Smooth()
from restorer.cli.app import main
main()
"""
SLOW = STUBBED.replace("Smooth()", "Slow()").replace(
    "from stubs import Smooth",
    """
import time
from pathlib import Path
from stubs import Wrapper
class Slow(Wrapper):
    def predict(self, *arguments):
        Path("begun").touch()
        time.sleep(60)
        return super().predict(*arguments)
""",
)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def process(*command: str, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "surrogateescape"}
    # A shell that runs the tests in the background makes them ignore Ctrl-C, and the process under test inherits that.
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    arguments: dict[str, Any] = {**pipes, **interruptible, **options}
    return subprocess.Popen([sys.executable, *command], env=environment(), **arguments)


def finished(*command: str) -> Outcome:
    running = process(*command)
    out, err = running.communicate(timeout=300)
    return Outcome(running.returncode, out, err)


def test_the_three_commands() -> None:
    """The commands of the README work as they are written there, with the embedded prior."""
    photograph = Path(__file__).parents[1] / "images" / "gates.jpg"
    Image.open(photograph).resize((24, 24), Image.Resampling.BICUBIC).save("img.png")
    mask("m.png", 24, 24)
    commands = [["denoise", "img.png"], ["inpaint", "img.png", "--mask", "m.png"]]
    commands += [["upscale", "img.png", "--steps", "100"]]
    for command in commands:
        outcome = finished("-m", "restorer", *command)
        name = f"img_{SUFFIX[command[0]]}.png"
        assert outcome.code == 0 and outcome.out == f"{name}\n", outcome.err
        assert "Traceback" not in outcome.err and "Warning" not in outcome.err
    assert "100 steps" in outcome.err
    assert set(tree()) == {"img.png", "m.png", "img_denoised.png", "img_inpainted.png", "img_x4.png"}
    assert read("img_denoised.png").shape == (24, 24, 3)
    known = read("m.png") == 0
    assert np.array_equal(read("img_inpainted.png")[known], read("img.png")[known])
    with Image.open("img_x4.png") as large:
        assert large.size == (96, 96)
        small = np.asarray(large.resize((24, 24), Image.Resampling.BICUBIC), float)
    assert np.sqrt(((small - read("img.png")) ** 2).mean()) < 1


def test_help_does_not_import_pytorch() -> None:
    script = """
import sys
from restorer.cli.app import run
for command in ([], ["denoise"], ["inpaint"], ["upscale"]):
    assert run([*command, "--help"]) == 0
assert run(["--version"]) == 0
assert run(["denoise", "absent.png"]) == 4
assert run(["denoise", "absent.png", "--steps", "0"]) == 2
heavy = {"torch", "numpy", "PIL", "torchvision", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import restorer
assert restorer.__all__ and not heavy & set(sys.modules)
"""
    outcome = finished("-c", script)
    assert outcome.code == 0, outcome.err
    for word in ("denoise", "inpaint", "upscale", "--mask", "--steps", "--scale", "--sigma"):
        assert word in outcome.out


def test_restoring_does_not_import_pytorchs_compiler() -> None:
    """A run must not import PyTorch's compiler, which takes as long as a small picture.

    Some operations import it, such as drawing weights on the meta device.
    """
    torch.manual_seed(0)
    save_model(Path("model"), TINY.network.build(), TINY, torch.float32)
    picture(height=48, width=48)
    script = """
import sys
from restorer.cli.app import run
import torch
for model in ("photo", "model"):
    for scale in ([], ["--scale", "2"]):
        verb = "upscale" if scale else "denoise"
        assert run([verb, "img.png", *scale, "--model", model, "--steps", "1", "--overwrite"]) == 0
compiler = {"torch._dynamo", "torch._inductor"}
if torch.__version__ >= (2, 13):  # earlier versions import sympy for the shapes of tensors on the meta device
    compiler.add("sympy")
assert not compiler & set(sys.modules), compiler & set(sys.modules)
"""
    outcome = finished("-c", script)
    assert outcome.code == 0, outcome.err


@pytest.fixture
def terminable() -> Iterator[subprocess.Popen[str]]:
    """Start a run and wait until it is sampling."""
    picture("a.png")
    running = process("-c", SLOW, "denoise", "a.png", "-o", "out.png")
    deadline = time.monotonic() + 120
    while not Path("begun").exists():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    Path("begun").unlink()
    yield running
    running.kill()
    running.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(terminable: subprocess.Popen[str], number: int, code: int) -> None:
    terminable.send_signal(number)
    out, err = terminable.communicate(timeout=60)
    assert terminable.returncode == code
    assert out == "" and "Traceback" not in err
    assert set(tree()) == {"a.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
@pytest.mark.parametrize("options", [["-q"], ["-o", "-"]], ids=" ".join)
def test_a_closed_pipe_is_no_error(options: list[str]) -> None:
    picture(height=200, width=200)
    running = process("-c", STUBBED, "denoise", "img.png", "--steps", "1", *options)
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(timeout=120) == 0, err
    assert "Traceback" not in err and "error" not in err and "Exception" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not text")
def test_a_name_that_is_no_text() -> None:
    picture()
    Path("img.png").rename(os.fsdecode(b"caf\xe9.png"))
    outcome = finished("-c", STUBBED, "denoise", os.fsdecode(b"caf\xe9.png"), "--steps", "1", "-o", "out/", "-q")
    assert outcome.code == 0, outcome.err
