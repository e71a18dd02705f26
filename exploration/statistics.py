"""Statistics over the runs of a plan: intervals over seeds, matched differences, verdicts.

A condition is a point of the plan's grid and list; it has one run for each seed. Errors are those
of the metric that selects (`exploration/run_folders.py`):

final_develop_error     of the last evaluation
late_develop_error      mean of the evaluations in the second half of the training, less noisy
best_develop_error      of the best evaluation: selected, hence optimistic
test_error              with the weights of the best evaluation
memory_capacity_before, memory_capacity_after
                        training, of LSNNs: see lmu/memory.py
memory_capacity_floor   of the features instead of the spikes: no start or training changes it
iterations_to_reach     the first evaluation with a development error not above the plan's
                        `reach_error`, else the mean late error of the first baseline's runs, the
                        other axes being equal: one error for every seed, which the baseline's own
                        runs have to reach too; infinite if never; not compared with other baselines

A mean has the 95 % interval of Student's t over seeds. A difference is condition minus baseline,
seed by seed, the plan's other axes being equal. The interval of the paired t test decides: the
condition is lower or higher if it lies on one side of zero. It is as wide as needed for all that is
said of one point of the first axis (at each point of the others, against each baseline) to hold at
once with 95 % (Bonferroni). Fewer than three pairs have no verdict. Two exact two-sided p assume no
distribution and are not corrected: `p_permutation` is the share of all 2^n assignments of signs to
the n differences with a mean as far from 0 as theirs, `p_sign` the sign test's; with n seeds they
cannot be below `p_least`, 2 / 2^n.
"""

import dataclasses
import functools
import math
import os

import numpy as np
import pandas as pd
from scipy import stats

from exploration import run_folders
from exploration.plan import PLAN_FILE, Plan, read_plan, spoken
from toolbox import command_line
from toolbox.command_line import UserError

CONFIDENCE = 0.95
FINAL, LATE = "final_develop_error", "late_develop_error"
BEST, TEST = "best_develop_error", "test_error"
MEMORY = ("memory_capacity_before", "memory_capacity_after")
FLOOR = "memory_capacity_floor"
REACH = "iterations_to_reach"
COSTS = ("seconds_per_iteration", "peak_memory_gb")
COMPARED = (LATE, FINAL, TEST, *MEMORY, REACH)  # with baselines
VERDICTS = ("lower", "higher", "no difference shown", "no verdict, fewer than 3 pairs")
COLUMNS = (  # of the tables of conditions and differences, beside the axes
    *("metric", "n", "mean", "std", "low", "high", "median", "min", "max", "n_infinite", "seeds"),
    *("baseline", "n_pairs", "n_smaller", "n_larger", "p_permutation", "p_sign", "p_least"),
    "verdict",
)
MAX_EXACT_PAIRS = 16  # 65536 assignments of signs


def interval_over_seeds(values, confidence=CONFIDENCE):
    """n, mean, standard deviation (n - 1) and interval of values [n]; NaN where one is too few."""
    values = np.asarray(values, np.float64)
    n = len(values)
    mean, std, half_width = values.mean() if n else math.nan, math.nan, math.nan
    if n > 1:
        std = values.std(ddof=1)
        half_width = stats.t.ppf((1 + confidence) / 2, n - 1) * stats.sem(values)
    return {"n": n, "mean": mean, "std": std, "low": mean - half_width, "high": mean + half_width}


def paired_difference(values, baseline, confidence=CONFIDENCE):
    """Differences values - baseline, both [n] and matched, with interval, verdict, exact tests.

    An infinite value is larger than any other and equal to another infinite one: the sign test can
    be made with it, while mean and interval are those of the finite pairs.
    """
    values, baseline = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    finite = np.isfinite(values) & np.isfinite(baseline)
    differences = values[finite] - baseline[finite]
    interval = interval_over_seeds(differences, confidence)
    n, n_smaller = len(values), int(np.sum(values < baseline))
    n_larger = int(np.sum(values > baseline))
    n_unequal = n_smaller + n_larger
    p_permutation = math.nan
    if finite.all() and 2 <= n <= MAX_EXACT_PAIRS:
        p_permutation = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=2**MAX_EXACT_PAIRS
        ).pvalue
    return {
        **interval,
        "n_pairs": n,
        "n_smaller": n_smaller,
        "n_larger": n_larger,
        "p_permutation": p_permutation,
        "p_sign": stats.binomtest(n_smaller, n_unequal).pvalue if n_unequal else 1.0,
        "p_least": min(1.0, 2 / 2**n),
        "verdict": _verdict(**interval),
    }


