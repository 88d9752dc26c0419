"""The packages of the wheel: everything below restorer/, and weights/ as `restorer._weights`."""

from setuptools import find_packages, setup

WEIGHTS = ["restorer._weights", *(f"restorer._weights.{name}" for name in ("blur", "enlarge", "noise", "photo"))]

setup(packages=[*find_packages(include=["restorer", "restorer.*"]), *WEIGHTS])
