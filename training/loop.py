"""What both training scripts share: flags, devices, run folder, and the one training loop.

Metrics (fractions unless a unit is given; all of them averaged over utterances, each of which
counts once however long it is):

frame_error        share of an utterance's frames whose most probable class is wrong
frame_error_39     the same after folding 61 phones to 39 (equal when 39 are trained)
loss               prediction + rate regularisation + L2; prediction is the mean cross entropy of
                   an utterance's frames, in nats
rate_hz_*          firing rates over the neurons of the set, in spikes per simulated second
"""

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags

import eprop
from layers import event_driven
from lmu import figures as lmu_figures
from lmu import front_end, memory
from speech.dataset import PREPROC_CHOICES, Batch, TimitDataset, one_ahead
from tasks import figures as task_figures
from toolbox import run_lock
from toolbox.command_line import (
    Interrupted,
    UserError,
    check_finite,
    deferred_signals,
    one_line,
    parse_flags,
    progress_bar,
)
from toolbox.durable_files import append_line, remove_leftovers, write_json, write_whole
from training import checkpoints, figures, health, ridge_readout

N_RAMP_ITERATIONS = 100
MEMORY_CHANNELS = 4  # of the features, that the spikes are asked for
PACKAGES = (
    "tensorflow",
    "keras",
    "numba",
    "numpy",
    "scipy",
    "python_speech_features",
    "soundfile",
    "nengo",
    "nengolib",
)
# Flags that may stand beside --resume: what they say does not enter the result (the number of
# threads does so by rounding at most).
RESUME_FLAGS = ("dataset", "checkpoint_every_s", "n_threads", "cuda_device", "verbose", "plot")
FRONT_END_FLAGS = ("front_end_channels", "front_end_order", "front_end_theta_ms")
MAX_INTEGER = 2**31 - 1
# Streams of random numbers that one seed feeds; a stream more leaves the others as they are.
STREAM_WEIGHTS, STREAM_SHUFFLING, STREAM_TIME_CONSTANTS, STREAM_SEEDING = range(4)
# Places in a training step where it draws: dropout has the numbers from 0 on, one a layer.
PLACE_INPUT, PLACE_GRADIENTS = 999, 1000


# --------------------------------------------------------------------------- flags


def define_flags(flag_values, n_epochs, lr_decay_every, readout_decay, ramping_learning_rate):
    """Define the flags of both scripts; the arguments are the defaults in which they differ."""
    both = {"flag_values": flag_values}
    flags.DEFINE_string("dataset", "timit_processed", "folder of timit_processing.py", **both)
    flags.DEFINE_enum(
        "preproc",
        "mfccs",
        PREPROC_CHOICES,
        "features (cochspec and cochspike: names of the reference that nothing produces)",
        **both,
    )
    flags.DEFINE_bool("reduced_phns", True, "train on 39 phone classes, else on 61", **both)
    flags.DEFINE_enum(
        "front_end",
        None,
        front_end.KINDS,
        "append the past to the features: the state of an ideal Legendre memory, or delayed frames",
        **both,
    )
    flags.DEFINE_integer(
        "front_end_channels", 4, "principal components of the static features in it", 1, **both
    )
    flags.DEFINE_integer("front_end_order", 4, "columns for each of them", 1, **both)
    flags.DEFINE_float("front_end_theta_ms", 200.0, "its memory, ms of speech", 1, **both)
    flags.DEFINE_integer(
        "target_delay_frames", 0, "answer with the phone of so many frames ago", 0, **both
    )
    flags.DEFINE_float(
        "input_noise_std",
        0.0,
        "standard deviation of Gaussian noise on the (normalised) training features",
        0,
        **both,
    )
    flags.DEFINE_enum(
        "eprop",
        None,
        [rule for rule in eprop.RULES if rule != "bptt"],
        "e-prop with this feedback from the readout to the neurons; absent: BPTT",
        **both,
    )
    flags.DEFINE_bool(
        "reference_quirks", False, "compute what the authors' code does, see README", **both
    )
    flags.DEFINE_integer(
        "seed", -1, "seed of all random numbers; -1: a new one", -1, 2**31 - 1, **both
    )
    flags.DEFINE_integer("n_epochs", n_epochs, "passes over the training set", 0, **both)
    flags.DEFINE_integer("batch", 32, "utterances in a training batch", 1, **both)
    flags.DEFINE_integer("test_batch", 32, "utterances in an evaluation batch", 1, **both)
    flags.DEFINE_integer("print_every", 100, "iterations between evaluations", 1, **both)
    flags.DEFINE_integer(
        "truncT", -1, "train on random windows of this many frames; -1: whole utterances", **both
    )
    flags.DEFINE_bool("adam", True, "Adam, else gradient descent with momentum", **both)
    flags.DEFINE_float("lr_init", 0.01, "learning rate", 0, **both)
    flags.DEFINE_float(
        "cell_lr_factor", 1.0, "factor of it for the layers' weights, not the readout's", 0, **both
    )
    flags.DEFINE_bool(
        "ramping_learning_rate",
        ramping_learning_rate,
        f"raise the learning rate from 0 to lr_init over {N_RAMP_ITERATIONS} iterations",
        **both,
    )
    flags.DEFINE_integer(
        "lr_decay_every",
        lr_decay_every,
        "iterations between learning-rate decays; -1: none",
        **both,
    )
    flags.DEFINE_float("lr_decay", 0.3, "factor of a learning-rate decay", 0, **both)
    flags.DEFINE_float("adam_epsilon", 1e-5, "Adam's epsilon", 0, **both)
    flags.DEFINE_float("momentum", 0.9, "momentum, and Adam's beta1", 0, 0.9999, **both)
    flags.DEFINE_float("l2", 1e-5, "weight of the sum of squared weights in the loss", 0, **both)
    flags.DEFINE_float(
        "readout_decay",
        readout_decay,
        "adaptive e-prop: share of readout and feedback weights lost an iteration",
        0,
        1,
        **both,
    )
    flags.DEFINE_float("gd_noise", 0.036, "standard deviation of the gradient noise", 0, **both)
    flags.DEFINE_integer(
        "noise_step_start", -1, "iteration at which gradient noise starts; -1: never", -1, **both
    )
    flags.DEFINE_enum(
        "readout_init",
        "random",
        ["random", "ridge"],
        "first readout: random, or fitted to the training set by ridge regression",
        **both,
    )
    flags.DEFINE_string("checkpoint", "", "start from these weights: .npz or run folder", **both)
    flags.DEFINE_string(
        "resume",
        "",
        "run folder: continue the interrupted run there with its own flags; beside this flag only "
        f"{', '.join(RESUME_FLAGS)} may be given",
        **both,
    )
    flags.DEFINE_float(
        "checkpoint_every_s",
        120.0,
        "seconds between checkpoints for --resume, beside those at every evaluation",
        0,
        **both,
    )
    flags.DEFINE_string("results", "results", "folder of the run folders", **both)
    flags.DEFINE_string("comment", "", "goes into the run folder's name", **both)
    flags.DEFINE_string("run_id", "", "goes into the run folder's name", **both)
    flags.DEFINE_bool("plot", False, "draw the figures at every evaluation too", **both)
    flags.DEFINE_bool("verbose", True, "print losses and firing rates in detail", **both)
    flags.DEFINE_integer("cuda_device", -1, "sets CUDA_VISIBLE_DEVICES; -1: leaves it", -1, **both)
    flags.DEFINE_integer(
        "n_threads",
        0,
        "CPU threads; 0: NUMBA_NUM_THREADS, OMP_NUM_THREADS, or all the process may use",
        0,
        **both,
    )


