"""The folder of a training run: a model from the first minute on, and beside it how the run is going.

    config.json, scheduler_config.json, diffusion_pytorch_model.safetensors, README.md      the model
    recipe.toml, checkpoint.pt                                                              to repeat it, to go on
    metrics.jsonl, samples.png, denoised.png                                                to look at

Every file appears whole or not at all.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from restorer.diffusion.prior import Prior
from restorer.errors import OutputError, RestorerError
from restorer.models.checkpoints import save_model
from restorer.networks import Network
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.tasks.generate import generate
from restorer.training.recipe import Recipe, model_card, recipe_text
from restorer.training.torchvision import import_torchvision

__all__ = ["CHECKPOINT", "METRICS", "RECIPE", "RunFolder", "denoising_strip", "sample_grid"]

CHECKPOINT, METRICS, RECIPE = "checkpoint.pt", "metrics.jsonl", "recipe.toml"
SAMPLES, SAMPLE_SIDE, SAMPLE_STEPS = 8, 64, 20
STRIP_SIGMAS, STRIP_SIDE = (15, 25, 50, 100), 128


class RunFolder:
    """Where a run writes.

    Args:
        path: the folder; made if need be.
        spec, recipe: what is trained and how.
        facts: rows of the model card.
        example: one of the pictures, uint8 (H, W, 3), on which the state is shown.
    """

    def __init__(
        self, path: Path, spec: ModelSpec, recipe: Recipe, facts: Mapping[str, str], example: np.ndarray
    ) -> None:
        self.path, self._spec, self._recipe, self._facts = path, spec, recipe, facts
        side = min(STRIP_SIDE, *example.shape[:2])
        top, left = ((extent - side) // 2 for extent in example.shape[:2])
        crop = example[top : top + side, left : left + side]
        self._example = torch.from_numpy(crop.copy()).permute(2, 0, 1).float()[None] / 127.5 - 1

    def begin(self, step: int) -> None:
        """Write the recipe, and drop the metrics of steps that will be taken again.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            command = "restore train DATA --recipe recipe.toml --out FOLDER"
            self._write(RECIPE, recipe_text(self._spec, self._recipe, command).encode())
            metrics = self.path / METRICS
            lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() and step else []
            self._write(METRICS, "".join(f"{line}\n" for line in lines if _step_of(line) <= step).encode())
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}", "name another folder with --out") from error

    def record(self, metrics: Mapping[str, Any]) -> None:
        """One more line of metrics.jsonl.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        known = {k: [v if v == v else None for v in w] if isinstance(w, tuple) else w for k, w in metrics.items()}
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(known) + "\n")  # nan, which is no JSON, has become null
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}", "free some space; --resume goes on") from error

    def save(self, average: Network, state: Mapping[str, Any], *, pictures: bool = True) -> None:
        """The averaged weights as a model, the state as a checkpoint, the card; and, if there is time, the pictures.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        partial = self.path / f".{CHECKPOINT}.partial"
        try:
            torch.save(dict(state), partial)
            save_model(self.path, average, self._spec)
            partial.replace(self.path / CHECKPOINT)
            facts = {"done": f"{state['step']:,} steps", **self._facts}
            self._write("README.md", model_card(self._spec, self._recipe, facts).encode())
        except (OSError, SafetensorError, RuntimeError) as error:  # a full disk is told in any of the three ways
            for path in self.path.glob(".*.partial"):
                path.unlink(missing_ok=True)
            said = str(error).splitlines()[0][:200]
            raise OutputError(f"{self.path} cannot be written: {said}", "free some space; --resume goes on") from error
        if pictures:
            self._draw(average)

    def _draw(self, average: Network) -> None:
        """What the state looks like. No run ends because that cannot be shown."""
        prior = UNetPrior(average, self._spec, device=next(average.parameters()).device)
        with suppress(ArithmeticError, ImportError, OSError, RestorerError, RuntimeError):
            self._write("samples.png", _png(sample_grid(prior)))
            self._write("denoised.png", _png(denoising_strip(prior, self._example)))

    def _write(self, name: str, content: bytes) -> None:
        partial = self.path / f".{name}.partial"
        partial.write_bytes(content)
        partial.replace(self.path / name)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line torn by a crash
        return 1 << 62


def _png(picture: Tensor) -> bytes:
    """(3, H, W) in [0, 1] as a PNG file."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _grid(pictures: Tensor, columns: int) -> Tensor:
    """(B, 3, H, W) on [-1, 1] -> one picture (3, H', W') in [0, 1]."""
    import_torchvision()
    from torchvision.utils import make_grid

    return make_grid((pictures.cpu().float().clamp(-1, 1) + 1) / 2, nrow=columns, padding=2, pad_value=1.0)


def sample_grid(prior: Prior) -> Tensor:
    """Eight samples of 64 pixels, always from the same noise, by DDIM (Song et al. 2021, arXiv:2010.02502)."""
    return _grid(2 * generate(SAMPLES, SAMPLE_SIDE, method="ddim", steps=SAMPLE_STEPS, prior=prior) - 1, columns=4)


def denoising_strip(prior: Prior, example: Tensor) -> Tensor:
    """A picture (1, 3, H, W) on [-1, 1] with noise of 15, 25, 50 and 100 of 255; below, one evaluation each."""
    sigma = torch.tensor(STRIP_SIGMAS, dtype=torch.float64) * 2 / 255
    noise = torch.randn(len(sigma), *example.shape[1:], generator=torch.Generator().manual_seed(0))
    noisy = (example + sigma.view(-1, 1, 1, 1).float() * noise).to(prior.device)
    return _grid(torch.cat([noisy, prior.denoise(noisy, sigma)]), columns=len(STRIP_SIGMAS))
