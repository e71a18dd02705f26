"""Readout, configurations and networks against NumPy and SciPy, in float64."""

import functools
import itertools
import types
from typing import NamedTuple

import numpy as np
import pytest
import scipy.signal
import scipy.special
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import eprop
import models
from helpers import assert_different, assert_near
from layers import alif, lstm, neurons
from layers.kernels import DelayLine, InputMemory, StateSpace
from tasks.framewise import Framewise
from toolbox import command_line
from toolbox.command_line import UserError

N_REGULAR, N_ADAPTIVE = 3, 3
N = N_REGULAR + N_ADAPTIVE
TAU_V_MS = [20.0, 10.0, 20.0, 30.0, 20.0, 10.0]
TAU_A_MS = [200.0, 200.0, 100.0, 200.0, 50.0, 100.0]


# --------------------------------------------------------------------------- readout

READOUTS = {
    "bptt": {"rule": "bptt"},
    "symmetric": {"rule": "symmetric"},
    "random": {"rule": "random"},
    "adaptive": {"rule": "adaptive"},
    "global": {"rule": "random", "global_feedback": True},
    "penalised random": {"rule": "random", "penalise_random_feedback": True},
    "no filter": {"rule": "random", "decay": None},
    "no bias": {"rule": "adaptive", "bias": False},
}


@pytest.mark.parametrize("by_events", [False, True])
@pytest.mark.parametrize("options", READOUTS.values(), ids=READOUTS)
def test_readout_and_its_gradients(options, by_events):
    options = {"decay": 0.7, "by_events": by_events, **options}
    random_generator = np.random.default_rng(1)
    readout = models.Readout(5, 3, random_generator=random_generator, dtype=tf.float64, **options)
    if readout.b_out is not None:
        readout.b_out.assign(random_generator.standard_normal(3))
    activity = random_generator.standard_normal((2, 6, 5))
    delta = random_generator.standard_normal((2, 6, 3))
    watched = {"activity": tf.constant(activity), **{v.name[:5]: v for v in readout.variables}}
    with tf.GradientTape() as tape:
        tape.watch(watched["activity"])
        logits = readout(watched["activity"])
        loss = tf.reduce_sum(logits * delta)
    gradients = tape.gradient(loss, watched)

    decay = options["decay"] or 0
    filtered = scipy.signal.lfilter([1], [1, -decay], activity, axis=1)
    b_out = 0 if readout.b_out is None else readout.b_out.numpy()
    assert_near(logits, filtered @ readout.w_out.numpy() + b_out, 1e-12)
    back = readout.w_out if options["rule"] in ("bptt", "symmetric") else readout.feedback
    d_filtered = delta @ back.numpy().T
    expected = scipy.signal.lfilter([1], [1, -decay], d_filtered[:, ::-1], axis=1)[:, ::-1]
    assert_near(gradients["activity"], expected, 1e-12)
    d_w_out = np.einsum("bfn,bfk->nk", filtered, delta)
    assert_near(gradients["w_out"], d_w_out, 1e-12)
    if readout.b_out is not None:
        assert_near(gradients["b_out"], delta.sum((0, 1)), 1e-12)
    if options["rule"] == "adaptive":
        assert_near(gradients["feedb"], d_w_out, 1e-12)
    elif options.get("penalise_random_feedback"):  # trained, by L2 alone
        np.testing.assert_array_equal(gradients["feedb"], np.zeros((5, 3)))
    elif options["rule"] == "random":
        assert gradients["feedb"] is None
        assert "feedback" not in {v.name.split(":")[0] for v in readout.trainable_variables}
    else:
        assert readout.feedback is None


def test_initial_readout_and_feedback():
    n = 4000
    for rule, scale in (("random", 1), ("adaptive", 1 / np.sqrt(n))):
        readout = models.Readout(n, 5, rule, np.random.default_rng(0))
        # 20000 numbers give their standard deviation within 0.5 %.
        np.testing.assert_allclose(np.std(readout.feedback), scale, rtol=0.02)
        np.testing.assert_allclose(np.std(readout.w_out), 1 / np.sqrt(n), rtol=0.02)
        correlation = np.corrcoef(np.ravel(readout.w_out), np.ravel(readout.feedback))[0, 1]
        assert abs(correlation) < 0.03
    readout = models.Readout(n, 5, "random", np.random.default_rng(0), global_feedback=True)
    np.testing.assert_allclose(readout.feedback, np.full((n, 5), 1 / np.sqrt(n)), rtol=1e-6)
    np.testing.assert_array_equal(readout.b_out, np.zeros(5))


# --------------------------------------------------------------------------- networks

N_FEATURES, N_CLASSES = 4, 5
SEQ_LEN = np.array([6, 4, 2], np.int32)
N_FRAMES = 6


class Batch(NamedTuple):
    features: np.ndarray
    phns: np.ndarray
    seq_len: np.ndarray


def make_batch(seed=0):
    """A batch whose padding is 0."""
    random_generator = np.random.default_rng(seed)
    is_true = np.arange(N_FRAMES) < SEQ_LEN[:, None]
    features = random_generator.standard_normal((3, N_FRAMES, N_FEATURES))
    phns = random_generator.integers(1, N_CLASSES, (3, N_FRAMES)).astype(np.int32)
    return Batch(features * is_true[..., None], phns * is_true, SEQ_LEN)


