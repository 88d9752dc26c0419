"""The packages of the wheel: everything below restorer/, and weights/ as `restorer._weights`."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["restorer", "restorer.*"]), "restorer._weights", "restorer._weights.photo"])
