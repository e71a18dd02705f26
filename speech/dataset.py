"""Features and phone labels of a folder made by `timit_processing.py`, as padded mini-batches.

    from speech.dataset import TimitDataset, frame_weights

    dataset = TimitDataset("timit_processed", preproc="mfccs", reduced_phns=True)
    for batch in dataset.training_batches(32, np.random.default_rng(seed)):
        weights = frame_weights(batch.seq_len, batch.features.shape[1])

The pickles hold static features f, one row per frame of 10 ms. Every column of x is normalised by
its mean and standard deviation over all training frames:

    d_t = f_{t+1} - f_{t-1}, 0 in the first and the last frame; dd_t from d likewise           (1)
    x_t = [f_t, d_t, dd_t]  (htk: x_t = f_t)                                                    (2)
    x_t <- (x_t - mean) / max(std, 1e-10)                                                       (3)

Frame t of utterance b weighs, in sums over a padded batch,

    w_bt = 1[t < len_b] / len_b                                                                 (4)

so that each utterance counts once, long or short, and batches of unequal size are averaged rightly
when their sums are divided by the number of utterances.

With a target delay of k frames, frame t asks for the phone of frame t - k, which a network that
runs in one direction may answer late; before an utterance there is silence.

Folders written by the authors' own script are read as well: it numbers the phones in the order in
which it meets them, so class names and their folding come from the folder's JSON files.
"""

import concurrent.futures
import hashlib
import json
import os
import pickle
import pickletools
import re
from typing import NamedTuple

import numpy as np

from toolbox.command_line import UserError

SPLITS = ("train", "develop", "test")
N_PHNS = 61
N_REDUCED_PHNS = 39

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
_REMAKE = "make the folder anew with timit_processing.py"


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


def frame_weights(seq_len, n_frames):
    """Weights of the frames of a padded batch, equation (4).

    Args:
        seq_len: [batch] true frames of each utterance, at least 1.
        n_frames: frames of the padded batch.

    Returns:
        [batch, frames] float32; each row sums to 1.
    """
    seq_len = np.asarray(seq_len)[:, np.newaxis]
    return ((np.arange(n_frames) < seq_len) / seq_len).astype(np.float32)


