"""Turn the TIMIT speech corpus into pickles of features and frame labels.

    python timit_processing.py                          # timit/ -> timit_processed/
    python timit_processing.py --data_path=my_timit --output_path=my_timit_processed --plot

The corpus lies in one of two layouts, in lower case (`rename-files.sh` brings any copy there):

    train/dr1/fcjf0/sx37.{wav,phn,wrd,txt}, test/...    the LDC's corpus
    dr1-fvmh0/sx26.{wav,phn,wrd,txt}                    the sample that NLTK distributes

Audio is NIST SPHERE or RIFF, whatever its name, 16 kHz, mono, 16-bit PCM; where an utterance has
a `.wav` and a `.sph`, the `.wav` is read. `.htk` files beside the audio, if every utterance has
one, are read as a third kind of features. The sentences sa1 and sa2, which every speaker reads,
are left out.

Frames of 25 ms start every 10 ms (400 and 160 samples), the last one padded with zeros:
frames = 1 + ceil((samples - 400) / 160). For each row (s, e, phone) of the `.phn`,

    label[s // 160 : e // 160] = phone,   h# elsewhere                                       (1)

With `--reference_quirks` the step in (1) is 161 samples and filter banks are energies instead of
their logarithms, as in the e-prop authors' code.

Written to OUTPUT/{train,develop,test}/, a list with one entry an utterance in each pickle:

    metadata.pickle         dicts, see `process_utterance`
    wav.pickle              int16 [samples]
    mfccs.pickle            float32 [frames, 13], the first the logarithm of the energy
    filter_banks.pickle     float32 [frames, 41], 40 mel filters and, last, the energy
    htk.pickle              float32 [frames, features], where there are `.htk` files
    phonems.pickle          int32 [frames], index into phonem_list.json (61 phones)
    reduced_phonems.pickle  int32 [frames], index into reduced_phonem_list.json (39 classes)
    words.pickle            int32 [frames], index into word_list.json, 0 (null) for no word
    reduced_phn_index_mapping.json    the reduced class of each of the 61 phones

and to OUTPUT/processing.json how it was made. Features are normalised, each dimension by its
mean and standard deviation over all frames of the training set. The whole corpus (4,288
utterances) takes about a minute on two cores and 2 GB of memory, the sample three seconds.
"""

import collections
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import io
import json
import multiprocessing
import os
import pickle
import re
import signal
import struct
import textwrap
import threading
from typing import NamedTuple

import numpy as np
import python_speech_features
import soundfile
from absl import flags

from speech.facts import (
    CORE_TEST_SPEAKERS,
    DEVELOP_SPEAKERS,
    FOLD_61_TO_39,
    FRAME_HOP_SAMPLES,
    FRAME_LENGTH_SAMPLES,
    PHONES_39,
    PHONES_61,
    SAMPLE_DEVELOP_SPEAKERS,
    SAMPLE_RATE_HZ,
    SAMPLE_TEST_SPEAKERS,
)
from toolbox import command_line, run_lock
from toolbox.command_line import UserError
from toolbox.durable_files import (
    remove_leftovers,
    write_json,
    write_whole,
    write_whole_folder,
)

DATA_PATH = "timit"
OUTPUT_PATH = "timit_processed"

SPLITS = ("train", "develop", "test")
FEATURES = ("mfccs", "filter_banks", "htk")
PICKLES = ("metadata", "wav", *FEATURES, "phonems", "reduced_phonems", "words")
LISTS = ("word_list", "phonem_list", "reduced_phonem_list", "reduced_phn_index_mapping")
SCRIPT = "timit_processing.py"
SETTINGS_FILE = "processing.json"
MAX_SETTINGS_BYTES = 2**20
FIGURE_FILE = "utterance.png"

N_MEL_FILTERS = 40
QUIRKS_LABEL_STEP_SAMPLES = 161  # int(0.01 * 16000) + 1 in the reference
# TIMIT's documentation has the last phone end at or before the last sample (and so it is in all
# 160 recordings of the sample); a frame more does no harm to the labels.
END_SLACK_SAMPLES = FRAME_HOP_SAMPLES
MAX_FILE_BYTES = 2**28  # two hours of speech: no utterance, and it would not fit the memory
UTTERANCES_PER_PROCESS = 32  # fewer are done before another process has started

