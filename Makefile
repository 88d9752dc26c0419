# make demo    a virtual environment, the program in it, one photograph restored
# make test    the same with the test tools, and the tests
# make test-avx2       the tests that compare numbers, with the instructions of an older processor
# make fuzz    damaged inputs, for ten minutes or for MINUTES=N: half of the time from random seeds, and half of it
#              guided by coverage where atheris installs, which has no build for some systems and versions of Python
# make test-hub-min    the tests of the Hub with the oldest client that is allowed, in an environment of its own
# PIP_ARGS passes options to pip, for instance an index with CPU builds of PyTorch.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

# The pair that is tested; left to itself, pip may fetch a CUDA build of several gigabytes for a machine without a GPU.
TORCH := torch==2.13.0 torchvision==0.28.0

.PHONY: demo test test-avx2 fuzz test-hub-min lint clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) $(TORCH) --editable '.[test]'
	touch $@

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/restore denoise tests/images/high_iso.jpg -o demo/denoised.png --overwrite
	@echo "before: tests/images/high_iso.jpg"
	@echo "after:  demo/denoised.png"

test: $(VENV)/.tested
	$(BIN)/python -m pytest -n auto --dist worksteal

# The instructions of a processor without AVX512, for the tests that compare numbers; it has no effect elsewhere.
test-avx2: $(VENV)/.tested
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
		$(BIN)/python -m pytest -n auto --dist worksteal -m numbers

MINUTES ?= 10

fuzz: $(VENV)/.tested
	-$(PIP) atheris
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES) --guided

# The environment for the lowest client: without diffusers, which asks for a newer one.
HUB_MIN := $(VENV)-hub-min

$(HUB_MIN)/.tested: pyproject.toml
	$(PYTHON) -m venv $(HUB_MIN)
	$(HUB_MIN)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		$(TORCH) 'huggingface-hub==1.20.0' 'pytest>=8' --editable .
	touch $@

test-hub-min: $(HUB_MIN)/.tested
	$(HUB_MIN)/bin/python -m pytest tests/models/hub tests/cli/test_cli_models.py tests/models/test_hostile.py

lint: $(VENV)/.tested
	$(BIN)/ruff check restorer tests setup.py
	$(BIN)/ruff format --check restorer tests setup.py
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(HUB_MIN) demo build dist *.egg-info