def one_ahead(iterable):
    """The items of an iterable; while one is in use, a thread gets the next ready.

    What the iterable raises is raised where its item would have come. A generator that is left
    early waits for the item in preparation, not for more.
    """
    iterator, end = iter(iterable), object()
    with concurrent.futures.ThreadPoolExecutor(1, "one_ahead") as thread:
        item = thread.submit(next, iterator, end)
        while (ready := item.result()) is not end:
            item = thread.submit(next, iterator, end)
            yield ready


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
        processing: content of the folder's `processing.json`, None where there is none.
        checksum: of the features, labels and names as read, SHA-256; equal for equal data.
    """

    def __init__(self, path, preproc="mfccs", reduced_phns=True, target_delay_frames=0):
        """Read a dataset folder.

        Args:
            path: folder that holds `train`, `develop` and `test`.
            preproc: one of `PREPROC_CHOICES`.
            reduced_phns: 39 classes instead of 61.
            target_delay_frames: label each frame with the phone of so many frames ago.

        Raises:
            UserError: the folder is missing, incomplete, inconsistent, holds other features, or
                one of its pickles holds more than arrays of numbers and plain values.
        """
        if preproc in _NEVER_PRODUCED:
            raise UserError(
                f"--preproc={preproc}: the reference lists these features, but nothing ever "
                f"produced them: use one of {', '.join(_FEATURES)}"
            )
        if not os.path.isdir(path):
            raise UserError(f"dataset folder '{path}' is missing: make it with timit_processing.py")
        self.processing = _read_processing(path)
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
        mean, std = _statistics(expand, utterances["train"][0])
        self.train, self.develop, self.test = (
            Split(
                [((expand(f) - mean) / std).astype(np.float32) for f in static],
                [_delayed(labels, target_delay_frames) for labels in phns],
                metadata,
            )
            for static, phns, metadata in utterances.values()
        )
        self.n_features = len(mean)
        self.n_static = utterances["train"][0][0].shape[1]

    def extend(self, append):
        """Replace the features of all utterances by `append(features)` [frames, more features]."""
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


# Reading and checking the folder


def _read_processing(path):
    """Content of `processing.json`; None where there is none."""
    file = os.path.join(path, "processing.json")
    if not os.path.exists(file):  # the authors' script writes none
        return None
    processing = _read_json(file)
    if not isinstance(processing, dict):
        raise UserError(f"'{file}' holds no JSON object with the settings: {_REMAKE}")
    return processing


def _read_classes(path):
    """(phone names, reduced names, reduced index of each phone), the same in every split."""
    classes = [_read_classes_of_split(os.path.join(path, split)) for split in SPLITS]
    for split, other in zip(SPLITS[1:], classes[1:]):
        if other != classes[0]:
            raise UserError(
                f"the phone lists in '{os.path.join(path, SPLITS[0])}' and "
                f"'{os.path.join(path, split)}' differ, as if made by different runs: {_REMAKE}"
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
                f"'{silence}': {_REMAKE}"
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
            f"beginning with 0: {_REMAKE}"
        )
    return phns, reduced_phns, fold


def _read_json(path):
    with _open(path) as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{path}' is no readable JSON file ({error}): {_REMAKE}") from None


def _open(path):
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"'{path}' is no file: {_REMAKE}")  # a pipe would be waited for
    try:
        return open(path, "rb")
    except FileNotFoundError:
        if os.path.basename(path) == _FEATURES["htk"][0]:
            raise UserError(
                f"'{path}' is missing: the folder was made without HTK features: put an .htk file "
                "beside every .wav with HTK and run timit_processing.py again, or use "
                "--preproc=mfccs"
            ) from None
        raise UserError(f"'{path}' is missing: {_REMAKE}") from None
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from None


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
            f"metadata.pickle, as if made by different runs: {_REMAKE}"
        )
    if not metadata:
        raise UserError(f"'{folder}' holds no utterance: {_REMAKE} from a corpus with that split")
    for i, entry in enumerate(metadata):
        if not (
            isinstance(entry, dict)
            and {"dr", "speaker"} <= entry.keys()
            and all(type(entry.get(n, "")) is str for n in ("dr", "speaker", "utterance"))
        ):
            raise UserError(
                f"'{metadata_file}': entry {i} is no record with dr and speaker: {_REMAKE}"
            )

    n_classes = N_REDUCED_PHNS if reduced_phns else N_PHNS
    for name, f, labels in zip(_names(metadata), features, phns):
        if not (_is_array(f, 2, "fiu") and f.size and np.abs(f).max() <= _MAX_FEATURE):
            raise UserError(
                f"'{features_file}': {name} is no [frames, features] array of finite numbers up to "
                f"{_MAX_FEATURE:.0e}: "
                f"{_REMAKE}"
            )
        if not _is_array(labels, 1, "iu"):
            raise UserError(f"'{phns_file}': {name} is no [frames] array of integers: {_REMAKE}")
        outside = labels[(labels < 0) | (labels >= n_classes)]
        if len(outside):
            raise UserError(
                f"'{phns_file}': {name} holds phone {outside[0]}, expected 0 to "
                f"{n_classes - 1}: {_REMAKE}"
            )
        if len(f) != len(labels):
            raise UserError(
                f"'{features_file}': {name} has {len(f)} frames, but {len(labels)} labels in "
                f"{os.path.basename(phns_file)}: {_REMAKE}"
            )
    return (
        [f.astype(np.float64, copy=False) for f in features],
        [labels.astype(np.int32) for labels in phns],
        metadata,
    )


def _read_list(path):
    value = load_plain_pickle(path)
    if not isinstance(value, list):
        raise UserError(f"'{path}' holds no list with an entry an utterance: {_REMAKE}")
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
                    f"{f.shape[1]} columns, expected {expected}: {_REMAKE}"
                )


# Pickles without their dangers
#
# A pickle is a program that may call any importable function. Here it may call none: the few
# names that NumPy's arrays need are answered by stand-ins that only write down what they are
# asked, and arrays are built from those notes afterwards. NumPy's own unpickling is not used:
# `dtype.__setstate__` takes sizes and flags on trust.

_KNOWN_NAMES = {  # NumPy 1 spelling
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # bytes in protocols 0 to 2
}

# What C and Python code of `pickle` and `pickletools` raises on bytes that are no pickle; the
# module's documentation names some and says that there may be more.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def load_plain_pickle(path):
    """Read a pickle of NumPy arrays of numbers and plain Python values; execute nothing.

    Lists, tuples and dicts of None, bool, int, float, str, bytes and of arrays of bool, integer
    or floating type are read. Arrays are read-only; NumPy scalars become Python numbers.

    Raises:
        UserError: the file is missing, is no whole pickle, or holds anything else.
    """
    with _open(path) as file:
        try:
            _check_opcodes(file)
            file.seek(0)
            return _build(_NotingUnpickler(file).load(), {})
        except _RefusedError as error:
            raise UserError(
                f"'{path}' {error}: such a file may be an attack, nothing in it was executed: "
                f"{_REMAKE}"
            ) from None
        except _PICKLE_ERRORS as error:
            raise UserError(
                f"'{path}' is no whole pickle of arrays ({type(error).__name__}: "
                f"{' '.join(str(error).split())}): {_REMAKE}"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read '{path}': {error.strerror}") from None


class _RefusedError(Exception):
    """A pickle holds something else than arrays of numbers and plain values."""


def _check_opcodes(file):
    """Refuse what the unpickler does before it asks `find_class`.

    It fills the memory up to the highest memo slot, however small the file, and takes extension
    codes (numbers registered for importable names) from a cache.
    """
    size = os.fstat(file.fileno()).st_size
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > size:
            raise _RefusedError(f"asks for memo slot {argument} in {size} bytes")
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            raise _RefusedError(f"asks for extension code {argument}")


class _NotingUnpickler(pickle.Unpickler):
    """Unpickler that resolves names to stand-ins and imports nothing."""

    def find_class(self, module, name):
        full_name = f"{module}.{name}"
        known_name = full_name.replace("numpy._core.", "numpy.core.")  # moved in NumPy 2
        if known_name not in _KNOWN_NAMES:
            raise _RefusedError(f"asks for {full_name!r}")
        return _Name(known_name)


class _Name:
    """Stand-in for a name that a pickle asks for."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name

    def __call__(self, *arguments):
        return _Call(self.name, arguments)


