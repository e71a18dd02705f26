"""RESULTS.md: what the experiments say, written from their finished runs.

    python3 results_page.py results/learning_rates_lsnn results/lsnn_starts ...

takes folders that `explore_parameters.py run` has filled (`make results` does both), writes each
one's whole report (comparison.py) into `docs/results/<plan>/`, and the page that sums them up:
errors, differences at matched seeds, figures, and what they say.

A verdict, that one condition errs less or more than another, is written by one rule: the interval
of the matched difference of the late development error lies on one side of zero. It is the 95 %
interval; for the project's question, asked once for each learning rule, it is wider, so that all of
them hold at once with 95 % (Bonferroni). The test error confirms a verdict or does not.
"""

import os
import shlex

from absl import flags

from exploration import report
from exploration.plan import read_plan
from exploration.report import FINAL, LATE, TEST
from toolbox import command_line
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole

TITLES = {
    FINAL: "development error at the end",
    LATE: "late development error",
    TEST: "test error",
    "memory_capacity_before": "memory capacity before training",
    "memory_capacity_after": "memory capacity after training",
}
# The project's question: what of these two starts, under each rule?
SEEDED, RANDOM = "LMU", "scaled random"
SAMPLE = "timit_sample_processed"
VERDICTS = ("lower", "higher", "no difference shown")

HOW_TO_READ = """\
**Late development error**: the mean of the development errors of the second half of a training, which
is less noisy than that at its end and decides here. **Test error**: with the weights of the best
evaluation on the development set. Brackets hold 95 % intervals over seeds (Student's t), of
differences those of the paired t test. **k of n**: in how many seeds the condition is lower.
**Lower, higher**: by the late development error; an asterisk says that the test error's interval lies
on the same side of zero. **p**: exact permutation test of the differences' signs, two-sided, not
corrected for the number of comparisons; with n seeds it cannot be below 2 / 2^n, 0.063 of five and
0.031 of six. Only the sentences above these lines, on the question itself, use wider intervals, which
hold for all learning rules at once with 95 %."""

LIMITS_OF_SAMPLE = """\
* **80 utterances of 10 speakers are not TIMIT**, which has 3,696 of 462. Development and test set are
  24 utterances of three speakers each. The intervals are over seeds, which draw initial weights and
  batches; they do not cover the choice of speakers, and what helps or fails where speech is scarce
  may not where it is plenty. `experiments/full_corpus/` has the same plans for the whole corpus."""

LIMITS = """\
* **"No difference shown" is not "no difference"**: the interval says how large it may still be.
* **Learning rates** were chosen for each start (LSTM: input) under symmetric e-prop, forward networks
  at a delay of 10 frames, and then used with all rules and delays (other exceptions: the comments of
  the plans). Another rule may have a better one, so that a comparison of rules favours the symmetric
  one.
* **One setting of the LMU**, the default of `lmu_init.py`, and one length of training. Others may do
  better (`experiments/lsnn_search.json` searches them)."""


def define_flags(flag_values):
    both = {"flag_values": flag_values}
    flags.DEFINE_string("page", "RESULTS.md", "file to write", **both)
    flags.DEFINE_string("details", "docs/results", "folder for the plans' whole reports", **both)


# --------------------------------------------------------------------------- verdicts


def verdict(interval):
    """What an interval (`low`, `high`) of differences shows, one of VERDICTS."""
    if interval["high"] < 0:
        return "lower"
    return "higher" if interval["low"] > 0 else "no difference shown"  # so is NaN


def verdict_lines(experiment):
    """Lines, one a baseline: which conditions err less than it, which more."""
    lines, differences = [], experiment.differences
    if differences.empty:
        return lines
    for baseline, rows in differences.groupby("baseline", sort=False):
        said = {word: {} for word in VERDICTS}
        for (first, *others), condition in rows.groupby(experiment.axes, sort=False):
            of = condition.set_index("metric")
            word, of_test = verdict(of.loc[LATE]), verdict(of.loc[TEST])
            confirmed = "*" if word == of_test != "no difference shown" else ""
            said[word].setdefault(first, []).append(", ".join(others) + confirmed)
        parts = [
            f"**{word}**: {'; '.join(map(_point, names, names.values()))}"
            for word, names in said.items()
            if names
        ]
        lines.append(f"* Against {baseline}: {'. '.join(parts)}.")
    return lines


def _point(first, others):
    """A label of the first axis with those of the others, asterisks escaped for Markdown."""
    text = " / ".join(others).replace("*", r"\*")
    return f"{first} ({text})" if text.strip("\\*") else first + text


# --------------------------------------------------------------------------- tables


def error_cell(row):
    return _with_interval(row, "")


def difference_cell(row):
    return (
        f"{_with_interval(row, '+')}; {row['n_smaller']} of {row['n_pairs']}; "
        f"p {row['p_permutation']:.2g}"
    )


