"""One bidirectional layer of LSTM cells on the CPU: forward and backward pass written out.

A layer in a TensorFlow loop spends its time between the products: dozens of small operations a
frame, each with its own pass over memory, and stacks of intermediate values for automatic
differentiation. Here one compiled loop (Numba; no TensorFlow) does a frame's whole work on a few
utterances while it is in the processor's cache, and the gradient is written by hand. Nothing is
compiled again for another length or batch.

Per direction and frame t in the order in which its cell reads them, with s(x) = 1 / (1 + exp(-x)),
K the kernel [n_in + n, 4 n] and columns in the order i, j, f, o:

    [i j f o]_t = [x_t, m_{t-1}] K + b                                       (1)
    c_t = s(f_t + forget_bias) c_{t-1} + s(i_t) tanh(j_t)                    (2)
    m_t = s(o_t) tanh(c_t)                                                   (3)

and the gradient, with g_t the derivative of the loss by m_t from everything above the layer, and
I = s(i), J = tanh(j), F = s(f + forget_bias), O = s(o), H = tanh(c):

    BPTT    [dx_t, mbar_{t-1} - g_{t-1}] = delta_t K^T                       (4)
    e-prop  mbar_t = g_t, and no gradient for x                              (5)
    cbar_t = mbar_t O_t (1 - H_t^2) + F_{t+1} cbar_{t+1}                     (6)
    delta^i_t = cbar_t J_t I_t (1 - I_t),   delta^j_t = cbar_t I_t (1 - J_t^2)
    delta^f_t = cbar_t c_{t-1} F_t (1 - F_t),   delta^o_t = mbar_t H_t O_t (1 - O_t)   (7)
    dK = sum of [x_t, m_{t-1}]^T delta_t,   db = sum of delta_t              (8)

E-prop is BPTT without the product (4): what a cell's output does to the other cells is cut, what
stays in the cell, (6), is not.

    symbol  name here               shape
    x       inputs                  [batch, frames, n_in]
    K, b    kernel, bias            [directions, n_in + n, 4 n], [directions, 4 n]
    m       outputs                 [batch, frames, directions, n]
    I J F O gates                   [batch, frames, directions, 4 n]
    c       cells                   [batch, frames, directions, n]

How it is made fast, and small:
- Input and recurrent weights are one product, (1), and so are their gradients, (8), which are
  summed up a block of frames at a time: delta is never stored for all of them.
- The batch is sorted by length and cut into groups of `GROUP` utterances, which walk through time
  together and share each load of the weights. Padding is neither computed nor touched.
- exp is a polynomial and a shift, in which nothing hinders vector instructions; all sums are taken
  in a fixed order, whatever the number of threads.
- Of the forward pass only the gates' values, c and m are kept: 24 bytes a cell and frame.

The groups of both directions run in the threads of `event_driven.run_chunks`.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numba.np.numpy_support import as_dtype

from layers.arguments import aligned_empty, checked_array, checked_directions, checked_lengths
from layers.compiling import compiled
from layers.threads import run_chunks

RULES = ("bptt", "eprop")
GROUP = 4  # utterances that go through time together, the rows of `_add_product`'s tile
BLOCK_FRAMES = 16  # whose delta, for a group, should fit a level-2 cache beside the kernel


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass beside its input; not set in padding."""

    gates: np.ndarray  # [batch, frames, directions, 4 n]: I, J, F, O
    cells: np.ndarray  # [batch, frames, directions, n]


class Forward(NamedTuple):
    """Result of `forward`."""

    outputs: np.ndarray  # [batch, frames, directions, n]; 0 in the padding
    saved: Saved


class Gradients(NamedTuple):
    """Result of `backward`."""

    inputs: np.ndarray  # [batch, frames, n_in]; 0 in the padding, and everywhere under e-prop
    kernel: np.ndarray  # [directions, n_in + n, 4 n]
    bias: np.ndarray  # [directions, 4 n]


