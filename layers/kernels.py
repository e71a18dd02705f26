"""Memories of a signal as linear systems, in NumPy: what they hold, step by step.

A memory turns a signal u_f into `order` signals, frame by frame,

    x_f = A x_{f-1} + B u_f;  h_f = C x_f                                             (1)

`StateSpace` is (1) itself, a Legendre memory; `DelayLine` holds the (filtered) signal of some frames
ago, which (1) describes too. `layers.memories` computes both for whole sequences.
"""

from typing import NamedTuple

import numpy as np
import scipy


class StateSpace(NamedTuple):
    """A, B and C of (1); `order` is the number of rows of C."""

    a: np.ndarray  # [states, states]
    b: np.ndarray  # [states]
    c: np.ndarray  # [order, states]

    @property
    def order(self):
        return len(self.c)

    @property
    def n_states(self):
        return len(self.b)

    def state_space(self):
        return self

    def hold(self, u):
        """h [frames, n, order] of n signals u [frames, n]."""
        stream = Stream(self, np.shape(u)[1])
        return np.stack([stream.step(u_f) for u_f in u])


class DelayLine(NamedTuple):
    """h_k,f = y_{f - delays[k]} of y_f = decay y_{f-1} + u_f, 0 before the first frame."""

    delays: np.ndarray  # [order] frames, integers
    decay: float = 0.0

    @property
    def order(self):
        return len(self.delays)

    @property
    def n_states(self):
        """Of `state_space`."""
        return int(max(self.delays)) + 1

    def hold(self, u):
        """As `StateSpace.hold`."""
        y = scipy.signal.lfilter([1.0], [1.0, -self.decay], u, axis=0)
        padded = np.concatenate([np.zeros((max(self.delays), y.shape[1])), y])
        start = len(padded) - len(y)
        return np.stack([padded[start - k :][: len(y)] for k in self.delays], axis=-1)

    def state_space(self):
        """The same as (1): the newest value of y first, then the older ones."""
        n = self.n_states
        a = np.eye(n, k=-1)
        a[0, 0] = self.decay
        return StateSpace(a, np.eye(n)[0], np.eye(n)[self.delays])


def described(value):
    """A tuple of this module, or any NamedTuple, as dicts for JSON; other values as they are."""
    if not hasattr(value, "_asdict"):
        return value
    return {name: described(field) for name, field in value._asdict().items()}


def with_arrays(values):
    """What JSON makes of `described`, with its lists as arrays again."""
    return {name: np.array(v) if isinstance(v, list) else v for name, v in values.items()}


def from_description(values):
    """The StateSpace or DelayLine of `described` as JSON has it; None of None."""
    if values is None:
        return None
    return (DelayLine if "delays" in values else StateSpace)(**with_arrays(values))


def input_memory_from_description(values):
    """As `from_description`, an InputMemory."""
    if values is None:
        return None
    arrays = with_arrays(values)
    return InputMemory(**{**arrays, "kernels": from_description(values["kernels"])})


class Stream:
    """What `kernels` hold of n signals that come frame by frame."""

    def __init__(self, kernels, n):
        self._system = kernels.state_space()
        self._x = np.zeros((n, len(self._system.b)))

    def step(self, u):
        """h_f [n, order] of u_f [n]."""
        a, b, c = self._system
        self._x = self._x @ a.T + u[:, np.newaxis] * b
        return self._x @ c.T


class InputMemory(NamedTuple):
    """A memory in front of the cells: m_f of the channels x_f E, each column divided by its `rms`."""

    kernels: tuple  # StateSpace or DelayLine
    encoders: np.ndarray  # E [features, channels]
    rms: np.ndarray  # [channels * order], a channel's columns beside each other
    is_learned: bool  # E learns, by the readout's gradient at m_f / rms alone


def side_by_side(*systems):
    """The StateSpace that gives all outputs of several, of the same signal."""
    sizes = np.cumsum([0, *(len(system.b) for system in systems)])
    heights = np.cumsum([0, *(system.order for system in systems)])
    a, c = np.zeros((sizes[-1], sizes[-1])), np.zeros((heights[-1], sizes[-1]))
    for k, system in enumerate(systems):
        states = slice(sizes[k], sizes[k + 1])
        a[states, states] = system.a
        c[heights[k] : heights[k + 1], states] = system.c
    return StateSpace(a, np.concatenate([system.b for system in systems]), c)
