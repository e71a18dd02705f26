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

import os
import re
import shlex
from typing import NamedTuple

from speech.audio import SUFFIXES
from speech.facts import (
    CORE_TEST_SPEAKERS,
    DEVELOP_SPEAKERS,
    SAMPLE_DEVELOP_SPEAKERS,
    SAMPLE_TEST_SPEAKERS,
    SPLITS,
)
from speech.files import Problem, read_bytes, what_it_is
from toolbox.command_line import UserError

SPEAKERS_FILE = "speakers.tsv"
LEFT_OUT = re.compile("sa[12]")
SUFFIX = rf"(?:{'|'.join(map(re.escape, (*SUFFIXES, '.phn')))})"
TIMIT = rf"(?P<speaker>[a-z0-9]+)/(?P<name>[a-z0-9]+){SUFFIX}"
OWN = rf"(?P<speaker>[^/.][^/]*)/(?P<name>[^/.][^/]*){SUFFIX}"
LAYOUTS = {
    "ldc": re.compile(rf"(?P<source>train|test)/(?P<region>dr[1-8])/{TIMIT}"),
    "nltk_sample": re.compile(rf"(?P<source>)(?P<region>dr[1-8])-{TIMIT}"),
    "own": re.compile(rf"(?P<source>train|develop|test)/(?:(?P<region>dr[0-9]+)/)?{OWN}"),
}


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
        raise UserError(_no_folder(data_path))
    paths = _files(data_path)
    notes = []
    speakers = _read_speakers(data_path) if SPEAKERS_FILE in os.listdir(data_path) else None
    if speakers is not None:
        layout, found = "own", _listed(data_path, paths, speakers, notes)
    else:
        layout, found = _by_folders(data_path, paths, notes)
    utterances = [
        found[stem] for split in SPLITS for stem in sorted(found) if found[stem].split == split
    ]
    check_splits(data_path, utterances, len(found))
    return Corpus(layout, speakers is not None, utterances, notes)


def _no_folder(data_path):
    """What to say of a path that is no folder."""
    if not data_path:
        return "--data_path is empty, expected the folder of the corpus"
    give = "give the folder of the corpus as --data_path"
    if not os.path.exists(data_path):
        return f"{data_path}: no such folder: {give}"
    name = data_path.lower()
    for suffixes, command in (
        ((".zip",), "unzip"),
        ((".tar", ".tgz", ".gz", ".bz2", ".xz"), "tar -xf"),
    ):
        if name.endswith(suffixes):
            give = f"run `{command} {shlex.quote(data_path)}` and give the folder that it makes"
    return f"{data_path}: is a file, not a folder: {give}"


def check_splits(data_path, utterances, n_found):
    """Raise UserError if a split has no utterance."""
    for split in SPLITS:
        if not any(u.split == split and u.audio_path for u in utterances):
            raise UserError(
                f"{data_path}: no utterance for the {split} set, found {n_found} in the layout: "
                f"the corpus is incomplete, copy it again, or name the {split} set's folders in "
                f"{SPEAKERS_FILE}"
            )


def _by_folders(data_path, paths, notes):
    """(layout, stem -> Utterance) by the names of folders."""
    found = {layout: {} for layout in LAYOUTS}
    for path in paths:
        for layout, pattern in LAYOUTS.items():
            match = pattern.fullmatch(path)
            if match:
                source, region, speaker, name = match.group("source", "region", "speaker", "name")
                split = source if layout == "own" else _split(source, f"{region}/{speaker}")
                _add(found[layout], data_path, path, source, split, region or "", speaker, name)
    if found["ldc"] and found["nltk_sample"]:
        raise UserError(
            f"{data_path}: holds train/ or test/ beside drN-speaker/ folders, expected one of "
            "the two layouts: move one away"
        )
    layout = next((layout for layout in LAYOUTS if found[layout]), "own")
    if any(utterance.split == "develop" for utterance in found["own"].values()):
        layout = "own"
    else:
        _check_places(data_path, paths, found[layout])
    if layout == "own":
        _check_suffixes(data_path, paths, lambda path: LAYOUTS["own"].fullmatch(path.lower()))
        for path in paths:
            if re.match(r"(train|develop|test)/(.*/)?[^/.][^/]*\Z", path) and (
                os.path.splitext(path)[0] not in found["own"]
            ):
                text = "in no speaker's folder, expected SET/SPEAKER/NAME: not read"
                where = os.path.join(data_path, path)
                notes.append(Problem("files in no speaker's folder", where, text))
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
        searches = (LAYOUTS[layout].search(path.lower()) for layout in ("ldc", "nltk_sample"))
        match = next(filter(None, searches), None)
        if match and os.path.splitext(match[0])[0] not in found:
            what = "still in upper case" if path != path.lower() else "not where it belongs"
            raise UserError(
                f"{os.path.join(data_path, path)}: {what}, expected {match[0]} in the folder of "
                f"the corpus: run `./rename-files.sh {data_path} NEW_FOLDER` and give NEW_FOLDER "
                "as --data_path"
            )


