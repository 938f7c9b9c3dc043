# What a fresh checkout can do. Every target sets itself up; nothing is installed twice.
BIN := .venv/bin
# Two files at a time: tests that wait for Ray, MLflow or a browser leave the machine to the others. Three at a time take
# longer on two cores, though the slow ones wait for a third of their time.
BOTH := -n 2 --dist loadfile

.PHONY: help quickstart serve stack setup system-packages test test-slow test-all lint docs format bench bench-quality bench-more profiles book results simulate fuzz chaos clean

help:
	@echo "make quickstart  install into .venv, run the quickstart sweep on real data, show the result"
	@echo "make serve       install into .venv, serve the sweeps of this folder: a page, and an admin token at its first start"
	@echo "make stack       the services of docker/compose.yaml as processes of this machine, until ^C"
	@echo "make test        the tests (make test-all: the slow ones too)"
	@echo "make lint        ruff, mypy, the import contracts, and linters for docker/ (make format: mend the layout)"
	@echo "make docs        the site of docs/, into build/site; a broken link or a page that is nowhere is an error"
	@echo "make bench       a benchmark for each target, against its peer (some 115 minutes); writes benchmarks/results/ and docs/benchmarks.md"
	@echo "make bench-quality   the time to quality, ten seeds of three tasks (some 25 minutes; MINUTES=10: begins nothing later)"
	@echo "make bench-more  what no target asks for: lanes, health, storage, resume, faults, the service (some 45 minutes)"
	@echo "make results     the ready sweeps that test a claim (some fifteen minutes); writes docs/results/"
	@echo "make simulate    simulated sweeps with faults, 1,000 of them (N=10000: as many as you like)"
	@echo "make fuzz        damaged configs and command lines, 1,000 kinds (N=12000: as many as you like)"
	@echo "make chaos       real sweeps on real Ray, PostgreSQL and MLflow with a killer about, 10 kills (N=200: more)"
	@echo "make clean       remove caches and build outputs; .venv and .swathe stay"

quickstart: setup
	@scripts/quickstart.sh

serve: setup
	@$(BIN)/swathe serve

stack: setup system-packages
	@$(BIN)/python -m tests.docker

setup:
	@scripts/setup

system-packages:
	@scripts/install-system-packages

test: setup system-packages
	$(BIN)/python -m pytest -m "not slow" $(BOTH)

test-slow: setup system-packages
	$(BIN)/python -m pytest -m slow $(BOTH)

test-all: test test-slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck docker/entrypoint docker/make-secrets docker/slurm.sbatch scripts/setup scripts/*-packages scripts/*.sh .ci/run
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml docker/compose.gpu.yaml
	$(BIN)/kubernetes-validate --strict --no-warn docker/kuberay.yaml

docs: setup
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs/site -d build/doctrees docs build/site
	@echo "The site is at build/site/index.html."

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A script for each row of the book (docs/benchmarks.md), with how long it takes on 2 cores.
bench: setup
	@echo "The benchmark book: some 115 minutes on 2 cores, which should do nothing else."
	$(BIN)/python benchmarks/starting.py           # 3 minutes
	$(BIN)/python benchmarks/recording.py          # 6
	$(BIN)/python benchmarks/raw.py                # 2
	$(BIN)/python benchmarks/fashion_mnist.py      # 10
	$(BIN)/python benchmarks/overhead.py           # 8
	$(BIN)/python benchmarks/sleeping.py           # 12
	$(BIN)/python benchmarks/sizes.py              # 14
	$(BIN)/python benchmarks/others/compare.py     # 22
	$(BIN)/python benchmarks/own_models.py         # 8
	$(BIN)/python benchmarks/digits.py             # 28
	$(MAKE) book

bench-quality: setup
	$(BIN)/python benchmarks/quality.py $(if $(MINUTES),--minutes $(MINUTES))
	$(MAKE) book

bench-more: setup
	$(BIN)/python benchmarks/pruners.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/lanes.py
	$(BIN)/python benchmarks/gan.py
	$(BIN)/python benchmarks/population.py
	$(BIN)/python benchmarks/health.py
	$(BIN)/python benchmarks/checkpoints.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/page.py
	$(MAKE) book

# Where the driver's time goes while a target is missed: docs/profiles/.
profiles: setup
	$(BIN)/python benchmarks/profile_run.py --warm lanes.compile=always digits launch benchmarks/digits.yaml --quiet
	$(BIN)/python benchmarks/profile_run.py --warm lanes.compile=always fashion_mnist launch benchmarks/fashion_mnist.yaml --quiet
	$(BIN)/python benchmarks/profile_run.py noop launch benchmarks/noop.yaml --quiet sweep.trials=2000
	$(MAKE) book

book: setup
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/book.py

results: setup
	$(BIN)/python -m scripts.results

# How many simulated sweeps, and how many kills in real ones.
KILLS := $(or $(N),10)
N ?= 1000

fuzz: setup
	SWATHE_FUZZ_KINDS=$(N) $(BIN)/python -m pytest -m slow tests/fuzz

simulate: setup
	$(BIN)/python -m tests.simulation $(N)

chaos: setup system-packages
	$(BIN)/python -m tests.chaos $(KILLS)

clean:
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
