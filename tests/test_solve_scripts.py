"""The two training scripts: their flags against the reference's, and real runs of them."""

import ast
import dataclasses
import glob
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

import models
from faults import read_arrays, read_json
from helpers import LIMIT_S, REPOSITORY, assert_user_error, run_here
from layers import alif, neurons
from layers import lstm as lstm_layer
from lmu import flags as lmu_flags
from lmu import memory, seeding, starts
from tiny_runs import BOTH, build, lsnn, lstm, run_of, values
from toolbox import command_line
from toolbox.command_line import UserError
from training.flags import TrainingConfig

NAMES = {script: script.EXPERIMENT.script for script in (lsnn, lstm)}

# Names and defaults of the e-prop authors' two scripts (Figure_2_TIMIT). Left out are clip,
# proportion_excitatory, l1 and rewiring_temperature, which nothing there reads; three defaults
# are this project's own.
OWN_DEFAULTS = {"dataset": "timit_processed", "preproc": "mfccs", "reduced_phns": True}
REFERENCE_BOTH = {
    **OWN_DEFAULTS,
    "comment": "",
    "eprop": None,
    "adam": True,
    "seed": -1,
    "print_every": 100,
    "lr_decay": 0.3,
    "batch": 32,
    "test_batch": 32,
    "l2": 1e-5,
    "lr_init": 0.01,
    "adam_epsilon": 1e-5,
    "momentum": 0.9,
    "cuda_device": -1,
}
REFERENCE = {
    lsnn: {
        **REFERENCE_BOTH,
        "run_id": "",
        "checkpoint": "",
        "plot": False,
        "psp_out": True,
        "verbose": True,
        "ramping_learning_rate": True,
        "BAglobal": False,
        "cell_train": True,
        "readout_bias": True,
        "rec": True,
        "loss_from_all_layers": True,
        "readout_decay": 0.01,
        "n_epochs": 80,
        "n_layer": 1,
        "n_regular": 300,
        "n_adaptive": 100,
        "lr_decay_every": -1,
        "n_ref": 2,
        "n_repeat": 5,
        "reg": 50,
        "reg_rate": 10,
        "truncT": -1,
        "dt": 1,
        "tau_a": 200,
        "tau_a_spread": False,
        "tau_v": 20,
        "tau_v_spread": False,
        "tau_out": 3,
        "beta": 1.8,
        "thr": 0.01,
        "dampening_factor": 0.3,
        "gd_noise": 0.036,
        "noise_step_start": -1,
        "drop_out_probability": -1,
    },
    lstm: {
        **REFERENCE_BOTH,
        "lstm": True,
        "readout_decay": 0.001,
        "n_epochs": 30,
        "n_lstm": 200,
        "lr_decay_every": 500,
        "init_scale": 0,
    },
}


def parse(script, *arguments):
    flag_values, _ = command_line.parse_flags(script.define_flags, ["script.py", *arguments])
    return flag_values


def own_flags(script):
    """The flags that the script defines, by name."""
    flag_values = parse(script)
    return {name: flag_values[name] for name in flag_values if name not in ("help", "h")}


# --------------------------------------------------------------------------- flags


@BOTH
def test_flags_have_the_names_and_defaults_of_the_reference(script):
    defined = own_flags(script)
    assert {name: defined[name].value for name in REFERENCE[script]} == REFERENCE[script]
    for never_read in ("clip", "proportion_excitatory", "l1", "rewiring_temperature"):
        assert never_read not in defined


