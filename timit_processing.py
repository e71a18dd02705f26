"""Turn the TIMIT speech corpus, or one of your own, into pickles of features and frame labels.

    python timit_processing.py                          # timit/ -> timit_processed/
    python timit_processing.py --data_path=open_speech --output_path=open_processed --plot

The corpus lies in one of three layouts (`rename-files.sh` brings any copy of TIMIT to the first):

    train/dr1/fcjf0/sx37.{wav,phn,wrd,txt}, test/...    the LDC's corpus
    dr1-fvmh0/sx26.{wav,phn,wrd,txt}                    the sample that NLTK distributes
    {train,develop,test}/[drN/]speaker/name.*           your own; speakers.tsv wins over folders

Audio is RIFF, RF64, NIST SPHERE or FLAC whatever its name (.wav, .sph, .flac), 16 kHz, mono,
16-bit. `.htk` files beside the audio, if every utterance has one, are read as a third kind of
features. The sentences sa1 and sa2, which every speaker of TIMIT reads, are left out.

Everything is checked before anything is computed: all problems are listed at once, in
OUTPUT.problems.txt too, and nothing else is written; `--skip_bad` goes on without the utterances
that have some. What does no harm is told in notes below the table.

Features and labels: `speech/features.py`, `speech/labels.py`. With `--reference_quirks` labels
step by 161 samples instead of 160 and filter banks are energies instead of their logarithms, as
in the e-prop authors' code.

Written to OUTPUT/{train,develop,test}/, a list with one entry an utterance in each pickle:

    metadata.pickle         dicts, see `speech.recordings.make_recording`
    wav.pickle              int16 [samples]
    mfccs.pickle            float32 [frames, 13], the first the logarithm of the energy
    filter_banks.pickle     float32 [frames, 41], 40 mel filters and, last, the energy
    htk.pickle              float32 [frames, features], where there are `.htk` files
    phonems.pickle          int32 [frames], index into phonem_list.json (61 phones)
    reduced_phonems.pickle  int32 [frames], index into reduced_phonem_list.json (39 classes)
    words.pickle            int32 [frames], index into word_list.json, 0 (null) for no word; None
                            where the words cannot be read
    reduced_phn_index_mapping.json    the reduced class of each of the 61 phones

and to OUTPUT/processing.json how it was made, with mean and scale of every feature: each is
normalised over all frames of the training set. The whole of TIMIT (4,288 utterances) takes about
a minute on two cores and 2 GB of memory, the sample three seconds.
"""

import collections
import contextlib
import importlib.metadata
import json
import os
import sys
import textwrap

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

from speech import checks
from speech.corpus import check_splits, find_corpus
from speech.facts import (
    FRAME_HOP_SAMPLES,
    FRAME_LENGTH_SAMPLES,
    PHONES_39,
    PHONES_61,
    SAMPLE_RATE_HZ,
    SPLITS,
)
from speech.features import FEATURES, normalise
from speech.labels import REDUCED_INDICES, label_step_samples
from speech.plain_pickle import dump
from speech.recordings import label_words, make_dataset, workers
from toolbox import run_lock
from toolbox.command_line import UserError
from toolbox.durable_files import remove_leftovers, write_json, write_whole, write_whole_folder

DATA_PATH = "timit"
OUTPUT_PATH = "timit_processed"

PICKLES = ("metadata", "wav", *FEATURES, "phonems", "reduced_phonems", "words")
LISTS = ("word_list", "phonem_list", "reduced_phonem_list", "reduced_phn_index_mapping")
SCRIPT = "timit_processing.py"
SETTINGS_FILE = "processing.json"
MAX_SETTINGS_BYTES = 2**20
SKIPPED_FILE = "skipped.json"
FIGURE_FILE = "utterance.png"
NOTE_FILE = "corpus_note.txt"  # of a corpus: what has to stand beside every error on it


def define_flags(flag_values):
    """Define this script's flags."""
    define = command_line.Definer(flag_values)
    define.path("data_path", DATA_PATH, "folder of the corpus, read only")
    define.path(
        "output_path",
        OUTPUT_PATH,
        "folder to write; an earlier output of this script there is replaced",
    )
    define.bool(
        "htk",
        None,
        "read the .htk feature files beside the audio; --nohtk ignores them (default: read them "
        "where every utterance has one)",
    )
    define.bool(
        "reference_quirks",
        False,
        "label frames every 161 samples instead of 160 and leave filter banks linear, as the "
        "e-prop authors' code does",
    )
    define.integer(
        "n_processes",
        command_line.available_cores(),
        "processes that work at the same time (default: the cores this one may use)",
        1,
    )
    define.bool(
        "skip_bad",
        False,
        f"leave utterances with problems out and list them in {SKIPPED_FILE}, instead of stopping",
    )
    define.bool(
        "plot",
        False,
        f"write a figure of the first training utterance, {FIGURE_FILE}, into the output folder",
    )


