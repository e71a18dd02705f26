"""The event-driven readout against products and recursions in TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from test_memories import KERNELS

from layers import event_readout, memories
from layers.sequences import reverse_time

BATCH, FRAMES, N, CLASSES = 11, 50, 6, 5  # more utterances than pieces
LENGTHS = np.array([50, 0, 1, 2, 49, 50, 30, 31, 32, 33, 7])


def problem(kernels, dtype=np.float64, activity=0.1):
    """Activity, weights, feedback, and an error of the logits."""
    random_generator = np.random.default_rng(0)
    shape = N, kernels.order, CLASSES
    spikes = random_generator.random((BATCH, FRAMES, N)) < activity
    values = (
        spikes * random_generator.uniform(0.2, 1, spikes.shape),
        random_generator.standard_normal(shape),
        random_generator.standard_normal(shape),
        random_generator.standard_normal((BATCH, FRAMES, CLASSES)),
    )
    return [tf.constant(x, dtype) for x in values]


def by_products(activity, weights, feedback, kernels, trains_feedback, lengths=None):
    """`memories.read_events` in TensorFlow: the errors go through R, whatever the feedback."""
    q = tf.einsum("bfn,nkc->bfkc", activity, weights)
    if lengths is not None:
        q = reverse_time(q, lengths, whole_axis=False)
    y = memories.recall(q, kernels)
    return y if lengths is None else reverse_time(y, lengths, whole_axis=False)


def with_gradients(read, kernels, problem, lengths, trains_feedback=False):
    """Logits and the gradients by activity, weights and feedback."""
    *values, error = problem
    with tf.GradientTape() as tape:
        tape.watch(values)
        logits = read(*values, kernels, trains_feedback, lengths)
    zero = tf.UnconnectedGradients.ZERO
    return logits, *tape.gradient(logits, values, error, unconnected_gradients=zero)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["forward", "backward"])
@pytest.mark.parametrize("activity", [0, 0.1, 1])
@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_events_are_products(kernels, activity, lengths):
    values = problem(kernels, activity=activity)
    values[2] = values[1]  # errors go back through the weights
    found = with_gradients(memories.read_events, kernels, values, lengths)
    expected = with_gradients(by_products, kernels, values, lengths)
    for f, e in zip(found, expected):
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-12 * (1 + np.abs(e).max()))


@pytest.mark.parametrize("trains_feedback", [False, True])
def test_errors_go_back_through_the_feedback(trains_feedback):
    kernels = KERNELS["state space"]
    values = problem(kernels)
    found = with_gradients(memories.read_events, kernels, values, None, trains_feedback)
    straight = with_gradients(by_products, kernels, values, None)
    activity, _, feedback, error = values
    through_feedback = with_gradients(
        by_products, kernels, [activity, feedback, feedback, error], None
    )
    np.testing.assert_allclose(found[1], through_feedback[1], atol=1e-11)
    np.testing.assert_allclose(found[2], straight[2], atol=1e-11)
    np.testing.assert_array_equal(found[3], found[2] if trains_feedback else 0 * found[2])


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    kernels = KERNELS["state space"]
    values = problem(kernels, np.float32)
    results = []
    for n_threads in ("1", "2", "5"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", n_threads)
        results.append(with_gradients(memories.read_events, kernels, values, LENGTHS))
    for other in results[1:]:
        for f, e in zip(other, results[0]):
            assert np.array_equal(f, e)


@pytest.mark.parametrize("batch, frames, n", [(0, 4, 3), (2, 0, 3), (1, 1, 8), (3, 5, 17)])
def test_any_sizes(batch, frames, n):
    """Also in a graph that does not know them."""
    kernels = KERNELS["state space"]
    random_generator = np.random.default_rng(1)
    activity = random_generator.random((batch, frames, n)).astype(np.float32)
    weights = random_generator.standard_normal((n, kernels.order, CLASSES)).astype(np.float32)
    lengths = np.full(batch, frames, np.int32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, n]), tf.TensorSpec([None], tf.int32)])
    def read(activity, lengths):
        logits = memories.read_events(activity, weights, weights, kernels, False, lengths)
        return logits, *tf.gradients(logits, activity)

    expected = by_products(activity, weights, weights, kernels, False, lengths)
    logits, gradient = read(activity, lengths)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert gradient.shape == activity.shape


def test_wrong_arguments_are_refused():
    system = KERNELS["state space"]
    activity, weights, _, error = (x.numpy() for x in problem(system))
    with pytest.raises(ValueError, match="weights has shape"):
        event_readout.forward(activity, weights[:-1], system)
    with pytest.raises(ValueError, match="float32 or float64"):
        event_readout.forward(activity.astype(int), weights, system)
    with pytest.raises(ValueError, match="seq_len"):
        event_readout.forward(activity, weights, system, LENGTHS + 1)
    with pytest.raises(ValueError, match="error has shape"):
        event_readout.backward(error[:, :-1], activity, system)
