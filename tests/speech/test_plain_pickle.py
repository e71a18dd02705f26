"""Pickles are read when they hold plain values, refused when they hold anything else, never run."""

import codecs
import collections
import contextlib
import copyreg
import functools
import os
import pickle
import random
import struct

import numpy as np
import pytest

from speech.plain_pickle import load_plain_pickle
from toolbox.command_line import UserError

# Pickles: what is read


PLAIN = {
    "text": "a sentence",
    "numbers": [1, -(2**70), 0.5, True, None],
    "tuple": (b"bytes", ()),
    "nested": [[], {}, {"a": {1: (2, 3)}}],
}
ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    np.arange(24).reshape(4, 6)[:, ::2],
    np.arange(5, dtype=">i2"),
    np.array([True, False]),
    np.array(3.5),
    np.array([np.nan, np.inf], np.float16),
    np.arange(3, dtype=np.uint8),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_and_arrays_survive(tmp_path, protocol):
    file = tmp_path / "a.pickle"
    file.write_bytes(pickle.dumps([PLAIN, ARRAYS, ARRAYS, np.float32(0.1), np.int64(7)], protocol))
    plain, arrays, again, real, integer = load_plain_pickle(file)
    assert plain == PLAIN
    assert len(arrays) == len(ARRAYS)
    for ours, array, same in zip(arrays, ARRAYS, again):
        assert type(ours) is np.ndarray
        assert ours.dtype == array.dtype and ours.shape == array.shape
        np.testing.assert_array_equal(ours, array)
        assert ours is same
    assert (type(real), real) == (float, float(np.float32(0.1)))
    assert (type(integer), integer) == (int, 7)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_without_frames_survive(tmp_path, protocol):
    file = tmp_path / "a.pickle"
    file.write_bytes(pickle.dumps(np.zeros((0, 13)), protocol))
    assert load_plain_pickle(file).shape == (0, 13)


@pytest.mark.parametrize("spelling", [b"numpy.core.", b"numpy._core."])
def test_pickles_of_older_and_newer_numpy(tmp_path, spelling):
    pickled = pickle.dumps([np.arange(3.0), np.float64(2)], 2)  # names are plain lines here
    other = pickled.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", spelling)
    assert spelling in other
    (tmp_path / "a.pickle").write_bytes(other)
    array, scalar = load_plain_pickle(tmp_path / "a.pickle")
    np.testing.assert_array_equal(array, [0, 1, 2])
    assert scalar == 2


# Pickles: what is refused


def refusal(tmp_path, content):
    """What the loader says about a file with this content; fails where it does not refuse."""
    file = tmp_path / "refused.pickle"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_plain_pickle(file)
    message = str(error.value)
    assert "refused.pickle" in message and "\n" not in message
    return message


# The functions of NumPy that pickles of arrays call, in protocol 4 and 5.
RECONSTRUCT, FROM_BUFFER = (np.zeros(3).__reduce_ex__(protocol)[0] for protocol in (4, 5))


class Calling:
    """Is pickled as a call of a function and, in `then`, what follows: state, entries, items."""

    def __init__(self, function, *arguments, then=()):
        self.reduced = (function, arguments, *then)

    def __reduce__(self):
        return self.reduced


def object_array(value):
    array = np.empty(1, object)
    array[0] = value
    return array


def attacks(canary):
    """Pickles that create the file `canary` where anything in them is executed."""
    command = f"touch '{canary}'"
    system = Calling(os.system, command)
    by_name = f"(V{command}\n"
    opened = f"open({str(canary)!r}, 'w').close()"
    values = {
        "system": system,
        "eval": Calling(eval, opened),
        "exec": Calling(exec, opened),
        "map": Calling(list, Calling(map, os.system, [command])),
        "partial": Calling(functools.partial(os.system, command)),
        "pickle in a pickle": Calling(pickle.loads, pickle.dumps(system)),
        "in a list": [np.zeros(3), system],
        "after an array": (np.zeros(3), system),
        "as a key": {system: 1},
        "in an object array": object_array(system),
        "in nested object arrays": [object_array(object_array({"a": system}))],
        "as an argument of NumPy": Calling(np.dtype, system),
        "as the state of an array": Calling(RECONSTRUCT, np.ndarray, (0,), b"b", then=(system,)),
        "as an item of a dict": Calling(
            collections.OrderedDict, then=(None, None, iter([("a", system)]))
        ),
    }
    pickles = {name: pickle.dumps(value, 4) for name, value in values.items()}
    pickles |= {f"system, protocol {p}": pickle.dumps(system, p) for p in range(6)}
    pickles["getattr"] = (
        f"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR{by_name}tR."
    ).encode()
    pickles["INST"] = f"{by_name}ios\nsystem\n.".encode()
    pickles["OBJ"] = f"(cos\nsystem\nV{command}\no.".encode()
    pickles["through a module that arrays need"] = (
        b"\x80\x04" + unicode(FROM_BUFFER.__module__) + unicode("builtins.exec") + b"\x93"
        + unicode(opened) + b"\x85R."
    )  # fmt: skip
    return pickles


