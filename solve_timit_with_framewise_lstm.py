"""Framewise phone classification of TIMIT with a bidirectional LSTM, by BPTT or e-prop.

    CUDA_VISIBLE_DEVICES=0 python3 solve_timit_with_framewise_lstm.py --eprop=symmetric --preproc=mfccs

reads `timit_processed` (made by timit_processing.py) and writes a run folder under `results`. On
the 16-speaker sample, with --batch=8 --print_every=20: a minute on two cores, frame error 0.39 on the
development set and 0.42 on the test set (README.md has the errors of all rules).
"""

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np

command_line.import_tensorflow()

import models  # noqa: E402
from lmu import couplings, front_end  # noqa: E402
from tasks import framewise  # noqa: E402
from training import devices, engines, flags, loop  # noqa: E402


def define_flags(flag_values):
    define = command_line.Definer(flag_values, n_epochs=30, lr_decay_every=500, readout_decay=1e-3)
    framewise.define_flags(define)
    couplings.define_flags(define)
    flags.define_flags(define)
    models.define_flags(define, "lstm")


def check_flags(flag_values):
    """Raise UserError for flags that do not go together."""
    flags.check_flags(flag_values)
    framewise.check_flags(flag_values)
    couplings.check_flags(flag_values)
    models.LstmConfig.from_flags(flag_values)


def make_task(flag_values):
    """The data that the flags name, as a task; the authors' padding counts in its loss."""
    return framewise.Framewise.from_flags(
        flag_values,
        padding_counts=flag_values.reference_quirks,
        make_front_end=front_end.from_flags(flag_values),
    )


def make_network(flag_values, task, seed):
    """The LSTM that the flags describe."""
    config = couplings.with_memories(
        models.LstmConfig.from_flags(flag_values), flag_values, task.dataset, seed
    )
    return models.Lstm(
        engines.with_engine(config, task, flag_values.batch),
        task.n_features,
        task.n_classes,
        np.random.default_rng([seed, devices.STREAM_WEIGHTS]),
    )


EXPERIMENT = loop.Experiment(
    script="solve_timit_with_framewise_lstm",
    define_flags=define_flags,
    check_flags=check_flags,
    make_task=make_task,
    make_network=make_network,
    trained_part=lambda flag_values, network: network,
)


def main(flag_values):
    loop.run(EXPERIMENT, flag_values)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
