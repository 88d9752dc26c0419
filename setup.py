"""The packages of the wheel: everything below restorer/, and weights/ as `restorer._weights`."""

from setuptools import find_packages, setup

WEIGHTS = ["restorer._weights", *(f"restorer._weights.{name}" for name in ("enlarge", "noise", "photo", "scratches"))]

setup(packages=[*find_packages(include=["restorer", "restorer.*"]), *WEIGHTS])
