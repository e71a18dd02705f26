"""A corpus of TIMIT's size from the 128 utterances of `open_speech/`.

    python3 benchmarks/large_corpus.py --output_path=timit_large

For time and memory, not for errors: each utterance is one of the sample's, or two in a row, played
faster or slower as its speaker's name decides, its labels with it. The mean is 3.1 s, as TIMIT's.
Every set is made of the sample's own set. 4,288 utterances, 13 seconds on one core, 430 MB; with
`--unused` 6,300, as on the disc.
"""

import csv
import glob
import os
import zlib

import numpy as np
import soundfile

import measuring  # first: it makes the repository's modules importable
from speech.facts import CORE_TEST_SPEAKERS, DEVELOP_SPEAKERS, SAMPLE_RATE_HZ
from toolbox import command_line
from toolbox.durable_files import write_whole_folder

OPEN_SPEECH = os.path.join(measuring.REPOSITORY, "open_speech")


def read_sample():
    """Utterances of each set: (int16 samples, {kind: rows of start, end in samples, text})."""
    sample = {}
    with open(os.path.join(OPEN_SPEECH, "speakers.tsv"), encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            for path in sorted(glob.glob(os.path.join(OPEN_SPEECH, row["folder"], "*.flac"))):
                samples, _ = soundfile.read(path, dtype="int16")
                texts = {kind: read_rows(f"{path[:-5]}.{kind}") for kind in ("phn", "wrd", "txt")}
                sample.setdefault(row["split"], []).append((samples, texts))
    return sample


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        rows = [line.strip().split(maxsplit=2) for line in file]
    return [(int(start), int(end), text) for start, end, text in rows]


def write_utterance(stem, parts, speed):
    """Write utterances in a row, played `speed` times as fast, as one."""
    samples = np.concatenate([samples for samples, _ in parts])
    starts = np.cumsum([0, *(len(samples) for samples, _ in parts)])
    places = np.arange(0, len(samples) - 1, speed)
    played = np.interp(places, np.arange(len(samples)), samples).round().astype(np.int16)
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    soundfile.write(f"{stem}.wav", played, SAMPLE_RATE_HZ)
    for kind in ("phn", "wrd"):
        with open(f"{stem}.{kind}", "w", encoding="utf-8") as file:
            for first, (_, texts) in zip(starts, parts):
                for start, end, text in texts[kind]:
                    start, end = (min(int((first + t) / speed), len(played)) for t in (start, end))
                    file.write(f"{start} {end} {text}\n")
    with open(f"{stem}.txt", "w", encoding="utf-8") as file:
        file.write(f"0 {len(played)} {' '.join(texts['txt'][0][2] for _, texts in parts)}\n")


def write_corpus(folder, n_train=3696, n_develop=400, n_test=192, unused=False, seed=1):
    """Write a corpus in TIMIT's layout; `unused`: with the sentences and speakers of no set too."""
    random_generator = np.random.default_rng(seed)
    train_speakers = [f"dr{i % 8 + 1}/{'fm'[i % 2]}t{i:03d}" for i in range(462)]
    sample = read_sample()
    names = sorted(DEVELOP_SPEAKERS), sorted(CORE_TEST_SPEAKERS)
    sizes = {"train": n_train, "develop": n_develop, "test": n_test}
    for (split, n), speakers in zip(sizes.items(), (train_speakers, *names)):
        speakers = speakers[: -(-n // 8)]  # with eight sentences each
        stems = [f"{speakers[i % len(speakers)]}/sx{i // len(speakers)}" for i in range(n)]
        if unused:
            stems += [f"{speaker}/{name}" for speaker in speakers for name in ("sa1", "sa2")]
        if unused and split == "test":
            stems += [f"dr{i % 8 + 1}/mu{i:03d}/sx{k}" for i in range(94) for k in range(10)]
        for stem in command_line.progress_bar(stems, desc=split):
            chosen = random_generator.integers(len(sample[split]), size=2)
            parts = [sample[split][i] for i in chosen[: 1 + (random_generator.random() < 0.3)]]
            speed = 0.9 + 0.2 * (zlib.crc32(os.path.dirname(stem).encode()) / 2**32)
            source = "train" if split == "train" else "test"
            write_utterance(os.path.join(folder, source, stem), parts, speed)


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.path("output_path", "timit_large", "folder to write, new")
    define.bool("unused", False, "also what is in no set, 6,300")


def main(flag_values):
    if os.path.exists(flag_values.output_path):
        raise command_line.UserError(f"{flag_values.output_path}: is there: give another name")
    with write_whole_folder(flag_values.output_path) as folder:
        write_corpus(folder, unused=flag_values.unused)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