def _verdict(n, low, high, **_):
    """What an interval of n differences shows, one of VERDICTS."""
    if n < 3:
        return VERDICTS[3]
    return VERDICTS[0] if high < 0 else VERDICTS[1] if low > 0 else VERDICTS[2]


def iterations_to_reach(curve, error):
    """Iteration of the first evaluation with at most this error; else infinity, of NaN NaN."""
    if math.isnan(error):
        return math.nan
    return next((iteration for iteration, e in curve.items() if e <= error), math.inf)


@dataclasses.dataclass
class Experiment:
    """A plan and those of its runs that are finished."""

    plan: Plan
    runs: pd.DataFrame  # a row each: axes, seed, what `metrics.json` says, the docstring's metrics
    curves: dict  # digest -> {iteration: development error}
    missing: list  # RunSettings of the runs that are not finished

    @property
    def axes(self):
        """Names of the plan's axes."""
        return list(self.plan.axes)

    @property
    def confidence(self):
        """Of the interval of one difference, so that all that is said of a point holds at once."""
        n_others = math.prod(len(points) for points in list(self.plan.axes.values())[1:])
        return 1 - (1 - CONFIDENCE) / (n_others * len(self.plan.baselines))

    def _at(self, point):
        """The runs at a point of some axes."""
        is_there = [self.runs[axis] == label for axis, label in point.items()]
        return self.runs[np.all(is_there, axis=0)]

    def conditions(self):
        """(labels, runs) of every condition, in the plan's order."""
        return by_axes(self.runs, self.axes)

    @functools.cached_property
    def summary(self):
        """DataFrame, a row each condition and metric: statistics over seeds."""
        rows = []
        for labels, runs in self.conditions():
            for metric in (LATE, FINAL, BEST, TEST, *MEMORY, FLOOR, REACH, *COSTS):
                if metric not in runs:
                    continue
                values = runs[metric].dropna()
                finite = values[np.isfinite(values)]
                rows.append(
                    {
                        **dict(zip(self.axes, labels)),
                        "metric": metric,
                        **interval_over_seeds(finite),
                        **values.agg(["median", "min", "max"]),
                        "n_infinite": len(values) - len(finite),
                        "seeds": _seeds(runs),
                    }
                )
        return pd.DataFrame(rows)

    def pairs(self, baseline):
        """(labels, runs beside the baseline's) of every condition that can be compared with it.

        The baseline's runs equal the condition's on the other axes and in seed; their columns end
        in `_baseline`. A run without such a partner is left out.
        """
        matched = [*(axis for axis in self.axes if axis not in baseline), "seed"]
        for labels, runs in self.conditions():
            pairs = runs.merge(
                self._at(baseline), on=matched, suffixes=("", "_baseline"), validate="many_to_one"
            )
            is_itself = baseline.items() <= dict(zip(self.axes, labels)).items()
            if not is_itself and not pairs.empty:
                yield labels, pairs

    def difference(self, pairs, metric):
        """`paired_difference` of the metric in a condition's pairs, as wide as verdicts need it."""
        return paired_difference(pairs[metric], pairs[f"{metric}_baseline"], self.confidence)

    @functools.cached_property
    def differences(self):
        """DataFrame, a row each baseline, condition and metric: paired difference from it."""
        rows = []
        for baseline in self.plan.baselines:
            # Condition and baseline are asked for one error only where the plan or this one sets it.
            has_error = self.plan.reach_error is not None or baseline == self.plan.baselines[0]
            for labels, pairs in self.pairs(baseline):
                rows += [
                    {
                        "baseline": spoken(baseline),
                        **dict(zip(self.axes, labels)),
                        "metric": metric,
                        **self.difference(pairs, metric),
                        "seeds": _seeds(pairs),
                    }
                    for metric in COMPARED
                    if metric in pairs and (metric != REACH or has_error)
                ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*self.axes, *COLUMNS])

    def differences_from(self, baseline):
        """Rows of `differences`: those of one baseline."""
        return self.differences[self.differences["baseline"] == spoken(baseline)]

    @functools.cached_property
    def chosen(self):
        """DataFrame, a row each combination of the other axes: the best point on `plan.choose`.

        Only points with all seeds can be chosen: what fails with some is no choice. `at_an_end`
        tells that the point is the first or last of them: a better one may lie beyond.
        """
        others = [axis for axis in self.axes if axis != self.plan.choose]
        means = self.runs.groupby(self.axes, sort=False)[LATE].agg(["mean", "count"]).reset_index()
        means = means[means.pop("count") == len(self.plan.seeds)].rename(columns={"mean": LATE})
        rows = []
        for _, points in by_axes(means, others):
            best = points.loc[points[LATE].idxmin()]
            is_end = best.name in (points.index[0], points.index[-1])
            rows.append({**best, "at_an_end": "yes" if is_end else "no"})
        return pd.DataFrame(rows)


