"""Workers in a Ray cluster: an actor for each, on one GPU or on a group of cores.

Only paths and what becomes of the pictures travel between the machines. Nothing is put into Ray's object store, its
dashboard and its statistics of usage stay off, and what workers print stays in the logs of their machines.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.errors import DeviceError, RestorerError, UsageError
from restorer.folders.briefing import Briefing, check_versions, on_node, versions
from restorer.folders.pool import Arrived, Reply
from restorer.folders.worker import Piece, Worker, set_up_process

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["CONNECT_SECONDS", "RayPool", "check_installed", "start_worker"]

CONNECT_SECONDS = 10.0
"""Seconds after which a port that does not answer counts as unreachable."""

THREADS = 4
"""Largest number of cores of a worker without a GPU, unless OMP_NUM_THREADS says otherwise."""

STORE_BYTES = 100_000_000
"""The object store of a cluster that the program starts itself, and in which it stores nothing."""

DEATH_SECONDS = 5.0
"""Seconds for which the end of killed workers on this machine is awaited."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # it may start workers with another Python
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_EXTRA = "pip install 'restorer[ray]'"
_LONGEST_PLACE = 40  # characters of a folder in which Ray can make sockets, whose names have a limit


def check_installed(address: str) -> None:
    """Check that what connects to a cluster is installed.

    Raises:
        UsageError: It is not.
    """
    if find_spec("ray") is None:
        raise UsageError("--cluster needs the package ray", f"install the extra: {_EXTRA}")
    if address.startswith("ray://") and find_spec("grpc") is None:
        raise UsageError("--cluster ray://HOST:PORT needs the package grpcio", f"install the extra: {_EXTRA}")


def start_worker(
    threads: int | None, wanted: Mapping[str, str], briefing: bytes, owner: str, node: str
) -> Worker | RestorerError:
    """Start the worker of this process, and return it, or the error that prevents it, with the name of the machine.

    Args:
        threads: As in `set_up_process`.
        wanted: The versions of the driver.
        briefing: A pickled `Briefing`.
        owner: As in `Worker`.
        node: The name of this machine.
    """
    import pickle

    try:
        set_up_process(threads)
        check_versions(versions(), wanted)
        return Worker(pickle.loads(briefing), owner)
    except RestorerError as error:
        return on_node(error, node)


