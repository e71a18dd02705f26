"""Bidirectional LSNN and LSTM phone classifiers.

One layer runs two cells over an utterance, one on the frames in order and one on them reversed;
their weights are stacked on a leading axis of directions (0 forward, 1 backward), so that one loop
over time serves both. An LSNN can do without the second. The readout sees the outputs of all
layers, or of the last.

LSNN (leaky and adaptive integrate-and-fire neurons), per direction, steps of dt = 1 ms, R = n_repeat
steps a frame. In step t it reads frame floor(t / R); for another dt a spike is 1/dt high, and thr in
(3) is multiplied by dt:

    I_t = x W_in + z_{t-1} W_rec                            (1)  W_rec without its diagonal
    a_t = rho a_{t-1} + z_{t-1}                             (2)
    v_t = alpha v_{t-1} + I_t - thr z_{t-1}                 (3)
    s_t = (v_t - thr - beta a_t) / thr                      (4)
    z_t = [s_t > 0 and r_{t-1} <= 0.1]                      (5)
    r_t = clip(r_{t-1} + n_ref z_t - 1, 0, n_ref)           (6)
    dz_t/dv_t := gamma max(0, 1 - |s_t|) / thr, 0 when refractory   (7)

    o_f = mean of z over the frame's R steps;  p_f = kappa p_{f-1} + o_f;  logits = p W_out + b

Symbol      Flag               Unit   Meaning
alpha       tau_v              -      exp(-dt / tau_v), decay of the membrane potential v
rho         tau_a              -      exp(-dt / tau_a), decay of the threshold adaptation a
thr         thr                -      thr / (1 - alpha), baseline threshold
beta        beta               -      beta (1 - rho) / (1 - alpha), 0 for regular neurons
n_ref       n_ref              steps  2 gives one silent step after a spike (with dt = 1)
gamma       dampening_factor   -      height of the pseudo-derivative
kappa       tau_out            -      exp(-dt / tau_out), decay of the readout filter, per frame
z           -                  1/ms   spikes, 0 or 1/dt

LSTM: i, j, f, o = [x, m_{t-1}] kernel + bias, in this order;
c_t = s(f + 1) c_{t-1} + s(i) tanh(j);  m_t = s(o) tanh(c_t), s the logistic function.

Both have two engines, which compute the same: `dense`, here, multiplies matrices in a TensorFlow
loop, differentiates automatically and runs on any device. On the CPU, the LSNN's `event`
(`layers/event_driven.py`) only works where there are spikes, and the LSTM's `fused` (`layers/fused_lstm.py`) does
a frame's whole work in one compiled loop, with its gradient written out.

Two behaviours exist: the paper's, and with `reference_quirks` that of the authors' code
(IGITUGraz/eligibility_propagation, Figure_2_TIMIT): the adaptation (2) counts the spikes that (5)
suppresses, the backward cell starts in the padding, which also counts for the rates and the
LSTM's loss, the diagonal of W_rec is penalised by L2, the LSNN's readout has one class more, and
the random feedback of the LSTM shrinks under L2.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

import eprop
from layers import event_driven, fused_lstm
from layers.event_driven import scaled_normal

N_DIRECTIONS = 2
ENGINES = ("dense", "event")
LSTM_ENGINES = ("dense", "fused")


# --------------------------------------------------------------------------- loops over time


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


# --------------------------------------------------------------------------- LSNN layer


class AlifState(NamedTuple):
    """State between two steps, each [directions, batch, neurons].

    `a` is already that of the coming step: (2) needs nothing else, and only the spike before a
    probe is added may enter it.
    """

    v: tf.Tensor
    a: tf.Tensor
    z: tf.Tensor
    r: tf.Tensor


class AlifRecord(NamedTuple):
    """Dynamics of a layer in cell time, each [directions, batch, steps, ...]."""

    inputs: tf.Tensor  # x of (1), one row a step
    z: tf.Tensor
    s: tf.Tensor
    is_open: tf.Tensor  # 1 where the neuron is not refractory


def spike(s, gamma):
    """Heaviside step of the scaled potential `s` with the pseudo-derivative of (7)."""

    @tf.custom_gradient
    def function(s):
        def gradient(dz):
            return dz * gamma * tf.maximum(1 - tf.abs(s), 0)

        return tf.cast(s > 0, s.dtype), gradient

    return function(s)


def alif_step(state, current, w_rec, parameters, stop_recurrence):
    """One step of (1) to (7).

    Args:
        state: AlifState.
        current: [directions, batch, neurons] input part of (1).
        w_rec: [directions, neurons, neurons] without diagonal, row = presynaptic; or None.
        parameters: event_driven.AlifParameters, cast to the tensors' dtype.
        stop_recurrence: e-prop: no gradient through the spikes that return to the network.

    Returns:
        (AlifState, s, is_open)
    """
    # E-prop: the paths from one neuron's spike to another neuron, and to its own reset, are what a
    # synapse cannot know; the path through the adaptation is the neuron's own and stays.
    z_back = tf.stop_gradient(state.z) if stop_recurrence else state.z
    v = parameters.alpha * state.v + current - parameters.thr * parameters.dt_ms * z_back
    if w_rec is not None:
        v += tf.matmul(z_back, w_rec)
    s = (v - parameters.thr - parameters.beta * state.a) / parameters.thr
    unmasked_z = spike(s, parameters.dampening_factor) / parameters.dt_ms
    is_open = tf.cast(state.r <= 0.1, s.dtype)
    z = is_open * unmasked_z
    state = AlifState(
        v=v,
        a=parameters.rho * state.a + (unmasked_z if parameters.reference_quirks else z),
        z=z,
        r=tf.clip_by_value(state.r + parameters.n_ref * z - 1, 0, parameters.n_ref),
    )
    return state, s, is_open


class AlifLayer(tf.Module):
    """Layer of leaky and adaptive integrate-and-fire neurons, in one direction or two.

    Args:
        w_in: [directions, n_in, neurons] initial input weights; one direction is the forward one.
        w_rec: [directions, neurons, neurons] initial recurrent weights; not used unless
            `parameters.rec`.
        parameters: event_driven.AlifParameters.
        reads_frames: the input has one row a frame, shown for `n_repeat` steps; else one a step.
        engine: "dense" or "event", see the module's docstring.
    """

    def __init__(
        self, w_in, w_rec, parameters, reads_frames, engine="dense", dtype=tf.float32, name=None
    ):
        super().__init__(name)
        self.w_in = tf.Variable(w_in, dtype=dtype, name="w_in")
        self.w_rec = None
        if parameters.rec:
            if not parameters.reference_quirks:
                w_rec = w_rec * (1 - np.eye(w_rec.shape[-1]))
            self.w_rec = tf.Variable(w_rec, dtype=dtype, name="w_rec")
        if engine not in ENGINES:
            raise ValueError(f"engine is {engine!r}, expected one of {ENGINES}")
        self.parameters = parameters
        self.reads_frames = reads_frames
        self.engine = engine
        self.n_directions = len(w_in)

    def effective_w_rec(self):
        """W_rec without its diagonal: no neuron drives itself."""
        diagonal = tf.zeros(self.w_rec.shape[:-1], self.w_rec.dtype)
        return tf.linalg.set_diag(self.w_rec, diagonal)

    def __call__(self, inputs, seq_len, stop_recurrence, per_step=True):
        """Spikes of the layer, 0 after the end of an utterance unless `reference_quirks`.

        Args:
            inputs: [batch, frames or steps, n_in].
            seq_len: [batch] true frames.
            stop_recurrence: train by e-prop instead of BPTT.
            per_step: answer for every step, else the mean over each frame's steps.

        Returns:
            [batch, steps or frames, directions * neurons].
        """
        if self.engine == "event":
            return self._run_event_driven(inputs, seq_len, stop_recurrence, per_step)
        (z,) = self._run_dense(inputs, seq_len, stop_recurrence)
        spikes = self._in_order_of_time(z, seq_len)
        return spikes if per_step else frame_means(spikes, self.parameters.n_repeat)

    def recorded(self, inputs, seq_len, stop_recurrence, spike_probe):
        """As calling the layer per step, with its dynamics; dense engine.

        Args:
            spike_probe: [directions, batch, steps, neurons] zeros added to the spikes (5), whose
                gradient is the learning signal dE/dz_t: the direct one under e-prop, the total
                one under BPTT. In cell time.

        Returns:
            (spikes, AlifRecord)
        """
        outputs = self._run_dense(inputs, seq_len, stop_recurrence, spike_probe)
        n_repeat = self.parameters.n_repeat
        rows = tf.repeat(inputs, n_repeat, axis=1) if self.reads_frames else inputs
        rows = into_cell_time(
            tf.stack([rows] * self.n_directions),
            seq_len * n_repeat,
            self.parameters.reference_quirks,
        )
        return self._in_order_of_time(outputs[0], seq_len), AlifRecord(rows, *outputs)

    def _run_event_driven(self, inputs, seq_len, stop_recurrence, per_step):
        current = tf.tensordot(inputs, self.w_in, [[2], [1]])  # [batch, frames, directions, n]
        parameters = self.parameters
        n_repeat = parameters.n_repeat
        if per_step or not self.reads_frames:
            # A step is a frame of one step.
            if self.reads_frames:
                current = tf.repeat(current, n_repeat, axis=1)
            parameters = parameters._replace(n_repeat=1)
            seq_len = seq_len * n_repeat
        spikes = event_driven_spikes(
            current, self.w_rec, seq_len, parameters, "eprop" if stop_recurrence else "bptt"
        )
        shape = tf.shape(spikes)
        spikes = tf.reshape(spikes, [shape[0], shape[1], self.n_directions * spikes.shape[-1]])
        return spikes if per_step or self.reads_frames else frame_means(spikes, n_repeat)

    def _run_dense(self, inputs, seq_len, stop_recurrence, spike_probe=None):
        """Spikes z, and with a probe also s and is_open, in cell time [directions, batch, ...]."""
        dtype = self.w_in.dtype
        n_repeat = self.parameters.n_repeat
        is_reference = self.parameters.reference_quirks
        parameters = self.parameters._replace(
            **{
                name: tf.constant(getattr(self.parameters, name), dtype)
                for name in ("alpha", "rho", "beta", "thr")
            }
        )
        row_len = seq_len if self.reads_frames else seq_len * n_repeat
        rows_per_frame = 1 if self.reads_frames else n_repeat
        n_batch, n_rows = tf.shape(inputs)[0], tf.shape(inputs)[1]
        n_frames = n_rows // rows_per_frame

        current = tf.einsum("bti,dio->dbto", inputs, self.w_in)
        current = into_cell_time(current, row_len, is_reference)
        frames = self._frames_first(current, n_frames, rows_per_frame)
        if spike_probe is not None:
            frames = (frames, self._frames_first(spike_probe, n_frames, n_repeat))
        w_rec = self.effective_w_rec() if parameters.rec else None

        def frame_step(state, frame):
            current, probe = frame if spike_probe is not None else (frame, None)
            outputs = []
            for k in range(n_repeat):
                state, s, is_open = alif_step(
                    state, current[min(k, rows_per_frame - 1)], w_rec, parameters, stop_recurrence
                )
                if probe is not None:
                    state = state._replace(z=state.z + probe[k])
                outputs.append((state.z,) if probe is None else (state.z, s, is_open))
            return state, tuple(tf.stack(column) for column in zip(*outputs))

        zeros = tf.zeros([self.n_directions, n_batch, self.w_in.shape[-1]], dtype)
        outputs = unroll(frame_step, AlifState(zeros, zeros, zeros, zeros), frames)
        return [self._directions_first(x, n_frames * n_repeat) for x in outputs]

    def _in_order_of_time(self, z, seq_len):
        """Spikes [directions, batch, steps, n] in cell time -> [batch, steps, directions * n]."""
        step_len = seq_len * self.parameters.n_repeat
        spikes = out_of_cell_time(z, step_len, self.parameters.reference_quirks)
        if self.parameters.reference_quirks:
            return spikes
        return spikes * tf.sequence_mask(step_len, tf.shape(spikes)[1], spikes.dtype)[:, :, None]

    def _frames_first(self, x, n_frames, rows_per_frame):
        """[directions, batch, rows, n] -> [frames, rows per frame, directions, batch, n]."""
        shape = tf.shape(x)
        x = tf.reshape(x, [self.n_directions, shape[1], n_frames, rows_per_frame, x.shape[-1]])
        return tf.transpose(x, [2, 3, 0, 1, 4])

    def _directions_first(self, x, n_steps):
        """[frames, steps per frame, directions, batch, n] -> [directions, batch, steps, n]."""
        shape = tf.shape(x)
        x = tf.transpose(x, [2, 3, 0, 1, 4])
        return tf.reshape(x, [self.n_directions, shape[3], n_steps, shape[4]])


def event_driven_spikes(current, w_rec, seq_len, parameters, rule):
    """Spikes by the event-driven engine, with its gradients.

    Args:
        current: [batch, frames, directions, neurons] input part of (1).
        w_rec: [directions, neurons, neurons] variable, or None without recurrence.
        seq_len: [batch] true frames.
        parameters: event_driven.AlifParameters.
        rule: one of event_driven.RULES.

    Returns:
        [batch, frames, directions, neurons], mean over each frame's steps.
    """
    n_directions, n_neurons = current.shape[2:]
    reverse = [d == 1 for d in range(n_directions)]
    dtype = current.dtype

    def forward(current, w_rec, seq_len):
        result = event_driven.forward(current, w_rec, parameters, seq_len, reverse)
        saved = result.saved
        bits = [saved.spikes]
        if parameters.reference_quirks:  # else they are the same
            bits.append(saved.adaptation_spikes)
        return result.z_mean, saved.checkpoints, *bits

    def backward(grad_z, current, w_rec, seq_len, checkpoints, *bits):
        saved = event_driven.Saved(bits[0], bits[-1], checkpoints)
        gradients = event_driven.backward(
            saved, grad_z, current, w_rec, parameters, rule, seq_len, reverse
        )
        return gradients.current, gradients.w_rec

    @tf.custom_gradient
    def function(current, w_rec):
        n_bits = 2 if parameters.reference_quirks else 1
        z, *saved = tf.numpy_function(
            forward, [current, w_rec, seq_len], [dtype, dtype, *[tf.uint64] * n_bits]
        )
        z.set_shape(current.shape)

        def gradient(grad_z):
            d_current, d_w_rec = tf.numpy_function(
                backward, [grad_z, current, w_rec, seq_len, *saved], [dtype, dtype]
            )
            d_current.set_shape(current.shape)
            d_w_rec.set_shape(w_rec.shape)
            return d_current, d_w_rec

        return z, gradient

    if w_rec is None:
        w_rec = tf.zeros([n_directions, n_neurons, n_neurons], dtype)
    return function(current, tf.convert_to_tensor(w_rec))


# --------------------------------------------------------------------------- LSTM layer


class LstmRecord(NamedTuple):
    """Dynamics of a layer in cell time, each [directions, batch, frames, ...]."""

    inputs: tf.Tensor  # x
    m: tf.Tensor
    gates: tf.Tensor  # [..., 4, cells] before their non-linearities, forget bias included
    c: tf.Tensor


FORGET_BIAS = 1.0


def lstm_step(state, projection, w_rec, stop_recurrence):
    """One step of an LSTM cell.

    Args:
        state: (c, m), each [directions, batch, cells].
        projection: [directions, batch, 4 * cells], x times its part of the kernel, plus bias.
        w_rec: [directions, cells, 4 * cells], the kernel's rows for m.
        stop_recurrence: e-prop: gradients flow through time in c only.

    Returns:
        ((c, m), gates) with gates [directions, batch, 4, cells] in the order i, j, f, o.
    """
    c, m = state
    if stop_recurrence:
        m = tf.stop_gradient(m)  # what the other cells did is nothing this one's synapses know
    i, j, f, o = tf.split(projection + tf.matmul(m, w_rec), 4, axis=-1)
    f += FORGET_BIAS
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(j)
    m = tf.sigmoid(o) * tf.tanh(c)
    return (c, m), tf.stack([i, j, f, o], axis=-2)


def tanh_step(state, projection, w_rec, stop_recurrence):
    """One step of a plain recurrent cell, m_t = tanh([x, m_{t-1}] kernel + bias), for BPTT."""
    assert not stop_recurrence, "the plain cell has no state that e-prop could follow"
    _, m = state
    m = tf.tanh(projection + tf.matmul(m, w_rec))
    return (m, m), m


class LstmLayer(tf.Module):
    """Bidirectional layer of LSTM cells, or of plain tanh cells.

    Args:
        kernel: [directions, n_in + cells, 4 * cells] initial weights (plain: [..., cells]).
        bias: [directions, 4 * cells] initial bias (plain: [..., cells]).
        engine: "dense" or "fused", see the module's docstring; plain cells have the first only.
    """

    def __init__(
        self,
        kernel,
        bias,
        reference_quirks=False,
        plain=False,
        engine="dense",
        dtype=tf.float32,
        name=None,
    ):
        super().__init__(name)
        engines = LSTM_ENGINES[:1] if plain else LSTM_ENGINES
        if engine not in engines:
            raise ValueError(f"engine is {engine!r}, expected one of {engines}")
        self.engine = engine
        self.kernel = tf.Variable(kernel, dtype=dtype, name="kernel")
        self.bias = tf.Variable(bias, dtype=dtype, name="bias")
        self.n_cells = bias.shape[-1] // (1 if plain else 4)
        self.step = tanh_step if plain else lstm_step
        self.reference_quirks = reference_quirks

    def __call__(self, inputs, seq_len, stop_recurrence, output_probe=None, record=False):
        """Outputs m of the cells; `fused` sets them to 0 in the padding unless `reference_quirks`.

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
            return tf.reshape(m, [shape[0], shape[1], N_DIRECTIONS * self.n_cells])
        dtype = self.kernel.dtype
        n_in = self.kernel.shape[1] - self.n_cells
        projection = tf.einsum("bti,dio->dbto", inputs, self.kernel[:, :n_in])
        projection += self.bias[:, None, None]
        projection = into_cell_time(projection, seq_len, self.reference_quirks)
        w_rec = self.kernel[:, n_in:]

        def step(state, inputs):
            projection, probe = inputs if output_probe is not None else (inputs, None)
            (c, m), gates = self.step(state, projection, w_rec, stop_recurrence)
            if probe is not None:
                m += probe
            return (c, m), (m, gates, c) if record else (m,)

        inputs_of_frames = tf.transpose(projection, [2, 0, 1, 3])
        if output_probe is not None:
            inputs_of_frames = (inputs_of_frames, tf.transpose(output_probe, [2, 0, 1, 3]))
        zeros = tf.zeros([N_DIRECTIONS, tf.shape(inputs)[0], self.n_cells], dtype)
        outputs = unroll(step, (zeros, zeros), inputs_of_frames)
        outputs = [
            tf.transpose(x, [1, 2, 0, *range(3, len(x.shape))]) for x in outputs
        ]  # [frames, directions, batch, ...] -> [directions, batch, frames, ...]
        m = out_of_cell_time(outputs[0], seq_len, self.reference_quirks)
        if not record:
            return m
        inputs = into_cell_time(tf.stack([inputs, inputs]), seq_len, self.reference_quirks)
        return m, LstmRecord(inputs, *outputs)


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
    reverse = [d == 1 for d in range(N_DIRECTIONS)]
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
        m.set_shape([*inputs.shape[:2], N_DIRECTIONS, bias.shape[-1] // 4])

        def gradient(grad_m):
            gradients = tf.numpy_function(sweep, [grad_m, *arguments, m, *saved], [dtype] * 3)
            for value, of in zip(gradients, (inputs, kernel, bias)):
                value.set_shape(of.shape)
            return gradients

        return m, gradient

    return function(inputs, tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias))


# --------------------------------------------------------------------------- readout


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


class Readout(tf.Module):
    """Linear readout of the network's activity, with the learning rule's way back to it.

    Args:
        n_in: what the readout sees, all layers and directions.
        n_classes: phones.
        rule: one of `eprop.RULES`.
        random_generator: np.random.Generator.
        decay: kappa of the filter of the activity, or None for none.
        bias: with a bias a class.
        global_feedback: one value for all neurons and classes instead of random feedback.
        penalise_random_feedback: authors' LSTM: the "fixed" feedback of the rule `random` is a
            trained variable without a gradient, so that L2 shrinks it.
    """

    def __init__(
        self,
        n_in,
        n_classes,
        rule,
        random_generator,
        decay=None,
        bias=True,
        global_feedback=False,
        penalise_random_feedback=False,
        dtype=tf.float32,
        name="readout",
    ):
        super().__init__(name)
        shape = (n_in, n_classes)
        scale = 1 / np.sqrt(n_in)
        self.rule = rule
        self.decay = decay
        self.w_out = tf.Variable(
            random_generator.standard_normal(shape) * scale, dtype=dtype, name="w_out"
        )
        self.b_out = tf.Variable(tf.zeros(n_classes, dtype), name="b_out") if bias else None
        self.feedback = None
        if eprop.broadcasts(rule):
            if global_feedback:
                feedback = np.full(shape, scale)
            else:
                feedback = random_generator.standard_normal(shape)
                if rule == "adaptive":
                    feedback *= scale
            self.feedback = tf.Variable(
                feedback,
                dtype=dtype,
                trainable=rule == "adaptive" or penalise_random_feedback,
                name="feedback",
            )

    def __call__(self, activity):
        """Logits [batch, frames, classes] of `activity` [batch, frames, n_in]."""
        if self.feedback is None:
            logits = tf.tensordot(activity, self.w_out, 1)
        else:
            logits = eprop.broadcast_readout(
                activity, self.w_out, self.feedback, train_feedback=self.rule == "adaptive"
            )
        if self.decay is not None:
            # Filter and product commute; the classes are fewer than the neurons.
            logits = exponential_filter(logits, self.decay)
        return logits if self.b_out is None else logits + self.b_out


# --------------------------------------------------------------------------- networks


class Output(NamedTuple):
    """What a network answers to a batch."""

    logits: tf.Tensor  # [batch, frames, classes]
    activity: tf.Tensor  # [batch, frames, n_out] seen by the readout
    spikes: tuple  # of each LSNN layer, [batch, steps, directions * neurons]; () if not asked for


class Losses(NamedTuple):
    """Parts of the loss, scalars; their sum is what training descends."""

    prediction: tf.Tensor
    rate: tf.Tensor
    l2: tf.Tensor

    @property
    def total(self):
        return self.prediction + self.rate + self.l2


class Network(tf.Module):
    """Layers and a readout: what LSNN and LSTM classifiers have in common."""

    is_spiking = False

    def __init__(
        self, n_in, layers, readout, rule, l2, drop_out_probability, reference_quirks, name
    ):
        super().__init__(name)
        self.n_features = n_in
        self.layers = layers
        self.readout = readout
        self.rule = rule
        self.l2 = l2
        self.drop_out_probability = drop_out_probability
        self.reference_quirks = reference_quirks

    def __call__(self, features, seq_len, dropout_seed=None):
        """Classify a padded batch.

        Args:
            features: [batch, frames, features].
            seq_len: [batch] true frames.
            dropout_seed: [2] integers seed the dropout of a training step; None: no dropout.
        """
        raise NotImplementedError

    def recorded(self, features, seq_len, probe):
        """As calling the network, for one layer, with its dynamics in cell time.

        Args:
            features, seq_len: as above.
            probe: [directions, batch, time, units] zeros added to what the layer sends back to
                itself and on, so that their gradient is the learning signal.

        Returns:
            (Output, AlifRecord or LstmRecord)
        """
        raise NotImplementedError

    def _only_layer(self):
        (layer,) = self.layers
        return layer

    def drop_out(self, x, dropout_seed, place):
        """Dropout of `x` [batch, frames, n]; one mask a frame, another for each `place`."""
        if dropout_seed is None or self.drop_out_probability <= 0:
            return x
        seed = tf.random.experimental.stateless_fold_in(dropout_seed, place)
        return tf.nn.experimental.stateless_dropout(x, self.drop_out_probability, seed=seed)

    def weights(self):
        """All variables by name, such as `layer0/w_in`."""
        return {
            f"{module.name}/{variable.name.split(':')[0]}": variable
            for module in (*self.layers, self.readout)
            for variable in module.variables
        }

    def prediction_loss(self, logits, phns, seq_len):
        """Cross entropy [batch], averaged over each utterance's true frames."""
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=phns, logits=logits)
        mask = tf.sequence_mask(seq_len, tf.shape(phns)[1], logits.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(entropy * mask, 1), tf.reduce_sum(mask, 1))

    def activity_sums(self, output, seq_len):
        """Sum of the activity, [n_out], and the number of frames that count.

        Spikes are 0 in the padding where that does not count; nothing reads the LSTM's sum.
        """
        n_frames = tf.reduce_sum(seq_len)
        if self.reference_quirks:
            n_frames = tf.size(output.activity[:, :, 0])
        of_utterances = tf.reduce_sum(output.activity, 1)  # at once with the next, it takes thrice
        return tf.reduce_sum(of_utterances, 0), tf.cast(n_frames, output.activity.dtype)

    def rate_loss(self, mean_activity):
        """Penalty on firing rates, a scalar, from the mean activity [n_out]; cells have none."""
        return tf.zeros([], mean_activity.dtype)

    def l2_loss(self):
        """l2 times the sum of the squares of all trained weights."""
        return self.l2 * tf.add_n([tf.reduce_sum(w**2) for w in self.penalised_weights()])

    def penalised_weights(self):
        """The weights that L2 penalises, diagonals of W_rec excepted unless `reference_quirks`."""
        return self.trainable_variables

    def losses(self, output, phns, seq_len):
        """The loss of a batch, in parts; on one of several replicas, its share of them.

        The shares add up to the loss of all replicas' utterances together, however many are where:
        the rates are averaged over all of them before the regulariser squares them.
        """
        replicas = tf.distribute.get_replica_context()
        prediction = self.prediction_loss(output.logits, phns, seq_len)
        activity, n_frames, n_utterances = replicas.all_reduce(
            tf.distribute.ReduceOp.SUM,
            [
                *self.activity_sums(output, seq_len),
                tf.cast(tf.size(prediction), prediction.dtype),
            ],
        )
        return Losses(
            prediction=tf.reduce_sum(prediction) / n_utterances,
            rate=self.rate_loss(activity / n_frames) / replicas.num_replicas_in_sync,
            l2=self.l2_loss() / replicas.num_replicas_in_sync,
        )

    def after_update(self, readout_decay):
        """What follows each optimiser step: mirror decay under adaptive e-prop."""
        if self.rule == "adaptive":
            eprop.mirror_decay(self.readout.w_out, self.readout.feedback, readout_decay)


