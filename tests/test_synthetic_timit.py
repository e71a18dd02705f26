"""The synthetic corpus: TIMIT's layout and formats, all phones, and phones that can be confused."""

import hashlib
import os
import re

import numpy as np
import pytest
import python_speech_features
import scipy.signal
import soundfile

import synthetic_timit
from helpers import assert_user_error
from speech.facts import (
    CORE_TEST_SPEAKERS,
    DEVELOP_SPEAKERS,
    FOLD_61_TO_39,
    FRAME_HOP_SAMPLES,
    PHONES_39,
    PHONES_61,
    SAMPLE_RATE_HZ,
)
from toolbox.command_line import UserError

SIZES = {"n_train": 80, "n_develop": 24, "n_test": 24}
KINDS = ("phn", "txt", "wav", "wrd")
FOLD = np.array([PHONES_39.index(FOLD_61_TO_39[phone]) for phone in PHONES_61])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of the default size and seed, written by one process."""
    path = tmp_path_factory.mktemp("corpus") / "timit_synthetic"
    synthetic_timit.write_corpus(path, n_processes=1)
    return path


def utterances(corpus, split="*"):
    return sorted(path.with_suffix("") for path in corpus.glob(f"{split}/*/*/*.wav"))


def rows(utterance, kind):
    """Lines of a label file as (start, end, text)."""
    lines = utterance.with_suffix(f".{kind}").read_text(encoding="ascii").splitlines()
    return [(int(start), int(end), text) for start, end, text in (x.split(" ", 2) for x in lines)]


def digest(corpus):
    """One number for all names and bytes of a corpus."""
    total = hashlib.sha256()
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(corpus)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


# ------------------------------------------------------------------------------------- layout


def test_layout_and_speakers(corpus):
    counts = {"train": 0, "develop": 0, "test": 0}
    speakers = {split: set() for split in counts}
    for utterance in utterances(corpus):
        split, region, speaker, name = utterance.relative_to(corpus).parts
        assert re.fullmatch(r"dr[1-8]", region)
        assert re.fullmatch(r"[fm][a-z]{3}\d", speaker)
        assert re.fullmatch(r"(sx|si)\d+", name)
        if split == "test" and f"{region}/{speaker}" in DEVELOP_SPEAKERS:
            split = "develop"
        counts[split] += 1
        speakers[split].add(f"{region}/{speaker}")
    assert counts == {"train": 80, "develop": 24, "test": 24}
    assert {split: len(names) for split, names in speakers.items()} == {
        "train": 10,
        "develop": 3,
        "test": 3,
    }
    assert speakers["test"] <= CORE_TEST_SPEAKERS
    assert {name[4] for name in speakers["train"]} == {"f", "m"}
    files = [path for path in corpus.rglob("*") if path.is_file()]
    assert len(files) == 4 * 128 + 1  # and the file that marks the corpus
    for utterance in utterances(corpus):
        assert all(utterance.with_suffix(f".{kind}").is_file() for kind in KINDS)


def test_plan_of_full_size_has_timits_shape():
    plan = synthetic_timit.plan_corpus(**synthetic_timit.N_MOST)
    assert len({utterance.path for utterance in plan}) == len(plan) == 3696 + 400 + 192
    speakers = {split: {x.speaker for x in plan if x.split == split} for split in ("train", "test")}
    assert len(speakers["train"]) == 462
    assert speakers["test"] == CORE_TEST_SPEAKERS | DEVELOP_SPEAKERS
    names = {name: {speaker[4:] for speaker in speakers[name]} for name in speakers}
    assert len(names["train"]) == 462 and not names["train"] & names["test"]
    by_speaker = {}
    for utterance in plan:
        by_speaker.setdefault(utterance.speaker, []).append(utterance.style)
    assert all(sorted(styles) == ["si"] * 3 + ["sx"] * 5 for styles in by_speaker.values())
    read_in = {}
    for utterance in plan:
        assert utterance.number <= 450 if utterance.style == "sx" else utterance.number > 450
        split = "develop" if utterance.speaker in DEVELOP_SPEAKERS else utterance.split
        read_in.setdefault(utterance.number, set()).add(split)
    assert all(len(splits) == 1 for splits in read_in.values())  # no sentence in two splits


@pytest.mark.parametrize(
    ("n_utterances", "n_speakers"), [(1, 1), (2, 2), (3, 3), (10, 3), (24, 3), (25, 4), (192, 24)]
)
def test_any_size_is_spread_over_speakers(n_utterances, n_speakers):
    plan = synthetic_timit.plan_corpus(1, 1, n_utterances)[2:]
    counts = {}
    for utterance in plan:
        counts[utterance.speaker] = counts.get(utterance.speaker, 0) + 1
    assert len(plan) == n_utterances
    assert len(counts) == n_speakers
    assert max(counts.values()) - min(counts.values()) <= 1


# -------------------------------------------------------------------------------------- files


def test_audio_is_nist_sphere_and_labels_cover_it(corpus):
    durations_s = []
    for utterance in utterances(corpus):
        path = utterance.with_suffix(".wav")
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.endian) == ("NIST", "PCM_16", "LITTLE")
        assert (info.samplerate, info.channels) == (SAMPLE_RATE_HZ, 1)
        samples, _ = soundfile.read(path, dtype="int16")
        content = path.read_bytes()
        assert content.startswith(b"NIST_1A\n   1024\n")
        header = content[:1024].decode("ascii")
        assert f"\nsample_count -i {len(samples)}\n" in header
        assert f"\nsample_min -i {samples.min()}\n" in header
        assert "\nsample_byte_format -s2 01\n" in header
        assert np.array_equal(samples, np.frombuffer(content[1024:], "<i2"))
        assert 1000 < np.abs(samples.astype(int)).max() < 32767  # neither faint nor clipped

        phones = rows(utterance, "phn")
        assert phones[0][0] == 0 and phones[-1][1] == len(samples)
        assert all(end == start for (_, end, _), (start, _, _) in zip(phones, phones[1:]))
        assert all(end - start >= FRAME_HOP_SAMPLES for start, end, _ in phones)
        assert {phone for _, _, phone in phones} <= set(PHONES_61)
        assert phones[0][2] == phones[-1][2] == "h#"
        assert "h#" not in [phone for _, _, phone in phones[1:-1]]

        bounds = [start for start, _, _ in phones]
        words = rows(utterance, "wrd")
        assert all(start in bounds and end in bounds for start, end, _ in words)
        ((start, end, sentence),) = rows(utterance, "txt")
        assert (start, end) == (0, len(samples)) and sentence.endswith(".")
        assert re.findall("[a-z]+", sentence.lower()) == [word for _, _, word in words]
        pronunciations = dict(synthetic_timit.lexicon())
        for start, end, word in words:
            spoken = tuple(phone for s, e, phone in phones if start <= s and e <= end)
            assert spoken == pronunciations[word]
        durations_s.append(len(samples) / SAMPLE_RATE_HZ)
    assert 2.5 < np.mean(durations_s) < 3.5  # TIMIT: 3.1 s
    assert np.std(durations_s) > 0.3


def test_a_shared_sentence_has_one_text_and_different_sounds(tmp_path):
    """As in TIMIT, where seven speakers read each sx sentence."""
    plan = synthetic_timit.plan_corpus(3696, 1, 1)
    shared = [utterance for utterance in plan if utterance.number == 1][:2]
    for utterance in shared:
        os.makedirs(tmp_path / os.path.dirname(utterance.path))
        synthetic_timit._write_utterance(tmp_path, 1, utterance)
    one, other = (tmp_path / utterance.path for utterance in shared)
    assert rows(one, "txt")[0][2] == rows(other, "txt")[0][2]
    assert rows(one, "phn") != rows(other, "phn")


def test_all_phones_occur_in_the_training_set(corpus):
    heard = {
        phone for utterance in utterances(corpus, "train") for *_, phone in rows(utterance, "phn")
    }
    assert heard == set(PHONES_61)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("n_train", [48, 49, 55, 57, 80, 100, 401])
def test_all_phones_are_promised_for_any_size_from_48(n_train, seed):
    words = synthetic_timit.lexicon()
    heard = {"h#"}
    for utterance in synthetic_timit.plan_corpus(n_train, 1, 1)[:n_train]:
        sentence, pause = synthetic_timit.sentence(utterance.number, seed)
        heard.update(*(words[word][1] for word in sentence), ["pau"] if pause else [])
    assert heard == set(PHONES_61)


# ---------------------------------------------------------------------------------- the seed


def test_same_seed_same_bytes_whatever_the_processes(corpus, tmp_path):
    synthetic_timit.write_corpus(tmp_path / "again", **SIZES, seed=1, n_processes=2)
    assert digest(tmp_path / "again") == digest(corpus)


def test_other_seed_other_sound_and_sentences(corpus, tmp_path):
    small = {"n_train": 3, "n_develop": 1, "n_test": 1}
    for seed in (1, 2):
        synthetic_timit.write_corpus(tmp_path / str(seed), **small, seed=seed)
    for one, other in zip(utterances(tmp_path / "1"), utterances(tmp_path / "2")):
        assert one.relative_to(tmp_path / "1") == other.relative_to(tmp_path / "2")
        assert rows(one, "txt")[0][2] != rows(other, "txt")[0][2]
        assert one.with_suffix(".wav").read_bytes() != other.with_suffix(".wav").read_bytes()


# ---------------------------------------------------------------------------------- the sound


def test_a_vowel_has_its_formants():
    """A long /aa/ and /iy/ of an undisturbed voice peak where Peterson and Barney's do."""
    voice = synthetic_timit.Voice(
        pitch_hz=50.0,
        formant_scale=1.0,
        accent=np.ones((len(PHONES_61), 3)),
        glottal_slope=1.0,
        tempo=1.0,
        level_db=0.0,
        background_db=-60.0,
    )

    class Unscattered:
        """White noise where sound is asked for, and no chance elsewhere."""

        rng = np.random.default_rng(0)

        def standard_normal(self, size, dtype=None):
            return np.zeros(size) if dtype is None else self.rng.standard_normal(size, dtype)

    for phone, formants_hz in (("aa", (730, 1090, 2440)), ("iy", (280, 2270, 3000))):
        sound = synthetic_timit.synthesise(
            np.array([0, PHONES_61.index(phone), 0]),
            np.array([1600, 17600, 19200]),
            voice,
            Unscattered(),
        )
        # Windows of one pitch period see the formants, not the harmonics.
        frequencies_hz, power = scipy.signal.welch(sound[5600:13600], SAMPLE_RATE_HZ, nperseg=320)
        is_peak = (power[1:-1] > power[:-2]) & (power[1:-1] > power[2:])
        peaks_hz = frequencies_hz[1:-1][is_peak]
        for formant_hz in formants_hz:
            assert np.abs(peaks_hz - formant_hz).min() <= 50, (phone, peaks_hz)


