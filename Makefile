# From a bare clone, on a machine with Python 3.11, 3.12 or 3.13 and nothing else:
#
#   make demo     run the main job on the demo model; show rows, speed and accuracy
#   make test     run every test that needs no GPU
#
# and, while working on the code:
#
#   make check    linter, formatter, types, import layers
#   make docs     write docs/cli.md anew from the command's own help
#   make bench    measure the engine beside others (benchmarks/peers/install.sh installs them);
#                 110 minutes on a quiet machine. BENCH=mini (2b, job): only this part
#   make chaos    kill, stop and cut off jobs at random for two hours; docs/reliability.md says how.
#                 ARGS="commit --trials 100" or ARGS="--scale 0.05" for less
#   make clean    remove .venv, caches and out/
#
# Settings:
#   PYTHON=python3.12   the interpreter that .venv is made with
#   ARGS="-k commit"    more arguments for pytest; for make bench: ARGS="--turns 2"
#   CONSTRAINTS=        the newest packages that pyproject.toml allows, not constraints.txt's
# pip reads its own variables: without a GPU, PIP_EXTRA_INDEX_URL with an index of CPU builds of
# torch saves some gigabytes of CUDA libraries.

export PYTHON
export CONSTRAINTS ?= constraints.txt
bin := .venv/bin

.PHONY: help demo test check docs bench chaos clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo:
	@.ci/venv
	@echo "[3/3] running the demo jobs"
	@$(bin)/gemmaray demo

test:
	@.ci/venv dev
	@echo "[3/3] running the tests"
	@$(bin)/pytest -m "not gpu" $(ARGS)

check:
	@.ci/venv dev
	@echo "[3/3] checking lint, format, types and import layers"
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/lint-imports

docs:
	@.ci/venv dev
	@echo "[3/3] writing docs/cli.md"
	@$(bin)/typer cluster.commands utils docs --name gemmaray --output docs/cli.md

bench:
	@.ci/venv
	@echo "[3/3] measuring"
	@$(bin)/python benchmarks/bench.py $(BENCH) $(ARGS)

chaos:
	@.ci/venv dev
	@echo "[3/3] delivering faults"
	@$(bin)/python -m tests.faults.chaos --out out/chaos.jsonl $(ARGS)

clean:
	rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