def make_network(kind, rule="symmetric", dt=1.0, n_ref=3, **options):
    """A small network of `kind` "lsnn" or "lstm" in float64."""
    options = {"rule": rule, "l2": 1e-3, "dtype": tf.float64, **options}
    n_outputs = options.pop("n_outputs", N_CLASSES)
    first_layer = options.pop("first_layer", None)
    random_generator = np.random.default_rng(1)
    if kind == "lstm":
        config = models.LstmConfig(n_lstm=4, **options)
        return models.Lstm(config, N_FEATURES, n_outputs, random_generator)
    parameters = neurons.alif_parameters(
        N_REGULAR,
        N_ADAPTIVE,
        TAU_V_MS,
        TAU_A_MS,
        dt=dt,
        n_repeat=2,
        n_ref=n_ref,
        reference_quirks=options.pop("reference_quirks", False),
    )
    config = models.LsnnConfig(parameters=parameters, **{"weight_scale": 0.3, **options})
    return models.Lsnn(config, N_FEATURES, n_outputs, random_generator, first_layer)


def task_of(network):
    """Framewise phones: with the authors' LSTM the padding counts."""
    quirks_of_lstm = network.config.reference_quirks and not network.is_spiking
    dataset = types.SimpleNamespace(
        n_features=N_FEATURES,
        n_phns=N_CLASSES,
        fold_to_reduced=np.arange(N_CLASSES),
        checksum="",
        note="",
    )
    return Framewise(dataset, padding_counts=quirks_of_lstm)


def losses_of(network, output, batch):
    prediction = task_of(network).losses(output.logits, batch.phns, batch.seq_len)
    return network.losses(output, prediction, batch.seq_len)


def run_network(network, batch, dropout_seed=None):
    """Output, losses, and the total loss's gradients by name."""
    names = {v.ref(): name for name, v in network.weights().items()}
    variables = network.trainable_variables
    with tf.GradientTape() as tape:
        features = tf.constant(batch.features)
        if network.is_spiking:
            output = network(features, batch.seq_len, dropout_seed, with_spikes=True)
        else:
            output = network(features, batch.seq_len, dropout_seed)
        losses = losses_of(network, output, batch)
        total = losses.total
    gradients = tape.gradient(total, variables)
    return output, losses, {names[v.ref()]: g.numpy() for v, g in zip(variables, gradients)}


def pad_with_garbage(batch):
    """The same utterances, three frames longer, with anything behind their ends."""
    random_generator = np.random.default_rng(9)
    features = 5 * random_generator.standard_normal((3, N_FRAMES + 3, N_FEATURES))
    phns = random_generator.integers(1, N_CLASSES, (3, N_FRAMES + 3)).astype(np.int32)
    for b, n in enumerate(batch.seq_len):
        features[b, :n], phns[b, :n] = batch.features[b, :n], batch.phns[b, :n]
    return Batch(features, phns, batch.seq_len)


NETWORKS = {
    "lsnn": ("lsnn", {}),
    "lsnn of two layers": ("lsnn", {"n_layer": 2}),
    "lsnn of one direction": ("lsnn", {"n_layer": 2, "n_directions": 1}),
    "lstm": ("lstm", {}),
    "fused lstm": ("lstm", {"engine": "fused"}),
    "lstm of two layers": ("lstm", {"n_layer": 2, "peephole": True}),
    "fused lstm of one direction": ("lstm", {"n_layer": 2, "n_directions": 1, "engine": "fused"}),
}
of_networks = pytest.mark.parametrize("kind, options", NETWORKS.values(), ids=NETWORKS)


@of_networks
@pytest.mark.parametrize("rule", ["bptt", "adaptive"])
def test_padding_changes_nothing(kind, options, rule):
    network = make_network(kind, rule, **options)
    batch = make_batch()
    output, losses, gradients = run_network(network, batch)
    padded_output, padded_losses, padded_gradients = run_network(network, pad_with_garbage(batch))
    for b, n in enumerate(SEQ_LEN):
        np.testing.assert_allclose(padded_output.logits[b, :n], output.logits[b, :n], rtol=1e-11)
    np.testing.assert_allclose(padded_losses, losses, rtol=1e-12)
    assert gradients.keys() == padded_gradients.keys() and len(gradients) >= 4
    for name in gradients:
        assert_near(padded_gradients[name], gradients[name], 1e-12)
    if kind == "lsnn":
        activity, n_frames = network.activity_sums(output, SEQ_LEN)
        padded_activity, padded_n_frames = network.activity_sums(padded_output, SEQ_LEN)
        assert_near(padded_activity, activity)
        assert n_frames == padded_n_frames == SEQ_LEN.sum()
        assert np.all(np.asarray(losses) > 0)


@of_networks
def test_padding_counts_with_the_authors_semantics(kind, options):
    network = make_network(kind, reference_quirks=True, **options)
    batch = make_batch()
    output, losses, gradients = run_network(network, batch)
    padded_output, padded_losses, padded_gradients = run_network(network, pad_with_garbage(batch))
    changed = losses.rate if kind == "lsnn" else losses.prediction
    padded_changed = padded_losses.rate if kind == "lsnn" else padded_losses.prediction
    assert abs(padded_changed / changed - 1) > 1e-3
    # Without a backward cell nothing comes out of the padding.
    compare = assert_near if options.get("n_directions") == 1 else assert_different
    compare(padded_output.logits[0, :N_FRAMES], output.logits[0])
    name = "layer0/w_in" if kind == "lsnn" else "readout/w_out"
    assert_different(padded_gradients[name], gradients[name])


