"""numba-cuda's simulator, made fast and free of a race."""

import sys

import numpy as np
from numba import config

if config.ENABLE_CUDASIM:
    from numba.cuda.np.numpy_support import as_dtype
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    def shared_array(self, shape, dtype):
        """One array for each line that asks. The simulator's own looks and stores in two steps, so
        that two threads now and then get two arrays."""
        asking = sys._getframe(1)
        place = asking.f_code.co_filename, asking.f_lineno
        return self._allocations.setdefault(place, np.empty(shape, as_dtype(dtype)))

    FakeCUDAShared.array = shared_array
    sys.setswitchinterval(1e-4)  # it polls: 13 times as fast
