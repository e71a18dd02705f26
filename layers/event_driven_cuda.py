"""One layer of ALIF neurons on a GPU: `event_driven` as four CUDA kernels, in numba-cuda.

The equations are (1) to (11) of `neurons`. All sums are taken in a fixed order, without
floating-point atomics; nothing is compiled again for another length or batch. docs/gpu.md explains
the kernels.

    arrange   W_rec with the reset (-thr) as its diagonal, or its transpose, and a row of zeros.
    forward   a block an utterance and direction, the whole utterance in one launch. Thread j owns
              neurons j, j + threads, ...; v, a and the silence are in its registers. A step: decide
              the spikes; a barrier that counts them; each thread that spikes writes its neuron to
              a list in ascending order; barrier; all threads add the listed rows of W, coalesced,
              UNROLL loads in flight, in the order of the CPU's engine. Stores the spikes' bits and
              the psi of (7).
    backward  e-prop: no neuron needs another, no barrier. BPTT: u_t = W delta_t is carried as
              u_t = alpha u_{t+1} + W (psi_t zbar_t), which is event-driven again: only neurons
              with psi > 0 (4 of 10) send their row of W^T. Where alpha differs between neurons,
              u_t is summed anew over all delta. Stores delta.
    weights   a block a presynaptic neuron and direction: the times of its spikes into a list, then
              the sum of the rows delta_{t+1} of these times.

Arrays are in cell time, t in the order in which a direction reads; the second direction reads
backwards. spikes: uint32 [batch, directions, words, steps]; psi: [batch, directions, steps, n],
negative with `reference_quirks` where the neuron is silent; delta: the same with one step more,
which is 0. weights: [directions, n + 1, n], the last row 0: it fills the ends of lists.

Nothing here runs without numba-cuda and, but for its simulator, a GPU: import it where it is used.
"""

import functools

import numpy as np
from numba import config, cuda, float32, float64, int32, uint32

from layers.event_driven import layer_constants
from layers.neurons import MAX_CUDA_NEURONS, silent_steps

UNROLL = 8  # loads in flight
WARP = 32
MAX_WORDS = MAX_CUDA_NEURONS // 32
MAX_THREADS = 512  # of a block: leaves each 128 registers
REAL = {np.dtype(np.float32): float32, np.dtype(np.float64): float64}
LIMITS = {} if config.ENABLE_CUDASIM else {"max_registers": 128}


if config.ENABLE_CUDASIM:

    @cuda.jit(device=True)
    def product(a, b):
        return a * b

else:
    from numba.cuda import libdevice
    from numba.extending import overload

    def product(a, b):
        """a * b, rounded: never fused with an addition, so that spikes are the CPU engine's."""

    @overload(product, target="cuda")
    def _product(a, b):
        rounded = libdevice.fmul_rn if a == float32 else libdevice.dmul_rn
        return lambda a, b: rounded(a, b)


@cuda.jit(device=True)
def _place(position, length, is_reversed):
    return length - 1 - position if is_reversed else position


@cuda.jit(device=True)
def _clear(words, slot, n_words):
    """All threads of a block set the words of a slot to 0."""
    for w in range(cuda.threadIdx.x, n_words, cuda.blockDim.x):
        words[slot, w] = uint32(0)


@cuda.jit(device=True)
def _rank(words, slot, j):
    """How many bits are set below bit j."""
    rank = int32(0)
    word = j >> 5
    for w in range(word):
        rank += cuda.popc(words[slot, w])
    below = (uint32(1) << uint32(j & 31)) - uint32(1)
    return rank + cuda.popc(words[slot, word] & below)


