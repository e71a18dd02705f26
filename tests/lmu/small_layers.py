"""A small layer that is seeded, for tests of what is made of it."""

import numpy as np

import lmu_init
from layers.neurons import alif_parameters
from lmu import seeding
from lmu.matched import LmuSettings
from signals import N_STATIC
from toolbox.command_line import parse_flags

SMALL = LmuSettings(N_STATIC, order=2, n_channels=1)


def flag_values(*arguments):
    """Flags of lmu_init.py."""
    return parse_flags(lmu_init.define_flags, ["lmu_init.py", *arguments])[0]


def quiet(line):
    pass


def seed_small(utterances, seed=1, n_regular=40, n_adaptive=10, settings=SMALL, **options):
    parameters = alif_parameters(n_regular, n_adaptive, **options)
    rng = np.random.default_rng(seed)
    return seeding.seed_layer(utterances, parameters, n_regular, settings, rng, say=quiet)
