# Everything a fresh machine needs is made here: an environment, the packages, the demo's weights.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WEIGHTS = weights/SmolLM2-135M-Instruct
export JAX_PLATFORMS ?= cpu
# Memory in large pages, as the command takes it: the suite's processes are not that command.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test check test-newest bench clean

demo: $(VENV)/demo.stamp  ## DPO on real weights and the project's own preference pairs
	$(BIN)/python configs/quickstart/fetch_weights.py --output $(WEIGHTS)
	$(BIN)/alignax train configs/quickstart.py

test: $(VENV)/dev.stamp check  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/dev.stamp  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/dev.stamp  ## the same update by this library and by others, into benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks train --against trl tunix easydel raw --rounds 3

test-newest:  ## the suite on the newest Python here, with the newest JAX for it
	@newest=$$(for p in python3.14 python3.13 python3.12 $$HOME/.pyenv/versions/3.1[234].*/bin/python; do \
	  $$p -c 'import sys; print(sys.version_info[1], sys.executable)' 2>/dev/null; done | sort -n | tail -1 | cut -d' ' -f2); \
	test -n "$$newest" || { echo "expected a Python newer than 3.11; got none. Install one."; exit 1; }; \
	echo "testing on $$newest"; \
	$(MAKE) VENV=.venv-newest PYTHON=$$newest .venv-newest/dev.stamp && \
	.venv-newest/bin/pip install --quiet --upgrade 'jax[tpu]' jaxlib && \
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "alignax needs Python >= 3.11; got " + sys.version'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[gguf]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .cache runs
