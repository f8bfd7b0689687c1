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

# A second environment for the newest Flower, what it wants newer than constraints.txt has, and the
# tests that run in it.
NEWEST := .venv-newest
NEWER := flwr|certifi|uv
FLOWER_TESTS := $(addprefix tests/,integration/test_engine.py integration/test_flower_sessions.py \
	integration/test_training.py integration/test_transports.py acceptance/test_work.py)

.PHONY: install demo test test-newest check fuzz lint bench leaderboard deployment dist docs protos clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/fedunlearn demo --out out

test: install lint
	$(BIN)/python -m pytest $(SPREAD)

# What is quick to know: linters, types, layers, and the unit tests that are not marked as slow.
check: install lint
	$(BIN)/python -m pytest $(SPREAD) -m "not slow" tests/unit

# New random examples for every law, until one fails or the time is up; prints the seeds.
fuzz: install
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The leaderboard of docs/: resumes where it was interrupted. BOARD_OPTIONS="--quick" for the small one.
leaderboard: install
	$(BIN)/fedunlearn leaderboard simulations/leaderboard.toml $(BOARD_OPTIONS) --out leaderboard
	cp leaderboard/leaderboard.md leaderboard/leaderboard.json docs/

# The tests that Flower runs in, with the newest Flower that pyproject.toml allows; not part of CI.
test-newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	grep -vE '^($(NEWER))==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		-c $(NEWEST)/constraints.txt -e '.[dev]' 'flwr[simulation]'
	$(NEWEST)/bin/python -m pytest $(SPREAD) $(FLOWER_TESTS)

bench: install $(PEERS)
	$(BIN)/python -m tests.benchmarks.run --out bench.json

deployment: install
	$(BIN)/python simulations/deployment/deploy.py --out out-deployment

# The documentation site, in site/; a link, an anchor or a name that is not there fails the build. The
# variable silences a notice of mkdocs-material about another program.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(PEERS): tests/benchmarks/requirements.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

protos: install
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. \
		protos/fedunlearn/rpc/v1/session.proto protos/fedunlearn/rpc/v1/deletion.proto

# Wheel and sdist, built twice and compared; tried in an empty environment; with their SBOM.
dist: install
	$(BIN)/python -m tests.build_dist --out dist

clean:
	rm -rf $(VENV) out out-deployment dist site bench.json
