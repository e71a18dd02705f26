"""Learning rates, batches, steps, evaluation, selection and weights on disk, on tiny networks."""

import io
import json
import os
import pickle
import random
import re
import subprocess
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import REPOSITORY
from toolbox import command_line
from toolbox.command_line import UserError

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

import models
import solve_timit_with_framewise_lsnn as lsnn  # noqa: E402
import solve_timit_with_framewise_lstm as lstm  # noqa: E402
from layers import (
    alif,  # noqa: E402
    neurons,  # noqa: E402
)
from lmu import front_end  # noqa: E402
from speech.dataset import Batch  # noqa: E402
from tasks import figures as task_figures
from toolbox import plotting
from training import figures as training_figures  # noqa: E402
from training import loop  # noqa: E402

SIZE = {lsnn: ["--n_regular=6", "--n_adaptive=4", "--n_repeat=1"], lstm: ["--n_lstm=8"]}
BOTH = pytest.mark.parametrize("script", [lsnn, lstm], ids=["lsnn", "lstm"])


def parse(script, *arguments):
    """Flags of a script with a tiny network; later arguments win."""
    flag_values, _ = command_line.parse_flags(
        script.define_flags, ["script.py", *SIZE[script], "--batch=2", "--n_epochs=2", *arguments]
    )
    loop.check_flags(flag_values)
    return flag_values


def build(script, dataset, *arguments, seed=1):
    """Flags and network."""
    flag_values = parse(script, *arguments)
    return flag_values, script.make_network(flag_values, dataset, seed)


def values(variables):
    return {name: variable.numpy() for name, variable in variables.items()}


