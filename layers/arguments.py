"""Arguments of the engines for the CPU: checked at the boundary, contiguous, aligned."""

import numpy as np

ALIGNMENT_BYTES = 64  # a cache line, and what TensorFlow asks of an array it takes without a copy


def checked_lengths(seq_len, batch, frames):
    """`seq_len` as int64 [batch], each from 0 to `frames`; None: all frames."""
    if seq_len is None:
        return np.full(batch, frames, np.int64)
    n_frames = np.array(seq_len, np.int64)
    if n_frames.shape != (batch,) or np.any(n_frames < 0) or np.any(n_frames > frames):
        raise ValueError(f"seq_len is {seq_len}, expected {batch} numbers from 0 to {frames}")
    return n_frames


def checked_directions(reverse, directions):
    """`reverse` as bool [directions]; None: none is reversed."""
    reverse = np.zeros(directions, bool) if reverse is None else np.array(reverse, bool)
    if reverse.shape != (directions,):
        raise ValueError(f"reverse has shape {reverse.shape}, expected {(directions,)}")
    return reverse


def checked_array(name, array, dtype, shape):
    """A contiguous view that is not writable: Numba compiles for each kind of array anew."""
    view = np.ascontiguousarray(array, dtype).view()
    if view.shape != tuple(shape):
        raise ValueError(f"{name} has shape {view.shape}, expected {tuple(shape)}")
    view.flags.writeable = False
    return view


def aligned_empty(shape, dtype):
    """`np.empty` that begins at a cache line."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(n_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
