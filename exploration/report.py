"""What the runs of a plan say: statistics over seeds, matched differences, tables, curves.

A condition is a point of the plan's grid and list; it has one run for each seed.

final_develop_frame_error   of the last evaluation
late_develop_frame_error    mean of the evaluations in the second half of the training, less noisy
best_develop_frame_error    of the best evaluation: selected, hence optimistic
test_frame_error            with the weights of the best evaluation
memory_capacity_before, memory_capacity_after
                            training, of LSNNs: see lmu/memory.py
iterations_to_reach         the first evaluation with a development error not above the plan's
                            `reach_error`, else the mean late error of all the first baseline's
                            runs, the other axes being equal: one error for every seed, which the
                            baseline's own runs have to reach too; infinite if never; not compared
                            with other baselines
hours                       from a run's start to its `metrics.json`, by the clock

Mean, standard deviation (n - 1) and 95 % interval are over seeds; the interval is that of Student's
t, as if the seeds' errors were normally distributed. A difference is condition minus baseline, seed
by seed, the plan's other axes being equal; its interval is that of the paired t test. Neither p
assumes a distribution, and both are two-sided: `p_permutation` is the share of all 2^n assignments
of signs to the n differences with a mean as far from 0 as theirs, `p_sign` the sign test's. With n
seeds they cannot be below 2 / 2^n. They are not corrected for the number of comparisons.
"""

import datetime
import functools
import glob
import json
import math
import os

import numpy as np
import optuna
import pandas as pd
from scipy import stats

from exploration import figures
from exploration.plan import read_plan
from toolbox import command_line
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole

PLAN_FILE = "plan.json"
STUDY_FILE = "study.journal"
CURVES_FIGURE = "learning_curves.png"
CONFIDENCE = 0.95
FINAL, LATE, TEST = "final_develop_frame_error", "late_develop_frame_error", "test_frame_error"
ERRORS = (FINAL, LATE, "best_develop_frame_error", TEST)
DRAWN = (LATE, TEST)  # as differences
MEMORY = ("memory_capacity_before", "memory_capacity_after")
REACH = "iterations_to_reach"
STATISTICS = (  # columns of the tables of conditions and differences
    *("metric", "n", "mean", "std", "low", "high", "median", "n_infinite", "run_folders"),
    *("baseline", "n_pairs", "n_smaller", "n_larger", "p_permutation", "p_sign"),
    "baseline_run_folders",
)
MAX_EXACT_PAIRS = 16  # 65536 assignments of signs


# --------------------------------------------------------------------------- run folders


def read_json(path):
    """Content of a run's JSON file.

    Raises:
        UserError: it is missing or no JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def run_folder_pattern(folder, settings):
    """Pattern of a run's folders in an experiment's folder."""
    script = settings.script.removesuffix(".py")
    return os.path.join(glob.escape(folder), script, f"*_{settings.digest}")


def find_run_folder(folder, settings):
    """A run's folder, a finished one before others, the newest of them; None if there is none."""
    found = glob.glob(run_folder_pattern(folder, settings))
    begun = sorted(path for path in found if os.path.exists(os.path.join(path, "flags.json")))
    finished = [path for path in begun if is_finished(path)]
    return (finished or begun or [None])[-1]


def is_finished(run_folder):
    """Whether a run has come to its end."""
    return os.path.exists(os.path.join(run_folder, "metrics.json"))


