"""The event-driven layer against a plain simulation, tangents, recorded vectors and itself."""

import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from compiled import assert_equal_for_any_number_of_threads_and_callers, llvm_code, peak_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types
from plain_alif import plain_backward, plain_forward, without_diagonal

from helpers import LIMIT_S, assert_close
from layers import event_driven
from layers.neurons import AlifParameters

REPOSITORY = os.path.dirname(os.path.dirname(event_driven.__file__))


# All directions of a batch by the plain implementation.


def plain_layer(case):
    """`event_driven.forward` and, for each rule, `backward`, by the plain implementation."""
    p, x, w = case.parameters, case.current, case.w_rec
    batch, frames, directions, n = x.shape
    z_mean, counts = np.zeros(x.shape), np.zeros((batch, directions, n), int)
    spikes = np.zeros((batch, frames * p.n_repeat, directions, n), int)
    grads = {rule: (np.zeros(x.shape), np.zeros(w.shape)) for rule in event_driven.RULES}
    for b in range(batch):
        length = frames if p.reference_quirks else case.seq_len[b]
        for d in range(directions):
            order = slice(None, None, -1 if case.reverse[d] else 1)
            trajectory = plain_forward(x[b, :length, d][order], w[d], p)
            spikes[b, : length * p.n_repeat, d] = (trajectory.z > 0)[order]
            counts[b, d] = (trajectory.z > 0).sum(0)
            by_frame = trajectory.z.reshape(length, p.n_repeat, n)
            z_mean[b, :length, d] = by_frame.mean(1)[order]
            grad_z = np.repeat(case.grad_z_mean[b, :length, d][order], p.n_repeat, 0) / p.n_repeat
            for rule, (grad_x, grad_w) in grads.items():
                by_x, by_w = plain_backward(trajectory, grad_z, w[d], p, rule == "bptt")
                grad_x[b, :length, d] = by_x[order]
                grad_w[d] += by_w
    return z_mean, counts, spikes, grads


class Case(NamedTuple):
    """Arguments of a call."""

    current: np.ndarray
    w_rec: np.ndarray
    parameters: AlifParameters
    seq_len: np.ndarray
    reverse: tuple
    grad_z_mean: np.ndarray

    def forward(self):
        return event_driven.forward(
            self.current, self.w_rec, self.parameters, self.seq_len, self.reverse
        )

    def backward(self, saved, rule):
        return event_driven.backward(
            saved,
            self.grad_z_mean,
            self.current,
            self.w_rec,
            self.parameters,
            rule,
            self.seq_len,
            self.reverse,
        )


def make_case(
    seed, batch=3, frames=20, directions=2, n=24, drive=0.06, recurrent=0.15, **parameters
):
    """A random layer; as it stands, it fires at some 50 Hz with refractoriness at work."""
    rng = np.random.default_rng(seed)
    alpha = np.exp(-1 / rng.choice([10.0, 20.0], n))
    rho = np.exp(-1 / rng.choice([100.0, 200.0], n))
    adaptive = rng.random(n) < 0.5
    settings_ = {"n_repeat": 5, "n_ref": 2} | parameters
    return Case(
        current=drive * rng.normal(size=(batch, frames, directions, n)),
        # The diagonal is far too large on purpose: it must not be noticed.
        w_rec=recurrent * rng.normal(size=(directions, n, n)) / np.sqrt(n) + 5 * np.eye(n),
        parameters=AlifParameters(
            alpha, rho, adaptive * 1.8 * (1 - rho) / (1 - alpha), 0.01 / (1 - alpha), **settings_
        ),
        seq_len=np.append(rng.integers(0, frames + 1, batch - 1), frames),
        reverse=(False, True, True)[:directions],
        grad_z_mean=rng.normal(size=(batch, frames, directions, n)),
    )


