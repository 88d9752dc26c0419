"""The file of the constants that calibrate the uncertainty of a model: calibration.json beside its weights.

A model that is a single file NAME.safetensors has them in NAME.calibration.json. The file is read as untrusted input.
"""

from __future__ import annotations

import json
import math
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from restorer.diffusion.calibration import Calibration, Constants, PowerLaw
from restorer.errors import ModelError
from restorer.models.weight_files import printable

__all__ = ["FILE", "LAW", "calibration_file", "read_calibration", "to_json"]

FILE = "calibration.json"

LAW = tuple(f.name for f in fields(PowerLaw))
"""The names of what the file holds of a law."""

MAX_BYTES = 1 << 20
ROUNDING = 1e-3  # of the numbers in the file
MOST_EXPONENT = 8.0  # of a law; larger ones are mistakes


def calibration_file(model: Path) -> Path:
    """Return the file in which the constants of a model lie, whether it exists or not.

    Args:
        model: The folder or file of the model, as `find_model` returns it.
    """
    return model / FILE if model.is_dir() else model.with_suffix(f".{FILE}")


def read_calibration(model: Path) -> Calibration | None:
    """Return the constants that lie beside the weights of a model; None if there are none.

    Raises:
        ModelError: The file cannot be read, or does not hold such constants.
    """
    path = calibration_file(model)
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path} holds no calibration: {printable(error)}",
            "remove it, or make it again: restore evaluate --calibrate",
        ) from error


def parse(content: Any) -> Calibration:
    """Return the constants that a parsed file holds.

    Raises:
        ValueError: A value is missing or out of range. So do KeyError, TypeError and AttributeError.
    """
    kinds = {}
    for kind, rows in content["kinds"].items():
        constants = [_constants(row) for row in rows]
        if len({len(c.edges) for c in constants}) > 1:
            raise ValueError(f"the strengths of {printable(kind)} have different numbers of groups")
        if len({c.law is None for c in constants}) > 1:
            raise ValueError(f"some strengths of {printable(kind)} have a law, and others have none")
        kinds[str(kind)] = tuple(sorted(constants, key=lambda c: c.strength))
    level = float(content["level"])
    if not 0 < level < 1:
        raise ValueError(f"the level {level} is not a share")
    return Calibration(kinds, str(content["data"]), str(content["date"]), level)


def _constants(row: Any) -> Constants:
    """Return the constants of one strength."""
    edges, factors = (tuple(float(x) for x in row[name]) for name in ("edges", "factors"))
    strength, pictures = float(row["strength"]), int(row["pictures"])
    if len(factors) != len(edges) + 1:
        raise ValueError("there must be one more factor than edges")
    if not all(math.isfinite(x) and x > 0 for x in (strength, *edges, *factors)) or list(edges) != sorted(edges):
        raise ValueError("the numbers must be above 0, and the edges must increase")
    law = None if row.get("law") is None else _law(row["law"])
    span = None if row.get("span") is None else _span(row["span"], strength)
    return Constants(strength, edges, factors, pictures, law, span)


def _span(values: Any, strength: float) -> tuple[float, float]:
    """Return the least and the largest strength."""
    least, most = (float(x) for x in values)
    if not 0 < least <= strength * (1 + ROUNDING) or not strength * (1 - ROUNDING) <= most < math.inf:
        raise ValueError("the strength must lie within its span")
    return least, most


def _law(row: Any) -> PowerLaw:
    """Return the law of one strength."""
    law = PowerLaw(*(float(row[name]) for name in LAW))
    if not (math.isfinite(law.factor) and law.factor > 0):
        raise ValueError("the factor of a law must be above 0")
    if not all(abs(x) <= MOST_EXPONENT for x in (law.deviation, law.hint, law.variance)):
        raise ValueError(f"the exponents of a law must be at most {MOST_EXPONENT:g} in size")
    return law


def to_json(calibration: Calibration) -> str:
    """Return the text of the file that holds constants."""

    def shortened(values: tuple[float, ...]) -> list[float]:
        return [float(f"{value:.4g}") for value in values]

    kinds = {
        kind: [
            {
                "strength": float(f"{c.strength:.4g}"),
                "edges": shortened(c.edges),
                "factors": shortened(c.factors),
                "pictures": c.pictures,
            }
            | ({} if c.span is None else {"span": shortened(c.span)})
            | ({} if c.law is None else {"law": dict(zip(LAW, shortened(astuple(c.law)), strict=True))})
            for c in rows
        ]
        for kind, rows in sorted(calibration.kinds.items())
    }
    content = {"data": calibration.data, "date": calibration.date, "level": calibration.level, "kinds": kinds}
    return json.dumps(content, indent=1) + "\n"