@of_networks
def test_an_utterance_of_a_batch_is_as_alone(kind, options):
    """The backward cells start at the last true frame, not in the padding."""
    network = make_network(kind, **options)
    padded = pad_with_garbage(make_batch())
    output, _, _ = run_network(network, padded)
    for b, n in enumerate(SEQ_LEN):
        alone = network(padded.features[b : b + 1, :n], SEQ_LEN[b : b + 1])
        assert_near(output.activity[b, :n], alone.activity[0], 1e-12)
        assert_near(output.logits[b, :n], alone.logits[0], 1e-11)
        for spikes, spikes_alone in zip(output.spikes, alone.spikes):
            np.testing.assert_array_equal(spikes[b, : n * 2], spikes_alone[0])
            assert not np.any(spikes[b, n * 2 :])


@pytest.mark.parametrize("engine", alif.CPU_ENGINES)
def test_one_direction_never_sees_the_future(engine):
    network = make_network("lsnn", n_layer=2, n_directions=1, engine=engine)
    batch = make_batch()
    later = batch.features.copy()
    later[:, 3:] = 5 * later[:, 3:] + 1
    logits, changed = (network(features, SEQ_LEN).logits for features in (batch.features, later))
    np.testing.assert_array_equal(logits[:, :3], changed[:, :3])
    assert_different(logits[:, 3:], changed[:, 3:])


def test_a_first_layer_given_leaves_all_other_weights():
    random, given = (
        make_network("lsnn", "adaptive", n_layer=2, first_layer=first_layer)
        for first_layer in (None, (np.full((2, N_FEATURES, N), 0.5), np.full((2, N, N), 0.25)))
    )
    expected = {name: w.numpy() for name, w in random.weights().items()}
    expected["layer0/w_in"] = np.full((2, N_FEATURES, N), 0.5)
    expected["layer0/w_rec"] = np.full((2, N, N), 0.25) * (1 - np.eye(N))
    assert given.weights().keys() == expected.keys()
    for name, w in given.weights().items():
        np.testing.assert_array_equal(w, expected[name])


@pytest.mark.parametrize("reference_quirks", [False, True])
def test_engines_agree_on_a_network(reference_quirks):
    batch = make_batch()
    options = {"n_layer": 2, "reference_quirks": reference_quirks}
    dense, event = (make_network("lsnn", "bptt", engine=e, **options) for e in alif.CPU_ENGINES)
    expected_output, expected_losses, expected_gradients = run_network(dense, batch)
    output, losses, gradients = run_network(event, batch)
    for spikes, expected in zip(output.spikes, expected_output.spikes, strict=True):
        np.testing.assert_array_equal(spikes, expected)
        assert np.any(spikes)
    assert_near(output.logits, expected_output.logits)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    assert gradients.keys() == expected_gradients.keys()
    for name in gradients:
        assert_near(gradients[name], expected_gradients[name])
    without_spikes = event(batch.features, batch.seq_len)
    assert without_spikes.spikes == ()
    assert_near(without_spikes.logits, output.logits)
    assert_near(without_spikes.activity, output.activity)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    depths=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    rule=st.sampled_from(eprop.RULES),
    reference_quirks=st.booleans(),
    is_float32=st.booleans(),
)
def test_engines_agree_on_any_lstm(seed, sizes, depths, rule, reference_quirks, is_float32):
    n_batch, n_frames, n_features, n_lstm = sizes
    random_generator = np.random.default_rng(seed)
    shape = (n_batch, n_frames)
    batch = Batch(
        random_generator.standard_normal((*shape, n_features)),
        random_generator.integers(0, N_CLASSES, shape).astype(np.int32),
        random_generator.integers(1, n_frames + 1, n_batch).astype(np.int32),
    )
    dtype = tf.float32 if is_float32 else tf.float64
    batch = batch._replace(features=batch.features.astype(dtype.as_numpy_dtype))
    dense, *others = (
        models.Lstm(
            models.LstmConfig(
                rule=rule,
                n_layer=depths[0],
                n_directions=depths[1],
                n_lstm=n_lstm,
                init_scale=1.0,
                reference_quirks=reference_quirks,
                engine=engine,
                dtype=dtype,
            ),
            n_features,
            N_CLASSES,
            np.random.default_rng(seed),
        )
        for engine in lstm.LSTM_ENGINES
    )
    expected_output, expected_losses, expected_gradients = run_network(dense, batch)
    tolerance = 1e-4 if is_float32 else 1e-10
    counts = np.arange(n_frames) < batch.seq_len[:, None]
    counts |= reference_quirks
    for network in others:
        output, losses, gradients = run_network(network, batch)
        assert_near(
            output.activity.numpy()[counts], expected_output.activity.numpy()[counts], tolerance
        )
        np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
        assert gradients.keys() == expected_gradients.keys()
        for name in ("layer0/kernel", "layer0/bias", "readout/w_out"):
            assert_near(gradients[name], expected_gradients[name], tolerance)


