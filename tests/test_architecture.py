"""The floors of the house: every module imports only from floors below its own, and nothing imports in a circle.

Imports inside functions and for type checkers count like all others.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "restorer"

# The floor of every room (docs/explanation/architecture.md). Rooms on one floor do not import each other.
FLOORS = {
    "errors": 0,
    "networks": 1,
    "networks.fast": 2,
    "machine": 3,
    "limits": 3,
    "diffusion": 4,
    "images": 4,
    "measurement": 5,
    "priors": 5,
    "models": 6,
    "tasks": 7,
    "evaluation": 8,
    "training": 8,
    "api": 9,
    "folders": 10,
    "doctor": 10,
    "cli": 11,
    "__main__": 12,
}
AT_THE_ROOT = {"__init__", "__main__", "api", "doctor", "errors", "limits"}


def module_of(path: Path) -> str:
    """Return the dotted name of a module of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """Return the room of a module; that of the package itself is the empty string."""
    name = module.removeprefix("restorer").removeprefix(".")
    return "networks.fast" if name.startswith("networks.fast") else name.partition(".")[0]


def imports_of(source: str) -> Iterator[str]:
    """Yield the modules of the package that a source text imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "restorer")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module is not None and node.module.partition(".")[0] == "restorer":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in MODULES else node.module


IMPORTS = {module: set(imports_of(path.read_text(encoding="utf-8"))) - {module} for module, path in MODULES.items()}


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(FLOORS)


def test_only_a_few_modules_lie_at_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_ROOT


@pytest.mark.parametrize("module", [module for module in MODULES if module != "restorer"])
def test_imports_point_down(module: str) -> None:
    """The package itself may be imported by all, for its version; it imports the public names lazily."""
    room = room_of(module)
    for other in IMPORTS[module] - {"restorer"}:
        assert room_of(other) == room or FLOORS[room_of(other)] < FLOORS[room], f"{module} imports {other}"


def test_there_are_no_circles() -> None:
    graph = {module: others - {"restorer"} for module, others in IMPORTS.items() if module != "restorer"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises on a circle, and names it


def test_networks_do_not_import_their_accelerators() -> None:
    """This follows from the floors; it is the rule that is easiest to break."""
    plain = [module for module in MODULES if room_of(module) == "networks"]
    assert len(plain) > 5
    assert not [(m, other) for m in plain for other in IMPORTS[m] if other.startswith("restorer.networks.fast")]


def test_the_core_knows_no_files_terminals_or_hub() -> None:
    for path in [*(PACKAGE / "diffusion").rglob("*.py"), *(PACKAGE / "networks").rglob("*.py")]:
        names = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not names & {"PIL", "typer", "rich", "huggingface_hub", "safetensors"}, path.name


def test_a_wrong_arrow_is_found() -> None:
    """The test can fail: an import in a function, one for type checkers, and a submodule imported as a name."""
    source = "def f():\n    from restorer.cli import app\nif TYPE_CHECKING:\n    import restorer.folders.paths\n"
    assert set(imports_of(source)) == {"restorer.cli.app", "restorer.folders.paths"}
