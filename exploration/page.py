"""The tables of RESULTS.md, written from the runs of several experiments into a page of words.

Each plan's whole report goes into a folder of its own. Its section of the page stands between two
comments, which name the experiment's folder:

    <!-- tables of lsnn_starts -->
    ...
    <!-- end of lsnn_starts -->

What stands there is replaced; the words around it are a person's. A page without these comments gets
them at its end.
"""

import os
import re

from exploration import report, tables
from exploration.plan import PLAN_FILE, read_plan, spoken
from exploration.statistics import FLOOR, LATE, MEMORY, TEST
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole


def write_page(folders, page, details):
    """Write the tables of the experiments in several folders into a page, and each one's report
    under `details`.

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
    text = _read(page)
    for folder, name in zip(folders, names):
        report_folder = os.path.join(details, name)
        experiment = report.write_report(folder, report_folder, has_curves=False)
        section = _section(experiment, os.path.relpath(report_folder, page_folder))
        text = _with_section(text, name, section)
    with write_whole(page, "w") as file:
        file.write(text)
    print(f"written: {page}")


def _read(page):
    """The page's text; of a new one a title."""
    try:
        with open(page, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return f"# Results\n\n{report.HOW_TO_READ}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--page={page}: cannot be read ({error}): expected Markdown") from None


def _with_section(text, name, section):
    """A page's text with the section of an experiment in its place."""
    first, last = f"<!-- tables of {name} -->", f"<!-- end of {name} -->"
    whole = f"{first}\n{section}\n{last}"
    place = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if place.search(text):
        return place.sub(lambda _: whole, text, count=1)
    return f"{text.rstrip()}\n\n## {name}\n\n{whole}\n"


def _section(experiment, shown):
    """An experiment's tables and figure; its report is in the folder `shown`."""
    plan = experiment.plan
    overview = report.overview(experiment)
    lines = [f"{overview} [All numbers, with their run folders]({shown}/report.md).", ""]
    if plan.choose:
        lines += report.comparison(experiment, (), ())
    else:
        lines += _compared(experiment)
    if len(experiment.differences):
        figure = os.path.join(shown, report.DIFFERENCES_FIGURE)
        lines += [f"![differences from {spoken(report.drawn_baseline(experiment))}]({figure})"]
    return "\n".join(lines).rstrip()


def _compared(experiment):
    """Verdicts, and each mean with its difference from the first baseline."""
    axes, baseline = experiment.axes, experiment.plan.baselines[0]
    rows = experiment.differences_from(baseline).to_dict("records")
    differences = {tuple(row[name] for name in (*axes, "metric")): row for row in rows}

    def cell(row):
        difference = differences.get(tuple(row[name] for name in (*axes, "metric")))
        text = tables.mean_text(row)
        return text if difference is None else f"{text}; {tables.difference_text(difference)}"

    return [
        *report.verdict_lines(experiment),
        "",
        f"Means; of the others also minus {spoken(baseline)}, seed by seed:",
        "",
        *tables.pivot(experiment.summary, axes, (LATE, TEST, *MEMORY, FLOOR), cell),
    ]
