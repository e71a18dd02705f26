"""Runs of a plan by a training script that takes no time: finished, failed, killed, resumed."""

import json
import os
import signal
import subprocess
import sys
import threading

import pandas
import pytest
import pytry

import exploration.run_folders
from exploration import runs
from faults import children_of, kill, run_folders, wait_until
from helpers import REPOSITORY
from small_runs import SCRIPT
from toolbox import run_lock
from toolbox.command_line import UserError

BROKEN = {"name": "broken", "flags": {"broken": True}}
CASES = [{"name": name, "flags": {"error": error}} for name, error in (("a", 0.4), ("b", 0.3))]


@pytest.fixture
def run(tmp_path, fast_script):
    """Function: run a plan with these entries in the folder `runs`; its exit status."""

    def start(n_jobs=2, **entries):
        plan = {"name": "tiny", "script": f"{SCRIPT}.py", "seeds": [1], **entries}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        slots = runs.make_slots(n_jobs, 1, [], 2)
        return runs.run_plan(str(tmp_path / "plan.json"), str(tmp_path / "runs"), slots)

    return start


def test_a_failed_run_is_reported_and_stops_no_other(run, tmp_path, capsys):
    assert run(list=[BROKEN, *CASES]) == 1
    said = capsys.readouterr().out
    (failure,) = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert "case=broken_seed=1_" in failure and "it is broken (exit status 1, " in failure
    with open(failure.rsplit(", ", 1)[1].rstrip(")"), encoding="utf-8") as log:
        assert log.read() == "first line\nit is broken\n"
    assert "2 of 3 runs finished, 1 failed" in said
    assert "frame error develop 0.300, test 0.400, 20 iterations" in said
    table = pandas.DataFrame(pytry.read(tmp_path / "runs")).set_index("case").sort_index()
    assert list(table.index) == ["a", "b"] and list(table["error"]) == [0.4, 0.3]
    assert list(table["test_frame_error"]) == [0.5, 0.4]
    assert set(table["gpu"].astype(str)) == {"-1"} and set(table["threads"].astype(str)) == {"1"}


def test_an_edited_plan_takes_the_finished_runs_as_they_are(run, tmp_path, capsys):
    assert run(list=CASES) == 0
    folder = tmp_path / "runs"
    left_over, notes = folder / "case=other_seed=1_0123456789.txt", folder / "notes.txt"
    for path in (left_over, notes):
        path.write_text("seed = 1\n")
    before = {path: path.stat().st_mtime_ns for path in (folder / SCRIPT).rglob("*.*")}
    logs = os.listdir(folder / "logs")
    assert run(grid={"error": [0.3, 0.4]}) == 0
    assert "2 of 2 runs finished\n" in capsys.readouterr().out
    assert not left_over.exists() and notes.exists()  # so that pytry reads this plan's runs
    assert before == {path: path.stat().st_mtime_ns for path in (folder / SCRIPT).rglob("*.*")}
    assert os.listdir(folder / "logs") == logs  # no script was started
    notes.unlink()
    assert "case" not in pandas.DataFrame(pytry.read(folder))


def test_a_run_of_another_metric_is_told_by_its_name(run, capsys):
    assert run(flags={"metric_name": "phone_error_rate"}) == 0
    assert "phone error rate develop 0.800, test 0.900" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_plan_that_was_killed_or_interrupted_goes_on(run, fast_script, tmp_path, capsys, number):
    """Once, in a script that is none; `make soak PART=kill_plan` kills real ones."""
    slow = {"flags": {"n_evaluations": 8, "pause_s": 0.1}}
    assert run(**slow, list=CASES[:1]) == 0
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from exploration import runs\n"
        "from toolbox import command_line; runs.SCRIPTS_FOLDER = sys.argv.pop(1)\n"
        "command_line.run(lambda _: runs.run_plan('plan.json', 'runs', runs.make_slots(1, 1, [], 1)),"
        " lambda _: None, '')"
    )
    plan = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "list": CASES}))
    command = [sys.executable, "-c", code, REPOSITORY, str(fast_script)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, **pipes)
    folder = tmp_path / "runs"
    wait_until(lambda: len(run_folders(folder)) == 2, process)
    (child,) = children_of(process)
    (running,) = (path for path in run_folders(folder).values() if "case=b_" in path)
    wait_until(lambda: len(exploration.run_folders.read_curve(running)) > 1, process)
    if number == signal.SIGKILL:
        kill(process, [child])
    else:
        process.send_signal(number)
        assert "interrupted: the same command goes on from here" in process.communicate()[1]
        assert process.returncode == 130
    assert not exploration.run_folders.is_finished(running) and len(pytry.read(folder)) == 1
    assert run(**slow, list=CASES) == 0
    assert "2 of 2 runs finished\n" in capsys.readouterr().out
    assert [path.read_text() for path in (folder / "logs").glob("case=b_*")] == ["resumed\n"]
    assert len(run_folders(folder)) == 2 and len(pytry.read(folder)) == 2
    assert len(exploration.run_folders.read_curve(running)) == 8
    assert not list(folder.glob(".*.partial"))


