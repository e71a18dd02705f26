"""rename-files.sh on small trees of every layout in which TIMIT is found."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import soundfile

import timit_processing
from helpers import LIMIT_S, REPOSITORY, assert_user_error, run_here
from helpers import write_corpus as write_speech

SCRIPT = os.path.join(REPOSITORY, "rename-files.sh")
UTTERANCES = (
    ("train", "dr1", "fcjf0", "sa1"),
    ("train", "dr1", "fcjf0", "si1027"),
    ("train", "dr8", "mtcs0", "sx262"),
    ("test", "dr3", "mrtk0", "sx13"),
)
KINDS = ("wav", "phn", "wrd", "txt")
N_FILES = len(UTTERANCES) * len(KINDS)


def content(utterance, kind):
    """Bytes of one file, different for every file; neither text nor ended by a line break."""
    return f"{'/'.join(utterance)}.{kind}".encode() + b"\r\n\0\xff\x80 tail"


WANTED = {
    f"{'/'.join(utterance)}.{kind}": content(utterance, kind)
    for utterance in UTTERANCES
    for kind in KINDS
}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_corpus(root, change=str.upper, end=""):
    """Write TIMIT's files below `root`, their names changed by `change` and ended by `end`."""
    for name, data in WANTED.items():
        write(root / (change(name) + end), data)
    write(root / change("readme.doc"), b"not of an utterance")
    write(root / change("doc/spkrinfo.txt"), b"not of an utterance")
    return root


def files(root):
    """What a folder holds: {path below it: bytes}, hidden files included."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def snapshot(root):
    """All that a run could change in a folder: {path: (mode, time of change, bytes)}."""
    return {
        str(p.relative_to(root)): (
            p.lstat().st_mode,
            p.lstat().st_mtime_ns,
            p.read_bytes() if p.is_file() else None,
        )
        for p in root.rglob("*")
    }


def assert_done(process, copied, in_place=0):
    """The run ended well and counted `copied` new files and `in_place` old ones."""
    assert (process.returncode, process.stderr) == (0, "")
    if copied:
        assert f"\ncopied {copied} files, {in_place} already in place\n" in process.stdout
    else:
        assert f"\nall {in_place} files already in place\n" in process.stdout


@pytest.mark.parametrize(
    "levels, change, end",
    [
        ("TIMIT", str.upper, ""),  # LDC disc
        ("data/lisa/data/timit/raw/TIMIT", str.upper, ""),  # further levels
        ("", str.upper, ""),
        ("timit", str.lower, ""),
        ("Timit", str.title, ""),
        ("TIMIT", str.upper, ";1"),  # names of a disc mounted without translation
        ("TIMIT", str.upper, "."),
        ("timit", str.lower, ".;1"),
        ("my data (1)/TIMIT  copy ", str.upper, ""),
        ("a\tb/-n/[x]*?/$HOME `id` 'q' \"d\" \\n & ; # é =", str.upper, ""),
    ],
)
def test_layouts(tmp_path, run_script, levels, change, end):
    source = tmp_path / "down load"
    write_corpus(source / levels, change, end)
    before = snapshot(source)

    process = run_script("rename-files.sh", "down load")

    assert_done(process, N_FILES)
    assert "timit: 4 utterances of 2 training and 1 test speakers\n" in process.stdout
    assert "files: 4 wav, 4 phn, 4 wrd, 4 txt, 0 htk\n" in process.stdout
    assert files(tmp_path / "timit") == WANTED  # and no hidden leavings
    assert snapshot(source) == before


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox sh"])
def test_shells(tmp_path, shell):
    program, *applet = shell.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    write_corpus(tmp_path / "TIMIT")
    command = [program, *applet, SCRIPT, "TIMIT", "out put"]
    for copied, in_place in ((N_FILES, 0), (0, N_FILES)):
        process = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert_done(process, copied, in_place)
        assert files(tmp_path / "out put") == WANTED
    write(tmp_path / "TIMIT" / "COPY" / "TEST" / "DR3" / "MRTK0" / "SX13.PHN", b"other")
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert_user_error(process, "differ")


def test_kaggle(tmp_path, run_script):
    """The original is taken, its RIFF twin only where the original is missing."""
    data = write_corpus(tmp_path / "archive" / "data")
    for utterance in UTTERANCES:
        write(data / f"{'/'.join(utterance).upper()}.WAV.wav", b"RIFF twin")
    write(tmp_path / "archive" / "train_data.csv", b"index")
    (data / "TEST/DR3/MRTK0/SX13.WAV").unlink()

    process = run_script("rename-files.sh", "archive")

    assert_done(process, N_FILES)
    assert "left out 3 RIFF twins" in process.stdout
    assert files(tmp_path / "timit") == {**WANTED, "test/dr3/mrtk0/sx13.wav": b"RIFF twin"}
    assert_done(run_script("rename-files.sh", "archive"), 0, N_FILES)


def test_formats_of_one_recording(tmp_path, run_script):
    """A SPHERE file beside a RIFF one ends no run: the RIFF file is taken, or what is there."""
    speaker = write_corpus(tmp_path / "TIMIT") / "TRAIN/DR1/FCJF0"
    riff = b"RIFF\0\0\0\0WAVE"
    write(speaker / "SA1.wav", riff)
    expected = {**WANTED, "train/dr1/fcjf0/sa1.wav": riff}
    process = run_script("rename-files.sh", "TIMIT")
    assert_done(process, N_FILES)
    assert f"took {speaker}/SA1.wav and left out {speaker}/SA1.WAV;" in process.stdout
    assert files(tmp_path / "timit") == expected

    process = run_script("rename-files.sh", "TIMIT")
    assert_done(process, 0, N_FILES)
    assert f"took {tmp_path}/timit/train/dr1/fcjf0/sa1.wav and left out" in process.stdout
    assert files(tmp_path / "timit") == expected

    (tmp_path / "timit/train/dr1/fcjf0/sa1.wav").write_bytes(b"NIST_1A\n")
    assert_user_error(run_script("rename-files.sh", "TIMIT"), "SA1.WAV", "differ", "move the wrong")


def test_texts_with_a_second_suffix(tmp_path, run_script):
    speaker = write_corpus(tmp_path / "TIMIT") / "TRAIN/DR1/FCJF0"
    (speaker / "SA1.PHN").rename(speaker / "SA1.PHN.txt")
    assert_done(run_script("rename-files.sh", "TIMIT"), N_FILES)
    assert files(tmp_path / "timit") == WANTED


def ldc_name(stem):
    """A name as on the LDC's disc for an utterance of the open sample."""
    folder, number = stem.rsplit("/u", 1)
    return f"{folder}/sx{number}"


