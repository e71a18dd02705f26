"""Which engine a run takes, and why: docs/gpu.md.

`auto` is the GPU's engine where every GPU that is visible computes what the CPU does in a small case,
and a step of the run's size is faster there; else the CPU's.
"""

import dataclasses
import math
import os
import statistics
import time

import numpy as np
import tensorflow as tf

import models
from layers import alif, lstm, neurons
from toolbox import nvidia
from toolbox.command_line import UserError, one_line
from training.steps import make_optimizer, make_train_step

N_TIMED_STEPS = 3
TOLERANCE = 1e-4  # of float sums, over the largest entry


def with_engine(config, task, batch):
    """A configuration with the engine that its `auto` comes to, and why; says both.

    Args:
        config: models.NetworkConfig.
        task: of `tasks`, whose first batch is timed.
        batch: examples in it.

    Raises:
        UserError: the engine of the GPU is asked for and does not work here.
    """
    engine, reason = config.engine, "as --engine or the run that goes on says"
    if engine == "auto":
        engine, reason = _best(config, task, batch)
    else:
        check_gpu(engine)
    print(f"engine: {engine} ({reason})")
    return dataclasses.replace(config, engine=engine, engine_reason=reason)


def check_gpu(engine):
    """Raise UserError for a GPU's engine that does not work here."""
    why = why_not(engine) if engine in SELF_CHECKS else ""
    if why:
        raise UserError(
            f"--engine={engine}: {why}: leave it out or name another engine, beside --resume too"
        )


def _best(config, task, batch):
    """(engine, why)"""
    if config.needs_dense:
        return "dense", f"no other computes {config.needs_dense}"
    _, on_cpu, on_gpu = config.engines
    try:
        dataclasses.replace(config, engine=on_gpu)
    except UserError as error:
        return on_cpu, str(error)
    why = why_not(on_gpu)
    if why:
        return on_cpu, why
    if "TF_CONFIG" in os.environ:  # all processes must take the same
        return on_gpu, "not timed on several machines"
    seconds = {
        engine: _seconds_a_step(dataclasses.replace(config, engine=engine), task, batch)
        for engine in (on_gpu, on_cpu)
    }
    told = ", ".join(f"{engine} {value:.3f} s" for engine, value in seconds.items())
    return min(seconds, key=seconds.get), f"a step of this run: {told}"


def _seconds_a_step(config, task, batch):
    """Median over some steps of training on the task's first batch; infinite where it fails."""
    network = (models.Lsnn if config.model == "lsnn" else models.Lstm)(
        config, task.n_features, task.n_classes, np.random.default_rng(0)
    )
    optimizer = make_optimizer(network)
    step = make_train_step(network, task, optimizer, network.trainable_variables, seed=0)
    examples = next(iter(task.training_batches(batch, np.random.default_rng(0))))
    seconds = []
    try:
        for _ in range(1 + N_TIMED_STEPS):  # the first compiles
            start = time.perf_counter()
            float(step(*examples, 0.0, 0))
            seconds.append(time.perf_counter() - start)
    except tf.errors.OpError as error:  # such as too little memory
        print(f"engine {config.engine}: a step failed ({type(error).__name__})")
        return math.inf
    return statistics.median(seconds[1:])


# --------------------------------------------------------------------------- self-check


def why_not(engine):
    """Why a GPU's engine does not work here, in one line; empty where it does."""
    names = visible_gpus()
    if not names:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if not hidden and not tf.test.is_built_with_cuda() and nvidia.listed_gpus():
            return (
                "nvidia-smi lists a GPU, and this TensorFlow is the build for the CPU: rm -r .venv; "
                "make setup REQUIREMENTS=requirements_pip_gpu.txt"
            )
        return "no GPU is visible"
    for name in names:
        try:
            difference = _difference(SELF_CHECKS[engine], name)
        except Exception as error:  # whatever a driver, a compiler or a missing package raises
            difference = f"{type(error).__name__}: {error}"
        if difference:
            return f"self-check on {name} failed: {one_line(difference)[:300]}"
    return ""


def visible_gpus():
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def _difference(check, device):
    """What a device computes otherwise than the CPU, in words; empty if nothing."""
    for rule in ("eprop", "bptt"):
        on_gpu, on_cpu, values, tolerance = check(rule)
        with tf.device(device):
            found = _outputs_and_gradients(on_gpu, values)
        with tf.device("/CPU:0"):
            expected = _outputs_and_gradients(on_cpu, values)
        for k, (one, other) in enumerate(zip(found, expected)):
            error = np.max(np.abs(one - other)) / (np.max(np.abs(other)) or 1)
            if not error <= (tolerance if k == 0 else TOLERANCE):
                what = "outputs differ" if k == 0 else f"gradient {k} differs"
                return f"{rule}, {what} by {error:.1e} of the largest"
    return ""


def _outputs_and_gradients(function, values):
    tensors = [tf.constant(value, tf.float32) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = function(*tensors)
        weights = tf.reshape(tf.sin(tf.range(tf.size(outputs), dtype=tf.float32)), outputs.shape)
        loss = tf.reduce_sum(outputs * weights)
    return [x.numpy() for x in (outputs, *tape.gradient(loss, tensors))]


def _alif_check(rule):
    """(function on the GPU, on the CPU, their arguments, tolerance of outputs)"""
    random_generator = np.random.default_rng(0)
    n, seq_len = 40, np.array([8, 5, 0], np.int32)
    parameters = neurons.alif_parameters(n - 10, 10)
    values = (
        random_generator.normal(0.02, 0.06, (3, 8, 2, n)),
        random_generator.normal(0, 0.15 / np.sqrt(n), (2, n, n)),
    )
    engines = alif.cuda_spikes, alif.event_driven_spikes
    return (
        *(
            lambda current, w_rec, run=run: run(current, w_rec, seq_len, parameters, rule)
            for run in engines
        ),
        values,
        0.0,
    )


def _lstm_check(rule):
    """As `_alif_check`."""
    random_generator = np.random.default_rng(0)
    n_in, n = 5, 20
    values = (
        random_generator.normal(0, 1, (1, 3, 8, n_in)),
        random_generator.normal(0, 0.3, (1, n_in + n, 4 * n)),
        random_generator.normal(0, 0.3, (1, 4 * n)),
    )
    run = lstm.eprop_of_outputs if rule == "eprop" else lstm.keras_lstm
    seq_len = np.full(3, 8, np.int32)

    def fused(inputs, kernel, bias):
        m = lstm.fused_lstm_outputs(inputs[0], kernel, bias, seq_len, rule, False)
        return tf.transpose(m, [2, 0, 1, 3])

    return run, fused, values, TOLERANCE


SELF_CHECKS = {"cuda": _alif_check, "cudnn": _lstm_check}
