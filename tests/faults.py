"""Fault injection: processes killed at random moments, and what must be equal afterwards."""

import glob
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
from conftest import REPOSITORY

COSTS = ("seconds_per_iteration", "peak_memory_gb")
# Long enough to be killed in, short enough for a hundred times; each kind of checkpoint occurs.
SMALL = {
    "lsnn": ["--n_regular=6", "--n_adaptive=4", "--eprop=adaptive"],
    "lstm": ["--n_lstm=8", "--eprop=random"],
}
TIMEOUT_S = 300


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
    places: list  # what the process had printed last when it was killed


def interrupted_run(where, command, moments, random_generator, timeout_s=TIMEOUT_S):
    """Run a training script to its end, killing it (SIGKILL) once after each of some moments.

    Args:
        where: working folder; results go to its `killed`.
        command: of `training_command`.
        moments: seconds after the process has begun to train, for each kill; to each comes a
            random millisecond's fraction.
        random_generator: np.random.Generator.

    Returns:
        InterruptedRun
    """
    script, *arguments = command
    start = [sys.executable, "-u", os.path.join(REPOSITORY, script)]
    arguments, folder, places = [*arguments, "--results=killed"], None, []
    for moment in [*moments, None]:
        with subprocess.Popen(
            [*start, *arguments],
            cwd=where,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                printed = ""
                for line in process.stdout:
                    printed = line
                    if line.startswith("run folder: "):
                        folder = os.path.join(where, line.removeprefix("run folder: ").strip())
                    if line.startswith("trained parameters"):
                        break
                if moment is not None:
                    time.sleep(moment + random_generator.uniform(0, 0.01))
                    if process.poll() is None:
                        process.kill()
                        places.append(printed)
                out, err = process.communicate(timeout=timeout_s)
            finally:
                process.kill()
        if moment is None or process.returncode == 0:
            assert process.returncode == 0, out + err
            break
        assert_everything_loads(folder)
        arguments = [f"--resume={folder}"]
    return InterruptedRun(folder, len(places), places)
