"""The benchmark scripts at sizes that mean nothing; and their sums."""

import json
import os
import subprocess
import sys

import epoch  # noqa: E402
import numpy as np
import pytest
import scaling  # noqa: E402
import script_steps  # noqa: E402
import training_step  # noqa: E402

import measuring  # noqa: E402
from helpers import assert_user_error, run_here
from layers import event_driven, fused_lstm  # noqa: E402
from toolbox import command_line  # noqa: E402


def flags_of(script, *arguments):
    flag_values, _ = command_line.parse_flags(script.define_flags, ["script", *arguments])
    return flag_values


def results(process, path):
    assert process.returncode == 0, process.stderr
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture
def measured_here(monkeypatch, tmp_path):
    """Function: results of a benchmark whose measurements run in this process."""
    monkeypatch.setattr(measuring, "in_child", lambda function, *arguments: function(*arguments))
    for engine in (event_driven, fused_lstm):  # a clock is put around these
        for name in ("forward", "backward"):
            monkeypatch.setattr(engine, name, getattr(engine, name))

    def run(script, *arguments):
        process = run_here(script, *arguments, f"--json={tmp_path / 'results.json'}")
        return process, results(process, tmp_path / "results.json")

    return run


def test_a_child_is_a_process_of_its_own():
    assert measuring.in_child(os.getpid) != os.getpid()
    assert measuring.in_child(os.getenv, "CUDA_VISIBLE_DEVICES") == "-1"


def test_training_step_measures_both_engines_at_the_rate_asked_for(measured_here):
    process, rows = measured_here(
        training_step,
        *("--engine=event,dense", "--rule=symmetric", "--rate_hz=15", "--repeats=3"),
        *("--n_regular=15", "--n_adaptive=5", "--batch=2", "--frames=200", "--n_repeat=2"),
    )
    assert [(row["engine"], row["rule"], row["rate_hz"]) for row in rows] == [
        ("event", "symmetric", 15),
        ("dense", "symmetric", 15),
    ]
    for row in rows:
        # The search ends within 1 % of the rate; a spike of these few is 0.3 % of them.
        assert row["rate_hz_measured"] == pytest.approx(15, rel=0.02)
        assert 0 < row["seconds_min"] <= row["seconds_median"] <= max(row["seconds"])
        assert row["seconds_min"] < row["seconds_first"]  # which compiles
        assert len(row["seconds"]) == row["repeats"] == 3
        assert 0.1 < row["peak_gb"] < 10  # TensorFlow alone is some 0.5
        assert row["machine"]["cores"] >= 1
        assert (row["batch"], row["frames"], row["n_units"], row["n_adaptive"]) == (2, 200, 20, 5)
    # The engines fire alike, spike for spike but for rounding.
    assert rows[0]["weight_scale"] == rows[1]["weight_scale"]
    event, dense = (row["seconds_median"] for row in rows)
    table = process.stdout.splitlines()
    assert f" {dense / event:.2f} " in next(line for line in table if "| event |" in line)


@pytest.mark.stress
def test_training_step_measures_keras_lstm_under_bptt_only(measured_here):
    _, rows = measured_here(
        training_step,
        *("--model=lstm", "--engine=fused,keras", "--rule=symmetric,bptt", "--repeats=1"),
        *("--n_lstm=6", "--batch=2", "--frames=10"),
    )
    assert [(row["engine"], row["rule"]) for row in rows] == [
        ("fused", "symmetric"),
        ("fused", "bptt"),
        ("keras", "bptt"),
    ]
    for row in rows:
        assert row["rate_hz"] is None and row["rate_hz_measured"] is None
        assert row["seconds_median"] > 0


@pytest.mark.stress
def test_scaling_varies_one_thing_at_a_time(measured_here, tmp_path, monkeypatch):
    bytes_per_frame = 12 * 5 * 2 * 2 * 100  # steps, utterances, directions, neurons
    monkeypatch.setattr(
        scaling, "measure_peak_gb", lambda settings: 1 + 1e-9 * bytes_per_frame * settings["frames"]
    )
    process, result = measured_here(
        scaling,
        *("--frames=40,2000", "--base_frames=40", "--neurons=100", "--base_neurons=100"),
        *("--batch=2", "--base_batch=2", "--rate_hz=15,60", "--threads=1", "--repeats=1"),
        f"--figure={tmp_path / 'figure.png'}",
    )
    assert "| neurons per direction | 100 |" in process.stdout
    assert "bytes per neuron and simulated step" in process.stdout
    points = [tuple(row[axis] for axis in scaling.AXES) for row in result["rows"]]
    assert points == [(40, 100, 2, 15, 1), (2000, 100, 2, 15, 1), (40, 100, 2, 60, 1)]
    for row in result["rows"]:
        assert 0 < row["engine_seconds_median"] < row["seconds_median"]
        assert row["rate_hz_measured"] == pytest.approx(row["rate_hz"], rel=0.02)
    # 50 times the frames: far from a fixed cost, and far from quadratic.
    assert 0.2 < result["exponents"]["frames"] < 1.3
    assert result["exponents"]["neurons"] is result["exponents"]["batch"] is None
    assert result["bytes_per_neuron_step"] == pytest.approx(12)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