def forward(inputs, kernel, bias, forget_bias=1.0, seq_len=None, reverse=None):
    """Run a layer.

    Args:
        inputs: float32 or float64 [batch, frames, n_in].
        kernel: [directions, n_in + n, 4 n].
        bias: [directions, 4 n].
        forget_bias: added to the forget gate, (2).
        seq_len: integers [batch], each utterance's frames; None: all.
        reverse: a bool per direction: whether it reads the utterance from its last frame to its
            first. Everything returned is in the utterance's own order. None: no direction does.

    Returns:
        `Forward`, with floats of the type of `inputs`.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    layer = _checked_layer(inputs, kernel, bias, forget_bias, seq_len, reverse)
    dtype = layer.inputs.dtype
    of_cells, of_gates = _shapes(layer)
    outputs = aligned_empty(of_cells, dtype)
    saved = Saved(aligned_empty(of_gates, dtype), aligned_empty(of_cells, dtype))

    def run(direction, first, last):
        _forward_group(layer, direction, first, last, outputs, saved)

    for _ in run_chunks(run, _groups(layer)):
        pass
    return Forward(outputs, saved)


def backward(forward_result, grad_outputs, inputs, kernel, bias, rule, seq_len=None, reverse=None):
    """Gradients of a loss by the layer's input and weights.

    Args:
        forward_result: `Forward` of `forward` with the same `inputs`, `kernel`, `bias`, `seq_len`
            and `reverse`.
        grad_outputs: [batch, frames, directions, n], derivative of the loss by
            `Forward.outputs`; not read in the padding.
        rule: "bptt" for equation (4), "eprop" for (5).

    Returns:
        `Gradients`.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {RULES}")
    layer = _checked_layer(inputs, kernel, bias, 0, seq_len, reverse)
    dtype = layer.inputs.dtype
    of_cells, of_gates = _shapes(layer)
    result = Forward(
        checked_array("outputs", forward_result.outputs, dtype, of_cells),
        Saved(
            checked_array("saved.gates", forward_result.saved.gates, dtype, of_gates),
            checked_array("saved.cells", forward_result.saved.cells, dtype, of_cells),
        ),
    )
    grad_outputs = checked_array("grad_outputs", grad_outputs, dtype, of_cells)
    is_bptt = rule == "bptt"
    kernel_t = np.ascontiguousarray(layer.kernel.transpose(0, 2, 1))
    of_inputs = np.zeros((len(layer.reverse) if is_bptt else 1, *layer.inputs.shape), dtype)
    of_kernel, of_bias = np.zeros(layer.kernel.shape, dtype), np.zeros(layer.bias.shape, dtype)

    def sweep(direction, first, last):
        # Utterances have rows of their own in the input's gradient, the weights' are summed.
        of_group = Gradients(of_inputs, np.zeros_like(of_kernel[0]), np.zeros_like(of_bias[0]))
        _backward_group(
            layer, kernel_t, direction, first, last, is_bptt, result, grad_outputs, of_group
        )
        return direction, of_group

    for direction, of_group in run_chunks(sweep, _groups(layer)):
        of_kernel[direction] += of_group.kernel
        of_bias[direction] += of_group.bias
    return Gradients(of_inputs.sum(0), of_kernel, of_bias)


class _Layer(NamedTuple):
    """Checked arguments of a call, in the form the kernels take."""

    inputs: np.ndarray  # [batch, frames, n_in]
    kernel: np.ndarray  # [directions, n_in + n, 4 n]
    bias: np.ndarray  # [directions, 4 n], that of the forget gate included
    n_frames: np.ndarray  # int64 [batch]
    order: np.ndarray  # int64 [batch], utterances from the longest to the shortest
    reverse: np.ndarray  # bool [directions]


