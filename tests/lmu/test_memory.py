"""The measure of memory against explicit regressions, and its bookkeeping."""

import numpy as np
import pytest

from layers import event_driven
from layers.neurons import alif_parameters
from lmu import memory
from signals import smooth_utterances
from toolbox.command_line import UserError

N_PHNS = 3


class Layer:
    """A small random layer, speech of 8 speakers and the arguments of `measure`."""

    def __init__(self, directions=2, **parameters):
        rng = np.random.default_rng(0)
        self.parameters = alif_parameters(20, 10, **parameters)
        self.w_in = 0.04 * rng.normal(size=(directions, 4, 30))
        self.w_rec = 0.02 * rng.normal(size=(directions, 30, 30))
        self.utterances = smooth_utterances(rng, 16)
        self.phns = [
            np.digitize(u[:, 0] + 0.3 * rng.normal(size=len(u)), [-0.5, 0.5])
            for u in self.utterances
        ]
        self.speakers = [f"f{i // 2}" if i < 8 else f"m{i // 2}" for i in range(16)]
        self.is_held_out = [speaker in ("f1", "m5") for speaker in self.speakers]
        self.projection = np.linalg.qr(rng.normal(size=(4, 4)))[0][:, :2]

    def measure(self, **changes):
        arguments = {
            name: changes.get(name, getattr(self, name))
            for name in ("utterances", "phns", "speakers", "is_held_out", "w_in", "w_rec")
        }
        return memory.measure(*arguments.values(), self.parameters, self.projection, N_PHNS)


