"""Layer of LSTM cells in TensorFlow, in one direction or two.

    i, j, f, o = [x, m_{t-1}] kernel + bias, in this order
    c_t = s(f + 1) c_{t-1} + s(i) tanh(j);  m_t = s(o) tanh(c_t),  s the logistic function

With peepholes p_i, p_f, p_o, a weight a cell each, p_i c_{t-1} is added to i, p_f c_{t-1} to f and
p_o c_t to o.

Three engines compute the same: `dense`, here, is a TensorFlow loop with automatic differentiation, on
any device; `fused` (`fused_lstm`) does a frame's whole work in one compiled loop, with its gradient
written out, on the CPU; `cudnn` is Keras' layer, which calls cuDNN on a GPU, with e-prop's gradient
from its outputs alone.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from layers import fused_lstm
from layers.sequences import into_cell_time, out_of_cell_time, scan, unroll

N_DIRECTIONS = 2
LSTM_ENGINES = ("dense", "fused", "cudnn")


class LstmRecord(NamedTuple):
    """Dynamics of a layer in cell time, each [directions, batch, frames, ...]."""

    inputs: tf.Tensor  # x
    m: tf.Tensor
    gates: tf.Tensor  # [..., 4, cells] before their non-linearities, forget bias included
    c: tf.Tensor


FORGET_BIAS = 1.0


def lstm_step(state, projection, w_rec, stop_recurrence, peephole=None):
    """One step of an LSTM cell.

    Args:
        state: (c, m), each [directions, batch, cells].
        projection: [directions, batch, 4 * cells], x times its part of the kernel, plus bias.
        w_rec: [directions, cells, 4 * cells], the kernel's rows for m.
        stop_recurrence: e-prop: gradients flow through time in c only.
        peephole: [directions, 3, cells], p_i, p_f and p_o; None for none.

    Returns:
        ((c, m), gates) with gates [directions, batch, 4, cells] in the order i, j, f, o.
    """
    c, m = state
    if stop_recurrence:
        m = tf.stop_gradient(m)  # what the other cells did is nothing this one's synapses know
    i, j, f, o = tf.split(projection + tf.matmul(m, w_rec), 4, axis=-1)
    f += FORGET_BIAS
    if peephole is not None:  # e-prop: c is the cell's own, so that these ways stay
        i += peephole[:, None, 0] * c
        f += peephole[:, None, 1] * c
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(j)
    if peephole is not None:
        o += peephole[:, None, 2] * c
    m = tf.sigmoid(o) * tf.tanh(c)
    return (c, m), tf.stack([i, j, f, o], axis=-2)


def tanh_step(state, projection, w_rec, stop_recurrence, peephole=None):
    """One step of a plain recurrent cell, m_t = tanh([x, m_{t-1}] kernel + bias), for BPTT."""
    assert not stop_recurrence, "the plain cell has no state that e-prop could follow"
    assert peephole is None, "the plain cell has no gates"
    _, m = state
    m = tf.tanh(projection + tf.matmul(m, w_rec))
    return (m, m), m


class LstmLayer(tf.Module):
    """Layer of LSTM cells, or of plain tanh cells; one direction is the forward one.

    Args:
        kernel: [directions, n_in + cells, 4 * cells] initial weights (plain: [..., cells]).
        bias: [directions, 4 * cells] initial bias (plain: [..., cells]).
        peephole: [directions, 3, cells] initial p_i, p_f and p_o; None for none.
        engine: one of `LSTM_ENGINES`, see the module's docstring; plain cells and peepholes have
            the first only.
    """

    def __init__(
        self,
        kernel,
        bias,
        peephole=None,
        reference_quirks=False,
        plain=False,
        engine="dense",
        dtype=tf.float32,
        name=None,
    ):
        super().__init__(name)
        engines = LSTM_ENGINES[:1] if plain or peephole is not None else LSTM_ENGINES
        if engine not in engines:
            raise ValueError(f"engine is {engine!r}, expected one of {engines}")
        self.engine = engine
        self.kernel = tf.Variable(kernel, dtype=dtype, name="kernel")
        self.bias = tf.Variable(bias, dtype=dtype, name="bias")
        self.peephole = None
        if peephole is not None:
            self.peephole = tf.Variable(peephole, dtype=dtype, name="peephole")
        self.n_directions = len(kernel)
        self.n_cells = bias.shape[-1] // (1 if plain else 4)
        self.step = tanh_step if plain else lstm_step
        if engine == "cudnn":
            _keras_layer(self.n_cells, dtype.name)
        self.reference_quirks = reference_quirks

    def __call__(self, inputs, seq_len, stop_recurrence, output_probe=None, record=False):
        """Outputs m of the cells, 0 in the padding unless `reference_quirks`.

        With a probe or a record the dense engine runs, whatever the layer's own.

        Args:
            inputs: [batch, frames, n_in].
            seq_len: [batch] true frames.
            stop_recurrence: train by e-prop instead of BPTT.
            output_probe: [directions, batch, frames, cells] zeros added to m, whose gradient is
                the learning signal dE/dm_t (direct under e-prop, total under BPTT). In cell time.
            record: also return an LstmRecord (LSTM cells only).

        Returns:
            [batch, frames, directions * cells]; with `record` also an LstmRecord.
        """
        if stop_recurrence:
            inputs = tf.stop_gradient(inputs)  # e-prop trains each layer by its own readout alone
        if self.engine == "fused" and output_probe is None and not record:
            m = fused_lstm_outputs(
                inputs,
                self.kernel,
                self.bias,
                seq_len,
                "eprop" if stop_recurrence else "bptt",
                self.reference_quirks,
            )
            shape = tf.shape(m)
            return tf.reshape(m, [shape[0], shape[1], self.n_directions * self.n_cells])
        if self.engine == "cudnn" and output_probe is None and not record:
            outputs = [self._run_cudnn(inputs, seq_len, stop_recurrence)]
        else:
            outputs = self._run_dense(inputs, seq_len, stop_recurrence, output_probe, record)
        m = out_of_cell_time(outputs[0], seq_len, self.reference_quirks)
        if not self.reference_quirks:
            m *= tf.sequence_mask(seq_len, tf.shape(m)[1], m.dtype)[:, :, None]
        if not record:
            return m
        return m, LstmRecord(self._in_cell_time(inputs, seq_len), *outputs)

    def _in_cell_time(self, inputs, seq_len):
        """[batch, frames, n_in] -> [directions, batch, frames, n_in]."""
        inputs = tf.stack([inputs] * self.n_directions)
        return into_cell_time(inputs, seq_len, self.reference_quirks)

    def _run_cudnn(self, inputs, seq_len, stop_recurrence):
        """Outputs m in cell time [directions, batch, frames, cells]."""
        run = eprop_of_outputs if stop_recurrence else keras_lstm
        inputs = self._in_cell_time(inputs, seq_len)
        return run(inputs, *map(tf.convert_to_tensor, (self.kernel, self.bias)))

    def _run_dense(self, inputs, seq_len, stop_recurrence, output_probe, record):
        """[m], with `record` [m, gates, c], in cell time [directions, batch, frames, ...]."""
        dtype = self.kernel.dtype
        n_in = self.kernel.shape[1] - self.n_cells
        projection = tf.einsum("bti,dio->dbto", inputs, self.kernel[:, :n_in])
        projection += self.bias[:, None, None]
        projection = into_cell_time(projection, seq_len, self.reference_quirks)
        w_rec = self.kernel[:, n_in:]

        def step(state, inputs):
            projection, probe = inputs if output_probe is not None else (inputs, None)
            (c, m), gates = self.step(state, projection, w_rec, stop_recurrence, self.peephole)
            if probe is not None:
                m += probe
            return (c, m), (m, gates, c) if record else (m,)

        inputs_of_frames = tf.transpose(projection, [2, 0, 1, 3])
        if output_probe is not None:
            inputs_of_frames = (inputs_of_frames, tf.transpose(output_probe, [2, 0, 1, 3]))
        zeros = tf.zeros([self.n_directions, tf.shape(inputs)[0], self.n_cells], dtype)
        outputs = unroll(step, (zeros, zeros), inputs_of_frames)
        # [frames, directions, batch, ...] -> [directions, batch, frames, ...]
        return [tf.transpose(x, [1, 2, 0, *range(3, len(x.shape))]) for x in outputs]


@functools.cache
def _keras_layer(n_cells, dtype):
    """Keras' layer without weights; it has a variable, which no tf.function may make."""
    layer = tf.keras.layers.LSTM(n_cells, return_sequences=True, dtype=dtype)
    layer.cell.built = True  # its weights are set in each call
    return layer