class Lsnn(Network):
    """LSNN; the constructor's arguments are the LSNN script's flags of that name.

    `parameters` are those of `alif_parameters`, `engine` is "dense" or "event". `first_layer` is
    (w_in [directions, n_in, neurons], w_rec [directions, neurons, neurons]) where the first layer
    does not start at random; all other weights are the same with it and without.
    """

    is_spiking = True

    def __init__(
        self,
        n_in,
        n_classes,
        rule,
        parameters,
        random_generator,
        n_layer=1,
        n_directions=N_DIRECTIONS,
        weight_scale=1.0,
        first_layer=None,
        tau_out=3.0,
        psp_out=True,
        readout_bias=True,
        global_feedback=False,
        loss_from_all_layers=True,
        reg=50.0,
        reg_rate=10.0,
        l2=1e-5,
        drop_out_probability=-1.0,
        engine="dense",
        dtype=tf.float32,
    ):
        n_neurons = len(parameters.alpha)
        n_out = n_directions * n_neurons

        def random_weights(n_pre):
            return scaled_normal(random_generator, n_pre, n_neurons, weight_scale, n_directions)

        weights = [
            (random_weights(n_out if k else n_in), random_weights(n_neurons))
            for k in range(n_layer)
        ]
        if first_layer is not None:
            weights[0] = first_layer
        layers = [
            AlifLayer(
                w_in,
                w_rec,
                parameters,
                reads_frames=k == 0,
                engine=engine,
                dtype=dtype,
                name=f"layer{k}",
            )
            for k, (w_in, w_rec) in enumerate(weights)
        ]
        readout = Readout(
            n_out * (n_layer if loss_from_all_layers else 1),
            n_classes + 1 if parameters.reference_quirks else n_classes,
            rule,
            random_generator,
            decay=np.exp(-parameters.dt_ms / tau_out) if psp_out else None,
            bias=readout_bias,
            global_feedback=global_feedback,
            dtype=dtype,
        )
        super().__init__(
            n_in,
            layers,
            readout,
            rule,
            l2,
            drop_out_probability,
            parameters.reference_quirks,
            name="lsnn",
        )
        self.parameters = parameters
        self.n_regular = int(np.sum(parameters.beta == 0))
        self.loss_from_all_layers = loss_from_all_layers
        self.reg = reg
        self.reg_rate = reg_rate

    def __call__(self, features, seq_len, dropout_seed=None, with_spikes=False):
        """As `Network.__call__`; `with_spikes` fills `Output.spikes`."""
        stop, n_repeat = eprop.stops_recurrence(self.rule), self.parameters.n_repeat
        activities, spikes, x = [], [], self.drop_out(features, dropout_seed, 0)
        for k, layer in enumerate(self.layers):
            if k > 0:
                x = self._drop_out_spikes(x, dropout_seed, k)
            per_step = with_spikes or k + 1 < len(self.layers)
            x = layer(x, seq_len, stop, per_step)
            activities.append(frame_means(x, n_repeat) if per_step else x)
            if with_spikes:
                spikes.append(x)
        return self._read_out(activities, spikes, dropout_seed)

    def recorded(self, features, seq_len, probe):
        spikes, record = self._only_layer().recorded(
            features, seq_len, eprop.stops_recurrence(self.rule), probe
        )
        activity = frame_means(spikes, self.parameters.n_repeat)
        return self._read_out([activity], [spikes], None), record

    def _read_out(self, activities, spikes, dropout_seed):
        """Output of the network from its layers' activities, each [batch, frames, ...]."""
        activity = tf.concat(activities, -1) if self.loss_from_all_layers else activities[-1]
        logits = self.readout(self.drop_out(activity, dropout_seed, len(self.layers)))
        return Output(logits, activity, tuple(spikes))

    def _drop_out_spikes(self, spikes, dropout_seed, place):
        """Dropout of a layer's input spikes [batch, steps, n], one mask a frame."""
        if dropout_seed is None or self.drop_out_probability <= 0:
            return spikes
        ones = tf.ones_like(spikes[:, :: self.parameters.n_repeat])
        mask = self.drop_out(ones, dropout_seed, place)
        return spikes * tf.repeat(mask, self.parameters.n_repeat, axis=1)

    def rate_loss(self, mean_activity):
        target = self.reg_rate / 1000  # Hz to spikes per ms
        if self.reference_quirks:
            mean_activity /= self.parameters.dt_ms  # spikes already are 1/dt high
        return self.reg * tf.reduce_sum((mean_activity - target) ** 2)

    def penalised_weights(self):
        if self.reference_quirks:
            return self.trainable_variables
        diagonal_free = {
            layer.w_rec.ref(): layer.effective_w_rec()
            for layer in self.layers
            if layer.w_rec is not None
        }
        return [diagonal_free.get(w.ref(), w) for w in self.trainable_variables]

    def after_update(self, readout_decay):
        super().after_update(readout_decay)
        if not self.reference_quirks:
            for layer in self.layers:
                if layer.w_rec is not None:
                    layer.w_rec.assign(layer.effective_w_rec())  # gradient noise reaches it