def to_upper(folder, inside="", end=""):
    """Rename all files below a folder to upper case, with their folders above them if inside it."""
    for path in sorted(folder.rglob("*.*")):
        name = str(path.relative_to(folder))
        if inside in name:
            target = folder / (name.upper() + end)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def add_sphere(folder, name):
    """Write a SPHERE file of each RIFF file's sound; `name` gives its name from the other's."""
    for path in sorted(folder.rglob("*.WAV")):
        samples, rate_hz = soundfile.read(path, dtype="int16")
        riff, path = path, path.with_name(path.name + ".tmp")
        soundfile.write(path, samples, rate_hz, format="NIST", subtype="PCM_16")
        name(riff, path)


def as_kaggle(riff, sphere):
    riff.rename(f"{riff}.wav")
    sphere.rename(riff)


def as_twins(riff, sphere):
    riff.rename(riff.with_suffix(".wav"))
    sphere.rename(riff)


@pytest.mark.parametrize(
    "where, change",
    [
        ("TIMIT", to_upper),
        ("data/lisa/data/timit/raw/TIMIT", to_upper),
        ("TIMIT", lambda folder: to_upper(folder, end=";1")),
        ("archive/data", lambda folder: (to_upper(folder), add_sphere(folder, as_kaggle))),
        ("TIMIT", lambda folder: (to_upper(folder), add_sphere(folder, as_twins))),
        ("timit", lambda folder: to_upper(folder, inside="dr2")),
    ],
    ids=["LDC", "figshare", "iso", "Kaggle", "twins", "mixed"],
)
def test_what_is_renamed_can_be_processed(tmp_path, run_script, where, change):
    source = tmp_path / where
    speech = dict(n_train=3, n_develop=2, n_test=2)
    write_speech(source, **speech, name=ldc_name)
    change(source)
    renamed = run_script("rename-files.sh", where.split("/")[0])
    assert (renamed.returncode, renamed.stderr) == (0, "")
    paths = f"--data_path={tmp_path / 'timit'}", f"--output_path={tmp_path / 'processed'}"
    assert run_here(timit_processing, *paths).returncode == 0
    with open(tmp_path / "processed/processing.json", encoding="utf-8") as file:
        settings = json.load(file)
    assert settings["layout"] == "ldc"
    sizes = [settings["splits"][split]["utterances"] for split in ("train", "develop", "test")]
    assert sizes == [3, 2, 2]


