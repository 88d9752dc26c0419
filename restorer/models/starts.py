"""The networks from whose result a reverse process starts, by the names that stand for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from restorer.errors import ModelError, UsageError
from restorer.models.devices import PRECISIONS, resolve_device
from restorer.models.feed_forward import FeedForward
from restorer.models.hub.download import OnBytes, fetch, sha256_of
from restorer.models.hub.references import Reference, Snapshot, find_revision, parse_reference
from restorer.models.spandrel_networks import read_network

__all__ = ["as_start", "find_start", "load_start", "start_reference", "start_sha256"]

State = tuple[int, int]

REMEMBERED = 8  # networks that stay loaded


def load_start(
    start: str | Path, device: str = "auto", precision: str = "auto", tile: int | None = None
) -> FeedForward:
    """Return a network that restores in a single pass, ready to use.

    Repeated calls with the same arguments return the same object, unless the file has changed.

    Args:
        start: The path of a .pth or .safetensors file that spandrel reads, or "org/repo[@rev]:file" on the Hugging Face
            Hub. An existing path takes precedence.
        device: A name as in `restorer.load_prior`.
        precision: "auto", "fp32", "bf16" or "fp16". "auto" is fp16 on a GPU, if the network allows it, else fp32. A
            network that does not allow the precision computes in fp32.
        tile: Side of a tile in pixels of the result; None for the default, 0 for no tiles.

    Raises:
        ModelError: The file does not exist, cannot be fetched, is damaged or hostile, holds no such network, or the
            package spandrel is missing.
        DeviceError: The machine does not have the device.
        UsageError: The device or the precision is unknown.
    """
    resolved = resolve_device(device)
    if precision != "auto" and precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", f"use auto, {', '.join(PRECISIONS)}")
    path = find_start(start)
    return _load(path, _state(path), resolved, precision, str(start), tile)


def _state(path: Path) -> State:
    """Return the size and the time of a file, which change when it is replaced."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    return stat.st_size, stat.st_mtime_ns


@lru_cache(REMEMBERED)
def _load(path: Path, state: State, device: torch.device, precision: str, name: str, tile: int | None) -> FeedForward:
    network = read_network(path)
    if network.input_channels not in (1, 3) or network.output_channels != network.input_channels:
        channels = f"{network.input_channels} channels to {network.output_channels}"
        raise ModelError(f"{path} maps {channels}", "a start takes gray or colour pictures and returns the same")
    allowed = {"fp32": True, "fp16": bool(network.supports_half), "bf16": bool(network.supports_bfloat16)}
    wanted = precision
    if precision == "auto":
        wanted = "fp16" if device.type == "cuda" and allowed["fp16"] else "fp32"
    notes: tuple[str, ...] = ()
    if not allowed[wanted]:
        notes, wanted = (
            (f"{network.architecture.name} does not compute in {wanted}: the start is computed in fp32",),
            "fp32",
        )
    dtype = PRECISIONS[wanted]
    identity = name, start_sha256(path), find_revision(path)
    return FeedForward(*identity, network.to(device, dtype), device, dtype, tile, notes)


def as_start(start: FeedForward | str | os.PathLike[str] | None) -> FeedForward | None:
    """Return a network that was passed as such, by a path or by a name; None stands for no start.

    Raises:
        UsageError: The value is none of these.
        ModelError: As in `load_start`.
    """
    if start is None or isinstance(start, FeedForward):
        return start
    if isinstance(start, (str, os.PathLike)):
        return load_start(os.fspath(start))
    raise UsageError(
        f"the start must be what load_start returned, a path or a name, not {type(start).__name__}",
        'use start="network.pth", or start=load_start("network.pth", device="cpu")',
    )


def start_reference(start: str | Path) -> Reference | None:
    """Return the file of the Hub that a name stands for; None for a path.

    Raises:
        ModelError: The name stands for a whole repository, or for a diffusion model of the catalogue.
    """
    if Path(start).exists() or not isinstance(start, str) or (reference := parse_reference(start)) is None:
        return None
    if reference.card is not None:
        raise ModelError(f"{start} is a diffusion model, which cannot be a start", "use it with --model")
    if reference.file is None:
        raise ModelError(f"{start} names a repository, not a file in it", f"name the file: {start}:FILE.safetensors")
    return reference


def find_start(
    start: str | Path, accept: Callable[[Snapshot], None] | None = None, on_bytes: OnBytes | None = None
) -> Path:
    """Return the file of a network, downloading it from the Hub if necessary.

    Args:
        start: As in `load_start`.
        accept: As in `restorer.models.hub.download.fetch`.
        on_bytes: As in `restorer.models.hub.download.fetch`.

    Raises:
        ModelError: The file does not exist, or cannot be fetched.
    """
    if (reference := start_reference(start)) is not None:
        try:
            return fetch(reference, accept, on_bytes)
        except ModelError as error:
            error.hint = error.hint.replace("--model", "--start")
            raise
    path = Path(start)
    if path.is_dir():
        raise ModelError(f"{path} is a folder; a start is a single file", "name a .pth or .safetensors file")
    if not path.exists():
        hint = "name a .pth or .safetensors file, or a file of the Hub as ORGANIZATION/NAME:FILE"
        raise ModelError(f"there is no network {str(start)!r}", hint)
    return path.resolve()


def start_sha256(path: Path) -> str:
    """Return the SHA-256 of the file of a network, in hexadecimal. It is computed again only if the file has changed.

    Raises:
        ModelError: The file cannot be read.
    """
    return _sha256(path, _state(path))


@lru_cache(REMEMBERED)
def _sha256(path: Path, state: State) -> str:
    return sha256_of(path)
