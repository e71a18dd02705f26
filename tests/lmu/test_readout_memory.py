"""The kernels of `--readout_memory`."""

import types

import numpy as np
import pytest

from layers.kernels import DelayLine
from lmu import legendre, readout_memory
from toolbox.command_line import UserError

IMPULSE = np.eye(600, 1)


@pytest.mark.parametrize("decay", [None, 0.7])
@pytest.mark.parametrize("kind", ["legendre", "taps"])
def test_each_kernel_has_the_norm_of_the_exponential_filter(kind, decay):
    kernels = readout_memory.make_kernels(kind, 6, 20.0, decay)
    responses = kernels.hold(IMPULSE)[:, 0]  # [frames, order]
    norms = np.linalg.norm(responses, axis=0)
    np.testing.assert_allclose(norms, 1 / np.sqrt(1 - (decay or 0) ** 2), rtol=1e-6)


def test_legendre_kernels_are_those_of_the_discrete_system():
    kernels = readout_memory.make_kernels("legendre", 5, 30.0, 0.5)
    responses = kernels.hold(IMPULSE)[:, 0]
    states = legendre.memory_state(IMPULSE, *legendre.discrete(5, 30.0))[:, 0]
    ratio = responses[:20] / states[:20]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-9)


def test_taps_are_spread_over_the_window():
    kernels = readout_memory.make_kernels("taps", 6, 20.0, 0.7)
    assert isinstance(kernels, DelayLine)
    assert kernels.delays.tolist() == [3, 7, 10, 13, 17, 20] and kernels.decay == 0.7


def test_none_is_none():
    assert readout_memory.make_kernels("none", 6, 20.0, 0.7) is None


@pytest.mark.parametrize(
    "kind, theta_ms, expected",
    [("legendre", 9.0, "at least 10, a frame"), ("taps", 50.0, "at least 60, a frame for each")],
)
def test_a_window_shorter_than_a_frame_is_refused(kind, theta_ms, expected):
    values = types.SimpleNamespace(
        readout_memory=kind, readout_order=6, readout_theta_ms=theta_ms, resume=""
    )
    with pytest.raises(UserError, match=f"--readout_theta_ms={theta_ms:g}: expected {expected}"):
        readout_memory.check_flags(values)
    values.readout_theta_ms = 60.0
    readout_memory.check_flags(values)
