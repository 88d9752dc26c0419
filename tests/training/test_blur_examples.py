"""The training of the network for blur: examples state their blur, and fitting them works."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from restorer.networks.blur_estimator import (
    ANGLES,
    KINDS,
    LEVELS,
    MAPS,
    PROFILE,
    RADII,
    BlurEstimator,
    SpectrumNetwork,
)
from restorer.training.blur_estimator import (
    NAMES,
    Examples,
    examine,
    examples_of,
    fit,
    is_held_out,
    load_estimator,
    load_examples,
    loss_of,
)
from restorer.training.simulated_blur import SHARES, choose_kind, drawing, simulate_blur

IMAGES = Path(__file__).resolve().parents[1] / "images"


def made_up(count: int) -> Examples:
    """Return examples whose kind is written into their profiles, and whose size into their maps."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(count) % len(KINDS)
    scalar = torch.rand(count, generator=generator) * 2
    maps = 0.1 * torch.randn(count, MAPS, ANGLES, RADII, generator=generator) + scalar.view(-1, 1, 1, 1)
    profiles = 0.1 * torch.randn(count, len(LEVELS) * PROFILE + 1, generator=generator)
    profiles[torch.arange(count), kind] += 3
    widths = scalar[:, None].expand(-1, ANGLES).clone()
    return Examples(torch.arange(count), maps.half(), profiles, kind, widths, scalar, torch.zeros(count))


def test_the_network_learns_what_the_examples_say() -> None:
    examples = made_up(320)
    network = fit(examples, epochs=20, batch=32)
    with torch.no_grad():
        raw = network(examples.maps.float(), examples.profiles)
    assert float((raw.kinds.argmax(1) == examples.kind).float().mean()) > 0.9
    is_defocus = examples.kind == KINDS.index("defocus")
    assert float((raw.scalars[:, 0] - examples.scalar)[is_defocus].abs().mean()) < 0.3
    torch.manual_seed(0)
    untrained = loss_of(SpectrumNetwork()(examples.maps.float(), examples.profiles), examples)
    assert float(loss_of(raw, examples)) < 0.6 * float(untrained.detach())


def test_examples_are_the_same_however_they_were_shared_out(tmp_path: Path) -> None:
    examples = made_up(40)
    for part in range(2):
        rows = (examples.photo % 2 == part).nonzero()[:, 0]
        torch.save({name: getattr(examples[rows], name) for name in NAMES}, tmp_path / f"{part}.pt")
    loaded = load_examples([tmp_path / "1.pt", tmp_path / "0.pt"])
    assert all(torch.equal(getattr(loaded, name), getattr(examples, name)) for name in NAMES)
    assert is_held_out(examples, 20).nonzero()[:, 0].tolist() == [0, 20] and not is_held_out(examples, 0).any()


def test_a_trained_network_is_examined(tmp_path: Path) -> None:
    examples, estimator = made_up(320), BlurEstimator(0)
    estimator.members.append(fit(examples, epochs=20, batch=32))
    weights = {name: weight.half() for name, weight in estimator.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    table = examine(load_estimator(tmp_path / "model.safetensors"), examples).splitlines()
    assert [line.split()[0] for line in table[1:]] == [*KINDS, "all"]
    for index, line in enumerate(table[1:-1]):
        likeliest = [float(share) for share in line.split(";")[1].replace("%", "").split()]
        assert int(line.split()[1]) == 64 and likeliest[index] == max(likeliest)
    chance = 1 - 1 / len(KINDS)  # the Brier score of equal probabilities
    assert float(table[-1].split("Brier score ")[1].split(",")[0]) < 0.75 * chance


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_pictures_state_their_blur(kind: str) -> None:
    with Image.open(IMAGES / "eagles.jpg") as image:
        half = image.convert("RGB").resize((image.width // 2, image.height // 2))
    photograph, rng = torch.from_numpy(np.array(half)).permute(2, 0, 1).float(), random.Random(0)
    for _ in range(6):
        made = simulate_blur(photograph, kind, rng)
        assert made.picture.ndim == 2 and torch.equal(made.picture, made.picture.round().clamp(0, 255))
        assert made.kind == kind and made.widths.shape == (ANGLES,)
        if kind == "gaussian":
            widths = made.widths.exp()
            assert 0.3 - 1e-4 <= float(widths.min()) <= float(widths.max()) <= 4.5 + 1e-4
        elif kind in ("defocus", "motion"):
            assert 0.9 <= math.exp(made.scalar) <= 36 and 0 <= made.angle < 180
        else:
            assert made.scalar == 0


def test_a_photograph_gives_the_same_examples_again() -> None:
    with Image.open(IMAGES / "gates.jpg") as image:
        photograph = image.convert("RGB")
    rows, again = (list(examples_of(photograph, 3, count=4)) for _ in range(2))
    assert rows and all(len(row) == 7 and row[1].shape == (MAPS, ANGLES, RADII) for row in rows)
    assert all(torch.equal(a, b) for one, two in zip(rows, again, strict=True) for a, b in zip(one, two, strict=True))


def test_kinds_are_drawn_by_their_shares() -> None:
    rng = random.Random(0)
    drawn = [choose_kind(rng) for _ in range(4000)]
    assert sum(SHARES.values()) == pytest.approx(1)
    for kind, share in SHARES.items():
        assert drawn.count(kind) / len(drawn) == pytest.approx(share, abs=0.03)


def test_a_drawing_has_edges() -> None:
    picture = drawing(200, 260, random.Random(0))
    assert picture.shape == (3, 200, 260) and float((picture[:, 1:] - picture[:, :-1]).abs().amax()) > 50
