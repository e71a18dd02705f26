"""solve_psmnist.py: its defaults, runs of both networks, what it refuses, the reference row."""

import json
import os

import numpy as np
import pytest

from helpers import assert_user_error, run_here
from toolbox import command_line

command_line.import_tensorflow()

import solve_psmnist  # noqa: E402
from lmu import legendre, readout_memory  # noqa: E402
from tasks import psmnist  # noqa: E402
from training import run_folder  # noqa: E402


def parse(*arguments):
    """Flags as the script's `main` completes them."""
    flag_values, _ = command_line.parse_flags(solve_psmnist.define_flags, ["script.py", *arguments])
    return solve_psmnist.with_defaults(flag_values)


def run(tmp_path, *arguments):
    """Run the script; returns the run folder."""
    results = tmp_path / "results"
    process = run_here(
        solve_psmnist, "--seed=1", "--n_threads=1", f"--results={results}", *arguments
    )
    assert (process.returncode, process.stderr) == (0, "")
    (folder,) = (results / "solve_psmnist").iterdir()
    return folder


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_an_lsnn_learns_the_digits_in_the_box(tmp_path):
    folder = run(
        tmp_path, "--eprop=symmetric", "--n_adaptive=48", "--n_epochs=5", "--print_every=30"
    )
    metrics = read(folder, "metrics.json")
    assert metrics["metric"] == "error" and metrics["iterations"] == 60
    assert metrics["best_develop_error"] < metrics["majority_develop_error"] - 0.05
    assert metrics["test_error"] < 0.85
    assert metrics["ideal_lmu_test_error"] < 0.15
    assert read(folder, "flags.json")["flags"]["tau_a"] == 200.0
    assert {"confusion_matrix.png", "learning_curve.png", "lsnn_digit.png"} <= set(
        os.listdir(folder)
    )
    # The run goes on with the defaults of its side, which were recorded.
    flag_values, _ = run_folder.resumed_flags(
        parse(f"--resume={folder}"), solve_psmnist.define_flags, "solve_psmnist"
    )
    assert flag_values.tau_a == 200.0 and flag_values.n_epochs == 5 and flag_values.reg_rate == 50


def test_an_lstm_with_a_memory_of_the_pixel_runs(tmp_path, eager, no_figures):
    folder = run(
        tmp_path,
        *("--model=lstm", "--n_lstm=5", "--n_epochs=1", "--batch=600", "--pixel_code=raw"),
        *("--front_end=lmu", "--front_end_order=3"),
    )
    assert read(folder, "metrics.json")["iterations"] == 2
    # Four gates of (1 + 3 columns + 5 cells) and a bias, and a readout.
    assert read(folder, "metrics.json")["trained_parameters"] == 20 * (1 + 3 + 5) + 20 + 50 + 10
    assert not (folder / "lsnn_digit.png").exists()


def test_memories_of_the_pixel_and_of_the_spikes(eager):
    """Their windows are the whole digit; the memory before the cells reads the pixel itself."""
    flag_values = parse(
        "--front_end=lmu", "--front_end_encoders=pca", "--readout_memory=legendre", "--n_adaptive=9"
    )
    task = solve_psmnist.make_task(flag_values)
    network = solve_psmnist.make_network(flag_values, task, 0)
    pixels = task.splits["develop"].pixels[:3]
    features = task.features(pixels)
    assert features.shape == (3, 64, 10) and network.layers[0].w_in.shape == (1, 10 + 16, 9)
    states = psmnist.memory_states(pixels, *legendre.discrete(16, 64.0))
    remembered = network.read(features)[1].numpy() * network.memory.rms.numpy()
    np.testing.assert_allclose(remembered, states, atol=1e-4 * abs(states).max())
    assert network.readout.v_out.shape == (1, 9, 8, 10)
    expected = readout_memory.make_kernels("legendre", 8, 64.0, np.exp(-1 / 20))
    np.testing.assert_array_equal(network.readout.memory.a, expected.a)
    learned = parse("--front_end=lmu", "--front_end_encoders=learned", "--n_adaptive=9")
    (encoders,) = solve_psmnist.make_network(learned, task, 0).memory.trainable_variables
    assert encoders.shape == (10, 1)


