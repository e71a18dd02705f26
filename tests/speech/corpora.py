"""Corpora for the tests: files written by hand so that any field can be wrong, and real speech."""

import os
import struct

import numpy as np
import soundfile

from helpers import OPEN_SPEECH
from speech.audio import read_audio

# One speaker of the training, the development and the core-test set.
TRAIN, DEVELOP, TEST = "train/dr1/fcjf0", "test/dr1/faks0", "test/dr1/felc0"
VICTIM = f"{TRAIN}/sx0"
PHN = "0 800 h#\n800 1600 sh\n1600 3000 iy\n"
WRD = "800 3000 she\n"
TXT = "0 3200 She.\n"
N_SAMPLES = 3200  # 0.2 s
N_FRAMES = 19  # 1 + ceil((3200 - 400) / 160) = 18.5, up


def noise(seed=0, n_samples=N_SAMPLES):
    return np.random.default_rng(seed).integers(-2000, 2000, n_samples).astype(np.int16)


def sphere(samples, announced=None, rate_hz=16000, channels=1, byte_format="01", coding="pcm"):
    announced = len(samples) if announced is None else announced
    header = (
        "NIST_1A\n   1024\n"
        f"channel_count -i {channels}\nsample_count -i {announced}\n"
        f"sample_rate -i {rate_hz}\nsample_n_bytes -i 2\nsample_byte_format -s2 {byte_format}\n"
        f"sample_sig_bits -i 16\nsample_coding -s{len(coding)} {coding}\nend_head\n"
    )
    order = {"01": "<i2", "10": ">i2"}[byte_format]
    return header.encode().ljust(1024) + samples.astype(order).tobytes()


def riff(samples, announced_bytes=None, rate_hz=16000, channels=1, bits=16, coding=1):
    data = samples.tobytes()
    frame_bytes = channels * bits // 8
    form = (coding, channels, rate_hz, rate_hz * frame_bytes, frame_bytes, bits)
    layout = struct.pack("<HHIIHH", *form)
    chunks = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout
    chunks += b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk, padded to a whole word
    size = len(data) if announced_bytes is None else announced_bytes
    chunks += b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def encoded(path, samples, form, subtype="PCM_16", rate_hz=16000):
    """Bytes of a file that soundfile has written."""
    soundfile.write(path, samples, rate_hz, subtype, format=form)
    with open(path, "rb") as file:
        return file.read()


def htk(frames, dtype=">f4", kind=9):
    """HTK parameter file: number of frames, 100-ns period, bytes a frame, kind, then the data."""
    data = frames.astype(dtype)
    return struct.pack(">IIHH", len(data), 100000, data[:1].nbytes, kind) + data.tobytes()


def write_utterance(corpus, stem, seed=0):
    stem = corpus / stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.wav").write_bytes(sphere(noise(seed)))
    for suffix, text in ((".phn", PHN), (".wrd", WRD), (".txt", TXT)):
        stem.with_name(stem.name + suffix).write_text(text)


def write_corpus(corpus, n_train=2, n_other=1):
    counts = {TRAIN: n_train, DEVELOP: n_other, TEST: n_other}
    for offset, (speaker, count) in enumerate(counts.items()):
        for number in range(count):
            write_utterance(corpus, f"{speaker}/sx{number}", seed=1000 * offset + number)
    return corpus


def write_htk(corpus, n_frames=N_FRAMES, width=5):
    rng = np.random.default_rng(1)
    for path in sorted(corpus.rglob("*.wav")):
        path.with_suffix(".htk").write_bytes(htk(rng.normal(3, 2, (n_frames, width))))


def speech(name="train/dr1/f0120/u001200098"):
    """Path without suffix of an utterance of the open sample, and its int16 [samples]."""
    stem = os.path.join(OPEN_SPEECH, name)
    return stem, soundfile.read(f"{stem}.flac", dtype="int16")[0]


def recorded_audio(recorded, timit_sample):
    """Index, stem and audio of each utterance of which features were recorded."""
    for index, name in enumerate(recorded["utterances"]):
        stem = os.path.join(timit_sample, str(name))
        yield index, stem, read_audio(f"{stem}.wav")[0]
