"""Corpus to pickles: what is written and where, all problems at once, nothing half-written."""

import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from corpora import (
    DEVELOP,
    N_FRAMES,
    N_SAMPLES,
    TEST,
    TRAIN,
    VICTIM,
    htk,
    noise,
    riff,
    speech,
    sphere,
    write_corpus,
    write_htk,
    write_utterance,
)

import helpers
import timit_processing
from helpers import LIMIT_S, OPEN_SPEECH, REPOSITORY, assert_user_error, run_in
from speech.audio import read_audio
from speech.dataset import TimitDataset
from speech.facts import CORE_TEST_SPEAKERS, DEVELOP_SPEAKERS, FOLD_61_TO_39, PHONES_39, PHONES_61
from speech.features import speech_features
from speech.plain_pickle import load_plain_pickle

SCRIPT = "timit_processing.py"
LISTS = ("word_list", "phonem_list", "reduced_phonem_list", "reduced_phn_index_mapping")
LABELS = ("phonems", "reduced_phonems", "words")


@pytest.fixture
def corpus(tmp_path):
    """Two training utterances, one of each other set, in the LDC's layout."""
    return write_corpus(tmp_path / "timit")


@pytest.fixture
def run_here(tmp_path, monkeypatch):
    """Function that runs the script's command line in this process: the same path, sooner."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(helpers.run_here, timit_processing)


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


# The speech sample


@pytest.fixture(scope="module")
def sample(timit_sample, tmp_path_factory):
    """The sample's folder of pickles and what the script printed."""
    folder = tmp_path_factory.mktemp("sample")
    done = run_in(folder, SCRIPT, f"--data_path={timit_sample}")
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
    audio = read_audio(os.path.join(timit_sample, speaker, f"{entry['utterance']}.wav"))[0]
    raw, _ = speech_features(audio, log_filter_banks=True)
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
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for number, phone in ((50, "xx"), (60, "yy")):
        assert f"sx{number}.phn: line 1: '0 900 {phone}'" in done.stderr
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
    deadline = time.monotonic() + LIMIT_S
    while not any(name.endswith(".partial") for name in os.listdir(tmp_path)):
        assert process_.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # the other processes are starting now
    os.killpg(process_.pid, signal.SIGINT)
    stdout, stderr = process_.communicate(timeout=LIMIT_S)
    assert process_.returncode == 130
    assert stderr == f"{SCRIPT}: interrupted\n" and "Written" not in stdout
    assert os.listdir(tmp_path) == ["timit"]


def test_figure_of_an_utterance(corpus, run_here):
    folder = process(run_here, corpus, "--plot")
    assert (folder / "utterance.png").read_bytes().startswith(b"\x89PNG")
    assert not (process(run_here, corpus) / "utterance.png").exists()


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


@pytest.mark.parametrize(
    "argument", ["--n_processes=0", "--htk=maybe", "--include_sa", "timit", "--reference_quirks=2"]
)
def test_wrong_arguments(corpus, run_here, argument):
    done = run_here("--data_path=timit", argument)
    assert_user_error(done, argument.split("=")[0].strip("-"))
    assert os.listdir(corpus.parent) == ["timit"]


# Problems


def damage(corpus):
    """Faults of several kinds in a corpus of `write_corpus`: file -> kind of its problem."""
    (corpus / f"{TRAIN}/sx1.phn").write_text("0 800 h#\n800 1600 sil\n1600 3000 h#\n")
    (corpus / f"{TRAIN}/sx2.phn").write_text("0 800 h#\n")
    (corpus / f"{TRAIN}/sx3.wav").write_bytes(riff(noise())[:-1000])
    (corpus / f"{TRAIN}/sx4.wav").write_bytes(b"<html>")
    (corpus / f"{TRAIN}/sx4.phn").write_bytes(b"")
    os.remove(corpus / f"{TRAIN}/sx5.wav")
    os.remove(corpus / f"{TRAIN}/sx6.phn")
    os.remove(corpus / f"{DEVELOP}/sx1.phn")
    os.mkdir(corpus / f"{DEVELOP}/sx1.phn")
    (corpus / f"{TEST}/sx1.wav").write_bytes(sphere(speech()[1].byteswap()))
    return {
        f"{TRAIN}/sx1.phn": "unknown phones",
        f"{TRAIN}/sx2.phn": "labels that cover too little",
        f"{TRAIN}/sx3.wav": "truncated audio",
        f"{TRAIN}/sx4.wav": "no sound",
        f"{TRAIN}/sx4.phn": "empty files",
        f"{TRAIN}/sx5.phn": "phones without audio",
        f"{TRAIN}/sx6.wav": "audio without phones",
        f"{DEVELOP}/sx1.phn": "no files",
        f"{TEST}/sx1.wav": "swapped bytes",
    }


