"""Permuted sequential MNIST: which digit is it, after its pixels have come one at a time?

A digit's pixels come in an order that is drawn once for all digits (or row by row), one a frame,
and the answer is that of the last frame.

error              share of the digits that are answered wrong (fraction)

The loss of a digit is the cross entropy of its answer, in nats. A pixel x_t, 0 (paper) to 1 (ink),
is given to the network as (1) itself or as (2) a population, and (3), with a memory, as the past:

    raw            x_t                                                                (1)
    population     x_t;  1;  exp(-((x_t - c) / width)^2) for 6 centres c from 0 to 1;
                   max(x_t - x_{t-1}, 0);  max(x_{t-1} - x_t, 0)                      (2)
    memory         m_t = Ad m_{t-1} + Bd x_t, each column divided by its root mean square,
                   measured on the first 1,000 training digits                        (3)
"""

import hashlib
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tasks import digits, figures
from toolbox.command_line import UserError

SIDES = (28, 14, 8)
CENTRES, WIDTH = np.linspace(0, 1, 6, dtype=np.float32), np.float32(0.15)
N_MEASURED = 1000  # digits, by which the memory's columns are scaled


def define_flags(define):
    """Define the flags of the data; `define` is a command_line.Definer."""
    define.path(
        "dataset",
        "",
        "Keras' mnist.npz, or folder of MNIST's four IDX files; none: the digits of scikit-learn",
    )
    define.enum(
        "side",
        None,
        [str(side) for side in SIDES],
        "average to so many pixels a side (default: as they are, 28, and scikit-learn's 8)",
    )
    define.bool("permute", True, "pixels in an order drawn at random, else row by row")
    define.integer("permutation_seed", 0, "seed of that order, the same for all digits", 0)
    define.integer("split_seed", 0, "seed of the draw of the development set", 0)
    define.enum(
        "pixel_code",
        "population",
        ["population", "raw"],
        "a pixel as 10 columns: itself, 1, six bumps, rise and fall; or as itself",
    )


def side_of(flag_values):
    """Pixels a side that the flags ask for.

    Raises:
        UserError: more than the digits have.
    """
    own = digits.MNIST_SIDE if flag_values.dataset else digits.SMALL_SIDE
    side = int(flag_values.side or own)
    if side > own:
        raise UserError(
            f"--side={side}: the digits of scikit-learn have {own} x {own} pixels: give MNIST with "
            f"--dataset ({digits.DOWNLOAD} downloads it to {digits.KERAS_FILE})"
        )
    return side


class Sequences(NamedTuple):
    """Digits of a split as they are read."""

    pixels: np.ndarray  # [digits, steps] float32, 0 to 1
    labels: np.ndarray  # [digits] int32


class Batch(NamedTuple):
    """What a training step takes."""

    features: np.ndarray  # [batch, steps, features] float32
    labels: np.ndarray  # [batch] int32
    seq_len: np.ndarray  # [batch] int32, steps, all the same

    @property
    def names(self):
        return (f"{len(self.labels)} digits",)


