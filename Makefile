# All targets run in .venv, which make setup creates; Python 3.11 or later, git and make are enough. SETUP= skips the
# installation, BIN= names the bin folder of another environment.
PYTHON ?= python3
BIN ?= .venv/bin
SETUP ?= .venv/.installed
FLEXUNET = $(BIN)/python -m flexunet_pl
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

.PHONY: setup demo test test-full lint docs dist

setup: $(SETUP)

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(SETUP)
	$(FLEXUNET) fit --config configs/demo.yaml
	$(FLEXUNET) test --config configs/demo.yaml
	$(FLEXUNET) predict --config configs/demo.yaml \
		--data.predict_dir dataset/demo-tiles/test/images --out $$(ls -td runs/demo-* | head -n 1)/masks
	$(FLEXUNET) report $$(ls -td runs/demo-* | head -n 1) dataset/demo-tiles \
		--out $$(ls -td runs/demo-* | head -n 1)/report
	@run=$$(ls -td runs/demo-* | head -n 1); \
	echo; \
	echo "The demo is in $$run:"; \
	echo "  curves/scores.png      Dice of each class by epoch"; \
	echo "  epoch_pictures/        truth and prediction after every epoch"; \
	echo "  report/report.html     scores and errors; open it in a browser"; \
	echo "  test_scores.json       scores on the test split"; \
	echo "  masks/overlays/        predictions on the test split"; \
	echo "  checkpoints/best.ckpt  the model; docs/tutorial.md shows how to export it"

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Apart: a process that had loaded every runtime and then trained has crashed now and then; the cause is not known.
test: lint
	$(PYTEST) --ignore tests/training
	$(PYTEST) tests/training

test-full: $(SETUP)
	$(PYTEST) -m full

docs: $(SETUP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(SETUP)
	$(BIN)/python -m build --outdir dist