PHONE_INDEX = {phone: index for index, phone in enumerate(PHONES_61)}
REDUCED_INDICES = np.array([PHONES_39.index(FOLD_61_TO_39[p]) for p in PHONES_61], np.int32)

LAYOUT = re.compile(
    r"(?:(?P<source>train|test)/(?P<region>dr[1-8])/|(?P<sample_region>dr[1-8])-)"
    r"(?P<speaker>[a-z0-9]+)/(?P<name>[a-z0-9]+)\.(?:wav|sph)"
)
ROW = re.compile(r"([0-9]{1,9})\s+([0-9]{1,9})\s+(\S.*)")  # without white space around it


class Utterance(NamedTuple):
    """One recording: its files are `stem` and a suffix."""

    stem: str
    audio_path: str
    source: str  # "train" or "test", the corpus's own split; "" in the sample, which has none
    split: str  # one of SPLITS; "" where it is in none
    region: str  # dr1 ... dr8
    speaker: str
    name: str


def define_flags(flag_values):
    """Define this script's flags."""
    flags.DEFINE_string(
        "data_path", DATA_PATH, "folder of the corpus, read only", flag_values=flag_values
    )
    flags.DEFINE_string(
        "output_path",
        OUTPUT_PATH,
        "folder to write; an earlier output of this script there is replaced",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "htk",
        True,
        "read the .htk feature files where every utterance has one; --nohtk ignores them",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "reference_quirks",
        False,
        "label frames every 161 samples instead of 160 and leave filter banks linear, as the "
        "e-prop authors' code does",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "n_processes",
        command_line.available_cores(),
        "processes that work at the same time (default: the cores this one may use)",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "plot",
        False,
        f"write a figure of the first training utterance, {FIGURE_FILE}, into the output folder",
        flag_values=flag_values,
    )


def main(flag_values):
    """Process the corpus as the flags say."""
    check_output_path(flag_values.output_path, flag_values.data_path)
    layout, utterances = find_utterances(flag_values.data_path)
    with_htk = flag_values.htk and have_htk(utterances)
    output_path = os.path.realpath(flag_values.output_path)  # a link is not to be replaced
    parent, name = os.path.split(output_path)
    lock_path = os.path.join(parent, f".{name}.lock")  # not inside the folder, which is replaced
    try:
        os.makedirs(parent, exist_ok=True)
        with run_lock.exclusive(lock_path, flag_values.output_path):
            remove_leftovers(parent, name)
            with write_whole_folder(output_path) as folder:
                dataset = make_dataset(
                    utterances, flag_values.reference_quirks, with_htk, flag_values.n_processes
                )
                words = label_words(dataset, label_step_samples(flag_values.reference_quirks))
                normalise(dataset)
                write_dataset(folder, dataset, words)
                settings = describe(dataset, layout, flag_values.reference_quirks)
                write_json(os.path.join(folder, SETTINGS_FILE), settings)
                if flag_values.plot:
                    plot_first_utterance(folder, dataset["train"][0])
    except OSError as error:
        raise UserError(
            f"{flag_values.output_path}: cannot be written ({error.strerror or error}): make room "
            "there or choose another --output_path"
        ) from None
    print(summary(settings, dataset))
    print(f"Written to {flag_values.output_path}")


