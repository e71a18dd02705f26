import json
import os
import pickle

import numpy as np
import pytest

from speech.dataset import Split, TimitDataset, with_deltas
from speech.facts import FOLD_61_TO_39, PHONES_39, PHONES_61
from toolbox.command_line import UserError

N_UTTERANCES = {"train": 7, "develop": 3, "test": 5}
FOLD = [PHONES_39.index(FOLD_61_TO_39[phone]) for phone in PHONES_61]


def make_utterances(seed=0):
    """Random utterances of 4 to 20 frames in the form of a dataset folder's pickles."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, n_utterances in N_UTTERANCES.items():
        n_frames = rng.integers(4, 21, n_utterances)
        phns = [rng.integers(0, 61, n) for n in n_frames]
        splits[split] = {
            "mfccs": [rng.normal(2, 3, (n, 13)) for n in n_frames],
            "filter_banks": [rng.normal(-5, 2, (n, 41)) for n in n_frames],
            "phonems": phns,
            "reduced_phonems": [np.array(FOLD)[p] for p in phns],
            "metadata": [
                {"dr": "dr1", "speaker": "fvmh0", "utterance": f"sx{i}", "num_windows": int(n)}
                for i, n in enumerate(n_frames)
            ],
        }
    return splits


def write_folder(path, splits, phn_list=PHONES_61, reduced_phn_list=PHONES_39, fold=FOLD):
    for split, lists in splits.items():
        folder = path / split
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in lists.items():
            (folder / f"{name}.pickle").write_bytes(pickle.dumps(value, 4))
        (folder / "phonem_list.json").write_text(json.dumps(phn_list))
        (folder / "reduced_phonem_list.json").write_text(json.dumps(reduced_phn_list))
        (folder / "reduced_phn_index_mapping.json").write_text(json.dumps(fold))
    return path


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "timit_processed", make_utterances())


# Recorded values of the authors' code


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(os.path.join(golden, "preprocessing.npz")) as file:
        return dict(file)


@pytest.fixture
def recorded_folder(recorded, tmp_path):
    """Folder with the recorded utterances, normalised once, in the recorded classes and splits."""
    splits = {}
    for split in N_UTTERANCES:
        utterances = [f"utt{k}" for k in recorded[f"split_{split}"]]
        splits[split] = {
            name: [recorded[f"{utterance}/{key}"] for utterance in utterances]
            for name, key in [
                ("mfccs", "mfcc_norm1"),
                ("filter_banks", "fbank_norm1"),
                ("phonems", "phn_ids"),
                ("reduced_phonems", "reduced_ids"),
            ]
        }
        splits[split]["metadata"] = [
            dict(zip(("dr", "speaker", "utterance"), name.replace("-", "/").split("/")))
            for name in (str(recorded[f"{utterance}/name"]) for utterance in utterances)
        ]
    phn_list, reduced = recorded["phn_list"].tolist(), recorded["reduced_phn_list"].tolist()
    fold = [reduced.index(phone) for phone in recorded["reduction_61_to_39"]]
    return write_folder(tmp_path / "recorded", splits, phn_list, reduced, fold)


@pytest.mark.parametrize("preproc, key", [("mfccs", "mfcc"), ("fbank", "fbank")])
@pytest.mark.parametrize("reduced_phns", [True, False])
def test_features_and_labels_equal_the_recorded_ones(
    recorded, recorded_folder, preproc, key, reduced_phns
):
    dataset = TimitDataset(recorded_folder, preproc, reduced_phns)
    for split in N_UTTERANCES:
        ours = getattr(dataset, split)
        assert len(ours) == len(recorded[f"split_{split}"])
        for i, k in enumerate(recorded[f"split_{split}"]):
            assert ours.features[i].dtype == np.float32
            # Recorded in float32 from float64: half a unit of the largest values, near 40.
            np.testing.assert_allclose(
                ours.features[i], recorded[f"utt{k}/{key}_final"], rtol=0, atol=1e-5
            )
            ids = recorded[f"utt{k}/{'reduced_ids' if reduced_phns else 'phn_ids'}"]
            np.testing.assert_array_equal(ours.phns[i], ids)
            assert ours.names[i] == str(recorded[f"utt{k}/name"]).replace("-", "/")
    assert dataset.n_features == recorded[f"utt0/{key}_final"].shape[1]
    names = recorded["reduced_phn_list" if reduced_phns else "phn_list"].tolist()
    assert (dataset.phn_list, dataset.n_phns) == (names, len(names))


def test_deltas_equal_the_recorded_ones(recorded):
    for k in range(6):
        for key in ("mfcc", "fbank"):
            np.testing.assert_allclose(
                with_deltas(recorded[f"utt{k}/{key}_norm1"].astype(np.float64)),
                recorded[f"utt{k}/{key}_deltas"],
                rtol=0,
                atol=1e-5,
            )


def test_padded_batch_equals_the_recorded_one(recorded, recorded_folder):
    (batch,) = TimitDataset(recorded_folder).train.batches(4)
    np.testing.assert_allclose(batch.features, recorded["batch_train/features"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(batch.phns, recorded["batch_train/phns"])
    np.testing.assert_array_equal(batch.seq_len, recorded["batch_train/seq_len"])


# Features


def test_deltas_by_hand():
    f = np.array([[1.0], [4.0], [9.0], [16.0]])
    d = [0, 8, 12, 0]  # f[t+1] - f[t-1]
    dd = [0, 12, -8, 0]  # d[t+1] - d[t-1]
    np.testing.assert_array_equal(with_deltas(f), np.transpose([[1, 4, 9, 16], d, dd]))


@pytest.mark.parametrize("n_frames", [1, 2])
def test_deltas_of_the_shortest_utterances_are_zero(n_frames):
    f = np.ones((n_frames, 2)) * 3
    np.testing.assert_array_equal(with_deltas(f), np.hstack([f, 0 * f, 0 * f]))


@pytest.mark.parametrize("preproc, name", [("mfccs", "mfccs"), ("fbank", "filter_banks")])
def test_every_split_is_normalised_by_the_training_frames(folder, preproc, name):
    dataset = TimitDataset(folder, preproc)
    splits = make_utterances()
    training_frames = np.concatenate([with_deltas(f) for f in splits["train"][name]])
    for split, lists in splits.items():
        for ours, f in zip(getattr(dataset, split).features, lists[name]):
            expected = (with_deltas(f) - training_frames.mean(0)) / training_frames.std(0)
            np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    ours = np.concatenate(dataset.train.features, dtype=np.float64)
    np.testing.assert_allclose(ours.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(ours.std(0), 1, atol=1e-6)


def test_a_column_that_never_changes_becomes_zero(tmp_path):
    splits = make_utterances()
    for f in splits["train"]["mfccs"]:
        f[:, 5] = 2.5
    dataset = TimitDataset(write_folder(tmp_path, splits))
    for f in dataset.train.features:
        np.testing.assert_array_equal(f[:, [5, 18, 31]], 0)


def test_htk_features_are_normalised_and_get_no_deltas(tmp_path):
    splits = make_utterances()
    for lists in splits.values():
        lists["htk"] = [f[:, :7].astype(">f4") for f in lists["mfccs"]]
    dataset = TimitDataset(write_folder(tmp_path, splits), "htk")
    assert dataset.n_features == 7
    frames = np.concatenate(splits["train"]["htk"]).astype(np.float64)
    np.testing.assert_allclose(
        np.concatenate(dataset.train.features),
        (frames - frames.mean(0)) / frames.std(0),
        rtol=1e-6,
        atol=1e-6,
    )


# Classes and metadata


def test_the_authors_own_numbering_of_the_phones(folder, tmp_path):
    """A folder with the classes in another order yields the same names, frame by frame."""
    rng = np.random.default_rng(3)
    phn_order = np.concatenate([[0], 1 + rng.permutation(60)])  # new index: index in PHONES_61
    reduced_order = np.concatenate([[0], 1 + rng.permutation(38)])
    splits = make_utterances()
    for lists in splits.values():
        lists["phonems"] = [np.argsort(phn_order)[p] for p in lists["phonems"]]
        lists["reduced_phonems"] = [np.argsort(reduced_order)[p] for p in lists["reduced_phonems"]]
        for entry in lists["metadata"]:
            del entry["utterance"]  # which the authors' script does not record
    other = write_folder(
        tmp_path / "other",
        splits,
        [PHONES_61[k] for k in phn_order],
        [PHONES_39[k] for k in reduced_order],
        np.argsort(reduced_order)[np.array(FOLD)[phn_order]].tolist(),
    )

    for reduced_phns in (True, False):
        ours, theirs = (TimitDataset(path, reduced_phns=reduced_phns) for path in (folder, other))
        assert ours.phn_list != theirs.phn_list
        assert theirs.n_phns == (39 if reduced_phns else 61)
        for i in range(len(ours.train)):
            names = [theirs.phn_list[k] for k in theirs.train.phns[i]]
            assert names == [ours.phn_list[k] for k in ours.train.phns[i]]
            folded = theirs.fold_to_reduced[theirs.train.phns[i]]
            assert [theirs.reduced_phn_list[k] for k in folded] == [
                FOLD_61_TO_39.get(name, name) for name in names
            ]
        assert theirs.train.names[2] == "dr1/fvmh0/#2"


def test_reduced_classes_fold_onto_themselves(folder):
    np.testing.assert_array_equal(TimitDataset(folder).fold_to_reduced, np.arange(39))


def test_split_tells_names_metadata_and_frames(folder):
    split = TimitDataset(folder).develop
    assert len(split) == 3
    assert split.names == ["dr1/fvmh0/sx0", "dr1/fvmh0/sx1", "dr1/fvmh0/sx2"]
    assert split.metadata == make_utterances()["develop"]["metadata"]
    assert split.n_frames == sum(entry["num_windows"] for entry in split.metadata)


def test_processing_settings_are_passed_on(folder):
    assert TimitDataset(folder).processing is None
    (folder / "processing.json").write_text('{"reference_quirks": true}')
    assert TimitDataset(folder).processing == {"reference_quirks": True}


def test_majority_error_by_hand(tmp_path):
    splits = make_utterances()
    for split, phns in {
        "train": [[4, 4, 4], [7, 7], [7, 7]],
        "develop": [[4, 4, 4, 7], [4]],
    }.items():
        splits[split] = {
            "mfccs": [np.random.default_rng(0).normal(size=(len(p), 13)) for p in phns],
            "reduced_phonems": [np.array(p) for p in phns],
            "metadata": [{"dr": "dr1", "speaker": "fvmh0"}] * len(phns),
        }
    dataset = TimitDataset(write_folder(tmp_path, splits))
    assert dataset.majority_error(dataset.train) == pytest.approx(1 / 3)
    assert dataset.majority_error(dataset.develop) == pytest.approx((3 / 4 + 1) / 2)


# Batches


def test_delayed_targets_are_the_phones_of_so_many_frames_ago(folder):
    plain = TimitDataset(folder)
    for n_frames in (1, 7, 10_000):
        delayed = TimitDataset(folder, target_delay_frames=n_frames)
        for split in ("train", "develop", "test"):
            pairs = zip(getattr(plain, split).phns, getattr(delayed, split).phns, strict=True)
            for now, later in pairs:
                assert later.dtype == np.int32 and len(later) == len(now)
                np.testing.assert_array_equal(later[n_frames:], now[: max(0, len(now) - n_frames)])
                assert not np.any(later[:n_frames])  # silence
        np.testing.assert_array_equal(plain.train.features[0], delayed.train.features[0])


def test_batches_hold_all_utterances_in_order_and_pad_with_zeros(folder):
    split = TimitDataset(folder).test
    batches = list(split.batches(2))
    assert [len(batch.seq_len) for batch in batches] == [2, 2, 1]
    utterance = 0
    for batch in batches:
        assert batch.features.dtype == np.float32
        assert batch.phns.dtype == batch.seq_len.dtype == np.int32
        assert batch.features.shape == (*batch.phns.shape, 39)
        assert batch.phns.shape[1] == batch.seq_len.max()
        for features, phns, n_frames in zip(*batch):
            np.testing.assert_array_equal(features[:n_frames], split.features[utterance])
            np.testing.assert_array_equal(phns[:n_frames], split.phns[utterance])
            assert not features[n_frames:].any() and not phns[n_frames:].any()
            utterance += 1
    assert utterance == len(split)


def test_sorted_batches_hold_the_same_utterances(folder):
    split = TimitDataset(folder).train
    in_order, by_length = (
        [n for batch in split.batches(2, **options) for n in batch.seq_len.tolist()]
        for options in ({}, {"by_length": True})
    )
    assert in_order != sorted(in_order)
    assert by_length == sorted(in_order)
    assert split.by_length([3, 0, 6]) == sorted([3, 0, 6], key=lambda i: len(split.phns[i]))


def epoch(dataset, batch_size, rng):
    """The utterances of an epoch's batches, each told by its first feature."""
    return [
        tuple(batch.features[:, 0, 0].tolist())
        for batch in dataset.training_batches(batch_size, rng)
    ]


