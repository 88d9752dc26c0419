"""Make the before-and-after pictures of the README with the default settings.

python tests/bench/pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import restorer
from restorer.training.simulated_camera import Camera, photograph

IMAGES = Path(__file__).parents[1] / "images"


def side_by_side(before: Image.Image, after: Image.Image, name: str) -> None:
    """Write two pictures side by side to a file in the folder of images."""
    sheet = Image.new("RGB", (after.width * 2 + 8, after.height), "white")
    sheet.paste(before.resize(after.size, Image.Resampling.NEAREST), (0, 0))
    sheet.paste(after, (after.width + 8, 0))
    sheet.save(IMAGES / name, quality=90, subsampling=0)


def write_high_iso() -> None:
    """Write a photograph as a camera would take it at a high ISO number."""
    light = torch.from_numpy(np.array(Image.open(IMAGES / "grapes.jpg"))).permute(2, 0, 1).float()
    taken = photograph(light, Camera(gain=0.006, read=1.5, chroma=1.5, chroma_share=0.8), seed=1)
    picture = Image.fromarray(taken.byte().permute(1, 2, 0).numpy())
    picture.save(IMAGES / "high_iso.jpg", quality=92)


def main() -> None:
    """Restore three pictures and write them beside their originals."""
    write_high_iso()
    noisy, scratched, small = (Image.open(IMAGES / n) for n in ("high_iso.jpg", "scratched.png", "small.png"))
    side_by_side(noisy, restorer.denoise(noisy), "denoise.jpg")
    side_by_side(scratched, restorer.inpaint(scratched, Image.open(IMAGES / "scratched_mask.png")), "inpaint.jpg")
    side_by_side(small, restorer.upscale(small, 4), "upscale.jpg")


if __name__ == "__main__":
    main()