def unicode(text):
    """The text as the pickle operation that loads it."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


@pytest.mark.parametrize("name", attacks(""))
def test_nothing_in_a_pickle_is_executed(tmp_path, name):
    canary = tmp_path / "canary"
    content = attacks(canary)[name]
    with contextlib.suppress(Exception):  # some fail once they have done their deed
        pickle.loads(content)
    assert canary.exists(), "no attack"
    canary.unlink()
    message = refusal(tmp_path, content)
    assert "asks for" in message and "nothing in it was executed" in message
    assert not canary.exists()


def test_the_refused_name_is_told(tmp_path):
    assert f"'{os.system.__module__}.system'" in refusal(tmp_path, attacks("")["system"])


def test_extension_codes_are_refused_though_cached(tmp_path):
    code, content = 240, b"\x80\x04\x82\xf0)R."  # calls what 240 stands for
    copyreg.add_extension("os", "getcwd", code)
    try:
        assert pickle.loads(content) == os.getcwd()  # which caches it
        assert "extension code 240" in refusal(tmp_path, content)
    finally:
        copyreg.remove_extension("os", "getcwd", code)


@pytest.mark.parametrize(
    "value, word",
    [
        ({1, 2}, "set"),
        (frozenset([1]), "frozenset"),
        (1j, "complex"),
        (bytearray(b"a"), "bytearray"),
        (range(3), "range"),
        (np.array([1j]), "c16"),
        (np.array(["a"]), "U1"),
        (np.array([b"a"]), "S1"),
        (np.array([None]), "O8"),
        (object_array(np.zeros(3)), "O8"),
        (np.zeros(2, [("a", "f4")]), "V4"),
        (np.array(["2000-01-01"], "M8[D]"), "M8"),
        (np.ndarray, "holds a value"),
        (np.ma.array([1.0]), "numpy.ma"),
        (collections.OrderedDict(), "OrderedDict"),
        (UserError("x"), "command_line.UserError"),
        (Calling(np.ndarray, (3,)), "numpy.ndarray"),
        (Calling(FROM_BUFFER, [1] * 8, np.dtype("f8"), (1,), "C"), "something else"),
        (Calling(FROM_BUFFER, 8, np.dtype("f8"), (1,), "C"), "something else"),
        (Calling(FROM_BUFFER, bytes(8), "i4,i4", (1,), "C"), "something else"),
        (Calling(codecs.encode, "abc", "rot13"), "_codecs.encode"),
    ],
)
def test_other_kinds_of_values_are_refused(tmp_path, value, word):
    assert word in refusal(tmp_path, pickle.dumps([value], 5))


def test_persistent_ids_are_refused(tmp_path):
    refusal(tmp_path, b"Pabc\n.")
    refusal(tmp_path, b"\x80\x04K\x01Q.")


def test_a_pickle_cannot_change_numpy(tmp_path):
    """In NumPy's own unpickling this state turns every float64 of the process around."""
    swapping = Calling(np.dtype, "f8", then=((3, ">", None, None, None, -1, -1, 0),))
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(swapping, 4))
    assert load_plain_pickle(tmp_path / "a.pickle") == np.dtype(">f8")
    assert np.dtype("f8").isnative


# Pickles that are broken


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_truncated_pickles(tmp_path, protocol):
    content = pickle.dumps([np.arange(4.0), {"text": "a b"}, np.int64(3)], protocol)
    for n_bytes in range(len(content)):
        refusal(tmp_path, content[:n_bytes])


@pytest.mark.parametrize(
    "content",
    [
        b"\n" * 50,
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x93NUMPY\x01\x00",
        b".",
        b"\x80\xff.",
    ],
)
def test_files_that_are_no_pickle(tmp_path, content):
    assert "no whole pickle" in refusal(tmp_path, content)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of damaged escapes, by pickletools
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_damaged_pickles_are_read_or_refused(tmp_path, protocol):
    """Whatever a few wrong bytes do: a value or a `UserError`, no other exception."""
    rng = random.Random(protocol)
    content = pickle.dumps([np.arange(4.0), {"text": "a b"}, (np.float32(3), None)], protocol)
    file = tmp_path / "a.pickle"
    n_refused = 0
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            load_plain_pickle(file)
        except UserError:
            n_refused += 1
    assert n_refused > 250


def array_of(shape, dtype_code, data):
    dtype = Calling(np.dtype, dtype_code)
    return Calling(RECONSTRUCT, np.ndarray, (0,), b"b", then=((1, shape, dtype, False, data),))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04B\xff\xff\xff\xff.",  # bytes of 4 GB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # bytes of 1 TB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # bytearray
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",  # text
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # int of 2**31 bytes
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"].",  # frame
        b"\x80\x04]r\xff\xff\xff\xff.",  # memo slot 2**32 - 1: 64 GB
        b"]p99999999999999\n.",
        pickle.dumps(array_of((10**9, 10**9), "f8", b"")),
        pickle.dumps(array_of((2**63, 2**63), "f8", b"")),
        pickle.dumps(array_of((4,), "f8", bytes(31))),
        pickle.dumps(array_of((4,), "f8", bytes(40))),
        pickle.dumps(array_of((4,), "f8", "x" * 32)),
        pickle.dumps(array_of((4,), "f99999999999", bytes(32))),
        pickle.dumps(array_of("abc", "f8", bytes(24))),
        pickle.dumps(array_of((4,), 8, bytes(32))),
        pickle.dumps(Calling(np.dtype, "f8", then=((3,),))),
    ],
)
def test_sizes_beyond_the_file(tmp_path, content):
    refusal(tmp_path, content)


@pytest.mark.stress
def test_nesting_without_end(tmp_path):
    depth = 100_000
    refusal(tmp_path, b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b".")
    refusal(tmp_path, b"\x80\x04]q\x00h\x00a.")  # a list within itself


def test_few_lists_that_stand_for_many(tmp_path):
    value = [1]
    for _ in range(60):
        value = [value, value]
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(value))
    loaded = load_plain_pickle(tmp_path / "a.pickle")
    for _ in range(60):
        assert loaded[0] is loaded[1]
        loaded = loaded[0]
    assert loaded == [1]
