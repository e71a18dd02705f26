"""A readout that remembers the activity of spiking neurons, on the CPU, driven by their spikes.

Its logits are y_f = sum_jk h_jk,f R_jk, with h of (1) of `kernels` for the activity o_j of each neuron.
Memory and product commute, so that it takes states a class instead of states a neuron,

    q_f = sum_j o_j,f R_j;  s_f = A^T s_{f-1} + C^T q_f;  y_f = B^T s_f,                  (1)

and the sum only has the neurons that spiked in the frame, about one in twenty. Gradients go back through
the same,

    p_f = A p_{f+1} + B dE/dy_f;  dE/dq_f = C p_f;  dE/dR_j = sum_f o_j,f dE/dq_f.        (2)

What the neurons learn from, dE/dq_f times R or the feedback in its place, is a dense product, which is
left to TensorFlow (`memories.read_events`).
"""

import numpy as np

from layers.arguments import aligned_empty, checked_array, checked_lengths
from layers.compiling import compiled
from layers.threads import pieces, run_chunks


def forward(activity, weights, system, reverse_len=None):
    """Logits by (1).

    Args:
        activity: float32 or float64 [batch, frames, n], mostly zeros.
        weights: R, [n, order, classes].
        system: layers.kernels.StateSpace.
        reverse_len: integers [batch], the frames of each utterance, for cells that go through them
            from the last to the first (and then through the padding); None: from the first.

    Returns:
        [batch, frames, classes]

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    activity, n_reversed = _checked(activity, reverse_len)
    batch, frames, n = activity.shape
    n_classes = np.shape(weights)[-1]
    weights = checked_array("weights", weights, activity.dtype, (n, system.order, n_classes))
    a, b, c = system
    step, output = (
        np.ascontiguousarray(x, activity.dtype) for x in (np.hstack([a.T, c.T]), b[None])
    )
    logits = aligned_empty((batch, frames, n_classes), activity.dtype)

    def read(first, last):
        _read(first, last, activity, n_reversed, step, output, weights, logits)

    for _ in run_chunks(read, pieces(batch)):
        pass
    return logits


def backward(error, activity, system, reverse_len=None):
    """Gradients by (2).

    Args:
        error: [batch, frames, classes], dE/dy.
        activity, system, reverse_len: as for `forward`.

    Returns:
        (dE/dq [batch, frames, order, classes], dE/dR [n, order, classes])

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    activity, n_reversed = _checked(activity, reverse_len)
    batch, frames, n = activity.shape
    n_classes = np.shape(error)[-1]
    error = checked_array("error", error, activity.dtype, (batch, frames, n_classes))
    a, b, c = system
    step, output = (
        np.ascontiguousarray(x, activity.dtype) for x in (np.hstack([a, b[:, None]]), c)
    )
    grad_q = aligned_empty((batch, frames, system.order, n_classes), activity.dtype)
    grad_weights = np.zeros((n, system.order, n_classes), activity.dtype)

    def learn(first, last):
        grad = np.zeros_like(grad_weights)
        _learn(first, last, activity, n_reversed, step, output, error, grad_q, grad)
        return grad

    for grad in run_chunks(learn, pieces(batch)):  # one order of sums, whatever the threads
        grad_weights += grad
    return grad_q, grad_weights


def _checked(activity, reverse_len):
    """The activity, and how many frames of each utterance are reversed, as the kernels take them."""
    dtype, shape = np.asarray(activity).dtype, np.shape(activity)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"activity is {dtype}, expected float32 or float64")
    reverse_len = np.zeros(shape[0]) if reverse_len is None else reverse_len
    return checked_array("activity", activity, dtype, shape), checked_lengths(
        reverse_len, *shape[:2]
    )


_fused = compiled(fastmath={"contract"})


@_fused
def _read(first, last, activity, n_reversed, step, output, weights, logits):
    """(1) of the utterances first..last-1: s_f = step (s_{f-1}, q_f), y_f = output s_f."""
    frames, n_classes = logits.shape[1:]
    n_states, n_rows = step.shape
    rows = weights.reshape((len(weights), -1))
    is_active = np.zeros((activity.shape[2] + 7) // 8 * 8, np.uint8)
    index = np.empty(len(is_active), np.int64)
    before = np.empty((n_rows, n_classes), weights.dtype)
    state, q = before[:n_states], before[n_states:].ravel()
    after = np.empty_like(state)
    for u in range(first, last):
        _clear(state)
        for f in range(frames):
            row = _place(f, n_reversed[u])
            for i in range(q.size):
                q[i] = 0
            for m in range(_set_active(activity, u, row, is_active, index)):
                j = index[m]
                o = activity[u, row, j]
                for i in range(q.size):
                    q[i] += o * rows[j, i]
            _multiply(step, before, after)
            _multiply(output, after, logits[u, row : row + 1])
            _copy(after, state)


@_fused
def _learn(first, last, activity, n_reversed, step, output, error, grad_q, grad_weights):
    """(2) of the utterances first..last-1: p_f = step (p_{f+1}, dE/dy_f), dE/dq_f = output p_f."""
    frames, n_classes = error.shape[1:]
    n_states, n_rows = step.shape
    rows = grad_weights.reshape((len(grad_weights), -1))
    grad_rows = grad_q.reshape((len(grad_q), frames, -1))
    is_active = np.zeros((activity.shape[2] + 7) // 8 * 8, np.uint8)
    index = np.empty(len(is_active), np.int64)
    after = np.empty((n_rows, n_classes), error.dtype)
    state, y = after[:n_states], after[n_states:]
    before = np.empty_like(state)
    for u in range(first, last):
        _clear(state)
        for f in range(frames - 1, -1, -1):
            row = _place(f, n_reversed[u])
            _copy(error[u, row : row + 1], y)
            _multiply(step, after, before)
            _multiply(output, before, grad_q[u, row])
            _copy(before, state)
        for f in range(frames):  # ascending, as the processor reads ahead
            for m in range(_set_active(activity, u, f, is_active, index)):
                j = index[m]
                o = activity[u, f, j]
                for i in range(rows.shape[1]):
                    rows[j, i] += o * grad_rows[u, f, i]


@_fused
def _clear(x):
    for k in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[k, i] = 0


@_fused
def _copy(x, y):
    for k in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[k, i] = x[k, i]


@_fused
def _multiply(step, x, y):
    """y = step x, row by row: few rows, most of a delay line's factors are 0."""
    _clear(y)
    for k in range(step.shape[0]):
        for m in range(step.shape[1]):
            factor = step[k, m]
            if factor != 0:
                for i in range(x.shape[1]):
                    y[k, i] += factor * x[m, i]


@_fused
def _place(position, n_reversed):
    """Where the `position`-th frame that is read stands in an array."""
    return n_reversed - 1 - position if position < n_reversed else position


@_fused
def _set_active(activity, u, row, is_active, index):
    """Write which values of a row are not 0 to `index`; return how many there are."""
    n = activity.shape[2]
    for j in range(n):
        is_active[j] = activity[u, row, j] != 0
    words = is_active.view(np.uint64)
    n_active = 0
    for w in range(words.size):
        if words[w] != 0:  # seldom: eight neurons at once are passed over
            for j in range(8 * w, 8 * w + 8):
                index[n_active] = j
                n_active += is_active[j]
    return n_active