def test_only_files_of_utterances(tmp_path, run_script):
    speaker = write_corpus(tmp_path / "TIMIT") / "TRAIN/DR1/FCJF0"
    write(speaker / "SA1.HTK", b"features")
    for name in (
        "._SA1.WAV",  # what a Mac puts into archives
        "SA1.WAV.zip",
        "SA1.WAV~",
        "NOTES.TXT",
        "SA1",
        "more/SA1.WAV",
        "../../DR9/FCJF0/SA1.WAV",
        "../SA1.WAV",
        "../../../VALID/DR1/FCJF0/SA1.WAV",
    ):
        write(speaker / name, b"not of TIMIT")
    process = run_script("rename-files.sh", "TIMIT")
    assert_done(process, N_FILES + 1)
    assert "4 txt, 1 htk" in process.stdout
    assert files(tmp_path / "timit") == {**WANTED, "train/dr1/fcjf0/sa1.htk": b"features"}


def test_second_run_copies_only_what_is_missing(tmp_path, run_script):
    write_corpus(tmp_path / "TIMIT")
    out = tmp_path / "timit"
    assert_done(run_script("rename-files.sh", "TIMIT"), N_FILES)
    first = snapshot(out)
    assert_done(run_script("rename-files.sh", "TIMIT"), 0, N_FILES)
    assert snapshot(out) == first

    (out / "train/dr1/fcjf0/sa1.phn").unlink()
    write(out / "train/dr1/fcjf0/own notes", b"mine")
    assert_done(run_script("rename-files.sh", "TIMIT"), 1, N_FILES - 1)
    assert files(out) == {**WANTED, "train/dr1/fcjf0/own notes": b"mine"}


def test_dry_run_changes_nothing(tmp_path, run_script):
    write_corpus(tmp_path / "TIMIT")
    before = snapshot(tmp_path)
    process = run_script("rename-files.sh", "--dry-run", "TIMIT", "out")
    assert process.returncode == 0
    assert snapshot(tmp_path) == before
    listed = [line.split(" -> ") for line in process.stdout.splitlines() if " -> " in line]
    assert {target for _, target in listed} == {f"out/{name}" for name in WANTED}
    assert all(os.path.isfile(path) for path, _ in listed)
    assert f"would copy {N_FILES} files, 0 already in place" in process.stdout

    run_script("rename-files.sh", "TIMIT", "out")
    before = snapshot(tmp_path)
    assert_done(run_script("rename-files.sh", "TIMIT", "out", "--dry-run"), 0, N_FILES)
    write(tmp_path / "out/test/dr3/mrtk0/sx13.txt", b"other")
    assert_user_error(run_script("rename-files.sh", "--dry-run", "TIMIT", "out"), "differ")
    write(tmp_path / "out/test/dr3/mrtk0/sx13.txt", WANTED["test/dr3/mrtk0/sx13.txt"])
    assert snapshot(tmp_path).keys() == before.keys()


def test_two_sources_of_one_name(tmp_path, run_script):
    write_corpus(tmp_path / "all" / "TIMIT")
    write_corpus(tmp_path / "all" / "second copy", str.lower)
    other = tmp_path / "all" / "second copy" / "train/dr8/mtcs0/sx262.wrd"
    write(other, WANTED["train/dr8/mtcs0/sx262.wrd"][:-1])
    before = snapshot(tmp_path)
    assert_user_error(
        run_script("rename-files.sh", "all"),
        f"'{other}'",
        f"'{tmp_path}/all/TIMIT/TRAIN/DR8/MTCS0/SX262.WRD'",
        "nothing copied",
    )
    assert snapshot(tmp_path) == before

    write(other, WANTED["train/dr8/mtcs0/sx262.wrd"])
    assert_done(run_script("rename-files.sh", "all"), N_FILES)
    assert files(tmp_path / "timit") == WANTED


