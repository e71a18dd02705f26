"""Phone probabilities of sound that comes in pieces, by networks that only look back.

Sound is cut into the same blocks of frames however it comes, and everything behind goes frame by
frame with its state carried over: whatever the pieces are, the answer has the same bits, also where
the whole sound is one piece.

    samples -> `Features` -> `FrontEndStream` -> cells of each layer -> `ReadoutStream` -> softmax

Answers lag behind the sound by 25 ms for a frame's window, two frames for the differences of the
features, up to `BLOCK_FRAMES` - 1 frames for the block, and by the target delay of the training.
"""

import numpy as np
from scipy.special import expit, softmax

from layers import kernels, neurons
from layers.lstm import FORGET_BIAS
from speech.dataset import with_deltas
from speech.facts import FRAME_HOP_SAMPLES, FRAME_LENGTH_SAMPLES
from speech.features import n_frames_of
from speech.recordings import float32_features

BLOCK_FRAMES = 5  # whose features are computed together


def obstacle(network):
    """Why a network cannot be fed in pieces, for a reader; None if it can."""
    config = network.config
    if config.n_directions == 2:
        return "it also listens backward in time (trained without --n_directions=1)"
    if config.reference_quirks:
        return "it was trained with --reference_quirks"
    if not network.is_spiking and (config.peephole or not config.lstm):
        return "its cells are no plain LSTM cells"
    return None


class Listener:
    """A run's network that is fed 16-kHz sound, int16, and answers with probabilities.

    Attributes:
        spikes: of an LSNN's first layer so far, list of [n_repeat, neurons], one a frame.
    """

    def __init__(self, run):
        self._features = Features(run)
        self._front_end = run.front_end and FrontEndStream(run.front_end)
        self._memory = run.network.memory and MemoryStream(run.network.memory)
        cells = AlifCells if run.network.is_spiking else LstmCells
        self._layers = [cells(layer) for layer in run.network.layers]
        self._reads_all = run.network.config.loss_from_all_layers
        self._readout = ReadoutStream(run.network.readout)
        self._state = self._readout.state()
        self._delay = self._n_late = run.flags["target_delay_frames"]
        self.spikes = []

    def feed(self, samples, is_end=False):
        """Probabilities [frames, classes] of the frames whose answer this piece decides.

        The answer to a frame belongs to the one `target_delay_frames` before it; after the end the
        last frame is heard so many times more.
        """
        rows = self._features.feed(samples, is_end)
        if is_end:
            rows = np.concatenate([rows, np.repeat(rows[-1:], self._delay, axis=0)])
        answers = [self._answer(row) for row in rows]
        n_late = min(self._n_late, len(answers))
        self._n_late -= n_late
        n_classes = self._readout.n_classes
        return softmax(np.reshape(answers[n_late:], (-1, n_classes)), axis=1)

    def _answer(self, row):
        """Logits [classes] of a frame's features."""
        if self._front_end:
            row = self._front_end.step(row)
        remembered = self._memory.step(row) if self._memory else np.empty(0, np.float32)
        outputs = [np.concatenate([row, remembered])[np.newaxis]]
        for layer in self._layers:
            outputs.append(layer.frame(outputs[-1]))
        self.spikes.append(outputs[1])
        read = outputs[1:] if self._reads_all else outputs[-1:]
        activity = np.concatenate([output.mean(axis=0) for output in read])
        columns = activity @ self._readout.weights
        return self._readout.logits(self._state, columns, remembered)


class Features:
    """Features of a run's kind, scaled as the training's, of sound that comes in pieces."""

    def __init__(self, run):
        self._kind = ("mfccs", "fbank").index(run.flags["preproc"])
        self._is_log = run.processing["log_filter_banks"]
        self._scaling = run.scaling
        self._samples = np.empty(0, np.int16)  # from the frame before the next one on
        self._n_samples = self._n_frames = 0  # heard, computed
        self._static = np.empty((0, len(run.scaling.static_mean)))  # still needed
        self._n_done = 0  # of these

    def feed(self, samples, is_end=False):
        """The next rows [frames, features] that are certain, float32."""
        self._samples = np.concatenate([self._samples, samples])
        self._n_samples += len(samples)
        rows = np.concatenate([self._static, *self._blocks(is_end)])
        n_certain = len(rows) if is_end else max(len(rows) - 2, self._n_done)  # (1) looks ahead
        features = self._scaling(with_deltas(rows)[self._n_done : n_certain])
        # The differences of the differences look back two frames.
        self._static = rows[max(n_certain - 2, 0) :]
        self._n_done = min(n_certain, 2)
        return features

    def _blocks(self, is_end):
        """Static features [at most BLOCK_FRAMES, static] of the blocks that are complete."""
        while True:
            # A frame before the block is computed too: pre-emphasis looks at the sample before.
            lead = int(self._n_frames > 0)
            n_needed = FRAME_LENGTH_SAMPLES + (BLOCK_FRAMES - 1 + lead) * FRAME_HOP_SAMPLES
            if len(self._samples) < n_needed and not (
                is_end and self._n_frames < n_frames_of(self._n_samples)
            ):
                return
            block = float32_features(self._samples[:n_needed], self._is_log)[self._kind][lead:]
            self._n_frames += len(block)
            self._samples = self._samples[(BLOCK_FRAMES - 1 + lead) * FRAME_HOP_SAMPLES :]
            yield self._scaling.of_static(block)