@pytest.mark.parametrize(
    "kind, options",
    [
        pytest.param("lsnn", {"drop_out_probability": 0.4}, marks=pytest.mark.stress),
        ("lsnn", {"n_layer": 2, "drop_out_probability": 0.4, "engine": "event"}),
        pytest.param("lstm", {}, marks=pytest.mark.stress),
        ("lstm", {"engine": "fused"}),
    ],
    ids=["lsnn", "event-driven lsnn", "lstm", "fused lstm"],
)
def test_a_graph_of_unknown_sizes_computes_the_same(kind, options):
    network = make_network(kind, "adaptive", **options)
    batch = make_batch()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, N_FEATURES], tf.float64),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def run(features, phns, seq_len):
        with tf.GradientTape() as tape:
            output = network(features, seq_len, [1, 2])
            total = losses_of(network, output, Batch(features, phns, seq_len)).total
        return output.logits, total, tape.gradient(total, network.trainable_variables)

    shortest = Batch(batch.features[2:, :2], batch.phns[2:, :2], SEQ_LEN[2:])
    for each in (batch, pad_with_garbage(batch)._replace(seq_len=SEQ_LEN + 3), shortest):
        logits, total, gradients = run(*each)
        output, losses, expected = run_network(network, each, [1, 2])
        assert_near(logits, output.logits, 1e-10)
        np.testing.assert_allclose(total, losses.total, rtol=1e-12)
        names = {v.ref(): name for name, v in network.weights().items()}
        for variable, gradient in zip(network.trainable_variables, gradients):
            assert_near(gradient, expected[names[variable.ref()]])
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("kind, dt", [("lsnn", 1.0), ("lsnn", 2.0), ("lstm", None)])
@pytest.mark.parametrize("reference_quirks", [False, True])
def test_parts_of_the_loss(kind, dt, reference_quirks):
    network = make_network(kind, "random", dt=dt, reference_quirks=reference_quirks)
    batch = make_batch()
    output, losses, gradients = run_network(network, batch)
    log_p = scipy.special.log_softmax(output.logits.numpy(), axis=-1)
    entropy = -np.take_along_axis(log_p, batch.phns[..., None], axis=-1)[..., 0]
    if kind == "lstm" and reference_quirks:
        prediction = entropy.mean()
    else:
        prediction = np.mean([entropy[b, :n].mean() for b, n in enumerate(SEQ_LEN)])
    np.testing.assert_allclose(losses.prediction, prediction, rtol=1e-12)

    if kind == "lsnn":
        spikes = output.spikes[0].numpy()
        n_steps = spikes[..., 0].size if reference_quirks else 2 * SEQ_LEN.sum()
        mean = spikes.sum((0, 1)) / n_steps  # of z, 1/dt high: spikes a ms
        if reference_quirks:
            mean /= dt
        rate = 50 * np.sum((mean - 0.01) ** 2)
        np.testing.assert_allclose(losses.rate, rate, rtol=1e-12)
        assert rate > 0.1
        activity, n_frames = network.activity_sums(output, SEQ_LEN)
        np.testing.assert_allclose(activity / n_frames, spikes.sum((0, 1)) / n_steps, rtol=1e-12)
    else:
        assert losses.rate == 0

    penalised = {v.ref() for v in network.trainable_variables}
    squares = sum(np.sum(v.numpy() ** 2) for v in network.variables if v.ref() in penalised)
    np.testing.assert_allclose(losses.l2, 1e-3 * squares, rtol=1e-12)
    np.testing.assert_allclose(losses.total, sum(losses), rtol=1e-15)
    # The authors' LSTM shrinks its fixed feedback; nothing else trains the rule `random`'s.
    if kind == "lstm" and reference_quirks:
        feedback = network.readout.feedback.numpy()
        np.testing.assert_allclose(gradients["readout/feedback"], 2e-3 * feedback, rtol=1e-12)
    else:
        assert "readout/feedback" not in gradients


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
def test_logits_have_the_columns_that_are_asked_for(kind):
    """The experiments ask for one more than there are classes, for the authors' LSNN."""
    network = make_network(kind, "adaptive", n_outputs=N_CLASSES + 1)
    assert network.readout.w_out.shape[1] == N_CLASSES + 1
    assert network.readout.feedback.shape == network.readout.w_out.shape
    output = network(make_batch().features, SEQ_LEN)
    assert output.logits.shape == (3, N_FRAMES, N_CLASSES + 1)


@pytest.mark.parametrize("rule", eprop.RULES)
@of_networks
def test_every_weight_is_trained(kind, options, rule):
    network = make_network(kind, rule, l2=0.0, **options)
    _, _, gradients = run_network(network, make_batch())
    fixed = {"readout/feedback"} if rule == "random" else set()
    assert gradients.keys() == network.weights().keys() - fixed
    assert ("readout/feedback" in network.weights()) == eprop.broadcasts(rule)
    for gradient in gradients.values():
        assert np.linalg.norm(gradient) > 1e-4


@of_networks
def test_rules_give_different_gradients(kind, options):
    gradients = [
        run_network(make_network(kind, r, **options), make_batch())[2] for r in eprop.RULES
    ]
    recurrent = [name for name in gradients[0] if name.startswith("layer")]
    for i, one in enumerate(gradients):
        for other in gradients[:i]:
            for name in recurrent:
                assert_different(one[name], other[name])
    for one in gradients[1:]:  # the readout's own gradient is the same for all rules
        assert_near(one["readout/w_out"], gradients[0]["readout/w_out"])


