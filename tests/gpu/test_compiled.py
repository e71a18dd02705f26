"""The GPU's kernels compile for each architecture, without a GPU: `make test_cuda`."""

import os
import re
import subprocess

import numpy as np
import pytest
from numba import cuda, types
from numba.cuda import dispatcher

from helpers import assert_user_error, run_here
from layers import event_driven_cuda, neurons

nvidia = pytest.importorskip("nvidia.cuda_nvcc")
PTXAS = os.path.join(nvidia.__path__[0], "bin", "ptxas")
ARCHITECTURES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
SHARED_BYTES = 48 * 1024  # of a block, on every architecture


class AnyDevice:
    compute_capability = (9, 0)


def array(kind, n_dimensions):
    return types.Array(kind, n_dimensions, "C")


def compiled(per_thread, n_repeat, dtype):
    """(name, kernel, its signature) for a type, neurons a thread and steps a frame."""
    real = {"float32": types.float32, "float64": types.float64}[dtype]
    kind = np.dtype(dtype), per_thread, n_repeat
    two, three, four = (array(real, n) for n in (2, 3, 4))
    lengths, bits, flag = array(types.int64, 1), array(types.uint32, 4), types.boolean
    return [
        (
            event_driven_cuda.forward_kernel(*kind),
            (four, three, two, lengths, types.int64, real, flag, four, bits, four),
        ),
        (
            event_driven_cuda.backward_kernel(*kind),
            (four, three, two, lengths, real, flag, flag, flag, four, four, four),
        ),
        (event_driven_cuda.weights_kernel(*kind), (bits, four, lengths, real, three)),
        (event_driven_cuda.arrange_kernel, (three, two, real, flag, three)),
    ]


LARGEST = -(-neurons.MAX_CUDA_NEURONS // event_driven_cuda.MAX_THREADS)


@pytest.mark.parametrize(
    "architecture, per_thread, n_repeat, dtype",
    [
        *((architecture, 1, 5, "float32") for architecture in ARCHITECTURES),
        ((9, 0), LARGEST, 5, "float64"),
    ],
)
def test_kernels_compile(architecture, per_thread, n_repeat, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: AnyDevice)
    name = "sm_{}{}".format(*architecture)
    for kernel, signature in compiled(per_thread, n_repeat, dtype):
        ptx, _ = cuda.compile(
            kernel.py_func,
            types.void(*signature),
            device=False,
            abi="numba",
            cc=architecture,
            output="ptx",
        )
        path = tmp_path / "kernel.ptx"
        path.write_bytes(ptx if isinstance(ptx, bytes) else ptx.encode())
        process = subprocess.run(
            [
                PTXAS,
                "-v",
                "-maxrregcount=128",
                f"-arch={name}",
                path,
                "-o",
                tmp_path / "kernel.cubin",
            ],
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        shared = re.findall(r"(\d+) bytes smem", process.stderr)
        spilled = re.findall(r"(\d+) bytes spill stores", process.stderr)
        assert int((shared or [0])[0]) <= SHARED_BYTES
        assert spilled == ["0"] or per_thread > 1


@pytest.mark.skipif(cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_needs_a_gpu():
    import gpu_kernels

    assert_user_error(run_here(gpu_kernels), "no GPU that numba-cuda can use")
