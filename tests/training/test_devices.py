"""One training step on one and on several devices: the same gradients, the same weights."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from helpers import REPOSITORY, assert_user_error

# Runs in a process of its own: the number of (logical) devices is fixed when TensorFlow starts.
CHILD = """
import json, sys
import numpy as np
sys.path.insert(0, {repository!r})
from toolbox import command_line
command_line.import_tensorflow()
import tensorflow as tf
import models
from layers import event_driven
from training import loop
import solve_timit_with_framewise_lsnn as lsnn
import solve_timit_with_framewise_lstm as lstm

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

# One for all cases: TensorFlow numbers the collectives of each strategy anew, and remembers shapes.
STRATEGIES = {{
    n: tf.distribute.MirroredStrategy([f"/cpu:{{i}}" for i in range(n)]) for n in (1, 2)
}}

def weights_after_steps(n_replicas, model, rule, arguments, n_steps):
    strategy = STRATEGIES[n_replicas]
    script = {{"lsnn": lsnn, "lstm": lstm}}[model]
    flag_values, _ = command_line.parse_flags(
        script.define_flags, ["script", "--noadam", "--momentum=0", *arguments]
    )
    random_generator = np.random.default_rng(1)
    quirks = flag_values.reference_quirks
    with strategy.scope():
        if model == "lsnn":
            parameters = event_driven.alif_parameters(
                6, 4, n_repeat=2, reference_quirks=quirks, tau_a=20
            )
            network = models.Lsnn(
                5, 7, rule, parameters, random_generator, weight_scale=0.5, n_layer=2,
                engine=flag_values.engine, dtype=tf.float64,
            )
        else:
            network = models.Lstm(
                5, 7, rule, 6, random_generator, reference_quirks=quirks, dtype=tf.float64
            )
        optimizer = loop.make_optimizer(flag_values, network)
        step = loop.make_train_step(
            network, optimizer, network.trainable_variables, flag_values, 3
        )
    data = np.random.default_rng(2)
    losses = []
    for iteration in range(n_steps):
        seq_len = np.array([9, 4, 7, 9, 3][: 5 - iteration], np.int32)
        features = data.standard_normal((len(seq_len), 9, 5))
        phns = data.integers(7, size=(len(seq_len), 9), dtype=np.int32)
        losses.append(float(step(features, phns, seq_len, 0.5, iteration)))
    return losses, {{name: w.numpy().tolist() for name, w in network.weights().items()}}

for line in sys.stdin:
    print(json.dumps([weights_after_steps(n, *json.loads(line)) for n in (1, 2)]), flush=True)
"""


@pytest.fixture(scope="module")
def one_and_two_replicas():
    """Function: (losses, weights) after some steps on one replica and on two."""
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
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    "model, rule, arguments",
    [
        ("lsnn", "symmetric", ["--engine=event"]),
        ("lsnn", "adaptive", ["--engine=dense", "--input_noise_std=0.5"]),
        ("lsnn", "bptt", ["--engine=event", "--reference_quirks"]),
        ("lstm", "random", ["--noise_step_start=1", "--gd_noise=0.01"]),
        ("lstm", "bptt", ["--reference_quirks"]),
    ],
)
def test_replicas_do_not_change_a_step(model, rule, arguments, one_and_two_replicas):
    """5 to 1 utterances of unequal length: shares of 3 + 2, 2 + 2, 2 + 1, 1 + 1, and 1 + none, as
    of a training set that is smaller than the number of devices."""
    n_steps = 5
    (loss, weights), (loss_of_two, weights_of_two) = one_and_two_replicas(
        model, rule, arguments, n_steps
    )
    np.testing.assert_allclose(loss_of_two, loss, rtol=1e-10)
    (_, first), _ = one_and_two_replicas(model, rule, arguments, 0)
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


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_processes_train_one_network(tiny_processed, tmp_path):
    """By TF_CONFIG on the loopback: they end, and with the errors of one process."""
    script = os.path.join(REPOSITORY, "solve_timit_with_framewise_lsnn.py")
    sizes = ["--n_regular=6", "--n_adaptive=4", "--n_repeat=1", "--batch=3", "--n_epochs=2"]
    arguments = [f"--dataset={tiny_processed}", *sizes, "--eprop=symmetric", "--seed=4"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, script, *arguments, "--results=two", "--n_threads=1"],
                cwd=tmp_path,
                env={**environment, "TF_CONFIG": config},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        ended = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, ended):
        assert process.returncode == 0, err
        assert "2 devices share each batch" in out and "selected iteration" in out
    subprocess.run(
        [sys.executable, script, *arguments, "--results=one", "--n_threads=1"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        timeout=240,
    )
    metrics = {}
    for name in ("one", "two"):
        (folder,) = (tmp_path / name / "solve_timit_with_framewise_lsnn").iterdir()
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        metrics[name] = [json.loads(line)["develop_prediction_loss"] for line in lines]
    assert len(metrics["one"]) > 1
    # float32 sums in another order, and Adam's division by small gradients.
    np.testing.assert_allclose(metrics["two"], metrics["one"], rtol=1e-3)


@pytest.mark.parametrize(
    "config, arguments, words",
    [
        ("{", ["--seed=1"], ["TF_CONFIG={", '"cluster"']),
        ('{"cluster": {}}', ["--seed=1"], ["TF_CONFIG=", "addresses of all workers"]),
        ("{}", [], ["--seed=-1 with TF_CONFIG"]),
    ],
)
def test_a_wrong_description_of_the_workers(config, arguments, words, run_script):
    process = run_script("solve_timit_with_framewise_lsnn.py", *arguments, TF_CONFIG=config)
    assert_user_error(process, *words)