def _checked_layer(inputs, kernel, bias, forget_bias, seq_len, reverse):
    """`_Layer` of the arguments of `forward` and `backward`."""
    dtype = np.asarray(inputs).dtype
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"inputs is {dtype}, expected float32 or float64")
    if np.ndim(inputs) != 3 or np.ndim(kernel) != 3:
        raise ValueError(
            f"inputs has shape {np.shape(inputs)} and kernel {np.shape(kernel)}, expected "
            "[batch, frames, n_in] and [directions, n_in + n, 4 n]"
        )
    batch, frames, n_in = np.shape(inputs)
    directions, n_rows, n_columns = np.shape(kernel)
    n = n_rows - n_in
    if n < 1 or n_columns != 4 * n:
        raise ValueError(
            f"kernel has shape {np.shape(kernel)}, with {n_in} inputs expected "
            "[directions, n_in + n, 4 n]"
        )
    bias = np.array(checked_array("bias", bias, dtype, (directions, n_columns)))
    bias[:, 2 * n : 3 * n] += dtype.type(forget_bias)
    n_frames = checked_lengths(seq_len, batch, frames)
    return _Layer(
        inputs=checked_array("inputs", inputs, dtype, (batch, frames, n_in)),
        kernel=checked_array("kernel", kernel, dtype, (directions, n_rows, n_columns)),
        bias=bias,
        n_frames=n_frames,
        order=np.argsort(-n_frames, kind="stable"),
        reverse=checked_directions(reverse, directions),
    )


