"""The figures of what people see: closed forms, the networks' own implementations, and what must not change them.

What needs the extra `measure` is skipped without it. The implementations that the networks come from are compared where
they are installed; one of them imports two packages that it does not use here, which are replaced by empty ones.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from stubs import Smooth
from torch import Tensor

from restorer.cli.app import run
from restorer.errors import UsageError
from restorer.evaluation import perception
from restorer.evaluation.degraded import Condition, degrade
from restorer.evaluation.evaluate import measure
from restorer.evaluation.feature_networks import EfficientNetLite0, ShiftTolerantAlexNet
from restorer.evaluation.metrics import BANDS, texture, texture_by_band, to_y
from restorer.evaluation.perception import (
    EFFICIENTNET_WEIGHTS,
    LPIPS_WEIGHTS,
    MIN_SIDE,
    SECTION,
    Perception,
    consistency,
    feature_distances,
    mean_perception,
    perceive,
)
from restorer.machine.torchvision import import_torchvision
from restorer.models import load as models_load

IMAGES = Path(__file__).resolve().parents[1] / "images"
DISTANCES = ("lpips", "efficientnet", "gmsd", "mdsi")
PACKAGES = ("piq", LPIPS_WEIGHTS.package, EFFICIENTNET_WEIGHTS.package)
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(missing), reason=f"the extra `measure` lacks {', '.join(missing)}")


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def photograph(name: str, side: int = 96) -> Image.Image:
    """Return a square from the middle of a photograph."""
    with Image.open(IMAGES / name) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------ texture


def wave(frequency: float, side: int = 128) -> Tensor:
    """Return a gray wave of a frequency in cycles per pixel, with an amplitude of 0.1."""
    return (0.5 + 0.1 * torch.cos(2 * math.pi * frequency * torch.arange(side))).expand(3, side, side)


@pytest.mark.parametrize(("frequency", "band"), [(3 / 32, 0), (3 / 16, 1), (3 / 8, 2), (1 / 2, 2)])
def test_a_wave_counts_in_its_own_octave(frequency: float, band: int) -> None:
    """A wave of twice the amplitude has four times the energy, in the octave of its frequency alone."""
    truth = sum((wave(f) - 0.5 for f in (3 / 32, 3 / 16, 3 / 8)), torch.full((3, 128, 128), 0.5))
    present = frequency != 1 / 2
    ratios = texture_by_band(truth + (wave(frequency) - 0.5), truth)
    for i, ratio in enumerate(ratios):
        assert ratio == pytest.approx((4 if present else 3) if i == band else 1, rel=2e-3)


def test_texture_scales_as_the_square() -> None:
    truth = 0.5 + 0.1 * noise(3, 48, 57)
    assert texture_by_band(0.5 + (truth - 0.5) / 2, truth) == pytest.approx((0.25,) * 3, rel=1e-4)
    assert texture_by_band(truth, truth) == (1, 1, 1)
    assert texture_by_band(truth, torch.zeros_like(truth)) == (None, None, None)


def test_the_octaves_touch_and_the_last_is_that_of_texture() -> None:
    assert all(upper == lower for (_, upper), (lower, _) in itertools.pairwise(BANDS))
    truth, picture = (0.5 + 0.1 * noise(1, 40, 50, seed=seed).expand(3, -1, -1) for seed in (0, 1))
    assert texture_by_band(picture, truth)[-1] == pytest.approx(texture(to_y(picture), to_y(truth)), rel=1e-6)


# -------------------------------------------------------------------------------------------------------- consistency


def test_consistency_is_the_difference_from_the_input_after_pillows_shrinking() -> None:
    image = photograph("gates.jpg", 64)
    small = image.resize((16, 16), Image.Resampling.BICUBIC)
    picture = to_tensor(image)
    assert consistency(picture, to_tensor(small)) == 0
    assert consistency(torch.full((3, 64, 64), 100 / 255), torch.full((3, 16, 16), 97 / 255)) == pytest.approx(3)
    half = torch.full((3, 16, 16), 100 / 255)
    half[:, :8] += 4 / 255  # half of the values are off by 4
    assert consistency(torch.full((3, 64, 64), 100 / 255), half) == pytest.approx(math.sqrt(8), rel=1e-5)


# ------------------------------------------------------------------------------------------------ parts of the measure


@pytest.mark.parametrize(("height", "width"), [(40, 33), (SECTION, SECTION), (SECTION + 1, 700), (1300, 2 * SECTION)])
def test_sections_cover_the_picture_once(height: int, width: int) -> None:
    covered, shares = torch.zeros(height, width), 0.0
    for rows, columns, share in perception._sections(height, width):
        part = covered[rows, columns]
        assert max(part.shape) <= SECTION and share == pytest.approx(part.numel() / (height * width))
        part += 1
        shares += share
    assert shares == pytest.approx(1) and bool((covered == 1).all())


def test_local_statistics_are_those_of_the_window() -> None:
    """In the middle of a feature they equal the weighted mean and deviation, written out; a constant deviates by 0."""
    features = 30 + noise(2, 3, 25, 31).double().float()
    mean, deviation = perception._local_statistics(features)
    offsets = torch.arange(-5, 6)
    weights = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    window = features[:, :, 12 - 5 : 12 + 6, 15 - 5 : 15 + 6]
    expected = (weights * window).sum((-2, -1))
    assert torch.allclose(mean[:, :, 12, 15], expected, rtol=1e-5)
    variance = (weights * (window - expected[..., None, None]).square()).sum((-2, -1))
    assert torch.allclose(deviation[:, :, 12, 15], variance.sqrt(), rtol=1e-3)
    mean, deviation = perception._local_statistics(torch.full((1, 2, 9, 7), 40.0))
    assert torch.allclose(mean, torch.full_like(mean, 40.0)) and float(deviation.max()) < 1e-3


def test_relative_differences_of_known_vectors() -> None:
    vectors = noise(1, 5, 4, 4)
    for other, expected in ((vectors, 0), (0 * vectors, 1), (-vectors, 2), (3 * vectors, 0.4)):
        assert perception._relative_difference(torch.cat([vectors, other])) == pytest.approx(expected, rel=1e-4)


def test_means_count_the_pictures_that_have_a_figure() -> None:
    figures = Perception(0.2, 0.4, 0.1, 0.3, 1.0, 0.5, None)
    small = Perception(None, None, None, None, 2.0, 1.5, None)
    assert mean_perception([figures, small]) == Perception(0.2, 0.4, 0.1, 0.3, 1.5, 1.0, None)
    assert mean_perception([figures, small]).to_dict() == dict(
        lpips=0.2, efficientnet=0.4, gmsd=0.1, mdsi=0.3, texture_coarse=1.5, texture_medium=1.0
    )


def test_a_figure_needs_pictures_of_one_size_and_large_enough() -> None:
    with pytest.raises(ValueError, match="size"):
        perceive(torch.zeros(3, 40, 40), torch.zeros(3, 40, 41))
    tiny = perceive(torch.rand(3, MIN_SIDE - 1, 50), torch.rand(3, MIN_SIDE - 1, 50))
    assert all(getattr(tiny, name) is None for name in DISTANCES) and tiny.texture_fine is not None


# ------------------------------------------------------------------------------------------------- without the extra


@pytest.mark.parametrize("absent", PACKAGES)
def test_without_the_extra_the_error_names_it(
    absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands say what to install before any work, and without the option they work as ever."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == absent else found(name, *more))
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    photograph("gates.jpg", 32).save("in/a.png")
    if not missing or absent == PACKAGES[0]:  # the first that is missing is named
        with pytest.raises(UsageError, match=absent) as caught:
            perceive(torch.rand(3, 40, 40), torch.rand(3, 40, 40))
        assert caught.value.hint == "pip install 'restorer[measure]'"
    for command in (["evaluate", "in"], ["compare", "in/a.png", "in/a.png"]):
        assert run([*command, "--perception"]) == 2
        assert re.search(r"pip\s+install\s+'restorer\[measure\]'", capsys.readouterr().err)
        assert run(command) == 0


# ---------------------------------------------------------------------------------------------------- with the extra


@needs_extra
def test_equal_pictures_have_no_distance() -> None:
    for name in ("gates.jpg", "eagles.jpg"):
        picture = to_tensor(photograph(name))
        figures = perceive(picture, picture)
        assert [getattr(figures, name) for name in DISTANCES] == [0, 0, 0, 0]
        assert (figures.texture_coarse, figures.texture_medium, figures.texture_fine) == (1, 1, 1)


@needs_extra
@pytest.mark.parametrize("name", ["gates.jpg", "eagles.jpg", "grapes.jpg"])
def test_more_damage_is_more_distance(name: str) -> None:
    """All distances grow with blur, with noise and with compression; only blur takes texture away."""
    image = photograph(name)
    truth = to_tensor(image)
    blurred = [to_tensor(image.filter(ImageFilter.GaussianBlur(sigma))) for sigma in (0.5, 1, 2, 4)]
    noisy = [(truth + sigma / 255 * noise(*truth.shape)).clamp(0, 1) for sigma in (3, 10, 30)]
    for damaged in (blurred, noisy):
        figures = [perceive(picture, truth) for picture in damaged]
        for distance in DISTANCES:
            values = [getattr(f, distance) for f in figures]
            assert values == sorted(values) and values[0] > 0
        fine = [f.texture_fine for f in figures]
        assert fine == sorted(fine, reverse=damaged is blurred)


@needs_extra
@pytest.mark.parametrize("name", ["gates.jpg", "eagles.jpg", "grapes.jpg"])
def test_features_forgive_what_nobody_sees(name: str) -> None:
    """A shift by a pixel and a little less contrast count less than a blur that is plain to see."""
    image = photograph(name, 128)
    truth = to_tensor(image)
    blurred = feature_distances(to_tensor(image.filter(ImageFilter.GaussianBlur(1.5))), truth)
    for harmless in (truth.roll(1, -1), 0.5 + 0.97 * (truth - 0.5)):
        distances = feature_distances(harmless, truth)
        assert all(distances[network] < blurred[network] / 3 for network in distances)


@needs_extra
def test_distances_are_symmetric_and_take_gray_as_colour() -> None:
    a, b = (to_tensor(photograph(name, 64)) for name in ("gates.jpg", "grapes.jpg"))
    ab, ba = feature_distances(a, b), feature_distances(b, a)
    assert ab == pytest.approx(ba, rel=1e-5)
    gray_a, gray_b = a[:1], b[:1]
    assert perceive(gray_a, gray_b) == perceive(gray_a.expand(3, -1, -1), gray_b.expand(3, -1, -1))


@needs_extra
def test_a_large_picture_is_the_mean_of_its_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (to_tensor(photograph(name, 96)) for name in ("gates.jpg", "grapes.jpg"))
    monkeypatch.setattr(perception, "SECTION", 48)
    whole = feature_distances(a, b)
    quarters = [(slice(y, y + 48), slice(x, x + 48)) for y in (0, 48) for x in (0, 48)]
    parts = [feature_distances(a[:, rows, columns], b[:, rows, columns]) for rows, columns in quarters]
    for network, value in whole.items():
        assert value == pytest.approx(sum(part[network] for part in parts) / 4, rel=1e-5)


@needs_extra
def test_gradients_are_those_of_piq() -> None:
    import_torchvision()
    piq = pytest.importorskip("piq")
    a, b = (to_tensor(photograph(name, 64)) for name in ("gates.jpg", "grapes.jpg"))
    figures = perceive(a, b)
    assert figures.gmsd == pytest.approx(float(piq.gmsd(a[None], b[None])), rel=1e-5)
    assert figures.mdsi == pytest.approx(float(piq.mdsi(a[None], b[None])), rel=1e-5)


@needs_extra
def test_other_weights_are_refused() -> None:
    """The figures are defined by the very files of weights."""
    with pytest.raises(UsageError, match="other weights"):
        perception._load(EfficientNetLite0(), replace(EFFICIENTNET_WEIGHTS, sha256="0" * 64))


@needs_extra
def test_lpips_is_that_of_its_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance is that which the package of the weights computes itself."""
    for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):
        if importlib.util.find_spec(name) is None:
            module = ModuleType(name)
            setattr(module, attribute, None)
            monkeypatch.setitem(sys.modules, name, module)
    import_torchvision()
    stlpips = pytest.importorskip("stlpips_pytorch.stlpips")
    theirs = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    a, b = (to_tensor(photograph(name, 75)) for name in ("gates.jpg", "grapes.jpg"))
    with torch.inference_mode():
        expected = float(theirs(a[None], b[None], normalize=True))
    assert feature_distances(a, b)["lpips"] == pytest.approx(expected, rel=1e-4)


