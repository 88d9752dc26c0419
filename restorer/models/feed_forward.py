"""A network that restores a picture in a single pass, such as ESRGAN, SwinIR, NAFNet or LaMa, evaluated in tiles.

Such a network is no prior: it knows no noise levels, and what it does was decided when it was trained. Its result can
be the start of a reverse process (`restorer.tasks.started`).

A picture that is too large is cut into tiles that overlap by enough pixels for the network to see around each pixel,
and the results are blended as those of a prior are (`restorer.priors.tiled`). How much memory a network takes is found
out by a small evaluation, because no file says it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from restorer.errors import DeviceError, ModelError, UsageError
from restorer.machine.memory import available, human_bytes, is_out_of_memory
from restorer.priors.tiled import ramp, tile_starts

__all__ = ["Answer", "FeedForward"]

MAX_WHOLE_PIXELS = 1_300_000
"""Largest number of pixels of a result that is computed whole."""

TILE = 1024
"""Side in pixels of the part of a result that a tile becomes."""

LEAST_SIDE, MIN_SIDE = 128, 48
"""Least side in pixels of a tile of the input: by default, and when memory runs out."""

OVERLAPS = {1: 64}
"""Pixels of the input that neighbouring tiles share, by the scale. Networks that keep the size see farther."""

OVERLAP = 32
"""Pixels of the input that neighbouring tiles share at every other scale."""

PROBE = 32
"""Side in pixels of the picture with which the memory of a network is found out."""

SAFETY = 1.6
"""Factor on the memory that was found out, for what the libraries under PyTorch take."""

FREE_SHARE = 0.7
"""Share of the free memory that an evaluation may take."""

COMMANDS = {"Inpainting": ("inpaint",), "FaceSR": ()}
"""The commands that networks of a purpose serve; the scale decides about those of any other purpose."""

REPAIRING = ("denoise", "dejpeg", "deblur")


class Answer(NamedTuple):
    """The result of a network.

    Args:
        picture: The result, float32 (C, scale H, scale W) in [0, 1], on the CPU.
        notes: One line for each thing that did not go as planned.
    """

    picture: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FeedForward:
    """A network that restores in a single pass.

    Args:
        name: The network as the user named it.
        sha256: SHA-256 of its file, in hexadecimal.
        revision: The commit of a file of the Hub; None for any other file.
        network: The network, as spandrel describes it: it maps pictures (1, C, H, W) in [0, 1], and for holes also a
            mask (1, 1, H, W), to a picture in [0, 1].
        device: The device that computes.
        dtype: The precision of its weights and evaluations.
        tile: Side of a tile in pixels of the result; None for the default, 0 for no tiles.
        notes: What the user should know before it runs.
    """

    name: str
    sha256: str
    revision: str | None
    network: Any
    device: torch.device
    dtype: torch.dtype
    tile: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def scale(self) -> int:
        """The factor by which the network enlarges."""
        return int(self.network.scale)

    @property
    def architecture(self) -> str:
        """The name of the architecture, such as "ESRGAN"."""
        return str(self.network.architecture.name)

    @property
    def channels(self) -> int:
        """The number of channels of the pictures that the network takes, 1 or 3."""
        return int(self.network.input_channels)

    @property
    def fills(self) -> bool:
        """Whether the network fills holes, so that it takes a mask beside the picture."""
        return str(self.network.purpose) == "Inpainting"

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that the network serves."""
        return COMMANDS.get(str(self.network.purpose), REPAIRING if self.scale == 1 else ("upscale",))

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the network, as results record it."""
        return {
            "id": self.name,
            "sha256": self.sha256,
            "revision": self.revision,
            "architecture": self.architecture,
            "scale": self.scale,
        }

    def check(self, command: str, factor: float | None = None) -> None:
        """Check that the network serves a command, and enlarges by the right factor.

        Args:
            command: The name of the command.
            factor: The factor by which a picture is to be enlarged; None if that does not matter.

        Raises:
            ModelError: The network does not serve the command.
            UsageError: The network enlarges by another factor.
        """
        if command not in self.commands:
            hint = f"use it with restore {' or '.join(self.commands)}" if self.commands else ""
            what = {"FaceSR": "takes aligned faces alone", "Inpainting": "fills holes"}.get(
                str(self.network.purpose), f"enlarges by {self.scale}" if self.scale > 1 else "does not enlarge"
            )
            raise ModelError(f"the network {self.name} {what}: {command} cannot start from it", hint)
        if factor is not None and factor != self.scale:
            raise UsageError(
                f"the network {self.name} enlarges by {self.scale}, not by {factor:g}",
                f"use --scale {self.scale}, leave it out, or give the sides of the result",
            )

    def __call__(
        self, picture: Tensor, hole: Tensor | None = None, on_tile: Callable[[int, int], None] | None = None
    ) -> Answer:
        """Restore a picture.

        A picture of one channel goes through a network for colour as gray, and each channel of a colour picture goes
        through a network for gray by itself. An evaluation that is not finite in low precision is repeated in float32,
        and one that runs out of memory in smaller tiles.

        Args:
            picture: The picture, float (C, H, W) in [0, 1] with C = 1 or 3; values outside of this range are clamped.
            hole: The pixels to fill, bool (H, W), for a network that fills holes; None for any other.
            on_tile: Function called with (tiles done, tiles in all) after every tile.

        Raises:
            ModelError: The network returns values that are not finite, even in float32, or another size than expected.
            DeviceError: There is not enough memory, even for the smallest tiles.
        """
        source = picture.float().clamp(0, 1)
        planes = [source.expand(self.channels, -1, -1)] if self.channels == 3 else list(source.split(1))
        mask = None if hole is None else hole.float()[None]
        side, notes = self._side(source.shape[-2], source.shape[-1])
        run = self
        while True:
            try:
                results = [run._evaluate(plane, mask, side, on_tile) for plane in planes]
                break
            except _NotFiniteError as error:
                if run.dtype == torch.float32:
                    raise ModelError(f"the network {self.name} returned values that are not finite") from error
                run = run._in_float32()
                notes += (f"{self.name}: low precision gave values that are not finite: repeated in fp32",)
            except (MemoryError, RuntimeError, ValueError, IndexError, AssertionError) as error:
                if not is_out_of_memory(error):
                    raise ModelError(f"the network {self.name} cannot compute this picture: {_line(error)}") from error
                side = self._halved(min(side, max(source.shape[-2:])))
                if side < MIN_SIDE:
                    raise _no_memory(self) from error
                notes += (f"out of memory: {self.name} repeated with {self.scale * side}-pixel tiles",)
        result = torch.cat(results)
        if self.channels == 3 and len(source) == 1:
            result = result.mean(0, keepdim=True)
        return Answer(result, (*self.notes, *notes))

    def tiles(self, height: int, width: int) -> int:
        """Return the number of tiles of a picture."""
        side = self._side(height, width)[0]
        return len(self._starts(height, side)) * len(self._starts(width, side))

    def _side(self, height: int, width: int) -> tuple[int, tuple[str, ...]]:
        """Return the side of the tiles of a picture in pixels of the input, with a note if memory limits it."""
        largest, whole = max(height, width), self.scale**2 * height * width <= MAX_WHOLE_PIXELS
        if self.tile is None:
            wanted = largest if whole else self._aligned(max(TILE // self.scale, LEAST_SIDE))
        else:
            wanted = largest if self.tile == 0 else self._aligned(max(self.tile // self.scale, MIN_SIDE))
        side, free = min(wanted, largest), available(self.device)
        if free is None or side <= 2 * PROBE:
            return wanted, ()
        canvas = 4 * self.channels * (self.scale**2 + 1) * height * width
        room = FREE_SHARE * (free - (canvas if self.device.type == "cpu" else 0))
        per_pixel = self._foreseen()
        while (needed := per_pixel * min(side, height) * min(side, width)) > room:
            if (side := self._halved(side)) < MIN_SIDE:
                raise _no_memory(self, f"needs about {human_bytes(int(needed))} for a small tile, but only ")
        if side >= min(wanted, largest):
            return wanted, ()
        return side, (
            f"only {human_bytes(free)} of memory are free: {self.name} takes {self.scale * side}-pixel tiles",
        )

    def _foreseen(self) -> float:
        """Return `_bytes_per_pixel`, found out by now or earlier."""
        try:
            return self._bytes_per_pixel
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise ModelError(f"the network {self.name} cannot compute a picture: {_line(error)}") from error
            raise _no_memory(self) from error

    def _halved(self, side: int) -> int:
        return self._aligned(side // 2)

    def _aligned(self, side: int) -> int:
        """Return a side rounded down to a multiple that the network takes, and no less than it takes."""
        needs = self.network.size_requirements
        return max(side // needs.multiple_of * needs.multiple_of, needs.minimum, needs.multiple_of)

    def _starts(self, extent: int, side: int) -> list[int]:
        """Return where the tiles begin along an axis of the picture, padded as the network pads it."""
        multiple = int(self.network.size_requirements.multiple_of)
        overlap = min(OVERLAPS.get(self.scale, OVERLAP), side // 2)
        return tile_starts(-(-extent // multiple) * multiple, side, overlap, multiple) if extent > side else [0]

    @torch.no_grad()
    def _evaluate(
        self, plane: Tensor, mask: Tensor | None, side: int, on_tile: Callable[[int, int], None] | None
    ) -> Tensor:
        """Return the result for a picture that has as many channels as the network, on the CPU."""
        height, width = plane.shape[-2:]
        scale, multiple = self.scale, int(self.network.size_requirements.multiple_of)
        if max(height, width) <= side:
            result = self._pass(plane, mask)
            if on_tile is not None:
                on_tile(1, 1)
            return result
        plane = _padded(plane, multiple)
        mask = None if mask is None else _padded(mask, multiple)
        down, across = (min(side, extent) for extent in plane.shape[-2:])
        tops, lefts = (self._starts(extent, side) for extent in (height, width))
        total = torch.zeros(len(plane), scale * plane.shape[-2], scale * plane.shape[-1])
        weight = torch.zeros(total.shape[-2:])
        for done, (i, j) in enumerate(((i, j) for i in range(len(tops)) for j in range(len(lefts))), 1):
            rows, columns = slice(tops[i], tops[i] + down), slice(lefts[j], lefts[j] + across)
            part = self._pass(plane[:, rows, columns], None if mask is None else mask[:, rows, columns])
            # The weights are those of the pixels of the input, where the network has its margin.
            vertical, horizontal = ramp(tops, i, down), ramp(lefts, j, across)
            window = vertical.repeat_interleave(scale)[:, None] * horizontal.repeat_interleave(scale)[None]
            large = (slice(scale * rows.start, scale * rows.stop), slice(scale * columns.start, scale * columns.stop))
            total[:, *large] += window * part
            weight[large] += window
            if on_tile is not None:
                on_tile(done, len(tops) * len(lefts))
        return total.div_(weight)[:, : scale * height, : scale * width]

    def _pass(self, plane: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the network makes of one tile, float32 on the CPU."""
        inputs = [x[None].to(self.device, self.dtype) for x in (plane, mask) if x is not None]
        with _checked(self.network.model):
            answer = self.network(*inputs)[0].float().cpu()
        if answer.shape[-2:] != (self.scale * plane.shape[-2], self.scale * plane.shape[-1]) or len(answer) != len(
            plane
        ):
            raise ModelError(f"the network {self.name} returned a picture of another size: {tuple(answer.shape)}")
        return answer

    @cached_property
    def _bytes_per_pixel(self) -> float:
        """Bytes that an evaluation takes at its peak for each pixel of the input."""
        side = self._aligned(PROBE)
        sample = torch.full((self.channels, side, side), 0.5)
        with torch.no_grad(), _PeakBytes() as peak:
            self._pass(sample, torch.zeros(1, side, side) if self.fills else None)
        return SAFETY * peak.bytes / side**2

    def _in_float32(self) -> FeedForward:
        """Return the same network in float32, whose weights stay rounded as they are."""
        return replace(self, network=deepcopy(self.network).float(), dtype=torch.float32)


