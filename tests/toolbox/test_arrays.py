"""Files of arrays are read as they were written, and never executed."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from toolbox.arrays import BadArraysError, read_arrays, write_arrays

ARRAYS = {
    "weights/w": np.arange(6.0, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6).reshape(2, 3).T,
    "none": np.zeros((0, 4)),
    "one": np.array(2.5),
    "text": np.array('{"a": 1}'),
}


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.npz"
    write_arrays(path, ARRAYS)
    return path


def test_arrays_are_read_as_they_were_written(good, tmp_path):
    found = read_arrays(good, 10**4)
    assert found.keys() == ARRAYS.keys() and os.listdir(tmp_path) == ["good.npz"]
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_more_than_is_expected_is_not_unpacked(good):
    with pytest.raises(BadArraysError, match="unpacks to .* bytes, expected 1e\\+02 at most"):
        read_arrays(good, 100)


def announced(shape, content):
    """Bytes of an `.npy` file whose head is of another shape than its content."""
    file = io.BytesIO()
    head = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
    return file.getvalue() + content


def test_what_is_no_file_of_arrays_is_refused(good, tmp_path):
    trap = tmp_path / "trap"
    whole = good.read_bytes()
    for content, words in (
        (b"", "no readable archive"),
        (b"text", "no readable archive"),
        (whole[:-200], "no readable archive"),
        (pickle.dumps(Trap(str(trap))), "no readable archive"),
    ):
        good.write_bytes(content)
        with pytest.raises(BadArraysError, match=words):
            read_arrays(good, 10**4)
    with pytest.raises(BadArraysError, match="is no file"):
        read_arrays(tmp_path, 10**4)
    np.savez(good, a=np.array([Trap(str(trap))], object))
    with pytest.raises(BadArraysError, match="Python objects"):
        read_arrays(good, 10**4)
    for content, words in (
        (announced((10**12,), b"8 bytes."), "announces .1000000000000,. numbers in 8 bytes"),
        (announced((1,), b"more than 8 bytes"), "announces .1,. numbers"),
        (b"text", "no readable archive"),
    ):
        with zipfile.ZipFile(good, "w") as archive:
            archive.writestr("a.npy", content)
        with pytest.raises(BadArraysError, match=words):
            read_arrays(good, 10**4)
    assert not trap.exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OSError):
        read_arrays(tmp_path / "none.npz", 10**4)
