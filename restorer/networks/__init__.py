"""Neural networks, without any knowledge of what they are used for.

`NETWORKS` names the architectures as `_class_name` does in a config.json; a configuration builds its own network.
"""

from restorer.networks.residual_unet import ResidualUNet, ResidualUNetConfig
from restorer.networks.unet import UNet, UNetConfig

__all__ = ["NETWORKS", "Network", "NetworkConfig"]

Network = UNet | ResidualUNet
NetworkConfig = UNetConfig | ResidualUNetConfig
NETWORKS: dict[str, type[NetworkConfig]] = {"UNet2DModel": UNetConfig, "ResidualUNet": ResidualUNetConfig}
