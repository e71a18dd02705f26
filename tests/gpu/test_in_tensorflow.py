"""The engine `cuda` in a graph of TensorFlow, in the simulator: `make test_cuda`."""

import ctypes

import numpy as np
import pytest
import tensorflow as tf
from cases import make_case
from numba import cuda
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

import models
from helpers import assert_near
from layers import alif, neurons


@pytest.fixture(autouse=True)
def memory_of_the_cpu(monkeypatch):
    """In place of what the simulator lacks: an array at an address."""

    def as_cuda_array(memory, sync):
        interface = memory.__cuda_array_interface__
        dtype, (address, _) = np.dtype(interface["typestr"]), interface["data"]
        n_bytes = int(np.prod(interface["shape"])) * dtype.itemsize
        raw = np.frombuffer((ctypes.c_uint8 * n_bytes).from_address(address), dtype)
        return FakeCUDAArray(raw.reshape(interface["shape"]))

    monkeypatch.setattr(cuda, "as_cuda_array", as_cuda_array, raising=False)


@pytest.mark.parametrize("rule, quirks", [("eprop", False), ("bptt", False), ("bptt", True)])
def test_spikes_and_gradients_in_a_graph(rule, quirks):
    case = make_case(n=8, frames=3, reference_quirks=quirks)
    signature = [
        tf.TensorSpec([None, None, 2, 8], tf.float64),
        tf.TensorSpec(case.w_rec.shape, tf.float64),
        tf.TensorSpec([None], tf.int32),
    ]

    def computed(engine):
        @tf.function(input_signature=signature, autograph=False)
        def step(current, w_rec, seq_len):
            with tf.GradientTape() as tape:
                tape.watch([current, w_rec])
                z = engine(current, w_rec, seq_len, case.parameters, rule)
                loss = tf.reduce_sum(z * case.grad_z_mean) + tf.reduce_sum(z) ** 2
            return z, *tape.gradient(loss, [current, w_rec])

        return step(case.current, case.w_rec, np.array([3, 2], np.int32))

    found, expected = computed(alif.cuda_spikes), computed(alif.event_driven_spikes)
    np.testing.assert_array_equal(found[0], expected[0])
    assert np.count_nonzero(found[0]) > 5
    for gradient, other in zip(found[1:], expected[1:]):
        assert_near(gradient, other, 1e-11)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_nothing_to_simulate(shape):
    case = make_case()
    current = tf.zeros([*shape, 2, 12], tf.float64)
    w_rec = tf.constant(case.w_rec)
    with tf.GradientTape() as tape:
        tape.watch([current, w_rec])
        z = alif.cuda_spikes(current, w_rec, tf.zeros(shape[0], tf.int32), case.parameters, "bptt")
    assert z.shape == current.shape
    of_current, of_w_rec = tape.gradient(z, [current, w_rec])
    assert of_current.shape == current.shape and not np.any(of_w_rec)


@pytest.mark.parametrize(
    "rule, options",
    [
        ("symmetric", {"n_layer": 2}),
        ("bptt", {"n_layer": 2}),
        ("random", {"n_directions": 1, "drop_out_probability": 0.3}),
        ("bptt", {"rec": False}),
    ],
)
def test_networks_equal_those_of_the_cpu(rule, options):
    """Two layers, one direction, dropout, no recurrence; utterances of unequal length."""
    random_generator = np.random.default_rng(1)
    features = random_generator.standard_normal((2, 3, 5))
    rec = options.pop("rec", True)
    parameters = neurons.alif_parameters(6, 4, n_repeat=2, tau_a=20, rec=rec)

    def computed(engine):
        config = models.LsnnConfig(
            rule=rule,
            parameters=parameters,
            engine=engine,
            weight_scale=0.3,
            dtype=tf.float64,
            **options,
        )
        network = models.Lsnn(config, 5, 3, np.random.default_rng(2))
        with tf.GradientTape() as tape:
            output = network(features, np.array([3, 2], np.int32), [1, 2])
            loss = tf.reduce_sum(output.logits**2)
        return output, tape.gradient(loss, network.trainable_variables)

    (found, gradients), (expected, others) = computed("cuda"), computed("event")
    np.testing.assert_array_equal(found.activity, expected.activity)
    assert np.count_nonzero(found.activity) > 5
    for gradient, other in zip(gradients, others):
        if gradient is not None:
            assert_near(gradient, other, 1e-11)