# --------------------------------------------------------------------------- set-up


def set_up_devices(flag_values):
    """Choose threads and devices before TensorFlow starts; says what it chose.

    Returns:
        tf.distribute.Strategy: over all GPUs that are visible, over the machines that the
        environment variable TF_CONFIG names, or TensorFlow's default for one device.
    """
    if flag_values.cuda_device >= 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(flag_values.cuda_device)
    n_threads = flag_values.n_threads or event_driven.thread_count()
    os.environ["NUMBA_NUM_THREADS"] = str(n_threads)  # the event-driven engine reads it
    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(n_threads)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        print(f"training on {', '.join(gpu.name for gpu in gpus)}")
    else:
        print(f"no GPU visible: training on the CPU with {n_threads} thread(s)")
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif len(gpus) > 1:
        strategy = tf.distribute.MirroredStrategy()
    else:
        return tf.distribute.get_strategy()
    n_replicas = strategy.num_replicas_in_sync
    if n_replicas > flag_values.batch:
        raise UserError(
            f"--batch={flag_values.batch}: expected an utterance at least for each of {n_replicas} "
            "devices: give a larger one, or fewer devices in CUDA_VISIBLE_DEVICES or TF_CONFIG"
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


def set_up_seed(flag_values):
    """Seed Python, NumPy and TensorFlow; returns the seed, a new one where the flag is -1."""
    seed = flag_values.seed
    if seed < 0:
        seed = int(np.random.SeedSequence().entropy % 2**31)
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    return seed


def load_dataset(flag_values):
    """The data set that the flags name; says what it holds."""
    dataset = TimitDataset(
        flag_values.dataset,
        preproc=flag_values.preproc,
        reduced_phns=flag_values.reduced_phns,
        target_delay_frames=flag_values.target_delay_frames,
    )
    if flag_values.front_end:
        dataset.extend(
            front_end.make_front_end(
                flag_values.front_end,
                dataset.train.features,
                dataset.n_static,
                flag_values.front_end_channels,
                flag_values.front_end_order,
                flag_values.front_end_theta_ms,
            )
        )
    splits = {"train": dataset.train, "develop": dataset.develop, "test": dataset.test}
    sizes = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    print(f"utterances: {sizes}; {dataset.n_features} features; {dataset.n_phns} phone classes")
    if dataset.processing is not None:
        made_with = bool(dataset.processing.get("reference_quirks"))
        if made_with != flag_values.reference_quirks:
            print(
                f"note: {flag_values.dataset} was made with --reference_quirks={made_with}, "
                f"training runs with {flag_values.reference_quirks}"
            )
    return dataset


def check_flags(flag_values):
    """Raise UserError for values that their types and bounds let pass and that cannot work."""
    for name in ("truncT", "lr_decay_every"):
        value = getattr(flag_values, name)
        if value != -1 and value < 1:
            raise UserError(f"--{name}={value}: expected -1 (off) or at least 1")
    check_finite(flag_values)
    for name, value in flag_values.flag_values_dict().items():
        if isinstance(value, int) and value > MAX_INTEGER:
            raise UserError(f"--{name}={value}: expected {MAX_INTEGER} at most")
    if flag_values.seed == -1 and "TF_CONFIG" in os.environ:
        raise UserError("--seed=-1 with TF_CONFIG: each process would draw its own: give a --seed")
    for name in ("comment", "run_id"):
        if os.path.basename(getattr(flag_values, name)) != getattr(flag_values, name):
            raise UserError(f"--{name}={getattr(flag_values, name)}: expected part of a file name")
    if not flag_values.front_end:
        check_unread(flag_values, FRONT_END_FLAGS, "--front_end")


def check_unread(flag_values, names, needed):
    """Raise UserError if one of the flags that nothing reads without another one was given.

    Its default is no mistake, and a run that is resumed goes on with the flags it began with.

    Args:
        names: of the flags.
        needed: the flag that is missing, for a reader.
    """
    for name in names:
        flag = flag_values[name]
        if flag.value != flag.default and not flag_values.resume:
            raise UserError(
                f"--{name}={flag.value} without {needed}: nothing would read it; give {needed} "
                f"too, or leave out --{name}"
            )


def make_run_folder(flag_values, script, seed, dataset=None, held=None):
    """Create `results/<script>/<time>_<comment>/`, save what the run depends on; its path.

    `held` (contextlib.ExitStack), if given, gets the folder's lock.
    """
    time_stamp = datetime.datetime.now().strftime("%Y_%m_%d__%H_%M_%S_%f")
    name = "_".join(part for part in (time_stamp, flag_values.comment, flag_values.run_id) if part)
    path = os.path.join(flag_values.results, script, name)
    try:
        os.makedirs(path)
    except OSError as error:
        raise UserError(
            f"cannot create the run folder {path} ({error.strerror}): check --results, --comment "
            "and --run_id"
        ) from None
    if held is not None:  # before anything is there that could be resumed
        held.enter_context(_lock(path))
    settings = flag_values.flag_values_dict()
    for name in ("help", "h"):
        del settings[name]
    record = {
        "script": script,
        "flags": settings,
        "seed": seed,
        "command": sys.argv,
        **surroundings(dataset),
    }
    try:
        write_json(os.path.join(path, "flags.json"), record)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)  # it could not be resumed
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): make room, or choose other --results"
        ) from None
    print(f"run folder: {path}")
    return path


