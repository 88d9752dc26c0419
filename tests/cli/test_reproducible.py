"""The command in the record of a result makes the same bytes again: for every verb and option, and all that is written.

The pictures are small, and the prior is the embedded one, with the threads of this process.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image, ImageFilter

from restorer.cli.app import app, run
from restorer.folders.provenance import Record, parse_record
from restorer.images.files import load
from restorer.images.metadata import RECORD
from restorer.models.load import DECOMPRESSING, ENLARGING, expert_sha256, weights_folder, weights_sha256

SIDE = 40
QUICK = ("--steps", "2")


IMAGES = Path(__file__).parents[1] / "images"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures that the commands name."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIDE, :SIDE]
    plane = 120 + 50 * np.sin(x / 5) * (y > SIDE / 2) + 30 * (x > y)
    clean = np.stack([plane, 0.8 * plane, 0.6 * plane], -1)

    def image(values: np.ndarray) -> Image.Image:
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))

    noisy = image(clean + 20 * rng.normal(size=clean.shape))
    noisy.save(folder / "white.png")
    noisy.convert("L").save(folder / "gray.png")
    Image.fromarray(np.asarray(noisy.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    noisy.save(folder / "compressed.jpg", quality=30)
    noisy.save(folder / "-hyphen.png")
    noisy.save(folder / "a name's [odd].png")
    side = 96
    coarse = rng.normal(size=(side // 2, side // 2, 3)).repeat(2, 0).repeat(2, 1)
    image(110 + np.mgrid[:side, :side][0][..., None] / 2 + 16 * coarse).save(folder / "camera.png")
    image(clean).save(folder / "clean.png")
    transparent = noisy.copy()
    transparent.putalpha(image(255.0 * (np.hypot(x - 20, y - 20) < 15)))
    transparent.save(folder / "alpha.png")
    salted, drawn = clean + 0, rng.random((SIDE, SIDE, 1))
    image(np.where(drawn < 0.02, 0, np.where(drawn < 0.04, 255, salted))).save(folder / "salted.png")
    photograph = Image.open(IMAGES / "gates.jpg").convert("RGB").resize((60, 48), Image.Resampling.BICUBIC)
    photograph.filter(ImageFilter.GaussianBlur(1)).save(folder / "soft.png")
    square = np.zeros((side, side))
    square[30:52, 34:56] = 255
    image(square).save(folder / "square.png")
    hole = np.zeros((SIDE, SIDE))
    hole[10:30, 18:22] = 255
    image(hole).save(folder / "mask.png")
    kernel = np.zeros((5, 5))
    kernel[2] = 255
    image(kernel).save(folder / "kernel.png")
    return folder


CASES: dict[str, tuple[str, ...]] = {
    # denoise: what is measured, and what is named
    "white noise": ("denoise", "white.png"),
    "white noise that is named": ("denoise", "white.png", "--sigma", "20"),
    "white noise alone": ("denoise", "white.png", "--noise", "white", "--strength", "0.8"),
    "camera noise": ("denoise", "camera.png", "--noise", "camera", *QUICK),
    "camera noise by itself": ("denoise", "camera.png", *QUICK),
    "a JPEG": ("denoise", "compressed.jpg", *QUICK),
    "a JPEG as it is": ("denoise", "compressed.jpg", "--jpeg", "off", *QUICK),
    "gray": ("denoise", "gray.png", "--sigma", "15", *QUICK),
    "16 bits": ("denoise", "deep.png", "--sigma", "15", *QUICK),
    "transparency": ("denoise", "alpha.png", "--sigma", "15", *QUICK),
    "detail 0": ("denoise", "white.png", "--sigma", "20", "--detail", "0"),
    "detail 1": ("denoise", "white.png", "--sigma", "20", "--detail", "1", *QUICK),
    "ddpm and a seed": ("denoise", "white.png", "--sigma", "20", "--method", "ddpm", "--seed", "7", *QUICK),
    "langevin": ("denoise", "white.png", "--sigma", "20", "--method", "langevin", *QUICK),
    "fp32": ("denoise", "white.png", "--sigma", "20", "--precision", "fp32", *QUICK),
    "bf16": ("denoise", "white.png", "--sigma", "20", "--precision", "bf16", *QUICK),
    "tiles": ("denoise", "camera.png", "--sigma", "15", "--tile", "64", *QUICK),
    "no tiles": ("denoise", "white.png", "--sigma", "20", "--tile", "off", *QUICK),
    "a region": ("denoise", "white.png", "--sigma", "20", "--region", "3,5,24,16", *QUICK),
    "a region of a measured picture": ("denoise", "white.png", "--region", "3,5,24,16", *QUICK),
    "webp": ("denoise", "white.png", "--sigma", "20", "--format", "webp", "--quality", "70", *QUICK),
    "jpeg": ("denoise", "white.png", "--sigma", "20", "--format", "jpeg", *QUICK),
    "tiff": ("denoise", "white.png", "--sigma", "20", "--format", "tiff", *QUICK),
    "avif": ("denoise", "white.png", "--sigma", "20", "--format", "avif", "--quality", "60", *QUICK),
    "a map": ("denoise", "white.png", "--sigma", "20", "--uncertainty", "map.png", *QUICK),
    "a map of camera noise": ("denoise", "camera.png", "--noise", "camera", "--uncertainty", "map.png", *QUICK),
    "samples": ("denoise", "white.png", "--sigma", "20", "--method", "ddpm", "--samples", "3", *QUICK),
    "a hyphen": ("denoise", "./-hyphen.png", "--sigma", "20", *QUICK),
    "an odd name": ("denoise", "a name's [odd].png", "--sigma", "20", *QUICK),
    "outliers": ("denoise", "salted.png", *QUICK),
    "outliers beside noise": ("denoise", "salted.png", "--sigma", "5", *QUICK),
    "outliers as they are": ("denoise", "white.png", "--outliers", "off", *QUICK),
    # dejpeg
    "dejpeg": ("dejpeg", "compressed.jpg", *QUICK),
    "dejpeg with a map": ("dejpeg", "compressed.jpg", "--uncertainty", "map.png", "--detail", "1", *QUICK),
    "dejpeg of a region": ("dejpeg", "compressed.jpg", "--region", "8,8,16,16", *QUICK),
    # deblur
    "gaussian": ("deblur", "clean.png", "--gaussian", "1.2", "--sigma", "2", *QUICK),
    "motion": ("deblur", "clean.png", "--motion", "7@30", *QUICK),
    "defocus with a map": ("deblur", "clean.png", "--defocus", "2", "--uncertainty", "map.png", *QUICK),
    "a kernel": ("deblur", "clean.png", "--kernel", "kernel.png", *QUICK),
    "a blurred JPEG": ("deblur", "compressed.jpg", "--gaussian", "1", *QUICK),
    # inpaint
    "holes": ("inpaint", "clean.png", "--mask", "mask.png", *QUICK),
    "grown holes": ("inpaint", "clean.png", "--mask", "mask.png", "--grow", "2", *QUICK),
    "other holes": ("inpaint", "clean.png", "--mask", "mask.png", "--invert-mask", *QUICK),
    "noisy holes": ("inpaint", "white.png", "--mask", "mask.png", "--sigma", "20", *QUICK),
    "erased holes": ("inpaint", "alpha.png", "--mask", "alpha", *QUICK),
    "holes with a map": ("inpaint", "clean.png", "--mask", "mask.png", "--uncertainty", "map.png", *QUICK),
    "holes with samples": ("inpaint", "clean.png", "--mask", "mask.png", "--samples", "2", *QUICK),
    "holes of a region": ("inpaint", "clean.png", "--mask", "mask.png", "--region", "4,4,24,24", *QUICK),
    "repaint": ("inpaint", "clean.png", "--mask", "mask.png", "--method", "repaint", "--steps", "3"),
    "a wide hole": ("inpaint", "camera.png", "--mask", "square.png"),
    "a wide hole of two candidates": ("inpaint", "camera.png", "--mask", "square.png", "--candidates", "2", *QUICK),
    # auto
    "noise by auto": ("auto", "white.png"),
    "a JPEG by auto": ("auto", "compressed.jpg", "--scale", "2"),
    "outliers by auto": ("auto", "salted.png"),
    "a step left out": ("auto", "compressed.jpg", "--no-noise"),
    # upscale, with the first network and without
    "x2": ("upscale", "clean.png", "--scale", "2"),
    "x4": ("upscale", "clean.png"),
    "x8": ("upscale", "mask.png", "--scale", "8", "--region", "8,8,16,16"),
    "x8 of a JPEG": ("upscale", "compressed.jpg", "--scale", "8", "--region", "8,8,16,16"),
    "x1.5": ("upscale", "clean.png", "--scale", "1.5"),
    "a height": ("upscale", "clean.png", "--height", "50"),
    "a width": ("upscale", "clean.png", "--width", "70"),
    "x2 without the first network": ("upscale", "clean.png", "--scale", "2", "--detail", "0", *QUICK),
    "x2 of the faithful kind": ("upscale", "clean.png", "--scale", "2", "--detail", "0.3", *QUICK),
    "x2 with texture": ("upscale", "clean.png", "--scale", "2", "--detail", "1", "--steps", "3"),
    "x2 by ddnm": ("upscale", "clean.png", "--scale", "2", "--method", "ddnm", *QUICK),
    "x2 of a noisy picture": ("upscale", "white.png", "--scale", "2"),
    "x2 of a noisy picture with samples": ("upscale", "white.png", "--scale", "2", "--samples", "2"),
    "x2 of a soft picture with samples": ("upscale", "soft.png", "--scale", "2", "--samples", "2"),
    "x2 of a JPEG": ("upscale", "compressed.jpg", "--scale", "2"),
    "x2 of a JPEG with samples": ("upscale", "compressed.jpg", "--scale", "2", "--samples", "2"),
    "x2 of a JPEG with a map": ("upscale", "compressed.jpg", "--scale", "2", "--uncertainty", "map.png"),
    "x2 of a JPEG as it is": ("upscale", "compressed.jpg", "--scale", "2", "--jpeg", "off"),
    "x2 of transparency": ("upscale", "alpha.png", "--scale", "2"),
    "x2 with a map": ("upscale", "clean.png", "--scale", "2", "--uncertainty", "map.png"),
    "x2 with samples": ("upscale", "clean.png", "--scale", "2", "--samples", "2"),
    "x2 of a region": ("upscale", "clean.png", "--scale", "2", "--region", "4,8,16,12"),
}


def contents(folder: Path) -> dict[str, str]:
    """Return the hashes of the files of a folder by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def record_of(path: Path) -> Record:
    record = parse_record(load(path).text[RECORD])
    assert record is not None
    return record


