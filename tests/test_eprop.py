"""The learning rules' table, the broadcast readout, and eligibility traces against derivatives.

Here the traces meet derivatives of plain NumPy models; `verify_eprop.py` compares them with the
networks that training runs.
"""

import numpy as np
import pytest
import tensorflow as tf

import eprop


def assert_close(found, expected, tolerance):
    """Equal within `tolerance` of the largest expected value; the expected one is not all 0."""
    scale = np.max(np.abs(expected))
    assert scale > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def test_rules():
    assert eprop.RULES == ("bptt", "symmetric", "random", "adaptive")
    assert eprop.rule_of_flag(None) == eprop.rule_of_flag("") == "bptt"
    table = {
        rule: (eprop.stops_recurrence(rule), eprop.broadcasts(rule))
        for rule in map(eprop.rule_of_flag, eprop.RULES)
    }
    assert table == {
        "bptt": (False, False),
        "symmetric": (True, False),
        "random": (True, True),
        "adaptive": (True, True),
    }


# --------------------------------------------------------------------------- readout


@pytest.mark.parametrize("train_feedback", [False, True])
def test_broadcast_readout_sends_errors_through_the_feedback(train_feedback):
    random_generator = np.random.default_rng(0)
    hidden, error = random_generator.standard_normal((2, 2, 6, 4))
    error = error[..., :3]
    w_out, feedback = (tf.Variable(w) for w in random_generator.standard_normal((2, 4, 3)))
    watched = tf.constant(hidden)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        product = eprop.broadcast_readout(watched, w_out, feedback, train_feedback)
        loss = tf.reduce_sum(product * error)
    d_hidden, d_w_out, d_feedback = tape.gradient(loss, [watched, w_out, feedback])
    np.testing.assert_allclose(product, hidden @ w_out.numpy(), rtol=1e-13, atol=1e-13)
    assert_close(d_hidden, error @ feedback.numpy().T, 1e-13)
    expected = sum(h.T @ e for h, e in zip(hidden, error))
    assert_close(d_w_out, expected, 1e-13)
    np.testing.assert_array_equal(d_feedback, d_w_out if train_feedback else np.zeros((4, 3)))


def test_mirror_decay_aligns_readout_and_feedback():
    """Equal updates keep the difference; each decay shrinks it by its own factor."""
    random_generator = np.random.default_rng(0)
    w_out, feedback = (tf.Variable(w) for w in random_generator.standard_normal((2, 4, 3)))
    first = (w_out - feedback).numpy()
    for k in range(1, 201):
        update = random_generator.standard_normal((4, 3))
        w_out.assign_add(update)
        feedback.assign_add(update)
        eprop.mirror_decay(w_out, feedback, 0.05)
        np.testing.assert_allclose(w_out - feedback, first * 0.95**k, rtol=0, atol=1e-12)
    assert np.linalg.norm(w_out) > 1
    assert_close(w_out, feedback.numpy(), 1e-3)


# --------------------------------------------------------------------------- traces

BATCH, N_STEPS, N_PRE, N = 2, 9, 3, 4
ALPHA = np.array([0.95, 0.9, 0.95, 0.8])
RHO = np.array([0.99, 0.99, 0.95, 0.9])
BETA = np.array([0.0, 0.4, 0.3, 0.5])


def linearised_spikes(w, pre, psi, psi_adaptation):
    """Spikes of an ALIF layer as the learning rules see them: linear in potential minus threshold.

    z = psi (v - beta a) up to what the weights do not change; the adaptation counts the spikes of
    slope `psi_adaptation`. What a synapse reads, `pre`, is given. Returns [batch, steps, n].
    """
    v = a = own = np.zeros((BATCH, N))
    z = np.zeros((BATCH, N_STEPS, N))
    for t in range(N_STEPS):
        a = RHO * a + own
        v = ALPHA * v + pre[:, t] @ w
        z[:, t] = psi[:, t] * (v - BETA * a)
        own = psi_adaptation[:, t] * (v - BETA * a)
    return z


@pytest.mark.parametrize("masked", [True, False])
def test_alif_traces_are_the_derivative_of_the_own_dynamics(masked):
    random_generator = np.random.default_rng(2)
    pre = random_generator.standard_normal((BATCH, N_STEPS, N_PRE))
    signal = random_generator.standard_normal((BATCH, N_STEPS, N))
    unmasked = random_generator.uniform(0, 1, (BATCH, N_STEPS, N))
    psi = unmasked * random_generator.integers(0, 2, unmasked.shape)
    psi_adaptation = psi if masked else unmasked
    constants = psi, psi_adaptation, ALPHA, RHO
    found = eprop.traced_gradient(eprop.alif_traces(pre, *constants, BETA), signal)
    expected = np.zeros((N_PRE, N))
    for synapse in np.ndindex(N_PRE, N):
        w = np.zeros((N_PRE, N))
        w[synapse] = 1  # linear: the difference to no weights is the derivative
        expected[synapse] = np.sum(signal * linearised_spikes(w, pre, psi, psi_adaptation))
    assert_close(found, expected, 1e-12)
    # Adaptation and the mask of its spikes matter.
    without = eprop.traced_gradient(eprop.alif_traces(pre, *constants, 0 * BETA), signal)
    other = eprop.traced_gradient(eprop.alif_traces(pre, psi, psi, ALPHA, RHO, BETA), signal)
    np.testing.assert_allclose(found[:, 0], without[:, 0], rtol=1e-12)
    assert np.all(np.abs(found - without)[:, 1:].max(axis=0) > 1e-2)
    assert (np.max(np.abs(found - other)) > 1e-2) == (not masked)