def equal(first, second):
    """Whether two dicts of arrays are the same, bit by bit."""
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def changed(before, network):
    """Names of the weights that are no longer what they were."""
    now = values(network.weights())
    return {name for name in now if not np.array_equal(now[name], before[name])}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Function that trains a tiny network; returns what it wrote."""
    monkeypatch.setattr(plotting, "DPI", 40)  # figures of full size take longer than training
    drawn = []
    for figures, name in (
        (training_figures, "plot_learning_curve"),
        (task_figures, "plot_lsnn_utterance"),
    ):

        def draw(path, *arguments, plot=getattr(figures, name), **options):
            plot(path, *arguments, **options)
            drawn.append(os.path.basename(path))

        monkeypatch.setattr(figures, name, draw)

    def run(script, dataset, *arguments):
        flag_values = parse(script, "--seed=1", *arguments)
        seed = loop.set_up_seed(flag_values)
        network = script.make_network(flag_values, dataset, seed)
        folder = tmp_path / f"run{len(os.listdir(tmp_path))}"
        folder.mkdir()
        drawn.clear()
        metrics = loop.train(
            network, dataset, flag_values, seed, str(folder), network.trainable_variables
        )
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return SimpleNamespace(
            folder=folder,
            network=network,
            metrics=metrics,
            evaluations=[json.loads(line) for line in lines],
            drawn=list(drawn),
        )

    return run


# --------------------------------------------------------------------------- learning rate


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--noramping_learning_rate"], {0: 0.01, 99: 0.01, 10000: 0.01}),
        (
            ["--ramping_learning_rate", "--lr_init=0.02"],
            {0: 0, 33: 0.02 / 3, 98: 0.02 * 98 / 99, 99: 0.02, 100: 0.02, 10000: 0.02},
        ),
        (
            ["--noramping_learning_rate", "--lr_decay_every=500", "--lr_decay=0.3"],
            {0: 0.01, 499: 0.01, 500: 0.003, 999: 0.003, 1000: 0.0009, 1500: 0.00027},
        ),
        (
            ["--ramping_learning_rate", "--lr_decay_every=66", "--lr_decay=0.5"],
            {0: 0, 33: 0.01 / 3, 66: 0.01 / 3, 99: 0.005, 132: 0.0025},
        ),
    ],
)
def test_learning_rate(arguments, expected):
    flag_values = parse(lsnn, *arguments)
    found = {i: loop.learning_rate(flag_values, i) for i in expected}
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_scripts_differ_in_their_schedules():
    """LSNN: a ramp and no decay; LSTM: a factor of 0.3 every 500 iterations and no ramp."""
    assert [loop.learning_rate(parse(lsnn), i) for i in (0, 99, 500)] == [0, 0.01, 0.01]
    assert [loop.learning_rate(parse(lstm), i) for i in (0, 99, 500)] == [0.01, 0.01, 0.003]


@pytest.mark.parametrize("name", ["truncT", "lr_decay_every"])
@pytest.mark.parametrize("value", [0, -2])
def test_switched_off_is_minus_one_only(name, value):
    with pytest.raises(UserError, match=f"--{name}={value}"):
        parse(lstm, f"--{name}={value}")
    parse(lstm, f"--{name}=-1")


# --------------------------------------------------------------------------- batches


def numbered_batch(seq_len=(9, 4, 30)):
    """Utterances of which every frame tells where it stood: feature (utterance, frame + 1)."""
    seq_len = np.array(seq_len, np.int32)
    shape = len(seq_len), seq_len.max()
    is_true = np.arange(shape[1]) < seq_len[:, None]
    frames = np.broadcast_to(np.arange(shape[1]) + 1, shape)
    utterances = np.broadcast_to(np.arange(len(seq_len))[:, None], shape)
    features = np.stack([utterances, frames], -1) * is_true[..., None]
    return Batch(features.astype(np.float32), (frames % 39 * is_true).astype(np.int32), seq_len)


@pytest.mark.parametrize("n_frames", [1, 6, 9, 100])
def test_random_windows_hold_true_frames_in_order(n_frames):
    batch = numbered_batch()
    for seed in range(50):
        windows = loop.random_windows(batch, n_frames, np.random.default_rng(seed))
        np.testing.assert_array_equal(windows.seq_len, np.minimum(batch.seq_len, n_frames))
        assert windows.features.shape == (3, windows.seq_len.max(), 2)
        for name in Batch._fields:
            assert getattr(windows, name).dtype == getattr(batch, name).dtype
        for i, length in enumerate(windows.seq_len):
            utterance, frames = windows.features[i, :length].T
            assert set(utterance) == {i}
            assert 1 <= frames[0] and frames[-1] <= batch.seq_len[i]
            np.testing.assert_array_equal(np.diff(frames), np.ones(length - 1))
            np.testing.assert_array_equal(windows.phns[i, :length], frames % 39)
            assert not windows.features[i, length:].any() and not windows.phns[i, length:].any()


def test_random_windows_start_anywhere():
    batch = numbered_batch()
    generator = np.random.default_rng(0)
    starts = [loop.random_windows(batch, 6, generator).features[:, 0, 1] for _ in range(400)]
    first, second, third = np.array(starts).T
    # 25 starts at 1/25 each: that one of them is missed 400 times has a chance of 2e-6.
    assert (set(first), set(second), set(third)) == ({1, 2, 3, 4}, {1}, set(range(1, 26)))
    assert np.corrcoef(first, third)[0, 1] < 0.3  # each utterance draws its own


def test_random_windows_depend_on_the_generator_alone():
    batch = numbered_batch()
    first, again, other = (
        loop.random_windows(batch, 6, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first.features, other.features)


def epochs_of(dataset, *arguments, seed=1):
    """The first features of every training utterance, by epoch."""
    epochs = {}
    for epoch, batch in loop.training_batches(dataset, parse(lstm, *arguments), seed):
        epochs.setdefault(epoch, []).append(batch.features[:, 0, 0])
    return epochs


def test_every_epoch_shows_every_utterance_in_another_order(short_dataset):
    dataset = short_dataset()
    epochs = epochs_of(dataset, "--n_epochs=3", "--batch=2")
    assert list(epochs) == [0, 1, 2]
    expected = sorted(f[0, 0] for f in dataset.train.features)
    orders = [np.concatenate(batches) for batches in epochs.values()]
    for batches, order in zip(epochs.values(), orders):
        assert [len(batch) for batch in batches] == [2, 2, 2]
        assert sorted(order) == expected
    assert not np.array_equal(orders[0], orders[1])
    assert epochs_of(dataset, "--n_epochs=0") == {}


def test_batch_is_the_number_of_utterances(short_dataset):
    (batches,) = epochs_of(short_dataset(), "--n_epochs=1", "--batch=3").values()
    assert [len(batch) for batch in batches] == [3, 3]


def test_the_seed_decides_on_the_order(short_dataset):
    dataset = short_dataset()
    first, again, other = (
        np.concatenate([b for batches in epochs_of(dataset, seed=seed).values() for b in batches])
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_authors_batches_mix_lengths(short_dataset):
    """Six utterances of 6, 10 and 14 frames: sorted, each batch of two is of one length."""
    dataset = short_dataset()
    for quirks in (False, True):
        arguments = ["--n_epochs=9", "--batch=2", f"--reference_quirks={quirks}"]
        batches = loop.training_batches(dataset, parse(lstm, *arguments), seed=1)
        are_mixed = [len(set(batch.seq_len.tolist())) > 1 for _, batch in batches]
        assert len(are_mixed) == 27 and any(are_mixed) == quirks


def test_truncT_cuts_windows(short_dataset):
    for length, flag in ((14, "--truncT=-1"), (5, "--truncT=5")):
        batches = loop.training_batches(short_dataset(), parse(lsnn, flag), seed=1)
        assert max(batch.features.shape[1] for _, batch in batches) == length


# --------------------------------------------------------------------------- one step


@pytest.fixture
def batch(short_dataset):
    return short_dataset().train.batch([0, 1])


@BOTH
@pytest.mark.parametrize("quirks", ["--reference_quirks", "--noreference_quirks"])
def test_the_rules_are_alive_and_differ(script, quirks, short_dataset, batch):
    """Gradients of the recurrent layer by the four rules, from the same weights."""
    gradients = {}
    for rule in loop.eprop.RULES:
        flag = [] if rule == "bptt" else [f"--eprop={rule}"]
        _, network = build(script, short_dataset(), quirks, *flag)
        layer = network.layers[0].trainable_variables
        _, losses, found = loop.compute_gradients(network, layer, *batch)
        gradients[rule] = np.concatenate([np.ravel(g) for g in found])
        assert np.linalg.norm(gradients[rule]) > 1e-4
        assert float(losses.total) == pytest.approx(float(sum(losses)), rel=1e-6)
    rules = list(gradients)
    for i, rule in enumerate(rules):
        for other in rules[:i]:
            difference = np.linalg.norm(gradients[rule] - gradients[other])
            assert difference > 1e-2 * np.linalg.norm(gradients[rule]), (rule, other)


def one_step_after_another(script, dataset, batch, *arguments, rates, seed=1, first_iteration=0):
    """Weights before each step of training and after the last."""
    flag_values, network = build(script, dataset, *arguments)
    variables = network.trainable_variables
    optimizer = loop.make_optimizer(flag_values, network)
    step = loop.make_train_step(network, optimizer, variables, flag_values, seed)
    weights = [values(network.weights())]
    for iteration, rate in enumerate(rates, first_iteration):
        assert np.isfinite(step(*batch, rate, iteration))
        weights.append(values(network.weights()))
    return network, weights


def gradients_at(network, weights, batch):
    """Gradient of every trained weight by its name, at the given weights."""
    variables = network.weights()
    for name, value in weights.items():
        variables[name].assign(value)
    names = [name for name, variable in variables.items() if variable.trainable]
    found = loop.compute_gradients(network, [variables[n] for n in names], *batch)[2]
    return {name: g.numpy().astype(np.float64) for name, g in zip(names, found)}


@pytest.mark.parametrize("is_adam", [True, False])
def test_two_steps_are_those_of_the_textbook(is_adam, short_dataset, batch, eager):
    """Kingma & Ba 2015, algorithm 1 with epsilon outside the corrected root; heavy ball."""
    network, weights = one_step_after_another(
        lstm,
        short_dataset(),
        batch,
        f"--adam={is_adam}",
        "--momentum=0.7",
        "--adam_epsilon=1e-3",
        rates=(0.02, 0.03),
    )
    first, second = (gradients_at(network, w, batch) for w in weights[:2])
    for name, g in first.items():
        h = second[name]
        if is_adam:
            m, v = 0.3 * g, 0.001 * g**2
            n, w = 0.7 * m + 0.3 * h, 0.999 * v + 0.001 * h**2
            steps = [
                0.02 * np.sqrt(1 - 0.999) / (1 - 0.7) * m / (np.sqrt(v) + 1e-3),
                0.03 * np.sqrt(1 - 0.999**2) / (1 - 0.7**2) * n / (np.sqrt(w) + 1e-3),
            ]
        else:
            steps = [0.02 * g, 0.7 * 0.02 * g + 0.03 * h]
        for k in range(2):
            moved = weights[k][name] - weights[k + 1][name]
            # float32: a weight near 1 is known to 1e-7, a step is a few hundredths at most.
            np.testing.assert_allclose(moved, steps[k], rtol=1e-3, atol=3e-7, err_msg=name)


@pytest.mark.parametrize("rule", ["bptt", "symmetric"])
def test_engines_do_not_part_in_float64(rule, short_dataset):
    """Ten steps of training: the same spikes, and weights that differ by rounding alone."""
    dataset = short_dataset()
    flag_values = parse(lsnn)
    trained = {}
    for engine in alif.ENGINES:
        network = models.Lsnn(
            dataset.n_features,
            dataset.n_phns,
            rule,
            neurons.alif_parameters(12, 6),
            np.random.default_rng(1),
            weight_scale=0.3,
            engine=engine,
            dtype=tf.float64,
        )
        optimizer = loop.make_optimizer(flag_values, network)
        step = loop.make_train_step(network, optimizer, network.trainable_variables, flag_values, 1)
        first = values(network.weights())
        for iteration in range(10):
            features, phns, seq_len = dataset.train.batch([iteration % 6, (iteration + 3) % 6])
            step(features.astype(np.float64), phns, seq_len, 0.01, iteration)
        batch = dataset.train.batch(range(6))
        output = network(batch.features.astype(np.float64), batch.seq_len, with_spikes=True)
        trained[engine] = values(network.weights()), output.spikes[0].numpy()
    (dense, dense_spikes), (event, event_spikes) = (trained[e] for e in ("dense", "event"))
    np.testing.assert_array_equal(event_spikes, dense_spikes)
    assert 0.01 < dense_spikes.mean() < 0.5
    for name in dense:
        moved = np.abs(dense[name] - first[name]).max()
        assert moved > 1e-3, name
        np.testing.assert_allclose(event[name], dense[name], rtol=0, atol=1e-9 * moved)


def test_mirror_decay_shrinks_readout_and_feedback(short_dataset, batch, eager):
    for rule, decayed in (
        ("adaptive", {"readout/w_out", "readout/feedback"}),
        ("random", set()),
        ("symmetric", set()),
    ):
        network, (before, after) = one_step_after_another(
            lsnn, short_dataset(), batch, f"--eprop={rule}", "--readout_decay=0.25", rates=[0.0]
        )
        assert changed(before, network) == decayed  # without a learning rate nothing else moves
        for name in decayed:
            np.testing.assert_allclose(after[name], 0.75 * before[name], rtol=1e-6)


def test_gradient_noise_has_its_size_and_start(short_dataset, batch, eager):
    arguments = ["--noadam", "--momentum=0", "--l2=0", "--gd_noise=0.5", "--noise_step_start=4"]
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
    network, _ = one_step_after_another(
        lsnn, short_dataset(), batch, "--gd_noise=0.5", "--noise_step_start=0", rates=[0.01]
    )
    w_rec = network.layers[0].w_rec.numpy()
    assert not np.any(np.diagonal(w_rec, axis1=1, axis2=2))
    assert np.std(w_rec) > 0


def test_input_noise_has_its_size_and_spares_the_padding(short_dataset, monkeypatch, eager):
    """What the network is shown in training steps, with noise less without."""
    _, network = build(lstm, short_dataset())
    batch = short_dataset().train.batch([0, 2])  # 6 and 14 frames
    shown = []
    monkeypatch.setattr(
        loop,
        "compute_gradients",
        lambda network, variables, features, *others, **options: (
            shown.append(np.array(features)),
            models.Losses(*[tf.zeros([])] * 3),
            [tf.zeros_like(v) for v in variables],
        ),
    )
    for std, iteration in ((0, 0), (0.5, 0), (0.5, 0), (0.5, 1)):
        flag_values = parse(lstm, f"--input_noise_std={std}")
        variables = network.trainable_variables
        optimizer = loop.make_optimizer(flag_values, network)
        step = loop.make_train_step(network, optimizer, variables, flag_values, 7)
        step(*batch, 0.0, iteration)
    none, first, again, other = shown
    np.testing.assert_array_equal(none, batch.features)
    np.testing.assert_array_equal(first, again)
    noise = np.concatenate([(first - none)[b, :n].ravel() for b, n in enumerate(batch.seq_len)])
    # Standard error of the standard deviation of 780 numbers: 2.5 %.
    assert np.std(noise) == pytest.approx(0.5, rel=0.1)
    assert not np.any(first[0, batch.seq_len[0] :])
    different = np.concatenate([(other - none)[b, :n].ravel() for b, n in enumerate(batch.seq_len)])
    assert abs(np.corrcoef(noise, different)[0, 1]) < 0.15


@pytest.mark.parametrize("optimiser", ["--adam", "--noadam"])
def test_cells_learn_at_their_own_rate(optimiser, short_dataset, batch, eager):
    """A first step from the same weights: the layer's is a quarter, the readout's as it was."""
    steps = []
    for factor in (1, 0.25):
        _, (before, after) = one_step_after_another(
            lsnn, short_dataset(), batch, optimiser, f"--cell_lr_factor={factor}", rates=[0.01]
        )
        steps.append({name: after[name] - before[name] for name in after})
    for name, step in steps[0].items():
        share = 0.25 if name.startswith("layer0/") else 1
        assert np.any(step)
        # float32: a weight near 1 is known to 1e-7.
        np.testing.assert_allclose(steps[1][name], share * step, rtol=1e-3, atol=3e-7)


def test_dropout_depends_on_seed_and_iteration_alone(short_dataset, batch):
    _, network = build(lsnn, short_dataset(), "--drop_out_probability=0.4")

    def loss(dropout_seed):
        output = network(*(batch.features, batch.seq_len), dropout_seed)
        return float(network.losses(output, batch.phns, batch.seq_len).prediction)

    losses = [loss(seed) for seed in ([1, 5], [1, 5], [1, 6], [2, 5], None, None)]
    assert losses[0] == losses[1] and losses[4] == losses[5]
    assert len(set(losses)) == 4


# --------------------------------------------------------------------------- evaluation


def frame_errors(network, dataset, split):
    """Frame errors on 61 or 39 and on 39 classes, an utterance at a time, without padding."""
    errors, errors_39 = [], []
    for features, phns in zip(split.features, split.phns):
        logits = network(features[None], np.array([len(phns)], np.int32)).logits[0]
        answers = np.argmax(logits, axis=-1)
        fold = [*dataset.fold_to_reduced, None]
        errors.append(np.mean(answers != phns))
        errors_39.append(np.mean([fold[a] != fold[p] for a, p in zip(answers, phns)]))
    return np.mean(errors), np.mean(errors_39)


@BOTH
def test_batches_do_not_change_an_evaluation(script, short_dataset, eager):
    """Utterances of 6, 10 and 14 frames, alone, as two and one, and together."""
    dataset = short_dataset()
    _, network = build(script, dataset)
    alone, uneven, together = (
        loop.make_evaluation(network, dataset, size)(dataset.test) for size in (1, 2, 3)
    )
    assert {len(phns) for phns in dataset.test.phns} == {6, 10, 14}
    for other in (alone, uneven):
        for name in ("frame_error", "frame_error_39", "loss", "prediction_loss", "rate_loss"):
            assert getattr(other, name) == pytest.approx(getattr(together, name), rel=1e-5)
        np.testing.assert_array_equal(other.confusion, together.confusion)
        if script is lsnn:
            np.testing.assert_allclose(other.rates_hz, together.rates_hz, rtol=1e-5)
    expected = frame_errors(network, dataset, dataset.test)
    assert (together.frame_error, together.frame_error_39) == pytest.approx(expected, rel=1e-6)
    assert together.confusion.sum() == 30
    assert together.loss == pytest.approx(
        together.prediction_loss + together.rate_loss + float(network.l2_loss()), rel=1e-6
    )


def test_rates_are_spikes_per_simulated_second(short_dataset, eager):
    dataset = short_dataset()
    _, network = build(lsnn, dataset, "--weight_scale=1", "--n_repeat=2")
    evaluation = loop.make_evaluation(network, dataset, 2)(dataset.test)
    n_spikes = sum(
        np.sum(
            network(f[None], np.array([len(f)], np.int32), with_spikes=True).spikes[0], axis=(0, 1)
        )
        for f in dataset.test.features
    )
    simulated_s = 30 * 2 / 1000  # frames, steps a frame, ms
    np.testing.assert_allclose(evaluation.rates_hz, n_spikes / simulated_s, rtol=1e-5)
    assert n_spikes.sum() > 10
    target = 0.01  # 10 Hz a step
    expected = 50 * np.sum((evaluation.rates_hz / 1000 - target) ** 2)
    assert evaluation.rate_loss == pytest.approx(expected, rel=1e-4)


def test_cells_that_do_not_spike_have_no_rates(short_dataset, eager):
    dataset = short_dataset()
    _, network = build(lstm, dataset)
    evaluation = loop.make_evaluation(network, dataset, 3)(dataset.test)
    assert evaluation.rates_hz is None and evaluation.rate_loss == 0


def test_61_classes_are_folded_to_39(short_dataset, eager):
    dataset = short_dataset(reduced_phns=False)
    _, network = build(lstm, dataset, "--noreduced_phns")
    assert network.readout.w_out.shape[1] == 61
    # Always "pau", which is silence as "h#" is: right on 39 classes where it is wrong on 61.
    network.readout.b_out.assign(1000 * np.eye(61)[dataset.phn_list.index("pau")])
    evaluation = loop.make_evaluation(network, dataset, 3)(dataset.test)
    expected = frame_errors(network, dataset, dataset.test)
    found = (evaluation.frame_error, evaluation.frame_error_39)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[1] < found[0]
    assert evaluation.confusion[:, 0].sum() == evaluation.confusion.sum() == 30


@pytest.mark.parametrize("reduced_phns", [True, False])
def test_the_blank_of_the_reference_is_always_wrong(reduced_phns, short_dataset, eager):
    dataset = short_dataset(reduced_phns=reduced_phns)
    flag = f"--reduced_phns={reduced_phns}"
    _, network = build(lsnn, dataset, flag, "--reference_quirks")
    assert network.readout.b_out.shape == (dataset.n_phns + 1,)
    network.readout.b_out.assign(1000 * np.eye(dataset.n_phns + 1)[-1])
    evaluation = loop.make_evaluation(network, dataset, 3)(dataset.test)
    assert (evaluation.frame_error, evaluation.frame_error_39) == pytest.approx((1, 1), abs=1e-6)
    assert evaluation.confusion.sum() == 0  # a blank is no phone's answer


def test_a_frame_error_is_a_fraction(short_dataset, eager):
    dataset = short_dataset()
    _, network = build(lstm, dataset)
    unused = set(range(39)) - {phn for phns in dataset.train.phns for phn in phns}
    network.readout.b_out.assign(1000 * np.eye(39)[min(unused)])
    assert loop.make_evaluation(network, dataset, 6)(dataset.train).frame_error == 1


# --------------------------------------------------------------------------- the loop

KEYS = {
    "best_develop_frame_error",
    "test_frame_error",
    "best_develop_frame_error_39",
    "test_frame_error_39",
    "initial_develop_frame_error",
    "majority_develop_frame_error",
    "best_iteration",
    "iterations",
    "test_loss",
    "seconds_per_iteration",
    "peak_memory_gb",
    "trained_parameters",
    "seed",
}


def test_a_run_leaves_metrics_weights_and_figures(train, short_dataset, eager, capsys):
    dataset = short_dataset()
    run = train(lstm, dataset, "--n_epochs=3", "--print_every=2")
    assert json.loads((run.folder / "metrics.json").read_text()) == run.metrics
    assert run.metrics.keys() == KEYS
    assert run.metrics["iterations"] == 3 * 3  # epochs, batches
    assert run.metrics["seed"] == 1
    assert run.metrics["trained_parameters"] == sum(
        np.prod(v.shape) for v in run.network.trainable_variables
    )
    assert 0.05 < run.metrics["peak_memory_gb"] < 100
    assert run.metrics["seconds_per_iteration"] > 0
    assert run.metrics["majority_develop_frame_error"] == dataset.majority_error(dataset.develop)

    assert [e["iteration"] for e in run.evaluations] == [0, 2, 4, 6, 8, 9]
    assert [e["epoch"] for e in run.evaluations] == [0, 0, 1, 2, 2, 2]
    assert run.evaluations[0]["train_loss"] is None
    assert all(np.isfinite(e["train_loss"]) for e in run.evaluations[1:])
    errors = [e["develop_frame_error"] for e in run.evaluations]
    assert run.metrics["initial_develop_frame_error"] == errors[0]
    assert run.metrics["best_develop_frame_error"] == min(errors)
    assert run.metrics["best_iteration"] == [0, 2, 4, 6, 8, 9][int(np.argmin(errors))]

    assert sorted(os.listdir(run.folder)) == [
        "best.npz",
        "confusion_matrix.png",
        "last.npz",
        "learning_curve.png",
        "metrics.json",
        "metrics.jsonl",
    ]
    out = capsys.readouterr().out
    assert len(re.findall(r"^epoch +\d+  iteration +\d+ .*frame error", out, re.M)) == 6
    assert f"test {run.metrics['test_frame_error']:.3f}" in out


def test_no_epoch_is_an_evaluation_of_the_first_weights(train, short_dataset, eager, monkeypatch):
    dataset, read = short_dataset(), []
    for name in ("develop", "test"):

        def batches(size, by_length=False, name=name, split=getattr(dataset, name)):
            read.append((name, size))
            return type(split).batches(split, size, by_length)

        monkeypatch.setattr(getattr(dataset, name), "batches", batches)
    run = train(lstm, dataset, "--n_epochs=0", "--test_batch=2")
    assert read == [("develop", 2), ("test", 2)]  # the test set once
    assert (run.metrics["iterations"], run.metrics["best_iteration"]) == (0, 0)
    assert run.metrics["seconds_per_iteration"] is None
    assert len(run.evaluations) == 1
    _, fresh = build(lstm, short_dataset())
    assert equal(values(fresh.weights()), values(run.network.weights()))


def test_the_test_set_is_read_with_the_weights_selected_on_develop(train, short_dataset, eager):
    dataset = short_dataset()
    dataset.develop = dataset.train  # learnt by heart in 24 iterations
    # Then the learning rate grows a thousandfold, and six more destroy it.
    run = train(
        lstm,
        dataset,
        "--n_epochs=10",
        "--print_every=6",
        "--lr_init=0.03",
        "--lr_decay_every=24",
        "--lr_decay=1000",
    )
    errors = {e["iteration"]: e["develop_frame_error"] for e in run.evaluations}
    assert list(errors) == [0, 6, 12, 18, 24, 30]
    assert 0 < run.metrics["best_iteration"] < 30
    assert run.metrics["best_develop_frame_error"] == min(errors.values())
    assert min(errors.values()) < min(errors[0], errors[30]) - 0.1
    evaluate = loop.make_evaluation(run.network, dataset, 2)
    found = {}
    for name in ("best", "last"):
        loop.load_weights(str(run.folder / f"{name}.npz"), run.network)
        found[name] = evaluate(dataset.develop), evaluate(dataset.test)
    develop, test = found["best"]
    assert run.metrics["best_develop_frame_error"] == pytest.approx(develop.frame_error, rel=1e-6)
    assert run.metrics["test_frame_error"] == pytest.approx(test.frame_error, rel=1e-6)
    assert run.metrics["test_frame_error_39"] == pytest.approx(test.frame_error_39, rel=1e-6)
    assert run.metrics["test_loss"] == pytest.approx(test.loss, rel=1e-6)
    assert found["last"][1].loss > 2 * test.loss
    assert run.evaluations[-1]["develop_loss"] == pytest.approx(found["last"][0].loss, rel=1e-5)


def test_weights_that_are_no_numbers_are_never_selected(train, short_dataset, eager, tmp_path):
    with pytest.raises(UserError, match="--lr_init"):
        train(lstm, short_dataset(), "--lr_init=1e30", "--noadam", "--print_every=2")
    (best,) = tmp_path.rglob("best.npz")
    with np.load(best) as weights:
        assert all(np.isfinite(weights[name]).all() for name in weights.files)


def without_costs(metrics):
    return {
        name: value
        for name, value in metrics.items()
        if name not in ("seconds_per_iteration", "peak_memory_gb")
    }


@BOTH
def test_one_seed_one_result(script, train, short_dataset, capsys):
    """Compiled, as a user runs it, with every source of chance switched on."""
    arguments = ["--eprop=random", "--noise_step_start=1", "--truncT=6", "--print_every=1"]
    if script is lsnn:
        arguments += ["--drop_out_probability=0.3", "--tau_a_spread", "--tau_v_spread"]
    first, again = (train(script, short_dataset(), *arguments) for _ in range(2))
    assert equal(values(first.network.weights()), values(again.network.weights()))
    assert without_costs(first.metrics) == without_costs(again.metrics)
    for one, two in zip(first.evaluations, again.evaluations, strict=True):
        assert without_costs(one) == without_costs(two)
    raster = ["lsnn_utterance.png"] if script is lsnn else []
    assert sorted(first.drawn) == ["learning_curve.png", *raster]  # once, at the end
    assert ("firing rates (Hz)" in capsys.readouterr().out) == (script is lsnn)


@BOTH
def test_another_seed_another_result(script, train, short_dataset, eager):
    first, other = (
        train(script, short_dataset(), "--n_epochs=1", "--batch=6", f"--seed={seed}")
        for seed in (1, 2)
    )
    assert (first.metrics["seed"], other.metrics["seed"]) == (1, 2)
    # Far beyond what rounding could do.
    assert abs(first.metrics["test_loss"] - other.metrics["test_loss"]) > 1e-3


def test_plot_draws_at_every_evaluation(train, short_dataset, eager, capsys):
    run = train(lsnn, short_dataset(), "--n_epochs=1", "--batch=6", "--plot", "--noverbose")
    assert len(run.evaluations) == 2
    assert sorted(run.drawn) == ["learning_curve.png"] * 3 + ["lsnn_utterance.png"] * 3
    for name in ("learning_curve", "lsnn_utterance", "confusion_matrix"):
        assert (run.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "firing rates" not in capsys.readouterr().out  # --noverbose, but on disk
    for record in run.evaluations:
        assert 0 <= record["rate_hz_min"] <= record["rate_hz_mean"] <= record["rate_hz_max"]


# --------------------------------------------------------------------------- weights on disk


@BOTH
@pytest.mark.parametrize("rule", ["bptt", "adaptive"])
def test_weights_come_back(script, rule, short_dataset, tmp_path):
    flags = [] if rule == "bptt" else [f"--eprop={rule}"]
    _, network = build(script, short_dataset(), *flags)
    _, other = build(script, short_dataset(), *flags, seed=2)
    before, weights = values(other.weights()), values(network.weights())
    assert changed(before, network) >= {"readout/w_out"}
    loop.save_weights(str(tmp_path / "best.npz"), network)
    for path in (tmp_path / "best.npz", tmp_path):  # the file, or its run folder
        for name, variable in other.weights().items():
            variable.assign(before[name])
        loop.load_weights(str(path), other)
        assert equal(values(other.weights()), weights)


def test_feedback_is_taken_where_both_sides_have_it(short_dataset, tmp_path):
    path = str(tmp_path / "weights.npz")
    _, adaptive = build(lstm, short_dataset(), "--eprop=adaptive")
    _, symmetric = build(lstm, short_dataset(), "--eprop=symmetric", seed=2)
    feedback = adaptive.readout.feedback.numpy()
    loop.save_weights(path, adaptive)
    loop.load_weights(path, symmetric)
    np.testing.assert_array_equal(symmetric.readout.w_out, adaptive.readout.w_out)
    loop.save_weights(path, build(lstm, short_dataset(), seed=3)[1])
    loop.load_weights(path, adaptive)
    np.testing.assert_array_equal(adaptive.readout.feedback, feedback)


class Attack:
    """A pickle of it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_files_that_hold_no_weights_of_this_network_are_refused(short_dataset, tmp_path):
    _, network = build(lstm, short_dataset())
    good = values(network.weights())
    kernel = "layer0/kernel"

    def archive(name, weights):
        np.savez(tmp_path / name, **weights)

    archive("shape.npz", {**good, kernel: good[kernel][:, 1:]})
    archive("name.npz", {name: value for name, value in good.items() if name != kernel})
    archive("integers.npz", {**good, kernel: good[kernel].astype(np.int32)})
    trap = tmp_path / "trap"
    archive("objects.npz", {**good, kernel: np.array([Attack(str(trap))], object)})
    (tmp_path / "attack.npz").write_bytes(pickle.dumps(Attack(str(trap))))
    np.save(tmp_path / "single.npy", good[kernel])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    archive("half.npz", good)
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:-200])
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("shape.npz", [kernel, "another network", str(good[kernel].shape)]),
        ("name.npz", [kernel, "another network"]),
        ("integers.npz", [kernel, "int32"]),
        ("objects.npz", ["holds no weights"]),
        ("attack.npz", ["holds no weights"]),
        ("single.npy", ["holds no weights"]),
        ("text.npz", ["holds no weights"]),
        ("empty.npz", ["holds no weights"]),
        ("half.npz", ["holds no weights"]),
        ("missing.npz", ["cannot read", "No such file"]),
        ("folder", [os.path.join("folder", "best.npz")]),
    ):
        with pytest.raises(UserError) as error:
            loop.load_weights(str(tmp_path / name), network)
        message = str(error.value)
        assert message.startswith("--checkpoint") and "\n" not in message
        for word in [name, *words]:
            assert word in message
        assert equal(values(network.weights()), good)
    assert not trap.exists()


