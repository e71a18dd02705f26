"""Where utterances lie: the layouts of TIMIT and of a corpus of one's own."""

import os
import re
import subprocess

import pytest
from corpora import DEVELOP, TEST, TRAIN, VICTIM, encoded, noise, write_corpus, write_utterance

from helpers import OPEN_SPEECH
from speech.corpus import find_corpus
from speech.recordings import read_utterance
from toolbox.command_line import UserError


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "timit")


def found(path):
    """(layout, split, region, speaker and name of each utterance)."""
    corpus = find_corpus(str(path))
    return corpus.layout, [(u.split, u.region, u.speaker, u.name) for u in corpus.utterances]


def test_the_sample_of_nltk(tmp_path):
    for speaker in ("dr1-fvmh0", "dr3-falk0", "dr1-mcpm0"):
        write_utterance(tmp_path, f"{speaker}/sx1")
        write_utterance(tmp_path, f"{speaker}/sa1")
    (tmp_path / "dr1-fvmh0/sx1.sph").write_bytes(b"not read: the .wav comes first")
    os.rename(tmp_path / "dr1-mcpm0/sx1.wav", tmp_path / "dr1-mcpm0/sx1.sph")
    (tmp_path / "dr1-mcpm0/sx1.flac").write_bytes(b"not read: the .sph comes first")
    (tmp_path / "dr3-falk0/sx1.wav").unlink()
    encoded(tmp_path / "dr3-falk0/sx1.flac", noise(), "FLAC")
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc/sine.wav").write_bytes(b"no utterance")
    assert found(tmp_path) == (
        "nltk_sample",
        [
            ("train", "dr1", "fvmh0", "sx1"),
            ("develop", "dr3", "falk0", "sx1"),
            ("test", "dr1", "mcpm0", "sx1"),
        ],
    )
    utterances = find_corpus(str(tmp_path)).utterances
    assert [u.audio_path[-4:] for u in utterances] == [".wav", "flac", ".sph"]
    for utterance in utterances:
        content, problems, notes = read_utterance(utterance, with_htk=False)
        assert (content.audio == noise()).all() and problems == notes == []


def test_corpus_renamed_in_place_and_linked(corpus):
    write_utterance(corpus, "test/dr1/mdab1/sx0")  # a test speaker of neither set
    for speaker in (TRAIN, DEVELOP):
        upper = corpus / "TIMIT" / speaker.upper()
        upper.mkdir(parents=True)
        for path in (corpus / speaker).iterdir():
            (upper / path.name.upper()).write_bytes(path.read_bytes())
            (upper / f"{path.name.upper()}.wav").write_bytes(path.read_bytes())
    os.rename(corpus / "train", corpus.parent / "elsewhere")
    os.symlink(corpus.parent / "elsewhere", corpus / "train")
    os.symlink(corpus, corpus / "test/loop")
    assert found(corpus) == (
        "ldc",
        [
            ("train", "dr1", "fcjf0", "sx0"),
            ("train", "dr1", "fcjf0", "sx1"),
            ("develop", "dr1", "faks0", "sx0"),
            ("test", "dr1", "felc0", "sx0"),
        ],
    )


OWN = {"train/Ann", "train/dr12/Bob", "develop/dr2/c-3", "test/d.4"}


@pytest.fixture
def own(tmp_path):
    """A corpus of one's own, split by folders."""
    for folder in OWN:
        write_utterance(tmp_path / "own", f"{folder}/Utt_1.a")
    return tmp_path / "own"


def test_a_corpus_of_ones_own_by_folders(own):
    write_utterance(own, f"{TEST}/sa2")  # left out, as in TIMIT
    (own / "train/Ann/._Utt_1.a.wav").write_bytes(b"left by macOS")
    assert found(own) == (
        "own",
        [
            ("train", "", "Ann", "Utt_1.a"),
            ("train", "dr12", "Bob", "Utt_1.a"),
            ("develop", "dr2", "c-3", "Utt_1.a"),
            ("test", "", "d.4", "Utt_1.a"),
        ],
    )


