"""Many runs by a plan and a search, with the real scripts at tiny sizes; kills and failures."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import optuna
import pandas
import pytest
import pytry
from faults import (
    LSNN,
    TIMEOUT_S,
    assert_same_run,
    children_of,
    kill,
    read_json,
    run_folders,
    start,
    write_plan,
)

import explore_parameters
from exploration import report
from exploration.plan import read_plan
from helpers import run_in
from toolbox import command_line
from toolbox.command_line import UserError

SCRIPT = "explore_parameters.py"
N_ITERATIONS = 120
NO_NEURONS = {"name": "no neurons", "flags": {"n_regular": 0, "n_adaptive": 0}}
TWO_RULES = {"grid": {"eprop": ["symmetric", "random"]}}


@pytest.fixture(scope="module")
def finished(tiny_processed, tmp_path_factory):
    """Folder in which `run` was started once with two good runs and one that fails; the process."""
    where = tmp_path_factory.mktemp("finished")
    cases = [{"name": rule, "flags": {"eprop": rule}} for rule in ("symmetric", "random")]
    write_plan(where, tiny_processed, list=[NO_NEURONS, *cases])
    process = run_in(where, SCRIPT, "run", "plan.json", "runs", "--n_jobs=2", "--gpus=none")
    return where, process


# --------------------------------------------------------------------------- run


def test_a_failed_run_is_reported_and_stops_no_other(finished):
    where, process = finished
    assert process.returncode == 1, process.stderr
    (failure,) = [line for line in process.stdout.splitlines() if line.startswith("failed: ")]
    assert re.search("case=no-neurons_seed=1_.* a neuron at least .exit status 2, ", failure)
    log = failure.rsplit(", ", 1)[1].rstrip(")")
    assert "expected a neuron at least" in (where / log).read_text()
    assert "runs: 2 of 3 runs finished, 1 failed" in process.stdout
    folders = run_folders(where / "runs")
    assert len(folders) == 2
    for folder in folders.values():
        assert read_json(folder, "metrics.json")["iterations"] == N_ITERATIONS


def test_pytry_reads_settings_and_metrics_of_every_run(finished):
    where, _ = finished
    table = pandas.DataFrame(pytry.read(where / "runs")).set_index("case")
    assert sorted(table.index) == ["random", "symmetric"]
    assert (table["script"] == f"{LSNN}.py").all() and (table["seed"] == 1).all()
    assert list(table["n_regular"]) == [5, 5]
    for rule, row in table.iterrows():
        assert row["eprop"] == rule
        metrics = read_json(where / "runs" / row["run_folder"], "metrics.json")
        flags = read_json(where / "runs" / row["run_folder"], "flags.json")["flags"]
        assert (flags["eprop"], flags["n_threads"], flags["seed"]) == (rule, 1, 1)
        assert row["test_frame_error"] == metrics["test_frame_error"]
    assert table["test_frame_error"].nunique() == 2


@pytest.fixture
def copied(finished, tmp_path):
    """Function: a folder with copies of some finished runs and another plan; its path."""

    def copy(plan_path, rules=("symmetric", "random")):
        folder = tmp_path / "runs"
        folder.mkdir()
        shutil.copy(plan_path, folder / "plan.json")
        for path in run_folders(finished[0] / "runs").values():
            if any(f"case={rule}_" in path for rule in rules):
                shutil.copytree(path, folder / LSNN / os.path.basename(path))
        return folder

    return copy


@pytest.fixture
def explore(tmp_path, monkeypatch):
    """Function: the script's main function, called in this process and an empty folder."""

    def call(*arguments):
        flag_values, positional = command_line.parse_flags(
            explore_parameters.define_flags, [SCRIPT, *arguments], 3
        )
        monkeypatch.chdir(tmp_path)
        return explore_parameters.main(flag_values, *positional)

    return call


def test_an_edited_plan_takes_the_finished_runs_as_they_are(
    tiny_processed, copied, tmp_path, explore, capsys
):
    plan = write_plan(tmp_path, tiny_processed, **TWO_RULES)
    folder = copied(plan)
    left_over = folder / "case=other_seed=1_0123456789.txt"
    left_over.write_text("seed = 1\n")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}
    assert explore("run", "plan.json", "runs") == 0
    assert "runs: 2 of 2 runs finished\n" in capsys.readouterr().out
    assert not left_over.exists()  # so that pytry reads this plan's runs
    after = {path: path.stat().st_mtime_ns for path in (folder / LSNN).rglob("*.*")}
    assert after.items() <= before.items()
    assert not os.listdir(folder / "logs")  # no script was started
    table = pandas.DataFrame(pytry.read(folder))
    assert sorted(table["eprop"]) == ["random", "symmetric"] and "case" not in table
    explore("report", "runs")
    assert "2 of 2 runs finished" in (folder / "report.md").read_text()


