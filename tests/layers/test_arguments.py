"""Arguments of the engines, as their kernels get them; each engine's test has the wrong ones."""

import numpy as np

from layers import arguments


def test_an_array_is_made_contiguous_and_not_writable():
    given = np.arange(6.0).reshape(2, 3).T
    found = arguments.checked_array("w", given, np.float32, (3, 2))
    np.testing.assert_array_equal(found, given)
    assert found.dtype == np.float32 and found.flags.c_contiguous and not found.flags.writeable
    assert given.flags.writeable


def test_what_is_left_out_is_all_frames_and_none_reversed():
    assert arguments.checked_lengths(None, 2, 7).tolist() == [7, 7]
    assert arguments.checked_lengths([0, 7], 2, 7).tolist() == [0, 7]
    assert arguments.checked_directions(None, 3).tolist() == [False] * 3


def test_empty_arrays_begin_at_a_cache_line():
    for shape in ((3, 5), (0, 4), (1,)):
        array = arguments.aligned_empty(shape, np.float32)
        assert array.shape == shape and array.dtype == np.float32
        assert array.ctypes.data % arguments.ALIGNMENT_BYTES == 0 or array.size == 0
