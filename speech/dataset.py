"""Features and phone labels of a folder made by `timit_processing.py`, as padded mini-batches.

    from speech.dataset import TimitDataset

    dataset = TimitDataset("timit_processed", preproc="mfccs", reduced_phns=True)
    for batch in dataset.training_batches(32, np.random.default_rng(seed)):
        batch.features  # [batch, frames, features]

The pickles hold static features f, one row per frame of 10 ms. Every column of x is normalised by
its mean and standard deviation over all training frames:

    d_t = f_{t+1} - f_{t-1}, 0 in the first and the last frame; dd_t from d likewise           (1)
    x_t = [f_t, d_t, dd_t]  (htk: x_t = f_t)                                                    (2)
    x_t <- (x_t - mean) / max(std, 1e-10)                                                       (3)

With a target delay of k frames, frame t asks for the phone of frame t - k, which a network that
runs in one direction may answer late; before an utterance there is silence.

Folders written by the authors' own script are read as well: it numbers the phones in the order in
which it meets them, so class names and their folding come from the folder's JSON files.
"""

import hashlib
import json
import os
from typing import NamedTuple

import numpy as np

from speech.facts import PHONES_39, PHONES_61, SPLITS
from speech.plain_pickle import REMAKE, load_plain_pickle, open_file
from toolbox.command_line import UserError

N_PHNS, N_REDUCED_PHNS = len(PHONES_61), len(PHONES_39)

_FEATURES = {  # --preproc: (file, columns before the deltas; None is any)
    "mfccs": ("mfccs.pickle", 13),
    "fbank": ("filter_banks.pickle", 41),
    "htk": ("htk.pickle", None),
}
_NEVER_PRODUCED = ("cochspec", "cochspike")
PREPROC_CHOICES = (*_FEATURES, *_NEVER_PRODUCED)

POOL_BATCHES = 8  # a tenth of the frames is padding then; in one pool, the same would always meet
_MAX_FEATURE = 1e15  # beyond any feature; squares still fit float32
_MIN_STD = 1e-10  # as in the reference: a constant column becomes 0 instead of NaN


class _Arrays(NamedTuple):
    features: np.ndarray  # [batch, frames, features] float32, 0 after the end
    phns: np.ndarray  # [batch, frames] int32, class indices, 0 (silence) after the end
    seq_len: np.ndarray  # [batch] int32, frames before the padding


class Batch(_Arrays):
    """Utterances padded to the longest one of them: the tuple that a training step takes.

    Attributes:
        names: the utterances', [batch], beside the tuple; () if they have none.
    """

    names = ()

    def named(self, names):
        """The same batch, with the names of its utterances."""
        batch = Batch(*self)
        batch.names = tuple(names)
        return batch


class Split:
    """The utterances of one split.

    Attributes:
        features: list of [frames, features] float32.
        phns: list of [frames] int32.
        metadata: list of dicts.
        names: list of str, such as "dr1/fvmh0/sx206".
        n_frames: frames of all utterances together.
    """

    def __init__(self, features, phns, metadata):
        self.features = features
        self.phns = phns
        self.metadata = metadata
        self.names = _names(metadata)
        self.n_frames = sum(map(len, phns))

    def __len__(self):
        return len(self.features)

    def batch(self, indices):
        """Batch of the utterances with the given indices, in that order."""
        seq_len = np.array([len(self.phns[i]) for i in indices], np.int32)
        shape = len(seq_len), seq_len.max()
        features = np.zeros((*shape, self.features[0].shape[1]), np.float32)
        phns = np.zeros(shape, np.int32)
        for row, i in enumerate(indices):
            features[row, : seq_len[row]] = self.features[i]
            phns[row, : seq_len[row]] = self.phns[i]
        return Batch(features, phns, seq_len).named(self.names[i] for i in indices)

    def batches(self, batch_size, by_length=False):
        """Iterator over all utterances; the last batch may be smaller.

        They come in their order, or with `by_length` the shortest first: less padding.
        """
        order = self.by_length(range(len(self))) if by_length else range(len(self))
        for start in range(0, len(self), batch_size):
            yield self.batch(order[start : start + batch_size])

    def by_length(self, indices):
        """Indices of utterances, the shortest first; equally long ones stay in their order."""
        return sorted(indices, key=lambda i: len(self.phns[i]))


