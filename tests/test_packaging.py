"""The wheel: every package and every data file is in it, and the verbs run from it alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "tests" / "images"
WHAT_IS_PACKAGED = ("restorer", "weights", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command, and return its standard output; a failure shows everything that it printed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without isolation, and so without the network, from a copy of the sources."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in WHAT_IS_PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", output, source, cwd=source)
    (built,) = output.glob("restorer-*.whl")
    return built


def test_it_contains_every_package_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "restorer").rglob("*")
        if path.suffix in (".py", ".toml", ".typed", ".html", ".css", ".js")
    }
    assert len(source) > 100 and source <= inside
    weights = {f"restorer/_weights/{path.relative_to(ROOT / 'weights')}" for path in (ROOT / "weights").rglob("*.*")}
    assert len(weights) > 20 and weights <= inside
    assert not [name for name in inside if name.startswith(("tests/", "weights/", "docs/"))]


def test_every_folder_with_modules_is_a_package() -> None:
    """A folder without `__init__.py` would be missing from the wheel in silence."""
    folders = {path.parent for path in (ROOT / "restorer").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_the_verbs_run_from_it(wheel: Path, tmp_path: Path) -> None:
    """It is installed without dependencies; those of this environment serve, but not its checkout of the sources."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *options, "--target", site, wheel, cwd=work)
    with Image.open(IMAGES / "noisy.png") as picture:
        picture.crop((0, 0, 64, 48)).save(work / "a.png")
    mask = Image.new("L", (64, 48))
    mask.paste(255, (20, 10, 24, 30))
    mask.save(work / "m.png")
    with Image.open(IMAGES / "gates.jpg") as picture:
        picture.crop((0, 0, 64, 48)).save(work / "b.jpg", quality=30)
    restore = (sys.executable, "-m", "restorer")
    where = run(sys.executable, "-c", "import restorer; print(restorer.__file__)", cwd=work, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    for verb, name, size, *more in (
        ("denoise", "a.png", (64, 48), "--steps", "2"),
        ("inpaint", "a.png", (64, 48), "--steps", "2", "--mask", "m.png"),
        ("inpaint", "a.png", (64, 48), "--mask", "scratches"),
        ("upscale", "a.png", (256, 192), "--steps", "2"),
        ("dejpeg", "b.jpg", (64, 48)),
        ("auto", "b.jpg", (64, 48)),
    ):
        out = run(*restore, verb, name, *more, "-q", "--overwrite", cwd=work, PYTHONPATH=str(site))
        with Image.open(work / out.strip()) as result:
            assert result.size == size