def surroundings(dataset=None):
    """What a result depends on beside flags and seed, as plain values for JSON."""
    return {
        "versions": {package: importlib.metadata.version(package) for package in _installed()},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "commit": _commit(),
        "threads": event_driven.thread_count(),
        "data_sha256": dataset and dataset.checksum,
    }


def read_record(folder):
    """Content of a run folder's `flags.json`.

    Raises:
        UserError: it is missing or no such record.
    """
    path = os.path.join(folder, "flags.json")
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"{path}: is no file: expected a run folder")
    try:
        if os.path.getsize(path) > 2**20:
            raise UserError(f"{path}: too large for the flags of a run")
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): expected a run folder"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is no JSON file: expected the flags of a run") from None
    types = {"script": str, "flags": dict, "seed": int, "versions": dict}
    if not (isinstance(record, dict) and all(type(record.get(n)) is t for n, t in types.items())):
        raise UserError(f"{path}: holds no {', '.join(types)}: expected the flags of a run")
    return record


def warn_of_differences(folder, record, now, names):
    """Print a warning for each of the named surroundings in which a run was made otherwise.

    Args:
        folder: its run folder.
        record: its `read_record`.
        now: `surroundings` of this process.
        names: keys of both. What the record lacks (it is older) differs in nothing.
    """
    for name in names:
        was, new = record.get(name), now[name]
        if was is None or was == new:
            continue
        if isinstance(was, dict) and isinstance(new, dict):
            packages = sorted(p for p in {*was, *new} if was.get(p) != new.get(p))
            what = ", ".join(f"{p} {new.get(p)} instead of {was.get(p)}" for p in packages)
        else:
            what = f"{name} {new} instead of {was}"
        if name == "data_sha256":
            what = f"other data ({what})"
        what = one_line(what)[:1000]  # the record may come from anywhere
        print(f"warning: not as when {folder} was made: {what}: results may differ")


def resumed_flags(flag_values, define_flags, script):
    """The flags of the run that `--resume` names, or these flags without it.

    Args:
        flag_values: parsed flags of the command line.
        define_flags: function that defines the script's flags.
        script: its name.

    Raises:
        UserError: flags beside `--resume` that could change the run; no run folder of this script.
    """
    folder = flag_values.resume
    if not folder:
        return flag_values
    given = [name for name in flag_values if flag_values[name].present and name != "resume"]
    for name in given:
        if name not in RESUME_FLAGS:
            raise UserError(
                f"--{name} beside --resume: a run goes on with its own flags, only "
                f"{', '.join(RESUME_FLAGS)} may be given; for others start a new run, perhaps "
                f"from its weights with --checkpoint={folder}"
            )
    record = read_record(folder)
    if record["script"] != script:
        raise UserError(
            f"--resume={folder}: is a run of {record['script']}.py: resume it with that script"
        )
    values = {
        **record["flags"],
        "seed": record["seed"],
        **{name: flag_values[name].value for name in given},
        "resume": folder,
    }
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    try:
        return parse_flags(define_flags, [script, *arguments])[0]
    except UserError as error:
        raise UserError(f"{os.path.join(folder, 'flags.json')}: {error}") from None


def _installed():
    """Those of `PACKAGES` that are installed under their name (TensorFlow has several)."""
    names = {
        distribution.metadata["Name"].replace("-", "_").lower()
        for distribution in importlib.metadata.distributions()
    }
    wanted = (*PACKAGES, "tensorflow_cpu")
    return [name for name in wanted if name in names]