@pytest.mark.parametrize("model", ["lsnn", "lstm"])
def test_networks_read_forward_only(model):
    flag_values = parse(f"--model={model}")
    network = solve_psmnist.make_network(flag_values, solve_psmnist.make_task(flag_values), 0)
    assert network.layers[0].n_directions == 1
    assert network.readout.w_out.shape == (128, 10)


def test_untrained_cells_leave_the_readout():
    flag_values = parse("--nocell_train", "--n_adaptive=3")
    network = solve_psmnist.make_network(flag_values, solve_psmnist.make_task(flag_values), 0)
    trained = solve_psmnist.EXPERIMENT.trained_part(flag_values, network).trainable_variables
    assert sorted(tuple(v.shape) for v in trained) == [(3, 10), (10,)]


@pytest.mark.parametrize(
    "arguments, side",
    [([], 8), (["--dataset=mnist.npz", "--side=14"], 14), (["--dataset=mnist.npz"], 28)],
)
def test_defaults_follow_the_side(arguments, side):
    flag_values = parse(*arguments, "--tau_a=55")
    solve_psmnist.check_flags(flag_values)
    assert flag_values.tau_a == 55
    for name, values in solve_psmnist.DEFAULTS_BY_SIDE.items():
        assert name == "tau_a" or getattr(flag_values, name) == values[side]
    assert flag_values.front_end_theta == side**2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--side=0"], ["--side=0", "28|14|8"]),
        (["--side=14"], ["--side=14", "8 x 8", "--dataset", "load_data"]),
        (["--n_lstm=7"], ["--n_lstm=7", "--model=lstm"]),
        (["--model=lstm", "--tau_a=7"], ["--tau_a=7", "--model=lsnn"]),
        (["--model=lstm", "--n_regular=7"], ["--n_regular=7", "--model=lsnn"]),
        (["--front_end_order=7"], ["--front_end_order=7", "--front_end"]),
        (
            ["--front_end=lmu", "--front_end_order=65"],
            ["--front_end_theta=64", "--front_end_order=65"],
        ),
        (["--front_end_encoders=pca"], ["--front_end_encoders=pca without --front_end"]),
        (["--readout_memory=taps", "--readout_theta=5"], ["--readout_theta=5", "at least 8"]),
        (["--readout_init=ridge"], ["--readout_init=ridge"]),
        (["--engine=fused"], ["--engine=fused with --model=lsnn", "dense or event"]),
        (["--model=lstm", "--engine=event"], ["--engine=event with --model=lstm"]),
        (["--engine=event", "--dt=0.9756"], ["--n_ref=2 --dt=0.9756", "dense"]),
        (["--lr_decay_every=5"], ["--lr_decay_every=5", "--lr_schedule=linear"]),
        (["--n_adaptive=0"], ["expected a neuron"]),
        (["--dataset=nowhere/mnist.npz"], ["nowhere/mnist.npz", "cannot be read", "load_data"]),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, words):
    results = tmp_path / "results"
    assert_user_error(run_here(solve_psmnist, f"--results={results}", *arguments), *words)
    assert not results.exists()


def test_the_reference_row_reads_the_memorys_last_state():
    task = solve_psmnist.make_task(parse())
    order, error = solve_psmnist.lmu_error(task)
    assert order == 32 and 0.05 < error < 0.15  # all 64 pixels, linearly, err on 0.05
    shuffled = {
        name: split._replace(labels=np.random.default_rng(0).permutation(split.labels))
        for name, split in task.splits.items()
    }
    assert solve_psmnist.lmu_error(psmnist.PsMnist(shuffled))[1] > 0.8
