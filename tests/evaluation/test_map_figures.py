"""What a map of the uncertainty says: shares, coverage, width and rank correlation, and which result it belongs to."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from restorer.diffusion.uncertainty import local_mean
from restorer.errors import PictureError, UsageError
from restorer.evaluation.map_figures import (
    BANDS,
    band_shares,
    find_map,
    judge_map,
    load_map,
    map_figures,
    owner_of,
    rank_correlation,
)
from restorer.evaluation.map_overlay import COLOURS, draw_over, overlay_image
from restorer.images.metadata import RECORD
from restorer.images.picture import Picture
from restorer.images.uncertainty_map import UncertaintyMap, encode_map, read_map

Z90 = 1.6448536269514722  # of a Gaussian, 90 % lies within this many standard deviations


@pytest.mark.parametrize("kind", ["distinct", "ties", "few values", "reversed"])
def test_the_rank_correlation_is_that_of_scipy(kind: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    b = {
        "distinct": a + rng.normal(size=400),
        "ties": np.round(a + rng.normal(size=400)),
        "few values": (a > 0).astype(float),
        "reversed": -np.exp(a),
    }[kind]
    a = np.round(a, 1) if kind == "ties" else a
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_a_constant_has_no_rank_correlation() -> None:
    assert math.isnan(rank_correlation(np.ones(9), np.arange(9.0)))


def judged(half: torch.Tensor, deviation: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a result and its truth, whose errors are Gaussian with these deviations in levels."""
    height, width = half.shape
    generator = torch.Generator().manual_seed(seed)
    result = torch.rand((3, height, width), generator=generator, dtype=torch.float64)
    noise = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    return result.float(), (result + noise * deviation / 255).float()


def test_a_right_map_covers_its_level_and_a_narrow_one_less() -> None:
    """Gaussian errors of deviation s lie within z s as often as the distribution says."""
    deviation = torch.linspace(1, 10, 200).expand(200, 200).double()
    result, truth = judged(deviation, deviation)
    right = judge_map((Z90 * deviation).float(), result, truth)
    narrow = judge_map(deviation.float(), result, truth)
    assert right is not None and narrow is not None
    assert right.coverage == pytest.approx(0.9, abs=0.005)
    assert narrow.coverage == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.005)
    assert right.quarters == pytest.approx([0.9] * 4, abs=0.01)
    assert right.rank > 0.9
    # A constant map of the same coverage has to be as wide as the large errors ask for.
    assert right.over_constant < 0.95


def test_a_constant_map_is_as_wide_as_itself() -> None:
    deviation = torch.full((100, 100), 4.0, dtype=torch.float64)
    result, truth = judged(deviation, deviation)
    found = judge_map((Z90 * deviation).float(), result, truth)
    assert found is not None
    assert found.over_constant == pytest.approx(1, abs=0.01)
    assert math.isnan(found.rank)


def test_the_rank_correlation_is_that_of_local_means() -> None:
    deviation = torch.rand((60, 60), generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 9 + 1
    result, truth = judged(deviation, deviation)
    half = (Z90 * deviation).float()
    found = judge_map(half, result, truth)
    error = local_mean((255 * (result - truth)).square().mean(0))
    assert found is not None
    assert found.rank == pytest.approx(spearmanr(local_mean(half).flatten(), error.flatten()).statistic, abs=1e-4)


def test_only_restored_pixels_count() -> None:
    half = torch.zeros(40, 40)
    half[10:20, 10:20] = 5
    result = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1))
    truth = result.clone()
    truth[:, :5] += 0.5  # of pixels that no map speaks of
    truth[:, 10:20, 10:15] += 10 / 255
    found = judge_map(half, result, truth)
    assert found is not None
    assert found.coverage == 0.5
    assert sum(band.share for band in band_shares(half)) == 1
    assert judge_map(torch.zeros(40, 40), result, truth) is None
    assert [band.share for band in band_shares(torch.zeros(4, 4))] == [0] * (len(BANDS) + 1)


def test_bands_include_their_upper_limits() -> None:
    half = torch.tensor([[0.5, 1.0, 1.5, 5.0], [5.1, 20.0, 51.0, 0.0]])
    shares = {band.label: band.share for band in band_shares(half)}
    expected = {
        "up to 1": 2 / 7,
        "1 to 2": 1 / 7,
        "2 to 5": 1 / 7,
        "5 to 10": 1 / 7,
        "10 to 20": 1 / 7,
        "20 to 50": 0.0,
        "over 50": 1 / 7,
    }
    assert shares == pytest.approx(expected)


