"""The packages of the wheel: everything below restorer/, and weights/ as `restorer._weights`."""

from setuptools import find_packages, setup

WEIGHTS = ["restorer._weights", "restorer._weights.noise", "restorer._weights.photo"]

setup(packages=[*find_packages(include=["restorer", "restorer.*"]), *WEIGHTS])
