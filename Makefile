# make setup   virtual environment .venv with all that the scripts and tests need (some minutes)
# make demo    features of open_speech/ (TIMIT=path: of any corpus that timit_processing.py reads), and
#              both networks trained on them by symmetric e-prop, in two minutes, with figures
# make gui     the page of nengo_gui with a trained LSNN; trains one first, in half a minute, where
#              there is none (RUN=run folder: shows that one)
# make test    all tests but those that take long
# make test_stress   those that take long: real processes that are killed, resumed or train together,
#              and more variants of networks, rules and engines
# make test_cuda   tests of the engine for GPUs, without one: in a simulator, and compiled for each kind;
#              in an environment of its own, .venv_cuda
# make test_gui   that page in a real browser (needs chromium and chromium-driver)
# make soak    make test_stress; then kills, full disks, foreign input, memory and threads in the long run:
#              one summary and soak.json, in less than 30 minutes on two cores (PART=name,name runs some)
# make bench   seconds and memory of training: tables, JSON and figures as in benchmarks/README.md,
#              in 15 minutes on two quiet cores of a fast machine
# make frame_errors   errors of both networks under all rules, ours and the authors' (needs
#              TIMIT=path, of the 16-speaker sample): reports in results/frame_errors_*
# make results   all comparisons of experiments/ on the 16-speaker sample, an estimated 5 hours on two cores,
#              and their tables in RESULTS.md and docs/more_results.md (needs TIMIT=path; stopped, the same
#              command goes on; with FULL=1 and TIMIT=path of the whole corpus the plans of
#              experiments/full_corpus/, days, into RESULTS_full_corpus.md)

PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
REQUIREMENTS ?= requirements_pip.txt
STAMP := $(VENV)/installed
TIMIT ?=
DEMO := demo
DEMO_DATA := $(or $(TIMIT),open_speech)
DEMO_UTTERANCE := open_speech/test/dr1/felc0/u013620128.flac
DEMO_FLAGS := --dataset=$(DEMO)/processed --results=$(DEMO)/results --eprop=symmetric \
	--batch=8 --n_epochs=20 --print_every=20 --seed=1
FRAME_ERRORS := frame_errors_lstm frame_errors_lsnn frame_errors_lsnn_long frame_errors_dense \
	frame_errors_cost_lstm frame_errors_cost_lsnn
EXPERIMENTS := learning_rates_lsnn lsnn_starts lsnn_baselines lmu_memory \
	learning_rates_lsnn_unidirectional lsnn_unidirectional lsnn_untrained_cells \
	learning_rates_lstm lstm_rules learning_rates_couplings couplings_late_answers couplings_delays \
	couplings_starts couplings_heterogeneity couplings_bidirectional couplings_encoders
ON_PAGE := couplings_late_answers couplings_encoders
PLANS := experiments$(if $(FULL),/full_corpus)
PROCESSED := $(if $(FULL),timit_processed,timit_sample_processed)
RESULTS := results$(if $(FULL),/full_corpus)

GUI := $(VENV)/installed_gui
GUI_RUNS := $(DEMO)/gui

.PHONY: setup demo gui test test_stress test_cuda test_gui soak bench frame_errors results

setup: $(STAMP)

$(STAMP): $(REQUIREMENTS) requirements_pip_nodeps.txt
	@echo "installing into $(VENV): about 2 GB, some minutes"
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps \
		-r requirements_pip_nodeps.txt
	touch $@

