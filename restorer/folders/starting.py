"""The network from whose result the pictures of a run start, as the options name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from restorer.errors import ModelError
from restorer.folders.options import Options

if TYPE_CHECKING:
    from restorer.models.feed_forward import FeedForward

__all__ = ["is_start_here", "load_requested_start", "scale_of_start", "start_hashes", "start_record"]


def load_requested_start(options: Options) -> FeedForward | None:
    """Return the network that the options name, on the device of the model; None if they name none.

    On a CPU it computes in fp32. So it does elsewhere if the model does; otherwise it may compute in half precision.
    Repeated calls return the same object.

    Raises:
        ModelError: The network cannot be loaded.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown.
    """
    if options.start is None:
        return None
    import torch

    from restorer.models.devices import resolve_device, resolve_dtype
    from restorer.models.starts import load_start

    device = resolve_device(options.device)
    is_low = device.type != "cpu" and resolve_dtype(options.precision, device) != torch.float32
    tile = {"auto": None, "off": 0}.get(str(options.tile), options.tile)
    return load_start(options.start, options.device, "auto" if is_low else "fp32", None if tile is None else int(tile))


def is_start_here(options: Options) -> bool:
    """Return whether the network that the options name, if they name one, can be loaded without a request to the Hub.

    Raises:
        ModelError: The name stands for something else on the Hub.
    """
    if options.start is None:
        return True
    from restorer.models.hub.references import find_cached
    from restorer.models.starts import start_reference

    return (reference := start_reference(options.start)) is None or find_cached(reference) is not None


def scale_of_start(options: Options) -> int:
    """Return the factor by which the network that the options name enlarges, after loading it.

    Raises:
        ModelError: The network cannot be loaded or does not enlarge, or a dry run would have to download it.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown.
    """
    if options.dry_run and not is_start_here(options):
        raise ModelError(
            f"the scale of {options.start} is not known, because a dry run downloads nothing", "name it with --scale"
        )
    start = load_requested_start(options)
    assert start is not None
    start.check("upscale")
    return start.scale


def start_hashes(options: Options) -> dict[str, Any]:
    """Return what the fingerprint of a result holds about the network: its hash, wherever it lies.

    Raises:
        ModelError: The network cannot be found.
    """
    if options.start is None:
        return {}
    from restorer.models.starts import find_start, start_sha256

    return {"start": start_sha256(find_start(options.start))}


def start_record(start: FeedForward | None) -> dict[str, Any] | None:
    """Return the identity of a network with how it was computed, as the JSON reports it; None if it was not used."""
    if start is None:
        return None
    from restorer.models.devices import PRECISIONS

    precision = next(name for name, dtype in PRECISIONS.items() if dtype == start.dtype)
    return {**start.identity, "precision": precision}
