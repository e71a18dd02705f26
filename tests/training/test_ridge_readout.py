"""The fitted readout against the equations it solves, and against its neighbours."""

import numpy as np
import pytest

from toolbox import command_line
from toolbox.command_line import UserError

command_line.import_tensorflow()

import models  # noqa: E402
from layers import neurons  # noqa: E402
from training import ridge_readout  # noqa: E402


def make_network(kind, dataset, reference_quirks=False):
    random_generator = np.random.default_rng(1)
    sizes = dataset.n_features, dataset.n_phns + reference_quirks  # the authors' blank
    if kind == "lstm":
        config = models.LstmConfig(rule="symmetric", n_lstm=8)
        return models.Lstm(config, *sizes, random_generator)
    parameters = neurons.alif_parameters(12, 4, n_repeat=2, reference_quirks=reference_quirks)
    config = models.LsnnConfig(rule="symmetric", parameters=parameters, weight_scale=0.3)
    return models.Lsnn(config, *sizes, random_generator)


def cross_entropy(network, split):
    losses = []
    for features, phns in zip(split.features, split.phns):
        logits = network(features[None], np.array([len(phns)], np.int32)).logits.numpy()[0]
        logits = logits - logits.max(axis=1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(phns)), phns])
    return np.concatenate(losses).mean()


def test_a_silent_layer_is_no_traceback(short_dataset, eager):
    dataset = short_dataset()
    network = make_network("lsnn", dataset)
    network.layers[0].w_in.assign(np.zeros(network.layers[0].w_in.shape))
    with pytest.raises(UserError, match="ridge.*larger initial weights"):
        ridge_readout.fit_readout(network, dataset.train, 2)


@pytest.mark.parametrize(
    "kind, quirks",
    [("lsnn", False), pytest.param("lsnn", True, marks=pytest.mark.stress), ("lstm", False)],
)
def test_the_readout_solves_the_ridge_problem(kind, quirks, short_dataset, eager):
    dataset = short_dataset()
    network = make_network(kind, dataset, quirks)
    before = cross_entropy(network, dataset.train)
    # One utterance at a time: with the authors' semantics the padding would spike along.
    ridge_readout.fit_readout(network, dataset.train, 1)
    w_out, b_out = network.readout.w_out.numpy(), network.readout.b_out.numpy()

    rows = []
    for features, phns in zip(dataset.train.features, dataset.train.phns):
        activity = network(features[None], np.array([len(phns)], np.int32)).activity.numpy()[0]
        if network.readout.decay is not None:
            for f in range(1, len(activity)):
                activity[f] += network.readout.decay * activity[f - 1]
        rows.append(activity)
    y = np.concatenate(rows).astype(np.float64)
    one_hot = np.eye(w_out.shape[1])[np.concatenate(dataset.train.phns)]
    centred = y - y.mean(axis=0)
    gram = centred.T @ centred / len(y)
    # The gradient of the ridge objective vanishes at W, which is w_out but for the gain; and the
    # answer at the mean activity is the classes' share, which tells the gain.
    gains = (y.mean(axis=0) @ w_out + b_out)[one_hot.any(axis=0)]
    gains /= one_hot.mean(axis=0)[one_hot.any(axis=0)]
    gain = gains.mean()
    np.testing.assert_allclose(gains, gain, rtol=1e-3)
    assert 3 <= gain <= 12
    weights = w_out / gain
    ridge = 1e-3 * np.mean(np.diag(gram))
    residual = centred.T @ (one_hot - one_hot.mean(axis=0) - centred @ weights) / len(y)
    np.testing.assert_allclose(residual, ridge * weights, atol=1e-3 * np.abs(ridge * weights).max())
    # The gain is the best there is, and the readout much better than a random one.
    fitted = cross_entropy(network, dataset.train)
    assert fitted < before - 0.5
    for factor in (0.9, 1.1):
        if 3 < factor * gain < 12:
            network.readout.w_out.assign(factor * w_out)
            network.readout.b_out.assign(factor * b_out)
            assert cross_entropy(network, dataset.train) > fitted
