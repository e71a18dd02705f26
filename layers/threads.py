"""The threads of the engines for the CPU.

The kernels release Python's global lock and run in a pool of this module's own. Numba's threading
layers are not used: its default one aborts when two Python threads call it at once, and the OpenMP
one starts a team for each caller, which then compete with TensorFlow's threads. NUMBA_NUM_THREADS,
or else OMP_NUM_THREADS, sets the size of the pool; without either it is the number of cores the
process may use.
"""

import collections
import concurrent.futures
import os
import threading


def thread_count():
    """Number of threads that work on a batch, see the head of this module."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0].strip()  # OpenMP allows a list, by level
        if first.isdecimal() and int(first) > 0:
            return int(first)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


PIECES = 8  # of a batch that are handed to the threads; the same for any number of them


def pieces(batch):
    """(first, last) of the pieces of a batch."""
    n = max(1, min(batch, PIECES))
    edges = [batch * i // n for i in range(n + 1)]
    return list(zip(edges[:-1], edges[1:]))


_pools = {}
_pools_lock = threading.Lock()


def run_chunks(function, chunks):
    """Yield `function(*chunk)` for all chunks, in their order, computed by the pool."""
    n_threads = thread_count()
    if n_threads == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield function(*chunk)
        return
    with _pools_lock:
        key = (os.getpid(), n_threads)  # a forked process has none of its parent's threads
        if key not in _pools:
            _pools[key] = concurrent.futures.ThreadPoolExecutor(n_threads, "layers")
        pool = _pools[key]
    pending = collections.deque(pool.submit(function, *chunk) for chunk in chunks)
    while pending:
        yield pending.popleft().result()
