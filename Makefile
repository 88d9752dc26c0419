# make demo    a virtual environment, the program in it, one photograph restored
# make test    the same with the test tools, and the tests
# PIP_ARGS passes options to pip, for instance an index with CPU builds of PyTorch.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

# The pair that is tested; left to itself, pip may fetch a CUDA build of several gigabytes for a machine without a GPU.
TORCH := torch==2.13.0 torchvision==0.28.0

.PHONY: demo test lint clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) $(TORCH) --editable '.[test]'
	touch $@

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/restore denoise tests/images/noisy.png -o demo/denoised.png --overwrite
	@echo "before: tests/images/noisy.png"
	@echo "after:  demo/denoised.png"

test: $(VENV)/.tested
	$(BIN)/python -m pytest

lint: $(VENV)/.tested
	$(BIN)/ruff check restorer tests
	$(BIN)/ruff format --check restorer tests
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info
