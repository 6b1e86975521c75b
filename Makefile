# Two commands: `make run` sets up, grows a small zoo, measures it and serves it; `make test` checks everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000

BIN := .venv/bin
INSTALLED := .venv/.installed
GROWN := .zoo/.grown
SERVED := --zoo .zoo $(addprefix --zoo ,$(wildcard zoo/pretrained))

.PHONY: run test faults clean

run: $(INSTALLED) $(GROWN)
	$(BIN)/zoo-serve $(SERVED) --port $(PORT)

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# What takes minutes: attacks and accidents at full size. One at a time, so that they do not measure each other.
faults: $(INSTALLED)
	$(BIN)/pytest -m faults

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serve,train,dev]'
	touch $@

# --resume: a growth that was interrupted goes on where it stopped.
$(GROWN): | $(INSTALLED)
	$(BIN)/zoo-train digits --data digits --zoo .zoo --resume
	$(BIN)/zoo-train digits-elastic --data digits --zoo .zoo --resume
	$(BIN)/zoo calibrate $(SERVED) --rounds 20
	$(BIN)/zoo calibrate $(SERVED) --data digits
	touch $@

clean:
	rm -rf .venv .zoo
