"""Images of handwritten digits: MNIST in Keras' file or in its four IDX files, or scikit-learn's."""

import gzip
import math
import os
import zlib
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from toolbox.arrays import BadArraysError, read_arrays
from toolbox.command_line import UserError

N_CLASSES = 10
MNIST_SIDE, SMALL_SIDE = 28, 8  # pixels, of MNIST's images and of scikit-learn's
MAX_BYTES = 2**30  # MNIST has 55 million
KERAS_FILE = os.path.join("~", ".keras", "datasets", "mnist.npz")
DOWNLOAD = 'python3 -c "import keras; keras.datasets.mnist.load_data()"'
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class Digits(NamedTuple):
    """Images and what they show."""

    images: np.ndarray  # [n, side, side] float32, 0 (paper) to 1 (ink)
    labels: np.ndarray  # [n] int32, 0 to 9

    def __getitem__(self, rows):
        return Digits(self.images[rows], self.labels[rows])


def read_splits(dataset, seed):
    """Training, development and test set of the digits that `--dataset` names.

    Of MNIST the test set is its own, and as many digits of its training set, drawn by `seed`, are
    the development set; of scikit-learn's digits each of the two is a sixth, drawn by `seed`.

    Args:
        dataset: `.npz` file in Keras' format, folder of MNIST's IDX files, or "".
        seed: of the draw.

    Returns:
        dict: "train", "develop" and "test" -> Digits.

    Raises:
        UserError: no such file, or one that holds no MNIST.
    """
    if dataset:
        arrays = _read_idx(dataset) if os.path.isdir(dataset) else _read_npz(dataset)
        rest, test = (_checked(dataset, arrays, part) for part in ("train", "test"))
        n_test = len(test.labels)
        if n_test >= len(rest.labels):
            raise UserError(
                f"{dataset}: {len(rest.labels)} training digits and {n_test} for the test: expected "
                "more training digits, as the development set takes as many as the test set has"
            )
    else:
        small = load_digits()
        rest = Digits(small.images.astype(np.float32) / 16, small.target.astype(np.int32))
        n_test = len(rest.labels) // 6
    order = np.random.default_rng(seed).permutation(len(rest.labels))
    if not dataset:
        test, order = rest[order[:n_test]], order[n_test:]
    return {"train": rest[order[n_test:]], "develop": rest[order[:n_test]], "test": test}


def pooled(images, side):
    """Images [n, n_side, n_side] averaged over `side` x `side` equal squares of their area.

    A pixel that lies in two squares counts in each by its share.

    Returns:
        [n, side, side] float32.
    """
    n_side = images.shape[1]
    squares = np.linspace(0, n_side, side + 1)[:, None]
    pixels = np.arange(n_side)
    shared = np.minimum(squares[1:], pixels + 1) - np.maximum(squares[:-1], pixels)
    weights = (np.maximum(shared, 0) * side / n_side).astype(np.float32)  # [side, n_side]
    return weights @ images @ weights.T


# --------------------------------------------------------------------------- files


def _missing(path, what):
    return UserError(
        f"{path}: {what}: expected Keras' mnist.npz or a folder of MNIST's IDX files; {DOWNLOAD} "
        f"downloads it to {KERAS_FILE}"
    )


def _read_npz(path):
    try:
        return read_arrays(path, MAX_BYTES)
    except OSError as error:
        raise _missing(path, f"cannot be read ({error.strerror})") from None
    except BadArraysError as error:
        raise UserError(f"{path}: {error}: expected Keras' mnist.npz") from None


def _read_idx(folder):
    arrays = {}
    for name, file_name in _IDX_FILES.items():
        path = os.path.join(folder, file_name)
        if not os.path.exists(path):
            path += ".gz"
        if not os.path.isfile(path):
            raise _missing(folder, f"has no {file_name}, with .gz or without")
        arrays[name] = _read_idx_file(path, 3 if name[0] == "x" else 1)
    return arrays


def _read_idx_file(path, n_axes):
    """Array of bytes: magic number 0x800 + axes, the length of each axis, then the values."""
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            content = file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    n_header = 4 * (1 + n_axes)
    header = np.frombuffer(content[:n_header], ">u4") if len(content) >= n_header else [0]
    if header[0] != 0x800 + n_axes:
        raise UserError(f"{path}: is no IDX file of MNIST: expected bytes on {n_axes} axes")
    shape = tuple(map(int, header[1:]))
    if math.prod(shape) != len(content) - n_header:
        raise UserError(
            f"{path}: announces {shape} bytes and has {len(content) - n_header}: fetch it anew"
        )
    return np.frombuffer(content, np.uint8, offset=n_header).reshape(shape)


def _checked(path, arrays, part):
    """One of the two parts of MNIST, "train" or "test", from arrays of bytes by Keras' names."""
    names = f"x_{part}", f"y_{part}"
    for name in names:
        if name not in arrays:
            raise UserError(f"{path}: has no {name}: is no MNIST: expected {', '.join(_IDX_FILES)}")
    images, labels = (arrays[name] for name in names)
    if images.dtype != np.uint8 or images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        raise UserError(
            f"{path}: {names[0]} is {images.dtype} {images.shape}: expected images of bytes, "
            f"[digits, {MNIST_SIDE}, {MNIST_SIDE}]"
        )
    if labels.shape != images.shape[:1] or not len(labels):
        raise UserError(
            f"{path}: {names[1]} is {labels.shape} for {len(images)} images: expected a label each"
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < N_CLASSES:
        raise UserError(f"{path}: {names[1]} holds other labels than the digits 0 to 9")
    return Digits(images.astype(np.float32) / 255, labels.astype(np.int32))
