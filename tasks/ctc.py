"""Phoneme recognition by connectionist temporal classification: which phones are spoken, in order.

The network has a class more than there are phones, the last, "blank", and may answer with a phone in
any of its frames: CTC sums over all alignments. An utterance's labels are the runs of equal frame
labels, both silences kept.

phone_error_rate                  insertions, deletions and substitutions that turn the answer into the
                                  labels / number of labels, averaged over utterances; after folding to
                                  39 classes and collapsing equal neighbours, in answer and labels
phone_error_rate_without_silence  the same after leaving out silence in both
phone_error_rate_total            all edits / all labels, as speech recognition quotes it

The loss of an utterance is -log p(labels) / number of labels, in nats. During training answers are
greedy; at the end, by beam search. With `reference_quirks`, as in the authors' code, the loss is not
divided, the last run is dropped, and runs are those of the 61 phones: they are folded, not collapsed.
"""

import os

import numpy as np
import tensorflow as tf
from rapidfuzz.distance import Levenshtein

from speech.facts import PHONES_39
from tasks import figures
from tasks.framewise import read_dataset
from toolbox.command_line import UserError
from toolbox.plotting import with_note

BEAM_WIDTH = 100
BLANK_PENALTIES = (0.0, 0.5, 1.0, 2.0)  # that `--blank_penalty=auto` tries
EDITS = ("insertions", "deletions", "substitutions")
RATES = ("phone_error_rate", "phone_error_rate_without_silence", "phone_error_rate_total")
MOST_CONFUSIONS = 30  # of the figure


def define_flags(define):
    """Define the flag of the decoder; `define` is a command_line.Definer."""
    define.string(
        "blank_penalty",
        "0",
        "taken from the blank's logit in the beam search at the end; auto: the best of "
        f"{', '.join(f'{p:g}' for p in BLANK_PENALTIES)} on the development set",
    )


def penalties_from_flags(flag_values):
    """The blank penalties among which the development set chooses.

    Raises:
        UserError: neither a number nor "auto".
    """
    text = flag_values.blank_penalty
    if text == "auto":
        return BLANK_PENALTIES
    try:
        penalty = float(text)
    except ValueError:
        penalty = np.nan
    if not np.isfinite(penalty):
        raise UserError(f"--blank_penalty={text}: expected a number or auto")
    return (penalty,)


