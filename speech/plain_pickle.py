"""Pickles without their dangers, and without the names of NumPy 2.

A pickle is a program that may call any importable function. Here it may call none: the few
names that NumPy's arrays need are answered by stand-ins that only write down what they are
asked, and arrays are built from those notes afterwards. NumPy's own unpickling is not used:
`dtype.__setstate__` takes sizes and flags on trust.
"""

import os
import pickle
import pickletools
import re

import numpy as np

from toolbox.command_line import UserError

REMAKE = "make the folder anew with timit_processing.py"

_KNOWN_NAMES = {  # NumPy 1 spelling
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # bytes in protocols 0 to 2
}

# What C and Python code of `pickle` and `pickletools` raises on bytes that are no pickle; the
# module's documentation names some and says that there may be more.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def load_plain_pickle(path):
    """Read a pickle of NumPy arrays of numbers and plain Python values; execute nothing.

    Lists, tuples and dicts of None, bool, int, float, str, bytes and of arrays of bool, integer
    or floating type are read. Arrays are read-only; NumPy scalars become Python numbers.

    Raises:
        UserError: the file is missing, is no whole pickle, or holds anything else.
    """
    with open_file(path) as file:
        try:
            _check_opcodes(file)
            file.seek(0)
            return _build(_NotingUnpickler(file).load(), {})
        except _RefusedError as error:
            raise UserError(
                f"'{path}' {error}: such a file may be an attack, nothing in it was executed: "
                f"{REMAKE}"
            ) from None
        except _PICKLE_ERRORS as error:
            raise UserError(
                f"'{path}' is no whole pickle of arrays ({type(error).__name__}: "
                f"{' '.join(str(error).split())}): {REMAKE}"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read '{path}': {error.strerror}") from None


class _RefusedError(Exception):
    """A pickle holds something else than arrays of numbers and plain values."""


def _check_opcodes(file):
    """Refuse what the unpickler does before it asks `find_class`.

    It fills the memory up to the highest memo slot, however small the file, and takes extension
    codes (numbers registered for importable names) from a cache.
    """
    size = os.fstat(file.fileno()).st_size
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > size:
            raise _RefusedError(f"asks for memo slot {argument} in {size} bytes")
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            raise _RefusedError(f"asks for extension code {argument}")


class _NotingUnpickler(pickle.Unpickler):
    """Unpickler that resolves names to stand-ins and imports nothing."""

    def find_class(self, module, name):
        full_name = f"{module}.{name}"
        known_name = full_name.replace("numpy._core.", "numpy.core.")  # moved in NumPy 2
        if known_name not in _KNOWN_NAMES:
            raise _RefusedError(f"asks for {full_name!r}")
        return _Name(known_name)


class _Name:
    """Stand-in for a name that a pickle asks for."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name

    def __call__(self, *arguments):
        return _Call(self.name, arguments)


class _Call:
    """A call that a pickle asks for, and the state that it gives to the result."""

    __slots__ = ("name", "arguments", "state")

    def __init__(self, name, arguments):
        self.name = name
        self.arguments = arguments
        self.state = None

    def __setstate__(self, state):
        self.state = state


def _build(value, built):
    """Plain copy of an unpickled value, its noted calls answered.

    `built` maps ids of values to their copies: a value that occurs often is built once, else a
    few nested lists could stand for billions of entries.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if id(value) not in built:
        if type(value) in (list, tuple):
            result = type(value)([_build(entry, built) for entry in value])
        elif type(value) is dict:
            result = {_build(key, built): _build(entry, built) for key, entry in value.items()}
        elif type(value) is _Call:
            result = _answer(value, built)
        else:
            raise _RefusedError(f"holds a value of type {type(value).__name__!r}")
        built[id(value)] = result
    return built[id(value)]


def _answer(call, built):
    """What NumPy would have returned to a noted call."""
    if call.name == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, is_fortran, data = call.state
        return _array(_build(data, built), _build(dtype, built), shape, "F" if is_fortran else "C")
    if call.name == "numpy.core.numeric._frombuffer":
        data, dtype, shape, order = call.arguments
        return _array(data, _build(dtype, built), shape, order)
    if call.name == "numpy.core.multiarray.scalar":
        dtype, data = call.arguments
        return _array(_build(data, built), _build(dtype, built), (), "C").item()
    if call.name == "numpy.dtype":
        return _dtype(*call.arguments[:1], call.state)
    if call.name == "_codecs.encode":
        text, encoding = call.arguments
        if encoding == "latin1":
            return text.encode("latin1")
    raise _RefusedError(f"calls {call.name!r} in an unusual way")


def _array(data, dtype, shape, order):
    if not (isinstance(data, (bytes, bytearray)) and isinstance(dtype, np.dtype)):
        raise _RefusedError("holds an array of something else than numbers")
    return np.frombuffer(bytes(data), dtype).reshape(shape, order=order)


def _dtype(code, state):
    """dtype of a pickled one: `code` such as "f8", byte order in `state`."""
    if not re.fullmatch("[biuf][0-9]+", code):
        raise _RefusedError(f"holds an array of type {code!r} instead of numbers")
    dtype = np.dtype(code)
    return dtype if state is None else dtype.newbyteorder(state[1])


def open_file(path):
    """Open a file of a dataset folder for reading; UserError if it is missing or no file."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"'{path}' is no file: {REMAKE}")  # a pipe would be waited for
    try:
        return open(path, "rb")
    except FileNotFoundError:
        if os.path.basename(path) == "htk.pickle":
            raise UserError(
                f"'{path}' is missing: the folder was made without HTK features: put an .htk file "
                "beside every .wav with HTK and run timit_processing.py again, or use "
                "--preproc=mfccs"
            ) from None
        raise UserError(f"'{path}' is missing: {REMAKE}") from None
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from None


class _Numpy1Pickler(pickle._Pickler):
    """Names NumPy's array constructor as NumPy 1 does, so that the reference can read our files.

    NumPy 2 moved it to `numpy._core`, which NumPy 1 lacks, and still answers to the old name.
    """

    def save_global(self, obj, name=None):
        if getattr(obj, "__module__", None) == "numpy._core.multiarray":
            self.save("numpy.core.multiarray")
            self.save(obj.__name__)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def dump(value, file):
    """Write a pickle that `load_plain_pickle` and the reference's loader, with NumPy 1, read."""
    _Numpy1Pickler(file, protocol=4).dump(value)
