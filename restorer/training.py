"""The smallest honest trainer of a denoising diffusion model.

    L_simple = E_{x_0, eps, t} || target - network(x_t, t) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

with target eps (Ho et al. 2020, eq. 14) or v (Salimans & Ho 2022). t is real-valued, and drawn more often where the
noise is low, because that is where pictures are restored. The weights kept are an exponential moving average.

    python -m restorer.training weights/photo/recipe.toml DATA... --out runs/photo

DATA are .tar shards or folders of pictures. The recipe holds every number that shapes the result.
"""

from __future__ import annotations

import argparse
import io
import math
import queue
import tarfile
import threading
import time
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from restorer.diffusion.schedule import Schedule, alpha_bar_of
from restorer.networks import NETWORKS
from restorer.priors.checkpoints import load_model, save_model
from restorer.priors.unet_prior import ModelSpec, v_target

__all__ = ["Recipe", "crops", "read_pictures", "read_recipe", "train"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Recipe:
    """How a prior is trained.

    Args:
        steps: optimizer steps in all; batch: crops a step; crop: side of a crop in pixels.
        learning_rate: its peak, after `warmup` steps; a cosine takes it to zero at `steps`.
        low_t, low_share: the share of crops whose t is drawn below low_t; the others are drawn above.
        ema: decay of the weight average.
        downscale: probability that a crop is shrunk from one up to twice as wide; gray: that it loses its colour.
        seed: of crops, timesteps and noise.
    """

    steps: int
    batch: int = 16
    crop: int = 96
    learning_rate: float = 5e-4
    warmup: int = 200
    low_t: int = 600
    low_share: float = 0.7
    ema: float = 0.999
    clip_gradient: float = 1.0
    downscale: float = 0.3
    gray: float = 0.1
    seed: int = 0


def read_recipe(path: Path) -> tuple[ModelSpec, Recipe]:
    """A recipe file: the tables [network], [schedule], [prior] and [training]."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["network"].items()}
    kind = NETWORKS[str(shape.pop("class", "UNet2DModel"))]
    spec = ModelSpec(kind(**shape), Schedule(**content["schedule"]), **content["prior"])
    return spec, Recipe(**content["training"])


def read_pictures(sources: list[Path]) -> list[np.ndarray]:
    """Every picture of the .tar shards and folders, decoded once: uint8 (H, W, 3) each."""
    pictures = []
    for source in sources:
        if source.is_dir():
            pictures += [_decoded(p) for p in sorted(source.rglob("*")) if p.suffix.lower() in SUFFIXES]
            continue
        with tarfile.open(source) as tar:
            files = (tar.extractfile(member) for member in tar)
            pictures += [_decoded(io.BytesIO(file.read())) for file in files if file is not None]
    return pictures


def _decoded(source: Path | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(source).convert("RGB"))


def _crop(pictures: list[np.ndarray], weights: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """One augmented crop, uint8 (S, S, 3)."""
    picture = pictures[rng.choice(len(pictures), p=weights)]
    size = recipe.crop
    shrink = rng.random() < recipe.downscale
    side = min(round(size * rng.uniform(1, 2)), *picture.shape[:2]) if shrink else size
    top, left = (rng.integers(extent - side + 1) for extent in picture.shape[:2])
    patch = picture[top : top + side, left : left + side]
    if side != size:
        patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.LANCZOS))
    patch = np.rot90(patch, int(rng.integers(4)))
    return patch[:, ::-1] if rng.random() < 0.5 else patch


def crops(pictures: list[np.ndarray], recipe: Recipe, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of random crops, uint8 (B, S, S, 3), pictures drawn by their area."""
    pictures = [p for p in pictures if min(p.shape[:2]) >= recipe.crop]
    if not pictures:
        raise ValueError(f"no picture is as large as a crop of {recipe.crop} pixels")
    areas = np.array([p.shape[0] * p.shape[1] for p in pictures], dtype=np.float64)
    rng = np.random.default_rng(seed)
    while True:
        batch = np.stack([_crop(pictures, areas / areas.sum(), recipe, rng) for _ in range(recipe.batch)])
        gray = rng.random(recipe.batch) < recipe.gray
        batch[gray] = np.rint(batch[gray] @ LUMA)[..., None]
        yield batch


def _ahead(batches: Iterator[np.ndarray]) -> Iterator[Tensor]:
    """The same batches, float32 (B, 3, S, S) on [-1, 1], made by a thread while the network works.

    The thread keeps to NumPy: a second thread in PyTorch would bring a second pool of workers that fight the first.
    """
    buffer: queue.Queue[np.ndarray | Exception] = queue.Queue(maxsize=8)

    def fill() -> None:
        try:
            for batch in batches:
                buffer.put(batch)
        except Exception as error:  # raised again where the batches are used
            buffer.put(error)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        batch = buffer.get()
        if isinstance(batch, Exception):
            raise batch
        yield torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1


def _learning_rate(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.steps)))