TSV = "gender\tage\tfolder\tsplit\nf\t30\ttrain/Ann\ttrain\nm\t\ttrain/dr12/Bob\ttest\n"
TSV += "\t9\tdevelop/dr2/c-3\tdevelop\n"


@pytest.mark.parametrize(
    "text",
    [TSV, "\ufeff" + TSV.replace("\n", "\r\n"), TSV.replace("/", "\\").replace("Ann", "Ann/")]
    + ["\n \n" + re.sub(r"[^\t\n]+", lambda cell: f'"{cell[0]}"', TSV)],
)
def test_speakers_tsv_wins_over_folders(own, text):
    (own / "speakers.tsv").write_bytes(text.encode())
    corpus = find_corpus(str(own))
    assert corpus.has_speakers_file and corpus.layout == "own"
    assert [(u.split, u.source, u.region, u.speaker, u.gender) for u in corpus.utterances] == [
        ("train", "train", "", "Ann", "f"),
        ("develop", "develop", "dr2", "c-3", ""),
        ("test", "train", "dr12", "Bob", "m"),
    ]
    assert [note.path for note in corpus.notes] == [str(own / "test/d.4")]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty"),
        ("speaker\tsplit\n", "no column 'folder'"),
        (TSV.replace("\t", ","), "no column 'folder'"),
        (TSV.replace("\tdevelop\n", "\tdev\n"), "line 4: split 'dev', expected train, develop"),
        (TSV.replace("develop/dr2", "../dr2"), "expected one inside the corpus"),
        (TSV.replace("train/dr12/Bob", "train/Ann"), "for the second time"),
        (TSV + "f\t5\ttrain/Eve\ttrain\n", "lists the folder train/Eve, which holds no"),
        (TSV + "f\n", "line 5: split ''"),
        (TSV.replace("\tdevelop\n", "\ttrain\n"), "no utterance for the develop set"),
        (TSV.encode("utf-16"), "is a UTF-16 text"),
        (TSV.replace("Ann", "\u00c4nn").encode("latin1"), "is no UTF-8 text"),
        ("<html><body>404", "speakers.tsv: is an HTML page"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (" \n" * 1000, "no column 'folder'"),
        (TSV.replace("train/Ann", ".."), "expected one inside the corpus"),
        (TSV.replace("train/Ann", "..ann"), "lists the folder ..ann, which holds no"),
    ],
)
def test_bad_speakers_tsv(own, text, words):
    (own / "speakers.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words):
        find_corpus(str(own))


def test_open_speech_has_the_same_splits_by_names_and_by_file(tmp_path):
    for name in ("train", "test"):
        os.symlink(os.path.join(OPEN_SPEECH, name), tmp_path / name)
    layout, utterances = found(tmp_path)
    assert layout == "ldc" and len(utterances) == 128
    assert found(OPEN_SPEECH) == ("own", utterances)


@pytest.mark.parametrize("name", ["train/u9", "train/dr1/ann/session1/u2", "develop/x/y/z/u3"])
def test_files_in_no_speakers_folder_are_noted(own, name):
    write_utterance(own, name)
    corpus = find_corpus(str(own))
    assert len(corpus.utterances) == len(OWN)
    assert [(note.kind, note.path) for note in corpus.notes] == [
        ("files in no speaker's folder", f"{own / name}{suffix}") for suffix in (".phn", ".wav")
    ]


@pytest.mark.parametrize("has_speakers_file", [True, False])
@pytest.mark.parametrize("suffixes", [[".wav", ".phn"], [".wav"], [".phn"]])
def test_suffixes_in_upper_case_are_renamed_as_the_message_says(own, suffixes, has_speakers_file):
    if has_speakers_file:
        (own / "speakers.tsv").write_text(TSV)
    expected = found(own)
    for suffix in suffixes:
        os.rename(own / f"train/Ann/Utt_1.a{suffix}", own / f"train/Ann/Utt_1.a{suffix.upper()}")
    with pytest.raises(UserError, match="train/Ann/Utt_1.a.[A-Z]+: suffix in upper") as error:
        find_corpus(str(own))
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True)
    assert found(own) == expected