def test_what_was_killed_before_its_flags_were_saved_is_begun_anew(run, tmp_path):
    assert run(list=CASES[:1]) == 0
    (path,) = run_folders(tmp_path / "runs").values()
    os.unlink(os.path.join(path, "flags.json"))
    assert run(list=CASES[:1]) == 0
    assert exploration.run_folders.is_finished(path)


def test_a_damaged_run_stops_no_other(run, tmp_path, capsys):
    run(list=CASES)
    (damaged,) = (tmp_path / "runs" / SCRIPT).glob("*case=a_*/metrics.json")
    damaged.write_text("[]")
    next((tmp_path / "runs").glob("case=a_*.txt")).unlink()
    assert run(list=CASES) == 1
    said = capsys.readouterr().out
    assert "runs: 1 of 2 runs finished, 1 failed" in said
    (failure,) = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert f"{damaged.parent.name}{os.sep}metrics.json: is damaged" in failure
    assert len(pytry.read(tmp_path / "runs")) == 1


def test_a_folder_belongs_to_one_plan(run, tmp_path):
    run(list=CASES[:1])
    with pytest.raises(UserError, match="runs: holds runs of the plan 'tiny', not of 'another'"):
        run(list=CASES, name="another")
    (tmp_path / "runs" / "plan.json").unlink()
    with pytest.raises(UserError, match="runs: is not empty and holds no plan.json"):
        run(list=CASES)


# --------------------------------------------------------------------------- slots and locks


def test_each_gpu_is_given_to_one_run_at_a_time(monkeypatch):
    monkeypatch.setattr(runs.platform, "node", lambda: "m")
    slots = runs.make_slots(0, 2, ["0", "GPU-1f"], n_cores=16)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "GPU-1f"]
    assert [slot.lock for slot in slots] == ["gpu_m_0", "gpu_m_GPU-1f"]
    for slot in slots:
        assert slot.n_threads == 2
        assert slot.environment["NUMBA_NUM_THREADS"] == slot.environment["OMP_NUM_THREADS"] == "2"
    assert len(runs.make_slots(1, 1, ["0", "1"], 16)) == 1
    with pytest.raises(UserError, match="--n_jobs=3: expected 2 at most"):
        runs.make_slots(3, 1, ["0", "1"], 16)
    with pytest.raises(UserError, match="expected different ones"):
        runs.make_slots(0, 1, ["0", "0"], 16)


def test_runs_on_the_cpu_fill_its_cores_and_see_no_gpu():
    def n_slots(n_jobs, n_threads, n_cores):
        return len(runs.make_slots(n_jobs, n_threads, [], n_cores))

    assert (n_slots(0, 1, 4), n_slots(0, 2, 5), n_slots(0, 8, 4), n_slots(3, 8, 4)) == (4, 2, 1, 3)
    for slot in runs.make_slots(0, 1, [], 4):
        assert slot.environment["CUDA_VISIBLE_DEVICES"] == "-1"


def test_gpus_are_those_asked_for_or_visible(monkeypatch, tmp_path):
    visible = {"CUDA_VISIBLE_DEVICES": "2, 0"}
    assert runs.visible_gpus(["1"], visible) == ["1"]
    assert runs.visible_gpus(["none"], visible) == []
    assert runs.visible_gpus(None, visible) == ["2", "0"]
    assert runs.visible_gpus(None, {"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert runs.visible_gpus(None, {"CUDA_VISIBLE_DEVICES": ""}) == []
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi there
    assert runs.visible_gpus(None, {}) == []


def test_a_gpu_that_a_killed_plans_run_still_has_is_waited_for(tmp_path):
    (tmp_path / "locks").mkdir()
    slots = runs.make_slots(0, 1, ["0"], 4)
    held = run_lock.take(runs.lock_path(str(tmp_path), slots[0].lock))
    locks = []

    def work(slot, slot_locks, stop):
        locks.extend(slot_locks)

    thread = threading.Thread(target=runs.in_slots, args=(slots, str(tmp_path), work))
    thread.start()
    thread.join(2 * runs.POLL_S)
    assert thread.is_alive() and not locks
    held.close()
    thread.join(60)
    assert not thread.is_alive() and len(locks) == 1


def test_what_the_work_of_a_slot_raises_stops_the_others(tmp_path):
    stopped = []

    def work(slot, locks, stop):
        if slot.n_threads == 1:
            raise ZeroDivisionError
        stopped.append(stop.wait(60))

    slots = [runs.make_slots(1, n_threads, [], 1)[0] for n_threads in (1, 2)]
    with pytest.raises(ZeroDivisionError):
        runs.in_slots(slots, str(tmp_path), work)
    assert stopped == [True]
