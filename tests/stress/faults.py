"""Fault injection: processes killed at random moments, and what must be equal afterwards."""

import contextlib
import glob
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import LIMIT_S, REPOSITORY
from toolbox import durable_files

COSTS = ("seconds_per_iteration", "peak_memory_gb", "started", "hours")
# Long enough to be killed in, short enough for a hundred times; each kind of checkpoint occurs.
SMALL = {
    "lsnn": ["--n_regular=6", "--n_adaptive=4", "--eprop=adaptive"],
    "lstm": ["--n_lstm=8", "--eprop=random"],
}


def training_command(model, dataset, *arguments):
    """A small run of a training script, as a list: script, flags."""
    return [
        f"solve_timit_with_framewise_{model}.py",
        f"--dataset={dataset}",
        *SMALL[model],
        "--batch=2",
        "--n_epochs=40",
        "--print_every=10",
        "--checkpoint_every_s=0.1",
        "--truncT=20",
        "--seed=3",
        "--n_threads=1",
        *arguments,
    ]


def read_json(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def read_lines(folder):
    """Evaluations of a run folder, without seconds."""
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        return [without_costs(json.loads(line)) for line in file]


def without_costs(metrics):
    return {name: value for name, value in metrics.items() if name not in COSTS}


def read_arrays(*path):
    with np.load(os.path.join(*path), allow_pickle=False) as file:
        return dict(file)


def assert_same_run(first, second):
    """Two run folders hold the same metrics and, bit by bit, the same weights."""
    assert sorted(os.listdir(first)) == sorted(set(os.listdir(second)) - {"flags.json"}) or (
        sorted(os.listdir(first)) == sorted(os.listdir(second))
    )
    assert without_costs(read_json(first, "metrics.json")) == without_costs(
        read_json(second, "metrics.json")
    )
    assert read_lines(first) == read_lines(second)
    for name in ("best.npz", "last.npz"):
        a, b = read_arrays(first, name), read_arrays(second, name)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]), (name, key)


def assert_everything_loads(folder):
    """Whatever a killed run has left: each file is whole, but for the last line of one."""
    for path in glob.glob(os.path.join(folder, "*")):
        if path.endswith(".json"):
            read_json(path)
        elif path.endswith(".npz"):
            assert read_arrays(path)
        elif path.endswith(".jsonl"):
            with open(path, encoding="utf-8") as file:
                lines = file.read().split("\n")
            for line in lines[:-1]:  # the last one has no end: it may be torn
                json.loads(line)
        else:
            assert path.endswith(".png")
            with open(path, "rb") as file:
                assert file.read()[-8:] == b"IEND\xaeB`\x82"


class InterruptedRun(NamedTuple):
    folder: str
    n_kills: int


