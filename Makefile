# `make demo` and `make test` do all their set-up; the steps are in scripts/.
#   PYTHON=python3.12   the Python that makes the virtual environment (3.11 or newer)
#   VENV=.venv          where that environment is
#   QT=pyqt5            the Qt binding (pyqt6 unless said otherwise)
#   ARGS="-k geometry"  what `make test` passes on to pytest

VENV ?= .venv
QT ?= pyqt6
ARGS ?=
export PYTHON

.PHONY: help demo test test-qt5 test-pythons first-use lint docs coverage format bench clean

help:
	@echo "make demo      score a real scan and show it in napari (without a display: files in demo_out/)"
	@echo "make test      run every test"
	@echo "make test-qt5  run the GUI tests on PyQt5, in an environment of their own"
	@echo "make test-pythons  install the wheel on each Python that is claimed, and try it (slow)"
	@echo "make first-use  install the wheel, score the sample in napari with real clicks, on both bindings"
	@echo "make lint      ruff, mypy, import-linter, codespell"
	@echo "make docs      the documentation site, in site/"
	@echo "make coverage  run every test, and say which lines none of them runs (htmlcov/)"
	@echo "make format    let ruff put the code in shape"
	@echo "make bench     what scoring and training cost on this machine, as ratios (20 minutes)"
	@echo "make clean     remove the environments and what was built"

demo:
	scripts/demo.sh "$(VENV)" "$(QT)"

test:
	scripts/test.sh "$(VENV)" "$(QT)" $(ARGS)

test-qt5:
	scripts/test.sh .venv-qt5 pyqt5 tests/gui $(ARGS)

test-pythons:
	scripts/test_pythons.sh

first-use:
	scripts/setup.sh --gui "$(VENV)" "$(QT),test,dev"
	"$(VENV)/bin/python" scripts/first_use.py $(ARGS)

lint:
	scripts/setup.sh "$(VENV)" "$(QT),test,dev"
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/lint-imports" --no-logo
	"$(VENV)/bin/codespell"
	"$(VENV)/bin/mypy"

docs:
	scripts/setup.sh "$(VENV)" "$(QT),test,dev"
	NO_MKDOCS_2_WARNING=1 "$(VENV)/bin/mkdocs" build --strict

coverage:
	scripts/test.sh "$(VENV)" "$(QT)" --cov --cov-report=term --cov-report=html $(ARGS)

format:
	scripts/setup.sh "$(VENV)" "$(QT),test,dev"
	"$(VENV)/bin/ruff" check --fix .
	"$(VENV)/bin/ruff" format .

bench:
	scripts/setup.sh "$(VENV)" "$(QT)"
	mkdir -p bench_out
	"$(VENV)/bin/python" benchmarks/bench.py --json bench_out/speed.json --plot bench_out/speed.png $(ARGS)

clean:
	rm -rf "$(VENV)" .venv-qt5 demo_out bench_out site htmlcov .coverage dist build .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	find napari_spatial_ar tests -name __pycache__ -type d -prune -exec rm -rf {} +
