# One command each: `make check` (format, lint, types, layers, unit tests, the agent's own), `make test` (everything this machine can run), `make bench`.
.PHONY: check test lab bench fuzz vm clean

python = .venv/bin/python
go = $(CURDIR)/.venv/bin/go
goenv = env CGO_ENABLED=0 GOPROXY=off GOTOOLCHAIN=local GOFLAGS=-mod=mod

# As in CI, a skip for want of something is a failure: what is missing is installed by packaging/bootstrap.py.
export BANGER_REQUIRE = all

.venv/built-dev: pyproject.toml hatch_build.py packaging/bootstrap.py $(shell find agent -name '*.go')
	python3 packaging/bootstrap.py dev

check: .venv/built-dev
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy
	.venv/bin/lint-imports --no-cache
	cd agent && test -z "$$($$($(go) env GOROOT)/bin/gofmt -l . | tee /dev/stderr)"
	cd agent && $(goenv) $(go) vet ./...
	cd agent && $(goenv) $(go) test ./...
	cd agent && $(goenv) GOARCH=amd64 $(go) build -o /dev/null . && $(goenv) GOARCH=arm64 $(go) build -o /dev/null .
	$(python) -m pytest -q tests/unit

test: check
	$(python) -m pytest -q tests --ignore=tests/unit

# `make lab` runs all of the lab's tests in a lab machine of their own; `make lab T=tests/lab/inside/test_firecracker.py` those in one that is kept up.
lab: .venv/built-dev
	$(python) -m $(if $(T),tests.lab $(T),pytest -q tests/lab)

bench: .venv/built-dev
	$(python) -m bench

# For a night: whatever comes from outside, tampered with, by the ten thousand of each kind.
fuzz: .venv/built-dev
	env BANGER_FUZZ_CASES=10000 $(python) -m pytest -q --timeout=0 tests/contract/test_rootfs_fuzz.py tests/contract/test_arrivals_fuzz.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis src/banger/agent