def start(where, command, **options):
    """A script of the repository as a process with a pipe for its output."""
    script, *arguments = command
    return subprocess.Popen(
        [sys.executable, "-u", os.path.join(REPOSITORY, script), *arguments],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def interrupted_run(where, command, moments):
    """Run a training script to its end, killing (SIGKILL) and resuming it on the way.

    Args:
        where: working folder; results go to its `killed`.
        command: of `training_command`.
        moments: seconds after the process has set up its network, for each kill. The run may end
            before some of them.

    Returns:
        InterruptedRun
    """
    arguments, folder, n_kills = [*command[1:], "--results=killed"], None, 0
    for moment in [*moments, LIMIT_S]:
        with start(where, [command[0], *arguments]) as process:
            try:
                out = ""
                for line in process.stdout:
                    out += line
                    if line.startswith("run folder: "):
                        folder = os.path.join(where, line.removeprefix("run folder: ").strip())
                    if line.startswith("trained parameters"):
                        break
                try:
                    out += process.communicate(timeout=moment)[0]
                except subprocess.TimeoutExpired:
                    process.kill()
            finally:
                process.kill()
        assert_everything_loads(folder)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, out
            return InterruptedRun(folder, n_kills)
        n_kills += 1
        arguments = [f"--resume={folder}"]
    raise AssertionError(f"not done in {LIMIT_S} s: {out}")


# --------------------------------------------------------------------------- processing


def tree(folder):
    """All files below a folder and their contents."""
    return {
        os.path.relpath(path, folder): Path(path).read_bytes()
        for path in glob.glob(os.path.join(folder, "**"), recursive=True)
        if os.path.isfile(path)
    }


def killed_processing(where, corpus, n_kills, random_generator):
    """Kill processing in random moments; its output is always the old one or the new one, whole.

    Args:
        where: empty folder to work in.
        corpus: folder of the corpus.
        n_kills: how often to kill a process that has begun to work.
        random_generator: np.random.Generator.
    """
    output = os.path.join(where, "out")
    lock = os.path.join(where, ".out.lock")
    kinds = [f"--reference_quirks={quirks}" for quirks in (False, True)]
    command = ["timit_processing.py", f"--data_path={corpus}", f"--output_path={output}"]

    def process(kind, kill_after_s=None):
        with start(where, [*command, kind]) as running:
            try:
                if kill_after_s is None:
                    out = running.communicate(timeout=LIMIT_S)[0]
                    assert running.returncode == 0, out
                    return False
                while not os.path.exists(lock) and running.poll() is None:
                    time.sleep(0.001)
                time.sleep(kill_after_s)
            finally:
                running.kill()
            running.communicate(timeout=LIMIT_S)  # the workers end too, else this waits for them
        return running.returncode == -signal.SIGKILL

    whole = []
    for kind in kinds:
        began_s = time.monotonic()
        process(kind)
        seconds = time.monotonic() - began_s
        whole.append(tree(output))
    assert whole[0] != whole[1]
    n_done = 0
    while n_done < n_kills:
        n_done += process(kinds[n_done % 2], random_generator.uniform(0, seconds / 2))
        assert tree(output) in whole
    process(kinds[0])
    assert tree(output) == whole[0]
    assert sorted(os.listdir(where)) == ["out"]  # nothing is left of the killed ones


# --------------------------------------------------------------------------- checkpoints


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from training import checkpoints
shapes = {"w": ((50, 400), np.dtype("float32"))}
found = checkpoints.load(".", shapes, {})
progress = checkpoints.Progress() if found is None else found[2]
if found is not None:
    assert (found[0]["w"] == progress.iteration).all()
while True:
    progress.iteration += 1
    progress.seconds.append(0.5)
    checkpoints.save(".", {"w": np.full((50, 400), progress.iteration, "f4")}, {}, progress)
    print(progress.iteration, flush=True)
"""


def killed_checkpoints(where, n_kills, random_generator):
    """Kill a process that writes checkpoints all the time; none that it told of is ever lost."""
    last = 0
    for _ in range(n_kills):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, REPOSITORY], cwd=where, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                first = process.stdout.readline()
                assert int(first) > last, "a checkpoint was lost"
                time.sleep(random_generator.uniform(0, 0.1))
            finally:
                process.kill()
            told = process.communicate()[0].rsplit("\n", 1)[0]  # the last line may be torn
            last = int((first + told).split()[-1])
    return n_kills


def killed_at_every_call(action, check):
    """Run `action` in a forked process, killed before or after each call that changes the disk.

    Args:
        action: function without arguments.
        check: called after each kill.

    Returns:
        Number of kills.
    """
    names = ("replace", "rename", "fsync", "unlink", "rmdir", "chmod")
    for n_kills in itertools.count():
        pid = os.fork()
        if pid == 0:
            left = iter(range(n_kills, -1, -1))

            def killing(function):
                def call(*arguments, **keywords):
                    if next(left) == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = function(*arguments, **keywords)
                    if next(left) == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                return call

            for name in names:
                setattr(os, name, killing(getattr(os, name)))
            durable_files._exchange = killing(durable_files._exchange)
            status = 1
            try:
                action()
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return n_kills
        assert status == -signal.SIGKILL
        check()


# --------------------------------------------------------------------------- plans of runs

LSNN = "solve_timit_with_framewise_lsnn"


def write_plan(folder, dataset, flags=None, **entries):
    """A plan file of one run of a tiny LSNN, 120 iterations of 6 utterances; its path."""
    tiny = {"n_regular": 5, "n_adaptive": 3, "batch": 2, "n_epochs": 40, "print_every": 10}
    plan = {
        "name": "tiny",
        "script": f"{LSNN}.py",
        "flags": {**tiny, "dataset": dataset, "measure_memory": False, **(flags or {})},
        "seeds": [1],
        **entries,
    }
    path = os.path.join(folder, "plan.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    return path


def run_folders(folder):
    """Run folders of LSNNs in an experiment's folder, by their runs' digests."""
    paths = glob.glob(os.path.join(folder, LSNN, "*"))
    return {path.rsplit("_", 1)[1]: path for path in paths}


def children_of(process):
    """Process ids of what a process has started and what still runs."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=", "-o", "ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    return [pid for pid, parent in pairs if parent == process.pid]


def wait_until(condition, process):
    """Wait until a condition holds, while a process runs."""
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.02)


def kill(process, children):
    """SIGKILL a process and those it has started."""
    process.kill()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def killed_plan(where, dataset, moments):
    """A plan of twelve runs, killed at some moments and started again, against one that was not.

    Args:
        where: working folder.
        dataset: path of a data set.
        moments: seconds after the start, for each kill.

    Returns:
        Number of runs whose metrics and weights are equal, all of them.
    """
    entries = {"grid": {"eprop": ["symmetric", "random"], "reg": [50, 0]}, "seeds": [1, 2, 3]}
    write_plan(where, dataset, {"n_epochs": 60, "checkpoint_every_s": 0.1}, **entries)
    command = ["explore_parameters.py", "run", "plan.json", "--gpus=none"]
    for folder, kills in (("whole", []), ("killed", moments)):
        for moment in [*kills, None]:
            process = start(where, [*command, folder])
            if moment is not None:
                time.sleep(moment)
                assert process.poll() is None, process.communicate()
                kill(process, children_of(process))
                continue
            out, _ = process.communicate(timeout=5 * LIMIT_S)
            assert process.returncode == 0, out
            assert "12 of 12 runs finished" in out
    whole = run_folders(os.path.join(where, "whole"))
    killed = run_folders(os.path.join(where, "killed"))
    assert len(os.listdir(os.path.join(where, "killed", LSNN))) == len(whole) == 12
    for digest, path in whole.items():
        assert_same_run(path, killed[digest])
    return len(whole)
