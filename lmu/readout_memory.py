"""`--readout_memory`: what the readout sees of the past of the neurons' activity o_f.

Beside the exponentially filtered activity, whose kernel is kappa^s, it sees its convolutions with
`order` kernels h_k(s) over the last theta:

    legendre   h_k(s) = (Ad^s Bd)_k, a Legendre memory (`legendre`), one step a frame         (1)
    taps       h_k(s) = kappa^(s - n_k), 0 before n_k = theta k / order, rounded: as many      (2)
               delayed copies of the filtered activity, the memory's control

each scaled to the norm of the exponential filter, sum_s h_k(s)^2 = 1 / (1 - kappa^2). An LSTM's
readout has no filter: kappa = 0.
"""

import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from layers.kernels import DelayLine, StateSpace
from lmu import legendre
from toolbox.command_line import UserError, check_unread

KINDS = ("none", "legendre", "taps")
LONGEST_MS = 1e5  # of a window
MOST_ORDER = 32  # beyond, the discrete system's digits are lost


def define_flags(define):
    """Define the flags; `define` is a command_line.Definer."""
    define.enum(
        "readout_memory",
        "none",
        KINDS,
        "what the readout sees of the activity's past: a Legendre memory of it, or delayed copies",
    )
    define.integer("readout_order", 6, "signals that it holds of each neuron", 1, MOST_ORDER)
    define.float("readout_theta_ms", 200.0, "its window, ms of speech", 0, LONGEST_MS)


def check_flags(flag_values, theta="readout_theta_ms", frame=legendre.FRAME_MS):
    """Raise UserError for flags that cannot work.

    Args:
        theta: name of the flag with the window.
        frame: a frame in its unit.
    """
    if flag_values.readout_memory == "none":
        check_unread(flag_values, ("readout_order", theta), "--readout_memory")
        return
    value = getattr(flag_values, theta)
    fewest = flag_values.readout_order if flag_values.readout_memory == "taps" else 1
    if not value >= fewest * frame:
        raise UserError(
            f"--{theta}={value:g}: expected at least {fewest * frame:g}, a frame"
            + (f" for each of --readout_order={fewest} taps" if fewest > 1 else "")
        )


def make_kernels(kind, order, theta_frames, decay):
    """The kernels (1) or (2); None for `kind` "none".

    Args:
        kind: one of `KINDS`.
        order: of the memory.
        theta_frames: its window, frames.
        decay: kappa; None for no filter.

    Returns:
        layers.kernels.StateSpace or DelayLine.
    """
    decay = decay or 0.0
    if kind == "none":
        return None
    if kind == "taps":
        return DelayLine(delays(order, theta_frames), decay)
    ad, bd = legendre.discrete(order, theta_frames)
    squared_norms = np.diag(solve_discrete_lyapunov(ad, np.outer(bd, bd)))  # sum_s h_k(s)^2
    return StateSpace(ad, bd, np.diag(1 / np.sqrt(squared_norms * (1 - decay**2))))


def delays(order, theta_frames):
    """The delays theta/order, 2 theta/order, ..., theta, rounded to frames."""
    return np.round(theta_frames / order * np.arange(1, order + 1)).astype(int)
