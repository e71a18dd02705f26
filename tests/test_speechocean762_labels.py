"""The labels of speechocean762 in experiments/, laid on a user's own copy of its recordings."""

import csv
import os
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
import soundfile

from helpers import REPOSITORY

ARCHIVE = os.path.join(REPOSITORY, "experiments", "speechocean762_labels.tar.xz")
OPEN_CORPUS = os.path.join(os.path.dirname(REPOSITORY), "shared", "speechocean762_open")
N_UTTERANCES = 10
RATE = 16000


@pytest.fixture
def labels(tmp_path):
    """The unpacked labels, cut down to ten utterances; and the rows of those."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "speechocean762_labels"
    with open(folder / "cuts.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 1732
    return folder, rows[:: len(rows) // N_UTTERANCES][:N_UTTERANCES]


def write_table(folder, rows):
    with open(folder / "cuts.tsv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys(), delimiter="\t")
        table.writeheader()
        table.writerows(rows)


def write_source(folder, row, cut):
    """A recording that holds `cut` where the row cuts it, with noise around."""
    sound = np.random.default_rng(0).integers(-99, 99, int(row["last"]) + 1 + 50).astype(np.int16)
    sound[int(row["first"]) : int(row["last"]) + 1] = cut
    path = os.path.join(folder, row["source"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    soundfile.write(path, sound, RATE, format="WAV", subtype="PCM_16")


def lay(folder, *arguments):
    command = [sys.executable, folder / "lay_speechocean762.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def check_corpus(output, labels, rows, cuts, suffix):
    for row, cut in zip(rows, cuts):
        sound, rate = soundfile.read(output / (row["utterance"] + suffix), dtype="int16")
        assert rate == RATE and f"{zlib.crc32(sound.tobytes()):08x}" == row["crc32"]
        np.testing.assert_array_equal(sound, cut)
        for end in (".phn", ".wrd", ".txt"):
            laid, own = (folder / (row["utterance"] + end) for folder in (output, labels))
            assert laid.read_bytes() == own.read_bytes()
    assert (output / "speakers.tsv").is_file() and (output / "LICENSE").is_file()


def test_labels_are_laid_on_the_cut_recordings(labels, tmp_path):
    """Noise in the place of the recordings, with its own checksums."""
    folder, rows = labels
    random_generator = np.random.default_rng(1)
    cuts = []
    for row in rows:
        n_samples = int(row["last"]) + 1 - int(row["first"])
        cuts.append(random_generator.integers(-(2**15), 2**15, n_samples).astype(np.int16))
        row["crc32"] = f"{zlib.crc32(cuts[-1].tobytes()):08x}"
        write_source(tmp_path / "source", row, cuts[-1])
    write_table(folder, rows)
    process = lay(folder, tmp_path / "source", tmp_path / "corpus", "--wav")
    assert process.returncode == 0, process.stderr
    check_corpus(tmp_path / "corpus", folder, rows, cuts, ".wav")
    cuts[4][7] ^= 1
    write_source(tmp_path / "source", rows[4], cuts[4])
    process = lay(folder, tmp_path / "source", tmp_path / "other")
    assert process.returncode == 1 and f"{rows[4]['source']} is not the recording" in process.stderr


@pytest.mark.skipif(not os.path.isdir(OPEN_CORPUS), reason="no ../shared/speechocean762_open")
def test_the_recorded_checksums_are_those_of_the_corpus(labels, tmp_path):
    folder, rows = labels
    cuts = []
    for row in rows:
        path = os.path.join(OPEN_CORPUS, row["utterance"] + ".flac")
        cuts.append(soundfile.read(path, dtype="int16")[0])
        write_source(tmp_path / "source", row, cuts[-1])
    write_table(folder, rows)
    process = lay(folder, tmp_path / "source", tmp_path / "corpus")
    assert process.returncode == 0, process.stderr
    check_corpus(tmp_path / "corpus", folder, rows, cuts, ".flac")