@BOTH
def test_help_shows_every_flag_with_its_default(script, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.run(script.main, script.define_flags, script.__doc__, ["script.py", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(script.__doc__.strip())
    for name, flag in own_flags(script).items():
        assert re.search(rf"^  --(\[no\])?{name}: ", out, re.M), name
        assert len(flag.help) > 5
        assert flag.default is None or f"(default: {flag.default_as_str})" in out


@BOTH
def test_every_enum_flag_refuses_another_value(script):
    enums = [n for n, flag in own_flags(script).items() if isinstance(flag, flags.EnumFlag)]
    of_both = ["engine", "eprop", "front_end", "front_end_encoders", "lr_schedule", "preproc"]
    of_both += ["readout_init", "readout_memory"]
    assert sorted(enums) == sorted(of_both + (["method"] if script is lsnn else []))
    for name in enums:
        for value in ("neither", "", "mfcc", "Symmetric"):
            with pytest.raises(UserError) as error:
                parse(script, f"--{name}={value}")
            for word in [f"--{name}={value}", *own_flags(script)[name].parser.enum_values]:
                assert word in str(error.value)


def test_every_flag_is_read_somewhere():
    configs = (TrainingConfig, models.LsnnConfig, models.LstmConfig)
    read = {field.name for config in configs for field in dataclasses.fields(config)}
    read |= {*lmu_flags.LMU_FLAGS, *neurons.FLAGS}
    read |= {"dampening_factor", "tau_v_spread", "tau_a_spread"}  # as neurons.FLAGS, in models.py
    rooms = ("training", "tasks", "lmu", "layers")
    paths = [path for room in rooms for path in glob.glob(os.path.join(REPOSITORY, room, "*.py"))]
    for path in (*paths, models.__file__, lsnn.__file__, lstm.__file__):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        read |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and getattr(node.value, "id", "") in ("flag_values", "values")
        }
    for script in (lsnn, lstm):
        assert own_flags(script).keys() - read == set()


MEMORY = ["--readout_memory=legendre"]
INPUT_MEMORY = ["--front_end=lmu", "--front_end_encoders=pca", "--front_end_theta_ms=40"]
LMU = ["--init=lmu", "--n_regular=24", "--n_channels=2", "--order=3"]
# What each flag of the mathematics needs beside itself to have an effect, and another value.
CHANGES = {
    "eprop": (["--eprop=symmetric"], []),
    "reference_quirks": (["--reference_quirks"], []),
    "adam": (["--noadam"], []),
    "adam_epsilon": (["--adam_epsilon=1e-2"], []),
    "momentum": (["--momentum=0.5"], []),
    "l2": (["--l2=0.1"], []),
    "readout_decay": (["--readout_decay=0.5"], ["--eprop=adaptive"]),
    "gd_noise": (["--gd_noise=0.5"], ["--noise_step_start=0"]),
    "noise_step_start": (["--noise_step_start=1"], []),
    "grad_clip": (["--grad_clip=0.01"], ["--noadam"]),
    "n_lstm": (["--n_lstm=9"], []),
    "lstm": (["--nolstm"], []),
    "init_scale": (["--init_scale=0.1"], []),
    "n_regular": (["--n_regular=7"], []),
    "n_adaptive": (["--n_adaptive=5"], []),
    "n_layer": (["--n_layer=2"], []),
    "peephole": (["--peephole"], []),
    "n_directions": (["--n_directions=1"], []),
    "input_noise_std": (["--input_noise_std=0.5"], []),
    "cell_lr_factor": (["--cell_lr_factor=0.1"], []),
    "loss_from_all_layers": (["--noloss_from_all_layers"], ["--n_layer=2"]),
    "rec": (["--norec"], []),
    "weight_scale": (["--weight_scale=0.5"], []),
    "init": (["--init=lmu_shuffled"], LMU),
    "theta_ms": (["--theta_ms=60"], LMU),
    "order": (["--order=2"], LMU),
    "n_channels": (["--n_channels=3"], LMU),
    "channels": (["--channels=2,5"], LMU),
    "lmu_fraction": (["--lmu_fraction=0.5"], LMU),
    "gain_min": (["--gain_min=0.2"], LMU),
    "gain_max": (["--gain_max=4"], LMU),
    "drive_std": (["--drive_std=3"], LMU),
    "refits": (["--refits=2"], LMU),
    "method": (["--method=nengo"], LMU),
    "BAglobal": (["--BAglobal"], ["--eprop=random"]),
    "readout_bias": (["--noreadout_bias"], []),
    "psp_out": (["--nopsp_out"], []),
    "tau_out": (["--tau_out=1"], []),
    "n_repeat": (["--n_repeat=3"], []),
    "dt": (["--dt=0.5"], []),
    "tau_v": (["--tau_v=10"], []),
    "tau_v_spread": (["--tau_v_spread"], []),
    "tau_a": (["--tau_a=20"], []),
    "tau_a_spread": (["--tau_a_spread"], ["--tau_a=10"]),
    "thr": (["--thr=0.02"], []),
    "beta": (["--beta=0.9"], []),
    "n_ref": (["--n_ref=4"], []),
    "dampening_factor": (["--dampening_factor=0.6"], []),
    "reg": (["--reg=5"], []),
    "reg_rate": (["--reg_rate=20"], []),
    "drop_out_probability": (["--drop_out_probability=0.5"], []),
    "readout_memory": (["--readout_memory=taps"], MEMORY),
    "readout_order": (["--readout_order=3"], MEMORY),
    "readout_theta_ms": (["--readout_theta_ms=80"], MEMORY),
    "front_end_encoders": (["--front_end_encoders=learned"], INPUT_MEMORY),
}
# Flags of the run, each with a test of its own in one of TESTED_IN, as the name says.
RUN_FLAGS = {
    "dataset": "test_a_real_run_of_the_lstm",
    "preproc": "test_the_data_set_is_described",
    "engine": "test_both_engines_train_alike",
    "reduced_phns": "test_the_data_set_is_described",
    "seed": "test_another_seed_another_result",
    "n_epochs": "test_every_epoch_shows_every_utterance_in_another_order",
    "batch": "test_batch_is_the_number_of_utterances",
    "test_batch": "test_no_epoch_is_an_evaluation_of_the_first_weights",
    "print_every": "test_a_run_leaves_metrics_weights_and_figures",
    "truncT": "test_truncT_cuts_windows",
    "target_delay_frames": "test_the_data_set_is_described",
    "readout_init": "test_a_reservoir_with_a_ridge_readout",
    "front_end": "test_the_past_is_appended_to_the_features",
    "front_end_channels": "test_the_past_is_appended_to_the_features",
    "front_end_order": "test_the_past_is_appended_to_the_features",
    "front_end_theta_ms": "test_the_past_is_appended_to_the_features",
    "lr_init": "test_learning_rate",
    "ramping_learning_rate": "test_learning_rate",
    "lr_decay_every": "test_learning_rate",
    "lr_decay": "test_learning_rate",
    "lr_schedule": "test_learning_rate",
    "lr_hold": "test_learning_rate",
    "lr_final": "test_learning_rate",
    "checkpoint": "test_a_run_starts_from_a_checkpoint",
    "resume": "test_ctrl_c_saves_a_run_and_names_the_command_that_continues_it",
    "checkpoint_every_s": "test_checkpoints_are_written_between_evaluations",
    "results": "test_a_real_run_of_the_lstm",
    "comment": "test_a_real_run_of_the_lstm",
    "run_id": "test_a_real_run_of_the_lstm",
    "plot": "test_plot_draws_at_every_evaluation",
    "verbose": "test_plot_draws_at_every_evaluation",
    "cuda_device": "test_cuda_device_sets_the_environment",
    "n_threads": "test_a_real_run_of_the_lstm",
    "cell_train": "test_a_real_run_of_the_lsnn_trains_the_readout_alone",
    "measure_memory": "test_a_seeded_run_records_its_memory",
}
TESTED_IN = (
    "test_solve_scripts.py",
    "tasks/test_framewise.py",
    *(f"training/test_{name}.py" for name in ("devices", "loop", "resume", "schedule")),
)


@pytest.mark.parametrize(
    "script, engines, recurrent",
    [
        (lsnn, alif.CPU_ENGINES, "layer0/w_rec"),
        (lstm, lstm_layer.LSTM_ENGINES[:2], "layer0/kernel"),
    ],
    ids=["lsnn", "lstm"],
)
def test_both_engines_train_alike(script, engines, recurrent, short_dataset, eager):
    rules = ((), ("--eprop=symmetric",))
    trained = {
        (engine, rule): weights_after_two_steps(
            script, short_dataset(), f"--engine={engine}", *rule
        )
        for engine in engines
        for rule in rules
    }
    for (_, rule), weights in trained.items():
        for name, w in weights.items():
            np.testing.assert_allclose(trained["dense", rule][name], w, rtol=0, atol=1e-5)
    bptt, symmetric = (trained[engines[1], rule][recurrent] for rule in rules)
    assert np.max(np.abs(bptt - symmetric)) > 5e-5


def test_every_flag_has_its_test():
    defined = own_flags(lsnn).keys() | own_flags(lstm).keys()
    assert CHANGES.keys() | RUN_FLAGS.keys() == defined
    assert not CHANGES.keys() & RUN_FLAGS.keys()
    tests = ""
    for name in TESTED_IN:
        with open(os.path.join(REPOSITORY, "tests", name), encoding="utf-8") as file:
            tests += file.read()
    for test in RUN_FLAGS.values():
        assert f"def {test}(" in tests


def weights_after_two_steps(script, dataset, *arguments):
    """All weights after two steps of training on two batches, taken as the loop takes them."""
    small = ["--noramping_learning_rate"]
    if script is lsnn:
        small += ["--n_regular=4", "--weight_scale=1"]
    # Seed 5 halves the time constants of regular and of adaptive neurons where they are spread.
    run = run_of(build(script, dataset, *small, *arguments, seed=5))
    for utterances in ([0, 1], [3, 4]):  # 6 and 10 frames
        run.step(0, dataset.train.batch(utterances))
    return values(run.network)


@pytest.fixture(scope="module")
def unchanged(short_dataset):
    """Function: weights after two steps without a change, computed once for each context."""
    known = {}

    def weights(script, context):
        key = (script, *context)
        if key not in known:
            known[key] = weights_after_two_steps(script, short_dataset(), *context)
        return known[key]

    return weights


CASES = [
    pytest.param(script, name, id=f"{NAMES[script][-4:]}-{name}")
    for script in (lsnn, lstm)
    for name in CHANGES
    if name in own_flags(script)
]


@pytest.mark.parametrize("script, name", CASES)
def test_no_flag_is_dead(script, name, unchanged, short_dataset, eager):
    """Each flag of the mathematics, changed alone, makes two steps of training end elsewhere."""
    change, context = CHANGES[name]
    before = unchanged(script, context)
    after = weights_after_two_steps(script, short_dataset(), *context, *change)
    shapes = [{name: w.shape for name, w in weights.items()} for weights in (before, after)]
    if shapes[0] == shapes[1]:
        difference = max(np.max(np.abs(before[name] - after[name])) for name in before)
        assert difference > 1e-5  # rounding moves weights near 1 by 1e-7
    assert all(np.isfinite(w).all() for w in after.values())


def test_without_a_change_nothing_differs(unchanged, short_dataset, eager):
    """What the test above compares is not noise."""
    for script in (lsnn, lstm):
        again = weights_after_two_steps(script, short_dataset())
        for name, weights in unchanged(script, []).items():
            np.testing.assert_array_equal(weights, again[name])


def test_layer_sizes_are_per_direction(short_dataset):
    def shapes(*arguments):
        network = build(*arguments).network
        return {name: tuple(variable.shape) for name, variable in network.weights().items()}

    dataset = short_dataset()
    assert shapes(lsnn, dataset, "--n_regular=4", "--n_adaptive=3", "--n_layer=2") == {
        "layer0/w_in": (2, 39, 7),
        "layer0/w_rec": (2, 7, 7),
        "layer1/w_in": (2, 14, 7),
        "layer1/w_rec": (2, 7, 7),
        "readout/w_out": (28, 39),
        "readout/b_out": (39,),
    }
    assert shapes(lstm, dataset, "--n_lstm=5") == {
        "layer0/kernel": (2, 44, 20),
        "layer0/bias": (2, 20),
        "readout/w_out": (10, 39),
        "readout/b_out": (39,),
    }


def test_weight_scale_is_small_unless_the_reference_is_asked_for(short_dataset):
    for arguments, scale in (([], 0.05), (["--reference_quirks"], 1), (["--weight_scale=3"], 3)):
        size = ["--n_regular=300", "--n_adaptive=100"]
        network = build(lsnn, short_dataset(), *size, *arguments).network
        w_in = network.layers[0].w_in.numpy()  # 39 * 400 * 2 numbers: 0.4 % standard error
        assert np.std(w_in) == pytest.approx(scale / np.sqrt(39), rel=0.03)


def test_spread_time_constants_are_whole_or_half(short_dataset):
    for name, decay in (("tau_v", "alpha"), ("tau_a", "rho")):
        arguments = [f"--{name}_spread", f"--{name}=40", "--n_regular=20", "--n_adaptive=20"]
        network = build(lsnn, short_dataset(), *arguments).network
        tau = -1 / np.log(getattr(network.parameters, decay))
        assert set(np.round(tau, 6)) == {20.0, 40.0}


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        (lstm, ["--nolstm", "--eprop=symmetric"], ["--nolstm", "--eprop=symmetric"]),
        (lstm, ["--lr_hold=0.1"], ["--lr_hold=0.1 without --lr_schedule=linear"]),
        (lsnn, ["--lr_final=0.1"], ["--lr_final=0.1 without --lr_schedule=linear"]),
        (
            lsnn,
            ["--lr_schedule=linear", "--lr_decay_every=9"],
            ["--lr_decay_every=9", "--lr_schedule=linear"],
        ),
        (lsnn, ["--BAglobal"], ["--BAglobal", "BPTT", "--eprop=random"]),
        (lsnn, ["--noreadout_bias", "--readout_init=ridge"], ["--noreadout_bias", "ridge"]),
        (lsnn, ["--dt=0.98"], ["dt_ms = 0.98", "--nomeasure_memory"]),
        (
            lsnn,
            ["--engine=event", "--dt=0.98", "--nomeasure_memory"],
            ["--n_ref=2 --dt=0.98 with --engine=event", "dense"],
        ),
        (lsnn, ["--engine=dense", "--dt=0.98"], ["dt_ms = 0.98", "--nomeasure_memory"]),
        (lsnn, ["--engine=cuda", "--n_regular=4000"], ["4100 neurons", "3072", "--engine=cuda"]),
        (lsnn, ["--init=LMU"], ["--init=LMU", "random", "lmu_shuffled", ".npz"]),
        (lsnn, ["--init=lmu", "--norec"], ["--norec", "--init=lmu"]),
        (lsnn, ["--init=seed.npz", "--norec"], ["--norec", "--init=seed.npz"]),
        (lsnn, ["--init=seed.npz", "--tau_v_spread"], ["--tau_v_spread", "--init=seed.npz"]),
        (lsnn, ["--init=lmu", "--order=75"], ["--order=75", "300", "300 regular neurons"]),
        (lsnn, ["--init=lmu", "--theta_ms=9"], ["--theta_ms=9", "10 ms"]),
        (lsnn, ["--n_regular=0", "--n_adaptive=0"], ["--n_regular=0", "--n_adaptive=0"]),
        (lsnn, ["--theta_ms=150"], ["--theta_ms=150.0 without --init=lmu or lmu_shuffled"]),
        (lsnn, ["--init=seed.npz", "--order=3"], ["--order=3 without --init=lmu or lmu_shuffled"]),
        (lstm, ["--front_end_order=3"], ["--front_end_order=3 without --front_end:"]),
        (lstm, ["--readout_order=3"], ["--readout_order=3 without --readout_memory:"]),
        (lsnn, [*MEMORY, "--readout_init=ridge"], ["--readout_memory=legendre", "leave out one"]),
        (
            lsnn,
            ["--front_end=lmu", "--front_end_encoders=learned", "--nocell_train"],
            ["--front_end_encoders=learned with --nocell_train", "take pca"],
        ),
        (lstm, ["--readout_memory=taps", "--readout_theta_ms=50"], ["--readout_theta_ms=50", "60"]),
        (lsnn, [*INPUT_MEMORY, "--readout_init=ridge"], ["--front_end_encoders=pca", "leave out"]),
        (lsnn, ["--init=lmu", "--front_end_theta_ms=90"], ["--front_end_theta_ms=90.0 without"]),
    ],
)
def test_flags_that_exclude_each_other(script, arguments, words):
    with pytest.raises(UserError) as error:
        script.check_flags(parse(script, *arguments))
    for word in words:
        assert word in str(error.value)