class Ctc:
    """The task of a data set; the attributes are explained at `tasks.framewise.Framewise`.

    Args:
        dataset: TimitDataset; with `reference_quirks` of 61 phones.
        reference_quirks: the authors' labels and loss, and batches drawn at random.
        is_reduced: train on the 39 classes.
        penalties: blank penalties of the beam search, the best of which the development set chooses.

    Raises:
        UserError: an utterance without labels, or one too short for its labels.
    """

    metric, names = "phone_error_rate", RATES
    constant_answer = "one phone"
    targets_spec = tf.TensorSpec([None, None], tf.int32)

    def __init__(self, dataset, reference_quirks=False, is_reduced=True, penalties=(0.0,)):
        self.dataset = dataset
        self.n_features = dataset.n_features
        self.checksum, self.note = dataset.checksum, dataset.note
        self._quirks = reference_quirks
        self._penalties = penalties
        n_phns = dataset.n_phns
        fold = np.array(dataset.fold_to_reduced)
        # Class of each frame label, and reduced class of each class.
        folds_first = is_reduced and n_phns > len(PHONES_39)
        self._class_of_label = fold if folds_first else np.arange(n_phns)
        self._reduced = np.arange(len(PHONES_39)) if is_reduced else fold
        self.n_classes = 1 + len(self._reduced)
        for split in ("train", "develop", "test"):
            part = getattr(dataset, split)
            for name, phns in zip(part.names, part.phns):
                self._check(name, self._labels(phns), len(phns))

    def _labels(self, phns):
        """Classes of an utterance's runs, as `sparse_labels` makes them."""
        is_end = np.append(phns[1:] != phns[:-1], not self._quirks)[: len(phns)]
        return self._class_of_label[phns[is_end]]

    @staticmethod
    def _check(name, labels, n_frames):
        if not len(labels):
            raise UserError(
                f"{name}: has no phone to recognise, expected one at least: leave it out of the data"
            )
        n_needed = len(labels) + int(np.sum(labels[1:] == labels[:-1]))
        if n_needed > n_frames:
            raise UserError(
                f"{name}: has {n_frames} frames, expected at least {n_needed} for its "
                f"{len(labels)} phones: leave it out of the data"
            )

    @classmethod
    def from_flags(cls, flag_values, make_front_end=None):
        """Read the data set that the flags name; says what it holds."""
        quirks = flag_values.reference_quirks
        dataset = read_dataset(flag_values, flag_values.reduced_phns and not quirks, make_front_end)
        penalties = penalties_from_flags(flag_values)
        return cls(dataset, quirks, flag_values.reduced_phns, penalties)

    def description(self):
        return self.dataset.description() | {"phones": self._class_names()[:-1]}

    # Batches

    def n_training_batches(self, batch_size):
        return self.dataset.n_training_batches(batch_size)

    def training_batches(self, batch_size, random_generator):
        by_length = not self._quirks
        return self.dataset.training_batches(batch_size, random_generator, by_length)

    def batches(self, split, batch_size):
        return getattr(self.dataset, split).batches(batch_size, by_length=not self._quirks)

    # In TensorFlow

    def losses(self, logits, phns, seq_len):
        """Loss of each utterance, [batch]."""
        labels = sparse_labels(phns, seq_len, drop_last=self._quirks)
        classes = tf.gather(tf.constant(self._class_of_label, tf.int32), labels.values)
        labels = tf.SparseTensor(labels.indices, classes, labels.dense_shape)
        losses = ctc_losses(logits, labels, seq_len)
        if self._quirks:
            return losses
        n_labels = tf.math.bincount(
            tf.cast(labels.indices[:, 0], tf.int32), minlength=tf.shape(phns)[0]
        )
        return losses / tf.cast(n_labels, losses.dtype)

    def answers(self, logits, seq_len):
        """(classes of the greedy answer [batch, most], filled up with -1,)."""
        by_time = tf.transpose(logits, [1, 0, 2])
        (decoded,), _ = tf.nn.ctc_greedy_decoder(by_time, seq_len)
        return (_dense(decoded),)

    # In NumPy

    def sums(self, batch, answers):
        """What a batch adds to the sums of which `metrics` are made, by name."""
        return self._scores(batch, answers[0])

    def _scores(self, batch, answers):
        """Sums of a batch for answers [batch, most]; classes or, filled up, -1."""
        n_reduced = len(PHONES_39)
        sums = dict.fromkeys((*RATES, *EDITS, "n_labels", "n_answered"), 0)
        confusions = np.zeros((n_reduced + 1, n_reduced + 1), np.int64)  # the last: nothing
        label_counts = np.zeros(n_reduced + 1, np.int64)
        for phns, n_frames, answer in zip(batch.phns, batch.seq_len, answers):
            labels = collapsed(self._reduced[self._labels(phns[:n_frames])])
            said = collapsed(self._reduced[answer[answer >= 0]])
            edits = Levenshtein.editops(said.tolist(), labels.tolist())
            sums["phone_error_rate"] += len(edits) / len(labels)
            voiced = [x[x > 0].tolist() for x in (said, labels)]
            n_edits = Levenshtein.distance(*voiced)
            sums["phone_error_rate_without_silence"] += n_edits / max(len(voiced[1]), 1)
            sums["n_labels"] += len(labels)
            np.add.at(label_counts, labels, 1)
            sums["n_answered"] += len(said)
            for edit in edits:
                # `edits` turn the answer into the labels: what they delete was inserted.
                kind = {"delete": 0, "insert": 1, "replace": 2}[edit.tag]
                sums[EDITS[kind]] += 1
                true = n_reduced if kind == 0 else labels[edit.dest_pos]
                answered = n_reduced if kind == 1 else said[edit.src_pos]
                confusions[true, answered] += 1
        return {**sums, "confusions": confusions, "label_counts": label_counts}

    def metrics(self, sums, n_utterances):
        """The metrics of a split."""
        n_edits = sum(sums[edit] for edit in EDITS)
        metrics = {name: float(sums[name] / n_utterances) for name in RATES[:2]}
        metrics["phone_error_rate_total"] = n_edits / sums["n_labels"]
        metrics |= {edit: sums[edit] / sums["n_labels"] for edit in EDITS}
        metrics["length_ratio"] = sums["n_answered"] / sums["n_labels"]  # far below 1: all blank
        return metrics

    def for_the_end(self):
        """The task by which the test set is read: with beam search."""
        return CtcByBeam(self)

    def constant_error(self):
        """`metric` on the development set of always giving one phone, the best."""
        labels = [collapsed(self._reduced[self._labels(p)]) for p in self.dataset.develop.phns]
        errors = [
            np.mean([(len(of) - (phone in of)) / len(of) for of in labels])
            for phone in range(len(PHONES_39))
        ]
        return float(min(errors))

    # Figures

    def draw_results(self, folder, test):
        """Draw the commonest confusions of the test set, given the Evaluation of it."""
        names = [*self.dataset.reduced_phn_list, "nothing"]
        confusions = test.sums["confusions"]
        order = np.argsort(-confusions, axis=None, kind="stable")[:MOST_CONFUSIONS]
        pairs = [np.unravel_index(place, confusions.shape) for place in order]
        figures.plot_confusions(
            os.path.join(folder, "confusions.png"),
            {f"{names[t]} → {names[a]}": confusions[t, a] for t, a in pairs if confusions[t, a]},
            with_note(
                f"test set, phone error rate {test.metrics['phone_error_rate']:.3f}", self.note
            ),
        )

    def draw_example(self, folder, network):
        """Draw the probabilities of the phones over the first development utterance."""
        develop = self.dataset.develop
        batch = next(develop.batches(1))
        logits = network(batch.features, batch.seq_len).logits[0].numpy()
        figures.plot_phone_probabilities(
            os.path.join(folder, "phone_probabilities.png"),
            tf.nn.softmax(logits).numpy(),
            self._class_of_label[batch.phns[0]],
            self._class_names(),
            develop.names[0],
        )

    def _class_names(self):
        is_reduced = self.n_classes == len(PHONES_39) + 1
        return [*(self.dataset.reduced_phn_list if is_reduced else self.dataset.phn_list), "blank"]


