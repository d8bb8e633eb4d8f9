# Every target sets up what it needs first; set-up does only what is missing.
.PHONY: setup demo test check bench docs lock
.DEFAULT_GOAL := demo
BIN := .venv/bin
# Every worker of the suite would rewrite every test module again.
unexport PYTHONDONTWRITEBYTECODE

setup:
	@scripts/setup.sh dev

demo:                  ## set up what runs, bring everything up, run the main job in a cell, explain what happened
	@scripts/setup.sh runtime
	@$(BIN)/python examples/demo/demo.py

test: check            ## checks, then the whole suite
	@$(BIN)/python -m pytest -n 4 --dist loadgroup

check: setup           ## lint, types, layers, sizes
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/python scripts/ratchet.py

bench: setup           ## figures; make bench JSON=out.json writes them too
	@$(BIN)/python -m bench $(if $(JSON),--json $(JSON))

docs: setup            ## write docs/reference from the code
	@$(BIN)/python scripts/reference.py

lock:                  ## lock the dependencies anew
	@for kind in runtime dev; do \
	  uv pip compile pyproject.toml --extra build $$([ $$kind = dev ] && echo --extra dev) --generate-hashes --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --no-header -q -o requirements/$$kind.txt; done
