"""Tiny runs of the three training scripts on speech, made once for all tests."""

import functools

import pytest

import solve_timit_with_ctc_in_tensorflow as ctc
import tasks.ctc
from helpers import run_here
from tiny_runs import SIZE, lsnn, lstm
from toolbox import plotting

KINDS = {
    "lsnn": (
        lsnn,
        *(*SIZE[lsnn], "--n_repeat=2", "--weight_scale=0.3", "--nomeasure_memory"),
        *("--n_directions=1", "--tau_v_spread", "--front_end=lmu"),
        "--readout_memory=legendre",
    ),
    "lstm": (lstm, *SIZE[lstm], "--noreduced_phns"),
    "late_lstm": (
        lstm,
        *("--n_lstm=8", "--n_directions=1", "--n_layer=2", "--noloss_from_all_layers"),
        *("--target_delay_frames=3", "--readout_memory=taps", "--readout_theta_ms=60"),
        *("--front_end=lmu", "--front_end_encoders=learned", "--front_end_theta_ms=60"),
    ),
    "ctc": (
        ctc,
        *("--model=lsnn", "--n_neuron=6", "--n_repeat=2", "--weight_scale=0.5", "--preproc=fbank"),
        *("--n_directions=1", "--n_layer=2", "--norec", "--nopsp_out"),
        *("--front_end=delayed_frames", "--front_end_encoders=pca"),
    ),
}


@pytest.fixture(autouse=True)
def narrow_beam(monkeypatch):
    """Beam search in a few hundred frames would take longer than all else."""
    monkeypatch.setattr(tasks.ctc, "BEAM_WIDTH", 3)


@pytest.fixture(scope="session")
def trained_run(tiny_processed, tmp_path_factory):
    """Function (kind of `KINDS`) -> run folder."""

    @functools.cache
    def folder(kind):
        script, *own = KINDS[kind]
        results = tmp_path_factory.mktemp("runs")
        common = f"--dataset={tiny_processed}", f"--results={results}", "--seed=1", "--n_threads=1"
        sizes = "--batch=3", "--test_batch=2", "--n_epochs=0"  # to compile a step takes seconds
        with pytest.MonkeyPatch.context() as patch:
            # Figures take longer than the rest.
            patch.setattr(plotting, "save_figure", lambda figure, path, *_: None)
            process = run_here(script, *own, *common, *sizes)
        assert process.returncode == 0, process.stderr
        (made,) = results.glob("*/*")
        return made

    return folder