def check_output_path(output_path, data_path):
    """Make sure that nothing but an earlier output of this script would be replaced.

    Raises:
        UserError: the path is empty, a file, the file system's root, the home folder, the corpus or
            the program or a folder around one of them, or a folder that is not empty and that this
            script has not written or that holds anything else.
    """
    choose = "choose another --output_path"
    if not output_path:
        raise UserError("--output_path is empty, expected the name of a folder to write")
    path = os.path.realpath(output_path)
    for what, where in (
        ("the corpus", data_path),
        ("this program", os.path.dirname(os.path.abspath(__file__))),
        ("the home folder", os.path.expanduser("~")),
    ):
        where = os.path.realpath(where)
        if path == where:
            raise UserError(f"{output_path}: --output_path is {what} itself: {choose}")
        if os.path.commonpath([path, where]) == path:
            raise UserError(f"{output_path}: --output_path contains {what}: {choose}")
    if not os.path.lexists(output_path):
        return
    if not os.path.isdir(output_path):
        raise UserError(f"{output_path}: is no folder: {choose}")
    own_names = {f"{name}.pickle" for name in PICKLES} | {f"{name}.json" for name in LISTS}
    allowed = {SETTINGS_FILE, FIGURE_FILE, *SPLITS}
    allowed |= {os.path.join(split, name) for split in SPLITS for name in own_names}
    for folder, subfolders, files in os.walk(output_path):
        for name in sorted(subfolders + files):
            found = os.path.relpath(os.path.join(folder, name), output_path)
            if found not in allowed:
                raise UserError(
                    f"{output_path}: holds {found}, which this script does not write and would "
                    f"delete: {choose}"
                )
    if os.listdir(output_path) and not _is_own_output(output_path):
        raise UserError(
            f"{output_path}: is not empty and has no {SETTINGS_FILE} of this script: {choose}, or "
            "delete the folder yourself"
        )


