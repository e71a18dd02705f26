"""Reports: `report.md`, CSV files and figures on the runs of a plan, or on a search."""

import os

from exploration import figures, search, tables
from exploration.plan import PLAN_FILE, read_plan, spoken
from exploration.statistics import (
    BEST,
    COMPARED,
    COSTS,
    FLOOR,
    LATE,
    TEST,
    VERDICTS,
    read_experiment,
)
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole

CURVES_FIGURE, DIFFERENCES_FIGURE = "learning_curves.png", "differences.png"

HOW_TO_READ = """\
**Late development error**: the mean of the development errors of the second half of a training, which
is less noisy than that at its end and decides here. **Test error**: with the weights of the best
evaluation on the development set. Brackets behind a mean hold its 95 % interval over seeds (Student's
t). A **difference** is condition minus baseline, seed by seed, with the interval of the paired t test,
so wide that all that is said of one row of a table (its columns, against each baseline) holds at once
with 95 % (Bonferroni). **Lower, higher**: this interval of the late development error lies on one side
of zero; an asterisk says that the test error's does too. **k of n**: in how many seeds the condition is
lower. **p**: exact permutation test of the differences' signs (of iterations the sign test), two-sided,
not corrected for the number of comparisons; in parentheses the least p that so many seeds can have."""


def write_report(folder, report_folder, storage="", has_curves=True):
    """Write `report.md`, CSV files and figures on the runs of a plan, or on a search.

    Args:
        folder: the experiment's.
        report_folder: where the files go, made if need be; run folders are given relative to it.
        storage: of the search's study; empty: the folder's own file.
        has_curves: draw learning curves beside differences; without differences they always are.

    Returns the plan's Experiment; of a search None.

    Raises:
        UserError: nothing to report, or the folder cannot be written.
    """
    plan = read_plan(os.path.join(folder, PLAN_FILE))
    try:
        os.makedirs(report_folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"{report_folder}: cannot be made ({error.strerror})") from None
    if plan.search is not None:
        storage = storage or os.path.join(folder, search.STUDY_FILE)
        _write_page(plan, search.report_lines(plan, storage, report_folder), report_folder)
        return None
    experiment = read_experiment(folder, report_folder)
    write_experiment(experiment, report_folder, has_curves)
    return experiment


def write_experiment(experiment, report_folder, has_curves=True):
    """Write the report on an experiment that has been read."""
    plan, differences = experiment.plan, experiment.differences
    contents = {"runs": experiment.runs, "conditions": experiment.summary}
    contents |= {"differences": differences} if len(differences) else {}
    contents |= {"chosen": experiment.chosen} if plan.choose else {}
    for name, table in contents.items():
        tables.write_csv(os.path.join(report_folder, f"{name}.csv"), table)
    lines = [
        overview(experiment),
        "",
        "`runs.csv` has every run with its folder; `conditions.csv` and `differences.csv` have the "
        "numbers below, with the labels and seeds of the runs that they come from.",
        "",
        HOW_TO_READ,
        "",
        *comparison(experiment, (*COMPARED, FLOOR, BEST, *COSTS), plan.baselines),
    ]
    if differences.empty or has_curves:
        _plot_curves(os.path.join(report_folder, CURVES_FIGURE), experiment)
        lines += [f"![learning curves]({CURVES_FIGURE})", ""]
    if len(differences):
        baseline = drawn_baseline(experiment)
        path = os.path.join(report_folder, DIFFERENCES_FIGURE)
        figures.plot_differences(path, experiment, baseline)
        lines += [f"![differences from {spoken(baseline)}]({DIFFERENCES_FIGURE})", ""]
    _write_page(plan, lines, report_folder)


def _write_page(plan, lines, report_folder):
    path = os.path.join(report_folder, "report.md")
    with write_whole(path, "w") as file:
        file.write("\n".join([f"# {plan.name}", "", plan.comment, "", *lines]).rstrip() + "\n")
    print(f"written: {path}")


def _plot_curves(path, experiment):
    runs = experiment.runs
    name = f"majority_develop_{runs['metric'][0]}"
    constant_errors = set(runs[name]) if name in runs else ()
    figures.plot_learning_curves(
        path,
        figures.curve_panels(experiment),
        constant_errors.pop() if len(constant_errors) == 1 else None,
        f"{experiment.plan.name}: mean over seeds and its 95 % interval",
    )


