"""The precision that `auto` selects, the number of threads, and the memory that stays with the process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from restorer.machine import malloc, threads
from restorer.models.devices import resolve_dtype
from restorer.networks.fast import precision
from restorer.networks.fast.precision import MIN_GAIN, cache_file, faster_dtype, time_convolution

SECONDS = {torch.float32: 3.0, torch.bfloat16: 1.0}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Provide a processor that has bfloat16, and an empty cache."""
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def fail_if_timed(dtype: torch.dtype) -> float:
    """Fail, because the precision is known already."""
    raise AssertionError("timed again")


@pytest.mark.parametrize(
    ("bf16", "chosen"),
    [(1.0, torch.bfloat16), (3 / MIN_GAIN, torch.bfloat16), (2.9, torch.float32), (30.0, torch.float32)],
)
def test_the_faster_one_is_chosen_and_kept(bf16: float, chosen: torch.dtype) -> None:
    assert faster_dtype({torch.float32: 3.0, torch.bfloat16: bf16}.__getitem__) is chosen
    assert faster_dtype(fail_if_timed) is chosen
    (gain,) = json.loads(cache_file().read_text()).values()
    assert gain == pytest.approx(3 / bf16, abs=1e-3)


def test_without_the_instructions_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert faster_dtype(fail_if_timed) is torch.float32 and not cache_file().exists()


def test_another_machine_is_timed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faster_dtype(SECONDS.__getitem__) is torch.bfloat16
    monkeypatch.setattr(precision, "_processor", lambda: "another")
    assert faster_dtype({torch.float32: 1.0, torch.bfloat16: 3.0}.__getitem__) is torch.float32
    assert len(json.loads(cache_file().read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b"}'])
def test_a_damaged_file_is_written_again(content: str) -> None:
    cache_file().parent.mkdir()
    cache_file().write_text(content)
    assert faster_dtype(SECONDS.__getitem__) is torch.bfloat16 and faster_dtype(fail_if_timed) is torch.bfloat16


def test_without_a_place_for_it_it_is_timed_every_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert faster_dtype(SECONDS.__getitem__) is torch.bfloat16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_what_is_timed_is_a_convolution() -> None:
    assert 0 < time_convolution(torch.float32) < 60
    assert resolve_dtype("auto", torch.device("cpu")) in SECONDS and cache_file().exists()


def make_groups(tmp_path: Path, **limits: str) -> tuple[Path, Path]:
    """Create control groups a and a/b with their cpu.max.

    Returns:
        The root of the groups, and the file that names the group of this process.
    """
    names = tmp_path / "self"
    names.write_text("0::/a/b\n")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    for name, limit in limits.items():
        (tmp_path / "root" / {"a": "a", "b": "a/b"}[name] / "cpu.max").write_text(limit)
    return tmp_path / "root", names


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, None),
        ({"b": "max 100000"}, None),
        ({"b": "200000 100000"}, 2),
        ({"b": "150000 100000"}, 2),
        ({"b": "5000 100000"}, 1),
        ({"a": "300000 100000", "b": "800000 100000"}, 3),
        ({"b": "nonsense"}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, limits: dict[str, str], cores: int | None) -> None:
    assert threads.cpu_quota(*make_groups(tmp_path, **limits)) == cores
    assert threads.cpu_quota(tmp_path, tmp_path / "absent") is None


PAGES = """
import resource, sys
from restorer.machine.malloc import keep_pages
done = keep_pages() if "keep" in sys.argv else None
for turn in range(20):
    blocks = [b"x" * (12 << 20) for _ in range(3)]
    del blocks
    if turn == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_stays_with_the_process() -> None:
    """Freed memory is reused without page faults, unless the user has other settings."""
    settings_of_user = {*malloc.SETTINGS, "LD_PRELOAD", "PYTHONMALLOC"}
    environment = {name: value for name, value in os.environ.items() if name not in settings_of_user}

    def faults(*arguments: str, **settings: str) -> tuple[str, int]:
        """Return the result of `keep_pages` and the number of page faults in a process."""
        command = [sys.executable, "-c", PAGES, *arguments]
        done = subprocess.run(command, env={**environment, **settings}, capture_output=True, text=True, check=True)
        answer, count = done.stdout.split()
        return answer, int(count)

    (kept, few), (_, many) = faults("keep"), faults()
    if not many:
        pytest.skip("this system does not count page faults")
    assert kept == "True" and 10 * few < many
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_threads_keep_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads.keep_to_quota(64)
    assert "OMP_NUM_THREADS" not in threads.os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    threads.keep_to_quota(2)
    assert threads.os.environ["OMP_NUM_THREADS"] == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.keep_to_quota(2)
    assert threads.os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")


@pytest.mark.parametrize("setting", [None, *threads.SETTINGS])
def test_threads_wait_briefly(monkeypatch: pytest.MonkeyPatch, setting: str | None) -> None:
    """Threads wait briefly unless the user has set for how long."""
    environment = {} if setting is None else {setting: "7"}
    monkeypatch.setattr(threads, "os", SimpleNamespace(environ=environment))
    threads.shorten_spin_wait()
    assert environment == ({"GOMP_SPINCOUNT": str(threads.SPIN_COUNT)} if setting is None else {setting: "7"})


def test_the_command_says_so_before_pytorch_is_loaded() -> None:
    """The settings are made before PyTorch is imported, because OpenMP reads them once."""
    script = (
        "import os, sys\n"
        "import restorer.cli.app as app\n"
        "def run():\n"
        "    print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))\n"
        "    return 0\n"
        "app.run = run\n"
        "app.main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in threads.SETTINGS}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(threads.SPIN_COUNT)]