def test_other_content_in_dest(tmp_path, run_script):
    write_corpus(tmp_path / "TIMIT")
    present = tmp_path / "timit/train/dr1/fcjf0/si1027.phn"
    write(present, b"corrected by hand")
    before = snapshot(tmp_path)
    assert_user_error(
        run_script("rename-files.sh", "TIMIT"),
        f"'{present}'",
        f"'{tmp_path}/TIMIT/TRAIN/DR1/FCJF0/SI1027.PHN'",
        "nothing copied",
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("obstacle", ["train/dr1/fcjf0/sa1.wav/x", "train/dr1", "train"])
def test_something_in_the_way(tmp_path, run_script, obstacle):
    write_corpus(tmp_path / "TIMIT")
    write(tmp_path / "timit" / obstacle, b"in the way")
    before = snapshot(tmp_path / "TIMIT")
    assert_user_error(run_script("rename-files.sh", "TIMIT"), tmp_path / "timit", "train")
    assert files(tmp_path / "timit") == {obstacle: b"in the way"}
    assert snapshot(tmp_path / "TIMIT") == before


def test_dest_inside_source(tmp_path, run_script):
    write_corpus(tmp_path / "TIMIT")
    for copied, in_place in ((N_FILES, 0), (0, N_FILES)):  # the second run finds its own output
        assert_done(run_script("rename-files.sh", ".", "./TIMIT/new/../out"), copied, in_place)
        (tmp_path / "TIMIT/new").mkdir(exist_ok=True)
        assert files(tmp_path / "TIMIT/out") == WANTED
    assert_done(run_script("rename-files.sh", ".", "TIMIT/out"), 0, N_FILES)


def test_source_inside_dest(tmp_path, run_script):
    source = write_corpus(tmp_path / "timit" / "TIMIT")
    before = snapshot(source)
    for copied, in_place in ((N_FILES, 0), (0, N_FILES)):
        assert_done(run_script("rename-files.sh", "timit/TIMIT"), copied, in_place)
        assert snapshot(source) == before
        assert {p: d for p, d in files(tmp_path / "timit").items() if p in WANTED} == WANTED
        assert len(files(tmp_path / "timit")) == 2 * N_FILES + 2


def test_in_place(tmp_path, run_script):
    """A lower-case copy stays as it is; an upper-case one gets its copies beside it."""
    lower = write_corpus(tmp_path / "lower", str.lower)
    before = snapshot(lower)
    (tmp_path / "link").symlink_to("lower")
    assert_done(run_script("rename-files.sh", "lower", "link"), 0, N_FILES)
    assert snapshot(lower) == before

    upper = write_corpus(tmp_path / "upper")
    before = snapshot(upper)
    for copied, in_place in ((N_FILES, 0), (0, N_FILES)):
        assert_done(run_script("rename-files.sh", "upper", "upper"), copied, in_place)
        after = snapshot(upper)
        assert {path: after[path] for path in before} == before
        assert {p: d for p, d in files(upper).items() if p in WANTED} == WANTED


def test_links_are_followed(tmp_path, run_script):
    write_corpus(tmp_path / "disc")
    source = tmp_path / "TIMIT"
    source.mkdir()
    (source / "TRAIN").symlink_to(tmp_path / "disc" / "TRAIN")
    write(source / "elsewhere", WANTED["test/dr3/mrtk0/sx13.wav"])
    (source / "TEST/DR3/MRTK0").mkdir(parents=True)
    (source / "TEST/DR3/MRTK0/SX13.WAV").symlink_to(source / "elsewhere")
    assert_done(run_script("rename-files.sh", "TIMIT"), 3 * len(KINDS) + 1)
    copies = files(tmp_path / "timit")
    assert copies["test/dr3/mrtk0/sx13.wav"] == WANTED["test/dr3/mrtk0/sx13.wav"]
    assert not any(path.is_symlink() for path in (tmp_path / "timit").rglob("*"))


def test_copies_of_a_read_only_disc_can_be_written(tmp_path, run_script):
    source = write_corpus(tmp_path / "TIMIT")
    for path in source.rglob("*.*"):
        path.chmod(0o444)
    assert_done(run_script("rename-files.sh", "TIMIT"), N_FILES)
    modes = [path.stat().st_mode for path in (tmp_path / "timit").rglob("*.*")]
    assert len(modes) == N_FILES and all(mode & 0o200 for mode in modes)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), ("SOURCE", "0 arguments")),
        (("a", "b", "c"), ("3 arguments",)),
        (("missing",), ("'missing' is not a folder",)),
        (("",), ("'' is not a folder",)),
        (("TIMIT", ""), ("DEST",)),
        (("file",), ("'file' is not a folder",)),
        (("TIMIT", "file"), ("'file' is not a folder",)),
        (("TIMIT", "file/out"), ("file",)),
        (("--dryrun", "TIMIT"), ("'--dryrun'",)),
        (("TIMIT", "-n"), ("'-n'",)),
        (("empty",), ("nothing of TIMIT", "empty", "drN/speaker")),
        (
            ("sample",),
            ("the NLTK sample", "no renaming", "timit_processing.py --data_path='", "sample'"),
        ),
        (("upper",), ("the NLTK sample", "upper case", "unpack it again")),
        (("no_region",), ("no_region/TRAIN/FCJF0/SA1.WAV", "without a folder drN", "copy")),
        (("flat",), ("flat/TRAIN_DR1_FCJF0_SA1.WAV", "set, region and speaker", "copy")),
        (("own",), ("own/train/anna/u1.flac", "no name of TIMIT", "docs/corpora.md")),
        (
            ("own_upper",),
            (
                "own_upper/train/anna/U1.WAV",
                "no name of TIMIT",
                "upper case",
                "tr A-Z a-z",
                "{} \\;`",
            ),
        ),
        (("zips",), ("zips/timit.zip", "unpack it")),
        (("zips/timit.zip",), ("a zip file", "`unzip 'zips/timit.zip'`")),
        (("TIMIT.tar.gz",), ("an archive", "`tar -xf 'TIMIT.tar.gz'`")),
        (("split",), ("line break", "line/TRAIN")),
    ],
)
def test_mistakes(tmp_path, run_script, arguments, words):
    write_corpus(tmp_path / "TIMIT")
    write(tmp_path / "file", b"")
    (tmp_path / "empty").mkdir()
    for name in (
        "sample/dr1-fcjf0/sa1.wav",
        "upper/DR1-FCJF0/SA1.WAV",
        "no_region/TRAIN/FCJF0/SA1.WAV",
        "flat/TRAIN_DR1_FCJF0_SA1.WAV",
        "own/train/anna/u1.flac",
        "own_upper/train/anna/U1.WAV",
        "zips/timit.zip",
        "TIMIT.tar.gz",
    ):
        write(tmp_path / name, b"")
    write(tmp_path / "split/broken\nline/TRAIN/DR1/FCJF0/SA1.WAV", b"")
    before = snapshot(tmp_path)
    assert_user_error(run_script("rename-files.sh", *arguments), "rename-files.sh: error:", *words)
    assert snapshot(tmp_path) == before


