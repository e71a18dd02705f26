"""Phoneme recognition on TIMIT with an LSTM or an LSNN, by CTC and BPTT or e-prop.

    CUDA_VISIBLE_DEVICES=0 python3 solve_timit_with_ctc_in_tensorflow.py --model=lstm --eprop=symmetric
    python3 solve_timit_with_ctc_in_tensorflow.py --model=lsnn --eprop=symmetric

reads `timit_processed` (made by timit_processing.py) and writes a run folder under `results`. The
network finds the alignment of the phones itself; it is scored by the phone error rate. For the first
100 to 200 iterations it answers with blanks alone (error near 1): that is how CTC starts. docs/ctc.md
has the errors to expect.
"""

import types

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np

command_line.import_tensorflow()

import models  # noqa: E402
from layers import neurons  # noqa: E402
from lmu import couplings, front_end  # noqa: E402
from tasks import ctc, framewise  # noqa: E402
from training import devices, engines, flags, loop  # noqa: E402
from training.steps import OPTIMIZERS  # noqa: E402

# Defaults that depend on the model; the recipes with which each of them trains.
DEFAULTS = {
    "lstm": {"n_neuron": 128, "n_repeat": 1, "input_noise": 0.4, "lr_init": 0.02},
    "lsnn": {"n_neuron": 400, "n_repeat": 5, "input_noise": 0.3, "lr_init": 0.01},
}
DECAY_SHARE = 0.7  # of the iterations, after which the learning rate falls by default
REFERENCE_GRAD_CLIP = 1.0
LEFT_OUT = (
    "n_regular",
    "n_adaptive",
    "n_lstm",
    "adam",
    "input_noise_std",
    "lr_decay_every",
    "grad_clip",
)


def define_flags(flag_values):
    define = command_line.Definer(
        flag_values,
        LEFT_OUT,
        n_repeat=None,
        lr_init=None,
        ramping_learning_rate=True,
        tau_a=500.0,
        reg=20.0,
        readout_decay=1e-4,
    )
    own = command_line.Definer(flag_values)
    own.enum("model", "lstm", list(DEFAULTS), "which network")
    own.integer("n_neuron", None, "cells or neurons per direction (128 LSTM, 400 LSNN)", 1)
    own.float("n_split", 0.75, "LSNN: share of its neurons that do not adapt", 0, 1)
    own.enum("optimizer", "adam", OPTIMIZERS, "Adam, gradient descent with momentum, RMSprop")
    own.float(
        "input_noise",
        None,
        "standard deviation of Gaussian noise on the (normalised) training features (0.4 LSTM, 0.3 "
        "LSNN)",
        0,
    )
    own.float(
        "grad_clip",
        None,
        "largest global norm of the gradients, before the optimiser; 0: any (default 0, the authors' 1 "
        "with --reference_quirks)",
        0,
    )
    own.integer(
        "lr_decay_every",
        -1,
        f"epochs between learning-rate decays; -1: once, at {100 * DECAY_SHARE:.0f} % of all "
        "iterations",
    )
    framewise.define_flags(define)
    ctc.define_flags(define)
    couplings.define_flags(define)
    flags.define_flags(define)
    neurons.define_flags(define)
    models.define_flags(define, "lsnn", "lstm")
    define.bool("cell_train", True, "train the recurrent layers, else the readout")


def settings(flag_values):
    """The flags, with the defaults of the model and under the names that the rooms know."""
    values = flag_values.flag_values_dict()
    for name, default in DEFAULTS[values["model"]].items():
        values[name] = default if values[name] is None else values[name]
    if values["grad_clip"] is None:
        values["grad_clip"] = REFERENCE_GRAD_CLIP if values["reference_quirks"] else 0.0
    n_regular = round(values["n_split"] * values["n_neuron"])
    share = values["lr_decay_every"] / max(values["n_epochs"], 1)
    return types.SimpleNamespace(
        **values | {"lr_decay_every": -1},
        lr_decay_share=DECAY_SHARE if values["lr_decay_every"] == -1 else share,
        input_noise_std=values["input_noise"],
        n_lstm=values["n_neuron"],
        n_regular=n_regular,
        n_adaptive=values["n_neuron"] - n_regular,
        filter_steps=values["reference_quirks"],
    )


def check_flags(flag_values):
    """Raise UserError for flags that do not go together, or that mean nothing here."""
    flags.check_flags(flag_values)
    framewise.check_flags(flag_values)
    couplings.check_flags(flag_values)
    ctc.penalties_from_flags(flag_values)
    models.check_own_flags(flag_values, but=["n_repeat"])
    is_lsnn = flag_values.model == "lsnn"
    if is_lsnn and flag_values.reference_quirks and flag_values.readout_memory != "none":
        raise command_line.UserError(
            "--readout_memory with --reference_quirks: the authors' readout here filters the steps "
            "of a frame; leave out one of the two"
        )
    for name, why in (
        ("truncT", "a window has no transcript"),
        ("target_delay_frames", "the network finds the time of its answers itself"),
        ("readout_init", "there is no frame label to fit a readout to"),
    ):
        flag = flag_values[name]
        if flag.value != flag.default:
            raise command_line.UserError(f"--{name}={flag.value}: {why}: leave out --{name}")
    if not is_lsnn:
        command_line.check_unread(flag_values, ["n_split"], "--model=lsnn")
    values = settings(flag_values)
    if not is_lsnn and values.n_repeat != 1:
        raise command_line.UserError(
            f"--n_repeat={values.n_repeat} with --model=lstm: an LSTM takes one step a frame; leave "
            "it out"
        )
    make_config(values)


def make_config(values, seed=0):
    """The network that the settings describe."""
    if values.model == "lsnn":
        return models.LsnnConfig.from_flags(values, seed)
    # Here the authors' LSTM does what everybody's does.
    values = types.SimpleNamespace(**vars(values) | {"reference_quirks": False})
    return models.LstmConfig.from_flags(values)


def make_network(values, task, seed):
    """The network, with random weights."""
    network = models.Lsnn if values.model == "lsnn" else models.Lstm
    random_generator = np.random.default_rng([seed, devices.STREAM_WEIGHTS])
    config = couplings.with_memories(make_config(values, seed), values, task.dataset, seed)
    config = engines.with_engine(config, task, values.batch)
    return network(config, task.n_features, task.n_classes, random_generator)


EXPERIMENT = loop.Experiment(
    script="solve_timit_with_ctc_in_tensorflow",
    define_flags=define_flags,
    check_flags=check_flags,
    make_task=lambda values: ctc.Ctc.from_flags(values, front_end.from_flags(values)),
    make_network=make_network,
    trained_part=lambda values, network: network if values.cell_train else network.readout,
    settings=settings,
)


def main(flag_values):
    loop.run(EXPERIMENT, flag_values)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
