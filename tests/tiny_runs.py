"""Tiny networks and runs of both training scripts, for the tests of tasks and training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from toolbox import command_line

command_line.import_tensorflow()

import solve_timit_with_framewise_lsnn as lsnn  # noqa: E402
import solve_timit_with_framewise_lstm as lstm  # noqa: E402
from tasks.framewise import Framewise  # noqa: E402
from training import evaluation, loop, steps  # noqa: E402
from training.flags import TrainingConfig  # noqa: E402

SIZE = {lsnn: ["--n_regular=6", "--n_adaptive=4", "--n_repeat=1"], lstm: ["--n_lstm=8"]}
BOTH = pytest.mark.parametrize("script", [lsnn, lstm], ids=["lsnn", "lstm"])


def parse(script, *arguments):
    """Flags of a script with a tiny network; later arguments win."""
    flag_values, _ = command_line.parse_flags(
        script.define_flags, ["script.py", *SIZE[script], "--batch=2", "--n_epochs=2", *arguments]
    )
    script.check_flags(flag_values)
    return flag_values


def build(script, dataset, *arguments, seed=1):
    """Flags, task and network."""
    flag_values = parse(script, *arguments)
    quirks = flag_values.reference_quirks
    task = Framewise(dataset, quirks, quirks and script is lstm, flag_values.truncT)
    return SimpleNamespace(
        script=script,
        flag_values=flag_values,
        task=task,
        network=script.make_network(flag_values, task, seed),
        config=TrainingConfig.from_flags(flag_values),
        seed=seed,
    )


def run_of(built, folder=""):
    """A loop.Run of what `build` gives."""
    variables = built.script.EXPERIMENT.trained_part(
        built.flag_values, built.network
    ).trainable_variables
    return loop.Run(
        built.network, built.task, built.config, built.seed, str(folder), variables, lambda: None
    )


def train(built, folder):
    """`loop.train` of what `build` gives; returns the content of metrics.json."""
    return loop.train(
        built.network,
        built.task,
        built.config,
        built.seed,
        str(folder),
        built.network.trainable_variables,
    )


def evaluate(built, split, batch_size):
    return evaluation.make_evaluation(built.network, built.task, batch_size)(split)


def train_step(built):
    """(the step that the flags describe, its optimiser), as the loop makes them."""
    run = run_of(built)
    return run._train_step, run._optimizer


def gradients(built, variables, batch):
    return steps.compute_gradients(built.network, built.task.losses, variables, *batch)


def evaluations(folder):
    """Lines of a run folder's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def values(network):
    return {name: variable.numpy() for name, variable in network.weights().items()}


def equal(first, second):
    """Whether two dicts of arrays are the same, bit by bit."""
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def changed(before, network):
    """Names of the weights that are no longer what they were."""
    now = values(network)
    return {name for name in now if not np.array_equal(now[name], before[name])}
