"""The recipe of a training run, its file format, and the model card that accompanies the weights.

A recipe is a TOML file with the tables [network] (its `class` and the fields of that configuration), [schedule],
[prior] (prediction_type, patch_size, clip, native_size) and [training]. Together with the pictures, it determines the
result apart from rounding.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from restorer.diffusion.schedule import Schedule
from restorer.errors import UsageError
from restorer.networks import NETWORKS
from restorer.priors.unet_prior import ModelSpec
from restorer.training.crops import Augmentation
from restorer.training.optimizer import OPTIMIZERS

__all__ = ["Recipe", "model_card", "read_recipe", "recipe_text"]

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


@dataclass(frozen=True)
class Recipe:
    """All numbers that determine how a prior is trained.

    Args:
        steps: Number of optimizer steps in all.
        batch: Number of crops in a forward pass, of all processes together.
        accumulate: Number of forward passes in a step.
        crop: Side of a crop in pixels.
        learning_rate: Peak of the learning rate.
        warmup: Number of steps during which the learning rate rises to its peak.
        hold: Share of the steps, 0 to 1, for which the learning rate stays at its peak before half a cosine takes it to
            zero at `steps`.
        low_t: End of the lower timesteps.
        low_share: Share of the crops, 0 to 1, whose t is drawn below `low_t`; for the others, t is drawn above.
        discrete: Whether t is an integer, as the variational bound of a learned variance needs, or a real number.
        min_snr: Gamma of the min-SNR weights (Hang et al. 2023), 0 for none.
        balance: Whether the loss at each noise level is divided by its running mean, which gives all levels the same
            weight.
        optimizer: "adamw", or "muon" for Muon on the hidden layers and AdamW on the rest.
        ema: Decay of the moving average of the weights.
        clip_gradient: Largest norm of the gradient.
        downscale: Probability that a crop is cut from a window of up to twice the side and shrunk.
        gray: Probability that a crop is converted to gray.
        jpeg: Probability that a crop is compressed before the noise is added; see `damage`.
        camera_noise: Probability that a crop has noise of a camera or a film beside the white noise; see `damage`.
        turn: Whether crops are rotated by multiples of 90 degrees and mirrored; the model then knows mirrored pictures
            (`mirrors`).
        seed: Seed of the weights, crops, timesteps and noise.

    Raises:
        UsageError: A value has the wrong type, or a number is out of range.
    """

    steps: int = 20_000
    batch: int = 16
    accumulate: int = 1
    crop: int = 96
    learning_rate: float = 5e-4
    warmup: int = 200
    hold: float = 0.0
    low_t: int = 600
    low_share: float = 0.7
    discrete: bool = False
    min_snr: float = 0.0
    balance: bool = False
    optimizer: str = "adamw"
    ema: float = 0.999
    clip_gradient: float = 1.0
    downscale: float = 0.3
    gray: float = 0.1
    jpeg: float = 0.0
    camera_noise: float = 0.0
    turn: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        for names, low, high in (
            (("steps", "batch", "accumulate", "crop", "warmup"), 1, 10**9),
            (("low_t", "seed"), 0, 2**63 - 1),
            (("learning_rate", "clip_gradient"), 1e-12, 1e12),
            (("min_snr",), 0, 1e6),
            (("hold", "low_share", "downscale", "gray", "jpeg", "camera_noise"), 0, 1),
            (("ema",), 0, 0.9999999),
        ):
            for name in names:
                if not low <= getattr(self, name) <= high:
                    raise UsageError(f"{name} must lie between {low:g} and {high:g}, not {getattr(self, name)}")
        if self.jpeg + self.camera_noise > 1:
            raise UsageError("jpeg and camera_noise together must not exceed 1")
        if self.jpeg + self.camera_noise > 0 and self.discrete:
            raise UsageError("jpeg and camera_noise need timesteps that are real numbers", "set discrete = false")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"unknown optimizer {self.optimizer!r}", f"choose one of {', '.join(OPTIMIZERS)}")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        A linear warm-up is multiplied by half a cosine that ends at zero (Loshchilov & Hutter 2017). With `hold`, the
        rate stays at its peak before it falls, which is the schedule of Hu et al. 2024
        (https://arxiv.org/abs/2404.06395): as long as the rate has not begun to fall, the end can be postponed.
        """
        warmup = min(1.0, (step + 1) / self.warmup)
        decay_start = self.hold * self.steps
        decay = min(1.0, max(0.0, step - decay_start) / max(1.0, self.steps - decay_start))
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * decay))

    @property
    def augmentation(self) -> Augmentation:
        """Changes that are made to each crop."""
        return Augmentation(self.crop, self.downscale, self.gray, self.turn)


