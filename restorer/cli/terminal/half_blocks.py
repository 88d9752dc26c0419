"""Pictures in the terminal.

Each character shows two pixels: the upper one is a half block, the lower one is the background behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from restorer.cli.terminal.printable import has_characters

__all__ = ["show"]

GAP = 2  # columns between two pictures
MIN_COLUMNS = 8  # smallest width of a picture
MAX_ROWS = 60
HALF_BLOCK = "▀"


def show(console: Console, pictures: Sequence[Image.Image]) -> bool:
    """Print pictures side by side, all as high as the first.

    Returns:
        Whether the pictures are printed; False if the console is not a terminal with 256 or more colours, lacks the
        half block, or is too narrow.
    """
    width = (console.width - GAP * (len(pictures) - 1)) // len(pictures)
    colours = not console.no_color and console.color_system in ("256", "truecolor")
    if not (console.is_terminal and colours and has_characters(console.encoding, HALF_BLOCK)) or width < MIN_COLUMNS:
        return False
    rows = min(MAX_ROWS, max(1, console.height - 2), max(1, round(width * pictures[0].height / pictures[0].width / 2)))
    cells = [_cells(picture, width, rows) for picture in pictures]
    segments = []
    for row in range(rows):
        for i, cell in enumerate(cells):
            segments += [Segment(" " * GAP)] if i else []
            segments += cell[row]
        segments.append(Segment.line())
    console.print(Segments(segments), end="")
    return True


def _cells(picture: Image.Image, width: int, rows: int) -> list[list[Segment]]:
    """Return the segments of each row, at most `width` columns wide and no wider than the aspect ratio requires."""
    columns = min(width, max(1, round(2 * rows * picture.width / picture.height)))
    small = picture.convert("RGB").resize((columns, 2 * rows), Image.Resampling.LANCZOS)
    data = small.tobytes()
    pixels = [(data[i], data[i + 1], data[i + 2]) for i in range(0, len(data), 3)]
    result = []
    for row in range(rows):
        upper = pixels[2 * row * columns : (2 * row + 1) * columns]
        lower = pixels[(2 * row + 1) * columns : (2 * row + 2) * columns]
        styles = (
            Style(color=Color.from_rgb(*over), bgcolor=Color.from_rgb(*under))
            for over, under in zip(upper, lower, strict=True)
        )
        result.append([Segment(HALF_BLOCK, style) for style in styles])
    return result
