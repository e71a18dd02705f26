"""What both training scripts share: flags, devices, run folder, and the one training loop.

Metrics (fractions unless a unit is given; all of them averaged over utterances, each of which
counts once however long it is):

frame_error        share of an utterance's frames whose most probable class is wrong
frame_error_39     the same after folding 61 phones to 39 (equal when 39 are trained)
loss               prediction + rate regularisation + L2; prediction is the mean cross entropy of
                   an utterance's frames, in nats
rate_hz_*          firing rates over the neurons of the set, in spikes per simulated second
"""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags

import eprop
import event_driven
import figures
from command_line import UserError, check_finite, progress_bar
from durable_files import write_json, write_whole
from timit_dataset import PREPROC_CHOICES, Batch, TimitDataset

N_RAMP_ITERATIONS = 100
PACKAGES = (
    "tensorflow",
    "keras",
    "numba",
    "numpy",
    "scipy",
    "python_speech_features",
    "soundfile",
)
# Streams of random numbers that one seed feeds; a stream more leaves the others as they are.
STREAM_WEIGHTS, STREAM_SHUFFLING, STREAM_TIME_CONSTANTS = range(3)


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
    flags.DEFINE_string("checkpoint", "", "start from these weights: .npz or run folder", **both)
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
    """Choose threads and devices before TensorFlow starts; says what it chose."""
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
        print(f"training on {gpus[0].name}")
    else:
        print(f"no GPU visible: training on the CPU with {n_threads} thread(s)")


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
        flag_values.dataset, preproc=flag_values.preproc, reduced_phns=flag_values.reduced_phns
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
    for name in ("comment", "run_id"):
        if os.path.basename(getattr(flag_values, name)) != getattr(flag_values, name):
            raise UserError(f"--{name}={getattr(flag_values, name)}: expected part of a file name")


def make_run_folder(flag_values, script, seed):
    """Create `results/<script>/<time>_<comment>/`, save what the run depends on; its path."""
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
    settings = flag_values.flag_values_dict()
    for name in ("help", "h"):
        del settings[name]
    write_json(
        os.path.join(path, "flags.json"),
        {
            "script": script,
            "flags": settings,
            "seed": seed,
            "command": sys.argv,
            "versions": {package: importlib.metadata.version(package) for package in _installed()},
            "python": platform.python_version(),
            "machine": platform.platform(),
            "commit": _commit(),
        },
    )
    print(f"run folder: {path}")
    return path


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
    here = os.path.dirname(os.path.abspath(__file__))
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
    with write_whole(path) as file:
        np.savez(file, **{name: w.numpy() for name, w in network.weights().items()})


def load_weights(path, network):
    """Give a network the weights of an `.npz` file, or of a run folder's `best.npz`.

    Feedback weights are the learning rule's own: they are taken where both sides have them.

    Raises:
        UserError: no such file, no weights in it, or weights of another network.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "best.npz")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except OSError as error:
        raise UserError(
            f"--checkpoint: cannot read {path} ({error.strerror}): name a weights file (.npz) or a "
            "run folder"
        ) from None
    except Exception:  # np.load and zipfile raise many kinds for a file that is no archive
        raise UserError(f"--checkpoint: {path} holds no weights: expected an .npz file") from None
    expected = network.weights()
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
    for name in common:
        expected[name].assign(found[name])


# --------------------------------------------------------------------------- steps


def make_optimizer(adam, momentum, adam_epsilon):
    """The optimiser; its learning rate is set before every step."""
    if adam:
        return tf.keras.optimizers.Adam(beta_1=momentum, epsilon=adam_epsilon)
    return tf.keras.optimizers.SGD(momentum=momentum)


def compute_gradients(network, variables, features, phns, seq_len, dropout_seed=None):
    """Output, losses and the total loss's gradients for `variables` (None where there is none)."""
    with tf.GradientTape() as tape:
        output = network(features, seq_len, dropout_seed)
        losses = network.losses(output, phns, seq_len)
        total = losses.total
    return output, losses, tape.gradient(total, variables)


