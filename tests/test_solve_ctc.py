"""solve_timit_with_ctc_in_tensorflow.py: tiny runs of both networks, its settings, what it refuses."""

import json
import os

import pytest

from helpers import assert_user_error, run_here
from tiny_runs import build, lstm
from toolbox import command_line
from toolbox.command_line import UserError
from training import checkpoints
from training.flags import TrainingConfig

command_line.import_tensorflow()

import solve_timit_with_ctc_in_tensorflow as solve_ctc  # noqa: E402

TINY = {
    "lstm": ["--model=lstm", "--n_neuron=4", "--peephole", "--eprop=symmetric"],
    "lsnn": ["--model=lsnn", "--n_neuron=8", "--n_repeat=1", "--blank_penalty=auto"],
}
# Names and defaults of the authors' script, of the flags that are kept, but for those that
# `DEFAULTS` chooses by the network.
REFERENCE = {
    "model": "lstm",
    "optimizer": "adam",
    "eprop": None,
    "peephole": False,
    "readout_decay": 1e-4,
    "n_layer": 1,
    "n_split": 0.75,
    "drop_out_probability": -1.0,
    "loss_from_all_layers": True,
    "lr_decay": 0.3,
    "lr_decay_every": -1,
    "momentum": 0.9,
    "adam_epsilon": 1e-5,
    "tau_a": 500.0,
    "tau_v": 20.0,
    "tau_out": 3.0,
    "reg": 20.0,
    "reg_rate": 10.0,
    "n_neuron": None,
    "n_repeat": None,
    "input_noise": None,
    "lr_init": None,
}


def parse(*arguments):
    flag_values, _ = command_line.parse_flags(solve_ctc.define_flags, ["script.py", *arguments])
    return flag_values


@pytest.mark.parametrize("model", [pytest.param("lsnn", marks=pytest.mark.stress), "lstm"])
def test_a_tiny_run(model, tiny_processed, tmp_path, request):
    """Two iterations from features to metrics and, of the LSNN, figures."""
    if model == "lstm":
        request.getfixturevalue("no_figures")
    process = run_here(
        solve_ctc,
        *TINY[model],
        f"--dataset={tiny_processed}",
        f"--results={tmp_path}",
        *("--batch=3", "--n_epochs=1", "--n_threads=1", "--seed=1"),
    )
    assert (process.returncode, process.stderr) == (0, "")
    (folder,) = (tmp_path / "solve_timit_with_ctc_in_tensorflow").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["metric"] == "phone_error_rate" and metrics["iterations"] == 2
    rates = ("", "_greedy", "_without_silence", "_total")
    assert all(metrics[f"test_phone_error_rate{rate}"] > 0.5 for rate in rates)
    assert 0.5 < metrics["best_develop_phone_error_rate"]
    assert 0.5 < metrics["majority_develop_phone_error_rate"] < 1
    edits = sum(metrics[f"test_{name}"] for name in ("insertions", "deletions", "substitutions"))
    assert edits == pytest.approx(metrics["test_phone_error_rate_total"])
    assert metrics["test_length_ratio"] >= 0 and metrics["test_blank_penalty"] in (0, 0.5, 1, 2)
    assert {"confusions.png", "phone_probabilities.png", "learning_curve.png", "best.npz"} <= set(
        os.listdir(folder)
    )
    assert "selected iteration" in process.stdout and "phone error rate" in process.stdout


def test_flags_have_the_names_and_defaults_of_the_reference():
    flag_values = parse()
    assert {name: flag_values[name].value for name in REFERENCE} == REFERENCE
    for left_out in (*solve_ctc.LEFT_OUT, "w_noise", "n_delay"):
        assert left_out in ("lr_decay_every", "grad_clip") or left_out not in flag_values


