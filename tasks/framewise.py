"""Framewise phone classification: which phone is spoken in every 10-ms frame of an utterance.

frame_error        share of an utterance's frames whose most probable class is wrong
frame_error_39     the same after folding 61 phones to 39 (equal when 39 are trained)

Both are fractions, averaged over utterances, each of which counts once however long it is. The loss
of an utterance is the mean cross entropy of its frames, in nats.
"""

import os

import numpy as np
import tensorflow as tf

from speech.dataset import PREPROC_CHOICES, Batch, TimitDataset
from tasks import figures
from toolbox.command_line import UserError, check_off_or_positive, one_line
from toolbox.plotting import with_note


def define_flags(define):
    """Define the flags of the data; `define` is a command_line.Definer."""
    define.path("dataset", "timit_processed", "folder of timit_processing.py")
    define.enum(
        "preproc",
        "mfccs",
        PREPROC_CHOICES,
        "features (cochspec and cochspike: names of the reference that nothing produces)",
    )
    define.bool("reduced_phns", True, "train on 39 phone classes, else on 61")
    define.integer("target_delay_frames", 0, "answer with the phone of so many frames ago", 0)
    define.integer(
        "truncT", -1, "train on random windows of this many frames; -1: whole utterances"
    )


def check_flags(flag_values):
    """Raise UserError for values of these flags that cannot work."""
    check_off_or_positive(flag_values, "truncT")


def read_dataset(flag_values, reduced_phns, make_front_end=None):
    """The TimitDataset that the flags name; says what it holds.

    Args:
        reduced_phns: 39 classes, else 61.
        make_front_end: function (training features, static columns) -> function that appends to
            the features of an utterance.
    """
    dataset = TimitDataset(
        flag_values.dataset,
        preproc=flag_values.preproc,
        reduced_phns=reduced_phns,
        target_delay_frames=flag_values.target_delay_frames,
    )
    splits = dataset.train, dataset.develop, dataset.test
    shortest = min(len(phns) for split in splits for phns in split.phns)
    if flag_values.target_delay_frames >= shortest:
        raise UserError(
            f"--target_delay_frames={flag_values.target_delay_frames}: expected less than the "
            f"{shortest} frames of the shortest utterance"
        )
    if make_front_end is not None:
        dataset.extend(make_front_end(dataset.train.features, dataset.n_static))
    sizes = (f"{name} {len(getattr(dataset, name))}" for name in ("train", "develop", "test"))
    print(
        f"utterances: {', '.join(sizes)}; {dataset.n_features} features; {dataset.n_phns} phone "
        "classes"
    )
    if dataset.note:
        print(f"note: {one_line(dataset.note)}")
    if dataset.processing is not None:
        made_with = bool(dataset.processing.get("reference_quirks"))
        if made_with != flag_values.reference_quirks:
            print(
                f"note: {flag_values.dataset} was made with --reference_quirks={made_with}, "
                f"training runs with {flag_values.reference_quirks}"
            )
    return dataset


