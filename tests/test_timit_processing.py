"""Corpus to pickles: recorded features and labels, formats, layouts, bad input."""

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import timit_processing
from helpers import REPOSITORY, assert_user_error
from speech.dataset import load_plain_pickle
from speech.facts import FOLD_61_TO_39, PHONES_39, PHONES_61
from toolbox import command_line
from toolbox.command_line import UserError

SCRIPT = "timit_processing.py"
# One speaker of the training, the development and the core-test set.
TRAIN, DEVELOP, TEST = "train/dr1/fcjf0", "test/dr1/faks0", "test/dr1/felc0"
PHN = "0 800 h#\n800 1600 sh\n1600 3000 iy\n"
WRD = "800 3000 she\n"
TXT = "0 3200 She.\n"
N_SAMPLES = 3200  # 0.2 s
N_FRAMES = 19  # 1 + ceil((3200 - 400) / 160) = 18.5, up


# Audio files, written by hand so that any field can be wrong


def noise(seed=0, n_samples=N_SAMPLES):
    return np.random.default_rng(seed).integers(-2000, 2000, n_samples).astype(np.int16)


def sphere(samples, announced=None, rate_hz=16000, channels=1, byte_format="01", coding="pcm"):
    header = (
        "NIST_1A\n   1024\n"
        f"channel_count -i {channels}\nsample_count -i {announced or len(samples)}\n"
        f"sample_rate -i {rate_hz}\nsample_n_bytes -i 2\nsample_byte_format -s2 {byte_format}\n"
        f"sample_sig_bits -i 16\nsample_coding -s{len(coding)} {coding}\nend_head\n"
    )
    order = {"01": "<i2", "10": ">i2"}[byte_format]
    return header.encode().ljust(1024) + samples.astype(order).tobytes()


def riff(samples, announced=None, rate_hz=16000, channels=1, bits=16):
    data = samples.tobytes()
    frame_bytes = channels * bits // 8
    layout = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * frame_bytes, frame_bytes, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout
    chunks += b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk, padded to a whole word
    chunks += b"data" + struct.pack("<I", 2 * announced if announced else len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def htk(frames, dtype=">f4", kind=9, announced=None):
    """HTK parameter file: number of frames, 100-ns period, bytes a frame, kind, then the data."""
    data = frames.astype(dtype)
    header = struct.pack(">IIHH", announced or len(data), 100000, data[:1].nbytes, kind)
    return header + data.tobytes()


# Corpora


def write_utterance(corpus, stem, seed=0):
    stem = corpus / stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".wav").write_bytes(sphere(noise(seed)))
    for suffix, text in ((".phn", PHN), (".wrd", WRD), (".txt", TXT)):
        stem.with_suffix(suffix).write_text(text)


def write_corpus(corpus, n_train=2, n_other=1):
    counts = {TRAIN: n_train, DEVELOP: n_other, TEST: n_other}
    for offset, (speaker, count) in enumerate(counts.items()):
        for number in range(count):
            write_utterance(corpus, f"{speaker}/sx{number}", seed=1000 * offset + number)
    return corpus


@pytest.fixture
def corpus(tmp_path):
    """Two training utterances, one of each other set, in the LDC's layout."""
    return write_corpus(tmp_path / "timit")


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Function that runs the script's command line in this process: the same path, sooner."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            command_line.run(
                timit_processing.main,
                timit_processing.define_flags,
                timit_processing.__doc__,
                [SCRIPT, *arguments],
            )
        printed = capsys.readouterr()
        status = end.value.code or 0
        return subprocess.CompletedProcess(arguments, status, printed.out, printed.err)

    return run


def process(run_here, corpus, *arguments):
    """Process a corpus and return the folder of the pickles."""
    done = run_here(f"--data_path={corpus}", "--output_path=out", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return corpus.parent / "out"


def load(folder, name):
    with open(folder / f"{name}.pickle", "rb") as file:
        return pickle.load(file)


def lists(folder):
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in LISTS}


LISTS = ("word_list", "phonem_list", "reduced_phonem_list", "reduced_phn_index_mapping")
LABELS = ("phonems", "reduced_phonems", "words")


# Recorded vectors


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(os.path.join(golden, "preprocessing.npz")) as file:
        return dict(file)


def recorded_audio(recorded, timit_sample):
    """Index, stem and audio of each utterance of which features were recorded."""
    for index, name in enumerate(recorded["utterances"]):
        stem = os.path.join(timit_sample, str(name))
        yield index, stem, timit_processing.read_audio(f"{stem}.wav")