class RayPool:
    """The workers of a run in a Ray cluster (`restorer.folders.pool.Pool`).

    Args:
        address: "auto", "local" or "ray://HOST:PORT".
        device: "auto", "cpu" or "cuda". "auto" is the GPUs if the cluster has any, and else the cores.

    Raises:
        UsageError: Ray is not installed.
        DeviceError: The cluster cannot be reached.
    """

    def __init__(self, address: str, device: str) -> None:
        check_installed(address)
        self._place: str | None = None  # the folder of a cluster that is started here
        self._is_ours = False  # whether the connection is to be closed
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, str, int]] = {}  # reference -> worker, method, key
        self._pids: list[int] = []  # of workers on this machine
        self._count = 0
        try:
            self._ray = self._connect(address)
            self.kind = device if device != "auto" else "cuda" if self._resources("GPU") else "cpu"
            given = os.environ.get("OMP_NUM_THREADS", "")
            self.threads: int | None = int(given) if given.isdecimal() and int(given) > 0 else None
            if self.threads is None and self.kind == "cpu":
                self.threads = max(1, min([THREADS, *map(int, self._resources("CPU"))]))
            self.concurrency = 1 if self.kind == "cpu" else 2
            self._class = self._ray.remote(_actor_class())
        except BaseException:
            self.close()
            raise
        self._briefing = b""
        self._versions = versions()

    def room(self) -> int:
        """Return the number of workers for which the machines have room; see `Pool`."""
        return sum(self._rooms())

    def sharers(self) -> int:
        """Return the largest number of workers for which a single machine has room; see `Pool`."""
        return max([1, *self._rooms()])

    def brief(self, briefing: Briefing) -> None:
        """Keep what workers are told; see `Pool`."""
        from ray import cloudpickle

        self._briefing = cloudpickle.dumps(briefing)

    def start(self, owner: str) -> int:
        """Ask for another worker; see `Pool`."""
        needs = {"num_gpus": 1, "num_cpus": 1} if self.kind == "cuda" else {"num_gpus": 0, "num_cpus": self.threads}
        options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        actor = self._class.options(**needs, **options, max_concurrency=self.concurrency).remote()
        self._count += 1
        self._actors[self._count] = actor
        reference = actor.start.remote(self.threads, self._versions, self._briefing, owner)
        self._calls[reference] = (self._count, "start", 0)
        return self._count

    def call(self, worker: int, method: str, key: int, pieces: Sequence[Piece] = ()) -> None:
        """Call a method of a worker; see `Pool`."""
        arguments = (key, tuple(pieces)) if method == "begin" else (key,)
        reference = getattr(self._actors[worker], method).remote(*arguments)
        self._calls[reference] = (worker, method, key)

    def wait(self, seconds: float) -> list[Reply]:
        """Return the calls that have ended; see `Pool`."""
        try:
            if not self._calls:
                time.sleep(seconds)
                return []
            ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
            if ready:
                ready, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
            # What a worker has done before it died counts.
            return sorted(map(self._reply, ready), key=lambda reply: reply.lost is not None)
        except (ConnectionError, self._ray.exceptions.RaySystemError) as error:
            hint = "repeat the command with --resume when it can be reached"
            raise DeviceError(f"the connection to the cluster is lost: {_first_line(error)}", hint) from error

    def stop(self, worker: int) -> None:
        """End a worker at once; see `Pool`."""
        actor = self._actors.pop(worker)
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] != worker}
        with suppress(Exception):  # it is dead, or its machine cannot be reached
            self._ray.kill(actor)

    def close(self) -> None:
        """End all workers, and the cluster if it was started here; see `Pool`."""
        for worker in [*self._actors]:
            self.stop(worker)
        if self._is_ours:
            with suppress(Exception):
                self._ray.shutdown()
        _await_ends(self._pids)
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)

    def _reply(self, reference: Any) -> Reply:
        """Return the end of a call.

        Raises:
            ray.exceptions.RayTaskError: There is a bug in the worker, whose traceback the error holds.
        """
        worker, method, key = self._calls.pop(reference)
        errors = self._ray.exceptions
        try:
            value = self._ray.get(reference)
        except errors.RayTaskError:
            raise
        except errors.RayError as error:
            return Reply(worker, method, key, lost=_reason(error, errors))
        if method != "start":
            return Reply(worker, method, key, value)
        failure, name, node, pid, host = value
        if isinstance(failure, str):
            message = f"the program cannot be imported, or has another version: {failure}"
            hint = "install the same version of restorer on all machines"
            failure = on_node(DeviceError(message, hint), name)
        if host == socket.gethostname():
            self._pids.append(pid)
        return Reply(worker, method, key, Arrived(name, node) if failure is None else failure)

    def _rooms(self) -> list[int]:
        """Return the number of workers for which each machine has room."""
        if self.kind == "cuda":
            return list(map(int, self._resources("GPU")))
        return [int(cores // (self.threads or 1)) for cores in self._resources("CPU")]

    def _resources(self, name: str) -> list[float]:
        """Return how much each machine that has some has of "CPU" or "GPU"."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return [amount for node in nodes if (amount := node["Resources"].get(name, 0)) > 0]

    def _connect(self, address: str) -> ModuleType:
        """Connect to a cluster, and return the module of Ray.

        Raises:
            DeviceError: The cluster cannot be reached.
        """
        os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
        if address.startswith("ray://"):
            _try_port(address)
        import ray

        if ray.is_initialized():  # a program that uses this package has connected itself
            return ray
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if address == "local":
                    ray.init(address="local", include_dashboard=False, **self._own_cluster(), **quiet)
                else:
                    ray.init(address=address, **quiet)
        except Exception as error:  # some of which have no class of their own
            with suppress(Exception):
                ray.shutdown()
            where = {"auto": "of this machine", "local": "on this machine"}.get(address, f"at {address}")
            hint = "start one with ray start --head, or name another address" if address == "auto" else ""
            verb = "started" if address == "local" else "reached"
            raise DeviceError(f"the Ray cluster {where} cannot be {verb}: {_first_line(error)}", hint) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        self._is_ours = True
        _keep_standard_output()
        return ray

    def _own_cluster(self) -> dict[str, Any]:
        """Return the settings of a cluster of this machine alone, and make its folder."""
        from restorer.machine.threads import cpu_quota

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        settings = {"num_cpus": min(cores, cpu_quota() or cores), "object_store_memory": STORE_BYTES}
        self._place = tempfile.mkdtemp(prefix="restorer-ray-")
        if len(self._place) > _LONGEST_PLACE and Path("/tmp").is_dir():
            Path(self._place).rmdir()
            self._place = tempfile.mkdtemp(prefix="restorer-ray-", dir="/tmp")
        return {**settings, "_temp_dir": self._place}


def _actor_class() -> type:
    """Return the class of the actors.

    It is made in a function, so that Ray sends it to the machines as it is. The actor can then say that the program is
    missing on a machine.
    """

    class RestorerWorker:
        """A process that holds a worker."""

        def __init__(self) -> None:
            self.worker: Any = None

        def start(self, threads: int | None, wanted: Mapping[str, str], briefing: bytes, owner: str) -> tuple[Any, ...]:
            """Start the worker; return why it cannot work or None, and the machine, its identity, process and host."""
            import os
            import socket

            import ray

            host = socket.gethostname()
            name = f"{host} ({ray.util.get_node_ip_address()})"
            where = (name, ray.get_runtime_context().get_node_id(), os.getpid(), host)
            try:
                from restorer.folders.ray_pool import start_worker
            except ImportError as error:
                return (str(error), *where)
            started = start_worker(threads, wanted, briefing, owner, name)
            if isinstance(started, Exception):
                return (started, *where)
            self.worker = started
            return (None, *where)

        def begin(self, key: int, pieces: Any) -> Any:
            """Call `Worker.begin`."""
            return self.worker.begin(key, pieces)

        def finish(self, key: int) -> Any:
            """Call `Worker.finish`."""
            return self.worker.finish(key)

    return RestorerWorker


def _try_port(address: str) -> None:
    """Check that something listens at an address, which Ray itself takes much longer to find out.

    Raises:
        DeviceError: Nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        hint = "check the address; the port of Ray's client server is 10001 unless it was chosen"
        reason = getattr(error, "strerror", None) or str(error)
        raise DeviceError(f"the Ray cluster at {address} cannot be reached: {reason}", hint) from error


def _keep_standard_output() -> None:
    """Keep Ray from printing on standard output, where the results of the command go, that a worker has died."""
    module = sys.modules.get("ray._private.worker")
    if hasattr(module, "print_to_stdstream"):
        module.print_to_stdstream = lambda *arguments, **named: None  # type: ignore[union-attr]


def _await_ends(pids: Sequence[int]) -> None:
    """Wait until processes of this machine have ended, so that none of them writes any more."""
    end = time.monotonic() + DEATH_SECONDS
    for pid in pids:
        while time.monotonic() < end:
            try:
                os.kill(pid, 0)
            except OSError:
                break
            time.sleep(0.02)


def _reason(error: Exception, errors: Any) -> str:
    """Return why a worker is dead, in a clause."""
    if isinstance(error, errors.OutOfMemoryError):
        return "the memory of its machine ran out"
    if isinstance(error, errors.ActorUnavailableError):
        return "its machine cannot be reached"
    return "it crashed, or it was killed"


def _first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