def main(flag_values):
    """Process the corpus as the flags say."""
    data_path, quirks = flag_values.data_path, flag_values.reference_quirks
    check_output_path(flag_values.output_path, data_path)
    corpus = find_corpus(data_path)
    with (
        output_folder(flag_values.output_path) as folder,
        workers(flag_values.n_processes, len(corpus.utterances)) as parallel_map,
    ):
        with_htk, notes = checks.choose_htk(corpus.utterances, flag_values.htk)
        # One line: a reader that goes away after it, as `head -1` does, stops no work.
        print(f"Checking and processing {len(corpus.utterances):,} utterances of {data_path}")
        good, bad, found = checks.check_utterances(parallel_map, corpus.utterances, with_htk)
        notes = [*corpus.notes, *notes, *found]
        missing, found = checks.missing_speakers(
            data_path, corpus.layout, good if flag_values.skip_bad else corpus.utterances
        )
        if flag_values.skip_bad:
            check_splits(data_path, good, len(corpus.utterances))
            notes += [*found, *missing]
        else:
            notes += found
            refuse(flag_values, sum(bad.values(), []) + missing, len(corpus.utterances))
        dataset = make_dataset(parallel_map, good, quirks)
        words = label_words(dataset, label_step_samples(quirks))
        normalisation = normalise(dataset)
        write_dataset(folder, dataset, words)
        settings = describe(dataset, corpus, quirks) | {
            "normalisation": normalisation,
            "corpus_note": corpus_note(data_path),
            "skipped": len(bad),
            "notes": dict(collections.Counter(note.kind for note in notes)),
        }
        write_json(os.path.join(folder, SETTINGS_FILE), settings)
        if flag_values.skip_bad:
            write_json(os.path.join(folder, SKIPPED_FILE), skipped(data_path, bad))
        if flag_values.plot:
            plot_first_utterance(folder, dataset["train"][0], settings["corpus_note"])
    with contextlib.suppress(OSError):  # of an earlier run
        os.remove(problems_path(flag_values.output_path))
    print(summary(settings, dataset))
    for line in [*checks.summary_of_notes(notes), *summary_of_skipped(data_path, bad)]:
        print(line)
    print(f"Written to {flag_values.output_path}")


@contextlib.contextmanager
def output_folder(output_path):
    """Give a folder to fill that becomes `output_path` when the block ends without an error.

    Raises:
        UserError: another process writes there, or nothing can be written there.
    """
    path = os.path.realpath(output_path)  # a link is not to be replaced
    parent, name = os.path.split(path)
    lock_path = os.path.join(parent, f".{name}.lock")  # not inside the folder, which is replaced
    try:
        os.makedirs(parent, exist_ok=True)
        with run_lock.exclusive(lock_path, output_path):
            remove_leftovers(parent, name)
            with write_whole_folder(path) as folder:
                yield folder
    except OSError as error:
        raise UserError(
            f"{output_path}: cannot be written ({error.strerror or error}): make room there or "
            "choose another --output_path"
        ) from None


def problems_path(output_path):
    """The file beside an output folder that lists the problems of its corpus."""
    return f"{os.path.abspath(output_path)}.problems.txt"


def refuse(flag_values, problems, n_utterances):
    """Tell of the problems of a corpus, if there are any, and raise UserError."""
    if not problems:
        return
    path = problems_path(flag_values.output_path)
    goes_on = "--skip_bad goes on without the bad utterances"
    if len(problems) == 1:
        message = f"{problems[0]}; {goes_on}"
    else:
        print("\n".join(checks.report(problems, checks.N_SHOWN)), file=sys.stderr)
        message = (
            f"{flag_values.data_path}: {len(problems):,} problems in {n_utterances:,} utterances, "
            f"listed in {path}, nothing else was written: mend them; {goes_on}"
        )
    try:
        with write_whole(path, "w") as file:
            file.write("\n".join(checks.report(problems)) + "\n")
    except OSError as error:
        message += f" (the list cannot be written: {error.strerror})"
    raise UserError(message)


def skipped(data_path, bad):
    """List of {"utterance", "problems"} of bad utterances, to be written as JSON."""
    return [
        {
            "utterance": os.path.relpath(utterance.stem, data_path).replace(os.sep, "/"),
            "problems": [str(problem) for problem in problems],
        }
        for utterance, problems in bad.items()
    ]


def summary_of_skipped(data_path, bad):
    """Lines that name the utterances left out."""
    names = [entry["utterance"] for entry in skipped(data_path, bad)]
    if not names:
        return []
    more = f" and {len(names) - checks.N_SHOWN:,} more" if len(names) > checks.N_SHOWN else ""
    text = f"{len(names):,} utterances left out ({SKIPPED_FILE}): "
    text += ", ".join(map(command_line.one_line, names[: checks.N_SHOWN])) + more
    return textwrap.wrap(text, 100, break_on_hyphens=False, break_long_words=False)


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
    allowed = {SETTINGS_FILE, SKIPPED_FILE, FIGURE_FILE, *SPLITS}
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
                    dump([r[name] for r in dataset[split]], file)
        for name in LISTS:
            write_json(os.path.join(folder, split, f"{name}.json"), lists[name])


def describe(dataset, corpus, reference_quirks):
    """How a dataset was made and how large it is, to be written as JSON.

    Returns:
        dict of plain values; `features` maps each kind of features to its size, `splits` each
        split to its numbers of speakers, utterances and frames and its minutes of speech.
    """
    first = dataset["train"][0]
    return {
        "script": SCRIPT,
        "layout": corpus.layout,
        "speakers_tsv": corpus.has_speakers_file,
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


def corpus_note(data_path):
    """The first line of the corpus's NOTE_FILE; empty without one."""
    try:
        with open(os.path.join(data_path, NOTE_FILE), encoding="utf-8", errors="replace") as file:
            return command_line.one_line(file.readline(200))
    except OSError:
        return ""


def plot_first_utterance(folder, recording, note):
    """Draw spectrogram, filter banks and phones of a recording as FIGURE_FILE into a folder."""
    from speech import figures  # here: nothing else in this module needs matplotlib

    metadata = recording["metadata"]
    title = f"{metadata['dr']}/{metadata['speaker']}/{metadata['utterance']}: {metadata['text']}"
    figures.plot_utterance(
        os.path.join(folder, FIGURE_FILE),
        recording["wav"],
        SAMPLE_RATE_HZ,
        recording["filter_banks"],
        recording["phone_spans"],
        f"{title}\n{note}" if note else title,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
