"""Measure how noise that is not white is found and removed, on photographs with simulated noise and on clean ones.

python tests/bench/camera.py strength SHARD...    # the estimated strength over the true one, by kind
python tests/bench/camera.py gain SHARD...        # PSNR with what was measured, the true strength, the true covariance
python tests/bench/camera.py default SHARD...     # PSNR and texture as the verb restores them, and what it leaves
python tests/bench/camera.py clean FOLDER...      # what happens to pictures without noise
python tests/bench/camera.py pairs FOLDER         # PSNR and texture of NAME_noisy.png beside NAME_clean.png
python tests/bench/camera.py cost PICTURE         # seconds of measuring and sampling, over those of one evaluation

`--set first=5 textured=1` changes constants of `CAMERA` (restorer/tasks/defaults.py) for `gain`. Every 40th photograph
is taken (`--every`), none of which the noise estimator was fitted to.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restorer.evaluation.metrics import high_energy, psnr
from restorer.measurement.camera_noise import (
    LEAST_VARIANCE,
    CameraNoise,
    Residual,
    autocovariance_of,
    mean_variance,
    measure_camera_noise,
    quiet_spectrum,
)
from restorer.measurement.windows import windows_of
from restorer.models.load import load_noise_estimator, load_prior
from restorer.tasks import camera_plan, denoise
from restorer.tasks.believed_noise import is_believed
from restorer.tasks.job import Job
from restorer.tasks.region import Place
from restorer.tasks.tiles import with_default_tiles
from restorer.training.datasets import find_sources
from restorer.training.noise_estimator import LEAST_SIDE, crop_of
from restorer.training.simulated_noise import KINDS, Pair, simulate

LEAST_LOSS = 0.005  # dB from which a picture counts as below its input
LEAST_SIGMA = 2.0  # levels: weaker noise is not counted


def pairs(shards: list[Path], every: int, kind: str) -> Iterator[Pair]:
    """Yield photographs with and without noise of a kind, in [0, 1]."""
    for number, source in enumerate(find_sources(shards, LEAST_SIDE).sources[::every]):
        rng = random.Random(number)
        pair = simulate(crop_of(Image.fromarray(source.read()), rng), kind, rng)
        yield Pair(pair.noisy / 255, pair.clean / 255)


def sigma_of(pair: Pair) -> float:
    """Return the standard deviation of the noise in levels."""
    return 255 * float((pair.noisy - pair.clean).square().mean().sqrt())


def measure(image: Tensor) -> CameraNoise:
    """Return the noise of a picture in [0, 1]."""
    found = measure_camera_noise(image, load_prior(), load_noise_estimator())
    assert found is not None
    return found


def true_noise(pair: Pair, found: CameraNoise) -> CameraNoise:
    """Return the noise with its true covariance, averaged over the picture."""
    noise = windows_of(255 * (pair.noisy - pair.clean), 8)
    spectrum = quiet_spectrum(Residual(noise, torch.zeros_like(noise)), share=1.0)
    autocovariance = autocovariance_of(spectrum)
    scaled = autocovariance * (sigma_of(pair) ** 2 / mean_variance(autocovariance))
    scaled[range(3), range(3), 0, 0] += LEAST_VARIANCE
    return replace(found, sigma=sigma_of(pair), probability=1.0, autocovariance=scaled)


def remove(image: Tensor, found: CameraNoise, detail: float | None) -> Tensor:
    """Return a picture without the given noise, whether it is sure or not."""
    model = with_default_tiles(load_prior(), *image.shape[-2:])
    task = denoise._Denoising(image, Place.of(image, None), None, model, "camera", 1.0, None, None, detail, "auto", 0)
    return task.remove_camera(replace(found, probability=1.0)).run().image


@dataclass(frozen=True)
class Restored:
    """A picture as the verb restores it.

    Args:
        before: PSNR of the picture in dB.
        after: PSNR of the result.
        energy: High-frequency energy of the result.
        true_energy: That of the truth.
        is_copied: Whether the verb copies the picture.
    """

    before: float
    after: float
    energy: float
    true_energy: float
    is_copied: bool


def restored(noisy: Tensor, clean: Tensor, detail: float | None) -> Restored:
    """Restore a picture (3, H, W) in [0, 1] whose truth is known; the result is rounded to 8 bits."""
    job = denoise.prepare_denoise(noisy, detail=detail, prior=load_prior()).measured()
    result = (255 * job.run().image).round() / 255
    energies = (high_energy(x) for x in (result, clean))
    return Restored(psnr(noisy, clean), psnr(result, clean), *energies, job.plan is None)


def texture_of(made: list[Restored]) -> float:
    """Return the mean energy of results over that of their truths."""
    return sum(m.energy for m in made) / sum(m.true_energy for m in made)


def strength(options: argparse.Namespace) -> None:
    """Print how well the strength is estimated."""
    print("kind: pictures, missed, within 25 %, ratio of the estimate to the truth at 5, 50, 95 %")
    for kind in KINDS[1:]:
        ratios, missed = [], 0
        for pair in pairs(options.inputs, options.every, kind):
            if sigma_of(pair) >= LEAST_SIGMA:
                found = measure(pair.noisy)
                ratios.append(found.sigma / sigma_of(pair))
                missed += not is_believed(found, 0.0)
        within = np.mean([0.75 <= ratio <= 1.25 for ratio in ratios])
        low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
        print(f"{kind}: {len(ratios)}, {missed}, {within:.2f}, {low:.2f} {middle:.2f} {high:.2f}", flush=True)


def gain(options: argparse.Namespace) -> None:
    """Print what removing the noise brings, with what was measured and with the truth, and the texture that is left."""
    changed = {name: type(getattr(denoise.CAMERA, name))(value) for name, value in (s.split("=") for s in options.set)}
    denoise.CAMERA = camera_plan.CAMERA = replace(denoise.CAMERA, **changed)
    print("kind: noisy, measured / texture, true strength, true covariance; share of the gain that is reached")
    for kind in options.kinds:
        rows, energies = [], []
        for pair in pairs(options.inputs, options.every, kind):
            found = measure(pair.noisy)
            known = replace(found, sigma=sigma_of(pair))
            result = remove(pair.noisy, found, options.detail)
            truths = () if options.measured else (known, true_noise(pair, found))
            others = [remove(pair.noisy, n, options.detail) for n in truths]
            rows.append([psnr(p, pair.clean) for p in (pair.noisy, result, *others)])
            energies.append([high_energy(result), high_energy(pair.clean)])
        (noisy, measured, *known_better), texture = np.mean(rows, 0), np.divide(*np.sum(energies, 0))
        line = f"{kind}: {noisy:.2f}, {measured:.2f} / {texture:.2f}"
        if known_better:
            scaled, true = known_better
            line += f", {scaled:.2f}, {true:.2f}; {(measured - noisy) / (true - noisy):.0%}"
        print(line, flush=True)


def clean(options: argparse.Namespace) -> None:
    """Print which pictures without noise are changed, and by how much."""
    sources, copied = find_sources(options.inputs, 32).sources[:: options.every], 0
    for source in sources:
        image = torch.from_numpy(source.read()).permute(2, 0, 1) / 255
        job = denoise.prepare_denoise(image, prior=load_prior()).measured()
        if job.plan is None:
            copied += 1
            continue
        assert job.noise is not None
        print(f"{source.path.name} at {source.offset}: {psnr(job.run().image, image):.1f} dB, {job.noise.describe()}")
    print(f"{copied} of {len(sources)} are copied")


def default(options: argparse.Namespace) -> None:
    """Print what the verb makes of simulated noise, and which pictures it leaves and makes worse."""
    print("kind: noisy, result / texture; pictures, copied, below their input, least gain")
    for kind in options.kinds:
        made = [restored(p.noisy, p.clean, options.detail) for p in pairs(options.inputs, options.every, kind)]
        gains = np.array([m.after - m.before for m in made])
        before, after = np.mean([(m.before, m.after) for m in made], 0)
        print(
            f"{kind}: {before:.2f}, {after:.2f} / {texture_of(made):.2f}; {len(made)}, "
            f"{sum(m.is_copied for m in made)}, {(gains < -LEAST_LOSS).sum()}, {gains.min():+.2f}",
            flush=True,
        )


def paired(options: argparse.Namespace) -> None:
    """Print the PSNR and the texture of pictures that were stored with and without noise, as the verb restores them."""
    made: list[Restored] = []
    for path in sorted(p for folder in options.inputs for p in folder.glob("*_noisy.*"))[:: options.every]:
        noisy, clean = (
            torch.from_numpy(np.array(Image.open(p).convert("RGB"))).permute(2, 0, 1) / 255
            for p in (path, path.with_name(path.name.replace("_noisy.", "_clean.")))
        )
        made.append(restored(noisy, clean, options.detail))
        print(f"{path.stem}: {made[-1].before:.2f}, {made[-1].after:.2f} / {texture_of(made[-1:]):.2f}", flush=True)
    before, after = np.mean([(m.before, m.after) for m in made], 0)
    of_restored = texture_of([m for m in made if not m.is_copied])
    print(f"mean: {before:.2f}, {after:.2f} / {texture_of(made):.2f}, {of_restored:.2f} without those that are copied")


def cost(options: argparse.Namespace) -> None:
    """Print the seconds of measuring and of sampling, and both over those of one evaluation, for 1 to 16 pictures."""
    tile = torch.from_numpy(np.array(Image.open(options.inputs[0]).convert("RGB"))).permute(2, 0, 1) / 255

    def timed(run) -> tuple[float, object]:
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start, result

    for side in (1, 2, 4):
        image = tile.repeat(1, side, side)
        once: Job = denoise.prepare_denoise(image, 10.0, steps=1, prior=load_prior())
        one = min(timed(once.run)[0] for _ in range(2))
        measuring, job = timed(lambda image=image: denoise.prepare_denoise(image, prior=load_prior()).measured())
        sampling, _ = timed(job.run)
        size = f"{image.shape[-1]}x{image.shape[-2]}"
        print(f"{size}: {measuring:.2f} s + {sampling:.2f} s, {measuring / one:.2f} + {sampling / one:.2f} evaluations")


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description="Measure the removal of camera noise.")
    parser.add_argument("command", choices=("strength", "gain", "default", "clean", "pairs", "cost"))
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--every", type=int, help="take every Nth photograph; by default every 40th of the shards")
    parser.add_argument("--kinds", nargs="+", default=["camera", "phone", "reduced", "grain", "shared"], choices=KINDS)
    parser.add_argument("--detail", type=float, help="detail of the results")
    parser.add_argument("--measured", action="store_true", help="leave out what the truth would bring")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="constants of CAMERA")
    options = parser.parse_args()
    options.every = options.every or (1 if options.command in ("clean", "pairs", "cost") else 40)
    commands = {"strength": strength, "gain": gain, "default": default, "clean": clean, "pairs": paired, "cost": cost}
    commands[options.command](options)


if __name__ == "__main__":
    main()
