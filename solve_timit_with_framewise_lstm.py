"""Framewise phone classification of TIMIT with a bidirectional LSTM, by BPTT or e-prop.

    CUDA_VISIBLE_DEVICES=0 python3 solve_timit_with_framewise_lstm.py --eprop=symmetric --preproc=mfccs

reads `timit_processed` (made by timit_processing.py) and writes a run folder under `results`. On
the 16-speaker sample, with --batch=8 --print_every=20: a minute on two cores, frame error 0.39 on the
development set and 0.42 on the test set (README.md has the errors of all rules).
"""

import numpy as np
from absl import flags

from toolbox import command_line

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

import eprop  # noqa: E402
import models  # noqa: E402
from training import loop  # noqa: E402

SCRIPT = "solve_timit_with_framewise_lstm"


def define_flags(flag_values):
    loop.define_flags(
        flag_values,
        n_epochs=30,
        lr_decay_every=500,
        readout_decay=1e-3,
        ramping_learning_rate=False,
    )
    both = {"flag_values": flag_values}
    flags.DEFINE_integer("n_lstm", 200, "cells per direction", 1, **both)
    flags.DEFINE_bool("lstm", True, "LSTM cells, else plain tanh cells (BPTT only)", **both)
    flags.DEFINE_float(
        "init_scale", 0.0, "kernels uniform in +-init_scale; 0: Glorot uniform", 0, **both
    )
    flags.DEFINE_enum(
        "engine",
        "auto",
        ["auto", *models.LSTM_ENGINES],
        "dense: TensorFlow, any device; fused: one compiled loop, CPU, LSTM cells; auto: fused "
        "where it can",
        **both,
    )


def check_flags(flag_values):
    """Raise UserError for flags that do not go together."""
    loop.check_flags(flag_values)
    if flag_values.eprop and not flag_values.lstm:
        raise command_line.UserError(
            f"--nolstm with --eprop={flag_values.eprop}: plain tanh cells train by BPTT only; "
            "leave out one of the two"
        )
    if flag_values.engine == "fused" and not flag_values.lstm:
        raise command_line.UserError(
            "--nolstm with --engine=fused: plain tanh cells have the dense engine only; leave out "
            "one of the two"
        )


def choose_engine(flag_values):
    """The engine that `--engine` names; `auto` is `fused`, for LSTM cells without a visible GPU."""
    if flag_values.engine != "auto":
        return flag_values.engine
    if not flag_values.lstm or tf.config.list_physical_devices("GPU"):
        return "dense"
    return "fused"


def make_network(flag_values, dataset, seed):
    """The LSTM that the flags describe."""
    return models.Lstm(
        dataset.n_features,
        dataset.n_phns,
        eprop.rule_of_flag(flag_values.eprop),
        flag_values.n_lstm,
        np.random.default_rng([seed, loop.STREAM_WEIGHTS]),
        lstm=flag_values.lstm,
        init_scale=flag_values.init_scale,
        l2=flag_values.l2,
        reference_quirks=flag_values.reference_quirks,
        engine=choose_engine(flag_values),
    )


def main(flag_values):
    flag_values = loop.resumed_flags(flag_values, define_flags, SCRIPT)
    check_flags(flag_values)
    loop.run(flag_values, SCRIPT, make_network)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
