"""The layers, the readout and the networks against NumPy, SciPy and Keras, in float64."""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.signal
import scipy.special
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import eprop
import models
from layers import alif, lstm, neurons, sequences

N_REGULAR, N_ADAPTIVE = 3, 3
N = N_REGULAR + N_ADAPTIVE
TAU_V_MS = [20.0, 10.0, 20.0, 30.0, 20.0, 10.0]
TAU_A_MS = [200.0, 200.0, 100.0, 200.0, 50.0, 100.0]


def assert_close(found, expected, tolerance=1e-9):
    """Equal within `tolerance` of the largest expected value; the expected one is not all 0."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = np.max(np.abs(expected))
    assert scale > 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def assert_different(found, other):
    """Further apart than 1 per mille of the largest value."""
    assert np.max(np.abs(found - other)) > 1e-3 * np.max(np.abs(other))


# --------------------------------------------------------------------------- loops over time


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


# --------------------------------------------------------------------------- LSNN layer


class AlifCase(NamedTuple):
    """A layer, a batch for it and the weights of a loss, sum(spikes * spike_gradient)."""

    layer: alif.AlifLayer
    inputs: np.ndarray  # [batch, rows, n_in]
    seq_len: np.ndarray  # [batch] frames
    spike_gradient: np.ndarray  # [batch, steps, directions * neurons]


def make_alif_case(
    seed=0,
    n_frames=6,
    seq_len=(6, 3),
    n_in=3,
    scale=1.0,
    n_ref=2,
    n_repeat=5,
    dt=1.0,
    rec=True,
    reads_frames=True,
    reference_quirks=False,
    engine="dense",
    n_directions=2,
):
    """Inputs and weights of the threshold's size, so that potentials stay around it.

    The padding is not 0, and the recurrent weights have a diagonal.
    """
    random_generator = np.random.default_rng(seed)
    parameters = neurons.alif_parameters(
        N_REGULAR,
        N_ADAPTIVE,
        TAU_V_MS,
        TAU_A_MS,
        n_ref=n_ref,
        dt=dt,
        n_repeat=n_repeat,
        rec=rec,
        reference_quirks=reference_quirks,
    )
    layer = alif.AlifLayer(
        0.7 * scale * parameters.thr * random_generator.standard_normal((n_directions, n_in, N)),
        0.7 * scale * parameters.thr * random_generator.standard_normal((n_directions, N, N)),
        parameters,
        reads_frames,
        engine,
        dtype=tf.float64,
    )
    n_rows = n_frames if reads_frames else n_frames * n_repeat
    inputs = random_generator.standard_normal((len(seq_len), n_rows, n_in)) + 0.3
    spike_gradient = random_generator.standard_normal(
        (len(seq_len), n_frames * n_repeat, n_directions * N)
    )
    return AlifCase(layer, inputs, np.array(seq_len, np.int32), spike_gradient)


def plain_cell(x, w_in, w_rec, parameters, reference_quirks):
    """(1) to (6) of one cell on one utterance, `x` [steps, n_in]; returns z, s, is_open."""
    v = a = z = crossed = r = np.zeros(N)
    trajectory = []
    for x_t in x:
        a = parameters.rho * a + (crossed if reference_quirks else z)
        v = parameters.alpha * v + x_t @ w_in + z @ w_rec - parameters.thr * parameters.dt_ms * z
        s = (v - parameters.thr - parameters.beta * a) / parameters.thr
        is_open = (r <= 0.1).astype(float)
        crossed = (s > 0) / parameters.dt_ms
        z = crossed * is_open
        r = np.clip(r + parameters.n_ref * z - 1, 0, parameters.n_ref)
        trajectory.append((z, s, is_open))
    return np.array(trajectory).transpose(1, 0, 2)


def plain_gradient(x, z, s, is_open, g, w_in, w_rec, parameters, stops, reference_quirks):
    """The recursions over reversed time of one cell on one utterance.

        BPTT    zbar_t = g_t + W_rec delta_{t+1} - thr dt delta_{t+1};   e-prop  zbar_t = g_t
        q_t = psi_t (zbar_t + abar_{t+1})
        delta_t = q_t + alpha delta_{t+1};   abar_t = -beta q_t + rho abar_{t+1}

    The authors' adaptation counts silenced spikes too: q_t = psi_t (is_open_t zbar_t + abar_{t+1})
    with psi not masked.

    Returns:
        gradients of w_in, w_rec and x.
    """
    psi = (
        parameters.dampening_factor
        * np.maximum(0, 1 - np.abs(s))
        / parameters.thr
        / parameters.dt_ms
    )
    delta = abar = np.zeros(N)
    d_w_in, d_w_rec, d_x = np.zeros_like(w_in), np.zeros_like(w_rec), np.zeros_like(x)
    for t in reversed(range(len(x))):
        zbar = g[t]
        if not stops:
            zbar = zbar + w_rec @ delta - parameters.thr * parameters.dt_ms * delta
        own = abar if reference_quirks else is_open[t] * abar
        q = psi[t] * (is_open[t] * zbar + own)
        delta = q + parameters.alpha * delta
        abar = parameters.rho * abar - parameters.beta * q
        d_w_in += np.outer(x[t], delta)
        if t > 0:
            d_w_rec += np.outer(z[t - 1], delta)
        d_x[t] = w_in @ delta
    return d_w_in, d_w_rec * (1 - np.eye(N)), d_x


def no_probe(case):
    """Zeros for each spike of a case's layer, in cell time."""
    n_batch, n_steps, _ = case.spike_gradient.shape
    return tf.zeros([2, n_batch, n_steps, N], tf.float64)


def plain_layer(case, stops):
    """What the layer should give, utterance by utterance without padding (quirks: with it).

    Returns:
        spikes, gradients by name, and the numbers of spikes, of spikes that refractoriness
        silenced and of live pseudo-derivatives.
    """
    layer, parameters, quirks = (
        case.layer,
        case.layer.parameters,
        case.layer.parameters.reference_quirks,
    )
    n_repeat = parameters.n_repeat if layer.reads_frames else 1
    x = np.repeat(case.inputs, n_repeat, axis=1)
    w_in = layer.w_in.numpy()
    w_rec = np.zeros((len(w_in), N, N))
    if layer.w_rec is not None:
        w_rec = layer.w_rec.numpy() * (1 - np.eye(N))
    spikes, d_x = np.zeros_like(case.spike_gradient), np.zeros_like(x)
    d_w_in, d_w_rec = np.zeros_like(w_in), np.zeros_like(w_rec)
    facts = np.zeros(3, int)
    for b, n_frames in enumerate(case.seq_len):
        n_steps = x.shape[1] if quirks else n_frames * parameters.n_repeat
        for d in range(len(w_in)):
            steps = np.arange(n_steps)[:: -1 if d else 1]
            cell = w_in[d], w_rec[d], parameters
            columns = slice(d * N, (d + 1) * N)
            z, s, is_open = plain_cell(x[b, steps], *cell, quirks)
            spikes[b, steps, columns] = z
            g = case.spike_gradient[b, steps, columns]
            of_w_in, of_w_rec, of_x = plain_gradient(
                x[b, steps], z, s, is_open, g, *cell, stops, quirks
            )
            d_w_in[d] += of_w_in
            d_w_rec[d] += of_w_rec
            d_x[b, steps] += of_x
            facts += [np.sum(y) for y in (z > 0, (s > 0) & (is_open == 0), np.abs(s) < 1)]
    gradients = {"w_in": d_w_in, "inputs": d_x.reshape(*case.inputs.shape[:2], n_repeat, -1).sum(2)}
    if layer.w_rec is not None:
        gradients["w_rec"] = d_w_rec
    return spikes, gradients, facts