def _commit():
    """Commit of the code that runs, `+changes` where files differ from it; None without git."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# --------------------------------------------------------------------------- weights on disk


def save_weights(path, network):
    """Write all weights of a network by name to an `.npz` file."""
    write_arrays(path, _values(network.weights()))


def write_arrays(path, arrays):
    """Write arrays by name to an `.npz` file."""
    with write_whole(path) as file:
        np.savez(file, **arrays)


def _values(variables):
    return {name: variable.numpy() for name, variable in variables.items()}


def load_weights(path, network):
    """Give a network the weights of an `.npz` file, or of a run folder's `best.npz`.

    Feedback weights are the learning rule's own: they are taken where both sides have them.

    Raises:
        UserError: no such file, no weights in it, or weights of another network.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "best.npz")
    expected = network.weights()
    n_bytes = sum(int(np.prod(v.shape)) * v.dtype.size for v in expected.values())
    try:
        # Weights may be float64, and those of another network deserve a message of their own.
        found = checkpoints.read_arrays(path, 16 * n_bytes + checkpoints.MIN_BYTES)
    except OSError as error:
        raise UserError(
            f"--checkpoint: cannot read {path} ({error.strerror}): name a weights file (.npz) or a "
            "run folder"
        ) from None
    except checkpoints.BadArraysError as error:
        raise UserError(
            f"--checkpoint: {path} holds no weights: it {error}: expected an .npz file"
        ) from None
    for name in (*expected, *found):
        if (name in found) != (name in expected) and name != "readout/feedback":
            relation = "has" if name in found else "has no"
            raise UserError(f"--checkpoint: {path} {relation} {name}: it is of another network")
    common = [name for name in expected if name in found]
    for name in common:
        variable = expected[name]
        if found[name].shape != tuple(variable.shape) or found[name].dtype.kind != "f":
            raise UserError(
                f"--checkpoint: {name} in {path} is {found[name].dtype} {found[name].shape}, "
                f"expected {variable.dtype.name} {tuple(variable.shape)}: it is of another network"
            )
        with np.errstate(over="ignore", under="ignore"):
            found[name] = found[name].astype(variable.dtype.as_numpy_dtype)
        if not np.isfinite(found[name]).all():
            raise UserError(f"--checkpoint: {name} in {path} holds NaN or infinite values")
    for name in common:
        expected[name].assign(found[name])


# --------------------------------------------------------------------------- steps


class _SlowedUpdates:
    """Mixin of a Keras optimiser: steps of some variables shrunk by a factor.

    Scaling their gradients would not do it, as Adam divides by the gradients' size.

    Args:
        slowed: the variables.
        factor: of their learning rate.
    """

    def __init__(self, slowed, factor, **options):
        super().__init__(**options)
        self._slowed = {self._var_key(variable) for variable in slowed}
        self._factor = factor

    def update_step(self, gradient, variable, learning_rate):
        if self._var_key(variable) in self._slowed:
            learning_rate *= self._factor
        super().update_step(gradient, variable, learning_rate)


class Adam(_SlowedUpdates, tf.keras.optimizers.Adam):
    pass


class Momentum(_SlowedUpdates, tf.keras.optimizers.SGD):
    pass


def make_optimizer(flag_values, network):
    """The optimiser of a network; its learning rate is set before every step.

    Args:
        flag_values: `adam`, `momentum`, `adam_epsilon` and `cell_lr_factor` are read.
        network: models.Network.
    """
    slowed = [weights for layer in network.layers for weights in layer.trainable_variables]
    factor = flag_values.cell_lr_factor
    if flag_values.adam:
        return Adam(slowed, factor, beta_1=flag_values.momentum, epsilon=flag_values.adam_epsilon)
    return Momentum(slowed, factor, momentum=flag_values.momentum)


def compute_gradients(network, variables, features, phns, seq_len, dropout_seed=None):
    """Output, losses and the total loss's gradients for `variables` (None where there is none)."""
    with tf.GradientTape() as tape:
        output = network(features, seq_len, dropout_seed)
        losses = network.losses(output, phns, seq_len)
        total = losses.total
    return output, losses, tape.gradient(total, variables)


def make_train_step(network, optimizer, variables, flag_values, seed):
    """Compile one step of training; one trace serves batches of all shapes.

    Under a `tf.distribute` strategy every replica is given the whole batch, takes its share of the
    utterances, and the gradients are summed: the step is the same on any number of devices, dropout
    excepted.

    Args:
        network: models.Network.
        optimizer: of `make_optimizer`.
        variables: what the step trains.
        flag_values: `input_noise_std`, `readout_decay`, `gd_noise` and `noise_step_start` are
            read.
        seed: of dropout and noise, which depend on it and the iteration alone.

    Returns:
        Function (features [batch, frames, n], phns [batch, frames], seq_len [batch],
        learning_rate, iteration) -> total loss.
    """
    optimizer.build(variables)
    strategy = tf.distribute.get_strategy()
    name_of = {variable.ref(): name for name, variable in network.weights().items()}
    names = [name_of[variable.ref()] for variable in variables]

    @tf.function(
        input_signature=[
            *_batch_signature(network),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def train_step(features, phns, seq_len, learning_rate, iteration):
        random_seed = tf.stack([seed, iteration])
        if flag_values.input_noise_std > 0:
            noise = _noise(features, flag_values.input_noise_std, random_seed, PLACE_INPUT)
            is_true = tf.sequence_mask(seq_len, tf.shape(features)[1], features.dtype)
            features += noise * is_true[:, :, None]
        optimizer.learning_rate.assign(learning_rate)
        loss = strategy.run(replica_step, (features, phns, seq_len, random_seed))
        network.after_update(flag_values.readout_decay)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)

    def replica_step(features, phns, seq_len, random_seed):
        replicas = tf.distribute.get_replica_context()
        place, n_replicas = replicas.replica_id_in_sync_group, replicas.num_replicas_in_sync
        share = slice(place, None, n_replicas)
        _, losses, gradients = compute_gradients(
            network,
            variables,
            features[share],
            phns[share],
            seq_len[share],
            dropout_seed=random_seed + [place, 0],
        )
        if flag_values.noise_step_start >= 0:
            iteration = random_seed[1]
            is_noisy = iteration >= flag_values.noise_step_start
            std = tf.where(is_noisy, flag_values.gd_noise / n_replicas, 0)
            gradients = [
                g + _noise(g, std, random_seed, PLACE_GRADIENTS + k)
                for k, g in enumerate(gradients)
            ]
        with health.only_if_finite(losses, gradients, names):
            optimizer.apply_gradients(zip(gradients, variables))  # sums them over the replicas
        return losses.total

    return train_step


def _batch_signature(network):
    """Features, phones and lengths of a batch of any size."""
    return [
        tf.TensorSpec([None, None, network.n_features], network.readout.w_out.dtype),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None], tf.int32),
    ]


