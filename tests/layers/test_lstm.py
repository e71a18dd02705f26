"""LSTM and plain cells, by both engines, against Keras, in float64."""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from helpers import assert_different, assert_near
from layers import lstm

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


def make_cell_case(plain=False, reference_quirks=False, engine="dense", peephole=False):
    random_generator = np.random.default_rng(3)
    n_in, n_columns = 3, N_CELLS * (1 if plain else 4)
    layer = lstm.LstmLayer(
        random_generator.standard_normal((2, n_in + N_CELLS, n_columns)),
        random_generator.standard_normal((2, n_columns)),
        random_generator.standard_normal((2, 3, N_CELLS)) if peephole else None,
        reference_quirks=reference_quirks,
        plain=plain,
        engine=engine,
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
        assert_near(gradients[name], expected[name])


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
    assert_near(gradients["kernel"], expected_kernel)
    assert_near(gradients["bias"], expected_bias)
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


def run_peephole_layer(layer, inputs, seq_len, stops, output_gradient):
    """Outputs of a layer, and the gradient of its peepholes."""
    with tf.GradientTape() as tape:
        m = layer(tf.constant(inputs), seq_len, stops)
        loss = tf.reduce_sum(m * output_gradient)
    return m.numpy(), tape.gradient(loss, layer.peephole).numpy()


def test_gradients_of_peepholes_are_finite_differences():
    case = make_cell_case(peephole=True)
    arguments = (case.inputs, case.seq_len, False, case.output_gradient)
    _, gradient = run_peephole_layer(case.layer, *arguments)
    peephole, step = case.layer.peephole.numpy(), 1e-5
    for d, gate in np.ndindex(2, 3):
        direction = np.zeros_like(peephole)
        direction[d, gate] = np.random.default_rng(d).standard_normal(N_CELLS)
        sums = []
        for sign in (1, -1):
            case.layer.peephole.assign(peephole + sign * step * direction)
            m = case.layer(tf.constant(case.inputs), case.seq_len, False).numpy()
            sums.append(np.sum(m * case.output_gradient))
        expected = (sums[0] - sums[1]) / (2 * step)
        assert abs(expected) > 1e-3
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-7)


def test_eprop_keeps_the_peepholes_ways_through_a_cells_own_state():
    """As BPTT in cells without recurrent weights that read [x_t, m_{t-1}] as their input."""
    random_generator = np.random.default_rng(5)
    kernel = random_generator.standard_normal((1, 3 + N_CELLS, 4 * N_CELLS))
    others = random_generator.standard_normal((1, 4 * N_CELLS)), np.ones((1, 3, N_CELLS))
    inputs = random_generator.standard_normal((2, 7, 3))
    arguments = np.array([7, 7], np.int32), random_generator.standard_normal((2, 7, N_CELLS))
    layer = lstm.LstmLayer(kernel, *others, dtype=tf.float64)
    m, gradient = run_peephole_layer(layer, inputs, arguments[0], True, arguments[1])
    _, by_bptt = run_peephole_layer(layer, inputs, arguments[0], False, arguments[1])
    kernel = np.concatenate([kernel, np.zeros((1, N_CELLS, 4 * N_CELLS))], axis=1)
    inputs = np.concatenate([inputs, np.pad(m, [(0, 0), (1, 0), (0, 0)])[:, :-1]], axis=-1)
    layer = lstm.LstmLayer(kernel, *others, dtype=tf.float64)
    same_m, expected = run_peephole_layer(layer, inputs, arguments[0], False, arguments[1])
    np.testing.assert_allclose(same_m, m, rtol=1e-12)
    assert_near(gradient, expected, 1e-12)
    assert_different(gradient, by_bptt)


@pytest.mark.parametrize(
    "options, engine", [({"plain": True}, "fused"), ({"peephole": True}, "fused"), ({}, "event")]
)
def test_cells_refuse_an_engine_they_do_not_have(options, engine):
    with pytest.raises(ValueError, match=f"{engine}.*dense"):
        make_cell_case(**options, engine=engine)


def test_plain_cells_refuse_eprop():
    case = make_cell_case(plain=True)
    with pytest.raises(AssertionError, match="plain cell"):
        case.layer(case.inputs, case.seq_len, True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stops", [False, True], ids=["BPTT", "e-prop"])
def test_cudnn_equals_fused(dtype, stops):
    """Keras' way and the closed form of e-prop, without a GPU; one utterance is empty."""
    random_generator = np.random.default_rng(5)
    n_in, n_cells, seq_len = 5, 6, np.array([40, 23, 0], np.int32)
    kernel = 0.5 * random_generator.standard_normal((2, n_in + n_cells, 4 * n_cells))
    bias = random_generator.standard_normal((2, 4 * n_cells))
    inputs = tf.constant(random_generator.standard_normal((3, 40, n_in)), dtype)
    weights = tf.constant(random_generator.standard_normal((3, 40, 2 * n_cells)), dtype)

    def computed(engine):
        layer = lstm.LstmLayer(kernel, bias, engine=engine, dtype=tf.as_dtype(dtype))

        @tf.function(autograph=False)
        def step():
            with tf.GradientTape() as tape:
                m = layer(inputs, seq_len, stops)
                loss = tf.reduce_sum(m * weights)
            return m, tape.gradient(loss, [layer.kernel, layer.bias])

        return step()

    (m, gradients), (expected_m, expected) = computed("cudnn"), computed("fused")
    is_float32 = dtype == "float32"
    assert_near(m, expected_m, 1e-5 if is_float32 else 1e-12)
    for found, of_fused in zip(gradients, expected):
        assert_near(found, of_fused, 1e-4 if is_float32 else 1e-12)