def _check_suffixes(data_path, paths, is_utterance):
    """Refuse files of a corpus of one's own with suffixes in upper case, unless copies are."""
    for path in paths:
        stem, suffix = os.path.splitext(path)
        expected = f"{stem}{suffix.lower()}"
        is_hidden = os.path.basename(path).startswith(".")
        if path != expected and expected not in paths and is_utterance(path) and not is_hidden:
            command = f"find {shlex.quote(data_path)} -name '*.[A-Z]*' -exec sh -c "
            command += """'mv "$0" "${0%.*}.$(echo "${0##*.}" | tr A-Z a-z)"' {} \\;"""
            raise UserError(
                f"{os.path.join(data_path, path)}: suffix in upper case, expected {expected} (and "
                f"folders {', '.join(SPLITS)}): rename all by `{command}`"
            )


def _split(source, who):
    """Split of a speaker of TIMIT; in the sample, which has no `source`, a list of its own."""
    develop, test = (
        (DEVELOP_SPEAKERS, CORE_TEST_SPEAKERS)
        if source
        else (SAMPLE_DEVELOP_SPEAKERS, SAMPLE_TEST_SPEAKERS)
    )
    if source != "train" and who in test:
        return "test"
    if source != "train" and who in develop:
        return "develop"
    return "" if source == "test" else "train"  # of 168 test speakers, 94 are in no set


def _add(found, data_path, path, source, split, *fields):
    """Enter a file under its stem. Of several audio files the last one in the alphabet stays: wav,
    then sph, then flac."""
    stem, suffix = os.path.splitext(path)
    audio_path = found[stem].audio_path if stem in found else ""
    if suffix in SUFFIXES:
        audio_path = os.path.join(data_path, path)
    split = "" if LEFT_OUT.fullmatch(os.path.basename(stem)) else split
    found[stem] = Utterance(os.path.join(data_path, stem), audio_path, source, split, *fields)


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


def _read_speakers(data_path):
    """Folder -> (split, gender) of `speakers.tsv`.

    Raises:
        UserError: no such columns, an unknown split, a folder twice or outside the corpus.
    """
    path = os.path.join(data_path, SPEAKERS_FILE)
    content = read_bytes(path)
    what = what_it_is(content)
    if what:
        raise UserError(f"{path}: is {what}")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no UTF-8 text: save it as one") from None
    rows = [
        (number, [cell.strip().strip('"').strip() for cell in line.split("\t")])
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    columns = rows[0][1] if rows else []
    for column in ("folder", "split"):
        if column not in columns:
            raise UserError(
                f"{path}: no column {column!r} in its first line, found "
                f"{', '.join(columns)[:200]}, expected folder, split and gender, tab-separated"
            )
    speakers = {}
    for number, cells in rows[1:]:
        row = dict(zip(columns, cells))
        folder = os.path.normpath(row.get("folder", "").replace("\\", "/"))
        split = row.get("split", "")
        if split not in SPLITS:
            problem = f"split {split[:60]!r}, expected {', '.join(SPLITS)}"
        elif folder in (".", "..") or folder.startswith(("../", "/")):
            problem = f"folder {folder[:60]!r}, expected one inside the corpus"
        elif folder in speakers:
            problem = f"folder {folder[:60]} for the second time"
        else:
            speakers[folder] = split, row.get("gender", "")
            continue
        raise UserError(f"{path}, line {number}: {problem}")
    return speakers


def _listed(data_path, paths, speakers, notes):
    """stem -> Utterance of the folders that `speakers.tsv` lists."""
    _check_suffixes(data_path, paths, lambda path: os.path.dirname(path) in speakers)
    found, seen = {}, set()
    for path in paths:
        folder, name = os.path.split(os.path.splitext(path)[0])
        if name.startswith(".") or not path.endswith((*SUFFIXES, ".phn")):
            continue
        seen.add(folder)
        if folder in speakers:
            split, gender = speakers[folder]
            *above, speaker = folder.split("/")
            source = above[0] if above and above[0] in SPLITS else ""
            region = next((part for part in above if re.fullmatch("dr[0-9]+", part)), "")
            _add(found, data_path, path, source, split, region, speaker, name, gender)
    for folder in sorted(set(speakers) - seen):
        raise UserError(
            f"{os.path.join(data_path, SPEAKERS_FILE)}: lists the folder {folder}, which holds no "
            "utterance: copy it again or take the row out"
        )
    for folder in sorted(seen - set(speakers)):
        text = f"not listed in {SPEAKERS_FILE}: not read"
        notes.append(Problem("folders that are not listed", os.path.join(data_path, folder), text))
    return found