def _noise(x, standard_deviation, random_seed, place):
    """Gaussian noise of the shape of `x`, another for each `place`."""
    seed = tf.random.experimental.stateless_fold_in(random_seed, place)
    noise = tf.random.stateless_normal(tf.shape(x), seed, dtype=x.dtype)
    return tf.cast(standard_deviation, x.dtype) * noise


# --------------------------------------------------------------------------- evaluation


class Evaluation(NamedTuple):
    """Metrics of one split, as the module's docstring defines them."""

    frame_error: float
    frame_error_39: float
    loss: float
    prediction_loss: float
    rate_loss: float
    rates_hz: np.ndarray  # [n_out], or None for cells that do not spike
    confusion: np.ndarray  # [39, 39] frames, rows = true phone


def make_evaluation(network, dataset, batch_size, before_batch=lambda: None):
    """Compile the evaluation of a split; returns a function split -> Evaluation.

    `before_batch` is called before each batch of it; what it raises ends the evaluation.
    """

    @tf.function(input_signature=_batch_signature(network))
    def classify(features, phns, seq_len):
        output = network(features, seq_len)
        return (
            tf.argmax(output.logits, -1),
            network.prediction_loss(output.logits, phns, seq_len),
            *network.activity_sums(output, seq_len),
        )

    # The authors' LSNN has a class more than there are phones; it is always wrong.
    fold = np.append(dataset.fold_to_reduced, -1)
    n_reduced = len(dataset.reduced_phn_list)

    def evaluate(split):
        error = error_39 = prediction_loss = n_frames = 0.0
        activity = 0.0
        confusion = np.zeros((n_reduced, n_reduced), np.int64)
        # The authors' padding counts: there it would matter who shares a batch.
        for batch in split.batches(batch_size, by_length=not network.reference_quirks):
            before_batch()
            predicted, losses, batch_activity, batch_frames = (
                x.numpy() for x in classify(batch.features, batch.phns, batch.seq_len)
            )
            is_true = np.arange(batch.phns.shape[1]) < batch.seq_len[:, None]
            true_39, predicted_39 = fold[batch.phns], fold[predicted]
            error += np.sum(np.sum(is_true & (predicted != batch.phns), 1) / batch.seq_len)
            error_39 += np.sum(np.sum(is_true & (predicted_39 != true_39), 1) / batch.seq_len)
            counted = is_true & (predicted_39 >= 0)
            np.add.at(confusion, (true_39[counted], predicted_39[counted]), 1)
            prediction_loss += np.sum(losses)
            activity = activity + batch_activity
            n_frames += batch_frames
        n_utterances = len(split)
        mean_activity = (activity / n_frames).astype(np.float32)
        rate_loss = float(network.rate_loss(tf.constant(mean_activity)))
        prediction_loss = float(prediction_loss / n_utterances)
        return Evaluation(
            frame_error=float(error / n_utterances),
            frame_error_39=float(error_39 / n_utterances),
            loss=prediction_loss + rate_loss + float(network.l2_loss()),
            prediction_loss=prediction_loss,
            rate_loss=rate_loss,
            rates_hz=1000 * mean_activity if network.is_spiking else None,
            confusion=confusion,
        )

    return evaluate


# --------------------------------------------------------------------------- the loop


