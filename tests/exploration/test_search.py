"""Searches by a training script that takes no time: workers, pruning, failures, reports."""

import json
import os
import re
import threading

import numpy as np
import optuna
import pytest

import exploration.run_folders
from exploration import runs, search
from exploration.plan import read_plan
from exploration.report import write_report
from faults import run_folders
from small_runs import SCRIPT
from toolbox import run_lock
from toolbox.command_line import UserError

ERRORS = {"ranges": {"error": {"choices": [0.25, 0.5]}}, "n_startup_trials": 2}


@pytest.fixture
def plan_of(tmp_path):
    """Function: path of a plan of this search."""

    def write(search, **entries):
        plan = {"name": "tiny", "script": f"{SCRIPT}.py", "seeds": [1], "search": search, **entries}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        return str(tmp_path / "plan.json")

    return write


@pytest.fixture
def start(tmp_path, fast_script):
    """Function: take part in a plan's search in the folder `runs`; its exit status."""

    def call(plan, n_jobs=1):
        return search.search(plan, str(tmp_path / "runs"), runs.make_slots(n_jobs, 1, [], 2))

    return call


def study_of(folder):
    storage = search.open_storage(os.path.join(folder, search.STUDY_FILE))
    return optuna.load_study(study_name="tiny", storage=storage)


