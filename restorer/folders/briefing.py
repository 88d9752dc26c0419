"""What a worker on another machine is told, and what it checks before it begins: versions, folders and the model.

A run on several machines is right only if all of them see the same folders and have the same program. So the driver
writes a probe, a small file with a random content, beside the first result of every folder, and takes a glimpse of the
first picture of each. A worker that does not find them reads or would write other folders than the driver.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from restorer.errors import DeviceError, ModelError, OutputError, PictureError, RestorerError
from restorer.folders.options import Options
from restorer.folders.paths import Item
from restorer.folders.picture import Verb
from restorer.images.partials import partial_name

if TYPE_CHECKING:
    from restorer.models.load import Model

__all__ = ["Briefing", "Glimpse", "Probe", "check_versions", "glimpses_of", "on_node", "probes", "versions"]

GLIMPSE_BYTES = 1 << 16
PROBE_SECONDS = 5.0
"""Seconds for which a worker looks for a probe, because a file server may show a new file a little late."""

_EVERYWHERE = "mount the same folder at the same path on all machines"


@dataclass(frozen=True)
class Probe:
    """A file that the driver has written into a folder of the results.

    Args:
        path: The file.
        content: What it holds.
    """

    path: Path
    content: bytes

    def check(self, seconds: float = PROBE_SECONDS) -> None:
        """Check that this machine sees the file, and can write beside it.

        Args:
            seconds: The time for which the file is looked for.

        Raises:
            PictureError: It does not.
        """
        folder = self.path.parent
        end = time.monotonic() + seconds
        while True:
            try:
                found = self.path.read_bytes()
            except OSError:
                found = b""
            if found == self.content:
                break
            if time.monotonic() >= end:
                state = "is not the same folder" if folder.is_dir() else "does not exist"
                raise PictureError(f"the folder {folder} {state} as on the machine of the command", _EVERYWHERE)
            time.sleep(0.05)
        if not os.access(folder, os.W_OK):
            raise PictureError(f"the folder {folder} is not writable", "give the workers the right to write into it")


@dataclass(frozen=True)
class Glimpse:
    """What the driver sees of a picture.

    Args:
        path: The file.
        size: The number of its bytes.
        digest: The SHA-256 of its beginning.
    """

    path: Path
    size: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> Glimpse:
        """Take a glimpse of a file.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb") as file:
            beginning = file.read(GLIMPSE_BYTES)
        return cls(path, path.stat().st_size, hashlib.sha256(beginning).hexdigest())

    def check(self) -> None:
        """Check that this machine sees the same file.

        Raises:
            PictureError: It does not.
        """
        try:
            is_same = Glimpse.of(self.path) == self
        except OSError as error:
            raise PictureError(f"{self.path} cannot be read: {error.strerror}", _EVERYWHERE) from error
        if not is_same:
            raise PictureError(f"{self.path} is not the same file as on the machine of the command", _EVERYWHERE)


@dataclass(frozen=True)
class Briefing:
    """What a worker is told once, before its first picture.

    Args:
        options: The options of the run, with the kind of the device that workers have.
        verb: The verb.
        open_model: Returns the model with its prior.
        place: The working folder of the driver, to which relative paths refer.
        probes: Files that the worker must find.
        glimpses: Pictures that the worker must see as the driver does.
        keeps_log: Whether results have fingerprints.
        model: SHA-256 of the model.
        threads: Number of threads of a worker on a CPU; None to leave it to PyTorch.
        sharers: Number of workers that share the memory of a machine.
    """

    options: Options
    verb: Verb
    open_model: Callable[[Options], Model]
    place: Path
    probes: tuple[Probe, ...]
    glimpses: tuple[Glimpse, ...]
    keeps_log: bool
    model: str
    threads: int | None = None
    sharers: int = 1

    def enter(self) -> None:
        """Change into the folder of the run, and check that this machine sees the same files as the driver.

        Raises:
            PictureError: It does not.
        """
        try:
            os.chdir(self.place)
        except OSError as error:
            hint = "start the command in a folder that all machines share"
            raise PictureError(f"the folder {self.place} cannot be entered: {error.strerror}", hint) from error
        for probe in self.probes:
            probe.check()
        for glimpse in self.glimpses:
            glimpse.check()

    def load(self) -> Model:
        """Load the model, and check that it is that of the driver.

        Raises:
            ModelError: It is another one, or cannot be loaded.
            DeviceError: The machine does not have the device.
        """
        model = self.open_model(self.options)
        if model.sha256 != self.model:
            hint = "put the same file at the same path on all machines, or name a revision of the Hub"
            raise ModelError(f"the model {self.options.model} is not the same as on the machine of the command", hint)
        return model


def versions() -> dict[str, str]:
    """Return the versions on which the bytes of a result depend, by the names of the programs."""
    import torch

    from restorer import __version__

    return {"Python": platform.python_version(), "restorer": __version__, "PyTorch": torch.__version__}


def check_versions(here: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Check that a machine has the versions of the driver.

    Args:
        here: What `versions` returns on the machine.
        wanted: What it returns for the driver.

    Raises:
        DeviceError: They differ.
    """
    different = [
        f"{name} {here.get(name, 'is missing')} instead of {version}"
        for name, version in wanted.items()
        if here.get(name) != version
    ]
    if different:
        hint = "install the same versions on all machines"
        raise DeviceError(f"the versions differ from those of the command: {', '.join(different)}", hint)


def on_node(error: RestorerError, node: str) -> RestorerError:
    """Return an error of the same kind that names the machine on which it occurred."""
    return type(error)(f"node {node}: {error}", error.hint)


def _first_items(items: Sequence[Item], folder_of: Callable[[Item], Path]) -> Iterable[Item]:
    """Return the first of the pictures for each folder that was named, or in which one was named."""
    return {folder_of(item) if item.root is None else item.root: item for item in reversed(items)}.values()


def glimpses_of(items: Sequence[Item]) -> tuple[Glimpse, ...]:
    """Return a glimpse of a picture for each folder of inputs. What cannot be read fails when its turn comes."""
    found = []
    for item in _first_items(items, lambda item: item.source.parent):
        try:
            found.append(Glimpse.of(item.source))
        except OSError:
            continue
    return tuple(found)


@contextmanager
def probes(items: Sequence[Item]) -> Iterator[tuple[Probe, ...]]:
    """Write a probe into a folder of results for each folder of inputs, and remove them in the end.

    Their names are those of incomplete files, which the next run removes if this one is killed.

    Raises:
        OutputError: A folder is not writable.
    """
    folders = {item.target.parent for item in _first_items(items, lambda item: item.target.parent)}
    written = [Probe(folder / partial_name(), secrets.token_bytes(16)) for folder in sorted(folders)]
    try:
        for probe in written:
            try:
                probe.path.write_bytes(probe.content)
            except OSError as error:
                hint = "name another folder with -o"
                raise OutputError(f"the folder {probe.path.parent} is not writable: {error.strerror}", hint) from error
        yield tuple(written)
    finally:
        for probe in written:
            probe.path.unlink(missing_ok=True)