# A small process starts those that are measured: a peak of memory is handed down to what is started.
GROWTH = """
import scaling
from toolbox import command_line
arguments = ["scaling.py", "--frames=4000", "--base_frames=40", "--base_neurons=100"]
flag_values, _ = command_line.parse_flags(scaling.define_flags, arguments)
base = scaling.plan(flag_values)[0] | {"batch": 2}
print(scaling.bytes_per_neuron_step(flag_values, base))
"""


@pytest.mark.stress
def test_memory_grows_with_the_frames():
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(scaling.__file__)}
    process = subprocess.run(
        [sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    # 8 million neuron-steps more; of each five, the mean is stored in four bytes at least.
    assert 0.8 < float(process.stdout) < 50


def test_scaling_measures_the_engine_asked_for(measured_here, tmp_path):
    one_point = ("--frames=20", "--base_frames=20", "--neurons=10", "--base_neurons=10")
    process, result = measured_here(
        scaling,
        *("--model=lstm", "--engine=fused", *one_point, "--batch=2", "--base_batch=2"),
        *("--threads=1", "--repeats=1", f"--figure={tmp_path / 'figure.png'}"),
    )
    assert "| cells per direction | 10 |" in process.stdout
    assert result["engine"] == "fused"
    (row,) = result["rows"]
    assert 0 < row["engine_seconds_median"] < row["seconds_median"]
    assert row["rate_hz"] is None
    for model, engine, expected in (("lsnn", "auto", "event"), ("lstm", "auto", "fused")):
        flag_values = flags_of(scaling, f"--model={model}", f"--engine={engine}")
        assert scaling.engine_of(flag_values) == expected
    process = run_here(scaling, "--model=lstm", "--engine=event")
    assert_user_error(process, "--engine=event", "fused", "dense")


@pytest.mark.stress
def test_epoch_projects_from_the_training_script(measured_here, tmp_path):
    _, rows = measured_here(
        epoch,
        *("--model=lsnn,lstm", "--engine=event,fused", "--n_lstm=4"),
        *("--n_train=12", "--n_develop=3", "--n_test=3", "--batch=3", "--print_every=2"),
        *("--n_regular=15", "--n_adaptive=5", f"--work={tmp_path}"),
    )
    assert [(row["model"], row["engine"]) for row in rows] == [("lsnn", "event"), ("lstm", "fused")]
    row, lstm_row = rows
    assert lstm_row["projected_epochs"] == 30
    assert min(lstm_row["seconds_engine_forward"], lstm_row["seconds_engine_backward"]) > 0
    assert row["iterations"] == row["iterations_per_epoch"] == 4
    assert row["projected_epochs"] == 80
    assert row["projected_evaluations"] == 4 * 80 / 2 + 1
    parts = ("engine_forward", "engine_backward", "step_rest", "between_steps")
    parts_s = [row[f"seconds_{part}"] for part in parts]
    assert min(parts_s) > 0
    assert sum(parts_s) == pytest.approx(row["seconds_per_iteration"])
    assert row["projected_hours"] * 3600 == pytest.approx(
        320 * row["seconds_per_iteration"]
        + 161 * row["seconds_per_evaluation"]
        + row["seconds_once"]
    )
    assert 0 < row["rate_hz_last"] < 500
    assert 0.1 < row["peak_gb"] < 10


def test_a_flag_takes_a_list_and_refuses_a_wrong_item():
    flag_values = flags_of(training_step, "--engine=event,dense", "--rate_hz=5,7.5")
    assert (flag_values.engine, flag_values.rate_hz) == (["event", "dense"], [5, 7.5])
    process = run_here(training_step, "--rule=symmetric,hebb")
    assert_user_error(process, "--rule", "hebb", "symmetric|random|adaptive|bptt")
    process = run_here(training_step, "--model=lstm", "--engine=event")
    assert_user_error(process, "nothing to measure")


def test_dense_is_measured_at_one_rate_unless_rates_are_given():
    def measured(*arguments):
        plan = training_step.plan(flags_of(training_step, "--rule=adaptive", *arguments))
        return [(point["model"], point["engine"], point["rate_hz"]) for point in plan]

    assert measured("--model=lsnn,lstm") == [
        *(("lsnn", "event", rate_hz) for rate_hz in (5, 15, 50, 200)),
        ("lsnn", "dense", 15),
        ("lstm", "fused", None),
        ("lstm", "dense", None),
    ]
    assert measured("--engine=dense", "--rate_hz=5,50") == [
        ("lsnn", "dense", 5),
        ("lsnn", "dense", 50),
    ]


def test_exponent_is_that_of_a_power_law_within_the_span():
    rows = [{"neurons": n, "seconds_median": 0.2 * n**1.4} for n in (200, 400, 1600)]
    rows.append({"neurons": 3200, "seconds_median": 1e6})
    assert scaling.exponent(rows, "neurons", (200, 1600)) == pytest.approx(1.4, abs=1e-9)
    assert scaling.exponent(rows[:1], "neurons") is None


def test_what_is_fitted_is_told_by_model():
    row = {"frames": 4, "neurons": 200, "batch": 2, "rate_hz": None, "threads": 1}
    times = {"seconds_median": 1, "engine_seconds_median": 0.5, "rate_hz_measured": None}
    for model, words in (
        ("lsnn", ("neurons 1.50 (200 to 1600)", "2.0 bytes per neuron and simulated step")),
        ("lstm", ("cells 1.50 (200 to 800)", "2.0 bytes per cell and frame")),
    ):
        told = scaling.markdown(model, [row | times], row, {"frames": None, "neurons": 1.5}, 2.0)
        assert all(word in told for word in words)
        assert f"200 {words[0].split()[0]} per direction" in scaling.described(row, model)


def test_profile_takes_apart_the_loop_between_first_and_last_step():
    class Evaluation:
        rates_hz = np.array([10.0, 20.0])

    def spans(*times):
        return [measuring.Span(start, end, Evaluation()) for start, end in times]

    calls = epoch.Calls(
        steps=spans((10, 20), (21, 25), (33, 37)),
        evaluations=spans((5, 9), (26, 32), (38, 42), (43, 50)),
        forward=spans((11, 12), (21, 22), (27, 28), (33, 34.5)),
        backward=spans((12, 19), (22, 23), (34.5, 36)),
    )
    measured = epoch.profile(calls, seconds_in_all=60)
    assert measured["seconds_per_iteration"] == (37 - 20 - 6) / 2
    assert measured["seconds_engine_forward"] == (1 + 1.5) / 2
    assert measured["seconds_engine_backward"] == (1 + 1.5) / 2
    assert measured["seconds_step_rest"] == (8 - 5) / 2
    assert measured["seconds_between_steps"] == (11 - 8) / 2
    assert measured["seconds_per_evaluation"] == (6 + 4) / 2
    assert measured["seconds_once"] == 60 - 11 - 10
    assert measured["rate_hz_first"] == 15
    projected = epoch.projection(measured, n_per_epoch=3, n_epochs=2, print_every=4)
    assert projected["projected_hours"] == (6 * 5.5 + 3 * 5 + 39) / 3600


def test_script_steps_take_turns(measured_here, tiny_processed):
    flags = ["--model=lstm", "--n_neuron=4", f"--dataset={tiny_processed}", "--batch=3"]
    arguments = ["solve_timit_with_ctc_in_tensorflow.py", f"--flags={' '.join(flags)}"]
    process, results = measured_here(
        script_steps,
        *arguments,
        *("--iterations=3", "--repeats=2", "--variant=--eprop=symmetric --grad_clip=1"),
    )
    first, variant = results["rows"]
    assert first["flags"] == flags and first["ratio"] == 1
    assert variant["flags"] == [*flags, "--eprop=symmetric", "--grad_clip=1"]
    assert 0.01 < variant["ratio"] < 100 and variant["seconds_median"] > 0
    assert f" {variant['ratio']:.2f} |" in process.stdout
    assert first["engine"] == "fused"
    assert_user_error(run_here(script_steps, *arguments, "--repeats=101"), "--repeats=101")
    many = run_here(script_steps, *arguments, "--iterations=99999")
    assert_user_error(many, "--iterations=99999: expected at most")
    assert_user_error(run_here(script_steps, "lmu_init.py"), "lmu_init.py: expected solve_timit")