def test_the_words_of_another_level() -> None:
    """A constant half width is that of the share that the map names, whatever that is."""
    for level in (0.5, 0.9, 0.99):
        words = map_figures(UncertaintyMap(np.full((8, 8), 4.0, np.float32), level, True)).certainty.describe()
        assert words == f"{100 * level:g} % of the pixels are within 4 levels"


def test_a_truth_of_another_size_is_none() -> None:
    found = UncertaintyMap(np.full((8, 8), 4.0, np.float32), 0.9, True)
    assert map_figures(found, torch.rand(3, 8, 8), torch.rand(3, 4, 4)).judged is None
    assert map_figures(found).to_dict()["coverage"] is None


def picture(side: int, record: str = "") -> Picture:
    return Picture(np.zeros((side, side, 3), np.uint8), text={RECORD: record} if record else {})


def test_a_map_belongs_to_the_result_with_its_record() -> None:
    found = UncertaintyMap(np.ones((8, 8), np.float32), 0.9, True, text={RECORD: "one"})
    names = ["a", "b"]
    assert owner_of(found, [picture(8, "one"), picture(8, "two")], names) == (0, "")
    assert owner_of(found, [picture(8, "one"), picture(8)], names) == (0, "")
    assert owner_of(found, [picture(8), picture(8)], names) == (1, "")
    assert owner_of(found, [picture(8), picture(4)], names) == (0, "")
    number, note = owner_of(found, [picture(8), picture(8, "two")], names)
    assert number == 1 and "another result than b" in note
    with pytest.raises(UsageError, match="8x8"):
        owner_of(found, [picture(4), picture(5)], names)


def test_maps_are_found_by_name(tmp_path: Path) -> None:
    for name in ("sub/x_denoised_uncertainty.png", "x.png", "y_uncertainty.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert find_map(tmp_path, Path("sub"), ["x_denoised", "x"]) == tmp_path / "sub/x_denoised_uncertainty.png"
    assert find_map(tmp_path, Path(), ["x_denoised", "x"]) == tmp_path / "x.png"
    assert find_map(tmp_path, Path(), ["y_denoised", "y"]) == tmp_path / "y_uncertainty.png"
    assert find_map(tmp_path, Path(), ["z"]) is None


def test_a_map_keeps_the_kind_of_its_constants(tmp_path: Path) -> None:
    path = tmp_path / "u.png"
    path.write_bytes(encode_map(np.ones((4, 4)), 0.9, calibrated=True, kind="wide holes"))
    found = read_map(path)
    assert found is not None
    assert (found.kind, found.calibrated) == ("wide holes", True)
    assert found.unit == "a value of 256 is a half width of one level of 0..255"
    path.write_bytes(b"no map")
    with pytest.raises(PictureError, match="not a map"):
        load_map(path)
    with pytest.raises(PictureError, match="does not exist"):
        load_map(tmp_path / "none.png")


def test_the_overlay_has_the_colours_of_the_bands() -> None:
    half = torch.tensor([[0.0, 0.5, 1.5, 3.0, 7.0, 15.0, 30.0, 90.0]])
    result = torch.full((3, 1, 8), 100 / 255)
    shown = (draw_over(result, half, opacity=1.0) * 255).round().byte()[:, 0].T.tolist()
    assert shown[0] == [100] * 3
    assert ["#{:02x}{:02x}{:02x}".format(*colour) for colour in shown[1:]] == list(COLOURS)
    faint = draw_over(result, half, opacity=0.25)
    torch.testing.assert_close(faint, 0.75 * result + 0.25 * draw_over(result, half, opacity=1.0))


@pytest.mark.parametrize("width", [5, 300, 900])
def test_the_legend_lies_below_the_overlay(width: int) -> None:
    half = torch.full((10, width), 3.0)
    image = np.asarray(overlay_image(torch.zeros(3, 10, width), half, band_shares(half)))
    expected = [round(0.7 * int(COLOURS[2][i : i + 2], 16)) for i in (1, 3, 5)]
    assert (image[:10, :width] == expected).all()
    assert image.shape[0] > 10 and image.shape[1] >= width
    swatches = image[10:].reshape(-1, 3).tolist()
    for colour in COLOURS:  # every band is explained
        assert [int(colour[i : i + 2], 16) for i in (1, 3, 5)] in swatches