class Lstm(Network):
    """Bidirectional LSTM; the constructor's arguments are the LSTM script's flags of that name.

    `engine` is "dense" or "fused".
    """

    def __init__(
        self,
        n_in,
        n_classes,
        rule,
        n_lstm,
        random_generator,
        lstm=True,
        init_scale=0.0,
        l2=1e-5,
        reference_quirks=False,
        engine="dense",
        dtype=tf.float32,
    ):
        n_columns = n_lstm * (4 if lstm else 1)
        shape = (N_DIRECTIONS, n_in + n_lstm, n_columns)
        limit = init_scale or np.sqrt(6 / (shape[1] + shape[2]))  # Glorot & Bengio 2010
        layer = LstmLayer(
            random_generator.uniform(-limit, limit, shape),
            np.zeros((N_DIRECTIONS, n_columns)),
            reference_quirks=reference_quirks,
            plain=not lstm,
            engine=engine,
            dtype=dtype,
            name="layer0",
        )
        readout = Readout(
            N_DIRECTIONS * n_lstm,
            n_classes,
            rule,
            random_generator,
            penalise_random_feedback=reference_quirks,
            dtype=dtype,
        )
        super().__init__(n_in, [layer], readout, rule, l2, -1.0, reference_quirks, name="lstm")

    def __call__(self, features, seq_len, dropout_seed=None):
        activity = self.layers[0](features, seq_len, eprop.stops_recurrence(self.rule))
        return Output(self.readout(activity), activity, ())

    def recorded(self, features, seq_len, probe):
        layer = self._only_layer()
        activity, record = layer(
            features, seq_len, eprop.stops_recurrence(self.rule), probe, record=True
        )
        return Output(self.readout(activity), activity, ()), record

    def prediction_loss(self, logits, phns, seq_len):
        if self.reference_quirks:  # padding counts as silence
            n_frames = tf.fill([tf.shape(phns)[0]], tf.shape(phns)[1])
            return super().prediction_loss(logits, phns, n_frames)
        return super().prediction_loss(logits, phns, seq_len)