def test_an_alif_trace_by_hand():
    """One synapse, spikes at its input in steps 0 and 1, a learning signal in step 2."""
    psi = np.array([0.5, 0.25, 0.125])
    traces = eprop.alif_traces(
        pre=np.array([1.0, 1.0, 0.0])[None, :, None],
        psi=psi[None, :, None],
        psi_adaptation=psi[None, :, None],
        alpha=np.array([0.5]),
        rho=np.array([0.5]),
        beta=np.array([1.0]),
    )
    found = eprop.traced_gradient(traces, np.array([0.0, 0.0, 2.0])[None, :, None])
    # eps_v = 1, 1.5, 0.75; eps_a = 0, 0.5, 0.25 + 0.25 (1.5 - 0.5) = 0.5; e_2 = 0.125 * 0.25.
    np.testing.assert_allclose(found, [[0.0625]], rtol=1e-15)


def lstm_outputs(kernel, pre, n):
    """Outputs and record of LSTM cells that read all of `pre` as given. Real or complex kernel.

    Returns:
        m [batch, frames, n], gates [batch, frames, 4, n], c [batch, frames, n].
    """

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    gates = (pre @ kernel).reshape(*pre.shape[:2], 4, n)  # columns i, j, f, o
    c, cs = np.zeros((len(pre), n)), []
    for t in range(pre.shape[1]):
        i, j, f, _ = np.moveaxis(gates[:, t], 1, 0)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(j)
        cs.append(c)
    cs = np.stack(cs, axis=1)
    return sigmoid(gates[:, :, 3]) * np.tanh(cs), gates, cs


def test_lstm_traces_are_the_derivative_of_the_own_dynamics():
    random_generator = np.random.default_rng(3)
    n = 3
    pre = random_generator.standard_normal((BATCH, N_STEPS, N_PRE))
    pre[..., -1] = 1  # a bias
    kernel = random_generator.standard_normal((N_PRE, 4 * n))
    signal = random_generator.standard_normal((BATCH, N_STEPS, n))
    _, gates, cs = lstm_outputs(kernel, pre, n)
    found = eprop.traced_gradient(eprop.lstm_traces(pre, gates, cs), signal)
    found = found.reshape(N_PRE, 4 * n)
    expected = np.zeros_like(kernel)
    for entry in np.ndindex(kernel.shape):
        step = np.zeros(kernel.shape, complex)
        step[entry] = 1e-30j  # the imaginary part is the derivative without rounding errors
        m, _, _ = lstm_outputs(kernel + step, pre, n)
        expected[entry] = np.sum(signal * m.imag) / 1e-30
    assert_close(found, expected, 1e-12)
    assert np.all(np.abs(found).reshape(N_PRE, 4, n).max(axis=(0, 2)) > 0.05)  # all gates learn


# --------------------------------------------------------------------------- memories


def test_gradients_through_a_memory_are_sums_over_its_kernels():
    """Of a readout's memory and of encoders, by impulse responses instead of recursions."""
    random_generator = np.random.default_rng(4)
    n_frames, n_repeat, n_classes, order = 6, 2, 3, 2
    a = random_generator.uniform(-0.5, 0.5, (3, 3))
    b, c = random_generator.standard_normal(3), random_generator.standard_normal((order, 3))
    kernels = [c @ np.linalg.matrix_power(a, s) @ b for s in range(n_frames)]  # h_k(s), [order]
    traces = random_generator.standard_normal((n_frames * n_repeat, BATCH, N_PRE, N))
    errors = random_generator.standard_normal((BATCH, n_frames, n_classes))
    weights = random_generator.standard_normal((order, N, n_classes))
    found = eprop.memory_gradient(iter(traces), errors, weights, (a, b, c), n_repeat)
    e = traces.reshape(n_frames, n_repeat, BATCH, N_PRE, N).mean(axis=1)
    expected = sum(
        np.einsum("bc,k,knc,bpn->pn", errors[:, f], kernels[f - g], weights, e[g])
        for f in range(n_frames)
        for g in range(f + 1)
    )
    assert_close(found, expected, 1e-12)

    features = random_generator.standard_normal((BATCH, n_frames, N_PRE))
    signal = random_generator.standard_normal((BATCH, n_frames, 2, order))
    found = eprop.encoder_gradient(features, signal, (a, b, c))
    expected = sum(
        np.einsum("bqk,k,bi->iq", signal[:, f], kernels[f - g], features[:, g])
        for f in range(n_frames)
        for g in range(f + 1)
    )
    assert_close(found, expected, 1e-12)
