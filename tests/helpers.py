"""What the tests share beside fixtures: how they run the scripts, and what they assert."""

import os
import subprocess
import sys

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.image import imread

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
