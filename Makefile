# Everything a fresh machine needs: each target makes its own .venv first.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo packaged-model test test-all bench lint docs clean

demo: .venv/.installed
	$(BIN)/splitvae train digits --out $(DEMO) --overwrite
	$(BIN)/splitvae decompose $(DEMO) --n 12 --out $(DEMO)/decomposition.png
	$(BIN)/splitvae fit $(DEMO) --density gmm --n-components 10
	$(BIN)/splitvae sample $(DEMO) --density gmm --n 64 --out $(DEMO)/samples.png
	$(BIN)/splitvae sample $(DEMO) --n 12 --output all --out $(DEMO)/sampled-rows.png
	@echo
	@echo "Look at $(DEMO)/samples.png (64 new digits) and at $(DEMO)/decomposition.png: test digits, the mask σ,"
	@echo "the two images that it blends, and the blend. Next: $(BIN)/splitvae train --data FOLDER --out runs/mine"

# The model inside the package; MNIST=FOLDER names a copy of the data set, without it the hub's is fetched.
packaged-model: .venv/.installed
	$(BIN)/splitvae train mnist-small $(if $(MNIST),--data $(MNIST)) --beta 2 --precision fp32 --out runs/packaged
	$(BIN)/splitvae fit runs/packaged --density gmm
	$(BIN)/splitvae fit runs/packaged --density gmm-per-class --n-components 3
	$(BIN)/splitvae evaluate runs/packaged --extractor mnist-classifier
	$(BIN)/python -m splitvae.packaged.pack runs/packaged

test: lint
	$(BIN)/python -m pytest --durations=10

test-all: .venv/.installed
	$(BIN)/python -m pytest -m slow --durations=10

# TensorFlow and pythae get environments of their own in .bench; the first run downloads them.
bench: .venv/.installed
	$(BIN)/python -m benchmarks

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .bench build site dist .pytest_cache .mypy_cache .ruff_cache
