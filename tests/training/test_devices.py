"""Seeds, engines, and one training step on one and on several devices."""

import json
import os
import random
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tiny_runs
from helpers import LIMIT_S, REPOSITORY, WITHOUT_FIGURES, assert_user_error, run_here
from tiny_runs import SIZE, lsnn, parse
from training import devices
from training.flags import TrainingConfig


def test_the_seed_feeds_all_generators():
    def draws(wanted):
        seed = devices.set_up_seed(wanted)
        return seed, random.random(), np.random.rand(), float(tf.random.uniform([]))

    first, again, other = draws(5), draws(5), draws(6)
    assert first == again and first[0] == 5
    assert all(a != b for a, b in zip(first, other))
    new, newer = draws(-1), draws(-1)
    assert 0 <= new[0] < 2**31 and new[0] != newer[0] and new[1] != newer[1]
    assert draws(new[0]) == new  # what is recorded repeats the run


# --------------------------------------------------------------------------- several devices

# Runs in a process of its own: the number of (logical) devices is fixed when TensorFlow starts.
CHILD = """
import json, sys
from types import SimpleNamespace
import numpy as np
sys.path.insert(0, {repository!r})
from toolbox import command_line
command_line.import_tensorflow()
import tensorflow as tf
import models
from layers import neurons
from tasks.framewise import Framewise
from training import steps

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

# One for all cases: TensorFlow numbers the collectives of each strategy anew, and remembers shapes.
STRATEGIES = {{
    n: tf.distribute.MirroredStrategy([f"/cpu:{{i}}" for i in range(n)]) for n in (1, 2)
}}
SPEECH = SimpleNamespace(
    fold_to_reduced=[], n_features=5, n_phns=7, checksum="", note=""
)
compute_gradients, dropout_seeds = steps.compute_gradients, []

def noting_the_seed(*arguments):
    with tf.control_dependencies([tf.numpy_function(note, [arguments[-1]], [])]):
        return compute_gradients(*arguments)

def note(seed):
    dropout_seeds.append(seed.tolist())

steps.compute_gradients = noting_the_seed

def make_network(model, rule, quirks, engine):
    random_generator = np.random.default_rng(1)
    if model == "lstm":
        config = models.LstmConfig(
            rule=rule, n_lstm=6, reference_quirks=quirks, dtype=tf.float64, engine=engine
        )
        return models.Lstm(config, 5, 7, random_generator)
    config = models.LsnnConfig(
        rule=rule,
        parameters=neurons.alif_parameters(
            6, 4, n_repeat=2, reference_quirks=quirks, tau_a=20
        ),
        weight_scale=0.5, n_layer=2, engine=engine, dtype=tf.float64,
    )
    return models.Lsnn(config, 5, 7 + quirks, random_generator)

def after_steps(n_replicas, model, rule, options, n_steps):
    quirks = options.pop("reference_quirks", False)
    engine = options.pop("engine")
    dropout_seeds.clear()
    with STRATEGIES[n_replicas].scope():
        network = make_network(model, rule, quirks, engine)
        optimizer = steps.make_optimizer(network, "sgd", momentum=0.0)
        step = steps.make_train_step(
            network, Framewise(SPEECH, padding_counts=quirks and model == "lstm"),
            optimizer, network.trainable_variables, 3, 0.01, **options
        )
    data = np.random.default_rng(2)
    losses = []
    for iteration in range(n_steps):
        seq_len = np.array([9, 4, 7, 9, 3][: 5 - iteration], np.int32)
        features = data.standard_normal((len(seq_len), 9, 5))
        phns = data.integers(7, size=(len(seq_len), 9), dtype=np.int32)
        losses.append(float(step(features, phns, seq_len, 0.5, iteration)))
    weights = {{name: w.numpy().tolist() for name, w in network.weights().items()}}
    return losses, weights, list(dropout_seeds)

for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps([after_steps(n, *case[:2], dict(case[2]), case[3]) for n in (1, 2)]),
          flush=True)
"""


