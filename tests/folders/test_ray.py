"""Runs in real Ray clusters on this machine: two nodes, deaths of workers and of a node, the command and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.folders import ray_pool
from restorer.folders.cluster import ClusterRun
from restorer.folders.events import Done, Event, Finished, Working
from restorer.folders.manifest import MANIFEST
from restorer.folders.opening import open_log
from restorer.folders.options import Options
from restorer.folders.ray_pool import RayPool
from restorer.folders.run import Run
from restorer.folders.verb_options import Denoise
from restorer.folders.verbs import denoising
from restorer.images.find import search_all
from restorer.models.load import Model, look_up

ray = pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]
COUNT, BAD = 12, 2


class Slow(Smooth):
    """A cheap prior that waits until the file `go` exists, and takes its time, so that a worker can be killed."""

    def predict(self, *arguments: Any) -> Any:
        end = time.monotonic() + 300
        while not Path("go").exists() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.05)
        return super().predict(*arguments)


def open_slow(options: Options) -> Model:
    """Return the model with a cheap prior. The workers import this function from its module."""
    from dataclasses import replace

    from restorer.priors.tiled import Tiled

    return replace(look_up(options.model), prior=Tiled(Slow(), 64, overlap=16))  # each picture is a batch of its own


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for i in range(COUNT):
        path = Path("in", f"{i:02}.png")
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    for i in range(BAD):
        Path("in", f"{5 * i + 1:02}.png").write_bytes(b"no picture")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """A cluster of two nodes with a core each, to which this process is connected."""
    from ray.cluster_utils import Cluster

    os.environ.update(ray_pool.SETTINGS)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "folders")])
    settings = {"num_cpus": 1, "object_store_memory": ray_pool.STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=settings)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=ray_pool.STORE_BYTES)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
        ray_pool._keep_standard_output()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def options(output: str, *, on_cluster: bool) -> Denoise:
    common: dict[str, Any] = {"recursive": True, "steps": 4, "sigma": 10.0, "quiet": True}
    return Denoise(inputs=["in"], output=output, **common, cluster="auto" if on_cluster else None)


def events_of(output: str, *, on_cluster: bool, pools: list[RayPool] | None = None) -> Iterator[Event]:
    """Yield the events of a run. The workers of a cluster are put into `pools`."""

    def open_pool(address: str, device: str) -> RayPool:
        pool = RayPool(address, device)
        if pools is not None:
            pools.append(pool)
        return pool

    chosen = options(output, on_cluster=on_cluster)
    verb = denoising(chosen)
    found = search_all(chosen.inputs, recursive=True)
    with open_log(chosen, found.pictures) as log:
        engine: Run = Run(chosen, verb, log, open_slow)
        if on_cluster:
            engine = ClusterRun(chosen, verb, log, open_model=open_slow, open_pool=open_pool)
        with closing(engine.events(found)) as happening:
            yield from happening


def check_whole(output: str) -> None:
    """Compare all that a run has left with a run on one machine: bytes, lines of the log, and no other files."""
    list(events_of("plain", on_cluster=False))
    expected = {path.name: path.read_bytes() for path in Path("plain").glob("*.png")}
    assert {path.name: path.read_bytes() for path in Path(output).glob("*.png")} == expected
    assert len(expected) == COUNT - BAD
    assert {path.name for path in Path(output).iterdir()} == {*expected, MANIFEST, f"{MANIFEST}.lock"}
    lines = [json.loads(line) for line in Path(output, MANIFEST).read_text().splitlines()]
    assert Counter(line["output"] for line in lines if line.get("status") == "ok") == dict.fromkeys(expected, 1)
    assert sum(line.get("status") == "failed" for line in lines) == BAD


def test_a_killed_worker_costs_nothing(two_nodes: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Two nodes, one of whose workers is killed: the rest goes on, and a new worker comes."""
    pools, killed = list[RayPool](), list[int]()
    for event in events_of("out", on_cluster=True, pools=pools):
        if isinstance(event, Working) and (event.nodes, event.workers) == (2, 2):
            Path("go").touch()
        if isinstance(event, Done) and not killed:
            killed = pools[0]._pids[:1]
            os.kill(killed[0], signal.SIGKILL)
        last = event
    assert killed and Path("go").exists()
    assert isinstance(last, Finished) and (last.ok, last.failed, last.exit_code) == (COUNT - BAD, BAD, 3)
    check_whole("out")
    assert capfd.readouterr().out == ""  # where the results of the command go


def test_a_lost_node_costs_nothing(two_nodes: Any) -> None:
    node = two_nodes.add_node(num_cpus=1, object_store_memory=ray_pool.STORE_BYTES)
    is_there = True
    for event in events_of("out", on_cluster=True):
        if isinstance(event, Working) and (event.nodes, event.workers) == (3, 3):
            Path("go").touch()
        if isinstance(event, Done) and is_there:
            two_nodes.remove_node(node, allow_graceful=False)
            is_there = False
        last = event
    assert isinstance(last, Finished) and (last.ok, last.failed, last.exit_code) == (COUNT - BAD, BAD, 3)
    check_whole("out")


def test_another_version_on_a_node_is_named(two_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from restorer.errors import DeviceError

    monkeypatch.setattr(ray_pool, "versions", lambda: {"restorer": "99.0"})  # of the driver
    with pytest.raises(DeviceError, match=r"node .+: the versions differ .+ instead of 99\.0"):
        list(events_of("out", on_cluster=True))
    assert {path.name for path in Path("out").iterdir()} <= {MANIFEST, f"{MANIFEST}.lock"}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short name, in which Ray can make its sockets."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.skipif(not Path("/tmp").is_dir(), reason="the sockets of Ray need a folder with a short name")
def test_an_interrupted_command_leaves_nothing_incomplete(short_folder: Path) -> None:
    """`--cluster local` starts a cluster of its own; Ctrl-C ends it, and `--resume` does the rest on one machine."""
    shutil.rmtree("in")
    Path("in").mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("in", f"{i:02}.png"))
    arguments = ["denoise", "in", "-r", "-o", "out", "--sigma", "20", "--tile", "64", "--steps", "8", "-q"]
    command = [sys.executable, "-m", "restorer", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(short_folder)}
    process = subprocess.Popen([*command, "--cluster", "local"], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and all(line.startswith("out") for line in (first + rest).split())
    assert not list(short_folder.iterdir())
    results = {path.name for path in Path("out").glob("*.png")}
    assert {path.name for path in Path("out").iterdir()} == {*results, MANIFEST, f"{MANIFEST}.lock"}
    assert 0 < len(results) < 40
    assert subprocess.run([*command, "--resume"], env=environment, capture_output=True).returncode == 0
    assert len(list(Path("out").glob("*.png"))) == 40