@pytest.mark.parametrize(
    "options, decay",
    [
        ({}, np.exp(-1 / 3)),
        ({"dt": 2.0, "tau_out": 5.0}, np.exp(-2 / 5)),
        ({"psp_out": False}, 0),
        ({"readout_bias": False}, np.exp(-1 / 3)),
    ],
    ids=["defaults", "another filter", "no filter", "no bias"],
)
def test_the_lsnn_is_read_through_a_filter(options, decay):
    network = make_network("lsnn", **options)
    readout = network.readout
    b_out = np.zeros(N_CLASSES)
    if readout.b_out is not None:
        b_out += np.arange(N_CLASSES)
        readout.b_out.assign(b_out)
    assert (readout.b_out is None) == ("readout_bias" in options)
    output = network(make_batch().features, SEQ_LEN)
    filtered = scipy.signal.lfilter([1], [1, -decay], output.activity, axis=1)
    assert_near(output.logits, filtered @ readout.w_out.numpy() + b_out)


def test_global_feedback_of_the_lsnn_is_one_value():
    readout = make_network("lsnn", "random", global_feedback=True).readout
    np.testing.assert_allclose(readout.feedback, np.full((2 * N, N_CLASSES), 1 / np.sqrt(2 * N)))


def test_readout_of_the_last_layer_only():
    batch = make_batch()
    seen = {}
    for loss_from_all_layers in (False, True):
        network = make_network("lsnn", n_layer=2, loss_from_all_layers=loss_from_all_layers)
        output, _, gradients = run_network(network, batch)
        assert network.readout.w_out.shape[0] == 2 * N * (2 if loss_from_all_layers else 1)
        # The rates that are regularised are those that the readout sees.
        activity = [z.numpy().reshape(3, N_FRAMES, 2, 2 * N).mean(2) for z in output.spikes]
        expected = np.concatenate(activity, -1) if loss_from_all_layers else activity[1]
        assert_near(output.activity, expected, 1e-12)
        # Below another layer, gradients pass through that layer's input, under e-prop too.
        assert np.linalg.norm(gradients["layer0/w_in"]) > 1e-2
        assert len(output.spikes) == 2
        seen[loss_from_all_layers] = output
    np.testing.assert_array_equal(seen[True].spikes[1], seen[False].spikes[1])


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
def test_recorded_run_is_the_same_run(kind):
    network, batch = make_network(kind), make_batch()
    n_steps, n_units = (2 * N_FRAMES, N) if kind == "lsnn" else (N_FRAMES, 4)
    probe = tf.zeros([2, 3, n_steps, n_units], tf.float64)
    output, record = network.recorded(batch.features, SEQ_LEN, probe)
    expected = network(batch.features, SEQ_LEN)
    np.testing.assert_array_equal(output.logits, expected.logits)
    np.testing.assert_array_equal(output.activity, expected.activity)
    assert record.inputs.shape == (2, 3, n_steps, N_FEATURES)
    if kind == "lsnn":
        two_layers = make_network(kind, n_layer=2)
        with pytest.raises(ValueError):
            two_layers.recorded(batch.features, SEQ_LEN, probe)


def test_autapses_stay_zero_in_training():
    network = make_network("lsnn", "bptt", n_layer=2)
    variables = network.trainable_variables
    optimizer = tf.keras.optimizers.Adam(0.1)
    optimizer.build(variables)
    before = network.layers[0].w_rec.numpy()
    for seed in range(2):  # Adam's moments remember the noise on the diagonal
        _, _, gradients = run_network(network, make_batch(seed))
        noise = np.random.default_rng(seed)
        names = {v.ref(): name for name, v in network.weights().items()}
        noisy = [gradients[names[v.ref()]] + noise.standard_normal(v.shape) for v in variables]
        optimizer.apply_gradients(zip(noisy, variables))
        network.after_update(0.0)
        for layer in network.layers:
            w_rec = layer.w_rec.numpy()
            np.testing.assert_array_equal(w_rec * np.eye(N), np.zeros((2, N, N)))
            assert np.all(w_rec + np.eye(N) != 0)
    assert np.all((network.layers[0].w_rec.numpy() != before) | np.eye(N, dtype=bool))


def test_only_the_authors_autapses_are_penalised():
    for reference_quirks in (False, True):
        network = make_network("lsnn", reference_quirks=reference_quirks)
        w_rec = network.layers[0].w_rec
        w_rec.assign(tf.linalg.set_diag(w_rec, tf.ones([2, N], tf.float64)))
        before = network.l2_loss().numpy()
        w_rec.assign(tf.linalg.set_diag(w_rec, 3 * tf.ones([2, N], tf.float64)))
        added = 1e-3 * 2 * N * (9 - 1) if reference_quirks else 0
        np.testing.assert_allclose(network.l2_loss() - before, added, atol=1e-12)
        network.after_update(0.0)
        diagonal = np.diagonal(w_rec.numpy(), axis1=1, axis2=2)
        np.testing.assert_array_equal(diagonal, np.full((2, N), 3 if reference_quirks else 0))


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
@pytest.mark.parametrize("rule", eprop.RULES)
def test_mirror_decay_follows_each_update_of_adaptive_eprop(kind, rule):
    network = make_network(kind, rule)
    before = {name: w.numpy() for name, w in network.weights().items()}
    network.after_update(0.25)
    for name, w in network.weights().items():
        decays = rule == "adaptive" and name in ("readout/w_out", "readout/feedback")
        np.testing.assert_allclose(w, before[name] * (0.75 if decays else 1), rtol=1e-14)


