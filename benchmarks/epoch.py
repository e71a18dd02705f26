"""How long an epoch, and the whole experiment, takes on a corpus of TIMIT's own size.

    python3 benchmarks/epoch.py --json=epoch.json
    python3 benchmarks/epoch.py --model=lsnn,lstm --iterations=40

makes a corpus of 3,696 training, 400 development and 192 test utterances with large_corpus.py,
and its features (kept under `--work`, and reused), runs the training script itself for an epoch, or
for `--iterations` steps, in a process of its own, evaluations included, and prints a Markdown
table: seconds an iteration and their parts, seconds an evaluation, peak memory, and the projection
to all epochs that the script trains by default:

    iterations x s/iteration + evaluations x s/evaluation + what happens once (start, end)    (1)

The first step and the first evaluation, which compile, count as happening once. Training brings
the firing rates to some 10 Hz; how far it came shows in the table, because the early steps of an
LSNN that fires more cost more than the projection's later ones. On two quiet cores: a minute
for the corpus, a minute for the LSNN's epoch.
"""

import importlib
import itertools
import os
import shutil
import statistics
import time
from typing import NamedTuple

import large_corpus

import measuring  # first: it makes the repository's modules importable
from toolbox import command_line
from toolbox.durable_files import write_json


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.many("model", ["lsnn"], "models", measuring.MODELS)
    define.enum("rule", "symmetric", measuring.RULES, "learning rule")
    define.many(
        "engine",
        ["auto"],
        "engines; event is the LSNN's, fused the LSTM's",
        ("auto", "event", "fused", "dense"),
    )
    define.integer("iterations", 0, "steps to measure; 0: an epoch", 0)
    define.integer("print_every", 100, "iterations between evaluations", 1)
    define.network_flags()
    define.integer("n_train", 3696, "training utterances", 1)
    define.integer("n_develop", 400, "development utterances", 1)
    define.integer("n_test", 192, "test utterances", 1)
    define.integer("seed", 1, "seed of corpus and training", 0)
    define.path("work", "results/epoch", "folder for features and runs")
    define.path("json", "", "also write the results to this file")


def prepare(flag_values):
    """Make the corpus and its features where they are not there yet; returns their folder."""
    if not flag_values.work:  # what is in its place here would be deleted
        raise command_line.UserError("--work is empty, expected the name of a folder")
    sizes = {name: flag_values[name].value for name in ("n_train", "n_develop", "n_test", "seed")}
    name = "_".join(map(str, sizes.values()))
    dataset = os.path.join(flag_values.work, f"timit_{name}_processed")
    if not os.path.isdir(dataset):
        measuring.in_child(
            make_dataset, os.path.join(flag_values.work, f"timit_{name}"), dataset, sizes
        )
    return dataset


def make_dataset(corpus, dataset, sizes):
    """Write the corpus, which is deleted again, and its features, whole or not at all."""
    timit_processing = importlib.import_module("timit_processing")
    shutil.rmtree(corpus, ignore_errors=True)
    large_corpus.write_corpus(corpus, **sizes)
    arguments = [f"--data_path={corpus}", f"--output_path={dataset}"]
    timit_processing.main(
        command_line.parse_flags(timit_processing.define_flags, ["", *arguments])[0]
    )
    shutil.rmtree(corpus)


def plan(flag_values):
    """(model, engine) of all measurements."""
    return [
        (model, engine)
        for model in flag_values.model
        for engine in flag_values.engine
        if engine in ("auto", *measuring.ENGINES[model])
    ]


def training_arguments(flag_values, model, engine, dataset):
    """Command line of the training script."""
    names = ["batch", "print_every", "n_threads", "seed"]
    names += ["n_lstm"] if model == "lstm" else ["n_regular", "n_adaptive"]
    arguments = [f"--{name}={flag_values[name].value}" for name in names]
    if flag_values.rule != "bptt":
        arguments.append(f"--eprop={flag_values.rule}")
    results = os.path.join(flag_values.work, "runs")
    return [model, f"--dataset={dataset}", f"--results={results}", f"--engine={engine}", *arguments]


class Calls(NamedTuple):
    """`measuring.Span`s of what a training run calls, each in order."""

    steps: list
    evaluations: list  # results: training.evaluation.Evaluation
    forward: list  # of the CPU's own engines, in steps and evaluations
    backward: list


def measure(model, arguments, iterations):
    """Run a training script for some iterations (0: an epoch) and time its parts; in a child.

    Returns:
        A row of results.

    Raises:
        UserError: a single iteration.
    """
    start = time.perf_counter()
    # These import TensorFlow, which the process that starts this one must not.
    script = importlib.import_module(f"solve_timit_with_framewise_{model}")
    from training import loop, reporting

    flag_values, _ = command_line.parse_flags(script.define_flags, arguments)
    calls = Calls([], [], *measuring.timed_engines())
    runs = []

    class TimedRun(loop.Run):
        """A run whose steps and evaluations are timed, for some iterations."""

        def __init__(self, *of_run):
            super().__init__(*of_run)
            self._train_step = measuring.timed(self._train_step, calls.steps)
            self._evaluate = measuring.timed(self._evaluate, calls.evaluations, keep_results=True)
            self.n_per_epoch = self.task.n_training_batches(flag_values.batch)
            runs.append(self)

        def batches(self):
            n = iterations or self.n_per_epoch
            if n < 2:
                raise command_line.UserError("a single iteration: expected 2, the first compiles")
            return itertools.islice(super().batches(), n)

    loop.run(script.EXPERIMENT._replace(make_run=TimedRun), flag_values)
    measured = profile(calls, time.perf_counter() - start)
    n_epochs, print_every = flag_values.n_epochs, flag_values.print_every
    return {
        "model": model,
        "arguments": arguments[1:],
        **measured,
        **projection(measured, runs[0].n_per_epoch, n_epochs, print_every),
        "peak_gb": reporting.peak_memory_gb(),
    }


