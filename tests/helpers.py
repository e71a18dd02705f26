"""What the tests share beside fixtures: speech, how they run the scripts, and what they assert."""

import contextlib
import csv
import io
import os
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import soundfile
from matplotlib.colors import to_hex
from matplotlib.image import imread

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


@contextlib.contextmanager
def threads_kept():
    """Context in which scripts leave TensorFlow's threads alone, which are set for good here."""
    with contextlib.ExitStack() as stack:
        if "tensorflow" in sys.modules:
            threading = sys.modules["tensorflow"].config.threading
            for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
                stack.enter_context(mock.patch.object(threading, name))
        yield


LIMIT_S = 1200  # of a process: only what hangs takes so long, however busy the machine is


# Runs a script; to write figures takes longer than all else.
WITHOUT_FIGURES = """
import runpy, sys
from toolbox import plotting
plotting.save_figure = lambda *_: None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_in(folder, script, *arguments, timeout_s=LIMIT_S, figures=True, **environment):
    """Run a script of the repository in a folder; returns the ended process."""
    command = [os.path.join(REPOSITORY, script), *map(str, arguments)]
    if not figures:
        command[:0] = ["-c", WITHOUT_FIGURES]
        environment["PYTHONPATH"] = REPOSITORY
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


TAKE_ARGUMENTS = ("verify_eprop", "evaluate_model", "transcribe", "nengo_gui_demo", "script_steps")


def run_here(script, *arguments):
    """What a script would do, by its module and in this process, which has TensorFlow already.

    Its environment variables, here `environ` of what is returned, end with it.
    """
    from toolbox import command_line

    command, out, err = [script.__file__, *map(str, arguments)], io.StringIO(), io.StringIO()
    n_positional = -1 if script.__name__ in TAKE_ARGUMENTS else 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(mock.patch.object(sys, "argv", command))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(threads_kept())
        try:
            command_line.run(
                script.main, script.define_flags, script.__doc__, n_positional=n_positional
            )
        except SystemExit as end:
            status = end.code or 0
        environ = dict(os.environ)
    ended = subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
    ended.environ = environ
    return ended


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


def assert_near(found, expected, tolerance=1e-9):
    """As `assert_close`, of tensors or arrays; what is expected must not be all 0."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.max(np.abs(expected)) > 1e-6
    assert_close(found, expected, tolerance)


def assert_different(found, other):
    """Further apart than 1 per mille of the largest value."""
    assert np.max(np.abs(found - other)) > 1e-3 * np.max(np.abs(other))


def assert_draws(plot, arguments, size_px, folder):
    """`plot` writes one PNG of that width and height into the folder, with something on it."""
    plot(os.path.join(folder, "figure.png"), **arguments)
    assert os.listdir(folder) == ["figure.png"]
    image = imread(os.path.join(folder, "figure.png"))  # [height, width, 4], decodes every pixel
    assert image.shape[:2] == size_px[::-1]
    ink = (image[..., :3] < 0.99).any(axis=-1)
    assert 0.02 < ink.mean() < 0.98


def axis_names(axes):
    """Names of a vertical axis' ticks, each on one line."""
    return [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def fills(axes):
    return [to_hex(patch.get_facecolor()).upper() for patch in axes.patches]


def y_labels(figure):
    return [axes.get_ylabel().replace("\n", " ") for axes in figure.axes]


def mnist_arrays(n_train=40, n_test=10, side=28):
    """Arrays of random bytes by the names that Keras gives those of MNIST."""
    random_generator = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", n_train), ("test", n_test)):
        arrays[f"x_{part}"] = random_generator.integers(0, 256, (n, side, side), np.uint8)
        arrays[f"y_{part}"] = np.arange(n, dtype=np.uint8) % 10
    return arrays
