"""How many threads the engines for the CPU take; `test_event_driven` has them forked and shared."""

import os

from layers import threads


def test_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert threads.thread_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert threads.thread_count() == 5
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    assert threads.thread_count() == 2
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    for unset in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", unset)
        assert 1 <= threads.thread_count() <= os.cpu_count()


def test_chunks_come_in_their_order(monkeypatch):
    for n_threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", n_threads)
        chunks = [(k, 2) for k in range(20)]
        assert list(threads.run_chunks(pow, chunks)) == [k**2 for k in range(20)]
