"""The packages of the wheel: everything below restorer/, and weights/ as `restorer._weights`.

The folders of weights/ are found, not listed, so that no network can be left out of an installation.
"""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = sorted(path.name for path in Path("weights").iterdir() if path.is_dir())
WEIGHTS = {"restorer._weights": "weights", **{f"restorer._weights.{name}": f"weights/{name}" for name in FOLDERS}}

setup(
    packages=[*find_packages(include=["restorer", "restorer.*"]), *WEIGHTS],
    package_dir=WEIGHTS,
    package_data={
        "restorer": ["py.typed"],
        "restorer.cli.mask_page": ["*.html", "*.css", "*.js"],
        "restorer.cli.report_page": ["*.html", "*.css", "*.js"],
        "restorer.models": ["*.toml"],
        **{name: ["*.json", "*.md", "*.safetensors", "*.toml"] for name in WEIGHTS},
    },
)
