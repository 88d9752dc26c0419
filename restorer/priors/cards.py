"""The catalogue: what is known of models on the Hugging Face Hub. A data file, `cards.toml`; this reads it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Card", "card_of", "cards"]


@dataclass(frozen=True)
class Card:
    """One model. The fields are those of `cards.toml`, which says what they mean."""

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
    known_answer: tuple[float, ...] = ()


@cache
def cards() -> tuple[Card, ...]:
    """Every card of the catalogue."""
    content = tomllib.loads(files("restorer.priors").joinpath("cards.toml").read_text(encoding="utf-8"))
    return tuple(Card(**{**card, "known_answer": tuple(card.get("known_answer", ()))}) for card in content["card"])


def card_of(name: str, file: str | None = None) -> Card | None:
    """The card of a model by its name, or by its repository (and file, where it is one of several)."""
    return next((c for c in cards() if (name == c.name and file is None) or (name, file) == (c.repo, c.file)), None)
