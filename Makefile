# Every target bootstraps what it needs: Python 3.11 or newer, make and the package registry are enough.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
BIN := .venv/bin
STAMP := .venv/.synced

.PHONY: demo test check bench format clean

demo: $(STAMP)
	$(BIN)/reshelve demo --report report.html

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m bench

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .uv .reshelve .pytest_cache .ruff_cache .hypothesis report.html

# uv lives in an environment of its own, so that the locked one holds exactly what is locked.
$(STAMP): pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed."; exit 1; }
	@test -x .uv/bin/uv || { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv; }
	.uv/bin/uv sync --locked --quiet --python $(PYTHON)
	@touch $(STAMP)
