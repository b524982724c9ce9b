# `make demo` and `make test` are all that a newcomer needs; each installs what it misses into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test check format plugin test-gpu bench clean
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	mkdir -p .typing && ln -sfn .. .typing/tokfilter
	touch $@

demo: install
	$(BIN)/tokfilter demo --output demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files '*.cu' '*.cuh' '*.h' '*.cpp' | xargs -r $(BIN)/clang-format --dry-run --Werror

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cu' '*.cuh' '*.h' '*.cpp' | xargs -r $(BIN)/clang-format -i

plugin: install
	$(BIN)/tokfilter plugin build

test-gpu: install
	$(BIN)/python -m pytest -m gpu

bench: install
	$(BIN)/python -m tokfilter.benchmarks.deit

clean:
	rm -rf .venv .typing build demo *.egg-info
