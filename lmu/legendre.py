"""The Legendre memory: a linear system that holds the last theta of its input (no TensorFlow).

Its state m(t), order numbers a channel, are the coefficients of the last theta of the input u in
the shifted Legendre polynomials P~_i(r) = P_i(2r - 1), i = 0..order-1 (Voelker, Kajic &
Eliasmith 2019, equations 1 to 4; Voelker & Eliasmith 2018):

    dm/dt = A m + B u                                                        (1)
    A_ij = (2i + 1) / theta * (-1 if i < j else (-1)^(i - j + 1))
    B_i  = (2i + 1) / theta * (-1)^i                                         (2)
    u(t - share theta) ~ C m(t),   C_i = P~_i(share),   0 <= share <= 1       (3)

For share = 1 (C_i = 1) the system is the [order-1 / order] Pade approximant of exp(-theta s): its
delay is theta exactly at frequency 0, and from order 6 on close to theta up to 1 / theta Hz, that
is for theta omega <= 2 pi.

In steps of dt = 1, with u held over a step (zero-order hold):

    m_t = Ad m_{t-1} + Bd u_t,   Ad = exp(A),   Bd = (Ad - I) A^-1 B          (4)

    symbol    name here   unit, shape
    theta     theta       simulated steps of 1 ms, see `theta_steps` (any unit of time in (1))
    A, B      a, b        1 / unit of theta, [order, order] and [order]
    Ad, Bd    ad, bd      [order, order] and [order]
    u         u           [time, channels], each with a state of its own
    m         m           [time, channels, order]

(2) is taken from `nengolib.synapses.LegendreDelay`, (4) from `nengolib.signal.cont2discrete`, which
is `scipy.signal.cont2discrete`. All in float64.
"""

import numpy as np
from scipy.special import eval_sh_legendre

from layers.kernels import StateSpace
from lmu.nengolib_compat import import_nengolib
from speech.facts import FRAME_HOP_MS

FRAME_MS = FRAME_HOP_MS


def theta_steps(theta_ms, n_repeat):
    """Simulated steps that `theta_ms` of speech take, with `n_repeat` steps a frame of 10 ms."""
    return theta_ms / FRAME_MS * n_repeat


def continuous(order, theta):
    """(A [order, order], B [order]) of (1) and (2).

    Raises:
        ValueError: order is no integer above 0, or theta not above 0.
    """
    if not theta > 0:
        raise ValueError(f"theta is {theta}, expected above 0")
    system = import_nengolib().synapses.LegendreDelay(theta, order)
    return system.A, system.B[:, 0]


def discrete(order, theta):
    """(Ad [order, order], Bd [order]) of (4), with theta in steps.

    Raises:
        ValueError: as `continuous`.
    """
    a, b = continuous(order, theta)
    readout = np.eye(order), np.zeros((order, 1))  # a system has one; it does not enter (4)
    system = import_nengolib().signal.cont2discrete((a, b[:, np.newaxis], *readout), dt=1.0)
    return system.A, system.B[:, 0]


def delay_decoder(order, share):
    """C [order] of (3), which reads the input `share` of theta ago.

    Raises:
        ValueError: share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected from 0 (now) to 1 (theta ago)")
    return eval_sh_legendre(np.arange(order), share)


def memory_state(u, ad, bd):
    """The states (4) of signals, from m = 0 before their first step.

    Args:
        u: [steps, channels]; for a memory in front of the network a step may be a frame.
        ad: [order, order].
        bd: [order].

    Returns:
        [steps, channels, order], the state after each step's input.
    """
    return StateSpace(ad, bd, np.eye(len(ad))).hold(u)