def keras_lstm(inputs, kernel, bias):
    """Outputs m of LSTM cells by Keras' layer: by cuDNN on a GPU, elsewhere in a loop.

    Args:
        inputs: [directions, batch, frames, n_in] in cell time.
        kernel: [directions, n_in + cells, 4 * cells].
        bias: [directions, 4 * cells].

    Returns:
        [directions, batch, frames, cells]
    """
    n_cells = bias.shape[-1] // 4

    def as_keras(weights):  # its gates are i, f, j, o
        i, j, f, o = tf.split(weights, 4, axis=-1)
        return tf.concat([i, f, j, o], -1)

    def outputs(inputs, kernel, bias):
        layer = _keras_layer(n_cells, inputs.dtype.name)
        i, j, f, o = tf.split(bias, 4)
        layer.cell.bias = as_keras(tf.concat([i, j, f + FORGET_BIAS, o], 0))
        n_in = inputs.shape[-1]
        layer.cell.kernel = as_keras(kernel[:n_in])
        layer.cell.recurrent_kernel = as_keras(kernel[n_in:])
        n_batch = tf.shape(inputs)[0]
        is_empty = tf.cast(n_batch == 0, tf.int32)  # which a replica's may be, and cuDNN refuses
        inputs = tf.pad(inputs, [[0, is_empty], [0, 0], [0, 0]])
        zeros = tf.zeros([n_batch + is_empty, n_cells], inputs.dtype)
        return layer.inner_loop(inputs, [zeros, zeros], mask=None)[1][:n_batch]

    return tf.stack([outputs(*of_one) for of_one in zip(*map(tf.unstack, (inputs, kernel, bias)))])


