"""What goes wrong in training is noticed and named."""

import re

import numpy as np
import pytest

import tiny_runs
from tiny_runs import BOTH, build, evaluate, lsnn, lstm, train_step
from toolbox.command_line import UserError
from training import checkpoints, health, steps

pytestmark = pytest.mark.usefixtures("no_figures")


def train(script, dataset, folder, *arguments, spoil=lambda dataset: None):
    built = build(script, dataset, *arguments)
    spoil(dataset)
    return tiny_runs.train(built, folder)


def spoil_an_utterance(dataset):
    """Features that let the activity overflow when the third utterance is trained on."""
    dataset.train.features[2] = np.full_like(dataset.train.features[2], np.nan)


# --------------------------------------------------------------------------- NaN and Inf


@pytest.mark.parametrize("compiled", [True, False])
def test_a_bad_utterance_is_named_with_step_and_variable(
    compiled, short_dataset, tmp_path, request
):
    if not compiled:
        request.getfixturevalue("eager")
    dataset = short_dataset()
    with pytest.raises(UserError) as error:
        train(lstm, dataset, tmp_path, "--print_every=1", spoil=spoil_an_utterance)
    message = str(error.value)
    bad = dataset.train.names[2]
    (iteration,) = re.findall(r"iteration (\d+) \(epoch 0\)", message)
    batches = list(tiny_runs.run_of(build(lstm, dataset)).batches())
    names = batches[int(iteration)][1].names
    assert bad in names and len(names) == 2
    assert f"in the batch of {', '.join(names)}: " in message
    assert "the prediction loss is not finite (NaN)" in message
    assert "--lr_init" in message and f"--checkpoint={tmp_path}" in message
    with np.load(tmp_path / "checkpoint.npz") as file:  # of just before the bad step
        assert len(file["seconds"]) == int(iteration)
        assert all(np.isfinite(file[name]).all() for name in file.files)


@BOTH
def test_a_failed_step_changes_nothing(script, short_dataset):
    built = build(script, short_dataset(), "--eprop=adaptive")
    network, (step, optimizer) = built.network, train_step(built)
    features, phns, seq_len = short_dataset().train.batch([0, 1])
    step(features, phns, seq_len, 0.01, 0)
    before = [v.numpy() for v in (*network.variables, *optimizer.variables)]
    with pytest.raises(UserError, match="iteration 1 .epoch 0.: the .* is not finite"):
        batch = short_dataset().train.batch([0, 1])
        with health.failures_explained(1, 0, batch, network.weights(), "advice"):
            step(np.full_like(features, np.inf), phns, seq_len, 0.01, 1)
    for value, variable in zip(before, (*network.variables, *optimizer.variables)):
        np.testing.assert_array_equal(value, variable.numpy())


def test_a_gradient_is_named_where_the_loss_is_finite(short_dataset, eager, monkeypatch):
    built = build(lstm, short_dataset())
    network, variables = built.network, built.network.trainable_variables
    compute = steps.compute_gradients

    def spoilt(*arguments, **keywords):
        output, losses, gradients = compute(*arguments, **keywords)
        return output, losses, [g * np.inf if i >= 1 else g for i, g in enumerate(gradients)]

    monkeypatch.setattr(steps, "compute_gradients", spoilt)
    step, _ = train_step(built)
    batch = short_dataset().train.batch([0])
    names = {v.ref(): name for name, v in network.weights().items()}
    with pytest.raises(UserError) as error:
        with health.failures_explained(5, 2, batch, network.weights(), "do this"):
            step(*batch, 0.01, 5)
    expected = f"iteration 5 (epoch 2): the gradient of {names[variables[1].ref()]} is not finite"
    assert str(error.value).startswith(expected)
    assert str(error.value).endswith(f"in the batch of {batch.names[0]}: do this")


def test_bad_weights_are_named(short_dataset, eager):
    built = build(lstm, short_dataset())
    network, (step, _) = built.network, train_step(built)
    network.readout.w_out.assign(np.full(network.readout.w_out.shape, np.nan))
    batch = short_dataset().train.batch([0])
    with pytest.raises(UserError, match="so are weights of readout/w_out"):
        with health.failures_explained(0, 0, batch, network.weights(), ""):
            step(*batch, 0.01, 0)


