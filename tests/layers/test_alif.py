"""The ALIF layer, by both engines, against the plain implementation, in float64."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_alif import plain_backward, plain_forward

from helpers import assert_different, assert_near
from layers import alif, neurons, sequences

N_REGULAR, N_ADAPTIVE = 3, 3
N = N_REGULAR + N_ADAPTIVE
TAU_V_MS = [20.0, 10.0, 20.0, 30.0, 20.0, 10.0]
TAU_A_MS = [200.0, 200.0, 100.0, 200.0, 50.0, 100.0]


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


def no_probe(case):
    """Zeros for each spike of a case's layer, in cell time."""
    n_batch, n_steps, _ = case.spike_gradient.shape
    return tf.zeros([2, n_batch, n_steps, N], tf.float64)


def plain_cells(case):
    """For each utterance and direction that the layer runs: how the plain implementation does.

    The padding is left out, except with `reference_quirks`.

    Yields:
        b, d, the steps in the order that the cell reads them, its x [steps, n_in], W_rec, the
        parameters with one step a frame, and the `Trajectory`.
    """
    layer, p = case.layer, case.layer.parameters
    x = np.repeat(case.inputs, p.n_repeat if layer.reads_frames else 1, axis=1)
    w_in, w_rec = layer.w_in.numpy(), None if layer.w_rec is None else layer.w_rec.numpy()
    for b, n_frames in enumerate(case.seq_len):
        n_steps = x.shape[1] if p.reference_quirks else n_frames * p.n_repeat
        for d in range(len(w_in)):
            steps = np.arange(n_steps)[:: -1 if d else 1]
            cell = None if w_rec is None else w_rec[d], p._replace(n_repeat=1)
            yield b, d, steps, x[b, steps], cell, plain_forward(x[b, steps] @ w_in[d], *cell)


def plain_layer(case, stops):
    """What the layer should give.

    Returns:
        spikes, gradients by name, and the numbers of spikes, of spikes that refractoriness
        silenced and of live pseudo-derivatives.
    """
    w_in = case.layer.w_in.numpy()
    n_rows, n_in = case.inputs.shape[1:]
    spikes = np.zeros_like(case.spike_gradient)
    d_x = np.zeros((len(spikes), spikes.shape[1], n_in))
    gradients = {"w_in": np.zeros_like(w_in), "w_rec": np.zeros((len(w_in), N, N))}
    facts = np.zeros(3, int)
    for b, d, steps, x, cell, trajectory in plain_cells(case):
        columns = slice(d * N, (d + 1) * N)
        spikes[b, steps, columns] = trajectory.z
        g = case.spike_gradient[b, steps, columns]
        of_current, of_w_rec = plain_backward(trajectory, g, *cell, not stops)
        gradients["w_in"][d] += x.T @ of_current
        gradients["w_rec"][d] += of_w_rec
        d_x[b, steps] += of_current @ w_in[d].T
        crossed, is_open, psi = trajectory.crossed, trajectory.is_open, trajectory.psi
        facts += [np.sum(y) for y in (trajectory.z > 0, (crossed > 0) & (is_open == 0), psi > 0)]
    gradients["inputs"] = d_x.reshape(len(spikes), n_rows, -1, n_in).sum(2)
    if case.layer.w_rec is None:
        del gradients["w_rec"]
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


@pytest.mark.parametrize("engine", alif.CPU_ENGINES)
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
            assert_near(gradients[name], expected[name])
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
            "engine": st.sampled_from(alif.CPU_ENGINES),
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


@pytest.mark.parametrize("engine", alif.CPU_ENGINES)
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
    assert_near(means, spikes.reshape(2, 6, 5, 2 * N).mean(axis=2), 1e-12)
    assert_near(d_w_in, expected["w_in"])
    assert_near(d_w_rec, expected["w_rec"])


def test_adaptation_and_its_spread_reach_the_adaptive_neurons():
    case = make_alif_case(rec=False, n_frames=15, seq_len=(15,))
    layer, parameters = case.layer, case.layer.parameters

    def potentials():
        _, record = layer.recorded(case.inputs, case.seq_len, True, no_probe(case))
        return record.s.numpy()

    before = potentials()
    changes = {"beta": (0 * parameters.beta, [3, 4, 5]), "rho": (parameters.rho[[0] * N], [4, 5])}
    for name, (value, places) in changes.items():
        layer.parameters = parameters._replace(**{name: value})
        differs = np.any(before != potentials(), axis=(0, 1, 2))
        np.testing.assert_array_equal(np.flatnonzero(differs), places)


def test_pseudo_derivative_of_a_spike():
    s = tf.constant([-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(s)
        z = alif.spike(s, 0.3)
    np.testing.assert_array_equal(z, [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(tape.gradient(z, s), [0, 0, 0.225, 0.3, 0.15, 0, 0])


@pytest.mark.parametrize("engine", alif.CPU_ENGINES)
@pytest.mark.parametrize("n_ref, expected", [(0, 1), (1, 1), (2, 2), (3, 3), (5, 5)])
def test_steps_between_spikes_of_a_driven_neuron(n_ref, expected, engine):
    parameters = neurons.alif_parameters(1, 0, n_ref=n_ref, rec=False)
    layer = alif.AlifLayer(np.full((2, 1, 1), 9.0), None, parameters, True, engine)
    spikes = layer(tf.ones([1, 6, 1]), np.array([6]), False).numpy()[0, :, 0]
    np.testing.assert_array_equal(np.diff(np.flatnonzero(spikes)), expected)
    assert spikes.sum() >= 6


@pytest.mark.parametrize("reference_quirks", [False, True])
def test_alif_record_holds_the_dynamics_in_cell_time(reference_quirks):
    case = make_alif_case(reference_quirks=reference_quirks)
    p = case.layer.parameters
    spikes, record = case.layer.recorded(case.inputs, case.seq_len, True, no_probe(case))
    for b, d, steps, x, _, trajectory in plain_cells(case):
        n_steps = len(steps)
        assert n_steps == (30 if reference_quirks else case.seq_len[b] * 5)
        np.testing.assert_array_equal(record.inputs[d, b, :n_steps], x)
        np.testing.assert_array_equal(record.z[d, b, :n_steps], trajectory.z)
        np.testing.assert_array_equal(record.is_open[d, b, :n_steps], trajectory.is_open)
        s = (trajectory.v - p.thr - p.beta * trajectory.a) / p.thr
        np.testing.assert_allclose(record.s[d, b, :n_steps], s, rtol=1e-9, atol=1e-9)
        columns = slice(d * N, (d + 1) * N)
        np.testing.assert_array_equal(spikes.numpy()[b, steps, columns], trajectory.z)


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
        assert_near(signal, direct)
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
