"""The fused LSTM layer against NumPy, explicit eligibility traces, tangents and itself."""

import re
from typing import NamedTuple

import numpy as np
import pytest
from compiled import assert_equal_for_any_number_of_threads_and_callers, llvm_code, peak_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

import eprop
from helpers import assert_close
from layers import fused_lstm

FORGET_BIAS = 1.0


# A plain implementation: a frame of one direction of one utterance, equation by equation.


class Trajectory(NamedTuple):
    """All of a plain run, each [frames, ...]."""

    pre: np.ndarray  # [x_t, m_{t-1}]
    gates: np.ndarray  # [frames, 4, n] before their non-linearities, forget bias included
    c: np.ndarray
    m: np.ndarray


def plain_step(x, c, m, kernel, bias):
    """What one frame adds to a Trajectory; x: [n_in], real or complex."""
    pre = np.concatenate([x, m])
    i, j, f, o = gates = (pre @ kernel + bias).reshape(4, -1)
    f += FORGET_BIAS
    c = c / (1 + np.exp(-f)) + np.tanh(j) / (1 + np.exp(-i))
    return Trajectory(pre, gates, c, np.tanh(c) / (1 + np.exp(-o)))


class Case(NamedTuple):
    """Arguments of a call."""

    inputs: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    seq_len: np.ndarray
    reverse: tuple
    grad_outputs: np.ndarray

    def forward(self):
        return fused_lstm.forward(
            self.inputs, self.kernel, self.bias, FORGET_BIAS, self.seq_len, self.reverse
        )

    def backward(self, result, rule):
        return fused_lstm.backward(
            result,
            self.grad_outputs,
            self.inputs,
            self.kernel,
            self.bias,
            rule,
            self.seq_len,
            self.reverse,
        )

    def trajectories(self, result):
        """For each utterance and direction: (b, d, frames in the cell's order, Trajectory).

        What each frame adds, by the plain equations, to the engine's own state before it. Large
        weights make the cells chaotic: within 26 frames, sums in another order become other
        outputs. From the same state nothing is amplified. An imaginary part goes on as it is.
        """
        for b, length in enumerate(self.seq_len):
            for d, is_reversed in enumerate(self.reverse):
                frames = np.arange(length)[:: -1 if is_reversed else 1]
                c, m = np.zeros((2, self.grad_outputs.shape[-1]))
                steps = []
                for f in frames:
                    step = plain_step(self.inputs[b, f], c, m, self.kernel[d], self.bias[d])
                    steps.append(step)
                    c, m = result.saved.cells[b, f, d], result.outputs[b, f, d]
                    if np.iscomplexobj(step.m):
                        c, m = c + 1j * step.c.imag, m + 1j * step.m.imag
                if steps:
                    yield b, d, frames, Trajectory(*map(np.array, zip(*steps)))