def read_evaluations(run_folder):
    """The lines of a run's `metrics.jsonl`, without one that is being written.

    Raises:
        UserError: a line is not what a training script writes.
    """
    path = os.path.join(run_folder, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            evaluations = [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise _damaged(path, error) from None
    for evaluation in evaluations:
        _check_numbers(path, evaluation, ("iteration", "develop_frame_error"))
    return evaluations


def read_metrics(run_folder):
    """Content of a finished run's `metrics.json`.

    Raises:
        UserError: it is missing, or lacks what runs are compared by.
    """
    path = os.path.join(run_folder, "metrics.json")
    metrics = read_json(path)
    names = ("best_develop_frame_error", "test_frame_error", "iterations", "seed")
    _check_numbers(path, metrics, names)
    return metrics


def _check_numbers(path, record, names):
    """Raise UserError if a record of a run's file has no numbers by these names."""
    for name in names:
        if not isinstance(record, dict) or type(record.get(name)) not in (int, float):
            raise _damaged(path, f"no number '{name}'")


def _damaged(path, what):
    return UserError(f"{path}: is damaged ({what}): delete the run's folder to have it made again")


# --------------------------------------------------------------------------- statistics


def interval_over_seeds(values, confidence=CONFIDENCE):
    """n, mean, standard deviation and interval of values [n]; NaN where one is not enough."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n < 2:
        return {"n": n, "mean": values.mean() if n else math.nan} | dict.fromkeys(
            ("std", "low", "high"), math.nan
        )
    std, mean = values.std(ddof=1), values.mean()
    half_width = stats.t.ppf((1 + confidence) / 2, n - 1) * stats.sem(values)
    return {
        "n": n,
        "mean": mean,
        "std": std,
        "low": mean - half_width,
        "high": mean + half_width,
    }


def paired_difference(values, baseline):
    """Differences values - baseline, both [n] and matched, with interval and exact tests.

    An infinite value is larger than any other and equal to another infinite one: the sign test can
    be made with it, while mean and interval are those of the finite pairs.
    """
    values, baseline = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    finite = np.isfinite(values) & np.isfinite(baseline)
    differences = values[finite] - baseline[finite]
    n_smaller = int(np.sum(values < baseline))
    n_larger = int(np.sum(values > baseline))
    n_unequal = n_smaller + n_larger
    is_exact = finite.all() and 2 <= len(values) <= MAX_EXACT_PAIRS
    return {
        **interval_over_seeds(differences),
        "n_pairs": len(values),
        "n_smaller": n_smaller,
        "n_larger": n_larger,
        "p_permutation": (
            stats.permutation_test(
                (differences,),
                np.mean,
                permutation_type="samples",
                n_resamples=2**MAX_EXACT_PAIRS,
            ).pvalue
            if is_exact
            else math.nan
        ),
        "p_sign": stats.binomtest(n_smaller, n_unequal).pvalue if n_unequal else 1.0,
    }


def iterations_to_reach(evaluations, error):
    """Iteration of the first evaluation with at most this development error; else infinity."""
    reached = (e["iteration"] for e in evaluations if e["develop_frame_error"] <= error)
    return next(reached, math.inf)


# --------------------------------------------------------------------------- runs of a plan


class Experiment:
    """A plan and those of its runs that are finished.

    Attributes:
        plan: plan.Plan.
        axes: names of the plan's axes.
        runs: DataFrame, a row each finished run: a column each axis, seed, what `metrics.json`
            says, the metrics of the module's docstring, run_folder, commit and data_sha256.
        evaluations: digest -> lines of metrics.jsonl.
        missing: RunSettings of the runs that are not finished.
    """

    def __init__(self, folder, reference_folder):
        """Read an experiment's folder; run folders are given relative to `reference_folder`.

        Raises:
            UserError: no plan, or no finished run of it.
        """
        self.plan = read_plan(os.path.join(folder, PLAN_FILE))
        self.axes = list(self.plan.axes)
        self.evaluations, self.missing, rows = {}, [], []
        for settings in command_line.progress_bar(self.plan.runs(), unit="run", desc="reading"):
            run_folder = find_run_folder(folder, settings)
            if not (run_folder and is_finished(run_folder)):
                self.missing.append(settings)
                continue
            evaluations = read_evaluations(run_folder)
            if not evaluations:
                raise _damaged(os.path.join(run_folder, "metrics.jsonl"), "no evaluation")
            self.evaluations[settings.digest] = evaluations
            row = {
                **read_metrics(run_folder),
                **_errors_of_curve(evaluations),
                **_times(run_folder),
                "seed": settings.seed,
                "digest": settings.digest,
                **_origin(run_folder),
                "run_folder": os.path.relpath(run_folder, reference_folder),
            }
            if taken := set(self.axes) & {*row, *STATISTICS}:
                raise UserError(
                    f"{folder}: axis '{min(taken)}' has the name of a column of the report: rename "
                    "it in the plan and start 'run' again, which keeps the runs"
                )
            rows.append({**settings.labels, **row})
        if not rows:
            raise UserError(f"{folder}: no run of the plan is finished yet")
        self.runs = pd.DataFrame(rows)
        self._add_iterations_to_reach()

    def _add_iterations_to_reach(self):
        """Add the column `iterations_to_reach`, if there is an error to be reached."""
        if self.plan.reach_error is None and not self.plan.baselines:
            return
        errors = pd.Series(self.plan.reach_error, self.runs.index, dtype=float)
        if self.plan.reach_error is None:
            baseline = self.plan.baselines[0]
            others = [axis for axis in self.axes if axis not in baseline]
            of_baseline = self._at(baseline)
            errors[:] = of_baseline[LATE].mean()
            if others:
                means = of_baseline.groupby(others)[LATE].mean().rename("error")
                errors = self.runs.join(means, on=others)["error"]
        self.runs["error_to_reach"] = errors
        self.runs[REACH] = [
            iterations_to_reach(self.evaluations[digest], error)
            if math.isfinite(error)
            else math.nan
            for digest, error in zip(self.runs["digest"], errors)
        ]

    @property
    def metrics(self):
        """The metrics that conditions are compared by."""
        optional = (*MEMORY, REACH)
        return [*ERRORS, *(metric for metric in optional if metric in self.runs)]

    def _at(self, point):
        """The runs at a point of some axes."""
        runs = self.runs
        for axis, label in point.items():
            runs = runs[runs[axis] == label]
        return runs

    def _with_baseline(self, runs, baseline):
        """Runs joined with the baseline's runs that equal them on the other axes and in seed.

        The latters' columns end in `_baseline`; a run without such a partner is left out.
        """
        others = self._at(baseline)
        matched = [*(axis for axis in self.axes if axis not in baseline), "seed"]
        return runs.merge(others, on=matched, suffixes=("", "_baseline"), validate="many_to_one")

    def conditions(self):
        """(labels, runs) of every condition, in the plan's order."""
        return _by_axes(self.runs, self.axes)

    @functools.cached_property
    def summary(self):
        """DataFrame, a row each condition and metric: n, mean, std, interval, run folders."""
        rows = []
        for labels, runs in self.conditions():
            for metric in self.metrics:
                values = runs[metric].dropna()
                finite = values[np.isfinite(values)]
                rows.append(
                    {
                        **dict(zip(self.axes, labels)),
                        "metric": metric,
                        **interval_over_seeds(finite),
                        "median": values.median(),
                        "n_infinite": len(values) - len(finite),
                        "run_folders": " ".join(runs["run_folder"]),
                    }
                )
        return pd.DataFrame(rows)

    def _is_error_to_reach_of(self, baseline):
        """Whether `iterations_to_reach` asks condition and baseline for one error."""
        return self.plan.reach_error is not None or baseline == self.plan.baselines[0]

    def pairs(self, baseline):
        """(labels, runs beside the baseline's) of every condition that can be compared with it."""
        for labels, runs in self.conditions():
            pairs = self._with_baseline(runs, baseline)
            is_itself = baseline.items() <= dict(zip(self.axes, labels)).items()
            if not is_itself and not pairs.empty:
                yield labels, pairs

    @functools.cached_property
    def differences(self):
        """DataFrame, a row each baseline, condition and metric: paired difference from it."""
        rows = []
        for baseline in self.plan.baselines:
            for labels, pairs in self.pairs(baseline):
                for metric in self.metrics:
                    if metric == REACH and not self._is_error_to_reach_of(baseline):
                        continue
                    rows.append(
                        {
                            "baseline": spoken_point(baseline),
                            **dict(zip(self.axes, labels)),
                            "metric": metric,
                            **paired_difference(pairs[metric], pairs[f"{metric}_baseline"]),
                            "run_folders": " ".join(pairs["run_folder"]),
                            "baseline_run_folders": " ".join(pairs["run_folder_baseline"]),
                        }
                    )
        return pd.DataFrame(rows)

    def difference_panels(self, baseline):
        """Panels of `figures.plot_differences` for one baseline."""
        panels = {}
        for metric in DRAWN:
            for labels, pairs in self.pairs(baseline):
                values = pairs[metric] - pairs[f"{metric}_baseline"]
                interval = interval_over_seeds(values)
                panels.setdefault(_spoken(metric), []).append(
                    figures.Difference(
                        ", ".join(labels),
                        list(values),
                        *(interval[name] for name in ("mean", "low", "high")),
                    )
                )
        return panels

    def chosen(self):
        """DataFrame, a row each combination of the other axes: the best point on `plan.choose`.

        Only points with all seeds can be chosen: what fails with some is no choice. `at_an_end`
        tells that the point is the first or last of them: a better one may lie beyond.
        """
        others = [axis for axis in self.axes if axis != self.plan.choose]
        means = self.runs.groupby(self.axes, sort=False)[LATE].agg(["mean", "count"]).reset_index()
        means = means[means.pop("count") == len(self.plan.seeds)].rename(columns={"mean": LATE})
        rows = []
        for _, points in _by_axes(means, others):
            best = points.loc[points[LATE].idxmin()]
            is_end = best.name in (points.index[0], points.index[-1])
            rows.append({**best, "at_an_end": "yes" if is_end else "no"})
        return pd.DataFrame(rows)

    def curves(self):
        """Panels of `figures.plot_learning_curve_bands`: lines are the first baseline's axes.

        The panels are the combinations of the other axes; without a baseline the first axis makes
        the lines.
        """
        of_lines = list(self.plan.baselines[0]) if self.plan.baselines else self.axes[:1]
        panels = {}
        for labels, runs in self.conditions():
            point = dict(zip(self.axes, labels))
            panel = spoken_point({a: label for a, label in point.items() if a not in of_lines})
            line = ", ".join(point[axis] for axis in of_lines) or "all runs"
            panels.setdefault(panel, {})[line] = self._band(runs["digest"])
        return panels

    def _band(self, digests):
        """Mean and interval over runs of the errors at the iterations that all have evaluated."""
        curves = [
            {e["iteration"]: e["develop_frame_error"] for e in self.evaluations[digest]}
            for digest in digests
        ]
        iterations = sorted(set.intersection(*map(set, curves)))
        intervals = [interval_over_seeds([c[i] for c in curves]) for i in iterations]
        return figures.Band(
            iterations, *([interval[k] for interval in intervals] for k in ("mean", "low", "high"))
        )


def _by_axes(table, axes):
    """(labels, rows) of each combination of labels in a table, in their order."""
    return list(table.groupby(axes, sort=False)) if axes else [((), table)]


def _origin(run_folder):
    """Commits and data that a run was made with, its resumptions included."""
    path = os.path.join(run_folder, "flags.json")
    record = read_json(path)
    _check_numbers(path, record, ("seed",))
    records = [record, *record.get("resumed", [])]
    return {
        name: " ".join(dict.fromkeys(str(r[name]) for r in records if name in r))
        for name in ("commit", "data_sha256")
    }


def _errors_of_curve(evaluations):
    errors = np.array([e["develop_frame_error"] for e in evaluations])
    iterations = np.array([e["iteration"] for e in evaluations])
    return {
        FINAL: errors[-1],
        LATE: errors[iterations >= iterations[-1] / 2].mean(),
    }


def _times(run_folder):
    """When a run was started, which its folder's name tells, and the hours that it took."""
    name = os.path.basename(run_folder)[: len("2000_01_01__00_00_00")]
    started = pd.to_datetime(name, format="%Y_%m_%d__%H_%M_%S", errors="coerce")
    ended = os.path.getmtime(os.path.join(run_folder, "metrics.json"))
    hours = (datetime.datetime.fromtimestamp(ended) - started).total_seconds() / 3600
    return {"started": started, "hours": hours}


# --------------------------------------------------------------------------- reports


def write_report(folder, report_folder, storage=""):
    """Write `report.md`, CSV files and figures on the runs of a plan, or on a search.

    Args:
        folder: the experiment's.
        report_folder: where the files go, made if need be; run folders are given relative to it.
        storage: of the search's study; empty: the folder's own file.

    Returns:
        The plan's Experiment; of a search None.

    Raises:
        UserError: nothing to report, or the folder cannot be written.
    """
    plan = read_plan(os.path.join(folder, PLAN_FILE))
    try:
        os.makedirs(report_folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"{report_folder}: cannot be made ({error.strerror})") from None
    experiment = None
    if plan.search is None:
        experiment = Experiment(folder, report_folder)
        lines = _comparison_report(experiment, report_folder)
    else:
        lines = _search_report(plan, storage or os.path.join(folder, STUDY_FILE), report_folder)
    path = os.path.join(report_folder, "report.md")
    with write_whole(path, "w") as file:
        file.write("\n".join([f"# {plan.name}", "", plan.comment, "", *lines]).rstrip() + "\n")
    print(f"written: {path}")
    return experiment


def _comparison_report(experiment, report_folder):
    runs, plan, axes = experiment.runs, experiment.plan, experiment.axes
    summary, differences = experiment.summary, experiment.differences
    tables = {"runs.csv": runs, "conditions.csv": summary}
    if not differences.empty:
        tables["differences.csv"] = differences
    if plan.choose:
        tables["chosen.csv"] = experiment.chosen()
    for name, table in tables.items():
        _write_csv(os.path.join(report_folder, name), table)
    majority = runs["majority_develop_frame_error"].unique()
    figures.plot_learning_curve_bands(
        os.path.join(report_folder, CURVES_FIGURE),
        experiment.curves(),
        majority[0] if len(majority) == 1 else None,
        f"{plan.name}: mean over seeds and its 95 % interval",
    )
    lines = [
        *overview(experiment),
        "`runs.csv` has every run with its folder, `conditions.csv` and `differences.csv` the "
        "numbers below with the folders of the runs they come from.",
        "",
        "## Errors",
        "",
        "Mean +- standard deviation over seeds [95 % interval of the mean]; of iterations the "
        "median.",
        "",
        *markdown(
            _condition_row(axes, labels, summary) for labels, summary in _by_axes(summary, axes)
        ),
        "",
        f"![learning curves]({CURVES_FIGURE})",
        "",
    ]
    for baseline in plan.baselines if len(differences) else []:
        spoken = spoken_point(baseline)
        rows = differences[differences["baseline"] == spoken]
        if rows.empty:
            continue
        n = int(rows["n_pairs"].max())
        figure = differences_figure(plan, baseline)
        figures.plot_differences(
            os.path.join(report_folder, figure),
            experiment.difference_panels(baseline),
            f"{plan.name}: minus {spoken}, seed by seed, and 95 % intervals",
        )
        lines += [
            f"## Differences from {spoken}",
            "",
            "Condition minus baseline, matched by seed: mean [95 % interval]; in how many seeds "
            "the condition's value is smaller; exact two-sided p, of the permutation test for "
            "errors and of the sign test for iterations (`differences.csv` has both). With "
            f"{n} seeds no p can be below {2 / 2**n:.2g}; none of the {len(rows)} is corrected for "
            "their number.",
            "",
            *markdown(
                _difference_row(axes, labels, condition)
                for labels, condition in _by_axes(rows, axes)
            ),
            "",
            f"![differences from {spoken}]({figure})",
            "",
        ]
    if plan.choose:
        lines += [
            f"## {plan.choose}, chosen by the late development error",
            "",
            *markdown(
                {name: _number(value, 4) for name, value in row.items()}
                for row in tables["chosen.csv"].to_dict("records")
            ),
            "",
        ]
    return lines


def differences_figure(plan, baseline):
    """File name of the figure of the differences from a baseline of a plan."""
    return f"differences_{1 + plan.baselines.index(baseline)}.png"


def overview(experiment):
    """Lines on how many runs there are, of which seeds, code and data, and what they cost."""
    runs, n_missing = experiment.runs, len(experiment.missing)
    commits = sorted(set(" ".join(runs["commit"]).split()))
    lines = [
        f"{len(runs)} of {len(runs) + n_missing} runs finished; seeds "
        f"{', '.join(map(str, experiment.plan.seeds))}; commit {', '.join(commits)}; started "
        f"between {runs['started'].min():%Y-%m-%d %H:%M} and {runs['started'].max():%H:%M}, "
        f"{runs['hours'].sum():.2f} hours of processes.",
        "",
    ]
    if len(commits) > 1:
        lines += ["**The runs were not all made by the same commit:** see `runs.csv`.", ""]
    if runs["data_sha256"].nunique() > 1:
        lines += ["**The runs were not all made on the same data:** see `runs.csv`.", ""]
    if experiment.missing:
        lines += ["**Not finished:** " + ", ".join(s.name for s in experiment.missing) + ".", ""]
    return lines


def _condition_row(axes, labels, summary):
    """A row of the table of errors from the summary's rows on one condition."""
    row = dict(zip(axes, labels))
    for part in summary.to_dict("records"):
        row["n"] = max(row.get("n", 0), part["n"])
        name = _spoken(part["metric"])
        if part["metric"] == REACH:
            n_reached = part["n"]
            row[name] = (
                f"{_number(part['median'], 0)} ({n_reached} of {n_reached + part['n_infinite']} do)"
            )
        else:
            row[name] = _number(part["mean"], 4)
            if part["n"] > 1:
                row[name] += f" +- {part['std']:.4f} [{part['low']:.3f}, {part['high']:.3f}]"
    return row


def _difference_row(axes, labels, differences):
    """A row of the table of differences from the rows on one condition."""
    row = dict(zip(axes, labels))
    for part in differences.to_dict("records"):
        smaller = f"{part['n_smaller']} of {part['n_pairs']}"
        if part["metric"] == REACH:
            cell = f"{smaller} earlier, {part['n_larger']} later; p {_number(part['p_sign'], 3)}"
        else:
            cell = _number(part["mean"], 4)
            if part["n"] > 1:
                cell += f" [{part['low']:.4f}, {part['high']:.4f}]"
            cell += f"; {smaller}; p {_number(part['p_permutation'], 3)}"
        row[_spoken(part["metric"])] = cell
    return row


def spoken_point(point):
    return ", ".join(f"{axis} '{label}'" for axis, label in point.items())


def _spoken(metric):
    return metric.replace("_frame_error", "").replace("_", " ")


def _number(value, digits):
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else f"{value:.{digits}f}"


def markdown(rows):
    """Lines of a Markdown table of dicts with equal keys."""
    rows = list(rows)
    if not rows:
        return []
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _write_csv(path, table):
    with write_whole(path, "w") as file:
        table.to_csv(file, index=False, lineterminator="\n")


# --------------------------------------------------------------------------- search


def open_storage(storage):
    """The storage of a study: a database for a URL, else a journal file."""
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))


