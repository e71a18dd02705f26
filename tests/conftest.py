"""Speech, recorded vectors and tiny data sets for the tests, and how they run the scripts."""

import functools
import os
import signal
import subprocess
import sys
import threading

# One thread: sums in a fixed order, and neighbours on a shared machine are left alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(REPOSITORY), "shared")
sys.path.insert(0, REPOSITORY)


def _shared(name):
    path = os.path.join(SHARED, name)
    if not os.path.isdir(path):
        pytest.skip(f"{os.path.join('..', 'shared', name)} is not there")
    return path


@pytest.fixture(scope="session")
def timit_sample():
    """Folder of the NLTK TIMIT sample; the test is skipped where it is missing."""
    return _shared("timit_sample")


@pytest.fixture(scope="session")
def golden():
    """Folder of the recorded vectors; the test is skipped where it is missing."""
    return _shared("golden")


@pytest.fixture(scope="session")
def tiny_processed(tmp_path_factory):
    """Dataset folder of 6 training, 2 development and 3 test utterances of synthetic sounds."""
    import timit_processing
    from command_line import parse_flags
    from synthetic_timit import write_corpus

    folder = tmp_path_factory.mktemp("tiny")
    write_corpus(folder / "timit", n_train=6, n_develop=2, n_test=3, n_processes=1)
    paths = [f"--data_path={folder / 'timit'}", f"--output_path={folder / 'processed'}"]
    flag_values, _ = parse_flags(timit_processing.define_flags, ["processing", *paths])
    timit_processing.main(flag_values)
    return str(folder / "processed")


@pytest.fixture(scope="session")
def short_dataset(tiny_processed):
    """Function that loads the tiny data set, its utterances cut to 6 to 14 frames each."""
    from timit_dataset import Split, TimitDataset

    def cut(split, first=20):
        lengths = [6 + 4 * (i % 3) for i in range(len(split))]
        return Split(
            [f[first : first + n] for f, n in zip(split.features, lengths)],
            [phns[first : first + n] for phns, n in zip(split.phns, lengths)],
            split.metadata,
        )

    def load(**options):
        dataset = TimitDataset(tiny_processed, **options)
        for name in ("train", "develop", "test"):
            setattr(dataset, name, cut(getattr(dataset, name)))
        return dataset

    return load


@pytest.fixture
def eager():
    """TensorFlow runs compiled functions step by step: slower, but nothing has to be compiled."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


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


@pytest.fixture
def run_script(tmp_path):
    """Function that runs a script of the repository in an empty folder and returns the process."""
    return functools.partial(run_in, tmp_path)


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
