VENV ?= .venv
BIN := $(VENV)/bin
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1

.PHONY: help demo test test-all lint format clean

help:
	@echo "make demo      the whole main job on the built-in shapes, in demo/ (minutes)"
	@echo "make test      lint and the tests (minutes)"
	@echo "make test-all  the same with the slow tests"
	@echo "make format    rewrite the sources as ruff formats them"

$(VENV)/.installed: pyproject.toml constraints.txt infra/venv.sh
	@sh infra/venv.sh $(VENV)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@sh infra/venv.sh $(VENV) dev,bench
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/crossloom demo --out demo

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: lint
	@$(BIN)/pytest -m "not slow"

test-all: lint
	@$(BIN)/pytest

clean:
	rm -rf demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
