"""Sampling alone, ours against diffusers: the same network, the same weights, 20 steps of DDIM, in turn.

    PYTHONPATH=. python tests/bench/rivals.py [--steps 20] [--rounds 3] [--device cpu] [--networks cifar plain ...]

Both get a network of random weights, which take as long as good ones. The fastest round of each counts; ratios are
within one run. diffusers computes as its DDIM pipeline does, in float32 and in the other precision named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from restorer.vision import import_torchvision

GOOGLE = {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1}
NETWORKS = {  # name: fields of a UNet2DModel, side
    "cifar": (
        {
            **GOOGLE,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        },
        32,
    ),
    "plain": (
        {
            **GOOGLE,
            "in_channels": 12,
            "out_channels": 12,
            "block_out_channels": (48, 96, 144, 192),
            "down_block_types": ("DownBlock2D",) * 4,
            "up_block_types": ("UpBlock2D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "add_attention": False,
        },
        64,
    ),
    "celebahq": (
        {
            **GOOGLE,
            "block_out_channels": (128, 128, 256, 256, 512, 512),
            "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
        },
        256,
    ),
}


def main() -> None:
    """Print one line a network and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["cifar", "plain"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    import_torchvision()
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {options.steps} steps", flush=True)
    for name in options.networks:
        compare(name, options)


@torch.no_grad()
def compare(name: str, options: argparse.Namespace) -> None:
    """One network, all precisions."""
    import diffusers

    from restorer.diffusion.reverse import reverse
    from restorer.diffusion.schedule import Schedule
    from restorer.networks.unet import UNet, UNetConfig
    from restorer.priors.catalog import PRECISIONS
    from restorer.priors.latent import ddim_plan, first_mean
    from restorer.priors.unet_prior import ModelSpec, UNetPrior

    fields, side = NETWORKS[name]
    config = UNetConfig(**fields)
    schedule = Schedule()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    shape = (1, config.in_channels, side, side)
    runs: dict[str, Callable[[], torch.Tensor]] = {}
    state = UNet(config).state_dict()
    for precision in options.precisions:
        theirs = diffusers.UNet2DModel(**fields)
        theirs.load_state_dict(state)
        theirs = theirs.eval().to(options.device, PRECISIONS[precision])
        ours = UNet(config)
        ours.load_state_dict(state)
        spec = ModelSpec(config, schedule, clip=False)
        prior = UNetPrior(ours, spec, device=options.device, dtype=PRECISIONS[precision])

        def sample_theirs(network=theirs) -> torch.Tensor:
            scheduler.set_timesteps(options.steps)
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(network.device, network.dtype)
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t).sample, t, x).prev_sample
            return x

        def sample_ours(prior=prior) -> torch.Tensor:
            plan = ddim_plan(schedule, options.steps, offset=0)
            return reverse(prior, None, None, plan, first_mean(plan, shape).to(prior.device))

        runs[f"diffusers {precision}"], runs[f"ours {precision}"] = sample_theirs, sample_ours
    best = {label: float("inf") for label in runs}
    for count in range(options.rounds + 1):
        for label, run in runs.items():
            began = time.perf_counter()
            run().sum().item()
            if count:  # the first round chooses kernels
                best[label] = min(best[label], time.perf_counter() - began)
    base = best[f"diffusers {options.precisions[0]}"]
    for label, seconds in best.items():
        print(f"{name} {side}x{side}: {label} {seconds:.2f} s, {base / seconds:.2f} times", flush=True)


if __name__ == "__main__":
    main()
