"""What the tests of the compiled engines share: threads, memory and machine code."""

import threading
import tracemalloc

import numpy as np
from numba import njit


def assert_equal_for_any_number_of_threads_and_callers(compute, cases, monkeypatch):
    """Bit by bit: also when several Python threads call at once, each with work of its own.

    `compute(case)` gives a list of arrays, with one of the engines for the CPU.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    expected = [compute(case) for case in cases]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = {}

    def call(k):
        found[k] = [compute(cases[k % len(cases)]) for _ in range(4)]

    callers = [threading.Thread(target=call, args=(k,)) for k in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(found) == list(range(6))
    for k, results in found.items():
        for result in results:
            for array, reference in zip(result, expected[k % len(cases)], strict=True):
                np.testing.assert_array_equal(array, reference)


def peak_bytes(call):
    """Most memory that is allocated at a time during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def llvm_code(kernel, signature):
    """Optimised code of a Numba function for one kind of arguments."""
    names = ("nogil", "error_model", "fastmath")
    options = {k: kernel.targetoptions[k] for k in names if k in kernel.targetoptions}
    compiled = njit(**options)(kernel.py_func)
    compiled.compile(tuple(signature))
    (code,) = compiled.inspect_llvm().values()
    return code
