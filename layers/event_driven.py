"""One layer of adaptive spiking neurons (ALIF) on the CPU, driven by its spikes.

About one neuron in a hundred spikes in a simulated step, so the recurrent input is not a matrix
product here: each spike adds its row of the recurrent weights. Forward and backward pass are
compiled with Numba, run in parallel over the utterances of a batch and need no TensorFlow. Several
directions (the forward and the backward cell of a bidirectional layer) go through one call. A
layer whose spikes feed another one is run with one step a frame: only then are they all returned.

Dynamics and gradients are equations (1) to (11) of `neurons`, with these names:

    symbol  name here                unit, shape
    x W_in  current                  potential a step, [batch, frames, directions, n]; its gradient is
                                     the sum of delta_t over the frame
    W_rec   w_rec, row = presynaptic potential a spike, [directions, n, n]; its diagonal is ignored
    alpha, rho, beta, thr            of `AlifParameters`, [n]
    z       spike, 1 or 0; what is returned is its mean over each frame's R steps

How it is made fast, and small:
- One pass over the neurons does (2)-(4) for step t and the decays for step t + 1; it has no
  branch and becomes vector instructions. What happens at a spike (its row of W, with -thr as the
  diagonal so that the reset is part of it, the adaptation, the refractoriness) is done for the
  spikes alone, which are found 64 neurons at a time in a row of bits.
- Only those bits are stored, and v and a once in a block of about 64 steps. The backward pass
  computes psi again, block by block, in a buffer that stays in the processor's cache.
- Each sum is taken in a fixed order, whatever the number of threads: equal input, equal output.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from layers.arguments import aligned_empty, checked_array, checked_directions, checked_lengths
from layers.compiling import compiled
from layers.neurons import silent_steps
from layers.threads import pieces, run_chunks

RULES = ("bptt", "eprop")
BLOCK_STEPS = 64  # between two stored states; psi of so many should fit a level-2 cache
WORD_BITS = 64


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass, beside its input."""

    spikes: np.ndarray  # uint64 [batch, steps, directions, words], see `unpack_spikes`
    adaptation_spikes: np.ndarray  # what enters (2): `spikes` itself unless `reference_quirks`
    checkpoints: np.ndarray  # [batch, blocks, directions, 2, n]: v and a where a block begins


class Forward(NamedTuple):
    """Result of `forward`."""

    z_mean: np.ndarray  # [batch, frames, directions, n]; 0 where nothing is simulated
    spike_counts: np.ndarray  # int32 [batch, directions, n]
    saved: Saved


class Gradients(NamedTuple):
    """Result of `backward`."""

    current: np.ndarray  # [batch, frames, directions, n]; 0 where nothing was simulated
    w_rec: np.ndarray  # [directions, n, n] with a zero diagonal


