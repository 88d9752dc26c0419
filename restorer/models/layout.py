"""The names of the files and folders of a model in diffusers' layout. This module has no imports that cost time."""

from __future__ import annotations

__all__ = ["CONFIG", "DECODERS", "INDEX", "PICKLED", "SAFETENSORS", "SCHEDULER", "SCHEDULER_PLACES", "USABLE_DECODERS"]

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
SAFETENSORS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
DECODERS = ("vqvae", "vae", "movq")  # the folders of a pipeline that may hold an autoencoder
USABLE_DECODERS = ("vqvae", "vae")  # movq is listed above only so that it can be recognized and refused
# The places where the schedule of a network may lie, by the folder of the network. The first file that exists counts.
SCHEDULER_PLACES = {
    "": (SCHEDULER, f"scheduler/{SCHEDULER}"),
    "unet/": (f"unet/{SCHEDULER}", f"scheduler/{SCHEDULER}", SCHEDULER),
}
