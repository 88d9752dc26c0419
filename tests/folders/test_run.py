"""The engine of a run: what it yields, how often it reads a picture, and how often it looks the model up."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth, Spy

from restorer.cli.app import run
from restorer.cli.options import parse
from restorer.folders import events
from restorer.folders.manifest import MANIFEST
from restorer.folders.opening import open_log
from restorer.folders.picture import Verb
from restorer.folders.run import Run
from restorer.folders.verb_options import Denoise
from restorer.images.find import search_all
from restorer.models import load as models_load
from restorer.tasks import batching
from restorer.tasks.denoise import prepare_denoise

COMMAND = ["denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "2"]
PROC = Path("/proc/self/io")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    return tmp_path


def pictures(count: int, side: int = 12, folder: str = "in") -> list[Path]:
    Path(folder).mkdir(exist_ok=True)
    paths = [Path(folder, f"{i:03}.png") for i in range(count)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng([i, side]).integers(0, 256, (side, side + 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def engine_events(output: str = "out", **options: Any) -> Iterator[events.Event]:
    """Yield the events of a run that equals the command `COMMAND`."""
    chosen = parse(Denoise, inputs=["in"], output=output, sigma="10", **{"recursive": True, "steps": 2, **options})
    found = search_all(chosen.inputs, recursive=True)

    def prepare(image: Any, item: Any, picture: Any, prior: Any) -> Any:
        return prepare_denoise(image, prior=prior, **chosen.sampling), None

    verb = Verb("denoised", prepare, extra_options=chosen.own)
    with open_log(chosen, found.pictures) as log, closing(Run(chosen, verb, log).events(found)) as happening:
        yield from happening


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("seconds", "peak_mem_mb", "schema")}


def test_events_come_in_order_and_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture is measured and begun before it is sampled, and done afterwards; the second one is broken."""
    monkeypatch.setattr(batching, "MAX_PIXELS", {"cpu": 168})  # each picture is a batch of its own
    paths = pictures(3)
    paths[1].write_bytes(b"no picture")
    Path("in/notes.txt").write_text("notes")
    happened = list(engine_events())
    names = [type(event).__name__ for event in happened]
    assert names[:2] == ["PassedOver", "Opened"] and names[-1] == "Finished"
    assert Counter(names) == {
        "PassedOver": 1, "Opened": 1, "Measured": 2, "Begun": 2, "Sampling": 2, "Step": names.count("Step"),
        "Tile": names.count("Tile"), "Sampled": 2, "Done": 2, "Failed": 1, "LeftOut": 1, "Finished": 1,
    }  # fmt: skip
    for name in ("000", "002"):
        mine = [
            type(event).__name__
            for event in happened
            if getattr(getattr(event, "item", None), "source", Path()).stem == name
            or (isinstance(event, events.Begun) and event.picture.item.source.stem == name)
        ]
        assert mine == ["Measured", "Begun", "Done"]
    steps = [event.done for event in happened if isinstance(event, events.Step)]
    assert set(steps) <= {1, 2} and steps[0] == 1
    finished = happened[-1]
    assert isinstance(finished, events.Finished)
    assert (finished.ok, finished.failed, finished.skipped, finished.exit_code) == (2, 1, 0, 3)
    assert finished.passed_over == {"document": 1}


def test_events_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The objects of `--json` and the lines of the log are those of the events; only the times differ."""
    pictures(5)[3].write_bytes(b"no picture")
    happened = [event.to_json() for event in engine_events()]
    ours = [without_times(content) for content in happened if content is not None]
    log = [without_times(json.loads(line)) for line in Path("out", MANIFEST).read_text().splitlines()]
    Path("out").rename("first")
    assert run([*COMMAND, "--json"]) == 3
    printed = [without_times(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert ours == printed
    assert log == [without_times(json.loads(line)) for line in Path("out", MANIFEST).read_text().splitlines()]
    for path in Path("first").glob("*.png"):
        assert path.read_bytes() == Path("out", path.name).read_bytes()


def test_who_has_enough_ends_the_run() -> None:
    """After a run is closed, no thread is left, every result is whole, and what was begun is in the log."""
    pictures(40)
    happened = engine_events()
    for event in happened:
        if isinstance(event, events.Done):
            break
    happened.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer")]
    lines = [json.loads(line) for line in Path("out", MANIFEST).read_text().splitlines()]
    results = {path.name for path in Path("out").glob("*.png")}
    assert results == {line["output"] for line in lines if line.get("status") == "ok"} and 0 < len(results) < 40
    assert run([*COMMAND, "--resume", "-q"]) == 0 and len(list(Path("out").glob("*.png"))) == 40


@pytest.mark.skipif(not PROC.exists(), reason="the system does not count what a process reads")
@pytest.mark.parametrize(("side", "count"), [(160, 12), (300, 4)], ids=["read ahead", "one by one"])
def test_a_picture_is_read_once(side: int, count: int) -> None:
    """What a run reads is each picture once, and the headers beforehand. Before, it read each of them four times."""

    def bytes_read() -> int:
        return int(PROC.read_text().split()[1])  # rchar

    pictures(2, side, "in")
    assert run([*COMMAND, "-q"]) == 0  # which imports what a run needs
    Path("out").rename("warm")
    total = sum(path.stat().st_size for path in pictures(count, side))
    before = bytes_read()
    assert run([*COMMAND, "-q"]) == 0
    assert 1 <= (bytes_read() - before) / total < 1.3


def test_the_model_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over a hundred pictures looks its model up once; before, it did so three times for each picture."""
    find_model, looked_up, spy = models_load.find_model, list[object](), Spy(Smooth())

    def counting(model: Any, *arguments: Any) -> Path:
        looked_up.append(model)
        return find_model(model, *arguments)

    monkeypatch.setattr(models_load, "find_model", counting)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: spy)
    pictures(100, 8)
    assert run([*COMMAND, "-q"]) == 0
    assert len(list(Path("out").glob("*.png"))) == 100
    assert looked_up == ["photo"]
