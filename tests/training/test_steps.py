"""One step of training: gradients, optimisers, noise, dropout, mirror decay."""

import numpy as np
import pytest
import tensorflow as tf

import eprop
import models
from layers import alif, neurons
from tasks.framewise import Framewise, cross_entropy
from tiny_runs import BOTH, build, changed, equal, gradients, lsnn, lstm, train_step, values
from training import steps


@pytest.fixture
def batch(short_dataset):
    return short_dataset().train.batch([0, 1])


@BOTH
@pytest.mark.parametrize("quirks", ["--reference_quirks", "--noreference_quirks"])
def test_the_rules_are_alive_and_differ(script, quirks, short_dataset, batch):
    """Gradients of the recurrent layer by the four rules, from the same weights."""
    found = {}
    for rule in eprop.RULES:
        flag = [] if rule == "bptt" else [f"--eprop={rule}"]
        built = build(script, short_dataset(), quirks, *flag)
        layer = built.network.layers[0].trainable_variables
        _, losses, of_layer = gradients(built, layer, batch)
        found[rule] = np.concatenate([np.ravel(g) for g in of_layer])
        assert np.linalg.norm(found[rule]) > 1e-4
        assert float(losses.total) == pytest.approx(float(sum(losses)), rel=1e-6)
    rules = list(found)
    for i, rule in enumerate(rules):
        for other in rules[:i]:
            difference = np.linalg.norm(found[rule] - found[other])
            assert difference > 1e-2 * np.linalg.norm(found[rule]), (rule, other)


def one_step_after_another(script, dataset, batch, *arguments, rates, first_iteration=0):
    """What was built, and its weights before each step of training and after the last."""
    built = build(script, dataset, *arguments)
    step, _ = train_step(built)
    weights = [values(built.network)]
    for iteration, rate in enumerate(rates, first_iteration):
        assert np.isfinite(step(*batch, rate, iteration))
        weights.append(values(built.network))
    return built, weights


def gradients_at(built, weights, batch):
    """Gradient of every trained weight by its name, at the given weights."""
    variables = built.network.weights()
    for name, value in weights.items():
        variables[name].assign(value)
    names = [name for name, variable in variables.items() if variable.trainable]
    found = gradients(built, [variables[n] for n in names], batch)[2]
    return {name: g.numpy().astype(np.float64) for name, g in zip(names, found)}


@pytest.mark.parametrize("is_adam", [True, False])
def test_two_steps_are_those_of_the_textbook(is_adam, short_dataset, batch, eager):
    """Kingma & Ba 2015, algorithm 1 with epsilon outside the corrected root; heavy ball."""
    options = [f"--adam={is_adam}", "--momentum=0.7", "--adam_epsilon=1e-3"]
    built, weights = one_step_after_another(
        lstm, short_dataset(), batch, *options, rates=(0.02, 0.03)
    )
    first, second = (gradients_at(built, w, batch) for w in weights[:2])
    for name, g in first.items():
        h = second[name]
        if is_adam:
            m, v = 0.3 * g, 0.001 * g**2
            n, w = 0.7 * m + 0.3 * h, 0.999 * v + 0.001 * h**2
            expected = [
                0.02 * np.sqrt(1 - 0.999) / (1 - 0.7) * m / (np.sqrt(v) + 1e-3),
                0.03 * np.sqrt(1 - 0.999**2) / (1 - 0.7**2) * n / (np.sqrt(w) + 1e-3),
            ]
        else:
            expected = [0.02 * g, 0.7 * 0.02 * g + 0.03 * h]
        for k in range(2):
            moved = weights[k][name] - weights[k + 1][name]
            # float32: a weight near 1 is known to 1e-7, a step is a few hundredths at most.
            np.testing.assert_allclose(moved, expected[k], rtol=1e-3, atol=3e-7, err_msg=name)