def test_initial_weights():
    def lsnn(n_features, rec=True, **options):
        parameters = neurons.alif_parameters(40, 40, rec=rec)
        config = models.LsnnConfig(rule="bptt", parameters=parameters, **options)
        return models.Lsnn(config, n_features, 5, np.random.default_rng(0))

    def lstm_kernel(**options):
        config = models.LstmConfig(rule="bptt", n_lstm=20, **options)
        layer = models.Lstm(config, 30, 5, np.random.default_rng(0)).layers[0]
        assert not np.any(layer.bias)
        return layer.kernel.numpy()

    network = lsnn(100, n_layer=2, weight_scale=0.5)
    first, second = network.layers
    for w, n_in in ((first.w_in, 100), (second.w_in, 160), (first.w_rec, 80), (second.w_rec, 80)):
        assert w.shape == (2, n_in, 80)
        off_diagonal = w.numpy()[w.numpy() != 0]
        # 12000 numbers and more give their standard deviation within 1 %.
        np.testing.assert_allclose(np.std(off_diagonal), 0.5 / np.sqrt(n_in), rtol=0.03)
    assert network.n_regular == 40
    without = lsnn(9, rec=False)
    assert set(without.weights()) == {"layer0/w_in", "readout/w_out", "readout/b_out"}

    limit = np.sqrt(6 / (50 + 80))
    kernel = lstm_kernel()
    assert kernel.shape == (2, 50, 80)
    assert 0.99 * limit < np.max(np.abs(kernel)) < limit
    np.testing.assert_allclose(np.std(kernel), limit / np.sqrt(3), rtol=0.03)
    small = lstm_kernel(lstm=False, init_scale=0.01)
    assert small.shape == (2, 50, 20)
    assert 0.0099 < np.max(np.abs(small)) < 0.01


# --------------------------------------------------------------------------- configurations


def test_configurations_refuse_what_does_not_go_together():
    parameters = neurons.alif_parameters(1, 1)
    lsnn = functools.partial(models.LsnnConfig, parameters=parameters)
    lstm_of = functools.partial(models.LstmConfig, n_lstm=1)
    for error, config, options, words in (
        (ValueError, lsnn, {"rule": "hebb"}, "rule is 'hebb'.*adaptive"),
        (UserError, lstm_of, {"rule": "bptt", "engine": "event"}, "engine=event with.*fused"),
        (UserError, lsnn, {"rule": "bptt", "engine": "fused"}, "engine=fused with.*event"),
        (UserError, lsnn, {"rule": "bptt", "drop_out_probability": -0.5}, "out_probability=-0.5"),
        *(
            (UserError, lsnn, {"rule": rule, "global_feedback": True}, f"BAglobal with {rule}")
            for rule in ("symmetric", "adaptive")
        ),
        *(
            (UserError, lstm_of, {"rule": rule, "lstm": False}, f"--nolstm with --eprop={rule}")
            for rule in eprop.RULES[1:]
        ),
        (
            UserError,
            lstm_of,
            {"rule": "bptt", "lstm": False, "engine": "fused"},
            "--nolstm with --engine=fused",
        ),
        (
            UserError,
            lstm_of,
            {"rule": "bptt", "peephole": True, "engine": "fused"},
            "--peephole with --engine=fused",
        ),
        (UserError, lstm_of, {"rule": "bptt", "lstm": False, "peephole": True}, "--nolstm with"),
    ):
        with pytest.raises(error, match=words):
            config(**options)
    with pytest.raises(UserError, match="a neuron at least"):
        models.LsnnConfig(rule="bptt", parameters=neurons.alif_parameters(0, 0))


def test_flags_become_a_configuration():
    def define_flags(flag_values):
        define = command_line.Definer(flag_values)
        define.string("eprop", None, "")
        define.float("l2", 1e-5, "")
        define.bool("reference_quirks", False, "")
        neurons.define_flags(define)
        models.define_flags(define, "lsnn")

    def configured(*arguments):
        flag_values, _ = command_line.parse_flags(define_flags, ["script", *arguments])
        return models.LsnnConfig.from_flags(flag_values, seed=3)

    plain = configured()
    assert (plain.rule, plain.weight_scale, plain.n_layer, plain.l2) == ("bptt", 0.05, 1, 1e-5)
    assert configured("--reference_quirks").weight_scale == 1
    assert configured("--reference_quirks", "--weight_scale=0.3").weight_scale == 0.3
    np.testing.assert_array_equal(plain.parameters.alpha, np.full(400, np.exp(-1 / 20)))
    one, again = configured("--tau_v_spread"), configured("--tau_v_spread")
    np.testing.assert_array_equal(one.parameters.alpha, again.parameters.alpha)
    np.testing.assert_allclose(np.unique(one.parameters.alpha), np.exp([-1 / 10, -1 / 20]))
    np.testing.assert_array_equal(one.parameters.rho, plain.parameters.rho)


# --------------------------------------------------------------------------- dropout


def test_dropout_depends_on_its_seed_alone():
    batch = make_batch()
    network = make_network("lsnn", n_layer=2, drop_out_probability=0.5)
    off = make_network("lsnn", n_layer=2, drop_out_probability=-1.0)

    def logits(network, seed):
        return network(batch.features, SEQ_LEN, seed).logits.numpy()

    np.testing.assert_array_equal(logits(network, None), logits(off, None))
    np.testing.assert_array_equal(logits(off, [1, 2]), logits(off, None))
    np.testing.assert_array_equal(logits(network, [1, 2]), logits(network, [1, 2]))
    for seed in ([1, 3], [2, 2], None):
        assert_different(logits(network, [1, 2]), logits(network, seed))