def features_and_labels(corpus, split):
    """39 features (MFCC, first and second differences) `[frames, 39]`, phones `[frames]`."""
    features, labels = [], []
    for utterance in utterances(corpus, split):
        samples, _ = soundfile.read(utterance.with_suffix(".wav"), dtype="int16")
        mfccs = python_speech_features.mfcc(samples, SAMPLE_RATE_HZ)
        deltas = np.gradient(mfccs, axis=0)
        features.append(np.concatenate([mfccs, deltas, np.gradient(deltas, axis=0)], axis=1))
        label = np.zeros(len(mfccs), int)
        for start, end, phone in rows(utterance, "phn"):
            label[start // FRAME_HOP_SAMPLES : end // FRAME_HOP_SAMPLES] = PHONES_61.index(phone)
        labels.append(label)
    return np.concatenate(features), np.concatenate(labels)


def discriminant_analysis(features, labels, n_classes):
    """Weights and biases of linear discriminant analysis: Gaussian classes, one covariance."""
    one_hot = np.eye(n_classes)[labels]
    counts = one_hot.sum(axis=0)[:, None]
    means = one_hot.T @ features / counts
    within = features - means[labels]
    weights = np.linalg.solve(within.T @ within / len(features), means.T)
    return weights, np.log(counts[:, 0] / len(labels)) - 0.5 * (means * weights.T).sum(axis=1)


def ridge_regression(features, labels, n_classes):
    """Weights and biases of least squares on the one-hot classes."""
    padded = np.pad(features, [(0, 0), (0, 1)], constant_values=1)
    gram = padded.T @ padded + np.eye(padded.shape[1])
    solution = np.linalg.solve(gram, padded.T @ np.eye(n_classes)[labels])
    return solution[:-1], solution[-1]


def test_phones_are_confusable_but_not_alike(corpus):
    """A linear readout does on unseen speakers about what it does on TIMIT.

    There, on the 16-speaker sample, discriminant analysis gets 0.48 of the frames right in 39
    classes and 0.39 in 61, where silence is 0.25 and 0.13. The bounds here leave room for another
    NumPy's random numbers: over seeds the values spread by about 0.02.
    """
    features, labels = features_and_labels(corpus, "train")
    unseen, unseen_labels = features_and_labels(corpus, "test")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    features, unseen = (features - mean) / deviation, (unseen - mean) / deviation

    def correct(fit, fold, n_classes):
        weights, biases = fit(features, fold[labels], n_classes)
        return np.mean((unseen @ weights + biases).argmax(axis=1) == fold[unseen_labels])

    silence = np.mean(FOLD[unseen_labels] == 0)
    assert 0.19 < silence < 0.3
    assert max(np.bincount(FOLD[unseen_labels])) == np.sum(FOLD[unseen_labels] == 0)
    right_39 = correct(discriminant_analysis, FOLD, 39)
    right_61 = correct(discriminant_analysis, np.arange(61), 61)
    assert 0.5 < right_39 < 0.7
    assert 0.4 < right_61 < 0.6 and right_61 < right_39
    assert right_39 > silence + 0.25
    assert silence + 0.15 < correct(ridge_regression, FOLD, 39) < 0.7


# ----------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ({"n_train": 3697}, 3696),
        ({"n_train": 0}, 3696),
        ({"n_develop": 401}, 400),
        ({"n_test": 193}, 192),
        ({"n_test": -1}, 192),
    ],
)
def test_a_size_out_of_range_is_refused(tmp_path, size, limit):
    ((name, value),) = size.items()
    with pytest.raises(UserError, match=f"--{name}={value}: expected 1 to {limit} utterances"):
        synthetic_timit.write_corpus(tmp_path / "corpus", **{**SIZES, **size})
    assert not os.listdir(tmp_path)


