"""Models that work on the latents of an autoencoder, in the layout of diffusers' pipelines for latent diffusion.

    FOLDER/model_index.json
    FOLDER/unet/config.json, weights          the network of the diffusion (checkpoints.py)
    FOLDER/vqvae/config.json, weights         the autoencoder; FOLDER/vae, where it is a variational one
    FOLDER/scheduler/scheduler_config.json

The network may take more channels than the latents have: the condition of super-resolution (Rombach et al. 2022,
https://arxiv.org/abs/2112.10752, section 4.4). Both networks are read with the care of checkpoints.py: bounded
configurations, weights compared with names and shapes before they take memory, finite.
"""

from __future__ import annotations

from pathlib import Path

from restorer.errors import ModelError
from restorer.models.checkpoints import (
    decoder_folder,
    fitted,
    load_unet,
    places,
    renamed,
    weights_in,
)
from restorer.models.configs import autoencoder_config, read_json
from restorer.models.layout import CONFIG
from restorer.models.weight_files import read_weights
from restorer.networks import Network
from restorer.networks.autoencoder import Autoencoder
from restorer.priors.unet_prior import ModelSpec

__all__ = ["is_latent", "load_autoencoder", "load_latent"]


def is_latent(path: Path) -> bool:
    """Whether a model works on latents: whether an autoencoder lies beside its network, or model_index.json says so.

    Raises:
        ModelError: model_index.json is damaged, or tells of a model of another kind.
    """
    if path.is_file() and not (path.parent / CONFIG).is_file():
        return False  # a raw file, whatever lies beside it
    return decoder_folder(places(path)[0]) is not None


def load_latent(path: Path) -> tuple[Network, ModelSpec, Autoencoder]:
    """Read a model that works on latents, on the CPU and in the precision of its files.

    Args:
        path: the folder of the pipeline; its `unet` folder, or a weights file in that.

    Returns:
        The network; its spec, whose `network` has the channels of the latents alone; the autoencoder.

    Raises:
        ModelError: as `restorer.models.checkpoints.load_model`; or the parts do not belong together.
    """
    root, folder, weights = places(path)
    part = decoder_folder(root)
    if part is None:
        raise ModelError(f"{root} has no autoencoder beside its network", "it is a model of pictures")
    autoencoder = load_autoencoder(root / part)
    network, spec = load_unet(folder, weights, autoencoder.latent_channels)
    if spec.clip:
        raise ModelError(
            f"{root} cannot be used: its scheduler clips to [-1, 1], where latents do not lie",
            'what was trained without clipping says "clip_sample": false in scheduler_config.json',
        )
    return network, spec, autoencoder


def load_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder in a folder.

    Raises:
        ModelError: a file is missing or damaged, or asks for a network that is not known; or they do not fit.
    """
    content = read_json(folder / CONFIG)
    try:
        config = autoencoder_config(content)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{folder / CONFIG} describes no autoencoder that can be used: {error}") from error
    path = weights_in(folder)
    return fitted(path, config.build, renamed(read_weights(path)))
