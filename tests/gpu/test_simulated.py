"""The GPU's kernels in numba-cuda's simulator, against the CPU's engine: `make test_cuda`."""

import numpy as np
import pytest
from cases import make_case, on_cpu, on_gpu

from helpers import assert_near
from layers import event_driven, event_driven_cuda, neurons

CASES = {
    "as the paper": {},
    "float32": {"dtype": np.float32},
    "of unequal length": {"seq_len": [6, 3], "frames": 6},
    "an empty utterance": {"seq_len": [0, 6], "frames": 6},
    "reference_quirks": {"reference_quirks": True, "seq_len": [4, 2]},
    "no recurrence": {"rec": False},
    "three silent steps": {"n_ref": 4},
    "no silent step": {"n_ref": 1},
    "half a millisecond": {"dt": 0.5},
    "a step a frame": {"n_repeat": 1, "frames": 12},
    "two words of bits": {"n": 33, "frames": 2},
    "spread time constants": {"spread": True},
    "one direction": {"directions": 1},
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_cpu(name):
    """Three neurons a thread, two where there are eight threads, one in `test_whole_warps`."""
    max_threads = 8 if name == "reference_quirks" else 4
    case = make_case(**CASES[name])
    forward, expected = on_cpu(case)
    assert forward.spike_counts.sum() > 10
    z_mean, found = on_gpu(case, max_threads)
    np.testing.assert_array_equal(z_mean, forward.z_mean)
    # Sums of some hundred numbers in another order.
    tolerance = 1e-12 if case.current.dtype == np.float64 else 1e-5
    for rule in event_driven.RULES:
        assert_near(found[rule].current, expected[rule].current, tolerance)
        if case.parameters.rec:
            assert_near(found[rule].w_rec, expected[rule].w_rec, tolerance)
    assert np.abs(found["bptt"].current - found["eprop"].current).max() > 1e-6


def test_whole_warps():
    case = make_case(n=32, frames=2, batch=1)
    assert event_driven_cuda.CudaLayer(case.parameters, 32, "float64").threads == 32
    z_mean, _ = on_gpu(case, 32)
    np.testing.assert_array_equal(z_mean, on_cpu(case)[0].z_mean)


def test_equal_input_equal_bits():
    case = make_case(n=8, dtype=np.float32)
    (z_mean, gradients), (z_again, again) = on_gpu(case, 12), on_gpu(case, 12)
    np.testing.assert_array_equal(z_mean, z_again)
    for rule in event_driven.RULES:
        for found, expected in zip(gradients[rule], again[rule]):
            np.testing.assert_array_equal(found, expected)


def test_an_utterance_does_not_depend_on_the_others():
    """Any number of blocks: one utterance a launch gives the same bits."""
    case = make_case(n=8)
    z_mean, gradients = on_gpu(case, 12)
    for b in range(2):
        one = case._replace(
            current=case.current[b : b + 1], grad_z_mean=case.grad_z_mean[b : b + 1]
        )
        z_one, gradients_one = on_gpu(one, 12)
        np.testing.assert_array_equal(z_one[0], z_mean[b])
        for rule in event_driven.RULES:
            np.testing.assert_array_equal(
                gradients_one[rule].current[0], gradients[rule].current[b]
            )


def test_the_carried_sum_equals_the_sum_anew():
    case = make_case(n=8)
    (_, carried), (_, anew) = (on_gpu(case, 12, carries) for carries in (True, False))
    for found, expected in zip(carried["bptt"], anew["bptt"]):
        assert_near(found, expected, 1e-12)


def test_too_many_neurons_are_refused():
    n = neurons.MAX_CUDA_NEURONS + 1
    with pytest.raises(ValueError, match="3073 neurons per direction, expected 3072 at most"):
        event_driven_cuda.CudaLayer(neurons.alif_parameters(n, 0), n, "float32")
