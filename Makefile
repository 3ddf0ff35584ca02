# `make demo` and `make test` do all the set-up on a machine that has Rust, a C++
# compiler and Python 3 with pip. Afterwards plain cargo commands work too.

.PHONY: help demo test test-libtorch bench bench-compare gallery-pytorch doc ci libtorch tools
.PHONY: example-python test-python graphs sequences valgrind miri fuzz fuzz-python mutants accuracy formula-cost

help:
	@echo "make demo      build, and run the Log1pExp example"
	@echo "make test      build, and run every test and doctest"
	@echo "make test-libtorch VERSION=2.12 (or 2.11)"
	@echo "               the tests with that libtorch, which it fetches"
	@echo "make bench     build with optimisation, and run the benchmarks"
	@echo "make bench-compare  a Function beside C++'s and Python's (fetches PyTorch)"
	@echo "make example-python  ops in Rust train a network in Python (fetches PyTorch)"
	@echo "make test-python  Functions as ops in Python (fetches PyTorch)"
	@echo "make gallery-pytorch  planted faults under PyTorch's checkers (fetches PyTorch)"
	@echo "make doc       the documentation, in target/doc"
	@echo "make ci        everything that must pass before a change goes in (.ci/run)"
	@echo "make graphs, make sequences, make fuzz, make fuzz-python, make valgrind,"
	@echo "make miri, make mutants, make accuracy, make formula-cost"
	@echo "               longer checks: docs/checks.md"
	@echo "make libtorch  only fetch libtorch, or check the one that LIBTORCH or"
	@echo "               LIBTORCH_USE_PYTORCH=1 names; the others begin with this"

demo: libtorch
	cargo run --example log1pexp

test: libtorch
	cargo test

test-libtorch: tools
	scripts/test-libtorch $(VERSION)

bench: libtorch
	cargo bench

# With the benches, whose dependencies make cargo build torch-sys in their way.
bench-compare: libtorch
	python=$$(scripts/python-env) && \
	cargo build --release --workspace --lib --bench libtorch && \
	"$$python" benches/compare/compare.py && "$$python" -B benches/compare/ops.py

# Without --workspace cargo would build torch-sys again, for other features.
example-python: libtorch
	python=$$(scripts/python-env) && \
	cargo build --workspace --lib && \
	"$$python" -B examples/python/train.py

test-python: libtorch
	python=$$(scripts/python-env) && \
	cargo build --workspace --lib && \
	RUST_BACKTRACE=0 "$$python" -B -m unittest discover -s tests/python

gallery-pytorch: libtorch
	python=$$(scripts/python-env) && \
	cargo test --test gallery | "$$python" -B tests/gallery/pytorch

doc: libtorch
	cargo doc --no-deps

ci:
	.ci/run

# The longer checks: docs/checks.md has what they found.
graphs: libtorch
	TCH_FUNCTION_GRAPHS=$${GRAPHS:-100000} cargo test --test random_graphs

sequences: libtorch
	TCH_FUNCTION_SEQUENCES=$${SEQUENCES:-100000} cargo test --test sequences -- --nocapture

fuzz: libtorch
	PROPTEST_CASES=$${CASES:-100000} cargo test --test fuzz_shapes

fuzz-python: libtorch
	python=$$(scripts/python-env) && \
	cargo build --workspace --lib && cd tests/python && \
	TCH_FUNCTION_CALLS=$${CALLS:-5000} RUST_BACKTRACE=0 "$$python" -B -m unittest test_fuzz_calls

MEMCHECK = valgrind --error-exitcode=1 --suppressions=scripts/valgrind.supp
valgrind: libtorch
	TCH_FUNCTION_PLAIN_MEMORY=1 TCH_FUNCTION_SEQUENCES=1000 TCH_FUNCTION_SEQUENCES_PROCESS=alone \
	  cargo test --lib --test libtorch --test rules --test faults --test kernel --test sequences --config "target.'cfg(unix)'.runner = '$(MEMCHECK)'" -- \
	  --test-threads=1 --skip reentrant --skip adam --skip ten_thousand --skip eight_threads --skip large_memory_is_used_again --skip more_elements --skip large_tensors

# Times how long formulas take to compile: docs/formula.md.
formula-cost: libtorch
	scripts/formula-cost

# Compares formulas and shipped ops with exact values: docs/accuracy.md.
accuracy: libtorch
	python=$$(scripts/python-env) && \
	mkdir -p target/accuracy && \
	TCH_FUNCTION_ACCURACY=$(CURDIR)/target/accuracy cargo test --test formula --test accuracy -- --ignored write_what && \
	"$$python" scripts/accuracy target/accuracy

# Needs a nightly toolchain: rustup toolchain install nightly --component miri,rust-src
miri:
	cargo +nightly miri test --lib --features doc-only kernel::view

# Needs `cargo install cargo-mutants`, and works in a copy without .libtorch.
mutants: libtorch
	LIBTORCH=$${LIBTORCH:-$(CURDIR)/.libtorch} cargo mutants --output target --file 'src/application/*.rs' \
	  --file src/graph/pass.rs --file src/graph/queue.rs -C=--lib -C=--test=vars -C=--test=rules

libtorch: tools
	@python3 scripts/fetch-libtorch

tools:
	@for tool in cargo "$${CXX:-c++}" python3; do \
	  command -v $$tool >/dev/null || missing="$$missing $$tool"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "error: not found:$$missing" >&2; \
	  echo "Rust comes from rustup.rs; on Debian or Ubuntu the rest is in: apt install g++ python3-pip" >&2; \
	  exit 1; \
	fi
