"""The training of the network that enlarges: its pairs, its losses, and a run that is stopped and continued."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError, PictureError, UsageError
from restorer.models.checkpoints import load_model, save_model
from restorer.models.load import load_prior
from restorer.networks.unet import UNetConfig
from restorer.priors.experts import SPREAD, first_level
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.training import prepared_pairs
from restorer.training.adversary import Features, Heads, Seen, discriminator_loss, feature_distance
from restorer.training.enlarger import Trainer, _distance, train_enlarger
from restorer.training.enlarger_pairs import EnlargerRecipe, make_pairs
from restorer.training.first_answer import answer_once, read_recipe
from restorer.training.prepared_pairs import Prepared, make_pair, random_crop, read_pairs
from restorer.training.shrinking import enlarge_bicubic, shrink

RECIPE = EnlargerRecipe(mean_steps=3, steps=8, batch=2, crop=32, ema=0.9)
PHOTOGRAPHS = Path(__file__).parents[1] / "images"


def test_pairs_depend_on_the_step_alone(pictures) -> None:
    first, again, other = (make_pairs(pictures, RECIPE, number) for number in (5, 5, 6))
    assert torch.equal(first.large, again.large) and torch.equal(first.enlarged, again.enlarged)
    assert not torch.equal(first.large, other.large)
    assert first.large.shape == first.enlarged.shape == (2, 3, 32, 32)
    assert first.large.abs().max() <= 1 and first.level.dtype == torch.float64


def test_small_pictures_of_every_state_are_made(pictures) -> None:
    rng = np.random.default_rng(0)
    crop = pictures[0][:128, :128]
    made = [shrink(crop, rng) for _ in range(300)]
    states = [small.state for small in made]
    assert 80 < states.count("clean") < 130 and 25 < states.count("soft") < 70 and 110 < states.count("damaged")
    sides = {len(small.pixels) for small in made}
    assert 32 in sides and 64 in sides and min(sides) == 32 and max(sides) <= 86


def made_pairs(large: np.ndarray, state: str, count: int) -> list[Prepared]:
    """Return the first pairs of a state."""
    prior = load_prior(precision="fp32")
    made = (make_pair(large, np.random.default_rng(seed), prior, None) for seed in range(100))
    return list(islice((pair for pair in made if pair.state == state), count))


@pytest.mark.parametrize("state", ["repaired", "damaged", "soft"])
def test_pairs_of_every_state_are_made_before(pictures, state) -> None:
    large = np.ascontiguousarray(pictures[0][:192, :192])
    pairs = made_pairs(large, state, 3)
    np.testing.assert_array_equal(pairs[0].small, made_pairs(large, state, 1)[0].small)
    for pair in pairs:
        assert round(pair.factor, 2) in (2, 2.67, 4) and pair.taught is None
        side = len(pair.small)
        shrunk = np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.BICUBIC)).astype(float)
        assert 1 < np.sqrt(np.square(pair.small - shrunk).mean()) < 40


def test_compression_is_undone_in_the_pairs_that_are_made_before(pictures, monkeypatch) -> None:
    large = np.ascontiguousarray(pictures[0][:192, :192])
    monkeypatch.setattr(prepared_pairs, "SHARES", {"repaired": 1.0})
    monkeypatch.setattr(prepared_pairs, "QUALITIES", (30.0, 31.0))
    monkeypatch.setattr(prepared_pairs, "NOISY_SHARE", 0.0)
    monkeypatch.setattr(prepared_pairs, "damage", lambda large, side, rng: shrunk)
    seen, prior, better = [], load_prior(precision="fp32"), 0
    for seed in range(4):
        side = round(192 / float(np.random.default_rng(seed).choice([4.0, 2.0, 8 / 3], p=[0.8, 0.12, 0.08])))
        shrunk = np.asarray(Image.fromarray(large).resize((side, side), Image.Resampling.BICUBIC))

        def teach(given: torch.Tensor) -> torch.Tensor:
            seen.append((given * 255).round().byte().permute(1, 2, 0).numpy())
            return torch.zeros(3, 192, 192)

        pair = make_pair(large, np.random.default_rng(seed), prior, teach)
        if pair.taught is None:
            assert pair.factor != 4
            continue
        errors = [np.square(small.astype(float) - shrunk).mean() for small in (pair.small, seen[-1])]
        better += errors[0] < errors[1]
    assert better == len(seen) >= 2  # the teacher sees the JPEG itself, which is farther from the truth


def test_crops_of_pairs_are_the_same_part_in_the_same_orientation(pictures) -> None:
    large = np.ascontiguousarray(pictures[1][:128, :128])
    small = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BOX))
    pair, rng = Prepared(large, small, "soft", 255 - large), np.random.default_rng(1)
    whole = enlarge_bicubic(small, 128)
    orientations = set()
    for _ in range(30):
        crop = random_crop(pair, 64, rng)
        np.testing.assert_array_equal(crop.taught, 255 - crop.large)
        places = [
            (y, x, turns, step)
            for y in range(0, 65, 8)
            for x in range(0, 65, 8)
            for turns in range(4)
            for step in (1, -1)
            if np.array_equal(np.rot90(large[y : y + 64, x : x + 64], turns)[:, ::step], crop.large)
        ]
        [(y, x, turns, step)] = places
        np.testing.assert_array_equal(np.rot90(whole[y : y + 64, x : x + 64], turns)[:, ::step], crop.enlarged)
        orientations.add((turns, step))
    assert len(orientations) == 8


def test_pairs_are_written_once_and_read(tmp_path, monkeypatch) -> None:
    calls = []

    def make(large, rng, prior, teacher, scale):
        calls.append(1)
        return Prepared(large, large[::4, ::4], "damaged", None if len(calls) == 1 else 255 - large)

    monkeypatch.setattr(prepared_pairs, "make_pair", make)
    shard = tmp_path / "pictures"
    shard.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (330, 340, 3), np.uint8)).save(shard / "a.png")
    for _ in range(2):
        prepared_pairs.write_pairs([shard], tmp_path / "pairs", range(3, 5), 0)
    assert len(calls) == 2
    untaught, taught = read_pairs(tmp_path / "pairs")
    assert (untaught.factor, untaught.state, untaught.large.shape) == (4, "damaged", (320, 320, 3))
    np.testing.assert_array_equal(untaught.small, untaught.large[::4, ::4])
    assert untaught.taught is None
    np.testing.assert_array_equal(taught.taught, 255 - taught.large)
    with pytest.raises(PictureError, match="no pairs"):
        read_pairs(shard)


def test_the_share_of_pairs_is_that_of_the_recipe(pictures) -> None:
    large = np.zeros((64, 64, 3), np.uint8)
    pair = Prepared(large, large[::2, ::2], "repaired")
    recipe = replace(RECIPE, prepared=0.5, batch=20)
    found = torch.cat([make_pairs(pictures, recipe, number, [pair]).level for number in range(10)])
    share = (found == first_level(2, "repaired") / SPREAD).double().mean()
    assert 0.38 < share < 0.62


def test_what_a_teacher_made_stands_beside_the_crops_that_have_one(pictures) -> None:
    large = np.zeros((64, 64, 3), np.uint8)
    pair = Prepared(large, large[::4, ::4], "soft", large + 51)
    pairs = make_pairs(pictures, replace(RECIPE, prepared=0.5, batch=20), 0, [pair])
    is_prepared = pairs.level == first_level(4, "soft") / SPREAD
    is_black = pairs.large.flatten(1).eq(-1).all(1)
    assert 0 < int(is_black.sum()) < 20 and bool(is_prepared[is_black].all())
    torch.testing.assert_close(pairs.taught[is_black], torch.full_like(pairs.taught[is_black], -0.6))
    assert torch.equal(pairs.taught[~is_black], pairs.large[~is_black])


def test_a_clean_small_picture_is_that_of_pillow(pictures) -> None:
    crop = pictures[1][:96, :96]
    rng = np.random.default_rng(3)
    clean = next(small for _ in range(50) if (small := shrink(crop, rng)).state == "clean")
    side = len(clean.pixels)
    expected = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(clean.pixels, expected)


def test_interpolation_is_that_of_pillow(pictures) -> None:
    small = pictures[0][:24, :24]
    exact = (enlarge_bicubic(small, 96) + 1) * 127.5
    expected = np.asarray(Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC))
    difference = np.abs(exact.clip(0, 255) - expected)  # Pillow rounds and clips between the axes, too
    assert np.median(difference) < 0.5 and np.quantile(difference, 0.99) < 1.5


def test_levels_say_the_scale_and_the_state(pictures) -> None:
    levels = torch.cat([make_pairs(pictures, RECIPE, number).level for number in range(40)])
    known = [first_level(4, state) / SPREAD for state in ("clean", "damaged", "soft")]
    assert all((levels - level).abs().min() < 1e-9 for level in known)


def test_damaged_small_pictures_count_as_noisy(pictures) -> None:
    made = [make_pairs(pictures, RECIPE, number) for number in range(40)]
    levels, is_noisy = (torch.cat([getattr(pairs, name) for pairs in made]) for name in ("level", "is_noisy"))
    damaged = [first_level(scale, "damaged") / SPREAD for scale in (1.5, 4)]
    assert torch.equal(is_noisy, (levels >= damaged[0]) & (levels <= damaged[1])) and 0 < int(is_noisy.sum()) < len(
        levels
    )


def test_the_network_answers_as_the_prior_does(prior_folder) -> None:
    network, spec = load_model(prior_folder)
    x = torch.rand(2, 3, 32, 32) * 1.2 - 0.6
    level = torch.tensor([0.2, 0.4], dtype=torch.float64)
    with torch.no_grad():
        trained = answer_once(network.float(), spec, x, level)
    answered = UNetPrior(network, replace(spec, clip=False)).predict(x, level).x0
    torch.testing.assert_close(trained, answered, atol=1e-5, rtol=1e-5)


def test_features_of_equal_pictures_do_not_differ(prior_folder) -> None:
    network, spec = load_model(prior_folder)
    features = Features(network.float(), spec)
    x, sigma = torch.rand(2, 3, 32, 32), torch.tensor([0.05, 0.2])
    features.calibrate(x, sigma)
    found = features(x, sigma)
    assert [f.shape[1] for f in found] == [8, 16]
    assert all(float(f.square().mean()) == pytest.approx(1, rel=0.2) for f in found)
    assert feature_distance(found, features(x, sigma)) == 0
    assert feature_distance(found, features(x + 0.1, sigma)) > 0


def test_the_loss_of_the_heads_compares_the_same_places() -> None:
    judged = [torch.randn(2, 1, 8, 8) for _ in range(3)]
    undecided = discriminator_loss(judged, judged)
    assert float(undecided) == pytest.approx(math.log(2))
    assert discriminator_loss([j + 20 for j in judged], judged) < 1e-6
    assert float(discriminator_loss(judged, [j + 20 for j in judged])) == pytest.approx(20)


def test_the_head_on_the_pixels_has_its_share_of_the_loss() -> None:
    zero, sure = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 40.0)
    of_pixels = discriminator_loss([sure, zero, zero], [zero] * 3)
    of_one_level = discriminator_loss([zero, sure, zero], [zero] * 3)
    assert float(of_pixels) == pytest.approx(math.log(2) / 3) and float(of_one_level) == pytest.approx(
        math.log(2) * 5 / 6
    )


def _random_views(shift: float) -> Seen:
    """Return random pixels and features, around a value."""
    return Seen(torch.randn(4, 3, 20, 20) + shift, [torch.randn(4, width, 10, 10) + shift for width in (8, 16)])


@pytest.mark.parametrize("shifts", [(0.7, 0.0), (0.0, 0.7)])
def test_heads_learn_to_tell_two_kinds_apart_by_pixels_and_by_features(shifts) -> None:
    torch.manual_seed(0)
    heads, sigma = Heads((8, 16)), torch.full((4,), 0.1)
    optimizer = torch.optim.Adam(heads.parameters(), 2e-3)

    def judgements() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        real, given, made = (_random_views(0) for _ in range(3))
        made = Seen(made.pixels + shifts[0], [f + shifts[1] for f in made.features])
        return heads(real, given, sigma), heads(made, given, sigma)

    for _ in range(60):
        optimizer.zero_grad()
        discriminator_loss(*judgements()).backward()
        optimizer.step()
    with torch.no_grad():
        real, made = judgements()
    is_right = [float((r - m).mean()) > 1 for r, m in zip(real, made, strict=True)]
    assert is_right == [shifts[0] > 0, shifts[1] > 0, shifts[1] > 0]


def test_heads_use_the_input_beside_what_they_judge() -> None:
    torch.manual_seed(0)
    heads, sigma = Heads((8, 16)), torch.full((4,), 0.1)
    seen, given = _random_views(0), _random_views(0)
    hidden = given.hide(torch.tensor([True, False, True, False]))
    beside, without = heads(seen, given, sigma), heads(seen, hidden, sigma)
    for one, other in zip(beside, without, strict=True):
        assert torch.equal(one[1::2], other[1::2]) and not torch.equal(one[::2], other[::2])
    nothing = Seen(torch.zeros_like(given.pixels), [torch.zeros_like(f) for f in given.features])
    for one, other in zip(without, heads(seen, nothing, sigma), strict=True):
        torch.testing.assert_close(one[::2], other[::2])


@pytest.mark.parametrize("of_features, of_classifier", [(2.0, 0.0), (0.0, 3.0)])
def test_the_parts_of_the_loss_have_the_ratios_of_the_recipe(
    prior_folder, pictures, classifier, of_features, of_classifier
) -> None:
    ratios = {"feature_ratio": of_features, "classifier_ratio": of_classifier, "adversary_ratio": 0.0}
    recipe = replace(RECIPE, mean_steps=0, levels=(0.1, 0.1 + 1e-9), **ratios)
    trainer = Trainer(prior_folder, recipe, torch.device("cpu"), bf16=False, classifier=classifier)
    pairs = make_pairs(pictures, recipe, 0)
    gradient = trainer._gradient(pairs.enlarged, pairs.large, pairs.enlarged, pairs.taught, pairs.is_noisy)
    count = pairs.large.numel()
    of_pixels = torch.sign(pairs.enlarged - pairs.large) / count
    rest = (gradient - of_pixels).norm() / of_pixels.norm()
    assert float(rest) == pytest.approx(of_features + of_classifier, rel=1e-3)


def test_a_recipe_with_a_classifier_needs_its_weights(prior_folder) -> None:
    with pytest.raises(UsageError, match="the recipe asks for a classifier"):
        Trainer(prior_folder, replace(RECIPE, classifier_ratio=1.0), torch.device("cpu"), bf16=False)


def test_the_discriminator_may_begin_alone(prior_folder, pictures) -> None:
    recipe = replace(RECIPE, mean_steps=0, heads_alone=2)
    trainer = Trainer(prior_folder, recipe, torch.device("cpu"), bf16=False)
    before = [p.clone() for p in trainer.network.parameters()]
    heads = [p.clone() for p in trainer.heads.parameters()]
    for number in range(2):
        trainer.run_step(make_pairs(pictures, recipe, number))
    assert all(torch.equal(p, q) for p, q in zip(trainer.network.parameters(), before, strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(trainer.heads.parameters(), heads, strict=True))
    trainer.run_step(make_pairs(pictures, recipe, 2))
    assert any(not torch.equal(p, q) for p, q in zip(trainer.network.parameters(), before, strict=True))
    assert trainer.step == 3 and recipe.rate_at(1) == 0 < recipe.rate_at(2) < recipe.rate_at(3)


def test_a_checkpoint_holds_the_deviations_of_the_classifier(prior_folder, pictures, classifier) -> None:
    recipe = replace(RECIPE, mean_steps=0, classifier_ratio=1.0)
    trainer = Trainer(prior_folder, recipe, torch.device("cpu"), bf16=False, classifier=classifier)
    trainer.run_step(make_pairs(pictures, recipe, 0))
    content = trainer.state_dict()
    other = Trainer(prior_folder, recipe, torch.device("cpu"), bf16=False, classifier=deepcopy(classifier))
    assert other.classifier is not None
    other.classifier.deviations.fill_(7)
    other.load_state_dict(deepcopy(content))
    for number in (1, 2):
        for each in (trainer, other):
            each.run_step(make_pairs(pictures, recipe, number))
    assert all(torch.equal(p, q) for p, q in zip(trainer.network.parameters(), other.network.parameters(), strict=True))


def test_a_run_goes_on_with_the_rates_of_its_recipe(prior_folder) -> None:
    content = Trainer(prior_folder, RECIPE, torch.device("cpu"), bf16=False).state_dict()
    faster = Trainer(prior_folder, replace(RECIPE, heads_rate=3e-3), torch.device("cpu"), bf16=False)
    faster.load_state_dict(content)
    assert [group["lr"] for group in faster.of_heads.param_groups] == [3e-3]


def test_a_run_begins_with_the_weights_of_another(prior_folder, tmp_path) -> None:
    network, spec = load_model(prior_folder)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(0.5)
    save_model(tmp_path, network, spec)
    trainer = Trainer(prior_folder, RECIPE, torch.device("cpu"), bf16=False, start=tmp_path)
    halves, wholes = (dict(n.named_parameters()) for n in (trainer.network, trainer.features.network))
    assert any(bool(p.any()) for p in wholes.values())
    for name, p in wholes.items():
        torch.testing.assert_close(halves[name], p / 2)


def test_the_best_answer_to_a_scattered_truth_is_the_teachers() -> None:
    truths, taught = torch.linspace(-1, 1, 1001), torch.full((1001,), 0.7)
    answers = torch.linspace(-1, 1, 201)
    losses = [float(_distance(torch.full_like(truths, float(g)), truths, taught)) for g in answers]
    assert float(answers[int(np.argmin(losses))]) == pytest.approx(0.7, abs=0.011)
    assert _distance(truths, truths, truths) == 0


def test_a_run_that_is_stopped_ends_like_one_that_is_not(prior_folder, tmp_path) -> None:
    data, whole, parts = [PHOTOGRAPHS / "gates.jpg"], tmp_path / "whole", tmp_path / "parts"
    train_enlarger(prior_folder, data, whole, RECIPE, device="cpu", bf16=False)
    for steps in (2, 5, 8):  # in the first stage, in the second, and to the end
        trainer_recipe = replace(RECIPE, steps=steps)
        if steps == 8:
            train_enlarger(prior_folder, data, parts, RECIPE, device="cpu", bf16=False)
        else:
            _run_part(prior_folder, data, parts, trainer_recipe)
    one, other = (load_model(folder)[0].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    init = load_model(prior_folder)[0].state_dict()
    assert any(not torch.equal(one[name], init[name]) for name in one)


def _run_part(init: Path, data: list[Path], out: Path, recipe: EnlargerRecipe) -> None:
    """Run the first steps with the rates of the whole run, as a run that is killed does."""

    class Cut(EnlargerRecipe):
        def rate_at(self, step: int) -> float:
            return RECIPE.rate_at(step)

    values = {name: getattr(recipe, name) for name in EnlargerRecipe.__dataclass_fields__}
    train_enlarger(init, data, out, Cut(**values), device="cpu", bf16=False)


def test_rates_rise_fall_and_end_at_zero() -> None:
    recipe = EnlargerRecipe(mean_steps=1000, steps=3000, hold=0.5)
    assert recipe.rate_at(0) < recipe.rate_at(49) < recipe.mean_rate
    assert recipe.rate_at(999) == pytest.approx(recipe.mean_rate / 10, rel=1e-3)
    assert recipe.rate_at(1500) == recipe.rate and recipe.rate_at(2000) == recipe.rate
    assert recipe.rate_at(2500) == pytest.approx(recipe.rate / 2)
    assert recipe.rate_at(3000) == pytest.approx(0, abs=1e-12) and math.isfinite(recipe.rate_at(5000))


def test_recipes_are_read_and_unknown_fields_refused(tmp_path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("steps = 12\nlevels = [0.01, 0.2]\n")
    assert read_recipe(path, EnlargerRecipe) == EnlargerRecipe(steps=12, levels=(0.01, 0.2))
    path.write_text("stepps = 12\n")
    with pytest.raises(UsageError, match="stepps"):
        read_recipe(path, EnlargerRecipe)


def test_other_networks_are_refused(tmp_path) -> None:
    config = UNetConfig(
        in_channels=3, out_channels=3, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    save_model(tmp_path, config.build(), ModelSpec(config, Schedule()))
    with pytest.raises(ModelError, match="ResidualUNet"):
        Trainer(tmp_path, RECIPE, torch.device("cpu"), bf16=False)
