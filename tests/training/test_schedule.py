"""Learning rates over the iterations."""

import pytest
from tiny_runs import lsnn, lstm, parse

from training.flags import TrainingConfig


def rates(script, arguments, iterations):
    schedule = TrainingConfig.from_flags(parse(script, *arguments)).schedule
    return {i: schedule.rate(i) for i in iterations}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--noramping_learning_rate"], {0: 0.01, 99: 0.01, 10000: 0.01}),
        (
            ["--ramping_learning_rate", "--lr_init=0.02"],
            {0: 0, 33: 0.02 / 3, 98: 0.02 * 98 / 99, 99: 0.02, 100: 0.02, 10000: 0.02},
        ),
        (
            ["--noramping_learning_rate", "--lr_decay_every=500", "--lr_decay=0.3"],
            {0: 0.01, 499: 0.01, 500: 0.003, 999: 0.003, 1000: 0.0009, 1500: 0.00027},
        ),
        (
            ["--ramping_learning_rate", "--lr_decay_every=66", "--lr_decay=0.5"],
            {0: 0, 33: 0.01 / 3, 66: 0.01 / 3, 99: 0.005, 132: 0.0025},
        ),
    ],
)
def test_learning_rate(arguments, expected):
    assert rates(lsnn, arguments, expected) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "script, expected",
    [(lsnn, {0: 0, 99: 0.01, 500: 0.01}), (lstm, {0: 0.01, 99: 0.01, 500: 0.003})],
)
def test_the_scripts_differ_in_their_schedules(script, expected):
    """LSNN: a ramp and no decay; LSTM: a factor of 0.3 every 500 iterations and no ramp."""
    assert rates(script, [], expected) == expected
