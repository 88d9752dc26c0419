"""The processes that train one model together, each on its own GPU or its own cores; torchrun starts them.

    torchrun --standalone --nproc_per_node=4 -m restorer train photos/ --out mine

Every process draws the same batch, timesteps and noise as a single process would, and computes the losses of its part
of the batch. DistributedDataParallel (Li et al. 2020, https://arxiv.org/abs/2006.15704) averages the gradients of all
processes while the backward pass is running, so that every process takes the same step. The result is that of a single
process, apart from rounding. The first process alone reads and writes the folder of the run.

The order in which gradients are added up depends on how DistributedDataParallel groups them, and it regroups them after
its first backward pass. A pass without consequence therefore precedes the first step (`Stepper`), so that a resumed run
adds up in the same order as one that was never interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from restorer.errors import DeviceError, RestorerError, UsageError, exit_code_for
from restorer.models.devices import count_devices, resolve_device

__all__ = ["TIMEOUT", "OtherProcessError", "Place", "Ranks", "device_of", "joined"]

TIMEOUT = 600.0
"""Seconds for which a process waits for the others. The first process writes checkpoints and samples meanwhile."""

T = TypeVar("T")


class OtherProcessError(DeviceError):
    """Another process of the run has failed, and reports the error itself, or it has ended or does not answer.

    Args:
        message: As in `RestorerError`.
        hint: As in `RestorerError`.
        code: The exit code of the command.
    """

    def __init__(self, message: str, hint: str = "", code: int = 6) -> None:
        super().__init__(message, hint)
        self.code = code


@dataclass(frozen=True)
class Place:
    """The place of this process among those of the run.

    Args:
        rank: Its number among all processes, from 0.
        count: Number of processes.
        local_rank: Its number among the processes of this machine, from 0.
        local_count: Number of processes of this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Read the place from the variables that torchrun sets; without them, the process is the only one.

        Raises:
            UsageError: A variable is not a whole number, or the numbers contradict each other.
        """
        if "WORLD_SIZE" not in environment or "RANK" not in environment:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, count = environment["RANK"], environment["WORLD_SIZE"]
        try:
            place = cls(
                int(rank),
                int(count),
                int(environment.get("LOCAL_RANK", rank)),
                int(environment.get("LOCAL_WORLD_SIZE", count)),
            )
        except ValueError:
            place = cls(-1)
        if not 0 <= place.rank < place.count or not 0 <= place.local_rank < place.local_count <= place.count:
            values = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
            raise UsageError(f"the environment does not describe a process of a run: {values}", "start with torchrun")
        return place


def device_of(name: str, place: Place) -> torch.device:
    """Return the device of a process.

    Args:
        name: As in `resolve_device`.
        place: Among several processes, each takes the CUDA GPU of its number on the machine.

    Raises:
        DeviceError: The machine does not have the device, or has fewer GPUs than processes.
        UsageError: The name is unknown, or several processes cannot share the device.
    """
    device = resolve_device(name)
    if place.count == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise UsageError(
            f"{place.count} processes cannot train on {device}", "use --device cuda, of which each takes one, or cpu"
        )
    if (gpus := count_devices("cuda")) < place.local_count:
        raise DeviceError(
            f"there are {place.local_count} processes for {gpus} CUDA device{'' if gpus == 1 else 's'}",
            f"start torchrun with --nproc_per_node={gpus}",
        )
    return torch.device("cuda", place.local_rank)


class Ranks:
    """What this process does together with the others of the run; a single process does everything alone.

    Every process has to call the methods that communicate, in the same order.

    Args:
        place: The place of this process; there is a process group if it is not the only one.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.place.rank == 0

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.place.count

    def part(self, batch: int) -> slice:
        """Return the part of a batch that belongs to this process; the parts differ by at most one crop."""
        start, end = (batch * rank // self.count for rank in (self.place.rank, self.place.rank + 1))
        return slice(start, end)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return to every process what a function returns in the first process, which alone calls it.

        Raises:
            Exception: What the function raises, in the first process.
            OtherProcessError: The function failed, in the other processes.
        """
        if self.count == 1:
            return make()
        answer: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                answer[0] = make()
            except Exception as error:
                failure, answer[1] = error, exit_code_for(error)
        dist.broadcast_object_list(answer, device=torch.device("cpu"))
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise _told(answer[1])
        return answer[0]

    def by_first(self, make: Callable[[], T]) -> T | None:
        """Return what a function returns in the first process, and None in the others, which wait for it.

        Raises:
            Exception: As in `from_first`.
        """
        made: list[T] = []
        self.from_first(lambda: made.append(make()))
        return made[0] if made else None

    def together(self, error: RestorerError) -> RestorerError:
        """Return the error to raise for a failure that every process has noticed, so that only the first reports it."""
        return error if self.is_first else _told(exit_code_for(error))

    def largest(self, *values: float) -> tuple[float, ...]:
        """Return the largest of each value among the processes. The devices are not involved."""
        if self.count == 1:
            return values
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(found.tolist())

    def add_up(self, sums: Tensor) -> None:
        """Add up a tensor over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(sums)

    def whole(self, values: Tensor, batch: int) -> Tensor:
        """Return the values of a whole batch.

        Args:
            values: Those of the part of this process, (K, B').
            batch: Number B of crops in the batch.

        Returns:
            (K, B), in the order of the batch.
        """
        if self.count == 1:
            return values
        found = torch.zeros(len(values), batch, dtype=values.dtype, device=values.device)
        found[:, self.part(batch)] = values
        dist.all_reduce(found)
        return found

    def shared(self, network: nn.Module) -> nn.Module:
        """Return a network whose weights are those of the first process, and whose gradients are averaged.

        The average is that of the processes. A loss therefore has to be the sum over the part of this process, divided
        by the size of the whole batch and multiplied by the number of processes.
        """
        if self.count == 1:
            return network
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def averaging(self, network: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context of a forward and a backward pass through a network that is `shared`.

        Args:
            network: The network.
            is_last: Whether this is the last pass of a step, which averages the gradients. Before, they are added up
                in each process.
        """
        if isinstance(network, DistributedDataParallel) and not is_last:
            return network.no_sync()
        return nullcontext()


def _told(code: int) -> OtherProcessError:
    """Return the error of a process that the first one has told of its own."""
    return OtherProcessError("the first process of the run has failed", "its message says why", code)


@contextmanager
def joined(place: Place, device: torch.device, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Join the other processes of the run while the context lasts.

    An error in one process closes its connections when the process ends, which ends the others.

    Args:
        place: The place of this process. A single process joins nobody.
        device: The device of this process. Values on the CPU travel by gloo, those on GPUs by NCCL.
        timeout: Seconds after which a process that does not answer counts as lost.

    Raises:
        OtherProcessError: Another process has ended, or does not answer.
        UsageError: The environment does not say where the first process is.
    """
    if place.count == 1:
        yield Ranks()
        return
    if not dist.is_available():
        raise DeviceError("this PyTorch was built without torch.distributed", "train in a single process")
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(f"{' and '.join(missing)} must say where the first process is", "start with torchrun")
    backend = "cpu:gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend += ",cuda:nccl"
    try:
        dist.init_process_group(backend, rank=place.rank, world_size=place.count, timeout=timedelta(seconds=timeout))
        yield Ranks(place)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise OtherProcessError(
            f"another process of the run has ended, or has not answered for {timeout / 60:g} minutes",
            "its own message says why; continue with --resume",
        ) from error
    dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Return whether an error says that another process cannot be reached; gloo has no exception class of its own."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "Connection"))