def test_rmsprop_is_that_of_the_textbook(short_dataset, eager):
    """Hinton 2012, with momentum on the step; Keras' decay 0.9 and epsilon 1e-7."""
    network = build(lstm, short_dataset()).network
    optimizer = steps.make_optimizer(network, "rmsprop", momentum=0.7)
    optimizer.learning_rate.assign(0.02)
    before = network.readout.w_out.numpy()
    found = np.random.default_rng(0).standard_normal((2, *before.shape)).astype(np.float32)
    mean_square = velocity = 0
    for g in found:
        optimizer.apply_gradients([(tf.constant(g), network.readout.w_out)])
        mean_square = 0.9 * mean_square + 0.1 * g**2
        velocity = 0.7 * velocity + 0.02 * g / np.sqrt(mean_square + 1e-7)
        before = before - velocity
        np.testing.assert_allclose(network.readout.w_out, before, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_their_common_norm(short_dataset, batch, eager):
    """All shrink by one factor, or none where the norm is small enough."""
    arguments = ["--noadam", "--momentum=0"]
    moved = {}
    for clip in (0, 1e-2, 1e6):
        built, (before, after) = one_step_after_another(
            lstm, short_dataset(), batch, *arguments, f"--grad_clip={clip}", rates=[1.0]
        )
        moved[clip] = {name: before[name] - after[name] for name in before}
    gradients = gradients_at(built, before, batch)
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
    assert norm > 0.1 and equal(moved[0], moved[1e6])
    for name, g in gradients.items():
        np.testing.assert_allclose(moved[1e-2][name], 1e-2 / norm * g, rtol=1e-3, atol=3e-7)


@pytest.mark.parametrize("rule", [pytest.param("bptt", marks=pytest.mark.stress), "symmetric"])
def test_engines_do_not_part_in_float64(rule, short_dataset, eager):
    """Ten steps of training: the same spikes, and weights that differ by rounding alone."""
    dataset = short_dataset()
    trained = {}
    for engine in alif.CPU_ENGINES:
        config = models.LsnnConfig(
            rule=rule,
            parameters=neurons.alif_parameters(12, 6, n_repeat=2),
            weight_scale=0.3,
            engine=engine,
            dtype=tf.float64,
        )
        random_generator = np.random.default_rng(1)
        network = models.Lsnn(config, dataset.n_features, dataset.n_phns, random_generator)
        optimizer, variables = steps.make_optimizer(network), network.trainable_variables
        step = steps.make_train_step(
            network, Framewise(dataset), optimizer, variables, 1, readout_decay=0.01
        )
        first = values(network)
        for iteration in range(10):
            features, phns, seq_len = dataset.train.batch([iteration % 6, (iteration + 3) % 6])
            step(features.astype(np.float64), phns, seq_len, 0.01, iteration)
        batch = dataset.train.batch(range(6))
        output = network(batch.features.astype(np.float64), batch.seq_len, with_spikes=True)
        trained[engine] = values(network), output.spikes[0].numpy()
    (dense, dense_spikes), (event, event_spikes) = (trained[e] for e in ("dense", "event"))
    np.testing.assert_array_equal(event_spikes, dense_spikes)
    assert 0.01 < dense_spikes.mean() < 0.5
    for name in dense:
        moved = np.abs(dense[name] - first[name]).max()
        assert moved > 1e-3, name
        np.testing.assert_allclose(event[name], dense[name], rtol=0, atol=1e-9 * moved)


@pytest.mark.parametrize(
    "rule, decayed",
    [("adaptive", {"readout/w_out", "readout/feedback"}), ("random", set()), ("symmetric", set())],
)
def test_mirror_decay_shrinks_readout_and_feedback(rule, decayed, short_dataset, batch, eager):
    built, (before, after) = one_step_after_another(
        lsnn, short_dataset(), batch, f"--eprop={rule}", "--readout_decay=0.25", rates=[0.0]
    )
    assert changed(before, built.network) == decayed  # without a learning rate nothing else moves
    for name in decayed:
        np.testing.assert_allclose(after[name], 0.75 * before[name], rtol=1e-6)


def test_gradient_noise_has_its_size_and_start(short_dataset, batch, eager):
    arguments = ["--noadam", "--momentum=0", "--l2=0", "--gd_noise=0.5"]
    rate, moved = 0.01, {}
    for start, iteration in ((-1, 4), (4, 3), (4, 4), (4, 5)):
        flag = f"--noise_step_start={start}"
        _, (before, after) = one_step_after_another(
            lstm, short_dataset(), batch, *arguments, flag, rates=[rate], first_iteration=iteration
        )
        moved[start, iteration] = {name: (after[name] - before[name]) / rate for name in after}
    assert equal(moved[-1, 4], moved[4, 3])
    noise = [{name: moved[4, i][name] - moved[-1, 4][name] for name in moved[4, i]} for i in (4, 5)]
    for drawn in noise:
        everything = np.concatenate([np.ravel(n) for n in drawn.values()])
        # Standard error of the standard deviation of 3,735 numbers: 1.2 %.
        assert np.std(everything) == pytest.approx(0.5, rel=0.06)
        assert abs(np.mean(everything)) < 0.5 * 5 / np.sqrt(len(everything))
        kernel, readout = (np.ravel(drawn[n]) for n in ("layer0/kernel", "readout/w_out"))
        shared = min(len(kernel), len(readout))
        assert abs(np.corrcoef(kernel[:shared], readout[:shared])[0, 1]) < 0.2
    kernels = [np.ravel(drawn["layer0/kernel"]) for drawn in noise]
    assert abs(np.corrcoef(*kernels)[0, 1]) < 0.1  # another iteration, other noise


def test_gradient_noise_leaves_no_autapses(short_dataset, batch, eager):
    built, _ = one_step_after_another(
        lsnn, short_dataset(), batch, "--gd_noise=0.5", "--noise_step_start=0", rates=[0.01]
    )
    w_rec = built.network.layers[0].w_rec.numpy()
    assert not np.any(np.diagonal(w_rec, axis1=1, axis2=2))
    assert np.std(w_rec) > 0


@pytest.fixture
def seen(monkeypatch):
    """What the steps made later give to the network, a list of (features, dropout seed)."""
    found = []

    def compute_gradients(
        network, loss_of_examples, variables, features, targets, seq_len, dropout_seed=None
    ):
        found.append((np.array(features), np.array(dropout_seed).tolist()))
        return None, models.Losses(*[tf.zeros([])] * 3), [tf.zeros_like(v) for v in variables]

    monkeypatch.setattr(steps, "compute_gradients", compute_gradients)
    return found


def test_input_noise_has_its_size_and_spares_the_padding(short_dataset, seen, eager):
    """What the network is shown in training steps, with noise less without."""
    batch = short_dataset().train.batch([0, 2])  # 6 and 14 frames
    for std, iteration in ((0, 0), (0.5, 0), (0.5, 0), (0.5, 1)):
        step, _ = train_step(build(lstm, short_dataset(), f"--input_noise_std={std}", seed=7))
        step(*batch, 0.0, iteration)
    none, first, again, other = (features for features, _ in seen)
    np.testing.assert_array_equal(none, batch.features)
    np.testing.assert_array_equal(first, again)
    noise, different = (
        np.concatenate([(shown - none)[b, :n].ravel() for b, n in enumerate(batch.seq_len)])
        for shown in (first, other)
    )
    # Standard error of the standard deviation of 780 numbers: 2.5 %.
    assert np.std(noise) == pytest.approx(0.5, rel=0.1)
    assert not np.any(first[0, batch.seq_len[0] :])
    assert abs(np.corrcoef(noise, different)[0, 1]) < 0.15


@pytest.mark.parametrize("optimiser", ["--adam", "--noadam"])
def test_cells_learn_at_their_own_rate(optimiser, short_dataset, batch, eager):
    """A first step from the same weights: the layer's is a quarter, the readout's as it was."""
    moved = []
    for factor in (1, 0.25):
        _, (before, after) = one_step_after_another(
            lsnn, short_dataset(), batch, optimiser, f"--cell_lr_factor={factor}", rates=[0.01]
        )
        moved.append({name: after[name] - before[name] for name in after})
    for name, step in moved[0].items():
        share = 0.25 if name.startswith("layer0/") else 1
        assert np.any(step)
        # float32: a weight near 1 is known to 1e-7.
        np.testing.assert_allclose(moved[1][name], share * step, rtol=1e-3, atol=3e-7)


def test_dropout_depends_on_seed_and_iteration_alone(short_dataset, batch, seen, eager):
    """On one device; test_devices.py has several."""
    network = build(lsnn, short_dataset(), "--drop_out_probability=0.4").network

    def loss(dropout_seed):
        output = network(batch.features, batch.seq_len, dropout_seed)
        prediction = cross_entropy(output.logits, batch.phns, batch.seq_len)
        return float(network.losses(output, prediction, batch.seq_len).prediction)

    losses = [loss(seed) for seed in ([1, 5], [1, 5], [1, 6], [2, 5], None, None)]
    assert losses[0] == losses[1] and losses[4] == losses[5]
    assert len(set(losses)) == 4
    step, _ = train_step(build(lsnn, short_dataset(), seed=3))
    for iteration in (0, 7):
        step(*batch, 0.0, iteration)
    assert [dropout_seed for _, dropout_seed in seen] == [[3, 0], [3, 7]]