def words_of(record: Record) -> list[str]:
    """Return the arguments that a shell reads from the printed command line, without the name of the program."""
    return shlex.split(record.command_line().partition("restore ")[2])


@pytest.fixture
def folder(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with links to the inputs."""
    for path in inputs.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.numbers
@pytest.mark.parametrize("name", CASES)
def test_the_record_makes_the_same_bytes(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert run([*CASES[name], "-q"]) == 0
    result = Path(capsys.readouterr().out.splitlines()[0])
    made = {file: digest for file, digest in contents(folder).items() if file not in before}
    assert result.name in made
    record = record_of(result)
    for file in made:
        Path(file).unlink()
    assert run([*words_of(record), "-q"]) == 0
    again = {file: digest for file, digest in contents(folder).items() if file not in before}
    assert again == made


BESIDE = frozenset(
    f"--{name}"
    for name in (
        *("output", "overwrite", "skip-existing", "recursive", "resume", "manifest", "dry-run", "in-place", "backup"),
        *("keep-times", "include", "exclude", "limit", "shard", "fail-fast", "max-pixels", "show", "json", "quiet"),
        *("cluster", "workers"),
        *("verbose", "help"),
    )
)
"""Options that say where results go and what is said of them, but not what they are."""

ELSEWHERE = frozenset({"--model", "--device", "--start"})
"""Options that other models need: tests/cli/test_start.py and tests/cli/test_cli_latent.py make their results again."""


@pytest.mark.parametrize("verb", ["denoise", "dejpeg", "deblur", "inpaint", "upscale"])
def test_every_option_that_shapes_results_is_among_the_cases(verb: str) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    shaping = {max(p.opts, key=len) for p in command.params if p.param_type_name == "option"} - BESIDE - ELSEWHERE
    shared = {word for words in CASES.values() for word in words if word.startswith("--")}
    own = {word for words in CASES.values() if words[0] == verb for word in words if word.startswith("--")}
    assert shaping <= shared
    assert {"--steps"} <= own


@pytest.mark.numbers
@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("samples")])
def test_every_sample_makes_itself_again(name: str, folder: Path) -> None:
    """A sample is made alone by the seed in its record, pixel by pixel; its record then tells of no others."""
    assert run([*CASES[name], "-q"]) == 0
    samples = sorted(folder.glob("*_sample*.*"))
    assert samples
    for sample in samples:
        again = f"again{sample.suffix}"
        assert run([*words_of(record_of(sample)), "-q", "-o", again, "--overwrite"]) == 0
        assert (np.asarray(Image.open(sample)) == np.asarray(Image.open(again))).all()


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("x2 of a noisy picture", True),
        ("x2 of a JPEG", True),
        ("x2 with texture", True),
        ("x2", False),  # the picture is a drawing
        ("x2 without the first network", False),
    ],
)
def test_the_second_network_is_named(
    name: str, is_named: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*CASES[name], "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[0])
    weights = weights_sha256(weights_folder(ENLARGING))
    assert done["enlarger"] == ({"id": "enlarge", "sha256": weights} if is_named else None)
    assert record_of(Path(done["output"])).enlarger_sha256 == (weights if is_named else "")
    capsys.readouterr()
    assert run(["doctor", done["output"]]) == 0
    assert (f"enlarger sha256  {weights}" in capsys.readouterr().err) is is_named


@pytest.mark.parametrize(
    ("arguments", "is_named"),
    [
        (CASES["dejpeg"], True),
        (CASES["a JPEG"], True),
        (CASES["x2 of a JPEG"], True),
        (("auto", "compressed.jpg"), True),
        (CASES["x2"], False),
        (("dejpeg", "compressed.jpg", "--method", "ddim", *QUICK), False),
    ],
)
def test_the_network_that_undoes_compression_is_named(
    arguments: tuple[str, ...], is_named: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[0])
    weights = expert_sha256(DECOMPRESSING)
    assert done["decompressor"] == ({"id": "jpeg", "sha256": weights} if is_named else None)
    assert record_of(Path(done["output"])).decompressor_sha256 == (weights if is_named else "")
    capsys.readouterr()
    assert run(["doctor", done["output"]]) == 0
    assert (f"decompressor sha256  {weights}" in capsys.readouterr().err) is is_named


def test_a_region_is_in_the_json_and_in_what_resume_goes_by(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*region: str) -> dict[str, Any]:
        capsys.readouterr()
        command = ["denoise", "white.png", "-o", "out.png", "--sigma", "20", *QUICK, *region]
        assert run([*command, "--manifest", "log.jsonl", "--resume", "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[0])

    assert call("--region", "0,0,16,16")["region"] == [0, 0, 16, 16]
    assert call("--region", "0,0,16,16")["status"] == "skipped"
    assert call("--region", "1,0,16,16")["region"] == [1, 0, 16, 16]
    assert call()["region"] is None
