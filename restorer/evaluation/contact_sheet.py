"""A contact sheet: rows of small pictures side by side, with text above them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["BACKGROUND", "GAP", "INK", "TEXT", "contact_sheet", "to_image"]

GAP, TEXT = 8, 14  # space around pictures, and size of the text, in pixels
BACKGROUND, INK = "white", "black"


def to_image(x: Tensor) -> Image.Image:
    """Convert a float tensor (C, H, W) to a Pillow image of mode L or RGB.

    The values are clamped to [0, 1] and rounded to 8 bits.
    """
    pixels = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def contact_sheet(headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Tensor]]]) -> Image.Image:
    """Draw all pictures in one image.

    Args:
        headings: The text above each column.
        rows: For each row, the text above it and its pictures, float (C, H, W) in [0, 1], one for each heading.
    """
    font = ImageFont.load_default(TEXT)
    line = TEXT + GAP
    width = max(x.shape[-1] for _, pictures in rows for x in pictures)
    heights = [max(x.shape[-2] for x in pictures) for _, pictures in rows]
    size = (len(headings) * (width + GAP) + GAP, line + sum(line + height + GAP for height in heights))
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + i * (width + GAP) for i in range(len(headings))]
    for left, heading in zip(lefts, headings, strict=True):
        draw.text((left, GAP // 2), heading, fill=INK, font=font)
    top = line
    for (text, pictures), height in zip(rows, heights, strict=True):
        draw.text((GAP, top + GAP // 2), text, fill=INK, font=font)
        for left, x in zip(lefts, pictures, strict=True):
            sheet.paste(to_image(x), (left, top + line))
        top += line + height + GAP
    return sheet