class _Call:
    """A call that a pickle asks for, and the state that it gives to the result."""

    __slots__ = ("name", "arguments", "state")

    def __init__(self, name, arguments):
        self.name = name
        self.arguments = arguments
        self.state = None

    def __setstate__(self, state):
        self.state = state


def _build(value, built):
    """Plain copy of an unpickled value, its noted calls answered.

    `built` maps ids of values to their copies: a value that occurs often is built once, else a
    few nested lists could stand for billions of entries.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if id(value) not in built:
        if type(value) in (list, tuple):
            result = type(value)([_build(entry, built) for entry in value])
        elif type(value) is dict:
            result = {_build(key, built): _build(entry, built) for key, entry in value.items()}
        elif type(value) is _Call:
            result = _answer(value, built)
        else:
            raise _RefusedError(f"holds a value of type {type(value).__name__!r}")
        built[id(value)] = result
    return built[id(value)]


def _answer(call, built):
    """What NumPy would have returned to a noted call."""
    if call.name == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, is_fortran, data = call.state
        return _array(_build(data, built), _build(dtype, built), shape, "F" if is_fortran else "C")
    if call.name == "numpy.core.numeric._frombuffer":
        data, dtype, shape, order = call.arguments
        return _array(data, _build(dtype, built), shape, order)
    if call.name == "numpy.core.multiarray.scalar":
        dtype, data = call.arguments
        return _array(_build(data, built), _build(dtype, built), (), "C").item()
    if call.name == "numpy.dtype":
        return _dtype(*call.arguments[:1], call.state)
    if call.name == "_codecs.encode":
        text, encoding = call.arguments
        if encoding == "latin1":
            return text.encode("latin1")
    raise _RefusedError(f"calls {call.name!r} in an unusual way")


def _array(data, dtype, shape, order):
    if not (isinstance(data, (bytes, bytearray)) and isinstance(dtype, np.dtype)):
        raise _RefusedError("holds an array of something else than numbers")
    return np.frombuffer(bytes(data), dtype).reshape(shape, order=order)


def _dtype(code, state):
    """dtype of a pickled one: `code` such as "f8", byte order in `state`."""
    if not re.fullmatch("[biuf][0-9]+", code):
        raise _RefusedError(f"holds an array of type {code!r} instead of numbers")
    dtype = np.dtype(code)
    return dtype if state is None else dtype.newbyteorder(state[1])