def forward(current, w_rec, parameters, seq_len=None, reverse=None):
    """Simulate a layer.

    Args:
        current: float32 or float64 [batch, frames, directions, n], the input times its weights.
        w_rec: [directions, n, n], not read unless `parameters.rec`.
        parameters: `AlifParameters`.
        seq_len: integers [batch], each utterance's frames; None: all. The simulation ends there,
            except with `parameters.reference_quirks`.
        reverse: a bool per direction: whether it goes through the utterance from its last
            (simulated) frame to its first. Everything returned is in the utterance's own order.
            None: no direction does.

    Returns:
        `Forward`, with floats of the type of `current`.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    layer = _checked_layer(current, w_rec, parameters, seq_len, reverse)
    batch, _, directions, n = layer.current.shape
    bits, states = _saved_shapes(layer)
    z_mean = aligned_empty(layer.current.shape, layer.current.dtype)
    spike_counts = np.zeros((batch, directions, n), np.int32)
    spikes = aligned_empty(bits, np.uint64)
    saved = Saved(
        spikes,
        aligned_empty(bits, np.uint64) if layer.quirks else spikes,
        aligned_empty(states, layer.current.dtype),
    )

    def simulate(direction, first, last):
        _forward_chunk(layer, direction, first, last, z_mean, spike_counts, saved)

    for _ in run_chunks(simulate, _chunks(batch, directions)):
        pass
    return Forward(z_mean, spike_counts, saved)


def backward(saved, grad_z_mean, current, w_rec, parameters, rule, seq_len=None, reverse=None):
    """Gradients of a loss by the input and by the recurrent weights.

    Args:
        saved: `Forward.saved` of `forward` with the same `current`, `w_rec`, `parameters`,
            `seq_len` and `reverse`.
        grad_z_mean: [batch, frames, directions, n], derivative of the loss by `Forward.z_mean`;
            not read where nothing was simulated.
        rule: "bptt" for equation (8), "eprop" for (9).

    Returns:
        `Gradients`.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {RULES}")
    layer = _checked_layer(current, w_rec, parameters, seq_len, reverse)
    saved = _checked_saved(saved, layer)
    batch, _, directions, n = layer.current.shape
    dtype = layer.current.dtype
    grad_z_mean = checked_array("grad_z_mean", grad_z_mean, dtype, layer.current.shape)
    grad_current = aligned_empty(layer.current.shape, dtype)
    grad_w_rec = np.zeros((directions, n, n), dtype)

    def sweep(direction, first, last):
        grad_weights = np.zeros(layer.weights.shape[1:], dtype)
        _backward_chunk(
            layer,
            direction,
            first,
            last,
            rule == "bptt",
            saved,
            grad_z_mean,
            grad_current,
            grad_weights,
        )
        return direction, grad_weights

    for direction, grad_weights in run_chunks(sweep, _chunks(batch, directions)):
        if layer.rec:
            grad_w_rec[direction] += grad_weights
    if parameters.dt_ms != 1:
        grad_w_rec /= dtype.type(parameters.dt_ms)
    grad_w_rec[:, np.arange(n), np.arange(n)] = 0
    return Gradients(grad_current, grad_w_rec)