@functools.cache
def forward_kernel(dtype, per_thread, n_repeat):
    """The kernel for floats of a type, neurons a thread and steps a frame."""
    real, K, R = REAL[dtype], per_thread, n_repeat
    N_LIST = K * MAX_THREADS + UNROLL

    @cuda.jit(**LIMITS)
    def kernel(
        current, weights, constants, n_frames_of, n_silent, frame_ms, quirks, z_mean, spikes, psi
    ):
        b, d = cuda.blockIdx.x, cuda.blockIdx.y
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        n = current.shape[3]
        n_words = (n + 31) >> 5
        words = cuda.shared.array((2, MAX_WORDS), uint32)
        listed = cuda.shared.array(N_LIST, int32)
        v, a = cuda.local.array(K, real), cuda.local.array(K, real)
        x, x_next = cuda.local.array(K, real), cuda.local.array(K, real)
        silent, count = cuda.local.array(K, int32), cuda.local.array(K, int32)
        fired = cuda.local.array(K, int32)
        zero, one = real(0), real(1)
        n_frames = n_frames_of[b]
        is_reversed = d == 1
        _clear(words, 0, n_words)
        _clear(words, 1, n_words)
        for f in range(n_frames, current.shape[1]):
            for j in range(thread, n, threads):
                z_mean[b, f, d, j] = zero
        for k in range(K):
            j = thread + k * threads
            v[k] = zero
            a[k] = zero
            silent[k] = 0
            if j < n and n_frames > 0:
                x[k] = current[b, _place(0, n_frames, is_reversed), d, j]
                v[k] = x[k]
        cuda.syncthreads()
        for f in range(n_frames):
            place = _place(f, n_frames, is_reversed)
            next_place = _place(min(f + 1, n_frames - 1), n_frames, is_reversed)
            for k in range(K):
                j = thread + k * threads
                count[k] = 0
                if j < n:
                    x_next[k] = current[b, next_place, d, j]
            for r in range(R):
                t = f * R + r
                slot = t & 1
                for k in range(K):
                    j = thread + k * threads
                    fired[k] = 0
                    if j < n:
                        alpha, rho = constants[0, j], constants[1, j]
                        beta, thr = constants[2, j], constants[3, j]
                        over = v[k] - thr - product(beta, a[k])
                        crossed = over > zero
                        is_open = silent[k] == 0
                        live = thr - abs(over)
                        p = zero if live < zero else constants[4, j] * live
                        if not is_open:
                            silent[k] -= 1
                            p = -p if quirks else zero
                        psi[b, d, t, j] = p
                        v[k] = product(alpha, v[k]) + (x_next[k] if r == R - 1 else x[k])
                        a[k] = product(rho, a[k])
                        if crossed and (is_open or quirks):
                            a[k] += one
                        if crossed and is_open:
                            fired[k] = 1
                            count[k] += 1
                            silent[k] = n_silent
                            cuda.atomic.or_(words, (slot, j >> 5), uint32(1) << uint32(j & 31))
                n_fired = 0
                for k in range(K):
                    n_fired += cuda.syncthreads_count(fired[k])
                for k in range(K):
                    if fired[k] != 0:
                        j = thread + k * threads
                        listed[_rank(words, slot, j)] = j
                for m in range(n_fired + thread, n_fired + UNROLL, threads):
                    listed[m] = n  # the row of zeros
                for w in range(thread, n_words, threads):
                    spikes[b, d, w, t] = words[slot, w]
                _clear(words, 1 - slot, n_words)
                cuda.syncthreads()
                for m in range(0, n_fired, UNROLL):
                    i0, i1, i2, i3 = listed[m], listed[m + 1], listed[m + 2], listed[m + 3]
                    i4, i5, i6, i7 = (listed[m + 4], listed[m + 5], listed[m + 6], listed[m + 7])
                    for k in range(K):
                        j = thread + k * threads
                        if j < n:
                            w0, w1 = weights[d, i0, j], weights[d, i1, j]
                            w2, w3 = weights[d, i2, j], weights[d, i3, j]
                            w4, w5 = weights[d, i4, j], weights[d, i5, j]
                            w6, w7 = weights[d, i6, j], weights[d, i7, j]
                            v[k] = (((((((v[k] + w0) + w1) + w2) + w3) + w4) + w5) + w6) + w7
            for k in range(K):
                j = thread + k * threads
                if j < n:
                    z_mean[b, place, d, j] = real(count[k]) / frame_ms
                    x[k] = x_next[k]

    return kernel


