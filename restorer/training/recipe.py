"""What shapes a training run: a recipe file, read and written, and the model card that goes with the weights.

A recipe is a TOML file with the tables [network] (its `class` and the fields of that configuration), [schedule],
[prior] (prediction_type, patch_size, clip) and [training]. Together with the pictures it says everything that the
result depends on, apart from rounding.
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
from restorer.training.datasets import Augmentation
from restorer.training.optimizer import OPTIMIZERS

__all__ = ["Recipe", "model_card", "read_recipe", "recipe_text"]

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


@dataclass(frozen=True)
class Recipe:
    """How a prior is trained.

    Args:
        steps: optimizer steps in all; batch: crops a forward pass; accumulate: passes a step; crop: side in pixels.
        learning_rate: its peak, after `warmup` steps; hold: the share of the steps that it stays there, before half a
            cosine takes it to zero at `steps`.
        low_t, low_share: the share of crops whose t is drawn below low_t; the others are drawn above.
        discrete: t are whole numbers, as the variational bound needs where the variance is learned; else real-valued.
        min_snr: gamma of the min-SNR weights (Hang et al. 2023), 0 for none.
        balance: whether the loss at every noise level is divided by its running mean, so that all weigh alike.
        optimizer: "adamw", or "muon" for the hidden layers.
        ema: decay of the weight average.
        clip_gradient: largest norm of the gradient.
        downscale: probability that a crop is shrunk from one up to twice as wide; gray: that it loses its colour.
        turn: whether crops are turned by quarters and mirrored; the model then knows mirrored pictures (`mirrors`).
        seed: of weights, crops, timesteps and noise.

    Raises:
        UsageError: a number out of its range.
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
    turn: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        for names, low, high in (
            (("steps", "batch", "accumulate", "crop", "warmup"), 1, 10**9),
            (("low_t", "seed"), 0, 2**63 - 1),
            (("learning_rate", "clip_gradient"), 1e-12, 1e12),
            (("min_snr",), 0, 1e6),
            (("hold", "low_share", "downscale", "gray"), 0, 1),
            (("ema",), 0, 0.9999999),
        ):
            for name in names:
                if not low <= getattr(self, name) <= high:
                    raise UsageError(f"{name} must lie between {low:g} and {high:g}, not {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"unknown optimizer {self.optimizer!r}", ", ".join(OPTIMIZERS))

    def rate_at(self, step: int) -> float:
        """The learning rate: linear warm-up, times half a cosine down to zero (Loshchilov & Hutter 2017).

        Held before it falls, it is the schedule of Hu et al. 2024 (https://arxiv.org/abs/2404.06395), whose end can be
        put off while the rate still stays.
        """
        warm = min(1.0, (step + 1) / self.warmup)
        held = self.hold * self.steps
        fallen = min(1.0, max(0.0, step - held) / max(1.0, self.steps - held))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * fallen))

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.crop, self.downscale, self.gray, self.turn)


def _check_types(recipe: Recipe) -> None:
    for field in fields(recipe):
        value, kind = getattr(recipe, field.name), type(field.default)
        kinds = (int, float) if kind is float else kind
        if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kinds):
            raise UsageError(f"{field.name} must be {KINDS[kind]}, not {value!r}")


def read_recipe(path: Path, base: ModelSpec | None = None) -> tuple[ModelSpec, Recipe]:
    """A recipe file. Where it has no [network], it is about the network of `base`, if there is one.

    Raises:
        UsageError: the file is absent or is no TOML, or a field is unknown or has an impossible value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the recipe {path} cannot be read: {error}") from error
    try:
        content = {table: {k: _value(v) for k, v in entries.items()} for table, entries in content.items()}
        if unknown := content.keys() - {"network", "schedule", "prior", "training"}:
            raise ValueError(f"unknown tables: {', '.join(sorted(unknown))}")
        recipe = Recipe(**content.get("training", {}))
        if base is not None and not content.keys() & {"network", "schedule", "prior"}:
            return base, recipe
        shape = content.get("network", {})
        network = NETWORKS[shape.pop("class", "UNet2DModel")](**shape)
        prior = {"mirrors": recipe.augmentation.turn, **content.get("prior", {})}
        spec = ModelSpec(network, Schedule(**content.get("schedule", {})), **prior)
        if spec.patch_size < 1:
            raise ValueError("patch_size is at least 1")
        return spec, recipe
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the recipe {path} does not describe a run: {error}") from error


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else None if value == "none" else value


def recipe_text(spec: ModelSpec, recipe: Recipe, head: str = "") -> str:
    """The recipe as a file that `read_recipe` reads: every field, defaults included."""
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
        lines += ["", f"[{table}]", *(f"{k} = {_toml(v)}" for k, v in entries.items())]
    return "\n".join(lines).lstrip() + "\n"


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'  # TOML has no null
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def model_card(spec: ModelSpec, recipe: Recipe, facts: Mapping[str, str]) -> str:
    """A README.md for a model folder, in the form the Hub reads. `facts` are rows of what was measured."""
    with torch.device("meta"):
        network = spec.network.build()
    parameters = sum(p.numel() for p in network.parameters())
    pictures = recipe.steps * recipe.batch * recipe.accumulate
    rows = {
        "network": f"{type(network).__name__}, widths {', '.join(map(str, spec.network.block_out_channels))}, "
        f"patch size {spec.patch_size}",
        "size": f"{parameters:,} parameters",
        "optimizer": "Muon for hidden layers, AdamW for the rest" if recipe.optimizer == "muon" else "AdamW",
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

Trained with `restore train` (weight decay .01); `recipe.toml` beside this file holds the numbers of the run.

| | |
|---|---|
{table}

## Use

    restore denoise picture.png --model THIS_FOLDER
    restore generate --model THIS_FOLDER
    restore evaluate PICTURES --model THIS_FOLDER

## To be filled in by its maker

Where the pictures come from and under which licences; figures on pictures that were not trained on (`restore
evaluate`); what it is bad at.
"""
