"""The constants of the uncertainty beside the weights of a model, read as untrusted input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from restorer.diffusion.calibration import Calibration, Constants, PowerLaw
from restorer.errors import ModelError
from restorer.models.calibration import FILE, calibration_file, read_calibration, to_json
from restorer.models.load import calibration_of, find_calibration, load_prior
from restorer.priors.tiled import Tiled

ROW = Constants(25.0, (1.0, 10.0, 100.0), (1.1, 1.2, 1.3, 1.4), 34)
CALIBRATION = Calibration({"denoise": (ROW,)}, "some pictures", "2026-11-29")


def test_constants_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(to_json(CALIBRATION), encoding="utf-8")
    assert read_calibration(tmp_path) == CALIBRATION


def test_a_law_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = tuple(
        Constants(s, ROW.edges, ROW.factors, 34, PowerLaw(2.5, 0.8, 0.1, s / 100), (s / 2, 2 * s)) for s in (5.0, 25.0)
    )
    (tmp_path / FILE).write_text(to_json(Calibration({"denoise": rows})), encoding="utf-8")
    found = read_calibration(tmp_path)
    assert found is not None
    assert found.kinds["denoise"] == rows


def test_strengths_with_and_without_a_law_are_refused(tmp_path: Path) -> None:
    """They could not be interpolated."""
    law = Constants(5.0, ROW.edges, ROW.factors, 34, PowerLaw(2.0))
    (tmp_path / FILE).write_text(to_json(Calibration({"denoise": (law, ROW)})), encoding="utf-8")
    with pytest.raises(ModelError, match="law"):
        read_calibration(tmp_path)


def test_a_model_of_one_file_has_its_own(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.touch()
    assert calibration_file(weights) == tmp_path / "mine.calibration.json"
    assert read_calibration(weights) is None


def test_strengths_are_sorted(tmp_path: Path) -> None:
    other = Constants(5.0, ROW.edges, ROW.factors, 34)
    (tmp_path / FILE).write_text(to_json(Calibration({"denoise": (ROW, other)})), encoding="utf-8")
    found = read_calibration(tmp_path)
    assert found is not None
    assert [c.strength for c in found.kinds["denoise"]] == [5.0, 25.0]


GOOD_LAW = {"factor": 2.0, "deviation": 1.0, "hint": 0.5, "variance": 0.1}


def changed(**values: Any) -> dict[str, Any]:
    """Return the content of a file whose only row has other values."""
    content = json.loads(to_json(CALIBRATION))
    content["kinds"]["denoise"][0].update(values)
    return content


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"kinds": [], "data": "", "date": "", "level": 0.9},
        {"kinds": {}, "data": "", "date": "", "level": 2},
        changed(factors=[1.0, 2.0]),
        changed(factors=[1.0, 2.0, -3.0, 4.0]),
        changed(factors=[1.0, 2.0, float("nan"), 4.0]),
        changed(edges=[3.0, 2.0, 1.0]),
        changed(edges="abc"),
        changed(strength=0),
        changed(pictures=None),
        changed(span=[1.0]),
        changed(span=[30.0, 40.0]),
        changed(span=[1.0, 20.0]),
        changed(span=[0.0, float("inf")]),
        changed(law=[]),
        changed(law={"factor": 2.0}),
        changed(law=GOOD_LAW | {"factor": 0}),
        changed(law=GOOD_LAW | {"factor": float("inf")}),
        changed(law=GOOD_LAW | {"hint": 99}),
        changed(law=GOOD_LAW | {"variance": float("nan")}),
    ],
)
def test_what_is_no_calibration_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="holds no calibration"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\x00" * 100, "[" * 100_000])
def test_what_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError):
        read_calibration(tmp_path)


def test_strengths_with_other_groups_are_refused(tmp_path: Path) -> None:
    """They could not be interpolated."""
    fewer = Constants(5.0, (1.0,), (1.0, 2.0), 34)
    (tmp_path / FILE).write_text(to_json(Calibration({"denoise": (ROW, fewer)})), encoding="utf-8")
    with pytest.raises(ModelError):
        read_calibration(tmp_path)


def test_the_embedded_model_is_calibrated_for_every_task() -> None:
    found = calibration_of(Tiled(load_prior(), 64, overlap=8))
    assert found is not None
    assert found == read_calibration(find_calibration().parent)
    kinds = {"denoise", "camera", "noisy jpeg", "dejpeg", "deblur", "narrow holes", "wide holes", "upscale"}
    assert set(found.kinds) == kinds
    assert found.data and found.date and found.level == 0.9
    for rows in found.kinds.values():
        assert all(0.5 < factor < 40 for row in rows for factor in row.factors)