@functools.cache
def backward_kernel(dtype, per_thread, n_repeat):
    """The kernel for floats of a type, neurons a thread and steps a frame."""
    real, K, R = REAL[dtype], per_thread, n_repeat
    N_LIST = K * MAX_THREADS + UNROLL

    @cuda.jit(**LIMITS)
    def kernel(
        grad_z_mean,
        weights_t,
        constants,
        n_frames_of,
        frame_ms,
        quirks,
        bptt,
        carries,
        psi,
        grad_current,
        delta_of,
    ):
        b, d = cuda.blockIdx.x, cuda.blockIdx.y
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        n = grad_z_mean.shape[3]
        n_words = (n + 31) >> 5
        words = cuda.shared.array((2, MAX_WORDS), uint32)
        listed = cuda.shared.array(N_LIST, int32)
        sent = cuda.shared.array(N_LIST, real)
        g, grad_x = cuda.local.array(K, real), cuda.local.array(K, real)
        abar, delta = cuda.local.array(K, real), cuda.local.array(K, real)
        u, value = cuda.local.array(K, real), cuda.local.array(K, real)
        p_frame = cuda.local.array((R, K), real)
        zero = real(0)
        n_frames = n_frames_of[b]
        is_reversed = d == 1
        _clear(words, 0, n_words)
        _clear(words, 1, n_words)
        for f in range(n_frames, grad_z_mean.shape[1]):
            for j in range(thread, n, threads):
                grad_current[b, f, d, j] = zero
        for k in range(K):
            j = thread + k * threads
            abar[k] = zero
            delta[k] = zero
            u[k] = zero
            value[k] = zero
            if j < n:
                delta_of[b, d, n_frames * R, j] = zero
        cuda.syncthreads()
        for back_f in range(n_frames):
            f = n_frames - 1 - back_f
            place = _place(f, n_frames, is_reversed)
            for k in range(K):
                j = thread + k * threads
                if j < n:
                    for r in range(R):
                        p_frame[r, k] = psi[b, d, f * R + r, j]
                    g[k] = grad_z_mean[b, place, d, j] / frame_ms
                    grad_x[k] = zero
            for back_r in range(R):
                r = R - 1 - back_r
                t = f * R + r
                slot = t & 1
                for k in range(K):
                    j = thread + k * threads
                    if j < n:
                        p = p_frame[r, k]
                        zbar = g[k]
                        if bptt:
                            zbar += u[k]
                        if quirks and p < zero:
                            zbar = zero
                            p = -p
                        driven = p * (zbar + abar[k])
                        abar[k] = constants[1, j] * abar[k] - constants[2, j] * driven
                        delta[k] = constants[0, j] * delta[k] + driven
                        grad_x[k] += delta[k]
                        delta_of[b, d, t, j] = delta[k]
                        value[k] = driven if carries else delta[k]
                        if bptt and value[k] != zero:
                            cuda.atomic.or_(words, (slot, j >> 5), uint32(1) << uint32(j & 31))
                if bptt:
                    n_live = 0
                    for k in range(K):
                        n_live += cuda.syncthreads_count(int32(1) if value[k] != zero else int32(0))
                    for k in range(K):
                        if value[k] != zero:
                            j = thread + k * threads
                            rank = _rank(words, slot, j)
                            listed[rank] = j
                            sent[rank] = value[k]
                    for m in range(n_live + thread, n_live + UNROLL, threads):
                        listed[m] = n
                        sent[m] = zero
                    _clear(words, 1 - slot, n_words)
                    cuda.syncthreads()
                    for k in range(K):
                        j = thread + k * threads
                        if j < n:
                            u[k] = constants[0, j] * u[k] if carries else zero
                    for m in range(0, n_live, UNROLL):
                        for k in range(K):
                            j = thread + k * threads
                            if j < n:
                                w0 = weights_t[d, listed[m], j]
                                w1 = weights_t[d, listed[m + 1], j]
                                w2 = weights_t[d, listed[m + 2], j]
                                w3 = weights_t[d, listed[m + 3], j]
                                w4 = weights_t[d, listed[m + 4], j]
                                w5 = weights_t[d, listed[m + 5], j]
                                w6 = weights_t[d, listed[m + 6], j]
                                w7 = weights_t[d, listed[m + 7], j]
                                total = u[k] + w0 * sent[m] + w1 * sent[m + 1]
                                total += w2 * sent[m + 2] + w3 * sent[m + 3]
                                total += w4 * sent[m + 4] + w5 * sent[m + 5]
                                u[k] = total + (w6 * sent[m + 6] + w7 * sent[m + 7])
            for k in range(K):
                j = thread + k * threads
                if j < n:
                    grad_current[b, place, d, j] = grad_x[k]

    return kernel