def test_dropout_keeps_the_expectation():
    network = make_network("lsnn", drop_out_probability=0.2)
    masks = [network.drop_out(tf.ones([10, 100, 20]), [3, 4], place).numpy() for place in range(3)]
    for mask in masks:
        np.testing.assert_allclose(np.unique(mask), [0, 1.25], rtol=1e-6)
        # 20000 draws: the mean's standard deviation is 0.0035.
        assert abs(np.mean(mask) - 1) < 0.015
    assert np.mean(masks[0] == masks[1]) < 0.75  # by chance 0.68
    assert np.mean(masks[1] == masks[2]) < 0.75


def test_dropout_is_constant_over_the_steps_of_a_frame(monkeypatch):
    """And it drops a layer's input and the readout's, not the spikes whose rates count."""
    read = []

    def spied(call):
        def spy(module, inputs, *arguments):
            read.append(np.array(inputs))
            return call(module, inputs, *arguments)

        return spy

    for module in (alif.AlifLayer, models.Readout):
        monkeypatch.setattr(module, "__call__", spied(module.__call__))
    network = make_network("lsnn", n_ref=1, n_layer=2, drop_out_probability=0.5, weight_scale=1.0)
    batch = make_batch()
    output = network(batch.features, SEQ_LEN, [5, 6], with_spikes=True)
    true = batch.features != 0
    np.testing.assert_allclose(
        np.unique(read[0][true] / batch.features[true]), [0, 2], rtol=1e-12, atol=1e-12
    )
    spikes = output.spikes[0].numpy().reshape(3, N_FRAMES, 2, 2 * N)
    dropped = read[1].reshape(spikes.shape)
    assert set(np.unique(spikes)) == {0, 1}
    both = np.all(spikes > 0, axis=2)
    assert both.sum() > 5
    np.testing.assert_array_equal(dropped[:, :, 0][both], dropped[:, :, 1][both])
    assert set(np.unique(dropped[spikes > 0])) == {0, 2}
    activity = output.activity.numpy()
    np.testing.assert_array_equal(activity[..., : 2 * N], spikes.mean(axis=2))
    np.testing.assert_array_equal(np.unique(read[2][activity > 0] / activity[activity > 0]), [0, 2])


# --------------------------------------------------------------------------- memories

KAPPA = np.exp(-1 / 3)
READOUT_MEMORIES = {
    "state space": StateSpace(
        np.array([[0.6, 0.5], [-0.5, 0.6]]), np.array([1.0, 0.5]), np.array([[1, 0], [0.3, -1.0]])
    ),
    "delays": DelayLine(np.array([1, 3]), KAPPA),
}
INPUT_MEMORY = InputMemory(
    READOUT_MEMORIES["state space"],
    np.random.default_rng(8).standard_normal((N_FEATURES, 2)),
    np.array([1.0, 2.0, 0.5, 1.5]),
    is_learned=True,
)


@pytest.mark.parametrize("memory", READOUT_MEMORIES.values(), ids=READOUT_MEMORIES)
@pytest.mark.parametrize("rule", ["symmetric", "random"])
def test_a_readouts_memory_is_the_sum_over_its_kernels(memory, rule):
    """Two layers of two directions: the forward past, and backward what comes after, to the end of
    the utterance; and its gradient goes back through V or its feedback."""
    n_layers, n_units = 2, 3
    random_generator = np.random.default_rng(5)
    readout = models.Readout(
        2 * n_layers * n_units,
        N_CLASSES,
        rule,
        random_generator,
        memory=memory,
        n_directions=2,
        n_units=n_units,
        dtype=tf.float64,
    )
    for weights in (readout.w_out, *([readout.feedback] if rule == "random" else [])):
        weights.assign(0 * weights)
    o = random_generator.standard_normal((3, N_FRAMES, n_layers, 2, n_units))
    o *= (np.arange(N_FRAMES) < SEQ_LEN[:, None])[:, :, None, None, None]
    kernels = memory.hold(np.eye(N_FRAMES, 1))[:, 0]  # h_k(s), [frames, order]

    def by_definition(o, v):
        logits = np.zeros((3, N_FRAMES, N_CLASSES))
        for f, g in itertools.product(range(N_FRAMES), repeat=2):
            if g <= f:
                logits[:, f] += np.einsum("bli,k,likc->bc", o[:, g, :, 0], kernels[f - g], v[0])
            if g >= f:
                logits[:, f] += np.einsum("bli,k,likc->bc", o[:, g, :, 1], kernels[g - f], v[1])
        return logits

    def of_layers(v):
        return v.numpy().reshape(2, n_layers, n_units, memory.order, N_CLASSES)

    activity = tf.constant(o.reshape(3, N_FRAMES, -1))
    error = random_generator.standard_normal((3, N_FRAMES, N_CLASSES))
    error *= (np.arange(N_FRAMES) < SEQ_LEN[:, None])[:, :, None]
    with tf.GradientTape() as tape:
        tape.watch(activity)
        logits = readout(activity, SEQ_LEN)
        loss = tf.reduce_sum(logits * error)
    is_true = np.arange(N_FRAMES) < SEQ_LEN[:, None]
    assert_near(logits.numpy()[is_true], by_definition(o, of_layers(readout.v_out))[is_true], 1e-12)
    gradient = tape.gradient(loss, activity).numpy().reshape(o.shape)
    back = readout.v_out if rule == "symmetric" else readout.feedback_v
    unit = np.zeros_like(o)
    unit[0, 2, 1, 1, 2] = 1
    expected = np.sum(by_definition(unit, of_layers(back)) * error)
    np.testing.assert_allclose(gradient[0, 2, 1, 1, 2], expected, rtol=1e-11)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("rule", eprop.RULES)