class Framewise:
    """The task of a data set.

    Args:
        dataset: TimitDataset.
        reference_quirks: batches are drawn at random, not by length.
        padding_counts: the authors' LSTM: the padding of a batch counts as silence in the loss.
        window_frames: train on random windows of so many frames; -1: on whole utterances.

    Attributes:
        metric, names: the one that selects, and all.
        constant_answer: what always answering the commonest class is called.
        targets_spec: tf.TensorSpec of a batch's targets.
        note: what has to stand beside errors on these data; "" for nothing.
    """

    metric, names = "frame_error", ("frame_error", "frame_error_39")
    constant_answer = "commonest phone"
    targets_spec = tf.TensorSpec([None, None], tf.int32)

    def __init__(self, dataset, reference_quirks=False, padding_counts=False, window_frames=-1):
        self.dataset = dataset
        self.n_features, self.n_classes = dataset.n_features, dataset.n_phns
        self.checksum, self.note = dataset.checksum, dataset.note
        self._by_length = not reference_quirks
        self._padding_counts = padding_counts
        self._window_frames = window_frames
        # The authors' LSNN has a class more than there are phones; it is always wrong.
        self._fold = np.append(dataset.fold_to_reduced, -1)

    @classmethod
    def from_flags(cls, flag_values, padding_counts=False, make_front_end=None):
        """The task of `read_dataset`."""
        quirks = flag_values.reference_quirks
        dataset = read_dataset(flag_values, flag_values.reduced_phns, make_front_end)
        return cls(dataset, quirks, padding_counts, flag_values.truncT)

    def description(self):
        """What inference needs to know of the data, for JSON."""
        return self.dataset.description()

    # Batches

    def n_training_batches(self, batch_size):
        """Batches of an epoch."""
        return self.dataset.n_training_batches(batch_size)

    def training_batches(self, batch_size, random_generator):
        """Iterator over the batches of one epoch, shuffled by a np.random.Generator.

        Utterances of similar length share a batch, except with `reference_quirks`.
        """
        for batch in self.dataset.training_batches(
            batch_size, random_generator, by_length=self._by_length
        ):
            if self._window_frames > 0:
                batch = random_windows(batch, self._window_frames, random_generator)
            yield batch

    def batches(self, split, batch_size):
        """Iterator over the batches of a split, "train", "develop" or "test"."""
        # The authors' padding counts: there it would matter who shares a batch.
        return getattr(self.dataset, split).batches(batch_size, by_length=self._by_length)

    # In TensorFlow

    def losses(self, logits, phns, seq_len):
        """Loss of each utterance, [batch]."""
        if self._padding_counts:
            seq_len = tf.fill([tf.shape(phns)[0]], tf.shape(phns)[1])
        return cross_entropy(logits, phns, seq_len)

    def answers(self, logits, seq_len):
        """The most probable class of every frame, [batch, frames]."""
        del seq_len
        return tf.argmax(logits, -1)

    # In NumPy

    def sums(self, batch, predicted):
        """What a batch adds to the sums of which `metrics` are made, by name."""
        _, phns, seq_len = batch
        is_true = np.arange(phns.shape[1]) < seq_len[:, None]
        true_39, predicted_39 = self._fold[phns], self._fold[predicted]
        n_reduced = len(self.dataset.reduced_phn_list)
        confusion = np.zeros((n_reduced, n_reduced), np.int64)
        counted = is_true & (predicted_39 >= 0)
        np.add.at(confusion, (true_39[counted], predicted_39[counted]), 1)
        return {
            "frame_error": np.sum(np.sum(is_true & (predicted != phns), 1) / seq_len),
            "frame_error_39": np.sum(np.sum(is_true & (predicted_39 != true_39), 1) / seq_len),
            "confusion": confusion,  # [39, 39] frames, rows = true phone
        }

    def metrics(self, sums, n_utterances):
        """The metrics of a split."""
        return {n: float(sums[n] / n_utterances) for n in self.names}

    def for_the_end(self):
        """The task by which the test set is read."""
        return self

    def constant_error(self):
        """`metric` on the development set of always answering the commonest class."""
        return self.dataset.majority_error(self.dataset.develop)

    # Figures

    def draw_results(self, folder, test):
        """Draw what a network answers to the test set, given the Evaluation of it."""
        figures.plot_confusion_matrix(
            os.path.join(folder, "confusion_matrix.png"),
            test.sums["confusion"],
            self.dataset.reduced_phn_list,
            with_note(f"test set, frame error {test.metrics['frame_error_39']:.3f}", self.note),
        )

    def draw_example(self, folder, network):
        """Draw what an LSNN does with the first development utterance; no other network."""
        if not network.is_spiking:
            return
        develop = self.dataset.develop
        batch = next(develop.batches(1))
        text = develop.metadata[0].get("text")
        output = network(batch.features, batch.seq_len, with_spikes=True)
        figures.plot_lsnn_utterance(
            os.path.join(folder, "lsnn_utterance.png"),
            features=batch.features[0],
            spikes=output.spikes[0][0].numpy() > 0,
            phns=batch.phns[0],
            predictions=tf.argmax(output.logits[0], -1).numpy(),
            logits=output.logits[0].numpy(),
            class_names=self.dataset.phn_list,
            n_repeat=network.parameters.n_repeat,
            n_regular=network.n_regular,
            n_directions=network.layers[0].n_directions,
            title=one_line(f"{develop.names[0]}: {text if isinstance(text, str) else ''}"),
        )


def cross_entropy(logits, phns, seq_len):
    """Cross entropy [batch], averaged over each utterance's frames.

    Args:
        logits: [batch, frames, classes].
        phns: [batch, frames].
        seq_len: [batch] frames that count.
    """
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=phns, logits=logits)
    mask = tf.sequence_mask(seq_len, tf.shape(phns)[1], logits.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(entropy * mask, 1), tf.reduce_sum(mask, 1))


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
