"""The options of the verbs: one declaration, what is made of it, and the values from texts and from Python."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import typer

import restorer
from restorer.cli.app import app, run
from restorer.cli.options import command_of, parse
from restorer.cli.terminal.help import Command
from restorer.errors import UsageError
from restorer.folders.options import Options
from restorer.folders.picture import Verb
from restorer.folders.recipes import recipe_of
from restorer.folders.shard import Shard
from restorer.folders.verb_options import OPTIONS, Denoise
from restorer.images.sizes import Region
from restorer.models import load as models_load
from restorer.tasks.option import SAMPLING, declared, option, taken
from restorer.tasks.options import DenoiseOptions, InpaintOptions, SamplingOptions

OF_CALLS = {"picture", "region", "start", "prior", "on_step", "on_found", "uncertainty"}
"""The parameters of the Python functions that say how a picture is passed and computed."""
OTHERWISE = {"deblur": {"gaussian", "defocus", "motion", "kernel"}, "inpaint": {"mask", "invert_mask"}}
"""The options that a Python function takes as arrays instead."""


def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined, no-any-return]


# ------------------------------------------------------------------------------------- what is made of a declaration


@pytest.mark.parametrize("task", OPTIONS)
def test_the_functions_have_the_options_of_their_dataclass(task: str) -> None:
    """Names, types and defaults of the explicit signature are those that the options of the task declare."""
    (kind,) = [each for each in OPTIONS[task].__mro__ if each.__name__ == f"{task.title()}Options"]
    function, known = getattr(restorer, task), declared(kind)
    hints, stated = get_type_hints(function), get_type_hints(kind)
    parameters = inspect.signature(function).parameters
    names = set(known) - OTHERWISE.get(task, set())
    assert {name for name in parameters if name not in OF_CALLS} - OTHERWISE.get(task, set()) == names
    assert {name: parameters[name].default for name in names} == {name: known[name].default for name in names}
    assert {name: hints[name] for name in names} == {name: stated[name] for name in names}


@pytest.mark.parametrize("task", OPTIONS)
def test_a_command_has_the_options_of_its_dataclass(task: str) -> None:
    known = declared(OPTIONS[task])
    parameters = {each.name: each for each in commands()[task].params if each.name not in ("inputs", "help")}
    assert parameters.keys() == known.keys()
    for name, each in known.items():
        parameter = parameters[name]
        assert f"--{name.replace('_', '-')}" in parameter.opts
        assert (parameter.help, parameter.rich_help_panel) == (each.option.help, each.option.panel)
        assert parameter.required == (each.default is MISSING)
        if not parameter.required:
            default = tuple(parameter.default) if isinstance(parameter.default, list) else parameter.default
            assert each.read(default) == each.default, "the default on the command line is that of the field"


def test_options_are_listed_by_panel_after_those_of_the_verb() -> None:
    """The help of a verb begins with what the verb has of its own."""
    names = [each.name for each in commands()["denoise"].params if each.name not in ("inputs", "help")]
    assert names[:5] == ["sigma", "noise", "strength", "outliers", "jpeg"]
    panels = [declared(Denoise)[name].option.panel for name in names[5:]]
    assert list(dict.fromkeys(panels)) == ["Output", "Input", "Sampling", "Model and device", "Interface"]
    assert sorted(panels, key=list(dict.fromkeys(panels)).index) == panels


@pytest.mark.parametrize("task", OPTIONS)
def test_withheld_options_are_unknown_and_keep_their_value(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = OPTIONS[task]
    missing = {each.name: each.default for each in fields(kind) if not each.init} | {"command": task}
    chosen = kind(inputs=[], **({"mask": Path("m.png")} if task == "inpaint" else {}))
    assert {name: getattr(chosen, name) for name in missing} == missing
    for name in missing.keys() - {"command"}:
        assert run([task, "a.png", f"--{name.replace('_', '-')}", "1"]) == 2
        assert "No such option" in capsys.readouterr().err
        with pytest.raises(UsageError, match=f"{task} has no option '{name}'"):
            restorer.restore_folder("in", task, **{name: 1})


@dataclass(frozen=True, kw_only=True)
class SharpenOptions(SamplingOptions):
    radius: float = option(1.5, "Radius in pixels", "PX", SAMPLING)
    both: bool = option(False, "Sharpen both", panel=SAMPLING)
    profile: Path | None = option(None, "A file", "FILE", SAMPLING)


@dataclass(frozen=True, kw_only=True)
class Sharpen(SharpenOptions, Options):
    command: str = "sharpen"


def test_one_declaration_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An option that is declared is on the command line, in Python, and in the record and the fingerprint of a run."""
    seen: list[Sharpen] = []
    made = typer.Typer()
    made.callback()(lambda: None)
    made.command("sharpen", cls=Command)(command_of(Sharpen, seen.append, parse))
    made(["sharpen", "a.png", "--radius", "2.5", "--both", "--profile", "p"], standalone_mode=False)
    made(["sharpen", "a.png"], standalone_mode=False)
    made(["sharpen", "--help"], standalone_mode=False)
    assert "Radius in pixels" in capsys.readouterr().out
    assert taken(SharpenOptions, {"radius": np.float32(2.5), "both": True, "other": 1}).radius == 2.5
    given, plain = (each.own for each in seen)
    assert given == {"radius": 2.5, "both": True, "profile": "p"}
    assert plain == {"radius": 1.5, "both": False, "profile": None}
    (tmp_path / "a.png").write_bytes(b"")
    item = type("Item", (), {"source": tmp_path / "a.png"})()
    model = models_load.look_up("photo")
    found = {recipe_of(item, each, Verb("x", seen, extra_options=each.own), model, "0") for each in seen}  # type: ignore[arg-type]
    assert len(found) == 2


