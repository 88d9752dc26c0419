"""What is known of models without loading them: the catalogue of the Hub, a data file (`catalogue.toml`), and what the
folder of the embedded prior tells of itself. PyTorch is not imported.
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

__all__ = ["EMBEDDED", "Card", "card_of", "cards", "facts_of", "weights_folder"]

EMBEDDED = "photo"


@dataclass(frozen=True)
class Card:
    """One model. The fields are those of `catalogue.toml`, which says what they mean."""

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
    """Every card of the catalogue."""
    content = tomllib.loads(files("restorer.models").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    return tuple(Card(**{**card, "known_answer": tuple(card.get("known_answer", ()))}) for card in content["card"])


def card_of(name: str, file: str | None = None) -> Card | None:
    """The card of a model by its name, or by its repository (and file, where it is one of several)."""
    return next((c for c in cards() if (name == c.name and file is None) or (name, file) == (c.repo, c.file)), None)


def weights_folder(name: str = EMBEDDED) -> Path:
    """The folder of a prior that ships with the program: inside the package, or beside it in a checkout.

    Raises:
        ModelError: it is not there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_weights" / name, package.parent / "weights" / name):
        if folder.is_dir():
            return folder
    raise ModelError(f"the embedded prior {name!r} is missing from this installation", "install restorer again")


def facts_of(folder: Path) -> dict[str, Any]:
    """What a folder of ours tells of its model, under the names of a `Card`; what it does not tell is left out.

    Size and parameters are those of the weights, the side of the pictures is that of the configuration, and the licence
    and the cost of an evaluation stand in its model card.
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
    if gflop := re.search(r"([\d.]+) GFLOP an evaluation of 256x256", text):
        facts["gflop"] = float(gflop[1])
    return facts
