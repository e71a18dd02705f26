"""Permuted sequential MNIST with an LSNN or an LSTM, by BPTT or e-prop.

    python3 solve_psmnist.py --eprop=symmetric
    python3 solve_psmnist.py --eprop=symmetric --dataset=~/.keras/datasets/mnist.npz --side=14

reads a digit's pixels one at a time in a fixed random order, answers at the end, and writes a run
folder under `results`. The first command takes the 1,797 digits of 8 x 8 pixels that scikit-learn
brings along: test error 0.35, a minute on one core (docs/psmnist.md has the other errors to expect).
"""

import copy
import dataclasses

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

command_line.import_tensorflow()

import models  # noqa: E402
from layers import neurons  # noqa: E402
from lmu import couplings, front_end, legendre, readout_memory  # noqa: E402
from tasks import psmnist  # noqa: E402
from training import devices, engines, flags, loop  # noqa: E402

# Defaults of shared flags that differ here.
DEFAULTS = {
    "batch": 100,
    "test_batch": 100,
    "print_every": 60,
    "adam_epsilon": 1e-8,
    "lr_schedule": "linear",
    "lr_hold": 0.0,
    "lr_final": 0.1,
    "n_directions": 1,
    "n_repeat": 1,
    "n_regular": 0,
    "n_adaptive": 128,
    "weight_scale": 0.5,
    "reg": 5.0,
    "n_lstm": 128,
}
# ... and that depend on the side: the engine scales beta by 1 - rho, so that it must grow with tau_a.
DEFAULTS_BY_SIDE = {
    "n_epochs": {8: 30, 14: 6, 28: 3},
    "lr_init": {8: 0.003, 14: 0.003, 28: 0.006},
    "tau_a": {8: 200.0, 14: 800.0, 28: 800.0},
    "beta": {8: 3.6, 14: 14.4, 28: 7.2},
    "tau_out": {8: 20.0, 14: 30.0, 28: 56.0},
    "reg_rate": {8: 50.0, 14: 30.0, 28: 20.0},
    "front_end_order": {8: 16, 14: 32, 28: 64},
    "front_end_theta": {8: 64.0, 14: 196.0, 28: 784.0},
    "readout_order": {8: 8, 14: 8, 28: 16},
    "readout_theta": {8: 64.0, 14: 196.0, 28: 784.0},
}
FRONT_END_FLAGS = ("front_end_encoders", "front_end_order", "front_end_theta")
N_MEASURED = 200  # digits, by which the memory's columns are scaled
# The reference row: an LMU of this order that holds the whole digit, by pixels, with this readout.
REFERENCE_ORDERS = {64: 32, 196: 64, 784: 256}
RIDGE_ALPHAS = tuple(10.0**k for k in range(-1, 5))  # of standardised columns, summed over digits


def define_flags(flag_values):
    by_side = dict.fromkeys(DEFAULTS_BY_SIDE)  # None: see with_defaults
    define = command_line.Definer(flag_values, ("readout_theta_ms",), **DEFAULTS, **by_side)
    define.enum("model", "lsnn", ["lsnn", "lstm"], "network")
    psmnist.define_flags(define)
    define.enum(
        "front_end", None, ["lmu"], "the pixel's past in front of the cells: a Legendre memory"
    )
    define.enum(
        "front_end_encoders",
        None,
        front_end.ENCODERS,
        "a memory of the network's own, seen by the readout too, of the pixel (pca) or of what "
        "learns (absent: its state appended to the features)",
    )
    define.integer("front_end_order", None, "columns of it", 1)
    define.float("front_end_theta", None, "what it remembers, pixels", 1, 1e5)
    readout_memory.define_flags(define)
    define.float("readout_theta", None, "its window, pixels", 0, 1e5)
    flags.define_flags(define)
    neurons.define_flags(define)
    models.define_flags(define, "lsnn", "lstm")
    define.bool("cell_train", True, "train the recurrent layers, else the readout")
    flag_values["weight_scale"].help = "factor of the initial input and recurrent weights"
    for name, values in DEFAULTS_BY_SIDE.items():
        told = ", ".join(f"{value:g} at side {side}" for side, value in values.items())
        flag_values[name].help += f" (default: {told})"


def with_defaults(flag_values):
    """A copy of parsed flags with the defaults that depend on `--side`."""
    flag_values = copy.deepcopy(flag_values)
    if not flag_values.resume:  # else the run's own flags follow
        side = psmnist.side_of(flag_values)
        for name, values in DEFAULTS_BY_SIDE.items():
            flag_values.set_default(name, values[side])
    return flag_values