# --------------------------------------------------------------------------------------------------- reading and taking


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("sigma", "auto", None),
        ("sigma", "12.5", 12.5),
        ("tile", "off", "off"),
        ("tile", "64", 64),
        ("region", "1,2,3,4", Region(1, 2, 3, 4)),
        ("shard", "2/3", Shard(2, 3)),
        ("include", ["*.png", "a*"], ("*.png", "a*")),
        ("output", None, None),
        ("method", "ddpm", "ddpm"),
    ],
)
def test_texts_are_read(name: str, text: Any, value: Any) -> None:
    assert getattr(parse(Denoise, inputs=["a.png"], **{name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "passed", "value"),
    [
        ("sigma", "auto", None),
        ("sigma", np.float32(12.5), 12.5),
        ("steps", 3.0, 3),
        ("steps", None, None),
        ("tile", 64.0, 64),
        ("region", [1, 2, 3, 4], Region(1, 2, 3, 4)),
        ("shard", Shard(2, 3), Shard(2, 3)),
        ("shard", "2/3", Shard(2, 3)),
        ("include", "*.png", ("*.png",)),
        ("manifest", "log", Path("log")),
        ("start", Path("net.pth"), "net.pth"),
    ],
)
def test_python_values_are_taken(name: str, passed: Any, value: Any) -> None:
    found = declared(Denoise)[name].take(passed)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "passed", "message"),
    [
        ("sigma", "12.5", "sigma must be a number"),
        ("steps", True, "steps must be a number"),
        ("seed", None, "seed must be a number"),
        ("seed", 1.5, "seed must be a whole number"),
        ("method", 3, "method must be a text, not int"),
        ("method", None, "method must be a text, not NoneType"),
        ("overwrite", 1, "overwrite must be True or False, not 1"),
        ("tile", 63, "at least 64 pixels, not 63"),
        ("tile", "63", "at least 64 pixels, not '63'"),
        ("shard", 5, "shard must be a text, not int"),
        ("manifest", 5, "manifest must be a text, not int"),
    ],
)
def test_other_values_are_refused(name: str, passed: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        declared(Denoise)[name].take(passed)


def test_checks_belong_to_the_options() -> None:
    with pytest.raises(UsageError, match="posterior mean"):
        DenoiseOptions(steps=1, detail=0.5).check()
    DenoiseOptions(steps=1, detail=0.5).check(started=True)
    with pytest.raises(UsageError, match="grow must lie between"):
        InpaintOptions(mask=Path("m"), grow=-1).check()


# ------------------------------------------------------------------------------------ what may not change by itself

FINGERPRINTS = {
    "denoise a.png": "8ef1e8f12384503b",
    "denoise a.png --sigma 25 --steps 3 --detail 0.5 --method ddpm --seed 7": "533dff1bd0d31b74",
    "denoise a.png --noise camera --strength 1.3 --outliers off --jpeg off": "1ba3cd5d50c4e10a",
    "denoise a.png --region 1,2,30,40 --format TIFF --quality 90 --samples 3 --uncertainty u.png": "de3574cb6b9664a4",
    "denoise a.png --in-place --backup .orig --keep-times --tile 128 --device cpu --precision fp32": "8ef1e8f12384503b",
    "dejpeg a.png": "e7fbc789e9958311",
    "dejpeg a.png --steps 4 --seed 1": "11089b0a353d0aaa",
    "deblur a.png": "3fd6ef9661b97f18",
    "deblur a.png --gaussian 2.50x1.2@30 --noise white --strength 0.9": "b92306af45b3146f",
    "deblur a.png --defocus 3 --jpeg off --sigma 2": "7af9181be28dec7b",
    "deblur a.png --motion 013@30.0": "c54a5c407c79f4cc",
    "inpaint a.png --mask m.png": "5e044af33eda2db3",
    "inpaint a.png --mask scratches --grow 2 --candidates 2 --sigma 5": "8364b9a8946f5f23",
    "inpaint a.png --mask alpha --invert-mask --detail 1": "eaf951267f10aa4a",
    "upscale a.png": "380c6461989a7d9a",
    "upscale a.png --scale 2.5 --jpeg off --sigma 3": "75683da0a314c0cc",
    "upscale a.png --width 900 --height 700": "31ef6da28c67ec09",
    "auto a.png": "95238d305c9895f5",
    "auto a.png --scale 2 --no-noise --no-blur --detail 0.4 --seed 2": "26cf538865df808f",
}
"""The first digits of the fingerprints of command lines, made before the options were declared in one place.

Where one of them changes, `--resume` restores again what an earlier version has done. A new option changes that of its
verb, so that it is written anew here.
"""


@pytest.mark.parametrize("line", FINGERPRINTS)
def test_fingerprints_stay(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.png").write_bytes(b"mask")
    seen: list[Any] = []
    monkeypatch.setattr("restorer.cli.commands.restore.restore_all", lambda options, verb: seen.append((options, verb)))
    assert run(line.split()) == 0
    ((options, verb),) = seen
    item = type("Item", (), {"source": Path("a.png"), "root": None})()
    model = type("Model", (), {"path": Path("model"), "sha256": "0" * 64})()
    assert recipe_of(item, options, verb, model, "1" * 64)[7:23] == FINGERPRINTS[line]
