"""Shards: together exactly the folder, nothing twice; their logs, and the merging of them."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.errors import UsageError
from restorer.folders.manifest import MANIFEST, Manifest, open_manifest
from restorer.folders.shard import Shard
from restorer.models import load as models_load

Restore = Callable[..., tuple[int, list[dict[str, Any]], str]]
COMMAND = ("denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "1")
LOGS = [f"out/.restorer-{i}-of-3.jsonl" for i in (1, 2, 3)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    return tmp_path


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str]) -> Restore:
    def call(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return call


def pictures(count: int = 24) -> list[Path]:
    """Write pictures, of which two have names that differ in their ending alone, and one is damaged."""
    names = [f"{'deep/' if i % 3 == 0 else ''}{i:02}.png" for i in range(count - 2)] + ["twin.png", "twin.gif"]
    for i, name in enumerate(names):
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    Path("in/05.png").write_bytes(b"no picture")
    return [Path("in", name) for name in names]


def results(folder: str = "out") -> dict[str, bytes]:
    files = (p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith(".restorer"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_shards_are_together_exactly_the_folder(restore: Restore) -> None:
    """Three shards and a merge give the results, and the knowledge, of a single run; each picture is in one shard."""
    paths = pictures()
    restore(*COMMAND)
    whole, statuses = results(), Counter(Manifest(Path("out", MANIFEST)).statuses())
    shutil.rmtree("out")
    done = list[str]()
    for i in (1, 2, 3):
        code, events, _ = restore(*COMMAND, "--shard", f"{i}/3")
        mine = [event["input"] for event in events if event["event"] == "result"]
        done += mine
        assert code in (0, 3) and 0 < len(mine) < len(paths)
    assert sorted(done) == sorted(map(str, paths))
    assert results().keys() == whole.keys()
    # A batch holds other pictures, which the record says, so that the bytes differ in nothing but that.
    for name, data in results().items():
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(whole[name]))))
    code, (merged,), _ = restore("manifest", "merge", *LOGS, "-o", f"out/{MANIFEST}")
    assert code == 0 and (merged["ok"], merged["failed"], merged["unfinished"]) == (len(paths) - 1, 1, 0)
    assert Counter(Manifest(Path("out", MANIFEST)).statuses()) == statuses


def test_a_run_goes_on_from_the_merged_log(restore: Restore) -> None:
    """After the merge, a run without shards skips what is done, and redoes what failed or has gone."""
    paths = pictures()
    for i in (1, 2, 3):
        restore(*COMMAND, "--shard", f"{i}/3")
    refused = restore(*COMMAND, "--resume")[1][-1]["failed"]
    assert refused == len(paths)  # without the merge, the results are those of a stranger
    shutil.copyfile("in/07.png", "in/05.png")
    Path("out/07_denoised.png").unlink()
    assert restore("manifest", "merge", *LOGS, "-o", f"out/{MANIFEST}", "--overwrite")[0] == 0
    code, events, _ = restore(*COMMAND, "--resume")
    summary = events[-1]
    assert code == 0 and (summary["ok"], summary["skipped"]) == (2, len(paths) - 2)
    assert len(results()) == len(paths)


def test_a_shard_goes_on_and_the_division_may_change(restore: Restore) -> None:
    pictures()
    first = restore(*COMMAND, "--shard", "2/3")[1]
    count = sum(event.get("status") == "ok" for event in first)
    again = restore(*COMMAND, "--shard", "2/3", "--resume")[1][-1]
    assert (again["ok"], again["skipped"]) == (0, count)
    skipped = sum(restore(*COMMAND, "--shard", f"{i}/2", "--resume")[1][-1]["skipped"] for i in (1, 2))
    assert skipped == count and len(results()) == 23


def test_results_have_the_names_of_a_run_over_all_pictures(restore: Restore) -> None:
    """Twins in different shards get the longer names that they have beside each other."""
    pictures()
    for i in range(1, 8):
        restore(*COMMAND, "--shard", f"{i}/7")
    assert {"twin_png_denoised.png", "twin_gif_denoised.png"} <= results().keys()


def test_shards_run_at_the_same_time(restore: Restore) -> None:
    """Each shard has a log of its own, leaves the files alone that others are writing, and is refused beside itself."""
    pictures()
    Path("out").mkdir()
    writing = Path("out/.0123456789abcdef.partial")
    writing.touch()
    Path(LOGS[0]).touch()
    with open_manifest(Path(LOGS[0])):
        assert restore(*COMMAND, "--shard", "1/3")[0] == 7
        assert restore(*COMMAND, "--shard", "2/3")[0] in (0, 3) and writing.exists()
        code, _, err = restore("manifest", "merge", LOGS[1], LOGS[0], "-o", f"out/{MANIFEST}")
        assert code == 7 and "another run is writing" in err and not Path("out", MANIFEST).exists()


def test_a_picture_is_in_the_same_shard_on_every_machine() -> None:
    """The hash does not depend on where the folder is mounted, nor on how the file system composes accents."""
    for name in ("a.png", "deep/b.png", "caf\u00e9.png"):
        homes = {
            next(i for i in range(1, 6) if Shard(i, 5).holds(Path(root, spelled), Path(root)))
            for root in ("/mnt/x", "relative/in", "C")
            for spelled in (name, name.replace("\u00e9", "e\u0301"))
        }
        assert len(homes) == 1
    counts = Counter(i for n in range(3000) for i in (1, 2, 3) if Shard(i, 3).holds(Path(f"in/{n}.png"), Path("in")))
    assert sum(counts.values()) == 3000 and all(abs(count - 1000) < 130 for count in counts.values())  # 5 sigma
    # Known answers of SHA-256: another hash would divide runs differently on machines with different versions.
    assert [n for n in range(20) if Shard(1, 4).holds(Path(f"in/{n}.png"), Path("in"))] == [2, 8, 14, 17]


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/1000000", "\u0661/3", "1.5/3"]
)
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError):
        Shard.parse(text)


def test_a_merged_log_names_results_from_its_own_folder(restore: Restore) -> None:
    """Logs of several folders are merged; torn lines are left out, and the last word on a result counts."""
    for name in ("one", "two"):
        Path(name).mkdir()
        with open_manifest(Path(name, "log.jsonl")) as log:
            log.log_begin(Path(name, "a.png"))
            Path(name, "a.png").touch()
            log.log_result(Path(name, "a.png"), {"event": "result", "status": "ok", "recipe": "sha256:x"})
            log.log_begin(Path(name, "b.png"))
    with Path("two/log.jsonl").open("a") as file:
        file.write('{"event": "result", "output": "b.p')
    line = ("manifest", "merge", "one/log.jsonl", "two/log.jsonl", "./one/log.jsonl", "-o", "all.jsonl")
    code, (event,), err = restore(*line)
    assert code == 0 and (event["ok"], event["failed"], event["unfinished"]) == (2, 0, 2)
    assert "merged 2 logs: 2 done, 0 failed, 2 unfinished" in err
    assert [json.loads(text)["output"] for text in Path("all.jsonl").read_text().splitlines()] == [
        "one/a.png", "one/a.png", "one/b.png", "two/a.png", "two/a.png", "two/b.png"
    ]  # fmt: skip
    merged = Manifest(Path("all.jsonl"))
    assert merged.is_done(Path("two/a.png"), "sha256:x") and not merged.is_done(Path("two/b.png"), "sha256:x")
    assert merged.has_begun(Path("two/b.png"))
    code, _, err = restore(*line)
    assert code == 7 and "all.jsonl exists" in err
    assert restore("manifest", "merge", "none.jsonl", "-o", "x.jsonl")[0] == 4


def test_pipes_have_no_shard(restore: Restore) -> None:
    code, _, err = restore("denoise", "-", "-o", "x.png", "--shard", "1/2")
    assert code == 2 and "--shard needs files" in err
