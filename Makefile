# Everything runs in a virtual environment of its own; on a machine with Python 3.11 or later, git and make nothing else
# is needed. SETUP= leaves the installation out, BIN= names another environment's bin folder.
PYTHON ?= python3
BIN ?= .venv/bin
SETUP ?= .venv/.installed
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: setup demo test test-full lint

setup: $(SETUP)

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(SETUP)
	$(BIN)/python -m flexunet_pl fit --config configs/demo.yaml
	$(BIN)/python -m flexunet_pl test --config configs/demo.yaml
	$(BIN)/python -m flexunet_pl predict --config configs/demo.yaml \
		--data.predict_dir dataset/demo-tiles/test/images --out $$(ls -td runs/demo-* | head -n 1)/masks
	$(BIN)/python -m flexunet_pl report $$(ls -td runs/demo-* | head -n 1) dataset/demo-tiles \
		--out $$(ls -td runs/demo-* | head -n 1)/report
	@run=$$(ls -td runs/demo-* | head -n 1); \
	echo; \
	echo "The demo is in $$run:"; \
	echo "  curves/scores.png      how the Dice of each class rose"; \
	echo "  epoch_pictures/        truth and prediction after every epoch"; \
	echo "  report/report.html     where it is right and wrong; open it in a browser"; \
	echo "  test_scores.json       the scores on images of tiles it has never seen"; \
	echo "  masks/overlays/        what it found on them"; \
	echo "  checkpoints/best.ckpt  the model; python -m flexunet_pl tells what else one can do with it"

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST)

test-full: $(SETUP)
	$(PYTEST) -m full