def best_trial_line(study):
    """The best trial so far, for a reader."""
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    counts = ", ".join(f"{states.count(s)} {s.lower()}" for s in sorted(set(states)))
    if "COMPLETE" not in states:
        return f"study {study.study_name}: {counts or 'no trials'}"
    best = study.best_trial
    values = ", ".join(f"{name}={_number(v, 6)}" for name, v in best.params.items())
    return (
        f"study {study.study_name}: {counts}; best is trial {best.number}, development frame "
        f"error {best.value:.4f}: {values}"
    )


def _search_report(plan, storage, report_folder):
    if "://" not in storage and not os.path.exists(storage):
        raise UserError(f"{storage}: no such study: start 'search' first or give --storage")
    try:
        study = optuna.load_study(study_name=plan.name, storage=open_storage(storage))
    except KeyError:
        raise UserError(f"{storage}: holds no study '{plan.name}'") from None
    trials = study.trials_dataframe(attrs=("number", "value", "params", "user_attrs", "state"))
    _write_csv(os.path.join(report_folder, "trials.csv"), trials)
    if trials.empty:
        return [best_trial_line(study) + "."]
    complete = trials[trials["state"] == "COMPLETE"]
    complete = complete.astype({"value": float}).nsmallest(10, "value")
    rows = []
    for row in complete.to_dict("records"):
        parameters = {
            name.removeprefix("params_"): v for name, v in row.items() if name.startswith("params_")
        }
        rows.append(
            {
                "trial": row["number"],
                "develop error": _number(row["value"], 4),
                **{
                    name: f"{v:.4g}" if isinstance(v, float) else v
                    for name, v in parameters.items()
                },
            }
        )
    return [
        best_trial_line(study) + ".",
        "",
        "The best ten of the trials that came to their end; `trials.csv` has all, with the folders "
        "of their runs. The best of many is better than it will be with other seeds: repeat it.",
        "",
        *markdown(rows),
    ]
