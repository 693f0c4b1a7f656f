# `make demo` and `make test` are all that a newcomer types. Each makes .venv first, once, keyed by what it was made from.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
KEY := $(shell cat requirements/ci.txt pyproject.toml setup.py CMakeLists.txt $$(find csrc -type f | LC_ALL=C sort) | sha256sum | cut -c1-16)-$(shell $(PYTHON) -c 'import sys; print(sys.version_info[:3])' | tr -d '(), ')
BUILD_TOOLS := "setuptools>=77" wheel "pybind11>=2.13" "cmake>=3.25" ninja
CONSTRAIN := -c requirements/ci.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: venv demo test test-full test-oracles sanitize bench gpu-check lint format clean

venv:
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(KEY)" ]; then $(MAKE) --no-print-directory $(VENV)/rebuild; fi

$(VENV)/rebuild:
	@echo "Making $(VENV): PyTorch, test tools and the native modules (about two minutes)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q $(BUILD_TOOLS)
	@$(PY) -m pip install -q $(CONSTRAIN) torch numpy
	@$(PY) -m pip install -q $(CONSTRAIN) --no-build-isolation -e ".[dev,demo]"
	@$(PY) -m pip install -q $(CONSTRAIN) triton || echo "Triton is not to be had here: tests of its kernels are skipped"
	@echo "$(KEY)" > $(STAMP)

demo: venv
	@$(PY) examples/demo.py

test: venv
	@XECG_NUM_THREADS=1 OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test-full: venv
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m "not oracle and not gpu"

ORACLES := .venv-oracles
test-oracles:
	@test -e $(ORACLES)/.ready || { $(PYTHON) -m venv $(ORACLES) && \
	  $(ORACLES)/bin/python -m pip install -q $(CONSTRAIN) torch numpy scipy safetensors xlstm==2.0.6 mlstm_kernels==2.0.6 pytest && \
	  touch $(ORACLES)/.ready; }
	@$(ORACLES)/bin/python -m pytest -m oracle tests/oracles -s

# The C++ tests under address and undefined-behaviour checks, then under the thread checker (Python itself is not sanitised).
sanitize: venv
	@for kind in address,undefined thread; do \
	  PATH=$(VENV)/bin:$$PATH cmake -S . -B build/sanitize-$$kind -G Ninja -DXECG_TESTS=ON -DXECG_SANITIZE=$$kind > /dev/null && \
	  PATH=$(VENV)/bin:$$PATH cmake --build build/sanitize-$$kind > /dev/null && \
	  for case in $$(build/sanitize-$$kind/xecg_tests); do build/sanitize-$$kind/xecg_tests $$case || exit 1; done || exit 1; \
	done

# Each suite beside its peers, which are installed here once.
.PHONY: bench-cpu bench-frontend bench-embed bench-stream
bench: bench-cpu bench-frontend bench-embed bench-stream
bench-cpu bench-frontend bench-embed bench-stream: bench-%: venv
	@test -e $(VENV)/.bench || { $(PY) -m pip install -q $(CONSTRAIN) -e ".[bench]" --no-build-isolation && touch $(VENV)/.bench; }
	@$(PY) -m bench run $* --json bench/results/$*.json

# On a machine with an NVIDIA GPU, in the Python that holds its torch: no venv, no network. Without a GPU, what needs none.
gpu-check:
	@$(PYTHON) -m bench.gpu_check

lint: venv
	@$(PY) -m pytest tests/contract/test_lint.py

format: venv
	@$(VENV)/bin/ruff format xecg benchecg tests bench examples setup.py
	@$(VENV)/bin/clang-format -i $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

clean:
	rm -rf build dist *.egg-info xecg/*.so
