"""Make the before-and-after pictures of the README with the default settings.

python tests/bench/pictures.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import restorer

IMAGES = Path(__file__).parents[1] / "images"


def side_by_side(before: Image.Image, after: Image.Image, name: str) -> None:
    """Write two pictures side by side to a file in the folder of images."""
    sheet = Image.new("RGB", (after.width * 2 + 8, after.height), "white")
    sheet.paste(before.resize(after.size, Image.Resampling.NEAREST), (0, 0))
    sheet.paste(after, (after.width + 8, 0))
    sheet.save(IMAGES / name, quality=90, subsampling=0)


def main() -> None:
    """Restore three pictures and write them beside their originals."""
    noisy, scratched, small = (Image.open(IMAGES / n) for n in ("noisy.png", "scratched.png", "small.png"))
    side_by_side(noisy, restorer.denoise(noisy), "denoise.jpg")
    side_by_side(scratched, restorer.inpaint(scratched, Image.open(IMAGES / "scratched_mask.png")), "inpaint.jpg")
    side_by_side(small, restorer.upscale(small, 4), "upscale.jpg")


if __name__ == "__main__":
    main()
