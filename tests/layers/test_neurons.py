"""Parameters and initial weights of ALIF neurons."""

import numpy as np
import pytest

from layers import neurons


def test_alif_parameters():
    parameters = neurons.alif_parameters(7, 5)
    np.testing.assert_allclose(parameters.thr, 0.2050416, rtol=1e-6)  # recorded from the authors'
    np.testing.assert_allclose(parameters.beta, [0] * 7 + [0.1840770] * 5, rtol=1e-6)
    np.testing.assert_allclose(parameters.alpha, np.full(12, np.exp(-1 / 20)))
    np.testing.assert_allclose(parameters.rho, np.full(12, np.exp(-1 / 200)))
    spread = neurons.alif_parameters(1, 1, tau_v=[20, 10], tau_a=[200, 100], thr=0.02, beta=3, dt=2)
    np.testing.assert_allclose(spread.alpha, np.exp([-2 / 20, -2 / 10]))
    np.testing.assert_allclose(spread.rho, np.exp([-2 / 200, -2 / 100]))
    np.testing.assert_allclose(spread.thr, 0.02 / (1 - spread.alpha))
    beta = 3 * (1 - np.exp(-2 / 100)) / (1 - np.exp(-2 / 10))
    np.testing.assert_allclose(spread.beta, [0, beta])
    assert (
        parameters.n_ref,
        parameters.dampening_factor,
        parameters.dt_ms,
        parameters.n_repeat,
    ) == (2, 0.3, 1, 5)
    with pytest.raises(ValueError):
        neurons.alif_parameters(2, 2, tau_v=[20, 10, 20])


@pytest.mark.parametrize("n_ref", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("dt_ms", [0.5, 1.0, 2.0])
def test_silent_steps_are_those_of_equation_6(n_ref, dt_ms):
    r, n_silent = np.clip(n_ref / dt_ms - 1, 0, n_ref), 0
    while r > 0.1:
        r, n_silent = np.clip(r - 1, 0, n_ref), n_silent + 1
    assert neurons.silent_steps(n_ref, dt_ms) == n_silent
    assert neurons.refractory_steps(n_ref, dt_ms) == (n_silent, r)


def test_a_fraction_of_a_silent_step_is_told_of():
    n_silent, left = neurons.refractory_steps(2, 0.98)
    assert n_silent == 1 and 0.04 < left < 0.05
    with pytest.raises(ValueError, match="n_ref = 2 with dt_ms = 0.98 leaves a fraction"):
        neurons.silent_steps(2, 0.98)