def _shapes(layer):
    """Shapes of what has a value a cell, and four values a cell."""
    directions, n_columns = layer.bias.shape
    leading = (*layer.inputs.shape[:2], directions)
    return (*leading, n_columns // 4), (*leading, n_columns)


def _groups(layer):
    """(direction, first, last) of the utterances in `order` that go through time together."""
    batch, directions = len(layer.n_frames), len(layer.reverse)
    return [
        (direction, first, min(first + GROUP, batch))
        for first in range(0, batch, GROUP)  # the longest first: they are waited for
        for direction in range(directions)
    ]


# Kernels. Fused multiplications and additions, but no other order of operations; NaN stays NaN.
# Integers in an expression would make Numba compute it in float64.
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
_compiled = compiled(**_OPTIONS)
_ONE, _TWO = np.float32(1), np.float32(2)  # exact, and leaves float32 and float64 what they are


@_compiled
def _forward_group(layer, direction, first, last, outputs, saved):
    """Equations (1)-(3) for utterances order[first:last] of a direction."""
    kernel, bias = layer.kernel[direction], layer.bias[direction]
    n_in, n = layer.inputs.shape[2], bias.size // 4
    pre_gates = np.empty((GROUP, 4 * n), bias.dtype)
    pre_synaptic = np.zeros((GROUP, n_in + n), bias.dtype)  # [x_t, m_{t-1}]
    cells = np.zeros((GROUP, n), bias.dtype)
    squashed = np.empty(n, bias.dtype)
    for t in range(layer.n_frames[layer.order[first]]):
        for r in range(last - first):
            b = layer.order[first + r]
            if t < layer.n_frames[b]:
                place = _place(t, layer.n_frames[b], layer.reverse[direction])
                pre_synaptic[r, :n_in] = layer.inputs[b, place]
        for r in range(GROUP):
            pre_gates[r] = bias
        _add_product(pre_gates, pre_synaptic, kernel)
        for r in range(last - first):
            b = layer.order[first + r]
            if t < layer.n_frames[b]:
                place = _place(t, layer.n_frames[b], layer.reverse[direction])
                gates, cell = saved.gates[b, place, direction], cells[r]
                _sigmoid_of_all(pre_gates[r, :n], gates[:n])
                _tanh_of_all(pre_gates[r, n : 2 * n], gates[n : 2 * n])
                _sigmoid_of_all(pre_gates[r, 2 * n :], gates[2 * n :])
                for k in range(n):
                    cell[k] = gates[2 * n + k] * cell[k] + gates[k] * gates[n + k]
                saved.cells[b, place, direction] = cell
                _tanh_of_all(cell, squashed)
                output = outputs[b, place, direction]
                for k in range(n):
                    output[k] = gates[3 * n + k] * squashed[k]
                pre_synaptic[r, n_in:] = output
    for r in range(first, last):
        outputs[layer.order[r], layer.n_frames[layer.order[r]] :, direction] = 0


@_compiled
def _backward_group(
    layer, kernel_t, direction, first, last, is_bptt, result, grad_outputs, gradients
):
    """Equations (4)-(8) for utterances order[first:last] of a direction, backwards in time."""
    outputs, saved = result
    n_in, n = layer.inputs.shape[2], outputs.shape[3]
    dtype = layer.bias.dtype
    deltas = np.empty((GROUP * BLOCK_FRAMES, 4 * n), dtype)
    pre_synaptic = np.empty((GROUP * BLOCK_FRAMES, n_in + n), dtype)
    sent_back = np.zeros((GROUP, n_in + n), dtype)  # (4)
    mbar, squashed, last_cell = np.empty(n, dtype), np.empty(n, dtype), np.empty(n, dtype)
    cbar = np.zeros((GROUP, n), dtype)
    longest = layer.n_frames[layer.order[first]]
    for block_start in range((longest - 1) // BLOCK_FRAMES * BLOCK_FRAMES, -1, -BLOCK_FRAMES):
        block_frames = min(BLOCK_FRAMES, longest - block_start)
        n_rows = GROUP * block_frames
        deltas[:n_rows] = 0
        pre_synaptic[:n_rows] = 0
        for t in range(block_start + block_frames - 1, block_start - 1, -1):
            row = GROUP * (t - block_start)
            for r in range(last - first):
                b = layer.order[first + r]
                if t >= layer.n_frames[b]:
                    continue
                place = _place(t, layer.n_frames[b], layer.reverse[direction])
                mbar[:] = grad_outputs[b, place, direction]
                if is_bptt:
                    for k in range(n):
                        mbar[k] += sent_back[r, n_in + k]
                pre_synaptic[row + r, :n_in] = layer.inputs[b, place]
                last_cell[:] = 0
                if t > 0:
                    before = _place(t - 1, layer.n_frames[b], layer.reverse[direction])
                    pre_synaptic[row + r, n_in:] = outputs[b, before, direction]
                    last_cell[:] = saved.cells[b, before, direction]
                _tanh_of_all(saved.cells[b, place, direction], squashed)
                gates = saved.gates[b, place, direction]
                _cell_gradient(gates, last_cell, squashed, mbar, cbar[r], deltas[row + r])
            if is_bptt:
                sent_back[:] = 0
                _add_product(sent_back, deltas[row : row + GROUP], kernel_t[direction])
                for r in range(last - first):
                    b = layer.order[first + r]
                    if t < layer.n_frames[b]:
                        place = _place(t, layer.n_frames[b], layer.reverse[direction])
                        gradients.inputs[direction, b, place] = sent_back[r, :n_in]
        _add_product(gradients.kernel, pre_synaptic[:n_rows].T, deltas[:n_rows])
        for row in range(n_rows):
            _add_multiple(gradients.bias, _ONE, deltas[row])


@_compiled
def _cell_gradient(gates, last_cell, squashed, mbar, cbar, delta):
    """(6), except for the factor F that the frame before applies, and (7)."""
    n = cbar.size
    i, j, f, o = gates[:n], gates[n : 2 * n], gates[2 * n : 3 * n], gates[3 * n :]
    of_i, of_j = delta[:n], delta[n : 2 * n]
    of_f, of_o = delta[2 * n : 3 * n], delta[3 * n :]
    # A loop for each result: with more arrays in one, it would not become vector instructions.
    for k in range(n):
        of_o[k] = mbar[k] * squashed[k] * (o[k] - o[k] * o[k])
    for k in range(n):
        cbar[k] += mbar[k] * (o[k] - o[k] * squashed[k] * squashed[k])
    for k in range(n):
        of_i[k] = cbar[k] * j[k] * (i[k] - i[k] * i[k])
    for k in range(n):
        of_j[k] = cbar[k] * (i[k] - i[k] * j[k] * j[k])
    for k in range(n):
        of_f[k] = cbar[k] * last_cell[k] * (f[k] - f[k] * f[k])
    for k in range(n):
        cbar[k] *= f[k]


@_compiled
def _add_product(out, a, b):
    """out += a b, with sums in the order of b's rows.

    Four rows of `out` share each load of `b`, and stay in the nearest cache while eight rows of
    `b` at a time pass by.
    """
    n_rows, n_inner, n_columns = a.shape[0], b.shape[0], b.shape[1]
    for r in range(0, n_rows - 3, 4):
        out0, out1, out2, out3 = out[r], out[r + 1], out[r + 2], out[r + 3]
        for k in range(0, n_inner - 7, 8):
            a0, a1 = _eight_of_row(a, r, k), _eight_of_row(a, r + 1, k)
            a2, a3 = _eight_of_row(a, r + 2, k), _eight_of_row(a, r + 3, k)
            for c in range(n_columns):
                bc = _eight_of_column(b, k, c)
                out0[c] += _inner_product(a0, bc)
                out1[c] += _inner_product(a1, bc)
                out2[c] += _inner_product(a2, bc)
                out3[c] += _inner_product(a3, bc)
        for k in range(n_inner - n_inner % 8, n_inner):
            for i in range(r, r + 4):
                _add_multiple(out[i], a[i, k], b[k])
    for r in range(n_rows - n_rows % 4, n_rows):
        for k in range(n_inner):
            _add_multiple(out[r], a[r, k], b[k])


@_compiled
def _eight_of_row(x, r, c):
    """Eight neighbours from x[r, c] on, as a tuple: registers hold it."""
    first = x[r, c], x[r, c + 1], x[r, c + 2], x[r, c + 3]
    return *first, x[r, c + 4], x[r, c + 5], x[r, c + 6], x[r, c + 7]


@_compiled
def _eight_of_column(x, r, c):
    first = x[r, c], x[r + 1, c], x[r + 2, c], x[r + 3, c]
    return *first, x[r + 4, c], x[r + 5, c], x[r + 6, c], x[r + 7, c]


@_compiled
def _inner_product(a, b):
    """Of two tuples of eight."""
    first = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
    return first + a[4] * b[4] + a[5] * b[5] + a[6] * b[6] + a[7] * b[7]


@_compiled
def _add_multiple(out, factor, row):
    for c in range(out.size):
        out[c] += factor * row[c]


@_compiled
def _place(position, length, is_reversed):
    """Where the `position`-th of `length` frames that a direction reads stands in an array."""
    return length - 1 - position if is_reversed else position


@_compiled
def _sigmoid_of_all(x, out):
    for k in range(x.size):
        out[k] = _ONE / (_TWO + _exp_minus_1(-x[k]))


@_compiled
def _tanh_of_all(x, out):
    for k in range(x.size):
        e = _exp_minus_1(_TWO * x[k])
        out[k] = e / (e + _TWO)


def _exp_minus_1(x):
    """exp(x) - 1, precise near 0 too; in compiled code without a branch or a call."""
    return math.expm1(x)


@overload(_exp_minus_1, jit_options=_OPTIONS)
def _exp_minus_1_of_type(x):
    """x = n ln 2 + r with |r| <= ln 2 / 2 gives exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1)."""
    real = as_dtype(x).type
    limits = np.finfo(real)
    # Beyond these, 2^n would leave the normal numbers; the result there is as good as -1 or inf.
    low, high = real(np.log(limits.smallest_normal)), real(np.log(limits.max) - 0.5)
    log2_e, half, one = real(1 / np.log(2)), real(0.5), real(1)
    ln2_high = real(0.693359375)  # few digits: n times it is exact
    ln2_low = real(-2.121944400546905827679e-4)
    c = tuple(real(1 / math.factorial(k)) for k in range(14))

    def implementation(x):
        x = low if x < low else high if x > high else x  # this way round a NaN stays one
        n = np.floor(x * log2_e + half)
        r = x - n * ln2_high - n * ln2_low
        p = c[13]
        p = ((p * r + c[12]) * r + c[11]) * r + c[10]
        p = ((p * r + c[9]) * r + c[8]) * r + c[7]
        p = ((p * r + c[6]) * r + c[5]) * r + c[4]
        p = ((p * r + c[3]) * r + c[2]) * r + c[1]
        scale = _power_of_two(n)
        return scale * (p * r) + (scale - one)

    return implementation


@intrinsic
def _power_of_two(typing_context, n):
    """2^n of a float that is an integer: its bits go into the exponent."""
    width, mantissa, bias = {types.float32: (32, 23, 127), types.float64: (64, 52, 1023)}[n]

    def generate(context, builder, signature, arguments):
        integer = ir.IntType(width)
        exponent = builder.add(builder.fptosi(arguments[0], integer), integer(bias))
        return builder.bitcast(builder.shl(exponent, integer(mantissa)), arguments[0].type)

    return n(n), generate