@pytest.mark.parametrize(
    "model, n_neuron, n_repeat, input_noise, lr_init",
    [("lstm", 128, 1, 0.4, 0.02), ("lsnn", 400, 5, 0.3, 0.01)],
)
def test_defaults_are_those_of_the_model(model, n_neuron, n_repeat, input_noise, lr_init):
    values = solve_ctc.settings(parse(f"--model={model}"))
    assert (values.n_neuron, values.n_repeat, values.input_noise_std) == (
        n_neuron,
        n_repeat,
        input_noise,
    )
    assert values.lr_init == lr_init and values.ramping_learning_rate and values.grad_clip == 0
    assert solve_ctc.settings(parse(f"--model={model}", "--reference_quirks")).grad_clip == 1
    assert (values.n_regular, values.n_adaptive, values.n_lstm) == (
        0.75 * n_neuron,
        0.25 * n_neuron,
        n_neuron,
    )
    given = solve_ctc.settings(
        parse(f"--model={model}", "--input_noise=0", "--n_neuron=8", "--n_split=0.25")
    )
    assert (given.input_noise_std, given.n_regular, given.n_adaptive) == (0, 2, 6)


def test_the_learning_rate_falls_once_or_by_epochs():
    def rates(*arguments):
        given = "--lr_init=0.01", "--noramping_learning_rate"
        flag_values = parse("--n_epochs=10", *given, *arguments)
        schedule = TrainingConfig.from_flags(solve_ctc.settings(flag_values)).schedule
        return [schedule.rate(i, 100) for i in (0, 39, 40, 69, 70, 99)]  # 10 batches an epoch

    assert rates() == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.003, 0.003])
    expected = [0.01, 0.01, 0.005, 0.005, 0.005, 0.0025]
    assert rates("--lr_decay_every=4", "--lr_decay=0.5") == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_the_optimizer_is_chosen_by_name(optimizer):
    values = solve_ctc.settings(parse(f"--optimizer={optimizer}"))
    assert TrainingConfig.from_flags(values).optimizer == optimizer


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--truncT=20"], ["--truncT=20", "a window has no transcript"]),
        (["--target_delay_frames=2"], ["--target_delay_frames=2", "leave out"]),
        (["--readout_init=ridge"], ["--readout_init=ridge", "no frame label"]),
        (["--nolstm", "--eprop=symmetric"], ["--nolstm", "--eprop=symmetric"]),
        (["--n_repeat=2"], ["--n_repeat=2", "--model=lstm"]),
        (["--n_split=0.3"], ["--n_split=0.3", "--model=lsnn"]),
        (["--tau_a=300"], ["--tau_a=300", "--model=lsnn"]),
        (["--model=lsnn", "--init_scale=0.1"], ["--init_scale=0.1", "--model=lstm"]),
        (["--blank_penalty=x"], ["--blank_penalty=x", "a number or auto"]),
        (["--lr_decay_every=0"], ["--lr_decay_every=0"]),
        (["--model=lsnn", "--engine=event", "--dt=0.98"], ["--n_ref=2 --dt=0.98", "dense"]),
        (["--model=lsnn", "--engine=fused"], ["--engine=fused", "--model=lsnn"]),
        (["--engine=event"], ["--engine=event", "--model=lstm"]),
    ],
)
def test_a_mistake_is_refused_in_one_line(arguments, words):
    with pytest.raises(UserError) as error:
        solve_ctc.check_flags(parse(*arguments))
    for word in words:
        assert word in str(error.value)


def test_a_run_of_the_framewise_script_is_no_start(tiny_processed, tmp_path, short_dataset):
    checkpoints.save_weights(str(tmp_path / "best.npz"), build(lstm, short_dataset()).network)
    process = run_here(
        solve_ctc,
        *("--n_neuron=8", f"--checkpoint={tmp_path}", f"--dataset={tiny_processed}"),
        *(f"--results={tmp_path / 'results'}", "--n_threads=1"),
    )
    assert_user_error(process, "--checkpoint", "another network", "readout/", "39", "40")
    assert not (tmp_path / "results").exists()
