"""Recipes, which are read, written and refused, and the model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from restorer.diffusion.schedule import Schedule
from restorer.errors import UsageError
from restorer.models.checkpoints import load_model
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec
from restorer.training.recipe import Recipe, model_card, read_recipe, recipe_text

PLAIN = ModelSpec(
    UNetConfig(
        in_channels=12,
        out_channels=12,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
        attention_head_dim=None,
    ),
    Schedule("squaredcos_cap_v2"),
    "v_prediction",
    patch_size=2,
    mirrors=True,  # because crops are mirrored by default
)
RESIDUAL = ModelSpec(
    ResidualUNetConfig(3, 6, (8,), 2), Schedule("linear", 100, 1e-3, 0.1), "sample", clip=False, mirrors=True
)


def test_a_recipe_is_read(tmp_path: Path) -> None:
    """A recipe file gives the network, its schedule and the training; missing fields have their defaults."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        [network]
        in_channels = 12
        out_channels = 12
        block_out_channels = [8, 16]
        down_block_types = ["DownBlock2D", "DownBlock2D"]
        up_block_types = ["UpBlock2D", "UpBlock2D"]
        layers_per_block = 1
        norm_num_groups = 4
        add_attention = false
        [schedule]
        name = "squaredcos_cap_v2"
        [prior]
        prediction_type = "v_prediction"
        patch_size = 2
        [training]
        steps = 3
        learning_rate = 2e-3
        """
    )
    expected = replace(PLAIN, network=replace(PLAIN.network, attention_head_dim=8))
    assert read_recipe(path) == (expected, Recipe(steps=3, learning_rate=2e-3))


@pytest.mark.parametrize("spec", [PLAIN, replace(RESIDUAL, mirrors=False)])
def test_round_trip(tmp_path: Path, spec: ModelSpec) -> None:
    """A recipe that is written and read again is unchanged."""
    recipe = Recipe(
        steps=7, discrete=True, min_snr=5.0, low_share=0.25, learning_rate=1.5e-4, optimizer="muon", balance=True,
        hold=0.5, turn=spec.mirrors,
    )  # fmt: skip
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(spec, recipe, "a run"))
    assert path.read_text().startswith("# a run\n") and read_recipe(path) == (spec, recipe)


@pytest.mark.parametrize(
    "text",
    [
        "steps = ",
        "[network]\nclass = 'Transformer'",
        "[network]\nclass = 'ResidualUNet'\nwidth = 3",
        "[network]\nclass = 'ResidualUNet'\nblock_out_channels = []",
        "[schedule]\nname = 'sigmoid'",
        "[prior]\nprediction_type = 'score'",
        "[training]\nsteps = 0",
        "[training]\nlearning_rate = -1.0",
        "[training]\nlow_share = 1.5",
        "[training]\nema = 1.0",
        "[training]\nhaste = 3",
        "[training]\noptimizer = 'sgd'",
        "[training]\noptimizer = 3",
        "[training]\nbalance = 1",
        "[training]\nsteps = 2.5",
        "[training]\ndiscrete = 1",
        "[training]\nbatch = true",
        "[trainning]\nsteps = 3",
        "network = 3",
        "[prior]\npatch_size = 0",
    ],
)
def test_what_describes_no_run(tmp_path: Path, text: str) -> None:
    """An invalid recipe is a usage error with a message of one line."""
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    """A recipe file that does not exist is a usage error."""
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "nowhere.toml")


def test_the_model_card() -> None:
    """The model card has front matter, the size of the network, the number of crops, and the given facts."""
    card = model_card(RESIDUAL, Recipe(steps=50, batch=4, accumulate=2), {"pictures": "12 pictures"})
    parameters = sum(p.numel() for p in RESIDUAL.network.build().parameters())
    assert card.startswith("---\n") and f"{parameters:,} parameters" in card
    assert "50 steps of 8 crops" in card and "(400 crops)" in card and "| pictures | 12 pictures |" in card


def test_the_recipe_of_the_embedded_prior() -> None:
    """The recipe describes the embedded network, which loads and takes less than 25 MB in 16 bits."""
    folder = Path(__file__).parents[2] / "weights" / "photo"
    spec, recipe = read_recipe(folder / "recipe.toml")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in spec.network.build().parameters())
    assert 2 * parameters < 25e6
    assert load_model(folder)[1] == spec and spec.mirrors
    assert recipe.crop % (spec.patch_size * 2 ** (len(spec.network.block_out_channels) - 1)) == 0