def _draw_t(count: int, recipe: Recipe, last: int, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) float64 in [0, last]."""
    share, low_t = torch.rand(count, generator=generator), min(recipe.low_t, last)
    u = torch.rand(count, dtype=torch.float64, generator=generator)
    return torch.where(share < recipe.low_share, u * low_t, low_t + u * (last - low_t))


def train(
    spec: ModelSpec,
    recipe: Recipe,
    data: list[Path],
    out: Path,
    *,
    device: str = "cpu",
    every: int = 500,
    init: Path | None = None,
) -> None:
    """Train, or go on where `out/checkpoint.pt` stands. `out` is a model folder after every `every` steps.

    A fresh run begins with the weights of the model folder `init`, or with random ones.
    bf16 autocast and channels_last; the optimizer's weights and the average stay float32.
    """
    if spec.network.out_channels != spec.network.in_channels:
        raise ValueError("a learned variance needs the variational bound, which this trainer does not have")
    torch.manual_seed(recipe.seed)
    network = spec.network.build().to(device)
    if init is not None:
        start, start_spec = load_model(init)
        if start_spec.network != spec.network:
            raise ValueError(f"{init} holds a network of another shape than the recipe's")
        network.load_state_dict(start.state_dict())
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, fused=True)
    step, checkpoint = 0, out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print(f"resumed at step {step}", flush=True)
    pictures = read_pictures(data)
    print(f"{len(pictures)} pictures, {sum(p.size for p in pictures) / 3e6:.0f} megapixels", flush=True)
    # The stream depends on the step at which it begins, so a resumed run does not see the same crops again.
    batches = _ahead(crops(pictures, recipe, seed=recipe.seed + step))
    generator = torch.Generator().manual_seed(recipe.seed + step)
    levels: dict[int, list[float]] = {}
    started, started_step = time.monotonic(), step
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, recipe)
        x0 = next(batches).to(device)
        t = _draw_t(len(x0), recipe, spec.schedule.steps - 1, generator)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        alpha_bar = alpha_bar_of(spec.schedule.sigma_at(t)).view(-1, 1, 1, 1).float().to(device)
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        targets = {"epsilon": eps, "v_prediction": v_target(x0, eps, alpha_bar), "sample": x0}
        folded = F.pixel_unshuffle(x_t, spec.patch_size).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            output = network(folded, t.float().to(device))
        error = (
            (F.pixel_shuffle(output.float(), spec.patch_size) - targets[spec.prediction_type]).square().mean((1, 2, 3))
        )
        error.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_gradient)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():  # or the average would carry a graph of all steps with it
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        for level, value in zip((t // 100).int().tolist(), error.detach().tolist(), strict=True):
            levels.setdefault(level, []).append(value)
        if step % 100 == 0 or step == recipe.steps:
            if not all(math.isfinite(v) for values in levels.values() for v in values):
                raise SystemExit(f"the loss is not finite at step {step}; the last good checkpoint is {checkpoint}")
            rate = (step - started_step) * recipe.batch / (time.monotonic() - started)
            losses = " ".join(f"{k}:{sum(v) / len(v):.4f}" for k, v in sorted(levels.items()))
            print(f"step {step}/{recipe.steps}  {rate:.1f} crops/s  loss by t/100  {losses}", flush=True)
            levels = {}
        if step % every == 0 or step == recipe.steps:
            save_model(out, average, spec)
            state = {"network": network.state_dict(), "average": average.state_dict(), "step": step}
            partial = checkpoint.with_suffix(".partial")
            torch.save({**state, "optimizer": optimizer.state_dict()}, partial)
            partial.replace(checkpoint)


def main() -> None:
    """The command `python -m restorer.training`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--init", type=Path, help="model folder to begin with")
    options = parser.parse_args()
    spec, recipe = read_recipe(options.recipe)
    train(spec, recipe, options.data, options.out, device=options.device, init=options.init)


if __name__ == "__main__":
    main()
