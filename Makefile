# Variational Inference, Live. `make` alone says what there is to make.

PYTHON ?= python3
PORT   ?= 8000
# As many tests side by side as there are cores, but few browsers.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4 --dist worksteal
LAB_ARGS ?=
BENCH_ARGS ?=
# On Linux the torch of the default package index carries gigabytes of CUDA that this book never uses. PyTorch's own
# index has the same version for CPUs: it is asked when it answers within three seconds. TORCH_INDEX= asks nobody.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# What is installed is compiled when it is first imported, which most of it never is. Kernels, builds and tests are many
# processes: what one has compiled serves the next, whatever the shell says of bytecode.
export PYTHONDONTWRITEBYTECODE :=
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
INDEX := $(CURDIR)/_build/html/index.html

.DEFAULT_GOAL := help
.PHONY: help book notebooks test lab serve budget bench clean env

help:
	@echo 'make book    build the book; the last line says where it is'
	@echo 'make notebooks   the chapters as plain .ipynb, with what they need, in _build/notebooks'
	@echo 'make test    run every test, in a browser too'
	@echo 'make lab     open the chapters as notebooks in JupyterLab'
	@echo 'make serve   serve the built book at http://127.0.0.1:$(PORT)'
	@echo 'make budget  measure what each page costs a reader, and write it into the README'
	@echo 'make bench   time vilib beside Pyro, NumPyro and PyMC (its own environment, some twenty minutes)'
	@echo 'make clean   remove the built book and the environment'

env: $(READY)

$(READY): requirements.txt pyproject.toml binder/overrides.json binder/jupyter_server_config.py
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) is missing: install Python 3.11 or newer, or say make PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed, say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo 'The venv module is missing: install it, on Debian and Ubuntu with apt-get install python3-venv'; exit 1; }
	@rm -f $@
	$(PYTHON) -m venv $(VENV)
	@index=; [ -z '$(TORCH_INDEX)' ] || ! $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=3)' '$(TORCH_INDEX)' 2>/dev/null || index='--extra-index-url $(TORCH_INDEX)'; \
	  set -x; $(PIP_INSTALL) $$index "$$(grep '^torch==' requirements.txt)"
	$(PIP_INSTALL) -r requirements.txt
	$(PIP_INSTALL) --no-build-isolation --no-deps -e .
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@cp binder/overrides.json $(VENV)/share/jupyter/lab/settings/
	@mkdir -p $(VENV)/etc/jupyter
	@cp binder/jupyter_server_config.py $(VENV)/etc/jupyter/
	@touch $@

book: $(READY)
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo $(INDEX)

# A folder that can be a repository of its own: Binder, Colab and nbgitpuller open what the workflow publishes of it.
notebooks: book
	$(BIN)/python -m vilib.notebooks _build/html _build/notebooks

test: book
	$(BIN)/python tests/book/chromium.py
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The page that opens is the introduction; every .md of the book opens as a notebook. What JupyterLab saves is the book's own
# source, so it saves when told to, and not every two minutes.
lab: $(READY)
	@mkdir -p $(VENV)/share/jupyter/lab/settings/overrides.d
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"autosave": false}}' > $(VENV)/share/jupyter/lab/settings/overrides.d/sources.json
	$(BIN)/jupyter lab $(LAB_ARGS) intro.md

serve:
	@[ -f $(INDEX) ] || { echo 'There is no book yet: make book'; exit 1; }
	@echo 'http://127.0.0.1:$(PORT)/ (end with Ctrl-C)'
	@$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

budget: book
	$(BIN)/python tests/book/chromium.py
	$(BIN)/python benchmarks/budget.py

# The peers are no dependency of the book: they live in an environment of their own, and vilib is read from here.
bench: .venv-bench/.ready
	.venv-bench/bin/python benchmarks/agree.py
	.venv-bench/bin/python benchmarks/run.py $(BENCH_ARGS)

.venv-bench/.ready: benchmarks/requirements.txt
	@rm -f $@
	$(PYTHON) -m venv .venv-bench
	@index=; [ -z '$(TORCH_INDEX)' ] || ! .venv-bench/bin/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=3)' '$(TORCH_INDEX)' 2>/dev/null || index='--extra-index-url $(TORCH_INDEX)'; \
	  set -x; .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check $$index "$$(grep '^torch==' $<)"
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf _build $(VENV) .venv-bench *.egg-info