class Scaling(NamedTuple):
    """By what the features of a data set were normalised, all of it of its training frames."""

    mean: np.ndarray  # [features], (3)
    std: np.ndarray  # [features], (3), floored
    # Of the static features before they were written, by `timit_processing.py`; None if unknown.
    static_mean: np.ndarray | None  # [static]
    static_scale: np.ndarray | None  # [static]

    def __call__(self, expanded):
        """(3) of features [frames, features]."""
        return ((expanded - self.mean) / self.std).astype(np.float32)

    def of_static(self, raw):
        """Static features [frames, static] as the folder would hold them."""
        return ((raw - self.static_mean) / self.static_scale).astype(np.float32)

    def raw(self, static):
        """Static features [frames, static] as they were before they were normalised."""
        return static * self.static_scale + self.static_mean


class TimitDataset:
    """Training, development and test utterances of one kind of features.

    Attributes:
        train, develop, test: `Split`.
        n_features: columns of the features, deltas included.
        n_static: how many of them, the first ones, are the folder's own and no deltas of them (htk:
            all).
        n_phns: number of classes.
        phn_list: names of the classes; index 0 is silence.
        reduced_phn_list: names of the 39 reduced classes.
        fold_to_reduced: [n_phns] int64, reduced class of each class.
        scaling: `Scaling` of the features.
        front_end: what `extend` has appended; None for nothing.
        processing: content of the folder's `processing.json`, None where there is none.
        note: what has to stand beside errors on this corpus, a line; "" for nothing.
        checksum: of the features, labels and names as read, SHA-256; equal for equal data.
    """

    def __init__(
        self, path, preproc="mfccs", reduced_phns=True, target_delay_frames=0, trained=None
    ):
        """Read a dataset folder.

        Args:
            path: folder that holds `train`, `develop` and `test`.
            preproc: one of `PREPROC_CHOICES`.
            reduced_phns: 39 classes instead of 61.
            target_delay_frames: label each frame with the phone of so many frames ago.
            trained: (checksum, scaling) of another data set: where these are other data, their
                features are brought back by their own scaling and normalised by that one.

        Raises:
            UserError: the folder is missing, incomplete, inconsistent, holds other features, or
                one of its pickles holds more than arrays of numbers and plain values; it is to be
                scaled anew, and how it was scaled is not known.
        """
        if preproc in _NEVER_PRODUCED:
            raise UserError(
                f"--preproc={preproc}: the reference lists these features, but nothing ever "
                f"produced them: use one of {', '.join(_FEATURES)}"
            )
        if not os.path.isdir(path):
            raise UserError(f"dataset folder '{path}' is missing: make it with timit_processing.py")
        self.processing = _read_processing(path)
        note = (self.processing or {}).get("corpus_note", "")
        self.note = note if isinstance(note, str) else ""
        self.phn_list, self.reduced_phn_list, fold = _read_classes(path)
        if reduced_phns:
            self.phn_list, fold = self.reduced_phn_list, range(N_REDUCED_PHNS)
        self.n_phns = len(self.phn_list)
        self.fold_to_reduced = np.array(fold)

        utterances = {
            split: _read_utterances(os.path.join(path, split), preproc, reduced_phns)
            for split in SPLITS
        }
        _check_widths(path, preproc, utterances)
        self.checksum = _checksum(self.phn_list, utterances)
        expand = np.asarray if preproc == "htk" else with_deltas
        own = Scaling(
            *_statistics(expand, utterances["train"][0]),
            *_read_static_scaling(path, preproc, self.processing, utterances),
        )
        is_same = trained is None or trained[0] == self.checksum
        self.scaling = own if is_same else trained[1]
        rescale = np.asarray if is_same else _rescaling(path, own, self.scaling)
        self.train, self.develop, self.test = (
            Split(
                [self.scaling(expand(rescale(f))) for f in static],
                [_delayed(labels, target_delay_frames) for labels in phns],
                metadata,
            )
            for static, phns, metadata in utterances.values()
        )
        self.n_features = len(self.scaling.mean)
        self.front_end = None
        self.n_static = utterances["train"][0][0].shape[1]

    def description(self):
        """What a network trained on these data needs to hear others, for JSON."""
        return {
            "phones": self.phn_list,
            "scaling": self.scaling._asdict(),
            "front_end": self.front_end and self.front_end.description(),
            "processing": self.processing,
        }

    def extend(self, append):
        """Replace the features of all utterances by `append(features)` [frames, more features]."""
        self.front_end = append
        for split in (self.train, self.develop, self.test):
            split.features = [append(features) for features in split.features]
        self.n_features = self.train.features[0].shape[1]

    def n_training_batches(self, batch_size):
        """Batches in an epoch: all hold `batch_size` utterances or somewhat more; a training set
        smaller than that is one batch."""
        return max(1, len(self.train) // batch_size)

    def training_batches(self, batch_size, random_generator, by_length=False):
        """Iterator over the batches of one epoch, each utterance once.

        The utterances are shuffled by `random_generator` (`np.random.Generator`) when this is
        called, and cut into `n_training_batches(batch_size)` batches of nearly equal size.

        Args:
            by_length: let utterances of similar length share a batch, so that little of it is
                padding: `POOL_BATCHES` batches at a time are sorted by length, cut anew and then
                shuffled among all. Which utterances meet still differs from epoch to epoch, and
                the lengths come in no order.
        """
        order = random_generator.permutation(len(self.train))
        batches = np.array_split(order, self.n_training_batches(batch_size))
        if by_length:
            for first in range(0, len(batches), POOL_BATCHES):
                pool = batches[first : first + POOL_BATCHES]
                edges = np.cumsum([len(batch) for batch in pool])[:-1]
                ordered = self.train.by_length(np.concatenate(pool))
                batches[first : first + POOL_BATCHES] = np.split(ordered, edges)
            batches = [batches[k] for k in random_generator.permutation(len(batches))]
        return map(self.train.batch, batches)

    def majority_error(self, split):
        """Frame error on a `Split`, averaged over utterances, of always answering one class:
        the one most frequent in the training frames."""
        commonest = np.bincount(np.concatenate(self.train.phns)).argmax()
        return float(np.mean([np.mean(phns != commonest) for phns in split.phns]))


def with_deltas(features):
    """Features with their first and second differences, equations (1) and (2).

    Args:
        features: [frames, features].

    Returns:
        [frames, 3 * features].
    """

    def delta(values):
        difference = np.zeros_like(values)
        difference[1:-1] = values[2:] - values[:-2]
        return difference

    first = delta(features)
    return np.concatenate([features, first, delta(first)], axis=1)


def _delayed(phns, n_frames):
    """Labels [frames] of `n_frames` ago, silence before the first; as many as there were."""
    silence = np.zeros(min(n_frames, len(phns)), phns.dtype)
    return np.concatenate([silence, phns])[: len(phns)]


def _checksum(phn_list, utterances):
    """SHA-256 of what was read, in hexadecimal: class names, then every utterance's name, labels
    and features."""
    digest = hashlib.sha256("\n".join(phn_list).encode())
    for split, (features, phns, metadata) in utterances.items():
        for name, f, labels in zip(_names(metadata), features, phns):
            digest.update(f"\n{split} {name} {f.shape}\n".encode(errors="surrogatepass"))
            digest.update(np.ascontiguousarray(labels, "<i4"))
            digest.update(np.ascontiguousarray(f, "<f8"))
    return digest.hexdigest()


def _statistics(expand, static):
    """Mean and floored standard deviation of each column over all frames, equation (3).

    Summed utterance by utterance: the expanded features of the whole corpus in float64 would
    need several GB.
    """
    n_frames = sum(map(len, static))
    mean = sum(expand(f).sum(axis=0) for f in static) / n_frames
    variance = sum(((expand(f) - mean) ** 2).sum(axis=0) for f in static) / n_frames
    return mean, np.maximum(np.sqrt(variance), _MIN_STD)


def _names(metadata):
    """Names of utterances; the authors' script does not record which sentence one is, so there
    the place in the split stands for it."""
    return [
        f"{entry['dr']}/{entry['speaker']}/{entry.get('utterance', f'#{i}')}"
        for i, entry in enumerate(metadata)
    ]


def _rescaling(path, own, other):
    """Function that brings static features of one `Scaling` to another one.

    Raises:
        UserError: one of them is not known.
    """
    for scaling, data in ((own, f"'{path}'"), (other, "the data of the training")):
        if scaling.static_mean is None:
            raise UserError(
                f"'{path}' holds other data than the training, and {data} do not tell how they were "
                "normalised: process both with timit_processing.py"
            )
    return lambda static: other.of_static(own.raw(static)).astype(np.float64)


# Reading and checking the folder


def _read_processing(path):
    """Content of `processing.json`; None where there is none."""
    file = os.path.join(path, "processing.json")
    if not os.path.exists(file):  # the authors' script writes none
        return None
    processing = _read_json(file)
    if not isinstance(processing, dict):
        raise UserError(f"'{file}' holds no JSON object with the settings: {REMAKE}")
    return processing


def _read_static_scaling(path, preproc, processing, utterances):
    """(mean, scale) [static] of the folder's features before they were written; None if unknown."""
    kind = _FEATURES[preproc][0].removesuffix(".pickle")
    try:
        found = processing["normalisation"][kind]
        mean, scale = (np.array(found[name], np.float64) for name in ("mean", "scale"))
    except (TypeError, KeyError):
        return None, None  # of the authors' script
    except ValueError:
        mean = scale = np.array(np.nan)
    shape = utterances["train"][0][0].shape[1:]
    if not (mean.shape == scale.shape == shape and np.isfinite(mean).all() and np.all(scale > 0)):
        raise UserError(f"'{path}': the normalisation in processing.json is damaged: {REMAKE}")
    return mean, scale


def _read_classes(path):
    """(phone names, reduced names, reduced index of each phone), the same in every split."""
    classes = [_read_classes_of_split(os.path.join(path, split)) for split in SPLITS]
    for split, other in zip(SPLITS[1:], classes[1:]):
        if other != classes[0]:
            raise UserError(
                f"the phone lists in '{os.path.join(path, SPLITS[0])}' and "
                f"'{os.path.join(path, split)}' differ, as if made by different runs: {REMAKE}"
            )
    return classes[0]


def _read_classes_of_split(folder):
    def names(name, size, silence):
        file = os.path.join(folder, name)
        value = _read_json(file)
        if not (
            isinstance(value, list)
            and all(isinstance(entry, str) for entry in value)
            and len(value) == len(set(value)) == size
            and value[0] == silence
        ):
            raise UserError(
                f"'{file}' holds no list of {size} different phones beginning with "
                f"'{silence}': {REMAKE}"
            )
        return value

    phns = names("phonem_list.json", N_PHNS, "h#")
    reduced_phns = names("reduced_phonem_list.json", N_REDUCED_PHNS, "sil")
    file = os.path.join(folder, "reduced_phn_index_mapping.json")
    fold = _read_json(file)
    if not (
        isinstance(fold, list)
        and len(fold) == N_PHNS
        and all(type(index) is int and 0 <= index < N_REDUCED_PHNS for index in fold)
        and fold[0] == 0
    ):
        raise UserError(
            f"'{file}' holds no list of {N_PHNS} indices from 0 to {N_REDUCED_PHNS - 1} "
            f"beginning with 0: {REMAKE}"
        )
    return phns, reduced_phns, fold


def _read_json(path):
    with open_file(path) as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{path}' is no readable JSON file ({error}): {REMAKE}") from None


def _read_utterances(folder, preproc, reduced_phns):
    """Checked utterances of a split: static features as float64, labels as int32, metadata."""
    features_file = os.path.join(folder, _FEATURES[preproc][0])
    phns_file = os.path.join(folder, "reduced_phonems.pickle" if reduced_phns else "phonems.pickle")
    metadata_file = os.path.join(folder, "metadata.pickle")
    features, phns, metadata = map(_read_list, (features_file, phns_file, metadata_file))

    if not len(features) == len(phns) == len(metadata):
        raise UserError(
            f"'{folder}' holds {len(features)} utterances in {os.path.basename(features_file)}, "
            f"{len(phns)} in {os.path.basename(phns_file)} and {len(metadata)} in "
            f"metadata.pickle, as if made by different runs: {REMAKE}"
        )
    if not metadata:
        raise UserError(f"'{folder}' holds no utterance: {REMAKE} from a corpus with that split")
    for i, entry in enumerate(metadata):
        if not (
            isinstance(entry, dict)
            and {"dr", "speaker"} <= entry.keys()
            and all(type(entry.get(n, "")) is str for n in ("dr", "speaker", "utterance"))
        ):
            raise UserError(
                f"'{metadata_file}': entry {i} is no record with dr and speaker: {REMAKE}"
            )

    n_classes = N_REDUCED_PHNS if reduced_phns else N_PHNS
    for name, f, labels in zip(_names(metadata), features, phns):
        if not (_is_array(f, 2, "fiu") and f.size and np.abs(f).max() <= _MAX_FEATURE):
            raise UserError(
                f"'{features_file}': {name} is no [frames, features] array of finite numbers up to "
                f"{_MAX_FEATURE:.0e}: "
                f"{REMAKE}"
            )
        if not _is_array(labels, 1, "iu"):
            raise UserError(f"'{phns_file}': {name} is no [frames] array of integers: {REMAKE}")
        outside = labels[(labels < 0) | (labels >= n_classes)]
        if len(outside):
            raise UserError(
                f"'{phns_file}': {name} holds phone {outside[0]}, expected 0 to "
                f"{n_classes - 1}: {REMAKE}"
            )
        if len(f) != len(labels):
            raise UserError(
                f"'{features_file}': {name} has {len(f)} frames, but {len(labels)} labels in "
                f"{os.path.basename(phns_file)}: {REMAKE}"
            )
    return (
        [f.astype(np.float64, copy=False) for f in features],
        [labels.astype(np.int32) for labels in phns],
        metadata,
    )


def _read_list(path):
    value = load_plain_pickle(path)
    if not isinstance(value, list):
        raise UserError(f"'{path}' holds no list with an entry an utterance: {REMAKE}")
    return value


def _is_array(value, n_dimensions, kinds):
    return (
        isinstance(value, np.ndarray) and value.ndim == n_dimensions and value.dtype.kind in kinds
    )


def _check_widths(path, preproc, utterances):
    """All utterances have as many columns as the kind of features has."""
    file, width = _FEATURES[preproc]
    expected = width or utterances["train"][0][0].shape[1]
    for split, (static, _, _) in utterances.items():
        for f in static:
            if f.shape[1] != expected:
                raise UserError(
                    f"'{os.path.join(path, split, file)}' was made with other features: found "
                    f"{f.shape[1]} columns, expected {expected}: {REMAKE}"
                )