def test_command_line(run_script, tmp_path):
    small = ("--n_train=3", "--n_develop=2", "--n_test=1")
    done = run_script("synthetic_timit.py", *small)
    assert done.returncode == 0, done.stderr
    assert "timit_synthetic: 3 training, 2 development and 1 test utterances" in done.stdout
    assert len(utterances(tmp_path / "timit_synthetic")) == 6

    foreign = tmp_path / "timit"
    (foreign / "train").mkdir(parents=True)
    (foreign / "train" / "precious.wav").write_bytes(b"speech")
    for arguments, words in (
        (["--output_path=timit"], ["timit exists", "choose another", "remove it"]),
        (["--output_path=timit/train/precious.wav"], ["precious.wav exists"]),
        (["--output_path=timit/train/precious.wav/corpus"], ["cannot be written"]),
        (["--output_path="], ["exists and is no synthetic corpus"]),
        (["--n_train=4000"], ["--n_train=4000", "1 to 3696"]),
        (["--seed=-1"], ["seed"]),
    ):
        assert_user_error(run_script("synthetic_timit.py", *small[1:], *arguments), *words)
    assert (foreign / "train" / "precious.wav").read_bytes() == b"speech"
    assert sorted(os.listdir(tmp_path)) == ["timit", "timit_synthetic"]


def test_only_a_synthetic_corpus_or_an_empty_folder_is_replaced(tmp_path):
    path = tmp_path / "corpus"
    path.mkdir()
    synthetic_timit.write_corpus(path, 3, 1, 1)
    assert len(utterances(path)) == 5
    synthetic_timit.write_corpus(path, 1, 1, 1)
    assert len(utterances(path)) == 3
    (path / synthetic_timit.MARKER).unlink()
    with pytest.raises(UserError, match="is no synthetic corpus"):
        synthetic_timit.write_corpus(path, 1, 1, 1)
    assert len(utterances(path)) == 3
    assert os.listdir(tmp_path) == ["corpus"]