def assert_equals_plain(case, tolerance=1e-9):
    """Spikes identical, gradients within `tolerance`; returns the plain gradients."""
    z_mean, counts, spikes, grads = plain_layer(case)
    result = case.forward()
    unpacked = event_driven.unpack_spikes(result.saved.spikes, case.current.shape[-1])
    np.testing.assert_array_equal(unpacked, spikes)
    np.testing.assert_array_equal(result.spike_counts, counts)
    np.testing.assert_allclose(result.z_mean, z_mean, rtol=1e-14)
    for rule, (grad_x, grad_w) in grads.items():
        gradients = case.backward(result.saved, rule)
        assert_close(gradients.current, grad_x, tolerance)
        assert_close(gradients.w_rec, grad_w, tolerance)
    return grads


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 4),
    frames=st.integers(0, 14),
    directions=st.integers(1, 3),
    n=st.integers(1, 64),
    drive=st.sampled_from([0.0, 0.02, 0.06, 0.3, 3.0]),
    recurrent=st.sampled_from([0.0, 0.05, 0.3]),
    n_repeat=st.integers(1, 7),
    n_ref=st.integers(0, 5),
    rec=st.booleans(),
    reference_quirks=st.booleans(),
    dt_ms=st.sampled_from([1.0, 1.0, 0.5, 2.0]),
    dampening_factor=st.sampled_from([0.3, 1.0]),
)
def test_equals_the_plain_implementation(**arguments):
    assert_equals_plain(make_case(**arguments))


@pytest.mark.parametrize("quirks", [False, True])
def test_long_case_across_many_stored_states(quirks):
    case = make_case(5, batch=1, frames=150, reference_quirks=quirks)
    assert case.forward().saved.checkpoints.shape[1] > 8
    assert_equals_plain(case)


def test_the_cases_are_alive():
    """Spikes, silenced crossings, adaptation and live gradients occur, and each rule is its own."""
    case = make_case(1)
    trajectory = plain_forward(case.current[-1, :, 0], case.w_rec[0], case.parameters)
    rate_hz = 1000 * trajectory.z.mean()
    assert 20 < rate_hz < 150
    assert np.sum(trajectory.crossed > trajectory.z) > 20
    grads = assert_equals_plain(case)
    assert 0.1 < np.mean(trajectory.psi > 0) < 0.9
    for grad_x, grad_w in grads.values():
        assert np.linalg.norm(grad_x) > 1 and np.linalg.norm(grad_w) > 1
    for bptt, eprop in zip(grads["bptt"], grads["eprop"]):
        assert np.linalg.norm(bptt - eprop) > 0.1 * np.linalg.norm(eprop)
    with_quirks = case._replace(parameters=case.parameters._replace(reference_quirks=True))
    assert np.any(with_quirks.forward().z_mean[-1] != case.forward().z_mean[-1])


@pytest.mark.parametrize("quirks", [False, True])
def test_live_steps_are_those_of_the_plain_implementation(quirks):
    """Over several stored states, of which the last is shorter, and padding that does not count."""
    case = make_case(8, frames=40, reference_quirks=quirks)._replace(seq_len=[40, 0, 23])
    arguments = case.current, case.w_rec, case.parameters, case.seq_len, case.reverse
    counts = event_driven.live_steps(case.forward().saved, *arguments)
    for b, d in np.ndindex(counts.shape[:2]):
        length = case.current.shape[1] if quirks else case.seq_len[b]
        x = case.current[b, :length, d][:: -1 if case.reverse[d] else 1]
        trajectory = plain_forward(x, case.w_rec[d], case.parameters)
        is_live = trajectory.psi > 0
        if not quirks:
            is_live &= trajectory.is_open > 0
        np.testing.assert_array_equal(counts[b, d], is_live.sum(0))
    assert 0.1 < counts[0].mean() / (40 * case.parameters.n_repeat) < 0.9
    with pytest.raises(ValueError, match="saved.spikes has shape"):
        event_driven.live_steps(case.forward().saved, case.current[:, :30], *arguments[1:3])


