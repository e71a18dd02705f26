"""Learning rates over the iterations."""

import pytest

from tiny_runs import lsnn, lstm, parse
from training.flags import TrainingConfig
from training.schedule import Schedule

N_ITERATIONS = 10000


def rates(script, arguments, iterations):
    schedule = TrainingConfig.from_flags(parse(script, *arguments)).schedule
    return {i: schedule.rate(i, N_ITERATIONS) for i in iterations}


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
        (
            ["--noramping_learning_rate", "--lr_schedule=linear", "--lr_final=0.1"],
            {0: 0.01, 5000: 0.01, 7500: 0.0055, 9000: 0.0028, 10000: 0.001, 12000: 0.001},
        ),
        (
            ["--lr_schedule=linear", "--lr_hold=0.0099", "--lr_final=0"],  # the ramp stays
            {0: 0, 33: 0.01 / 3, 99: 0.01, 99 + 9901 // 2: 0.01 * (1 - 4950 / 9901), 10000: 0},
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


def test_a_decay_by_a_share_of_all_iterations():
    once = Schedule(0.01, lr_decay_share=0.7)
    assert [once.rate(i, 10) for i in (0, 6, 7, 9)] == pytest.approx([0.01, 0.01, 0.003, 0.003])
    assert once.rate(0, 0) == 0.01  # of a run without a step
    often = Schedule(0.01, lr_decay=0.5, lr_decay_share=0.25)
    assert [often.rate(i, 8) for i in (1, 2, 4, 7)] == pytest.approx([0.01, 5e-3, 2.5e-3, 1.25e-3])
