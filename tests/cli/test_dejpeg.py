"""What `restore dejpeg` and `restore denoise` do with JPEG files, and what they say of them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer import dejpeg
from restorer.cli.app import run
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.measurement.jpeg import read_jpeg

IMAGES = Path(__file__).resolve().parents[1] / "images"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a photograph of 192x160 pixels, as it is and as JPEG files of several kinds."""
    monkeypatch.chdir(tmp_path)
    with Image.open(IMAGES / "gates.jpg") as image:
        true = image.convert("RGB").resize((288, 192), Image.Resampling.BICUBIC).crop((40, 20, 232, 180))
    true.save("true.png")
    true.save("q30.jpg", quality=30)
    true.convert("L").save("gray.jpg", quality=30)
    true.convert("L").convert("RGB").save("gray_as_rgb.jpg", quality=30)
    true.convert("CMYK").save("print.jpg", quality=30)
    exif = Image.Exif()
    exif[0x0112] = 6
    true.rotate(90, expand=True).save("turned.jpg", quality=30, exif=exif)


def restore(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command line in this process, and return its exit code and its output."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def pixels(path: str) -> np.ndarray:
    """Return the picture of a file, turned upright."""
    from PIL import ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image)).astype(float)


def distance(path: str, truth: str = "true.png") -> float:
    """Return the root mean square distance of a picture from the truth."""
    picture, true = pixels(path), pixels(truth)
    true = true if picture.ndim == 3 else np.asarray(Image.open(truth).convert("L")).astype(float)
    return float(np.sqrt(np.square(picture - true).mean()))


@pytest.mark.parametrize("verb", ["dejpeg", "denoise"])
@pytest.mark.parametrize("name", ["q30", "turned", "gray"])
def test_results_are_nearer_to_the_truth_and_give_the_file_back(
    verb: str, name: str, capsys: pytest.CaptureFixture[str]
):
    code, _, err = restore(capsys, verb, f"{name}.jpg", "-o", "out.png")
    assert code == 0
    assert "JPEG of quality 30" in err.splitlines()[0]
    assert distance("out.png") < 0.92 * distance(f"{name}.jpg")
    jpeg = read_jpeg(Path(f"{name}.jpg").read_bytes())
    assert jpeg is not None
    result = torch.from_numpy(pixels("out.png")).float()
    result = result[None] if result.ndim == 2 else result.permute(2, 0, 1)
    known = jpeg.luminance() if len(result) == 1 else jpeg
    shown = result.expand(3, -1, -1)[None] / 127.5 - 1
    assert known.degradation().consistency(shown, known.data()) > 0.99


def test_gray_pictures_in_colour_files_stay_gray(capsys: pytest.CaptureFixture[str]):
    assert restore(capsys, "dejpeg", "gray_as_rgb.jpg", "-o", "out.png")[0] == 0
    result = pixels("out.png")
    assert (result == result[..., :1]).all()
    assert (result != pixels("gray_as_rgb.jpg")).any()