def _with_interval(row, sign):
    text = f"{row['mean']:{sign}.3f}"
    if row["n"] > 1:
        text += f" [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
    return text


def iterations_cell(row):
    n = row["n"] + row["n_infinite"]
    median = "never" if row["n"] <= n / 2 else f"{row['median']:.0f}"
    return median if row["n"] == n else f"{median} ({row['n']} of {n} do)"


def tables(rows, axes, metrics, cell):
    """Markdown tables of a statistic: the first axis down, the others across.

    Args:
        rows: DataFrame with columns of the axes, `metric` and the statistic.
        axes: names of the axes. Of one axis alone, the metrics go across a single table.
        metrics: in the order of the tables; those that `rows` lacks are left out.
        cell: function of a row (dict) that gives its text.
    """
    first, *others = axes
    lines = []
    present = [metric for metric in metrics if (rows["metric"] == metric).any()]
    for shown in [[metric] for metric in present] if others else [present]:
        table = {}
        for row in rows[rows["metric"].isin(shown)].to_dict("records"):
            column = ", ".join(row[axis] for axis in others) or TITLES[row["metric"]]
            table.setdefault(row[first], {})[column] = cell(row)
        columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
        corner = f"{first} \\ {', '.join(others)}: {TITLES[shown[0]]}" if others else first
        lines += report.markdown(
            {corner: label, **{column: cells.get(column, "") for column in columns}}
            for label, cells in table.items()
        )
        lines += [""]
    return lines


# --------------------------------------------------------------------------- the question


def is_question(plan):
    """Whether a plan asks for the seeded start against the random one, under several rules."""
    return (
        set(plan.axes) == {"start", "rule"}
        and SEEDED in plan.axes["start"]
        and plan.baselines[:1] == [{"start": RANDOM}]
    )


def answer_lines(experiment):
    """The project's question: the LMU against other starts, seed by seed, under each rule."""
    starts = [baseline for baseline in experiment.plan.baselines if list(baseline) == ["start"]]
    lines = [
        f"## Does it help to start from the {SEEDED}?",
        "",
        *(f"* {answer(experiment, baseline)}" for baseline in starts),
        "",
    ]
    differences, summary = experiment.differences, experiment.summary
    if differences.empty:
        return lines
    is_asked = differences["baseline"] == report.spoken_point({"start": RANDOM})
    rows = differences[is_asked & (differences["start"] == SEEDED)]
    if rows.empty:
        return lines
    of_starts = summary.set_index(["start", "rule", "metric"])
    errors, iterations = [], []
    for rule, parts in rows.groupby("rule", sort=False):
        of = {part["metric"]: part for part in parts.to_dict("records")}
        errors.append(
            {
                "rule": rule,
                **{TITLES[name]: difference_cell(of[name]) for name in (LATE, FINAL, TEST)},
            }
        )
        speed = of[report.REACH]
        iterations.append(
            {
                "rule": rule,
                **{
                    f"{start}, median": iterations_cell(of_starts.loc[start, rule, report.REACH])
                    for start in (SEEDED, RANDOM)
                },
                f"{SEEDED} is": f"{speed['n_smaller']} of {speed['n_pairs']} earlier, "
                f"{speed['n_larger']} later",
                "p, sign test": f"{speed['p_sign']:.2g}",
            }
        )
    return [
        *lines,
        f"{SEEDED} minus {RANDOM}:",
        "",
        *report.markdown(errors),
        "",
        f"Iterations until the development error is the mean late one of the {RANDOM} networks, of "
        "the same rule, as seen at the evaluations:",
        "",
        *report.markdown(iterations),
        "",
    ]


def answer(experiment, baseline):
    """A sentence on the seeded start against another one, under each rule of the plan."""
    plan = experiment.plan
    pairs_of = {}
    for labels, pairs in experiment.pairs(baseline):
        point = dict(zip(experiment.axes, labels))
        if point["start"] == SEEDED:
            pairs_of[point["rule"]] = pairs
    against = f"Against '{baseline['start']}'"
    n_rules = len(plan.axes["rule"])
    n, n_planned = sum(map(len, pairs_of.values())), n_rules * len(plan.seeds)
    if n < n_planned:
        return f"{against}: not answered yet, {n} of {n_planned} pairs of runs are finished."
    confidence = 1 - (1 - report.CONFIDENCE) / n_rules
    said = {word: {} for word in VERDICTS}
    for rule, pairs in pairs_of.items():
        differences = pairs[LATE] - pairs[f"{LATE}_baseline"]
        interval = report.interval_over_seeds(differences, confidence)
        said[verdict(interval)][rule] = interval
    phrases = ("it errs less under", "it errs more under", "no difference is shown under")
    text = "; ".join(
        f"{phrase} {', '.join(rules)}" for phrase, rules in zip(phrases, said.values()) if rules
    )
    text = f"**{against}: {text}.**"
    unsettled = said["no difference shown"].values()
    if unsettled:
        least = min(interval["low"] for interval in unsettled)
        most = max(interval["high"] for interval in unsettled)
        text += (
            f" There the intervals leave room for a late development error up to {-least:.3f} lower "
            f"and up to {most:.3f} higher."
        )
    return text


