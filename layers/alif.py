"""Layer of ALIF neurons in TensorFlow, equations (1) to (7) of `neurons`.

Cells of several directions (0 reads an utterance forward, 1 backward) are stacked on a leading axis,
so that one loop over time serves them all. Three engines compute the same: `dense`, here, multiplies
matrices in a TensorFlow loop, differentiates automatically and runs on any device; `event`
(`event_driven`) only works where there are spikes, on the CPU, and `cuda` (`event_driven_cuda`) does
the same on a GPU.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from layers import event_driven
from layers.sequences import frame_means, into_cell_time, out_of_cell_time, unroll

CPU_ENGINES = ("dense", "event")
ENGINES = (*CPU_ENGINES, "cuda")


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
        parameters: neurons.AlifParameters, cast to the tensors' dtype.
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
        parameters: neurons.AlifParameters.
        reads_frames: the input has one row a frame, shown for `n_repeat` steps; else one a step.
        engine: one of `ENGINES`, see the module's docstring.
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
        if self.engine != "dense":
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
        engine = cuda_spikes if self.engine == "cuda" else event_driven_spikes
        spikes = engine(
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
        parameters: neurons.AlifParameters.
        rule: one of event_driven.RULES.

    Returns:
        [batch, frames, directions, neurons], mean over each frame's steps.
    """
    reverse = [d == 1 for d in range(current.shape[2])]

    def forward(current, w_rec, seq_len):
        result = event_driven.forward(current, w_rec, parameters, seq_len, reverse)
        saved = result.saved
        bits = [saved.spikes]
        if parameters.reference_quirks:  # else they are the same
            bits.append(saved.adaptation_spikes)
        return result.z_mean, saved.checkpoints, *bits

    def backward(grad_z, w_rec, seq_len, current, checkpoints, *bits):
        saved = event_driven.Saved(bits[0], bits[-1], checkpoints)
        gradients = event_driven.backward(
            saved, grad_z, current, w_rec, parameters, rule, seq_len, reverse
        )
        return gradients.current, gradients.w_rec

    saved = [current.dtype] + [tf.uint64] * (2 if parameters.reference_quirks else 1)
    call = tf.numpy_function
    return _spikes(call, forward, backward, saved, current, w_rec, seq_len, kept=[current])


def cuda_spikes(current, w_rec, seq_len, parameters, rule):
    """As `event_driven_spikes`, on the GPU of the tensors, which stay there."""
    from layers import event_driven_cuda, gpu_memory

    dtype = current.dtype
    layer = event_driven_cuda.CudaLayer(parameters, current.shape[3], dtype.as_numpy_dtype)

    def forward(current, w_rec, n_frames):
        if 0 in current.shape:
            return tf.zeros_like(current), tf.zeros([0]), tf.zeros([0], dtype)
        with gpu_memory.on_gpu_of(current) as gpu:
            layer.forward(*map(gpu.array, (current, w_rec, n_frames)), gpu.empty)
        return gpu.made[:3]

    def backward(grad_z, w_rec, n_frames, spikes, psi):
        if 0 in grad_z.shape:
            return tf.zeros_like(grad_z), tf.zeros_like(w_rec)
        with gpu_memory.on_gpu_of(grad_z) as gpu:
            arrays = *map(gpu.array, (grad_z, w_rec, n_frames)), gpu.array(spikes, np.uint32)
            layer.backward(rule, *arrays, gpu.array(psi), gpu.empty)
        return gpu.made[:2]

    # An int32 would move the operation to the CPU.
    n_frames = tf.cast(seq_len, tf.int64)
    if parameters.reference_quirks:
        n_frames = tf.fill(tf.shape(n_frames), tf.shape(current, tf.int64)[1])
    return _spikes(tf.py_function, forward, backward, [tf.float32, dtype], current, w_rec, n_frames)


def _spikes(call, forward, backward, saved, current, w_rec, seq_len, kept=()):
    """Spikes by an engine of functions that TensorFlow calls.

    Args:
        call: tf.numpy_function or tf.py_function.
        forward: function (current, w_rec, seq_len) -> (spikes, *saved).
        backward: function (gradient of the spikes, w_rec, seq_len, *kept, *saved) -> gradients of
            current and w_rec.
        saved: types of what is saved.
        kept: what the backward pass reads beside that.
    """
    dtype = current.dtype

    @tf.custom_gradient
    def function(current, w_rec):
        z, *values = call(forward, [current, w_rec, seq_len], [dtype, *saved])
        z.set_shape(current.shape)

        def gradient(grad_z):
            arguments = [grad_z, w_rec, seq_len, *kept, *values]
            gradients = call(backward, arguments, [dtype, dtype])
            for value, of in zip(gradients, (current, w_rec)):
                value.set_shape(of.shape)
            return gradients

        return z, gradient

    if w_rec is None:
        _, _, n_directions, n_neurons = current.shape
        w_rec = tf.zeros([n_directions, n_neurons, n_neurons], dtype)
    return function(current, tf.convert_to_tensor(w_rec))
