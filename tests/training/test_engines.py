"""Which engine a run takes: its own choice, and what is told where a GPU's does not work."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

import tiny_runs
from helpers import LIMIT_S, REPOSITORY, assert_user_error, run_here, run_in
from layers import alif
from tiny_runs import SIZE, lsnn, lstm
from training import engines, run_folder

CPU = "/device:CPU:0"  # in the place of a GPU


@pytest.mark.parametrize(
    "script, arguments, engine, why",
    [
        (lsnn, [], "event", "no GPU is visible"),
        (lsnn, ["--engine=event"], "event", "--engine"),
        (lsnn, ["--dt=0.98", "--nomeasure_memory"], "dense", "--n_ref=2 --dt=0.98"),
        (lsnn, ["--n_regular=3072"], "event", "3076 neurons per direction: expected 3072"),
        (lstm, [], "fused", "no GPU is visible"),
        (lstm, ["--nolstm"], "dense", "--nolstm"),
        (lstm, ["--peephole"], "dense", "--peephole"),
        (lstm, ["--engine=dense"], "dense", "--engine"),
    ],
)
def test_the_engine_fits_what_is_asked(script, arguments, engine, why, short_dataset, capsys):
    network = tiny_runs.build(script, short_dataset(), *arguments).network
    assert network.layers[0].engine == network.config.engine == engine
    assert why in network.config.engine_reason
    assert f"engine: {engine} ({network.config.engine_reason})\n" in capsys.readouterr().out


@pytest.mark.parametrize("faster", ["cudnn", "fused"])
def test_the_faster_engine_is_taken(faster, short_dataset, monkeypatch):
    """The self-check passes, of Keras' LSTM on the CPU."""
    monkeypatch.setattr(engines, "visible_gpus", lambda: [CPU])
    monkeypatch.setattr(
        engines, "_seconds_a_step", lambda config, *_: 0.1 if config.engine == faster else 0.2
    )
    config = tiny_runs.build(lstm, short_dataset()).network.config
    assert config.engine == faster
    for told in ("cudnn 0.", "fused 0.", f"{faster} 0.100 s"):
        assert told in config.engine_reason


def test_steps_of_the_run_are_timed(short_dataset, monkeypatch):
    monkeypatch.setattr(engines, "visible_gpus", lambda: [CPU])
    monkeypatch.setattr(alif, "cuda_spikes", alif.event_driven_spikes)
    config = tiny_runs.build(lsnn, short_dataset()).network.config
    assert config.engine in ("cuda", "event")
    assert config.engine_reason.startswith("a step of this run: cuda 0.")


def test_an_engine_that_fails_in_a_step_is_not_taken(short_dataset, monkeypatch, capsys):
    def failing(current, *_):
        if current.shape[-1] == 40:  # of the self-check
            return alif.event_driven_spikes(current, *_)
        return tf.ensure_shape(
            tf.numpy_function(lambda x: 1 / 0, [current], tf.float32), current.shape
        )

    monkeypatch.setattr(engines, "visible_gpus", lambda: [CPU])
    monkeypatch.setattr(alif, "cuda_spikes", failing)
    config = tiny_runs.build(lsnn, short_dataset()).network.config
    assert config.engine == "event" and "cuda inf s" in config.engine_reason
    assert "engine cuda: a step failed (UnknownError)" in capsys.readouterr().out


def missing(*_):
    raise ModuleNotFoundError("No module named 'cuda'")


def one_spike_more(current, *others):
    spikes = alif.event_driven_spikes(current, *others)
    return spikes + tf.reshape(tf.one_hot(7, tf.size(spikes)), spikes.shape)


@pytest.mark.parametrize(
    "wrong, told",
    [(missing, "ModuleNotFoundError: No module named 'cuda'"), (one_spike_more, "outputs differ")],
)
def test_every_gpu_is_checked(wrong, told, monkeypatch):
    monkeypatch.setattr(engines, "visible_gpus", lambda: [CPU, CPU + "0"])
    monkeypatch.setattr(alif, "cuda_spikes", wrong)
    assert told in engines.why_not("cuda") and CPU in engines.why_not("cuda")