class FrontEndStream:
    """`lmu.front_end.FrontEnd` of frames that come one by one."""

    def __init__(self, front_end):
        self._front_end = front_end
        self._held = kernels.Stream(front_end.kernels, front_end.projection.shape[1])

    def step(self, row):
        """A frame's features and past, [features + past]."""
        held = self._held.step(row @ self._front_end.projection)
        return np.concatenate([row, held.ravel() / self._front_end.std]).astype(np.float32)


class MemoryStream:
    """A network's memory before its cells, `layers.memories.EncodedMemory`, frame by frame."""

    def __init__(self, memory):
        self._encoders, self._rms = memory.encoders.numpy(), memory.rms.numpy()
        self._held = kernels.Stream(memory.kernels, self._encoders.shape[1])

    def step(self, row):
        """m_f / rms, [channels * order] float32, of a frame's features."""
        return (self._held.step(row @ self._encoders).ravel() / self._rms).astype(np.float32)


class AlifCells:
    """A forward layer of an LSNN, in float32 and with sums in the order of the engine `event`.

    A network that spikes is chaotic: with other rounding, one neuron's spike comes a step earlier or
    later in one of some ten utterances, and others follow.
    """

    def __init__(self, layer):
        parameters = layer.parameters
        arrays = ("alpha", "rho", "beta", "thr")
        self.parameters = parameters._replace(
            **{name: getattr(parameters, name).astype(np.float32) for name in arrays}
        )
        self.w_in = layer.w_in.numpy()[0]
        n = self.w_in.shape[1]
        # What a spike, 1/dt high, adds to all potentials; the reset is on the diagonal.
        self.rows = np.zeros((n, n), np.float32)
        if layer.w_rec is not None:
            self.rows[:] = layer.w_rec.numpy()[0] / np.float32(parameters.dt_ms)
        np.fill_diagonal(self.rows, -self.parameters.thr)
        self.state = neurons.State(*np.zeros((4, n), np.float32))

    def frame(self, rows):
        """Spikes [n_repeat, n] of a frame; rows: features [1, n_in] or spikes [n_repeat, n_in]."""
        currents = np.broadcast_to(rows @ self.w_in, (self.parameters.n_repeat, self.w_in.shape[1]))
        v, z, spikes = self.state.v, self.state.z, np.empty_like(currents)
        for current, now in zip(currents, spikes):
            v *= self.parameters.alpha
            v += current
            for i in np.flatnonzero(z):
                v += self.rows[i]
            neurons.fire(self.state, self.parameters)
            now[:] = z
        return spikes


class LstmCells:
    """A forward layer of LSTM cells."""

    def __init__(self, layer):
        self.kernel, self.bias = (x.numpy()[0].astype(float) for x in (layer.kernel, layer.bias))
        self.c, self.m = np.zeros((2, layer.n_cells))

    def frame(self, rows):
        """Outputs m [1, cells] of a frame, see `layers.lstm`; rows: [1, n_in]."""
        columns = np.concatenate([rows[0], self.m]) @ self.kernel + self.bias
        i, j, f, o = np.split(columns, 4)
        self.c = expit(f + FORGET_BIAS) * self.c + expit(i) * np.tanh(j)
        self.m = expit(o) * np.tanh(self.c)
        return self.m[np.newaxis]


class ReadoutStream:
    """The readout of a network, frame by frame: products, and filters with a state.

    Attributes:
        weights: [n_in, columns] that the activity of a frame is multiplied by.
        n_classes: of the logits.
        n_remembered: what it takes of a memory before the cells.
    """

    def __init__(self, readout):
        self.weights = readout.w_out.numpy().astype(float)
        self.n_classes = self.weights.shape[1]
        self._bias = 0.0 if readout.b_out is None else readout.b_out.numpy().astype(float)
        self._system = readout.filter.state_space()
        if readout.v_out is not None:
            v = readout.v_out.numpy()[0].astype(float)  # [n_in, order, classes]
            self.weights = np.concatenate([self.weights, v.reshape(len(v), -1)], axis=1)
            self._system = kernels.side_by_side(self._system, readout.memory.state_space())
        self._u = np.zeros((0, self.n_classes))
        if readout.u_out is not None:
            self._u = readout.u_out.numpy().astype(float)
        self.n_remembered = len(self._u)

    def state(self):
        """Before the first frame: arrays by name that `logits` changes."""
        return {"states": np.zeros((self._system.n_states, self.n_classes))}

    def logits(self, state, columns, remembered):
        """Logits [classes] of a frame.

        Args:
            state: of the frames before, which is changed.
            columns: [columns], the activity times the weights.
            remembered: of the memory before the cells.
        """
        # The adjoint of the memory, run on what was multiplied first: `layers.memories.recall`.
        a, b, c = self._system
        q = columns.reshape(self._system.order, self.n_classes)
        state["states"][...] = a.T @ state["states"] + c.T @ q
        return b @ state["states"] + self._bias + remembered @ self._u
