"""The loop: batches by epoch, selection, what a run leaves, and one seed with one result."""

import gc
import json
import os
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from faults import without_costs
from helpers import LIMIT_S
from tasks import figures as task_figures
from tiny_runs import BOTH, build, equal, evaluate, evaluations, lsnn, lstm, run_of, values
from toolbox.command_line import UserError
from training import checkpoints, devices
from training import figures as training_figures
from training.loop import one_ahead


@pytest.fixture
def train(tmp_path, monkeypatch, no_figures):
    """Function that trains a tiny network; returns what it wrote."""
    drawn = []
    for figures, name in (
        (training_figures, "plot_learning_curve"),
        (task_figures, "plot_lsnn_utterance"),
    ):

        def draw(path, *arguments, plot=getattr(figures, name), **options):
            plot(path, *arguments, **options)
            drawn.append(os.path.basename(path))

        monkeypatch.setattr(figures, name, draw)

    def run(script, dataset, *arguments, seed=1):
        devices.set_up_seed(seed)
        built = build(script, dataset, *arguments, seed=seed)
        folder = tmp_path / f"run{len(os.listdir(tmp_path))}"
        folder.mkdir()
        drawn.clear()
        metrics = tiny_runs.train(built, folder)
        return SimpleNamespace(
            built=built,
            folder=folder,
            network=built.network,
            metrics=metrics,
            evaluations=evaluations(folder),
            drawn=list(drawn),
        )

    return run


# --------------------------------------------------------------------------- epochs


def epochs_of(dataset, *arguments, seed=1):
    """The first features of every training utterance, by epoch."""
    epochs = {}
    for epoch, batch in run_of(build(lstm, dataset, *arguments, seed=seed)).batches():
        epochs.setdefault(epoch, []).append(batch.features[:, 0, 0])
    return epochs


def test_every_epoch_shows_every_utterance_in_another_order(short_dataset):
    dataset = short_dataset()
    epochs = epochs_of(dataset, "--n_epochs=3")
    assert list(epochs) == [0, 1, 2]
    expected = sorted(f[0, 0] for f in dataset.train.features)
    orders = [np.concatenate(batches) for batches in epochs.values()]
    for batches, order in zip(epochs.values(), orders):
        assert [len(batch) for batch in batches] == [2, 2, 2]
        assert sorted(order) == expected
    assert not np.array_equal(orders[0], orders[1])
    assert epochs_of(dataset, "--n_epochs=0") == {}