def by_axes(table, axes):
    """(labels, rows) of each combination of labels in a table, in their order."""
    return list(table.groupby(axes, sort=False)) if axes else [((), table)]


def _seeds(runs):
    """Seeds of a condition's runs, which with its labels tell the rows of `runs.csv`."""
    return " ".join(map(str, runs["seed"]))


# --------------------------------------------------------------------------- reading


def read_experiment(folder, reference_folder):
    """Read an experiment's folder; run folders are given relative to `reference_folder`.

    Raises:
        UserError: no plan, no finished run of it, a damaged one, or runs of different metrics.
    """
    plan = read_plan(os.path.join(folder, PLAN_FILE))
    curves, missing, rows = {}, [], []
    for settings in command_line.progress_bar(plan.runs(), unit="run", desc="reading"):
        run_folder = run_folders.find(folder, settings)
        if not (run_folder and run_folders.is_finished(run_folder)):
            missing.append(settings)
            continue
        curves[settings.digest] = curve = run_folders.read_curve(run_folder)
        if not curve:
            raise run_folders.damaged(os.path.join(run_folder, "metrics.jsonl"), "no evaluation")
        row = {
            **_numbers(run_folder, curve),
            "seed": settings.seed,
            "digest": settings.digest,
            **run_folders.read_origin(run_folder),
            "run_folder": os.path.relpath(run_folder, reference_folder),
        }
        if taken := set(plan.axes) & {*row, *COLUMNS}:
            raise UserError(
                f"{folder}: axis '{min(taken)}' has the name of a column of the report: rename it "
                "in the plan and start 'run' again, which keeps the runs"
            )
        rows.append({**settings.labels, **row})
    if not rows:
        raise UserError(f"{folder}: no run of the plan is finished yet")
    runs = pd.DataFrame(rows)
    if runs["metric"].nunique() > 1:
        names = ", ".join(sorted(runs["metric"].unique()))
        raise UserError(f"{folder}: its runs are of different metrics ({names}): expected one")
    experiment = Experiment(plan, runs, curves, missing)
    _add_iterations_to_reach(experiment)
    return experiment


def _numbers(run_folder, curve):
    """What a run's `metrics.json` says, its errors by the names of the module's docstring."""
    metrics = run_folders.read_metrics(run_folder)
    metric, last = run_folders.metric_of(metrics), max(curve)
    return {
        **{"started": "", "hours": math.nan},  # of runs from before these were recorded
        **metrics,
        "metric": metric,
        BEST: metrics[f"best_develop_{metric}"],
        TEST: metrics[f"test_{metric}"],
        FINAL: curve[last],
        LATE: np.mean([error for iteration, error in curve.items() if iteration >= last / 2]),
    }


def _add_iterations_to_reach(experiment):
    """Add the columns `error_to_reach` and `iterations_to_reach`, if there is such an error."""
    plan, runs = experiment.plan, experiment.runs
    if plan.reach_error is None and not plan.baselines:
        return

    def error_to_reach(run):
        if plan.reach_error is not None:
            return plan.reach_error
        same = {axis: run[axis] for axis in experiment.axes}
        return experiment._at(same | plan.baselines[0])[LATE].mean()

    records = runs.to_dict("records")
    runs["error_to_reach"] = errors = [error_to_reach(run) for run in records]
    runs[REACH] = [
        iterations_to_reach(experiment.curves[run["digest"]], error)
        for run, error in zip(records, errors)
    ]