class PsMnist:
    """The task of digits.

    Args:
        splits: dict "train", "develop" and "test" -> Sequences.
        population: pixels are given by (2), else by (1).
        memory: (Ad [order, order], Bd [order]) of (3), or None.

    Attributes:
        metric, names: the one that selects, and all.
        constant_answer: what always answering the commonest class is called.
        targets_spec: tf.TensorSpec of a batch's targets.
        splits: as given.
        checksum: of the splits, SHA-256; equal for equal pixels in equal order.
    """

    metric, names = "error", ("error",)
    constant_answer = "commonest digit"
    targets_spec = tf.TensorSpec([None], tf.int32)
    n_classes = digits.N_CLASSES
    note = ""

    def __init__(self, splits, population=True, memory=None):
        self.splits = splits
        self._population = population
        self._memory = memory
        if memory is not None:
            states = memory_states(splits["train"].pixels[:N_MEASURED], *memory)
            self._rms = np.sqrt(np.mean(states**2, axis=(0, 1)))  # [order]
        self.checksum = _checksum(splits)
        self.n_features = self.features(splits["train"].pixels[:1]).shape[-1]

    @classmethod
    def from_flags(cls, flag_values, memory=None):
        """Read the digits that the flags name; says what it holds."""
        side = side_of(flag_values)
        order = np.arange(side**2)
        if flag_values.permute:
            order = np.random.default_rng(flag_values.permutation_seed).permutation(order)
        splits = {
            name: Sequences(
                digits.pooled(split.images, side).reshape(-1, side**2)[:, order], split.labels
            )
            for name, split in digits.read_splits(
                flag_values.dataset, flag_values.split_seed
            ).items()
        }
        task = cls(splits, flag_values.pixel_code == "population", memory)
        sizes = ", ".join(f"{name} {len(split.labels)}" for name, split in splits.items())
        print(f"digits: {sizes}; {side**2} pixels, {task.n_features} features each")
        return task

    def description(self):
        """Nothing: no script hears digits."""
        return {}

    # Batches

    def n_training_batches(self, batch_size):
        """Batches of an epoch."""
        return -(-len(self.splits["train"].labels) // batch_size)

    def training_batches(self, batch_size, random_generator):
        """Iterator over the batches of one epoch, shuffled by a np.random.Generator."""
        n_digits = len(self.splits["train"].labels)
        return self._batches("train", batch_size, random_generator.permutation(n_digits))

    def batches(self, split, batch_size):
        """Iterator over the batches of a split, "train", "develop" or "test"."""
        return self._batches(split, batch_size, np.arange(len(self.splits[split].labels)))

    def _batches(self, split, batch_size, order):
        pixels, labels = self.splits[split]
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            seq_len = np.full(len(rows), pixels.shape[1], np.int32)
            yield Batch(self.features(pixels[rows]), labels[rows], seq_len)

    def features(self, pixels):
        """What the network is given of pixels [digits, steps]: [digits, steps, features] float32.

        It is made for each batch: of all of MNIST it would take gigabytes.
        """
        columns = population_code(pixels) if self._population else pixels[:, :, None]
        if self._memory is None:
            return columns
        states = memory_states(pixels, *self._memory) / self._rms
        return np.concatenate([columns, states.astype(np.float32)], axis=2)

    # In TensorFlow

    def losses(self, logits, labels, seq_len):
        """Loss of each digit, [batch]."""
        del seq_len
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits[:, -1])

    def answers(self, logits, seq_len):
        """The digit that is answered, [batch]."""
        del seq_len
        return tf.argmax(logits[:, -1], -1)

    # In NumPy

    def sums(self, batch, answers):
        """What a batch adds to the sums of which `metrics` are made, by name."""
        confusion = np.zeros((self.n_classes, self.n_classes), np.int64)
        np.add.at(confusion, (batch.labels, answers), 1)
        return {"error": np.sum(batch.labels != answers), "confusion": confusion}  # rows = true

    def metrics(self, sums, n_digits):
        """The metrics of a split."""
        return {"error": float(sums["error"] / n_digits)}

    def for_the_end(self):
        """The task by which the test set is read."""
        return self

    def constant_error(self):
        """`metric` on the development set of always answering the commonest training digit."""
        commonest = np.bincount(self.splits["train"].labels).argmax()
        return float(np.mean(self.splits["develop"].labels != commonest))

    # Figures

    def draw_results(self, folder, test):
        """Draw what a network answers to the test set, given the Evaluation of it."""
        figures.plot_confusion_matrix(
            os.path.join(folder, "confusion_matrix.png"),
            test.sums["confusion"],
            [str(digit) for digit in range(self.n_classes)],
            f"test set, error {test.metrics['error']:.3f}",
            what="digit",
            counted="digits",
        )

    def draw_example(self, folder, network):
        """Draw what an LSNN does with the first development digit; no other network."""
        if not network.is_spiking:
            return
        batch = next(self.batches("develop", 1))
        output = network(batch.features, batch.seq_len, with_spikes=True)
        figures.plot_lsnn_digit(
            os.path.join(folder, "lsnn_digit.png"),
            pixels=self.splits["develop"].pixels[0],
            spikes=output.spikes[0][0].numpy() > 0,
            logits=output.logits[0].numpy(),
            label=int(batch.labels[0]),
            n_repeat=network.parameters.n_repeat,
            n_regular=network.n_regular,
            n_directions=network.layers[0].n_directions,
        )


def population_code(pixels):
    """(2) for pixels [digits, steps]: [digits, steps, 10] float32."""
    pixels = pixels.astype(np.float32)
    change = np.diff(pixels, axis=1, prepend=np.float32(0))
    columns = [pixels, np.ones_like(pixels), np.maximum(change, 0), np.maximum(-change, 0)]
    bumps = np.exp(-(((pixels[:, :, None] - CENTRES) / WIDTH) ** 2))
    return np.concatenate([np.stack(columns, axis=2), bumps], axis=2)


def memory_states(pixels, ad, bd):
    """The states (3) of pixels [digits, steps], from 0 on: [digits, steps, order] float64."""
    states = np.empty((*pixels.shape, len(bd)))
    m = np.zeros((len(pixels), len(bd)))
    for t in range(pixels.shape[1]):
        m = m @ ad.T + pixels[:, t, None] * bd
        states[:, t] = m
    return states


def _checksum(splits):
    digest = hashlib.sha256()
    for split in splits.values():
        for array in split:
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
