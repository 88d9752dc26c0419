"""Measure and torture runs on a cluster of this machine, which needs the extra `ray`.

PYTHONPATH=. python tests/bench/cluster.py kills [--pictures 200] [--bad 20] [--kills 10] [--seed 0]
PYTHONPATH=. python tests/bench/cluster.py overhead [--pictures 24] [--side 256]
PYTHONPATH=. python tests/bench/cluster.py growth [--pictures 10000]

`kills` restores a folder on two nodes with a core each, kills workers, nodes and the driver at random moments, resumes,
and compares all that is left with a run on one machine. `overhead` compares the cluster path with the plain run, on as
many workers of one thread as there are cores. `growth` measures the driver alone, whose workers answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from restorer.folders.cluster import ClusterRun
from restorer.folders.events import Done, Event
from restorer.folders.manifest import MANIFEST
from restorer.folders.opening import open_log
from restorer.folders.pool import Arrived, Reply
from restorer.folders.ray_pool import SETTINGS, STORE_BYTES
from restorer.folders.verb_options import Denoise
from restorer.folders.verbs import denoising
from restorer.folders.worker import Answer, Piece
from restorer.images.find import search_all

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = ["denoise", "in", "-r", "--sigma", "20", "--steps", "2", "--tile", "64", "-q"]
TITLE = b"ray::RestorerWorker"
PATIENCE = 900.0  # seconds for one run


def write_pictures(count: int, side: int, bad: int = 0) -> None:
    """Write noisy pictures of smooth colours into the folder `in`; some are no pictures, and some end too early."""
    Path("in").mkdir()
    step = max(count // bad, 1) if bad else count + 1
    for i in range(count):
        rng, path = np.random.default_rng(i), Path("in", f"{i:05}.png")
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = smooth + 20 * rng.standard_normal(smooth.shape)
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(path)
        if i % step == step - 1:
            path.write_bytes(path.read_bytes()[: 60 if i % 2 else 0] or b"no picture")


def command(output: str, *more: str) -> subprocess.Popen[bytes]:
    """Start the program in another process."""
    arguments = [sys.executable, "-m", "restorer", *ARGUMENTS, "-o", output, *more]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers() -> dict[int, float]:
    """Return the CPU seconds of the workers that this process has started, by the numbers of their processes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if (folder / "cmdline").read_bytes().startswith(TITLE) and is_ours(int(folder.name)):
                fields = fields_of(int(folder.name))
                found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def fields_of(pid: int) -> list[str]:
    """Return what the system says of a process after its name: its state, its parent and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_ours(pid: int) -> bool:
    """Return whether a process descends from this one."""
    while pid > 1:
        if (pid := int(fields_of(pid)[1])) == os.getpid():
            return True
    return False


def count_ok(output: str) -> int:
    """Return the number of results that the log of a run lists."""
    path = Path(output, MANIFEST)
    return path.read_bytes().count(b'"status": "ok"') if path.exists() else 0


def start_cluster(nodes: int) -> Any:
    """Start a cluster whose head has no cores, and some nodes with one core each."""
    os.environ.update(SETTINGS)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    os.environ["RAY_ADDRESS"] = cluster.address
    return cluster


def kills(pictures: int, bad: int, count: int, seed: int) -> None:
    """Kill workers, nodes and the driver at random moments, and compare what is left with a run on one machine."""
    write_pictures(pictures, 24, bad)
    os.environ["OMP_NUM_THREADS"] = "1"  # as the workers of a node with one core have it
    plain = command("plain")
    cluster = start_cluster(2)
    draw = random.Random(seed)
    kinds = ["worker", "worker", "driver", "node"]
    plan = deque(draw.sample([kinds[i % len(kinds)] for i in range(count)], count))
    marks = deque(sorted(draw.sample(range(1, max(pictures - bad - 10, count + 1)), count)))
    done, driver, start = Counter[str](), None, time.monotonic()
    try:
        while True:
            if driver is None or driver.poll() is not None:
                if driver is not None and driver.returncode != -signal.SIGKILL:
                    break
                driver = command("out", "--cluster", "auto", "--workers", "2", "--resume")
            if plan and count_ok("out") >= marks[0]:
                marks.popleft()
                done[strike(plan.popleft(), driver, cluster, draw)] += 1
            time.sleep(0.05)
        seconds = time.monotonic() - start
        again = 0
        while driver.returncode not in (0, 3) or (count_ok("out") < pictures - bad and again < 3):
            again += 1  # a picture during whose restoration two workers were killed has failed
            driver = command("out", "--cluster", "auto", "--workers", "2", "--resume")
            driver.wait(PATIENCE)
        plain.wait(PATIENCE)
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
        cluster.shutdown()
    print(f"killed: {dict(done)}; {seconds:.0f} s; further runs with --resume: {again}; exit code {driver.returncode}")
    compare(pictures, bad)


def strike(kind: str, driver: subprocess.Popen[bytes], cluster: Any, draw: random.Random) -> str:
    """Kill a worker, a node or the driver, and return which of them: the driver if no worker comes within a minute."""
    end = time.monotonic() + 60
    while kind == "worker" and time.monotonic() < end and driver.poll() is None:
        if found := sorted(workers()):
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
            return kind
        time.sleep(0.1)
    if kind == "node":
        nodes = sorted(cluster.worker_nodes, key=str)
        cluster.remove_node(draw.choice(nodes), allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        return kind
    driver.kill()
    driver.wait()
    return "driver"


def compare(pictures: int, bad: int) -> None:
    """Print whether a run has left the results, the lines of the log and the files that one machine leaves."""
    expected = {path.name: path.read_bytes() for path in Path("plain").glob("*.png")}
    results = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    lines = [json.loads(line) for line in Path("out", MANIFEST).read_text().splitlines()]
    ok = Counter(line["output"] for line in lines if line.get("status") == "ok")
    failed = {line["output"] for line in lines if line.get("status") == "failed"} - set(ok)
    others = {path.name for path in Path("out").iterdir()} - {*results, MANIFEST, f"{MANIFEST}.lock"}
    print(f"results {len(results)} of {pictures - bad}, the same bytes: {results == expected}")
    print(f"lines ok: {len(ok)} results, at most {max(ok.values())} each; named as failed: {len(failed)} of {bad}")
    print(f"other files: {sorted(others) or 'none'}")
    if results != expected or set(ok.values()) != {1} or len(failed) != bad or others or len(ok) != pictures - bad:
        raise SystemExit(1)


def overhead(pictures: int, side: int) -> None:
    """Print the cost of the cluster path as ratios within one run of this program."""
    write_pictures(pictures, side)
    os.environ["OMP_NUM_THREADS"] = "1"
    cores = len(os.sched_getaffinity(0))
    costs = {}
    for name, more in (("plain", ()), ("cluster", ("--cluster", "local"))):
        process = command(name, *more)
        states = list[tuple[int, float, float]]()  # results, time, CPU seconds
        spent = dict[int, float]()  # by processes, some of which have ended
        while process.poll() is None:
            spent |= {process.pid: cpu_of(process.pid), **(workers() if more else {})}
            states.append((count_ok(name), time.monotonic(), sum(spent.values())))
            time.sleep(0.02)
        begun = [state for state in states if state[0] >= cores]
        first, last = begun[0], next(state for state in begun if state[0] == begun[-1][0])
        done = last[0] - first[0]
        lines = [json.loads(line) for line in Path(name, MANIFEST).read_text().splitlines()]
        busy = sum(line["seconds"] for line in lines if line.get("status") == "ok") / pictures * done
        at_work = cores if more else 1
        costs[name] = (last[2] - first[2]) / done
        share = busy / (at_work * (last[1] - first[1]))
        print(
            f"{name}: {costs[name]:.3f} CPU seconds a picture, {done / (last[1] - first[1]):.3f} pictures a second on "
            f"{at_work} of {cores} cores, {100 * share:.0f} % of the time on pictures",
            flush=True,
        )
    print(f"the CPU time of the cluster path is {costs['cluster'] / costs['plain']:.3f} times that of the plain run")


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process."""
    with suppress(OSError, IndexError):
        fields = fields_of(pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Echo:
    """Workers that answer at once, and write nothing."""

    kind, threads, concurrency = "cpu", 1, 1

    def __init__(self) -> None:
        self.calls = deque[tuple[int, str, int]]()
        self.held: dict[int, Sequence[Piece]] = {}

    def room(self) -> int:
        """Return the number of workers."""
        return 16

    def sharers(self) -> int:
        """Return 1: nothing is shared."""
        return 1

    def brief(self, briefing: Any) -> None:
        """Forget what workers are told."""

    def start(self, owner: str) -> int:
        """Start a worker."""
        self.calls.append((len(self.held) + len(self.calls) + 1, "start", 0))
        return self.calls[-1][0]

    def call(self, worker: int, method: str, key: int, pieces: Sequence[Piece] = ()) -> None:
        """Take a call."""
        if pieces:
            self.held[key] = pieces
        self.calls.append((worker, method, key))

    def wait(self, seconds: float) -> list[Reply]:
        """Answer the first call."""
        worker, method, key = self.calls.popleft()
        if method == "start":
            return [Reply(worker, method, key, Arrived(f"host{worker}", str(worker % 4)))]
        if method == "begin":
            return [Reply(worker, method, key, Answer(tuple(range(len(self.held[key])))))]
        facts = {"width": 8, "height": 8, "recipe": "sha256:" + "0" * 64, "warnings": [], "batch": 1}
        pieces = self.held.pop(key)
        done = tuple(Done("denoise", piece.item, facts, (), (8, 8), 300, 0.1) for piece in pieces)
        return [Reply(worker, method, key, Answer(ended=done))]

    def stop(self, worker: int) -> None:
        """End a worker."""

    def close(self) -> None:
        """End all workers."""


def growth(pictures: int) -> None:
    """Print the time and the memory of the driver for each thousand pictures."""
    write_pictures(pictures, 8)
    common: dict[str, Any] = {"recursive": True, "steps": 2, "sigma": 20.0, "quiet": True}
    options = Denoise(inputs=["in"], output="out", **common, cluster="auto")
    found, every = search_all(["in"], recursive=True), max(pictures // 10, 1)
    with open_log(options, found.pictures) as log:
        engine = ClusterRun(options, denoising(options), log, open_pool=lambda address, device: Echo())
        done, since, at = 0, time.process_time(), time.monotonic()
        with closing(engine.events(found)) as events:
            for event in events:
                done += count_done(event)
                if isinstance(event, Done) and done % every == 0:
                    now, then = time.process_time(), time.monotonic()
                    print(
                        f"{done} pictures: {1000 * (now - since) / every:.2f} ms of CPU and "
                        f"{1000 * (then - at) / every:.2f} ms each since the last line, {resident():.1f} MB",
                        flush=True,
                    )
                    since, at = now, then


def count_done(event: Event) -> int:
    """Return 1 for the end of a picture."""
    return int(isinstance(event, Done))


def resident() -> float:
    """Return the memory of this process in MB."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    return 0.0


def main() -> None:
    """Run one of the measurements in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "overhead", "growth"])
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--bad", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        os.chdir(folder)
        try:
            if chosen.what == "kills":
                kills(chosen.pictures or 200, chosen.bad, chosen.kills, chosen.seed)
            elif chosen.what == "overhead":
                overhead(chosen.pictures or 24, chosen.side)
            else:
                growth(chosen.pictures or 10_000)
        finally:
            os.chdir(ROOT)


if __name__ == "__main__":
    main()