def test_every_flag_of_the_memory_needs_the_memory():
    """Given without it, with another value than the default; not where a run is resumed."""
    for name in lmu_flags.LMU_FLAGS:
        change, _ = CHANGES[name]
        with pytest.raises(UserError, match=f"--{name}=.* without --init=lmu"):
            lsnn.check_flags(parse(lsnn, *change))
        default = parse(lsnn)[name].default
        lsnn.check_flags(parse(lsnn, f"--{name}={default}"))
        lsnn.check_flags(parse(lsnn, *change, "--resume=folder"))
        lsnn.check_flags(parse(lsnn, *change, "--init=lmu_shuffled"))


@BOTH
@pytest.mark.parametrize("name, value", [("channels", 2), ("order", 3), ("theta_ms", 90)])
def test_every_flag_of_the_front_end_needs_the_front_end(script, name, value):
    given = f"--front_end_{name}={value}"
    with pytest.raises(UserError, match=f"{given}.* without --front_end: "):
        script.check_flags(parse(script, given))
    default = parse(script)[f"front_end_{name}"].default
    script.check_flags(parse(script, f"--front_end_{name}={default}"))
    script.check_flags(parse(script, given, "--front_end=lmu"))
    script.check_flags(parse(script, given, "--resume=folder"))


# --------------------------------------------------------------------------- real runs


