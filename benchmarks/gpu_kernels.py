"""Seconds of the GPU's kernels, beside the CPU's event-driven engine in the same run.

    python3 benchmarks/gpu_kernels.py --batch=32,512

needs numba-cuda and a GPU, and no TensorFlow. Prints the card; whether all spikes are the CPU's; for the
forward pass, e-prop and BPTT the medians of both, how far the gradients are apart, and the share of
the card's memory bandwidth that what is stored and read again makes up (docs/gpu.md).
"""

import functools
import statistics
import time
from types import SimpleNamespace

import numpy as np
from absl import flags
from numba import cuda

import measuring  # first: it makes the rooms known
from layers import event_driven, neurons
from layers.event_driven_cuda import CudaLayer
from toolbox import command_line
from toolbox.durable_files import write_json

REVERSE = [False, True]


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.many("batch", [32], "utterances in a batch", flags.IntegerParser(1))
    define.integer("frames", 400, "frames in an utterance", 1)
    define.integer("neurons", 400, "neurons per direction, a quarter of them adaptive", 4)
    define.float("rate_hz", 15.0, "mean firing rate, Hz", 0.1, 500)
    define.integer("repeats", 20, "timed calls a measurement, after the first", 1)
    define.path("json", "", "also write the results to this file")


def make_case(flag_values, batch):
    """Parameters, input currents and weights that give the rate, and a gradient of the spikes."""
    n = flag_values.neurons
    random_generator = np.random.default_rng(1)
    parameters = neurons.alif_parameters(n - n // 4, n // 4)
    shape = (batch, flag_values.frames, 2, n)
    current = random_generator.standard_normal(shape, np.float32)
    current = sum(np.roll(current, k, 1) for k in range(4)) / 2  # speech changes slowly
    w_rec = neurons.scaled_normal(random_generator, n, n, 1.0).astype(np.float32)
    low, high = 1e-4, 10.0
    for _ in range(25):
        scale = np.float32(np.sqrt(low * high))
        few = scale * current[:2], scale * w_rec
        rate_hz = 1000 * event_driven.forward(*few, parameters, reverse=REVERSE).z_mean.mean()
        low, high = (scale, high) if rate_hz < flag_values.rate_hz else (low, scale)
    return SimpleNamespace(
        parameters=parameters,
        current=scale * current,
        w_rec=scale * w_rec,
        grad_z_mean=random_generator.standard_normal(shape, np.float32),
    )


def timed(function, repeats):
    """(median seconds, result) of calls that end with the GPU at rest; the first is not counted."""
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        result = function()
        cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), result


def distance(found, expected):
    """Of two arrays, over the largest entry."""
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def peak_bytes_per_s():
    """Of the card's memory; None where the driver does not say it."""
    device = cuda.get_current_device()
    clock_khz = getattr(device, "MEMORY_CLOCK_RATE", 0)
    width_bits = getattr(device, "GLOBAL_MEMORY_BUS_WIDTH", 0)
    return 2 * 1000 * clock_khz * width_bits / 8 or None


def measure(flag_values, batch):
    """(a row for each pass, firing rate in Hz)"""
    case = make_case(flag_values, batch)
    arguments = case.current, case.w_rec, case.parameters
    layer = CudaLayer(case.parameters, flag_values.neurons, np.float32)
    current, w_rec, grad_z_mean = map(cuda.to_device, (*arguments[:2], case.grad_z_mean))
    n_frames = cuda.to_device(np.full(batch, flag_values.frames))
    # Written once in each pass and read once; an allocation would be timed with the kernels.
    psi_bytes = 4 * batch * 2 * flag_values.frames * layer.n_repeat * flag_values.neurons
    empty = functools.cache(cuda.device_array)

    def row(name, on_gpu, on_cpu, n_bytes):
        gpu_s, found = timed(on_gpu, flag_values.repeats)
        cpu_s, expected = timed(on_cpu, max(1, flag_values.repeats // 4))
        seconds = {"gpu_s": gpu_s, "cpu_s": cpu_s, "bytes_per_s": n_bytes / gpu_s}
        return {"pass": name, "batch": batch, **seconds}, found, expected

    forward, (z_mean, *saved), expected = row(
        "forward",
        lambda: layer.forward(current, w_rec, n_frames, empty),
        lambda: event_driven.forward(*arguments, reverse=REVERSE),
        psi_bytes,
    )
    rows = [forward | {"apart": distance(z_mean.copy_to_host(), expected.z_mean)}]
    for rule in reversed(event_driven.RULES):
        passed, found, wanted = row(
            rule,
            lambda rule=rule: layer.backward(rule, grad_z_mean, w_rec, n_frames, *saved, empty),
            lambda rule=rule: event_driven.backward(
                expected.saved, case.grad_z_mean, *arguments, rule, reverse=REVERSE
            ),
            2 * psi_bytes,
        )
        apart = max(distance(a.copy_to_host(), b) for a, b in zip(found, wanted))
        rows.append(passed | {"apart": apart})
    return rows, 1000 * float(expected.z_mean.mean())


def main(flag_values):
    command_line.check_output_file(flag_values, "json")
    if not cuda.is_available():
        raise command_line.UserError(
            "no GPU that numba-cuda can use: expected one and its driver (`numba -s` tells what is "
            "missing)"
        )
    name, peak = cuda.get_current_device().name, peak_bytes_per_s()
    card = name.decode() if isinstance(name, bytes) else name
    machine = measuring.machine()
    rows = []
    for batch in flag_values.batch:
        of_batch, rate_hz = measure(flag_values, batch)
        rows += of_batch
    print(f"{card}; {measuring.machine_line(machine)} {rate_hz:.1f} Hz\n")
    header = ["batch", "pass", "GPU s", "CPU s", "CPU / GPU", "apart", "GB/s", "of the card's"]
    lines = [
        [
            str(row["batch"]),
            row["pass"],
            f"{row['gpu_s']:.5f}",
            f"{row['cpu_s']:.4f}",
            f"{row['cpu_s'] / row['gpu_s']:.1f}",
            f"{row['apart']:.1e}",
            f"{row['bytes_per_s'] / 1e9:.0f}",
            f"{row['bytes_per_s'] / peak:.0%}" if peak else "-",
        ]
        for row in rows
    ]
    print(measuring.markdown_table(header, lines))
    spikes_equal = all(row["apart"] == 0 for row in rows if row["pass"] == "forward")
    print(f"\nall spikes are the CPU's: {spikes_equal}")
    if flag_values.json:
        sizes = {name: flag_values[name].value for name in ("frames", "neurons", "repeats")}
        write_json(
            flag_values.json,
            {**sizes, "rate_hz": rate_hz, "card": card, "rows": rows, "machine": machine},
        )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
