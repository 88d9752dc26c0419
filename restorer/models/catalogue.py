"""Facts about models that are known without loading them. PyTorch is not imported.

The facts about models of the Hub come from a data file, `catalogue.toml`. The facts about the embedded prior are read
from its own folder.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from restorer.errors import ModelError

__all__ = ["EMBEDDED", "Card", "cards", "find_card", "read_facts", "weights_folder"]

EMBEDDED = "photo"  # the name of the embedded prior


@dataclass(frozen=True)
class Card:
    """The facts about one model. The fields are those of `catalogue.toml`, which explains them."""

    name: str
    repo: str
    revision: str
    about: str
    size: int
    domain: str
    parameters: int
    bytes: int
    licence: str
    file: str | None = None
    general: bool = False
    gflop: float | None = None
    sha256: str | None = None
    task: str | None = None
    known_answer: tuple[float, ...] = ()


@cache
def cards() -> tuple[Card, ...]:
    """Return every card of the catalogue."""
    content = tomllib.loads(files("restorer.models").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    return tuple(Card(**{**card, "known_answer": tuple(card.get("known_answer", ()))}) for card in content["card"])


def find_card(name: str, file: str | None = None) -> Card | None:
    """Return the card of a model, or None if the catalogue does not have the model.

    Args:
        name: The name of the model in the catalogue, or its repository ("organization/name").
        file: The file of the repository that is the model; None for a model in diffusers' layout, and for a name of
            the catalogue.
    """
    return next((c for c in cards() if (name == c.name and file is None) or (name, file) == (c.repo, c.file)), None)


def weights_folder(name: str = EMBEDDED) -> Path:
    """Return the folder of a network that ships with the program.

    The folder lies inside an installed package, and beside the package in a checkout.

    Args:
        name: The name of the folder.

    Raises:
        ModelError: The installation has no such folder.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_weights" / name, package.parent / "weights" / name):
        if folder.is_dir():
            return folder
    raise ModelError(f"the embedded model {name!r} is missing from this installation", "reinstall restorer")


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the facts about a model that ships with the program, read from its folder.

    The number of parameters and the bytes are those of the weights file. The side of the training images comes from
    config.json (None if the model has no native size). The licence and the cost of one evaluation come from the model
    card, README.md.

    Args:
        folder: A folder with config.json, diffusion_pytorch_model.safetensors and, optionally, README.md.

    Returns:
        The facts under the names of the fields of `Card`; a fact that the folder does not state is left out.
    """
    from safetensors import safe_open

    weights, card = folder / "diffusion_pytorch_model.safetensors", folder / "README.md"
    with safe_open(weights, framework="np") as file:
        parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    facts = {"parameters": parameters, "bytes": weights.stat().st_size}
    facts["size"] = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("sample_size")
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if licence := re.search(r"^license: *(\S+)$", text, re.MULTILINE):
        facts["licence"] = licence[1]
    if gflop := re.search(r"([\d.]+) GFLOP (?:an|per) evaluation of 256x256", text):
        facts["gflop"] = float(gflop[1])
    return facts