def profile(calls, seconds_in_all):
    """What the parts of a training run took.

    Args:
        calls: Calls.
        seconds_in_all: from the start of the process to its end.
    """
    first, *steps = calls.steps
    *develop, _ = calls.evaluations  # the test set is evaluated once, at the end
    n, quarter = len(steps), max(1, len(steps) // 4)
    evaluations = [e.seconds for e in develop if first.end < e.start < steps[-1].end]
    loop = steps[-1].end - first.end - sum(evaluations)
    evaluation = statistics.mean(e.seconds for e in develop[1:])
    seconds = [step.seconds for step in steps]
    forward, backward = (
        sum(c.seconds for c in passes if any(s.start <= c.start < s.end for s in steps))
        for passes in (calls.forward, calls.backward)
    )
    return {
        "iterations": len(calls.steps),
        "seconds_per_iteration": loop / n,
        "seconds_engine_forward": forward / n,
        "seconds_engine_backward": backward / n,
        "seconds_step_rest": (sum(seconds) - forward - backward) / n,
        "seconds_between_steps": (loop - sum(seconds)) / n,
        "seconds_step_first_quarter": statistics.median(seconds[:quarter]),
        "seconds_step_last_quarter": statistics.median(seconds[-quarter:]),
        "seconds_per_evaluation": evaluation,
        "seconds_once": seconds_in_all - loop - evaluation * (len(develop) - 1),
        "rate_hz_first": _mean_rate_hz(develop[0]),
        "rate_hz_last": _mean_rate_hz(develop[-1]),
    }


def _mean_rate_hz(evaluation):
    rates_hz = evaluation.result.rates_hz
    return None if rates_hz is None else float(rates_hz.mean())


def projection(measured, n_per_epoch, n_epochs, print_every):
    """Equation (1) for so many epochs, from what `profile` returned."""
    n_iterations = n_epochs * n_per_epoch
    n_evaluations = -(-n_iterations // print_every) + 1
    seconds = (
        n_iterations * measured["seconds_per_iteration"]
        + n_evaluations * measured["seconds_per_evaluation"]
        + measured["seconds_once"]
    )
    return {
        "iterations_per_epoch": n_per_epoch,
        "seconds_per_epoch": n_per_epoch * measured["seconds_per_iteration"],
        "projected_epochs": n_epochs,
        "projected_evaluations": n_evaluations,
        "projected_hours": seconds / 3600,
    }


def markdown(rows):
    """The rows as a Markdown table, a column a model and engine."""
    names = {
        "iterations": ("iterations measured", "{:d}"),
        "seconds_per_iteration": ("s/iteration", "{:.3f}"),
        "seconds_engine_forward": ("- engine, forward", "{:.3f}"),
        "seconds_engine_backward": ("- engine, backward", "{:.3f}"),
        "seconds_step_rest": ("- rest of the step", "{:.3f}"),
        "seconds_between_steps": ("- between steps: next batch, notes", "{:.3f}"),
        "seconds_step_first_quarter": ("median s/step, first quarter of them", "{:.3f}"),
        "seconds_step_last_quarter": ("median s/step, last quarter", "{:.3f}"),
        "seconds_per_evaluation": ("s/evaluation on the development set", "{:.2f}"),
        "seconds_once": ("s once: start, compilation, test set, figures", "{:.1f}"),
        "rate_hz_first": ("Hz in the first evaluation", "{:.1f}"),
        "rate_hz_last": ("Hz in the last", "{:.1f}"),
        "peak_gb": ("peak GB", "{:.2f}"),
        "seconds_per_epoch": ("s/epoch without evaluations", "{:.1f}"),
        "projected_epochs": ("epochs projected", "{:d}"),
        "projected_minutes": ("**minutes for them, all included**", "**{:.1f}**"),
    }
    rows = [row | {"projected_minutes": 60 * row["projected_hours"]} for row in rows]
    return measuring.markdown_table(
        ["", *(f"{row['model'].upper()}, {row['engine']}" for row in rows)],
        [
            [label, *("-" if row[name] is None else form.format(row[name]) for row in rows)]
            for name, (label, form) in names.items()
        ],
    )


def main(flag_values):
    measurements = plan(flag_values)
    if not measurements:
        raise command_line.UserError(
            "nothing to measure: engine event is the LSNN's, fused the LSTM's"
        )
    command_line.check_output_file(flag_values, "json")
    machine = measuring.machine()
    dataset = prepare(flag_values)
    rows = []
    for model, engine in measuring.progress(measurements, len(measurements)):
        arguments = training_arguments(flag_values, model, engine, dataset)
        row = measuring.in_child(measure, model, arguments, flag_values.iterations)
        rows.append({"engine": engine, **row, "machine": machine})
    print(f"{measuring.machine_line(machine)}\n\n{markdown(rows)}")
    if flag_values.json:
        write_json(flag_values.json, rows)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
