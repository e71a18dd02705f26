"""The appended past against the delays and the system it stands for."""

import numpy as np
import pytest
from scipy.signal import cont2discrete

from lmu import front_end
from lmu.legendre import delay_decoder
from lmu.memory import principal_directions
from toolbox.command_line import UserError

N_STATIC, N_CHANNELS, ORDER, THETA_MS = 5, 2, 4, 200  # 20 frames


def smooth_utterances(n=4, n_frames=300):
    """Signals below 2.5 Hz, which a memory of 200 ms and order 4 holds; two columns of deltas."""
    random_generator = np.random.default_rng(0)
    times = np.arange(n_frames)[:, None] / 100  # s
    utterances = []
    for _ in range(n):
        columns = sum(
            random_generator.normal(size=N_STATIC + 2)
            * np.sin(2 * np.pi * random_generator.uniform(0.3, 2.5, N_STATIC + 2) * times + phase)
            for phase in range(5)
        )
        utterances.append(columns)
    return utterances


def append_past(kind, utterances, **options):
    settings = {"n_static": N_STATIC, "n_channels": N_CHANNELS, "order": ORDER}
    settings |= {"theta_ms": THETA_MS} | options
    return front_end.make_front_end(kind, utterances, **settings)


def channels_of(utterances):
    directions = principal_directions(utterances, N_STATIC, N_CHANNELS)
    return [utterance @ directions for utterance in utterances]


@pytest.mark.parametrize("kind", front_end.KINDS)
def test_columns_are_appended_with_unit_deviation(kind):
    utterances = smooth_utterances()
    extended = [append_past(kind, utterances)(u) for u in utterances]
    for before, after in zip(utterances, extended):
        assert after.dtype == np.float32 and after.shape == (300, 7 + N_CHANNELS * ORDER)
        np.testing.assert_array_equal(after[:, :7], before.astype(np.float32))
    np.testing.assert_allclose(np.concatenate(extended)[:, 7:].std(axis=0), 1, rtol=1e-5)


def test_delayed_frames_are_the_channels_of_so_many_frames_ago():
    utterances = smooth_utterances()
    channels = channels_of(utterances)
    past = [append_past("delayed_frames", utterances)(u)[:, 7:] for u in utterances]
    for place, delay in enumerate((5, 10, 15, 20)):
        columns = [p[:, place::4] for p in past]
        expected = [np.concatenate([np.zeros((delay, N_CHANNELS)), c[:-delay]]) for c in channels]
        std = np.concatenate(expected).std(axis=0)
        for found, wanted in zip(columns, expected):
            np.testing.assert_allclose(found, wanted / std, rtol=1e-5, atol=1e-5)


def test_the_memory_is_the_zero_order_hold_of_its_system():
    utterances = smooth_utterances()
    theta = 20
    i, j = np.arange(ORDER)[:, None], np.arange(ORDER)
    a = (2 * i + 1) / theta * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = (2 * i + 1) / theta * (-1.0) ** i
    ad, bd, *_ = cont2discrete((a, b, np.eye(ORDER), np.zeros((ORDER, 1))), 1.0)
    states = []
    for channels in channels_of(utterances):
        m, row = np.zeros((N_CHANNELS, ORDER)), []
        for u in channels:
            m = m @ ad.T + u[:, None] * bd[:, 0]
            row.append(m.ravel())
        states.append(np.array(row))
    std = np.concatenate(states).std(axis=0)
    append = append_past("lmu", utterances)
    for utterance, expected in zip(utterances, states):
        np.testing.assert_allclose(append(utterance)[:, 7:], expected / std, rtol=1e-4, atol=1e-4)
    # What it is for: its state tells the channel of theta ago.
    decoded = states[0].reshape(300, N_CHANNELS, ORDER) @ delay_decoder(ORDER, 1.0)
    wanted = channels_of(utterances)[0][: 300 - theta]
    assert np.corrcoef(decoded[2 * theta :, 0], wanted[theta:, 0])[0, 1] > 0.95


@pytest.mark.parametrize(
    "options, words",
    [
        ({"n_channels": 6}, ["--front_end_channels=6", "5 static"]),
        ({"theta_ms": 39}, ["--front_end_theta_ms=39", "10 ms", "--front_end_order=4"]),
        ({"theta_ms": 4000}, ["constant", "--front_end_theta_ms"]),  # longer than the utterances
    ],
)
def test_settings_that_cannot_work(options, words):
    with pytest.raises(UserError) as error:
        append_past("delayed_frames", smooth_utterances(), **options)
    for word in words:
        assert word in str(error.value)
