"""The folder of a training run: a model from the first minute on, and figures and images of its progress.

    config.json, scheduler_config.json, diffusion_pytorch_model.safetensors, README.md      the model
    recipe.toml, checkpoint.pt                                                              to repeat or resume the run
    metrics.jsonl, samples.png, denoised.png                                                to follow its progress

Each file is replaced in one operation, so that it is never incomplete; only metrics.jsonl is extended line by line.
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
from restorer.machine.torchvision import import_torchvision
from restorer.models.checkpoints import save_model
from restorer.networks import Network
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.tasks.generate import generate
from restorer.training.recipe import Recipe, model_card, recipe_text

__all__ = ["CHECKPOINT", "METRICS", "RECIPE", "RunFolder", "denoising_strip", "sample_grid"]

CHECKPOINT, METRICS, RECIPE = "checkpoint.pt", "metrics.jsonl", "recipe.toml"
SAMPLES, SAMPLE_SIDE, SAMPLE_STEPS = 8, 64, 20
STRIP_SIGMAS, STRIP_SIDE = (15, 25, 50, 100), 128


class RunFolder:
    """The writer of a run's folder.

    Args:
        path: The folder, which `begin` creates if it does not exist.
        spec: The network with its schedule and prediction type.
        recipe: The numbers of the training.
        facts: Rows of the model card, value by name.
        example: One of the pictures, uint8 (H, W, 3), whose middle is denoised to show the state of the network.
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
        """Write the recipe, and remove the metrics of the steps after `step`, which will be repeated.

        Raises:
            OutputError: The folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            command = "restore train DATA --recipe recipe.toml --out FOLDER"
            self._write(RECIPE, recipe_text(self._spec, self._recipe, command).encode())
            metrics = self.path / METRICS
            lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() and step else []
            self._write(METRICS, "".join(f"{line}\n" for line in lines if _parse_step(line) <= step).encode())
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}", "name another folder with --out") from error

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; nan, which JSON does not have, becomes null.

        Raises:
            OutputError: The folder cannot be written, or the disk is full.
        """
        content = {k: [v if v == v else None for v in w] if isinstance(w, tuple) else w for k, w in metrics.items()}
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(content) + "\n")
        except OSError as error:
            hint = "free some disk space, then continue with --resume"
            raise OutputError(f"{self.path} cannot be written: {error}", hint) from error

    def save(self, average: Network, state: Mapping[str, Any], *, with_images: bool = True) -> None:
        """Write the model, the checkpoint and the model card.

        Args:
            average: The network with the averaged weights.
            state: The content of the checkpoint.
            with_images: Whether samples.png and denoised.png are written too.

        Raises:
            OutputError: The folder cannot be written, or the disk is full.
        """
        partial = self.path / f".{CHECKPOINT}.partial"
        try:
            torch.save(dict(state), partial)
            save_model(self.path, average, self._spec)
            partial.replace(self.path / CHECKPOINT)
            facts = {"done": f"{state['step']:,} steps", **self._facts}
            self._write("README.md", model_card(self._spec, self._recipe, facts).encode())
        except (OSError, SafetensorError, RuntimeError) as error:  # a full disk raises any of the three
            for path in self.path.glob(".*.partial"):
                path.unlink(missing_ok=True)
            reason = str(error).splitlines()[0][:200]
            hint = "free some disk space, then continue with --resume"
            raise OutputError(f"{self.path} cannot be written: {reason}", hint) from error
        if with_images:
            self._write_images(average)

    def _write_images(self, average: Network) -> None:
        """Write samples.png and denoised.png. A failure is ignored, because no run should end for lack of images."""
        prior = UNetPrior(average, self._spec, device=next(average.parameters()).device)
        with suppress(ArithmeticError, ImportError, OSError, RestorerError, RuntimeError):
            self._write("samples.png", _png(sample_grid(prior)))
            self._write("denoised.png", _png(denoising_strip(prior, self._example)))

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file of the folder in one operation."""
        partial = self.path / f".{name}.partial"
        partial.write_bytes(content)
        partial.replace(self.path / name)


def _parse_step(line: str) -> int:
    """Return the step of a line of metrics.jsonl, or a huge number if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a crash may leave an incomplete line
        return 1 << 62


def _png(picture: Tensor) -> bytes:
    """Encode a picture (3, H, W) in [0, 1] as a PNG file."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _grid(pictures: Tensor, columns: int) -> Tensor:
    """Arrange pictures (B, 3, H, W) on [-1, 1] in one picture (3, H', W') in [0, 1]."""
    import_torchvision()
    from torchvision.utils import make_grid

    return make_grid((pictures.cpu().float().clamp(-1, 1) + 1) / 2, nrow=columns, padding=2, pad_value=1.0)


def sample_grid(prior: Prior) -> Tensor:
    """Draw eight samples of 64 pixels, always from the same noise, with DDIM (Song et al. 2021, arXiv:2010.02502).

    Returns:
        One picture (3, H, W) in [0, 1], two rows of four samples.
    """
    return _grid(2 * generate(SAMPLES, SAMPLE_SIDE, method="ddim", steps=SAMPLE_STEPS, prior=prior) - 1, columns=4)


def denoising_strip(prior: Prior, example: Tensor) -> Tensor:
    """Denoise a picture with four strengths of noise, by one evaluation each.

    Args:
        prior: The model.
        example: A clean picture (1, 3, H, W) on [-1, 1].

    Returns:
        One picture (3, H', W') in [0, 1]: the upper row has noise of 15, 25, 50 and 100 on the 0..255 scale, the lower
        row the results.
    """
    sigma = torch.tensor(STRIP_SIGMAS, dtype=torch.float64) * 2 / 255
    noise = torch.randn(len(sigma), *example.shape[1:], generator=torch.Generator().manual_seed(0))
    noisy = (example + sigma.view(-1, 1, 1, 1).float() * noise).to(prior.device)
    return _grid(torch.cat([noisy, prior.denoise(noisy, sigma)]), columns=len(STRIP_SIGMAS))
