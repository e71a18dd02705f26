"""Leaky and adaptive integrate-and-fire neurons (ALIF): equations, parameters, initial weights.

In step t a layer reads frame f = floor(t / R), where R = n_repeat steps a frame, or, above another
layer, that layer's spikes of the step:

    I_t = x_f W_in + z_{t-1} W_rec                                    (1)  W_rec without diagonal
    a_t = rho a_{t-1} + z_{t-1}                                       (2)
    v_t = alpha v_{t-1} + I_t - thr z_{t-1}                           (3)
    s_t = (v_t - thr - beta a_t) / thr                                (4)
    z_t = [s_t > 0 and r_{t-1} <= 0.1]                                (5)
    r_t = clip(r_{t-1} + n_ref z_t - 1, 0, n_ref)                     (6)
    psi_t = gamma max(0, 1 - |s_t|) / thr, 0 if refractory            (7)  stands for dz_t / dv_t

and backwards, with g_t the derivative of the loss by z_t from everything above the layer,

    BPTT    zbar_t = g_t + W_rec delta_{t+1} - thr delta_{t+1} + abar_{t+1}       (8)
    e-prop  zbar_t = g_t + abar_{t+1}                                             (9)
    delta_t = psi_t zbar_t + alpha delta_{t+1};  abar_t = rho abar_{t+1} - beta psi_t zbar_t   (10)
    dW_in = sum x_f^T delta_t;  dW_rec = offdiag sum z_{t-1}^T delta_t            (11)

Symbol      Flag               Unit   Meaning
alpha       tau_v              -      exp(-dt / tau_v), decay of the membrane potential v
rho         tau_a              -      exp(-dt / tau_a), decay of the threshold adaptation a
thr         thr                -      thr / (1 - alpha), baseline threshold
beta        beta               -      beta (1 - rho) / (1 - alpha), 0 for regular neurons
n_ref       n_ref              steps  2 gives one silent step after a spike (with dt = 1)
gamma       dampening_factor   -      height of the pseudo-derivative psi
z           -                  1/ms   spikes, 0 or 1/dt

For dt other than 1 ms a spike is 1/dt high in (1), (2), (6) and in what a layer returns, and thr in
(3) is multiplied by dt. With `reference_quirks`, as in the authors' code, (2) counts also the
crossings of the threshold that refractoriness silences, through a psi that is not masked: zbar_t =
[r_{t-1} <= 0.1] (...) + abar_{t+1}; and a layer runs on through the padding of a batch.
"""

import math
from typing import NamedTuple

import numpy as np

# Per direction, of the engine `cuda`: their lists fit 48 kB of shared memory, in float64 too.
MAX_CUDA_NEURONS = 3072


class AlifParameters(NamedTuple):
    """Constants of a layer, the same for all its directions."""

    alpha: np.ndarray  # [n]
    rho: np.ndarray  # [n]
    beta: np.ndarray  # [n]
    thr: np.ndarray  # [n]
    dampening_factor: float = 0.3
    n_ref: float = 2  # 2 gives one silent step after a spike, see (6)
    n_repeat: int = 5  # steps a frame
    rec: bool = True  # False: no recurrent weights; the reset stays
    reference_quirks: bool = False
    dt_ms: float = 1.0


def alif_parameters(
    n_regular,
    n_adaptive,
    tau_v=20.0,
    tau_a=200.0,
    thr=0.01,
    beta=1.8,
    n_ref=2,
    dampening_factor=0.3,
    dt=1.0,
    n_repeat=5,
    rec=True,
    reference_quirks=False,
):
    """Parameters of `n_regular` leaky and then `n_adaptive` adaptive neurons.

    `tau_v` and `tau_a` in ms are numbers or have one value a neuron. As (3) adds currents
    without (1 - alpha), `thr` becomes thr / (1 - alpha), `beta` beta (1 - rho) / (1 - alpha).

    Returns:
        `AlifParameters`.
    """
    n_neurons = n_regular + n_adaptive
    alpha = np.exp(-dt / np.broadcast_to(np.asarray(tau_v, float), n_neurons))
    rho = np.exp(-dt / np.broadcast_to(np.asarray(tau_a, float), n_neurons))
    is_adaptive = np.arange(n_neurons) >= n_regular
    return AlifParameters(
        alpha=alpha,
        rho=rho,
        beta=is_adaptive * beta * (1 - rho) / (1 - alpha),
        thr=thr / (1 - alpha),
        dampening_factor=dampening_factor,
        n_ref=float(n_ref),
        n_repeat=n_repeat,
        rec=rec,
        reference_quirks=reference_quirks,
        dt_ms=dt,
    )


class State(NamedTuple):
    """Of neurons between two steps, arrays [n] that a step changes."""

    v: np.ndarray
    a: np.ndarray
    r: np.ndarray
    z: np.ndarray  # 0 or 1/dt


def fire(state, parameters):
    """(2) and (4) to (6) of a step whose potential (3) is there; without `reference_quirks`."""
    v, a, r, z = state
    a[...] = parameters.rho * a + z  # (2)
    is_above = v - parameters.thr - parameters.beta * a > 0  # (4)
    z[...] = (is_above & (r <= 0.1)) / parameters.dt_ms  # (5)
    r[...] = np.clip(r + parameters.n_ref * z - 1, 0, parameters.n_ref)  # (6)


def scaled_normal(random_generator, n_in, n_out, weight_scale, directions=2):
    """[directions, n_in, n_out] initial weights of a layer, weight_scale * N(0, 1) / sqrt(n_in)."""
    shape = (directions, n_in, n_out)
    return weight_scale * random_generator.standard_normal(shape) / np.sqrt(n_in)


def refractory_steps(n_ref, dt_ms):
    """How many steps after a spike cannot spike, by (6), and what is left of r_t after them."""
    left = min(max(n_ref / dt_ms - 1, 0), n_ref)
    n_silent = max(math.ceil(left - 0.1), 0)
    return n_silent, max(left - n_silent, 0)


def silent_steps(n_ref, dt_ms):
    """`refractory_steps` where they are the same after every spike.

    Raises:
        ValueError: less than a step of refractoriness is left over when the neuron opens again.
    """
    n_silent, left = refractory_steps(n_ref, dt_ms)
    if left > 1e-6:  # more than rounding
        raise ValueError(f"n_ref = {n_ref} with dt_ms = {dt_ms} leaves a fraction of a silent step")
    return n_silent


FLAGS = ("n_regular", "n_adaptive", "n_repeat", "dt", "tau_v", "tau_a", "thr", "beta", "n_ref")


def define_flags(define):
    """Define the flags `FLAGS` of a layer's neurons; `define` is a command_line.Definer."""
    define.integer("n_regular", 300, "regular neurons per direction", 0)
    define.integer("n_adaptive", 100, "adaptive neurons per direction", 0)
    define.integer("n_repeat", 5, "simulated steps a frame", 1)
    define.float("dt", 1.0, "length of a step, ms", 1e-3)
    define.float("tau_v", 20.0, "membrane time constant, ms", 1e-3)
    define.float("tau_a", 200.0, "adaptation time constant, ms", 1e-3)
    define.float("thr", 0.01, "baseline threshold, before the scaling by tau_v", 1e-9)
    define.float("beta", 1.8, "threshold rise a spike, before the scaling", 0)
    define.integer("n_ref", 2, "refractory steps; 2 gives one silent step", 0)
