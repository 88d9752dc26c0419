"""A contact sheet: rows of small pictures side by side, with words above them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["contact_sheet", "to_image"]

GAP, TEXT = 8, 14
PAPER, INK = "white", "black"


def to_image(x: Tensor) -> Image.Image:
    """A float tensor (C, H, W), clamped to [0, 1] and rounded to 8 bits, as a Pillow image of mode L or RGB."""
    pixels = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def contact_sheet(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Tensor]]]) -> Image.Image:
    """One image of all.

    Args:
        heads: the words above each column.
        rows: for each row the words above it and its pictures, float (C, H, W) in [0, 1], as many as heads.
    """
    font = ImageFont.load_default(TEXT)
    line = TEXT + GAP
    width = max(x.shape[-1] for _, pictures in rows for x in pictures)
    heights = [max(x.shape[-2] for x in pictures) for _, pictures in rows]
    size = (len(heads) * (width + GAP) + GAP, line + sum(line + height + GAP for height in heights))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + i * (width + GAP) for i in range(len(heads))]
    for left, head in zip(lefts, heads, strict=True):
        draw.text((left, GAP // 2), head, fill=INK, font=font)
    top = line
    for (words, pictures), height in zip(rows, heights, strict=True):
        draw.text((GAP, top + GAP // 2), words, fill=INK, font=font)
        for left, x in zip(lefts, pictures, strict=True):
            sheet.paste(to_image(x), (left, top + line))
        top += line + height + GAP
    return sheet
