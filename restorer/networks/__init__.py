"""Neural networks. They know neither what they are used for nor how they are made faster.

`NETWORKS` maps the `_class_name` of a config.json to the configuration that builds the network.
"""

from restorer.networks.residual_unet import ResidualUNet, ResidualUNetConfig
from restorer.networks.unet import UNet, UNetConfig

__all__ = ["NETWORKS", "Network", "NetworkConfig"]

Network = UNet | ResidualUNet
NetworkConfig = UNetConfig | ResidualUNetConfig
NETWORKS: dict[str, type[NetworkConfig]] = {"UNet2DModel": UNetConfig, "ResidualUNet": ResidualUNetConfig}
