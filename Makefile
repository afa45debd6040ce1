# make demo   the whole system on simulated movies; stops by itself
# make test   what CI runs: lint, types, import contracts, tests
# make check  the first three of these; make test-slow the long tests; make bench the benchmarks
# make faults the fault matrix, a few runs each; FULL=1: as many as a release requires, into docs/fault-matrix.md

PYTHON ?= python3
# test processes at a time; files stay together, because their expensive movies are made once for each file
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-slow faults check bench clean

install: $(INSTALLED)

# torch first and pinned, so that nothing later pulls in a different build of it
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/streamer demo

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/lint-imports --no-cache importlinter-runtime.toml

test: check
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not slow and not faults"

test-slow: $(INSTALLED)
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "slow and not faults"

faults: $(INSTALLED)
	mkdir -p build/faults && rm -f build/faults/rows.jsonl
	FAULTS_FULL=$(if $(FULL),1,0) $(BIN)/pytest -m faults tests/faults; status=$$?; \
	$(BIN)/python -m tests.faults.matrix build/faults/rows.jsonl $(if $(FULL),docs,build/faults)/fault-matrix.md; exit $$status

bench: $(INSTALLED)
	for file in benchmarks/motion.py benchmarks/local_motion.py benchmarks/eer.py benchmarks/decoding.py benchmarks/super_resolution.py benchmarks/denoise.py benchmarks/guard.py benchmarks/networks.py benchmarks/session_model.py benchmarks/session_load.py benchmarks/pipeline.py; do echo "== $$file"; PYTHONPATH=. $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info