demo: setup
	$(PYTHON) timit_processing.py --data_path="$(DEMO_DATA)" --output_path=$(DEMO)/processed --plot
	$(PYTHON) solve_timit_with_framewise_lstm.py $(DEMO_FLAGS)
	$(PYTHON) solve_timit_with_framewise_lsnn.py $(DEMO_FLAGS)
	@run=$$(ls -d $(DEMO)/results/solve_timit_with_framewise_lsnn/* | tail -1); \
	echo; echo "an utterance:          $(DEMO)/processed/utterance.png"; \
	echo "what the LSNN hears:   $$run/lsnn_utterance.png"; \
	echo "transcribe one by it:  source $(VENV)/bin/activate"; \
	echo "                       python3 transcribe.py $$run $(DEMO_UTTERANCE)"

gui: $(GUI) $(if $(RUN),,$(GUI_RUNS)/trained)
	$(PYTHON) nengo_gui_demo.py "$(or $(RUN),$$(cat $(GUI_RUNS)/trained))"

$(GUI): requirements_pip_gui.txt | setup
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(GUI_RUNS)/trained: | setup
	test -d $(DEMO)/processed || $(PYTHON) timit_processing.py --data_path="$(DEMO_DATA)" \
		--output_path=$(DEMO)/processed
	$(PYTHON) solve_timit_with_framewise_lsnn.py $(DEMO_FLAGS) --results=$(GUI_RUNS) --n_directions=1 \
		--nomeasure_memory
	ls -d $(GUI_RUNS)/*/*/ | tail -1 > $@

test_gui: $(GUI)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check selenium
	NO_SKIP=1 $(PYTHON) -m pytest tests/inference/test_nengo_gui.py

test: setup
	$(PYTHON) -m pytest -n auto --dist worksteal

test_stress: setup
	$(PYTHON) -m pytest -n auto --dist worksteal -m stress

test_cuda: $(VENV)_cuda/installed
	NUMBA_ENABLE_CUDASIM=1 $(VENV)_cuda/bin/python -m pytest -n auto tests/gpu/test_simulated.py \
		tests/gpu/test_in_tensorflow.py tests/gpu/test_benchmark.py
	$(VENV)_cuda/bin/python -m pytest -n auto tests/gpu/test_compiled.py

$(VENV)_cuda/installed: requirements_pip.txt requirements_pip_gpu.txt
	$(PYTHON3) -m venv $(VENV)_cuda
	$(VENV)_cuda/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements_pip.txt $$(grep numba-cuda requirements_pip_gpu.txt)
	touch $@

soak: $(if $(PART),setup,test_stress)
	$(PYTHON) tests/stress/soak.py --json=soak.json $(if $(PART),--part=$(PART))

bench: setup
	$(PYTHON) benchmarks/training_step.py --model=lsnn,lstm --json=benchmarks/training_step.json
	$(PYTHON) benchmarks/scaling.py --json=benchmarks/scaling_lsnn.json
	$(PYTHON) benchmarks/scaling.py --model=lstm --base_neurons=200 --neurons=50,100,200,400,800 \
		--json=benchmarks/scaling_lstm.json
	$(PYTHON) benchmarks/epoch.py --model=lsnn,lstm --json=benchmarks/epoch.json

frame_errors: setup
	$(PYTHON) timit_processing.py --data_path="$(TIMIT)" --output_path=timit_sample_processed
	$(PYTHON) timit_processing.py --data_path="$(TIMIT)" --output_path=timit_sample_quirks \
		--reference_quirks
	for plan in $(FRAME_ERRORS); do \
		case $$plan in *cost*) jobs=1;; *) jobs=0;; esac; \
		$(PYTHON) explore_parameters.py run experiments/$$plan.json results/$$plan --n_jobs=$$jobs && \
		$(PYTHON) explore_parameters.py report results/$$plan || exit; done

results: setup
	$(PYTHON) timit_processing.py --data_path="$(TIMIT)" --output_path=$(PROCESSED)
	for plan in $(EXPERIMENTS); do \
		$(PYTHON) explore_parameters.py run $(PLANS)/$$plan.json $(RESULTS)/$$plan || [ $$? -eq 1 ] || exit; done
ifdef FULL
	$(PYTHON) explore_parameters.py page $(EXPERIMENTS:%=$(RESULTS)/%) --page=RESULTS_full_corpus.md \
		--details=docs/results/full_corpus
else
	$(PYTHON) explore_parameters.py page $(ON_PAGE:%=$(RESULTS)/%)
	$(PYTHON) explore_parameters.py page --page=docs/more_results.md \
		$(patsubst %,$(RESULTS)/%,$(filter-out $(ON_PAGE),$(EXPERIMENTS)))
endif
