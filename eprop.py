"""The learning rules: what each of them stops, and e-prop by explicit eligibility traces.

E-prop (Bellec et al. 2020) factorises the gradient of the loss E over the recurrent weights into

    dE/dW_ji = sum_t L_j^t e_ji^t                                                       (a)

with a learning signal L_j^t = dE/dz_j^t and an eligibility trace e_ji^t that only holds what
neuron j knows. (a) is exact when L_j^t is the total derivative, which has to come from the future;
e-prop puts in its place the direct one, through the readout at time t. In a framework with
automatic differentiation that is one `stop_gradient` on the spikes that return to the network:

rule        spikes back into the network    readout error reaches the neurons through
bptt        differentiated                  W_out
symmetric   stopped                         W_out
random      stopped                         fixed random weights B
adaptive    stopped                         B, which receives W_out's gradient; both decay

`alif_traces` and `lstm_traces` are the traces of (a), forward in time, each written out. They prove
that the shortcut is e-prop (`verify_eprop.py`) and are not the way to train: the traces need memory for
every synapse.

A readout that remembers the activity o_f of a frame, x_f = A x_{f-1} + B o_f with the logits
sum_k (C x_f)_k R_k, leaves e-prop online: each synapse's trace goes through the same memory,

    dE/dW_ji = sum_f sum_k (err_f . R_kj) (C xbar_f)_k,ji,  xbar_f = A xbar_{f-1} + B ebar_f      (b)

with err_f = dE/dlogits_f and ebar_f the mean of e over the frame's steps (`memory_gradient`). Encoders
of a memory before the cells learn by the readout's gradient at that memory alone, through the same
recursion of the features (`encoder_gradient`).

Symbol          Shape                   Meaning
pre             [batch, steps, n_pre]   presynaptic activity: input, or spikes one step ago
psi             [batch, steps, n]       pseudo-derivative dz/dv, 0 when refractory
eps_v, eps_a    [batch, n_pre, n]       eligibility vectors of membrane potential and adaptation
L               [batch, steps, n]       learning signal dE/dz
"""

import numpy as np
import tensorflow as tf

RULES = ("bptt", "symmetric", "random", "adaptive")


def rule_of_flag(eprop):
    """The learning rule that `--eprop` names; an absent flag is BPTT."""
    return eprop or "bptt"


def stops_recurrence(rule):
    """Whether the rule cuts the gradient through the network's own spikes or cell outputs."""
    return rule != "bptt"


def broadcasts(rule):
    """Whether the rule sends the readout error through weights of its own."""
    return rule in ("random", "adaptive")


def broadcast_readout(hidden, w_out, feedback, train_feedback):
    """Product with the readout weights whose gradient goes back through other weights.

    Args:
        hidden: [batch, frames, n_out] activity seen by the readout.
        w_out: [n_out, classes] readout weights.
        feedback: [n_out, classes] broadcast weights B.
        train_feedback: give B the gradient of `w_out` (adaptive e-prop) or none (random).

    Returns:
        [batch, frames, classes]
    """

    @tf.custom_gradient
    def product(hidden, w_out, feedback):
        def gradient(error):
            d_w_out = tf.tensordot(hidden, error, [[0, 1], [0, 1]])
            return (
                tf.tensordot(error, feedback, [[2], [1]]),
                d_w_out,
                d_w_out if train_feedback else tf.zeros_like(feedback),
            )

        return tf.tensordot(hidden, w_out, 1), gradient

    return product(hidden, tf.convert_to_tensor(w_out), tf.convert_to_tensor(feedback))


def mirror_decay(w_out, feedback, readout_decay):
    """Shrink readout and feedback weights together, so that they align (Kolen & Pollack 1994)."""
    for weights in (w_out, feedback):
        weights.assign(weights * (1 - readout_decay))


def alif_traces(pre, psi, psi_adaptation, alpha, rho, beta):
    """Eligibility traces of an ALIF layer's weights, step by step.

        eps_a_t = rho eps_a_{t-1} + psi_{t-1} (eps_v_{t-1} - beta eps_a_{t-1})
        eps_v_t = alpha eps_v_{t-1} + pre_t
        e_t     = psi_t (eps_v_t - beta eps_a_t)

    (Bellec et al. 2020, equations 22 to 25, with this project's index of time.)

    Args:
        pre: [batch, steps, n_pre].
        psi: [batch, steps, n].
        psi_adaptation: [batch, steps, n] pseudo-derivative of the spike that feeds the adaptation;
            `psi` in the paper, not masked by refractoriness in the authors' code.
        alpha, rho, beta: [n].

    Yields:
        e_t, [batch, n_pre, n].
    """
    n_batch, n_steps, n_pre = pre.shape
    eps_v = np.zeros((n_batch, n_pre, psi.shape[-1]))
    eps_a = np.zeros_like(eps_v)
    for t in range(n_steps):
        if t > 0:
            eps_a = rho * eps_a + psi_adaptation[:, t - 1, None] * (eps_v - beta * eps_a)
        eps_v = alpha * eps_v + pre[:, t, :, None]
        yield psi[:, t, None] * (eps_v - beta * eps_a)


