# The book and its tests, each with one command. GNU make 3.81 (macOS) is enough.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# For a torch without CUDA: make book TORCH_INDEX=<PyTorch's CPU index, see README.md>
TORCH_INDEX ?=
PORT ?= 8000
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install book serve test notebooks colab clean

help:  ## show this list
	@$(PYTHON) -c 'import re; [print(f"make {m[1]:<10} {m[2]}") for m in map(re.compile(r"(\w+):.*## (.*)").match, open("Makefile")) if m]'

install: $(INSTALLED)  ## make .venv with everything that the book and the tests need

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	@touch $@

book: $(INSTALLED)  ## build the book
	@$(BIN)/python tools/test.py book

serve: $(INSTALLED)  ## serve the built book on this machine alone
	@test -f _build/html/book/index.html || { echo 'no book yet: make book'; exit 1; }
	@echo 'The book: http://127.0.0.1:$(PORT)/book/index.html (Ctrl-C stops)'
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: $(INSTALLED)  ## run everything that CI runs
	@$(BIN)/python tools/test.py

notebooks: $(INSTALLED)  ## run every chapter in full on the real MNIST and store its outputs
	@$(BIN)/python tools/run_notebooks.py

colab: $(INSTALLED)  ## run one chapter as Colab would: a new environment, that notebook alone
	@$(BIN)/python tools/colab_check.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

clean:  ## remove what was built (.venv stays)
	rm -rf _build book/figures dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
