"""The memories that scripts give a network: before its cells, and in its readout."""

import dataclasses

import numpy as np

from lmu import front_end, legendre, readout_memory
from toolbox.command_line import UserError

STREAM_ENCODERS = 4  # of the random numbers that a run's seed feeds


def define_flags(define):
    """Define the flags of both; `define` is a command_line.Definer."""
    front_end.define_flags(define)
    readout_memory.define_flags(define)


def check_flags(flag_values):
    """Raise UserError for flags of either that cannot work."""
    front_end.check_flags(flag_values)
    readout_memory.check_flags(flag_values)
    check_ridge(flag_values)


def check_ridge(flag_values):
    """Raise UserError for ridge regression of a readout that sees a memory."""
    for name, value in (
        ("readout_memory", flag_values.readout_memory != "none"),
        ("front_end_encoders", flag_values.front_end_encoders),
    ):
        if value and flag_values.readout_init == "ridge":
            raise UserError(
                f"--readout_init=ridge with --{name}={getattr(flag_values, name)}: the regression "
                "fits the weights of the activity alone; leave out one of the two"
            )


def with_memories(config, flag_values, dataset, seed):
    """A network's configuration with the memories that the flags describe.

    Args:
        config: models.NetworkConfig.
        dataset: TimitDataset.
        seed: of the run; learned encoders start from it.
    """
    theta_frames = legendre.theta_steps(flag_values.readout_theta_ms, 1)
    return dataclasses.replace(
        config,
        readout_memory=readout_memory.make_kernels(
            flag_values.readout_memory, flag_values.readout_order, theta_frames, config.kappa
        ),
        input_memory=front_end.make_input_memory(
            flag_values.front_end,
            flag_values.front_end_encoders,
            dataset.train.features,
            dataset.n_static,
            flag_values.front_end_channels,
            flag_values.front_end_order,
            legendre.theta_steps(flag_values.front_end_theta_ms, 1),
            np.random.default_rng([seed, STREAM_ENCODERS]),
        )
        if flag_values.front_end_encoders
        else None,
    )
