"""Arrays by name in `.npz` files, read without executing anything."""

import math
import os
import zipfile

import numpy as np

from toolbox.durable_files import write_whole


class BadArraysError(Exception):
    """An `.npz` file is damaged, or holds something else than it should."""


def read_arrays(path, max_bytes):
    """All arrays of an `.npz` file by name.

    Args:
        path: the file.
        max_bytes: how many bytes it may unpack to.

    Raises:
        OSError: it cannot be opened.
        BadArraysError: it is no such file, damaged, larger, or holds Python objects.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise BadArraysError("is no file")
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                n_bytes = sum(member.file_size for member in members)
                if n_bytes > max_bytes:
                    raise BadArraysError(
                        f"unpacks to {n_bytes:.2g} bytes, expected {max_bytes:.2g} at most"
                    )
                return {m.filename.removesuffix(".npy"): _read_array(archive, m) for m in members}
        except BadArraysError:
            raise
        except Exception as error:  # zipfile, its decompressors and NumPy raise many kinds
            raise BadArraysError(f"is no readable archive ({type(error).__name__})") from None


def _read_array(archive, member):
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(member) as file:
        shape, is_fortran, dtype = readers[np.lib.format.read_magic(file)](file)
        content = file.read()
    if dtype.hasobject:
        raise BadArraysError("holds Python objects instead of numbers")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise BadArraysError(f"announces {shape} numbers in {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def write_arrays(path, arrays):
    """Write arrays by name to an `.npz` file."""
    with write_whole(path) as file:
        np.savez(file, **arrays)