@functools.cache
def weights_kernel(dtype, per_thread, n_repeat):
    """The kernel for floats of a type, neurons a thread and steps a frame."""
    real, K, R = REAL[dtype], per_thread, n_repeat
    N_LIST = MAX_THREADS + UNROLL

    @cuda.jit(**LIMITS)
    def kernel(spikes, delta, n_frames_of, dt_ms, grad_w):
        i, d = cuda.blockIdx.x, cuda.blockIdx.y
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        batch, n = delta.shape[0], delta.shape[3]
        words = cuda.shared.array((2, WARP), uint32)
        listed = cuda.shared.array(N_LIST, int32)
        total = cuda.local.array(K, real)
        zero = real(0)
        word, bit = i >> 5, uint32(i & 31)
        _clear(words, 0, WARP)
        _clear(words, 1, WARP)
        for k in range(K):
            total[k] = zero
        cuda.syncthreads()
        slot = 0
        for b in range(batch):
            n_steps = n_frames_of[b] * R
            for start in range(0, n_steps - 1, threads):  # the last step reaches nothing
                t = start + thread
                has = 0
                if t < n_steps - 1:
                    has = int32((spikes[b, d, word, t] >> bit) & uint32(1))
                if has != 0:
                    cuda.atomic.or_(words, (slot, thread >> 5), uint32(1) << uint32(thread & 31))
                n_listed = cuda.syncthreads_count(has)
                if has != 0:
                    listed[_rank(words, slot, thread)] = t + 1
                for m in range(n_listed + thread, n_listed + UNROLL, threads):
                    listed[m] = n_steps  # where delta is 0
                _clear(words, 1 - slot, WARP)
                cuda.syncthreads()
                for m in range(0, n_listed, UNROLL):
                    for k in range(K):
                        j = thread + k * threads
                        if j < n:
                            d0, d1 = delta[b, d, listed[m], j], delta[b, d, listed[m + 1], j]
                            d2, d3 = delta[b, d, listed[m + 2], j], delta[b, d, listed[m + 3], j]
                            d4, d5 = delta[b, d, listed[m + 4], j], delta[b, d, listed[m + 5], j]
                            d6, d7 = delta[b, d, listed[m + 6], j], delta[b, d, listed[m + 7], j]
                            total[k] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))
                slot = 1 - slot
        for k in range(K):
            j = thread + k * threads
            if j < n:
                grad_w[d, i, j] = zero if i == j else total[k] / dt_ms

    return kernel


@cuda.jit
def arrange_kernel(w_rec, constants, dt_ms, transposed, weights):
    i, d, n = cuda.blockIdx.x, cuda.blockIdx.y, w_rec.shape[1]
    for j in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        if i == n:
            weights[d, i, j] = 0
        elif i == j:
            weights[d, i, j] = -constants[3, j]
        else:
            weights[d, i, j] = (w_rec[d, j, i] if transposed else w_rec[d, i, j]) / dt_ms


