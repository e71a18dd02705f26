"""Frame errors of both models under all four learning rules, with several seeds.

    python3 benchmarks/frame_errors.py --timit=timit
    python3 benchmarks/frame_errors.py --timit=timit --reference_quirks --json=quirks.json

processes the corpus, runs the two training scripts one process a run, and prints a Markdown table:
mean over seeds of the develop and test frame error at the evaluation best on develop (and each
seed's), median seconds an iteration and peak memory. Runs share the machine `--n_jobs` at a time,
one thread each; with one job the seconds are those of a process alone.
"""

import collections
import concurrent.futures
import glob
import json
import os
import statistics
import subprocess
import sys

from absl import flags

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, REPOSITORY)

from toolbox import command_line  # noqa: E402
from toolbox.durable_files import write_json  # noqa: E402

MODELS = ("lstm", "lsnn")
RULES = ("bptt", "symmetric", "random", "adaptive")


def define_flags(flag_values):
    both = {"flag_values": flag_values}
    flags.DEFINE_string("timit", "timit", "corpus: see timit_processing.py --data_path", **both)
    flags.DEFINE_multi_enum("model", MODELS, MODELS, "models to train", **both)
    flags.DEFINE_multi_enum("rule", RULES, RULES, "learning rules", **both)
    flags.DEFINE_list("seeds", ["1", "2", "3"], "seeds, a run each", **both)
    flags.DEFINE_integer("lstm_epochs", 30, "epochs of the LSTM", 0, **both)
    flags.DEFINE_integer("lsnn_epochs", 10, "epochs of the LSNN", 0, **both)
    flags.DEFINE_integer("batch", 8, "utterances in a batch", 1, **both)
    flags.DEFINE_integer("print_every", 20, "iterations between evaluations", 1, **both)
    flags.DEFINE_bool("reference_quirks", False, "processing and training as the authors'", **both)
    flags.DEFINE_enum("engine", "auto", ["auto", "dense", "event"], "of the LSNN", **both)
    flags.DEFINE_integer("n_jobs", 2, "runs at a time", 1, **both)
    flags.DEFINE_string("work", "results/frame_errors", "folder for features and runs", **both)
    flags.DEFINE_string("json", "", "also write the rows to this file", **both)


def run_script(script, log, *arguments):
    """Run a script of the repository with its output in a log file; UserError if it fails."""
    with open(log, "w", encoding="utf-8") as file:
        command = [sys.executable, os.path.join(REPOSITORY, script), *arguments]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise command_line.UserError(f"{script} {' '.join(arguments)} failed: see {log}")


def train(flag_values, dataset, model, rule, seed):
    """One run; returns the content of its metrics.json."""
    name = f"{model}_{rule}_{seed}" + ("_quirks" if flag_values.reference_quirks else "")
    results = os.path.join(flag_values.work, name)
    arguments = [
        f"--dataset={dataset}",
        f"--results={results}",
        f"--seed={seed}",
        f"--batch={flag_values.batch}",
        f"--n_epochs={flag_values.lstm_epochs if model == 'lstm' else flag_values.lsnn_epochs}",
        f"--print_every={flag_values.print_every}",
        f"--reference_quirks={flag_values.reference_quirks}",
        "--n_threads=1",
    ]
    if rule != "bptt":
        arguments.append(f"--eprop={rule}")
    if model == "lsnn":
        arguments.append(f"--engine={flag_values.engine}")
    run_script(f"solve_timit_with_framewise_{model}.py", f"{results}.log", *arguments)
    newest = max(glob.glob(os.path.join(results, "*", "*", "metrics.json")), key=os.path.getmtime)
    with open(newest, encoding="utf-8") as file:
        return json.load(file)


def table_row(model, rule, runs):
    """A row of results from the runs' metrics."""
    develop = [run["best_develop_frame_error"] for run in runs]
    test = [run["test_frame_error"] for run in runs]
    return {
        "model": model,
        "rule": rule,
        "iterations": runs[0]["iterations"],
        "develop_mean": statistics.mean(develop),
        "test_mean": statistics.mean(test),
        "develop": develop,
        "test": test,
        "seconds_per_iteration": statistics.median(run["seconds_per_iteration"] for run in runs),
        "peak_memory_gb": max(run["peak_memory_gb"] for run in runs),
    }


def markdown(rows):
    """The rows as a Markdown table."""
    lines = [
        "| model | rule | iterations | develop | test | each seed, develop/test "
        "| s/iteration | peak GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        seeds = ", ".join(f"{d:.3f}/{t:.3f}" for d, t in zip(row["develop"], row["test"]))
        lines.append(
            f"| {row['model'].upper()} | {row['rule']} | {row['iterations']} "
            f"| {row['develop_mean']:.3f} | {row['test_mean']:.3f} | {seeds} "
            f"| {row['seconds_per_iteration']:.2f} | {row['peak_memory_gb']:.2f} |"
        )
    return "\n".join(lines)


def main(flag_values):
    os.makedirs(flag_values.work, exist_ok=True)
    quirks = "quirks" if flag_values.reference_quirks else "default"
    dataset = os.path.join(flag_values.work, f"processed_{quirks}")
    run_script(
        "timit_processing.py",
        f"{dataset}.log",
        f"--data_path={flag_values.timit}",
        f"--output_path={dataset}",
        f"--reference_quirks={flag_values.reference_quirks}",
    )
    plan = [
        (model, rule, seed)
        for model in flag_values.model
        for rule in flag_values.rule
        for seed in flag_values.seeds
    ]
    runs = collections.defaultdict(list)
    with concurrent.futures.ThreadPoolExecutor(flag_values.n_jobs) as pool:
        results = pool.map(lambda run: train(flag_values, dataset, *run), plan)
        bar = command_line.progress_bar(zip(plan, results), total=len(plan), unit="run")
        for (model, rule, _), metrics in bar:
            runs[model, rule].append(metrics)
    rows = [table_row(model, rule, metrics) for (model, rule), metrics in runs.items()]
    print(markdown(rows))
    if flag_values.json:
        write_json(flag_values.json, rows)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