def check_flags(flag_values):
    """Raise UserError for flags that do not go together."""
    flags.check_flags(flag_values)
    psmnist.side_of(flag_values)
    if not flag_values.front_end:
        command_line.check_unread(flag_values, FRONT_END_FLAGS, "--front_end")
    models.check_own_flags(flag_values)
    if flag_values.readout_init == "ridge":
        raise command_line.UserError(
            "--readout_init=ridge: regression fits an answer to every frame, and a digit has one: "
            "leave it out"
        )
    front_end.check_encoders(flag_values)
    values = with_defaults(flag_values)
    readout_memory.check_flags(values, "readout_theta", 1)
    if values.front_end and values.front_end_theta < values.front_end_order:
        raise command_line.UserError(
            f"--front_end_theta={values.front_end_theta:g}: expected at least a pixel for each of "
            f"--front_end_order={values.front_end_order}"
        )
    _config(values)


def _config(flag_values, seed=0):
    """The network's configuration."""
    if flag_values.model == "lsnn":
        return models.LsnnConfig.from_flags(flag_values, seed)
    return models.LstmConfig.from_flags(flag_values)


def make_task(flag_values):
    """The digits that the flags name, as a task."""
    memory = None
    if flag_values.front_end and not flag_values.front_end_encoders:
        memory = legendre.discrete(flag_values.front_end_order, flag_values.front_end_theta)
    return psmnist.PsMnist.from_flags(flag_values, memory)


def make_network(flag_values, task, seed):
    """The network that the flags describe."""
    kind = models.Lsnn if flag_values.model == "lsnn" else models.Lstm
    config = _config(flag_values, seed)
    config = dataclasses.replace(
        config,
        readout_memory=readout_memory.make_kernels(
            flag_values.readout_memory,
            flag_values.readout_order,
            flag_values.readout_theta,
            config.kappa,
        ),
        input_memory=_input_memory(flag_values, task, seed),
    )
    return kind(
        engines.with_engine(config, task, flag_values.batch),
        task.n_features,
        task.n_classes,
        np.random.default_rng([seed, devices.STREAM_WEIGHTS]),
    )


def _input_memory(flag_values, task, seed):
    """The memory before the cells that the flags describe; None without encoders."""
    if not flag_values.front_end_encoders:
        return None
    return front_end.make_input_memory(
        flag_values.front_end,
        flag_values.front_end_encoders,
        list(task.features(task.splits["train"].pixels[:N_MEASURED])),
        1,  # the pixel itself is the first column
        1,
        flag_values.front_end_order,
        flag_values.front_end_theta,
        np.random.default_rng([seed, couplings.STREAM_ENCODERS]),
    )


def lmu_error(task):
    """Test error of an ideal LMU with a linear readout of its last state: the reference row.

    The readout is ridge regression, whose penalty the development set chooses.

    Args:
        task: psmnist.PsMnist.

    Returns:
        (order, error)
    """
    n_steps = task.splits["train"].pixels.shape[1]
    order = REFERENCE_ORDERS[n_steps]
    one_pixel = np.eye(1, n_steps)
    kernel = psmnist.memory_states(one_pixel, *legendre.discrete(order, n_steps))[0, ::-1]
    states = {name: split.pixels @ kernel for name, split in task.splits.items()}  # [digits, order]
    labels = {name: split.labels for name, split in task.splits.items()}
    readouts = [
        make_pipeline(StandardScaler(), RidgeClassifier(alpha)).fit(
            states["train"], labels["train"]
        )
        for alpha in RIDGE_ALPHAS
    ]
    best = max(readouts, key=lambda readout: readout.score(states["develop"], labels["develop"]))
    return order, float(1 - best.score(states["test"], labels["test"]))


def observe(folder, network, task, when):
    """Add the reference row to the metrics of a run."""
    del folder, network
    if when == "before":
        return {}
    order, error = lmu_error(task)
    print(
        f"for comparison, an ideal LMU of order {order} with linear readout: test error {error:.3f}"
    )
    return {"ideal_lmu_test_error": error}


EXPERIMENT = loop.Experiment(
    script="solve_psmnist",
    define_flags=define_flags,
    check_flags=check_flags,
    make_task=make_task,
    make_network=make_network,
    trained_part=lambda values, network: network if values.cell_train else network.readout,
    make_observer=lambda flag_values: observe,
)


def main(flag_values):
    loop.run(EXPERIMENT, with_defaults(flag_values))


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
