"""A map of the uncertainty drawn over the result, in bands of half widths with a legend.

The colours are seven steps of the map "plasma" of Smith and van der Walt, whose lightness increases evenly, so that the
order of the bands is seen without colours too.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from restorer.evaluation.contact_sheet import BACKGROUND, GAP, INK, TEXT, to_image
from restorer.evaluation.map_figures import BANDS, Band

__all__ = ["COLOURS", "OPACITY", "draw_over", "overlay_image"]

COLOURS = ("#0d0887", "#5c01a6", "#9c179e", "#cc4778", "#ed7953", "#fdb42f", "#f0f921")
"""The colours of the bands, from the smallest half widths to the largest."""

OPACITY = 0.7
"""Opacity of the map over the result."""

ENTRY = 92  # width of an entry of the legend in pixels
KNOWN = "not coloured: the input itself"


def draw_over(result: Tensor, half: Tensor, opacity: float = OPACITY) -> Tensor:
    """Draw the bands of a map over a result.

    Args:
        result: The result, (3, H, W) in [0, 1].
        half: Half widths in levels (H, W). Where they are 0, the result is shown as it is.
        opacity: Opacity of the map, 0..1.

    Returns:
        float (3, H, W) in [0, 1].
    """
    rgb = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in COLOURS]
    band = torch.bucketize(half, torch.tensor(BANDS))
    colours = torch.tensor(rgb)[band].permute(2, 0, 1)
    weight = opacity * (half > 0).to(result.dtype)
    return result + weight * (colours - result)


def overlay_image(result: Tensor, half: Tensor, bands: tuple[Band, ...]) -> Image.Image:
    """Return a result under its map, with a legend below that has the share of every band.

    Args:
        result: The result, (3, H, W) in [0, 1].
        half: Half widths in levels (H, W).
        bands: The bands of the map.
    """
    shown, font = to_image(draw_over(result, half)), ImageFont.load_default(TEXT)
    entries = [(colour, [band.label, f"{100 * band.share:.0f} %"]) for colour, band in zip(COLOURS, bands, strict=True)]
    across = max(1, min(len(entries), max(shown.width, 2 * ENTRY) // ENTRY))
    rows, line = -(-len(entries) // across), TEXT + GAP
    width = max(shown.width, across * ENTRY)
    has_known = bool(np.any(half.numpy() == 0))
    height = shown.height + GAP + line + rows * (2 * line) + (line if has_known else 0)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    sheet.paste(shown, (0, 0))
    draw, top = ImageDraw.Draw(sheet), shown.height + GAP
    draw.text((GAP, top), "half width in levels", fill=INK, font=font)
    for number, (colour, words) in enumerate(entries):
        left, upper = (number % across) * ENTRY + GAP, top + line + (number // across) * 2 * line
        draw.rectangle((left, upper, left + TEXT, upper + TEXT), fill=colour)
        for row, text in enumerate(words):
            draw.text((left + TEXT + GAP // 2, upper + row * (TEXT + 2)), text, fill=INK, font=font)
    if has_known:
        draw.text((GAP, height - line), KNOWN, fill=INK, font=font)
    return sheet
