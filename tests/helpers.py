"""What the tests share beside fixtures: how they run the scripts, and what they assert."""

import os
import subprocess
import sys
import threading

import numpy as np

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_in(folder, script, *arguments, timeout_s=240, **environment):
    """Run a script of the repository in a folder; returns the ended process."""
    command = [os.path.join(REPOSITORY, script), *map(str, arguments)]
    if script.endswith(".py"):
        command.insert(0, sys.executable)
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def assert_user_error(process, *words):
    """The process ended with exit status 2, one line on stderr and the given words in it."""
    assert process.returncode == 2, process.stderr
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    for word in words:
        assert str(word) in lines[0]


def assert_close(actual, expected, tolerance):
    """Largest deviation over the tensor's largest entry; an all-zero tensor must be met exactly."""
    assert actual.shape == expected.shape
    assert np.max(abs(actual - expected), initial=0) <= tolerance * np.max(abs(expected), initial=0)


def assert_equal_for_any_number_of_threads_and_callers(compute, cases, monkeypatch):
    """Bit by bit: also when several Python threads call at once, each with work of its own.

    `compute(case)` gives a list of arrays, with one of the engines for the CPU.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    expected = [compute(case) for case in cases]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = {}

    def call(k):
        found[k] = [compute(cases[k % len(cases)]) for _ in range(4)]

    callers = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(found) == list(range(6))
    for k, results in found.items():
        for result in results:
            for array, reference in zip(result, expected[k % len(cases)], strict=True):
                np.testing.assert_array_equal(array, reference)


def mnist_arrays(n_train=40, n_test=10, side=28):
    """Arrays of random bytes by the names that Keras gives those of MNIST."""
    random_generator = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", n_train), ("test", n_test)):
        arrays[f"x_{part}"] = random_generator.integers(0, 256, (n, side, side), np.uint8)
        arrays[f"y_{part}"] = np.arange(n, dtype=np.uint8) % 10
    return arrays
