"""The map of the uncertainty of a result as a layer of the page: a gray PNG that the page colours.

A pixel of the layer holds 32 log2(1 + h) for a half width of h levels, rounded, so that 8 bits reach from 0 to 250
levels with steps of about 2 %. Where the result is the input itself, it holds 0.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from restorer.cli.commands.comparing_maps import MapOf
from restorer.cli.report_page.pictures import MAX_PIXELS, MAX_SIDE, MIN_SIDE
from restorer.cli.terminal.printable import printable
from restorer.evaluation.map_figures import BANDS
from restorer.evaluation.map_overlay import COLOURS, OPACITY

__all__ = ["STEPS", "MapLayer", "encode_levels", "map_layer"]

STEPS = 32
"""Steps of the values of the layer for a factor of 2."""


@dataclass(frozen=True)
class MapLayer:
    """A map as the page shows it.

    Args:
        content: What the page needs, as JSON values.
        size: Number of bytes of the data URL.
        note: What a reader must know about it; empty if there is nothing to say.
    """

    content: dict[str, Any]
    size: int
    note: str = ""


def encode_levels(half: np.ndarray) -> np.ndarray:
    """Return the values of the layer, uint8, for half widths in levels."""
    values = np.clip(np.rint(STEPS * np.log2(1 + half.astype(np.float64))), 1, 255)
    return np.where(half > 0, values, 0).astype(np.uint8)


def map_layer(map_of: MapOf, budget: int) -> MapLayer:
    """Return a map as a layer of the page, shrunk so that it fits into a number of bytes."""
    url, factor = _embed(map_of.figures.certainty.half, budget)
    figures, certainty = map_of.figures, map_of.figures.certainty
    state = "calibrated" if certainty.calibrated else "not calibrated"
    kind = f" for {certainty.kind}" if certainty.kind and certainty.calibrated else ""
    facts = f"{100 * certainty.level:g} % intervals · {state}{kind}"
    note = ""
    if not url:
        note = "The map of the uncertainty is left out, because it does not fit into the page."
    elif factor > 1:
        note = f"The map of the uncertainty is shown at 1/{factor} of its size. The figures are those of the file."
    content = {
        "name": printable(map_of.path.name),
        "of": map_of.number,
        "url": url,
        "facts": printable(facts),
        "lines": [printable(line) for line in (*map_of.lines, *([map_of.note] if map_of.note else []))],
        "value": certainty.within,
        "steps": STEPS,
        "opacity": OPACITY,
        "limits": list(BANDS),
        "hasKnown": bool((certainty.half == 0).any()),
        "bands": [
            {"label": band.label, "share": f"{100 * band.share:.0f} %", "colour": colour}
            for band, colour in zip(figures.bands, COLOURS, strict=True)
        ],
    }
    return MapLayer(content, len(url or ""), note)


def _embed(half: Tensor, budget: int) -> tuple[str | None, int]:
    """Return a map as the data URL of a PNG file, and the factor by which it is shrunk; None if it does not fit."""
    levels = half.numpy()
    height, width = levels.shape
    factor = max(1, math.ceil(math.sqrt(width * height / MAX_PIXELS)), math.ceil(max(width, height) / MAX_SIDE))
    while factor == 1 or max(width, height) >= MIN_SIDE * factor:
        shown = np.asarray(Image.fromarray(levels).reduce(factor)) if factor > 1 else levels
        buffer = io.BytesIO()
        Image.fromarray(encode_levels(shown)).save(buffer, "PNG", compress_level=6)
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        if len(url) <= budget:
            return url, factor
        factor = max(factor + 1, math.floor(factor * 1.25))
    return None, factor
