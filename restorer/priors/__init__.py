"""Priors: a network and its schedule behind the contract of `restorer.diffusion.prior`."""
