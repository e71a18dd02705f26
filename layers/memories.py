"""Memories (`layers.kernels`) of whole sequences in TensorFlow, and their way to `event_readout`.

A linear system costs a loop over frames, or one product with a matrix of all pairs of frames. Here
the sequence is cut into blocks of T frames: within each of them that matrix, T states at most wide,
answers for the block's own input; a state a block, for all before.
"""

import numpy as np
import tensorflow as tf

from layers import event_readout
from layers.kernels import DelayLine
from layers.sequences import exponential_filter

BLOCK_FRAMES = 32


class EncodedMemory(tf.Module):
    """The memory before the cells, of channels that encoders make of the features.

    Args:
        memory: layers.kernels.InputMemory.
    """

    def __init__(self, memory, dtype=tf.float32, name="input_memory"):
        super().__init__(name)
        self.kernels = memory.kernels
        self.encoders = tf.Variable(
            memory.encoders, trainable=memory.is_learned, dtype=dtype, name="encoders"
        )
        self.rms = tf.Variable(memory.rms, trainable=False, dtype=dtype, name="rms")

    def __call__(self, features):
        """m_f / rms, [batch, frames, channels * order], of features [batch, frames, n]."""
        held = remember(tf.tensordot(features, self.encoders, 1), self.kernels)
        shape = tf.shape(features)
        return tf.reshape(held, [shape[0], shape[1], self.rms.shape[0]]) / self.rms


def remember(x, kernels):
    """What a memory holds of each of several signals.

    Args:
        x: [batch, frames, n].
        kernels: StateSpace or DelayLine.

    Returns:
        [batch, frames, n, order]
    """
    if isinstance(kernels, DelayLine):
        y = exponential_filter(x, kernels.decay) if kernels.decay else x
        return tf.stack([delayed(y, n) for n in kernels.delays.tolist()], -1)
    a, b, c = kernels
    h = linear_system(x[:, :, None], a, b[:, None], c)  # [batch, frames, order, n]
    return tf.transpose(h, [0, 1, 3, 2])


def recall(x, kernels):
    """Sum over k of what a memory's output k would be of the signal x_k (its adjoint in time).

    Filter and product with readout weights commute; this is for what was multiplied first.

    Args:
        x: [batch, frames, order, n].
        kernels: StateSpace or DelayLine.

    Returns:
        [batch, frames, n]: sum over k of h_k of x[:, :, k], by (1) of `layers.kernels`.
    """
    if isinstance(kernels, DelayLine):
        y = tf.add_n(list(map(delayed, tf.unstack(x, axis=2), kernels.delays.tolist())))
        return exponential_filter(y, kernels.decay) if kernels.decay else y
    a, b, c = kernels
    return linear_system(x, a.T, c.T, b[None])[:, :, 0]


def read_events(activity, weights, feedback, kernels, trains_feedback, reverse_len=None):
    """`recall` of the product of sparse activity and weights, by `event_readout`, on the CPU.

    Args:
        activity: [batch, frames, n].
        weights: R, [n, order, classes].
        feedback: as R, what errors go back to the neurons through; R itself if nothing else.
        kernels: StateSpace or DelayLine.
        trains_feedback: the feedback receives the gradient of R, else none.
        reverse_len: as for `event_readout.forward`.

    Returns:
        [batch, frames, classes]
    """
    system, dtype = kernels.state_space(), activity.dtype
    reverse_len = [] if reverse_len is None else [reverse_len]

    @tf.custom_gradient
    def function(activity, weights, feedback):
        def gradient(error):
            grad_q, grad_weights = tf.numpy_function(
                lambda error, activity, *n: event_readout.backward(error, activity, system, *n),
                [error, activity, *reverse_len],
                [dtype, dtype],
            )
            grad_q.set_shape([*activity.shape[:2], *weights.shape[1:]])
            grad_weights.set_shape(weights.shape)
            return (
                tf.tensordot(grad_q, feedback, [[2, 3], [1, 2]]),
                grad_weights,
                grad_weights if trains_feedback else tf.zeros_like(feedback),
            )

        logits = tf.numpy_function(
            lambda activity, weights, *n: event_readout.forward(activity, weights, system, *n),
            [activity, weights, *reverse_len],
            dtype,
        )
        return tf.ensure_shape(logits, [*activity.shape[:2], weights.shape[-1]]), gradient

    return function(activity, weights, feedback)


def delayed(x, n_steps):
    """`x` [batch, time, ...] of so many steps of axis 1 ago, 0 before the first."""
    if isinstance(n_steps, int) and n_steps == 0:
        return x
    shape = tf.shape(x)
    padding = [[0, 0], [tf.minimum(n_steps, shape[1]), 0], *[[0, 0]] * (len(x.shape) - 2)]
    return tf.slice(tf.pad(x, padding), tf.zeros_like(shape), shape)


def linear_system(u, a, b, c):
    """y_f = C x_f of x_f = A x_{f-1} + B u_f, x = 0 before the first frame.

    Args:
        u: [batch, frames, inputs, n], n systems side by side.
        a, b, c: [states, states], [states, inputs], [outputs, states].

    Returns:
        [batch, frames, outputs, n]
    """
    n_inputs, n = u.shape[2:]
    n_batch, n_frames = tf.unstack(tf.shape(u)[:2])
    n_blocks = -(-n_frames // BLOCK_FRAMES)
    u = tf.pad(u, [[0, 0], [0, n_blocks * BLOCK_FRAMES - n_frames], [0, 0], [0, 0]])
    u = tf.reshape(u, [n_batch, n_blocks, BLOCK_FRAMES * n_inputs, n])
    within, to_state, from_state, power = _block_matrices(a, b, c)
    # Each block's start from all blocks before it, by doubling how many of them it covers.
    state = delayed(tf.constant(to_state, u.dtype) @ u, 1)
    span = 1
    while np.abs(power).max() > np.finfo(u.dtype.as_numpy_dtype).eps / 4:
        state += tf.constant(power, u.dtype) @ delayed(state, span)
        span, power = 2 * span, power @ power
    y = tf.constant(within, u.dtype) @ u + tf.constant(from_state, u.dtype) @ state
    return tf.reshape(y, [n_batch, n_blocks * BLOCK_FRAMES, len(c), n])[:, :n_frames]


def _block_matrices(a, b, c):
    """For T frames at a time: (input -> output, input -> state after, state before -> output,
    state before -> state after) as [T * outputs, T * inputs], [states, T * inputs],
    [T * outputs, states] and [states, states]."""
    powers = [np.linalg.matrix_power(a, k) for k in range(BLOCK_FRAMES + 1)]
    responses = np.stack([c @ power @ b for power in powers[:-1]])  # [T, outputs, inputs]
    lags = np.subtract.outer(np.arange(BLOCK_FRAMES), np.arange(BLOCK_FRAMES))
    within = np.where(lags[:, :, None, None] >= 0, responses[lags], 0)  # [T, T, outputs, inputs]
    within = within.transpose(0, 2, 1, 3).reshape(BLOCK_FRAMES * len(c), -1)
    to_state = np.concatenate([power @ b for power in powers[-2::-1]], axis=1)
    from_state = np.concatenate([c @ power for power in powers[1:]])
    return within, to_state, from_state, powers[-1]