@pytest.mark.parametrize(
    "batch_size, sizes", [(1, [1] * 7), (2, [3, 2, 2]), (3, [4, 3]), (7, [7]), (32, [7])]
)
def test_an_epoch_holds_each_training_utterance_once(folder, batch_size, sizes):
    dataset = TimitDataset(folder)
    batches = epoch(dataset, batch_size, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == sizes
    assert dataset.n_training_batches(batch_size) == len(sizes)
    assert sorted(sum(batches, ())) == sorted(float(f[0, 0]) for f in dataset.train.features)


def test_shuffling_follows_the_seed(folder):
    dataset = TimitDataset(folder)
    rngs = [np.random.default_rng(seed) for seed in (1, 1, 2)]
    first, again, other = ([epoch(dataset, 2, rng) for _ in range(3)] for rng in rngs)
    assert first == again
    assert first != other
    assert first[0] != first[1] != first[2]


def test_an_epoch_is_shuffled_when_asked_for(folder):
    """Not when its first batch is taken: the generator's state then is the same in every run."""
    dataset = TimitDataset(folder)
    rng = np.random.default_rng(5)
    batches = dataset.training_batches(2, rng)
    rng.random(10)
    taken_late = [tuple(batch.features[:, 0, 0].tolist()) for batch in batches]
    assert taken_late == epoch(dataset, 2, np.random.default_rng(5))


class Lengths:
    """A data set of which nothing but the lengths is asked; its batches are lists of indices."""

    n_training_batches = TimitDataset.n_training_batches
    training_batches = TimitDataset.training_batches

    def __init__(self, n_utterances):
        n_frames = np.random.default_rng(0).integers(100, 600, n_utterances)
        phns = [np.zeros(n, np.int32) for n in n_frames]
        self.train = Split(
            [n[:, None] for n in phns], phns, [{"dr": "", "speaker": ""}] * len(phns)
        )
        self.train.batch = list

    def padded_share(self, epoch):
        lengths = [[len(self.train.phns[i]) for i in batch] for batch in epoch]
        padded = sum(max(batch) * len(batch) for batch in lengths)
        return 1 - sum(map(sum, lengths)) / padded

    def epoch(self, seed, **options):
        return list(self.training_batches(8, np.random.default_rng(seed), **options))


@pytest.mark.parametrize("n_utterances", [3, 80, 203])
def test_batches_by_length_are_as_many_and_as_large(n_utterances):
    dataset = Lengths(n_utterances)
    batches, mixed = dataset.epoch(1, by_length=True), dataset.epoch(1)
    assert sorted(sum(batches, [])) == list(range(n_utterances))
    assert sorted(map(len, batches)) == sorted(map(len, mixed))


def test_batches_by_length_hold_little_padding():
    dataset = Lengths(400)
    mixed, by_length = (
        np.mean([dataset.padded_share(dataset.epoch(seed, **options)) for seed in range(5)])
        for options in ({}, {"by_length": True})
    )
    # Of 8 uniform lengths from 100 to 600 the longest is 544 on average, the mean 350. Sorted 40
    # at a time, those of a batch span an eighth of that range at most.
    assert mixed == pytest.approx(1 - 350 / 544, abs=0.03)
    assert by_length < 0.15


def test_batches_by_length_are_random():
    """Batches come in no order of length, and utterances meet others in every epoch."""
    dataset = Lengths(400)
    first, again, other = (dataset.epoch(seed, by_length=True) for seed in (1, 1, 2))
    assert first == again
    longest = [max(len(dataset.train.phns[i]) for i in batch) for batch in first]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4  # 3 / sqrt(50)
    pairs = [
        {(a, b) for batch in epoch for a in batch for b in batch if a < b}
        for epoch in (first, other)
    ]
    assert len(pairs[0] & pairs[1]) < 0.3 * len(pairs[0])


# One batch ahead


# Folders that cannot be used


def assert_refused(path, *words, **options):
    with pytest.raises(UserError) as error:
        TimitDataset(path, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def change(folder, split, name, value):
    (folder / split / f"{name}.pickle").write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("preproc", ["cochspec", "cochspike"])
def test_features_that_nothing_produced_are_refused(folder, preproc):
    assert_refused(folder, f"--preproc={preproc}", "mfccs, fbank, htk", preproc=preproc)


def test_missing_folder(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere", "timit_processing.py")


@pytest.mark.parametrize(
    "name",
    [
        "mfccs.pickle",
        "reduced_phonems.pickle",
        "metadata.pickle",
        "phonem_list.json",
        "reduced_phonem_list.json",
        "reduced_phn_index_mapping.json",
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_file(folder, split, name):
    (folder / split / name).unlink()
    assert_refused(folder, os.path.join(split, name), "missing", "timit_processing.py")


def test_folder_in_the_place_of_a_file(folder):
    (folder / "train" / "mfccs.pickle").unlink()
    (folder / "train" / "mfccs.pickle").mkdir()
    assert_refused(folder, "mfccs.pickle", "cannot read")


def test_missing_htk_features_say_where_they_come_from(folder):
    assert_refused(folder, "htk.pickle", "an .htk file", "--preproc=mfccs", preproc="htk")


@pytest.mark.parametrize("name", ["mfccs", "reduced_phonems", "metadata"])
def test_unequal_numbers_of_utterances(folder, name):
    change(folder, "train", name, make_utterances()["train"][name][:-1])
    assert_refused(folder, "train", "7", "6", f"{name}.pickle")


def test_empty_split(folder):
    for name in ("mfccs", "reduced_phonems", "metadata"):
        change(folder, "develop", name, [])
    assert_refused(folder, "develop", "no utterance")


def test_features_and_labels_of_unequal_length(folder):
    labels = make_utterances()["test"]["reduced_phonems"]
    n_frames = len(labels[3])
    labels[3] = labels[3][:-1]
    change(folder, "test", "reduced_phonems", labels)
    assert_refused(folder, "dr1/fvmh0/sx3", f"{n_frames} frames", f"{n_frames - 1} labels")


@pytest.mark.parametrize("wrong", [39, -1])
def test_labels_outside_the_classes(folder, wrong):
    labels = make_utterances()["train"]["reduced_phonems"]
    labels[1][2] = wrong
    change(folder, "train", "reduced_phonems", labels)
    assert_refused(folder, "reduced_phonems.pickle", "sx1", f"phone {wrong}", "0 to 38")
    assert TimitDataset(folder, reduced_phns=False).n_phns == 61


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 2), int), np.zeros(4), "h#", [0, 1, 2], None, np.zeros(4, bool)]
)
def test_labels_of_another_kind(folder, labels):
    change(folder, "train", "reduced_phonems", [labels] * 7)
    assert_refused(folder, "reduced_phonems.pickle", "sx0", "[frames] array of integers")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(folder, wrong):
    features = make_utterances()["develop"]["mfccs"]
    features[2][1, 4] = wrong
    change(folder, "develop", "mfccs", features)
    assert_refused(folder, os.path.join("develop", "mfccs.pickle"), "sx2", "finite")


@pytest.mark.parametrize(
    "features", [np.zeros(13), np.zeros((0, 13)), np.zeros((4, 13), bool), [[0.0] * 13], 1.0]
)
def test_features_of_another_kind(folder, features):
    change(folder, "train", "mfccs", [features] * 7)
    assert_refused(folder, "mfccs.pickle", "sx0", "[frames, features]")


@pytest.mark.parametrize(
    "preproc, name, width", [("mfccs", "mfccs", 13), ("fbank", "filter_banks", 41)]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_features_of_another_width(folder, preproc, name, width, split):
    features = make_utterances()[split][name]
    change(folder, split, name, [f[:, :12] for f in features])
    words = (os.path.join(split, f"{name}.pickle"), "other features", "12", str(width))
    assert_refused(folder, *words, preproc=preproc)
    change(folder, split, name, [*features[:-1], features[-1][:, :12]])
    assert_refused(folder, *words, preproc=preproc)


def test_htk_features_of_differing_widths(tmp_path):
    splits = make_utterances()
    for split, lists in splits.items():
        lists["htk"] = [f[:, : 9 if split == "test" else 7] for f in lists["mfccs"]]
    assert_refused(
        write_folder(tmp_path, splits), "test", "found 9 columns, expected 7", preproc="htk"
    )


@pytest.mark.parametrize("value", [{}, {"dr": "dr1"}, "dr1/fvmh0", None])
def test_metadata_of_another_kind(folder, value):
    change(folder, "train", "metadata", [value] * 7)
    assert_refused(folder, "metadata.pickle", "entry 0", "speaker")


@pytest.mark.parametrize("name", ["mfccs", "reduced_phonems", "metadata"])
@pytest.mark.parametrize("value", [{}, None, 3, np.zeros((7, 5, 13)), "text"])
def test_pickles_that_hold_no_list(folder, name, value):
    change(folder, "train", name, value)
    assert_refused(folder, f"{name}.pickle", "no list")


@pytest.mark.parametrize(
    "name, value",
    [
        ("phonem_list.json", {}),
        ("phonem_list.json", PHONES_61[:-1]),
        ("phonem_list.json", (*PHONES_61[:-1], "aa")),
        ("phonem_list.json", (*PHONES_61[1:], "h#")),
        ("phonem_list.json", (*PHONES_61[:-1], 5)),
        ("reduced_phonem_list.json", PHONES_61),
        ("reduced_phonem_list.json", (*PHONES_39[1:], "sil")),
        ("reduced_phonem_list.json", (*PHONES_39[:-1], ["zh"])),
        ("reduced_phn_index_mapping.json", FOLD[:-1]),
        ("reduced_phn_index_mapping.json", {str(k): v for k, v in enumerate(FOLD)}),
        ("reduced_phn_index_mapping.json", [*FOLD[:-1], 39]),
        ("reduced_phn_index_mapping.json", [*FOLD[:-1], -1]),
        ("reduced_phn_index_mapping.json", [*FOLD[:-1], 1.0]),
        ("reduced_phn_index_mapping.json", [1, *FOLD[1:]]),
    ],
)
def test_json_of_the_wrong_shape(folder, name, value):
    (folder / "train" / name).write_text(json.dumps(value))
    assert_refused(folder, os.path.join("train", name), "list of", "timit_processing.py")


@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["train/phonem_list.json", "processing.json"])
def test_files_that_are_no_json(folder, name, content):
    (folder / name).write_bytes(content)
    assert_refused(folder, os.path.basename(name), "JSON")


def test_processing_settings_of_the_wrong_shape(folder):
    (folder / "processing.json").write_text("[1]")
    assert_refused(folder, "processing.json", "object")


def test_splits_with_different_classes(folder):
    swapped = ["h#", *reversed(PHONES_61[1:])]
    (folder / "test" / "phonem_list.json").write_text(json.dumps(swapped))
    assert_refused(folder, "train", "test", "differ")
