"""Threads, GPUs, processes and random numbers of a run."""

import json
import os

import numpy as np
import tensorflow as tf

from layers import threads
from toolbox.command_line import UserError

# Streams of random numbers that one seed feeds, of which models.py and lmu/couplings.py have one
# more each; a stream more leaves the others as they are.
STREAM_WEIGHTS, STREAM_SHUFFLING, STREAM_SEEDING = 0, 1, 3


def set_up_devices(cuda_device, n_threads, batch):
    """Choose threads and devices before TensorFlow starts; says what it chose.

    Args:
        cuda_device: number of the GPU to use; -1: those that are visible.
        n_threads: of the CPU; 0: `threads.thread_count`.
        batch: examples in a training batch, which devices share.

    Returns:
        tf.distribute.Strategy: over all GPUs that are visible, over the machines that the
        environment variable TF_CONFIG names, or TensorFlow's default for one device.

    Raises:
        UserError: fewer examples than devices.
    """
    if cuda_device >= 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(cuda_device)
    n_threads = n_threads or threads.thread_count()
    os.environ["NUMBA_NUM_THREADS"] = str(n_threads)  # the engines for the CPU read it
    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(n_threads)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        print(f"computing on {', '.join(gpu.name for gpu in gpus)}")
    else:
        print(f"no GPU visible: computing on the CPU with {n_threads} thread(s)")
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif len(gpus) > 1:
        strategy = tf.distribute.MirroredStrategy()
    else:
        return tf.distribute.get_strategy()
    n_replicas = strategy.num_replicas_in_sync
    if n_replicas > batch:
        raise UserError(
            f"--batch={batch}: expected an example at least for each of {n_replicas} devices: give "
            "a larger one, or fewer devices in CUDA_VISIBLE_DEVICES or TF_CONFIG"
        )
    print(f"{n_replicas} devices share each batch")
    return strategy


def worker_index():
    """This process's place among those that TF_CONFIG names; 0 writes the run folder.

    Raises:
        UserError: TF_CONFIG is no such description.
    """
    text = os.environ.get("TF_CONFIG")
    if text is None:
        return 0
    try:
        description = json.loads(text)
        workers, task = description["cluster"]["worker"], description["task"]
        is_known = task["type"] == "worker" and 0 <= task["index"] < len(workers)
    except (ValueError, TypeError, KeyError):
        is_known = False
    if not is_known:
        raise UserError(
            f"TF_CONFIG={text}: expected the addresses of all workers and which one this is: "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        )
    return task["index"]


def set_up_seed(seed):
    """Seed Python, NumPy and TensorFlow; returns the seed, a new one where it is -1."""
    if seed < 0:
        seed = int(np.random.SeedSequence().entropy % 2**31)
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    return seed
