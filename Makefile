# The book and its tests, each with one command. GNU make 3.81 (macOS) is enough.
SHELL := bash
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
# For a torch without CUDA: make book TORCH_INDEX=<PyTorch's CPU index>
TORCH_INDEX ?=
PORT ?= 8000
# Tests and notebooks run in so many processes, each with one thread.
JOBS ?= 2
# Not empty: count the lines of the package that the tests reach, which takes half as long again.
COVERAGE ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
# A step prints its seconds. The network is cut off, and the user's settings are not read.
STEP = TIMEFORMAT='== $@: %0R s'; time PYTHONPATH="$(CURDIR)/tools/no_network" \
	JUPYTER_PLATFORM_DIRS=1 IPYTHONDIR="$(CURDIR)/_build/ipython" MATPLOTLIBRC=/dev/null \
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0
RUN = @$(STEP) $(BIN)/python
NBVAL := -p tools.twice -p no:cacheprovider --nbval-lax --nbval-current-env \
	--nbval-cell-timeout=300 --nbval-sanitize-with=tools/nbval_sanitize.cfg

.PHONY: help install lint unit notebooks book pages browser test quick serve outputs colab print release clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## make .venv with everything that the book and the tests need

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	@touch $@

lint: $(INSTALLED)  ## faults seen without running: ruff, mypy, and whether book and package agree
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) tools/sync_book.py
	$(RUN) tools/exercises.py
	$(RUN) tools/minutes.py

unit: $(INSTALLED)  ## the tests; with COVERAGE=1 also the lines that they reach
	$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10 \
		$(if $(COVERAGE),--cov --cov-report=term)

quick: $(INSTALLED)  ## the tests without the long ones
	$(RUN) -m pytest -n $(JOBS) --dist loadfile -m 'not long' --durations=10

notebooks: $(INSTALLED)  ## every chapter, every cell twice, on scikit-learn's digits, quick budget
	@$(STEP) VIT_TUTORIAL_BUDGET=quick VIT_TUTORIAL_DATA="$(CURDIR)/_build/none" \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(NBVAL) --durations=12 book/*.ipynb

book: $(INSTALLED)  ## build the book; a warning is an error
	@rm -rf _build
	@$(STEP) $(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@test -f _build/html/book/index.html
	@for toc in translations/*/_toc.yml; do test -f "$$toc" || continue; folder=$$(dirname "$$toc"); \
		$(BIN)/jupyter-book build . --toc "$$toc" --path-output "_build/$$folder" -W -n --keep-going \
			--quiet >/dev/null && mkdir -p _build/html/translations && \
		cp -R "_build/$$folder/_build/html/$$folder" _build/html/translations/ && \
		cp -R "_build/$$folder/_build/html/_images/." _build/html/_images/ && \
		cp -R "_build/$$folder/_build/html/_sources/." _build/html/_sources/ && \
		cp "_build/$$folder/_build/html/_static/translations.js" _build/html/_static/ && \
		echo "in another language: _build/html/$$folder" || exit 1; done
	@echo 'The book: _build/html/book/index.html (open it in a browser, or: make serve)'

pages: $(INSTALLED)  ## the built pages: links, and in a browser, where there is one, axe and widths
	$(RUN) tools/check_pages.py

browser: $(INSTALLED)  ## install a Chromium for `make pages`, with what it needs of the system
	@$(BIN)/playwright install --with-deps chromium

test: lint unit notebooks book pages  ## everything that CI runs
	@echo 'test: all steps passed'

serve: $(INSTALLED)  ## serve the built book on this machine alone
	@test -f _build/html/book/index.html || { echo 'no book yet: make book'; exit 1; }
	@echo 'The book: http://127.0.0.1:$(PORT)/book/index.html (Ctrl-C stops)'
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

outputs: $(INSTALLED)  ## run chapters in full on the real MNIST and store their outputs
	@$(BIN)/python tools/run_notebooks.py $(CHAPTERS)

colab: $(INSTALLED)  ## run chapters as Colab does, each alone: CHAPTERS="05", or all
	@$(BIN)/python tools/colab_check.py $(CHAPTERS) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

print: $(INSTALLED)  ## the built book as one PDF, in dist/
	@$(BIN)/python tools/print_book.py

release: book print  ## wheel, source, notebooks and PDF, in dist/
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build -d dist
	@$(BIN)/python tools/publish.py _build/notebooks
	@cd _build/notebooks && $(CURDIR)/$(BIN)/python -m zipfile -c ../../dist/notebooks.zip book README.md
	@ls -l dist

clean:  ## remove what was built (.venv stays)
	rm -rf _build book/figures dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