def test_names_like_options(tmp_path, run_script):
    write_corpus(tmp_path / "-delete")
    assert_done(run_script("rename-files.sh", "--", "-delete", "--help"), N_FILES)
    assert files(tmp_path / "--help") == WANTED


def test_help(run_script):
    process = run_script("rename-files.sh", "--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert "--dry-run" in process.stdout and "DEST" in process.stdout


def put_in_path(folder, name, lines):
    """Make a shell script that stands for program `name`; returns the PATH that has it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{lines}\n")
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("signal, status", [("TERM", 143), ("KILL", -9)])
def test_interrupted_run(tmp_path, run_script, signal, status):
    """Whenever a run dies, DEST holds no half files and the next run completes it."""
    write_corpus(tmp_path / "TIMIT")
    work = tmp_path / "work"
    work.mkdir()
    path = put_in_path(
        tmp_path / "bin",
        "cp",
        f'case $1 in *SX13.PHN) printf half >"$2"; kill -{signal} $PPID; exit 1 ;; esac\n'
        'exec "$real" "$@"',
    )
    process = run_script("rename-files.sh", "TIMIT", PATH=path, TMPDIR=str(work))
    assert process.returncode == status
    present = [name for name in files(tmp_path / "timit") if not name.startswith(".")]
    assert present == []
    if signal != "KILL":
        assert files(tmp_path / "timit") == {} and list(work.iterdir()) == []

    assert_done(run_script("rename-files.sh", "TIMIT"), N_FILES)
    assert files(tmp_path / "timit") == WANTED


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_a_closed_pipe_ends_it_quietly(tmp_path, arguments):
    write_corpus(tmp_path / "TIMIT")
    work = tmp_path / "work"
    work.mkdir()
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [SCRIPT, *arguments, "TIMIT"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(work)},
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, b"")
    assert list(work.iterdir()) == [] and not (tmp_path / "timit").exists()


def test_home_folders_are_expanded_also_when_quoted(tmp_path, run_script):
    write_corpus(tmp_path / "TIMIT")
    assert_done(run_script("rename-files.sh", "~/TIMIT", "~/out", HOME=str(tmp_path)), N_FILES)
    assert files(tmp_path / "out") == WANTED


def test_leavings_of_killed_runs(tmp_path):
    """They are removed, also under this run's own number; those of a living process stay."""
    write_corpus(tmp_path / "TIMIT")
    living = f".rename-files.partial.{os.getpid()}/train/dr1/fcjf0/sa1.wav"
    write(tmp_path / "timit" / living, b"half")
    dead = subprocess.Popen(["true"])
    dead.wait()
    command = """
        for number in $$ "$2"; do
            mkdir -p "timit/.rename-files.partial.$number/train/dr1/fcjf0"
            echo half >"timit/.rename-files.partial.$number/train/dr1/fcjf0/sa1.wav"
        done
        mkdir "$TMPDIR/rename-files.$$"
        exec sh "$1" .
    """
    process = subprocess.run(
        ["sh", "-c", command, "sh", SCRIPT, str(dead.pid)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert_done(process, N_FILES)
    assert files(tmp_path / "timit") == {**WANTED, living: b"half"}


@pytest.mark.parametrize("program", ["cp", "mv"])
def test_full_disk(tmp_path, run_script, program):
    source = write_corpus(tmp_path / "TIMIT")
    before = snapshot(source)
    path = put_in_path(
        tmp_path / "bin",
        program,
        'case $* in *mrtk0*) echo "no space left" >&2; exit 1 ;; esac; exec "$real" "$@"',
    )
    process = run_script("rename-files.sh", "TIMIT", PATH=path)
    assert_user_error(process, "no space left")
    assert files(tmp_path / "timit").items() <= WANTED.items()
    assert not any(name.startswith("test") for name in files(tmp_path / "timit"))
    assert snapshot(source) == before


def test_one_process_a_file(tmp_path, run_script):
    """The full corpus has 25,200 files: speed is the number of programs started."""
    source = tmp_path / "TIMIT"
    n_files = 300
    for i in range(n_files):
        write(source / f"TRAIN/DR1/FCJF0/SX{i}.WAV", b"%d" % i)
    log = tmp_path / "log"
    programs = "awk chmod cmp cp find head mkdir mv rm xargs".split()
    for program in programs:
        path = put_in_path(tmp_path / "bin", program, f'echo $0 >>{log}; exec "$real" "$@"')
    for copied, in_place in ((n_files, 0), (0, n_files)):
        log.write_text("")
        process = run_script("rename-files.sh", "TIMIT", PATH=path)
        assert_done(process, copied, in_place)
        assert n_files < len(log.read_text().splitlines()) <= n_files + 20


def test_shellcheck():
    program = os.path.join(os.path.dirname(sys.executable), "shellcheck")
    program = program if os.path.exists(program) else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    process = subprocess.run(
        [program, "--shell=sh", SCRIPT], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert process.returncode == 0, process.stdout
    with open(SCRIPT, encoding="utf-8") as file:
        assert "shellcheck disable" not in file.read()
