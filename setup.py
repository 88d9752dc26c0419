"""The packages of the wheel: everything below restorer/, and weights/ as `restorer._weights`."""

from setuptools import find_packages, setup

NAMES = ("blur", "enlarge", "noise", "photo", "scratches")
WEIGHTS = ["restorer._weights", *(f"restorer._weights.{name}" for name in NAMES)]

setup(packages=[*find_packages(include=["restorer", "restorer.*"]), *WEIGHTS])
