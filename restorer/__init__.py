"""Repair photographs with a denoising diffusion model: denoise, dejpeg, deblur, inpaint, upscale, auto.

    from restorer import load_prior, auto, denoise, dejpeg, deblur, inpaint, upscale, generate, restore_folder

The names are imported on first use, so that `import restorer` does not import PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restorer.api import auto, deblur, dejpeg, denoise, inpaint, upscale
    from restorer.folders.restore_folder import restore_folder
    from restorer.models.load import load_prior
    from restorer.models.starts import load_start
    from restorer.tasks.generate import generate

__all__ = [
    "auto",
    "deblur",
    "dejpeg",
    "denoise",
    "generate",
    "inpaint",
    "load_prior",
    "load_start",
    "restore_folder",
    "upscale",
]

# Modules of the public names; all other names are in restorer.api.
_MODULES = {
    "generate": "restorer.tasks.generate",
    "load_prior": "restorer.models.load",
    "load_start": "restorer.models.starts",
    "restore_folder": "restorer.folders.restore_folder",
}

try:
    __version__ = version("restorer")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "restorer.api")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
