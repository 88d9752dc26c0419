"""`--start` on the command line: a network by itself through files, metadata, records and logs, and from the Hub."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_broken import system_call
from hub_fixtures import Outcome, Restore, hub, model_files, restore  # noqa: F401
from hub_server import Hub
from PIL import ExifTags, Image
from single_pass import compact, dncnn, photograph, rrdb, save, spandrel
from stubs import Smooth

import restorer
from restorer.errors import UsageError
from restorer.folders.provenance import parse_record
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models import load as models_load
from restorer.models.starts import start_sha256
from restorer.tasks.started import UPSCALE_STARTED


@pytest.fixture(autouse=True)
def cheap_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())


def picture(name: str, height: int = 22, width: int = 30, mode: str = "RGB") -> np.ndarray:
    """Write a picture with a camera in its metadata, and return its pixels (H, W, C)."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = (photograph(height, width, channels) * 255).round().byte().permute(1, 2, 0).numpy()
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    Image.fromarray(pixels.squeeze()).save(name, exif=exif.tobytes(), dpi=(300, 300))
    return pixels


def expected(network: str, pixels: np.ndarray) -> np.ndarray:
    """Return what spandrel makes of the pixels of a picture, rounded to 8 bits."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        made = spandrel.ModelLoader().load_from_file(network).eval()(x)[0]
    return (made * 255).round().byte().permute(1, 2, 0).numpy()


def test_the_network_alone(restore: Restore) -> None:  # noqa: F811
    save(Path("x4.pth"), rrdb(), "params_ema")
    pixels = picture("a.png")
    done = restore("upscale", "a.png", "--start", "x4.pth", "--steps", 0, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    event, summary = done.records
    assert event["output"] == "a_x4.png" and summary["ok"] == 1
    assert event["start"] == {
        "id": "x4.pth",
        "sha256": start_sha256(Path("x4.pth").resolve()),
        "revision": None,
        "architecture": "ESRGAN",
        "scale": 4,
        "precision": "fp32",
    }
    assert event["steps"] == 0 and (event["width"], event["height"]) == (120, 88)
    result = Image.open("a_x4.png")
    assert np.abs(np.asarray(result).astype(int) - expected("x4.pth", pixels)).max() <= 1
    assert result.getexif()[ExifTags.Base.Make] == "Maker" and round(result.info["dpi"][0]) == 300
    assert "upscale a.png · x4.pth · cpu" in done.err and "fp32 · 0 steps · 1 tile · seed 0" in done.err


def test_the_record_repeats_the_result(restore: Restore) -> None:  # noqa: F811
    save(Path("x2.safetensors"), compact(scale=2))
    for steps in ("0", "2"):
        picture("a.png")
        assert restore("upscale", "a.png", "--start", "x2.safetensors", "--steps", steps, "--overwrite").code == 0
        first = Path("a_x2.png").read_bytes()
        record = parse_record(load(Path("a_x2.png"), 10**9).text[RECORD])
        assert record is not None and record.options["start"] == "x2.safetensors"
        assert record.start_sha256 == start_sha256(Path("x2.safetensors").resolve())
        arguments = shlex.split(record.command_line().partition("restore ")[2])
        assert arguments[arguments.index("--steps") + 1] == steps
        assert restore(*arguments, "--overwrite").code == 0
        assert Path("a_x2.png").read_bytes() == first
        said = restore("doctor", "a_x2.png")
        assert "--start x2.safetensors" in said.out and record.start_sha256 in said.err


def test_samples_and_consistency(restore: Restore) -> None:  # noqa: F811
    """Samples start from the network too. What it makes by itself is not compared with the input."""
    save(Path("x2.pth"), compact(scale=2))
    picture("a.png")
    common = ("upscale", "a.png", "--start", "x2.pth", "--json", "--overwrite")
    done = restore(*common, "--samples", 2).records[0]
    assert done["consistency"]["rms"] < 0.5
    pixels = [np.asarray(Image.open(path)).astype(int) for path in ("a_x2.png", *done["samples"])]
    assert len(pixels) == 3 and (pixels[0] != pixels[1]).any()
    assert np.abs(pixels[2] - (pixels[0] + pixels[1]) / 2).max() <= 1
    assert restore(*common, "--steps", 0).records[0]["consistency"]["rms"] is None
    with pytest.raises(UsageError, match="uncertainty and start cannot be combined"):
        restorer.upscale(Image.open("a.png"), 2, start="x2.pth", uncertainty=True)


def test_a_few_steps_make_it_consistent(restore: Restore) -> None:  # noqa: F811
    save(Path("x4.pth"), rrdb())
    pixels = picture("a.png")
    done = restore("upscale", "a.png", "--start", "x4.pth", "--json")
    assert done.code == 0 and done.records[0]["steps"] == UPSCALE_STARTED.steps
    assert "photo from x4.pth" in done.err and "computing the start with x4.pth" in done.err
    small = Image.open("a_x4.png").resize((30, 22), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small).astype(int) - pixels).max() <= 1


def test_transparency_gray_and_regions(restore: Restore) -> None:  # noqa: F811
    save(Path("x2.pth"), compact(scale=2))
    picture("rgba.png", mode="RGBA")
    gray = picture("gray.png", mode="L")
    pixels = picture("rgb.png")
    common = ("--start", "x2.pth", "--steps", 0)
    assert restore("upscale", "rgba.png", "gray.png", "rgb.png", *common).code == 0
    assert Image.open("rgba_x2.png").mode == "RGBA" and Image.open("rgba_x2.png").size == (60, 44)
    found = np.asarray(Image.open("gray_x2.png")).astype(int)
    lifted = expected("x2.pth", np.repeat(gray, 3, 2)).astype(float).mean(2)
    assert Image.open("gray_x2.png").mode == "L" and np.abs(found - lifted).max() <= 1
    assert restore("upscale", "rgb.png", *common, "--region", "4,3,11,9").code == 0
    part = np.asarray(Image.open("rgb_x2_11x9+4+3.png")).astype(int)
    assert np.abs(part - expected("x2.pth", pixels)[6:24, 8:30]).max() <= 1


def test_networks_that_keep_the_size(restore: Restore) -> None:  # noqa: F811
    save(Path("x1.pth"), dncnn(3))
    pixels = picture("a.png")
    for verb, name in (("denoise", "a_denoised.png"), ("dejpeg", "a_dejpegged.png")):
        assert restore(verb, "a.png", "--start", "x1.pth", "--steps", 0).code == 0
        assert np.abs(np.asarray(Image.open(name)).astype(int) - expected("x1.pth", pixels)).max() <= 1
    assert restore("deblur", "a.png", "--gaussian", 1, "--start", "x1.pth", "--steps", 0).code == 0
    done = restore("denoise", "a.png", "--noise", "off", "--start", "x1.pth", "--overwrite", "--json")
    assert done.code == 0 and done.records[0]["start"] is None and "no damage was found" in done.err
    assert Path("a_denoised.png").read_bytes() == Path("a.png").read_bytes()


def test_a_run_is_resumed_unless_the_network_has_changed(restore: Restore) -> None:  # noqa: F811
    save(Path("x4.pth"), compact(seed=1))
    Path("in").mkdir()
    for name in ("a", "b"):
        picture(f"in/{name}.png", 8, 8)
    command = ("upscale", "in", "-r", "-o", "out", "--start", "x4.pth", "--steps", 0, "--json")
    assert restore(*command).code == 0
    first = Path("out/a_x4.png").read_bytes()
    again = restore(*command, "--resume")
    assert again.code == 0 and again.records[-1]["skipped"] == 2
    Path("x4.pth").rename("elsewhere.pth")
    moved = [*command]
    moved[moved.index("x4.pth")] = "elsewhere.pth"
    assert restore(*moved, "--resume").records[-1]["skipped"] == 2
    save(Path("new.pth"), compact(seed=2))
    moved[moved.index("elsewhere.pth")] = "new.pth"
    assert restore(*moved, "--resume").records[-1]["ok"] == 2
    assert Path("out/a_x4.png").read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("upscale", "a.png", "--steps", "0"), 2, "--start"),
        (("upscale", "a.png", "--start", "x4.pth", "--scale", "2"), 2, "enlarges by 4, not by 2"),
        (("upscale", "a.png", "--start", "x4.pth", "--width", "50"), 2, "enlarges by 4, not by 8"),
        (("denoise", "a.png", "--start", "x4.pth"), 5, "denoise cannot start from it"),
        (("inpaint", "a.png", "--mask", "a.png", "--start", "x4.pth"), 5, "inpaint cannot start from it"),
        (("upscale", "a.png", "--start", "none.pth"), 5, "there is no network"),
        (("upscale", "a.png", "--start", "evil.pth"), 5, "is refused"),
        (("upscale", "a.png", "--start", "evil.pth", "--scale", "4"), 5, "is refused"),
        (("upscale", "a.png", "--start", "x4.pth", "--tile", "3"), 2, "tile"),
    ],
)
def test_what_does_not_work_is_said(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    restore: Restore,  # noqa: F811
) -> None:
    save(Path("x4.pth"), compact())
    torch.save(system_call(Path("trap").resolve()), "evil.pth")
    picture("a.png", 8, 8)
    done = restore(*arguments)
    assert done.code == code and message in done.err and "Traceback" not in done.err, done.err
    assert not Path("trap").exists() and not list(Path().glob("a_*"))


def test_dry_runs_and_tiles(restore: Restore) -> None:  # noqa: F811
    save(Path("x4.pth"), compact())
    pixels = picture("a.png", 90, 80)
    done = restore("upscale", "a.png", "--start", "x4.pth", "--steps", 0, "--dry-run")
    assert done.code == 0 and "80x90 -> 320x360" in done.err and not Path("a_x4.png").exists()
    for tile in ("off", "192"):
        assert restore("upscale", "a.png", "--start", "x4.pth", "--steps", 0, "--tile", tile, "--overwrite").code == 0
        found = np.asarray(Image.open("a_x4.png")).astype(int)
        assert np.abs(found - expected("x4.pth", pixels)).max() <= 1


def test_a_network_of_the_hub(hub: Hub, restore: Restore, tmp_path: Path) -> None:  # noqa: F811
    hub.files["x4.pth"] = save(tmp_path / "x4.pth", rrdb()).read_bytes()
    torch.save(system_call(tmp_path / "trap"), tmp_path / "evil.pth")
    hub.files["evil.pth"] = (tmp_path / "evil.pth").read_bytes()
    pixels = picture("a.png", 10, 12)
    missing = restore("upscale", "a.png", "--start", "org/model:x4.pth", "--steps", 0, "--dry-run")
    assert missing.code == 5 and "name it with --scale" in missing.err
    done = restore("upscale", "a.png", "--start", "org/model:x4.pth", "--steps", 0)
    assert done.code == 0 and "download org/model:x4.pth" in done.err
    found = np.asarray(Image.open("a_x4.png")).astype(int)
    assert np.abs(found - expected(str(tmp_path / "x4.pth"), pixels)).max() <= 1
    refused: Outcome = restore("upscale", "a.png", "--start", "org/model:evil.pth", "--scale", 4, "-o", "b.png")
    assert refused.code == 5 and "is refused" in refused.err and not (tmp_path / "trap").exists()


def test_folders_from_python(restore: Restore) -> None:  # noqa: F811
    """`restore_folder` makes the files of the command, by the scale of the network, and resumes what it has begun."""
    from restorer import restore_folder
    from restorer.folders.events import Begun, Done, Event, LeftOut, Measured, Sampling, Starting

    save(Path("x2.pth"), compact(scale=2))
    Path("in").mkdir()
    for name in ("a", "b"):
        picture(f"in/{name}.png", 12, 10)
    for steps in (0, 2):
        assert restore("upscale", "in", "-r", "-o", "theirs", "--start", "x2.pth", "--steps", steps).code == 0
        happened = list[Event]()
        options = {"start": Path("x2.pth"), "steps": steps}
        outcomes = list(restore_folder("in", "upscale", output="ours", on_event=happened.append, **options))
        assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
        for name in ("a_x2.png", "b_x2.png"):
            assert Path("ours", name).read_bytes() == Path("theirs", name).read_bytes()
        mine = [e for e in happened if getattr(getattr(e, "item", None), "source", Path()).name == "b.png"]
        kinds = [type(event) for event in mine]
        assert (kinds[0], kinds[-1]) == (Starting, Done)
        assert set(kinds[1:-1]) == ({Measured, LeftOut} if steps == 0 else {Measured})
        assert sum(isinstance(event, Begun) for event in happened) == 2
        assert sum(isinstance(event, Sampling) for event in happened) == (0 if steps == 0 else 2)
        again = restore_folder("in", "upscale", output="theirs", resume=True, **options)
        assert [outcome.status for outcome in again] == ["skipped", "skipped"]
        shutil.rmtree("ours")
        shutil.rmtree("theirs")


def test_a_network_that_is_replaced_is_another_one(restore: Restore) -> None:  # noqa: F811
    """What was made with the earlier file of the same name is not taken for a result of the later one."""
    Path("in").mkdir()
    pixels = picture("in/a.png", 12, 10)
    for seed in (0, 1):
        save(Path("x4.pth"), rrdb(seed=seed))
        done = restore("upscale", "in", "-r", "-o", "out", "--start", "x4.pth", "--steps", 0, "--resume", "--json")
        assert done.code == 0 and done.records[0]["status"] == "ok"
        found = np.asarray(Image.open("out/a_x4.png")).astype(int)
        assert np.abs(found - expected("x4.pth", pixels)).max() <= 1


def test_a_dry_run_downloads_no_network(hub: Hub, restore: Restore) -> None:  # noqa: F811
    picture("a.png", 10, 12)
    done = restore("upscale", "a.png", "--start", "org/model:x4.pth", "--scale", 4, "--dry-run")
    assert done.code == 0 and "the network org/model:x4.pth is not downloaded" in done.err
    assert "12x10 -> 48x40" in done.err and not hub.log


def test_python(tmp_path: Path) -> None:
    from restorer import load_start, upscale

    path = save(tmp_path / "x2.pth", compact(scale=2))
    image = photograph(12, 10)
    alone = upscale(image, start=path, steps=0)
    assert torch.equal(alone, load_start(path)(image).picture)
    again = upscale(image, 2, start=load_start(path, device="cpu"), steps=0)
    assert torch.equal(alone, again)
    assert upscale(image, start=str(path), steps=1).shape == (3, 24, 20)
