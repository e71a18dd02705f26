"""Framewise phone classification of TIMIT with an LSNN, by BPTT or e-prop.

    CUDA_VISIBLE_DEVICES=0,1 python3 solve_timit_with_framewise_lsnn.py --eprop=symmetric --preproc=mfccs
    python3 solve_timit_with_framewise_lsnn.py --eprop=symmetric --init=lmu

reads `timit_processed` (made by timit_processing.py) and writes a run folder under `results`. On
the 16-speaker sample, with --batch=8 --n_epochs=20 --print_every=20: half a minute on two cores, frame
error 0.42 on the development set and 0.44 on the test set (README.md has the errors of all rules).
"""

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np

command_line.import_tensorflow()

import models  # noqa: E402
from layers import neurons  # noqa: E402
from lmu import couplings, front_end, starts  # noqa: E402
from tasks import framewise  # noqa: E402
from training import checkpoints, devices, engines, flags, loop, reporting  # noqa: E402


def define_flags(flag_values):
    define = command_line.Definer(flag_values, ramping_learning_rate=True)
    framewise.define_flags(define)
    couplings.define_flags(define)
    flags.define_flags(define)
    neurons.define_flags(define)
    models.define_flags(define, "lsnn")
    starts.define_flags(define)
    define.bool("measure_memory", True, "measure what the first layer remembers, before and after")
    define.bool("cell_train", True, "train the recurrent layers, else the readout")


def check_flags(flag_values):
    """Raise UserError for flags that do not go together."""
    flags.check_flags(flag_values)
    framewise.check_flags(flag_values)
    couplings.check_flags(flag_values)
    models.LsnnConfig.from_flags(flag_values)
    starts.check_flags(flag_values)
    if flag_values.init in starts.SEEDED or flag_values.measure_memory:
        try:
            neurons.silent_steps(flag_values.n_ref, flag_values.dt)
        except ValueError as error:
            raise command_line.UserError(f"{error}: use --init=random --nomeasure_memory") from None
    if flag_values.readout_init == "ridge" and not flag_values.readout_bias:
        raise command_line.UserError(
            "--noreadout_bias with --readout_init=ridge: the regression has a bias; leave out one "
            "of the two"
        )


def make_task(flag_values):
    """The data that the flags name, as a task."""
    return framewise.Framewise.from_flags(
        flag_values, make_front_end=front_end.from_flags(flag_values)
    )


def make_network(flag_values, task, seed):
    """The LSNN that the flags describe."""
    config = couplings.with_memories(
        models.LsnnConfig.from_flags(flag_values, seed), flag_values, task.dataset, seed
    )
    config = engines.with_engine(config, task, flag_values.batch)
    first_layer = None
    if not checkpoints.exists(flag_values.resume):  # else its weights are replaced
        random_generator = np.random.default_rng([seed, devices.STREAM_SEEDING])
        first_layer = starts.first_layer(
            flag_values, task.dataset, config.parameters, config.weight_scale, random_generator
        )
    return models.Lsnn(
        config,
        task.n_features,
        task.n_classes + flag_values.reference_quirks,  # the authors' readout has a "blank"
        np.random.default_rng([seed, devices.STREAM_WEIGHTS]),
        first_layer,
    )


def make_observer(flag_values):
    """What measures the memory of the first layer; None if it shall not be."""
    if not flag_values.measure_memory:
        return None
    return lambda folder, network, task, when: reporting.record_memory(
        folder, network, task.dataset, when
    )


EXPERIMENT = loop.Experiment(
    script="solve_timit_with_framewise_lsnn",
    define_flags=define_flags,
    check_flags=check_flags,
    make_task=make_task,
    make_network=make_network,
    trained_part=lambda values, network: network if values.cell_train else network.readout,
    make_observer=make_observer,
)


def main(flag_values):
    loop.run(EXPERIMENT, flag_values)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
