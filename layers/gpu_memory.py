"""Tensors on a GPU as arrays of numba-cuda, without a copy.

A tensor's address comes from a DLPack capsule. Making one waits for all that TensorFlow has queued on
the device, so that what is read is ready. Import this module where it is used: it needs numba-cuda.
"""

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
from numba import cuda


class _DlTensor(ctypes.Structure):
    """The head of DLManagedTensor, https://dmlc.github.io/dlpack."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("n_dimensions", ctypes.c_int32),
        ("type", ctypes.c_uint8 * 4),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


_address_in_capsule = ctypes.pythonapi.PyCapsule_GetPointer
_address_in_capsule.restype = ctypes.c_void_p
_address_in_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Gpu:
    """The GPU of a tensor, where arrays are tensors.

    Attributes:
        made: the tensors that `empty` has made.
    """

    def __init__(self):
        self.made = []

    def array(self, tensor, dtype=None):
        """The array at a tensor's place, of another type of the same size if one is given."""
        _, address = _place(tensor)
        interface = {
            "shape": tuple(tensor.shape),
            "typestr": np.dtype(dtype or tensor.dtype.as_numpy_dtype).str,
            "data": (address, False),
            "version": 3,
        }
        return cuda.as_cuda_array(SimpleNamespace(__cuda_array_interface__=interface), sync=False)

    def empty(self, shape, dtype):
        """A new array; bits are floats to TensorFlow, which has no empty tensor of integers."""
        kind = tf.float32 if dtype == np.uint32 else tf.as_dtype(dtype)
        self.made.append(tf.raw_ops.Empty(shape=shape, dtype=kind, init=False))
        return self.array(self.made[-1], dtype)


@contextlib.contextmanager
def on_gpu_of(tensor):
    """Context in which kernels run where an eager tensor is; gives a `Gpu`.

    It ends when they have ended: TensorFlow does not wait for a stream that it does not know.
    """
    device_number, _ = _place(tensor)
    with cuda.gpus[device_number], tf.device(tensor.device):
        yield Gpu()
        cuda.synchronize()


def _place(tensor):
    """(number of the device, address there)."""
    capsule = tf.experimental.dlpack.to_dlpack(tensor)
    described = _DlTensor.from_address(_address_in_capsule(capsule, b"dltensor"))
    return described.device_number, described.data + described.byte_offset