def wait_until(condition, process):
    """Wait until a condition holds, while a process runs."""
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_killed_plan_goes_on_and_ends_as_if_it_had_not_been_killed(
    tiny_processed, copied, finished, tmp_path, explore, capsys
):
    """One kill in one run; `make soak PART=kill_plan` has two, among twelve."""
    plan = write_plan(tmp_path, tiny_processed, **TWO_RULES)
    folder = copied(plan, ["symmetric"])
    (finished_digest,) = run_folders(folder)
    process = start(tmp_path, [SCRIPT, "run", "plan.json", "runs", "--n_jobs=1", "--gpus=none"])

    wait_until(lambda: len(run_folders(folder)) == 2, process)
    (child,) = children_of(process)
    (running,) = (p for d, p in run_folders(folder).items() if d != finished_digest)
    wait_until(lambda: report.read_evaluations(running)[2:], process)
    kill(process, [child])
    assert not report.is_finished(running) and len(pytry.read(folder)) == 1
    assert explore("run", "plan.json", "runs", "--n_jobs=1", "--gpus=none") == 0
    assert "2 of 2 runs finished\n" in capsys.readouterr().out
    (log,) = (folder / "logs").iterdir()
    assert len(re.findall("^resumed at iteration [1-9]", log.read_text(), re.MULTILINE)) == 1
    uninterrupted = run_folders(finished[0] / "runs")
    assert run_folders(folder).keys() == uninterrupted.keys()
    for digest, path in run_folders(folder).items():
        assert_same_run(uninterrupted[digest], path)
    assert len(pytry.read(folder)) == 2
    assert not list(folder.glob(".*.partial"))


def test_a_damaged_run_stops_no_other(tiny_processed, copied, tmp_path, explore, capsys):
    folder = copied(write_plan(tmp_path, tiny_processed, **TWO_RULES))
    (damaged,) = (folder / LSNN).glob("*case=symmetric_*/metrics.json")
    damaged.write_text("[]")
    assert explore("run", "plan.json", "runs") == 1
    said = capsys.readouterr().out
    assert "runs: 1 of 2 runs finished, 1 failed" in said
    (failure,) = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert f"{damaged.parent.name}{os.sep}metrics.json: is damaged" in failure
    assert len(pytry.read(folder)) == 1


def test_a_folder_belongs_to_one_plan(tiny_processed, copied, tmp_path, explore):
    folder = copied(write_plan(tmp_path, tiny_processed, **TWO_RULES))
    write_plan(tmp_path, tiny_processed, name="another", **TWO_RULES)
    with pytest.raises(UserError, match="runs: holds runs of the plan 'tiny', not of 'another'"):
        explore("run", "plan.json", "runs")
    (folder / "plan.json").unlink()
    with pytest.raises(UserError, match="runs: is not empty and holds no plan.json"):
        explore("run", "plan.json", "runs")