def remove(*paths):
    def damage(corpus):
        for path in paths:
            for file in sorted(corpus.glob(path)):
                file.unlink()

    return damage


def upper_case(corpus):
    for path in sorted(corpus.rglob("*"), key=lambda path: -len(path.parts)):
        os.rename(path, path.parent / path.name.upper())


def one_region_in_upper_case(corpus):
    write_utterance(corpus, "train/dr2/fajw0/sx1")
    os.rename(corpus / "train/dr2/fajw0", corpus / "train/dr2/FAJW0")


def one_level_deeper(corpus):
    os.rename(corpus, corpus.parent / "inner")
    os.mkdir(corpus)
    os.rename(corpus.parent / "inner", corpus / "TIMIT-corpus")


def both_layouts(corpus):
    write_utterance(corpus, "dr1-fvmh0/sx26")


def other_names(corpus):
    for name in ("train", "test"):
        os.rename(corpus / name, corpus / f"{name}ing")


BAD_LAYOUTS = {  # name: (damage, words of the message)
    "no folder": (lambda corpus: os.rename(corpus, f"{corpus}.old"), "timit: no such folder"),
    "upper case": (upper_case, "TEST/DR1/FAKS0/SX0.*upper case.*/rename-files.sh .*timit NEW"),
    "mixed case": (one_region_in_upper_case, "train/dr2/FAJW0/sx1.*upper case.*rename-files.sh"),
    "extra folder": (one_level_deeper, "TIMIT-corpus.*rename-files.sh"),
    "both layouts": (both_layouts, "timit: .*two layouts"),
    "other names": (other_names, "testing/dr1/faks0/sx0.wav.*expected train/drN/"),
    "no audio": (remove("**/*.wav"), "timit: found no audio"),
    "no files": (remove("**/*.*"), "timit: found no audio"),
    "empty train": (remove(f"{TRAIN}/*.wav"), "timit: no utterance for the train set"),
    "empty develop": (remove(f"{DEVELOP}/*"), "timit: no utterance for the develop set"),
    "empty test": (remove(f"{TEST}/*.wav"), "timit: no utterance for the test set"),
}


@pytest.mark.parametrize("name", BAD_LAYOUTS)
def test_bad_layouts(corpus, name):
    damage, words = BAD_LAYOUTS[name]
    damage(corpus)
    with pytest.raises(UserError, match=words):
        find_corpus(str(corpus))


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "--data_path is empty"),
        ("x", "x: is a file, not a folder: give the folder"),
        ("x y.zip", "is a file, not a folder: run `unzip '.*/x y.zip'`"),
        ("x.tar.gz", "run `tar -xf .*/x.tar.gz`"),
        ("x.TGZ", "run `tar -xf .*/x.TGZ`"),
    ],
)
def test_files_instead_of_folders(tmp_path, name, words):
    path = name and str(tmp_path / name)
    if name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=words):
        find_corpus(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
@pytest.mark.parametrize("path", [TRAIN, f"{VICTIM}.wav", f"{VICTIM}.phn"])
def test_unreadable_files(corpus, path):
    os.chmod(corpus / path, 0)
    try:
        with pytest.raises(UserError, match=f"{path}.*cannot be read"):
            for utterance in find_corpus(str(corpus)).utterances:
                _, problems, _ = read_utterance(utterance, with_htk=False)
                for problem in problems:
                    raise UserError(problem)
    finally:
        os.chmod(corpus / path, 0o700)