def _is_own_output(folder):
    """Whether the settings file in a folder says that this script wrote it."""
    try:
        with open(os.path.join(folder, SETTINGS_FILE), "rb") as file:
            settings = json.loads(file.read(MAX_SETTINGS_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.get("script") == SCRIPT


def find_utterances(data_path):
    """Find the utterances of the three splits, and make sure that they are labelled.

    Args:
        data_path: folder of the corpus.

    Returns:
        (layout, utterances): "ldc" or "nltk_sample", and a list of `Utterance` in the order of
        SPLITS, then of paths.

    Raises:
        UserError: no corpus there, or not yet in the layout; an empty split; a missing `.phn`.
    """
    if not os.path.isdir(data_path):
        raise UserError(
            f"{data_path}: no such folder: give the folder of the corpus as --data_path"
        )
    paths = _audio_files(data_path)
    found = {}
    for path in paths:  # .wav comes after .sph, and takes its place
        match = LAYOUT.fullmatch(path)
        if match:
            found[path[:-4]] = _utterance(data_path, path, match)
    for path in paths:
        # Copies in upper case beside the renamed ones are no harm: their source is still there.
        match = LAYOUT.search(path.lower())
        if match and match[0][:-4] not in found:
            what = "still in upper case" if path != path.lower() else "not where it belongs"
            raise UserError(
                f"{os.path.join(data_path, path)}: {what}, expected {match[0]} in the folder of "
                f"the corpus: run rename-files.sh and give the folder it makes as --data_path"
            )
    if not found:
        seen = f"only {paths[0]} and the like" if paths else "no audio (.wav or .sph)"
        raise UserError(
            f"{data_path}: found {seen}, expected train/drN/speaker/*.wav and "
            "test/drN/speaker/*.wav, or drN-speaker/*.wav: give the folder of the corpus as "
            "--data_path, after rename-files.sh"
        )
    layouts = {"ldc" if utterance.source else "nltk_sample" for utterance in found.values()}
    if len(layouts) > 1:
        raise UserError(
            f"{data_path}: holds train/ or test/ beside drN-speaker/ folders, expected one of "
            "the two layouts: move one away"
        )
    utterances = []
    for split in SPLITS:
        chosen = [found[key] for key in sorted(found) if found[key].split == split]
        if not chosen:
            raise UserError(
                f"{data_path}: no utterance for the {split} set, found {len(found)} audio files "
                f"in the layout: the corpus is incomplete, copy it again"
            )
        utterances += chosen
    for utterance in utterances:
        if not os.path.isfile(f"{utterance.stem}.phn"):
            raise UserError(
                f"{utterance.audio_path}: has no {os.path.basename(utterance.stem)}.phn beside "
                "it, expected the phones of every utterance: copy the corpus again"
            )
    return layouts.pop(), utterances


def _audio_files(data_path):
    """Sorted paths below `data_path`, with forward slashes, of files named as audio."""

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
            if name.lower().endswith((".wav", ".sph")):
                path = os.path.relpath(os.path.join(folder, name), data_path)
                paths.append(path.replace(os.sep, "/"))
    return sorted(paths)


def _utterance(data_path, path, match):
    """The `Utterance` of an audio file, given the LAYOUT match of its path."""
    source, speaker, name = match["source"] or "", match["speaker"], match["name"]
    region = match["region"] or match["sample_region"]
    develop, test = (
        (DEVELOP_SPEAKERS, CORE_TEST_SPEAKERS)
        if source
        else (SAMPLE_DEVELOP_SPEAKERS, SAMPLE_TEST_SPEAKERS)
    )
    who = f"{region}/{speaker}"
    if name.startswith("sa"):
        split = ""
    elif source != "train" and who in test:
        split = "test"
    elif source != "train" and who in develop:
        split = "develop"
    else:  # of the corpus's 168 test speakers, 94 are in no set
        split = "" if source == "test" else "train"
    audio_path = os.path.join(data_path, path)
    return Utterance(audio_path[:-4], audio_path, source, split, region, speaker, name)


def have_htk(utterances):
    """Whether every utterance has an `.htk` file (or none has).

    Raises:
        UserError: some have one and some have not.
    """
    missing = [u.stem for u in utterances if not os.path.isfile(f"{u.stem}.htk")]
    if missing and len(missing) < len(utterances):
        raise UserError(
            f"{missing[0]}.htk: missing, as are {len(missing) - 1} more, while "
            f"{len(utterances) - len(missing)} utterances have one: make the missing ones, or "
            "give --nohtk"
        )
    return not missing


def make_dataset(utterances, reference_quirks, with_htk, n_processes):
    """Process all utterances, with a progress bar.

    Returns:
        dict split -> list of what `process_utterance` returns, in order.

    Raises:
        UserError: from `process_utterance`, that of the first bad utterance; `.htk` files that
            differ in their number of features.
    """
    recordings = process_utterances(utterances, reference_quirks, with_htk, n_processes)
    bar = command_line.progress_bar(recordings, total=len(utterances), unit="utterance")
    recordings = list(bar)
    if with_htk:
        n_features = recordings[0]["htk"].shape[1]
        for utterance, recording in zip(utterances, recordings):
            if recording["htk"].shape[1] != n_features:
                raise UserError(
                    f"{utterance.stem}.htk: {recording['htk'].shape[1]} features a frame, expected "
                    f"{n_features} as in {utterances[0].stem}.htk: make all with one configuration"
                )
    return {
        split: [r for r in recordings if r["metadata"]["dataset_target"] == split]
        for split in SPLITS
    }


def process_utterances(utterances, reference_quirks, with_htk, n_processes):
    """Yield what `process_utterance` makes of each utterance, in order."""
    work = functools.partial(
        process_utterance, reference_quirks=reference_quirks, with_htk=with_htk
    )
    n_processes = min(n_processes, -(-len(utterances) // UTTERANCES_PER_PROCESS))
    if n_processes == 1:
        yield from map(work, utterances)
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        n_processes, multiprocessing.get_context("spawn"), _end_with_parent
    )
    try:
        with _surroundings_of_workers():  # the processes start here
            recordings = executor.map(work, utterances, chunksize=8)
        yield from recordings
    finally:
        executor.shutdown(cancel_futures=True)


def _end_with_parent():
    """In a worker process: exit when the parent is gone, killed perhaps, instead of waiting on."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def _surroundings_of_workers():
    """What processes started meanwhile inherit: deaf to Ctrl-C, and one BLAS thread each.

    The parent ends them after Ctrl-C. There is a process for every core already, and on matrices
    as small as these a second thread only waits: it cost four times the CPU time.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    n_threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if n_threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = n_threads


def process_utterance(utterance, reference_quirks, with_htk):
    """Read one utterance and make its features and labels.

    Returns:
        dict of the entries that the utterance has in the pickles, features not yet normalised,
        float32; `metadata` is a dict of dr, speaker, utterance, text (what is said),
        sample_start, sample_end (of the text), duration (s), num_windows (frames),
        dataset_source and dataset_target; `words` is not an array yet but the (start_sample,
        end_sample, word) of each word. And `phone_spans`: the same of each phone.

    Raises:
        UserError: any of the utterance's files is not as it should be.
    """
    audio = read_audio(utterance.audio_path)
    phone_spans = read_phones(f"{utterance.stem}.phn", len(audio))
    words, texts = (
        read_spans(path) if os.path.isfile(path) else []
        for path in (f"{utterance.stem}.wrd", f"{utterance.stem}.txt")
    )
    start_sample, end_sample, text = texts[0] if texts else (0, len(audio), "")
    mfccs, filter_banks = speech_features(audio, log_filter_banks=not reference_quirks)
    n_frames = len(mfccs)
    step_samples = label_step_samples(reference_quirks)
    phonems = frame_labels(phone_spans, PHONE_INDEX, n_frames, step_samples)
    recording = {
        "metadata": {
            "dr": utterance.region,
            "speaker": utterance.speaker,
            "utterance": utterance.name,
            "text": text,
            "sample_start": start_sample,
            "sample_end": end_sample,
            "duration": len(audio) / SAMPLE_RATE_HZ,
            "num_windows": n_frames,
            "dataset_source": utterance.source,
            "dataset_target": utterance.split,
        },
        "wav": audio,
        "mfccs": mfccs.astype(np.float32),
        "filter_banks": filter_banks.astype(np.float32),
        "phonems": phonems,
        "reduced_phonems": REDUCED_INDICES[phonems],
        "words": words,
        "phone_spans": phone_spans,
    }
    if with_htk:
        recording["htk"] = read_htk(f"{utterance.stem}.htk", n_frames)
    return recording


def read_audio(path):
    """Read a SPHERE or RIFF file of 16-kHz, mono, 16-bit PCM.

    Returns:
        int16 [samples].

    Raises:
        UserError: another kind of file or audio; less of it than its header announces or than
            one frame.
    """
    content = _read_bytes(path)
    expected = "expected NIST SPHERE or RIFF (.wav) with uncompressed 16-bit PCM"
    if not content.startswith((b"NIST_1A", b"RIFF")):
        raise UserError(f"{path}: starts with {content[:8]!r}, {expected}: copy it again")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.channels != 1:
                raise UserError(f"{path}: {file.channels} channels, expected 1: convert it")
            if file.samplerate != SAMPLE_RATE_HZ:
                raise UserError(
                    f"{path}: {file.samplerate} Hz, expected {SAMPLE_RATE_HZ}: resample it"
                )
            if file.subtype != "PCM_16":
                raise UserError(f"{path}: samples are {file.subtype}, {expected}: convert it")
            audio = file.read(dtype="int16")
    except soundfile.SoundFileError as error:
        problem = getattr(error, "error_string", str(error))
        raise UserError(
            f"{path}: cannot be decoded ({problem}), {expected}: copy it again"
        ) from None
    # The library reads a file that ends too soon without a word, and what follows the samples
    # in a SPHERE file as more samples.
    announced = _announced_samples(content)
    if announced is not None and len(audio) < announced:
        raise UserError(
            f"{path}: truncated, {len(audio)} samples where its header announces {announced}: "
            "copy it again"
        )
    audio = audio[:announced]
    if len(audio) < FRAME_LENGTH_SAMPLES:
        raise UserError(
            f"{path}: {len(audio)} samples, expected one frame of {FRAME_LENGTH_SAMPLES} or more"
        )
    return audio


def _announced_samples(content):
    """How many 16-bit samples the header of a SPHERE or RIFF file announces, None if not said."""
    if content.startswith(b"NIST_1A"):
        match = re.search(rb"^sample_count -i ([0-9]+)", content[:1024], re.MULTILINE)
        return int(match[1]) if match else None
    position = 12  # of a RIFF file's first chunk
    while position + 8 <= len(content):
        name, n_bytes = struct.unpack_from("<4sI", content, position)
        if name == b"data":
            return n_bytes // 2
        position += 8 + n_bytes + n_bytes % 2
    return None


def _read_bytes(path):
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise UserError(f"{path}: is no file, expected one: copy the corpus again")
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise UserError(f"{path}: larger than {MAX_FILE_BYTES} bytes, expected an utterance's")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_spans(path):
    """Read a file whose rows are `start_sample end_sample text` (.phn, .wrd, .txt).

    Returns:
        list of (start_sample, end_sample, text), one a row.

    Raises:
        UserError: a row that is not of this form, or starts or ends before the first sample.
    """
    try:
        lines = _read_bytes(path).decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is {error.object[error.start]:#04x}, expected ASCII "
            "text: copy the file again"
        ) from None
    spans = []
    for number, line in enumerate(lines, 1):
        match = ROW.fullmatch(line.strip())
        if not match:
            raise UserError(
                f"{path}, line {number}: {line[:60]!r}, expected a start sample and an end "
                "sample, from 0 on, and a text: mend the row or copy the file again"
            )
        spans.append((int(match[1]), int(match[2]), match[3]))
    return spans


def read_phones(path, n_samples):
    """Read a `.phn` file and check it against the length of its audio.

    Returns:
        list of (start_sample, end_sample, phone): in order of time, without overlap, within the
        audio (but for END_SLACK_SAMPLES), each one of PHONES_61.

    Raises:
        UserError: a row that is not like that, or no row at all.
    """
    spans = read_spans(path)
    if not spans:
        raise UserError(f"{path}: empty, expected the phones of the utterance: copy it again")
    previous_end = 0
    for number, (start, end, phone) in enumerate(spans, 1):
        problem = None
        if phone not in PHONE_INDEX:
            problem = f"{phone[:60]!r} is none of TIMIT's {len(PHONES_61)} phones"
        elif end <= start:
            problem = "reversed or empty, the end must come after the start"
        elif start < previous_end:
            problem = f"overlaps the row before, which ends at {previous_end}"
        elif start >= n_samples or end > n_samples + END_SLACK_SAMPLES:
            problem = f"out of range, the audio has {n_samples} samples"
        if problem:
            raise UserError(
                f"{path}, line {number}: '{start} {end} {phone[:60]}': {problem}: mend the row or "
                "copy the corpus again"
            )
        previous_end = end
    return spans


def read_htk(path, n_frames):
    """Read an HTK parameter file of float32 features.

    HTK makes a frame only where the audio fills its window, so it has one frame less than the
    other features unless the last one ends with the audio: that frame is then repeated.

    Returns:
        float32 [n_frames, features].

    Raises:
        UserError: no such file, or one of another number of frames.
    """
    content = _read_bytes(path)
    n_stored, period_100ns, n_frame_bytes, kind = struct.unpack(
        ">IIHH", content[:12].ljust(12, b"\0")
    )
    if kind & 0o2000:
        raise UserError(f"{path}: compressed: write it with HTK's SAVECOMPRESSED = F")
    surplus = len(content) - 12 - n_stored * n_frame_bytes
    if surplus not in (0, 2) or n_frame_bytes == 0 or n_frame_bytes % 4:  # 2: HTK's checksum
        raise UserError(
            f"{path}: truncated or no HTK features, {len(content)} bytes where the header "
            f"announces 12 + {n_stored} frames of {n_frame_bytes} bytes: make it again"
        )
    if n_stored == 0 or n_stored not in (n_frames - 1, n_frames):
        raise UserError(
            f"{path}: {n_stored} frames, one every {period_100ns / 1e4:g} ms, expected "
            f"{n_frames - 1} or {n_frames}, one every 10 ms, as the audio has: make it again"
        )
    features = np.frombuffer(content, ">f4", n_stored * n_frame_bytes // 4, offset=12)
    if not np.isfinite(features).all():
        raise UserError(f"{path}: holds infinite values or none: make it again")
    features = features.reshape(n_stored, -1).astype(np.float32)
    return np.pad(features, ((0, n_frames - n_stored), (0, 0)), mode="edge")


def speech_features(audio, log_filter_banks):
    """MFCCs and mel filter banks of an utterance, not normalised.

    Args:
        audio: int16 [samples].
        log_filter_banks: whether filter banks and energy are logarithms.

    Returns:
        (mfccs, filter_banks): float64 [frames, 13] and [frames, 41]. The MFCCs come from 26
        filters of their own; zero energies have become the smallest difference from 1.
    """
    frames = {
        "samplerate": SAMPLE_RATE_HZ,
        "winlen": FRAME_LENGTH_SAMPLES / SAMPLE_RATE_HZ,
        "winstep": FRAME_HOP_SAMPLES / SAMPLE_RATE_HZ,
    }
    samples = audio.astype(np.float64)
    mfccs = python_speech_features.mfcc(samples, **frames)
    filters, energy = python_speech_features.fbank(samples, nfilt=N_MEL_FILTERS, **frames)
    filter_banks = np.column_stack([filters, energy])
    return mfccs, np.log(filter_banks) if log_filter_banks else filter_banks


def label_step_samples(reference_quirks):
    """Samples from one label to the next, see equation (1)."""
    return QUIRKS_LABEL_STEP_SAMPLES if reference_quirks else FRAME_HOP_SAMPLES


def frame_labels(spans, indices, n_frames, step_samples):
    """Labels of all frames, equation (1).

    Args:
        spans: (start_sample, end_sample, name) each; a later one overwrites an earlier one.
        indices: name -> index; frames in no span have index 0.
        n_frames: how many frames to label.
        step_samples: 160, or 161 for the reference's labels.

    Returns:
        int32 [n_frames].
    """
    labels = np.zeros(n_frames, np.int32)
    for start, end, name in spans:
        labels[start // step_samples : end // step_samples] = indices[name]
    return labels


def normalise(dataset):
    """Normalise all features in place by mean and standard deviation of the training set.

    Args:
        dataset: split -> list of recordings, see `process_utterance`.
    """
    for kind in FEATURES:
        if kind not in dataset["train"][0]:
            continue
        mean, scale = mean_and_scale([recording[kind] for recording in dataset["train"]])
        for split in SPLITS:
            for recording in dataset[split]:
                recording[kind] = ((recording[kind] - mean) / scale).astype(np.float32)


def mean_and_scale(features):
    """Mean and standard deviation of each dimension over the frames of several utterances.

    Args:
        features: list of float32 [frames, features].

    Returns:
        (mean, scale): float64 [features]; the scale of a dimension that does not vary is 1.
    """
    n_frames = sum(map(len, features))
    mean = sum(f.sum(axis=0, dtype=np.float64) for f in features) / n_frames
    deviation = np.sqrt(sum(np.square(f - mean).sum(axis=0) for f in features) / n_frames)
    # Below the resolution of float32 there is no deviation but what the sums have lost.
    varies = deviation > np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(varies, deviation, 1.0)


def label_words(dataset, step_samples):
    """Replace the word spans of all recordings by frame labels, in place.

    Returns:
        list of all words in the order in which they first occur, after None for no word.
    """
    indices = {None: 0}
    for split in SPLITS:
        for recording in dataset[split]:
            for _, _, word in recording["words"]:
                indices.setdefault(word, len(indices))
            recording["words"] = frame_labels(
                recording["words"], indices, len(recording["phonems"]), step_samples
            )
    return list(indices)


class _Pickler(pickle._Pickler):
    """Names NumPy's array constructor as NumPy 1 does, so that the reference can read our files.

    NumPy 2 moved it to `numpy._core`, which NumPy 1 lacks, and still answers to the old name.
    """

    def save_global(self, obj, name=None):
        if getattr(obj, "__module__", None) == "numpy._core.multiarray":
            self.save("numpy.core.multiarray")
            self.save(obj.__name__)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def write_dataset(folder, dataset, words):
    """Write the pickles and lists of all splits into an empty folder, see the module's docstring.

    Args:
        folder: where to write.
        dataset: split -> recordings, normalised and with labelled words.
        words: what `label_words` returned.
    """
    lists = {
        "word_list": words,
        "phonem_list": PHONES_61,
        "reduced_phonem_list": PHONES_39,
        "reduced_phn_index_mapping": REDUCED_INDICES.tolist(),
    }
    for split in SPLITS:
        os.mkdir(os.path.join(folder, split))
        for name in PICKLES:
            if name in dataset[split][0]:
                with write_whole(os.path.join(folder, split, f"{name}.pickle")) as file:
                    _Pickler(file, protocol=4).dump([r[name] for r in dataset[split]])
        for name in LISTS:
            write_json(os.path.join(folder, split, f"{name}.json"), lists[name])


def describe(dataset, layout, reference_quirks):
    """How a dataset was made and how large it is, to be written as JSON.

    Returns:
        dict of plain values; `features` maps each kind of features to its size, `splits` each
        split to its numbers of speakers, utterances and frames and its minutes of speech.
    """
    first = dataset["train"][0]
    return {
        "script": SCRIPT,
        "layout": layout,
        "reference_quirks": reference_quirks,
        "label_step_samples": label_step_samples(reference_quirks),
        "log_filter_banks": not reference_quirks,
        "htk": "htk" in first,
        "features": {kind: first[kind].shape[1] for kind in FEATURES if kind in first},
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "frame_length_samples": FRAME_LENGTH_SAMPLES,
        "frame_hop_samples": FRAME_HOP_SAMPLES,
        "splits": {split: _size([r["metadata"] for r in dataset[split]]) for split in SPLITS},
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("numpy", "python_speech_features", "soundfile")
        },
    }


def _size(metadata):
    return {
        "speakers": len({(entry["dr"], entry["speaker"]) for entry in metadata}),
        "utterances": len(metadata),
        "minutes": round(sum(entry["duration"] for entry in metadata) / 60, 2),
        "frames": sum(entry["num_windows"] for entry in metadata),
    }


def summary(settings, dataset):
    """Table of the splits' sizes and of how often each phone occurs, as text."""
    columns = ("speakers", "utterances", "minutes", "frames")
    rows = [("", *columns)]
    for split in SPLITS:
        size = settings["splits"][split]
        rows.append((split, *(f"{size[column]:,}" for column in columns)))
    lines = ["".join(f"{cell:>12}" for cell in row) for row in rows]
    counts = {
        split: collections.Counter(p for r in dataset[split] for _, _, p in r["phone_spans"])
        for split in SPLITS
    }
    total = sum(counts.values(), collections.Counter())
    order = sorted(PHONES_61, key=lambda phone: -total[phone])
    phones = (f"{phone}\xa0{'/'.join(f'{counts[s][phone]}' for s in SPLITS)}" for phone in order)
    lines += ["", f"{len(total)} of {len(PHONES_61)} phones, how often each in {'/'.join(SPLITS)}:"]
    lines += textwrap.wrap(", ".join(phones), 100, break_on_hyphens=False)
    return "\n".join(lines).replace("\xa0", " ")  # a phone and its counts stay on one line


def plot_first_utterance(folder, recording):
    """Draw spectrogram, filter banks and phones of a recording as FIGURE_FILE into a folder."""
    from speech import figures  # here: nothing else in this module needs matplotlib

    metadata = recording["metadata"]
    figures.plot_utterance(
        os.path.join(folder, FIGURE_FILE),
        recording["wav"],
        SAMPLE_RATE_HZ,
        recording["filter_banks"],
        recording["phone_spans"],
        f"{metadata['dr']}/{metadata['speaker']}/{metadata['utterance']}: {metadata['text']}",
    )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