def drawn_baseline(experiment):
    """The first baseline that conditions could be compared with: the one of the figure."""
    return next(b for b in experiment.plan.baselines if len(experiment.differences_from(b)))


def overview(experiment):
    """A paragraph: how many runs there are, of which metric, seeds, code and data, and their cost."""
    runs, missing = experiment.runs, experiment.missing
    commits = sorted(set(" ".join(runs["commit"]).split()))
    started = sorted(text[:16].replace("T", " ") for text in runs["started"] if text)
    times = f"; started between {started[0]} and {started[-1]}" if started else ""
    hours = runs["hours"].sum(min_count=len(runs))
    cost = f"{hours:.2f} hours of processes" if hours >= 0 else "hours not recorded"
    sentences = [
        f"{len(runs)} of {len(runs) + len(missing)} runs finished; errors are "
        f"`{runs['metric'][0]}`; seeds {', '.join(map(str, experiment.plan.seeds))}; commit "
        f"{', '.join(commits)}{times}; {cost}."
    ]
    if len(commits) > 1:
        sentences += ["**The runs were not all made by the same commit:** see `runs.csv`."]
    if runs["data_sha256"].nunique() > 1:
        sentences += ["**The runs were not all made on the same data:** see `runs.csv`."]
    if missing:
        sentences += ["**Not finished:** " + ", ".join(s.name for s in missing) + "."]
    return " ".join(sentences)


def comparison(experiment, metrics, baselines):
    """Lines with verdicts, tables of conditions, and of differences from some of the baselines."""
    axes = experiment.axes
    verdicts = verdict_lines(experiment)
    lines = [*verdicts, ""] if verdicts else []
    if experiment.plan.choose:
        lines += _choice_lines(experiment)
        metrics = [metric for metric in metrics if metric != LATE]
    lines += tables.pivot(experiment.summary, axes, metrics, tables.mean_text)
    for baseline in baselines:
        rows = experiment.differences_from(baseline)
        if len(rows):
            lines += [f"Minus {spoken(baseline)}, seed by seed:", ""]
            lines += tables.pivot(rows, axes, metrics, tables.difference_text)
    return lines


def verdict_lines(experiment):
    """Lines, one a baseline: which conditions err less than it, which more."""
    lines = []
    for baseline in experiment.plan.baselines:
        said = {word: {} for word in VERDICTS}
        rows = experiment.differences_from(baseline)
        for (first, *others), condition in rows.groupby(experiment.axes, sort=False):
            verdicts = condition.set_index("metric")["verdict"]
            word = verdicts[LATE]
            confirmed = r"\*" if word == verdicts[TEST] in ("lower", "higher") else ""
            said[word].setdefault(first, []).append((", ".join(others), confirmed))
        parts = [
            f"**{word}**: {'; '.join(_point(*item) for item in points.items())}"
            for word, points in said.items()
            if points
        ]
        if parts:
            lines.append(f"* Against {spoken(baseline)}: {'. '.join(parts)}.")
    return lines


def _point(first, others):
    """A label of the first axis with those of the others and their asterisks."""
    text = " / ".join(label + asterisk for label, asterisk in others)
    return f"{first} ({text})" if others[0][0] else first + text


def _choice_lines(experiment):
    """The late error at each point of a plan that chooses, the chosen one in bold."""
    plan, axes = experiment.plan, experiment.axes
    chosen = experiment.chosen.to_dict("records")
    best = {tuple(row[axis] for axis in axes) for row in chosen}

    def text(row):
        mean = f"{row['mean']:.3f}"
        return f"**{mean}**" if tuple(row[axis] for axis in axes) in best else mean

    at_an_end = [
        ", ".join(row[axis] for axis in axes if axis != plan.choose)
        for row in chosen
        if row["at_an_end"] == "yes"
    ]
    lines = [f"{plan.choose}, chosen by the late development error, in bold:", ""]
    lines += tables.pivot(experiment.summary, axes, (LATE,), text)
    if at_an_end:
        lines += [
            f"At an end of the grid: {'; '.join(at_an_end)}. A better {plan.choose} may lie beyond.",
            "",
        ]
    return lines