def test_it_is_told_everywhere_and_made_again_from_the_record(capsys: pytest.CaptureFixture[str]):
    code, out, _ = restore(capsys, "dejpeg", "q30.jpg", "-o", "out.png", "--json")
    assert code == 0
    event = json.loads(out.splitlines()[0])
    assert event["jpeg"] == {"quality": 30, "sampling": "4:2:0", "sigma": event["sigma"], "earlier": False}
    assert 3 < event["sigma"] < 15
    code, out, err = restore(capsys, "doctor", "out.png")
    assert code == 0
    assert "JPEG of quality 30, 4:2:0" in err
    assert "restore dejpeg q30.jpg" in out
    assert "--sigma" not in out
    again = out.split("restore ")[1].split()
    assert restore(capsys, *again, "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_doctor_tells_the_compression_of_a_file(capsys: pytest.CaptureFixture[str]):
    assert "JPEG of quality 30, 4:2:0" in restore(capsys, "doctor", "q30.jpg")[1]


def test_a_png_of_a_jpeg_is_recognized(capsys: pytest.CaptureFixture[str]):
    Image.open("q30.jpg").save("was.png")
    for verb in ("dejpeg", "denoise"):
        code, _, err = restore(capsys, verb, "was.png", "-o", f"{verb}.png")
        assert code == 0
        assert "earlier JPEG of quality 30" in err.splitlines()[0]
        assert distance(f"{verb}.png") < 0.92 * distance("was.png")


@pytest.mark.parametrize("name", ["true.png", "print.jpg"])
def test_pictures_without_a_known_compression_are_copied(name: str, capsys: pytest.CaptureFixture[str]):
    code, _, err = restore(capsys, "dejpeg", name, "-o", f"out{Path(name).suffix}")
    assert code == 0
    assert "no visible JPEG compression was found" in err
    assert ("no compression found" in err.splitlines()[0]) == (name == "true.png") and "sigma" not in err
    assert Path(f"out{Path(name).suffix}").read_bytes() == Path(name).read_bytes()


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_camera_noise_in_a_jpeg_is_removed_as_noise(quality: int, capsys: pytest.CaptureFixture[str]):
    """The compression of a noisy photograph expects a large error too, but does not explain the noise."""
    with Image.open(IMAGES / "high_iso.jpg") as image:
        image.crop((150, 90, 310, 250)).save("high_iso.jpg", quality=quality)
    code, _, err = restore(capsys, "denoise", "high_iso.jpg", "-o", "out.png")
    assert code == 0
    said = err.splitlines()[0]
    # At quality 60, the file has no fine noise left that could tell how coarse it was, so that it is taken for white.
    found = re.search(r"sigma (\d+\.\d) \(estimated\)" if quality == 60 else r"camera noise of (\d+\.\d) levels", said)
    assert found is not None, said
    assert 15 < float(found[1]) < 20, "the picture has 16.7 levels before it is compressed"


def test_denoise_leaves_the_compression_if_told(capsys: pytest.CaptureFixture[str]):
    for number, options in enumerate((["--noise", "off", "--jpeg", "off"], ["--sigma", "0"])):
        assert restore(capsys, "denoise", "q30.jpg", *options, "-o", f"{number}.jpg")[0] == 0
        assert Path(f"{number}.jpg").read_bytes() == Path("q30.jpg").read_bytes()
    code, _, err = restore(capsys, "denoise", "q30.jpg", "--jpeg", "maybe")
    assert code == 2
    assert "jpeg must be auto or off" in err


def test_compression_that_is_undone_without_looking_for_noise_is_recorded(capsys: pytest.CaptureFixture[str]):
    assert restore(capsys, "denoise", "q30.jpg", "--noise", "off", "-o", "out.png")[0] == 0
    _, out, _ = restore(capsys, "doctor", "out.png")
    assert "--noise off" in out
    assert "--sigma" not in out
    again = out.split("restore ")[1].split()
    assert restore(capsys, *again, "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_a_small_jpeg_is_restored_before_it_is_enlarged(capsys: pytest.CaptureFixture[str]):
    with Image.open("true.png") as image:
        image.resize((96, 80), Image.Resampling.BICUBIC).save("small.jpg", quality=40)
    code, _, err = restore(capsys, "upscale", "small.jpg", "--scale", "2", "--detail", 0, "-o", "out.png")
    assert code == 0
    assert "JPEG of quality 40" in err.splitlines()[0]
    assert (
        restore(capsys, "upscale", "small.jpg", "--scale", 2, "--detail", 0, "--jpeg", "off", "-o", "off.png")[0] == 0
    )
    Image.open("small.jpg").resize((192, 160), Image.Resampling.BICUBIC).save("bicubic.png")
    assert distance("out.png") < min(0.97 * distance("bicubic.png"), distance("off.png"))
    for name in ("out.png", "off.png"):
        _, out, _ = restore(capsys, "doctor", name)
        again = out.split("restore ")[1].split()
        assert restore(capsys, *again, "-o", "again.png", "--overwrite")[0] == 0
        assert Path("again.png").read_bytes() == Path(name).read_bytes()


def test_a_drawing_in_a_jpeg_is_told_to_be_one(capsys: pytest.CaptureFixture[str]):
    page = np.full((80, 96, 3), 246, np.uint8)
    page[20:60:7], page[:, 30:32] = 20, 90
    Image.fromarray(page).save("page.jpg", quality=85)
    _, out, _ = restore(capsys, "upscale", "page.jpg", "--scale", 2, "-o", "out.png", "--json")
    assert any("sharper than shrinking" in warning for warning in json.loads(out.splitlines()[0])["warnings"])


def test_python_reads_the_file_of_an_image_and_finds_that_of_a_tensor():
    image = Image.open("q30.jpg")
    result = np.asarray(dejpeg(image)).astype(float)
    decoded = torch.from_numpy(pixels("q30.jpg")).permute(2, 0, 1).float() / 255
    found = dejpeg(decoded).mul(255).round().permute(1, 2, 0).numpy()
    assert np.abs(result - pixels("q30.jpg")).mean() > 1
    assert np.sqrt(np.square(result - found).mean()) < 2.5, "the pixels tell nearly what the file tells"
    untouched = torch.from_numpy(pixels("true.png")).permute(2, 0, 1).float() / 255
    assert torch.equal(dejpeg(untouched), untouched)


def test_an_image_that_was_changed_is_not_taken_for_its_file():
    from restorer.images.conversion import take

    image = Image.open("q30.jpg")
    assert take(image).file == Path("q30.jpg").read_bytes()
    image.paste((0, 0, 0), (10, 10, 60, 60))
    assert take(image).file is None
    replaced = Image.open("gray.jpg")
    replaced.load()
    Path("gray.jpg").write_bytes(b"no picture")
    assert take(replaced).file is None
    smaller = Image.open("turned.jpg")
    smaller.draft("RGB", (80, 96))
    assert smaller.size == (80, 96) and take(smaller).file is None


def test_a_stream_is_the_file_of_an_image_whose_pixels_were_not_read():
    from restorer.images.conversion import take

    data = Path("q30.jpg").read_bytes()
    given = take(Image.open(io.BytesIO(data)))
    assert given.file == data
    np.testing.assert_array_equal(given.image.mul(255).round().permute(1, 2, 0), pixels("q30.jpg"))
    read = Image.open(io.BytesIO(data))
    read.load()
    assert take(read).file is None
    png = Image.open(io.BytesIO(Path("true.png").read_bytes()))
    assert take(png).file is None
    from_path, from_stream = dejpeg(Image.open("q30.jpg")), dejpeg(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(from_path, from_stream)


def test_detail_adds_texture():
    """A sample has more of it than the mean."""
    from restorer.evaluation.metrics import high_energy
    from restorer.tasks.dejpeg import prepare_dejpeg

    y = torch.from_numpy(pixels("q30.jpg")).permute(2, 0, 1).float() / 255
    jpeg = find_jpeg(y, Path("q30.jpg").read_bytes())
    mean, sample = (prepare_dejpeg(y, jpeg, detail=detail).run().image for detail in (0.0, 1.0))
    assert high_energy(sample) > 1.1 * high_energy(mean)
