# make demo    register a pair in a real MRML scene and write pictures, tables and a scene to demo-output/; also
#              pictures of the panel, to demo-output/panel/
# make check   lint, types and the fast tests: under two minutes on two cores, before every commit
# make test    lint, types and all tests, those of training/ too
# make bench   time and memory of every method, beside a U-Net's and SimpleITK's demons (a quarter of an hour)
# make pareto  time, memory and accuracy beside registrations that others made, on the same pairs (half an hour)
# make profile        time and memory of each stage of a registration of a chest CT (a few minutes)
# make architecture   draw the packages and who imports whom, to Resources/Documentation/architecture.svg
# make calibration    learn anew what registrations tell of their error, and measure how well it holds (hours)
# make faults  inject faults into the command line and count what is not as SECURITY.md promises (ten minutes)
# make release        build the tree to publish, in a fresh history, and the wheel, to build/release/, and check both
# All make their own virtual environment in .venv when first called. Paths stay relative and programs are called as
# "python -m ...", so that a checkout whose path has spaces works.

PYTHON ?= python3
# This very version, because a CPU build of it may be offered where packages come from ("2.13.0+cpu" satisfies the pin
# and is preferred); an open "torch" takes the newest release instead, on Linux with gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
OUT ?= demo-output
VENV := .venv
RUN := $(VENV)/bin/python
# Threads that spin while they wait make PyTorch several times slower as soon as another program uses a core.
export OMP_WAIT_POLICY ?= PASSIVE
STAMP := $(VENV)/.installed
TRAINING := $(VENV)/.installed-training
PEERS := $(VENV)/.installed-peers
# One thread a process: several only get into each other's way. A file's tests stay together, what they share is made once.
WORKERS ?= 2
TESTS = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile

# make demo FIXED=a.nii.gz MOVING=b.nii.gz [FIXED_LABELS=... MOVING_LABELS=...] [METHOD=rman QUALITY=best RECURSIONS=3 REFINE=50]
# make demo FLAT=1 (the phantom as a single slice)
# make demo RIGID=Spine VOLUME_KEEPING=Tumor SLIDING="* lung; Heart; Liver; Tumor"
option = $(if $($(1)),--$(2) "$($(1))")
DEMO_OPTIONS = $(call option,FIXED,fixed) $(call option,MOVING,moving) \
  $(call option,FIXED_LABELS,fixed-labels) $(call option,MOVING_LABELS,moving-labels) \
  $(call option,FIXED_POINTS,fixed-points) $(call option,MOVING_POINTS,moving-points) \
  $(call option,METHOD,method) $(call option,QUALITY,quality) $(call option,RECURSIONS,recursions) $(call option,REFINE,refinement-steps) \
  $(call option,RIGID,rigid) $(call option,VOLUME_KEEPING,volume-keeping) $(call option,SLIDING,sliding) \
  $(call option,ALIGNMENT,alignment) $(call option,SIMILARITY,similarity) $(call option,DEVICE,device) \
  $(if $(FLAT),--flat) --output "$(OUT)"

.PHONY: demo check test lint architecture bench pareto profile calibration faults screenshots release clean

demo: $(STAMP)
	$(RUN) Testing/Tools/demo.py $(DEMO_OPTIONS)
	$(RUN) Testing/Tools/demo_panel.py "$(OUT)"

check: lint
	$(TESTS) -m "not slow" --ignore=Testing/Python/training

test: lint $(TRAINING)
	$(TESTS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --quiet .
	$(RUN) -m mypy

architecture: $(STAMP)
	$(RUN) Testing/Tools/architecture.py

# make bench ARGS="--methods rman --sizes 96x96x96"; ARGS=--write measures anew what the panel's estimate is made of.
bench: $(STAMP)
	$(RUN) Testing/Tools/bench.py $(ARGS)

# make pareto ARGS="--sets hippocampus --methods balanced ants-syn"; ARGS="--write --date 2026-11-30" writes the document.
pareto: $(PEERS)
	$(RUN) Testing/Tools/pareto.py $(ARGS)

# make profile ARGS="--size 128x128x60 --labels --functions 20 --alignment rigid"
profile: $(STAMP)
	$(RUN) Testing/Tools/profile_run.py $(ARGS)

# Registrations are kept in runs/calibration; make calibration ARGS="--processes 8"
calibration: $(TRAINING)
	OMP_NUM_THREADS=1 $(RUN) -m training calibrate --date $(shell date +%F) $(ARGS)

# make faults ARGS="--kinds damaged --trials 500 --seed 7"
faults: $(STAMP)
	$(RUN) Testing/Tools/faults.py $(ARGS)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.10 to 3.13 is needed, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 | head -n 1). Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "This Python cannot make virtual environments. On Debian and Ubuntu: apt-get install -y python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

# What only training/ and its tests need.
$(TRAINING): $(STAMP)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[train,test]"
	@touch $@

# Registrations that others made; one that cannot be installed is left out. FireANTs asks for one old SimpleITK, whose
# successors do, and for much that its registration never imports.
$(PEERS): $(STAMP)
	-$(RUN) -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[peers,test]"
	-$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps "fireants>=1.5"
	@touch $@

# The pictures of the README.
screenshots: $(STAMP)
	$(RUN) Testing/Tools/demo.py --output "$(OUT)/volume"
	$(RUN) Testing/Tools/demo.py --flat --output "$(OUT)/slice"
	$(RUN) Testing/Tools/demo_panel.py "$(OUT)"
	$(RUN) Testing/Tools/demo_screenshots.py montage="$(OUT)/volume/views/montage.png" slice="$(OUT)/slice/views/montage.png" \
	  panel="$(OUT)/panel/done-light.png" panel-dark="$(OUT)/panel/running-dark.png" \
	  panel-inspect="$(OUT)/panel/inspect-light.png" panel-steer="$(OUT)/panel/steer-light.png" \
	  panel-correct="$(OUT)/panel/correct-light.png"

release: $(STAMP)
	rm -rf build/release
	$(RUN) Testing/Tools/release.py --output build/release

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
