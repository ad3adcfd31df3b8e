# Each target is a line or two that calls a program. PYTHON may name any interpreter from 3.11 to 3.13.
PYTHON ?= python3
DEV := .venv/dev/bin
LOCAL := .venv/local/bin
# The end-to-end tests have two lanes (tests/e2e/conftest.py).
LANES := -n 2
LAB := PYTHONPATH=tests:scripts:images $(DEV)/python -m lab

.PHONY: help demo demo-stop test lint images test-images lab lab-down lab-status e2e e2e-core bench-local bench-lab bench-events bench-rollout setup lock clean

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo:  ## Run the whole pipeline here: measurements, training, gate, registry, serving, shifted traffic (DATA=folder, KEEP=1)
	@$(PYTHON) scripts/setup.py demo
	@$(LOCAL)/python -m isotherm_local.demo

demo-stop:  ## Stop the servers that `make demo KEEP=1` left running
	@$(LOCAL)/python -m isotherm_local.demo --stop

test:  ## Run the tests
	@$(PYTHON) scripts/setup.py test
	@$(DEV)/python -m pytest -q -n 2 --dist loadfile

lint:  ## Check the code and the catalog (ruff, mypy, yamllint, the catalog's own rules)
	@$(PYTHON) scripts/setup.py test
	@$(DEV)/ruff check . && $(DEV)/ruff format --check . && $(DEV)/mypy && $(DEV)/python -m isotherm_local lint

images:  ## Build the images with buildah, podman or docker and print their sizes (ARGS="--archives DIR", "--help")
	@PYTHONPATH=images:scripts $(PYTHON) -m isotherm_local.images $(ARGS)

test-images:  ## Build the images, then run every program in its own: any UID, read-only root, no network (needs root and runc)
	@$(PYTHON) scripts/setup.py test
	@$(DEV)/python -m pytest -q tests/images

lab:  ## Start a real one-node Kubernetes with Tekton, KServe, MLflow, S3 and a router on this machine (root; Linux)
	@$(PYTHON) scripts/setup.py lab
	@$(LAB) up $(PARTS)

lab-down:  ## Stop the lab: nothing of it stays running, mounted or routed
	@$(LAB) down

lab-status:  ## Tell which parts of the lab are up, since when, and where their logs are
	@$(LAB) status

e2e:  ## Test the catalog end to end on the lab, or on the cluster of KUBECONFIG (docs/lab.md)
	@$(PYTHON) scripts/setup.py test
	@$(LAB) up && $(LAB) build tkn
	@$(DEV)/python -m pytest -q $(LANES) tests/e2e

e2e-core:  ## The part of `make e2e` that .ci/run runs
	@$(PYTHON) scripts/setup.py test
	@$(LAB) up && $(LAB) build tkn
	@$(DEV)/python -m pytest -q $(LANES) -m core tests/e2e

bench-local:  ## Measure every bar of the local target and write build/bench/local.json
	@$(PYTHON) scripts/setup.py test
	@$(DEV)/python tests/bench/local.py

bench-lab:  ## Measure every bar of the lab and write build/bench/lab.json (two hours; ONLY="overhead kills" for some)
	@$(PYTHON) scripts/setup.py test
	@$(LAB) up && $(LAB) build tkn
	@PYTHONPATH=tests:scripts:images $(DEV)/python tests/bench/bench_lab.py $(ONLY)

bench-events:  ## Measure every bar of the events on the lab and write build/bench/events.json (half an hour; ONLY="pushes load")
	@$(PYTHON) scripts/setup.py test
	@$(LAB) up
	@PYTHONPATH=tests:scripts:images $(DEV)/python tests/bench/bench_events.py $(ONLY)

bench-rollout:  ## Measure every bar of a traffic shift on the local target and the lab and write build/bench/rollout.json (an hour and a half; ONLY="gate lab-crash" for some, on the lab that is up)
	@$(PYTHON) scripts/setup.py test
	$(if $(ONLY),,@$(LAB) up && $(LAB) up rollouts)
	@PYTHONPATH=tests:scripts:images $(DEV)/python tests/bench/bench_rollout.py $(ONLY)

setup:  ## Make the environments only
	@$(PYTHON) scripts/setup.py test

lock:  ## Resolve pyproject.toml into the locks again
	@$(PYTHON) scripts/setup.py lock

clean: demo-stop  ## Remove environments and what runs left behind
	rm -rf .venv build