def only_run_folder(results, script):
    (name,) = os.listdir(os.path.join(results, NAMES[script]))
    return os.path.join(results, NAMES[script], name)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_processed):
    """Function that runs a script on the tiny data set; `results` names a folder of its own."""
    folder = tmp_path_factory.mktemp("runs")

    def run(script, *arguments, results="none"):
        size = ["--n_regular=4", "--n_adaptive=3"] if script is lsnn else ["--n_lstm=6"]
        size += ["--n_threads=2", f"--results={folder / results}"]
        ended = run_here(script, f"--dataset={tiny_processed}", *size, *arguments)
        ended.results = str(folder / results)
        return ended

    return run


@pytest.fixture
def refused(run):
    """Function: a script ends with one line with these words, without any run folder."""

    def refused(script, *arguments, words):
        process = run(script, *arguments)
        assert_user_error(process, *words)
        assert not os.path.exists(process.results) and process.stdout.count("run folder") == 0

    return refused


@pytest.fixture(scope="module")
def lstm_run(run):
    """A run of the LSTM script: (process, run folder)."""
    process = run(
        lstm,
        "--eprop=symmetric",
        "--n_epochs=2",
        "--batch=3",
        "--print_every=2",
        "--comment=first",
        "--run_id=7",
        results="lstm",
    )
    assert process.returncode == 0, process.stderr
    return process, only_run_folder(process.results, lstm)


