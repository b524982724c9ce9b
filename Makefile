# `make demo` and `make test` are all that a newcomer needs; each installs what it misses into .venv.
PYTHON ?= python3
BIN := .venv/bin
BENCH := $(BIN)/python -m tokfilter.benchmarks
INSTALLED := .venv/.installed
PYTHON310 ?= $(shell .ci/python 3.10)

# What keeps mypy from reading the wheel tensorrt-stubs: parameters called "in", a default before none, two names of types.
STUBS := 's/\bin: list\[/in_: list[/; s/channel_axis: int\) -> IScaleLayer/channel_axis: int = -1) -> IScaleLayer/; s/^(bool|float|int|str): /\1_: /'

.PHONY: install demo test test-py310 test-lowest check format plugin test-gpu gpu-proof triton tensorrt arm64 campaign bench install-check lock release clean
# LOCKED=1 installs what .ci/requirements.txt lists, and pip compares the hash of every file.
install: $(INSTALLED)

$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(LOCKED),$(BIN)/pip install --quiet --require-hashes --requirement .ci/requirements.txt)
	$(BIN)/pip install --quiet $(if $(LOCKED),--no-deps --no-build-isolation,--constraint .ci/constraints.txt) --editable '.[dev]'
	mkdir -p .typing && ln -sfn .. .typing/tokfilter
	$(BIN)/pip install --quiet --no-deps --upgrade --target .typing tensorrt-stubs==10.13.0.35.1
	sed -i -E $(STUBS) .typing/tensorrt_bindings/tensorrt.pyi
	touch $@

demo: install
	$(BIN)/tokfilter demo --output demo

test: install
	$(BIN)/python -m pytest

# The edge user's interpreter: the wheel, without torch, on Python 3.10, and the tests that need no torch.
test-py310: install
	@python=$(PYTHON310); if [ -n "$$python" ]; then .ci/edge "$$python"; \
	else echo "No Python 3.10 here (pyenv or PATH): the edge bundle is not tried on it."; fi

# The oldest packages that pyproject.toml allows, torch included (6 GB). Not warnings as errors: they are of new packages below old ones.
test-lowest: install
	$(PYTHON) -m venv build/lowest && build/lowest/bin/pip install --quiet uv==0.13.9
	build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	PYTHONPATH=$(CURDIR)/.typing build/lowest/bin/python -m pytest -W default -o cache_dir=build/cache-lowest \
	  tests/artifacts tests/vit tests/train tests/export tests/commands

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files '*.cu' '*.cuh' '*.h' '*.hpp' '*.cpp' '*.c' | xargs -r $(BIN)/clang-format --dry-run --Werror
	.ci/audit

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cu' '*.cuh' '*.h' '*.hpp' '*.cpp' '*.c' | xargs -r $(BIN)/clang-format -i

plugin: install
	$(BIN)/tokfilter plugin build --fetch-headers

test-gpu: install plugin
	$(BIN)/python -m pytest -m gpu
	$(BENCH) micro -o gpu-report.json

# Claims about a GPU on this one, the most valuable first, as many as fit into 8 minutes: builds, compares, then measures. docs/gpu.md; more: PROOF="--list".
gpu-proof: install
	$(BENCH) gpu-proof $(PROOF)

# The model repository in a real tritonserver, on the CPU: 55 MB of NVIDIA's wheel, none of its dependencies.
triton: install
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/triton nvidia-pytriton==0.7.0
	$(BIN)/python -m pytest tests/export/serving/test_triton_server.py

# Real TensorRT libraries, without a GPU: 8.6.0 (819 MB, Python 3.10) and the lean runtimes of 10.15 to 11.4 (46 MB each).
# VERSIONS="10.15 11.4" takes those only. TENSORRT_INCLUDE_DIR names headers of 8.6: the plugin's tests with 8.6.0 need them.
tensorrt: install
	$(BIN)/python tests/tools/real_tensorrt.py install $(VERSIONS)
	if [ -f build/tensorrt/8.6.0/installed ]; then export TOKFILTER_TENSORRT8=$(CURDIR)/build/tensorrt/8.6.0; fi; \
	$(BIN)/python -m pytest tests/trt tests/kernels/test_real_tensorrt_8.py

# arm64 as far as an emulator goes, without root: .ci/arm64 says what it needs. STEPS="bundle" takes a part; docs/arm64.md.
arm64: install
	.ci/arm64 $(STEPS)

# Hostile input for every reader, kills, hostile load: an hour on two cores, the same inputs for the same seed. docs/reliability.md;
# one input again: ARGS="--only bundle --case 7". It measures processor time, so other work may run beside it.
MINUTES ?= 60
SEED ?= 0
campaign: install
	nice $(BIN)/python tests/campaign --minutes $(MINUTES) --seed $(SEED) $(ARGS)
	$(BENCH) readme

# Hours on two cores. Writes benchmarks/results, and from it the tables of README and docs.
bench: install
	$(BENCH) study build/study --reducers --seeds 0,1,2
	for data in fashion-mnist digits-in-scenes; do cp build/study/$$data.json benchmarks/results/reducers-$$data.json; done
	$(BENCH) study build/study --data fashion-mnist --seeds 0,1,2,3,4 --ablation-seeds 0 --longer
	$(BENCH) study build/study --data digits-in-scenes --seeds 0,1,2 --ablation-seeds 0 --longer
	for data in fashion-mnist digits-in-scenes; do cp build/study/$$data.json benchmarks/results/accuracy-$$data.json; done
	$(BENCH) label-methods build/study/fashion-mnist/seed-0/backbone.pt build/study/fashion-mnist/data \
		--name fashion-mnist -o benchmarks/results/label_methods_fashion.json
	$(BENCH) label-methods build/study/digits-in-scenes/seed-0/backbone.pt build/study/digits-in-scenes/seed-0/data \
		--name digits-in-scenes -o benchmarks/results/label_methods_digits.json
	$(BENCH) label-speed --model deit_tiny_patch16_224 --model digits-in-scenes --model fashion-mnist
	$(BENCH) trained-vit build/trained-vit
	$(BENCH) runtime-figures -o benchmarks/results/runtime.json
	$(BENCH) export-zoo
	$(BENCH) kernel-figures
	$(BENCH) readme

# Is there a release of every dependency for each Python? Downloads metadata, installs nothing.
install-check:
	.ci/install-check

# After a change of pyproject.toml or .ci/constraints.txt: needs a network, a minute.
lock:
	.ci/lock

release: install
	.ci/release

clean:
	rm -rf .venv .typing build dist demo *.egg-info