class _NotFiniteError(Exception):
    """The network returned values that are not finite."""


@contextmanager
def _checked(module: torch.nn.Module) -> Iterator[None]:
    """Open a context in which a module raises an error if its output is not finite.

    Spandrel clamps what the module returns, which would hide an infinite value.
    """

    def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        picture = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(picture, Tensor) and not bool(torch.isfinite(picture).all()):
            raise _NotFiniteError

    handle = module.register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


class _PeakBytes(TorchDispatchMode):
    """A context that adds up the memory of the tensors that exist at the same time, on any device.

    Attributes:
        bytes: The most bytes that tensors which were made in the context have taken together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count the storages that it has made."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._known:
            self._known[key] = storage.nbytes()
            self._now += self._known[key]
            self.bytes = max(self.bytes, self._now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._now -= self._known.pop(key, 0)


def _padded(x: Tensor, multiple: int) -> Tensor:
    """Return a picture (C, H, W) padded to multiples of a number, as spandrel pads it."""
    down, across = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    reflected = (0, min(across, x.shape[-1] - 1), 0, min(down, x.shape[-2] - 1))
    x = F.pad(x[None], reflected, mode="reflect")
    return F.pad(x, (0, across - reflected[1], 0, down - reflected[3]), mode="replicate")[0]


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _no_memory(network: FeedForward, needs: str = "finds no memory even for its smallest tiles: only ") -> DeviceError:
    free = available(network.device)
    rest = "too little is free" if free is None else f"{human_bytes(free)} are free on {network.device}"
    return DeviceError(f"the network {network.name} {needs}{rest}", "close other programs, or use a smaller network")