@needs_extra
def test_features_of_efficientnet_are_those_of_the_package_that_converted_it() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    ours = perception._load(EfficientNetLite0(), EFFICIENTNET_WEIGHTS)
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    states = theirs.state_dict()
    states.update({name: value for name, value in ours.state_dict().items() if name in states})
    theirs.load_state_dict(states)
    picture = to_tensor(photograph("gates.jpg", 64))[None]
    with torch.inference_mode():
        x, features = theirs._swish(theirs._bn0(theirs._conv_stem((255 * picture - 127) / 128))), []
        for block in theirs._blocks[:11]:
            x = block(x)
            features.append(x)
        for index, feature in zip((0, 2, 4, 10), ours(picture), strict=True):
            assert torch.allclose(feature, features[index], atol=1e-4)


def test_the_networks_give_the_features_that_are_compared() -> None:
    """The definitions run without the weights, on sides that are odd too, and give what the measure expects."""
    picture = torch.rand(1, 3, 67, 90)
    alexnet, efficientnet = ShiftTolerantAlexNet(), EfficientNetLite0().eval()
    features = alexnet(picture)
    assert [f.shape[1] for f in features] == [w.numel() for w in alexnet.channel_weights()] == [64, 192, 384, 256, 256]
    assert all(bool((f >= 0).all()) for f in features)
    assert [f.shape[1] for f in efficientnet(picture)] == [16, 24, 40, 112]
    assert [f.shape[-1] for f in efficientnet(picture)] == [90 // 2, 90 // 4, 90 // 8, 90 // 16]


# ------------------------------------------------------------------------------------------------------ the commands


@needs_extra
def test_scores_hold_the_figures_on_request() -> None:
    truth = to_tensor(photograph("gates.jpg", 64))
    sample = degrade(truth, Condition("upscale", scale=4), 0)
    large = sample.degraded.repeat_interleave(4, -1).repeat_interleave(4, -2)
    scores, figures = measure(large, sample, perception=True), perceive(large, truth)
    assert scores.consistency == consistency(large, sample.degraded)
    for name in (*DISTANCES, "texture_coarse", "texture_medium", "texture_fine"):
        assert getattr(scores, name) == getattr(figures, name)
    assert measure(large, sample).lpips is None
    denoised = measure(truth, degrade(truth, Condition("denoise", sigma=25.0), 0), perception=True)
    assert denoised.consistency is None and denoised.lpips == 0


@needs_extra
def test_the_commands_report_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table, the CSV file, the lines and the JSON hold them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    for folder in ("in", "other"):
        Path(folder).mkdir()
        photograph("gates.jpg", 64).filter(ImageFilter.GaussianBlur(folder == "other")).save(f"{folder}/a.png")
    command = ["evaluate", "in", "--task", "upscale", "--steps", "2", "--perception"]
    assert run([*command, "--csv", "figures.csv"]) == 0
    output = capsys.readouterr().out
    assert "LPIPS" in output and "consistency" in output
    header, row = Path("figures.csv").read_text().splitlines()
    assert header.endswith("sigma,lpips,efficientnet,gmsd,mdsi,texture_coarse,texture_medium,texture_fine,consistency")
    assert float(row.split(",")[-8]) > 0
    assert run([*command, "--json"]) == 0
    result, summary = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert result["lpips"] == summary["means"][0]["lpips"] > 0 and result["consistency"] >= 0
    assert run(["compare", "in/a.png", "other/a.png", "--perception", "--json"]) == 0
    (compared,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert compared["figures"]["b"]["lpips"] > 0 and compared["figures"]["b"]["texture_fine"] < 0.2
    assert run(["compare", "in", "other", "--perception", "--json"]) == 0
    _, means = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert means["means"]["b"]["lpips"] == pytest.approx(compared["figures"]["b"]["lpips"], abs=1e-5)
    assert run(["compare", "in/a.png", "other/a.png", "--perception"]) == 0
    assert "texture" in capsys.readouterr().err