def test_features_equal_the_recorded_ones(recorded, timit_sample):
    for index, _, audio in recorded_audio(recorded, timit_sample):
        want = {key: recorded[f"utt{index}/{key}"] for key in ("mfcc", "fbank_energy")}
        assert len(audio) == recorded[f"utt{index}/num_samples"]
        mfccs, energies = timit_processing.speech_features(audio, log_filter_banks=False)
        _, log_energies = timit_processing.speech_features(audio, log_filter_banks=True)
        np.testing.assert_allclose(mfccs, want["mfcc"], rtol=0, atol=1e-5)
        # Energies reach 1e9: the recording's float32 resolves 6e-8 of each.
        np.testing.assert_allclose(energies, want["fbank_energy"], rtol=1e-6)
        np.testing.assert_allclose(log_energies, np.log(want["fbank_energy"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind, key", [("mfccs", "mfcc"), ("filter_banks", "fbank_energy")])
def test_normalised_features_equal_the_recorded_ones(recorded, timit_sample, kind, key):
    dataset = {"train": [], "develop": [], "test": []}
    for index, _, audio in recorded_audio(recorded, timit_sample):
        split = next(s for s in dataset if index in recorded[f"split_{s}"])
        features = timit_processing.speech_features(audio, log_filter_banks=False)
        recording = dict(zip(("mfccs", "filter_banks"), features), index=index)
        recording[kind] = recording[kind].astype(np.float32)  # as `process_utterance` returns it
        dataset[split].append(recording)
    timit_processing.normalise(dataset)
    recordings = sum(dataset.values(), [])
    assert len(recordings) == 6
    for recording in recordings:
        want = recorded[f"utt{recording['index']}/{key.split('_')[0]}_norm1"]
        assert recording[kind].dtype == np.float32
        np.testing.assert_allclose(recording[kind], want, rtol=0, atol=1e-5)


def test_labels_equal_the_recorded_ones(recorded, timit_sample):
    differing = []
    for index, stem, audio in recorded_audio(recorded, timit_sample):
        spans = timit_processing.read_phones(f"{stem}.phn", len(audio))
        n_frames = int(recorded[f"utt{index}/num_windows"])
        quirks, default = (
            timit_processing.frame_labels(
                spans,
                timit_processing.PHONE_INDEX,
                n_frames,
                timit_processing.label_step_samples(reference_quirks),
            )
            for reference_quirks in (True, False)
        )
        reduced = timit_processing.REDUCED_INDICES[quirks]
        assert [PHONES_61[i] for i in quirks] == recorded[f"utt{index}/phn_names"].tolist()
        assert [PHONES_39[i] for i in reduced] == recorded[f"utt{index}/reduced_names"].tolist()
        differing.append(int(np.sum(quirks != default)))
    assert differing == [32, 32, 19, 19, 22, 32]  # golden/NOTES.md, part D


# The speech sample


@pytest.fixture(scope="module")
def sample(timit_sample, tmp_path_factory):
    """The sample's folder of pickles and what the script printed."""
    folder = tmp_path_factory.mktemp("sample")
    done = subprocess.run(
        [sys.executable, os.path.join(REPOSITORY, SCRIPT), f"--data_path={timit_sample}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder / "timit_processed", done.stdout


def test_sample_has_the_expected_size(sample):
    folder, printed = sample
    sizes = {"train": (80, 10), "develop": (24, 3), "test": (24, 3)}
    settings = json.loads((folder / "processing.json").read_text())
    phones = set()
    for split, (utterances, speakers) in sizes.items():
        metadata = load(folder / split, "metadata")
        frames = sum(entry["num_windows"] for entry in metadata)
        assert len(metadata) == utterances
        assert len({(entry["dr"], entry["speaker"]) for entry in metadata}) == speakers
        assert settings["splits"][split]["utterances"] == utterances
        assert settings["splits"][split]["speakers"] == speakers
        assert settings["splits"][split]["frames"] == frames
        row = next(line.split() for line in printed.splitlines() if line.split()[:1] == [split])
        assert row[1:3] == [str(speakers), str(utterances)] and row[4] == f"{frames:,}"
        phones.update(np.concatenate(load(folder / split, "phonems")).tolist())
        assert not any(entry["utterance"].startswith("sa") for entry in metadata)
    assert phones == set(range(61))
    assert "61 of 61 phones" in printed and "zh 2/2/1" in printed
    assert settings["layout"] == "nltk_sample" and settings["htk"] is False
    assert settings["features"] == {"mfccs": 13, "filter_banks": 41}
    assert settings["versions"]["numpy"] == np.__version__


def test_sample_labels_agree_with_one_another(sample):
    folder, _ = sample
    for split in ("train", "develop", "test"):
        names = lists(folder / split)
        assert names == lists(folder / "train")
        assert names["phonem_list"] == list(PHONES_61)
        assert names["reduced_phonem_list"] == list(PHONES_39)
        fold = names["reduced_phn_index_mapping"]
        assert [PHONES_39[i] for i in fold] == [FOLD_61_TO_39[phone] for phone in PHONES_61]
        labels = {name: load(folder / split, name) for name in LABELS}
        features = [load(folder / split, name) for name in ("mfccs", "filter_banks")]
        for index, entry in enumerate(load(folder / split, "metadata")):
            phonems = labels["phonems"][index]
            np.testing.assert_array_equal(labels["reduced_phonems"][index], np.array(fold)[phonems])
            # TIMIT labels silence at both ends, and no word there.
            words = [names["word_list"][i] for i in labels["words"][index]]
            assert words[0] is None and phonems[0] == 0
            spoken = {word for word in words if word is not None}
            text = entry["text"].lower().replace("-", " ")
            assert any(word in text for word in spoken) and len(spoken) > 1
            for array in (*(f[index] for f in features), *(labels[n][index] for n in LABELS)):
                assert len(array) == entry["num_windows"]


def test_sample_features_are_normalised_by_the_training_set(sample, timit_sample):
    folder, _ = sample
    for name in ("mfccs", "filter_banks"):
        frames = np.concatenate(load(folder / "train", name)).astype(np.float64)
        np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-5)
    # Development features are the raw ones under the same map: equal to them but for a line.
    entry, mfccs = load(folder / "develop", "metadata")[5], load(folder / "develop", "mfccs")[5]
    speaker = f"{entry['dr']}-{entry['speaker']}"
    audio = timit_processing.read_audio(
        os.path.join(timit_sample, speaker, f"{entry['utterance']}.wav")
    )
    raw, _ = timit_processing.speech_features(audio, log_filter_banks=True)
    for column in range(13):
        slope, offset = np.polyfit(raw[:, column], mfccs[:, column], 1)
        assert slope > 0
        np.testing.assert_allclose(slope * raw[:, column] + offset, mfccs[:, column], atol=1e-4)
    np.testing.assert_array_equal(load(folder / "develop", "wav")[5], audio)
    assert entry["duration"] == len(audio) / 16000


# Format


def test_pickles_hold_plain_values_under_the_reference_names(corpus, run_here):
    folder = process(run_here, corpus)
    names = {"metadata", "wav", "mfccs", "filter_banks", *LABELS}
    files = {f"{name}.pickle" for name in names} | {f"{name}.json" for name in LISTS}
    assert set(os.listdir(folder)) == {"train", "develop", "test", "processing.json"}
    for split, utterances in (("train", ["sx0", "sx1"]), ("develop", ["sx0"]), ("test", ["sx0"])):
        assert set(os.listdir(folder / split)) == files
        content = {name: load(folder / split, name) for name in names}
        for name in names:
            raw = (folder / split / f"{name}.pickle").read_bytes()
            assert raw[:2] == b"\x80\x04"  # protocol 4
            assert b"numpy._core" not in raw  # NumPy 1, which the reference needs, has none
            assert type(content[name]) is list and len(content[name]) == len(utterances)
            plain = load_plain_pickle(folder / split / f"{name}.pickle")
            for ours, theirs in zip(content[name], plain):
                np.testing.assert_array_equal(ours, theirs)
        assert [entry["utterance"] for entry in content["metadata"]] == utterances
        assert content["metadata"][0] == {
            "dr": "dr1",
            "speaker": {"train": "fcjf0", "develop": "faks0", "test": "felc0"}[split],
            "utterance": "sx0",
            "text": "She.",
            "sample_start": 0,
            "sample_end": 3200,
            "duration": 0.2,
            "num_windows": N_FRAMES,
            "dataset_source": "train" if split == "train" else "test",
            "dataset_target": split,
        }
        assert {type(v) for v in content["metadata"][0].values()} == {str, int, float}
        for name, dtype, shape in (
            ("wav", np.int16, (N_SAMPLES,)),
            ("mfccs", np.float32, (N_FRAMES, 13)),
            ("filter_banks", np.float32, (N_FRAMES, 41)),
            ("phonems", np.int32, (N_FRAMES,)),
            ("reduced_phonems", np.int32, (N_FRAMES,)),
            ("words", np.int32, (N_FRAMES,)),
        ):
            assert {(type(a), a.dtype, a.shape) for a in content[name]} == {
                (np.ndarray, np.dtype(dtype), shape)
            }
        # PHN and WRD: sh from sample 800, iy from 1600 to 3000, both in the word.
        sh, iy = PHONES_61.index("sh"), PHONES_61.index("iy")
        assert content["phonems"][0].tolist() == [0] * 5 + [sh] * 5 + [iy] * 8 + [0]
        assert content["words"][0].tolist() == [0] * 5 + [1] * 13 + [0]
        assert lists(folder / split)["word_list"] == [None, "she"]


def test_reference_quirks_change_labels_and_filter_banks_only(corpus, run_here):
    text = "".join(f"{160 * i} {160 * (i + 1)} {p}\n" for i, p in enumerate(PHONES_61[1:20]))
    (corpus / f"{TRAIN}/sx0.phn").write_text(text)
    folder = process(run_here, corpus, "--reference_quirks")
    assert json.loads((folder / "processing.json").read_text())["reference_quirks"] is True
    # Row i, samples 160 i to 160 (i + 1), gives frame 160 i // 161 = i - 1 the label i + 1, and
    # the first row covers no multiple of 161.
    assert load(folder / "train", "phonems")[0].tolist() == list(range(2, 20)) + [0]
    mfccs, filter_banks = (load(folder / "train", name) for name in ("mfccs", "filter_banks"))
    folder = process(run_here, corpus)
    settings = json.loads((folder / "processing.json").read_text())
    assert settings["reference_quirks"] is False
    assert settings["label_step_samples"] == 160 and settings["log_filter_banks"] is True
    assert load(folder / "train", "phonems")[0].tolist() == list(range(1, 20))
    np.testing.assert_array_equal(load(folder / "train", "mfccs"), mfccs)
    logarithms = np.concatenate(load(folder / "train", "filter_banks"))
    linear = np.concatenate(filter_banks)
    # The logarithm is increasing and curved: the same order of frames, other numbers.
    np.testing.assert_array_equal(linear.argsort(axis=0), logarithms.argsort(axis=0))
    assert np.abs(linear - logarithms).max() > 0.1


def test_processes_do_not_change_the_output(tmp_path, run_here, run_script):
    corpus = write_corpus(tmp_path / "timit", n_train=70, n_other=2)
    for number in range(70):  # words in an order of their own
        (corpus / f"{TRAIN}/sx{number}.wrd").write_text(f"800 1600 w{number * 37 % 70}\n")
    contents = []
    for n_processes in (1, 3):
        folder = process(run_here, corpus, f"--n_processes={n_processes}")
        contents.append([])
        for split in ("train", "develop", "test"):
            contents[-1] += [lists(folder / split), load(folder / split, "metadata")]
            for name in ("wav", "mfccs", "filter_banks", *LABELS):
                contents[-1].append([array.tolist() for array in load(folder / split, name)])
    assert contents[0] == contents[1]
    names = sorted((f"sx{number}" for number in range(70)))
    metadata = load(folder / "train", "metadata")
    assert [entry["utterance"] for entry in metadata] == names
    order = [f"w{int(name[2:]) * 37 % 70}" for name in names]
    assert lists(folder / "test")["word_list"] == [None, *order, "she"]

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (corpus / f"{TRAIN}/sx50.phn").write_text("0 900 xx\n")  # seen by a process of the pool
    (corpus / f"{TRAIN}/sx60.phn").write_text("0 900 yy\n")
    done = run_script(SCRIPT, f"--data_path={corpus}", "--output_path=out", "--n_processes=3")
    assert_user_error(done, os.path.join("fcjf0", "sx50.phn"), "line 1", "'xx'")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_interrupted_run_leaves_nothing(tmp_path):
    corpus = write_corpus(tmp_path / "timit", n_train=400)
    process_ = subprocess.Popen(
        [sys.executable, os.path.join(REPOSITORY, SCRIPT), f"--data_path={corpus}"]
        + ["--n_processes=2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, so that all its processes get the signal
    )
    deadline = time.monotonic() + 60
    while not any(name.endswith(".partial") for name in os.listdir(tmp_path)):
        assert process_.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # the other processes are starting now
    os.killpg(process_.pid, signal.SIGINT)
    stdout, stderr = process_.communicate(timeout=60)
    assert process_.returncode == 130
    assert (stdout, stderr) == ("", f"{SCRIPT}: interrupted\n")
    assert os.listdir(tmp_path) == ["timit"]


def test_figure_of_an_utterance(corpus, run_here):
    folder = process(run_here, corpus, "--plot")
    assert (folder / "utterance.png").read_bytes().startswith(b"\x89PNG")
    assert not (process(run_here, corpus) / "utterance.png").exists()


# What is accepted


def test_audio_formats_agree(tmp_path):
    samples = noise()
    formats = {
        "sphere": sphere(samples),
        "big-endian": sphere(samples, byte_format="10"),
        "riff": riff(samples),
        "more-than-announced": sphere(samples) + b"\1" * 100,
        "no-count": sphere(samples).replace(b"sample_count", b"sample_cownt"),
    }
    for name, content in formats.items():
        path = tmp_path / f"{name}.wav"
        path.write_bytes(content)
        audio = timit_processing.read_audio(path)
        assert audio.dtype == np.int16
        np.testing.assert_array_equal(audio, samples)


def test_layouts_and_suffixes(tmp_path):
    speakers = ["dr1-fvmh0", "dr3-falk0", "dr1-mcpm0"]
    for speaker in speakers:
        write_utterance(tmp_path, f"{speaker}/sx1")
        write_utterance(tmp_path, f"{speaker}/sa1")
    (tmp_path / "dr1-fvmh0/sx1.sph").write_bytes(b"not read: the .wav comes first")
    os.rename(tmp_path / "dr1-mcpm0/sx1.wav", tmp_path / "dr1-mcpm0/sx1.sph")
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc/sine.wav").write_bytes(b"no utterance")
    layout, utterances = timit_processing.find_utterances(str(tmp_path))
    assert layout == "nltk_sample"
    assert [(u.split, f"{u.region}-{u.speaker}", u.name) for u in utterances] == [
        ("train", "dr1-fvmh0", "sx1"),
        ("develop", "dr3-falk0", "sx1"),
        ("test", "dr1-mcpm0", "sx1"),
    ]
    assert [u.audio_path[-4:] for u in utterances] == [".wav", ".wav", ".sph"]
    for utterance in utterances:
        recording = timit_processing.process_utterance(utterance, False, False)
        np.testing.assert_array_equal(recording["wav"], noise())


def test_corpus_renamed_in_place_and_linked(corpus):
    other = "test/dr1/mdab1"  # a test speaker of neither set
    write_utterance(corpus, f"{other}/sx0")
    for speaker in (TRAIN, DEVELOP):
        folder = corpus / speaker
        upper = corpus / "TIMIT" / speaker.upper()
        upper.mkdir(parents=True)
        for path in folder.iterdir():
            (upper / path.name.upper()).write_bytes(path.read_bytes())
            (upper / f"{path.name.upper()}.wav").write_bytes(path.read_bytes())
    os.rename(corpus / "train", corpus.parent / "elsewhere")
    os.symlink(corpus.parent / "elsewhere", corpus / "train")
    os.symlink(corpus, corpus / "test/loop")
    layout, utterances = timit_processing.find_utterances(str(corpus))
    assert layout == "ldc"
    assert [(u.split, u.source, u.speaker, u.name) for u in utterances] == [
        ("train", "train", "fcjf0", "sx0"),
        ("train", "train", "fcjf0", "sx1"),
        ("develop", "test", "faks0", "sx0"),
        ("test", "test", "felc0", "sx0"),
    ]


@pytest.mark.parametrize("suffix", [".wrd", ".txt"])
def test_words_and_texts_may_be_missing(corpus, suffix):
    os.remove(corpus / f"{TRAIN}/sx0{suffix}")
    _, utterances = timit_processing.find_utterances(str(corpus))
    recording = timit_processing.process_utterance(utterances[0], False, False)
    assert recording["words"] == ([] if suffix == ".wrd" else [(800, 3000, "she")])
    assert recording["metadata"]["text"] == ("" if suffix == ".txt" else "She.")
    assert recording["metadata"]["sample_end"] == N_SAMPLES
    dataset = {"train": [recording], "develop": [], "test": []}
    words = timit_processing.label_words(dataset, 160)
    assert words == ([None] if suffix == ".wrd" else [None, "she"])
    assert len(recording["words"]) == N_FRAMES


@pytest.mark.parametrize(
    "text",
    [
        "0 800 h#\r\n800 3200 iy\r\n\r\n",  # of another system
        "\ufeff0 800 h#\n 800\t3200  iy ",
        "800 3200 iy\n",  # starts later: h# before
        "0 800 h#\n800 3360 iy",  # one frame beyond the audio
    ],
)
def test_accepted_phone_files(tmp_path, text):
    path = tmp_path / "sx0.phn"
    path.write_bytes(text.encode())
    start, end, phone = timit_processing.read_phones(path, 3200)[-1]
    assert (start, phone) == (800, "iy") and end in (3200, 3360)


def test_names_in_label_files_cannot_leave_the_output_folder(corpus, run_here):
    """Words become entries of a list, phones are known ones, nothing becomes a path."""
    for name in ("../../escaped", "/tmp/escaped", "..", "C:\\escaped"):
        (corpus / TRAIN / "sx0.wrd").write_text(f"800 3000 {name}\n")
        out = process(run_here, corpus)
        with open(out / "train" / "word_list.json", encoding="utf-8") as file:
            assert name in json.load(file)
        assert sorted(os.listdir(corpus.parent)) == ["out", "timit"]
        assert sorted(os.listdir(out)) == ["develop", "processing.json", "test", "train"]
    (corpus / TRAIN / "sx0.phn").write_text("0 3000 ../escaped\n")
    done = run_here(f"--data_path={corpus}", "--output_path=out")
    assert done.returncode == 2 and "'../escaped' is none of TIMIT's" in done.stderr


def test_a_line_without_end_is_told_in_short(tmp_path):
    """Found by fuzzing: the message held the whole of it. Reading it takes no quadratic time."""
    path = tmp_path / "x.phn"
    path.write_text(f"0 3050 h{' ' * 300_000}x\n")
    began_s = time.monotonic()
    with pytest.raises(UserError) as error:
        timit_processing.read_phones(str(path), 16000)
    assert time.monotonic() - began_s < 2  # minutes with a pattern that tries all splits
    assert len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_what_would_never_end_is_no_file_of_a_corpus(kind, tmp_path):
    path = str(tmp_path / "x.wav")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.symlink("/dev/zero", path)
    else:
        with open(path, "wb") as file:
            file.truncate(2**40)
    with pytest.raises(UserError, match="is no file|larger than"):
        timit_processing.read_audio(path)


def test_frame_labels_are_clipped_and_overwritten():
    spans = [(160, 480, "a"), (400, 10**6, "b")]
    labels = timit_processing.frame_labels(spans, {"a": 1, "b": 2}, 5, 160)
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize("n_samples", [400, 401, 560, 561, 720, 16000])
def test_number_of_frames(n_samples):
    mfccs, filter_banks = timit_processing.speech_features(noise(0, n_samples), True)
    n_frames = 1 + -(-(n_samples - 400) // 160)
    assert mfccs.shape == (n_frames, 13) and filter_banks.shape == (n_frames, 41)


def test_silence_has_finite_features():
    for log_filter_banks in (True, False):
        for features in timit_processing.speech_features(
            np.zeros(4000, np.int16), log_filter_banks
        ):
            assert np.isfinite(features).all()


def test_a_dimension_that_does_not_vary_becomes_0():
    rng = np.random.default_rng(0)
    features = [rng.normal(7, 2, (50, 3)).astype(np.float32) for _ in range(4)]
    for f in features:
        f[:, 1] = -36.04365  # the logarithm of no energy
    dataset = {"train": [{"mfccs": f} for f in features], "develop": [], "test": []}
    mean, scale = timit_processing.mean_and_scale(features)
    frames = np.concatenate(features).astype(np.float64)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale[[0, 2]], frames.std(axis=0)[[0, 2]], rtol=1e-12)
    assert scale[1] == 1
    timit_processing.normalise(dataset)
    for recording in dataset["train"]:
        np.testing.assert_allclose(recording["mfccs"][:, 1], 0, atol=1e-6)


# HTK features


def write_htk(corpus, n_frames=N_FRAMES, **options):
    rng = np.random.default_rng(1)
    for path in sorted(corpus.rglob("*.wav")):
        content = htk(rng.normal(3, 2, (n_frames, 5)), **options)
        path.with_suffix(".htk").write_bytes(content)


def test_htk_features_are_read_where_all_have_them(corpus, run_here):
    write_htk(corpus)
    folder = process(run_here, corpus)
    settings = json.loads((folder / "processing.json").read_text())
    assert settings["htk"] is True and settings["features"]["htk"] == 5
    features = load(folder / "train", "htk")
    assert [(f.shape, f.dtype) for f in features] == [((N_FRAMES, 5), np.float32)] * 2
    np.testing.assert_allclose(np.concatenate(features).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(features).std(axis=0), 1, atol=1e-5)
    assert (folder / "develop/htk.pickle").exists()

    folder = process(run_here, corpus, "--nohtk")
    assert json.loads((folder / "processing.json").read_text())["htk"] is False
    assert not (folder / "train/htk.pickle").exists()


@pytest.mark.parametrize("checksum", [b"", b"\x12\x34"])
@pytest.mark.parametrize("n_missing", [0, 1])
def test_htk_file_of_one_frame_less_is_padded(tmp_path, n_missing, checksum):
    frames = np.random.default_rng(0).normal(size=(8 - n_missing, 3)).astype(np.float32)
    path = tmp_path / "sx0.htk"
    path.write_bytes(htk(frames) + checksum)
    features = timit_processing.read_htk(path, 8)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[: len(frames)], frames)
    np.testing.assert_array_equal(features[7], frames[-1])


# Where it writes


def test_earlier_output_is_replaced_and_a_link_kept(corpus, run_here):
    folder = process(run_here, corpus)
    real_folder = corpus.parent / "disk"
    os.rename(folder, real_folder)
    os.symlink(real_folder, folder)
    write_utterance(corpus, f"{TRAIN}/sx7")
    process(run_here, corpus)
    assert folder.is_symlink() and len(load(folder / "train", "wav")) == 3
    assert sorted(os.listdir(corpus.parent)) == ["disk", "out", "timit"]


@pytest.mark.parametrize(
    "output, words",
    [
        ("", "is empty"),
        ("timit", "the corpus itself"),
        ("timit/../timit/", "the corpus itself"),
        ("timit/train", "holds dr1"),
        (".", "contains the corpus"),
        ("/", "contains the corpus"),
        (REPOSITORY, "this program itself"),
        (os.path.dirname(REPOSITORY), "contains this program"),
        ("home", "the home folder itself"),
        ("file", "no folder"),
        ("file/out", "cannot be written"),
        ("foreign", "holds train/thesis.tex"),
        ("unmarked", "has no processing.json of this script"),
        ("of_another", "has no processing.json of this script"),
        ("torn", "has no processing.json of this script"),
        ("mixed", "holds thesis.tex"),
        ("link", "has no processing.json of this script"),
    ],
)
def test_nothing_else_is_replaced(corpus, run_here, output, words, monkeypatch):
    folder = corpus.parent
    (folder / "file").write_text("precious")
    for name, content in (
        ("foreign/train/thesis.tex", "precious"),
        ("unmarked/train/wav.pickle", "precious"),
        ("of_another/processing.json", '{"script": "another.py"}'),
        ("torn/processing.json", '{"script": "timit_'),
        ("mixed/processing.json", '{"script": "timit_processing.py"}'),
        ("mixed/thesis.tex", "precious"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    os.symlink("unmarked", folder / "link")
    os.mkdir(folder / "home")
    monkeypatch.setenv("HOME", str(folder / "home"))
    before = sorted(folder.rglob("*"))
    done = run_here("--data_path=timit", f"--output_path={output}")
    assert_user_error(done, words, "--output_path")
    assert sorted(folder.rglob("*")) == before


def test_an_empty_folder_is_filled(corpus, run_here):
    os.mkdir(corpus.parent / "out")
    assert len(load(process(run_here, corpus) / "train", "wav")) == 2


# Bad input

VICTIM = f"{TRAIN}/sx0"


def replace(suffix, content):
    """A function that replaces one of the victim's files."""

    def damage(corpus):
        path = corpus / f"{VICTIM}{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def remove(*paths):
    def damage(corpus):
        for path in paths:
            for file in sorted(corpus.glob(path)):
                os.remove(file)

    return damage


def upper_case(corpus):
    for path in sorted(corpus.rglob("*"), key=lambda path: -len(path.parts)):
        os.rename(path, path.parent / path.name.upper())


def one_level_deeper(corpus):
    os.rename(corpus, corpus.parent / "inner")
    os.mkdir(corpus)
    os.rename(corpus.parent / "inner", corpus / "TIMIT-corpus")


def both_layouts(corpus):
    write_utterance(corpus, "dr1-fvmh0/sx26")


def htk_then(change):
    """Give all utterances .htk files, then change the victim's."""

    def damage(corpus):
        write_htk(corpus)
        change(corpus)

    return damage


def not_finite(corpus):
    frames = np.zeros((N_FRAMES, 5))
    frames[3, 2] = np.nan
    replace(".htk", htk(frames))(corpus)


def other_names(corpus):
    for name in ("train", "test"):
        os.rename(corpus / name, corpus / f"{name}ing")


def broken_link(corpus):
    os.remove(corpus / f"{VICTIM}.wav")
    os.symlink("nowhere.wav", corpus / f"{VICTIM}.wav")


FRAMES = np.zeros((N_FRAMES, 5))
BAD_INPUT = {  # name: (damage, words of the message)
    "no folder": (lambda corpus: os.rename(corpus, f"{corpus}.old"), ("timit", "--data_path")),
    "upper case": (upper_case, ("TEST/DR1/FAKS0/SX0.WAV", "upper case", "rename-files.sh")),
    "no audio": (remove("**/*.wav"), ("timit", "no audio")),
    "empty split": (remove(f"{DEVELOP}/*.wav"), ("timit", "develop set")),
    "no phn": (remove(f"{VICTIM}.phn"), (f"{VICTIM}.wav", "sx0.phn")),
    "truncated": (
        replace(".wav", sphere(noise())[:-1000]),
        (f"{VICTIM}.wav", "truncated", "2700", "3200"),
    ),
    "truncated riff": (
        replace(".wav", riff(noise())[:-1000]),
        (f"{VICTIM}.wav", "truncated", "2700", "3200"),
    ),
    "rate": (replace(".wav", sphere(noise(), rate_hz=8000)), (f"{VICTIM}.wav", "8000", "16000")),
    "stereo": (replace(".wav", riff(noise(), channels=2)), (f"{VICTIM}.wav", "2 channels")),
    "unknown phone": (
        replace(".phn", "0 800 h#\n800 1600 AA\n"),
        (f"{VICTIM}.phn, line 2", "'AA'", "61 phones"),
    ),
    "overlap": (
        replace(".phn", "0 800 h#\n799 1600 aa\n"),
        (f"{VICTIM}.phn, line 2", "overlaps", "800"),
    ),
    "reversed": (
        replace(".phn", "0 800 h#\n1600 800 aa\n"),
        (f"{VICTIM}.phn, line 2", "reversed"),
    ),
    "out of range": (
        replace(".phn", "0 800 h#\n800 3361 aa\n"),
        (f"{VICTIM}.phn, line 2", "out of range", "3200"),
    ),
    "htk": (
        htk_then(replace(".htk", htk(FRAMES[:-2]))),
        (f"{VICTIM}.htk", "17 frames", "18 or 19"),
    ),
}
MORE_BAD_INPUT = {
    "extra folder": (one_level_deeper, ("TIMIT-corpus", "rename-files.sh")),
    "other names": (other_names, ("testing/dr1/faks0/sx0.wav", "expected train/drN/")),
    "both layouts": (both_layouts, ("timit", "two layouts")),
    "empty train": (remove(f"{TRAIN}/*.wav"), ("timit", "train set")),
    "empty test": (remove(f"{TEST}/*.wav"), ("timit", "test set")),
    "broken link": (broken_link, (f"{VICTIM}.wav", "cannot be read")),
    "sphere header only": (replace(".wav", sphere(noise())[:1024]), ("truncated", "3200")),
    "broken sphere header": (replace(".wav", sphere(noise())[:300]), ("cannot be decoded",)),
    "riff announces more": (replace(".wav", riff(noise(), announced=9000)), ("truncated", "9000")),
    "riff without data": (replace(".wav", riff(noise())[:36]), (f"{VICTIM}.wav",)),
    "riff rate": (replace(".wav", riff(noise(), rate_hz=44100)), ("44100 Hz", "16000")),
    "stereo sphere": (
        replace(".wav", sphere(noise(), announced=1600, channels=2)),
        ("2 channels", "expected 1"),
    ),
    "8 bits": (replace(".wav", riff(noise(), bits=8)), ("PCM_U8", "16-bit")),
    "compressed sphere": (
        replace(".wav", sphere(noise(), coding="pcm,embedded-shorten-v2.00")),
        ("cannot be decoded", "uncompressed"),
    ),
    "no sound": (replace(".wav", "version https://git-lfs.github.com"), ("starts with", "RIFF")),
    "empty audio": (replace(".wav", b""), (f"{VICTIM}.wav", "starts with b''")),
    "short audio": (replace(".wav", sphere(noise(0, 399))), ("399 samples", "400")),
    "no length": (replace(".phn", "0 800 h#\n800 800 aa\n"), ("sx0.phn, line 2", "empty")),
    "before the audio": (replace(".phn", "-160 800 h#\n"), ("sx0.phn, line 1", "-160")),
    "after the audio": (
        replace(".phn", "0 3200 h#\n3200 3300 aa\n"),
        ("sx0.phn, line 2", "out of range"),
    ),
    "two fields": (replace(".phn", "0 800 h#\n800 aa\n"), ("sx0.phn, line 2", "800 aa")),
    "four fields": (replace(".phn", "0 800 h# aa\n"), ("sx0.phn, line 1", "h# aa")),
    "fractions": (replace(".phn", "0 0.5 h#\n"), ("sx0.phn, line 1", "0 0.5 h#")),
    "blank row": (replace(".phn", "0 800 h#\n\n800 1600 aa\n"), ("sx0.phn, line 2",)),
    "empty phn": (replace(".phn", " \n"), ("sx0.phn", "empty")),
    "binary phn": (replace(".phn", b"0 800 h#\n800 1600 \xff\xfe\n"), ("sx0.phn", "0xff")),
    "bad words": (replace(".wrd", "she\n"), ("sx0.wrd, line 1", "'she'")),
    "bad text": (replace(".txt", "version https://git-lfs"), ("sx0.txt, line 1", "git-lfs")),
    "htk too long": (
        htk_then(replace(".htk", htk(np.zeros((N_FRAMES + 1, 5))))),
        (f"{VICTIM}.htk", "20 frames", "18 or 19"),
    ),
    "htk empty": (htk_then(replace(".htk", htk(FRAMES)[:12])), ("sx0.htk", "truncated")),
    "htk truncated": (htk_then(replace(".htk", htk(FRAMES)[:-4])), ("sx0.htk", "truncated")),
    "htk header": (htk_then(replace(".htk", htk(FRAMES)[:11])), ("sx0.htk", "truncated")),
    "htk of shorts": (
        htk_then(replace(".htk", htk(FRAMES, dtype=">i2"))),
        (f"{VICTIM}.htk", "no HTK features"),
    ),
    "htk compressed": (
        htk_then(replace(".htk", htk(FRAMES, kind=0o2011))),
        (f"{VICTIM}.htk", "SAVECOMPRESSED"),
    ),
    "htk not finite": (htk_then(not_finite), (f"{VICTIM}.htk", "infinite")),
    "htk of another size": (
        htk_then(replace(".htk", htk(np.zeros((N_FRAMES, 6))))),
        ("sx1.htk", "5 features", "6"),
    ),
    "htk missing": (htk_then(remove(f"{VICTIM}.htk")), (f"{VICTIM}.htk", "--nohtk")),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_ends_in_one_line(corpus, run_script, name):
    damage, words = BAD_INPUT[name]
    damage(corpus)
    before = sorted(corpus.parent.rglob("*"))
    assert_user_error(run_script(SCRIPT, "--data_path=timit"), *words)
    assert sorted(corpus.parent.rglob("*")) == before


@pytest.mark.parametrize("name", MORE_BAD_INPUT)
def test_more_bad_input_ends_in_one_line(corpus, run_here, name):
    damage, words = MORE_BAD_INPUT[name]
    damage(corpus)
    before = sorted(corpus.parent.rglob("*"))
    assert_user_error(run_here("--data_path=timit"), *words)
    assert sorted(corpus.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "argument", ["--n_processes=0", "--htk=maybe", "--include_sa", "timit", "--reference_quirks=2"]
)
def test_wrong_arguments(corpus, run_here, argument):
    done = run_here("--data_path=timit", argument)
    assert_user_error(done, argument.split("=")[0].strip("-"))
    assert os.listdir(corpus.parent) == ["timit"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
@pytest.mark.parametrize("path", [TRAIN, f"{VICTIM}.wav", f"{VICTIM}.phn"])
def test_unreadable_files(corpus, path):
    os.chmod(corpus / path, 0)
    try:
        with pytest.raises(UserError, match=f"{path}.*cannot be read"):
            _, utterances = timit_processing.find_utterances(str(corpus))
            timit_processing.make_dataset(utterances, False, False, 1)
    finally:
        os.chmod(corpus / path, 0o700)