@pytest.mark.parametrize("rule", event_driven.RULES)
@pytest.mark.parametrize("quirks", [False, True])
def test_gradients_are_the_tangents_of_the_dynamics(rule, quirks):
    """Forward in time instead of backward: dynamics linearised by hand along a random direction."""
    case = make_case(2, batch=1, directions=1, reference_quirks=quirks)
    p, x, w = case.parameters, case.current[0, :, 0], without_diagonal(case.w_rec[0])
    rng = np.random.default_rng(0)
    dx, dw = rng.normal(size=x.shape), without_diagonal(rng.normal(size=w.shape))
    trajectory = plain_forward(x, w, p)
    z, dz, dcrossed, dv, da = np.zeros((5, len(w)))
    change_of_loss = 0
    for t in range(len(trajectory.z)):
        dcurrent = dx[t // p.n_repeat] + z @ dw
        if rule == "bptt":
            dcurrent = dcurrent + dz @ w - p.thr * dz
        da = p.rho * da + (dcrossed if quirks else dz)
        dv = p.alpha * dv + dcurrent
        dcrossed = trajectory.psi[t] * (dv - p.beta * da)
        dz = dcrossed * trajectory.is_open[t]
        z = trajectory.z[t]
        change_of_loss += case.grad_z_mean[0, t // p.n_repeat, 0] @ dz / p.n_repeat
    gradients = case.backward(case.forward().saved, rule)
    by_gradients = np.sum(gradients.current[0, :, 0] * dx) + np.sum(gradients.w_rec[0] * dw)
    assert abs(change_of_loss) > 1e-3
    assert by_gradients == pytest.approx(change_of_loss, rel=1e-10)


@pytest.mark.parametrize("quirks", [False, True])
def test_float32(quirks):
    """As far as float32 goes, wherever all spikes agree with float64: nearly everywhere."""
    agreeing = 0
    for seed in range(8):
        exact = make_case(seed, reference_quirks=quirks)
        narrow = [array.astype(np.float32) for array in (exact.current, exact.w_rec)]
        case = exact._replace(
            current=narrow[0], w_rec=narrow[1], grad_z_mean=exact.grad_z_mean.astype(np.float32)
        )
        result, expected = case.forward(), exact.forward()
        assert result.z_mean.dtype == np.float32
        if np.array_equal(result.saved.spikes, expected.saved.spikes):
            agreeing += 1
            np.testing.assert_array_equal(result.z_mean, expected.z_mean.astype(np.float32))
            for rule in event_driven.RULES:
                gradients, reference = (
                    c.backward(r.saved, rule) for c, r in ((case, result), (exact, expected))
                )
                assert gradients.current.dtype == gradients.w_rec.dtype == np.float32
                assert_close(gradients.current, reference.current, 1e-4)
                assert_close(gradients.w_rec, reference.w_rec, 1e-4)
    assert agreeing >= 6


@pytest.mark.parametrize("name", ["base_bptt", "rep1_bptt", "spread_bptt", "norec_bptt"])
def test_the_plain_implementation_is_the_recorded_one(golden, name):
    """`verify_eprop` compares the engine itself with all that is recorded."""
    with np.load(os.path.join(golden, f"lsnn_{name}.npz")) as file:
        arrays = {key: v.astype(float) if v.dtype == np.float32 else v for key, v in file.items()}
    setting = json.loads(str(arrays["settings_json"]))
    parameters = AlifParameters(
        *(arrays[key] for key in ("decay_v", "decay_b", "beta_new", "thr_new")),
        **{key: setting[key] for key in ("dampening_factor", "n_ref", "n_repeat", "rec")},
        reference_quirks=True,
        dt_ms=setting["dt"],
    )
    for d, order in (("fw", slice(None)), ("bw", slice(None, None, -1))):
        current = arrays["features"] @ arrays[f"weight/w_in_{d}_l0"]
        w_rec = arrays.get(f"weight/w_rec_{d}_l0")
        for b, of_utterance in enumerate(current):
            trajectory = plain_forward(of_utterance[order], w_rec, parameters)
            np.testing.assert_array_equal(trajectory.z[order], arrays[f"z_{d}_l0"][b])
            for key, values in (("v", trajectory.v), ("b", trajectory.a)):
                recorded = arrays.get(f"{key}_{d}_l0")
                if recorded is not None:
                    np.testing.assert_allclose(values[order], recorded[b], atol=1e-5)
    assert arrays["v_fw_l0"].any() and arrays["b_fw_l0"].any()


def test_padding_is_neither_simulated_nor_read():
    case = make_case(3, batch=4)._replace(seq_len=[20, 7, 0, 13])
    current, grad_z_mean = case.current.copy(), case.grad_z_mean.copy()
    for b, length in enumerate(case.seq_len):
        current[b, length:] = np.nan
        grad_z_mean[b, length:] = np.nan
    padded = case._replace(current=current, grad_z_mean=grad_z_mean)
    result = padded.forward()
    for rule in event_driven.RULES:
        gradients = padded.backward(result.saved, rule)
        w_rec = np.zeros(case.w_rec.shape)
        for b, length in enumerate(case.seq_len):
            alone = Case(
                case.current[b : b + 1, :length],
                case.w_rec,
                case.parameters,
                None,
                case.reverse,
                case.grad_z_mean[b : b + 1, :length],
            )
            alone_result = alone.forward()
            alone_gradients = alone.backward(alone_result.saved, rule)
            np.testing.assert_array_equal(result.z_mean[b, :length], alone_result.z_mean[0])
            np.testing.assert_array_equal(gradients.current[b, :length], alone_gradients.current[0])
            assert not result.z_mean[b, length:].any()
            assert not gradients.current[b, length:].any()
            w_rec += alone_gradients.w_rec
        np.testing.assert_allclose(gradients.w_rec, w_rec, atol=1e-12 * abs(w_rec).max())


def test_quirks_run_through_the_padding():
    """Zero input after the last frame: the potentials go on, and a reversed cell begins there."""
    case = make_case(4, batch=2, reference_quirks=True)._replace(seq_len=[8, 20])
    case.current[0, 8:] = 0.1
    result = case.forward()
    assert result.z_mean[0, 8:].any()
    assert case.backward(result.saved, "eprop").current[0, 8:].any()
    unlimited = case._replace(seq_len=None).forward()
    np.testing.assert_array_equal(result.z_mean, unlimited.z_mean)


def test_reversed_direction_is_the_reversed_utterance():
    case = make_case(6, batch=2, directions=1)._replace(seq_len=[20, 20], reverse=[True])
    mirrored = case._replace(
        current=case.current[:, ::-1], grad_z_mean=case.grad_z_mean[:, ::-1], reverse=[False]
    )
    result, expected = case.forward(), mirrored.forward()
    np.testing.assert_array_equal(result.saved.spikes, expected.saved.spikes[:, ::-1])
    np.testing.assert_array_equal(result.z_mean, expected.z_mean[:, ::-1])
    gradients = case.backward(result.saved, "bptt")
    reference = mirrored.backward(expected.saved, "bptt")
    np.testing.assert_array_equal(gradients.current, reference.current[:, ::-1])
    np.testing.assert_array_equal(gradients.w_rec, reference.w_rec)


def test_autapses_have_no_effect_and_no_gradient():
    case = make_case(7)
    n = case.w_rec.shape[-1]
    masked = case._replace(w_rec=case.w_rec * (1 - np.eye(n)))
    result, expected = case.forward(), masked.forward()
    np.testing.assert_array_equal(result.z_mean, expected.z_mean)
    for rule in event_driven.RULES:
        gradients = case.backward(result.saved, rule)
        reference = masked.backward(expected.saved, rule)
        np.testing.assert_array_equal(gradients.current, reference.current)
        assert np.all(np.diagonal(gradients.w_rec, axis1=1, axis2=2) == 0)
        assert np.count_nonzero(gradients.w_rec) > n * (n - 1)


def test_without_recurrence_no_weights_are_needed():
    case = make_case(8, rec=False)._replace(w_rec=None)
    result = case.forward()
    gradients = case.backward(result.saved, "bptt")
    assert result.z_mean.any() and gradients.current.any()
    assert gradients.w_rec.shape == (2, 24, 24) and not gradients.w_rec.any()


def test_nan_stays_visible():
    """A diverged input must not turn into a clean zero gradient."""
    case = make_case(10)._replace(seq_len=None)
    case.current[0, 3, 0, 5] = np.nan
    for rule in event_driven.RULES:
        gradients = case.backward(case.forward().saved, rule)
        assert np.isnan(gradients.current[0, :4, 0, 5]).all()
        assert np.isfinite(gradients.current[1:]).all()


def forward_and_backward(case):
    """All arrays of a call of each function."""
    result = case.forward()
    gradients = [case.backward(result.saved, rule) for rule in event_driven.RULES]
    return [result.z_mean, result.spike_counts, *result.saved, *gradients[0], *gradients[1]]


def test_equal_for_any_number_of_threads_and_callers(monkeypatch):
    cases = [make_case(seed, batch=11, n=40) for seed in range(3)]
    assert_equal_for_any_number_of_threads_and_callers(forward_and_backward, cases, monkeypatch)


IN_ANOTHER_PROCESS = """
import os
import numpy as np
from layers import event_driven, neurons

def rate():
    one = np.ones(3)
    parameters = neurons.AlifParameters(0.9 * one, 0.99 * one, 0.2 * one, 0.1 * one)
    current = np.full((4, 10, 2, 3), 0.03)
    return event_driven.forward(current, np.zeros((2, 3, 3)), parameters).z_mean.mean()

cache_hits = event_driven._forward_chunk.stats.cache_hits
print(rate(), sum(cache_hits.values()), flush=True)
child = os.fork()
if child == 0:  # the pool's threads do not live here
    os._exit(0 if rate() > 0 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_another_process_uses_the_compiled_code_and_may_fork():
    make_case(0).forward()  # compiled here, unless it was before
    for _ in range(2):  # a test process beside this one may just have replaced the cache's index
        process = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", IN_ANOTHER_PROCESS],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert process.returncode == 0, process.stderr
        rate, cache_hits, exit_status = process.stdout.split()
        assert float(rate) > 0 and exit_status == "0"
        if int(cache_hits) == 1:
            return
    pytest.fail("compiled anew although compiled before")


@pytest.mark.parametrize("rule", event_driven.RULES)
def test_memory(rule):
    """At five steps a frame: well below 8 bytes per neuron-step, results included."""
    case = make_case(0, batch=16, frames=200, n=128)
    case = case._replace(
        current=case.current.astype(np.float32),
        w_rec=case.w_rec.astype(np.float32),
        grad_z_mean=case.grad_z_mean.astype(np.float32),
        seq_len=None,
    )
    peak = peak_bytes(lambda: case.backward(case.forward().saved, rule))
    neuron_steps = case.current.size * case.parameters.n_repeat
    assert peak < 3 * neuron_steps


@pytest.mark.parametrize("width", [types.float32, types.float64])
@pytest.mark.parametrize(
    "kernel, arguments", [("_step", 7), ("_step_psi", 9), ("_step_back", 8), ("_send", 0)]
)
def test_loops_over_neurons_are_vector_instructions(kernel, arguments, width):
    """In the optimised code there is arithmetic on vectors, and none in a wider type."""
    kernel = getattr(event_driven, kernel)
    vector = width[::1]
    if kernel is event_driven._send:
        signature = width[:, ::1], vector, types.int64[::1], types.int64
    else:
        signature = [vector] * arguments + [types.uint8[::1]] * (kernel is event_driven._step)
    code = llvm_code(kernel, signature)
    name = {types.float32: "float", types.float64: "double"}[width]
    assert re.search(rf"= fadd [a-z ]*<\d+ x {name}>", code)
    assert "fpext" not in code


@pytest.mark.parametrize(
    "change, words",
    [
        ({"current": np.zeros((2, 3, 2, 4), np.float16)}, "float16"),
        ({"current": np.zeros((2, 3, 4))}, "(2, 3, 4)"),
        ({"w_rec": np.zeros((4, 4))}, "w_rec has shape (4, 4), expected (2, 4, 4)"),
        ({"seq_len": [4, 1]}, "seq_len is [4, 1], expected 2 numbers from 0 to 3"),
        ({"seq_len": [-1, 1]}, "seq_len"),
        ({"seq_len": [1]}, "seq_len"),
        ({"reverse": (True,)}, "reverse"),
        ({"grad_z_mean": np.zeros((2, 3, 2, 5))}, "grad_z_mean"),
        ({"alpha": np.zeros(5)}, "alpha"),
        ({"thr": np.zeros(4)}, "thr"),
        ({"n_repeat": 0}, "n_repeat"),
        ({"n_repeat": 4}, "saved.spikes"),
        ({"dt_ms": 0.0}, "dt_ms"),
        ({"dt_ms": 0.98}, "silent step"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    """The kernels check no index, so every shape is checked before."""
    case = make_case(0, batch=2, frames=3, n=4)
    saved = case.forward().saved
    of_parameters = {k: v for k, v in change.items() if k in AlifParameters._fields}
    of_case = {k: v for k, v in change.items() if k not in of_parameters}
    case = case._replace(parameters=case.parameters._replace(**of_parameters), **of_case)
    with pytest.raises(ValueError, match=re.escape(words)):
        case.backward(saved, "eprop")


def test_unknown_rule():
    case = make_case(0, batch=1, frames=1, n=2)
    with pytest.raises(ValueError, match="'symmetric'.*bptt.*eprop"):
        case.backward(case.forward().saved, "symmetric")
