PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers

# One thread a process: tests and simulations run several processes side by side.
export OMP_NUM_THREADS ?= 1

# How many processes run tests. Files are taken in order: those that take longest come first.
TEST_PROCESSES ?= 2
SPREAD = -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# How long 'make fuzz' goes on, and where its tests are.
FUZZ_SECONDS ?= 3600
FUZZ_TESTS ?= tests/property tests/unit

.PHONY: install demo test check fuzz lint bench deployment protos clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/fedunlearn demo --out out

test: install lint
	$(BIN)/python -m pytest $(SPREAD)

# What is quick to know: linters, types, layers, unit tests.
check: install lint
	$(BIN)/python -m pytest $(SPREAD) tests/unit

# New random examples for every law, until one fails or the time is up; prints the seeds.
fuzz: install
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: install $(PEERS)
	$(BIN)/python -m tests.benchmarks.run --out bench.json

deployment: install
	$(BIN)/python simulations/deployment/deploy.py --out out-deployment

$(PEERS): tests/benchmarks/requirements.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

protos: install
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. \
		protos/fedunlearn/rpc/v1/session.proto protos/fedunlearn/rpc/v1/deletion.proto

clean:
	rm -rf $(VENV) out out-deployment bench.json