def explicit_measure(layer, ridge):
    """R2 by delay and accuracies for one lambda: every frame by itself, plain normal equations."""
    rows = {"fit": [], "held out": []}
    for utterance, phns, is_out in zip(layer.utterances, layer.phns, layer.is_held_out):
        by_direction = []
        for d in range(2):
            x = utterance[:: -1 if d else 1] @ layer.w_in[d].astype(np.float32)
            spikes = event_driven.forward(
                x[None, :, None].astype(np.float32),
                layer.w_rec[d : d + 1].astype(np.float32),
                layer.parameters,
            ).z_mean[0, :, 0]
            p, filtered = np.zeros(30), []
            for o in spikes:
                p = np.exp(-1 / 3) * p + o
                filtered.append(p)
            by_direction.append(np.array(filtered)[:: -1 if d else 1])
        channels = utterance @ layer.projection
        for f in range(len(utterance)):
            delayed = [channels[f - k] for k in range(21)] if f >= 20 else None
            y = np.concatenate([values[f] for values in by_direction])
            rows["held out" if is_out else "fit"].append((y, delayed, phns[f]))

    def predict(select, n_columns, target):
        fit, judged = ([row for row in rows[part] if select(row)] for part in ("fit", "held out"))
        y = np.array([row[0][:n_columns] for row in fit])
        mean, deviation = y.mean(0), y.std(0)
        deviation[deviation < 1e-9] = 1
        targets = np.array([target(row) for row in fit], float)

        def design(part):
            return (np.array([row[0][:n_columns] for row in part]) - mean) / deviation

        a = design(fit)
        weights = np.linalg.solve(
            a.T @ a + ridge * len(a) * np.eye(n_columns), a.T @ (targets - targets.mean(0))
        )
        return judged, targets.mean(0) + design(judged) @ weights

    judged, predicted = predict(lambda row: row[1] is not None, 30, lambda row: np.ravel(row[1]))
    true = np.array([np.ravel(row[1]) for row in judged])
    r2 = 1 - ((true - predicted) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    accuracies = []
    for n_columns in (30, 60):
        judged, predicted = predict(lambda row: True, n_columns, lambda row: np.eye(N_PHNS)[row[2]])
        accuracies.append(np.mean(predicted.argmax(1) == [row[2] for row in judged]))
    return r2.reshape(21, 2).mean(1), accuracies


def test_equals_explicit_regressions(monkeypatch):
    layer = Layer()
    monkeypatch.setattr(memory, "LAMBDAS", np.array([1e-3]))
    r2, (accuracy_forward, accuracy) = explicit_measure(layer, 1e-3)
    measured = layer.measure()
    np.testing.assert_allclose(measured["r2_channels"], r2, atol=1e-5)  # spikes kept as float32
    assert measured["memory_capacity_channels"] == pytest.approx(r2.sum(), abs=1e-4)
    assert measured["frame_accuracy_forward"] == pytest.approx(accuracy_forward, abs=0.003)
    assert measured["frame_accuracy"] == pytest.approx(accuracy, abs=0.003)
    # The case is one in which there is something to see.
    assert r2[0] > 0.3 and r2[20] < 0.15 and 0.45 < accuracy_forward < 0.95


def test_the_best_lambda_is_chosen_on_two_of_the_fit_speakers(monkeypatch):
    layer = Layer()
    lambdas = np.array([1e-7, 0.1, 1, 10, 100])  # far enough apart to matter here
    alone = {}
    for ridge in lambdas:
        monkeypatch.setattr(memory, "LAMBDAS", np.array([ridge]))
        as_judge = [speaker in ("f0", "m7") for speaker in layer.speakers]
        without = [i for i in range(16) if not layer.is_held_out[i]]
        alone[ridge] = layer.measure(
            **{
                name: [getattr(layer, name)[i] for i in without]
                for name in ("utterances", "phns", "speakers")
            },
            is_held_out=[as_judge[i] for i in without],
        )["frame_accuracy"]
    monkeypatch.setattr(memory, "LAMBDAS", lambdas)
    # f0 and m7 are the first and the last speaker that are fitted to.
    chooses = memory._chooses_lambda(
        [s for s, is_out in zip(layer.speakers, layer.is_held_out) if not is_out]
    )
    assert np.flatnonzero(chooses).tolist() == [0, 1, 10, 11]
    assert len(set(alone.values())) > 1
    best = max(alone, key=alone.get)
    measured = layer.measure()
    monkeypatch.setattr(memory, "LAMBDAS", np.array([best]))
    assert layer.measure()["frame_accuracy"] == measured["frame_accuracy"]


def test_rates_and_live_share_are_those_of_the_simulation():
    layer = Layer()
    layer.w_in[:, :, 7] = 0  # a silent neuron in each direction
    layer.w_rec[:, :, 7] = 0
    spikes, live, n_steps = np.zeros((2, 30)), 0, 0
    order = layer.utterances
    for utterance in order:
        x = np.einsum("fi,din->fdn", utterance, layer.w_in.astype(np.float32))[None]
        arguments = x, layer.w_rec.astype(np.float32), layer.parameters, None, (False, True)
        forward = event_driven.forward(*arguments)
        spikes += forward.spike_counts[0]
        live += event_driven.live_steps(forward.saved, *arguments).sum()
        n_steps += 5 * len(utterance)
    measured = layer.measure()
    # Steps of 1 ms. Products are summed in another order in a batch: a spike or two may differ.
    rates_hz = 1000 * spikes / n_steps
    assert measured["rate_hz_mean"] == pytest.approx(rates_hz.mean(), rel=1e-3)
    assert measured["rate_hz_max"] == pytest.approx(rates_hz.max(), rel=1e-2)
    assert measured["silent_share"] == pytest.approx(2 / 60)
    assert measured["psi_positive_share"] == pytest.approx(live / (n_steps * 60), rel=1e-3)
    assert 10 < measured["rate_hz_mean"] < 200 and 0.1 < measured["psi_positive_share"] < 0.9


def test_rates_count_time_not_steps():
    slow = Layer(dt=2.0, n_ref=0)
    activity = memory.simulate(slow.utterances, slow.w_in, slow.w_rec, slow.parameters)
    n_steps = 5 * sum(map(len, slow.utterances))
    total = sum((z * 5 * 2).sum() for z in activity.z_mean)  # spikes are 1 / dt high in the mean
    assert activity.rates_hz.mean() == pytest.approx(1000 * total / (60 * 2 * n_steps), rel=1e-5)


def test_what_others_pad_does_not_count():
    """Under the quirks, too, which simulate the padding."""
    layer = Layer(reference_quirks=True)
    together = memory.simulate(layer.utterances, layer.w_in, layer.w_rec, layer.parameters)
    alone = memory.simulate(layer.utterances[1:2], layer.w_in, layer.w_rec, layer.parameters)
    np.testing.assert_array_equal(together.z_mean[1], alone.z_mean[0])
    assert together.z_mean[1].shape == (45, 2, 30)


def test_memory_of_a_perfect_delay_line():
    """Readouts of a signal's last five frames know those and nothing older of white noise."""
    rng = np.random.default_rng(3)

    def sample():
        u = rng.normal(size=(400, 1))
        y = np.concatenate([np.roll(u, k, axis=0) for k in range(5)], axis=1)
        kept = np.arange(20, 400)
        return memory._Samples(y.astype(np.float32), None, u[kept[:, None] - np.arange(21), 0])

    r2 = memory._delayed_r2([[sample(), sample()], [sample()], [sample()]], 5)
    np.testing.assert_allclose(r2[:5], 1, atol=1e-4)
    assert np.all(abs(r2[5:]) < 0.05)


def test_the_floor_is_what_is_known_of_the_past_by_the_features():
    """With weights so small that nothing is shrunk, that of plain least squares."""
    layer = Layer()
    spoken = layer.utterances, layer.phns, layer.speakers, layer.is_held_out
    floor = memory.measure_floor(*spoken, layer.projection)
    assert len(floor["r2_channels"]) == 21
    assert floor["memory_capacity_channels"] == pytest.approx(sum(floor["r2_channels"]))
    rows = {True: [], False: []}
    for utterance, is_out in zip(layer.utterances, layer.is_held_out):
        filtered = np.zeros((len(utterance), 4))
        for f, frame in enumerate(utterance):
            filtered[f] = np.exp(-1 / 3) * filtered[f - 1] + frame
        for f in range(20, len(utterance)):
            delayed = np.ravel(utterance[f - np.arange(21)] @ layer.projection)
            rows[is_out].append((np.append(filtered[f], 1), delayed))
    (y, target), (y_judged, true) = (map(np.array, zip(*rows[out])) for out in (False, True))
    predicted = y_judged @ np.linalg.lstsq(y, target, rcond=None)[0]
    r2 = 1 - ((true - predicted) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(floor["r2_channels"], r2.reshape(21, 2).mean(1), atol=5e-3)
    measured = layer.measure()  # here next to nothing is remembered but by the readout's filter
    assert measured["memory_capacity_channels"] < floor["memory_capacity_channels"] + 1


def test_one_direction_has_one_accuracy():
    measured = Layer(directions=1).measure()
    assert measured["frame_accuracy"] == measured["frame_accuracy_forward"] > 0.4


def test_a_part_of_many_utterances_is_enough(monkeypatch):
    assert memory._evenly(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert memory._evenly(100, 4).tolist() == [0, 33, 66, 99]
    assert memory._evenly(0, 4).tolist() == []
    layer, simulated = Layer(), []
    simulate = memory.simulate
    monkeypatch.setattr(
        memory, "simulate", lambda u, *rest: simulated.extend(u) or simulate(u, *rest)
    )
    monkeypatch.setattr(memory, "MOST_FIT_UTTERANCES", 6)
    monkeypatch.setattr(memory, "MOST_HELD_OUT_UTTERANCES", 2)
    measured = layer.measure()
    assert len(simulated) == 8 and np.isfinite(measured["r2_channels"]).all()


def test_too_little_speech_is_said():
    layer = Layer()
    with pytest.raises(UserError, match="more than 20 frames is left to judge by"):
        layer.measure(is_held_out=[False] * 16)
    with pytest.raises(UserError, match="more than 20 frames is left to fit to"):
        layer.measure(
            utterances=[u[:20] for u in layer.utterances], phns=[p[:20] for p in layer.phns]
        )


def test_few_speakers_choose_by_utterances():
    assert memory._chooses_lambda(["a"] * 4).tolist() == [True, False, False, True]
    assert memory._chooses_lambda(["a", "a", "b", "b"]).tolist() == [True, False, False, True]
    assert memory._chooses_lambda(["b", "a", "c", "b"]).tolist() == [False, True, True, False]


def test_principal_directions_are_those_of_the_singular_values():
    utterances = [
        rng.standard_normal((80, 7)) * [1, 3, 2, 0.5, 4, 9, 9]
        for rng in map(np.random.default_rng, range(4))
    ]
    directions = memory.principal_directions(utterances, 5, 2)  # the last two are no statics
    assert directions.shape == (7, 2) and not np.any(directions[5:])
    frames = np.concatenate(utterances)[:, :5]
    _, _, vectors = np.linalg.svd(frames - frames.mean(axis=0))
    np.testing.assert_allclose(np.abs(directions[:5].T @ vectors[:2].T), np.eye(2), atol=1e-9)
    assert np.all(directions[np.abs(directions).argmax(axis=0), [0, 1]] > 0)