def _check_types(recipe: Recipe) -> None:
    """Raise a UsageError if a field does not have the type of its default; an integer may stand for a float."""
    for field in fields(recipe):
        value, kind = getattr(recipe, field.name), type(field.default)
        kinds = (int, float) if kind is float else kind
        if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kinds):
            raise UsageError(f"{field.name} must be {KINDS[kind]}, not {value!r}")


def read_recipe(path: Path, base: ModelSpec | None = None) -> tuple[ModelSpec, Recipe]:
    """Read a recipe file.

    Args:
        path: The file.
        base: The model that the recipe trains if it has none of the tables [network], [schedule] and [prior].

    Returns:
        The network with its schedule and prediction type, and the numbers of the training.

    Raises:
        UsageError: The file does not exist or is not TOML, or a field is unknown or has an impossible value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the recipe {path} cannot be read: {error}") from error
    try:
        content = {table: {k: _from_toml(v) for k, v in entries.items()} for table, entries in content.items()}
        if unknown := content.keys() - {"network", "schedule", "prior", "training"}:
            raise ValueError(f"unknown tables: {', '.join(sorted(unknown))}")
        recipe = Recipe(**content.get("training", {}))
        if base is not None and not content.keys() & {"network", "schedule", "prior"}:
            return base, recipe
        network_fields = content.get("network", {})
        network = NETWORKS[network_fields.pop("class", "UNet2DModel")](**network_fields)
        prior = {"mirrors": recipe.augmentation.turn, **content.get("prior", {})}
        spec = ModelSpec(network, Schedule(**content.get("schedule", {})), **prior)
        if spec.patch_size < 1:
            raise ValueError("patch_size must be at least 1")
        return spec, recipe
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the recipe {path} is not valid: {error}") from error


def _from_toml(value: Any) -> Any:
    """Convert a value of a recipe file: lists become tuples, and "none" becomes None."""
    return tuple(value) if isinstance(value, list) else None if value == "none" else value


def recipe_text(spec: ModelSpec, recipe: Recipe, head: str = "") -> str:
    """Return the text of a file that `read_recipe` reads, with all fields, defaults included.

    Args:
        spec: The network with its schedule and prediction type.
        recipe: The numbers of the training.
        head: A comment for the first line; empty for none.
    """
    name = next(name for name, kind in NETWORKS.items() if isinstance(spec.network, kind))
    prior = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in ("network", "schedule", "mirrors")}
    tables: dict[str, Mapping[str, Any]] = {
        "network": {"class": name, **asdict(spec.network)},
        "schedule": asdict(spec.schedule),
        "prior": prior,
        "training": asdict(recipe),
    }
    lines = [f"# {head}"] if head else []
    for table, entries in tables.items():
        lines += ["", f"[{table}]", *(f"{k} = {_to_toml(v)}" for k, v in entries.items())]
    return "\n".join(lines).lstrip() + "\n"


def _to_toml(value: Any) -> str:
    """Return a value as text in TOML."""
    if value is None:
        return '"none"'  # TOML has no null
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_to_toml, value))}]"
    return repr(value)


def model_card(spec: ModelSpec, recipe: Recipe, facts: Mapping[str, str]) -> str:
    """Return the text of a model folder's README.md, a model card in the form that the Hub reads.

    Args:
        spec: The network with its schedule and prediction type.
        recipe: The numbers of the training.
        facts: Further rows of the table, value by name.
    """
    with torch.device("meta"):
        network = spec.network.build()
    parameters = sum(p.numel() for p in network.parameters())
    pictures = recipe.steps * recipe.batch * recipe.accumulate
    rows = {
        "network": f"{type(network).__name__}, widths {', '.join(map(str, spec.network.block_out_channels))}, "
        f"patch size {spec.patch_size}",
        "size": f"{parameters:,} parameters",
        "optimizer": "Muon for the hidden layers, AdamW for the rest" if recipe.optimizer == "muon" else "AdamW",
        "diffusion": f"{spec.schedule.name}, T = {spec.schedule.steps}, predicts {spec.prediction_type}, "
        "pictures on [-1, 1]",
        "planned": f"{recipe.steps:,} steps of {recipe.batch * recipe.accumulate} crops of {recipe.crop} pixels "
        f"({pictures:,} crops)",
        **facts,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: restorer
tags: [ddpm, unconditional-image-generation, image-restoration]
---

# A diffusion prior

Trained with `restore train` (weight decay .01). The file `recipe.toml` in this folder contains all numbers of the run.

| | |
|---|---|
{table}

## Use

    restore denoise picture.png --model THIS_FOLDER
    restore generate --model THIS_FOLDER
    restore evaluate PICTURES --model THIS_FOLDER

## To be completed by the author

- where the training pictures come from, and their licences
- figures on pictures that are not in the training data (`restore evaluate`)
- known weaknesses
"""
