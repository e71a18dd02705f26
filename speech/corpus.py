"""Where the utterances of a corpus lie, and which split each of them is for.

Three layouts, found in a folder by what is there:

    train/dr1/fcjf0/sx37.*, test/...                 ldc: TIMIT, lower case; of test/, the usual
                                                     development and core-test speakers are taken
    dr1-fvmh0/sx26.*                                 nltk_sample: 16 speakers of TIMIT
    {train,develop,test}/[drN/]speaker/name.*        own: a corpus of one's own

A file `speakers.tsv` wins over folder names: tab-separated, with a header; the columns `folder`,
`split` and, if there, `gender` are read by name. An utterance is an audio file (SUFFIXES, the first
one counts) and its `.phn`, perhaps `.wrd`, `.txt` and `.htk`. sa1 and sa2, which every speaker of
TIMIT reads, are left out.
"""

import csv
import io
import os
import re
from typing import NamedTuple

from speech.audio import SUFFIXES
from speech.facts import (
    CORE_TEST_SPEAKERS,
    DEVELOP_SPEAKERS,
    SAMPLE_DEVELOP_SPEAKERS,
    SAMPLE_TEST_SPEAKERS,
    SPLITS,
)
from speech.files import Problem, read_bytes
from toolbox.command_line import UserError

SPEAKERS_FILE = "speakers.tsv"
LEFT_OUT = re.compile("sa[12]")
SUFFIX = rf"(?P<suffix>{'|'.join(map(re.escape, (*SUFFIXES, '.phn')))})"
NAME = r"[^/.][^/]*"
TIMIT_LAYOUT = re.compile(
    r"(?:(?P<source>train|test)/(?P<region>dr[1-8])/|(?P<sample_region>dr[1-8])-)"
    rf"(?P<speaker>[a-z0-9]+)/(?P<name>[a-z0-9]+){SUFFIX}"
)
OWN_LAYOUT = re.compile(
    rf"(?P<source>train|develop|test)/(?:(?P<region>dr[0-9]+)/)?(?P<speaker>{NAME})/"
    rf"(?P<name>{NAME}){SUFFIX}"
)
LISTED_LAYOUT = re.compile(rf"(?P<folder>.+)/(?P<name>{NAME}){SUFFIX}")


class Utterance(NamedTuple):
    """One recording: its files are `stem` and a suffix."""

    stem: str
    audio_path: str  # "" where there is a `.phn` alone
    source: str  # "train", "develop" or "test", the corpus's own split; "" where it has none
    split: str  # one of SPLITS; "" where it is in none
    region: str  # dr1 ... dr8, or ""
    speaker: str
    name: str
    gender: str = ""  # as `speakers.tsv` has it


class Corpus(NamedTuple):
    """What was found in a folder.

    Attributes:
        layout: "ldc", "nltk_sample" or "own".
        has_speakers_file: whether `speakers.tsv` says what belongs to which split.
        utterances: list of `Utterance`, those of the three splits in the order of SPLITS, then of
            paths.
        notes: list of `Problem` that the user should know about.
    """

    layout: str
    has_speakers_file: bool
    utterances: list
    notes: list


def find_corpus(data_path):
    """Find the utterances of the three splits.

    Raises:
        UserError: no corpus there, or not yet in the layout; an empty split.
    """
    if not os.path.isdir(data_path):
        raise UserError(
            f"{data_path}: no such folder: give the folder of the corpus as --data_path"
        )
    paths = _files(data_path)
    notes = []
    speakers = _read_speakers(data_path) if SPEAKERS_FILE in os.listdir(data_path) else None
    if speakers is not None:
        layout, found = "own", _listed(data_path, paths, speakers, notes)
    else:
        layout, found = _by_folders(data_path, paths)
    utterances = [
        found[stem] for split in SPLITS for stem in sorted(found) if found[stem].split == split
    ]
    check_splits(data_path, utterances, len(found))
    return Corpus(layout, speakers is not None, utterances, notes)


def check_splits(data_path, utterances, n_found):
    """Raise UserError if a split has no utterance."""
    for split in SPLITS:
        if not any(u.split == split and u.audio_path for u in utterances):
            raise UserError(
                f"{data_path}: no utterance for the {split} set, found {n_found} in the layout: the "
                f"corpus is incomplete, copy it again, or name the {split} set's folders in "
                f"{SPEAKERS_FILE}"
            )


def _by_folders(data_path, paths):
    """(layout, stem -> Utterance) by the names of folders."""
    found = {layout: {} for layout in ("ldc", "nltk_sample", "own")}
    for path in paths:
        match = TIMIT_LAYOUT.fullmatch(path)
        if match:
            layout = "ldc" if match["source"] else "nltk_sample"
            _add(found[layout], data_path, path, _timit_utterance(match))
        match = OWN_LAYOUT.fullmatch(path)
        if match:
            _add(
                found["own"],
                data_path,
                path,
                Utterance(
                    "",
                    "",
                    match["source"],
                    match["source"],
                    *match.group(*"region speaker name".split()),
                ),
            )
    if found["ldc"] and found["nltk_sample"]:
        raise UserError(
            f"{data_path}: holds train/ or test/ beside drN-speaker/ folders, expected one of "
            "the two layouts: move one away"
        )
    is_own = any(u.split == "develop" for u in found["own"].values())
    if is_own or not (found["ldc"] or found["nltk_sample"]):
        layout = "own"
    else:
        layout = "ldc" if found["ldc"] else "nltk_sample"
    if not is_own:
        _check_places(data_path, paths, found[layout])
    if not any(utterance.audio_path for utterance in found[layout].values()):
        audio = [path for path in paths if path.lower().endswith(SUFFIXES)]
        seen = f"only {audio[0]} and the like" if audio else "no audio (.wav, .sph or .flac)"
        raise UserError(
            f"{data_path}: found {seen}, expected train/drN/speaker/*.wav and "
            "test/drN/speaker/*.wav, or drN-speaker/*.wav: give the folder of the corpus as "
            "--data_path, after rename-files.sh"
        )
    return layout, found[layout]


