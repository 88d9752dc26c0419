"""Tests of the command line with latent models: the verbs they serve, the options they refuse, and their download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hub_fixtures import hub, model_files  # noqa: F401
from hub_server import COMMIT, Hub
from latent_models import write_model
from PIL import Image

from restorer.cli.app import run
from restorer.models.catalogue import cards
from restorer.models.hub import download
from restorer.models.hub.download import sha256_of
from restorer.models.hub.references import Reference, find_cached
from restorer.models.load import weights_folder

NOTE = "shrinking the result does not give the input back with this model"
CPU = ("-d", "cpu", "--precision", "fp32")
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one latent model of each kind: super-resolution ("super") and generation ("celeba")."""
    root = tmp_path_factory.mktemp("latent")
    return {kind: write_model(root / kind, super_resolution=kind == "super") for kind in ("super", "celeba")}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command line in this process, in a folder with a picture and a mask."""
    monkeypatch.chdir(tmp_path)
    for name in ("RESTORER_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    values = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    Image.fromarray(values).save("a.png")
    Image.fromarray(np.eye(10, 14, dtype=np.uint8) * 255).save("m.png")

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        return Outcome(code, *capsys.readouterr())

    return command


def test_upscale(call: Command, models: dict[str, Path]) -> None:
    done = call("upscale", "a.png", "--model", models["super"], "--steps", 2, "--seed", 5, *CPU, "--json")
    assert done.code == 0, done.err
    with Image.open("a_x4.png") as large:
        assert large.size == (56, 40) and large.mode == "RGB"
    record, summary = done.records
    assert summary["ok"] == 1 and record["status"] == "ok" and record["warnings"] == [NOTE]
    assert (record["width"], record["height"], record["steps"], record["method"]) == (56, 40, 2, "auto")
    assert (record["tile"], record["seed"], record["precision"]) == (56, 5, "fp32")
    assert record["model"]["sha256"] == sha256_of(models["super"] / "unet" / WEIGHTS)
    first, note, *_, last = done.err.splitlines()
    assert first.startswith(f"upscale a.png · {models['super']} · cpu (") and first.endswith(
        " · fp32 · 2 steps · 1 tile · seed 5"
    )
    assert note == f"note: {NOTE}" and last.startswith("wrote a_x4.png · 56x40 · ")


def test_tiles_count_pixels_of_the_result(call: Command, models: dict[str, Path]) -> None:
    Image.new("RGB", (24, 20)).save("b.png")
    line = ["upscale", "b.png", "--model", models["super"], "-s", 1, *CPU, "--json", "--overwrite"]
    whole, tiled, off = (call(*line, "--tile", tile) for tile in ("auto", 64, "off"))
    assert "1 tile ·" in whole.err and "4 tiles ·" in tiled.err and "1 tile ·" in off.err
    assert (tiled.records[0]["tile"], tiled.records[0]["overlap"]) == (64, 16)
    assert (whole.records[0]["tile"], off.records[0]["tile"]) == (96, 96)


def test_a_folder_of_gray_and_transparent_pictures(call: Command, models: dict[str, Path]) -> None:
    Path("in").mkdir()
    for name, mode in (("g.png", "L"), ("t.png", "RGBA")):
        Image.new(mode, (6, 4)).save(f"in/{name}")
    done = call("upscale", "in", "-r", "-o", "out/", "--model", models["super"], "-s", 1, *CPU)
    assert done.code == 0 and sorted(p.name for p in Path("out").glob("*.png")) == ["g_x4.png", "t_x4.png"]
    for name, mode in (("g", "L"), ("t", "RGBA")):
        with Image.open(f"out/{name}_x4.png") as large:
            assert (large.mode, large.size) == (mode, (24, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scale", 2), "enlarges by 4, not by 2"),
        (("--sigma", 5), "--sigma does not apply"),
        (("--detail", 0), "--detail does not apply"),
        (("--method", "ddnm"), "but not ddnm"),
        (("--steps", 501), "between 1 and 500"),
    ],
    ids=str,
)
def test_options_that_mean_nothing(
    call: Command, models: dict[str, Path], options: tuple[Any, ...], message: str
) -> None:
    Image.new("RGB", (4, 4)).save("b.png")
    done = call("upscale", "a.png", "b.png", "--model", models["super"], *CPU, *options)
    assert done.code == 2 and done.err.count(message) == 1 and "hint: " in done.err and not list(Path().glob("*_*"))


def test_generate(call: Command, models: dict[str, Path]) -> None:
    done = call("generate", "-n", 2, "-o", "s/", "--model", models["celeba"], "-s", 2, *CPU, "--json")
    assert done.code == 0, done.err
    for name in ("seed0000", "seed0001"):
        with Image.open(f"s/{name}_generated.png") as made:
            assert made.size == (64, 64)
    assert "generate 2 of 64x64" in done.err and done.records[0]["width"] == 64
    line = ["generate", "-n", 1, "--size", "30x17", "-o", "o.png", "--model", models["celeba"], "-s", 1, *CPU]
    done = call(*line)
    with Image.open("o.png") as made:
        assert made.size == (30, 17) and "generate 1 of 30x17" in done.err


REFUSED: list[tuple[str, list[Any], str]] = [
    ("celeba", ["denoise", "a.png"], "denoise cannot use it"),
    ("celeba", ["inpaint", "a.png", "--mask", "m.png"], "inpaint cannot use it"),
    ("celeba", ["upscale", "a.png"], "upscale cannot use it"),
    ("celeba", ["evaluate", "."], "evaluate cannot use it"),
    ("celeba", ["evaluate", ".", "--bits-per-dim"], "evaluate cannot use it"),
    ("super", ["denoise", "a.png"], "denoise cannot use it"),
    ("super", ["generate"], "generate cannot use it"),
    ("super", ["evaluate", ".", "--task", "upscale"], "evaluate cannot use it"),
]


@pytest.mark.parametrize(("kind", "line", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_they_are_not_for(
    call: Command, models: dict[str, Path], kind: str, line: list[Any], message: str
) -> None:
    done = call(*line, "--model", models[kind], *CPU)
    errors = [text for text in done.err.splitlines() if text.startswith("error: ")]
    assert done.code == 5 and len(errors) == 1 and message in errors[0], done.err
    assert f"hint: use it with restore {'generate' if kind == 'celeba' else 'upscale'}" in done.err
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", "m.png"]


def test_training_does_not_begin_with_one(call: Command, models: dict[str, Path]) -> None:
    done = call("train", ".", "--out", "mine", "--init", models["celeba"], "--steps", 1)
    assert done.code == 5 and "latents" in done.err and not Path("mine").exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ldm-sr", ["denoise", "a.png"]),
        ("CompVis/ldm-celebahq-256", ["upscale", "a.png"]),
        ("ldm-sr", ["generate"]),
        ("ldm-celebahq-256", ["evaluate", "."]),
        ("ldm-sr", ["train", ".", "--out", "mine", "--init", "ldm-sr"]),
    ],
)
def test_the_catalogue_knows_before_anything_is_downloaded(
    call: Command,
    hub: Hub,  # noqa: F811
    name: str,
    line: list[str],
) -> None:
    done = call(*line, *([] if "--init" in line else ["--model", name]))
    assert done.code == 5 and f"{line[0]} cannot use it" in done.err and hub.log == []
    assert {card.name: card.task for card in cards() if card.task} == {
        "ldm-sr": "upscale",
        "ldm-celebahq-256": "generate",
    }


@pytest.fixture
def served(hub: Hub, models: dict[str, Path]) -> Hub:  # noqa: F811
    """Serve the super-resolution model on the test Hub as org/model."""
    root = models["super"]
    hub.files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    hub.files["README.md"] = b"# a model"
    return hub


def test_all_parts_come_from_the_hub(call: Command, served: Hub) -> None:
    line = ["upscale", "a.png", "--model", f"org/model@{COMMIT}", "-s", 1, *CPU, "--json", "--overwrite"]
    first = call(*line)
    assert first.code == 0, first.err
    assert first.records[0]["model"]["revision"] == COMMIT
    fetched = [line.partition(f"/resolve/{COMMIT}/")[2] for line in served.forget() if line.startswith("GET /org")]
    assert fetched == [
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "vqvae/config.json",
        f"vqvae/{WEIGHTS}",
        f"unet/{WEIGHTS}",
    ]
    download._fetched.clear()
    assert call(*line).code == 0 and served.log == []
    info = call("models", "info", f"org/model@{COMMIT}", "--json").records[0]
    assert info["here"] and call("models", "path", f"org/model@{COMMIT}").code == 0


def test_a_network_without_its_autoencoder_is_not_whole(call: Command, served: Hub) -> None:
    """A model of which another program has cached only a part is completed by a download."""
    reference = Reference("org/model", COMMIT)
    assert call("models", "pull", f"org/model@{COMMIT}", "-q").code == 0
    folder = find_cached(reference)
    assert folder is not None
    for path in (folder / "vqvae").iterdir():
        download.remove(path)
    assert find_cached(reference) is None
    download._fetched.clear()
    assert call("upscale", "a.png", "--model", f"org/model@{COMMIT}", "-s", 1, *CPU).code == 0
    (folder / "model_index.json").resolve().write_text("[")
    assert find_cached(reference) == folder  # loading reports the damage


def test_an_autoencoder_of_no_use_is_refused_before_its_weights_come(call: Command, served: Hub) -> None:
    config = json.loads(served.files["vqvae/config.json"])
    served.files["vqvae/config.json"] = json.dumps({**config, "norm_type": "spatial"}).encode()
    done = call("models", "pull", "org/model")
    assert done.code == 5 and "norm_type spatial is not supported" in done.err
    assert not [line for line in served.log if WEIGHTS in line]


def test_the_commit_of_a_model_of_the_hub_is_told(call: Command, models: dict[str, Path], tmp_path: Path) -> None:
    """generate and evaluate report it as well, and find it in the path of a model in the Hub's cache."""
    snapshots = tmp_path / "cache" / "snapshots"
    for name, source in ((COMMIT, models["celeba"]), ("a" * 40, weights_folder())):
        for path in source.rglob("*"):
            if path.suffix in (".json", ".safetensors"):
                copy = snapshots / name / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(path)
    made = call("generate", "-n", 1, "-s", 1, "--model", snapshots / COMMIT, *CPU, "--json").records[0]
    assert made["model"]["revision"] == COMMIT
    Path("clean").mkdir()
    Image.new("RGB", (16, 16)).save("clean/a.png")
    line = ["evaluate", "clean", "--steps", 1, "--detail", 0, "--model", snapshots / ("a" * 40), *CPU, "--json"]
    summary = call(*line).records[-1]
    assert summary["model"]["revision"] == "a" * 40 and len(summary["model"]["sha256"]) == 64


@pytest.mark.parametrize("super_resolution", [False, True])
def test_verify_loads_them(super_resolution: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All three parts of the model are loaded and checked; a folder has no known answer."""
    folder = write_model(tmp_path / "model", super_resolution=super_resolution)
    assert run(["models", "verify", str(folder)]) == 0
    assert "no known answer" in capsys.readouterr().err
    (folder / "vqvae" / "config.json").unlink()
    assert run(["models", "verify", str(folder)]) == 5
