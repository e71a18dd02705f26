"""Digits: every format read alike, split by seed, pooled by area; files that are no MNIST refused."""

import gzip

import numpy as np
import pytest

from helpers import mnist_arrays
from tasks import digits
from toolbox.command_line import UserError

IDX = {"x_train": 2051, "y_train": 2049, "x_test": 2051, "y_test": 2049}  # magic numbers


def write_idx(folder, arrays, compressed=False):
    """The four files of MNIST; header: magic number and sizes, big-endian."""
    folder.mkdir()
    for name, array in arrays.items():
        part = "train" if name.endswith("train") else "t10k"
        kind = "images-idx3" if name[0] == "x" else "labels-idx1"
        header = np.array([IDX[name], *array.shape], ">u4").tobytes()
        path = folder / f"{part}-{kind}-ubyte{'.gz' if compressed else ''}"
        with (gzip.open if compressed else open)(path, "wb") as file:
            file.write(header + array.tobytes())
    return str(folder)


def write_npz(path, arrays):
    np.savez_compressed(path, **arrays)
    return str(path)


def test_all_formats_hold_the_same_digits(tmp_path):
    arrays = mnist_arrays()
    splits = [
        digits.read_splits(dataset, 3)
        for dataset in (
            write_npz(tmp_path / "mnist.npz", arrays),
            write_idx(tmp_path / "idx", arrays),
            write_idx(tmp_path / "gz", arrays, compressed=True),
        )
    ]
    assert {name: len(split.labels) for name, split in splits[0].items()} == {
        "train": 30,
        "develop": 10,
        "test": 10,
    }
    np.testing.assert_allclose(splits[0]["test"].images, arrays["x_test"] / 255, rtol=1e-6)
    np.testing.assert_array_equal(splits[0]["test"].labels, arrays["y_test"])
    for other in splits[1:]:
        for name, split in splits[0].items():
            np.testing.assert_array_equal(other[name].images, split.images)
            np.testing.assert_array_equal(other[name].labels, split.labels)


def sorted_rows(*splits):
    """All digits of some splits in an order that does not depend on theirs."""
    rows = [np.column_stack([s.labels, s.images.reshape(len(s.labels), -1)]) for s in splits]
    return sorted(map(tuple, np.concatenate(rows)))


def test_the_seed_draws_the_development_set_and_leaves_the_test_set(tmp_path):
    arrays = mnist_arrays()
    path = write_npz(tmp_path / "mnist.npz", arrays)
    one, same, other = (digits.read_splits(path, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one["develop"].images, same["develop"].images)
    assert np.any(one["develop"].images != other["develop"].images)
    np.testing.assert_array_equal(one["test"].images, other["test"].images)
    given = digits.Digits(arrays["x_train"] / np.float32(255), arrays["y_train"])
    assert sorted_rows(one["train"], one["develop"]) == sorted_rows(given)


def test_the_digits_in_the_box_are_divided_without_overlap():
    splits = digits.read_splits("", 0)
    assert [len(split.labels) for split in splits.values()] == [1199, 299, 299]
    again = digits.read_splits("", 1)
    assert sorted_rows(*splits.values()) == sorted_rows(*again.values())
    assert sorted_rows(splits["test"]) != sorted_rows(again["test"])
    for split in splits.values():
        assert split.images.min() == 0 and split.images.max() == 1
        assert set(split.labels) == set(range(10))


def test_pooling_averages_areas():
    images = np.random.default_rng(1).random((3, 28, 28)).astype(np.float32)
    blocks = images.reshape(3, 14, 2, 14, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(digits.pooled(images, 14), blocks, rtol=1e-5)
    np.testing.assert_allclose(digits.pooled(images, 28), images, rtol=1e-6)
    # 3.5 pixels a square: those between two count half in each.
    small = digits.pooled(images, 8)
    weights = np.array([1, 1, 1, 0.5]) / 3.5
    np.testing.assert_allclose(small[:, 0, 0], weights @ images[:, :4, :4] @ weights, rtol=1e-5)
    np.testing.assert_allclose(small.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-5)


def without(name):
    return lambda arrays: {n: a for n, a in arrays.items() if n != name}


def replaced(name, change):
    return lambda arrays: {**arrays, name: change(arrays[name])}


@pytest.mark.parametrize(
    "change, words",
    [
        (without("y_test"), ["has no y_test", "x_train, y_train"]),
        (replaced("x_test", lambda x: x[:, :20, :20]), ["(10, 20, 20)", "28, 28"]),
        (replaced("x_train", lambda x: x / 255), ["float64"]),
        (replaced("x_train", lambda x: x.reshape(40, 784)), ["(40, 784)"]),
        (replaced("y_train", lambda y: y[:7]), ["y_train is (7,) for 40 images", "a label each"]),
        (replaced("y_train", lambda y: y + 1), ["other labels than the digits 0 to 9"]),
        (replaced("y_test", lambda y: y * 1.0), ["other labels"]),
        (lambda arrays: {**arrays, **{n: arrays[n][:0] for n in ("x_test", "y_test")}}, ["y_test"]),
        (
            lambda arrays: {**arrays, **{n: arrays[n][:9] for n in ("x_train", "y_train")}},
            ["9 training digits and 10 for the test"],
        ),
    ],
)
def test_a_file_that_is_no_mnist_is_refused(tmp_path, change, words):
    path = write_npz(tmp_path / "mnist.npz", change(mnist_arrays()))
    with pytest.raises(UserError) as error:
        digits.read_splits(path, 0)
    for word in (path, *words):
        assert word in str(error.value)


def test_no_file_and_no_archive_are_told(tmp_path):
    with pytest.raises(UserError, match="keras.datasets.mnist.load_data.*downloads it to .*keras"):
        digits.read_splits(str(tmp_path / "mnist.npz"), 0)
    (tmp_path / "mnist.npz").write_text("these are no digits")
    with pytest.raises(UserError, match="is no readable archive.*expected Keras' mnist.npz"):
        digits.read_splits(str(tmp_path / "mnist.npz"), 0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("train-labels-idx1-ubyte", None, "has no train-labels-idx1-ubyte"),
        ("train-labels-idx1-ubyte", b"no labels, but some text", "no IDX file"),
        ("train-labels-idx1-ubyte", b"", "no IDX file"),
        ("t10k-images-idx3-ubyte", np.array([2049, 10, 28, 28], ">u4").tobytes(), "no IDX file"),
        ("t10k-images-idx3-ubyte", np.array([2051, 10, 28, 28], ">u4").tobytes() + b"?", "has 1"),
    ],
)
def test_bad_idx_files_are_refused(tmp_path, name, content, message):
    folder = write_idx(tmp_path / "idx", mnist_arrays())
    path = tmp_path / "idx" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        digits.read_splits(folder, 0)


def test_a_damaged_gz_file_is_refused(tmp_path):
    folder = write_idx(tmp_path / "idx", mnist_arrays(), compressed=True)
    path = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz: cannot be read"):
        digits.read_splits(folder, 0)
