"""The page of results (RESULTS.md): what several experiments say, written from their runs.

Each plan's whole report goes into a folder of its own, and the page sums them up: errors,
differences at matched seeds, a figure, and what they say. `exploration/statistics.py` has the rule
by which a condition is said to err less or more than another.
"""

import os
import shlex

from exploration import report, tables
from exploration.plan import PLAN_FILE, read_plan, spoken
from exploration.statistics import FINAL, LATE, MEMORY, REACH, TEST, VERDICTS
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole

# The project's question: what of these two starts, under each rule?
SEEDED, RANDOM = "LMU", "scaled random"
SAMPLE = "timit_sample_processed"

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


def write_page(folders, page, details):
    """Write a page on the experiments in several folders, and each one's report under `details`.

    Raises:
        UserError: nothing to write about, or nowhere to write it.
    """
    if not folders:
        raise UserError(
            "no folder given: expected some that 'explore_parameters.py run' has filled"
        )
    names = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(f"{' '.join(folders)}: two are of one name: expected different ones")
    page_folder = os.path.dirname(os.path.abspath(page))
    if not os.path.isdir(page_folder):
        raise UserError(f"--page={page}: there is no folder {page_folder}: make it first")
    for folder in folders:
        plan = read_plan(os.path.join(folder, PLAN_FILE))
        if not (plan.choose or plan.baselines):
            raise UserError(f"{folder}: plan '{plan.name}' has no baseline: nothing is compared")
    experiments = {}
    for folder, name in zip(folders, names):
        report_folder = os.path.join(details, name)
        experiment = report.write_report(folder, report_folder, has_curves=False)
        experiments[os.path.relpath(report_folder, page_folder)] = experiment
    with write_whole(page, "w") as file:
        file.write("\n".join(page_lines(experiments, folders)).rstrip() + "\n")
    print(f"written: {page}")


def page_lines(experiments, folders):
    """The page's lines on experiments (report folder, seen from the page -> Experiment)."""
    plans = [experiment.plan for experiment in experiments.values()]
    is_sample = all(plan.flags.get("dataset") == SAMPLE for plan in plans)
    hours = [experiment.runs["hours"].sum(skipna=False) for experiment in experiments.values()]
    n_runs = sum(len(experiment.runs) for experiment in experiments.values())
    scripts = " and ".join(f"`{script}`" for script in sorted({plan.script for plan in plans}))
    lines = [
        "# Results",
        "",
        "Errors (fractions; each section names its metric, see the README) of the networks that "
        f"{scripts} train. The numbers, and the sentences on what is lower or higher than what, "
        "are written from the runs by",
        "",
        "```",
        shlex.join(["python3", "explore_parameters.py", "page", *folders]),
        "```",
        "",
    ]
    if is_sample:
        lines += [
            "The speech is NLTK's sample of 16 speakers. `make results TIMIT=SAMPLE` makes the runs "
            "and the page, `python3 explore_parameters.py run experiments/PLAN.json results/PLAN` "
            "the runs of one plan.",
            "",
        ]
    if sum(hours) >= 0:
        lines += [f"The {n_runs} runs took {sum(hours):.1f} hours, their processes' added up.", ""]
    for experiment in experiments.values():
        if _is_question(experiment.plan):
            lines += answer_lines(experiment)
    lines += ["## How to read the tables", "", report.HOW_TO_READ, ""]
    lines += ["## What they do not say", "", *([LIMITS_OF_SAMPLE] if is_sample else []), LIMITS, ""]
    for shown, experiment in experiments.items():
        lines += _section(experiment, shown)
    return lines


def _section(experiment, shown):
    """Section on an experiment whose report is in the folder `shown`."""
    plan = experiment.plan
    metrics = () if plan.choose else (LATE, TEST, *MEMORY)
    lines = [
        *(f"## {plan.name}", "", plan.comment, "", *report.overview(experiment)),
        # The report has the tables of other metrics and baselines.
        *report.comparison(experiment, metrics, plan.baselines[:1]),
    ]
    if len(experiment.differences):
        figure = os.path.join(shown, report.DIFFERENCES_FIGURE)
        lines += [f"![differences from {spoken(report.drawn_baseline(experiment))}]({figure})", ""]
    return [*lines, f"All numbers, with their run folders: [{shown}]({shown}/report.md).", ""]


# --------------------------------------------------------------------------- the question


def _is_question(plan):
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
        *(f"* {_answer(experiment, baseline)}" for baseline in starts),
        "",
    ]
    rows = _of_seeded(experiment, starts[0])
    if rows.empty:
        return lines
    summary = experiment.summary
    return [
        *lines,
        f"{SEEDED} minus {RANDOM}:",
        "",
        *tables.pivot(rows, ["rule"], (LATE, FINAL, TEST, REACH), tables.difference_text),
        f"The error to reach is the mean late one of the {RANDOM} networks, of the same rule. The "
        "median iteration at which an evaluation has it:",
        "",
        *tables.pivot(
            summary[summary["start"].isin([SEEDED, RANDOM])],
            ["rule", "start"],
            (REACH,),
            tables.mean_text,
        ),
    ]


def _of_seeded(experiment, baseline):
    """Rows of the differences: those of the seeded start from a baseline."""
    rows = experiment.differences_from(baseline)
    return rows[rows["start"] == SEEDED]


def _answer(experiment, baseline):
    """A sentence on the seeded start against another one, under each rule of the plan."""
    plan, rows = experiment.plan, _of_seeded(experiment, baseline)
    against = f"Against '{baseline['start']}'"
    rows = rows[rows["metric"] == LATE]
    n = rows["n_pairs"].sum()
    n_planned = len(plan.axes["rule"]) * len(plan.seeds)
    if n < n_planned:
        return f"{against}: not answered yet, {n} of {n_planned} pairs of runs are finished."
    rules = rows.groupby("verdict")["rule"].agg(", ".join)
    phrases = (
        *("it errs less under", "it errs more under", "no difference is shown under"),
        "fewer than 3 seeds give no verdict under",
    )
    said = zip(VERDICTS, phrases)
    text = "; ".join(f"{phrase} {rules[word]}" for word, phrase in said if word in rules)
    text = f"**{against}: {text}.**"
    unsettled = rows[rows["verdict"] == VERDICTS[2]]
    if len(unsettled):
        text += (
            " There the intervals leave room for a late development error up to "
            f"{-unsettled['low'].min():.3f} lower and up to {unsettled['high'].max():.3f} higher."
        )
    return text