def lstm_traces(pre, gates, cell_states):
    """Eligibility traces of an LSTM layer's kernel, frame by frame.

    With gates i, j, f, o before their non-linearities and c_t = s(f) c_{t-1} + s(i) tanh(j):

        eps_t = s(f_t) eps_{t-1} + dc_t/dW    for the columns of i, j and f
        e_t   = s(o_t) (1 - tanh(c_t)^2) eps_t,   and for o: s'(o_t) tanh(c_t) pre_t

    Args:
        pre: [batch, frames, n_pre]; a column of ones gives the bias's gradient.
        gates: [batch, frames, 4, n] in the order i, j, f (forget bias included), o.
        cell_states: [batch, frames, n].

    Yields:
        e_t, [batch, n_pre, 4, n], gates in the kernel's order.
    """
    n_batch, n_frames, _, n = gates.shape
    eps = np.zeros((n_batch, pre.shape[-1], 3, n))
    previous = np.zeros((n_batch, n))
    for t in range(n_frames):
        i, j, f, o = (gates[:, t, k] for k in range(4))
        c = cell_states[:, t]
        dc = np.stack(
            [
                _d_sigmoid(i) * np.tanh(j),
                _sigmoid(i) * (1 - np.tanh(j) ** 2),
                _d_sigmoid(f) * previous,
            ],
            axis=1,
        )  # [batch, 3, n]
        eps = _sigmoid(f)[:, None, None] * eps + pre[:, t, :, None, None] * dc[:, None]
        dm_dc = _sigmoid(o) * (1 - np.tanh(c) ** 2)
        of_output = pre[:, t, :, None] * (_d_sigmoid(o) * np.tanh(c))[:, None]
        yield np.concatenate([dm_dc[:, None, None] * eps, of_output[:, :, None]], axis=2)
        previous = c


def traced_gradient(traces, learning_signal):
    """Gradient of a layer's weights, [n_pre, n] or [n_pre, 4, n], by (a).

    Args:
        traces: of `alif_traces` or `lstm_traces`.
        learning_signal: [batch, time, n], dE/dz_t or dE/dm_t.
    """
    return sum(
        np.sum(_for_each_trace(learning_signal[:, t], e) * e, axis=0) for t, e in enumerate(traces)
    )


def _for_each_trace(signal, traces):
    """`signal` [..., batch, n] with axes for what lies between batch and n in [..., batch, ..., n]."""
    first = signal.ndim - 1
    return np.expand_dims(signal, tuple(range(first, first + traces.ndim - signal.ndim)))


def memory_gradient(traces, errors, weights, memory, n_repeat=1):
    """Gradient of a layer's weights through a readout that remembers, by (b).

    Args:
        traces: of `alif_traces` or `lstm_traces`, [batch, ..., n] each.
        errors: [batch, frames, classes], dE/dlogits.
        weights: [order, n, classes] R, or the feedback in its place.
        memory: A [states, states], B [states], C [order, states].
        n_repeat: traces a frame.

    Returns:
        [..., n]
    """
    of_frames = (np.mean(frame, axis=0) for frame in zip(*[iter(traces)] * n_repeat))
    gradient = 0
    for f, held in enumerate(_held(of_frames, *memory)):  # [order, batch, ..., n]
        signal = np.einsum("bc,knc->kbn", errors[:, f], weights)
        gradient = gradient + np.sum(_for_each_trace(signal, held) * held, axis=(0, 1))
    return gradient


def encoder_gradient(features, learning_signal, memory):
    """Gradient [n_features, channels] of the encoders of a memory before the cells.

    Args:
        features: [batch, frames, n_features].
        learning_signal: [batch, frames, channels, order], the readout's dE/dm.
        memory: as `memory_gradient`, of a channel.
    """
    held = _held(np.moveaxis(features, 1, 0), *memory)
    return sum(np.einsum("kbi,bqk->iq", h, learning_signal[:, f]) for f, h in enumerate(held))


def _held(signals, a, b, c):
    """C x_f [order, ...] for each of the signals [...], with x_f = A x_{f-1} + B signal_f."""
    x = 0
    for signal in signals:
        x = np.tensordot(a, x, 1) if np.ndim(x) else x
        x = x + np.multiply.outer(b, signal)
        yield np.tensordot(c, x, 1)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _d_sigmoid(x):
    return _sigmoid(x) * (1 - _sigmoid(x))
