"""Small layers for the tests of the GPU's engine, and both engines' answers to them."""

from typing import NamedTuple

import numpy as np
from numba import cuda

from layers import event_driven, neurons
from layers.event_driven_cuda import CudaLayer


class Case(NamedTuple):
    parameters: neurons.AlifParameters
    current: np.ndarray  # [batch, frames, directions, n]
    w_rec: np.ndarray
    grad_z_mean: np.ndarray
    seq_len: np.ndarray | None

    @property
    def reverse(self):
        return [d == 1 for d in range(len(self.w_rec))]


def make_case(
    n=12, batch=2, frames=4, directions=2, dtype=np.float64, seq_len=None, spread=False, **options
):
    """A case that fires; `options` are those of `neurons.alif_parameters`."""
    random_generator = np.random.default_rng(0)
    n_adaptive = n // 3
    parameters = neurons.alif_parameters(n - n_adaptive, n_adaptive, tau_a=30, **options)
    if spread:
        parameters = parameters._replace(alpha=random_generator.uniform(0.8, 0.97, n))
    shape = (batch, frames, directions, n)
    w_rec = random_generator.standard_normal((directions, n, n)) * 0.15 / np.sqrt(n)
    return Case(
        parameters,
        (random_generator.standard_normal(shape) * 0.06 + 0.02).astype(dtype),
        (w_rec * parameters.rec).astype(dtype),
        random_generator.standard_normal(shape).astype(dtype),
        None if seq_len is None else np.array(seq_len),
    )


def on_cpu(case):
    """event_driven.Forward, and its Gradients by rule."""
    arguments = case.current, case.w_rec, case.parameters
    forward = event_driven.forward(*arguments, case.seq_len, case.reverse)
    return forward, {
        rule: event_driven.backward(
            forward.saved, case.grad_z_mean, *arguments, rule, case.seq_len, case.reverse
        )
        for rule in event_driven.RULES
    }


def on_gpu(case, max_threads, carries=None):
    """z_mean and Gradients by rule of the kernels."""
    batch, frames, _, n = case.current.shape
    layer = CudaLayer(case.parameters, n, case.current.dtype, max_threads)
    layer.carries = layer.carries if carries is None else carries
    seq_len = np.full(batch, frames) if case.seq_len is None else case.seq_len
    if case.parameters.reference_quirks:
        seq_len = np.full(batch, frames)
    n_frames = cuda.to_device(seq_len.astype(np.int64))
    current, w_rec, grad_z_mean = map(cuda.to_device, (case.current, case.w_rec, case.grad_z_mean))
    z_mean, *saved = layer.forward(current, w_rec, n_frames, cuda.device_array)
    gradients = {
        rule: event_driven.Gradients(
            *(
                array.copy_to_host()
                for array in layer.backward(
                    rule, grad_z_mean, w_rec, n_frames, *saved, cuda.device_array
                )
            )
        )
        for rule in event_driven.RULES
    }
    return z_mean.copy_to_host(), gradients
