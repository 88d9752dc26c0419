"""Comparison of whole commands, from start to written file: `restore inpaint` against a script that uses deepinv.

    python tests/bench/rival_whole.py PICTURE MASK OUTPUT [--steps 20] [--precision fp32]

runs the script: it imports its packages, loads the embedded prior, samples with DiffPIR and writes the result. The
embedded network is not a UNet2DModel, so the script uses the network and the loading of weights of this project, and
deepinv for everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BENCH = Path(__file__).resolve().parent
WIDTH, HEIGHT = 768, 512


def time_whole_commands(steps: int, rounds: int, precisions: Sequence[str]) -> None:
    """Print the times of deepinv and of this project in each precision.

    The commands alternate, after a first round that fills caches and is not timed.

    Args:
        steps: Number of network evaluations.
        rounds: Number of rounds that are timed.
        precisions: "fp32", "bf16" or "fp16".
    """
    from rival_race import table

    with tempfile.TemporaryDirectory() as folder:
        picture, mask, output = (Path(folder) / name for name in ("picture.png", "mask.png", "output.png"))
        _write_inputs(picture, mask)
        common = [picture, mask, output, "--steps", steps]
        ours = ["-m", "restorer", "inpaint", picture, "--mask", mask, "-o", output, "--overwrite", "--steps", steps]
        ours += ["--method", "diffpir", "--json", "--device", "cpu"]
        commands = {}
        for precision in precisions:
            commands[f"deepinv {precision}"] = [BENCH / "rival_whole.py", *common, "--precision", precision]
        for precision in precisions:
            commands[f"restore {precision}"] = [*ours, "--precision", precision]
        times: dict[str, list[float]] = {label: [] for label in commands}
        for count in range(rounds + 1):
            for label, command in commands.items():
                seconds, evaluations = _run(command)
                if evaluations != steps:
                    print(f"not compared: {label} needs {evaluations} evaluations, not {steps}")
                    return
                if count:
                    times[label].append(seconds)
    print(f"whole command, inpaint {WIDTH}x{HEIGHT}, DiffPIR, {steps} evaluations each, {rounds} rounds")
    table(list(times), list(times.values()))


def _write_inputs(picture: Path, mask: Path) -> None:
    """Write a photograph and a mask with holes in a random half of the pixels, so that no region can be skipped."""
    import numpy as np
    from PIL import Image

    with Image.open(BENCH.parent / "images" / "eagles.jpg") as image:
        image.convert("RGB").resize((WIDTH, HEIGHT)).save(picture)
    holes = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    Image.fromarray(np.uint8(255) * holes).save(mask)


def _run(command: Sequence[object]) -> tuple[float, int]:
    """Run a command, and return its seconds and the number of evaluations that it reports."""
    path = os.pathsep.join(filter(None, [str(BENCH.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    return seconds, json.loads(done.stdout.splitlines()[0])["steps"]  # the first line is about the picture


def run_script() -> None:
    """Inpaint a picture with deepinv."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()

    from restorer.machine.torchvision import import_torchvision

    import_torchvision()  # before deepinv imports it, which cannot repair it

    import deepinv
    import numpy as np
    import torch
    from PIL import Image
    from rival_networks import TheirNetwork

    from restorer.models.checkpoints import load_model
    from restorer.models.devices import PRECISIONS
    from restorer.models.load import weights_folder

    unet, spec = load_model(weights_folder())
    unet = unet.eval().requires_grad_(False).to(PRECISIONS[options.precision])
    network = TheirNetwork(unet, spec.patch_size)
    denoiser = deepinv.models.ScoreModelWrapper(
        lambda x, t: network(x, t.reshape(1)),
        prediction_type=spec.prediction_type,
        scale_t=spec.schedule.alpha_bars.sqrt().float(),
        variance_preserving=True,
        takes_integer_time=True,
    )
    picture, mask = (np.asarray(Image.open(file)) for file in options.files[:2])
    x = torch.from_numpy(picture / np.float32(255)).permute(2, 0, 1)[None]
    known = torch.from_numpy(mask == 0).expand(1, 3, -1, -1).float()
    physics = deepinv.physics.Inpainting(x.shape[1:], mask=known)
    sampler = deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), sigma=1 / 255, max_iter=options.steps)
    filled = sampler(physics(x), physics)[0].clamp(0, 1).permute(1, 2, 0)
    Image.fromarray((filled * 255).round().byte().numpy()).save(options.files[2])
    print(json.dumps({"steps": network.calls}))


if __name__ == "__main__":
    run_script()