def test_the_seed_decides_on_the_order(short_dataset):
    dataset = short_dataset()
    first, again, other = (
        np.concatenate([b for batches in epochs_of(dataset, seed=seed).values() for b in batches])
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# --------------------------------------------------------------------------- a run

KEYS = {
    "metric",
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
    "started",
    "hours",
    "peak_memory_gb",
    "trained_parameters",
    "seed",
}


def test_a_run_leaves_metrics_weights_and_figures(train, short_dataset, eager, capsys):
    dataset = short_dataset()
    run = train(lstm, dataset, "--n_epochs=3", "--print_every=2")
    metrics = run.metrics
    assert json.loads((run.folder / "metrics.json").read_text()) == metrics
    assert metrics.keys() == KEYS
    assert metrics["iterations"] == 3 * 3  # epochs, batches
    assert metrics["seed"] == 1
    assert metrics["metric"] == "frame_error"
    assert metrics["trained_parameters"] == sum(
        np.prod(v.shape) for v in run.network.trainable_variables
    )
    assert 0.05 < metrics["peak_memory_gb"] < 100
    assert metrics["seconds_per_iteration"] > 0
    assert metrics["started"] is None  # without a record of the run
    assert 9 * metrics["seconds_per_iteration"] / 2 < 3600 * metrics["hours"] < 3600
    majority = dataset.majority_error(dataset.develop)
    assert metrics["majority_develop_frame_error"] == majority

    assert [e["iteration"] for e in run.evaluations] == [0, 2, 4, 6, 8, 9]
    assert [e["epoch"] for e in run.evaluations] == [0, 0, 1, 2, 2, 2]
    assert {e["metric"] for e in run.evaluations} == {"frame_error"}
    assert run.evaluations[0]["train_loss"] is None
    assert all(np.isfinite(e["train_loss"]) for e in run.evaluations[1:])
    errors = [e["develop_frame_error"] for e in run.evaluations]
    assert metrics["initial_develop_frame_error"] == errors[0]
    assert metrics["best_develop_frame_error"] == min(errors)
    best = int(np.argmin(errors))
    assert (
        metrics["best_develop_frame_error_39"] == (run.evaluations[best]["develop_frame_error_39"])
    )
    assert metrics["best_iteration"] == [0, 2, 4, 6, 8, 9][best]

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
    test = metrics["test_frame_error"]  # and that of 39 classes, which is told where it differs
    assert metrics["test_frame_error_39"] == test
    assert out.splitlines()[-1] == (
        f"selected iteration {metrics['best_iteration']}: frame error develop {min(errors):.3f} "
        f"(commonest phone {majority:.3f}); test: frame error {test:.3f}"
    )


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
    assert equal(values(build(lstm, short_dataset()).network), values(run.network))


def test_the_test_set_is_read_with_the_weights_selected_on_develop(train, short_dataset, eager):
    dataset = short_dataset()
    dataset.develop = dataset.train  # learnt by heart in 24 iterations
    # Then the learning rate grows a thousandfold, and six more destroy it.
    schedule = ["--lr_init=0.03", "--lr_decay_every=24", "--lr_decay=1000"]
    run = train(lstm, dataset, "--n_epochs=10", "--print_every=6", *schedule)
    errors = {e["iteration"]: e["develop_frame_error"] for e in run.evaluations}
    assert list(errors) == [0, 6, 12, 18, 24, 30]
    assert 0 < run.metrics["best_iteration"] < 30
    assert run.metrics["best_develop_frame_error"] == min(errors.values())
    assert min(errors.values()) < min(errors[0], errors[30]) - 0.1
    found = {}
    for name in ("best", "last"):
        checkpoints.load_weights(str(run.folder / f"{name}.npz"), run.network)
        found[name] = [evaluate(run.built, split, 2) for split in ("develop", "test")]
    develop, test = found["best"]
    expected = {
        "best_develop_frame_error": develop.metrics["frame_error"],
        "test_loss": test.loss,
        **{f"test_{name}": error for name, error in test.metrics.items()},
    }
    assert {n: run.metrics[n] for n in expected} == pytest.approx(expected, rel=1e-6)
    assert found["last"][1].loss > 2 * test.loss
    assert run.evaluations[-1]["develop_loss"] == pytest.approx(found["last"][0].loss, rel=1e-5)


def test_weights_that_are_no_numbers_are_never_selected(train, short_dataset, eager, tmp_path):
    with pytest.raises(UserError, match="--lr_init"):
        train(lstm, short_dataset(), "--lr_init=1e30", "--noadam", "--print_every=2")
    (best,) = tmp_path.rglob("best.npz")
    with np.load(best) as weights:
        assert all(np.isfinite(weights[name]).all() for name in weights.files)


@BOTH
def test_one_seed_one_result(script, train, short_dataset, capsys):
    """Compiled, as a user runs it, with every source of chance switched on."""
    arguments = ["--eprop=random", "--noise_step_start=1", "--truncT=6", "--print_every=1"]
    if script is lsnn:
        arguments += ["--drop_out_probability=0.3", "--tau_a_spread", "--tau_v_spread"]
    first, again = (train(script, short_dataset(), *arguments) for _ in range(2))
    assert equal(values(first.network), values(again.network))
    assert without_costs(first.metrics) == without_costs(again.metrics)
    for one, two in zip(first.evaluations, again.evaluations, strict=True):
        assert without_costs(one) == without_costs(two)
    raster = ["lsnn_utterance.png"] if script is lsnn else []
    assert sorted(first.drawn) == ["learning_curve.png", *raster]  # once, at the end
    assert ("firing rates (Hz)" in capsys.readouterr().out) == (script is lsnn)


@BOTH
def test_another_seed_another_result(script, train, short_dataset, eager):
    first, other = (
        train(script, short_dataset(), "--n_epochs=1", "--batch=6", seed=seed) for seed in (1, 2)
    )
    assert (first.metrics["seed"], other.metrics["seed"]) == (1, 2)
    # Far beyond what rounding could do.
    assert abs(first.metrics["test_loss"] - other.metrics["test_loss"]) > 1e-3


@BOTH
def test_the_seed_decides_on_the_first_weights(script, short_dataset):
    first, again, other = (
        values(build(script, short_dataset(), "--eprop=random", seed=seed).network)
        for seed in (1, 1, 2)
    )
    assert equal(first, again)
    for name in ("readout/w_out", "readout/feedback"):
        assert not np.allclose(first[name], other[name])


def test_plot_draws_at_every_evaluation(train, short_dataset, eager, capsys):
    run = train(lsnn, short_dataset(), "--n_epochs=1", "--batch=6", "--plot", "--noverbose")
    assert len(run.evaluations) == 2
    assert sorted(run.drawn) == ["learning_curve.png"] * 3 + ["lsnn_utterance.png"] * 3
    for name in ("learning_curve", "lsnn_utterance", "confusion_matrix"):
        assert (run.folder / f"{name}.png").exists()
    assert "firing rates" not in capsys.readouterr().out  # --noverbose, but on disk
    for record in run.evaluations:
        assert 0 <= record["rate_hz_min"] <= record["rate_hz_mean"] <= record["rate_hz_max"]


# --------------------------------------------------------------------------- batches ahead


def test_one_ahead_passes_all_items_on():
    assert list(one_ahead([])) == []
    assert list(one_ahead(range(5))) == list(range(5))
    assert list(one_ahead([None, False])) == [None, False]


def counted(limit, made):
    """Items 0 to limit - 1, each noted when it is made; the semaphore tells of each."""
    for item in range(limit):
        made.release()
        yield item


def test_one_ahead_is_one_item_ahead():
    made = threading.Semaphore(0)
    items = one_ahead(counted(9, made))
    for item in range(3):
        assert next(items) == item
        assert made.acquire(timeout=LIMIT_S)
    assert made.acquire(timeout=LIMIT_S)  # item 3 while 2 is in use
    assert not made.acquire(timeout=0.05)  # but not item 4
    items.close()


def test_what_goes_wrong_ahead_is_raised_in_its_place():
    def broken():
        yield 1
        raise ZeroDivisionError("while the step ran")

    items = one_ahead(broken())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="while the step ran"):
        next(items)
    assert list(items) == []


def test_leaving_early_leaves_no_thread_behind():
    def names():
        return [thread.name for thread in threading.enumerate() if "one_ahead" in thread.name]

    with pytest.raises(KeyboardInterrupt):
        for _ in one_ahead(range(10**9)):
            assert names()
            raise KeyboardInterrupt
    gc.collect()  # the generator goes with the frame that was left
    assert names() == []
