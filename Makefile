# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Commands start hundreds of processes: without compiled files each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check lint bench bench-segmentation samples pictures clean

demo: .venv/base          ## train on embedded real data with gaps, see what does best, keep it
	$(BIN)/voxgap demo --out demo

test: .venv/dev           ## one representative case per contract, three of many cases of a test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

check: lint .venv/dev     ## the full matrices, fuzzing, kill and load tests
	$(BIN)/python -m pytest -m "" --durations=10

lint: .venv/dev           ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev .venv-peers/installed   ## each headline number against its peers, in one run
	$(BIN)/python benchmarks/run.py

bench-segmentation: .venv/dev .venv-peers/installed   ## hippocampus, five folds, beside MONAI: make ... DATA=hippocampus/
	$(BIN)/python benchmarks/segmentation.py segmentation.jsonl $(DATA)

pictures: .venv/dev       ## the pictures of README and docs
	$(BIN)/python scripts/make_pictures.py

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "voxgap needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/base: .venv/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[train]'
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev,torch]'
	touch $@

.venv-peers/installed: benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-peers demo dist build