@pytest.fixture(scope="module")
def one_and_two_replicas():
    """Function: (losses, weights, dropout seeds) after some steps on one replica and on two."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD.format(repository=REPOSITORY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    ) as process:

        def run(*case):
            print(json.dumps(case), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
        assert process.wait(timeout=LIMIT_S) == 0


@pytest.mark.parametrize(
    "model, rule, options",
    [
        pytest.param(
            *("lsnn", "adaptive", {"engine": "event", "input_noise_std": 0.5}),
            marks=pytest.mark.stress,
        ),
        ("lsnn", "bptt", {"engine": "event", "reference_quirks": True}),
        ("lstm", "random", {"engine": "cudnn", "noise_step_start": 1, "gd_noise": 0.01}),
        pytest.param(
            *("lstm", "bptt", {"engine": "dense", "reference_quirks": True}),
            marks=pytest.mark.stress,
        ),
    ],
)
def test_replicas_do_not_change_a_step(model, rule, options, one_and_two_replicas):
    """5 to 1 utterances of unequal length: shares of 3 + 2, 2 + 2, 2 + 1, 1 + 1, and 1 + none, as
    of a training set that is smaller than the number of devices."""
    n_steps = 5
    (loss, weights, seeds), (loss_of_two, weights_of_two, seeds_of_two) = one_and_two_replicas(
        model, rule, options, n_steps
    )
    np.testing.assert_allclose(loss_of_two, loss, rtol=1e-10)
    (_, first, _), _ = one_and_two_replicas(model, rule, options, 0)
    assert weights.keys() == weights_of_two.keys() == first.keys()
    for name in weights:
        moved, moved_by_two = (
            np.array(w[name]) - np.array(first[name]) for w in (weights, weights_of_two)
        )
        if name != "readout/feedback" or rule == "adaptive":
            assert np.abs(moved).max() > 1e-6, name
        # Gradients: the learning rate is 0.5 in every step.
        atol = 1e-10 * np.abs(moved).max()
        np.testing.assert_allclose(moved_by_two, moved, rtol=0, atol=atol, err_msg=name)
    # Dropout: one replica draws for (seed, iteration), each of several for itself.
    assert seeds == [[3, iteration] for iteration in range(n_steps)]
    different = {tuple(seed) for seed in (*seeds, *seeds_of_two)}
    assert len(seeds_of_two) == 2 * n_steps and len(different) == 3 * n_steps


def free_ports(n):
    """Below those that the system gives to whoever asks for any, which may be taken meanwhile."""
    ports = []
    while len(ports) < n:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)):
                ports.append(port)
    return ports


@pytest.mark.stress
def test_two_processes_train_one_network(tiny_processed, tmp_path, no_figures):
    """By TF_CONFIG on the loopback: they end, and with the errors of one process."""
    script = os.path.join(REPOSITORY, "solve_timit_with_framewise_lsnn.py")
    arguments = [f"--dataset={tiny_processed}", *SIZE[lsnn], "--batch=3", "--n_epochs=1"]
    arguments += ["--eprop=symmetric", "--seed=4", "--n_threads=1"]
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", WITHOUT_FIGURES, script, *arguments, "--results=two"],
                cwd=tmp_path,
                env={
                    **os.environ,
                    "PYTHONPATH": REPOSITORY,
                    "CUDA_VISIBLE_DEVICES": "",
                    "TF_CONFIG": config,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        ended = [process.communicate(timeout=LIMIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, ended):
        assert process.returncode == 0, err
        assert "2 devices share each batch" in out and "selected iteration" in out
    (two,) = (tmp_path / "two" / "solve_timit_with_framewise_lsnn").iterdir()

    one = tmp_path / "one"
    one.mkdir()
    flag_values = parse(lsnn, *arguments)
    task, seed = lsnn.make_task(flag_values), devices.set_up_seed(4)
    network = lsnn.make_network(flag_values, task, seed)
    config = TrainingConfig.from_flags(flag_values)
    tiny_runs.loop.train(network, task, config, seed, str(one), network.trainable_variables)
    found, expected = (
        [e["develop_prediction_loss"] for e in tiny_runs.evaluations(folder)]
        for folder in (two, one)
    )
    assert len(expected) > 1
    # float32 sums in another order, and Adam's division by small gradients.
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_factors_are_not_rounded_to_ten_bits():
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize(
    "config, arguments, words",
    [
        ("{", ["--seed=1"], ["TF_CONFIG={", '"cluster"']),
        ('{"cluster": {}}', ["--seed=1"], ["TF_CONFIG=", "addresses of all workers"]),
        ("{}", [], ["--seed=-1 with TF_CONFIG"]),
    ],
)
def test_a_wrong_description_of_the_workers(config, arguments, words, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    assert_user_error(run_here(lsnn, *arguments), *words)