def test_other_errors_of_tensorflow_are_not_swallowed(short_dataset):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError):
        with health.failures_explained(0, 0, short_dataset().train.batch([0]), {}, ""):
            tf.matmul(tf.zeros([2, 3]), tf.zeros([2, 3]))


def test_the_best_weights_are_advised_only_where_there_are_some(short_dataset, tmp_path, eager):
    """A checkpoint between evaluations: the first one has not come yet."""
    dataset = short_dataset()
    spoil_an_utterance(dataset)
    run = tiny_runs.run_of(build(lstm, dataset), tmp_path)
    for has_best in (False, True):
        if has_best:
            (tmp_path / "best.npz").write_bytes(b"")
        with pytest.raises(UserError) as error:
            run.step(0, dataset.train.batch([2]))
        assert "try a smaller --lr_init" in str(error.value)
        assert (f"--checkpoint={tmp_path}" in str(error.value)) == has_best


@pytest.mark.parametrize("print_every", [1, 100])
def test_weights_that_overflow_are_neither_selected_nor_saved(
    print_every, short_dataset, tmp_path, eager
):
    arguments = ["--lr_init=1e30", "--noadam", f"--print_every={print_every}"]
    with pytest.raises(UserError, match="--lr_init"):
        train(lstm, short_dataset(), tmp_path, *arguments, "--checkpoint_every_s=0")
    for name in ("best.npz", checkpoints.LAST):
        with np.load(tmp_path / name) as file:
            assert all(np.isfinite(file[key]).all() for key in file.files)


# --------------------------------------------------------------------------- firing rates


@pytest.fixture
def network(short_dataset):
    return build(lsnn, short_dataset(), "--n_layer=2").network


def rates(*means):
    """[n_out] rates, two layers of two directions of 10 neurons."""
    return np.repeat(means, 10).astype(float)


def test_a_change_of_state_is_told_once(network):
    states = {}
    assert health.rate_warnings(network, rates(10, 10, 10, 10), states) == []
    (silent,) = health.rate_warnings(network, rates(10, 0.1, 10, 10), states)
    assert silent.startswith("warning: layer 0, backward cell has fallen silent: mean 0.1 Hz")
    assert health.rate_warnings(network, rates(10, 0, 10, 10), states) == []
    lines = health.rate_warnings(network, rates(10, 10, 499, 10), states)
    assert lines[0].startswith("note: layer 0, backward cell is silent no longer: mean 10 Hz")
    assert lines[1].startswith("warning: layer 1, forward cell fires at its ceiling: mean 5e+02 Hz")
    assert "ceiling 500 Hz" in lines[1] and len(lines) == 2


@pytest.mark.parametrize(
    "arguments, ceiling_hz", [([], 500), (["--n_ref=1"], 1000), (["--n_ref=4"], 250)]
)
def test_the_ceiling_is_what_a_driven_neuron_reaches(arguments, ceiling_hz, short_dataset):
    """The rates of a network whose input is far above the threshold."""
    dataset = short_dataset()
    built = build(lsnn, dataset, "--n_adaptive=0", "--n_repeat=20", *arguments)
    network = built.network
    network.layers[0].w_in.assign(np.full(network.layers[0].w_in.shape, 1e4, np.float32))
    network.layers[0].w_rec.assign(np.zeros(network.layers[0].w_rec.shape, np.float32))
    split = dataset.develop
    split.features = [np.ones_like(f) for f in split.features]
    found = evaluate(built, "develop", 2).rates_hz
    assert np.allclose(found, ceiling_hz, rtol=0.05)
    states = {}
    lines = health.rate_warnings(network, found, states)
    assert len(lines) == 2 and all(f"ceiling {ceiling_hz:.3g} Hz" in line for line in lines)
    assert set(states.values()) == {"saturated"}


def test_a_silent_network_is_told_on_training(short_dataset, tmp_path, capsys, eager):
    train(lsnn, short_dataset(), tmp_path, "--thr=100", "--reg=0", "--print_every=2")
    out = capsys.readouterr().out
    assert len(re.findall("^warning: layer 0, .* has fallen silent", out, re.MULTILINE)) == 2
