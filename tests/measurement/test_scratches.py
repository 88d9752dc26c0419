"""Scratches are found where they were drawn, and nothing is found in photographs without damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from restorer.images.masks import grow
from restorer.measurement import scratches
from restorer.measurement.scratches import Rule, Scratches, find_scratches, followed, judged, log_odds
from restorer.measurement.strokes import CANDIDATE
from restorer.models.load import load_prior, load_scratch_finder, load_stroke_judge
from restorer.networks.scratch_finder import ScratchFinder
from restorer.networks.stroke_judge import StrokeJudge
from restorer.tasks.scratches import features_of

IMAGES = Path(__file__).resolve().parents[1] / "images"
PHOTOS = ("gates.jpg", "grapes.jpg", "eagles.jpg")


def photo(name: str, gray: bool = False) -> Image.Image:
    with Image.open(IMAGES / name) as image:
        return image.convert("L" if gray else "RGB")


def as_tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def no_features(x: Tensor) -> list[Tensor]:
    return []


def search(x: Tensor) -> Scratches:
    """Return what the weights of the package find."""
    features = features_of(load_prior(device="cpu"))
    return find_scratches(x, load_scratch_finder(), features, judge=load_stroke_judge())


def odds_of(x: Tensor) -> Tensor:
    """Return the log odds that the weights of the package give."""
    with torch.inference_mode():
        return log_odds(x, load_scratch_finder(), features_of(load_prior(device="cpu")))


def far_from(mask: np.ndarray) -> np.ndarray:
    """Return the pixels that are more than two away from what is marked; nearer ones may be filled with it."""
    return ~grow(mask, 2)


def scratched(image: Image.Image, seed: int) -> tuple[Image.Image, np.ndarray]:
    """Return a picture with white strokes of 2 to 4 pixels across it, and where they are."""
    rng, result = np.random.default_rng(seed), image.copy()
    mask = Image.new("1", image.size)
    for _ in range(3):
        points = [tuple(float(v) for v in rng.uniform(0, 1, 2) * image.size) for _ in range(2)]
        width = int(rng.integers(2, 5))
        ImageDraw.Draw(result).line(points, 250 if image.mode == "L" else (250, 250, 250), width)
        ImageDraw.Draw(mask).line(points, 1, width)
    return result, np.array(mask)


def test_clear_strokes_are_found() -> None:
    """A bar for what the weights find today, on pictures on which nothing else could be meant."""
    rows, columns = np.mgrid[:120, :160]
    shares = []
    for seed in range(6):
        image = Image.fromarray((20 + 30 * (seed % 3) + 0.2 * columns + 0.1 * rows).astype(np.uint8))
        damaged, mask = scratched(image, seed)
        found = search(as_tensor(damaged))
        assert found.fill.shape == mask.shape
        assert found.fill[far_from(mask)].mean() <= 0.001
        assert not search(as_tensor(image)).places
        shares.append(found.fill[mask].mean())
    assert np.mean(shares) >= 0.7


@pytest.mark.parametrize("gray", [False, True], ids=["colour", "gray"])
@pytest.mark.parametrize("name", PHOTOS)
def test_little_but_strokes_is_marked_in_photographs(name: str, gray: bool) -> None:
    image = photo(name, gray)
    image.thumbnail((320, 320))
    damaged, mask = scratched(image, 3)
    found, clean = (search(as_tensor(x)) for x in (damaged, image))
    assert found.fill[far_from(mask)].mean() <= 0.01  # a stroke may be followed along an edge that it crosses
    assert clean.share <= 0.003


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 16), (40, 5)])
def test_every_size_is_searched(size: tuple[int, int]) -> None:
    for channels in (1, 3):
        found = search(torch.full((channels, *size), 0.4))
        assert found.fill.shape == size and not found.fill.any()


def test_gray_and_colour_files_of_one_picture_agree() -> None:
    gray = as_tensor(scratched(photo("gates.jpg", gray=True), 1)[0])
    one, three = (odds_of(x) for x in (gray, gray.expand(3, -1, -1)))
    assert torch.equal(one, three)


def test_tiles_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    image = as_tensor(scratched(photo("gates.jpg"), 2)[0])
    whole = odds_of(image)
    monkeypatch.setattr(scratches, "TILE", 128)
    tiled = odds_of(image)
    torch.testing.assert_close(whole, tiled, atol=1e-2, rtol=0)


def test_tiles_cover_each_pixel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Red(ScratchFinder):
        def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
            return x[:, 0]

    image = torch.rand(3, 77, 130)
    monkeypatch.setattr(scratches, "TILE", 32)
    assert torch.equal(log_odds(image, Red(), no_features), image[0])


def test_evidence_limits_what_is_marked() -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
            return torch.full_like(x[:, 0], 9.0)

    evidence = torch.zeros(20, 30, dtype=torch.bool)
    evidence[5:9, 10:20] = True
    found = find_scratches(torch.rand(3, 20, 30), Everything(), no_features, evidence)  # type: ignore[arg-type]
    assert (found.fill == evidence.numpy()).all() and found.places == 1


def test_a_picture_is_seen_in_four_orientations() -> None:
    """A network that reads its columns one way, and its rows the other way, is asked from every side."""

    class Gradient(ScratchFinder):
        def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
            asked.append(x[0, 0])
            return x[:, 0] + torch.arange(x.shape[-1]) + 100 * torch.arange(x.shape[-2])[:, None]

    asked: list[Tensor] = []
    image = torch.rand(3, 32, 48)
    found = log_odds(image, Gradient(), no_features)
    x = image[0]
    for seen, expected in zip(asked, (x, x.flip(0, 1).T, x.flip(0, 1), x.T), strict=True):
        assert torch.equal(seen, expected)
    rows, columns = torch.arange(32.0)[:, None], torch.arange(48.0)
    one, other = columns + 100 * rows, rows + 100 * columns
    both_ways = (one + other + one.flip(0, 1) + other.flip(0, 1)) / 4
    torch.testing.assert_close(found, x + both_ways, atol=1e-2, rtol=0)


def test_what_has_a_chance_is_judged() -> None:
    class Doubling(StrokeJudge):
        def forward(self, context: Tensor) -> Tensor:
            return 2 * context[:, 0]

    odds = torch.tensor([[CANDIDATE - 1, -torch.inf, -1.0, 3.0]])
    assert torch.equal(judged(odds, Doubling()), torch.tensor([[CANDIDATE - 1, -torch.inf, -2.0, 6.0]]))
    nothing = torch.full((4, 5), -9.0)
    assert torch.equal(judged(nothing, Doubling()), nothing)


def test_the_judge_of_the_package_believes_a_line_more_than_scattered_pixels() -> None:
    """In a texture of low odds, pixels that are raised to about -2 are believed more if they lie on a line."""
    generator = torch.Generator().manual_seed(0)
    texture = -4.5 + 0.8 * torch.randn(160, 160, generator=generator)
    on_line, scattered = torch.zeros(2, 160, 160, dtype=torch.bool)
    on_line[80:82, 30:130] = True
    rows, columns = torch.randint(20, 140, (2, 200), generator=generator)
    scattered[rows, columns] = True
    with torch.inference_mode():
        line, others = (
            (judged(texture + 2.5 * raised, load_stroke_judge()) - texture)[raised].mean()
            for raised in (on_line, scattered)
        )
    assert line > others + 0.3


RULE = Rule(fair=-1.5, certain=0.5, among=0.5, evidence=20.0)


def test_places_are_followed_from_where_they_are_sure() -> None:
    odds = np.full((12, 40), -9.0)
    odds[2, 3:30] = -1.0  # a faint line
    odds[2, 15:22] = 4.0  # with a sure part
    odds[6, 3:30] = 0.4  # a line of much evidence that is nowhere sure
    odds[10, 5] = 8.0  # a sure pixel that is too little evidence
    found = followed(odds, RULE)
    expected = np.zeros((12, 40), dtype=bool)
    expected[2, 3:30] = True
    assert (found.fill == expected).all() and found.places == 1


def test_evidence_counts_from_the_fair_odds() -> None:
    """Seven pixels of 1.5 above the fair odds of -1.5 are evidence of 21, and six are evidence of 18."""
    odds = np.full((6, 40), -9.0)
    odds[1, :7] = odds[4, 20:26] = 1.5
    found = followed(odds, RULE)
    assert found.fill[1, :7].all() and found.fill.sum() == 7


def test_a_place_is_believed_sooner_beside_certain_damage() -> None:
    """Of 100 fair pixels, 36 are certain: the least odds fall by the root of 0.36 of the way, from 6 to 3."""
    rule = Rule(fair=-1.5, certain=6.0, among=1.0, evidence=20.0)
    odds = np.full((20, 50), -9.0)
    odds[2, 5:41] = 7.0
    odds[6, 5:25], odds[10, 5:25], odds[14, 5:29] = 2.9, 3.1, 0.0
    found = followed(odds, rule)
    assert found.places == 2 and found.fill[2, 5:41].all() and found.fill[10, 5:25].all()
    odds[2] = -9.0
    assert not followed(odds, rule).places
    odds[2, 5:41], odds[6], odds[14] = 7.0, -9.0, -9.0
    odds[10, 5:25] = 6.5  # all of it is certain
    odds[18, 5:9] = 1.5  # an evidence of 12 is too little
    assert followed(odds, rule).places == 2


def test_how_sure_it_is_is_the_mean_probability_of_what_is_marked() -> None:
    odds = np.full((8, 60), -9.0)
    odds[2, :30], odds[2, 30:] = 3.0, 1.0
    expected = np.mean([1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(-1.0))])
    assert followed(odds, RULE).sure == pytest.approx(expected)
    nothing = followed(np.full((8, 60), -9.0), RULE)
    assert nothing.sure == 0 and not nothing.places


@pytest.mark.parametrize(
    ("places", "pixels", "words"),
    [
        (0, 0, "no scratches or dust that can be told from the scene"),
        (1, 500, "found 1 scratch or speck, 5.0 % of the picture"),
        (12, 20, "found 12 scratches or specks, 0.2 % of the picture"),
        (2, 3, "found 2 scratches or specks, 0.03 % of the picture"),
    ],
)
def test_one_line_says_what_was_found(places: int, pixels: int, words: str) -> None:
    fill = np.zeros(10_000, dtype=bool)
    fill[:pixels] = True
    assert Scratches(fill.reshape(100, 100), places).describe() == words