def learning_rate(flag_values, iteration):
    """Learning rate of an iteration, counted from 0: ramp, then a decay every so often.

    The ramp starts at 0, as the authors' does: the first step only fills Adam's moments.
    """
    rate = flag_values.lr_init
    if flag_values.ramping_learning_rate:
        rate *= min(iteration / (N_RAMP_ITERATIONS - 1), 1)
    if flag_values.lr_decay_every > 0:
        rate *= flag_values.lr_decay ** (iteration // flag_values.lr_decay_every)
    return rate


def random_windows(batch, n_frames, random_generator):
    """Cut a random window of at most `n_frames` frames out of every utterance of a batch."""
    seq_len = np.minimum(batch.seq_len, n_frames)
    starts = random_generator.integers(0, batch.seq_len - seq_len + 1)
    rows = np.minimum(
        starts[:, None] + np.arange(seq_len.max()), batch.features.shape[1] - 1
    )  # [batch, window]
    is_true = np.arange(seq_len.max()) < seq_len[:, None]
    utterances = np.arange(len(seq_len))[:, None]
    return Batch(
        features=batch.features[utterances, rows] * is_true[:, :, None],
        phns=batch.phns[utterances, rows] * is_true,
        seq_len=seq_len,
    ).named(batch.names)


def training_batches(dataset, flag_values, seed, first_iteration=0):
    """Batches of all epochs with their epoch, shuffled anew in each, from an iteration on.

    Utterances of similar length share a batch, except with `reference_quirks`.
    """
    first_epoch, n_done = divmod(first_iteration, dataset.n_training_batches(flag_values.batch))
    for epoch in range(first_epoch, flag_values.n_epochs):
        batches = _epoch_batches(dataset, flag_values, seed, epoch)
        # The batches before are made and dropped: windows are drawn from one generator in turn.
        for batch in itertools.islice(batches, n_done if epoch == first_epoch else 0, None):
            yield epoch, batch


def _epoch_batches(dataset, flag_values, seed, epoch):
    random_generator = np.random.default_rng([seed, STREAM_SHUFFLING, epoch])
    for batch in dataset.training_batches(
        flag_values.batch, random_generator, by_length=not flag_values.reference_quirks
    ):
        if flag_values.truncT > 0:
            batch = random_windows(batch, flag_values.truncT, random_generator)
        yield batch


def run(
    flag_values,
    script,
    make_network,
    trained_part=lambda network: network,
    measure_memory=False,
):
    """One experiment from its flags to its metrics; both scripts' way through this module.

    Args:
        flag_values: those of `define_flags` and the script's own.
        script: its name, for the run folder.
        make_network: function (flag_values, dataset, seed) -> models.Network.
        trained_part: function that gives the part of the network to train, a tf.Module.
        measure_memory: see `train`.
    """
    with contextlib.ExitStack() as held:
        folder = flag_values.resume
        is_chief = worker_index() == 0
        if folder and is_chief:
            held.enter_context(_lock(folder))
        if folder and os.path.exists(os.path.join(folder, "metrics.json")):
            checkpoints.remove(folder)  # where a kill came between the two
            print(f"{folder}: this run has ended, there is nothing to resume")
            return
        if not is_chief:  # it computes the same, and what it writes is dropped
            scratch = held.enter_context(tempfile.TemporaryDirectory())
            if folder:
                # Hidden files are the chief's lock and what it clears away.
                hidden = shutil.ignore_patterns(".*")
                shutil.copytree(folder, scratch, dirs_exist_ok=True, ignore=hidden)
            folder = scratch
        elif folder:
            remove_leftovers(folder)
        dataset = load_dataset(flag_values)
        strategy = set_up_devices(flag_values)
        if strategy.num_replicas_in_sync > 1:
            held.enter_context(strategy.scope())
        seed = set_up_seed(flag_values)
        network = make_network(flag_values, dataset, seed)
        if flag_values.checkpoint and not checkpoints.exists(folder):
            load_weights(flag_values.checkpoint, network)
            _compare_with_source(flag_values.checkpoint, dataset)
        if flag_values.readout_init == "ridge" and not checkpoints.exists(folder):
            ridge_readout.fit_readout(network, dataset.train, flag_values.test_batch)
        if flag_values.resume and is_chief:
            _note_resumption(folder, dataset)
        elif is_chief:
            folder = make_run_folder(flag_values, script, seed, dataset, held)
        variables = trained_part(network).trainable_variables
        train(network, dataset, flag_values, seed, folder, variables, measure_memory)


def _lock(folder):
    return run_lock.exclusive(os.path.join(folder, ".lock"), folder)


def _compare_with_source(checkpoint, dataset):
    """Warn if weights come from a run on other data or with other package versions."""
    folder = checkpoint if os.path.isdir(checkpoint) else os.path.dirname(checkpoint)
    if os.path.exists(os.path.join(folder, "flags.json")):
        try:
            record = read_record(folder)
        except UserError as error:
            print(f"note: {error}")
            return
        warn_of_differences(folder, record, surroundings(dataset), ("data_sha256", "versions"))


def _note_resumption(folder, dataset):
    """Warn of what has changed since the run was started, and note it in `flags.json`."""
    record, now = read_record(folder), surroundings(dataset)
    warn_of_differences(folder, record, now, now)
    past = record.get("resumed", [])
    changed = {name: value for name, value in now.items() if value != record.get(name)}
    time_stamp = datetime.datetime.now().isoformat(" ", "seconds")
    record["resumed"] = [*(past if isinstance(past, list) else []), {"time": time_stamp, **changed}]
    with _told_how_to_continue(folder):
        write_json(os.path.join(folder, "flags.json"), record)


@contextlib.contextmanager
def _told_how_to_continue(folder):
    """Add the command that continues a run to an interruption or an error of writing.

    Raises:
        Interrupted, UserError, MemoryError: in place of what came.
    """
    command = f"python3 {shlex.quote(sys.argv[0])} --resume={shlex.quote(folder)}"
    try:
        yield
    except Interrupted as interruption:
        raise Interrupted(interruption.signal_number, f"continue with: {command}") from None
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(one_line(error.message)[:200]) from None
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise UserError(
            "another of the processes that TF_CONFIG names has ended "
            f"({type(error).__name__}): stop all of them and start them again, with --resume={folder}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); what was written before is "
            f"intact: make room, then continue with: {command}"
        ) from None


def _optimizer_state(optimizer):
    """The optimiser's variables by a name that does not depend on the process."""
    return {f"{i}_{variable.name}": variable for i, variable in enumerate(optimizer.variables)}


def _restore(folder, network, optimizer):
    """Put a run's last checkpoint into network, optimiser and run folder; its progress.

    Without a checkpoint the run starts from its beginning.
    """
    kinds = [network.weights(), _optimizer_state(optimizer)]
    found = checkpoints.load(
        folder,
        *({n: (v.shape, np.dtype(v.numpy().dtype)) for n, v in kind.items()} for kind in kinds),
    )
    if found is None:
        for name in ("metrics.jsonl", "best.npz"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        return checkpoints.Progress()
    *arrays, progress = found
    for variables, values in zip(kinds, arrays):
        for name, variable in variables.items():
            variable.assign(values[name])
    with write_whole(os.path.join(folder, "metrics.jsonl"), "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in progress.evaluations)
    if progress.evaluations:
        write_arrays(os.path.join(folder, "best.npz"), progress.best_weights)
    return progress


def train(network, dataset, flag_values, seed, folder, variables, measure_memory=False):
    """Train a network, select on the development set, then read the test set once.

    Where the folder holds a checkpoint, training goes on from it. Ctrl-C and SIGTERM end it after
    the running step, with a checkpoint.

    Args:
        network: models.Network.
        dataset: TimitDataset.
        flag_values: those of `define_flags`.
        seed: of shuffling, windows, dropout and noise.
        folder: run folder; gets `metrics.jsonl` (a line an evaluation), `metrics.json`,
            `best.npz`, `last.npz`, `learning_curve.png` and `confusion_matrix.png`, and until
            the end `checkpoint.npz` and `checkpoint_before.npz`.
        variables: what is trained.
        measure_memory: write `memory.json` and `memory.png`, what an LSNN's first layer remembers
            before training and after it.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: the folder cannot be written; a loss, gradient or weight is NaN or infinite.
        command_line.Interrupted: a signal came.
    """
    with _told_how_to_continue(folder), deferred_signals() as stop_if_asked:
        return _train(
            network, dataset, flag_values, seed, folder, variables, measure_memory, stop_if_asked
        )


def _train(network, dataset, flag_values, seed, folder, variables, measure_memory, stop_if_asked):
    n_iterations = flag_values.n_epochs * dataset.n_training_batches(flag_values.batch)
    optimizer = make_optimizer(flag_values, network)
    train_step = make_train_step(network, optimizer, variables, flag_values, seed)
    evaluate = make_evaluation(network, dataset, flag_values.test_batch, stop_if_asked)
    majority_error = dataset.majority_error(dataset.develop)
    n_parameters = sum(int(np.prod(v.shape)) for v in variables)
    print(f"trained parameters: {n_parameters}; iterations: {n_iterations}")
    weights = network.weights()
    advice = (
        "try a smaller --lr_init in a new run, perhaps from the best weights so far with "
        f"--checkpoint={folder}; the last good checkpoint stays there"
    )
    progress = _restore(folder, network, optimizer)
    if progress.iteration > n_iterations:
        raise UserError(
            f"{folder}: its checkpoint is of iteration {progress.iteration} of {n_iterations}: "
            "expected --dataset to name the data of this run"
        )
    if flag_values.resume:
        print(f"resumed at iteration {progress.iteration} of {n_iterations}")
    if measure_memory and progress.iteration == 0:
        record_memory(folder, network, dataset, "before")  # a resumed run finds it there
    saved, saved_s = None, time.monotonic()

    def save_checkpoint():
        nonlocal saved, saved_s
        state = progress.iteration, progress.is_evaluated
        if state == saved:  # a second copy would push out the one before
            return
        try:
            checkpoints.save(
                folder, _values(weights), _values(_optimizer_state(optimizer)), progress
            )
        except checkpoints.BadArraysError as error:
            raise UserError(f"iteration {progress.iteration}: {error}: {advice}") from None
        saved, saved_s = state, time.monotonic()

    def evaluate_and_record(epoch):
        develop = evaluate(dataset.develop)
        if not math.isfinite(develop.loss):
            raise UserError(
                f"iteration {progress.iteration}: the development loss is {develop.loss}: {advice}"
            )
        record = _record(
            develop,
            epoch,
            progress.iteration,
            flag_values,
            progress.seconds,
            progress.train_losses,
        )
        progress.evaluations.append(record)
        progress.train_losses.clear()
        append_line(os.path.join(folder, "metrics.jsonl"), json.dumps(record))
        if progress.best is record:
            progress.best_weights = _values(weights)
            write_arrays(os.path.join(folder, "best.npz"), progress.best_weights)
        bar.write(_line(record, flag_values.verbose))
        if network.is_spiking:
            for line in health.rate_warnings(network, develop.rates_hz, progress.rate_states):
                bar.write(line)
        save_checkpoint()
        if flag_values.plot:
            _draw_learning_curve(folder, progress.evaluations, majority_error)
            draw_utterance(folder, network, dataset)

    with progress_bar(
        total=n_iterations, initial=progress.iteration, unit="it", desc="training"
    ) as bar:
        try:
            batches = training_batches(dataset, flag_values, seed, progress.iteration)
            for epoch, batch in one_ahead(batches):
                iteration = progress.iteration
                if iteration % flag_values.print_every == 0 and not progress.is_evaluated:
                    evaluate_and_record(epoch)
                elif time.monotonic() - saved_s >= flag_values.checkpoint_every_s:
                    save_checkpoint()
                stop_if_asked()
                start = time.perf_counter()
                with health.failures_explained(iteration, epoch, batch, weights, advice):
                    rate = learning_rate(flag_values, iteration)
                    loss = float(train_step(*batch, rate, iteration))
                progress.seconds.append(time.perf_counter() - start)
                progress.train_losses.append(loss)
                progress.epoch = epoch
                progress.iteration += 1
                bar.update()
                bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}")
            if not progress.is_evaluated:
                evaluate_and_record(progress.epoch)
        except Interrupted as interruption:
            if not interruption.is_urgent:  # else a step may be half done
                save_checkpoint()
            raise

    best = progress.best
    save_weights(os.path.join(folder, "last.npz"), network)
    remembered = record_memory(folder, network, dataset, "after") if measure_memory else {}
    load_weights(os.path.join(folder, "best.npz"), network)
    test = evaluate(dataset.test)
    _draw_learning_curve(folder, progress.evaluations, majority_error)
    task_figures.plot_confusion_matrix(
        os.path.join(folder, "confusion_matrix.png"),
        test.confusion,
        dataset.reduced_phn_list,
        f"test set, frame error {test.frame_error_39:.3f}",
    )
    draw_utterance(folder, network, dataset)
    metrics = {
        "best_develop_frame_error": best["develop_frame_error"],
        "test_frame_error": test.frame_error,
        "best_develop_frame_error_39": best["develop_frame_error_39"],
        "test_frame_error_39": test.frame_error_39,
        "initial_develop_frame_error": progress.evaluations[0]["develop_frame_error"],
        "majority_develop_frame_error": majority_error,
        "best_iteration": best["iteration"],
        "iterations": progress.iteration,
        "test_loss": test.loss,
        "seconds_per_iteration": (
            statistics.median(progress.seconds) if progress.seconds else None
        ),
        "peak_memory_gb": peak_memory_gb(),
        "trained_parameters": n_parameters,
        "seed": seed,
        **{
            f"memory_capacity_{when}": measured["memory_capacity_channels"]
            for when, measured in remembered.items()
        },
    }
    write_json(os.path.join(folder, "metrics.json"), metrics)
    checkpoints.remove(folder)
    print(
        f"selected iteration {best['iteration']}: frame error develop "
        f"{metrics['best_develop_frame_error']:.3f} (commonest phone {majority_error:.3f}), "
        f"test {metrics['test_frame_error']:.3f}"
        + ("" if flag_values.reduced_phns else f" (39 classes {test.frame_error_39:.3f})")
    )
    return metrics


def record_memory(folder, network, dataset, when):
    """Measure what an LSNN's first layer remembers; note it in a run folder's `memory.json`.

    Readouts are fitted to the training speakers and judged by those of the development set; the
    channels are the training set's first principal components.

    Args:
        when: "before" training or "after" it; then the figure is drawn too.

    Returns:
        The file's content, `when` -> what `memory.measure` returns; {} where the splits are too
        small to measure anything, which is told.
    """
    layer = network.layers[0]
    w_in = layer.w_in.numpy()
    splits = dataset.train, dataset.develop
    try:
        measured = memory.measure(
            [features for split in splits for features in split.features],
            [phns for split in splits for phns in split.phns],
            [entry["speaker"] for split in splits for entry in split.metadata],
            np.repeat([False, True], [len(split) for split in splits]),
            w_in,
            np.zeros((*w_in.shape[::2], w_in.shape[2])) if layer.w_rec is None else layer.w_rec,
            network.parameters,
            memory.principal_directions(
                dataset.train.features, dataset.n_static, min(MEMORY_CHANNELS, dataset.n_static)
            ),
            dataset.n_phns,
        )
    except UserError as error:
        print(f"note: {error}")
        return {}
    path = os.path.join(folder, "memory.json")
    record = {}
    if when == "after" and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    record[when] = measured
    write_json(path, record)
    if when == "after":
        curves = {f"{when} training": r["r2_channels"] for when, r in record.items()}
        lmu_figures.plot_memory(os.path.join(folder, "memory.png"), curves)
    return record


def _record(develop, epoch, iteration, flag_values, seconds, train_losses):
    """A line of metrics.jsonl."""
    record = {
        "epoch": epoch,
        "iteration": iteration,
        "develop_frame_error": develop.frame_error,
        "develop_frame_error_39": develop.frame_error_39,
        "develop_loss": develop.loss,
        "develop_prediction_loss": develop.prediction_loss,
        "develop_rate_loss": develop.rate_loss,
        "train_loss": statistics.mean(train_losses) if train_losses else None,
        "learning_rate": learning_rate(flag_values, iteration),
        "seconds_per_iteration": statistics.median(seconds) if seconds else None,
    }
    if develop.rates_hz is not None:
        for name in ("min", "max", "mean", "std"):
            record[f"rate_hz_{name}"] = float(getattr(np, name)(develop.rates_hz))
    return record


def _line(record, verbose):
    """An evaluation for a reader."""
    seconds = record["seconds_per_iteration"]
    line = (
        f"epoch {record['epoch']:3d}  iteration {record['iteration']:5d}  "
        + (f"{seconds:.2f} s/iteration  " if seconds is not None else "")
        + f"develop: frame error {record['develop_frame_error']:.3f}, "
        f"loss {record['develop_loss']:.3f}"
    )
    if verbose:
        line += f" (classification {record['develop_prediction_loss']:.3f})"
        line += f", learning rate {record['learning_rate']:.2g}"
        if "rate_hz_mean" in record:
            line += (
                f"\n    firing rates (Hz): min {record['rate_hz_min']:.0f}, "
                f"max {record['rate_hz_max']:.0f}, mean {record['rate_hz_mean']:.1f} "
                f"+- {record['rate_hz_std']:.1f} over neurons; their loss "
                f"{record['develop_rate_loss']:.2g}"
            )
    return line


def peak_memory_gb():
    """Largest resident memory of this process so far, in GB (1e9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in kibibytes


def _draw_learning_curve(folder, evaluations, majority_error):
    figures.plot_learning_curve(
        os.path.join(folder, "learning_curve.png"), evaluations, majority_error
    )


def draw_utterance(folder, network, dataset):
    """Draw what an LSNN does with the first development utterance; nothing for other networks."""
    if not network.is_spiking:
        return
    batch = next(dataset.develop.batches(1))
    text = dataset.develop.metadata[0].get("text")
    output = network(batch.features, batch.seq_len, with_spikes=True)
    task_figures.plot_lsnn_utterance(
        os.path.join(folder, "lsnn_utterance.png"),
        features=batch.features[0],
        spikes=output.spikes[0][0].numpy() > 0,
        phns=batch.phns[0],
        predictions=tf.argmax(output.logits[0], -1).numpy(),
        logits=output.logits[0].numpy(),
        class_names=dataset.phn_list,
        n_repeat=network.parameters.n_repeat,
        n_regular=network.n_regular,
        n_directions=network.layers[0].n_directions,
        title=one_line(f"{dataset.develop.names[0]}: {text if isinstance(text, str) else ''}"),
    )