def make_train_step(network, optimizer, variables, flag_values, seed):
    """Compile one step of training; one trace serves batches of all shapes.

    Args:
        network: models.Network.
        optimizer: of `make_optimizer`.
        variables: what the step trains.
        flag_values: `readout_decay`, `gd_noise` and `noise_step_start` are read.
        seed: of dropout and gradient noise, which depend on it and the iteration alone.

    Returns:
        Function (features [batch, frames, n], phns [batch, frames], seq_len [batch],
        learning_rate, iteration) -> total loss.
    """
    optimizer.build(variables)

    @tf.function(
        input_signature=[
            *_batch_signature(network),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def train_step(features, phns, seq_len, learning_rate, iteration):
        random_seed = tf.stack([seed, iteration])
        _, losses, gradients = compute_gradients(
            network, variables, features, phns, seq_len, dropout_seed=random_seed
        )
        if flag_values.noise_step_start >= 0:
            is_noisy = tf.cast(iteration >= flag_values.noise_step_start, tf.float32)
            gradients = [
                g + is_noisy * _noise(g, flag_values.gd_noise, random_seed, place)
                for place, g in enumerate(gradients)
            ]
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply_gradients(zip(gradients, variables))
        network.after_update(flag_values.readout_decay)
        return losses.total

    return train_step


def _batch_signature(network):
    """Features, phones and lengths of a batch of any size."""
    return [
        tf.TensorSpec([None, None, network.n_features], tf.float32),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None], tf.int32),
    ]


def _noise(gradient, standard_deviation, random_seed, place):
    """Gaussian noise of the gradient's shape, another for each place in the list of gradients."""
    # Dropout folds small numbers into the same seed.
    seed = tf.random.experimental.stateless_fold_in(random_seed, 1000 + place)
    return tf.random.stateless_normal(tf.shape(gradient), seed, stddev=standard_deviation)


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


def make_evaluation(network, dataset, batch_size):
    """Compile the evaluation of a split; returns a function split -> Evaluation."""

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
        for batch in split.batches(batch_size):
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
    )


def training_batches(dataset, flag_values, seed):
    """Batches of all epochs with their epoch, shuffled anew in each."""
    for epoch in range(flag_values.n_epochs):
        random_generator = np.random.default_rng([seed, STREAM_SHUFFLING, epoch])
        for batch in dataset.training_batches(flag_values.batch, random_generator):
            if flag_values.truncT > 0:
                batch = random_windows(batch, flag_values.truncT, random_generator)
            yield epoch, batch


def run(flag_values, script, make_network, trained_part=lambda network: network):
    """One experiment from its flags to its metrics; both scripts' way through this module.

    Args:
        flag_values: those of `define_flags` and the script's own.
        script: its name, for the run folder.
        make_network: function (flag_values, dataset, seed) -> models.Network.
        trained_part: function that gives the part of the network to train, a tf.Module.
    """
    dataset = load_dataset(flag_values)
    set_up_devices(flag_values)
    seed = set_up_seed(flag_values)
    network = make_network(flag_values, dataset, seed)
    if flag_values.checkpoint:
        load_weights(flag_values.checkpoint, network)
    folder = make_run_folder(flag_values, script, seed)
    variables = trained_part(network).trainable_variables
    train(network, dataset, flag_values, seed, folder, variables)