def make_case(seed, batch=3, frames=20, directions=2, n_in=5, n=7, scale=1.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    case = Case(
        inputs=rng.normal(size=(batch, frames, n_in)),
        kernel=scale * rng.normal(size=(directions, n_in + n, 4 * n)) / np.sqrt(n_in + n),
        bias=scale * rng.normal(size=(directions, 4 * n)),
        seq_len=rng.permutation(np.append(rng.integers(0, frames + 1, batch - 1), frames)),
        reverse=(False, True, True)[:directions],
        grad_outputs=rng.normal(size=(batch, frames, directions, n)),
    )
    floats = {k: v.astype(dtype) for k, v in case._asdict().items() if k in FLOATS}
    return case._replace(**floats)


FLOATS = ("inputs", "kernel", "bias", "grad_outputs")


SIZES = {
    "seed": st.integers(0, 2**32 - 1),
    "batch": st.integers(1, 10),
    "frames": st.integers(0, 40),
    "directions": st.integers(1, 3),
    "n_in": st.integers(1, 20),
    "n": st.integers(1, 40),
    "scale": st.sampled_from([0.0, 0.3, 1.0, 30.0]),
}
EPS = np.finfo(float).eps
# With weights of 30 nearly all gates are 0 or 1, and of 1 - s(x)^2 only rounding is left: some EPS,
# times states and signals of some 10, summed over some 100 frames.
SATURATED = 1e-12


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_outputs_and_eprop_equal_plain_recursions_and_explicit_traces(**arguments):
    case = make_case(**arguments)
    result = case.forward()
    gradients = case.backward(result, "eprop")
    is_padding = np.ones(result.outputs.shape[:2], bool)
    of_kernel, of_bias = np.zeros(case.kernel.shape), np.zeros(case.bias.shape)
    for b, d, frames, (pre, gates, c, m) in case.trajectories(result):
        # The gates' errors are EPS of the sums of these sizes; in c they are multiplied by at most
        # the c before, or by 1. A third of an EPS was the most that was seen in 400 cases.
        sums = abs(pre) @ abs(case.kernel[d]) + abs(case.bias[d])
        before = np.pad(abs(c), [(1, 0), (0, 0)])[:-1]
        tolerance = 4 * EPS * (1 + sums.max(axis=1, keepdims=True)) * (1 + before)
        assert np.all(abs(result.saved.cells[b, frames, d] - c) <= tolerance)
        assert np.all(abs(result.outputs[b, frames, d] - m) <= tolerance)
        ones = np.ones((len(frames), 1))
        traces = eprop.lstm_traces(np.concatenate([pre, ones], axis=1)[None], gates[None], c[None])
        traced = eprop.traced_gradient(traces, case.grad_outputs[b, frames, d][None])
        traced = traced.reshape(len(traced), -1)
        of_kernel[d] += traced[:-1]
        of_bias[d] += traced[-1]
        is_padding[b, frames] = False
    assert not result.outputs[is_padding].any()
    for found, expected in ((gradients.kernel, of_kernel), (gradients.bias, of_bias)):
        tolerance = 1e-12 * np.max(abs(expected)) + SATURATED
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert not gradients.inputs.any()


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_bptt_is_the_derivative(**arguments):
    """Along a random direction, by a complex step: exact, as nothing is subtracted."""
    case = make_case(**arguments)
    result = case.forward()
    rng = np.random.default_rng(0)
    step = 1e-100
    along = {name: rng.normal(size=getattr(case, name).shape) for name in FLOATS[:3]}
    moved = {name: getattr(case, name) + 1j * step * direction for name, direction in along.items()}
    expected = size = 0.0
    for b, d, frames, trajectory in case._replace(**moved).trajectories(result):
        change = trajectory.m.imag / step * case.grad_outputs[b, frames, d]
        expected += change.sum()
        size += abs(change).sum()
    gradients = case.backward(result, "bptt")
    found = sum(np.sum(g * along[name]) for g, name in zip(gradients, FLOATS))
    # Both follow one trajectory: 2e-14 of the size was the most that was seen in 400 cases.
    assert abs(found - expected) <= 1e-11 * size + SATURATED


def test_the_cases_are_alive():
    case = make_case(1)
    result = case.forward()
    bptt, eprop_gradients = (case.backward(result, rule) for rule in fused_lstm.RULES)
    for name in ("kernel", "bias"):
        one, other = getattr(bptt, name), getattr(eprop_gradients, name)
        assert np.linalg.norm(one) > 1 and np.linalg.norm(other) > 1
        assert np.linalg.norm(one - other) > 0.1 * np.linalg.norm(other)
    assert np.linalg.norm(bptt.inputs) > 1
    assert 0.1 < np.std(result.outputs) < 1


@pytest.mark.parametrize("rule", fused_lstm.RULES)
def test_float32(rule):
    exact = make_case(4, batch=6, frames=60, n=33, dtype=np.float64)
    case = make_case(4, batch=6, frames=60, n=33, dtype=np.float32)
    result, expected = case.forward(), exact.forward()
    assert result.outputs.dtype == np.float32
    assert_close(result.outputs, expected.outputs, 1e-5)
    for found, reference in zip(case.backward(result, rule), exact.backward(expected, rule)):
        assert found.dtype == np.float32
        assert_close(found, reference, 1e-4)


def test_padding_is_neither_computed_nor_read():
    case = make_case(3, batch=5)._replace(seq_len=[20, 7, 0, 13, 1])
    inputs, grad_outputs = case.inputs.copy(), case.grad_outputs.copy()
    for b, length in enumerate(case.seq_len):
        inputs[b, length:] = np.nan
        grad_outputs[b, length:] = np.nan
    padded = case._replace(inputs=inputs, grad_outputs=grad_outputs)
    result = padded.forward()
    for rule in fused_lstm.RULES:
        gradients = padded.backward(result, rule)
        kernel = np.zeros(case.kernel.shape)
        for b, length in enumerate(case.seq_len):
            alone = case._replace(
                inputs=case.inputs[b : b + 1, :length],
                seq_len=None,
                grad_outputs=case.grad_outputs[b : b + 1, :length],
            )
            alone_result = alone.forward()
            alone_gradients = alone.backward(alone_result, rule)
            np.testing.assert_array_equal(result.outputs[b, :length], alone_result.outputs[0])
            np.testing.assert_array_equal(gradients.inputs[b, :length], alone_gradients.inputs[0])
            assert not result.outputs[b, length:].any()
            assert not gradients.inputs[b, length:].any()
            kernel += alone_gradients.kernel
        np.testing.assert_allclose(gradients.kernel, kernel, atol=1e-12 * abs(kernel).max())


def test_nan_stays_visible():
    """A diverged input must not turn into a clean number."""
    case = make_case(10)._replace(seq_len=None)
    case.inputs[0, 3, 2] = np.nan
    result = case.forward()
    assert np.isnan(result.outputs[0, 3:, 0]).all() and np.isnan(result.outputs[0, :4, 1]).all()
    assert np.isfinite(result.outputs[1:]).all()
    for rule in fused_lstm.RULES:
        assert np.isnan(case.backward(result, rule).kernel).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squashing_functions(dtype):
    """Within three units in the last place of SciPy's and NumPy's, also near 0 and far out."""
    x = np.concatenate([np.linspace(-60, 60, 40001), np.logspace(-12, 0, 1001)]).astype(dtype)
    exact = x.astype(np.longdouble)
    tolerance = 3 * np.finfo(dtype).eps
    found = np.empty_like(x)
    fused_lstm._tanh_of_all(x, found)
    np.testing.assert_allclose(found, np.tanh(exact), rtol=tolerance)
    fused_lstm._sigmoid_of_all(x, found)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-exact)), rtol=tolerance)
    ends = np.array([-np.inf, np.inf, np.nan, -1e30, 1e30], dtype)
    found = np.empty_like(ends)
    fused_lstm._tanh_of_all(ends, found)
    np.testing.assert_array_equal(found, [-1, 1, np.nan, -1, 1])
    fused_lstm._sigmoid_of_all(ends, found)
    np.testing.assert_allclose(found, [0, 1, np.nan, 0, 1], atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("rows, inner, columns", [(4, 8, 16), (3, 7, 5), (13, 29, 17), (0, 8, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_product(rows, inner, columns, transposed):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(inner, rows)).T if transposed else rng.normal(size=(rows, inner))
    b, out = rng.normal(size=(inner, columns)), rng.normal(size=(rows, columns))
    expected = out + a @ b
    fused_lstm._add_product(out, a, b)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)


def forward_and_backward(case):
    """All arrays of a call of each function, but for what the padding of `Saved` holds."""
    result = case.forward()
    gradients = [case.backward(result, rule) for rule in fused_lstm.RULES]
    return [result.outputs, *gradients[0], *gradients[1]]


def test_equal_for_any_number_of_threads_and_callers(monkeypatch):
    cases = [make_case(seed, batch=11, n=16) for seed in range(3)]
    assert_equal_for_any_number_of_threads_and_callers(forward_and_backward, cases, monkeypatch)


def test_nothing_is_compiled_again_for_other_sizes():
    forward_and_backward(make_case(0))
    kernels = [fused_lstm._forward_group, fused_lstm._backward_group]
    compiled = [len(kernel.signatures) for kernel in kernels]
    for sizes in ({"batch": 1}, {"frames": 33}, {"directions": 1}, {"n_in": 1, "n": 2}):
        forward_and_backward(make_case(1, **sizes))
    assert [len(kernel.signatures) for kernel in kernels] == compiled


@pytest.mark.parametrize("rule", fused_lstm.RULES)
def test_memory(rule):
    """24 bytes a cell and frame, and little beside: the weights' gradients of a few groups."""
    case = make_case(0, batch=16, frames=400, n=64, dtype=np.float32)._replace(seq_len=None)
    peak = peak_bytes(lambda: case.backward(case.forward(), rule))
    assert peak < 28 * case.grad_outputs.size


@pytest.mark.parametrize("width", [types.float32, types.float64])
@pytest.mark.parametrize("kernel", ["_sigmoid_of_all", "_tanh_of_all", "_cell_gradient"])
def test_loops_over_cells_are_vector_instructions(kernel, width):
    """In the optimised code there is arithmetic on vectors, and none in a wider type."""
    n_arguments = 6 if kernel == "_cell_gradient" else 2
    code = llvm_code(getattr(fused_lstm, kernel), [width[::1]] * n_arguments)
    name = {types.float32: "float", types.float64: "double"}[width]
    for operation in ("fadd", "fmul"):
        assert re.search(rf"= {operation} [a-z ]*<\d+ x {name}>", code)
    assert "fpext" not in code and "@expm1" not in code


def test_the_product_is_made_of_vector_instructions():
    matrix = types.float32[:, ::1]
    code = llvm_code(fused_lstm._add_product, [matrix] * 3)
    assert re.search(r"= fmul [a-z ]*<\d+ x float>", code)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"inputs": np.zeros((2, 3, 5), np.float16)}, "float16"),
        ({"inputs": np.zeros((2, 3))}, "(2, 3)"),
        ({"kernel": np.zeros((2, 12, 24))}, "kernel has shape (2, 12, 24), with 5 inputs"),
        ({"kernel": np.zeros((2, 5, 0))}, "kernel has shape (2, 5, 0)"),
        ({"bias": np.zeros((2, 24))}, "bias has shape (2, 24), expected (2, 28)"),
        ({"seq_len": [4, 1]}, "seq_len is [4, 1], expected 2 numbers from 0 to 3"),
        ({"reverse": (True,)}, "reverse has shape (1,)"),
        ({"grad_outputs": np.zeros((2, 3, 2, 5))}, "grad_outputs"),
        ({"inputs": np.zeros((2, 4, 5))}, "outputs has shape (2, 3, 2, 7)"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    """The kernels check no index, so every shape is checked before."""
    case = make_case(0, batch=2, frames=3)
    result = case.forward()
    with pytest.raises(ValueError, match=re.escape(words)):
        case._replace(**change).backward(result, "eprop")


def test_unknown_rule():
    case = make_case(0, batch=1, frames=1)
    with pytest.raises(ValueError, match="'symmetric'.*bptt.*eprop"):
        case.backward(case.forward(), "symmetric")
