"""Killed while writing: what is on disk is the old or the new, and work goes on.

A few kills; `make soak` has more than a hundred.
"""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from faults import killed_at_every_call, killed_checkpoints, killed_processing, tree
from helpers import REPOSITORY, write_corpus
from toolbox import durable_files
from training import checkpoints

SHAPES = {"w": ((3,), np.dtype("float32"))}


def saved(folder, iteration):
    progress = checkpoints.Progress(iteration=iteration, seconds=[0.1] * iteration)
    checkpoints.save(folder, {"w": np.full(3, iteration, np.float32)}, {}, progress)


def loaded(folder):
    weights, _, progress = checkpoints.load(folder, SHAPES, {})
    assert (weights["w"] == progress.iteration).all()
    return progress.iteration


@pytest.mark.parametrize("n_before", [1, 2])
def test_a_kill_at_any_call_leaves_a_checkpoint(n_before, tmp_path):
    for iteration in range(1, n_before + 1):
        saved(tmp_path, iteration)
    found = set()
    n_kills = killed_at_every_call(
        lambda: saved(tmp_path, n_before + 1), lambda: found.add(loaded(tmp_path))
    )
    assert n_kills >= 8
    # A kill between two renamings leaves the one before as the only one, which is then the next.
    assert found <= {n_before - 1, n_before, n_before + 1} - {0} and n_before in found
    assert loaded(tmp_path) == n_before + 1
    durable_files.remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) <= {checkpoints.LAST, checkpoints.BEFORE}


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.stress
def test_a_kill_at_any_call_leaves_the_old_folder_or_the_new_one(exchanges, tmp_path, monkeypatch):
    path = tmp_path / "folder"
    if not exchanges:
        monkeypatch.setattr(durable_files, "_exchange", lambda first, second: False)

    def write(content):
        with durable_files.write_whole_folder(path) as folder:
            os.mkdir(os.path.join(folder, "below"))
            for name in ("a", os.path.join("below", "b")):
                with durable_files.write_whole(os.path.join(folder, name)) as file:
                    file.write(content)

    write(b"old")
    old = tree(path)

    def check():
        if exchanges:
            assert path.exists()  # at every moment
        durable_files.remove_leftovers(tmp_path, "folder")
        assert tree(path) in (old, {name: b"new" for name in old})
        assert os.listdir(tmp_path) == ["folder"]

    assert killed_at_every_call(lambda: write(b"new"), check) >= 10
    assert set(tree(path).values()) == {b"new"}


def test_killed_writers_of_checkpoints(tmp_path):
    assert killed_checkpoints(tmp_path, 2, np.random.default_rng(1)) == 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "timit"
    write_corpus(path, n_train=2, n_develop=1, n_test=1)
    return str(path)


@pytest.mark.stress
def test_killed_processing(corpus, tmp_path):
    killed_processing(str(tmp_path), corpus, 1, np.random.default_rng(1))


def test_workers_end_with_a_killed_parent(tmp_path):
    """Else each kill would leave processes that wait for work for ever."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import concurrent.futures, multiprocessing, os, time, speech.recordings\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = concurrent.futures.ProcessPoolExecutor(\n"
        "        1, context, speech.recordings._end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)"
    )
    (tmp_path / "parent.py").write_text(code)
    with subprocess.Popen(
        [sys.executable, "parent.py", REPOSITORY], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        worker = int(process.stdout.readline())
        os.kill(worker, 0)  # is there
        process.kill()
        assert process.stdout.read() == ""  # ends when the worker, which holds the pipe, has ended


def test_processing_onto_a_full_disk(corpus, tmp_path):
    """A limit to the size of files stands for the disk; the earlier output stays."""
    command = [sys.executable, os.path.join(REPOSITORY, "timit_processing.py")]
    command += [f"--data_path={corpus}", "--output_path=out"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    before = tree(tmp_path / "out")
    process = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1 and "out: cannot be written (File too large" in (
        process.stderr
    )
    assert os.listdir(tmp_path) == ["out"] and tree(tmp_path / "out") == before
