"""`compare --uncertainty` and `doctor` of maps: lines, JSON, drawings, the page, and folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from restorer.cli.app import run
from restorer.cli.report_page.map_layer import STEPS, encode_levels
from restorer.folders.provenance import Record
from restorer.images.metadata import RECORD
from restorer.images.uncertainty_map import encode_map

Run = Callable[..., tuple[list[dict[str, Any]], str]]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `compare` with JSON in an empty folder, and returns its events and messages."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0, verb: str = "compare") -> tuple[list[dict[str, Any]], str]:
        assert run([verb, *arguments, "--json"]) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()], err

    return call


def write(path: str, pixels: np.ndarray, record: str = "") -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if record:
        info.add_text(RECORD, record)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, pnginfo=info)


def write_map(path: str, half: np.ndarray, record: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(encode_map(half, 0.9, calibrated=True, kind="denoise", record=record))


def triple(folder: str = ".", name: str = "x", record: str = "") -> np.ndarray:
    """Write an input, a result, a truth and a map: half of the values are off by 3 levels, where the map says 2."""
    rng = np.random.default_rng(1)
    truth = rng.integers(20, 200, (24, 32, 3))
    result = truth.copy()
    result[:, 16:] += 3
    half = np.full((24, 32), 2.0)
    write(f"{folder}/in/{name}.png", truth + rng.integers(0, 20, truth.shape))
    write(f"{folder}/out/{name}_denoised.png", result, record)
    write(f"{folder}/truth/{name}.png", truth)
    write_map(f"{folder}/maps/{name}_denoised_uncertainty.png", half, record)
    return half


PAIR = ("in/x.png", "out/x_denoised.png")
MAP = "maps/x_denoised_uncertainty.png"


def test_a_map_is_told_in_words_and_json(compare: Run) -> None:
    triple()
    ((done,), err) = compare(*PAIR, "--uncertainty", MAP)
    told = done["uncertainty"]
    assert (told["path"], told["of"], told["kind"], told["calibrated"]) == (MAP, "b", "denoise", True)
    assert told["bands"]["1 to 2"] == 1 and told["mean"] == 2
    assert told["coverage"] is None
    assert "uncertainty x_denoised_uncertainty.png: 90 % of the pixels are within 2 levels" in err
    assert "intervals" not in err


def test_a_map_is_judged_by_the_truth(compare: Run) -> None:
    triple()
    ((done,), err) = compare(*PAIR, "truth/x.png", "--uncertainty", MAP)
    assert done["uncertainty"]["coverage"] == 0.5
    assert done["uncertainty"]["rank_correlation"] is None  # of a constant map
    assert "to x.png: 50.0 % of the values lie within their intervals, where 90 % are expected" in err


def test_the_record_tells_which_result_a_map_belongs_to(compare: Run) -> None:
    record = Record("1", "denoise", "x.png", "0", "photo", "0", {"uncertainty": "m.png"}).to_json()
    triple(record=record)
    ((done,), _) = compare(*PAIR[::-1], "--uncertainty", MAP)
    assert done["uncertainty"]["of"] == "a" and done["uncertainty"]["note"] is None
    triple(name="y", record=record.replace("x.png", "y.png"))
    ((done,), err) = compare(*PAIR, "--uncertainty", "maps/y_denoised_uncertainty.png")
    assert "another result" in done["uncertainty"]["note"] and done["uncertainty"]["note"] in err


def test_a_map_is_drawn_over_its_result(compare: Run) -> None:
    triple()
    compare(*PAIR, "--uncertainty", MAP, "--mode", "uncertainty", "-o", "over.png")
    shown, result = np.asarray(Image.open("over.png")), np.asarray(Image.open(PAIR[1]))
    colour = np.array([0x5C, 0x01, 0xA6])
    assert np.abs(shown[:24, :32].astype(float) - (0.3 * result + 0.7 * colour)).max() <= 0.5 + 1e-4


def test_folders_find_their_maps_by_name(compare: Run) -> None:
    triple(name="x")
    triple(name="y")
    triple(name="sub/z")
    Path("maps/y_denoised_uncertainty.png").unlink()
    events, err = compare("in", "out", "truth", "--uncertainty", "maps", "--html", "page.html", "-o", "sheet.png")
    *results, summary = events
    assert {Path(r["a"]).stem: "uncertainty" in r for r in results} == {"x": True, "y": False, "z": True}
    assert summary["uncertainty"] == {
        "maps": 2,
        "judged": 2,
        "within": pytest.approx(2, abs=0.01),
        "mean": 2,
        "coverage": 0.5,
        "rank_correlation": None,
    }
    assert "2 of 3 pairs have a map, ± 2.0 levels on average; 50.0 % of the values lie within" in err
    content = json.loads(re.findall(r'id="content">(.*?)</script>', Path("page.html").read_text("utf-8"), re.DOTALL)[0])
    has_map = {pair["name"]: bool(pair["uncertainty"]) for pair in content["pairs"]}
    assert has_map == {"x.png": True, "y.png": False, "sub/z.png": True}


def test_a_pair_whose_map_is_none_is_named_and_the_others_go_on(compare: Run) -> None:
    triple(name="x")
    triple(name="y")
    write("maps/y_denoised_uncertainty.png", np.zeros((24, 32)))
    write_map("maps/x_denoised_uncertainty.png", np.ones((3, 3)))
    triple(name="z")
    events, err = compare("in", "out", "--uncertainty", "maps", code=3)
    assert [Path(e["a"]).stem for e in events if e["event"] == "result"] == ["z"]
    assert "is not a map of the uncertainty" in err and "3x3" in err


def test_a_pair_of_unlike_sizes_leaves_the_sheet_to_the_others(compare: Run) -> None:
    """The pair is named, the others are drawn, and the exit code is that of a part that failed."""
    triple(name="x")
    write("in/y.png", np.zeros((20, 30, 3)))
    write("out/y.png", np.zeros((21, 30, 3)))
    events, err = compare("in", "out", "-o", "sheet.png", code=3)
    assert [Path(e["a"]).stem for e in events if e["event"] == "result"] == ["x"]
    assert "in/y.png" in err and "30x20 and 30x21" in err
    assert Image.open("sheet.png").size[1] < 100  # one row
    events, err = compare("in", "out")  # without a drawing, there is nothing that the sizes hinder
    assert [Path(e["a"]).stem for e in events if e["event"] == "result"] == ["x", "y"]


def test_maps_and_samples_beside_results_do_not_hide_them(compare: Run) -> None:
    triple()
    half = np.ones((24, 32))
    write_map("out/x_denoised_uncertainty.png", half)
    for name in ("sample2", "mean"):
        write(f"out/x_denoised_{name}.png", np.zeros((24, 32, 3)))
    (done, summary), _ = compare("in", "out", "--uncertainty", "out")
    assert done["b"] == "out/x_denoised.png"
    assert done["uncertainty"]["path"] == "out/x_denoised_uncertainty.png"
    assert summary["ok"] == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([*PAIR, "--uncertainty", "none.png"], 4),
        ([*PAIR, "--uncertainty", PAIR[0]], 4),
        ([*PAIR, "--uncertainty", "maps"], 2),
        ([*PAIR, "--uncertainty", "small.png"], 2),
        (["in", "out", "--uncertainty", MAP], 2),
        ([*PAIR, "--mode", "uncertainty", "-o", "x.png"], 2),
        (["in", "out", "--uncertainty", "maps", "--mode", "uncertainty"], 2),
        ([*PAIR, "--uncertainty", MAP, "-o", MAP, "--overwrite"], 7),
    ],
)
def test_what_is_no_map_is_refused(arguments: list[str], code: int, compare: Run) -> None:
    triple()
    write_map("small.png", np.ones((3, 4)))
    before = Path(MAP).read_bytes()
    compare(*arguments, code=code)
    assert Path(MAP).read_bytes() == before and not Path("x.png").exists()


def test_the_layer_of_the_page_keeps_half_widths() -> None:
    half = np.array([0.0, 1e-4, 0.5, 1, 2, 5, 20, 90, 255])
    values = encode_levels(half)
    assert values[0] == 0 and values[1] == 1
    read = 2 ** (values / STEPS) - 1
    assert np.abs(read[2:8] / half[2:8] - 1).max() < 0.035
    assert read[8] > 245


def test_doctor_reads_a_map_back(compare: Run, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record("1", "denoise", "x.png", "0", "photo", "0", {"sigma": 20.0, "uncertainty": "m.png"})
    write_map("m.png", np.full((6, 8), 12.0), record.to_json())
    ((said,), _) = compare("m.png", verb="doctor")
    assert (said["width"], said["height"], said["task"], said["kind"], said["level"]) == (
        8,
        6,
        "denoise",
        "denoise",
        0.9,
    )
    assert said["command_line"] == record.command_line() and said["bands"]["10 to 20"] == 1
    assert run(["doctor", "m.png"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == record.command_line()
    for text in ("a value of 256 is a half width of one level", "calibrated for denoise", "10 to 20 100 %"):
        assert text in err
    write_map("plain.png", np.zeros((6, 8)))
    ((said,), _) = compare("plain.png", verb="doctor")
    assert said["task"] is None and said["command_line"] is None


def test_doctor_says_where_the_map_of_a_result_lies(compare: Run) -> None:
    record = Record("1", "denoise", "x.png", "0", "photo", "0", {"uncertainty": "m.png"}).to_json()
    write("r.png", np.zeros((6, 8, 3)), record)
    assert compare("r.png", verb="doctor")[0][0]["map"] is None
    write_map("m.png", np.ones((6, 8)), record.replace("x.png", "y.png"))  # that of another result
    assert compare("r.png", verb="doctor")[0][0]["map"] is None
    write_map("r_uncertainty.png", np.ones((6, 8)), record)
    assert compare("r.png", verb="doctor")[0][0]["map"] == "r_uncertainty.png"
    write_map("m.png", np.ones((6, 8)), record)
    assert compare("r.png", verb="doctor")[0][0]["map"] == "m.png"
    hostile = Record("1", "denoise", "x.png", "0", "photo", "0", {"uncertainty": "../../m.png"}).to_json()
    write("sub/r.png", np.zeros((6, 8, 3)), hostile)
    write_map("m.png", np.ones((6, 8)), hostile)
    assert compare("sub/r.png", verb="doctor")[0][0]["map"] is None