@tf.custom_gradient
def eprop_of_outputs(inputs, kernel, bias):
    """`keras_lstm` with the gradient of e-prop, which needs no loop over time.

    Given all outputs m, the gates are one product; c, and backwards its gradient, which flows through
    c alone, are linear recurrences with known factors.
    """
    m = keras_lstm(inputs, kernel, bias)

    def gradient(grad_m):
        before = tf.constant([[0, 0], [0, 0], [1, 0], [0, 0]])
        after = before[:, ::-1]
        pre = tf.concat([inputs, tf.pad(m, before)[:, :, :-1]], -1)
        gates = tf.einsum("dbti,dio->dbto", pre, kernel) + bias[:, None, None]
        i, j, f, o = tf.split(gates, 4, axis=-1)
        i, j, f, o = tf.sigmoid(i), tf.tanh(j), tf.sigmoid(f + FORGET_BIAS), tf.sigmoid(o)
        c = scan(f, i * j)
        h = tf.tanh(c)
        f_next = tf.pad(f, after)[:, :, 1:]
        grad_c = tf.reverse(
            scan(tf.reverse(f_next, [2]), tf.reverse(grad_m * o * (1 - h**2), [2])), [2]
        )
        c_before = tf.pad(c, before)[:, :, :-1]
        delta = tf.concat(
            [
                grad_c * j * i * (1 - i),
                grad_c * i * (1 - j**2),
                grad_c * c_before * f * (1 - f),
                grad_m * h * o * (1 - o),
            ],
            -1,
        )
        return (
            tf.zeros_like(inputs),  # e-prop trains each layer by its own readout alone
            tf.einsum("dbti,dbto->dio", pre, delta),
            tf.reduce_sum(delta, [1, 2]),
        )

    return m, gradient


def fused_lstm_outputs(inputs, kernel, bias, seq_len, rule, reference_quirks):
    """Outputs of LSTM cells by the fused engine, with its gradients.

    Args:
        inputs: [batch, frames, n_in].
        kernel: [directions, n_in + cells, 4 * cells] variable.
        bias: [directions, 4 * cells] variable.
        seq_len: [batch] true frames.
        rule: one of fused_lstm.RULES.
        reference_quirks: run through the padding too.

    Returns:
        [batch, frames, directions, cells].
    """
    n_directions = kernel.shape[0]
    reverse = [d == 1 for d in range(n_directions)]
    dtype = inputs.dtype

    def run(inputs, kernel, bias, seq_len):
        seq_len = None if reference_quirks else seq_len
        result = fused_lstm.forward(inputs, kernel, bias, FORGET_BIAS, seq_len, reverse)
        return result.outputs, *result.saved

    def sweep(grad_m, inputs, kernel, bias, seq_len, m, *saved):
        seq_len = None if reference_quirks else seq_len
        result = fused_lstm.Forward(m, fused_lstm.Saved(*saved))
        return tuple(
            fused_lstm.backward(result, grad_m, inputs, kernel, bias, rule, seq_len, reverse)
        )

    @tf.custom_gradient
    def function(inputs, kernel, bias):
        arguments = [inputs, kernel, bias, seq_len]
        m, *saved = tf.numpy_function(run, arguments, [dtype] * 3)
        m.set_shape([*inputs.shape[:2], n_directions, bias.shape[-1] // 4])

        def gradient(grad_m):
            gradients = tf.numpy_function(sweep, [grad_m, *arguments, m, *saved], [dtype] * 3)
            for value, of in zip(gradients, (inputs, kernel, bias)):
                value.set_shape(of.shape)
            return gradients

        return m, gradient

    return function(inputs, tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias))
