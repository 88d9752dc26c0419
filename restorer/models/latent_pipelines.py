"""Models that work on the latents of an autoencoder, in the layout of diffusers' pipelines for latent diffusion.

    FOLDER/model_index.json
    FOLDER/unet/config.json, weights          the network of the diffusion (checkpoints.py)
    FOLDER/vqvae/config.json, weights         the autoencoder; FOLDER/vae for a variational one
    FOLDER/scheduler/scheduler_config.json

The network may take more channels than the latents have: the condition of super-resolution (Rombach et al. 2022,
https://arxiv.org/abs/2112.10752, section 4.4). Both networks are read as carefully as in checkpoints.py: their
configurations are bounded, and their weights are compared with the expected names and shapes before they take memory,
and must be finite.
"""

from __future__ import annotations

from pathlib import Path

from restorer.errors import ModelError
from restorer.models.checkpoints import (
    build_with_weights,
    find_decoder,
    find_weights,
    load_unet,
    locate_parts,
    modernize_names,
)
from restorer.models.configs import autoencoder_config, read_json
from restorer.models.layout import CONFIG
from restorer.models.weight_files import read_weights
from restorer.networks import Network
from restorer.networks.autoencoder import Autoencoder
from restorer.priors.unet_prior import ModelSpec

__all__ = ["is_latent", "load_autoencoder", "load_latent"]


def is_latent(path: Path) -> bool:
    """Return whether a model works on latents.

    A model works on latents if an autoencoder lies beside its network, or if its model_index.json says so.

    Args:
        path: The folder or file of the model.

    Raises:
        ModelError: The model_index.json is damaged, or describes an unsupported kind of model.
    """
    if path.is_file() and not (path.parent / CONFIG).is_file():
        return False  # The path is a raw file; other files in its folder do not matter.
    return find_decoder(locate_parts(path)[0]) is not None


def load_latent(path: Path) -> tuple[Network, ModelSpec, Autoencoder]:
    """Read a model that works on latents, on the CPU and in the precision of its files.

    Args:
        path: The folder of the pipeline, its `unet` folder, or a weights file in the `unet` folder.

    Returns:
        The network; its spec, whose `network` counts only the channels of the latents; and the autoencoder.

    Raises:
        ModelError: As in `restorer.models.checkpoints.load_model`, or the parts do not fit together.
    """
    root, folder, weights = locate_parts(path)
    part = find_decoder(root)
    if part is None:
        raise ModelError(f"{root} has no autoencoder beside its network", "it is a model of images, not of latents")
    autoencoder = load_autoencoder(root / part)
    network, spec = load_unet(folder, weights, autoencoder.latent_channels)
    if spec.clip:
        raise ModelError(
            f"{root} cannot be used: its scheduler clips to [-1, 1], but latents are not limited to that range",
            'a model that was trained without clipping has "clip_sample": false in scheduler_config.json',
        )
    return network, spec, autoencoder


def load_autoencoder(folder: Path) -> Autoencoder:
    """Read the autoencoder in a folder.

    Args:
        folder: A folder with config.json and weights in diffusers' layout.

    Raises:
        ModelError: A file is missing or damaged, the configuration describes an unknown network, or the weights do not
            fit the configuration.
    """
    content = read_json(folder / CONFIG)
    try:
        config = autoencoder_config(content)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{folder / CONFIG} describes an autoencoder that cannot be used: {error}") from error
    path = find_weights(folder)
    return build_with_weights(path, config.build, modernize_names(read_weights(path)))
