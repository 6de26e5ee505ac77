# make demo    installs, then trains the id-only baseline, DICM and the attribute-fed model on a made-up shop: one table
# make test    installs, then runs the test suite
# make lint    ruff, mypy, import contracts
# make docs    the documentation as a site, in site/index.html; fails on dead links

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Installed beside dicm_kit, so that recipes can list them by name. They run as files, too.
PLUGINS := example_aggregator dicm_movielens dicm_hm dicm_microlens dicm_taobao_ad \
	dicm_simtier dicm_muse dicm_target_attention dicm_search
DEMO   := recipes/quickstart/baseline.yaml recipes/quickstart/dicm.yaml recipes/quickstart/attributes.yaml

.PHONY: demo test lint docs install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]' \
		$(PLUGINS:%=-e plugins/%)
	touch $@

demo: install
	$(BIN)/dicm compare $(DEMO)

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'site/index.html; with search: $(BIN)/python -m http.server --directory site'

clean:
	rm -rf $(VENV) data runs site
