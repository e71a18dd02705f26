"""Flags of the LMU: what they stand for, and which are refused."""

import numpy as np
import pytest
from small_layers import SMALL, flag_values, quiet, seed_small

from lmu import flags, seeding
from lmu.matched import LmuSettings
from toolbox.command_line import UserError


def test_the_defaults_are_those_of_the_study():
    settings = flags.settings_from_flags(flag_values(), n_static=13)
    assert settings == LmuSettings(
        n_static=13,
        theta_ms=100.0,
        order=4,
        n_channels=4,
        channels="pca",
        lmu_fraction=1.0,
        gain_min=0.7,
        gain_max=2.5,
        drive_std=2.0,
        refits=1,
        method="matched",
    )
    assert settings == LmuSettings(n_static=13)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--theta_ms=9"], "--theta_ms=9: expected at least a frame, 10 ms"),
        (["--theta_ms=nan"], "--theta_ms=nan: expected a finite number"),
        (["--order=75"], "75 times --n_channels=4 are 300 state variables.*300 regular neurons"),
        (["--lmu_fraction=0.05"], "16 state variables for the LMU's 15 regular neurons"),
        (["--lmu_fraction=0"], "LMU's 0 regular neurons"),
        (["--n_regular=0"], "--n_regular=0 with the LMU: its loop is of regular neurons"),
        (["--gain_max=0.5"], "--gain_max=0.5: expected at least --gain_min=0.7"),
        (["--gain_min=0", "--gain_max=0"], "--gain_max=0: expected above 0"),
        (["--method=nengo", "--tau_v=0.001"], "--tau_v=0.001 with .* at least a step, 1 ms"),
        (["--method=nengo", "--tau_v=1e17"], "--tau_v=1e\\+17 with .* at most 1e\\+09 steps"),
        (["--method=nengo", "--tau_a=0.3"], "--tau_a=0.3 with --method=nengo"),
        (["--method=nengo", "--tau_a=1e17"], "--tau_a=1e\\+17 with --method=nengo"),
        (["--method=nengo", "--dt=21"], "--tau_v=20.0 with .* at least a step, 21 ms"),
    ],
)
def test_flags_that_cannot_work(arguments, words):
    with pytest.raises(UserError, match=words):
        flags.check_flags(flag_values(*arguments), quiet)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method=matched", "--tau_v=0.001", "--tau_a=0.001"],
        ["--method=nengo", "--tau_a=0.001", "--n_adaptive=0"],
        ["--method=nengo", "--tau_a=0.001", "--lmu_fraction=0.1", "--n_adaptive=4", "--order=1"],
    ],
)
def test_time_constants_that_nengo_does_not_simulate_are_free(arguments):
    lines = []
    flags.check_flags(flag_values(*arguments), lines.append)
    assert not any("tau" in line for line in lines)


@pytest.mark.parametrize("tau_v, tau_a", [(1, 1), (1e9, 1e9), (20, 0.5)])
def test_nengo_simulates_the_time_constants_that_are_let_through(tau_v, tau_a, speech):
    """At the bounds of the check; half a step is what --tau_a_spread makes of a whole one."""
    nengo = SMALL._replace(method="nengo")
    seeded = seed_small(speech[:3], settings=nengo, tau_v=tau_v, tau_a=tau_a)
    for name in seeding.SEEDED:
        assert np.isfinite(getattr(seeded, name)).all() and getattr(seeded, name).any()


def test_few_neurons_are_warned_of():
    lines = []
    flags.check_flags(flag_values(), lines.append)  # 16 of 300
    assert lines == []
    flags.check_flags(flag_values("--order=5"), lines.append)
    assert len(lines) == 1 and "warning" in lines[0] and "20 state variables" in lines[0]


def test_channels_are_checked_against_the_features():
    with pytest.raises(UserError, match="--n_channels=14: expected at most 13"):
        flags.settings_from_flags(flag_values("--n_channels=14"), 13)
    with pytest.raises(UserError, match="no static feature 13"):
        flags.settings_from_flags(flag_values("--channels=13", "--n_channels=1"), 13)
    assert (
        flags.settings_from_flags(flag_values("--channels=3", "--n_channels=1"), 13).channels == "3"
    )