def _check_places(data_path, paths, found):
    """Refuse files of TIMIT that are not where they belong, unless their copies are."""
    for path in paths:
        match = TIMIT_LAYOUT.search(path.lower())
        if match and match[0][: match.start("suffix") - match.start()] not in found:
            what = "still in upper case" if path != path.lower() else "not where it belongs"
            raise UserError(
                f"{os.path.join(data_path, path)}: {what}, expected {match[0]} in the folder of "
                f"the corpus: run `./rename-files.sh {data_path} NEW_FOLDER` and give NEW_FOLDER "
                "as --data_path"
            )


def _timit_utterance(match):
    """The `Utterance`, still without its files, of a TIMIT_LAYOUT match."""
    source = match["source"] or ""
    region = match["region"] or match["sample_region"]
    develop, test = (
        (DEVELOP_SPEAKERS, CORE_TEST_SPEAKERS)
        if source
        else (SAMPLE_DEVELOP_SPEAKERS, SAMPLE_TEST_SPEAKERS)
    )
    who = f"{region}/{match['speaker']}"
    if source != "train" and who in test:
        split = "test"
    elif source != "train" and who in develop:
        split = "develop"
    else:  # of the corpus's 168 test speakers, 94 are in no set
        split = "" if source == "test" else "train"
    return Utterance("", "", source, split, region, match["speaker"], match["name"])


def _add(found, data_path, path, utterance):
    """Enter a file under its stem; of several audio files the first of SUFFIXES stays."""
    stem, suffix = os.path.splitext(path)
    path = os.path.join(data_path, path)
    before = found.get(stem)
    audio_path = before.audio_path if before else ""
    if suffix in SUFFIXES:
        ranks = [SUFFIXES.index(s) for s in (suffix, os.path.splitext(audio_path)[1]) if s]
        audio_path = path if ranks[0] == min(ranks) else audio_path
    split = "" if LEFT_OUT.fullmatch(utterance.name) else utterance.split
    found[stem] = utterance._replace(
        stem=os.path.join(data_path, stem),
        audio_path=audio_path,
        region=utterance.region or "",
        split=split,
    )


def _files(data_path):
    """Sorted paths below `data_path`, with forward slashes, of files named as audio or phones."""

    def refuse(error):
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    paths = []
    for folder, subfolders, files in os.walk(data_path, followlinks=True, onerror=refuse):
        if folder != data_path and os.path.islink(folder):
            target, parent = map(os.path.realpath, (folder, os.path.dirname(folder)))
            if os.path.commonpath([target, parent]) == target:  # the walk would come here again
                subfolders.clear()
                continue
        # Hidden folders are what an interrupted rename-files.sh leaves.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            if name.lower().endswith((*SUFFIXES, ".phn")):
                path = os.path.relpath(os.path.join(folder, name), data_path)
                paths.append(path.replace(os.sep, "/"))
    return sorted(paths)


# speakers.tsv


def _read_speakers(data_path):
    """Folder -> (split, gender) of `speakers.tsv`.

    Raises:
        UserError: no such columns, an unknown split, a folder twice or outside the corpus.
    """
    path = os.path.join(data_path, SPEAKERS_FILE)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no UTF-8 text: save it as one") from None
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = [column.strip() for column in rows.fieldnames or ()]
    for column in ("folder", "split"):
        if column not in columns:
            raise UserError(
                f"{path}: no column {column!r} in its first line, found {', '.join(columns)[:200]}, "
                "expected tab-separated columns folder, split and gender"
            )
    rows.fieldnames = columns
    speakers = {}
    for row in rows:
        folder = (row["folder"] or "").strip().replace("\\", "/").strip("/")
        split, gender = (row["split"] or "").strip(), (row.get("gender") or "").strip()
        where = f"{path}, line {rows.line_num}"
        if split not in SPLITS:
            raise UserError(f"{where}: split {split[:60]!r}, expected {', '.join(SPLITS)}")
        if not folder or os.path.normpath(folder) != folder or folder.startswith(".."):
            raise UserError(f"{where}: folder {folder[:60]!r}, expected one inside the corpus")
        if folder in speakers:
            raise UserError(f"{where}: folder {folder[:60]} for the second time")
        speakers[folder] = split, gender
    return speakers


def _listed(data_path, paths, speakers, notes):
    """stem -> Utterance of the folders that `speakers.tsv` lists."""
    found, seen, others = {}, set(), set()
    for path in paths:
        match = LISTED_LAYOUT.fullmatch(path)
        if not match or match["folder"] not in speakers:
            others.add(os.path.dirname(path))
            continue
        folder = match["folder"]
        seen.add(folder)
        split, gender = speakers[folder]
        parts = folder.split("/")
        source = parts[0] if parts[0] in SPLITS else ""
        region = next((part for part in parts[:-1] if re.fullmatch("dr[0-9]+", part)), "")
        utterance = Utterance("", "", source, split, region, parts[-1], match["name"], gender)
        _add(found, data_path, path, utterance)
    for folder in sorted(set(speakers) - seen):
        raise UserError(
            f"{os.path.join(data_path, SPEAKERS_FILE)}: lists the folder {folder}, which holds no "
            "utterance: copy it again or take the row out"
        )
    for folder in sorted(others):
        text = f"not listed in {SPEAKERS_FILE}: not read"
        notes.append(Problem("folders that are not listed", os.path.join(data_path, folder), text))
    return found