def live_steps(saved, current, w_rec, parameters, seq_len=None, reverse=None):
    """In how many steps the pseudo-derivative (7) of each neuron is not 0.

    Args:
        saved: `Forward.saved` of `forward` with the same other arguments.

    Returns:
        int64 [batch, directions, n], each at most the utterance's simulated steps.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    layer = _checked_layer(current, w_rec, parameters, seq_len, reverse)
    saved = _checked_saved(saved, layer)
    batch, _, directions, n = layer.current.shape
    counts = np.zeros((batch, directions, n), np.int64)

    def count(direction, first, last):
        _count_live_chunk(layer, direction, first, last, saved, counts)

    for _ in run_chunks(count, _chunks(batch, directions)):
        pass
    return counts


def unpack_spikes(spikes, n):
    """`Saved.spikes` as bytes 0 or 1, uint8 [batch, steps, directions, n]."""
    as_bytes = np.ascontiguousarray(spikes, "<u8").view(np.uint8)
    return np.unpackbits(as_bytes, axis=-1, count=n, bitorder="little")


class _Layer(NamedTuple):
    """Checked arguments of a call, in the form the kernels take."""

    current: np.ndarray  # [batch, frames, directions, n]
    weights: np.ndarray  # [directions, n, n]: what a spike adds to all potentials, reset included
    constants: np.ndarray  # [5, n]: alpha, rho, beta, thr, slope of psi
    n_frames: np.ndarray  # int64 [batch]: simulated frames of each utterance
    reverse: np.ndarray  # bool [directions]
    n_repeat: int
    n_silent: int  # steps after a spike in which there is none
    frame_ms: np.floating  # simulated duration of a frame
    block_frames: int
    quirks: bool
    rec: bool


def layer_constants(parameters, n, dtype):
    """alpha, rho, beta, thr and the slope of psi, [5, n], as the kernels take them."""
    alpha, rho, beta, thr = (
        checked_array(name, getattr(parameters, name), np.float64, (n,))
        for name in ("alpha", "rho", "beta", "thr")
    )
    if not np.all(thr > 0):
        raise ValueError("thr must be above 0 for every neuron")
    constants = aligned_empty((5, n), dtype)
    slope = parameters.dampening_factor / thr**2
    constants[...] = alpha, rho, beta / parameters.dt_ms, thr, slope
    return constants


def _checked_layer(current, w_rec, parameters, seq_len, reverse):
    """`_Layer` of the arguments of `forward` and `backward`."""
    dtype = np.asarray(current).dtype
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"current is {dtype}, expected float32 or float64")
    if np.ndim(current) != 4:
        raise ValueError(
            f"current has shape {np.shape(current)}, expected [batch, frames, directions, n]"
        )
    batch, frames, directions, n = np.shape(current)
    n_repeat, dt_ms = parameters.n_repeat, parameters.dt_ms
    if n_repeat < 1 or dt_ms <= 0:
        raise ValueError(f"n_repeat is {n_repeat} and dt_ms is {dt_ms}, expected above 0")

    constants = layer_constants(parameters, n, dtype)
    weights = aligned_empty((directions, n, n) if parameters.rec else (directions, 0, 0), dtype)
    if parameters.rec:
        w_rec = checked_array("w_rec", w_rec, dtype, weights.shape)
        np.divide(w_rec, dtype.type(dt_ms), out=weights)
        weights[:, np.arange(n), np.arange(n)] = -constants[3]

    return _Layer(
        current=checked_array("current", current, dtype, np.shape(current)),
        weights=weights,
        constants=constants,
        n_frames=checked_lengths(None if parameters.reference_quirks else seq_len, batch, frames),
        reverse=checked_directions(reverse, directions),
        n_repeat=int(n_repeat),
        n_silent=silent_steps(parameters.n_ref, dt_ms),
        frame_ms=dtype.type(n_repeat * dt_ms),
        block_frames=max(1, BLOCK_STEPS // n_repeat),
        quirks=bool(parameters.reference_quirks),
        rec=bool(parameters.rec),
    )


def _saved_shapes(layer):
    """Shapes of the bits and of the checkpoints in `Saved`."""
    batch, frames, directions, n = layer.current.shape
    words, blocks = -(-n // WORD_BITS), -(-frames // layer.block_frames)
    return ((batch, frames * layer.n_repeat, directions, words), (batch, blocks, directions, 2, n))


def _checked_saved(saved, layer):
    """`Saved` of a call with this `_Layer`, in the form the kernels take."""
    bits, states = _saved_shapes(layer)
    return Saved(
        checked_array("saved.spikes", saved.spikes, np.uint64, bits),
        checked_array("saved.adaptation_spikes", saved.adaptation_spikes, np.uint64, bits),
        checked_array("saved.checkpoints", saved.checkpoints, layer.current.dtype, states),
    )


def _chunks(batch, directions):
    """(direction, first, last) of the pieces of work."""
    return [(d, *piece) for d in range(directions) for piece in pieces(batch)]


# Kernels. Without `fastmath` Numba keeps the order of operations, so that a spike does not depend
# on the instruction set; only the gradients may be fused and reordered, and nowhere is NaN assumed
# away. `error_model="numpy"` spares the checks for division by zero, which would be branches.
_exact = compiled()
_fused = compiled(fastmath={"contract"})
_reordered = compiled(fastmath={"contract", "reassoc"})


@_exact
def _forward_chunk(layer, direction, first, last, z_mean, spike_counts, saved):
    """Equations (1)-(6) for utterances first..last-1 of a direction."""
    n, n_repeat, block_frames = layer.current.shape[3], layer.n_repeat, layer.block_frames
    is_reversed = layer.reverse[direction]
    alpha, rho, beta, thr = (
        layer.constants[0],
        layer.constants[1],
        layer.constants[2],
        layer.constants[3],
    )
    weights = layer.weights[direction]
    words = saved.spikes.shape[3]
    # v and a of the next step but for the spikes still to come: alpha v_t + x_{t+1} and rho a_t.
    v_next, a_next = np.empty(n, alpha.dtype), np.empty(n, alpha.dtype)
    above = np.zeros(words * WORD_BITS, np.uint8)
    above_words = above.view(np.uint64)
    index = np.empty(n, np.int64)
    for b in range(first, last):
        n_frames = layer.n_frames[b]
        n_steps = n_frames * n_repeat
        z_mean[b, n_frames:, direction] = 0
        saved.spikes[b, n_steps:, direction] = 0
        saved.adaptation_spikes[b, n_steps:, direction] = 0
        saved.checkpoints[b, (n_frames + block_frames - 1) // block_frames :, direction] = 0
        for f in range(n_frames):
            x = layer.current[b, _place(f, n_frames, is_reversed), direction]
            if f == 0:
                v_next[:] = x
                a_next[:] = 0
            if f % block_frames == 0:
                saved.checkpoints[b, f // block_frames, direction, 0] = v_next
                saved.checkpoints[b, f // block_frames, direction, 1] = a_next
            mean = z_mean[b, _place(f, n_frames, is_reversed), direction]
            mean[:] = 0
            for t in range(f * n_repeat, (f + 1) * n_repeat):
                if t == (f + 1) * n_repeat - 1:
                    next_frame = min(f + 1, n_frames - 1)
                    x = layer.current[b, _place(next_frame, n_frames, is_reversed), direction]
                _step(v_next, a_next, x, alpha, rho, beta, thr, above)
                row = _place(t, n_steps, is_reversed)
                for w in range(words):
                    crossed = _pack(above_words, w)
                    silenced = np.uint64(0)
                    for before in range(max(0, t - layer.n_silent), t):
                        place = _place(before, n_steps, is_reversed)
                        silenced |= saved.spikes[b, place, direction, w]
                    saved.spikes[b, row, direction, w] = crossed & ~silenced
                    if layer.quirks:
                        saved.adaptation_spikes[b, row, direction, w] = crossed
                n_spikes = _set_bits(saved.spikes[b, row, direction], index)
                for m in range(n_spikes):
                    mean[index[m]] += 1
                _receive(weights, thr, v_next, index, n_spikes)
                if layer.quirks:
                    n_spikes = _set_bits(saved.adaptation_spikes[b, row, direction], index)
                for m in range(n_spikes):
                    a_next[index[m]] += 1
            for j in range(n):
                spike_counts[b, direction, j] += np.int32(mean[j])
                mean[j] /= layer.frame_ms


@_exact
def _backward_chunk(
    layer, direction, first, last, bptt, saved, grad_z_mean, grad_current, grad_weights
):
    """Equations (7)-(11) for utterances first..last-1 of a direction, backwards in time."""
    n, n_repeat, block_frames = layer.current.shape[3], layer.n_repeat, layer.block_frames
    is_reversed = layer.reverse[direction]
    alpha, rho, beta = layer.constants[0], layer.constants[1], layer.constants[2]
    psi = np.empty((block_frames * n_repeat, n), alpha.dtype)
    g, own_zbar = np.empty(n, alpha.dtype), np.empty(n, alpha.dtype)
    abar, delta = np.empty(n, alpha.dtype), np.empty(n, alpha.dtype)
    index = np.empty(n, np.int64)
    for b in range(first, last):
        n_frames = layer.n_frames[b]
        n_steps = n_frames * n_repeat
        grad_current[b, n_frames:, direction] = 0
        abar[:] = 0
        delta[:] = 0
        for f in range(n_frames - 1, -1, -1):
            block_start = f // block_frames * block_frames
            block_end = min(block_start + block_frames, n_frames)
            if f == block_end - 1:
                _psi_of_block(layer, direction, b, block_start, block_end, saved, psi, index)
            place = _place(f, n_frames, is_reversed)
            for j in range(n):
                g[j] = grad_z_mean[b, place, direction, j] / layer.frame_ms
            grad_x = grad_current[b, place, direction]
            grad_x[:] = 0
            for t in range((f + 1) * n_repeat - 1, f * n_repeat - 1, -1):
                psi_t = psi[t - block_start * n_repeat]
                zbar = g
                if bptt or layer.quirks:
                    zbar = own_zbar
                    zbar[:] = g
                if bptt:
                    _receive_gradient(layer, direction, zbar, delta, psi_t, index)
                if layer.quirks:
                    _silence(layer, direction, b, t, saved.spikes, zbar, index)
                _step_back(psi_t, zbar, abar, delta, alpha, rho, beta, grad_x)
                if layer.rec and t > 0:
                    row = _place(t - 1, n_steps, is_reversed)
                    n_spikes = _set_bits(saved.spikes[b, row, direction], index)
                    _send(grad_weights, delta, index, n_spikes)


@_exact
def _count_live_chunk(layer, direction, first, last, saved, counts):
    """Steps with psi > 0 of utterances first..last-1 of a direction."""
    n, n_repeat, block_frames = layer.current.shape[3], layer.n_repeat, layer.block_frames
    psi = np.empty((block_frames * n_repeat, n), layer.constants.dtype)
    index = np.empty(n, np.int64)
    for b in range(first, last):
        n_frames, count = layer.n_frames[b], counts[b, direction]
        for start in range(0, n_frames, block_frames):
            end = min(start + block_frames, n_frames)
            _psi_of_block(layer, direction, b, start, end, saved, psi, index)
            for t in range((end - start) * n_repeat):
                for j in range(n):
                    count[j] += psi[t, j] > 0


@_exact
def _psi_of_block(layer, direction, b, block_start, block_end, saved, psi, index):
    """(1)-(3) again from the stored spikes, and (7), for frames block_start..block_end-1."""
    n_frames, n_repeat = layer.n_frames[b], layer.n_repeat
    n_steps = n_frames * n_repeat
    is_reversed = layer.reverse[direction]
    alpha, rho, beta, thr, slope = (
        layer.constants[0],
        layer.constants[1],
        layer.constants[2],
        layer.constants[3],
        layer.constants[4],
    )
    weights = layer.weights[direction]
    v_next = saved.checkpoints[b, block_start // layer.block_frames, direction, 0].copy()
    a_next = saved.checkpoints[b, block_start // layer.block_frames, direction, 1].copy()
    for f in range(block_start, block_end):
        x = layer.current[b, _place(f, n_frames, is_reversed), direction]
        for t in range(f * n_repeat, (f + 1) * n_repeat):
            if t == (f + 1) * n_repeat - 1:
                next_frame = min(f + 1, n_frames - 1)
                x = layer.current[b, _place(next_frame, n_frames, is_reversed), direction]
            psi_t = psi[t - block_start * n_repeat]
            _step_psi(v_next, a_next, x, alpha, rho, beta, thr, slope, psi_t)
            if not layer.quirks:
                _silence(layer, direction, b, t, saved.spikes, psi_t, index)
            row = _place(t, n_steps, is_reversed)
            n_spikes = _set_bits(saved.spikes[b, row, direction], index)
            _receive(weights, thr, v_next, index, n_spikes)
            if layer.quirks:
                n_spikes = _set_bits(saved.adaptation_spikes[b, row, direction], index)
            for m in range(n_spikes):
                a_next[index[m]] += 1


@_exact
def _place(position, length, is_reversed):
    """Where the `position`-th of `length` frames or steps of a direction stands in an array."""
    return length - 1 - position if is_reversed else position


@_exact
def _silence(layer, direction, b, t, spikes, values, index):
    """Set the values of the neurons that are refractory in step t to 0."""
    n_steps = layer.n_frames[b] * layer.n_repeat
    for before in range(max(0, t - layer.n_silent), t):
        row = _place(before, n_steps, layer.reverse[direction])
        n_spikes = _set_bits(spikes[b, row, direction], index)
        for m in range(n_spikes):
            values[index[m]] = 0


@_exact
def _step(v_next, a_next, x, alpha, rho, beta, thr, above):
    """(2)-(4) but for the spikes, and the comparison of (5)."""
    for j in range(v_next.size):
        v = v_next[j]
        a = a_next[j]
        above[j] = v - thr[j] - beta[j] * a > 0
        v_next[j] = alpha[j] * v + x[j]
        a_next[j] = rho[j] * a


@_exact
def _step_psi(v_next, a_next, x, alpha, rho, beta, thr, slope, psi):
    """`_step` with (7) in place of (5)."""
    for j in range(v_next.size):
        v = v_next[j]
        a = a_next[j]
        live = thr[j] - abs(v - thr[j] - beta[j] * a)
        psi[j] = 0 if live < 0 else slope[j] * live  # this way round a NaN stays one
        v_next[j] = alpha[j] * v + x[j]
        a_next[j] = rho[j] * a


@_fused
def _step_back(psi, zbar, abar, delta, alpha, rho, beta, grad_x):
    """(10) and the input's part of (11)."""
    for j in range(delta.size):
        driven = psi[j] * (zbar[j] + abar[j])
        abar[j] = rho[j] * abar[j] - beta[j] * driven
        delta[j] = alpha[j] * delta[j] + driven
        grad_x[j] += delta[j]