@pytest.mark.parametrize("n_directions", [1, 2])
@pytest.mark.parametrize(
    "memory",
    [*READOUT_MEMORIES.values(), DelayLine(np.array([1, models.MOST_EVENT_STATES]), KAPPA)],
    ids=[*READOUT_MEMORIES, "long delay"],
)
def test_a_readout_by_events_is_the_dense_one(memory, n_directions, rule):
    """Two layers; logits, and gradients of the activity, of all weights and of the feedback."""
    random_generator = np.random.default_rng(6)
    shape = 3, N_FRAMES, 2 * n_directions * N
    activity = tf.constant(random_generator.random(shape) * (random_generator.random(shape) < 0.2))
    error = random_generator.standard_normal((3, N_FRAMES, N_CLASSES))
    results = []
    for by_events in (False, True):
        readout = models.Readout(
            shape[-1],
            N_CLASSES,
            rule,
            np.random.default_rng(7),
            decay=KAPPA,
            memory=memory,
            n_directions=n_directions,
            n_units=N,
            by_events=by_events,
            dtype=tf.float64,
        )
        with tf.GradientTape() as tape:
            tape.watch(activity)
            logits = readout(activity, SEQ_LEN)
        watched = [activity, *readout.trainable_variables]
        results.append([logits, *tape.gradient(logits, watched, tf.constant(error))])
    assert len(results[0]) == (
        5 if rule != "adaptive" else 7
    )  # logits, activity, W, b, V, feedback
    for dense, events in zip(*results, strict=True):
        assert_near(events, dense, 1e-12)
        assert np.any(dense)


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
@pytest.mark.parametrize("memory", READOUT_MEMORIES.values(), ids=READOUT_MEMORIES)
def test_padding_does_not_reach_memories(kind, memory):
    network = make_network(kind, readout_memory=memory, input_memory=INPUT_MEMORY)
    batch = make_batch()
    is_true = np.arange(N_FRAMES) < SEQ_LEN[:, None]
    _, losses, gradients = run_network(network, batch)
    output, padded_losses, padded_gradients = run_network(network, pad_with_garbage(batch))
    np.testing.assert_allclose(padded_losses, losses, rtol=1e-12)
    for name, gradient in gradients.items():
        assert_near(padded_gradients[name], gradient, 1e-10)
    assert np.isfinite(output.logits.numpy()[:, :N_FRAMES][is_true]).all()


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
def test_all_other_weights_start_the_same_with_a_readout_memory(kind):
    plain = make_network(kind, "adaptive").weights()
    memory = READOUT_MEMORIES["delays"]
    with_memory = make_network(kind, "adaptive", readout_memory=memory).weights()
    assert with_memory.keys() - plain.keys() == {"readout/v_out", "readout/feedback_v"}
    for name, weights in plain.items():
        np.testing.assert_array_equal(with_memory[name], weights)


def test_an_input_memory_has_weights_of_its_own():
    plain = make_network("lsnn").weights()
    with_memory = make_network("lsnn", input_memory=INPUT_MEMORY).weights()
    np.testing.assert_array_equal(with_memory["layer0/w_in"][:, :N_FEATURES], plain["layer0/w_in"])
    assert with_memory["layer0/w_in"].shape[1] == N_FEATURES + len(INPUT_MEMORY.rms)
    for name in ("layer0/w_rec", "readout/w_out"):
        np.testing.assert_array_equal(with_memory[name], plain[name])


@pytest.mark.parametrize("kind", ["lsnn", "lstm"])
def test_encoders_learn_by_the_readout_alone(kind):
    """The way through the cells is cut, under BPTT too."""
    network = make_network(kind, "bptt", input_memory=INPUT_MEMORY, l2=0.0)
    batch = make_batch()
    _, _, gradients = run_network(network, batch)
    assert np.linalg.norm(gradients["input_memory/encoders"]) > 1e-3
    network.readout.u_out.assign(0 * network.readout.u_out)
    _, _, gradients = run_network(network, batch)
    assert np.all(gradients["input_memory/encoders"] == 0)
    assert np.linalg.norm(gradients["layer0/w_in" if kind == "lsnn" else "layer0/kernel"]) > 1e-3


def test_feedback_of_memories_mirrors_their_weights():
    network = make_network(
        "lsnn",
        "adaptive",
        readout_memory=READOUT_MEMORIES["delays"],
        input_memory=INPUT_MEMORY,
        l2=0.0,
    )
    _, _, gradients = run_network(network, make_batch())
    before = {name: w.numpy() for name, w in network.weights().items()}
    network.after_update(0.1)
    for letter in "wvu":
        feedback = "readout/feedback" + ("" if letter == "w" else f"_{letter}")
        assert np.linalg.norm(gradients[feedback]) > 0
        np.testing.assert_array_equal(gradients[feedback], gradients[f"readout/{letter}_out"])
        for name in (feedback, f"readout/{letter}_out"):
            np.testing.assert_allclose(network.weights()[name], 0.9 * before[name], rtol=1e-12)
