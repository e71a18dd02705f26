"""Speech, recorded vectors and tiny data sets for the tests, and how they run the scripts."""

import functools
import os
import signal

# One thread: sums in a fixed order, and neighbours on a shared machine are left alone.
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402

from helpers import REPOSITORY, run_here, run_in, write_corpus  # noqa: E402

SHARED = os.path.join(os.path.dirname(REPOSITORY), "shared")


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
    """Dataset folder of 6 training, 2 development and 3 test utterances of open speech."""
    import timit_processing

    folder = tmp_path_factory.mktemp("tiny")
    write_corpus(folder / "timit", n_train=6, n_develop=2, n_test=3)
    paths = f"--data_path={folder / 'timit'}", f"--output_path={folder / 'processed'}"
    assert run_here(timit_processing, *paths).returncode == 0
    return str(folder / "processed")


@pytest.fixture(scope="session")
def short_dataset(tiny_processed):
    """Function that loads the tiny data set, its utterances cut to 6 to 14 frames each."""
    from speech.dataset import Split, TimitDataset

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


@pytest.fixture
def no_figures(monkeypatch):
    """Figures of runs are empty files: to write them takes longer than to train tiny networks."""
    from toolbox import plotting

    monkeypatch.setattr(plotting, "save_figure", lambda _, path, *__: open(path, "wb").close())


@pytest.fixture
def run_script(tmp_path):
    """Function that runs a script of the repository in an empty folder and returns the process."""
    return functools.partial(run_in, tmp_path)