class CudaLayer:
    """A layer's kernels, launched on the GPU of the current context.

    Without recurrent weights (`parameters.rec`) W_rec must be 0; its gradient is then of no use.

    Args:
        parameters: `AlifParameters`.
        n: neurons per direction, MAX_CUDA_NEURONS at most.
        dtype: float32 or float64.
        max_threads: of a block, which tests make small.
    """

    def __init__(self, parameters, n, dtype, max_threads=MAX_THREADS):
        if n > MAX_CUDA_NEURONS:
            raise ValueError(f"{n} neurons per direction, expected {MAX_CUDA_NEURONS} at most")
        self.dtype, self.n_repeat = np.dtype(dtype), parameters.n_repeat
        self.constants = layer_constants(parameters, n, self.dtype)
        self.carries = bool(np.ptp(self.constants[0]) == 0)
        self.n_silent = silent_steps(parameters.n_ref, parameters.dt_ms)
        self.quirks = bool(parameters.reference_quirks)
        self.dt_ms = self.dtype.type(parameters.dt_ms)
        self.frame_ms = self.dtype.type(parameters.n_repeat * parameters.dt_ms)
        per_thread = -(-n // max_threads)
        self.threads = min(max_threads, -(-n // per_thread // WARP) * WARP)
        self._kind = self.dtype, per_thread, self.n_repeat

    def forward(self, current, w_rec, n_frames, empty):
        """Simulate the layer; arrays are on the GPU.

        Args:
            current: [batch, frames, directions, n], none of them 0.
            w_rec: [directions, n, n].
            n_frames: int64 [batch], each utterance's frames.
            empty: function (shape, dtype) that makes an array.

        Returns:
            (z_mean [batch, frames, directions, n], spikes, psi), the first that `empty` makes.
        """
        batch, frames, directions, n = current.shape
        steps = frames * self.n_repeat
        z_mean = empty(current.shape, self.dtype)
        spikes = empty((batch, directions, -(-n // 32), steps), np.dtype(np.uint32))
        psi = empty((batch, directions, steps, n), self.dtype)
        constants, weights = self._arranged(w_rec, False, empty)
        forward_kernel(*self._kind)[(batch, directions), self.threads](
            current,
            weights,
            constants,
            n_frames,
            self.n_silent,
            self.frame_ms,
            self.quirks,
            z_mean,
            spikes,
            psi,
        )
        return z_mean, spikes, psi

    def backward(self, rule, grad_z_mean, w_rec, n_frames, spikes, psi, empty):
        """Gradients by the input and by W_rec, as `event_driven.Gradients`: the first that `empty`
        makes; arguments as of `forward`, and what it returned."""
        batch, frames, directions, n = grad_z_mean.shape
        grad_current = empty(grad_z_mean.shape, self.dtype)
        grad_w_rec = empty(w_rec.shape, self.dtype)
        delta = empty((batch, directions, frames * self.n_repeat + 1, n), self.dtype)
        constants, weights = self._arranged(w_rec, True, empty)
        backward_kernel(*self._kind)[(batch, directions), self.threads](
            grad_z_mean,
            weights,
            constants,
            n_frames,
            self.frame_ms,
            self.quirks,
            rule == "bptt",
            self.carries,
            psi,
            grad_current,
            delta,
        )
        weights_kernel(*self._kind)[(n, directions), self.threads](
            spikes, delta, n_frames, self.dt_ms, grad_w_rec
        )
        return grad_current, grad_w_rec

    def _arranged(self, w_rec, transposed, empty):
        """Constants and weights as the kernels take them."""
        directions, n, _ = w_rec.shape
        constants = cuda.to_device(self.constants)
        weights = empty((directions, n + 1, n), self.dtype)
        arrange_kernel[(n + 1, directions), self.threads](
            w_rec, constants, self.dt_ms, transposed, weights
        )
        return constants, weights