@_exact
def _receive(weights, thr, v_next, index, n_spikes):
    """Add what the spikes send to all potentials, and their reset."""
    if not len(weights):  # no recurrent weights: the reset alone
        for m in range(n_spikes):
            v_next[index[m]] -= thr[index[m]]
        return
    for m in range(0, n_spikes - 3, 4):  # four rows share each load of v, in the spikes' order
        i0, i1, i2, i3 = index[m], index[m + 1], index[m + 2], index[m + 3]
        for j in range(v_next.size):
            v_next[j] = (
                v_next[j] + weights[i0, j] + weights[i1, j] + weights[i2, j] + weights[i3, j]
            )
    for m in range(n_spikes - n_spikes % 4, n_spikes):
        i = index[m]
        for j in range(v_next.size):
            v_next[j] += weights[i, j]


@_exact
def _send(grad_weights, delta, index, n_spikes):
    """The weights' part of (11): each spike of the step before adds delta to its row."""
    for m in range(0, n_spikes - 1, 2):  # two rows share each load of delta
        i0, i1 = index[m], index[m + 1]
        for j in range(delta.size):
            grad_weights[i0, j] += delta[j]
            grad_weights[i1, j] += delta[j]
    if n_spikes % 2:
        i = index[n_spikes - 1]
        for j in range(delta.size):
            grad_weights[i, j] += delta[j]


