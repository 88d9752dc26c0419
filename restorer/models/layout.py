"""What the files and folders of a model are called in diffusers' layout. Importing this costs nothing."""

from __future__ import annotations

__all__ = ["CONFIG", "DECODERS", "INDEX", "PICKLED", "SAFETENSORS", "SCHEDULER", "SCHEDULER_PLACES", "USABLE_DECODERS"]

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
SAFETENSORS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
DECODERS = ("vqvae", "vae", "movq")  # folders of a pipeline that hold an autoencoder
USABLE_DECODERS = ("vqvae", "vae")  # the third is known, so that it can be refused
SCHEDULER_PLACES = {  # where a network's schedule may stand, by the folder of the network, the first that is there
    "": (SCHEDULER, f"scheduler/{SCHEDULER}"),
    "unet/": (f"unet/{SCHEDULER}", f"scheduler/{SCHEDULER}", SCHEDULER),
}
