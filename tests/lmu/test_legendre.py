"""The Legendre memory against the closed form, SciPy, a pure delay, and a plain recursion."""

import numpy as np
import pytest
import scipy.signal
from numpy.polynomial import Legendre

from lmu import legendre
from lmu.legendre import continuous, delay_decoder, discrete, memory_state

ORDERS = [1, 2, 3, 4, 6, 8, 12]


def closed_form(order, theta):
    """Equation (2), entry by entry."""
    a, b = np.zeros((order, order)), np.zeros(order)
    for i in range(order):
        b[i] = (2 * i + 1) / theta * (-1) ** i
        for j in range(order):
            a[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1) ** (i - j + 1))
    return a, b


def transfer(order, theta, share, omega):
    """Transfer function of the decoded delay at angular frequencies [n]: complex [n]."""
    a, b = continuous(order, theta)
    state = [np.linalg.solve(1j * w * np.eye(order) - a, b) for w in omega]
    return np.array(state) @ delay_decoder(order, share)


def test_time_of_speech_to_steps():
    # 100 ms of speech are 10 frames, each shown for 5 steps.
    assert legendre.theta_steps(100, 5) == 50
    assert legendre.theta_steps(150, 5) == 75
    assert legendre.theta_steps(10, 1) == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("theta", [0.1, 75.0])
def test_continuous_matrices_are_the_closed_form(order, theta):
    a, b = continuous(order, theta)
    expected_a, expected_b = closed_form(order, theta)
    assert (a.dtype, b.dtype, a.shape, b.shape) == (float, float, (order, order), (order,))
    np.testing.assert_allclose(a, expected_a, rtol=1e-14)
    np.testing.assert_allclose(b, expected_b, rtol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
def test_discrete_matrices_are_scipys_zero_order_hold(order):
    theta = 50.0
    a, b = closed_form(order, theta)
    c, d = np.ones((1, order)), np.zeros((1, 1))
    expected_a, expected_b, *_ = scipy.signal.cont2discrete((a, b[:, None], c, d), 1.0, "zoh")
    ad, bd = discrete(order, theta)
    assert (ad.dtype, bd.dtype, ad.shape, bd.shape) == (float, float, (order, order), (order,))
    np.testing.assert_allclose(ad, expected_a, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(bd, expected_b[:, 0], rtol=1e-12, atol=1e-15)
    assert np.abs(np.linalg.eigvals(ad)).max() < 1  # it forgets


@pytest.mark.parametrize("order", ORDERS)
def test_group_delay_at_zero_frequency_is_theta(order):
    theta = 50.0
    a, b = continuous(order, theta)
    c = delay_decoder(order, 1)
    # H(s) = C (s I - A)^-1 B, H'(s) = -C (s I - A)^-2 B; the group delay at 0 is -H'(0) / H(0).
    once = np.linalg.solve(a, b)
    gain, slope = -c @ once, -c @ np.linalg.solve(a, once)
    assert gain == pytest.approx(1, rel=1e-9)
    assert -slope / gain == pytest.approx(theta, rel=1e-9)


@pytest.mark.parametrize("order", [6, 7, 8, 12])
def test_the_delay_is_near_ideal_up_to_one_cycle_per_theta(order):
    # 1 / theta Hz, theta in seconds: omega theta <= 2 pi. The ideal delay is exp(-j omega theta).
    theta = 0.1
    omega = 2 * np.pi * np.linspace(0.01, 1, 100) / theta
    ratio = transfer(order, theta, 1, omega) / np.exp(-1j * omega * theta)
    assert np.abs(np.abs(ratio) - 1).max() < 0.02
    assert np.abs(np.angle(ratio)).max() < 0.01


def test_a_low_order_is_no_delay_at_that_frequency():
    # What the test above could not tell from a constant: order 3 is far off.
    ratio = transfer(3, 0.1, 1, [2 * np.pi / 0.1]) / np.exp(-2j * np.pi)
    assert abs(ratio - 1) > 0.1


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.8, 1])
def test_the_decoder_holds_the_shifted_legendre_polynomials(share):
    expected = [Legendre.basis(i)(2 * share - 1) for i in range(7)]
    np.testing.assert_allclose(delay_decoder(7, share), expected, atol=1e-14)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1])
def test_a_share_of_the_window_is_read_from_a_slow_signal(share):
    theta, order = 100.0, 8
    steps = np.arange(2000)

    def signal(t):
        return np.sin(2 * np.pi * t / 400) + 0.5 * np.cos(2 * np.pi * t / 270)

    decoded = memory_state(signal(steps)[:, None], *discrete(order, theta))[:, 0] @ delay_decoder(
        order, share
    )
    # m_t is the state at the end of step t, over which u was held: half a step after its middle.
    expected = signal(steps + 0.5 - share * theta)
    # The window is full after theta; what is left of its start decays fast for this order.
    # Half a step is .01 of this signal's phase: taking another moment would show.
    np.testing.assert_allclose(decoded[400:], expected[400:], atol=0.002)


def test_states_are_those_of_the_recursion():
    rng = np.random.default_rng(0)
    u = rng.standard_normal((60, 3))
    ad, bd = discrete(4, 20.0)
    states = memory_state(u, ad, bd)
    assert states.shape == (60, 3, 4)
    m = np.zeros((3, 4))
    for t in range(len(u)):
        m = m @ ad.T + u[t][:, None] * bd
        np.testing.assert_allclose(states[t], m, rtol=1e-11, atol=1e-13)


def test_states_are_causal_and_each_channels_own():
    rng = np.random.default_rng(0)
    u = rng.standard_normal((40, 2))
    matrices = discrete(3, 10.0)
    states = memory_state(u, *matrices)
    changed = u.copy()
    changed[25:, 0] += 1
    after = memory_state(changed, *matrices)
    np.testing.assert_array_equal(after[:25], states[:25])
    np.testing.assert_array_equal(after[:, 1], states[:, 1])
    assert np.abs(after[25, 0] - states[25, 0]).max() > 0.1


@pytest.mark.parametrize("order, theta", [(0, 5.0), (2.5, 5.0), (3, 0.0), (3, -1.0)])
def test_wrong_order_or_theta(order, theta):
    with pytest.raises(ValueError, match="order|theta"):
        continuous(order, theta)
    with pytest.raises(ValueError, match="order|theta"):
        discrete(order, theta)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_wrong_share(share):
    with pytest.raises(ValueError, match="share"):
        delay_decoder(4, share)