def archive_of(path, name, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)


def header(descr, shape):
    """Beginning of a `.npy` file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def test_archives_that_lie_about_their_size(short_dataset, tmp_path):
    """A small file that unpacks to a gigabyte; arrays larger than their file; no float32 values."""
    _, network = build(lstm, short_dataset())
    good = values(network.weights())
    path = str(tmp_path / "x.npz")
    for name, content, words in (
        ("readout/b_out.npy", bytes(2**30), "unpacks to 1.1e"),
        ("readout/b_out.npy", header("<f4", (10**12,)) + bytes(8), "announces"),
        ("readout/b_out.npy", header("<f4", (-1, -39)) + bytes(156), "holds no weights|another"),
        ("readout/b_out.npy", header("|O", (1,)) + pickle.dumps([1]), "Python objects"),
        ("readout/b_out.npy", b"\x93NUMPY\x01\x00", "no readable archive"),
    ):
        archive_of(path, name, content)
        with pytest.raises(UserError, match=words):
            loop.load_weights(path, network)
    for bad in (np.nan, 1e300):
        np.savez(path, **{**good, "readout/b_out": np.full(39, bad)})
        with pytest.raises(UserError, match="readout/b_out in .* holds NaN or infinite"):
            loop.load_weights(path, network)
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no file"):
        loop.load_weights(path, network)
    assert equal(values(network.weights()), good)


@pytest.mark.parametrize(
    "saved, loaded",
    [
        ((lsnn, "--n_regular=7"), (lsnn, "--n_regular=6")),
        ((lsnn, "--n_regular=6", "--n_adaptive=5"), (lsnn,)),
        ((lsnn,), (lsnn, "--n_layer=2", "--noloss_from_all_layers")),
        ((lsnn, "--norec"), (lsnn,)),
        ((lsnn, "--noreadout_bias"), (lsnn,)),
        ((lsnn,), (lsnn, "--reference_quirks")),
        ((lstm,), (lstm, "--nolstm")),
        ((lstm,), (lsnn,)),
    ],
)
def test_weights_of_another_network_are_refused(saved, loaded, short_dataset, tmp_path):
    path = str(tmp_path / "weights.npz")
    loop.save_weights(path, build(saved[0], short_dataset(), *saved[1:])[1])
    _, network = build(loaded[0], short_dataset(), *loaded[1:])
    before = values(network.weights())
    with pytest.raises(UserError, match="another network"):
        loop.load_weights(path, network)
    assert not changed(before, network)


@pytest.mark.parametrize(
    "saved", [["--n_layer=2", "--noloss_from_all_layers"], ["--readout_bias"], ["--rec"]]
)
def test_weights_of_a_larger_network_are_refused(saved, short_dataset, tmp_path):
    path = str(tmp_path / "weights.npz")
    loop.save_weights(path, build(lsnn, short_dataset(), *saved)[1])
    network = build(lsnn, short_dataset(), "--norec", "--noreadout_bias")[1]
    if "--n_layer=2" in saved:
        network = build(lsnn, short_dataset())[1]
    with pytest.raises(UserError, match="another network"):
        loop.load_weights(path, network)


# --------------------------------------------------------------------------- set-up


def test_the_seed_feeds_all_generators():
    def draws(flag):
        seed = loop.set_up_seed(parse(lstm, flag))
        return seed, random.random(), np.random.rand(), float(tf.random.uniform([]))

    first, again, other = draws("--seed=5"), draws("--seed=5"), draws("--seed=6")
    assert first == again and first[0] == 5
    assert all(a != b for a, b in zip(first, other))
    new, newer = draws("--seed=-1"), draws("--seed=-1")
    assert 0 <= new[0] < 2**31 and new[0] != newer[0] and new[1] != newer[1]
    assert draws(f"--seed={new[0]}") == new  # what is recorded repeats the run


@BOTH
def test_the_seed_decides_on_the_first_weights(script, short_dataset):
    first, again, other = (
        values(build(script, short_dataset(), "--eprop=random", seed=seed)[1].weights())
        for seed in (1, 1, 2)
    )
    assert equal(first, again)
    for name in ("readout/w_out", "readout/feedback"):
        assert not np.allclose(first[name], other[name])


def test_the_run_folder_records_what_the_run_depends_on(tmp_path):
    results = tmp_path / "results"
    arguments = [f"--results={results}", "--comment=first", "--run_id=7", "--eprop=random"]
    flag_values = parse(lsnn, *arguments)
    folder = loop.make_run_folder(flag_values, "script", 3)
    assert os.path.dirname(folder) == str(results / "script")
    date = r"\d{4}_\d\d_\d\d__\d\d_\d\d_\d\d_\d+"
    assert re.fullmatch(f"{date}_first_7", os.path.basename(folder))
    record = json.loads((tmp_path / folder / "flags.json").read_text())
    assert (record["script"], record["seed"]) == ("script", 3)
    for name, value in (("comment", "first"), ("n_regular", 6), ("eprop", "random"), ("l2", 1e-5)):
        assert record["flags"][name] == value
    assert record["flags"]["checkpoint"] == "" and record["flags"]["weight_scale"] is None
    assert set(record["flags"]) - {"h"} == set(flag_values) - {"help", "h"}
    assert record["versions"]["numpy"] == np.__version__
    assert any(name.startswith("tensorflow") for name in record["versions"])
    assert record["command"] and record["python"] and record["machine"]

    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if head.returncode == 0:
        assert head.stdout.strip() in record["commit"]
    else:  # no Git, or no commit yet
        assert record["commit"] is None

    other = loop.make_run_folder(parse(lsnn, f"--results={results}"), "script", 3)
    assert other != folder and re.fullmatch(date, os.path.basename(other))


def test_the_run_folder_records_no_help(tmp_path):
    folder = loop.make_run_folder(parse(lsnn, f"--results={tmp_path}"), "script", 3)
    with open(os.path.join(folder, "flags.json"), encoding="utf-8") as file:
        assert not {"help", "h"} & set(json.load(file)["flags"])


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--results"):
        loop.make_run_folder(parse(lsnn, f"--results={tmp_path / 'file'}"), "script", 3)


def test_the_data_set_is_described(tiny_processed, capsys):
    dataset = loop.load_dataset(parse(lstm, f"--dataset={tiny_processed}"))
    assert (dataset.n_features, dataset.n_phns) == (39, 39)
    assert capsys.readouterr().out == (
        "utterances: train 6, develop 2, test 3; 39 features; 39 phone classes\n"
    )
    arguments = [f"--dataset={tiny_processed}", "--preproc=fbank", "--noreduced_phns"]
    dataset = loop.load_dataset(parse(lstm, *arguments, "--reference_quirks"))
    assert (dataset.n_features, dataset.n_phns) == (123, 61)
    out = capsys.readouterr().out
    assert "123 features; 61 phone classes" in out
    delayed = loop.load_dataset(parse(lstm, *arguments, "--target_delay_frames=4"))
    np.testing.assert_array_equal(delayed.train.phns[0][4:], dataset.train.phns[0][:-4])
    assert "made with --reference_quirks=False" in out and tiny_processed in out


@pytest.mark.parametrize("kind", front_end.KINDS)
def test_the_past_is_appended_to_the_features(kind, tiny_processed, capsys):
    plain = loop.load_dataset(parse(lstm, f"--dataset={tiny_processed}"))
    sizes = ["--front_end_channels=2", "--front_end_order=3", "--front_end_theta_ms=90"]
    dataset = loop.load_dataset(
        parse(lstm, f"--dataset={tiny_processed}", f"--front_end={kind}", *sizes)
    )
    assert "45 features" in capsys.readouterr().out
    append = front_end.make_front_end(kind, plain.train.features, 13, 2, 3, 90)
    for name in ("train", "develop", "test"):
        for found, features in zip(getattr(dataset, name).features, getattr(plain, name).features):
            np.testing.assert_array_equal(found, append(features))
    assert (dataset.n_features, dataset.n_static) == (45, 13)


def test_a_data_set_of_another_version_is_no_traceback(tiny_processed, tmp_path):
    for name in ("train", "develop", "test"):
        os.symlink(os.path.join(tiny_processed, name), tmp_path / name)
    (tmp_path / "processing.json").write_text("{}")
    try:
        loop.load_dataset(parse(lstm, f"--dataset={tmp_path}"))
    except UserError as error:
        assert "processing.json" in str(error)