@_reordered
def _receive_gradient(layer, direction, zbar, delta, psi, index):
    """Recurrent term and reset of (8), only where psi is not 0: elsewhere (10) ignores zbar."""
    n = zbar.size
    if not layer.rec:
        for j in range(n):
            zbar[j] -= layer.constants[3, j] * delta[j]
        return
    n_live = 0
    for j in range(n):  # no branch: which neurons are live cannot be foretold
        index[n_live] = j
        n_live += psi[j] != 0
    weights = layer.weights[direction]
    for m in range(0, n_live - 3, 4):  # four rows share each load of delta
        i0, i1, i2, i3 = index[m], index[m + 1], index[m + 2], index[m + 3]
        sum0, sum1, sum2, sum3 = zbar[i0], zbar[i1], zbar[i2], zbar[i3]
        for j in range(n):
            sum0 += weights[i0, j] * delta[j]
            sum1 += weights[i1, j] * delta[j]
            sum2 += weights[i2, j] * delta[j]
            sum3 += weights[i3, j] * delta[j]
        zbar[i0], zbar[i1], zbar[i2], zbar[i3] = sum0, sum1, sum2, sum3
    for m in range(n_live - n_live % 4, n_live):
        i = index[m]
        for j in range(n):
            zbar[i] += weights[i, j] * delta[j]


@_exact
def _pack(above_words, w):
    """64 bytes that are 0 or 1 as the bits of a word, the first as the lowest."""
    bits = np.uint64(0)
    for k in range(8):
        # The product brings the lowest bits of the word's eight bytes together in its top byte.
        byte = (above_words[8 * w + k] * np.uint64(0x0102040810204080)) >> np.uint64(56)
        bits |= byte << np.uint64(8 * k)
    return bits


@_exact
def _set_bits(words, index):
    """Write the positions of the ones in a row of bits to `index`; return how many there are."""
    n_set = 0
    for w in range(words.size):
        bits = words[w]
        while bits != 0:
            index[n_set] = w * WORD_BITS + _trailing_zeros(bits)
            n_set += 1
            bits &= bits - np.uint64(1)
    return n_set


@intrinsic
def _trailing_zeros(typing_context, word):
    """Position of the lowest one of a word that is not 0: one instruction."""

    def generate(context, builder, signature, arguments):
        zero_is_undefined = context.get_constant(types.boolean, True)
        return builder.cttz(arguments[0], zero_is_undefined)

    return types.int64(types.uint64), generate