def test_all_problems_are_told_at_once(tmp_path, run_here):
    corpus = write_corpus(tmp_path / "timit", n_train=30, n_other=2)
    process(run_here, corpus)
    faults = damage(corpus)
    for number in range(7, 29):
        (corpus / f"{TRAIN}/sx{number}.phn").write_text("0 3000 xx\n")
        faults[f"{TRAIN}/sx{number}.phn"] = "unknown phones"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    done = run_here("--data_path=timit", "--output_path=out/")
    assert done.returncode == 2
    listed = (tmp_path / "out.problems.txt").read_text().splitlines()
    told = done.stderr.splitlines()
    for path, kind in faults.items():
        assert sum(os.path.join("timit", path) in line for line in listed) == 1, path
        assert sum(line.endswith(f"  {kind}") for line in listed) == 1
        assert sum(line.endswith(f"  {kind}") for line in told) == 1
    assert "     23  unknown phones" in told
    n_kinds = len(set(faults.values()))
    assert len(listed) == n_kinds + len(faults)
    assert told[: n_kinds + 20] == listed[: n_kinds + 20]
    assert told[n_kinds + 20 :][0] == "... and 11 more"
    assert "timit: 31 problems in 34 utterances" in told[-1] and "out.problems.txt" in told[-1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert sorted(os.listdir(tmp_path)) == ["out", "out.problems.txt", "timit"]

    done = run_here("--data_path=timit", "--output_path=out", "--skip_bad")
    assert (done.returncode, done.stderr) == (0, "")
    skipped = json.loads((tmp_path / "out/skipped.json").read_text())
    stems = sorted({os.path.splitext(path)[0] for path in faults})
    assert sorted(entry["utterance"] for entry in skipped) == stems
    assert len(sum((entry["problems"] for entry in skipped), [])) == 31
    assert "30 utterances left out" in done.stdout and f"{TRAIN}/sx11," in done.stdout
    assert [len(load(tmp_path / "out" / s, "wav")) for s in ("train", "develop", "test")] == [
        2,
        1,
        1,
    ]
    assert TimitDataset(str(tmp_path / "out")).processing["skipped"] == 30
    assert sorted(os.listdir(tmp_path)) == ["out", "timit"]  # the old list is out of date


def test_one_problem_is_told_in_one_line(corpus, run_script):
    (corpus / f"{VICTIM}.phn").write_text("0 3000 \x1b[2Jx\n")
    before = sorted(corpus.parent.rglob("*"))
    done = run_script(SCRIPT, "--data_path=timit")
    assert_user_error(done, f"{VICTIM}.phn", "line 1", "61 phones", "--skip_bad")
    assert "\x1b" not in done.stderr
    listed = corpus.parent / "timit_processed.problems.txt"
    assert "unknown phones" in listed.read_text() and "\x1b" not in listed.read_text()
    assert sorted(corpus.parent.rglob("*")) == sorted([*before, listed])


@pytest.mark.parametrize("output", ["out/.", "out//", "o/../out"])
def test_the_list_of_problems_lies_beside_the_folder(corpus, run_here, output):
    (corpus / f"{VICTIM}.phn").write_text("0 3000 x\n")
    os.mkdir(corpus.parent / "o")
    done = run_here("--data_path=timit", f"--output_path={output}")
    assert_user_error(done, "61 phones")
    assert sorted(os.listdir(corpus.parent)) == ["o", "out.problems.txt", "timit"]


def test_problems_are_told_where_their_list_cannot_be_written(corpus, run_here):
    (corpus / f"{VICTIM}.phn").write_text("0 3000 x\n")
    os.mkdir(corpus.parent / "out.problems.txt")
    done = run_here("--data_path=timit", "--output_path=out")
    assert_user_error(done, "61 phones", "--skip_bad", "(the list cannot be written: ")


@pytest.mark.parametrize("n_test, n_missing", [(24, 0), (23, 1), (22, 2), (21, None)])
def test_missing_speakers_of_timit(tmp_path, run_here, n_test, n_missing):
    """Where nine tenths of a list are there it is TIMIT, and complete; else a part of it."""
    speakers = [*sorted(CORE_TEST_SPEAKERS)[:n_test], *sorted(DEVELOP_SPEAKERS)[:45]]
    for stem in [f"{TRAIN}/sx0", *(f"test/{speaker}/sx0" for speaker in speakers)]:
        write_utterance(tmp_path / "timit", stem)
    done = run_here("--data_path=timit")
    told = done.stdout + done.stderr
    assert done.returncode == 2 and "test/dr8/fjsj0" in told  # of the development set's last five
    assert told.count("no utterance of this speaker of TIMIT's test set") == (n_missing or 0)
    for speaker in sorted(CORE_TEST_SPEAKERS)[n_test:] if n_missing else ():
        assert f"test/{speaker}: no utterance" in told
    done = run_here("--data_path=timit", "--skip_bad")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("Note: a part of TIMIT: 1, timit/test: 21 of" in done.stdout) == (n_missing is None)
    assert f"Note: missing speakers: {5 + (n_missing or 0)}, first" in done.stdout


def test_an_empty_split_is_refused_though_bad_ones_may_be_skipped(corpus, run_here):
    (corpus / f"{DEVELOP}/sx0.wav").write_bytes(b"")
    done = run_here("--data_path=timit", "--skip_bad")
    assert_user_error(done, "timit", "develop set")
    assert sorted(os.listdir(corpus.parent)) == ["timit"]


def test_what_is_not_used_may_be_bad(corpus, run_here):
    write_utterance(corpus, f"{TRAIN}/sa1")
    write_utterance(corpus, "test/dr1/mdab1/sx0")  # a test speaker of neither set
    for stem in (f"{TRAIN}/sa1", "test/dr1/mdab1/sx0"):
        (corpus / f"{stem}.wav").write_bytes(b"")
    assert len(load(process(run_here, corpus) / "train", "wav")) == 2


def test_notes_stop_nothing(corpus, run_here):
    (corpus / f"{TRAIN}/sx1.wrd").write_text("she\n")
    (corpus / f"{VICTIM}.phn").write_text("0 800 h#\n900 3000 iy\n")
    (corpus / f"{VICTIM}.txt").write_bytes(b"")
    done = run_here("--data_path=timit", "--output_path=out")
    assert (done.returncode, done.stderr) == (0, "")
    out = corpus.parent / "out"
    assert load(out / "train", "words")[1] is None
    for kind, name in (
        ("labels with a gap", "sx0.phn"),
        ("unreadable words", "sx1.wrd"),
        ("unreadable prompts", "sx0.txt"),
    ):
        assert any(kind in line and name in line for line in done.stdout.splitlines())
        assert json.loads((out / "processing.json").read_text())["notes"][kind] == 1


@pytest.mark.parametrize("suffix", [".wrd", ".txt"])
def test_words_and_texts_may_be_missing(corpus, run_here, suffix):
    os.remove(corpus / f"{VICTIM}{suffix}")
    out = process(run_here, corpus)
    words, metadata = load(out / "train", "words"), load(out / "train", "metadata")
    assert words[0].any() == (suffix != ".wrd") and words[1].any()
    assert metadata[0]["text"] == ("" if suffix == ".txt" else "She.")
    assert metadata[0]["sample_end"] == N_SAMPLES


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

    (corpus / f"{VICTIM}.htk").write_bytes(htk(np.zeros((N_FRAMES, 6))))
    done = run_here("--data_path=timit")
    assert_user_error(done, f"{VICTIM}.htk", "6 features", "expected 5")

    os.remove(corpus / f"{VICTIM}.htk")
    assert_user_error(run_here("--data_path=timit", "--htk"), f"{VICTIM}.htk", "cannot be read")
    for arguments in ([], ["--nohtk"]):
        done = run_here("--data_path=timit", "--output_path=out", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert ("HTK features are left out" in done.stdout) == (not arguments)
        assert json.loads((folder / "processing.json").read_text())["htk"] is False
        assert not (folder / "train/htk.pickle").exists()


def test_settings_hold_the_normalisation(corpus, run_here):
    out = process(run_here, corpus)
    normalisation = json.loads((out / "processing.json").read_text())["normalisation"]
    audio, _ = read_audio(corpus / f"{DEVELOP}/sx0.wav")
    for name, features in zip(("mfccs", "filter_banks"), speech_features(audio, True)):
        mean, scale = (np.array(normalisation[name][key]) for key in ("mean", "scale"))
        again = ((features.astype(np.float32) - mean) / scale).astype(np.float32)
        np.testing.assert_array_equal(again, load(out / "develop", name)[0])


def test_open_speech_is_processed_as_it_is(tmp_path, run_here):
    done = run_here(f"--data_path={OPEN_SPEECH}", "--output_path=out")
    assert (done.returncode, done.stderr) == (0, "")
    settings = json.loads((tmp_path / "out/processing.json").read_text())
    sizes = {name: (s["speakers"], s["utterances"]) for name, s in settings["splits"].items()}
    assert sizes == {"train": (20, 80), "develop": (6, 24), "test": (6, 24)}
    assert settings["speakers_tsv"] is True and settings["notes"] == {}
    assert {entry["gender"] for entry in load(tmp_path / "out/train", "metadata")} == {"f", "m"}


def test_a_killed_worker_ends_in_one_line(tmp_path, run_here, monkeypatch):
    write_corpus(tmp_path / "timit", n_train=70)
    monkeypatch.setattr(timit_processing.checks, "read_utterance", kill_worker)
    done = run_here("--data_path=timit", "--n_processes=2")
    assert_user_error(done, "killed", "--n_processes=1")
    assert os.listdir(tmp_path) == ["timit"]


def kill_worker(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_reader_that_goes_away_stops_no_work(corpus):
    command = f"'{sys.executable}' '{os.path.join(REPOSITORY, SCRIPT)}' --data_path=timit | head -1"
    done = subprocess.run(command, shell=True, cwd=corpus.parent, capture_output=True, text=True)
    assert (done.stderr, done.stdout.count("\n")) == ("", 1)
    assert sorted(os.listdir(corpus.parent)) == ["timit", "timit_processed"]