def train(network, dataset, flag_values, seed, folder, variables):
    """Train a network, select on the development set, then read the test set once.

    Args:
        network: models.Network.
        dataset: TimitDataset.
        flag_values: those of `define_flags`.
        seed: of shuffling, windows, dropout and noise.
        folder: run folder; gets `metrics.jsonl` (a line an evaluation), `metrics.json`,
            `best.npz`, `last.npz`, `learning_curve.png` and `confusion_matrix.png`.
        variables: what is trained.

    Returns:
        The content of `metrics.json`.
    """
    n_iterations = flag_values.n_epochs * dataset.n_training_batches(flag_values.batch)
    optimizer = make_optimizer(flag_values.adam, flag_values.momentum, flag_values.adam_epsilon)
    train_step = make_train_step(network, optimizer, variables, flag_values, seed)
    evaluate = make_evaluation(network, dataset, flag_values.test_batch)
    majority_error = dataset.majority_error(dataset.develop)
    n_parameters = sum(int(np.prod(v.shape)) for v in variables)
    print(f"trained parameters: {n_parameters}; iterations: {n_iterations}")

    evaluations, seconds, train_losses = [], [], []

    def evaluate_and_record(epoch, iteration):
        develop = evaluate(dataset.develop)
        evaluations.append(_record(develop, epoch, iteration, flag_values, seconds, train_losses))
        train_losses.clear()
        with open(os.path.join(folder, "metrics.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(evaluations[-1]) + "\n")
        best = min(evaluations, key=lambda e: e["develop_frame_error"])
        if best is evaluations[-1]:
            save_weights(os.path.join(folder, "best.npz"), network)
        bar.write(_line(evaluations[-1], flag_values.verbose))
        if flag_values.plot:
            _draw_learning_curve(folder, evaluations, majority_error)
            draw_utterance(folder, network, dataset)
        return best

    with progress_bar(total=n_iterations, unit="it", desc="training") as bar:
        iteration, epoch = 0, 0
        for epoch, batch in training_batches(dataset, flag_values, seed):
            if iteration % flag_values.print_every == 0:
                evaluate_and_record(epoch, iteration)
            start = time.perf_counter()
            loss = train_step(*batch, learning_rate(flag_values, iteration), iteration).numpy()
            seconds.append(time.perf_counter() - start)
            if not np.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} in iteration {iteration}: try a smaller --lr_init; the "
                    f"best weights so far are in {os.path.join(folder, 'best.npz')}"
                )
            train_losses.append(float(loss))
            iteration += 1
            bar.update()
            bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}")
        best = evaluate_and_record(epoch, iteration)

    save_weights(os.path.join(folder, "last.npz"), network)
    load_weights(os.path.join(folder, "best.npz"), network)
    test = evaluate(dataset.test)
    _draw_learning_curve(folder, evaluations, majority_error)
    figures.plot_confusion_matrix(
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
        "initial_develop_frame_error": evaluations[0]["develop_frame_error"],
        "majority_develop_frame_error": majority_error,
        "best_iteration": best["iteration"],
        "iterations": iteration,
        "test_loss": test.loss,
        "seconds_per_iteration": statistics.median(seconds) if seconds else None,
        "peak_memory_gb": peak_memory_gb(),
        "trained_parameters": n_parameters,
        "seed": seed,
    }
    write_json(os.path.join(folder, "metrics.json"), metrics)
    print(
        f"selected iteration {best['iteration']}: frame error develop "
        f"{metrics['best_develop_frame_error']:.3f} (commonest phone {majority_error:.3f}), "
        f"test {metrics['test_frame_error']:.3f}"
        + ("" if flag_values.reduced_phns else f" (39 classes {test.frame_error_39:.3f})")
    )
    return metrics


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
    output = network(batch.features, batch.seq_len, with_spikes=True)
    figures.plot_lsnn_utterance(
        os.path.join(folder, "lsnn_utterance.png"),
        features=batch.features[0],
        spikes=output.spikes[0][0].numpy() > 0,
        phns=batch.phns[0],
        predictions=tf.argmax(output.logits[0], -1).numpy(),
        logits=output.logits[0].numpy(),
        class_names=dataset.phn_list,
        n_repeat=network.parameters.n_repeat,
        n_regular=network.n_regular,
        title=f"{dataset.develop.names[0]}: {dataset.develop.metadata[0]['text']}",
    )
