"""A plain ALIF layer: one direction of one utterance, equation by equation, nothing left out."""

from typing import NamedTuple

import numpy as np


class Trajectory(NamedTuple):
    """All of a plain simulation, each [steps, n]."""

    z: np.ndarray  # spikes, of the height 1/dt
    crossed: np.ndarray  # 1/dt where the threshold is exceeded, refractory or not
    v: np.ndarray
    a: np.ndarray
    is_open: np.ndarray
    psi: np.ndarray  # of `crossed` by v, not masked


def without_diagonal(w_rec):
    return w_rec * (1 - np.eye(len(w_rec)))


def plain_forward(x, w_rec, p):
    """x: [frames, n]."""
    n = x.shape[1]
    w = without_diagonal(w_rec) if p.rec else np.zeros((n, n))
    z, crossed, v, a, r = np.zeros((5, n))
    steps = []
    for t in range(len(x) * p.n_repeat):
        current = x[t // p.n_repeat] + z @ w
        a = p.rho * a + (crossed if p.reference_quirks else z)
        v = p.alpha * v + current - p.thr * z * p.dt_ms
        s = (v - p.thr - p.beta * a) / p.thr
        is_open = r <= 0.1
        crossed = (s > 0) / p.dt_ms
        z = crossed * is_open
        r = np.clip(r + p.n_ref * z - 1, 0, p.n_ref)
        psi = p.dampening_factor * np.maximum(0, 1 - abs(s)) / p.thr / p.dt_ms
        steps.append((z, crossed, v, a, is_open, psi))
    return Trajectory(*np.array(steps, float).reshape(-1, 6, n).swapaxes(0, 1))


def plain_backward(trajectory, grad_z, w_rec, p, bptt):
    """Gradients by x, [frames, n], and by w_rec; grad_z: [steps, n]."""
    n = grad_z.shape[1]
    w = without_diagonal(w_rec) if p.rec else np.zeros((n, n))
    grad_x = np.zeros((len(grad_z) // p.n_repeat, n))
    grad_w = np.zeros((n, n))
    delta, abar = np.zeros((2, n))
    for t in reversed(range(len(grad_z))):
        zbar = grad_z[t]
        if bptt:
            zbar = zbar + w @ delta - p.thr * p.dt_ms * delta
        is_open, psi = trajectory.is_open[t], trajectory.psi[t]
        if p.reference_quirks:
            driven = psi * (is_open * zbar + abar)
        else:
            driven = psi * is_open * (zbar + abar)
        delta = p.alpha * delta + driven
        abar = p.rho * abar - p.beta * driven
        grad_x[t // p.n_repeat] += delta
        if t > 0:
            grad_w += np.outer(trajectory.z[t - 1], delta)
    return grad_x, without_diagonal(grad_w) * p.rec
