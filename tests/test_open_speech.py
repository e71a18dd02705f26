"""The corpus in the box: what is in it, and what stands beside errors on it."""

import collections
import csv
import json
import os

import pytest
import soundfile

import timit_processing
from helpers import OPEN_SPEECH, REPOSITORY, write_corpus
from speech.facts import FOLD_61_TO_39, PHONES_39
from toolbox.command_line import parse_flags


def test_sets_and_speakers():
    with open(os.path.join(OPEN_SPEECH, "speakers.tsv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    genders = collections.Counter((row["split"], row["gender"]) for row in rows)
    assert genders == {
        **{("train", gender): 10 for gender in "fm"},
        **{(split, gender): 3 for split in ("develop", "test") for gender in "fm"},
    }
    assert len({row["speechocean762"] for row in rows}) == len(rows) == 32
    phones = {"train": set(), "develop": set(), "test": set()}
    for row in rows:
        folder = os.path.join(OPEN_SPEECH, row["folder"])
        stems = {name.split(".")[0] for name in os.listdir(folder)}
        assert len(stems) == int(row["utterances"]) == 4
        for stem in stems:
            sound = soundfile.info(os.path.join(folder, f"{stem}.flac"))
            assert (sound.samplerate, sound.channels, sound.subtype) == (16000, 1, "PCM_16")
            with open(os.path.join(folder, f"{stem}.phn"), encoding="utf-8") as file:
                phones[row["split"]] |= {FOLD_61_TO_39[line.split()[2]] for line in file}
    assert all(found == set(PHONES_39) for found in phones.values())


def test_git_takes_sound_as_bytes():
    with open(os.path.join(REPOSITORY, ".gitattributes"), encoding="utf-8") as file:
        assert "*.flac binary" in file.read().splitlines()


@pytest.mark.parametrize(
    "content, note", [("two\twords\nmore\n", "two words"), ("\x1b[2J", "\\x1b[2J"), (None, "")]
)
def test_the_note_of_a_corpus_goes_with_its_features(content, note, tmp_path):
    write_corpus(tmp_path / "corpus")
    if content is not None:
        (tmp_path / "corpus/corpus_note.txt").write_text(content)
    arguments = [f"--data_path={tmp_path / 'corpus'}", f"--output_path={tmp_path / 'out'}"]
    timit_processing.main(parse_flags(timit_processing.define_flags, ["x", *arguments])[0])
    assert json.loads((tmp_path / "out/processing.json").read_text())["corpus_note"] == note
