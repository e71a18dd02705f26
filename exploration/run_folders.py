"""What the training scripts leave in a run's folder, and where that folder is.

A run names the metric that selects its weights: `metric` of `metrics.json` and of each line of
`metrics.jsonl`, beside `best_develop_<metric>`, `test_<metric>` and `develop_<metric>`. One that
names none was selected by `frame_error`.
"""

import glob
import json
import os

from toolbox.command_line import UserError


def pattern(folder, settings):
    """Pattern of a run's folders in an experiment's folder."""
    script = settings.script.removesuffix(".py")
    return os.path.join(glob.escape(folder), script, f"*_{settings.digest}")


def find(folder, settings):
    """A run's folder, a finished one before others, the newest of them; None if there is none."""
    found = glob.glob(pattern(folder, settings))
    begun = sorted(path for path in found if os.path.exists(os.path.join(path, "flags.json")))
    finished = [path for path in begun if is_finished(path)]
    return (finished or begun or [None])[-1]


def is_finished(run_folder):
    """Whether a run has come to its end."""
    return os.path.exists(os.path.join(run_folder, "metrics.json"))


def metric_of(record):
    """Name of the metric that selects, as `metrics.json` or a line of `metrics.jsonl` says it."""
    return record.get("metric", "frame_error")


def read_curve(run_folder):
    """Dict iteration -> development error, without a line that is being written.

    Raises:
        UserError: a line is not what a training script writes.
    """
    path = os.path.join(run_folder, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            evaluations = [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise damaged(path, error) from None
    curve = {}
    for evaluation in evaluations:
        _check_numbers(path, evaluation, "iteration", "develop_{}")
        curve[evaluation["iteration"]] = evaluation[f"develop_{metric_of(evaluation)}"]
    return curve


def read_metrics(run_folder):
    """Content of a finished run's `metrics.json`.

    Raises:
        UserError: it is missing, or lacks what runs are compared by.
    """
    path = os.path.join(run_folder, "metrics.json")
    metrics = _read_json(path)
    _check_numbers(path, metrics, "best_develop_{}", "test_{}", "iterations", "seed")
    return metrics


def read_origin(run_folder):
    """Commits and data that a run was made with, its resumptions included."""
    path = os.path.join(run_folder, "flags.json")
    record = _read_json(path)
    _check_numbers(path, record, "seed")
    records = [record, *record.get("resumed", [])]
    return {
        name: " ".join(dict.fromkeys(str(r[name]) for r in records if name in r))
        for name in ("commit", "data_sha256")
    }


def damaged(path, what):
    """The error to raise when a run's file is not what a training script writes."""
    return UserError(f"{path}: is damaged ({what}): delete the run's folder to have it made again")


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _check_numbers(path, record, *names):
    """Raise UserError if a record has no numbers by these names; {} stands for its metric."""
    for name in names:
        name = name.format(metric_of(record)) if isinstance(record, dict) else name
        if not isinstance(record, dict) or type(record.get(name)) not in (int, float):
            raise damaged(path, f"no number '{name}'")