def test_a_real_run_of_the_lstm(lstm_run, tiny_processed):
    process, folder = lstm_run
    assert process.stderr == ""
    assert folder.endswith("_first_7")
    lines = process.stdout.splitlines()
    assert lines[0] == "utterances: train 6, develop 2, test 3; 39 features; 39 phone classes"
    assert "no GPU visible: computing on the CPU with 2 thread(s)" in lines
    evaluation = r"epoch +\d+  iteration +\d+  (.* s/iteration  )?develop: frame error 0\.\d+, loss"
    assert sum(re.match(evaluation, line) is not None for line in lines) == 3

    metrics, record = read_json(folder, "metrics.json"), read_json(folder, "flags.json")
    assert metrics["iterations"] == 4
    assert 0 < metrics["best_develop_frame_error"] <= metrics["initial_develop_frame_error"] <= 1
    assert 0 < metrics["test_frame_error"] <= 1
    # --seed=-1 is the default: the seed drawn is on record.
    assert record["flags"]["seed"] == -1
    assert metrics["seed"] == record["seed"] >= 0
    assert record["script"] == NAMES[lstm]
    assert record["flags"]["dataset"] == tiny_processed
    assert record["command"][0].endswith(f"{NAMES[lstm]}.py")
    assert "--comment=first" in record["command"]
    for name in ("learning_curve", "confusion_matrix"):
        with open(os.path.join(folder, f"{name}.png"), "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert not os.path.exists(os.path.join(folder, "lsnn_utterance.png"))


def test_a_real_run_of_the_lsnn_trains_the_readout_alone(run, tiny_processed, capfd):
    """--nocell_train; and TensorFlow writes nothing around Python."""
    arguments = ["--n_regular=4", "--n_adaptive=3", "--n_repeat=1", "--eprop=adaptive"]
    process = run(
        lsnn,
        *arguments,
        "--nocell_train",
        "--noreduced_phns",
        "--truncT=60",
        "--batch=3",
        "--n_epochs=2",
        "--seed=5",
        results="lsnn",
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert capfd.readouterr() == ("", "")
    assert re.search(r"firing rates \(Hz\): min \d+, max \d+, mean", process.stdout)
    assert "61 phone classes" in process.stdout
    assert re.search(
        r"selected iteration \d.*; test: frame error 0\.\d+, frame error 39 0\.\d+$",
        process.stdout.strip(),
    )
    folder = only_run_folder(process.results, lsnn)
    metrics = read_json(folder, "metrics.json")
    assert metrics["seed"] == 5 and metrics["iterations"] == 4
    assert metrics["test_frame_error_39"] <= metrics["test_frame_error"]
    with open(os.path.join(folder, "lsnn_utterance.png"), "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"

    task = lsnn.make_task(parse(lsnn, f"--dataset={tiny_processed}", "--noreduced_phns"))
    first = values(lsnn.make_network(parse(lsnn, *arguments), task, 5))
    last = read_arrays(folder, "last.npz")
    assert first.keys() == last.keys()
    untouched = {name for name in first if np.array_equal(first[name], last[name])}
    assert untouched == {"layer0/w_in", "layer0/w_rec"}
    assert metrics["trained_parameters"] == sum(
        first[name].size for name in first if name.startswith("readout/")
    )


def test_a_reservoir_with_a_ridge_readout(run, eager, no_figures):
    """Fitted, not trained: better than the commonest phone, with the first weights of the cells."""
    arguments = ["--readout_init=ridge", "--nocell_train", "--n_epochs=0", "--seed=5"]
    process = run(lsnn, *arguments, "--n_regular=40", "--n_adaptive=10", results="ridge")
    assert (process.returncode, process.stderr) == (0, "")
    metrics = read_json(only_run_folder(process.results, lsnn), "metrics.json")
    assert metrics["iterations"] == 0
    assert metrics["initial_develop_frame_error"] < metrics["majority_develop_frame_error"]


@pytest.fixture(scope="module")
def seed_file(tiny_processed, tmp_path_factory):
    """Weights for a network of 40 regular and 10 adaptive neurons."""
    path = str(tmp_path_factory.mktemp("seed") / "seed.npz")
    dataset = lsnn.make_task(parse(lsnn, f"--dataset={tiny_processed}")).dataset
    flag_values = parse(lsnn, "--order=3", "--n_channels=2")
    layer = seeding.seed_layer(
        dataset.train.features,
        neurons.alif_parameters(40, 10),
        40,
        lmu_flags.settings_from_flags(flag_values, dataset.n_static),
        np.random.default_rng(1),
    )
    seeding.save_seed(path, layer, {"seed": 1, "tau_v": 20.0})
    return path


@pytest.mark.stress
def test_a_seeded_run_records_its_memory(run, seed_file, tiny_processed, eager, no_figures):
    """From a file and from the flags: the first weights, the same twice, and what they remember."""
    size = ["--n_regular=40", "--n_adaptive=10", "--seed=5"]
    arguments = [*size, "--eprop=symmetric", "--n_epochs=1", "--batch=3"]
    of_lmu = ["--order=3", "--n_channels=2"]
    found = {}
    for name, init, more in (
        ("file", seed_file, []),
        ("lmu", "lmu", of_lmu),
        ("again", "lmu", of_lmu),
        ("shuffled", "lmu_shuffled", [*of_lmu, "--nomeasure_memory"]),
        ("random", "random", []),
    ):
        process = run(lsnn, f"--init={init}", *arguments, *more, results=f"init_{name}")
        assert (process.returncode, process.stderr) == (0, ""), name
        found[name] = only_run_folder(process.results, lsnn)
    assert not os.path.exists(os.path.join(found["shuffled"], "memory.json"))
    weights = {name: read_arrays(folder, "last.npz") for name, folder in found.items()}
    memories = {n: read_json(f, "memory.json") for n, f in found.items() if n != "shuffled"}
    for name, w in weights["lmu"].items():
        np.testing.assert_array_equal(weights["again"][name], w)
    assert memories["lmu"] == memories["again"]
    for other in ("file", "shuffled", "random"):
        difference = weights[other]["layer0/w_rec"] - weights["lmu"]["layer0/w_rec"]
        assert np.abs(difference).max() > 1e-3, other
    for name, record in memories.items():
        for when in ("before", "after"):
            assert len(record[when]["r2_channels"]) == 21
            assert 1 < record[when]["rate_hz_mean"] < 300
        assert record["before"] != record["after"]
        metrics = read_json(found[name], "metrics.json")
        for when in ("before", "after"):
            capacity = record[when]["memory_capacity_channels"]
            assert metrics[f"memory_capacity_{when}"] == capacity
        floor = record["floor"]["memory_capacity_channels"]
        assert metrics["memory_capacity_floor"] == floor and 0 < floor < 21
        assert os.path.exists(os.path.join(found[name], "memory.png"))
    # The weights in the file are those that were measured first.
    dataset = lsnn.make_task(parse(lsnn, f"--dataset={tiny_processed}")).dataset
    layer, _ = seeding.load_seed(seed_file, dataset.n_features, 50)
    activity = memory.simulate(
        [*dataset.train.features, *dataset.develop.features],
        layer.w_in,
        layer.w_rec,
        neurons.alif_parameters(40, 10),
    )
    assert memories["file"]["before"]["psi_positive_share"] > 0.05
    assert memories["file"]["before"]["rate_hz_mean"] == pytest.approx(
        activity.rates_hz.mean(), rel=0.2
    )


def first_weights(run, *arguments, results):
    """The weights with which a run of 40 regular and 10 adaptive neurons starts."""
    size = ["--n_regular=40", "--n_adaptive=10", "--n_epochs=0", "--seed=5", "--nomeasure_memory"]
    process = run(lsnn, *size, *arguments, results=results)
    assert (process.returncode, process.stderr) == (0, "")
    return read_arrays(only_run_folder(process.results, lsnn), "last.npz")


@pytest.mark.parametrize("fraction", [pytest.param(1, marks=pytest.mark.stress), 0.5])
def test_the_control_permutes_who_sends_in_the_memory(fraction, run, eager, no_figures):
    """`lmu_shuffled` is the start of `lmu` but for the rows of the LMU's regular neurons, and for
    a factor of all weights, which makes it fire as much."""
    settings = ["--order=3", "--n_channels=2", f"--lmu_fraction={fraction}"]
    seeded, control = (
        first_weights(run, f"--init={init}", *settings, results=f"{init}_{fraction}")
        for init in starts.SEEDED
    )
    assert seeded.keys() == control.keys()
    w_in, scaled = (weights["layer0/w_in"] for weights in (seeded, control))
    scale = np.sum(w_in * scaled) / np.sum(w_in**2)
    np.testing.assert_allclose(scaled, scale * w_in, rtol=1e-5)
    control["layer0/w_rec"] /= scale
    for name in seeded.keys() - {"layer0/w_in", "layer0/w_rec"}:
        np.testing.assert_array_equal(control[name], seeded[name])
    n_lmu = int(40 * fraction)
    sources = []
    for w_rec, mixed in zip(seeded["layer0/w_rec"], control["layer0/w_rec"]):
        np.testing.assert_allclose(mixed[n_lmu:], w_rec[n_lmu:], rtol=1e-4)  # others
        assert np.abs(w_rec[:n_lmu]).max() > 1e-3
        # A row is that of another neuron, but for what it would send to itself.
        is_from = np.isclose(mixed[:n_lmu, np.newaxis], w_rec[:n_lmu], rtol=1e-4, atol=0)
        is_from = np.sum(~is_from, axis=2) <= 1
        assert (is_from.sum(axis=0) == 1).all() and (is_from.sum(axis=1) == 1).all()
        source = is_from.argmax(axis=1)
        expected = w_rec[source]
        np.fill_diagonal(expected, 0)
        np.testing.assert_allclose(mixed[:n_lmu], expected, rtol=1e-4)
        assert np.sum(source != np.arange(n_lmu)) > n_lmu / 2
        sources.append(source)
    assert np.any(sources[0] != sources[1])


def test_a_run_starts_with_the_weights_of_its_file(run, seed_file, eager, no_figures):
    found = first_weights(run, f"--init={seed_file}", results="file_start")
    file = read_arrays(seed_file)
    for name in ("w_in", "w_rec"):
        assert found[f"layer0/{name}"].dtype == np.float32 and file[name].any()
        np.testing.assert_array_equal(found[f"layer0/{name}"], file[name])


def test_a_seed_of_another_network_is_refused(refused, seed_file):
    words = ["--init", seed_file]
    refused(lsnn, f"--init={seed_file}", words=[*words, "(2, 39, 50)", "(2, 39, 7)"])
    size = ["--n_regular=40", "--n_adaptive=10", f"--init={seed_file}"]
    refused(lsnn, *size, "--tau_v=30", words=[*words, "--tau_v=20.0", "30.0"])
    refused(lsnn, *size, "--norec", words=["--norec", "--init"])
    refused(lsnn, "--init=nowhere.npz", words=["--init", "nowhere.npz", "lmu_init.py"])


@pytest.mark.stress
def test_ctrl_c_saves_a_run_and_names_the_command_that_continues_it(
    tiny_processed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    script = os.path.join(REPOSITORY, "solve_timit_with_framewise_lstm.py")
    command = [sys.executable, "-u", script, f"--dataset={tiny_processed}"]
    with subprocess.Popen(
        [*command, "--n_lstm=4", "--n_epochs=100000", "--print_every=1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            evaluations = (line for line in process.stdout if line.startswith("epoch"))
            assert "iteration     0" in next(evaluations)
            assert "iteration     1" in next(evaluations)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 130
    folder = only_run_folder("results", lstm)  # as the process was told
    start = "solve_timit_with_framewise_lstm.py: interrupted: continue with: python3 "
    assert err == f"{start}{script} --resume={folder}\n"
    assert sorted(os.listdir(tmp_path / folder)) == [
        "best.npz",
        "checkpoint.npz",
        "checkpoint_before.npz",
        "flags.json",
        "inference.json",
        "metrics.jsonl",
        "processing.json",
    ]


MISTAKES = [
    (lsnn, ["--eprop=hebbian"], ["--eprop=hebbian", "symmetric", "random", "adaptive"]),
    (lstm, ["--adam", "False"], ["'False'", "--flag=value"]),
    (lstm, ["--preproc=mfcc"], ["--preproc=mfcc", "mfccs", "fbank", "htk"]),
    (lsnn, ["--seed=-2"], ["--seed=-2"]),
    (lsnn, ["--truncT=0"], ["--truncT=0", "-1"]),
    (lstm, ["--dataset=nowhere"], ["'nowhere'", "timit_processing.py"]),
    (lsnn, ["--preproc=htk"], ["htk.pickle", "HTK"]),
    (lsnn, ["--preproc=cochspec"], ["cochspec", "mfccs, fbank, htk"]),
    (lstm, ["--preproc=cochspike"], ["cochspike", "mfccs, fbank, htk"]),
    (lsnn, ["--BAglobal", "--eprop=symmetric"], ["--BAglobal", "--eprop=random"]),
    (lsnn, ["--checkpoint=nowhere.npz"], ["--checkpoint", "nowhere.npz"]),
]


@pytest.mark.parametrize("script, arguments, words", MISTAKES)
def test_a_mistake_ends_with_one_line_and_status_2(script, arguments, words, refused):
    refused(script, *arguments, words=[f"{NAMES[script]}.py: error: ", *words])


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        (lstm, ["--n_lstm=7"], ["layer0/bias", "(2, 24)", "(2, 28)"]),
        (lstm, ["--noreduced_phns"], ["readout/", "39", "61"]),
        (lstm, ["--preproc=fbank"], ["layer0/kernel", "(2, 45, 24)", "(2, 129, 24)"]),
        (lsnn, [], ["layer0/w_in"]),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(script, arguments, words, refused, lstm_run):
    words = ["--checkpoint", "another network", *words]
    refused(script, f"--checkpoint={lstm_run[1]}", *arguments, words=words)


def test_a_run_starts_from_a_checkpoint(run, lstm_run, eager, no_figures):
    _, folder = lstm_run
    process = run(lstm, f"--checkpoint={folder}", "--n_epochs=0", results="checkpoint")
    assert process.returncode == 0, process.stderr
    found = read_json(only_run_folder(process.results, lstm), "metrics.json")
    expected = read_json(folder, "metrics.json")
    assert found["initial_develop_frame_error"] == expected["best_develop_frame_error"]
    assert found["test_frame_error"] == expected["test_frame_error"]
    assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-6)


def test_cuda_device_sets_the_environment(run, monkeypatch):
    for given, expected in (([], "as it was"), (["--cuda_device=3"], "3")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
        ended = run(lstm, "--checkpoint=nowhere", *given)
        assert ended.environ["CUDA_VISIBLE_DEVICES"] == expected