def test_gradients_are_checked(monkeypatch):
    def check(rule):
        on_gpu, on_cpu, values, tolerance = engines._alif_check(rule)
        half = tf.constant(0.5)

        def scaled(current, w_rec):  # the same spikes, another gradient
            spikes = on_cpu(current, w_rec)
            return tf.stop_gradient(spikes) + half * (spikes - tf.stop_gradient(spikes))

        return scaled, on_cpu, values, tolerance

    monkeypatch.setattr(engines, "visible_gpus", lambda: [CPU])
    monkeypatch.setitem(engines.SELF_CHECKS, "cuda", check)
    assert "eprop, gradient 1 differs by 5.0e-01" in engines.why_not("cuda")


@pytest.mark.parametrize("script, engine", [(lsnn, "cuda"), (lstm, "cudnn")])
def test_an_engine_that_is_not_there_is_one_line(script, engine, tiny_processed, tmp_path):
    arguments = [f"--dataset={tiny_processed}", f"--results={tmp_path}", *SIZE[script]]
    process = run_here(script, *arguments, f"--engine={engine}")
    assert_user_error(process, f"--engine={engine}: no GPU is visible", "--resume")
    assert os.listdir(tmp_path) == []


def test_a_run_whose_engine_is_missing_goes_on_with_another(tiny_processed, tmp_path):
    arguments = [f"--dataset={tiny_processed}", f"--results={tmp_path}", *SIZE[lstm]]
    assert run_here(lstm, *arguments, "--n_epochs=0").returncode == 0
    (folder,) = (tmp_path / lstm.EXPERIMENT.script).iterdir()
    (folder / "metrics.json").unlink()  # as if it had been killed before its end
    record = run_folder.read_record(folder)
    (folder / "flags.json").write_text(json.dumps({**record, "engine": "cudnn"}))
    assert_user_error(run_here(lstm, f"--resume={folder}"), "--engine=cudnn: no GPU is visible")
    process = run_here(lstm, f"--resume={folder}", "--engine=fused")
    assert process.returncode == 0, process.stderr
    assert "engine fused instead of cudnn" in process.stdout
    assert run_folder.read_record(folder)["engine"] == "fused"


# --------------------------------------------------------------------------- real processes

RUN = ("--n_epochs=0", "--nomeasure_memory", "--n_threads=1", "--seed=1")


def trained_with(folder):
    (run,) = (folder / "results" / lsnn.EXPERIMENT.script).iterdir()
    assert (run / "metrics.json").exists()
    return run_folder.read_record(run)["engine"]


@pytest.mark.parametrize("has_driver", [False, True])
def test_without_a_working_gpu_the_cpu_trains(has_driver, tiny_processed, tmp_path):
    """Without a driver, and with one that is broken."""
    environment = {}
    if has_driver:
        (tmp_path / "libcuda.so.1").write_text("no library")
        nvidia_smi = tmp_path / "nvidia-smi"
        nvidia_smi.write_text("#!/bin/sh\necho GPU-1234\n")
        nvidia_smi.chmod(0o755)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": str(tmp_path),
            "NUMBA_CUDA_DRIVER": str(tmp_path / "libcuda.so.1"),
        }
    process = run_in(
        tmp_path,
        "solve_timit_with_framewise_lsnn.py",
        *(f"--dataset={tiny_processed}", *SIZE[lsnn], *RUN),
        figures=False,
        CUDA_VISIBLE_DEVICES="0",
        **environment,
    )
    assert process.returncode == 0, process.stderr
    why = "nvidia-smi lists a GPU" if has_driver else "no GPU is visible"
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("engine: event ("))
    assert why in line and ("requirements_pip_gpu.txt" in line) == has_driver
    assert trained_with(tmp_path) == "event"


FAILING = f"""
import sys
sys.path.insert(0, {REPOSITORY!r})
import solve_timit_with_framewise_lsnn as script
from layers import alif
from toolbox import command_line, plotting
from training import engines
plotting.save_figure = lambda *_: None
engines.visible_gpus = lambda: [{CPU!r}]
alif.cuda_spikes = lambda *arguments: 0.9 * alif.event_driven_spikes(*arguments)
command_line.run(script.main, script.define_flags, script.__doc__, ["x", *sys.argv[1:]])
assert "numba.cuda" not in sys.modules
"""


def test_where_the_self_check_fails_the_cpu_trains(tiny_processed, tmp_path):
    arguments = [f"--dataset={tiny_processed}", *SIZE[lsnn], *RUN]
    process = subprocess.run(
        [sys.executable, "-c", FAILING, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert process.returncode == 0, process.stderr
    told = "self-check on /device:CPU:0 failed: eprop, outputs differ by 1.0e-01 of the largest"
    assert f"engine: event ({told})\n" in process.stdout
    assert trained_with(tmp_path) == "event"
