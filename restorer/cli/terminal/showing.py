"""Pictures in the terminal, as well as it can show them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from rich.console import Console

from restorer.cli.terminal import half_blocks, pixels

__all__ = ["show"]


def show(console: Console, pictures: Sequence[Image.Image]) -> bool:
    """Print pictures side by side, all as high as the first: in pixels where possible, or else as half blocks.

    Returns:
        Whether the pictures are printed; False where `half_blocks.show` cannot print them either.
    """
    return pixels.show(console, pictures) or half_blocks.show(console, pictures)