def test_wrong_commands_are_refused_in_words(tiny_processed, tmp_path, explore):
    write_plan(tmp_path, tiny_processed)
    for arguments, words in (
        ([], "expected run, search or report"),
        (["train", "plan.json", "runs"], "'train': expected run, search or report"),
        (["run", "plan.json"], "run: 1 argument(s), expected PLAN.json FOLDER"),
        (["search", "plan.json", "runs"], "plan.json: has no entry 'search'"),
        (["report", "none"], "none/plan.json: cannot be read"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            explore(*arguments)
    assert not (tmp_path / "runs").exists()


# --------------------------------------------------------------------------- slots and locks


def test_each_gpu_is_given_to_one_run_at_a_time():
    slots = explore_parameters.make_slots(0, 2, ["0", "GPU-1f"], n_cores=16, machine="m")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "GPU-1f"]
    assert [slot.lock for slot in slots] == ["gpu_m_0", "gpu_m_GPU-1f"]
    for slot in slots:
        assert slot.n_threads == 2
        assert slot.environment["NUMBA_NUM_THREADS"] == slot.environment["OMP_NUM_THREADS"] == "2"
    assert len(explore_parameters.make_slots(1, 1, ["0", "1"], 16, "m")) == 1
    with pytest.raises(UserError, match="--n_jobs=3: expected 2 at most"):
        explore_parameters.make_slots(3, 1, ["0", "1"], 16, "m")
    with pytest.raises(UserError, match="expected different ones"):
        explore_parameters.make_slots(0, 1, ["0", "0"], 16, "m")


def test_runs_on_the_cpu_fill_its_cores_and_see_no_gpu():
    def n_slots(n_jobs, n_threads, n_cores):
        return len(explore_parameters.make_slots(n_jobs, n_threads, [], n_cores, "m"))

    assert (n_slots(0, 1, 4), n_slots(0, 2, 5), n_slots(0, 8, 4), n_slots(3, 8, 4)) == (4, 2, 1, 3)
    for slot in explore_parameters.make_slots(0, 1, [], 4, "m"):
        assert slot.environment["CUDA_VISIBLE_DEVICES"] == "-1"


def test_gpus_are_those_asked_for_or_visible(monkeypatch, tmp_path):
    visible = {"CUDA_VISIBLE_DEVICES": "2, 0"}
    assert explore_parameters.visible_gpus(["1"], visible) == ["1"]
    assert explore_parameters.visible_gpus(["none"], visible) == []
    assert explore_parameters.visible_gpus(None, visible) == ["2", "0"]
    assert explore_parameters.visible_gpus(None, {"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert explore_parameters.visible_gpus(None, {"CUDA_VISIBLE_DEVICES": ""}) == []
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi there
    assert explore_parameters.visible_gpus(None, {}) == []


def test_a_gpu_that_a_killed_plans_run_still_has_is_waited_for(tmp_path):
    (tmp_path / "locks").mkdir()
    slots = explore_parameters.make_slots(0, 1, ["0"], 4, "m")
    held = explore_parameters.take_lock(str(tmp_path / "locks" / "gpu_m_0.lock"))
    shown, locks = [], []

    def work(slot, slot_locks, stop, say):
        locks.extend(slot_locks)
        say("at work")

    thread = threading.Thread(
        target=explore_parameters._in_slots, args=(slots, str(tmp_path), work, shown.append)
    )
    thread.start()
    thread.join(5 * explore_parameters.POLL_S)
    assert thread.is_alive() and not shown
    held.close()
    thread.join(60)
    assert shown == ["at work"] and len(locks) == 1


def test_a_lock_outlives_the_process_that_took_it_in_those_it_started(tmp_path):
    path = str(tmp_path / "lock")
    with explore_parameters.take_lock(path) as lock:
        assert explore_parameters.take_lock(path) is None
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()]
        )
    assert explore_parameters.take_lock(path) is None
    child.communicate(b"\n")
    with explore_parameters.take_lock(path) as lock:
        assert lock is not None


# --------------------------------------------------------------------------- search

CHOICES = {"ranges": {"eprop": {"choices": ["symmetric", "random"]}}, "n_startup_trials": 2}


def open_study(folder):
    storage = report.open_storage(os.path.join(folder, report.STUDY_FILE))
    return optuna.load_study(study_name="tiny", storage=storage)


def test_two_workers_share_one_study(tiny_processed, copied, tmp_path):
    """No trial twice, exactly as many as asked for, the same best seen by both.

    Their runs are finished copies, so that many trials meet; a dead worker's trial is taken up.
    """
    plan = write_plan(tmp_path, tiny_processed, search={"n_trials": 24, **CHOICES})
    folder = copied(plan)
    (folder / "locks").mkdir()
    study = explore_parameters._open_study(read_plan(plan), os.path.join(folder, report.STUDY_FILE))
    trial, lock = explore_parameters._next_trial(study, 24, str(folder), threading.Event())
    lock.close()  # its worker is dead, the trial is running for ever
    command = [SCRIPT, "search", "plan.json", "runs", "--n_jobs=2", "--gpus=none"]
    workers = [start(tmp_path, command) for _ in range(2)]
    said = [worker.communicate(timeout=TIMEOUT_S) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    trials = open_study(folder).get_trials()
    assert [trial.number for trial in trials] == list(range(24))
    told = re.findall(r"^trial (\d+): ", said[0][0] + said[1][0], re.MULTILINE)
    assert sorted(map(int, told)) == list(range(24))  # each by one worker, the dead one's too
    errors = {
        read_json(path, "flags.json")["flags"]["eprop"]: read_json(path, "metrics.json")
        for path in run_folders(folder).values()
    }
    for trial in trials:
        expected = errors[trial.params["eprop"]]["best_develop_frame_error"]
        assert trial.state.name == "COMPLETE" and trial.value == expected
    best = {out.splitlines()[-1] for out, _ in said if "24 complete" in out.splitlines()[-1]}
    least = min(metrics["best_develop_frame_error"] for metrics in errors.values())
    assert len(best) == 1 and f"development frame error {least:.4f}" in best.pop()


def test_a_hopeless_run_is_stopped(tiny_processed, tmp_path, explore, capsys):
    """A trial far above the others' errors, which are made up, ends long before its run would."""
    search = {"n_trials": 3, "ranges": {"reg": {"low": 40.0, "high": 60.0}}, "n_startup_trials": 2}
    plan = write_plan(tmp_path, tiny_processed, flags={"n_epochs": 10**6}, search=search)
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(plan, folder / "plan.json")
    study = explore_parameters._open_study(read_plan(plan), os.path.join(folder, report.STUDY_FILE))
    for reg in (45.0, 55.0):
        study.add_trial(
            optuna.create_trial(
                params={"reg": reg},
                distributions={"reg": optuna.distributions.FloatDistribution(40.0, 60.0)},
                intermediate_values=dict.fromkeys(range(0, 1000, 10), 0.001),
                value=0.001,
            )
        )
    assert explore("search", "plan.json", "runs", "--n_jobs=1", "--gpus=none") == 0
    assert re.search(r"^trial 2 stopped at 0\.\d+: reg=", capsys.readouterr().out, re.MULTILINE)
    trial = open_study(folder).get_trials()[2]
    assert trial.state.name == "PRUNED"
    (path,) = run_folders(folder).values()
    evaluations = report.read_evaluations(path)
    # What the study knows are the run's own development errors.
    known = {e["iteration"]: e["develop_frame_error"] for e in evaluations}
    assert trial.intermediate_values and trial.intermediate_values.items() <= known.items()
    assert not report.is_finished(path)
    with explore_parameters.take_lock(os.path.join(folder, "locks", "trial_2.lock")) as lock:
        assert lock is not None


def test_a_search_without_a_trial_that_ends_says_so(tiny_processed, tmp_path, explore, capsys):
    search = {"n_trials": 1, "ranges": {"lr_int": {"low": 0.1, "high": 0.2}}}
    write_plan(tmp_path, tiny_processed, search=search)
    assert explore("search", "plan.json", "runs", "--gpus=none") == 1
    said = capsys.readouterr().out
    assert "trial 0 failed" in said and "Unknown command line flag 'lr_int'" in said
    assert "study tiny: 1 fail\n" in said


def test_a_study_of_other_settings_is_not_joined(tiny_processed, tmp_path):
    search = {"n_trials": 1, **CHOICES}
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    plan = read_plan(write_plan(tmp_path, tiny_processed, search=search))
    explore_parameters._open_study(plan, storage)
    more = read_plan(write_plan(tmp_path, tiny_processed, search={**search, "n_trials": 9}))
    assert explore_parameters._open_study(more, storage).study_name == "tiny"
    other = read_plan(write_plan(tmp_path, tiny_processed, flags={"batch": 3}, search=search))
    with pytest.raises(UserError, match="holds a study 'tiny' of other flags"):
        explore_parameters._open_study(other, storage)
    with pytest.raises(UserError, match="--storage=nowhere://x: "):
        explore_parameters._open_study(plan, "nowhere://x")


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
        drawn.append([explore_parameters._suggest(trial, n, r) for n, r in ranges.items()])
    theta_ms, order, rule = zip(*drawn)
    assert 20 <= min(theta_ms) < 40 and 200 < max(theta_ms) <= 400
    assert 60 < np.exp(np.mean(np.log(theta_ms))) < 130  # the geometric mean of 20 and 400 is 89
    assert set(order) == {2, 4, 6, 8} and all(isinstance(value, int) for value in order)
    assert set(rule) == {"symmetric", "random"}


def test_records_of_other_runs_go_and_notes_stay(tmp_path):
    stale, notes = tmp_path / "start=LMU_seed=7_0123456789.txt", tmp_path / "notes.txt"
    for path in (stale, notes):
        path.write_text("x")
    explore_parameters._remove_other_records(str(tmp_path), [])
    assert os.listdir(tmp_path) == ["notes.txt"]
