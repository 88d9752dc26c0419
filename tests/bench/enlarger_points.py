"""Compare weights of the network that enlarges, such as points of a training, on twelve squares.

    python tests/bench/enlarger_points.py DATA FOLDER... [--kinds clean jpeg50 noisy10 blurred1] [--save OUT]

DATA holds the folder CBSD68; each FOLDER is a model. The squares of 256 pixels are the middles of photographs that
`perception.py` does not use. They are shrunk to a quarter by Pillow's bicubic filter and, by kind, then compressed,
made noisy or blurred as there; what was done is undone first, as the command does. The network alone answers, and
after a clean picture the result is made consistent with it. The figures are no figures of the command.

Each line of the table prints the means: `lpips` and `efficientnet`, 0 for the truth, the texture of two bands, 1 for
the truth, and the PSNR of the mean of the channels.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from perception import NAMES, SCALE
from PIL import Image, ImageFilter

import restorer
from restorer.diffusion.degradations.bicubic import Bicubic
from restorer.diffusion.prior import Prior
from restorer.evaluation.perception import perceive
from restorer.images.files import from_pil, to_tensor
from restorer.models.load import load_prior
from restorer.priors.experts import SPREAD, State, first_level
from restorer.tasks.enlarge import FIRST_DETAIL
from restorer.tasks.soft import blur_of_softness, undo_blur
from restorer.training.shrinking import enlarge_bicubic

SIDE, COUNT, STRIDE = 256, 12, 5
STATES: dict[str, State] = {"clean": "clean", "jpeg50": "repaired", "noisy10": "repaired", "blurred1": "repaired"}


def main() -> None:
    """Print one line for each folder and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--kinds", nargs="+", choices=list(STATES), default=list(STATES))
    parser.add_argument("--save", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    print(f"python {shlex.join(sys.argv)}")
    photo = load_prior("photo", device="cpu")
    for kind in options.kinds:
        pairs = list(make_pairs(options.data, kind, photo))
        for folder in options.folders:
            network = load_prior(str(folder), device="cpu")
            figures = []
            for name, small, truth in pairs:
                answer = enlarge(network, small, STATES[kind])
                if options.save is not None:
                    path = options.save / folder.name / kind / f"{name}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(to_bytes(answer)).save(path)
                seen = perceive((255 * answer).round() / 255, truth)
                error = float((answer - truth).mean(0).square().mean())
                psnr = -10 * np.log10(error)
                figures.append([seen.lpips, seen.efficientnet, seen.texture_medium, seen.texture_fine, psnr])
            print(f"{kind:9} {folder!s:32}", " ".join(f"{value:7.3f}" for value in np.mean(figures, 0)), flush=True)


def make_pairs(data: Path, kind: str, photo: Prior) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield the name, the small picture as the network sees it, (3, 64, 64), and the square, (3, 256, 256)."""
    names = [f"{number:04d}" for number in range(2, 68, STRIDE) if f"{number:04d}" not in NAMES][:COUNT]
    for index, name in enumerate(names):
        image = Image.open(data / "CBSD68" / f"{name}.png").convert("RGB")
        left, top = ((side - SIDE) // 2 for side in image.size)
        truth = image.crop((left, top, left + SIDE, top + SIDE))
        small = truth.resize((SIDE // SCALE, SIDE // SCALE), Image.Resampling.BICUBIC)
        if kind == "jpeg50":
            file = io.BytesIO()
            small.save(file, "JPEG", quality=50)
            small = restorer.dejpeg(Image.open(file), detail=FIRST_DETAIL, prior=photo).convert("RGB")
        elif kind == "noisy10":
            noise = np.random.default_rng(index).normal(0, 10, (*small.size, 3))
            small = Image.fromarray((np.asarray(small) + noise).round().clip(0, 255).astype(np.uint8))
            small = restorer.denoise(small, sigma=10, detail=FIRST_DETAIL, prior=photo)
        elif kind == "blurred1":
            soft = to_tensor(from_pil(small.filter(ImageFilter.GaussianBlur(1))))
            kernel = blur_of_softness(soft, photo)
            assert kernel is not None, f"{name} is not found to be soft"
            small = Image.fromarray(to_bytes(undo_blur(soft, kernel, 0, photo, None).measured().run().image))
        yield name, to_tensor(from_pil(small)), to_tensor(from_pil(truth))


def enlarge(network: Prior, small: torch.Tensor, state: State) -> torch.Tensor:
    """Return what the network makes of a small picture, (3, H, W) in [0, 1]."""
    start = torch.from_numpy(enlarge_bicubic(to_bytes(small), SIDE)).permute(2, 0, 1)[None]
    answer = network.predict(start, first_level(SCALE, state) / SPREAD).x0
    if state == "clean":
        answer = Bicubic(SCALE).finish(answer, (2 * small - 1)[None])
    return (answer[0] + 1).div(2).clamp(0, 1)


def to_bytes(picture: torch.Tensor) -> np.ndarray:
    """Return a picture (3, H, W) in [0, 1] as uint8 (H, W, 3)."""
    return (255 * picture).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