def run_alif_layer(case, stops):
    """Spikes and gradients by name from the layer itself."""
    inputs = tf.constant(case.inputs)
    watched = {"inputs": inputs, "w_in": case.layer.w_in}
    if case.layer.w_rec is not None:
        watched["w_rec"] = case.layer.w_rec
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        spikes = case.layer(inputs, case.seq_len, stops)
        loss = tf.reduce_sum(spikes * case.spike_gradient)
    return spikes.numpy(), {k: g.numpy() for k, g in tape.gradient(loss, watched).items()}


ALIF_CASES = {
    "defaults": {},
    "one step a frame, long": {"n_repeat": 1, "n_frames": 25, "seq_len": (25, 14)},
    "no refractoriness": {"n_ref": 1},
    "two silent steps": {"n_ref": 3},
    "steps of 2 ms": {"dt": 2.0, "n_ref": 4},
    "no recurrence": {"rec": False},
    "reading steps": {"reads_frames": False},
    "one direction": {"n_directions": 1, "n_frames": 20, "seq_len": (20, 13)},
    "authors'": {"reference_quirks": True},
    "authors', two silent steps": {"reference_quirks": True, "n_ref": 3},
    "authors', reading steps of 2 ms": {
        "reference_quirks": True,
        "reads_frames": False,
        "dt": 2.0,
        "n_ref": 4,
    },
}