class CtcByBeam:
    """A `Ctc` whose answers come from beam search, beside the greedy ones."""

    def __init__(self, task):
        self._task = task
        self._chosen = 0  # which penalty

    def __getattr__(self, name):
        return getattr(self._task, name)

    def answers(self, logits, seq_len):
        """(greedy answer, answers by beam search with each penalty)."""
        blank = tf.one_hot(self.n_classes - 1, self.n_classes)
        beams = []
        for penalty in self._penalties:
            by_time = tf.transpose(tf.cast(logits, tf.float32) - penalty * blank, [1, 0, 2])
            (decoded,), _ = tf.nn.ctc_beam_search_decoder(by_time, seq_len, BEAM_WIDTH)
            beams.append(_dense(decoded))
        return (*self._task.answers(logits, seq_len), *beams)

    def sums(self, batch, answers):
        by_answer = [self._scores(batch, answer) for answer in answers]
        greedy, *beams = by_answer
        of_penalties = np.array([sums["phone_error_rate"] for sums in beams])
        return {
            **beams[self._chosen],
            "greedy": greedy["phone_error_rate"],
            "of_penalties": of_penalties,
        }

    def metrics(self, sums, n_utterances):
        metrics = self._task.metrics(sums, n_utterances)
        metrics["phone_error_rate_greedy"] = float(sums["greedy"] / n_utterances)
        metrics["blank_penalty"] = self._penalties[self._chosen]
        return metrics

    def read_develop(self, develop):
        """Choose the penalty, given the Evaluation of the development set."""
        self._chosen = int(np.argmin(develop.sums["of_penalties"]))


def ctc_losses(logits, labels, seq_len):
    """-log p(labels) of each utterance, [batch], in nats; the last class is the blank.

    Sparse labels: with dense ones TensorFlow computes another, slower and less exact loss.

    Args:
        logits: [batch, frames, classes].
        labels: SparseTensor [batch, ...], of which only the order in a row counts.
        seq_len: [batch] true frames.
    """
    return tf.nn.ctc_loss(labels, logits, None, seq_len, logits_time_major=False, blank_index=-1)


def sparse_labels(phns, seq_len, drop_last=False):
    """Runs of equal frame labels, a SparseTensor whose entries stand at each run's last frame.

    Args:
        phns: [batch, frames].
        seq_len: [batch] true frames.
        drop_last: leave out the last run of each utterance.
    """
    changes = tf.pad(phns[:, 1:] != phns[:, :-1], [[0, 0], [0, 1]], constant_values=True)
    place = tf.range(tf.shape(phns)[1])
    last = seq_len[:, None] - 1
    is_end = (place < last) & changes if drop_last else (place == last) | ((place < last) & changes)
    indices = tf.where(is_end)
    shape = tf.shape(phns, out_type=tf.int64)
    return tf.SparseTensor(indices, tf.gather_nd(phns, indices), shape)


def collapsed(classes):
    """A sequence without repetitions of the class before."""
    classes = np.asarray(classes)
    return classes[np.append(True, classes[1:] != classes[:-1])] if len(classes) else classes


def _dense(decoded):
    return tf.sparse.to_dense(tf.cast(decoded, tf.int32), default_value=-1)
