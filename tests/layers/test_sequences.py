"""Loops over time, reversal and filters against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from helpers import assert_near
from layers import sequences


@pytest.mark.parametrize("wrapped", [False, True], ids=["eager", "graph"])
def test_unroll_is_a_loop(wrapped):
    random_generator = np.random.default_rng(0)
    xs, ys = random_generator.standard_normal((2, 5, 3))

    def step(state, inputs):
        total, n = state
        total = 0.5 * total + inputs["x"] * inputs["y"]
        return (total, n + 1), (total, tf.tanh(total) * n)

    @tf.function if wrapped else lambda function: function
    def run(xs, ys):
        return sequences.unroll(
            step, (tf.zeros(3, tf.float64), tf.ones([], tf.float64)), {"x": xs, "y": ys}
        )

    totals, products = run(tf.constant(xs), tf.constant(ys))
    total = np.zeros(3)
    for t in range(len(xs)):
        total = 0.5 * total + xs[t] * ys[t]
        np.testing.assert_allclose(totals[t], total, rtol=1e-14)
        np.testing.assert_allclose(products[t], np.tanh(total) * (t + 1), rtol=1e-14)
    assert totals.shape == products.shape == (5, 3)


def test_time_is_reversed_over_true_frames_only():
    x = np.arange(2 * 2 * 4.0).reshape(2, 2, 4, 1)  # [directions, batch, time, 1]
    for whole_axis, second in ((False, [9, 8, 10, 11]), (True, [11, 10, 9, 8])):
        cell_time = sequences.into_cell_time(x, [2, 4], whole_axis).numpy()
        np.testing.assert_array_equal(cell_time[0], x[0])
        np.testing.assert_array_equal(cell_time[1, 0, :, 0], second)
        np.testing.assert_array_equal(cell_time[1, 1, :, 0], [15, 14, 13, 12])
        back = sequences.out_of_cell_time(cell_time, [2, 4], whole_axis)
        np.testing.assert_array_equal(back, np.concatenate([x[0], x[1]], axis=-1))


@pytest.mark.parametrize("decay", [0.0, 0.3, np.exp(-1 / 3), 0.999])
@pytest.mark.parametrize("n_frames", [1, 2, 7, 130])
def test_exponential_filter_is_the_recursive_one(decay, n_frames):
    random_generator = np.random.default_rng(0)
    x, g = random_generator.standard_normal((2, 2, n_frames, 3))
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 3e-6)):
        signal = tf.constant(x, dtype)
        with tf.GradientTape() as tape:
            tape.watch(signal)
            y = sequences.exponential_filter(signal, decay)
            loss = tf.reduce_sum(y * tf.cast(g, dtype))
        assert y.dtype == dtype
        assert_near(y, scipy.signal.lfilter([1], [1, -decay], x, axis=1), tolerance)
        # The way back is the same filter in reversed time.
        expected = scipy.signal.lfilter([1], [1, -decay], g[:, ::-1], axis=1)[:, ::-1]
        assert_near(tape.gradient(loss, signal), expected, tolerance)


def test_with_sum_is_the_identity_and_a_sum():
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 3, 4)))
    of_x, of_sum = tf.constant(np.arange(24.0).reshape(2, 3, 4)), tf.constant(np.eye(2, 4))

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, total = function(x)
            loss = tf.reduce_sum(of_x * y) + tf.reduce_sum(of_sum * total)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_allclose(total, np.sum(x, 1), rtol=1e-15)
        return tape.gradient(loss, x)

    expected = gradient(lambda x: (x, tf.reduce_sum(x, 1)))
    np.testing.assert_array_equal(gradient(sequences.with_sum), expected)