@pytest.mark.parametrize("engine", alif.ENGINES)
@pytest.mark.parametrize("options", ALIF_CASES.values(), ids=ALIF_CASES)
def test_alif_layer_equals_plain_recursions(options, engine):
    case = make_alif_case(**options, engine=engine)
    by_rule = {}
    for stops in (False, True):
        spikes, gradients = run_alif_layer(case, stops)
        expected_spikes, expected, (n_spikes, n_silenced, n_live) = plain_layer(case, stops)
        np.testing.assert_array_equal(spikes, expected_spikes)
        assert gradients.keys() == expected.keys()
        for name in expected:
            assert_close(gradients[name], expected[name])
        by_rule[stops] = gradients
    assert n_spikes > 30 and n_live > 80
    assert (n_silenced > 3) == (case.layer.parameters.n_ref > 1)
    for name in by_rule[True]:  # also without recurrent weights: the reset differs
        assert_different(by_rule[True][name], by_rule[False][name])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    options=st.fixed_dictionaries(
        {
            "seed": st.integers(0, 1000),
            "n_in": st.integers(1, 4),
            "scale": st.sampled_from([0.3, 1.0, 3.0]),
            "n_ref": st.integers(0, 3),
            "n_repeat": st.sampled_from([1, 2, 5]),
            "dt": st.sampled_from([0.5, 1.0, 2.0]),
            "rec": st.booleans(),
            "reads_frames": st.booleans(),
            "reference_quirks": st.booleans(),
            "engine": st.sampled_from(alif.ENGINES),
            "n_directions": st.sampled_from([1, 2]),
        }
    ),
    stops=st.booleans(),
)
def test_alif_layer_equals_plain_recursions_for_any_setting(lengths, options, stops):
    case = make_alif_case(n_frames=max(lengths), seq_len=lengths, **options)
    spikes, gradients = run_alif_layer(case, stops)
    expected_spikes, expected, _ = plain_layer(case, stops)
    np.testing.assert_array_equal(spikes, expected_spikes)
    for name in expected:
        scale = np.max(np.abs(expected[name]), initial=0)
        np.testing.assert_allclose(gradients[name], expected[name], rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("engine", alif.ENGINES)
@pytest.mark.parametrize("reads_frames", [True, False])
def test_means_over_the_steps_of_a_frame(reads_frames, engine):
    case = make_alif_case(reads_frames=reads_frames, engine=engine)
    mean_gradient = case.spike_gradient[:, ::5]
    # Each step of a frame has a fifth of the gradient of the frame's mean.
    case = case._replace(spike_gradient=np.repeat(mean_gradient, 5, axis=1) / 5)
    layer = case.layer
    with tf.GradientTape() as tape:
        means = layer(case.inputs, case.seq_len, False, per_step=False)
        loss = tf.reduce_sum(means * mean_gradient)
    d_w_in, d_w_rec = tape.gradient(loss, [layer.w_in, layer.w_rec])
    spikes, expected, _ = plain_layer(case, False)
    assert_close(means, spikes.reshape(2, 6, 5, 2 * N).mean(axis=2), 1e-12)
    assert_close(d_w_in, expected["w_in"])
    assert_close(d_w_rec, expected["w_rec"])


def test_adaptation_and_its_spread_reach_the_adaptive_neurons():
    case = make_alif_case(rec=False, n_frames=15, seq_len=(15,))
    layer, parameters = case.layer, case.layer.parameters

    def potentials():
        _, record = layer.recorded(case.inputs, case.seq_len, True, no_probe(case))
        return record.s.numpy()

    before = potentials()
    changes = {"beta": (0 * parameters.beta, [3, 4, 5]), "rho": (parameters.rho[[0] * N], [4, 5])}
    for name, (value, neurons) in changes.items():
        layer.parameters = parameters._replace(**{name: value})
        differs = np.any(before != potentials(), axis=(0, 1, 2))
        np.testing.assert_array_equal(np.flatnonzero(differs), neurons)


def test_alif_parameters():
    parameters = neurons.alif_parameters(7, 5)
    np.testing.assert_allclose(parameters.thr, 0.2050416, rtol=1e-6)  # recorded from the authors'
    np.testing.assert_allclose(parameters.beta, [0] * 7 + [0.1840770] * 5, rtol=1e-6)
    np.testing.assert_allclose(parameters.alpha, np.full(12, np.exp(-1 / 20)))
    np.testing.assert_allclose(parameters.rho, np.full(12, np.exp(-1 / 200)))
    spread = neurons.alif_parameters(1, 1, tau_v=[20, 10], tau_a=[200, 100], thr=0.02, beta=3, dt=2)
    np.testing.assert_allclose(spread.alpha, np.exp([-2 / 20, -2 / 10]))
    np.testing.assert_allclose(spread.rho, np.exp([-2 / 200, -2 / 100]))
    np.testing.assert_allclose(spread.thr, 0.02 / (1 - spread.alpha))
    beta = 3 * (1 - np.exp(-2 / 100)) / (1 - np.exp(-2 / 10))
    np.testing.assert_allclose(spread.beta, [0, beta])
    assert (
        parameters.n_ref,
        parameters.dampening_factor,
        parameters.dt_ms,
        parameters.n_repeat,
    ) == (2, 0.3, 1, 5)
    with pytest.raises(ValueError):
        neurons.alif_parameters(2, 2, tau_v=[20, 10, 20])


def test_pseudo_derivative_of_a_spike():
    s = tf.constant([-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(s)
        z = alif.spike(s, 0.3)
    np.testing.assert_array_equal(z, [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(tape.gradient(z, s), [0, 0, 0.225, 0.3, 0.15, 0, 0])


@pytest.mark.parametrize("n_ref, expected", [(0, 1), (1, 1), (2, 2), (3, 3), (5, 5)])
def test_steps_between_spikes_of_a_driven_neuron(n_ref, expected):
    parameters = neurons.alif_parameters(1, 0, n_ref=n_ref, rec=False)
    layer = alif.AlifLayer(np.full((2, 1, 1), 9.0), None, parameters, reads_frames=True)
    spikes = layer(tf.ones([1, 6, 1]), np.array([6]), False).numpy()[0, :, 0]
    np.testing.assert_array_equal(np.diff(np.flatnonzero(spikes)), expected)
    assert spikes.sum() >= 6


@pytest.mark.parametrize("reference_quirks", [False, True])
def test_alif_record_holds_the_dynamics_in_cell_time(reference_quirks):
    case = make_alif_case(reference_quirks=reference_quirks)
    layer, parameters = case.layer, case.layer.parameters
    spikes, record = layer.recorded(case.inputs, case.seq_len, True, no_probe(case))
    w_in, w_rec = layer.w_in.numpy(), layer.w_rec.numpy() * (1 - np.eye(N))
    for b, n_frames in enumerate(case.seq_len):
        n_steps = 30 if reference_quirks else n_frames * 5
        for d, order in enumerate((slice(None), slice(None, None, -1))):
            x = np.repeat(case.inputs[b], 5, axis=0)[:n_steps][order]
            np.testing.assert_array_equal(record.inputs[d, b, :n_steps], x)
            z, s, is_open = plain_cell(x, w_in[d], w_rec[d], parameters, reference_quirks)
            np.testing.assert_array_equal(record.z[d, b, :n_steps], z)
            np.testing.assert_array_equal(record.is_open[d, b, :n_steps], is_open)
            np.testing.assert_allclose(record.s[d, b, :n_steps], s, rtol=1e-9, atol=1e-9)
            columns = slice(d * N, (d + 1) * N)
            np.testing.assert_array_equal(spikes[b, :n_steps, columns], z[order])


@pytest.mark.parametrize("stops", [False, True])
def test_gradient_of_the_spike_probe_is_the_learning_signal(stops):
    """Under e-prop that of the loss alone; under BPTT what other neurons add too, but nothing
    of the neuron's own adaptation: that belongs to the eligibility trace."""
    case = make_alif_case(seq_len=(6, 6), reads_frames=False)
    probe = tf.zeros([2, 2, 30, N], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(probe)
        spikes, _ = case.layer.recorded(case.inputs, case.seq_len, stops, probe)
        loss = tf.reduce_sum(spikes * case.spike_gradient)
    signal = tape.gradient(loss, probe).numpy()
    direct = sequences.into_cell_time(
        np.stack(np.split(case.spike_gradient, 2, axis=-1)), case.seq_len * 5, False
    )
    if stops:
        assert_close(signal, direct)
    else:
        np.testing.assert_allclose(signal[:, :, -1], direct[:, :, -1], rtol=1e-12)
        assert_different(signal, direct)
    plain_spikes, _ = run_alif_layer(case, stops)
    np.testing.assert_array_equal(spikes, plain_spikes)


def test_the_diagonal_of_w_rec_drives_nothing():
    for reference_quirks in (False, True):
        case = make_alif_case(reference_quirks=reference_quirks)
        before, gradients = run_alif_layer(case, False)
        w_rec = case.layer.w_rec
        assert bool(np.any(np.diagonal(w_rec.numpy(), axis1=1, axis2=2))) == reference_quirks
        w_rec.assign(w_rec + 7 * np.eye(N))
        after, changed_gradients = run_alif_layer(case, False)
        np.testing.assert_array_equal(before, after)
        for name in gradients:
            np.testing.assert_array_equal(gradients[name], changed_gradients[name])
        assert not np.any(np.diagonal(gradients["w_rec"], axis1=1, axis2=2))


# --------------------------------------------------------------------------- LSTM layer

# Columns of a kernel: ours i, j, f, o; Keras' i, f, c, o, where c is our j.
TO_KERAS = [0, 2, 1, 3]


def reorder_gates(x, order):
    """`x` [..., 4 cells] with its four blocks of columns in another order."""
    blocks = np.split(x, 4, axis=-1)
    return np.concatenate([blocks[k] for k in order], axis=-1)


class CellCase(NamedTuple):
    """An LSTM (or plain) layer, a batch for it and the weights of a loss."""

    layer: lstm.LstmLayer
    inputs: np.ndarray  # [batch, frames, n_in]
    seq_len: np.ndarray
    output_gradient: np.ndarray  # [batch, frames, 2 * cells], 0 in the padding


N_CELLS = 4


def make_cell_case(plain=False, reference_quirks=False, engine="dense"):
    random_generator = np.random.default_rng(3)
    n_in, n_columns = 3, N_CELLS * (1 if plain else 4)
    layer = lstm.LstmLayer(
        random_generator.standard_normal((2, n_in + N_CELLS, n_columns)),
        random_generator.standard_normal((2, n_columns)),
        reference_quirks,
        plain,
        engine,
        dtype=tf.float64,
    )
    seq_len = np.array([7, 4], np.int32)
    inputs = random_generator.standard_normal((2, 7, n_in))
    output_gradient = random_generator.standard_normal((2, 7, 2 * N_CELLS))
    output_gradient[np.arange(7) >= seq_len[:, None]] = 0
    return CellCase(layer, inputs, seq_len, output_gradient)


def run_cell_layer(case, stops):
    """Outputs and gradients by name from the layer itself (None where there is none)."""
    inputs = tf.constant(case.inputs)
    watched = {"kernel": case.layer.kernel, "bias": case.layer.bias, "inputs": inputs}
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        m = case.layer(inputs, case.seq_len, stops)
        loss = tf.reduce_sum(m * case.output_gradient)
    return m.numpy(), tape.gradient(loss, watched)


def run_keras(cell_type, kernel, bias, x, output_gradient, n_in):
    """One Keras layer on one sequence: outputs [frames, cells], gradients of kernel, bias and x.

    `kernel` [n_in + cells, columns] is in our order of columns, and so are the gradients.
    """
    options = {"unit_forget_bias": False} if cell_type is tf.keras.layers.LSTM else {}
    keras_layer = cell_type(N_CELLS, return_sequences=True, dtype="float64", **options)
    keras_layer.build((1, None, n_in))
    is_lstm = kernel.shape[-1] == 4 * N_CELLS
    if is_lstm:
        kernel, bias = reorder_gates(kernel, TO_KERAS), reorder_gates(bias, TO_KERAS)
        bias[N_CELLS : 2 * N_CELLS] += 1
    keras_layer.set_weights([kernel[:n_in], kernel[n_in:], bias])
    x = tf.constant(x[None])
    with tf.GradientTape() as tape:
        tape.watch(x)
        m = keras_layer(x)
        loss = tf.reduce_sum(m[0] * output_gradient)
    of_inputs, of_rec, of_bias, of_x = tape.gradient(
        loss, [*(w.value for w in keras_layer.trainable_weights), x]
    )
    of_kernel, of_bias = np.concatenate([of_inputs, of_rec]), np.asarray(of_bias)
    if is_lstm:
        of_kernel, of_bias = reorder_gates(of_kernel, TO_KERAS), reorder_gates(of_bias, TO_KERAS)
    return m[0].numpy(), of_kernel, of_bias, of_x[0].numpy()


def orders_in_time(case):
    """For each utterance and direction: (b, d, frames in the order that the cell reads them)."""
    for b, n_frames in enumerate(case.seq_len):
        n_frames = case.inputs.shape[1] if case.layer.reference_quirks else n_frames
        yield b, 0, np.arange(n_frames)
        yield b, 1, np.arange(n_frames)[::-1]


@pytest.mark.parametrize(
    "plain, engine",
    [(False, "dense"), (False, "fused"), (True, "dense")],
    ids=["LSTM", "fused LSTM", "plain"],
)
@pytest.mark.parametrize("reference_quirks", [False, True])
def test_cells_equal_keras(plain, engine, reference_quirks):
    case = make_cell_case(plain, reference_quirks, engine)
    m, gradients = run_cell_layer(case, False)
    cell_type = tf.keras.layers.SimpleRNN if plain else tf.keras.layers.LSTM
    expected = {name: np.zeros(g.shape) for name, g in gradients.items()}
    for b, d, frames in orders_in_time(case):
        columns = slice(d * N_CELLS, (d + 1) * N_CELLS)
        outputs, of_kernel, of_bias, of_x = run_keras(
            cell_type,
            case.layer.kernel[d].numpy(),
            case.layer.bias[d].numpy(),
            case.inputs[b, frames],
            case.output_gradient[b, frames, columns],
            n_in=3,
        )
        np.testing.assert_allclose(m[b, frames, columns], outputs, rtol=1e-12, atol=1e-14)
        expected["kernel"][d] += of_kernel
        expected["bias"][d] += of_bias
        expected["inputs"][b, frames] += of_x
    for name in expected:
        assert_close(gradients[name], expected[name])


@pytest.mark.parametrize("engine", lstm.LSTM_ENGINES)
def test_eprop_of_the_lstm_holds_the_outputs_of_other_cells(engine):
    """That is a Keras LSTM without recurrent weights which reads [x_t, m_{t-1}] as its input."""
    case = make_cell_case(engine=engine)
    m, gradients = run_cell_layer(case, True)
    bptt_m, bptt_gradients = run_cell_layer(case, False)
    np.testing.assert_array_equal(m, bptt_m)
    assert gradients["inputs"] is None
    assert np.linalg.norm(bptt_gradients["inputs"]) > 0.1
    expected_kernel, expected_bias = np.zeros((2, 7, 16)), np.zeros((2, 16))
    for b, d, frames in orders_in_time(case):
        columns = slice(d * N_CELLS, (d + 1) * N_CELLS)
        previous = np.pad(m[b, frames, columns], [(1, 0), (0, 0)])[:-1]
        kernel = np.concatenate([case.layer.kernel[d], np.zeros((N_CELLS, 16))])
        outputs, of_kernel, of_bias, _ = run_keras(
            tf.keras.layers.LSTM,
            kernel,
            case.layer.bias[d].numpy(),
            np.concatenate([case.inputs[b, frames], previous], axis=-1),
            case.output_gradient[b, frames, columns],
            n_in=7,
        )
        np.testing.assert_allclose(m[b, frames, columns], outputs, rtol=1e-12, atol=1e-14)
        expected_kernel[d] += of_kernel[:7]
        expected_bias[d] += of_bias
    assert_close(gradients["kernel"], expected_kernel)
    assert_close(gradients["bias"], expected_bias)
    for name in ("kernel", "bias"):
        assert_different(gradients[name].numpy(), bptt_gradients[name].numpy())


def test_lstm_record_holds_the_dynamics_in_cell_time():
    case = make_cell_case()
    probe = tf.zeros([2, 2, 7, N_CELLS], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(probe)
        m, record = case.layer(case.inputs, case.seq_len, True, probe, record=True)
        loss = tf.reduce_sum(m * case.output_gradient)
    signal = tape.gradient(loss, probe).numpy()
    for b, d, frames in orders_in_time(case):
        columns, true = slice(d * N_CELLS, (d + 1) * N_CELLS), slice(len(frames))
        i, j, f, o = np.moveaxis(record.gates[d, b, true].numpy(), 1, 0)
        c, sigmoid = record.c[d, b, true].numpy(), scipy.special.expit
        before = np.pad(c, [(1, 0), (0, 0)])[:-1]
        np.testing.assert_allclose(c, sigmoid(f) * before + sigmoid(i) * np.tanh(j), rtol=1e-12)
        np.testing.assert_allclose(record.m[d, b, true], sigmoid(o) * np.tanh(c), rtol=1e-12)
        np.testing.assert_array_equal(record.m[d, b, true], m.numpy()[b, frames, columns])
        np.testing.assert_array_equal(record.inputs[d, b, true], case.inputs[b, frames])
        np.testing.assert_array_equal(signal[d, b, true], case.output_gradient[b, frames, columns])


@pytest.mark.parametrize("plain, engine", [(True, "fused"), (False, "event")])
def test_cells_refuse_an_engine_they_do_not_have(plain, engine):
    with pytest.raises(ValueError, match=f"{engine}.*dense"):
        make_cell_case(plain, engine=engine)


def test_plain_cells_refuse_eprop():
    case = make_cell_case(plain=True)
    with pytest.raises(AssertionError, match="plain cell"):
        case.layer(case.inputs, case.seq_len, True)


# --------------------------------------------------------------------------- readout


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
        assert_close(y, scipy.signal.lfilter([1], [1, -decay], x, axis=1), tolerance)
        # The way back is the same filter in reversed time.
        expected = scipy.signal.lfilter([1], [1, -decay], g[:, ::-1], axis=1)[:, ::-1]
        assert_close(tape.gradient(loss, signal), expected, tolerance)


READOUTS = {
    "bptt": {"rule": "bptt"},
    "symmetric": {"rule": "symmetric"},
    "random": {"rule": "random"},
    "adaptive": {"rule": "adaptive"},
    "global": {"rule": "random", "global_feedback": True},
    "penalised random": {"rule": "random", "penalise_random_feedback": True},
    "no filter": {"rule": "random", "decay": None},
    "no bias": {"rule": "adaptive", "bias": False},
}


@pytest.mark.parametrize("options", READOUTS.values(), ids=READOUTS)
def test_readout_and_its_gradients(options):
    options = {"decay": 0.7, **options}
    random_generator = np.random.default_rng(1)
    readout = models.Readout(5, 3, random_generator=random_generator, dtype=tf.float64, **options)
    if readout.b_out is not None:
        readout.b_out.assign(random_generator.standard_normal(3))
    activity = random_generator.standard_normal((2, 6, 5))
    delta = random_generator.standard_normal((2, 6, 3))
    watched = {"activity": tf.constant(activity), **{v.name[:5]: v for v in readout.variables}}
    with tf.GradientTape() as tape:
        tape.watch(watched["activity"])
        logits = readout(watched["activity"])
        loss = tf.reduce_sum(logits * delta)
    gradients = tape.gradient(loss, watched)

    decay = options["decay"] or 0
    filtered = scipy.signal.lfilter([1], [1, -decay], activity, axis=1)
    b_out = 0 if readout.b_out is None else readout.b_out.numpy()
    assert_close(logits, filtered @ readout.w_out.numpy() + b_out, 1e-12)
    back = readout.w_out if options["rule"] in ("bptt", "symmetric") else readout.feedback
    d_filtered = delta @ back.numpy().T
    expected = scipy.signal.lfilter([1], [1, -decay], d_filtered[:, ::-1], axis=1)[:, ::-1]
    assert_close(gradients["activity"], expected, 1e-12)
    d_w_out = np.einsum("bfn,bfk->nk", filtered, delta)
    assert_close(gradients["w_out"], d_w_out, 1e-12)
    if readout.b_out is not None:
        assert_close(gradients["b_out"], delta.sum((0, 1)), 1e-12)
    if options["rule"] == "adaptive":
        assert_close(gradients["feedb"], d_w_out, 1e-12)
    elif options.get("penalise_random_feedback"):  # trained, by L2 alone
        np.testing.assert_array_equal(gradients["feedb"], np.zeros((5, 3)))
    elif options["rule"] == "random":
        assert gradients["feedb"] is None
        assert "feedback" not in {v.name.split(":")[0] for v in readout.trainable_variables}
    else:
        assert readout.feedback is None


def test_initial_readout_and_feedback():
    n = 4000
    for rule, scale in (("random", 1), ("adaptive", 1 / np.sqrt(n))):
        readout = models.Readout(n, 5, rule, np.random.default_rng(0))
        # 20000 numbers give their standard deviation within 0.5 %.
        np.testing.assert_allclose(np.std(readout.feedback), scale, rtol=0.02)
        np.testing.assert_allclose(np.std(readout.w_out), 1 / np.sqrt(n), rtol=0.02)
        correlation = np.corrcoef(np.ravel(readout.w_out), np.ravel(readout.feedback))[0, 1]
        assert abs(correlation) < 0.03
    readout = models.Readout(n, 5, "random", np.random.default_rng(0), global_feedback=True)
    np.testing.assert_allclose(readout.feedback, np.full((n, 5), 1 / np.sqrt(n)), rtol=1e-6)
    np.testing.assert_array_equal(readout.b_out, np.zeros(5))


# --------------------------------------------------------------------------- networks

N_FEATURES, N_CLASSES = 4, 5
SEQ_LEN = np.array([6, 4, 2], np.int32)
N_FRAMES = 6


class Batch(NamedTuple):
    features: np.ndarray
    phns: np.ndarray
    seq_len: np.ndarray


def make_batch(seed=0):
    """A batch whose padding is 0."""
    random_generator = np.random.default_rng(seed)
    is_true = np.arange(N_FRAMES) < SEQ_LEN[:, None]
    features = random_generator.standard_normal((3, N_FRAMES, N_FEATURES))
    phns = random_generator.integers(1, N_CLASSES, (3, N_FRAMES)).astype(np.int32)
    return Batch(features * is_true[..., None], phns * is_true, SEQ_LEN)


def make_network(kind, rule="symmetric", dt=1.0, n_ref=3, **options):
    """A small network of `kind` "lsnn" or "lstm" in float64."""
    random_generator = np.random.default_rng(1)
    options = {"l2": 1e-3, "dtype": tf.float64, **options}
    if kind == "lstm":
        return models.Lstm(N_FEATURES, N_CLASSES, rule, 4, random_generator, **options)
    parameters = neurons.alif_parameters(
        N_REGULAR,
        N_ADAPTIVE,
        TAU_V_MS,
        TAU_A_MS,
        dt=dt,
        n_repeat=2,
        n_ref=n_ref,
        rec=options.pop("rec", True),
        reference_quirks=options.pop("reference_quirks", False),
    )
    options = {"weight_scale": 0.3, **options}
    return models.Lsnn(N_FEATURES, N_CLASSES, rule, parameters, random_generator, **options)


def run_network(network, batch, dropout_seed=None):
    """Output, losses, and the total loss's gradients by name."""
    names = {v.ref(): name for name, v in network.weights().items()}
    variables = network.trainable_variables
    with tf.GradientTape() as tape:
        features = tf.constant(batch.features)
        if network.is_spiking:
            output = network(features, batch.seq_len, dropout_seed, with_spikes=True)
        else:
            output = network(features, batch.seq_len, dropout_seed)
        losses = network.losses(output, batch.phns, batch.seq_len)
        total = losses.total
    gradients = tape.gradient(total, variables)
    return output, losses, {names[v.ref()]: g.numpy() for v, g in zip(variables, gradients)}


def pad_with_garbage(batch):
    """The same utterances, three frames longer, with anything behind their ends."""
    random_generator = np.random.default_rng(9)
    features = 5 * random_generator.standard_normal((3, N_FRAMES + 3, N_FEATURES))
    phns = random_generator.integers(1, N_CLASSES, (3, N_FRAMES + 3)).astype(np.int32)
    for b, n in enumerate(batch.seq_len):
        features[b, :n], phns[b, :n] = batch.features[b, :n], batch.phns[b, :n]
    return Batch(features, phns, batch.seq_len)


NETWORKS = {
    "lsnn": ("lsnn", {}),
    "lsnn of two layers": ("lsnn", {"n_layer": 2}),
    "lsnn of one direction": ("lsnn", {"n_layer": 2, "n_directions": 1}),
    "lstm": ("lstm", {}),
    "fused lstm": ("lstm", {"engine": "fused"}),
}
of_networks = pytest.mark.parametrize("kind, options", NETWORKS.values(), ids=NETWORKS)


@of_networks
@pytest.mark.parametrize("rule", ["bptt", "adaptive"])
def test_padding_changes_nothing(kind, options, rule):
    network = make_network(kind, rule, **options)
    batch = make_batch()
    output, losses, gradients = run_network(network, batch)
    padded_output, padded_losses, padded_gradients = run_network(network, pad_with_garbage(batch))
    for b, n in enumerate(SEQ_LEN):
        np.testing.assert_allclose(padded_output.logits[b, :n], output.logits[b, :n], rtol=1e-11)
    np.testing.assert_allclose(padded_losses, losses, rtol=1e-12)
    assert gradients.keys() == padded_gradients.keys() and len(gradients) >= 4
    for name in gradients:
        assert_close(padded_gradients[name], gradients[name], 1e-12)
    if kind == "lsnn":
        activity, n_frames = network.activity_sums(output, SEQ_LEN)
        padded_activity, padded_n_frames = network.activity_sums(padded_output, SEQ_LEN)
        assert_close(padded_activity, activity)
        assert n_frames == padded_n_frames == SEQ_LEN.sum()
        assert np.all(np.asarray(losses) > 0)


@of_networks
def test_padding_counts_with_the_authors_semantics(kind, options):
    network = make_network(kind, reference_quirks=True, **options)
    batch = make_batch()
    output, losses, gradients = run_network(network, batch)
    padded_output, padded_losses, padded_gradients = run_network(network, pad_with_garbage(batch))
    changed = losses.rate if kind == "lsnn" else losses.prediction
    padded_changed = padded_losses.rate if kind == "lsnn" else padded_losses.prediction
    assert abs(padded_changed / changed - 1) > 1e-3
    # Without a backward cell nothing comes out of the padding.
    compare = assert_close if options.get("n_directions") == 1 else assert_different
    compare(padded_output.logits[0, :N_FRAMES], output.logits[0])
    name = "layer0/w_in" if kind == "lsnn" else "readout/w_out"
    assert_different(padded_gradients[name], gradients[name])


@of_networks
def test_an_utterance_of_a_batch_is_as_alone(kind, options):
    """The backward cells start at the last true frame, not in the padding."""
    network = make_network(kind, **options)
    padded = pad_with_garbage(make_batch())
    output, _, _ = run_network(network, padded)
    for b, n in enumerate(SEQ_LEN):
        alone = network(padded.features[b : b + 1, :n], SEQ_LEN[b : b + 1])
        assert_close(output.activity[b, :n], alone.activity[0], 1e-12)
        assert_close(output.logits[b, :n], alone.logits[0], 1e-11)
        for spikes, spikes_alone in zip(output.spikes, alone.spikes):
            np.testing.assert_array_equal(spikes[b, : n * 2], spikes_alone[0])
            assert not np.any(spikes[b, n * 2 :])


@pytest.mark.parametrize("engine", alif.ENGINES)
def test_one_direction_never_sees_the_future(engine):
    network = make_network("lsnn", n_layer=2, n_directions=1, engine=engine)
    batch = make_batch()
    later = batch.features.copy()
    later[:, 3:] = 5 * later[:, 3:] + 1
    logits, changed = (network(features, SEQ_LEN).logits for features in (batch.features, later))
    np.testing.assert_array_equal(logits[:, :3], changed[:, :3])
    assert_different(logits[:, 3:], changed[:, 3:])


def test_a_first_layer_given_leaves_all_other_weights():
    random, given = (
        make_network("lsnn", "adaptive", n_layer=2, first_layer=first_layer)
        for first_layer in (None, (np.full((2, N_FEATURES, N), 0.5), np.full((2, N, N), 0.25)))
    )
    expected = {name: w.numpy() for name, w in random.weights().items()}
    expected["layer0/w_in"] = np.full((2, N_FEATURES, N), 0.5)
    expected["layer0/w_rec"] = np.full((2, N, N), 0.25) * (1 - np.eye(N))
    assert given.weights().keys() == expected.keys()
    for name, w in given.weights().items():
        np.testing.assert_array_equal(w, expected[name])


@pytest.mark.parametrize("reference_quirks", [False, True])
def test_engines_agree_on_a_network(reference_quirks):
    batch = make_batch()
    options = {"n_layer": 2, "reference_quirks": reference_quirks}
    dense, event = (make_network("lsnn", "bptt", engine=e, **options) for e in alif.ENGINES)
    expected_output, expected_losses, expected_gradients = run_network(dense, batch)
    output, losses, gradients = run_network(event, batch)
    for spikes, expected in zip(output.spikes, expected_output.spikes, strict=True):
        np.testing.assert_array_equal(spikes, expected)
        assert np.any(spikes)
    assert_close(output.logits, expected_output.logits)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    assert gradients.keys() == expected_gradients.keys()
    for name in gradients:
        assert_close(gradients[name], expected_gradients[name])
    without_spikes = event(batch.features, batch.seq_len)
    assert without_spikes.spikes == ()
    assert_close(without_spikes.logits, output.logits)
    assert_close(without_spikes.activity, output.activity)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    rule=st.sampled_from(eprop.RULES),
    reference_quirks=st.booleans(),
    is_float32=st.booleans(),
)
def test_engines_agree_on_any_lstm(seed, sizes, rule, reference_quirks, is_float32):
    n_batch, n_frames, n_features, n_lstm = sizes
    random_generator = np.random.default_rng(seed)
    shape = (n_batch, n_frames)
    batch = Batch(
        random_generator.standard_normal((*shape, n_features)),
        random_generator.integers(0, N_CLASSES, shape).astype(np.int32),
        random_generator.integers(1, n_frames + 1, n_batch).astype(np.int32),
    )
    dtype = tf.float32 if is_float32 else tf.float64
    batch = batch._replace(features=batch.features.astype(dtype.as_numpy_dtype))
    dense, fused = (
        models.Lstm(
            n_features,
            N_CLASSES,
            rule,
            n_lstm,
            np.random.default_rng(seed),
            init_scale=1.0,
            reference_quirks=reference_quirks,
            engine=engine,
            dtype=dtype,
        )
        for engine in lstm.LSTM_ENGINES
    )
    expected_output, expected_losses, expected_gradients = run_network(dense, batch)
    output, losses, gradients = run_network(fused, batch)
    tolerance = 1e-4 if is_float32 else 1e-10
    counts = np.arange(n_frames) < batch.seq_len[:, None]
    counts |= reference_quirks
    assert_close(
        output.activity.numpy()[counts], expected_output.activity.numpy()[counts], tolerance
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    assert gradients.keys() == expected_gradients.keys()
    for name in ("layer0/kernel", "layer0/bias", "readout/w_out"):
        assert_close(gradients[name], expected_gradients[name], tolerance)


def test_one_trace_serves_batches_of_all_lengths():
    network = make_network("lstm", engine="fused")

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, N_FEATURES], tf.float64),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def gradients(features, seq_len):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(features, seq_len).logits ** 2)
        return tape.gradient(loss, network.trainable_variables)

    norms = []
    for n_batch, n_frames in ((1, 3), (4, 17), (7, 1), (2, 40)):
        seq_len = np.full(n_batch, n_frames, np.int32)
        by_kernel = gradients(np.ones((n_batch, n_frames, N_FEATURES)), seq_len)[0]
        norms.append(np.linalg.norm(by_kernel))
    assert gradients.experimental_get_tracing_count() == 1
    assert min(norms) > 1e-3 and len(set(norms)) == 4


@pytest.mark.parametrize(
    "kind, options",
    [
        ("lsnn", {"n_layer": 2, "drop_out_probability": 0.4}),
        ("lsnn", {"n_layer": 2, "drop_out_probability": 0.4, "engine": "event"}),
        ("lstm", {}),
        ("lstm", {"engine": "fused"}),
    ],
    ids=["lsnn", "event-driven lsnn", "lstm", "fused lstm"],
)
def test_a_graph_of_unknown_sizes_computes_the_same(kind, options):
    network = make_network(kind, "adaptive", **options)
    batch = make_batch()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, N_FEATURES], tf.float64),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def run(features, phns, seq_len):
        with tf.GradientTape() as tape:
            output = network(features, seq_len, [1, 2])
            total = network.losses(output, phns, seq_len).total
        return output.logits, total, tape.gradient(total, network.trainable_variables)

    for each in (batch, pad_with_garbage(batch)._replace(seq_len=SEQ_LEN + 3)):
        logits, total, gradients = run(*each)
        output, losses, expected = run_network(network, each, [1, 2])
        assert_close(logits, output.logits, 1e-10)
        np.testing.assert_allclose(total, losses.total, rtol=1e-12)
        names = {v.ref(): name for name, v in network.weights().items()}
        for variable, gradient in zip(network.trainable_variables, gradients):
            assert_close(gradient, expected[names[variable.ref()]])


@pytest.mark.parametrize("kind, dt", [("lsnn", 1.0), ("lsnn", 2.0), ("lstm", None)])
@pytest.mark.parametrize("reference_quirks", [False, True])
def test_parts_of_the_loss(kind, dt, reference_quirks):
    network = make_network(kind, "random", dt=dt, reference_quirks=reference_quirks)
    batch = make_batch()
    output, losses, gradients = run_network(network, batch)
    log_p = scipy.special.log_softmax(output.logits.numpy(), axis=-1)
    entropy = -np.take_along_axis(log_p, batch.phns[..., None], axis=-1)[..., 0]
    if kind == "lstm" and reference_quirks:
        prediction = entropy.mean()
    else:
        prediction = np.mean([entropy[b, :n].mean() for b, n in enumerate(SEQ_LEN)])
    np.testing.assert_allclose(losses.prediction, prediction, rtol=1e-12)

    if kind == "lsnn":
        spikes = output.spikes[0].numpy()
        n_steps = spikes[..., 0].size if reference_quirks else 2 * SEQ_LEN.sum()
        mean = spikes.sum((0, 1)) / n_steps  # of z, 1/dt high: spikes a ms
        if reference_quirks:
            mean /= dt
        rate = 50 * np.sum((mean - 0.01) ** 2)
        np.testing.assert_allclose(losses.rate, rate, rtol=1e-12)
        assert rate > 0.1
        activity, n_frames = network.activity_sums(output, SEQ_LEN)
        np.testing.assert_allclose(activity / n_frames, spikes.sum((0, 1)) / n_steps, rtol=1e-12)
    else:
        assert losses.rate == 0

    penalised = {v.ref() for v in network.trainable_variables}
    squares = sum(np.sum(v.numpy() ** 2) for v in network.variables if v.ref() in penalised)
    np.testing.assert_allclose(losses.l2, 1e-3 * squares, rtol=1e-12)
    np.testing.assert_allclose(losses.total, sum(losses), rtol=1e-15)
    # The authors' LSTM shrinks its fixed feedback; nothing else trains the rule `random`'s.
    if kind == "lstm" and reference_quirks:
        feedback = network.readout.feedback.numpy()
        np.testing.assert_allclose(gradients["readout/feedback"], 2e-3 * feedback, rtol=1e-12)
    else:
        assert "readout/feedback" not in gradients


def test_prediction_loss_is_a_value_an_utterance():
    network = make_network("lstm")
    logits = np.log([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]] * 2)
    losses = network.prediction_loss(logits, np.array([[0, 1], [2, 2]]), np.array([2, 1]))
    np.testing.assert_allclose(losses, [-np.log([0.5, 0.8]).mean(), -np.log(0.25)], rtol=1e-12)


def test_the_authors_lsnn_has_one_class_more():
    for kind, reference_quirks, n_classes in (
        ("lsnn", False, N_CLASSES),
        ("lsnn", True, N_CLASSES + 1),
        ("lstm", False, N_CLASSES),
        ("lstm", True, N_CLASSES),
    ):
        network = make_network(kind, "adaptive", reference_quirks=reference_quirks)
        assert network.readout.w_out.shape[1] == n_classes
        assert network.readout.feedback.shape == network.readout.w_out.shape
        output = network(make_batch().features, SEQ_LEN)
        assert output.logits.shape == (3, N_FRAMES, n_classes)


@pytest.mark.parametrize("rule", eprop.RULES)
@of_networks
def test_every_weight_is_trained(kind, options, rule):
    network = make_network(kind, rule, l2=0.0, **options)
    _, _, gradients = run_network(network, make_batch())
    fixed = {"readout/feedback"} if rule == "random" else set()
    assert gradients.keys() == network.weights().keys() - fixed
    assert ("readout/feedback" in network.weights()) == eprop.broadcasts(rule)
    for gradient in gradients.values():
        assert np.linalg.norm(gradient) > 1e-4


@of_networks
def test_rules_give_different_gradients(kind, options):
    gradients = [
        run_network(make_network(kind, r, **options), make_batch())[2] for r in eprop.RULES
    ]
    recurrent = [name for name in gradients[0] if name.startswith("layer")]
    for i, one in enumerate(gradients):
        for other in gradients[:i]:
            for name in recurrent:
                assert_different(one[name], other[name])
    for one in gradients[1:]:  # the readout's own gradient is the same for all rules
        assert_close(one["readout/w_out"], gradients[0]["readout/w_out"])


@pytest.mark.parametrize(
    "options, decay",
    [
        ({}, np.exp(-1 / 3)),
        ({"dt": 2.0, "tau_out": 5.0}, np.exp(-2 / 5)),
        ({"psp_out": False}, 0),
        ({"readout_bias": False}, np.exp(-1 / 3)),
    ],
    ids=["defaults", "another filter", "no filter", "no bias"],
)
def test_the_lsnn_is_read_through_a_filter(options, decay):
    network = make_network("lsnn", **options)
    readout = network.readout
    b_out = np.zeros(N_CLASSES)
    if readout.b_out is not None:
        b_out += np.arange(N_CLASSES)
        readout.b_out.assign(b_out)
    assert (readout.b_out is None) == ("readout_bias" in options)
    output = network(make_batch().features, SEQ_LEN)
    filtered = scipy.signal.lfilter([1], [1, -decay], output.activity, axis=1)
    assert_close(output.logits, filtered @ readout.w_out.numpy() + b_out)


def test_global_feedback_of_the_lsnn_is_one_value():
    readout = make_network("lsnn", "random", global_feedback=True).readout
    np.testing.assert_allclose(readout.feedback, np.full((2 * N, N_CLASSES), 1 / np.sqrt(2 * N)))


def test_readout_of_the_last_layer_only():
    batch = make_batch()
    seen = {}
    for loss_from_all_layers in (False, True):
        network = make_network("lsnn", n_layer=2, loss_from_all_layers=loss_from_all_layers)
        output, _, gradients = run_network(network, batch)
        assert network.readout.w_out.shape[0] == 2 * N * (2 if loss_from_all_layers else 1)
        # The rates that are regularised are those that the readout sees.
        activity = [z.numpy().reshape(3, N_FRAMES, 2, 2 * N).mean(2) for z in output.spikes]
        expected = np.concatenate(activity, -1) if loss_from_all_layers else activity[1]
        assert_close(output.activity, expected, 1e-12)
        # Below another layer, gradients pass through that layer's input, under e-prop too.
        assert np.linalg.norm(gradients["layer0/w_in"]) > 1e-2
        assert len(output.spikes) == 2
        seen[loss_from_all_layers] = output
    np.testing.assert_array_equal(seen[True].spikes[1], seen[False].spikes[1])


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
def test_recorded_run_is_the_same_run(kind):
    network, batch = make_network(kind), make_batch()
    n_steps, n_units = (2 * N_FRAMES, N) if kind == "lsnn" else (N_FRAMES, 4)
    probe = tf.zeros([2, 3, n_steps, n_units], tf.float64)
    output, record = network.recorded(batch.features, SEQ_LEN, probe)
    expected = network(batch.features, SEQ_LEN)
    np.testing.assert_array_equal(output.logits, expected.logits)
    np.testing.assert_array_equal(output.activity, expected.activity)
    assert record.inputs.shape == (2, 3, n_steps, N_FEATURES)
    if kind == "lsnn":
        two_layers = make_network(kind, n_layer=2)
        with pytest.raises(ValueError):
            two_layers.recorded(batch.features, SEQ_LEN, probe)


def test_autapses_stay_zero_in_training():
    network = make_network("lsnn", "bptt", n_layer=2)
    variables = network.trainable_variables
    optimizer = tf.keras.optimizers.Adam(0.1)
    optimizer.build(variables)
    before = network.layers[0].w_rec.numpy()
    for seed in range(2):  # Adam's moments remember the noise on the diagonal
        _, _, gradients = run_network(network, make_batch(seed))
        noise = np.random.default_rng(seed)
        names = {v.ref(): name for name, v in network.weights().items()}
        noisy = [gradients[names[v.ref()]] + noise.standard_normal(v.shape) for v in variables]
        optimizer.apply_gradients(zip(noisy, variables))
        network.after_update(0.0)
        for layer in network.layers:
            w_rec = layer.w_rec.numpy()
            np.testing.assert_array_equal(w_rec * np.eye(N), np.zeros((2, N, N)))
            assert np.all(w_rec + np.eye(N) != 0)
    assert np.all((network.layers[0].w_rec.numpy() != before) | np.eye(N, dtype=bool))


def test_only_the_authors_autapses_are_penalised():
    for reference_quirks in (False, True):
        network = make_network("lsnn", reference_quirks=reference_quirks)
        w_rec = network.layers[0].w_rec
        w_rec.assign(tf.linalg.set_diag(w_rec, tf.ones([2, N], tf.float64)))
        before = network.l2_loss().numpy()
        w_rec.assign(tf.linalg.set_diag(w_rec, 3 * tf.ones([2, N], tf.float64)))
        added = 1e-3 * 2 * N * (9 - 1) if reference_quirks else 0
        np.testing.assert_allclose(network.l2_loss() - before, added, atol=1e-12)
        network.after_update(0.0)
        diagonal = np.diagonal(w_rec.numpy(), axis1=1, axis2=2)
        np.testing.assert_array_equal(diagonal, np.full((2, N), 3 if reference_quirks else 0))


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
@pytest.mark.parametrize("rule", eprop.RULES)
def test_mirror_decay_follows_each_update_of_adaptive_eprop(kind, rule):
    network = make_network(kind, rule)
    before = {name: w.numpy() for name, w in network.weights().items()}
    network.after_update(0.25)
    for name, w in network.weights().items():
        decays = rule == "adaptive" and name in ("readout/w_out", "readout/feedback")
        np.testing.assert_allclose(w, before[name] * (0.75 if decays else 1), rtol=1e-14)


def test_initial_weights():
    parameters = neurons.alif_parameters(40, 40)
    network = models.Lsnn(
        100, 5, "bptt", parameters, np.random.default_rng(0), n_layer=2, weight_scale=0.5
    )
    first, second = network.layers
    for w, n_in in ((first.w_in, 100), (second.w_in, 160), (first.w_rec, 80), (second.w_rec, 80)):
        assert w.shape == (2, n_in, 80)
        off_diagonal = w.numpy()[w.numpy() != 0]
        # 12000 numbers and more give their standard deviation within 1 %.
        np.testing.assert_allclose(np.std(off_diagonal), 0.5 / np.sqrt(n_in), rtol=0.03)
    assert network.n_regular == 40
    parameters = neurons.alif_parameters(40, 40, rec=False)
    without = models.Lsnn(9, 5, "bptt", parameters, np.random.default_rng(0))
    assert set(without.weights()) == {"layer0/w_in", "readout/w_out", "readout/b_out"}

    lstm = models.Lstm(30, 5, "bptt", 20, np.random.default_rng(0))
    limit = np.sqrt(6 / (50 + 80))
    kernel = lstm.layers[0].kernel.numpy()
    assert kernel.shape == (2, 50, 80)
    assert 0.99 * limit < np.max(np.abs(kernel)) < limit
    np.testing.assert_allclose(np.std(kernel), limit / np.sqrt(3), rtol=0.03)
    assert not np.any(lstm.layers[0].bias)
    small = models.Lstm(30, 5, "bptt", 20, np.random.default_rng(0), lstm=False, init_scale=0.01)
    assert small.layers[0].kernel.shape == (2, 50, 20)
    assert 0.0099 < np.max(np.abs(small.layers[0].kernel)) < 0.01


# --------------------------------------------------------------------------- dropout


def test_dropout_depends_on_its_seed_alone():
    batch = make_batch()
    network = make_network("lsnn", n_layer=2, drop_out_probability=0.5)
    off = make_network("lsnn", n_layer=2, drop_out_probability=-1.0)

    def logits(network, seed):
        return network(batch.features, SEQ_LEN, seed).logits.numpy()

    np.testing.assert_array_equal(logits(network, None), logits(off, None))
    np.testing.assert_array_equal(logits(off, [1, 2]), logits(off, None))
    np.testing.assert_array_equal(logits(network, [1, 2]), logits(network, [1, 2]))
    for seed in ([1, 3], [2, 2], None):
        assert_different(logits(network, [1, 2]), logits(network, seed))


def test_dropout_keeps_the_expectation():
    network = make_network("lsnn", drop_out_probability=0.2)
    masks = [network.drop_out(tf.ones([10, 100, 20]), [3, 4], place).numpy() for place in range(3)]
    for mask in masks:
        np.testing.assert_allclose(np.unique(mask), [0, 1.25], rtol=1e-6)
        # 20000 draws: the mean's standard deviation is 0.0035.
        assert abs(np.mean(mask) - 1) < 0.015
    assert np.mean(masks[0] == masks[1]) < 0.75  # by chance 0.68
    assert np.mean(masks[1] == masks[2]) < 0.75


def test_dropout_is_constant_over_the_steps_of_a_frame(monkeypatch):
    """And it drops a layer's input and the readout's, not the spikes whose rates count."""
    read = []

    def spied(call):
        def spy(module, inputs, *arguments):
            read.append(np.array(inputs))
            return call(module, inputs, *arguments)

        return spy

    for module in (alif.AlifLayer, models.Readout):
        monkeypatch.setattr(module, "__call__", spied(module.__call__))
    network = make_network("lsnn", n_ref=1, n_layer=2, drop_out_probability=0.5, weight_scale=1.0)
    batch = make_batch()
    output = network(batch.features, SEQ_LEN, [5, 6], with_spikes=True)
    true = batch.features != 0
    np.testing.assert_allclose(
        np.unique(read[0][true] / batch.features[true]), [0, 2], rtol=1e-12, atol=1e-12
    )
    spikes = output.spikes[0].numpy().reshape(3, N_FRAMES, 2, 2 * N)
    dropped = read[1].reshape(spikes.shape)
    assert set(np.unique(spikes)) == {0, 1}
    both = np.all(spikes > 0, axis=2)
    assert both.sum() > 5
    np.testing.assert_array_equal(dropped[:, :, 0][both], dropped[:, :, 1][both])
    assert set(np.unique(dropped[spikes > 0])) == {0, 2}
    activity = output.activity.numpy()
    np.testing.assert_array_equal(activity[..., : 2 * N], spikes.mean(axis=2))
    np.testing.assert_array_equal(np.unique(read[2][activity > 0] / activity[activity > 0]), [0, 2])
