"""From one run to an experiment: many runs by a plan, a search of parameters, and their report.

    python3 explore_parameters.py run experiments/lsnn_starts.json results/lsnn_starts
    python3 explore_parameters.py report results/lsnn_starts
    python3 explore_parameters.py search experiments/lsnn_search.json results/lsnn_search
    python3 explore_parameters.py page results/lsnn_starts results/lstm_rules

`run` starts the runs of a plan (exploration/plan.py has its format) as processes of their own, as
many at once as cores allow or, with GPUs, one on each. Run folders are those of the training
scripts, `FOLDER/<script>/<time>_<settings and seed>/`. Started again, after a kill or with an
edited plan, it takes finished runs as they are, resumes interrupted ones and starts those that are
missing. A failed run does not stop the others; the exit status is then 1.

Every run is a pytry trial: `pandas.DataFrame(pytry.read(FOLDER))` has a row of settings and metrics
for each of the plan's finished runs.

`search` draws the plan's ranges by Optuna, in a study that any number of these commands, on several
machines too, share: in FOLDER if that is a shared one, else by `--storage`.

`report` writes tables and figures of a plan's runs (exploration/statistics.py says how they are
computed), `page` the reports of several plans and their tables into a page of words, RESULTS.md.
"""

import os

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

from exploration.page import write_page
from exploration.report import write_report
from exploration.runs import make_slots, run_plan, visible_gpus
from exploration.search import STUDY_FILE, search
from toolbox.command_line import UserError


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.integer(
        "n_jobs", 0, "run, search: runs at a time; 0: a run each GPU, or as cores allow", 0
    )
    define.integer("n_threads", 1, "run, search: CPU threads of a run", 1)
    define.list(
        "gpus",
        None,
        "run, search: ids of GPUs, a run at a time on each; none: the CPU; absent: those of "
        "CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists",
    )
    define.path(
        "storage",
        "",
        f"search, report: file or database URL of the shared study; empty: {STUDY_FILE} in the "
        "folder",
    )
    define.path("report", "", "report: folder to write to; empty: the runs' own")
    define.path("page", "RESULTS.md", "page: file to write tables into")
    define.path("details", "docs/results", "page: folder for the plans' reports")


def main(flag_values, command="", *paths):
    def slots():
        gpus = visible_gpus(flag_values.gpus, os.environ)
        n_cores = command_line.available_cores()
        return make_slots(flag_values.n_jobs, flag_values.n_threads, gpus, n_cores)

    def report(folder):
        write_report(folder, flag_values.report or folder, flag_values.storage)

    commands = {
        "run": ("PLAN.json FOLDER", lambda plan, folder: run_plan(plan, folder, slots())),
        "search": (
            "PLAN.json FOLDER",
            lambda plan, folder: search(plan, folder, slots(), flag_values.storage),
        ),
        "report": ("FOLDER", report),
        "page": (
            "FOLDER...",
            lambda *folders: write_page(folders, flag_values.page, flag_values.details),
        ),
    }
    if command not in commands:
        raise UserError(f"'{command}': expected run, search, report or page (--help tells more)")
    expected, function = commands[command]
    if not expected.endswith("...") and len(paths) != len(expected.split()):
        raise UserError(f"{command}: {len(paths)} argument(s), expected {expected}")
    if "" in paths:
        raise UserError(f"{command}: an argument is empty, expected {expected}")
    return function(*paths)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=-1)