# --------------------------------------------------------------------------- sections


def comparison_lines(experiment, details):
    """Section on a plan with baselines; its report is in the folder `details`."""
    plan, axes = experiment.plan, experiment.axes
    curves = os.path.join(details, report.CURVES_FIGURE)
    summary, differences = experiment.summary, experiment.differences
    lines = [
        *verdict_lines(experiment),
        "",
        *tables(summary, axes, (LATE, TEST, *report.MEMORY), error_cell),
        f"![learning curves of {plan.name}]({curves})",
        "",
    ]
    for baseline in plan.baselines:
        spoken = report.spoken_point(baseline)
        rows = differences[differences["baseline"] == spoken] if len(differences) else differences
        if rows.empty:
            continue
        figure = os.path.join(details, report.differences_figure(plan, baseline))
        lines += [f"Minus {spoken}, seed by seed:", ""]
        if baseline == plan.baselines[0]:  # the report has the others' tables
            lines += tables(rows, axes, (LATE, TEST), difference_cell)
        lines += [f"![differences from {spoken}]({figure})", ""]
    return lines


def choice_lines(experiment):
    """Section on a plan that chooses: the late error at each point, the chosen one in bold."""
    plan, axes = experiment.plan, experiment.axes
    chosen = experiment.chosen().to_dict("records")
    best = {tuple(row[axis] for axis in axes) for row in chosen}

    def cell(row):
        text = f"{row['mean']:.3f}"
        return f"**{text}**" if tuple(row[axis] for axis in axes) in best else text

    at_an_end = [
        ", ".join(row[axis] for axis in axes if axis != plan.choose)
        for row in chosen
        if row["at_an_end"] == "yes"
    ]
    lines = tables(experiment.summary, axes, (LATE,), cell)
    if at_an_end:
        lines += [
            f"At an end of the grid: {'; '.join(at_an_end)}. A better {plan.choose} may lie beyond.",
            "",
        ]
    return lines


def main(flag_values, *folders):
    if not folders:
        raise UserError(
            "no folder given: expected some that 'explore_parameters.py run' has filled"
        )
    names = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(f"{' '.join(folders)}: two are of one name: expected different ones")
    page_folder = os.path.dirname(os.path.abspath(flag_values.page))
    if not os.path.isdir(page_folder):
        raise UserError(
            f"--page={flag_values.page}: there is no folder {page_folder}: make it first"
        )
    plans = [read_plan(os.path.join(folder, report.PLAN_FILE)) for folder in folders]
    for folder, plan in zip(folders, plans):
        if not (plan.choose or plan.baselines):
            raise UserError(f"{folder}: plan '{plan.name}' has no baseline: nothing is compared")
    sections, answers, n_runs, hours = [], [], 0, 0.0
    for folder, name in zip(folders, names):
        details = os.path.join(flag_values.details, name)
        experiment = report.write_report(folder, details)
        shown = os.path.relpath(details, page_folder)
        plan = experiment.plan
        n_runs, hours = n_runs + len(experiment.runs), hours + experiment.runs["hours"].sum()
        sections += [f"## {plan.name}", "", plan.comment, "", *report.overview(experiment)]
        if plan.choose:
            sections += choice_lines(experiment)
        else:
            sections += comparison_lines(experiment, shown)
        sections += [f"All numbers, with their run folders: [{shown}]({shown}/report.md).", ""]
        if is_question(plan):
            answers += answer_lines(experiment)
    is_sample = all(plan.flags.get("dataset") == SAMPLE for plan in plans)
    lines = [
        "# Results",
        "",
        "Frame errors (fractions of frames, see the README) of LSNNs and LSTMs on TIMIT. The numbers, "
        "and the sentences on what is lower or higher than what, are written from the runs by",
        "",
        "```",
        shlex.join(["python3", "results_page.py", *folders]),
        "```",
        "",
    ]
    if is_sample:
        lines += [
            "The speech is NLTK's sample of 16 speakers. `make results TIMIT=SAMPLE` makes the runs "
            "and the page, `python3 explore_parameters.py run experiments/PLAN.json results/PLAN` the "
            "runs of one plan.",
            "",
        ]
    lines += [
        f"The {n_runs} runs took {hours:.1f} hours, their processes' times added up.",
        "",
        *answers,
        "## How to read the tables",
        "",
        HOW_TO_READ,
        "",
        "## What they do not say",
        "",
        *([LIMITS_OF_SAMPLE] if is_sample else []),
        LIMITS,
        "",
        *sections,
    ]
    with write_whole(flag_values.page, "w") as file:
        file.write("\n".join(lines).rstrip() + "\n")
    print(f"written: {flag_values.page}")


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=-1)
