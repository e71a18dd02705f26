"""What the tests share beside fixtures: speech, how they run the scripts, and what they assert."""

import csv
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import soundfile

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OPEN_SPEECH = os.path.join(REPOSITORY, "open_speech")


def open_utterances(n_train=1, n_develop=1, n_test=1):
    """Utterances of the open sample, few of each set: paths below OPEN_SPEECH without a suffix.

    The first is the first utterance of the set's first speaker, the second of the second, and so
    on, then the second utterances.
    """
    wanted = {"train": n_train, "develop": n_develop, "test": n_test}
    with open(os.path.join(OPEN_SPEECH, "speakers.tsv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    chosen = []
    for split, n in wanted.items():
        speakers = [
            sorted(
                os.path.join(row["folder"], name[:-4])
                for name in os.listdir(os.path.join(OPEN_SPEECH, row["folder"]))
                if name.endswith(".phn")
            )
            for row in rows
            if row["split"] == split
        ]
        chosen += [stem for stems in zip(*speakers) for stem in stems][:n]
    return chosen


def write_corpus(folder, n_train=1, n_develop=1, n_test=1, name=lambda stem: stem):
    """Write a few utterances of the open sample as TIMIT's files, sound as RIFF `.wav`.

    Args:
        folder: where to; made if missing.
        n_train, n_develop, n_test: utterances of each set.
        name: function from "train/dr1/f0120/u010120255" to the name to write.
    """
    for stem in open_utterances(n_train, n_develop, n_test):
        source, target = os.path.join(OPEN_SPEECH, stem), os.path.join(folder, name(stem))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        samples, rate_hz = soundfile.read(f"{source}.flac", dtype="int16")
        soundfile.write(f"{target}.wav", samples, rate_hz)
        for kind in ("phn", "wrd", "txt"):
            shutil.copy(f"{source}.{kind}", f"{target}.{kind}")


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