@pytest.mark.parametrize("metric", ["frame_error", "phone_error_rate"])
def test_two_workers_share_one_study(plan_of, start, tmp_path, capsys, metric):
    """No trial twice, exactly as many as asked for; a dead worker's trial is taken up."""
    plan = plan_of({"n_trials": 24, **ERRORS}, flags={"metric_name": metric})
    folder = str(tmp_path / "runs")
    runs.open_experiment(folder, read_plan(plan))
    study = search.open_study(read_plan(plan), os.path.join(folder, search.STUDY_FILE))
    trial, lock = search.next_trial(study, 24, folder, threading.Event())
    lock.close()  # its worker is dead, the trial is running for ever
    workers = [threading.Thread(target=start, args=(plan, 2)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    trials = study_of(folder).get_trials()
    assert [trial.number for trial in trials] == list(range(24))
    said = capsys.readouterr().out
    told = re.findall(r"^trial (\d+): best development error", said, re.MULTILINE)
    assert sorted(map(int, told)) == list(range(24))  # each by one worker, the dead one's too
    for trial in trials:
        assert trial.state.name == "COMPLETE" and trial.value == trial.params["error"]
    assert len(run_folders(folder)) == 2  # equal trials are one run
    best = [line for line in said.splitlines() if "24 complete" in line]
    assert best and all("development error 0.2500: error=0.25" in line for line in best)


def test_a_hopeless_run_is_stopped(plan_of, start, tmp_path, capsys):
    """A trial far above the others' errors, which are made up, ends long before its run would."""
    ranges = {"error": {"low": 0.4, "high": 0.6}}
    plan = plan_of(
        {"n_trials": 3, "ranges": ranges, "n_startup_trials": 2},
        flags={"n_evaluations": 10**6, "pause_s": 0.05},
    )
    folder = tmp_path / "runs"
    runs.open_experiment(str(folder), read_plan(plan))
    study = search.open_study(read_plan(plan), str(folder / search.STUDY_FILE))
    for error in (0.45, 0.55):
        study.add_trial(
            optuna.create_trial(
                params={"error": error},
                distributions={"error": optuna.distributions.FloatDistribution(0.4, 0.6)},
                intermediate_values=dict.fromkeys(range(0, 1000, 10), 0.001),
                value=0.001,
            )
        )
    assert start(plan) == 0
    assert re.search(r"^trial 2 stopped at 0\.\d+: error=", capsys.readouterr().out, re.MULTILINE)
    trial = study_of(folder).get_trials()[2]
    assert trial.state.name == "PRUNED"
    (path,) = run_folders(folder).values()
    # What the study knows are the run's own development errors.
    known = exploration.run_folders.read_curve(path)
    assert trial.intermediate_values and trial.intermediate_values.items() <= known.items()
    assert not exploration.run_folders.is_finished(path)
    with run_lock.take(runs.lock_path(str(folder), "trial_2")) as lock:
        assert lock is not None


def test_a_search_without_a_trial_that_ends_says_so(plan_of, start, capsys):
    search_ = {"n_trials": 1, "ranges": {"broken": {"low": 0.1, "high": 0.2}}}
    assert start(plan_of(search_)) == 1
    said = capsys.readouterr().out
    assert "trial 0 failed" in said and "it is broken (exit status 1" in said
    assert "study tiny: 1 fail\n" in said


def test_a_trial_is_a_run_for_each_seed(plan_of, start, tmp_path):
    assert start(plan_of({"n_trials": 1, **ERRORS}, seeds=[1, 2])) == 0
    (trial,) = study_of(tmp_path / "runs").get_trials()
    assert len(trial.user_attrs["run_folders"]) == len(run_folders(tmp_path / "runs")) == 2
    # 20 iterations each; the second seed's are counted on.
    assert sorted(trial.intermediate_values) == [0, 10, 20, 21, 31, 41]


def test_a_study_of_other_settings_is_not_joined(plan_of, tmp_path):
    search_ = {"n_trials": 1, **ERRORS}
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    plan = read_plan(plan_of(search_))
    search.open_study(plan, storage)
    more = read_plan(plan_of({**search_, "n_trials": 9}))
    assert search.open_study(more, storage).study_name == "tiny"
    other = read_plan(plan_of(search_, flags={"batch": 3}))
    with pytest.raises(UserError, match="holds a study 'tiny' of other flags"):
        search.open_study(other, storage)
    with pytest.raises(UserError, match="--storage=nowhere://x: "):
        search.open_study(plan, "nowhere://x")


def test_values_are_drawn_from_the_ranges_of_the_plan():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    ranges = {
        "theta_ms": {"low": 20, "high": 400.0, "log": True},
        "order": {"low": 2, "high": 8, "step": 2},
        "eprop": {"choices": ["symmetric", "random"]},
    }
    drawn = []
    for _ in range(40):
        trial = study.ask()
        drawn.append([search.suggest(trial, n, r) for n, r in ranges.items()])
    theta_ms, order, rule = zip(*drawn)
    assert 20 <= min(theta_ms) < 40 and 200 < max(theta_ms) <= 400
    assert 60 < np.exp(np.mean(np.log(theta_ms))) < 130  # the geometric mean of 20 and 400 is 89
    assert set(order) == {2, 4, 6, 8} and all(isinstance(value, int) for value in order)
    assert set(rule) == {"symmetric", "random"}


def test_report_of_a_search(plan_of, tmp_path):
    plan_of({"n_trials": 3, "ranges": {"lr_init": {"low": 0.001, "high": 0.1}}}, comment="why")
    with pytest.raises(UserError, match="no such study"):
        write_report(str(tmp_path), str(tmp_path))
    storage = search.open_storage(str(tmp_path / search.STUDY_FILE))
    with pytest.raises(UserError, match="holds no study 'tiny'"):
        write_report(str(tmp_path), str(tmp_path))
    study = optuna.create_study(storage=storage, study_name="tiny")
    write_report(str(tmp_path), str(tmp_path))
    assert "study tiny: no trials." in (tmp_path / "report.md").read_text()
    for rate, error in ((0.01, 0.42), (0.02, 0.40)):
        trial = optuna.create_trial(
            params={"lr_init": rate},
            distributions={"lr_init": optuna.distributions.FloatDistribution(0.001, 0.1)},
            value=error,
            user_attrs={"run_folders": [f"run_{rate}"]},
        )
        study.add_trial(trial)
    write_report(str(tmp_path), str(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# tiny\n\nwhy\n")
    assert "2 complete; best is trial 1, development error 0.4000: lr_init=0.02" in text
    assert text.index("| 1 | 0.4000 | 0.02 |") < text.index("| 0 | 0.4200 | 0.01 |")
    assert "run_0.01" in (tmp_path / "trials.csv").read_text()
