"""Padded sequences in TensorFlow: loops over time, reversal over true frames, filters."""

import numpy as np
import tensorflow as tf


def unroll(step, state, inputs):
    """Apply `step(state, input_t) -> (state, output_t)` along the first axis of the inputs.

    Args:
        step: the cell; states, inputs and outputs are (tuples of) tensors.
        state: initial state.
        inputs: tensor, or tuple of tensors, [time, ...].

    Returns:
        The outputs, stacked: [time, ...].
    """
    n_steps = tf.shape(tf.nest.flatten(inputs)[0])[0]
    reader = tf.nest.map_structure(
        lambda x: tf.TensorArray(x.dtype, n_steps, element_shape=x.shape[1:]).unstack(x), inputs
    )
    # The outputs' structure and shapes; a graph prunes this step away.
    _, example = step(state, tf.nest.map_structure(lambda x: x[0], inputs))
    writer = tf.nest.map_structure(
        lambda y: tf.TensorArray(y.dtype, n_steps, element_shape=y.shape), example
    )

    def body(t, state, writer):
        state, outputs = step(state, tf.nest.map_structure(lambda array: array.read(t), reader))
        return (
            t + 1,
            state,
            tf.nest.map_structure(lambda array, y: array.write(t, y), writer, outputs),
        )

    _, _, writer = tf.while_loop(
        lambda t, *_: t < n_steps, body, (0, state, writer), maximum_iterations=n_steps
    )
    return tf.nest.map_structure(lambda array: array.stack(), writer)


def reverse_time(x, seq_len, whole_axis):
    """Reverse axis 1 of `x` [batch, time, ...] over the true time steps only.

    With `whole_axis` the padding is reversed with them and comes first, as in the authors' code.
    """
    return tf.reverse(x, [1]) if whole_axis else tf.reverse_sequence(x, seq_len, seq_axis=1)


def into_cell_time(x, seq_len, whole_axis):
    """[directions, batch, time, n] in the order of time -> in the order each cell reads."""
    forward, *backward = tf.unstack(x)
    return tf.stack([forward, *(reverse_time(b, seq_len, whole_axis) for b in backward)])


def out_of_cell_time(x, seq_len, whole_axis):
    """[directions, batch, time, n] as the cells wrote it -> [batch, time, directions * n]."""
    forward, *backward = tf.unstack(x)
    return tf.concat([forward, *(reverse_time(b, seq_len, whole_axis) for b in backward)], -1)


def frame_means(spikes, n_repeat):
    """[batch, steps, n] -> [batch, frames, n], the mean over each frame's steps."""
    shape = tf.shape(spikes)
    n_frames = shape[1] // n_repeat
    return tf.reduce_mean(
        tf.reshape(spikes, [shape[0], n_frames, n_repeat, spikes.shape[-1]]), axis=2
    )


@tf.custom_gradient
def with_sum(x):
    """(`x` [batch, time, n], its sum over time).

    The sum's gradient is added to that of `x` without an array of its own of the size of `x`.
    """

    def gradient(grad_x, grad_sum):
        return grad_x + grad_sum[:, None]

    return (tf.identity(x), tf.reduce_sum(x, 1)), gradient


def scan(decay, x):
    """y_t = decay_t y_{t-1} + x_t along axis 2 of `decay` and `x` [directions, batch, time, n].

    By doubling the covered span, as in `exponential_filter`: a loop of logarithmically many passes.
    """
    n_steps = tf.shape(x)[2]

    def before(x, span):
        return tf.pad(x, [[0, 0], [0, 0], [span, 0], [0, 0]])[:, :, :n_steps]

    def body(span, decay, y):
        return 2 * span, decay * before(decay, span), y + decay * before(y, span)

    return tf.while_loop(lambda span, *_: span < n_steps, body, (1, decay, x))[2]


def exponential_filter(x, decay):
    """y_f = decay y_{f-1} + x_f along axis 1 of `x` [batch, frames, n].

    Doubling the covered span adds two shifted copies: y over 2k frames is y over k frames plus
    decay^k times itself k frames ago. A handful of vector operations replaces a loop over frames.
    """
    span, n_frames = 1, tf.shape(x)[1]
    # Beyond this the factor is below a float's resolution of 1.
    while decay**span > np.finfo(x.dtype.as_numpy_dtype).eps / 4:
        padded = tf.pad(x, [[0, 0], [tf.minimum(span, n_frames), 0], [0, 0]])
        # The gradient of x[:, :n], which may have strides, takes ten times that of a slice.
        x += decay**span * tf.slice(padded, [0, 0, 0], tf.shape(x))
        span *= 2
    return x
